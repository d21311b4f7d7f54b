"""Amortized guides Q(z | x): one file a guide."""

from ppl_vae.guides.conditional import Conditional
from ppl_vae.guides.deep_markov import DeepMarkov
from ppl_vae.guides.discrete import Discrete
from ppl_vae.guides.flow import Flow
from ppl_vae.guides.full_covariance import FullCovariance
from ppl_vae.guides.hierarchical import Hierarchical
from ppl_vae.guides.linear_gaussian import LinearGaussian
from ppl_vae.guides.mean_field import MeanField
from ppl_vae.guides.no_latents import NoLatents
from ppl_vae.guides.quantile_map import QuantileMap
from ppl_vae.guides.semi_supervised import SemiSupervised

__all__ = [
    "Conditional",
    "DeepMarkov",
    "Discrete",
    "Flow",
    "FullCovariance",
    "Hierarchical",
    "LinearGaussian",
    "MeanField",
    "NoLatents",
    "QuantileMap",
    "SemiSupervised",
]
