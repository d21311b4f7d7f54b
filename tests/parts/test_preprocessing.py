"""What guides read of numbers that are positive, shares, codes or counts: on a unit scale, 0 where it is missing."""

import math
from functools import partial

import pytest
import torch
from safetensors.torch import load, save

from ppl_vae import InputError
from ppl_vae.preprocessing import Log, Log1p, Logit, OneHot

N = 500
MIDDLE = torch.tensor([0.0, 5.0])
SCALED = {
    "log": (Log, lambda: torch.normal(MIDDLE.expand(N, 2), 3.0).exp()),
    "logit": (Logit, lambda: torch.normal(MIDDLE.expand(N, 2), 2.0).sigmoid()),
    "log1p": (partial(Log1p, per_feature=True), lambda: torch.poisson((2 * MIDDLE).exp().expand(N, 2))),
}


@pytest.mark.parametrize("name", SCALED)
def test_each_feature_has_mean_0_and_deviation_1(name):
    torch.manual_seed(0)
    make, draw = SCALED[name]
    x = draw()
    x[:99, 1] = math.nan
    reads = make().bind((2,))
    reads.start_from(x)
    read = reads(x)
    torch.testing.assert_close(read.sum(0), torch.zeros(2), rtol=0, atol=0.05)
    torch.testing.assert_close(read.square().sum(0), torch.tensor([N, N - 99.0]), rtol=1e-3, atol=0)
    assert torch.equal(read[:99, 1], torch.zeros(99))
    other = make().bind((2,))
    other.load_state_dict(load(save(reads.state_dict())))
    torch.testing.assert_close(other(x), read)
    assert torch.isfinite(reads(torch.tensor([0.0, 1.0]))).all()  # also at what no likelihood of them takes


@pytest.mark.parametrize(("shape", "out_shape"), [((2,), (6,)), ((1, 2, 2), (3, 2, 2)), ((4, 2), (4, 6))])
def test_one_hot(shape, out_shape):
    """The codes of a feature stand together, less their frequencies."""
    torch.manual_seed(0)
    x = torch.randint(0, 3, (N, *shape)).float()
    x[0] = math.nan
    reads = OneHot(3).bind(shape)
    assert reads.out_shape == out_shape
    hot = reads(x)[1:]
    reads.start_from(x)
    torch.testing.assert_close(reads(x).sum(0), torch.zeros(out_shape), rtol=0, atol=0.02 * N * len(shape))
    assert torch.equal(reads(x)[0], torch.zeros(out_shape))
    axis = -1 if len(shape) == 2 else 1
    codes = hot.unflatten(axis, (-1, 3)).argmax(axis if axis < 0 else axis + 1)
    assert torch.equal(codes.reshape(x[1:].shape), x[1:].long())
    assert torch.equal(hot.sum(axis), torch.full_like(hot.sum(axis), shape[axis if axis < 0 else 0]))


def test_one_category_is_none():
    with pytest.raises(InputError, match=r"num_levels.*got 1"):
        OneHot(1)
