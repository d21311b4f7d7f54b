"""Generating x: from the prior with the guide thrown away, from the posterior of some x, along a grid of z."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from pyro import poutine
from torch import Tensor
from torch.distributions import constraints

from ppl_vae import base
from ppl_vae.compilation.capture import check_compile
from ppl_vae.conditional import ConditionalModel
from ppl_vae.data.as_source import as_source
from ppl_vae.distributions.unwrap import family_of
from ppl_vae.errors import InputError, positive_int, reason, shown, true_or_false
from ppl_vae.generation.ancestral import Ancestral, check_range
from ppl_vae.generation.programs import as_generator, generated
from ppl_vae.traces.handlers import Regenerated
from ppl_vae.traces.pair import Pair, Program, program_name
from ppl_vae.traces.plates import data_name, latents, samples
from ppl_vae.traces.sites import Kind, Site, of_kind
from ppl_vae.utils.arrays import is_array, tensor_of
from ppl_vae.utils.chunks import run_sizes
from ppl_vae.utils.faults import expecting
from ppl_vae.utils.memory import check_memory
from ppl_vae.utils.rng import seeded
from ppl_vae.utils.threads import Threads

CHUNK = 1000  # data generated or reconstructed at once
QUANTILE_DRAWS = 100_000


def sample(
    model: Program,
    size: int | None = None,
    *,
    mean: bool = False,
    seed: int = 0,
    compile: bool | str = "auto",
    threads: int | str = "auto",
    **conditions: Any,
) -> Tensor:
    """Generate new data: z ~ P(z), then x ~ P(x | z), or given y x ~ P(x | z, y); the guide is not used.

    Args:
        model: a program with `forward(x=None, *, size=None)`; or any other that can be run without data, or with data
            of which it reads only how many there are. Its own plate then says how many it generates in one run.
        size: how many; by default as many as there are conditions, else one.
        mean: return E[x | z] instead of a draw (the usual picture of a sample).
        seed: of the draws; the global random state is left as it was.
        compile: run a compiled graph of the program instead of Pyro, for each whole thousand of data after the first:
            True, False, or "auto" where that saves time (of small networks, for millions of data). The draws are the
            same, up to rounding.
        threads: how many threads, a number, or auto, which tries one and all. The trial is short, made after the
            first thousand and again where the work becomes slow. They change results by rounding only.
        **conditions: what a conditional model is given, for instance `y=labels`: one for each datum, or one for all;
            None leaves one out.

    Returns:
        x, [size, *event_shape]: what a model of ours returns; of any other, the values of the site x, or of the last
        one; those of sites in a loop (x_0, x_1, ...) stacked, [size, T, ...].

    Raises:
        InputError: a size below 1, a model that cannot generate, or conditions of another shape, number or range.

    >>> from ppl_vae.models import VAE
    >>> sample(VAE((1, 8, 8)), 4).shape
    torch.Size([4, 1, 8, 8])
    """
    pair = Pair(model)
    given = _as_given(pair, conditions)
    sizes = [len(value) for value in given.values() if value.dim()]
    size = positive_int("size", max(sizes, default=1) if size is None else size)
    for name, value in given.items():
        if value.dim() and len(value) not in (1, size):
            raise InputError(f"Expected {name} for each of {size} data, or one for all; got {len(value)}.")
        given[name] = value.expand(size, *value.shape[1:]).clone(memory_format=torch.contiguous_format)
    check_compile(compile)
    mean = true_or_false("mean", mean)
    check_memory("data", size, "Generate fewer at once.")
    chunks = [{name: v[start : start + CHUNK] for name, v in given.items()} for start in range(0, size, CHUNK)]
    left_out = {name: None for name, value in conditions.items() if value is None}
    with Threads(threads) as chosen, _running(pair, seed):
        sizes = run_sizes(size, CHUNK)
        program = as_generator(pair, chunks[0] | left_out, sizes[0])
        generate = Ancestral(pair, partial(program, **left_out), mean, chosen)
        parts = [generate(sizes[0], chunks[0])]  # parameters that do not exist yet are made by it
        if len(parts[0]) != sizes[0]:
            return _in_its_own_number(generate, parts[0], size, given)
        generate.compile(CHUNK, chunks[1 : size // CHUNK], compile)
        parts += [generate(n, some) for n, some in zip(sizes[1:], chunks[1:], strict=True)]
    return torch.cat(parts)


def _in_its_own_number(generate: Ancestral, first: Tensor, size: int, given: dict[str, Tensor]) -> Tensor:
    """Return `size` data of a program that generates a number of its own, whatever it is asked for."""
    if given or not len(first):
        raise InputError(
            f"Expected a model that generates one datum for each of {size} conditions; got {len(first)} data. Let its "
            f"plate have the size of what it is given."
        )
    parts = [first]
    while sum(map(len, parts)) < size:
        parts.append(generate(len(first), {}))
    return torch.cat(parts)[:size]


def same_latents(model: Program, size: int, *, seed: int = 0, **conditions: Any) -> Tensor:
    """Generate data that share their z across conditions: the same style for every label.

    Args:
        model: a conditional model.
        size: how many z are drawn, given the first condition.
        seed: of the draws.
        **conditions: M of them, for instance `y=torch.arange(10)`.

    Returns:
        E[x | z_k, y_m], [size, M, *event_shape].

    Raises:
        InputError: as `sample`, or no condition.

    >>> from ppl_vae.models import CVAE
    >>> same_latents(CVAE((1, 8, 8)), 4, y=torch.arange(10)).shape
    torch.Size([4, 10, 1, 8, 8])
    """
    pair = Pair(model)
    given = {name: torch.atleast_1d(value) for name, value in _as_given(pair, conditions).items()}
    if not given:
        raise InputError("Expected conditions that share their z; got none. Give some, such as y=torch.arange(10).")
    positive_int("size", size)
    first: dict[str, Any] = {name: value[:1].expand(size, *value.shape[1:]) for name, value in given.items()}
    sample(model, size, seed=seed, **first)  # refuse what cannot be generated
    with _running(pair, seed):
        sites = samples(poutine.trace(model).get_trace(size=size, **first))
    z = {name: site["value"] for name, site in latents(sites).items() if name != data_name(sites)}
    fixed = poutine.condition(model, z)
    count = min(len(value) for value in given.values())
    each = [{name: value[m : m + 1] for name, value in given.items()} for m in range(count)]
    return torch.stack([sample(fixed, size, mean=True, seed=seed, **one) for one in each], dim=1)


def reconstruct(model: Program, guide: Program, data: Any, *, mean: bool = True, seed: int = 0) -> Tensor:
    """Reconstruct data: z ~ Q(z | x), then x' ~ P(x | z).

    Args:
        model: P(x, z).
        guide: Q(z | x).
        data: as in `fit`: a tensor [N, *event_shape], a split, ...
        mean: return E[x | z] instead of a draw.
        seed: of the draws.

    Returns:
        x', [N, *event_shape]: of the observed site, or sites in a loop, that hold the first of the data; where they are
        not observed as they are, of the observed site x, or the last.

    Raises:
        InputError: data that do not fit the model, a guide with other sites, or `mean` of a distribution without.

    >>> from ppl_vae.models import VAE
    >>> from ppl_vae.guides import MeanField
    >>> model = VAE((1, 8, 8))
    >>> reconstruct(model, MeanField(model), torch.zeros(3, 1, 8, 8)).shape
    torch.Size([3, 1, 8, 8])
    """
    pair = Pair(model, guide)
    parts = []
    with _running(pair, seed):
        for batch in as_source(data, pair, ordered=True).batches(CHUNK):
            args = pair.to_device(batch)
            with expecting("a program that runs to its end"):
                guide_trace = poutine.trace(guide).get_trace(*args)
                x, sites = generated(pair, poutine.replay(Regenerated()(model), trace=guide_trace), mean, *args)
            _check_answered(pair, samples(guide_trace), sites)
            parts.append(x)
    return torch.cat(parts)


def _check_answered(pair: Pair, guided: dict[str, Site], sites: dict[str, Site]) -> None:
    """Refuse a guide that draws a latent of the model under another name: the model would draw its own."""
    drawn = of_kind(guided, Kind.AUXILIARY, model=sites)
    unknown = [name for name, site in drawn.items() if name not in sites and not site["infer"].get("is_auxiliary")]
    unasked = ("was_observed", "enumerate")
    latent = of_kind(sites, Kind.LATENT)
    left_out = [n for n, s in latent.items() if n not in guided and not any(map(s["infer"].get, unasked))]
    if unknown and left_out:
        model, guide = (program_name(program) for program in pair.programs.values())
        raise InputError(
            f"Expected a guide that samples the latent sites of the model; got {', '.join(unknown)} in the guide "
            f"{guide}, and {', '.join(sites)} in the model {model}. Give both the same pyro.sample names."
        )


def manifold(model: Program, grid: int = 20, *, seed: int = 0) -> Tensor:
    """Decode a two-dimensional z on a grid of prior quantiles: the map of what the model knows.

    The grid runs over the quantiles (i + 1/2) / grid of each dimension of z, found from draws of the prior.

    Returns:
        E[x | z], [grid, grid, *event_shape]; the first dimension of z grows to the right, the second upwards.

    Raises:
        InputError: a model whose latent is not one site of two dimensions.

    Source: figure 4 of Kingma & Welling, arXiv 1312.6114.

    >>> from ppl_vae.models import VAE
    >>> from ppl_vae.priors import StandardNormal
    >>> manifold(VAE((1, 8, 8), prior=StandardNormal(2)), grid=5).shape
    torch.Size([5, 5, 1, 8, 8])
    """
    grid = positive_int("grid", grid)
    check_memory("images", grid**2)
    pair = Pair(model)
    with _running(pair, seed):
        sites = _sites_of_one(model)
        data = data_name(sites)
        latents = {n: tuple(s["fn"].event_shape) for n, s in sites.items() if n != data}
        if list(latents.values()) != [(2,)]:
            raise InputError(
                f"Expected a model with one latent site of two dimensions for a map; got {latents}. "
                f"Train one with a prior of latent_dim=2."
            )
        (name,) = latents
        runs = (samples(poutine.trace(model).get_trace(size=n)) for n in run_sizes(QUANTILE_DRAWS, CHUNK))
        draws = torch.cat([sites[name]["value"] for sites in runs])
        levels = (torch.arange(grid) + 0.5) / grid
        across, up = (torch.quantile(draws[:, d].float().cpu(), levels) for d in (0, 1))
        z = torch.stack(torch.meshgrid(across, up.flip(0), indexing="xy"), dim=-1).reshape(-1, 2).to(draws)
        x, _ = generated(pair, poutine.condition(model, {name: z}), True, size=len(z))
    return x.reshape(grid, grid, *x.shape[1:])


def _sites_of_one(model: Program) -> dict[str, Site]:
    """Return the sites of a model that generates one datum."""
    try:
        sites = samples(poutine.trace(model).get_trace(size=1))
    except TypeError as problem:
        raise InputError(
            f"Expected a model that is called with size=n to generate; got {program_name(model)} ({reason(problem)}). "
            f"Give it that argument."
        ) from problem
    if not sites:
        raise InputError(f"Expected a model with a latent site; got {program_name(model)}, which samples nothing.")
    return sites


def _as_given(pair: Pair, conditions: dict[str, Any]) -> dict[str, Tensor]:
    """Return conditions as tensors that the model takes, without those that are None, once they are seen to fit."""
    given = {}
    for name, value in conditions.items():
        if value is None:
            continue
        try:
            given[name] = tensor_of(value, position=1).to(pair.device)
        except InputError as problem:
            said = f"{problem} (This is of the condition {name}.)"
            plain = f"Expected {name} as numbers; got {type(value).__name__} {shown(value)}. Give a tensor of them."
            raise InputError(said if is_array(value) else plain) from None
        if not given[name].numel():
            raise InputError(f"Expected at least one {name}; got none. Give one, or leave {name} out.")
    model = pair.modules.get("model")
    if isinstance(model, ConditionalModel) and "y" in given:
        given["y"] = _checked(model, given["y"])
    return given


def _checked(model: ConditionalModel, y: Tensor) -> Tensor:
    """Return a condition in the dtype of the model, unless it is a whole number, once it is seen to be in range."""
    if model.condition.example().is_floating_point():
        dtypes = (p.dtype for p in model.parameters() if p.is_floating_point())
        y = y.to(next(dtypes, torch.get_default_dtype()))
    y = y[None] if y.shape == model.condition.shape == torch.Size() else y  # a number stands for all
    _, read = model.condition.split(None, y)
    if read is None or not bool(torch.isfinite(read).all()):
        raise InputError("Expected finite conditions y; got NaN or infinity. Replace them.")
    check_range("y", model.condition(), read)
    return y


@contextmanager
def _running(pair: Pair, seed: int) -> Iterator[None]:
    """Within it programs generate, from a seed."""
    with seeded(seed), pair.running(), pair.evaluating(), torch.no_grad():
        yield


def takes_binary_data(model: base.Model) -> bool:
    """Return whether a model's data are zeros and ones, read off the site that generates them."""
    with _running(Pair(model), 0):
        sites = samples(poutine.trace(model).get_trace(*model.example()))
    return family_of(sites[data_name(sites)]["fn"]).support is constraints.boolean
