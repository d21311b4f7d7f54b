"""Strings of images: they succeed modulo ten, come from their own part, and are fixed but in training."""

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch

from ppl_vae import InputError, data, estimate_evidence, fit
from ppl_vae.data import sources
from ppl_vae.data.as_source import as_source, fingerprint
from ppl_vae.data.sources import SplitSource
from ppl_vae.traces.pair import Pair

PARTS = ("train", "validation", "test")


@pytest.fixture(scope="module")
def numbered(tmp_path_factory):
    """A file of 400 "images" that say of themselves who they are: (label, number), and its parts."""
    path = tmp_path_factory.mktemp("numbered") / "numbered.npz"
    labels = np.arange(400) % 10
    x = np.stack([labels, np.arange(400)], 1).astype(np.float32)
    parts = {"train": slice(0, 250), "valid": slice(250, 320), "test": slice(320, 400)}
    np.savez(path, **{k: x[i] for k, i in parts.items()}, **{f"{k}_y": labels[i] for k, i in parts.items()})
    return path


@pytest.mark.parametrize("length", [1, 3, 12])
def test_strings_succeed_modulo_ten(numbered, length):
    loaded = data.load(numbered, strings=length)
    assert loaded.strings == length
    for part in (getattr(loaded, name) for name in PARTS):
        expected = (part.x[:, :1] - torch.arange(length, 0, -1)) % 10
        assert torch.equal(part.labels, part.x[:, 0].long())
        assert torch.equal(part.string_labels, expected.long())
        index = torch.arange(len(part))
        for y in (part.y, part.draw_y(index), part.draw_y(index)):
            assert y.shape == (len(part), length, 2)
            assert torch.equal(y[..., 0], expected)
    assert data.load("digits", strings=3).test.string_labels[0].tolist() == [0, 1, 2]  # before its first, a 3


def test_parts_never_mix_and_every_image_has_its_turn(numbered):
    loaded = data.load(numbered, strings=3)
    for name in PARTS:
        part = getattr(loaded, name)
        own, index = set(part.x[:, 1].tolist()), torch.arange(len(part))
        assert set(part.y[..., 1].flatten().tolist()) <= own
        seen = torch.cat([part.draw_y(index) for _ in range(20)])
        assert set(seen[..., 1].flatten().tolist()) == own
    # Also where a part of the part asks: its strings come from the whole of it.
    few = loaded.test[:5]
    seen = torch.cat([few.draw_y(torch.arange(5)) for _ in range(200)])
    assert len(seen[..., 1].unique()) > 40


def test_images_are_chosen_evenly(numbered):
    train = data.load(numbered, strings=1).train
    index = torch.full((20_000,), 4)  # always the same datum: 25 images of the digit before its own
    counts = np.unique(train.draw_y(index)[:, 0, 1].numpy(), return_counts=True)[1]
    assert len(counts) == 25
    assert ((counts - 800) ** 2 / 800).sum() < 24 + 5 * np.sqrt(2 * 24)


def test_strings_are_fixed_but_in_training():
    loaded = data.load("digits", strings=3)
    train, again = loaded.train, data.load("digits", strings=3).train
    y = train.y
    assert torch.equal(again.y, y)
    assert torch.equal(train[::10].y, y[::10])
    assert torch.equal(train[::10][[3, 1]].y, y[[30, 10]])
    assert torch.equal(train[100:].take_y(torch.tensor([5, 0])), y[[105, 100]])
    index = torch.arange(len(train))
    torch.manual_seed(0)
    first, second = train.draw_y(index), train.draw_y(index)
    assert (first != second).flatten(1).any(1).float().mean() > 0.9
    torch.manual_seed(0)
    assert torch.equal(train.draw_y(index), first)
    assert torch.equal(train.y, y)


@pytest.mark.parametrize("binarize", ["dynamic", "random_threshold", "threshold"])
def test_images_of_strings_are_binarized_like_x(binarize):
    loaded = data.load("digits", strings=2, binarize=binarize)
    for part in (loaded.train, loaded.test):
        images = {tuple(x.flatten().tolist()) for x in part.x}
        assert {tuple(x.flatten().tolist()) for x in part.y.flatten(0, 1)} <= images  # the fixed draw of each
    drawn = loaded.train.draw_y(torch.arange(1297)).flatten(0, 1)
    assert set(drawn.unique().tolist()) == {0.0, 1.0}
    if binarize != "threshold":
        images = {tuple(x.flatten().tolist()) for x in loaded.train.x}
        fresh = [tuple(x.flatten().tolist()) not in images for x in drawn]
        assert np.mean(fresh) > 0.3


class Conditional:
    """x ~ N(mean of y + z, 1) with z ~ N(0, 1): log P(x | y) in closed form."""

    def model(self, x, y):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))
            pyro.sample("x", dist.Normal(y.flatten(1).mean(1) + z, 1.0), obs=x[:, 0])

    def guide(self, x, y):
        with pyro.plate("data", len(x)):
            shift = pyro.param("shift", torch.tensor(0.0))
            pyro.sample("z", dist.Normal((x[:, 0] - y.flatten(1).mean(1)) / 2 + shift, 0.5**0.5))


def test_fit_and_evidence_take_strings(numbered):
    loaded = data.load(numbered, strings=3)
    pair = Conditional()
    evidence = estimate_evidence(pair.model, pair.guide, loaded.test, num_samples=10)
    mean = loaded.test.y.flatten(1).mean(1)
    exact = torch.distributions.Normal(mean, 2**0.5).log_prob(loaded.test.x[:, 0])
    np.testing.assert_allclose(evidence.log_px, exact, rtol=1e-5, atol=1e-3)
    part = estimate_evidence(pair.model, pair.guide, loaded.test[::10], num_samples=10)
    np.testing.assert_allclose(part.log_px, exact[::10], rtol=1e-5, atol=1e-3)
    fitted = fit(pair.model, pair.guide, loaded.train, validation=loaded.validation, epochs=2, learning_rate=1e-6)
    exact = torch.distributions.Normal(loaded.validation.y.flatten(1).mean(1), 2**0.5)
    expected = float(exact.log_prob(loaded.validation.x[:, 0]).mean())
    assert fitted.history.validation_elbo[0] == pytest.approx(expected, rel=1e-4)
    assert fitted.history.train_elbo[0] != fitted.history.train_elbo[1]  # other strings


def test_batches_and_fingerprint(numbered):
    train = data.load(numbered, strings=3).train
    source = as_source(train, Pair(Conditional().model))
    x, y = zip(*source.batches(40), strict=True)
    assert torch.equal(torch.cat(x), train.x)
    assert torch.equal(torch.cat(y), train.y)
    shuffled = [torch.cat(t) for t in zip(*source.batches(40, shuffle=True), strict=True)]
    assert torch.equal((shuffled[0][:, :1] - torch.arange(3, 0, -1)) % 10, shuffled[1][..., 0])  # rows stay together
    assert not torch.equal(shuffled[0], train.x)
    assert fingerprint(source) == fingerprint(SplitSource(data.load(numbered, strings=3).train, with_y=True))
    assert fingerprint(source) != fingerprint(SplitSource(data.load(numbered, strings=2).train, with_y=True))
    assert "StringSplit of 250" in repr(train) and "string of 3" in repr(train)


def test_strings_are_not_made_before_they_are_asked_for(numbered, monkeypatch):
    train = data.load(numbered, strings=3).train
    monkeypatch.setattr(sources, "NUMBERS_AT_ONCE", 10 * 4 * train.event_shape.numel())  # ten data with their strings
    largest = []
    take = type(train.pool).take
    monkeypatch.setattr(type(train.pool), "take", lambda self, index: largest.append(len(index)) or take(self, index))
    for _ in SplitSource(train, with_y=True).batches(10):
        pass
    assert max(largest) == 30


def x_only(x):
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Normal(torch.zeros(len(x), 2), 1.0).to_event(1), obs=x)


def y_second(x=None, y=None, *, size=None):
    pass


def y_by_name(x, *, y=None):
    pass


def y_third(x, mask, y=None):
    pass


class FromX(torch.nn.Module):
    y_from_x = True

    def forward(self, x=None, y=None):
        pass

    def model(self, x, y=None):
        pass


class NotFromX(FromX):
    y_from_x = False


CALLS = [
    (x_only, False),
    (y_second, True),
    (y_by_name, False),
    (y_third, False),
    (FromX(), False),
    (FromX().model, False),
    (NotFromX(), True),
    (NotFromX().model, True),
]


@pytest.mark.parametrize(("model", "expected"), CALLS)
def test_who_is_given_labels(digits, model, expected):
    pair = Pair(model)
    assert pair.takes_labels() is expected
    if model is not y_third:  # a mask is not among our data
        for split in (digits.test, data.load("digits", strings=2).test):
            assert len(next(as_source(split, pair).batches(5))) == 1 + expected


def spoiled(tmp_path, y):
    np.savez(tmp_path / "a.npz", x=np.random.default_rng(0).random((len(y), 3)), y=y)
    return tmp_path / "a.npz"


DIGITS = np.arange(400) % 10
CASES = {
    "too short": (lambda t: "digits", 0, "strings .* whole number of at least 1; got 0"),
    "half an image": (lambda t: "digits", 2.5, "strings .* whole number of at least 1; got 2.5"),
    "a word": (lambda t: "digits", "3", "strings .* got '3'"),
    "no labels": (lambda t: "freyfaces", 3, "labels of digits in the train part of freyfaces.*got none"),
    "eleven": (lambda t: spoiled(t, DIGITS + 1), 3, "from 0 to 9 .*got values from 1 to 10"),
    "negative": (lambda t: spoiled(t, DIGITS - 1), 3, "from 0 to 9 .*got values from -1 to 8"),
    "fractions": (lambda t: spoiled(t, DIGITS / 2), 3, "whole numbers from 0 to 9 .*got values from 0 to 4.5"),
    "two for each": (lambda t: spoiled(t, np.stack([DIGITS, DIGITS], 1)), 3, "whole numbers from 0 to 9"),
    "a digit missing": (lambda t: spoiled(t, DIGITS.clip(max=8)), 3, "all ten digits in the train part.*none of 9"),
    "few data": (lambda t: spoiled(t, DIGITS[:40]), 3, "all ten digits in the validation part"),
}


@pytest.mark.parametrize("case", CASES)
def test_what_is_wrong_is_said(tmp_path, monkeypatch, case):
    make, length, message = CASES[case]
    if case == "no labels":
        monkeypatch.setenv("PPL_VAE_DATA", str(tmp_path))
        np.savez(tmp_path / "freyfaces.npz", images=np.zeros((1965, 28, 20), dtype=np.uint8))
    with pytest.raises(InputError, match=message):
        data.load(make(tmp_path), strings=length)


def test_labels_that_come_as_real_numbers(tmp_path):
    loaded = data.load(spoiled(tmp_path, np.tile(DIGITS, 5).astype(float)), strings=2)
    assert loaded.test.labels.dtype == torch.int64
    assert loaded.test.y.shape == (200, 2, 3)


def test_strings_of_mnist(real_data):
    mnist = real_data("mnist", strings=3, binarize="random_threshold")
    assert mnist.test[:4].labels.tolist() == [7, 2, 1, 0]
    assert mnist.test[:4].string_labels.tolist() == [[4, 5, 6], [9, 0, 1], [8, 9, 0], [7, 8, 9]]
    assert mnist.train[:7].y.shape == (7, 3, 1, 28, 28)
