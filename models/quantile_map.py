"""One-dimensional x of any density by a map of a Gaussian z: where sigma goes to 0, a Gaussian Q(z | x) is exact."""

import math
from collections.abc import Sequence

import pyro
import torch
from pyro.distributions import Categorical, MixtureSameFamily, Normal
from torch import Tensor
from torch.special import log_ndtr, ndtri

from ppl_vae.base import Model
from ppl_vae.errors import InputError, positive_number, real_number, shown
from ppl_vae.likelihoods import Gaussian
from ppl_vae.priors import StandardNormal

MOST_STEPS = 100  # of the safe Newton method; a bisection alone needs about 60
NEAR = 1e-9  # relative; a further step of Newton's method squares it
SMALLEST = -600.0  # exp of less is not a normal number
NEWTON_STEPS = 3  # in the far tail the start is off by 0.13 at most


class QuantileMap(Model):
    """P(x, z) = N(x; f(z), sigma^2) N(z; 0, 1) with f = F^-1 o Phi, F the distribution function of P_gt.

    P_gt(x) = sum_c w_c N(x; m_c, s_c^2) is the density that is to be matched: f(z) for z ~ N(0, 1) has it, and
    P_sigma(x) = integral of P(x, z) dz = sum_c w_c N(x; m_c, s_c^2 + sigma^2) goes to it as sigma goes to 0.
    Nothing is learned, all is computed in double precision.
    Shapes: z [N, 1], x [N, 1].
    Args: event_shape is (1,); sigma as in `likelihoods.Gaussian`; weights (made to sum to 1), means and scales are
        those of P_gt, one number for each of its Gaussians.
    Raises: InputError for another event_shape, lists of different lengths, weights or scales that are not above zero.
    Source: appendix A of Doersch, arXiv 1606.05908.

    >>> model = QuantileMap(sigma=0.01)
    >>> x = model(size=5)
    >>> torch.allclose(model.decode(model.encode(x)), x)
    True
    """

    weights: Tensor
    means: Tensor
    scales: Tensor

    def __init__(
        self,
        event_shape: Sequence[int] = (1,),
        sigma: float = 0.1,
        weights: Sequence[float] = (0.3, 0.45, 0.25),
        means: Sequence[float] = (-2.0, 0.0, 1.8),
        scales: Sequence[float] = (0.6, 0.8, 0.4),
    ) -> None:
        super().__init__(event_shape)
        if self.event_shape != (1,):
            raise InputError(
                f"Expected event_shape (1,) for QuantileMap, whose x is one number; got {tuple(event_shape)}. "
                f"Use another model, for instance vae."
            )
        for name, values in (("weights", weights), ("means", means), ("scales", scales)):
            if not isinstance(values, tuple | list) or any(real_number(value) is None for value in values):
                raise InputError(
                    f"Expected {name} to be a list of numbers; got {shown(values)}. Write (0.5, 0.5), say."
                )
        if not len(weights) == len(means) == len(scales) > 0:
            raise InputError(
                f"Expected a weight, a mean and a scale for each Gaussian; got {len(weights)}, {len(means)} and "
                f"{len(scales)} of them. Give lists of one length."
            )
        w = torch.tensor([positive_number("each weight", w) for w in weights], dtype=torch.double)
        s = torch.tensor([positive_number("each scale", s) for s in scales], dtype=torch.double)
        self.register_buffer("weights", w / w.sum())
        self.register_buffer("means", torch.tensor([float(m) for m in means], dtype=torch.double))
        self.register_buffer("scales", s)
        self.prior = StandardNormal(1).double()
        self.likelihood = Gaussian(positive_number("sigma", sigma)).double().bind(event_shape)

    def forward(self, x: Tensor | None = None, *, size: int | None = None) -> Tensor:
        """Observe x, or generate `size` of them."""
        with self.plate(x, size):
            z = pyro.sample("z", self.prior())
            return pyro.sample("x", self.likelihood(self.decode(z)), obs=x)

    def decode(self, z: Tensor) -> Tensor:
        """Return f(z) = F^-1(Phi(z)) for z of any shape, by Newton's method on g(x) = z inside a bracket."""
        z = z.double()
        with torch.no_grad():
            # Left of the z-quantiles of all Gaussians F is below Phi(z), right of them above.
            quantiles = self.means + self.scales * z[..., None]
            low, high = quantiles.amin(-1), quantiles.amax(-1)
            x = (low + high) / 2
            for _ in range(MOST_STEPS):
                z_of_x = self.encode(x)
                excess, slope = z_of_x - z, self._slope(x, z_of_x)
                low, high = torch.where(excess < 0, x, low), torch.where(excess > 0, x, high)
                step = x - excess / slope
                step = torch.where((step >= low) & (step <= high), step, (low + high) / 2)
                x, moved = step, (step - x).abs()
                if bool((moved <= NEAR * (1 + x.abs())).all()):
                    break
        # One more step, which also gives f its derivative 1 / g'.
        z_of_x = self.encode(x)
        return x - (z_of_x - z) / self._slope(x, z_of_x)

    def encode(self, x: Tensor) -> Tensor:
        """Return g(x) = f^-1(x) = Phi^-1(F(x)) for x of any shape, exact in both tails."""
        standard = (x.double()[..., None] - self.means) / self.scales
        lower, upper = (torch.logsumexp(log_ndtr(side) + self.weights.log(), -1) for side in (standard, -standard))
        return torch.where(lower < upper, 1.0, -1.0) * _quantile(torch.minimum(lower, upper))

    def slope(self, x: Tensor) -> Tensor:
        """Return g'(x) = P_gt(x) / N(g(x); 0, 1) for x of any shape."""
        return self._slope(x, self.encode(x))

    def _slope(self, x: Tensor, z: Tensor) -> Tensor:
        return (self.log_p_gt(x) - _log_normal(z)).exp()

    def log_p_gt(self, x: Tensor) -> Tensor:
        """Return log P_gt(x) in nats for x of any shape, elementwise."""
        return self._log_mixture(x, self.scales)

    def exact_log_px(self, x: Tensor) -> Tensor:
        """Return log P_sigma(x) in nats, [N], for x [N, 1]: noise widens each Gaussian of P_gt."""
        return self._log_mixture(x, (self.scales**2 + self.likelihood.sigma**2).sqrt()).squeeze(-1)

    def _log_mixture(self, x: Tensor, scales: Tensor) -> Tensor:
        components = Normal(self.means, scales)
        return MixtureSameFamily(Categorical(self.weights), components).log_prob(x.double())


def _log_normal(z: Tensor) -> Tensor:
    return -(z**2) / 2 - math.log(2 * math.pi) / 2


def _quantile(log_p: Tensor) -> Tensor:
    """Return z <= 0 with log Phi(z) = log_p <= log 1/2."""
    # Where p underflows, Newton's method on log Phi, which is concave, from the left of the root never overshoots.
    z = torch.where(log_p > SMALLEST, ndtri(log_p.exp()), -(-2 * log_p).sqrt())
    for _ in range(NEWTON_STEPS):
        value = log_ndtr(z)
        z = z - (value - log_p) * (value - _log_normal(z)).exp()
    return z
