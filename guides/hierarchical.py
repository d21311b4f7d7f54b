"""The guide of two stochastic layers: Gaussian given x and the other one, from the top down or from the bottom up."""

import pyro
from pyro.distributions import TorchDistribution
from torch import Tensor

from ppl_vae.architectures import Concatenated
from ppl_vae.base import Guide, Model, suited
from ppl_vae.distributions.gaussian import diagonal_normal
from ppl_vae.errors import InputError, did_you_mean, is_one_of, shown
from ppl_vae.networks import MLP, NetworkFactory, is_maker, network_of
from ppl_vae.parts import Preprocessing

ORDERS = {"top_down": ("z2", "z1"), "bottom_up": ("z1", "z2")}


class Hierarchical(Guide):
    """Q(z1, z2 | x) = Q(z2 | x) Q(z1 | x, z2) from the top down, Q(z1 | x) Q(z2 | x, z1) from the bottom up.

    Each factor is a diagonal Gaussian from an encoder of its own; the second is an MLP if the first is made already.
    Shapes: x [N, *event_shape], z1 and z2 [N, size of that site].
    Args: direction: "top_down" or "bottom_up".
    Source: Tomczak & Welling, arXiv 1705.07120 (top down); Burda et al., arXiv 1509.00519 (bottom up).

    Raises:
        InputError: an unknown direction, or a model whose latent sites are not two vectors z1 and z2.

    >>> import torch
    >>> from ppl_vae.models import Hierarchical as Model
    >>> sorted(Hierarchical(Model((1, 8, 8)))(torch.zeros(5, 1, 8, 8)))
    ['z1', 'z2']
    """

    def __init__(
        self,
        model: Model,
        encoder: NetworkFactory = MLP,
        direction: str = "top_down",
        preprocessing: Preprocessing | None = None,
    ) -> None:
        super().__init__(model, preprocessing or suited(model, encoder))
        if not is_one_of(direction, ORDERS):
            raise InputError(f"Unknown direction {shown(direction)}: {did_you_mean(direction, ORDERS)}.")
        if set(self.latents) != {"z1", "z2"} or any(len(shape) != 1 for shape in self.latents.values()):
            found = {name: tuple(shape) for name, shape in self.latents.items()}
            self.refuse(model, "a model with two latent vectors z1 and z2", f"{found} in {type(model).__name__}")
        self.first, self.second = ORDERS[direction]
        sizes = {name: shape.numel() for name, shape in self.latents.items()}
        self.encoder = network_of(encoder, self.preprocessing.out_shape, (2 * sizes[self.first],))
        shapes = self.preprocessing.out_shape, (sizes[self.first],), (2 * sizes[self.second],)
        second = encoder if is_maker(encoder) else MLP
        self.second_encoder = Concatenated(network=second).encoder(*shapes, None)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Sample one latent given x, then the other given x and that one."""
        with self.plate(x):
            one = pyro.sample(self.first, self.posterior(x)[self.first])
            other = pyro.sample(self.second, diagonal_normal(self.second_encoder(self.preprocessing(x), one)))
            return {self.first: one, self.second: other}

    def posterior(self, x: Tensor) -> dict[str, TorchDistribution]:
        """Return Q of the site that is sampled first given x, for x [..., *event_shape]."""
        return {self.first: diagonal_normal(self.encoder(self.preprocessing(x)))}
