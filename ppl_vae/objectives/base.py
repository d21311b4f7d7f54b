"""What objectives of reparameterized samples have in common: Pyro's interface, and the samples of one step."""

from typing import Any

import torch
from pyro import poutine
from pyro.infer import ELBO
from torch import Tensor

from ppl_vae.errors import positive_int
from ppl_vae.objectives.checks import check_answered, check_reparameterized, check_scales
from ppl_vae.objectives.particles import Particles
from ppl_vae.traces.log_weights import check_sites
from ppl_vae.traces.pair import Pair, Program
from ppl_vae.traces.plates import Structure, samples, structure_of
from ppl_vae.traces.run import run_against, run_pair


class ParticleObjective(ELBO):
    """An objective of K reparameterized samples of z for each datum, drawn at once.

    Subclasses implement `bound(particles)` and, where something else is optimized, `optimized(particles)`. Losses are
    summed over the data, in nats; a subset counts as what its plate stands for.

    Args:
        num_particles: K.
        options: what else the objective depends on: a run is resumed with the same only.
    """

    def __init__(self, num_particles: int, **options: float) -> None:
        super().__init__(positive_int("num_particles", num_particles))  # type: ignore[no-untyped-call]
        listed = ", ".join(f"{name}={value:g}" for name, value in options.items())
        self.__name__ = f"{type(self).__name__}({listed})" if listed else type(self).__name__
        self._met: tuple[Program, Program] | None = None
        self._structures: dict[int, Structure] = {}  # by how many arguments the programs are called with

    def bound(self, particles: Particles) -> Tensor:
        """Return a lower bound of log P(x) for each datum, [N], in nats."""
        raise TypeError(f"{type(self).__name__} has to define bound(particles).")

    def optimized(self, particles: Particles) -> Tensor:
        """Return what is maximized, in nats, summed over the data, a scalar."""
        return particles.total(self.bound(particles))

    def loss(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> float:
        """Return the negative bound, in nats, summed over the data."""
        with torch.no_grad():
            particles = self.particles(model, guide, args, kwargs)
            return -float(particles.total(self.bound(particles)))

    def loss_and_grads(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> float:
        """Return the negative bound, summed over the data, and leave the gradients of what is optimized."""
        loss, surrogate = self.loss_and_surrogate(model, guide, args, kwargs)
        if surrogate.requires_grad:
            surrogate.backward()
        return float(loss)

    def loss_and_surrogate(
        self, model: Program, guide: Program, args: Any, kwargs: Any = None
    ) -> tuple[Tensor, Tensor]:
        """Return the negative bound, summed over the data, and the negative of what is optimized, scalars."""
        particles = self.differentiable_particles(model, guide, args, kwargs or {})
        surrogate = -self.optimized(particles)
        with torch.no_grad():
            return -particles.total(self.bound(particles)), surrogate

    def differentiable_loss(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> Tensor:
        """Return the negative of what is optimized, a scalar whose gradient is the estimator's."""
        return -self.optimized(self.differentiable_particles(model, guide, args, kwargs))

    def differentiable_particles(self, model: Program, guide: Program, args: Any, kwargs: Any) -> Particles:
        """Return the samples of a step."""
        return self.particles(model, guide, args, kwargs)

    def particles(self, model: Program, guide: Program, args: Any, kwargs: Any) -> Particles:
        """Run the guide, and the model against it, K times at once."""
        structure = self.meet(model, guide, args, kwargs)
        traces = run_pair(model, guide, args, kwargs, num_samples=self.num_particles, structure=structure)
        return Particles(*traces, structure, self.num_particles)

    def meet(self, model: Program, guide: Program, args: Any, kwargs: Any) -> Structure:
        """Look at a pair, when it is first met, and return what a run of it shows."""
        if self._met != (model, guide):
            self._met, self._structures = (model, guide), {}
        if len(args) not in self._structures:
            self._structures[len(args)] = self.look_at(model, guide, args, kwargs)
        return self._structures[len(args)]

    def look_at(self, model: Program, guide: Program, args: Any, kwargs: Any) -> Structure:
        """Run a pair once, on the side, and return what that shows.

        Raises:
            InputError: sites outside of the plate over the data, latents that differ between the programs or are not
                reparameterized, scales that differ between sites.
        """
        pair = Pair(model, guide)
        with pair.evaluating(), torch.enable_grad(), torch.random.fork_rng(), poutine.block():
            guide_trace = poutine.trace(guide).get_trace(*args, **kwargs)
            model_trace = run_against(guide_trace, model, args, kwargs)
            check_sites(pair, model_trace, guide_trace)
            structure = structure_of((model_trace, guide_trace), len(args[0]) if args else 0)
            guided = samples(guide_trace)
            check_answered(samples(model_trace), guided, type(self).__name__, enumerates=True)
            check_reparameterized(guided)
        check_scales(samples(model_trace) | {f"{name} of the guide": site for name, site in guided.items()}, structure)
        return structure

    def _get_trace(self, model: Program, guide: Program, args: Any, kwargs: Any) -> tuple[poutine.Trace, poutine.Trace]:
        particles = self.particles(model, guide, args, kwargs)
        return particles.model_trace, particles.guide_trace
