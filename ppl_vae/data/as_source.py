"""Any data a person may bring, as a `Source` of batches that fits the programs they are for, dtypes included."""

import hashlib
import math
import os
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from ppl_vae.data.arrays import Batch, as_tuple, collated, parts_of
from ppl_vae.data.batch_sizes import check_number
from ppl_vae.data.digit_strings import Part
from ppl_vae.data.dtypes import cast_to_fit
from ppl_vae.data.loaders import LoaderSource, StreamSource
from ppl_vae.data.sources import PartlyLabelled, Source, SplitSource, TensorSource
from ppl_vae.data.sparse import counts_of_anndata, is_anndata
from ppl_vae.data.splits import hidden_in_words
from ppl_vae.errors import InputError
from ppl_vae.traces.pair import Pair, call_signature, program_name
from ppl_vae.utils.arrays import is_array
from ppl_vae.utils.digests import bytes_of
from ppl_vae.utils.faults import reading, warn

BY_NUMBERS = "numbers:"  # how a fingerprint begins that does not depend on shapes and dtypes


def as_source(data: Any, pair: Pair, *, ordered: bool = False) -> Source:
    """Turn what a person passed as data into a source of batches that fits the model.

    Args:
        data: what the person passed, or a source that it has become: what was found in it need not be looked for again.
        pair: the programs that will be called with it.
        ordered: refuse data whose order changes from pass to pass, and data of which only some have labels.
    """
    source, free = (data, ()) if isinstance(data, Source) else _source(data, pair)
    if ordered and isinstance(source, LoaderSource):
        source.check_order()
    if len(source) == 0:
        drops = isinstance(source, LoaderSource) and source.loader.drop_last
        fix = "Leave drop_last out, which drops a batch that is not full" if drops else "Make it anew"
        raise InputError(f"Expected at least one datum; got an empty data set or stream. {fix}.")
    by_labels = source.by_labels() if pair.takes_labels() else source
    if isinstance(by_labels, PartlyLabelled):
        _check_partly_labelled(by_labels, pair, ordered)
        if isinstance(source, TensorSource):
            warn(hidden_in_words(len(by_labels.unlabelled), len(source)))
    first = next(by_labels.batches(2), None)
    if first is None:
        raise InputError(
            "Expected data that can be gone through many times; got a stream that is used up after once. Let its "
            "__iter__ begin anew, or pass what it holds as tensors."
        )
    _check_call(first, pair, data)
    fitting = by_labels if isinstance(data, Source) else cast_to_fit(by_labels, first, pair, free)
    if ordered:
        check_number(pair, fitting)
    return fitting


def fingerprint(source: Source, *, exact: bool = False) -> str:
    """Return a hash of the data in their order, however they are batched; of dequantized data, that of their levels.

    The same numbers are the same data, in whatever shape and dtype, to single precision; `exact` tells these apart.
    """
    if source.kinds:
        return "".join(kind + fingerprint(part, exact=exact) for kind, part in source.kinds.items())
    if isinstance(source, SplitSource):
        source = SplitSource(source.split.without_dequantizing(), source.with_y, source.dtypes)
    digests: list[Any] = []
    for batch in source.batches(1000):
        if not digests:
            forms = [f"{t.dtype}{tuple(t.shape[1:])}" if exact else f"{t.shape[1:].numel()}" for t in batch]
            digests = [hashlib.sha256(form.encode()) for form in forms]
        for digest, tensor in zip(digests, batch, strict=True):
            numbers = tensor.detach().cpu() if exact else _plain(tensor.detach().cpu())
            digest.update(bytes_of(numbers))
    return ("" if exact else BY_NUMBERS) + "".join(digest.hexdigest()[:16] for digest in digests)


def _plain(numbers: Tensor) -> Tensor:
    """Return numbers in single precision, with one form of zero and one of NaN."""
    plain = numbers.to(torch.float32) + 0.0
    return torch.where(plain.isnan(), torch.nan, plain)


def _source(data: Any, pair: Pair) -> tuple[Source, tuple[bool, ...]]:
    """Return data as a source, and which of its tensors have a dtype that nobody chose: those of NumPy and the like."""
    parameters = call_signature(pair.model).parameters.values()
    names = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    if is_anndata(data):
        data = counts_of_anndata(data)
    if isinstance(data, Part):
        return SplitSource(data, with_y=pair.takes_labels()), ()
    if isinstance(data, DataLoader):
        return LoaderSource(data, names), ()
    if isinstance(data, IterableDataset):
        return StreamSource(DataLoader(data), names), ()
    if isinstance(data, TensorDataset):
        data = data.tensors
    elif (isinstance(data, Dataset) and hasattr(data, "__len__")) or _is_like_a_dataset(data):
        data = collated(_items(data))
    elif isinstance(data, list):
        anything = any(p.kind == p.VAR_POSITIONAL for p in parameters)
        data = _of_list(data, math.inf if anything else len(names))
    if not (isinstance(data, tuple | list | Mapping) or is_array(data)):
        raise _not_data(data)
    parts = parts_of(data, names)
    return TensorSource(as_tuple(parts)), tuple(not isinstance(part, Tensor) for part in parts)


def _is_like_a_dataset(data: Any) -> bool:
    """Return whether something has items by number, as PyTorch's DataLoader asks of a data set."""
    others = isinstance(data, tuple | list | Mapping | str | bytes) or is_array(data)
    return not others and hasattr(data, "__len__") and hasattr(data, "__getitem__") and not hasattr(data, "train")


def _items(dataset: Any) -> list[Any]:
    """Return all items of a data set that says how many it has."""
    name = type(dataset).__name__
    with reading(f"a data set {name} with a length"):
        count = len(dataset)
    with reading(f"a data set {name} of {count} data, as its length says,"):
        return [dataset[i] for i in range(count)]


def _of_list(data: list[Any], most: float) -> Any:
    """Return a list as what it is: the arguments of a program; one datum after the other; or numbers."""
    if len(data) > most and isinstance(data[0], Tensor | np.ndarray | tuple | Mapping):
        return collated(data)
    return data if data and all(is_array(part) and np.ndim(part) for part in data) else (data,)


def _not_data(data: Any) -> InputError:
    if hasattr(data, "__next__"):
        return InputError(
            f"Expected data that can be gone through many times; got a {type(data).__name__}, which is used up after "
            f"once. Pass what it yields as one tensor, such as torch.cat(list(batches))."
        )
    return InputError(
        f"Expected data to be a split of ppl_vae.data, a tensor, an array, a table of numbers, a tuple of them, or a "
        f"PyTorch Dataset or DataLoader; got {type(data).__name__}."
        + (" Pass one of its splits: .train, .validation or .test." if hasattr(data, "train") else "")
        + (" Read the file: ppl_vae.data.load(path).train." if isinstance(data, str | os.PathLike) else "")
    )


def _check_call(first: Batch, pair: Pair, data: Any) -> None:
    """Refuse data that are more, or fewer, tensors than the model is called with."""
    call = call_signature(pair.model)
    try:
        call.bind(*first)
    except TypeError as problem:
        stacked = " Or stack them, if each is a datum: np.stack(data)." if isinstance(data, list | tuple) else ""
        if isinstance(data, Dataset | DataLoader):
            stacked = " Or let the data set return one tensor, if a datum is a list of numbers: torch.tensor(numbers)."
        if len(first) == 2 and first[0].shape == first[1].shape and bool(((first[1] == 0) | (first[1] == 1)).all()):
            stacked = " Or put a mask into x, if that is one: ppl_vae.missing.with_mask(x, mask)."
        raise InputError(
            f"Expected data that fits the model's call {program_name(pair.model)}{call}; got {len(first)} tensor(s) "
            f"for each datum ({problem}). Pass just the tensors it takes, x first.{stacked}"
        ) from None


def _check_partly_labelled(source: PartlyLabelled, pair: Pair, ordered: bool) -> None:
    """Refuse labels that are partly missing where log P(x | y) is asked for, or where a program cannot do without."""
    missing = f"{len(source.unlabelled)} of {len(source)} data without a label (-1)"
    if ordered:
        raise InputError(
            f"Expected a label for each datum, or data without labels; got {missing}. Pass x alone (split.x) for "
            f"log P(x), or the labelled part (split.known()) for that given y."
        )
    for program in pair.programs.values():
        call = call_signature(program)
        try:
            call.bind(None)
        except TypeError as problem:
            raise InputError(
                f"Expected programs that can be called with x alone; got {missing}, and {program_name(program)}{call} "
                f"({problem}). Give y a default of None and sample it where it is None, or pass the labelled part only "
                f"(split.known())."
            ) from None
