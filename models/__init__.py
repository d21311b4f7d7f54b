"""Generative programs P(x, z): one file a model, short enough to read whole and to edit."""

from ppl_vae.models.linear_gaussian import LinearGaussian
from ppl_vae.models.quantile_map import QuantileMap
from ppl_vae.models.vae import VAE

__all__ = ["VAE", "LinearGaussian", "QuantileMap"]
