"""The objective that a run is fitted with: by name, or the one that goes with the guide; tried before it starts."""

import contextlib
import warnings
from collections.abc import Iterable
from types import ModuleType
from typing import Any

from pyro.infer import ELBO

from ppl_vae.base import Guide
from ppl_vae.data.checks import check
from ppl_vae.data.sources import Source
from ppl_vae.errors import InputError, positive_int, reason
from ppl_vae.runs.kinds import Choice, make, parameters_of, part_class, plain_defaults
from ppl_vae.traces.pair import Pair, program_name
from ppl_vae.traces.plates import structure_of
from ppl_vae.utils.rng import seeded

USUAL = "trace_elbo"


def choose_objective(guide: Guide, name: str | None, options: dict[str, Any], own: Iterable[ModuleType] = ()) -> Choice:
    """Return the objective of this name, or the one that goes with a guide, or the plain ELBO; `own` modules first."""
    name = name or guide.default_objective or USUAL
    chosen = Choice(name, part_class("objective", name, own), options)
    if "num_particles" in options:
        positive_int("objective.num_particles", options["num_particles"])
    make(chosen.cls, options, "objective")
    return chosen


def written(objective: Choice) -> dict[str, Any]:
    """Return what run.json says of it: its name, and the values of all its options that are its own or given."""
    pyros = plain_defaults(ELBO)
    own = {k: v for k, v in plain_defaults(objective.cls).items() if v is not None and v != pyros.get(k)}
    return {"name": objective.name} | own | objective.options


def ready(objective: Choice, pair: Pair, source: Source, *, seed: int) -> Any:
    """Check the pair against data, try the objective on a few of them, and return one that is as new.

    What it has to know of the plates (`max_plate_nesting`) is read off the traces. Call it within `pair.running()`.
    """
    options = objective.options
    for part in source.kinds.values() or [source]:
        with seeded(seed):
            traces, num_run, _ = check(pair, part)
            pair.see(traces)
            if "max_plate_nesting" in parameters_of(objective.cls):
                with contextlib.suppress(InputError):  # no plate is over the data: then Pyro may guess
                    options = {"max_plate_nesting": structure_of(traces, num_run).num_plates} | options
            args = pair.to_device(next(part.batches(num_run)))
            _try(objective, make(objective.cls, options, "objective"), pair, args)
    return make(objective.cls, options, "objective")


def _try(chosen: Choice, objective: Any, pair: Pair, args: tuple[Any, ...]) -> None:
    """Ask an objective for gradients; leave none."""
    try:
        with warnings.catch_warnings(), pair.evaluating():
            warnings.simplefilter("ignore")  # whatever it warns of, it will when it is used
            objective.loss_and_grads(*pair.programs.values(), *args)
        if all(parameter.grad is None for parameter in pair.parameters()):
            said = "".join(f", {name}={value!r}" for name, value in chosen.options.items())
            raise InputError(
                f"Expected an objective that gives gradients; got none from {chosen.name}{said}. Mend its options."
            )
    except InputError as problem:
        raise InputError(reason(problem)) from None
    except Exception as problem:
        programs = " and ".join(map(program_name, pair.programs.values()))
        raise InputError(
            f"Expected an objective that works for {programs}; got {chosen.name}, with {type(problem).__name__}: "
            f"{reason(problem)}. Choose another (--objective)."
        ) from problem
    finally:
        for parameter in pair.parameters():
            parameter.grad = None
