"""The result of estimating log P(x): numbers per datum, and what they say in all.

    log P(x) - ELBO = KL(Q(z | x) || P(z | x)) >= 0

so the gap between the two columns is how far the guide is from the posterior.
"""

import html
import os
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
        few = int((self.ess < LOW_ESS - 1e-3).sum())  # equal weights of ten samples are ten, but for rounding
        if self.num_samples < 2:
            return "One sample for each datum: log P(x) is the ELBO, and its error is not known. Raise num_samples."
        if few == 0:
            return (
                f"Every datum has an effective sample size of {LOW_ESS:.0f} or more. It cannot show what the "
                f"proposal never visits: a second guide, or proposal='prior', can."
            )
        return (
            f"{few} of {len(self)} data have an effective sample size below {LOW_ESS:.0f}: their log P(x) rests on a "
            f"few samples, and is more likely too low. Raise num_samples, or train the guide for longer."
        )

    def _rows(self) -> list[tuple[str, str, str, str, str]]:
        proposal = "Q" if self.proposal == "guide" else "P(z)"
        notes = {
            "log_px": ("log P(x)", "nats"),
            "elbo": ("ELBO", "nats, log P(x) >= ELBO"),
            "gap": ("gap", f"nats, KL({proposal} || P(z | x)) = log P(x) - ELBO"),
            "bits_per_dim": ("bits per dim", f"-log P(x) / ({self.event_size} ln 2)"),
        }
        return [
            (
                notes[k][0],
                f"{m.value:.3f}" if abs(m.value) < 1e6 else f"{m.value:.4g}",
                _number(m.se),
                _number(m.mcse),
                notes[k][1],
            )
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
        container: Any = getattr(arviz, "InferenceData", xarray.DataTree)
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


@dataclass
class Moments:
    """What `Evidence` needs to know of the log-weights of N data, gathered in chunks of any number of samples.

    Attributes:
        count: how many samples there were.
        largest: max_k log w_k, [N].
        weights, squares: sum_k w_k and sum_k w_k^2, relative to the largest weight, [N].
        mean, deviations: mean of log w_k, and the sum of its squared deviations, [N].
    """

    count: int
    largest: Array
    weights: Array
    squares: Array
    mean: Array
    deviations: Array

    @classmethod
    def of(cls, log_weights: Array) -> "Moments":
        """Gather log-weights [K, N] in nats."""
        largest = log_weights.max(0)
        relative = np.exp(log_weights - _finite(largest))
        mean = log_weights.mean(0)
        with np.errstate(invalid="ignore"):  # a weight of zero has an infinite logarithm
            deviations = ((log_weights - mean) ** 2).sum(0)
        return cls(len(log_weights), largest, relative.sum(0), (relative**2).sum(0), mean, deviations)

    def __add__(self, other: "Moments") -> "Moments":
        largest = np.maximum(self.largest, other.largest)
        a, b = (np.exp(m.largest - _finite(largest)) for m in (self, other))
        count = self.count + other.count
        with np.errstate(invalid="ignore"):
            step = other.mean - self.mean
            deviations = self.deviations + other.deviations + step**2 * self.count * other.count / count
            mean = self.mean + step * other.count / count
        mean = np.where(np.isinf(self.mean), self.mean, mean)
        return Moments(
            count,
            largest,
            a * self.weights + b * other.weights,
            a**2 * self.squares + b**2 * other.squares,
            mean,
            deviations,
        )

    def estimates(self) -> dict[str, Array]:
        """Return log_px, elbo, mcse, elbo_mcse and ess, each [N].

            log P(x) ~ log (1/K) sum_k w_k,    ESS = (sum_k w_k)^2 / sum_k w_k^2,
            MCSE^2 = (1/ESS - 1/K) K / (K - 1)

        MCSE is the delta method's: the standard error of the mean weight, relative to it. Source: Owen,
        Monte Carlo theory, methods and examples, chapter 9; Burda et al., arXiv 1509.00519 for the bound.

        >>> {k: v.tolist() for k, v in Moments.of(np.full((4, 1), -2.0)).estimates().items()}
        {'log_px': [-2.0], 'elbo': [-2.0], 'mcse': [0.0], 'elbo_mcse': [0.0], 'ess': [4.0]}
        """
        correction = self.count / (self.count - 1) if self.count > 1 else np.nan
        with np.errstate(divide="ignore", invalid="ignore"):
            ess = np.where(self.squares > 0, self.weights**2 / self.squares, 0.0)
            spread = np.maximum(1 / ess - 1 / self.count, 0.0)
            return {
                "log_px": np.log(self.weights / self.count) + self.largest,
                "elbo": self.mean,
                "mcse": np.sqrt(spread * correction),
                "elbo_mcse": np.sqrt(self.deviations * correction) / self.count,
                "ess": ess,
            }


def _finite(values: Array) -> Array:
    return np.where(np.isfinite(values), values, 0.0)


def _mean(values: Array, mcse: Array) -> Mean:
    n = len(values)
    se = float(values.std(ddof=1) / np.sqrt(n)) if n > 1 else float("nan")
    return Mean(float(values.mean()), se, float(np.sqrt((mcse**2).sum()) / n))


def _number(value: float) -> str:
    return (
        "-"
        if not np.isfinite(value)
        else f"{value:.3f}"
        if 0.0005 <= value < 1e4
        else f"{value:.2g}"
        if value >= 1e4
        else f"{value:.0e}"
        if value
        else "0"
    )
