"""The best Q of the guide's family for each datum, found by optimizing its parameters from the guide's answer.

    lambda*_n = argmax_lambda E_{Q(z; lambda)}[log P(x_n, z) - log Q(z; lambda)],    starting at lambda(x_n)

A guide says lambda(x) by one network for all data. Here each datum gets a free shift of its own, added to the
unconstrained value of every parameter of the guide's distributions, and the shifts are fitted while all
networks stay as they are. Sources: Cremer et al., arXiv 1801.03558 (the gap split in two by it); Kim et al.,
arXiv 1802.02550 (semi-amortized inference).
"""

import copy
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger
from torch import Tensor

from ppl_vae.errors import positive_int, positive_number
from ppl_vae.pair import Pair
from ppl_vae.rng import seeded
from ppl_vae.shifting import Shifted, zeros
from ppl_vae.structure import Args, FixedSubsample, Structure
from ppl_vae.trace import log_weights

NUM_STEPS = 300
NUM_PARTICLES = 8
LEARNING_RATE = 0.05
NUM_CHOOSING = 256  # fresh samples that decide, for each datum, between its shift and the guide's own answer


def refine(
    pair: Pair,
    args: Args,
    structure: Structure,
    *,
    num_steps: int = NUM_STEPS,
    num_particles: int = NUM_PARTICLES,
    learning_rate: float = LEARNING_RATE,
    subsample: Tensor | None = None,
    vectorize: bool = True,
) -> Pair:
    """Return the pair with the best Q of the guide's family for each of these data, as far as Adam finds it.

    All data are fitted at once, each by its own ELBO, with a learning rate that falls linearly to zero. What
    is returned is never worse than the guide but by the noise of the choice: each datum keeps its shift only
    where the mean of log P(x, z) - log Q(z) over 256 fresh samples is higher with it than without, both drawn
    from the same random numbers. The networks are not touched, nor their gradients.

    Args:
        pair: the two programs; call it within `pair.running()` and `pair.evaluating()`.
        args: the data; the returned guide holds for exactly these, in their order.
        structure: as `structure_of` found it.
        num_steps: how many steps of Adam.
        num_particles: how many samples of z for each datum and step.
        learning_rate: of the first step, in units of the unconstrained parameters.
        subsample: which data a plate with a random subset has to take; the same has to be passed later.
        vectorize: draw all samples in one run; else one run for each.

    Raises:
        InputError: discrete latent sites or ones without reparameterization, and families whose
            parameters are not known, all by name; a number of steps or particles below 1.

    Source: Cremer et al., arXiv 1801.03558; Roeder et al., arXiv 1703.09194, for the gradient.

    >>> from ppl_vae.models import LinearGaussian
    >>> from ppl_vae.guides import MeanField
    >>> from ppl_vae.structure import structure_of
    >>> from ppl_vae.trace import get_traces
    >>> model = LinearGaussian((20,), latent_dim=4)
    >>> pair, x = Pair(model, MeanField(model)), torch.randn(5, 20)
    >>> with pair.running(), pair.evaluating(), torch.no_grad():
    ...     structure = structure_of(get_traces(pair, (x,)), num_data=5)
    ...     refined = refine(pair, (x,), structure)
    ...     before, after = (log_weights(p, (x,), 100, structure).mean() for p in (pair, refined))
    >>> bool(after > before)
    True
    """
    positive_int("num_steps", num_steps)
    positive_int("num_particles", num_particles)
    positive_number("learning_rate", learning_rate)
    guide: Any = pair.guide
    with torch.no_grad(), _fixed(structure, subsample):
        guide_trace = poutine.trace(guide).get_trace(*args)
    shifts = zeros(guide_trace)

    def weights(messenger: Messenger | None, count: int) -> Tensor:
        other = pair if messenger is None else _with_guide(pair, messenger(guide))
        return log_weights(other, args, count, structure, subsample=subsample, vectorize=vectorize)

    leaves = [shift for site in shifts.values() for shift in site.values()]
    optimizer = torch.optim.Adam(leaves, lr=learning_rate)
    falling = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=num_steps)
    with torch.enable_grad():
        sticking = Shifted(shifts, sticking=True)
        for _ in range(num_steps):
            loss = -weights(sticking, num_particles).mean(0).sum()
            # Asked for the shifts only, so that nothing gathers in the networks' own gradients.
            for leaf, gradient in zip(leaves, torch.autograd.grad(loss, leaves), strict=True):
                leaf.grad = gradient.nan_to_num(0.0, 0.0, 0.0)  # a datum that diverges stops; the others go on
            optimizer.step()
            falling.step()

    with torch.no_grad():
        found = {n: {k: v.detach() for k, v in site.items()} for n, site in shifts.items()}
        gain = torch.zeros((), device=pair.device)
        for _ in range(-(-NUM_CHOOSING // num_particles)):  # no more at once than in a step
            seed = int(torch.randint(2**31, ()))
            with seeded(seed):
                before = weights(None, num_particles)
            with seeded(seed):
                gain = gain + (weights(Shifted(found), num_particles) - before).sum(0)
        better = torch.isfinite(gain) & (gain > 0)
    kept = {}
    for name, site in found.items():
        axis = len(guide_trace.nodes[name]["fn"].batch_shape) + structure.dim
        kept[name] = {k: torch.where(better.reshape(-1, *(1,) * (v.dim() - axis - 1)), v, 0.0) for k, v in site.items()}
    return _with_guide(pair, Shifted(kept)(guide))


def _fixed(structure: Structure, subsample: Tensor | None) -> AbstractContextManager[Any]:
    return nullcontext() if subsample is None else FixedSubsample(structure.plate, subsample)


def _with_guide(pair: Pair, guide: Any) -> Pair:
    # Modules and parameter store stay those of the pair: the networks are the same.
    other = copy.copy(pair)
    other.guide = guide
    return other
