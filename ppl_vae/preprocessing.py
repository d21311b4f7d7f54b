"""What the networks of a guide read of x: on a unit scale, whatever x is. The density of x stays that of x as it is."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ppl_vae.errors import InputError, positive_int, true_or_false
from ppl_vae.networks import Shape
from ppl_vae.parts import Preprocessing
from ppl_vae.utils.moments import feature_shape, mean_and_scale

__all__ = ["Identity", "Log", "Log1p", "Logit", "OneHot", "Preprocessing", "Standardize"]


class Identity(Preprocessing):
    """x as it is: pixels in [0, 1].

    >>> Identity().bind((3,))(torch.ones(3))
    tensor([1., 1., 1.])
    """

    def transform(self, x: Tensor) -> Tensor:
        return x


class Standardize(Preprocessing):
    """(x - mean) / sd of each feature: columns of a vector, channels of an image, what a step of a series has.

    Mean and standard deviation are those of the training data (0 and 1 before `start_from`).

    >>> scaling = Standardize().bind((2,))
    >>> scaling.start_from(torch.tensor([[1.0, 50.0], [3.0, 90.0]]))
    >>> scaling(torch.tensor([1.0, 70.0]))
    tensor([-1.,  0.])
    """

    data_mean: Tensor
    data_scale: Tensor

    def bind(self, x_shape: Shape) -> "Standardize":
        """Say what shape x has."""
        bound = self._x_shape is not None
        super().bind(x_shape)
        if not bound:
            shape = feature_shape(self.out_shape)
            self.data_mean, self.data_scale = nn.Buffer(torch.zeros(shape)), nn.Buffer(torch.ones(shape))
        return self

    def _start(self, x: Tensor) -> None:
        mean, scale = mean_and_scale(self.unscaled(x))
        self.data_mean.copy_(mean)
        self.data_scale.copy_(scale)

    def unscaled(self, x: Tensor) -> Tensor:
        """Return the numbers that are standardized, in the shape of x: here x itself."""
        return x

    def transform(self, x: Tensor) -> Tensor:
        return (self.unscaled(x) - self.data_mean) / self.data_scale


class Log1p(Standardize):
    """(log(1 + x) - mean) / sd, of counts, which may differ by orders of magnitude; one mean and one sd for all.

    Args:
        per_feature: take a mean and an sd for each feature, as columns need it that count different things.

    Source: Lopez et al., Deep generative modeling for single-cell transcriptomics, Nature Methods 15 (2018).

    >>> Log1p().bind((2,))(torch.tensor([0.0, 9.0]))
    tensor([0.0000, 2.3026])
    """

    def __init__(self, per_feature: bool = False) -> None:
        super().__init__()
        self.per_feature = true_or_false("per_feature", per_feature)

    def _start(self, x: Tensor) -> None:
        numbers = self.unscaled(x)
        mean, scale = mean_and_scale(numbers if self.per_feature else numbers.reshape(-1, 1))
        self.data_mean.copy_(mean)
        self.data_scale.copy_(scale)

    def unscaled(self, x: Tensor) -> Tensor:
        return x.clamp(min=0.0).log1p()


class Log(Standardize):
    """(log x - mean) / sd of each feature, of numbers above zero.

    >>> Log().bind((2,))(torch.tensor([1.0, 1.0]))
    tensor([0., 0.])
    """

    def unscaled(self, x: Tensor) -> Tensor:
        return x.clamp(min=torch.finfo(x.dtype).tiny).log()


class Logit(Standardize):
    """(log(x / (1 - x)) - mean) / sd of each feature, of numbers between 0 and 1.

    >>> Logit().bind((2,))(torch.tensor([0.5, 0.5]))
    tensor([0., 0.])
    """

    def unscaled(self, x: Tensor) -> Tensor:
        return x.logit(eps=torch.finfo(x.dtype).eps)


class OneHot(Standardize):
    """A number for each category, of codes 0 ... C - 1: 1 for its own and 0 for others, less their frequencies.

    The categories of each number stand where features do: [D] becomes [D C], an image [K, H, W] becomes [K C, H, W].

    Args:
        num_levels: C.

    Raises:
        InputError: fewer than two categories.

    >>> OneHot(3).bind((2,))(torch.tensor([0.0, 2.0]))
    tensor([1., 0., 0., 0., 0., 1.])
    """

    def __init__(self, num_levels: int = 10) -> None:
        super().__init__()
        self.num_levels = positive_int("num_levels", num_levels)
        if num_levels == 1:
            raise InputError("Expected num_levels to be at least 2; got 1. Count all categories.")

    @property
    def axis(self) -> int:
        """The dimension of features, from the right."""
        return -1 if len(self.x_shape) == 2 else -len(self.x_shape)

    @property
    def out_shape(self) -> torch.Size:
        """The shape of what networks read of one x."""
        sizes = list(self.x_shape)
        sizes[self.axis] *= self.num_levels
        return torch.Size(sizes)

    def _start(self, x: Tensor) -> None:
        self.data_mean.copy_(mean_and_scale(self.unscaled(x))[0])

    def unscaled(self, x: Tensor) -> Tensor:
        codes = torch.arange(self.num_levels, device=x.device, dtype=x.dtype)
        hot = (1 - (x.unsqueeze(-1) - codes).abs()).clamp(min=0.0)  # between codes in between, as pseudo-inputs are
        hot = hot.movedim(-1, self.axis)
        return hot.flatten(self.axis - 1, self.axis)


class OfColumns(Preprocessing):
    """The columns of a table, each kind of them by a preprocessing of its own, side by side.

    Args:
        kinds: a preprocessing for each kind of column, bound to their number, and which columns they are.
    """

    def __init__(self, kinds: Iterable[tuple[Preprocessing, Sequence[int]]]) -> None:
        super().__init__()
        made = list(kinds)
        self.kinds = nn.ModuleList(preprocessing for preprocessing, _ in made)
        self.columns = [list(columns) for _, columns in made]

    def each_kind(self) -> list[tuple[Any, list[int]]]:
        """Return the preprocessing of each kind, and its columns."""
        return list(zip(self.kinds, self.columns, strict=True))

    @property
    def out_shape(self) -> torch.Size:
        """The shape of what networks read of a row: as many numbers as all its columns give."""
        return torch.Size([sum(kind.out_shape.numel() for kind, _ in self.each_kind())])

    def _start(self, x: Tensor) -> None:
        for kind, columns in self.each_kind():
            kind.start_from(x[:, columns])

    def transform(self, x: Tensor) -> Tensor:
        return torch.cat([kind.transform(x[..., columns]) for kind, columns in self.each_kind()], -1)
