"""Missing data: a value that is not known is NaN in x, and everything reads it as such.

    log P(x_obs | h) = sum over observed i of log p(x_i | h_i)

A likelihood leaves out what is missing, a guide reads zeros there (Mattei & Frellsen, arXiv 1812.02633). It is right
where what is missing says nothing about its own value beyond what is observed (missing at random).
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from pyro.distributions import Independent
from pyro.distributions.util import sum_rightmost
from torch import Tensor
from torch.distributions import biject_to, constraints, transform_to

from ppl_vae.errors import InputError
from ppl_vae.utils.arrays import tensor_of

INSIDE = (0.5, 0.0, 1.0)  # one of them is in any usual support; a half is not at the edge, where densities may be zero

_all_known: ContextVar[bool] = ContextVar("all_known", default=False)


@contextmanager
def all_known(known: bool = True) -> Iterator[None]:
    """Say that no value is missing in all that is run within, so that nobody has to look."""
    token = _all_known.set(known)
    try:
        yield
    finally:
        _all_known.reset(token)


def nothing_is_missing() -> bool:
    """Return whether it was said, by `all_known`, that the data have no missing values."""
    return _all_known.get()


def is_missing_in(x: Tensor) -> bool:
    """Return whether any value of x is missing; true where values cannot be looked at, as they are being recorded.

    >>> is_missing_in(torch.tensor([1.0, math.nan])), is_missing_in(torch.tensor([1, 2]))
    (True, False)
    """
    if not x.is_floating_point() or _all_known.get():
        return False
    try:
        return bool(x.isnan().any())
    except RuntimeError:  # make_fx and vmap have no values to look at
        return True


def filled(x: Tensor, value: float = 0.0) -> Tensor:
    """Return x with its missing values replaced by a number: what an encoder can read, and our guides are given.

    >>> filled(torch.tensor([1.0, math.nan]))
    tensor([1., 0.])
    """
    return torch.where(x.isnan(), value, x) if x.is_floating_point() else x


def filled_by_others(x: Tensor) -> Tensor:
    """Return x [N, ...] with its missing values replaced by the first of another datum, 1 if none has one there.

    It is what programs are tried with: a value of the data is inside the support of its site, and 0 may not be.

    >>> filled_by_others(torch.tensor([[1.0, math.nan], [math.nan, 5.0]]))
    tensor([[1., 5.],
            [1., 5.]])
    """
    if not x.is_floating_point() or not len(x):
        return x
    missing = x.isnan()
    first = (~missing).int().argmax(0, keepdim=True)
    return torch.where(missing, x.gather(0, first).nan_to_num(1.0), x)


def with_mask(x: Any, mask: Any) -> Tensor:
    """Return x [N, ...] with NaN, a missing value, where a mask of the same shape is 0 and not 1.

    Raises:
        InputError: a mask of another shape, or not of zeros and ones.

    >>> with_mask(torch.ones(2, 2), [[1, 0], [1, 1]])
    tensor([[1., nan],
            [1., 1.]])
    """
    values, seen = tensor_of(x), tensor_of(mask)
    if values.shape != seen.shape:
        raise InputError(
            f"Expected a mask in the shape of the data, {tuple(values.shape)}; got {tuple(seen.shape)}. Make one entry "
            f"for each value: 1 where it is observed, 0 where it is missing."
        )
    if not bool(((seen == 0) | (seen == 1)).all()):
        raise InputError("Expected a mask of zeros and ones; got other values. Mark what is observed with 1.")
    floats = values if values.is_floating_point() else values.to(torch.get_default_dtype())
    return torch.where(seen == 1, floats, math.nan)


def missing_as(x: Tensor, like: Tensor) -> Tensor:
    """Return x with those values missing that are missing in another tensor.

    >>> missing_as(torch.ones(2), torch.tensor([math.nan, 0.0]))
    tensor([nan, 1.])
    """
    return torch.where(like.isnan(), math.nan, x) if like.is_floating_point() and x.is_floating_point() else x


def refuse_missing(x: Tensor, purpose: str) -> None:
    """Refuse x with missing values where there is no way to do without them."""
    if is_missing_in(x):
        raise InputError(
            f"Expected complete data {purpose}; got {float(x.isnan().float().mean()):.1%} of the values missing (NaN). "
            f"Give complete data, or impute them first."
        )


class Observed(Independent):
    """A product of distributions over one number each, of which only those of observed numbers count.

    Just `base_dist.to_event(event_dim)`, but that a NaN in a value means missing: log P of the others is returned, 0 if
    there is none, and gradients are finite.

    Raises:
        InputError: a distribution over vectors, of which a part has no density here.

    >>> import pyro.distributions as dist
    >>> Observed(dist.Normal(torch.zeros(2), 1.0), 1).log_prob(torch.tensor([0.0, math.nan]))
    tensor(-0.9189)
    """

    def __init__(self, base_dist: Any, event_dim: int, validate_args: Any = None) -> None:
        if base_dist.event_shape:
            raise InputError(
                f"Expected a distribution over single numbers, so that some can be missing; got "
                f"{type(base_dist).__name__} over {tuple(base_dist.event_shape)}. Use it as it is, with complete data."
            )
        super().__init__(base_dist, event_dim, validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> "Observed":
        """Return the same with another batch shape."""
        inner = self.event_shape[: self.reinterpreted_batch_ndims]
        return Observed(self.base_dist.expand(torch.Size(batch_shape) + inner), self.reinterpreted_batch_ndims)

    def to_event(self, reinterpreted_batch_ndims: int | None = None) -> "Observed":
        """Return the same with so many more dimensions, by default all, in one event."""
        more = len(self.batch_shape) if reinterpreted_batch_ndims is None else reinterpreted_batch_ndims
        return Observed(self.base_dist, self.reinterpreted_batch_ndims + more)

    @property
    def support(self) -> Any:
        """The support of each number, or NaN."""
        return OrMissing(self.base_dist.support, self.reinterpreted_batch_ndims)  # type: ignore[no-untyped-call]

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log-probability of what is observed, in nats, [*batch_shape]."""
        if not is_missing_in(value):
            return sum_rightmost(self.base_dist.log_prob(value), self.reinterpreted_batch_ndims)
        missing = value.isnan()
        # What is left out is evaluated inside the support, else its gradient would be 0 times infinity.
        log_prob = self.base_dist.log_prob(torch.where(missing, _inside(self.base_dist.support, value), value))
        return sum_rightmost(torch.where(missing, 0.0, log_prob), self.reinterpreted_batch_ndims)


class OrMissing(constraints.independent):
    """The constraint that each number of an event is in a support, or missing."""

    def check(self, value: Tensor) -> Tensor:
        """Return whether each event is inside, [*batch_shape]."""
        inside = self.base_constraint.check(value)
        inside = inside | value.isnan() if value.is_floating_point() else inside
        count = min(self.reinterpreted_batch_ndims, inside.dim())
        return inside.flatten(inside.dim() - count).all(-1) if count else inside


def _as_independent(constraint: OrMissing) -> Any:
    return constraints.independent(constraint.base_constraint, constraint.reinterpreted_batch_ndims)


biject_to.register(OrMissing, lambda constraint: biject_to(_as_independent(constraint)))
transform_to.register(OrMissing, lambda constraint: transform_to(_as_independent(constraint)))


def _inside(support: Any, like: Tensor) -> Tensor | float:
    """Return a number well inside a support, or one for each column where each has a support of its own."""
    inside = getattr(support, "inside", None)
    return a_number_inside(support) if inside is None else like.new_tensor(inside)


def a_number_inside(support: Any) -> float:
    """Return a number well inside a support.

    >>> a_number_inside(constraints.positive), a_number_inside(constraints.integer_interval(1, 5))
    (0.5, 1.0)
    """
    for value in INSIDE:
        try:
            if bool(torch.as_tensor(support.check(torch.tensor(value))).all()):
                return value
        except RuntimeError:  # bounds that are being recorded cannot be looked at
            break
    return 0.0
