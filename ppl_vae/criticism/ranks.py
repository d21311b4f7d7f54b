"""What the ranks of several quantities say of Q, one by one and together, in words."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from ppl_vae.criticism.uniformity import Shape, inside_band, shape_of, surprise
from ppl_vae.utils.report import Array

LEAST = 20  # ranks of a quantity: from fewer nothing is said
ERRORS = 2.0  # standard errors from which on a bias or a width is named, once the ranks have left their band


@dataclass(frozen=True, eq=False)
class Ranks:
    """The ranks of J quantities of M simulated data among draws of Q(z | x).

    Attributes:
        names: of the quantities, [J].
        ranks: for each datum and quantity the share of draws below the true value, made random between its neighbours,
            [M, J] in (0, 1): uniform if Q is the posterior. NaN where the datum has no such latent (it is masked).
        scores: (true value - mean of the draws) / their standard deviation, [M, J].
        level: with which probability a posterior leaves none of its J bands.
        num_latents: how many of the quantities, the first ones, are numbers of latents; the others are functions.
    """

    names: tuple[str, ...]
    ranks: Array
    scores: Array
    level: float
    num_latents: int

    @property
    def level_of_each(self) -> float:
        """The level of the band of one quantity, 1 - (1 - level) / J (Bonferroni)."""
        return 1 - (1 - self.level) / len(self.names)

    def of(self, number: int) -> Array:
        """Return the ranks of one quantity, of those data that have it."""
        ranks = self.ranks[:, number]
        return ranks[~np.isnan(ranks)]

    @cached_property
    def outside(self) -> NDArray[np.bool_]:
        """Which quantities leave their band, [J]."""
        each = self.level_of_each
        found = [len(r) >= LEAST and not inside_band(r, each) for r in map(self.of, range(len(self.names)))]
        return np.array(found, dtype=bool)

    @cached_property
    def shapes(self) -> list[Shape]:
        """Bias and width of each quantity, in standard deviations of Q."""
        scores = [self.scores[~np.isnan(self.ranks[:, j]), j] for j in range(len(self.names))]
        return [
            shape_of(self.of(j), scores[j]) if len(scores[j]) >= LEAST else Shape(*4 * (np.nan,))
            for j in range(len(self.names))
        ]

    @property
    def bias(self) -> dict[str, float]:
        """How far the true values lie above Q, in its standard deviations: above zero Q is too low."""
        return {name: shape.bias for name, shape in zip(self.names, self.shapes, strict=True)}

    @property
    def width(self) -> dict[str, float]:
        """How wide the true values lie beside Q, in its standard deviations: above one Q is too narrow."""
        return {name: shape.width for name, shape in zip(self.names, self.shapes, strict=True)}

    def coverage(self, level: float) -> dict[str, float]:
        """Return the share of true values inside the central interval of Q with this probability."""
        inside = [np.abs(self.of(j) - 0.5) <= level / 2 for j in range(len(self.names))]
        return {name: float(i.mean()) if len(i) else np.nan for name, i in zip(self.names, inside, strict=True)}

    def order(self) -> list[int]:
        """Return the numbers of the quantities, those farthest from uniform first."""
        far = [surprise(self.of(j)) if len(self.of(j)) >= LEAST else -1.0 for j in range(len(self.names))]
        return sorted(range(len(far)), key=lambda j: (not self.outside[j], -far[j]))

    def in_short(self, number: int) -> str:
        """Return what is found of a quantity in a few words."""
        if len(self.of(number)) < LEAST:
            return "not judged"
        if not self.outside[number]:
            return "calibrated"
        width, bias = self._width_in_words(number), self._bias_in_words(number, "sd")
        return ", ".join(filter(None, (width, bias))) or "another shape"

    def in_words(self, number: int) -> str:
        """Return the same as a sentence."""
        name, latent = self.names[number], number < self.num_latents
        if not self.outside[number]:
            return f"{name}: {self.in_short(number)}"
        who = "Q" if latent else "under Q it"
        width, bias = self._width_in_words(number), self._bias_in_words(number, "of its standard deviations")
        said = [f"is {width}"] * bool(width) + [f"lies {bias}"] * bool(bias)
        return f"{name}: {who} {' and '.join(said) or 'has another shape'}"

    def _width_in_words(self, number: int) -> str:
        width, error = self.shapes[number].width, self.shapes[number].log_width_error
        if not abs(np.log(width)) > ERRORS * error:
            return ""
        return f"{_factor(max(width, 1 / width))} times too {'narrow' if width > 1 else 'wide'}"

    def _bias_in_words(self, number: int, unit: str) -> str:
        bias, error = self.shapes[number].bias, self.shapes[number].bias_error
        if not abs(bias) > ERRORS * error:
            return ""
        return f"{_factor(abs(bias))} {unit} too {'low' if bias > 0 else 'high'}"


def _factor(value: float) -> str:
    """Write a factor: one decimal where it says something.

    >>> [_factor(x) for x in (1.31, 1.04, 0.42, 0.03, 27.3)]
    ['1.3', '1.04', '0.4', '0.03', '27']
    """
    if value >= 10:
        return f"{value:.0f}"
    return f"{value:.2f}" if 1 < value < 1.1 or value < 0.1 else f"{value:.1f}"
