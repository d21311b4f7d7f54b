"""What every estimator of log P(x) takes: a pair that was checked against its data, and the data in chunks."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from pyro import poutine
from pyro.poutine import Trace
from torch import Tensor

from ppl_vae.data.as_source import as_source, fingerprint
from ppl_vae.data.checks import check
from ppl_vae.data.sources import Source, TensorSource
from ppl_vae.evidence.scale import GIVEN, TOTAL, scored_as
from ppl_vae.missing import all_known
from ppl_vae.traces.handlers import GivenConditions, check_proper, condition_names, quantity
from ppl_vae.traces.pair import Pair, Program
from ppl_vae.traces.plates import Args, Structure, check_scores_all, few, observed_numbers, samples, structure_of
from ppl_vae.traces.programs import check_program
from ppl_vae.traces.proposal import check_likelihoods, check_proposal
from ppl_vae.traces.sites import Kind, has_mask, of_kind
from ppl_vae.utils.faults import warn
from ppl_vae.utils.rng import seeded

# What is held at once decides which numbers are drawn for which datum, so it must not depend on the machine. By
# tests/benchmarks/log_px.py the log-weights of a 784-400-50 VAE are equally fast, within 7%, from 512 to 8192 rows, and
# a quarter slower at 16384, where the decoder's answer no longer fits the last-level cache.
CHUNK_NUMBERS = 2**22  # values of the largest site held at once: 16 MB in single precision
CHUNK_ROWS = 2**12  # (sample, datum) pairs held at once


@dataclass(frozen=True)
class Chunk:
    """Some of the data, and what to call the programs with for them."""

    args: Args  # of both programs, on their device
    subsample: Tensor | None  # which data a plate with its own random subset has to take; None for plain programs
    num_data: int  # how many of the results count (the last subset may be filled up)

    @property
    def size(self) -> int:
        """How many data a run on this chunk evaluates."""
        return len(self.args[0] if self.subsample is None else self.subsample)

    def part(self, arg: Tensor) -> Tensor:
        """Return what of an argument a run evaluates."""
        return arg if self.subsample is None else arg[self.subsample.to(arg.device)]

    def select(self, index: Tensor) -> "Chunk":
        """Return these data of the chunk only."""
        return Chunk(tuple(t[index.to(t.device)] for t in self.args), None, len(index))


@dataclass(frozen=True)
class Prepared:
    """A pair that fits its data, running; what one estimate after the other is made from."""

    pair: Pair
    source: Source
    structure: Structure  # what a run of the pair shows of it
    num_run: int  # on how many data the pair was run: on a part of them, or on all if it does not run on a part
    quantity: str  # what is estimated: log P(x), log P(x | y) or log P(x, y)
    exact: bool  # no latent site is sampled: there is none, or all are summed out; then one sample says all
    scored: str  # what the observed sites are scored by, see `ppl_vae.evidence.scale`
    num_levels: int  # how many grey levels x has, 0 if that is not known
    event_size: float  # how many numbers of a datum are observed and scored, in the mean; 0 where a factor scores them

    @property
    def whole_only(self) -> bool:
        """Whether the programs run on all the data only: a part was tried first, and failed."""
        return 1 < len(self.source) == self.num_run

    @property
    def divisible(self) -> bool:
        """Whether the programs take any part of the data."""
        return not (self.whole_only or self.structure.subsampled)

    def rows(self, chunk_size: int | None) -> int:
        """Return how many (sample, datum) pairs are evaluated at once."""
        return chunk_size or min(CHUNK_ROWS, max(1, CHUNK_NUMBERS // self.structure.numel))

    def taken(self, data_at_once: int) -> int:
        """Return how many data a run takes where it is given so many: a subset's, all, or these."""
        if self.structure.subsampled:
            return self.structure.size
        return len(self.source) if self.whole_only else data_at_once

    def num_chunks(self, data_at_once: int) -> int:
        """Return how many chunks there are."""
        return -(-len(self.source) // self.taken(data_at_once))

    def chunks(self, data_at_once: int) -> Iterator[Chunk]:
        """Yield the data in order, about `data_at_once` at a time."""
        if not self.structure.subsampled:
            for batch in self.source.batches(self.taken(data_at_once)):
                yield Chunk(self.pair.to_device(batch), None, len(batch[0]))
            return
        everything = self.pair.to_device(next(self.source.batches(len(self.source))))
        for index in torch.arange(len(self.source)).split(self.structure.size):
            # The subset has one size: the last is filled up with data whose results are dropped.
            filled = torch.cat([index, index.new_zeros(self.structure.size - len(index))])
            yield Chunk(everything, filled, len(index))

    def evenly(self, count: int) -> Chunk:
        """Return so many data, evenly spaced, some of them again where there are fewer; all of a kind that can be."""
        wanted, start, parts = torch.linspace(0, len(self.source) - 1, count).long(), 0, []
        for chunk in self.chunks(count):
            here = wanted[(wanted >= start) & (wanted < start + chunk.num_data)] - start
            start += chunk.num_data
            if len(here):
                parts.append(chunk.select(here))
        return Chunk(tuple(torch.cat(values) for values in zip(*(p.args for p in parts), strict=True)), None, count)

    def facts(self) -> dict[str, Any]:
        """Return what an estimate says of its data and of what is estimated, by whatever method."""
        names = ("event_size", "quantity", "scored", "num_levels")
        return {name: getattr(self, name) for name in names} | {"fingerprint": fingerprint(self.source)}

    @contextmanager
    def drawing(self, seed: int, proposal: str) -> Iterator["Prepared"]:
        """Within it an estimate is drawn anew, as if prepared with this seed and proposal; the data are known."""
        tried = TensorSource(next(self.source.batches(self.num_run)))
        with seeded(seed):
            size = None if self.whole_only else self.num_run
            traces, num_run, _ = check(self.pair, tried, size=size, proposal=proposal)
            structure = replace(structure_of(traces, num_run), plated=self.structure.plated)
            yield replace(self, structure=structure, num_run=num_run)


@contextmanager
def prepared(
    model: Program, guide: Program | None, data: Any, *, proposal: str, seed: int, joint: bool = False
) -> Iterator[Prepared]:
    """Check a pair against its data; within it both programs can be run, without gradients.

    What the model is given, its conditions, is not scored, unless the joint log P(x, y) is asked for.
    """
    check_program("model", model)
    pair = Pair(model if joint else GivenConditions()(model), guide)
    watching = torch.autograd.set_detect_anomaly  # it is for training, and cannot look at batched gradients
    with seeded(seed), pair.running(), pair.evaluating(), torch.no_grad(), watching(False):
        source = as_source(data, pair, ordered=True)
        traces, num_run, num_missing = check(pair, source, proposal=proposal)
        structure = structure_of(traces, num_run)
        check_scores_all(traces, structure)
        args = pair.to_device(next(source.batches(num_run)))
        check_likelihoods(pair, args, traces)
        if len(traces) > 1:
            _warn_of_left_out(traces, structure)
            check_proposal(pair, args, traces, structure)
        if joint:
            check_proper(traces)
        sites = samples(traces[0])
        scored, num_levels = scored_as(sites.values(), source, args)
        statistics = (*pair.conditions_on(), *([TOTAL] if scored.endswith(GIVEN) else []))
        what = quantity(traces[0], () if joint else condition_names(sites), statistics)
        exact = _is_exact(traces, structure)
        size = _event_size(pair, source, traces, structure, num_missing)
        with all_known(num_missing == 0):
            yield Prepared(pair, source, structure, num_run, what, exact, scored, num_levels, size)


def _warn_of_left_out(traces: list[Trace], structure: Structure) -> None:
    model, guide = map(samples, traces)
    left_out = [name for name in of_kind(model, Kind.LATENT) if name not in guide]
    if left_out and not structure.enumerated:
        warn(
            f"The guide does not sample {few(left_out)}: drawn from the model itself, given what comes before. Sample "
            f"it in the guide, or mark a discrete site infer={{'enumerate': 'parallel'}} to sum it out."
        )


def _is_exact(traces: list[Trace], structure: Structure) -> bool:
    """Return whether no latent is drawn: there is none, or all are summed out."""
    return (structure.enumerated and not structure.q) or not of_kind(samples(traces[0]), Kind.LATENT)


def _event_size(pair: Pair, source: Source, traces: list[Trace], structure: Structure, num_missing: int) -> float:
    """Return how many numbers of a datum are observed and scored, the mean over all data; 0 where a factor scores."""
    model = samples(traces[0])
    if of_kind(model, Kind.FACTOR):
        return 0.0
    if not num_missing and not any(map(has_mask, of_kind(model, Kind.OBSERVED).values())):
        return structure.observed_numel
    if structure.subsampled:
        return structure.observed_numel - num_missing / len(source)
    total = 0
    with seeded(0):
        for batch in source.batches(len(source) if structure.size == len(source) else CHUNK_ROWS):
            sites = samples(poutine.trace(pair.model).get_trace(*pair.to_device(batch)))
            total += observed_numbers(sites)
    return total / len(source)
