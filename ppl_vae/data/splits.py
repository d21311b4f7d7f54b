"""One part of a data set: what is stored, what training sees of it, and what everything else sees.

    x_i = 1[u_i < grey_i]  (dynamic binarization),    x_i = (level_i + u_i) / L  (dequantization of L grey levels)

All draw u ~ U(0, 1) afresh in training, and have one fixed draw, which belongs to the datum, for everything else.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from ppl_vae.data.noise import _SEED, LEVELS, MISSING, PIXELS, THRESHOLDS, bernoulli, bernoulli_of_bytes, fixed_noise
from ppl_vae.errors import InputError, real_number, shown
from ppl_vae.missing import filled, missing_as
from ppl_vae.utils.arrays import tensor_of

Binarize = Literal["dynamic", "random_threshold", "threshold"] | None
Dequantize = Literal["uniform"] | None
HIDDEN = -1  # the label of a datum whose label is not known


@dataclass(frozen=True, repr=False, eq=False)
class Split:
    """One part of a data set: `.x` [N, *event_shape] and, where there are labels, `.y` [N]."""

    values: Tensor | np.ndarray[Any, Any]  # what is stored, [M, *event_shape]: a tensor, or a memory-mapped array
    rows: Tensor  # which of these belong to the split, [N]
    y: Tensor | None = None  # labels, [N]
    scale: float = 1.0  # what a stored value is divided by
    binarize: Binarize = None
    dequantize: Dequantize = None
    missing: float | None = None  # the probability with which each value is hidden
    hidden: bool | None = None  # whether a label of -1 is one that is not known; None: as `is_known` reads them
    binary: bool = False  # whether all that is stored is 0 or the scale, as in black and white
    classes: tuple[str, ...] | None = None  # the names of the labels 0, 1, ..., where they have some
    reading: str = ""  # what was made of the arrays of a file, in words

    num_images = 1  # that belong to a datum

    def __len__(self) -> int:
        return len(self.rows)

    def __repr__(self) -> str:
        labels = "without labels" if self.y is None else "with labels"
        if self.partly_labelled:
            labels = f"{len(self.known())} with labels"
        how = f"binarize={self.binarize!r}" if self.dequantize is None else f"dequantize={self.dequantize!r}"
        how += f", missing={self.missing}" if self.missing else ""
        return f"<Split of {len(self)} data of shape {tuple(self.event_shape)}, {how}, {labels}>"

    def __getitem__(self, index: slice | Tensor | Sequence[int]) -> "Split":
        """Return a part of the split, for instance `test[::10]` for every tenth datum."""
        index = index if isinstance(index, slice) else self._chosen(index)
        return replace(self, rows=self.rows[index], y=None if self.y is None else self.y[index])

    def _chosen(self, index: Any) -> Tensor:
        """Return numbers of data, or a mask of all of them, as a tensor."""
        chosen = tensor_of(index)
        if not chosen.numel() and chosen.dim() == 1:
            return chosen.long()
        if chosen.dtype == torch.bool:
            fits = chosen.shape == self.rows.shape
        else:
            fits = chosen.dim() == 1 and not chosen.is_floating_point()
            fits = fits and -len(self) <= int(chosen.min()) and int(chosen.max()) < len(self)
        if not fits:
            raise InputError(
                f"Expected a slice, numbers of data from 0 to {len(self) - 1}, [n], or a mask of {len(self)}; got "
                f"{shown(index)}. Write split[:10], or split[[3]] for one."
            )
        return chosen

    @property
    def event_shape(self) -> torch.Size:
        """The shape of one datum."""
        return torch.Size(self.values.shape[1:])

    @property
    def num_levels(self) -> int | None:
        """How many grey levels x has, as stored: 256 of 8-bit pixels; None where it is not known, or two of them."""
        is_bytes = str(self.values.dtype).removeprefix("torch.") == "uint8"
        has_levels = is_bytes and self.scale > 1 and not self.binary
        return int(self.scale) + 1 if has_levels and self.binarize is None else None

    @property
    def x(self) -> Tensor:
        """All data of the split, [N, *event_shape], with the fixed draws if it is binarized or dequantized."""
        return self.take(torch.arange(len(self)))

    @property
    def labels(self) -> Tensor | None:
        """The label of each x, [N], or None: here the same as y."""
        return self.y

    @property
    def partly_labelled(self) -> bool:
        """Whether there are labels, and some of them are not known."""
        return self.y is not None and not bool(self.labelled.all())

    @property
    def labelled(self) -> Tensor:
        """Which data have a label that is known, [N]."""
        if self.y is None:
            return torch.zeros(len(self), dtype=torch.bool)
        if self.hidden is None:
            return is_known(self.y)
        return self.y != HIDDEN if self.hidden else torch.ones(len(self), dtype=torch.bool, device=self.y.device)

    def without_dequantizing(self) -> "Split":
        """Return the same data before they were dequantized."""
        return replace(self, dequantize=None)

    def to(self, device: torch.device) -> "Split":
        """Return the split with its values and labels on a device; a memory-mapped array stays on disk."""
        values = self.values.to(device) if isinstance(self.values, Tensor) else self.values
        return replace(self, values=values, y=None if self.y is None else self.y.to(device))

    def grey(self, index: Tensor) -> Tensor:
        """Return these data before binarization, as floats."""
        # Divided in place: a batch of images is made in each step of training.
        floats = self._stored(index).to(torch.get_default_dtype(), copy=True)
        return floats if self.scale == 1 else floats.div_(self.scale)

    def _stored(self, index: Tensor) -> Tensor:
        """Return what is stored of these data."""
        rows = self.rows[index]
        if isinstance(self.values, Tensor):
            return self.values.index_select(0, rows.to(self.values.device))  # several times as fast as [rows]
        return torch.from_numpy(np.ascontiguousarray(self.values[rows.numpy()]))

    def take(self, index: Tensor) -> Tensor:
        """Return these data as an estimator sees them: the same numbers every time."""
        x, rows = self.grey(index), self.rows[index]
        if self.dequantize is not None:
            x = self._dequantized(x, fixed_noise(rows, self.event_shape, LEVELS).to(x.device))
        elif self.binarize == "threshold":
            x = missing_as((x >= 0.5).to(x), x)
        elif self.binarize is not None:
            streams = {"dynamic": (self.event_shape, PIXELS), "random_threshold": (self._one_for_each(), THRESHOLDS)}
            x = missing_as((fixed_noise(rows, *streams[self.binarize]).to(x.device) < x).to(x), x)
        return self._hidden(x, index)

    def draw(self, index: Tensor) -> Tensor:
        """Return these data as training sees them: binarized or dequantized afresh, by PyTorch's global generator."""
        if self.dequantize is None and self.binarize not in ("dynamic", "random_threshold"):
            return self.take(index)
        of_bytes = self.dequantize is None and self.binarize == "dynamic" and self.scale == 255
        if of_bytes and (levels := self._stored(index)).dtype == torch.uint8:
            return self._hidden(bernoulli_of_bytes(levels), index)
        x = self.grey(index)
        if self.dequantize is not None:
            x = self._dequantized(x, torch.rand_like(x))
        elif self.binarize == "dynamic":
            x = missing_as(bernoulli(filled(x)), x)
        else:
            x = missing_as((torch.rand(len(x), *self._one_for_each(), device=x.device) < x).to(x), x)
        return self._hidden(x, index)

    def _hidden(self, x: Tensor, index: Tensor) -> Tensor:
        """Return x with those of its values missing that the split hides."""
        if self.missing is None:
            return x
        noise = fixed_noise(self.rows[index], self.event_shape, MISSING).to(x.device)
        return torch.where(noise < self.missing, math.nan, x)

    def hide(self, missing: float) -> "Split":
        """Return the split with each value missing (NaN) with this probability, whatever it is: the same every time.

        Raises:
            InputError: a probability that is not between 0 and 1.
        """
        if not 0 < (real_number(missing) or 0.0) < 1:
            raise InputError(f"Expected missing to be a probability above 0 and below 1; got {shown(missing)}.")
        return replace(self, missing=float(missing))

    def take_y(self, index: Tensor) -> Tensor:
        """Return the labels of these data."""
        if self.y is None:
            raise InputError("Expected data with labels; got a split without. Give the file an array of labels, y.")
        return self.y[index]

    draw_y = take_y  # in training the same

    def frozen(self) -> "Split":
        """Return the split with its fixed binary draws made once and kept, as bytes."""
        if self.binarize is None or not isinstance(self.values, Tensor):
            return self
        x = self.x  # a byte cannot be missing
        stored = x if bool(x.isnan().any()) else x.to(torch.uint8)
        return Split(stored, torch.arange(len(self)), self.y, hidden=self.hidden, classes=self.classes)

    def known(self) -> "Split":
        """Return the data whose labels are known, with them."""
        return self[self.labelled]

    def unknown(self) -> "Split":
        """Return the data whose labels are not known, without labels."""
        return self if self.y is None else replace(self[~self.labelled], y=None)

    def hide_labels(self, num_labels: int) -> "Split":
        """Return the split with all labels but `num_labels` hidden: set to -1.

        Those that stay are chosen at random, the same every time, and balanced: each class in turn keeps one
        more while it has any. Those of n labels are among those of n + 1.

        Raises:
            InputError: no labels, labels that are not whole numbers from 0 on, or fewer data than `num_labels`.
        """
        classes = whole_labels(self.y)
        if classes is None or bool((classes < 0).any()):
            raise InputError(
                f"Expected labels that are whole numbers from 0 on, to hide some; got {_in_words(self.y)}. "
                f"Give the file an array of such labels, y, or leave num_labels out."
            )
        if num_labels > len(self):
            raise InputError(
                f"Expected num_labels to be at most the number of training data, {len(self)}; got {num_labels}. "
                f"Ask for fewer, or leave it out to keep all."
            )
        order = torch.randperm(len(self), generator=torch.Generator().manual_seed(_SEED))
        turn = torch.empty_like(order)  # how many of its class come before a datum
        for label in classes.unique():
            members = (classes[order] == label).nonzero().flatten()
            turn[members] = torch.arange(len(members))
        kept = order[turn.argsort(stable=True)[:num_labels]]
        return replace(self, y=torch.full_like(classes, HIDDEN).index_copy(0, kept, classes[kept]), hidden=True)

    def _dequantized(self, grey: Tensor, u: Tensor) -> Tensor:
        """Return (level + u) / L; u has 16 bits, so that single precision does not round up to the next level."""
        levels = (grey * self.scale).round()
        return (levels + (u * 2**16).floor().to(grey) / 2**16) / (self.scale + 1)

    def _one_for_each(self) -> torch.Size:
        """Return the shape of one number for all pixels of a datum."""
        return torch.Size([1] * len(self.event_shape))


def _in_words(y: Tensor | None) -> str:
    if y is None:
        return "none"
    if y.dim() != 1:
        return f"labels of shape {tuple(y.shape)}"
    return f"values from {float(y.min()):.3g} to {float(y.max()):.3g}"


def is_known(y: Tensor) -> Tensor:
    """Return which labels are known, [N]: all but a whole number of -1, where nothing says that it is a value.

    Other numbers below zero say so, and so do labels of -1 and 1 alone, which code two classes.

    >>> is_known(torch.tensor([3, -1, 0])), is_known(torch.tensor([1, -1, 1])), is_known(torch.tensor([0.5, -1.0]))
    (tensor([ True, False,  True]), tensor([True, True, True]), tensor([True, True]))
    """
    whole = y.long()  # a byte cannot be compared with -1
    known = torch.ones(len(y), dtype=torch.bool, device=y.device)
    if y.dim() != 1 or y.is_floating_point() or bool((whole < HIDDEN).any()):
        return known
    others = whole[whole != HIDDEN]
    return known if len(others) and bool((others == 1).all()) else whole != HIDDEN


def hidden_in_words(number: int, total: int) -> str:
    """Return what is said where labels of -1 are read as labels that are not known."""
    return (
        f"{number} of {total} data have the label -1 and count as data without a label. If -1 is a value, code the "
        f"labels as 0, 1, ..., or as floats."
    )


def whole_labels(y: Tensor | None) -> Tensor | None:
    """Return labels as 64-bit integers, [N], or None where there are none, or not one whole number for each datum.

    >>> whole_labels(torch.tensor([0.0, 3.0])), whole_labels(torch.tensor([0.5]))
    (tensor([0, 3]), None)
    """
    if y is None or y.dim() != 1:
        return None
    whole = y.long()
    return whole if bool((whole == y).all()) else None


def evenly(part: Any, count: int | None) -> Any:
    """Return so many data of a part, evenly spaced; all of them for None, or if there are fewer.

    >>> evenly(torch.arange(10), 4)
    tensor([0, 3, 6, 9])
    """
    return part if count is None else part[torch.linspace(0, len(part) - 1, min(count, len(part))).long()]
