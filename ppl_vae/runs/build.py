"""From a name (`vae`) or a file (`my/own.py`, with one subclass of `Model` or of `Guide`) to a pair, with its parts.

A part or an objective is a class, called by its name in snake case, looked for in the file first and then on its shelf
(`ppl_vae.runs.kinds`). Options go to constructors as keyword arguments.
"""

import functools
import hashlib
import importlib
import os
import pkgutil
import re
import shutil
import sys
import zlib
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Self

import torch
from pyro.infer import ELBO

from ppl_vae.base import Guide, Model
from ppl_vae.errors import InputError, ProgramError, check_path, did_you_mean, positive_int
from ppl_vae.runs import kinds
from ppl_vae.runs.kinds import KINDS, PARTS, Choice
from ppl_vae.utils.faults import got
from ppl_vae.utils.files import read_file, written_whole
from ppl_vae.utils.rng import seeded

ROLES: dict[str, type[Any]] = {"model": Model, "guide": Guide}
USUAL_OBJECTIVE = "trace_elbo"
MOST_SOURCE = 2**24  # bytes of a Python file


def find(role: str, name: str) -> tuple[type[Any], ModuleType]:
    """Find a model or a guide by name or by file, which is run: its class, and the module it is written in.

    >>> find("model", "vae")[0].__name__
    'VAE'
    """
    if is_file(name):
        module = _import_file(role, Path(name))
    elif name not in names(role):
        raise InputError(f"Unknown {role} {name!r}: {did_you_mean(name, names(role))}, or give a Python file.")
    else:
        module = importlib.import_module(f"ppl_vae.{role}s.{name}")
    classes = kinds.written_in(module, ROLES[role])
    if len(classes) != 1:
        raise InputError(
            f"Expected one subclass of ppl_vae.base.{ROLES[role].__name__} in {name}; got "
            f"{', '.join(c.__name__ for c in classes) or 'none'}. Keep one {role} in a file."
        )
    return classes[0], module


def is_file(name: str) -> bool:
    """Whether a model or guide is given as a file rather than by name."""
    check_path("a model or a guide", name)
    return Path(name).suffix == ".py" or len(Path(name).parts) > 1


def source(role: str, name: str) -> bytes:
    """Return the source of a model or a guide."""
    return read_file(Path(name if is_file(name) else package_folder(f"{role}s") / f"{name}.py"), MOST_SOURCE)


def hash_of(role: str, name: str) -> str:
    """Return a hash of the file of a model or a guide."""
    return hashlib.sha256(source(role, name)).hexdigest()


def package_folder(kind: str) -> Path:
    """Return the folder of the installed "models" or "guides"."""
    return Path(importlib.import_module(f"ppl_vae.{kind}").__path__[0])


def names(role: str) -> list[str]:
    """Return the names of the models or guides that come with ppl-vae."""
    return sorted(info.name for info in pkgutil.iter_modules([str(package_folder(f"{role}s"))]))


def guide_for(model: str, *, partly_labelled: bool = False) -> str:
    """Return the guide that goes with a model: the file's own, the one of the same name, or the class's default.

    >>> guide_for("vae"), guide_for("cvae"), guide_for("cvae", partly_labelled=True)
    ('mean_field', 'conditional', 'semi_supervised')
    """
    cls, module = find("model", model)
    if kinds.written_in(module, Guide):
        return model
    usual = (partly_labelled and cls.partly_labelled_guide) or cls.default_guide
    return Path(model).stem if Path(model).stem in names("guide") else str(usual)


class Streams:
    """Random streams by name, all of one seed; a name that is asked for again has another one."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self._asked: Counter[str] = Counter()

    def of(self, name: str) -> AbstractContextManager[None]:
        """Draw from the next stream of a name, within it."""
        self._asked[name] += 1
        return seeded(self.seed, zlib.crc32(name.encode()), self._asked[name])


class Drawing(functools.partial[Any]):
    """What makes a part of the shapes that the program gives it; its weights are drawn from a stream of its own."""

    streams: Streams
    name: str

    def __new__(cls, streams: Streams, name: str, made_by: Any, options: Mapping[str, Any]) -> Self:
        """Take the place of `functools.partial(made_by, **options)`."""
        self = super().__new__(cls, made_by, **options)
        self.streams, self.name = streams, name
        return self

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        """Make the part."""
        with self.streams.of(self.name):
            return super().__call__(*args, **kwargs)


@dataclass(frozen=True)
class Programs:
    """A model, a guide and their parts that were chosen, by "model", "guide" and kind of part; nothing is made yet."""

    chosen: dict[str, Choice]

    @property
    def names(self) -> dict[str, str]:
        """Both programs, as they were asked for."""
        return {role: str(self.chosen[role].name) for role in ROLES}

    @property
    def used(self) -> dict[str, Any]:
        """The options given, by "part.option"."""
        return {f"{part}.{k}": v for part, choice in self.chosen.items() for k, v in choice.options.items()}

    def written(self) -> dict[str, Any]:
        """Return the arguments of `choose` that give the same, with the name of each part and every option."""
        names: dict[str, Any] = {}
        usual: dict[str, Any] = {}
        for part, (name, cls, _) in self.chosen.items():
            if name is not None:
                names[part] = name
                shapes = 1 if part in ROLES else PARTS[part].shapes
                usual |= {f"{part}.{k}": v for k, v in kinds.plain_defaults(cls, shapes).items()}
        return names | {"settings": usual | self.used}

    def make(self, event_shape: torch.Size) -> tuple[Model, Guide]:
        """Make both for data of this shape.

        Each part draws its initial weights from a stream of its own, of the random state now and of its name: what two
        choices have in common starts alike.
        """
        streams = Streams(int(torch.randint(2**31, (), device="cpu")))
        parts: dict[str, dict[str, Any]] = {role: {} for role in ROLES}
        for part, (_, cls, options) in self.chosen.items():
            if part in ROLES:
                continue
            kind = PARTS[part]
            kinds.check_options(cls, options, part, kind.shapes)
            if kind.shapes:
                parts[kind.whose][part] = Drawing(streams, part, cls, options)
                continue
            with streams.of(part):
                parts[kind.whose][part] = kinds.make(cls, options, part)
        (_, model, options), (_, guide, guide_options) = (self.chosen[role] for role in ROLES)
        with streams.of("model"):
            made = kinds.make(model, options, "model", event_shape, **parts["model"])
        with streams.of("guide"):
            return made, kinds.make(guide, guide_options, "guide", made, **parts["guide"])


def choose(
    model: str,
    guide: str | None = None,
    *,
    settings: Mapping[str, Any] | None = None,
    defaults: Mapping[str, Any] | None = None,
    **parts: str | None,
) -> Programs:
    """Choose a model, its guide and their parts, by name or file; none means the one that goes with it.

    Args:
        settings: options by "part.option", with part one of model, guide, and the kinds of parts.
        defaults: settings for the parts that have such an option, where `settings` says nothing.

    >>> vae, _ = choose("vae", prior="mixture", settings={"prior.latent_dim": 3}).make(torch.Size([1, 8, 8]))
    >>> vae.prior.latent_dim
    3
    """
    for part in parts:
        if part not in PARTS:
            raise InputError(f"Unknown kind of part {part!r}: {did_you_mean(part, PARTS)}.")
    names = {"model": model, "guide": guide or guide_for(model)}
    found = {role: find(role, name) for role, name in names.items()}
    given, suggested = _by_part(settings or {}), _by_part(defaults or {})
    chosen = {role: Choice(names[role], cls, given[role]) for role, (cls, _) in found.items()}
    own = found["guide"][1], found["model"][1]
    for part, kind in PARTS.items():
        whose, program, _ = chosen[kind.whose]
        options, name = given[part], parts.get(part)
        if part not in kinds.parameters_of(program):
            if name or options:
                raise InputError(
                    f"Expected a {kind.whose} whose {part} can be chosen; got {program.__name__}, which has its own. "
                    f"Leave out {part}, or use another {kind.whose}."
                )
            continue
        if name is not None:
            cls = kinds.part_class(part, name, own)
        elif kind.shapes or not is_file(names[kind.whose]):
            cls = kinds.default_part(program, part)
        else:
            cls = None  # what the person wrote there holds
        if cls is None:
            if options:
                raise InputError(
                    f"Expected a {part} by name beside options of it; got {', '.join(f'{part}.{k}' for k in options)} "
                    f"for {whose}, which has a {part} of its own. Name one, or change the file.",
                    options=f"--{part} NAME",
                )
            continue
        options = {k: v for k, v in suggested[part].items() if k in kinds.parameters_of(cls, kind.shapes)} | options
        chosen[part] = Choice(name or kinds.name_of_part(part, cls, own), cls, options)
    return Programs(chosen)


def choose_objective(guide: Guide, name: str | None, options: dict[str, Any], own: Iterable[ModuleType]) -> Choice:
    """Choose an objective by name, in a person's own modules first, or the one that goes with a guide."""
    name = name or guide.default_objective or USUAL_OBJECTIVE
    chosen = Choice(name, kinds.part_class("objective", name, own), options)
    if "num_particles" in options:
        positive_int("objective.num_particles", options["num_particles"])
    kinds.make(chosen.cls, options, "objective")
    return chosen


def written_objective(objective: Choice) -> dict[str, Any]:
    """Return what run.json says of it: its name, and the values of all its options that are its own or given."""
    pyros = kinds.plain_defaults(ELBO)
    own = {k: v for k, v in kinds.plain_defaults(objective.cls).items() if v is not None and v != pyros.get(k)}
    return {"name": objective.name} | own | objective.options


def _by_part(settings: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    parts: dict[str, dict[str, Any]] = {part: {} for part in (*ROLES, *PARTS)}
    for key, value in settings.items():
        part, _, option = key.partition(".")
        if part not in parts or not option:
            near = did_you_mean(part, [*parts, *KINDS, "fit", "data"])
            raise InputError(f"Expected settings named part.option; got {key!r}. As part, {near}.")
        if part in ROLES and option in PARTS:
            raise InputError(
                f"Expected {option} by name, or {option}.option=value; got {key!r}. Use one of these.",
                options=f"--{option} NAME, or --set {option}.OPTION=VALUE",
            )
        parts[part][option] = value
    return parts


def _import_file(role: str, path: Path) -> ModuleType:
    if not path.is_file():
        raise InputError(f"Expected a Python file with a {role} in {path}; got no such file.")
    if path.suffix != ".py":
        raise InputError(f"Expected a Python file with a {role}; got {path}. Let its name end in .py.")
    name = f"ppl_vae_file_{re.sub(r'[^A-Za-z0-9]', '_', str(path.resolve()))}"
    module = ModuleType(name)
    module.__file__ = str(path)
    sys.modules[name] = module
    try:
        # What the file says, and no compiled file of Python's that lies beside it and may say something else.
        exec(compile(read_file(path, MOST_SOURCE), str(path), "exec"), vars(module))
    except SyntaxError as problem:
        raise InputError(
            f"Expected Python in {path}; got a syntax error in line {problem.lineno}: {problem.msg}."
        ) from None
    except Exception as problem:
        raise ProgramError(f"Expected {path} to import; {got(problem)}") from problem
    return module


def new(folder: str | os.PathLike[str]) -> list[Path]:
    """Copy the model and guide files to FOLDER/models/*.py and FOLDER/guides/*.py, to be edited there; return them.

    Raises:
        InputError: one of them exists already.
    """
    check_path("folder", folder)
    if Path(folder).is_file() or Path(folder, "run.json").exists():
        raise InputError(f"Expected a folder of its own for the programs; got {folder}. Choose another name.")
    files = {kind: sorted(package_folder(kind).glob("[a-z]*.py")) for kind in ("models", "guides")}
    targets = {Path(folder, kind, file.name): file for kind, some in files.items() for file in some}
    existing = [str(target) for target in targets if target.exists()]
    if existing:
        raise InputError(
            f"Expected a folder without these files; got {existing[0]}. Choose another folder, or move it."
        )
    for target, file in targets.items():
        with written_whole(target) as temporary:
            shutil.copyfile(file, temporary)
    return list(targets)
