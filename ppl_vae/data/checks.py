"""The checks made before any work: data that are numbers or missing, a pair that fits together, the support."""

from typing import Any, NamedTuple

import torch
from pyro import poutine
from pyro.infer.autoguide import AutoGuide
from torch import Tensor

from ppl_vae.data.holes import check_holes, find_holes
from ppl_vae.data.probes import (
    check_distributions,
    check_not_transformed,
    check_one_by_one,
    check_shapes,
    left_as_they_are,
)
from ppl_vae.data.sources import Source
from ppl_vae.data.supports import check_supports
from ppl_vae.errors import InputError, ProgramError
from ppl_vae.missing import all_known, filled_by_others
from ppl_vae.traces.log_weights import check_same_plates, check_sites
from ppl_vae.traces.pair import Pair, check_observes, program_name
from ppl_vae.traces.plates import Args, is_ambiguous, samples
from ppl_vae.traces.run import get_traces
from ppl_vae.utils.faults import got

PROBE_SIZE = 256


class Checked(NamedTuple):
    """Data and programs that fit: the traces of a run, on how many data it was, how many values of all are missing."""

    traces: list[poutine.Trace]
    num_run: int
    num_missing: int


@all_known(False)  # it is called to find out
def check(pair: Pair, source: Source, *, size: int | None = None, proposal: str = "guide") -> Checked:
    """Check data and programs against each other, by a run of both, within `pair.running()`.

    The programs are run on `size` data, or on a part; only if that fails, on all. Where some data have labels and
    some have none, both kinds are checked, and the traces are those of the last; the pair has seen them all.
    All data are gone through once, however often this is called with one source. Where gradients are on, the pair is to
    be fitted, and its gradients are looked at, too.
    """
    fitted = torch.is_grad_enabled()
    num_missing = 0
    for kind, part in source.kinds.items():
        try:
            checked = check(pair, part, size=size, proposal=proposal)
        except InputError as problem:
            words = f"{problem} (This is of the {len(part)} {kind} data.)"
            raise type(problem)(words, options=problem.options) from problem
        pair.see(checked.traces)
        num_missing += checked.num_missing
    if source.kinds:
        return checked._replace(num_missing=num_missing)
    holes = find_holes(source)

    def first(count: int) -> tuple[Tensor, ...]:
        return tuple(filled_by_others(t) for t in pair.to_device(next(source.batches(count))))

    # An automatic guide that was never run makes parameters for each of the data that it first sees.
    anew = any(isinstance(m, AutoGuide) and m.prototype_trace is None for m in pair.all_modules())
    args = first(size or (len(source) if anew else min(PROBE_SIZE, max(1, len(source) - 1))))
    with torch.no_grad(), pair.evaluating():
        try:
            traces = _probe(pair, args, proposal)
            whole = _is_for_all(traces, len(args[0]), len(source))
        except ProgramError:
            if len(source) == len(args[0]):
                raise
            whole = True
        if whole and len(args[0]) < len(source):
            # A program may only run on all the data: with a plate of fixed size, or parameters for each datum.
            args = first(len(source))
            traces = _probe(pair, args, proposal)
        if is_ambiguous(traces, len(args[0])) and len(args[0]) > 2:  # as long as another plate, by chance
            args = first(len(args[0]) - 1)
            traces = _probe(pair, args, proposal)
        if pair.guide is not None and len(traces) > 1:
            check_same_plates(pair, traces, len(args[0]))
        check_supports(pair, traces[0], args, source)
        if holes:
            check_holes(pair, args, holes, proposal, fitted=fitted)
        if not fitted:  # what training does to batches (normalizing them) is its own
            check_one_by_one(pair, args, traces)
    return Checked(traces, len(args[0]), sum(some.number for some in holes.values()))


def _is_for_all(traces: list[poutine.Trace], num_run: int, num_data: int) -> bool:
    """Return whether a plate of a run on a part of the data is made for all of them, and does not follow the part."""
    for trace in traces:
        frames = [f for site in samples(trace).values() for f in site["cond_indep_stack"] if f.vectorized]
        if all(f.size != num_run for f in frames) and any(f.full_size == num_data for f in frames):
            return True
    return False


def _probe(pair: Pair, args: Args, proposal: str) -> list[poutine.Trace]:
    """Run a pair once on some data and check that the two fit together; return [model trace, guide trace]."""
    if pair.guide is None and proposal != "prior":
        raise InputError("Expected a guide Q(z | x); got none. Give one, or use proposal='prior'.")
    _check_served(pair)
    try:
        with left_as_they_are(pair, args):
            model_trace = poutine.trace(pair.model).get_trace(*args)
            check_distributions(pair.model, model_trace)
            check_not_transformed(pair.model, model_trace)
            check_observes(program_name(pair.model), samples(model_trace))
            if proposal == "prior":
                check_shapes(pair.model, model_trace, len(args[0]))
                return [model_trace]
            guide_trace = poutine.trace(pair.guide).get_trace(*args)
            check_distributions(pair.guide, guide_trace)
            check_sites(pair, model_trace, guide_trace)
            check_shapes(pair.model, model_trace, len(args[0]))
            return list(get_traces(pair, args))
    except InputError:
        raise
    except Exception as problem:  # whatever a person's program may do
        raise ProgramError(
            f"Expected {' and '.join(map(program_name, pair.programs.values()))} to run on data of shape "
            f"{', '.join(str(tuple(a.shape)) for a in args)}; {got(problem)}"
        ) from problem


def _check_served(pair: Pair) -> None:
    """Refuse a model with a part that is made of a guide (a VampPrior) beside another guide."""
    if set(pair.modules) != {"model", "guide"}:
        return
    for part in pair.modules["model"].modules():
        serves: Any = getattr(part, "serves", None)
        if serves is not None and not serves(pair.modules["guide"]):
            raise InputError(
                f"Expected the guide that {type(part).__name__} is made of; got another one, of "
                f"{type(pair.modules['guide']).__name__}. Copy model and guide together, or make both anew."
            )
