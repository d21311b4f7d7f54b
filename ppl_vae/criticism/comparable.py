"""What may be compared: estimates of one quantity, on the same data, of one kind; all else is refused in words."""

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np

from ppl_vae.data.as_source import BY_NUMBERS
from ppl_vae.errors import InputError
from ppl_vae.evidence.evidence import Evidence
from ppl_vae.evidence.scale import COLUMNS, DENSITY, DEQUANTIZED, GIVEN, MIXED, PROBABILITY, TRANSFORMED

Groups = Mapping[str, Sequence[Evidence]]
NAMES = {
    PROBABILITY: "probability",
    DENSITY: "density",
    TRANSFORMED: "density of other numbers than the data",
    DEQUANTIZED: "density of dequantized levels",
    MIXED: "density of some sites and probability of others",
}


def as_groups(models: Mapping[str, Any]) -> dict[str, list[Evidence]]:
    """Return the runs of each model, one or several, as estimates that may be compared.

    Raises:
        InputError: no model, no evidence, one run twice, estimates of different data, quantities, or kinds.
    """
    if not models:
        raise InputError("Expected at least one model to compare; got none.")
    groups = {str(n): list(some) if isinstance(some, list | tuple) else [some] for n, some in models.items()}
    for name, runs in groups.items():
        wrong = next((type(run).__name__ for run in runs if not isinstance(run, Evidence)), "an empty list")
        if not runs or not all(isinstance(run, Evidence) for run in runs):
            raise InputError(
                f"Expected evidence for {name!r}; got {wrong}. Make it with estimate_evidence, a list of it "
                f"for several seeds, or give runs as a list."
            )
    check_same_quantity(_each(groups))
    _check_kinds(groups)
    for name, runs in groups.items():
        if any(np.array_equal(a.log_px, b.log_px) for a, b in combinations(runs, 2)):
            raise InputError(
                f"Expected runs of different seeds for {name!r}; got two with the same log P(x) of each datum. Leave "
                f"one out: twice the same run says nothing about luck in training."
            )
    return groups


def _each(groups: Groups) -> list[tuple[str, Evidence]]:
    return [(name, run) for name, runs in groups.items() for run in runs]


def check_same_quantity(each: Sequence[tuple[str, Evidence]]) -> None:
    """Refuse estimates, by name, of other data or of another quantity: log P(x | n) beside log P(x)."""
    (first_name, first), *others = each
    for name, other in others:
        if other.fingerprint != first.fingerprint:
            raise InputError(_of_other_data(first_name, first, name, other))
        if first.scored and other.scored and first.scored.endswith(GIVEN) != other.scored.endswith(GIVEN):
            raise InputError(_of_given_totals(first_name, first, name, other))
        if (other.quantity, other.event_size) != (first.quantity, first.event_size):
            raise InputError(
                f"Expected estimates of one quantity; got {first.quantity} of {first.event_size:g} numbers for "
                f"{first_name!r} and {other.quantity} of {other.event_size:g} for {name!r}. Compare models of one "
                f"task, that are given the same."
            )


def _of_other_data(first_name: str, first: Evidence, name: str, other: Evidence) -> str:
    old = [key for key, one in ((first_name, first), (name, other)) if not one.fingerprint.startswith(BY_NUMBERS)]
    if len(old) == 1 and len(first) == len(other):
        return (
            f"Expected estimates on the same data; got {old[0]!r}, kept by an older version, which cannot be held "
            f"against a newer one. Evaluate it again."
        )
    how = f"{len(other)} others" if len(first) == len(other) else f"{len(other)}"
    return (
        f"Expected estimates on the same data; got {first_name!r} on {len(first)} data and {name!r} on {how}. "
        f"Evaluate both on one data set and split, in the same order."
    )


def _of_given_totals(first_name: str, first: Evidence, name: str, other: Evidence) -> str:
    """Say of an estimate of log P(x | n) beside one of log P(x) that the former pays for less."""
    (given, part), (whole, all_of_it) = sorted(
        ((first_name, first), (name, other)), key=lambda pair: not pair[1].scored.endswith(GIVEN)
    )
    return (
        f"Expected log P(x) of one kind; got {part.quantity} for {given!r}, given the total n of each datum, and "
        f"{all_of_it.quantity} for {whole!r}, which pays for n, too. Compare models that are all given n, or, where "
        f"log P(n) of each datum is known, add it: dataclasses.replace(e, log_px=e.log_px + log_pn, elbo=e.elbo + "
        f"log_pn, quantity={all_of_it.quantity!r}, scored={part.scored.removesuffix(GIVEN)!r})."
    )


def _check_kinds(groups: Groups) -> None:
    """Refuse probabilities beside densities, unless these are of as many dequantized levels, and given totals."""
    kinds = {run.scored for _, run in _each(groups)}
    if DEQUANTIZED in kinds and len(kinds) > 1:
        old = next((name for name, run in _each(groups) if not run.scored), None)
        if old is not None:
            raise InputError(
                f"Expected estimates that say what they are of, beside one of dequantized levels; got {old!r}, kept by "
                f"an older version. Evaluate it again."
            )
        if any(run.event_size % 1 for _, run in _each(groups)):
            raise InputError(
                "Expected complete data to compare probabilities with densities of dequantized levels; got some with "
                "missing values, so many for each datum. Compare on complete data."
            )
    known = [(name, run) for name, run in _each(groups) if run.scored]
    for name, other in known:
        _check_pair(*known[0], name, other)


def _check_pair(first_name: str, first: Evidence, name: str, other: Evidence) -> None:
    together = {first.scored, other.scored}
    if together == {DENSITY, TRANSFORMED}:
        whose = name if other.scored == TRANSFORMED else first_name
        raise InputError(
            f"Expected densities of one x; got that of the data, and for {whose!r} one of numbers that its program "
            f"makes of them (as by x / 255): log P(x) is higher by log |dx/dy| of each for it. Transform the data, not "
            f"x in a program, and give both models the same."
        )
    if together not in ({first.scored}, {PROBABILITY, DEQUANTIZED}):
        words = [
            f"a {NAMES.get(kind := one.scored.removesuffix(GIVEN), kind)} for {key!r}"
            for key, one in ((first_name, first), (name, other))
        ]
        if any(kind.startswith(COLUMNS) for kind in together):
            raise InputError(
                f"Expected log P(x) of one kind; got {words[0]} and {words[1]}. Let both models have densities of the "
                f"same columns, and probabilities of the others."
            )
        raise InputError(
            f"Expected log P(x) of one kind, or of levels and of dequantized levels; got {words[0]} and "
            f"{words[1]}. Train that of the density on dequantized data (data.load(..., dequantize='uniform')).",
            options="--set data.dequantize=uniform",
        )
    if DEQUANTIZED in together and first.num_levels != other.num_levels:
        raise InputError(
            f"Expected x of one number of levels; got {first.num_levels} for {first_name!r} and "
            f"{other.num_levels} for {name!r}. Evaluate both on the same data."
        )
