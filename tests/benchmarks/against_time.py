"""log P(x) against time: samples of the guide, of Laplace mixtures, auto, and annealing, for some test data of a run.

    python tests/benchmarks/against_time.py runs/vae-binarized_mnist [--num-data 100] [--out docs/against_time.png]

Each dot is one call of `estimate_evidence`, compiling included, one after the other on all threads; the table goes
beside the picture. The longest annealing (T = 1,000, 16 chains, 10 leapfrog steps) is what the others are held against.
About half an hour on two cores for the default VAE and 100 images: let nothing else run.
"""

import argparse
import time
from pathlib import Path
from typing import Any

import pandas as pd

import ppl_vae
from ppl_vae import Evidence, plots
from ppl_vae.data.splits import evenly
from ppl_vae.runs.figures import save_figure

LONG = 1000
METHODS: dict[str, list[dict[str, Any]]] = {
    "guide": [{"method": "importance", "num_samples": k} for k in (100, 1000, 5000, 50_000)],
    "Laplace mixtures": [
        {"method": "importance", "proposal": "laplace", "num_samples": k} for k in (30, 100, 1000, 10_000)
    ],
    "auto": [{"num_samples": k} for k in (100, 1000, 4000)],
    "annealing": [
        {"method": "ais", "num_temperatures": t, "num_chains": 16, "num_leapfrog": 10} for t in (10, 30, 100, 300, LONG)
    ],
}


def main() -> None:
    """Estimate by each method, print the table, draw the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--num-data", type=int, default=100)
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[2] / "docs" / "against_time.png")
    options = parser.parse_args()
    run = ppl_vae.load(options.run)
    data = evenly(run.data().test, options.num_data)
    found: dict[str, list[tuple[float, Evidence]]] = {}
    rows = []
    for name, many in METHODS.items():
        for settings in many:
            start = time.perf_counter()
            evidence = ppl_vae.estimate_evidence(run.model, run.guide, data, progress=False, **settings)
            seconds = time.perf_counter() - start
            found.setdefault(name, []).append((seconds, evidence))
            mean = evidence.means()["log_px"]
            rows.append(
                {
                    "method": name,
                    "K or T": settings.get("num_samples", settings.get("num_temperatures")),
                    "seconds": f"{seconds:.1f}",
                    "log P(x)": f"{mean.value:.3f}",
                    "MCSE": f"{mean.mcse:.3f}",
                    "in doubt": len(evidence.doubts()),
                    "believed": "yes" if evidence.is_believed else "no",
                }
            )
            print(" | ".join(map(str, rows[-1].values())), flush=True)
    best = found["annealing"][-1][1].means()["log_px"].value
    title = f"{len(data)} test data"
    save_figure(plots.against_time(found, truth=best, title=title), options.out)
    text = pd.DataFrame(rows).to_string(index=False)
    options.out.with_suffix(".txt").write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
