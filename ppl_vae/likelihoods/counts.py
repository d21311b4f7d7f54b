"""Likelihoods of counts, x in {0, 1, 2, ...}: photons, reads of genes, words in a document."""

import math
from typing import Any, Self

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor, nn
from torch.distributions import constraints
from torch.nn.functional import softplus

from ppl_vae.distributions import counts
from ppl_vae.errors import InputError, is_one_of, positive_int, shown
from ppl_vae.likelihoods.starts import FEWEST, StartsFromFeatures
from ppl_vae.networks import Shape
from ppl_vae.parts import Preprocessing
from ppl_vae.preprocessing import Log1p
from ppl_vae.utils.moments import mean_and_scale
from ppl_vae.utils.precision import full_precision

SMALLEST_R = 1e-6  # of the r of a negative binomial
MOST_R = 1e3  # to start from: nearly Poisson
DISPERSIONS = ("per_datum", "per_dimension")
UNLIKELY, LIKELY = 0.01, 0.9  # of a zero that is not the count's own, to start from


class OfCounts(StartsFromFeatures):
    """A likelihood of counts: guides read log(1 + x)."""

    def preprocessing(self) -> Preprocessing | None:
        return Log1p()


class OfMeans(OfCounts):
    """A likelihood of counts by their means; given the size l of a datum, the means are shares of it.

        E[x_i | h, l] = l softmax(log mu + a)_i    instead of    mu_i exp(a_i)

    Subclasses keep log mu as `data_log_mean`, and a is the parameter of h numbered `place_of_a`. With `shares`, what
    starts from the data is that of the shares; see `of_shares`.
    """

    place_of_a = 0
    shares = False
    data_log_mean: Tensor

    def forward(self, h: Tensor, log_l: Tensor | None = None) -> TorchDistribution:
        """Return P(x | h), or P(x | h, l) for log l of shape [...], that of h [..., *h_shape] without its own."""
        if log_l is None:
            return super().forward(h)
        dim = len(self.event_shape)
        params = list(full_precision(h).chunk(self.num_params, dim=-dim))
        a = self.data_log_mean + params[self.place_of_a]
        log_shares = a - a.flatten(-dim).logsumexp(-1)[(..., *[None] * dim)]
        log_mean = log_l[(..., *[None] * dim)] + log_shares
        params[self.place_of_a] = log_mean - self.data_log_mean
        return super().forward(torch.cat(torch.broadcast_tensors(*params), dim=-dim))

    def sizes(self, x: Tensor) -> Tensor:
        """Return the l of each x [N, *event_shape] where means are shares of it, else 1, [N, 1, ...]."""
        shape = (-1, *[1] * len(self.event_shape))
        return (x.nansum(list(range(1, x.dim()))).clamp(min=0.5) if self.shares else x.new_ones(len(x))).reshape(shape)

    def mean_of(self, x: Tensor) -> Tensor:
        """Return the mean of each feature of x, of half a count in all where there is none; or its share."""
        if not self.shares:
            return _mean(x)
        total = _where_known(x, self.sizes(x))
        return (mean_and_scale(x)[0] / total).clamp(min=0.5 / (len(x) * float(total.max())))


def of_shares(likelihood: Any) -> Any:
    """Return the same likelihood, which will be given the size l of each datum with h, as `likelihood(h, log_l)`.

    Raises:
        InputError: a likelihood that takes no size.

    >>> of_shares(Poisson()).bind((4,))(torch.zeros(4), torch.tensor(12.0).log()).mean
    tensor([3., 3., 3., 3.])
    """
    if not isinstance(likelihood, OfMeans):
        raise InputError(
            f"Expected a likelihood of counts by their means, such as NegativeBinomial(), "
            f"ZeroInflatedNegativeBinomial() or Poisson(), whose means can be shares of a size; got "
            f"{type(likelihood).__name__}. Choose one of them, or a model without sizes, such as VAE."
        )
    likelihood.shares = True
    return likelihood


class OfDispersion(OfMeans):
    """A negative binomial, zero-inflated or not: r is given by the decoder for each number, or one for each feature."""

    def __init__(self, dispersion: str, num_params: int) -> None:
        super().__init__()
        if not is_one_of(dispersion, DISPERSIONS):
            raise InputError(
                f"Expected dispersion to be {' or '.join(map(repr, DISPERSIONS))}; got {shown(dispersion)}."
            )
        self.per_dimension = is_one_of(dispersion, ["per_dimension"])
        self.num_params = num_params - self.per_dimension
        self.data_log_mean, self.data_r = nn.Buffer(torch.zeros(())), nn.Buffer(torch.ones(()))
        if self.per_dimension:
            self.log_r = nn.Parameter(torch.zeros(()))

    def bind(self, event_shape: Shape) -> Self:
        """Say what shape one datum has, and make an r for each dimension where that was asked for."""
        super().bind(event_shape)
        if self.per_dimension and self.log_r.shape != self.event_shape:
            self.log_r = nn.Parameter(self.log_r.detach().expand(self.event_shape).clone())
        return self

    def r(self, b: Tensor | None) -> Tensor:
        """Return r for what the decoder gives, or, where it gives nothing, one for each dimension."""
        return self.data_r * (self.log_r.exp() * math.log(2) if b is None else softplus(b)) + SMALLEST_R

    def r_of(self, x: Tensor) -> Tensor:
        """Return the r of each feature, with which l mu has the variance of x; or that of its shares."""
        if not self.shares:
            return _r(x)
        l, share = self.sizes(x), self.mean_of(x)  # noqa: E741
        more = mean_and_scale((x - l * share).square() - l * share)[0] / share.square()
        return torch.where(more > 0, _where_known(x, l.square()) / more, MOST_R).clamp(FEWEST, MOST_R)


class Binomial(OfCounts):
    """Counts out of a known number n, P(x | h) = prod_i Binomial(x_i; n, sigmoid(a_i + h_i)), x in {0, ..., n}.

    a is that of the mean of each feature in the data, 0 before `start_from`.

    Args:
        total_count: n.

    Raises:
        InputError: a total_count below 1.

    >>> Binomial(16).bind((3,))(torch.zeros(3)).mean
    tensor([8., 8., 8.])
    """

    def __init__(self, total_count: int = 1) -> None:
        super().__init__()
        self.total_count = positive_int("total_count", total_count)
        self.data_logit = nn.Buffer(torch.zeros(()))

    def start(self, x: Tensor) -> dict[str, Tensor]:
        some = 0.5 / (len(x) * self.total_count)  # no share is 0 or 1
        return {"data_logit": (mean_and_scale(x)[0] / self.total_count).clamp(some, 1 - some).logit()}

    @classmethod
    def options_for(cls, x: Tensor) -> dict[str, Any] | None:
        """Return the largest count as the total."""
        fits = bool(constraints.nonnegative_integer.check(x).all())
        return {"total_count": max(1, int(x.max()))} if fits else None

    def distribution(self, logits: Tensor) -> TorchDistribution:
        return counts.Binomial(torch.full_like(logits, self.total_count), logits=self.data_logit + logits)


class Poisson(OfMeans):
    """Counts, P(x | h) = prod_i Poisson(x_i; mu_i exp(h_i)): their variance is their mean.

    mu is the mean of each feature in the data, 1 before `start_from`.

    >>> Poisson().bind((3,))(torch.zeros(3)).mean
    tensor([1., 1., 1.])
    """

    def __init__(self) -> None:
        super().__init__()
        self.data_log_mean = nn.Buffer(torch.zeros(()))

    def start(self, x: Tensor) -> dict[str, Tensor]:
        return {"data_log_mean": self.mean_of(x).log()}

    def distribution(self, log_rate: Tensor) -> TorchDistribution:
        return counts.Poisson((self.data_log_mean + log_rate).exp())  # type: ignore[no-untyped-call]


class NegativeBinomial(OfDispersion):
    """Counts that vary more than Poisson's, P(x | h) = prod_i NB(x_i; mean m_i, r_i), with (a, b) = h.

    The variance is m + m^2 / r with m = mu exp(a) and r = s softplus(b) + 1e-6: a Poisson distribution whose rate has
    a gamma distribution. mu is the mean of each feature in the data, and s what makes the r of b = 0 that of their
    variance; both are 1 before `start_from`.

    Args:
        dispersion: "per_datum", where the decoder gives an r for each number of each datum (scVI's "gene-cell"), or
            "per_dimension", r_i = s_i ln 2 exp(log_r_i) + 1e-6 with log_r learned, one for each (its "gene"); h = a.

    Raises:
        InputError: another dispersion.

    Source: Lopez et al., Deep generative modeling for single-cell transcriptomics, Nature Methods 15 (2018).

    >>> NegativeBinomial().bind((3,))(torch.zeros(6)).mean
    tensor([1., 1., 1.])
    """

    def __init__(self, dispersion: str = "per_datum") -> None:
        super().__init__(dispersion, num_params=2)

    def start(self, x: Tensor) -> dict[str, Tensor]:
        return {"data_log_mean": self.mean_of(x).log(), "data_r": self.r_of(x) / math.log(2)}

    def distribution(self, a: Tensor, b: Tensor | None = None) -> TorchDistribution:
        return _negative_binomial(self.data_log_mean + a, self.r(b))


class ZeroInflatedPoisson(OfMeans):
    """Counts with more zeros than Poisson's: zero with probability sigmoid(c + g), else Poisson(mu exp(a)), (g, a) = h.

    Both start from the data, where c are the zeros beyond a Poisson's of the same mean; before, c = 0 and mu = 1.

    Source: Lambert, Zero-inflated Poisson regression, Technometrics 34 (1992).

    >>> ZeroInflatedPoisson().bind((3,))(torch.zeros(6)).mean
    tensor([0.5000, 0.5000, 0.5000])
    """

    num_params, place_of_a = 2, 1

    def __init__(self) -> None:
        super().__init__()
        self.data_log_mean, self.data_gate = nn.Buffer(torch.zeros(())), nn.Buffer(torch.zeros(()))

    def start(self, x: Tensor) -> dict[str, Tensor]:
        mean = self.mean_of(x)
        gate = _more_zeros(x, torch.exp(-self.sizes(x) * mean).mean(0))
        return {"data_log_mean": (mean / (1 - gate)).log(), "data_gate": gate.logit()}

    def distribution(self, gate: Tensor, log_rate: Tensor) -> TorchDistribution:
        rate = (self.data_log_mean + log_rate).exp()
        inner = counts.Poisson(rate)  # type: ignore[no-untyped-call]
        return counts.ZeroInflated(inner, gate_logits=self.data_gate + gate)


class ZeroInflatedNegativeBinomial(OfDispersion):
    """Counts with more zeros than `NegativeBinomial`: zero with probability sigmoid(c + g), (g, a, b) = h.

    All start from the data, where c are the zeros beyond a negative binomial's of the same mean and variance.

    Args:
        dispersion: as that of `NegativeBinomial`; with "per_dimension" (g, a) = h.

    Raises:
        InputError: another dispersion.

    Source: Lopez et al., Deep generative modeling for single-cell transcriptomics, Nature Methods 15 (2018).

    >>> ZeroInflatedNegativeBinomial().bind((3,))(torch.zeros(9)).mean
    tensor([0.5000, 0.5000, 0.5000])
    """

    place_of_a = 1

    def __init__(self, dispersion: str = "per_datum") -> None:
        super().__init__(dispersion, num_params=3)
        self.data_gate = nn.Buffer(torch.zeros(()))

    def start(self, x: Tensor) -> dict[str, Tensor]:
        mean, r = self.mean_of(x), self.r_of(x)
        gate = _more_zeros(x, ((r / (r + self.sizes(x) * mean)) ** r).mean(0))
        return {"data_log_mean": (mean / (1 - gate)).log(), "data_r": r / math.log(2), "data_gate": gate.logit()}

    def distribution(self, gate: Tensor, a: Tensor, b: Tensor | None = None) -> TorchDistribution:
        inner = _negative_binomial(self.data_log_mean + a, self.r(b))
        return counts.ZeroInflated(inner, gate_logits=self.data_gate + gate)


class Multinomial(OfCounts):
    """A bag of words: how often each of D words stands in a document of n, P(x | h, n) = Multinomial(x; n, p).

        log P(x | h, n) = log n! - sum_i log x_i! + sum_i x_i log p_i,    p = softmax(log mu + h),    n = sum_i x_i

    mu is the mean of each feature in the data, 1 before `start_from`. n is read from x: the length of a document is
    given, not modelled.

    Args:
        total_count: n of what is generated.

    Raises:
        InputError: a total_count below 1.

    Source: Miao et al., arXiv 1511.06038; Liang et al., arXiv 1802.05814.

    >>> Multinomial(total_count=6).bind((3,))(torch.zeros(5, 3)).sample().sum(-1)
    tensor([6., 6., 6., 6., 6.])
    """

    def __init__(self, total_count: int = 100) -> None:
        super().__init__()
        self.total_count = positive_int("total_count", total_count)
        self.data_log_mean = nn.Buffer(torch.zeros(()))

    def start(self, x: Tensor) -> dict[str, Tensor]:
        return {"data_log_mean": _mean(x).log()}

    @property
    def support(self) -> Any:
        return constraints.nonnegative_integer

    def distribution(self, logits: Tensor) -> TorchDistribution:
        return counts.Multinomial(self.data_log_mean + logits, self.total_count, len(self.event_shape))


def _negative_binomial(log_mean: Tensor, r: Tensor) -> TorchDistribution:
    """Return the negative binomial of a mean: its odds are mean / r."""
    return counts.NegativeBinomial(r, logits=log_mean - r.log())


def _mean(x: Tensor) -> Tensor:
    """Return the mean of each feature of counts x [N, *event_shape], of half a count in all where there is none."""
    return mean_and_scale(x)[0].clamp(min=0.5 / len(x))


def _where_known(x: Tensor, of_data: Tensor) -> Tensor:
    """Return the mean of a number of each datum [N, 1, ...] over those that have a feature, for each feature."""
    return mean_and_scale(torch.where(x.isnan(), x, of_data))[0].clamp(min=1e-6)


def _r(x: Tensor) -> Tensor:
    """Return the r of a negative binomial with the mean and the variance of each feature."""
    mean, scale = mean_and_scale(x)
    more = scale.square() - mean
    return torch.where(more > 0, mean.square() / more, MOST_R).clamp(FEWEST, MOST_R)


def _more_zeros(x: Tensor, expected: Tensor) -> Tensor:
    """Return the share of zeros in each feature beyond an expected one, of all that are not expected to be zero."""
    zeros = mean_and_scale(torch.where(x.isnan(), x, (x == 0).to(x)))[0]
    return ((zeros - expected) / (1 - expected)).clamp(UNLIKELY, LIKELY)
