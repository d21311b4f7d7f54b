"""Imputation: what stands where values of x are missing, by the model and what is observed of the same datum.

Self-normalized importance sampling, z_k ~ Q(z | x_obs); a draw of x_mis is one of P(x_mis | z_k), with z_k chosen
among them with probability proportional to w_k. Source: Mattei & Frellsen, arXiv 1812.02633, section 3.
"""

from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from pyro import poutine
from torch import Tensor
from torch.distributions import constraints

from ppl_vae.conditional import ConditionalModel
from ppl_vae.data.unobserved import warn_of_unobserved
from ppl_vae.distributions.unwrap import elementwise, family_of, mean_of
from ppl_vae.errors import InputError, positive_int, whole_from
from ppl_vae.evidence.at_once import plated_or_copied
from ppl_vae.evidence.diagnostics import LOW_ESS, MIN_SAMPLES, doubtful_weights, estimates, khat_threshold, pareto
from ppl_vae.evidence.prepare import Chunk, Prepared, prepared
from ppl_vae.evidence.resampling import choose, pick
from ppl_vae.traces.handlers import Substitute, is_condition
from ppl_vae.traces.log_weights import checked, weigh
from ppl_vae.traces.pair import Pair, Program
from ppl_vae.traces.plates import (
    Structure,
    data_name,
    from_kn,
    latents,
    numbers_by_datum,
    samples,
    to_kn,
    value_by_datum,
)
from ppl_vae.traces.run import copies_of, fixed, one_more_plate, parted, plate_of, run_pair
from ppl_vae.traces.sites import Site
from ppl_vae.traces.sites import counted as counted_at
from ppl_vae.utils.chunks import run_sizes
from ppl_vae.utils.memory import check_memory
from ppl_vae.utils.progress import progress_bar
from ppl_vae.utils.report import Array, Report, Reported, counted, number

MOST_CODES = 1000  # values of which the most probable is found


@dataclass(frozen=True, eq=False, repr=False)
class Imputation(Reported):
    """Data whose missing values are filled in.

    Attributes:
        x: the data as they came, with NaN where values are missing, [N, *event_shape].
        mean: E[x_mis | x_obs] where x is missing, and x where it is observed, [N, *event_shape].
        mcse: the Monte Carlo standard error of the mean, 0 where x is observed, [N, *event_shape].
        draws: S draws of x_mis given x_obs, and x where it is observed, [S, N, *event_shape].
        mode: the most probable value of what is missing where x has one of few, 0 .. C - 1, else the mean; and x where
            it is observed, [N, *event_shape].
        ess: effective sample size of the weights of each datum, between 1 and K, [N].
        khat: Pareto's k of their tail, [N]; NaN for fewer than 25 samples.
        num_samples: K.
        seed: of the samples.
    """

    x: Tensor
    mean: Tensor
    mcse: Tensor
    draws: Tensor
    mode: Tensor
    ess: Array
    khat: Array
    num_samples: int
    seed: int

    def __len__(self) -> int:
        return len(self.x)

    def verdict(self) -> str:
        """Return one line on whether what was imputed can be believed, as what the model says."""
        heavy, few = doubtful_weights(self.ess, self.khat, self.num_samples)
        reasons = {
            f"k-hat above {khat_threshold(self.num_samples):.2f}": int(heavy.sum()),
            f"effective sample size below {LOW_ESS:.0f}": int(few.sum()),
        }
        reasons = {words: count for words, count in reasons.items() if count}
        if not reasons:
            return "Nothing speaks against any of the data: this is what the model says of them."
        return f"{counted(reasons, len(self))}: theirs is nearer to the guide than to the model. Raise num_samples."

    def report(self) -> Report:
        """Return what is printed: how much was imputed, with which errors, and the verdict."""
        missing = self.x.isnan()
        spread = _median(self.draws[:, missing].std(0, correction=0))
        headline = (
            f"{int(missing.sum())} of {missing.numel()} values ({float(missing.float().mean()):.1%}) of {len(self)} "
            f"data imputed, K = {self.num_samples} samples, {len(self.draws)} draws"
        )
        lines = [
            f"Monte Carlo standard error of E[x | observed]: median "
            f"{number(_median(self.mcse[missing]))}; standard deviation of the draws: median {number(spread)}",
            f"effective sample size: median {np.median(self.ess):.1f}, smallest {self.ess.min():.1f}",
        ]
        if self.num_samples >= MIN_SAMPLES:
            lines[-1] += f"; Pareto k-hat: median {np.median(self.khat):.2f}, largest {self.khat.max():.2f}"
        return Report(headline, lines=[*lines, self.verdict()])


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
    num_samples, num_draws = positive_int("num_samples", num_samples), positive_int("num_draws", num_draws)
    seed = whole_from(0, "a seed", seed)
    check_memory("draws", num_draws)
    parts = []
    with (
        prepared(model, guide, data, proposal="guide", seed=seed) as pair_and_data,
        progress_bar(len(pair_and_data.source), "impute", "datum", progress) as bar,
    ):
        warn_of_unobserved(model)
        drawn = plated_or_copied(pair_and_data, "guide")
        for chunk in drawn.chunks(max(1, drawn.rows(None) // num_samples)):
            with one_more_plate("Mend that."):
                parts.append(_impute(drawn, chunk, num_samples, num_draws))
            bar.update(chunk.num_data)
    x, mean, mcse, draws, mode, ess, khat = zip(*parts, strict=True)
    tensors = torch.cat(x), torch.cat(mean), torch.cat(mcse), torch.cat(draws, 1), torch.cat(mode)
    return Imputation(*tensors, np.concatenate(ess), np.concatenate(khat), num_samples, seed)


def _median(values: Tensor) -> float:
    return float(np.median(values.numpy())) if values.numel() else 0.0


def _impute(
    prepared: Prepared, chunk: Chunk, num_samples: int, num_draws: int
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Array, Array]:
    """Return of some data x, mean, mcse, draws, mode, ess and khat, as `Imputation` has them."""
    pair, x, n = prepared.pair, chunk.part(chunk.args[0]), chunk.num_data
    # A discrete latent that is summed out elsewhere is drawn from its prior here: E[x | z] depends on it.
    structure = replace(prepared.structure, enumerated=False)
    counts = run_sizes(num_samples, max(1, prepared.rows(None) // chunk.size))
    runs = [_weighted(pair, chunk, count, structure) for count in counts]
    log_weights = torch.cat([weights for weights, _ in runs])

    def whole(latents: dict[str, Tensor], values: Callable[[Site], Tensor], count: int) -> Tensor:
        """Return what the model says of x at these latents, [count, N, *event_shape]."""
        args, plate = chunk.args, plate_of(count, structure)
        if not structure.plated:
            args, plate = copies_of(args, count), nullcontext()
            latents = {name: value.reshape(1, -1, *value.shape[2:]) for name, value in latents.items()}
        z = {name: from_kn(value, structure) for name, value in latents.items()}
        with fixed(structure, chunk.subsample), plate:
            site = _data_site(samples(poutine.trace(Substitute(z)(pair.model)).get_trace(*args)))
        return _whole(pair, site, values(site), structure, x).expand(count, *x.shape)

    codes = Codes(log_weights, x)

    def mean_of_x(site: Site) -> Tensor:
        codes.add(site, lambda values: _whole(pair, site, values, structure, x))
        return _mean(site)

    mean, mcse = weighted_mean(log_weights, (whole(z, mean_of_x, len(weights)) for weights, z in runs))
    index = choose(log_weights, num_draws, n)
    chosen = {name: pick(torch.cat([z[name] for _, z in runs]), index) for name in runs[0][1]}
    draws = whole(chosen, lambda site: site["fn"].sample(), num_draws)
    missing, numbers = x.isnan(), log_weights[:, :n].double().cpu().numpy()
    return (
        x[:n].cpu(),
        torch.where(missing, mean, x)[:n].cpu(),
        torch.where(missing, mcse, 0.0)[:n].cpu(),
        torch.where(missing, draws, x)[:, :n].cpu(),
        torch.where(missing, codes.most_probable(mean), x)[:n].cpu(),
        estimates(numbers)["ess"],
        pareto(numbers)["khat"],
    )


def _weighted(pair: Pair, chunk: Chunk, count: int, structure: Structure) -> tuple[Tensor, dict[str, Tensor]]:
    """Draw so many z; return their log-weights [count, N], and them as `to_kn` lays them out."""
    copies = 1 if structure.plated else count
    args = copies_of(chunk.args, copies)
    with fixed(structure, chunk.subsample):
        size = count if structure.plated else None
        traces = run_pair(pair.model, pair.guide, args, num_samples=size, structure=structure)
    found = weigh(*traces, count // copies, structure, chunk.size * copies)
    weighted = checked(found if structure.plated else found.of_copies(count), count)
    if structure.masked:
        _check_said(pair, chunk, samples(traces[0]), structure)
    sites = latents(samples(traces[0]))
    laid_out = {name: to_kn(site["value"], site["fn"].event_dim, structure) for name, site in sites.items()}
    values = {name: parted(value, count, structure) for name, value in laid_out.items()}
    return weighted.log_weights, {name: z.expand(count, *z.shape[1:]) for name, z in values.items()}


def _check_said(pair: Pair, chunk: Chunk, sites: dict[str, Site], structure: Structure) -> None:
    """Refuse missing values of which a model says nothing: it masks them, and a latent of the same datum."""
    x, site = chunk.part(chunk.args[0]), _data_site(sites)
    seen = _whole(pair, site, counted_at(site).float(), structure, x)[0] > 0
    hidden = torch.zeros(len(x), dtype=torch.bool, device=x.device)
    for z in latents(sites).values():
        hidden = hidden | numbers_by_datum(~counted_at(z), z["fn"].event_dim, structure)[0, : len(x)].any(-1)
    unsaid = x.isnan() & ~seen & hidden.reshape(-1, *(1,) * (x.dim() - 1))
    if bool(unsaid[: chunk.num_data].any()):
        raise InputError(
            "Expected missing values of which the model says something; got some that it masks together with latents "
            "of the same datum: draws of the guide would fill them. Leave these data out, or do not mask their latents."
        )


def weighted_mean(log_weights: Tensor, runs: Iterable[Tensor]) -> tuple[Tensor, Tensor]:
    """Return a weighted mean and its standard error, [N, ...] each, of log-weights [K, N] and runs of f, [k, N, ...].

        m = sum_k w_k f_k / sum_k w_k,    MCSE^2 = sum_k w_k^2 (f_k - m)^2 / (sum_k w_k)^2

    Source: Owen, Monte Carlo theory, methods and examples, chapter 9.

    >>> [value.tolist() for value in weighted_mean(torch.zeros(2, 1), [torch.tensor([[1.0], [3.0]])])]
    [[2.0], [0.7071067690849304]]
    """
    shares, start = log_weights.softmax(0), 0
    center: Tensor | float = 0.0
    sums: list[Tensor | float] = [0.0, 0.0, 0.0]
    for values in runs:
        own = shares[start : start + len(values)]
        if start == 0:  # sums of differences from here do not cancel
            center = torch.einsum("kn,kn...->n...", log_weights[: len(values)].softmax(0), values)
        f = values - center
        terms = ((own, f), (own**2, f), (own**2, f**2))
        sums = [total + torch.einsum("kn,kn...->n...", *term) for total, term in zip(sums, terms, strict=True)]
        start += len(values)
    mean, second, squares = map(torch.as_tensor, sums)
    total = (shares**2).sum(0).reshape(-1, *(1,) * (mean.dim() - 1))
    variance = squares - 2 * mean * second + mean**2 * total
    return center + mean, variance.clamp(min=0.0).sqrt()


def _data_site(sites: dict[str, Site]) -> Site:
    """Return the site at which x is observed."""
    observed = {name: site for name, site in sites.items() if site["is_observed"] and not is_condition(site)}
    if not observed:
        raise InputError("Expected a model that observes x; got none. Give its data site obs=x.")
    return observed[data_name(observed)]


def _mean(site: Site) -> Tensor:
    mean = mean_of(site["fn"])
    if bool(mean.isnan().any()):
        raise InputError(
            f"Expected a distribution of {site['name']} with a mean, to impute it by; got {type(site['fn']).__name__}, "
            f"which has none. Use another likelihood."
        )
    return mean


class Codes:
    """P(x_i = c | x_obs) of each column of x that has one of few values c = 0 .. C - 1, from weighted runs of a model.

    Columns are what has a support each; of any other x nothing is computed.

    Args:
        log_weights: those of all samples, [K, N].
        x: the data, [N, *event_shape].
    """

    def __init__(self, log_weights: Tensor, x: Tensor) -> None:
        self.shares, self.start, self.x = log_weights.softmax(0), 0, x
        self.largest: Tensor | None = None
        self.sums: list[Tensor] = []

    def add(self, site: Site, whole: Callable[[Tensor], Tensor]) -> None:
        """Add the next run: its site of x, and what makes whole data [k or 1, N, *event_shape] of values there."""
        support = family_of(site["fn"]).support
        if not hasattr(support, "supports"):
            return
        if self.largest is None:
            self.largest = torch.tensor(list(map(_largest, support.supports))).to(self.x)
            self.sums = [torch.zeros_like(self.x) for _ in range(int(self.largest.max()) + 1)]
        if not bool((self.x.isnan() & (self.largest >= 0)).any()):
            return
        inside = torch.tensor(support.inside).to(self.largest)
        for code in range(len(self.sums)):
            value = torch.where(self.largest >= 0, self.largest.clamp(max=code), inside)
            p = whole(elementwise(site["fn"]).log_prob(value.expand(site["value"].shape)).exp())
            shares = self.shares[self.start : self.start + len(p)] if len(p) > 1 else self.shares.sum(0, keepdim=True)
            self.sums[code] = self.sums[code] + torch.einsum("kn,knd->nd", shares, p)
        self.start += len(p)

    def most_probable(self, mean: Tensor) -> Tensor:
        """Return the most probable value of each of these columns, and of others what is given, [N, *event_shape]."""
        if self.largest is None or not self.sums:
            return mean
        possible = [torch.where(code <= self.largest, total, -1.0) for code, total in enumerate(self.sums)]
        return torch.where(self.largest >= 0, torch.stack(possible).argmax(0).to(mean), mean)


def _largest(support: Any) -> float:
    """Return the largest value of a column that has one of few, 0 .. C - 1; -1 of others."""
    if support is constraints.boolean:
        return 1.0
    is_code = isinstance(support, constraints.integer_interval) and support.lower_bound == 0
    return float(support.upper_bound) if is_code and support.upper_bound < MOST_CODES else -1.0


def _whole(pair: Pair, site: Site, values: Tensor, structure: Structure, x: Tensor) -> Tensor:
    """Return values of the data site as whole data, [K or 1, N, *event_shape]: with what is given, if that is of x."""
    values, model = value_by_datum(site | {"value": values}, structure), pair.modules.get("model")
    values = parted(values, max(1, values.shape[1] // len(x)), structure)
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
