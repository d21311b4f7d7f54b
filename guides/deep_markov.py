"""The guide of the deep Markov model: a recurrent network reads the future, and meets the latent of the step before."""

from typing import Any

import pyro
import torch
from torch import Tensor, nn

from ppl_vae.base import Guide, Model, suited
from ppl_vae.distributions.chains import Chain, Where, looped
from ppl_vae.errors import positive_int
from ppl_vae.missing import is_missing_in
from ppl_vae.parts import Preprocessing
from ppl_vae.posteriors import DiagonalNormal, Family, SitePosteriors


class DeepMarkov(Guide):
    """Q(z | x) = prod_t Q(z_t | h_t = (tanh(W z_(t-1) + b) + r_t) / 2), with r_t = GRU(x_t, r_(t+1)) back in time.

    The posterior of z_t given z_(t-1) depends on x_t, ..., x_T, which r_t has read (the paper's ST-R, or DKS). Where
    nothing of these is observed, z_t is drawn as the model does: that is its posterior. A flow for each step, given
    h_t, is `posterior=InverseAutoregressive`.
    Args: hidden: the size of r_t; posterior: the family of each step.
    Shapes: x [N, T, D], z [N, T, latent_dim].
    Source: Krishnan, Shalit & Sontag, arXiv 1609.09869, section 4; Kingma et al., arXiv 1606.04934 (flows).

    >>> from ppl_vae.models import DeepMarkov as Model
    >>> DeepMarkov(Model((20, 3)))(torch.zeros(5, 20, 3)).shape
    torch.Size([5, 20, 8])
    """

    any_length = True
    prior: Any

    def __init__(
        self,
        model: Model,
        hidden: int = 128,
        posterior: Family = DiagonalNormal,
        preprocessing: Preprocessing | None = None,
    ) -> None:
        super().__init__(model, preprocessing or suited(model))
        shapes = list(self.real_latents().values())
        if list(self.latents) != ["z"] or len(shapes[0]) != 2 or not hasattr(model, "prior"):
            self.refuse(model, "a model with a prior and a latent chain z of shape [T, latent_dim]")
        self.refer_to(prior=model.prior)
        hidden, latent_dim = positive_int("hidden", hidden), shapes[0][1]
        self.start, self.end = nn.Parameter(torch.zeros(latent_dim)), nn.Parameter(torch.zeros(hidden))
        self.recurrent = nn.GRUCell(self.preprocessing.out_shape[0], hidden)
        self.combine = nn.Linear(latent_dim, hidden)
        self.posteriors = SitePosteriors({"z": torch.Size([latent_dim])}, posterior)
        self.to_h = nn.Linear(hidden, self.posteriors.h_dim)

    def forward(self, x: Tensor) -> Tensor:
        """Sample z given x."""
        with self.plate(x):
            start, combine, to_h = self.start, self.combine, self.to_h  # asked for once
            posteriors, prior = self.posteriors, self.prior

            def step(before: Tensor | None, future: Tensor, *some: Tensor) -> Any:
                h = (combine(start if before is None else before).tanh() + future) / 2
                q = posteriors(to_h(h))["z"]
                return Where(some[0][..., 0], q, prior(before)) if some else q

            return pyro.sample("z", Chain(step, x.shape[1], *self.read(x)))

    def read(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return r_t, [N, T, hidden], and, if any is missing, whether some of x_t, ..., x_T is observed, [N, T, 1]."""
        recurrent, values, end = self.recurrent, self.preprocessing(x), self.end.expand(len(x), 1, -1)
        seen = (~x.isnan().all(-1, keepdim=True),) if is_missing_in(x) else ()

        def step(after: Tensor, value: Tensor, *seen: Tensor) -> tuple[Tensor, ...]:
            state = recurrent(value[:, 0], after[:, 0])[:, None]
            return (torch.where(seen[0], state, after) if seen else state,)

        future = torch.cat([state for (state,) in looped(step, end, x.shape[1], values, *seen, backwards=True)], 1)
        return (future, *(part.flip(1).cumsum(1).flip(1) > 0 for part in seen))
