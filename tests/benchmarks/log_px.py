"""How fast log P(x) is: (sample, datum) pairs a second of ppl-vae, pythae, and the decoder's matrix products alone.

    python tests/benchmarks/log_px.py [--rounds 7] [--seconds 0.5] [--threads 2]

An MNIST-shaped VAE, encoder 784-400-50, decoder 50-400-784, Bernoulli; pythae's VAE holds the same weights. The
competitors run in turn in one process, in rounds; the medians are printed. Needs pythae (pip install pythae).
"""

import argparse
import functools
import math
import os
import statistics
import time
from collections.abc import Callable
from functools import partial

import pythae.models
import torch
from ppl_vae.guides import MeanField
from ppl_vae.models import VAE
from pythae.models.base.base_utils import ModelOutput
from pythae.models.nn import BaseDecoder, BaseEncoder
from torch.nn.functional import softplus

from ppl_vae import estimate_evidence
from ppl_vae.capture import log_weights_function
from ppl_vae.networks import MLP
from ppl_vae.pair import Pair
from ppl_vae.priors import StandardNormal
from ppl_vae.structure import structure_of
from ppl_vae.trace import get_traces, log_weights

LATENT, HIDDEN, SHAPE = 50, 400, (1, 28, 28)
NUM_SAMPLES = 4000  # K; pythae's get_nll takes one datum at a time
PYTHAE_DEFAULT = 100  # get_nll's batch_size
PYTHAE_SIZES = (100, 200, 500, 1000, 2000, 4000)
ROWS = (512, 1024, 2048, 4096, 8192, 16384)


class Encoder(BaseEncoder):
    """Our guide's network in pythae's form: its scale is softplus(r) + 1e-6, pythae wants the log variance."""

    def __init__(self, guide):
        super().__init__()
        self.network = guide.encoder

    def forward(self, x):
        loc, raw = self.network(x).chunk(2, -1)
        return ModelOutput(embedding=loc, log_covariance=2 * (softplus(raw) + 1e-6).log())


class Decoder(BaseDecoder):
    """Our model's network in pythae's form, which wants means."""

    def __init__(self, model):
        super().__init__()
        self.network = model.decoder

    def forward(self, z):
        return ModelOutput(reconstruction=self.network(z).sigmoid())


def timed(work: Callable[[], object], seconds: float) -> float:
    """Seconds for one piece of work, over as many as fit."""
    count, start = 0, time.perf_counter()
    while count == 0 or time.perf_counter() - start < seconds:
        work()
        count += 1
    return (time.perf_counter() - start) / count


def products(model: VAE, rows: int) -> dict[str, Callable[[], object]]:
    """The decoder's two products and nothing else, by each library."""
    first, _, second = model.decoder.layers
    z, hidden = torch.randn(rows, LATENT), torch.randn(rows, HIDDEN)
    onednn = torch.ops.mkldnn._linear_pointwise.default

    def by_mkl() -> None:
        torch.mm(z, first.weight.t())
        torch.mm(hidden, second.weight.t())

    def by_onednn() -> None:
        onednn(z, first.weight, None, "none", [], "")
        onednn(hidden, second.weight, None, "none", [], "")

    return {"MKL": by_mkl, "oneDNN": by_onednn}


def make() -> tuple[VAE, MeanField, pythae.models.VAE, torch.Tensor]:
    network = partial(MLP, hidden=(HIDDEN,))
    model = VAE(SHAPE, prior=StandardNormal(LATENT), decoder=network)
    guide = MeanField(model, encoder=network)
    config = pythae.models.VAEConfig(input_dim=SHAPE, latent_dim=LATENT, reconstruction_loss="bce")
    peer = pythae.models.VAE(config, Encoder(guide), Decoder(model)).eval()
    return model, guide, peer, (torch.rand(8, *SHAPE) < 0.3).float()


def agreement(model: VAE, guide: MeanField, peer: pythae.models.VAE, x: torch.Tensor) -> str:
    """Mean log P(x) by both; get_nll returns plus log p."""
    ours = estimate_evidence(model, guide, x, num_samples=NUM_SAMPLES, progress=False)
    mcse = float((ours.mcse**2).sum() ** 0.5) / len(x)
    # A K-sample mean of each has this standard error: pythae's is as noisy as ours.
    theirs = float(peer.get_nll(x, NUM_SAMPLES, 1000))
    ours_mean = float(ours.log_px.mean())
    apart = abs(ours_mean - theirs) / (math.sqrt(2) * mcse)
    verdict = "agree" if apart < 4 else "DISAGREE"
    return f"{verdict}: ours {ours_mean:.3f}, pythae {theirs:.3f} nats; {apart:.1f} standard errors ({mcse:.3f}) apart"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=0.5, help="for each competitor in each round")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    model, guide, peer, x = make()
    one = x[:1]
    pair = Pair(model, guide)
    load = os.getloadavg()[0]
    with pair.running(), pair.evaluating(), torch.no_grad():
        print(agreement(model, guide, peer, x))
        structure = structure_of(get_traces(pair, (x,)), len(x))
        competitors: dict[str, tuple[int, Callable[[], object]]] = {}
        for size in PYTHAE_SIZES:
            competitors[f"pythae {size}"] = (NUM_SAMPLES, partial(peer.get_nll, one, NUM_SAMPLES, size))
        compile_seconds = []
        for rows in ROWS:
            samples = rows // len(x)
            competitors[f"plain {rows}"] = (rows, partial(log_weights, pair, (x,), samples, structure))
            start = time.perf_counter()
            function = log_weights_function(pair, (x,), samples, structure)
            compile_seconds.append(time.perf_counter() - start)
            competitors[f"compiled {rows}"] = (rows, functools.partial(function, (x,)))
            for library, work in products(model, rows).items():
                competitors[f"{library} {rows}"] = (rows, work)
        rates: dict[str, list[float]] = {name: [] for name in competitors}
        for _ in range(options.rounds):
            for name, (rows, work) in competitors.items():
                rates[name].append(rows / timed(work, options.seconds))
        with torch.enable_grad():  # as a person calls it who does not think of no_grad
            as_called = [NUM_SAMPLES / timed(competitors[f"pythae {PYTHAE_DEFAULT}"][1], 1.0) for _ in range(3)]
    medians = {name: statistics.median(values) for name, values in rates.items()}

    def best(*kinds: str) -> tuple[str, float]:
        return max(((n, v) for n, v in medians.items() if n.split()[0] in kinds), key=lambda item: item[1])

    print(f"\n{options.threads} threads, load {load:.1f} before and {os.getloadavg()[0]:.1f} after; all medians:")
    for name, rate in medians.items():
        print(f"  {name:16} {rate:10,.0f}   ({min(rates[name]):,.0f} to {max(rates[name]):,.0f})")
    default = medians[f"pythae {PYTHAE_DEFAULT}"]
    table = {
        "(1) pythae get_nll, default batch, with gradients": ("pythae 100", statistics.median(as_called)),
        "(1) pythae get_nll, default batch, no_grad": (f"pythae {PYTHAE_DEFAULT}", default),
        "(1) pythae get_nll, best batch, no_grad": best("pythae"),
        "(2) ppl-vae plain, best chunk": best("plain"),
        "(3) ppl-vae compiled, best chunk": best("compiled"),
        "(4) the two products alone, best library and chunk": best("MKL", "oneDNN"),
    }
    print(f"\n{'':52}{'setting':16}{'samples/s':>10}{'(3) over it':>13}")
    compiled = best("compiled")[1]
    for label, (name, rate) in table.items():
        print(f"{label:52}{name:16}{rate:10,.0f}{compiled / rate:13.2f}")
    print(
        f"\ncompiling took {', '.join(f'{s:.1f}' for s in compile_seconds)} s for chunks of {', '.join(map(str, ROWS))}"
    )
    print(f"targets: 5.00 over pythae, 0.60 over the products; {compiled / best('pythae')[1]:.2f} and ", end="")
    print(f"{compiled / best('MKL', 'oneDNN')[1]:.2f} here")


if __name__ == "__main__":
    main()
