"""The log-weights of a model and a guide, read off their traces.

    log w_k = log P(x, z_k) - log Q(z_k | x),    z_k ~ Q(z | x),    k = 1 .. K,

one for each sample and each datum, shape [K, N].
"""

import math
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from pyro import poutine
from torch import Tensor

from ppl_vae.errors import InputError
from ppl_vae.missing import filled
from ppl_vae.traces.pair import Pair, program_name
from ppl_vae.traces.plates import (
    Args,
    Structure,
    data_plate,
    enumerates,
    is_inside,
    latents,
    log_prob_by_datum,
    samples,
    value_by_datum,
)
from ppl_vae.traces.run import copies_of, fixed, get_traces, one_more_plate, run_pair
from ppl_vae.traces.sites import Kind, answers, is_point, line_of, of_kind, scored_as_latent

# In the infer of a guide's site: its distribution in the other component of a mixture, and the share of its own.
BESIDE = "beside"


def log_weights(
    pair: Pair,
    args: Args,
    num_samples: int,
    structure: Structure,
    *,
    proposal: str = "guide",
    subsample: Tensor | None = None,
    vectorize: bool = True,
) -> Tensor:
    """Return the log-weights log P(x, z_k) - log Q(z_k | x) in nats, [num_samples, N].

    Args:
        pair: the two programs; call it within `pair.running()`.
        args: what both are called with: x first.
        num_samples: K, how many z are drawn for each datum.
        structure: as `structure_of` found it.
        proposal: "guide", or "prior" to draw z_k from the model itself: log w_k = log P(x | z_k).
        subsample: which data a plate with a random subset has to take.
        vectorize: draw all samples in one run, inside a plate left of all others, or, where `structure` says so, of
            copies of the data; else K runs.

    Raises:
        InputError: the programs do not give one weight for each sample and datum.
    """
    if not vectorize and num_samples > 1:
        one = partial(log_weights, pair, args, 1, structure, proposal=proposal, subsample=subsample, vectorize=False)
        return torch.cat([one() for _ in range(num_samples)])
    with one_more_plate("Mend that, or pass vectorize=False."):
        weighted = draw(pair, args, num_samples, structure, proposal=proposal, subsample=subsample, vectorize=vectorize)
        return (checked(weighted, num_samples) if vectorize else weighted).log_weights


class Weighted(NamedTuple):
    """Samples of the latents with their log-weights."""

    log_weights: Tensor  # [K, N], in nats
    log_likelihood: Tensor | None  # log P(x | z_k), [K, N], where it was asked for
    latents: dict[str, Tensor]  # the values of the latent sites that were drawn, by name, [K, N, ...]
    observed: dict[str, Tensor]  # the values of the observed sites, [N, ...]

    def of_copies(self, count: int) -> "Weighted":
        """Return what was drawn of C copies of N data, [1, C N, ...], as C samples of each, [C, N, ...]."""
        all_data = self.log_weights.shape[1]

        def parted(value: Tensor) -> Tensor:
            return value.expand(1, all_data, *value.shape[2:]).reshape(count, all_data // count, *value.shape[2:])

        return Weighted(
            parted(self.log_weights),
            None if self.log_likelihood is None else parted(self.log_likelihood),
            {name: parted(value) for name, value in self.latents.items()},
            {name: value[: all_data // count] for name, value in self.observed.items()},
        )

    def shuffled(self) -> "Weighted":
        """Return the samples in random order, so that the first of them are samples of what all are of."""
        order = torch.randperm(len(self.log_weights), device=self.log_weights.device)
        likelihood = None if self.log_likelihood is None else self.log_likelihood[order]
        latents = {name: value[order] for name, value in self.latents.items()}
        return Weighted(self.log_weights[order], likelihood, latents, self.observed)

    @classmethod
    def concatenated(cls, runs: list["Weighted"]) -> "Weighted":
        """Return the samples of several runs on the same data as one."""
        latents = {name: torch.cat([run.latents[name] for run in runs]) for name in runs[0].latents}
        likelihoods = [run.log_likelihood for run in runs if run.log_likelihood is not None]
        weights = torch.cat([run.log_weights for run in runs])
        return cls(weights, torch.cat(likelihoods) if likelihoods else None, latents, runs[0].observed)


def checked(weighted: Weighted, num_samples: int) -> Weighted:
    """Return samples as they are; raise an InputError unless there are so many, for each datum, that differ."""
    continuous = [z for z in weighted.latents.values() if z.is_floating_point()]
    alike = num_samples > 1 and len(continuous) > 0 and all(bool((z == z[:1]).all()) for z in continuous)
    if weighted.log_weights.shape[0] != num_samples or alike:
        raise InputError(
            f"Expected {num_samples} samples of {', '.join(weighted.latents)} that differ; got the same ones again, or "
            f"none for each datum. Let the programs draw with pyro.sample and work under one more plate to the left of "
            f"theirs, or pass vectorize=False."
        )
    return weighted


def draw(
    pair: Pair,
    args: Args,
    num_samples: int,
    structure: Structure,
    *,
    proposal: str = "guide",
    subsample: Tensor | None = None,
    vectorize: bool = True,
    likelihood: bool = False,
) -> Weighted:
    """Draw z_k from the proposal in one run and weigh them, without checks; arguments as for `log_weights`.

    `likelihood` keeps log P(x | z_k) as well, at the price of another evaluation of log P(z_k).
    """
    copied = vectorize and not structure.plated
    size, args = num_samples if vectorize and not copied else None, copies_of(args, num_samples) if copied else args
    guide = None if proposal == "prior" else pair.guide
    with fixed(structure, subsample):
        model_trace, guide_trace = run_pair(pair.model, guide, args, num_samples=size, structure=structure)
    num_data = len(args[0] if subsample is None else subsample)
    count = 1 if copied else num_samples
    weighted = weigh(model_trace, guide_trace, count, structure, num_data, likelihood=likelihood)
    return weighted.of_copies(num_samples) if copied else weighted


def weigh(
    model_trace: poutine.Trace,
    guide_trace: poutine.Trace,
    num_samples: int,
    structure: Structure,
    num_data: int,
    *,
    likelihood: bool = False,
) -> Weighted:
    """Return the K samples of N data that are in the traces of a run (`run_pair`), with their log-weights."""
    sites, guided = samples(model_trace), [name for name in structure.q if name in guide_trace]
    # A latent that the guide leaves out is summed out, or drawn from its own conditional prior, which cancels.
    weighed = [n for n, s in sites.items() if n in guided or s["is_observed"] or enumerates(s) or is_point(s)]
    joint = log_prob_by_datum(model_trace, weighed, structure, num_data)
    total = joint - log_q_by_datum(model_trace, guide_trace, structure, num_data) if guided else joint
    size = (num_samples if total.shape[0] == 1 else -1, -1)
    log_likelihood = None
    if likelihood:
        latent = [n for n in weighed if not sites[n]["is_observed"]]
        log_likelihood = (joint - log_prob_by_datum(model_trace, latent, structure, num_data)).expand(size)
    drawn = {n: s for n, s in of_kind(sites, Kind.LATENT).items() if not enumerates(s)}
    return Weighted(
        total.expand(size),
        log_likelihood,
        {name: value_by_datum(site, structure) for name, site in drawn.items()},
        {name: value_by_datum(site, structure)[0] for name, site in of_kind(sites, Kind.OBSERVED).items()},
    )


def scored_trace(model_trace: poutine.Trace, guide_trace: poutine.Trace, structure: Structure) -> poutine.Trace:
    """Return the trace of a guide whose sites are scored just where the model scores the latents that they answer."""
    if not structure.masked:
        return guide_trace
    model, scored = samples(model_trace), guide_trace.copy()
    nodes: dict[str, Any] = scored.nodes
    nodes |= {n: scored_as_latent(nodes[n], model[n]) for n in structure.q if n in nodes and n in model}
    return scored


def log_q_by_datum(
    model_trace: poutine.Trace, guide_trace: poutine.Trace, structure: Structure, num_data: int
) -> Tensor:
    """Return log Q(z | x) of the values in a guide's trace, in nats, [K or 1, N]; other sites of it do not count.

    Where sites have another distribution beside, Q is the mixture: log (a Q_1(z | x) + (1 - a) Q_2(z | x)).
    """

    def of(trace: poutine.Trace) -> Tensor:
        scored = scored_trace(model_trace, trace, structure)
        return log_prob_by_datum(scored, [name for name in structure.q if name in scored], structure, num_data)

    nodes: dict[str, Any] = guide_trace.nodes
    beside = {n: nodes[n]["infer"][BESIDE] for n in structure.q if n in nodes and BESIDE in nodes[n]["infer"]}
    if not beside:
        return of(guide_trace)
    others, share = guide_trace.copy(), next(share for _, share in beside.values())
    nodes = others.nodes
    nodes |= {n: nodes[n] | {"fn": fn} for n, (fn, _) in beside.items()}
    return torch.logaddexp(math.log(share) + of(guide_trace), math.log1p(-share) + of(others))


def non_finite_site(pair: Pair, args: Args) -> str:
    """Say which site first has a value or a log-probability that is NaN or infinite, in words."""
    model_trace, guide_trace = get_traces(pair, args)
    for role, trace in (("guide", guide_trace), ("model", model_trace)):
        for name, site in samples(trace).items():
            log_prob = site["fn"].log_prob(site["value"], *site["args"], **site["kwargs"])
            value = filled(site["value"]) if site["is_observed"] else site["value"]  # NaN in data is missing
            for what, tensor in (("value", value), ("log-probability", log_prob)):
                bad = tensor[~torch.isfinite(tensor)]
                if len(bad):
                    return f"site {name!r} of the {role} (its {what} is {float(bad[0])} {len(bad)} times)"
    return "the sum over sites (each of which is finite)"


def check_sites(pair: Pair, model_trace: poutine.Trace, guide_trace: poutine.Trace) -> None:
    """Raise an InputError unless the guide answers the latent sites of the model, in the same shapes and supports."""
    model, guide = (program_name(p) for p in pair.programs.values())
    sites, guided = samples(model_trace), samples(guide_trace)
    latent, drawn = of_kind(sites, Kind.LATENT), latents(guided)
    missing = [n for n, s in latent.items() if n not in guided and not s["infer"].get("enumerate")]
    unmarked = sorted(n for n, s in drawn.items() if not s["infer"].get("is_auxiliary"))
    if missing and not set(unmarked) <= set(sites):  # one is the other under another name
        raise InputError(
            f"Expected a guide that samples the latent sites of the model; got {sorted(latent)} in the model {model} "
            f"and {unmarked} in the guide {guide}. Give both the same pyro.sample names."
        )
    for name, site in latent.items():
        if name not in guided:
            continue
        if guided[name]["is_observed"]:
            raise InputError(
                f"Expected the guide to draw {name!r}, a latent of the model {model}; got a site that is observed in "
                f"the guide {guide}. Observe it in both, or in neither."
            )
        own, other = (tuple(s["fn"].event_shape) for s in (site, guided[name]))
        if own != other:
            size = "Give both the same latent size."
            count = "Give both the same .to_event(n): the dimension of the data is no part of n, but of the plate."
            raise InputError(
                f"Expected the latent {name!r} to have one shape; got {own} in the model {model}{line_of(site)} and "
                f"{other} in the guide {guide}{line_of(guided[name])}. {size if len(own) == len(other) else count}"
            )


def check_same_plates(pair: Pair, traces: Sequence[poutine.Trace], num_data: int) -> None:
    """Refuse a latent that stands inside the plate over the data in the model or in the guide only."""
    try:
        data = data_plate(traces, num_data)
    except InputError:  # a plate of another size, or several: others say so
        return
    if data is None:
        return
    for name, *sites in answers(*map(samples, traces)):
        inside = [is_inside(site, data, num_data) for site in sites]
        if inside[0] == inside[1]:
            continue
        lacking = sites[inside.index(False)]
        where = [f"{role} {program_name(program)}" for role, program in pair.programs.items()]
        fix = f"Put it inside `with pyro.plate({data.name!r}, len(x)):` there"
        if not inside[0] and lacking["fn"].batch_shape.numel() == 1:
            fix += (
                f", if each datum has its own; if there is one for all data, make it a parameter, {name} = "
                f"pyro.param({name!r}, torch.zeros({tuple(lacking['fn'].event_shape)})), or let the guide sample it "
                f"outside of the plate, too"
            )
        raise InputError(
            f"Expected the latent {name!r} inside the plate over the data in model and guide, or in neither; got it "
            f"inside in the {where[inside.index(True)]}, and outside in the {where[inside.index(False)]}"
            f"{line_of(lacking)}. {fix}."
        )
