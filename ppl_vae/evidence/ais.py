"""log P(x) by annealed importance sampling: from a base that is known to the posterior, in T small steps.

    log w = sum_t (beta_t - beta_(t-1)) log ratio(u_(t-1)),    u_0 ~ base,    u_t ~ HMC at beta_t from u_(t-1),

along f_beta = base * ratio^beta, with base = Q(z | x) (or the prior) and base * ratio = P(x, z). The average of w is
an unbiased estimate of P(x) for any T; its logarithm is in expectation a lower bound. The step size of HMC is found for
each datum in a pilot run and then held: adapted inside the run, the transitions would leave no distribution invariant.

Source: Neal, Annealed Importance Sampling, Statistics and Computing 11 (2001); Wu et al., arXiv 1611.04273.
"""

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ppl_vae.errors import InputError, reason
from ppl_vae.evidence.at_once import plated_or_copied
from ppl_vae.evidence.diagnostics import estimates
from ppl_vae.evidence.evidence import Evidence
from ppl_vae.evidence.hmc import FAILURES, Evaluate, State, transition
from ppl_vae.evidence.importance import importance_sampling
from ppl_vae.evidence.options import AnnealingOptions
from ppl_vae.evidence.prepare import Chunk, Prepared
from ppl_vae.evidence.refine import refine
from ppl_vae.evidence.tempered import Densities, Latents
from ppl_vae.traces.anywhere import check_random_at_sites
from ppl_vae.utils.progress import progress_bar
from ppl_vae.utils.report import Array
from ppl_vae.utils.rng import seeded
from ppl_vae.utils.threads import Threads

TARGET_ACCEPTANCE = 0.65  # optimal for HMC (Neal, arXiv 1206.1901)
FIRST_STEP_SIZE = 0.5
STEEPNESS = 4.0  # of the sigmoidal schedule (Grosse et al., arXiv 1511.02543)
WARM_UP = 30  # pilot transitions at the first temperature
RUNGS, PER_RUNG = 50, 3  # temperatures at which the pilot adapts, and its transitions at each
Tick = Callable[[], Any]


class AnnealingPath(NamedTuple):
    """The path, and how to go along it."""

    betas: list[float]  # from 0 to 1, or back, [T + 1]
    step_sizes: Tensor  # of HMC at each of them, [T + 1, N]
    num_leapfrog: int  # steps of each transition

    def backwards(self) -> "AnnealingPath":
        """Return the same path from its end to its start."""
        return AnnealingPath(self.betas[::-1], self.step_sizes.flip(0), self.num_leapfrog)


class Annealed(NamedTuple):
    """One annealing run over C chains x N data."""

    log_weights: Tensor  # [C, N], in nats, double precision
    acceptance: Tensor  # the accepted rate of HMC, [N]
    state: State  # where the chains ended


def schedule(num_temperatures: int) -> list[float]:
    """Return beta_0 = 0 to beta_T = 1: a sigmoid, so that steps are small near both ends.

    >>> [round(beta, 3) for beta in schedule(4)]
    [0.0, 0.105, 0.5, 0.895, 1.0]
    """
    t = torch.linspace(-1, 1, num_temperatures + 1, dtype=torch.float64)
    s = torch.sigmoid(STEEPNESS * t)
    betas: list[float] = ((s - s[0]) / (s[-1] - s[0])).tolist()
    return betas


def anneal(evaluate: Evaluate, state: State, path: AnnealingPath, tick: Tick) -> Annealed:
    """Go along the path, from draws of its first distribution, and gather the weights; tick at each temperature."""
    log_weights = torch.zeros_like(state.log_ratio, dtype=torch.float64)
    accepted = torch.zeros_like(path.step_sizes[0])
    last = len(path.betas) - 1
    for t, (before, beta) in enumerate(itertools.pairwise(path.betas), start=1):
        log_weights += (beta - before) * state.log_ratio
        if t < last:  # what comes after the last weight does not count
            state, probability = transition(evaluate, state, beta, path.step_sizes[t], path.num_leapfrog)
            accepted += probability.mean(0)
        tick()
    return Annealed(log_weights, accepted / max(last - 1, 1), state)


def pilot(
    evaluate: Evaluate,
    state: State,
    betas: list[float],
    num_leapfrog: int,
    tick: Tick,
    *,
    warm_up: int = WARM_UP,
    most_rungs: int = RUNGS,
) -> AnnealingPath:
    """Return the path whose step sizes accept about 65% of moves, found at some temperatures with other chains.

    Source: Andrieu & Thoms, Statistics and Computing 18 (2008), section 4.2.
    """
    log_step = torch.full_like(state.log_base[0], FIRST_STEP_SIZE).log()
    rungs = np.unique(np.linspace(min(1, len(betas) - 1), len(betas) - 1, min(most_rungs, len(betas) - 1)).astype(int))
    found: list[Array] = []
    for rung in rungs:
        for _ in range(PER_RUNG if found else warm_up):
            state, probability = transition(evaluate, state, betas[rung], log_step.exp(), num_leapfrog)
            log_step = log_step + (0.3 if found else 0.7) * (probability.mean(0) - TARGET_ACCEPTANCE)
            tick()
        found.append(log_step.cpu().double().numpy())
    every = np.arange(len(betas))
    columns = [np.interp(every, rungs, column) for column in np.stack(found, axis=1)]
    return AnnealingPath(betas, torch.as_tensor(np.stack(columns, axis=1)).exp().to(log_step), num_leapfrog)


def annealed_importance_sampling(prepared: Prepared, options: AnnealingOptions, threads: Threads) -> Evidence:
    """Estimate log P(x) of each datum by annealing, after importance sampling: `estimate_evidence(method="ais")`."""
    prepared = at_once(prepared, options)
    with seeded(0):
        one_datum(prepared, options)  # refuse what cannot be annealed
    plain = importance_sampling(prepared, options.of_importance(prepared.pair.guide is not None), threads)
    with prepared.drawing(options.seed, options.proposal) as ready:
        annealer = Annealer(ready, options, threads)
        found = annealer.over_chunks("annealing", lambda chunk, tick: annealer.chains(chunk, tick).forward())
    estimated: dict[str, Any] = {name: found.pop(name) for name in ("log_px", "mcse", "ess")}
    return replace(
        plain,
        **estimated,
        num_samples=options.num_chains,
        proposal=options.proposal,
        method="ais",
        diagnostics=found | {"log_px_importance": plain.log_px, "mcse_importance": plain.mcse},
        settings={name: getattr(options, name) for name in ("num_temperatures", "num_leapfrog", "num_samples")},
        curve=None,
        is_exact=False,
    )


def at_once(prepared: Prepared, options: AnnealingOptions) -> Prepared:
    """Return what is annealed: chains under one more plate, or, where the programs do not run there, as copies."""
    proposal = "prior" if options.proposal == "prior" else "guide"
    return plated_or_copied(prepared, proposal, copies=options.proposal != "refined")


def one_datum(prepared: Prepared, options: AnnealingOptions) -> Latents:
    """Return the latents of a single datum, to see whether they can be annealed."""
    with starting():
        latents = Latents(prepared.pair, next(iter(prepared.chunks(1))), prepared.structure, options.proposal)
        if latents.from_guide and latents.pair.guide is not None:
            check_random_at_sites(latents.pair.guide, latents.trace, "for annealing", PRIOR)
    return latents


PRIOR = "Anneal from the prior: proposal='prior'."


class Annealer:
    """Gives each chunk of data its chains, which will be annealed so many times (`runs`)."""

    def __init__(self, prepared: Prepared, options: AnnealingOptions, threads: Threads, *, runs: int = 1) -> None:
        self.prepared, self.options = prepared, options
        self.data_at_once = max(1, prepared.rows(options.chunk_size) // options.num_chains)
        rungs = WARM_UP + PER_RUNG * (min(RUNGS, options.num_temperatures) - 1)
        self.num_transitions = prepared.num_chunks(self.data_at_once) * (rungs + runs * options.num_temperatures)
        self.densities = Densities(self.num_transitions * options.num_leapfrog, options.compile, threads)

    def over_chunks(self, name: str, of_chunk: Callable[[Chunk, Tick], dict[str, Array]]) -> dict[str, Array]:
        """Return numbers of all data, by name, from those of a chunk's."""
        with progress_bar(self.num_transitions, name, "step", self.options.progress) as bar:
            chunks = self.prepared.chunks(self.data_at_once)
            parts = [(chunk.num_data, of_chunk(chunk, bar.update)) for chunk in chunks]
        return {key: np.concatenate([found[key][:size] for size, found in parts]) for key in parts[0][1]}

    def chains(self, chunk: Chunk, tick: Tick) -> "Chains":
        """Return the chains of a chunk's data, with the guide refined for them if so asked."""
        pair, structure = self.prepared.pair, self.prepared.structure
        if self.options.proposal == "refined":
            pair = refine(pair, chunk.args, structure, subsample=chunk.subsample)
        with starting():
            latents = Latents(pair, chunk, structure, self.options.proposal)
            evaluate = self.densities.of(latents, self.options.num_chains)
        return Chains(latents, evaluate, self.options, tick)


@contextmanager
def starting() -> Iterator[None]:
    """Say of a program that cannot be evaluated where chains start what that means; on their way it is rejected."""
    try:
        yield
    except InputError:
        raise
    except FAILURES as problem:
        raise InputError(
            f"Expected a model whose density can be computed at all draws that annealing starts from; got "
            f"{type(problem).__name__.strip('_')}: {reason(problem)}. Mend that (a small number added to its diagonal "
            f"keeps a matrix positive definite), or start from the other of guide and prior (proposal)."
        ) from problem


class Chains:
    """The chains of one chunk of data, their step sizes found: from the base to the posterior, or back."""

    def __init__(self, latents: Latents, evaluate: Evaluate, options: AnnealingOptions, tick: Tick) -> None:
        self.latents, self.evaluate, self.num_chains, self.tick = latents, evaluate, options.num_chains, tick
        betas = schedule(options.num_temperatures)
        self.path = pilot(evaluate, self._from_base(), betas, options.num_leapfrog, tick)

    def forward(self) -> dict[str, Array]:
        """Return the statistics of annealing from draws of the base to the posterior."""
        return self._statistics(self._from_base(), self.path)

    def backward(self, position: Tensor) -> dict[str, Array]:
        """Return those of annealing from exact draws of the posterior, [1, N, D], to the base."""
        with starting():
            start = self.evaluate(position.expand(self.num_chains, -1, -1).contiguous())
        return self._statistics(start, self.path.backwards())

    def _from_base(self) -> State:
        with starting():
            return self.evaluate(self.latents.draw(self.num_chains))

    def _statistics(self, start: State, path: AnnealingPath) -> dict[str, Array]:
        """Return log_px, mcse, ess, bias, acceptance, step_size and chain_spread of an annealing run, each [N]."""
        annealed = anneal(self.evaluate, start, path, self.tick)
        log_weights = annealed.log_weights.cpu().numpy()
        numbers = estimates(log_weights)
        with np.errstate(invalid="ignore"):  # a chain that began where the model rules z out has no weight
            spread = log_weights.std(0, ddof=1)
        return {key: numbers[key] for key in ("log_px", "mcse", "ess", "bias")} | {
            "acceptance": annealed.acceptance.double().cpu().numpy(),
            "step_size": path.step_sizes.median(0).values.double().cpu().numpy(),
            "chain_spread": spread,
        }
