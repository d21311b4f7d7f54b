"""Measures of one-to-many: how well a conditional model knows that one condition has many right answers.

Each stands beside what real data or another model (a regressor) reach. Neither the error nor the diversity of draws can
tell many answers from noise: the mean distance of two draws is 2 Var(x_i | y), on average over pixels i, whether pixels
go together or not, so a regressor's are as diverse as the data. It is the mean E[x | z, y] that differs from answer to
answer only if z says something.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ppl_vae.conditional import ConditionalModel
from ppl_vae.criticism.answers import Answers, Real, answer, generated, real_answers, right_labels
from ppl_vae.criticism.comparable import check_same_quantity
from ppl_vae.criticism.image_classifier import Classifier
from ppl_vae.data.digit_strings import Part
from ppl_vae.data.splits import evenly
from ppl_vae.errors import InputError, positive_int, shown, whole_from
from ppl_vae.evidence.estimators import estimate_evidence
from ppl_vae.evidence.evidence import Evidence
from ppl_vae.missing import refuse_missing
from ppl_vae.traces.pair import Program
from ppl_vae.utils.report import Array, Mean, Report, Reported, Row, number

KINDS = {"means": "E[x | z, y]", "draws": "a draw of x"}
COUNTS = (1, 2, 5, 10, 20, 50, 100)  # K in "the best of K answers"


@dataclass(frozen=True, eq=False, repr=False)
class Measured:
    """One model on N conditions: log P(x | y) of the truth, and its answers, draws of x and means E[x | z, y]."""

    name: str
    evidence: Evidence
    draws: Answers
    means: Answers

    def __repr__(self) -> str:
        parts = {"evidence": self.evidence, "draws": self.draws, "means": self.means}
        return "\n\n".join([f"{self.name}:", *(f"{name}: {part!r}" for name, part in parts.items())])


@dataclass(frozen=True, eq=False, repr=False)
class OneToMany(Reported):
    """What `measure_one_to_many` found on N conditions, with standard errors over these data; print it.

    Attributes:
        model, against: the numbers of the model, and of the other one or None.
        real: how different real data with one condition are.
        classifier: what read the answers, with its own accuracy; or None.
        num_answers, seed: A answers to each condition, and the seed of all samples.
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
        """Log P(x | y) less that of the other model, per datum, [N]."""
        if self.against is None:
            raise InputError("Expected another model to subtract; got none. Pass against=(model, guide).")
        one, other = self.model.evidence, self.against.evidence
        levels = one.scored != other.scored  # a probability beside dequantized levels: both in nats of levels
        return one.log_px - other.log_px + (one.to_levels - other.to_levels if levels else 0.0)

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
        above, below = _mean((one.means if mean else one.draws).diversity), self._real(self._is_grey(mean))
        if not below.value:
            return Mean(math.nan, math.nan, math.nan)
        share = above.value / below.value
        # By the delta method, each error standing on its own, though both come from the same test data.
        return Mean(share, float(np.hypot(above.se, share * below.se) / below.value), float("nan"))

    def report(self) -> Report:
        """Return what is printed: all means with their errors, and what to know about them."""
        beside = "" if self.against is None else f", beside {self.against.name}"
        return Report(
            f"One condition, many answers: {self.model.name}{beside}; {len(self)} test data, {self.num_answers} "
            f"answers to the condition of each",
            list(self._rows()),
            self._lines(),
        )

    @property
    def _both(self) -> list[Measured]:
        return [self.model] if self.against is None else [self.model, self.against]

    def _is_grey(self, mean: bool) -> bool:
        """Return whether real data stand beside these answers in grey levels: beside means, where they are known."""
        return mean and self.real.distance_of_grey is not None

    def _real(self, grey: bool) -> Mean:
        """Return how different real data of one condition are; its error is doubled, as each stands in many pairs.

        Source: Hoeffding, A class of statistics with asymptotically normal distribution (1948): U-statistics.
        """
        mean = _mean(self.real.distance_of_grey if grey else self.real.distance)
        return Mean(mean.value, 2 * mean.se, mean.mcse)

    def _rows(self) -> Iterator[Row]:
        """Yield log P(x | y), then for means and for draws their error, their diversity, and what they are read as."""
        for one in self._both:
            yield self.model.evidence.quantity, one.evidence.means()["log_px"], f"nats, {one.name}"
        if self.against is not None:
            yield "  difference", self.difference(), f"nats, paired: {self.model.name} - {self.against.name}"
        for kind, what in KINDS.items():
            yield from self._of_each(kind, f"error of {kind}", lambda a: a.best_of(1), f"of {what}, squared, per pixel")
            yield from self._of_each(kind, f"  best of {self.num_answers}", lambda a: a.best_of(self.num_answers))
        for kind in KINDS:
            grey = self._is_grey(kind == "means")
            own = self._of_each(kind, f"diversity of {kind}", lambda a: a.diversity, "of two, squared, per pixel")
            for one, (label, mean, remark) in zip(self._both, own, strict=True):
                share = self.share_of_real(mean=kind == "means", against=one is self.against)
                yield label, mean, f"{remark}: {share.value:.3f} (s.e. {number(share.se)}) of real"
            yield "  real data", self._real(grey), "of one condition" + (", grey levels" if grey else "")
        if self.classifier is None:
            return
        for kind in KINDS:
            grey = self._is_grey(kind == "means")
            limit = self.classifier.accuracy_of_grey if grey else self.classifier.accuracy
            yield from self._of_each(kind, f"{kind} read right", lambda a: a.read_right, "by a classifier")
            levels = ", grey levels" if grey else ""
            yield "  limit", limit, f"real test images{levels}, read by it"

    def _of_each(self, kind: str, label: str, of: Callable[[Answers], Any], remark: str = "") -> Iterator[Row]:
        """Yield a row for each model, with a remark in the first."""
        for one in self._both:
            start = f"{remark}, " if remark and one is self.model else ""
            yield label, _mean(of(getattr(one, kind))), f"{start}{one.name}"

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


def _mean(values: Any) -> Mean:
    """Return a mean over the data; what drawing only A answers adds is in the standard error."""
    return Mean.of(values, np.full(1, np.nan))


def measure_one_to_many(
    model: Program,
    guide: Program | None,
    split: Part,
    *,
    against: tuple[Program, Program | None] | None = None,
    classifier: Classifier | None = None,
    grey: Part | None = None,
    num_samples: int = 1000,
    num_answers: int = 20,
    num_nearest: int = 10,
    num_data: int | None = None,
    names: Sequence[str] | None = None,
    seed: int = 0,
    progress: bool | None = None,
) -> OneToMany:
    """Measure what a conditional model makes of conditions with many right answers.

    Args:
        model: P(x, z | y), a `ConditionalModel`: labels, strings of images, or visible pixels.
        guide: Q(z | x, y).
        split: real data with their conditions, neither trained nor chosen on: the test split.
        against: another model of the same task with its guide, for instance a regressor.
        classifier: reads the answers, see `fit_classifier`; not used where only pixels are given.
        grey: the same data before they were dynamically binarized, which E[x | z, y] is compared with; None compares
            with the data themselves, right where they have no such noise in each pixel on its own.
        num_samples, seed, progress: as for `estimate_evidence`, of log P(x | y); the seed also of the answers.
        num_answers: A, how many answers to each condition, at least 2.
        num_nearest: how many real data stand in for one condition, where it is visible pixels.
        num_data: ask the conditions of so many of the data, evenly spaced; None asks all. Real data with the same
            condition come from the whole split.
        names: what to call the two models.

    Raises:
        InputError: a model without a condition, models of two tasks, data that are no split, or without labels where
            the right label is asked for, not one name for each model, or numbers that are out of range.

    Source: the questions of section 4 of Doersch, arXiv 1606.05908; the best of K of Sohn et al., NeurIPS 2015.

    >>> from ppl_vae import data
    >>> from ppl_vae.models import CVAE, Regressor
    >>> from ppl_vae.guides import Conditional, NoLatents
    >>> from ppl_vae.conditions import Label
    >>> model, regressor = CVAE((1, 8, 8)), Regressor((1, 8, 8), Label())
    >>> other = regressor, NoLatents(regressor)
    >>> test = data.load("digits").test
    >>> result = measure_one_to_many(model, Conditional(model), test, against=other, num_samples=30, num_data=50)
    >>> len(result), bool(result.model.means.diversity.mean() > result.against.means.diversity.mean())
    (50, True)
    """
    num_samples, seed = positive_int("num_samples", num_samples), whole_from(0, "a seed", seed)
    num_nearest = positive_int("num_nearest", num_nearest)
    if positive_int("num_answers", num_answers) < 2:
        raise InputError("Expected num_answers to be at least 2, to see whether two differ; got 1.")
    for part in [split] if grey is None else [split, grey]:
        if not isinstance(part, Part):
            raise InputError(
                f"Expected a Split of data with their conditions; got {type(part).__name__}. Take one from data.load, "
                f"for instance data.load('digits').test."
            )
    if against is not None and not (isinstance(against, tuple | list) and len(against) == 2):
        raise InputError(f"Expected against to be a pair (model, guide); got {shown(against)}. Give both.")
    models = [conditional(model), *([] if against is None else [conditional(against[0])])]
    guides = [guide, *([] if against is None else [against[1]])]
    _check_task(models[0], models[-1])
    if names is None:
        classes = [type(model).__name__ for model in models]
        names = classes if len(set(classes)) == len(models) else ["the model", "the other"]
    if not isinstance(names, tuple | list) or len(names) != len(models):
        raise InputError(
            f"Expected a list of {len(models)} names, one for each model; got {shown(names)}. Give as many."
        )
    if models[0].y_from_x:
        classifier = None
    else:
        right_labels(split)
    if num_data is not None:
        positive_int("num_data", num_data)
    index = evenly(torch.arange(len(split)), num_data)
    chosen = split[index]
    refuse_missing(chosen.x, "to hold answers against")
    with torch.no_grad():
        real = real_answers(models[0], split, index, grey=grey, num_nearest=num_nearest)
    options: dict[str, Any] = {"seed": seed, "progress": progress}
    evidences = [
        estimate_evidence(program, its_guide, chosen, num_samples=num_samples, **options)
        for program, its_guide in zip(models, guides, strict=True)
    ]
    check_same_quantity([*zip(map(str, names), evidences, strict=True)])
    options |= {"num_answers": num_answers, "classifier": classifier}
    measured = []
    for name, program, evidence in zip(names, models, evidences, strict=True):
        draws, means = (answer(program, chosen, mean=mean, **options) for mean in (False, True))
        measured.append(Measured(name, evidence, draws, means))
    return OneToMany(measured[0], measured[1] if against else None, real, classifier, num_answers, seed)


def conditional(model: Any) -> ConditionalModel:
    """Return a model if it has a condition."""
    if not isinstance(model, ConditionalModel):
        raise InputError(
            f"Expected a conditional model, such as CVAE, ImageCompletion, NextDigit or Regressor; got "
            f"{type(model).__name__}. Derive it from ppl_vae.conditional.ConditionalModel."
        )
    return model


def _check_task(model: ConditionalModel, other: ConditionalModel) -> None:
    """Refuse two models that are given different things, or generate different things."""
    pixels = torch.arange(model.event_shape.numel()).reshape(1, *model.event_shape).float()
    tasks = [f"y {tuple(m.condition.shape)} and x {tuple(m.condition.x_shape)}" for m in (model, other)]
    kinds = [type(m.condition).__name__ for m in (model, other)]
    if (kinds[0], tasks[0], model.event_shape) != (kinds[1], tasks[1], other.event_shape) or not torch.equal(
        generated(model, pixels), generated(other, pixels)
    ):
        raise InputError(
            f"Expected two models of one task; got {kinds[0]} with {tasks[0]} against {kinds[1]} with {tasks[1]}"
            f"{' elsewhere in the image' if tasks[0] == tasks[1] else ''}. Give both the same condition."
        )
