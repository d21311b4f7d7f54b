"""ELBOs whose KL divergence counts otherwise while training: beta, free bits, warm-up.

    ELBO(x) = E_Q[log P(x | z)] - KL[Q(z | x) || P(z)]

What they report (`loss`, so a fit's history and its best epoch) is the ELBO itself. KL divergences that PyTorch knows
are exact, others are of the samples.
"""

import torch
from torch import Tensor

from ppl_vae.errors import InputError, number_from_zero, positive_int
from ppl_vae.objectives.base import ParticleObjective
from ppl_vae.objectives.particles import Particles


class BetaELBO(ParticleObjective):
    """The ELBO with its KL divergence counted beta times, as in the beta-VAE.

        J = sum_x E_Q[log P(x | z)] - beta KL[Q(z | x) || P(z)]

    Above 1, z holds less of x, in fewer dimensions; below 1, more. It is below log P(x) where beta is at least 1.

    Args:
        beta: what a nat of KL divergence counts, 0 or more.
        num_particles: samples of z for each datum, whose mean is taken.

    Raises:
        InputError: a beta below 0; in use, a guide with latents that are not reparameterized, sites outside of the
            plate over the data, or of different scales.

    Source: Higgins et al., beta-VAE, ICLR 2017 (openreview.net/forum?id=Sy2fzU9gl).

    >>> from ppl_vae import fit
    >>> from ppl_vae.guides import MeanField
    >>> from ppl_vae.models import VAE
    >>> model, x = VAE((1, 8, 8)), torch.rand(40, 1, 8, 8).round()
    >>> fitted = fit(model, MeanField(model), x, objective=BetaELBO(beta=4), epochs=1)
    """

    def __init__(self, beta: float = 1.0, num_particles: int = 1) -> None:
        self.beta = number_from_zero("beta", beta)
        super().__init__(num_particles, beta=self.beta)
        # A tensor, so that what was compiled reads the weight of the day.
        self._weight = torch.tensor(self.beta, dtype=torch.float64)

    @property
    def weight(self) -> Tensor:
        """What the KL divergence counts now, a tensor without dimensions; a subclass may make another one."""
        return self._weight

    def bound(self, particles: Particles) -> Tensor:
        """Return the ELBO, [N]."""
        return particles.log_likelihood.mean(0) - particles.total_kl.mean(0)

    def optimized(self, particles: Particles) -> Tensor:
        """Return J."""
        return particles.total((particles.log_likelihood - self.weight * particles.total_kl).mean(0))


class WarmUp(BetaELBO):
    """The ELBO whose KL divergence is let in over the first epochs: beta rises from 0 to its value, evenly.

        J_e = sum_x E_Q[log P(x | z)] - beta min(1, e / epochs) KL[Q(z | x) || P(z)],    e = 0, 1, 2, ...

    Dimensions of z that the decoder does not use at first are not switched off before it can learn to. `fit` tells it
    the epoch; in a loop of one's own, call `set_epoch(e)`. An epoch of the warm-up is compared with no other, neither
    for the best nor by patience: until beta is reached, the latest is kept.

    Args:
        epochs: after how many of them beta is reached.
        beta: where it ends, as in `BetaELBO`.
        num_particles: samples of z for each datum, whose mean is taken.

    Raises:
        InputError: epochs below 1; else as `BetaELBO`.

    Source: Sonderby et al., arXiv 1602.02282; Bowman et al., arXiv 1511.06349.

    >>> objective = WarmUp(epochs=10)
    >>> objective.set_epoch(3)
    >>> round(float(objective.weight), 3)
    0.3
    """

    def __init__(self, epochs: int = 10, beta: float = 1.0, num_particles: int = 1) -> None:
        super().__init__(beta, num_particles)
        self.epochs = positive_int("epochs", epochs)
        self.__name__ = f"{type(self).__name__}(epochs={self.epochs}, beta={self.beta:g})"
        self.epoch = 0
        self._weight.fill_(0.0)

    def is_warming_up(self, epoch: int) -> bool:
        """Whether beta is not yet reached after so many epochs."""
        return epoch < self.epochs

    def set_epoch(self, epoch: int) -> None:
        """Say how many epochs are done."""
        self.epoch = epoch
        self._weight.fill_(self.beta * min(1.0, epoch / self.epochs))


class FreeBits(ParticleObjective):
    """The ELBO in which each group of latents may use some nats at no cost.

        J = sum_x E_Q[log P(x | z)] - N sum_g max(free_nats, (1 / N) sum_x KL[Q(z_g | x) || P(z_g)])

    The mean is over the data of a step, as in the paper: below it nothing pulls a group towards its prior. A group is
    a latent site, or, with `per_dimension`, each of its numbers, which then are independent in Q and in P.

    Args:
        free_nats: for each group, 0 or more; 0 leaves the ELBO.
        per_dimension: whether a group is one dimension of z.
        num_particles: samples of z for each datum, whose mean is taken.

    Raises:
        InputError: free_nats below 0; in use, with `per_dimension`, sites whose dimensions are not independent; else as
            `BetaELBO`.

    Source: Kingma et al., arXiv 1606.04934.

    >>> from ppl_vae import fit
    >>> from ppl_vae.guides import MeanField
    >>> from ppl_vae.models import VAE
    >>> model, x = VAE((1, 8, 8)), torch.rand(40, 1, 8, 8).round()
    >>> fitted = fit(model, MeanField(model), x, objective=FreeBits(free_nats=0.1, per_dimension=True), epochs=1)
    """

    def __init__(self, free_nats: float = 0.5, per_dimension: bool = False, num_particles: int = 1) -> None:
        if not isinstance(per_dimension, bool):
            raise InputError(f"Expected per_dimension to be true or false; got {per_dimension!r}.")
        self.free_nats, self.per_dimension = number_from_zero("free_nats", free_nats), per_dimension
        super().__init__(num_particles, free_nats=self.free_nats, per_dimension=self.per_dimension)

    def bound(self, particles: Particles) -> Tensor:
        """Return the ELBO, [N]."""
        return (particles.log_likelihood - particles.total_kl).mean(0)

    def optimized(self, particles: Particles) -> Tensor:
        """Return J; a datum counts its scale in all sums and means."""
        log_likelihood = particles.log_likelihood.mean(0)
        scale = torch.as_tensor(particles.scale).to(log_likelihood).expand_as(log_likelihood)
        total = (scale * log_likelihood).sum()
        groups = particles.kl_by_dimension() if self.per_dimension else particles.kl
        for kl in groups.values():  # [K, N, groups] or [K, N]
            mean = (scale / scale.sum()) @ kl.mean(0)
            total = total - scale.sum() * mean.clamp(min=self.free_nats).sum()
        return total
