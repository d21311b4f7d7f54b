"""What is recommended for doubtful data is tried on some of them first, at a fraction of the price of the estimate."""

import warnings
from dataclasses import replace

import numpy as np
import torch

from ppl_vae.data.sources import TensorSource
from ppl_vae.errors import InputError
from ppl_vae.evidence.evidence import Evidence
from ppl_vae.evidence.importance import importance_sampling
from ppl_vae.evidence.numbers import Index, Trial
from ppl_vae.evidence.options import ImportanceOptions
from ppl_vae.evidence.prepare import Prepared
from ppl_vae.evidence.refine import NUM_PARTICLES, NUM_STEPS
from ppl_vae.utils.report import Array
from ppl_vae.utils.rng import seeded
from ppl_vae.utils.threads import Threads

NUM_TRIED = 5  # doubtful data that a remedy is tried on, and as many others
SHARE = 0.3  # of the evaluations of the estimate, that a trial may take
MORE = 4  # times as many samples
STEP = 3 * NUM_PARTICLES  # evaluations of a step of refining a datum's guide: there and back


def importance_with_remedies(prepared: Prepared, options: ImportanceOptions, threads: Threads) -> Evidence:
    """Estimate log P(x) by importance sampling; where data are in doubt, try what the verdict would recommend."""
    evidence = importance_sampling(prepared, options, threads)
    doubtful = np.array([doubt.datum for doubt in evidence.doubts()], dtype=int)
    if not len(doubtful) or evidence.is_exact or not evidence.has_tail or not prepared.divisible:
        return evidence
    some, others = _some(doubtful), _some(np.setdiff1d(np.arange(len(evidence)), doubtful))
    whole = float(evidence.diagnostics["draws"].sum())
    more = replace(options, num_samples=MORE * options.num_samples, tolerance=None, max_samples=None)
    refined = replace(options, proposal="refined")
    price = {"num_samples": len(some) * more.num_samples, "refined": NUM_STEPS * STEP + options.num_samples}
    price["refined"] *= len(some) + len(others)
    tried: dict[str, Trial] = {}
    again = _estimated(prepared, options, threads, some)  # what is doubted by chance is mended by chance
    by_chance = 0 if again is None else _mended(again, len(some))
    for name, other, index in (("num_samples", more, some), ("refined", refined, np.concatenate([some, others]))):
        fits = options.proposal == "guide" if name == "refined" else options.tolerance is None
        if fits and price[name] <= SHARE * whole:
            found = _estimated(prepared, other, threads, index)
            if found is not None:
                tried[name] = _judged(found, len(some), by_chance, evidence.khat[others])
    return replace(evidence, tried=tried)


def _some(index: Index) -> Index:
    """Return a few of these data, evenly."""
    return index[np.unique(np.linspace(0, len(index) - 1, min(NUM_TRIED, len(index))).astype(int))]


def _estimated(prepared: Prepared, options: ImportanceOptions, threads: Threads, index: Index) -> Evidence | None:
    """Return the estimate of some of the data; None where it cannot be made so."""
    chosen, start = [], 0
    for chunk in prepared.chunks(prepared.num_run):
        own = [n - start for n in index if start <= n < start + chunk.num_data]
        chosen += [(start + n, chunk.select(torch.tensor([n])).args) for n in own]
        start += chunk.num_data
    args = dict(chosen)
    source = TensorSource(tuple(torch.cat(parts) for parts in zip(*(args[n] for n in index), strict=True)))
    few = replace(prepared, source=source)
    quiet = replace(options, num_draws=0, tolerance=None, max_samples=None, compile=False, progress=False)
    with seeded(options.seed + 2), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what there is to say was said of the estimate
        try:
            return importance_sampling(few, quiet, threads)
        except InputError:  # a guide that cannot be refined
            return None


def _mended(found: Evidence, num_doubtful: int) -> int:
    """Return how many of the doubtful data, which come first, are in doubt no more."""
    return num_doubtful - sum(doubt.datum < num_doubtful for doubt in found.doubts())


def _judged(found: Evidence, num_doubtful: int, by_chance: int, khat: Array) -> Trial:
    """Return what a trial shows of the doubtful data, of which a redraw mends some, and of others, by their k-hat."""
    mended, after = _mended(found, num_doubtful), found.khat[num_doubtful:]
    doubts_others = any(doubt.datum >= num_doubtful for doubt in found.doubts())
    spoils = len(after) > 0 and (doubts_others or float(after.mean()) > float(khat.mean()))
    return Trial(mended, num_doubtful, mended > by_chance and 2 * mended >= num_doubtful and not spoils)
