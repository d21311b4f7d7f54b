"""What a run that is resumed must have in common with the one that was interrupted, as plain values with names.

Objectives, optimizers and schedules may be anything that a person wrote, so they are read off what was made of them:
the values among an objective's attributes, the options in an optimizer's groups, the rates that a schedule gives.
"""

import copy
import functools
import hashlib
import math
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from types import CodeType
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from pyro.infer import ELBO
from torch import Tensor, nn
from torch.optim import Optimizer

from ppl_vae.fitting.options import FitOptions
from ppl_vae.traces.pair import Pair
from ppl_vae.traces.programs import core
from ppl_vae.utils.rng import seeded

LARGE = 1000  # numbers in a tensor that is no option any more
MOST_EPOCHS = 10_000  # for which a schedule is asked
LIBRARIES = ("torch", "pyro", "zuko", "ppl_vae", "builtins", "typing", "collections")  # known by their versions
OF_MODULE = ("training", "call_super_init", "dump_patches", "T_destination")
FOUND_OUT = ("max_plate_nesting", "num_particles")  # by Pyro; the other is part of an objective's name
OF_OPTIMIZER = ("params", "param_groups", "state", "defaults")
SINCE = (
    "validation",
    "plate_sizes",
    "dtypes",
    "patience",
    "batches",
)  # which older states do not hold; nor what has a dot
SAID_BY = {"optimizer.lr": "learning_rate", "optimizer.weight_decay": "weight_decay"}
SHOWN = 60  # characters of a value in a message

_changed: "WeakKeyDictionary[Any, set[str]]" = WeakKeyDictionary()  # by a fit: no options of an objective


def differing(was: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return which settings differ, without those that follow from others of them; patience may grow.

    >>> differing({"seed": 0, "epochs": 3}, {"seed": 0, "epochs": 4, "optimizer.eps": 1e-8})
    ['epochs']
    """
    found = []
    for key in {**now, **was}:
        is_new = key in SINCE or "." in key
        if (is_new and not (key in was and key in now)) or was.get(key) == now.get(key):
            continue
        versions = {str(some.get(key)).partition(":")[0] for some in (was, now)}
        if key.endswith(".code") and len(versions) > 1:  # compiled by another Python, which says nothing
            continue
        if key != "patience" or _patience(now) < _patience(was):
            found.append(key)
    return [key for key in found if SAID_BY.get(key, key.partition(".")[0]) not in found or "." not in key]


def shown(settings: Mapping[str, Any], keys: list[str]) -> str:
    """Return some settings in words, shortly."""
    texts = {key: str(settings.get(key)) for key in keys}
    return ", ".join(f"{k}={t if len(t) <= SHOWN else t[: SHOWN - 2] + '..'}" for k, t in texts.items())


def _patience(settings: Mapping[str, Any]) -> float:
    return math.inf if settings["patience"] is None else float(settings["patience"])


def objective_settings(objective: Any) -> dict[str, Any]:
    """Return the options of an objective as it is before the first epoch."""
    if hasattr(objective, "set_epoch"):
        objective.set_epoch(0)
    return _without_changed(objective, _values_of(objective))


@contextmanager
def noting_changes(objective: Any, pair: Pair) -> Iterator[None]:
    """Note what is another value at the end: what is counted or found out while fitting is no option."""
    asked: dict[int, tuple[Any, Callable[[], dict[str, Any]]]] = {
        id(objective): (objective, functools.partial(_values_of, objective))
    }
    for role, program in pair.programs.items():
        owner = core(program).owner
        asked[id(owner)] = (owner, functools.partial(_values_of_program, role, owner))
    before = {key: ask() for key, (_, ask) in asked.items()}
    try:
        yield
    finally:
        for key, (thing, ask) in asked.items():
            was, now = before[key], ask()
            with suppress(TypeError):  # one that cannot be hashed, or referred to weakly
                names = {name for name in {**was, **now} if was.get(name) != now.get(name)}
                _changed.setdefault(thing, set()).update(names)


def _without_changed(thing: Any, values: dict[str, Any]) -> dict[str, Any]:
    with suppress(TypeError):
        return {name: value for name, value in values.items() if name not in _changed.get(thing, ())}
    return values


def program_settings(pair: Pair) -> dict[str, Any]:
    """Return the plain attributes of all modules of a pair, and the code of what is no library's."""
    found: dict[str, Any] = {}
    for role, program in pair.programs.items():
        owner = core(program).owner
        found |= _without_changed(owner, _values_of_program(role, owner))
    return found


def _values_of_program(role: str, owner: Any) -> dict[str, Any]:
    is_module = isinstance(owner, nn.Module)
    found: dict[str, Any] = {} if is_module else {f"{role}.code": _code_of(owner)}
    for path, module in owner.named_modules() if is_module else ():
        place = f"{role}.{path}" if path else role
        if not _is_of_a_library(type(module)):
            found[f"{place}.code"] = _code_of(type(module))
        values = {k: v for k, v in vars(module).items() if not k.startswith("_") and k not in OF_MODULE}
        found |= _plain_ones(values, place)
    return found


def _is_of_a_library(cls: type[Any]) -> bool:
    return cls.__module__.partition(".")[0] in LIBRARIES


def _code_of(thing: Any) -> str:
    """Return a hash of what a function does, or all methods of a class, with the version of Python that compiled it."""
    found = hashlib.sha256()
    classes = [c for c in getattr(thing, "__mro__", ()) if not _is_of_a_library(c)]
    for function in [f for c in classes for _, f in sorted(vars(c).items())] or [thing]:
        for part in _parts_of(getattr(function, "fget", None) or getattr(function, "__func__", None) or function):
            found.update(repr(part).encode(errors="backslashreplace"))
    return f"{sys.version_info.major}.{sys.version_info.minor}:{found.hexdigest()[:16]}"


def _parts_of(function: Any) -> Iterator[Any]:
    """Yield the code of a function, its defaults, and what is plain in its closure; of a function there, its code."""
    if not isinstance(getattr(function, "__code__", None), CodeType):
        return
    yield _parts_of_code(function.__code__)
    cells = [_contents(cell) for cell in function.__closure__ or ()]
    for value in (function.__defaults__, function.__kwdefaults__, *cells):
        if isinstance(getattr(value, "__code__", None), CodeType):
            yield _parts_of_code(value.__code__)
        else:
            with suppress(ValueError):
                yield _plain(value)


def _parts_of_code(code: CodeType) -> tuple[Any, ...]:
    inner = [
        _parts_of_code(one) if isinstance(one, CodeType)
        else sorted(map(repr, one)) if isinstance(one, frozenset)  # whose order is another in each process
        else repr(one)
        for one in code.co_consts
    ]  # fmt: skip
    return code.co_code, inner, code.co_names


def _contents(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # it is empty
        return None


def _plain_ones(values: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    found = {}
    for name, value in values.items():
        with suppress(ValueError):
            found[f"{prefix}.{name}"] = _plain(value)
    return found


def _values_of(thing: Any, prefix: str = "objective") -> dict[str, Any]:
    found: dict[str, Any] = {}
    own = [cls for cls in reversed(type(thing).__mro__) if not _is_of_a_library(cls)]
    of_class = {k: v for cls in own for k, v in vars(cls).items() if not callable(v) and not k.startswith("_")}
    for name, value in (of_class | vars(thing)).items():
        if name in FOUND_OUT or name.startswith("__"):
            continue
        if isinstance(value, ELBO):  # one inside of another
            found |= {f"{prefix}.{name}": type(value).__name__} | _values_of(value, f"{prefix}.{name}")
        else:
            with suppress(ValueError):
                found[f"{prefix}.{name}"] = _plain(value)
    return found


def _plain(value: Any) -> Any:
    """Return what JSON can hold, equal where the value is; a ValueError where that cannot be said."""
    if isinstance(value, Tensor | np.ndarray | np.generic) and not isinstance(value, nn.Parameter):
        value = value.tolist() if math.prod(value.shape) <= LARGE else value
    if isinstance(value, functools.partial):
        value = value.func, value.args, value.keywords
    if isinstance(value, type) or (callable(value) and hasattr(value, "__qualname__")):
        code = f" {_code_of(value)}" if hasattr(value, "__code__") else ""
        value = f"{value.__module__}.{value.__qualname__}{code}"
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return {key: _plain(one) for key, one in value.items()}
    if value is None or isinstance(value, bool | int | str | float):
        return "nan" if isinstance(value, float) and math.isnan(value) else value
    raise ValueError


Group = dict[str, Any]


def groups_of(optimizer: Optimizer) -> list[Group]:
    """Return the options of an optimizer's groups, as they are now."""
    return [{name: value for name, value in group.items() if name != "params"} for group in optimizer.param_groups]


def optimizer_settings(optimizer: Optimizer, groups: list[Group]) -> dict[str, Any]:
    """Return all options of an optimizer, by those its groups began with; one value where it is that of all groups."""
    own = {name: value for name, value in vars(optimizer).items() if not name.startswith("_")}
    found: dict[str, Any] = {"package": type(optimizer).__module__.partition(".")[0]}
    for name, value in own.items():
        if name not in OF_OPTIMIZER:
            with suppress(ValueError):
                found[name] = _plain(value)
    for name in dict.fromkeys(name for group in groups for name in group):
        with suppress(ValueError):
            values = [_plain(group.get(name)) for group in groups]
            found[name] = values[0] if all(value == values[0] for value in values) else values
    return {f"optimizer.{name}": value for name, value in found.items()}


def schedule_settings(options: FitOptions, optimizer: Optimizer, groups: list[Group]) -> dict[str, Any]:
    """Return what a person's own schedule makes of the groups' numbers over all epochs: first, last, and a digest.

    It is asked with a copy of the optimizer, of a parameter of one number for each group.
    """
    if isinstance(options.schedule, str):
        return {}
    rows = []
    try:
        twin: Any = copy.copy(optimizer)
        twin.param_groups = [{"params": [torch.zeros(1, requires_grad=True)], **group} for group in groups]
        twin.state = copy.copy(optimizer.state)
        twin.state.clear()
        with warnings.catch_warnings(), seeded(0):
            warnings.simplefilter("ignore")  # of steps of the schedule without those of the optimizer
            scheduler = options.scheduler_of(twin)
            for _ in range(min(options.epochs, MOST_EPOCHS)):
                rows.append([_numbers(group) for group in twin.param_groups])
                scheduler.step()
    except Exception:  # one that cannot be asked aside is compared by its name
        return {}
    first, last = (float(row[0].get("lr", math.nan)) for row in (rows[0], rows[-1]))
    digest = hashlib.sha256(repr(rows).encode()).hexdigest()[:8]
    return {"schedule.rates": f"{first:g} to {last:g} over {len(rows)} epochs ({digest})"}


def _numbers(group: Group) -> Group:
    found: Group = {}
    for name, value in group.items():
        if name != "params":
            with suppress(ValueError):
                found[name] = _plain(value)
    return found
