"""Runs compared by log P(x) on the same data: one by one, or as seeds of one model."""

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ppl_vae.criticism.comparison import Comparison, compare_evidence
from ppl_vae.errors import InputError, check_path, shown
from ppl_vae.evidence.evidence import Evidence
from ppl_vae.runs.run import Run, load
from ppl_vae.utils.files import is_there

SEED = "seed-"  # before the seed, in the name of the folder of one of several runs
Given = Evidence | Run | str | os.PathLike[str]


def compare(models: Mapping[str, Given | Sequence[Given]] | Iterable[Given], *, trust: bool = False) -> Comparison:
    """Compare models by log P(x) on the same data, each by one run or by several seeds: a table, the best first.

    Columns, all means over the data and the runs of a model, in nats per datum:
        rank: 0 is the best.
        log_px: log P(x).
        log_px_diff: the paired difference log P_best(x) - log P(x), 0 for the best and above it for the others.
        weight: of a run of each in their mixture that predicts these data best (stacking), see `stacking`; the mean
            over seeds. It is no probability that a model is better.
        se: standard error of log_px, over the data and, of several runs, over luck in training.
        dse: standard error of log_px_diff: below se by far where the models find the same data hard.
        warning: whether there are data whose estimate is in doubt, or a verdict that is not "to be believed".
        mcse: Monte Carlo standard error of log_px.
        num_samples, method: K, and how log P(x) was estimated. With fewer samples an estimate is rather lower, and a
            difference cannot tell that from a worse model.
        elbo, gap: the evidence lower bound, and how far it is below.
        num_runs, run_sd: how many runs (seeds), and the standard deviation of log_px over them.
        scored: only where some x are levels and some these levels dequantized: "probability", or "dequantized". Then
            log_px and elbo of the dequantized are D log L lower than `Evidence` has them: bounds on those of levels.

    The errors, with S runs and N data: dse^2 = var_n(diff) / N + a_best^2 / S_best + a^2 / S, with a the standard
    deviation that luck in training gives a run; where all models have one run, a is not known and left out.

    Args:
        models: evidence or runs, or the paths of run folders, by the name of their model, a list of them for several
            seeds; or runs and folders alone. A folder may hold several (`ppl_vae.train(..., seeds=5)`). Runs given
            alone that differ in nothing but their seed are seeds of one model.
        trust: run the Python files in the folders, see `load`.

    Returns:
        A pandas table that prints itself with what it is of; `to_arviz()` of it is for `arviz.plot_compare`.

    Raises:
        InputError: nothing to compare, a run without an estimate, estimates on different data, one run twice,
            densities beside probabilities, or log P(x | n), given the total n of each datum, beside log P(x).

    Source: the columns of `arviz.compare`, whose differences and errors are sums over the data; Vehtari et al.,
    arXiv 1507.04544. The errors: Searle, Casella & McCulloch, Variance Components (1992), section 4.5.

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
    if isinstance(models, Mapping):
        named = {name: some if isinstance(some, list | tuple) else [some] for name, some in models.items()}
        read = {name: [run for one in some for run in _runs(one, trust)] for name, some in named.items()}
    else:
        alone = isinstance(models, Run | Evidence | str | os.PathLike) or not isinstance(models, Iterable)
        given: list[Any] = [models] if alone else list(models)
        if any(isinstance(one, Evidence) for one in given):
            raise InputError(
                "Expected evidence with the names of its models; got a list. Pass {'vae': e1, 'mixture': e2}, or "
                "{'vae': [e1, e2]} for two seeds of one model."
            )
        if wrong := [one for one in given if not isinstance(one, Run | str | os.PathLike)]:
            raise InputError(f"Expected runs, or their folders; got {shown(wrong[0])}. Pass what train returns.")
        read = _by_model([run for one in given for run in _runs(one, trust)])
    evidences = {name: [_evidence(run) for run in some] for name, some in read.items()}
    _check_data([run for some in read.values() for run in some if isinstance(run, Run)])
    return compare_evidence(evidences)


def seed_folders(path: str | os.PathLike[str]) -> list[Path]:
    """Return the folders of the runs that a folder holds, in the order of their seeds; none of a run itself."""
    check_path("a run folder", path)
    folder = Path(path)
    found = [] if is_there(folder / "run.json") else [file.parent for file in folder.glob("*/run.json")]
    return sorted(found, key=lambda one: (len(one.name), one.name))


def names_of(runs: Sequence[Run]) -> list[str]:
    """Return the names of their folders, of seeds with that of the folder above; in full where two have one name."""
    paths = [run.path.resolve() for run in runs]
    names = [f"{p.parent.name}/{p.name}" if p.name.startswith(SEED) else p.name for p in paths]
    return [name if names.count(name) == 1 else str(run.path) for run, name in zip(runs, names, strict=True)]


def data_in_words(data: Mapping[str, Any]) -> str:
    """Return which data a run was trained on, from its run.json."""
    options = (f"data.{key}={data[key]}" for key in ("binarize", "dequantize", "strings") if data.get(key) is not None)
    return " ".join((str(data["name"]), *options))


def _runs(one: Any, trust: bool) -> list[Any]:
    """Return the runs of a folder; what is no path stays as it is, and is looked at later."""
    return (
        [load(path, trust=trust) for path in (seed_folders(one) or [Path(one)])]
        if isinstance(one, str | os.PathLike)
        else [one]
    )


def _by_model(runs: Sequence[Run]) -> dict[str, list[Run]]:
    """Return runs that differ in their seeds only together, by a name."""
    groups: list[list[Run]] = []
    for run in runs:
        for group in groups:
            seeds = [other.recipe.seed for other in group]
            if run.recipe.seed not in seeds and replace(group[0].recipe, seed=run.recipe.seed) == run.recipe:
                group.append(run)
                break
        else:
            groups.append([run])
    names = [_of_several(name, group) for name, group in zip(names_of([g[0] for g in groups]), groups, strict=True)]
    if len(set(names)) < len(names):
        names = [_of_several(str(group[0].path), group) for group in groups]
    return dict(zip(names, groups, strict=True))


def _of_several(name: str, runs: Sequence[Run]) -> str:
    """Return the name of a model by that of its first run."""
    if len(runs) == 1:
        return name
    if len({run.path.resolve().parent for run in runs}) == 1 and all(run.path.name.startswith(SEED) for run in runs):
        return name.removesuffix(f"/{runs[0].path.name}")
    return f"{name} and {len(runs) - 1} other{'s' * (len(runs) > 2)}"


def _evidence(run: Any) -> Any:
    if not isinstance(run, Run):
        return run
    if run.evidence is None:
        raise InputError(
            f"Expected an estimate in {run.path}; got none. Make one: ppl_vae.evaluate({str(run.path)!r}).",
            options=f"ppl-vae evaluate {run.path}",
        )
    return run.evidence


def _check_data(runs: Sequence[Run]) -> None:
    """Say of runs on different data which these are."""
    for run in runs[1:]:
        both = [runs[0], run]
        words = [data_in_words(one.config["data"]) for one in both]
        if words[0] != words[1] and len({one.evidence.fingerprint for one in both if one.evidence}) > 1:
            raise InputError(
                f"Expected estimates on the same data; got {both[0].path} on {words[0]} and {run.path} on {words[1]}. "
                f"Train both on one data set, with the same options of it.",
                options="--data, and --set data.OPTION=VALUE",
            )
