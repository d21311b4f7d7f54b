"""The divergence of one latent site, KL[Q(z_s | x, z_<s) || P(z_s | z_<s)], as a whole or number by number."""

from typing import Any

import torch
from pyro.distributions.util import scale_and_mask
from torch import Tensor
from torch.distributions import kl_divergence

from ppl_vae.distributions.unwrap import elementwise
from ppl_vae.traces.plates import Structure, latents, numbers_by_datum
from ppl_vae.traces.sites import Site


def in_order(model: dict[str, Site], guide: dict[str, Site]) -> bool:
    """Return whether the guide samples the model's latents in the model's order.

    If not, what P(z_s | others) depends on may depend on z_s, and its divergence from Q(z_s | others), as PyTorch knows
    it for fixed others, has not the mean of log Q - log P.
    """
    order = [name for name in latents(model) if name in guide]
    return [name for name in guide if name in order] == order


def kl_of(q: Site, p: Site, *, exact: bool, fns: tuple[Any, Any] | None = None) -> Tensor:
    """Return the divergence of a site given the sites before, laid out as Pyro does, in nats, without scales.

    `exact` takes it from PyTorch where it is known (only if `in_order`); else it is log Q - log P of the guide's
    samples, which are the value of both sites. Where a mask leaves out one side only, the other is scored alone.
    `fns` are their distributions as they are, or `elementwise`.
    """
    one, other = fns or (q["fn"], p["fn"])
    event_dim = q["fn"].event_dim - one.event_dim
    masks = [m[(..., *[None] * event_dim)] if isinstance(m := site["mask"], Tensor) else m for site in (q, p)]
    known = _known(one, other) if exact else None
    if known is not None and q["mask"] is p["mask"]:
        return scale_and_mask(known, mask=masks[0])
    log_q, log_p = (scale_and_mask(fn.log_prob(q["value"]), mask=m) for fn, m in zip((one, other), masks, strict=True))
    if known is None:
        return log_q - log_p
    both = [torch.as_tensor(True if m is None else m, device=known.device) for m in masks]
    return torch.where(both[0] & both[1], known, log_q - log_p)


def kl_by_dimension(q: Site, p: Site, shape: Structure, *, exact: bool) -> Tensor | None:
    """Return the divergence of each number of a site, [K or 1, N, D]; None if one of the two does not factorize."""
    one, other = elementwise(q["fn"]), elementwise(p["fn"])
    own, others = one.batch_shape, other.batch_shape  # the model's site may stand without the plate of the samples
    if one.event_shape or other.event_shape or own[len(own) - len(others) :] != others:
        return None
    return numbers_by_datum(kl_of(q, p, exact=exact, fns=(one, other)).expand(own), q["fn"].event_dim, shape)


def _known(q: Any, p: Any) -> Tensor | None:
    try:
        return kl_divergence(q, p)
    except NotImplementedError:  # PyTorch has no formula for these two: the samples have to do
        return None
