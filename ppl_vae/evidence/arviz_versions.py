"""What differs between ArviZ up to 0.23 and from 1.0 (Python 3.12 and later), imported when it is used: it is slow."""

import importlib
import math
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray


@contextmanager
def _arviz() -> Iterator[tuple[Any, bool]]:
    """Give ArviZ, and whether it is the one before 1.0."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it tells everybody who imports it of its next version
        arviz = importlib.import_module("arviz")
        yield arviz, "InferenceData" in vars(arviz)  # hasattr would bring a warning


def psislw(log_weights: NDArray[np.float64]) -> tuple[NDArray[np.float64], float]:
    """Return smoothed log-weights [K], normalized or not, and Pareto's k of their tail."""
    with _arviz() as (arviz, is_old):
        if is_old:
            weights, khat = arviz.psislw(log_weights)
            return np.asarray(weights), float(khat)
        try:
            weights, khat = importlib.import_module("arviz_stats.base").array_stats.psislw(-log_weights)
        except ValueError:  # a tail of equal weights
            return log_weights, math.inf
        return np.asarray(weights), float(khat)


def container_of(groups: Mapping[str, Any]) -> Any:
    """Return ArviZ's container of data sets by the name of their group."""
    import xarray

    with _arviz() as (arviz, is_old):
        return arviz.InferenceData(**groups) if is_old else xarray.DataTree.from_dict(groups)


def elpd_of(numbers: Mapping[str, Any]) -> Any:
    """Return ArviZ's `ELPDData` of numbers by the names of 1.0, in the order they are printed in."""
    with _arviz() as (arviz, is_old):
        if is_old:
            old = {"elpd": "elpd_loo", "p": "p_loo", "elpd_i": "loo_i"}
            return arviz.ELPDData(data=list(numbers.values()), index=[old.get(name, name) for name in numbers])
        kinds: Any = importlib.import_module("arviz_stats.utils")
        return kinds.ELPDDataLOO(**numbers) if hasattr(kinds, "ELPDDataLOO") else kinds.ELPDData(kind="loo", **numbers)


def compared_of(table: Any, num_data: int) -> Any:
    """Return a table of means over so many data as one of sums with the columns of ArviZ's `compare`."""
    with _arviz() as (_, is_old):
        names = {"rank": "rank", "log_px": "elpd_loo" if is_old else "elpd", "log_px_diff": "elpd_diff"}
        names |= {name: name for name in ("weight", "se", "dse", "warning")}
        found = table[list(names)].rename(columns=names)
        for name in names.values():
            if name not in ("rank", "weight", "warning"):
                found[name] = found[name] * num_data
        found.insert(2, "p_loo" if is_old else "p", math.nan)
        return found.assign(scale="log") if is_old else found
