"""Amortized guides Q(z | x): one file a guide."""

from ppl_vae.guides.linear_gaussian import LinearGaussian
from ppl_vae.guides.mean_field import MeanField

__all__ = ["LinearGaussian", "MeanField"]
