"""What differs between ArviZ up to 0.23 and from 1.0 (Python 3.12 and later), imported when it is used: it is slow."""

import importlib
import math
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr


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
    """Return a table of means over so many data as one of sums, with the columns and signs of ArviZ's `compare`."""
    difference = table["log_px_diff"] * num_data
    with np.errstate(invalid="ignore", divide="ignore"):
        worse = ndtr(difference / (table["dse"] * num_data)).where(difference != 0)
    few = "N < 100" if num_data < 100 else ""
    own = {
        **{name: table[name] for name in ("rank", "weight", "warning")},
        **{name: table[name] * num_data for name in ("se", "dse")},
        **dict.fromkeys(("elpd", "elpd_loo"), table["log_px"] * num_data),
        **dict.fromkeys(("p", "p_loo"), math.nan),
        "p_worse": worse,
        "diag_diff": [(few or ("|elpd_diff| < 4" if d < 4 else "")) if d else "" for d in difference],
        "diag_elpd": ["in doubt" if doubted else "" for doubted in table["warning"]],
        "scale": "log",
    }
    example = _compared_example()
    own["elpd_diff"] = np.copysign(1.0, example["elpd_diff"].astype(float).sum()) * difference + 0.0  # no -0
    return table.assign(**own)[[name for name in example.columns if name in own]]


def _compared_example() -> Any:
    """Return what the installed ArviZ says of two models: its columns, and the sign of its differences."""
    import xarray

    few = np.arange(8.0)
    common = {"se": 1.0, "p": 0.0, "n_samples": 100, "n_data_points": 8, "warning": False}
    with _arviz() as (arviz, _):
        both = {}
        for name, elpd_i in (("best", -few), ("worse", -2 * few)):
            each = xarray.DataArray(elpd_i, {"datum": few}, ("datum",), "elpd_i")
            both[name] = elpd_of({"elpd": elpd_i.sum(), **common, "elpd_i": each, "scale": "log", "good_k": 0.7})
        return arviz.compare(both)
