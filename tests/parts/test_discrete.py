"""Discrete latents: the sum over their values by hand, and the relaxation against quadrature."""

import itertools
from functools import partial

import numpy as np
import pyro
import pytest
import torch
from bounds import check_evidence, limit
from pyro.infer import Trace_ELBO, TraceEnum_ELBO

import ppl_vae
from ppl_vae import InputError, guides, models
from ppl_vae.likelihoods import Gaussian
from ppl_vae.networks import MLP

SMALL = partial(MLP, hidden=(8,))
SHAPE = (1, 2, 2)


@pytest.fixture
def model():
    model = models.Discrete(SHAPE, decoder=SMALL, num_variables=2, num_classes=3)
    with torch.no_grad():
        model.logits.normal_()
        for p in model.decoder.parameters():
            p.mul_(3)
    return model


def by_hand(model, x):
    """log P(x), and the table log P(x, z) over all values of (z1, z2), by a loop."""
    table = torch.empty(3, 3, len(x))
    with torch.no_grad():
        prior = model.logits.log_softmax(-1)
        for i, j in itertools.product(range(3), range(3)):
            z = torch.zeros(6)
            z[i] = z[3 + j] = 1
            table[i, j] = prior[0, i] + prior[1, j] + model.likelihood(model.decoder(z)).log_prob(x)
    return table.logsumexp((0, 1)), table


def test_summed_out_it_is_exact(model):
    x = ppl_vae.sample(model, 30)
    evidence = ppl_vae.estimate_evidence(model, guides.NoLatents(model), x)
    assert evidence.is_exact
    np.testing.assert_allclose(evidence.log_px, by_hand(model, x)[0], atol=1e-5)
    with pyro.settings.context(module_local_params=True):
        loss = TraceEnum_ELBO(max_plate_nesting=1).differentiable_loss(model, guides.NoLatents(model), x)
    assert loss.item() == pytest.approx(-by_hand(model, x)[0].sum().item(), rel=1e-5)


def test_the_enumerated_bound_is_the_sum_by_hand(model):
    x = ppl_vae.sample(model, 10)
    guide = guides.Discrete(model, SMALL)
    with torch.no_grad():
        q1, q2 = guide.encoder(x).split(3, dim=-1)
        log_q = q1.log_softmax(-1).T[:, None] + q2.log_softmax(-1).T[None]
        elbo = (log_q.exp() * (by_hand(model, x)[1] - log_q)).sum()
    with pyro.settings.context(module_local_params=True):
        loss = TraceEnum_ELBO(max_plate_nesting=1).differentiable_loss(model, guide, x)
    assert loss.item() == pytest.approx(-elbo.item(), rel=1e-5)
    evidence = ppl_vae.estimate_evidence(model, guide, x, num_samples=5000)
    check_evidence(evidence, by_hand(model, x)[0])
    assert evidence.elbo.sum() == pytest.approx(elbo.item(), abs=limit() * np.sqrt((evidence.elbo_mcse**2).sum()))
    assert (evidence.khat < 0.5).all()  # a tail of equal weights is none


def test_with_one_variable_the_guide_becomes_the_posterior():
    model = models.Discrete(SHAPE, decoder=SMALL, num_variables=1, num_classes=4)
    guide = guides.Discrete(model, partial(MLP, hidden=(32,)))
    x = (torch.rand(400, *SHAPE) < 0.5).float()
    objective = TraceEnum_ELBO(max_plate_nesting=1)
    fitted = ppl_vae.fit(model, guide, x, epochs=60, learning_rate=0.01, objective=objective)
    exact = ppl_vae.estimate_evidence(model, guides.NoLatents(model), x).log_px.mean()
    assert fitted.history.train_elbo[-1] == pytest.approx(exact, abs=0.01)


def test_the_relaxation_against_quadrature():
    """Of two classes z = (s, 1 - s): log P(x) is an integral over the logit of s, whose density is Maddison's."""
    temperature = 0.6
    model = models.Discrete((3,), Gaussian(0.5), SMALL, num_variables=1, num_classes=2, temperature=temperature)
    with torch.no_grad():
        model.logits.copy_(torch.tensor([[0.3, -0.4]]))
    guide = guides.Discrete(model, SMALL)
    x = ppl_vae.sample(model, 20)
    evidence = ppl_vae.estimate_evidence(model, guide, x, num_samples=20_000)
    # logit s = (log a + L) / t with L logistic and a = exp(0.3 + 0.4).
    logit = torch.linspace(-60, 60, 20_001, dtype=torch.double)
    centred = temperature * logit - 0.7
    log_density = np.log(temperature) - centred - 2 * torch.nn.functional.softplus(-centred)
    s = torch.sigmoid(logit).float()
    with torch.no_grad():
        h = model.decoder(torch.stack([s, 1 - s], -1))
        log_px = [(log_density + model.likelihood(h).log_prob(v)).logsumexp(0) + np.log(120 / 20_000) for v in x]
    check_evidence(evidence, torch.stack(log_px))


def test_a_relaxed_latent_has_finite_gradients_at_the_edge_of_the_simplex():
    model = models.Discrete(SHAPE, decoder=SMALL, num_variables=2, num_classes=3, temperature=0.01)
    guide = guides.Discrete(model, SMALL)
    with torch.no_grad():
        guide.encoder.layers[-1].bias.mul_(1000)
    with pyro.settings.context(module_local_params=True):
        Trace_ELBO().differentiable_loss(model, guide, torch.zeros(200, *SHAPE)).backward()
    assert all(torch.isfinite(p.grad).all() for module in (model, guide) for p in module.parameters())


def test_a_cooler_relaxation_is_nearer_to_the_exact_model():
    exact = models.Discrete(SHAPE, decoder=SMALL, num_variables=1, num_classes=3)
    with torch.no_grad():
        for p in exact.decoder.parameters():
            p.mul_(3)
    x = ppl_vae.sample(exact, 20)
    target = ppl_vae.estimate_evidence(exact, guides.NoLatents(exact), x, method="importance").log_px
    errors = []
    for temperature in (1.0, 0.3, 0.05):
        relaxed = models.Discrete(SHAPE, decoder=SMALL, num_variables=1, num_classes=3, temperature=temperature)
        relaxed.load_state_dict(exact.state_dict())
        found = ppl_vae.estimate_evidence(
            relaxed, None, x, method="importance", num_samples=20_000, proposal="prior"
        ).log_px
        errors.append(np.abs(found - target).max())
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 0.1


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: models.Discrete(SHAPE, num_variables=0), "num_variables.*got 0"),
        (lambda: models.Discrete(SHAPE, temperature=-1.0), r"temperature.*got -1\.0"),
        (lambda: guides.Discrete(models.VAE(SHAPE)), "model of categories.*mean_field"),
        (lambda: guides.Discrete(models.Discrete(SHAPE), temperature=0.5), "summed out"),
        (lambda: guides.NoLatents(models.Discrete(SHAPE, temperature=0.5)), "z1, z2.*discrete"),
    ],
)
def test_bad_calls(call, message):
    with pytest.raises(InputError, match=message):
        call()
