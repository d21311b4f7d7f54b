"""What importance sampling says of its estimates: k-hat, effective sample sizes, the bias of a finite K."""

from collections.abc import Iterator

import numpy as np

from ppl_vae.evidence.diagnostics import LOW_ESS, MIN_SAMPLES, doubtful_weights, khat_threshold, within
from ppl_vae.evidence.rules import Diagnostics, Rule, each


class ImportanceDiagnostics(Diagnostics):
    """Of importance sampling; the numbers have draws, bias, khat and log_px_psis."""

    def headline(self) -> str:
        """Return the quantity, and K."""
        numbers, used = self.numbers, self.numbers.diagnostics["draws"]
        more = f" to {used.max():.0f}" if used.max() > numbers.num_samples else ""
        return (
            f"{numbers.quantity} of {len(numbers)} data by importance sampling, K = {numbers.num_samples}{more} "
            f"samples from {self.source()}"
        )

    def lines(self) -> list[str]:
        """Return the effective sample sizes and, where there are draws enough, k-hat."""
        numbers, draws = self.numbers, self.numbers.diagnostics["draws"]
        lines = [
            f"effective sample size: median {np.median(numbers.ess):.1f}, smallest {numbers.ess.min():.1f}, of "
            f"{draws.max():.0f}"
        ]
        if numbers.num_samples >= MIN_SAMPLES:
            khat, limit = numbers.khat, khat_threshold(draws)
            lines.append(
                f"Pareto k-hat: median {np.median(khat):.2f}, largest {khat.max():.2f}, {int((khat > limit).sum())} of "
                f"{len(numbers)} above {np.min(limit):.2f}; {numbers.quantity} with tails smoothed "
                f"{numbers.log_px_psis.mean():.3f}; bias of a finite K about {self.bias()} nats"
            )
        return lines

    def too_few(self) -> str:
        """Ask for enough draws to fit the tail of the weights."""
        numbers = self.numbers
        if numbers.num_samples >= MIN_SAMPLES:
            return ""
        if numbers.num_samples < 2:
            return f"with one sample for each datum {numbers.quantity} is the ELBO. Raise num_samples."
        return f"k-hat needs {MIN_SAMPLES} samples or more for each datum. Raise num_samples."

    def rules(self) -> Iterator[Rule]:
        """Yield the rules on k-hat, on the effective sample size, and on the tolerance, if there is one."""
        yield from super().rules()
        numbers, draws, khat = self.numbers, self.numbers.diagnostics["draws"], self.numbers.diagnostics["khat"]
        heavy, few = doubtful_weights(numbers.ess, khat, draws)
        text = "k-hat {:.3f} is above {:.3f}: the proposal is narrower than the posterior, or lies elsewhere"
        yield Rule("k-hat above its limit", heavy, each(text, khat, khat_threshold(draws)))
        text = "the effective sample size is {:.1f} of {:.0f}"
        yield Rule(f"effective sample size below {LOW_ESS:.0f}", few, each(text, numbers.ess, draws))
        if "tolerance" in numbers.settings:
            tolerance, mcse, bias = numbers.settings["tolerance"], numbers.mcse, numbers.diagnostics["bias"]
            text = f"the tolerance {tolerance:g} was not reached: " + "MCSE {:.3f}, bias {:.3f} after {:.0f} draws"
            missed = ~within(mcse, bias, tolerance)
            yield Rule("a tolerance that was not reached", missed, each(text, mcse, bias, draws))

    def remedy(self) -> str:
        """Ask for more samples, or for a better proposal."""
        refined = "" if self.numbers.proposal == "refined" else ", use proposal='refined'"
        return f"Raise num_samples{refined}, or method='ais'."


class ExactDiagnostics(ImportanceDiagnostics):
    """Where no latent site is sampled: all weights of a datum are the same."""

    def headline(self) -> str:
        """Say that it is exact."""
        return f"{self.numbers.quantity} of {len(self.numbers)} data, exactly: no latent site is sampled"

    def lines(self) -> list[str]:
        """Return nothing, as nothing is estimated."""
        return []

    def too_few(self) -> str:
        """Return nothing: one sample says all."""
        return ""

    def rules(self) -> Iterator[Rule]:
        """Yield the rule that log P(x) is finite."""
        yield from Diagnostics.rules(self)

    def undoubted(self) -> str:
        """Say that it is exact."""
        return "Exact: nothing is estimated."
