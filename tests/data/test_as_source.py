"""What a person brings as data: arrays of many libraries, dtypes, dicts, and what is no data at all."""

import math
import re
from decimal import Decimal

import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import scipy.sparse as sp
import torch
from bounds import check_evidence
from PIL import Image
from ppl_vae.guides import MeanField
from ppl_vae.models import VAE
from pyro.infer.autoguide import AutoNormal
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from ppl_vae import InputError, data, estimate_evidence, fit, likelihoods, priors
from ppl_vae.data.as_source import as_source, fingerprint
from ppl_vae.data.sources import TensorSource
from ppl_vae.traces.pair import Pair
from ppl_vae.utils.arrays import as_tensor

COUNTS = np.random.default_rng(0).poisson(3, (30, 5))
EXACT = torch.from_numpy(COUNTS).float()


class Items(Dataset):
    def __init__(self, items):
        self.items = items

    def __len__(self):
        return len(self.items)

    def __getitem__(self, i):
        return self.items[i]


def of_counts(dtype=torch.float32, likelihood=None):
    torch.manual_seed(0)
    model = VAE((5,), prior=priors.StandardNormal(2), likelihood=likelihood or likelihoods.Poisson()).to(dtype)
    return model, MeanField(model).to(dtype)


def given(brought, *programs):
    """All data, as the programs get them."""
    pair = Pair(*(programs or of_counts()))
    with pair.running():
        return next(as_source(brought, pair).batches(1000))


SAME = {
    **{f"NumPy {t}": COUNTS.astype(t) for t in ("int64", "uint8", "uint16", "float16", "float64", ">f4", "longdouble")},
    **{f"{t}": torch.from_numpy(COUNTS).to(t) for t in (torch.int64, torch.uint8, torch.float64, torch.bfloat16)},
    "backwards": COUNTS[::-1].copy()[::-1],
    "read only": np.broadcast_to(COUNTS, COUNTS.shape),
    "a list of numbers": COUNTS.tolist(),
    "a list of arrays": list(COUNTS),
    "a list of tensors": list(torch.from_numpy(COUNTS)),
    "a list of tuples": [(row,) for row in COUNTS],
    "a dict": {"x": COUNTS},
    "a tuple": (COUNTS,),
    "a table": pd.DataFrame(COUNTS),
    "a table that may lack some": pd.DataFrame(COUNTS, dtype="Int64"),
    "a data set of dicts": Items([{"x": row} for row in COUNTS]),
    "a loader of dicts": DataLoader(Items([{"x": row} for row in COUNTS]), batch_size=30),
    "a loader of doubles": DataLoader(TensorDataset(EXACT.double()), batch_size=30),
    "sparse": EXACT.to_sparse(),
    "SciPy": sp.csr_matrix(COUNTS),
    "SciPy's arrays": sp.coo_array(COUNTS),
}


@pytest.mark.parametrize("brought", SAME)
def test_the_same_numbers_whatever_they_come_in(brought):
    (x,) = given(SAME[brought])
    assert x.dtype == torch.float32
    assert torch.equal(x, EXACT)


@pytest.mark.parametrize("brought", ["NumPy int64", "torch.float64", "a table", "sparse", "a data set of dicts"])
def test_they_are_fitted_and_estimated(brought):
    numbers = []
    for one in (EXACT, SAME[brought]):
        model, guide = of_counts()
        fitted = fit(model, guide, one, epochs=2, batch_size=30, progress=False)
        evidence = estimate_evidence(model, guide, one, num_samples=20)
        numbers.append([*fitted.history.train_elbo, *evidence.log_px, *evidence.elbo])
        assert evidence.fingerprint == fingerprint(TensorSource((EXACT,)))
    np.testing.assert_allclose(numbers[1], numbers[0], rtol=1e-5)


def test_bools():
    assert torch.equal(given(COUNTS > 3, *of_counts(likelihood=likelihoods.Bernoulli()))[0], (EXACT > 3).float())


def test_a_model_in_double_precision_keeps_doubles():
    model, guide = of_counts(torch.float64)
    assert given(COUNTS / 3, model, guide)[0].equal(torch.from_numpy(COUNTS / 3))
    assert given(EXACT, model, guide)[0].dtype == torch.float64
    images = VAE((1, 8, 8)).double()
    assert given(data.load("digits").test, images, MeanField(images).double())[0].dtype == torch.float64
    evidence = estimate_evidence(model, guide, COUNTS, num_samples=10)
    assert np.isfinite(evidence.log_px).all()


def test_a_plain_function_in_double_precision():
    """x_1 + 2 x_2 ~ N(z, 1) with z ~ N(0, 1): it runs on doubles only, as its w is one."""

    def model(x):
        w = pyro.param("w", torch.tensor([1.0, 2.0], dtype=torch.double))
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros((), dtype=torch.double), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x @ w)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x.sum(-1) / 2, 1.0))

    x = np.random.default_rng(0).normal(size=(20, 2))
    evidence = estimate_evidence(model, guide, x, num_samples=2000)
    exact = dist.Normal(torch.tensor(0.0).double(), 2**0.5).log_prob(torch.from_numpy(x @ [1.0, 2.0]))
    check_evidence(evidence, exact)


RATES = torch.tensor([1.0, 2.0, 4.0, 8.0])


def indexed(x):
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Poisson(RATES[x]), obs=x)


def masked(x):
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Bernoulli(torch.where(x, 0.25, 0.75)), obs=x.float())


def labelled(x, y):
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Normal(RATES[y], 1.0), obs=x)


def selected(x, keep):
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Normal(torch.where(keep, 0.0, 1.0), 1.0), obs=x)


@pytest.mark.parametrize("dtype", ["int64", "int8", "uint8"])
def test_whole_numbers_that_are_an_index_stay_one(dtype):
    x = np.array([0, 1, 3, 2])
    assert given(x.astype(dtype), indexed)[0].dtype == torch.int64
    log_px = estimate_evidence(indexed, lambda x: None, x.astype(dtype), num_samples=1).log_px
    np.testing.assert_allclose(log_px, dist.Poisson(RATES[x]).log_prob(torch.tensor(x).float()), rtol=1e-6)
    y = given((x / 2, x.astype(dtype)), labelled)
    assert [t.dtype for t in y] == [torch.float32, torch.int64]
    log_px = estimate_evidence(labelled, lambda x, y: None, (x / 2, x.astype(dtype)), num_samples=1).log_px
    np.testing.assert_allclose(log_px, dist.Normal(RATES[x], 1.0).log_prob(torch.tensor(x / 2)), rtol=1e-6)


def test_masks_stay_masks():
    x = np.array([True, False, True])
    assert given(x, masked)[0].dtype == torch.bool
    assert given((x / 1.0, x), selected)[1].dtype == torch.bool


def test_a_tensor_keeps_the_dtype_of_its_owner_where_it_works():
    def model(x, y):
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(torch.zeros(()), 1.0), obs=x)

    for x in (torch.zeros(3).double(), torch.zeros(3).half(), torch.zeros(3, dtype=torch.int64)):
        kept = given((x, x), model)
        assert [t.dtype for t in kept] == [x.dtype, x.dtype]


def test_trying_dtypes_leaves_nothing_behind():
    """An automatic guide makes its parameters when it first runs; batch normalization has a memory."""
    normal = nn.BatchNorm1d(2).double()

    def model(x):
        pyro.module("normal", normal)
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(normal(x), 1.0).to_event(1), obs=x)

    guide = AutoNormal(model)
    torch.manual_seed(3)
    before = {k: v.clone() for k, v in normal.state_dict().items()}, torch.get_rng_state()
    as_source(torch.zeros(3, 2), Pair(model, guide))
    assert all(torch.equal(value, before[0][name]) for name, value in normal.state_dict().items())
    assert torch.equal(torch.get_rng_state(), before[1])
    assert guide.prototype_trace is None and normal.training


def test_what_is_masked_is_missing():
    masked_ones = np.ma.masked_less(COUNTS, 2)
    expected = np.where(COUNTS < 2, np.nan, COUNTS)
    for one in (masked_ones, masked_ones.astype("float32")):
        np.testing.assert_array_equal(given(one)[0], expected)
    np.testing.assert_array_equal(given(np.ma.asarray(COUNTS))[0], COUNTS)
    some = pd.DataFrame(COUNTS, dtype="Int64").mask(COUNTS < 2)
    np.testing.assert_array_equal(given(some)[0], expected)
    elbos = [fit(*of_counts(), x, epochs=1).history.train_elbo[0] for x in (masked_ones, expected)]
    assert elbos[0] == elbos[1]
    with pytest.raises(InputError, match=r"labels without a mask.*filled\(-1\)"):
        given((COUNTS, np.ma.masked_less(COUNTS[:, 0], 2)), lambda x, y: None)


class UsedUp(IterableDataset):
    def __init__(self):
        self.rows = iter(EXACT)

    def __iter__(self):
        return self.rows


PICTURE = Image.new("L", (8, 8))
REFUSED = {
    "words": (np.array([["a"]]), "dtype <U1"),
    "complex numbers": (COUNTS + 1j, "dtype complex128.*real and imaginary"),
    "a complex tensor": (torch.tensor([1j]), "got torch.complex64"),
    "objects": (np.array([[None]]), "ndarray of"),
    "several lengths": ([[1, 2], [3]], "of one shape; got a list of several"),
    "a table with words": (pd.DataFrame({"a": ["x"], "b": [1]}), "columns a without"),
    "a dict of other names": (
        {"image": COUNTS, "label": COUNTS},
        r"with, x; got one with image, label.*item\['im",
    ),
    "data sets of pictures": (
        Items([(PICTURE, 0)]),
        r"Image, int.*transform=torchvision.transforms.ToTensor\(",
    ),
    "loaders of pictures": (DataLoader(Items([PICTURE])), r"items of Image.*ToTensor\("),
    "pictures": ([PICTURE] * 3, r"list of Image.*ToTensor\("),
    "items of several shapes": (Items([torch.zeros(2), torch.zeros(3)]), "one shape; got several"),
    "a generator": ((batch for batch in EXACT.split(10)), r"used up after once.*torch.cat\(list\(batches\)\)"),
    "a stream that is used up": (UsedUp(), "many times; got a stream that is used up"),
    "numbers by themselves": (DataLoader(TensorDataset(EXACT[:, 0]), batch_size=None), "a single number.*batch_size"),
    "a data set of ours": (data.load("digits"), "got Data. Pass one of its splits: .train"),
    "nothing": (np.zeros((0, 5)), "at least one datum"),
    "a name": ("digits", "got str"),
    "too many arrays": ((COUNTS, COUNTS, COUNTS), "got 3 tensor"),
    "two lengths": ((COUNTS, COUNTS[:3]), "lengths 30, 3"),
    "a huge sparse array": (sp.csr_matrix((10**6, 10**6)), "sparse array of shape .*collate_fn"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_data_is_refused_in_a_sentence(case):
    brought, message = REFUSED[case]
    with pytest.raises(InputError, match=message) as caught:
        fit(*of_counts(), brought, epochs=1)
    assert re.search(r"^Expected .*; got .*\.$", str(caught.value))


def test_the_same_numbers_in_another_shape_or_dtype_are_the_same_data():
    x = torch.rand(20, 64)
    found = {
        fingerprint(TensorSource((one,)))
        for one in (x, x.double(), x.reshape(20, 1, 8, 8), torch.where(x > 2, 0.0, x), x.reshape(20, 64, 1))
    }
    assert len(found) == 1
    others = (x.reshape(40, 32), x.flip(0), x.T.reshape(20, 64), x[:19], x + 1e-6, torch.where(x < 0.5, math.nan, x))
    for one in others:
        assert fingerprint(TensorSource((one,))) not in found
    assert fingerprint(TensorSource((x, x[:, 0]))) not in found
    zeros = [torch.zeros(3, 2), -torch.zeros(3, 2), torch.zeros(3, 2, dtype=torch.bool), torch.zeros(3, 2).bfloat16()]
    assert len({fingerprint(TensorSource((zero,))) for zero in zeros}) == 1
    assert len({fingerprint(TensorSource((zero,)), exact=True) for zero in zeros}) == 4
    assert fingerprint(TensorSource((zeros[0],)), exact=True) == "79567d4793339b1a"  # as last.pt of old runs has it


def test_numbers_as_objects_and_items_by_number_are_read():
    """None and pandas.NA are missing; what has items by number is a data set, whatever its class."""

    class Items:
        def __len__(self):
            return 3

        def __getitem__(self, index):
            return torch.full((2,), float(index))

    with_none = [[None, 1.5], [Decimal("0.5"), 2], [1, 2]]
    expected = torch.tensor([[torch.nan, 1.5], [0.5, 2.0], [1.0, 2.0]]).double()
    for given in (with_none, np.array(with_none, dtype=object)):
        torch.testing.assert_close(as_tensor(given), expected, equal_nan=True)
    for wrong in ([["a", 1.5]], [[None, "1.5"]], [[1 + 2j, None]]):
        with pytest.raises(InputError, match="numbers"):
            as_tensor(np.array(wrong, dtype=object))
    model = VAE((2,), likelihood=likelihoods.Gaussian())
    source = as_source(Items(), Pair(model, MeanField(model)))
    assert torch.equal(next(source.batches(3))[0][:, 0], torch.arange(3.0))


def test_what_is_no_data_names_what_to_pass():
    model = VAE((2,), likelihood=likelihoods.Gaussian())
    pair, x = Pair(model, MeanField(model)), np.ones((9, 2))
    for given, message in {
        "path": ("mine.npy", r"got str\. Read the file: ppl_vae\.data\.load\(path\)\.train"),
        "mask": ((x, np.eye(9, 2)), r"ppl_vae\.missing\.with_mask\(x, mask\)"),
        "rows": (tuple(map(tuple, (x + 1).tolist())), r"np\.stack\(data\)"),
        "columns": (np.array([(1.0, 2)], dtype=[("a", float), ("b", int)]), "structured_to_unstructured"),
    }.values():
        with pytest.raises(InputError, match=message):
            as_source(given, pair)
