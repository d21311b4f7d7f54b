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
from ppl_vae.pair import Pair

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
    """Return the sample sites of a trace by name, without those that choose a plate's subset or only compute."""
    nodes: dict[str, Any] = prune_subsample_sites(trace).nodes
    sites = {name: site for name, site in nodes.items() if site["type"] == "sample"}
    return {name: site for name, site in sites.items() if not site["infer"].get("_deterministic")}


def latent_sites(pair: Pair, *args: Any) -> dict[str, torch.Size]:
    """Return the event shape of every site that the model samples, besides what it observes, by name.

    >>> from ppl_vae.models import VAE
    >>> latent_sites(Pair(VAE((1, 8, 8))), torch.zeros(1, 1, 8, 8))
    {'z': torch.Size([8])}
    """
    with pair.running(), torch.no_grad(), torch.random.fork_rng():
        trace = poutine.trace(pair.model).get_trace(*args)
    return {name: site["fn"].event_shape for name, site in samples(trace).items() if not site["is_observed"]}


def structure_of(traces: Iterable[poutine.Trace], num_data: int) -> Structure:
    """Find the plate over the data, and what else an estimator has to know, in the traces of a pair.

    Raises:
        InputError: a site is not inside a plate over the data, so its weights do not factor.
    """
    sites = [samples(trace) for trace in traces]
    everything = [site for some in sites for site in some.values()]
    frames = {f.name: f for site in everything for f in site["cond_indep_stack"] if f.vectorized}
    fitting = [f for f in frames.values() if num_data in (f.size, f.full_size)]
    if "data" not in frames and len(fitting) > 1:
        raise InputError(
            f"Expected one plate over the {num_data} data; got {len(fitting)} of that size: "
            f"{', '.join(f.name for f in fitting)}. Name the one over the data 'data'."
        )
    data = frames.get("data") or next(iter(fitting), None)
    outside = sorted({s["name"] for s in everything if data is None or not _inside(s, data)})
    if data is None or outside:
        raise InputError(
            f"Expected every site to stand inside one plate over the {num_data} data, so that log P(x) is a "
            f"sum over them; got {', '.join(outside) or 'no site at all'} outside of it. "
            f'Put it inside `with pyro.plate("data", len(x)):`.'
        )
    numel = {n: s["value"].numel() // data.size for n, s in sites[0].items()}
    return Structure(
        plate=data.name,
        dim=data.dim,
        subsampled=data.size != num_data,
        size=data.size,
        full_size=data.full_size or data.size,
        num_plates=-min(f.dim for f in frames.values()),
        numel=max(1, *numel.values()),
        observed_numel=sum(numel[n] for n, s in sites[0].items() if s["is_observed"]),
    )


def _all_alike(latents: list[Tensor]) -> bool:
    """Whether there are latents, all continuous, and all samples of them, along the first dimension, the same."""
    continuous = [z for z in latents if z.is_floating_point() and z.dim() > 0]
    return len(continuous) > 0 and all(bool((z == z[:1]).all()) for z in continuous)


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
    ...     structure = structure_of(get_traces(pair, (x,)), num_data=5)
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
    try:
        return _drawn(pair, args, num_samples, structure, proposal=proposal, subsample=subsample, vectorize=vectorize)
    except (ValueError, RuntimeError) as problem:
        if isinstance(problem, InputError):
            raise
        raise InputError(
            f"Expected programs that work under one more plate to the left of theirs, with values inside their "
            f"supports; got {type(problem).__name__}: {reason(problem)}. Mend that, or pass vectorize=False."
        ) from problem


def _drawn(
    pair: Pair,
    args: Args,
    num_samples: int,
    structure: Structure,
    *,
    proposal: str,
    subsample: Tensor | None,
    vectorize: bool,
) -> Tensor:
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
            guided = samples(guide_trace)
            denominator = list(guided.values())
            # A latent that the guide leaves out is drawn from its own conditional prior, which cancels.
            numerator = [s for n, s in samples(model_trace).items() if s["is_observed"] or n in guided]
        total = torch.zeros(1, num_data, device=pair.device)
        for site in numerator:
            total = total + _site_log_prob(site, structure, num_data)
        for site in denominator:
            total = total - _site_log_prob(site, structure, num_data)
    latents = [s["value"] for s in samples(model_trace).values() if not s["is_observed"]]
    if total.shape[0] not in (1, num_samples) or (vectorize and num_samples > 1 and _all_alike(latents)):
        raise InputError(
            f"Expected {num_samples} samples of {', '.join(n for n in samples(model_trace))} that differ; got the same "
            f"ones again, or none for each of the {num_data} data. Let the programs draw with pyro.sample and work "
            f"under one more plate to the left of theirs, or pass vectorize=False."
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
