"""Counts as biologists keep them: AnnData (`.h5ad`), SciPy's sparse `.npz`, Matrix Market `.mtx`; and such objects.

x is dense, [N, D], cells x genes (or documents x words). It holds whole numbers from 0 on with at least one count for
each datum: normalized numbers are no counts, and no likelihood of counts takes them.
"""

import gzip
import os
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ppl_vae.data.own_files import split_at_random
from ppl_vae.data.schema import Column, Schema
from ppl_vae.data.splits import Split
from ppl_vae.errors import InputError, did_you_mean, reason, shown
from ppl_vae.utils.array_files import UNREADABLE
from ppl_vae.utils.faults import warn
from ppl_vae.utils.files import is_there, regular_file
from ppl_vae.utils.memory import check_memory

H5AD, MATRIX_MARKET = (".h5ad",), (".mtx", ".mtx.gz")
EXACT = 2**24  # whole numbers up to it are numbers of single precision
KEYS = {"format.npy", "shape.npy", "data.npy"}  # of scipy.sparse.save_npz


@dataclass(frozen=True, eq=False)
class CountMatrix:
    """A matrix of counts with what is known of its rows and columns.

    Attributes:
        x: counts, [N, D], dense.
        where: its file, or what it is, in words.
        names: of the columns, such as genes; None where there are none.
        y: codes 0, 1, .. of the rows, [N], by the column of `obs` named `label`.
        classes: the names of these codes.
        label, layer: as they were asked for.
    """

    x: torch.Tensor
    where: str
    names: tuple[str, ...] | None = None
    y: torch.Tensor | None = None
    classes: tuple[str, ...] | None = None
    label: str | None = None
    layer: str | None = None

    @property
    def schema(self) -> Schema | None:
        """What the columns are, if they have names: all counts, and the label."""
        if self.names is None:
            return None
        columns = [Column(name, "count") for name in self.names]
        if self.label is not None and self.classes is not None and self.label not in self.names:
            columns.append(Column(self.label, "categorical", self.classes))
        return Schema(tuple(columns), self.label if len(columns) > len(self.names) else None)

    def split(self) -> Split:
        """Return all rows, in their order."""
        return Split(self.x, torch.arange(len(self.x)), self.y, classes=self.classes)

    def parts(self) -> tuple[Split, ...]:
        """Return three splits, 80 / 10 / 10 at random, always the same way."""
        tenth = max(1, len(self.x) // 10)
        parts = split_at_random(self.x, (tenth, tenth), self.y)
        return tuple(replace(part, classes=self.classes) for part in parts)


def is_counts(thing: Any) -> bool:
    """Return whether something is sparse or annotated: an object of SciPy or AnnData, or the name of such a file."""
    if is_anndata(thing) or _is_sparse(thing):
        return True
    if not isinstance(thing, str | os.PathLike):
        return False
    name = os.fspath(thing)
    return isinstance(name, str) and (name.lower().endswith((*H5AD, *MATRIX_MARKET)) or _is_sparse_npz(Path(name)))


def is_anndata(thing: Any) -> bool:
    """Return whether something is an AnnData object; nothing is imported for that."""
    return any(cls.__name__ == "AnnData" and cls.__module__.startswith("anndata") for cls in type(thing).__mro__)


def is_annotated(thing: Any) -> bool:
    """Return whether something is an AnnData object, or the name of a file with one."""
    return is_anndata(thing) or (isinstance(thing, str | os.PathLike) and str(thing).lower().endswith(H5AD))


def read_counts(
    thing: Any,
    label: str | None = None,
    layer: str | None = None,
    *,
    names: Sequence[str] | None = None,
    classes: Sequence[str] | None = None,
) -> CountMatrix:
    """Return counts as a dense matrix, with the names of its columns, and labels, where there are any.

    Args:
        thing: a file, an AnnData object, or a sparse matrix or array of SciPy.
        label: of AnnData, the column of `obs` that is y: a batch, a cell type.
        layer: of AnnData, the layer that holds the counts; None takes X.
        names: of AnnData, the columns that are read, in this order; None takes all.
        classes: the names of labels that are known already, in the order of their codes.

    Raises:
        InputError: a file that cannot be read, numbers that are no counts, rows without a count, more numbers than fit
            into memory, a label or a layer that is not there; AnnData files without the package anndata.
    """
    for name, value in (("label", label), ("layer", layer)):
        if value is not None and not isinstance(value, str):
            raise InputError(f"Expected {name} to be a name; got {shown(value)}.")
    found, where = _opened(thing)
    if is_anndata(found):
        return _of_anndata(found, where, (label, classes), layer, names)
    if label is not None or layer is not None:
        option = "label" if label is not None else "layer"
        raise InputError(f"Expected AnnData (.h5ad) to have a {option}; got {where}. Leave it out.")
    return CountMatrix(checked(found, where), where)


def counts_of_anndata(adata: Any) -> torch.Tensor:
    """Return the X of an AnnData object as x, dense, checked."""
    return read_counts(adata).x


def _opened(thing: Any) -> tuple[Any, str]:
    """Return an object as it is, or what a file holds, and its name in words."""
    if not isinstance(thing, str | os.PathLike):
        return thing, f"the {'AnnData object' if is_anndata(thing) else 'sparse matrix'}"
    path = regular_file(Path(thing), "a file of counts")
    try:
        if is_annotated(path):
            return _anndata().read_h5ad(path), path.name
        if path.name.lower().endswith(MATRIX_MARKET):
            import scipy.io

            _check_header(path)
            return scipy.io.mmread(path), path.name
        import scipy.sparse

        return scipy.sparse.load_npz(path), path.name
    except InputError:
        raise
    except UNREADABLE as problem:
        raise InputError(
            f"Expected {path} to be a whole file of counts; got one that cannot be read ({reason(problem)}). Write it "
            f"again."
        ) from None


def _anndata() -> Any:
    try:
        import anndata
    except ImportError:
        raise InputError(
            'Expected the package anndata to read .h5ad files; got none. Install it: pip install "ppl-vae[counts]".'
        ) from None
    return anndata


def _check_header(path: Path) -> None:
    """Refuse a matrix whose file says that it is too large, or is genes x cells, before it is read.

    10x Genomics writes a list of the cells beside it: one for each column.
    """
    import scipy.io

    rows, columns, *_ = scipy.io.mminfo(path)
    stem = path.name[: path.name.lower().rindex(".mtx")].replace("matrix", "barcodes")
    for beside in (path.with_name(f"{stem}.tsv"), path.with_name(f"{stem}.tsv.gz")):
        if rows != columns == _num_lines(beside):
            raise InputError(
                f"Expected cells x genes in {path}; got genes x cells, as {beside.name} beside it has {columns:,} "
                f"cells. Two lines transpose it: import scipy.io, scipy.sparse; "
                f"scipy.sparse.save_npz('cells.npz', scipy.io.mmread({str(path)!r}).T.tocsr())."
            )
    _check_room(path.name, rows, columns)


def _num_lines(path: Path) -> int | None:
    """Return how many lines a file has, if it is there."""
    if not is_there(path):
        return None
    with (gzip.open if path.suffix == ".gz" else open)(path, "rb") as file:
        return sum(1 for _ in file)


def _check_room(where: str, rows: int, columns: int) -> None:
    check_memory(
        f"counts of {where} ({rows:,} x {columns:,}), written out,",
        2 * int(rows) * int(columns),
        "Choose fewer columns, such as the 2,000 genes that vary most, or fewer rows.",
    )


def _of_anndata(
    adata: Any,
    where: str,
    labels: tuple[str | None, Sequence[str] | None],
    layer: str | None,
    chosen: Sequence[str] | None,
) -> CountMatrix:
    label, classes = labels
    if layer is not None and layer not in adata.layers:
        raise InputError(f"Unknown layer {layer!r} of {where}: {did_you_mean(layer, list(adata.layers))}.")
    if label is not None and label not in adata.obs.columns:
        raise InputError(f"Unknown label {label!r} in obs of {where}: {did_you_mean(label, list(adata.obs.columns))}.")
    values = adata.X if layer is None else adata.layers[layer]
    if values is None:
        raise InputError(
            f"Expected counts in X of {where}; got none. Name a layer: {', '.join(adata.layers) or 'none'}."
        )
    values = values.to_memory() if hasattr(values, "to_memory") else values  # of a file that is open
    names = tuple(map(str, adata.var_names))
    if chosen is not None:
        values = (values if hasattr(values, "toarray") else np.asarray(values))[:, _places(names, chosen, where)]
        names = tuple(chosen)
    of = f"{where}, {'X' if layer is None else f'layer {layer}'}"
    fix = f" Name the layer that holds counts (layer): {', '.join(adata.layers)}." if len(adata.layers) else ""
    x = checked(values, of, fix)
    y, known = (None, None) if label is None else _coded(adata.obs[label], label, where, classes)
    return CountMatrix(x, where, names if len(set(names)) == len(names) else None, y, known, label, layer)


def _places(names: Sequence[str], chosen: Sequence[str], where: str) -> list[int]:
    """Return where the columns of these names stand."""
    place = {name: i for i, name in enumerate(names)}
    if lacking := [name for name in chosen if name not in place]:
        raise InputError(
            f"Expected the columns of the training data in {where}; got none named {', '.join(lacking[:3])}"
            f"{f' and {len(lacking) - 3} more' if len(lacking) > 3 else ''}. Give rows that have them all."
        )
    return [place[name] for name in chosen]


def _coded(column: Any, label: str, where: str, classes: Sequence[str] | None) -> tuple[torch.Tensor, tuple[str, ...]]:
    """Return codes 0, 1, .. of a column, and their names, sorted if they are not known; what is missing is -1."""
    import pandas as pd

    codes, values = pd.factorize(column.astype(object), sort=False)
    if not len(values):
        raise InputError(f"Expected labels in obs[{label!r}] of {where}; got missing values only. Choose another.")
    found = dict.fromkeys(map(str, sorted(values, key=lambda value: (isinstance(value, str), value))))
    known = tuple(found if classes is None else classes)
    if unknown := [name for name in found if name not in known]:
        raise InputError(
            f"Unknown label {unknown[0]!r} in obs[{label!r}] of {where}: {did_you_mean(unknown[0], known)}."
        )
    place = np.array([*(known.index(str(value)) for value in values), -1])
    return torch.from_numpy(place[codes]), known


def checked(values: Any, where: str, fix: str = "") -> torch.Tensor:
    """Return a matrix of counts, sparse or not, as dense floats; refuse what is none, and rows without a count."""
    if getattr(values, "ndim", 2) != 2 or 0 in values.shape:
        raise InputError(f"Expected a matrix of counts in {where}; got shape {tuple(values.shape)}.")
    _check_room(where, *values.shape)
    dense = values.toarray() if hasattr(values, "toarray") else np.asarray(values)
    if dense.dtype.kind not in "buif":
        raise InputError(f"Expected counts in {where}; got {dense.dtype}. Convert them to numbers.")
    known = dense[~np.isnan(dense)] if dense.dtype.kind == "f" else dense
    if (wrong := known[(known < 0) | (known != np.floor(known)) | np.isinf(known)]).size:
        what = "negative numbers" if (known < 0).any() else "fractions, as of normalized counts"
        raise InputError(
            f"Expected counts, 0, 1, 2, ..., in {where}; got {what} such as {float(wrong[0]):.4g}.{fix} Give the raw "
            f"counts, or write the numbers as .npy for a likelihood of reals."
        )
    empty = np.flatnonzero(np.nansum(dense, axis=1) == 0)
    if len(empty):
        raise InputError(
            f"Expected at least one count in each row of {where}; got {len(empty)} without, first row {empty[0]}. Drop "
            f"them: x[x.sum(1) > 0]; or transpose the matrix, if its rows are genes."
        )
    if (known > EXACT).any():
        warn(f"Counts in {where} above {EXACT:,} are rounded to the numbers that single precision has.")
    return torch.from_numpy(np.ascontiguousarray(dense, dtype=np.float32))


def _is_sparse(thing: Any) -> bool:
    return hasattr(thing, "toarray") and hasattr(thing, "nnz") and type(thing).__module__.startswith("scipy.")


def _is_sparse_npz(path: Path) -> bool:
    """Return whether a .npz file holds what scipy.sparse.save_npz writes: told by the names of its arrays."""
    if path.suffix.lower() != ".npz" or not is_there(path) or not path.is_file():
        return False
    try:
        with zipfile.ZipFile(path) as archive:
            return set(archive.namelist()) >= KEYS
    except UNREADABLE:
        return False  # the reader of arrays says what is wrong
