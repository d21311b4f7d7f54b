"""What is printed of an estimate of log P(x): the table, its headline, and the diagnostics below it."""

import numpy as np

from ppl_vae.evidence.numbers import Numbers
from ppl_vae.evidence.reliability import diagnostics_of
from ppl_vae.evidence.scale import DENSITY, DEQUANTIZED, PROBABILITY
from ppl_vae.utils.report import Report


def report(numbers: Numbers, verdict: str) -> Report:
    """Return the means with their errors, the diagnostics, and the verdict."""
    means, diagnostics, what = numbers.means(), diagnostics_of(numbers), numbers.quantity
    of = "P(z)" if numbers.elbo_proposal == "prior" else "Q"
    bounds = [
        ("ELBO", means["elbo"], f"nats, {what} >= ELBO"),
        ("gap", means["gap"], f"nats, KL({of} || P(z | {numbers.observed})) = {what} - ELBO"),
    ]
    rows = [
        (what, means["log_px"], "nats"),
        *([] if numbers.is_exact else bounds),
        ("bits per dim", means["bits_per_dim"], bits_in_words(numbers)),
        *diagnostics.rows(),
    ]
    lines = diagnostics.lines()
    never = int(np.isneginf(numbers.elbo).sum())
    if never:
        lines.append(f"the ELBO of {never} data is minus infinity: draws of {of} that the model rules out")
    return Report(diagnostics.headline(), rows, [*lines, verdict])


def bits_in_words(numbers: Numbers) -> str:
    """Return what the bits per dimension of an estimate are."""
    formula, levels = f"-{numbers.quantity} / ({numbers.event_size:.4g} ln 2)", numbers.num_levels
    if numbers.scored == DEQUANTIZED:
        return f"{formula} + log2 {levels}, of dequantized x: an upper bound on the bits of its {levels} levels"
    if numbers.scored == DENSITY:
        return f"{formula}, of a density{f' of {levels} levels: not comparable' if levels else ''}"
    if numbers.scored == PROBABILITY and levels:
        return f"{formula}, of the probability of {levels} levels"
    return formula
