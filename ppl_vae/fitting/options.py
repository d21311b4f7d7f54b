"""The options of `fit`: what they may be, and the optimizer and the schedule that are made of them."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

import torch
from pyro.infer import ELBO, Trace_ELBO
from pyro.optim import PyroOptim
from torch import Tensor
from torch.optim import Optimizer, SparseAdam
from torch.optim.lr_scheduler import ConstantLR, CosineAnnealingLR, LRScheduler

from ppl_vae.compilation.capture import check_compile
from ppl_vae.errors import (
    InputError,
    check_object,
    did_you_mean,
    number_from_zero,
    positive_int,
    positive_number,
    shown,
    whole_from,
)
from ppl_vae.utils.faults import expecting
from ppl_vae.utils.precision import check_precision
from ppl_vae.utils.threads import check_threads

T = TypeVar("T")
Schedule = Callable[[Optimizer, int], LRScheduler]
SCHEDULES: dict[str, Schedule] = {
    "constant": lambda optimizer, epochs: ConstantLR(optimizer, factor=1.0),
    "cosine": lambda optimizer, epochs: CosineAnnealingLR(optimizer, T_max=epochs),
}
STEPS = 3000  # that a fit takes where nothing is said
EPOCHS = 20, 1000  # at least, and at most
ADAM = partial(torch.optim.Adam, fused=True)  # one call for all parameters


@dataclass(frozen=True, kw_only=True)
class FitOptions:
    """How a pair is fitted; what each option means, and may be, stands at `fit`, whose defaults these are."""

    epochs: Any = None  # a number, or None until the data are known, and with them `usual_epochs`
    batch_size: int = 100
    learning_rate: float = 1e-3
    objective: ELBO = field(default_factory=Trace_ELBO)
    optimizer: Callable[..., Optimizer] = ADAM
    schedule: str | Schedule = "cosine"
    patience: int | None = None
    weight_decay: float = 0.0
    compile: bool | str = "auto"
    precision: str = "single"
    threads: int | str = "auto"
    seed: int = 0

    def __post_init__(self) -> None:
        self._keep(batch_size=positive_int("batch_size", self.batch_size))
        if self.epochs is not None:
            self._keep(epochs=positive_int("epochs", self.epochs))
        self._keep(learning_rate=positive_number("learning_rate", self.learning_rate))
        self._keep(weight_decay=number_from_zero("weight_decay", self.weight_decay))
        self._keep(seed=whole_from(0, "a seed", self.seed), threads=check_threads(self.threads))
        if self.patience is not None:
            self._keep(patience=positive_int("patience", self.patience))
        check_compile(self.compile)
        check_precision(self.precision)
        check_object("objective", self.objective)
        if not isinstance(self.objective, ELBO):
            if hasattr(self.objective, "num_particles"):
                raise InputError(
                    f"Expected an objective with a bound of log P(x) to report, a pyro.infer.ELBO; got "
                    f"{type(self.objective).__name__}, whose loss is none. Use Trace_ELBO(), or Pyro's own SVI with it."
                )
            raise InputError(
                f"Expected a Pyro objective, such as Trace_ELBO(); got {shown(self.objective)}. Pass an instance."
            )
        positive_int("num_particles", self.objective.num_particles)
        if isinstance(self.optimizer, PyroOptim) or not callable(self.optimizer):
            raise InputError(
                f"Expected an optimizer that is called with parameters and lr, such as torch.optim.Adam; got "
                f"{type(self.optimizer).__name__}. Pass a class of torch.optim, or a functools.partial of one."
            )
        if not callable(self.schedule) and not (isinstance(self.schedule, str) and self.schedule in SCHEDULES):
            raise InputError(f"Unknown schedule {shown(self.schedule)}: {did_you_mean(self.schedule, SCHEDULES)}.")

    def _keep(self, **values: Any) -> None:
        """Put in the place of what was given what it says, in Python's own numbers."""
        for name, value in values.items():
            object.__setattr__(self, name, value)

    def optimizer_of(self, parameters: list[Tensor]) -> Optimizer:
        """Return the optimizer of some parameters; only the weights decay, so they may be a group of their own."""
        groups: list[Any] = list(parameters)
        if self.weight_decay:
            weights, others = [p for p in parameters if p.dim() > 1], [p for p in parameters if p.dim() < 2]
            groups = [{"params": weights, "weight_decay": self.weight_decay}]
            groups += [{"params": others}] if others else []
        what = "an optimizer that is called with parameters and lr, such as torch.optim.Adam"
        made = _made(what, Optimizer, lambda: self.optimizer(groups, lr=self.learning_rate))
        known = {id(parameter) for parameter in parameters}
        if any(id(parameter) not in known for group in made.param_groups for parameter in group["params"]):
            raise InputError("Expected an optimizer of the parameters it is given; got one of others. Pass these on.")
        if (
            _needs(made.step)
            or isinstance(made, SparseAdam)
            or inspect.unwrap(type(made).step) is inspect.unwrap(Optimizer.step)
        ):
            raise InputError(
                f"Expected an optimizer that steps by gradients alone; got {type(made).__name__}. Use another, as "
                f"torch.optim.Adam."
            )
        return made

    def scheduler_of(self, optimizer: Optimizer) -> LRScheduler:
        """Return what sets the optimizer's learning rate, once an epoch."""
        schedule = self.schedule if callable(self.schedule) else SCHEDULES[self.schedule]
        what = "a schedule that is called with optimizer and epochs"
        made = _made(what, LRScheduler, lambda: schedule(optimizer, self.epochs))
        if _needs(made.step) or made.optimizer is not optimizer:
            raise InputError(
                f"Expected a scheduler of this optimizer whose step needs nothing; got {type(made).__name__} of "
                f"{'it' if made.optimizer is optimizer else 'another'}. Use another, such as CosineAnnealingLR."
            )
        return made

    def identity(self) -> dict[str, Any]:
        """Return what a run that is resumed must have in common with the one that was interrupted."""
        found: dict[str, Any] = {
            "batch_size": self.batch_size,
            "seed": self.seed,
            "objective": f"{name_of(self.objective)}({self.objective.num_particles})",
            "learning_rate": float(self.learning_rate),
            "schedule": name_of(self.schedule),
        }
        if self.weight_decay:
            found["weight_decay"] = float(self.weight_decay)
        if self.precision != "single":
            found["precision"] = self.precision
        if self.schedule != "constant":
            found["epochs"] = self.epochs
        return found


def usual_epochs(steps: int) -> int:
    """Return how often to go through the data, in so many steps each, where nothing is said: 3,000 steps in all.

    >>> usual_epochs(5), usual_epochs(600), usual_epochs(1)
    (600, 20, 1000)
    """
    fewest, most = EPOCHS
    return min(max(-(-STEPS // steps), fewest), most)


def _made(what: str, kind: type[T], maker: Callable[[], Any]) -> T:
    """Return what a person's own maker makes, an object of a kind; say in a sentence where it makes none."""
    with expecting(what):
        made = maker()
    if not isinstance(made, kind):
        raise InputError(f"Expected {what}; got one that returns {shown(made)}. Return a {kind.__name__}.")
    return made


def _needs(step: Callable[..., Any]) -> bool:
    """Return whether a step has to be given something, as a closure or a metric."""
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return any(p.default is p.empty and p.kind in kinds for p in inspect.signature(step).parameters.values())


def name_of(thing: Any) -> str:
    """Return what to call an objective, an optimizer or a schedule."""
    return thing if isinstance(thing, str) else str(getattr(thing, "__name__", type(thing).__name__))
