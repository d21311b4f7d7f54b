"""How many classes labels have is read off them only where they say so."""

import numpy as np
import pytest

import ppl_vae
from ppl_vae import InputError, data

X = (np.random.default_rng(0).random((60, 6)) < 0.5).astype(float)
ONE_OF_THREE = np.arange(60) % 3
SMALL = {"networks.hidden": 8, "prior.latent_dim": 2, "fit.epochs": 1}

REFUSED = {
    "from one on": (ONE_OF_THREE + 1, r"got 3 labels from 1 to 3. Write them as y = np.unique\(.*\)\[1\]\.$"),
    "with a gap": (ONE_OF_THREE * 2, r"got 3 labels from 0 to 4.*condition.num_classes=5\)\.$"),
    "codes": (np.arange(60) * 20_000, r"got 60 labels from 0 to 1180000\. Write them as .*\[1\]\.$"),
    "-1 and 1": (np.where(ONE_OF_THREE == 1, 1, -1), r"got 2 labels from -1 to 1\..*\[1\]\.$"),
}


def train(folder, y, **settings):
    np.savez(folder / "a.npz", x=X, y=y)
    options = dict(data=str(folder / "a.npz"), networks="concatenated", out=folder / "run", num_samples=5)
    return ppl_vae.train("cvae", settings=SMALL | settings, **options)


@pytest.mark.parametrize("case", REFUSED)
def test_labels_that_do_not_say_how_many_classes_there_are_are_refused(tmp_path, case):
    y, message = REFUSED[case]
    with pytest.raises(InputError, match=message):
        train(tmp_path, y)
    assert not (tmp_path / "run").exists()


def test_what_somebody_says_holds(tmp_path):
    assert train(tmp_path, ONE_OF_THREE * 2, **{"condition.num_classes": 5}).model.condition.num_classes == 5


@pytest.mark.parametrize("dtype", [int, float, "uint8"])
def test_classes_that_all_occur_are_counted(tmp_path, dtype):
    assert train(tmp_path, ONE_OF_THREE.astype(dtype)).model.condition.num_classes == 3


def test_a_class_may_be_in_another_part_only(tmp_path):
    labels = {"train_y": [0, 2], "validation_y": [1, 0], "test_y": [0, 1]}
    np.savez(tmp_path / "a.npz", train=X[:2], validation=X[2:4], test=X[4:6], **labels)
    data.load(tmp_path / "a.npz").check_classes()


def test_other_models_do_not_mind(tmp_path):
    np.savez(tmp_path / "a.npz", x=X, y=REFUSED["codes"][0])
    ppl_vae.train("vae", data=str(tmp_path / "a.npz"), settings={"fit.epochs": 1}, out=tmp_path / "run", num_samples=5)
