"""What log P(x) holds at once: chunks of samples x data, never all of them."""

import gc
import tracemalloc

import torch
from ppl_vae.guides import LinearGaussian as ExactPosterior
from torch.utils._python_dispatch import TorchDispatchMode

from ppl_vae import estimate_evidence

SAMPLES = 1000
CHUNK = 3 * SAMPLES  # three data at once


class Largest(TorchDispatchMode):
    """Remember how many numbers the largest tensor has that is made within."""

    numbers = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for value in result if isinstance(result, tuple | list) else (result,):
            if isinstance(value, torch.Tensor):
                self.numbers = max(self.numbers, value.untyped_storage().nbytes() // value.element_size())
        return result


def held(pair, x):
    """The numbers of the largest tensor, and the peak of NumPy's and Python's memory in bytes."""
    gc.collect()
    tracemalloc.start()
    try:
        with Largest() as mode:
            estimate_evidence(
                *pair, x, method="importance", num_samples=SAMPLES, chunk_size=CHUNK, compile=False, progress=False
            )
        return mode.numbers, tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_what_is_held_at_once_does_not_grow_with_the_data(linear_gaussian):
    model, x = linear_gaussian
    pair = model, ExactPosterior(model)
    estimate_evidence(*pair, x[:3], method="importance", num_samples=SAMPLES)  # what is imported and made once for all
    few, many = (held(pair, x[:n]) for n in (6, 30))
    assert many[0] == few[0] == CHUNK * 20  # x has 20 dimensions
    assert many[1] - few[1] < 24 * SAMPLES * 8 / 2  # half of the log-weights of the 24 more, in double precision
