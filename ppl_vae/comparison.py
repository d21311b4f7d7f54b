"""Models compared by log P(x) on the same data, datum by datum."""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ppl_vae.errors import InputError
from ppl_vae.evidence import Evidence
from ppl_vae.runs import Run, load


def compare(models: Mapping[str, Evidence] | Iterable[Run | str | os.PathLike[str]]) -> Any:
    """Compare models by log P(x) on the same data: a pandas table, the best first.

    Columns, in nats per datum: `rank`; `log_px`, the mean; `se`, its standard error over the data; `diff`,
    the mean of the paired differences to the best; `dse`, the standard error of that; `mcse`, the Monte
    Carlo standard error of log_px; `num_samples`, K; `elbo`; `gap`.

    Args:
        models: evidence by the name of its model, or runs, or the paths of run folders.

    Raises:
        InputError: nothing to compare, a run without an estimate, or estimates made on different data.

    Source: the columns of `arviz.compare`; Vehtari et al., arXiv 1507.04544, for the paired differences.
    """
    evidences = dict(models) if isinstance(models, Mapping) else _of_runs(models)
    if not evidences:
        raise InputError("Expected at least one model to compare; got none.")
    first_name, first = next(iter(evidences.items()))
    for name, other in evidences.items():
        if other.fingerprint != first.fingerprint:
            raise InputError(
                f"Expected estimates on the same data; got {first_name!r} on {len(first)} data and {name!r} on "
                f"{len(other)} others. Evaluate both on one data set and split."
            )
    ranked = sorted(evidences.items(), key=lambda item: -item[1].log_px.mean())
    best = ranked[0][1].log_px
    return _table([(name, evidence, best - evidence.log_px) for name, evidence in ranked])


def _table(rows: list[tuple[str, Evidence, Any]]) -> Any:
    import pandas

    columns = []
    for rank, (name, evidence, difference) in enumerate(rows):
        means = evidence.means()
        columns.append(
            {
                "model": name,
                "rank": rank,
                "log_px": means["log_px"].value,
                "se": means["log_px"].se,
                "diff": difference.mean(),
                "dse": difference.std(ddof=1) / np.sqrt(len(difference)) if len(difference) > 1 else np.nan,
                "mcse": means["log_px"].mcse,
                "num_samples": evidence.num_samples,
                "elbo": means["elbo"].value,
                "gap": means["gap"].value,
            }
        )
    return pandas.DataFrame(columns).set_index("model")


def _of_runs(runs: Iterable[Run | str | os.PathLike[str]]) -> dict[str, Evidence]:
    """Return the estimates kept with runs, named by their folders (in full where two have one name)."""
    opened = [run if isinstance(run, Run) else load(run) for run in runs]
    names = [run.path.resolve().name for run in opened]
    evidences = {}
    for run, name in zip(opened, names, strict=True):
        if run.evidence is None:
            raise InputError(f"Expected an estimate in {run.path}; got none. Make one: ppl-vae evaluate {run.path}")
        evidences[name if names.count(name) == 1 else str(Path(run.path))] = run.evidence
    return evidences
