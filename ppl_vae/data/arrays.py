"""Numbers as a person has them, as tensors: of NumPy (masked), pandas, SciPy, sparse tensors, lists, dicts of these."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import default_collate

from ppl_vae.errors import InputError, reason

Batch = tuple[Tensor, ...]
DENSE = 2**28  # numbers that a sparse array is written out to, at most: 1 GB in single precision
TORCH_LACKS = ("uint16", "uint32", "uint64")  # in most of its operations
PICTURES = "transform=torchvision.transforms.ToTensor() (levels in [0, 1]) or PILToTensor() (levels as they are)"


def is_array(part: Any) -> bool:
    """Return whether something is an array of numbers, or of what else: of PyTorch, NumPy, pandas, SciPy, ..."""
    return any(hasattr(part, name) for name in ("__array__", "to_numpy", "toarray"))


def parts_of(data: Any, names: Sequence[str] = ()) -> tuple[Any, ...]:
    """Return what a person may bring as the arguments of a program, one entry each; those of a dict by their names."""
    if isinstance(data, Mapping):
        given = [name for name in names if name in data]
        if not given or len(given) < len(data) or given != list(names[: len(given)]):
            raise InputError(
                f"Expected a dict with what the model is called with, {', '.join(names) or 'x'}; got one with "
                f"{', '.join(map(str, data))}. Give tuples in that order instead, such as "
                f"({', '.join(f'item[{key!r}]' for key in list(data)[: max(1, len(names))])},)."
            )
        return tuple(data[name] for name in given)
    parts = tuple(data) if isinstance(data, tuple | list) else (data,)
    if not parts:
        raise InputError("Expected at least one tensor; got an empty tuple.")
    return parts


def as_tuple(batch: Any, names: Sequence[str] = ()) -> Batch:
    """Return what a person may bring as one batch as a tuple of tensors of one length."""
    tensors = tuple(as_tensor(part, position) for position, part in enumerate(parts_of(batch, names)))
    if len({len(t) for t in tensors}) > 1:
        raise InputError(
            f"Expected tensors of one length; got lengths {', '.join(str(len(t)) for t in tensors)}. "
            f"Each must hold one entry for each datum."
        )
    return tensors


def as_tensor(part: Any, position: int = 0) -> Tensor:
    """Return numbers [N, ...] as a dense tensor of their own dtype; what a NumPy array masks is missing (NaN).

    Whole numbers after the first argument become 64-bit ones: PyTorch takes smaller ones for a mask.

    >>> as_tensor(np.ma.masked_equal([1, -999], -999))
    tensor([1., nan], dtype=torch.float64)
    """
    if isinstance(part, Tensor):
        tensor = part if part.layout == torch.strided else _dense(part.shape, part.to_dense)
        if tensor.is_complex():
            raise InputError(f"Expected numbers; got {tensor.dtype}. Pass its real and imaginary parts.")
    else:
        tensor = torch.as_tensor(_contiguous(_numbers(part, position), position))
    if tensor.dim() == 0:
        raise InputError("Expected tensors of shape [N, ...]; got a single number. Let a DataLoader have a batch_size.")
    return tensor


def collated(items: Sequence[Any]) -> Any:
    """Return items of a data set as one batch."""
    try:
        return default_collate(list(items))
    except (TypeError, RuntimeError) as problem:
        raise not_collated(items[0], problem) from None


def not_collated(item: Any, problem: Exception) -> InputError:
    """Return what to say of items that PyTorch cannot put together."""
    if isinstance(problem, RuntimeError):
        return InputError(f"Expected data of one shape; got several ({reason(problem)}). Cut or pad them to one.")
    kinds = [type(part).__name__ for part in (item if isinstance(item, tuple | list) else (item,))]
    fix = f"Give the data set {PICTURES}" if "Image" in "".join(kinds) else "Let the data set return tensors"
    return InputError(f"Expected a data set of tensors, arrays or numbers; got items of {', '.join(kinds)}. {fix}.")


def _dense(shape: Any, make: Any) -> Any:
    """Write a sparse array out, if it is not too large for that."""
    if (numbers := int(np.prod([int(n) for n in shape]))) > DENSE:
        raise InputError(
            f"Expected data that fit in memory; got a sparse array of shape {tuple(shape)}, {numbers:.1e} numbers when "
            f"written out. Pass a DataLoader whose collate_fn makes each batch dense."
        )
    return make()


def _numbers(part: Any, position: int) -> Any:
    """Return what is no tensor as a NumPy array of numbers."""
    if hasattr(part, "toarray") and hasattr(part, "nnz"):  # SciPy's sparse matrices and arrays
        part = _dense(part.shape, part.toarray)
    if hasattr(part, "to_numpy") and not isinstance(part, np.ndarray):
        part = _of_table(part)
    if isinstance(part, np.ma.MaskedArray):
        part = _unmasked(part, position)
    first = part[0] if isinstance(part, tuple | list) and part else part
    try:
        array = np.empty(1, object) if hasattr(first, "getbands") else np.asarray(part)  # levels are not guessed at
    except (TypeError, ValueError, RuntimeError) as problem:
        raise InputError(
            f"Expected data of one shape; got a {type(part).__name__} of several ({reason(problem)}). Pad them to one."
        ) from None
    if array.dtype.kind in "biuf":
        return array
    if array.dtype == object:
        fix = f"Convert pictures as {PICTURES} does" if hasattr(first, "getbands") else "Convert them to numbers first"
        raise InputError(f"Expected tensors of numbers; got {type(part).__name__} of {type(first).__name__}. {fix}.")
    fix = "Pass its real and imaginary parts" if array.dtype.kind == "c" else "Convert it to float first"
    raise InputError(f"Expected numbers; got an array of dtype {array.dtype}. {fix}.")


def _of_table(table: Any) -> Any:
    """Return a pandas table or column as an array; what it says is not available is NaN."""
    array = table.to_numpy()
    if array.dtype.kind in "biuf":
        return array
    columns = dict(table.dtypes) if hasattr(table, "columns") else {}
    words = [str(name) for name, dtype in columns.items() if getattr(dtype, "kind", "O") not in "biuf"]
    try:
        return table.to_numpy(dtype=float, na_value=np.nan)
    except (TypeError, ValueError):
        where = f"columns {', '.join(words[:5])} without" if words else f"{array.dtype}"
        raise InputError(f"Expected a table of numbers; got {where}. Encode or drop what is no number.") from None


def _unmasked(array: Any, position: int) -> Any:
    """Return a masked array with NaN for what is masked."""
    if not np.ma.is_masked(array):
        return array.data
    if position and array.dtype.kind in "biu":
        raise InputError(
            "Expected labels without a mask; got a masked array of whole numbers. Pass .filled(-1) of it, which "
            "marks a label that is not known, or .astype(float) if they are no labels."
        )
    return array.astype(array.dtype if array.dtype.kind == "f" else float).filled(np.nan)


def _contiguous(array: Any, position: int) -> Any:
    """Return an array that PyTorch can share: of this machine's byte order, without negative strides, of its dtypes."""
    dtype = array.dtype.newbyteorder("=")
    if dtype.name in TORCH_LACKS or (position and dtype.kind in "iu"):
        dtype = np.dtype(np.int64)
    if dtype.name == "longdouble" or dtype.itemsize > 8:
        dtype = np.dtype(np.float64)
    array = array.astype(dtype, copy=False)
    usable = array.flags.writeable and all(stride >= 0 for stride in array.strides)
    return array if usable else array.copy()
