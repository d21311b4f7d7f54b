"""The imputation of a run's data, or of a file, as files: arrays or tables, and a picture with the truth if known."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ppl_vae import plots
from ppl_vae.data.holes import find_holes
from ppl_vae.data.schema import Schema
from ppl_vae.data.sparse import is_counts
from ppl_vae.data.splits import Split, evenly
from ppl_vae.data.table_files import SUFFIXES, check_can_write_frame, write_frame
from ppl_vae.data.tables import Table, completed_frame, concatenated, is_table, new_rows
from ppl_vae.data.unobserved import note_unobserved
from ppl_vae.errors import InputError, positive_int
from ppl_vae.generation.impute import Imputation, impute
from ppl_vae.missing import is_missing_in
from ppl_vae.runs.figures import costs_no_result, imputed_columns, in_rows, save_figure
from ppl_vae.runs.new_rows import as_in_training, read_as_trained
from ppl_vae.runs.run import Run, load
from ppl_vae.utils.files import check_can_write, written_whole

ROWS, DRAWS = 12, 6  # of the picture
KEPT = ("mean", "mcse", "draws", "ess", "khat")  # in a .npz file


def impute_run(
    run: Run | str | os.PathLike[str],
    *,
    data: str | os.PathLike[str] | Any = None,
    num_data: int | None = None,
    out: str | os.PathLike[str] | None = None,
    trust: bool = False,
    on_found: Callable[[Imputation], object] | None = None,
    **options: Any,
) -> tuple[Imputation, list[Path]]:
    """Impute what is missing in data by the pair of a run, and write it to files.

    Args:
        run: a run, or the path of its folder.
        data: a file as `ppl_vae.data.load` takes, or a folder; of a run on a table also a frame of pandas, Polars or
            Arrow; None takes the run's test data.
        num_data: use this many of them, evenly spaced; None uses all.
        out: a .npy file for the mean, or a .npz file for mean, mcse, draws, ess and khat; of a table a .csv, .tsv,
            .parquet or .feather file; None writes RUN/imputed.npz, or RUN/imputed.csv of a table.
        trust: run the Python files in the folder: a model or guide that does not come with ppl-vae.
        on_found: called with the imputation before it is written.
        options: of `ppl_vae.impute`.

    Returns:
        The `Imputation`, and the files: `out`; of a table one with the draws, as many complete tables below each other
        (multiple imputation), too; and RUN/figures/imputed.png if it could be drawn.

    Raises:
        InputError: no run there, data without missing values or that do not fit, or an unknown kind of file.
    """
    run = load(run, trust=trust)
    table = _table(run, data)
    path = Path(out or run.path / ("imputed.npz" if table is None else "imputed.csv"))
    kinds = (".npy", ".npz", *(SUFFIXES if table is not None else ()))
    if path.suffix not in kinds:
        raise InputError(f"Expected a file {' or '.join(kinds)}; got {path}. Name one (out).", options="--out FILE")
    check_can_write(path)
    if path.suffix in SUFFIXES:
        check_can_write_frame(path)
    if table is not None:
        whole = run.data().test if data is None else table.split()
    else:
        whole = run.data().test if data is None else as_in_training(read_as_trained(run, data), run)
    count = len(whole) if num_data is None else positive_int("num_data", num_data)
    chosen = evenly(whole, count)
    if not is_missing_in(chosen.x):
        which = f"the test data of {run.path}" if data is None else table.where if table is not None else data
        raise InputError(
            f"Expected data of which some values are missing (NaN); got {which} without. Give a file (data), or train "
            f"with data.missing=0.3.",
            options="--data FILE, or train with --set data.missing=0.3",
        )
    find_holes(run.source("train"))
    note_unobserved(run.model, run.source("train"))
    found = impute(run.model, run.guide, chosen, **options)
    if on_found is not None:
        on_found(found)
    paths = (
        _write_arrays(path, found)
        if table is None or path.suffix not in SUFFIXES
        else _write_tables(path, found, table, chosen)
    )
    figure = run.path / "figures" / "imputed.png"
    hidden = data is None and run.data().missing is not None  # values that are known
    with costs_no_result(f"{figure} is not drawn"):
        truth = evenly(run.data(missing=None).test, count).x if hidden else None
        is_picture = plots.is_picture(run.model.event_shape)
        save_figure(picture(found, truth) if is_picture else imputed_columns(run, found.x, found.draws, truth), figure)
        paths.append(figure)
    return found, paths


def _table(run: Run, data: Any) -> Table | None:
    """Return the table whose rows are imputed, if the run is of one: that of the run, or new rows read by its schema.

    Raises:
        InputError: a table for a run that is of none, or something else for a run on a table.
    """
    if run.schema is None and is_table(data):
        raise InputError(
            f"Expected data as those of {run.path}, which are no table; got one. Give an array (.npy, .npz)."
        )
    if data is None or run.schema is None:
        return run.data().table
    if is_counts(data):
        return None
    if not is_table(data):
        raise InputError(
            f"Expected a table ({', '.join(SUFFIXES[:3])}, ...), as {run.path} was trained on; got {data}. Write its "
            f"columns to one."
        )
    return new_rows(data, run.schema)


def _write_arrays(path: Path, found: Imputation) -> list[Path]:
    """Write the mean, or all that was found, as arrays."""
    with written_whole(path) as temporary, temporary.open("wb") as file:
        if path.suffix == ".npy":
            np.save(file, found.mean.numpy())
        else:
            arrays: dict[str, Any] = {name: np.asarray(getattr(found, name)) for name in KEPT}
            np.savez(file, **arrays)
    return [path]


def _write_tables(path: Path, found: Imputation, table: Table, chosen: Split) -> list[Path]:
    """Write the rows with what was missing filled in, and as many complete tables as there are draws in a second file.

    Numbers are filled by their mean, categories by the most probable one. What is observed stays as it was written.
    """
    rows = table.frame.iloc[chosen.rows.numpy()].reset_index(drop=True)
    missing = found.x.isnan()
    filled = completed_frame(rows, table.schema, best_guess(found, table.schema), missing)
    draws = [completed_frame(rows, table.schema, draw, missing) for draw in found.draws]
    name = next(n for n in ("draw", "imputation", ".draw") if n not in rows.columns)
    for number, frame in enumerate(draws, 1):
        frame.insert(0, name, number)
    beside = path.with_name(f"{path.stem}-draws{path.suffix}")
    write_frame(path, filled)
    write_frame(beside, concatenated(draws))
    return [path, beside]


def best_guess(found: Imputation, schema: Schema) -> Tensor:
    """Return the mean of numbers and of ordered categories, and the most probable of the others, [N, D]."""
    unordered = torch.tensor([column.type in ("binary", "categorical") for column in schema.modelled])
    return torch.where(unordered, found.mode, found.mean)


def picture(found: Imputation, truth: Tensor | None = None) -> plots.Figure:
    """Draw data with what is missing in orange, E[x | observed], draws, and the truth, one datum in each row."""
    index = evenly(torch.arange(len(found)), ROWS)
    columns = {
        "data (orange is missing)": found.x[index][:, None],
        "E[x | observed]": found.mean[index][:, None],
        "draws": found.draws[:DRAWS, index].transpose(0, 1),
    } | ({} if truth is None else {"truth": truth[index][:, None]})
    return in_rows(columns)
