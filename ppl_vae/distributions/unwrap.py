"""What stands inside a distribution or a support, and what is said of it in words.

`expand`, `mask` and `to_event` change shapes or what is scored, transforms and zero inflation make another
distribution. What one asks decides how far to look; nobody else has to know the wrappers.
"""

from collections.abc import Callable
from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import ExpandedDistribution, MaskedDistribution
from torch.distributions import Independent, TransformedDistribution, constraints

from ppl_vae.missing import Observed

WRAPPERS = (ExpandedDistribution, MaskedDistribution, Independent)
# Subclasses of transformed distributions, such as LogNormal, have parameters and a name of their own.
TRANSFORMED = (TransformedDistribution, dist.TransformedDistribution)
WORDS = {
    constraints.boolean: "{0, 1}",
    constraints.nonnegative_integer: "whole numbers from 0 on",
    constraints.unit_interval: "[0, 1]",
}

BOUNDED: tuple[tuple[Any, str], ...] = (
    (constraints.integer_interval, "whole numbers from {low} to {high}"),
    (constraints.multinomial, "whole numbers from 0 on, {high} in all at most"),
    (constraints.half_open_interval, "[{low}, {high})"),
    (constraints.interval, "[{low}, {high}]"),
    (constraints.greater_than, "numbers above {low}"),
    (constraints.greater_than_eq, "numbers from {low} on"),
)


def _under(fn: Any, wrappers: tuple[Any, ...]) -> Any:
    while isinstance(fn, wrappers):
        fn = fn.base_dist
    return fn


def base_of(fn: Any) -> Any:
    """Return what stands under everything, transforms and zero inflation too: what is drawn in the first place."""
    while hasattr(fn, "base_dist"):
        fn = fn.base_dist
    return fn


def family_of(fn: Any) -> Any:
    """Return what stands under `expand`, `mask` and `to_event`: it has the name and the support of each number of x."""
    return _under(fn, WRAPPERS)


def elementwise(fn: Any) -> Any:
    """Return a distribution of independent numbers as one for each of them, expanded and masked as it is."""
    return _under(fn, (Independent,))


def elementwise_support(support: Any) -> Any:
    """Return the support of each number of x, of a support of all of x."""
    while isinstance(support, constraints.independent):
        support = support.base_constraint
    return support


def is_real(fn: Any) -> bool:
    """Return whether a distribution is over all real numbers; a mixture is where its components are."""
    try:
        support = fn.support
    except NotImplementedError:  # a person's own distribution need not say: then it is taken for real numbers
        return True
    while hasattr(support, "base_constraint"):
        support = support.base_constraint
    return support in (constraints.real, constraints.real_vector)


def parameters_of(fn: Any) -> Any:
    """Return what stands under wrappers and transforms, but for families made by one: it has the parameters."""
    while isinstance(fn, WRAPPERS) or type(fn) in TRANSFORMED:
        fn = fn.base_dist
    return fn


def rebuilt(fn: Any, change: Callable[[Any, torch.Size], Any], batch_shape: torch.Size) -> Any:
    """Return `fn` with `change(parameters_of(fn), batch_shape)` in the same wrappers; expanded ones become full."""
    if isinstance(fn, ExpandedDistribution):
        return rebuilt(fn.base_dist, change, batch_shape)
    if isinstance(fn, MaskedDistribution):
        return MaskedDistribution(rebuilt(fn.base_dist, change, batch_shape), fn._mask)
    if isinstance(fn, Independent):
        count, inner = fn.reinterpreted_batch_ndims, fn.base_dist.batch_shape
        return dist.Independent(rebuilt(fn.base_dist, change, batch_shape + inner[len(inner) - count :]), count)
    if type(fn) in TRANSFORMED:
        return dist.TransformedDistribution(rebuilt(fn.base_dist, change, batch_shape), fn.transforms)
    return change(fn, batch_shape)


def mean_of(fn: Any) -> torch.Tensor:
    """Return the mean of a distribution; NaN where it has none, or does not say.

    >>> mean_of(dist.VonMises3D(torch.tensor([0.0, 0.0, 1.0])))
    tensor([nan])
    """
    try:
        return torch.as_tensor(fn.mean)
    except (NotImplementedError, AttributeError):  # by the one PyTorch says that there is none, by the other a person
        return torch.full((1,), torch.nan)


def is_improper(fn: Any) -> bool:
    """Say whether a distribution is flat: it has no density, and nothing can be drawn from it."""
    return isinstance(base_of(fn), dist.ImproperUniform)


def scores_any_value(fn: Any, value: torch.Tensor) -> bool:
    """Return whether a distribution has a density at values that it did not draw itself, such as these.

    Planar, radial and Sylvester flows have no inverse: they know the density of what they drew last, and no other.

    >>> from pyro.distributions.transforms import planar
    >>> flow = dist.TransformedDistribution(dist.Normal(torch.zeros(2), 1.0).to_event(1), [planar(2)])
    >>> scores_any_value(flow, flow.sample()), scores_any_value(flow.base_dist, torch.zeros(2))
    (False, True)
    """
    try:
        fn.log_prob(value.clone())  # another tensor, which no cache knows
    except (KeyError, NotImplementedError):  # Pyro finds no inverse kept for it, or has none at all
        return False
    return True


def can_miss(fn: Any) -> bool:
    """Return whether a distribution, perhaps expanded or masked, scores data of which some values are missing."""
    while not isinstance(fn, Observed) and isinstance(fn, WRAPPERS):  # Observed is an Independent
        fn = fn.base_dist
    return isinstance(fn, Observed)


def in_words(support: Any) -> str:
    """Return what values are inside, in words.

    >>> from ppl_vae.distributions.pixels import Levels
    >>> in_words(constraints.integer_interval(0, 16)), in_words(constraints.unit_interval), in_words(Levels(17))
    ('whole numbers from 0 to 16', '[0, 1]', '{0, 1/16, ..., 1}')
    """
    support = elementwise_support(support)
    known = next((words for known, words in WORDS.items() if support is known), None)
    if known is not None:
        return known
    low, high = (_bound_in_words(getattr(support, name, None)) for name in ("lower_bound", "upper_bound"))
    return next((form.format(low=low, high=high) for kind, form in BOUNDED if isinstance(support, kind)), str(support))


def _bound_in_words(bound: Any) -> str:
    """Return a bound as a number, or the least and the largest of those that data have."""
    if bound is None:
        return ""
    numbers = torch.as_tensor(bound, dtype=torch.double)
    low, high = f"{float(numbers.min()):g}", f"{float(numbers.max()):g}"
    return low if low == high else f"{low}...{high} (of each datum its own)"
