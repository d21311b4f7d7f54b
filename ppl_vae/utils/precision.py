"""Matrix products in bfloat16 while training; everything else, all weights and all estimates stay as they are.

A number in bfloat16 has 8 bits, so a product is right to about 0.4%. What networks give is turned back to single
precision before a distribution is made of it: log-probabilities of hundreds of pixels would not survive 8 bits.
"""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from ppl_vae.errors import InputError, did_you_mean, is_one_of, shown

PRECISIONS = ("single", "bf16")


def check_precision(precision: str) -> None:
    """Refuse what is not a precision."""
    if not is_one_of(precision, PRECISIONS):
        raise InputError(f"Unknown precision {shown(precision)}: {did_you_mean(precision, PRECISIONS)}.")


def products_in(precision: str, device: torch.device) -> AbstractContextManager[Any]:
    """Within it, matrix products and convolutions take bfloat16, if that is the precision."""
    return torch.autocast(device.type, dtype=torch.bfloat16) if precision == "bf16" else nullcontext()


def full_precision(h: Tensor) -> Tensor:
    """Return what a network gives in at least single precision.

    >>> full_precision(torch.ones(2, dtype=torch.bfloat16)).dtype
    torch.float32
    """
    return h.float() if h.dtype in (torch.bfloat16, torch.float16) else h
