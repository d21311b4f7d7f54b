"""Data that are drawn from the model together with their latents: for each x its z is an exact draw from P(z | x).

What the model is given (conditions, masks, totals, where values are missing) stays that of the data; only what it
observes is drawn anew, and takes the place of the argument that holds it.
"""

from dataclasses import replace
from typing import NamedTuple

import torch
from pyro import poutine
from torch import Tensor

from ppl_vae.errors import InputError
from ppl_vae.evidence.prepare import Chunk
from ppl_vae.missing import missing_as
from ppl_vae.traces.handlers import Regenerated, Substitute, is_condition
from ppl_vae.traces.pair import Pair, Program
from ppl_vae.traces.plates import Structure, few, log_prob_by_datum, samples, value_by_datum
from ppl_vae.traces.run import fixed
from ppl_vae.traces.sites import Kind, Site, counted, has_mask, of_kind


class Simulated(NamedTuple):
    """A chunk of data drawn from the model."""

    chunk: Chunk  # what both programs are called with: the simulated data
    sites: dict[str, Site]  # of a run of the model on them, with the latents that they were drawn with
    x: Tensor  # the first of its arguments that were simulated, [N, ...]


def simulate(pair: Pair, chunk: Chunk, structure: Structure, *, joint: bool, otherwise: str) -> Simulated:
    """Draw x, z and, if they are scored (`joint`), conditions from the model, as many as a chunk has data.

    Raises:
        InputError: a model that computes what it observes, scores by a factor, or goes on with what it was given
            instead of with what it drew; `otherwise` ends the sentence.
    """
    model = pair.model
    sites = samples(_run(model, chunk, structure))
    observed = {name: site for name, site in sites.items() if site["is_observed"] and (joint or not is_condition(site))}
    factors = list(of_kind(observed, Kind.FACTOR))
    if factors:
        raise InputError(
            f"Expected a model that data can be drawn from; got one with pyro.factor ({few(factors)}), a term of which "
            f"nothing is drawn. Write it as a distribution of the data, or {otherwise}."
        )
    drawn_trace = _run(Regenerated(joint=joint)(model), chunk, structure)
    drawn = samples(drawn_trace)
    args, simulated = list(chunk.args), {}
    for name, site in observed.items():
        parts = {i: chunk.part(arg) for i, arg in enumerate(chunk.args) if i not in simulated}
        free = [i for i, part in parts.items() if _holds(part, site, structure)]
        if not free:
            raise InputError(
                f"Expected the observed site {name!r} to be one of the arguments of the model, so that simulated data "
                f"can take its place; got values that it computes. Compute them before, or {otherwise}."
            )
        # Two arguments may hold the same numbers: one of them shares its memory with what is observed.
        at = next((i for i in free if chunk.args[i].data_ptr() == site["value"].data_ptr()), free[0])
        drawn[name]["value"] = _left_out_as(site, drawn[name]["value"])
        made = _by_datum(drawn[name], structure, chunk.size).reshape(parts[at].shape).to(args[at].dtype)
        made = missing_as(made, parts[at])
        simulated[at] = made
        if chunk.subsample is None:
            args[at] = made
        else:  # without what only fills up the last subset
            index = chunk.subsample[: chunk.num_data].to(made.device)
            args[at] = args[at].index_copy(0, index, made[: chunk.num_data])
    if not simulated:
        raise InputError("Expected a model with an observed site; got none. Give its data site obs=x.")
    result = replace(chunk, args=tuple(args))
    again = _run(Substitute({n: s["value"] for n, s in drawn.items() if n not in observed})(model), result, structure)
    before, after = (
        log_prob_by_datum(trace, samples(trace), structure, chunk.size)[:, : chunk.num_data]
        for trace in (drawn_trace, again)
    )
    if not torch.allclose(before.double(), after.double(), rtol=1e-4, atol=1e-3):
        # It goes on with its argument y, not with what pyro.sample returns: its z do not belong to the y it drew.
        raise InputError(
            f"Expected a model that goes on with what pyro.sample returns; got another density for the data it "
            f"simulated ({', '.join(observed)}) when it is given them. Write `y = pyro.sample('y', ..., obs=y)` for "
            f"each observed site and use that, or {otherwise}."
        )
    return Simulated(result, samples(again), simulated[min(simulated)])


def _left_out_as(site: Site, value: Tensor) -> Tensor:
    """Return a drawn value in which is missing what is missing in a datum, and which is the datum's where it is masked.

    A guide may read what the model masks: it has to find there what it finds in the data.
    """
    if has_mask(site) and (seen := counted(site)).shape == value.shape == site["value"].shape:
        value = torch.where(seen, value, site["value"].to(value))
    return missing_as(value, site["value"])


def _run(program: Program, chunk: Chunk, structure: Structure) -> poutine.Trace:
    with fixed(structure, chunk.subsample):
        return poutine.trace(program).get_trace(*chunk.args)


def _by_datum(site: Site, structure: Structure, size: int) -> Tensor:
    """Return what stands at a site with the data first, [N, ...]."""
    value = value_by_datum(site, structure)[0]
    return value.expand(size, *value.shape[1:])


def _holds(part: Tensor, site: Site, structure: Structure) -> bool:
    """Return whether (a part of) an argument holds just the values of a site; what is missing in it may be masked."""
    value = _by_datum(site, structure, len(part)).reshape(-1).to(part.dtype)
    if part.numel() != value.numel():
        return False
    given, seen = part.reshape(-1), counted(site)
    known, left_out = ~given.isnan(), value.isnan()
    if seen.shape == site["value"].shape:
        left_out = left_out | ~_by_datum(site | {"value": seen}, structure, len(part)).reshape(-1)
    return torch.equal(given[known], value[known]) and bool(left_out[~known].all())
