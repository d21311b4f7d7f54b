"""log P(x) by any of the methods, under one name."""

import inspect
from collections.abc import Callable
from typing import Any

from ppl_vae.errors import InputError, did_you_mean, positive_int
from ppl_vae.evidence.ais import annealed_importance_sampling
from ppl_vae.evidence.bidirectional import sandwich
from ppl_vae.evidence.evidence import Evidence
from ppl_vae.evidence.importance import importance_sampling
from ppl_vae.evidence.to_arviz import container
from ppl_vae.traces.pair import Program

METHODS: dict[str, Callable[..., Evidence]] = {
    "importance": importance_sampling,
    "ais": annealed_importance_sampling,
    "sandwich": sandwich,
}


def estimate_evidence(
    model: Program, guide: Program | None, data: Any, *, method: str = "importance", **options: Any
) -> Evidence:
    """Estimate log P(x) of each datum, hold it against the ELBO, and say how far to believe it.

        log P(x) ~ log (1/K) sum_k w_k,    w_k = P(x, z_k) / Q(z_k | x),    z_k ~ Q(z | x)

    Works for any Pyro pair whose sites stand inside a plate over the data: modules, or plain functions. Latents
    that are discrete, marked `infer={"enumerate": "parallel"}` and left out by the guide are summed out exactly.
    Of a conditional model, whose site y is observed and marked `infer={"is_condition": True}`, it is log P(x | y).

    Args:
        model: P(x, z), called as `model(*batch)`.
        guide: Q(z | x), called the same way; may be None with `proposal="prior"`.
        data: a split of ours, a tensor [N, ...], a tuple of tensors, a PyTorch Dataset or DataLoader.
        method: "importance" (importance sampling), "ais" (annealed importance sampling: slower, and right also
            where the guide is far from the posterior; continuous or enumerable latents), or "sandwich" ("ais", and
            on data simulated from the model bounds from both sides, which say how wrong it may be).
        options: of all methods:
            num_samples: K, how many z are drawn for each datum (1000). proposal: "guide", "prior" (with
            "importance" the naive estimate log (1/K) sum_k P(x | z_k) with z_k ~ P(z)), or "refined" (the guide's
            parameters optimized for each datum). joint: of a conditional model log P(x, y) (False). chunk_size: how
            many (sample, datum) pairs are evaluated at once; None chooses by their size. seed: of the samples (0);
            the global random state is left as it was. compile: run a compiled graph of the programs instead of Pyro
            (True; False never; "auto": where the work is long enough to pay for compiling, which takes about half
            a minute). threads: how many, or "auto": one, or all that the process has, whichever a short trial finds
            faster, and again where the work becomes slow; they change results by rounding only. progress:
            show a progress bar; None shows it in a terminal and in a notebook.
            Of "importance":
            tolerance: double K, for each datum that needs it, until the standard error and the bias of log P(x)
            are below so many nats, judged by other samples than those that answer; max_samples: how far
            (64 num_samples). num_draws: keep so many draws from each posterior, for `to_arviz` (0). vectorize:
            draw many samples in one run, inside one more plate (True); False for programs that cannot.
            Of "ais" and "sandwich":
            num_temperatures: T, distributions on the way from the proposal to the posterior (1000). num_chains:
            annealed side by side for each datum (16). num_leapfrog: steps of each HMC transition (10).

    Returns:
        `Evidence`: log_px, elbo, mcse, ess and more per datum, [N], in nats; print it for the means and the verdict.

    Raises:
        InputError: data the likelihood does not take, sites that differ, sites outside the plate over
            the data, options that the method does not have or that are out of range, or a tolerance out of reach.

    Source: Burda et al., arXiv 1509.00519; Doersch, arXiv 1606.05908, equations 1 and 5; Neal, Annealed Importance
    Sampling, Statistics and Computing 11 (2001); Wu et al., arXiv 1611.04273; Grosse et al., arXiv 1511.02543.

    >>> import torch
    >>> from ppl_vae.models import LinearGaussian
    >>> from ppl_vae.guides import LinearGaussian as Posterior
    >>> model = LinearGaussian((20,), latent_dim=4)
    >>> x = model(size=64).detach()
    >>> evidence = estimate_evidence(model, Posterior(model), x, num_samples=10)
    >>> bool(abs(evidence.log_px - model.exact_log_px(x).detach().numpy()).max() < 1e-4)
    True
    """
    if method not in METHODS:
        raise InputError(f"Unknown method {method!r}: {did_you_mean(str(method), METHODS)}.")
    known = list(inspect.signature(METHODS[method]).parameters)[3:]
    for name in options:
        if name not in known:
            others = [repr(m) for m, function in METHODS.items() if name in inspect.signature(function).parameters]
            where = f"it belongs to method={' or '.join(others)}" if others else did_you_mean(name, known)
            raise InputError(f"method={method!r} has no option {name}: {where}.")
    return METHODS[method](model, guide, data, **options)


def to_arviz(
    model: Program,
    guide: Program | None,
    data: Any,
    *,
    num_samples: int = 1000,
    num_draws: int = 100,
    **options: Any,
) -> Any:
    """Draw from the posterior of each datum by importance resampling, and return ArviZ's container.

        z_s = z_k with probability w_k / sum_j w_j,    w_k = P(x, z_k) / Q(z_k | x),    z_k ~ Q(z | x),  k = 1 .. K

    The same as `estimate_evidence(model, guide, data, num_samples=K, num_draws=S).to_arviz()`. A draw may come more
    than once, which ArviZ's own error of a mean does not know of: `evidence.ess` says how many count.

    Args:
        model: P(x, z), called as `model(*batch)`.
        guide: Q(z | x), called the same way; may be None with `proposal="prior"`.
        data: as for `estimate_evidence`.
        num_samples: K, how many z are drawn from the guide for each datum.
        num_draws: S, how many of them are drawn again, with replacement, as the posterior's.
        options: of `estimate_evidence(method="importance")`: proposal, seed, chunk_size, tolerance and others.

    Returns:
        An `arviz.InferenceData` (up to 0.23) or `xarray.DataTree` (from 1.0), with the groups of `Evidence.to_arviz`.

    Raises:
        InputError: as `estimate_evidence`, or a method other than importance sampling.

    Source: Rubin, Using the SIR algorithm to simulate posterior distributions, Bayesian Statistics 3 (1988).

    >>> import torch
    >>> from ppl_vae.models import LinearGaussian
    >>> from ppl_vae.guides import LinearGaussian as Posterior
    >>> model = LinearGaussian((20,), latent_dim=4)
    >>> container = to_arviz(model, Posterior(model), torch.randn(5, 20), num_samples=50, num_draws=10)
    >>> dict(container["posterior"]["z"].sizes)
    {'chain': 1, 'draw': 10, 'datum': 5, 'z_dim_0': 4}
    """
    method = options.pop("method", "importance")
    if method != "importance":
        raise InputError(
            f"Expected method='importance' for draws from the posterior; got {method!r}, which keeps none. Leave it "
            f"out, or use estimate_evidence(..., method={method!r}).to_arviz(), which is without draws."
        )
    positive_int("num_draws", num_draws)
    return container(estimate_evidence(model, guide, data, num_samples=num_samples, num_draws=num_draws, **options))
