"""Models compared by log P(x) on the same data, datum by datum."""

import os
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ppl_vae.diagnostics import Array
from ppl_vae.errors import InputError
from ppl_vae.evidence import Evidence
from ppl_vae.report import Mean
from ppl_vae.runs import Run, load
from ppl_vae.scored import check_comparable, of_levels

GAIN = 1e-9  # nats per datum that better weights could add where their search ends
MOST = 20_000  # its steps: some 1 s for 10,000 data; models that differ this little have no weights worth more


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
        num_samples, method: K, and how log P(x) was estimated. Every estimate is rather too low than too high, more so
        with fewer samples, and a difference cannot tell that from a worse model.
        elbo, gap: the evidence lower bound, and how far it is below.
        scored: only where some x are levels and some these levels dequantized: "probability", or "dequantized". Then
            log_px and elbo of the dequantized are D log L lower than `Evidence` has them: bounds on those of levels.

    Args:
        models: evidence by the name of its model, or runs, or the paths of run folders.

    Raises:
        InputError: nothing to compare, no evidence, a run without an estimate, or estimates made on different data;
            densities beside probabilities.

    Source: the columns of `arviz.compare`, whose elpd_diff and errors are sums over the data; Vehtari et al.,
    arXiv 1507.04544, for the paired differences.

    >>> import torch
    >>> from ppl_vae import estimate_evidence
    >>> from ppl_vae.models import LinearGaussian
    >>> from ppl_vae.guides import LinearGaussian as Posterior
    >>> models = {f"sigma {s}": LinearGaussian((20,), latent_dim=4, sigma=s) for s in (0.5, 1.0)}
    >>> x = models["sigma 1.0"](size=64).detach()
    >>> table = compare({name: estimate_evidence(model, Posterior(model), x) for name, model in models.items()})
    >>> list(table.index), list(table["rank"]), table["weight"].round(2).tolist()
    (['sigma 1.0', 'sigma 0.5'], [0, 1], [1.0, 0.0])
    """
    evidences = dict(models) if isinstance(models, Mapping) else _of_runs(models)
    _check(evidences)
    if len({evidence.scored for evidence in evidences.values()}) > 1:
        evidences = {name: _of_levels(evidence) for name, evidence in evidences.items()}
    ranked = sorted(evidences.items(), key=lambda item: -item[1].log_px.mean())
    log_px = np.stack([evidence.log_px for _, evidence in ranked])
    with np.errstate(invalid="ignore"):  # where both are minus infinity
        differences = log_px[0] - log_px
    return _table(ranked, differences, stacking(log_px))


def stacking(log_px: Array) -> Array:
    """Return the weights of the mixture of models under which data are most probable, [M], for log P_m(x_n), [M, N].

        w = argmax (1/N) sum_n log sum_m w_m P_m(x_n),    w_m >= 0,    sum_m w_m = 1

    by expectation maximization, w_m <- w_m g_m with g_m = (1/N) sum_n P_m(x_n) / sum_j w_j P_j(x_n). The objective is
    concave, so no weights are better by more than max_m g_m - 1, which is where it ends: below 1e-9 nats.
    Source: Yao et al., arXiv 1704.02030, equation 4.

    >>> stacking(np.log([[0.2, 0.2, 0.2], [0.1, 0.1, 0.8]])).round(3).tolist()
    [0.556, 0.444]
    """
    largest = log_px.max(0)
    possible = np.isfinite(largest)  # data that no model can make say nothing about the weights
    relative = np.exp(log_px[:, possible] - largest[possible])
    weights = np.full(len(log_px), 1 / len(log_px))
    for _ in range(MOST if possible.any() else 0):
        gain = (relative / (weights @ relative)).mean(1)
        if gain.max() - 1 <= GAIN:
            break
        weights = weights * gain
    return weights


def _check(evidences: Mapping[str, Any]) -> None:
    if not evidences:
        raise InputError("Expected at least one model to compare; got none.")
    for name, other in evidences.items():
        if not isinstance(other, Evidence):
            raise InputError(
                f"Expected evidence for {name!r}; got {type(other).__name__}. Make it with estimate_evidence, or give "
                f"runs as a list."
            )
    first_name, first = next(iter(evidences.items()))
    for name, other in evidences.items():
        if other.fingerprint != first.fingerprint:
            raise InputError(
                f"Expected estimates on the same data; got {first_name!r} on {len(first)} data and {name!r} on "
                f"{len(other)} others. Evaluate both on one data set and split."
            )
        if (other.quantity, other.event_size) != (first.quantity, first.event_size):
            raise InputError(
                f"Expected estimates of one quantity; got {first.quantity} of {first.event_size:g} numbers for "
                f"{first_name!r} and {other.quantity} of {other.event_size:g} for {name!r}. Compare models of one task."
            )
    check_comparable(evidences)


def _of_levels(evidence: Evidence) -> Evidence:
    """Return an estimate in nats of levels: log P(x) - D log L of dequantized ones."""
    more = of_levels(evidence)
    return replace(evidence, log_px=evidence.log_px + more, elbo=evidence.elbo + more)


def _table(ranked: list[tuple[str, Evidence]], differences: Array, weights: Array) -> Any:
    import pandas

    rows = []
    mixed = len({evidence.scored for _, evidence in ranked}) > 1
    for rank, (name, evidence) in enumerate(ranked):
        means = evidence.means()
        difference = Mean.of(differences[rank], evidence.mcse)
        rows.append(
            {
                "model": name,
                "rank": rank,
                "log_px": means["log_px"].value,
                "log_px_diff": difference.value,
                "weight": weights[rank],
                "se": means["log_px"].se,
                "dse": difference.se,
                "warning": bool(evidence.doubts()),
                "mcse": means["log_px"].mcse,
                "num_samples": int(evidence.diagnostics.get("draws", np.array([evidence.num_samples])).max()),
                "method": evidence.method,
                "elbo": means["elbo"].value,
                "gap": means["gap"].value,
            }
            | ({"scored": evidence.scored} if mixed else {})
        )
    return pandas.DataFrame(rows).set_index("model")


def _of_runs(runs: Iterable[Run | str | os.PathLike[str]]) -> dict[str, Evidence]:
    """Return the estimates kept with runs, named by their folders (in full where two have one name)."""
    given = list(runs)
    if any(isinstance(one, Evidence) for one in given):
        raise InputError("Expected evidence with the names of its models; got a list. Pass {'vae': e1, 'mixture': e2}.")
    opened = [run if isinstance(run, Run) else load(run) for run in given]
    names = [run.path.resolve().name for run in opened]
    evidences = {}
    for run, name in zip(opened, names, strict=True):
        if run.evidence is None:
            raise InputError(f"Expected an estimate in {run.path}; got none. Make one: ppl-vae evaluate {run.path}")
        evidences[name if names.count(name) == 1 else str(Path(run.path))] = run.evidence
    return evidences
