"""The Gaussian guide of `models/quantile_map.py`, which becomes its posterior as sigma goes to 0."""

import pyro
from pyro.distributions import Normal
from torch import Tensor

from ppl_vae.base import Guide, Model
from ppl_vae.errors import InputError


class QuantileMap(Guide):
    """Q(z | x) = N(z; g(x), (g'(x) sigma)^2) with g = f^-1: what N(x; f(z), sigma^2) is for an f made straight at x.

    It has no parameters of its own: it reads the model's. Shapes: x [N, 1], z [N, 1].
    Source: appendix A of Doersch, arXiv 1606.05908.

    >>> from ppl_vae.models import QuantileMap as Model
    >>> import torch
    >>> QuantileMap(Model(sigma=0.1))(torch.zeros(5, 1)).shape
    torch.Size([5, 1])
    """

    def __init__(self, model: Model) -> None:
        super().__init__(model)
        if not (hasattr(model, "encode") and hasattr(model, "slope")):
            raise InputError(
                f"Expected a model with encode(x) and slope(x), as QuantileMap has; got {type(model).__name__}. "
                f"Use another guide, for instance mean_field."
            )
        self._model = (model,)  # a tuple, so that the model does not become a part of the guide

    def forward(self, x: Tensor) -> Tensor:
        """Sample z given x."""
        (model,) = self._model
        with self.plate(x):
            return pyro.sample("z", Normal(model.encode(x), model.slope(x) * model.likelihood.sigma).to_event(1))
