"""Discrete latents: categories, summed out exactly or relaxed."""

from collections.abc import Sequence
from typing import Any

import pyro
import torch
from torch import Tensor, nn

from ppl_vae.base import Model
from ppl_vae.distributions.one_hot import one_hot
from ppl_vae.errors import positive_int, positive_number
from ppl_vae.likelihoods import Bernoulli, Likelihood
from ppl_vae.networks import MLP, NetworkFactory, network_of


class Discrete(Model):
    """P(x, z) = P(x | h = f(z)) prod_i Categorical(z_i; pi_i), with each z_i a one-hot vector and pi learned.

    Exact, the latents are enumerated: `TraceEnum_ELBO` sums over all num_classes^num_variables of their values. With a
    temperature they are relaxed to the simplex, and any objective will do; log P(x) is then that of the relaxed model.
    Shapes: z1, z2, ... [N, num_classes], h [N, *likelihood.h_shape], x [N, *event_shape].
    Source: Jang et al., arXiv 1611.01144; Maddison et al., arXiv 1611.00712.

    >>> Discrete((1, 8, 8), num_variables=3, num_classes=4)(size=5).shape
    torch.Size([5, 1, 8, 8])
    """

    default_guide = "discrete"
    default_likelihood = Bernoulli

    def __init__(
        self,
        event_shape: Sequence[int],
        likelihood: Likelihood | None = None,
        decoder: NetworkFactory = MLP,
        *,
        num_variables: int = 2,
        num_classes: int = 10,
        temperature: float | None = None,
    ) -> None:
        super().__init__(event_shape)
        size = positive_int("num_variables", num_variables) * positive_int("num_classes", num_classes)
        self.temperature = None if temperature is None else positive_number("temperature", temperature)
        self.infer: Any = {"enumerate": "parallel"} if temperature is None else {}
        self.logits = nn.Parameter(torch.zeros(num_variables, num_classes))
        self.likelihood = (likelihood or Bernoulli()).bind(event_shape)
        self.decoder = network_of(decoder, (size,), self.likelihood.h_shape)

    def forward(self, x: Tensor | None = None, *, size: int | None = None) -> Tensor:
        """Observe x, or generate `size` of them."""
        with self.plate(x, size):
            variables = [one_hot(logits, self.temperature) for logits in self.logits]
            z = [pyro.sample(f"z{i}", p, infer=self.infer.copy()) for i, p in enumerate(variables, 1)]
            h = self.decoder(torch.cat(torch.broadcast_tensors(*z), dim=-1))
            return pyro.sample("x", self.likelihood(h), obs=x)
