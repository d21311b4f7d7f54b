"""Generative programs P(x, z): one file a model, short enough to read whole and to edit."""

from ppl_vae.models.counts import Counts
from ppl_vae.models.counts_in_batches import CountsInBatches
from ppl_vae.models.cvae import CVAE
from ppl_vae.models.deep_markov import DeepMarkov
from ppl_vae.models.discrete import Discrete
from ppl_vae.models.hierarchical import Hierarchical
from ppl_vae.models.image_completion import ImageCompletion
from ppl_vae.models.linear_gaussian import LinearGaussian
from ppl_vae.models.next_digit import NextDigit
from ppl_vae.models.quantile_map import QuantileMap
from ppl_vae.models.regressor import Regressor
from ppl_vae.models.vae import VAE

__all__ = [
    "CVAE",
    "VAE",
    "Counts",
    "CountsInBatches",
    "DeepMarkov",
    "Discrete",
    "Hierarchical",
    "ImageCompletion",
    "LinearGaussian",
    "NextDigit",
    "QuantileMap",
    "Regressor",
]
