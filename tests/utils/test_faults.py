"""Whatever a person's program raises ends in one sentence that names their line; the exception is its cause."""

import textwrap

import pyro
import pyro.distributions as dist
import pytest
import torch
from ppl_vae.guides import MeanField
from ppl_vae.models import VAE
from torch import nn

import ppl_vae
from ppl_vae import InputError, likelihoods
from ppl_vae.base import Model
from ppl_vae.errors import ProgramError
from ppl_vae.parts import Prior
from ppl_vae.utils.faults import told, warn


class OwnError(Exception):
    """With a constructor that takes more than a message, as Pyro does not expect."""

    def __init__(self, code, detail):
        super().__init__(detail)


class OwnValueError(ValueError):
    """Pyro makes another one of its kind, with one argument: that fails."""

    def __init__(self, code, detail):
        super().__init__(detail)


KINDS = [
    KeyError("weight"),
    AttributeError("no such thing"),
    AssertionError(),
    StopIteration(),
    NotImplementedError(),
    IndexError("out of range"),
    TypeError("not a tensor"),
    OwnError(3, "of mine"),
    OwnValueError(3, "of mine"),
]
x = torch.randn(20)


def raising(problem, *, when=lambda x: True):
    def model(x=None, *, size=None):
        with pyro.plate("data", size if x is None else len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))
            if when(x):
                raise problem
            return pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    return model


def guide(x):
    loc = pyro.param("loc", torch.tensor(0.0))
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(loc, 1.0))


ENTRIES = {
    "fit": lambda m: ppl_vae.fit(m, guide, x, epochs=1),
    "importance": lambda m: ppl_vae.estimate_evidence(m, guide, x),
    "ais": lambda m: ppl_vae.estimate_evidence(m, guide, x, method="ais"),
    "sample": lambda m: ppl_vae.sample(m, 3),
    "reconstruct": lambda m: ppl_vae.reconstruct(m, guide, x),
    "latent_use": lambda m: ppl_vae.latent_use(m, guide, x),
    "explain_gap": lambda m: ppl_vae.explain_gap(m, guide, x),
    "impute": lambda m: ppl_vae.impute(m, guide, x),
    "to_arviz": lambda m: ppl_vae.to_arviz(m, guide, x),
}


def check_told(call, problem):
    with pytest.raises(InputError, match=r"test_faults.py, line \d+, in .*model: raise problem") as error:
        call()
    message, cause = str(error.value), error.value
    assert "\n" not in message and "_RunError" not in message and type(problem).__name__ in message
    causes = []
    while cause is not None:
        causes.append(cause)
        cause = cause.__cause__ or cause.__context__
    assert any(isinstance(one, type(problem)) for one in causes)


@pytest.mark.parametrize("entry", ["fit", "sample"])
@pytest.mark.parametrize("problem", KINDS, ids=lambda p: type(p).__name__)
def test_every_kind_of_exception(problem, entry):
    check_told(lambda: ENTRIES[entry](raising(problem)), problem)


@pytest.mark.parametrize("entry", ENTRIES)
def test_every_way_to_run_a_program(entry):
    problem = KeyError("weight")
    check_told(lambda: ENTRIES[entry](raising(problem)), problem)


def test_after_the_checks_too():
    """A program that fails in a later batch, under many samples, or of fewer data than it was checked on."""
    problem = KeyError("weight")
    check_told(
        lambda: ppl_vae.fit(raising(problem, when=lambda x: len(x) == 2), guide, x, batch_size=6, epochs=1), problem
    )


def test_run_by_hand_it_raises_what_it_raises():
    class Own(Model):
        def forward(self, x=None, *, size=None):
            raise KeyError("weight")

    with pytest.raises(KeyError):
        Own((2,))()


def test_an_exception_of_the_library_is_none_of_a_program():
    scope = {"__name__": "ppl_vae.somewhere"}
    exec("def ours(): raise LookupError('ours')\ndef check(told):\n    with told():\n        ours()", scope)
    with pytest.raises(LookupError, match=r"^'?ours'?$"):
        scope["check"](told)
    scope["ours"] = lambda: {}["mine"]
    with pytest.raises(ProgramError, match=r"KeyError: 'mine' \(.*test_faults.py"):
        scope["check"](told)


sound = raising(None, when=lambda x: False)


class NoEvent(Prior):
    def forward(self, c=None):
        return dist.Normal(self.zeros, 1.0)


class Probabilities(likelihoods.Likelihood):
    def distribution(self, h):
        return dist.Bernoulli(probs=h * 100)


class Scale(likelihoods.Likelihood):
    num_params = 2

    def distribution(self, loc, scale):
        return dist.Normal(loc, -scale.abs())


class NaNScale(likelihoods.Likelihood):
    def distribution(self, loc):
        return dist.Normal(loc, (-loc.abs()).log())


def forgets(x=None, *, size=None):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))
        pyro.sample("x", dist.Normal(z, 1.0))


def no_to_event(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))
        pyro.sample("x", dist.Normal(z[..., None], torch.ones(3)), obs=x)


def layer(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(5), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z @ torch.zeros(4, 3), 1.0).to_event(1), obs=x)


def pair_of(**parts):
    model = VAE((1, 2, 2), **parts)
    return ppl_vae.fit(model, MeanField(model), torch.ones(9, 1, 2, 2), epochs=1)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: pair_of(prior=NoEvent(3)),
            r"site 'z' with 3 distributions along dimension -1, where plate 'data' has 1.*to_event",
        ),
        (lambda: pair_of(likelihood=Probabilities()), r"probs of Bernoulli outside \[0, 1\].*test_faults.py.*logits="),
        (lambda: pair_of(likelihood=Scale()), r"scale of Normal that is not positive.*in Scale.distribution.*exp"),
        (lambda: pair_of(likelihood=NaNScale()), r"scale of Normal that is NaN.*test_faults.py.*logarithm"),
        (lambda: ppl_vae.fit(forgets, guide, x), "none of z, x is observed.*obs=x"),
        (
            lambda: ppl_vae.fit(no_to_event, guide, torch.randn(9, 3)),
            r"site 'x' with 3 distributions.*plate 'data' has 9.*no_to_event",
        ),
        (
            lambda: ppl_vae.fit(layer, guide, torch.randn(9, 3)),
            r"got a layer that takes \[..., 4\], given \[..., 5\] \(.*line \d+, in layer.*take 5",
        ),
        (lambda: ppl_vae.fit(VAE, MeanField, x), r"the class VAE. Write model=VAE\(...\)"),
        (
            lambda: ppl_vae.reconstruct(raising(None, when=lambda x: False), lambda x: guide_of("zz", x), x),
            "zz.*same pyro.sample names",
        ),
    ],
)
def test_the_first_mistakes(call, message):
    with pytest.raises(InputError, match=message) as error:
        call()
    assert len(str(error.value)) < 700 and "\n" not in str(error.value)


def guide_of(name, x):
    with pyro.plate("data", len(x)):
        pyro.sample(name, dist.Normal(torch.zeros(()), 1.0))


OWN = """
import pyro, pyro.distributions as dist, torch
from ppl_vae.base import Model
from ppl_vae.likelihoods import Bernoulli
from ppl_vae.networks import MLP

class Mine(Model):
    def __init__(self, event_shape):
        super().__init__(event_shape)
        {constructor}
        self.likelihood = Bernoulli().bind(event_shape)
        self.decoder = MLP((2,), event_shape)

    def forward(self, x=None, *, size=None):
        with self.plate(x, size):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            {forward}
            return pyro.sample("x", self.likelihood(self.decoder(z)), obs=x)
"""


@pytest.mark.parametrize("where", ["constructor", "forward"])
def test_the_command_line(run, tmp_path, where):
    fault = {"constructor": "", "forward": ""} | {where: "{}['weight']"}
    (tmp_path / "own.py").write_text(textwrap.dedent(OWN).format(**fault))
    arguments = ("train", str(tmp_path / "own.py"), "--epochs", "1", "--out", str(tmp_path / "run"))
    code, _, said = run(*arguments)
    assert code == 2 and "Traceback" not in said
    assert "KeyError: 'weight'" in said and "own.py, line" in said and "{}['weight']" in said
    code, _, said = run("--traceback", *arguments)
    assert code == 2 and "Traceback" in said and "KeyError: 'weight'" in said.splitlines()[-1]


def test_the_command_line_speaks_of_its_options(run):
    code, _, said = run("train", "vae", "--likelihood", "binomial", "--set", "data.binarize=none", "--epochs", "1")
    assert code == 2 and "On the command line: --likelihood" in said.splitlines()[-1]


SAID = {
    "in place": (lambda x, z: z.exp().add_(1).log_(), "tensor that was changed in place after it was used.*h = h"),
    "numpy": (lambda x, z: torch.tensor(z.numpy()), r"NumPy array asked of a tensor.*\(.*test_faults.py, line \d+"),
    "item": (lambda x, z: z.item(), r"one number asked of a tensor of \d+ \(.*test_faults.py, line \d+.*Leave .item"),
    "dtype": (lambda x, z: nn.Linear(1, 1)(z.double()[..., None]), r"Double and Float numbers in one product \(.*line"),
    "zero": (lambda x, z: dist.Normal(0.0, (z - 1e4).exp()), r"scale of Normal that is 0 \(.*line \d+.*x / 255"),
    "none": (lambda x, z: dist.Bernoulli(logits=None), r"neither probs nor logits.* \(.*line \d+.*return"),
    "torch": (
        lambda x, z: pyro.sample("y", torch.distributions.Normal(z, 1.0)),
        r"got Normal, which cannot be called \(.*line \d+.*pyro.distributions",
    ),
    "events": (lambda x, z: dist.Normal(z, 1.0).to_event(3), r"\.to_event\(3\) of a distribution of 1 dim.*line \d+"),
    "channels": (
        lambda x, z: nn.Conv1d(3, 2, 1)(z[:, None, None]),
        r"of 3 channels, given \[20, 1, 1\].*line.*take 1 ch",
    ),
    "no image": (lambda x, z: nn.Conv2d(3, 2, 1)(z[:, None]), r"a conv2d, which takes 4 dimensions, given \[20, 1\]"),
    "norm": (lambda x, z: nn.LayerNorm(3)(z[:, None]), r"takes \[..., 3\], given \[20, 1\] \(.*line \d+"),
    "embedding": (lambda x, z: nn.Embedding(3, 1)(x.long().fill_(3)), r"label that is too large \(.*line.*subtract 1"),
    "one-hot": (lambda x, z: nn.functional.one_hot(x.long().fill_(3), 3), r"too large \(.*line \d+.*subtract 1"),
    "index": (lambda x, z: torch.zeros(3)[x.long().fill_(3)], r"index 3 of 3 \(.*line \d+.*subtract 1"),
    "twice": (lambda x, z: pyro.sample("z", dist.Normal(z, 1.0)), r"two sites or plates named 'z' \(.*line \d+"),
}


@pytest.mark.parametrize("mistake", SAID)
def test_what_beginners_meet_most_is_said_in_words(mistake):
    does, said = SAID[mistake]

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))
            made = does(x, z)
            made = made.squeeze(-1) if isinstance(made, torch.Tensor) and made.dim() > 1 else made
            pyro.sample("x", dist.Normal(made if isinstance(made, torch.Tensor) else z, 1.0), obs=x)

    with pytest.raises(ProgramError, match=said) as error:
        ppl_vae.fit(model, guide, x, epochs=1, progress=False)
    assert "Error:" not in str(error.value)


def test_a_warning_is_at_the_persons_line():
    with pytest.warns(UserWarning) as said:
        warn("look here")
    assert [w.filename for w in said] == [__file__]
