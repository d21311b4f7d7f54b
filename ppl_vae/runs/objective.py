"""The objective that a run is fitted with: by name, or the one that goes with the guide; tried before it starts."""

import contextlib
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from pyro.infer import ELBO

from ppl_vae.base import Guide
from ppl_vae.data.checks import check
from ppl_vae.data.sources import Source
from ppl_vae.errors import InputError, positive_int, reason
from ppl_vae.runs.kinds import make, options_of, part_class, plain_defaults
from ppl_vae.traces.pair import Pair, program_name
from ppl_vae.traces.plates import structure_of
from ppl_vae.utils.rng import seeded

USUAL = "trace_elbo"


@dataclass(frozen=True)
class Choice:
    """An objective that was chosen: its class, by its name in snake case, and the options that were given."""

    name: str
    cls: type[ELBO]
    options: Mapping[str, Any]

    def written(self) -> dict[str, Any]:
        """Return what run.json says of it: its name, and the values of all its options that are its own or given."""
        pyros = plain_defaults(ELBO)
        own = {k: v for k, v in plain_defaults(self.cls).items() if v is not None and v != pyros.get(k)}
        return {"name": self.name} | own | dict(self.options)

    def ready(self, pair: Pair, source: Source, *, seed: int) -> Any:
        """Check the pair against data, try the objective on a few of them, and return one that is as new.

        What it has to know of the plates (`max_plate_nesting`) is read off the traces. Call it within `pair.running()`.
        """
        options = dict(self.options)
        for part in source.kinds.values() or [source]:
            with seeded(seed):
                traces, num_run, _ = check(pair, part)
                pair.see(traces)
                if "max_plate_nesting" in options_of(self.cls):
                    with contextlib.suppress(InputError):  # no plate is over the data: then Pyro may guess
                        options = {"max_plate_nesting": structure_of(traces, num_run).num_plates} | options
                args = pair.to_device(next(part.batches(num_run)))
                self._try(make(self.cls, options, "objective"), pair, args)
        return make(self.cls, options, "objective")

    def _try(self, objective: Any, pair: Pair, args: tuple[Any, ...]) -> None:
        try:
            with warnings.catch_warnings(), pair.evaluating():
                warnings.simplefilter("ignore")  # whatever it warns of, it will when it is used
                objective.loss_and_grads(*pair.programs.values(), *args)
            said = "".join(f", {name}={value!r}" for name, value in self.options.items())
            if all(parameter.grad is None for parameter in pair.parameters()):
                raise InputError(
                    f"Expected an objective that gives gradients; got none from {self.name}{said}. Mend its options."
                )
        except InputError as problem:
            raise InputError(reason(problem)) from None
        except Exception as problem:
            programs = " and ".join(map(program_name, pair.programs.values()))
            raise InputError(
                f"Expected an objective that works for {programs}; got {self.name}, with {type(problem).__name__}: "
                f"{reason(problem)}. Choose another (--objective)."
            ) from problem
        finally:
            for parameter in pair.parameters():
                parameter.grad = None


def choose(guide: Guide, name: str | None, options: Mapping[str, Any], own: Iterable[ModuleType] = ()) -> Choice:
    """Return the objective of this name, or the one that goes with a guide, or the plain ELBO; `own` modules first."""
    name = name or guide.default_objective or USUAL
    cls = part_class("objective", name, own)
    if "num_particles" in options:
        positive_int("objective.num_particles", options["num_particles"])
    make(cls, options, "objective")
    return Choice(name, cls, options)
