"""The checks made before any work: finite data, a pair that fits together, data inside the support."""

from typing import Any

import torch
from pyro import poutine
from torch import Tensor
from torch.distributions import constraints

from ppl_vae.batches import Source
from ppl_vae.errors import InputError
from ppl_vae.pair import Pair
from ppl_vae.trace import probe, samples

PROBE_SIZE = 256
CHECK_SIZE = 10_000


def check(pair: Pair, source: Source, *, proposal: str = "guide") -> tuple[list[poutine.Trace], int]:
    """Check data and programs against each other; return the traces of one run, and on how many data.

    Call it within `pair.running()`.

    Raises:
        InputError: NaN or infinite data, programs that fail or do not fit together, or data outside the
            support of the likelihood.
    """
    for start, batch in enumerate(source.batches(CHECK_SIZE)):
        for tensor in batch:
            bad = ~torch.isfinite(tensor).flatten(1).all(1) if tensor.dim() > 1 else ~torch.isfinite(tensor)
            if bad.any():
                raise InputError(
                    f"Expected finite data; got NaN or infinity in {int(bad.sum())} data, first in row "
                    f"{start * CHECK_SIZE + int(bad.int().argmax())}. Remove or replace them."
                )
    args = _to(next(source.batches(PROBE_SIZE)), pair)
    with torch.no_grad():
        try:
            traces = probe(pair, args, proposal=proposal)
        except InputError:
            if len(source) <= len(args[0]):
                raise
            # A program whose plate has a fixed size can only be run on all the data.
            args = _to(next(source.batches(len(source))), pair)
            traces = probe(pair, args, proposal=proposal)
    for site in samples(traces[0]).values():
        if site["is_observed"]:
            _check_support(site, args, source)
    return traces, len(args[0])


def _to(batch: tuple[Tensor, ...], pair: Pair) -> tuple[Tensor, ...]:
    return tuple(t.to(pair.device) for t in batch)


def _check_support(site: dict[str, Any], args: tuple[Tensor, ...], source: Source) -> None:
    value, fn = site["value"], site["fn"]
    position = next(
        (i for i, a in enumerate(args) if a.numel() == value.numel() and bool((a.flatten() == value.flatten()).all())),
        None,
    )
    if position is None:  # the program computes what it observes: Pyro itself checks that as it runs
        return
    for batch in source.batches(CHECK_SIZE):
        x = batch[position].to(value.device)
        x = x.reshape(len(x), *value.shape[1:])
        try:
            inside = fn.support.check(x)
        except (RuntimeError, NotImplementedError):  # the support has parameters of its own for each datum
            return
        if not bool(inside.all()):
            raise InputError(_outside_message(site["name"], fn, x))


def _outside_message(name: str, fn: Any, x: Tensor) -> str:
    while hasattr(fn, "base_dist"):
        fn = fn.base_dist
    support = fn.support
    if support is constraints.boolean:
        expected = "{0, 1}"
        wrong = x[(x != 0) & (x != 1)]
        fix = "Binarize the data (binarize='dynamic'), or use a likelihood for real numbers, such as Gaussian."
    else:
        expected, wrong = str(support), x
        fix = "Rescale the data, or choose a likelihood that takes them."
    return (
        f"Expected {name} in {expected} for {type(fn).__name__}; got values from {float(wrong.min()):.3g} to "
        f"{float(wrong.max()):.3g}. {fix}"
    )
