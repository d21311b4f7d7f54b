"""Steps of stochastic gradient: the loss of a batch, its gradients, and the optimizer's move.

The gradients come from Pyro's objective, or, for batches of shapes that have been compiled, from a recorded function
(`Gradients`), which is held against Pyro's own for the same noise before it is used. Batches of any other shape (the
last of an epoch may be short) take plain Pyro's way, so no shape is ever compiled in the middle of a fit.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from pyro.infer import ELBO
from torch import Tensor
from torch.optim import Optimizer

from ppl_vae.compilation.capture import (
    STEPS_SPEEDUP,
    UNLIKE,
    CannotCapture,
    capture,
    check_tensors,
    compiled_or_none,
    pays,
    turned,
)
from ppl_vae.compilation.record import GRADIENTS, GRADIENTS_IN_BF16, alike
from ppl_vae.data.arrays import Batch
from ppl_vae.data.sources import Source
from ppl_vae.fitting.options import FitOptions
from ppl_vae.objectives.surrogate import loss_and_surrogate
from ppl_vae.traces.pair import Pair, places, program_name, unchanged
from ppl_vae.traces.plates import Args
from ppl_vae.utils.faults import differentiated, warn
from ppl_vae.utils.precision import products_in
from ppl_vae.utils.threads import Threads

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
        before = places(pair)
        with unchanged(pair, self._all):
            first = self._by_pyro(*args)  # what an objective finds out once is found out before anything is recorded
            self.parameters = [p for p in parameters if p.grad is not None]
            first = (
                first[0],
                *(gradient for gradient, p in zip(first[1:], parameters, strict=True) if p.grad is not None),
            )
            after = places(pair)
        if not self.parameters:
            raise CannotCapture("the loss does not depend on any parameter")
        if after != before:
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
            likeness = GRADIENTS_IN_BF16 if self.precision == "bf16" else GRADIENTS
            if not math.isfinite(expected[0]):  # nothing to compare: the step will stop at the loss
                return not math.isfinite(self(args)[0])
            largest = max(float(gradient.abs().max()) for gradient in expected[1:] if gradient.numel())
            return alike(self(args), expected, likeness, [10.0, *[largest] * len(self.parameters)])

    def _plain(self, *args: Tensor) -> tuple[Tensor, ...]:
        with torch.enable_grad():
            with products_in(self.precision, self.pair.device):
                loss, surrogate = loss_and_surrogate(self.objective, self.pair.model, self.pair.guide, args)
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
    names = " and ".join(map(program_name, pair.programs.values()))
    with products_in(precision, pair.device), differentiated(names):
        loss = objective.loss_and_grads(pair.model, pair.guide, *args)
    return torch.as_tensor(bound_of(loss)).detach()


def bound_of(loss: Any) -> Any:
    """Return the loss that is the bound: of wake-sleep's two, one for each program, the model's."""
    return loss[0] if isinstance(loss, tuple) else loss


def _laid_out_like(gradient: Tensor, parameter: Tensor) -> Tensor:
    return gradient if gradient.stride() == parameter.stride() else torch.empty_like(parameter).copy_(gradient)


Shapes = tuple[Any, ...]
NOTHING, FLUSH = 1e-30, 100  # what is next to nothing in an optimizer's averages, and after how many steps it goes


class Steps:
    """Makes steps, all on one pair.

    Args:
        pair: the two programs; call it within `pair.running()`.
        optimizer: of the pair's parameters, as `options.optimizer_of` makes it.
        options: of the fit.
        plate_size: how many data the loss is for, where that is not the number of data in the batch.

    >>> from ppl_vae.models import VAE
    >>> from ppl_vae.guides import MeanField
    >>> model, options = VAE((1, 8, 8)), FitOptions()
    >>> pair, x = Pair(model, MeanField(model)), torch.rand(5, 1, 8, 8).round()
    >>> with pair.running():
    ...     steps = Steps(pair, options.optimizer_of(pair.parameters()), options)
    ...     losses = [float(steps((x,))) for _ in range(50)]
    >>> losses[-1] < losses[0]
    True
    """

    def __init__(self, pair: Pair, optimizer: Optimizer, options: FitOptions, plate_size: int | None = None) -> None:
        self.pair, self.optimizer, self.options, self.plate_size = pair, optimizer, options, plate_size
        self.parameters = [p for group in optimizer.param_groups for p in group["params"]]
        self.optimizer.zero_grad()
        self._compiled: dict[Shapes, Gradients] = {}
        self._unchecked: set[Shapes] = set()
        self._made = 0  # steps of this epoch

    @property
    def compiled(self) -> bool:
        """Whether batches of any shape are compiled."""
        return bool(self._compiled)

    def compile(self, args: Batch) -> Gradients:
        """Compile the loss and the gradients of batches in the shapes of this one.

        Raises:
            CannotCapture: it cannot be done; the message says why.
        """
        options = self.options
        gradients = Gradients(self.pair, options.objective, self.parameters, args, precision=options.precision)
        self._compiled[_shapes(args)] = gradients
        return gradients

    def prepare(self, source: Source, epochs: int, wanted: bool | str, threads: Threads) -> None:
        """Choose the number of threads; compile the shapes of batches that are wanted (True), or pay for it ("auto").

        Where that cannot be done, one warning says why, and plain Pyro is used.
        """
        examples = source.examples(self.options.batch_size) if wanted is not False or threads.all > 1 else ()
        some = [(self.pair.to_device(batch), count * epochs) for batch, count in examples]
        trials = [partial(self.trial, args) for args, _ in some]
        if some:
            threads.choose(trials[0], some[0][1])
        for (args, count), trial in zip(some, trials, strict=True):
            if not pays(wanted, trial, count, speedup=STEPS_SPEEDUP):
                continue
            which = f" for batches of {len(args[0])}" if self._compiled else ""
            said = f"Plain Pyro is used{which}"
            if compiled_or_none(partial(self.compile, args), said, stacklevel=4, wanted=wanted) is None:
                break
        if self._compiled:
            threads.choose(trials[0], some[0][1])

    @contextmanager
    def trial(self, args: Batch) -> Iterator[Callable[[], object]]:
        """Within it, the gradients of a batch can be computed without a trace."""
        with unchanged(self.pair, self.parameters):
            yield lambda: self._differentiate(args, self._compiled.get(_shapes(args)))

    def new_epoch(self) -> None:
        """Compare what is compiled with plain Pyro once more: a program may have changed what it does."""
        self._unchecked, self._made = set(self._compiled), 0
        self._flush()

    def __call__(self, args: Batch) -> Tensor:
        """Make one step; return the loss before it, a scalar, in nats, summed over the data.

        On the CPU, where looking costs nothing, nothing is moved if the loss is not finite.
        """
        if self.options.weight_decay:  # of the loss per datum; Pyro's is a sum over the plate
            decay = self.options.weight_decay * (self.plate_size or len(args[0]))
            self.optimizer.param_groups[0]["weight_decay"] = decay
        loss = self._differentiate(args, self._gradients(args) if self._compiled else None)
        if loss.device.type == "cpu" and not math.isfinite(loss):
            return loss
        self.optimizer.step()
        for parameter in self.parameters:  # now: the next step finds their memory free, and in the cache
            parameter.grad = None
        self._made += 1
        if self._made % FLUSH == 0:
            self._flush()
        return loss

    def _differentiate(self, args: Batch, gradients: Gradients | None) -> Tensor:
        """Leave the gradients with the parameters; return the loss."""
        if gradients is None:
            return loss_and_grads(self.options.objective, self.pair, args, self.options.precision)
        loss, *found = gradients(args)
        for parameter, gradient in zip(gradients.parameters, found, strict=True):
            parameter.grad = gradient
        return loss

    def _gradients(self, args: Batch) -> Gradients | None:
        shapes = _shapes(args)
        gradients = self._compiled.get(shapes)
        if gradients is not None and shapes in self._unchecked:
            self._unchecked.discard(shapes)
            if not gradients.agrees(args):
                del self._compiled[shapes]
                warn("Plain Pyro is used from here on, as the program changed what it does.")
                return None
        return gradients

    def _flush(self) -> None:
        """Set what is next to nothing in the optimizer's averages to 0.

        Where gradients vanish, these fall in each step until they are denormal numbers, for which a processor takes
        many times as long; beside Adam's eps they have long been nothing.
        """
        for state in self.optimizer.state.values():
            for name in ("exp_avg", "exp_avg_sq"):
                if name in state:
                    torch.hardshrink(state[name], NOTHING, out=state[name])


def _shapes(args: Batch) -> Shapes:
    return tuple((t.shape, t.dtype, t.device) for t in args)
