"""`fit`: any Pyro pair is trained by stochastic gradients of any Pyro objective, once all has been checked."""

import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import fields, replace
from typing import Any

import pyro
from pyro.infer import ELBO, Trace_ELBO
from torch import nn
from torch.optim import Optimizer

from ppl_vae.data.as_source import as_source, fingerprint
from ppl_vae.data.batch_sizes import check_batches
from ppl_vae.data.checks import Checked, check
from ppl_vae.data.probes import warn_of_one_batch_dimension
from ppl_vae.data.sources import Source
from ppl_vae.data.unobserved import note_unobserved
from ppl_vae.errors import InputError, ProgramError, shown
from ppl_vae.fitting.checkpoint import RunFolder
from ppl_vae.fitting.history import Fit
from ppl_vae.fitting.identity import noting_changes
from ppl_vae.fitting.options import ADAM, FitOptions, Schedule, usual_epochs
from ppl_vae.fitting.start import parts_to_start, start_from
from ppl_vae.fitting.training import SETUP, VALIDATION_BATCH, Keep, Training, is_warming_up
from ppl_vae.missing import all_known, filled
from ppl_vae.objectives.checks import check_batch_dims, check_draws, check_objective, check_plates, warn_of_no_bound
from ppl_vae.objectives.pyro_own import check_weighed, reporting
from ppl_vae.traces.pair import Pair, Program
from ppl_vae.traces.plates import data_plate
from ppl_vae.utils.faults import got, warn
from ppl_vae.utils.locks import held
from ppl_vae.utils.one_at_a_time import others_turn
from ppl_vae.utils.progress import progress_bar
from ppl_vae.utils.rng import seeded
from ppl_vae.utils.threads import Threads


def fit(
    model: Program,
    guide: Program,
    data: Any,
    *,
    validation: Any = None,
    epochs: int | None = None,
    batch_size: int = 100,
    learning_rate: float = 1e-3,
    objective: ELBO | None = None,
    optimizer: Callable[..., Optimizer] = ADAM,
    schedule: str | Schedule = "cosine",
    patience: int | None = None,
    weight_decay: float = 0.0,
    compile: bool | str = "auto",
    precision: str = "single",
    threads: int | str = "auto",
    seed: int = 0,
    out: str | os.PathLike[str] | None = None,
    resume: bool = False,
    on_start: Callable[[], None] | None = None,
    progress: bool | None = None,
) -> Fit:
    """Fit a model and a guide to data by stochastic variational inference.

        maximize  sum_x E_Q(z | x)[log P(x, z) - log Q(z | x)]

    Of a conditional model with a P(y) this is the ELBO of log P(x, y), below that of log P(x | y) by -log P(y).

    Modules continue from the weights they have; what plain functions keep in `pyro.param` starts anew. Parts that were
    never trained start from the mean and the spread of the data (likelihoods, preprocessings: `start_from`). However it
    ends, the weights of the best epoch are put back, and all modules that the programs call are in evaluation mode.
    Ctrl-C, or the stop button of a notebook, ends it so after the epochs that are done.

    Args:
        model: P(x, z), any Pyro program: a module, a function or a method, called as `model(*batch)`.
        guide: Q(z | x), called the same way.
        data: a split of ours; a tensor [N, ...], array or table of numbers, or a tuple or dict of them; a PyTorch
            Dataset, DataLoader or IterableDataset, which keeps its order. Arrays of NumPy and the like go to the
            programs in the dtype of their parameters (whole numbers after x as they are), tensors in their own, unless
            the programs run on the other only. What NumPy masks is missing. A label of -1, where -1 and 1 are not all
            there is, is none.
        validation: the same; its ELBO says which epoch was best. Without it the last one is.
        epochs: how often to go through the data; None takes about 3,000 steps, in 20 to 1,000 epochs.
        batch_size: data in one step; a DataLoader has its own.
        learning_rate: given to the optimizer as `lr`.
        objective: any Pyro ELBO, such as those in `ppl_vae.objectives`; `pyro.infer.Trace_ELBO()` by default. One with
            `set_epoch` is told before each epoch how many are done; where its `is_warming_up(epoch)` is true,
            epochs are not compared, and the latest is kept.
        optimizer: called as `optimizer(parameters, lr=learning_rate)`.
        schedule: of the learning rate, "cosine" (down to 0 over all epochs) or "constant"; or a function of (optimizer,
            epochs) that returns a PyTorch scheduler, stepped once an epoch.
        patience: stop after this many epochs without a better validation ELBO; those of a warm-up do not count, and
            it never ends inside one.
        weight_decay: L2 penalty, (weight_decay / 2) |W|^2 beside the loss per datum, on weights (tensors of two or
            more dimensions, no biases); it enters the gradient, as with torch.optim.Adam (not AdamW).
        compile: compile the gradients, true, false, or auto, where the planned steps take longer than compiling. They
            are recorded once (it takes a C++ compiler), so that no step runs Pyro: the same numbers for the same noise,
            up to rounding, two or three times as fast. What cannot be compiled is run by plain Pyro, with a warning
            that says why. A resumed run goes on as it was, up to rounding.
        precision: of matrix products and convolutions in training: "single", or "bf16", which is faster on machines
            made for it, and less exact. Weights, optimizer, validation, estimates and our parts stay in single
            precision; a program of one's own says itself what it makes of a network's numbers in bfloat16.
        threads: how many threads, a number, or auto, which tries one and all. The trial is short, and made again where
            steps become slow. Another number of threads rounds sums in another order; a number here fixes it.
        seed: of everything random; the global random state is left as it was.
        out: a folder for checkpoints, history and best weights.
        resume: go on with the checkpoint in `out`, if there is one.
        on_start: called once everything has been checked, before any work.
        progress: show a progress bar; None shows it in a terminal and in a notebook.

    Returns:
        `Fit`, with the history in nats per datum, and what `pyro.param` gives in the programs.

    Raises:
        InputError: arguments, data or programs that do not fit; a folder that holds another run.
        NonFiniteLossError: the loss became NaN or infinite; it names the site.

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
    objective = Trace_ELBO() if objective is None else reporting(objective)
    given = locals()
    if on_start is not None and not callable(on_start):
        raise InputError(f"Expected on_start to be a function; got {shown(on_start)}. Pass one without arguments.")
    options = FitOptions(**{field.name: given[field.name] for field in fields(FitOptions)})
    batch_size, seed, threads = options.batch_size, options.seed, options.threads
    if patience is not None and validation is None:
        raise InputError("Expected validation data to stop early by; got patience without validation. Give both.")
    _check_jit(objective, (model, guide))
    pair = Pair(model, guide, fresh=True)
    pair.check_has_gradients()
    fresh = parts_to_start(pair)
    keeping = nullcontext() if out is None else held(RunFolder(out).path)
    with keeping, pair.running(), Threads(threads) as chosen:
        with seeded(seed, SETUP):  # programs may make their parameters, at random, when they first run
            source = as_source(data, pair)
            if options.epochs is None:
                options = replace(options, epochs=usual_epochs(source.num_batches(batch_size)))
            _warn_of_a_long_warm_up(objective, options.epochs)
            held_out = None if validation is None else as_source(validation, pair)
            checked = _checked(pair, objective, source, batch_size)
            validated = checked if held_out is None else check(pair, held_out, size=VALIDATION_BATCH)
            if unknown := note_unobserved(model, source):
                warn(f"{unknown}: nothing is learned of them; do not impute them.")
            check_batches(pair, source, held_out, batch_size)
            first = tuple(filled(t) for t in pair.to_device(next(source.batches(checked.num_run))))
            if not (out is not None and resume and RunFolder(out).has_state):  # which it goes on with
                start_from(fresh, pair, source, first)
            digests = {} if out is None else _digests(source, held_out, batch_size)
        _warn_of_untrained(pair)
        if not pair.parameters():
            raise InputError("Expected something to fit; got a model and a guide without parameters. Add a network.")
        sizes = _fixed_plate_size(checked), _fixed_plate_size(validated)
        training = Training(pair, options, source, held_out, plate_sizes=sizes, threads=chosen)
        keep = None if out is None else _kept_in(RunFolder(out), training, digests, resume)
        pair.keep()
        if on_start is not None:
            _begin(on_start)
        complete = checked.num_missing + validated.num_missing == 0
        with (
            _quietly(complete),
            noting_changes(objective, pair),
            progress_bar(options.epochs, "fit", "epoch", progress, initial=training.epoch) as bar,
        ):
            training.run(keep, bar)
    for _, part in fresh:
        part.started = True
    return training.result()


def _begin(on_start: Callable[[], None]) -> None:
    try:
        with others_turn():
            on_start()
    except TypeError as problem:
        raise ProgramError(f"Expected on_start to be a function without arguments; {got(problem)}") from problem


def _checked(pair: Pair, objective: ELBO, source: Source, batch_size: int) -> Checked:
    """Check programs, objective and training data against each other, and take note of the parameters of a run."""
    checked = check(pair, source, size=batch_size)
    args = pair.to_device(next(source.batches(batch_size)))
    check_objective(objective, pair, checked.traces, args)
    check_batch_dims(pair, checked.traces)
    check_draws(checked.traces)
    check_plates(checked.traces, checked.num_run, len(source))
    warn_of_no_bound(objective, pair, checked.traces, tuple(arg[: checked.num_run] for arg in args))
    check_weighed(objective, checked.traces, checked.num_run)
    if type(objective).__name__.startswith("Jit"):
        _check_sizes(type(objective).__name__, [len(batch[0]) for batch, _ in source.examples(batch_size)])
    pair.see(checked.traces)
    if not source.kinds:
        with pair.evaluating():
            first = pair.to_device(next(source.batches(checked.num_run)))
            warn_of_one_batch_dimension(pair, tuple(map(filled, first)), checked.traces)
    return checked


@contextmanager
def _quietly(complete: bool) -> Iterator[None]:
    """Leave out what has been checked, and Pyro's warnings of what we say ourselves, and stop at."""
    with warnings.catch_warnings(), pyro.validation_enabled(False), all_known(complete):
        warnings.filterwarnings("ignore", message="Encountered NaN")
        yield


def _digests(source: Source, held_out: Source | None, batch_size: int) -> dict[str, Any]:
    """Return what tells the data of a fit, and their batches, from others."""
    validation = None if held_out is None else fingerprint(held_out, exact=True)
    own = (
        f"a loader's, of {len(next(source.batches(batch_size))[0])}"
        if getattr(source, "own_batches", False)
        else "of batch_size"
    )
    return {"data": fingerprint(source, exact=True), "validation": validation, "batches": own}


def _kept_in(folder: RunFolder, training: Training, digests: dict[str, Any], resume: bool) -> Keep:
    """Load the state of a fit that is there; return what writes it, or other best weights into the one written."""
    settings = digests | training.identity()
    state = folder.read_state(settings, resume)
    if state is not None:
        training.load_state(state)

    def keep(best: Mapping[str, Any] | None = None) -> None:
        written = None if best is None else folder.read_state(settings, resume=True)
        folder.write_state(
            training.state() | {"settings": settings} if written is None else {**written, **(best or {})}
        )

    return keep


def _check_jit(objective: ELBO, programs: tuple[Program, Program]) -> None:
    if type(objective).__name__.startswith("Jit") and any(isinstance(p, nn.Module) for p in programs):
        raise InputError(
            f"Expected an objective that works with modules; got {type(objective).__name__}, which finds parameters in "
            f"Pyro's global store only. Use {type(objective).__name__.removeprefix('Jit')}."
        )


def _check_sizes(name: str, sizes: list[int]) -> None:
    if len(sizes) > 1:
        raise InputError(
            f"Expected batches of one size for {name}, which is recorded for the first of them; got "
            f"{', '.join(map(str, sizes))}. Choose a batch_size that divides the number of data, or use "
            f"{name.removeprefix('Jit')}."
        )


def _warn_of_untrained(pair: Pair) -> None:
    names = sorted({type(module).__name__ for module in pair.untrained()})
    if names:
        warn(
            f"The programs call modules ({', '.join(names)}) whose parameters Pyro does not see: they stay as they "
            f"are. Let a program call pyro.module('name', module), or make the module an attribute of a PyroModule; if "
            f"it is not to be trained, call module.requires_grad_(False)."
        )


def _warn_of_a_long_warm_up(objective: Any, epochs: int) -> None:
    if is_warming_up(objective, epochs - 1):
        name, count = type(objective).__name__, getattr(getattr(objective, "elbo", objective), "epochs", None)
        ends = (
            f"ends after {count} epochs, of {epochs}"
            if count
            else f"is still warming up in the last of {epochs} epochs"
        )
        warn(
            f"{name} {ends} that are to be done: the bound itself is never raised, and no epoch is compared. Give fit "
            f"more epochs, or {name} fewer."
        )


def _fixed_plate_size(checked: Checked) -> int | None:
    """Return the size of the plate over the data if it is not the number of data a program is given.

    Its scale, full_size / size, makes the loss one of full_size data, whatever stands outside of the plate.
    """
    plate = data_plate(checked.traces, checked.num_run)
    return None if plate is None or plate.full_size in (None, checked.num_run) else plate.full_size
