"""What stands under a distribution's wrappers, and a distribution built anew in them."""

import pyro.distributions as dist
import pytest
import torch
from torch.distributions import constraints

from ppl_vae.distributions.unwrap import (
    base_of,
    can_miss,
    elementwise,
    elementwise_support,
    family_of,
    in_words,
    is_improper,
    is_real,
    parameters_of,
    rebuilt,
)
from ppl_vae.missing import Observed

NORMAL = dist.Normal(torch.zeros(2, 3), 1.0)
FLOW = dist.TransformedDistribution(NORMAL, [dist.transforms.ExpTransform()])
ZEROS = dist.ZeroInflatedPoisson(rate=torch.ones(2, 3), gate=torch.tensor(0.5))


def wrapped(fn):
    return fn.expand((4, *fn.batch_shape)).mask(torch.ones(4, *fn.batch_shape, dtype=torch.bool)).to_event(1)


@pytest.mark.parametrize(
    ("fn", "base", "family", "parameters"),
    [
        (NORMAL, "Normal", "Normal", "Normal"),
        (dist.LogNormal(torch.zeros(2, 3), 1.0), "Normal", "LogNormal", "LogNormal"),
        (FLOW, "Normal", "TransformedDistribution", "Normal"),
        (ZEROS, "Poisson", "ZeroInflatedPoisson", "ZeroInflatedPoisson"),
    ],
)
def test_how_far_each_of_them_looks(fn, base, family, parameters):
    for one in (fn, fn.to_event(1), wrapped(fn)):
        found = [type(f(one)).__name__ for f in (base_of, family_of, parameters_of)]
        assert found == [base, family, parameters]


def test_a_distribution_of_independent_numbers_is_one_for_each_of_them():
    masked = NORMAL.expand((4, 2, 3)).mask(torch.zeros(4, 2, 3, dtype=torch.bool))
    one = elementwise(masked.to_event(1).to_event(1))
    assert one is masked  # its mask counts
    vector = dist.MultivariateNormal(torch.zeros(3), torch.eye(3))
    assert elementwise(vector.expand((2,)).to_event(1)).event_shape == (3,)


def test_the_support_of_each_number():
    assert elementwise_support(wrapped(dist.Beta(torch.ones(2, 3), 1.0)).support) is constraints.unit_interval
    assert elementwise_support(Observed(NORMAL, 2).support) is constraints.real
    assert elementwise_support(constraints.simplex) is constraints.simplex


def test_flat_densities_and_points_are_found_under_transforms():
    flat = dist.ImproperUniform(constraints.real, (2,), ())
    assert is_improper(flat.to_event(1))
    assert is_improper(dist.TransformedDistribution(flat, [dist.transforms.ExpTransform()]))
    assert not is_improper(FLOW)
    point = dist.TransformedDistribution(dist.Delta(torch.zeros(2)), [dist.transforms.ExpTransform()])
    assert isinstance(base_of(point), dist.Delta)


def test_only_what_scores_each_number_can_miss_some():
    assert can_miss(Observed(NORMAL, 1).expand((4, 2)).mask(False).to_event(1))
    assert not can_miss(NORMAL.to_event(1))
    assert not can_miss(dist.TransformedDistribution(Observed(NORMAL, 1), []))  # a NaN would go through its transforms


@pytest.mark.parametrize("make", [lambda fn: fn, wrapped, lambda fn: wrapped(fn).to_event(1)])
@pytest.mark.parametrize("fn", [NORMAL, FLOW, dist.LogNormal(torch.zeros(2, 3), 1.0)])
def test_a_distribution_is_built_anew_in_the_same_wrappers(fn, make):
    whole = make(fn)
    shapes = []

    def moved(base, batch_shape):
        shapes.append(batch_shape)
        return type(base)(base.loc.expand(batch_shape) + 1.0, base.scale.expand(batch_shape))

    new = rebuilt(whole, moved, whole.batch_shape)
    assert (new.batch_shape, new.event_shape) == (whole.batch_shape, whole.event_shape)
    assert shapes == [whole.batch_shape + whole.event_shape]
    normal = dist.Normal(NORMAL.mean + 1.0, 1.0)
    expected = dist.TransformedDistribution(normal, FLOW.transforms) if fn is FLOW else type(fn)(normal.mean, 1.0)
    value = whole.sample()
    torch.testing.assert_close(new.log_prob(value), make(expected).log_prob(value))


@pytest.mark.parametrize(
    ("fn", "real"),
    [
        (NORMAL.to_event(1), True),
        (
            dist.MixtureSameFamily(dist.Categorical(torch.ones(3)), dist.Normal(torch.zeros(3, 2), 1.0).to_event(1)),
            True,
        ),
        (dist.MixtureSameFamily(dist.Categorical(torch.ones(3)), dist.Beta(torch.ones(3), 1.0)), False),
        (dist.MultivariateNormal(torch.zeros(2), torch.eye(2)), True),
        (FLOW.to_event(1), False),
        (dist.Bernoulli(torch.ones(2) / 2).to_event(1), False),
    ],
)
def test_what_is_over_all_real_numbers(fn, real):
    """The posterior of such a latent can be a Gaussian; a mixture is where its components are."""
    assert is_real(fn) is real


def test_a_support_of_ones_own_need_not_be_hashable():
    class Above(constraints.Constraint):
        __hash__ = None

        def __repr__(self):
            return "above"

    assert in_words(Above()) == "above"
