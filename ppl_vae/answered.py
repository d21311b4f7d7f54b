"""The result of asking a conditional model many times: numbers, text and HTML."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ppl_vae.answers import Answers, Real
from ppl_vae.classifier import Classifier
from ppl_vae.errors import InputError
from ppl_vae.evidence import Evidence
from ppl_vae.report import Array, Mean, Report, number

KINDS = {"means": "E[x | z, y]", "draws": "a draw of x"}
COUNTS = (1, 2, 5, 10, 20, 50, 100)  # K in "the best of K answers"


@dataclass(frozen=True, eq=False)
class Measured:
    """One model on N conditions.

    Attributes:
        name: what to call it.
        evidence: log P(x | y) of the truth.
        draws: its draws of x.
        means: its E[x | z, y].
    """

    name: str
    evidence: Evidence
    draws: Answers
    means: Answers


@dataclass(frozen=True, eq=False, repr=False)
class OneToMany:
    """What `measure_one_to_many` found on N conditions; print it.

    Attributes:
        model: the numbers of the model.
        against: those of the other model, or None.
        real: how different real data with one condition are.
        classifier: what read the answers, with its own accuracy; or None.
        num_answers: A, how many answers to each condition.
        seed: of the samples.
    """

    model: Measured
    against: Measured | None
    real: Real
    classifier: Classifier | None
    num_answers: int
    seed: int

    def __len__(self) -> int:
        return len(self.model.evidence)

    @property
    def counts(self) -> list[int]:
        """The K for which the best of K answers is printed, up to A."""
        return [k for k in COUNTS if k < self.num_answers] + [self.num_answers]

    @property
    def log_px_diff(self) -> Array:
        """Log P(x | y) less that of the other model, per datum, [N].

        Raises:
            InputError: there is no other model.
        """
        if self.against is None:
            raise InputError("Expected another model to subtract; got none. Pass against=(model, guide).")
        return self.model.evidence.log_px - self.against.evidence.log_px

    def difference(self) -> Mean:
        """Return the mean of `log_px_diff`, paired: it varies less than either of the two."""
        mcse = [one.evidence.mcse for one in self._both]
        return Mean.of(self.log_px_diff, np.hypot(mcse[0], mcse[-1]))

    def share_of_real(self, *, mean: bool = True, against: bool = False) -> Mean:
        """Return the diversity of the answers divided by that of real data: 1 is as diverse as they are.

        The draws are compared with the data as the model sees them, the means E[x | z, y] with data before noise was
        added to each pixel on its own, that is with grey levels under dynamic binarization.
        """
        one = self.against if against and self.against is not None else self.model
        above = _mean((one.means if mean else one.draws).diversity)
        below = self._real(mean)
        share = above.value / below.value if below.value else float("nan")
        # By the delta method, each error standing on its own, though both come from the same test data.
        error = float(np.hypot(above.se, share * below.se) / below.value) if below.value else float("nan")
        return Mean(share, error, float("nan"))

    def report(self) -> Report:
        """Return what is printed: all means with their errors, and what to know about them."""
        beside = "" if self.against is None else f", beside {self.against.name}"
        return Report(
            f"One condition, many answers: {self.model.name}{beside}; {len(self)} test data, {self.num_answers} "
            f"answers to the condition of each",
            [*self._evidence_rows(), *self._error_rows(), *self._diversity_rows(), *self._reading_rows()],
            self._lines(),
        )

    def __str__(self) -> str:
        return str(self.report())

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return self.report().html()

    @property
    def _has_grey(self) -> bool:
        return self.real.distance_of_grey is not None

    def _real(self, grey: bool) -> Mean:
        """Return how different real data of one condition are, in grey levels where they are asked for and known."""
        known = self.real.distance_of_grey if grey else None
        return _mean_of_pairs(self.real.distance if known is None else known)

    @property
    def _both(self) -> list[Measured]:
        return [self.model] if self.against is None else [self.model, self.against]

    def _evidence_rows(self) -> list[tuple[str, Mean, str]]:
        what = self.model.evidence.quantity
        rows = [(what, one.evidence.means()["log_px"], f"nats, {one.name}") for one in self._both]
        if self.against is not None:
            rows.append(("  difference", self.difference(), f"nats, paired: {self.model.name} - {self.against.name}"))
        return rows

    def _error_rows(self) -> list[tuple[str, Mean, str]]:
        rows = []
        for kind, what in KINDS.items():
            rows += self._rows(f"error of {kind}", f"of {what}, squared, per pixel", lambda a: a.best_of(1), kind)
            rows += self._rows(f"  best of {self.num_answers}", "", lambda a: a.best_of(self.num_answers), kind)
        return rows

    def _diversity_rows(self) -> list[tuple[str, Mean, str]]:
        rows = []
        for kind in KINDS:
            grey = kind == "means" and self._has_grey
            own = self._rows(f"diversity of {kind}", "of two, squared, per pixel", lambda a: a.diversity, kind)
            shares = [self.share_of_real(mean=kind == "means", against=one is self.against) for one in self._both]
            rows += [
                (label, mean, f"{remark}: {share.value:.3f} (s.e. {number(share.se)}) of real")
                for (label, mean, remark), share in zip(own, shares, strict=True)
            ]
            rows.append(("  real data", self._real(grey), f"of one condition{', grey levels' if grey else ''}"))
        return rows

    def _reading_rows(self) -> list[tuple[str, Mean, str]]:
        rows: list[tuple[str, Mean, str]] = []
        if self.classifier is None:
            return rows
        for kind in KINDS:
            grey = kind == "means" and self._has_grey
            limit = self.classifier.accuracy_of_grey if grey else self.classifier.accuracy
            rows += self._rows(f"{kind} read right", "by a classifier", lambda a: a.read_right, kind)
            rows.append(("  limit", limit, f"real test images{', grey levels' if grey else ''}, read by it"))
        return rows

    def _rows(self, label: str, remark: str, of: Callable[[Answers], Any], kind: str) -> list[tuple[str, Mean, str]]:
        """Return a row for each model, with a remark in the first."""
        start = f"{remark}, " if remark else ""
        return [
            (label, _mean(of(getattr(one, kind))), f"{start if one is self.model else ''}{one.name}")
            for one in self._both
        ]

    def _lines(self) -> list[str]:
        lines = []
        for one in self._both:
            curve = " ".join(f"{one.means.best_of(k).mean():.4f}" for k in self.counts)
            lines.append(f"error of the best of {', '.join(map(str, self.counts))} means: {curve}, {one.name}")
        if self.against is not None:
            lines.append(self._when_better(self.against))
        if self.real.nearness is not None:
            same = (self.real.nearness == 0).mean()
            lines.append(
                f"real data of one condition: those with the nearest visible pixels, {self.real.nearness.mean():.4f} "
                f"apart (squared, per visible pixel), {same:.0%} of them with the very same; this makes real data look "
                f"more diverse than one condition is"
            )
        lines.append(
            "Diversity of draws counts noise in single pixels, too: it cannot tell many answers from one blur. That "
            "of means can."
        )
        return lines + [f"{one.name}: {one.evidence.verdict()}" for one in self._both]

    def _when_better(self, against: Measured) -> str:
        """Say from which K on the model is nearer to the truth, by more than two (paired) standard errors."""
        one = against.means.best_of(1)
        gains = {k: _mean(one - self.model.means.best_of(k)) for k in range(1, self.num_answers + 1)}
        first = next((k for k, gain in gains.items() if gain.value > 2 * np.nan_to_num(gain.se)), None)
        how = f"from K = {first} on" if first else f"for no K up to {self.num_answers}"
        return f"the best of K means is nearer to the truth than one mean of {against.name} {how}"


def _mean(values: Array) -> Mean:
    """Return a mean over the data; what drawing only A answers adds is in the standard error."""
    return Mean.of(values, np.full(1, np.nan))


def _mean_of_pairs(values: Array) -> Mean:
    """Return a mean of distances of each datum to others; its error is twice as large, as each stands in many pairs.

    Source: Hoeffding, A class of statistics with asymptotically normal distribution (1948): U-statistics.
    """
    mean = _mean(values)
    return Mean(mean.value, 2 * mean.se, mean.mcse)
