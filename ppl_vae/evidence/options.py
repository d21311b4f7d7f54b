"""The options of the methods, each checked once; their defaults stand in the signature of `estimate_evidence`."""

from dataclasses import dataclass, fields
from typing import Any

import pandas as pd

from ppl_vae.compilation.capture import check_compile
from ppl_vae.errors import (
    InputError,
    is_one_of,
    positive_int,
    positive_number,
    real_number,
    shown,
    true_or_false,
    whole_from,
)
from ppl_vae.utils.threads import check_threads

PROPOSALS = ("guide", "prior", "refined", "laplace")
DEFENSIVE = 0.1  # the share of the guide in a proposal that is fitted to each datum
NUM_FILTERS = 8  # of a series, by "auto"
MOST = 64  # times num_samples: how far a tolerance may raise it, unless told


@dataclass(frozen=True)
class Options:
    """Of all methods; what each is, `estimate_evidence` says."""

    num_samples: int
    proposal: str
    joint: bool
    chunk_size: int | None
    compile: bool | str
    threads: int | str
    seed: int
    progress: bool | None

    def __post_init__(self) -> None:
        self._keep(num_samples=positive_int("num_samples", self.num_samples), seed=whole_from(0, "a seed", self.seed))
        self._keep(joint=true_or_false("joint", self.joint), threads=check_threads(self.threads))
        if not is_one_of(self.proposal, PROPOSALS):
            raise InputError(f"Expected proposal to be {', '.join(map(repr, PROPOSALS))}; got {shown(self.proposal)}.")
        if self.chunk_size is not None:
            self._keep(chunk_size=positive_int("chunk_size", self.chunk_size))
        check_compile(self.compile)

    def _keep(self, **values: Any) -> None:
        """Put in the place of what was given what it says, in Python's own numbers."""
        for name, value in values.items():
            object.__setattr__(self, name, value)

    def of_importance(self, has_guide: bool) -> "ImportanceOptions":
        """Return the options of the importance sampling that comes first, as it gives the ELBO."""
        proposal = "guide" if has_guide and self.proposal == "prior" else self.proposal
        return ImportanceOptions(**{f.name: getattr(self, f.name) for f in fields(Options)} | {"proposal": proposal})


def check_vectorize(wanted: object) -> None:
    """Refuse, in words, what does not say how samples are drawn."""
    if not (isinstance(wanted, bool) or is_one_of(wanted, ["auto"])):
        raise InputError(f"Expected vectorize to be True, False or 'auto'; got {shown(wanted)}.")


@dataclass(frozen=True)
class ImportanceOptions(Options):
    """Of importance sampling."""

    tolerance: float | None = None
    max_samples: int | None = None
    num_draws: int = 0
    vectorize: bool | str = "auto"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_vectorize(self.vectorize)
        self._keep(num_draws=whole_from(0, "num_draws", self.num_draws))
        if self.tolerance is None:
            if self.max_samples is not None:
                raise InputError(
                    "Expected max_samples together with a tolerance; got it alone. Give tolerance=0.05, say."
                )
            return
        self._keep(tolerance=positive_number("tolerance", self.tolerance))
        if self.max_samples is not None:
            self._keep(max_samples=positive_int("max_samples", self.max_samples))
        if not 2 <= self.num_samples <= self.most_samples:
            raise InputError(
                f"Expected a tolerance with 2 <= num_samples <= max_samples; got {self.num_samples} and "
                f"{self.most_samples}. The error is estimated from the samples: raise them."
            )

    @property
    def most_samples(self) -> int:
        """How many samples a datum may get for a tolerance."""
        return MOST * self.num_samples if self.max_samples is None else self.max_samples

    def of_importance(self, has_guide: bool) -> "ImportanceOptions":
        """Return these, without what is no option of importance sampling."""
        return ImportanceOptions(**{f.name: getattr(self, f.name) for f in fields(ImportanceOptions)})


@dataclass(frozen=True)
class AutoOptions(ImportanceOptions):
    """Of the method that does for each datum what it needs."""

    budget: float | str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.budget is not None and not self.seconds:
            raise InputError(f"Expected a budget above zero, in seconds or as '10min'; got {shown(self.budget)}.")

    @property
    def seconds(self) -> float | None:
        """The budget in seconds."""
        if self.budget is None:
            return None
        if (number := real_number(self.budget)) is not None:
            return max(0.0, number)
        try:
            return max(0.0, float(pd.Timedelta(self.budget).total_seconds())) if isinstance(self.budget, str) else 0.0
        except (ValueError, OverflowError):
            return 0.0

    def of_filters(self) -> "FilterOptions | None":
        """The same for particle filters; None, where something is asked that they do not have."""
        plain = self.tolerance is self.max_samples is self.budget is None and self.vectorize == "auto"
        if not plain or self.num_draws or self.proposal not in ("guide", "prior"):
            return None
        shared = {field.name: getattr(self, field.name) for field in fields(Options)}
        return FilterOptions(**shared, num_filters=NUM_FILTERS)


@dataclass(frozen=True)
class AnnealingOptions(Options):
    """Of annealed importance sampling, and of the sandwich."""

    num_temperatures: int
    num_chains: int
    num_leapfrog: int

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("num_temperatures", "num_chains", "num_leapfrog"):
            self._keep(**{name: positive_int(name, getattr(self, name))})
        if self.num_chains < 2:
            raise InputError("Expected num_chains of at least 2, so that their spread can be seen; got 1. Raise it.")


@dataclass(frozen=True)
class FilterOptions(Options):
    """Of particle filters."""

    num_filters: int

    def __post_init__(self) -> None:
        super().__post_init__()
        self._keep(num_filters=positive_int("num_filters", self.num_filters))
        if self.proposal not in ("guide", "prior"):
            raise InputError(
                f"Expected proposal='guide' or 'prior' with method='smc', which draws step by step; got "
                f"{shown(self.proposal)}."
            )
        if self.num_filters < 2:
            raise InputError("Expected num_filters of at least 2, so that their spread can be seen; got 1. Raise it.")
