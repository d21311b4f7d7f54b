"""Swap one part at a time of a VAE on binarized MNIST, and compare log P(x) of the test split.

    python tests/benchmarks/swapped_parts.py runs/swapped                    # every row, some hours on two cores
    python tests/benchmarks/swapped_parts.py runs/swapped --only vamp_prior  # some rows
    python tests/benchmarks/swapped_parts.py runs/swapped --table            # of what there is already

The networks are those of Tomczak & Welling (arXiv 1705.07120): two gated layers of 300, z of 40; a VampPrior has 500
pseudo-inputs, a mixture as many components. All rows have the same seed, batches, learning rate and number of epochs.
Each row leaves a folder with its weights, history and evidence.nc (all 10,000 test data, K = 1,000); the table goes to
table.txt. An interrupted row goes on where it was; one that was estimated is left as it is. What importance sampling
from the guide says, with as many samples, is beside it.
"""

import argparse
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from ppl_vae.guides import Hierarchical, MeanField
from ppl_vae.models import VAE
from ppl_vae.models import Hierarchical as TwoLayers
from pyro.infer import ELBO

import ppl_vae
from ppl_vae import Evidence, data
from ppl_vae.base import Guide, Model
from ppl_vae.data.splits import evenly
from ppl_vae.networks import GatedMLP
from ppl_vae.objectives import IWAE
from ppl_vae.priors import Flow, Mixture, Prior, StandardNormal, VampPrior

SHAPE = (1, 28, 28)
GATED = partial(GatedMLP, hidden=(300, 300))

FILES: dict[str, dict[str, Any]] = {"evidence.nc": {}, "by_guide.nc": {"method": "importance"}}


def one_layer(prior: Prior) -> tuple[Model, Guide]:
    model = VAE(SHAPE, prior, decoder=GATED)
    return model, MeanField(model, GATED)


def two_layers(prior: Prior) -> tuple[Model, Guide]:
    model = TwoLayers(SHAPE, prior, decoder=GATED)
    return model, Hierarchical(model, GATED)


ROWS: dict[str, tuple[Callable[[], tuple[Model, Guide]], ELBO | None]] = {
    "standard_normal": (lambda: one_layer(StandardNormal(40)), None),
    "mixture": (lambda: one_layer(Mixture(40, num_components=500)), None),
    "vamp_prior": (lambda: one_layer(VampPrior(40, num_components=500)), None),
    "flow": (lambda: one_layer(Flow(40, transforms=3, hidden=(128,))), None),
    "hierarchical": (lambda: two_layers(StandardNormal(40)), None),
    "iwae_5": (lambda: one_layer(StandardNormal(40)), IWAE(num_particles=5)),
    "iwae_50": (lambda: one_layer(StandardNormal(40)), IWAE(num_particles=50)),
}


def run(name: str, out: Path, epochs: int, num_data: int) -> None:
    """Fit a row, and estimate log P(x) of so many test data: by what is usual, and by the guide alone."""
    sets = data.load("binarized_mnist")
    test = evenly(sets.test, num_data)
    torch.manual_seed(0)
    make, objective = ROWS[name]
    model, guide = make()
    fitted = ppl_vae.fit(
        model,
        guide,
        sets.train,
        validation=sets.validation,
        epochs=epochs,
        objective=objective,
        out=out / name,
        resume=True,
    )
    print(f"\n{name}: {epochs} epochs in {fitted.seconds:.0f} s, best {fitted.best_epoch}", flush=True)
    for file, options in FILES.items():
        if not (path := out / name / file).exists():
            start = time.perf_counter()
            evidence = ppl_vae.estimate_evidence(model, guide, test, num_samples=1000, **options)
            evidence.save(path)
            print(f"{evidence}\nin {time.perf_counter() - start:.0f} s", flush=True)


def table(out: Path) -> pd.DataFrame:
    """Return log P(x) of each row there is, and the paired difference to the standard normal prior."""
    found, alone = (
        {name: Evidence.load(path) for name in ROWS if (path := out / name / file).exists()} for file in FILES
    )
    base = found["standard_normal"].log_px
    rows = []
    for name, evidence in found.items():
        difference = evidence.log_px - base
        rows.append(
            {
                "row": name,
                "log P(x)": evidence.log_px.mean(),
                "s.e.": evidence.log_px.std(ddof=1) / len(base) ** 0.5,
                "MCSE": evidence.means()["log_px"].mcse,
                "ELBO": evidence.elbo.mean(),
                "difference": difference.mean(),
                "s.e. of it": difference.std(ddof=1) / len(base) ** 0.5,
                "in doubt": len(evidence.doubts()),
                "by the guide": alone[name].log_px.mean() if name in alone else float("nan"),
                "of these in doubt": len(alone[name].doubts()) if name in alone else float("nan"),
            }
        )
    return pd.DataFrame(rows).set_index("row")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--only", nargs="+", choices=list(ROWS), default=list(ROWS))
    parser.add_argument("--epochs", type=int, default=50)
    parser.add_argument("--num-data", type=int, default=10_000, help="of the test split, evenly spaced")
    parser.add_argument("--table", action="store_true")
    options = parser.parse_args()
    for name in () if options.table else options.only:
        run(name, options.out, options.epochs, options.num_data)
    text = table(options.out).to_string(float_format="{:.2f}".format)
    (options.out / "table.txt").write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
