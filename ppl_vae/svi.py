"""Stochastic variational inference: `fit`, the training loop.

Any Pyro pair is trained by stochastic gradients of any Pyro objective, by default

    ELBO = E_Q[log P(x, z) - log Q(z | x)],    reparameterized where z allows it.

Epoch e draws all its random numbers from (seed, e), which makes a resumed run equal, bit for bit, to one
that was never interrupted.
"""

import math
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import pyro
import torch
from pyro.infer import ELBO, Trace_ELBO
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ConstantLR, CosineAnnealingLR, LRScheduler
from tqdm.auto import tqdm

from ppl_vae.batches import Batch, Source, as_source
from ppl_vae.checkpoint import History, Row, RunFolder
from ppl_vae.checks import check
from ppl_vae.errors import InputError, NonFiniteLossError, did_you_mean, positive_int, positive_number
from ppl_vae.pair import Pair, Program
from ppl_vae.progress import hidden
from ppl_vae.rng import seeded
from ppl_vae.trace import non_finite_site, structure_of

TRAINING, VALIDATION, SETUP = range(3)  # what a random stream is for
VALIDATION_BATCH = 1000

Schedule = Callable[[Optimizer, int], LRScheduler]
SCHEDULES: dict[str, Schedule] = {
    "constant": lambda optimizer, epochs: ConstantLR(optimizer, factor=1.0),
    "cosine": lambda optimizer, epochs: CosineAnnealingLR(optimizer, T_max=epochs),
}

ADAM = partial(torch.optim.Adam, fused=True)  # one call for all parameters


@dataclass(frozen=True)
class Fit:
    """What `fit` returns; the fitted numbers are in the model and the guide themselves.

    Attributes:
        history: ELBO over epochs, as arrays.
        best_epoch: the epoch whose weights were kept.
        stopped: why it ended: "epochs" (all were done) or "patience" (no more improvement).
    """

    history: History
    best_epoch: int
    stopped: str


def fit(
    model: Program,
    guide: Program,
    data: Any,
    *,
    validation: Any = None,
    epochs: int = 50,
    batch_size: int = 100,
    learning_rate: float = 1e-3,
    objective: ELBO | None = None,
    optimizer: Callable[..., Optimizer] = ADAM,
    schedule: str | Schedule = "cosine",
    patience: int | None = None,
    seed: int = 0,
    out: str | os.PathLike[str] | None = None,
    resume: bool = False,
    on_start: Callable[[], None] | None = None,
    progress: bool | None = None,
) -> Fit:
    """Fit a model and a guide to data by stochastic variational inference.

        maximize  sum_x E_Q(z | x)[log P(x, z) - log Q(z | x)]

    Modules continue from the weights they have; what plain functions keep in `pyro.param` starts anew. The
    weights of the best epoch are put back at the end, however it ends.

    Args:
        model: P(x, z), any Pyro program: a module, a function or a method, called as `model(*batch)`.
        guide: Q(z | x), called the same way.
        data: a split of ours, a tensor [N, ...], a tuple of tensors, a PyTorch Dataset or DataLoader.
        validation: the same; its ELBO says which epoch was best. Without it the last one is.
        epochs: how often to go through the data.
        batch_size: data in one step (a DataLoader has its own).
        learning_rate: given to the optimizer as `lr`.
        objective: any Pyro ELBO; `pyro.infer.Trace_ELBO()` by default.
        optimizer: called as `optimizer(parameters, lr=learning_rate)`.
        schedule: "cosine" (down to 0 over all epochs), "constant", or a function of (optimizer, epochs)
            that returns a PyTorch scheduler, stepped once an epoch.
        patience: stop after this many epochs without a better validation ELBO.
        seed: of everything random; the global random state is left as it was.
        out: a folder for checkpoints, history and best weights.
        resume: go on with the checkpoint in `out`, if there is one.
        on_start: called once everything has been checked, before any work.
        progress: show a progress bar; None shows it in a terminal and in a notebook.

    Returns:
        `Fit`, with the history in nats per datum.

    Raises:
        InputError: arguments, data or programs that do not fit; a folder that holds another run.
        NonFiniteLossError: the loss became NaN or infinite; it names the site, and the last good weights
            are in the programs.

    Source: Kingma & Welling, arXiv 1312.6114; Bingham et al., Pyro, arXiv 1810.09538.

    >>> from ppl_vae import data
    >>> from ppl_vae.models import VAE
    >>> from ppl_vae.guides import MeanField
    >>> digits = data.load("digits")
    >>> model = VAE(digits.event_shape)
    >>> guide = MeanField(model)
    >>> fitted = fit(model, guide, digits.train, validation=digits.validation, epochs=2)
    >>> bool(fitted.history.validation_elbo[1] > fitted.history.validation_elbo[0])
    True
    """
    positive_int("epochs", epochs)
    positive_int("batch_size", batch_size)
    positive_number("learning_rate", learning_rate)
    if patience is not None:
        positive_int("patience", patience)
        if validation is None:
            raise InputError("Expected validation data to stop early by; got patience without validation. Give both.")
    objective = Trace_ELBO() if objective is None else objective
    pair = Pair(model, guide, fresh=True)
    if pair.modules and type(objective).__name__.startswith("Jit"):
        raise InputError(
            f"Expected an objective that works with modules; got {type(objective).__name__}, which finds parameters in "
            f"Pyro's global store only. Use {type(objective).__name__.removeprefix('Jit')}."
        )
    source = as_source(data, pair)
    held_out = None if validation is None else as_source(validation, pair)
    settings: dict[str, Any] = {
        "batch_size": batch_size,
        "learning_rate": float(learning_rate),
        "seed": seed,
        "num_data": len(source),
        "objective": type(objective).__name__,
        "schedule": schedule if isinstance(schedule, str) else getattr(schedule, "__name__", "own"),
    } | ({} if schedule == "constant" else {"epochs": epochs})
    with pair.running():
        with seeded(seed, SETUP):  # programs may make their parameters, at random, when they first run
            traces, num_data = check(pair, source)
            pair.see(traces)
            if held_out is not None:
                check(pair, held_out)
        if not pair.parameters():
            raise InputError("Expected something to fit; got a model and a guide without parameters. Add a network.")
        steps = optimizer(pair.parameters(), lr=learning_rate)
        training = _Training(
            pair, objective, steps, _schedule(schedule)(steps, epochs), _fixed_plate_size(traces, num_data)
        )
        folder = None if out is None else RunFolder(out)
        if folder is not None and folder.has_state:
            training.load_state(folder.read_state_of(settings, resume))
        if on_start is not None:
            on_start()
        try:
            with (
                pyro.validation_enabled(False),
                tqdm(total=epochs, desc="fit", unit="epoch", initial=training.epoch, disable=hidden(progress)) as bar,
            ):
                while training.epoch < epochs and not training.out_of_patience(patience):
                    training.run_epoch(source, held_out, batch_size, seed)
                    if folder is not None:
                        folder.write_state(training.state() | {"settings": settings})
                    bar.set_postfix(training.postfix(), refresh=False)
                    bar.update()
        finally:
            pair.restore(training.best)
            pair.train(False)
    stopped = "patience" if training.out_of_patience(patience) else "epochs"
    return Fit(History.of(training.rows), training.best_epoch, stopped)


class _Training:
    """A pair being trained: what the next step needs, and the best weights so far."""

    def __init__(
        self, pair: Pair, objective: ELBO, optimizer: Optimizer, scheduler: LRScheduler, plate_size: int | None
    ) -> None:
        self.pair, self.plate_size = pair, plate_size
        self.objective: Any = objective  # the base class of all Pyro objectives does not declare their methods
        self.optimizer, self.scheduler = optimizer, scheduler
        self.parameters = pair.parameters()
        self.rows: list[Row] = []
        self.best, self.best_epoch, self.best_score, self.stale = pair.snapshot(), 0, -math.inf, 0

    @property
    def epoch(self) -> int:
        """How many epochs are done."""
        return len(self.rows)

    def out_of_patience(self, patience: int | None) -> bool:
        """Whether the last `patience` epochs brought nothing better."""
        return patience is not None and self.stale >= patience

    def postfix(self) -> dict[str, str]:
        """Return the last epoch's ELBOs, for the progress bar."""
        _, train_elbo, validation_elbo, _ = self.rows[-1]
        shown = {"ELBO": f"{train_elbo:.2f}"}
        return shown if math.isnan(validation_elbo) else shown | {"validation": f"{validation_elbo:.2f}"}

    def run_epoch(self, source: Source, held_out: Source | None, batch_size: int, seed: int) -> None:
        """Go through the data once, then through the validation data, and note how it went."""
        learning_rate = float(self.optimizer.param_groups[0]["lr"])
        self.pair.train(True)
        with seeded(seed, TRAINING, self.epoch):
            train_elbo = self._mean_elbo(source.batches(batch_size, shuffle=True), self._step)
        self.pair.train(False)
        self.scheduler.step()
        validation_elbo = math.nan
        if held_out is not None:
            with seeded(seed, VALIDATION), torch.no_grad():  # the same noise each time: epochs are compared
                validation_elbo = self._mean_elbo(held_out.batches(VALIDATION_BATCH), self._evaluate)
        self.rows.append((self.epoch + 1, train_elbo, validation_elbo, learning_rate))
        score = float(self.epoch) if held_out is None else validation_elbo
        self.stale += 1
        if score > self.best_score:
            self.best, self.best_epoch, self.best_score, self.stale = self.pair.snapshot(), self.epoch, score, 0

    def _mean_elbo(self, batches: Iterator[Batch], loss_of: Callable[[Batch], float]) -> float:
        loss, count = 0.0, 0
        for batch in batches:
            args = tuple(t.to(self.pair.device) for t in batch)
            state = torch.get_rng_state()
            value = loss_of(args)
            if not math.isfinite(value):
                self._stop(value, args, state)
            size = len(args[0])
            # A plate of fixed size scales its subset up to that size.
            loss += value if self.plate_size is None else value * size / self.plate_size
            count += size
        return -loss / count

    def _step(self, args: Batch) -> float:
        self.optimizer.zero_grad()
        loss = float(self.objective.loss_and_grads(self.pair.model, self.pair.guide, *args))
        if math.isfinite(loss):
            self.optimizer.step()
        return loss

    def _evaluate(self, args: Batch) -> float:
        return float(self.objective.loss(self.pair.model, self.pair.guide, *args))

    def _stop(self, loss: float, args: Batch, rng_state: Tensor) -> None:
        torch.set_rng_state(rng_state)
        with torch.no_grad():
            culprit = non_finite_site(self.pair, args)
        kept = f"epoch {self.best_epoch}" if self.best_epoch else "the start"
        raise NonFiniteLossError(
            f"Expected a finite loss; got {loss} in epoch {self.epoch + 1}, from {culprit}. The weights of {kept} were "
            f"kept. Lower the learning rate, or look at that site's parameters."
        )

    def state(self) -> dict[str, Any]:
        """Return all that `load_state` needs, as tensors and numbers."""
        return {
            "weights": self.pair.snapshot(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "rows": self.rows,
            "best": self.best,
            "best_epoch": self.best_epoch,
            "best_score": self.best_score,
            "stale": self.stale,
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Go back to where `state()` was taken."""
        self.pair.restore(state["weights"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scheduler.load_state_dict(state["scheduler"])
        self.rows, self.best = [tuple(row) for row in state["rows"]], state["best"]
        self.best_epoch, self.best_score, self.stale = state["best_epoch"], state["best_score"], state["stale"]


def _schedule(schedule: str | Schedule) -> Schedule:
    if callable(schedule):
        return schedule
    if schedule not in SCHEDULES:
        raise InputError(f"Unknown schedule {schedule!r}: {did_you_mean(schedule, SCHEDULES)}.")
    return SCHEDULES[schedule]


def _fixed_plate_size(traces: list[Any], num_data: int) -> int | None:
    """Return the size of the plate over the data if it is not the number of data a program is given."""
    try:
        full_size = structure_of(traces, num_data).full_size
    except InputError:  # no plate over the data: fitting can do without
        return None
    return None if full_size == num_data else full_size
