"""Where the values of a distribution lie: what it says of itself, corrected where that is known to be wrong.

A density that is set against another one has to live on the same space. Some families of PyTorch and Pyro call a
circle the real line: their density is periodic, and a guide on the real line would count each turn anew.
"""

import math
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import Independent, VonMises, constraints

from ppl_vae.distributions.unwrap import WRAPPERS, elementwise_support, family_of
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
        return support_of(fn.component_distribution)
    try:
        support = fn.support
    except (NotImplementedError, AttributeError):  # log_prob and sample are all that Pyro's SVI asks for
        return None
    return support if isinstance(support, constraints.Constraint) else None


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
