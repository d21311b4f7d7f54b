"""Evidence and posterior draws in ArviZ's words: its container of groups, and the result of its `loo`."""

from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

import numpy as np

from ppl_vae.evidence.arviz_versions import container_of, elpd_of
from ppl_vae.evidence.diagnostics import khat_threshold
from ppl_vae.evidence.numbers import Numbers
from ppl_vae.utils.faults import warn
from ppl_vae.utils.report import Array

DRAWS, DATUM, SAMPLE = ("chain", "draw"), "datum", "sample"
TAKEN = (*DRAWS, DATUM, SAMPLE)
NO_TAIL, ALL_TAIL = -1.0, 2.0  # where pictures show an infinite k-hat: of equal weights, of one that has it all


def container(numbers: Numbers, num_doubtful: int) -> Any:
    """Return ArviZ's container of an estimate, with the groups of `Evidence.to_arviz`."""
    if num_doubtful and numbers.draws is not None:
        warn(
            f"{num_doubtful} of {len(numbers)} data are not to be trusted (evidence.doubts()): draws resampled from a "
            f"few samples are too narrow."
        )
    values = numbers.to_dataset()
    groups = _groups_of_draws(numbers) if numbers.draws is not None else {}
    if not groups:
        groups["log_likelihood"] = _dataset({"log_px": numbers.log_px[None, None]}, (*DRAWS, DATUM))
    groups["evidence"] = values.assign_coords({DATUM: np.arange(len(numbers))})
    for group in groups.values():
        group.attrs |= {"inference_library": "ppl_vae", "inference_library_version": version("ppl-vae")}
    return container_of(groups)


def elpd(numbers: Numbers, num_doubtful: int) -> Any:
    """Return log P(x) as ArviZ's `ELPDData`, as `Evidence.to_elpd` describes it."""
    import xarray

    coords = {DATUM: np.arange(len(numbers))}
    with np.errstate(invalid="ignore"):  # the log P(x) of a datum that the model cannot make is minus infinity
        deviation = float(numbers.log_px.std())
    values: dict[str, Any] = {
        "elpd": float(numbers.log_px.sum()),
        "se": float(np.sqrt(len(numbers)) * deviation),
        "p": np.nan,
        "n_samples": numbers.num_samples,
        "n_data_points": len(numbers),
        "warning": num_doubtful > 0,
        "elpd_i": xarray.DataArray(numbers.log_px, coords, (DATUM,), "elpd_i"),
        "scale": "log",
        "good_k": khat_threshold(numbers.num_samples),
    }
    if numbers.has_tail:
        values["pareto_k"] = xarray.DataArray(_finite(numbers.khat), coords, (DATUM,), "pareto_k")
    return elpd_of(values)


def _groups_of_draws(numbers: Numbers) -> dict[str, Any]:
    """Return what was drawn, as `xarray.Dataset` by the name of the group."""
    draws = numbers.draws
    observed = {_free(name): values for name, values in draws.observed.items()}
    groups = {
        "posterior": {_free(name): values[None] for name, values in draws.posterior.items()},
        "log_likelihood": {"_and_".join(observed): draws.log_likelihood[None]},
        "observed_data": observed,
        "importance": {"log_weights": draws.log_weights},
    }
    dims = {"observed_data": (DATUM,), "importance": (SAMPLE, DATUM)}
    return {name: _dataset(values, dims.get(name, (*DRAWS, DATUM))) for name, values in groups.items() if values}


def _dataset(arrays: Mapping[str, Any], dims: tuple[str, ...]) -> Any:
    """Return arrays as a dataset whose first dimensions are `dims`, the others NAME_dim_0, NAME_dim_1 and so on."""
    import xarray

    variables: dict[str, Any] = {}
    coords: dict[str, Any] = {}
    for name, values in arrays.items():
        own = (*dims, *(f"{name}_dim_{i}" for i in range(values.ndim - len(dims))))
        variables[name] = (own, values)
        coords |= {dim: np.arange(size) for dim, size in zip(own, values.shape, strict=True)}
    return xarray.Dataset(variables, coords)


def _free(site: str) -> str:
    """Return a site's name as netCDF can hold it, and other than the dimensions'."""
    name = site.replace("/", ".")
    return f"{name}_" if name in TAKEN else name


def _finite(khat: Array) -> Array:
    known = khat[np.isfinite(khat)]
    low, high = known.min(initial=NO_TAIL), known.max(initial=ALL_TAIL)
    return np.nan_to_num(khat, nan=np.nan, neginf=low, posinf=high)
