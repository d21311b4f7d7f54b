"""Real data sets with fixed splits: `load("digits")`, `load("mnist")`, `load("my/images.npy")`.

Images are kept as they come (8-bit or float) and become float tensors in [0, 1], [N, *event_shape], when a batch is
taken (`ppl_vae.data.splits`). Nothing in ppl-vae chooses anything by the test split.
"""

import inspect
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from ppl_vae.data.as_source import fingerprint
from ppl_vae.data.cells import text_of
from ppl_vae.data.digit_strings import Part, with_strings
from ppl_vae.data.own_files import checked_part, own_data, split_at_random
from ppl_vae.data.schema import BY_NAME, Schema
from ppl_vae.data.shapes import Kind
from ppl_vae.data.sources import SplitSource
from ppl_vae.data.sparse import CountMatrix, is_counts, read_counts
from ppl_vae.data.splits import Binarize, Dequantize, Split, whole_labels
from ppl_vae.data.tables import Table, is_table, read_table, summary
from ppl_vae.data.understood import understood
from ppl_vae.errors import InputError, check_path, did_you_mean, is_one_of, positive_int, reason, shown
from ppl_vae.utils.array_files import UNREADABLE, read_arrays
from ppl_vae.utils.arrays import is_array
from ppl_vae.utils.files import is_there
from ppl_vae.utils.formats import is_known
from ppl_vae.utils.report import Report, Reported

SPLITS = ("train", "validation", "test")
OF_ANNDATA = ("label", "layer")


@dataclass(frozen=True, eq=False, repr=False)
class Data(Reported):
    """A data set in three fixed parts, with the settings that suit it.

    Attributes:
        name: how it was asked for.
        train, validation, test: its parts.
        kind, binarize, dequantize, strings, num_labels, missing: what was made of it, as in `load`.
        settings: what `ppl_vae.train` uses for it where nothing else is said.
        num_classes: the largest label of the training data + 1, those included that `num_labels` hides; None without
            labels that are whole numbers from 0 on.
        stored: the three parts before all of this.
        table: the table that they are rows of, with its `schema`, if it is one.
    """

    name: str
    train: Part
    validation: Part
    test: Part
    kind: Kind
    binarize: Binarize
    dequantize: Dequantize
    settings: dict[str, Any]
    strings: int | None
    num_labels: int | None
    missing: float | None
    num_classes: int | None
    stored: Sequence[Split] = field(repr=False)
    table: Table | None = field(default=None, repr=False)
    counts: CountMatrix | None = field(default=None, repr=False)

    @property
    def schema(self) -> Schema | None:
        """What the columns of a table are: it reads further rows (`encode`), and makes a table of x (`to_frame`)."""
        of = self.counts if self.table is None else self.table
        return None if of is None else of.schema

    @property
    def label(self) -> str | None:
        """The column of a table, or of the obs of AnnData, that is y."""
        if self.table is not None:
            return self.table.schema.label
        return None if self.counts is None else self.counts.label

    @property
    def layer(self) -> str | None:
        """The layer of AnnData that x is."""
        return None if self.counts is None else self.counts.layer

    @property
    def event_shape(self) -> torch.Size:
        """The shape of one datum."""
        return self.train.event_shape

    @property
    def classes(self) -> tuple[str, ...] | None:
        """The names of the labels 0, 1, ..., where they have some: those of folders, or of labels that are words."""
        if self.table is not None and self.schema is not None:
            labels = self.schema.labels
            return None if labels is None or labels.type not in BY_NAME else labels.categories
        return next((part.classes for part in self.stored if part.classes), None)

    @cached_property
    def understood(self) -> str:
        """What the data were understood to be, in one line: how many of which shape, their numbers, their labels.

        Of a table: "500 rows, 13 columns: 11 real, 2 categories; 3.1% missing".
        """
        return (
            understood(self.stored)
            if self.table is None
            else summary(self.table, torch.as_tensor(self.stored[0].values))
        )

    @property
    def options(self) -> dict[str, Any]:
        """The options of `load` that give these data."""
        options = {name: getattr(self, name) for name in inspect.signature(load).parameters if name != "name"}
        return options | {"schema": None if self.schema is None else self.schema.to_json()}

    def changed(self, **options: Any) -> "Data":
        """Return the same data with other options of `load`; nothing is read again but for another kind."""
        if unknown := options.keys() - self.options.keys():
            raise TypeError(f"Unknown options of data.load: {', '.join(sorted(unknown))}.")
        if self.counts is not None and any(options.get(n, getattr(self, n)) != getattr(self, n) for n in OF_ANNDATA):
            return load(self.name, **self.options | {"schema": None} | options)
        options = self._with_table(options)
        if options.get("binarize") == "default":
            options["binarize"] = _usual(self.name, options.get("dequantize", self.dequantize))
        if options.get("kind", self.kind) != self.kind:
            return load(self.name, **self.options | options)
        return _made(replace(self, **options)) if options else self

    def _with_table(self, options: dict[str, Any]) -> dict[str, Any]:
        """Return options of `load` with the table read anew, and what is stored of it, in the place of its own two."""
        asked = {name: options.pop(name) for name in ("schema", "label") if name in options}
        if asked.get("schema") is None and "schema" in asked:  # as it is
            del asked["schema"]
        if not asked or self.table is None:
            return options
        schema, label = (asked.get(name, getattr(self, name)) for name in ("schema", "label"))
        table = read_table(self.table.frame, schema, label)
        table = replace(table, where=self.table.where)
        return options | {"table": table, "stored": table.parts()}

    def report(self) -> Report:
        """Return what is printed: the parts, and what was made of them."""
        parts: dict[str, Part] = {"train": self.train, "validation": self.validation, "test": self.test}
        said = {name: repr(part).partition(" of ")[2].removesuffix(">") for name, part in parts.items()}
        suited = ", ".join(f"{name}={value!r}" for name, value in self.settings.items())
        lines = [f"suits it where nothing else is said: {suited}"] if suited else []
        rows = [("part", "data"), *said.items()]
        headline = f"Data set {self.name}: x of shape {tuple(self.event_shape)}"
        return Report(headline, words=rows, lines=[self.understood, *lines])

    def fingerprints(self) -> dict[str, str]:
        """Return a hash of each part as it is stored, with its labels, by name."""
        sources = {name: SplitSource(part, with_y=True) for name, part in zip(SPLITS, self.stored, strict=True)}
        return {name: fingerprint(source) for name, source in sources.items()}

    def check_classes(self) -> None:
        """Refuse labels that do not say how many classes there are: not 0, 1, .., C - 1, each of which occurs."""
        if self.label is not None:  # its schema says it
            return
        known = [y[part.labelled] for part in self.stored if (y := whole_labels(part.y)) is not None]
        labels = torch.cat(known).unique() if known else torch.arange(0)
        if torch.equal(labels, torch.arange(len(labels))):
            return
        low, high, count = int(labels[0]), int(labels[-1]), len(labels)
        few = low == 0 and high < 10 * count  # codes of 20,000 would make as many weights
        largest = f"condition.num_classes={high + 1}" if few else ""
        raise InputError(
            f"Expected labels 0, 1, .. in {self.name}, each of which occurs, as they say how many classes there are; "
            f"got {count} labels from {low} to {high}. Write them as y = np.unique(y, return_inverse=True)[1]"
            f"{largest and f', or say how many there are ({largest})'}.",
            options=largest and f"--set {largest}",
        )

    def as_stored(self) -> "Data":
        """Return the data with all values and labels, as they are stored."""
        return self.changed(**dict.fromkeys(self.options.keys() - {"schema", "label", "layer"}) | {"kind": self.kind})


def folder() -> Path:
    """Return where data sets are looked for: `PPL_VAE_DATA`, else a cache folder of the user's."""
    from platformdirs import user_cache_dir

    return Path(os.environ.get("PPL_VAE_DATA") or user_cache_dir("ppl-vae"))


def load(
    name: Any,
    *,
    kind: Kind = None,
    binarize: Binarize | Literal["default"] = "default",
    dequantize: Dequantize = None,
    strings: int | None = None,
    num_labels: int | None = None,
    missing: float | None = None,
    schema: str | os.PathLike[str] | Mapping[str, Any] | Schema | None = None,
    label: str | None = None,
    layer: str | None = None,
) -> Data:
    """Load a named data set, a person's own `.npy`, `.npz`, table or folder of images, in three parts, `.x` and `.y`.

    Args:
        name: digits, mnist, binarized_mnist, freyfaces, jsb_chorales (series of 88 keys, NaN after their end), or a
            path. A `.npy` file or a folder is split 80 / 10 / 10 at random, always the same way; a `.npz` file may hold
            `train`, `validation` and `test` itself (and `train_y` and so on), else `x` (and `y`), and a folder may have
            such folders. Labels become integers if all of them are whole numbers, however they are stored; those that
            are words, or the names of folders of images, are coded in sorted order, with `.classes` to name them. NaN
            in x is a missing value, and so is what a mask of zeros and ones in the file, `x_mask` (or `train_mask` and
            so on), marks with 0. Or a table: a `.csv`, `.tsv`, `.parquet` or `.feather` file, or a frame of pandas,
            Polars or Arrow; empty cells are missing. Or counts: an `.h5ad` file or AnnData object, a sparse matrix of
            SciPy, its `.npz` file, or an `.mtx` file of rows x columns. What was understood stands in `.understood`.
        kind: "images" or "series", which an array [N, A, B] is; None reads images of A x B pixels if A = B, or of
            bytes and numbers in [0, 1] if no side is more than ten times the other, else series of A steps of B
            numbers. Channels that come last, [N, H, W, 3], are put first. "as_stored" moves, names and mends nothing.
        binarize: "dynamic", "random_threshold", "threshold" (at one half), or None; "default" is "dynamic" for
            digits and mnist, if they are not dequantized, else None.
        dequantize: "uniform" makes (level + u) / L of L grey levels, 256 of 8-bit pixels, with u uniform in [0, 1):
            fresh in training, one fixed draw for everything else (Theis et al., arXiv 1511.01844, section 3.1).
        strings: give each image of a digit a string of so many images of the digits before it, as its y: see
            `StringSplit`.
        num_labels: hide the labels of the training data, by -1, but for so many, balanced over the classes and the
            same every time: see `Split.hide_labels`. The other parts keep theirs.
        missing: hide each value of x in all parts, by NaN, with this probability, the same every time.
        schema: of a table, a file that says what its columns are, a mapping or a `Schema` of it; what it does not name
            is guessed; None guesses all of them.
        label: of a table, or of the `obs` of AnnData, the column that is y, the label: a batch, a cell type.
        layer: of AnnData, the layer that is x, counts; None takes its X.

    Raises:
        InputError: an unknown name, or a file that is missing, corrupt, empty or not numbers; data or labels that
            do not take an option; a table with a column of which nobody can tell what it is.

    >>> digits = load("digits")
    >>> digits.event_shape, len(digits.train), len(digits.validation), len(digits.test)
    (torch.Size([1, 8, 8]), 1297, 200, 300)
    """
    pictures: dict[str, Any] = {"binarize": binarize, "dequantize": dequantize, "strings": strings, "kind": kind}
    if is_counts(name):
        return _of_counts(name, schema, label, layer, num_labels=num_labels, missing=missing, **pictures)
    if layer is not None:
        raise InputError(f"Expected AnnData (.h5ad) to have a layer; got {shown(name)}. Leave it out.")
    if is_table(name):
        if kind is not None:
            raise InputError(f"Expected kind of an array; got a table, {shown(name)}. Leave it out.")
        return _of_table(
            name,
            schema,
            label,
            binarize=binarize,
            dequantize=dequantize,
            strings=strings,
            num_labels=num_labels,
            missing=missing,
        )
    if is_array(name):
        raise InputError(
            f"Expected the name of a data set, a path or a table; got {type(name).__name__}. Pass numbers to fit as "
            f"they are, or make a table of them: pandas.DataFrame(x)."
        )
    check_path("name", name)
    if schema is not None or label is not None:
        option = "schema" if schema is not None else "label"
        raise InputError(
            f"Expected a table (.csv, .tsv, .parquet, ...) to have a {option}; got {shown(name)}. Leave it out."
        )
    key = os.fspath(name)
    if not key:
        raise InputError(f"Expected the name of a data set or a path; got nothing. Names: {', '.join(NAMED)}.")
    if key in NAMED:
        if kind is not None:
            raise InputError(f"Expected kind of a file of your own; got {key}, of which it is known. Leave it out.")
        loader, _, settings = NAMED[key]
        stored = loader()
    elif (
        os.sep in key
        or key.startswith(".")
        or is_there(Path(key))
        or Path(key).suffix in (".npy", ".npz")
        or is_known(Path(key))
    ):
        stored, settings = own_data(Path(key), kind), {}
    else:
        raise InputError(f"Unknown data set {key!r}: {did_you_mean(key, NAMED)}, or give a path to your own.")
    if is_one_of(binarize, ["default"]):
        binarize = _usual(key, dequantize)
    train, validation, test = stored
    options: dict[str, Any] = {"kind": kind, "binarize": binarize, "dequantize": dequantize, "strings": strings}
    options |= {"num_labels": num_labels, "missing": missing, "settings": dict(settings), "stored": stored}
    return _made(Data(key, train, validation, test, num_classes=None, **options))


def _of_table(name: Any, schema: Any, label: Any, *, binarize: Any, **options: Any) -> Data:
    """Return a table as a data set."""
    label = None if label is None else text_of(label)  # the name of a column may be a number
    of_pictures = {"binarize": None if is_one_of(binarize, ["default"]) else binarize, **options}
    for option in ("binarize", "dequantize", "strings"):
        if of_pictures[option] is not None:
            raise InputError(f"Expected {option} of pictures; got a table, {shown(name)}. Leave {option} out.")
    table = read_table(name, schema, label)
    train, validation, test = stored = table.parts()
    key = os.fspath(name) if isinstance(name, str | os.PathLike) else table.where
    options |= {"kind": None, "binarize": None, "settings": {}, "stored": stored}
    return _made(Data(key, train, validation, test, num_classes=None, table=table, **options))


def _of_counts(name: Any, schema: Any, label: str | None, layer: str | None, **options: Any) -> Data:
    """Return counts of AnnData, SciPy or Matrix Market as a data set."""
    options["binarize"] = None if is_one_of(options["binarize"], ["default"]) else options["binarize"]
    for option in ("binarize", "dequantize", "strings", "kind"):
        if options[option] is not None:
            raise InputError(f"Expected {option} of pictures; got counts, {shown(name)}. Leave {option} out.")
    counts = read_counts(name, label, layer)
    if schema is not None and counts.schema != Schema.of(schema, label):
        raise InputError(f"Expected no schema, as all columns are counts; got one for {counts.where}. Leave it out.")
    train, validation, test = stored = counts.parts()
    key = os.fspath(name) if isinstance(name, str | os.PathLike) else counts.where
    options |= {"settings": {}, "stored": stored, "counts": counts}
    return _made(Data(key, train, validation, test, num_classes=None, **options))


def _usual(name: str, dequantize: Dequantize) -> Binarize:
    """Return how a data set is binarized where nothing is said: not at all if it is dequantized."""
    return NAMED[name][1] if name in NAMED and dequantize is None else None


def _made(data: Data) -> Data:
    """Return a data set with its parts made anew of what is stored, by its options."""
    if data.binarize is not None and not is_one_of(data.binarize, ("dynamic", "random_threshold", "threshold")):
        raise InputError(
            f"Expected binarize to be 'random_threshold', 'dynamic', 'threshold' or None; got {shown(data.binarize)}."
        )
    if data.strings is not None:
        positive_int("strings (how many images a string has)", data.strings)
    if data.num_labels is not None:
        positive_int("num_labels", data.num_labels)
    if data.strings is not None and data.num_labels is not None:
        raise InputError("Expected strings or num_labels; got both. A string is made by its labels: leave one out.")
    if data.dequantize is not None:
        _check_levels(data)
    elif data.binarize is not None:
        _check_grey(data)
    how: dict[str, Any] = {"binarize": data.binarize, "dequantize": data.dequantize}
    train, validation, test = (replace(part, **how) for part in data.stored)
    labels = whole_labels(train.known().y)
    num_classes = None if labels is None or not len(labels) or bool((labels < 0).any()) else int(labels.max()) + 1
    if data.classes is not None:
        num_classes = len(data.classes)
    if data.num_labels is not None:
        train = train.hide_labels(data.num_labels)
    parts: dict[str, Any] = {"train": train, "validation": validation.frozen(), "test": test.frozen()}
    if data.strings is not None:
        parts = {n: with_strings(part, data.strings, f"the {n} part of {data.name}") for n, part in parts.items()}
    if data.missing is not None:
        parts = {n: part.hide(data.missing) for n, part in parts.items()}
    return replace(data, num_classes=num_classes, **parts)


def _check_levels(data: Data) -> None:
    """Refuse to dequantize what has no levels, or is binarized."""
    if not is_one_of(data.dequantize, ["uniform"]):
        raise InputError(f"Expected dequantize to be 'uniform' or None; got {shown(data.dequantize)}.")
    if data.binarize is not None:
        raise InputError(f"Expected binarize or dequantize; got both for {data.name}. Leave one out.")
    if any(part.num_levels is None for part in data.stored):
        first = data.stored[0]
        raise InputError(
            f"Expected grey levels in bytes (uint8, with values above 1) to dequantize {data.name}; got "
            f"{first.values.dtype} up to {float(first.grey(torch.arange(min(1000, len(first)))).max()):.3g}. "
            f"Store the levels as they were, or leave dequantize out."
        )


def _check_grey(data: Data) -> None:
    """Refuse to binarize what is no probability."""
    for part in data.stored:
        for index in torch.arange(len(part)).split(10_000):
            x = part.grey(index)
            x = x[~x.isnan()]
            if len(x) and (x.min() < 0 or x.max() > 1):
                raise InputError(
                    f"Expected grey levels in [0, 1] to binarize {data.name}; got values from {x.min():.3g} to "
                    f"{x.max():.3g}. Rescale the data, or load it with binarize=None."
                )


def _digits() -> tuple[Split, ...]:
    from sklearn.datasets import load_digits

    images, y = load_digits(return_X_y=True)
    values = torch.from_numpy(images).to(torch.uint8).reshape(-1, 1, 8, 8)
    return split_at_random(values, (200, 300), y, scale=16.0)


def _mnist() -> tuple[Split, ...]:
    from torchvision.datasets import MNIST

    try:
        sets = [MNIST(folder(), train=train, download=True) for train in (True, False)]
    except (OSError, RuntimeError, ValueError) as problem:
        raise InputError(
            f"Expected MNIST in {folder()} or a network to download it from; got {problem}. Remove what is "
            f"incomplete in {folder() / 'MNIST'}, or set PPL_VAE_DATA to a folder that holds it."
        ) from None
    whole, test = (Split(s.data.unsqueeze(1), torch.arange(len(s.data)), s.targets, 255.0) for s in sets)
    return whole[:-10_000], whole[-10_000:], test  # the last 10,000, as in Larochelle's split


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
    parts = [checked_part(path, arrays, key) for key in keys]
    return [replace(part, values=part.values.reshape(-1, 1, *shape)) for part in parts]


def _binarized_mnist() -> tuple[Split, ...]:
    about = "Larochelle's fixed binarization: arrays train, valid and test of [N, 784]"
    return tuple(_in_folder("binarized_mnist_static.npz", about, ("train", "valid", "test"), (28, 28)))


def _freyfaces() -> tuple[Split, ...]:
    about = "Brendan Frey's face: an array images of [1965, 28, 20]"
    (faces,) = _in_folder("freyfaces.npz", about, ("images",), (28, 20))
    return split_at_random(faces.values, (200, 200), scale=255.0)


def _jsb_chorales() -> tuple[Split, ...]:
    import scipy.io

    path, about = folder() / "music" / "JSB_Chorales.mat", "traindata, validdata and testdata, piano rolls of 88 keys"
    if not path.is_file():
        raise InputError(f"Expected {path} ({about}); got no such file. Put it there, or set PPL_VAE_DATA.")
    keys = ("traindata", "validdata", "testdata")
    try:
        found = scipy.io.loadmat(path)
        rolls = [[np.asarray(roll, dtype=np.float32) for roll in found[key].ravel()] for key in keys]
        most = max(len(roll) for part in rolls for roll in part)
        parts = [np.full((len(part), most, 88), np.nan, dtype=np.float32) for part in rolls]
        for values, part in zip(parts, rolls, strict=True):
            for series, roll in zip(values, part, strict=True):
                series[: len(roll)] = roll
    except (*UNREADABLE, scipy.io.matlab.MatReadError) as problem:  # NotImplementedError, too: a .mat of HDF5
        raise InputError(
            f"Expected {path} to hold {about}; got {reason(problem)}. Replace it by the whole file."
        ) from None
    return tuple(Split(torch.from_numpy(values), torch.arange(len(values))) for values in parts)


NAMED: dict[str, tuple[Callable[[], tuple[Split, ...]], Binarize, dict[str, Any]]] = {
    "digits": (_digits, "dynamic", {"prior.latent_dim": 8, "fit.epochs": 300}),
    "mnist": (_mnist, "dynamic", {"prior.latent_dim": 40, "fit.epochs": 50}),
    "binarized_mnist": (_binarized_mnist, None, {"prior.latent_dim": 40, "fit.epochs": 50}),
    "freyfaces": (_freyfaces, None, {"prior.latent_dim": 10, "fit.epochs": 200}),
    "jsb_chorales": (_jsb_chorales, None, {"prior.latent_dim": 32, "fit.epochs": 300, "fit.batch_size": 20}),
}
