"""A function with loops over time, of which one step of each is compiled, not the loop written out.

A step is recorded the first time that its loop is run, as it is for one step, and compiled with its gradients; all
others are calls of it. The rest of the function is run as it stands. A step that is another one on a later run (it
holds other tensors, or other modules) is run as it stands, too.
"""

from collections.abc import Callable
from types import FunctionType
from typing import Any, NamedTuple

import pyro
import torch
from torch import Tensor

from ppl_vae.compilation.record import compiler_options, lift, record
from ppl_vae.utils.loops import Step, Tensors, steps_by

LEAST = 4  # steps, below which a loop is written out


class Loops(Exception):  # noqa: N818 (not a fault: such a function is compiled in another way)
    """A function that is recorded has a loop."""


def refuse_loops() -> Any:
    """Return a context within which a loop is not run: `Loops` is raised."""
    return steps_by(_refuse)


def _refuse(step: Step, example: Tensors, num_steps: int) -> Step:
    if num_steps >= LEAST:
        raise Loops
    return step


class Compiled(NamedTuple):
    """A step that is compiled: of which function, for which tensors."""

    step: Step
    layout: Any
    call: Step


class ByStep:
    """A function whose loops make compiled steps.

    >>> from ppl_vae.utils.loops import looped
    >>> by_step = ByStep(lambda x: looped(lambda total, part: (total + part,), x[:1], len(x), x)[-1])
    >>> by_step(torch.ones(5, 1))
    (tensor([[6.]]),)
    """

    def __init__(self, function: Callable[..., Tensors]) -> None:
        self.function = function
        self._known: list[Compiled] = []  # in the order of the loops of a run
        self._loop = 0

    def __call__(self, *args: Tensor) -> Tensors:
        """Run the function."""
        self._loop = 0
        with pyro.validation_enabled(False), steps_by(self._made):
            return self.function(*args)

    def _made(self, step: Step, example: Tensors, num_steps: int) -> Step:
        if num_steps < LEAST:
            return step
        layout = [(value.shape, value.dtype, value.device) for value in example]
        if self._loop == len(self._known):
            self._known.append(Compiled(step, layout, compiled_step(step, example)))
        known = self._known[self._loop]
        self._loop += 1
        return known.call if known.layout == layout and same(known.step, step) else step


def compiled_step(step: Step, example: Tensors) -> Step:
    """Compile one step, with gradients by its arguments and by the tensors that it holds."""
    with torch.random.fork_rng(devices={value.device for value in example if value.is_cuda}):
        graph = record(step, *example)
    held = lift(graph)
    compiled = torch.compile(graph, fullgraph=True, dynamic=False, options=compiler_options())
    return lambda *args: compiled(*args, *held)


def same(a: Any, b: Any) -> bool:
    """Return whether two functions do the same: one code, which holds the same modules, tensors and numbers.

    >>> def scaled(by):
    ...     return lambda x: by * x
    >>> same(scaled(2), scaled(2)), same(scaled(2), scaled(3)), same(scaled(torch.ones(1)), scaled(torch.ones(1)))
    (True, False, False)
    """
    if isinstance(a, FunctionType) and isinstance(b, FunctionType):
        held = [[cell.cell_contents for cell in function.__closure__ or ()] for function in (a, b)]
        return a.__code__ is b.__code__ and a.__defaults__ == b.__defaults__ and all(map(same, *held))
    plain = isinstance(a, int | float | str | torch.Size | None)
    return a is b or (plain and type(a) is type(b) and a == b)
