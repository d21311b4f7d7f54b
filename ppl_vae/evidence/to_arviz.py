"""Evidence and posterior draws in ArviZ's words: its container of groups, and the result of its `loo`."""

import warnings
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

import numpy as np

from ppl_vae.evidence.arviz_versions import container_of, elpd_of
from ppl_vae.evidence.diagnostics import Array, khat_threshold
from ppl_vae.evidence.numbers import Numbers
from ppl_vae.evidence.reliability import doubts

DRAWS, DATUM, SAMPLE = ("chain", "draw"), "datum", "sample"
TAKEN = (*DRAWS, DATUM, SAMPLE)
NO_TAIL, ALL_TAIL = -1.0, 2.0  # where an infinite k-hat is shown; -1 is that of a uniform distribution's tail


def container(numbers: Numbers) -> Any:
    """Return ArviZ's container of an estimate.

    Groups, with `draws`:
        posterior: the latent sites [chain = 1, draw, datum, ...], drawn by importance resampling.
        log_likelihood: log P(x | z) of those draws in nats [chain, draw, datum], by the observed site's name; of
            several observed sites the sum, as NAME_and_NAME.
        observed_data: the observed sites [datum, ...].
        importance: log_weights of the samples of the proposal that were resampled, in nats [sample, datum].
    Without `draws` instead of all these:
        log_likelihood: log P(x) itself, as `log_px`, one chain of one draw.
    Always:
        evidence: `Evidence.to_dataset`: log_px, elbo, mcse, ess, khat and more [datum].

    The dimensions of a site SITE that are its own are SITE_dim_0, SITE_dim_1 and so on; `datum` counts from 0. A site
    with a slash in its name, or the name of a dimension, gets a point for it, or an underscore at its end.

    `arviz.loo` of the container is not log P(x): it averages 1 / P(x | z), the harmonic mean, over the posterior's
    draws, which is too high by nats. `elpd` has what was estimated.

    >>> import torch
    >>> from ppl_vae import estimate_evidence
    >>> from ppl_vae.models import LinearGaussian
    >>> estimate = estimate_evidence(LinearGaussian((9,)), None, torch.randn(5, 9), proposal="prior", num_samples=50)
    >>> container(estimate)["evidence"].sizes["datum"]
    5
    """
    doubtful = len(doubts(numbers)) if numbers.draws is not None else 0
    if doubtful:
        warnings.warn(
            f"{doubtful} of {len(numbers)} data are not to be trusted (evidence.doubts()): draws resampled from a few "
            f"samples are too narrow.",
            stacklevel=3,
        )
    values = numbers.to_dataset()
    groups = _groups_of_draws(numbers) if numbers.draws is not None else {}
    if not groups:
        groups["log_likelihood"] = _dataset({"log_px": numbers.log_px[None, None]}, (*DRAWS, DATUM))
    groups["evidence"] = values.assign_coords({DATUM: np.arange(len(numbers))})
    for group in groups.values():
        group.attrs |= {"inference_library": "ppl_vae", "inference_library_version": version("ppl-vae")}
    return container_of(groups)


def elpd(numbers: Numbers) -> Any:
    """Return log P(x) as ArviZ's `ELPDData`: what `arviz.plot_khat` and `arviz.compare` take.

        elpd = sum_n log P(x_n),    se = sqrt(N var_n log P(x_n))

    With z integrated out, log P(x_n) does not depend on the other data: it is its own leave-one-out prediction, so
    ArviZ's name for it is kept, `elpd_loo`. The number of parameters, `p_loo`, is not known: NaN. The k-hat of weights
    that are all equal, minus infinity, is put at -1, and that of one weight that has it all, infinity, at 2 (or at
    the least and the largest of the others), so that pictures show them.

    Source: the sums of `arviz.loo`; Vehtari et al., arXiv 1507.04544.

    >>> import torch
    >>> from ppl_vae import estimate_evidence
    >>> from ppl_vae.models import LinearGaussian
    >>> estimate = estimate_evidence(LinearGaussian((9,)), None, torch.randn(5, 9), proposal="prior", num_samples=50)
    >>> dict(elpd(estimate).pareto_k.sizes)
    {'datum': 5}
    """
    import xarray

    coords = {DATUM: np.arange(len(numbers))}
    values: dict[str, Any] = {
        "elpd": float(numbers.log_px.sum()),
        "se": float(np.sqrt(len(numbers)) * _deviation(numbers.log_px)),
        "p": np.nan,
        "n_samples": numbers.num_samples,
        "n_data_points": len(numbers),
        "warning": bool(doubts(numbers)),
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


def _deviation(values: Array) -> float:
    with np.errstate(invalid="ignore"):  # the log P(x) of a datum that the model cannot make is minus infinity
        return float(values.std())


def _finite(khat: Array) -> Array:
    known = khat[np.isfinite(khat)]
    low, high = (known.min(), known.max()) if len(known) else (NO_TAIL, ALL_TAIL)
    return np.nan_to_num(khat, nan=np.nan, neginf=min(low, NO_TAIL), posinf=max(high, ALL_TAIL))
