"""The answers of a conditional model to one condition, and the real data that have the same condition.

An answer to y is either a draw x ~ P(x | z, y) or the mean E[x | z, y], each with its own z ~ P(z | y).
"""

from dataclasses import dataclass
from math import comb
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ppl_vae.conditional import ConditionalModel
from ppl_vae.criticism.image_classifier import Classifier
from ppl_vae.data.digit_strings import Part
from ppl_vae.data.splits import whole_labels
from ppl_vae.errors import InputError, shown, whole_number
from ppl_vae.generation.generate import sample
from ppl_vae.traces.pair import Pair
from ppl_vae.utils.progress import progress_bar
from ppl_vae.utils.report import Array, Mean, Report, Reported

ROWS = 4000  # answers held at once
DATA_AT_ONCE = 500


@dataclass(frozen=True, eq=False, repr=False)
class Answers(Reported):
    """What A answers to each of N conditions are like, on average over the D pixels that are generated."""

    errors: Array  # |x_a - x|^2 / D of each answer x_a from the truth x, [A, N]
    diversity: Array  # |x_a - x_b|^2 / D, the mean over all pairs of answers, [N]; of binary pixels how many differ
    read_right: Array | None  # the share of answers that a classifier reads as the right label, [N]

    def best_of(self, count: int) -> Array:
        """Return the expected smallest error of so many answers, [N]: see `expected_smallest`."""
        return expected_smallest(self.errors, count)

    def report(self) -> Report:
        """Return what is printed: means over the conditions."""
        count = len(self.errors)
        rows = [
            ("error", _mean(self.best_of(1)), "of an answer, squared, per pixel"),
            ("  the best", _mean(self.best_of(count)), f"of {count} answers"),
            ("diversity", _mean(self.diversity), "of two answers, squared, per pixel"),
        ]
        if self.read_right is not None:
            rows.append(("read right", _mean(self.read_right), "share of answers, by a classifier"))
        return Report(f"{count} answers to each of {self.errors.shape[1]} conditions", rows)


def _mean(values: Array) -> Mean:
    return Mean.of(values, np.full(1, np.nan))


def expected_smallest(values: Array, count: int) -> Array:
    """Return the expected smallest of `count` values drawn without replacement from A, [N], for values [A, N].

        E = sum_a C(A - a, count - 1) / C(A, count) v_(a),    with v_(1) <= ... <= v_(A),

    the mean over all subsets of that size, without bias for the smallest of `count` independent answers.

    >>> expected_smallest(np.array([[3.0], [1.0], [2.0]]), 2).round(3)  # of (3, 1), (3, 2) and (1, 2)
    array([1.333])
    """
    total = len(values)
    if not 1 <= (whole_number(count) or 0) <= total:
        raise InputError(f"Expected the best of a whole number from 1 to {total} answers; got {shown(count)}.")
    count = int(count)
    shares = [comb(total - rank, count - 1) / comb(total, count) for rank in range(1, total + 1)]
    return np.asarray(shares @ np.sort(values, axis=0))


def pairwise_distance(x: Tensor) -> Tensor:
    """Return (1/D) |x_a - x_b|^2, the mean over all pairs a != b, [N], for x [N, A, D]: twice a pixel's variance."""
    return 2 * x.double().var(dim=1).mean(-1)


def answer(
    model: ConditionalModel,
    split: Part,
    *,
    mean: bool,
    num_answers: int,
    classifier: Classifier | None = None,
    seed: int = 0,
    progress: bool | None = None,
) -> Answers:
    """Draw answers to the condition of each datum of a split, E[x | z, y] or else draws of x, and measure them."""
    errors, diversity, right = [], [], []
    with progress_bar(len(split), "E[x | z, y]" if mean else "draws of x", "datum", progress) as bar:
        for start, index in enumerate(torch.arange(len(split)).split(max(1, ROWS // num_answers))):
            own_seed = int(np.random.SeedSequence((seed, start)).generate_state(1)[0])
            some = split[index]
            y = given(model, some).repeat_interleave(num_answers, dim=0)
            x = sample(model, mean=mean, seed=own_seed, y=y).cpu()
            made = generated(model, x).unflatten(0, (len(index), num_answers)).double()
            truth = generated(model, some.x).double()
            errors.append(((made - truth[:, None]) ** 2).mean(-1).T)
            diversity.append(pairwise_distance(made))
            if classifier is not None:
                read = classifier.read(x).reshape(len(index), num_answers)
                right.append((read == right_labels(some)[:, None]).double().mean(1))
            bar.update(len(index))
    read_right = torch.cat(right).numpy() if right else None
    return Answers(torch.cat(errors, 1).numpy(), torch.cat(diversity).numpy(), read_right)


@dataclass(frozen=True, eq=False, repr=False)
class Real(Reported):
    """How different real data with one condition are, on average over the other data x' with the condition of x."""

    distance: Array  # |x - x'|^2 / D, [N]
    distance_of_grey: Array | None  # the same before dynamic binarization added noise to each pixel on its own
    nearness: Array | None  # |y - y'|^2 / V over the V visible pixels, [N]; None where conditions are just the same

    def report(self) -> Report:
        """Return what is printed: means over the conditions."""
        known = {
            "distance": (self.distance, "of two data of one condition, squared, per pixel"),
            "  grey levels": (self.distance_of_grey, "the same before binarization"),
            "nearness": (self.nearness, "of their conditions, squared, per visible pixel"),
        }
        rows = [(name, _mean(values), words) for name, (values, words) in known.items() if values is not None]
        return Report(f"Real data with the conditions of {len(self.distance)} data", rows)


def real_answers(
    model: ConditionalModel, split: Part, index: Tensor, *, grey: Part | None = None, num_nearest: int = 10
) -> Real:
    """Return how far data of a split, those of an index [N], are from other real data of the same condition.

    Data with a label, or after a string, have the condition of all data with the same (right) label. Visible pixels
    are hardly ever the same twice: the `num_nearest` data with the nearest ones stand in, as near as `nearness` says,
    and make real data look the more different, the farther they are. `grey` are the same data before binarization.
    """
    kinds = [generated(model, kind.x) for kind in (split, grey) if kind is not None]
    nearness = None
    if not model.y_from_x:
        labels = right_labels(split)
        found = [distance_to_same_label(x, labels)[index].numpy() for x in kinds]
    else:
        if len(split) < 2:
            raise InputError("Expected at least two data to compare; got one.")
        visible = _parts(model, split.x)[1]
        near = nearest(visible, index, num_nearest)
        nearness, *found = (_distance(x, index, near) for x in (visible, *kinds))
    return Real(found[0], found[1] if grey is not None else None, nearness)


def distance_to_same_label(x: Tensor, labels: Tensor) -> Tensor:
    """Return (1/D) |x_n - x_m|^2, the mean over all m != n with the same label, [N], for x [N, D]."""
    x = x.double()
    result = torch.zeros(len(x), dtype=torch.double)
    for label in labels.unique():
        (rows,) = torch.where(labels == label)
        if len(rows) < 2:
            raise InputError(
                f"Expected at least two test data of each label, to compare; got one of {label}. Use more data."
            )
        own = x[rows]
        squares = (own**2).sum(1)
        to_all = len(rows) * squares - 2 * own @ own.sum(0) + squares.sum()
        result[rows] = to_all / (len(rows) - 1) / x.shape[1]
    return result


def nearest(y: Tensor, index: Tensor, count: int) -> Tensor:
    """Return which others of y [M, V] are nearest to those of an index [N], [N, count]; equally near ones by lot."""
    lot = 1e-4 * torch.rand(len(y), generator=torch.Generator().manual_seed(0))
    found = []
    for rows in index.split(DATA_AT_ONCE):
        distance = torch.cdist(y[rows], y) ** 2 + lot
        distance[torch.arange(len(rows)), rows] = torch.inf
        found.append(distance.topk(min(count, len(y) - 1), largest=False).indices)
    return torch.cat(found)


def _distance(x: Tensor, index: Tensor, others: Tensor) -> Array:
    """Return the mean squared distance per pixel of x[n] to its others, [N], for others [N, M]."""
    pairs = zip(index.split(DATA_AT_ONCE), others.split(DATA_AT_ONCE), strict=True)
    return torch.cat([((x[n][:, None] - x[m]) ** 2).mean((1, 2)) for n, m in pairs]).double().numpy()


def given(model: ConditionalModel, split: Part) -> Tensor:
    """Return the conditions of the data of a split, as `sample` takes them."""
    return split.x if model.y_from_x else split.take_y(torch.arange(len(split)))


def generated(model: ConditionalModel, x: Tensor) -> Tensor:
    """Return the part of images that is generated, [N, D], for x [N, *event_shape]."""
    return _parts(model, x)[0] if model.y_from_x else x.flatten(1)


def _parts(model: ConditionalModel, x: Tensor) -> list[Tensor]:
    """Return the part of images that is generated, and the part that is given, [N, D] and [N, V]."""
    parts: Any = model.condition.split(x.to(Pair(model).device), None)
    return [part.flatten(1).cpu() for part in parts]


def right_labels(split: Part) -> Tensor:
    """Return what the answers to the conditions of a split show if they are right, [N]."""
    labels = whole_labels(split.labels)
    if labels is None:
        got = "none" if split.labels is None else f"{split.labels.dtype} {tuple(split.labels.shape)}"
        raise InputError(
            f"Expected labels of the data, whole numbers, to say which answers are right; got {got}. Use a data set "
            f"with labels."
        )
    return labels
