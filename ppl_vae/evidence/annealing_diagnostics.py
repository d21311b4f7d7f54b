"""What annealed importance sampling says of its estimates, and the sandwich that is made of two such runs."""

from collections.abc import Iterator

import numpy as np

from ppl_vae.evidence.diagnostics import ROUNDING
from ppl_vae.evidence.numbers import Sandwich
from ppl_vae.evidence.rules import Diagnostics, Rule, each
from ppl_vae.utils.report import Row, number, spread

FEW_CHAINS = 8  # fewer say too little of their own spread
LOW_CHAINS = 0.2  # effective ones, as a share of all: below it the weights rest on one or two of them
LOW_ACCEPTANCE = 0.2  # of HMC's proposals: below it the chains hardly moved
OPEN = 0.1  # nats that the bounds of a sandwich may be apart


class AnnealingDiagnostics(Diagnostics):
    """Of annealing; the numbers have acceptance, chain_spread, log_px_importance, mcse_importance and bias."""

    def headline(self) -> str:
        """Return the quantity, the number of chains, and T."""
        numbers, steps = self.numbers, self.numbers.settings["num_temperatures"]
        return (
            f"{numbers.quantity} of {len(numbers)} data by annealed importance sampling, {numbers.num_samples} chains "
            f"over {steps:.0f} temperatures from {self.source()}"
        )

    def lines(self) -> list[str]:
        """Return how the chains moved, and what importance sampling says."""
        numbers, found = self.numbers, self.numbers.diagnostics
        other = found["log_px_importance"].mean()
        return [
            f"HMC: accepted rate {spread(found['acceptance'])}; chains: standard deviation of log w "
            f"{spread(found['chain_spread'])}",
            f"bias of so few chains about {self.bias()} nats; importance sampling with "
            f"K = {numbers.settings['num_samples']:.0f} gave {numbers.quantity} {other:.3f}",
        ]

    def too_few(self) -> str:
        """Ask for enough chains to see their spread."""
        few = f"fewer than {FEW_CHAINS} chains say too little of their own error. Raise num_chains."
        return few if self.numbers.num_samples < FEW_CHAINS else ""

    def rules(self) -> Iterator[Rule]:
        """Yield the rules on the weights of the chains, on their moves, and on what importance sampling finds."""
        yield from super().rules()
        numbers, found = self.numbers, self.numbers.diagnostics
        chains = np.full(len(numbers), float(numbers.num_samples))
        few = numbers.ess < LOW_CHAINS * chains - ROUNDING
        text = "one chain of {1:.0f} outweighs the others: they count as {0:.1f}"
        yield Rule("chains whose weights differ", few, each(text, numbers.ess, chains))
        stuck = found["acceptance"] < LOW_ACCEPTANCE
        yield Rule("a low accepted rate", stuck, each("HMC accepted {:.0%} of its moves", found["acceptance"]))
        above = found["log_px_importance"] - numbers.log_px
        error = np.hypot(numbers.mcse, found["mcse_importance"])
        text = "importance sampling finds {:.2f} nats more, and both are lower bounds"
        yield Rule("more by importance sampling", above > 4 * error + ROUNDING, each(text, above))

    def remedy(self) -> str:
        """Ask for more steps or chains, or for a start that misses nothing."""
        start = "" if self.numbers.proposal == "prior" else ", or start at proposal='prior'"
        return f"Raise num_temperatures or num_chains{start}."


class SandwichDiagnostics(AnnealingDiagnostics):
    """Of annealing with bounds from both sides, on simulated data."""

    @property
    def sandwich(self) -> Sandwich:
        """The bounds."""
        assert self.numbers.sandwich is not None
        return self.numbers.sandwich

    def rows(self) -> list[Row]:
        """Return the two bounds."""
        bounds = self.sandwich.means()
        return [
            ("simulated: lower", bounds["lower"], "nats, forward annealing of data drawn from the model"),
            ("simulated: upper", bounds["upper"], "nats, reverse annealing from the z that made them"),
        ]

    def lines(self) -> list[str]:
        """Return those of annealing, and how wrong it may be."""
        (low, high), width = self.sandwich.interval(), self.sandwich.means()["width"]
        return [
            *super().lines(),
            f"sandwich: {self.numbers.quantity} of {len(self.sandwich.lower)} simulated data is in [{low:.3f}, "
            f"{high:.3f}]; where the model fits, the estimate on real data is too low by about "
            f"{max(width.value, 0.0):.3f} nats at most (MCSE {number(width.mcse)})",
        ]

    def refuted(self) -> str:
        """Say whether the bounds are apart by more than noise."""
        width = self.sandwich.means()["width"]
        apart = abs(width.value) - 2 * width.mcse
        why = "so the chains miss a part of the posterior, or T is too small"
        return "" if apart <= OPEN else f"the sandwich is open by {apart:.2f} nats, {why}."

    def blind_spot(self) -> str:
        """Return nothing: the simulated data visit every part of the posterior."""
        return ""
