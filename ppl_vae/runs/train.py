"""From names to a run folder: what the command line does, as functions.

`train` builds a pair by name, fits it to a data set, checks the bound on the test split and draws the
figures; `new` copies the programs to be edited.
"""

import hashlib
import os
import platform
import sys
from collections.abc import Mapping
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ppl_vae import data as datasets
from ppl_vae.conditions.masks import REGIONS, read_mask
from ppl_vae.criticism.accuracy import accuracy
from ppl_vae.data.as_source import as_source
from ppl_vae.data.checks import check
from ppl_vae.data.digit_strings import StringSplit
from ppl_vae.data.splits import Split, is_known
from ppl_vae.errors import InputError, did_you_mean, positive_int
from ppl_vae.fitting.checkpoint import RunFolder
from ppl_vae.fitting.svi import fit
from ppl_vae.generation.generate import takes_binary_data
from ppl_vae.runs import build as programs
from ppl_vae.runs.evaluate import evaluate
from ppl_vae.runs.figures import draw_figures
from ppl_vae.runs.kinds import PARTS
from ppl_vae.runs.objective import choose
from ppl_vae.runs.run import DATA_OPTIONS, Run, load, refuse_other_run
from ppl_vae.traces.pair import Pair
from ppl_vae.utils.rng import seeded

OPTIONS = {  # of what is no part of the programs
    "fit": (
        "epochs",
        "batch_size",
        "learning_rate",
        "schedule",
        "patience",
        "weight_decay",
        "compile",
        "precision",
        "threads",
    ),
    "data": ("binarize", "dequantize", "num_labels", "missing"),
}


def train(
    model: str = "vae",
    *,
    guide: str | None = None,
    data: str = "digits",
    objective: str | None = None,
    settings: Mapping[str, Any] | None = None,
    out: str | os.PathLike[str] | None = None,
    resume: bool = False,
    seed: int = 0,
    num_samples: int = 1000,
    progress: bool | None = None,
    **named: str | None,
) -> Run:
    """Train a model on a data set, check the bound on its test split, and write a run folder.

    Args:
        model: a name (`vae`) or a Python file with one `Model`.
        guide: a name or a file; by default the one that goes with the model and, where labels are missing, with that.
        data: a named data set or a person's own file or folder, see `ppl_vae.data.load`.
        objective: a class name in snake case, for instance `iwae`; by default the guide's own, or else the plain ELBO.
        settings: options by "part.option", for instance {"prior.latent_dim": 2, "fit.epochs": 100}; parts are model,
            guide, objective, the kinds of `named`, data (binarize, dequantize, num_labels, missing) and fit (see
            `ppl_vae.fit`).
        out: the run folder; by default runs/ and the names of what was chosen.
        resume: go on with the run in that folder, if there is one.
        seed: of weights, batches and noise.
        num_samples: K of the bound check.
        progress: show progress bars; None shows them in a terminal and in a notebook.
        named: class names in snake case by kind: prior, likelihood, condition, networks, decoder, encoder, classifier.
            `ppl_vae.list_parts` lists them with their options.

    Returns:
        `Run`, with the trained pair, its history and its evidence, and the accuracy of a guide that classifies.

    Raises:
        InputError: a name, an option, a file or data that cannot be used; a folder with another run in it.
        NonFiniteLossError: the loss became NaN or infinite.
    """
    positive_int("num_samples", num_samples)
    programs.check_kinds(named)
    fit_options, data_options, objective_options, own = _sorted_out(_with_mask_read(settings or {}))
    data = _resolved(data) if data not in datasets.NAMED and Path(data).exists() else data
    model = _resolved(model) if programs.is_file(model) else model
    parts = datasets.load(data, **data_options)
    usual_guide = programs.guide_for(model, partly_labelled=_partly_labelled(parts.train))
    guide = _resolved(guide) if guide and programs.is_file(guide) else guide or usual_guide
    chosen = {kind: named[kind] for kind in PARTS if named.get(kind)}
    build: dict[str, Any] = {"model": model, "guide": guide} | chosen
    with seeded(seed):
        built, built_guide, used = programs.build(
            **build, event_shape=parts.event_shape, settings=own, defaults=_suggested(parts)
        )
    own_files = [sys.modules[type(program).__module__] for program in (built_guide, built)]
    choice = choose(built_guide, objective, objective_options, own_files)
    wanted = built.data_options() | ({} if takes_binary_data(built) else {"binarize": None})
    if parts.binarize is None:  # these data are not binarized unless somebody says so
        wanted.pop("binarize", None)
    if wanted := {key: value for key, value in wanted.items() if key not in data_options}:
        parts = datasets.load(data, **data_options, **wanted)
    fit_options = _of("fit", parts.settings) | fit_options
    if Pair(built).takes_labels() and _partly_labelled(parts.test):
        raise InputError(
            f"Expected labels of all test data, to estimate log P(x | y); got some that are missing (-1) in {data}. "
            f"Give a file with train, validation, test and train_y, validation_y, test_y; missing in train_y only."
        )
    names = (model, None if guide == usual_guide else guide, *chosen.values(), objective, data)
    folder = RunFolder(out or Path("runs", "-".join(Path(name).stem for name in names if name)))
    sources = {role: programs.source(role, name) for role, name in (("model", model), ("guide", guide))}
    config: dict[str, Any] = {
        "build": build | {"settings": used},
        "data": {"name": data, "event_shape": list(parts.event_shape)} | _kept(parts),
        "fit": {
            key: value for key, value in fit_options.items() if key not in ("compile", "threads")
        },  # the same weights, sooner
        "objective": choice.written(),
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
        made = choice.ready(pair, as_source(parts.train, pair), seed=seed)

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
        objective=made,
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
        "compiled": fitted.compiled,
    } | ({"accuracy": accuracy(built_guide, parts.test)} if built_guide.classifies and parts.test.y is not None else {})
    folder.write_json(config | {"versions": versions, "result": result})
    evaluate(folder.path, num_samples=num_samples, progress=progress)
    run = load(folder.path)
    draw_figures(run, parts)
    return run


def _sorted_out(settings: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Split settings into those of fit, of the data, of the objective, and of the programs and their parts."""
    for part, known in OPTIONS.items():
        for option in _of(part, settings):
            if option not in known:
                raise InputError(f"Unknown option {part}.{option}: {did_you_mean(option, known)}.")
    own = {key: value for key, value in settings.items() if key.partition(".")[0] not in (*OPTIONS, "objective")}
    return [*(_of(part, settings) for part in (*OPTIONS, "objective")), own]


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
    images = parts.train.images if isinstance(parts.train, StringSplit) else parts.train
    levels = replace(images, binarize=None).num_levels  # a likelihood of levels takes them before they are binarized
    known = {"condition.num_classes": parts.num_classes, "likelihood.num_levels": levels}
    return suits | {key: value for key, value in known.items() if value is not None}


def _resolved(name: str) -> str:
    return str(Path(name).resolve())
