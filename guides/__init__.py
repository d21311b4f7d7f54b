"""Amortized guides Q(z | x): one file a guide."""

from ppl_vae.guides.linear_gaussian import LinearGaussian
from ppl_vae.guides.mean_field import MeanField
from ppl_vae.guides.quantile_map import QuantileMap

__all__ = ["LinearGaussian", "MeanField", "QuantileMap"]
