"""One part of a data set: what is stored, what training sees of it, and what everything else sees.

Dynamic binarization takes a grey level for the probability of a one: fresh draws in training, and one
fixed draw, which belongs to the datum and not to the batch it comes in, for everything else.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

Binarize = Literal["dynamic", "threshold"] | None

_SEED = 19  # of the fixed binary draws


@dataclass(frozen=True, repr=False, eq=False)
class Split:
    """One part of a data set: `.x` [N, *event_shape] and, where there are labels, `.y` [N].

    Attributes:
        values: what is stored, [M, *event_shape]: a tensor, or a memory-mapped array.
        rows: which of these belong to the split, [N].
        y: labels, [N], or None.
        scale: what a stored value is divided by.
        binarize: "dynamic", "threshold" or None.
    """

    values: Tensor | np.ndarray[Any, Any]
    rows: Tensor
    y: Tensor | None = None
    scale: float = 1.0
    binarize: Binarize = None

    def __len__(self) -> int:
        return len(self.rows)

    def __repr__(self) -> str:
        labels = "without labels" if self.y is None else "with labels"
        return f"<Split of {len(self)} data of shape {tuple(self.event_shape)}, binarize={self.binarize!r}, {labels}>"

    def __getitem__(self, index: slice | Tensor | Sequence[int]) -> "Split":
        """Return a part of the split, for instance `test[::10]` for every tenth datum."""
        index = index if isinstance(index, slice) else torch.as_tensor(index)
        return replace(self, rows=self.rows[index], y=None if self.y is None else self.y[index])

    @property
    def event_shape(self) -> torch.Size:
        """The shape of one datum."""
        return torch.Size(self.values.shape[1:])

    @property
    def x(self) -> Tensor:
        """All data of the split, [N, *event_shape], with the fixed binary draws if it is binarized."""
        return self.take(torch.arange(len(self)))

    def grey(self, index: Tensor) -> Tensor:
        """Return these data before binarization, as floats."""
        rows = self.rows[index]
        if isinstance(self.values, Tensor):
            chosen = self.values[rows]
        else:
            chosen = torch.from_numpy(np.ascontiguousarray(self.values[rows.numpy()]))
        return chosen.to(torch.get_default_dtype()) / self.scale

    def take(self, index: Tensor) -> Tensor:
        """Return these data as an estimator sees them: the same numbers every time."""
        x = self.grey(index)
        if self.binarize == "threshold":
            return (x >= 0.5).to(x)
        if self.binarize == "dynamic":
            return (_fixed_noise(self.rows[index], self.event_shape) < x).to(x)
        return x

    def draw(self, index: Tensor) -> Tensor:
        """Return these data as training sees them: binarized afresh from PyTorch's global generator."""
        return torch.bernoulli(self.grey(index)) if self.binarize == "dynamic" else self.take(index)

    def frozen(self) -> "Split":
        """Return the split with its fixed binary draws made once and kept, as bytes."""
        if self.binarize is None or not isinstance(self.values, Tensor):
            return self
        return Split(self.x.to(torch.uint8), torch.arange(len(self)), self.y)


def _fixed_noise(rows: Tensor, event_shape: torch.Size) -> Tensor:
    """Return uniform noise in [0, 1) that depends on the row and the pixel only, not on the batch.

    A counter-based generator: the SplitMix64 hash of the number of the pixel. Source: Steele, Lea & Flood,
    Fast splittable pseudorandom number generators, OOPSLA 2014.
    """
    pixels = np.arange(event_shape.numel(), dtype=np.uint64)
    state = rows.numpy().astype(np.uint64)[:, None] * np.uint64(len(pixels)) + pixels + np.uint64(_SEED << 32)
    state *= np.uint64(0x9E3779B97F4A7C15)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        state ^= state >> np.uint64(shift)
        state *= np.uint64(factor)
    state ^= state >> np.uint64(31)
    noise = (state >> np.uint64(40)).astype(np.float32) * np.float32(2**-24)
    return torch.from_numpy(noise).reshape(-1, *event_shape)
