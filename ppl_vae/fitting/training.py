"""The state of a fit, and its steps: one epoch of stochastic gradients after another.

Epoch e draws its random numbers from (seed, e): a resumed run is, bit for bit, one that was never interrupted, with one
number of threads (another, or compiled steps: up to rounding).
"""

import math
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from ppl_vae.data.arrays import Batch
from ppl_vae.data.sources import Source
from ppl_vae.errors import NonFiniteLossError, reason
from ppl_vae.fitting.history import Fit, History, Row
from ppl_vae.fitting.identity import (
    groups_of,
    objective_settings,
    optimizer_settings,
    program_settings,
    schedule_settings,
)
from ppl_vae.fitting.moving import Moving, in_words
from ppl_vae.fitting.options import FitOptions, name_of
from ppl_vae.fitting.steps import Steps, bound_of
from ppl_vae.traces.log_weights import non_finite_site
from ppl_vae.traces.pair import Pair
from ppl_vae.utils.faults import warn
from ppl_vae.utils.rng import seeded
from ppl_vae.utils.threads import Threads

Snapshot = dict[str, Tensor]
Keep = Callable[..., None]  # writes the state of a fit; given the best weights, these into the one that was written
TRAINING, VALIDATION, SETUP = range(3)  # what a random stream is for
VALIDATION_BATCH = 1000
KEPT = ("rows", "best", "best_epoch", "best_score", "stale", "seconds", "compiled", "earlier")  # of a training
OF_BEST = ("best", "best_epoch", "best_score", "earlier")
CHECKED = 1000  # data, by which weights are seen to be good where there are no validation data


def is_warming_up(objective: Any, epoch: int) -> bool:
    """Whether an objective is not yet what it will be, after so many epochs."""
    return hasattr(objective, "is_warming_up") and bool(objective.is_warming_up(epoch))


class Training:
    """A pair being trained: what the next step needs, and the best weights so far."""

    def __init__(
        self,
        pair: Pair,
        options: FitOptions,
        source: Source,
        held_out: Source | None,
        *,
        plate_sizes: tuple[int | None, int | None],
        threads: Threads,
    ) -> None:
        self.pair, self.options, self.plate_sizes, self.threads = pair, options, plate_sizes, threads
        self.source, self.held_out = source.to(pair.device), None if held_out is None else held_out.to(pair.device)
        self.objective: Any = options.objective  # the base class of all Pyro objectives does not declare their methods
        self.optimizer = options.optimizer_of(pair.parameters())
        self._groups = groups_of(self.optimizer)  # before anything changes them
        self.scheduler = options.scheduler_of(self.optimizer)
        self.steps = Steps(pair, self.optimizer, options, plate_sizes[0])
        self.seconds, self.compiled = 0.0, False  # compiled: how the last epoch was run
        self.interrupted = self.in_epoch = False
        self.rows: list[Row] = []
        self.best, self.best_epoch, self.best_score, self.stale = pair.snapshot(), 0, -math.inf, 0
        self.keep: Keep = lambda *_: None
        self.moving = Moving(pair)
        self.earlier: list[tuple[int, Snapshot]] = []  # without validation data: the start, and the epoch before

    @property
    def epoch(self) -> int:
        """How many epochs are done."""
        return len(self.rows)

    @property
    def out_of_patience(self) -> bool:
        """Whether the last `patience` epochs brought nothing better."""
        return self.options.patience is not None and self.stale >= self.options.patience

    @property
    def done(self) -> bool:
        """Whether no epoch is left."""
        return self.epoch >= self.options.epochs or self.out_of_patience

    def result(self) -> Fit:
        """Return what there is to say of the fit."""
        stopped = "interrupted" if self.interrupted else "patience" if self.out_of_patience else "epochs"
        history, learned = History.of(self.rows), self.pair.learned
        inside = self.epoch > 0 and is_warming_up(self.objective, self.epoch - 1)
        return Fit(history, self.best_epoch, stopped, self.seconds, self.compiled, learned, inside)

    def identity(self) -> dict[str, Any]:
        """Return what a run that is resumed must have in common with the one that was interrupted."""
        return {
            **self.options.identity(),
            "optimizer": name_of(self.optimizer),
            "shapes": {name: list(value.shape) for name, value in self.best.items()},
            "dtypes": sorted({str(value.dtype) for value in self.best.values()}),
            "plate_sizes": list(self.plate_sizes),
            "patience": self.options.patience,
            **program_settings(self.pair),
            **objective_settings(self.objective),
            **optimizer_settings(self.optimizer, self._groups),
            **schedule_settings(self.options, self.optimizer, self._groups),
        }

    def prepare(self) -> bool:
        """Choose the number of threads; compile the steps to come, if wanted or worth it; return whether any are."""
        if self.done:
            return self.compiled
        started, options = time.monotonic(), self.options
        resumed = options.compile == "auto" and self.epoch  # goes on as it was
        wanted = self.compiled if resumed else options.compile
        self._begin_epoch()
        try:
            with seeded(SETUP):
                self.steps.prepare(self.source, options.epochs - self.epoch, wanted, self.threads)
        finally:  # however it ends: Ctrl-C leaves the modules as they are evaluated
            self.pair.train(False)
        self.compiled = self.steps.compiled
        self.seconds += time.monotonic() - started
        return self.compiled

    def run(self, keep: Keep | None, bar: Any) -> None:
        """Prepare the steps and run the epochs that are left; `keep` is called before each and at the end.

        However it ends, the best weights are put back; an interruption (Ctrl-C) is such an end.
        """
        self.keep = keep or self.keep
        try:
            bar.set_description("fit, compiled" if self.prepare() else "fit")
            while True:
                self.keep()  # at the start, too: what an interrupted run left is completed
                if self.done:
                    break
                self.run_epoch()
                shown = zip(("ELBO", "validation"), self.rows[-1][1:3], strict=True)
                bar.set_postfix({k: f"{elbo:.2f}" for k, elbo in shown if not math.isnan(elbo)}, refresh=False)
                bar.update()
            self._check_last()
            if not self.out_of_patience and (moved := self.moving.found(self.optimizer)):
                warn(in_words(moved))
        except KeyboardInterrupt:
            self.interrupted = True
            if not self.in_epoch:  # perhaps while it was written: else what there is, is of the epoch before, and whole
                self.keep()
            self._choose_good()
        except Exception:  # whatever it is goes on; but what is put back has to give a finite loss
            self._choose_good()
            raise
        finally:
            self.pair.restore(self.best)
            self.pair.train(False)

    def _check_last(self) -> None:
        """Look at the weights of the last epoch, which no loss has seen where there are no validation data."""
        last, seen = self.best_epoch, self.held_out is not None or not self.best_epoch
        if seen or (batch := self._batch_without_loss(self.best)) is None:
            return
        culprit = self._culprit(batch)
        if self._choose_good():
            raise NonFiniteLossError(
                f"Expected a finite loss; got none with the weights of epoch {last}, the last, from {culprit}. The "
                f"weights of {self._kept()} were kept. Lower the learning rate, or look at that site's parameters."
            )

    def _choose_good(self, *batches: Batch) -> bool:
        """Keep, of the latest weights, those before and the start, the first that give a finite loss.

        Without validation data the latest have been seen by no loss, or by that which was not finite. Where none of
        them gives one it is not their fault, and the latest are kept. Return whether others than these were chosen.
        """
        candidates = [(self.best_epoch, self.best), *reversed(self.earlier)]
        self.earlier = []
        good = (one for one in candidates if self._batch_without_loss(one[1], *batches) is None)
        epoch, weights = next(good, candidates[0]) if len(candidates) > 1 else candidates[0]
        if epoch == self.best_epoch:
            return False
        self.best, self.best_epoch, self.best_score = weights, epoch, float(epoch)
        self.keep({name: getattr(self, name) for name in OF_BEST})
        return True

    def _batch_without_loss(self, weights: Snapshot, *batches: Batch) -> Batch | None:
        """Return the first of some batches, and of the data, for which weights give no finite loss."""
        self.pair.restore(weights)
        seen = 0
        with self.pair.evaluating(), seeded(self.options.seed, VALIDATION), torch.no_grad():
            for batch in chain(batches, self.source.batches(self.options.batch_size)):
                args = self.pair.to_device(batch)
                try:
                    finite = math.isfinite(self._evaluate(args))
                except Exception:  # draws from a distribution whose parameters are NaN may fail
                    finite = False
                seen += len(args[0])
                if not finite or seen >= CHECKED:
                    return None if finite else args
        return None

    def _culprit(self, args: Batch) -> str:
        """Say where a loss that is not finite comes from."""
        with torch.no_grad():
            try:
                return non_finite_site(self.pair, args)
            except Exception as problem:  # as above
                return f"a program that does not run any more ({type(problem).__name__}: {reason(problem)})"

    def run_epoch(self) -> None:
        """Go through the data once, then through the validation data, and note how it went."""
        started, seed, self.in_epoch = time.monotonic(), self.options.seed, True
        learning_rate = float(self.optimizer.param_groups[0]["lr"])
        self._begin_epoch()
        self.steps.new_epoch()
        with seeded(seed, TRAINING, self.epoch):
            batches = self.source.batches(self.options.batch_size, shuffle=True)
            train_elbo = self._mean_elbo(batches, self._step, self.plate_sizes[0])
        self.compiled = self.steps.compiled
        self._check_parameters()
        self.pair.train(False)
        self.scheduler.step()
        validation_elbo = math.nan
        if self.held_out is not None:
            # The same noise each time: epochs are compared.
            with self.pair.evaluating(), seeded(seed, VALIDATION), torch.no_grad():
                batches = self.held_out.batches(VALIDATION_BATCH)
                validation_elbo = self._mean_elbo(batches, self._evaluate, self.plate_sizes[1])
        self.moving.note(learning_rate, self.source.num_batches(self.options.batch_size))
        self.rows.append((self.epoch + 1, train_elbo, validation_elbo, learning_rate))
        self._compare(float(self.epoch) if self.held_out is None else validation_elbo)
        self.seconds += time.monotonic() - started
        self.in_epoch = False

    def _compare(self, score: float) -> None:
        """Keep the weights of the epoch that is done, if there are no better ones.

        An epoch in which something else than the bound was raised (a warm-up) is not compared: the latest is kept.
        """
        self.stale += 1
        if is_warming_up(self.objective, self.epoch - 1):
            score = -math.inf
        if score > self.best_score or math.isinf(self.best_score):
            if self.held_out is None:
                self.earlier = [*self.earlier[:1], (self.best_epoch, self.best)]
            self.best, self.best_epoch, self.best_score, self.stale = self.pair.snapshot(), self.epoch, score, 0

    def _step(self, args: Batch) -> Tensor:
        return self.threads.run(partial(self.steps, args), partial(self.steps.trial, args))

    def _mean_elbo(self, batches: Iterator[Batch], loss_of: Callable[[Batch], Any], plate_size: int | None) -> float:
        device = self.pair.device
        on_cpu = device.type == "cpu"  # elsewhere each look at a number waits for all the work before it
        total: Any = 0.0 if on_cpu else torch.zeros((), dtype=torch.float64, device=device)
        count = 0
        for batch in batches:
            args = tuple(t.to(device) for t in batch)
            state = torch.get_rng_state() if on_cpu else None
            value = float(loss_of(args)) if on_cpu else loss_of(args)
            if on_cpu and not math.isfinite(value):
                self._stop(value, args, state)
            size = len(args[0])
            # A plate of fixed size scales its subset up to that size.
            total += value if plate_size is None else value * size / plate_size
            count += size
        if not math.isfinite(total):
            self._stop(float(total), args, None)
        return -float(total) / count

    def _evaluate(self, args: Batch) -> float:
        return float(bound_of(self.objective.loss(self.pair.model, self.pair.guide, *args)))

    def _begin_epoch(self) -> None:
        self.pair.train(True)
        if hasattr(self.objective, "set_epoch"):
            self.objective.set_epoch(self.epoch)

    def _check_parameters(self) -> None:
        # A gradient can be NaN where the loss is finite; the last step of an epoch has no loss after it.
        for name, value in self.pair.tensors().items():
            if value.requires_grad and not bool(torch.isfinite(value).all()):
                self._choose_good()
                raise NonFiniteLossError(
                    f"Expected finite parameters; got NaN or infinity in {name} after epoch {self.epoch + 1}, from a "
                    f"gradient that is not finite. The weights of {self._kept()} were kept. Lower the learning rate."
                )

    def _kept(self) -> str:
        return f"epoch {self.best_epoch}" if self.best_epoch else "the start"

    def _stop(self, loss: float, args: Batch, rng_state: Tensor | None) -> None:
        if rng_state is None:  # it was seen at the end of an epoch only
            self.pair.restore(self.best)
        else:
            torch.set_rng_state(rng_state)
        culprit = self._culprit(args)
        self._choose_good(args)
        raise NonFiniteLossError(
            f"Expected a finite loss; got {loss} in epoch {self.epoch + 1}, from {culprit}. The weights of "
            f"{self._kept()} were kept. Lower the learning rate, or look at that site's parameters."
        )

    def state(self) -> dict[str, Any]:
        """Return all that `load_state` needs, as tensors and numbers."""
        weights = self.best if self.best_epoch == self.epoch else self.pair.snapshot()
        parts = {"optimizer": self.optimizer.state_dict(), "scheduler": self.scheduler.state_dict()}
        return (
            {"weights": weights} | parts | {name: getattr(self, name) for name in KEPT} | {"earlier": self.earlier[-1:]}
        )

    def load_state(self, state: dict[str, Any]) -> None:
        """Go back to where `state()` was taken; what an older version did not take from the data stays as it is."""
        added = {name: value for name, value in self.pair.snapshot().items() if name not in state["weights"]}
        for some in (state["weights"], state["best"], *(weights for _, weights in state.get("earlier", []))):
            some.update(added)
        self.pair.restore(state["weights"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scheduler.load_state_dict(state["scheduler"])
        vars(self).update({name: state[name] for name in KEPT if name in state})  # older ones have no "compiled"
        self.rows = [tuple(row) for row in self.rows]
