"""A guide and a model run together: as they are, or K times at once under one more plate.

The plate of the samples stands left of all plates of the pair, and the dimensions of enumerated sites left of it.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import pyro
from pyro import poutine
from torch import Tensor

from ppl_vae.errors import InputError, NonFiniteLossError, ProgramError
from ppl_vae.traces.handlers import Substitute
from ppl_vae.traces.pair import Pair, Program
from ppl_vae.traces.plates import Args, Structure
from ppl_vae.utils.faults import got


def get_traces(pair: Pair, args: Args) -> tuple[poutine.Trace, poutine.Trace]:
    """Run the guide, then the model against it; return the traces of (model, guide)."""
    guide_trace = poutine.trace(pair.guide).get_trace(*args)
    return run_against(guide_trace, pair.model, args), guide_trace


def plate_of(num_samples: int, structure: Structure) -> Any:
    """Return the plate of so many samples, to the left of all plates of a pair."""
    return pyro.plate("particles", num_samples, dim=-structure.num_plates - 1)


def copies_of(args: Args, count: int) -> Args:
    """Return the data so many times, one after the other: what stands for samples where no plate can."""
    return tuple(arg.repeat(count, *(1,) * (arg.dim() - 1)) for arg in args)


def parted(value: Tensor, count: int, structure: Structure) -> Tensor:
    """Return what was found of C copies of N data, [1, C N, ...], as [C, N, ...]; of samples in a plate, as it is."""
    if structure.plated or value.shape[1] == 1:
        return value
    return value.reshape(count, value.shape[1] // count, *value.shape[2:])


def fixed(structure: Structure, subsample: Tensor | None) -> AbstractContextManager[Any]:
    """Return what makes a plate with a random subset of the data take these; None leaves it as it is."""
    return nullcontext() if subsample is None else Substitute({structure.plate: subsample})


def enumerating(model: Program, structure: Structure) -> Program:
    """Return the model with its marked discrete sites enumerated; handlers that give values go around this one."""

    def config(site: Any) -> Any:
        return site["infer"] | ({"enumerate": "parallel"} if site["name"] in structure.summed else {})

    marked = poutine.infer_config(model, config) if structure.summed else model
    return poutine.enum(marked, first_available_dim=-structure.num_plates - 2)


def run_against(
    guide_trace: poutine.Trace, model: Program, args: Args, kwargs: Any = None, *, structure: Structure | None = None
) -> poutine.Trace:
    """Run the model on the values in a trace; a structure says which discrete sites are summed out."""
    if structure is not None:
        model = enumerating(model, structure) if structure.enumerated else model
        guide_trace = guide_trace.copy() if structure.summed else guide_trace
        for name in structure.summed:
            if name in guide_trace:
                guide_trace.remove_node(name)
    return poutine.trace(poutine.replay(model, trace=guide_trace)).get_trace(*args, **(kwargs or {}))


def run_pair(
    model: Program,
    guide: Program | None,
    args: Args,
    kwargs: Any = None,
    *,
    num_samples: int | None,
    structure: Structure,
) -> tuple[poutine.Trace, poutine.Trace]:
    """Run the guide K times at once, then the model against it; return the traces of (model, guide).

    Without a guide the model draws all latents, and the guide's trace is empty; without K there is no plate of samples.
    Discrete sites that the guide leaves out and that are marked for it are summed out.

    Raises:
        ValueError, RuntimeError: of programs that do not work under one more plate, see `one_more_plate`.
    """
    with nullcontext() if num_samples is None else plate_of(num_samples, structure):
        guide_trace = poutine.trace(guide).get_trace(*args, **(kwargs or {})) if guide is not None else poutine.Trace()
        return run_against(guide_trace, model, args, kwargs, structure=structure), guide_trace


@contextmanager
def one_more_plate(fix: str) -> Iterator[None]:
    """Say of programs that do not run on many samples at once what they should, and how to mend it."""
    try:
        yield
    except (InputError, NonFiniteLossError):
        raise
    except Exception as problem:  # whatever a person's program may do
        raise ProgramError(
            f"Expected programs that work under one more plate to the left of theirs (any number of dimensions before "
            f"that of the data), with values inside their supports; {got(problem)} {fix}"
        ) from problem
