"""Every part is found by name, listed with its options, and taken by the command line; a person's own are, too."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from by_name import build
from ppl_vae.guides import MeanField
from ppl_vae.models import VAE
from pyro.infer import ELBO, TraceEnum_ELBO

import ppl_vae
from ppl_vae import InputError, cli, list_parts
from ppl_vae.data.as_source import as_source
from ppl_vae.networks import GatedMLP
from ppl_vae.runs import kinds
from ppl_vae.runs.build import choose_objective
from ppl_vae.runs.train import _ready
from ppl_vae.traces.pair import Pair

OWN = '''
"""A model of one's own: everything in it can be chosen."""
import pyro
import pyro.distributions as dist
import torch
from pyro.infer import Trace_ELBO
from ppl_vae.base import Model
from ppl_vae.likelihoods import Bernoulli, Likelihood
from ppl_vae.networks import MLP, Network
from ppl_vae.priors import Prior, StandardNormal


class Wide(Prior):
    """A wide prior, P(z) = N(0, width^2 I). It is wide."""

    def __init__(self, latent_dim=2, width=3.0):
        super().__init__(latent_dim)
        self.width = width

    def forward(self, c=None):
        return dist.Normal(self.zeros, self.width).to_event(1)


class Logistic(Likelihood):
    def distribution(self, *params):
        return dist.Bernoulli(logits=params[0] / 2)


class Linear(Network):
    """A linear map."""

    def __init__(self, in_shape, out_shape, bias=True):
        super().__init__(in_shape, out_shape)
        self.layer = torch.nn.Linear(self.in_shape.numel(), self.out_shape.numel(), bias=bias)

    def transform(self, x):
        return self.layer(x.flatten(-len(self.in_shape)))


class Half(Trace_ELBO):
    """Half of the ELBO, E_Q[...] / 2."""

    def __init__(self, factor: float = 0.5, **options):
        super().__init__(**options)
        self.factor = factor

    def loss_and_grads(self, model, guide, *args):
        return self.factor * super().loss_and_grads(model, guide, *args)


class Fails(Trace_ELBO):
    def loss_and_grads(self, model, guide, *args):
        raise RuntimeError("not for these")


class Own(Model):
    """P(x, z) = P(x | f(z)) P(z)."""

    def __init__(self, event_shape, prior=None, likelihood=None, decoder=MLP):
        super().__init__(event_shape)
        self.prior = prior or StandardNormal(2)
        self.likelihood = (likelihood or Bernoulli()).bind(event_shape)
        self.decoder = decoder(self.prior.event_shape, self.likelihood.h_shape)

    def forward(self, x=None, *, size=None):
        with self.plate(x, size):
            z = pyro.sample("z", self.prior())
            return pyro.sample("x", self.likelihood(self.decoder(z)), obs=x)
'''
QUICK = ["--data", "x.npy", "--epochs", "1", "-k", "2"]


@pytest.fixture
def x_npy(run):
    np.save("x.npy", np.random.default_rng(0).integers(0, 2, (60, 5)))
    Path("own.py").write_text(OWN)
    return run


def held(path):
    return json.loads(Path(path, "run.json").read_text())


def test_every_part_says_what_it_is():
    table = list_parts()
    assert {"model", "guide", "prior", "likelihood", "condition", "networks", "posterior", "objective"} < {*table.kind}
    assert not [name for name, what in zip(table.name, table.what, strict=True) if len(what) < 10 or what[-1] != "."]
    assert not table.duplicated(["kind", "name"]).any()
    rows = table.set_index(["kind", "name"])
    assert rows.options["model", "vae"] == "--prior, --likelihood, --decoder mlp"
    assert rows.options["decoder, encoder, classifier", "mlp"] == "hidden=512,512, activation=relu"
    assert "kind=neural_spline, transforms=3" in rows.options["prior", "flow"]
    for kind in ("encoder", "objective", "model"):
        assert {*list_parts(kind).name} == {*table.name[table.kind.str.contains(kind)]}
    # What is listed can be made by that name.
    for kind in kinds.KINDS:
        assert {*list_parts(kind).name} == {*kinds.part_names(kind)}


def test_options_are_read_from_signatures():
    class Above(ELBO):
        def __init__(self, beta: float = 1.0, **options):
            super().__init__(**options)

    class Below(Above):
        pass

    assert list(kinds.parameters_of(TraceEnum_ELBO))[:2] == ["num_particles", "max_plate_nesting"]
    assert {"beta", "num_particles"} < {*kinds.parameters_of(Below)}
    assert list(kinds.parameters_of(GatedMLP, 2)) == ["hidden"]
    with pytest.raises(InputError, match=r"Unknown option objective\.bta of Below: did you mean 'beta'"):
        kinds.make(Below, {"bta": 1}, "objective")
    with pytest.raises(InputError, match=r"Unknown option decoder\.in_shape of GatedMLP"):
        kinds.check_options(GatedMLP, {"in_shape": (3,)}, "decoder", 2)


def test_networks_by_name():
    parts = dict(event_shape=torch.Size([1, 4, 4]), decoder="gated_mlp", encoder="gated_mlp")
    settings = {"decoder.hidden": (7,), "encoder.hidden": (9, 9)}
    model, guide, used = build("vae", **parts, settings=settings)
    assert (type(model.decoder), type(guide.encoder), used) == (GatedMLP, GatedMLP, settings)
    assert len([*guide.encoder.layers]) == 5
    with pytest.raises(InputError, match="Unknown decoder 'gated': did you mean 'gated_mlp'"):
        build("vae", event_shape=torch.Size([4]), decoder="gated")
    with pytest.raises(InputError, match="a guide whose classifier can be chosen; got MeanField"):
        build("vae", event_shape=torch.Size([4]), classifier="mlp")
    with pytest.raises(InputError, match="Unknown kind of part 'decodr': did you mean 'decoder'"):
        build("vae", event_shape=torch.Size([4]), decodr="mlp")


def test_ones_own_parts_train(x_npy):
    own = ["--prior", "wide", "--likelihood", "logistic", "--decoder", "linear", "--objective", "half"]
    options = ["prior.width=2", "decoder.bias=false", "objective.num_particles=2", "encoder.hidden=8"]
    given = [*own, *(word for option in options for word in ("--set", option))]
    code, _, err = x_npy("train", "own.py", *given, *QUICK)
    assert code == 0, err
    loaded = ppl_vae.load("runs/own-wide-logistic-linear-half-x", trust=True)
    model = loaded.model
    assert [type(p).__name__ for p in (model.prior, model.likelihood, model.decoder)] == ["Wide", "Logistic", "Linear"]
    assert (model.prior.width, model.decoder.layer.bias) == (2, None)
    assert loaded.config["objective"] == {"name": "half", "factor": 0.5, "num_particles": 2}
    assert x_npy("train", "own.py", *given, *QUICK, "--resume")[0] == 0
    code, _, err = x_npy("train", "own.py", *given, "--set", "objective.factor=0.7", *QUICK, "--resume")
    assert (code, "other objective.factor (0.5, not 0.7)" in err) == (2, True)
    code, _, err = x_npy("train", "own.py", "--objective", "fails", *QUICK)
    assert code == 2
    assert "Expected fails to be an objective that works for Own and MeanField; got RuntimeError: not for these" in err
    assert not Path("runs/own-fails-x").exists()


def test_ones_own_parts_are_listed(x_npy, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    code, out, _ = x_npy("parts", "--model", "own.py")
    assert code == 0
    assert re.search(r"\n  own.py +A model of one's own: everything in it can be chosen\.\n +P\(x, z\) = P", out)
    assert re.search(r"\n  wide +A wide prior, P\(z\) = N\(0, width\^2 I\)\.\n +latent_dim=2, width=3\.0\n", out)
    assert re.search(r"\n  half +Half of the ELBO, E_Q\[\.\.\.\] / 2\.\n +factor=0\.5, num_particles=1", out)
    assert out.count("  logistic") == 1
    code, out, _ = x_npy("parts", "prior")
    assert (code, "standard_normal" in out, "wide" in out, "likelihood" in out) == (0, True, False, False)
    table = list_parts("likelihood", model="own.py").set_index("name")
    assert (table.module["logistic"], table.module["bernoulli"]) == ("own.py", "ppl_vae.likelihoods.pixels")
    for arguments, message in ((["priors"], "did you mean 'prior'"), (["--model", "no.py"], "no such file")):
        code, _, err = x_npy("parts", *arguments)
        assert (code, message in err) == (2, True)


def test_an_objective_and_the_run_that_it_is_of(x_npy):
    command = ["train", "vae", *QUICK, "--set", "encoder.hidden=8", "--out", "r"]
    assert x_npy(*command)[0] == 0
    assert held("r")["objective"] == {"name": "trace_elbo"}
    code, _, err = x_npy(*command, "--objective", "trace_mean_field_elbo", "--resume")
    assert (code, "other objective.name (trace_elbo, not trace_mean_field_e" in err) == (2, True)
    # A run.json of before objectives had names, and parts that nobody chose were None.
    config = held("r")
    del config["objective"], config["digest"]
    config["build"] |= {"prior": None, "likelihood": None}
    Path("r/run.json").write_text(json.dumps(config))
    assert x_npy(*command, "--resume")[0] == 0
    assert held("r")["objective"] == {"name": "trace_elbo"}
    for option, message in (
        (["--objective", "trace_elb"], "Unknown objective 'trace_elb': did you mean 'trace_elbo'"),
        (["--set", "objective.num_particle=3"], "did you mean 'num_particles'"),
        (["--set", "objective.num_particles=none"], "at least 1; got None"),
        (["--set", "objective.num_particles=0"], "at least 1; got 0"),
    ):
        code, out, err = x_npy(*command, *option, "--out", "s")
        assert (code, out, message in err) == (2, "", True), err


def test_plates_are_counted_for_the_objective():
    model = VAE((4,))
    pair = Pair(model, MeanField(model))
    x = torch.randint(0, 2, (6, 4)).float()
    for options, nesting in (({}, 1), ({"max_plate_nesting": 2}, 2)):
        with pair.running():
            chosen = choose_objective(pair.guide, "trace_enum_elbo", options, ())
            assert _ready(chosen, pair, as_source(x, pair), seed=0).max_plate_nesting == nesting
    assert all(p.grad is None for p in pair.parameters())


def test_help_names_every_kind(capsys):
    with pytest.raises(SystemExit):
        cli.main(["train", "--help"])
    out = capsys.readouterr().out
    assert all(f"--{kind}" in out for kind in kinds.KINDS)
