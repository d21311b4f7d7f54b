"""log P(x) between two bounds: bidirectional Monte Carlo on data that were simulated from the model.

For x drawn together with its z from the model, z is an exact draw from P(z | x). Annealing forwards gives weights w
with E[w] = P(x), annealing backwards from that z weights w' with E[w'] = 1 / P(x), so that

    E[log mean w]  <=  log P(x)  <=  E[-log mean w'].

Source: Grosse et al., Sandwiching the marginal likelihood using bidirectional Monte Carlo, arXiv 1511.02543;
Wu et al., arXiv 1611.04273.
"""

from dataclasses import replace
from typing import Any

import torch
from pyro import poutine
from torch import Tensor

from ppl_vae.errors import InputError
from ppl_vae.evidence.ais import Annealer, Tick, annealed_importance_sampling, at_once, one_datum
from ppl_vae.evidence.evidence import Evidence
from ppl_vae.evidence.numbers import Sandwich
from ppl_vae.evidence.options import AnnealingOptions
from ppl_vae.evidence.prepare import Chunk, Prepared
from ppl_vae.evidence.tempered import Latents
from ppl_vae.missing import filled, missing_as
from ppl_vae.traces.handlers import Regenerated, Substitute, is_condition
from ppl_vae.traces.plates import log_prob_by_datum, samples
from ppl_vae.traces.sites import Site
from ppl_vae.utils.report import Array
from ppl_vae.utils.rng import seeded
from ppl_vae.utils.threads import Threads


def sandwich(prepared: Prepared, options: AnnealingOptions, threads: Threads) -> Evidence:
    """Anneal the data, and as many simulated ones in both directions: `estimate_evidence(method="sandwich")`."""
    prepared = at_once(prepared, options)
    with seeded(0):
        _simulated(one_datum(prepared, options), options.joint)  # refuse before the long work
    evidence = annealed_importance_sampling(prepared, options, threads)
    with prepared.drawing(options.seed + 1, options.proposal) as ready:
        annealer = Annealer(ready, options, threads, runs=2)

        def bounds(chunk: Chunk, tick: Tick) -> dict[str, Array]:
            latents = Latents(ready.pair, chunk, ready.structure, options.proposal)
            simulated, z, x = _simulated(latents, options.joint)
            chains = annealer.chains(simulated, tick)
            lower, upper = chains.forward(), chains.backward(z)
            mcse = {"lower_mcse": lower["mcse"], "upper_mcse": upper["mcse"]}
            return {"lower": lower["log_px"], "upper": -upper["log_px"], **mcse, "x": x}

        found = Sandwich(**annealer.over_chunks("sandwich", bounds))
    return replace(evidence, method="sandwich", sandwich=found)


def _simulated(latents: Latents, joint: bool) -> tuple[Chunk, Tensor, Any]:
    """Draw x, z and, if they are scored (`joint`), conditions; return a chunk of them, z as u [1, N, D], and x."""
    chunk = latents.chunk
    model = latents.pair.model
    sites = samples(latents.trace(model)).items()
    observed = {name: site for name, site in sites if site["is_observed"] and (joint or not is_condition(site))}
    drawn_trace = latents.trace(Regenerated(joint=joint)(model))
    drawn = samples(drawn_trace)
    args, simulated = list(chunk.args), {}
    for name, site in observed.items():
        free = [i for i, arg in enumerate(chunk.args) if i not in simulated and _holds(arg, chunk, site)]
        if not free:
            raise InputError(
                f"Expected the observed site {name!r} to be one of the arguments of the model, so that simulated data "
                f"can take its place; got values that it computes. Compute them before, or use method='ais'."
            )
        # Two arguments may hold the same numbers: one of them shares its memory with what is observed.
        at = next((i for i in free if chunk.args[i].data_ptr() == site["value"].data_ptr()), free[0])
        # What is missing in a datum is missing in the simulated one, too.
        drawn[name]["value"] = missing_as(drawn[name]["value"], site["value"])
        value = drawn[name]["value"].reshape(chunk.size, *args[at].shape[1:]).to(args[at].dtype)
        simulated[at] = value
        if chunk.subsample is None:
            args[at] = value
        else:  # without what only fills up the last subset
            index = chunk.subsample[: chunk.num_data].to(value.device)
            args[at] = args[at].index_copy(0, index, value[: chunk.num_data])
    if not simulated:
        raise InputError("Expected a model with an observed site; got none. Give its data site obs=x.")
    made = replace(chunk, args=tuple(args))
    _check_same(latents, made, drawn_trace, list(observed))
    return made, latents.flatten(drawn, 1), simulated[min(simulated)].cpu().numpy()


def _check_same(latents: Latents, made: Chunk, drawn_trace: poutine.Trace, observed: list[str]) -> None:
    """Refuse a model that has another density once it is given what it simulated.

    It goes on with its argument y, not with what pyro.sample returns: the z it drew do not belong to the y it drew.
    """
    drawn = samples(drawn_trace)
    given = Substitute({name: site["value"] for name, site in drawn.items() if name not in observed})
    again = Latents(latents.pair, made, latents.structure, "prior").trace(given(latents.pair.model))
    before, after = (
        log_prob_by_datum(trace, samples(trace), latents.structure, made.size)[:, : made.num_data]
        for trace in (drawn_trace, again)
    )
    if not torch.allclose(before, after, rtol=1e-4, atol=1e-3):
        raise InputError(
            f"Expected a model that goes on with what pyro.sample returns; got another density for the data it "
            f"simulated ({', '.join(observed)}) when it is given them. Write `y = pyro.sample('y', ..., obs=y)` for "
            f"each observed site and use that, or use method='ais'."
        )


def _holds(arg: Tensor, chunk: Chunk, site: Site) -> bool:
    """Return whether an argument holds just what a site observes."""
    value = site["value"]
    part = chunk.part(arg)
    if part.numel() != value.numel():
        return False
    one, other = part.reshape(-1), value.reshape(-1).to(part.dtype)
    return torch.equal(filled(one), filled(other)) and torch.equal(one.isnan(), other.isnan())
