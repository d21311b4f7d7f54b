"""The kinds of parts that there are, where their classes stand, and how one is found by name and made.

A new kind is one row of `KINDS`, a new part one class on its shelf; classes are imported when they are asked for.
"""

import importlib
import inspect
import pkgutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any, NamedTuple

from ppl_vae.errors import InputError, ProgramError, did_you_mean, reason, snake_case
from ppl_vae.utils.faults import got


@dataclass(frozen=True)
class Kind:
    """A kind of part that can be chosen by name.

    Attributes:
        whose: what takes it: the "model", the "guide", or "fit".
        shelf: the module whose `__all__` lists its classes; without one, all that are written there count.
        base: their base class, as "module:name".
        help: what it is, for the command line, with examples.
        letter: the short option.
        shapes: how many arguments of its constructor the program itself gives: it is given what makes the part.
    """

    whose: str
    shelf: str
    base: str
    help: str
    letter: str | None = None
    shapes: int = 0


class Choice(NamedTuple):
    """A part that was chosen, or that a program has where none is: its name, what makes it, the options given.

    The name is None where it is a person's own default that cannot be called by name.
    """

    name: str | None
    cls: Callable[..., Any]
    options: dict[str, Any]


# Where classes stand, and their base class.
PRIORS = ("ppl_vae.priors", "ppl_vae.parts:Prior")
LIKELIHOODS = ("ppl_vae.likelihoods", "ppl_vae.parts:Likelihood")
CONDITIONS = ("ppl_vae.conditions", "ppl_vae.conditions:Condition")
ARCHITECTURES = ("ppl_vae.architectures", "ppl_vae.architectures:Architecture")
NETWORKS = ("ppl_vae.networks", "ppl_vae.networks:Network")
POSTERIORS = ("ppl_vae.posteriors", "ppl_vae.parts:Posterior")
PREPROCESSINGS = ("ppl_vae.preprocessing", "ppl_vae.parts:Preprocessing")
OBJECTIVES = ("ppl_vae.objectives", "pyro.infer:ELBO")

# By name: that of the option, on the command line and of the program's constructor.
KINDS: dict[str, Kind] = {
    "prior": Kind("model", *PRIORS, "P(z): standard_normal, mixture, flow, ...", "-p"),
    "likelihood": Kind("model", *LIKELIHOODS, "P(x | h): bernoulli, gaussian, discretized_logistic, ...", "-l"),
    "condition": Kind("model", *CONDITIONS, "P(y) of a conditional model: label, visible, digit_string, ...", "-c"),
    "networks": Kind(
        "model",
        *ARCHITECTURES,
        "How a conditional model reads y and z: concatenated, convolutional, tutorial, ...",
        "-n",
    ),
    "decoder": Kind("model", *NETWORKS, "The network from z to h: mlp, gated_mlp, convolutional, residual.", shapes=2),
    "encoder": Kind("guide", *NETWORKS, "The network from x to Q: mlp, gated_mlp, convolutional, residual.", shapes=2),
    "classifier": Kind("guide", *NETWORKS, "The network of Q(y | x): mlp, gated_mlp, ...", shapes=2),
    "posterior": Kind("guide", *POSTERIORS, "Where a guide ends: diagonal_normal, multivariate_normal, ...", shapes=1),
    "preprocessing": Kind(
        "guide", *PREPROCESSINGS, "What the guide's networks read of x: standardize, log1p, identity."
    ),
    "objective": Kind("fit", *OBJECTIVES, "What is maximized: trace_elbo, iwae, beta_elbo, free_bits, ..."),
}
PARTS = {name: kind for name, kind in KINDS.items() if kind.whose in ("model", "guide")}


def part_names(kind: str, own: Iterable[ModuleType] = ()) -> dict[str, type[Any]]:
    """Return the classes of a kind by name: its shelf's, and those of a person's `own` modules, which go first.

    >>> sorted(part_names("networks"))[:3]
    ['concatenated', 'convolutional', 'gated']
    """
    base = pkgutil.resolve_name(KINDS[kind].base)
    shelf = importlib.import_module(KINDS[kind].shelf)
    listed = [getattr(shelf, name) for name in getattr(shelf, "__all__", ())]
    classes = _subclasses(listed, base) or written_in(shelf, base)
    for module in own:
        classes += written_in(module, base)
    return {snake_case(cls.__name__): cls for cls in classes}


def part_class(kind: str, name: str, own: Iterable[ModuleType] = ()) -> type[Any]:
    """Return the class of a part by a name that `part_names` has."""
    known = part_names(kind, own)
    if name not in known:
        raise InputError(f"Unknown {kind} {name!r}: {did_you_mean(name, known)}.")
    return known[name]


def default_part(program: Callable[..., Any], kind: str) -> Any:
    """Return what makes a program's own part: its constructor's default, or `default_prior` and the like, or None."""
    usual = parameters_of(program)[kind].default
    return usual if callable(usual) else getattr(program, f"default_{kind}", None)


def name_of_part(kind: str, made_by: Any, own: Iterable[ModuleType] = ()) -> str | None:
    """Return the name of a part by which `part_class` finds what makes it, or None where it does not."""
    cls, given = getattr(made_by, "func", made_by), getattr(made_by, "keywords", {})
    name = snake_case(getattr(cls, "__name__", ""))
    return name if part_names(kind, own).get(name) is cls and all(map(_is_plain, given.values())) else None


def plain_defaults(cls: Callable[..., Any], shapes: int = 0) -> dict[str, Any]:
    """Return the options of a constructor with their defaults, as far as a run.json can hold them.

    >>> plain_defaults(part_class("prior", "mixture"))
    {'latent_dim': 8, 'num_components': 10}
    """
    options = parameters_of(cls, shapes).items()
    return {name: option.default for name, option in options if name not in PARTS and _is_plain(option.default)}


def _is_plain(value: Any) -> bool:
    """Return whether a value comes back from JSON as it was, lists for tuples."""
    if isinstance(value, tuple | list):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, bool | int | float | str)


def written_in(module: ModuleType, base: type[Any]) -> list[type[Any]]:
    """Return the subclasses of `base` that are written in a module (not those it imports)."""
    return [cls for cls in _subclasses(vars(module).values(), base) if cls.__module__ == module.__name__]


def _subclasses(things: Iterable[Any], base: type[Any]) -> list[type[Any]]:
    return [cls for cls in things if inspect.isclass(cls) and issubclass(cls, base) and cls is not base]


def parameters_of(cls: Callable[..., Any], shapes: int = 0) -> dict[str, inspect.Parameter]:
    """Return the options of a constructor, less its first `shapes` arguments; `**kwargs` are its base class's."""
    parameters = list(inspect.signature(cls).parameters.values())
    found = {p.name: p for p in parameters[shapes:] if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)}
    if inspect.isclass(cls) and any(p.kind == p.VAR_KEYWORD for p in parameters):
        made_by = [c for c in cls.__mro__ if "__init__" in vars(c) and c is not object]
        if len(made_by) > 1:
            above = parameters_of(made_by[1])
            found |= {name: option for name, option in above.items() if name not in found}
    return found


def check_options(cls: Callable[..., Any], options: Iterable[str], part: str, shapes: int = 0) -> None:
    """Check that a constructor takes options of these names, none of which chooses another part."""
    known = [name for name in parameters_of(cls, shapes) if name not in PARTS]
    for name in options:
        if name not in known:
            raise InputError(f"Unknown option {part}.{name} of {_name(cls)}: {did_you_mean(name, known)}.")


def make(cls: Callable[..., Any], options: Mapping[str, Any], part: str, *first: Any, **parts: Any) -> Any:
    """Call cls(*first, **options, **parts), and let what is wrong be an InputError on options of this `part`."""
    check_options(cls, options, part, len(first))
    try:
        return cls(*first, **options, **parts)
    except ProgramError:
        raise
    except InputError as problem:
        raise InputError(reason(problem), options=problem.options) from None
    except Exception as problem:  # whatever a person's own class may do
        values = ", ".join(f"{part}.{k}={v!r}" for k, v in options.items()) or "no options"
        raise ProgramError(f"Expected {_name(cls)} to be made with {values}; {got(problem)}") from problem


def _name(cls: Any) -> str:
    return str(getattr(getattr(cls, "func", cls), "__name__", cls))
