"""What a guide of more freedom is worth where the posterior is no Gaussian: ELBOs, and the picture docs/flow_guide.png.

    python tests/benchmarks/flow_guide.py [--epochs 1000] [--out docs/flow_guide.png]

The model of `tests/banana.py`, whose log P(x) and P(z | x) are known by quadrature; each guide is fitted to the same 64
x. Half a minute.
"""

import argparse
import sys
import time
from pathlib import Path

import torch

import ppl_vae
from ppl_vae import plots
from ppl_vae.runs.figures import save_figure

sys.path.insert(0, str(Path(__file__).parents[1]))
import banana

SHOWN = (16, 40, 60)  # of the 64 quantiles of x
NUM_DRAWS = 400


def main() -> None:
    """Fit each guide, print the table, draw the picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=1000)
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[2] / "docs" / "flow_guide.png")
    options = parser.parse_args()
    x = banana.some_data(64)
    log_px, log_posterior, nodes = banana.exact(banana.make_model(), x)
    print(f"log P(x) by quadrature  {log_px.mean():.4f} nats")
    shown, draws = list(SHOWN), {}
    for name in banana.GUIDES:
        start = time.perf_counter()
        model, guide = banana.fitted(name, x, epochs=options.epochs)
        seconds = time.perf_counter() - start
        evidence = ppl_vae.estimate_evidence(
            model, guide, x, method="importance", num_samples=10_000, compile=False, progress=False
        )
        elbo = evidence.elbo.mean()
        gap = log_px.mean() - elbo
        print(f"{name:16} ELBO {elbo:.4f}  gap {gap:.4f}  IS log P(x) {evidence.log_px.mean():.4f}  {seconds:.0f} s")
        with torch.no_grad():
            z = guide.posterior(x[shown])["z"].sample((NUM_DRAWS,)).movedim(1, 0)
        draws[f"{name}\nELBO {elbo:.2f} nats"] = z
    rows = [f"x = {float(x[i]):.2f}" for i in shown]
    save_figure(plots.posteriors(log_posterior[shown].exp(), nodes, draws, rows=rows), options.out)


if __name__ == "__main__":
    main()
