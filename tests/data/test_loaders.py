"""DataLoaders and streams: how many data come, and in which order; all of them train, only some can be estimated."""

import random

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.distributions import constraints
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    Sampler,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)

from ppl_vae import InputError, estimate_evidence, fit, reconstruct
from ppl_vae.data.as_source import as_source
from ppl_vae.traces.pair import Pair

X = torch.randn(100, generator=torch.Generator().manual_seed(0))
DATA = TensorDataset(X)
EXACT = dist.Normal(0.0, 2**0.5).log_prob(X).numpy()


def model(x):
    """x ~ N(z, 1) with z ~ N(0, 1): log P(x) = log N(x; 0, 2)."""
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)


def guide(x):
    """The exact posterior: any number of samples gives log P(x)."""
    scale = pyro.param("scale", torch.tensor(0.5**0.5), constraint=constraints.positive)
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(x / 2, scale))


def fresh():
    """The pair without what an earlier fit has left with its functions."""
    return [lambda x, program=program: program(x) for program in (model, guide)]


class Indices(Sampler):
    """A sampler of one's own, of which nothing is known but what it yields."""

    def __init__(self, indices):
        self.indices = indices

    def __iter__(self):
        return iter(self.indices())


class Stream(IterableDataset):
    def __init__(self, rows=lambda: X):
        self.rows = rows

    def __iter__(self):
        return iter(self.rows())


class Augmented(Dataset):
    def __len__(self):
        return 100

    def __getitem__(self, i):
        return X[i] + torch.rand(())


def mixed(indices):
    order = list(indices)
    random.shuffle(order)
    return order


RANDOM = {  # in another order, or with other data, each time; how many come in a pass
    "shuffled": (DataLoader(DATA, batch_size=30, shuffle=True), 100),
    "with a generator": (DataLoader(DATA, batch_size=30, shuffle=True, generator=torch.Generator()), 100),
    "SubsetRandomSampler": (DataLoader(DATA, sampler=SubsetRandomSampler(range(50)), batch_size=30), 50),
    "WeightedRandomSampler": (
        DataLoader(DATA, sampler=WeightedRandomSampler(torch.ones(100), 130), batch_size=30),
        130,
    ),
    "a batch_sampler": (DataLoader(DATA, batch_sampler=BatchSampler(RandomSampler(DATA), 30, True)), 90),
    "one's own": (DataLoader(DATA, sampler=Indices(lambda: mixed(range(100))), batch_size=30), 100),
    "one's own of two": (DataLoader(DATA, sampler=Indices(lambda: mixed(range(2))), batch_size=2), 2),
    "one's own of batches": (DataLoader(DATA, batch_sampler=Indices(lambda: torch.randperm(100).split(40))), 100),
    "a stream": (DataLoader(Stream(lambda: X[torch.randperm(100)]), batch_size=30), 100),
    "augmented data": (DataLoader(Augmented(), batch_size=30), 100),
}
FIXED = {  # which data come
    "all": (DataLoader(DATA, batch_size=30), range(100)),
    "drop_last": (DataLoader(DATA, batch_size=30, drop_last=True), range(90)),
    "some": (DataLoader(DATA, sampler=Indices(lambda: [5, 3, 99]), batch_size=2), [5, 3, 99]),
    "some twice": (DataLoader(DATA, sampler=Indices(lambda: [7, 7, 7, 2]), batch_size=3), [7, 7, 7, 2]),
    "batches of several sizes": (DataLoader(DATA, batch_sampler=Indices(lambda: [[1], [4, 2, 3]])), [1, 4, 2, 3]),
    "ready batches": (DataLoader(X.split(30), batch_size=None), range(100)),
    "a collate_fn that drops": (
        DataLoader(DATA, batch_size=10, collate_fn=lambda rows: torch.stack([x for (x,) in rows[1:]])),
        [i for i in range(100) if i % 10],
    ),
    "a stream": (DataLoader(Stream(), batch_size=30), range(100)),
    "a stream itself": (Stream(), range(100)),
}


@pytest.mark.parametrize("case", RANDOM)
def test_in_unknown_order_they_train_and_are_not_estimated(case):
    loader, count = RANDOM[case]
    assert len(as_source(loader, Pair(model, guide))) == count
    with torch.random.fork_rng():
        fitted = fit(*fresh(), loader, epochs=2, validation=loader)
    assert np.isfinite(fitted.history.train_elbo).all()
    for question in (lambda: estimate_evidence(model, guide, loader), lambda: reconstruct(model, guide, loader)):
        with pytest.raises(InputError, match=r"shuffle=False|pass the tensors|random transform"):
            question()


@pytest.mark.parametrize("case", FIXED)
def test_in_a_fixed_order_results_belong_to_what_comes(case):
    loader, rows = FIXED[case]
    assert len(as_source(loader, Pair(model, guide))) == len(rows)
    evidence = estimate_evidence(*fresh(), loader, num_samples=2)
    np.testing.assert_allclose(evidence.log_px, EXACT[list(rows)], rtol=1e-5)
    assert evidence.fingerprint == estimate_evidence(*fresh(), X[list(rows)], num_samples=2).fingerprint
    fitted = fit(*fresh(), loader, epochs=1, learning_rate=1e-9)
    np.testing.assert_allclose(fitted.history.train_elbo[0], EXACT[list(rows)].mean(), rtol=1e-5)


def test_looking_changes_no_random_state():
    own = torch.Generator().manual_seed(1)
    loader = DataLoader(DATA, batch_size=30, sampler=RandomSampler(DATA, generator=own), generator=own)
    states = own.get_state(), torch.get_rng_state(), random.getstate()
    assert len(as_source(loader, Pair(model, guide))) == 100
    with pytest.raises(InputError):
        estimate_evidence(model, guide, loader)
    random_, global_ = random.getstate(), torch.get_rng_state()
    assert random_ == states[2] and torch.equal(global_, states[1])
