"""What the networks of a guide read of x: on a unit scale, whatever x is. The density of x stays that of x as it is."""

import torch
from torch import Tensor, nn

from ppl_vae.networks import Shape
from ppl_vae.parts import Preprocessing
from ppl_vae.utils.moments import feature_shape, mean_and_scale

__all__ = ["Identity", "Log1p", "Preprocessing", "Standardize"]


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
            shape = feature_shape(self.x_shape)
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

    Source: Lopez et al., Deep generative modeling for single-cell transcriptomics, Nature Methods 15 (2018).

    >>> Log1p().bind((2,))(torch.tensor([0.0, 9.0]))
    tensor([0.0000, 2.3026])
    """

    def _start(self, x: Tensor) -> None:
        mean, scale = mean_and_scale(self.unscaled(x).reshape(-1, 1))
        self.data_mean.fill_(mean.item())
        self.data_scale.fill_(scale.item())

    def unscaled(self, x: Tensor) -> Tensor:
        return x.clamp(min=0.0).log1p()
