"""Likelihoods of black and white pixels, and of those with a fixed number of grey levels: the probability of each.

With L levels (256 for 8-bit pixels) x is in {0, 1 / (L - 1), ..., 1}, as `ppl_vae.data` gives it.
"""

from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution
from torch import Tensor

from ppl_vae.distributions import pixels
from ppl_vae.distributions.pixels import Levels
from ppl_vae.errors import InputError, positive_int
from ppl_vae.parts import Likelihood


class Bernoulli(Likelihood):
    """Black and white pixels, P(x | h) = prod_i Bernoulli(x_i; sigmoid(h_i)), x in {0, 1}.

    Grey pixels are refused (`fit` and `estimate_evidence` check): binarize them, or use a likelihood
    for grey levels.

    >>> import torch
    >>> Bernoulli().bind((1, 8, 8))(torch.zeros(5, 1, 8, 8)).log_prob(torch.ones(1, 8, 8)).shape
    torch.Size([5])
    """

    def distribution(self, logits: Tensor) -> TorchDistribution:
        return dist.Bernoulli(logits=logits)


class OfLevels(Likelihood):
    """A likelihood of pixels with `num_levels` levels, 256 by default."""

    def __init__(self, num_levels: int = 256) -> None:
        super().__init__()
        self.num_levels = positive_int("num_levels", num_levels)
        if num_levels == 1:
            raise InputError("Expected num_levels to be at least 2; got 1. For 8-bit pixels it is 256.")

    @classmethod
    def options_for(cls, x: Tensor) -> dict[str, Any] | None:
        """Return the number of levels for which x are levels; {} if that is the usual 256."""
        for num_levels in (256, *range(2, 256)):
            if bool(Levels(num_levels).check(x).all()):
                return {} if num_levels == 256 else {"num_levels": num_levels}
        return None


class DiscretizedLogistic(OfLevels):
    """Grey levels x = k / (L - 1) by a rounded logistic variable, whose tails go to the first and the last level.

        P(k) = S((k + 1/2 - m) / s) - S((k - 1/2 - m) / s),    S the sigmoid, 0 and 1 for it beyond the ends

    with m and s in levels. Of h = (a, b), a is the mean and b the log scale (at least -7) of 2 x - 1, whatever L.

    Args:
        num_levels: L, how many levels a pixel has.

    Raises:
        InputError: fewer than two levels.

    Source: Kingma et al., arXiv 1606.04934, equation 13; Salimans et al., arXiv 1701.05517.

    >>> p = DiscretizedLogistic().bind((1, 2, 2))(torch.zeros(5, 2, 2, 2))
    >>> p.log_prob(torch.full((1, 2, 2), 128 / 255)).shape
    torch.Size([5])
    """

    num_params = 2

    def distribution(self, mean: Tensor, log_scale: Tensor) -> TorchDistribution:
        return pixels.DiscretizedLogistic(mean, log_scale, self.num_levels)


class DiscretizedLogisticMixture(OfLevels):
    """A mixture of `num_components` rounded logistics for each pixel, as in PixelCNN++, channels apart.

    Args:
        num_components: how many.
        num_levels: L, how many levels a pixel has.

    Raises:
        InputError: no component, or fewer than two levels.

    Source: Salimans et al., arXiv 1701.05517, equation 2; without the regression of one channel on the others.

    >>> likelihood = DiscretizedLogisticMixture(num_components=3).bind((1, 2, 2))
    >>> likelihood.h_shape, likelihood(torch.zeros(5, 9, 2, 2)).sample().shape
    (torch.Size([9, 2, 2]), torch.Size([5, 1, 2, 2]))
    """

    def __init__(self, num_components: int = 5, num_levels: int = 256) -> None:
        super().__init__(num_levels)
        self.num_params = 3 * positive_int("num_components", num_components)

    def distribution(self, *params: Tensor) -> TorchDistribution:
        logits, mean, log_scale = torch.stack(params, dim=-1).chunk(3, dim=-1)
        components = pixels.DiscretizedLogistic(mean, log_scale, self.num_levels)
        return pixels.DiscretizedLogisticMixture(dist.Categorical(logits=logits), components)


class Categorical(OfLevels):
    """Grey levels without an order: each of L levels of each pixel has a probability of its own, softmax(h).

    Args:
        num_levels: L, how many levels a pixel has.

    Raises:
        InputError: fewer than two levels.

    Source: van den Oord et al., arXiv 1601.06759, section 3.4.

    >>> likelihood = Categorical(num_levels=17).bind((1, 8, 8))
    >>> likelihood.h_shape, likelihood(torch.zeros(5, 17, 8, 8)).mean[0, 0, 0, 0]
    (torch.Size([17, 8, 8]), tensor(0.5000))
    """

    def __init__(self, num_levels: int = 256) -> None:
        super().__init__(num_levels)
        self.num_params = num_levels

    def distribution(self, *logits: Tensor) -> TorchDistribution:
        return pixels.Categorical(torch.stack(logits, dim=-1))
