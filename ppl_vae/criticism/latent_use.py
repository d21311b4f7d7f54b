"""What the latents are used for: posterior collapse seen at a glance.

    E_x KL(Q(z | x) || P(z)) = I(x; z) + KL(Q(z) || P(z)),    Q(z) = 1/N sum_n Q(z | x_n)

The left side is what the ELBO pays for its latents. What of it is information about x, I(x; z), is at most
log N for N data; the rest is how far the aggregated posterior is from the prior, which is what samples from
the prior suffer from. Source: Hoffman & Johnson, "ELBO surgery" (NIPS 2016 workshop on approximate inference).
"""

import html
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pyro
import torch
from pyro import poutine
from pyro.distributions import Delta
from torch import Tensor
from torch.distributions import kl_divergence

from ppl_vae.data.sources import Source
from ppl_vae.distributions.unwrap import _factors
from ppl_vae.errors import InputError, positive_int
from ppl_vae.evidence.prepare import prepared
from ppl_vae.traces.handlers import Given
from ppl_vae.traces.log_weights import enumerating, one_more_plate
from ppl_vae.traces.pair import Pair, Program
from ppl_vae.traces.plates import Args, Site, Structure, enumerates, log_prob_by_datum, samples, total_log_prob
from ppl_vae.utils.progress import progress_bar
from ppl_vae.utils.report import Array, number

ACTIVE = 0.01  # a unit is active if Var_x(E_Q[z_d]) is above it: Burda et al., arXiv 1509.00519
NEAR_BOUND = 0.75  # of log N: from there on the mixture of N posteriors no longer stands for Q(z)
COLLAPSED = 0.01  # nats: a site whose KL is below it says nothing about x


@dataclass(frozen=True, eq=False)
class SiteUse:
    """What one latent site is used for.

    Attributes:
        kl: E_x KL(Q(z_d | x) || P(z_d)) in nats for each dimension, [D]; or one number, [1], for the site as a
            whole where Q or P(z) does not factorize over dimensions. In a hierarchy: given the sites before.
        kl_mcse: Monte Carlo standard error of its sum.
        per_dimension: whether kl is for each dimension.
        variance: Var_x(E_Q[z_d]) for each dimension, [D], less what drawing K samples adds to it.
    """

    kl: Array
    kl_mcse: float
    per_dimension: bool
    variance: Array

    @property
    def active(self) -> int:
        """How many dimensions move with x: Var_x(E_Q[z_d]) > 0.01."""
        return int((self.variance > ACTIVE).sum())

    @property
    def collapsed(self) -> bool:
        """Whether the site says nothing about x."""
        return float(self.kl.sum()) < COLLAPSED + 2 * self.kl_mcse and self.active == 0


@dataclass(frozen=True, eq=False, repr=False)
class LatentUse:
    """What the latents of a pair are used for, on N data; in nats.

    Attributes:
        sites: for each latent site, its KL, per dimension where that can be had, and its active units.
        kl: E_x KL(Q(z | x) || P(z)) of all sites together.
        kl_mcse: its Monte Carlo standard error.
        marginal_kl: KL(Q(z) || P(z)), with Q(z) the mean of Q(z | x) over these data.
        marginal_kl_mcse: its Monte Carlo standard error.
        num_data: N.
        num_samples: K, how many z were drawn for each datum.
        seed: of the samples.
    """

    sites: dict[str, SiteUse]
    kl: float
    kl_mcse: float
    marginal_kl: float
    marginal_kl_mcse: float
    num_data: int
    num_samples: int
    seed: int

    @property
    def mutual_information(self) -> float:
        """I(x; z) = E_x KL(Q(z | x) || P(z)) - KL(Q(z) || P(z)), at most log N."""
        return self.kl - self.marginal_kl

    @property
    def bound(self) -> float:
        """Log N: N data can be told apart by log N nats, and no more information than that is ever seen."""
        return float(np.log(self.num_data))

    def verdict(self) -> str:
        """Return one line on collapse, or on how many units are active."""
        total, active = sum(len(s.variance) for s in self.sites.values()), sum(s.active for s in self.sites.values())
        collapsed = [name for name, site in self.sites.items() if site.collapsed]
        if collapsed:
            return (
                f"Posterior collapse: {', '.join(collapsed)} says nothing about x (KL below {COLLAPSED} nats, no "
                f"active unit). Weaken the decoder, or raise the weight of the KL slowly while training."
            )
        return f"{active} of {total} units are active: Var_x(E_Q[z_d]) > {ACTIVE}."

    def _headline(self) -> str:
        return f"Latents on {self.num_data} data, K = {self.num_samples} samples each, in nats"

    def _site_rows(self) -> list[tuple[str, str, str, str]]:
        return [
            (
                name,
                f"{site.kl.sum():.3f}",
                f"{site.active} of {len(site.variance)}",
                " ".join(f"{v:.2f}" for v in np.sort(site.kl)[::-1][:12]) + " ..." * (len(site.kl) > 12)
                if site.per_dimension
                else "as a whole: Q or P(z) does not factorize over dimensions",
            )
            for name, site in self.sites.items()
        ]

    def _total_rows(self) -> list[tuple[str, str, str, str]]:
        information_mcse = float(np.hypot(self.kl_mcse, self.marginal_kl_mcse))
        near = self.mutual_information > NEAR_BOUND * self.bound
        note = f"of at most log N = {self.bound:.2f}" + (": near it, so only a lower bound; take more data" * near)
        return [
            ("KL", f"{self.kl:.3f}", number(self.kl_mcse), "E_x KL(Q(z | x) || P(z)), the sum of the next two"),
            ("I(x; z)", f"{self.mutual_information:.3f}", number(information_mcse), note),
            ("KL(Q(z) || P(z))", f"{self.marginal_kl:.3f}", number(self.marginal_kl_mcse), "aggregated posterior"),
        ]

    def __str__(self) -> str:
        width = max(16, *map(len, self.sites))
        lines = [
            self._headline(),
            "",
            f"{'site':<{width}}{'KL':>10}{'active':>12}  KL of each dimension, largest first",
        ]
        lines += [f"{a:<{width}}{b:>10}{c:>12}  {d}" for a, b, c, d in self._site_rows()]
        lines += ["", f"{'all sites':<{width}}{'mean':>10}{'MCSE':>12}"]
        lines += [f"{a:<{width}}{b:>10}{c:>12}  {d}" for a, b, c, d in self._total_rows()]
        return "\n".join([*lines, "", self.verdict()])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        def table(header: tuple[str, ...], rows: list[tuple[str, str, str, str]]) -> str:
            cells = "".join("<tr>" + "".join(f"<td>{html.escape(c)}</td>" for c in row) + "</tr>" for row in rows)
            return "<table><tr>" + "".join(f"<th>{h}</th>" for h in header) + f"</tr>{cells}</table>"

        return (
            f"<p>{html.escape(self._headline())}</p>"
            + table(("site", "KL", "active", "KL of each dimension, largest first"), self._site_rows())
            + table(("all sites", "mean", "MCSE", ""), self._total_rows())
            + f"<p>{html.escape(self.verdict())}</p>"
        )


NUM_PAIRED = 2**13  # samples, of all data together, whose density under all N posteriors is found
PAIRED_DATA = 32  # data at once there: the encoder runs anew for each chunk of samples, so the fewer the better


class _Drawn(NamedTuple):
    """What one batch of n data shows, from K samples; U is the number of units of a site."""

    kl: dict[str, Array]  # site -> [n, units of its KL]
    kl_variance: dict[str, Array]  # site -> variance of the sum's mean over K samples, [n]
    per_dimension: dict[str, bool]
    mean: dict[str, Array]  # site -> mean of z, [n, U]
    mean_variance: dict[str, Array]  # site -> variance of that mean, [n, U]
    latents: dict[str, Tensor]  # site of the guide -> M of the samples, [M, n, ...], the data at dimension 1
    axes: dict[str, int]  # site of the guide -> where the data stand in a value, [K, ...]
    log_prior: Tensor  # log P(z) of the M samples, [M, n]


def latent_use(
    model: Program,
    guide: Program,
    data: Any,
    *,
    num_samples: int = 100,
    chunk_size: int | None = None,
    seed: int = 0,
    progress: bool | None = None,
) -> LatentUse:
    """Say what the latents are used for: KL per dimension, active units, mutual information.

        E_x KL(Q(z | x) || P(z)) = I(x; z) + KL(Q(z) || P(z)),    Q(z) = 1/N sum_n Q(z | x_n)

    The KL of each dimension is exact where PyTorch knows it, else a mean over the samples; in a hierarchy it is
    that of each site given the sites before it, which were drawn from the guide. KL(Q(z) || P(z)) takes up to
    8192 / N of the samples of each datum (at least 2) to all N posteriors.

    Args:
        model: P(x, z), called as `model(*batch)`.
        guide: Q(z | x), called the same way.
        data: a split of ours, a tensor [N, ...], a tuple of tensors, a PyTorch Dataset or DataLoader.
        num_samples: K, how many z are drawn for each datum; 2 or more.
        chunk_size: how many (sample, datum) pairs are evaluated at once; None chooses by their size.
        seed: of the samples; the global random state is left as it was.
        progress: show a progress bar; None shows it in a terminal and in a notebook.

    Raises:
        InputError: fewer than two data or samples, programs that choose their own subset of the data, and
            all that `estimate_evidence` refuses.

    Source: Hoffman & Johnson, ELBO surgery (2016); Burda et al., arXiv 1509.00519, for active units.

    >>> from ppl_vae.models import VAE
    >>> from ppl_vae.guides import MeanField
    >>> from ppl_vae import data
    >>> _ = torch.manual_seed(0)  # of the weights; an untrained model uses its latents by next to nothing
    >>> vae = VAE((1, 8, 8))
    >>> use = latent_use(vae, MeanField(vae), data.load("digits").test[:50], num_samples=10)
    >>> use.sites["z"].kl.shape, 0 <= use.mutual_information <= use.bound
    ((8,), True)
    """
    if positive_int("num_samples", num_samples) < 2:
        raise InputError("Expected num_samples of at least 2, so that errors can be stated; got 1. Raise it.")
    if chunk_size is not None:
        positive_int("chunk_size", chunk_size)
    with prepared(model, guide, data, proposal="guide", seed=seed) as work:
        pair, source, structure, rows = work.pair, work.source, work.structure, work.rows(chunk_size)
        if len(source) < 2:
            raise InputError("Expected at least 2 data, since the latents are held against each other; got 1.")
        if structure.subsampled:
            raise InputError(
                f"Expected programs that run on the data they are given; got a plate {structure.plate!r} that takes a "
                f"random {structure.size} of {len(source)}. Pass it the batch: pyro.plate({structure.plate!r}, len(x))."
            )
        few = len(source) if work.whole_only else max(1, rows // num_samples)
        paired = max(2, min(num_samples, NUM_PAIRED // len(source)))
        drawn = []
        with progress_bar(2 * len(source), "latents", "datum", progress) as bar:
            for batch in source.batches(few):
                args = tuple(t.to(pair.device) for t in batch)
                drawn.append(_draw(pair, args, structure, num_samples, paired))
                bar.update(len(batch[0]))
            at_once = len(source) if work.whole_only else min(len(source), PAIRED_DATA, rows)
            mixture = _log_mixture(pair, source, structure, drawn, rows=rows, at_once=at_once, bar=bar)
        ratio = (mixture - torch.cat([d.log_prior for d in drawn], 1)).double().cpu().numpy()
    sites = {name: _site_use(name, drawn) for name in drawn[0].kl}
    return LatentUse(
        sites=sites,
        kl=float(sum(site.kl.sum() for site in sites.values())),
        kl_mcse=float(np.sqrt(sum(site.kl_mcse**2 for site in sites.values()))),
        marginal_kl=float(ratio.mean()),
        marginal_kl_mcse=float(np.sqrt((ratio.var(0, ddof=1) / len(ratio)).sum()) / ratio.shape[1]),
        num_data=len(source),
        num_samples=num_samples,
        seed=seed,
    )


def _draw(pair: Pair, args: Args, structure: Structure, num_samples: int, paired: int) -> _Drawn:
    """Draw K samples for each datum of a batch, and keep what is needed of them; M = `paired`."""
    n = len(args[0])
    try:
        with pyro.plate("particles", num_samples, dim=-structure.num_plates - 1):
            guide_trace = poutine.trace(pair.guide).get_trace(*args)
            program = enumerating(pair.model, structure) if structure.enumerated else pair.model
            model_trace = poutine.trace(poutine.replay(program, trace=guide_trace)).get_trace(*args)
    except (ValueError, RuntimeError) as problem:
        raise one_more_plate(problem, "Let them take any leading batch dimensions.") from problem
    guided = samples(guide_trace)
    latent = {k: s for k, s in samples(model_trace).items() if not s["is_observed"]}
    model = {k: s for k, s in latent.items() if k in guided}
    drawn_from_prior = [k for k, s in latent.items() if k not in guided and not enumerates(s)]
    if drawn_from_prior or not model:
        without = ", ".join(drawn_from_prior or latent) or "any"
        raise InputError(
            f"Expected a guide that samples the latents; got one without {without}. "
            f"Sample them there, or mark discrete ones infer={{'enumerate': 'parallel'}} in the model."
        )
    drawn = _Drawn({}, {}, {}, {}, {}, {}, {}, torch.zeros(()))
    log_prior = log_prob_by_datum(model_trace, latent, structure, n).expand(num_samples, n)
    if structure.enumerated or any(site["infer"].get("is_auxiliary") for site in guided.values()):
        # One density for several sites: discrete ones are summed out, or an automatic guide has sites of its own.
        groups = [(", ".join(model), list(guided.values()), list(model.values()))]
    else:
        groups = [(name, [guided[name]], [site]) for name, site in model.items()]
    for name, qs, ps in groups:
        single = len(qs) == len(ps) == 1 and not structure.enumerated
        kl = _kl_per_dimension(qs[0], ps[0], structure) if single else None
        drawn.per_dimension[name] = kl is not None
        if kl is None:
            log_p = log_prior if len(groups) == 1 else total_log_prob(ps, structure, n)
            kl = (total_log_prob(qs, structure, n) - log_p).expand(num_samples, n)[..., None]
        values = torch.cat([_per_datum(p["value"], p["fn"].event_dim, structure) for p in ps], -1).double()
        drawn.kl[name] = kl.double().mean(0).cpu().numpy()
        drawn.kl_variance[name] = (kl.double().sum(-1).var(0) / num_samples).cpu().numpy()
        drawn.mean[name] = values.mean(0).cpu().numpy()
        drawn.mean_variance[name] = (values.var(0) / num_samples).cpu().numpy()
    for name, site in guided.items():
        if not isinstance(site["fn"], Delta):
            drawn.axes[name] = site["value"].dim() - site["fn"].event_dim + structure.dim
            drawn.latents[name] = site["value"][:paired].movedim(drawn.axes[name], 1)
    return drawn._replace(log_prior=log_prior[:paired])


def _log_mixture(
    pair: Pair, source: Source, structure: Structure, drawn: list[_Drawn], *, rows: int, at_once: int, bar: Any
) -> Tensor:
    """Return log Q(z) = log 1/N sum_n Q(z | x_n) of M samples for each of N data, [M, N]."""
    axes, num_data = drawn[0].axes, len(source)
    flat = {name: torch.cat([d.latents[name] for d in drawn], 1).flatten(0, 1) for name in axes}
    num_paired = len(drawn[0].log_prior)
    total = torch.full((num_paired * num_data,), -torch.inf, device=pair.device)
    for batch in source.batches(at_once):
        args = tuple(t.to(pair.device) for t in batch)
        n, parts = len(args[0]), []
        for index in torch.arange(len(total), device=pair.device).split(max(1, rows // n)):
            given = {}
            for name, z in flat.items():  # the same value for each datum
                value = z[index].unsqueeze(axes[name])
                given[name] = value.expand(*value.shape[: axes[name]], n, *value.shape[axes[name] + 1 :])
            with (
                pyro.validation_enabled(False),
                Given(given),
                pyro.plate("particles", len(index), dim=-structure.num_plates - 1),
            ):
                guided = samples(poutine.trace(pair.guide).get_trace(*args))
            parts.append(total_log_prob(list(guided.values()), structure, n).logsumexp(1))
        total = torch.logaddexp(total, torch.cat(parts))
        bar.update(n)
    return (total - np.log(num_data)).reshape(num_paired, num_data)


def _kl_per_dimension(q: Site, p: Site, structure: Structure) -> Tensor | None:
    """Return KL(Q(z_d | x) || P(z_d)) given the sites before, [K, n, D]; None if one of them does not factorize.

    Exact where PyTorch knows it, else log Q(z_d | x) - log P(z_d) of the samples.
    """
    if q["mask"] is not None or p["mask"] is not None:
        return None
    event_dim, (one, other) = q["fn"].event_dim, (_factors(site["fn"]) for site in (q, p))
    other_dims = len(other.batch_shape)  # the model's site may stand without the plate of the samples
    if one.event_shape or other.event_shape or one.batch_shape[-other_dims:] != other.batch_shape:
        return None
    shape = torch.broadcast_shapes(one.batch_shape, other.batch_shape)
    one, other = one.expand(shape), other.expand(shape)
    try:
        kl = kl_divergence(one, other)
    except NotImplementedError:
        kl = one.log_prob(q["value"]) - other.log_prob(q["value"])
    return _per_datum(kl, event_dim, structure)


def _per_datum(values: Tensor, event_dim: int, structure: Structure) -> Tensor:
    """Bring values of a site, [K, plates ..., event ...], into the shape [K, n, all the rest]."""
    values = values.movedim(values.dim() - event_dim + structure.dim, 1)
    return values.reshape(*values.shape[:2], -1)


def _site_use(name: str, drawn: list[_Drawn]) -> SiteUse:
    kl, error, mean, spread = (
        np.concatenate([part[name] for part in parts])
        for parts in zip(*((d.kl, d.kl_variance, d.mean, d.mean_variance) for d in drawn), strict=True)
    )
    return SiteUse(
        kl=kl.mean(0),
        kl_mcse=float(np.sqrt(error.sum()) / len(kl)),
        per_dimension=drawn[0].per_dimension[name],
        variance=mean.var(0, ddof=1) - spread.mean(0),
    )
