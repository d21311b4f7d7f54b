"""The gap between log P(x) and the ELBO, explained: what the family costs, and what amortization costs.

    log P(x) - ELBO = (log P(x) - ELBO*) + (ELBO* - ELBO)
                      approximation gap    amortization gap

ELBO* is the ELBO of the best Q of the guide's family for this one datum (`ppl_vae.evidence.refine`).
"""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from ppl_vae.data.as_source import fingerprint
from ppl_vae.errors import InputError, positive_int, positive_number, whole_from
from ppl_vae.evidence.at_once import drawn_at_once
from ppl_vae.evidence.diagnostics import LOW_ESS, doubtful_weights, estimates, khat_threshold, pareto
from ppl_vae.evidence.options import check_vectorize
from ppl_vae.evidence.prepare import Chunk, Prepared, prepared
from ppl_vae.evidence.refine import LEARNING_RATE, NUM_PARTICLES, NUM_STEPS, refine
from ppl_vae.traces.log_weights import log_weights
from ppl_vae.traces.pair import Program
from ppl_vae.utils.chunks import run_sizes
from ppl_vae.utils.progress import progress_bar
from ppl_vae.utils.report import Array, Mean, Report, Reported
from ppl_vae.utils.rng import seeded

HELD_WEIGHTS = 2**21  # log-weights held at once, of both guides: 32 MB in double precision

LARGEST_RATE = 1e30  # a step in single precision is finite


@dataclass(frozen=True, eq=False, repr=False)
class Gap(Reported):
    """log P(x) - ELBO of N data, split in two; each with its Monte Carlo standard error, all in nats.

    Attributes:
        log_px: log P(x) per datum, by importance sampling from the refined Q, [N].
        best_elbo: the ELBO of the refined Q, the best of the family found for this datum, [N].
        elbo: the ELBO of the guide, [N].
        log_px_mcse, best_elbo_mcse, elbo_mcse: their standard errors, [N].
        approximation_mcse, amortization_mcse, gap_mcse: standard errors of the differences, [N]: smaller, as both
            sides share their random numbers.
        ess, khat: effective sample size and Pareto's k of the weights behind log_px, [N]; the latter is NaN for fewer
            than 25 samples.
        num_samples, num_steps, seed, fingerprint: as they were asked for, and a hash of the data.
        quantity: what log_px is: "log P(x)", or for conditional models "log P(x | y)".
    """

    log_px: Array
    best_elbo: Array
    elbo: Array
    log_px_mcse: Array
    best_elbo_mcse: Array
    elbo_mcse: Array
    approximation_mcse: Array
    amortization_mcse: Array
    gap_mcse: Array
    ess: Array
    khat: Array
    num_samples: int
    num_steps: int
    fingerprint: str
    seed: int
    quantity: str = "log P(x)"

    def __len__(self) -> int:
        return len(self.log_px)

    @property
    def approximation(self) -> Array:
        """Log P(x) - ELBO* = KL(Q* || P(z | x)): what the family cannot express, per datum, [N]."""
        return self.log_px - self.best_elbo

    @property
    def amortization(self) -> Array:
        """ELBO* - ELBO: what the guide loses by answering for all data with one network, per datum, [N]."""
        return self.best_elbo - self.elbo

    @property
    def gap(self) -> Array:
        """Log P(x) - ELBO, the sum of the two, per datum, [N]."""
        return self.approximation + self.amortization

    def means(self) -> dict[str, Mean]:
        """Return the means over the data in nats: log_px, best_elbo, elbo, gap, approximation, amortization."""
        names = ("log_px", "best_elbo", "elbo", "gap", "approximation", "amortization")
        return {name: Mean.of(getattr(self, name), getattr(self, f"{name}_mcse")) for name in names}

    def verdict(self) -> str:
        """Return one line on which part is the larger, and whether the split can be believed."""
        heavy, few = doubtful_weights(self.ess, self.khat, self.num_samples)
        doubtful, what = int((heavy | few).sum()), self.quantity
        blind = f"What Q never visits does not show here: hold {what} against method='ais', proposal='prior'."
        if doubtful:
            return (
                f"{doubtful} of {len(self)} data have k-hat above {khat_threshold(self.num_samples):.2f} or an "
                f"effective sample size below {LOW_ESS:.0f}: their {what}, and with it the approximation gap, is more "
                f"likely too low. Raise num_samples. {blind}"
            )
        means = self.means()
        whole = means["gap"]
        if whole.value <= 2 * whole.mcse + 1e-3:
            return f"No gap to speak of: the guide is the posterior, as far as these samples show. {blind}"
        fixes = {"approximation": "a richer posterior family", "amortization": "a larger encoder, or longer training,"}
        larger = max(fixes, key=lambda part: means[part].value)
        share = min(means[larger].value / whole.value, 1)
        return f"{share:.0%} of the gap is {larger}: {fixes[larger]} would narrow it. {blind}"

    def report(self) -> Report:
        """Return what is printed: the means with their errors, and the verdict."""
        what, means = self.quantity, self.means()
        headline = (
            f"{what} - ELBO of {len(self)} data explained: Q refined for each in {self.num_steps} steps, "
            f"K = {self.num_samples} samples"
        )
        rows = [
            (what, means["log_px"], "nats, importance sampling from the refined Q"),
            ("best ELBO", means["best_elbo"], "nats, of the refined Q"),
            ("ELBO", means["elbo"], "nats, of the guide"),
            ("gap", means["gap"], f"{what} - ELBO"),
            ("approximation", means["approximation"], f"{what} - best ELBO: the family"),
            ("amortization", means["amortization"], "best ELBO - ELBO: the network"),
        ]
        return Report(headline, rows, [self.verdict()])

    def to_dataset(self) -> Any:
        """Return an `xarray.Dataset` with one dimension, `datum`, and what was done as attributes."""
        import xarray

        values = {k: getattr(self, k) for k in ("gap", "approximation", "amortization")} | asdict(self)
        columns = {k: ("datum", v) for k, v in values.items() if isinstance(v, np.ndarray)}
        return xarray.Dataset(columns, attrs={k: v for k, v in values.items() if k not in columns})


def explain_gap(
    model: Program,
    guide: Program,
    data: Any,
    *,
    num_samples: int = 1000,
    num_steps: int = NUM_STEPS,
    num_particles: int = NUM_PARTICLES,
    learning_rate: float = LEARNING_RATE,
    chunk_size: int | None = None,
    vectorize: bool | str = "auto",
    seed: int = 0,
    progress: bool | None = None,
) -> Gap:
    """Split log P(x) - ELBO of each datum into what the family costs and what amortization costs.

    For each datum the parameters of the guide's distributions are optimized from the guide's answer; the refined Q
    gives the best ELBO, and log P(x) as a proposal. Every number comes from K fresh samples, which neither fitted the
    refined Q nor chose it.

    Args:
        model, guide, data, chunk_size, vectorize, seed, progress: as for `estimate_evidence`; the guide has continuous
            sites only.
        num_samples: K, how many z are drawn for each datum from each of the two guides; 2 or more.
        num_steps, num_particles, learning_rate: of Adam, as in `refine`.

    Raises:
        InputError: discrete latent sites, families whose parameters are not known, and all that
            `estimate_evidence` refuses.

    Source: Cremer et al., arXiv 1801.03558.

    >>> from ppl_vae.models import LinearGaussian
    >>> from ppl_vae.guides import LinearGaussian as Posterior
    >>> model = LinearGaussian((20,), latent_dim=4)
    >>> gap = explain_gap(model, Posterior(model), torch.randn(8, 20), num_samples=10)
    >>> bool(abs(gap.approximation).max() < 1e-3), bool(abs(gap.amortization).max() < 1e-3)
    (True, True)
    """
    num_samples, seed = positive_int("num_samples", num_samples), whole_from(0, "a seed", seed)
    if num_samples < 2:
        raise InputError("Expected num_samples of at least 2, so that errors can be stated; got 1. Raise it.")
    steps: dict[str, Any] = {
        "num_steps": positive_int("num_steps", num_steps),
        "num_particles": positive_int("num_particles", num_particles),
        "learning_rate": positive_number("learning_rate", learning_rate),
    }
    num_particles = steps["num_particles"]
    if steps["learning_rate"] > LARGEST_RATE:
        raise InputError(f"Expected learning_rate of at most {LARGEST_RATE:.0e}; got {learning_rate}. Lower it.")
    if chunk_size is not None:
        chunk_size = positive_int("chunk_size", chunk_size)
    check_vectorize(vectorize)
    parts = []
    with prepared(model, guide, data, proposal="guide", seed=seed) as ready:
        if ready.exact:
            raise InputError("Expected a guide that samples latent sites; got none: the ELBO is log P(x), with no gap.")
        rows, (_, at_once) = ready.rows(chunk_size), drawn_at_once(ready, vectorize, "guide", copies=False)
        with progress_bar(len(ready.source), "gap", "datum", progress) as bar:
            for chunk in ready.chunks(max(1, min(rows // num_particles, HELD_WEIGHTS // num_samples))):
                counts = run_sizes(num_samples, max(1, rows // chunk.size))
                parts.append(_of_chunk(ready, chunk, counts, steps, at_once))
                bar.update(chunk.num_data)
        digest, what = fingerprint(ready.source), ready.quantity
    arrays = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
    return Gap(**arrays, num_samples=num_samples, num_steps=num_steps, fingerprint=digest, seed=seed, quantity=what)


def _of_chunk(
    prepared: Prepared, chunk: Chunk, counts: list[int], steps: dict[str, Any], vectorize: bool
) -> dict[str, Array]:
    """Return what `Gap` holds of a chunk's data; the guide and the refined Q draw from the same random numbers."""
    options: dict[str, Any] = {"subsample": chunk.subsample, "vectorize": vectorize}
    pairs = (prepared.pair, refine(prepared.pair, chunk.args, prepared.structure, **steps, **options))
    found: tuple[list[Array], list[Array]] = ([], [])
    for count in counts:
        state = int(torch.randint(2**31, ()))
        for pair, weights in zip(pairs, found, strict=True):
            with seeded(state):
                drawn = log_weights(pair, chunk.args, count, prepared.structure, **options)
            weights.append(drawn[:, : chunk.num_data].double().cpu().numpy())
    return _estimates(*map(np.concatenate, found))


def _estimates(own: Array, best: Array) -> dict[str, Array]:
    """Return everything that `Gap` holds per datum, from the log-weights of guide and refined Q, [K, n].

    log P(x) ~ log mean_k w_k changes by (w_k / mean w - 1) / K where sample k changes (the delta method), and
    a mean by (log w_k - mean) / K: the standard error of a difference is that of the differences of these.
    """
    of_best, of_own = estimates(best), estimates(own)
    influence = np.exp(best - of_best["log_px"])

    def error(samples: Array) -> Array:
        return np.asarray(samples.std(0, ddof=1) / np.sqrt(len(samples)))

    return {
        "log_px": of_best["log_px"],
        "best_elbo": of_best["elbo"],
        "elbo": of_own["elbo"],
        "log_px_mcse": of_best["mcse"],
        "best_elbo_mcse": of_best["elbo_mcse"],
        "elbo_mcse": of_own["elbo_mcse"],
        "approximation_mcse": error(influence - best),
        "amortization_mcse": error(best - own),
        "gap_mcse": error(influence - own),
        "ess": of_best["ess"],
        "khat": pareto(best)["khat"],
    }
