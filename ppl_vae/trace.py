"""The log-weights of a model and a guide, read off their traces.

    log w_k = log P(x, z_k) - log Q(z_k | x),    z_k ~ Q(z | x),    k = 1 .. K,

one for each sample and each datum, shape [K, N]. A site's log-probability is summed over all its plates
but the one over the data and the one over the samples, and is taken without the scale that a subsampled
plate or an annealing handler puts on it (a mask is kept): scaled or summed over the data before the
log-mean-exp, the weights of different data would mix, and the estimate would be of something else.
"""

from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.distributions.util import scale_and_mask
from pyro.poutine.messenger import Messenger
from pyro.poutine.subsample_messenger import _Subsample
from pyro.poutine.util import prune_subsample_sites
from torch import Tensor

from ppl_vae.errors import InputError, reason
from ppl_vae.pair import Pair, program_name

Args = tuple[Any, ...]
Site = dict[str, Any]


@dataclass(frozen=True)
class Structure:
    """What a run of a pair shows of it.

    Attributes:
        plate: the name of the plate over the data.
        dim: the dimension of that plate, counted from the right (-1 in our programs).
        subsampled: whether the program itself takes a random subset of the data it is given.
        size: how many data the run evaluated.
        full_size: how many data the plate stands for: its scale is full_size / size.
        num_plates: how many dimensions the plates of the pair take.
        numel: the largest number of values that a site of the model holds for one datum.
        observed_numel: the number of observed values for one datum.
    """

    plate: str
    dim: int
    subsampled: bool
    size: int
    full_size: int
    num_plates: int
    numel: int
    observed_numel: int


class FixedSubsample(Messenger):
    """Make the plate over the data take these data instead of a random subset."""

    def __init__(self, plate: str, index: Tensor) -> None:
        super().__init__()
        self.plate, self.index = plate, index

    def _pyro_sample(self, msg: Any) -> None:
        if msg["name"] == self.plate and isinstance(msg["fn"], _Subsample):
            msg["value"], msg["done"] = self.index, True


def get_traces(pair: Pair, args: Args) -> tuple[poutine.Trace, poutine.Trace]:
    """Run the guide, then the model against it; return the traces of (model, guide)."""
    guide_trace = poutine.trace(pair.guide).get_trace(*args)
    model_trace = poutine.trace(poutine.replay(pair.model, trace=guide_trace)).get_trace(*args)
    return model_trace, guide_trace


def samples(trace: poutine.Trace) -> dict[str, Site]:
    """Return the sample sites of a trace by name, without those that choose a plate's subset."""
    nodes: dict[str, Any] = prune_subsample_sites(trace).nodes
    return {name: site for name, site in nodes.items() if site["type"] == "sample"}


def latent_sites(pair: Pair, *args: Any) -> dict[str, torch.Size]:
    """Return the event shape of every site that the model samples, besides what it observes, by name.

    >>> from ppl_vae.models import VAE
    >>> latent_sites(Pair(VAE((1, 8, 8))), torch.zeros(1, 1, 8, 8))
    {'z': torch.Size([8])}
    """
    with pair.running(), torch.no_grad(), torch.random.fork_rng():
        trace = poutine.trace(pair.model).get_trace(*args)
    return {name: site["fn"].event_shape for name, site in samples(trace).items() if not site["is_observed"]}


def probe(pair: Pair, args: Args, *, proposal: str = "guide") -> list[poutine.Trace]:
    """Run a pair once on some data and check that the two fit together; return [model trace, guide trace].

    Raises:
        InputError: a program that fails on these data, or two programs whose latent sites differ.
    """
    try:
        model_trace = poutine.trace(pair.model).get_trace(*args)
        if proposal == "prior":
            return [model_trace]
        if pair.guide is None:
            raise InputError("Expected a guide Q(z | x); got none. Give one, or use proposal='prior'.")
        check_sites(pair, model_trace, poutine.trace(pair.guide).get_trace(*args))
        return list(get_traces(pair, args))
    except InputError as problem:
        raise InputError(reason(problem)) from None  # Pyro adds a table of all shapes below
    except Exception as problem:
        raise InputError(
            f"Expected {' and '.join(map(program_name, pair.programs.values()))} to run on data of shape "
            f"{', '.join(str(tuple(a.shape)) for a in args)}; got {type(problem).__name__}: "
            f"{reason(problem)}. Do their shapes fit the data's?"
        ) from problem


def check_sites(pair: Pair, model_trace: poutine.Trace, guide_trace: poutine.Trace) -> None:
    """Check that the guide samples just the latent sites of the model, in the same shapes.

    Raises:
        InputError: names or shapes differ; both are named.
    """
    model, guide = (program_name(p) for p in pair.programs.values())
    latents = {n: s for n, s in samples(model_trace).items() if not s["is_observed"]}
    guided = {n: s for n, s in samples(guide_trace).items() if not s["infer"].get("is_auxiliary")}
    missing = [n for n in latents if n not in guided and not latents[n]["infer"].get("enumerate")]
    if missing or set(guided) - set(latents):
        raise InputError(
            f"Expected a guide that samples the latent sites of the model; got {sorted(latents)} in the model {model} "
            f"and {sorted(guided)} in the guide {guide}. Give both the same pyro.sample names."
        )
    for name, site in latents.items():
        if name in guided and site["fn"].event_shape != guided[name]["fn"].event_shape:
            raise InputError(
                f"Expected site {name!r} to have one shape; got {tuple(site['fn'].event_shape)} in the model {model} "
                f"and {tuple(guided[name]['fn'].event_shape)} in the guide {guide}. Give both the same latent size."
            )


def structure_of(traces: Iterable[poutine.Trace], num_data: int) -> Structure:
    """Find the plate over the data, and what else an estimator has to know, in the traces of a pair.

    Raises:
        InputError: a site is not inside a plate over the data, so its weights do not factor.
    """
    sites = [samples(trace) for trace in traces]
    everything = [site for some in sites for site in some.values()]
    frames = {f.name: f for site in everything for f in site["cond_indep_stack"] if f.vectorized}
    fitting = [f for f in frames.values() if num_data in (f.size, f.full_size)]
    data = frames.get("data") or next(iter(fitting), None)
    outside = sorted({s["name"] for s in everything if data is None or not _inside(s, data)})
    if data is None or outside:
        raise InputError(
            f"Expected every site to stand inside one plate over the {num_data} data, so that log P(x) is a "
            f"sum over them; got {', '.join(outside) or 'no site at all'} outside of it. "
            f'Put it inside `with pyro.plate("data", len(x)):`.'
        )
    numel = {n: max(1, s["value"].numel() // data.size) for n, s in sites[0].items()}
    return Structure(
        plate=data.name,
        dim=data.dim,
        subsampled=data.size != num_data,
        size=data.size,
        full_size=data.full_size or data.size,
        num_plates=-min(f.dim for f in frames.values()),
        numel=max(numel.values()),
        observed_numel=sum(numel[n] for n, s in sites[0].items() if s["is_observed"]),
    )


def _inside(site: Site, data: Any) -> bool:
    # Model and guide may name their plates differently: the same dimension and size is the same plate.
    return any(f.name == data.name or (f.dim, f.size) == (data.dim, data.size) for f in site["cond_indep_stack"])


def _site_log_prob(site: Site, shape: Structure, num_data: int) -> Tensor:
    """Return a site's log-probability without its scale, [K or 1, N]."""
    log_prob = site["fn"].log_prob(site["value"], *site["args"], **site["kwargs"])
    log_prob = scale_and_mask(log_prob, mask=site["mask"])
    missing = shape.num_plates + 1 - log_prob.dim()
    log_prob = log_prob.reshape((1,) * max(missing, 0) + log_prob.shape)
    others = [d for d in range(-shape.num_plates, 0) if d != shape.dim]
    return (log_prob.sum(others) if others else log_prob).expand(-1, num_data)


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

    With `proposal="prior"` z_k is drawn from the model itself, and log w_k = log P(x | z_k).

    Args:
        pair: the two programs; call it within `pair.running()`.
        args: what both are called with: x first.
        num_samples: K, how many z are drawn for each datum.
        structure: as `structure_of` found it.
        proposal: "guide" or "prior".
        subsample: which data a plate with a random subset has to take.
        vectorize: draw all samples in one run, inside a plate left of all others; else K runs.

    Raises:
        InputError: the programs do not give one weight for each sample and datum.

    >>> from ppl_vae.models import LinearGaussian
    >>> from ppl_vae.guides import LinearGaussian as Posterior
    >>> model = LinearGaussian((20,), latent_dim=4)
    >>> pair, x = Pair(model, Posterior(model)), torch.randn(5, 20)
    >>> with pair.running(), torch.no_grad():
    ...     structure = structure_of(probe(pair, (x,)), num_data=5)
    ...     weights = log_weights(pair, (x,), 3, structure)
    >>> torch.allclose(weights, model.exact_log_px(x).expand(3, 5), atol=1e-4)
    True
    """
    if not vectorize and num_samples > 1:
        one = [
            log_weights(pair, args, 1, structure, proposal=proposal, subsample=subsample, vectorize=False)
            for _ in range(num_samples)
        ]
        return torch.cat(one)
    num_data = len(args[0] if subsample is None else subsample)
    particles = pyro.plate("particles", num_samples, dim=-structure.num_plates - 1) if vectorize else nullcontext()
    fixed = nullcontext() if subsample is None else FixedSubsample(structure.plate, subsample)
    with fixed, particles:
        if proposal == "prior":
            model_trace = poutine.trace(pair.model).get_trace(*args)
            numerator = [s for s in samples(model_trace).values() if s["is_observed"]]
            denominator: list[Site] = []
        else:
            model_trace, guide_trace = get_traces(pair, args)
            numerator, denominator = list(samples(model_trace).values()), list(samples(guide_trace).values())
        total = torch.zeros(1, num_data, device=pair.device)
        for site in numerator:
            total = total + _site_log_prob(site, structure, num_data)
        for site in denominator:
            total = total - _site_log_prob(site, structure, num_data)
    if total.shape[0] not in (1, num_samples):
        raise InputError(
            f"Expected log-weights of shape [{num_samples}, {num_data}]; got {tuple(total.shape)}. Let the "
            f"programs work under one more plate to the left of theirs, or pass vectorize=False."
        )
    return total.expand(num_samples, num_data)


def non_finite_site(pair: Pair, args: Args) -> str:
    """Say which site first has a value or a log-probability that is NaN or infinite, in words."""
    model_trace, guide_trace = get_traces(pair, args)
    for role, trace in (("guide", guide_trace), ("model", model_trace)):
        for name, site in samples(trace).items():
            log_prob = site["fn"].log_prob(site["value"], *site["args"], **site["kwargs"])
            for what, tensor in (("value", site["value"]), ("log-probability", log_prob)):
                bad = tensor[~torch.isfinite(tensor)]
                if len(bad):
                    return f"site {name!r} of the {role} (its {what} is {float(bad[0])} {len(bad)} times)"
    return "the sum over sites (each of which is finite)"
