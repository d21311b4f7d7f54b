"""What each site of a model and of a guide is, and what it counts in log P(x, z) - log Q(z | x).

| in the model | what it is | counts |
| --- | --- | --- |
| observed | data, or a condition: x | + log P |
| factor | `pyro.factor`: a term without numbers | + its value |
| computed | a value that others determine: `pyro.deterministic`, a reparameterization's, a Delta | nothing |
| latent | z | + log P where the guide answers it or it is summed out; else it is drawn, and cancels |

| in the guide | what it is | counts |
| --- | --- | --- |
| answer | a density (or probability) at a latent of the model | - log Q, where the model scores the latent |
| point | a Delta at a latent: a value that auxiliary sites determine, or a point, which has no density | see below |
| auxiliary | a draw that answers no latent, or gives a discrete one no probability | nothing; points are made of it |
| observed | a site that is given its value | nothing: it is no draw |
| factor | `pyro.factor` | nothing |
| computed | as in the model | nothing |

The guide draws as it says, whatever it masks: so an answer is scored just where the model scores its latent. What an
auxiliary u says of itself is left out: for any Q(u), E[P(x, z) / Q(z | u, x)] = P(x). Only where a latent is made of u
by a transform (an automatic guide: z = Delta(T(u), log_density=-log |dT/du|)) is the density of z that of u. A discrete
latent at which the guide has a density (a relaxation) or a point is summed out in the model, whatever the guide draws.
"""

from collections.abc import Iterable, Mapping
from enum import Enum
from typing import Any

import torch
from pyro.distributions import Delta, Unit
from torch import Tensor

from ppl_vae.distributions.masks import masks_in, unmasked, with_masks
from ppl_vae.distributions.supports import is_discrete, support_of
from ppl_vae.distributions.unwrap import elementwise_support, family_of

Site = dict[str, Any]
Sites = Mapping[str, Site]
MOST = 0.75  # of vectors: half of those of two numbers are in order by chance


class Kind(Enum):
    """What a site is, in the words of the tables above."""

    OBSERVED = "observed"
    FACTOR = "factor"
    COMPUTED = "computed"
    LATENT = "latent"
    ANSWER = "answer"
    POINT = "point"
    AUXILIARY = "auxiliary"


def kind_in_model(site: Site) -> Kind:
    """Return what a sample site of a model is."""
    if isinstance(family_of(site["fn"]), Unit):
        return Kind.FACTOR
    if is_computed(site) or (is_point(site) and not site["is_observed"]):
        return Kind.COMPUTED
    return Kind.OBSERVED if site["is_observed"] else Kind.LATENT


def kind_in_guide(site: Site, model: Sites) -> Kind:
    """Return what a sample site of a guide is, beside the sites of the model."""
    if isinstance(family_of(site["fn"]), Unit):
        return Kind.FACTOR
    if is_computed(site):
        return Kind.COMPUTED
    if site["is_observed"]:
        return Kind.OBSERVED
    answered = model.get(site["name"])
    if answered is None or answered["is_observed"]:
        return Kind.COMPUTED if is_point(site) else Kind.AUXILIARY
    if is_discrete(answered["fn"]) and (is_point(site) or not is_discrete(site["fn"])):
        return Kind.AUXILIARY if answered["fn"].has_enumerate_support else Kind.POINT
    return Kind.POINT if is_point(site) else Kind.ANSWER


def at(site: Site) -> str:
    """Return a site's name and line."""
    return f"site {site['name']!r}{line_of(site)}"


def line_of(site: Site) -> str:
    """Return the person's own line of a site where the run has noted it (`ppl_vae.data.probes`), to stand behind."""
    return f" ({line})" if (line := site.get("line")) else ""


def of_kind(sites: Sites, *kinds: Kind, model: Sites | None = None) -> dict[str, Site]:
    """Return those sites that are of some kinds, in a guide where the sites of its model are given, else in a model."""
    if model is None:
        return {name: site for name, site in sites.items() if kind_in_model(site) in kinds}
    return {name: site for name, site in sites.items() if kind_in_guide(site, model) in kinds}


def is_point(site: Site) -> bool:
    """Return whether a site says of its value only what it is."""
    return isinstance(family_of(site["fn"]), Delta)


def is_computed(site: Site) -> bool:
    """Return whether an observed site observes nothing: it was given the value that it is sure of."""
    if site["infer"].get("_deterministic"):
        return True
    if not (site["is_observed"] and is_point(site)):
        return False
    never_scored = any(mask is False for _, mask in masks_in(site["fn"]))
    return never_scored or site["value"].data_ptr() == family_of(site["fn"]).v.data_ptr()


def names_of_q(model: Sites, guide: Sites) -> tuple[str, ...]:
    """Return the names of a guide's sites whose log-probabilities make log Q(z | x)."""
    made_of = [Kind.AUXILIARY] if of_kind(guide, Kind.POINT, model=model) else []
    summed = names_of_summed(model, guide)
    return tuple(n for n in of_kind(guide, Kind.ANSWER, Kind.POINT, *made_of, model=model) if n not in summed)


def names_of_summed(model: Sites, guide: Sites) -> tuple[str, ...]:
    """Return the names of discrete latents to which a guide gives no probability: they are summed out instead."""
    latent = of_kind(model, Kind.LATENT)
    return tuple(name for name in of_kind(guide, Kind.AUXILIARY, model=model) if name in latent)


def scored_as_latent(answer: Site, latent: Site) -> Site:
    """Return a guide's site as one that is scored just where the model scores the latent that it answers."""
    masks = masks_in(latent["fn"])
    if not masks and not masks_in(answer["fn"]) and latent["mask"] is answer["mask"]:
        return answer
    return answer | {"fn": with_masks(answer["fn"], masks), "mask": latent["mask"]}


def without_masks(site: Any) -> Site:
    """Return a site that is scored for all data."""
    return {**site, "fn": unmasked(site["fn"]), "mask": None} if is_masked(site) else site


def is_masked(site: Site) -> bool:
    """Return whether anything at a site may be left out."""
    return site["mask"] is not None or bool(masks_in(site["fn"]))


def has_mask(site: Site) -> bool:
    """Return whether what is scored at a site may differ from datum to datum."""
    return any(isinstance(mask, Tensor) for mask in (site["mask"], *(mask for _, mask in masks_in(site["fn"]))))


def batch_shape(site: Site) -> torch.Size:
    """Return how many distributions stand side by side at a site; one value may be scored by all of them."""
    value = site["value"].shape[: max(0, site["value"].dim() - site["fn"].event_dim)]
    return torch.broadcast_shapes(site["fn"].batch_shape, value)


def counted(site: Site) -> Tensor:
    """Return which numbers are scored at a site, of the shape of its value, broadcast over its plates."""
    shape = torch.broadcast_shapes(batch_shape(site) + site["fn"].event_shape, site["value"].shape)
    seen = torch.ones(shape, dtype=torch.bool, device=site["value"].device)
    for count, mask in ((0, site["mask"]), *masks_in(site["fn"])):
        if mask is not None:
            scored = torch.as_tensor(mask, device=seen.device)
            seen = seen & scored.reshape(scored.shape + (1,) * (site["fn"].event_dim - count if scored.dim() else 0))
    return seen


def alike_masked(one: Site, other: Site) -> bool:
    """Return whether two sites are scored for the same numbers."""
    if not (is_masked(one) or is_masked(other)):
        return True
    a, b = torch.broadcast_tensors(counted(one), counted(other))
    return torch.equal(a, b)


def unequal_supports(latent: Site, answer: Site) -> str:
    """Say in words how a latent and the guide's site for it live on different spaces; nothing if they do not."""
    if is_point(answer):
        return ""
    model, guide = (type(family_of(site["fn"])).__name__ for site in (latent, answer))
    if is_discrete(latent["fn"]) != is_discrete(answer["fn"]):
        what = ("a density", "a probability")
        own, other = (what[is_discrete(site["fn"])] for site in (latent, answer))
        return f"{model} in the model ({own}) and {guide} in the guide ({other})"
    if not contains(support_of(latent["fn"]), answer["value"]):
        return f"{model} in the model and {guide} in the guide, which draws outside of where {model} lies"
    return ""


def contains(support: Any, value: Any) -> bool:
    """Return whether values are in a support: all of them; of vectors, which rounding may lead out of it, most."""
    if support is None:
        return True
    try:
        inside = support.check(value)
        return bool(inside.float().mean() > MOST if elementwise_support(support).event_dim else inside.all())
    except (RuntimeError, NotImplementedError):  # bounds in another shape, or a support without a check: not known
        return True


def why_no_bound(model: Sites, guide: Sites) -> list[str]:
    """Say, for each of a pair's sites for which an ELBO of Pyro's is no bound of log P(x), what is the matter."""
    reasons = [
        f"{name!r} of the guide is {words}"
        for kind, words in (
            (Kind.OBSERVED, "observed, no draw of Q"),
            (Kind.FACTOR, "a factor, no part of Q"),
            (Kind.AUXILIARY, "a draw that answers no latent of the model"),
        )
        for name in of_kind(guide, kind, model=model)
        if not (kind is Kind.AUXILIARY and _transformed(model, guide)) and name not in names_of_summed(model, guide)
    ]
    for name, latent in of_kind(model, Kind.LATENT).items():
        if (answer := guide.get(name)) is None:
            if is_masked(latent):
                reasons.append(f"{name!r} is masked and summed out, where Pyro counts its values")
            continue
        if name in names_of_summed(model, guide):
            what = "a point" if is_point(answer) else "a density"
            reasons.append(f"{name!r} has a probability in the model and {what} in the guide")
        elif unequal := unequal_supports(latent, answer):
            reasons.append(f"{name!r} is {unequal}")
        elif not alike_masked(latent, answer):
            reasons.append(f"{name!r} is not masked alike in model and guide")
    return reasons


def _transformed(model: Sites, guide: Sites) -> bool:
    """Return whether a guide may be an automatic one: points that are made of auxiliary sites."""
    return all(of_kind(guide, kind, model=model) for kind in (Kind.AUXILIARY, Kind.POINT))


def answers(model: Sites, guide: Sites) -> Iterable[tuple[str, Site, Site]]:
    """Yield the name of each latent that a guide answers, with its site in the model and in the guide."""
    answered = of_kind(guide, Kind.ANSWER, Kind.POINT, model=model)
    for name, latent in of_kind(model, Kind.LATENT).items():
        if name in answered:
            yield name, latent, guide[name]
