"""Imputation of four tables, and log P of the hidden cells, beside mean and mode, and scikit-learn's imputers.

    PPL_VAE_DATA=... python tests/benchmarks/tables.py --out docs/tables.txt        # 7 minutes on one core
    PPL_VAE_DATA=... python tests/benchmarks/tables.py --only wine --rows 6500      # some of it

Three tables are HI-VAE's, where 20% of all cells are hidden at the places that its repository gives; the fourth is
scikit-learn's diabetes, with 20% hidden at random. Errors are those of its `error_computation`,
a mean over the columns of a type: of real, positive and count columns the root mean square over the range of the
column; of categories the share that is wrong; of ordinals the mean distance divided by the number of levels. A VAE
imputes E[x] of numbers, the most probable category, and the median of the draws of an ordinal. Each
competitor sees the same cells, and imputes a category's mode and an ordinal's rounded value. The VAE has the same
settings for all tables, by the bound on log P of the cells that can be seen, of rows set aside: it is trained by the
importance-weighted bound, which is MIWAE's where cells are missing (arXiv 1812.02633). Times are of the processor.

log P(x_hidden | x_seen) is per hidden cell, in nats: of the VAE by `estimate_evidence(..., given=)`, beside the
likelihood of each column by itself, started from its mean and spread, which knows nothing of the others.

Sources: Nazabal et al., arXiv 1807.03653, and its repository, probabilistic-learning/HI-VAE.
"""

import argparse
import math
import os
import sys
import time
import warnings
from functools import partial
from pathlib import Path

import numpy as np
import torch
from ppl_vae.guides import MeanField
from ppl_vae.models import VAE
from scipy import stats
from sklearn.datasets import load_diabetes
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.experimental import enable_iterative_imputer  # noqa: F401
from sklearn.impute import IterativeImputer

import ppl_vae
from ppl_vae.likelihoods import Columns
from ppl_vae.networks import MLP
from ppl_vae.objectives import IWAE
from ppl_vae.priors import StandardNormal

FOLDER = Path(os.environ.get("PPL_VAE_DATA", "data")) / "tables"
NUMBERS = ("real", "pos", "count")
SWEEPS = 4  # of the chained trees
BATCH = 100


def diabetes():
    """scikit-learn's table of 442 patients: x, its types, and a fifth of all cells, hidden at random."""
    table = load_diabetes(scaled=False)
    x = np.column_stack([table.data, table.target])
    types = [("count", 0), ("cat", 2), *[("pos", 0)] * 8, ("count", 0)]
    x[:, 1] -= 1
    return x, types, np.random.default_rng(0).random(x.shape) < 0.2


def load(name, rows):
    """x [N, D] with codes from 0, its types, and which cells are hidden; cells that nobody knows are NaN in x."""
    if name == "diabetes":
        return diabetes()
    x = np.genfromtxt(FOLDER / f"{name}_data.csv", delimiter=",", filling_values=np.nan)
    hidden = np.zeros(x.shape, dtype=bool)
    places = np.loadtxt(FOLDER / f"{name}_missing20_1.csv", delimiter=",", dtype=int) - 1
    hidden[places[:, 0], places[:, 1]] = True
    lines = (FOLDER / f"{name}_data_types.csv").read_text().split()[1:]
    types = [(kind, int(levels or 0)) for kind, _, levels in (line.split(",") for line in lines)]
    for j, (kind, _) in enumerate(types):
        if kind in ("cat", "ordinal"):
            x[:, j] -= np.nanmin(x[:, j])
    keep = np.random.default_rng(0).permutation(len(x))[:rows]
    x, hidden = x[keep], hidden[keep] & ~np.isnan(x[keep])
    return x, types, hidden


def columns_of(x, types):
    """What each column is to `Columns`: positive ones that hold zeros are counts with zeros of their own."""
    said = {"real": "real", "count": "count", "cat": "categorical:{}", "ordinal": "ordinal:{}", "pos": "positive"}
    found = []
    for column, (kind, levels) in zip(x.T, types, strict=True):
        zeros = kind == "pos" and np.nanmin(column) == 0
        found.append("zero_inflated_negative_binomial" if zeros else said[kind].format(levels))
    return found


def errors(x, imputed, types, hidden):
    """HI-VAE's error of each column."""
    found = []
    for j, (kind, levels) in enumerate(types):
        off = (x - imputed)[hidden[:, j], j]
        if kind == "cat":
            found.append(np.mean(off != 0))
        elif kind == "ordinal":
            found.append(np.mean(np.abs(off)) / levels)
        else:
            found.append(np.sqrt(np.mean(off**2)) / (np.nanmax(x[:, j]) - np.nanmin(x[:, j])))
    return np.array(found)


def by_columns(seen, types):
    """Mean, mode and median."""
    filled = seen.copy()
    for j, (kind, _) in enumerate(types):
        known = seen[~np.isnan(seen[:, j]), j]
        usual = {"cat": lambda known: stats.mode(known).mode, "ordinal": np.median}.get(kind, np.mean)
        filled[np.isnan(seen[:, j]), j] = usual(known)
    return filled


def by_regressions(seen, types):
    """scikit-learn's IterativeImputer, each column regressed on the others; a category is a number for all but one."""
    widths = [levels - 1 if kind == "cat" else 1 for kind, levels in types]
    parts = []
    for column, (kind, levels) in zip(seen.T, types, strict=True):
        hot = np.where(np.isnan(column)[:, None], np.nan, column[:, None] == np.arange(1, max(levels, 2)))
        parts.append(hot if kind == "cat" else column[:, None])
    wide = np.hstack(parts).astype(float)
    mean, scale = np.nanmean(wide, 0), np.nanstd(wide, 0)
    scale = np.where(scale > 0, scale, 1)
    imputer = IterativeImputer(max_iter=20, random_state=0, keep_empty_features=True)
    filled = imputer.fit_transform((wide - mean) / scale) * scale + mean
    found = seen.copy()
    for j, (part, (kind, levels)) in enumerate(zip(np.split(filled, np.cumsum(widths)[:-1], 1), types, strict=True)):
        shares = np.column_stack([1 - part.sum(1), part])
        value = shares.argmax(1) if kind == "cat" else part[:, 0]
        value = value.round().clip(0, levels - 1) if kind == "ordinal" else value
        found[np.isnan(seen[:, j]), j] = value[np.isnan(seen[:, j])]
    return found


def by_trees(seen, types):
    """The same chain with gradient boosted trees: classifiers of categories, regressors of all others."""
    filled, missing = by_columns(seen, types), np.isnan(seen)
    for _ in range(SWEEPS):
        for j, (kind, levels) in enumerate(types):
            others = [i for i in range(len(types)) if i != j]
            nominal = [types[i][0] == "cat" for i in others]
            make = HistGradientBoostingClassifier if kind == "cat" else HistGradientBoostingRegressor
            tree = make(categorical_features=nominal, random_state=0)
            tree.fit(filled[~missing[:, j]][:, others], seen[~missing[:, j], j])
            value = tree.predict(filled[missing[:, j]][:, others])
            filled[missing[:, j], j] = value.round().clip(0, levels - 1) if kind == "ordinal" else value
    return filled


def by_vae(seen, types, options):
    """A VAE of our public API: what it imputes, and the pair."""
    torch.manual_seed(0)
    said = columns_of(seen, types)
    network = partial(MLP, hidden=options.hidden)
    model = VAE((seen.shape[1],), StandardNormal(options.latent_dim), Columns(said), decoder=network)
    guide = MeanField(model, encoder=network)
    x = torch.as_tensor(seen, dtype=torch.float32)
    known, aside = ~x.isnan().all(1), torch.rand(len(x)) < 0.1
    train = x[known & ~aside]
    fitted = ppl_vae.fit(
        model,
        guide,
        train,
        validation=x[known & aside],
        epochs=math.ceil(options.steps / math.ceil(len(train) / BATCH)),
        batch_size=BATCH,
        learning_rate=options.learning_rate,
        weight_decay=options.weight_decay,
        objective=IWAE(options.num_particles),
        compile=options.compile,
        threads=1,
        progress=False,
    )
    imputed = ppl_vae.impute(model, guide, x, num_samples=500, num_draws=100, progress=False)
    values = imputed.mean.numpy().astype(float)
    for j, (kind, _) in enumerate(types):
        if kind == "cat":
            values[:, j] = imputed.mode[:, j].numpy()
        elif kind == "ordinal":
            values[:, j] = np.floor(np.median(imputed.draws[:, :, j].numpy(), 0))
    return np.where(np.isnan(seen), values, seen), model, guide, fitted


def held_out(model, guide, x, hidden, rows):
    """log P(x_hidden | x_seen) per hidden cell of some rows: of the pair, and of columns by themselves."""
    some = np.flatnonzero(hidden.any(1) & ~hidden.all(1) & ~np.isnan(x).any(1))[:rows]
    whole, given = torch.as_tensor(x[some], dtype=torch.float32), torch.as_tensor(~hidden[some])
    count = int((~given).sum())
    evidence = ppl_vae.estimate_evidence(model, guide, whole, given=given, num_samples=500, progress=False)
    alone = Columns(model.likelihood.types).bind((x.shape[1],))
    alone.start_from(torch.as_tensor(np.where(hidden, np.nan, x), dtype=torch.float32))
    with torch.no_grad():
        apart = alone(torch.zeros(alone.h_shape)).log_prob(torch.where(given, torch.nan, whole))
    error = float(np.sqrt((evidence.mcse**2).sum())) / count
    return float(evidence.log_px.sum()) / count, error, float(apart.sum()) / count, len(evidence.doubts()), len(some)


def table(name, options):
    """The lines of a table."""
    x, types, hidden = load(name, options.rows)
    seen = np.where(hidden, np.nan, x)
    kinds = [kind for kind, _ in types]
    yield (
        f"{name}: {len(x)} rows, {x.shape[1]} columns ("
        + ", ".join(f"{kinds.count(kind)} {kind}" for kind in dict.fromkeys(kinds))
        + f"), {hidden.mean():.1%} of the cells hidden"
    )
    yield f"{'':34}{'all':>8}" + "".join(f"{kind:>9}" for kind in dict.fromkeys(kinds)) + f"{'CPU s':>10}"
    start = time.process_time()
    values, model, guide, fitted = by_vae(seen, types, options)
    made = [
        (
            f"VAE, {len(fitted.history.train_elbo)} epochs, z of {options.latent_dim}",
            values,
            time.process_time() - start,
        )
    ]
    for words, impute in (
        ("mean, mode, median", by_columns),
        ("IterativeImputer (BayesianRidge)", by_regressions),
        ("the same of boosted trees", by_trees),
    ):
        start = time.process_time()
        made.append((words, impute(seen, types), time.process_time() - start))
    for words, values, seconds in made:
        of_each = errors(x, values, types, hidden)
        by_kind = [of_each[[k == kind for k in kinds]].mean() for kind in dict.fromkeys(kinds)]
        yield f"{words:34}{of_each.mean():8.4f}" + "".join(f"{error:9.4f}" for error in by_kind) + f"{seconds:10.0f}"
    best = max(fitted.history.validation_elbo)
    yield f"The VAE's bound on log P of the seen cells of rows set aside: {best:.3f} nats a row"
    ours, error, apart, doubts, rows = held_out(model, guide, x, hidden, options.evidence_rows)
    yield (
        f"log P(hidden | seen) per cell, {rows} rows: VAE {ours:.3f} +- {error:.3f} nats ({doubts} rows in doubt), "
        f"each column by itself {apart:.3f}"
    )
    yield ""


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=["diabetes", "breast", "wine", "adult"])
    parser.add_argument("--rows", type=int, default=1000, help="of each table at most, at random")
    parser.add_argument("--evidence-rows", type=int, default=100)
    parser.add_argument("--steps", type=int, default=1500, help="of training")
    parser.add_argument("--latent-dim", type=int, default=10)
    parser.add_argument("--hidden", type=int, nargs="+", default=[100])
    parser.add_argument("--learning-rate", type=float, default=3e-3)
    parser.add_argument("--weight-decay", type=float, default=0.0)
    parser.add_argument("--num-particles", type=int, default=20, help="of the importance-weighted bound")
    parser.add_argument("--compile", type=lambda word: word == "yes", default=False)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    lines = [" ".join(["python tests/benchmarks/tables.py", *sys.argv[1:]]), ""]
    for name in options.only:
        for line in table(name, options):
            lines.append(line)
            print(line, flush=True)
        if options.out:
            options.out.write_text("\n".join(lines))


if __name__ == "__main__":
    main()
