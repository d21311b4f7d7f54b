"""log P(x) of single-cell counts: our model, scvi-tools' own, and independent negative binomials, on the same cells.

    pip install scvi-tools                                    # it is no dependency of ppl-vae
    python tests/benchmarks/single_cell.py --out docs/counts.txt   # an hour on two cores

The data are $PPL_VAE_DATA/counts/pbmc68k_counts.npz, 700 cells x 765 genes. 70 cells are held out; the other 630 are
for training, a tenth of them to choose the epoch by. Each model has 10 latents, an r for each gene and the same
negative binomial; scvi-tools trains its SCVI as it does by default (400 epochs at most, early stopping). Its networks
are wrapped as a Pyro pair, so that the same estimator judges both; beside it stand what scvi-tools says itself
(`get_elbo`, `get_marginal_ll`). With an observed library size the number is log P(x | l), with l the total of x: no
log P(x), and not to be held against the rows of the others.
"""

import argparse
import os
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import scipy.sparse
import torch
from ppl_vae.guides import MeanField
from ppl_vae.models import Counts
from scipy import optimize, stats
from torch import Tensor, nn

import ppl_vae
from ppl_vae import likelihoods, priors

LATENT_DIM, HELD_OUT = 10, 70
LIBRARIES = ("latent", "observed")


def split(seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Return the counts for training, for choosing the epoch, and the held-out ones."""
    path = Path(os.environ["PPL_VAE_DATA"]) / "counts" / "pbmc68k_counts.npz"
    x = torch.tensor(scipy.sparse.load_npz(path).toarray(), dtype=torch.float32)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
    test, validation, train = order.split([HELD_OUT, (len(x) - HELD_OUT) // 10, len(x) - HELD_OUT - 63])
    return x[train], x[validation], x[test]


def judged(model: Any, guide: Any, x: Tensor, num_samples: int) -> dict[str, Any]:
    """Return ELBO and log P(x) by our estimator."""
    start = time.perf_counter()
    evidence = ppl_vae.estimate_evidence(model, guide, x, num_samples=num_samples, method="auto", progress=False)
    print(evidence, flush=True)
    means = evidence.means()
    return {
        "quantity": evidence.quantity,
        "ELBO, ours": f"{means['elbo'].value:.1f}",
        "log P, ours": f"{means['log_px'].value:.2f} +- {means['log_px'].mcse:.2f}",
        "believed": "yes" if evidence.is_believed else f"{len(evidence.doubts())} of {len(evidence)} in doubt",
        "s to judge": round(time.perf_counter() - start),
    }


def ours(library: str, epochs: int, num_samples: int) -> dict[str, Any]:
    """Train and judge our model."""
    train, validation, test = split()
    torch.manual_seed(0)
    likelihood = likelihoods.NegativeBinomial("per_dimension")
    model = Counts(train.shape[1:], priors.StandardNormal(LATENT_DIM), likelihood, library=library)
    guide = MeanField(model)
    start = time.perf_counter()
    ppl_vae.fit(model, guide, train, validation=validation, epochs=epochs, progress=False)
    seconds = round(time.perf_counter() - start)
    return {"model": f"ppl-vae Counts, l {library}", "s to train": seconds} | judged(model, guide, test, num_samples)


class ScviModel(nn.Module):
    """The generative half of a trained SCVI, as a Pyro program."""

    def __init__(self, module: Any) -> None:
        super().__init__()
        self.module = module
        self.is_observed = module.use_observed_lib_size
        self.conditions_on = "l = sum_i x_i" if self.is_observed else None

    def forward(self, x: Tensor) -> Tensor:
        """Observe x [N, D]."""
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(LATENT_DIM), 1.0).to_event(1))
            if self.is_observed:
                log_l = x.sum(-1).log()
            else:
                mean, variance = (getattr(self.module, f"library_log_{name}").squeeze() for name in ("means", "vars"))
                log_l = pyro.sample("log_l", dist.Normal(mean, variance.sqrt()))
            shape = torch.broadcast_shapes(z.shape[:-1], log_l.shape)
            z, log_l = z.expand(*shape, -1).reshape(-1, LATENT_DIM), log_l.expand(shape).reshape(-1, 1)
            px = self.module.generative(z, log_l, torch.zeros(len(z), 1, dtype=torch.long))["px"]
            mean, r = (value.expand(len(z), -1).reshape(*shape, -1) for value in (px.mu, px.theta))
            p = dist.NegativeBinomial(r, logits=(mean + 1e-8).log() - (r + 1e-8).log()).to_event(1)
            return pyro.sample("x", p, obs=x)


class ScviGuide(nn.Module):
    """The inference half."""

    def __init__(self, module: Any) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: Tensor) -> None:
        """Sample z, and log l where it is latent."""
        q = self.module.inference(x, torch.zeros(len(x), 1, dtype=torch.long))
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(q["qz"].loc, q["qz"].scale).to_event(1))
            if not self.module.use_observed_lib_size:
                pyro.sample("log_l", dist.Normal(q["ql"].loc.squeeze(-1), q["ql"].scale.squeeze(-1)))


def scvi_tools(library: str, num_samples: int) -> dict[str, Any]:
    """Train SCVI by scvi-tools on the same cells, and judge it by both estimators."""
    import anndata
    import scvi

    train, validation, test = split()
    scvi.settings.seed = 0
    known, held_out = (anndata.AnnData(x.numpy()) for x in (torch.cat([train, validation]), test))
    scvi.model.SCVI.setup_anndata(known)
    model = scvi.model.SCVI(
        known, n_latent=LATENT_DIM, gene_likelihood="nb", use_observed_lib_size=library == "observed"
    )
    start = time.perf_counter()
    kept = len(train), len(train) + len(validation)
    parts = [np.arange(kept[0]), np.arange(*kept), np.arange(0)]
    options: dict[str, Any] = {"accelerator": "cpu", "enable_progress_bar": False, "early_stopping": True}
    model.train(datasplitter_kwargs={"external_indexing": parts}, **options)
    seconds = round(time.perf_counter() - start)
    elbo = float(model.get_elbo(held_out))
    marginal = float(model.get_marginal_ll(held_out, n_mc_samples=1000, n_mc_samples_per_pass=10))
    module = model.module.eval().requires_grad_(False)
    row = {"model": f"scvi-tools SCVI, l {library}", "s to train": seconds}
    row |= judged(ScviModel(module), ScviGuide(module), test, num_samples)
    return row | {"ELBO, theirs": f"{elbo:.1f}", "log P, theirs": f"{marginal:.2f}"}


def independent() -> dict[str, Any]:
    """Fit a negative binomial to each gene by maximum likelihood: no latents, log P(x) is exact."""
    train, validation, test = (x.numpy().astype(float) for x in split())
    known, total = np.concatenate([train, validation]), 0.0
    for gene, unseen in zip(known.T, test.T, strict=True):
        mean = max(gene.mean(), 0.5 / len(gene))

        def loss(log_r: float, gene: Any = gene, mean: float = mean) -> float:
            r = np.exp(log_r)
            return -float(stats.nbinom.logpmf(gene, r, r / (r + mean)).sum())

        r = np.exp(optimize.minimize_scalar(loss, bounds=(-7.0, 10.0), method="bounded").x)
        total += stats.nbinom.logpmf(unseen, r, r / (r + mean)).sum()
    return {
        "model": "independent negative binomials",
        "quantity": "log P(x)",
        "log P, ours": f"{total / len(test):.2f}",
    }


def main() -> None:
    """Print a row for each model, and keep the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=100, help="of our model")
    parser.add_argument("--num-samples", type=int, default=1000)
    parser.add_argument("--library", nargs="*", choices=LIBRARIES, default=list(LIBRARIES))
    parser.add_argument("--out", type=Path, help="a file for the table")
    options = parser.parse_args()
    warnings.filterwarnings("ignore", category=FutureWarning)
    rows = [independent()]
    for library in options.library:
        for row in (
            lambda library=library: scvi_tools(library, options.num_samples),
            lambda library=library: ours(library, options.epochs, options.num_samples),
        ):
            rows.append(row())
            table = pd.DataFrame(rows).fillna("").to_string(index=False)
            print(table, flush=True)
            if options.out:
                options.out.write_text(f"python tests/benchmarks/single_cell.py\n\n{table}\n")


if __name__ == "__main__":
    main()
