"""What log P(x) is the logarithm of: a probability of levels, a density, or a density of dequantized levels.

A density has the unit of 1 / x, so it can be raised by a change of units, and where x was rounded, without end. If
x_i = (level_i + u_i) / L with u_i uniform in [0, 1), it bounds the probability of the levels that it implies,

    log P(levels) = log E_u[p(x) L^-D] >= E_u[log p(x)] - D log L,

which makes it comparable to a probability. Source: Theis et al., arXiv 1511.01844, section 3.1.
"""

from collections.abc import Iterable

from pyro.distributions import Unit

from ppl_vae.data.sources import Source, SplitSource
from ppl_vae.traces.sites import Site

PROBABILITY, DENSITY, DEQUANTIZED, MIXED = "probability", "density", "dequantized", "mixed"


def scored_as(sites: Iterable[Site], source: Source) -> tuple[str, int]:
    """Return what the observed sites of a model are scored by, and the number of levels of x, 0 if it is not known."""
    observed = [s for s in sites if s["is_observed"] and s["mask"] is not False and not isinstance(s["fn"], Unit)]
    discrete = {bool(s["fn"].support.is_discrete) for s in observed}
    split = source.split if isinstance(source, SplitSource) else None
    num_levels = (split and split.num_levels) or 0
    if len(discrete) != 1:
        return MIXED, num_levels
    if True in discrete:
        return PROBABILITY, num_levels
    return (DEQUANTIZED if split is not None and split.dequantize else DENSITY), num_levels
