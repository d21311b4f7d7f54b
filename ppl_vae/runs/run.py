"""A run: a trained pair with its history, its data and its evidence, as train made it or read from its folder."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ppl_vae import data as datasets
from ppl_vae.base import Guide, Model
from ppl_vae.data.as_source import as_source
from ppl_vae.data.named import SPLITS
from ppl_vae.data.schema import Schema
from ppl_vae.data.sources import Source
from ppl_vae.data.splits import evenly
from ppl_vae.errors import InputError, did_you_mean, positive_int
from ppl_vae.evidence.evidence import Evidence
from ppl_vae.fitting.checkpoint import ROLES, RunFolder, check_unchanged
from ppl_vae.fitting.history import History
from ppl_vae.runs.recipe import Recipe
from ppl_vae.runs.trusted import check_programs, check_shapes, check_sizes, no_larger_than
from ppl_vae.traces.pair import Pair
from ppl_vae.traces.run import get_traces
from ppl_vae.utils.digests import digest_of
from ppl_vae.utils.faults import warn
from ppl_vae.utils.files import remove_leftovers
from ppl_vae.utils.precision import usual_modes
from ppl_vae.utils.report import Report, Reported
from ppl_vae.utils.rng import seeded


@dataclass(eq=False, repr=False)
class Run(Reported):
    """A trained pair, and its run folder.

    Attributes:
        path: where the folder is.
        model, guide: the pair, with its best weights.
        history: ELBO over epochs.
        recipe: what was run.
        config: run.json: the recipe, versions, and how the fit ended.
        weights: the digest of the weights: an estimate of others is none of this run.
        is_old: whether a version wrote it that did not say of which weights an estimate is.
        loaded: the data set, once it has been loaded.
        sources: whole splits of it, with what was found in them, as far as they have been asked for.
    """

    path: Path
    model: Model
    guide: Guide
    history: History
    recipe: Recipe
    config: dict[str, Any]
    weights: str = ""
    is_old: bool = False
    loaded: datasets.Data | None = None
    sources: dict[str, Source] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._file = self.path / "evidence.nc"
        self._evidence: tuple[int, Evidence] | None = None  # with the time at which it was written

    def report(self) -> Report:
        """Return what is printed: what was run, how the fit ended, and log P(x) of the test data."""
        names = f"{type(self.model).__name__} with {type(self.guide).__name__}"
        headline = f"Run {self.path}: {names} on {self.config['data']['name']}, seed {self.recipe.seed}"
        if "result" not in self.config:
            return Report(headline, lines=["not trained yet"])
        result = self.config["result"]
        ended = f"best epoch {result.get('best_epoch', '?')} of {len(self.history.epoch)}"
        ended += f", {result['seconds']} s" if "seconds" in result else ""
        ended += ", ended inside the warm-up: no epoch was compared" if result.get("warming_up") else ""
        try:
            said = self.evidence.report() if self.evidence is not None else Report("no estimate of log P(x) yet")
        except InputError as problem:  # a broken file
            said = Report(str(problem))
        return Report(headline, said.rows[:1], [ended, said.headline, *said.lines[-1:]])

    @property
    def evidence(self) -> Evidence | None:
        """The bound check on the test split, or None before there is one of these weights."""
        if not self._file.exists():
            return None
        written = self._file.stat().st_mtime_ns
        if self._evidence is None or self._evidence[0] != written:
            self._evidence = written, Evidence.load(self._file)
        found = self._evidence[1]
        return found if found.weights == self.weights or (self.is_old and not found.weights) else None

    def keep(self, evidence: Evidence) -> None:
        """Write the bound check on the test split."""
        evidence.save(self._file)
        self._evidence = self._file.stat().st_mtime_ns, evidence

    @property
    def schema(self) -> Schema | None:
        """What the columns are of the table that the run was trained on: it reads new rows, and makes tables of x."""
        said, label = (self.recipe.data.get(name) for name in ("schema", "label"))
        return None if said is None else Schema.of(said, label)

    def data(self, **changed: Any) -> datasets.Data:
        """Return the data set the run was trained on, with some options of `ppl_vae.data.load` changed.

        Raises:
            InputError: data that have changed since.
        """
        if self.loaded is None:
            loaded = self.recipe.load_data()
            check_same(loaded, self.config, self.path)
            self.loaded = loaded
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


def load(path: Run | str | os.PathLike[str], *, trust: bool = False) -> Run:
    """Read a run folder: the pair with its best weights, its history and its evidence.

    Args:
        path: the folder, for instance "runs/vae-digits"; a run is returned as it is.
        trust: run the Python files in the folder, of a model or a guide that does not come with ppl-vae.

    Raises:
        InputError: no run there, a half-written or a changed one, one from another version, or one that has Python
            files and is not trusted.
    """
    if isinstance(path, Run):
        return path
    folder = RunFolder(path)
    config = folder.read_json()
    check_programs(config, folder.path, trust)
    shapes = {role: folder.head_of_weights(role).shapes for role in ROLES}
    check_sizes(config, folder.path, shapes)
    check_unchanged(config, folder.path, is_new=bool(folder.digest_of_weights()))
    for place in (folder.path, folder / "figures"):
        remove_leftovers(place)
    recipe = Recipe.from_json(config, folder.path)
    with usual_modes(), seeded(0), no_larger_than(shapes, folder.path, any_size=bool(recipe.copied)):
        model, guide = recipe.make(folder.path)
    check_shapes(shapes, {"model": model, "guide": guide}, folder.path)
    weights, digest, history, is_old = folder.read_best()
    check_parts(config, folder.path, digest, history)
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
    return Run(folder.path, model, guide, history, recipe, config | recipe.to_json(), digest, is_old)


def check_parts(config: Mapping[str, Any], path: Path, weights: str, history: History) -> None:
    """Refuse weights or a history that are not those a fit ended with; older versions did not keep their digests."""
    found = {"weights": weights, "history": digest_of_history(history)}
    for part, digest in found.items():
        if (config.get("result") or {}).get(part, digest) != digest:
            raise InputError(
                f"Expected the {part} in {path} as they were when its fit ended; got others, changed since or of "
                f"another run. Go on with the run as it was begun, and resume=True.",
                options="the command that began it, and --resume",
            )


def digest_of_history(history: History) -> str:
    """Return the digest of the rows of a history."""
    return digest_of(list(vars(history).values()))


def check_same(data: datasets.Data, config: Mapping[str, Any], path: Path) -> None:
    """Refuse data that are not those of a run, by the fingerprints in its run.json; say so if there are none."""
    known = config.get("fingerprints")
    if known is None and data.name not in datasets.NAMED:
        warn(
            f"{path} was written by a version that kept no fingerprints of the data: whether {data.name} has changed "
            f"since cannot be checked."
        )
    changed = [] if known is None else [part for part, one in data.fingerprints().items() if known.get(part) != one]
    if changed:
        raise InputError(
            f"Expected {data.name} as it was when {path} was trained; got another {', '.join(changed)} part, with "
            f"what may have been training data. Put the old file back, or train again. For log P(x) of other rows, "
            f"on purpose, pass them (data), or call ppl_vae.estimate_evidence(run.model, run.guide, x).",
            options="--data FILE, for other rows on purpose",
        )


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
