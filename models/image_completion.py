"""Completing an image: its hidden pixels given the visible ones."""

import pyro
from torch import Tensor

from ppl_vae.conditional import ConditionalModel
from ppl_vae.conditions import Visible
from ppl_vae.priors import StandardNormal


class ImageCompletion(ConditionalModel):
    """P(x, z | y) = P(x | h = f(z, y)) P(z), with y the visible pixels of an image and x the hidden ones.

    Called with whole images, [N, *event_shape]: `model(images)` observes both their parts, `model(y=images)`
    reads the visible pixels and returns whole images in which the others are drawn.
    Shapes: y [N, V], z [N, latent_dim], x [N, H], with V + H pixels in an image.
    Source: Doersch, arXiv 1606.05908, section 4.

    >>> import torch
    >>> ImageCompletion((1, 8, 8))(y=torch.zeros(2, 1, 8, 8)).shape
    torch.Size([2, 1, 8, 8])
    """

    completes = True
    default_condition, default_prior = Visible, StandardNormal

    def forward(self, x: Tensor | None = None, *, y: Tensor | None = None, size: int | None = None) -> Tensor:
        """Observe whole images x, or complete images y."""
        hidden, visible = self.condition.split(x, y)
        with self.plate(x, size, visible):
            visible = pyro.sample("y", self.condition(), obs=visible, infer=self.condition.infer)
            c = self.condition.encode(visible)
            z = pyro.sample("z", self.prior(c))
            hidden = pyro.sample("x", self.likelihood(self.decoder(z, c)), obs=hidden)
            return self.condition.join(hidden, visible)
