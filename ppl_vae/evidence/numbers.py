"""The numbers of an estimate, without the questions about them: `Sandwich`."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from ppl_vae.evidence.diagnostics import Array
from ppl_vae.utils.report import Mean


@dataclass(frozen=True)
class Sandwich:
    """Bounds from both sides on log P(x) of data that were simulated from the model, with the z that made them.

    Attributes:
        lower: by forward annealed importance sampling, [M], in nats; in expectation below log P(x).
        upper: by reverse annealing from the z that made x, [M]; in expectation above log P(x).
        lower_mcse, upper_mcse: their Monte Carlo standard errors, [M].
        x: the simulated data, [M, *event_shape].
    """

    lower: Array
    upper: Array
    lower_mcse: Array
    upper_mcse: Array
    x: np.ndarray[Any, Any]

    def means(self) -> dict[str, Mean]:
        """Return the means over the simulated data: lower, upper, and width = upper - lower."""
        return {
            "lower": Mean.of(self.lower, self.lower_mcse),
            "upper": Mean.of(self.upper, self.upper_mcse),
            "width": Mean.of(self.upper - self.lower, np.hypot(self.lower_mcse, self.upper_mcse)),
        }

    def interval(self) -> tuple[float, float]:
        """Return where the mean log P(x) of the simulated data lies: the two bounds, two MCSE wider."""
        lower, upper = self.means()["lower"], self.means()["upper"]
        return lower.value - 2 * lower.mcse, upper.value + 2 * upper.mcse
