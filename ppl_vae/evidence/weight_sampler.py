"""Log-weights for chunks of data: as many rows at once as there is room for, compiled where that pays."""

import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pyro
import torch
from torch import Tensor

from ppl_vae.compilation.capture import (
    LARGE,
    UNLIKE,
    CannotCapture,
    alike,
    capture,
    check_tensors,
    compiling_pays,
    turned,
)
from ppl_vae.errors import InputError
from ppl_vae.evidence.diagnostics import Array
from ppl_vae.evidence.prepare import Chunk, Prepared, run_sizes
from ppl_vae.evidence.refine import refine
from ppl_vae.traces.log_weights import Weighted, checked, draw, log_weights
from ppl_vae.traces.pair import Pair
from ppl_vae.traces.plates import Args, Structure
from ppl_vae.utils.rng import seeded

LogWeights = Callable[[Args], Tensor]


def log_weights_function(
    pair: Pair, args: Args, num_samples: int, structure: Structure, *, proposal: str = "guide"
) -> LogWeights:
    """Return a compiled function that gives the log-weights of data shaped like these, in nats, [num_samples, N].

    Each call draws anew from PyTorch's global generator: for the same seed the weights are those of
    `trace.log_weights`, up to rounding. It uses the values that parameters and buffers have when it is called;
    everything else that the programs read (numbers, Python's attributes) is as it was here. Before it is
    returned it is held against plain Pyro, on these data and on the same in another order.

    Args:
        pair: the two programs; call it within `pair.running()` and `pair.evaluating()`.
        args: what both are called with, all tensors: x first. Real data: the function is tried on them.
        num_samples: K, how many z are drawn for each datum.
        structure: as `structure_of` found it.
        proposal: "guide" or "prior".

    Raises:
        CannotCapture: the programs cannot be recorded or compiled (Python that depends on values, a plate that takes
            a random subset of the data, no C++ compiler).
        InputError: as `trace.log_weights`.

    >>> from ppl_vae.models import LinearGaussian
    >>> from ppl_vae.guides import LinearGaussian as Posterior
    >>> from ppl_vae.traces.plates import structure_of
    >>> from ppl_vae.traces.run import get_traces
    >>> model = LinearGaussian((20,), latent_dim=4)
    >>> pair, x = Pair(model, Posterior(model)), torch.randn(5, 20)
    >>> with pair.running(), pair.evaluating(), torch.no_grad():
    ...     structure = structure_of(get_traces(pair, (x,)), num_data=5)
    ...     weights = log_weights_function(pair, (x,), 3, structure)((x,))
    >>> torch.allclose(weights, model.exact_log_px(x).expand(3, 5), atol=1e-4)
    True
    """
    if structure.subsampled:
        raise CannotCapture("the program takes a random subset of its data")
    check_tensors(args)

    def plain(*tensors: Tensor) -> tuple[Tensor, ...]:
        return (draw(pair, tensors, num_samples, structure, proposal=proposal).log_weights,)

    with seeded(0), torch.no_grad():
        # This makes parameters that do not exist yet, and what is wrong in plain Pyro is told by plain Pyro.
        log_weights(pair, args, num_samples, structure, proposal=proposal)
        function = capture(plain, *args)
    shapes = [(value.shape, value.dtype, value.device) for value in args]

    def captured(args: Args) -> Tensor:
        if [(value.shape, value.dtype, value.device) for value in args] != shapes:
            raise InputError(
                f"Expected data of the shapes it was compiled for, {[tuple(s) for s, *_ in shapes]}; got "
                f"{[tuple(value.shape) for value in args]}. Fill a short batch up, or compile for it as well."
            )
        return function(*args)[0]

    for some in (args, turned(args)):
        results = []
        for one in (plain, function):
            with seeded(1), torch.no_grad(), pyro.validation_enabled(False):
                results.append(one(*some))
        if not alike(results[0], results[1]):
            raise CannotCapture(UNLIKE)
    return captured


REFINED_AT_ONCE = 256  # data whose guide is refined together


class Sampler:
    """Draws K samples for each datum of a chunk and weighs them.

    Args:
        prepared: the pair and its data.
        num_samples: K of the first round.
        proposal: "guide", "refined" or "prior".
        rows: how many (sample, datum) pairs are evaluated at once.
        vectorize: draw many samples in one run.
    """

    def __init__(self, prepared: Prepared, num_samples: int, proposal: str, rows: int, vectorize: bool) -> None:
        self.prepared, self.refined, self.vectorize = prepared, proposal == "refined", vectorize
        self.proposal = "guide" if self.refined else proposal
        together = (
            prepared.structure.size
            if prepared.structure.subsampled
            else len(prepared.source)
            if prepared.whole_only
            else 1
        )
        if self.refined and prepared.divisible:
            together = min(REFINED_AT_ONCE, len(prepared.source))
        room = max(1, rows // together)
        self.at_once = -(-num_samples // -(-num_samples // room))  # runs of one size, but for the last
        self.data_at_once = max(together, rows // self.at_once)
        self.calls = -(-len(prepared.source) // self.data_at_once) * -(-num_samples // self.at_once)
        self._compiled: LogWeights | None = None
        self._refined: tuple[Chunk, Pair] | None = None

    @property
    def selective(self) -> bool:
        """Whether some of a chunk's data can be had without the others (a refined guide is for all of them)."""
        return self.prepared.divisible and not self.refined

    @property
    def compiled(self) -> bool:
        """Whether samples are drawn by a compiled function."""
        return self._compiled is not None

    def compile(self, chunk: Chunk, wanted: bool | str) -> None:
        """Compile the log-weights of chunks like this one, if that is wanted, or "auto" and pays."""
        cannot = self._why_not()
        if wanted is False or (wanted == "auto" and (cannot or self.calls < LARGE)):
            return
        if wanted == "auto":
            with seeded(0):
                self._plain(self.prepared.pair, chunk, self.at_once)
                start = time.perf_counter()
                self._plain(self.prepared.pair, chunk, self.at_once)
            if not compiling_pays((time.perf_counter() - start) * self.calls):
                return
        try:
            if cannot:
                raise CannotCapture(cannot)
            self._compiled = log_weights_function(
                self.prepared.pair, chunk.args, self.at_once, self.prepared.structure, proposal=self.proposal
            )
        except CannotCapture as problem:
            warnings.warn(f"Plain Pyro is used, as {problem}.", stacklevel=3)

    def _why_not(self) -> str:
        """Say what about the work, not the programs, stands against compiling; nothing, if nothing does."""
        if self.refined:
            return "each chunk of data has a refined guide of its own"
        if not self.prepared.divisible:
            return "the program takes all data at once"
        return "" if self.vectorize else "vectorize=False asks for one sample in a run"

    def weights(self, chunk: Chunk, num_samples: int) -> Array:
        """Return log-weights [K, n] in nats."""
        pair = self._pair(chunk)
        parts = [self._run(pair, chunk, k) for k in run_sizes(num_samples, self.at_once)]
        return np.asarray(torch.cat(parts).double().cpu().numpy())

    def weighted(self, chunk: Chunk, num_samples: int) -> Weighted:
        """Return log-weights together with the latents they belong to."""
        pair, options = self._pair(chunk), self._options(chunk) | {"likelihood": True}
        counts = run_sizes(num_samples, self.at_once)
        runs = [draw(pair, chunk.args, count, self.prepared.structure, **options) for count in counts]
        return checked(Weighted.concatenated(runs), num_samples)

    def _run(self, pair: Pair, chunk: Chunk, count: int) -> Tensor:
        # It has one shape; others are left to Pyro, which for the same seed gives the same samples.
        if self._compiled is not None and (count, chunk.size) == (self.at_once, self.data_at_once):
            return self._compiled(chunk.args)
        return self._plain(pair, chunk, count)

    def _plain(self, pair: Pair, chunk: Chunk, count: int) -> Tensor:
        options = self._options(chunk) | {"vectorize": self.vectorize}
        return log_weights(pair, chunk.args, count, self.prepared.structure, **options)

    def _options(self, chunk: Chunk) -> dict[str, Any]:
        return {"proposal": self.proposal, "subsample": chunk.subsample}

    def _pair(self, chunk: Chunk) -> Pair:
        if not self.refined:
            return self.prepared.pair
        if self._refined is None or self._refined[0] is not chunk:
            options: dict[str, Any] = {"subsample": chunk.subsample, "vectorize": self.vectorize}
            pair = refine(self.prepared.pair, chunk.args, self.prepared.structure, **options)
            self._refined = (chunk, pair)
        return self._refined[1]
