"""The recipe of a run: what run.json says of it, complete; two runs are the same if their recipes are."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from ppl_vae import data as datasets
from ppl_vae.base import Guide, Model
from ppl_vae.errors import InputError
from ppl_vae.fitting.checkpoint import RunFolder
from ppl_vae.runs.build import Programs, choose, hash_of, is_file
from ppl_vae.runs.kinds import PARTS
from ppl_vae.runs.signature import GIVEN, SET_BY_NAME, options_of
from ppl_vae.runs.trusted import check_programs
from ppl_vae.utils.files import is_there

FOR_SPEED = ("compile", "threads")  # of fit: the same weights, sooner

# Model and guide files that came with ppl-vae and have since been written in other words, the program being the same:
# the hash they had, and the one that they have (the first twelve digits). tests/stories/test_old_runs.py holds it.
SAME_PROGRAMS = {
    "4b328fbdbe69": "3aedb651f266",  # models/cvae.py
    "3462b8268cd1": "3aedb651f266",  # models/cvae.py
    "da0a47ca61b4": "12bb9aa02426",  # models/discrete.py
    "53fdd2aaa749": "12bb9aa02426",  # models/discrete.py
    "a7192e169cb0": "f8dafec21659",  # models/quantile_map.py
    "d289d077d7ed": "96482db61e1c",  # models/hierarchical.py
    "98a9adb17ab7": "96482db61e1c",  # models/hierarchical.py
    "becd52bc9a68": "96482db61e1c",  # models/hierarchical.py
    "014f6cf53070": "b2cd4b512195",  # models/image_completion.py
    "d1d7fd7e3302": "b2cd4b512195",  # models/image_completion.py
    "be0ce7084369": "c102dac33cd0",  # models/next_digit.py
    "e9ba7febf116": "c102dac33cd0",  # models/next_digit.py
    "fea638d018cb": "5044100e0713",  # models/regressor.py
    "38c69cb5e675": "5044100e0713",  # models/regressor.py
    "7c9028394f3f": "6a4367add1c9",  # models/vae.py
    "774ed92dc478": "6a4367add1c9",  # models/vae.py
    "bf2b9842aa52": "72fa24cfbea6",  # guides/conditional.py
    "fc10d44d02f6": "d86f9d6c2458",  # guides/discrete.py
    "9ba4493c11d8": "d86f9d6c2458",  # guides/discrete.py
    "658b03c62ea3": "d86f9d6c2458",  # guides/discrete.py
    "249a1b25e26c": "b7b3b26ada75",  # guides/flow.py
    "04b205c6a990": "5a704cce7998",  # guides/full_covariance.py
    "21e72d2462b1": "fbe8a8bc599c",  # guides/hierarchical.py
    "b8e85cad8839": "fbe8a8bc599c",  # guides/hierarchical.py
    "b2772efa27f6": "fbe8a8bc599c",  # guides/hierarchical.py
    "f0b9516ad68b": "ce5091299d26",  # guides/linear_gaussian.py
    "cee63f7c3b75": "d2fbaa571b46",  # guides/mean_field.py
    "db646cfba60b": "d2fbaa571b46",  # guides/mean_field.py
    "c34f7b79a973": "7a6ac65cf732",  # guides/no_latents.py
    "8655c99508dd": "536144cb8121",  # guides/quantile_map.py
    "071fb9a3aaa4": "cbdb7746bce3",  # guides/semi_supervised.py
    "b1ceaa6fcb61": "cbdb7746bce3",  # guides/semi_supervised.py
    "d4ae55aab4f5": "cbdb7746bce3",  # guides/semi_supervised.py
    "d64706d389df": "72fa24cfbea6",  # guides/conditional.py
    "2a15b94654cb": "d86f9d6c2458",  # guides/discrete.py
    "773d3bd6889e": "b7b3b26ada75",  # guides/flow.py
    "a72c5f1aabb4": "5a704cce7998",  # guides/full_covariance.py
    "3ee37c057636": "fbe8a8bc599c",  # guides/hierarchical.py
    "ff9a54aae3c5": "d2fbaa571b46",  # guides/mean_field.py
    "c8a9b2cbdd86": "cbdb7746bce3",  # guides/semi_supervised.py
    "125f8504c281": "d876e5dd3c87",  # models/linear_gaussian.py
}


# The options of fit and of the data that a run is made of, by name, with their defaults.
OPTIONS = {
    part: {name: o.default for name, o in options_of(function).items() if name not in (*GIVEN, *FOR_SPEED)}
    for part, function in SET_BY_NAME.items()
}


@dataclass(frozen=True)
class Recipe:
    """What was run; each field is one of run.json.

    Attributes:
        build: model and guide by name or file, their parts by kind and name, and "settings": options by "part.option".
        data: name, event_shape, the options of `ppl_vae.data.load`, and the names of classes, if they have some.
        fit, objective, seed: those of `ppl_vae.fit`; of the objective its name and its options.
        programs: a hash of each program's file.
        copied: the programs whose files are a person's own, and are copied into the run folder.
    """

    build: dict[str, Any]
    data: dict[str, Any]
    fit: dict[str, Any]
    objective: dict[str, Any]
    seed: int
    programs: dict[str, str]
    copied: list[str]

    def to_json(self) -> dict[str, Any]:
        """Return the recipe as it is written: lists for tuples."""
        plain: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return plain

    @classmethod
    def from_json(cls, config: Mapping[str, Any], folder: Path) -> "Recipe":
        """Read the recipe of a run folder; what an older ppl-vae did not write is filled in.

        The programs are run for it: `check_programs` goes before.
        """
        try:
            objective = dict(config.get("objective", {}))
            build = {"model": config["build"]["model"]}
            build |= {part: name for part, name in config["build"].items() if name is not None}
            data = {"event_shape": config["data"]["event_shape"]} | _kind_of(config["data"]) | config["data"]
            copied, seed = list(config["copied"]), config["seed"]
            programs = {role: _of_today(role, build[role], digest) for role, digest in config["programs"].items()}
            own = {role: build[role] for role in copied}
            fit = OPTIONS["fit"] | config.get("fit", {})
            chosen = _chosen(build, copied, folder).written()
        except InputError:
            raise
        except (AttributeError, KeyError, TypeError, ValueError) as problem:
            raise InputError(
                f"Expected a whole run.json in {folder}; got one without {problem}. Train again."
            ) from None
        objective = {"name": "classifying" if "weight" in objective else "trace_elbo"} | objective
        return cls(chosen | own, OPTIONS["data"] | data, fit, objective, seed, programs, copied)

    def make(self, folder: Path) -> tuple[Model, Guide]:
        """Build the pair, of a person's own files from their copies in the run folder."""
        return _chosen(self.build, self.copied, folder).make(torch.Size(self.data["event_shape"]))

    def load_data(self) -> datasets.Data:
        """Load the data set."""
        return datasets.load(self.data["name"], **{key: self.data[key] for key in OPTIONS["data"]})

    def differences(self, other: "Recipe") -> str:
        """Say in which options another run differs: the value here, and the one there.

        Options of parts that differ go without saying. More epochs of the same run are no difference, as far as its
        learning-rate schedule does not depend on them.
        """
        here, there = self.by_name(), other.by_name()
        unsaid = tuple(f"{part}." for part in PARTS if here.get(part) != there.get(part))
        names = [name for name in here | there if not name.startswith(unsaid)]
        values = [(name, here.get(name, "unset"), there.get(name, "unset")) for name in names]
        # A file that is read as before without being told is the same: of others the fingerprints tell.
        values = [one for one in values if one[0] != "data.kind" or {None, "as_stored"} - set(one[1:])]
        return ", ".join(f"{name} ({a!s:.20}, not {b!s:.20})" for name, a, b in values if a != b)

    def by_name(self) -> dict[str, Any]:
        """Return each option by its whole name, with its value; epochs left out."""
        written = self.to_json()
        build = written.pop("build")
        named: dict[str, Any] = build | build.pop("settings")
        for section, options in written.items():
            nested = isinstance(options, Mapping)
            named |= {f"{section}.{name}": value for name, value in options.items()} if nested else {section: options}
        named.pop("fit.epochs", None)
        return named


def _kind_of(data: Mapping[str, Any]) -> dict[str, Any]:
    """Return how a version read files that did not yet know kinds of data."""
    return {} if data["name"] in datasets.NAMED else {"kind": "as_stored"}


def _of_today(role: str, name: str, digest: str) -> str:
    """Return the hash of a program as it is now, if it is the same as the one with this hash; else that."""
    if digest[:12] not in SAME_PROGRAMS or is_file(name):
        return digest
    today = hash_of(role, name)
    return today if SAME_PROGRAMS[digest[:12]] == today[:12] else digest


def _chosen(build: dict[str, Any], copied: list[str], folder: Path) -> Programs:
    """Choose the programs of a run, a person's own files as they were copied into its folder."""
    return choose(**build | {role: str(folder / f"{role}.py") for role in copied})


def refuse_other_run(folder: RunFolder, recipe: Recipe, resume: bool) -> None:
    """Check that a folder is free for a run, or holds just this one and is to be resumed."""
    if not is_there(folder / "run.json"):
        return
    config = folder.read_json()
    own = [role for role in config["copied"] if config["programs"].get(role) != recipe.programs[role]]
    if own:  # whatever else it may be
        raise taken(folder.path, "this run", f"a run with another {' and '.join(own)} file")
    check_programs(config, folder.path, trust=True)  # the person has just run the same file
    differing = Recipe.from_json(config, folder.path).differences(recipe)
    if differing or not resume:
        if differing:
            raise taken(folder.path, "this run", f"a run with other {differing}")
        raise taken(folder.path, "this run", "this run already", "go on with it (resume=True)", "--resume")


def taken(path: Path, what: str, found: str, or_else: str = "", option: str = "") -> InputError:
    """Return what to raise for a folder that is not free for what is to be trained."""
    more, option = (f", or {words}" if words else "" for words in (or_else, option))
    return InputError(
        f"Expected {path} to be free for {what}; got {found}. Choose another folder (out){more}.",
        options=f"--out DIR{option}",
    )
