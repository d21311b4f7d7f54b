"""The calibration of a run: its words and its figure, as files."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ppl_vae import plots
from ppl_vae.criticism.calibration import Calibration, calibrate
from ppl_vae.fitting.checkpoint import RunFolder
from ppl_vae.runs.figures import costs_no_result, save_figure
from ppl_vae.runs.run import Run, load
from ppl_vae.utils.memory import check_memory


def calibrate_run(
    run: Run | str | os.PathLike[str],
    *,
    split: str = "test",
    trust: bool = False,
    on_found: Callable[[Calibration], object] | None = None,
    **options: Any,
) -> tuple[Calibration, list[Path]]:
    """Say whether Q(z | x) of a run is the posterior, on data that its model draws, and keep that in the run folder.

    Args:
        run: a run, or the path of its folder.
        split: "train", "validation" or "test": of these the model is given conditions, and where values are missing.
        trust: run the Python files in the folder: a model or guide that does not come with ppl-vae.
        on_found: called with the calibration before it is kept.
        options: of `ppl_vae.calibrate`.

    Returns:
        The `Calibration`, and the files that could be written: calibration.txt and figures/calibration.png.

    Raises:
        InputError: no run there, or as `ppl_vae.calibrate`.
    """
    run = load(run, trust=trust)
    if isinstance(size := options.get("num_simulated"), int):
        check_memory("simulated data", max(size, 0) * run.model.event_shape.numel())
    found = calibrate(run.model, run.guide, run.source(split), **options)
    if on_found is not None:
        on_found(found)
    folder = RunFolder(run.path)
    words, figure = folder / "calibration.txt", folder / "figures" / "calibration.png"
    paths = []
    with costs_no_result(f"{words} is not written"):
        folder.write(words.name, f"{found!r}\n".encode(errors="backslashreplace"))
        paths.append(words)
    with costs_no_result(f"{figure} is not drawn"):
        save_figure(plots.calibration(found, title=run.path.name), figure)
        paths.append(figure)
    return found, paths
