"""Stochastic variational inference: `fit`, the training loop.

Any Pyro pair is trained by stochastic gradients of any Pyro objective, by default

    ELBO = E_Q[log P(x, z) - log Q(z | x)],    reparameterized where z allows it.
"""

import os
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import pyro
import torch
from pyro.infer import ELBO, Trace_ELBO
from pyro.optim import PyroOptim
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ConstantLR, CosineAnnealingLR, LRScheduler

from ppl_vae.compilation.capture import check_compile
from ppl_vae.data.as_source import as_source, fingerprint
from ppl_vae.data.checks import Checked, check
from ppl_vae.errors import InputError, did_you_mean, positive_int, positive_number
from ppl_vae.fitting.checkpoint import RunFolder
from ppl_vae.fitting.history import Fit
from ppl_vae.fitting.training import SETUP, VALIDATION_BATCH, Training
from ppl_vae.missing import all_known
from ppl_vae.objectives.checks import check_objective
from ppl_vae.traces.pair import Pair, Program
from ppl_vae.traces.plates import structure_of
from ppl_vae.utils.precision import check_precision
from ppl_vae.utils.progress import progress_bar
from ppl_vae.utils.rng import seeded

Schedule = Callable[[Optimizer, int], LRScheduler]
SCHEDULES: dict[str, Schedule] = {
    "constant": lambda optimizer, epochs: ConstantLR(optimizer, factor=1.0),
    "cosine": lambda optimizer, epochs: CosineAnnealingLR(optimizer, T_max=epochs),
}

ADAM = partial(torch.optim.Adam, fused=True)  # one call for all parameters


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
    weight_decay: float = 0.0,
    compile: bool | str = "auto",
    precision: str = "single",
    seed: int = 0,
    out: str | os.PathLike[str] | None = None,
    resume: bool = False,
    on_start: Callable[[], None] | None = None,
    progress: bool | None = None,
) -> Fit:
    """Fit a model and a guide to data by stochastic variational inference.

        maximize  sum_x E_Q(z | x)[log P(x, z) - log Q(z | x)]

    Of a conditional model with a P(y) this is the ELBO of log P(x, y), below that of log P(x | y) by -log P(y).

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
        objective: any Pyro ELBO, such as those in `ppl_vae.objectives`; `pyro.infer.Trace_ELBO()` by default. One with
            `set_epoch` is told before each epoch how many are done.
        optimizer: called as `optimizer(parameters, lr=learning_rate)`.
        schedule: "cosine" (down to 0 over all epochs), "constant", or a function of (optimizer, epochs)
            that returns a PyTorch scheduler, stepped once an epoch.
        patience: stop after this many epochs without a better validation ELBO.
        weight_decay: L2 penalty, (weight_decay / 2) |W|^2 beside the loss per datum, on weights (tensors of two or
            more dimensions, no biases); it enters the gradient, as with torch.optim.Adam (not AdamW).
        compile: record the gradients once and compile them (PyTorch's compiler, which needs a C++ compiler), so that
            no step runs Pyro: the same numbers for the same noise, up to rounding, two or three times as fast. "auto"
            does it where the planned steps take longer than compiling; True always. What cannot be compiled is run by
            plain Pyro, with a warning that says why. A resumed run goes on as it was, up to rounding.
        precision: of matrix products and convolutions in training: "single", or "bf16", which is faster on machines
            made for it, and less exact. Weights, optimizer, validation and all estimates stay in single precision, and
            so do our parts; a program of one's own says itself what it makes of a network's numbers in bfloat16.
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
    _check_numbers(epochs, batch_size, learning_rate, weight_decay)
    if patience is not None:
        positive_int("patience", patience)
        if validation is None:
            raise InputError("Expected validation data to stop early by; got patience without validation. Give both.")
    check_compile(compile)
    check_precision(precision)
    objective = Trace_ELBO() if objective is None else objective
    _check_methods(objective, optimizer, (model, guide))
    folder = None if out is None else RunFolder(out)
    pair = Pair(model, guide, fresh=True)
    with pair.running():
        with seeded(seed, SETUP):  # programs may make their parameters, at random, when they first run
            source = as_source(data, pair)
            held_out = None if validation is None else as_source(validation, pair)
            checked = check(pair, source, size=batch_size)
            check_objective(objective, pair, checked.traces, pair.to_device(next(source.batches(batch_size))))
            pair.see(checked.traces)
            validated = None if held_out is None else check(pair, held_out, size=VALIDATION_BATCH)
            sizes = _fixed_plate_size(checked), None if validated is None else _fixed_plate_size(validated)
            digest = "" if folder is None else fingerprint(source)
        if not pair.parameters():
            raise InputError("Expected something to fit; got a model and a guide without parameters. Add a network.")
        steps = optimizer(_groups(pair.parameters(), weight_decay), lr=learning_rate)
        scheduler = _schedule(schedule)(steps, epochs)
        training = Training(pair, objective, steps, scheduler, sizes, weight_decay=weight_decay, precision=precision)
        if folder is not None:
            settings = _identity(training, digest, batch_size, seed)
            settings |= {"learning_rate": float(learning_rate), "schedule": _name(schedule)}
            settings |= {"weight_decay": float(weight_decay)} if weight_decay else {}
            settings |= {} if precision == "single" else {"precision": precision}
            settings |= {} if schedule == "constant" else {"epochs": epochs}
            if folder.has_state:
                training.load_state(folder.read_state_of(settings, resume))
        source, held_out = source.to(pair.device), None if held_out is None else held_out.to(pair.device)
        pair.keep()
        if on_start is not None:
            on_start()
        complete = not any(one.num_missing for one in (checked, validated) if one)
        with warnings.catch_warnings(), pyro.validation_enabled(False), all_known(complete):
            warnings.filterwarnings("ignore", message="Encountered NaN")  # we say it ourselves, and stop
            with progress_bar(epochs, "fit", "epoch", progress, initial=training.epoch) as bar:
                compiled = training.compile(source, batch_size, epochs, patience, compile)
                bar.set_description("fit, compiled" if compiled else "fit")
                keep = None if folder is None else lambda: folder.write_state(training.state() | {"settings": settings})
                training.run(
                    source=source,
                    held_out=held_out,
                    batch_size=batch_size,
                    seed=seed,
                    epochs=epochs,
                    patience=patience,
                    keep=keep,
                    bar=bar,
                )
    return training.result(patience)


def _check_numbers(epochs: int, batch_size: int, learning_rate: float, weight_decay: float) -> None:
    positive_int("epochs", epochs)
    positive_int("batch_size", batch_size)
    positive_number("learning_rate", learning_rate)
    if weight_decay != 0:
        positive_number("weight_decay", weight_decay)


def _groups(parameters: list[Tensor], weight_decay: float) -> list[Any]:
    """Return the parameters to optimize: as they are, or in two groups, of which only the weights decay."""
    if not weight_decay:
        return list(parameters)
    weights, others = [p for p in parameters if p.dim() > 1], [p for p in parameters if p.dim() < 2]
    return [{"params": weights, "weight_decay": weight_decay}] + ([{"params": others}] if others else [])


def _check_methods(objective: Any, optimizer: Any, programs: tuple[Program, Program]) -> None:
    if not isinstance(objective, ELBO):
        raise InputError(f"Expected a Pyro objective, such as Trace_ELBO(); got {objective!r}. Pass an instance.")
    if isinstance(optimizer, PyroOptim) or not callable(optimizer):
        raise InputError(
            f"Expected an optimizer that is called with parameters and lr, such as torch.optim.Adam; got "
            f"{type(optimizer).__name__}. Pass a class of torch.optim, or a functools.partial of one."
        )
    if type(objective).__name__.startswith("Jit") and any(isinstance(p, nn.Module) for p in programs):
        raise InputError(
            f"Expected an objective that works with modules; got {type(objective).__name__}, which finds parameters in "
            f"Pyro's global store only. Use {type(objective).__name__.removeprefix('Jit')}."
        )


def _schedule(schedule: str | Schedule) -> Schedule:
    if callable(schedule):
        return schedule
    if not isinstance(schedule, str) or schedule not in SCHEDULES:
        raise InputError(f"Unknown schedule {schedule!r}: {did_you_mean(str(schedule), SCHEDULES)}.")
    return SCHEDULES[schedule]


def _identity(training: Training, digest: str, batch_size: int, seed: int) -> dict[str, Any]:
    """Return what a run that is resumed must have in common with the one that was interrupted."""
    return {
        "data": digest,
        "batch_size": batch_size,
        "seed": seed,
        "objective": f"{_name(training.objective)}({training.objective.num_particles})",
        "optimizer": _name(training.optimizer),
        "shapes": {name: list(value.shape) for name, value in training.best.items()},
    }


def _name(thing: Any) -> str:
    return thing if isinstance(thing, str) else str(getattr(thing, "__name__", type(thing).__name__))


def _fixed_plate_size(checked: Checked) -> int | None:
    """Return the size of the plate over the data if it is not the number of data a program is given."""
    try:
        full_size = structure_of(checked.traces, checked.num_run).full_size
    except InputError:  # no plate over the data: fitting can do without
        return None
    return None if full_size == checked.num_run else full_size
