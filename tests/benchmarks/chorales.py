"""The deep Markov model on the chorales of J. S. Bach: log P(x) of a time step, beside what others have published.

    python -m tests.benchmarks.chorales train --out runs/chorales --epochs 300
    python -m tests.benchmarks.chorales evaluate --run runs/chorales --out docs/series.txt

`train` may be ended and started again (it resumes). Of a smaller model than the published ones, it takes half an hour
on one core of a laptop; `evaluate` takes minutes.
"""

import argparse
from pathlib import Path

import torch
from ppl_vae.guides import DeepMarkov as Guide
from ppl_vae.models import DeepMarkov

import ppl_vae
from ppl_vae import data, objectives, priors
from ppl_vae.networks import MLP


def pair(shape, latent_dim=32):
    """The model and the guide: a third of the published sizes (100, 200 and 600)."""
    torch.manual_seed(0)
    prior = priors.GatedTransition(latent_dim, hidden=(64,))
    model = DeepMarkov(shape, prior=prior, decoder=lambda *shapes: MLP(*shapes, hidden=(100, 100)))
    return model, Guide(model, hidden=128)


def trimmed(part):
    """The series of a part, as long as the longest."""
    x = part.x
    return x[:, : int((~x.isnan().all(-1)).sum(1).max())]


def train(options):
    """Train, or go on with it."""
    chorales = data.load("jsb_chorales")
    model, guide = pair(chorales.event_shape)
    fit = ppl_vae.fit(
        model,
        guide,
        trimmed(chorales.train),
        validation=trimmed(chorales.validation),
        epochs=options.epochs,
        batch_size=20,
        compile=options.compile,
        learning_rate=options.learning_rate,
        objective=objectives.WarmUp(epochs=options.warm_up),
        out=options.out,
        resume=(options.out / "last.pt").exists(),
    )
    print(fit)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    training = commands.add_parser("train")
    training.add_argument("--out", type=Path, default=Path("runs/chorales"))
    training.add_argument("--epochs", type=int, default=300)
    training.add_argument("--warm-up", type=int, default=30)
    training.add_argument("--learning-rate", type=float, default=1e-3)
    training.add_argument("--compile", action="store_true")
    training.set_defaults(run=train)
    options = parser.parse_args()
    options.run(options)


if __name__ == "__main__":
    main()
