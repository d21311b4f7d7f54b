"""log P(x) by any of the methods, under one name."""

import functools
import inspect
from collections.abc import Callable
from dataclasses import fields
from typing import Any, NamedTuple, ParamSpec, TypeVar

from ppl_vae.errors import InputError, did_you_mean, is_one_of, positive_int, shown
from ppl_vae.evidence.ais import annealed_importance_sampling
from ppl_vae.evidence.auto import automatic
from ppl_vae.evidence.bidirectional import sandwich
from ppl_vae.evidence.conditional import conditional_sampling
from ppl_vae.evidence.edges import with_edges
from ppl_vae.evidence.evidence import Evidence
from ppl_vae.evidence.options import AnnealingOptions, AutoOptions, FilterOptions, ImportanceOptions, Options
from ppl_vae.evidence.prepare import Prepared, prepared
from ppl_vae.evidence.remedies import importance_with_remedies
from ppl_vae.evidence.smc import sequential_monte_carlo
from ppl_vae.traces.pair import Pair, Program
from ppl_vae.utils.threads import Threads

P = ParamSpec("P")
R = TypeVar("R")


class Method(NamedTuple):
    """How log P(x) is estimated: by what, and with which options."""

    estimate: Callable[[Prepared, Any, Threads], Evidence]
    options: type[Options]


METHODS = {
    "auto": Method(automatic, AutoOptions),
    "importance": Method(importance_with_remedies, ImportanceOptions),
    "ais": Method(annealed_importance_sampling, AnnealingOptions),
    "sandwich": Method(sandwich, AnnealingOptions),
    "smc": Method(sequential_monte_carlo, FilterOptions),
}


def options_of(method: str) -> list[str]:
    """Return the names of the options that a method has.

    >>> sorted(set(options_of("ais")) - set(options_of("importance")))
    ['num_chains', 'num_leapfrog', 'num_temperatures']
    """
    return [field.name for field in fields(METHODS[method].options)]


def _refusing_others(check: Callable[[Any], str]) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Refuse, in words, methods that `check` does, and options that the method does not have; signatures stay."""

    def refuse(function: Callable[P, R]) -> Callable[P, R]:
        every = {name for method in METHODS for name in options_of(method)}
        aside = inspect.signature(function).parameters.keys() - every  # what is no option of a method

        @functools.wraps(function)
        def refusing(*args: P.args, **options: P.kwargs) -> R:
            method = check(options.get("method", inspect.signature(function).parameters["method"].default))
            known = options_of(method)
            for name in (name for name in options if name not in {*known, *aside}):
                others = [repr(other) for other in METHODS if name in options_of(other)]
                where = f"it belongs to method={' or '.join(others)}" if others else did_you_mean(name, known)
                raise InputError(f"method={method!r} has no option {name}: {where}.")
            return function(*args, **options)

        return refusing

    return refuse


def _known(method: Any) -> str:
    if not is_one_of(method, METHODS):
        raise InputError(f"Unknown method {shown(method)}: {did_you_mean(method, METHODS)}.")
    return str(method)


def _keeps_draws(method: Any) -> str:
    if not is_one_of(method, ["importance"]):
        raise InputError(
            f"Expected method='importance' for draws from the posterior; got {shown(method)}, which keeps none. Leave "
            f"it out, or use estimate_evidence(..., method={shown(method)}).to_arviz(), which is without draws."
        )
    return "importance"


@_refusing_others(_known)
def estimate_evidence(
    model: Program,
    guide: Program | None,
    data: Any,
    *,
    method: str = "auto",
    given: Any = None,
    num_samples: int = 1000,
    proposal: str = "guide",
    joint: bool = False,
    tolerance: float | None = None,
    max_samples: int | None = None,
    budget: float | str | None = None,
    num_draws: int = 0,
    vectorize: bool | str = "auto",
    num_temperatures: int = 1000,
    num_chains: int = 16,
    num_leapfrog: int = 10,
    num_filters: int = 8,
    chunk_size: int | None = None,
    compile: bool | str = "auto",
    threads: int | str = "auto",
    seed: int = 0,
    progress: bool | None = None,
) -> Evidence:
    """Estimate log P(x) of each datum, hold it against the ELBO, and say how far to believe it.

        log P(x) ~ log (1/K) sum_k w_k,    w_k = P(x, z_k) / Q(z_k | x),    z_k ~ Q(z | x)

    Works for any Pyro pair whose sites stand inside a plate over the data: modules, or plain functions. Latents
    that are discrete, marked `infer={"enumerate": "parallel"}` and left out by the guide are summed out exactly.
    Of a conditional model, whose site y is observed and marked `infer={"is_condition": True}`, it is log P(x | y).

    Args:
        model: P(x, z), called as `model(*batch)`.
        guide: Q(z | x), called the same way; may be None with `proposal="prior"`.
        data: as in `fit`, in a fixed order: a split of ours, a tensor [N, ...], an array, a Dataset, a DataLoader, ...
        method: "auto", "importance", "ais", "sandwich" or "smc". "auto" gives each datum as much work as it needs:
            samples of the guide, then of a mixture fitted to it (Laplace's approximation at each mode), then more, then
            annealing from there; and asks, of data simulated from the model, whether a part of the posterior is missed.
            Series whose latent is a chain have "smc" at once.
            "importance" is importance sampling alone. "ais" is annealed importance sampling: slower, right also where
            the guide is far from the posterior; continuous or enumerable latents. "sandwich" is "ais", and on data
            simulated from the model bounds from both sides, which say how wrong it may be. "smc" is for series:
            particle filters of programs with sites in order of time (z_1, x_1, z_2, x_2, ...), or whose latent is a
            chain.
        given: Which numbers of x are given, for log P(x_A | x_B), a mask or the name of its .npy file; true where a
            number is given, of the shape of a datum or of all data. By "importance" only; see `given_mask`.
        num_samples: K, draws of z for each datum; of "smc" the particles of a filter.
        proposal: "guide", "laplace", "refined" or "prior". "laplace" is a mixture of Student-t distributions fitted to
            each datum, with the guide in it; "refined" the guide with its parameters optimized for each datum, with a
            tenth of it as it was; "prior" with "importance" the naive estimate log (1/K) sum_k P(x | z_k) with
            z_k ~ P(z). "auto" starts there. The ELBO is that of what the samples are drawn from.
        joint: Of a conditional model, log P(x, y) instead of log P(x | y).
        tolerance: Go on where needed until log P(x) is known to so many nats. Only of "auto" and "importance": for each
            datum that needs it, until its standard error and its bias are below, judged by other samples than those
            that answer.
        max_samples: How far a tolerance may raise K; None is 64 K. Only of "auto" and "importance".
        budget: How long "auto" may go on with data in doubt, in seconds or as "10min"; None is without end. What it
            starts is finished; data that it does not come to have a pilot of 128 samples, and are in doubt.
        num_draws: Keep so many draws from each posterior, for `to_arviz`. Only of "auto", which then is "importance",
            and of "importance".
        vectorize: Draw many samples in one run, inside one more plate, true, false, or auto. Only of "auto" and
            "importance"; "auto" finds out whether the programs can, and otherwise draws copies of the data, or one by
            one.
        num_temperatures: T, steps of annealing. Distributions on the way from the proposal to the posterior; only of
            "ais" and "sandwich".
        num_chains: Chains of annealing for each datum. Only of "ais" and "sandwich".
        num_leapfrog: Leapfrog steps of an HMC transition. Only of "ais" and "sandwich".
        num_filters: Independent particle filters of each datum, whose spread is the error. Only of "smc".
        chunk_size: How many (sample, datum) pairs are evaluated at once; None chooses by their size.
        compile: Run a compiled graph of the programs instead of Pyro, true, false, or auto. "auto" does where the work
            is long enough to pay for compiling, which takes about half a minute.
        threads: how many threads, a number, or auto, which tries one and all. They change results by rounding
            only; the trial is short, and made again where the work becomes slow.
        seed: Of the samples. The global random state is left as it was.
        progress: Show a progress bar; None shows it in a terminal and in a notebook.

    Returns:
        `Evidence`: log_px, elbo, mcse, ess and more per datum, [N], in nats; print it for the means and the verdict.

    Raises:
        InputError: data the likelihood does not take, sites that differ, sites outside the plate over
            the data, options that the method does not have or that are out of range, or a tolerance out of reach.

    Source: Burda et al., arXiv 1509.00519; Doersch, arXiv 1606.05908, equations 1 and 5; Neal, Annealed Importance
    Sampling, Statistics and Computing 11 (2001); Wu et al., arXiv 1611.04273; Grosse et al., arXiv 1511.02543; of
    filters, Del Moral, Doucet & Jasra, Bernoulli 18 (2012).

    >>> import torch
    >>> from ppl_vae.models import LinearGaussian
    >>> from ppl_vae.guides import LinearGaussian as Posterior
    >>> model = LinearGaussian((20,), latent_dim=4)
    >>> x = model(size=64).detach()
    >>> evidence = estimate_evidence(model, Posterior(model), x, num_samples=10)
    >>> bool(abs(evidence.log_px - model.exact_log_px(x).detach().numpy()).max() < 1e-4)
    True
    """
    asked = locals()
    if given is not None and method not in ("auto", "importance"):
        raise InputError(f"Expected method='importance' with given; got {method!r}. Leave method out.")
    if given is not None and budget is not None:
        raise InputError(f"Expected no budget with given, which takes num_samples; got {budget!r}. Leave it out.")
    wanted = METHODS[method]
    options = wanted.options(**{name: asked[name] for name in options_of(method)})
    first = options.of_importance(guide is not None).proposal
    if method != "importance" or first in ("laplace", "refined"):
        Pair(model, guide).check_has_gradients()
    if first == "laplace":
        first = "prior" if guide is None else "guide"
    preparing = prepared(model, guide, data, proposal=first, seed=seed, joint=joint)
    with Threads(threads) as chosen, preparing as pair_and_data:
        if given is not None:
            found = conditional_sampling(pair_and_data, options.of_importance(guide is not None), chosen, given)
        else:
            found = wanted.estimate(pair_and_data, options, chosen)
        return with_edges(found, pair_and_data, options, chosen)


@_refusing_others(_keeps_draws)
def to_arviz(
    model: Program,
    guide: Program | None,
    data: Any,
    *,
    method: str = "importance",
    num_samples: int = 1000,
    num_draws: int = 100,
    proposal: str = "guide",
    joint: bool = False,
    tolerance: float | None = None,
    max_samples: int | None = None,
    vectorize: bool | str = "auto",
    chunk_size: int | None = None,
    compile: bool | str = "auto",
    threads: int | str = "auto",
    seed: int = 0,
    progress: bool | None = None,
) -> Any:
    """Draw from the posterior of each datum by importance resampling, and return ArviZ's container.

        z_s = z_k with probability w_k / sum_j w_j,    w_k = P(x, z_k) / Q(z_k | x),    z_k ~ Q(z | x),  k = 1 .. K

    The same as `estimate_evidence(model, guide, data, num_samples=K, num_draws=S).to_arviz()`. A draw may come more
    than once, which ArviZ's own error of a mean does not know of: `evidence.ess` says how many count.

    Args:
        model: P(x, z), called as `model(*batch)`.
        guide: Q(z | x), called the same way; may be None with `proposal="prior"`.
        data: as for `estimate_evidence`.
        method: importance, as the others keep no draws.
        num_samples: K, how many z are drawn from the guide for each datum.
        num_draws: S, how many of them are drawn again, with replacement, as the posterior's.
        proposal, joint, tolerance, max_samples, vectorize, chunk_size, compile, threads, seed, progress: of
            `estimate_evidence`.

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
    given = locals()
    given["num_draws"] = positive_int("num_draws", num_draws)
    return estimate_evidence(**given).to_arviz()
