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
from ppl_vae.utils.rng import seeded
from ppl_vae.utils.threads import Threads

NUM_TRIED = 10  # doubtful data that a remedy is tried on: what it does to others is not known, nor asked
SHARE = 0.3  # of the evaluations of the estimate, that a trial may take
MORE = 4  # times as many samples
STEP = 3 * NUM_PARTICLES  # evaluations of a step of refining a datum's guide: there and back


def importance_with_remedies(prepared: Prepared, options: ImportanceOptions, threads: Threads) -> Evidence:
    """Estimate log P(x) by importance sampling; where data are in doubt, try what the verdict would recommend."""
    evidence = importance_sampling(prepared, options, threads)
    doubtful = np.array([doubt.datum for doubt in evidence.doubts()], dtype=int)
    if not len(doubtful) or evidence.is_exact or not evidence.has_tail or not prepared.divisible:
        return evidence
    some = doubtful[np.unique(np.linspace(0, len(doubtful) - 1, min(NUM_TRIED, len(doubtful))).astype(int))]
    more = replace(options, num_samples=MORE * options.num_samples, tolerance=None, max_samples=None)
    refined = replace(options, proposal="refined")
    price = {"num_samples": more.num_samples, "refined": NUM_STEPS * STEP + options.num_samples}  # of a datum
    most = SHARE * float(evidence.diagnostics["draws"].sum())
    tried: dict[str, Trial] = {}
    again = _mended(prepared, options, threads, some)  # what is doubted by chance is mended by chance
    for name, other in (("num_samples", more), ("refined", refined)):
        fits = options.proposal == "guide" if name == "refined" else options.tolerance is None
        if fits and len(some) * price[name] <= most:
            mended = _mended(prepared, other, threads, some)
            if mended is not None:
                tried[name] = Trial(mended, len(some), mended > (again or 0) and 2 * mended >= len(some))
    return replace(evidence, tried=tried)


def _mended(prepared: Prepared, options: ImportanceOptions, threads: Threads, index: Index) -> int | None:
    """Return how many of these doubtful data are in doubt no more; None where the estimate cannot be made so."""
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
            return len(index) - len(importance_sampling(few, quiet, threads).doubts())
        except InputError:  # a guide that cannot be refined
            return None
