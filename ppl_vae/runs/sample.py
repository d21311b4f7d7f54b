"""Samples of a run as a file: a picture or an array, for no condition, a label, or conditions read from a file."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ppl_vae import plots
from ppl_vae.conditional import ConditionalModel
from ppl_vae.conditions import DigitString, Label, Visible
from ppl_vae.criticism.answers import given
from ppl_vae.data.own_files import read_images
from ppl_vae.data.splits import evenly, whole_labels
from ppl_vae.errors import InputError, positive_int
from ppl_vae.generation.generate import sample, takes_binary_data
from ppl_vae.runs.figures import NUM_ANSWERS, NUM_CONDITIONS, NUM_PICTURES, answers, labelled, save_figure
from ppl_vae.runs.run import Run, opened
from ppl_vae.utils.files import read_arrays, write_array


def sample_run(
    run: Run | str | os.PathLike[str],
    *,
    size: int | None = None,
    label: int | Sequence[int] | None = None,
    condition: str | os.PathLike[str] | None = None,
    mean: bool = True,
    seed: int = 0,
    out: str | os.PathLike[str] | None = None,
) -> Path:
    """Generate new data from the model of a run, and write them to a file.

    Args:
        run: a run, or the path of its folder.
        size: how many, of a conditional model for each condition; None takes what fills a picture.
        label: what a model of labels is given; one or several; None gives each label.
        condition: a file with what a conditional model is given; None takes test data. See `read_conditions`.
        mean: E[x | z], or draws of x.
        seed: of the draws.
        out: a .png or .npy file; None writes a picture into RUN/figures. An array is [size, *event_shape],
            or [M, size, *event_shape] for M conditions.

    Returns:
        The path of the file.

    Raises:
        InputError: no run there, a size below 1, a label or a condition that the model does not take, or an unknown
            kind of file.
    """
    if size is not None:
        positive_int("size", size)
    run = opened(run)
    labels = [] if label is None else np.atleast_1d(label).tolist()
    of = "".join([*(f"-label{one}" for one in labels), "" if condition is None else f"-{Path(condition).stem}"])
    path = Path(out or run.path / "figures" / f"{'samples' if mean else 'draws'}{of}-{seed}.png")
    picture = plots.is_picture(run.model.event_shape)
    if path.suffix not in (".npy", ".png") or (path.suffix == ".png" and not picture):
        raise InputError(
            f"Expected a .npy file{' or a .png picture' if picture else ', as these data are no pictures'}; "
            f"got {path}. Name one with --out."
        )
    model = run.model
    if not isinstance(model, ConditionalModel):
        _refuse_conditions(model, labels, condition)
        _write(path, sample(model, size or NUM_PICTURES, mean=mean, seed=seed))
        return path
    y = _conditions(run, model, labels, condition)
    if path.suffix == ".npy" or (isinstance(model.condition, Label) and len(y) == 1):
        count = size or (NUM_PICTURES if len(y) == 1 else NUM_ANSWERS)
        x = sample(model, mean=mean, seed=seed, y=y.repeat_interleave(count, dim=0))
        _write(path, x if len(y) == 1 else x.unflatten(0, (len(y), count)))
    elif isinstance(model.condition, Label):
        save_figure(labelled(model, y, columns=size or 16, mean=mean, seed=seed), path)
    else:
        save_figure(answers(model, y, columns=size or NUM_ANSWERS, mean=mean, seed=seed), path)
    return path


def read_conditions(model: ConditionalModel, path: str | os.PathLike[str]) -> Tensor:
    """Read what a conditional model is given: M conditions from a file, or from a folder of images.

    Labels: a .npy file of whole numbers. Images to be completed: one image, a folder of them, or an array [H, W]
    or [M, H, W]; only their visible pixels are read. Strings of L images: a folder of M L images in the order of
    their names, one image with L beside each other, or an array [L, H, W] or [M, L, H, W]. Data that are no images
    are arrays [D] or [M, D], and conditions of one's own [M, *condition.shape]. Bytes are divided by 255. Grey levels
    become black and white at one half for a model of binary data.

    Raises:
        InputError: no such file, one that cannot be read, arrays that do not have the shape of the conditions, or,
            for a model of binary data, grey levels that are neither bytes nor in [0, 1].
    """
    path = Path(path)
    if not path.exists():
        raise InputError(f"Expected a file with conditions in {path}; got no such file.")
    if path.suffix in (".npy", ".npz"):
        arrays = read_arrays(path)
        values = arrays.get("y", next(iter(arrays.values())))
    else:
        values = read_images(path)
        if values.shape[1] == 3 and model.event_shape[0] == 1:
            values = values.mean(1, keepdims=True).astype(np.uint8)  # a grey image stored in colours
    if values.dtype.kind not in "buif" or not values.size:
        raise InputError(f"Expected numbers in {path}; got an array of dtype {values.dtype} and shape {values.shape}.")
    if isinstance(model.condition, Label):
        labels = whole_labels(torch.as_tensor(np.atleast_1d(values)))
        if labels is None:
            raise InputError(
                f"Expected labels in {path}, one whole number each; got an array of dtype {values.dtype} and shape "
                f"{values.shape}. Give a .npy file of labels, or use --label."
            )
        return labels
    if not isinstance(model.condition, Visible | DigitString):
        return _of_its_shape(torch.as_tensor(values.astype(np.float32)), model, path)
    grey = np.asarray(values, dtype=np.float32) / (255 if values.dtype == np.uint8 and values.max() > 1 else 1)
    y = _in_shape(torch.as_tensor(grey), model, path)
    _, read = model.condition.split(None, y)  # hidden pixels may be anything
    if read is None or not bool(torch.isfinite(read).all()):
        raise InputError(f"Expected finite numbers in {path}; got NaN or infinity. Replace them.")
    if not takes_binary_data(model):
        return y
    if bool(((read < 0) | (read > 1)).any()):
        raise InputError(
            f"Expected bytes (uint8) or grey levels in [0, 1] as conditions in {path}; got {values.dtype} from "
            f"{float(read.min()):.3g} to {float(read.max()):.3g}. Divide them by the largest grey level there can be."
        )
    return (y >= 0.5).to(y)


def _of_its_shape(y: Tensor, model: ConditionalModel, path: Path) -> Tensor:
    """Return conditions that are no images, [M, *shape of one]."""
    shape = model.condition.shape
    y = y[None] if y.shape == shape else y
    if y.shape[1:] != shape or not bool(torch.isfinite(y).all()):
        raise InputError(
            f"Expected finite conditions of shape [{', '.join(map(str, ('M', *shape)))}] in {path}; got "
            f"{tuple(y.shape)}{'' if y.shape[1:] != shape else ' with NaN or infinity'}. Mend the array."
        )
    return y


def _in_shape(images: Tensor, model: ConditionalModel, path: Path) -> Tensor:
    """Return images as conditions, [M, *shape of what the model is given]."""
    shape = (model.condition.length if isinstance(model.condition, DigitString) else 1, *model.event_shape)
    *height, width = plane = shape[1:][-2:]  # of data that are no images [D]
    if images.shape[-len(plane) :] == (*height, width * shape[0]) and shape[0] > 1:  # images beside each other
        has_channels = images.dim() == 4 or (images.dim() == 3 and len(shape) == 4 and shape[1] > 1)
        images = torch.stack(images.split(width, dim=-1), dim=-len(plane) - 1 - has_channels)
    numel = torch.Size(shape).numel()
    if images.shape[-len(plane) :] != plane or images.numel() % numel:
        each = f"strings of {shape[0]} images" if isinstance(model.condition, DigitString) else "images"
        raise InputError(
            f"Expected {each} of shape {tuple(model.event_shape)} as conditions in {path}; got {tuple(images.shape)}. "
            f"{'Give so many for each string' if isinstance(model.condition, DigitString) else 'Resize them'}."
        )
    y = images.reshape(-1, *shape)
    return y if isinstance(model.condition, DigitString) else y.squeeze(1)


def _conditions(run: Run, model: ConditionalModel, labels: list[int], condition: Any) -> Tensor:
    is_label = isinstance(model.condition, Label)
    if labels and (condition is not None or not is_label):
        got = "a file with conditions, too" if is_label else f"{type(model).__name__}, which is given no label"
        raise InputError(f"Expected a model of labels for --label, and no file; got {got}. Use --condition FILE alone.")
    if condition is not None:
        y = read_conditions(model, condition)
        if isinstance(model.condition, Visible | DigitString) and bool(y.max() > 1 >= run.data().test.x.max()):
            raise InputError(
                f"Expected grey levels in [0, 1], as in {run.config['data']['name']}, or bytes (uint8) in {condition}; "
                f"got values up to {float(y.max()):.3g}. Divide them by the largest grey level there can be."
            )
        return y
    if isinstance(model.condition, Label):
        return torch.tensor(labels) if labels else torch.arange(model.condition.num_classes)
    return given(model, evenly(run.data().test, NUM_CONDITIONS))


def _refuse_conditions(model: Any, labels: list[int], condition: Any) -> None:
    if labels or condition is not None:
        raise InputError(
            f"Expected a conditional model to give a {'label' if condition is None else 'condition'}; got "
            f"{type(model).__name__}. Leave it out, or train one: ppl-vae train cvae."
        )


def _write(path: Path, x: Tensor) -> None:
    if path.suffix == ".npy":
        write_array(path, x.numpy())
    else:
        save_figure(plots.images(x), path)
