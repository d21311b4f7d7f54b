"""Which estimates of log P(x) are not to be trusted, and why: by the rules of the method that made them."""

from collections import Counter
from typing import NamedTuple

import numpy as np

from ppl_vae.evidence.annealing_diagnostics import AnnealingDiagnostics, SandwichDiagnostics
from ppl_vae.evidence.importance_diagnostics import ExactDiagnostics, ImportanceDiagnostics
from ppl_vae.evidence.numbers import Numbers
from ppl_vae.evidence.rules import Diagnostics
from ppl_vae.utils.report import counted

DIAGNOSTICS: dict[str, type[Diagnostics]] = {
    "importance": ImportanceDiagnostics,
    "ais": AnnealingDiagnostics,
    "sandwich": SandwichDiagnostics,
}
FEW, SMALL = 0.25, 0.05  # the mean stands with at most so many doubtful data (a share), off by so little (nats)


class Doubt(NamedTuple):
    """A datum whose log P(x) is not to be trusted, and the reason in words."""

    datum: int
    reason: str


def diagnostics_of(numbers: Numbers) -> Diagnostics:
    """Return what the method that made an estimate says of it."""
    return ExactDiagnostics(numbers) if numbers.is_exact else DIAGNOSTICS[numbers.method](numbers)


def doubts(numbers: Numbers) -> list[Doubt]:
    """Return the data whose estimate is not to be trusted, each with every reason there is."""
    rules = list(diagnostics_of(numbers).rules())
    reasons = ([rule.words[datum] for rule in rules if rule.breaks[datum]] for datum in range(len(numbers)))
    return [Doubt(datum, "; ".join(found)) for datum, found in enumerate(reasons) if found]


def verdict(numbers: Numbers) -> str:
    """Return one line: whether the whole, the mean of log P(x), can be believed."""
    diagnostics = diagnostics_of(numbers)
    if too_few := diagnostics.too_few():
        return f"Cannot be judged: {too_few}"
    if refuted := diagnostics.refuted():
        return f"Not to be believed: {refuted} {diagnostics.remedy()}"
    found = doubts(numbers)
    if not found:
        return diagnostics.undoubted()
    counts = Counter({rule.short: int(rule.breaks.sum()) for rule in diagnostics.rules() if rule.breaks.any()})
    why = counted(dict(counts.most_common()), len(numbers))
    off = _may_be_off(numbers, [doubt.datum for doubt in found])
    stands = len(found) <= FEW * len(numbers) and off <= SMALL
    start = f"To be believed as a mean, to about {max(off, 0.01):.2f} nats" if stands else "Not to be believed"
    return (
        f"{start}: {why}; {numbers.quantity} is more likely too low. They are listed by .doubts(). "
        f"{diagnostics.remedy()}{diagnostics.blind_spot()}"
    )


def _may_be_off(numbers: Numbers, doubtful: list[int]) -> float:
    """Return how much the doubtful data may move the mean: by their errors, biases, and what smoothing would change."""
    smoothed = numbers.diagnostics.get("log_px_psis", numbers.log_px)
    signs = np.abs(np.stack([numbers.mcse, numbers.diagnostics["bias"], smoothed - numbers.log_px]))
    worst = np.nan_to_num(signs, nan=np.inf, posinf=np.inf).max(0)
    return float(worst[doubtful].sum() / len(numbers))
