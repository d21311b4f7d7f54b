"""Likelihoods P(x | h): modules whose `forward(h)` returns a distribution over one datum x.

h is what the decoder gives: it has the shape of x, with the first dimension `num_params` times as
long, and any leading batch dimensions (samples x data). The base class does the shapes, a new
likelihood is one method (`distribution`), elementwise, and one row in `tests/test_parts.py`.
"""

from collections.abc import Sequence
from typing import Any, Self

import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution
from torch import Tensor, nn

from ppl_vae.errors import InputError, positive_number


class Likelihood(nn.Module):
    """P(x | h) = prod_i p(x_i | h_i): subclasses implement `distribution(*params)`.

    A model calls `bind(event_shape)` once, so that the likelihood knows which dimensions of h belong
    to one datum.
    """

    num_params: int = 1

    def __init__(self) -> None:
        super().__init__()
        self._event_shape: torch.Size | None = None

    def bind(self, event_shape: Sequence[int]) -> Self:
        """Say what shape one datum has, [*event_shape]; a likelihood serves one shape only."""
        shape = torch.Size(event_shape)
        if self._event_shape not in (None, shape):
            raise InputError(
                f"Expected one likelihood object per data shape; got one already bound to "
                f"{tuple(self.event_shape)} for {tuple(shape)}. Make a new {type(self).__name__}."
            )
        self._event_shape = shape
        return self

    @property
    def event_shape(self) -> torch.Size:
        """The shape of one datum."""
        if self._event_shape is None:
            raise InputError(
                f"Expected {type(self).__name__} to be bound to a data shape before use; got none. "
                f"Call {type(self).__name__}().bind(event_shape)."
            )
        return self._event_shape

    @property
    def h_shape(self) -> torch.Size:
        """The shape of h for one datum: what the decoder must give."""
        first, *rest = self.event_shape
        return torch.Size([self.num_params * first, *rest])

    @property
    def support(self) -> Any:
        """What values each number of x can have, a PyTorch constraint."""
        with torch.no_grad():
            return self.distribution(*(torch.zeros(()) for _ in range(self.num_params))).support

    def distribution(self, *params: Tensor) -> TorchDistribution:
        """Return the elementwise distribution of x given its parameters, each shaped like x."""
        raise TypeError(f"{type(self).__name__} has to define distribution(*params).")

    def forward(self, h: Tensor) -> TorchDistribution:
        """Return P(x | h) for h of shape [..., *h_shape]; event shape [*event_shape]."""
        dim = len(self.event_shape)
        if h.shape[-dim:] != self.h_shape:
            raise InputError(
                f"Expected {type(self).__name__} to be given h of shape [..., {', '.join(map(str, self.h_shape))}]; "
                f"got {tuple(h.shape)}. Let the decoder's out_shape be likelihood.h_shape."
            )
        params = h.chunk(self.num_params, dim=-dim) if self.num_params > 1 else (h,)
        return self.distribution(*params).to_event(dim)


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
