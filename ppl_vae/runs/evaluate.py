"""Questions to a run folder: what log P(x) is, why the ELBO is lower, what one condition is answered."""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from ppl_vae.criticism.gaps import Gap, explain_gap
from ppl_vae.criticism.image_classifier import fit_classifier
from ppl_vae.criticism.latent_use import LatentUse, latent_use
from ppl_vae.criticism.one_to_many import OneToMany, conditional, measure_one_to_many
from ppl_vae.data.as_source import fingerprint
from ppl_vae.errors import InputError
from ppl_vae.evidence.estimators import estimate_evidence
from ppl_vae.evidence.evidence import Evidence
from ppl_vae.fitting.checkpoint import RunFolder
from ppl_vae.plots import is_picture
from ppl_vae.runs.compare import data_in_words, names_of
from ppl_vae.runs.figures import beside, save_figure
from ppl_vae.runs.new_rows import source_of
from ppl_vae.runs.run import Run, load
from ppl_vae.utils.faults import warn
from ppl_vae.utils.files import why_not_writable

USUAL = ("auto", "importance")  # methods that answer for a whole test split


def evaluate(
    run: Run | str | os.PathLike[str],
    *,
    method: str = "auto",
    data: str | os.PathLike[str] | Any = None,
    split: str = "test",
    num_data: int | None = None,
    trust: bool = False,
    on_kept: Callable[[str], object] | None = None,
    **options: Any,
) -> Evidence:
    """Estimate log P(x) of a run's data, or of new rows, and keep the estimate in the run folder, if it can be.

    Args:
        run: a run, or the path of its folder.
        method: "auto", "importance", or "ais" or "sandwich", which take minutes (use few data), or of series "smc". See
            `estimate_evidence`.
        data: new rows: a file, or a folder of images, read as in training (of a conditional model with their y), or
            what `estimate_evidence` takes; None takes the run's own data.
        split: "train", "validation" or "test".
        num_data: use this many of them, evenly spaced; None uses all.
        trust: run the Python files in the folder, see `load`.
        on_kept: called with what was done with the estimate, in words.
        options: of `estimate_evidence`, for instance num_samples=5000 or tolerance=0.05.

    Returns:
        `Evidence`. That of the whole test split, by "auto" or by importance sampling from the guide, is kept in
        evidence.nc, unless one by "auto", or by the same method of more samples, is there; any other in
        evidence-[joint-]METHOD-PROPOSAL-SPLIT-NUMBER.nc, that of log P(x_A | x_B) with given-HASH of the mask instead
        of joint, that of new rows with new-HASH of these instead of SPLIT.

    Raises:
        InputError: no run there, or an option that is out of range.
    """
    run = load(run, trust=trust)
    source = source_of(run, data, split, num_data)
    if why := why_not_writable(run.path):
        warn(f"The estimate will be shown, but not kept in {run.path}: {why}.")
    estimated = estimate_evidence(run.model, run.guide, source, method=method, **options)
    evidence = replace(estimated, weights=run.weights)
    joint, given = bool(options.get("joint")), options.get("given") is not None
    whole = data is None and split == "test" and not (num_data or joint or given)
    usual = whole and method in USUAL and evidence.proposal == "guide"
    what = f"given-{evidence.fingerprint[-8:]}-" if given else "joint-" if joint else ""
    rows = split if data is None else f"new-{fingerprint(source)[-8:]}"
    whose = f"-{what}{'importance' if given else method}-{evidence.proposal}-{rows}-{len(evidence)}"
    file = run.path / f"evidence{'' if usual else whose}.nc"
    kept = _keep(run, evidence, file, usual=usual) if not why else f"not kept: {why}"
    if on_kept is not None:
        on_kept(kept)
    return evidence


def _keep(run: Run, evidence: Evidence, file: Path, *, usual: bool) -> str:
    """Write an estimate, if there is none from more work; return what was done, in words, also where it fails."""
    if usual and _work(_kept(run)) > _work(evidence):
        return f"not kept: {file} has an estimate from more work"
    if RunFolder(run.path).digest_of_weights() not in ("", run.weights):
        return f"not kept: training has gone on in {run.path}, and its weights are others now"
    try:
        if usual:
            run.keep(evidence)
        else:
            evidence.save(file)
    except InputError as problem:
        warn(f"The estimate is not kept. {problem}")
        return f"not kept in {file}"
    return f"kept in {file}"


def _kept(run: Run) -> Evidence | None:
    """Return the estimate in the run folder; none where there is none that can be read."""
    try:
        return run.evidence
    except InputError:
        return None


def _work(evidence: Evidence | None) -> tuple[bool, int, float]:
    """Return how much was done for an estimate: by which method, with how many samples."""
    if evidence is None:
        return False, 0, 0.0
    draws = evidence.diagnostics.get("draws")  # not of filters, whose samples are filters of so many particles
    particles = evidence.settings.get("num_samples", 1)
    return (
        evidence.method in ("auto", "smc"),
        int(evidence.num_samples * particles),
        0.0 if draws is None else float(draws.max()),
    )


def explain(
    run: Run | str | os.PathLike[str],
    *,
    data: str | os.PathLike[str] | Any = None,
    split: str = "test",
    num_data: int | None = 200,
    seed: int = 0,
    trust: bool = False,
    progress: bool | None = None,
) -> tuple[Gap, LatentUse]:
    """Say why a run's ELBO is below log P(x), and which of its latents are used.

    Args:
        run: a run, or the path of its folder.
        data: new rows: a file, or a folder of images, read as in training, or what `explain_gap` takes; None takes the
            run's own data.
        split: "train", "validation" or "test".
        num_data: use this many of them, evenly spaced; None uses all.
        seed: of the samples.
        trust: run the Python files in the folder, see `load`.
        progress: show progress bars.

    Returns:
        `Gap` (see `explain_gap`) and `LatentUse` (see `latent_use`).

    Raises:
        InputError: no run there, or an option that is out of range.
    """
    run = load(run, trust=trust)
    chosen = source_of(run, data, split, num_data)
    gap = explain_gap(run.model, run.guide, chosen, seed=seed, progress=progress)
    return gap, latent_use(run.model, run.guide, chosen, seed=seed, progress=progress)


def measure(
    run: Run | str | os.PathLike[str],
    *,
    against: Run | str | os.PathLike[str] | None = None,
    num_samples: int = 1000,
    num_answers: int = 20,
    num_data: int | None = 1000,
    seed: int = 0,
    trust: bool = False,
    progress: bool | None = None,
) -> OneToMany:
    """Measure on the test split what a run makes of conditions with many right answers.

    Where there is a right label, a classifier is trained on real data (`fit_classifier`) and reads the answers.

    Args:
        run: a run of a conditional model, or the path of its folder.
        against: another run of the same task on the same data, for instance of the regressor.
        num_samples: K of the importance estimate of log P(x | y).
        num_answers: how many answers to each condition.
        num_data: ask the conditions of so many test data, evenly spaced; None asks all.
        seed: of the samples, and of the classifier.
        trust: run the Python files in the folders, see `load`.
        progress: show progress bars.

    Returns:
        `OneToMany` (see `measure_one_to_many`).

    Raises:
        InputError: no run there, a run without a condition or with other data, or an option that is out of range.
    """
    run = load(run, trust=trust)
    runs = [run] if against is None else [run, load(against, trust=trust)]
    model, data = conditional(run.model), run.data()
    tested = [data_in_words(one.config["data"]) for one in runs]
    if tested[0] != tested[-1]:
        raise InputError(
            f"Expected two runs on the same test data; got {run.path} on {tested[0]} and {runs[-1].path} on "
            f"{tested[-1]}. Train one of them with the other's likelihood, condition and data options."
        )
    return measure_one_to_many(
        model,
        run.guide,
        data.test,
        against=None if against is None else (runs[1].model, runs[1].guide),
        classifier=None if model.y_from_x else fit_classifier(data, seed=seed, progress=progress),
        grey=data.as_stored().test if data.binarize == "dynamic" else None,
        num_samples=num_samples,
        num_answers=num_answers,
        num_data=num_data,
        names=names_of(runs),
        seed=seed,
        progress=progress,
    )


def keep_measures(
    found: OneToMany, run: Run | str | os.PathLike[str], against: Run | str | os.PathLike[str] | None = None
) -> list[Path]:
    """Write what `measure` found into the folder of its run, and draw one answer to each of 60 conditions.

    Returns:
        The files: measures.txt, and figures/answers.png with the model, the other model, and the truth side by side.
    """
    runs = [load(one) for one in (run, against) if one is not None]
    folder = RunFolder(runs[0].path)
    folder.write("measures.txt", f"{found}\n".encode(errors="backslashreplace"))
    if not is_picture(runs[0].model.event_shape):
        return [folder / "measures.txt"]
    names = [one.name for one in (found.model, found.against) if one is not None]
    models = {name: conditional(one.model) for name, one in zip(names, runs, strict=True)}
    save_figure(beside(models, runs[0].data().test), folder / "figures" / "answers.png")
    return [folder / "measures.txt", folder / "figures" / "answers.png"]
