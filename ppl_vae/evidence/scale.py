"""What log P(x) is the logarithm of: a probability of levels, a density, or a density of dequantized levels.

A density has the unit of 1 / x, so it can be raised by a change of units, and where x was rounded, without end. If
x_i = (level_i + u_i) / L with u_i uniform in [0, 1), it bounds the probability of the levels that it implies,

    log P(levels) = log E_u[p(x) L^-D] >= E_u[log p(x)] - D log L,

which makes it comparable to a probability. Source: Theis et al., arXiv 1511.01844, section 3.1.

Where a program observes other numbers than it is given, as x / 255 or standardized ones, the density is of these.

A multinomial is told the total n of each datum, a binomial its number of trials: log P(x | n) = log P(x) - log P(n) is
the log-probability of less than x. Where another site scores n, their sum is log P(x) again.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from pyro.distributions import BetaBinomial, DirichletMultinomial, Unit
from torch import Tensor
from torch.distributions import Binomial, Multinomial

from ppl_vae.data.sources import Source, SplitSource
from ppl_vae.distributions import counts
from ppl_vae.distributions.columns import EachColumn
from ppl_vae.distributions.supports import is_discrete, support_of
from ppl_vae.distributions.unwrap import elementwise_support
from ppl_vae.missing import filled
from ppl_vae.traces.plates import Args
from ppl_vae.traces.sites import Site

PROBABILITY, DENSITY, DEQUANTIZED, MIXED = "probability", "density", "dequantized", "mixed"
TRANSFORMED = "density of other numbers"  # than the data that the program is given
COLUMNS = "density, with a probability of columns "  # which follow
GIVEN = " given totals"  # at the end of one of them: totals of the data are given and not scored
TOTAL = "n"  # what such a total is called
SUMS = (counts.Multinomial, Multinomial, DirichletMultinomial)  # they score x of any total, given the sum of x
TRIALS = (Binomial, BetaBinomial)  # the bound of their support, whatever that says


def scored_as(sites: Iterable[Site], source: Source, args: Args) -> tuple[str, int]:
    """Return what the observed sites of a model run on `args` are scored by, and the number of levels of x, or 0."""
    observed = [s for s in sites if s["is_observed"] and s["mask"] is not False and not isinstance(s["fn"], Unit)]
    discrete = {is_discrete(s["fn"]) for s in observed}
    split = source.split if isinstance(source, SplitSource) else None
    num_levels = (split and split.num_levels) or 0
    given = GIVEN if any(_is_given_totals(site, observed) for site in observed) else ""
    columns = [support for s in observed if isinstance(support := elementwise_support(support_of(s["fn"])), EachColumn)]
    if len(observed) == 1 and columns and len({own.is_discrete for own in columns[0].supports}) > 1:
        counted = [name for name, own in zip(columns[0].names, columns[0].supports, strict=True) if own.is_discrete]
        return f"{COLUMNS}{', '.join(counted)}{given}", num_levels
    if len(discrete) != 1:
        return MIXED + given, num_levels
    if True in discrete:
        return PROBABILITY + given, num_levels
    if split is not None and split.dequantize:
        return DEQUANTIZED, num_levels
    return (TRANSFORMED if not source.kinds and _are_others(observed, args) else DENSITY), num_levels


def _are_others(observed: Sequence[Site], args: Args) -> bool:
    """Return whether most of the numbers that a model observes are none of those that it is given."""
    given = torch.cat([filled(arg).flatten().float() for arg in args])
    values = torch.cat([site["value"].flatten().float() for site in observed])
    return bool(torch.isin(values[~values.isnan()], given).float().mean() < 0.5)


def _is_given_totals(site: Site, observed: Sequence[Site]) -> bool:
    """Return whether a site is given a total of each datum that the other observed sites do not say.

    They say it where it is a sum of theirs and a constant: n itself, or what of n is left after those before.
    """
    totals = _totals(site)
    if totals is None:
        return False
    said = torch.ones_like(totals[:, :1])
    for other in (other for other in observed if other is not site):
        numbers = _by_datum(other["value"], other, other["fn"].event_dim)
        for part in (numbers.sum(1, keepdim=True), numbers):
            if bool((part == totals).all()):
                return False
            if said.shape[1] + part.shape[1] < len(totals) / 2:  # with more, anything would be a sum of them
                said = torch.cat([said, part], 1)
    rest = totals - said @ torch.linalg.lstsq(said, totals, driver="gelsd").solution
    return bool((rest.abs() > 1e-6 * (1 + totals.abs())).any())


def _totals(site: Site) -> Tensor | None:
    """Return the totals that a site is given, [n, D or 1], if they differ from datum to datum.

    What is the same for all data, as the n of scores from 0 to n, is a constant of the model and no part of the data.
    """
    fn = site["fn"]
    family = _family(fn)
    if isinstance(family, SUMS):
        totals = _by_datum(site["value"], site, fn.event_dim).sum(1, keepdim=True)
        return totals if bool((totals != torch.as_tensor(family.total_count).cpu().max()).any()) else None
    if isinstance(family, TRIALS):
        bound: Any = family.total_count
    else:
        bound = getattr(elementwise_support(support_of(family)), "upper_bound", None) if is_discrete(family) else None
    if not isinstance(bound, Tensor):
        return None
    totals = _by_datum(bound, site, max(0, bound.dim() - len(fn.batch_shape)))
    return totals if bool((totals != totals[:1]).any()) else None


def _family(fn: Any) -> Any:
    """Return what stands under wrappers, zero inflation and mixtures of one family."""
    while hasattr(fn, "base_dist") or hasattr(fn, "component_distribution"):
        fn = fn.base_dist if hasattr(fn, "base_dist") else fn.component_distribution
    return fn


def _by_datum(value: Tensor, site: Site, own: int) -> Tensor:
    """Return the numbers of a site for each datum, [n, D]; the `own` rightmost dimensions are no plates."""
    frames = [f for f in site["cond_indep_stack"] if f.vectorized]
    data = next((f for f in frames if f.name == "data"), max(frames, key=lambda f: f.size))
    value = value.detach().double().cpu()
    value = value.reshape((1,) * (own - data.dim - value.dim()) + value.shape).movedim(data.dim - own, 0)
    return value.flatten(1).expand(data.size, -1) if value.dim() > 1 else value.reshape(-1, 1).expand(data.size, -1)
