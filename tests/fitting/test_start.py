"""Where fits start: from the mean and the spread of the data, in densities of the data as given."""

import copy
import functools
import math
import warnings

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from ppl_vae.guides import Conditional, MeanField
from ppl_vae.models import CVAE, VAE, ImageCompletion
from pyro.nn import PyroModule
from torch import nn

import ppl_vae
from ppl_vae import likelihoods, networks, preprocessing, priors
from ppl_vae.data.sources import TensorSource
from ppl_vae.fitting import options, start
from ppl_vae.fitting.moving import Moving
from ppl_vae.fitting.start import some_of
from ppl_vae.traces.pair import Pair
from ppl_vae.utils.moments import mean_and_scale

SCALES = torch.tensor([0.003, 1.0, 40.0, 1e4])
MEANS = torch.tensor([1.0, -3.0, 100.0, 5e4])
SMALL = functools.partial(networks.MLP, hidden=(16,))
FIT = dict(progress=False, compile=False)


def table(count=200):
    """Columns that depend on two latents, each in a unit of its own."""
    z = torch.randn(count, 2)
    w = torch.tensor([[0.8, 0.0], [0.5, 0.5], [0.0, -0.8], [0.6, 0.4]])
    return MEANS + SCALES * (z @ w.T + 0.5 * torch.randn(count, 4))


def pair(likelihood, decoder=SMALL, **options):
    model = VAE((4,), prior=priors.StandardNormal(2), likelihood=likelihood, decoder=decoder)
    return model, MeanField(model, encoder=SMALL, **options)


@pytest.mark.parametrize("name", ["Gaussian", "Laplace", "StudentT"])
def test_a_new_network_gives_the_mean_and_the_spread_of_each_column(name):
    x = table()
    model, guide = pair(getattr(likelihoods, name)())
    ppl_vae.fit(model, guide, x, epochs=1, learning_rate=1e-12, **FIT)
    mean, scale = x.mean(0), x.std(0, correction=0)
    p = model.likelihood(torch.zeros(4))
    torch.testing.assert_close(p.mean, mean, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(model.likelihood.sigma, 0.6 * scale, rtol=1e-3, atol=1e-6)
    read = guide.preprocessing(x)
    torch.testing.assert_close(read.mean(0), torch.zeros(4), rtol=0, atol=1e-3)
    torch.testing.assert_close(read.std(0, correction=0), torch.ones(4), rtol=1e-3, atol=0)


def test_another_unit_changes_log_px_by_its_jacobian_only():
    """log P(a x + b) = log P(x) - sum log |a|, whatever a fit learns: densities are those of the data as given."""
    x, found = table(), []
    for y in (x, (x - MEANS) / SCALES):
        torch.manual_seed(0)
        model, guide = pair(likelihoods.Gaussian())
        ppl_vae.fit(model, guide, y, epochs=3, **FIT)
        found.append(ppl_vae.estimate_evidence(model, guide, y[:20], num_samples=50, method="importance", **FIT))
    shift = -float(SCALES.log().sum())
    np.testing.assert_allclose(found[0].log_px, found[1].log_px + shift, atol=0.05)


def test_a_learned_sigma_arrives_within_the_usual_epochs():
    """The fault: from 0.1, on standardized columns, log P(x) was a hundred nats too low, with sure imputations."""
    x = table(500)
    model, guide = pair(likelihoods.Gaussian())
    ppl_vae.fit(model, guide, x[:400], validation=x[400:450], epochs=60, learning_rate=3e-3, **FIT)
    log_px = ppl_vae.estimate_evidence(model, guide, x[450:], num_samples=200, **FIT).log_px
    normal = dist.MultivariateNormal(x[:400].double().mean(0), torch.cov(x[:400].double().T))
    per_datum = normal.log_prob(x[450:].double()).numpy() - log_px
    assert per_datum.mean() < 1.0  # of about 15 nats of spread; from 0.1 it is 20 and more


@pytest.mark.parametrize(
    "decoder",
    [
        lambda z: torch.cat([z, z**2], -1) * SCALES,  # known
        nn.Sequential(nn.Linear(2, 4), nn.Sigmoid()),  # bounded
        nn.Sequential(nn.Linear(2, 4)).requires_grad_(False),  # known
    ],
)
def test_what_a_persons_own_function_gives_keeps_its_unit(decoder):
    model, guide = pair(likelihoods.Gaussian(sigma=0.5), decoder)
    z = torch.randn(5, 2)
    before = model.likelihood(model.decoder(z)).mean
    ppl_vae.fit(model, guide, table(), epochs=1, learning_rate=1e-12, **FIT)
    torch.testing.assert_close(model.likelihood(model.decoder(z)).mean, before, rtol=1e-5, atol=1e-6)
    model, guide = pair(likelihoods.Gaussian(), decoder)  # a sigma that is learned starts at the spread all the same
    ppl_vae.fit(model, guide, x := table(), epochs=1, learning_rate=1e-12, **FIT)
    assert model.likelihood.sigma.log().mean().item() == pytest.approx(
        (0.6 * x.std(0, correction=0)).log().mean().item(), 0.01
    )


def test_a_function_between_network_and_likelihood_keeps_its_unit():
    class Mine(VAE):
        def forward(self, x=None, *, size=None):
            with self.plate(x, size):
                z = pyro.sample("z", self.prior())
                return pyro.sample("x", self.likelihood(torch.sigmoid(self.decoder(z))), obs=x)

    model = Mine((4,), prior=priors.StandardNormal(2), likelihood=likelihoods.Gaussian(sigma=1.0), decoder=SMALL)
    ppl_vae.fit(model, MeanField(model, encoder=SMALL), table(), epochs=1, learning_rate=1e-12, **FIT)
    assert model.likelihood.data_scale.unique().tolist() == [1.0]


def test_what_was_trained_before_is_left_as_it_is():
    x = table()
    model, guide = pair(likelihoods.Gaussian())
    with pyro.settings.context(module_local_params=True):  # a loop of one's own
        ppl_vae.objectives.IWAE(num_particles=2)(model, guide)(x).backward()
        torch.optim.Adam(model.parameters()).step()
    ppl_vae.fit(model, guide, x, epochs=1, learning_rate=1e-12, **FIT)
    assert model.likelihood.data_scale.unique().tolist() == [1.0]

    model, guide = pair(likelihoods.Gaussian())
    ppl_vae.fit(model, guide, x, epochs=1, **FIT)
    taken = model.likelihood.data_mean.clone()
    ppl_vae.fit(model, guide, x + 100, epochs=1, **FIT)  # a second fit goes on
    torch.testing.assert_close(model.likelihood.data_mean, taken)
    other, its_guide = pair(likelihoods.Gaussian())
    other.load_state_dict(model.state_dict())
    its_guide.load_state_dict(guide.state_dict())
    ppl_vae.fit(other, its_guide, x + 100, epochs=1, **FIT)  # and so do weights that were loaded
    torch.testing.assert_close(other.likelihood.data_mean, taken)


def test_what_was_set_by_hand_is_left_as_it_is():
    """Modules continue from the weights they have: a model that is known stays the one that it is."""
    x = table()
    for change in (
        lambda model: model.decoder.layers[0].bias.zero_(),
        lambda model: model.decoder.layers[2].weight.data[0].fill_(1.0),
        lambda model: model.likelihood.log_sigma.fill_(0.5),
    ):
        model, guide = pair(likelihoods.Gaussian())
        with torch.no_grad():
            change(model)
        before = model.likelihood.sigma.clone()
        ppl_vae.fit(model, guide, x, epochs=1, learning_rate=1e-12, **FIT)
        torch.testing.assert_close(model.likelihood.sigma, before)
        assert guide.preprocessing.data_mean.abs().max() > 0  # the guide is new
    for same in (copy.deepcopy(pair(likelihoods.Gaussian())), [one.double() for one in pair(likelihoods.Gaussian())]):
        ppl_vae.fit(*same, x.to(same[0].likelihood.data_mean.dtype), epochs=1, **FIT)
        assert same[0].likelihood.data_mean.abs().max() > 0


def test_weights_of_a_version_that_took_nothing_from_data():
    _, guide = pair(likelihoods.Gaussian(initial_sigma=0.1))
    old = {name: value for name, value in guide.state_dict().items() if "data_" not in name}
    again = pair(likelihoods.Gaussian(initial_sigma=0.1))[1]
    again.load_state_dict(old)
    x = torch.randn(3, 4)
    torch.testing.assert_close(again.posterior(x)["z"].mean, guide.posterior(x)["z"].mean)


def test_missing_values_are_read_as_the_mean():
    x = table()
    x[:, 1] = math.nan
    x[::2, 2] = math.nan
    mean, scale = mean_and_scale(x)
    torch.testing.assert_close(mean[2], x[1::2, 2].mean(), rtol=1e-4, atol=0)
    assert (float(mean[1]), bool(scale.isfinite().all())) == (0.0, True)
    model, guide = pair(likelihoods.Gaussian())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a column that is never observed
        ppl_vae.fit(model, guide, x, epochs=1, **FIT)
    read = guide.preprocessing(x)
    assert read[0, 1:3].tolist() == [0.0, 0.0]


@pytest.mark.parametrize(
    ("part", "kind"),
    [
        (likelihoods.Gaussian(), preprocessing.Standardize),
        (likelihoods.Bernoulli(), preprocessing.Identity),
        (likelihoods.DiscretizedLogistic(), preprocessing.Identity),
    ],
)
def test_what_suits_a_likelihood_and_another_in_its_place(part, kind):
    assert type(pair(part)[1].preprocessing) is kind
    assert type(pair(type(part)(), preprocessing=preprocessing.Log1p())[1].preprocessing) is preprocessing.Log1p
    with pytest.raises(ppl_vae.InputError, match="one preprocessing for each data shape"):
        MeanField(VAE((5,)), preprocessing=pair(type(part)())[1].preprocessing)
    own = nn.Linear(4, 16)
    assert type(MeanField(VAE((4,), likelihood=type(part)()), encoder=own).preprocessing) is preprocessing.Identity


def test_conditional_models_start_from_what_they_generate():
    x = 50 + 10 * torch.randn(60, 1, 4, 4)
    model = ImageCompletion((1, 4, 4), likelihood=likelihoods.Gaussian())
    ppl_vae.fit(model, Conditional(model), x, epochs=1, **FIT)
    assert model.likelihood.data_mean.flatten().mean().item() == pytest.approx(50, abs=6)  # ten s.d.
    model = CVAE((1, 4, 4), likelihood=likelihoods.Gaussian())
    ppl_vae.fit(model, Conditional(model), (x, torch.arange(60) % 10), epochs=1, **FIT)
    assert model.likelihood.data_mean.item() == pytest.approx(50, abs=6)


def test_pseudo_inputs_are_where_the_data_are():
    x = table()
    for given in (None, x[:3].clone()):
        model, guide = pair(likelihoods.Gaussian())
        model = VAE((4,), priors.VampPrior(2, 3, inputs=given), likelihoods.Gaussian(), SMALL)
        guide = MeanField(model, encoder=SMALL)
        ppl_vae.fit(model, guide, x, epochs=1, learning_rate=1e-12, **FIT)
        inputs = model.prior.inputs.detach()
        assert bool((((inputs - x.mean(0)) / x.std(0)).abs() < 10).all())
        assert given is None or torch.allclose(inputs, given)


def test_a_plain_pyro_pair_is_left_as_it_is():
    class Model(PyroModule):
        def __init__(self):
            super().__init__()
            self.decoder = nn.Linear(2, 4)

        def forward(self, x):
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
                pyro.sample("x", dist.Normal(self.decoder(z), 1.0).to_event(1), obs=x)

    class Guide(PyroModule):
        def __init__(self):
            super().__init__()
            self.encoder = nn.Linear(4, 2)

        def forward(self, x):
            with pyro.plate("data", len(x)):
                pyro.sample("z", dist.Normal(self.encoder(x), 1.0).to_event(1))

    model, guide = Model(), Guide()
    before = model.decoder.weight.detach().clone()
    ppl_vae.fit(model, guide, torch.randn(50, 4), epochs=1, learning_rate=1e-12, **FIT)
    torch.testing.assert_close(model.decoder.weight.detach(), before)


def test_many_data_are_looked_at_evenly(monkeypatch):
    monkeypatch.setattr(start, "MOST_NUMBERS", 100)
    monkeypatch.setattr(start, "AT_ONCE", 50)
    x = some_of(TensorSource((torch.arange(1000.0)[:, None],)))
    assert len(x) <= 100
    assert abs(float(x.mean()) - 499.5) < 10


def test_a_parameter_that_has_not_arrived_is_named():
    x = (table() - MEANS) / SCALES
    with pytest.warns(UserWarning, match=r"likelihood\.log_sigma from -2\.3 to .*raise epochs or learning_rate"):
        ppl_vae.fit(*pair(likelihoods.Gaussian(initial_sigma=0.1)), x, epochs=20, learning_rate=3e-3, **FIT)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ppl_vae.fit(*pair(likelihoods.Gaussian(initial_sigma=1.0)), x, epochs=100, learning_rate=1e-2, **FIT)


def test_a_parameter_of_a_column_is_named_by_its_column():
    columns = likelihoods.Columns(["real", "count", "real", "positive"], ["height", "n", "age", "income"])
    model, guide = pair(columns)
    moving = Moving(Pair(model, guide))
    for i in range(1, 31):
        with torch.no_grad():
            columns.kinds[0].likelihood.log_sigma[1] = -0.09 * i
        moving.note(0.001, 100)
    (found,) = moving.found(torch.optim.Adam(model.parameters()))
    assert found.name == "model.likelihood.log_sigma of column 'age'"


def test_what_moves_to_and_fro_has_arrived():
    model, guide = pair(likelihoods.Gaussian())
    optimizer = torch.optim.Adam(model.parameters())
    for way, arrived in (
        (lambda i: -0.09 * i, False),  # as fast as it can all the way
        (lambda i: -min(0.09 * i, 0.9), True),  # and there in the middle
        (lambda i: 0.09 * (i % 2), True),  # noise
        (lambda i: 1 - 0.5**i, True),
    ):
        moving = Moving(Pair(model, guide))
        for i in range(1, 31):
            with torch.no_grad():
                model.likelihood.log_sigma.fill_(way(i))
            moving.note(0.001, 100)
        assert (moving.found(optimizer) == []) == arrived
        with torch.no_grad():
            model.likelihood.log_sigma.fill_(0.0)


def test_epochs_follow_the_number_of_steps(monkeypatch):
    monkeypatch.setattr(options, "STEPS", 300)
    fit = ppl_vae.fit(*pair(likelihoods.Gaussian()), table(60), batch_size=5, **FIT)
    assert len(fit.history.epoch) == 25  # of 12 steps


def test_a_run_that_is_resumed_is_the_one_that_was_not_interrupted(tmp_path):
    x, fits = table(), {}
    for name, epochs in (("whole", (3,)), ("in parts", (1, 3))):
        for last in epochs:
            torch.manual_seed(0)
            model, guide = pair(likelihoods.Gaussian())
            options = dict(epochs=last, schedule="constant", out=tmp_path / name, resume=True)
            fits[name] = ppl_vae.fit(model, guide, x, **options, **FIT), model, guide
    for (_, *whole), (_, *parts) in [fits.values()]:
        for one, other in zip(whole, parts, strict=True):
            torch.testing.assert_close(one.state_dict(), other.state_dict(), rtol=0, atol=0)
    assert list(fits["whole"][0].history.train_elbo) == list(fits["in parts"][0].history.train_elbo)
