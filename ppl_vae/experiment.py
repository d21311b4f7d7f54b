"""From names to a run folder: what the command line does, as functions.

`train` builds a pair by name, fits it to a data set, checks the bound on the test split and draws the
figures; `new` copies the programs to be edited.
"""

import hashlib
import os
import platform
import shutil
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ppl_vae import data as datasets
from ppl_vae import programs
from ppl_vae.base import Guide
from ppl_vae.batches import as_source
from ppl_vae.checkpoint import RunFolder
from ppl_vae.checks import check
from ppl_vae.classification import accuracy
from ppl_vae.errors import InputError, did_you_mean, positive_int
from ppl_vae.evaluation import evaluate
from ppl_vae.figures import draw_figures
from ppl_vae.files import written_whole
from ppl_vae.generate import takes_binary_data
from ppl_vae.masks import REGIONS, read_mask
from ppl_vae.objectives import Classifying
from ppl_vae.pair import Pair
from ppl_vae.rng import seeded
from ppl_vae.runs import DATA_OPTIONS, Run, load, refuse_other_run
from ppl_vae.splits import Split, is_known
from ppl_vae.svi import fit

OPTIONS = {  # of what is no part of the programs
    "fit": ("epochs", "batch_size", "learning_rate", "schedule", "patience", "weight_decay"),
    "data": ("binarize", "num_labels", "missing"),
    "objective": ("weight",),
}


def train(
    model: str = "vae",
    *,
    guide: str | None = None,
    data: str = "digits",
    prior: str | None = None,
    likelihood: str | None = None,
    condition: str | None = None,
    networks: str | None = None,
    settings: Mapping[str, Any] | None = None,
    out: str | os.PathLike[str] | None = None,
    resume: bool = False,
    seed: int = 0,
    num_samples: int = 1000,
    progress: bool | None = None,
) -> Run:
    """Train a model on a data set, check the bound on its test split, and write a run folder.

    Args:
        model: a name (`vae`) or a Python file with one `Model`.
        guide: a name or a file; by default the one that goes with the model and, where labels are missing, with that.
        data: a named data set or a person's own file or folder, see `ppl_vae.data.load`.
        prior, likelihood, condition, networks: class names in snake case, for instance `mixture` and `gaussian`.
        settings: options by "part.option", for instance {"prior.latent_dim": 2, "fit.epochs": 100}; parts are model,
            guide, prior, likelihood, condition, networks, decoder, encoder, classifier, data (binarize, num_labels,
            missing), fit (see `ppl_vae.fit`), and objective (weight, see `ppl_vae.objectives.Classifying`, which fits
            guides that classify).
        out: the run folder; by default runs/ and the names of what was chosen.
        resume: go on with the run in that folder, if there is one.
        seed: of weights, batches and noise.
        num_samples: K of the bound check.
        progress: show progress bars; None shows them in a terminal and in a notebook.

    Returns:
        `Run`, with the trained pair, its history and its evidence, and the accuracy of a guide that classifies.

    Raises:
        InputError: a name, an option, a file or data that cannot be used; a folder with another run in it.
        NonFiniteLossError: the loss became NaN or infinite.
    """
    positive_int("num_samples", num_samples)
    fit_options, data_options, objective_options, own = _sorted_out(_with_mask_read(settings or {}))
    data = _resolved(data) if data not in datasets.NAMED and Path(data).exists() else data
    model = _resolved(model) if programs.is_file(model) else model
    parts = datasets.load(data, **data_options)
    usual_guide = programs.guide_for(model, partly_labelled=_partly_labelled(parts.train))
    guide = _resolved(guide) if guide and programs.is_file(guide) else guide or usual_guide
    parts_chosen = {"prior": prior, "likelihood": likelihood, "condition": condition, "networks": networks}
    build: dict[str, Any] = {"model": model, "guide": guide} | parts_chosen
    with seeded(seed):
        built, built_guide, used = programs.build(
            **build, event_shape=parts.event_shape, settings=own, defaults=_suggested(parts)
        )
    wanted = built.data_options() | ({} if takes_binary_data(built) else {"binarize": None})
    if parts.binarize is None:  # these data are not binarized unless somebody says so
        wanted.pop("binarize", None)
    if wanted := {key: value for key, value in wanted.items() if key not in data_options}:
        parts = datasets.load(data, **data_options, **wanted)
    fit_options = _of("fit", parts.settings) | fit_options
    objective = _objective(built_guide, guide, objective_options)
    if Pair(built).takes_labels() and _partly_labelled(parts.test):
        raise InputError(
            f"Expected labels of all test data, to estimate log P(x | y); got some that are missing (-1) in {data}. "
            f"Give a file with train, validation, test and train_y, validation_y, test_y; missing in train_y only."
        )
    chosen = (model, None if guide == usual_guide else guide, *parts_chosen.values(), data)
    folder = RunFolder(out or Path("runs", "-".join(Path(name).stem for name in chosen if name)))
    sources = {role: programs.source(role, name) for role, name in (("model", model), ("guide", guide))}
    config: dict[str, Any] = {
        "build": build | {"settings": used},
        "data": {"name": data, "event_shape": list(parts.event_shape)} | _kept(parts),
        "fit": fit_options,
        **({} if objective is None else {"objective": {"weight": objective.weight}}),
        "seed": seed,
        "programs": {role: hashlib.sha256(content).hexdigest() for role, content in sources.items()},
        "copied": [role for role in sources if programs.is_file(build[role])],
    }
    versions = {name: version(name) for name in ("ppl-vae", "torch", "pyro-ppl")} | {
        "python": platform.python_version()
    }
    refuse_other_run(folder, config, resume)
    pair = Pair(built, built_guide)
    with pair.running(), seeded(seed):
        check(pair, as_source(parts.test, pair))  # fit looks at the others

    def write_what_is_run() -> None:
        folder.write_json(config | {"versions": versions})
        for role in config["copied"]:
            folder.write(f"{role}.py", sources[role])
        for old in folder.path.glob("evidence*.nc"):  # of weights that will be replaced
            old.unlink()

    fitted = fit(
        built,
        built_guide,
        parts.train,
        validation=parts.validation,
        **fit_options,
        objective=objective,
        seed=seed,
        out=folder.path,
        resume=resume,
        on_start=write_what_is_run,
        progress=progress,
    )
    result = {
        "best_epoch": fitted.best_epoch,
        "stopped": fitted.stopped,
        "seconds": round(fitted.seconds, 1),
    } | ({"accuracy": accuracy(built_guide, parts.test)} if built_guide.classifies and parts.test.y is not None else {})
    folder.write_json(config | {"versions": versions, "result": result})
    evaluate(folder.path, num_samples=num_samples, progress=progress)
    run = load(folder.path)
    draw_figures(run, parts)
    return run


def new(folder: str | os.PathLike[str]) -> list[Path]:
    """Copy the model and guide files into a folder, to be edited there.

    Returns:
        The files written: FOLDER/models/*.py and FOLDER/guides/*.py.

    Raises:
        InputError: one of them exists already.
    """
    if Path(folder).is_file() or Path(folder, "run.json").exists():
        raise InputError(f"Expected a folder of its own for the programs; got {folder}. Choose another name.")
    targets = {}
    for kind in ("models", "guides"):
        for source in sorted(programs.package_folder(kind).glob("[a-z]*.py")):
            targets[Path(folder, kind, source.name)] = source
    existing = [str(target) for target in targets if target.exists()]
    if existing:
        raise InputError(
            f"Expected a folder without these files; got {existing[0]}. Choose another folder, or move it."
        )
    for target, source in targets.items():
        with written_whole(target) as temporary:
            shutil.copyfile(source, temporary)
    return list(targets)


def _sorted_out(settings: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Split settings into those of fit, of the data, of the objective, and of the programs and their parts."""
    for part, known in OPTIONS.items():
        for option in _of(part, settings):
            if option not in known:
                raise InputError(f"Unknown option {part}.{option}: {did_you_mean(option, known)}.")
    own = {key: value for key, value in settings.items() if key.partition(".")[0] not in OPTIONS}
    return [*(_of(part, settings) for part in OPTIONS), own]


def _objective(guide: Guide, name: str, options: Mapping[str, Any]) -> Classifying | None:
    """Return the objective of a guide that classifies; None means the usual one."""
    if guide.classifies:
        return programs.make(Classifying, options, "objective")
    if options:
        raise InputError(
            f"Expected a guide that classifies, such as semi_supervised, for objective.{next(iter(options))}; got "
            f"{name}. Choose one (--guide), or leave it out."
        )
    return None


def _partly_labelled(split: Any) -> bool:
    return isinstance(split, Split) and split.y is not None and not bool(is_known(split.y).all())


def _with_mask_read(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings with a mask as nested lists, so that run.json holds it and the run needs no file."""
    visible = settings.get("condition.visible")
    if isinstance(visible, str | os.PathLike) and visible not in REGIONS:
        visible = read_mask(visible)
    if isinstance(visible, np.ndarray | torch.Tensor):
        visible = visible.tolist()
    return dict(settings) | ({} if visible is None else {"condition.visible": visible})


def _kept(parts: datasets.Data) -> dict[str, Any]:
    """Return what `load` needs to load the same data again."""
    options = {key: getattr(parts, key, None) for key in DATA_OPTIONS}
    return {key: value for key, value in options.items() if value is not None or key == "binarize"}


def _of(part: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of one part, by option."""
    return {k.removeprefix(f"{part}."): v for k, v in settings.items() if k.startswith(f"{part}.")}


def _suggested(parts: datasets.Data) -> dict[str, Any]:
    """Return what suits the data, as settings of the programs' parts."""
    suits = {key: value for key, value in parts.settings.items() if not key.startswith("fit.")}
    return suits | ({} if parts.num_classes is None else {"condition.num_classes": parts.num_classes})


def _resolved(name: str) -> str:
    return str(Path(name).resolve())
