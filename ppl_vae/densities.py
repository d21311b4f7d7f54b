"""The densities that annealing goes along, with their gradients, for chunk after chunk: as fast as pays.

Pyro is run once for each chunk while its operations are recorded; what does not depend on the latents (the encoder's
answer) is computed then. What was recorded is run as it is, or compiled, where there is work enough: once for all
chunks of one size, as the data are arguments of the compiled function.
"""

import time
import warnings
from collections.abc import Callable

import pyro
import torch
from torch import Tensor

from ppl_vae.capture import capture, compiling_pays
from ppl_vae.errors import CannotCapture
from ppl_vae.hmc import Evaluate, State, with_gradients
from ppl_vae.recorded import Tensors, alike, recorded
from ppl_vae.unconstrained import Latents

Fast = Callable[[Tensor], Tensors]


class Densities:
    """Gives for each chunk what evaluates log base and log ratio and their gradients at u [C, N, D].

    Args:
        num_evaluations: how often they will be evaluated, all chunks together.
        wanted: True compiles, False never does, "auto" where the work is long enough to pay for it.
    """

    def __init__(self, num_evaluations: int, wanted: bool | str = "auto") -> None:
        self.num_evaluations, self.wanted = num_evaluations, wanted
        self._shape: torch.Size | None = None  # of u, where it is compiled

    def of(self, latents: Latents, num_chains: int) -> Evaluate:
        """Return the evaluation for one chunk."""
        plain, example = with_gradients(latents), latents.draw(num_chains).contiguous()

        def function(u: Tensor) -> Tensors:
            return tuple(plain(u))

        fast = self._compiled(function, example) or recorded(function, example)

        def evaluate(u: Tensor) -> State:
            # A trajectory may leave what is numerically possible: it is then rejected, and is no error.
            with pyro.validation_enabled(False):
                # The record is of this layout; gradients of triangular solves come in another, and u with them.
                return State(*fast(u.contiguous()))

        return evaluate

    def _compiled(self, function: Fast, example: Tensor) -> Fast | None:
        """Return the function compiled, if that pays and can be done."""
        # Decided at the first chunk for all of its size; a last one that is smaller is not worth compiling for.
        self._shape = self._shape or example.shape
        if self.wanted is False or example.shape != self._shape:
            return None
        if self.wanted == "auto":
            self.wanted = compiling_pays(_seconds(recorded(function, example), example) * self.num_evaluations)
            return self._compiled(function, example)
        try:
            compiled = capture(function, example, once=True)
            with pyro.validation_enabled(False):
                if not alike(function, compiled, example):
                    raise CannotCapture("the program does something else on each run")
        except CannotCapture as problem:
            warnings.warn(f"Annealing is not compiled, as {problem}.", stacklevel=2)
            self.wanted = False
            return None
        return compiled


def _seconds(function: Fast, example: Tensor) -> float:
    function(example)
    start = time.perf_counter()
    function(example)
    return time.perf_counter() - start
