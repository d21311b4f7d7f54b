"""The imputation of a run's data, or of a file, as files: arrays, and a picture with the truth where it is known."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ppl_vae import plots
from ppl_vae.data.holes import find_holes
from ppl_vae.data.own_files import read
from ppl_vae.data.splits import evenly
from ppl_vae.data.unobserved import note_unobserved
from ppl_vae.errors import InputError, positive_int
from ppl_vae.generation.impute import Imputation, impute
from ppl_vae.missing import is_missing_in
from ppl_vae.runs.figures import costs_no_result, imputed_columns, in_rows, save_figure
from ppl_vae.runs.new_rows import as_in_training as _as_in_training
from ppl_vae.runs.run import Run, load
from ppl_vae.utils.files import check_can_write, written_whole

ROWS, DRAWS = 12, 6  # of the picture
KEPT = ("mean", "mcse", "draws", "ess", "khat")  # in a .npz file


def impute_run(
    run: Run | str | os.PathLike[str],
    *,
    data: str | os.PathLike[str] | None = None,
    num_data: int | None = None,
    out: str | os.PathLike[str] | None = None,
    trust: bool = False,
    on_found: Callable[[Imputation], object] | None = None,
    **options: Any,
) -> tuple[Imputation, list[Path]]:
    """Impute what is missing in data by the pair of a run, and write it to files.

    Args:
        run: a run, or the path of its folder.
        data: a .npy or .npz file (see `ppl_vae.data.load`), or a folder; None takes the run's test data.
        num_data: use this many of them, evenly spaced; None uses all.
        out: a .npy file for the mean, or a .npz file for mean, mcse, draws, ess and khat; None writes RUN/imputed.npz.
        trust: run the Python files in the folder: a model or guide that does not come with ppl-vae.
        on_found: called with the imputation before it is written.
        options: of `ppl_vae.impute`.

    Returns:
        The `Imputation`, and the files: `out` and RUN/figures/imputed.png if it could be drawn.

    Raises:
        InputError: no run there, data without missing values or that do not fit, or an unknown kind of file.
    """
    run = load(run, trust=trust)
    path = Path(out or run.path / "imputed.npz")
    if path.suffix not in (".npy", ".npz"):
        raise InputError(f"Expected a .npy or .npz file; got {path}. Name one (out).", options="--out FILE")
    check_can_write(path)
    whole = run.data().test if data is None else _as_in_training(read(data), run)
    count = len(whole) if num_data is None else positive_int("num_data", num_data)
    chosen = evenly(whole, count)
    if not is_missing_in(chosen.x):
        which = f"the test data of {run.path}" if data is None else data
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
    with written_whole(path) as temporary, temporary.open("wb") as file:
        if path.suffix == ".npy":
            np.save(file, found.mean.numpy())
        else:
            arrays: dict[str, Any] = {name: np.asarray(getattr(found, name)) for name in KEPT}
            np.savez(file, **arrays)
    paths = [path]
    figure = run.path / "figures" / "imputed.png"
    hidden = data is None and run.data().missing is not None  # values that are known
    with costs_no_result(f"{figure} is not drawn"):
        truth = evenly(run.data(missing=None).test, count).x if hidden else None
        is_picture = plots.is_picture(run.model.event_shape)
        save_figure(picture(found, truth) if is_picture else imputed_columns(run, found.x, found.draws, truth), figure)
        paths.append(figure)
    return found, paths


def picture(found: Imputation, truth: Tensor | None = None) -> plots.Figure:
    """Draw data with what is missing in orange, E[x | observed], draws, and the truth, one datum in each row."""
    index = evenly(torch.arange(len(found)), ROWS)
    columns = {
        "data (orange is missing)": found.x[index][:, None],
        "E[x | observed]": found.mean[index][:, None],
        "draws": found.draws[:DRAWS, index].transpose(0, 1),
    } | ({} if truth is None else {"truth": truth[index][:, None]})
    return in_rows(columns)
