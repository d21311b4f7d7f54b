"""HMC where the program fails on the way: only who goes there is rejected, and what is left invariant is the target."""

import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from bounds import check_evidence, check_means

from ppl_vae import InputError, estimate_evidence
from ppl_vae.evidence.hmc import attempted, transition, with_gradients

EDGE = 0.8


def normal(u):
    return -(u**2).sum(-1) / 2, torch.zeros(u.shape[:2])


def factorized(u):
    """The same density, of a program that fails for everybody where anybody is beyond the edge."""
    torch.linalg.cholesky((EDGE**2 - u.detach() ** 2)[..., None, None])
    return normal(u)


def test_only_who_goes_astray_is_rejected():
    u = EDGE * (2 * torch.rand(40, 7, 1) - 1)
    step = torch.full((7,), 0.1)
    after = []
    for density in (normal, factorized):
        torch.manual_seed(1)
        evaluate = with_gradients(density)
        after.append(transition(evaluate, evaluate(u), 1.0, step, 3)[0].position)
    free, kept = after
    stayed = (kept == u).all(-1)
    assert (kept.abs() < EDGE).all()
    assert torch.equal(kept[~stayed], free[~stayed])
    assert (free.abs() > EDGE).any() and (~stayed).float().mean() > 0.5


def test_who_fails_is_found():
    u = torch.rand(5, 6, 2) / 2
    bad = torch.rand(5, 6) < 0.3
    bad[0, 0], bad[1, 1] = True, False
    at = torch.where(bad[..., None], 2.0, u)
    state, failed = attempted(with_gradients(factorized), at, u)
    assert torch.equal(failed, bad)
    assert torch.equal(state.position, u)
    with pytest.raises(torch.linalg.LinAlgError):  # it is not for the position
        attempted(with_gradients(factorized), at, at)


def test_what_is_left_invariant_is_the_density_without_where_it_fails():
    evaluate = with_gradients(factorized)
    low = torch.special.ndtr(torch.tensor(-EDGE)).item()
    u = torch.special.ndtri(low + (1 - 2 * low) * torch.rand(4000, 1, 1))  # exact draws
    state = evaluate(u)
    for _ in range(5):
        state, _ = transition(evaluate, state, 1.0, torch.tensor([0.5]), 3)
    peak = math.exp(-(EDGE**2) / 2) / math.sqrt(2 * math.pi)
    check_means(state.position[:, 0, 0].numpy(), 0.0)
    check_means(state.position[:, 0, 0].square().numpy(), 1 - 2 * EDGE * peak / (1 - 2 * low))


def correlated(z):
    rho = z.tanh() * 0.99
    return 1e-2 * torch.stack([torch.ones_like(rho), rho, rho, torch.ones_like(rho)], -1).unflatten(-1, (2, 2))


@pytest.mark.parametrize("proposal", ["guide", "prior"])
def test_annealing_goes_on_where_a_matrix_cannot_be_factorized(proposal):
    """x = z_1:2 + e with e ~ N(0, C(z_3)): given z_3, x is normal, and z_3 is summed over a grid."""

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x), 3), 1.0).to_event(1))
            pyro.sample("x", dist.MultivariateNormal(z[..., :2], correlated(z[..., 2])), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            loc = torch.cat([x, torch.zeros(len(x), 1)], -1)
            pyro.sample("z", dist.Normal(loc, torch.tensor([0.1, 0.1, 1.0])).to_event(1))

    x = 0.3 * torch.randn(4, 2)
    grid = torch.linspace(-8, 8, 4001)
    given = torch.distributions.MultivariateNormal(torch.zeros(2), torch.eye(2) + correlated(grid))
    joint = given.log_prob(x[:, None]) + torch.distributions.Normal(0.0, 1.0).log_prob(grid)
    truth = joint.logsumexp(1) + math.log(16 / 4000)
    options = dict(method="ais", proposal=proposal, num_temperatures=150, num_samples=50, progress=False)
    evidence = estimate_evidence(model, guide, x, **options)
    check_evidence(evidence, truth.numpy())
    assert np.median(evidence.diagnostics["acceptance"]) > 0.3


def test_a_density_that_fails_at_the_start_is_told():
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x)), 1.0))
            some = z if z.numel() > 16 else 0 * z  # of 80 chains at the prior some are above 1, and no probe is
            cov = torch.stack([torch.ones_like(z), some, some, torch.ones_like(z)], -1).unflatten(-1, (2, 2))
            pyro.sample("x", dist.MultivariateNormal(torch.zeros(2), cov, validate_args=False), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(torch.zeros(len(x)), 0.01))

    with pytest.raises(InputError, match=r"not positive.definite.*start from the other of guide and prior"):
        estimate_evidence(model, guide, torch.randn(5, 2), method="ais", proposal="prior", num_samples=50)
