"""What is printed of an estimate of log P(x): the table, its headline, and the diagnostics below it."""

from typing import TYPE_CHECKING

import numpy as np

from ppl_vae.evidence.diagnostics import MIN_SAMPLES, khat_threshold
from ppl_vae.evidence.scale import bits_in_words
from ppl_vae.utils.report import Report, number, spread

if TYPE_CHECKING:
    from ppl_vae.evidence.evidence import Evidence


METHODS = {
    "importance": "importance sampling",
    "ais": "annealed importance sampling",
    "sandwich": "annealed importance sampling",
}
SOURCES = {"guide": "the guide Q(z | x)", "prior": "the prior P(z)", "refined": "the refined guide Q(z | x)"}


def report(evidence: "Evidence") -> Report:
    """Return the means with their errors, the diagnostics, and the verdict."""
    means = evidence.means()
    of = "P(z)" if evidence.elbo_proposal == "prior" else "Q"
    rows = [
        ("log P(x)", means["log_px"], "nats"),
        ("ELBO", means["elbo"], "nats, log P(x) >= ELBO"),
        ("gap", means["gap"], f"nats, KL({of} || P(z | x)) = log P(x) - ELBO"),
        ("bits per dim", means["bits_per_dim"], bits_in_words(evidence)),
    ]
    if evidence.is_exact:
        rows = [row for row in rows if row[0] not in ("ELBO", "gap")]
    if evidence.sandwich is not None:
        bounds = evidence.sandwich.means()
        rows += [
            ("simulated: lower", bounds["lower"], "nats, forward annealing of data drawn from the model"),
            ("simulated: upper", bounds["upper"], "nats, reverse annealing from the z that made them"),
        ]
    lines = _importance_lines(evidence) if evidence.method == "importance" else _annealing_lines(evidence)
    never = int(np.isneginf(evidence.elbo).sum())
    if never:
        lines.append(f"the ELBO of {never} data is minus infinity: draws of {of} that the model rules out")

    return Report(_headline(evidence), rows, [*lines, evidence.verdict()]).about(evidence.quantity)


def _headline(evidence: "Evidence") -> str:
    if evidence.is_exact:
        return f"log P(x) of {len(evidence)} data, exactly: no latent site is sampled"
    what = f"log P(x) of {len(evidence)} data by {METHODS[evidence.method]}"
    source = SOURCES[evidence.proposal]
    if evidence.method == "importance":
        used = evidence.diagnostics["draws"]
        more = f" to {used.max():.0f}" if used.max() > evidence.num_samples else ""
        return f"{what}, K = {evidence.num_samples}{more} samples from {source}"
    steps = evidence.settings["num_temperatures"]
    return f"{what}, {evidence.num_samples} chains over {steps:.0f} temperatures from {source}"


def _importance_lines(evidence: "Evidence") -> list[str]:
    if evidence.is_exact:
        return []
    most = evidence.diagnostics["draws"].max()
    lines = [
        f"effective sample size: median {np.median(evidence.ess):.1f}, smallest {evidence.ess.min():.1f}, of {most:.0f}"
    ]
    if evidence.num_samples >= MIN_SAMPLES:
        khat, limit = evidence.khat, khat_threshold(evidence.diagnostics["draws"])
        lines.append(
            f"Pareto k-hat: median {np.median(khat):.2f}, largest {khat.max():.2f}, {int((khat > limit).sum())} of "
            f"{len(evidence)} above {np.min(limit):.2f}; log P(x) with tails smoothed "
            f"{evidence.log_px_psis.mean():.3f}; bias of a finite K about {_bias(evidence)} nats"
        )
    return lines


def _annealing_lines(evidence: "Evidence") -> list[str]:
    diagnostics = evidence.diagnostics
    lines = [
        f"HMC: accepted rate {spread(diagnostics['acceptance'])}; chains: standard deviation of log w "
        f"{spread(diagnostics['chain_spread'])}",
        f"bias of so few chains about {_bias(evidence)} nats; importance sampling with "
        f"K = {evidence.settings['num_samples']:.0f} gave log P(x) {diagnostics['log_px_importance'].mean():.3f}",
    ]
    if evidence.sandwich is not None:
        low, high = evidence.sandwich.interval()
        width = evidence.sandwich.means()["width"]
        lines.append(
            f"sandwich: log P(x) of {len(evidence.sandwich.lower)} simulated data is in [{low:.3f}, {high:.3f}]; where "
            f"the model fits, the estimate on real data is too low by about {max(width.value, 0.0):.3f} nats at "
            f"most (MCSE {number(width.mcse)})"
        )
    return lines


def _bias(evidence: "Evidence") -> str:
    return number(float(evidence.diagnostics["bias"].mean()))
