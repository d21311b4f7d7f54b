"""Whether an objective is for a pair: what would be a wrong number, or no gradient, is refused before any training."""

from collections.abc import Sequence
from typing import Any

import torch
from pyro.infer import ELBO, RenyiELBO, Trace_ELBO, TraceEnum_ELBO, TraceGraph_ELBO, TraceMeanField_ELBO
from pyro.poutine import Trace

from ppl_vae.errors import InputError
from ppl_vae.objectives.particles import inner_scale, outer_scale
from ppl_vae.traces.divergence import in_order
from ppl_vae.traces.pair import Pair
from ppl_vae.traces.plates import Args, Site, Structure, latents, samples

# What Pyro's own objectives ask of a pair; ours say it themselves, by a method `meet`.
NEED_PARAMETERS_SEEN = (Trace_ELBO, TraceEnum_ELBO, RenyiELBO)
NEED_ORDER = (TraceMeanField_ELBO,)
NEED_ALL_LATENTS = (Trace_ELBO, TraceGraph_ELBO, RenyiELBO)


def check_objective(objective: ELBO, pair: Pair, traces: Sequence[Trace], args: Args) -> None:
    """Raise an InputError if an objective is not for the pair, whose run on some data, `args`, gave the traces."""
    if hasattr(objective, "meet"):
        objective.meet(*pair.programs.values(), args, {})
    name, (model, guide) = type(objective).__name__, map(samples, (traces[0], traces[-1]))
    seen = any(site["type"] == "param" for trace in traces for site in trace.nodes.values())
    if pair.parameters() and not seen and isinstance(objective, NEED_PARAMETERS_SEEN):
        raise InputError(
            f"Expected programs whose parameters Pyro sees; got none that {name} would train. Make "
            f"your modules PyroModules, or let the programs call pyro.module('name', self)."
        )
    latent = list(latents(model))
    if isinstance(objective, NEED_ORDER) and not in_order(model, guide):
        ours, theirs = ([n for n in names if n in latent and n in guide] for names in (latent, guide))
        raise InputError(
            f"Expected a guide that samples the latents in the model's order, {', '.join(ours)}, for "
            f"TraceMeanField_ELBO, whose divergences would not be those of the ELBO; got {', '.join(theirs)}. "
            f"Use Trace_ELBO (--objective trace_elbo)."
        )
    left_out = sorted(n for n in latent if n not in guide or guide[n]["is_observed"])
    if left_out and isinstance(objective, NEED_ALL_LATENTS):
        raise InputError(
            f"Expected a guide that samples {', '.join(map(repr, left_out))}, which is not given; got none with "
            f"{name}, which cannot sum over it. Give it, or use a guide that samples it, or "
            f"TraceEnum_ELBO(max_plate_nesting=1)."
        )


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
