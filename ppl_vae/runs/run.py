"""A run: a trained pair with its history, its data and its evidence, as train made it or read from its folder."""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ppl_vae import data as datasets
from ppl_vae.base import Guide, Model
from ppl_vae.data.as_source import as_source
from ppl_vae.data.sources import Source
from ppl_vae.errors import InputError
from ppl_vae.evidence.evidence import Evidence
from ppl_vae.fitting.checkpoint import RunFolder
from ppl_vae.fitting.history import History
from ppl_vae.runs.recipe import Recipe
from ppl_vae.traces.pair import Pair
from ppl_vae.utils.rng import seeded


@dataclass(frozen=True, eq=False, repr=False)
class Run:
    """A trained pair, and its run folder.

    Attributes:
        path: where the folder is.
        model, guide: the pair, with its best weights.
        history: ELBO over epochs.
        recipe: what was run.
        config: run.json: the recipe, versions, and how the fit ended.
        held: what has been read already, by name: data, evidence with the time it was written, sources of data.
    """

    path: Path
    model: Model
    guide: Guide
    history: History
    recipe: Recipe
    config: dict[str, Any]
    held: dict[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        return f"<Run {self.path}: {type(self.model).__name__} with {type(self.guide).__name__}>"

    @property
    def evidence(self) -> Evidence | None:
        """The bound check on the test split, or None before there is one."""
        file = self.path / "evidence.nc"
        if not file.exists():
            return None
        written = file.stat().st_mtime_ns
        if self.held.get("evidence", (0, None))[0] != written:
            self.held["evidence"] = written, Evidence.load(file)
        evidence: Evidence = self.held["evidence"][1]
        return evidence

    def keep(self, evidence: Evidence) -> None:
        """Write the bound check on the test split."""
        file = self.path / "evidence.nc"
        evidence.save(file)
        self.held["evidence"] = file.stat().st_mtime_ns, evidence

    def data(self, **changed: Any) -> datasets.Data:
        """Return the data set the run was trained on, with some options of `ppl_vae.data.load` changed."""
        if "data" not in self.held:
            self.held["data"] = self.recipe.load_data()
        data: datasets.Data = self.held["data"]
        return data.changed(**changed)

    def source(self, split: str) -> Source:
        """Return a split of the data as both programs are called with it; what was found in it is kept."""
        if split not in self.held:
            self.held[split] = as_source(getattr(self.data(), split), Pair(self.model, self.guide))
        source: Source = self.held[split]
        return source


def load(path: str | os.PathLike[str]) -> Run:
    """Read a run folder: the pair with its best weights, its history and its evidence.

    Args:
        path: the folder, for instance "runs/vae-digits".

    Raises:
        InputError: no run there, a half-written one, or one from another version.
    """
    folder = RunFolder(path)
    config = folder.read_json()
    recipe = Recipe.from_json(config, folder.path)
    weights = {role: folder.read_weights(role) for role in ("model", "guide")}
    with seeded(0):
        model, guide = recipe.make(folder.path)
    for role, module in (("model", model), ("guide", guide)):
        try:
            module.load_state_dict(weights[role])
        except RuntimeError as problem:
            raise InputError(
                f"Expected weights in {folder.path} that fit the {role}; got others "
                f"({str(problem).splitlines()[-1].strip()}). The program has changed since: go back, or train again."
            ) from None
        module.eval()
    return Run(folder.path, model, guide, folder.read_history(), recipe, config | recipe.to_json())


def opened(run: Run | str | os.PathLike[str]) -> Run:
    """Return a run, read from its folder if that is what it is given by."""
    return run if isinstance(run, Run) else load(run)
