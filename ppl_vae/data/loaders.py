"""What PyTorch has for data that come in batches of their own: a `DataLoader`, and a stream (`IterableDataset`).

How many come, and whether in a fixed order, is found by going through them: through the indices where there are some,
which costs next to nothing, else through the data. Nothing is known by the name of a class but that some are random.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import torch
from torch.utils.data import (
    DataLoader,
    IterableDataset,
    RandomSampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
    default_collate,
)

from ppl_vae.data.arrays import Batch, as_tuple, not_collated
from ppl_vae.data.sources import Source, converted
from ppl_vae.errors import InputError
from ppl_vae.utils.digests import bytes_of
from ppl_vae.utils.faults import reading
from ppl_vae.utils.rng import seeded

RANDOM = (RandomSampler, SubsetRandomSampler, WeightedRandomSampler)
FEW = 20  # indices that a random order may give twice in the same order, by chance


class LoaderSource(Source):
    """A PyTorch DataLoader: its own batches, in its own order.

    Args:
        loader: what gives batches.
        names: what the model's arguments are called: a batch may be a dict of them.
        dtypes: those that the tensors of a batch are converted to; none leaves them as they are.
    """

    own_batches = True  # whatever size is asked for in training

    def __init__(
        self, loader: DataLoader[Any], names: Sequence[str] = (), dtypes: Sequence[torch.dtype] | None = None
    ) -> None:
        super().__init__()
        self.loader, self.names, self.dtypes = loader, names, dtypes

    def __len__(self) -> int:
        return sum(self.sizes)

    @cached_property
    def sizes(self) -> list[int]:
        """How many data each batch of a pass holds."""
        with self._undisturbed():
            if self._indices is not None and self.loader.collate_fn is default_collate:
                return [len(batch) for batch in self._indices()]
            return [len(batch[0]) for batch in self._pass(self.loader)]

    def num_batches(self, batch_size: int) -> int:
        """Return how many batches the loader gives."""
        return len(self.sizes)

    def batches(self, batch_size: int, *, shuffle: bool = False) -> Iterator[Batch]:
        """Yield the loader's batches as they are to shuffle, else in parts of at most `batch_size`."""
        for tensors in self._pass(self.loader):
            size = len(tensors[0]) if shuffle else batch_size
            yield from zip(*(t.split(size) for t in tensors), strict=True)

    def examples(self, batch_size: int) -> Iterator[tuple[Batch, int]]:
        """Yield the first batch; a generator of the loader's own is left as it was."""
        with self._generators_kept():
            first = next(self.batches(batch_size, shuffle=True))
        yield first, len(self.sizes)

    def cast(self, dtypes: Sequence[torch.dtype]) -> "LoaderSource":
        """Return the same data, each tensor in one of these dtypes."""
        return LoaderSource(self.loader, self.names, dtypes)

    def check_order(self) -> None:
        """Refuse data that come in another order, or with other numbers, each time."""
        with self._undisturbed():
            order = self._indices
            if order is None:
                if _digest(self._pass(self.loader)) != _digest(self._pass(self.loader)):
                    raise InputError(
                        "Expected data in a fixed order; got a stream that gives others, or another order, each time. "
                        "Let it give the same, or read it once: pass the tensors."
                    )
                return
            name = self._random_sampler()
            orders = [list(order())] if name is None else []
            again = FEW if orders and sum(map(len, orders[0])) <= FEW else 1
            if name is not None or any(list(order()) != orders[0] for _ in range(again)):
                raise InputError(
                    f"Expected data in a fixed order; got a DataLoader that shuffles, by its {name or 'own sampler'}: "
                    f"nobody could tell which result is of which datum. Pass shuffle=False to it, or the data set "
                    f"itself (loader.dataset)."
                )
            first = (_digest(iter([next(self._pass(self.loader), ())])) for _ in range(2))
            if next(first) != next(first):
                raise InputError(
                    "Expected the same data each time; got a DataLoader whose data set gives other numbers (a random "
                    "transform). Leave that out, or read the data once: pass the data set itself (loader.dataset)."
                )

    @property
    def _indices(self) -> Callable[[], Iterator[Sequence[Any]]] | None:
        """What gives the indices of each batch of a pass; None where there are none: of a stream, of ready batches."""
        batch_sampler = self.loader.batch_sampler
        if batch_sampler is None or isinstance(self.loader.dataset, IterableDataset):
            return None
        return lambda: _listed(batch_sampler)

    def _samplers(self) -> list[Any]:
        outer = self.loader.batch_sampler
        return [s for s in (self.loader.sampler, outer, getattr(outer, "sampler", None)) if s is not None]

    def _random_sampler(self) -> str | None:
        return next((type(s).__name__ for s in self._samplers() if isinstance(s, RANDOM)), None)

    def _pass(self, loader: DataLoader[Any]) -> Iterator[Batch]:
        """Yield the batches of a loader as tensors, as many of them in each."""
        count = 0
        with reading(f"data of a {type(loader.dataset).__name__}"):
            try:
                for batch in loader:
                    tensors = as_tuple(batch, self.names)
                    if count not in (0, len(tensors)):
                        raise InputError(
                            f"Expected batches of as many tensors each; got one of {count} and one of {len(tensors)}. "
                            f"Let the data set return the same for each datum."
                        )
                    count = len(tensors)
                    yield converted(tensors, self.dtypes)
            except (TypeError, RuntimeError) as problem:
                if not any(words in str(problem) for words in ("default_collate", "stack expects each tensor")):
                    raise
                dataset: Any = loader.dataset
                raise not_collated([next(iter(dataset))], problem) from None

    @contextmanager
    def _generators_kept(self) -> Iterator[None]:
        own = [getattr(owner, "generator", None) for owner in (self.loader, *self._samplers())]
        states = [(generator, generator.get_state()) for generator in own if generator is not None]
        try:
            yield
        finally:
            for generator, state in states:
                generator.set_state(state)

    @contextmanager
    def _undisturbed(self) -> Iterator[None]:
        """Within it, the data can be gone through, and no random state is another one afterwards."""
        with self._generators_kept(), seeded(0):
            yield


class StreamSource(LoaderSource):
    """A PyTorch IterableDataset of single data, in its own order, in batches of any size."""

    own_batches = False

    def num_batches(self, batch_size: int) -> int:
        """Return in how many batches the stream is gone through."""
        return Source.num_batches(self, batch_size)

    def batches(self, batch_size: int, *, shuffle: bool = False) -> Iterator[Batch]:
        """Yield batches in the order of the stream."""
        return self._pass(DataLoader(self.loader.dataset, batch_size=batch_size))

    def examples(self, batch_size: int) -> Iterator[tuple[Batch, int]]:
        """Yield a batch of each shape."""
        return Source.examples(self, batch_size)

    def cast(self, dtypes: Sequence[torch.dtype]) -> "StreamSource":
        """Return the same data, each tensor in one of these dtypes."""
        return StreamSource(self.loader, self.names, dtypes)


def _listed(batch_sampler: Iterable[Any]) -> Iterator[list[Any]]:
    """Yield the indices of each batch."""
    with reading(f"indices of a {type(batch_sampler).__name__}"):
        yield from map(list, batch_sampler)


def _digest(batches: Iterator[Batch]) -> str:
    digest = hashlib.sha256()
    for batch in batches:
        for tensor in batch:
            digest.update(bytes_of(tensor))
    return digest.hexdigest()
