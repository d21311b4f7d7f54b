"""New rows for a run: read as the data of its training were, so that every question can be asked of them, too."""

import os
from dataclasses import replace
from typing import Any

from ppl_vae.data.as_source import as_source
from ppl_vae.data.digit_strings import Part, with_strings
from ppl_vae.data.named import SPLITS
from ppl_vae.data.own_files import read
from ppl_vae.data.shapes import Kind
from ppl_vae.data.sources import Source, TensorSource
from ppl_vae.data.sparse import CountMatrix, is_annotated, is_counts, read_counts
from ppl_vae.data.splits import Split, evenly
from ppl_vae.data.tables import is_table, new_rows
from ppl_vae.errors import InputError, positive_int, shown
from ppl_vae.runs.run import Run
from ppl_vae.traces.pair import Pair
from ppl_vae.utils.faults import warn


def source_of(run: Run, data: Any = None, split: str = "test", num_data: int | None = None) -> Source:
    """Return what a question is asked of: new rows, or a split of the run's own data; as both programs are called.

    Args:
        run: the run.
        data: a file or a folder, read as in training; or numbers as the model is called with, or a split; None takes
            the run's own.
        split: of its own data.
        num_data: use this many of them, evenly spaced; None uses all.

    Raises:
        InputError: both new data and a split of the run's own, or data that do not fit the run.
    """
    if data is None:
        return run.source(split, num_data)
    if split != "test":
        raise InputError(
            f"Expected new data or a split of the run's own; got both ({split!r}). Leave one of them out.",
            options="--data or --split",
        )
    part = new_part(run, data)
    pair, count = Pair(run.model, run.guide), None if num_data is None else positive_int("num_data", num_data)
    if isinstance(part, Part) or count is None:
        return as_source(evenly(part, count), pair)
    source = as_source(part, pair, ordered=True)
    if source.kinds:
        raise InputError("Expected num_data of data that are all labelled or none; got some without. Leave it out.")
    return TensorSource(tuple(evenly(t, count) for t in next(source.batches(len(source)))))


def new_part(run: Run, data: Any) -> Any:
    """Return a file's data as a part, read as those of the run were; what is no path is returned as it is.

    Raises:
        InputError: a file that cannot be read, data of another shape, or without the labels that the model is given.
    """
    if run.schema is not None and is_table(data):
        return new_rows(data, run.schema).split()
    if isinstance(data, str | os.PathLike) or is_counts(data):
        where = f"{data}" if isinstance(data, str | os.PathLike) else "the new rows"
        return _fitting(as_in_training(read_as_trained(run, data), run), run, where)
    if hasattr(data, "train") and hasattr(data, "test"):
        raise InputError(
            f"Expected new rows; got a data set of {', '.join(SPLITS)}. Pass one of them, such as {shown('data')}.test."
        )
    return data


def read_as_trained(run: Run, path: Any) -> Split:
    """Read a person's own file as what the data of the run are: images, or series, with labels of the same names.

    AnnData objects and sparse matrices are read, too; columns that have names come in the order of training.
    """
    said = run.recipe.data
    if is_counts(path):
        return _cells(run, path).split()
    kinds: dict[int, Kind] = {2: "series", 3: "images"}
    return read(path, said["kind"] or kinds.get(len(run.model.event_shape)), said.get("classes"))


def _cells(run: Run, thing: Any) -> CountMatrix:
    """Read AnnData, or a sparse matrix, with the columns and the labels that the run was trained on."""
    said, columns = run.recipe.data, () if run.schema is None else run.schema.modelled
    if any(column.type != "count" for column in columns):
        raise InputError(f"Expected a table of the columns of {run.path}; got counts alone. Write its columns to one.")
    if not is_annotated(thing):
        return read_counts(thing)
    label = said.get("label") if Pair(run.model, run.guide).takes_labels() else None
    names = [column.name for column in columns] or None
    return read_counts(thing, label, said.get("layer"), names=names, classes=said.get("classes"))


def _fitting(split: Split, run: Run, path: str) -> Part:
    """Return a file's data with what the model is given beside x, once they are seen to fit the run."""
    if not run.model.takes(split.event_shape):
        raise InputError(
            f"Expected data of shape {tuple(run.model.event_shape)} for each datum in {path}, as {run.path} was "
            f"trained on; got {tuple(split.event_shape)}. Give the same columns or pixels."
        )
    if not Pair(run.model, run.guide).takes_labels():
        return split
    if split.y is None:
        if not getattr(run.guide, "classifies", False):
            raise InputError(
                f"Expected y of each datum in {path}, as {type(run.model).__name__} is given it; got x alone. Write "
                f"both: np.savez(file, x=x, y=y)."
            )
        return split
    strings = run.recipe.data["strings"]
    return split if strings is None else with_strings(split, strings, path)


def as_in_training(split: Split, run: Run) -> Split:
    """Return a person's data read as those of the run were: levels of one scale, dequantized or binarized alike.

    Where the run's own file is gone or has changed, run.json says how; levels have the scale of their own.
    """
    try:
        part: Any = run.data().train
        known = getattr(part, "images", part)  # of strings of images, these
        binarize, dequantize, scale = known.binarize, known.dequantize, known.scale
    except InputError as problem:
        warn(f"New rows are read as {run.path / 'run.json'} says, as the data of the run are not there: {problem}")
        binarize, dequantize = run.recipe.data["binarize"], run.recipe.data["dequantize"]
        scale = split.scale
    levels = split.scale != 1 and scale != 1  # bytes, as the run's were, not numbers as the model sees them
    how = {"dequantize": dequantize, "scale": scale} if levels else {}
    grey = replace(split, **how).x
    if binarize is not None and bool(((grey < 0) | (grey > 1)).any()):
        raise InputError(
            f"Expected grey levels in [0, 1], or bytes, for a run on binarized data; got values from "
            f"{float(grey[~grey.isnan()].min()):.3g} to {float(grey[~grey.isnan()].max()):.3g}. Rescale them."
        )
    return replace(split, **how, binarize=binarize)
