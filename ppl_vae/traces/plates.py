"""What the traces of a pair say of it: its plate over the data, and log-probabilities per datum.

A site's log-probability is summed over all its plates but those of the data and of the samples, without the scale
that a subsampled plate or an annealing handler puts on it (a mask is kept): else the weights of different data would
mix before the log-mean-exp. Discrete sites that Pyro enumerates are summed out exactly.
"""

import functools
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from pyro import poutine
from pyro.distributions.util import scale_and_mask
from pyro.ops.contract import contract_to_tensor
from pyro.ops.packed import pack, unpack
from pyro.poutine.util import prune_subsample_sites
from torch import Tensor

from ppl_vae.distributions.masks import unmasked
from ppl_vae.distributions.supports import is_corrected, support_of
from ppl_vae.errors import InputError
from ppl_vae.traces.sites import (
    Kind,
    Site,
    at,
    batch_shape,
    counted,
    is_computed,
    is_masked,
    names_of_q,
    names_of_summed,
    of_kind,
)

Args = tuple[Any, ...]
Frame = Any  # of Pyro's plates: name, dim, size, full_size


@dataclass(frozen=True)
class Structure:
    """What a run of a pair shows of it."""

    plate: str  # the name of the plate over the data
    dim: int  # of that plate, counted from the right (-1 in our programs)
    subsampled: bool  # whether the program itself takes a random subset of the data it is given
    size: int  # how many data the run evaluated
    full_size: int  # how many data the plate stands for: its scale is full_size / size
    num_plates: int  # how many dimensions the plates of the pair take
    numel: int  # the largest number of values that a site of the model holds for one datum
    observed_numel: int  # how many values of one datum are observed and scored
    enumerated: bool  # whether all latents that the guide leaves out are discrete and summed out
    q: tuple[str, ...] = ()  # the sites of the guide that log Q is made of, see `ppl_vae.traces.sites`
    summed: tuple[str, ...] = ()  # discrete latents that are summed out though the guide draws something there
    plated: bool = True  # whether the programs run under one more plate; else they are given copies of the data
    masked: bool = False  # whether anything of a latent may be left out


def samples(trace: poutine.Trace) -> dict[str, Site]:
    """Return the sample sites of a trace by name, without those that choose a plate's subset or only compute."""
    nodes: dict[str, Any] = prune_subsample_sites(trace).nodes
    sites = {name: site for name, site in nodes.items() if site["type"] == "sample"}
    return {name: site for name, site in sites.items() if not is_computed(site)}


def latents(sites: Mapping[str, Site]) -> dict[str, Site]:
    """Return the latent ones of some sites, by name."""
    return {name: site for name, site in sites.items() if not site["is_observed"]}


def data_plate(traces: Iterable[poutine.Trace], num_data: int) -> Frame | None:
    """Return the plate over the data: of plates of their number the one called data, else that of most sites; or None.

    A plate without a size has that of the data. One that takes a random subset of them stands for all of them.

    Raises:
        InputError: a plate called data of another size, or several plates that may be the one.
    """
    everything = [site for trace in traces for site in samples(trace).values()]
    frames = {f.name: f for site in everything for f in map(_sized(num_data), _frames(site))}
    fitting = [f for f in frames.values() if num_data in (f.size, f.full_size)]
    named = frames.get("data")
    if named is not None and not fitting:
        raise InputError(
            f"Expected the plate 'data' to be as long as its data, {num_data} in a trial; got one of size "
            f'{named.size}. Make it `with pyro.plate("data", len(x)):`, or give another plate another name.'
        )
    inside = {f.name: sum(is_inside(site, f, num_data) for site in everything) for f in fitting}
    most = [f for f in fitting if inside[f.name] == max(inside.values())]
    if len({f.dim for f in most}) > 1 and "data" not in {f.name for f in most}:
        raise AmbiguousPlatesError(
            f"Expected one plate over the data; got {len(most)} of their number: {', '.join(f.name for f in most)}. "
            f"Name the one over the data 'data'."
        )
    return next((f for f in most if f.name == "data"), next(iter(most), None))


class AmbiguousPlatesError(InputError):
    """Several plates may be the one over the data; a run on another number of data may tell them apart."""


def is_ambiguous(traces: Iterable[poutine.Trace], num_data: int) -> bool:
    """Return whether several plates may be the one over the data, as far as a run on so many says."""
    try:
        data_plate(traces, num_data)
    except AmbiguousPlatesError:
        return True
    except InputError:
        pass
    return False


def outside_of(traces: Iterable[poutine.Trace], data: Frame | None, num_data: int) -> dict[str, Site]:
    """Return the sites of a pair that do not stand inside the plate over the data."""
    sites = [(name, site) for trace in traces for name, site in samples(trace).items()]
    return {name: site for name, site in sites if data is None or not is_inside(site, data, num_data)}


def structure_of(traces: Iterable[poutine.Trace], num_data: int) -> Structure:
    """Return what traces of a pair show; raise an InputError if a site is not inside a plate over the data."""
    traces = list(traces)
    data = data_plate(traces, num_data)
    outside = outside_of(traces, data, num_data)
    model, guide = samples(traces[0]), samples(traces[1]) if len(traces) > 1 else {}
    if data is None or outside:
        automatic = set(outside) - set(model) and of_kind(guide, Kind.POINT, model=model)
        raise _outside_of_plate(outside, automatic=bool(automatic))
    check_one_for_each(traces, data, num_data)
    every = [*model.values(), *guide.values()]
    numel = {n: counted(s).numel() // data.size for n, s in model.items()}
    num_plates = -min(f.dim for site in every for f in _frames(site))
    _check_plated(every, num_plates)
    return Structure(
        plate=data.name,
        dim=data.dim,
        subsampled=data.size != num_data,
        size=data.size,
        full_size=data.full_size or data.size,
        num_plates=num_plates,
        numel=max(1, *numel.values()),
        observed_numel=sum(numel[n] for n, s in of_kind(model, Kind.OBSERVED).items() if s["mask"] is not False),
        enumerated=len(traces) > 1 and _left_out_are_enumerable(model, guide),
        q=names_of_q(model, guide),
        summed=names_of_summed(model, guide),
        masked=any(is_masked(site) for site in (*of_kind(model, Kind.LATENT).values(), *latents(guide).values())),
    )


def _outside_of_plate(outside: dict[str, Site], *, automatic: bool) -> InputError:
    names = sorted(outside)
    found = "no site at all" if not names else at(outside[names[0]])
    found += f" and {few(names[1:])}" if names[1:] else ""
    fix = f'Put it inside `with pyro.plate("data", len(x)):`{", or make it a parameter" if latents(outside) else ""}.'
    if automatic:
        fix = "An automatic guide that draws all data in one site is none of each: use AutoNormal, or one that reads x."
    return InputError(
        f"Expected every site to stand inside one plate over the data; got {found} outside of it: with a site of all "
        f"data together the weights do not factor over them. {fix}"
    )


def check_one_for_each(traces: Iterable[poutine.Trace], data: Frame, num_data: int) -> None:
    """Refuse latents of which there is one for all data, as a plate without a size does not make one for each."""
    for trace in traces:
        for name, site in latents(samples(trace)).items():
            unsized = any(f.dim == data.dim and f.size < 0 for f in _frames(site))
            at = site["value"].dim() + data.dim - site["fn"].event_dim
            if unsized and num_data > 1 and (at < 0 or site["value"].shape[at] != num_data):
                raise InputError(
                    f"Expected a value of {name!r} for each datum; got one of shape "
                    f"{tuple(site['value'].shape)}: a plate without a size does not expand. Write "
                    f"`with pyro.plate({data.name!r}, len(x)):`."
                )


def _check_plated(sites: Iterable[Site], num_plates: int) -> None:
    """Refuse sites with several distributions for each datum left of all plates, where samples will stand."""
    for site in sites:
        if any(size > 1 for size in batch_shape(site)[:-num_plates]):
            raise InputError(
                f"Expected one distribution for each datum, and the numbers of one datum in one event; got "
                f"{at(site)} with {' x '.join(map(str, batch_shape(site)))} of them and {num_plates} "
                f"plate{'s' * (num_plates > 1)}: [N, 1] beside [N] makes [N, N]. Write .to_event(n) for the n "
                f"dimensions of one datum, or give both one shape."
            )


def check_scores_all(traces: Iterable[poutine.Trace], shape: Structure) -> None:
    """Refuse plates inside a datum that take a part of it: what is scored is then no log P of all of it."""
    stacks = [site["cond_indep_stack"] for trace in traces for site in samples(trace).values()]
    for frame in (frame for stack in stacks for frame in stack):
        if frame.dim != shape.dim and frame.full_size not in (None, frame.size):
            raise InputError(
                f"Expected programs that score all of a datum; got the plate {frame.name!r}, which takes "
                f"{frame.size} of {frame.full_size}: log P(x) would be that of a part. Take the subset for `fit` only: "
                f"leave out `subsample_size` here."
            )


def few(names: list[str]) -> str:
    """Return some names in words, the first of them if they are many."""
    return ", ".join(names) if len(names) < 8 else f"{', '.join(names[:5])} and {len(names) - 5} more"


def _left_out_are_enumerable(model: dict[str, Site], guide: dict[str, Site]) -> bool:
    summed = names_of_summed(model, guide)
    left_out = [site for name, site in of_kind(model, Kind.LATENT).items() if name not in guide]
    marked = [site["infer"].get("enumerate") == "parallel" and site["fn"].has_enumerate_support for site in left_out]
    return len(left_out) + len(summed) > 0 and all(marked)


def _frames(site: Site) -> list[Frame]:
    return [f for f in site["cond_indep_stack"] if f.vectorized]


def _sized(num_data: int) -> Callable[[Frame], Frame]:
    """Return what gives a plate without a size (-1, "arbitrary" to PyTorch) that of the data."""
    return lambda f: f._replace(size=num_data, full_size=num_data) if f.size < 0 else f


def is_inside(site: Site, data: Frame, num_data: int) -> bool:
    """Return whether a site stands in a plate over so many data."""
    # Model and guide may name their plates differently: the same dimension and size is the same plate.
    frames = map(_sized(num_data), _frames(site))
    return any(f.name == data.name or (f.dim, f.size) == (data.dim, data.size) for f in frames)


def num_data_of(sites: Iterable[Site], shape: Structure) -> int:
    """Return how many data a run evaluated."""
    for site in sites:
        frame = next((f for f in _frames(site) if f.dim == shape.dim), None)
        if frame is not None and frame.size > 0:
            return int(frame.size)
        if frame is not None and (at := site["value"].dim() + shape.dim - site["fn"].event_dim) >= 0:
            return int(site["value"].shape[at])
    return shape.size


def observed_numbers(sites: Mapping[str, Site]) -> int:
    """Return how many numbers, not NaN, the sites of a model observe and score, of all data of a run together."""
    observed = of_kind(sites, Kind.OBSERVED).values()
    return sum(int((counted(site) & ~site["value"].isnan()).sum()) for site in observed)


def enumerates(site: Site) -> bool:
    """Return whether Pyro enumerates this site in parallel (its value then has a dimension of its own)."""
    return site["infer"].get("_enumerate_dim") is not None


def data_name(sites: Iterable[str]) -> str:
    """Return which of some sites holds the data: the one called x, else the last."""
    names = list(sites)
    return "x" if "x" in names else names[-1]


def to_kn(value: Tensor, event_dim: int, shape: Structure) -> Tensor:
    """Return what stands at a site, [..., K, plates, event], as [..., K or 1, N or 1, other plates, event].

    The rightmost `event_dim` dimensions are not plates. All plates of the pair are there, those that the site does not
    stand in with size 1; dimensions left of K are those of enumerated sites.
    """
    absent = shape.num_plates + 1 + event_dim - value.dim()
    value = value.reshape((1,) * absent + value.shape)
    return value.movedim(shape.dim - event_dim, -shape.num_plates - event_dim)


def numbers_by_datum(value: Tensor, event_dim: int, shape: Structure) -> Tensor:
    """Return what stands at a site as all its numbers for each datum, [K or 1, N or 1, D]."""
    value = to_kn(value, event_dim, shape)
    return value.reshape(*value.shape[:2], -1)


def from_kn(value: Tensor, shape: Structure) -> Tensor:
    """Return [K, N, other plates, event] laid out as Pyro does: the opposite of `to_kn`."""
    event_dim = value.dim() - shape.num_plates - 1
    return value.movedim(1, shape.dim - event_dim)


def like_site(value: Tensor, dims: int, shape: Structure) -> Tensor:
    """Return numbers [K, N] in so many dimensions that they broadcast over a site's value, laid out as Pyro does."""
    return from_kn(value.reshape(*value.shape, *(1,) * (dims - 2)), shape)


def log_prob_by_datum(trace: poutine.Trace, names: Iterable[str], shape: Structure, num_data: int) -> Tensor:
    """Return the sum of the log-probabilities of some sites of a trace for each datum, [K or 1, N].

    Enumerated sites are summed out (log-sum-exp), each inside its own plates, by Pyro's tensor variable elimination
    (Obermeyer et al., arXiv 1902.03210).
    """
    sites = samples(trace)
    chosen = [sites[name] for name in names]
    if not any(map(enumerates, chosen)):
        device = next((site["value"].device for site in sites.values()), None)
        return total_log_prob(chosen, shape, num_data, device)
    trace = _with_one_plate_a_dimension(trace)
    sites = samples(trace)
    chosen = [sites[site["name"]] for site in chosen]
    trace.symbolize_dims()
    terms = [_log_prob(site) for site in chosen]
    dtype = functools.reduce(torch.promote_types, (term.dtype for term in terms))  # doubles beside a model of floats
    packed = [pack(t.to(dtype), s["infer"]["_dim_to_symbol"]) for t, s in zip(terms, chosen, strict=True)]
    present = {symbol for term in packed for symbol in term._pyro_dims}  # dimensions of size 1 are gone
    tree: OrderedDict[frozenset[str], list[Tensor]] = OrderedDict()
    kept: dict[str, int] = {}
    for site, term in zip(chosen, packed, strict=True):
        plates = {trace.plate_to_symbol[f.name]: f.dim for f in site["cond_indep_stack"] if f.vectorized}
        tree.setdefault(frozenset(plates) & present, []).append(term)
        kept |= {s: d for s, d in plates.items() if d in (shape.dim, -shape.num_plates - 1) and s in present}
    enumerated = present - set(trace.plate_to_symbol.values())
    result = contract_to_tensor(tree, enumerated, frozenset(kept))
    return sum_by_datum(unpack(result, kept), shape, num_data)


def _with_one_plate_a_dimension(trace: poutine.Trace) -> poutine.Trace:
    """Return a trace whose plates are called by their dimension: two programs' names for one plate are one."""
    renamed = trace.copy()
    for name, site in trace.nodes.items():
        if site["type"] == "sample":
            stack = tuple(f._replace(name=f"dim {f.dim}") if f.vectorized else f for f in site["cond_indep_stack"])
            renamed.nodes[name] = site | {"cond_indep_stack": stack}
    return renamed


def total_log_prob(
    sites: Iterable[Site], shape: Structure, num_data: int, device: torch.device | None = None
) -> Tensor:
    """Return the sum of the log-probabilities of sites, none of them enumerated, for each datum, [K or 1, N]."""
    terms = [sum_by_datum(_log_prob(site), shape, num_data) for site in sites]
    return functools.reduce(torch.add, terms) if terms else torch.zeros(1, num_data, device=device)


def _log_prob(site: Site) -> Tensor:
    fn = unmasked(site["fn"]) if enumerates(site) else site["fn"]
    log_prob = fn.log_prob(site["value"], *site["args"], **site["kwargs"])
    if is_corrected(site["fn"]):  # its density goes on where it should end
        support: Any = support_of(site["fn"])
        log_prob = torch.where(support.check(site["value"]), log_prob, -torch.inf)
    # A site that is summed out is a distribution even where it is masked: Pyro would count its values there.
    return log_prob if enumerates(site) else scale_and_mask(log_prob, mask=site["mask"])


def sum_by_datum(log_prob: Tensor, shape: Structure, num_data: int) -> Tensor:
    """Sum what stands in the batch dimensions of a site over all its plates but those two, [K or 1, N]."""
    log_prob = to_kn(log_prob, 0, shape)
    if shape.num_plates > 1:
        log_prob = log_prob.sum(list(range(1 - shape.num_plates, 0)))
    return log_prob.expand(-1, num_data)


def value_by_datum(site: Site, shape: Structure) -> Tensor:
    """Return a site's value as [K or 1, N, ...]: its other plates, then its event dimensions, last."""
    event_dim = site["fn"].event_dim
    used = {f.dim for f in site["cond_indep_stack"] if f.vectorized}
    others = [d for d in range(-shape.num_plates, 0) if d != shape.dim]  # in this order, where `to_kn` has put them
    unused = [i - len(others) - event_dim for i, d in enumerate(others) if d not in used]
    return to_kn(site["value"], event_dim, shape).squeeze(unused)
