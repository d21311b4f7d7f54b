"""What each method says of its estimates: the words they are printed in, and the rules by which they are doubted."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ppl_vae.evidence.diagnostics import LOW_ESS, MIN_SAMPLES, ROUNDING, doubtful_weights, khat_threshold, within
from ppl_vae.evidence.numbers import Numbers
from ppl_vae.utils.report import Array, Row, number, spread

FEW_CHAINS = 8  # fewer say too little of their own spread
LOW_CHAINS = 0.2  # effective ones, as a share of all: below it the weights rest on one or two of them
LOW_ACCEPTANCE = 0.2  # of HMC's proposals: below it the chains hardly moved
OPEN = 0.1  # nats that the bounds of a sandwich may be apart


class Rule(NamedTuple):
    """A reason to doubt some of the data."""

    short: str  # it in a few words, for the count of the data it holds for
    breaks: NDArray[np.bool_]  # which data are doubted, [N]
    text: str  # the reason of a datum, with places for its numbers
    numbers: tuple[Array, ...]  # [N] each

    def words(self, datum: int) -> str:
        """Return the reason of a datum."""
        return self.text.format(*(values[datum] for values in self.numbers))


@dataclass(frozen=True)
class Diagnostics:
    """What is said of an estimate; each method has a function that makes it of the numbers."""

    headline: str  # what was estimated, of how many data, and how
    lines: list[str]  # what is printed below the table
    rules: list[Rule]  # the reasons to doubt a datum
    remedy: str  # what to do about doubtful data
    blind_spot: str  # what could be wrong without a sign of it, and who can tell
    too_few: str = ""  # why so few samples do not show their own error; empty if they do
    refuted: str = ""  # what speaks against the whole, whatever the single data look like
    rows: list[Row] = field(default_factory=list)  # of the table, which other methods do not have


def of_importance(numbers: Numbers) -> Diagnostics:
    """Return those of importance sampling: k-hat, effective sample sizes, the bias of a finite K."""
    what, samples, ess = numbers.quantity, numbers.num_samples, numbers.ess
    draws, bias, khat = (numbers.diagnostics[name] for name in ("draws", "bias", "khat"))
    limit = khat_threshold(draws)
    heavy, few = doubtful_weights(ess, khat, draws)
    narrow = "k-hat {:.3f} is above {:.3f}: the proposal is narrower than the posterior, or lies elsewhere"
    size = "the effective sample size is {:.1f} of {:.0f}"
    rules = [
        _not_finite(numbers),
        Rule("k-hat above its limit", heavy, narrow, (khat, limit)),
        Rule(f"effective sample size below {LOW_ESS:.0f}", few, size, (ess, draws)),
    ]
    if (tolerance := numbers.settings.get("tolerance")) is not None:
        text = f"the tolerance {tolerance:g} was not reached: " + "MCSE {:.3f}, bias {:.3f} after {:.0f} draws"
        missed = ~within(numbers.mcse, bias, tolerance)
        rules.append(Rule("a tolerance that was not reached", missed, text, (numbers.mcse, bias, draws)))
    lines = [f"effective sample size: median {np.median(ess):.1f}, smallest {ess.min():.1f}, of {draws.max():.0f}"]
    too_few = ""
    if samples >= MIN_SAMPLES:
        lines.append(
            f"Pareto k-hat: median {np.median(khat):.2f}, largest {khat.max():.2f}, {int((khat > limit).sum())} of "
            f"{len(numbers)} above {np.min(limit):.2f}; {what} with tails smoothed {numbers.log_px_psis.mean():.3f}; "
            f"bias of a finite K about {_bias(numbers)} nats"
        )
    elif samples > 1:
        too_few = f"k-hat needs {MIN_SAMPLES} samples or more for each datum. Raise num_samples."
    else:
        too_few = f"with one sample for each datum {what} is the ELBO. Raise num_samples."
    most = f"{samples} to {draws.max():.0f}" if draws.max() > samples else f"{samples}"
    headline = f"{what} of {len(numbers)} data by importance sampling, K = {most} samples from {_source(numbers)}"
    return Diagnostics(headline, lines, rules, _more_samples(numbers), _blind_spot(numbers), too_few)


def of_exact(numbers: Numbers) -> Diagnostics:
    """Return those where no latent site is sampled, so that all weights of a datum are the same."""
    headline = f"{numbers.quantity} of {len(numbers)} data, exactly: no latent site is sampled"
    return Diagnostics(headline, [], [_not_finite(numbers)], _more_samples(numbers), _blind_spot(numbers))


def of_annealing(numbers: Numbers) -> Diagnostics:
    """Return those of annealed importance sampling: how the chains moved, and what importance sampling finds."""
    what, found, settings = numbers.quantity, numbers.diagnostics, numbers.settings
    acceptance, plain = found["acceptance"], found["log_px_importance"]
    chains = np.full(len(numbers), float(numbers.num_samples))
    differ = numbers.ess < LOW_CHAINS * chains - ROUNDING
    with np.errstate(invalid="ignore"):  # both are minus infinity where the model cannot make a datum
        above = plain - numbers.log_px
    more = above > 4 * np.hypot(numbers.mcse, found["mcse_importance"]) + ROUNDING
    outweighs = "one chain of {1:.0f} outweighs the others: they count as {0:.1f}"
    higher = "importance sampling finds {:.2f} nats more, and both are lower bounds"
    rules = [
        _not_finite(numbers),
        Rule("chains whose weights differ", differ, outweighs, (numbers.ess, chains)),
        Rule("a low accepted rate", acceptance < LOW_ACCEPTANCE, "HMC accepted {:.0%} of its moves", (acceptance,)),
        Rule("more by importance sampling", more, higher, (above,)),
    ]
    lines = [
        f"HMC: accepted rate {spread(acceptance)}; chains: standard deviation of log w {spread(found['chain_spread'])}",
        f"bias of so few chains about {_bias(numbers)} nats; importance sampling with K = "
        f"{settings['num_samples']:.0f} gave {what} {plain.mean():.3f}",
    ]
    headline = (
        f"{what} of {len(numbers)} data by annealed importance sampling, {numbers.num_samples} chains over "
        f"{settings['num_temperatures']:.0f} temperatures from {_source(numbers)}"
    )
    start = "" if numbers.proposal == "prior" else ", or start at proposal='prior'"
    remedy = f"Raise num_temperatures or num_chains{start}."
    few = f"fewer than {FEW_CHAINS} chains say too little of their own error. Raise num_chains."
    too_few = few if numbers.num_samples < FEW_CHAINS else ""
    return Diagnostics(headline, lines, rules, remedy, _blind_spot(numbers), too_few)


def of_sandwich(numbers: Numbers) -> Diagnostics:
    """Return those of annealing with bounds from both sides, on simulated data, which visit all of the posterior."""
    annealing, sandwich = of_annealing(numbers), numbers.sandwich
    assert sandwich is not None
    bounds, (low, high) = sandwich.means(), sandwich.interval()
    width = bounds["width"]
    rows = [
        ("simulated: lower", bounds["lower"], "nats, forward annealing of data drawn from the model"),
        ("simulated: upper", bounds["upper"], "nats, reverse annealing from the z that made them"),
    ]
    line = (
        f"sandwich: {numbers.quantity} of {len(sandwich.lower)} simulated data is in [{low:.3f}, {high:.3f}]; where "
        f"the model fits, the estimate on real data is too low by about {max(width.value, 0.0):.3f} nats at most (MCSE "
        f"{number(width.mcse)})"
    )
    apart = abs(width.value) - 2 * width.mcse
    why = "so the chains miss a part of the posterior, or T is too small"
    refuted = "" if apart <= OPEN else f"the sandwich is open by {apart:.2f} nats, {why}."
    return replace(annealing, lines=[*annealing.lines, line], rows=rows, refuted=refuted, blind_spot="")


DIAGNOSTICS: dict[str, Callable[[Numbers], Diagnostics]] = {
    "importance": of_importance,
    "ais": of_annealing,
    "sandwich": of_sandwich,
}


def _not_finite(numbers: Numbers) -> Rule:
    what, log_px = numbers.quantity, numbers.log_px
    return Rule(f"no finite {what}", ~np.isfinite(log_px), what + " is {:.0f}", (log_px,))


def _more_samples(numbers: Numbers) -> str:
    refined = "" if numbers.proposal == "refined" else ", use proposal='refined'"
    return f"Raise num_samples{refined}, or method='ais'."


def _blind_spot(numbers: Numbers) -> str:
    other = "method='sandwich'" if numbers.proposal == "prior" else "method='ais' with proposal='prior'"
    return f" What the proposal never visits would not show: {other} can tell."


def _source(numbers: Numbers) -> str:
    given = f"Q(z | {numbers.observed})"
    sources = {"guide": f"the guide {given}", "prior": "the prior P(z)", "refined": f"the refined guide {given}"}
    return sources[numbers.proposal]


def _bias(numbers: Numbers) -> str:
    return number(float(numbers.diagnostics["bias"].mean()))
