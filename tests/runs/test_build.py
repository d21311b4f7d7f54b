"""Names and files become programs; what is wrong with a name, a file or an option is said."""

import pytest
import torch
from by_name import build
from own_files import OWN, OWN_GUIDE
from ppl_vae.guides import LinearGaussian, MeanField

from ppl_vae import InputError
from ppl_vae.likelihoods import Gaussian
from ppl_vae.priors import Mixture, StandardNormal
from ppl_vae.runs import build as programs
from ppl_vae.runs import kinds
from ppl_vae.utils.rng import seeded

SHAPE = torch.Size([1, 4, 4])
SHAPES = {"quantile_map": torch.Size([1]), "deep_markov": SHAPE[1:]}  # where a model is made for others


def write(tmp_path, text, name="own.py"):
    path = tmp_path / name
    path.write_text(text)
    return str(path)


def test_names():
    assert {"cvae", "linear_gaussian", "vae"} <= set(programs.names("model"))
    model, guide, used = build("vae", event_shape=SHAPE)
    assert isinstance(model.prior, StandardNormal)
    assert isinstance(guide, MeanField)
    assert used == {}
    _, guide, _ = build("linear_gaussian", event_shape=SHAPE)
    assert isinstance(guide, LinearGaussian)


def test_parts_and_options():
    model, guide, used = build(
        "vae",
        "mean_field",
        event_shape=SHAPE,
        prior="mixture",
        likelihood="gaussian",
        settings={"prior.num_components": 3, "likelihood.sigma": 0.2, "decoder.hidden": (7,), "encoder.hidden": 9},
        defaults={"prior.latent_dim": 5, "prior.no_such": 1},
    )
    assert isinstance(model.prior, Mixture)
    assert (model.prior.latent_dim, model.prior.num_components) == (5, 3)
    assert isinstance(model.likelihood, Gaussian)
    assert float(model.likelihood.sigma) == pytest.approx(0.2)
    assert model.decoder.layers[0].out_features == 7
    assert guide.encoder.layers[0].out_features == 9
    again, _, _ = build("vae", "mean_field", event_shape=SHAPE, prior="mixture", likelihood="gaussian", settings=used)
    assert str(again) == str(model)


def test_options_of_the_prior_the_model_itself_uses():
    model, _, used = build("vae", event_shape=SHAPE, settings={"prior.latent_dim": 3})
    assert isinstance(model.prior, StandardNormal)
    assert used == {"prior.latent_dim": 3}
    model, _, used = build("linear_gaussian", event_shape=SHAPE, defaults={"prior.latent_dim": 3})
    assert used == {}
    model, _, _ = build("linear_gaussian", event_shape=SHAPE, settings={"model.latent_dim": 3})
    assert model.prior.latent_dim == 3


@pytest.mark.parametrize("model", [name for name in programs.names("model") if name != "quantile_map"])
def test_initial_weights_depend_on_no_option_that_is_equal_to_its_default(model):
    def weights(**asked):
        with seeded(3):
            chosen = programs.choose(model, **asked)
            return chosen, [program.state_dict() for program in chosen.make(SHAPES.get(model, SHAPE))]

    first, usual = weights()
    written = first.written()
    _, complete = weights(**{key: value for key, value in written.items() if key != "model"})
    parts = [part for part in first.chosen if part in kinds.PARTS]
    some = [weights(**{part: written[part]})[1] for part in parts]
    options = written["settings"].items()
    some += [weights(settings={key: value})[1] for key, value in options if key.partition(".")[0] in parts]
    for others in (complete, *some):
        for one, other in zip(usual, others, strict=True):
            assert all(torch.equal(value, other[name]) for name, value in one.items())


@pytest.mark.parametrize("model", programs.names("model"))
def test_default_parts_are_those_of_the_constructor(model):
    cls = programs.find("model", model)[0]
    made = cls(SHAPES.get(model, SHAPE))
    for part, kind in kinds.PARTS.items():
        if part in kinds.parameters_of(cls) and not kind.shapes:
            usual, own = kinds.default_part(cls, part), getattr(made, part)
            assert type(own) is usual
            sizes = {name: getattr(own, name) for name in kinds.plain_defaults(usual) if hasattr(own, name)}
            assert {name: getattr(usual(), name) for name in sizes if hasattr(usual(), name)} == sizes


def test_a_mask_is_looked_at_before_the_default_condition():
    mask = [1, 0, 0, 1, 0]
    settings = {"condition.visible": mask, "networks.hidden": 3, "prior.latent_dim": 2}
    model, _, used = build("image_completion", event_shape=torch.Size([5]), settings=settings)
    assert model.condition.mask.tolist() == [bool(m) for m in mask]
    assert (model.prior.latent_dim, used) == (2, settings)
    with pytest.raises(InputError, match=r"Expected images for visible='middle_column'; got data of shape \(5,\)"):
        build("image_completion", event_shape=torch.Size([5]), settings={"prior.latent_dim": 2})


def test_what_a_file_says_holds(tmp_path):
    path = write(tmp_path, OWN)
    model, _, used = build(path, event_shape=SHAPE, defaults={"prior.latent_dim": 7})
    assert (model.prior.latent_dim, used) == (2, {})
    with pytest.raises(
        InputError, match=r"Expected a prior by name .*prior\.latent_dim .*Name one, or change the file"
    ):
        build(path, event_shape=SHAPE, settings={"prior.latent_dim": 7})
    model, _, _ = build(path, event_shape=SHAPE, prior="laplace", defaults={"prior.latent_dim": 7})
    assert model.prior.latent_dim == 7


def test_a_file_of_ones_own(tmp_path):
    path = write(tmp_path, OWN)
    model, guide, _ = build(path, event_shape=SHAPE, prior="laplace", settings={"prior.scale": 2.0})
    assert (type(model).__name__, type(model.prior).__name__, model.prior.scale) == ("Own", "Laplace", 2.0)
    assert isinstance(guide, MeanField)
    both = write(tmp_path, OWN + OWN_GUIDE, "both.py")
    _, guide, _ = build(both, event_shape=SHAPE)
    assert type(guide).__name__ == "OwnGuide"
    guide_file = write(tmp_path, OWN_GUIDE, "guide.py")
    _, guide, _ = build(path, guide_file, event_shape=SHAPE)
    assert type(guide).__name__ == "OwnGuide"


CASES = {
    "unknown model": (dict(model="vea"), "Unknown model 'vea': did you mean 'vae'"),
    "unknown guide": (dict(guide="mean_feild"), "did you mean 'mean_field'"),
    "unknown prior": (dict(prior="standard_norml"), "did you mean 'standard_normal'"),
    "unknown likelihood": (dict(likelihood="gausian"), "did you mean 'gaussian'"),
    "unknown option": (dict(settings={"prior.latent_dims": 2}), r"prior\.latent_dims of .*'latent_dim'"),
    "unknown network option": (dict(settings={"decoder.hiden": 2}), r"decoder\.hiden of MLP: did you mean 'hidden'"),
    "unknown part": (dict(settings={"priors.latent_dim": 2}), "did you mean 'prior'"),
    "no option": (dict(settings={"prior": 2}), "part.option"),
    "bad value": (dict(settings={"prior.latent_dim": "two"}), "latent_dim.*got 'two'"),
    "bad type": (dict(settings={"decoder.hidden": 2.5}), "MLP|decoder|hidden"),
    "part the model does not take": (dict(model="linear_gaussian", prior="mixture"), "whose prior can be chosen"),
    "network the guide does not take": (
        dict(model="linear_gaussian", settings={"encoder.hidden": 3}), "whose encoder can be chosen"),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_what_is_wrong_is_said(case):
    options, message = CASES[case]
    with pytest.raises(InputError, match=message):
        build(**({"model": "vae", "event_shape": SHAPE} | options))


FILES = {
    "syntax error": ("def f(:\n", "own.py; got a syntax error in line 1"),
    "import error": ("import no_such_module\n", "ModuleNotFoundError: No module named 'no_such_module'"),
    "no model": ("x = 1\n", r"one subclass of ppl_vae.base.Model .*got none"),
    "two models": (OWN + "\n\nclass Two(Own):\n    pass\n", "got Own, Two"),
    "fails when run": (
        OWN.replace("self.prior())", "self.priorr())"),
        r"got AttributeError: .*priorr.* \(.*own.py, line \d+, in Own.forward",
    ),
    "fails when made": (OWN.replace("super().__init__(event_shape)", "raise TypeError('my fault')"), "my fault"),
}


@pytest.mark.parametrize("case", FILES)
def test_what_is_wrong_with_a_file_is_said(tmp_path, case):
    text, message = FILES[case]
    with pytest.raises(InputError, match=message):
        build(write(tmp_path, text), event_shape=SHAPE)


def test_missing_files(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        build(str(tmp_path / "none.py"), event_shape=SHAPE)
    with pytest.raises(InputError, match="no such file"):
        build("models/none", event_shape=SHAPE)


@pytest.mark.parametrize("other", [{"prior": "mixture"}, {"likelihood": "gaussian"}, {"guide": "full_covariance"}])
def test_what_two_choices_share_starts_alike(other):
    """Of one seed: another prior, likelihood or guide leaves the initial weights of all other parts as they are."""
    made = []
    for choice in ({}, other):
        with seeded(5):
            made.append(programs.choose("vae", **choice).make(SHAPE))
    (model, guide), (other_model, other_guide) = made
    first = [dict(program.named_parameters()) for program in (model.decoder, guide.encoder)]
    second = [dict(program.named_parameters()) for program in (other_model.decoder, other_guide.encoder)]
    shared = [(a[k], b[k]) for a, b in zip(first, second, strict=True) for k in a if a[k].shape == b[k].shape]
    assert len(shared) > 9  # all, but for the last layer of one that gives other numbers
    assert all(torch.equal(a, b) for a, b in shared)
    assert not torch.equal(model.decoder.layers[2].weight, guide.encoder.layers[2].weight)


def test_networks_of_one_part_start_apart():
    """Both networks of two layers are made by `decoder`."""
    model, _ = programs.choose("hierarchical", settings={"decoder.hidden": 16}).make(SHAPE)
    assert not torch.equal(model.between.layers[0].weight[:, :8], model.decoder.layers[0].weight[:, :8])
