"""Data of which some have labels: both kinds in training, each datum once, and clear refusals elsewhere."""

import math
import warnings

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from bounds import check_evidence
from pairs import MEANS, SHARES
from pyro.infer import TraceEnum_ELBO

from ppl_vae import InputError, data, estimate_evidence, fit
from ppl_vae.data.as_source import as_source, fingerprint
from ppl_vae.data.sources import PartlyLabelled, SplitSource, TensorSource
from ppl_vae.traces.pair import Pair

ENUMERATED = {"enumerate": "parallel"}
pytestmark = pytest.mark.filterwarnings("ignore:.*have the label -1")


def model(x, y=None):
    """x ~ N(mean_y + z, 1) with y ~ Categorical and z ~ N(0, 1): log P(x, y) = log P(y) + log N(x; mean_y, 2)."""
    with pyro.plate("data", len(x)):
        y = pyro.sample("y", dist.Categorical(SHARES), obs=y, infer=ENUMERATED)
        z = pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))
        pyro.sample("x", dist.Normal(MEANS[y] + z, 1.0), obs=x)


def guide(x, y=None):
    """A classifier Q(y | x) that is wrong, and the exact P(z | x, y)."""
    scale = pyro.param("scale", torch.tensor(0.5**0.5))
    with pyro.plate("data", len(x)):
        if y is None:
            y = pyro.sample("y", dist.Categorical(logits=logits(x)), infer=ENUMERATED)
        else:
            scale = scale + pyro.param("only_with_labels", torch.tensor(0.0))
        pyro.sample("z", dist.Normal((x - MEANS[y]) / 2, scale))


def logits(x):
    slopes = pyro.param("slopes", torch.tensor([-0.5, 0.1, 0.3]))
    return slopes * x[:, None]


def exact_elbo(x, y):
    """log P(x, y) where y is known; else sum_y Q(y | x) (log P(x, y) - log Q(y | x))."""
    joint = torch.distributions.Normal(MEANS, 2**0.5).log_prob(x[:, None]) + SHARES.log()
    log_q = (torch.tensor([-0.5, 0.1, 0.3]) * x[:, None]).log_softmax(-1)
    bound = (log_q.exp() * (joint - log_q)).sum(-1)
    return torch.where(y >= 0, joint.gather(1, y.clamp(min=0)[:, None])[:, 0], bound)


def some(count=101, known=37, seed=0):
    generator = torch.Generator().manual_seed(seed)
    y = torch.multinomial(SHARES, count, replacement=True, generator=generator)
    x = MEANS[y] + 2**0.5 * torch.randn(count, generator=generator)
    y[torch.randperm(count, generator=generator)[known:]] = -1
    return x, y


def fresh(of=lambda x: x):
    """The pair without what an earlier fit has left with its functions."""
    return [lambda x, y=None, program=program: program(of(x), y) for program in (model, guide)]


def options(**others):
    return dict(objective=TraceEnum_ELBO(max_plate_nesting=1), learning_rate=1e-9, epochs=1) | others


@pytest.mark.parametrize("known", [0, 1, 37, 101])
@pytest.mark.parametrize("batch_size", [10, 200])
def test_the_elbo_of_an_epoch_is_the_mean_over_both_kinds(known, batch_size):
    x, y = some(known=known)
    held_out = some(50, 11, seed=1)
    fitted = fit(model, guide, (x, y), validation=held_out, **options(batch_size=batch_size))
    assert fitted.history.train_elbo[0] == pytest.approx(float(exact_elbo(x, y).mean()), abs=1e-4)
    assert fitted.history.validation_elbo[0] == pytest.approx(float(exact_elbo(*held_out).mean()), abs=1e-4)


def test_a_split_and_what_is_learned_from_both_kinds(tmp_path):
    x, y = some(3000, 3000)
    np.savez(tmp_path / "a.npz", x=x[:, None], y=y)
    loaded = data.load(tmp_path / "a.npz", num_labels=100)
    programs = fresh(lambda x: x[:, 0])
    fitted = fit(*programs, loaded.train, validation=loaded.validation, **options(learning_rate=0.02, epochs=6))
    assert fitted.history.train_elbo[-1] > fitted.history.train_elbo[0] + 0.1
    pair = Pair(*programs)
    with pair.running():  # what only one kind uses is trained, too
        learned = {name: value.detach() for name, value in pyro.get_param_store().items()}
    assert float(learned["only_with_labels"]) != 0.0
    assert (learned["slopes"] - torch.tensor([-0.5, 0.1, 0.3])).abs().max() > 0.1


def test_each_datum_comes_once_an_epoch_and_the_kinds_in_a_random_order():
    x, y = some()
    source = as_source((x, y), Pair(model, guide))
    assert isinstance(source, PartlyLabelled) and len(source) == 101
    plain = list(source.batches(10))
    assert [len(batch) for batch in plain] == [2] * 4 + [1] * 7
    assert torch.equal(torch.cat([b[0] for b in plain]), torch.cat([x[y >= 0], x[y < 0]]))
    orders = set()
    for _ in range(5):
        shuffled = list(source.batches(10, shuffle=True))
        orders.add(tuple(len(batch) for batch in shuffled))
        assert sorted(len(batch[0]) for batch in shuffled) == [1, 4, *[6] * 6, *[10] * 6]
        together = torch.cat([b[0] for b in shuffled])
        assert torch.equal(together.sort().values, x.sort().values)
        for size, values in ((2, x[y >= 0]), (1, x[y < 0])):
            assert not torch.equal(torch.cat([b[0] for b in shuffled if len(b) == size]), values)
        label_of = dict(zip(x.tolist(), y.tolist(), strict=True))
        for batch in shuffled:
            labels = batch[1].tolist() if len(batch) == 2 else [-1] * len(batch[0])
            assert [label_of[value] for value in batch[0].tolist()] == labels
    assert len(orders) > 1


def test_a_split_of_ours_is_drawn_afresh_and_reproducible(digits):
    def with_label(x, y=None):
        pass

    few = data.load("digits", num_labels=100)
    source = as_source(few.train, Pair(with_label))
    assert isinstance(source, PartlyLabelled)
    assert {kind: len(part) for kind, part in source.kinds.items()} == {"labelled": 100, "unlabelled": 1197}
    x = torch.cat([batch[0] for batch in source.batches(100)])
    assert torch.equal(x, torch.cat([few.train.known().x, few.train.unknown().x]))
    torch.manual_seed(1)
    first = [batch[0] for batch in source.batches(100, shuffle=True)]
    torch.manual_seed(1)
    assert all(torch.equal(a, b[0]) for a, b in zip(first, source.batches(100, shuffle=True), strict=True))
    fixed = {tuple(image.flatten().tolist()) for image in few.train.x}
    assert np.mean([tuple(image.flatten().tolist()) not in fixed for batch in first for image in batch]) > 0.5
    assert not isinstance(as_source(few.validation, Pair(with_label)), PartlyLabelled)
    assert isinstance(as_source(few.train, Pair(lambda x: None)), SplitSource)  # who takes no labels misses none


def test_what_is_no_missing_label(digits):
    x = torch.zeros(4)
    for y in ([-1.0, 0.5, 2.0, 1.0], [-2, -1, 0, 1], [[-1, -1]] * 4, [-1, 1, 1, -1]):
        assert isinstance(as_source((x, torch.tensor(y)), Pair(model, guide)), TensorSource)
    completing = Pair(lambda x, y=None: None)
    completing.model.y_from_x = True
    assert isinstance(as_source((x, torch.tensor([-1, 0, 1, 1])), completing), TensorSource)


def voting(x, y=None):
    """A vote is 1 with probability 0.7, else -1, and x ~ N(vote, 1)."""
    with pyro.plate("data", len(x)):
        vote = (y.float() + 1) / 2
        pyro.sample("vote", dist.Bernoulli(0.7), obs=vote)
        pyro.sample("x", dist.Normal(y.float(), 1.0), obs=x)


def test_labels_of_minus_one_and_one_are_two_classes(tmp_path):
    x = torch.randn(50)
    y = torch.where(torch.arange(50) % 3 == 0, -1, 1)
    exact = dist.Normal(y.float(), 1.0).log_prob(x) + torch.where(y > 0, math.log(0.7), math.log(0.3))
    for labels in (y, y.float(), y.numpy(), y.double().numpy()):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            evidence = estimate_evidence(voting, lambda x, y=None: None, (x, labels), num_samples=1)
        np.testing.assert_allclose(evidence.log_px, exact, rtol=1e-5)
    np.savez(tmp_path / "a.npz", x=x[:, None], y=y)
    loaded = data.load(tmp_path / "a.npz")
    assert not any(part.partly_labelled or part[:3].partly_labelled for part in loaded.stored)
    assert len(loaded.train.known()) == len(loaded.train) == 40


def test_which_labels_are_hidden_is_read_off_the_whole_and_said(tmp_path):
    x, y = np.ones((50, 1)), np.arange(50) % 3 - 1
    np.savez(tmp_path / "a.npz", x=x, y=y)
    with pytest.warns(UserWarning, match="17 of 50 data have the label -1 and count as data without a label.*a.npz"):
        loaded = data.load(tmp_path / "a.npz")
    two = loaded.train[loaded.train.y != 0]  # -1 and 1 alone, of which -1 is still no label
    assert two.partly_labelled and bool((two.known().y == 1).all())
    assert loaded.num_classes == 2
    few = data.load("digits", num_labels=1)
    assert [len(few.train.known()), len(few.train.unknown())] == [1, 1296]
    with pytest.warns(UserWarning, match="64 of 101 data have the label -1"):
        as_source(some(), Pair(model, guide))


def test_fingerprints():
    x, y = some()
    found = {fingerprint(as_source(d, Pair(model))) for d in ((x, y), (x, y), x, (x, y.clamp(min=0)), (x + 1, y))}
    assert len(found) == 4
    hidden = y.clone()
    hidden[int((y >= 0).nonzero()[0])] = -1
    assert fingerprint(as_source((x, hidden), Pair(model))) not in found


def test_resuming(tmp_path):
    x, y = some()
    plan = options(schedule="constant", batch_size=10, learning_rate=0.01)
    whole = fit(model, guide, (x, y), **plan | {"epochs": 4}).history.train_elbo
    fit(model, guide, (x, y), out=tmp_path, **plan | {"epochs": 2})
    resumed = fit(model, guide, (x, y), out=tmp_path, resume=True, **plan | {"epochs": 4})
    np.testing.assert_array_equal(resumed.history.train_elbo, whole)


def needs_y(x, y):
    return model(x, y)


def guide_needs_y(x, y):
    return guide(x, y)


def fails_without_y(x, y=None):
    return model(x, y + 0)


def fails_with_y(x, y=None):
    return model(x, None if y is None else y.reshape(2, -1, 5))


REFUSED = {
    "model needs y": (needs_y, guide, r"called with x alone; got 64 of 101 data .*needs_y\(x, y\).*split.known"),
    "guide needs y": (model, guide_needs_y, r"called with x alone; .*guide_needs_y\(x, y\)"),
    "model fails without y": (fails_without_y, guide, r"got TypeError.*of the 64 unlabelled data"),
    "model fails with y": (fails_with_y, guide, r"got RuntimeError.*of the 37 labelled data"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_programs_that_cannot_do_without_labels_are_refused_before_any_work(case):
    *programs, message = REFUSED[case]
    started = []
    with pytest.raises(InputError, match=message):
        fit(*programs, some(), **options(on_start=lambda: started.append(1)))
    assert not started


@pytest.mark.parametrize(("is_known", "kind"), [(True, "37 labelled"), (False, "64 unlabelled")])
def test_both_kinds_are_checked(is_known, kind):
    x, y = some()
    x[(y >= 0) == is_known] = math.nan
    with pytest.raises(InputError, match=f"NaN only.*of the {kind} data"):
        fit(model, guide, (x, y), **options())


def test_estimators_ask_for_all_labels_or_none():
    x, y = some()
    with pytest.raises(InputError, match=r"a label for each datum.*64 of 101 data without.*split\.x.*split\.known"):
        estimate_evidence(model, guide, (x, y), num_samples=10)
    known = y >= 0
    evidence = estimate_evidence(*fresh(), (x[known], y[known]), num_samples=10)
    np.testing.assert_allclose(evidence.log_px, exact_elbo(x[known], y[known]), atol=1e-4)


def test_estimators_refuse_partly_labelled_splits_and_take_their_parts(tmp_path):
    x, y = some(300, 300)
    np.savez(tmp_path / "a.npz", x=x[:, None], y=y)
    train = data.load(tmp_path / "a.npz", num_labels=50).train
    programs = fresh(lambda x: x[:, 0])
    with pytest.raises(InputError, match="190 of 240 data without a label"):
        estimate_evidence(*programs, train, num_samples=10)
    joint = estimate_evidence(*programs, train.known(), num_samples=10).log_px
    np.testing.assert_allclose(joint, exact_elbo(train.known().x[:, 0], train.known().y), atol=1e-4)
    alone = estimate_evidence(*programs, train.unknown(), num_samples=2000)
    mixture = torch.distributions.Normal(MEANS, 2**0.5).log_prob(train.unknown().x) + SHARES.log()
    check_evidence(alone, mixture.logsumexp(-1))
