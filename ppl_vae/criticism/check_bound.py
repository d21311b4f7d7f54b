"""The chain of bounds as an assertion: ELBO <= IWAE_K <= log P(x), within Monte Carlo error, in words."""

from typing import Any

import numpy as np
import torch

from ppl_vae.data.as_source import as_source
from ppl_vae.errors import InputError
from ppl_vae.evidence.estimators import estimate_evidence
from ppl_vae.traces.pair import Pair, Program
from ppl_vae.utils.arrays import array_of
from ppl_vae.utils.report import Array, Words

ERRORS = 4.0  # Monte Carlo standard errors of a mean that count as agreement
WORST = 5.5  # of the worst of many data
ROUNDING = 1e-5  # of single precision, relative


def check_bound(
    model: Program,
    guide: Program,
    data: Any,
    *,
    log_px: Any = None,
    num_samples: int = 1000,
    seed: int = 0,
    progress: bool | None = None,
) -> str:
    """Assert ELBO <= IWAE_K <= log P(x) within error, and say in one sentence what was found.

    Where importance sampling has no doubts of a datum, its IWAE_K must also reach log P(x).

    Args:
        model, guide, data, num_samples, seed, progress: as for `estimate_evidence`.
        log_px: the exact log P(x) of each datum, [N], in nats; None asks the model's `exact_log_px(x)`, and where
            there is none, annealed importance sampling from the prior (which is a lower bound itself).

    Raises:
        AssertionError: the chain is broken; the message says where and by how much.
        InputError: as `estimate_evidence`; log_px of another length.

    Source: Burda et al., arXiv 1509.00519, theorem 1.

    >>> from ppl_vae.models import LinearGaussian
    >>> from ppl_vae.guides import LinearGaussian as Posterior
    >>> model = LinearGaussian((20,), latent_dim=4)
    >>> check_bound(model, Posterior(model), model(size=64).detach()).startswith("ELBO -")
    True
    """
    how: Any = {"method": "importance", "num_samples": num_samples, "seed": seed, "progress": progress}
    evidence = estimate_evidence(model, guide, data, **how)
    exact, source, error = _exact(model, data, log_px), "exact", np.zeros(len(evidence))
    if exact is None:
        annealed = estimate_evidence(
            model, guide, data, method="ais", proposal="prior", seed=seed + 1, progress=progress
        )
        exact, source, error = annealed.log_px, "annealed from the prior", annealed.mcse
    if exact.shape != (len(evidence),):
        count = len(exact) if exact.ndim == 1 else f"shape {exact.shape}"
        raise InputError(f"Expected log_px for each of the {len(evidence)} data; got {count}. Give one for each.")
    curve = evidence.curve
    assert curve is not None
    name, truth = f"IWAE_{num_samples}", f"log P(x) ({source})"
    _check("the ELBO", evidence.elbo, truth, exact, np.hypot(evidence.elbo_mcse, error))
    _check(name, evidence.log_px, truth, exact, np.hypot(evidence.mcse, error))
    for i in range(1, len(curve.num_samples)):
        low, high = (f"IWAE_{count}" for count in curve.num_samples[i - 1 : i + 1])
        _check(low, curve.bound[i - 1], high, curve.bound[i], np.hypot(*curve.mcse[i - 1 : i + 1]), each=False)
    sure = np.ones(len(evidence), dtype=bool)
    sure[[doubt.datum for doubt in evidence.doubts()]] = False
    if sure.any():
        slack = np.hypot(evidence.mcse, error) + np.abs(evidence.diagnostics["bias"])
        _check(truth, exact[sure], f"{name} (no doubts)", evidence.log_px[sure], slack[sure])
    return Words(
        f"ELBO {evidence.elbo.mean():.3f} <= {name} {evidence.log_px.mean():.3f} <= log P(x) {exact.mean():.3f} nats "
        f"({source}) on {len(evidence)} data, within {ERRORS:.0f} Monte Carlo standard errors; "
        f"{int(sure.sum())} of them without doubts, which reach it."
    )


def _exact(model: Program, data: Any, log_px: Any) -> Array | None:
    """Return the exact log P(x) that was given, or that the model knows."""
    if log_px is None and hasattr(model, "exact_log_px"):
        with Pair(model).running(), torch.no_grad():
            batches = as_source(data, Pair(model), ordered=True).batches(1000)
            log_px = torch.cat([model.exact_log_px(batch[0]) for batch in batches])
    return None if log_px is None else array_of("log_px", log_px)


def _check(low: str, below: Array, high: str, above: Array, error: Array, *, each: bool = True) -> None:
    """Assert that one is below the other in the mean, and for each datum, within error."""
    excess, slack = below - above, ROUNDING * (1 + np.abs(above))
    mean_error = float(np.sqrt((error**2).sum()) / len(error))
    if excess.mean() > ERRORS * mean_error + slack.mean():
        raise AssertionError(
            f"Expected {low} <= {high}; got means {below.mean():.3f} and {above.mean():.3f}, {excess.mean():.3g} nats "
            f"the wrong way, with a Monte Carlo standard error of {mean_error:.2g}. {_WHY}"
        )
    worst = int(np.argmax(excess - WORST * error - slack))
    if each and excess[worst] > WORST * error[worst] + slack[worst]:
        raise AssertionError(
            f"Expected {low} <= {high} for each datum; got {below[worst]:.3f} and {above[worst]:.3f} for "
            f"datum {worst}, with a Monte Carlo standard error of {error[worst]:.2g}. {_WHY}"
        )


_WHY = (
    "Does the guide miss a part of the posterior? Do model and guide score what they draw, inside the plate over the "
    "data? Is log_px of the same data?"
)
