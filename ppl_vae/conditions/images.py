"""Images that are given, out of the array of a file: grey levels in [0, 1], one image or a string of them each."""

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.distributions import constraints

from ppl_vae.distributions.unwrap import elementwise_support
from ppl_vae.errors import InputError


def images_in(
    values: Any, event_shape: torch.Size, support: Any, file: object, *, length: int | None = None, given: Any = ...
) -> Tensor:
    """Return images as conditions, [M, *event_shape], or strings of them, [M, length, *event_shape].

    Bytes are divided by 255, and as data of this support are, so are they: black and white at one half where these are
    zeros and ones. Of each image only the pixels of the mask `given` are looked at. The images of a string may stand
    beside each other in one.

    >>> images_in(np.zeros((4, 12)), torch.Size([1, 4, 4]), constraints.real, "a file", length=3).shape
    torch.Size([1, 3, 1, 4, 4])
    """
    y = _in_shape(values, event_shape, length, file)
    read = y[..., given]
    if not bool(torch.isfinite(read).all()):
        raise InputError(f"Expected finite numbers in {file}; got NaN or infinity. Replace them.")
    if elementwise_support(support) is not constraints.boolean:
        return y
    if bool(((read < 0) | (read > 1)).any()):
        raise InputError(
            f"Expected bytes (uint8) or grey levels in [0, 1] as conditions in {file}; got {values.dtype} from "
            f"{float(read.min()):.3g} to {float(read.max()):.3g}. Divide them by the largest grey level there can be."
        )
    return (y >= 0.5).to(y)


def _in_shape(values: Any, event_shape: torch.Size, length: int | None, file: object) -> Tensor:
    grey = np.asarray(values, dtype=np.float32) / (255 if values.dtype == np.uint8 and values.max() > 1 else 1)
    images, count = torch.as_tensor(grey), length or 1
    *height, width = plane = event_shape[-2:]  # of data that are no images [D]
    if images.shape[-len(plane) :] == (*height, width * count) and count > 1:  # images beside each other
        has_channels = images.dim() == 4 or (images.dim() == 3 and len(event_shape) == 3 and event_shape[0] > 1)
        images = torch.stack(images.split(width, dim=-1), dim=-len(plane) - 1 - has_channels)
    if images.shape[-len(plane) :] != plane or images.numel() % (count * event_shape.numel()):
        raise InputError(
            f"Expected {f'strings of {length} images' if length else 'images'} of shape {tuple(event_shape)} as "
            f"conditions in {file}; got {tuple(images.shape)}. "
            f"{'Give so many for each string' if length else 'Resize them'}."
        )
    return images.reshape(-1, *([length] if length else []), *event_shape)
