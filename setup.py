"""Which packages there are: every room that is found, and the models and guides, which stand beside the package."""

from setuptools import find_packages, setup

setup(packages=[*find_packages(include=["ppl_vae", "ppl_vae.*"]), "ppl_vae.models", "ppl_vae.guides"])
