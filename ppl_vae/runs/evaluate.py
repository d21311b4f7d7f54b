"""Questions to a run folder: what log P(x) is, why the ELBO is lower, what one condition is answered."""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ppl_vae.criticism.comparison import compare_evidence
from ppl_vae.criticism.gaps import Gap, explain_gap
from ppl_vae.criticism.image_classifier import fit_classifier
from ppl_vae.criticism.latent_use import LatentUse, latent_use
from ppl_vae.criticism.one_to_many import OneToMany, conditional, measure_one_to_many
from ppl_vae.errors import InputError
from ppl_vae.evidence.estimators import estimate_evidence
from ppl_vae.evidence.evidence import Evidence
from ppl_vae.fitting.checkpoint import RunFolder
from ppl_vae.plots import is_picture
from ppl_vae.runs.figures import beside, save_figure
from ppl_vae.runs.run import Run, load


def compare(models: Mapping[str, Evidence] | Iterable[Run | str | os.PathLike[str]]) -> Any:
    """Compare models by log P(x) on the same data: a pandas table, the best first.

    Columns, all means over the data, in nats per datum:
        rank: 0 is the best.
        log_px: log P(x).
        log_px_diff: the paired difference log P_best(x) - log P(x), 0 for the best and above it for the others.
        weight: of the mixture of the models that predicts these data best (stacking), see `stacking`.
        se: standard error of log_px over the data.
        dse: standard error of log_px_diff: below se by far where the models find the same data hard.
        warning: whether there are data whose estimate is in doubt: `Evidence.doubts` lists them.
        mcse: Monte Carlo standard error of log_px.
        num_samples, method: K, and how log P(x) was estimated. With fewer samples an estimate is rather lower, and a
            difference cannot tell that from a worse model.
        elbo, gap: the evidence lower bound, and how far it is below.
        scored: only where some x are levels and some these levels dequantized: "probability", or "dequantized". Then
            log_px and elbo of the dequantized are D log L lower than `Evidence` has them: bounds on those of levels.

    Args:
        models: evidence by the name of its model, or runs, or the paths of run folders.

    Raises:
        InputError: nothing to compare, a run without an estimate, estimates on different data, or densities beside
            probabilities.

    Source: the columns of `arviz.compare`, whose differences and errors are sums over the data; Vehtari et al.,
    arXiv 1507.04544.

    >>> import torch
    >>> from ppl_vae import estimate_evidence
    >>> from ppl_vae.models import LinearGaussian
    >>> from ppl_vae.guides import LinearGaussian as Posterior
    >>> models = {f"sigma {s}": LinearGaussian((20,), latent_dim=4, sigma=s) for s in (0.5, 1.0)}
    >>> x = models["sigma 1.0"](size=640).detach()
    >>> table = compare({name: estimate_evidence(model, Posterior(model), x) for name, model in models.items()})
    >>> list(table.index), list(table["rank"]), table["weight"].round(1).tolist()
    (['sigma 1.0', 'sigma 0.5'], [0, 1], [1.0, 0.0])
    """
    return compare_evidence(dict(models) if isinstance(models, Mapping) else _of_runs(models))


def _of_runs(runs: Iterable[Run | str | os.PathLike[str]]) -> dict[str, Evidence]:
    """Return the estimates kept with runs, by name."""
    given = list(runs)
    if any(isinstance(one, Evidence) for one in given):
        raise InputError("Expected evidence with the names of its models; got a list. Pass {'vae': e1, 'mixture': e2}.")
    read = [load(run) for run in given]
    evidences = {}
    for run, name in zip(read, _names(read), strict=True):
        if run.evidence is None:
            raise InputError(f"Expected an estimate in {run.path}; got none. Make one: ppl-vae evaluate {run.path}")
        evidences[name] = run.evidence
    return evidences


def _names(runs: Sequence[Run]) -> list[str]:
    """Return the names of their folders, in full where two have one name."""
    names = [run.path.resolve().name for run in runs]
    return [name if names.count(name) == 1 else str(run.path) for run, name in zip(runs, names, strict=True)]


def evaluate(
    run: Run | str | os.PathLike[str],
    *,
    method: str = "importance",
    split: str = "test",
    num_data: int | None = None,
    on_kept: Callable[[str], object] | None = None,
    **options: Any,
) -> Evidence:
    """Estimate log P(x) of a run's data, and keep the estimate in the run folder.

    Args:
        run: a run, or the path of its folder.
        method: "importance", or "ais" or "sandwich", which take minutes (use few data); see `estimate_evidence`.
        split: "train", "validation" or "test".
        num_data: use this many of them, evenly spaced; None uses all.
        on_kept: called with what was done with the estimate, in words.
        options: of `estimate_evidence`, for instance num_samples=5000 or tolerance=0.05.

    Returns:
        `Evidence`. That of the whole test split by importance sampling from the guide is kept in evidence.nc, unless
        one of more samples is there; any other in evidence-[joint-]METHOD-PROPOSAL-SPLIT-NUMBER.nc.

    Raises:
        InputError: no run there, or an option that is out of range.
    """
    run = load(run)
    source = run.source(split, num_data)
    evidence = estimate_evidence(run.model, run.guide, source, method=method, **options)
    joint = bool(options.get("joint"))
    usual = method == "importance" and evidence.proposal == "guide" and split == "test" and not (num_data or joint)
    whose = f"-{'joint-' if joint else ''}{method}-{evidence.proposal}-{split}-{len(evidence)}"
    file = run.path / f"evidence{'' if usual else whose}.nc"
    kept = f"kept in {file}"
    if not usual:
        evidence.save(file)
    elif _samples_of_kept(run) > evidence.diagnostics["draws"].max():
        kept = f"not kept: {file} has an estimate from more samples"
    else:
        run.keep(evidence)
    if on_kept is not None:
        on_kept(kept)
    return evidence


def _samples_of_kept(run: Run) -> float:
    """Return how many samples the estimate in the run folder has; none where there is none that can be read."""
    try:
        return run.evidence.diagnostics["draws"].max() if run.evidence is not None else 0
    except InputError:
        return 0


def explain(
    run: Run | str | os.PathLike[str],
    *,
    split: str = "test",
    num_data: int | None = 200,
    seed: int = 0,
    progress: bool | None = None,
) -> tuple[Gap, LatentUse]:
    """Say why a run's ELBO is below log P(x), and which of its latents are used.

    Args:
        run: a run, or the path of its folder.
        split: "train", "validation" or "test".
        num_data: use this many of them, evenly spaced; None uses all.
        seed: of the samples.
        progress: show progress bars.

    Returns:
        `Gap` (see `explain_gap`) and `LatentUse` (see `latent_use`).

    Raises:
        InputError: no run there, or an option that is out of range.
    """
    run = load(run)
    chosen = run.source(split, num_data)
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
        progress: show progress bars.

    Returns:
        `OneToMany` (see `measure_one_to_many`).

    Raises:
        InputError: no run there, a run without a condition or with other data, or an option that is out of range.
    """
    run = load(run)
    runs = [run] if against is None else [run, load(against)]
    model, data = conditional(run.model), run.data()
    tested = [_in_words(one.config["data"]) for one in runs]
    if tested[0] != tested[-1]:
        raise InputError(
            f"Expected two runs on the same test data; got {run.path} on {tested[0]} and {runs[-1].path} on "
            f"{tested[-1]}. Train one of them with the other's --likelihood, --condition and data options."
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
        names=_names(runs),
        seed=seed,
        progress=progress,
    )


def _in_words(data: Mapping[str, Any]) -> str:
    options = (f"data.{key}={data[key]}" for key in ("binarize", "dequantize", "strings") if data.get(key) is not None)
    return " ".join((str(data["name"]), *options))


def keep_measures(
    found: OneToMany, run: Run | str | os.PathLike[str], against: Run | str | os.PathLike[str] | None = None
) -> list[Path]:
    """Write what `measure` found into the folder of its run, and draw one answer to each of 60 conditions.

    Returns:
        The files: measures.txt, and figures/answers.png with the model, the other model, and the truth side by side.
    """
    runs = [load(one) for one in (run, against) if one is not None]
    folder = RunFolder(runs[0].path)
    folder.write("measures.txt", f"{found}\n".encode())
    if not is_picture(runs[0].model.event_shape):
        return [folder / "measures.txt"]
    names = [one.name for one in (found.model, found.against) if one is not None]
    models = {name: conditional(one.model) for name, one in zip(names, runs, strict=True)}
    save_figure(beside(models, runs[0].data().test), folder / "figures" / "answers.png")
    return [folder / "measures.txt", folder / "figures" / "answers.png"]
