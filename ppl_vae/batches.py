"""Any data a person may bring, as batches of tensors.

A data set of ours, a tensor, an array, a tuple of them, a PyTorch `Dataset` or a `DataLoader` becomes a
`Source`: its length, and tuples of tensors that a program is called with. What fits in memory is held as
tensors and batched by index; only a `DataLoader` is iterated as it is. Where some labels are not known (-1),
the data come in batches of two kinds: (x, y), and (x,) alone.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, RandomSampler, TensorDataset, default_collate

from ppl_vae.errors import InputError
from ppl_vae.pair import Pair, call_signature, program_name
from ppl_vae.splits import Split, is_known
from ppl_vae.strings import StringSplit

Batch = tuple[Tensor, ...]


class Source(Protocol):
    """Data that can be gone through in batches."""

    def __len__(self) -> int:
        """How many data there are."""

    def batches(self, batch_size: int, *, shuffle: bool = False) -> Iterator[Batch]:
        """Yield tuples of tensors of `batch_size` data each (the last may be smaller)."""


class TensorSource:
    """Tensors held in memory, batched by index."""

    def __init__(self, tensors: Batch) -> None:
        self.tensors = tensors

    def __len__(self) -> int:
        return len(self.tensors[0])

    def batches(self, batch_size: int, *, shuffle: bool = False) -> Iterator[Batch]:
        """Yield batches in order, or in a random order drawn from PyTorch's global generator."""
        for index in _indices(len(self), batch_size, shuffle):
            yield tuple(t[index] for t in self.tensors)


class SplitSource:
    """A split of a data set of ours: binarized freshly in training, read from disk if it is large.

    Args:
        split: the data.
        with_y: yield (x, y) where there are labels, else (x,).
    """

    def __init__(self, split: Split | StringSplit, with_y: bool) -> None:
        self.split, self.with_y = split, with_y and split.labels is not None

    def __len__(self) -> int:
        return len(self.split)

    def of_levels(self) -> "SplitSource":
        """Return the same data before they were dequantized."""
        split = self.split
        if isinstance(split, StringSplit):
            images, pool = (replace(part, dequantize=None) for part in (split.images, split.pool))
            return SplitSource(replace(split, images=images, pool=pool), self.with_y)
        return SplitSource(replace(split, dequantize=None), self.with_y)

    def batches(self, batch_size: int, *, shuffle: bool = False) -> Iterator[Batch]:
        """Yield batches in order with the split's fixed values, or shuffled with fresh draws."""
        split = self.split
        x_of, y_of = (split.draw, split.draw_y) if shuffle else (split.take, split.take_y)
        for index in _indices(len(self), batch_size, shuffle):
            yield (x_of(index), y_of(index)) if self.with_y else (x_of(index),)


class LoaderSource:
    """A PyTorch DataLoader: its own batches, in its own order."""

    def __init__(self, loader: DataLoader[Any]) -> None:
        self.loader = loader

    def __len__(self) -> int:
        return len(self.loader.dataset)  # type: ignore[arg-type]

    def batches(self, batch_size: int, *, shuffle: bool = False) -> Iterator[Batch]:
        """Yield the loader's batches as they are to shuffle, else in parts of at most `batch_size`."""
        for batch in self.loader:
            tensors = _as_tuple(batch)
            size = len(tensors[0]) if shuffle else batch_size
            yield from zip(*(t.split(size) for t in tensors), strict=True)


class PartlyLabelled:
    """Data of which some have labels: batches (x, y) of these, and batches (x,) of the others.

    Shuffled, there are as many of one kind as of the other, the rarer kind in smaller batches, so that an optimizer
    hears of the labels all the time, not now and then.

    Args:
        labelled: those with labels.
        unlabelled: the others, without.
    """

    def __init__(self, labelled: Source, unlabelled: Source) -> None:
        kinds = {"labelled": labelled, "unlabelled": unlabelled}
        self.kinds = {kind: source for kind, source in kinds.items() if len(source)}

    def __len__(self) -> int:
        return sum(map(len, self.kinds.values()))

    def batches(self, batch_size: int, *, shuffle: bool = False) -> Iterator[Batch]:
        """Yield all labelled batches, then all others; or shuffled batches, the two kinds in a random order."""
        sources = list(self.kinds.values())
        most = max(-(-len(source) // batch_size) for source in sources)
        sizes = [-(-len(source) // most) if shuffle else batch_size for source in sources]
        counts = [-(-len(source) // size) for source, size in zip(sources, sizes, strict=True)]
        order = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
        if shuffle:
            order = order[torch.randperm(len(order))]
        batches = [source.batches(size, shuffle=shuffle) for source, size in zip(sources, sizes, strict=True)]
        for kind in order.tolist():
            yield next(batches[kind])


def as_source(data: Any, pair: Pair, *, ordered: bool = False) -> Source:
    """Turn what a person passed as data into a source of batches that fits the model.

    Args:
        data: what the person passed.
        pair: the programs that will be called with it.
        ordered: refuse data whose order changes from pass to pass, and data of which only some have labels.

    Raises:
        InputError: no data, data of different lengths, of a kind that is not known, or more or fewer
            tensors than the model takes; labels that are partly missing where the programs need them.

    >>> from ppl_vae.models import VAE
    >>> len(as_source(torch.zeros(5, 1, 8, 8), Pair(VAE((1, 8, 8)))))
    5
    """
    source = _source(data, pair)
    if pair.takes_labels():
        source = _by_kind(source)
    if ordered and isinstance(source, LoaderSource) and isinstance(source.loader.sampler, RandomSampler):
        raise InputError("Expected data in a fixed order; got a DataLoader that shuffles. Pass shuffle=False to it.")
    if len(source) == 0:
        raise InputError("Expected at least one datum; got an empty data set.")
    if isinstance(source, PartlyLabelled):
        _check_partly_labelled(source, pair, ordered)
    first = next(iter(source.batches(1)))
    try:
        call_signature(pair.model).bind(*first)
    except TypeError as problem:
        raise InputError(
            f"Expected data that fits the model's call {program_name(pair.model)}{call_signature(pair.model)}; "
            f"got {len(first)} tensor(s) for each datum ({problem}). Pass just the tensors it takes, x first."
        ) from None
    return source


def fingerprint(source: Source) -> str:
    """Return a hash of the data in their order: equal for equal numbers, however they are batched.

    Dequantized data have that of their levels, which they are made of.
    """
    if isinstance(source, SplitSource):
        source = source.of_levels()
    if isinstance(source, PartlyLabelled):
        return "".join(kind + fingerprint(part) for kind, part in source.kinds.items())
    digests: list[Any] = []
    for batch in source.batches(1000):
        digests = digests or [hashlib.sha256(f"{t.dtype}{tuple(t.shape[1:])}".encode()) for t in batch]
        for digest, tensor in zip(digests, batch, strict=True):
            digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return "".join(digest.hexdigest()[:16] for digest in digests)


def _source(data: Any, pair: Pair) -> Source:
    if isinstance(data, Split | StringSplit):
        return SplitSource(data, with_y=pair.takes_labels())
    if isinstance(data, DataLoader):
        return LoaderSource(data)
    if isinstance(data, TensorDataset):
        return TensorSource(data.tensors)
    if isinstance(data, list) and not all(isinstance(part, Tensor | np.ndarray) for part in data):
        data = np.asarray(data)
    if isinstance(data, Tensor | np.ndarray | tuple | list):
        tensors = _as_tuple(data)
        if len({len(t) for t in tensors}) > 1:
            raise InputError(
                f"Expected tensors of one length; got lengths {', '.join(str(len(t)) for t in tensors)}. "
                f"Each must hold one entry for each datum."
            )
        return TensorSource(tensors)
    if isinstance(data, Dataset) and hasattr(data, "__len__"):
        if len(data) == 0:
            raise InputError("Expected at least one datum; got an empty data set.")
        return TensorSource(_as_tuple(default_collate([data[i] for i in range(len(data))])))
    raise InputError(
        f"Expected data to be a split of ppl_vae.data, a tensor, a tuple of tensors, or a PyTorch Dataset or "
        f"DataLoader; got {type(data).__name__}."
        + (" Pass .to_numpy() of it." if hasattr(data, "to_numpy") else "")
        + (" Pass one of its splits: .train, .validation or .test." if hasattr(data, "train") else "")
    )


def _by_kind(source: Source) -> Source:
    """Return a source of labelled and unlabelled batches if some of its labels are not known."""
    if isinstance(source, SplitSource) and isinstance(source.split, Split) and source.split.y is not None:
        split = source.split
        if not bool(is_known(source.split.y).all()):
            return PartlyLabelled(SplitSource(split.known(), True), SplitSource(split.unknown(), False))
    if isinstance(source, TensorSource) and len(source.tensors) == 2:
        x, y = source.tensors
        known = is_known(y)
        if not bool(known.all()):
            return PartlyLabelled(TensorSource((x[known], y[known])), TensorSource((x[~known],)))
    return source


def _check_partly_labelled(source: PartlyLabelled, pair: Pair, ordered: bool) -> None:
    """Refuse labels that are partly missing where log P(x | y) is asked for, or where a program cannot do without."""
    missing = f"{len(source.kinds['unlabelled'])} of {len(source)} data without a label (-1)"
    if ordered:
        raise InputError(
            f"Expected a label for each datum, or data without labels; got {missing}. Pass x alone (split.x) for "
            f"log P(x), or the labelled part (split.known()) for that given y."
        )
    for program in pair.programs.values():
        try:
            call_signature(program).bind(None)
        except TypeError as problem:
            raise InputError(
                f"Expected programs that can be called with x alone; got {missing}, and "
                f"{program_name(program)}{call_signature(program)} ({problem}). Give y a default of None and sample "
                f"it where it is None, or pass the labelled part only (split.known())."
            ) from None


def _as_tuple(batch: Any) -> Batch:
    parts = batch if isinstance(batch, tuple | list) else (batch,)
    tensors = []
    for part in parts:
        if isinstance(part, np.ndarray) and part.dtype.kind not in "biuf":
            raise InputError(f"Expected numbers; got an array of dtype {part.dtype}. Convert it to float first.")
        try:
            tensor = torch.as_tensor(part, dtype=_float_dtype(part))
        except (TypeError, ValueError, RuntimeError) as problem:
            raise InputError(f"Expected tensors of numbers; got {type(part).__name__} ({problem}).") from None
        if tensor.dim() == 0:
            raise InputError("Expected tensors of shape [N, ...]; got a single number.")
        tensors.append(tensor)
    if not tensors:
        raise InputError("Expected at least one tensor; got an empty tuple.")
    return tuple(tensors)


def _indices(num_data: int, batch_size: int, shuffle: bool) -> Iterator[Tensor]:
    # All data in one batch keep their order: a guide may have parameters for each of them.
    order = torch.randperm(num_data) if shuffle and batch_size < num_data else torch.arange(num_data)
    yield from order.split(batch_size)


def _float_dtype(part: Any) -> torch.dtype | None:
    # A tensor keeps its dtype, since its owner chose it; NumPy's default of 64 bits is nobody's choice.
    return torch.get_default_dtype() if isinstance(part, np.ndarray) and part.dtype.kind == "f" else None
