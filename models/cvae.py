"""The conditional variational autoencoder: x given a label, in many ways."""

import pyro
from torch import Tensor

from ppl_vae.conditional import ConditionalModel
from ppl_vae.conditions import Label
from ppl_vae.priors import StandardNormal


class CVAE(ConditionalModel):
    """P(x, z, y) = P(x | h = f(z, y)) P(z) P(y), with y a label and f a network.

    With a learned conditional prior P(z) is P(z | y). A label that is not given is drawn, or left to the guide,
    or summed out by Pyro.
    Shapes: y [N], z [N, latent_dim], h [N, *likelihood.h_shape], x [N, *event_shape].
    Source: Kingma et al., arXiv 1406.5298 (M2); Doersch, arXiv 1606.05908, section 4.

    >>> import torch
    >>> CVAE((1, 8, 8))(y=torch.tensor([3, 4])).shape
    torch.Size([2, 1, 8, 8])
    """

    completes = False
    default_condition, default_prior = Label, StandardNormal
    partly_labelled_guide = "semi_supervised"

    def forward(self, x: Tensor | None = None, y: Tensor | None = None, *, size: int | None = None) -> Tensor:
        """Observe x and y, or x alone; or generate `size` of them, given y or with y drawn, too."""
        with self.plate(x, size, y):
            y = pyro.sample("y", self.condition(), obs=y, infer=self.condition.infer)
            c = self.condition.encode(y)
            z = pyro.sample("z", self.prior(c))
            return pyro.sample("x", self.likelihood(self.decoder(z, c)), obs=x)
