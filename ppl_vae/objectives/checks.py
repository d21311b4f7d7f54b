"""Whether an objective is for a pair: what would be a wrong number, or no gradient, is refused before any training."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from pyro.infer import ELBO, RenyiELBO, Trace_ELBO, Trace_MMD, TraceEnum_ELBO, TraceMeanField_ELBO
from pyro.poutine import Trace

from ppl_vae.distributions.supports import is_corrected, support_of
from ppl_vae.distributions.unwrap import family_of
from ppl_vae.errors import InputError
from ppl_vae.objectives.particles import inner_scale, outer_scale
from ppl_vae.traces.divergence import in_order
from ppl_vae.traces.pair import Pair, program_name
from ppl_vae.traces.plates import (
    Args,
    Structure,
    check_one_for_each,
    data_plate,
    few,
    outside_of,
    samples,
    structure_of,
)
from ppl_vae.traces.proposal import check_points
from ppl_vae.traces.sites import (
    Kind,
    Site,
    Sites,
    answers,
    at,
    batch_shape,
    contains,
    of_kind,
    unequal_supports,
    why_no_bound,
)
from ppl_vae.utils.faults import warn
from ppl_vae.utils.memory import check_memory

# What Pyro's own objectives ask of a pair; ours say it themselves, by a method `meet`.
NEED_PARAMETERS_SEEN = (Trace_ELBO, TraceEnum_ELBO, RenyiELBO)
NEED_ORDER = (TraceMeanField_ELBO,)


def check_objective(objective: ELBO, pair: Pair, traces: Sequence[Trace], args: Args) -> None:
    """Raise an InputError if an objective is not for the pair, whose run on some data, `args`, gave the traces."""
    check_room(objective, traces)
    if hasattr(objective, "meet"):
        objective.meet(*pair.programs.values(), args, {})
    name, (model, guide) = type(objective).__name__, map(samples, (traces[0], traces[-1]))
    seen = any(site["type"] == "param" for trace in traces for site in trace.nodes.values())
    if pair.parameters() and not seen and isinstance(objective, NEED_PARAMETERS_SEEN):
        raise InputError(
            f"Expected programs whose parameters Pyro sees; got none that {name} would train. Make "
            f"your modules PyroModules, or let the programs call pyro.module('name', self)."
        )
    latent = list(of_kind(model, Kind.LATENT))
    if isinstance(objective, NEED_ORDER) and not in_order(model, guide):
        ours, theirs = ([n for n in names if n in latent and n in guide] for names in (latent, guide))
        raise InputError(
            f"Expected a guide that samples the latents in the model's order, {', '.join(ours)}, for "
            f"TraceMeanField_ELBO, whose divergences would not be those of the ELBO; got {', '.join(theirs)}. "
            f"Use Trace_ELBO.",
            options="--objective trace_elbo",
        )
    if not hasattr(objective, "meet"):
        check_answered(model, guide, name, enumerates=isinstance(objective, TraceEnum_ELBO))


def check_room(objective: ELBO, traces: Sequence[Trace]) -> None:
    """Refuse more particles than fit into memory, where they are there at once."""
    if hasattr(objective, "meet") or getattr(objective, "vectorize_particles", False):
        drawn = sum(site["value"].numel() for trace in traces for site in samples(trace).values())
        check_memory("particles", getattr(objective, "num_particles", 1) * drawn, "Ask for fewer (num_particles).")


def check_answered(model: Sites, guide: Sites, name: str, *, enumerates: bool) -> None:
    """Refuse latents that a guide leaves out and an objective would count as if Q were nothing there."""
    latent = of_kind(model, Kind.LATENT)
    left_out = sorted(n for n in latent if n not in guide and not (enumerates and latent[n]["infer"].get("enumerate")))
    if left_out:
        summed = (
            ", or use TraceEnum_ELBO(max_plate_nesting=1)" + " and infer={'enumerate': 'parallel'} there" * enumerates
        )
        raise InputError(
            f"Expected a guide that samples {', '.join(map(repr, left_out))}; got one that does not, and {name}, which "
            f"does not sum it out. Sample it in the guide, or observe it in the model"
            f"{summed if all(latent[n]['fn'].has_enumerate_support for n in left_out) else ''}."
        )


def check_plates(traces: Sequence[Trace], num_run: int, num_data: int) -> None:
    """Refuse a latent of all data together beside a plate that says only how many are in a batch.

    Its prior and its posterior would count once in each batch, and not once in all. Plates of two sizes are refused,
    too: where model and guide scale a batch up to different numbers of data, P(x, z) and Q(z | x) count unlike.
    """
    data, latent = data_plate(traces, num_run), of_kind(samples(traces[0]), Kind.LATENT)
    if data is not None:
        check_one_for_each(traces, data, num_run)
        _check_one_size(traces, data.name)
    outside = outside_of(traces[:1], data, num_run)
    shared = [n for n, s in latent.items() if n in outside and (data is not None or num_run not in s["value"].shape)]
    if not shared or num_run == num_data or (data is not None and data.full_size == num_data):
        return
    name = "data" if data is None else data.name
    raise InputError(
        f"Expected a plate that says how many data there are, as {few(shared)} is of all of them together; got batches "
        f"of {num_run} of {num_data} data: it would count once in each. Write `with pyro.plate({name!r}, {num_data}, "
        f"subsample=x):` in both programs, or pass batch_size={num_data}."
    )


def _check_one_size(traces: Sequence[Trace], name: str) -> None:
    """Refuse a plate over the data that stands for another number of them in the model than in the guide."""
    sites = [site for trace in traces for site in samples(trace).values()]
    frames = [f for site in sites for f in site["cond_indep_stack"] if f.name == name and f.size > 0]
    sizes = list(dict.fromkeys(f.full_size for f in frames))
    if len(sizes) > 1:
        raise InputError(
            f"Expected the plate {name!r} to be of one size in model and guide; got {sizes[0]} and {sizes[1]}: their "
            f"terms would not be scaled alike. Write `with pyro.plate({name!r}, len(x)):` in both."
        )


def check_batch_dims(pair: Pair, traces: Sequence[Trace]) -> None:
    """Refuse sites with several distributions side by side that stand in no plate, as Pyro's validation does."""
    for program, trace in zip(pair.programs.values(), traces, strict=False):
        for site in samples(trace).values():
            in_plates = {f.dim for f in site["cond_indep_stack"] if f.vectorized}
            shape = batch_shape(site)
            free = [size for dim, size in zip(range(-len(shape), 0), shape, strict=True) if dim not in in_plates]
            if any(size > 1 for size in free):
                raise InputError(
                    f"Expected the data in a plate, and the numbers of one datum in one event; got {at(site)} of "
                    f"{program_name(program)} with {' x '.join(map(str, shape))} distributions and "
                    f"{len(in_plates) or 'no'} plate. Write `with pyro.plate('data', len(x)):` around what is of one "
                    f"datum, and .to_event(n) for its n dimensions."
                )


def check_draws(traces: Sequence[Trace]) -> None:
    """Refuse draws of the guide to which the model gives no density: the loss would be infinite."""
    for name, latent, answer in answers(*map(samples, (traces[0], traces[-1]))):
        if not is_corrected(latent["fn"]) and not contains(support_of(latent["fn"]), answer["value"]):
            raise InputError(
                f"Expected the guide to draw {name!r} where {type(family_of(latent['fn'])).__name__} of the model "
                f"lies; got values outside of it from {type(family_of(answer['fn'])).__name__}. Use a family on the "
                f"same support, or transform it."
            )


def warn_of_no_bound(objective: ELBO, pair: Pair, traces: Sequence[Trace], args: Args) -> None:
    """Say so where what an objective raises is no bound of log P(x); `args` are the data of the traces."""
    model, guide = samples(traces[0]), samples(traces[-1])
    reasons = why_no_bound(model, guide)
    if hasattr(objective, "meet"):  # ours leave out what is no part of Q
        reasons = [f"{n!r} is {why}" for n, p, q in answers(model, guide) if (why := unequal_supports(p, q))]
    if of_kind(guide, Kind.POINT, model=model) and not _states_density(pair, traces, args):
        points = few([repr(name) for name in of_kind(guide, Kind.POINT, model=model)])
        reasons.append(
            f"{points} of the guide are points (Delta) that do not state the density of what they are made of"
        )
    if isinstance(objective, Trace_MMD):
        reasons.append("its loss is E[log P(x | z)] less a distance of samples")
    scaled = [name for name, site in (guide | model).items() if not _scaled_by_plates(site)]
    if scaled:
        reasons.append(f"poutine.scale says how often {few(scaled)} count, where a bound counts them once")
    if reasons:
        warn(
            f"{type(objective).__name__} is no bound of log P(x) here: {'; '.join(reasons)}. The history may lie above "
            f"log P(x), and the best epoch is chosen by it; what estimate_evidence says holds, or it refuses."
        )


def _states_density(pair: Pair, traces: Sequence[Trace], args: Args) -> bool:
    """Return whether points in a guide are those of an automatic one, as far as that can be asked."""
    try:
        structure = structure_of(traces, len(args[0]))
    except InputError:  # latents of all data together: an automatic guide draws them, but for Laplace's
        return bool(of_kind(samples(traces[-1]), Kind.AUXILIARY, model=samples(traces[0])))
    try:
        with pair.evaluating(), torch.no_grad():
            check_points(pair, args, list(traces), structure)
    except InputError:
        return False
    return True


def _scaled_by_plates(site: Site) -> bool:
    """Return whether a site has no scale but that of its plates."""
    plates = math.prod((f.full_size or f.size) / f.size for f in site["cond_indep_stack"] if f.size > 0)
    scale = torch.as_tensor(site["scale"]).double()
    return bool(torch.isclose(scale, torch.full_like(scale, plates)).all())


def scored_by_draws(site: Any) -> bool:
    """Return whether the gradient of a guide's draw goes by its log-probability, as it is not reparameterized."""
    if site["fn"].has_rsample:
        return False
    with torch.enable_grad():
        return bool(site["fn"].log_prob(site["value"]).requires_grad)


def check_reparameterized(guided: dict[str, Site]) -> None:
    """Refuse a guide with draws that have no gradient by their value."""
    for name, site in guided.items():
        if scored_by_draws(site):
            raise InputError(
                f"Expected latents that are reparameterized; got site {name!r} with {type(site['fn']).__name__} in the "
                f"guide. Use a distribution with rsample, leave a discrete site to be summed out, or use Trace_ELBO."
            )


def check_scales(sites: dict[str, Site], structure: Structure) -> None:
    """Refuse sites that one factor for each datum does not scale alike."""
    scales = {name: torch.as_tensor(outer_scale(site, structure)) for name, site in sites.items()}
    first = next(iter(scales.values()))
    unlike = [n for n, s in scales.items() if s.shape != first.shape or not bool(torch.allclose(s, first))]
    if unlike or first.numel() not in (1, structure.size):
        raise InputError(
            f"Expected one scale for all sites of a datum; got another one for {', '.join(unlike) or 'some'}. Put "
            f"poutine.scale around both whole programs, or, to weigh the KL divergence, use BetaELBO."
        )
    if structure.enumerated and any(inner_scale(site, structure) != 1 for site in sites.values()):
        raise InputError(
            "Expected no subsampled plate inside the one over the data where sites are enumerated; got one. Let it "
            "take all, or use TraceEnum_ELBO."
        )
