"""The checks made before any work: data that are numbers or missing, a pair that fits together, the support."""

import itertools
from collections import Counter
from typing import Any, NamedTuple

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from torch import Tensor
from torch.distributions import constraints

from ppl_vae.data.sources import Holes, Source
from ppl_vae.distributions.unwrap import base_of, can_miss, elementwise_support, family_of, in_words
from ppl_vae.errors import InputError, reason, snake_case
from ppl_vae.likelihoods import that_take
from ppl_vae.missing import all_known, filled
from ppl_vae.traces.handlers import is_condition
from ppl_vae.traces.log_weights import check_sites
from ppl_vae.traces.pair import Pair, program_name
from ppl_vae.traces.plates import Args, samples
from ppl_vae.traces.run import get_traces

PROBE_SIZE = 256
CHECK_SIZE = 1000


class _RunError(InputError):
    """A program could not be run on the data it was given."""


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
    All data are gone through once, however often this is called with one source.
    """
    num_missing = 0
    for kind, part in source.kinds.items():
        try:
            checked = check(pair, part, size=size, proposal=proposal)
        except InputError as problem:
            raise InputError(f"{problem} (This is of the {len(part)} {kind} data.)") from problem
        pair.see(checked.traces)
        num_missing += checked.num_missing
    if source.kinds:
        return checked._replace(num_missing=num_missing)
    holes = find_holes(source)

    def first(count: int) -> tuple[Tensor, ...]:
        return tuple(filled(t) for t in pair.to_device(next(source.batches(count))))

    args = first(size or min(PROBE_SIZE, max(1, len(source) - 1)))
    with torch.no_grad(), pair.evaluating():
        try:
            traces = _probe(pair, args, proposal)
            whole = _is_for_all(traces, len(args[0]), len(source))
        except _RunError:
            if len(source) == len(args[0]):
                raise
            whole = True
        if whole and len(args[0]) < len(source):
            # A program may only run on all the data: with a plate of fixed size, or parameters for each datum.
            args = first(len(source))
            traces = _probe(pair, args, proposal)
        if holes:
            _check_holes(pair, args, holes, proposal)
        for site in samples(traces[0]).values():
            if site["is_observed"]:
                _check_support(pair, site, args, source)
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
        model_trace = poutine.trace(pair.model).get_trace(*args)
        if proposal == "prior":
            return [model_trace]
        guide_trace = poutine.trace(pair.guide).get_trace(*args)
        check_sites(pair, model_trace, guide_trace)
        return list(get_traces(pair, args))
    except InputError as problem:
        raise InputError(reason(problem)) from None  # Pyro adds a table of all shapes below
    except Exception as problem:
        raise _RunError(
            f"Expected {' and '.join(map(program_name, pair.programs.values()))} to run on data of shape "
            f"{', '.join(str(tuple(a.shape)) for a in args)}; got {type(problem).__name__}: "
            f"{reason(problem)}. Do their shapes and dtypes fit the data's?"
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


def find_holes(source: Source) -> dict[int, Holes]:
    """Return what is missing in each tensor of the data, by its position: one pass over them, the first time."""
    if source.holes is not None:
        return source.holes
    found: dict[int, Holes] = {}
    numbers: Counter[int] = Counter()
    row = 0
    for batch in source.batches(CHECK_SIZE):
        for i, tensor in enumerate(batch):
            numbers[i] += tensor.numel()
            if bool(torch.isfinite(tensor).all()):
                continue
            infinite, missing = tensor.isinf(), tensor.isnan()
            if bool(infinite.any()):
                raise InputError(
                    f"Expected finite data; got infinity, first in row {row + _first(infinite)}. Remove or replace "
                    f"such data; what is missing is NaN."
                )
            counts = missing.sum(0)
            before = found.get(i, Holes(0, row + _first(missing), torch.zeros_like(counts)))
            found[i] = Holes(before.number + int(missing.sum()), before.row, before.counts + counts)
        row += len(batch[0])
    for i, holes in found.items():
        if holes.number == numbers[i]:
            raise InputError(f"Expected data of which some are observed; got NaN only, from row 0 to {row - 1}.")
    source.holes = found
    return found


def _check_holes(pair: Pair, args: Args, holes: dict[int, Holes], proposal: str) -> None:
    """Check that both programs can do without what is missing, on data with all holes that any datum has."""
    hidden = [torch.where(holes[i].where.to(t.device), torch.nan, t) if i in holes else t for i, t in enumerate(args)]
    got = f"got NaN, first in row {min(some.row for some in holes.values())}"
    with pyro.validation_enabled(False):
        try:
            if proposal == "prior":
                traces = [poutine.trace(pair.model).get_trace(*hidden)]
            else:
                traces = list(get_traces(pair, tuple(hidden)))
        except (ValueError, RuntimeError) as problem:
            raise InputError(f"Expected complete data; {got} ({reason(problem)}). Give such data.") from problem
        missing = {n: s for n, s in samples(traces[0]).items() if s["is_observed"] and s["value"].isnan().any()}
        for name, site in missing.items():
            if not can_miss(site["fn"]):
                family = type(base_of(site["fn"])).__name__
                why = "which is a condition" if is_condition(site) else f"as {family} cannot leave them out"
                raise InputError(
                    f"Expected {name} without missing values, {why}; {got}. Give complete data, or sample "
                    f"{name} from a likelihood of ppl_vae that scores each number, or from ppl_vae.missing.Observed."
                )
        # The guide first: what it makes of NaN the model is given.
        for program, trace in reversed(list(zip(pair.programs.values(), traces, strict=False))):
            for name, site in samples(trace).items():
                value = filled(site["value"]) if name in missing else site["value"]
                if not missing or value.isnan().any() or site["fn"].log_prob(site["value"]).isnan().any():
                    raise InputError(
                        f"Expected programs that leave out what is missing; {got}, and {program_name(program)} makes "
                        f"{name} of it. Give ppl_vae.missing.filled(x) to its networks, or use complete data."
                    )


def _first(where: Tensor) -> int:
    return int(where.reshape(len(where), -1).any(1).int().argmax())


def _check_support(pair: Pair, site: dict[str, Any], args: Args, source: Source) -> None:
    """Check all data against the support of an observed site."""
    value, support = site["value"], site["fn"].support
    position = next((i for i, a in enumerate(args) if _same(a, value)), None)
    if position is None and len(value) != len(args[0]):
        return  # the program takes a random subset itself: Pyro checks that as it runs
    if position is not None and any(known == position and _equal(support, one) for known, one in source.inside):
        return
    for batch in source.batches(CHECK_SIZE):
        if position is not None:
            x = batch[position].to(value.device).reshape(len(batch[0]), *value.shape[1:])
        else:  # the program computes what it observes
            x = samples(poutine.trace(pair.model).get_trace(*pair.to_device(batch)))[site["name"]]["value"]
        try:
            inside = support.check(x)
        except (RuntimeError, NotImplementedError):  # the support has parameters of its own for each datum
            return
        if not bool(inside.all()):
            values = x if position is None else _values(source, position)
            raise InputError(outside_message(site["name"], site["fn"], x, values))
    if position is not None:
        source.inside.append((position, support))


def _equal(a: Any, b: Any) -> bool:
    """Return whether two supports are known to be the same: of one kind, with the same bounds."""
    if type(a) is not type(b):  # one of them may take missing values
        return False
    a, b = elementwise_support(a), elementwise_support(b)
    try:
        return a is b or (type(a) is type(b) and bool(vars(a)) and vars(a) == vars(b))
    except RuntimeError:  # a bound for each datum
        return False


def _values(source: Source, position: int) -> Tensor:
    """Return the numbers that occur in the data, those of the first hundred thousand if there are more, [M]."""
    batches = itertools.islice(source.batches(CHECK_SIZE), 100)
    values = torch.cat([batch[position].unique() for batch in batches]).unique()
    return values[~values.isnan()]


def _same(a: Tensor, b: Tensor) -> bool:
    return b.dim() > 0 and len(a) == len(b) and a.numel() == b.numel() and bool((a.reshape(-1) == b.reshape(-1)).all())


def outside_message(name: str, fn: Any, x: Tensor, values: Tensor | None = None) -> str:
    """Return what to say of data x outside the support of a site; `values` are those that a likelihood has to take."""
    x = x[~x.isnan()]
    fn = family_of(fn)
    support = elementwise_support(fn.support)
    if isinstance(fn, dist.Categorical):
        fix = "Mend the labels, or raise the number of classes (condition.num_classes)."
    else:
        grey = support is constraints.boolean and bool(((x >= 0) & (x <= 1)).all())
        change = "Binarize the data (binarize='dynamic', or --set data.binarize=dynamic)" if grey else "Rescale them"
        fix = f"{change}, or use {_taking(x if values is None else values)}."
    of = "" if isinstance(fn, dist.ImproperUniform) else f" for {type(fn).__name__}"
    outside = x[~support.check(x)]
    return (
        f"Expected {name} in {in_words(support)}{of}; got values from {float(outside.min()):.3g} to "
        f"{float(outside.max()):.3g}. {fix}"
    )


def _taking(x: Tensor) -> str:
    """Return in words which likelihoods on the shelf take these values."""
    taking = that_take(x)
    options = {cls.__name__: ", ".join(f"{key}={value}" for key, value in own.items()) for cls, own in taking.items()}
    classes = ", ".join(f"{name}({own})" if own else name for name, own in options.items())
    names = ", ".join(snake_case(cls.__name__) for cls in taking)
    settings = {f"--set likelihood.{key}={value}" for own in taking.values() for key, value in own.items()}
    with_settings = f" with {' or '.join(sorted(settings))} where it has that option" if settings else ""
    return f"a likelihood that takes them: {classes} (--likelihood {names}{with_settings})"
