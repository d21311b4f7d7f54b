"""The Gaussian guide of `models/quantile_map.py`, which becomes its posterior as sigma goes to 0."""

from typing import Any

import pyro
from pyro.distributions import Normal
from torch import Tensor

from ppl_vae.base import Guide, Model


class QuantileMap(Guide):
    """Q(z | x) = N(z; g(x), (g'(x) sigma)^2) with g = f^-1: what N(x; f(z), sigma^2) is for an f made straight at x.

    It has no parameters of its own: it reads the model's. Shapes: x [N, 1], z [N, 1].
    Source: appendix A of Doersch, arXiv 1606.05908.

    >>> from ppl_vae.models import QuantileMap as Model
    >>> import torch
    >>> QuantileMap(Model(sigma=0.1))(torch.zeros(5, 1)).shape
    torch.Size([5, 1])
    """

    model: Any

    def __init__(self, model: Model) -> None:
        super().__init__(model)
        if not (hasattr(model, "encode") and hasattr(model, "slope")):
            self.refuse(model, "a model with encode(x) and slope(x)")
        self.refer_to(model=model)

    def forward(self, x: Tensor) -> Tensor:
        """Sample z given x."""
        with self.plate(x):
            sigma = self.model.slope(x) * self.model.likelihood.sigma
            return pyro.sample("z", Normal(self.model.encode(x), sigma).to_event(1))
