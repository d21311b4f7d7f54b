"""What log P(x) is the logarithm of: a probability of levels, a density, or a density of dequantized levels.

A density has the unit of 1 / x, so it can be raised by a change of units, and where x was rounded, without end. If
x_i = (level_i + u_i) / L with u_i uniform in [0, 1), it bounds the probability of the levels that it implies,

    log P(levels) = log E_u[p(x) L^-D] >= E_u[log p(x)] - D log L,

which makes it comparable to a probability. Source: Theis et al., arXiv 1511.01844, section 3.1.
"""

import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from pyro.distributions import Unit

from ppl_vae.errors import InputError
from ppl_vae.sources import Source, SplitSource
from ppl_vae.structure import Site

if TYPE_CHECKING:
    from ppl_vae.evidence import Evidence

PROBABILITY, DENSITY, DEQUANTIZED, MIXED = "probability", "density", "dequantized", "mixed"


def scored_as(sites: Iterable[Site], source: Source) -> tuple[str, int]:
    """Return what the observed sites of a model are scored by, and the number of levels of x, 0 if it is not known."""
    observed = [s for s in sites if s["is_observed"] and s["mask"] is not False and not isinstance(s["fn"], Unit)]
    discrete = {bool(s["fn"].support.is_discrete) for s in observed}
    split = source.split if isinstance(source, SplitSource) else None
    num_levels = (split and split.num_levels) or 0
    if len(discrete) != 1:
        return MIXED, num_levels
    if True in discrete:
        return PROBABILITY, num_levels
    return (DEQUANTIZED if split is not None and split.dequantize else DENSITY), num_levels


def of_levels(evidence: "Evidence") -> float:
    """Return what has to be added to a log P(x), in nats, to be one of levels: -D log L if they were dequantized."""
    return -evidence.event_size * math.log(evidence.num_levels) if evidence.scored == DEQUANTIZED else 0.0


def bits_in_words(evidence: "Evidence") -> str:
    """Return what the bits per dimension of an estimate are."""
    formula, levels = f"-log P(x) / ({evidence.event_size:.4g} ln 2)", evidence.num_levels
    if evidence.scored == DEQUANTIZED:
        return f"{formula} + log2 {levels}, of dequantized x: an upper bound on the bits of its {levels} levels"
    if evidence.scored == DENSITY:
        return f"{formula}, of a density{f' of {levels} levels: not comparable' if levels else ''}"
    if evidence.scored == PROBABILITY and levels:
        return f"{formula}, of the probability of {levels} levels"
    return formula


def check_comparable(evidences: "Mapping[str, Evidence]") -> None:
    """Refuse probabilities beside densities, unless these are of dequantized levels.

    Raises:
        InputError: one is a density and another is not, or two are of another number of levels.
    """
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
            words = {one.scored: f"a {_NAMES[one.scored]} for {key!r}" for key, one in known.items()}
            raise InputError(
                f"Expected log P(x) of one kind, or of levels and of dequantized levels; got {words[first.scored]} and "
                f"{words[other.scored]}. Train that of the density on dequantized data (--set data.dequantize=uniform)."
            )
        if DEQUANTIZED in together and first.num_levels != other.num_levels:
            raise InputError(
                f"Expected x of one number of levels; got {first.num_levels} for {first_name!r} and "
                f"{other.num_levels} for {name!r}. Evaluate both on the same data."
            )


_NAMES = {
    PROBABILITY: "probability",
    DENSITY: "density",
    DEQUANTIZED: "density of dequantized levels",
    MIXED: "density of some sites and probability of others",
}
