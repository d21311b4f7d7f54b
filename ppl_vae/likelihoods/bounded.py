"""Likelihoods of numbers above zero, and between 0 and 1: densities."""

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor, nn

from ppl_vae.distributions import bounded
from ppl_vae.likelihoods.real import LocationScale
from ppl_vae.likelihoods.starts import FEWEST, MOST, StartsFromFeatures, relative
from ppl_vae.parts import Preprocessing
from ppl_vae.preprocessing import Log, Logit
from ppl_vae.utils.moments import mean_and_scale


class LogNormal(LocationScale):
    """Numbers above zero over orders of magnitude, P(x | h) = prod_i N(log x_i; m_i, sigma^2) / x_i.

    m and sigma are those of log x, and start from its mean and standard deviation in the data.

    Args:
        sigma, initial_sigma: as those of `Gaussian`.

    Raises:
        InputError: a sigma that is not above zero, nor one of these words.

    Source: Nazabal et al., arXiv 1807.03653, section 3.1.

    >>> LogNormal(sigma=1.0).bind((3,))(torch.zeros(3)).log_prob(torch.ones(3))
    tensor(-2.7568)
    """

    def __init__(self, sigma: float | str | None = None, initial_sigma: float | None = None) -> None:
        super().__init__(sigma, initial_sigma)

    def preprocessing(self) -> Preprocessing | None:
        return Log()

    def _start(self, x: Tensor) -> None:
        super()._start(x.log())

    def _start_bound(self, x: Tensor) -> None:
        super()._start_bound(x.log())

    def density(self, m: Tensor, sigma: Tensor) -> TorchDistribution:
        return bounded.LogNormal(m, sigma)  # type: ignore[no-untyped-call]


class Gamma(StartsFromFeatures):
    """Positive numbers, P(x | h) = prod_i Gamma(x_i; shape k_i, mean mu_i), with (a, b) = h; their variance: mu^2 / k.

    mu = mu_0 exp(a) and k = k_0 (softplus(b) / ln 2 + 1e-6), with mu_0 and k_0 from the mean and the variance of the
    data, 1 before `start_from`. The rate is k / mu.

    >>> Gamma().bind((3,))(torch.zeros(6)).mean
    tensor([1., 1., 1.])
    """

    num_params = 2

    def __init__(self) -> None:
        super().__init__()
        self.data_log_mean, self.data_shape = nn.Buffer(torch.zeros(())), nn.Buffer(torch.ones(()))

    def preprocessing(self) -> Preprocessing | None:
        return Log()

    def start(self, x: Tensor) -> dict[str, Tensor]:
        mean, scale = mean_and_scale(x)
        mean = torch.where(mean > 0, mean, 1.0)  # of a feature without a value
        return {"data_log_mean": mean.log(), "data_shape": (mean / scale).square().clamp(FEWEST, MOST)}

    def distribution(self, a: Tensor, b: Tensor) -> TorchDistribution:
        shape = self.data_shape * relative(b)
        return bounded.Gamma(shape, shape * torch.exp(-a - self.data_log_mean))


class Beta(StartsFromFeatures):
    """Shares between 0 and 1, P(x | h) = prod_i Beta(x_i; mu_i k_i, (1 - mu_i) k_i), with (a, b) = h.

    The mean is mu = sigmoid(a_0 + a), the variance mu (1 - mu) / (k + 1), with k = k_0 (softplus(b) / ln 2 + 1e-6), and
    a_0 and k_0 from the mean and the variance of the data: 0 and 2, a flat density, before `start_from`.

    Source: Ferrari & Cribari-Neto, Beta regression for modelling rates and proportions, J. Appl. Statistics 31 (2004).

    >>> Beta().bind((3,))(torch.zeros(6)).mean
    tensor([0.5000, 0.5000, 0.5000])
    """

    num_params = 2

    def __init__(self) -> None:
        super().__init__()
        self.data_logit, self.data_concentration = nn.Buffer(torch.zeros(())), nn.Buffer(torch.tensor(2.0))

    def preprocessing(self) -> Preprocessing | None:
        return Logit()

    def start(self, x: Tensor) -> dict[str, Tensor]:
        mean, scale = mean_and_scale(x)
        mean = torch.where((mean > 0) & (mean < 1), mean, 0.5)
        concentration = (mean * (1 - mean) / scale.square() - 1).clamp(FEWEST, MOST)
        return {"data_logit": mean.logit(), "data_concentration": concentration}

    def distribution(self, a: Tensor, b: Tensor) -> TorchDistribution:
        logit, total = self.data_logit + a, self.data_concentration * relative(b)
        # Both means by themselves: 1 - sigmoid is 0 in single precision where the logit is 17.
        smallest = torch.finfo(logit.dtype).tiny
        ones, zeros = ((total * torch.sigmoid(sign * logit)).clamp(min=smallest) for sign in (1, -1))
        return bounded.Beta(ones, zeros)
