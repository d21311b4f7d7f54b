"""The importance-weighted bound, and gradients without the guide's score: those of any guide and of any K.

    d/dphi log Q(z; phi) = (d log Q / dz) (dz / dphi) + (d log Q / dphi at fixed z),

where the second term, the score, has expectation 0 but not variance 0 (Roeder et al., arXiv 1703.09194). To leave it
out, the guide is run again on its samples with all parameters held fixed: log Q as a function of z alone.
"""

import math
import warnings
from collections.abc import Callable, Iterable
from typing import Any

import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn
from torch.func import functional_call

from ppl_vae.errors import InputError
from ppl_vae.objectives.base import ParticleObjective
from ppl_vae.objectives.particles import Particles
from ppl_vae.traces.anywhere import check_scored_anywhere
from ppl_vae.traces.pair import Pair, Program
from ppl_vae.traces.plates import Structure, latents, like_site, samples
from ppl_vae.traces.run import plate_of, run_against

DROPOUT = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)


class _ConstantParams(Messenger):
    """Makes constants of what `pyro.param` gives."""

    def _pyro_post_param(self, msg: Any) -> None:
        msg["value"] = msg["value"].detach()


class Frozen(nn.Module):
    """Runs something while the parameters of these modules, and all that `pyro.param` gives, are constants."""

    def __init__(self, modules: Iterable[nn.Module]) -> None:
        super().__init__()
        self.parts = nn.ModuleList(modules)

    def run(self, function: Callable[[], Any]) -> Any:
        """Return what `function()` returns."""
        constants = {  # each module's own, once, also where modules or parameters are shared
            f"{path}.{name}": parameter.detach()
            for path, part in self.named_modules()
            for name, parameter in part.named_parameters(recurse=False, remove_duplicate=False)
        }
        with warnings.catch_warnings(), _ConstantParams():
            # pyro.module says it of every parameter that is a constant
            warnings.filterwarnings("ignore", message=".*was not registered in the param store")
            return functional_call(self, constants, (function,), tie_weights=False)

    def forward(self, function: Callable[[], Any]) -> Any:
        """Call it; `functional_call` does so with other parameters."""
        return function()


def with_values(trace: poutine.Trace, change: Callable[[Tensor], Tensor]) -> poutine.Trace:
    """Return a trace to replay, in which the values of the latent sites are changed."""
    changed = trace.copy()
    nodes: dict[str, Any] = changed.nodes
    nodes |= {name: site | {"value": change(site["value"])} for name, site in latents(samples(trace)).items()}
    return changed


class IWAE(ParticleObjective):
    """The importance-weighted bound, which rises to log P(x) with K, for each datum on its own.

        L_K(x) = E[log (1/K) sum_k w_k],    w_k = P(x, z_k) / Q(z_k | x),    z_1 .. z_K ~ Q(z | x)

    Latents are reparameterized in the guide, or discrete and summed out by the model. Where data have missing values,
    P(x, z_k) scores the observed ones, and this is the bound MIWAE (arXiv 1812.02633).

    Args:
        num_particles: K; all K are in memory at once.

    Raises:
        InputError: K below 1; in use, a guide with latents that are not reparameterized, sites outside of the plate
            over the data, or of different scales.

    Source: Burda, Grosse & Salakhutdinov, arXiv 1509.00519.

    >>> import pyro
    >>> from ppl_vae.guides import MeanField
    >>> from ppl_vae.models import VAE
    >>> model, x = VAE((1, 8, 8)), torch.rand(40, 1, 8, 8).round()
    >>> loss = IWAE(num_particles=5)(model, MeanField(model))  # a PyTorch module, for any loop
    >>> optimizer = torch.optim.Adam(loss.parameters())
    >>> with pyro.settings.context(module_local_params=True):  # or else Pyro's global store lists the parameters, too
    ...     for _ in range(2):
    ...         optimizer.zero_grad()
    ...         loss(x).backward()
    ...         optimizer.step()
    """

    def __init__(self, num_particles: int = 5) -> None:
        super().__init__(num_particles)

    def bound(self, particles: Particles) -> Tensor:
        """Return log (1/K) sum_k w_k, [N]."""
        return particles.log_weights.logsumexp(0) - math.log(self.num_particles)


class PathObjective(ParticleObjective):
    """An objective whose gradient goes through the samples z(phi) of the guide, not through log Q(z; phi) itself."""

    _frozen: Frozen

    def look_at(self, model: Program, guide: Program, args: Any, kwargs: Any) -> Structure:
        """Run a pair, on the side, and find the guide's parameters; refuse one that has others, or dropout."""
        structure, pair = super().look_at(model, guide, args, kwargs), Pair(model, guide)
        parts = (part for module in Pair(guide).all_modules() for part in module.modules())
        if any(isinstance(part, DROPOUT) and part.p > 0 for part in parts):
            raise InputError(
                "Expected a guide that is the same when it is run again on the same z; got one with dropout. Leave it "
                "out of the guide, or use IWAE or Trace_ELBO."
            )
        self._frozen = Frozen(pair.all_modules())
        with pair.evaluating(), torch.enable_grad(), torch.random.fork_rng(), poutine.block():
            drawn = poutine.trace(guide).get_trace(*args, **kwargs)
            check_scored_anywhere(samples(drawn), f"for {type(self).__name__}", "Use IWAE or Trace_ELBO.")
            given = with_values(drawn, Tensor.detach)

            def again() -> poutine.Trace:
                trace = run_against(given, guide, args, kwargs)
                trace.compute_log_prob()
                return trace

            sites = samples(self._frozen.run(again))
        live = [name for name, site in sites.items() if site["log_prob"].requires_grad]
        if live:
            raise InputError(
                f"Expected a guide whose parameters are those of a module, or from pyro.param; got others for site "
                f"{', '.join(map(repr, live))}. Make the guide a torch.nn.Module that holds them."
            )
        return structure

    def damping(self, structure: Structure) -> "Damping | None":
        """Return what the gradient of each sample is multiplied by, where it is not 1."""
        return None

    def differentiable_particles(self, model: Program, guide: Program, args: Any, kwargs: Any) -> Particles:
        """Return the samples of a step; their log Q depends on z, and on phi through z alone."""
        structure = self.meet(model, guide, args, kwargs)
        damping = self.damping(structure)
        with plate_of(self.num_particles, structure):
            drawn = poutine.trace(guide).get_trace(*args, **kwargs)
            # The next site of the guide follows from the value drawn, not from the damped one: damped once.
            given = drawn if damping is None else with_values(drawn, damping.of)
            model_trace = run_against(given, model, args, kwargs, structure=structure)

            def again() -> Particles:
                guide_trace = run_against(given, guide, args, kwargs)
                particles = Particles(model_trace, guide_trace, structure, self.num_particles)
                _ = particles.log_q  # a flow reads its parameters only when its density is asked for
                return particles

            particles = self._frozen.run(again)
        if damping is not None:
            damping.weights = particles.log_weights.detach().softmax(0)
        return particles


class Damping:
    """Multiplies the gradient of sample k by its normalized weight, once that is known."""

    def __init__(self, structure: Structure) -> None:
        self.structure = structure
        self.weights = torch.zeros(0)

    def of(self, value: Tensor) -> Tensor:
        """Return the same value, with a gradient that will be multiplied."""
        if not value.requires_grad:
            return value
        same = value.view_as(value)
        same.register_hook(lambda gradient: gradient * like_site(self.weights, gradient.dim(), self.structure))
        return same


class DoublyReparameterized(IWAE, PathObjective):
    """The importance-weighted bound with doubly reparameterized gradients of the guide (DReG).

        dL_K/dphi   = E[sum_k u_k^2 (d log w_k / dz_k) (dz_k / dphi)],    u_k = w_k / sum_j w_j
        dL_K/dtheta = E[sum_k u_k d log P(x, z_k; theta) / dtheta]

    The same bound and mean gradients as `IWAE`. Where the guide covers the posterior, the gradient's signal-to-noise
    ratio rises with K instead of falling; a guide that is much too narrow may do better with `IWAE`. Costs a second run
    of the guide, on z: for an inverse autoregressive flow that is the slow direction.

    Args:
        num_particles: K.

    Raises:
        InputError: as `IWAE`; in use, a guide with dropout, or with parameters that are not a module's nor Pyro's.

    Source: Tucker, Lawson, Gu & Maddison, arXiv 1810.04152.

    >>> from ppl_vae import fit
    >>> from ppl_vae.guides import MeanField
    >>> from ppl_vae.models import VAE
    >>> model, x = VAE((1, 8, 8)), torch.rand(40, 1, 8, 8).round()
    >>> fitted = fit(model, MeanField(model), x, objective=DoublyReparameterized(num_particles=5), epochs=1)
    """

    def damping(self, structure: Structure) -> Damping:
        """Return what multiplies the gradient of sample k by u_k; the bound's own gradient has the other u_k."""
        return Damping(structure)


class StickingTheLanding(PathObjective):
    """The ELBO with the gradient along the path of the samples only, without the guide's score.

        dELBO/dphi = E_Q[(d/dz (log P(x, z) - log Q(z | x))) (dz / dphi)]

    Its mean is the ELBO's gradient; where Q(z | x) is the posterior, it is 0 for every sample, so it has no variance
    there. Runs the guide twice, as `DoublyReparameterized`.

    Args:
        num_particles: K, whose mean is taken.

    Raises:
        InputError: as `DoublyReparameterized`.

    Source: Roeder, Wu & Duvenaud, arXiv 1703.09194.

    >>> from ppl_vae import fit
    >>> from ppl_vae.guides import MeanField
    >>> from ppl_vae.models import VAE
    >>> model, x = VAE((1, 8, 8)), torch.rand(40, 1, 8, 8).round()
    >>> fitted = fit(model, MeanField(model), x, objective=StickingTheLanding(), epochs=1)
    """

    def __init__(self, num_particles: int = 1) -> None:
        super().__init__(num_particles)

    def bound(self, particles: Particles) -> Tensor:
        """Return the mean of log w_k, [N]."""
        return particles.log_weights.mean(0)
