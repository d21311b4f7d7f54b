"""Milliseconds for one SVI step of ours and of all peers, and the share of the machine's best product rate."""

import contextlib
import gc
import io
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from importlib.util import find_spec

import pyro
import torch

from ppl_vae.compilation.capture import CannotCapture

from . import bounds, ours, peers
from .architectures import ARCHITECTURES, Architecture, make_data
from .options import Options, say
from .products import large_products, step_operations
from .table import Number, Row, of_times
from .timing import Competitor, Times, in_turn

OURS, PLAIN = "ppl-vae", "ppl-vae, not compiled"
BY_EPOCH, COMPILED, SVI_STEP = "NumPyro, epoch in one fori_loop", "by hand, torch.compile", "Pyro SVI, Trace_ELBO"
AIMS: dict[str, dict[int, float]] = {
    SVI_STEP: {20: 0.5, 100: 0.5},
    COMPILED: {20: 1.0, 100: 1.0, 512: 1.0},
    BY_EPOCH: {20: 1.0, 100: 1.0, 512: 1.0},
}
MISSING = {"numpyro": "NumPyro", "jax": "JAX", "pythae": "pythae"}
Maker = Callable[[Architecture, torch.Tensor, int], Competitor]


def makers() -> dict[str, Maker]:
    """Return what makes each competitor, those left out that are not installed."""
    found: dict[str, Maker] = {
        OURS: ours.by_us,
        PLAIN: partial(ours.by_us, compiled=False),
        SVI_STEP: peers.by_pyro,
        "the same, its checks off": partial(peers.by_pyro, checks=False),
        "Pyro SVI, JitTrace_ELBO": peers.by_jit,
        "by hand, eager": peers.by_hand,
        COMPILED: partial(peers.by_hand, compiled=True),
    }
    if find_spec("numpyro") and find_spec("jax"):
        from . import numpyro_peer

        found |= {"NumPyro, jitted step": numpyro_peer.by_step, BY_EPOCH: numpyro_peer.by_epoch}
    if find_spec("pythae"):
        from . import pythae_peer

        found["pythae, trainer with its loader"] = pythae_peer.by_trainer
    return found | {"our products and convolutions alone": bounds.products, "PyTorch's fused Adam alone": bounds.adam}


def missing() -> list[str]:
    """Return a line for each peer that is not installed."""
    return [
        f"{name} is not installed: pip install 'ppl-vae[bench]'"
        for module, name in MISSING.items()
        if not find_spec(module)
    ]


def section(options: Options) -> Iterator[Row]:
    """Measure every architecture at every batch size; yield its rows."""
    for name in options.architectures:
        architecture = ARCHITECTURES[name]
        cells = {batch: _cell(architecture, batch, options) for batch in options.batches}
        yield from _rows(architecture, cells)


def _cell(architecture: Architecture, batch: int, options: Options) -> dict[str, Times]:
    """Return the times of all competitors at one batch size."""
    data = make_data()
    torch._dynamo.reset()  # what was compiled for another size shall not make this one's dynamic
    pyro.clear_param_store()
    made = {}
    for name, maker in makers().items():
        say(f"{architecture.title}, batch {batch}: {name}")
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                competitor = maker(architecture, data, batch)
                with competitor.around():
                    competitor.work()  # compiles
                    competitor.finish()
            made[name] = competitor
        except CannotCapture as problem:
            say(f"{name} is left out: {problem}")
    found = in_turn(made | large_products(), options.rounds, options.seconds)
    pyro.clear_param_store()
    del made
    gc.collect()
    say("; ".join(f"{name} {times.median * 1e3:.2f} ms" for name, times in found.items() if times.median > 1e-6))
    return found


def _rows(architecture: Architecture, cells: dict[int, dict[str, Times]]) -> Iterator[Row]:
    sizes = " / ".join(map(str, cells))
    mine = [times.get(OURS) for times in cells.values()]
    for name in makers():
        if name != OURS:
            theirs = [times.get(name) for times in cells.values()]
            aim: list[Number] = [AIMS.get(name, {}).get(batch) for batch in cells]
            yield of_times(f"ms per step, {architecture.title}, batch {sizes}", name, mine, theirs, aim=aim)
    # Operations in our step's time, over those that the best product does in the same round's time.
    shares = [_of_best_product(times, step_operations(architecture, batch)) for batch, times in cells.items()]
    yield Row(
        f"GFLOP/s of a step's products, {architecture.title}, batch {sizes}",
        "the machine's best product",
        [share and share[0] for share in shares],
        [share and share[1] for share in shares],
        [share and share[2] for share in shares],
        [share and share[3] for share in shares],
        [share and share[4] for share in shares],
        [None] * len(shares),
    )


def _of_best_product(times: dict[str, Times], operations: float) -> tuple[float, ...] | None:
    """Return GFLOP/s of our step and of the best product, their ratio, and both of the best round."""
    mine = times.get(OURS)
    if mine is None:
        return None
    best = best_product(value for name, value in times.items() if name in large_products())
    per_operation = mine.scaled(1 / operations)
    rates = [1e-9 / value for value in (per_operation.median, best.median, per_operation.least, best.least)]
    return rates[0], rates[1], best.over(per_operation), rates[2], rates[3]


def best_product(times: Iterable[Times]) -> Times:
    """Return the times of the library and size with the best median."""
    return min(times, key=lambda value: value.median)
