"""The guide of conditional models: every latent site on its own given x and y, a Gaussian unless said."""

import pyro
from pyro.distributions import TorchDistribution
from torch import Tensor

from ppl_vae.base import Guide, suited
from ppl_vae.conditional import ConditionalModel, check_number
from ppl_vae.conditions import Condition
from ppl_vae.errors import InputError
from ppl_vae.parts import Preprocessing
from ppl_vae.posteriors import DiagonalNormal, Family, SitePosteriors


class Conditional(Guide):
    """Q(z | x, y) = prod_s Q(z_s | h_s(x, y)), a product over the model's latent sites; a diagonal Gaussian for each.

    Another posterior family may stand for the Gaussian. Its encoder is the one that goes with the model's networks.
    Shapes: x [N, *event_shape], y [N, *condition.shape], z_s [N, *event shape of the site].
    Source: Sohn et al., NeurIPS 2015; Doersch, arXiv 1606.05908, section 3.

    Raises:
        InputError: a model without a condition or without latent sites; in use, no labels, or not one for each x.

    >>> import torch
    >>> from ppl_vae.models import CVAE
    >>> Conditional(CVAE((1, 8, 8)))(torch.zeros(5, 1, 8, 8), torch.arange(5))["z"].shape
    torch.Size([5, 8])
    """

    condition: Condition

    def __init__(
        self,
        model: ConditionalModel,
        posterior: Family = DiagonalNormal,
        preprocessing: Preprocessing | None = None,
    ) -> None:
        if not isinstance(model, ConditionalModel):
            self.refuse(model, "a conditional model, such as CVAE,")
        super().__init__(model, preprocessing or suited(model))
        self.refer_to(condition=model.condition)
        self.posteriors = SitePosteriors(self.real_latents(), posterior)
        shapes = self.preprocessing.out_shape, self.condition.c_shape, (self.posteriors.h_dim,)
        self.encoder = model.networks.encoder(*shapes, model.decoder)

    def forward(self, x: Tensor, y: Tensor | None = None) -> dict[str, Tensor]:
        """Sample every latent site given x and y."""
        generated, given = self.condition.split(x, y)
        if given is None:
            raise InputError("Expected labels y for Conditional; got none. Give them, or use guide semi_supervised.")
        with self.plate(x):
            check_number(given, len(x))
            h = self.encoder(self.preprocessing(generated), self.condition.encode(given))
            return {name: pyro.sample(name, q) for name, q in self.posteriors(h).items()}

    def posterior_given(self, x: Tensor, c: Tensor) -> dict[str, TorchDistribution]:
        """Return Q(z_s | x_i, y) of each site, batch shape [..., I], for x [I, *event_shape] and c [..., *c_shape]."""
        generated, _ = self.condition.split(x, None) if self.condition.y_from_x else (x, None)
        return self.posteriors(
            self.encoder(self.preprocessing(generated), c.unsqueeze(-1 - len(self.condition.c_shape)))
        )
