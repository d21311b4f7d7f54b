"""The regressor: x given y by the same networks, without z, so that one y has one answer: a blur of all."""

from collections.abc import Sequence

import pyro
from torch import Tensor

from ppl_vae.architectures import Architecture
from ppl_vae.conditional import ConditionalModel
from ppl_vae.conditions import Condition, Visible
from ppl_vae.likelihoods import Likelihood


class Regressor(ConditionalModel):
    """P(x | h = f(y)): every pixel on its own given y; no latent site, so log P(x | y) is exact.

    The condition says which task it is: `Visible` completes images, `DigitString` draws the next digit, `Label`
    draws a digit of that label.
    Shapes: as those of the model for that task.
    Source: the baseline of Doersch, arXiv 1606.05908, section 4.

    >>> import torch
    >>> Regressor((1, 8, 8))(y=torch.zeros(2, 1, 8, 8)).shape
    torch.Size([2, 1, 8, 8])
    """

    default_guide = "no_latents"
    default_condition = Visible

    def __init__(
        self,
        event_shape: Sequence[int],
        condition: Condition | None = None,
        likelihood: Likelihood | None = None,
        networks: Architecture | None = None,
    ) -> None:
        super().__init__(event_shape, condition, None, likelihood, networks)

    def forward(self, x: Tensor | None = None, y: Tensor | None = None, *, size: int | None = None) -> Tensor:
        """Observe x given y, or generate x."""
        generated, given = self.condition.split(x, y)
        with self.plate(x, size, given):
            given = pyro.sample("y", self.condition(), obs=given, infer=self.condition.infer)
            h = self.decoder(None, self.condition.encode(given))
            generated = pyro.sample("x", self.likelihood(h), obs=generated)
            return self.condition.join(generated, given)
