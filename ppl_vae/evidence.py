"""The result of estimating log P(x): numbers per datum, and what they say in all.

    log P(x) - ELBO = KL(Q(z | x) || P(z | x)) >= 0

so the gap between the two columns is how far the guide is from the posterior.
"""

import html
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ppl_vae.errors import InputError, reason
from ppl_vae.files import written_whole

Array = NDArray[np.float64]

LOW_ESS = 10.0  # below it the weights of a datum rest on a handful of samples


@dataclass(frozen=True)
class Mean:
    """A mean over the data, in nats unless said otherwise.

    Attributes:
        value: the mean.
        se: its standard error as an estimate for the population the data come from, sd / sqrt(N).
        mcse: its Monte Carlo standard error, from drawing K samples only.
    """

    value: float
    se: float
    mcse: float


@dataclass(frozen=True, eq=False, repr=False)
class Evidence:
    """Estimates of log P(x) for N data, each with its error; all in nats.

    Attributes:
        log_px: log P(x) per datum, log (1/K) sum_k w_k, [N].
        elbo: the evidence lower bound per datum, (1/K) sum_k log w_k, [N].
        mcse: Monte Carlo standard error of log_px, [N]: with K samples, by the delta method.
        elbo_mcse: Monte Carlo standard error of elbo, [N].
        ess: effective sample size (sum w)^2 / sum w^2, between 1 and K, [N].
        num_samples: K.
        proposal: what z was drawn from: "guide" or "prior".
        event_size: how many observed numbers one datum holds.
        fingerprint: a hash of the data, so that only estimates on the same data are compared.
        seed: of the samples.
    """

    log_px: Array
    elbo: Array
    mcse: Array
    elbo_mcse: Array
    ess: Array
    num_samples: int
    proposal: str
    event_size: int
    fingerprint: str
    seed: int

    def __len__(self) -> int:
        return len(self.log_px)

    @property
    def gap(self) -> Array:
        """Log P(x) - ELBO = KL(Q(z | x) || P(z | x)) per datum, [N]."""
        return self.log_px - self.elbo

    def means(self) -> dict[str, Mean]:
        """Return the means over the data: log_px, elbo and gap in nats, bits_per_dim in bits.

        bits_per_dim = -log P(x) / (event_size ln 2).
        """
        gap_mcse = np.sqrt(self.mcse**2 + self.elbo_mcse**2)  # an upper bound: the two share their samples
        to_bits = -1 / (self.event_size * np.log(2))
        return {
            "log_px": _mean(self.log_px, self.mcse),
            "elbo": _mean(self.elbo, self.elbo_mcse),
            "gap": _mean(self.gap, gap_mcse),
            "bits_per_dim": _mean(self.log_px * to_bits, self.mcse * abs(to_bits)),
        }

    def verdict(self) -> str:
        """Return one line on how far to trust log P(x), from the effective sample sizes."""
        few = int((self.ess < LOW_ESS).sum())
        if self.num_samples < 2:
            return "One sample for each datum: log P(x) is the ELBO, and its error is not known. Raise num_samples."
        if few == 0:
            return (
                f"Every datum has an effective sample size of {LOW_ESS:.0f} or more: nothing speaks against log P(x)."
            )
        return (
            f"{few} of {len(self)} data have an effective sample size below {LOW_ESS:.0f}: their log P(x) rests on a "
            f"few samples, and is more likely too low. Raise num_samples, or train the guide for longer."
        )

    def _rows(self) -> list[tuple[str, str, str, str, str]]:
        notes = {
            "log_px": ("log P(x)", "nats"),
            "elbo": ("ELBO", "nats, log P(x) >= ELBO"),
            "gap": ("gap", "nats, KL(Q || P(z | x)) = log P(x) - ELBO"),
            "bits_per_dim": ("bits per dim", f"-log P(x) / ({self.event_size} ln 2)"),
        }
        return [
            (notes[k][0], f"{m.value:.3f}", _number(m.se), _number(m.mcse), notes[k][1])
            for k, m in self.means().items()
        ]

    def _headline(self) -> str:
        source = "the guide Q(z | x)" if self.proposal == "guide" else "the prior P(z)"
        return f"log P(x) of {len(self)} data by importance sampling, K = {self.num_samples} samples from {source}"

    def _ess_line(self) -> str:
        return (
            f"effective sample size: median {np.median(self.ess):.1f}, smallest {self.ess.min():.1f}, "
            f"of {self.num_samples}"
        )

    def __str__(self) -> str:
        head = ("", "mean", "s.e.", "MCSE", "")
        table = [f"{a:<13}{b:>11}{c:>9}{d:>9}  {e}".rstrip() for a, b, c, d, e in [head, *self._rows()]]
        return "\n".join([self._headline(), *table, self._ess_line(), self.verdict()])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        cells = "".join(
            f"<tr><th style='text-align:left'>{html.escape(a)}</th><td>{b}</td><td>{c}</td><td>{d}</td>"
            f"<td style='text-align:left'>{html.escape(e)}</td></tr>"
            for a, b, c, d, e in self._rows()
        )
        return (
            f"<table><caption style='text-align:left'>{html.escape(self._headline())}</caption>"
            f"<tr><th></th><th>mean</th><th>s.e.</th><th>MCSE</th><th></th></tr>{cells}</table>"
            f"<p>{html.escape(self._ess_line())}<br>{html.escape(self.verdict())}</p>"
        )

    def to_dataset(self) -> Any:
        """Return an `xarray.Dataset` with one dimension, `datum`, and what was done as attributes."""
        import xarray

        values = asdict(self)
        arrays = {k: ("datum", v) for k, v in values.items() if isinstance(v, np.ndarray)}
        return xarray.Dataset(arrays, attrs={k: v for k, v in values.items() if k not in arrays})

    def to_arviz(self) -> Any:
        """Return ArviZ's container (`InferenceData` up to 0.23, `xarray.DataTree` from 1.0).

        Group `evidence` holds everything per datum; group `log_likelihood` holds log P(x), with z integrated
        out, as one chain of one draw.
        """
        import arviz
        import xarray

        log_px = xarray.Dataset({"x": (("chain", "draw", "datum"), self.log_px[None, None])})
        groups = {"evidence": self.to_dataset(), "log_likelihood": log_px}
        container = getattr(arviz, "InferenceData", xarray.DataTree)
        if container is xarray.DataTree:
            return xarray.DataTree.from_dict(groups)
        return container(**groups, warn_on_custom_groups=False)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write everything to a netCDF file, whole or not at all."""
        with written_whole(Path(path)) as temporary:
            self.to_dataset().to_netcdf(temporary, engine="h5netcdf")

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Evidence":
        """Read what `save` wrote.

        Raises:
            InputError: no such file, or one that is not an evidence file.
        """
        import xarray

        try:
            with xarray.open_dataset(path, engine="h5netcdf") as dataset:
                arrays: dict[str, Any] = {str(k): np.asarray(v.values) for k, v in dataset.data_vars.items()}
                attrs = {str(k): v.item() if isinstance(v, np.generic) else v for k, v in dataset.attrs.items()}
            return cls(**arrays, **attrs)
        except (OSError, ValueError, TypeError) as problem:
            raise InputError(
                f"Expected an evidence file in {path}; got none that can be read ({reason(problem)}). "
                f"Make it with `ppl-vae evaluate`."
            ) from None


def from_log_weights(log_weights: Array) -> dict[str, Array]:
    """Return log_px, elbo, mcse, elbo_mcse and ess, each [N], from log-weights [K, N] in nats.

        log P(x) ~ log (1/K) sum_k w_k,    ESS = (sum_k w_k)^2 / sum_k w_k^2,
        MCSE^2 = (1/ESS - 1/K) K / (K - 1)

    MCSE is the delta method's: the standard error of the mean weight, relative to it. Source: Owen, Monte
    Carlo theory, methods and examples, chapter 9; Burda et al., arXiv 1509.00519 for the bound.

    >>> {k: v.tolist() for k, v in from_log_weights(np.full((4, 1), -2.0)).items()}
    {'log_px': [-2.0], 'elbo': [-2.0], 'mcse': [0.0], 'elbo_mcse': [0.0], 'ess': [4.0]}
    """
    num_samples = len(log_weights)
    largest = log_weights.max(0)
    weights = np.exp(log_weights - np.where(np.isfinite(largest), largest, 0.0))
    total, squares = weights.sum(0), (weights**2).sum(0)
    with np.errstate(divide="ignore", invalid="ignore"):
        ess = np.where(squares > 0, total**2 / squares, 0.0)
        spread = np.maximum(1 / ess - 1 / num_samples, 0.0)
        correction = num_samples / (num_samples - 1) if num_samples > 1 else np.nan
        return {
            "log_px": np.log(total / num_samples) + largest,
            "elbo": log_weights.mean(0),
            "mcse": np.sqrt(spread * correction),
            "elbo_mcse": log_weights.std(0) * np.sqrt(correction / num_samples),
            "ess": ess,
        }


def _mean(values: Array, mcse: Array) -> Mean:
    n = len(values)
    se = float(values.std(ddof=1) / np.sqrt(n)) if n > 1 else float("nan")
    return Mean(float(values.mean()), se, float(np.sqrt((mcse**2).sum()) / n))


def _number(value: float) -> str:
    return "-" if not np.isfinite(value) else f"{value:.3f}" if value >= 0.0005 else f"{value:.0e}" if value else "0"


def compare(evidences: Mapping[str, Evidence]) -> Any:
    """Compare models by log P(x) on the same data: a pandas table, the best first.

    Columns, in nats per datum: `rank`; `log_px`, the mean; `se`, its standard error over the data; `diff`,
    the mean of the paired differences to the best; `dse`, the standard error of that; `mcse`, the Monte
    Carlo standard error of log_px; `elbo`; `gap`.

    Raises:
        InputError: nothing to compare, or estimates made on different data.

    Source: the columns of `arviz.compare`; Vehtari et al., arXiv 1507.04544, for the paired differences.
    """
    import pandas

    if not evidences:
        raise InputError("Expected at least one evidence to compare; got none.")
    first_name, first = next(iter(evidences.items()))
    for name, other in evidences.items():
        if other.fingerprint != first.fingerprint:
            raise InputError(
                f"Expected estimates on the same data; got {first_name!r} on {len(first)} data and {name!r} on "
                f"{len(other)} others. Evaluate both on one data set and split."
            )
    ranked = sorted(evidences.items(), key=lambda item: -item[1].log_px.mean())
    best = ranked[0][1]
    rows = []
    for rank, (name, evidence) in enumerate(ranked):
        means, diff = evidence.means(), _mean(best.log_px - evidence.log_px, evidence.mcse)
        rows.append(
            {
                "model": name,
                "rank": rank,
                "log_px": means["log_px"].value,
                "se": means["log_px"].se,
                "diff": diff.value,
                "dse": diff.se,
                "mcse": means["log_px"].mcse,
                "elbo": means["elbo"].value,
                "gap": means["gap"].value,
            }
        )
    return pandas.DataFrame(rows).set_index("model")
