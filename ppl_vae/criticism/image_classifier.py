"""An independent reader of images: a classifier that has seen real training data only, to judge generated ones.

It learns from both kinds of images that are generated, half and half: grey levels, as E[x | z, y] has, and binarized
afresh each time as the model's data are. Of each it says how often it reads real test data right.
"""

import warnings
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ppl_vae.data import Data
from ppl_vae.data.digit_strings import Part
from ppl_vae.data.splits import whole_labels
from ppl_vae.errors import InputError, positive_int, whole_from
from ppl_vae.missing import refuse_missing
from ppl_vae.utils.progress import progress_bar
from ppl_vae.utils.report import Mean
from ppl_vae.utils.rng import seeded

HIDDEN = (512,)
NUM_IMAGES = 600_000  # seen in all: some 10 s for the digits, 30 s for MNIST, on one core
AT_ONCE = 10_000  # made and handed on together; steps are taken on 200
UNKNOWN = np.full(1, np.nan)  # there is no Monte Carlo error apart from the standard error


@dataclass(frozen=True, eq=False)
class Classifier:
    """A reader of images, with the share of real test data that it reads right."""

    network: Any  # a scikit-learn classifier of vectors of pixels
    accuracy: Mean  # of test data binarized as the model's are
    accuracy_of_grey: Mean  # of the same before they were binarized

    def read(self, x: Tensor) -> Tensor:
        """Return the label that each image is read as, [N], for x [N, *event_shape]."""
        return torch.as_tensor(self.network.predict(x.flatten(1).cpu().numpy()))


def fit_classifier(
    data: Data, *, num_images: int = NUM_IMAGES, seed: int = 0, progress: bool | None = None
) -> Classifier:
    """Train a reader on the training data of a labelled data set, and see how well it reads the test data.

    A perceptron of one hidden layer of 512, by Adam, on all training labels, also those that a model was not given.

    Args:
        data: a data set of images, as `ppl_vae.data.load` gives it.
        num_images: how many training images it sees, with repetition.
        seed: of its weights, of the order of the images and of their binarization.
        progress: show a progress bar; None shows it in a terminal and in a notebook.

    Raises:
        InputError: data without labels, or labels that are not whole numbers.

    >>> from ppl_vae import data
    >>> digits = data.load("digits")
    >>> classifier = fit_classifier(digits, num_images=50_000)
    >>> classifier.read(digits.test.x).shape, classifier.accuracy_of_grey.value > 0.9
    (torch.Size([300]), True)
    """
    from sklearn.neural_network import MLPClassifier

    num_images, seed = positive_int("num_images", num_images), whole_from(0, "a seed", seed)
    if not isinstance(data, Data):
        raise InputError(f"Expected data of ppl_vae.data.load; got {type(data).__name__}. Load them: load('mnist').")
    for part in (data.train, data.test):
        refuse_missing(part.x, "to train a classifier on and to test it")
    grey = data.as_stored()
    train: Any = grey.train
    y, expected = (_labels(part, data.name).numpy() for part in (train, grey.test))
    binarized = replace(train, binarize=data.binarize)
    network = MLPClassifier(HIDDEN, random_state=seed % 2**32)
    seen = 0
    bar = progress_bar(num_images, "classifier", "image", progress)
    with seeded(seed), bar, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Got `batch_size` less than 1 or larger")  # of a last, small part
        while seen < num_images:
            for index in torch.randperm(len(train)).split(AT_ONCE):
                as_stored = (torch.rand(len(index)) < 0.5).reshape(-1, *[1] * len(train.event_shape))
                x = torch.where(as_stored, train.grey(index), binarized.draw(index))
                network.partial_fit(x.flatten(1).numpy(), y[index], classes=np.unique(y))
                seen += len(index)
                bar.update(len(index))

    def right(x: Tensor) -> Mean:
        """Return the share of test images that are read right."""
        return Mean.of((network.predict(x.flatten(1).numpy()) == expected).astype(np.float64), UNKNOWN)

    return Classifier(network, right(data.test.x), right(grey.test.x))


def _labels(part: Part, name: str) -> Tensor:
    labels = whole_labels(part.y)
    if labels is None:
        raise InputError(
            f"Expected labels in {name} to train a classifier on, whole numbers, one for each image; got "
            f"{'none' if part.y is None else part.y.dtype}. Give the file an array of labels."
        )
    return labels
