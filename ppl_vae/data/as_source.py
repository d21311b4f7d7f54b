"""Any data a person may bring, as a `Source` of batches: splits of ours, tensors, arrays, what PyTorch has for data."""

import hashlib
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, RandomSampler, TensorDataset, default_collate

from ppl_vae.data.digit_strings import Part
from ppl_vae.data.sources import LoaderSource, PartlyLabelled, Source, SplitSource, TensorSource, as_tuple
from ppl_vae.errors import InputError
from ppl_vae.traces.pair import Pair, call_signature, program_name

NUMBERS = "numbers:"  # before a hash of numbers alone


def as_source(data: Any, pair: Pair, *, ordered: bool = False) -> Source:
    """Turn what a person passed as data into a source of batches that fits the model.

    Args:
        data: what the person passed, or a source that it has become: what was found in it need not be looked for again.
        pair: the programs that will be called with it.
        ordered: refuse data whose order changes from pass to pass, and data of which only some have labels.
    """
    source = data if isinstance(data, Source) else _source(data, pair)
    if pair.takes_labels():
        source = source.by_labels()
    if ordered and isinstance(source, LoaderSource) and isinstance(source.loader.sampler, RandomSampler):
        raise InputError("Expected data in a fixed order; got a DataLoader that shuffles. Pass shuffle=False to it.")
    if len(source) == 0:
        raise InputError("Expected at least one datum; got an empty data set.")
    if isinstance(source, PartlyLabelled):
        _check_partly_labelled(source, pair, ordered)
    first, call = next(iter(source.batches(1))), call_signature(pair.model)
    try:
        call.bind(*first)
    except TypeError as problem:
        raise InputError(
            f"Expected data that fits the model's call {program_name(pair.model)}{call}; got {len(first)} tensor(s) "
            f"for each datum ({problem}). Pass just the tensors it takes, x first."
        ) from None
    return source


def fingerprint(source: Source) -> str:
    """Return a hash of the data in their order, however they are batched; of dequantized data, that of their levels."""
    return _hash(source, lambda t: f"{t.dtype}{tuple(t.shape[1:])}", lambda t: t)


def fingerprint_of_numbers(source: Source) -> str:
    """Return the same of the numbers alone, to single precision: in another shape or dtype they are the same data."""
    return NUMBERS + _hash(source, lambda t: "", _as_numbers)


def _hash(source: Source, kind_of: Callable[[Tensor], str], values_of: Callable[[Tensor], Tensor]) -> str:
    if source.kinds:
        return "".join(kind + _hash(part, kind_of, values_of) for kind, part in source.kinds.items())
    if isinstance(source, SplitSource):
        source = SplitSource(source.split.without_dequantizing(), source.with_y)
    digests: list[Any] = []
    for batch in source.batches(1000):
        digests = digests or [hashlib.sha256(kind_of(t).encode()) for t in batch]
        for digest, tensor in zip(digests, batch, strict=True):
            digest.update(values_of(tensor.detach().cpu()).contiguous().numpy().tobytes())
    return "".join(digest.hexdigest()[:16] for digest in digests)


def _as_numbers(t: Tensor) -> Tensor:
    """Return numbers in one dtype, with one zero and one NaN."""
    t = t.float() + 0.0
    return torch.where(t.isnan(), torch.nan, t)


def _source(data: Any, pair: Pair) -> Source:
    if isinstance(data, Part):
        return SplitSource(data, with_y=pair.takes_labels())
    if isinstance(data, DataLoader):
        return LoaderSource(data)
    if isinstance(data, TensorDataset):
        return TensorSource(data.tensors)
    if isinstance(data, list) and not all(isinstance(part, Tensor | np.ndarray) for part in data):
        data = np.asarray(data)
    if isinstance(data, Tensor | np.ndarray | tuple | list):
        tensors = as_tuple(data)
        if len({len(t) for t in tensors}) > 1:
            raise InputError(
                f"Expected tensors of one length; got lengths {', '.join(str(len(t)) for t in tensors)}. "
                f"Each must hold one entry for each datum."
            )
        return TensorSource(tensors)
    if isinstance(data, Dataset) and hasattr(data, "__len__"):
        if len(data) == 0:
            raise InputError("Expected at least one datum; got an empty data set.")
        return TensorSource(as_tuple(default_collate([data[i] for i in range(len(data))])))
    raise InputError(
        f"Expected data to be a split of ppl_vae.data, a tensor, a tuple of tensors, or a PyTorch Dataset or "
        f"DataLoader; got {type(data).__name__}."
        + (" Pass .to_numpy() of it." if hasattr(data, "to_numpy") else "")
        + (" Pass one of its splits: .train, .validation or .test." if hasattr(data, "train") else "")
    )


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
