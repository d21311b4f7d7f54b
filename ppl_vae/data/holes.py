"""What is missing (NaN) in data, and whether a pair can do without it.

Programs are judged by what they make of it: each value they draw and each log-probability that counts has to be a
number, and so do gradients, where the pair is to be fitted. How they get there, by a likelihood of ours, a mask, or a
distribution that leaves NaN out, is theirs.
"""

import math
from collections import Counter
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.distributions.util import scale_and_mask
from torch import Tensor

from ppl_vae.data.sources import Holes, Source
from ppl_vae.distributions.supports import is_discrete
from ppl_vae.distributions.unwrap import base_of, can_miss
from ppl_vae.errors import InputError
from ppl_vae.traces.handlers import is_condition
from ppl_vae.traces.pair import Pair, program_name
from ppl_vae.traces.plates import Args, samples
from ppl_vae.traces.run import get_traces
from ppl_vae.utils.arrays import PADDED
from ppl_vae.utils.faults import got

CHECK_SIZE = 1000
MOST_PATTERNS = 256


def find_holes(source: Source) -> dict[int, Holes]:
    """Return what is missing in each tensor of the data, by its position: one pass over them, the first time."""
    if source.holes is not None:
        return source.holes
    found: dict[int, Holes] = {}
    numbers: Counter[int] = Counter()
    row = 0
    for batch in source.batches(CHECK_SIZE):
        for i, tensor in enumerate(batch):
            numbers[i] += tensor.numel()
            if bool(torch.isfinite(tensor).all()):
                continue
            infinite, missing = tensor.isinf(), tensor.isnan()
            if bool(infinite.any()):
                raise InputError(
                    f"Expected finite data; got infinity, first in row {row + _first(infinite)}. Remove or replace "
                    f"such data; what is missing is NaN."
                )
            before = found.get(i, Holes(0, row + _first(missing), torch.zeros_like(missing[0], dtype=torch.int64), ()))
            if (one := before.counts.shape) != (other := missing.shape[1:]):
                raise InputError(
                    f"Expected data of one shape, as some are missing; got batches of {tuple(one)} and {tuple(other)}. "
                    f"Pad all data alike: {PADDED}."
                )
            found[i] = Holes(
                before.number + int(missing.sum()),
                before.row,
                before.counts + missing.sum(0),
                _patterns(before.patterns, before.where, missing),
            )
        row += len(batch[0])
    for i, holes in found.items():
        if holes.number == numbers[i]:
            raise InputError(f"Expected data of which some are observed; got NaN only, from row 0 to {row - 1}.")
    source.holes = found
    return found


def _patterns(known: tuple[Tensor, ...], covered: Tensor, missing: Tensor) -> tuple[Tensor, ...]:
    """Return patterns of data that together have all holes, the fullest first, with those of more data.

    Those with something observed go before others: where nothing is, nothing shows what a program makes of NaN.
    """
    fullest = missing[int(_count(missing).argmax())]
    found = list(known)
    if not found or int(fullest.sum()) > int(found[0].sum()):
        found.insert(0, fullest)
    seen = missing & ~missing.reshape(len(missing), -1).all(1).reshape(-1, *(1 for _ in missing.shape[1:]))
    for rows in (seen, missing):
        while bool((new := rows & ~covered).any()) and len(found) < MOST_PATTERNS:
            found.append(rows[int(_count(new).argmax())])
            covered = covered | found[-1]
    return tuple(found)


def check_holes(pair: Pair, args: Args, holes: dict[int, Holes], proposal: str, *, fitted: bool) -> None:
    """Check that both programs can do without what is missing, on data with the holes of some, so that all are there.

    With `fitted`, gradients for their parameters have to be finite, too.
    """
    hidden = _with_holes(args, holes)
    row = f"got NaN, first in row {min(some.row for some in holes.values())}"
    with pyro.validation_enabled(False), torch.set_grad_enabled(fitted):
        try:
            if proposal == "prior":
                traces = [poutine.trace(pair.model).get_trace(*hidden)]
            else:
                traces = list(get_traces(pair, hidden))
            log_probs = [{name: _counted(site) for name, site in samples(trace).items()} for trace in traces]
        except InputError:
            raise
        except Exception as problem:  # whatever a person's program makes of it
            words = f"Expected complete data; {row}. With it, the programs {got(problem)} Give such data."
            raise InputError(words) from problem
        _check_numbers(pair, traces, log_probs, row)
        if fitted:
            _check_gradients(pair, traces, log_probs, row)


def _with_holes(args: Args, holes: dict[int, Holes]) -> Args:
    """Return data with the patterns of what is missing in turn, as many of them as it takes."""
    size = max(len(args[0]), *(len(found.patterns) for found in holes.values()))
    rows = torch.arange(size)
    hidden = [t[rows.to(t.device) % len(t)] for t in args]
    for i, found in holes.items():
        patterns = torch.stack(found.patterns)[rows % len(found.patterns)]
        hidden[i] = torch.where(patterns.to(hidden[i].device), math.nan, hidden[i])
    return tuple(hidden)


def _counted(site: Any) -> Tensor:
    """Return the log-probability of a site, as far as it counts."""
    log_prob = site["fn"].log_prob(site["value"], *site["args"], **site["kwargs"])
    return torch.as_tensor(scale_and_mask(log_prob, mask=site["mask"]))


def _check_numbers(pair: Pair, traces: list[poutine.Trace], log_probs: list[dict[str, Tensor]], row: str) -> None:
    """Refuse a pair one of whose sites makes no number of what is missing."""
    observed = {n: s for n, s in samples(traces[0]).items() if s["is_observed"] and bool(s["value"].isnan().any())}
    wrong = [  # the guide first: what it makes of NaN the model is given
        (program_name(program), name)
        for program, trace, found in reversed(list(zip(pair.programs.values(), traces, log_probs, strict=False)))
        for name, site in samples(trace).items()
        if not _is_a_number(site, found[name])
    ]
    conditions = [name for name, site in observed.items() if is_condition(site)]
    for name in conditions if wrong else []:
        raise InputError(f"Expected {name} without missing values, which is a condition; {row}. Give complete data.")
    for program, name in wrong:
        if name in observed:
            family = type(base_of(observed[name]["fn"])).__name__
            raise InputError(
                f"Expected {name} without missing values, as {family} cannot leave them out; {row}. Give complete "
                f"data, sample {name} from a likelihood of ppl_vae that scores each number, or from "
                f"ppl_vae.missing.Observed, or mask what is missing (.mask(~x.isnan()), obs=x.nan_to_num(0.0))."
            )
        raise InputError(
            f"Expected programs that leave out what is missing; {row}, and {program} makes {name} of it. Give "
            f"ppl_vae.missing.filled(x) to its networks, or use complete data."
        )


def _is_a_number(site: Any, log_prob: Tensor) -> bool:
    """Return whether a site makes a number of what is missing: NaN is left out where it is observed."""
    if not bool(site["value"].isnan().any()):
        return not bool(log_prob.isnan().any())
    # A class or a count that is NaN becomes a whole number, any, as it is scored.
    left_out = can_miss(site["fn"]) or site["mask"] is False or not is_discrete(site["fn"])
    return bool(site["is_observed"]) and left_out and bool(log_prob.isfinite().all())


def _check_gradients(pair: Pair, traces: list[poutine.Trace], log_probs: list[dict[str, Tensor]], row: str) -> None:
    """Refuse a pair whose loss is a number, and its gradient is none: 0 times NaN is NaN."""
    pair.see(traces)
    parameters = pair.parameters()
    total = sum(log_prob.sum() for found in log_probs for log_prob in found.values())
    if not parameters or not isinstance(total, Tensor) or not total.requires_grad:
        return
    gradients = torch.autograd.grad(total, parameters, allow_unused=True)
    names = {id(tensor): name for name, tensor in pair.tensors().items()}
    wrong = [
        names.get(id(parameter), "a parameter")
        for parameter, gradient in zip(parameters, gradients, strict=True)
        if gradient is not None and bool(gradient.isnan().any())
    ]
    if wrong:
        raise InputError(
            f"Expected programs that leave out what is missing, in gradients too; {row}, and the gradient of "
            f"{wrong[0]} is NaN, as 0 times NaN is. Fill what is missing before anything is computed of it "
            f"(obs=x.nan_to_num(0.0) under a mask): to mask the result is too late."
        )


def _count(where: Tensor) -> Tensor:
    return where.reshape(len(where), -1).sum(1)


def _first(where: Tensor) -> int:
    return int((_count(where) > 0).int().argmax())
