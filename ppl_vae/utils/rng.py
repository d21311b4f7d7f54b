"""Random states that come and go: inside `seeded`, draws depend on its numbers only.

Epochs seeded by (seed, epoch) let an interrupted run go on bit for bit, without a random state on disk.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from pyro.util import get_rng_state, set_rng_seed, set_rng_state

from ppl_vae.errors import whole_from
from ppl_vae.utils.one_at_a_time import one_at_a_time


@contextmanager
def seeded(*numbers: int) -> Iterator[None]:
    """Seed PyTorch, NumPy and Python's random from these numbers; put their states back at the end.

    Other threads of ours wait until then (`one_at_a_time`).

    Raises:
        InputError: a seed that is not a whole number of at least 0.

    >>> with seeded(0, 3):
    ...     a = torch.rand(1)
    >>> with seeded(0, 3):
    ...     b = torch.rand(1)
    >>> bool(a == b)
    True
    """
    seeds = [whole_from(0, "a seed", number) for number in numbers]
    with one_at_a_time():
        before = get_rng_state()
        with torch.random.fork_rng():  # on all devices
            set_rng_seed(int(np.random.SeedSequence(seeds).generate_state(1)[0]))
            try:
                yield
            finally:
                set_rng_state(before)
