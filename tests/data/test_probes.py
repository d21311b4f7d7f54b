"""What Pyro lets pass and what makes wrong numbers is refused: shapes, values changed in place, coupled data."""

import warnings

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from torch import nn

import ppl_vae
from ppl_vae import InputError

N, D, L = 12, 5, 2
x = torch.randn(N, D)
decoder, wrong = nn.Linear(L, D), nn.Linear(L, D - 1)


def model_of(observe):
    def model(x):
        pyro.module("decoder", decoder)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(L), 1.0).to_event(1))
            observe(x, z)

    return model


def guide(x):
    scale = pyro.param("scale", torch.ones(L))
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(torch.zeros(L), scale.exp()).to_event(1))


def right(x, z):
    pyro.sample("x", dist.Normal(decoder(z), 1.0).to_event(1), obs=x)


def eleven(x, z):
    pyro.sample("x", dist.Normal(wrong(z), 1.0).to_event(1), obs=x)


def tensor(x, z):
    pyro.sample("x", decoder(z), obs=x)


def torchs(x, z):
    pyro.sample("x", torch.distributions.Normal(decoder(z), 1.0), obs=x)


def adds_to_z(x, z):
    z += 1
    right(x, z)


def scales_x(x, z):
    x /= 2
    right(x, z)


ENTRIES = {
    "fit": lambda model, x: ppl_vae.fit(model, guide, x, epochs=1, progress=False),
    "importance": lambda model, x: ppl_vae.estimate_evidence(
        model, guide, x, method="importance", num_samples=5, progress=False
    ),
    "prior": lambda model, x: ppl_vae.estimate_evidence(
        model, None, x, method="ais", proposal="prior", num_temperatures=20, num_chains=4
    ),
}
MISTAKES = {
    eleven: r"got \(\d+, 5\) in .* at site 'x' \(.*test_probes.py, line \d+, in eleven: .*Normal has \(\d+, 4\)",
    tensor: r"got Tensor of torch in .* at site 'x' \(.*in tensor: .*such as pyro.distributions.Normal",
    torchs: r"got Normal of torch in .* at site 'x' \(.*Write Normal\(...\) of pyro.distributions",
    adds_to_z: r"got the value of site 'z' \(.*in model_of.model: .*\) changed in place by .*Write z = z \+ 1",
    scales_x: r"got x changed in place by .*Write x = x / 255",
}


@pytest.mark.parametrize("entry", ENTRIES)
@pytest.mark.parametrize("mistake", MISTAKES)
def test_what_would_make_a_wrong_number_is_refused_by_its_line(entry, mistake):
    with pytest.raises(InputError, match=MISTAKES[mistake]) as error:
        ENTRIES[entry](model_of(mistake), x.clone())
    assert "tensor(" not in str(error.value) and ".." not in str(error.value).replace("...", "")


@pytest.mark.parametrize("entry", ENTRIES)
def test_data_are_not_repeated_along_dimensions_that_they_do_not_have(entry):
    def rows(x, z):
        pyro.sample("x", dist.Normal(decoder(z)[..., :1], 1.0).to_event(1), obs=x)

    def one_number(x, z):
        pyro.sample("x", dist.Normal(decoder(z)[..., 0], 1.0), obs=x)

    with pytest.raises(InputError, match=r"got \(\d+,\) in"):
        ENTRIES[entry](model_of(rows), x[:, 0])  # each datum N times
    with pytest.raises(InputError, match=r"got \(\d+, 1\) in"):
        ENTRIES[entry](model_of(right), x[:, :1])  # D times
    with pytest.raises(InputError, match=r"got \(\d+, 1\) in"):
        ENTRIES[entry](model_of(one_number), x[:, :1])
    ENTRIES[entry](model_of(rows), x[:, :1])
    ENTRIES[entry](model_of(rows), x)  # one mean for all numbers of a datum


class Changing(nn.Module):
    def __init__(self):
        super().__init__()
        self.decoder = nn.Linear(L, D)

    def forward(self, x):
        self.decoder.weight.data.mul_(0.9)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(L), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(self.decoder(z), 1.0).to_event(1), obs=x)


@pytest.mark.parametrize("entry", ENTRIES)
def test_programs_do_not_change_their_parameters(entry):
    with pytest.raises(InputError, match=r"got decoder.weight, of shape \(5, 2\), which Changing .*changes"):
        ENTRIES[entry](Changing(), x)


COUPLED = {
    "mean": lambda z: decoder(z - z.mean()),
    "item": lambda z: decoder(z) + z.sum().item(),
    "softmax": lambda z: decoder(z).softmax(0),
}


@pytest.mark.parametrize("coupled", COUPLED)
def test_data_that_depend_on_each_other_have_no_log_px_each(coupled):
    def observe(x, z):
        pyro.sample("x", dist.Normal(COUPLED[coupled](z), 1.0).to_event(1), obs=x)

    for entry in ("importance", "prior"):
        with pytest.raises(InputError, match=r"log-probability of a datum to be its own.*at site 'x'"):
            ENTRIES[entry](model_of(observe), x)
    ENTRIES["importance"](model_of(right), x)


@pytest.mark.parametrize(("beside_others", "refused"), [(2.0**-23, False), (2.0**-6, True)])
def test_rounding_is_no_dependence(beside_others, refused):
    """Terms of a million nats that cancel move by 0.06 where a last digit does, as in a product of larger matrices."""

    def observe(x, z):
        r = 1e5 * (1 + z[..., :1].exp())
        mean = (1.7 + 0.1 * z).exp() * 100
        if len(x) > 2:
            r = r * (1 + beside_others)
            mean = mean * (1 + max(0.0, beside_others - 1e-3))
        pyro.sample("x", dist.NegativeBinomial(r, logits=mean.log() - r.log()).to_event(1), obs=x)

    counts = torch.poisson(torch.full((N, L), 700.0))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it is said what rounding takes
        if not refused:
            ENTRIES["importance"](model_of(observe), counts)
            return
        with pytest.raises(InputError, match=r"log-probability of a datum to be its own.*at site 'x'"):
            ENTRIES["importance"](model_of(observe), counts)


def blocked(x, z):
    with poutine.block():
        noise = pyro.sample("noise", dist.Normal(torch.zeros(len(x), 1), 1.0))
    pyro.sample("x", dist.Normal(decoder(z) + noise, 1.0).to_event(1), obs=x)


WIDE = torch.linspace(0.1, 1.0, 32).sqrt()  # of so many, no two draws of dropout have the same sum
RANDOM = {
    "randn": lambda x, z: decoder(z) + torch.randn(len(x), 1),
    "dropout": lambda x, z: decoder(z) + nn.functional.dropout(WIDE, 0.5, training=True).sum(),
}


@pytest.mark.parametrize("name", [*RANDOM, "blocked"])
def test_a_model_is_random_at_its_sites_only(name):
    """Its K samples would share what it draws elsewhere: log P(x | noise), for one noise, is not log P(x)."""

    def observe(x, z):
        pyro.sample("x", dist.Normal(RANDOM[name](x, z), 1.0).to_event(1), obs=x)

    model = model_of(blocked if name == "blocked" else observe)
    for entry, data in (("importance", x), ("prior", x), ("prior", x[:2])):
        with pytest.raises(InputError, match=r"random at its sites only.*at site 'x'"):
            ENTRIES[entry](model, data)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_a_sum_that_is_rounded_by_nats_is_said(dtype):
    """1,000 numbers of log N(x; 0, 1) are some -1,400 nats, which bfloat16 knows to 8, half to 1, single to 1e-4."""

    def observe(x, z):
        zeros = torch.zeros(*z.shape[:-1], 1000, dtype=dtype)
        pyro.sample("x", dist.Normal(zeros, torch.ones((), dtype=dtype)).to_event(1), obs=x.to(dtype))

    wide = torch.randn(N, 1000)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        ENTRIES["importance"](model_of(observe), wide)
    found = [str(w.message) for w in said if "is scored in" in str(w.message)]
    assert len(found) == (dtype != torch.float32)
    assert all(f"site 'x' is scored in {str(dtype).removeprefix('torch.')}" in words for words in found)
