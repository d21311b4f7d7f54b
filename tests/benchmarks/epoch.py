"""A whole MNIST epoch at batch 128: the share of its time that is not spent in the steps."""

import statistics
import time
from collections.abc import Iterator
from functools import partial
from typing import Any
from unittest import mock

import torch
from ppl_vae.guides import MeanField
from ppl_vae.models import VAE

from ppl_vae import InputError, data, fit
from ppl_vae.fitting.steps import Steps
from ppl_vae.fitting.training import Training
from ppl_vae.priors import StandardNormal

from .architectures import ARCHITECTURES, make_data
from .options import Options, say
from .table import Row

BATCH = 128
AIM = 0.05


def section(options: Options) -> Iterator[Row]:
    """Fit some epochs and time each and the steps in it; the first, in which everything is new, does not count."""
    cases: dict[str, Any] = {"images in memory, as they are": make_data(1_000 if options.quick else 50_000)}
    try:
        cases["MNIST, binarized anew in each epoch"] = data.load("mnist").train
    except InputError as problem:
        say(f"MNIST is left out: {problem}")
    if options.quick:
        cases = dict(list(cases.items())[:1])
    for title, images in cases.items():
        shares, wholes, steps = _measured(images, epochs=3 if options.quick else 6)
        yield Row(
            f"seconds outside the steps in an epoch of {len(images):,} {title}, batch {BATCH}",
            "the whole epoch",
            [statistics.median(whole - step for whole, step in zip(wholes, steps, strict=True))],
            [statistics.median(wholes)],
            [statistics.median(shares)],
            [min(whole - step for whole, step in zip(wholes, steps, strict=True))],
            [min(wholes)],
            [AIM],
        )


def _measured(images: Any, epochs: int) -> tuple[list[float], list[float], list[float]]:
    """Return of each epoch but the first: the share outside the steps, its seconds, and those of its steps."""
    architecture = ARCHITECTURES["mlp"]
    torch.manual_seed(0)
    shape = tuple(images.event_shape if hasattr(images, "event_shape") else images.shape[1:])
    model = VAE(shape, prior=StandardNormal(architecture.latent_dim), decoder=architecture.network)
    guide = MeanField(model, encoder=architecture.network)
    steps: list[float] = [0.0]
    wholes: list[float] = []
    step, run_epoch = Steps.__call__, Training.run_epoch

    def timed_step(self: Any, *args: Any, **kwargs: Any) -> Any:
        start = time.perf_counter()
        result = step(self, *args, **kwargs)
        steps[-1] += time.perf_counter() - start
        return result

    def timed_epoch(self: Any, *args: Any, **kwargs: Any) -> None:
        steps.append(0.0)
        start = time.perf_counter()
        run_epoch(self, *args, **kwargs)
        wholes.append(time.perf_counter() - start)

    with (
        mock.patch.object(Steps, "__call__", timed_step),
        mock.patch.object(Training, "run_epoch", timed_epoch),
    ):
        partial(fit, schedule="constant", compile=True)(
            model, guide, images, epochs=epochs, batch_size=BATCH, progress=False
        )
    steps = steps[2:]
    wholes = wholes[1:]
    return [1 - a / b for a, b in zip(steps, wholes, strict=True)], wholes, steps
