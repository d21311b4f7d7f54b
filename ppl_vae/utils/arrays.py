"""Numbers as a person has them, as tensors: of NumPy (masked), pandas, SciPy, sparse tensors, nested lists."""

import math
import numbers
from decimal import Decimal
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ppl_vae.errors import LARGEST, InputError, reason
from ppl_vae.utils.faults import reading
from ppl_vae.utils.memory import check_memory

DENSE = 2**28  # numbers that a sparse array is written out to, at most: 1 GB in single precision
TORCH_LACKS = ("uint16", "uint32", "uint64")  # in most of its operations
EIGHT_BITS = "float8"  # they are stored in, not computed with
UNSTRUCTURED = "numpy.lib.recfunctions.structured_to_unstructured(x)"
PADDED = "torch.nn.utils.rnn.pad_sequence(series, batch_first=True, padding_value=torch.nan)"  # lists of tensors
PICTURES = "transform=torchvision.transforms.ToTensor() (levels in [0, 1]) or PILToTensor() (levels as they are)"


def is_array(part: Any) -> bool:
    """Return whether something is an array of numbers, or of what else: of PyTorch, NumPy, pandas, SciPy, ..."""
    return any(hasattr(part, name) for name in ("__array__", "to_numpy", "toarray"))


def as_tensor(part: Any, position: int = 0) -> Tensor:
    """Return numbers [N, ...] as a dense tensor of their own dtype; what a NumPy array masks is missing (NaN).

    Whole numbers after the first argument become 64-bit ones: PyTorch takes smaller ones for a mask.

    >>> as_tensor(np.ma.masked_equal([1, -999], -999))
    tensor([1., nan], dtype=torch.float64)
    """
    tensor = tensor_of(part, position)
    if tensor.dim() == 0:
        raise InputError("Expected tensors of shape [N, ...]; got a single number. Let a DataLoader have a batch_size.")
    check_memory("data", 2 * len(tensor))  # their indices alone, where one datum stands for all
    return tensor


def tensor_of(part: Any, position: int = 0) -> Tensor:
    """Return numbers of any shape as a dense tensor, as `as_tensor` does."""
    with reading("data"):
        return (
            _plain(part)
            if isinstance(part, Tensor)
            else torch.as_tensor(_contiguous(_numbers(part, position), position))
        )


def array_of(what: str, given: Any) -> Any:
    """Return numbers of any shape as a NumPy array of floats; an InputError says `what` they are."""
    try:
        tensor = tensor_of(given)
        check_memory(what, 2 * tensor.numel())
        return tensor.detach().cpu().double().numpy()
    except InputError as problem:
        raise InputError(f"{problem} (This is of {what}.)") from None


def _plain(tensor: Tensor) -> Tensor:
    """Return a tensor that can be computed with: dense, with values, of a dtype that has all operations."""
    if tensor.is_nested:
        raise InputError("Expected data of one shape; got a nested tensor. Pad it: .to_padded_tensor(torch.nan).")
    if tensor.is_meta:
        raise InputError("Expected data with values; got a tensor on the device meta, which has none. Load them first.")
    if tensor.is_quantized:
        raise InputError(f"Expected numbers; got quantized ones, {tensor.dtype}. Pass .dequantize() of them.")
    if tensor.is_complex():
        raise InputError(f"Expected numbers; got {tensor.dtype}. Pass its real and imaginary parts.")
    dense = tensor if tensor.layout == torch.strided else _dense(tensor.shape, tensor.to_dense)
    name = str(dense.dtype).removeprefix("torch.")
    if name in TORCH_LACKS:
        return dense.to(torch.int64)
    return dense.float() if name.startswith(EIGHT_BITS) else dense.resolve_neg()


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
            f"Expected data of one shape; got a {type(part).__name__} of several ({reason(problem)}). Cut them to one; "
            f"of tensors: {PADDED}."
        ) from None
    if array.dtype.kind in "biuf":
        return array
    if array.dtype == object and not hasattr(first, "getbands") and (known := _of_objects(array)) is not None:
        return known
    if array.dtype == object:
        fix = f"Convert pictures as {PICTURES} does" if hasattr(first, "getbands") else "Convert them to numbers first"
        fix = f"Cut them to one shape; of tensors: {PADDED}" if isinstance(first, np.ndarray) and first.ndim else fix
        raise InputError(f"Expected tensors of numbers; got {type(part).__name__} of {type(first).__name__}. {fix}.")
    fix = "Pass its real and imaginary parts" if array.dtype.kind == "c" else "Convert it to float first"
    fix = f"Pass its columns as {UNSTRUCTURED}" if array.dtype.names else fix
    raise InputError(f"Expected numbers; got an array of dtype {array.dtype}. {fix}.")


def _of_objects(array: Any) -> Any:
    """Return numbers kept as Python objects, None and pandas.NA of which are missing; None of anything else."""
    values = [None if type(v).__name__ == "NAType" else v for v in array.ravel().tolist()]
    known = [v for v in values if v is not None]
    if not known or not all(isinstance(v, numbers.Real | Decimal) for v in known):
        return None
    return np.array([math.nan if v is None else float(v) for v in values]).reshape(array.shape)


def _of_table(table: Any) -> Any:
    """Return a pandas table or column as an array; what it says is not available is NaN."""
    array = table.to_numpy()
    if array.dtype.kind in "biuf":
        return array
    columns = dict(zip(table.columns, table.dtypes, strict=True)) if hasattr(table, "columns") else {}
    words = [str(name) for name, dtype in columns.items() if not _is_number(dtype)]
    try:
        return table.to_numpy(dtype=float, na_value=np.nan)
    except (TypeError, ValueError):
        where = f"columns {', '.join(words[:5])} without" if words else f"{array.dtype}"
        raise InputError(
            f"Expected a table of numbers; got {where}. Encode or drop what is no number: table = "
            f"ppl_vae.data.load(frame) does, with table.train to fit, and table.schema.encode(frame) for further rows."
        ) from None


def _is_number(dtype: Any) -> bool:
    """Return whether a type of pandas or of Polars is one of numbers."""
    return bool(dtype.is_numeric()) if hasattr(dtype, "is_numeric") else getattr(dtype, "kind", "O") in "biuf"


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
    if dtype.name == "uint64" and array.size and array.max() > LARGEST:
        raise InputError(f"Expected whole numbers below 2^63; got {array.max()}. Pass them as floats.")
    if dtype.name in TORCH_LACKS or (position and dtype.kind in "iu"):
        dtype = np.dtype(np.int64)
    if dtype.name == "longdouble" or dtype.itemsize > 8:
        dtype = np.dtype(np.float64)
    array = array.astype(dtype, copy=False)
    usable = array.flags.writeable and all(stride >= 0 for stride in array.strides)
    return array if usable else array.copy()
