"""Log-weights for chunks of data: as many rows at once as there is room for, compiled where that pays."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import pyro
import torch
from torch import Tensor

from ppl_vae.compilation.capture import (
    LARGE,
    UNLIKE,
    CannotCapture,
    capture,
    check_tensors,
    compiled_or_none,
    pays,
    turned,
)
from ppl_vae.compilation.record import LOG_WEIGHTS, alike
from ppl_vae.errors import InputError
from ppl_vae.evidence.at_once import drawn_at_once, in_words
from ppl_vae.evidence.options import ImportanceOptions
from ppl_vae.evidence.prepare import Chunk, Prepared
from ppl_vae.evidence.refine import Shifts, Steps, beside, best_shifts
from ppl_vae.traces.log_weights import Weighted, checked, draw, log_weights
from ppl_vae.traces.pair import Pair
from ppl_vae.traces.plates import Args, Structure
from ppl_vae.utils.chunks import run_sizes
from ppl_vae.utils.report import Array
from ppl_vae.utils.rng import seeded
from ppl_vae.utils.threads import Threads, Work

LogWeights = Callable[[Args], Tensor]


def log_weights_function(
    pair: Pair, args: Args, num_samples: int, structure: Structure, *, proposal: str = "guide"
) -> LogWeights:
    """Return a compiled function that gives the log-weights of data shaped like these, in nats, [num_samples, N].

    Each call draws anew, as `log_weights` does, with the values that parameters and buffers have then. Before it is
    returned it is held against plain Pyro, on these data and on the same in another order; CannotCapture is raised
    where that fails. Arguments as for `log_weights`; call it within `pair.evaluating()`, too.
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
        if not alike(results[1], results[0], LOG_WEIGHTS):
            raise CannotCapture(UNLIKE)
    return captured


REFINED_AT_ONCE = 256  # data whose guide is refined together


class Sampler:
    """Draws samples for each datum of a chunk and weighs them: `num_samples` in the first round."""

    def __init__(self, prepared: Prepared, options: ImportanceOptions, threads: Threads) -> None:
        self.prepared, self.options, self.threads = prepared, options, threads
        self.refined = options.proposal == "refined"
        self.proposal = "guide" if self.refined else options.proposal
        # A refined guide is for its data only, and takes no copies of them.
        copies = not self.refined
        self.structure, self.vectorize = drawn_at_once(prepared, options.vectorize, self.proposal, copies=copies)
        once = prepared.exact and not options.num_draws  # all weights of a datum are the same
        self.num_samples = 1 if once else options.num_samples
        rows = prepared.rows(options.chunk_size)
        together = prepared.taken(min(REFINED_AT_ONCE, len(prepared.source)) if self.refined else 1)
        runs = -(-self.num_samples // max(1, rows // together))
        self.at_once = -(-self.num_samples // runs)  # runs of one size, but for the last
        self.data_at_once = max(together, rows // self.at_once)
        if options.vectorize == "auto" and not self.vectorize:
            self.at_once, self.data_at_once, runs = 1, max(together, prepared.taken(rows)), self.num_samples
        self.calls = prepared.num_chunks(self.data_at_once) * runs
        self.settings: dict[str, float] = {}  # what is to be said of its proposal
        self._compiled: LogWeights | None = None
        self._shifts: tuple[Chunk, Shifts] | None = None
        self._steps = Steps(options.compile, prepared.num_chunks(self.data_at_once))

    @property
    def selective(self) -> bool:
        """Whether some of a chunk's data can be had without the others (a refined guide is for all of them)."""
        return self.prepared.divisible and not self.refined

    @property
    def compiled(self) -> bool:
        """Whether samples are drawn by a compiled function."""
        return self._compiled is not None

    def compile(self, chunk: Chunk) -> None:
        """Choose the number of threads; compile the log-weights of such chunks, if wanted, or "auto" and pays."""
        trial, wanted = partial(self._trial, chunk), self.options.compile
        self.threads.choose(trial, self.calls)
        cannot = self._why_not()
        if (wanted == "auto" and cannot) or not pays(wanted, trial, self.calls, few=LARGE):
            return

        def make() -> LogWeights:
            if cannot:
                raise CannotCapture(cannot)
            pair = self.prepared.pair
            return log_weights_function(pair, chunk.args, self.at_once, self.structure, proposal=self.proposal)

        self._compiled = compiled_or_none(make, wanted=wanted)
        if self.compiled:
            self.threads.choose(trial, self.calls)

    @contextmanager
    def _trial(self, chunk: Chunk) -> Iterator[Work]:
        """Draw log-weights from a random state that is put back."""
        pair = self._pairs(chunk, self.at_once)[-1][0]  # refined once, by the estimate's own random numbers
        with seeded(0):
            yield partial(self._run, pair, chunk, self.at_once)

    def _why_not(self) -> str:
        """Say what about the work, not the programs, stands against compiling; nothing, if nothing does."""
        if self.refined:
            return "each chunk of data has a refined guide of its own"
        if not self.prepared.divisible:
            return "the program takes all data at once"
        how = in_words(self.structure, self.vectorize)
        return how and f"samples are drawn {how}"

    def weights(self, chunk: Chunk, num_samples: int) -> Array:
        """Return log-weights [K, n] in nats."""
        runs = [
            partial(self._run, pair, chunk, some)
            for pair, count in self._pairs(chunk, num_samples)
            for some in run_sizes(count, self.at_once)
        ]
        drawn = torch.cat([self.threads.run(run, partial(self._trial, chunk)) for run in runs])
        if self.refined:  # the first of them are to be samples of what all are of
            drawn = drawn[torch.randperm(len(drawn), device=drawn.device)]
        return np.asarray(drawn.double().cpu().numpy())

    def weighted(self, chunk: Chunk, num_samples: int) -> Weighted:
        """Return log-weights together with the latents they belong to."""
        how, at_once = self._how(chunk), self.at_once if self.vectorize else 1
        runs = [
            draw(pair, chunk.args, some, self.structure, likelihood=True, **how)
            for pair, count in self._pairs(chunk, num_samples)
            for some in run_sizes(count, at_once)
        ]
        found = checked(Weighted.concatenated(runs), num_samples)
        return found.shuffled() if self.refined else found

    def _run(self, pair: Pair, chunk: Chunk, count: int) -> Tensor:
        # It has one shape; others are left to Pyro, which for the same seed gives the same samples.
        if self._compiled is not None and (count, chunk.size) == (self.at_once, self.data_at_once):
            return self._compiled(chunk.args)
        return log_weights(pair, chunk.args, count, self.structure, **self._how(chunk))

    def _how(self, chunk: Chunk) -> dict[str, Any]:
        return {"proposal": self.proposal, "subsample": chunk.subsample, "vectorize": self.vectorize}

    def _pairs(self, chunk: Chunk, num_samples: int) -> list[tuple[Pair, int]]:
        """Return the pairs whose guides draw so many samples, and how many each."""
        pair = self.prepared.pair
        return beside(pair, self._shifts_of(chunk), num_samples) if self.refined else [(pair, num_samples)]

    def _shifts_of(self, chunk: Chunk) -> Shifts:
        if self._shifts is None or self._shifts[0] is not chunk:
            how: Any = {"subsample": chunk.subsample, "vectorize": self.vectorize}
            shifts = best_shifts(self.prepared.pair, chunk.args, self.structure, steps=self._steps, **how)
            self._shifts = chunk, shifts
        return self._shifts[1]
