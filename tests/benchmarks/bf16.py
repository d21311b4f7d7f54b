"""What matrix products in bfloat16 do to training: seconds of an epoch, and log P(x) of the test data in the end."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from ppl_vae.guides import MeanField
from ppl_vae.models import VAE

from ppl_vae import InputError, data, estimate_evidence, fit
from ppl_vae.priors import StandardNormal

from .architectures import ARCHITECTURES
from .options import Options, say
from .table import Row

EPOCHS, BATCH, NUM_SAMPLES, EVERY = 5, 100, 200, 10


def section(options: Options) -> Iterator[Row]:
    """Fit the same pair in both precisions from one seed; yield seconds and log P(x), always estimated in single."""
    try:
        images = data.load("binarized_mnist")
    except InputError as problem:
        say(f"bf16 is left out: {problem}")
        return
    seconds, log_px = zip(
        *(_measured(images, precision, options.quick) for precision in ("bf16", "single")), strict=True
    )
    yield Row(
        f"seconds of an epoch, binarized MNIST, MLP 784-400-50, batch {BATCH}, products in bf16",
        "in single precision",
        [seconds[0]],
        [seconds[1]],
        [seconds[0] / seconds[1]],
        [None],
        [None],
        [None],
    )
    difference = log_px[0] - log_px[1]
    error = difference.std(ddof=1) / len(difference) ** 0.5
    yield Row(
        f"test log P(x) after {EPOCHS} epochs, nats; difference {difference.mean():+.3f}, s.e. {error:.3f}",
        "in single precision",
        [float(log_px[0].mean())],
        [float(log_px[1].mean())],
        [None],
        [None],
        [None],
        [None],
    )


def _measured(images: Any, precision: str, quick: bool) -> tuple[float, Any]:
    architecture = ARCHITECTURES["mlp"]
    torch.manual_seed(0)
    model = VAE(images.event_shape, prior=StandardNormal(architecture.latent_dim), decoder=architecture.network)
    guide = MeanField(model, encoder=architecture.network)
    epochs = 1 if quick else EPOCHS
    options: dict[str, Any] = {"batch_size": BATCH, "precision": precision, "compile": True, "progress": False}
    fit(model, guide, images.train[:200], epochs=1, **options)  # what is compiled is kept
    fitted = fit(model, guide, images.train[:1000] if quick else images.train, epochs=epochs, **options)
    test = images.test[:: EVERY * (20 if quick else 1)]
    evidence = estimate_evidence(model, guide, test, method="importance", num_samples=NUM_SAMPLES, progress=False)
    return fitted.seconds / epochs, np.asarray(evidence.log_px)
