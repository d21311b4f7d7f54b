"""Samples of a run as a file: a picture, a table or an array, for no condition, a label, or conditions from a file."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ppl_vae import plots
from ppl_vae.base import Model
from ppl_vae.conditional import ConditionalModel
from ppl_vae.criticism.answers import given
from ppl_vae.data.categories import code_of
from ppl_vae.data.image_files import read_images
from ppl_vae.data.splits import evenly
from ppl_vae.data.table_files import SUFFIXES, check_can_write_frame, write_frame
from ppl_vae.errors import InputError, positive_int
from ppl_vae.generation.generate import sample
from ppl_vae.runs.figures import (
    NUM_ANSWERS,
    NUM_CONDITIONS,
    answers,
    costs_no_result,
    labelled,
    num_pictures,
    observed_and_drawn,
    save_figure,
)
from ppl_vae.runs.new_rows import source_of
from ppl_vae.runs.run import Run, load
from ppl_vae.utils.array_files import read_arrays, write_array
from ppl_vae.utils.files import check_can_write, kind_of
from ppl_vae.utils.memory import check_memory

NUM_ROWS = 1000  # of a table
MOST_ROWS = 2**31  # all of them, in one batch


def sample_run(
    run: Run | str | os.PathLike[str],
    *,
    size: int | None = None,
    label: int | str | Sequence[int] | Sequence[str] | None = None,
    condition: str | os.PathLike[str] | None = None,
    data: str | os.PathLike[str] | Any = None,
    mean: bool | None = None,
    seed: int = 0,
    out: str | os.PathLike[str] | None = None,
    trust: bool = False,
    **options: Any,
) -> Path:
    """Generate new data from the model of a run, write them to a file, and return its path.

    Args:
        run: a run, or the path of its folder.
        size: how many, of a conditional model for each condition; None takes what fills a picture, or 1000 rows of a
            table.
        label: what a model of labels is given, a number or, where they have some, its name; one or several; None gives
            each label.
        condition: a file with what a conditional model is given; None takes test data. See `read_conditions`.
        data: new rows whose conditions a conditional model is given: a file with x and y, or a table, read as in
            training, of which y is taken (of a model that is given a part of x, that part). Where `condition` holds
            conditions alone.
        mean: E[x | z], or draws of x; None is E[x | z], but draws of a table.
        seed: of the draws.
        out: a .png or .npy file, or .csv, .tsv, .parquet or .feather of a table; None writes a picture into
            RUN/figures, an array of what is none, or a table RUN/samples-SEED.csv, with a figure of how its columns are
            distributed beside those of test data. An array is [size, *event_shape], or
            [M, size, *event_shape] for M conditions.
        trust: run the Python files in the folder: a model or guide that does not come with ppl-vae.
        options: of `ppl_vae.sample`, for instance compile.

    Raises:
        InputError: no run there, a size below 1, a label, condition or kind of file that cannot be taken.
    """
    if size is not None:
        positive_int("size", size)
    run = load(run, trust=trust)
    schema = run.schema
    mean = schema is None if mean is None else mean
    model, options = run.model, {"mean": mean, "seed": seed} | options
    if not isinstance(model, ConditionalModel):
        _refuse_given(model, label, condition if data is None else data)
    labels = [] if label is None else _codes(run, label)
    files = [Path(file).stem for file in (condition, data) if isinstance(file, str | os.PathLike)]
    of = "".join([*(f"-label{one}" for one in labels), *(f"-{stem}" for stem in files)])
    picture = plots.is_picture(model.event_shape)
    name = f"{'samples' if mean or schema is not None else 'draws'}{of}-{seed}"
    if schema is not None:
        path = Path(out or run.path / f"{name}.csv")
        if path.suffix in SUFFIXES:
            check_can_write_frame(check_can_write(path))
            y = _given(run, labels, condition, data) if isinstance(model, ConditionalModel) else None
            x, frame = _sampled_rows(run, y, size, options)
            write_frame(path, frame)
            if out is None and y is None and not mean:
                _draw(run, run.path / "figures" / f"{name}.png", x, seed)
            return path
    path = Path(out or run.path / "figures" / f"{name}.{'png' if picture else 'npy'}")
    if path.suffix not in (".npy", ".png") or (path.suffix == ".png" and not picture):
        raise InputError(
            f"Expected a .npy file{' or a .png picture' if picture else ', as these data are no pictures'}; "
            f"got {path}. Name one (out).",
            options="--out FILE",
        )
    check_can_write(path)
    if not isinstance(model, ConditionalModel):
        size = size or num_pictures(model.event_shape)
        check_memory("draws", size * model.event_shape.numel())
        x = sample(model, size, **options)
        _written(path, x)
        if out is None and not picture:
            _draw(run, path.with_suffix(".png"), None if options["mean"] else x, seed)
        return path
    y = _given(run, labels, condition, data)
    check_memory("draws", len(y) * (size or NUM_ANSWERS) * model.event_shape.numel())
    has_labels = model.condition.every() is not None
    if path.suffix == ".npy" or (has_labels and len(y) == 1):
        count = size or (num_pictures(model.event_shape) if len(y) == 1 else NUM_ANSWERS)
        x = sample(model, y=y.repeat_interleave(count, dim=0), **options)
        return _written(path, x if len(y) == 1 else x.unflatten(0, (len(y), count)))
    draw, columns = (labelled, 16) if has_labels else (answers, NUM_ANSWERS)
    save_figure(draw(model, y, columns=size or columns, **options), path)
    return path


def read_conditions(model: ConditionalModel, path: str | os.PathLike[str]) -> Tensor:
    """Read what a conditional model is given: M conditions from a file, or from a folder of images.

    Labels: a .npy file of whole numbers. Images to be completed: one image, a folder of them, or an array [H, W]
    or [M, H, W]; only their visible pixels are read. Strings of L images: a folder of M L images in the order of
    their names, one image with L beside each other, or an array [L, H, W] or [M, L, H, W]. Data that are no images
    are arrays [D] or [M, D], and conditions of one's own [M, *condition.shape]. Bytes are divided by 255. Grey levels
    become black and white at one half for a model of binary data.
    """
    path = Path(path)
    if not kind_of(path, "a file with conditions"):
        raise InputError(f"Expected a file with conditions in {path}; got no such file.")
    if path.suffix in (".npy", ".npz"):
        arrays = read_arrays(path)
        values = arrays.get("y", next(iter(arrays.values())))
    else:
        values = read_images(path)
        if values.shape[1] == 3 and model.event_shape[0] == 1:
            values = values.mean(1, keepdims=True).astype(np.uint8)  # a grey image stored in colours
    if values.dtype.kind not in "buif" or not values.size:
        raise InputError(f"Expected numbers in {path}; got an array of dtype {values.dtype} and shape {values.shape}.")
    return model.condition.read(values, path)


def _codes(run: Run, label: int | str | Sequence[int] | Sequence[str]) -> list[int]:
    """Return labels as the codes that the model knows them by."""
    several = list(label) if isinstance(label, Sequence) and not isinstance(label, str) else [label]
    names = run.config["data"].get("classes")
    if run.schema is not None:
        names = None if run.schema.labels is None else run.schema.labels.categories or None
    return [code_of(one, names) for one in np.asarray(several, dtype=object).reshape(-1).tolist()]


def _given(run: Run, labels: list[int], condition: str | os.PathLike[str] | None, data: Any) -> Tensor:
    """Return what a conditional model is given: labels, conditions of a file, or those of new rows."""
    model: Any = run.model
    if data is not None and (labels or condition is not None):
        raise InputError(
            "Expected one place that says what the model is given; got data beside a label or a condition. Leave one "
            "out.",
            options="--data, --condition or --label",
        )
    return _conditions(run, model, labels, condition) if data is None else _of_new_rows(run, model, data)


def _conditions(run: Run, model: ConditionalModel, labels: list[int], file: str | os.PathLike[str] | None) -> Tensor:
    every = model.condition.every()
    if labels and (file is not None or every is None):
        got = f"{type(model).__name__}, which is given no label" if every is None else "a file with conditions, too"
        raise InputError(
            f"Expected a model of labels to give a label, and no file; got {got}. Give a condition alone.",
            options="--condition FILE",
        )
    if file is not None:
        y = read_conditions(model, file)
        if model.condition.of_pixels and bool(y.max() > 1 >= run.data().test.x.max()):
            raise InputError(
                f"Expected grey levels in [0, 1], as in {run.config['data']['name']}, or bytes (uint8) in {file}; "
                f"got values up to {float(y.max()):.3g}. Divide them by the largest grey level there can be."
            )
        return y
    if every is not None:
        return torch.tensor(labels) if labels else every
    return given(model, evenly(run.data().test, NUM_CONDITIONS))


def _refuse_given(model: Model, label: Any, condition: str | os.PathLike[str] | None) -> None:
    """Refuse what is given to a model that takes no condition."""
    if label not in (None, [], ()) or condition is not None:
        raise InputError(
            f"Expected a conditional model to give a {'label' if condition is None else 'condition'}; got "
            f"{type(model).__name__}. Leave it out, or train one: ppl_vae.train('cvae').",
            options="ppl-vae train cvae",
        )


def _sampled_rows(run: Run, y: Tensor | None, size: int | None, options: dict[str, Any]) -> tuple[Tensor, Any]:
    """Return samples, and as a table with the person's own columns; what the model says nothing of is left empty."""
    schema: Any = run.schema
    if y is not None:
        y = y.repeat_interleave(size or max(1, NUM_ROWS // len(y)), dim=0)
    count = (size or NUM_ROWS) if y is None else len(y)
    check_memory("draws", count * run.model.event_shape.numel())
    x = sample(run.model, count, **options | ({} if y is None else {"y": y}))
    frame = schema.to_frame(x, y if y is None or y.dim() == 1 else None)
    return x, frame.reindex(columns=[column.name for column in schema.columns])


def _of_new_rows(run: Run, model: ConditionalModel, data: Any) -> Tensor:
    """Return what the model is given with new rows: their y, or the rows themselves where y is a part of x."""
    batch = next(source_of(run, data).batches(MOST_ROWS))
    y = batch[0] if model.y_from_x else batch[1] if len(batch) > 1 else None
    if y is None:
        raise InputError(f"Expected data with y for {type(model).__name__}; got x alone. Give both.")
    return y


def _draw(run: Run, path: Path, drawn: Tensor | None, seed: int) -> None:
    """Draw the distribution of draws beside that of test data; of means there is none to be held against it."""
    with costs_no_result(f"{path} is not drawn"):
        save_figure(observed_and_drawn(run, drawn, seed=seed), path)


def _written(path: Path, x: Tensor) -> Path:
    if path.suffix == ".npy":
        write_array(path, x.numpy())
    else:
        save_figure(plots.images(x), path)
    return path
