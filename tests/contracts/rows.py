"""The one table of the contracts: every class on a shelf has a row, with options that keep it small.

A new part is one row here: its name on the command line, and a list of options. The first of them go into every
combination with other parts (`test_swap.py`), each of them is tried by itself (`test_parts.py`, `test_guides.py`).
A model is one row, with the guides that go with it, or with the data that it is conditional on.
"""

import itertools
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from ppl_vae.models import VAE
from tiny import IMAGES, LABELS, SHAPE, STRINGS

from ppl_vae import guides, models
from ppl_vae.architectures import Concatenated, Tutorial
from ppl_vae.conditions import DigitString, Label, Visible
from ppl_vae.likelihoods import Bernoulli, Gaussian, NegativeBinomial
from ppl_vae.networks import MLP, GatedMLP
from ppl_vae.priors import ConditionalNormal, GatedTransition, Mixture, StandardNormal
from ppl_vae.runs import build, kinds

LATENT_DIM, NUM_DATA, EVENT_SHAPE = 2, 3, (1, 2, 2)
NUM_SAMPLES, NUM_CHAINS = 1000, 400
FLOW = {"transforms": 1, "hidden": (4,)}


@dataclass(frozen=True)
class Row:
    """Options of a class: one set or several. `needs` says what keeps it out of every combination; `alone` or not."""

    options: list[dict[str, Any]] = field(default_factory=lambda: [{}])
    needs: str = ""
    alone: bool = True


PRIORS = {
    "standard_normal": Row(),
    "laplace": Row(),
    "student_t": Row([{"df": None}, {"df": 3}]),
    "mixture": Row([{"num_components": 3}]),
    "flow": Row([FLOW, {"kind": "masked_autoregressive", "transforms": 2, "hidden": (8,)}]),
    "vamp_prior": Row([{"num_components": 3}], alone=False),  # made of its guide
    "conditional_normal": Row(needs="a condition", alone=False),
    "gated_transition": Row([{"hidden": (4,)}], needs="the step before"),
}
LIKELIHOODS = {
    "bernoulli": Row(),
    "beta": Row(),
    "binomial": Row([{"total_count": 4}]),
    "categorical": Row([{"num_levels": 4}]),
    "columns": Row(needs="a table", alone=False),  # tests/parts/test_columns.py
    "continuous_bernoulli": Row(),
    "discretized_logistic": Row([{"num_levels": 5}, {}]),
    "discretized_logistic_mixture": Row([{"num_components": 2, "num_levels": 5}]),
    "gamma": Row(),
    "gaussian": Row([{"initial_sigma": 0.7}, {"sigma": 0.3}, {"sigma": "per_dimension"}, {"sigma": "per_datum"}]),
    "laplace": Row([{"initial_scale": 0.7}, {"scale": "per_datum"}]),
    "log_normal": Row([{"initial_sigma": 0.7}, {"sigma": "per_dimension"}, {"sigma": "per_datum"}]),
    "multinomial": Row([{"total_count": 5}]),
    "negative_binomial": Row([{}, {"dispersion": "per_dimension"}]),
    "nominal": Row([{"num_levels": 4}]),
    "ordinal": Row([{"num_levels": 4}, {"num_levels": 2}]),
    "poisson": Row(),
    "student_t": Row([{"initial_scale": 0.7}, {"scale": "per_dimension", "df": 3.0}]),
    "zero_inflated_negative_binomial": Row([{}, {"dispersion": "per_dimension"}]),
    "zero_inflated_poisson": Row(),
}
POSTERIORS = {
    "diagonal_normal": Row(),
    "multivariate_normal": Row(),
    "inverse_autoregressive": Row(
        [{"hidden": 8, "context_dim": 4}, {"kind": "masked_autoregressive", "transforms": 2, "hidden": (8, 8)}]
    ),
}
NETWORKS = {
    "mlp": Row([{"hidden": (7, 6)}, {"hidden": 5, "activation": "tanh"}, {"hidden": ()}]),
    "gated_mlp": Row([{"hidden": (7, 6)}]),
}
IMAGE_NETWORKS = {  # an image on one side, a vector on the other
    "convolutional": Row([{"channels": (4, 6)}, {"channels": 5, "activation": "tanh"}]),
    "residual": Row([{"channels": (4, 8), "blocks": 2}]),
}
ARCHITECTURES = {
    "concatenated": Row([{"hidden": 8}, {"hidden": 8, "network": partial(GatedMLP)}]),
    "gated": Row([{"hidden": 8}]),
    "convolutional": Row([{"channels": 4}]),
    "residual": Row([{"channels": (4, 8)}]),
    "tutorial": Row([{"scale": 20}], alone=False),  # not for latents given labels
}
CONDITIONS = {
    "label": Row([{"num_classes": 3}]),
    "visible": Row([{}, {"visible": "quadrant"}]),
    "digit_string": Row([{"length": 2, "num_features": 4, "hidden": 8}]),
}
OBJECTIVES = {
    "iwae": Row(),
    "doubly_reparameterized": Row(),
    "sticking_the_landing": Row(),
    "beta_elbo": Row(),
    "warm_up": Row(),
    "free_bits": Row(),
    "classifying": Row(needs="a label", alone=False),
    **{name: Row(needs="nothing of ours: Pyro's", alone=False) for name in (
        "trace_elbo", "trace_enum_elbo", "trace_graph_elbo", "trace_mean_field_elbo"
    )},
}  # fmt: skip
GUIDES = {
    "mean_field": Row(),
    "full_covariance": Row(),
    "flow": Row([FLOW | {"context_dim": 2}, {"kind": "masked_autoregressive", "hidden": 8}]),
    "conditional": Row(needs="a condition", alone=False),
    "semi_supervised": Row(needs="a label", alone=False),
    "linear_gaussian": Row(needs="the model whose posterior it is", alone=False),
    "quantile_map": Row(needs="the model whose posterior it is", alone=False),
    "hierarchical": Row(needs="two latent sites", alone=False),
    "deep_markov": Row(needs="a chain of latents", alone=False),
    "discrete": Row(needs="discrete latents", alone=False),
    "no_latents": Row(needs="a model without a latent site", alone=False),
}
SHELVES = {
    "prior": PRIORS,
    "likelihood": LIKELIHOODS,
    "posterior": POSTERIORS,
    "encoder": NETWORKS | IMAGE_NETWORKS,
    "networks": ARCHITECTURES,
    "condition": CONDITIONS,
    "objective": OBJECTIVES,
}

TINY = partial(MLP, hidden=(8,))
MODELS = {  # with their guides
    "vae": (
        lambda: models.VAE(SHAPE, StandardNormal(2), Bernoulli(), decoder=TINY),
        [partial(guides.MeanField, encoder=TINY)],
    ),
    "vae mixture gaussian": (
        lambda: models.VAE(SHAPE, Mixture(2, num_components=3), Gaussian(), decoder=TINY),
        [partial(guides.MeanField, encoder=TINY)],
    ),
    "linear_gaussian": (
        lambda: models.LinearGaussian(SHAPE, latent_dim=2),
        [partial(guides.MeanField, encoder=TINY), guides.LinearGaussian],
    ),
    "hierarchical": (
        lambda: models.Hierarchical(SHAPE, StandardNormal(2), Bernoulli(), decoder=TINY, latent_dim=2),
        [
            partial(guides.MeanField, encoder=TINY),
            partial(guides.Hierarchical, encoder=TINY),
            partial(guides.Hierarchical, encoder=TINY, direction="bottom_up"),
        ],
    ),
    "counts": (
        lambda: models.Counts(SHAPE, StandardNormal(2), NegativeBinomial("per_dimension"), decoder=TINY),
        [partial(guides.MeanField, encoder=TINY)],
    ),
    "discrete": (
        lambda: models.Discrete(SHAPE, decoder=TINY, num_variables=2, num_classes=3, temperature=0.5),
        [partial(guides.Discrete, encoder=TINY)],
    ),
    "deep_markov": (
        # Of few rectified latents, as the scale of the transition reads them, some seeds leave none alive.
        lambda: models.DeepMarkov((2, 3), GatedTransition(8, hidden=(8,)), Bernoulli(), decoder=TINY),
        [partial(guides.DeepMarkov, hidden=8)],
    ),
}
EIGHT = {"networks": Concatenated(hidden=8)}
CONDITIONAL = {  # with data
    "cvae": (lambda: models.CVAE(SHAPE, Label(3), StandardNormal(2), **EIGHT), (IMAGES, LABELS)),
    # Of few rectified units, some seeds leave none alive for any of the labels.
    "cvae, prior": (lambda: models.CVAE(SHAPE, Label(3), ConditionalNormal(2, 16), **EIGHT), (IMAGES, LABELS)),
    "counts_in_batches": (
        lambda: models.CountsInBatches(SHAPE, Label(3), StandardNormal(2), **EIGHT),
        (IMAGES, LABELS),
    ),
    "image_completion": (lambda: models.ImageCompletion(SHAPE, Visible(), StandardNormal(2), **EIGHT), (IMAGES,)),
    "image_completion, tutorial": (
        lambda: models.ImageCompletion(SHAPE, Visible("quadrant"), ConditionalNormal(2), networks=Tutorial(20)),
        (IMAGES,),
    ),
    "next_digit": (
        lambda: models.NextDigit(SHAPE, DigitString(2, 4, 8), StandardNormal(2), **EIGHT),
        (IMAGES, STRINGS),
    ),
    "regressor": (lambda: models.Regressor(SHAPE, **EIGHT), (IMAGES,)),
    "regressor, tutorial": (lambda: models.Regressor(SHAPE, networks=Tutorial(20)), (IMAGES,)),
    "regressor, label": (lambda: models.Regressor(SHAPE, Label(3), **EIGHT), (IMAGES, LABELS)),
}
ELSEWHERE = {"quantile_map": "tests/criticism/test_quadrature.py"}  # of one number x, held against quadrature


def first(rows):
    """The options that go into every combination, by name."""
    return {name: row.options[0] for name, row in rows.items() if not row.needs}


def alone(kind, rows):
    """What makes each part that is tried by itself, by its name and the options that set it apart."""
    made = {}
    for name, row in rows.items():
        for options in row.options if row.alone else ():
            label = name if options is row.options[0] else " ".join([name, *(f"{k}={v}" for k, v in options.items())])
            cls = build.find("guide", name)[0] if kind == "guide" else kinds.part_class(kind, name)
            made[label] = partial(cls, **options)
    return made


CASES = list(itertools.product(first(PRIORS), first(LIKELIHOODS), first(GUIDES)))


def small(*shapes):
    return MLP(*shapes, hidden=(4,), activation="tanh")


def make(prior, likelihood, guide):
    """A tiny pair with weights that are not special in any way, as those that parts start from may be."""
    prior = kinds.part_class("prior", prior)(LATENT_DIM, **first(PRIORS)[prior])
    likelihood = kinds.part_class("likelihood", likelihood)(**first(LIKELIHOODS)[likelihood])
    model = VAE(EVENT_SHAPE, prior=prior, likelihood=likelihood, decoder=small)
    pair = model, build.find("guide", guide)[0](model, encoder=small, **first(GUIDES)[guide])
    with torch.no_grad():
        for parameter in itertools.chain(*(program.parameters() for program in pair)):
            parameter.add_(0.2 * torch.randn_like(parameter))
    return pair
