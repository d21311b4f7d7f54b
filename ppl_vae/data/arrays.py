"""What a person has as the arguments of a program, or as a batch of them: numbers, tuples, lists and dicts of them."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor
from torch.utils.data import default_collate

from ppl_vae.errors import InputError, reason
from ppl_vae.utils.arrays import PADDED, PICTURES, as_tensor, is_array

Batch = tuple[Tensor, ...]


def parts_of(data: Any, names: Sequence[str] = ()) -> tuple[Any, ...]:
    """Return what a person may bring as the arguments of a program, one entry each; those of a dict by their names."""
    if isinstance(data, Mapping) and not is_array(data):
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


def collated(items: Sequence[Any]) -> Any:
    """Return items of a data set as one batch."""
    if not items:
        raise InputError("Expected at least one datum; got an empty data set. Look at what it reads.")
    try:
        return default_collate(list(items))
    except Exception as problem:  # of items of other kinds, whatever their operations raise
        raise not_collated(items, problem) from None


def not_collated(items: Sequence[Any], problem: Exception) -> InputError:
    """Return what to say of items that PyTorch cannot put together."""
    kinds = dict.fromkeys(map(_kind, items))
    if len(kinds) > 1:
        some = " and ".join(list(kinds)[:2])
        return InputError(f"Expected a data set of items of one kind; got {some}. Let it return the same for each.")
    if isinstance(problem, RuntimeError):
        return InputError(
            f"Expected data of one shape; got several ({reason(problem)}). Cut them to one; of series: {PADDED}."
        )
    (kind,) = kinds
    fix = f"Give the data set {PICTURES}" if "Image" in kind else "Let the data set return tensors"
    return InputError(f"Expected a data set of tensors, arrays or numbers; got items of {kind}. {fix}.")


def _kind(item: Any) -> str:
    """Return what an item of a data set is, in words."""
    if isinstance(item, tuple | list):
        return ", ".join(type(part).__name__ for part in item) or "nothing"
    return f"a dict of {', '.join(map(str, item))}" if isinstance(item, Mapping) else type(item).__name__
