"""Any Pyro program as a generator of data: how it is called, and which of its sites hold the data.

A program of ours is called with a size, and returns x. Of any other one the data are at the site that observes them
(the first argument, in `reconstruct`), at the site x, or at the last, with all others of its name but for numbers: a
series of sites x_0, x_1, ... is one x. What stands in a plate comes with the data first, [N, ...].
"""

import inspect
import math
import re
from collections.abc import Callable
from typing import Any

import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger
from torch import Tensor

from ppl_vae import base
from ppl_vae.distributions.unwrap import family_of, mean_of
from ppl_vae.errors import InputError, ProgramError
from ppl_vae.traces.handlers import Regenerated
from ppl_vae.traces.pair import Pair, Program, call_signature, program_name
from ppl_vae.traces.plates import samples
from ppl_vae.traces.sites import Site
from ppl_vae.utils.faults import got
from ppl_vae.utils.rng import seeded

POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
FIX = "Write it as forward(self, x=None, *, size=None), where obs=x, and x is None to generate"


def as_generator(pair: Pair, given: dict[str, Any], size: int) -> Program:
    """Return the model as a program that is called with `size` and conditions by name, and generates.

    Without a parameter `size` the number of data is that of its plate: it is called without data, or, if that fails,
    with data whose numbers are not to be read, as their sites are drawn anew.
    """
    model, parameters = pair.model, call_signature(pair.model).parameters
    anything = any(p.kind == p.VAR_KEYWORD for p in parameters.values())
    unknown = [name for name in given if name not in parameters and not anything]
    if unknown:
        raise InputError(
            f"Expected a model that takes {', '.join(unknown)}; got {program_name(model)}{call_signature(model)}. Give "
            f"what it takes."
        )
    kinds = (*POSITIONAL, inspect.Parameter.KEYWORD_ONLY)
    left = [p for name, p in parameters.items() if name not in (*given, "size") and p.kind in kinds]
    required = [p.name for p in left if p.default is p.empty]
    takes_size = "size" in parameters
    ways = [_called(model, takes_size, lambda _: dict.fromkeys(required))] if takes_size or not required else []
    if takes_size and not required:
        return ways[0]
    names = required or [p.name for p in left[:1]]
    if names:
        drawn_anew = Regenerated()(model)
        ways.append(_called(drawn_anew, takes_size, lambda size: dict.fromkeys(names, _unknown(pair, size))))
    return _first_that_runs(ways, pair, given, size, names)


def _called(program: Program, takes_size: bool, arguments: Callable[[int], dict[str, Any]]) -> Program:
    return lambda *, size, **given: program(**arguments(size), **({"size": size} if takes_size else {}), **given)


def _unknown(pair: Pair, size: int) -> Tensor:
    """Return what stands for data: whatever is computed of it is NaN."""
    model = pair.modules.get("model")
    event_shape = model.event_shape if isinstance(model, base.Model) else ()
    return torch.full((size, *event_shape), math.nan, device=pair.device)


def _first_that_runs(ways: list[Program], pair: Pair, given: dict[str, Any], size: int, names: list[str]) -> Program:
    """Return the first way to call a model that generates numbers."""
    said = "got none."
    cause: Exception | None = None
    for way in ways:
        try:
            with seeded(0):
                x, _ = generated(pair, way, False, size=size, **given)
        except InputError:
            raise
        except Exception as problem:  # whatever a person's program may do
            said, cause = got(problem), problem
        else:
            if not (x.is_floating_point() and bool(x.isnan().any())):
                return way
            said, cause = "got NaN, as it computes with them.", None
    reads = ", ".join(names)
    raise ProgramError(
        f"Expected {program_name(pair.model)}{call_signature(pair.model)} to generate data without "
        f"{reads or 'any'}; {said} {FIX}" + (f"; or give what it reads: sample(model, {reads}=...)." if reads else ".")
    ) from cause


class AtMean(Messenger):
    """Let the data of a program be at their mean instead of drawn."""

    def __init__(self, mean: bool) -> None:
        super().__init__()
        self.mean = mean

    def _pyro_post_sample(self, msg: Any) -> None:
        if self.mean and msg["name"] == "x" and not msg["is_observed"]:
            msg["value"] = _mean(msg["name"], msg["fn"])


def generated(pair: Pair, program: Program, mean: bool, /, *args: Any, **kwargs: Any) -> tuple[Tensor, dict[str, Site]]:
    """Run a pair's model, in handlers; return the data it generates, or E[x | z] with `mean`, and its sites.

    With arguments the first of them are data, as which what is generated is shaped.
    """
    with AtMean(mean):
        trace = poutine.trace(program).get_trace(*args, **kwargs)
    sites = samples(trace)
    if not sites:
        raise InputError(f"Expected a model with sites; got {program_name(pair.model)} without. Use pyro.sample.")
    names, dim = _data_names(sites, args[0] if args else None)
    returned: Any = trace.nodes["_RETURN"]["value"]
    ours = isinstance(pair.modules.get("model"), base.Model) and isinstance(returned, Tensor)
    if ours and not any(returned is site["value"] for name, site in sites.items() if name not in names):
        return _shaped(returned, args), sites
    values = [_mean(name, sites[name]["fn"]) if mean else sites[name]["value"] for name in names]
    if dim is not None:
        return torch.stack(values, dim), sites
    size = len(args[0]) if args else kwargs["size"]
    return _shaped(_by_datum([sites[name] for name in names], values, size), args), sites


def _data_names(sites: dict[str, Site], x: Tensor | None) -> tuple[list[str], int | None]:
    """Return which sites hold the data, and along which dimension they are stacked to give x, if they do."""
    observed = {n: s["infer"]["obs"] for n, s in sites.items() if s["infer"].get("was_observed")}
    for name, value in observed.items():
        if x is not None and value.numel() == x.numel() and _same(value.reshape(x.shape), x):
            return [name], None
    names = list(observed or sites)
    last = "x" if "x" in names else names[-1]
    family = [name for name in names if re.sub(r"\d+", "#", name) == re.sub(r"\d+", "#", last)]
    shapes = {sites[name]["value"].shape for name in family}
    if len(family) == 1 or len(shapes) > 1:
        return [last], None
    if x is not None and all(name in observed for name in family):
        for dim in range(sites[last]["value"].dim() + 1):
            if _same(torch.stack([observed[name] for name in family], dim), x):
                return family, dim
    return family, None


def _same(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and bool(((a == b) | (a.isnan() & b.isnan())).all())


def _mean(name: str, fn: Any) -> Tensor:
    """Return the mean of a distribution; refuse one that has none."""
    mean = mean_of(fn)
    try:
        without = bool(mean.isnan().all())
    except RuntimeError:  # there are no values to look at while it is recorded, after a run that was looked at
        without = False
    if without:
        family = type(family_of(fn)).__name__
        raise InputError(f"Expected a distribution with a mean at {name!r}; got {family}. Pass mean=False for a draw.")
    return mean


def _by_datum(sites: list[Site], values: list[Tensor], size: int) -> Tensor:
    """Return the values of sites, one or a series, with the data first: [N, ...], or [N, number of sites, ...]."""
    frames = [frame for frame in sites[0]["cond_indep_stack"] if frame.vectorized]
    frame = min(frames, key=lambda f: (f.name != "data", f.size != size), default=None)
    if frame is not None:
        values = [v.movedim(frame.dim - s["fn"].event_dim, 0) for s, v in zip(sites, values, strict=True)]
    elif len(values) == size > 1:  # a loop over the data
        return torch.stack(values)
    elif values[0].shape[:1] != (size,):  # a run is one datum
        values = [value[None] for value in values]
    return values[0] if len(values) == 1 else torch.stack(values, 1)


def _shaped(x: Tensor, args: tuple[Any, ...]) -> Tensor:
    return x.reshape(args[0].shape) if args and x.numel() == args[0].numel() else x
