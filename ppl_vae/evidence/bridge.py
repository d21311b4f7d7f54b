"""Annealing from a mixture that was fitted to each datum to its posterior: a short way, in few temperatures.

    f_beta(u) = q(u)^(1 - beta) P(x, u)^beta,    q(u) = a Q(u | x) + (1 - a) sum_j pi_j t(u; m_j, C_j, nu)

by HMC in the coordinates in which the largest component of q is round. As in `ais`, the average of the weights is an
unbiased estimate of P(x); step sizes are found by other chains before. Backwards, from an exact draw of the posterior,
it is one of 1 / P(x).

Sources: Neal, Annealed Importance Sampling, Statistics and Computing 11 (2001); Grosse et al., arXiv 1511.02543.
"""

import math

import torch
from torch import Tensor

from ppl_vae.evidence.ais import Annealed, anneal, pilot, schedule
from ppl_vae.evidence.hmc import State
from ppl_vae.evidence.laplace import Fitted, Laplace
from ppl_vae.evidence.prepare import Chunk

WARM_UP, RUNGS = 8, 3  # of the pilot: along so short a way step sizes hardly change
NUM_LEAPFROG = 4


class Bridge:
    """The way from the mixture of each datum of a chunk to its posterior."""

    def __init__(self, laplace: Laplace, chunk: Chunk, fitted: Fitted, num_chains: int, num_temperatures: int) -> None:
        self.laplace, self.chunk, self.fitted, self.num_chains = laplace, chunk, fitted, num_chains
        parts = laplace.num_chunks if chunk.size >= laplace.data_at_once else 1  # of a part of a chunk there is one
        self.calls = (num_temperatures + WARM_UP) * NUM_LEAPFROG * parts
        self.share = laplace.draw(chunk, fitted, num_chains)[1]
        betas = schedule(num_temperatures)
        self.path = pilot(
            self._evaluate, self._start(), betas, NUM_LEAPFROG, _nothing, warm_up=WARM_UP, most_rungs=RUNGS
        )

    def forward(self) -> Annealed:
        """Anneal from draws of the mixture: log-weights [C, N] whose mean weight is P(x) in expectation."""
        return anneal(self._evaluate, self._start(), self.path, _nothing)

    def backward(self, u: Tensor) -> Annealed:
        """Anneal from an exact draw u [1, N, D] of the posterior: the mean weight is 1 / P(x) in expectation."""
        start = self.fitted.mixture.whiten(u.expand(self.num_chains, -1, -1))
        return anneal(self._evaluate, self._evaluate(start), self.path.backwards(), _nothing)

    def _start(self) -> State:
        u, _ = self.laplace.draw(self.chunk, self.fitted, self.num_chains)
        return self._evaluate(self.fitted.mixture.whiten(u))

    def _evaluate(self, v: Tensor) -> State:
        mixture = self.fitted.mixture
        u = mixture.unwhiten(v)
        joint, log_q, joint_slope, q_slope = self.laplace.slopes(self.chunk, u, self.calls)
        with torch.enable_grad():
            leaf = u.detach().requires_grad_()
            log_t = mixture.log_prob(leaf)
            (t_slope,) = torch.autograd.grad(log_t.sum(), leaf)
        parts = torch.stack([math.log(self.share) + log_q, math.log1p(-self.share) + log_t.detach()])
        base = torch.logsumexp(parts, 0)
        share = (parts[0] - base).exp()[..., None]
        slope = torch.where(share > 0, share * torch.nan_to_num(q_slope), 0.0) + (1 - share) * t_slope
        return State(v, base, joint - base, mixture.pull_back(slope), mixture.pull_back(joint_slope - slope))


def _nothing() -> None:
    """Tick: bridges are too short for a bar of their own."""
