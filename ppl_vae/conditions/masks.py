"""Masks: which pixels of an image are visible, by the name of a region, as an array, or from a file."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ppl_vae.errors import InputError, did_you_mean
from ppl_vae.utils.array_files import read_arrays


def _middle_column(height: int, width: int) -> Tensor:
    return (torch.arange(width) == width // 2).expand(height, width)


def _quadrant(height: int, width: int) -> Tensor:
    return (torch.arange(height) >= height // 2)[:, None] & (torch.arange(width) < width // 2)


REGIONS = {"middle_column": _middle_column, "quadrant": _quadrant}


def mask_of(visible: Any, event_shape: torch.Size) -> Tensor:
    """Return a mask of the shape of a datum, true where a pixel is visible.

    >>> mask_of("quadrant", torch.Size([1, 4, 4])).int().squeeze().tolist()
    [[0, 0, 0, 0], [0, 0, 0, 0], [1, 1, 0, 0], [1, 1, 0, 0]]
    """
    if isinstance(visible, str) and visible in REGIONS:
        if len(event_shape) < 2:
            raise InputError(
                f"Expected images for visible={visible!r}; got data of shape {tuple(event_shape)}. Give a mask of ones "
                f"(visible) and zeros."
            )
        return REGIONS[visible](*event_shape[-2:]).expand(event_shape)
    if isinstance(visible, str | os.PathLike):
        visible = read_mask(visible)
    try:
        mask = torch.as_tensor(np.asarray(visible).astype(np.float64))
    except (TypeError, ValueError):
        got = f"{type(visible).__name__} {visible!r:.40}"
        raise InputError(f"Expected a mask of zeros and ones; got {got}. Give an array.") from None
    if mask.shape not in (event_shape, event_shape[-2:]):
        raise InputError(
            f"Expected a mask of shape {tuple(event_shape[-2:])}, that of an image; got {tuple(mask.shape)}. Resize it."
        )
    wrong = mask[(mask != 0) & (mask != 1)]
    if len(wrong):
        raise InputError(
            f"Expected a mask of zeros and ones; got values from {float(wrong.min()):.3g} to {float(wrong.max()):.3g}. "
            f"Mark visible pixels with 1, hidden ones with 0."
        )
    return mask.bool().expand(event_shape)


def read_mask(name: str | os.PathLike[str]) -> Any:
    """Read a mask from a .npy file, as nested lists, which fit into a run.json."""
    path = Path(name)
    if not path.suffix:
        near = did_you_mean(str(name), REGIONS)
        raise InputError(f"Unknown region {str(name)!r}: {near}, or give a .npy file with a mask.")
    if path.suffix != ".npy" or not path.is_file():
        raise InputError(
            f"Expected a .npy file with a mask; got {path}{'' if path.exists() else ', which does not exist'}. "
            f"Name one, or a region: {', '.join(REGIONS)}."
        )
    return read_arrays(path)["x"].tolist()
