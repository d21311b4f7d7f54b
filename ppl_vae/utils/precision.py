"""Matrix products in bfloat16 while training; everything else, all weights and all estimates stay as they are.

A number in bfloat16 has 8 bits, so a product is right to about 0.4%. What networks give is turned back to single
precision before a distribution is made of it: log-probabilities of hundreds of pixels would not survive 8 bits.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any

import numpy as np
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


@contextmanager
def usual_modes() -> Iterator[None]:
    """Within it PyTorch and NumPy compute as where nothing was set: gradients are on, inference mode and autocast off.

    Autocast keeps weights in low precision until its outermost end; those that are trained within must not stay, so its
    cache is off, too, and empty at the end.

    Raises:
        InputError: the default device is "meta", on which there are no numbers.

    >>> with torch.inference_mode(), usual_modes():
    ...     torch.ones(2, requires_grad=True).sum().requires_grad
    True
    """
    if torch.get_default_device().type == "meta":
        raise InputError(
            "Expected a default device that holds numbers; got meta. Leave `with torch.device('meta')`, or call "
            "torch.set_default_device('cpu')."
        )
    casting = [device for device in ("cpu", "cuda", "mps", "xpu") if torch.is_autocast_enabled(device)]
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        stack.enter_context(np.errstate(divide="warn", over="warn", under="ignore", invalid="warn"))
        for device in casting:
            stack.enter_context(torch.autocast(device, enabled=False, cache_enabled=False))
        try:
            yield
        finally:
            if casting:
                torch.clear_autocast_cache()


def full_precision(h: Tensor) -> Tensor:
    """Return what a network gives in at least single precision.

    >>> full_precision(torch.ones(2, dtype=torch.bfloat16)).dtype
    torch.float32
    """
    return h.float() if h.dtype in (torch.bfloat16, torch.float16) else h
