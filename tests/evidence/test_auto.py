"""Each datum by as much work as it needs: who answers it, when it stops, and that what is chosen does not answer."""

import math
from dataclasses import replace

import numpy as np
import pyro
import pyro.distributions as dist
import pyro.distributions.transforms as transforms
import pytest
import torch
from bounds import check_evidence, check_means
from pairs import either_sign_guide, either_sign_log_px, either_sign_model
from ppl_vae.guides import LinearGaussian as ExactPosterior
from ppl_vae.guides import MeanField
from ppl_vae.models import LinearGaussian

from ppl_vae import Evidence, InputError, estimate_evidence
from ppl_vae.evidence import laplace
from ppl_vae.evidence.rules import ANSWERS


def isotropic(x):
    """z ~ N(0, I) of as many numbers as x, x ~ N(z, I): log P(x) = log N(x; 0, 2 I)."""
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(x.shape[-1]), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)


def right_but_for_some(x):
    """The exact posterior, but for data whose first number is above one, where it lies far off."""
    with pyro.plate("data", len(x)):
        far = 4.0 * (x[:, :1] > 1)
        pyro.sample("z", dist.Normal(x / 2 + far, 0.5**0.5).to_event(1))


def log_px(x):
    return dist.Normal(0.0, 2**0.5).log_prob(x).sum(1).numpy()


def some_data(count, seed=0):
    torch.manual_seed(seed)
    return math.sqrt(2) * torch.randn(count, 4)


def poisson_data(count, size):
    """Counts of rate exp(z), z ~ N(0, 4), and the mean of log P(x) by quadrature."""
    torch.manual_seed(0)
    x = torch.poisson((2 * torch.randn(count, size)).exp())
    z, every = torch.linspace(-16, 16, 4001, dtype=torch.double), torch.arange(x.max() + 1)
    joint = dist.Normal(0.0, 2.0).log_prob(z) + dist.Poisson(z.exp()).log_prob(every[:, None])
    return x, (torch.logsumexp(joint, 1) + math.log(32 / 4000))[x.long()].sum(1).mean().item()


def test_the_guide_answers_where_it_is_right_and_a_mixture_elsewhere():
    x = some_data(60)
    evidence = estimate_evidence(isotropic, right_but_for_some, x)
    check_evidence(evidence, log_px(x))
    by = evidence.diagnostics["answered"]
    far = (x[:, 0] > 1).numpy()
    assert (by[far] == ANSWERS.index("laplace")).all() and (by[~far] == ANSWERS.index("guide")).all()
    assert not evidence.doubts() and evidence.verdict().startswith("To be believed: nothing")
    assert evidence.settings["num_simulated"] == 40 and evidence.settings["num_missed"] == 0
    np.testing.assert_allclose(evidence.elbo[~far], log_px(x)[~far], atol=1e-4)  # the guide's, whoever answers
    assert (evidence.elbo[far] < log_px(x)[far] - 10).all()
    text = str(evidence)
    assert f"{int((~far).sum())} by samples from the guide Q(z | x)" in text and "95% interval" in text


def planar_guide():
    """A flow that knows the density of its own last draws alone."""
    bent = transforms.Planar(4)

    def guide(x):
        pyro.module("bent", bent)
        with pyro.plate("data", len(x)):
            base = dist.Normal(x / 2, 0.5**0.5).to_event(1)
            pyro.sample("z", dist.TransformedDistribution(base, [bent]))

    return guide


def guide_with_hidden_noise(x):
    """The mean of z is random beside its site: a mixture of which one part is known at a time."""
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(x / 2 + 0.3 * torch.randn_like(x), 0.5**0.5).to_event(1))


@pytest.mark.parametrize("make", [planar_guide, lambda: guide_with_hidden_noise])
def test_a_guide_whose_density_is_not_known_at_any_z_is_no_part_of_the_mixture(make):
    """The prior is, and mixtures answer all."""
    torch.manual_seed(0)
    x, guide = some_data(40), make()
    with pyro.get_param_store().scope():
        evidence = estimate_evidence(isotropic, guide, x)
    check_evidence(evidence, log_px(x))
    assert (evidence.diagnostics["answered"] == ANSWERS.index("laplace")).all() and not evidence.doubts()


def test_nothing_is_left_in_the_random_state_and_the_seed_decides():
    x = some_data(30)
    state = torch.get_rng_state()
    one, two, three = (estimate_evidence(isotropic, right_but_for_some, x, seed=s) for s in (1, 1, 2))
    assert torch.equal(state, torch.get_rng_state())
    assert np.array_equal(one.log_px, two.log_px) and not np.array_equal(one.log_px, three.log_px)


def test_what_chooses_the_method_does_not_answer():
    """E[w] = P(x) over many data of one x, though who answers is decided by samples: the first answers are fresh."""
    x = torch.full((1000, 4), 0.6)

    def narrow(x):  # heavy weights: the pilot believes it of some of these data only
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x / 2, 0.65).to_event(1))

    evidence = estimate_evidence(isotropic, narrow, x, num_samples=200)
    by_guide = evidence.diagnostics["answered"] == ANSWERS.index("guide")
    assert 0.02 < by_guide.mean() < 0.98
    ratio = np.exp(evidence.log_px - evidence.diagnostics["stopping"] - log_px(x))
    check_means(ratio, 1.0, slack=0.01)


def test_answers_that_looked_well_by_chance_are_too_low_and_it_is_stated():
    """Of fifty draws, those in which no large weight came stay: their mean is off by more than the bias of each."""

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(20), 2.0).to_event(1))
            pyro.sample("x", dist.Poisson(z.exp()).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(torch.full((len(x), 20), -1.0), 0.5).to_event(1))

    x, truth = poisson_data(1000, 20)
    evidence = estimate_evidence(model, guide, x, num_samples=50)
    interval = evidence.interval()
    assert evidence.diagnostics["stopping"].mean() < -0.005
    assert abs((interval.low_of_data + interval.high_of_data) / 2 - truth) < 3 * interval.monte_carlo  # 6 errors


def test_mixtures_that_are_bad_go_on_whatever_their_answer_is(monkeypatch):
    """All are annealed where other samples of the mixtures are bad, and no choice touched what then answers first."""
    adapted = laplace.Laplace.adapted

    def of_no_promise(self, chunk, fitted, *args, **options):
        found = adapted(self, chunk, fitted, *args, **options)
        return replace(found, promising=torch.zeros_like(found.promising))

    monkeypatch.setattr(laplace.Laplace, "adapted", of_no_promise)
    torch.manual_seed(0)
    x = 2**0.5 * torch.randn(40, 12)
    evidence = estimate_evidence(isotropic, right_but_for_some, x)
    annealed = evidence.diagnostics["answered"] == ANSWERS.index("annealing")
    assert (annealed == (x[:, 0] > 1).numpy()).all() and annealed.any()
    assert not evidence.diagnostics["stopping"].any() and not evidence.doubts()
    check_evidence(evidence, log_px(x))


def test_where_nothing_can_be_climbed_no_mode_is_known(monkeypatch):
    """The guide's samples look well, and are in doubt all the same: nobody looked for what it may miss."""

    def fails(*args):
        raise torch.linalg.LinAlgError("no factor")

    monkeypatch.setattr(laplace.Laplace, "first_look", fails)
    x = some_data(30)
    x[:, 0] = x[:, 0].clamp(max=0.9)
    evidence = estimate_evidence(isotropic, right_but_for_some, x)
    check_evidence(evidence, log_px(x))
    assert len(evidence.doubts()) == 30 and "no mode of it is known" in evidence.doubts()[0].reason
    assert evidence.verdict().startswith("Not to be believed") and np.isinf(evidence.interval().high)


def test_what_speaks_against_a_datum_is_counted_in_the_mean():
    """Importance sampling finds five nats more of one datum of fifty than annealing: the mean may be 0.1 too low."""
    x = some_data(50)
    found = estimate_evidence(isotropic, right_but_for_some, x)
    of_one = {name: values.copy() for name, values in found.diagnostics.items()}
    of_one["answered"][3], of_one["acceptance"][3] = ANSWERS.index("annealing"), 0.9
    of_one["log_px_importance"][3], of_one["mcse_importance"][3] = found.log_px[3] + 5.0, 0.1
    evidence = replace(found, diagnostics=of_one)
    assert [doubt.datum for doubt in evidence.doubts()] == [3] and not evidence.is_believed
    assert evidence.interval().doubtful == pytest.approx(0.1)
    assert evidence.interval().high - found.interval().high == pytest.approx(0.1)


def test_a_tolerance_is_reached_for_each_datum():
    x = some_data(20)
    evidence = estimate_evidence(isotropic, right_but_for_some, x, num_samples=50, tolerance=0.02)
    assert (evidence.mcse <= 0.02).all()
    check_evidence(evidence, log_px(x))
    far = x[:, 0] > 1
    assert evidence.diagnostics["draws"][far.numpy()].min() >= 200
    few = dict(num_samples=50, tolerance=1e-4, max_samples=100)
    missed = estimate_evidence(isotropic, right_but_for_some, x[far][:3], **few)
    assert "the tolerance 0.0001 was not reached" in missed.doubts()[-1].reason


def test_a_budget_ends_the_work_and_what_is_left_is_in_doubt():
    x = some_data(60)
    evidence = estimate_evidence(isotropic, right_but_for_some, x, budget=1e-6)
    assert len(evidence.doubts()) == 60 and "only 128 samples say" in evidence.doubts()[0].reason
    assert "Not to be believed" in evidence.verdict() and "in reach" not in evidence.verdict()
    assert np.isfinite(evidence.log_px).all()
    for wrong in (0, -3, "soon", True):
        with pytest.raises(InputError, match="budget above zero, in seconds or as '10min'"):
            estimate_evidence(isotropic, right_but_for_some, x, budget=wrong)
    with pytest.raises(InputError, match="no option budget"):
        estimate_evidence(isotropic, right_but_for_some, x, method="importance", budget="1h")


def test_one_datum_that_is_far_off_is_not_small_in_the_mean():
    """Where a handful of draws is all there is neither error nor bias say how far off the mean is."""
    torch.manual_seed(0)
    x = 2**0.5 * torch.randn(200, 40)
    x[:, 0] = x[:, 0].clamp(max=0.9)
    x[7, 0] = 3.0
    for seed in range(3):
        evidence = estimate_evidence(isotropic, right_but_for_some, x, method="importance", seed=seed)
        assert [doubt.datum for doubt in evidence.doubts()] == [7] and not evidence.is_believed


def test_first_answers_that_are_hopeless_say_nothing_of_what_choosing_did():
    """Of a posterior a millionth as wide as the guide the first answers are off by nats: the last ones are right."""

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2, dtype=x.dtype), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, 1e-6).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(torch.zeros_like(x), 1.0).to_event(1))

    torch.manual_seed(0)
    x = torch.randn(10, 2, dtype=torch.double)
    evidence = estimate_evidence(model, guide, x)
    check_evidence(evidence, dist.Normal(0.0, 1.0).log_prob(x).sum(1).numpy())
    assert abs(evidence.interval().bias + evidence.interval().went_on) < 0.02


def test_it_is_kept_and_read_again(tmp_path):
    evidence = estimate_evidence(isotropic, right_but_for_some, some_data(30))
    evidence.save(tmp_path / "evidence.nc")
    again = Evidence.load(tmp_path / "evidence.nc")
    assert str(again) == str(evidence) and str(again.interval()) == str(evidence.interval())


def test_one_simulated_datum_that_is_far_off_is_enough():
    evidence = estimate_evidence(isotropic, right_but_for_some, some_data(8), num_samples=50)
    for missed, nats, believed in ((0, 0.0, True), (1, 0.05, True), (1, 0.2, False), (2, 0.05, False)):
        settings = evidence.settings | {"num_missed": float(missed), "nats_missed": nats}
        found = replace(evidence, settings=settings)
        assert found.is_believed == believed and (f"about {nats:.2f} nats" in found.verdict()) == (not believed)


def test_one_method_may_have_answered_all():
    """The report has words for any of them alone: there may be no samples, or no chains."""
    evidence = estimate_evidence(isotropic, right_but_for_some, some_data(8), num_samples=50)
    for code, name in enumerate(ANSWERS):
        alone = replace(evidence, diagnostics=evidence.diagnostics | {"answered": np.full(8, float(code))})
        assert "8 by " in str(alone), name


def test_without_a_guide_the_prior_takes_its_place(linear_gaussian):
    model, x = linear_gaussian
    with torch.no_grad():
        truth = model.exact_log_px(x).numpy()
    for guide, how in ((None, {"proposal": "prior"}), (MeanField(model), {"proposal": "prior"})):
        evidence = estimate_evidence(model, guide, x, **how)
        check_evidence(evidence, truth)
        assert not evidence.doubts()


def test_a_guide_whose_density_is_not_known_everywhere_answers_nothing():
    """Of a guide with an auxiliary latent the samples can be weighed, but it is in no mixture."""

    def with_auxiliary(x):
        with pyro.plate("data", len(x)):
            shift = pyro.sample("shift", dist.Normal(0.0, 1.0), infer={"is_auxiliary": True})
            pyro.sample("z", dist.Normal(x / 2 + shift[..., None], 0.7).to_event(1))

    x = some_data(20)
    evidence = estimate_evidence(isotropic, with_auxiliary, x)
    check_evidence(evidence, log_px(x))
    assert (evidence.diagnostics["answered"] > 0).all() and not evidence.doubts()


@pytest.mark.parametrize(
    ("why", "options"), [("K is below 25", {"num_samples": 10}), ("draws are kept", {"num_draws": 5})]
)
def test_what_is_not_climbed_says_why(why, options, linear_gaussian):
    model, x = linear_gaussian
    evidence = estimate_evidence(model, MeanField(model), x, **options)
    assert evidence.method == "importance" and why in str(evidence)


def test_an_exact_model_stays_exact():
    def exact(x):
        with pyro.plate("data", len(x)):
            c = pyro.sample("c", dist.Bernoulli(0.3), infer={"enumerate": "parallel"})
            pyro.sample("x", dist.Normal(c, 1.0), obs=x)

    evidence = estimate_evidence(exact, lambda x: None, torch.randn(10))
    assert evidence.is_exact and evidence.verdict() == "Exact: nothing is estimated."


def test_weights_of_an_exact_guide_are_all_equal(linear_gaussian):
    model, x = linear_gaussian
    evidence = estimate_evidence(model, ExactPosterior(model), x)
    with torch.no_grad():
        np.testing.assert_allclose(evidence.log_px, model.exact_log_px(x).numpy(), atol=1e-4)
    assert (evidence.diagnostics["answered"] == ANSWERS.index("guide")).all()


def test_many_data_are_compiled_and_give_the_same():
    """More data than are evaluated at once, few of the last chunk: filled up, recorded, compiled, as they are."""
    torch.manual_seed(0)
    model = LinearGaussian((20,), latent_dim=4, sigma=0.7)
    with torch.no_grad():
        x = model(size=300)
        truth = model.exact_log_px(x).numpy()
    for compile in (True, False):
        evidence = estimate_evidence(model, MeanField(model), x, num_samples=200, compile=compile)
        check_evidence(evidence, truth)


def one_of_two(monkeypatch, rows=slice(None)):
    """Let the first look know of some data the mode only that the guide's mean leads to."""

    def first_look(self, chunk):
        mean, width = self._drawn(chunk, 16)[1].mean(0), first(self, chunk).mixture.scale
        one = self._mixture(chunk, *self._climbed(chunk, mean[None], width), width)
        some = torch.arange(chunk.size)[rows]
        return first(self, chunk).replaced(some, one.select(some))

    first = laplace.Laplace.first_look
    monkeypatch.setattr(laplace.Laplace, "first_look", first_look)


def test_what_a_second_look_finds_is_counted_and_as_much_may_be_left(monkeypatch):
    """Of one datum of fifty half of P(x) is not seen at first: log 2 is found, which is 0.014 nats of the mean."""
    torch.manual_seed(0)
    x = 1.09**0.5 * torch.randn(50, 12)
    truth = either_sign_log_px(x)
    one_of_two(monkeypatch, slice(7, 8))
    every = (estimate_evidence(either_sign_model, either_sign_guide, x, seed=seed) for seed in range(20))
    evidence = next(found for found in every if found.diagnostics["mcse_second_look"][7] > 0)
    np.testing.assert_allclose(evidence.log_px[7], truth[7], atol=0.3)
    rose, error = (evidence.diagnostics[name] for name in ("second_look", "mcse_second_look"))
    assert abs(rose[7] - math.log(2)) < 6 * error[7] + 0.01
    unseen, none = rose.sum() / 50, evidence.diagnostics | {"second_look": 0 * rose}
    interval, without = evidence.interval(), replace(evidence, diagnostics=none).interval()
    assert interval.unseen == pytest.approx(unseen)
    assert interval.high - without.high == pytest.approx(unseen)
    assert interval.low == without.low
    assert "modes that matter in" in str(evidence) and "modes not found" in str(interval)
    seen = replace(evidence, settings=evidence.settings | {"num_missed": 0.0, "nats_missed": 0.0})  # of simulated data
    assert seen.is_believed and f"may make their mean higher by {unseen:.2f} nats" in seen.verdict()


def test_where_a_second_look_finds_much_nothing_is_believed(monkeypatch):
    torch.manual_seed(0)
    x = 1.09**0.5 * torch.randn(50, 12)
    one_of_two(monkeypatch)
    evidence = estimate_evidence(either_sign_model, either_sign_guide, x)
    found = evidence.diagnostics["mcse_second_look"] > 0
    truth = either_sign_log_px(x)
    np.testing.assert_allclose(evidence.log_px[found], truth[found], atol=0.3)
    assert found.mean() > 0.4
    assert evidence.verdict().startswith("Not to be believed") and "a second set of climbs raised" in str(evidence)
