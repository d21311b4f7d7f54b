"""How often an exact guide is called uncalibrated, and a wrong one is found: each seed has a model and data of its own.

    python tests/benchmarks/calibration.py              # 200 seeds of the exact guide, 60 of each that is wrong
    python tests/benchmarks/calibration.py --seeds 20

Models are linear-Gaussian (6 dimensions, 3 latents), 1,000 simulated data each, at the level 0.95. Of 200 exact guides
at most 5 in 100 are called uncalibrated, up to chance: 18 or fewer in 99 of 100 tables.
"""

import argparse

import pyro
import pyro.distributions as dist
import torch
from ppl_vae.models import LinearGaussian
from torch import Tensor

import ppl_vae

GUIDES = {
    "exact": (1.0, 1.0, 1.0),
    "standard deviations times 0.8": (0.8, 0.8, 0.8),
    "that of one number times 0.8": (0.8, 1.0, 1.0),
    "standard deviations times 1.25": (1.25, 1.25, 1.25),
}


def alarm(seed: int, factors: tuple[float, ...]) -> bool:
    """Return whether the posterior, with its standard deviations times these, is called uncalibrated."""
    torch.manual_seed(seed)
    model = LinearGaussian((6,), latent_dim=3, sigma=0.7)

    def guide(x: Tensor) -> None:
        posterior = model.exact_posterior(x)
        with pyro.plate("data", len(x)):
            tril = torch.tensor(factors)[:, None] * posterior.scale_tril
            pyro.sample("z", dist.MultivariateNormal(posterior.mean, scale_tril=tril))

    found = ppl_vae.calibrate(model, guide, num_simulated=1000, num_samples=50, seed=10_000 + seed, progress=False)
    return bool(found.guide.outside.any())


def main() -> None:
    """Print how many of so many seeds are called uncalibrated."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=200)
    options = parser.parse_args()
    for name, factors in GUIDES.items():
        seeds = options.seeds if name == "exact" else max(1, 3 * options.seeds // 10)
        print(
            f"{name}: {sum(alarm(seed, factors) for seed in range(seeds))} of {seeds} called uncalibrated", flush=True
        )


if __name__ == "__main__":
    main()
