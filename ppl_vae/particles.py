"""The log-weights of a pair with gradients, for objectives: K samples for each datum in one run.

    log w_k = log P(x, z_k) - log Q(z_k | x),    z_k ~ Q(z | x) reparameterized,    [K, N]

What is common to all sites of a datum (the size of a plate over its subset, a `poutine.scale` around both
programs) is kept apart, as it multiplies the objective of a datum; what subsampled plates inside of the plate over
the data scale belongs into the weight.
"""

import functools
import math
from collections import defaultdict
from collections.abc import Iterable
from typing import Any, NamedTuple

import pyro
import torch
from pyro import poutine
from pyro.infer import ELBO
from torch import Tensor

from ppl_vae.errors import InputError, positive_int
from ppl_vae.pair import Pair, Program
from ppl_vae.structure import Structure, enumerates, log_prob_by_datum, samples, structure_of
from ppl_vae.trace import enumerating

Site = dict[str, Any]
Traces = tuple[poutine.Trace, poutine.Trace]


class Terms(NamedTuple):
    """What objectives are made of.

    Attributes:
        log_likelihood: log P(x | z_k), [K, N], in nats, as all log-probabilities here.
        log_prior: log P(z_k), [K, N].
        log_q: log Q(z_k | x), [K, N].
        scale: what a datum counts, a number or [N].
    """

    log_likelihood: Tensor
    log_prior: Tensor
    log_q: Tensor
    scale: Any

    @property
    def log_weights(self) -> Tensor:
        """log P(x, z_k) - log Q(z_k | x), [K, N]."""
        return self.log_likelihood + self.log_prior - self.log_q


class ParticleObjective(ELBO):
    """An objective of K reparameterized samples of z for each datum, drawn at once.

    Subclasses implement `bound(terms)`, the lower bound of log P(x) per datum, [N], and, where something else is
    optimized, `optimized`.

    Args:
        num_particles: K.
        options: what else the objective depends on, for its name.
    """

    def __init__(self, num_particles: int, **options: Any) -> None:
        positive_int("num_particles", num_particles)
        super().__init__(num_particles)  # type: ignore[no-untyped-call]
        # A run is resumed with the same objective only: fit compares names.
        listed = ", ".join(f"{name}={value:g}" for name, value in options.items())
        self.__name__ = f"{type(self).__name__}({listed})" if listed else type(self).__name__
        self._known: tuple[Program, Program, int, Structure] | None = None

    def bound(self, terms: Terms) -> Tensor:
        """Return a lower bound of log P(x) for each datum, [N], in nats."""
        raise TypeError(f"{type(self).__name__} has to define bound(terms).")

    def loss(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> float:
        """Return the negative bound, in nats, summed over the data."""
        with torch.no_grad():
            traces = self._get_trace(model, guide, args, kwargs)
            terms = terms_of(traces, self.structure(model, guide, args, kwargs))
            return float(-(terms.scale * self.bound(terms)).sum())

    def loss_and_grads(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> float:
        """Return the negative bound, in nats, summed over the data, and leave the gradients with the parameters."""
        loss = self.differentiable_loss(model, guide, *args, **kwargs)
        if loss.requires_grad:
            loss.backward()
        return float(loss.detach())

    def differentiable_loss(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> Tensor:
        """Return the loss to minimize, in nats, summed over the data, a scalar."""
        traces = self._get_trace(model, guide, args, kwargs)
        terms = terms_of(traces, self.structure(model, guide, args, kwargs))
        return -(terms.scale * self.bound(terms)).sum()

    def _get_trace(self, model: Program, guide: Program, args: Any, kwargs: Any) -> Traces:
        """Run the guide and the model against it, K times at once; return the traces of (model, guide)."""
        structure = self.structure(model, guide, args, kwargs)
        with particles(self.num_particles, structure):
            guide_trace = poutine.trace(guide).get_trace(*args, **kwargs)
            return run_model(model, guide_trace, structure, args, kwargs), guide_trace

    def structure(self, model: Program, guide: Program, args: Any, kwargs: Any) -> Structure:
        """Return what a run shows of a pair: found, and checked, when the pair is first met.

        Raises:
            InputError: a pair that this objective is not for.
        """
        known = self._known
        if known is None or known[:2] != (model, guide) or known[2] != len(args):
            known = self._known = (model, guide, len(args), look_at(model, guide, args, kwargs))
        return known[3]


def particles(num_particles: int, structure: Structure) -> Any:
    """Return the plate of the samples, to the left of all plates of a pair."""
    return pyro.plate("particles", num_particles, dim=-structure.num_plates - 1)


def run_model(
    model: Program, guide_trace: poutine.Trace, structure: Structure, args: Any, kwargs: Any
) -> poutine.Trace:
    """Run the model on the guide's values; return its trace."""
    model = enumerating(model, structure) if structure.enumerated else model
    return poutine.trace(poutine.replay(model, trace=guide_trace)).get_trace(*args, **kwargs)


def terms_of(traces: Traces, structure: Structure) -> Terms:
    """Return log P(x | z_k), log P(z_k) and log Q(z_k | x) of a run, each [K, N], with gradients."""
    model_trace, guide_trace = traces
    sites, guided = samples(model_trace), samples(guide_trace)
    every = [*sites.values(), *guided.values()]
    size = next(f.size for site in every for f in site["cond_indep_stack"] if f.dim == structure.dim)
    count = max((f.size for f in _frames(every) if f.name == "particles"), default=1)
    total = log_prob(model_trace, sites, structure, size)
    latents = [name for name, site in sites.items() if not site["is_observed"]]
    prior = log_prob(model_trace, latents, structure, size)
    log_q = log_prob(guide_trace, guided, structure, size)
    scale = outer_scale(every[0], structure)
    scale = scale.flatten() if isinstance(scale, Tensor) else scale
    return Terms(*(term.expand(count, size) for term in (total - prior, prior, log_q)), scale)


def log_prob(trace: poutine.Trace, names: Iterable[str], structure: Structure, size: int) -> Tensor:
    """Return the log-probability of sites per datum, [K or 1, N]; subsampled plates of each datum count in full."""
    sites = samples(trace)
    alike: dict[float, list[str]] = defaultdict(list)
    for name in names:
        alike[inner_scale(sites[name], structure)].append(name)
    terms = [scale * log_prob_by_datum(trace, some, structure, size) for scale, some in alike.items()]
    return functools.reduce(torch.add, terms) if terms else log_prob_by_datum(trace, [], structure, size)


def inner_scale(site: Site, structure: Structure) -> float:
    """Return what the plates of a site but the one over the data scale it by."""
    frames = [f for f in site["cond_indep_stack"] if not (f.vectorized and f.dim == structure.dim)]
    return math.prod((f.full_size or f.size) / f.size for f in frames)


def outer_scale(site: Site, structure: Structure) -> Any:
    """Return the rest of a site's scale: of the plate over the data, and of handlers."""
    inner = inner_scale(site, structure)
    return site["scale"] if inner == 1 else site["scale"] / inner


def _frames(sites: Iterable[Site]) -> list[Any]:
    return [f for site in sites for f in site["cond_indep_stack"] if f.vectorized]


def look_at(model: Program, guide: Program, args: Any, kwargs: Any) -> Structure:
    """Run a pair once, on the side, and return what that shows.

    Raises:
        InputError: sites outside of the plate over the data, latents that the guide does not sample, or not
            reparameterized, or scales that differ between sites.
    """
    with Pair(model, guide).evaluating(), torch.enable_grad(), torch.random.fork_rng(), poutine.block():
        guide_trace = poutine.trace(guide).get_trace(*args, **kwargs)
        model_trace = poutine.trace(poutine.replay(model, trace=guide_trace)).get_trace(*args, **kwargs)
    structure = structure_of((model_trace, guide_trace), len(args[0]) if args else 0)
    sites, guided = samples(model_trace), samples(guide_trace)
    left_out = [name for name, site in sites.items() if not site["is_observed"] and name not in guided]
    if left_out and not structure.enumerated:
        raise InputError(
            f"Expected a guide that samples {', '.join(map(repr, left_out))}; got none. Sample it in the guide, or, if "
            f"it is discrete, mark it in the model with infer={{'enumerate': 'parallel'}}."
        )
    for name, site in guided.items():
        if not site["fn"].has_rsample and _has_gradient(site):
            raise InputError(
                f"Expected latents that are reparameterized; got site {name!r} with {type(site['fn']).__name__} in the "
                f"guide. Use a distribution with rsample, leave a discrete site to be enumerated, or use Trace_ELBO."
            )
    every = sites | {f"{name} of the guide": site for name, site in guided.items()}
    scales = {name: torch.as_tensor(outer_scale(site, structure)) for name, site in every.items()}
    first = next(iter(scales.values()))
    unlike = [
        name for name, scale in scales.items() if not _same(scale, first) or scale.numel() not in (1, structure.size)
    ]
    if unlike:
        raise InputError(
            f"Expected one scale for all sites of a datum; got another one for {', '.join(unlike)}. Put "
            f"poutine.scale around both whole programs."
        )
    if any(inner_scale(site, structure) != 1 for site in every.values()) and structure.enumerated:
        raise InputError(
            "Expected no subsampled plate inside the one over the data together with sites that are enumerated; got "
            "both. Let the inner plate take all."
        )
    return structure


def _has_gradient(site: Site) -> bool:
    return bool(site["fn"].log_prob(site["value"]).requires_grad)


def _same(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and bool(torch.allclose(a, b))
