"""Steps of stochastic gradient: the loss of a batch, its gradients, and the optimizer's move.

The gradients come from Pyro's objective, or, for batches of shapes that have been compiled, from a recorded function
(`capture`), which gives the same for the same noise. Batches of any other shape (the last of an epoch may be short)
take plain Pyro's way, so no shape is ever compiled in the middle of a fit.
"""

import math
import time
import warnings
from typing import Any

import torch
from pyro.infer import ELBO
from torch import Tensor
from torch.optim import Optimizer

from ppl_vae.adam import AdamUpdate
from ppl_vae.capture import compiling_pays
from ppl_vae.errors import CannotCapture
from ppl_vae.gradients import Gradients, loss_and_grads, unchanged
from ppl_vae.pair import Pair
from ppl_vae.sources import Batch, Source

Shapes = tuple[Any, ...]


class Steps:
    """Makes steps, all on one pair.

    Args:
        pair: the two programs; call it within `pair.running()`.
        objective: a Pyro ELBO.
        optimizer: of the pair's parameters.
        weight_decay: L2 penalty of the optimizer's first group, beside the loss per datum.
        plate_size: how many data the loss is for, where that is not the number of data in the batch.
        precision: "single", or "bf16" of matrix products.

    >>> from pyro.infer import Trace_ELBO
    >>> from ppl_vae.models import VAE
    >>> from ppl_vae.guides import MeanField
    >>> model = VAE((1, 8, 8))
    >>> pair, x = Pair(model, MeanField(model)), torch.rand(5, 1, 8, 8).round()
    >>> with pair.running():
    ...     steps = Steps(pair, Trace_ELBO(), torch.optim.Adam(pair.parameters()))
    ...     losses = [float(steps((x,))) for _ in range(50)]
    >>> losses[-1] < losses[0]
    True
    """

    def __init__(
        self,
        pair: Pair,
        objective: ELBO,
        optimizer: Optimizer,
        *,
        weight_decay: float = 0.0,
        plate_size: int | None = None,
        precision: str = "single",
    ) -> None:
        self.pair, self.optimizer, self.precision = pair, optimizer, precision
        self.objective: Any = objective  # the base class of all Pyro objectives does not declare their methods
        self.weight_decay, self.plate_size = weight_decay, plate_size
        self.parameters = [p for group in optimizer.param_groups for p in group["params"]]
        self._compiled: dict[Shapes, Gradients] = {}
        self._update: AdamUpdate | None = None
        self._unchecked: set[Shapes] = set()

    @property
    def compiled(self) -> bool:
        """Whether batches of any shape are compiled."""
        return bool(self._compiled)

    def compile(self, args: Batch) -> None:
        """Compile the loss and the gradients of batches in the shapes of this one.

        Raises:
            CannotCapture: it cannot be done; the message says why.
        """
        gradients = Gradients(self.pair, self.objective, self.parameters, args, precision=self.precision)
        if self._update is None and AdamUpdate.suits(self.optimizer):
            self._update = AdamUpdate(self.optimizer)
        self._compiled[_shapes(args)] = gradients

    def compile_where_it_pays(self, source: Source, batch_size: int, epochs: int, wanted: bool | str) -> None:
        """Compile the shapes of batches that are wanted (True), or whose steps take long enough for it ("auto").

        Where that cannot be done, one warning says why, and plain Pyro is used.
        """
        for batch, count in source.examples(batch_size) if wanted is not False else ():
            args = tuple(t.to(self.pair.device) for t in batch)
            if wanted == "auto" and not self._pays(args, count * epochs):
                continue
            try:
                self.compile(args)
            except CannotCapture as problem:
                which = f" for batches of {len(args[0])}" if self._compiled else ""
                warnings.warn(f"Plain Pyro is used{which}, as {problem}.", stacklevel=4)
                return

    def new_epoch(self) -> None:
        """Compare what is compiled with plain Pyro once more: a program may have changed what it does."""
        self._unchecked = set(self._compiled)

    def __call__(self, args: Batch) -> Tensor:
        """Make one step; return the loss before it, a scalar, in nats, summed over the data.

        On the CPU, where looking costs nothing, nothing is moved if the loss is not finite.
        """
        if self.weight_decay:  # of the loss per datum; Pyro's is a sum over the plate
            self.optimizer.param_groups[0]["weight_decay"] = self.weight_decay * (self.plate_size or len(args[0]))
        gradients = self._gradients(args) if self._compiled else None
        if gradients is None:
            self.optimizer.zero_grad()
            loss, found = loss_and_grads(self.objective, self.pair, args, self.precision), []
        else:
            loss, *found = gradients(args)
        if loss.device.type == "cpu" and not math.isfinite(loss):
            return loss
        if self._update is not None and len(found) == len(self.parameters) and self._update(found):
            return loss
        if gradients is not None:
            self.optimizer.zero_grad()
            for parameter, gradient in zip(gradients.parameters, found, strict=True):
                parameter.grad = gradient
        self.optimizer.step()
        return loss

    def _gradients(self, args: Batch) -> Gradients | None:
        shapes = _shapes(args)
        gradients = self._compiled.get(shapes)
        if gradients is not None and shapes in self._unchecked:
            self._unchecked.discard(shapes)
            if not gradients.agrees(args):
                del self._compiled[shapes]
                warnings.warn("Plain Pyro is used from here on, as the program changed what it does.", stacklevel=4)
                return None
        return gradients

    def _pays(self, args: Batch, count: int) -> bool:
        """Whether so many steps are made sooner if they are compiled first; none is made to find out."""
        seconds = math.inf
        for _ in range(3):  # the first may find out things once; if it is quick, it is all there is to know
            with unchanged(self.pair, self.parameters):
                start = time.perf_counter()
                loss_and_grads(self.objective, self.pair, args, self.precision)
                if self.pair.device.type == "cuda":
                    torch.cuda.synchronize()
                seconds = min(seconds, time.perf_counter() - start)
            if not compiling_pays(count * seconds, steps=True):
                return False
        return True


def _shapes(args: Batch) -> Shapes:
    return tuple((t.shape, t.dtype, t.device) for t in args)
