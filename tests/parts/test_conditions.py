"""Conditions and conditional models: one contract for all, against independent arithmetic, and what is refused."""

import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from angled import Angle
from contracts.rows import CONDITIONAL
from pyro import poutine
from tiny import IMAGES, LABELS, SHAPE, SMALL, STRINGS

import ppl_vae
from ppl_vae import InputError, guides, models
from ppl_vae.architectures import Tutorial
from ppl_vae.conditional import ConditionalModel
from ppl_vae.conditions import DigitString, Label, Visible
from ppl_vae.generation.generate import same_latents
from ppl_vae.priors import ConditionalNormal, StandardNormal
from ppl_vae.runs.figures import labelled
from ppl_vae.traces.handlers import Regenerated
from ppl_vae.traces.pair import Pair


def guide_of(model):
    return guides.NoLatents(model) if isinstance(model, models.Regressor) else guides.Conditional(model)


@pytest.mark.parametrize("name", CONDITIONAL)
def test_contract(name):
    make, batch = CONDITIONAL[name]
    torch.manual_seed(0)
    model = make()
    guide = guide_of(model)
    with pyro.plate("samples", 5, dim=-2):  # one more plate to the left
        guide_trace = poutine.trace(guide).get_trace(*batch)
        model_trace = poutine.trace(poutine.replay(model, trace=guide_trace)).get_trace(*batch)
    model_trace.compute_log_prob()
    assert model_trace.nodes["x"]["log_prob"].shape == (5, 6)
    pyro.clear_param_store()

    before = {k: v.clone() for m in (model, guide) for k, v in m.named_parameters()}
    ppl_vae.fit(model, guide, batch, epochs=20, learning_rate=0.01, schedule="constant", progress=False)
    for k, v in (pair for m in (model, guide) for pair in m.named_parameters()):
        assert torch.isfinite(v).all() and (v != before[k]).any(), k
    evidence = ppl_vae.estimate_evidence(model, guide, batch, method="importance", num_samples=200)
    assert evidence.quantity == "log P(x | y)"
    assert (evidence.gap > -4 * np.hypot(evidence.mcse, evidence.elbo_mcse) - 1e-4).all()

    other = make()
    other_guide = guide_of(other)
    other.load_state_dict(model.state_dict())
    other_guide.load_state_dict(guide.state_dict())
    again = ppl_vae.estimate_evidence(other, other_guide, batch, method="importance", num_samples=200)
    np.testing.assert_array_equal(again.log_px, evidence.log_px)
    y = batch[-1]
    assert ppl_vae.sample(model, y=y).shape == (6, *SHAPE)
    assert ppl_vae.reconstruct(model, guide, batch).shape == (6, *SHAPE)
    kept = ppl_vae.sample(model, 3, y=y[:1])  # one condition for all
    assert kept.shape == (3, *SHAPE)
    if isinstance(model.condition, Visible):
        assert (kept[:, model.condition.mask] == y[:1][:, model.condition.mask]).all()


def test_log_px_of_a_regressor_is_the_sum_over_pixels():
    model = models.Regressor(SHAPE, Label(3), **SMALL)
    y = torch.arange(6) % 3
    with torch.no_grad():
        logits = model.decoder(None, torch.nn.functional.one_hot(y, 3).float())
    expected = -torch.nn.functional.binary_cross_entropy_with_logits(logits, IMAGES, reduction="none").sum((1, 2, 3))
    evidence = ppl_vae.estimate_evidence(model, guides.NoLatents(model), (IMAGES, y), num_samples=3)
    np.testing.assert_allclose(evidence.log_px, expected, rtol=1e-5)
    joint = ppl_vae.estimate_evidence(model, guides.NoLatents(model), (IMAGES, y), num_samples=3, joint=True)
    np.testing.assert_allclose(joint.log_px, expected - np.log(3), rtol=1e-5)
    assert joint.quantity == "log P(x, y)" and "log P(x, y)" in str(joint)


def test_visible_splits_and_joins():
    mask = torch.zeros(4, 4)
    mask[1, 2] = mask[3, 0] = 1
    for condition, count in ((Visible(mask), 2), (Visible("middle_column"), 4), (Visible("quadrant"), 4)):
        condition.bind(SHAPE)
        x, y = condition.split(IMAGES, None)
        assert (x.shape, y.shape) == ((6, 16 - count), (6, count))
        torch.testing.assert_close(condition.join(x, y), IMAGES)
        torch.testing.assert_close(condition.join(x.expand(5, 6, -1), y)[3], IMAGES)
    assert Visible("middle_column").bind((1, 28, 28)).mask.nonzero()[:, 2].unique().tolist() == [14]


def test_the_tutorials_networks_have_its_widths():
    model = models.ImageCompletion((1, 28, 28), prior=StandardNormal(30), networks=Tutorial())
    guide = guides.Conditional(model)
    widths = sorted(tuple(p.shape) for m in (model, guide) for p in m.parameters() if p.dim() == 2)
    tower = [(1000, 28), (500, 1000), (250, 500), (250, 250)]
    decoder, encoder = (
        [(250, 30), (500, 250), (1000, 500), (756, 1000)],
        [(1000, 756), (500, 1000), (250, 500), (60, 250)],
    )
    assert widths == sorted(tower + decoder + encoder)


def test_one_z_across_all_labels():
    model = models.CVAE(SHAPE, Label(3), StandardNormal(2), **SMALL)
    x = same_latents(model, 4, y=torch.arange(3))
    assert x.shape == (4, 3, *SHAPE)
    torch.testing.assert_close(x[:, :1], same_latents(model, 4, y=torch.arange(1)))
    torch.testing.assert_close(x, same_latents(model, 4, y=[0, 1, 2]))
    torch.testing.assert_close(x[:, :1], same_latents(model, 4, y=0))


@pytest.mark.parametrize("dtype", [torch.float64, torch.uint8, torch.bool])
def test_images_of_any_dtype_are_conditions(dtype):
    for name, y in (("image_completion", IMAGES), ("next_digit", STRINGS)):
        model = CONDITIONAL[name][0]()
        torch.testing.assert_close(ppl_vae.sample(model, y=y.to(dtype)), ppl_vae.sample(model, y=y))
    model = models.ImageCompletion(SHAPE, **SMALL).double()
    assert ppl_vae.sample(model, y=IMAGES).dtype == torch.float64


def test_conditions_that_cannot_be_given():
    labels, completion = models.CVAE(SHAPE, Label(3), **SMALL), models.ImageCompletion(SHAPE, **SMALL)
    nan = torch.full((2, *SHAPE), torch.nan)
    for call, message in (
        (lambda: ppl_vae.sample(completion, y=None), "of which visible pixels are read; got none"),
        (lambda: ppl_vae.sample(models.NextDigit(SHAPE), y=None), "got none. Give the model y"),
        (lambda: ppl_vae.sample(labels, y="seven"), "y as numbers; got str 'seven'"),
        (lambda: ppl_vae.sample(labels, y=[]), "at least one y; got none"),
        (lambda: ppl_vae.sample(completion, y=nan), "finite conditions y; got NaN"),
        (lambda: ppl_vae.sample(models.NextDigit(SHAPE, DigitString(2)), y=nan.expand(2, 2, 1, 4, 4)), "finite"),
        (lambda: same_latents(labels, 4), "share their z; got none"),
        (lambda: same_latents(labels, 4, y=None), "share their z; got none"),
        (lambda: same_latents(labels, 4, y=[0, 3]), "got values from 0 to 3"),
        (lambda: ppl_vae.reconstruct(labels, guides.Conditional(labels), (IMAGES, LABELS.float())), r"y\.long"),
    ):
        with pytest.raises(InputError, match=message) as refused:
            call()
        assert "\n" not in str(refused.value)
    assert ppl_vae.sample(labels, 2, y=None).shape == (2, *SHAPE)  # drawn
    hidden = torch.where(completion.condition.mask, IMAGES, torch.nan)
    torch.testing.assert_close(ppl_vae.sample(completion, y=hidden), ppl_vae.sample(completion, y=IMAGES))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Visible(torch.ones(4, 4)).bind(SHAPE), "shows 16 of 16"),
        (lambda: Visible(torch.zeros(4, 4)).bind(SHAPE), "shows 0 of 16"),
        (lambda: Visible(torch.ones(5, 4)).bind(SHAPE), r"mask of shape \(4, 4\).*got \(5, 4\)"),
        (lambda: Visible(torch.full((4, 4), 0.5)).bind(SHAPE), "zeros and ones"),
        (lambda: Visible("middle").bind(SHAPE), "middle_column"),
        (lambda: DigitString(0), "length.*got 0"),
        (lambda: ppl_vae.sample(models.CVAE(SHAPE, Label(3)), y=torch.tensor([3])), "from 0 to 2.*got values from 3"),
        (lambda: ppl_vae.sample(models.CVAE(SHAPE, Label(3)), y=torch.tensor([0.5])), "whole numbers"),
        (lambda: ppl_vae.sample(models.CVAE(SHAPE, Label(3)), y=torch.eye(3).long()), r"argmax"),
        (lambda: ppl_vae.sample(models.CVAE(SHAPE, Label(3)), 4, y=torch.arange(3)), "each of 4 data"),
        (lambda: ppl_vae.sample(models.ImageCompletion(SHAPE), y=torch.zeros(2, 1, 5, 5)), r"\[N, 1, 4, 4\].*got"),
        (lambda: ppl_vae.sample(models.ImageCompletion(SHAPE), y=0.5 * IMAGES), r"y in \{0, 1\}"),
        (lambda: ppl_vae.sample(models.ImageCompletion(SHAPE), 3), "got none"),
        (lambda: ppl_vae.sample(models.NextDigit(SHAPE), y=STRINGS), r"\[N, 3, 1, 4, 4\].*got"),
        (lambda: models.VAE(SHAPE, ConditionalNormal(2))(size=1), "model with a condition"),
        (lambda: guides.NoLatents(models.VAE(SHAPE)), "without latent sites"),
        (lambda: guides.Conditional(models.VAE(SHAPE)), "conditional model.*got VAE.*mean_field"),
        (lambda: ppl_vae.sample(models.CVAE(SHAPE, Label(3)), y=torch.tensor([True])), "whole numbers; got torch.bool"),
        (lambda: ppl_vae.sample(models.NextDigit(SHAPE, DigitString(2)), y=STRINGS[0]), r"\[N, 2, 1, 4, 4\].*got"),
        (lambda: guides.Conditional(models.Regressor(SHAPE)), "latent sites.*no_latents"),
        (lambda: guides.MeanField(models.Regressor(SHAPE)), "latent sites.*no_latents"),
        (
            lambda: guides.SemiSupervised(models.Regressor(SHAPE, Label(3))),
            "latent sites.*no_latents",
        ),
        (lambda: guides.Conditional(models.CVAE(SHAPE, Label(3)))(IMAGES, LABELS[:3]), "each of 6 data; got 3"),
        (lambda: guides.Conditional(models.CVAE(SHAPE, Label(3)))(IMAGES, LABELS[:1]), "each of 6 data; got 1"),
        (lambda: guides.SemiSupervised(models.CVAE(SHAPE, Label(3)))(IMAGES, LABELS[:1]), "each of 6 data; got 1"),
        (lambda: Tutorial(0), "scale.*got 0"),
        (lambda: Visible("mask.npz").bind(SHAPE), "got mask.npz, which does not exist"),
    ],
)
def test_what_is_refused(call, message):
    with pytest.raises(InputError, match=message):
        call()


def test_a_label_out_of_range_is_refused_before_training():
    model = models.CVAE(SHAPE, Label(3), StandardNormal(2), **SMALL)
    with pytest.raises(InputError, match=r"from 0 to 2.*got values from 7 to 7"):
        ppl_vae.fit(model, guides.Conditional(model), (IMAGES, torch.tensor([0, 1, 2, 0, 1, 7])), epochs=1)


def test_a_flat_condition_has_no_joint():
    model = models.ImageCompletion(SHAPE, prior=StandardNormal(2), **SMALL)
    with pytest.raises(InputError, match="Leave joint out"):
        ppl_vae.estimate_evidence(model, guides.Conditional(model), IMAGES, joint=True)


def test_a_condition_of_ones_own():
    model = models.CVAE(SHAPE, Angle(), StandardNormal(2), **SMALL)
    guide = guides.Conditional(model)
    assert ppl_vae.sample(model, 3).shape == (3, *SHAPE)
    given, joint = (
        ppl_vae.estimate_evidence(
            model, guide, (IMAGES, torch.linspace(-3, 3, 6)), method="importance", num_samples=30, joint=joint
        ).log_px
        for joint in (False, True)
    )
    assert given - joint == pytest.approx(np.full(6, math.log(2 * math.pi)), abs=1e-4)


def test_reports_say_what_is_given():
    model = models.CVAE(SHAPE, Label(3), StandardNormal(2), **SMALL)
    guide = guides.Conditional(model)
    evidence = ppl_vae.estimate_evidence(model, guide, (IMAGES, LABELS), method="importance", num_samples=30)
    gap = ppl_vae.explain_gap(model, guide, (IMAGES, LABELS), num_samples=30, num_steps=2)
    for report in (str(evidence), str(gap), evidence.verdict()):
        assert "log P(x | y)" in report and "log P(x)" not in report
    assert "Q(z | x, y)" in str(evidence)


def test_an_unknown_label_is_no_condition():
    """log P(x) = log (1/3) sum_y P(x | y), not the P(x | y) of some y, nor a sum without P(y)."""
    model = models.Regressor(SHAPE, Label(3), **SMALL)
    with torch.no_grad():
        logits = model.decoder(None, torch.eye(3))
    each = torch.distributions.Bernoulli(logits=logits[:, None]).log_prob(IMAGES).sum((2, 3, 4))
    evidence = ppl_vae.estimate_evidence(model, guides.NoLatents(model), IMAGES, num_samples=3)
    assert evidence.quantity == "log P(x)"
    np.testing.assert_allclose(evidence.log_px, each.logsumexp(0) - np.log(3), rtol=1e-5)


def test_a_condition_after_a_latent_site_is_refused_unless_it_is_scored():
    def model(x, y):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))
            pyro.sample("y", dist.Normal(z, 1.0), obs=y, infer={"is_condition": True})
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x, y):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal((x + y) / 3, 3**-0.5))

    x, y = torch.randn(2, 5, generator=torch.Generator().manual_seed(0))
    with pytest.raises(InputError, match="'y' before all latent sites; got it after z"):
        ppl_vae.estimate_evidence(model, guide, (x, y), num_samples=3)
    exact = torch.distributions.MultivariateNormal(torch.zeros(2), torch.tensor([[2.0, 1.0], [1.0, 2.0]]))
    joint = ppl_vae.estimate_evidence(model, guide, (x, y), num_samples=3, joint=True)
    np.testing.assert_allclose(joint.log_px, exact.log_prob(torch.stack([x, y], -1)), rtol=1e-4)


def test_conditions_are_drawn_anew_only_where_they_are_scored():
    model = models.CVAE(SHAPE, Label(1000), StandardNormal(2), **SMALL)
    for joint in (False, True):
        pyro.set_rng_seed(0)
        with Pair(model).running():
            sites = poutine.trace(Regenerated(joint=joint)(model)).get_trace(IMAGES, LABELS).nodes
        assert not torch.equal(sites["x"]["value"], IMAGES)
        assert torch.equal(sites["y"]["value"], LABELS) is not joint


def test_what_conditions_ask_of_the_data():
    asked = [c.data_options() for c in (Label(), Visible(), DigitString(5))]
    assert asked == [{}, {"binarize": "random_threshold"}, {"strings": 5}]


def test_the_reader_of_a_string_has_the_widths_that_are_asked_for():
    reader = DigitString(2, num_features=4, hidden=(7, 5)).bind(SHAPE).reader
    assert [tuple(p.shape) for p in reader.parameters() if p.dim() == 2] == [(7, 16), (5, 7), (4, 5)]


@pytest.mark.parametrize("program", ["model", "guide"])
@pytest.mark.parametrize("label", [-1, 3, 12])
def test_labels_out_of_range_by_hand(program, label):
    model = models.CVAE(SHAPE, Label(3), StandardNormal(2), **SMALL)
    run = model if program == "model" else guides.Conditional(model)
    with pytest.raises(InputError, match=rf"labels y from 0 to 2; got values from .*{label}"):
        run(IMAGES, torch.full((6,), label))


def test_visible_pixels_are_given_once():
    model = models.ImageCompletion(SHAPE, **SMALL)
    with pytest.raises(InputError, match="got both"):
        model(IMAGES, y=IMAGES)


def test_parts_that_learn_belong_to_one_model():
    for part, make in (
        (DigitString(2), lambda part: models.NextDigit(SHAPE, part)),
        (ConditionalNormal(2), lambda part: models.CVAE(SHAPE, prior=part)),
    ):
        make(part)
        with pytest.raises(InputError, match=f"Expected a {type(part).__name__} of its own"):
            make(part)


def test_conditions_a_model_cannot_take():
    for make, condition, expected in (
        (models.CVAE, Visible(), "no part of x for CVAE; got Visible"),
        (models.NextDigit, Visible(), "no part of x for NextDigit; got Visible"),
        (models.ImageCompletion, Label(3), "a part of x, such as Visible, for ImageCompletion; got Label"),
    ):
        with pytest.raises(InputError, match=expected):
            make(SHAPE, condition)


@pytest.mark.parametrize("num_samples", [1, 1000])
def test_without_a_latent_site_nothing_is_estimated(num_samples, tmp_path):
    model = models.Regressor(SHAPE, Label(3), **SMALL)
    evidence = ppl_vae.estimate_evidence(model, guides.NoLatents(model), (IMAGES, LABELS), num_samples=num_samples)
    with torch.no_grad():
        exact = model.likelihood(model.decoder(None, model.condition.encode(LABELS))).log_prob(IMAGES)
    np.testing.assert_allclose(evidence.log_px, exact, rtol=1e-6)
    assert evidence.is_exact and not evidence.doubts() and evidence.num_samples == num_samples
    assert "exactly" in str(evidence) and "ELBO" not in str(evidence) and "Exact" in evidence.verdict()
    evidence.save(tmp_path / "evidence.nc")
    assert str(ppl_vae.Evidence.load(tmp_path / "evidence.nc")) == str(evidence)


def test_with_a_latent_site_it_is_an_estimate():
    model = models.CVAE(SHAPE, Label(3), StandardNormal(2), **SMALL)
    for proposal in ("guide", "prior"):
        guide = guides.Conditional(model) if proposal == "guide" else None
        how = {"method": "importance", "num_samples": 30, "proposal": proposal}
        evidence = ppl_vae.estimate_evidence(model, guide, (IMAGES, LABELS), **how)
        assert not evidence.is_exact and evidence.mcse.min() > 0


def test_one_answer_of_a_regressor_is_drawn_once():
    model = models.Regressor(SHAPE, Label(3), **SMALL)
    once, often = (labelled(model, torch.arange(3), mean=mean).get_size_inches() for mean in (True, False))
    assert once[0] < often[0]


def test_a_model_without_a_usual_condition_asks_for_one():
    class Given(ConditionalModel):
        pass

    with pytest.raises(InputError, match=r"Expected a condition for Given; got none. Pass one, such as Label\(10\)"):
        Given((3,))
