"""K reparameterized samples of z for each datum with their log-probabilities, with gradients, for objectives.

    log w_k = log P(x, z_k) - log Q(z_k | x),    z_k ~ Q(z | x),    [K, N]

A scale common to all sites of a datum (of the plate over the data, of `poutine.scale` around both programs) multiplies
its objective and is kept apart; that of subsampled plates inside the one over the data belongs into the weight.
"""

import functools
import math
from collections import defaultdict
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from pyro import poutine
from torch import Tensor

from ppl_vae.distributions.unwrap import elementwise
from ppl_vae.errors import InputError
from ppl_vae.traces.divergence import in_order, kl_by_dimension, kl_of
from ppl_vae.traces.log_weights import scored_trace
from ppl_vae.traces.plates import Structure, latents, log_prob_by_datum, num_data_of, samples, sum_by_datum
from ppl_vae.traces.sites import Kind, Site, of_kind


@dataclass(frozen=True)
class Particles:
    """A run of a guide, and of the model against it, K times at once; the guide's log-probabilities are log Q."""

    model_trace: poutine.Trace
    guide_trace: poutine.Trace
    structure: Structure
    num_particles: int

    @cached_property
    def model(self) -> dict[str, Site]:
        """The sites of the model."""
        return samples(self.model_trace)

    @cached_property
    def guide(self) -> dict[str, Site]:
        """The sites of the guide that log Q is made of."""
        sites = samples(scored_trace(self.model_trace, self.guide_trace, self.structure))
        return {name: site for name, site in sites.items() if name in self.structure.q}

    @cached_property
    def num_data(self) -> int:
        """N, how many data were run: where the program takes a subset itself, as many as are in it."""
        return num_data_of([*self.model.values(), *samples(self.guide_trace).values()], self.structure)

    @cached_property
    def scale(self) -> Any:
        """What a datum counts, a number or [N]."""
        scale = outer_scale(next(iter((self.model or self.guide).values())), self.structure)
        return scale.flatten() if isinstance(scale, Tensor) else scale

    def total(self, values: Tensor) -> Tensor:
        """Return the sum of values [N] over the data, each as often as its datum counts."""
        return (self.scale * values).sum()

    @cached_property
    def log_likelihood(self) -> Tensor:
        """The log-probability of x given z_k, log P(x | z_k), [K, N], in nats, as all of these."""
        if self.structure.enumerated:  # a sum over what is left out does not split into a term for each site
            return self._log_prob(self.model_trace, self.model) - self.log_prior
        return self._log_prob(self.model_trace, {n: s for n, s in self.model.items() if s["is_observed"]})

    @cached_property
    def log_prior(self) -> Tensor:
        """The log-probability of z_k in the model, log P(z_k), [K, N]."""
        return self._log_prob(self.model_trace, latents(self.model))

    @cached_property
    def log_q(self) -> Tensor:
        """The log-probability of z_k in the guide, log Q(z_k | x), [K, N]."""
        return self._log_prob(scored_trace(self.model_trace, self.guide_trace, self.structure), self.guide)

    @property
    def log_weights(self) -> Tensor:
        """How much z_k counts, log w_k = log P(x, z_k) - log Q(z_k | x), [K, N]."""
        return self.log_likelihood + self.log_prior - self.log_q

    @cached_property
    def kl(self) -> dict[str, Tensor]:
        """The divergence KL[Q(z_s | x) || P(z_s)] of each latent site s given the samples of others, [K, N].

        Exact where PyTorch knows it, otherwise log Q - log P of the sample; what is summed out leaves one term, "".
        """
        if not self._by_site:
            return {"": self.log_q - self.log_prior}
        return {name: self._kl(name) for name in of_kind(self.model, Kind.LATENT)}

    @property
    def _by_site(self) -> bool:
        """Whether log Q has a term for each latent: none is summed out, or made of auxiliary sites."""
        return not self.structure.enumerated and all(name in self.model for name in self.guide)

    def _kl(self, name: str) -> Tensor:
        q, p = self.guide[name], self.model[name]
        kl = inner_scale(q, self.structure) * kl_of(q, p, exact=self._in_order)
        return self._full(sum_by_datum(kl, self.structure, self.num_data))

    @property
    def total_kl(self) -> Tensor:
        """The sum of the divergences of all sites, [K, N]."""
        return functools.reduce(torch.add, self.kl.values(), torch.zeros_like(self.log_likelihood))

    def kl_by_dimension(self) -> dict[str, Tensor]:
        """Return the divergence of each number of each latent site, [K, N, D], if they are independent."""
        return {name: self._kl_by_dimension(name) for name in of_kind(self.model, Kind.LATENT) if name in self.guide}

    def _kl_by_dimension(self, name: str) -> Tensor:
        if not self._by_site:
            raise InputError(
                "Expected latents of independent numbers, none of them summed out or made of others; got some that "
                "are. Leave out per_dimension."
            )
        q, p = self.guide[name], self.model[name]
        kl = kl_by_dimension(q, p, self.structure, exact=self._in_order)
        if kl is None:
            raise InputError(
                f"Expected a site {name!r} of independent numbers in the guide and in the model; got "
                f"{type(elementwise(q['fn'])).__name__} and {type(elementwise(p['fn'])).__name__}. Leave out "
                f"per_dimension."
            )
        return inner_scale(q, self.structure) * kl.expand(self.num_particles, self.num_data, -1)

    @cached_property
    def _in_order(self) -> bool:
        return in_order(self.model, self.guide)

    def _log_prob(self, trace: poutine.Trace, sites: dict[str, Site]) -> Tensor:
        alike: dict[float, list[str]] = defaultdict(list)
        for name, site in sites.items():
            alike[inner_scale(site, self.structure)].append(name)
        terms = [
            scale * log_prob_by_datum(trace, some, self.structure, self.num_data)
            for scale, some in (alike or {1.0: []}).items()
        ]
        return self._full(functools.reduce(torch.add, terms))

    def _full(self, term: Tensor) -> Tensor:
        return term.expand(self.num_particles, self.num_data)


def inner_scale(site: Site, structure: Structure) -> float:
    """Return what the plates of a site but the one over the data scale it by."""
    frames = [f for f in site["cond_indep_stack"] if not (f.vectorized and f.dim == structure.dim)]
    return math.prod((f.full_size or f.size) / f.size for f in frames)


def outer_scale(site: Site, structure: Structure) -> Any:
    """Return the rest of a site's scale: of the plate over the data, and of handlers."""
    inner = inner_scale(site, structure)
    return site["scale"] if inner == 1 else site["scale"] / inner
