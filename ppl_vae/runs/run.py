"""A run: a trained pair with its history, its data and its evidence, as train made it or read from its folder."""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ppl_vae import data as datasets
from ppl_vae.base import Guide, Model
from ppl_vae.data.as_source import as_source
from ppl_vae.data.sources import Source
from ppl_vae.data.splits import evenly
from ppl_vae.errors import InputError, did_you_mean, positive_int
from ppl_vae.evidence.evidence import Evidence
from ppl_vae.fitting.checkpoint import RunFolder
from ppl_vae.fitting.history import History
from ppl_vae.runs.recipe import Recipe
from ppl_vae.traces.pair import Pair
from ppl_vae.traces.run import get_traces
from ppl_vae.utils.rng import seeded

SPLITS = ("train", "validation", "test")


@dataclass(eq=False, repr=False)
class Run:
    """A trained pair, and its run folder.

    Attributes:
        path: where the folder is.
        model, guide: the pair, with its best weights.
        history: ELBO over epochs.
        recipe: what was run.
        config: run.json: the recipe, versions, and how the fit ended.
        loaded: the data set, once it has been loaded.
        sources: whole splits of it, with what was found in them, as far as they have been asked for.
    """

    path: Path
    model: Model
    guide: Guide
    history: History
    recipe: Recipe
    config: dict[str, Any]
    loaded: datasets.Data | None = None
    sources: dict[str, Source] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._file = self.path / "evidence.nc"
        self._evidence: tuple[int, Evidence] | None = None  # with the time at which it was written

    def __repr__(self) -> str:
        return f"<Run {self.path}: {type(self.model).__name__} with {type(self.guide).__name__}>"

    @property
    def evidence(self) -> Evidence | None:
        """The bound check on the test split, or None before there is one."""
        if not self._file.exists():
            return None
        written = self._file.stat().st_mtime_ns
        if self._evidence is None or self._evidence[0] != written:
            self._evidence = written, Evidence.load(self._file)
        return self._evidence[1]

    def keep(self, evidence: Evidence) -> None:
        """Write the bound check on the test split."""
        evidence.save(self._file)
        self._evidence = self._file.stat().st_mtime_ns, evidence

    def data(self, **changed: Any) -> datasets.Data:
        """Return the data set the run was trained on, with some options of `ppl_vae.data.load` changed."""
        if self.loaded is None:
            self.loaded = self.recipe.load_data()
        return self.loaded.changed(**changed)

    def source(self, split: str, num_data: int | None = None) -> Source:
        """Return a split of the data, or so many of it, evenly spaced, as both programs are called with it.

        Raises:
            InputError: an unknown split, or a number below 1.
        """
        if split not in SPLITS:
            raise InputError(f"Unknown split {split!r}: {did_you_mean(str(split), SPLITS)}.")
        pair, part = Pair(self.model, self.guide), getattr(self.data(), split)
        if num_data is not None:
            return as_source(evenly(part, positive_int("num_data", num_data)), pair)
        if split not in self.sources:
            self.sources[split] = as_source(part, pair)
        return self.sources[split]


def load(path: Run | str | os.PathLike[str]) -> Run:
    """Read a run folder: the pair with its best weights, its history and its evidence.

    Args:
        path: the folder, for instance "runs/vae-digits"; a run is returned as it is.

    Raises:
        InputError: no run there, a half-written one, or one from another version.
    """
    if isinstance(path, Run):
        return path
    folder = RunFolder(path)
    config = folder.read_json()
    recipe = Recipe.from_json(config, folder.path)
    weights = {role: folder.read_weights(role) for role in ("model", "guide")}
    with seeded(0):
        model, guide = recipe.make(folder.path)
    learned = _learned(weights, model, guide)
    for role, module in (("model", model), ("guide", guide)):
        try:
            module.load_state_dict({k: v for k, v in weights[role].items() if f"{role}.{k}" not in learned})
        except RuntimeError as problem:
            raise InputError(
                f"Expected weights in {folder.path} that fit the {role}; got others "
                f"({str(problem).splitlines()[-1].strip()}). The program has changed since: go back, or train again."
            ) from None
        module.eval()
    return Run(folder.path, model, guide, folder.read_history(), recipe, config | recipe.to_json())


def _learned(weights: dict[str, dict[str, Tensor]], model: Model, guide: Guide) -> set[str]:
    """Put the weights that are of no module, but are asked for by `pyro.param`, where the programs find them."""
    modules = {"model": model, "guide": guide}
    others = {
        f"{role}.{k}": v for role, m in modules.items() for k, v in weights[role].items() if k not in m.state_dict()
    }
    if not others:
        return set()
    pair = Pair(model, guide, fresh=True)
    with pair.running(), pair.evaluating(), seeded(0), torch.no_grad():
        pair.see(get_traces(pair, model.example()))
        pair.keep()
    found = {name: value for name, value in others.items() if name in pair.tensors()}
    pair.restore(found)
    return set(found)
