"""Models compared by log P(x) on the same data, datum by datum."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from ppl_vae.data.as_source import BY_NUMBERS
from ppl_vae.errors import InputError
from ppl_vae.evidence.evidence import Evidence
from ppl_vae.evidence.scale import DENSITY, DEQUANTIZED, MIXED, PROBABILITY
from ppl_vae.utils.report import Array, Mean

NAMES = {
    PROBABILITY: "probability",
    DENSITY: "density",
    DEQUANTIZED: "density of dequantized levels",
    MIXED: "density of some sites and probability of others",
}
GAIN = 1e-9  # nats per datum that better weights could add where their search ends
MOST = 20_000  # its steps: some 1 s for 10,000 data; models that differ this little have no weights worth more


def compare_evidence(evidences: Mapping[str, Evidence]) -> Any:
    """Compare models by their estimates on the same data; the table of `ppl_vae.compare`.

    Raises:
        InputError: nothing to compare, no evidence, estimates on different data, or densities beside probabilities.
    """
    _check(evidences)
    if len({evidence.scored for evidence in evidences.values()}) > 1:
        evidences = {  # in nats of levels: log P(x) - D log L of dequantized ones
            name: replace(e, log_px=e.log_px + e.to_levels, elbo=e.elbo + e.to_levels) for name, e in evidences.items()
        }
    ranked = sorted(evidences.items(), key=lambda item: -item[1].log_px.mean())
    log_px = np.stack([evidence.log_px for _, evidence in ranked])
    with np.errstate(invalid="ignore"):  # where both are minus infinity
        differences = log_px[0] - log_px
    return _table(ranked, differences, stacking(log_px))


def stacking(log_px: Array) -> Array:
    """Return the weights of the mixture of models under which data are most probable, [M], for log P_m(x_n), [M, N].

        w = argmax (1/N) sum_n log sum_m w_m P_m(x_n),    w_m >= 0,    sum_m w_m = 1

    by expectation maximization, w_m <- w_m g_m with g_m = (1/N) sum_n P_m(x_n) / sum_j w_j P_j(x_n). The objective is
    concave, so no weights are better by more than max_m g_m - 1: it ends where that is below 1e-9 nats.
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
        if other.fingerprint.startswith(BY_NUMBERS) != first.fingerprint.startswith(BY_NUMBERS):
            old = name if first.fingerprint.startswith(BY_NUMBERS) else first_name
            raise InputError(
                f"Expected estimates that say alike what data they are of; got {old!r}, kept by an older version. "
                f"Evaluate it again."
            )
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
    _check_kinds(evidences)


def _check_kinds(evidences: Mapping[str, Evidence]) -> None:
    """Refuse probabilities beside densities, unless these are of as many dequantized levels."""
    kinds = {evidence.scored for evidence in evidences.values()}
    if DEQUANTIZED in kinds and len(kinds) > 1:
        old = next((name for name, evidence in evidences.items() if not evidence.scored), None)
        if old is not None:
            raise InputError(
                f"Expected estimates that say what they are of, beside one of dequantized levels; got {old!r}, kept by "
                f"an older version. Evaluate it again."
            )
        if any(evidence.event_size % 1 for evidence in evidences.values()):
            raise InputError(
                "Expected complete data to compare probabilities with densities of dequantized levels; got some with "
                "missing values, so many for each datum. Compare on complete data."
            )
    known: dict[str, Any] = {name: e for name, e in evidences.items() if e.scored}
    for name, other in known.items():
        first_name, first = next(iter(known.items()))
        together = {first.scored, other.scored}
        if together not in ({first.scored}, {PROBABILITY, DEQUANTIZED}):
            words = {one.scored: f"a {NAMES[one.scored]} for {key!r}" for key, one in known.items()}
            raise InputError(
                f"Expected log P(x) of one kind, or of levels and of dequantized levels; got {words[first.scored]} and "
                f"{words[other.scored]}. Train that of the density on dequantized data (--set data.dequantize=uniform)."
            )
        if DEQUANTIZED in together and first.num_levels != other.num_levels:
            raise InputError(
                f"Expected x of one number of levels; got {first.num_levels} for {first_name!r} and "
                f"{other.num_levels} for {name!r}. Evaluate both on the same data."
            )


def _table(ranked: list[tuple[str, Evidence]], differences: Array, weights: Array) -> Any:
    import pandas

    rows = []
    for rank, (name, evidence) in enumerate(ranked):
        means, difference = evidence.means(), Mean.of(differences[rank], evidence.mcse)
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
                "scored": evidence.scored,
            }
        )
    table = pandas.DataFrame(rows).set_index("model")
    return table if table.scored.nunique() > 1 else table.drop(columns="scored")
