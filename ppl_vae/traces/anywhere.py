"""Guides whose density is not known at any z: some flows know that of what they drew last, and no other."""

from ppl_vae.distributions.unwrap import scores_any_value
from ppl_vae.errors import InputError
from ppl_vae.traces.sites import Site


def check_scored_anywhere(guided: dict[str, Site], why: str, fix: str) -> None:
    """Refuse a guide whose density is not known but at its own last draws."""
    for name, site in guided.items():
        if not scores_any_value(site["fn"], site["value"]):
            kinds = ", ".join(type(part).__name__ for part in getattr(site["fn"], "transforms", ())) or "it"
            raise InputError(
                f"Expected a guide whose density can be evaluated at any z, {why}; got site {name!r}, where {kinds} "
                f"has no inverse. {fix}"
            )
