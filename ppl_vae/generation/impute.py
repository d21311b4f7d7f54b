"""Imputation: what stands where values of x are missing, by the model and what is observed of the same datum.

    E[x_mis | x_obs] ~ sum_k w_k E[x_mis | z_k] / sum_k w_k,    w_k = P(x_obs, z_k) / Q(z_k | x_obs),

z_k ~ Q(z | x_obs): self-normalized importance sampling. A draw of x_mis is one of P(x_mis | z_k), with z_k chosen
among them with probability proportional to w_k. Source: Mattei & Frellsen, arXiv 1812.02633, section 3.
"""

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from pyro import poutine
from torch import Tensor
from tqdm.auto import tqdm

from ppl_vae.conditional import ConditionalModel
from ppl_vae.errors import InputError, positive_int
from ppl_vae.evidence.diagnostics import MIN_SAMPLES, Array, estimates, khat_threshold, pareto
from ppl_vae.evidence.prepare import Chunk, Work, prepared
from ppl_vae.evidence.resampling import choose, pick
from ppl_vae.traces.handlers import Substitute, is_condition
from ppl_vae.traces.log_weights import checked, weigh
from ppl_vae.traces.pair import Pair, Program
from ppl_vae.traces.plates import Site, Structure, data_name, from_kn, samples, to_kn, value_by_datum
from ppl_vae.traces.run import fixed, plate_of, run_pair
from ppl_vae.utils.progress import hidden
from ppl_vae.utils.report import counted, number

LOW_ESS = 10.0


@dataclass(frozen=True, eq=False, repr=False)
class Imputation:
    """Data whose missing values are filled in.

    Attributes:
        x: the data as they came, with NaN where values are missing, [N, *event_shape].
        mean: E[x_mis | x_obs] where x is missing, and x where it is observed, [N, *event_shape].
        mcse: the Monte Carlo standard error of the mean, 0 where x is observed, [N, *event_shape].
        draws: S draws of x_mis given x_obs, and x where it is observed, [S, N, *event_shape].
        ess: effective sample size of the weights of each datum, between 1 and K, [N].
        khat: Pareto's k of their tail, [N]; NaN for fewer than 25 samples.
        num_samples: K.
        seed: of the samples.
    """

    x: Tensor
    mean: Tensor
    mcse: Tensor
    draws: Tensor
    ess: Array
    khat: Array
    num_samples: int
    seed: int

    def __len__(self) -> int:
        return len(self.x)

    def verdict(self) -> str:
        """Return one line on whether what was imputed can be believed, as what the model says."""
        limit = khat_threshold(self.num_samples)
        reasons = {
            f"k-hat above {limit:.2f}": int((self.khat > limit).sum()),
            f"effective sample size below {LOW_ESS:.0f}": int((self.ess < LOW_ESS - 1e-3).sum()),
        }
        reasons = {words: count for words, count in reasons.items() if count}
        if not reasons:
            return "Nothing speaks against any of the data: this is what the model says of them."
        return f"{counted(reasons, len(self))}: theirs is nearer to the guide than to the model. Raise num_samples."

    def __str__(self) -> str:
        missing = self.x.isnan()
        spread = _median(self.draws[:, missing].std(0, correction=0))
        lines = [
            f"{int(missing.sum())} of {missing.numel()} values ({float(missing.float().mean()):.1%}) of {len(self)} "
            f"data imputed, K = {self.num_samples} samples, {len(self.draws)} draws",
            f"Monte Carlo standard error of E[x | observed]: median "
            f"{number(_median(self.mcse[missing]))}; standard deviation of the draws: median {number(spread)}",
            f"effective sample size: median {np.median(self.ess):.1f}, smallest {self.ess.min():.1f}",
        ]
        if self.num_samples >= MIN_SAMPLES:
            lines[-1] += f"; Pareto k-hat: median {np.median(self.khat):.2f}, largest {self.khat.max():.2f}"
        return "\n".join([*lines, self.verdict()])

    __repr__ = __str__


def impute(
    model: Program,
    guide: Program,
    data: Any,
    *,
    num_samples: int = 1000,
    num_draws: int = 10,
    seed: int = 0,
    progress: bool | None = None,
) -> Imputation:
    """Fill in the missing values of x: their mean given what is observed, and draws.

        E[x_mis | x_obs] ~ sum_k w_k E[x_mis | z_k] / sum_k w_k,    w_k = P(x_obs, z_k) / Q(z_k | x_obs)

    Args:
        model: P(x, z), any program that observes x, its first argument, at a site "x" (or its only observed one) with
            a mean.
        guide: Q(z | x), which is given the same.
        data: with NaN where values are missing: a tensor [N, *event_shape], a tuple (x, y), a split, ...
        num_samples: K, how many z are drawn for each datum.
        num_draws: S, how many x to draw for each datum.
        seed: of the samples; the global random state is left as it was.
        progress: show a progress bar; None shows it in a terminal and in a notebook.

    Returns:
        `Imputation`: .mean, .mcse, .draws, and .ess and .khat, which say how far the weights can be trusted.

    Raises:
        InputError: as `estimate_evidence`; a distribution of x without a mean; a datum of which no z has a weight.

    Source: Mattei & Frellsen, arXiv 1812.02633, section 3.

    >>> from ppl_vae.models import LinearGaussian
    >>> from ppl_vae.guides import LinearGaussian as Posterior
    >>> model = LinearGaussian((20,), latent_dim=4)
    >>> x = model(size=5).detach()
    >>> x[:, :3] = torch.nan
    >>> imputed = impute(model, Posterior(model), x)
    >>> imputed.mean.shape, imputed.draws.shape, bool(imputed.mean.isnan().any())
    (torch.Size([5, 20]), torch.Size([10, 5, 20]), False)
    """
    positive_int("num_samples", num_samples)
    positive_int("num_draws", num_draws)
    parts = []
    with prepared(model, guide, data, proposal="guide", seed=seed) as work:
        rows = work.rows(None)
        at_once = max(1, rows // num_samples)
        with tqdm(total=len(work.source), desc="impute", unit="datum", leave=False, disable=hidden(progress)) as bar:
            for chunk in work.chunks(at_once):
                parts.append(_impute(work, chunk, num_samples, max(1, rows // chunk.size), num_draws))
                bar.update(chunk.num_data)
    x, mean, mcse, draws, ess, khat = zip(*parts, strict=True)
    return Imputation(
        torch.cat(x),
        torch.cat(mean),
        torch.cat(mcse),
        torch.cat(draws, 1),
        np.concatenate(ess),
        np.concatenate(khat),
        num_samples,
        seed,
    )


def _median(values: Tensor) -> float:
    return float(np.median(values.numpy())) if values.numel() else 0.0


class _Part(NamedTuple):
    x: Tensor
    mean: Tensor
    mcse: Tensor
    draws: Tensor
    ess: Array
    khat: Array


def _impute(work: Work, chunk: Chunk, num_samples: int, at_once: int, num_draws: int) -> _Part:
    """Impute some data, by so many samples of each at once."""
    # A discrete latent that is summed out elsewhere is drawn from its prior here: E[x | z] depends on it.
    pair, structure = work.pair, replace(work.structure, enumerated=False)
    x = chunk.args[0] if chunk.subsample is None else chunk.args[0][chunk.subsample.to(chunk.args[0].device)]
    average, log_weights = WeightedMean(), []
    latents: dict[str, list[Tensor]] = {}
    for start in range(0, num_samples, at_once):
        count = min(at_once, num_samples - start)
        with fixed(structure, chunk.subsample):
            traces = run_pair(pair.model, pair.guide, chunk.args, num_samples=count, structure=structure)
        log_weights.append(checked(weigh(*traces, count, structure, chunk.size), count).log_weights)
        sites = samples(traces[0])
        site = _data_site(sites, x)
        average.add(log_weights[-1], _whole(pair, site, _mean(site), structure, x))
        for name, latent in sites.items():
            if not latent["is_observed"]:
                value = to_kn(latent["value"], latent["fn"].event_dim, structure)
                latents.setdefault(name, []).append(value.expand(count, *value.shape[1:]))
    weights = torch.cat(log_weights)
    index = choose(weights, num_draws, chunk.num_data)
    chosen = {}
    for name, values in latents.items():
        picked = pick(torch.cat(values), index)
        chosen[name] = from_kn(picked, sites[name]["fn"].event_dim, structure)
    with fixed(structure, chunk.subsample), plate_of(num_draws, structure):
        site = _data_site(samples(poutine.trace(Substitute(chosen)(pair.model)).get_trace(*chunk.args)), x)
    draws = _whole(pair, site, site["fn"].sample(), structure, x)
    mean, mcse = average.result()
    numbers = weights[:, : chunk.num_data].double().cpu().numpy()
    missing, n = x.isnan(), chunk.num_data
    return _Part(
        x[:n].cpu(),
        torch.where(missing, mean, x)[:n].cpu(),
        torch.where(missing, mcse, 0.0)[:n].cpu(),
        torch.where(missing, draws, x)[:, :n].cpu(),
        estimates(numbers)["ess"],
        pareto(numbers)["khat"],
    )


class WeightedMean:
    """A self-normalized weighted mean with its standard error, summed up run by run.

        m = sum_k w_k f_k / sum_k w_k,    MCSE^2 = sum_k w_k^2 (f_k - m)^2 / (sum_k w_k)^2

    Source: Owen, Monte Carlo theory, methods and examples, chapter 9.

    >>> mean = WeightedMean()
    >>> mean.add(torch.zeros(2, 1), torch.tensor([[1.0], [3.0]]))
    >>> [value.tolist() for value in mean.result()]
    [[2.0], [0.7071067690849304]]
    """

    def __init__(self) -> None:
        self.runs: list[tuple[Tensor, ...]] = []

    def add(self, log_weights: Tensor, values: Tensor) -> None:
        """Add K values [K, N, ...], or one for all, [1, N, ...], with log-weights [K, N]."""
        peak = log_weights.amax(0)
        weights = (log_weights - peak).exp()
        values = values.expand(len(weights), *values.shape[1:])
        if not self.runs:  # sums of differences from here do not cancel
            self.center = torch.einsum("kn,kn...->n...", weights / weights.sum(0), values)
        values = values - self.center
        squares = torch.einsum("kn,kn...->n...", weights**2, values**2)
        first, second = (torch.einsum("kn,kn...->n...", w, values) for w in (weights, weights**2))
        self.runs.append((peak, weights.sum(0), first, (weights**2).sum(0), second, squares))

    def result(self) -> tuple[Tensor, Tensor]:
        """Return the mean and its standard error, [N, ...] each."""
        peak, *sums = (torch.stack(column) for column in zip(*self.runs, strict=True))
        scale = (peak - peak.amax(0)).exp()  # [runs, N]
        powers = (1, 1, 2, 2, 2)
        total, first, total2, second2, squares2 = (
            torch.einsum("rn,rn...->n...", scale**power, value) for power, value in zip(powers, sums, strict=True)
        )
        total, total2 = (t.reshape(-1, *(1,) * (first.dim() - 1)) for t in (total, total2))
        m = first / total
        variance = (squares2 - 2 * m * second2 + m**2 * total2) / total**2
        return self.center + m, variance.clamp(min=0.0).sqrt()


def _data_site(sites: dict[str, Site], x: Tensor) -> Site:
    """Return the site at which x is observed."""
    observed = {name: site for name, site in sites.items() if site["is_observed"] and not is_condition(site)}
    if not observed:
        raise InputError("Expected a model that observes x; got none. Give its data site obs=x.")
    return observed[data_name(observed)]


def _mean(site: Site) -> Tensor:
    try:
        mean: Tensor = site["fn"].mean
    except NotImplementedError:
        mean = torch.tensor(torch.nan)
    if bool(mean.isnan().any()):
        raise InputError(
            f"Expected a distribution of {site['name']} with a mean, to impute it by; got {type(site['fn']).__name__}, "
            f"which has none. Use another likelihood."
        )
    return mean


def _whole(pair: Pair, site: Site, values: Tensor, structure: Structure, x: Tensor) -> Tensor:
    """Return values of the data site as whole data, [K or 1, N, *event_shape]: with what is given, if that is of x."""
    values, model = value_by_datum(site | {"value": values}, structure), pair.modules.get("model")
    if isinstance(model, ConditionalModel) and model.y_from_x:
        _, given = model.condition.split(x, None)
        assert given is not None
        values = model.condition.join(values, given)
    if values.shape[1:].numel() != x.numel():
        raise InputError(
            f"Expected a site {site['name']!r} that holds x, {tuple(x.shape[1:])}; got {tuple(values.shape[2:])}. Call "
            f"the site that observes all of x 'x'."
        )
    return values.reshape(-1, *x.shape)
