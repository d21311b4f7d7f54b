"""Masks inside distributions: where they stand, and the same ones on another distribution."""

from typing import Any

import pyro.distributions as dist
from pyro.distributions.torch_distribution import ExpandedDistribution, MaskedDistribution
from torch import Tensor
from torch.distributions import Independent

from ppl_vae.distributions.unwrap import WRAPPERS, family_of
from ppl_vae.errors import InputError

Masks = list[tuple[int, Any]]


def masks_in(fn: Any) -> Masks:
    """Return the masks of a distribution, each with the number of its rightmost dimensions that are event dimensions.

    >>> import torch
    >>> seen = torch.tensor([True, False])
    >>> [(count, mask.tolist()) for count, mask in masks_in(dist.Normal(torch.zeros(2), 1.0).mask(seen).to_event(1))]
    [(1, [True, False])]
    """
    found: Masks = []
    count = 0
    while isinstance(fn, WRAPPERS):
        if isinstance(fn, Independent):
            count += fn.reinterpreted_batch_ndims
        elif isinstance(fn, MaskedDistribution):
            found.append((count, fn._mask))
        fn = fn.base_dist
    return found


def unmasked(fn: Any) -> Any:
    """Return a distribution without its masks."""
    if not isinstance(fn, WRAPPERS) or not masks_in(fn):
        return fn
    inner = unmasked(fn.base_dist)
    if isinstance(fn, MaskedDistribution):
        return inner
    if isinstance(fn, Independent):
        return dist.Independent(inner, fn.reinterpreted_batch_ndims)
    return ExpandedDistribution(inner, fn.batch_shape)


def with_masks(fn: Any, masks: Masks) -> Any:
    """Return a distribution with these masks (`masks_in`) instead of its own.

    Raises:
        InputError: a mask over parts of an event whose density does not split into theirs.
    """
    fn = unmasked(fn)
    for count, mask in masks:
        fn = _with_mask(fn, count, mask)
    return fn


def _with_mask(fn: Any, count: int, mask: Any) -> Any:
    base, peeled = fn, 0
    while peeled < count and isinstance(base, Independent):
        peeled += base.reinterpreted_batch_ndims
        base = base.base_dist
    if peeled >= count:
        inner = dist.Independent(base, peeled - count) if peeled > count else base
        return dist.Independent(inner.mask(mask), count) if count else fn.mask(mask)
    inner_shape = mask.shape[max(0, mask.dim() - count) :] if isinstance(mask, Tensor) else ()
    if all(size == 1 for size in inner_shape):  # one for the whole event
        return fn.mask(mask.reshape(mask.shape[: mask.dim() - len(inner_shape)]) if isinstance(mask, Tensor) else mask)
    raise InputError(
        f"Expected a guide of independent numbers where the model masks some of them; got "
        f"{type(family_of(fn)).__name__}. Use .to_event of a family for each number, or mask whole events."
    )
