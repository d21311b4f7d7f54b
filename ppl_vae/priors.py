"""Priors P(z): modules whose `forward()` returns a distribution over one latent.

The prior says what z is, so it holds its size, `latent_dim`. A conditional model calls it as `prior(c)`, with c what
networks read of the condition; most priors are independent of it.
"""

import math
from typing import Any, Self

import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution
from torch import Tensor, nn

from ppl_vae.distributions.flows import Remembering, autoregressive
from ppl_vae.distributions.gaussian import GaussianMixture, diagonal_normal, positive_scale
from ppl_vae.distributions.unwrap import elementwise
from ppl_vae.errors import InputError, positive_int, positive_number, shown
from ppl_vae.missing import nothing_is_missing
from ppl_vae.networks import MLP, Shape, Widths, widths
from ppl_vae.parts import FromData, Prior
from ppl_vae.utils.arrays import as_tensor
from ppl_vae.utils.memory import check_memory
from ppl_vae.utils.moments import mean_and_scale

__all__ = [
    "ConditionalNormal",
    "Flow",
    "GatedTransition",
    "Laplace",
    "Mixture",
    "Prior",
    "StandardNormal",
    "StudentT",
    "VampPrior",
]


class StandardNormal(Prior):
    """The standard normal prior, P(z) = N(0, I).

    Args:
        latent_dim: the size of z.

    Source: Kingma & Welling, arXiv 1312.6114.

    >>> StandardNormal(8)().sample().shape
    torch.Size([8])
    """

    def forward(self, c: Tensor | None = None) -> TorchDistribution:
        return dist.Normal(self.zeros, torch.ones_like(self.zeros)).to_event(1)


class Laplace(Prior):
    """Independent Laplace distributions, P(z) = prod_i exp(-|z_i|) / 2: sparser codes than the Gaussian's.

    Args:
        latent_dim: the size of z.

    Source: the sparse prior of Barello, Charles & Pillow, Sparse-Coding Variational Auto-Encoders, bioRxiv 399246.

    >>> Laplace(8)().log_prob(torch.zeros(8)).exp().item() == 0.5**8
    True
    """

    def forward(self, c: Tensor | None = None) -> TorchDistribution:
        return dist.Laplace(self.zeros, torch.ones_like(self.zeros)).to_event(1)


class StudentT(Prior):
    """Independent Student-t distributions, P(z) = prod_i t_df(z_i): heavy tails, for outlying codes.

    Args:
        latent_dim: the size of z.
        df: degrees of freedom: a number is fixed, None lets it be learned, one for each dimension, from 5 on.

    Raises:
        InputError: degrees of freedom that are not above zero.

    Source: Takahashi et al., Student-t Variational Autoencoder for Robust Density Estimation, IJCAI 2018.

    >>> StudentT(8, df=3)().sample().shape
    torch.Size([8])
    """

    def __init__(self, latent_dim: int = 8, df: float | None = 5.0) -> None:
        super().__init__(latent_dim)
        log_df = torch.full((self.latent_dim,), math.log(5.0 if df is None else positive_number("df", df)))
        self.log_df = nn.Parameter(log_df) if df is None else nn.Buffer(log_df)

    def forward(self, c: Tensor | None = None) -> TorchDistribution:
        return dist.StudentT(self.log_df.exp(), self.zeros, torch.ones_like(self.zeros)).to_event(1)


class Mixture(Prior):
    """A learned mixture of diagonal Gaussians, P(z) = sum_c pi_c N(z; mu_c, diag(s_c^2)).

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
        shape = (self.num_components, self.latent_dim)
        check_memory("components", math.prod(shape))
        self.logits = nn.Parameter(torch.zeros(self.num_components))
        self.loc = nn.Parameter(torch.randn(shape))
        self.log_scale = nn.Parameter(torch.zeros(shape))

    def forward(self, c: Tensor | None = None) -> TorchDistribution:
        return GaussianMixture(self.logits, self.loc, self.log_scale.exp())


class ConditionalNormal(Prior):
    """A learned conditional prior, P(z | y) = N(z; m(y), diag(s(y)^2)), for conditional models.

    Args:
        latent_dim: the size of z.
        hidden: the widths of the network that gives m and s.

    Raises:
        InputError: a model without a condition, or a second model.

    Source: the prior network of Sohn et al., Learning Structured Output Representation using Deep
    Conditional Generative Models, NeurIPS 2015.

    >>> ConditionalNormal(8).bind((10,))(torch.zeros(5, 10)).sample().shape
    torch.Size([5, 8])
    """

    def __init__(self, latent_dim: int = 8, hidden: Widths = (256,)) -> None:
        super().__init__(latent_dim)
        self.hidden = hidden
        self.network: MLP | None = None

    def bind(self, c_shape: Shape) -> Self:
        """Make the network for c of this shape."""
        if self.network is not None:
            raise InputError("Expected a ConditionalNormal of its own for each model; got one in use. Make another.")
        self.network = MLP(c_shape, (2 * self.latent_dim,), hidden=self.hidden)
        return self

    def forward(self, c: Tensor | None = None) -> TorchDistribution:
        if self.network is None or c is None:
            raise InputError(
                "Expected a model with a condition for ConditionalNormal; got one without. Use another prior, such as "
                "StandardNormal, or a conditional model, such as CVAE."
            )
        return diagonal_normal(self.network(c))


class GatedTransition(Prior):
    """P(z_t | z_(t-1)) of a series, as `forward(z)` of z = z_(t-1): a gate between a linear map and a network.

        m = (1 - g) * (W z + b) + g * f(z),    g = sigmoid(network of z),    s = softplus(V relu(f(z)) + c) + 1e-6
        P(z_t | z_(t-1)) = N(z_t; m, diag(s^2)),    P(z_1) = that of a learned z_0

    W starts as the identity. In a model without steps it is P(z_1), a Gaussian.

    Args:
        latent_dim: the size of z_t.
        hidden: the widths of the network of the gate, and of f.

    Source: Krishnan, Shalit & Sontag, arXiv 1609.09869, section 5.

    >>> transition = GatedTransition(8)
    >>> transition().sample().shape, transition(torch.zeros(5, 8)).sample().shape
    (torch.Size([8]), torch.Size([5, 8]))
    """

    def __init__(self, latent_dim: int = 8, hidden: Widths = (64,)) -> None:
        super().__init__(latent_dim)
        shape = (self.latent_dim,)
        self.start = nn.Parameter(0.1 * torch.randn(self.latent_dim))  # at 0 it would leave weights without gradients
        self.gate, self.proposed = (MLP(shape, shape, hidden=hidden) for _ in range(2))
        self.linear, self.scale = (nn.Linear(self.latent_dim, self.latent_dim) for _ in range(2))
        with torch.no_grad():
            self.linear.weight.copy_(torch.eye(self.latent_dim))
            self.linear.bias.zero_()

    def forward(self, c: Tensor | None = None) -> TorchDistribution:
        z = self.start if c is None else c
        gate, proposed = self.gate(z).sigmoid(), self.proposed(z)
        mean = (1 - gate) * self.linear(z) + gate * proposed
        return dist.Normal(mean, positive_scale(self.scale(proposed.relu()))).to_event(1)


class VampPrior(FromData, Prior):
    """A mixture of the guide's own posteriors at learned pseudo-inputs, P(z) = (1 / C) sum_c Q(z | u_c).

    In a conditional model P(z | y) = (1 / C) sum_c Q(z | u_c, y). The guide that is made for the model gives Q of its
    first latent site; without one there is no P(z) yet. Means and scales come from its encoder, so the prior is as
    multimodal as the aggregate posterior, and keeps up with it.

    Args:
        latent_dim: the size of z.
        num_components: C, the number of pseudo-inputs; they start at noise about 0.5, of other data than numbers in
            [0, 1] at such noise about their mean, as wide as they are.
        inputs: a tensor: start at these instead, [C, *event_shape], for instance some training data.

    Raises:
        InputError: a second guide; in use, none, or one whose Q of that site does not depend on x alone.

    Source: Tomczak & Welling, arXiv 1705.07120.

    >>> from ppl_vae.guides import MeanField
    >>> from ppl_vae.models import VAE
    >>> model = VAE((1, 8, 8), prior=VampPrior(8, num_components=5))
    >>> guide = MeanField(model)
    >>> model.prior().sample((3,)).shape
    torch.Size([3, 8])
    """

    def __init__(self, latent_dim: int = 8, num_components: int = 500, inputs: Tensor | None = None) -> None:
        super().__init__(latent_dim)
        if not isinstance(inputs, Tensor | None):
            got = shown(inputs)
            raise InputError(f"Expected inputs to be a tensor of pseudo-inputs; got {got}. Or set num_components.")
        inputs = None if inputs is None else as_tensor(inputs)
        self.given = inputs is not None
        self.num_components = positive_int("num_components", num_components) if inputs is None else len(inputs)
        self.inputs = None if inputs is None else nn.Parameter(_floats(inputs))
        self.guide: Any = None

    def meet(self, guide: Any) -> None:
        """Take the posteriors of this guide, and no other, from now on; it says so itself as it is made."""
        if self.guide is not None:
            raise InputError(
                f"Expected one guide for a model with a VampPrior, which is made of it; got another, "
                f"{type(guide).__name__}. Make a model for each guide."
            )
        vars(self)["guide"] = guide  # not a part of the prior
        if self.inputs is None:
            self.inputs = nn.Parameter(torch.randn(self.num_components, *guide.event_shape).to(self.zeros) / 2 + 0.5)

    @property
    def x_shape(self) -> torch.Size:
        """The shape of one pseudo-input."""
        return torch.Size() if self.inputs is None else self.inputs.shape[1:]

    def _start(self, x: Tensor) -> None:
        known = x[~x.isnan()]
        inside = bool(((known >= 0) & (known <= 1)).all())
        if self.inputs is not None and not (self.given or inside):
            mean, scale = mean_and_scale(x)
            self.inputs.copy_(mean + scale * (2 * self.inputs - 1))

    def serves(self, guide: Any) -> bool:
        """Return whether P(z) is made of this guide, and not of another, as after a copy of the model alone."""
        return self.guide is None or self.guide is guide

    def forward(self, c: Tensor | None = None) -> TorchDistribution:
        guide = self.guide
        if guide is None:
            raise InputError(
                "Expected a guide, for VampPrior is made of its Q(z | x); got none. Make one for the model."
            )
        if not hasattr(guide, "latents"):  # it is being made, and asks what shape z has
            return dist.Normal(self.zeros, torch.ones_like(self.zeros)).to_event(1)
        site = next(iter(guide.latents))
        posteriors = guide.posterior(self.inputs) if c is None else guide.posterior_given(self.inputs, c)
        if site not in posteriors or posteriors[site].event_shape != self.event_shape:
            raise InputError(
                f"Expected a guide whose Q({site} | x) depends on x alone, of shape {tuple(self.event_shape)}, for "
                f"VampPrior; got { {name: tuple(q.event_shape) for name, q in posteriors.items()} } from "
                f"{type(guide).__name__}. Use another guide, as mean_field or a top-down one, or another prior."
            )
        q = posteriors[site]
        logits = torch.zeros_like(self.zeros[:1]).expand(self.num_components)
        normal = elementwise(q)
        if isinstance(normal, dist.Normal):
            return GaussianMixture(logits, normal.loc, normal.scale)
        return dist.MixtureSameFamily(dist.Categorical(logits=logits.expand(q.batch_shape)), q)


class Flow(Prior):
    """A normalizing flow, P(z) = N(f(z); 0, I) |det df/dz|, with f autoregressive: evaluated in one pass.

    To draw z takes as many passes as z has dimensions.

    Args:
        latent_dim: the size of z.
        kind: "neural_spline" (monotonic rational-quadratic splines on [-5, 5]) or "masked_autoregressive" (affine).
        transforms: how many are composed; the order of the dimensions is reversed from one to the next.
        hidden: the widths of the network of each.

    Raises:
        InputError: an unknown kind, or numbers that are not above zero.

    Source: Papamakarios et al., arXiv 1705.07057; Durkan et al., arXiv 1906.04032; zuko.

    >>> Flow(3, transforms=2, hidden=(16,))().log_prob(torch.zeros(5, 3)).shape
    torch.Size([5])
    """

    def __init__(
        self, latent_dim: int = 8, kind: str = "neural_spline", transforms: int = 3, hidden: Widths = (64, 64)
    ) -> None:
        super().__init__(latent_dim)
        self.flow = autoregressive(kind, self.latent_dim, 0, transforms, widths("hidden", hidden))

    def forward(self, c: Tensor | None = None) -> TorchDistribution:
        f = self.flow()
        base = dist.Normal(self.zeros, torch.ones_like(self.zeros)).to_event(1)
        return dist.TransformedDistribution(base, [Remembering(f.inv, f)])


class LibrarySize(FromData):
    """A log-normal prior of the size l of a datum of counts, log l = m + s u with u ~ N(0, 1).

    m and s are mean and standard deviation of the log totals of the data (0 and 1 before `start_from`). A model samples
    u, so that its latents are on a unit scale.

    Args:
        x_shape: the shape of one datum.

    Source: Lopez et al., Deep generative modeling for single-cell transcriptomics, Nature Methods 15 (2018).

    >>> size = LibrarySize((2,))
    >>> size.start_from(torch.tensor([[1.0, 0.0], [50.0, 50.0]]))
    >>> size.log_size(size().sample()).shape, size.log_size(torch.tensor(0.0)).exp()
    (torch.Size([]), tensor(10.))
    """

    def __init__(self, x_shape: Shape) -> None:
        super().__init__()
        self._x_shape = torch.Size(x_shape)
        self.data_mean, self.data_scale = nn.Buffer(torch.zeros(())), nn.Buffer(torch.ones(()))

    @property
    def x_shape(self) -> torch.Size:
        """The shape of one datum."""
        return self._x_shape

    def _start(self, x: Tensor) -> None:
        log_totals = log_total(x, len(self.x_shape)).double()
        self.data_mean.copy_(log_totals.mean())
        self.data_scale.copy_(log_totals.std(correction=0))

    def forward(self) -> TorchDistribution:
        """Return P(u)."""
        return dist.Normal(torch.zeros_like(self.data_mean), torch.ones_like(self.data_mean))

    def log_size(self, u: Tensor) -> Tensor:
        """Return log l of u [...]."""
        return self.data_mean + self.data_scale * u

    def observed(self, x: Tensor) -> Tensor:
        """Return the log of the total of each x [..., *x_shape], where l is taken from the data.

        Raises:
            InputError: some of x are missing.
        """
        if not nothing_is_missing() and bool(x.isnan().any()):
            raise InputError(
                "Expected counts without missing values, whose total is their size; got some. Let the size be latent "
                "(library='latent').",
                options="--set model.library=latent",
            )
        return log_total(x, len(self.x_shape))


def log_total(x: Tensor, num_dims: int) -> Tensor:
    """Return the log of the total of what is known of counts x [..., *event_shape], of half a count where it is 0."""
    return x.flatten(-num_dims).nansum(-1).clamp(min=0.5).log()


def _floats(x: Tensor) -> Tensor:
    """Return numbers of one's own that can have gradients."""
    return x.detach().clone() if x.is_floating_point() else x.float()
