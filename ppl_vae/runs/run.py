"""A run folder read again: the pair with its best weights, its history, its evidence."""

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ppl_vae import data as datasets
from ppl_vae.base import Guide, Model
from ppl_vae.errors import InputError
from ppl_vae.evidence.evidence import Evidence
from ppl_vae.fitting.checkpoint import RunFolder
from ppl_vae.fitting.history import History
from ppl_vae.runs import build as programs
from ppl_vae.utils.rng import seeded

DATA_OPTIONS = ("binarize", "dequantize", "strings", "num_labels", "missing")  # of `data.load`


@dataclass(frozen=True, eq=False, repr=False)
class Run:
    """A run folder that has been read.

    Attributes:
        path: where it is.
        model, guide: the pair, with its best weights.
        history: ELBO over epochs.
        config: run.json: what was run.
    """

    path: Path
    model: Model
    guide: Guide
    history: History
    config: dict[str, Any]

    def __repr__(self) -> str:
        return f"<Run {self.path}: {type(self.model).__name__} with {type(self.guide).__name__}>"

    @property
    def evidence(self) -> Evidence | None:
        """The bound check on the test split, or None before there is one."""
        return Evidence.load(self.path / "evidence.nc") if (self.path / "evidence.nc").exists() else None

    def data(self, **changed: Any) -> datasets.Data:
        """Load the data set the run was trained on, with some options of `ppl_vae.data.load` changed."""
        kept = {key: value for key, value in self.config["data"].items() if key in DATA_OPTIONS} | changed
        return datasets.load(self.config["data"]["name"], **kept)


def load(path: str | os.PathLike[str]) -> Run:
    """Read a run folder: the pair with its best weights, its history and its evidence.

    Args:
        path: the folder, for instance "runs/vae-digits".

    Raises:
        InputError: no run there, a half-written one, or one from another version.
    """
    folder = RunFolder(path)
    config = folder.read_json()
    try:
        build, event_shape = dict(config["build"]), torch.Size(config["data"]["event_shape"])
        build |= {role: str(folder / f"{role}.py") for role in config["copied"]}
    except (KeyError, TypeError) as problem:
        raise InputError(
            f"Expected a whole run.json in {folder.path}; got one without {problem}. Train again."
        ) from None
    weights = {role: folder.read_weights(role) for role in ("model", "guide")}
    with seeded(0):
        model, guide, _ = _build(folder, build, event_shape)
    for role, module in (("model", model), ("guide", guide)):
        try:
            module.load_state_dict(weights[role])
        except RuntimeError as problem:
            raise InputError(
                f"Expected weights in {folder.path} that fit the {role}; got others "
                f"({str(problem).splitlines()[-1].strip()}). The program has changed since: go back, or train again."
            ) from None
        module.eval()
    return Run(folder.path, model, guide, folder.read_history(), config)


def _build(folder: RunFolder, build: dict[str, Any], event_shape: torch.Size) -> Any:
    try:
        return programs.build(**build, event_shape=event_shape)
    except TypeError as problem:
        raise InputError(f"Expected a whole run.json in {folder.path}; got {problem}. Train again.") from None


def refuse_other_run(folder: RunFolder, config: dict[str, Any], resume: bool) -> None:
    """Check that a folder is free for a run, or holds just this one and is to be resumed.

    Raises:
        InputError: it holds another run, or this one and nobody asked to resume.
    """
    if not (folder / "run.json").exists():
        return
    held = _as_written_now(folder.read_json())
    now = json.loads(json.dumps(config))
    # More epochs of the same run are allowed, as far as its learning-rate schedule does not depend on them.
    for one in (held, now):
        one.get("fit", {}).pop("epochs", None)
    differing = [key for key in config if held.get(key) != now[key]]
    if differing or not resume:
        what = f"a run with other {_differences(held, now, differing)}" if differing else "this run already"
        fix = (
            "Choose another folder (--out)"
            if differing
            else "Go on with it (--resume), or choose another folder (--out)"
        )
        raise InputError(f"Expected {folder.path} to be free for this run; got {what}. {fix}.")


def _as_written_now(config: dict[str, Any]) -> dict[str, Any]:
    """Return a run.json of before objectives had names, when parts that nobody chose were None, as it is now."""
    objective = config.get("objective", {})
    named = {"name": "classifying" if "weight" in objective else "trace_elbo"} | objective
    build = {part: name for part, name in config.get("build", {}).items() if name is not None}
    return config | {"objective": named, "build": build}


def _differences(held: Mapping[str, Any], now: Mapping[str, Any], keys: list[str]) -> str:
    """Return in words which options differ, and how: those there, and those asked for."""
    there, asked = ({k: v for key in keys for k, v in _options(key, one.get(key))} for one in (held, now))
    names = [name for name in there | asked if there.get(name, "unset") != asked.get(name, "unset")]
    return ", ".join(
        f"{name} ({there.get(name, 'unset')!s:.20}, not {asked.get(name, 'unset')!s:.20})" for name in names
    )


def _options(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            grouped = name in ("fit", "data", "objective", "programs")
            yield from _options(f"{name}.{key}" if grouped else key, inner)
    else:
        yield name, value
