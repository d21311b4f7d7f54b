"""The calibration of a run: its words and its figure, as files."""

import os
from pathlib import Path
from typing import Any

from ppl_vae import plots
from ppl_vae.criticism.calibration import Calibration, calibrate
from ppl_vae.fitting.checkpoint import RunFolder
from ppl_vae.runs.figures import save_figure
from ppl_vae.runs.run import Run, load


def calibrate_run(
    run: Run | str | os.PathLike[str], *, split: str = "test", **options: Any
) -> tuple[Calibration, list[Path]]:
    """Say whether Q(z | x) of a run is the posterior, on data that its model draws, and keep that in the run folder.

    Args:
        run: a run, or the path of its folder.
        split: "train", "validation" or "test": of these the model is given conditions, and where values are missing.
        options: of `ppl_vae.calibrate`.

    Returns:
        The `Calibration`, and the files: calibration.txt and figures/calibration.png.

    Raises:
        InputError: no run there, or as `ppl_vae.calibrate`.
    """
    run = load(run)
    found = calibrate(run.model, run.guide, run.source(split), **options)
    folder = RunFolder(run.path)
    folder.write("calibration.txt", f"{found!r}\n".encode())
    figure = folder / "figures" / "calibration.png"
    save_figure(plots.calibration(found, title=run.path.name), figure)
    return found, [folder / "calibration.txt", figure]
