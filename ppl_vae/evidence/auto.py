"""log P(x) of each datum by as much work as it needs: the guide's samples, a proposal of its own, more, annealing.

A pilot of the guide's samples says of which data they can be believed. All data are climbed, so that a mode which the
guide does not know is seen, too. Who is in doubt gets a mixture fitted to it (`laplace`), of few dimensions with more
components where samples weigh most, then more samples of that, then annealing from there (`bridge`). What decides are
other samples than those that answer. A datum whose answer is in doubt goes on, and is answered anew. All first
answers L together, with a bias b of their finite K, are not chosen; so the mean of the last ones is off by

    E[L_last] - log P(x) = E[b_first] + E[(L_last - L_first) 1(it went on)],

which is known of each datum, and stated: what of it is not the bias of the last answer itself is `stopping`. A mixture
that is bad by other samples than those that answer is no first answer: its datum goes on whatever that is. At the end
`reach` asks, of data that the model draws, whether a part of the posterior is missed.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ppl_vae.errors import InputError, reason
from ppl_vae.evidence.bridge import Bridge
from ppl_vae.evidence.diagnostics import (
    LOW_ESS,
    MIN_SAMPLES,
    bound_curve,
    doubtful_weights,
    estimates,
    pareto,
    within,
)
from ppl_vae.evidence.evidence import Evidence
from ppl_vae.evidence.hmc import FAILURES
from ppl_vae.evidence.importance import check_not_nan
from ppl_vae.evidence.laplace import NUM_ADAPTING, Fitted
from ppl_vae.evidence.laplace_sampler import check_climbable, laplace_of
from ppl_vae.evidence.numbers import Index
from ppl_vae.evidence.options import AutoOptions
from ppl_vae.evidence.prepare import Chunk, Prepared
from ppl_vae.evidence.reach import Reach, reach
from ppl_vae.evidence.remedies import importance_with_remedies
from ppl_vae.evidence.rules import ANSWERS, low_chains
from ppl_vae.evidence.sequences import is_chain
from ppl_vae.evidence.smc import sequential_monte_carlo
from ppl_vae.evidence.weight_sampler import Sampler
from ppl_vae.utils.progress import progress_bar
from ppl_vae.utils.report import Array
from ppl_vae.utils.threads import Threads

NUM_PILOT = 128  # samples of the guide that say where it can be believed
HOPELESS = 0.8  # k-hat: above it annealing is sooner there than more samples
MORE = 4  # times as many
FINITE_VARIANCE, LEAST_SHARE = 0.5, 0.3  # k-hat, and the share of the guide's draws that count: else a mixture answers
FILL_BELOW, LEAST_FILLED = 0.4, 0.15  # the share of a mixture's draws that count, of few dimensions
SELECTED = 0.05  # the share of the guide's answers that may fail: of more the mean of those that stay is off
NUM_CHAINS = 16
TEMPERATURES = (20, 80)  # of annealing, and of another try
KNOWN_BIAS = 0.7  # k-hat up to which the jackknife knows the bias of an answer; above it one weight says most of it
MOST_CHAINS = 256
LARGEST_ERROR = 0.35  # nats, that chains may leave of a datum
GUIDE, LAPLACE, ANNEALING = range(len(ANSWERS))
FIRST = ("log_px", "bias", "mcse", "khat")
OF_SAMPLES = ("log_px", "mcse", "ess", "bias", "draws", "khat", "log_px_psis")


def automatic(prepared: Prepared, options: AutoOptions, threads: Threads) -> Evidence:
    """Estimate log P(x) of each datum by the first method that can be believed: `estimate_evidence(method="auto")`.

    Of series whose latent is a chain it is by particle filters: one importance weight of all steps says little there.
    """
    filters = options.of_filters()
    if filters is not None and is_chain(prepared, filters.proposal):
        return sequential_monte_carlo(prepared, filters, threads)
    try:
        ladder = Ladder(prepared, options, threads)
    except NotClimbableError as problem:
        plain = importance_with_remedies(prepared, options.of_importance(prepared.pair.guide is not None), threads)
        return replace(plain, note=str(problem))
    return ladder.evidence()


class NotClimbableError(Exception):
    """A pair whose latents have no slope to climb: there are the guide's samples only; the message says why."""


@dataclass
class Doubtful:
    """Some data that are in doubt, or have no answer yet."""

    chunk: Chunk
    fitted: Fitted
    index: Index  # which data of all they are; below zero for those that are in the chunk only
    log_weights: Array  # of the samples that answered, [K, n]

    def select(self, rows: NDArray[np.bool_], divisible: bool) -> "Doubtful":
        """Return the part that is some rows of it."""
        if not divisible:
            return replace(self, index=np.where(rows, self.index, -1))
        chosen = torch.from_numpy(np.flatnonzero(rows))
        chunk = self.chunk.select(chosen)
        return Doubtful(chunk, self.fitted.select(chosen), self.index[rows], self.log_weights[:, rows])


class Ladder:
    """One estimate: what is known of each datum so far, and how to go on."""

    def __init__(self, prepared: Prepared, options: AutoOptions, threads: Threads) -> None:
        self.prepared, self.options = prepared, options
        proposal = "prior" if prepared.pair.guide is None else options.proposal
        _check(prepared, options)
        try:
            check_climbable(prepared)
            self.laplace = laplace_of(prepared, "guide" if proposal == "laplace" else proposal, options, threads)
        except InputError as problem:
            asked = reason(problem).removeprefix("Expected ").split(". Use ")[0].removesuffix(".")
            raise NotClimbableError(f"more takes {asked}") from problem
        if not self.laplace.surface.size:
            raise NotClimbableError("no continuous latents")
        first = options.of_importance(prepared.pair.guide is not None)
        start = "guide" if proposal == "laplace" else proposal
        pilot = replace(first, proposal=start, num_samples=NUM_PILOT, tolerance=None, max_samples=None)
        ready = self.laplace.prepared if options.vectorize == "auto" else prepared
        self.by_guide = Sampler(ready, pilot, threads)
        self.only_laplace = proposal == "laplace" or self.laplace.surface.q.from_guide != (proposal != "prior")
        self.end = time.monotonic() + (np.inf if options.seconds is None else options.seconds)
        size = len(prepared.source)
        self.numbers: dict[str, Array] = {name: np.full(size, np.nan) for name in OF_SAMPLES}
        self.answered = np.full(size, float(GUIDE))
        # The first answers, by samples that decided nothing; NaN of data that have had a pilot only.
        self.first: dict[str, Array] = {name: np.full(size, np.nan) for name in FIRST}
        self.before: dict[str, Array] = {
            name: np.full(size, np.nan) for name in ("log_px_importance", "mcse_importance")
        }
        self.changed: list[Doubtful] = []  # data that have modes of the second look, without these
        # What would be believed of them; NaN of others.
        self.seen_first: dict[str, Array] = {name: np.full(size, np.nan) for name in ("log_px", "mcse")}
        self.climbed = np.ones(size, dtype=bool)  # whether modes were looked for, and are known where they matter
        self.acceptance = np.full(size, np.nan)
        self.resolution = np.full(size, np.inf)
        self.filled = np.zeros(size, dtype=bool)
        self.divisible = self.laplace.prepared.divisible

    def evidence(self) -> Evidence:
        """Go up as far as each datum needs, and return what was found."""
        self._pilot()
        left = self._first_answers()
        filled = (self._filled,) if self.laplace.small else ()
        for target in (*filled, self._more_samples, *(self._annealed(count) for count in TEMPERATURES)):
            left = self._improved(left, target)
        joint, by_guide = self.options.joint, not self.only_laplace
        return self._result(reach(self.laplace, self.options.num_samples, joint=joint, by_guide=by_guide))

    def _pilot(self) -> None:
        found, curves = [], []
        with progress_bar(len(self.prepared.source), "pilot", "datum", self.options.progress) as bar:
            for number, chunk in enumerate(self.prepared.chunks(self.by_guide.data_at_once)):
                if number == 0:
                    self.by_guide.compile(chunk)
                weights = self.by_guide.weights(chunk, NUM_PILOT)[:, : chunk.num_data]
                found.append(estimates(weights) | pareto(weights))
                curves.append(bound_curve(weights, NUM_PILOT))
                bar.update(chunk.num_data)
        joined = {name: np.concatenate([part[name] for part in found]) for name in found[0]}
        check_not_nan(joined["log_px"])
        self.curve = curves[0]._replace(
            bound=np.concatenate([c.bound for c in curves], 1), mcse=np.concatenate([c.mcse for c in curves], 1)
        )
        self.elbo, self.elbo_mcse = joined["elbo"], joined["elbo_mcse"]
        self.numbers |= {name: joined[name] for name in OF_SAMPLES if name != "draws"}
        self.numbers["draws"] = np.full(len(self.elbo), float(NUM_PILOT))

    def _first_answers(self) -> list[Doubtful]:
        """Answer all data by the guide where the pilot lets it, else by a mixture; return what is left in doubt."""
        left, start = [], 0
        with progress_bar(len(self.prepared.source), "log P(x)", "datum", self.options.progress) as bar:
            for chunk in self.laplace.prepared.chunks(self.laplace.data_at_once):
                index = np.arange(start, start + chunk.num_data)
                start += chunk.num_data
                if time.monotonic() < self.end:
                    left += self._of_chunk(chunk, index)
                bar.set_postfix(in_doubt=sum(int((work.index >= 0).sum()) for work in left))
                bar.update(chunk.num_data)
        for work in self._batches(self.changed):
            if time.monotonic() < self.end:
                self._as_first_seen(work)
        return left

    def _of_chunk(self, chunk: Chunk, index: Index) -> list[Doubtful]:
        by_guide = ~self._doubtful(index) & (not self.only_laplace)
        try:
            seen = self.laplace.first_look(chunk)
            fitted, new = self.laplace.second_look(chunk, seen)
            here = np.arange(len(index))
            self.resolution[index] = fitted.resolution[here].double().cpu().numpy()
            if by_guide.any():
                by_guide &= ~self._missed(chunk, fitted, index)
        except FAILURES:  # where the program cannot be evaluated, the guide's samples are all there is
            fitted, self.climbed[index] = None, False
        rows = np.flatnonzero(by_guide | (fitted is None))
        if len(rows):
            self._by_guide(chunk, index, rows)
        if fitted is None:
            return []
        wanted = ~by_guide
        wanted[rows] = self._unsettled(index[rows])
        chosen = self._doubtful(index[rows]).sum() > SELECTED * len(rows)
        if chosen:  # those that stay, by their own answers
            wanted[rows] = True
        wanted &= fitted.found.cpu().numpy()[: len(index)]
        if chosen:  # all are answered anew, which is then the first that decided nothing
            for first in self.first.values():
                first[index[wanted]] = np.nan
        if not wanted.any():
            return []
        all_rows = np.full(chunk.size, -1)
        all_rows[: len(index)] = index
        work = Doubtful(chunk, fitted, all_rows, np.zeros((0, chunk.size)))
        padding = (0, chunk.size - len(index))
        changed = wanted & new.cpu().numpy()[: len(index)]
        if changed.any():
            self.changed.append(replace(work, fitted=seen).select(np.pad(changed, padding), self.divisible))
        return self._by_laplace(work.select(np.pad(wanted, padding), self.divisible))

    def _missed(self, chunk: Chunk, fitted: Fitted, index: Index) -> NDArray[np.bool_]:
        """Return whether the guide may miss a mode that matters of some data of a chunk, those of index, [n]."""
        log_px = torch.full((chunk.size,), -np.inf, dtype=torch.float64)
        log_px[: len(index)] = torch.from_numpy(self.numbers["log_px"][index])
        missed = self.laplace.missed(chunk, fitted, log_px.to(fitted.heights.device), self.options.num_samples)
        return missed.cpu().numpy()[: len(index)]

    def _as_first_seen(self, work: Doubtful) -> None:
        """Keep what is said of some data without the modes of the second look, where nothing speaks against it."""
        try:
            adapted = self.laplace.adapted(work.chunk, work.fitted)
            log_weights = self.laplace.weigh(work.chunk, adapted, self.options.num_samples)[0].cpu().numpy()
        except FAILURES:
            return
        found = estimates(log_weights) | pareto(log_weights)
        heavy, few = doubtful_weights(found["ess"], found["khat"], self.options.num_samples)
        believed = (work.index >= 0) & ~heavy & ~few & np.isfinite(found["log_px"])
        for name, seen in self.seen_first.items():
            seen[work.index[believed]] = found[name][believed]

    def _by_guide(self, chunk: Chunk, index: Index, rows: Index) -> None:
        """Answer some rows of a chunk by fresh samples of the guide."""
        whole = not self.by_guide.selective
        for some in (
            (rows,)
            if whole
            else np.split(rows, range(self.by_guide.data_at_once, len(rows), self.by_guide.data_at_once))
        ):
            part = chunk if whole else chunk.select(torch.from_numpy(some))
            weights = self.by_guide.weights(part, self.options.num_samples)
            self._put(index[some], weights[:, some] if whole else weights, GUIDE)
            if self.options.num_samples > NUM_PILOT:
                found = estimates(weights[:, some] if whole else weights)
                self.elbo[index[some]], self.elbo_mcse[index[some]] = found["elbo"], found["elbo_mcse"]

    def _by_laplace(self, work: Doubtful, tries: int = 2) -> list[Doubtful]:
        """Answer some data by a mixture, improved by samples that are then left; return those still in doubt.

        Where the answer is in doubt and its draws show a mode that is new, it is answered once more.
        """
        try:
            least = LOW_ESS * max(1.0, NUM_ADAPTING / self.options.num_samples)
            adapted = self.laplace.adapted(work.chunk, work.fitted, least=least)
            if adapted.unresolved is not None and bool(adapted.unresolved.any()):
                lost = adapted.unresolved.cpu().numpy()
                rows = np.flatnonzero(lost & (work.index >= 0))
                self._by_guide(work.chunk, work.index, rows)  # whose samples are weighed where they are drawn
                self.climbed[work.index[rows]] = False  # unless it is seen that nothing is missed
                self.climbed[work.index[rows]] = ~self._missed(work.chunk, work.fitted, work.index)[rows]
                if (lost | (work.index < 0)).all():
                    return []
                work, kept = work.select(~lost & (work.index >= 0), self.divisible), torch.from_numpy(~lost)
                adapted = adapted.select(kept.nonzero()[:, 0]) if self.divisible else adapted
            weights, u = self.laplace.weigh(work.chunk, adapted, self.options.num_samples)
        except FAILURES:
            return []
        mine = work.index >= 0
        assert adapted.promising is not None
        log_weights, fresh = weights.cpu().numpy(), mine & np.isnan(self.first["log_px"][work.index])
        self._put(work.index[mine], log_weights[:, mine], LAPLACE)
        for first in self.first.values():  # they go on whatever this answer is: the next one will be their first
            first[work.index[fresh & ~adapted.promising.cpu().numpy()]] = np.nan
        left = self._still([replace(work, fitted=adapted, log_weights=log_weights)])
        if not left or tries == 1:
            return left
        (doubtful,) = left
        here = np.isin(work.index, doubtful.index[doubtful.index >= 0]) | (not self.divisible)
        kept = torch.from_numpy(np.flatnonzero(here)).to(u.device)
        extended, new = self.laplace.extended(doubtful.chunk, doubtful.fitted, weights[:, kept], u[:, kept])
        again = new.cpu().numpy() & (doubtful.index >= 0)
        if not again.any():
            return left
        rest = doubtful.select(~again, self.divisible)
        more = self._by_laplace(replace(doubtful, fitted=extended).select(again, self.divisible), tries - 1)
        return ([rest] if (rest.index >= 0).any() else []) + more

    def _improved(self, left: list[Doubtful], by: "Callable[[Doubtful], Iterator[Doubtful]]") -> list[Doubtful]:
        """Do one more thing for what is in doubt, a batch after the other; return what is then left."""
        done: list[Doubtful] = []
        total = sum(int((work.index >= 0).sum()) for work in left)
        with progress_bar(total, "in doubt", "datum", self.options.progress) as bar:
            for work in self._batches(left):
                count = int((work.index >= 0).sum())
                done += self._still(by(work)) if time.monotonic() < self.end else []
                bar.update(count)
                bar.set_postfix(left=sum(int((w.index >= 0).sum()) for w in done))
        return done

    def _filled(self, work: Doubtful) -> Iterator[Doubtful]:
        """Answer anew by a mixture that has components where samples weigh most."""
        try:
            fitted = self.laplace.filled(work.chunk, work.fitted)
            weights, _ = self.laplace.weigh(work.chunk, fitted, self.options.num_samples)
        except FAILURES:
            yield work
            return
        mine, log_weights = work.index >= 0, weights.cpu().numpy()
        self._put(work.index[mine], log_weights[:, mine], LAPLACE)
        self.filled[work.index[mine]] = True
        yield replace(work, fitted=fitted, log_weights=log_weights)

    def _more_samples(self, work: Doubtful) -> Iterator[Doubtful]:
        """Add samples of the mixture where these may do, doubling them up to what is allowed."""
        while True:
            here = np.where(work.index >= 0, work.index, 0)
            khat, ess, draws = (self.numbers[name][here] for name in ("khat", "ess", "draws"))
            near = (khat < HOPELESS) & (ess >= 2) | (ess > FILL_BELOW * draws)  # of few draws k-hat is noise
            grows = (
                (work.index >= 0)
                & near
                & ~self._unpromising(here)
                & (2 * draws <= self._most(MORE * self.options.num_samples))
                & self._unsettled(here)
            )
            rest = (work.index >= 0) & ~grows
            if rest.any():
                yield work.select(rest, self.divisible)
            if not grows.any() or time.monotonic() > self.end:
                if grows.any():
                    yield work.select(grows, self.divisible)
                return
            work = work.select(grows, self.divisible)
            more, _ = self.laplace.weigh(work.chunk, work.fitted, len(work.log_weights))
            work = replace(work, log_weights=np.concatenate([work.log_weights, more.cpu().numpy()]))
            mine = work.index >= 0
            self._put(work.index[mine], work.log_weights[:, mine], LAPLACE)

    def _annealed(self, num_temperatures: int) -> "Callable[[Doubtful], Iterator[Doubtful]]":
        def by(work: Doubtful) -> Iterator[Doubtful]:
            mine, index = work.index >= 0, work.index[work.index >= 0]
            if num_temperatures == TEMPERATURES[0]:
                self.before["log_px_importance"][index] = self.numbers["log_px"][index]
                self.before["mcse_importance"][index] = self.numbers["mcse"][index]
            runs: list[Array] = []
            most = self._most(MOST_CHAINS)
            try:
                bridge = Bridge(self.laplace, work.chunk, work.fitted, NUM_CHAINS, num_temperatures)
                while True:
                    annealed = bridge.forward()
                    runs.append(annealed.log_weights.cpu().numpy()[:, mine])
                    weights = np.concatenate(runs)
                    self._put(index, weights, ANNEALING)
                    self.acceptance[index] = annealed.acceptance.double().cpu().numpy()[mine]
                    loose = self.numbers["mcse"][index] > LARGEST_ERROR
                    again = (self._unsettled(index) | loose) & ~self._doubtful(index)  # what more chains would mend
                    if not again.any() or len(weights) >= most or time.monotonic() > self.end:
                        break
            except FAILURES:
                return
            yield work

        return by

    def _most(self, usual: int) -> int:
        """Return up to how many samples, or chains, a datum gets."""
        return usual if self.options.tolerance is None else self.options.most_samples

    def _batches(self, left: list[Doubtful]) -> Iterator[Doubtful]:
        """Put together what can be: as many data as are evaluated at once."""
        if not self.divisible:
            yield from left
            return
        by_count: dict[int, list[Doubtful]] = {}
        for work in left:
            by_count.setdefault(len(work.log_weights), []).append(work)
        size = self.laplace.data_at_once
        for works in by_count.values():
            args = tuple(torch.cat(parts) for parts in zip(*(work.chunk.args for work in works), strict=True))
            fitted = Fitted.concatenated([work.fitted for work in works])
            index = np.concatenate([work.index for work in works])
            weights = np.concatenate([work.log_weights for work in works], 1)
            for rows in torch.arange(len(index)).split(size):
                at = rows.numpy()
                chunk = Chunk(tuple(t[rows.to(t.device)] for t in args), None, len(rows))
                yield Doubtful(chunk, fitted.select(rows), index[at], weights[:, at])

    def _still(self, works: Any) -> list[Doubtful]:
        """Return the parts of some works that are in doubt, or not inside the tolerance."""
        found = []
        for work in works:
            mine = work.index >= 0
            wanted = mine & self._unsettled(np.where(mine, work.index, 0))
            if wanted.any():
                found.append(work.select(wanted, self.divisible))
        return found

    def _put(self, index: Index, log_weights: Array, answered: int) -> None:
        numbers = estimates(log_weights)
        annealed = answered == ANNEALING
        none = np.full(len(index), np.nan)
        tail = {"khat": none, "log_px_psis": numbers["log_px"]} if annealed else pareto(log_weights)
        numbers |= tail | {"draws": np.full(len(index), float(len(log_weights)))}
        for name in OF_SAMPLES:
            self.numbers[name][index] = numbers[name]
        self.answered[index] = answered
        new = index[np.isnan(self.first["log_px"][index])]
        for name, first in self.first.items():
            first[new] = self.numbers[name][new]

    def _doubtful(self, index: Index) -> NDArray[np.bool_]:
        """Return whether the numbers of some data are in doubt by the rules of their method."""
        ess, khat, draws = (self.numbers[name][index] for name in ("ess", "khat", "draws"))
        annealed = self.answered[index] == ANNEALING
        heavy, few = doubtful_weights(ess, khat, draws)
        # Of the guide a mixture is the better one unless its weights have a variance, and one that is small.
        heavy |= (self.answered[index] == GUIDE) & ((khat > FINITE_VARIANCE) | (ess < LEAST_SHARE * draws))
        # Of few dimensions a good mixture has most of its draws count; what is bent needs more components.
        if self.laplace.small:
            few |= ess < np.where(self.filled[index], LEAST_FILLED, FILL_BELOW) * draws
        few |= self._unpromising(index)
        finite = np.isfinite(self.numbers["log_px"][index])
        return np.where(annealed, low_chains(ess, draws), heavy | few) | ~finite

    def _unpromising(self, index: Index) -> NDArray[np.bool_]:
        """Return whether some data go on whatever their answer is, as other samples of its mixture were bad."""
        return (self.answered[index] == LAPLACE) & np.isnan(self.first["log_px"][index])

    def _unsettled(self, index: Index) -> NDArray[np.bool_]:
        """Return whether some data are in doubt, or not known to the tolerance."""
        tolerance = self.options.tolerance
        doubtful = self._doubtful(index)
        if tolerance is None:
            return doubtful
        return doubtful | ~within(self.numbers["mcse"][index], self.numbers["bias"][index], tolerance)

    def _stopping(self) -> tuple[Array, Array]:
        """Return what the last answers are off by, beside their own biases, and the errors of that, [N] each.

        E[w] of the first answers is P(x), and so the last less the first say what choosing did.
        """
        numbers, first = self.numbers, self.first
        with np.errstate(invalid="ignore"):
            off = numbers["log_px"] - first["log_px"] + first["bias"] - numbers["bias"]
            went_on = np.isfinite(off) & (first["log_px"] != numbers["log_px"])
            unlikely = went_on & (first["khat"] > KNOWN_BIAS)  # a weight that came by chance: as much may not have come
            error = np.where(unlikely, np.maximum(first["mcse"], abs(off)), first["mcse"])
        return np.where(went_on, off, 0.0), error

    def _second_look(self) -> dict[str, Array]:
        """Return by how much modes of the second look raised what was believed before, and the errors of that."""
        rose = self.numbers["log_px"] - self.seen_first["log_px"]
        error = np.hypot(self.numbers["mcse"], self.seen_first["mcse"])
        known = np.isfinite(rose) & np.isfinite(error)
        return {"second_look": np.where(known, rose, 0.0), "mcse_second_look": np.where(known, error, 0.0)}

    def _result(self, reached: Reach | None) -> Evidence:
        options, prepared, numbers = self.options, self.prepared, self.numbers
        stopping, mcse_first = self._stopping()
        settings = self.laplace.settings | ({} if options.tolerance is None else {"tolerance": options.tolerance})
        if reached is not None:
            settings |= {"num_simulated": float(reached.num_simulated), "num_missed": float(reached.num_missed)}
            settings |= {"nats_missed": reached.lost}
        proposal = self.by_guide.options.proposal
        return Evidence(
            log_px=numbers["log_px"],
            elbo=self.elbo,
            mcse=numbers["mcse"],
            elbo_mcse=self.elbo_mcse,
            ess=numbers["ess"],
            num_samples=options.num_samples,
            proposal=options.proposal if prepared.pair.guide is not None else "prior",
            elbo_proposal=proposal,
            **prepared.facts(),
            seed=options.seed,
            method="auto",
            diagnostics={name: numbers[name] for name in ("bias", "draws", "khat", "log_px_psis")}
            | {name: getattr(self, name) for name in ("answered", "acceptance", "resolution")}
            | {"stopping": stopping, "mcse_first": mcse_first, "climbed": self.climbed.astype(float)}
            | {"unfinished": self._doubtful(np.arange(len(stopping))).astype(float)}
            | self._second_look()
            | self.before,
            settings=settings,
            curve=self.curve,
            is_exact=False,
        )


def _check(prepared: Prepared, options: AutoOptions) -> None:
    """Refuse, by a reason, what is not climbed."""
    if prepared.exact:
        raise NotClimbableError("")
    if options.num_samples < MIN_SAMPLES:
        raise NotClimbableError(f"K is below {MIN_SAMPLES}, so that doubts cannot be told")
    if options.proposal == "refined":
        raise NotClimbableError("proposal='refined' was asked for")
    if options.num_draws:
        raise NotClimbableError("posterior draws are kept")
