"""One step of training by ppl-vae, as `fit` does it."""

import contextlib
from collections.abc import Iterator
from itertools import chain, count

import pyro
from torch import Tensor

from ppl_vae.data.sources import TensorSource
from ppl_vae.fitting.options import FitOptions
from ppl_vae.fitting.steps import Steps
from ppl_vae.missing import all_known
from ppl_vae.traces.pair import Pair

from .architectures import Architecture
from .peers import LEARNING_RATE
from .timing import Competitor


def by_us(architecture: Architecture, data: Tensor, batch_size: int, *, compiled: bool = True) -> Competitor:
    """Return steps of ours, captured and compiled, or as they are where a program cannot be.

    Raises:
        CannotCapture: the programs cannot be captured or compiled here.
    """
    pair = Pair(*architecture.programs(), fresh=True)

    @contextlib.contextmanager
    def running() -> Iterator[None]:
        with pair.running(), pyro.validation_enabled(False), all_known():
            yield

    with running():
        pair.train(True)
        options = FitOptions(learning_rate=LEARNING_RATE)
        optimizer = options.optimizer_of(pair.parameters())
        steps = Steps(pair, optimizer, options)
        if compiled:
            steps.compile((data[:batch_size],))
    source = TensorSource((data,))
    batches = chain.from_iterable(source.batches(batch_size, shuffle=True) for _ in count())
    whole = (batch for batch in batches if len(batch[0]) == batch_size)
    return Competitor(lambda: steps(next(whole)), around=running)
