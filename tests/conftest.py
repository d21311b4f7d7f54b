"""What all tests share: real data where there is some, and a check that nothing leaks into Pyro's store."""

import os
from pathlib import Path

import pyro
import pytest
import torch
from ppl_vae.guides import MeanField
from ppl_vae.models import LinearGaussian

from ppl_vae import cli, data
from ppl_vae.compilation import capture
from ppl_vae.traces import parameters

collect_ignore = ["benchmarks", "stories/old_runs"]  # commands for a person, with peers of their own; old files

os.environ["PPL_VAE_SMOKE"] = "1"  # the notebooks then use small settings

if "PYTEST_XDIST_WORKER" in os.environ:  # several processes with all cores each, and notebooks, would stand still
    os.environ["OMP_NUM_THREADS"] = "1"

torch.set_num_threads(1)  # what is compared bit for bit has one way to round


@pytest.fixture(autouse=True)
def nothing_leaks():
    """No test may leave parameters in Pyro's global store, or change its settings."""
    yield
    left = list(pyro.get_param_store().keys())
    pyro.clear_param_store()
    assert left == []
    assert pyro.settings.get("module_local_params") is False


@pytest.fixture(autouse=True, scope="module")
def no_fit_is_known():
    """What a module's tests fit of plain functions that others share is forgotten."""
    yield
    parameters._KEPT.clear()


@pytest.fixture
def linear_gaussian():
    """A random linear-Gaussian model of 20 dimensions and 4 latents, with 64 data drawn from it."""
    model = LinearGaussian((20,), latent_dim=4, sigma=0.7)
    model.likelihood.started = True  # the very model that draws the data; a fit goes on from it
    with torch.no_grad():
        return model, model(size=64)


@pytest.fixture(scope="session")
def digits():
    return data.load("digits")


@pytest.fixture
def real_data(request):
    """Skip where the real data set named by the test's parameter is not on disk."""

    def load(name, **options):
        needed = {"mnist": "MNIST/raw", "binarized_mnist": "binarized_mnist_static.npz", "freyfaces": "freyfaces.npz"}
        needed["jsb_chorales"] = "music/JSB_Chorales.mat"
        folder = os.environ.get("PPL_VAE_DATA", "")
        if not folder or not Path(folder, needed[name]).exists():
            pytest.skip(f"{name} is not in the folder named by PPL_VAE_DATA ({folder or 'not set'})")
        return data.load(name, **options)

    return load


@pytest.fixture
def small_pair(digits):
    """An untrained VAE of the digits with its mean-field guide."""
    from functools import partial

    from ppl_vae.models import VAE

    from ppl_vae.networks import MLP
    from ppl_vae.priors import StandardNormal

    network = partial(MLP, hidden=(16,))
    model = VAE(digits.event_shape, prior=StandardNormal(3), decoder=network)
    return model, MeanField(model, encoder=network)


@pytest.fixture
def uncompiled(monkeypatch):
    """Run what was recorded and rewritten as it is: compiling takes seconds for each program."""
    monkeypatch.setattr(capture, "_compiled", lambda graph, inputs: (graph.recompile(), graph)[1])


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Call the command line in this process, in an empty folder; return exit code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments):
        with pytest.raises(SystemExit) as exit_:
            cli.main([str(a) for a in arguments])
        out, err = capsys.readouterr()
        return exit_.value.code, out, err

    return call
