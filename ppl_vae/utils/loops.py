"""A loop over the steps of a series, each from what the one before gave.

Plain Python runs it as it stands. Whoever compiles a program compiles one of its steps, and not the loop written out:
within `steps_by`, each loop asks for the function that is to make its steps.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from torch import Tensor

Tensors = tuple[Tensor, ...]
Step = Callable[..., Tensors]  # of what the step before gave first, and of what is given at this one
Maker = Callable[[Step, Tensors, int], Step]  # of a step, an example of its arguments, and how often it is made

_maker: ContextVar[Maker | None] = ContextVar("maker", default=None)


def looped(step: Step, carry: Tensor, num_steps: int, *given: Tensor, backwards: bool = False) -> list[Tensors]:
    """Return what each of S steps gives, in the order of time: a tuple, whose first tensor goes to the next one.

        results_s = step(results_(s-1)[0], given_s),    given_s [..., 1, D] of given [..., S, D]

    >>> import torch
    >>> [float(total) for total, in looped(lambda total, x: (total + x,), torch.zeros(1, 1), 3, torch.ones(3, 1))]
    [1.0, 2.0, 3.0]
    """
    parts = [values.split(1, -2) for values in given]
    maker, results = _maker.get(), list[Tensors]()
    if maker is not None and num_steps:
        step = maker(step, (carry, *(part[0] for part in parts)), num_steps)
    for s in reversed(range(num_steps)) if backwards else range(num_steps):
        results.append(step(carry, *(part[s] for part in parts)))
        carry = results[-1][0]
    return results[::-1] if backwards else results


@contextmanager
def steps_by(maker: Maker | None) -> Iterator[None]:
    """Within it, this says what makes the steps of each loop."""
    token = _maker.set(maker)
    try:
        yield
    finally:
        _maker.reset(token)
