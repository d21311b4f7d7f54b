"""Measures of one-to-many against closed forms and brute force; the classifier that reads, and what is wrong."""

import itertools
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from bounds import check_means
from ppl_vae.guides import Conditional, NoLatents
from ppl_vae.models import CVAE, VAE, ImageCompletion, NextDigit, Regressor

import ppl_vae
from ppl_vae import InputError, cli, data, fit_classifier, measure_one_to_many
from ppl_vae.architectures import Concatenated
from ppl_vae.conditional import ConditionalModel
from ppl_vae.conditions import DigitString, Label, Visible
from ppl_vae.criticism.answers import (
    answer,
    distance_to_same_label,
    expected_smallest,
    generated,
    nearest,
    pairwise_distance,
    real_answers,
)
from ppl_vae.criticism.image_classifier import Classifier
from ppl_vae.utils.report import Mean

SMALL = Concatenated(hidden=16)
SHAPE = (1, 8, 8)
EXACT = Mean(1.0, 0.0, 0.0)


class Coins(ConditionalModel):
    """Every pixel 1 with probability p_y, all on their own: z says nothing."""

    def __init__(self, p):
        super().__init__(SHAPE, Label(10), None)
        self.p = torch.as_tensor(p)

    def forward(self, x=None, y=None, *, size=None):
        with self.plate(x, size, y):
            y = pyro.sample("y", self.condition(), obs=y, infer=self.condition.infer)
            p = self.p[y][..., None, None, None].expand(*y.shape, *SHAPE)
            return pyro.sample("x", dist.Bernoulli(p).to_event(3), obs=x)


class Switch(Coins):
    """z is a coin, and E[x | z, y] is p_y or 1 - p_y in all pixels."""

    def forward(self, x=None, y=None, *, size=None):
        with self.plate(x, size, y):
            y = pyro.sample("y", self.condition(), obs=y, infer=self.condition.infer)
            z = pyro.sample("z", dist.Bernoulli(0.5 * torch.ones(y.shape)))
            p = (z * self.p[y] + (1 - z) * (1 - self.p[y]))[..., None, None, None].expand(*y.shape, *SHAPE)
            return pyro.sample("x", dist.Bernoulli(p).to_event(3), obs=x)


P = torch.linspace(0.05, 0.5, 10)


@pytest.fixture(scope="module")
def digits_test():
    return data.load("digits").test


@pytest.fixture(scope="module")
def random_thresholds():
    return data.load("digits", binarize="random_threshold").test


def read(function):
    """A classifier that reads by a function of the vectors of pixels."""
    return Classifier(SimpleNamespace(predict=function), EXACT, EXACT)


def test_best_of_is_the_mean_over_all_subsets():
    errors = np.random.default_rng(0).random((6, 4))
    for count in range(1, 7):
        subsets = [errors[list(rows)].min(0) for rows in itertools.combinations(range(6), count)]
        np.testing.assert_allclose(expected_smallest(errors, count), np.mean(subsets, 0))
    uniform = np.random.default_rng(1).random((10, 20_000))
    assert expected_smallest(uniform, 4).mean() == pytest.approx(1 / 5, abs=0.003)  # E min of 4 uniforms
    for count in (0, 7, 2.0, True):
        with pytest.raises(InputError, match="from 1 to 6 answers"):
            expected_smallest(errors, count)


def test_distances_are_those_of_all_pairs():
    x = torch.rand(3, 5, 7)
    pairs = [((x[:, a] - x[:, b]) ** 2).mean(-1) for a, b in itertools.combinations(range(5), 2)]
    np.testing.assert_allclose(pairwise_distance(x), torch.stack(pairs).mean(0), rtol=1e-5)
    labels = torch.tensor([0, 1, 0, 1, 0, 2, 2])
    x = torch.rand(7, 9)
    expected = [
        np.mean([float(((x[n] - x[m]) ** 2).mean()) for m in range(7) if m != n and labels[m] == labels[n]])
        for n in range(7)
    ]
    np.testing.assert_allclose(distance_to_same_label(x, labels), expected, rtol=1e-5)


def test_answers_of_independent_pixels(digits_test):
    """Draws differ in 2 p (1 - p) of their pixels; a draw differs from x in p (1 - x) + (1 - p) x; means do not."""
    p, x = P[digits_test.labels], digits_test.x.flatten(1).mean(1)
    draws = answer(Coins(P), digits_test, mean=False, num_answers=40)
    assert draws.errors.shape == (40, 300) and draws.diversity.shape == (300,) and draws.read_right is None
    np.testing.assert_allclose(draws.diversity, 2 * p * (1 - p), atol=0.06)
    check_means(draws.diversity - (2 * p * (1 - p)).numpy(), 0.0)
    check_means(draws.errors.mean(0) - (p * (1 - x) + (1 - p) * x).numpy(), 0.0)
    means = answer(Coins(P), digits_test, mean=True, num_answers=3)
    np.testing.assert_allclose(means.diversity, 0, atol=1e-12)
    np.testing.assert_allclose(means.errors[2], (1 - 2 * p) * x + p**2, rtol=1e-4)
    np.testing.assert_allclose(means.best_of(3), means.best_of(1))


def test_answers_of_a_latent(digits_test):
    """Two means differ in half of the pairs, by (1 - 2 p)^2; two draws as often as fair coins do."""
    p, x = P[digits_test.labels], digits_test.x.flatten(1).mean(1)
    means = answer(Switch(P), digits_test, mean=True, num_answers=40)
    check_means(means.diversity - (0.5 * (1 - 2 * p) ** 2).numpy(), 0.0)
    nearer = torch.minimum(x + p**2 - 2 * p * x, x + (1 - p) ** 2 - 2 * (1 - p) * x)
    np.testing.assert_allclose(means.best_of(40), nearer, rtol=1e-4)
    draws = answer(Switch(P), digits_test, mean=False, num_answers=40)
    check_means(draws.diversity, 0.5)


def test_what_is_read_is_held_against_the_right_label(digits_test):
    labels = digits_test.labels.numpy()
    model = Coins(torch.arange(10) / 10)  # E[x | y] = y / 10: its label can be seen
    cases = {
        "each": (np.ones(300), lambda x: (10 * x[:, 0]).round()),
        "three": (labels == 3, lambda x: np.full(len(x), 3)),
        "next": (np.zeros(300), lambda x: (10 * x[:, 0]).round() + 1),
        "half of the answers": (np.full(300, 0.5), lambda x: (10 * x[:, 0]).round() + np.arange(len(x)) % 2),
    }
    for expected, function in cases.values():  # in two chunks
        given = answer(model, digits_test, mean=True, num_answers=20, classifier=read(function))
        np.testing.assert_array_equal(given.read_right, expected)
    draws = answer(model, digits_test, mean=False, num_answers=20, classifier=read(lambda x: x[:, 7]))
    assert draws.read_right[labels > 1].max() == 0 and (draws.read_right[labels == 0] == 1).all()
    check_means(draws.read_right[labels == 1], 0.1)


def test_the_right_label_of_a_string_succeeds_it():
    strings = data.load("digits", strings=2).test
    model = NextDigit(SHAPE, DigitString(2), networks=SMALL)
    successor = (strings.string_labels[:, -1] + 1) % 10
    last = read(lambda x: np.repeat(successor.numpy(), 3))
    assert (answer(model, strings, mean=True, num_answers=3, classifier=last).read_right == 1).all()


def test_real_data_with_the_same_label(digits_test):
    grey = data.load("digits", binarize=None).test
    index = torch.arange(0, 300, 7)
    real = real_answers(Coins(P), digits_test, index, grey=grey)
    np.testing.assert_allclose(real.distance, distance_to_same_label(digits_test.x.flatten(1), digits_test.y)[index])
    assert real.nearness is None and real.distance_of_grey.mean() < real.distance.mean()
    # Binarized pixels of one image: E |x - x'|^2 = |g - g'|^2 + g (1 - g) + g' (1 - g').
    g = grey.x.flatten(1)
    noise = 2 * float((g * (1 - g)).mean())
    assert real.distance.mean() == pytest.approx(real.distance_of_grey.mean() + noise, rel=0.05)


def test_real_data_with_the_nearest_visible_pixels(random_thresholds):
    model = ImageCompletion(SHAPE, Visible("quadrant"), networks=SMALL)
    x = random_thresholds.x
    index = torch.arange(5, 300, 11)
    real = real_answers(model, random_thresholds, index, num_nearest=4)
    y, hidden = x[:, 0, 4:, :4].flatten(1).numpy(), x.flatten(1)[:, ~model.condition.mask.flatten()].numpy()
    for row, n in enumerate(index.tolist()):
        apart = ((y - y[n]) ** 2).mean(1)
        apart[n] = np.inf
        order = np.sort(apart)
        assert real.nearness[row] == pytest.approx(order[:4].mean(), abs=1e-6)
        sure = np.flatnonzero(apart < order[3])  # those at the same distance as the last are chosen by lot
        among = np.sort(((hidden[apart == order[3]] - hidden[n]) ** 2).mean(1))
        fixed = ((hidden[sure] - hidden[n]) ** 2).mean(1).sum()
        left = 4 - len(sure)
        assert fixed + among[:left].sum() - 1e-6 <= 4 * real.distance[row] <= fixed + among[-left:].sum() + 1e-6
    assert nearest(torch.rand(3, 2), torch.arange(3), 10).shape == (3, 2)


def test_hidden_pixels_only_are_measured(random_thresholds):
    model = ImageCompletion(SHAPE, networks=SMALL)
    assert generated(model, random_thresholds.x).shape == (300, 56)
    draws = answer(model, random_thresholds[:20], mean=False, num_answers=5)
    y = random_thresholds[:20].x.repeat_interleave(5, 0)
    seed = int(np.random.SeedSequence((0, 0)).generate_state(1)[0])
    x = ppl_vae.sample(model, y=y, seed=seed)
    np.testing.assert_allclose(draws.errors.T.flatten(), ((x - y) ** 2).sum((1, 2, 3)) / 56, rtol=1e-5)


@pytest.mark.parametrize("task", ["label", "visible", "string"])
def test_every_kind_of_condition_beside_its_regressor(task):
    condition = {"label": Label, "visible": Visible, "string": lambda: DigitString(2)}[task]
    model_class = {"label": CVAE, "visible": ImageCompletion, "string": NextDigit}[task]
    model, regressor = model_class(SHAPE, condition(), networks=SMALL), Regressor(SHAPE, condition(), networks=SMALL)
    test = data.load("digits", strings=2 if task == "string" else None).test
    result = measure_one_to_many(
        model, Conditional(model), test, against=(regressor, NoLatents(regressor)), num_samples=30, num_answers=6,
        num_data=40, classifier=read(lambda x: np.zeros(len(x))),
    )  # fmt: skip
    assert len(result) == 40 and result.counts == [1, 2, 5, 6]
    assert (result.classifier is None) == (task == "visible")
    log_px = [one.evidence.log_px for one in (result.model, result.against)]
    expected = log_px[0] - log_px[1]
    paired = result.difference()
    assert paired.value == pytest.approx(expected.mean())
    assert paired.se == pytest.approx(expected.std(ddof=1) / 40**0.5)
    assert paired.mcse == pytest.approx(np.sqrt((result.model.evidence.mcse**2).sum()) / 40, rel=1e-3)
    assert result.against.means.diversity.max() < 1e-12 < result.model.means.diversity.min()
    assert result.share_of_real(against=True).value < 1e-10
    share = result.share_of_real(mean=False)
    assert share.value == pytest.approx(result.model.draws.diversity.mean() / result.real.distance.mean())
    for text in (str(result), result._repr_html_()):
        for part in ("log P(x | y)", "difference", "best of 6", "diversity of means", "one mean of Regressor"):
            assert part in text
        assert ("read right" in text) == (task != "visible")
        assert ("nearest visible pixels" in text) == (task == "visible")


def test_one_model_alone_and_the_same_again(digits_test):
    model = CVAE(SHAPE, networks=SMALL)
    some = {"num_samples": 2, "num_data": 40}
    results = [measure_one_to_many(model, Conditional(model), digits_test, **some) for _ in range(2)]
    np.testing.assert_array_equal(results[0].model.draws.errors, results[1].model.draws.errors)
    other = measure_one_to_many(model, Conditional(model), digits_test, **some, seed=1)
    assert (results[0].model.draws.errors != other.model.draws.errors).any()
    assert "difference" not in str(other) and "read right" not in str(other)
    with pytest.raises(InputError, match="another model to subtract; got none"):
        other.difference()


@pytest.fixture(scope="module")
def classifier():
    return fit_classifier(data.load("digits"), num_images=300_000)


def test_classifier_reads_real_digits(classifier, digits_test):
    grey = data.load("digits", binarize=None).test
    for x, accuracy, least in ((grey.x, classifier.accuracy_of_grey, 0.95), (digits_test.x, classifier.accuracy, 0.87)):
        right = (classifier.read(x) == grey.y).double().mean()
        assert accuracy.value == pytest.approx(float(right)) and right >= least
        assert accuracy.se == pytest.approx(np.sqrt(accuracy.value * (1 - accuracy.value) / 299))


def test_classifier_learns_from_training_data_only(tmp_path):
    """Light and dark images are called 1 and 0 in the training data, and the other way round in the others."""
    y = np.arange(200) % 2
    x = np.random.default_rng(0).random((200, 4, 4)) * 0.2 + 0.8 * y[:, None, None]
    own = {"train": x, "valid": x, "test": x, "train_y": y, "valid_y": 1 - y, "test_y": 1 - y}
    np.savez(tmp_path / "own.npz", **{k: v.astype(np.float32) for k, v in own.items()})
    reader = fit_classifier(data.load(tmp_path / "own.npz"), num_images=20_000)
    assert reader.accuracy.value == reader.accuracy_of_grey.value == 0


def test_classifier_is_seeded():
    digits = data.load("digits")
    before = torch.random.get_rng_state()
    one, again, other = (fit_classifier(digits, num_images=3000, seed=s) for s in (0, 0, 1))
    assert torch.equal(torch.random.get_rng_state(), before)
    x = digits.test.x.flatten(1).numpy()
    np.testing.assert_array_equal(one.network.predict_proba(x), again.network.predict_proba(x))
    assert (one.network.predict_proba(x) != other.network.predict_proba(x)).any()


def test_wrong_things_are_said(digits_test, random_thresholds, tmp_path):
    model, other = CVAE(SHAPE, networks=SMALL), Regressor(SHAPE, networks=SMALL)
    guide = Conditional(model)
    measured = measure_one_to_many
    with pytest.raises(InputError, match=r"Expected a conditional model.*got VAE"):
        measured(VAE(SHAPE), None, digits_test)
    with pytest.raises(InputError, match=r"models of one task; got Label .* against Visible"):
        measured(model, guide, digits_test, against=(other, NoLatents(other)))
    left, right = (
        ImageCompletion(SHAPE, Visible([[int(w == column) for w in range(8)]] * 8), networks=SMALL) for column in (1, 2)
    )
    with pytest.raises(InputError, match=r"one task;.* elsewhere in the image"):
        measured(left, Conditional(left), random_thresholds, against=(right, Conditional(right)))
    with pytest.raises(InputError, match=r"Expected labels of the data.*got none"):
        measured(model, guide, replace(digits_test, y=None))
    with pytest.raises(InputError, match="at least two test data of each label"):
        measured(model, guide, digits_test[:5], num_samples=2)
    with pytest.raises(InputError, match="at least two data"):
        measured(left, Conditional(left), random_thresholds[:1], num_samples=2)
    with pytest.raises(InputError, match=r"Expected a Split of data.*got tuple"):
        measured(model, guide, (digits_test.x, digits_test.y))
    for names in (["a"], ["a", "b", "c"], "ab"):
        with pytest.raises(InputError, match="list of 2 names"):
            measured(model, guide, digits_test, against=(model, guide), names=names)
    with pytest.raises(InputError, match="num_answers to be at least 2"):
        measured(model, guide, digits_test, num_answers=1)
    for option in ("num_samples", "num_answers", "num_nearest", "num_data"):
        with pytest.raises(InputError, match=f"{option} .*got 0"):
            measured(model, guide, digits_test, **{option: 0})
    np.save(tmp_path / "a.npy", np.random.default_rng(0).random((30, 4, 4)).astype(np.float32))
    with pytest.raises(InputError, match=r"Expected labels in .*a.npy .*got none"):
        fit_classifier(data.load(tmp_path / "a.npy"))


def test_from_the_command_line(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    few = {"networks.hidden": 16, "fit.epochs": 1}
    ppl_vae.train("image_completion", settings=few, out="a", num_samples=2)
    ppl_vae.train("regressor", settings=few, out="b", num_samples=2)
    ppl_vae.train("regressor", settings=few, out="c", condition="label", num_samples=2)

    def call(*arguments):
        with pytest.raises(SystemExit) as exit_:
            cli.main(["measure", *arguments])
        return exit_.value.code, *capsys.readouterr()

    capsys.readouterr()
    code, out, _ = call("a", "--against", "b", "-k", "20", "--num-data", "30", "--num-answers", "4")
    assert code == 0 and "a, beside b; 30 test data, 4 answers" in out
    assert Path("a/measures.txt").read_text() in out and Path("a/figures/answers.png").exists()
    code, _, err = call("a", "--against", "c")
    assert code == 2 and "two runs on the same test data" in err

    def full(*_):
        raise InputError("the disk is full")

    monkeypatch.setattr("ppl_vae.runs.evaluate.keep_measures", full)  # what was measured is printed before
    with pytest.warns(UserWarning, match="a does not have all of these measures: the disk is full"):
        code, out, _ = call("a", "-k", "20", "--num-data", "30", "--num-answers", "4")
    assert code == 0 and "30 test data, 4 answers" in out
