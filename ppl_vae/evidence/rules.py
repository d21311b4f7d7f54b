"""What each method says of its estimates: the words they are printed in, and the rules by which they are doubted."""

import math
from collections import Counter
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
APART = 1.0  # nats, the standard deviation of filters: above it few of them say little of their own mean
LOW_ACCEPTANCE = 0.2  # of HMC's proposals: below it the chains hardly moved
OPEN = 0.1  # nats that the bounds of a sandwich may be apart
SURELY = 5.0  # errors
MISSED, LOST = 2, 0.1  # of some 40 simulated data, missed in part, and nats of the mean: one by little may be chance
AT_EDGE = 0.02  # of P(x), which as many nats may be off by
COARSE = 64  # numbers in a standard deviation; fewer, and sums over them are no integrals
ANSWERS = ("guide", "laplace", "annealing")  # what answered a datum, in the order in which they are tried
ANSWERED_BY = ("samples of a mixture fitted to it", "annealing from that mixture")  # but for the first
SAME = 1e-12  # log-weights that differ by less, relatively, are one number


class Rule(NamedTuple):
    """A reason to doubt some of the data."""

    short: str  # it in a few words, for the count of the data it holds for
    breaks: NDArray[np.bool_]  # which data are doubted, [N]
    text: str  # the reason of a datum, with places for its numbers
    numbers: tuple[Array, ...]  # [N] each
    off: Array | float = 0.0  # nats by which the estimate is off, where the rule knows that, [N]

    def words(self, datum: int) -> str:
        """Return the reason of a datum."""
        return self.text.format(*(values[datum] for values in self.numbers))


class Bias(NamedTuple):
    """About how far a mean is off for lack of samples, in nats: below 0, it is too low."""

    of_finite_k: float = 0.0
    of_going_on: float = 0.0  # of data that went on when an answer was in doubt, or not close enough, beside that

    @property
    def total(self) -> float:
        """Both together."""
        return self.of_finite_k + self.of_going_on


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
    bias: Bias = field(default_factory=Bias)
    unseen: float = 0.0  # nats, by which modes that were not found may make the mean higher
    rows: list[Row] = field(default_factory=list)  # of the table, which other methods do not have
    two_sided: bool = False  # whether doubtful data may be too high as well as too low


def of_importance(numbers: Numbers) -> Diagnostics:
    """Return those of importance sampling: k-hat, effective sample sizes, the bias of a finite K."""
    what, samples, ess = numbers.quantity, numbers.num_samples, numbers.ess
    draws, bias, khat = (numbers.diagnostics[name] for name in ("draws", "bias", "khat"))
    limit = khat_threshold(draws)
    heavy, few = doubtful_weights(ess, khat, draws)
    narrow = "k-hat {:.3f} is above {:.3f}: the proposal is narrower than the posterior, or lies elsewhere"
    alone = "one draw of {:.0f} has all the weight: the proposal is narrower than the posterior, or lies elsewhere"
    size = "the effective sample size is {:.1f} of {:.0f}"
    rules = [
        *_not_finite(numbers),
        Rule("k-hat above its limit", heavy & np.isfinite(khat), narrow, (khat, limit)),
        Rule("one draw that has all the weight", np.isposinf(khat), alone, (draws,)),
        Rule(f"effective sample size below {LOW_ESS:.0f}", few, size, (ess, draws)),
    ]
    if (tolerance := numbers.settings.get("tolerance")) is not None:
        text = f"the tolerance {tolerance:g} was not reached: " + "MCSE {:.3f}, bias {:.3f} after {:.0f} draws"
        missed = ~within(numbers.mcse, bias, tolerance)
        rules.append(Rule("a tolerance that was not reached", missed, text, (numbers.mcse, bias, draws)))
    lines = [_sizes(ess, draws), *_curvature(numbers)]
    if samples >= MIN_SAMPLES:
        smoothed = _mean_in_words(numbers.log_px_psis, "")
        lines.append(f"Pareto k-hat: {_tails(khat, limit)}; {what} with tails smoothed {smoothed}; {_biases(numbers)}")
    most = f"{samples} to {draws.max():.0f}" if draws.max() > samples else f"{samples}"
    headline = f"{what} of {len(numbers)} data by importance sampling, K = {most} samples from {_source(numbers)}"
    return Diagnostics(
        headline,
        lines,
        rules,
        _more_samples(numbers),
        _blind_spot(numbers),
        _too_few(numbers),
        bias=_mean_bias(numbers),
    )


def _too_few(numbers: Numbers) -> str:
    """Return why samples say nothing of their own error: there are few of them, or they are all the same."""
    samples, what = numbers.num_samples, numbers.quantity
    if samples == 1:
        return f"with one sample for each datum {what} is the ELBO. Raise num_samples."
    if samples < MIN_SAMPLES:
        return f"k-hat needs {MIN_SAMPLES} samples or more for each datum. Raise num_samples."
    same = numbers.elbo_mcse <= SAME * np.abs(numbers.elbo)
    if numbers.proposal != "prior" and bool(same.all()):  # of a posterior that is exact they differ by rounding
        return (
            "all weights of a datum are one number, as where the guide draws one z again and again, and do not show "
            "what it misses. Draw z from a distribution with some width, or let discrete sites be summed out "
            "(infer={'enumerate': 'parallel'})."
        )
    return ""


def of_exact(numbers: Numbers) -> Diagnostics:
    """Return those where no latent site is sampled, so that all weights of a datum are the same."""
    headline = f"{numbers.quantity} of {len(numbers)} data, exactly: no latent site is sampled"
    return Diagnostics(headline, [], _not_finite(numbers), _more_samples(numbers), _blind_spot(numbers))


def of_auto(numbers: Numbers) -> Diagnostics:
    """Return those of the method that does for each datum what it needs: the rules of what answered it."""
    what, found = numbers.quantity, numbers.diagnostics
    annealed = found["answered"] == ANSWERS.index("annealing")
    started = np.isnan(found["mcse_first"]) & np.isfinite(numbers.log_px)
    rules = [*_not_finite(numbers), *_of_answers(numbers, annealed, started)]
    if (tolerance := numbers.settings.get("tolerance")) is not None:
        missed = ~within(numbers.mcse, found["bias"], tolerance)
        text = f"the tolerance {tolerance:g} was not reached: " + "MCSE {:.3f}, bias {:.3f}"
        rules.append(Rule("a tolerance that was not reached", missed, text, (numbers.mcse, found["bias"])))
    rose, unseen, speaks = _second_look(numbers)
    lines = [_answers(numbers, annealed), *_curvature(numbers), *rose, f"{_biases(numbers, what_went_on='in doubt')}"]
    headline = f"{what} of {len(numbers)} data, K = {numbers.num_samples} samples, each by what it needs"
    remedy = "Give tolerance, or a larger budget where you gave one, or use method='ais' with proposal='prior'."
    blind, refuted = ("", "") if started.any() else _reached(numbers)
    return Diagnostics(
        headline,
        lines,
        rules,
        remedy,
        blind,
        refuted=" ".join(filter(None, (refuted, speaks))),
        bias=_mean_bias(numbers),
        unseen=unseen,
    )


def _of_answers(numbers: Numbers, annealed: NDArray[np.bool_], started: NDArray[np.bool_]) -> list[Rule]:
    """Return the rules of what answered each datum; those that were only started are in doubt for that alone."""
    ess, found = numbers.ess, numbers.diagnostics
    draws, khat = found["draws"], found["khat"]
    heavy, few = (rule & ~annealed for rule in doubtful_weights(ess, khat, draws))
    chains = low_chains(ess, draws) & annealed
    low = annealed & (found["acceptance"] < LOW_ACCEPTANCE)
    with np.errstate(invalid="ignore"):
        above = found["log_px_importance"] - numbers.log_px
        more = annealed & (above > 4 * np.hypot(numbers.mcse, found["mcse_importance"]) + ROUNDING)
    usual = {"unfinished": np.zeros_like(ess), "climbed": np.ones_like(ess)}  # of a file that is older
    unfinished, climbed = (found.get(name, values) > 0 for name, values in usual.items())
    better = unfinished & (found["answered"] == ANSWERS.index("laplace")) & ~(heavy | few | started)
    narrow = "the posterior has room for {:.0f} numbers of this precision in a standard deviation"
    not_climbed = "no mode of it is known: the program fails where they are looked for, or numbers are too coarse"
    ended = "only {:.0f} samples say what it is: the budget ended, no mode is known, or the program fails there"
    could = "{:.0f} of {:.0f} samples count, and more was to come: the budget ended, or the program failed"
    return [
        Rule("k-hat above its limit", heavy, "k-hat {:.3f} is above {:.3f}", (khat, khat_threshold(draws))),
        Rule(f"effective sample size below {LOW_ESS:.0f}", few, "it is {:.1f} of {:.0f}", (ess, draws)),
        Rule("chains whose weights differ", chains, "{1:.0f} chains count as {0:.1f}", (ess, draws)),
        Rule("a low accepted rate", low, "HMC accepted {:.0%} of its moves", (found["acceptance"],)),
        Rule("more by importance sampling", more, "importance sampling finds {:.2f} nats more", (above,), above),
        Rule("no more than a start", started, ended, (draws,)),
        Rule("a mixture that was to be better", better, could, (ess, draws)),
        Rule("modes that are not known", ~climbed, not_climbed, (), np.inf),
        Rule("a posterior narrower than numbers can say", found["resolution"] < COARSE, narrow,
             (found["resolution"],), np.inf),
    ]  # fmt: skip


def _answers(numbers: Numbers, annealed: NDArray[np.bool_]) -> str:
    """Say what answered how many data, and what the weights of these are like."""
    ess, answered = numbers.ess, numbers.diagnostics["answered"]
    draws, khat = (numbers.diagnostics[name] for name in ("draws", "khat"))
    plain = "the prior P(z)" if numbers.elbo_proposal == "prior" else f"the guide Q(z | {numbers.observed})"
    words_of = (f"samples from {plain}", *ANSWERED_BY)
    counts = [(int((answered == code).sum()), words) for code, words in enumerate(words_of)]
    answers = "answered: " + ", ".join(f"{count} by {words}" for count, words in counts if count)
    if (known := ~annealed).any():
        tails = _tails(khat[known], khat_threshold(draws)[known])
        answers += f"; of samples: {_sizes(ess[known], draws[known])}; Pareto k-hat: {tails}"
    if annealed.any():
        answers += f"; of chains: {_sizes(ess[annealed], draws[annealed])}"
    return answers


def _curvature(numbers: Numbers) -> list[str]:
    """Say of many latents that the curvature of their mixtures is of low rank."""
    if "num_curved" not in numbers.settings:
        return []
    few, size = (numbers.settings[name] for name in ("num_curved", "num_latents"))
    return [f"mixtures: the curvature of {size:.0f} latents in its {few:.0f} steepest directions, else the prior's"]


def _second_look(numbers: Numbers) -> tuple[list[str], float, str]:
    """Return what a second look raised of what was believed before, in words; what may be left, in nats; and a refusal.

    What neither look found is less than what the second one added, if a look finds half of what is there.
    """
    none = np.zeros(len(numbers))  # of a file that is older
    rose, error = (numbers.diagnostics.get(name, none) for name in ("second_look", "mcse_second_look"))
    count = int((error > 0).sum())
    if not count:
        return [], 0.0, ""
    surely = int((rose > SURELY * error).sum())
    mean, by_chance = float(rose.mean()), math.sqrt(float((error**2).sum())) / len(rose)
    line = (
        f"a second set of climbs found modes that matter in {count} data that would have been believed without them: "
        f"{surely} rose by more than {SURELY:.0f} errors, the mean by {number(mean)} nats; as much may be left"
    )
    refuted = f"a second set of climbs raised {numbers.quantity} by {mean:.2f} nats; as much may still be missed."
    return [line], max(0.0, mean), refuted if mean - 2 * by_chance > OPEN else ""


def _reached(numbers: Numbers) -> tuple[str, str]:
    """Return what could be wrong without a sign, and what speaks against the whole, by data that the model drew."""
    count, missed = (int(numbers.settings.get(name, 0)) for name in ("num_simulated", "num_missed"))
    if not count:
        return " Whether the proposals reach all of the posterior was not tried: the model's data cannot be drawn.", ""
    lost = numbers.settings.get("nats_missed", 0.0)
    of = f"of {count} data simulated from the model"
    if missed < MISSED and lost < LOST:
        found = "all" if not missed else f"all but {missed}"
        return f" The z of {found} {of} are in reach of the proposals.", ""
    were = "was" if missed == 1 else "were"
    return "", (
        f"{missed} {of} {were} made by z that neither the proposals nor annealing reach; log P(x) is too low there, of "
        f"such data by about {lost:.2f} nats in the mean."
    )


def low_chains(ess: Array, chains: Array) -> NDArray[np.bool_]:
    """Return whether the weights of annealed chains rest on one or two of them, [N].

    >>> low_chains(np.array([2.0, 8.0]), np.array([16.0, 16.0])).tolist()
    [True, False]
    """
    return ess < LOW_CHAINS * chains - ROUNDING


def of_annealing(numbers: Numbers) -> Diagnostics:
    """Return those of annealed importance sampling: how the chains moved, and what importance sampling finds."""
    what, found, settings = numbers.quantity, numbers.diagnostics, numbers.settings
    acceptance, plain = found["acceptance"], found["log_px_importance"]
    chains = np.full(len(numbers), float(numbers.num_samples))
    differ = low_chains(numbers.ess, chains)
    with np.errstate(invalid="ignore"):  # both are minus infinity where the model cannot make a datum
        above = plain - numbers.log_px
    more = above > 4 * np.hypot(numbers.mcse, found["mcse_importance"]) + ROUNDING
    outweighs = "one chain of {1:.0f} outweighs the others: they count as {0:.1f}"
    higher = "importance sampling finds {:.2f} nats more, and both are lower bounds"
    rules = [
        *_not_finite(numbers),
        Rule("chains whose weights differ", differ, outweighs, (numbers.ess, chains)),
        Rule("a low accepted rate", acceptance < LOW_ACCEPTANCE, "HMC accepted {:.0%} of its moves", (acceptance,)),
        Rule("more by importance sampling", more, higher, (above,), above),
    ]
    lines = [
        f"HMC: accepted rate {spread(acceptance)}; chains: standard deviation of log w {spread(found['chain_spread'])}",
        f"{_biases(numbers, 'so few chains')}; importance sampling with K = {settings['num_samples']:.0f} gave {what} "
        f"{_mean_in_words(plain, '')}",
    ]
    headline = (
        f"{what} of {len(numbers)} data by annealed importance sampling, {numbers.num_samples} chains over "
        f"{settings['num_temperatures']:.0f} temperatures from {_source(numbers)}"
    )
    start = "" if numbers.proposal == "prior" else ", or start at proposal='prior'"
    remedy = f"Raise num_temperatures or num_chains{start}."
    few = f"fewer than {FEW_CHAINS} chains say too little of their own error. Raise num_chains."
    too_few = few if numbers.num_samples < FEW_CHAINS else ""
    blind = _blind_spot(numbers)
    return Diagnostics(headline, lines, rules, remedy, blind, too_few, bias=_mean_bias(numbers))


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


def of_filters(numbers: Numbers) -> Diagnostics:
    """Return those of particle filters: how far they are apart, how few particles counted, and importance sampling."""
    what, found, settings = numbers.quantity, numbers.diagnostics, numbers.settings
    particles, filters = settings["num_samples"], np.full(len(numbers), float(numbers.num_samples))
    apart, least, plain = found["filter_spread"], found["least_particles"], found["log_px_importance"]
    with np.errstate(invalid="ignore"):  # both are minus infinity where the model cannot make a datum
        above = plain - numbers.log_px
    more = above > 4 * np.hypot(numbers.mcse, found["mcse_importance"]) + ROUNDING
    rules = [
        *_not_finite(numbers),
        Rule("filters that are apart", apart > APART, "the standard deviation of its filters is {:.2f} nats", (apart,)),
        Rule("filters whose estimates differ", low_chains(numbers.ess, filters),
             "one filter of {1:.0f} outweighs the others: they count as {0:.1f}", (numbers.ess, filters)),
        Rule(f"fewer than {LOW_ESS:.0f} particles at a step", least < LOW_ESS,
             "at one step the particles count as {0:.1f}" + f" of {particles:.0f}", (least,)),
        Rule("more by importance sampling", more, "importance sampling finds {:.2f} nats more", (above,), above),
    ]  # fmt: skip
    lines = [
        f"particles that count, of {particles:.0f}: where fewest, {spread(least)}; drawn again after "
        f"{spread(found['num_resampled'])} of {settings['num_steps']:.0f} steps",
        f"filters: standard deviation of {what} {spread(apart)}; {_biases(numbers, 'so few filters')}; importance "
        f"sampling with K = {particles:.0f} gave {what} {_mean_in_words(plain, '')}",
    ]
    headline = (
        f"{what} of {len(numbers)} data by {numbers.num_samples} particle filters of {particles:.0f} particles from "
        f"{_source(numbers)}"
    )
    few = f"fewer than {FEW_CHAINS} filters say too little of their own error. Raise num_filters."
    too_few = few if numbers.num_samples < FEW_CHAINS else ""
    remedy, blind = "Raise num_samples, the particles of a filter.", " What the proposal never visits would not show"
    blind += "." if numbers.proposal == "prior" else ": proposal='prior' can tell."
    return Diagnostics(headline, lines, rules, remedy, blind, too_few, bias=_mean_bias(numbers))


def of_given(numbers: Numbers) -> Diagnostics:
    """Return those of log P(x_A | x_B), of which both terms are estimated: the worse of both, and whose samples."""
    found, scheme = of_importance(numbers), numbers.diagnostics["scheme"]
    of_all, of_part = (_mean_in_words(numbers.diagnostics[name], "") for name in ("log_px_all", "log_px_given"))
    prior = numbers.proposal == "prior"
    ways = (
        ["one set for both", "one set for both"] if prior else ["those given all for both", "those given x_B for both"]
    )
    sets = Counter([*ways, "a set for each"][int(one)] for one in scheme)
    drawn = ", ".join(f"{how} for {count} data" for how, count in sets.items())
    source = {"guide": "the guide", "prior": "the prior P(z)", "refined": "the refined guide"}[numbers.proposal]
    refine = "" if numbers.proposal == "refined" else ", or use proposal='refined'"
    other, more = "refined" if prior else "prior", numbers.diagnostics["more"]
    higher = "other samples find {:.2f} nats more of log P(x_A, x_B) or of log P(x_B)"
    return replace(
        found,
        rules=[*found.rules, Rule("more of a term by other samples", more > 0, higher, (more,), more)],
        headline=f"{found.headline.partition(' from ')[0]} from {source}",
        lines=[f"log P(x_A, x_B) {of_all}, log P(x_B) {of_part}; samples of the two terms: {drawn}", *found.lines],
        remedy=f"Raise num_samples{refine}.",
        blind_spot=f" What the proposal never visits would not show: hold it against proposal={other!r}.",
        two_sided=True,
    )


def at_edges(numbers: Numbers) -> list[Rule]:
    """Return the rule of any method for posteriors at the edge of a support; none where there is no such edge."""
    share = numbers.diagnostics.get("at_edge")
    if share is None:
        return []
    near = "{:.0%} of P(x) comes from z so near to the edge of their support that only a higher precision can say which"
    off = -np.log1p(-np.minimum(share, 1 - 1e-9))
    return [Rule("a posterior at the edge of a support", share > AT_EDGE, near, (share,), off)]


DIAGNOSTICS: dict[str, Callable[[Numbers], Diagnostics]] = {
    "auto": of_auto,
    "importance": of_importance,
    "ais": of_annealing,
    "sandwich": of_sandwich,
    "smc": of_filters,
    "given": of_given,
}


def _not_finite(numbers: Numbers) -> list[Rule]:
    what, log_px = numbers.quantity, numbers.log_px
    none, odd = np.isneginf(log_px), np.isnan(log_px) | np.isposinf(log_px)
    nothing = f"{what} is minus infinity: no draw has a weight above zero"
    return [
        Rule(f"{what} of minus infinity", none, nothing, ()),
        Rule(f"no finite {what}", odd, what + " is {:.0f}", (log_px,)),
    ]


def _more_samples(numbers: Numbers) -> str:
    """Return what to do: what was tried on some doubtful data only where it helped, refining only where it was."""
    tried, ais = numbers.tried, "method='ais'" if numbers.note else "method='auto'"
    names = {"num_samples": "raise num_samples", "refined": "use proposal='refined'"}
    good = [
        f"{text} (of {tried[name].num_tried} tried it mended {tried[name].mended})" if name in tried else text
        for name, text in names.items()
        if (tried[name].helps if name in tried else name == "num_samples")
    ]
    bad = {"num_samples": "more samples", "refined": "proposal='refined'"}
    failed = [bad[name] for name, trial in tried.items() if not trial.helps]
    without = f" Of no help where they were tried: {', '.join(failed)}." if failed else ""
    if not good:
        return f"Use {ais}, or a better guide.{without}"
    text = f"{'for them alone, ' if tried else ''}{', '.join(good)}, or use {ais}.{without}"
    return f"{text[0].upper()}{text[1:]}"


def _blind_spot(numbers: Numbers) -> str:
    unseen = " What the proposal never visits would not show"
    if numbers.note:
        return f"{unseen}."
    other = "method='sandwich'" if numbers.proposal == "prior" else "method='ais' with proposal='prior'"
    if numbers.method == "importance":
        other = "method='auto'"
    return f"{unseen}: {other} can tell."


def _source(numbers: Numbers) -> str:
    given = f"Q(z | {numbers.observed})"
    sources = {
        "guide": f"the guide {given}",
        "prior": "the prior P(z)",
        "refined": f"the refined guide {given}, a tenth from the guide as it was",
    }
    sources |= {"laplace": "Laplace mixtures fitted to each"}
    return sources[numbers.proposal]


def _sizes(ess: Array, draws: Array) -> str:
    """Say what the effective sample sizes are; of how many draws, of the datum that has the smallest."""
    least = int(ess.argmin())
    of = f"{draws.max():.0f}" if draws.min() == draws.max() else f"the {draws[least]:.0f} of that datum"
    return f"effective sample size: median {np.median(ess):.1f}, smallest {ess[least]:.1f}, of {of}"


def _tails(khat: Array, limit: Array) -> str:
    """Say what the tails of the weights are like; data without a tail, or with one draw for it, in words."""
    low, high = np.min(limit), np.max(limit)
    above = f"{low:.2f}" if low == high else f"their limits, {low:.2f} to {high:.2f}"
    known = khat[~np.isnan(khat)]
    middle, most = (_khat(value) for value in (np.median(known), known.max())) if len(known) else ("not known",) * 2
    return f"median {middle}, largest {most}, {int((khat > limit).sum())} of {len(khat)} above {above}"


def _khat(value: float) -> str:
    return f"{value:.2f}" if np.isfinite(value) else "infinite" if value > 0 else "none (equal weights)"


def _mean_in_words(values: Array, unit: str = " nats") -> str:
    """Return the mean of the finite ones, and how many are not."""
    known = values[np.isfinite(values)]
    others = f" without {len(values) - len(known)} data that have none" if 0 < len(known) < len(values) else ""
    return f"{known.mean():.3f}{unit}{others}" if len(known) else "not known"


def _mean_bias(numbers: Numbers) -> Bias:
    """Return how far the mean is off, by the data of which that is known."""
    bias = numbers.diagnostics["bias"]
    known, went_on = np.isfinite(bias), numbers.diagnostics.get("stopping", np.zeros_like(bias))
    return Bias(float(bias[known].mean()), float(went_on[known].mean())) if known.any() else Bias()


def _biases(numbers: Numbers, of: str = "a finite K", what_went_on: str = "until the tolerance") -> str:
    """Say how far the mean is off for lack of samples."""
    bias, stopping = numbers.diagnostics["bias"], numbers.diagnostics.get("stopping")
    known = np.isfinite(bias)
    text = f"bias of {of} about {number(float(bias[known].mean()))} nats" if known.any() else f"bias of {of} not known"
    if 0 < known.sum() < len(bias):
        text += f", without {int((~known).sum())} data of which one draw, or none, has all the weight"
    if stopping is not None and stopping.any():
        text += f", of going on {what_went_on} about {number(float(stopping.mean()))}"
    return text
