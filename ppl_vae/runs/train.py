"""`train`: build a pair by name, fit it to a data set, check the bound on the test split, and draw the figures."""

import contextlib
import json
import os
import platform
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
from torch import Tensor, nn

from ppl_vae import data as datasets
from ppl_vae.base import Model
from ppl_vae.conditions.masks import REGIONS, read_mask
from ppl_vae.criticism.accuracy import accuracy
from ppl_vae.data.as_source import as_source
from ppl_vae.data.checks import check
from ppl_vae.data.named import SPLITS
from ppl_vae.data.schema import Schema
from ppl_vae.data.sources import Source
from ppl_vae.errors import InputError, ProgramError, did_you_mean, is_one_of, positive_int, shown
from ppl_vae.evidence.evidence import Evidence
from ppl_vae.fitting.checkpoint import RunFolder
from ppl_vae.fitting.history import Fit, History
from ppl_vae.fitting.options import FitOptions, usual_epochs
from ppl_vae.fitting.svi import fit
from ppl_vae.generation.generate import takes_binary_data
from ppl_vae.likelihoods.counts import OfCounts
from ppl_vae.objectives.checks import check_batch_dims, check_room
from ppl_vae.runs import kinds
from ppl_vae.runs.build import (
    Programs,
    choose,
    choose_objective,
    find,
    guide_for,
    hash_of,
    is_file,
    source,
    written_objective,
)
from ppl_vae.runs.compare import SEED, seed_folders
from ppl_vae.runs.evaluate import USUAL, evaluate
from ppl_vae.runs.figures import draw_figures
from ppl_vae.runs.kinds import PARTS, Choice
from ppl_vae.runs.recipe import FOR_SPEED, OPTIONS, Recipe, refuse_other_run, taken
from ppl_vae.runs.run import Run, check_same, digest_of_history
from ppl_vae.runs.signature import settable
from ppl_vae.traces.pair import Pair, program_name
from ppl_vae.traces.plates import structure_of
from ppl_vae.utils.faults import got, warn
from ppl_vae.utils.files import is_there
from ppl_vae.utils.locks import held
from ppl_vae.utils.memory import check_memory
from ppl_vae.utils.one_at_a_time import others_turn
from ppl_vae.utils.precision import usual_modes
from ppl_vae.utils.registrations import watched
from ppl_vae.utils.rng import seeded
from ppl_vae.utils.threads import Threads

NUM_CLASSES = "condition.num_classes"
COLUMNS = "columns"  # the likelihood of tables
SCHEMA = "schema.toml"  # what the columns of a table are, in the run folder
MOST_SEEDS = 1000


@overload
def train(model: str = ..., *, seeds: None = ..., **options: Any) -> Run: ...
@overload
def train(model: str = ..., *, seeds: int, **options: Any) -> list[Run]: ...
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
    seeds: int | None = None,
    num_samples: int = 1000,
    method: str = "auto",
    progress: bool | None = None,
    on_data: Callable[[datasets.Data], object] | None = None,
    on_evaluated: Callable[[Run], object] | None = None,
    **named: str | None,
) -> Run | list[Run]:
    """Train a model on a data set, check the bound on its test split, and write a run folder.

    Args:
        model: a name (`vae`) or a Python file with one `Model`.
        guide: the name or the file of a guide; by default the one that goes with the model and, where labels are
            missing, with that.
        data: "digits", "mnist", "binarized_mnist", "freyfaces", "jsb_chorales", or your own: .npy, .npz, a table (.csv,
            .tsv, .parquet), counts (.h5ad, .mtx) or a folder of images, see `ppl_vae.data.load`.
        objective: a class name in snake case, for instance `iwae`; by default the guide's own, or else the plain ELBO.
        settings: options by "part.option", for instance {"prior.latent_dim": 2, "fit.epochs": 100}; parts are model,
            guide, objective, the kinds of `named`, data (see `ppl_vae.data.load`) and fit (see `ppl_vae.fit`).
        out: the run folder; by default runs/ and the names of what was chosen.
        resume: go on with the run in that folder, if there is one.
        seed: of weights, batches and noise.
        seeds: train so many runs, of seeds seed, seed + 1, and so on, each in its own folder OUT/seed-SEED, so that
            `ppl_vae.compare` knows luck in training; by default one run.
        num_samples: K of the bound check.
        method: of the bound check, "auto", or "importance", which is quicker and may leave more data in doubt;
            `ppl_vae.evaluate` has the others.
        progress: show progress bars; None shows them in a terminal and in a notebook.
        on_data: called with data of a person's own once all has been checked, before any work.
        on_evaluated: called with each run once it is evaluated, before its figures are drawn.
        named: class names in snake case by kind: prior, likelihood, condition, networks, decoder, encoder, classifier.
            `ppl_vae.list_parts` lists them with their options. A table has a likelihood for each of its columns
            (`columns`) where none is named.

    Returns:
        `Run`, with the trained pair, its history and its evidence, and the accuracy of a guide that classifies; with
        `seeds` a list of them.

    Raises:
        InputError: a name, an option, a file or data that cannot be used; a folder with another run in it.
        NonFiniteLossError: the loss became NaN or infinite.
        KeyboardInterrupt: after Ctrl-C; the folder is that of a run so far.
    """
    positive_int("num_samples", num_samples)
    if not is_one_of(method, USUAL):
        near = did_you_mean(method, USUAL)
        raise InputError(f"Unknown method {shown(method)}: {near}. By others, evaluate the run once it is trained.")
    asked = _sorted_out(_with_mask_read(settings or {}))
    threads = asked["fit"].get("threads", "auto")
    names = (model, guide, *map(named.get, PARTS), objective, data)
    path = Path(out or Path("runs", "-".join(Path(name).stem for name in names if name)))
    folders = {seed: path}
    if seeds is not None:
        if positive_int("seeds", seeds) > MOST_SEEDS:
            raise InputError(f"Expected at most {MOST_SEEDS} seeds, each of which is a run; got {seeds}.")
        folders = {seed + i: path / f"{SEED}{seed + i}" for i in range(seeds)}
    _refuse_both(path, seeds)
    programs: dict[str, Any] = {"guide": guide, "data": data, "objective": objective, "asked": asked, "named": named}
    with usual_modes(), Threads(threads):
        runs, chosen = _made(model, **programs, folders=folders)
        for run in runs:  # before the first is trained
            refuse_other_run(RunFolder(run.path), run.recipe, resume)
        tell = None if on_data is None or runs[0].data().name in datasets.NAMED else on_data
        for run in runs:
            with held(run.path):
                _fit(run, chosen, asked["fit"], resume=resume, progress=progress, on_data=tell)
                tell = None
                evaluate(run, method=method, num_samples=num_samples, threads=threads, progress=progress)
                if on_evaluated is not None:
                    with others_turn():
                        on_evaluated(run)
                draw_figures(run)
    return runs[0] if seeds is None else runs


def _made(
    model: str,
    *,
    guide: str | None,
    data: str,
    objective: str | None,
    asked: dict[str, dict[str, Any]],
    named: Mapping[str, str | None],
    folders: Mapping[int, Path],
) -> tuple[list[Run], Choice]:
    """Make the programs of a run for each seed, and their objective; nothing is trained or written yet."""
    data = _resolved(data) if data and data not in datasets.NAMED and is_there(Path(data)) else data
    parts = datasets.load(data, **asked["data"])
    model = _resolved(model) if is_file(model) else model
    usual_guide = guide_for(model, partly_labelled=parts.train.partly_labelled)
    its_guide = _resolved(guide) if guide and is_file(guide) else guide or usual_guide
    named = _with_columns(model, named, parts)
    programs = choose(model, its_guide, settings=asked["programs"], defaults=_suggested(parts), **named)
    _say_what_is_read_as_numbers(programs, parts)
    if NUM_CLASSES in programs.written()["settings"] and NUM_CLASSES not in asked["programs"]:
        parts.check_classes()
    pairs: dict[int, tuple[Model, Any]] = {}
    for seed in folders:
        with seeded(seed), _room_for_training(len(pairs)):
            pairs[seed] = programs.make(parts.event_shape)
    built, built_guide = next(iter(pairs.values()))
    own_files = [sys.modules[type(program).__module__] for program in (built_guide, built)]
    chosen = choose_objective(built_guide, objective, asked["objective"], own_files)
    parts = _as_wanted(built, parts, asked["data"])
    fit_options = OPTIONS["fit"] | _of("fit", parts.settings) | asked["fit"]
    if fit_options["epochs"] is None:
        source = as_source(parts.train, Pair(built, built_guide))
        fit_options["epochs"] = usual_epochs(source.num_batches(positive_int("batch_size", fit_options["batch_size"])))
    FitOptions(**fit_options)  # refuse what is out of range before anything is held against another run
    runs = []
    for seed, path in folders.items():
        recipe = Recipe(
            programs.written(),
            {"name": data, "event_shape": parts.event_shape} | parts.options | _names_of(parts),
            {option: value for option, value in fit_options.items() if option not in FOR_SPEED},
            written_objective(chosen),
            seed,
            {role: hash_of(role, name) for role, name in programs.names.items()},
            [role for role, name in programs.names.items() if is_file(name)],
        )
        config = recipe.to_json() | {"versions": _versions(), "understood": parts.understood}
        runs.append(Run(path, *pairs[seed], History.of([]), recipe, config, loaded=parts))
    return runs, chosen


@contextmanager
def _room_for_training(others: int) -> Iterator[None]:
    """Within it, a pair is made that can be trained in this machine's memory, where so many like it are made already.

    Training holds a pair's parameters, their gradients, and two moments of each; buffers are there once.
    """
    needed = 0

    def add(value: Tensor) -> None:
        nonlocal needed
        needed += (others + (4 if isinstance(value, nn.Parameter) else 1)) * value.numel()
        check_memory("a model and a guide to train", needed, "Make them smaller.")

    with watched(add):
        yield


def _refuse_both(path: Path, seeds: int | None) -> None:
    """Refuse one run in a folder of several seeds, and several seeds in the folder of one run."""
    is_run, holds_seeds = is_there(path / "run.json"), bool(seed_folders(path))
    if is_run if seeds else holds_seeds:
        one, each = "one run", "a folder of each seed"
        if is_run:
            raise taken(path, each, one)
        raise taken(path, one, f"{each} ({seed_folders(path)[0].name}, ...)", "say how many seeds", "--seeds N")


def _fit(
    run: Run,
    chosen: Choice,
    options: dict[str, Any],
    *,
    resume: bool,
    progress: bool | None,
    on_data: Callable[[datasets.Data], object] | None = None,
) -> None:
    """Fit a run that is made but not yet trained, and write its folder."""
    recipe, folder, pair = run.recipe, RunFolder(run.path), Pair(run.model, run.guide, fresh=True)
    refuse_other_run(folder, recipe, resume)  # once more, now that nobody else can write there
    before = folder.read_json() if is_there(folder / "run.json") else {}
    if before:  # it goes on with the same data
        check_same(run.data(), before, run.path)
    if "result" in before and _is_done(before, recipe):  # and has nothing to do
        run.config["result"] = before["result"]
    run.config["fingerprints"] = run.data().fingerprints()
    train, validation, test = map(run.source, SPLITS)
    with pair.running(), seeded(recipe.seed):
        check(pair, test)  # fit looks at the others
        objective = _ready(chosen, pair, train, seed=recipe.seed)

    def write_what_is_run() -> None:
        if on_data is not None:
            on_data(run.data())
        for role in recipe.copied:
            folder.write(f"{role}.py", source(role, recipe.build[role]))
        if (schema := run.data().schema) is not None:
            folder.write(SCHEMA, f"{schema}\n".encode())
        folder.write_json(run.config)
        _name_the_weights(folder)

    fitted = fit(
        run.model,
        run.guide,
        train,
        validation=validation,
        **recipe.fit | options,
        objective=objective,
        seed=recipe.seed,
        out=folder.path,
        resume=resume,
        on_start=write_what_is_run,
        progress=progress,
    )
    run.weights, run.is_old = folder.digest_of_weights(), False
    _write_result(run, fitted, folder)
    run.model.eval()
    run.guide.eval()


def _name_the_weights(folder: RunFolder) -> None:
    """Let estimates by a version that did not write of which weights they are say it, before these are replaced."""
    if folder.digest_of_weights() or not (folder / "model.safetensors").exists():
        return
    with contextlib.suppress(InputError):
        weights = folder.read_best().digest
        for file in folder.path.glob("evidence*.nc"):
            with contextlib.suppress(InputError):  # one that cannot be read
                replace(Evidence.load(file), weights=weights).save(file)


def _is_done(before: Mapping[str, Any], recipe: Recipe) -> bool:
    """Return whether a fit has ended, and was asked for no more epochs since."""
    stopped = before["result"].get("stopped")
    return stopped == "patience" or (stopped == "epochs" and before["fit"]["epochs"] == recipe.fit["epochs"])


def _write_result(run: Run, fitted: Fit, folder: RunFolder) -> None:
    """Keep how a fit ended.

    Raises:
        KeyboardInterrupt: it was interrupted; the folder is that of a run that can be loaded, and gone on with.
    """
    run.history = fitted.history
    run.config["result"] = {
        "best_epoch": fitted.best_epoch,
        "stopped": fitted.stopped,
        "seconds": round(fitted.seconds, 1),
        "compiled": fitted.compiled,
        "weights": run.weights,
        "history": digest_of_history(fitted.history),
    } | ({"warming_up": True} if fitted.warming_up else {})
    interrupted = fitted.stopped == "interrupted"
    if run.guide.classifies and run.data().test.y is not None and not interrupted:
        run.config["result"]["accuracy"] = accuracy(run.guide, run.data().test)
    folder.write_json(run.config)
    if interrupted:
        raise KeyboardInterrupt


def _ready(objective: Choice, pair: Pair, data: Source, *, seed: int) -> Any:
    """Check the pair against data, try the objective on a few of them, and return one that is as new.

    What it has to know of the plates (`max_plate_nesting`) is read off the traces. Call it within `pair.running()`.
    """
    options = objective.options
    for part in data.kinds.values() or [data]:
        with seeded(seed):
            traces, num_run, _ = check(pair, part)
            check_batch_dims(pair, traces)
            pair.see(traces)
            if "max_plate_nesting" in kinds.parameters_of(objective.cls):
                with contextlib.suppress(InputError):  # no plate is over the data: then Pyro may guess
                    options = {"max_plate_nesting": structure_of(traces, num_run).num_plates} | options
            args = pair.to_device(next(part.batches(num_run)))
            made = kinds.make(objective.cls, options, "objective")
            check_room(made, traces)
            _try(objective, made, pair, args)
    return kinds.make(objective.cls, options, "objective")


def _try(chosen: Choice, objective: Any, pair: Pair, args: tuple[Any, ...]) -> None:
    """Ask an objective for gradients; leave none."""
    try:
        with warnings.catch_warnings(), pair.evaluating():
            warnings.simplefilter("ignore")  # whatever it warns of, it will when it is used
            objective.loss_and_grads(*pair.programs.values(), *args)
        if all(parameter.grad is None for parameter in pair.parameters()):
            said = "".join(f", {name}={value!r}" for name, value in chosen.options.items())
            raise InputError(
                f"Expected an objective that gives gradients; got none from {chosen.name}{said}. Mend its options."
            )
    except InputError:
        raise
    except Exception as problem:
        programs = " and ".join(map(program_name, pair.programs.values()))
        raise ProgramError(
            f"Expected {chosen.name} to be an objective that works for {programs}; {got(problem)} Mend that, or choose "
            f"another objective.",
            options="--objective NAME",
        ) from problem
    finally:
        for parameter in pair.parameters():
            parameter.grad = None


def _as_wanted(model: Model, parts: datasets.Data, asked: Mapping[str, Any]) -> datasets.Data:
    """Return the data with the options that a model wants, where nobody has said otherwise."""
    wanted = model.data_options() | ({} if takes_binary_data(model) else {"binarize": None})
    if parts.binarize is None:  # these data are not binarized unless somebody says so
        wanted.pop("binarize", None)
    parts = parts.changed(**{option: value for option, value in wanted.items() if option not in asked})
    if Pair(model).takes_labels() and parts.test.partly_labelled:
        raise InputError(
            f"Expected labels of all test data, to estimate log P(x | y); got some that are missing (-1) in "
            f"{parts.name}. Give a file with train, validation, test and train_y, validation_y, test_y; missing in "
            f"train_y only."
        )
    return parts


def _sorted_out(settings: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Split settings into those of fit, of the data, of the objective, and of the programs and their parts."""
    asked = {part: _of(part, settings) for part in (*OPTIONS, "objective")}
    for part in OPTIONS:
        for option in asked[part]:
            if option not in settable(part):
                raise InputError(f"Unknown option {part}.{option}: {did_you_mean(option, settable(part))}.")
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
    known: dict[str, Any] = {NUM_CLASSES: parts.num_classes, "likelihood.num_levels": levels}
    if parts.schema is not None:
        known |= {"likelihood.columns": parts.schema.codes}
        known |= {"likelihood.names": [column.name for column in parts.schema.modelled]}
    return suits | {key: value for key, value in known.items() if value is not None}


def _with_columns(model: str, named: Mapping[str, str | None], parts: datasets.Data) -> dict[str, str | None]:
    """Return the parts asked for, with a likelihood for each column of a table where none is named.

    A model that is made for counts has one of its own, and takes a table of counts.
    """
    program = None if is_file(model) else find("model", model)[0]
    if parts.table is None or program is None or "likelihood" not in kinds.parameters_of(program):
        return dict(named)
    usual = kinds.default_part(program, "likelihood")
    if isinstance(usual, type) and issubclass(usual, OfCounts):
        _check_counts(parts.table.schema, model)
        return dict(named)
    return dict(named) | ({} if named.get("likelihood") else {"likelihood": COLUMNS})


def _check_counts(schema: Schema, model: str) -> None:
    """Refuse a table with columns that are no counts, or are read as codes: 0 and 1 for 0 and 2, say."""
    for column in schema.modelled:
        if column.type != "count" and column.categories != ("0", "1"):
            raise InputError(
                f"Expected counts in all columns for model {model}; got {column.name!r}, {column.type}. Say in a "
                f'schema that it is "count" or "left out" (schema), or use model vae.',
                options=f'a line {json.dumps(column.name)} = "count" in --schema FILE, or model vae',
            )


def _say_what_is_read_as_numbers(programs: Programs, parts: datasets.Data) -> None:
    """Say which categories go into a likelihood of numbers as 0, 1, 2, ..: an order that they do not have."""
    of_columns = "likelihood" in programs.chosen and programs.chosen["likelihood"].name == COLUMNS
    names = [column.name for column in parts.schema.modelled if column.type == "categorical"] if parts.schema else []
    if names and not of_columns:
        warn(
            f"The categories of {', '.join(names[:5])}{', ...' * (len(names) > 5)} are taken for numbers 0, 1, 2, ... "
            f"by this likelihood. Leave it out, to have one for each column, or leave these columns out."
        )


def _names_of(parts: datasets.Data) -> dict[str, Any]:
    return {} if parts.classes is None else {"classes": list(parts.classes)}


def _resolved(name: str) -> str:
    return str(Path(name).resolve())
