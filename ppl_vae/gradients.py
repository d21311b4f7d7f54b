"""An objective's loss and its gradients as one compiled function, held against Pyro's own."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pyro
import torch
from pyro.infer import ELBO
from torch import Tensor

from ppl_vae.capture import UNLIKE, CannotCapture, alike, capture, check_tensors, turned
from ppl_vae.pair import Pair
from ppl_vae.precision import products_in
from ppl_vae.rng import seeded
from ppl_vae.structure import Args
from ppl_vae.surrogate import loss_and_surrogate


class Gradients:
    """A compiled function that gives an objective's loss and its gradients, for data of certain shapes.

        (loss, d loss / d parameter_1, d loss / d parameter_2, ...)

    in nats, summed over the data; the draws are those of the objective's own `loss_and_grads`, from PyTorch's global
    generator.

    Attributes:
        parameters: those that the loss depends on.

    Args:
        pair: the two programs; make and call it within `pair.running()`, in one mode, training or evaluating.
        objective: a Pyro ELBO.
        parameters: what to differentiate by.
        args: what both programs are called with, all tensors: x first. Real data: the function is tried on them.
        precision: "single", or "bf16" of matrix products.

    Raises:
        CannotCapture: the programs cannot be recorded or compiled, sites are not reparameterized, or the objective is
            of no kind that is known.

    >>> from pyro.infer import Trace_ELBO
    >>> from ppl_vae.models import VAE
    >>> from ppl_vae.guides import MeanField
    >>> model = VAE((1, 8, 8))
    >>> pair, x = Pair(model, MeanField(model)), torch.rand(5, 1, 8, 8).round()
    >>> with pair.running():
    ...     gradients = Gradients(pair, Trace_ELBO(), pair.parameters(), (x,))
    ...     loss, *found = gradients((x,))
    >>> len(found) == len(pair.parameters())
    True
    """

    def __init__(
        self, pair: Pair, objective: ELBO, parameters: list[Tensor], args: Args, *, precision: str = "single"
    ) -> None:
        self.pair, self.parameters, self._all, self.precision = pair, parameters, parameters, precision
        self.objective: Any = objective
        check_tensors(args)
        with self._without_a_trace():
            self._by_pyro(*args)  # what an objective finds out once is found out before anything is recorded
            self.parameters = [p for p in parameters if p.grad is not None]
            self._compiled = capture(self._plain, *args)
        for some in (args, turned(args)):
            if not self.agrees(some):
                raise CannotCapture(UNLIKE)

    def __call__(self, args: Args) -> tuple[Tensor, ...]:
        """Return the loss and the gradients, in nats, summed over the data."""
        return self._compiled(*args)

    def agrees(self, args: Args) -> bool:
        """Return whether plain Pyro gives the same for the same noise; everything is left as it was."""
        with self._without_a_trace():
            expected = self._by_pyro(*args)
        with self._without_a_trace():
            # The compiler keeps more digits between two products than plain PyTorch does.
            return alike(self(args), expected, digits=2 if self.precision == "bf16" else 4)

    @contextmanager
    def _without_a_trace(self) -> Iterator[None]:
        # A run may change buffers, as batch normalization does.
        before, gradients = self.pair.snapshot(), [p.grad for p in self._all]
        try:
            with seeded(0), torch.enable_grad(), pyro.validation_enabled(False):
                yield
        finally:
            self.pair.restore(before)
            for parameter, gradient in zip(self._all, gradients, strict=True):
                parameter.grad = gradient

    def _plain(self, *args: Tensor) -> tuple[Tensor, ...]:
        with torch.enable_grad():
            with products_in(self.precision, self.pair.device):
                loss, surrogate = loss_and_surrogate(self.objective, self.pair, args)
            found = torch.autograd.grad(surrogate, self.parameters, allow_unused=True, materialize_grads=True)
            return (loss.detach(), *found)

    def _by_pyro(self, *args: Tensor) -> tuple[Tensor, ...]:
        for parameter in self.parameters:
            parameter.grad = None
        with products_in(self.precision, self.pair.device):
            loss = torch.as_tensor(self.objective.loss_and_grads(self.pair.model, self.pair.guide, *args))
        found = [torch.zeros_like(p) if p.grad is None else p.grad for p in self.parameters]
        return (loss.to(found[0]), *found)
