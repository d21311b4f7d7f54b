"""Likelihoods of real numbers, and of numbers in [0, 1]: densities.

A density of pixels that were rounded to 256 levels can be raised without end where the levels are; dequantize
such pixels (`data.load(name, dequantize="uniform")`), or take a likelihood of levels (`ppl_vae.likelihoods.pixels`).
"""

import math
from typing import Self

import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution
from torch import Tensor, nn
from torch.nn.functional import softplus

from ppl_vae.distributions import pixels
from ppl_vae.errors import InputError, is_one_of, positive_number, shown
from ppl_vae.networks import Shape
from ppl_vae.parts import Likelihood, Preprocessing
from ppl_vae.preprocessing import Standardize
from ppl_vae.utils.moments import feature_shape, mean_and_scale

START = 0.6  # of the spread: at all of it, a model that makes no use of z is an optimum that some never leave
FLOOR = 1e-3  # of initial_sigma: without one, the density of a pixel that never changes has no maximum


class LocationScale(Likelihood):
    """A density of (x - m) / sigma, with m what the decoder gives: subclasses implement `density(m, sigma)`.

    A network gives m on a unit scale: m = data_mean + data_scale h, with mean and standard deviation of each feature of
    the training data (0 and 1 before `start_from`). The density is that of x as it is.

    Args:
        sigma, initial_sigma: as those of `Gaussian`.
        name: what a subclass calls sigma.
    """

    def __init__(self, sigma: float | str | None, initial_sigma: float | None, name: str = "sigma") -> None:
        super().__init__()
        per_datum, self.per_dimension = is_one_of(sigma, ["per_datum"]), is_one_of(sigma, ["per_dimension"])
        learned = sigma is None or per_datum or self.per_dimension
        if isinstance(sigma, str) and not learned:
            raise InputError(
                f"Expected {name} to be a number above zero, 'per_dimension', 'per_datum' or None; got {shown(sigma)}."
            )
        self.relative = learned and initial_sigma is None  # sigma in units of the spread of each feature
        usual = 1.0 if initial_sigma is None else initial_sigma
        start = positive_number(f"initial_{name}", usual) if learned else positive_number(name, sigma)
        self.num_params = 2 if per_datum else 1
        self.data_mean, self.data_scale = nn.Buffer(torch.zeros(())), nn.Buffer(torch.ones(()))
        log_sigma = torch.tensor(start).log()
        self._log_start = float(log_sigma)
        self.log_sigma = nn.Parameter(log_sigma) if learned and not per_datum else nn.Buffer(log_sigma)

    def bind(self, event_shape: Shape) -> Self:
        """Say what shape one datum has, and make a sigma for each dimension where that was asked for."""
        super().bind(event_shape)
        if not self.data_mean.dim():
            shape = feature_shape(self.event_shape)
            self.data_mean = nn.Buffer(self.data_mean + self.data_mean.new_zeros(shape))
            self.data_scale = nn.Buffer(self.data_scale * self.data_scale.new_ones(shape))
        if self.per_dimension and self.log_sigma.shape != self.event_shape:
            self.log_sigma = nn.Parameter(self.log_sigma.detach().expand(self.event_shape).clone())
        return self

    def preprocessing(self) -> Preprocessing | None:
        return Standardize()

    @property
    def is_as_made(self) -> bool:
        """Whether nobody has set sigma."""
        return bool((self.log_sigma.detach() - self._log_start).abs().max() < 1e-6)

    def _start(self, x: Tensor) -> None:
        mean, scale = mean_and_scale(x)
        self.data_mean.copy_(mean)
        self.data_scale.copy_(scale)
        if self.relative:
            self.log_sigma.fill_(math.log(START))

    def _start_bound(self, x: Tensor) -> None:
        if self.relative:
            self.log_sigma.fill_(math.log(START) + mean_and_scale(x)[1].log().mean().item())

    @property
    def sigma(self) -> Tensor:
        """The scale of P(x | h) in units of x, broadcasting to [*event_shape]; if the decoder gives it, its unit."""
        return self.log_sigma.exp() * self.data_scale if self.relative else self.log_sigma.exp()

    def distribution(self, h: Tensor, r: Tensor | None = None) -> TorchDistribution:
        relative = 1.0 if r is None else softplus(r) / math.log(2) + FLOOR
        return self.density(self.data_mean + self.data_scale * h, self.sigma * relative)

    def density(self, m: Tensor, sigma: Tensor) -> TorchDistribution:
        """Return the elementwise density about m with scale sigma."""
        raise TypeError(f"{type(self).__name__} has to define density(m, sigma).")


class Gaussian(LocationScale):
    """Real-valued x, P(x | h) = prod_i N(x_i; m_i, sigma^2).

    Args:
        sigma: the standard deviation: a number is a fixed hyperparameter; None lets one be learned, in units of the
            spread of each feature, "per_dimension" one for each dimension; with "per_datum" the decoder gives one for
            each number of each datum, sigma = initial_sigma (softplus(r) / ln 2 + 0.001) and (m, r) = h.
        initial_sigma: where a sigma that is not fixed starts, in units of x, the same for all dimensions; None starts
            at 0.6 of the spread of each feature in the training data (at 1 before they are known).

    Raises:
        InputError: a sigma that is not above zero, nor one of these words.

    Source: section 2 of Doersch, arXiv 1606.05908; Mattei & Frellsen, arXiv 1802.04826, for why a sigma given by
    the decoder must not fall to zero.

    >>> Gaussian(sigma=0.1).bind((3,))(torch.zeros(3)).stddev
    tensor([0.1000, 0.1000, 0.1000])
    >>> Gaussian("per_dimension").bind((3,)).sigma.shape, Gaussian("per_datum").bind((3,)).h_shape
    (torch.Size([3]), torch.Size([6]))
    """

    def __init__(self, sigma: float | str | None = None, initial_sigma: float | None = None) -> None:
        super().__init__(sigma, initial_sigma)

    def density(self, m: Tensor, sigma: Tensor) -> TorchDistribution:
        return dist.Normal(m, sigma)


class Laplace(LocationScale):
    """Real-valued x with sharp peaks, P(x | h) = prod_i exp(-|x_i - m_i| / b) / (2 b): least absolute deviations.

    Args:
        scale: b, as sigma of `Gaussian`: a number, None, "per_dimension" or "per_datum".
        initial_scale: where a b that is not fixed starts, as initial_sigma of `Gaussian`.

    Raises:
        InputError: a scale that is not above zero, nor one of these words.

    >>> Laplace(scale=0.5).bind((3,))(torch.zeros(3)).log_prob(torch.zeros(3))
    tensor(0.)
    """

    def __init__(self, scale: float | str | None = None, initial_scale: float | None = None) -> None:
        super().__init__(scale, initial_scale, "scale")

    def density(self, m: Tensor, sigma: Tensor) -> TorchDistribution:
        return dist.Laplace(m, sigma)


class StudentT(LocationScale):
    """Real-valued x with outliers, P(x | h) = prod_i t_df((x_i - m_i) / s) / s.

    Args:
        scale: s, as sigma of `Gaussian`: a number, None, "per_dimension" or "per_datum".
        df: degrees of freedom, above 1, so that there is a mean.
        initial_scale: where an s that is not fixed starts, as initial_sigma of `Gaussian`.

    Raises:
        InputError: a scale that is not above zero, nor one of these words; df of 1 or less.

    Source: Takahashi et al., Student-t Variational Autoencoder for Robust Density Estimation, IJCAI 2018.

    >>> StudentT(df=3.0).bind((3,))(torch.zeros(5, 3)).mean.shape
    torch.Size([5, 3])
    """

    def __init__(self, scale: float | str | None = None, df: float = 5.0, initial_scale: float | None = None) -> None:
        super().__init__(scale, initial_scale, "scale")
        self.df = positive_number("df", df)
        if self.df <= 1:
            raise InputError(f"Expected df above 1, so that x has a mean; got {df!r}. Raise it.")

    def density(self, m: Tensor, sigma: Tensor) -> TorchDistribution:
        return dist.StudentT(self.df, m, sigma)


class ContinuousBernoulli(Likelihood):
    """Grey pixels in [0, 1] as a density, P(x | h) = prod_i C(h_i) p_i^x_i (1 - p_i)^(1 - x_i), p = sigmoid(h).

    C(h) = h / tanh(h / 2) is what the cross-entropy of grey pixels lacks to be a log-density.

    Source: Loaiza-Ganem & Cunningham, arXiv 1907.06845.

    >>> ContinuousBernoulli().bind((3,))(torch.zeros(3)).log_prob(torch.rand(3)).abs() < 1e-6
    tensor(True)
    """

    def distribution(self, logits: Tensor) -> TorchDistribution:
        return pixels.ContinuousBernoulli(logits=logits)
