"""Sources of batches: data held in memory, splits of ours, and data of which some have labels.

What fits in memory is batched by index; a `DataLoader` is iterated as it is (`ppl_vae.data.loaders`). Where some labels
are not known (-1), the data come in batches of two kinds: (x, y), and (x,) alone.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ppl_vae.data.arrays import Batch
from ppl_vae.data.digit_strings import Part
from ppl_vae.data.splits import is_known

NUMBERS_AT_ONCE = 2**20  # 4 MB in single precision


class Holes(NamedTuple):
    """What is missing in one of the tensors of the data."""

    number: int  # of values
    row: int  # the first datum with one
    counts: Tensor  # in how many data each value is missing, [*event_shape]
    patterns: tuple[Tensor, ...]  # those of some data, in which each of these is missing, the fullest first

    @property
    def where(self) -> Tensor:
        """Which values of a datum are missing in some datum, [*event_shape]."""
        return self.counts > 0


class Source(ABC):
    """Data that can be gone through in batches; what passes over all of them have found is kept with them."""

    def __init__(self) -> None:
        self.holes: dict[int, Holes] | None = None  # by the position of a tensor; None until somebody has looked
        self.inside: list[tuple[int, Any]] = []  # supports that hold all values of a tensor, with its position
        self.kinds: dict[str, Source] = {}  # where labels are partly known: the data with them, and those without

    @abstractmethod
    def __len__(self) -> int:
        """How many data there are."""

    @abstractmethod
    def batches(self, batch_size: int, *, shuffle: bool = False) -> Iterator[Batch]:
        """Yield tuples of tensors of `batch_size` data each (the last may be smaller); clone what is to be kept."""

    def examples(self, batch_size: int) -> Iterator[tuple[Batch, int]]:
        """Yield a batch of each shape that shuffled batches have, and how many there are of it."""
        whole, rest = divmod(len(self), batch_size)
        for size, count in ((batch_size, whole), (rest, 1)):
            if size and count:
                yield next(self.batches(size)), count

    def num_batches(self, batch_size: int) -> int:
        """Return in how many batches the data are gone through."""
        return -(-len(self) // batch_size)

    def to(self, device: torch.device) -> "Source":
        """Return the data held on a device; what comes in batches of its own goes there with each of them."""
        return self

    def by_labels(self) -> "Source":
        """Return the data as `PartlyLabelled` if some of their labels, and not all, are known."""
        return self

    @abstractmethod
    def cast(self, dtypes: Sequence[torch.dtype]) -> "Source":
        """Return the same data, each tensor of a batch in one of these dtypes."""


class TensorSource(Source):
    """Tensors held in memory, batched by index."""

    def __init__(self, tensors: Batch) -> None:
        super().__init__()
        self.tensors = tensors

    def __len__(self) -> int:
        return len(self.tensors[0])

    def batches(self, batch_size: int, *, shuffle: bool = False) -> Iterator[Batch]:
        """Yield batches in order, or in a random order drawn from PyTorch's global generator."""

        def chosen(index: Tensor) -> Batch:
            return tuple(t.detach().index_select(0, index.to(t.device)) for t in self.tensors)

        return _in_batches(chosen, len(self), batch_size, shuffle, sum(t.shape[1:].numel() for t in self.tensors))

    def to(self, device: torch.device) -> "TensorSource":
        """Return the tensors on a device; those that are there are not copied."""
        return TensorSource(tuple(t.to(device) for t in self.tensors))

    def by_labels(self) -> Source:
        """Return (x, y) and (x,) apart where some numbers of y are labels and some are not known."""
        if len(self.tensors) != 2 or bool(is_known(self.tensors[1]).all()):
            return self
        x, y = self.tensors
        known = is_known(y)
        return PartlyLabelled(TensorSource((x[known], y[known])), TensorSource((x[~known],)))

    def cast(self, dtypes: Sequence[torch.dtype]) -> "TensorSource":
        """Return the tensors in these dtypes; those that are already are not copied."""
        return TensorSource(converted(self.tensors, dtypes))


class SplitSource(Source):
    """A split of a data set of ours, (x, y) or (x,): binarized freshly in training, read from disk if it is large."""

    def __init__(self, split: Part, with_y: bool, dtypes: Sequence[torch.dtype] | None = None) -> None:
        super().__init__()
        self.split, self.with_y, self.dtypes = split, with_y and split.labels is not None, dtypes

    def __len__(self) -> int:
        return len(self.split)

    def by_labels(self) -> Source:
        """Return the data with labels, and those without, apart."""
        if not self.split.partly_labelled:
            return self
        return PartlyLabelled(SplitSource(self.split.known(), True), SplitSource(self.split.unknown(), False))

    def batches(self, batch_size: int, *, shuffle: bool = False) -> Iterator[Batch]:
        """Yield batches in order with the split's fixed values, or shuffled with fresh draws."""
        split = self.split
        x_of, y_of = (split.draw, split.draw_y) if shuffle else (split.take, split.take_y)

        def chosen(index: Tensor) -> Batch:
            return converted((x_of(index), y_of(index)) if self.with_y else (x_of(index),), self.dtypes)

        return _in_batches(chosen, len(self), batch_size, shuffle, split.num_images * split.event_shape.numel())

    def to(self, device: torch.device) -> "SplitSource":
        """Return the split with its values on a device, as far as they can be held there."""
        return self if device.type == "cpu" else SplitSource(self.split.to(device), self.with_y, self.dtypes)

    def cast(self, dtypes: Sequence[torch.dtype]) -> "SplitSource":
        """Return the split, whose batches will come in these dtypes."""
        return SplitSource(self.split, self.with_y, dtypes)


class PartlyLabelled(Source):
    """Data of which some have labels: batches (x, y) of these, and batches (x,) of the others.

    Shuffled, there are as many of one kind as of the other, the rarer kind in smaller batches, so that an optimizer
    hears of the labels all the time.
    """

    def __init__(self, labelled: Source, unlabelled: Source) -> None:
        super().__init__()
        self.labelled, self.unlabelled = labelled, unlabelled
        self.kinds = {k: s for k, s in (("labelled", labelled), ("unlabelled", unlabelled)) if len(s)}

    def __len__(self) -> int:
        return sum(map(len, self.kinds.values()))

    def batches(self, batch_size: int, *, shuffle: bool = False) -> Iterator[Batch]:
        """Yield all labelled batches, then all others; or shuffled batches, the two kinds in a random order."""
        sizes = self._sizes(batch_size) if shuffle else [batch_size] * len(self.kinds)
        both = list(zip(self.kinds.values(), sizes, strict=True))
        order = torch.cat([torch.full((-(-len(source) // size),), i) for i, (source, size) in enumerate(both)])
        if shuffle:
            order = order[torch.randperm(len(order))]
        batches = [source.batches(size, shuffle=shuffle) for source, size in both]
        for kind in order.tolist():
            yield next(batches[kind])

    def examples(self, batch_size: int) -> Iterator[tuple[Batch, int]]:
        """Yield those of each kind."""
        for source, size in zip(self.kinds.values(), self._sizes(batch_size), strict=True):
            yield from source.examples(size)

    def num_batches(self, batch_size: int) -> int:
        """Return in how many batches both kinds are gone through."""
        both = zip(self.kinds.values(), self._sizes(batch_size), strict=True)
        return sum(source.num_batches(size) for source, size in both)

    def to(self, device: torch.device) -> "PartlyLabelled":
        """Return both kinds on a device."""
        return PartlyLabelled(self.labelled.to(device), self.unlabelled.to(device))

    def cast(self, dtypes: Sequence[torch.dtype]) -> "PartlyLabelled":
        """Return both kinds in these dtypes, those of (x, y)."""
        labelled = self.labelled.cast(dtypes) if len(self.labelled) else self.labelled
        return PartlyLabelled(labelled, self.unlabelled.cast(dtypes[:1]))

    def _sizes(self, batch_size: int) -> list[int]:
        most = max(-(-len(source) // batch_size) for source in self.kinds.values())
        return [-(-len(source) // most) for source in self.kinds.values()]


def converted(batch: Batch, dtypes: Sequence[torch.dtype] | None) -> Batch:
    """Return a batch with each tensor in one of these dtypes; as it is for none."""
    return batch if dtypes is None else tuple(t.to(dtype) for t, dtype in zip(batch, dtypes, strict=True))


def _in_batches(
    chosen: Callable[[Tensor], Batch], num_data: int, batch_size: int, shuffle: bool, numel: int
) -> Iterator[Batch]:
    """Yield batches of the data that `chosen` gives for an index, some batches of `numel` numbers a datum at once.

    Found and drawn for each step of training alone, they would cost a tenth of it: what finds them is no longer in the
    processor's cache. A batch is a view of all that were found with it.
    """
    # All data in one batch keep their order: a guide may have parameters for each of them.
    order = torch.randperm(num_data) if shuffle and batch_size < num_data else torch.arange(num_data)
    batches_at_once = max(1, NUMBERS_AT_ONCE // max(1, batch_size * numel))
    for index in order.split(batches_at_once * batch_size):
        yield from zip(*(t.split(batch_size) for t in chosen(index)), strict=True)
