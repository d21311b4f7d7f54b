"""Strings of images for the task "which digit comes next?": each image x with L images of the digits before it.

Its string is chosen at random among the images of the same part of the data set: anew each time in training, and for
everything else by fixed noise that belongs to the datum and the position, whatever batch it comes in.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from ppl_vae.data.noise import STRINGS, fixed_noise
from ppl_vae.data.splits import Dequantize, Split, whole_labels
from ppl_vae.errors import InputError

NUM_DIGITS = 10


@dataclass(frozen=True, repr=False, eq=False)
class StringSplit:
    """One part of a data set of digits, each with a string: `.x` [N, *event_shape], `.y` [N, L, *event_shape].

    With labels d of x, the labels of its string are (d - L, ..., d - 1) modulo ten. From L = 10 on, a string
    holds an image of the digit d itself, which may be x.
    """

    images: Split  # the images x that succeed, with their labels
    pool: Split  # the whole part, which the images of the strings are chosen from
    length: int  # L, the number of images in a string

    partly_labelled = False  # no string is without

    def __len__(self) -> int:
        return len(self.images)

    def __repr__(self) -> str:
        return (
            f"<StringSplit of {len(self)} data of shape {tuple(self.event_shape)}, binarize={self.images.binarize!r}, "
            f"each with a string of {self.length}>"
        )

    def __getitem__(self, index: slice | Tensor | Sequence[int]) -> "StringSplit":
        """Return a part of the split; its strings stay as they are."""
        return replace(self, images=self.images[index])

    def hide(self, missing: float) -> "StringSplit":
        """Return the split with values of x missing, as `Split.hide`; the strings stay whole."""
        return replace(self, images=self.images.hide(missing))

    def without_dequantizing(self) -> "StringSplit":
        """Return the same data before they were dequantized."""
        images, pool = (part.without_dequantizing() for part in (self.images, self.pool))
        return replace(self, images=images, pool=pool)

    def known(self) -> "StringSplit":
        """Return the data whose labels are known: all have their strings."""
        return self

    def unknown(self) -> "StringSplit":
        """Return the data whose labels are not known: none."""
        return self[:0]

    def to(self, device: torch.device) -> "StringSplit":
        """Return the split itself: strings are made where it is, and go to a device in batches."""
        return self

    @property
    def num_images(self) -> int:
        """One, and those of its string."""
        return 1 + self.length

    @property
    def event_shape(self) -> torch.Size:
        """The shape of one image."""
        return self.images.event_shape

    @property
    def num_levels(self) -> int | None:
        """How many grey levels x has, where it is known."""
        return self.images.num_levels

    @property
    def dequantize(self) -> Dequantize:
        """How x is dequantized."""
        return self.images.dequantize

    @property
    def x(self) -> Tensor:
        """The images that succeed, [N, *event_shape]."""
        return self.images.x

    @property
    def labels(self) -> Tensor:
        """The label of each x, [N]."""
        return self.images.take_y(torch.arange(len(self)))

    def take(self, index: Tensor) -> Tensor:
        """Return these x as an estimator sees them: the same numbers every time."""
        return self.images.take(index)

    def draw(self, index: Tensor) -> Tensor:
        """Return these x as training sees them: binarized afresh."""
        return self.images.draw(index)

    @property
    def y(self) -> Tensor:
        """All strings, [N, L, *event_shape], made anew when asked for: L times the size of x."""
        return self.take_y(torch.arange(len(self)))

    @property
    def string_labels(self) -> Tensor:
        """The labels of the strings, [N, L]."""
        return (self.labels[:, None] - self.length + torch.arange(self.length)) % NUM_DIGITS

    def take_y(self, index: Tensor) -> Tensor:
        """Return the fixed strings of these data, [n, L, *event_shape]."""
        noise = fixed_noise(self.images.rows[index], torch.Size([self.length]), STRINGS)
        chosen = self._choose(index, noise.double())
        return self.pool.take(chosen.flatten()).reshape(*chosen.shape, *self.event_shape)

    def draw_y(self, index: Tensor) -> Tensor:
        """Return fresh strings for these data, from PyTorch's global generator, binarized afresh."""
        chosen = self._choose(index, torch.rand(len(index), self.length, dtype=torch.double))
        return self.pool.draw(chosen.flatten()).reshape(*chosen.shape, *self.event_shape)

    def _choose(self, index: Tensor, noise: Tensor) -> Tensor:
        """Return which images of the pool stand in the strings of these data, [n, L], by uniform noise in [0, 1)."""
        order, counts = self._by_label
        labels = self[index].string_labels
        starts = counts.cumsum(0) - counts
        return order[starts[labels] + (noise * counts[labels]).long()]

    @cached_property
    def _by_label(self) -> tuple[Tensor, Tensor]:
        """The pool's images sorted by label, and how many there are of each."""
        labels = self.pool.take_y(torch.arange(len(self.pool)))
        return labels.argsort(stable=True), labels.bincount(minlength=NUM_DIGITS)


Part = Split | StringSplit


def with_strings(part: Split, length: int, name: str = "the data") -> StringSplit:
    """Give each image of a part of a data set of digits the string of images that it succeeds."""
    if part.y is None:
        raise InputError(
            f"Expected labels of digits in {name} to make strings; got none. Give the file an array of labels, or "
            f"leave strings out."
        )
    labels = whole_labels(part.y)
    if labels is None or bool(((labels < 0) | (labels >= NUM_DIGITS)).any()):
        raise InputError(
            f"Expected labels in {name} to be whole numbers from 0 to 9 to make strings; got values from "
            f"{float(part.y.min()):.3g} to {float(part.y.max()):.3g}. Use images of digits, or leave strings out."
        )
    missing = (labels.bincount(minlength=NUM_DIGITS) == 0).nonzero().flatten().tolist()
    if missing:
        raise InputError(
            f"Expected images of all ten digits in {name} to make strings; got none of {', '.join(map(str, missing))}. "
            f"Add some, or leave strings out."
        )
    labelled = replace(part, y=labels)
    return StringSplit(labelled, labelled, length)
