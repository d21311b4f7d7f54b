"""The numbers of an estimate, without the questions about them: `Numbers`, and `Sandwich` of a bidirectional one."""

import json
import math
import os
import re
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from ppl_vae.errors import InputError
from ppl_vae.evidence.diagnostics import MIN_SAMPLES, Curve
from ppl_vae.evidence.scale import DEQUANTIZED, GIVEN, TOTAL
from ppl_vae.evidence.stored import checked, read_netcdf, said_of, sealed
from ppl_vae.utils.files import written_whole
from ppl_vae.utils.report import Array, Mean, Report, Reported

Index = NDArray[np.int64]  # of some data
NESTED = (
    "diagnostics",
    "settings",
    "is_exact",
    "curve",
    "sandwich",
    "filtering",
    "draws",
    "tried",
)  # in another shape in a file


class Trial(NamedTuple):
    """What a remedy did for some of the doubtful data."""

    mended: int  # how many it leaves no doubt of
    num_tried: int
    helps: bool  # whether these are enough, and more than a redraw mends


class Filtering(NamedTuple):
    """How particle filters went from step to step.

    Attributes:
        ess: the effective number of particles at each step, before any are drawn again, [T, N]; the mean over filters,
            NaN after the last step of a datum's chunk.
        resampled: the share of the filters that drew theirs again after it, [T, N].
    """

    ess: Array
    resampled: Array


@dataclass(frozen=True, eq=False, repr=False)
class Sandwich(Reported):
    """Bounds from both sides on log P(x) of data that were simulated from the model.

    Attributes:
        lower: by forward annealed importance sampling, [M], in nats; in expectation below log P(x).
        upper: by reverse annealing from the z that made x, [M]; in expectation above log P(x).
        lower_mcse, upper_mcse: their Monte Carlo standard errors, [M].
        x: the simulated data, [M, *event_shape].
    """

    lower: Array
    upper: Array
    lower_mcse: Array
    upper_mcse: Array
    x: np.ndarray[Any, Any]

    def means(self) -> dict[str, Mean]:
        """Return the means over the simulated data: lower, upper, and width = upper - lower."""
        return {
            "lower": Mean.of(self.lower, self.lower_mcse),
            "upper": Mean.of(self.upper, self.upper_mcse),
            "width": Mean.of(self.upper - self.lower, np.hypot(self.lower_mcse, self.upper_mcse)),
        }

    def interval(self) -> tuple[float, float]:
        """Return where the mean log P(x) of the simulated data lies: the two bounds, two MCSE wider."""
        lower, upper = self.means()["lower"], self.means()["upper"]
        return lower.value - 2 * lower.mcse, upper.value + 2 * upper.mcse

    def report(self) -> Report:
        """Return what is printed: both bounds, and their distance."""
        remarks = {"lower": "forward annealing", "upper": "reverse annealing", "width": "upper - lower"}
        rows = [(name, mean, f"nats, {remarks[name]}") for name, mean in self.means().items()]
        return Report(f"Bounds on log P(x) of {len(self.lower)} data simulated from the model", rows)


@dataclass(frozen=True, eq=False, repr=False)
class Numbers:
    """Estimates of log P(x) for N data, each with its error; all in nats.

    Attributes:
        log_px: log P(x) per datum, log (1/K) sum_k w_k, [N].
        elbo: the evidence lower bound per datum, (1/K) sum_k log w_k of importance samples, [N].
        mcse: Monte Carlo standard error of log_px, [N]: with K samples, by the delta method.
        elbo_mcse: Monte Carlo standard error of elbo, [N].
        ess: effective sample size (sum w)^2 / sum w^2, between 1 and K, [N].
        num_samples: K, or the number of chains of annealed importance sampling, or of particle filters.
        proposal: what z was drawn from: "guide", "refined", "laplace" or "prior".
        event_size: how many observed numbers one datum holds; where some are missing or masked, the mean; 0 where a
            factor scores x, which does not say of how many.
        fingerprint: a hash of the data, so that only estimates on the same data are compared.
        seed: of the samples.
        quantity: what was estimated: "log P(x)", for conditional models "log P(x | y)" or "log P(x, y)", and where a
            part of x or a number made of it is given and not scored, as a multinomial's total, "log P(x | n)".
        scored: what log P(x) is the logarithm of: "probability", "density", "dequantized" (a density of dequantized
            levels) or "mixed" (of several sites); "" where it is not known. With " given totals" at its end where the
            total of each datum is given and not scored, as a multinomial's: log P(x | n).
        num_levels: how many grey levels x has, or had before it was dequantized; 0 where it is not known.
        elbo_proposal: what those of the ELBO were drawn from: annealing from the prior has the guide's, too.
        method: "auto", "importance", "ais", "sandwich", "smc" or "given".
        diagnostics: more numbers per datum, by name, each [N]. bias: the jackknife's estimate of that of log_px. Of
            importance sampling: draws (K of each datum), khat, log_px_psis, and with a tolerance, or by "auto",
            stopping, the bias of a datum that went on. By "auto" second_look, by how much modes of a second set of
            climbs raised what would have been believed, with mcse_second_look; both 0 elsewhere; climbed, 0 where modes
            that may matter are not known; unfinished, 1 where more was to come. Of annealing:
            acceptance, step_size, chain_spread (the standard deviation of the log-weights over chains), and
            log_px_importance with mcse_importance. Of filters: filter_spread (the standard deviation of theirs),
            least_particles (how many counted where these were fewest), num_resampled (how often they were drawn
            again), and log_px_importance. Of bounded latents, by any method: at_edge, the share of P(x) that
            comes at least from z too near to a bound for numbers of their precision.
        settings: numbers the method was run with.
        curve: the bound against K, where it was found.
        sandwich: bounds from both sides on simulated data, where they were found.
        filtering: how the particles of filters fared from step to step, where there were some.
        draws: draws from the posterior and what goes with them, as `to_arviz` gives them, where they were kept.
        is_exact: whether log P(x) is not an estimate, as no latent site is sampled.
        tried: what remedies did for some of the doubtful data, by name, where they were tried.
        note: what is to be said of the method, in words.
        weights: the digest of the weights of the run that it is of; "" where it is of none, or not known.
    """

    log_px: Array
    elbo: Array
    mcse: Array
    elbo_mcse: Array
    ess: Array
    num_samples: int
    proposal: str
    event_size: float
    fingerprint: str
    seed: int
    quantity: str = "log P(x)"
    scored: str = ""
    num_levels: int = 0
    elbo_proposal: str = "guide"
    method: str = "importance"
    diagnostics: dict[str, Array] = field(default_factory=dict)
    settings: dict[str, float] = field(default_factory=dict)
    curve: Curve | None = None
    sandwich: Sandwich | None = None
    filtering: Filtering | None = None
    draws: Any = None
    is_exact: bool = False
    tried: dict[str, Trial] = field(default_factory=dict)
    note: str = ""
    weights: str = ""

    def __len__(self) -> int:
        return len(self.log_px)

    @property
    def gap(self) -> Array:
        """Log P(x) - ELBO = KL(Q(z | x) || P(z | x)) per datum, [N]."""
        with np.errstate(invalid="ignore"):  # both are minus infinity where the model rules all draws out
            return self.log_px - self.elbo

    @property
    def khat(self) -> Array:
        """Pareto's k of the tail of the weights, [N]: above 0.7 (or 1 - 1 / log10 K) an estimate is not to be trusted.

        Raises:
            InputError: there are fewer than 25 draws for each datum.
        """
        return self._of_tail("khat")

    @property
    def log_px_psis(self) -> Array:
        """Log P(x) with the tail of the weights smoothed (Pareto-smoothed importance sampling), [N]; as `khat`."""
        return self._of_tail("log_px_psis")

    @property
    def has_tail(self) -> bool:
        """Whether there are weights enough for `khat`."""
        return "khat" in self.diagnostics and self.num_samples >= MIN_SAMPLES

    def _of_tail(self, name: str) -> Array:
        if not self.has_tail:
            raise InputError(
                f"Expected at least {MIN_SAMPLES} weights for each datum for k-hat; got {self.num_samples} by "
                f"method={self.method!r}. Use method='importance' with num_samples={MIN_SAMPLES} or more."
            )
        return self.diagnostics[name]

    def means(self) -> dict[str, Mean]:
        """Return the means over the data: log_px, elbo and gap in nats, bits_per_dim in bits if event_size is known.

        bits_per_dim = -log P(x) / (event_size ln 2), and of dequantized levels log2(num_levels) more: then it bounds
        that of the levels from above.
        """
        gap_mcse = np.hypot(self.mcse, self.elbo_mcse)  # an upper bound: the two share their samples
        with np.errstate(invalid="ignore"):  # the mean of minus infinity has no error
            found = {
                "log_px": Mean.of(self.log_px, self.mcse),
                "elbo": Mean.of(self.elbo, self.elbo_mcse),
                "gap": Mean.of(self.gap, gap_mcse),
            }
            if self.event_size:
                to_bits = -1 / (self.event_size * np.log(2))
                found["bits_per_dim"] = Mean.of((self.log_px + self.to_levels) * to_bits, self.mcse * abs(to_bits))
        return found

    @property
    def to_levels(self) -> float:
        """What has to be added to log P(x), in nats, to be one of levels: -D log L if they were dequantized."""
        return -self.event_size * math.log(self.num_levels) if self.scored == DEQUANTIZED else 0.0

    @property
    def observed(self) -> str:
        """What z is inferred from: "x", or "x, y" of a conditional model."""
        return ", ".join(re.findall(r"\w+", self.quantity.removeprefix("log P")))

    def to_dataset(self) -> Any:
        """Return all but `draws` as an `xarray.Dataset` over `datum`; its attributes say what was done."""
        import xarray

        values = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in NESTED}
        attrs: dict[str, Any] = {k: v for k, v in values.items() if not isinstance(v, np.ndarray)}
        arrays: dict[str, Any] = {k: ("datum", v) for k, v in values.items() if k not in attrs}
        arrays |= {name: ("datum", v) for name, v in self.diagnostics.items()}
        settings = self.settings | ({"exact": 1.0} if self.is_exact else {})  # as in every file before
        attrs |= {"diagnostics": json.dumps(list(self.diagnostics)), "settings": json.dumps(settings)}
        attrs |= {"tried": json.dumps(self.tried)} if self.tried else {}
        if self.curve is not None:
            dims: tuple[str, ...] = ("point", "datum")
            arrays |= {f"curve_{name}": (dims[: v.ndim], v) for name, v in self.curve._asdict().items()}
        if self.filtering is not None:
            arrays |= {f"filtering_{name}": (("step", "datum"), v) for name, v in self.filtering._asdict().items()}
        if self.sandwich is not None:
            dims = ("simulated", *(f"x_dim_{i}" for i in range(self.sandwich.x.ndim - 1)))
            arrays |= {f"sandwich_{name}": (dims[: v.ndim], v) for name, v in vars(self.sandwich).items()}
        return xarray.Dataset(arrays, attrs=attrs)

    def _saying_what_is_given(self) -> Self:
        """Return the same with totals that are given in the name of the quantity, where older versions had log P(x)."""
        if not self.scored.endswith(GIVEN) or re.search(rf"\|.*\b{TOTAL}\b", self.quantity):
            return self
        whole = self.quantity.removesuffix(")")
        return replace(self, quantity=f"{whole}{', ' if '|' in whole else ' | '}{TOTAL})")

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write everything but `draws` to a netCDF file, whole or not at all."""
        content = sealed(self.to_dataset())
        with written_whole(Path(path)) as temporary:
            temporary.write_bytes(content)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read what `save` wrote.

        Raises:
            InputError: no such file, or one that is not an evidence file.
        """
        try:
            arrays, attrs = read_netcdf(Path(path))
            attrs["settings"] = json.loads(attrs["settings"])
            attrs["tried"] = {name: Trial(*trial) for name, trial in json.loads(attrs.pop("tried", "{}")).items()}
            attrs["is_exact"] = attrs["settings"].pop("exact", None) is not None
            attrs["diagnostics"] = {name: arrays.pop(name) for name in json.loads(attrs["diagnostics"])}
            for name, kind in (("curve", Curve), ("sandwich", Sandwich), ("filtering", Filtering)):
                own = {key.removeprefix(f"{name}_"): arrays.pop(key) for key in list(arrays) if key.startswith(name)}
                attrs[name] = kind(**own) if own else None
            checked(attrs | arrays)
            return cls(**arrays, **attrs)._saying_what_is_given()
        except (OSError, ValueError, TypeError, KeyError, AttributeError, RuntimeError, MemoryError) as problem:
            raise InputError(
                f"Expected an evidence file in {path}; got none that can be read ({said_of(problem)}). "
                f"Make it anew, by ppl_vae.evaluate.",
                options="ppl-vae evaluate RUN",
            ) from None
