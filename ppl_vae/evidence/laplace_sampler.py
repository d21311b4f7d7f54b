"""Samples of mixtures that are fitted to each datum, for `proposal="laplace"`: what a `Sampler` is of a guide."""

from dataclasses import replace

import numpy as np

from ppl_vae.errors import InputError
from ppl_vae.evidence.hmc import FAILURES
from ppl_vae.evidence.laplace import Fitted, Laplace
from ppl_vae.evidence.options import ImportanceOptions
from ppl_vae.evidence.prepare import Chunk, Prepared
from ppl_vae.evidence.weight_sampler import Sampler
from ppl_vae.traces.log_weights import Weighted
from ppl_vae.utils.report import Array
from ppl_vae.utils.threads import Threads


def sampler_of(prepared: Prepared, options: ImportanceOptions, threads: Threads) -> Sampler:
    """Return what draws samples from the proposal that is wanted."""
    kind = LaplaceSampler if options.proposal == "laplace" and not prepared.exact else Sampler
    return kind(prepared, options, threads)


class LaplaceSampler(Sampler):
    """Draws samples for each datum of a chunk from a mixture of its own, and weighs them."""

    def __init__(self, prepared: Prepared, options: ImportanceOptions, threads: Threads) -> None:
        plain = "guide" if prepared.pair.guide is not None else "prior"
        check_climbable(prepared)
        self.laplace = laplace_of(prepared, plain, options, threads)
        super().__init__(self.laplace.prepared, replace(options, proposal=plain), threads)
        self.options = options
        self.data_at_once = self.laplace.data_at_once
        self.settings = self.laplace.settings
        self._fitted: tuple[Chunk, Fitted] | None = None

    @property
    def selective(self) -> bool:
        """Whether some of a chunk's data can be had without the others: a mixture is kept for all of them."""
        return False

    def compile(self, chunk: Chunk) -> None:
        """Leave it to the densities, which are compiled as they are needed."""

    def weights(self, chunk: Chunk, num_samples: int) -> Array:
        """Return log-weights [K, n] in nats."""
        return np.asarray(self.laplace.weigh(chunk, self._of(chunk), num_samples)[0].cpu().numpy())

    def weighted(self, chunk: Chunk, num_samples: int) -> Weighted:
        """Return log-weights together with the latents they belong to."""
        log_weights, u = self.laplace.weigh(chunk, self._of(chunk), num_samples)
        latents, at_once = self.laplace.surface.prior.of(chunk), self.laplace.samples_at_once
        parts = zip(u.split(at_once), log_weights.split(at_once), strict=True)
        return Weighted.concatenated([latents.weighted(some, weights) for some, weights in parts])

    def _of(self, chunk: Chunk) -> Fitted:
        if self._fitted is None or self._fitted[0] is not chunk:
            fitted = self.laplace.adapted(chunk, self.laplace.fit(chunk))
            if fitted.unresolved is not None and bool(fitted.unresolved.any()):
                raise InputError(
                    "Expected latents that numbers of this precision can tell apart all over their support; got some "
                    "at its edge, where many unconstrained values are one. Use proposal='guide', or doubles."
                )
            self._fitted = chunk, fitted
        return self._fitted[1]


def laplace_of(prepared: Prepared, proposal: str, options: ImportanceOptions, threads: Threads) -> Laplace:
    """Return what fits mixtures; with the prior in them where the guide's density cannot be evaluated at any z."""
    try:
        return Laplace(prepared, proposal, options.compile, threads)
    except FAILURES:  # InputError is one of them
        if proposal == "prior":
            raise
        return Laplace(prepared, "prior", options.compile, threads)


def check_climbable(prepared: Prepared) -> None:
    """Refuse latents that some data have and others have not: a mixture is fitted to the same ones of all."""
    if prepared.structure.masked:
        raise InputError(
            "Expected latents that all data have, to fit a proposal to each datum; got latents that are masked, which "
            "have no density there. Use method='importance' with proposal='guide'."
        )
