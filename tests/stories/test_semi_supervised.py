"""Labels that are partly missing: the M2 bound against a sum over y by hand, the classifier, and the whole way."""

import json
import math
from functools import partial

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from bounds import check_errors, check_evidence
from ppl_vae.guides import Conditional, MeanField, SemiSupervised
from ppl_vae.models import CVAE, VAE, NextDigit
from pyro import poutine
from pyro.infer import Trace_ELBO, TraceEnum_ELBO

import ppl_vae
from ppl_vae import InputError, accuracy, data, estimate_evidence, fit
from ppl_vae.architectures import Concatenated
from ppl_vae.conditions import Label
from ppl_vae.likelihoods import Gaussian
from ppl_vae.networks import MLP
from ppl_vae.objectives import Classifying
from ppl_vae.priors import ConditionalNormal, StandardNormal
from ppl_vae.traces.pair import Pair

CLASSES, SIGMA = 3, 0.6
LINEAR = partial(MLP, hidden=())


def linear_pair(seed=0):
    """x = W z + V onehot(y) + b + noise: log P(x | y), the M2 bound and its gradients have closed forms."""
    torch.manual_seed(seed)
    model = CVAE((4,), Label(CLASSES), StandardNormal(2), Gaussian(SIGMA), Concatenated(hidden=()))
    guide = SemiSupervised(model, classifier=LINEAR)
    with torch.no_grad():
        for p in (*model.parameters(), *guide.parameters()):
            p.normal_(std=0.4)
    return model, guide


def exact_log_px_given_y(model, x):
    """log N(x; V_y + b, W W^T + sigma^2 I) for each label, [N, CLASSES]."""
    layer = model.decoder.network.layers[0]
    w, v = layer.weight[:, :2], layer.weight[:, 2:]
    normal = torch.distributions.MultivariateNormal(v.T + layer.bias, w @ w.T + SIGMA**2 * torch.eye(4))
    return normal.log_prob(x[:, None])


def bounds(model, guide, x):
    """ELBO(x, y) for each label, [N, CLASSES], and log Q(y | x), by the formulas."""
    layer, encoder = model.decoder.network.layers[0], guide.encoder.network.layers[0]
    columns = []
    for label in range(CLASSES):
        one_hot = torch.eye(CLASSES)[label].expand(len(x), -1)
        loc, raw = (torch.cat([x, one_hot], 1) @ encoder.weight.T + encoder.bias).split(2, 1)
        scale = torch.nn.functional.softplus(raw) + 1e-6
        mean = torch.cat([loc, one_hot], 1) @ layer.weight.T + layer.bias
        squared = (x - mean).square().sum(1) + (scale.square() @ layer.weight[:, :2].square().T).sum(1)
        log_likelihood = -squared / (2 * SIGMA**2) - 4 * math.log(SIGMA * math.sqrt(2 * math.pi))
        kl = (loc.square() + scale.square() - 1 - 2 * scale.log()).sum(1) / 2
        columns.append(log_likelihood - kl - math.log(CLASSES))
    log_q = (x @ guide.classifier.layers[0].weight.T + guide.classifier.layers[0].bias).log_softmax(1)
    return torch.stack(columns, 1), log_q


def m2_bound(model, guide, x):
    given, log_q = bounds(model, guide, x)
    return (log_q.exp() * (given - log_q)).sum()


def gradients(model, guide):
    found = {f"{r}.{n}": p.grad for r, m in (("m", model), ("g", guide)) for n, p in m.named_parameters()}
    return torch.cat([torch.zeros(1) if g is None else g.flatten().clone() for g in found.values()])


def estimates(objective, model, guide, args, repeats):
    """The mean ELBO and gradient of an objective, each with its standard error."""
    values = []
    with Pair(model, guide).running():
        for _ in range(repeats):
            for p in (*model.parameters(), *guide.parameters()):
                p.grad = torch.zeros_like(p)
            loss = objective.loss_and_grads(model, guide, *args)
            values.append(torch.cat([torch.tensor([loss]), gradients(model, guide)]))
    values = -torch.stack(values).double()
    return values.mean(0), values.std(0) / math.sqrt(repeats)


MANY = dict(max_plate_nesting=1, num_particles=400, vectorize_particles=True)


@pytest.mark.parametrize("kind", [TraceEnum_ELBO, Trace_ELBO])
@pytest.mark.parametrize("labelled", [False, True])
def test_the_bound_and_its_gradients_are_those_of_the_sum_over_labels(kind, labelled):
    model, guide = linear_pair()
    x, y = torch.randn(5, 4), torch.tensor([0, 2, 1, 1, 0])
    exact = bounds(model, guide, x)[0].gather(1, y[:, None]).sum() if labelled else m2_bound(model, guide, x)
    for p in (*model.parameters(), *guide.parameters()):
        p.grad = torch.zeros_like(p)
    exact.backward()
    expected = torch.cat([exact.detach()[None], gradients(model, guide)]).double()
    mean, error = estimates(kind(**MANY), model, guide, (x, y) if labelled else (x,), 30)
    check_errors(mean, expected, error, dof=29, slack=1e-3)
    assert error[0] < 0.02 * expected[0].abs()


def test_log_px_given_y_alone_and_joint():
    model, guide = linear_pair()
    x, y = model(size=12).detach(), torch.arange(12) % CLASSES
    with torch.no_grad():
        exact = exact_log_px_given_y(model, x)
    of_y = exact.gather(1, y[:, None])[:, 0]
    expected = {
        "log P(x | y)": ((x, y), {}, of_y),
        "log P(x)": (x, {}, exact.logsumexp(1) - math.log(CLASSES)),
        "log P(x, y)": ((x, y), {"joint": True}, of_y - math.log(CLASSES)),
    }
    with torch.no_grad():  # wide enough a proposal for honest errors
        guide.encoder.network.layers[0].weight.mul_(0.3)
        guide.encoder.network.layers[0].bias.copy_(torch.tensor([0.0, 0.0, 0.5, 0.5]))
    for quantity, (given, options, truth) in expected.items():
        evidence = estimate_evidence(model, guide, given, method="importance", num_samples=4000, **options)
        assert evidence.quantity == quantity
        assert np.median(evidence.mcse) < 0.2  # tight enough to see an error; a datum far out has a larger one
        check_evidence(evidence, truth)


def test_elbo_of_x_alone_is_the_m2_bound():
    model, guide = linear_pair()
    x = model(size=6).detach()
    evidence = estimate_evidence(model, guide, x, method="importance", num_samples=4000)
    with torch.no_grad():
        each = torch.stack([m2_bound(model, guide, one) for one in x[:, None]]).numpy()
    check_errors(evidence.elbo, each, evidence.elbo_mcse)


@pytest.mark.parametrize("prior", [lambda: StandardNormal(2), lambda: ConditionalNormal(2)])
def test_guide_contract(prior):
    def make():
        torch.manual_seed(0)
        model = CVAE((1, 3, 3), Label(CLASSES), prior(), networks=Concatenated(hidden=8))
        return model, SemiSupervised(model, classifier=partial(MLP, hidden=8))

    model, guide = make()
    x, y = torch.randint(0, 2, (6, 1, 3, 3)).float(), torch.tensor([0, 1, 2, -1, -1, -1])
    for given in ((x,), (x, y.clamp(min=0))):
        with Pair(model, guide).running(), pyro.plate("samples", 5, dim=-2):
            trace = poutine.trace(guide).get_trace(*given)
            replayed = poutine.trace(poutine.replay(model, trace=trace)).get_trace(*given)
        replayed.compute_log_prob()
        assert replayed.nodes["x"]["log_prob"].shape == (5, 6)
        assert trace.nodes["z"]["value"].shape == (5, 6, 2)
        assert ("y" in trace.nodes) == (len(given) == 1)
        assert len(given) > 1 or trace.nodes["y"]["infer"] == {"enumerate": "parallel"}
    assert replayed.nodes["y"]["is_observed"]
    before = {k: v.clone() for m in (model, guide) for k, v in m.named_parameters()}
    fit(model, guide, (x, y), epochs=2, learning_rate=0.01, objective=Classifying(weight=3.0))
    assert all((v != before[k]).any() for m in (model, guide) for k, v in m.named_parameters())
    evidence = estimate_evidence(model, guide, x, method="importance", num_samples=100)
    other, other_guide = make()
    other.load_state_dict(model.state_dict())
    other_guide.load_state_dict(guide.state_dict())
    again = estimate_evidence(other, other_guide, x, method="importance", num_samples=100)
    np.testing.assert_array_equal(again.log_px, evidence.log_px)
    torch.testing.assert_close(guide.classify(x[:, None]).squeeze(1), guide.classify(x))


@pytest.mark.parametrize("inner", [TraceEnum_ELBO(max_plate_nesting=1), Trace_ELBO()])
def test_the_auxiliary_term(inner):
    """Its gradient is the weight times that of the sum of log Q(y | x); the value stays the ELBO's."""
    model, guide = linear_pair()
    x, y = torch.randn(5, 4), torch.tensor([0, 2, 1, 1, 0])

    def step(objective, *args):
        torch.manual_seed(1)
        model.zero_grad()
        guide.zero_grad()
        with Pair(model, guide).running():
            loss = objective.loss_and_grads(model, guide, *args)
        return loss, [p.grad for p in (*model.parameters(), *guide.parameters())]

    with_term = Classifying(inner, weight=7.0)
    loss, grads = step(inner, x, y)
    same_loss, more = step(with_term, x, y)
    assert same_loss == loss
    classifier = list(guide.classifier.parameters())
    log_q = bounds(model, guide, x)[1].gather(1, y[:, None]).sum()
    expected = torch.autograd.grad(7.0 * log_q, classifier)
    for p, a, b in zip((*model.parameters(), *guide.parameters()), grads, more, strict=True):
        place = next((i for i, q in enumerate(classifier) if q is p), None)
        if place is None:
            torch.testing.assert_close(b, a)
        else:
            assert a is None
            torch.testing.assert_close(b, -expected[place])
    for one, other in ((step(with_term, x), step(inner, x)), (step(Classifying(inner, weight=0), x, y), (loss, grads))):
        assert one[0] == other[0]
        torch.testing.assert_close(one[1], other[1])
    with Pair(model, guide).running():
        torch.manual_seed(1)
        total = with_term.differentiable_loss(model, guide, x, y)
        torch.manual_seed(1)
        assert with_term.loss(model, guide, x, y) == pytest.approx(loss)
    torch.testing.assert_close(total.detach(), torch.tensor(loss) - 7.0 * log_q.detach())


def test_the_auxiliary_term_of_plain_functions_with_particles():
    """Functions that keep their parameters in Pyro's store; a scale counts as it does in the ELBO."""

    def model(x, y=None):
        with pyro.plate("data", len(x)):
            y = pyro.sample("y", dist.Bernoulli(0.5), obs=y, infer={"enumerate": "parallel"})
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z + y, 1.0), obs=x)

    def guide(x, y=None):
        slope = pyro.param("slope", torch.tensor(0.3))
        with pyro.plate("data", len(x)):
            y = pyro.sample("y", dist.Bernoulli(logits=slope * x)) if y is None else y
            pyro.sample("z", dist.Normal((x - y) / 2, 0.7))

    x, y = torch.tensor([0.5, -1.0, 2.0]), torch.tensor([1.0, 0.0, 0.0])
    pair = Pair(model, guide, fresh=True)
    with pair.running():
        for scale in (1.0, 2.5):
            objective = Classifying(Trace_ELBO(num_particles=3), weight=2.0)
            objective.loss_and_grads(*(poutine.scale(p, scale) for p in (model, guide)), x, y)
            slope = pyro.get_param_store()["slope"]
            expected = -2.0 * scale * float(((y - torch.sigmoid(0.3 * x)) * x).sum())
            assert float(slope.grad) == pytest.approx(expected, rel=1e-5)
            slope.grad = None
    pair.keep()
    assert accuracy(guide, (x, y)) == pytest.approx(2 / 3)


def test_a_fit_is_resumed_with_the_same_objective_only(tmp_path):
    model, guide = linear_pair()
    x, y = torch.randn(30, 4), torch.arange(30) % 4 - 1
    options = dict(epochs=1, out=tmp_path, resume=True)
    fit(model, guide, (x, y), objective=Classifying(Trace_ELBO(num_particles=3), weight=5), **options)
    for other in (Classifying(Trace_ELBO(num_particles=3), weight=6), Classifying(Trace_ELBO(), weight=5)):
        with pytest.raises(InputError, match=r"objective=Classifying\(Trace_ELBO, weight=5\)\(3\)"):
            fit(model, guide, (x, y), objective=other, **options)


def test_accuracy_leaves_dropout_out():
    model, _ = linear_pair()

    def network(in_shape, out_shape):
        return torch.nn.Sequential(LINEAR(in_shape, out_shape), torch.nn.Dropout(0.9))

    guide = SemiSupervised(model, classifier=network)
    x = torch.randn(100, 4)
    assert accuracy(guide, (x, guide.classifier.network[0](x).argmax(-1))) == 1.0
    assert guide.training


def test_accuracy_counts_the_most_probable_label():
    _, guide = linear_pair()
    x = torch.randn(2500, 4)
    best = guide.classify(x).argmax(-1)
    y = best.clone()
    y[:700] = (y[:700] + 1) % CLASSES
    assert accuracy(guide, (x, best)) == 1.0
    assert accuracy(guide, (x, y)) == pytest.approx(1 - 700 / 2500)


@pytest.fixture(scope="module")
def few():
    return data.load("digits", num_labels=100)


def test_a_hundred_labels_of_the_digits(few):
    model = CVAE(few.event_shape, prior=StandardNormal(4), networks=Concatenated(hidden=64))
    guide = SemiSupervised(model, classifier=partial(MLP, hidden=64))
    fitted = fit(
        model, guide, few.train, validation=few.validation, epochs=10, learning_rate=0.005, objective=Classifying()
    )
    assert accuracy(guide, few.test) > 0.7
    assert fitted.history.validation_elbo[-1] > fitted.history.validation_elbo[0] + 3


QUICK = ["--epochs", "2", "--set", "networks.hidden=16", "--set", "classifier.hidden=16", "-k", "20"]
QUICK += ["--method", "importance"]


def test_the_command_line_chooses_guide_and_objective(run, tmp_path):
    few_labels = ["train", "cvae", "--set", "data.num_labels=100", *QUICK]
    code, out, err = run(*few_labels)
    assert code == 0, err
    folder = tmp_path / "runs" / "cvae-digits"
    config = json.loads((folder / "run.json").read_text())
    assert config["build"]["guide"] == "semi_supervised"
    assert config["objective"] == {"name": "classifying", "weight": Classifying().weight}
    fitted_with = torch.load(folder / "last.pt", weights_only=True)["settings"]["objective"]
    assert fitted_with == f"{Classifying().__name__}(1)"
    loaded = ppl_vae.load(folder)
    assert config["result"]["accuracy"] == pytest.approx(accuracy(loaded.guide, loaded.data().test))
    assert f"Q(y | x) is right for {config['result']['accuracy']:.2%} of the test data" in out
    assert "log P(x | y)" in out
    code, _, err = run(*few_labels, "--set", "objective.weight=3", "--resume")
    assert (code, "a run with other objective.weight (100.0, not 3)" in err) == (2, True)
    code, out, err = run("train", "cvae", "--guide", "semi_supervised", *QUICK)  # with all labels, the same
    assert code == 0, err
    assert "Q(y | x) is right" in out


def test_a_file_with_missing_labels(run, tmp_path):
    y = np.arange(300) % 3
    x = (np.random.default_rng(0).random((300, 1, 4, 4)) < 0.2 + 0.3 * y[:, None, None, None]).astype(np.float32)
    few_y = np.where(np.arange(300) < 30, y, -1)
    np.savez(tmp_path / "whole.npz", x=x, y=few_y)
    code, _, err = run("train", "cvae", "--data", "whole.npz", *QUICK)
    assert (code, "Expected labels of all test data" in err) == (2, True)
    assert not (tmp_path / "runs").exists()
    parts = {"train": x, "train_y": few_y} | {
        f"{p}{s}": v for p in ("validation", "test") for s, v in (("", x), ("_y", y))
    }
    np.savez(tmp_path / "parts.npz", **parts)
    code, out, err = run("train", "cvae", "--data", "parts.npz", "--set", "condition.num_classes=3", *QUICK)
    assert code == 0, err
    assert "Q(y | x) is right" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["cvae", "-g", "conditional", "-s", "data.num_labels=9"], "labels y for Conditional; got none.*semi_supervis"),
        (["cvae", "-s", "objective.weight=9"], r"Unknown option objective\.weight of Trace_ELBO"),
        (["cvae", "--objective", "classifying"], "labels y for Conditional; got none.*semi_supervis"),
        (["vae", "-g", "semi_supervised"], "condition is a Label for SemiSupervised; got none in VAE"),
        (["cvae", "-s", "data.num_labels=9", "-s", "objective.wait=9"], "objective.wait.*did you mean 'weight'"),
        (["cvae", "-s", "data.num_labels=9", "-s", "objective.weight=-1"], "weight to be a finite.* 0; got -1"),
        (["cvae", "-s", "data.num_labels=9", "-s", "classifier.hiden=9"], "did you mean 'hidden'"),
    ],
)
def test_the_command_line_in_words(run, arguments, message):
    import re

    code, _, err = run("train", *arguments)
    assert code == 2
    assert re.search(message, err.replace("\n", " ")), err


def no_site(x, y=None):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(torch.zeros(len(x), 2), 1.0).to_event(1))


def continuous(x, y=None):
    with pyro.plate("data", len(x)):
        pyro.sample("y", dist.Normal(x[:, 0], 1.0))


X, Y = torch.zeros(5, 4), torch.zeros(5, dtype=torch.long)
REFUSED = {
    "no label": (lambda: SemiSupervised(VAE((4,))), "condition is a Label.*got none in VAE"),
    "another condition": (lambda: SemiSupervised(NextDigit((1, 8, 8))), "is a Label.*got DigitString in NextDigit"),
    "weight": (lambda: Classifying(weight=math.nan), "at least 0; got nan"),
    "weight in words": (lambda: Classifying(weight="much"), "at least 0; got 'much'"),
    "one-hot": (lambda: linear_pair()[1](X, torch.zeros(5, 3)), r"pass y\.argmax"),
    "a column": (lambda: linear_pair()[1](X, Y[:, None]), r"Pass y\.flatten\(\)"),
    "not known as NaN": (lambda: linear_pair()[1](X, torch.full((5,), math.nan)), "got nan. Write -1"),
    "no classes": (lambda: linear_pair()[1](X, torch.full((5,), 0.5)), "got 0.5.* another condition"),
    "floats": (lambda: linear_pair()[1](X, torch.zeros(5)), r"Store integers"),
    "no site": (lambda: accuracy(no_site, (X, Y)), r"a discrete site 'y'.*got \['z'\] in no_site"),
    "no values": (lambda: accuracy(continuous, (X, Y)), "a discrete site 'y'"),
    "does not classify": (lambda: accuracy(Conditional(linear_pair()[0]), (X, Y)), "use guide semi_supervised"),
    "takes no labels": (lambda: accuracy(MeanField(VAE((4,))), (X, Y)), "fits the model's call MeanField"),
    "nothing to hold against": (lambda: accuracy(linear_pair()[1], X), "Expected labels.*got x alone"),
    "one-hot, to hold against": (lambda: accuracy(linear_pair()[1], (X, torch.eye(5))), r"pass y\.argmax"),
    "labels missing": (lambda: accuracy(linear_pair()[1], (X, torch.tensor([0, -1, 0, 0, 0]))), "1 of 5 data without"),
    "objective": (lambda: fit(linear_pair()[0], no_site, (X, Y), objective=Classifying()), r"site 'y' where.*\['z'\]"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_errors_in_words(case):
    call, message = REFUSED[case]
    with pytest.raises(InputError, match=message):
        call()
