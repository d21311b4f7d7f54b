"""A random pair, described: its model as the oracle reads it, its guide, and in which of many ways both are written.

Each choice is a production with a name; failures are counted by them. What is unsound (a guide on another support, say)
may be refused; all else that Pyro runs should not be. Either way a number that is believed has to be right.
"""

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from scipy import special

from .families import DISCRETE, FAMILIES
from .oracle import Described, Site, converged, log_marginal, moments, posterior

NUM_DATA = 5
LAYOUTS = {"flat": 4, "event": 2, "members": 4, "members left": 2, "loop": 1, "steps": 1, "markov": 1}
PRIORS = {
    "Normal": 6, "Laplace": 1, "StudentT": 1, "LogNormal": 1, "Gamma": 2, "HalfNormal": 1, "Exponential": 1, "Beta": 2,
    "Uniform": 2, "VonMises": 2, "Bernoulli": 2, "Categorical": 2, "OneHotCategorical": 1, "Poisson": 1,
}  # fmt: skip
LIKELIHOODS = {"Normal": 5, "Laplace": 1, "StudentT": 1, "Poisson": 2, "Bernoulli": 2, "LogNormal": 1, "VonMises": 1}
GUIDES = {
    "fits": 10, "wide": 2, "narrow": 1.5, "misplaced": 1, "other support": 2, "half the support": 1, "point": 1.5,
    "prior": 1, "none": 1, "hole": 0.6,
}  # fmt: skip
PLATES = {
    "sized": 5,
    "no size": 1.5,
    "own name": 1,
    "two names": 1,
    "stands for more": 1.5,
    "subsample": 1,
    "none": 0.4,
    "sizes differ": 0.4,
}
MASKS = {"": 10, "observed": 1.5, "observed fn": 1, "obs_mask": 1, "both": 1, "guide only": 1, "model only": 0.7}
EXTRAS = {
    "factor in the model": 0.05, "likelihood by factor": 0.05, "factor in the guide": 0.07, "auxiliary": 0.06,
    "auxiliary, unmarked": 0.05, "auxiliary, hidden": 0.04, "noise in the model": 0.03,
    "observed in the guide": 0.06, "observed in the guide, marked": 0.04,
    "deterministic": 0.08, "scale": 0.06, "reparam": 0.08, "condition": 0.07, "second observed": 0.15,
    "missing": 0.25, "global": 0.03, "left to its prior": 0.04, "vector": 0.15, "another order": 0.15, "modules": 0.3,
}  # fmt: skip
AUXILIARY = {"auxiliary", "auxiliary, unmarked", "auxiliary, hidden"}  # in the guide; the last by torch.randn


@dataclass
class Pair:
    """A described pair, its data, and log P(x) of each datum."""

    seed: int
    layout: str
    plate: str
    mask: str
    guide_kind: str
    extras: set[str]
    model: Described
    guide: list[Site]
    tables: dict[str, np.ndarray] = field(default_factory=dict)  # what the guide looks up, [N] or [N, J] by name
    data: dict[str, np.ndarray] = field(default_factory=dict)
    seen: np.ndarray | None = None  # [N]: the mask
    truth: Any = None  # [N], or None if there is no log P(x) of each datum
    unsound: list[str] = field(default_factory=list)  # why it may be refused

    @property
    def productions(self):
        sites = {f"{s.family}{' observed' * bool(s.observed)}" for s in self.model.sites}
        sites |= {"enumerated" for s in self.model.sites if s.enumerated}
        parts = {f"layout: {self.layout}", f"plate: {self.plate}", f"guide: {self.guide_kind}"}
        return sites | parts | self.extras | ({f"mask: {self.mask}"} if self.mask else set())

    @property
    def enumerated(self):
        guided = {s.name for s in self.guide}
        return [s.name for s in self.model.sites if s.enumerated and s.name not in guided]

    @property
    def num_members(self):
        return self.model.members


def choose(rng, weights):
    names = list(weights)
    p = np.array([weights[n] for n in names], dtype=float)
    return names[int(rng.choice(len(names), p=p / p.sum()))]


def _number(rng, low, high):
    return f"{rng.uniform(low, high):.2f}"


def _real(rng, low=-1.0, high=1.0):
    """A number that is not near zero."""
    return f"{rng.choice([-1, 1]) * rng.uniform(0.5, 1.0) * max(abs(low), abs(high)):.2f}"


def feature(rng, site):
    """An expression of a latent that is a moderate number."""
    n, space = site.name, FAMILIES[site.family].space
    if space == "category":
        values = ", ".join(_number(rng, -1.5, 1.5) for _ in site.args)
        return f"{'dot' if site.family == 'OneHotCategorical' else 'pick'}({n}, {values})"
    return {
        "real": rng.choice([n, n, f"tanh({n})"]),
        "positive": f"tanh({n})" if rng.random() < 0.5 else f"log(1 + {n})",
        "unit": f"(2 * {n} - 1)",
        "interval": n,
        "circle": f"{rng.choice(['cos', 'sin'])}({n})",
        "binary": f"(2 * {n} - 1)",
        "count": f"(0.3 * {n})",
    }[space]


def arguments(rng, family, parents, *, member, strength=1.0):
    """Arguments of a family, which depend on features of its parents (strings)."""
    some = [f"{_real(rng, high=strength)} * {p}" for p in parents]
    if member and parents and rng.random() < 0.6:
        some[0] = f"w * {parents[0]}"
    loc = " + ".join([_number(rng, -0.5, 0.5), *some])
    scale = _number(rng, 0.5, 1.2)
    if parents and rng.random() < 0.2:
        scale = f"{scale} * exp(0.4 * tanh({parents[-1]}))"
    return {
        "Normal": (loc, scale),
        "Laplace": (loc, scale),
        "StudentT": (_number(rng, 4, 8), loc, scale),
        "LogNormal": (loc, scale),
        "Gamma": (
            _number(rng, 2, 4),
            f"{_number(rng, 1, 2)} * exp(0.3 * tanh({loc}))" if parents else _number(rng, 1, 2),
        ),
        "HalfNormal": (f"{_number(rng, 0.7, 1.5)} * exp(0.3 * tanh({loc}))" if parents else _number(rng, 0.7, 1.5),),
        "Exponential": (f"{_number(rng, 0.7, 1.5)} * exp(0.3 * tanh({loc}))" if parents else _number(rng, 0.7, 1.5),),
        "Beta": (_number(rng, 1.5, 3), _number(rng, 1.5, 3)),
        "Uniform": (_number(rng, -1.5, -0.5), _number(rng, 0.5, 1.5)),
        "VonMises": (loc, _number(rng, 0.7, 2.5)),
        "Bernoulli": (f"sigmoid({loc})",),
        "Categorical": tuple(_number(rng, 0.2, 0.6) for _ in range(3)),
        "OneHotCategorical": tuple(_number(rng, 0.2, 0.6) for _ in range(3)),
        "Poisson": (f"exp(0.5 + tanh({loc}))",),
    }[family]


def _latents(rng, layout):
    """The latent sites: one or two of a datum, none or one of its members."""
    sites, continuous = [], 0
    for i in range(1 if rng.random() < 0.65 else 2):
        family = choose(rng, PRIORS)
        continuous += family not in DISCRETE
        parents = [feature(rng, s) for s in sites if rng.random() < 0.6]
        sites.append(Site(f"z{i + 1}", family, arguments(rng, family, parents, member=False)))
    by_members = layout in ("members", "members left", "loop", "steps")
    if by_members and rng.random() < 0.4:
        families = {f: w for f, w in PRIORS.items() if f in DISCRETE or continuous < 2}
        family = choose(rng, families)
        parents = [feature(rng, sites[0])] if rng.random() < 0.6 else []
        sites.append(Site("u", family, arguments(rng, family, parents, member=True), member=True))
    for site in sites:
        finite = site.family in ("Bernoulli", "Categorical", "OneHotCategorical")
        site.enumerated = finite and rng.random() < 0.5
    return sites


def _observed(rng, sites, *, member, name, data):
    families = LIKELIHOODS
    family = choose(rng, families)
    parents = [feature(rng, s) for s in sites if member or not s.member]
    return Site(
        name, family, arguments(rng, family, parents, member=member, strength=1.5), member=member, observed=data
    )


def _simulated(rng, model, num_data):
    """Draw all sites by their ancestors."""
    from .oracle import _functions

    values = {name: constant[None] for name, constant in model.constants.items()}
    for site in model.sites:
        args = [np.asarray(eval(a, _functions(), values), dtype=float) for a in site.args]
        shape = (num_data, model.members) if site.member else (num_data, 1)
        values[site.name] = FAMILIES[site.family].draw(rng, *(np.broadcast_to(a, shape) for a in args))
    return {
        s.observed: np.round(np.clip(values[s.name] if s.member else values[s.name][:, 0], -30, 30), 4)
        for s in model.sites
        if s.observed
    }


def _markov(rng):
    """A discrete chain of three steps, summed out: as sites of the datum, each with the one before as its parent."""
    sites, before = [], None
    start, stay, mean = _number(rng, 0.3, 0.7), _number(rng, 0.5, 2), _real(rng, high=2)
    scale = _number(rng, 0.6, 1.2)
    for t in range(3):
        p = start if before is None else f"sigmoid({stay} * (2 * {before} - 1))"
        sites.append(Site(f"c_{t}", "Bernoulli", (p,), enumerated=True))
        sites.append(Site(f"x_{t}", "Normal", (f"{mean} * c_{t}", scale), observed=f"x_{t}"))
        before = f"c_{t}"
    return sites


def described(seed):
    """Return a random pair, whose log P(x) is known to 1e-5; some seeds are drawn again to be so."""
    rng = np.random.default_rng([seed, 2024])
    while True:
        pair = _attempt(rng, seed)
        if pair is not None:
            return pair


def _attempt(rng, seed):
    layout, plate = choose(rng, LAYOUTS), choose(rng, PLATES)
    extras = {name for name, share in EXTRAS.items() if rng.random() < share}
    mask, kind = choose(rng, MASKS), choose(rng, GUIDES)
    members = 1 if layout == "flat" else 3 if layout == "markov" else int(rng.integers(1, 4))
    if layout == "markov":
        sites, extras = _markov(rng), extras & {"modules", "observed in the guide"}
        mask = mask if mask in ("", "observed", "both") else ""
    else:
        sites = _latents(rng, layout)
        extra = _extra_sites(rng, sites, extras)
        main = _observed(rng, sites, member=layout != "flat", name="x", data="x")
        sites = [*extra.get("condition", []), *sites, *extra.get("second", []), main]
    constants = {} if layout in ("flat", "markov") else {"w": np.round(rng.uniform(0.5, 1.4, members), 2)}
    if layout == "event":
        constants["w"] = np.round(rng.uniform(0.5, 1.4, members), 2)
    model = Described(sites, members if layout not in ("flat", "markov") else 1, constants)
    pair = Pair(seed, layout, plate, mask, kind, extras, model, [])
    _compatible(pair, rng)
    pair.data = _simulated(rng, model, NUM_DATA)
    _with_missing(pair, rng)
    if pair.mask:
        pair.seen = np.array([True, False, True, False, True])[rng.permutation(NUM_DATA)]
        model.seen = pair.seen if pair.mask in ("observed", "observed fn", "obs_mask") else None
        model.scored = pair.seen if pair.mask in ("both", "model only") else None
    if "factor in the model" in extras:
        model.factor = f"-0.5 * {feature(rng, next(s for s in sites if not s.observed))} ** 2"
    model.given = ("y",) if "condition" in extras else ()
    if not converged(model, pair.data):
        return None
    pair.truth = None if pair.extras & {"global", "noise in the model"} else log_marginal(model, pair.data)
    _guide(pair, rng)
    return pair


def _extra_sites(rng, sites, extras):
    found = {}
    if "condition" in extras:
        extras.discard("second observed")
        found["condition"] = [Site("y", "Normal", ("0.30", "1.10"), observed="y", infer={"is_condition": True})]
        first = sites[0]
        if first.family in ("Normal", "Laplace"):
            first.args = (f"{first.args[0]} + 0.60 * y", *first.args[1:])
    if "second observed" in extras:
        of_datum = [s for s in sites if not s.member]
        found["second"] = [_observed(rng, of_datum, member=False, name="y", data="y")]
    return found


def _compatible(pair, rng):
    """Take out what does not go together, and note what may be refused."""
    extras, layout = pair.extras, pair.layout
    observed = next(s for s in reversed(pair.model.sites) if s.observed)
    latent = [s for s in pair.model.sites if not s.observed]
    if "likelihood by factor" in extras and (
        observed.family not in ("Normal", "Laplace", "Bernoulli") or layout == "markov"
    ):
        extras.discard("likelihood by factor")
    if "likelihood by factor" in extras and pair.mask in ("observed fn", "obs_mask"):
        pair.mask = "observed"
    if layout not in ("event", "members") or observed.family != "Normal" or "likelihood by factor" in extras:
        extras.discard("missing")
    if "missing" in extras:
        pair.mask = "" if pair.mask in ("observed fn", "obs_mask") else pair.mask
    if layout == "event" and pair.mask == "obs_mask":
        pair.mask = "observed"
    if layout in ("loop", "steps", "markov") and pair.mask in ("observed fn",):
        pair.mask = "observed"
    if "reparam" in extras and not any(s.family in ("Normal", "LogNormal") and _constant(s) for s in latent):
        extras.discard("reparam")
    extras -= set(sorted(AUXILIARY & extras)[1:])
    if {"observed in the guide", "observed in the guide, marked"} <= extras:
        extras.discard("observed in the guide")
    if pair.guide_kind == "none":
        extras -= AUXILIARY | {"factor in the guide", "observed in the guide",
                   "observed in the guide, marked", "left to its prior", "reparam"}  # fmt: skip
        pair.mask = "" if pair.mask == "guide only" else pair.mask
    if pair.guide_kind in ("point", "other support", "half the support", "hole", "prior"):
        extras -= AUXILIARY | {"reparam", "left to its prior"}
    if "global" in extras:
        extras -= {"reparam", "left to its prior"}
        pair.unsound.append("a global latent")
    if "noise in the model" in extras:
        pair.unsound.append("what is random beside the sites of the model")
    if pair.mask == "model only":
        pair.unsound.append("a mask on the whole model only")
    if pair.plate == "sizes differ":
        pair.unsound.append("plates that stand for different numbers of data")
    if "vector" in extras and not _as_vector(pair):
        extras.discard("vector")
    if pair.plate == "none":
        pair.unsound.append("no plate")
    if layout == "markov" and pair.guide_kind not in ("fits", "none"):
        pair.guide_kind = "fits"


def _as_vector(pair):
    """Make the first latent two numbers of one site; return whether it can be."""
    sites = pair.model.sites
    first = next(s for s in sites if not s.observed)
    plain = pair.guide_kind in ("fits", "wide", "narrow", "misplaced", "prior", "none")
    small = all(
        s is first or s.family in ("Bernoulli", "Categorical", "OneHotCategorical") for s in sites if not s.observed
    )
    if (
        first.family != "Normal"
        or not plain
        or not small
        or pair.extras & {"reparam", "left to its prior"}
        or not _constant(first)
    ):
        return False
    at = sites.index(first)
    other = replace(first, name=f"{first.name}b", args=("0.20", "0.80"), how={"vector": first.name})
    first.how["vector"] = first.name
    sites.insert(at + 1, other)
    main = next(s for s in reversed(sites) if s.observed)
    place = {"StudentT": 1}.get(main.family, 0)
    if main.family in ("Normal", "Laplace", "StudentT", "LogNormal", "VonMises"):
        args = list(main.args)
        args[place] = f"{args[place]} + 0.70 * {other.name}"
        main.args = tuple(args)
    return True


def _constant(site):
    return all(a.replace(".", "", 1).lstrip("-").replace(".", "", 1).isdigit() for a in site.args)


def _with_missing(pair, rng):
    if "missing" in pair.extras:
        x = pair.data["x"]
        x[rng.random(x.shape) < 0.3] = np.nan
        if len(x) > 1:
            x[0] = np.where(np.isnan(x[0]), 0.25, x[0])


# ---- the guide ------------------------------------------------------------------------------------------------------


def _guide(pair, rng):
    kind = pair.guide_kind
    latent = [s for s in pair.model.sites if not s.observed]
    if kind == "none":
        return
    found = posterior(pair.model, pair.data)
    reparam = _reparam(pair, latent) if "reparam" in pair.extras else None
    odd = latent[int(rng.integers(len(latent)))].name  # the one that is a point, on another support, left out
    for site in latent:
        if site.enumerated and (pair.layout == "markov" or rng.random() < 0.75):
            continue
        if "left to its prior" in pair.extras and site.name == odd:
            continue
        pair.guide.append(_of_site(pair, rng, site, found[site.name], odd, reparam))
    if "another order" in pair.extras and len(pair.guide) > 1 and not pair.extras & {"vector"} and kind != "prior":
        pair.guide.reverse()
    else:
        pair.extras.discard("another order")
    if not pair.guide:
        pair.extras -= AUXILIARY | {"factor in the guide", "reparam", "left to its prior"}
        pair.guide_kind = "all summed out" if pair.enumerated else pair.guide_kind
        pair.mask = "" if pair.mask == "guide only" else pair.mask
    if "left to its prior" in pair.extras:
        pair.unsound.append("a latent that the guide leaves out")
    if pair.extras & AUXILIARY and not _with_auxiliary(pair):
        pair.extras -= AUXILIARY


def _reparam(pair, latent):
    return next(s.name for s in latent if s.family in ("Normal", "LogNormal") and _constant(s))


def _table(pair, site, what, values):
    name = f"T_{site.name}_{what}"
    pair.tables[name] = np.round(values, 4)
    return name


def _of_site(pair, rng, site, found, odd, reparam):
    kind, family = pair.guide_kind, site.family
    chosen = site.name == odd or rng.random() < 0.3
    guide = Site(site.name, family, (), member=site.member, how={k: v for k, v in site.how.items() if k == "vector"})
    if kind == "prior" and not site.how.get("reparam"):
        guide.args = site.args
        return guide
    mean, spread, mass = found
    if kind == "point" and chosen:
        if rng.random() < 0.4 and FAMILIES[family].space in ("binary", "category", "count"):
            site.enumerated = False
        at = _best(mean, mass) if family in DISCRETE else moments(mean, spread, mass)[0]
        guide.family, guide.args = "Delta", (_table(pair, site, "at", at),)
        pair.unsound.append(f"a point at {site.name}")
        return guide
    if kind == "other support" and chosen:
        pair.unsound.append(f"another support at {site.name}")
        return _elsewhere(pair, rng, site, guide, moments(mean, spread, mass))
    if (
        kind == "half the support"
        and chosen
        and FAMILIES[family].space in ("interval", "unit", "circle", "real", "positive")
    ):
        m, s = moments(mean, spread, mass)
        guide.family = "Uniform"
        guide.args = (_table(pair, site, "low", m - 0.3 * s), _table(pair, site, "high", m + 0.9 * s))
        pair.unsound.append(f"half the support at {site.name}")
        return guide
    if kind == "hole" and chosen and FAMILIES[family].space == "real":
        m, s = moments(mean, spread, mass)
        guide.family = "TwoPieces"
        ends = {"low": m - 8 * s, "left": m - 0.2 * s, "right": m + 0.4 * s, "high": m + 8 * s}
        guide.args = tuple(_table(pair, site, what, at) for what, at in ends.items())
        pair.unsound.append(f"a hole in the support at {site.name}")
        return guide
    return _posterior(pair, rng, site, guide, found, reparam)


def _best(values, mass):
    index = mass.argmax(-1)[..., None]
    return np.take_along_axis(np.broadcast_to(values, mass.shape), index, -1)[..., 0]


def _elsewhere(pair, rng, site, guide, found):
    m, s = found
    space = FAMILIES[site.family].space
    options = {
        "real": ["LogNormal", "Gamma", "HalfNormal"],
        "positive": ["Normal", "StudentT"],
        "unit": ["Normal", "LogNormal"],
        "interval": ["Normal", "Laplace"],
        "circle": ["Normal", "StudentT"],
        "binary": ["RelaxedBernoulli", "Beta", "Normal"],
        "category": ["Poisson", "Normal"] if site.family == "Categorical" else ["RelaxedOneHotCategorical"],
        "count": ["Gamma", "Normal", "LogNormal"],
    }[space]
    guide.family = str(rng.choice(options))
    loc, scale = _table(pair, site, "m", m), _table(pair, site, "s", s + 0.2)
    up = _table(pair, site, "up", np.abs(m) + 0.3)
    guide.args = {
        "Normal": (loc, scale),
        "Laplace": (loc, scale),
        "StudentT": ("4.0", loc, scale),
        "LogNormal": (f"log({up})", "0.80"),
        "Gamma": ("3.0", f"3.0 / {up}"),
        "HalfNormal": (f"{up} + 0.5",),
        "Beta": ("1.50", "1.50"),
        "RelaxedBernoulli": ("0.50",),
        "RelaxedOneHotCategorical": ("0.30", "0.30", "0.40"),
        "Poisson": ("1.0",),
    }[guide.family]
    return guide


def _posterior(pair, rng, site, guide, found, reparam):
    """A guide of the same support with the posterior's mean and a wider spread, or a narrower one, or elsewhere."""
    mean, spread, mass = found
    space = FAMILIES[site.family].space
    width = {"narrow": 0.3, "wide": 3.0}.get(pair.guide_kind, 1.3)
    away = 4.0 if pair.guide_kind == "misplaced" else 0.0
    if site.family in DISCRETE:
        return _of_discrete(pair, site, guide, mean, mass, away)
    low, high = (float(a) for a in site.args) if space == "interval" else (0.0, 1.0)
    to_real = {
        "positive": np.log,
        "unit": special.logit,
        "interval": lambda v: special.logit((v - low) / (high - low)),
    }.get(space, lambda v: v)
    m, s = moments(mean, spread, mass, to_real)
    if space == "circle":
        p = mass / mass.sum(-1, keepdims=True)
        c, d = (p * np.cos(mean)).sum(-1), (p * np.sin(mean)).sum(-1)
        resultant = np.clip(np.hypot(c, d), 0.05, 0.97)
        kappa = resultant * (2 - resultant**2) / (1 - resultant**2) / width**2
        guide.args = (_table(pair, site, "loc", np.arctan2(d, c) + away / 2), _table(pair, site, "k", kappa))
        return guide
    if site.name == reparam:
        loc0, scale0 = (float(a) for a in site.args)
        if site.family == "Normal":
            guide.name, m, s = f"{site.name}_decentered", (m - loc0) / scale0, s / scale0
        else:
            guide.name = f"{site.name}_base"
        guide.family, guide.how["reparam"] = "Normal", site.name
    loc, scale = _table(pair, site, "loc", m + away * s), _table(pair, site, "scale", width * s + 0.02)
    if guide.how.get("reparam"):
        guide.args = (loc, scale)
    elif space == "real":
        heavy = site.family != "Normal" or (rng.random() < 0.2 and not site.how.get("vector"))
        guide.family, guide.args = ("StudentT", ("4.0", loc, scale)) if heavy else ("Normal", (loc, scale))
    elif space == "positive":
        guide.family, guide.args = "LogNormal", (loc, scale)
    elif space == "unit":
        guide.family, guide.args = "LogitNormal", (loc, scale)
    else:
        guide.family, guide.args = "IntervalNormal", (loc, scale, *site.args)
    return guide


def _of_discrete(pair, site, guide, mean, mass, away):
    p = mass / mass.sum(-1, keepdims=True)
    if site.family == "Poisson":
        guide.args = (_table(pair, site, "rate", (p * mean).sum(-1) * (1 + away) + 0.5),)
        return guide
    p = p[..., ::-1] if away else p
    p = 0.85 * p + 0.15 / p.shape[-1]
    columns = [_table(pair, site, f"p{i}", p[..., i]) for i in range(p.shape[-1])]
    guide.args = (columns[1],) if site.family == "Bernoulli" else tuple(columns)
    return guide


def _with_auxiliary(pair):
    """Make a site of the guide depend on an auxiliary one; return whether there is one that can."""
    first = next((s for s in pair.guide if not s.member and s.family in ("Normal", "StudentT", "LogNormal")), None)
    if first is None:
        return False
    loc, scale = first.args[-2:]
    first.args = (*first.args[:-2], f"{loc} + 0.5 * {scale} * aux", scale)
    pair.guide.insert(pair.guide.index(first), Site("aux", "Normal", ("0.0", "1.0"), how={"auxiliary": True}))
    return True
