"""The guide of discrete latents: a classifier of x for each, enumerated or relaxed as the model's are."""

from typing import Any

import pyro
from torch import Tensor

from ppl_vae.base import Guide, Model, suited
from ppl_vae.distributions.one_hot import one_hot
from ppl_vae.errors import InputError, positive_number
from ppl_vae.networks import MLP, NetworkFactory, network_of
from ppl_vae.parts import Preprocessing


class Discrete(Guide):
    """Q(z | x) = prod_i Categorical(z_i; pi_i(x)): with one variable it can be the posterior.

    Where the model's latents are exact, `TraceEnum_ELBO` sums over their values; where they are relaxed, so are these.
    Shapes: x [N, *event_shape], z1, z2, ... [N, num_classes].
    Args: temperature: of the relaxation; by default the model's.
    Source: Jang et al., arXiv 1611.01144.

    Raises:
        InputError: a model without categories, or a temperature for latents that are not relaxed.

    >>> import torch
    >>> from ppl_vae.models import Discrete as Model
    >>> Discrete(Model((1, 8, 8)))(torch.zeros(5, 1, 8, 8))["z2"].shape
    torch.Size([5, 10])
    """

    def __init__(
        self,
        model: Model,
        encoder: NetworkFactory = MLP,
        temperature: float | None = None,
        preprocessing: Preprocessing | None = None,
    ) -> None:
        super().__init__(model, preprocessing or suited(model, encoder))
        if not hasattr(model, "temperature"):
            self.refuse(model, "a model of categories, as Discrete,")
        if temperature is not None and model.temperature is None:
            raise InputError(
                f"Expected no temperature, as the latents are summed out; got {temperature!r}. Give the model one."
            )
        self.temperature = model.temperature if temperature is None else positive_number("temperature", temperature)
        self.default_objective = "trace_enum_elbo" if self.temperature is None else None
        self.infer: Any = {"enumerate": "parallel"} if self.temperature is None else {}
        self.sizes = [shape.numel() for shape in self.latents.values()]
        self.encoder = network_of(encoder, self.preprocessing.out_shape, (sum(self.sizes),))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Sample each latent given x."""
        with self.plate(x):
            parts = zip(self.latents, self.encoder(self.preprocessing(x)).split(self.sizes, dim=-1), strict=True)
            categories = {name: one_hot(logits, self.temperature) for name, logits in parts}
            return {name: pyro.sample(name, q, infer=self.infer.copy()) for name, q in categories.items()}
