"""The condition of CONTRIBUTING.md in a model file of a person's own: it has a density, and is drawn if not given."""

import math

import pyro.distributions as dist
import torch
from ppl_vae.models import CVAE

from ppl_vae.conditions import Condition


class Angle(Condition):
    """An angle y in (-pi, pi], uniform; networks read its cosine and sine."""

    shape = torch.Size()
    c_shape = torch.Size([2])

    def forward(self):
        return dist.Uniform(-math.pi, math.pi)

    def encode(self, y):
        return torch.stack([y.cos(), y.sin()], dim=-1)


class Angled(CVAE):
    """What is drawn at an angle."""

    def __init__(self, event_shape, condition=None, prior=None, likelihood=None, networks=None):
        super().__init__(event_shape, condition or Angle(), prior, likelihood, networks)
