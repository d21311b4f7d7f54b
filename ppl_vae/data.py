"""Real data sets with fixed splits: `load("digits")`, `load("mnist")`, `load("my/images.npy")`.

Images are kept as they come (8-bit or float) and become float tensors in [0, 1], of shape
[N, *event_shape], when a batch is taken. Binarization is either *dynamic* (each grey level is the
probability of a one: fresh draws in training, one fixed seeded draw for everything else), by one *random
threshold* for each image, by a *threshold* of one half, or none. Instead of its label, each image may come
with a string of images that it succeeds. The test split is for the last word only: nothing in ppl-vae
chooses anything by it.
"""

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from ppl_vae.errors import InputError, did_you_mean, positive_int
from ppl_vae.files import Array, check_finite, read_arrays, read_images
from ppl_vae.missing import with_mask
from ppl_vae.splits import Binarize, Split, whole_labels, with_whole_labels
from ppl_vae.strings import StringSplit, with_strings

_SEED = 19  # of the fixed splits


@dataclass(frozen=True)
class Data:
    """A data set in three fixed parts, with the settings that suit it.

    Attributes:
        name: how it was asked for.
        train, validation, test: its parts.
        binarize: how they are binarized: "dynamic", "random_threshold", "threshold" or None.
        settings: what `ppl_vae.train` uses for it where nothing else is said.
        strings: how many images the string before each image has; None without strings.
        num_labels: how many of the training data keep their labels; None if all do.
        num_classes: the largest label of the training data + 1, hidden ones included; None without labels that are
            whole numbers from 0 on.
        missing: the probability with which each value of x was hidden; None if none was.
    """

    name: str
    train: Split | StringSplit
    validation: Split | StringSplit
    test: Split | StringSplit
    binarize: Binarize = None
    settings: dict[str, Any] = field(default_factory=dict)
    strings: int | None = None
    num_labels: int | None = None
    num_classes: int | None = None
    missing: float | None = None

    @property
    def event_shape(self) -> torch.Size:
        """The shape of one datum."""
        return self.train.event_shape


def folder() -> Path:
    """Return where data sets are looked for: `PPL_VAE_DATA`, else a cache folder of the user's."""
    from platformdirs import user_cache_dir

    return Path(os.environ.get("PPL_VAE_DATA") or user_cache_dir("ppl-vae"))


def load(
    name: str | os.PathLike[str],
    *,
    binarize: Binarize | Literal["default"] = "default",
    strings: int | None = None,
    num_labels: int | None = None,
    missing: float | None = None,
) -> Data:
    """Load a named data set, or a person's own `.npy`, `.npz` or folder of images.

    Args:
        name: digits, mnist, binarized_mnist, freyfaces, or a path. A `.npy` file or a folder is split
            80 / 10 / 10 at random, always the same way; a `.npz` file may hold `train`, `validation` and
            `test` itself (and `train_y` and so on), else `x` (and `y`). Labels become integers if all of them are
            whole numbers, however they are stored. NaN in x is a missing value, and so is what a mask of zeros and
            ones in the file, `x_mask` (or `train_mask` and so on), marks with 0.
        binarize: "dynamic", "random_threshold", "threshold" (at one half), or None; "default" is "dynamic" for
            digits and mnist, else None.
        strings: give each image of a digit a string of so many images of the digits before it, as its y: see
            `StringSplit`.
        num_labels: hide the labels of the training data, by -1, but for so many, balanced over the classes and the
            same every time: see `Split.hide_labels`. The other parts keep theirs.
        missing: hide each value of x in all parts, by NaN, with this probability, the same every time.

    Returns:
        `Data` with `.train`, `.validation` and `.test`, each with `.x` [N, *event_shape] and `.y`.

    Raises:
        InputError: an unknown name, or a file that is missing, corrupt, empty or not numbers; strings of data
            that are not labelled by digits; labels to hide where there are none, or not so many.

    >>> digits = load("digits")
    >>> digits.event_shape, len(digits.train), len(digits.validation), len(digits.test)
    (torch.Size([1, 8, 8]), 1297, 200, 300)
    """
    if binarize not in ("default", "dynamic", "random_threshold", "threshold", None):
        raise InputError(
            f"Expected binarize to be 'random_threshold', 'dynamic', 'threshold' or None; got {binarize!r}."
        )
    if strings is not None:
        positive_int("strings (how many images a string has)", strings)
    if num_labels is not None:
        positive_int("num_labels", num_labels)
    if strings is not None and num_labels is not None:
        raise InputError("Expected strings or num_labels; got both. A string is made by its labels: leave one out.")
    key = os.fspath(name)
    if not key:
        raise InputError(f"Expected the name of a data set or a path; got nothing. Names: {', '.join(NAMED)}.")
    if key in NAMED:
        loader, default, settings = NAMED[key]
        parts = loader()
    elif os.sep in key or key.startswith(".") or Path(key).exists() or Path(key).suffix in (".npy", ".npz"):
        parts, default, settings = _own(Path(key)), None, {}
    else:
        raise InputError(f"Unknown data set {key!r}: {did_you_mean(key, NAMED)}, or give a path to your own.")
    how: Binarize = default if binarize == "default" else binarize
    if how is not None:
        _check_grey(key, parts)
        parts = tuple(replace(part, binarize=how) for part in parts)
    train, validation, test = parts[0], parts[1].frozen(), parts[2].frozen()
    num_classes = _num_classes(train)
    if num_labels is not None:
        train = train.hide_labels(num_labels)
    made: dict[str, Any] = {"train": train, "validation": validation, "test": test}
    if strings is not None:
        made = {part: with_strings(split, strings, f"the {part} part of {key}") for part, split in made.items()}
    if missing is not None:
        made = {part: split.hide(missing) for part, split in made.items()}
    asked: dict[str, Any] = {"binarize": how, "strings": strings, "num_labels": num_labels, "missing": missing}
    return Data(key, **made, **asked, settings=dict(settings), num_classes=num_classes)


def _num_classes(part: Split) -> int | None:
    labels = whole_labels(part.y)
    return None if labels is None or bool((labels < 0).any()) else int(labels.max()) + 1


def _check_grey(name: str, parts: Sequence[Split]) -> None:
    for part in parts:
        for index in torch.arange(len(part)).split(10_000):
            x = part.grey(index)
            x = x[~x.isnan()]
            if len(x) and (x.min() < 0 or x.max() > 1):
                raise InputError(
                    f"Expected grey levels in [0, 1] to binarize {name}; got values from {x.min():.3g} to "
                    f"{x.max():.3g}. Rescale the data, or load it with binarize=None."
                )


def _split(values: Any, sizes: tuple[int, int], y: Any = None, scale: float = 1.0) -> tuple[Split, ...]:
    """Split at random, always the same way, into the rest, `sizes[0]` and `sizes[1]`."""
    order = torch.randperm(len(values), generator=torch.Generator().manual_seed(_SEED))
    counts = [len(values) - sum(sizes), *sizes]
    if min(counts) < 1:
        raise InputError(f"Expected at least 3 data, one for each split; got {len(values)}.")
    labels = None if y is None else torch.as_tensor(y)
    return tuple(Split(values, r, None if labels is None else labels[r], scale) for r in order.split(counts))


def _whole(values: Tensor, y: Tensor | None = None, scale: float = 1.0) -> Split:
    return Split(values, torch.arange(len(values)), y, scale)


def _digits() -> tuple[Split, ...]:
    from sklearn.datasets import load_digits

    images, y = load_digits(return_X_y=True)
    values = torch.from_numpy(images).to(torch.uint8).reshape(-1, 1, 8, 8)
    return _split(values, (200, 300), y, scale=16.0)


def _mnist() -> tuple[Split, ...]:
    from torchvision.datasets import MNIST

    try:
        sets = [MNIST(folder(), train=train, download=True) for train in (True, False)]
    except (OSError, RuntimeError, ValueError) as problem:
        raise InputError(
            f"Expected MNIST in {folder()} or a network to download it from; got {problem}. Remove what is "
            f"incomplete in {folder() / 'MNIST'}, or set PPL_VAE_DATA to a folder that holds it."
        ) from None
    (train_x, train_y), (test_x, test_y) = [(s.data.unsqueeze(1), s.targets) for s in sets]
    rows = torch.arange(len(train_x))
    train, validation = rows[:-10_000], rows[-10_000:]  # the last 10,000, as in Larochelle's split
    return (
        Split(train_x, train, train_y[train], 255.0),
        Split(train_x, validation, train_y[validation], 255.0),
        _whole(test_x, test_y, 255.0),
    )


def _in_folder(name: str, about: str, keys: Sequence[str], shape: tuple[int, ...]) -> list[Split]:
    """Read arrays of one known shape from a file in the data folder, as images of one channel."""
    path = folder() / name
    if not path.is_file():
        raise InputError(f"Expected {path} ({about}); got no such file. Put it there, or set PPL_VAE_DATA.")
    arrays = read_arrays(path)
    for key in keys:
        if key not in arrays or math.prod(arrays[key].shape[1:]) != math.prod(shape):
            found = {k: a.shape for k, a in arrays.items()}
            raise InputError(f"Expected {path} to hold {about}; got {found}. Replace it by the whole file.")
    parts = [_part(path, arrays, key) for key in keys]
    return [replace(part, values=part.values.reshape(-1, 1, *shape)) for part in parts]


def _binarized_mnist() -> tuple[Split, ...]:
    about = "Larochelle's fixed binarization: arrays train, valid and test of [N, 784]"
    return tuple(_in_folder("binarized_mnist_static.npz", about, ("train", "valid", "test"), (28, 28)))


def _freyfaces() -> tuple[Split, ...]:
    (faces,) = _in_folder(
        "freyfaces.npz", "Brendan Frey's face: an array images of [1965, 28, 20]", ("images",), (28, 20)
    )
    return _split(faces.values, (200, 200), scale=255.0)


def _own(path: Path) -> tuple[Split, ...]:
    arrays = _arrays(path)
    validation = next((key for key in ("validation", "valid", "val") if key in arrays), None)
    if "train" in arrays and "test" in arrays and validation:
        parts = tuple(_part(path, arrays, key) for key in ("train", validation, "test"))
        shapes = [tuple(part.event_shape) for part in parts]
        if len(set(shapes)) > 1:
            raise InputError(f"Expected data of one shape in {path}; got {shapes} in its three parts. Make them equal.")
        scale = max(part.scale for part in parts)  # one scale for all three
        return with_whole_labels(tuple(replace(part, scale=scale) for part in parts))
    key = "x" if "x" in arrays else next((k for k, a in arrays.items() if a.ndim > 1), None)
    if key is None or (len(arrays) > 1 and key != "x"):
        raise InputError(
            f"Expected {path} to hold x (and y), or train, validation and test; got {', '.join(arrays) or 'nothing'}. "
            f"Rename its arrays."
        )
    whole = _part(path, arrays, key)
    tenth = max(1, len(whole) // 10)
    return with_whole_labels(_split(whole.values, (tenth, tenth), whole.y, whole.scale))


def read(path: str | os.PathLike[str]) -> Split:
    """Read a person's own data without splitting them: `x` (with `x_mask` and `y`) of a file, or a folder of images.

    Raises:
        InputError: as `load`.
    """
    arrays = _arrays(Path(path))
    if "x" not in arrays:
        raise InputError(f"Expected {path} to hold x; got {', '.join(arrays) or 'nothing'}. Rename its array.")
    return with_whole_labels((_part(Path(path), arrays, "x"),))[0]


def _arrays(path: Path) -> dict[str, Array]:
    if not path.exists():
        raise InputError(f"Expected a data file or folder; got {path}, which does not exist.")
    return {"x": read_images(path)} if path.is_dir() else read_arrays(path)


def _part(path: Path, arrays: dict[str, Array], key: str) -> Split:
    """Check one array of a file, and its labels, and make a split of it."""
    x, y = arrays[key], arrays.get("y" if key == "x" else f"{key}_y")
    for name, array in ((key, x), ("y", y)):
        if array is not None and (array.dtype.kind not in "buif" or array.ndim == 0):
            raise InputError(
                f"Expected numbers in {path}; got an array {name!r} of dtype {array.dtype} and shape {array.shape}. "
                f"Encode it as numbers, one entry for each datum."
            )
    if x.size == 0:
        raise InputError(f"Expected at least one datum in {path}; got an empty array {key!r} of shape {x.shape}.")
    if y is not None and len(y) != len(x):
        raise InputError(f"Expected as many labels as data in {path}; got {len(y)} for {len(x)}.")
    scale = 255.0 if x.dtype == np.uint8 and x.max() > 1 else 1.0
    if f"{key}_mask" in arrays:
        x = with_mask(np.ascontiguousarray(x), arrays[f"{key}_mask"]).numpy()
    check_finite(path, x)
    shape = {1: (1,), 3: (1, *x.shape[1:])}.get(x.ndim, x.shape[1:])  # images [N, H, W] get their channel
    values = x.reshape(len(x), *shape)
    stored = values if isinstance(x, np.memmap) else torch.from_numpy(np.ascontiguousarray(values))
    labels = None if y is None else torch.from_numpy(np.ascontiguousarray(y))
    return Split(stored, torch.arange(len(x)), labels, scale)


NAMED: dict[str, tuple[Callable[[], tuple[Split, ...]], Binarize, dict[str, Any]]] = {
    "digits": (_digits, "dynamic", {"prior.latent_dim": 8, "fit.epochs": 300}),
    "mnist": (_mnist, "dynamic", {"prior.latent_dim": 40, "fit.epochs": 50}),
    "binarized_mnist": (_binarized_mnist, None, {"prior.latent_dim": 40, "fit.epochs": 50}),
    "freyfaces": (_freyfaces, None, {"prior.latent_dim": 10, "fit.epochs": 200}),
}
