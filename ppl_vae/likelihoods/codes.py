"""Likelihoods of categories, by their codes 0 ... C - 1: the probability of each."""

import math
from typing import Any

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor, nn

from ppl_vae.distributions import codes
from ppl_vae.distributions.codes import AT_INFINITY, cumulative_logits
from ppl_vae.errors import InputError, positive_int
from ppl_vae.likelihoods.starts import StartsFromFeatures, relative
from ppl_vae.parts import Preprocessing
from ppl_vae.preprocessing import OneHot, Standardize
from ppl_vae.utils.moments import mean_and_scale

NOT_THERE = 1e-9  # in the place of the probability of a code that a column does not have: its logarithm is finite
UNSEEN = 0.01  # of the probability that a start shares evenly among all categories, seen or not
MOST_LEVELS = 100  # for whole numbers to be taken for codes


class OfCodes(StartsFromFeatures):
    """A likelihood of codes with `num_levels` categories; `levels` may say that some numbers of x have fewer."""

    levels: Tensor | None  # [*event_shape], how many categories each number has, where some have fewer

    def __init__(self, num_levels: int = 10) -> None:
        super().__init__()
        self.num_levels = positive_int("num_levels", num_levels)
        if num_levels == 1:
            raise InputError("Expected num_levels to be at least 2; got 1. Leave a constant out, or count all levels.")
        self.register_buffer("levels", None, persistent=False)

    @classmethod
    def options_for(cls, x: Tensor) -> dict[str, Any] | None:
        """Return how many levels x has, where they are codes: whole numbers from 0 on without a gap, three or more."""
        found = x.unique()
        fits = 3 <= len(found) <= MOST_LEVELS and bool((found == torch.arange(len(found)).to(found)).all())
        return {"num_levels": len(found)} if fits else None

    def frequencies(self, x: Tensor) -> Tensor:
        """Return the share of each code in x [N, *event_shape], a little of it shared by all, [*feature_shape, C]."""
        of_each = [torch.where(x.isnan(), x, (x == code).to(x)) for code in range(self.num_levels)]
        shares = torch.stack([mean_and_scale(one)[0] for one in of_each], -1)
        own = torch.as_tensor(self.num_levels if self.levels is None else self.levels)
        there = torch.arange(self.num_levels, device=own.device) < own.unsqueeze(-1)
        shares = torch.where(there.to(x.device), shares * (1 - UNSEEN) + (UNSEEN / own.unsqueeze(-1)).to(x), NOT_THERE)
        return shares / shares.sum(-1, keepdim=True)

    def among_its_own(self, log_probs: Tensor) -> Tensor:
        """Return log-probabilities [..., C] with none of codes that a number of x does not have."""
        if self.levels is None:
            return log_probs
        codes_of_all = torch.arange(self.num_levels, device=log_probs.device)
        return log_probs.masked_fill(codes_of_all >= self.levels.unsqueeze(-1), -math.inf)


class Nominal(OfCodes):
    """Categories without an order, P(x | h) = prod_i softmax(h_i)_(x_i), by their codes x in {0, ..., C - 1}.

    The logits start from the frequencies in the data. (`Categorical` is of pixels, x = k / (C - 1).)

    Args:
        num_levels: C, how many categories there are.

    Raises:
        InputError: fewer than two levels.

    Source: Nazabal et al., arXiv 1807.03653, section 3.1.

    >>> Nominal(num_levels=4).bind((3,))(torch.zeros(12)).log_prob(torch.tensor([0.0, 3.0, 1.0])).exp()
    tensor(0.0156)
    """

    def __init__(self, num_levels: int = 10) -> None:
        super().__init__(num_levels)
        self.num_params = self.num_levels
        self.data_logits = nn.Buffer(torch.zeros(self.num_levels))

    def preprocessing(self) -> Preprocessing | None:
        return OneHot(self.num_levels)

    def start(self, x: Tensor) -> dict[str, Tensor]:
        return {"data_logits": self.frequencies(x).log()}

    def distribution(self, *logits: Tensor) -> TorchDistribution:
        return codes.Nominal(self.among_its_own(torch.stack(logits, dim=-1) + self.data_logits))


class Ordinal(OfCodes):
    """Ordered categories by their codes x in {0, ..., C - 1}, by thresholds on a logistic scale (cumulative logit).

        P(x_i <= k | h) = sigmoid(t_k),    t_0 = s_0 - h_0,
        t_k = t_(k-1) + (s_k - s_(k-1)) (softplus(h_k) / ln 2 + 1e-6)

    for k = 0 ... C - 2: of h_i = (h_0, ..., h_(C-2)) the first shifts all thresholds, and the others stretch the steps
    between them. s are the thresholds of the frequencies in the data; before `start_from`, of equal ones.

    Args:
        num_levels: C, how many categories there are.

    Raises:
        InputError: fewer than two levels.

    Source: McCullagh, Regression models for ordinal data, JRSS B 42 (1980); Nazabal et al., arXiv 1807.03653.

    >>> Ordinal(num_levels=4).bind((2,))(torch.zeros(6)).log_prob(torch.tensor([0.0, 3.0])).exp()
    tensor(0.0625)
    """

    def __init__(self, num_levels: int = 10) -> None:
        super().__init__(num_levels)
        self.num_params = self.num_levels - 1
        self.data_thresholds = nn.Buffer((torch.arange(1.0, self.num_levels) / self.num_levels).logit())

    def preprocessing(self) -> Preprocessing | None:
        return Standardize()

    def start(self, x: Tensor) -> dict[str, Tensor]:
        return {"data_thresholds": self.frequencies(x).double().cumsum(-1)[..., :-1].clamp(max=1 - NOT_THERE).logit()}

    def distribution(self, shift: Tensor, *steps: Tensor) -> TorchDistribution:
        first = self.data_thresholds[..., 0] - shift
        gaps = self.data_thresholds.diff(dim=-1)
        gaps = gaps * relative(torch.stack(steps, -1)) if steps else gaps.expand(*first.shape, 0)
        if self.levels is not None:  # thresholds above the last of its own are at infinity
            above = torch.arange(1, self.num_levels - 1, device=gaps.device) >= self.levels.unsqueeze(-1) - 1
            gaps = gaps.masked_fill(above, AT_INFINITY)
        return codes.Ordinal(self.among_its_own(cumulative_logits(first, gaps)))
