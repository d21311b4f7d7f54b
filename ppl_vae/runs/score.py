"""New rows ranked by log P(x) under a run, with conformal p-values, as a table in a file."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ppl_vae.criticism.scores import Scores, check_rates, scores_of
from ppl_vae.data.table_files import SUFFIXES, check_can_write_frame, write_frame
from ppl_vae.errors import InputError, did_you_mean, is_one_of, shown, whole_from
from ppl_vae.evidence.estimators import estimate_evidence
from ppl_vae.evidence.evidence import Evidence
from ppl_vae.runs.new_rows import source_of
from ppl_vae.runs.run import Run, load
from ppl_vae.utils.files import check_can_write

UNTRAINED = ("test", "validation")
SILENT = {"progress", "threads"}  # options that change no number


def score(
    run: Run | str | os.PathLike[str],
    *,
    data: str | os.PathLike[str] | Any = None,
    alpha: float = 0.05,
    fdr: float | None = None,
    calibration: str = "test",
    num_data: int | None = None,
    trust: bool = False,
    **options: Any,
) -> Scores:
    """Rank new data by log P(x), the least probable first, each with a conformal p-value.

        p = (1 + #{calibration data x_i: log P(x_i) <= log P(x)}) / (n + 1),    P(p <= alpha) <= alpha

    for a new datum that is exchangeable with the n calibration data, however well the model fits, on average over
    calibration data; both are estimated in the same way, so that this holds for the estimates as they are. The error of
    log P(x) is carried on: `p_range` says between which values a p-value lies, `movable` which flags could turn.

    Args:
        run: a run, or the path of its folder.
        data: the new rows: a file, or a folder of images, read as in training (of a conditional model with their y:
            then it is log P(x | y)), or what `estimate_evidence` takes.
        alpha: the rate of false alarms: data with p <= alpha are flagged.
        fdr: also find discoveries with at most this false discovery rate, by Benjamini and Hochberg; None does not.
        calibration: "test" or "validation", the split of the run's data that log P(x) is held against.
        num_data: use this many of the new rows, evenly spaced; None uses all.
        trust: run the Python files in the folder, see `load`.
        options: of `estimate_evidence`, for both; new data are estimated with the next seed.

    Returns:
        `Scores`: log_px, p_value, flagged, discovered, p_range and more per new datum; `to_frame()` for a table.

    Raises:
        InputError: no data, or what `estimate_evidence` refuses; rates that are not between 0 and 1, or below what the
            calibration data can say; new data that are those of calibration.

    Source: Bates, Candes, Lei, Romano & Sesia, arXiv 2104.08279.
    """
    if data is None:
        raise InputError("Expected new data to score; got none. Give a file or an array (data).", options="--data FILE")
    check_rates(alpha, fdr)
    if not is_one_of(calibration, UNTRAINED):
        why = "that was trained on" if is_one_of(calibration, ["train"]) else did_you_mean(calibration, UNTRAINED)
        raise InputError(f"Expected a calibration split that was not trained on; got {shown(calibration)}: {why}.")
    run = load(run, trust=trust)
    new = source_of(run, data, num_data=num_data)
    known = run.source(calibration)
    rates = check_rates(alpha, fdr, len(known))
    seed = whole_from(0, "a seed", options.pop("seed", 0))
    found = estimate_evidence(run.model, run.guide, new, seed=seed + 1, **options)  # by random numbers of its own
    beside = _kept(run, found) if calibration == "test" and seed == 0 and set(options) <= SILENT else None
    if beside is None:
        beside = estimate_evidence(run.model, run.guide, known, seed=seed, **options)
    on = f"the {calibration} data of {run.path}"
    return scores_of(found, beside, alpha=rates[0], fdr=rates[1], calibrated_on=on)


def _kept(run: Run, found: Evidence) -> Evidence | None:
    """Return the estimate in the run folder, if it was made as another one was."""
    try:
        kept = run.evidence
    except InputError:  # a broken file
        return None
    if kept is None or kept.seed != 0:
        return None
    how = [(e.method, e.num_samples, e.proposal, e.settings, e.quantity) for e in (kept, found)]
    return kept if how[0] == how[1] else None


def score_run(
    run: Run | str | os.PathLike[str],
    *,
    out: str | os.PathLike[str] | None = None,
    trust: bool = False,
    on_found: Callable[[Scores], object] | None = None,
    **options: Any,
) -> tuple[Scores, Path]:
    """Score new data, and write a row for each of them to a file, the least probable first.

    Args:
        run: a run, or the path of its folder.
        out: a .csv, .tsv, .parquet or .feather file; None writes RUN/scores.csv.
        trust: run the Python files in the folder: a model or guide that does not come with ppl-vae.
        on_found: called with the scores before they are written.
        options: of `score`.

    Returns:
        The `Scores`, and the file.

    Raises:
        InputError: as `score`, or another kind of file.
    """
    run = load(run, trust=trust)
    path = Path(out or run.path / "scores.csv")
    if path.suffix not in SUFFIXES:
        others = ", ".join(SUFFIXES[1:])
        raise InputError(f"Expected a .csv file, or {others}; got {path}. Name one (out).", options="--out FILE")
    check_can_write_frame(check_can_write(path))
    found = score(run, **options)
    if on_found is not None:
        on_found(found)
    write_frame(path, found.to_frame().reset_index())
    return found, path
