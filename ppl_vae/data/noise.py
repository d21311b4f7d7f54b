"""Binary draws for each step of training, faster than PyTorch's own on the CPU."""

import numpy as np
import torch
from torch import Tensor

_SEED = 19  # of the fixed draws
PIXELS, THRESHOLDS, STRINGS, LEVELS, MISSING = range(5)  # what a stream of fixed noise is for


def fixed_noise(rows: Tensor, event_shape: torch.Size, stream: int = PIXELS) -> Tensor:
    """Return uniform noise in [0, 1) that depends on the row, the pixel and the stream only, not on the batch.

    It is the SplitMix64 hash of the number of the pixel: Steele, Lea & Flood, Fast splittable pseudorandom number
    generators, OOPSLA 2014.
    """
    pixels = np.arange(event_shape.numel(), dtype=np.uint64)
    start = np.uint64((_SEED + stream) << 32)
    state = rows.numpy().astype(np.uint64)[:, None] * np.uint64(len(pixels)) + pixels + start
    state *= np.uint64(0x9E3779B97F4A7C15)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        state ^= state >> np.uint64(shift)
        state *= np.uint64(factor)
    state ^= state >> np.uint64(31)
    noise = (state >> np.uint64(40)).astype(np.float32) * np.float32(2**-24)
    return torch.from_numpy(noise).reshape(-1, *event_shape)


def bernoulli(p: Tensor) -> Tensor:
    """Draw ones with these probabilities, rounded to 1 / 2^16, from a seed of PyTorch's global generator.

    On the CPU torch.bernoulli is some ten times slower: for batches of images, as slow as a step of training.

    >>> bernoulli(torch.tensor([0.0, 1.0]))
    tensor([0., 1.])
    """
    if p.device.type != "cpu":
        return torch.bernoulli(p)
    u = torch.from_numpy(_random_words().random_raw(-(-p.numel() // 4)).view(np.int16))  # from -2^15 on
    above = (p * 2**16).sub_(2**15 + 0.5).sub_(u[: p.numel()].reshape(p.shape))
    return above.sign_().clamp_(min=0.0)  # in place and in floats: a comparison costs as much as all of this


def bernoulli_of_bytes(levels: Tensor) -> Tensor:
    """Draw ones with probabilities levels / 255, of bytes, as zeros and ones in the default dtype.

    A number u uniform in 0..254 is below the level with that very probability. It is a random byte; the few that are
    255 are drawn again.

    >>> bernoulli_of_bytes(torch.tensor([0, 255], dtype=torch.uint8))
    tensor([0., 1.])
    """
    dtype = torch.get_default_dtype()
    if levels.device.type != "cpu":
        return torch.bernoulli(levels.to(dtype) / 255)
    words = _random_words()
    u = words.random_raw(-(-levels.numel() // 8)).view(np.uint8)[: levels.numel()]
    again = np.flatnonzero(u == 255)
    u[again] = (words.random_raw(len(again)) >> np.uint64(32)) * np.uint64(255) >> np.uint64(32)
    is_one = np.less(u, levels.numpy().reshape(-1), out=u.view(bool))
    return torch.from_numpy(is_one.view(np.uint8)).reshape(levels.shape).to(dtype)


def _random_words() -> np.random.SFC64:
    """Return a fast source of 64-bit numbers, with a seed from PyTorch's global generator."""
    return np.random.SFC64(int(torch.randint(2**62, ())))
