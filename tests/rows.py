"""The rows of the contracts: each class by its name on the command line, with options that keep it small."""

import itertools

import torch
from ppl_vae.models import VAE

from ppl_vae.networks import MLP
from ppl_vae.runs import build, kinds

LATENT_DIM, NUM_DATA, EVENT_SHAPE = 2, 3, (1, 2, 2)
NUM_SAMPLES, NUM_CHAINS = 1000, 400
FLOW = {"transforms": 1, "hidden": (4,)}

# Each class by its name on the command line, with options that keep it small.
PRIORS = {
    "standard_normal": {},
    "laplace": {},
    "student_t": {"df": None},
    "mixture": {"num_components": 3},
    "flow": FLOW,
    "vamp_prior": {"num_components": 3},
}
LIKELIHOODS = {
    "bernoulli": {},
    "binomial": {"total_count": 4},
    "categorical": {"num_levels": 4},
    "continuous_bernoulli": {},
    "discretized_logistic": {"num_levels": 5},
    "discretized_logistic_mixture": {"num_components": 2, "num_levels": 5},
    "gaussian": {"initial_sigma": 0.7},
    "laplace": {"initial_scale": 0.7},
    "multinomial": {"total_count": 5},
    "negative_binomial": {},
    "poisson": {},
    "student_t": {"initial_scale": 0.7},
    "zero_inflated_negative_binomial": {},
    "zero_inflated_poisson": {},
}
GUIDES = {
    "mean_field": {},
    "full_covariance": {},
    "flow": FLOW | {"context_dim": 2},
}
NEED_MORE = {  # what stays out, and why
    "prior conditional_normal": "reads a condition",
    "guide conditional": "reads a condition",
    "guide semi_supervised": "reads a label",
    "guide linear_gaussian": "the posterior of one model",
    "guide quantile_map": "the posterior of one model",
    "guide hierarchical": "for models with two latent sites",
    "guide discrete": "for discrete latents",
    "guide no_latents": "for models without a latent site",
}
CASES = list(itertools.product(PRIORS, LIKELIHOODS, GUIDES))


def small(*shapes):
    return MLP(*shapes, hidden=(4,), activation="tanh")


def make(prior, likelihood, guide):
    """A tiny pair with weights that are not special in any way, as those that parts start from may be."""
    prior = kinds.part_class("prior", prior)(LATENT_DIM, **PRIORS[prior])
    likelihood = kinds.part_class("likelihood", likelihood)(**LIKELIHOODS[likelihood])
    model = VAE(EVENT_SHAPE, prior=prior, likelihood=likelihood, decoder=small)
    pair = model, build.find("guide", guide).cls(model, encoder=small, **GUIDES[guide])
    with torch.no_grad():
        for parameter in itertools.chain(*(program.parameters() for program in pair)):
            parameter.add_(0.2 * torch.randn_like(parameter))
    return pair
