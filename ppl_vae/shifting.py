"""A guide whose distributions are shifted, datum by datum, in the unconstrained values of their parameters.

Any guide will do: at each site the base distribution is found under its wrappers, its parameters are unconstrained,
shifted and constrained again, and the distribution is built anew from them.
"""

import inspect
from collections.abc import Callable
from typing import Any

import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.distributions.torch_distribution import ExpandedDistribution, MaskedDistribution
from pyro.poutine.messenger import Messenger
from torch import Tensor
from torch.distributions import Independent as TorchIndependent
from torch.distributions import TransformedDistribution as TorchTransformed
from torch.distributions import constraints, transform_to

from ppl_vae.errors import InputError, reason
from ppl_vae.structure import samples

# Subclasses of transformed distributions, such as LogNormal, have parameters of their own: they are a base.
TRANSFORMED = (TorchTransformed, dist.TransformedDistribution)
WRAPPERS = (ExpandedDistribution, MaskedDistribution, TorchIndependent)

Shifts = dict[str, dict[str, Tensor]]  # site -> parameter -> shift of its unconstrained value


class Shifted(Messenger):
    """Add shifts to the unconstrained parameters of a guide's sites: with shifts of zero it changes nothing.

        lambda_s = T(T^-1(lambda_s(x, z_<s)) + shift_s),    T: the real numbers -> where the parameter may lie

    A site whose distribution does not depend on other latents reaches every member of its family. In an
    autoregressive or hierarchical guide the parameters stay functions of the latents before, with a residual
    for each datum: semi-amortized. The same holds inside a site that is a transformed distribution (a flow):
    its base distribution is shifted, its transforms stay. Sites that only carry a value which was drawn
    elsewhere (the Delta sites of Pyro's automatic guides) stay.

    A shift has the shape of its parameter in one run of the guide, with the plate over the data, and
    broadcasts under one more plate to the left. It belongs to the data it was made for, in their order.

    With `sticking=True` samples are drawn with the shifts, and scored with a copy that has no gradient, which
    leaves only the path through the samples (Roeder et al., arXiv 1703.09194): that gradient has no noise
    where Q is the posterior.

    Args:
        shifts: for each site and parameter, as `zeros` makes them.
        sticking: score the samples with stopped parameters.
    """

    def __init__(self, shifts: Shifts, *, sticking: bool = False) -> None:
        super().__init__()
        self.shifts, self.sticking = shifts, sticking

    def _pyro_sample(self, msg: Any) -> None:
        if msg["name"] not in self.shifts:
            return
        shifts, fn = self.shifts[msg["name"]], msg["fn"]
        live = shifted(fn, shifts)
        msg["fn"] = _Sticking(live, shifted(fn, {k: v.detach() for k, v in shifts.items()})) if self.sticking else live


class _Sticking(dist.TorchDistribution):
    """A distribution that is sampled as one and scored as another of the same kind and shape."""

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012
    has_rsample = True

    def __init__(self, drawn: Any, scored: Any) -> None:
        self.drawn, self.scored = drawn, scored
        super().__init__(drawn.batch_shape, drawn.event_shape, validate_args=False)

    @property
    def support(self) -> Any:
        return self.drawn.support

    def expand(self, batch_shape: Any, _instance: Any = None) -> "_Sticking":
        return _Sticking(self.drawn.expand(batch_shape), self.scored.expand(batch_shape))

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        return self.drawn.rsample(sample_shape)

    def log_prob(self, value: Tensor) -> Tensor:
        return self.scored.log_prob(value)


def shifted(fn: Any, shifts: dict[str, Tensor]) -> Any:
    """Return a distribution like `fn`, with shifts added to the unconstrained parameters of its base.

    >>> fn = dist.Normal(torch.zeros(3), 2.0).to_event(1)
    >>> moved = shifted(fn, {"loc": torch.ones(3), "scale": torch.zeros(3)})
    >>> moved.mean.tolist(), moved.stddev.tolist(), moved.event_shape
    ([1.0, 1.0, 1.0], [2.0, 2.0, 2.0], torch.Size([3]))
    """

    def moved(base: Any, batch_shape: torch.Size) -> Any:
        parameters = {}
        for name, value in _parameters(base, batch_shape).items():
            transform = transform_to(base.arg_constraints[name])
            parameters[name] = transform(transform.inv(value) + shifts[name])
        return type(base)(**parameters, validate_args=False)

    return _rebuilt(fn, moved, fn.batch_shape)


def zeros(guide_trace: poutine.Trace) -> Shifts:
    """Return shifts of zero for every site of a guide, leaf tensors that ask for gradients.

    Raises:
        InputError: sites that are discrete or cannot be drawn by reparameterization, families whose
            parameters are not known, or no density at all.
    """
    sites = {n: s for n, s in samples(guide_trace).items() if not isinstance(_base(s["fn"]), dist.Delta)}
    if not sites:
        raise InputError(
            "Expected a guide with a density; got one that samples no site, or points (Delta) only. "
            "Use a guide with some width, such as mean_field."
        )
    rigid = sorted(n for n, s in sites.items() if not s["fn"].has_rsample or _has_moving_support(s["fn"]))
    if rigid:
        named = ", ".join(f"{n!r} ({type(_base(sites[n]['fn'])).__name__})" for n in rigid)
        raise InputError(
            f"Expected a guide whose sites can all be drawn by reparameterization, on a support that does not depend "
            f"on their parameters, so that Q can be refined by gradients; got {named}. Use families such as Normal or "
            f"Beta there, or the guide as it is."
        )
    return {name: _zeros(name, site["fn"]) for name, site in sites.items()}


def _rebuilt(fn: Any, change: Callable[[Any, torch.Size], Any], batch_shape: torch.Size) -> Any:
    """Return `fn` with its base distribution changed, in the same wrappers; expanded ones become full."""
    if isinstance(fn, ExpandedDistribution):
        return _rebuilt(fn.base_dist, change, batch_shape)
    if isinstance(fn, MaskedDistribution):
        return MaskedDistribution(_rebuilt(fn.base_dist, change, batch_shape), fn._mask)
    if isinstance(fn, TorchIndependent):
        count, inner = fn.reinterpreted_batch_ndims, fn.base_dist.batch_shape
        return dist.Independent(_rebuilt(fn.base_dist, change, batch_shape + inner[len(inner) - count :]), count)
    if type(fn) in TRANSFORMED:
        return dist.TransformedDistribution(_rebuilt(fn.base_dist, change, batch_shape), fn.transforms)
    return change(fn, batch_shape)


def _base(fn: Any) -> Any:
    while isinstance(fn, WRAPPERS) or type(fn) in TRANSFORMED:
        fn = fn.base_dist
    return fn


def _has_moving_support(fn: Any) -> bool:
    """Return whether the support of a family depends on its parameters, as that of a uniform distribution does."""
    base = type(_base(fn))
    return any(constraints.is_dependent(c) for c in (getattr(base, "support", None),) if c is not None)


def _parameters(base: Any, batch_shape: torch.Size) -> dict[str, Tensor]:
    """Return what a distribution is made from, one of each for every place in the batch."""
    names = set(base.arg_constraints) & set(inspect.signature(type(base)).parameters)
    # Where there are several ways to say the same thing, one: the one that is cheapest to unconstrain.
    for chosen, others in (("logits", {"probs"}), ("scale_tril", {"covariance_matrix", "precision_matrix"})):
        names -= others if chosen in names else set()
    found = {}
    for name in sorted(names):
        value, event_dim = getattr(base, name), base.arg_constraints[name].event_dim
        found[name] = value.expand(batch_shape + value.shape[value.dim() - event_dim :])
    return found


def _zeros(name: str, fn: Any) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}

    def gather(base: Any, batch_shape: torch.Size) -> Any:
        for parameter, value in _parameters(base, batch_shape).items():
            free = transform_to(base.arg_constraints[parameter]).inv(value)
            found[parameter] = torch.zeros_like(free, memory_format=torch.contiguous_format).requires_grad_()
        return base

    try:
        _rebuilt(fn, gather, fn.batch_shape)
        shifted(fn, found)
        known = bool(found)
        why = "none that are known"
    except (NotImplementedError, TypeError, ValueError, RuntimeError, AttributeError) as problem:
        known, why = False, reason(problem)
    if not known:
        raise InputError(
            f"Expected site {name!r} of the guide to have a family that can be made from its parameters; got "
            f"{type(_base(fn)).__name__} ({why}). Use a family of pyro.distributions, or the guide as it is."
        )
    return found
