"""From names to a run folder: what the command line does, as functions.

`train` builds a pair by name, fits it to a data set, checks the bound on the test split and draws the figures.
"""

import os
import platform
import sys
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ppl_vae import data as datasets
from ppl_vae.base import Guide, Model
from ppl_vae.conditions.masks import REGIONS, read_mask
from ppl_vae.criticism.accuracy import accuracy
from ppl_vae.data.as_source import as_source
from ppl_vae.data.checks import check
from ppl_vae.errors import InputError, did_you_mean, positive_int
from ppl_vae.fitting.checkpoint import RunFolder
from ppl_vae.fitting.options import FitOptions
from ppl_vae.fitting.svi import fit
from ppl_vae.generation.generate import takes_binary_data
from ppl_vae.runs import build as programs
from ppl_vae.runs.evaluate import evaluate
from ppl_vae.runs.figures import draw_figures
from ppl_vae.runs.kinds import PARTS
from ppl_vae.runs.objective import Choice, choose
from ppl_vae.runs.recipe import FOR_SPEED, OPTIONS, Recipe, hash_of, refuse_other_run
from ppl_vae.runs.run import Run
from ppl_vae.runs.signature import settable
from ppl_vae.traces.pair import Pair
from ppl_vae.utils.rng import seeded
from ppl_vae.utils.threads import Threads


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
        guide: the name or the file of a guide; by default the one that goes with the model and, where labels are
            missing, with that.
        data: "digits", "mnist", "binarized_mnist", "freyfaces", or your own .npy, .npz or folder of images, see
            `ppl_vae.data.load`.
        objective: a class name in snake case, for instance `iwae`; by default the guide's own, or else the plain ELBO.
        settings: options by "part.option", for instance {"prior.latent_dim": 2, "fit.epochs": 100}; parts are model,
            guide, objective, the kinds of `named`, data (the options of `ppl_vae.data.load`) and fit (those of
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
    asked = _sorted_out(_with_mask_read(settings or {}))
    threads = asked["fit"].get("threads", "auto")
    with Threads(threads):
        recipe, parts, built, built_guide, choice = _resolve(
            model, guide, data, asked, named, objective=objective, seed=seed
        )
        parts_named = map(named.get, PARTS)
        names = (recipe.build["model"], guide and recipe.build["guide"], *parts_named, objective, recipe.data["name"])
        folder = RunFolder(out or Path("runs", "-".join(Path(name).stem for name in names if name)))
        refuse_other_run(folder, recipe, resume)
        pair = Pair(built, built_guide)
        train_, validation, test = (as_source(part, pair) for part in (parts.train, parts.validation, parts.test))
        with pair.running(), seeded(seed):
            check(pair, test)  # fit looks at the others
            made = choice.ready(pair, train_, seed=seed)
        config = recipe.to_json() | {"versions": _versions()}

        def write_what_is_run() -> None:
            for role in recipe.copied:
                folder.write(f"{role}.py", programs.source(role, recipe.build[role]))
            folder.write_json(config)
            for old in folder.path.glob("evidence*.nc"):  # of weights that will be replaced
                old.unlink()

        fitted = fit(
            built,
            built_guide,
            train_,
            validation=validation,
            **recipe.fit | {option: value for option, value in asked["fit"].items() if option in FOR_SPEED},
            objective=made,
            seed=seed,
            out=folder.path,
            resume=resume,
            on_start=write_what_is_run,
            progress=progress,
        )
        config["result"] = {
            "best_epoch": fitted.best_epoch,
            "stopped": fitted.stopped,
            "seconds": round(fitted.seconds, 1),
            "compiled": fitted.compiled,
        } | (
            {"accuracy": accuracy(built_guide, parts.test)}
            if built_guide.classifies and parts.test.y is not None
            else {}
        )
        folder.write_json(config)
        held = {"data": parts, "test": test}
        run = Run(folder.path, built.eval(), built_guide.eval(), fitted.history, recipe, config, held)
        evaluate(run, num_samples=num_samples, threads=threads, progress=progress)
        draw_figures(run)
        return run


def _resolve(
    model: str,
    guide: str | None,
    data: str,
    asked: dict[str, dict[str, Any]],
    named: dict[str, str | None],
    *,
    objective: str | None,
    seed: int,
) -> tuple[Recipe, datasets.Data, Model, Guide, Choice]:
    """Return the recipe of what was asked for, with what had to be loaded and made to know it.

    The model says what it wants of its data, the guide what goes with it.
    """
    data = _resolved(data) if data not in datasets.NAMED and Path(data).exists() else data
    parts = datasets.load(data, **asked["data"])
    model = _resolved(model) if programs.is_file(model) else model
    usual_guide = programs.guide_for(model, partly_labelled=parts.train.partly_labelled)
    guide = _resolved(guide) if guide and programs.is_file(guide) else guide or usual_guide
    pair = programs.choose(model, guide, settings=asked["programs"], defaults=_suggested(parts), **named)
    with seeded(seed):
        built, built_guide = pair.make(parts.event_shape)
    own_files = [sys.modules[type(program).__module__] for program in (built_guide, built)]
    choice = choose(built_guide, objective, asked["objective"], own_files)
    parts = parts.changed(**_wanted(built, parts, asked["data"]))
    if Pair(built).takes_labels() and parts.test.partly_labelled:
        raise InputError(
            f"Expected labels of all test data, to estimate log P(x | y); got some that are missing (-1) in {data}. "
            f"Give a file with train, validation, test and train_y, validation_y, test_y; missing in train_y only."
        )
    fit_options = OPTIONS["fit"] | _of("fit", parts.settings) | asked["fit"]
    FitOptions(**fit_options)  # refuse what is out of range before anything is held against another run
    recipe = Recipe(
        pair.written(),
        {"name": data, "event_shape": parts.event_shape} | parts.options,
        {option: value for option, value in fit_options.items() if option not in FOR_SPEED},
        choice.written(),
        seed,
        {role: hash_of(role, name) for role, name in pair.names.items()},
        [role for role, name in pair.names.items() if programs.is_file(name)],
    )
    return recipe, parts, built, built_guide, choice


def _wanted(model: Model, parts: datasets.Data, asked: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of the data that a model wants, where nobody has said otherwise."""
    wanted = model.data_options() | ({} if takes_binary_data(model) else {"binarize": None})
    if parts.binarize is None:  # these data are not binarized unless somebody says so
        wanted.pop("binarize", None)
    return {option: value for option, value in wanted.items() if option not in asked}


def _sorted_out(settings: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Split settings into those of fit, of the data, of the objective, and of the programs and their parts."""
    asked = {part: _of(part, settings) for part in (*OPTIONS, "objective")}
    for part in OPTIONS:
        known = [option.name for option in settable(part)]
        for option in asked[part]:
            if option not in known:
                raise InputError(f"Unknown option {part}.{option}: {did_you_mean(option, known)}.")
    return asked | {"programs": {key: v for key, v in settings.items() if key.partition(".")[0] not in asked}}


def _versions() -> dict[str, str]:
    return {name: version(name) for name in ("ppl-vae", "torch", "pyro-ppl")} | {"python": platform.python_version()}


def _with_mask_read(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings with a mask as nested lists, so that run.json holds it and the run needs no file."""
    visible = settings.get("condition.visible")
    if isinstance(visible, str | os.PathLike) and visible not in REGIONS:
        visible = read_mask(visible)
    if isinstance(visible, np.ndarray | torch.Tensor):
        visible = visible.tolist()
    return dict(settings) | ({} if visible is None else {"condition.visible": visible})


def _of(part: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of one part, by option."""
    return {k.removeprefix(f"{part}."): v for k, v in settings.items() if k.startswith(f"{part}.")}


def _suggested(parts: datasets.Data) -> dict[str, Any]:
    """Return what suits the data, as settings of the programs' parts."""
    suits = {key: value for key, value in parts.settings.items() if not key.startswith("fit.")}
    levels = parts.stored[0].num_levels  # a likelihood of levels takes them before they are binarized
    known = {"condition.num_classes": parts.num_classes, "likelihood.num_levels": levels}
    return suits | {key: value for key, value in known.items() if value is not None}


def _resolved(name: str) -> str:
    return str(Path(name).resolve())
