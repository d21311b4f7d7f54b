"""Programs are tried on batches of other sizes before any work, as some have parameters for each datum.

An automatic guide of a latent for each datum is one. Its parameters belong to places in a batch: they are those of the
data only if all data come in one batch, in their order, and say nothing of other data.
"""

import warnings
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.infer.autoguide import AutoGuide

from ppl_vae.data.arrays import Batch
from ppl_vae.data.loaders import LoaderSource
from ppl_vae.data.sources import Source
from ppl_vae.errors import InputError
from ppl_vae.missing import filled_by_others
from ppl_vae.traces.pair import Pair, Program, program_name
from ppl_vae.utils.rng import seeded


def check_batches(pair: Pair, source: Source, held_out: Source | None, batch_size: int) -> None:
    """Refuse batches that a fit would come to and that the programs do not take; call it within `pair.running()`.

    Args:
        pair: the programs, which have run on a batch of this size.
        source: the training data.
        held_out: the validation data.
        batch_size: of the batches, if the data have none of their own.
    """
    args = next(source.batches(batch_size))
    num_run = len(args[0])
    with pair.evaluating():
        if _takes(pair, args, num_run + 1):
            return
        is_guides = _takes(pair, args, num_run + 1, with_guide=False)
        sizes = _sizes(source, batch_size)
        failing = [size for size in sorted({*sizes}) if size != num_run and not _takes(pair, args, size)]
    names = [program_name(program) for program in pair.programs.values()]
    if is_guides and len(sizes) > 1:
        raise InputError(
            f"Expected a guide that takes any batch, as the data come in {len(sizes)} of them; got {names[-1]}, made "
            f"for {num_run} data: its parameters would be those of places in a batch, not of data. Give all data in "
            f"one batch (batch_size={len(source)}), or use a guide that reads x."
        )
    if is_guides and held_out is not None:
        raise InputError(
            f"Expected no validation data for a guide that does not read x; got some, and {names[-1]}, made for the "
            f"{num_run} training data. Leave validation out, or use a guide that reads x."
        )
    if failing:
        raise InputError(
            f"Expected programs that run on each batch of the data; got {' and '.join(names)}, which run on {num_run} "
            f"data and not on {failing[0]}, as some batch has. Choose a batch_size that divides {len(source)}, or give "
            f"them a plate of len(x)."
        )


def check_number(pair: Pair, source: Source) -> None:
    """Refuse other data than an automatic guide has parameters for."""
    if not isinstance(pair.guide, AutoGuide) or pair.guide.prototype_trace is None:
        return
    with pair.running(), pair.evaluating():
        few = next(source.batches(3))
        if all(_takes(pair, few, size) for size in (2, 3)):
            return
        everything = next(source.batches(len(source)))
        if len(everything[0]) == len(source) and _takes(pair, everything, len(source)):
            return
    raise InputError(
        f"Expected the data that {program_name(pair.guide)} was fitted to, as it has parameters for each of them; got "
        f"{len(source)} others. Give those, fit it anew to these, or use a guide that reads x."
    )


def runs(model: Program, guide: Program | None, args: Batch) -> bool:
    """Return whether programs run on some data, and score them; random states stay as they were."""
    with seeded(0), torch.no_grad(), pyro.validation_enabled(False), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            if guide is not None:
                trace = poutine.trace(guide).get_trace(*args)
                trace.compute_log_prob()
                model = poutine.replay(model, trace)
            poutine.trace(model).get_trace(*args).compute_log_prob()
        except Exception:  # of whatever class: programs are a person's own
            return False
    return True


def _takes(pair: Pair, args: Batch, size: int, *, with_guide: bool = True) -> bool:
    """Return whether programs run on so many data, of these, over and over."""
    index = torch.arange(size) % len(args[0])
    batch: Any = pair.to_device(filled_by_others(t[index.to(t.device)]) for t in args)
    return runs(pair.model, pair.guide if with_guide else None, batch)


def _sizes(source: Source, batch_size: int) -> list[int]:
    """Return how many data each batch of an epoch has."""
    if isinstance(source, LoaderSource) and source.own_batches:
        return source.sizes
    return [size for batch, count in source.examples(batch_size) for size in [len(batch[0])] * count]
