"""KL[Q || P] of one site: exact where it is known, of the samples elsewhere; masks; the order of sites."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from torch.distributions import kl_divergence

from ppl_vae.traces.divergence import in_order, kl_by_dimension, kl_of
from ppl_vae.traces.plates import samples, structure_of
from ppl_vae.traces.run import run_pair

K, N, D = 4, 6, 3
X = torch.linspace(-1, 1, N)
LOC = torch.linspace(-1, 1, N * D).reshape(N, D)


def sites_of(p, q):
    """Return the site z of a run of two programs that draw it from p and from q, and their structure."""

    def program(fn):
        def run(x):
            with pyro.plate("data", len(x)):
                pyro.sample("z", fn)

        return run

    model, guide = program(p), program(q)
    structure = structure_of([poutine.trace(guide).get_trace(X), poutine.trace(model).get_trace(X)], N)
    model_trace, guide_trace = run_pair(model, guide, (X,), num_samples=K, structure=structure)
    return samples(guide_trace)["z"], samples(model_trace)["z"], structure


NORMALS = dist.Normal(torch.zeros(N, D), 1.0), dist.Normal(LOC, 0.5)


def test_exact_where_it_is_known():
    p, q = NORMALS
    one, other, structure = sites_of(p.to_event(1), q.to_event(1))
    expected = kl_divergence(q, p)
    torch.testing.assert_close(kl_of(one, other, exact=True).expand(K, N), expected.sum(-1).expand(K, N))
    torch.testing.assert_close(
        kl_by_dimension(one, other, structure, exact=True).expand(K, N, D), expected.expand(K, N, D)
    )


def test_of_the_samples_elsewhere():
    p, q = NORMALS
    one, other, structure = sites_of(p.to_event(1), q.to_event(1))
    expected = q.log_prob(one["value"]) - p.log_prob(one["value"])
    torch.testing.assert_close(kl_by_dimension(one, other, structure, exact=False), expected)
    torch.testing.assert_close(kl_of(one, other, exact=False), expected.sum(-1))
    cauchy = dist.Cauchy(torch.zeros(N, D), 1.0)
    one, other, structure = sites_of(cauchy.to_event(1), q.to_event(1))  # PyTorch knows none of these
    expected = q.log_prob(one["value"]) - cauchy.log_prob(one["value"])
    torch.testing.assert_close(kl_by_dimension(one, other, structure, exact=True), expected)


@pytest.mark.parametrize("vectors", ["p", "q"])
def test_numbers_that_are_not_independent_have_none_each(vectors):
    p, q = (fn.to_event(1) for fn in NORMALS)
    full = dist.MultivariateNormal(torch.zeros(N, D), torch.eye(D))
    one, other, structure = sites_of(*((full, q) if vectors == "p" else (p, full)))
    assert kl_by_dimension(one, other, structure, exact=True) is None
    assert kl_of(one, other, exact=False).shape == (K, N)


@pytest.mark.parametrize("sides", ["both", "guide", "model"])
def test_masks_of_one_or_both_sides(sides):
    p, q = NORMALS
    one, other, structure = sites_of(p.to_event(1), q.to_event(1))
    mask = torch.tensor([True, False] * (N // 2))
    masked_q, masked_p = sides != "model", sides != "guide"
    one, other = one | {"mask": mask if masked_q else None}, other | {"mask": mask.clone() if masked_p else None}
    exact, z = kl_divergence(q, p).expand(K, N, D), one["value"]
    alone = (0.0 if masked_q else q.log_prob(z)) - (0.0 if masked_p else p.log_prob(z))
    expected = torch.where(mask[:, None], exact, torch.as_tensor(alone).expand(K, N, D))
    torch.testing.assert_close(kl_by_dimension(one, other, structure, exact=True).expand(K, N, D), expected)
    torch.testing.assert_close(kl_of(one, other, exact=True).expand(K, N), expected.sum(-1))


def test_the_order_of_sites():
    a, b, x = ({"is_observed": observed} for observed in (False, False, True))
    model = {"a": a, "b": b, "x": x}
    assert in_order(model, {"a": a, "b": b})
    assert in_order(model, {"aux": a, "a": a, "b": b})  # an auxiliary site of the guide is none of the model's
    assert in_order(model, {"b": b})  # the other is summed out
    assert not in_order(model, {"b": b, "a": a})
