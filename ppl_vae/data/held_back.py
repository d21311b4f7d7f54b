"""Data of which only a part is given: what is not, is missing (NaN), as for x_B of log P(x_A | x_B)."""

import os
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from ppl_vae.conditions.masks import REGIONS, mask_of, read_mask
from ppl_vae.data.arrays import Batch
from ppl_vae.data.sources import Source
from ppl_vae.errors import InputError, shown
from ppl_vae.utils.arrays import tensor_of


def given_mask(given: Any, num_data: int, event_shape: Sequence[int]) -> Tensor:
    """Return which numbers of each datum are given, [N, *event_shape].

    Args:
        given: a mask of the shape of a datum or of all data, or what broadcasts to them: true, or 1, where a number is
            given. Also the name of a region ("quadrant", "middle_column"), or of a .npy file with a mask.
        num_data, event_shape: N, and the shape of a datum.

    Raises:
        InputError: no such file, another shape, other values than zeros and ones, or a mask that gives nothing, or all.

    >>> given_mask([True, False], 3, (2,)).tolist()
    [[True, False], [True, False], [True, False]]
    """
    shape = (num_data, *event_shape)
    if isinstance(given, str | os.PathLike):
        given = mask_of(given, torch.Size(event_shape)) if given in REGIONS else read_mask(given)
    try:
        found = tensor_of(given)
        mask = torch.broadcast_to(found.detach().cpu(), shape)
    except (InputError, RuntimeError):
        plain = not isinstance(given, Tensor) or not given.is_nested
        got = tuple(given.shape) if plain and hasattr(given, "shape") else f"{type(given).__name__} {shown(given)}"
        raise InputError(
            f"Expected given to be a mask of the shape of a datum, {tuple(event_shape)}, or of all data, {shape}; got "
            f"{got}. Mark what is given with True."
        ) from None
    if not bool(((found == 0) | (found == 1)).all()):
        raise InputError("Expected given to be a mask of zeros and ones; got other values. Mark what is given with 1.")
    if found.bool().all() or not found.bool().any():
        which, fix = ("all", "Leave some of it out") if found.numel() and found.bool().all() else ("nothing", "")
        raise InputError(
            f"Expected given to leave some numbers to be asked for, and to give some; got a mask that gives {which}. "
            f"{fix or 'Leave given out for log P(x)'}."
        )
    return mask.bool()


def only_given(x: Tensor, mask: Tensor) -> Tensor:
    """Return x, of which what is not given is missing.

    >>> only_given(torch.tensor([1.0, 2.0]), torch.tensor([True, False]))
    tensor([1., nan])
    """
    return torch.where(mask.to(x.device), x, torch.nan)


class HeldBack(Source):
    """A source in which x holds what is given only, and the other tensors are as they are; in a fixed order."""

    def __init__(self, source: Source, mask: Tensor) -> None:
        super().__init__()
        self.source, self.mask = source, mask

    def __len__(self) -> int:
        return len(self.source)

    def batches(self, batch_size: int, *, shuffle: bool = False) -> Iterator[Batch]:
        """Yield batches in the order of the source.

        Raises:
            InputError: an order that is shuffled, in which a mask would be that of other data.
        """
        if shuffle:
            raise InputError(
                "Expected data in a fixed order, as each has its own mask; got shuffle=True. Leave it out."
            )
        start = 0
        for x, *others in self.source.batches(batch_size):
            yield (only_given(x, self.mask[start : start + len(x)]), *others)
            start += len(x)

    def cast(self, dtypes: Sequence[torch.dtype]) -> "HeldBack":
        """Return the same of the source in these dtypes."""
        return HeldBack(self.source.cast(dtypes), self.mask)
