"""Measures of one-to-many: how well a conditional model knows that one condition has many right answers.

Four things, each beside what real data or another model (a regressor) reach, on data that nothing was chosen by:

    log P(x | y)    of the truth, in nats
    error           of the best of K answers: min_k (1/D) |x_k - x|^2
    diversity       of the answers to one condition: (1/D) |x_a - x_b|^2
    read right      the share of answers that a classifier reads as the right label

Answers are draws x, or means E[x | z, y]. Of draws neither error nor diversity can tell many answers from noise:
the mean distance of two draws is 2 Var(x_i | y), on average over pixels i, whether pixels go together or not, so a
regressor, all of whose pixels are independent, is as diverse as the data once each pixel has the right mean. It is
E[x | z, y] that differs from answer to answer only if z says something: for a regressor it is one and the same.
"""

from collections.abc import Sequence
from typing import Any

import torch

from ppl_vae.answered import Measured, OneToMany
from ppl_vae.answers import answer, generated, real_answers, right_labels
from ppl_vae.classifier import Classifier
from ppl_vae.conditional import ConditionalModel
from ppl_vae.errors import InputError, positive_int
from ppl_vae.estimators import estimate_evidence
from ppl_vae.missing import refuse_missing
from ppl_vae.pair import Program
from ppl_vae.splits import Split
from ppl_vae.strings import StringSplit


def measure_one_to_many(
    model: Program,
    guide: Program | None,
    split: Split | StringSplit,
    *,
    against: tuple[Program, Program | None] | None = None,
    classifier: Classifier | None = None,
    grey: Split | StringSplit | None = None,
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
        grey: the same data before they were dynamically binarized, which is noise in each pixel on its own: what
            E[x | z, y] is compared with. None compares with the data themselves, right where they have no such noise.
        num_samples: K of the importance estimate of log P(x | y).
        num_answers: A, how many answers to each condition, at least 2.
        num_nearest: how many real data stand in for one condition, where it is visible pixels.
        num_data: ask the conditions of so many of the data, evenly spaced; None asks all. Real data with the same
            condition come from the whole split.
        names: what to call the two models.
        seed: of the samples.
        progress: show progress bars; None shows them in a terminal and in a notebook.

    Returns:
        `OneToMany`. Standard errors are over the N test data, and hold the noise of A answers, too.

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
    asked = {"num_samples": num_samples, "num_nearest": num_nearest, "num_answers": num_answers}
    for option, value in asked.items():
        positive_int(option, value)
    if num_answers < 2:
        raise InputError("Expected num_answers to be at least 2, to see whether two differ; got 1.")
    for part in (split, *([] if grey is None else [grey])):
        if not isinstance(part, Split | StringSplit):
            raise InputError(
                f"Expected a Split of data with their conditions; got {type(part).__name__}. Take one from data.load, "
                f"for instance data.load('digits').test."
            )
    pairs = [(conditional(model), guide), *([] if against is None else [(conditional(against[0]), against[1])])]
    if len(pairs) > 1:
        _check_task(pairs[0][0], pairs[1][0])
    names = _names(pairs) if names is None else names
    if isinstance(names, str) or len(names) != len(pairs):
        raise InputError(f"Expected a list of {len(pairs)} names, one for each model; got {names!r}. Give as many.")
    if not pairs[0][0].y_from_x:
        right_labels(split)
    count = len(split) if num_data is None else min(positive_int("num_data", num_data), len(split))
    index = torch.linspace(0, len(split) - 1, count).long()
    chosen = split[index]
    refuse_missing(chosen.x, "to hold answers against")
    reader = None if pairs[0][0].y_from_x else classifier
    with torch.no_grad():
        real = real_answers(pairs[0][0], split, index, grey=grey, num_nearest=num_nearest)
    measured = []
    for name, (program, its_guide) in zip(names, pairs, strict=True):
        options: dict[str, Any] = {"seed": seed, "progress": progress}
        evidence = estimate_evidence(program, its_guide, chosen, num_samples=num_samples, **options)
        options |= {"num_answers": num_answers, "classifier": reader}
        draws, means = (answer(program, chosen, mean=mean, **options) for mean in (False, True))
        measured.append(Measured(name, evidence, draws, means))
    return OneToMany(measured[0], measured[1] if against else None, real, reader, num_answers, seed)


def conditional(model: Any) -> ConditionalModel:
    """Return a model if it has a condition.

    Raises:
        InputError: it has none.
    """
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


def _names(pairs: list[tuple[ConditionalModel, Any]]) -> list[str]:
    names = [type(model).__name__ for model, _ in pairs]
    return names if len(set(names)) == len(names) else ["the model", "the other"]
