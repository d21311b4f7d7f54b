"""A latent category as a one-hot vector: exact, so that Pyro can sum it out, or relaxed, so that it has gradients.

z_c = 1 with probability pi_c,    or    z_c = exp((log pi_c + g_c) / t) / sum_j exp((log pi_j + g_j) / t), g ~ Gumbel
"""

from typing import Any

import pyro.distributions as dist
from pyro.distributions import TorchDistribution
from torch import Tensor

SMALLEST = 1e-30  # of a relaxed coordinate: a smaller one is 0 in single precision, where log P(z) is not finite


class RelaxedOneHot(dist.RelaxedOneHotCategorical):  # type: ignore[misc]
    """A relaxed one-hot vector whose samples keep away from the edge of the simplex, where the density is not finite.

    >>> import torch
    >>> z = RelaxedOneHot(torch.tensor(0.01), logits=torch.tensor([0.0, 1000.0])).rsample()
    >>> bool((z > 0).all())
    True
    """

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """Draw z, [*sample_shape, *batch_shape, C], with gradients."""
        return super().rsample(sample_shape).clamp_min(SMALLEST)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draw z, [*sample_shape, *batch_shape, C]."""
        return self.rsample(sample_shape).detach()


def one_hot(logits: Tensor, temperature: float | None) -> TorchDistribution:
    """Return a one-hot vector with these log-probabilities (up to a constant), [..., C], relaxed if t is given.

    Source: Jang et al., arXiv 1611.01144; Maddison et al., arXiv 1611.00712.

    >>> import torch
    >>> one_hot(torch.zeros(3), None).enumerate_support().shape, one_hot(torch.zeros(3), 0.5).has_rsample
    (torch.Size([3, 3]), True)
    """
    if temperature is None:
        return dist.OneHotCategorical(logits=logits)
    return RelaxedOneHot(logits.new_tensor(temperature), logits=logits)
