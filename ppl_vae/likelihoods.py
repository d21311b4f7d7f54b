"""Likelihoods P(x | h): modules whose `forward(h)` returns a distribution over one datum x.

h is what the decoder gives: it has the shape of x, with the first dimension `num_params` times as
long, and any leading batch dimensions (samples x data). The base class does the shapes, a new
likelihood is one method (`distribution`), elementwise, and one row in `tests/test_parts.py`.
"""

import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution
from torch import Tensor, nn

from ppl_vae.errors import positive_number
from ppl_vae.parts import Likelihood

__all__ = ["Bernoulli", "Gaussian", "Likelihood"]


class Bernoulli(Likelihood):
    """Black and white pixels, P(x | h) = prod_i Bernoulli(x_i; sigmoid(h_i)), x in {0, 1}.

    Grey pixels are refused (`fit` and `estimate_evidence` check): binarize them, or use a likelihood
    for real numbers.

    >>> Bernoulli().bind((1, 8, 8))(torch.zeros(5, 1, 8, 8)).log_prob(torch.ones(1, 8, 8)).shape
    torch.Size([5])
    """

    def distribution(self, *params: Tensor) -> TorchDistribution:
        """Return Bernoulli(sigmoid(h))."""
        return dist.Bernoulli(logits=params[0])


class Gaussian(Likelihood):
    """Real-valued x, P(x | h) = N(x; h, sigma^2 I).

    Args:
        sigma: the standard deviation, one for all dimensions: a number is a fixed hyperparameter,
            None lets it be learned.
        initial_sigma: where a learned sigma starts.

    Raises:
        InputError: a sigma that is not above zero.

    Source: section 2 of Doersch, arXiv 1606.05908.

    >>> Gaussian(sigma=0.1).bind((3,))(torch.zeros(3)).stddev
    tensor([0.1000, 0.1000, 0.1000])
    """

    log_sigma: Tensor

    def __init__(self, sigma: float | None = None, initial_sigma: float = 0.1) -> None:
        super().__init__()
        start = positive_number("initial_sigma", initial_sigma) if sigma is None else positive_number("sigma", sigma)
        log_sigma = torch.tensor(start).log()
        if sigma is None:
            self.log_sigma = nn.Parameter(log_sigma)
        else:
            self.register_buffer("log_sigma", log_sigma)

    @property
    def sigma(self) -> Tensor:
        """The standard deviation of P(x | h), a scalar."""
        return self.log_sigma.exp()

    def distribution(self, *params: Tensor) -> TorchDistribution:
        """Return N(h, sigma^2)."""
        return dist.Normal(params[0], self.sigma)
