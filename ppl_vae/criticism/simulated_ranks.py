"""True values of simulated data among draws of Q(z | x): for each chunk of data, ranks of all that is ranked.

Both z and x are drawn from the model, then K times z from the guide, for all data of a chunk at once: under one more
plate, as copies of the data, or one by one. Ranked are the numbers of all latents that are drawn, and functions of
these and of x.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from pyro import poutine
from pyro.util import get_rng_state
from torch import Tensor

from ppl_vae.errors import InputError
from ppl_vae.evidence.at_once import drawn_at_once
from ppl_vae.evidence.diagnostics import estimates
from ppl_vae.evidence.prepare import CHUNK_ROWS, Chunk, Prepared
from ppl_vae.evidence.simulated import simulate
from ppl_vae.traces.anywhere import check_random_at_sites
from ppl_vae.traces.handlers import Regenerated, Substitute
from ppl_vae.traces.log_weights import log_q_by_datum
from ppl_vae.traces.plates import (
    Args,
    enumerates,
    log_prob_by_datum,
    numbers_by_datum,
    samples,
    value_by_datum,
)
from ppl_vae.traces.run import copies_of, enumerating, fixed, one_more_plate, parted, run_pair
from ppl_vae.traces.sites import Kind, Site, counted, of_kind
from ppl_vae.utils.chunks import run_sizes
from ppl_vae.utils.faults import expecting
from ppl_vae.utils.report import Array
from ppl_vae.utils.rng import seeded

LOG_JOINT, DISTANCE = "log P(x, z)", "distance (TARP)"
DATA_AT_ONCE = 64  # simulated data whose draws are held at once
HELD = 2**16, 2**25  # draws, and numbers of draws, held at once: of them ranks are made
ROUNDING = {LOG_JOINT: (1e-5, 1e-5), DISTANCE: (0.0, 0.0)}  # absolute and relative: what is closer is a tie
ROUNDING_OF_OTHERS = (0.0, 1e-6)
Function = Callable[..., Tensor]  # of z, the values of the latent sites by name, and of the data


def given(ready: Prepared, count: int, at_once: int) -> Iterator[Chunk]:
    """Yield so many of the data in chunks, evenly spaced or again and again: what the model is given to simulate."""
    source = ready.source
    if ready.divisible:
        index, start, parts = torch.arange(count) * len(source) // count, 0, []
        for batch in source.batches(CHUNK_ROWS):
            chosen = index[(index >= start) & (index < start + len(batch[0]))] - start
            parts.append([t[chosen.to(t.device)] for t in batch])
            start += len(batch[0])
        columns = [torch.cat(column) for column in zip(*parts, strict=True)]
        order = torch.randperm(count)  # one chunk has not one datum only, again and again
        for batch in zip(*(column[order.to(column.device)].split(at_once) for column in columns), strict=True):
            yield Chunk(ready.pair.to_device(batch), None, len(batch[0]))
        return
    while count:
        for chunk in ready.chunks(at_once):
            taken = min(count, chunk.num_data)
            yield replace(chunk, num_data=taken)
            count -= taken
            if not count:
                return


class Ranked(NamedTuple):
    """What a chunk of n simulated data shows of J quantities."""

    names: list[str]
    ranks: Array  # [n, J]
    scores: Array
    resampled_ranks: Array
    resampled_scores: Array
    ess: Array  # [n]

    @classmethod
    def joined(cls, parts: list["Ranked"]) -> "Ranked":
        """Return what all chunks together show."""
        return cls(parts[0].names, *(np.concatenate(column) for column in list(zip(*parts, strict=True))[1:]))


class Ranker:
    """Simulates chunks of data and draws K times from Q for each datum."""

    def __init__(
        self, ready: Prepared, num_samples: int, functions: dict[str, Function], chunk_size: int | None
    ) -> None:
        if ready.exact:
            raise InputError(
                "Expected a guide that samples latents; got none, as there are none or all are summed out. There is no "
                "Q(z | x) to calibrate."
            )
        self.pair, self.num_samples, self.functions = ready.pair, num_samples, functions
        self.structure, self.together = drawn_at_once(ready, "auto", "guide")
        most, numbers = HELD
        rows = ready.rows(chunk_size)
        held = numbers // (num_samples * self.structure.numel)
        wanted = max(1, min(DATA_AT_ONCE, most // num_samples, held, rows))
        self.at_once = ready.taken(wanted)
        self.per_run = max(1, rows // self.at_once) if self.together else 1
        with seeded(0):
            self._check_random(next(ready.chunks(1)))

    def ranks(self, chunk: Chunk) -> Ranked:
        """Simulate as many data as a chunk has, and rank their true values among draws of Q."""
        simulated = simulate(
            self.pair, chunk, self.structure, joint=False, otherwise="judge Q by the k-hat of estimate_evidence"
        )
        with fixed(self.structure, chunk.subsample):
            apart = samples(poutine.trace(Regenerated()(self.pair.model)).get_trace(*chunk.args))
        runs = [self._draw(simulated.chunk, count) for count in run_sizes(self.num_samples, self.per_run)]
        log_weights = torch.cat([run.log_weights for run in runs]).double()
        latents = runs[0].latents
        truth = self._true(simulated.chunk, {name: simulated.sites[name] for name in latents})
        distance = self._distance({name: apart[name] for name in latents}, truth.seen)
        labels = [label for name, z in latents.items() for label in _labels(name, z.shape[2:])]
        values = torch.cat([self._quantities(run, distance, simulated.chunk) for run in runs])
        true = self._quantities(truth, distance, simulated.chunk)[0]
        names = [*labels, LOG_JOINT, *([DISTANCE] * (len(labels) > 1)), *self.functions]
        if len(set(names)) < len(names):
            raise InputError(f"Expected functions with names of their own; got one called as a quantity of {names}.")
        self._check_numbers(names, values, log_weights)
        seen = torch.ones_like(true, dtype=torch.bool)
        seen[:, : len(labels)] = truth.seen
        kept = chunk.num_data
        return _ranked(names, values[:, :kept], true[:kept], seen[:kept], log_weights[:, :kept])

    def _draw(self, chunk: Chunk, count: int) -> "_Draws":
        """Draw so many z from Q for each datum of a chunk, in one run."""
        structure, copied = self.structure, self.together and not self.structure.plated
        args = copies_of(chunk.args, count) if copied else chunk.args
        with one_more_plate("Mend that."), fixed(structure, chunk.subsample):
            size = count if self.together and not copied else None
            traces = run_pair(self.pair.model, self.pair.guide, args, num_samples=size, structure=structure)
            num_data = chunk.size * (count if copied else 1)
            sites = samples(traces[0])
            drawn = {n: s for n, s in of_kind(sites, Kind.LATENT).items() if not enumerates(s)}
            log_joint = log_prob_by_datum(traces[0], sites, structure, num_data)
            own = [name for name in drawn if name not in structure.q]  # drawn by the model itself: in Q as in P
            log_q = log_q_by_datum(*traces, structure, num_data) + log_prob_by_datum(
                traces[0], own, structure, num_data
            )

        def by_draw(value: Tensor) -> Tensor:
            return parted(value, count, structure).expand(count, chunk.size, *value.shape[2:])

        return _Draws(
            {name: by_draw(value_by_datum(site, structure)) for name, site in drawn.items()},
            *map(by_draw, (log_joint, log_joint - log_q)),
        )

    def _true(self, chunk: Chunk, sites: dict[str, Site]) -> "_Draws":
        """Return the z that the model drew with x, as one draw."""
        structure = self.structure
        model = enumerating(self.pair.model, structure) if structure.enumerated else self.pair.model
        given = Substitute({name: site["value"] for name, site in sites.items()})
        with fixed(structure, chunk.subsample):
            trace = poutine.trace(given(model)).get_trace(*chunk.args)
        log_joint = log_prob_by_datum(trace, samples(trace), structure, chunk.size)
        values = {name: value_by_datum(site, structure) for name, site in sites.items()}
        values = {name: z.expand(1, chunk.size, *z.shape[2:]) for name, z in values.items()}
        seen = [self._seen(site, values[name]) for name, site in sites.items()]
        return _Draws(values, log_joint, log_joint, torch.cat(seen, -1))

    def _seen(self, site: Site, value: Tensor) -> Tensor:
        """Return which numbers of a latent are no masked ones, [n, D]."""
        flat = _numbers(value)[0]
        if not self.structure.masked:
            return torch.ones_like(flat, dtype=torch.bool)
        seen = numbers_by_datum(counted(site), site["fn"].event_dim, self.structure)[0]
        return seen.expand(flat.shape) if seen.shape[-1] in (1, flat.shape[-1]) else torch.ones_like(flat).bool()

    def _distance(self, apart: dict[str, Site], seen: Tensor) -> Callable[[Tensor], Tensor]:
        """Return the distance of z [K, n, D] from a draw of the prior for each datum, in its standard deviations."""
        parts = [_numbers(value_by_datum(site, self.structure))[0].double() for site in apart.values()]
        other = torch.cat([part.expand(len(seen), -1) for part in parts], -1)
        scale = other.std(0) if len(other) > 1 else torch.ones_like(other[0])
        scale = torch.where(scale > 0, scale, torch.ones_like(scale))
        return lambda z: torch.where(seen, (z - other) / scale, 0.0).norm(dim=-1)

    def _quantities(self, draws: "_Draws", distance: Callable[[Tensor], Tensor], chunk: Chunk) -> Tensor:
        """Return all quantities of some draws, [K, n, J]."""
        z = torch.cat([_numbers(value).double() for value in draws.latents.values()], -1)
        columns = [z, draws.log_joint.double()[..., None]]
        if z.shape[-1] > 1:
            columns.append(distance(z)[..., None])
        count, size = z.shape[:2]
        for name, function in self.functions.items():
            data = copies_of(tuple(chunk.part(arg) for arg in chunk.args), count)
            columns.append(_called(name, function, draws.latents, data, count * size).reshape(count, size, 1))
        return torch.cat(columns, -1)

    def _check_numbers(self, names: list[str], values: Tensor, log_weights: Tensor) -> None:
        bad = [name for name, there in zip(names, values.isnan().any(0).any(0), strict=True) if there]
        if bad or bool((log_weights.isnan() | log_weights.isposinf()).any()):
            what = f"NaN in {bad[0]}" if bad else "log-weights that are NaN or infinite"
            raise InputError(
                f"Expected numbers of all draws of Q; got {what}. The weights of the model or guide may have diverged "
                f"in training: load the best ones, or fit again."
            )

    def _check_random(self, chunk: Chunk) -> None:
        """Refuse a guide that is random beside its sites: draws that are made at once share what it draws there."""
        guide: Any = self.pair.guide

        def run(program: Any) -> poutine.Trace:
            with fixed(self.structure, chunk.subsample):
                return poutine.trace(program).get_trace(*chunk.args)

        sites = samples(run(guide))
        before = get_rng_state()
        run(Substitute({name: site["value"] for name, site in sites.items()})(guide))
        if not _same_state(before, get_rng_state()):
            why = "for calibration, where many draws are made at once and must not share what it draws elsewhere"
            check_random_at_sites(guide, run, why, "Draw it by pyro.sample, inside the plate over the data.")


class _Draws(NamedTuple):
    """K draws of z for each of n data."""

    latents: dict[str, Tensor]  # by site, [K, n, ...]
    log_joint: Tensor  # log P(x, z), [K, n]
    log_weights: Tensor  # log P(x, z) - log Q(z | x), [K, n]
    seen: Tensor = torch.ones(0, dtype=torch.bool)  # of the true z: which of its numbers are not masked, [n, D]


def _same_state(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Return whether no random number has been drawn between two states of all generators."""
    numpy_state = [state.get("numpy", (None, None))[1:3] for state in (one, other)]
    same_numpy = all(np.array_equal(a, b) for a, b in zip(*numpy_state, strict=True))
    return torch.equal(one["torch"], other["torch"]) and one["random"] == other["random"] and same_numpy


def _numbers(value: Tensor) -> Tensor:
    """Return a site's values [K, n, ...] as all its numbers, [K, n, D]."""
    return value.reshape(*value.shape[:2], -1)


def _labels(name: str, shape: torch.Size) -> list[str]:
    """Return the names of all numbers of a site: z, or z[0], z[1], ...

    >>> _labels("z", torch.Size([])), _labels("z", torch.Size([1, 2]))
    (['z'], ['z[0, 0]', 'z[0, 1]'])
    """
    if not shape:
        return [name]
    return [f"{name}[{', '.join(map(str, index))}]" for index in np.ndindex(*shape)]


def _called(name: str, function: Function, z: dict[str, Tensor], data: Args, rows: int) -> Tensor:
    """Return a test function of all draws, [R]."""
    with expecting(f"the test function {name!r} to be called with z by site, and the data"):
        found: Any = function({site: value.flatten(0, 1) for site, value in z.items()}, *data)
    if not isinstance(found, Tensor) or found.shape != (rows,):
        got = f"shape {tuple(found.shape)}" if isinstance(found, Tensor) else type(found).__name__
        raise InputError(
            f"Expected the test function {name!r} to return a tensor with one number for each row, [{rows}]; got "
            f"{got}. It is called with z by site, and the data, [{rows}, ...] each."
        )
    return found.double()


def _ranked(names: list[str], values: Tensor, true: Tensor, seen: Tensor, log_weights: Tensor) -> Ranked:
    """Return ranks and scores of true values [n, J] among draws [K, n, J], as they are and weighted, [K, n]."""
    rounding = torch.tensor([ROUNDING.get(name, ROUNDING_OF_OTHERS) for name in names], dtype=true.dtype)
    latents = names.index(LOG_JOINT)
    rounding[:latents] = 0.0
    absolute, relative = rounding.to(true.device).T
    slack = absolute + relative * true.abs()
    below, tied = values < true - slack, (values - true).abs() <= slack
    by_name: dict[str, Array] = {}
    numbers = torch.where(values.isfinite(), values, 0.0)
    plain = torch.ones_like(log_weights)
    relative_weights = (log_weights - log_weights.max(0).values.clamp(min=-1e300)).exp()
    for name, weights in {"": plain, "resampled_": relative_weights}.items():
        w = weights[..., None]
        total = w.sum(0)
        one = (w**2).sum(0) / total  # what a draw counts, in the mean over what they count
        within = torch.rand(true.shape, dtype=true.dtype, device=true.device)
        ranks = ((w * below).sum(0) + within * ((w * tied).sum(0) + one)) / (total + one)
        finite = w * values.isfinite()
        mean = (finite * numbers).sum(0) / finite.sum(0)
        sd = ((finite * (numbers - mean) ** 2).sum(0) / (finite.sum(0) - one)).sqrt()
        scores = (true - mean) / sd
        for what, found in (("ranks", ranks), ("scores", scores)):
            by_name[f"{name}{what}"] = torch.where(seen, found, torch.nan).cpu().numpy()
    return Ranked(names, ess=estimates(log_weights.cpu().numpy())["ess"], **by_name)
