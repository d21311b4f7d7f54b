"""Priors P(z): modules whose `forward()` returns a distribution over one latent.

The prior says what z is, so it holds the size of z. A new prior is one class here and one row in
`tests/test_parts.py`; the command line finds it by its class name in snake case. A conditional model calls
its prior as `prior(c)`, with c what networks read of the condition; most priors are independent of it.
"""

from collections.abc import Sequence
from typing import Self

import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution
from torch import Tensor, nn
from torch.nn.functional import softplus

from ppl_vae.errors import InputError, positive_int
from ppl_vae.networks import MLP


class Prior(nn.Module):
    """P(z) for z of shape [latent_dim]: subclasses implement `forward(c=None)`.

    `forward()` returns a distribution with an empty batch shape and event shape [latent_dim]; the
    plates of the program that samples from it give it its batch dimensions. `zeros` [latent_dim] is there to
    build on: it moves with the module to another device or precision.
    """

    zeros: Tensor

    def __init__(self, latent_dim: int) -> None:
        super().__init__()
        self.latent_dim = positive_int("latent_dim", latent_dim)
        self.register_buffer("zeros", torch.zeros(latent_dim), persistent=False)

    @property
    def event_shape(self) -> torch.Size:
        """The shape of one z."""
        return torch.Size([self.latent_dim])

    def bind(self, c_shape: Sequence[int]) -> Self:
        """Say what shape c has, what networks read of the condition; a conditional model does it once."""
        return self

    def forward(self, c: Tensor | None = None) -> TorchDistribution:
        """Return P(z), or P(z | y) for c [..., *c_shape]."""
        raise TypeError(f"{type(self).__name__} has to define forward() and return P(z).")


class StandardNormal(Prior):
    """The standard normal prior, P(z) = N(0, I).

    Args:
        latent_dim: the size of z.

    Source: Kingma & Welling, arXiv 1312.6114.

    >>> StandardNormal(8)().sample().shape
    torch.Size([8])
    """

    def __init__(self, latent_dim: int = 8) -> None:
        super().__init__(latent_dim)

    def forward(self, c: Tensor | None = None) -> TorchDistribution:
        """Return N(0, I) with event shape [latent_dim]."""
        return dist.Normal(self.zeros, torch.ones_like(self.zeros)).to_event(1)


class Mixture(Prior):
    """A learned mixture of diagonal Gaussians, P(z) = sum_c pi_c N(z; mu_c, diag(s_c^2)).

    Weights, means and scales are parameters of the model and are fitted with it.

    Args:
        latent_dim: the size of z.
        num_components: the number of Gaussians.

    Source: the "mixture of Gaussians" prior of Tomczak & Welling, arXiv 1705.07120.

    >>> Mixture(8, num_components=3)().log_prob(torch.zeros(5, 8)).shape
    torch.Size([5])
    """

    def __init__(self, latent_dim: int = 8, num_components: int = 10) -> None:
        super().__init__(latent_dim)
        self.num_components = positive_int("num_components", num_components)
        self.logits = nn.Parameter(torch.zeros(num_components))
        self.loc = nn.Parameter(torch.randn(num_components, latent_dim))
        self.log_scale = nn.Parameter(torch.zeros(num_components, latent_dim))

    def forward(self, c: Tensor | None = None) -> TorchDistribution:
        """Return the mixture with event shape [latent_dim]."""
        components = dist.Normal(self.loc, self.log_scale.exp()).to_event(1)
        return dist.MixtureSameFamily(dist.Categorical(logits=self.logits), components)


class ConditionalNormal(Prior):
    """A learned conditional prior, P(z | y) = N(z; m(y), diag(s(y)^2)), for conditional models.

    Args:
        latent_dim: the size of z.
        hidden: the widths of the network that gives m and s.

    Raises:
        InputError: a model without a condition.

    Source: the prior network of Sohn et al., Learning Structured Output Representation using Deep
    Conditional Generative Models, NeurIPS 2015.

    >>> ConditionalNormal(8).bind((10,))(torch.zeros(5, 10)).sample().shape
    torch.Size([5, 8])
    """

    def __init__(self, latent_dim: int = 8, hidden: Sequence[int] | int = (256,)) -> None:
        super().__init__(latent_dim)
        self.hidden = hidden
        self.network: MLP | None = None

    def bind(self, c_shape: Sequence[int]) -> Self:
        """Make the network for c of this shape.

        Raises:
            InputError: it belongs to another model.
        """
        if self.network is not None:
            raise InputError("Expected a ConditionalNormal of its own for each model; got one in use. Make another.")
        self.network = MLP(c_shape, (2 * self.latent_dim,), hidden=self.hidden)
        return self

    def forward(self, c: Tensor | None = None) -> TorchDistribution:
        """Return N(m(y), diag(s(y)^2)) for c [..., *c_shape]; event shape [latent_dim]."""
        if self.network is None or c is None:
            raise InputError(
                "Expected a model with a condition for ConditionalNormal; got one without. Use another prior, such as "
                "StandardNormal, or a conditional model, such as CVAE."
            )
        loc, raw = self.network(c).chunk(2, dim=-1)
        return dist.Normal(loc, softplus(raw) + 1e-6).to_event(1)
