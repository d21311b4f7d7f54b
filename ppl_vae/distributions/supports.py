"""Where the values of a distribution lie: what it says of itself, corrected where that is known to be wrong.

A density that is set against another one has to live on the same space. Some families of PyTorch and Pyro call a
circle the real line: their density is periodic, and a guide on the real line would count each turn anew.
"""

import math
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import ComposeTransform, Independent, VonMises, biject_to, constraints

from ppl_vae.distributions.unwrap import TRANSFORMED, WRAPPERS, elementwise_support, family_of
from ppl_vae.missing import Observed

CIRCLE = constraints.interval(-math.pi, math.pi)
# Families whose `support` is wrong, and the right one, event included.
CORRECTED: dict[Any, Any] = {
    VonMises: CIRCLE,
    dist.SineBivariateVonMises: constraints.independent(CIRCLE, 1),
    dist.SineSkewed: constraints.independent(CIRCLE, 1),
}


def support_of(fn: Any) -> Any | None:
    """Return where the values of a distribution lie, a PyTorch constraint; None if it does not say.

    >>> support_of(dist.VonMises(0.0, 1.0)), support_of(dist.Normal(0.0, 1.0))
    (Interval(lower_bound=-3.141592653589793, upper_bound=3.141592653589793), Real())
    """
    if isinstance(fn, WRAPPERS) and not isinstance(fn, Observed):
        support = support_of(fn.base_dist)
        count = fn.reinterpreted_batch_ndims if isinstance(fn, Independent) else 0
        return constraints.independent(support, count) if support is not None and count else support
    if is_corrected(fn):
        return next(support for family, support in CORRECTED.items() if isinstance(fn, family))
    if hasattr(fn, "component_distribution"):  # a mixture lies where its components do
        return _of_all_components(support_of(fn.component_distribution), fn.event_dim)
    try:
        support = (_of_transformed(fn) if type(fn) in TRANSFORMED else None) or fn.support
    except (NotImplementedError, AttributeError):  # log_prob and sample are all that Pyro's SVI asks for
        return None
    return support if isinstance(support, constraints.Constraint) else None


def to_support(fn: Any) -> Any | None:
    """Return the transform from unconstrained space to where a distribution lies: all real numbers if it says nothing.

    None for a support to which PyTorch has no transform, such as a sphere.

    >>> to_support(dist.Exponential(1.0))(torch.zeros(()))
    tensor(1.)
    """
    support = support_of(fn)
    try:
        return biject_to(constraints.real if support is None else support)
    except NotImplementedError:  # how PyTorch says that it has none
        return None


def _of_transformed(fn: Any) -> Any | None:
    """Return where transforms take the support of a base that is smaller than its domain, of single numbers; or None.

    PyTorch says of a transformed distribution that it lies on all of the last transform's codomain.
    """
    support, narrower = support_of(fn.base_dist), False
    for transform in ComposeTransform(list(fn.transforms)).parts:
        if support is None or transform.domain.event_dim or transform.codomain.event_dim:
            return None
        whole = holds_support(support, transform.domain)
        support = transform.codomain if whole else _image(support, transform)
        narrower = narrower or not whole
    return constraints.independent(support, fn.event_dim) if narrower and support is not None else None


def _image(support: Any, transform: Any) -> Any | None:
    """Return where a monotone transform takes an interval, perhaps without an end; None of what is no interval."""
    bounds = bounds_of(support)
    if bounds is None or support.is_discrete or not transform.bijective:
        return None
    ends = torch.broadcast_tensors(*(transform(torch.as_tensor(bound)) for bound in bounds))
    return _interval(torch.minimum(*ends), torch.maximum(*ends))


def _of_all_components(support: Any, event_dim: int) -> Any | None:
    """Return the interval that holds those of all components of a mixture, which have a dimension of their own."""
    bounds = None if support is None or support.is_discrete else bounds_of(support)
    ends = [torch.as_tensor(bound) for bound in bounds or ()]
    if all(end.dim() <= event_dim for end in ends):
        return support
    low, high = torch.broadcast_tensors(*ends)
    return constraints.independent(_interval(low.amin(-1 - event_dim), high.amax(-1 - event_dim)), event_dim)


def bounds_of(support: Any) -> tuple[Any, Any] | None:
    """Return the ends of an interval, infinite where it has none; None of what is no interval."""
    support = elementwise_support(support)
    if support is constraints.real:
        return -math.inf, math.inf
    ends = [getattr(support, name, None) for name in ("lower_bound", "upper_bound")]
    if ends == [None, None]:
        return None
    low, high = ends
    return -math.inf if low is None else low, math.inf if high is None else high


def _interval(low: Tensor, high: Tensor) -> Any | None:
    """Return the interval with these ends, each finite or infinite as a whole."""
    open_ends = (low.isinf().all(), high.isinf().all())
    if any(bool(end.isinf().any() != whole) for end, whole in zip((low, high), open_ends, strict=True)):
        return None
    if all(open_ends):
        return constraints.real
    if open_ends[1]:
        return constraints.greater_than_eq(low)
    return constraints.less_than(high) if open_ends[0] else constraints.interval(low, high)


def is_corrected(fn: Any) -> bool:
    """Return whether a distribution, perhaps in wrappers, is of a family whose own support is wrong."""
    return isinstance(family_of(fn), tuple(CORRECTED))


def is_discrete(fn: Any) -> bool:
    """Return whether a distribution is over discrete values, so that it has a probability and no density."""
    support = support_of(fn)
    return bool(getattr(fn, "has_enumerate_support", False)) if support is None else bool(support.is_discrete)


def holds_support(a: Any, b: Any) -> bool:
    """Return whether one support is known to hold all of another: the real line, or the same with the same bounds."""
    if a is None or b is None or a in (constraints.real, constraints.real_vector):
        return True
    a, b = elementwise_support(a), elementwise_support(b)
    if a is constraints.real or a is b:
        return True
    try:
        return type(a) is type(b) and bool(vars(a)) and all(_equal(vars(a)[key], vars(b)[key]) for key in vars(a))
    except KeyError:
        return False


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor) or isinstance(b, Tensor):
        return bool((torch.as_tensor(a) == torch.as_tensor(b)).all())
    return bool(a == b)
