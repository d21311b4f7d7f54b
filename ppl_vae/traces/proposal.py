"""Whether the density of what a guide draws is known, and lives where the model's does: asked before any estimate.

    E_Q[P(x, z) / Q(z | x)] = P(x)

holds if Q(z | x) is the density of z, on the same space as P(z), and is nowhere zero where P(x, z) is not. What a
trace says of that is in `ppl_vae.traces.sites`; what only draws and derivatives can say is found here.
"""

import math
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.poutine import Trace
from torch import Tensor

from ppl_vae.distributions.supports import holds_support, is_discrete, support_of, to_support
from ppl_vae.distributions.unwrap import elementwise, elementwise_support, family_of
from ppl_vae.errors import InputError
from ppl_vae.traces.handlers import Substitute
from ppl_vae.traces.pair import Pair
from ppl_vae.traces.plates import (
    Args,
    Structure,
    few,
    log_prob_by_datum,
    numbers_by_datum,
    samples,
    sum_by_datum,
    total_log_prob,
)
from ppl_vae.traces.run import enumerating, fixed, get_traces, run_pair
from ppl_vae.traces.sites import Kind, Site, answers, contains, counted, is_point, of_kind, unequal_supports
from ppl_vae.utils.rng import seeded

UNCONSTRAINED = (-8.1, -3.1, -1.1, 0.1, 0.9, 2.9, 7.9)  # where the model's support is looked at; no round ends
PRIOR_RUNS = 8
DRAWS, FEW_DATA = 256, 16
MOST_STEPS = 2**18  # at how many a density is looked at in all
PARTS, MOST_NUMBERS = 8, 2**12  # into how many parts the way between two draws is cut; of how many numbers at most
OFF = 0.15  # of a mass that should be 1: between 256 draws there is less than 0.85 of it once in 1e18 times
NEGLIGIBLE = 5.0  # nats: what is less probable by so much makes less than 1% of P(x)
TOLERANCE = 0.01  # nats, of a density that is stated and of one that is derived


def check_proposal(pair: Pair, args: Args, traces: list[Trace], structure: Structure) -> None:
    """Refuse a guide whose weights would not average to P(x); the random state is left as it was.

    Raises:
        InputError: a density against a probability or on another space, points, a transform whose log_density is not
            that of its Jacobian, a support that leaves out what the model may draw, masked latents that x depends on.
    """
    model, guide = map(samples, traces)
    for name, latent, answer in answers(model, guide):
        if unequal := unequal_supports(latent, answer):
            raise InputError(
                f"Expected site {name!r} to live on one space; got {unequal}. Their ratio is no weight: use a family "
                f"of the same kind in the guide, or proposal='prior'."
            )
    with seeded(0):
        if structure.summed:
            _check_summed(pair, args, structure)
        trial = _Trial(pair, args, model, guide, structure)
        trial.check_points()
        trial.check_covered()
        trial.check_drawn()
        for name, latent, answer in answers(model, guide):
            _check_own(name, latent, answer, "model")
            _check_own(name, answer, latent, "guide")
        if structure.masked:
            trial.check_left_out()


def check_points(pair: Pair, args: Args, traces: list[Trace], structure: Structure) -> None:
    """Refuse Deltas at latents, but for those that state the density of what was drawn elsewhere, and rightly so."""
    model, guide = map(samples, traces)
    with seeded(0):
        _Trial(pair, args, model, guide, structure).check_points()


def _check_summed(pair: Pair, args: Args, structure: Structure) -> None:
    """Refuse discrete latents without a probability in the guide, in a model that cannot run on all their values."""
    if structure.enumerated:
        with suppress(ValueError, RuntimeError, IndexError):
            run_pair(pair.model, pair.guide, args, num_samples=1, structure=structure)
            return
    raise InputError(
        f"Expected a guide with a probability at {few(list(structure.summed))}, a discrete latent; got a density or a "
        f"point, whose weights say nothing about log P(x), and a model that does not run on all its values at once. "
        f"Give the guide a discrete family there, or use proposal='prior'."
    )


@dataclass(frozen=True)
class _Trial:
    """A run of a pair on some data, and what can be asked by more of them."""

    pair: Pair
    args: Args
    model: dict[str, Site]
    guide: dict[str, Site]
    structure: Structure

    @property
    def num_data(self) -> int:
        """How many data a run evaluates."""
        return self.structure.size if self.structure.subsampled else len(self.args[0])

    def run_model(self, values: dict[str, Tensor], *, summed_out: bool = True) -> Trace:
        """Run the model with these values of its latents; discrete ones left out of the guide are enumerated."""
        enumerated = summed_out and self.structure.enumerated
        model = enumerating(self.pair.model, self.structure) if enumerated else self.pair.model
        return poutine.trace(Substitute(values)(model)).get_trace(*self.args)

    def run_guide(self, values: dict[str, Tensor]) -> dict[str, Site]:
        """Run the guide with these values of its sites."""
        guide: Any = self.pair.guide
        return samples(poutine.trace(Substitute(values)(guide)).get_trace(*self.args))

    def log_joint(self, trace: Trace) -> Tensor:
        """Return the sum of the log-probabilities of all sites for each datum, [1, N]."""
        return log_prob_by_datum(trace, samples(trace), self.structure, self.num_data)

    def check_points(self) -> None:
        """Refuse Deltas at latents, but for those that state the density of what was drawn elsewhere."""
        points, made_of = (of_kind(self.guide, kind, model=self.model) for kind in (Kind.POINT, Kind.AUXILIARY))
        if not points:
            return
        discrete = [name for name in points if is_discrete(self.model[name]["fn"])]
        if discrete:
            raise _is_point(discrete)
        if self.structure.masked and made_of:
            raise InputError(
                f"Expected a guide that samples its latents where the model masks some; got {few(list(points))} made "
                f"of {few(list(made_of))}. Write a guide with pyro.sample at these sites, or use proposal='prior'."
            )
        if made_of:
            self.check_transform(points, made_of)
            return
        again = self.run_guide({name: site["value"] for name, site in self.guide.items() if name not in points})
        still = [
            name
            for name, site in points.items()
            if not family_of(site["fn"]).log_density.any() or torch.equal(site["value"], again[name]["value"])
        ]
        if still:
            raise _is_point(still)

    def check_transform(self, points: dict[str, Site], made_of: dict[str, Site]) -> None:
        """Hold the log_density of points z = T(u) against -log |det dT/du|, on some data, in unconstrained space."""
        unknown = [name for name in points if to_support(self.model[name]["fn"]) is None]
        if unknown:
            raise InputError(
                f"Expected points (Delta) on supports that PyTorch can transform, to hold their density against; got "
                f"{few(unknown)} on that of {_family(self.model[unknown[0]])}. Sample the latents themselves, or use "
                f"proposal='prior'."
            )
        with torch.enable_grad():
            real = {n: s["value"] for n, s in made_of.items() if s["value"].is_floating_point()}
            leaves = {name: value.detach().clone().requires_grad_() for name, value in real.items()}
            sites = self.run_guide(leaves)
            made = [_unconstrained(self.model[name], sites[name]["value"], self.structure) for name in points]
            z = torch.cat([numbers for numbers, _ in made], -1)[0, :FEW_DATA]
            rows = [_derivatives(z[:, i].sum(), leaves, sites, self.structure) for i in range(z.shape[-1])]
        jacobian = torch.stack(rows, 1)
        parts = jacobian.split([numbers.shape[-1] for numbers, _ in made], 1)
        still = [name for name, part in zip(points, parts, strict=True) if not bool(part.any())]
        if still:
            raise _is_point(still)
        stated = total_log_prob([sites[name] for name in points], self.structure, self.num_data)
        stated = (stated + sum(log_jacobian for _, log_jacobian in made))[0, :FEW_DATA]
        square = jacobian.shape[1] == jacobian.shape[2]
        off = torch.linalg.slogdet(jacobian.double()).logabsdet + stated if square else torch.tensor(torch.nan)
        if not bool((off.abs() <= TOLERANCE * (1 + 0.01 * z.shape[-1])).all()):
            raise InputError(
                f"Expected sites made of auxiliary ones to state their density, Delta(T(u), log_density=-log |det "
                f"dT/du|); got {few(list(points))} made of {few(list(made_of))} with another one. Sample the latents "
                f"themselves, or use proposal='prior'."
            )

    def check_covered(self) -> None:
        """Refuse a guide that never draws latents which the model gives a chance and the data allow."""
        pairs = list(answers(self.model, self.guide))
        holes = {name: hole for name, p, q in pairs if (hole := _hole(p, q)) is not None}
        narrower = [
            n
            for n, p, q in pairs
            if n in holes or _own(q) is not None or not holds_support(support_of(q["fn"]), support_of(p["fn"]))
        ]
        for values in self.possible(narrower, holes) if narrower else ():
            try:
                with pyro.validation_enabled(False):
                    trace, guided = self.run_model(values), self.run_guide(values)
                    possible = torch.isfinite(self.log_joint(trace))
                    missed = {n: _outside(guided[n], self.structure, self.num_data) & possible for n in narrower}
            except (ValueError, RuntimeError, IndexError):  # the programs do not run there: it is not possible
                continue
            for name in narrower:
                if bool(missed[name].any()):
                    raise InputError(
                        f"Expected a guide that may draw every {name!r} that the model may; got "
                        f"{_family(guided[name])} in the guide, which leaves out a part of where "
                        f"{_family(self.model[name])} of the model lies: the weights would miss it. Use a family on "
                        f"the model's support, or proposal='prior'."
                    )

    def possible(self, names: list[str], holes: dict[str, Tensor]) -> Iterator[dict[str, Tensor]]:
        """Yield values of some latents that the model may take: its draws, places all over its supports, and holes."""
        drawn = {name: site["value"] for name, site in self.guide.items()}
        yield from (drawn | {name: hole} for name, hole in holes.items())
        for _ in range(PRIOR_RUNS):
            sites = samples(poutine.trace(self.pair.model).get_trace(*self.args))
            yield {name: site["value"] for name, site in of_kind(sites, Kind.LATENT).items() if name in self.guide}
        for name in names:
            yield from ({name: place} for place in self.places(name))

    def check_drawn(self) -> None:
        """Refuse a guide whose probability is zero at a value of a discrete latent which is as probable as others."""
        for name, latent, answer in answers(self.model, self.guide):
            if not is_discrete(latent["fn"]):
                continue
            tried: list[tuple[Tensor, Tensor]] = []
            with suppress(NotImplementedError, ValueError, RuntimeError, IndexError):  # they do not run there
                these = torch.arange(self.num_data) if self.structure.subsampled else None
                places = self.places(name)
                if not any(bool(_never(answer, place).any()) for place in places):
                    continue
                with fixed(self.structure, these):
                    tried = [self.weighed(place, name) for place in places]
            if len(tried) < 2:
                continue
            joint, never = (torch.stack(each) for each in zip(*tried, strict=True))
            drawn = joint.where(~never, -torch.inf).amax(0)
            if bool((never & (joint > drawn - NEGLIGIBLE)).any()):
                raise InputError(
                    f"Expected a guide that may draw every {name!r} that the model may; got "
                    f"{_family(self.guide[name])} with a probability of 0 for a value that is a probable one: the "
                    f"weights would miss it. Keep its probabilities above 0, or use proposal='prior'."
                )

    def weighed(self, place: Tensor, name: str) -> tuple[Tensor, Tensor]:
        """Return log P(x, z) with a latent at this place, [1, N], and whether the guide never draws it there."""
        guided = self.run_guide({n: s["value"] for n, s in self.guide.items()} | {name: place})
        joint = self.log_joint(self.run_model({n: s["value"] for n, s in guided.items() if n in self.structure.q}))
        counts = guided[name]["fn"].event_dim - elementwise(guided[name]["fn"]).event_dim
        never = numbers_by_datum(_never(guided[name], place), counts, self.structure).any(-1)
        return joint, never.expand(-1, self.num_data)

    def places(self, name: str) -> list[Tensor]:
        """Return places all over the support of a latent of the model, each of the shape of its value."""
        fn, value = self.model[name]["fn"], self.model[name]["value"]
        if not is_discrete(fn):
            transform = to_support(fn)
            if transform is None:
                return []
            return [transform(torch.full_like(transform.inv(value), u)) for u in UNCONSTRAINED]
        each: Any = elementwise(fn)
        places = each.enumerate_support(expand=False) if each.has_enumerate_support else []
        return [place.expand(value.shape).to(value.dtype) for place in places]

    def check_left_out(self) -> None:
        """Refuse a model that masks latents on which the rest of it depends."""
        again = samples(get_traces(self.pair, self.args)[0])
        latent = {n: s for n, s in of_kind(self.model, Kind.LATENT).items() if n in again}
        drawn = {name: site["value"] for name, site in latent.items()}
        seen = {name: counted(site) for name, site in latent.items()}
        other = {name: torch.where(seen[name], value, again[name]["value"]) for name, value in drawn.items()}
        with pyro.validation_enabled(False):  # another draw may lie outside of the support, which is no fault of a mask
            one, two = (self.log_joint(self.run_model(values, summed_out=False)) for values in (drawn, other))
        if not torch.allclose(one, two, rtol=1e-4, atol=1e-3, equal_nan=True):
            hidden = [name for name, mask in seen.items() if not bool(mask.all())]
            raise InputError(
                f"Expected a model that does not depend on what it masks; got {few(hidden)}, masked for some data, on "
                f"which the rest of it depends for these as well. Mask that, too, or do not mask {few(hidden)}."
            )


def _never(answer: Site, place: Tensor) -> Tensor:
    """Return which numbers a discrete site of the guide never draws so, by its probabilities."""
    log_q = elementwise(answer["fn"]).log_prob(place)
    return log_q <= math.log(torch.finfo(log_q.dtype).eps)  # what PyTorch takes for the logarithm of 0


def _is_point(names: list[str]) -> InputError:
    return InputError(
        f"Expected a guide with a density; got a point (Delta) at site {few([repr(n) for n in names])}, whose weights "
        f"say nothing about log P(x). Use a guide with some width, such as mean_field, or proposal='prior'."
    )


def _family(site: Site) -> str:
    return type(family_of(site["fn"])).__name__


def _unconstrained(latent: Site, value: Tensor, structure: Structure) -> tuple[Tensor, Tensor]:
    """Return a latent's value in unconstrained space, [1, N, D], and log |dz/du| there, [1, N]."""
    transform: Any = to_support(latent["fn"])
    u = transform.inv(value)
    log_jacobian = transform.log_abs_det_jacobian(u, value).detach()
    summed = sum_by_datum(log_jacobian, structure, log_jacobian.shape[structure.dim])
    return numbers_by_datum(u, transform.domain.event_dim, structure), summed


def _derivatives(number: Tensor, leaves: dict[str, Tensor], sites: dict[str, Site], structure: Structure) -> Tensor:
    """Return the derivatives of one number of each datum by all auxiliary ones, [n, D]."""
    found = [torch.zeros_like(leaf) for leaf in leaves.values()]
    if number.requires_grad:
        found = list(torch.autograd.grad(number, list(leaves.values()), retain_graph=True, materialize_grads=True))
    parts = [numbers_by_datum(p, sites[n]["fn"].event_dim, structure) for n, p in zip(leaves, found, strict=True)]
    return torch.cat(parts, -1)[0, :FEW_DATA]


def _outside(site: Site, structure: Structure, num_data: int) -> Tensor:
    """Return for each datum whether a site has a value where its distribution draws nothing, [1, N]."""
    support, each = support_of(site["fn"]), _single(site)
    outside = torch.zeros(1, num_data, dtype=torch.bool)
    if each is not None:
        outside = numbers_by_datum(each.log_prob(site["value"]).isneginf(), site["fn"].event_dim, structure).any(-1)
    if support is None or (elementwise_support(support).event_dim and contains(support, site["value"])):
        return outside
    return outside | (sum_by_datum((~support.check(site["value"])).float(), structure, num_data) > 0)


def _hole(latent: Site, answer: Site) -> Tensor | None:
    """Return a value between draws of both where the guide's density is zero and the model's is not, if any."""
    p, q = map(_single, (latent, answer))
    if p is None or q is None or (number := answer["value"].numel()) > MOST_NUMBERS:
        return None
    count = min(DRAWS, MOST_STEPS // (2 * PARTS * number))
    try:
        draws = q.sample((count,))
        steps = _between(torch.cat([draws, p.sample((count,)).expand_as(draws)]), ends=False)
        with pyro.validation_enabled(False):
            log_p, log_q = p.log_prob(steps), q.log_prob(steps)
    except (NotImplementedError, KeyError, ValueError, RuntimeError):  # no draws, or no density outside of its support
        return None
    hole = log_q.isneginf() & log_p.isfinite()
    place = steps.gather(0, log_p.where(hole, -torch.inf).argmax(0, keepdim=True))[0]
    return place.where(hole.any(0), answer["value"]) if bool(hole.any()) else None


def check_likelihoods(pair: Pair, args: Args, traces: list[Trace]) -> None:
    """Refuse a person's own family of single numbers at the data, whose density is not that of its draws."""
    own = [name for name, site in of_kind(samples(traces[0]), Kind.OBSERVED).items() if _own(site) is not None]
    if not own:
        return
    most = max(samples(traces[0])[name]["value"].numel() for name in own)
    few_data = tuple(arg[: max(1, MOST_NUMBERS * len(arg) // most)] for arg in args)
    with seeded(0):
        try:
            sites = samples(poutine.trace(pair.model).get_trace(*few_data))
        except Exception:  # of whatever class: it does not run on a few
            sites = samples(traces[0])
        for name in own:
            _check_own(name, sites[name], None, "model")


def _check_own(name: str, site: Site, other: Site | None, role: str) -> None:
    """Refuse a person's own family of single numbers whose density is not that of its draws, where any z may be."""
    family, fn = _family(site), _own(site)
    if fn is None or site["value"].numel() > (MOST_NUMBERS if other else 4 * MOST_NUMBERS):
        return
    try:
        places = draws = fn.sample((DRAWS,))
    except NotImplementedError:  # log_prob is all that is asked of what is observed
        return
    if not contains(support_of(fn), draws):
        raise InputError(
            f"Expected draws of {name!r} in the {role} inside the support of its distribution; got {family}, which "
            f"draws outside of it. Give it the `support` on which its draws lie."
        )
    if other is not None:
        places = torch.cat([draws, elementwise(other["fn"]).sample((DRAWS,)).expand_as(draws)])
    least, most = _mass(fn, places)
    if bool((least > 1 + OFF).any() or (most < 1 - OFF).any()):
        found = float(least.max() if bool((least > 1 + OFF).any()) else most.min())
        raise InputError(
            f"Expected a density of {name!r} in the {role} that integrates to 1, and to vanish where it draws nothing; "
            f"got {family}, which has a mass of {found:.2f} between draws{' of model and guide' if other else ''}. "
            f"Normalize its log_prob, and let it be -inf outside of its `support`"
            f"{', or use proposal={!r}'.format('prior') if other else ''}."
        )


def _own(site: Site) -> Any | None:
    """Return the distribution of each number of a site if a person wrote it, over single real numbers."""
    known = type(family_of(site["fn"])).__module__.split(".")[0] in ("torch", "pyro", "zuko", "ppl_vae")
    return None if known else _single(site)


def _single(site: Site) -> Any | None:
    """Return the distribution of each number of a site, if it is one over single real numbers."""
    fn: Any = elementwise(site["fn"])
    return None if fn.event_shape or is_discrete(fn) or is_point(site) else fn


def _between(places: Tensor, *, ends: bool = True) -> Tensor:
    """Return the places in order, with more of them between any two; without the `ends`, only those between."""
    places, first = places.sort(0).values, 0 if ends else 1
    parts = torch.arange(first, PARTS, device=places.device).reshape(-1, 1, *[1] * (places.dim() - 1)) / PARTS
    return (places[:-1] + parts * places.diff(dim=0)).transpose(0, 1).flatten(0, 1)


def _mass(fn: Any, places: Tensor) -> tuple[Tensor, Tensor]:
    """Return a lower and an upper sum of the integral of a density between the least and the largest of some places."""
    steps = _between(places)
    with pyro.validation_enabled(False):
        density = fn.log_prob(steps).exp()
    width, ends = steps.diff(dim=0), (density[:-1], density[1:])
    return (torch.minimum(*ends) * width).sum(0), (torch.maximum(*ends) * width).sum(0)
