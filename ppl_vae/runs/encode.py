"""z of a run's data, or of new rows, as a file: arrays, or a table."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ppl_vae.data.table_files import SUFFIXES, check_can_write_frame, write_frame
from ppl_vae.errors import InputError
from ppl_vae.generation.encode import Encoding, encode
from ppl_vae.runs.new_rows import source_of
from ppl_vae.runs.run import Run, load
from ppl_vae.utils.files import check_can_write, written_whole


def encode_run(
    run: Run | str | os.PathLike[str],
    *,
    data: str | os.PathLike[str] | Any = None,
    split: str = "test",
    num_data: int | None = None,
    out: str | os.PathLike[str] | None = None,
    trust: bool = False,
    on_found: Callable[[Encoding], object] | None = None,
    **options: Any,
) -> tuple[Encoding, Path]:
    """Find z of data by the guide of a run, and write it to a file.

    Args:
        run: a run, or the path of its folder.
        data: new rows: a file, or a folder of images, read as in training (of a conditional model with their y), or
            what `encode` takes; None takes the run's own data.
        split: "train", "validation" or "test" of the run's own data.
        num_data: use this many of them, evenly spaced; None uses all.
        out: a .npz file for SITE_mean, SITE_mcse and SITE_draws of each latent site; a .csv, .tsv, .parquet or .feather
            file for a table with a row for each datum, of means and draws; None writes RUN/encoded.npz.
        trust: run the Python files in the folder: a model or guide that does not come with ppl-vae.
        on_found: called with what was found before it is written.
        options: of `encode`.

    Returns:
        The `Encoding`, and the file.

    Raises:
        InputError: no run there, data that do not fit, or another kind of file.
    """
    run = load(run, trust=trust)
    path = Path(out or run.path / "encoded.npz")
    kinds = (".npz", *SUFFIXES)
    if path.suffix not in kinds:
        raise InputError(f"Expected a file {', '.join(kinds)}; got {path}. Name one (out).", options="--out FILE")
    check_can_write_frame(check_can_write(path))
    found = encode(run.model, run.guide, source_of(run, data, split, num_data), **options)
    if on_found is not None:
        on_found(found)
    if path.suffix in SUFFIXES:
        write_frame(path, found.to_frame(draws=True).reset_index())
        return found, path
    with written_whole(path) as temporary, temporary.open("wb") as file:
        np.savez(file, **_arrays(found))
    return found, path


def _arrays(found: Encoding) -> dict[str, Any]:
    parts = {"mean": found.mean, "mcse": found.mcse, "draws": found.draws}
    return {f"{site}_{part}": values for part, sites in parts.items() for site, values in sites.items()}
