"""An objective's loss and its gradients as one compiled function, held against Pyro's own."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pyro
import torch
from pyro.infer import ELBO
from torch import Tensor

from ppl_vae.capture import UNLIKE, alike, capture, check_tensors, turned
from ppl_vae.errors import CannotCapture
from ppl_vae.pair import Pair
from ppl_vae.precision import products_in
from ppl_vae.rng import seeded
from ppl_vae.structure import Args
from ppl_vae.surrogate import loss_and_surrogate

TRIES = 3


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
        self.objective = objective
        check_tensors(args)
        before = _places(pair)
        with unchanged(pair, self._all):
            first = self._by_pyro(*args)  # what an objective finds out once is found out before anything is recorded
            self.parameters = [p for p in parameters if p.grad is not None]
            first = (
                first[0],
                *(gradient for gradient, p in zip(first[1:], parameters, strict=True) if p.grad is not None),
            )
        if not self.parameters:
            raise CannotCapture("the loss does not depend on any parameter")
        if _places(pair) != before:
            raise CannotCapture("the program puts new tensors in the place of its parameters or buffers")
        with unchanged(pair, self._all):
            second = self._by_pyro(*args)
        if not all(torch.equal(a, b) or bool(a.isnan().any()) for a, b in zip(first, second, strict=True)):
            raise CannotCapture(UNLIKE)
        with unchanged(pair, self._all):
            self._compiled = capture(self._plain, *args)
        for some in (args, turned(args)):
            if not self.agrees(some):
                raise CannotCapture(UNLIKE)

    def __call__(self, args: Args) -> tuple[Tensor, ...]:
        """Return the loss and the gradients, in nats, summed over the data."""
        return self._compiled(*args)

    def agrees(self, args: Args) -> bool:
        """Return whether plain Pyro gives the same for the same noise; everything is left as it was.

        Once in a while it does not, where rounding takes a rectified unit to the other side of its kink; what is
        another function differs for other noise as well.
        """
        return any(self._agrees(args, seed) for seed in range(TRIES))

    def _agrees(self, args: Args, seed: int) -> bool:
        with unchanged(self.pair, self._all, seed):
            expected = self._by_pyro(*args)
        with unchanged(self.pair, self._all, seed):
            # The compiler keeps more digits between two products than plain PyTorch does.
            return alike(self(args), expected, digits=2 if self.precision == "bf16" else 4)

    def _plain(self, *args: Tensor) -> tuple[Tensor, ...]:
        with torch.enable_grad():
            with products_in(self.precision, self.pair.device):
                loss, surrogate = loss_and_surrogate(self.objective, self.pair, args)
            found = torch.autograd.grad(surrogate, self.parameters, allow_unused=True, materialize_grads=True)
            # As they lie in memory: an optimizer may go through both side by side.
            return (loss.detach(), *map(_laid_out_like, found, self.parameters))

    def _by_pyro(self, *args: Tensor) -> tuple[Tensor, ...]:
        for parameter in self.parameters:
            parameter.grad = None
        loss = loss_and_grads(self.objective, self.pair, args, self.precision)
        return (loss, *(torch.zeros_like(p) if p.grad is None else p.grad for p in self.parameters))


def loss_and_grads(objective: Any, pair: Pair, args: Args, precision: str) -> Tensor:
    """Return the loss of a Pyro objective, a scalar, in nats, summed over the data, and leave its gradients."""
    with products_in(precision, pair.device):
        loss = objective.loss_and_grads(pair.model, pair.guide, *args)
    # Wake-sleep objectives have a loss for the model and one for the guide; the model's is the bound.
    return torch.as_tensor(loss[0] if isinstance(loss, tuple) else loss).detach()


@contextmanager
def unchanged(pair: Pair, parameters: list[Tensor], seed: int = 0) -> Iterator[None]:
    """Within it, steps can be tried, from one seed: parameters, buffers, gradients, random states come back."""
    before, gradients = pair.snapshot(), [p.grad for p in parameters]
    buffers = [(b, b._version, b.detach().clone()) for module in pair.all_modules() for b in module.buffers()]
    try:
        with seeded(seed), torch.enable_grad(), pyro.validation_enabled(False):
            yield
    finally:
        pair.restore(before)
        for buffer, version, value in buffers:  # a snapshot has no buffers that are not saved
            if buffer._version != version:  # one that is expanded could not be written to
                buffer.copy_(value)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient


def _laid_out_like(gradient: Tensor, parameter: Tensor) -> Tensor:
    return gradient if gradient.stride() == parameter.stride() else torch.empty_like(parameter).copy_(gradient)


def _places(pair: Pair) -> list[tuple[int, int]]:
    """Return which tensors a pair holds, and where their numbers are."""
    buffers = [b for module in pair.all_modules() for b in module.buffers()]
    return [(id(tensor), tensor.data_ptr()) for tensor in (*pair.tensors().values(), *buffers)]
