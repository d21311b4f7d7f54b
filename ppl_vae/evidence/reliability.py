"""Which estimates of log P(x) are not to be trusted, and why: rules on the diagnostics of each datum."""

from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ppl_vae.evidence.diagnostics import MIN_SAMPLES, khat_threshold
from ppl_vae.utils.report import counted

if TYPE_CHECKING:
    from ppl_vae.evidence.evidence import Evidence
    from ppl_vae.evidence.numbers import Sandwich


LOW_ESS = 10.0  # below it the weights of a datum rest on a handful of samples
LOW_CHAINS = 0.2  # of the chains of annealed importance sampling: the same for them
FEW_CHAINS = 8  # fewer say too little of their own spread
OPEN = 0.1  # nats that the bounds of a sandwich may be apart
LOW_ACCEPTANCE = 0.2  # of HMC's proposals: below it the chains hardly moved
FEW, SMALL = 0.25, 0.05  # the mean stands with at most so many doubtful data (a share), off by so little (nats)
ROUNDING = 1e-3


class Doubt(NamedTuple):
    """A datum whose log P(x) is not to be trusted, and the reason in words."""

    datum: int
    reason: str


class _Rule(NamedTuple):
    short: str  # for the count of data it holds for
    breaks: NDArray[np.bool_]
    words: list[str]  # one for each datum


def doubts(evidence: "Evidence") -> list[Doubt]:
    """Return the data whose estimate is not to be trusted, each with every reason there is."""
    rules = list(_rules(evidence))
    found = []
    for datum in range(len(evidence)):
        reasons = [rule.words[datum] for rule in rules if rule.breaks[datum]]
        if reasons:
            found.append(Doubt(datum, "; ".join(reasons)))
    return found


def verdict(evidence: "Evidence") -> str:
    """Return one line: whether the whole, the mean of log P(x), can be believed."""
    if too_few := _too_few(evidence):
        return f"Cannot be judged: {too_few}"
    width = 0.0 if evidence.sandwich is None else _width(evidence.sandwich)
    if not width <= OPEN:
        return (
            f"Not to be believed: the sandwich is open by {width:.2f} nats, so the chains miss a part of the "
            f"posterior, or T is too small. {_remedy(evidence)}"
        )
    found = doubts(evidence)
    if evidence.is_exact and not found:
        return "Exact: nothing is estimated."
    blind = _blind_spot(evidence)
    if not found:
        return f"To be believed: nothing speaks against any of the {len(evidence)} data.{blind}"
    counts = Counter({rule.short: int(rule.breaks.sum()) for rule in _rules(evidence) if rule.breaks.any()})
    why = counted(dict(counts.most_common()), len(evidence))
    off = _may_be_off(evidence, [doubt.datum for doubt in found])
    stands = len(found) <= FEW * len(evidence) and off <= SMALL
    start = f"To be believed as a mean, to about {max(off, 0.01):.2f} nats" if stands else "Not to be believed"
    return f"{start}: {why}; log P(x) is more likely too low. They are listed by .doubts(). {_remedy(evidence)}{blind}"


def _too_few(evidence: "Evidence") -> str:
    """Say why so few samples do not show their own error; nothing if they do."""
    if evidence.method != "importance":
        few = f"fewer than {FEW_CHAINS} chains say too little of their own error. Raise num_chains."
        return few if evidence.num_samples < FEW_CHAINS else ""
    if evidence.is_exact or evidence.num_samples >= MIN_SAMPLES:
        return ""
    if evidence.num_samples < 2:
        return "with one sample for each datum log P(x) is the ELBO. Raise num_samples."
    return f"k-hat needs {MIN_SAMPLES} samples or more for each datum. Raise num_samples."


def _width(sandwich: "Sandwich") -> float:
    """Return how far the bounds on simulated data are apart, less what is noise."""
    width = sandwich.means()["width"]
    return abs(width.value) - 2 * width.mcse


def _may_be_off(evidence: "Evidence", doubtful: list[int]) -> float:
    """Return how much the doubtful data may move the mean: by their errors, biases, and what smoothing would change."""
    diagnostics = evidence.diagnostics
    smoothed = diagnostics.get("log_px_psis", evidence.log_px)
    signs = np.abs(np.stack([evidence.mcse, diagnostics["bias"], smoothed - evidence.log_px]))
    worst = np.nan_to_num(signs, nan=np.inf, posinf=np.inf).max(0)
    return float(worst[doubtful].sum() / len(evidence))


def _rules(evidence: "Evidence") -> Iterator[_Rule]:
    values, diagnostics = evidence, evidence.diagnostics
    yield _Rule("no finite log P(x)", ~np.isfinite(values.log_px), _each("log P(x) is {:.0f}", values.log_px))
    if evidence.is_exact:
        return
    if evidence.method == "importance":
        draws, khat = diagnostics["draws"], diagnostics["khat"]
        limit = khat_threshold(draws)
        text = "k-hat {:.3f} is above {:.3f}: the proposal is narrower than the posterior, or lies elsewhere"
        yield _Rule("k-hat above its limit", khat > limit, _each(text, khat, limit))
        least = np.full(len(values), LOW_ESS)
        yield _Rule(
            f"effective sample size below {LOW_ESS:.0f}",
            values.ess < least - ROUNDING,
            _each("the effective sample size is {:.1f} of {:.0f}", values.ess, draws),
        )
    else:
        chains = np.full(len(values), float(evidence.num_samples))
        yield _Rule(
            "chains whose weights differ",
            values.ess < LOW_CHAINS * chains - ROUNDING,
            _each("one chain of {1:.0f} outweighs the others: they count as {0:.1f}", values.ess, chains),
        )
        accepted = diagnostics["acceptance"]
        text = "HMC accepted {:.0%} of its moves"
        yield _Rule("a low accepted rate", accepted < LOW_ACCEPTANCE, _each(text, accepted))
        above = diagnostics["log_px_importance"] - values.log_px
        error = np.hypot(values.mcse, diagnostics["mcse_importance"])
        text = "importance sampling finds {:.2f} nats more, and both are lower bounds"
        yield _Rule("more by importance sampling", above > 4 * error + ROUNDING, _each(text, above))
    tolerance = evidence.settings.get("tolerance")
    if tolerance is not None:
        reached, bias = values.mcse, diagnostics["bias"]
        text = "the tolerance {:g} was not reached: MCSE {:.3f}, bias {:.3f} after {:.0f} draws"
        given = np.full(len(values), float(tolerance))
        words = _each(text, given, reached, bias, diagnostics["draws"])
        yield _Rule("a tolerance that was not reached", ~within(reached, bias, float(tolerance)), words)


def within(mcse: NDArray[np.float64], bias: NDArray[np.float64], tolerance: float) -> NDArray[np.bool_]:
    """Return for each datum whether its error and its bias are inside the tolerance, [N]."""
    with np.errstate(invalid="ignore"):
        return (mcse <= tolerance) & (np.abs(bias) <= tolerance)


def _each(text: str, *columns: NDArray[np.float64]) -> list[str]:
    return [text.format(*values) for values in zip(*columns, strict=True)]


def _blind_spot(evidence: "Evidence") -> str:
    if evidence.sandwich is not None:
        return ""
    other = "method='sandwich'" if evidence.proposal == "prior" else "method='ais' with proposal='prior'"
    return f" What the proposal never visits would not show: {other} can tell."


def _remedy(evidence: "Evidence") -> str:
    if evidence.method == "importance":
        refined = "" if evidence.proposal == "refined" else ", use proposal='refined'"
        return f"Raise num_samples{refined}, or method='ais'."
    start = "" if evidence.proposal == "prior" else ", or start at proposal='prior'"
    return f"Raise num_temperatures or num_chains{start}."
