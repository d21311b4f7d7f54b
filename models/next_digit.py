"""The next digit: the image that succeeds a string of images."""

import pyro
from torch import Tensor

from ppl_vae.conditional import ConditionalModel
from ppl_vae.conditions import DigitString
from ppl_vae.likelihoods import Gaussian
from ppl_vae.priors import StandardNormal


class NextDigit(ConditionalModel):
    """P(x, z | y) = P(x | h = f(z, y)) P(z), with y images of 3, 4, 5, say, and x one of a 6 in any handwriting.

    Nothing tells it what the images show, nor what succeeds what: it has to find out. The images are grey: of small
    ones that are made black and white at random, too little of the handwriting is left for z.
    Shapes: y [N, length, *event_shape], z [N, latent_dim], x [N, *event_shape].
    Source: Doersch, arXiv 1606.05908, section 3.

    >>> import torch
    >>> NextDigit((1, 8, 8))(y=torch.zeros(2, 3, 1, 8, 8)).shape
    torch.Size([2, 1, 8, 8])
    """

    completes = False
    default_condition, default_prior, default_likelihood = DigitString, StandardNormal, Gaussian

    def forward(self, x: Tensor | None = None, y: Tensor | None = None, *, size: int | None = None) -> Tensor:
        """Observe x after the string y, or generate what succeeds y."""
        with self.plate(x, size, y):
            y = pyro.sample("y", self.condition(), obs=y, infer=self.condition.infer)
            c = self.condition.encode(y)
            z = pyro.sample("z", self.prior(c))
            return pyro.sample("x", self.likelihood(self.decoder(z, c)), obs=x)
