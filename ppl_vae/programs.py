"""From a name or a file to a model and a guide, with their parts.

A model or a guide is a name (`vae`) or a file (`my/own.py`) that holds one subclass of `Model` or of
`Guide`. A part (a prior, a likelihood) is a class, called by its name in snake case, looked for in the
person's own file first and in `ppl_vae` after that. Options go to constructors as keyword arguments.
"""

import functools
import importlib
import importlib.util
import inspect
import pkgutil
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from ppl_vae.architectures import Architecture
from ppl_vae.base import Guide, Model
from ppl_vae.conditions import Condition
from ppl_vae.errors import InputError, did_you_mean, reason
from ppl_vae.likelihoods import Likelihood
from ppl_vae.priors import Prior

# What can be swapped: its name as an option of a program -> (where its classes are, their base class).
PARTS: dict[str, tuple[str, type[Any]]] = {
    "condition": ("ppl_vae.conditions", Condition),
    "networks": ("ppl_vae.architectures", Architecture),
    "prior": ("ppl_vae.priors", Prior),
    "likelihood": ("ppl_vae.likelihoods", Likelihood),
}
SWAPPABLE = dict.fromkeys((*PARTS, "decoder"), "model") | {
    "encoder": "guide",
    "classifier": "guide",
}  # and whose they are
AN_IMAGE = torch.Size([1, 2, 2])  # what every model with parts takes; the classes of its parts are the same for all
ROLES: dict[str, type[Any]] = {"model": Model, "guide": Guide}


@dataclass(frozen=True)
class Found:
    """A program's class, and the module it stands in."""

    cls: type[Any]
    module: ModuleType


def find(role: str, name: str) -> Found:
    """Find a model or a guide by name or by file.

    Args:
        role: "model" or "guide".
        name: a name such as `vae`, or the path of a Python file.

    Raises:
        InputError: no such name or file, a file that cannot be imported, or one that does not hold exactly
            one class of this role.

    >>> find("model", "vae").cls.__name__
    'VAE'
    """
    path = Path(name)
    if is_file(name):
        module = _import_file(role, path)
    else:
        known = names(role)
        if name not in known:
            raise InputError(f"Unknown {role} {name!r}: {did_you_mean(name, known)}, or give a Python file.")
        module = importlib.import_module(f"ppl_vae.{role}s.{name}")
    classes = _classes(module, ROLES[role])
    if len(classes) != 1:
        raise InputError(
            f"Expected one subclass of ppl_vae.base.{ROLES[role].__name__} in {name}; got "
            f"{', '.join(c.__name__ for c in classes) or 'none'}. Keep one {role} in a file."
        )
    return Found(classes[0], module)


def is_file(name: str) -> bool:
    """Whether a model or guide is given as a file rather than by name."""
    return Path(name).suffix == ".py" or len(Path(name).parts) > 1


def source(role: str, name: str) -> bytes:
    """Return the source of a model or a guide."""
    return Path(name if is_file(name) else package_folder(f"{role}s") / f"{name}.py").read_bytes()


def package_folder(kind: str) -> Path:
    """Return the folder of the installed "models" or "guides"."""
    return Path(importlib.import_module(f"ppl_vae.{kind}").__path__[0])


def names(role: str) -> list[str]:
    """Return the names of the models or guides that come with ppl-vae.

    >>> {"conditional", "flow", "full_covariance", "mean_field"} <= set(names("guide"))
    True
    """
    return sorted(info.name for info in pkgutil.iter_modules([str(package_folder(f"{role}s"))]))


def guide_for(model: str, *, partly_labelled: bool = False) -> str:
    """Return the guide that goes with a model: the file's own, the one of the same name, or the class's default.

    >>> guide_for("vae"), guide_for("cvae"), guide_for("cvae", partly_labelled=True)
    ('mean_field', 'conditional', 'semi_supervised')
    """
    found = find("model", model)
    if _classes(found.module, Guide):
        return model
    return Path(model).stem if Path(model).stem in names("guide") else _default_guide(found.cls, partly_labelled)


def _default_guide(cls: Any, partly_labelled: bool) -> str:
    return str((partly_labelled and cls.partly_labelled_guide) or cls.default_guide)


def build(
    model: str,
    guide: str | None = None,
    *,
    event_shape: torch.Size,
    prior: str | None = None,
    likelihood: str | None = None,
    condition: str | None = None,
    networks: str | None = None,
    settings: Mapping[str, Any] | None = None,
    defaults: Mapping[str, Any] | None = None,
) -> tuple[Model, Guide, dict[str, Any]]:
    """Build a model and its guide by name.

    Args:
        model, guide: as in `find`; no guide means the one that goes with the model.
        event_shape: the shape of one datum.
        prior, likelihood, condition, networks: class names in snake case; none means the model's own.
        settings: options by "part.option", with part one of model, guide, prior, likelihood, condition, networks,
            decoder, encoder, classifier.
        defaults: settings for the parts that have such an option, where `settings` says nothing.

    Returns:
        The model, the guide, and the settings that were used.

    Raises:
        InputError: an unknown name or option (with the nearest ones), or a value that a part refuses.

    >>> vae, _, _ = build("vae", event_shape=torch.Size([1, 8, 8]), prior="mixture", settings={"prior.latent_dim": 3})
    >>> vae.prior.latent_dim
    3
    """
    found = find("model", model)
    classes = {"model": found.cls, "guide": find("guide", guide or guide_for(model)).cls}
    named = {"prior": prior, "likelihood": likelihood, "condition": condition, "networks": networks}
    given = _by_part(settings or {})
    suggested = _by_part(defaults or {})
    used: dict[str, Any] = {}
    for part, role in SWAPPABLE.items():
        options, name = given.pop(part), named.get(part)
        if part not in _options(classes[role]):
            if name or options:
                raise InputError(
                    f"Expected a {role} whose {part} can be chosen; got {classes[role].__name__}, which has its own. "
                    f"Leave out {part}, or use another {role}."
                )
            continue
        if part in PARTS and name is None and is_file(model):  # what the person wrote there holds
            if options:
                raise InputError(
                    f"Expected --{part} beside options of the {part}; got {', '.join(f'{part}.{k}' for k in options)} "
                    f"for {model}, which has a {part} of its own. Name one, or change the file."
                )
            continue
        cls = _part_class(part, name, found, classes[role], event_shape)
        options = {k: v for k, v in suggested[part].items() if k in _options(cls)} | options
        if name or options:
            given[role][part] = make(cls, options, part) if part in PARTS else _network(cls, options, part)
            used |= {f"{part}.{k}": v for k, v in options.items()}
    used |= {f"{role}.{k}": v for role in ROLES for k, v in given[role].items() if k not in SWAPPABLE}
    built = make(classes["model"], given["model"], "model", event_shape)
    return built, make(classes["guide"], given["guide"], "guide", built), used


def _by_part(settings: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    parts: dict[str, dict[str, Any]] = {part: {} for part in (*ROLES, *SWAPPABLE)}
    for key, value in settings.items():
        part, _, option = key.partition(".")
        if part not in parts or not option:
            near = did_you_mean(part, [*parts, "fit", "data", "objective"])
            raise InputError(f"Expected settings named part.option; got {key!r}. As part, {near}.")
        if part in ROLES and option in SWAPPABLE:
            raise InputError(f"Expected --{option}, or {option}.option=value; got {key!r}. Use one of these.")
        parts[part][option] = value
    return parts


def _network(cls: Any, options: Mapping[str, Any], part: str) -> Any:
    _check_options(cls, options, part)
    return functools.partial(cls, **options)


def make(cls: Any, options: Mapping[str, Any], part: str, *first: Any) -> Any:
    """Call a constructor with options, and let what is wrong with them be an InputError."""
    _check_options(cls, options, part, len(first))
    try:
        return cls(*first, **options)
    except InputError as problem:
        raise InputError(reason(problem)) from None
    except Exception as problem:  # whatever a person's own class may do
        values = ", ".join(f"{part}.{k}={v!r}" for k, v in options.items() if k not in SWAPPABLE) or "no options"
        raise InputError(
            f"Expected {cls.__name__} to be made with {values}; got {type(problem).__name__}: {reason(problem)}."
        ) from problem


def part_names(part: str, own: ModuleType | None = None) -> dict[str, type[Any]]:
    """Return the classes that can be a prior, a likelihood, ..., by their name in snake case.

    >>> sorted(part_names("prior"))
    ['conditional_normal', 'mixture', 'standard_normal']
    """
    module_name, base = PARTS[part]
    shelf = importlib.import_module(module_name)
    listed = [getattr(shelf, name) for name in getattr(shelf, "__all__", ())] or _classes(shelf, base)
    classes = [cls for cls in listed if inspect.isclass(cls) and issubclass(cls, base) and cls is not base]
    classes += [] if own is None else _classes(own, base)
    return {snake_case(cls.__name__): cls for cls in classes}


def snake_case(name: str) -> str:
    """Return a class name as it is written on the command line.

    >>> snake_case("StandardNormal")
    'standard_normal'
    """
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()


def _part_class(part: str, name: str | None, model: Found, program: Any, event_shape: torch.Size) -> Any:
    if part not in PARTS:  # a network: the one the program uses where nothing is said
        return _options(program)[part].default
    if name is None:
        try:
            return type(getattr(model.cls(event_shape), part))
        except InputError:  # a default refuses these data, as a region of an image does; what is given may take them
            return type(getattr(model.cls(AN_IMAGE), part))
    known = part_names(part, model.module)
    if name not in known:
        raise InputError(f"Unknown {part} {name!r}: {did_you_mean(name, known)}.")
    return known[name]


def _options(cls: Any) -> dict[str, inspect.Parameter]:
    return dict(inspect.signature(cls).parameters)


def _check_options(cls: Any, options: Mapping[str, Any], part: str, positional: int = 0) -> None:
    known = [name for name in list(_options(cls))[positional:] if name not in SWAPPABLE]
    for name in options:
        if name not in known and not (name in SWAPPABLE and positional):
            near = did_you_mean(name, known)
            raise InputError(f"Unknown option {part}.{name} of {cls.__name__}: {near}.")


def _classes(module: ModuleType, base: type[Any]) -> list[type[Any]]:
    """Return the subclasses of `base` that are written in a module (not those it imports)."""
    members = [c for c in vars(module).values() if inspect.isclass(c) and issubclass(c, base) and c is not base]
    return [c for c in members if c.__module__ == module.__name__]


def _import_file(role: str, path: Path) -> ModuleType:
    if not path.is_file():
        raise InputError(f"Expected a Python file with a {role} in {path}; got no such file.")
    name = f"ppl_vae_file_{re.sub(r'[^A-Za-z0-9]', '_', str(path.resolve()))}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise InputError(f"Expected a Python file with a {role}; got {path}. Let its name end in .py.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except SyntaxError as problem:
        raise InputError(
            f"Expected Python in {path}; got a syntax error in line {problem.lineno}: {problem.msg}."
        ) from None
    except Exception as problem:
        raise InputError(f"Expected {path} to import; got {type(problem).__name__}: {reason(problem)}.") from problem
    return module
