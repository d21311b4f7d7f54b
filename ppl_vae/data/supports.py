"""All data against the supports of the sites that observe them, before any work.

A support that is the same for all data is held against them without running the program. One whose bounds the program
reads off the data, or off another of its arguments, holds for one batch only: the program is run on each.
"""

import copy
import itertools
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from torch import Tensor
from torch.distributions import constraints

from ppl_vae.data.holes import CHECK_SIZE
from ppl_vae.data.sources import Source
from ppl_vae.distributions.columns import EachColumn
from ppl_vae.distributions.pixels import Levels
from ppl_vae.distributions.supports import support_of
from ppl_vae.distributions.unwrap import elementwise_support, family_of, in_words
from ppl_vae.errors import InputError, snake_case
from ppl_vae.likelihoods import that_take
from ppl_vae.likelihoods.columns import kinds_for
from ppl_vae.traces.pair import Pair
from ppl_vae.traces.plates import Args, samples
from ppl_vae.traces.sites import Site
from ppl_vae.utils.arrays import PADDED
from ppl_vae.utils.rng import seeded

BYTE = 255

# Those that are the same wherever they are used.
FIXED = [each for each in vars(constraints).values() if isinstance(each, constraints.Constraint)]


def check_supports(pair: Pair, trace: poutine.Trace, args: Args, source: Source) -> None:
    """Check all data against the supports of the observed sites of a model, given its trace on the first of them."""
    watched = list(_watched(trace, args, source))
    aside = all(site.position is not None for site in watched)
    # A program that runs on all data only is looked at as it was run.
    whole = len(args[0]) == len(source)
    while watched:
        for batch in [args] if whole else source.batches(CHECK_SIZE if aside else len(args[0])):
            run = _Run(pair, source, batch, aside=aside)
            if not (aside or run.runs):
                continue  # a batch of another size, of which others will speak
            for site in watched:
                if not site.drawn:
                    site.check(run)
        # Bounds that are those of the first batch may not be those of the last: then all are looked at again.
        read_off = [site for site in watched if not (whole or site.varies) and site.differs(run)]
        for site in read_off:
            site.varies = True
        source.inside += [(s.position, s.support) for s in watched if s.position is not None and not s.varies]
        watched = read_off


class _Run:
    """A batch of the data, and the sites of the model on it once somebody asks for them."""

    def __init__(self, pair: Pair, source: Source, batch: Args, *, aside: bool) -> None:
        self.pair, self.source, self.batch, self.aside = pair, source, batch, aside

    @cached_property
    def sites(self) -> dict[str, Site]:
        return self.again(seed=1)

    @property
    def runs(self) -> bool:
        """Whether the model takes this batch."""
        try:
            _ = self.sites
        except (ValueError, RuntimeError):
            return False
        return True

    def again(self, seed: int) -> dict[str, Site]:
        """Run the model; `aside` leaves the random state as it was."""
        with seeded(seed) if self.aside else nullcontext(), pyro.validation_enabled(False):
            return samples(poutine.trace(self.pair.model).get_trace(*self.pair.to_device(self.batch)))


@dataclass
class _Watched:
    """An observed site, and how its values and its support are known for a batch."""

    name: str
    position: int | None  # of the tensor of the data that it observes; None: the program computes what it observes
    fn: Any
    support: Any  # on the first data
    shape: torch.Size  # of the value there
    varies: bool  # whether the support is another one from batch to batch
    drawn: bool = False  # whether it depends on latents: then there is no value that it can never hold
    ends: set[float] = field(default_factory=set)  # at which the density was looked at

    def check(self, run: _Run) -> None:
        """Refuse a batch with values that are outside."""
        fn, support, rerun = self.fn, self.support, self.position is None or self.varies
        if rerun and self.name not in run.sites:  # a loop over a random subset comes by other sites
            return
        if self.position is None or self.varies:
            fn, x = run.sites[self.name]["fn"], run.sites[self.name]["value"]
            support = _support(fn)
        else:
            x = self._as_first(run.batch[self.position].to(run.pair.device))
        if bool(_inside(support, x).all()):
            self._check_ends(run, x)
        elif not rerun and self.differs(run):
            self.varies = True
            self.check(run)
        elif rerun and _bounds(support) and not _equal(support, _support(run.again(seed=2)[self.name]["fn"])):
            self.drawn = True
        else:
            raise outside(self.name, fn, x, None if self.position is None else _values(run.source, self.position))

    def _as_first(self, x: Tensor) -> Tensor:
        """Return a batch in the shape in which the first one was observed; refuse data of another shape."""
        if x.shape[1:].numel() != self.shape[1:].numel():
            raise InputError(
                f"Expected data of one shape for {self.name}; got {tuple(self.shape[1:])} and {tuple(x.shape[1:])} for "
                f"one. Cut them to one; of series: {PADDED}."
            )
        return x.reshape(len(x), *self.shape[1:])

    def differs(self, run: _Run) -> bool:
        """Return whether the support is another one on a batch: then it was read off the data."""
        if elementwise_support(self.support) in FIXED or not _bounds(self.support):
            return False
        return not _equal(self.support, _support(run.sites[self.name]["fn"]))

    def _check_ends(self, run: _Run, x: Tensor) -> None:
        """Refuse values at an end of the support, as 0 and 1, where the density is infinite or zero."""
        for end in _ends(self.support) - self.ends:
            if not bool((x == end).any()):
                continue
            self.ends.add(end)
            fn, value = run.sites[self.name]["fn"], run.sites[self.name]["value"]
            if not bool(fn.log_prob(torch.full_like(value, end)).isfinite().all()):
                raise InputError(
                    f"Expected {self.name} inside {in_words(self.support)}, and not at its ends, where the density of "
                    f"{type(family_of(fn)).__name__} is zero or infinite; got values of exactly {end:g}. Move them "
                    f"inside (x.clamp, with limits a little inside), or use another likelihood."
                )


def _watched(trace: poutine.Trace, args: Args, source: Source) -> Iterator[_Watched]:
    """Yield the observed sites whose data are not yet known to be inside."""
    for name, site in samples(trace).items():
        fn, value, support = site["fn"], site["value"], _support(site["fn"])
        if not site["is_observed"] or support is None or constraints.is_dependent(support):
            continue
        position = next((i for i, a in enumerate(args) if _same(a, value)), None)
        if position is not None and any(known == position and _equal(support, one) for known, one in source.inside):
            continue
        if position is None and value.shape[:1] != args[0].shape[:1]:
            # One number of a loop, or a subset that the program takes itself: there is no more of it to look at.
            if not bool(_inside(support, value).all()):
                raise outside(name, fn, value)
            continue
        varies = any(isinstance(bound, Tensor) for bound in _bounds(support))
        yield _Watched(name, position, fn, support, value.shape, varies)


def outside(name: str, fn: Any, x: Tensor, values: Tensor | None = None) -> InputError:
    """Return what to raise for data x outside the support of a site; `values`: all that a likelihood has to take."""
    fn, support = family_of(fn), elementwise_support(_support(fn))
    if isinstance(support, EachColumn):
        return _outside_columns(name, fn, support, x)
    inside, options = _inside(support, x), ""
    wrong = x[~inside] if inside.shape == x.shape else x[~x.isnan()]
    seen = x[~x.isnan()] if values is None else values
    if _counts_from_one(support, seen):
        wrong, fix = seen, f"They count from 0: subtract 1 ({name} - 1)."
    elif top := _levels_up_to(support, seen):
        fix = f"They are grey levels up to {top:g}: divide by it ({name} / {top:g})."
    elif isinstance(fn, dist.Categorical):
        fix = "Mend the labels, or give the model more classes."
        options = "--set condition.num_classes=C"
    else:
        grey = support is constraints.boolean and bool(((wrong >= 0) & (wrong <= 1)).all())
        takes, options = _taking(seen)
        fix = f"{'Binarize the data (binarize=' + repr('dynamic') + ')' if grey else 'Rescale them'}, or use {takes}."
        options = f"{'--set data.binarize=dynamic, or ' if grey else ''}{options}"
    of = "" if isinstance(fn, dist.ImproperUniform) else f" for {type(fn).__name__}"
    return InputError(
        f"Expected {name} in {in_words(support)}{of}; got values from {float(wrong.min()):.3g} to "
        f"{float(wrong.max()):.3g}. {fix}",
        options=options,
    )


def _outside_columns(name: str, fn: Any, support: EachColumn, x: Tensor) -> InputError:
    """Return what to raise for rows [..., D] of which some columns are outside: the first of them, and how many."""
    wrong = [index for index, inside in enumerate(_inside(support, x).unbind(-1)) if not bool(inside.all())]
    first, own = wrong[0], support.supports[wrong[0]]
    column, family = x[..., first], type(family_of(fn.column(first))).__name__
    bad, seen = column[~_inside(own, column)], column[~column.isnan()]
    if _counts_from_one(own, seen):
        bad, fix = seen, "They count from 0: subtract 1."
    else:
        fix = f"Mend them, leave them missing (NaN), or let the column be {' or '.join(map(repr, kinds_for(seen)))}."
    others = f"; {len(wrong) - 1} more columns are outside of theirs" if wrong[1:] else ""
    return InputError(
        f"Expected column {support.names[first]} of {name} in {in_words(own)} for {family}; got values from "
        f"{float(bad.min()):.3g} to {float(bad.max()):.3g} in {len(bad)} of {len(column)} rows{others}. {fix}"
    )


def _counts_from_one(support: Any, values: Tensor) -> bool:
    """Return whether values are the whole numbers of a support from 0 to C - 1, each one more."""
    top = 1 if support is constraints.boolean else getattr(support, "upper_bound", None)
    if not support.is_discrete or top is None or torch.as_tensor(top).numel() > 1:
        return False
    return bool((values == values.round()).all()) and float(values.min()) == 1 and float(values.max()) == float(top) + 1


def _levels_up_to(support: Any, values: Tensor) -> float:
    """Return by what values are to be divided to be grey levels in [0, 1], or 0 and 1, if they are bytes; else 0."""
    if support not in (constraints.boolean, constraints.unit_interval) and not isinstance(support, Levels):
        return 0.0
    low, high = float(values.min()), float(values.max())
    two = bool(((values == low) | (values == high)).all())
    if low != 0 or high <= 1 or bool((values != values.round()).any()):
        return 0.0
    return high if two or (high == BYTE and support is not constraints.boolean) else 0.0


def _taking(x: Tensor) -> tuple[str, str]:
    """Return in words which likelihoods on the shelf take these values, and the options that choose one."""
    taking = that_take(x)
    own = {cls.__name__: ", ".join(f"{key}={value}" for key, value in more.items()) for cls, more in taking.items()}
    classes = ", ".join(f"{name}({options})" if options else name for name, options in own.items())
    names = ", ".join(snake_case(cls.__name__) for cls in taking)
    settings = {f"--set likelihood.{key}={value}" for more in taking.values() for key, value in more.items()}
    with_settings = f" with {' or '.join(sorted(settings))} where it has that option" if settings else ""
    return f"a likelihood that takes them: {classes}", f"--likelihood {names}{with_settings}"


def _support(fn: Any) -> Any:
    """Return where a distribution lies; bounds that are alike for all data are one number: they hold for any data."""
    support = support_of(fn)
    return None if support is None else _with_numbers(support)


def _with_numbers(support: Any) -> Any:
    if isinstance(support, constraints.independent):
        return constraints.independent(_with_numbers(support.base_constraint), support.reinterpreted_batch_ndims)
    bounds = {k: v.reshape(-1) for k, v in vars(support).items() if isinstance(v, Tensor) and v.numel() > 1}
    alike = {name: bound[0] for name, bound in bounds.items() if bool((bound == bound[0]).all())}
    if not alike:
        return support
    plain = copy.copy(support)
    vars(plain).update(alike)
    return plain


def _inside(support: Any, x: Tensor) -> Tensor:
    """Return which numbers are in a support, or missing; of one over events, which events, or missing in part."""
    try:
        inside = torch.as_tensor(elementwise_support(support).check(x))
    except (RuntimeError, NotImplementedError):  # bounds in another shape: PyTorch has no answer, either
        return torch.ones((), dtype=torch.bool)
    if x.is_floating_point() and bool((missing := x.isnan()).any()):
        inside = inside | (missing.flatten(inside.dim()).any(-1) if missing.dim() > inside.dim() else missing)
    return inside


def _parts(support: Any) -> list[Any]:
    """Return what a support is made of: its kind and, where there are, its bounds, and those of supports within it.

    Bounds that are alike are one number; where each datum has its own they are a tensor.
    """
    found: list[Any] = [type(support)]
    for name, value in vars(support).items():
        for each in value if isinstance(value, list | tuple) else [value]:
            if isinstance(each, constraints.Constraint):
                found += _parts(each)
            elif isinstance(each, Tensor):
                flat = each.reshape(-1)
                found.append(float(flat[0]) if len(flat) and bool((flat == flat[0]).all()) else each)
            elif isinstance(each, int | float) and name != "reinterpreted_batch_ndims":
                found.append(float(each))
    return found


def _bounds(support: Any) -> list[Any]:
    """Return the bounds of a support, numbers and tensors."""
    return [part for part in _parts(support) if not isinstance(part, type)]


def _equal(a: Any, b: Any) -> bool:
    """Return whether two supports are the same: of one kind, with the same bounds."""
    parts, others = _parts(a), _parts(b)
    if list(map(type, parts)) != list(map(type, others)):
        return False
    both = zip(parts, others, strict=True)
    return all(torch.equal(one, other) if isinstance(one, Tensor) else one == other for one, other in both)


def _ends(support: Any) -> set[float]:
    """Return the ends of an interval of real numbers that belong to it."""
    support = elementwise_support(support)
    closed = isinstance(support, constraints.interval | constraints.greater_than_eq | constraints.half_open_interval)
    if not closed or support.is_discrete:
        return set()
    ends = [support.lower_bound] + ([support.upper_bound] if isinstance(support, constraints.interval) else [])
    return {float(end) for end in ends if not isinstance(end, Tensor) or end.numel() == 1}


def _values(source: Source, position: int) -> Tensor:
    """Return the numbers that occur in the data, those of the first hundred thousand if there are more, [M]."""
    batches = itertools.islice(source.batches(CHECK_SIZE), 100)
    values = torch.cat([batch[position].unique() for batch in batches]).unique()
    return values[~values.isnan()]


def _same(a: Tensor, b: Tensor) -> bool:
    if b.dim() == 0 or len(a) != len(b) or a.numel() != b.numel():
        return False
    return bool((a.reshape(-1) == b.reshape(-1)).all())
