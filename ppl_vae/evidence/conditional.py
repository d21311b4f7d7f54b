"""log P(x_A | x_B): what is asked of a datum, given the rest of it, for any split of its numbers into the two.

    log P(x_A | x_B) = log P(x_A, x_B) - log P(x_B) ~ log sum_k v_k - log sum_k w_k

    v_k = P(x_A, x_B, z_k) / Q(z_k),    w_k = P(x_B, z_k) / Q(z_k)

What is not given is missing (NaN) in x_B, and so are missing values of x in both. For each datum the samples come from

    all:    Q(z | x_A, x_B), for both terms: what they have in common cancels where x_A says little of z
    given:  Q(z | x_B), for both terms: the average of P(x_A | z_k, x_B) over what x_B says of z
    apart:  each term has samples of its own Q

whichever a pilot of other samples finds the smallest error for. Where a term is clearly larger by other samples, the
datum is in doubt: an average of weights may miss what is there, and hardly ever finds what is not. By the delta method,

    MCSE^2 = K / (K - 1) sum_k (v_k / sum v - w_k / sum w)^2,

and of terms with samples of their own, the sum of their squared errors. A difference of two lower bounds is no bound:
no ELBO is stated, and the estimate may be too high where log P(x_B) is too low.

Source: Ma et al., EDDI (arXiv 1809.11142), for VAEs given part of x; Owen, Monte Carlo theory, methods and examples,
chapter 9, for ratios of averages.
"""

import hashlib
import re
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pyro import poutine
from scipy import stats
from torch import Tensor

from ppl_vae.data.as_source import fingerprint
from ppl_vae.data.checks import check
from ppl_vae.data.held_back import HeldBack, given_mask, only_given
from ppl_vae.errors import InputError
from ppl_vae.evidence.diagnostics import ROUNDING, estimates, khat_threshold, pareto
from ppl_vae.evidence.evidence import Evidence
from ppl_vae.evidence.options import ImportanceOptions
from ppl_vae.evidence.prepare import Chunk, Prepared
from ppl_vae.evidence.refine import Shifts, beside, best_shifts
from ppl_vae.evidence.weight_sampler import Sampler
from ppl_vae.missing import all_known
from ppl_vae.traces.log_weights import checked, weigh
from ppl_vae.traces.pair import Pair
from ppl_vae.traces.plates import Args, Structure
from ppl_vae.traces.run import copies_of, fixed, one_more_plate, plate_of, run_against
from ppl_vae.utils.chunks import run_sizes
from ppl_vae.utils.progress import progress_bar
from ppl_vae.utils.report import Array
from ppl_vae.utils.rng import seeded
from ppl_vae.utils.threads import Threads

SCHEMES = ("all", "given", "apart")  # where the samples of a datum come from
APART = 2
# How often other samples find more of a term by chance: three standard errors are told, four decide where to draw.
TOLD, DECIDES = 1e-3, 3e-5
DOUBTED = 1e6  # nats that a scheme whose weights are in doubt is put behind the others
PILOT, FEWEST = 4, 100  # the pilot takes a fourth of the samples, and so many at least
Terms = tuple[Array, Array]  # log v and log w, [K, n] each, of one set of samples


def conditional_sampling(prepared: Prepared, options: ImportanceOptions, threads: Threads, given: Any) -> Evidence:
    """Estimate log P(x_A | x_B) of each datum by importance sampling: `estimate_evidence(..., given=mask)`.

    Args:
        prepared: the pair with its data, all that is observed of them.
        options: of importance sampling, without a tolerance and without draws.
        threads: as chosen.
        given: which numbers of x are given, as `given_mask` takes it.

    Raises:
        InputError: a mask that is none, integers for x, programs that do not leave out what is missing, or options that
            are not for conditionals.
    """
    _check_options(options)
    source = prepared.source
    first = next(source.batches(1))[0]
    if not first.is_floating_point():
        raise InputError(
            f"Expected x of floating point numbers, so that what is not given can be missing (NaN); got "
            f"{str(first.dtype).removeprefix('torch.')}. Pass x.float(), if the model takes it."
        )
    mask = given_mask(given, len(source), first.shape[1:])
    _check_held_back(prepared, HeldBack(source, mask), options)
    sampler = Sampler(prepared, options, threads)
    parts: list[dict[str, Array]] = []
    start = 0
    with all_known(False), progress_bar(len(source), "log P(x_A | x_B)", "datum", options.progress) as bar:
        for chunk in prepared.chunks(sampler.data_at_once):
            rows = mask[start : start + len(chunk.args[0])] if chunk.subsample is None else mask
            parts.append(_Asked(sampler, chunk, rows).estimated())
            start += chunk.num_data
            bar.update(chunk.num_data)
    numbers = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
    nothing = np.full(len(source), np.nan)
    return Evidence(
        log_px=numbers.pop("log_px"),
        elbo=nothing,
        mcse=numbers.pop("mcse"),
        elbo_mcse=nothing,
        ess=numbers.pop("ess"),
        num_samples=options.num_samples,
        proposal=options.proposal,
        elbo_proposal=options.proposal,
        event_size=float(numbers.pop("num_asked").mean()) if prepared.event_size else 0.0,
        fingerprint=f"{fingerprint(source)}:given:{_digest(mask)}",
        seed=options.seed,
        quantity=_quantity(prepared.quantity),
        scored=prepared.scored,
        num_levels=prepared.num_levels,
        method="given",
        diagnostics=numbers,
        is_exact=prepared.exact,
    )


def _check_options(options: ImportanceOptions) -> None:
    for name, usual in (("joint", False), ("tolerance", None), ("num_draws", 0)):
        if getattr(options, name) != usual:
            fix = "it is the same with and without joint" if name == "joint" else "raise num_samples instead"
            raise InputError(f"Expected {name} of {usual} with given; got {getattr(options, name)!r}: {fix}.")
    if options.proposal == "laplace":
        raise InputError(
            "Expected a proposal that gives samples to both terms with given: 'guide', 'prior' or 'refined'; got "
            "'laplace', which is fitted to one of them. Use 'refined'."
        )
    if options.num_samples < 2:
        raise InputError(
            "Expected num_samples of at least 2 with given, so that errors can be stated; got 1. Raise it."
        )


def _check_held_back(prepared: Prepared, held: HeldBack, options: ImportanceOptions) -> None:
    """Refuse programs that cannot do without what is not given."""
    size = None if prepared.whole_only else prepared.num_run
    proposal = "guide" if options.proposal == "refined" else options.proposal
    try:
        with seeded(options.seed):
            check(prepared.pair, held, size=size, proposal=proposal)
    except InputError as problem:
        raise InputError(
            f"Expected programs that leave out what is missing, as for P(x_B) what is not given is missing (NaN). "
            f"{problem}"
        ) from problem


def _quantity(of_all: str) -> str:
    """Return the name of what is asked, from that of all that is observed: "log P(x)", "log P(x | y)".

    >>> _quantity("log P(x)"), _quantity("log P(x | y)")
    ('log P(x_A | x_B)', 'log P(x_A | x_B, y)')
    """
    x, *others = re.findall(r"\w+", of_all.removeprefix("log P"))
    return f"log P({x}_A | {', '.join([f'{x}_B', *others])})"


def _digest(mask: Tensor) -> str:
    """Return a hash of a mask, so that conditionals are compared only where the same is given."""
    return hashlib.sha256(np.packbits(mask.numpy()).tobytes()).hexdigest()[:16]


@dataclass
class _Asked:
    """A chunk of data with what is given of each."""

    sampler: Sampler
    chunk: Chunk
    mask: Tensor  # of the x that the programs are called with
    none_given: NDArray[np.bool_] = field(init=False)  # data of which nothing that is observed is given, [n]
    num_asked: Array = field(init=False)  # how many numbers of each are asked for, [n]

    def __post_init__(self) -> None:
        known = ~self.chunk.part(self.chunk.args[0]).isnan().flatten(1)
        given = self.chunk.part(self.mask).to(known.device).flatten(1)
        self.none_given = ~(known & given).any(1).cpu().numpy()
        self.num_asked = (known & ~given).sum(1).double().cpu().numpy()

    @property
    def args(self) -> tuple[Args, Args]:
        """What the programs are called with: all that is observed, and what is given."""
        x, *others = self.chunk.args
        return self.chunk.args, (only_given(x, self.mask), *others)

    def estimated(self) -> dict[str, Array]:
        """Return log P(x_A | x_B) of each datum with its error and diagnostics, [n] each, by name."""
        draws = np.full(len(self.num_asked), float(self.sampler.options.num_samples))
        found = self._exactly(draws) if self.sampler.prepared.exact else self._by_chosen()
        found |= {"draws": draws, "num_asked": self.num_asked}
        return {key: values[: self.chunk.num_data] for key, values in found.items()}

    def _exactly(self, draws: Array) -> dict[str, Array]:
        """Return what one run says where no latent is drawn."""
        v, w = (np.broadcast_to(term, (2, term.shape[1])) for term in self._terms(self._shifts(), 0, 1))
        return _of_terms(v, w, shared=True) | {"ess": draws, "scheme": np.zeros(len(draws)), "more": 0.0 * draws}

    def _by_chosen(self) -> dict[str, Array]:
        """Return the estimates by the scheme that a pilot finds best for each datum, from fresh samples."""
        shifts, count = self._shifts(), self.sampler.num_samples
        few = min(count, max(FEWEST, count // PILOT))
        pilot = {i: self._terms(shifts, i, few) for i in (0, 1)}
        tried = [_by_scheme(pilot, i) for i in range(len(SCHEMES))]
        scheme = _chosen(tried, few)
        # A set of samples is drawn for all data of the chunk where one of them needs it.
        sets = {i: self._terms(shifts, i, count) for i in (0, 1) if ((scheme == i) | (scheme == APART)).any()}
        found = {"scheme": scheme.astype(float)}
        for one in np.unique(scheme):
            for key, values in _by_scheme(sets, int(one)).items():
                found[key] = np.where(scheme == one, values, found.get(key, np.nan))
        return found | {"more": _more(found, [*tried, *(_by_scheme(sets, i) for i in sets)], few, TOLD)}

    def _shifts(self) -> tuple[Shifts, Shifts] | None:
        """Return what refines the guide for each datum given all that is observed, and given what is given."""
        sampler = self.sampler
        if not sampler.refined:
            return None
        pair, how = sampler.prepared.pair, dict[str, Any](subsample=self.chunk.subsample, vectorize=sampler.vectorize)
        of_all, of_given = (best_shifts(pair, args, sampler.structure, **how) for args in self.args)
        return of_all, of_given

    def _terms(self, shifts: tuple[Shifts, Shifts] | None, which: int, num_samples: int) -> Terms:
        """Return log v and log w of samples given all that is observed (0), or given what is given (1)."""
        sampler, args, pair = self.sampler, self.args, self.sampler.prepared.pair
        at_once = sampler.at_once if sampler.vectorize else 1
        drawn = [
            two_terms(
                drawing, args[which], args, some, sampler.structure,
                proposal=sampler.proposal, subsample=self.chunk.subsample, vectorize=sampler.vectorize,
            )
            for drawing, count in (beside(pair, shifts[which], num_samples) if shifts else [(pair, num_samples)])
            for some in run_sizes(count, at_once)
        ]  # fmt: skip
        v, w = (torch.cat(parts).double().cpu().numpy() for parts in zip(*drawn, strict=True))
        if shifts:  # the first of them are to be samples of what all are of
            order = torch.randperm(len(v)).numpy()
            v, w = v[order], w[order]
        return v, np.where(self.none_given, 0.0, w)  # P of nothing is 1


def two_terms(
    pair: Pair,
    args: Args,
    scored: tuple[Args, Args],
    num_samples: int,
    structure: Structure,
    *,
    proposal: str = "guide",
    subsample: Tensor | None = None,
    vectorize: bool = True,
) -> tuple[Tensor, Tensor]:
    """Draw z_k from Q(z | args) in one run, and weigh them under the model with each of two data, [K, N] in nats.

        log P(x, z_k) - log Q(z_k),    log P(x', z_k) - log Q(z_k)

    Args:
        pair: the model, and the guide that draws; call it within `pair.running()`.
        args: what the guide is called with.
        scored: what the model is called with, x and x'.
        num_samples, structure, proposal, subsample, vectorize: as for `ppl_vae.traces.log_weights.draw`; with
            "prior" the first run of the model draws.
    """
    copied = vectorize and not structure.plated
    num_data = len(args[0] if subsample is None else subsample)
    count = 1 if copied else num_samples
    if copied:
        args, scored = (
            copies_of(args, num_samples),
            (copies_of(scored[0], num_samples), copies_of(scored[1], num_samples)),
        )
        num_data *= num_samples
    found = []
    plate = plate_of(count, structure) if vectorize and not copied else nullcontext()
    with one_more_plate("Mend that, or pass vectorize=False."), fixed(structure, subsample), plate:
        guide_trace = poutine.Trace() if proposal == "prior" else poutine.trace(pair.guide).get_trace(*args)
        replayed = guide_trace
        for each in scored:
            model_trace = run_against(replayed, pair.model, each, structure=structure)
            found.append(weigh(model_trace, guide_trace, count, structure, num_data))
            replayed = model_trace if proposal == "prior" else guide_trace
    if copied:
        found = [one.of_copies(num_samples) for one in found]
    if vectorize:
        checked(found[0], num_samples)
    return found[0].log_weights, found[1].log_weights


def _by_scheme(sets: Mapping[int, Terms], scheme: int) -> dict[str, Array]:
    """Return the estimates by a scheme, from sets of samples given all that is observed (0), and given B (1)."""
    if scheme == APART:
        return _of_terms(sets[0][0], sets[1][1], shared=False)
    return _of_terms(*sets[scheme], shared=True)


def _chosen(candidates: Sequence[dict[str, Array]], num_samples: int) -> NDArray[np.int64]:
    """Return the scheme of each datum: the smallest error among those that are not in doubt, if any are.

    In doubt are those whose weights have heavy tails, and more so those of which other samples find more.
    """
    error, khat = (np.stack([one[name] for one in candidates]) for name in ("mcse", "khat"))
    less = np.stack([_more(one, candidates, num_samples, DECIDES) for one in candidates]) > 0
    doubt = DOUBTED * (1.0 * (khat > khat_threshold(num_samples)) + 2.0 * less)
    return np.argmin(np.where(np.isfinite(error), error, np.inf) + doubt, 0)


def _more(one: dict[str, Array], others: Sequence[dict[str, Array]], num_samples: int, chance: float) -> Array:
    """Return by how much other samples find a term larger, in nats, [n]: 0 where that is inside their errors.

    An average of weights may miss much of a term, but hardly ever finds more than there is. It is too high where one
    weight is, and says so: the errors are those of averages, not of their logarithms, relative to the larger one, from
    so many samples at least.
    """
    found, errors = np.zeros(len(one["log_px"])), float(stats.t.isf(chance, num_samples - 1))
    for other in others:
        for term in ("all", "given"):
            with np.errstate(invalid="ignore", over="ignore"):
                above = other[f"log_px_{term}"] - one[f"log_px_{term}"]
                error = np.hypot(one[f"mcse_{term}"] * np.exp(-above), other[f"mcse_{term}"])
                clear = -np.expm1(-above) > errors * error + ROUNDING
            found = np.where(clear, np.fmax(found, above), found)
    return found


def _of_terms(v: Array, w: Array, *, shared: bool) -> dict[str, Array]:
    """Return what log v and log w, [K, n], say of log P(x_A | x_B), [n] each; `shared` if their samples are the same.

    khat and ess are the worse ones of the two terms. The jackknife's bias of a difference is the difference of theirs,
    shared or not.
    """
    of_all, of_given = ({**estimates(term), **pareto(term)} for term in (v, w))
    with np.errstate(invalid="ignore", over="ignore"):
        if shared:
            count = len(v)
            off = np.exp(v - of_all["log_px"]) - np.exp(w - of_given["log_px"])
            mcse = np.sqrt((off**2).sum(0) / (count * (count - 1)))
        else:
            mcse = np.hypot(of_all["mcse"], of_given["mcse"])
        return {
            "log_px": of_all["log_px"] - of_given["log_px"],
            "mcse": mcse,
            "ess": np.minimum(of_all["ess"], of_given["ess"]),
            "bias": of_all["bias"] - of_given["bias"],
            "khat": np.maximum(of_all["khat"], of_given["khat"]),
            "khat_given": of_given["khat"],
            "log_px_psis": of_all["log_px_psis"] - of_given["log_px_psis"],
            "log_px_all": of_all["log_px"],
            "log_px_given": of_given["log_px"],
            "mcse_all": of_all["mcse"],
            "mcse_given": of_given["mcse"],
        }
