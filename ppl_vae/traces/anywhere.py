"""Guides whose density is not known at any z.

Some flows know that of what they drew last, and no other. A guide that is random beside its sites, as by `torch.randn`,
is a mixture Q(z | x) = E_u[Q(z | u, x)] over what it draws there, of which it knows one part at a time.
"""

from collections.abc import Callable
from typing import Any

import torch
from pyro.poutine import Trace

from ppl_vae.distributions.unwrap import scores_any_value
from ppl_vae.errors import InputError
from ppl_vae.traces.handlers import Substitute
from ppl_vae.traces.plates import samples
from ppl_vae.traces.sites import Site
from ppl_vae.utils.rng import seeded


def check_scored_anywhere(guided: dict[str, Site], why: str, fix: str) -> None:
    """Refuse a guide whose density is not known but at its own last draws."""
    for name, site in guided.items():
        if not scores_any_value(site["fn"], site["value"]):
            kinds = ", ".join(type(part).__name__ for part in getattr(site["fn"], "transforms", ())) or "it"
            raise InputError(
                f"Expected a guide whose density can be evaluated at any z, {why}; got site {name!r}, where {kinds} "
                f"has no inverse. {fix}"
            )


def check_random_at_sites(guide: Any, run: Callable[[Any], Trace], why: str, fix: str) -> None:
    """Refuse a guide whose density at the same z is another one when it is run again, or is not known there."""
    with seeded(0, 1):
        first = samples(run(guide))
    check_scored_anywhere(first, why, fix)
    with seeded(0, 2):
        again = samples(run(Substitute({name: site["value"] for name, site in first.items()})(guide)))
    for name, site in first.items():
        one, other = (each["fn"].log_prob(site["value"]) for each in (site, again.get(name, site)))
        if one.shape == other.shape and not torch.allclose(one, other, rtol=1e-3, atol=1e-3, equal_nan=True):
            raise InputError(
                f"Expected a guide whose density can be evaluated at any z, {why}; got one whose density at site "
                f"{name!r} is another one when it is run again: it is random beside its sites, as by torch.randn or "
                f"inside poutine.block. {fix}"
            )
