"""log P(x): (sample, datum) pairs a second of ours, of pythae's get_nll, and of the decoder's products alone.

A VAE of MNIST's shape, encoder 784-400-50, decoder 50-400-784, Bernoulli; pythae's holds the same weights.
"""

import math
from collections.abc import Iterator
from functools import partial
from importlib.util import find_spec
from typing import Any

import torch
from ppl_vae.guides import MeanField
from ppl_vae.models import VAE
from torch import Tensor

from ppl_vae import estimate_evidence
from ppl_vae.compilation.capture import CannotCapture
from ppl_vae.evidence.weight_sampler import log_weights_function
from ppl_vae.networks import MLP
from ppl_vae.priors import StandardNormal
from ppl_vae.traces.log_weights import log_weights
from ppl_vae.traces.pair import Pair
from ppl_vae.traces.plates import structure_of
from ppl_vae.traces.run import get_traces

from .architectures import SHAPE
from .options import Options, say
from .products import chain_products
from .table import Row, of_rates
from .timing import Competitor, Times, in_turn

LATENT, HIDDEN = 50, 400
NUM_DATA = 8
NUM_SAMPLES = 4000  # K of pythae's get_nll, which takes one datum at a time
PYTHAE_DEFAULT = 100  # get_nll's batch_size
PYTHAE_SIZES = (100, 200, 500, 1000, 2000, 4000)
ROWS = (512, 1024, 2048, 4096, 8192)
WORK = "1,000 samples of log P(x) a second, MLP 784-400-50"


def section(options: Options) -> Iterator[Row]:
    """Measure everything in turn; yield the rows of our compiled log-weights at their best chunk."""
    torch.manual_seed(0)
    network = partial(MLP, hidden=(HIDDEN,))
    model = VAE(SHAPE, prior=StandardNormal(LATENT), decoder=network)
    guide = MeanField(model, encoder=network)
    x = (torch.rand(NUM_DATA, *SHAPE) < 0.3).float()
    pair = Pair(model, guide)
    with pair.running(), pair.evaluating(), torch.no_grad():
        competitors = _ours(pair, x, options) | _pythae(model, guide, x, options)
        for rows in _sizes(ROWS, options):
            competitors |= chain_products(model.decoder.layers, rows)
        times = in_turn(competitors, options.rounds, options.seconds)
    for name, value in times.items():
        say(f"log P(x): {name} {1e-3 / value.median:.1f} thousand a second")
    try:
        _, mine = _best(times, "compiled")
    except ValueError:
        return
    for title, kinds, aim in (
        ("ppl-vae, not compiled", ("plain",), None),
        ("pythae get_nll, best batch size, no_grad", ("pythae",), -5.0),
        (f"pythae get_nll as called (batches of {PYTHAE_DEFAULT}, gradients)", ("as_called",), None),
        ("the decoder's two products alone, best library", ("MKL", "oneDNN"), -0.6),
    ):
        if any(name.split()[0] in kinds for name in times):
            name, theirs = _best(times, *kinds)
            yield of_rates(WORK, f"{title} ({name})", mine, theirs, per=1e3, aim=aim)


def _ours(pair: Pair, x: Tensor, options: Options) -> dict[str, Competitor]:
    structure = structure_of(get_traces(pair, (x,)), len(x))
    found = {}
    for rows in _sizes(ROWS, options):
        samples = rows // len(x)
        found[f"plain {rows}"] = Competitor(partial(log_weights, pair, (x,), samples, structure), units=rows)
        try:
            function = log_weights_function(pair, (x,), samples, structure)
            found[f"compiled {rows}"] = Competitor(partial(function, (x,)), units=rows)
        except CannotCapture as problem:
            say(f"log P(x), compiled, is left out: {problem}")
    return found


def _pythae(model: VAE, guide: MeanField, x: Tensor, options: Options) -> dict[str, Competitor]:
    if not find_spec("pythae"):
        return {}
    from .pythae_peer import make_vae

    peer = make_vae(guide.encoder, model.decoder, LATENT).eval()
    say(_agreement(model, guide, peer, x))
    one, found = x[:1], {}
    for size in _sizes(PYTHAE_SIZES, options):
        found[f"pythae {size}"] = Competitor(partial(peer.get_nll, one, NUM_SAMPLES, size), units=NUM_SAMPLES)
    default = partial(peer.get_nll, one, NUM_SAMPLES, PYTHAE_DEFAULT)
    found[f"as_called {PYTHAE_DEFAULT}"] = Competitor(default, units=NUM_SAMPLES, around=torch.enable_grad)
    return found


def _sizes(sizes: tuple[int, ...], options: Options) -> tuple[int, ...]:
    return sizes[2:4] if options.quick else sizes


def _best(times: dict[str, Times], *kinds: str) -> tuple[str, Times]:
    """Return the setting with the best median among those of these kinds."""
    return min(((n, t) for n, t in times.items() if n.split()[0] in kinds), key=lambda item: item[1].median)


def _agreement(model: VAE, guide: MeanField, peer: Any, x: Tensor) -> str:
    """Say whether both find the same mean log P(x); get_nll returns plus log p."""
    ours = estimate_evidence(model, guide, x, method="importance", num_samples=NUM_SAMPLES, progress=False)
    mcse = float((ours.mcse**2).sum() ** 0.5) / len(x)
    # A K-sample mean of each has this standard error: pythae's is as noisy as ours.
    theirs = float(peer.get_nll(x, NUM_SAMPLES, 1000))
    mean = float(ours.log_px.mean())
    apart = abs(mean - theirs) / (math.sqrt(2) * mcse)
    verdict = "agree" if apart < 4 else "DISAGREE"
    return f"log P(x): {verdict}, ours {mean:.3f}, pythae {theirs:.3f} nats, {apart:.1f} standard errors apart"
