"""Where values of the data are missing (NaN), and the check that a pair of programs can do without them."""

from typing import Any

import pyro
import torch
from pyro import poutine
from torch import Tensor

from ppl_vae.data.sources import Holes, Source
from ppl_vae.distributions.unwrap import base_of, can_miss
from ppl_vae.errors import InputError, reason
from ppl_vae.missing import filled
from ppl_vae.traces.handlers import is_condition
from ppl_vae.traces.pair import Pair, program_name
from ppl_vae.traces.plates import Args, samples
from ppl_vae.traces.run import get_traces

AT_ONCE = 1000  # data that are looked at


def find_holes(source: Source) -> dict[int, Holes]:
    """Return what is missing in each tensor of the data, by its position: one pass over them, the first time.

    >>> from ppl_vae.data.sources import TensorSource
    >>> find_holes(TensorSource((torch.tensor([[1.0, 2.0], [3.0, torch.nan]]),)))
    {0: Holes(number=1, row=1, where=tensor([False,  True]))}
    """
    if source.holes is not None:
        return source.holes
    found: dict[int, Holes] = {}
    numbers: dict[int, int] = {}
    row = 0
    for batch in source.batches(AT_ONCE):
        for i, tensor in enumerate(batch):
            numbers[i] = numbers.get(i, 0) + tensor.numel()
            if bool(torch.isfinite(tensor).all()):
                continue
            infinite, missing = tensor.isinf(), tensor.isnan()
            if bool(infinite.any()):
                raise InputError(
                    f"Expected finite data; got infinity, first in row {row + _first(infinite)}. Remove or replace "
                    f"such data; what is missing is NaN."
                )
            number, where = int(missing.sum()), missing.any(0)
            if i in found:
                found[i] = Holes(found[i].number + number, found[i].row, found[i].where | where)
            else:
                found[i] = Holes(number, row + _first(missing), where)
        row += len(batch[0])
    for i, holes in found.items():
        if holes.number == numbers[i]:
            raise InputError(f"Expected data of which some are observed; got NaN only, from row 0 to {row - 1}.")
    source.holes = found
    return found


def check_holes(pair: Pair, args: Args, holes: dict[int, Holes], *, proposal: str = "guide") -> None:
    """Check that both programs can do without what is missing, on data with all holes that any datum has."""
    hidden = [torch.where(holes[i].where.to(t.device), torch.nan, t) if i in holes else t for i, t in enumerate(args)]
    got = f"got NaN, first in row {min(some.row for some in holes.values())}"
    with pyro.validation_enabled(False):
        try:
            traces = (
                [poutine.trace(pair.model).get_trace(*hidden)]
                if pair.guide is None or proposal == "prior"
                else list(get_traces(pair, tuple(hidden)))
            )
        except (ValueError, RuntimeError) as problem:
            raise InputError(f"Expected complete data; {got} ({reason(problem)}). Give such data.") from problem
        missing = {n: s for n, s in samples(traces[0]).items() if s["is_observed"] and _has_nan(s["value"])}
        for name, site in missing.items():
            if not can_miss(site["fn"]):
                cannot = f"as {type(base_of(site['fn'])).__name__} cannot leave them out"
                why = "which is a condition" if is_condition(site) else cannot
                raise InputError(
                    f"Expected {name} without missing values, {why}; {got}. Give complete data, or sample "
                    f"{name} from a likelihood of ppl_vae that scores each number, or from ppl_vae.missing.Observed."
                )
        # The guide first: what it makes of NaN the model is given.
        for program, trace in reversed(list(zip(pair.programs.values(), traces, strict=False))):
            for name, site in samples(trace).items():
                value = filled(site["value"]) if name in missing else site["value"]
                if not missing or _has_nan(value) or _has_nan(site["fn"].log_prob(site["value"])):
                    raise InputError(
                        f"Expected programs that leave out what is missing; {got}, and {program_name(program)} makes "
                        f"{name} of it. Give ppl_vae.missing.filled(x) to its networks, or use complete data."
                    )


def _first(where: Tensor) -> int:
    return int(where.reshape(len(where), -1).any(1).int().argmax())


def _has_nan(value: Any) -> bool:
    return bool(value.isnan().any())
