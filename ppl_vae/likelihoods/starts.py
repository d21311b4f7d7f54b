"""What a likelihood takes from the data before training: numbers for each feature, with which h = 0 is their mean."""

import math
from typing import Self

from torch import Tensor
from torch.nn.functional import softplus

from ppl_vae.networks import Shape
from ppl_vae.parts import Likelihood, is_of_data
from ppl_vae.utils.moments import feature_shape

SMALLEST = 1e-6  # of what softplus makes of h: a scale or a concentration is above zero
FEWEST, MOST = 1e-2, 1e6  # for a concentration to start from


class StartsFromFeatures(Likelihood):
    """A likelihood whose `data_` buffers have an entry for each feature of the data it is bound to.

    Subclasses make them for one number in the constructor, and return the entries of each feature by name in `start`.
    """

    def bind(self, event_shape: Shape) -> Self:
        """Say what shape one datum has."""
        bound = self._event_shape is not None
        super().bind(event_shape)
        if not bound:
            shape = feature_shape(self.event_shape)
            for name, value in list(self.named_buffers(recurse=False)):
                if is_of_data(name):
                    self.register_buffer(name, value.expand(*shape, *value.shape).clone())
        return self

    def _start(self, x: Tensor) -> None:
        for name, value in self.start(x).items():
            buffer = self.get_buffer(name)
            buffer.copy_(value.reshape(buffer.shape))

    def start(self, x: Tensor) -> dict[str, Tensor]:
        """Return, by the name of a buffer, what it is of x [N, *event_shape], NaN missing."""
        raise TypeError(f"{type(self).__name__} has to define start(x).")


def relative(h: Tensor) -> Tensor:
    """Return a positive factor, 1 for h = 0, that grows as h does.

    >>> import torch
    >>> relative(torch.tensor([0.0, -100.0]))
    tensor([1.0000e+00, 1.0000e-06])
    """
    return softplus(h) / math.log(2) + SMALLEST
