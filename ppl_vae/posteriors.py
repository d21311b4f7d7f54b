"""Posterior families Q(z | h): modules whose `forward(h)` returns a distribution over z.

h is what a guide's encoder gives for one datum, of shape [..., h_dim], with any leading batch
dimensions. A family is where a guide ends; the guide is the whole program Q(z | x).
"""

from collections.abc import Callable, Mapping

import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution
from torch import Tensor, nn
from torch.distributions import AffineTransform
from torch.distributions.transforms import ReshapeTransform

from ppl_vae.distributions.flows import Remembering, autoregressive
from ppl_vae.distributions.gaussian import diagonal_normal, positive_scale
from ppl_vae.errors import InputError, positive_int
from ppl_vae.networks import Widths, widths
from ppl_vae.parts import Posterior
from ppl_vae.utils.faults import expecting
from ppl_vae.utils.memory import check_memory
from ppl_vae.utils.precision import full_precision

__all__ = ["DiagonalNormal", "InverseAutoregressive", "MultivariateNormal", "Posterior", "SitePosteriors"]

Family = Callable[[int], Posterior]


class DiagonalNormal(Posterior):
    """Independent Gaussians, Q(z | h) = N(z; m, diag(s^2)) with (m, r) = h and s = softplus(r) + 1e-6.

    Source: Kingma & Welling, arXiv 1312.6114.

    >>> family = DiagonalNormal(8)
    >>> family(torch.zeros(5, family.h_dim)).rsample().shape
    torch.Size([5, 8])
    """

    @property
    def h_dim(self) -> int:
        return 2 * self.latent_dim

    def forward(self, h: Tensor) -> TorchDistribution:
        return diagonal_normal(h)


class MultivariateNormal(Posterior):
    """A Gaussian with full covariance, Q(z | h) = N(z; m, L L^T) with (m, d, l) = h.

    L is lower triangular, with softplus(d) + 1e-6 on its diagonal and l below, row by row.

    Source: section 3 of Kingma & Welling, An Introduction to Variational Autoencoders, arXiv 1906.02691.

    >>> family = MultivariateNormal(8)
    >>> family(torch.zeros(5, family.h_dim)).rsample().shape
    torch.Size([5, 8])
    """

    def __init__(self, latent_dim: int) -> None:
        super().__init__(latent_dim)
        size = self.latent_dim
        check_memory("covariances", 3 * size**2, "Make latent_dim smaller.")
        places = torch.full((size, size), self.h_dim - size)  # where in (d, l, 0) each number of L stands
        places.diagonal().copy_(torch.arange(size))
        below = torch.ones(size, size, dtype=torch.bool).tril_(-1)
        places.masked_scatter_(below, torch.arange(size, self.h_dim - size))
        self.places = nn.Buffer(places, persistent=False)

    @property
    def h_dim(self) -> int:
        return self.latent_dim + self.latent_dim * (self.latent_dim + 1) // 2

    def forward(self, h: Tensor) -> TorchDistribution:
        loc, raw, below = h.tensor_split((self.latent_dim, 2 * self.latent_dim), dim=-1)
        numbers = torch.cat([positive_scale(raw), below, torch.zeros_like(h[..., :1])], dim=-1)
        return dist.MultivariateNormal(loc, scale_tril=numbers[..., self.places])


class InverseAutoregressive(Posterior):
    """An inverse autoregressive flow, z = m(h) + s(h) T(u; h) with u ~ N(0, I), drawn in one pass.

    T starts near the identity, where this is `DiagonalNormal`, and bends a standard normal, whatever the scale of z.
    To evaluate a z that it has not just drawn takes as many passes as z has dimensions.

    Args:
        latent_dim: the size of z.
        kind: "neural_spline" or "masked_autoregressive", of each transform of T.
        transforms: how many are composed; the order of the dimensions is reversed from one to the next.
        hidden: the widths of the network of each.
        context_dim: how many numbers of h all transforms read.

    Raises:
        InputError: an unknown kind, or numbers that are not above zero.

    Source: Kingma et al., arXiv 1606.04934; Durkan et al., arXiv 1906.04032; zuko.

    >>> family = InverseAutoregressive(3, transforms=2, hidden=(16,))
    >>> family(torch.zeros(5, family.h_dim)).rsample().shape
    torch.Size([5, 3])
    """

    def __init__(
        self,
        latent_dim: int,
        kind: str = "neural_spline",
        transforms: int = 3,
        hidden: Widths = (64, 64),
        context_dim: int = 32,
    ) -> None:
        super().__init__(latent_dim)
        self.context_dim = positive_int("context_dim", context_dim)
        self.flow = autoregressive(kind, self.latent_dim, self.context_dim, transforms, widths("hidden", hidden))

    @property
    def h_dim(self) -> int:
        return 2 * self.latent_dim + self.context_dim

    def forward(self, h: Tensor) -> TorchDistribution:
        loc, raw, context = h.split([self.latent_dim, self.latent_dim, self.context_dim], dim=-1)
        transform = self.flow(context)
        standard = dist.Normal(torch.zeros_like(loc), torch.ones_like(loc)).to_event(1)
        affine = AffineTransform(loc, positive_scale(raw), event_dim=1, cache_size=1)
        return dist.TransformedDistribution(standard, [Remembering(transform, transform.inv), affine])


class SitePosteriors(nn.Module):
    """A posterior of one family for each latent site of a model, from one vector h for all of them.

    Args:
        latents: the event shape of each site, by name.
        family: makes the family of a site from its size.

    Raises:
        InputError: a model without a latent site.

    >>> sites = SitePosteriors({"a": torch.Size([2]), "b": torch.Size([])})
    >>> {name: q.event_shape for name, q in sites(torch.zeros(5, sites.h_dim)).items()}
    {'a': torch.Size([2]), 'b': torch.Size([])}
    """

    def __init__(self, latents: Mapping[str, torch.Size], family: Family = DiagonalNormal) -> None:
        super().__init__()
        if not latents:
            raise InputError("Expected a model with latent sites for this guide; got one without. Use no_latents.")
        self.latents = dict(latents)
        families = [_made(family, shape.numel()) for shape in latents.values()]
        self.families = nn.ModuleList(families)
        self.h_dims = [family.h_dim for family in families]
        self.h_dim = sum(self.h_dims)  # how many numbers the encoder must give

    def forward(self, h: Tensor) -> dict[str, TorchDistribution]:
        """Return Q(z_s | h) of each site s, for h of shape [..., h_dim]."""
        parts = zip(self.latents.items(), self.families, full_precision(h).split(self.h_dims, dim=-1), strict=True)
        return {name: _shaped(family(part), shape) for (name, shape), family, part in parts}


def _made(family: Family, size: int) -> Posterior:
    """Return a posterior of a family for so many numbers, once it is seen to be one."""
    with expecting("posterior to be a class of Posterior"):
        made = family(size)
    if not (isinstance(made, nn.Module) and hasattr(made, "h_dim")):
        raise InputError(
            f"Expected posterior to be a class of Posterior; got what makes a {type(made).__name__}. Choose one of "
            f"ppl_vae.posteriors, or derive your own."
        )
    return made


def _shaped(q: TorchDistribution, shape: torch.Size) -> TorchDistribution:
    """Return Q over a site of this shape: a family gives a vector."""
    if len(shape) == 1:
        return q
    reshape = ReshapeTransform(q.event_shape, shape, cache_size=1)  # so that a flow knows what it has drawn
    return dist.TransformedDistribution(q, [reshape])
