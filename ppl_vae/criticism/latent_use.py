"""What the latents are used for: posterior collapse seen at a glance.

E_x KL(Q(z | x) || P(z)) is what the ELBO pays for its latents. What of it is information about x, I(x; z), is at most
log N for N data; the rest is how far the aggregated posterior is from the prior.
"""

import html
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pyro
import torch
from pyro import poutine
from torch import Tensor

from ppl_vae.errors import InputError, positive_int, whole_from
from ppl_vae.evidence.at_once import plated_or_copied
from ppl_vae.evidence.prepare import Prepared, prepared
from ppl_vae.traces.anywhere import check_random_at_sites
from ppl_vae.traces.divergence import in_order, kl_by_dimension
from ppl_vae.traces.handlers import Substitute
from ppl_vae.traces.log_weights import scored_trace
from ppl_vae.traces.pair import Pair, Program
from ppl_vae.traces.plates import (
    Args,
    Structure,
    few,
    from_kn,
    log_prob_by_datum,
    numbers_by_datum,
    samples,
    to_kn,
    total_log_prob,
)
from ppl_vae.traces.run import copies_of, one_more_plate, parted, plate_of, run_pair
from ppl_vae.traces.sites import Kind, Site, counted, is_point, of_kind, without_masks
from ppl_vae.utils.progress import progress_bar
from ppl_vae.utils.report import Array, number

ACTIVE = 0.01  # a unit is active if Var_x(E_Q[z_d]) is above it: Burda et al., arXiv 1509.00519
NEAR_BOUND = 0.75  # of log N: from there on the mixture of N posteriors no longer stands for Q(z)
COLLAPSED = 0.01  # nats: a site whose KL is below it says nothing about x
NUM_PAIRED = 2**13  # samples, of all data together, whose density under all N posteriors is found
NEEDED = "for I(x; z)", "explain_gap and estimate_evidence need none."
PAIRED_DATA = 32  # data at once there: the encoder runs anew for each chunk of samples, so the fewer the better


@dataclass(frozen=True, eq=False)
class SiteUse:
    """What one latent site is used for; in a hierarchy, given the sites before."""

    kl: Array  # E_x KL(Q(z_d | x) || P(z_d)) in nats for each dimension, [D], or as a whole, [1]
    kl_mcse: float  # Monte Carlo standard error of its sum
    per_dimension: bool  # whether kl is for each dimension: Q and P(z) factorize over dimensions
    variance: Array  # Var_x(E_Q[z_d]) for each dimension, [D], less what drawing K samples adds to it

    @property
    def active(self) -> int:
        """How many dimensions move with x: Var_x(E_Q[z_d]) > 0.01."""
        return int((self.variance > ACTIVE).sum())

    @property
    def collapsed(self) -> bool:
        """Whether the site says nothing about x."""
        return float(self.kl.sum()) < COLLAPSED + 2 * self.kl_mcse and self.active == 0

    def in_words(self) -> str:
        """Return the KL of the first twelve dimensions, the largest first."""
        if not self.per_dimension:
            return "as a whole: Q or P(z) does not factorize over dimensions"
        return " ".join(f"{v:.2f}" for v in np.sort(self.kl)[::-1][:12]) + " ..." * (len(self.kl) > 12)


@dataclass(frozen=True, eq=False, repr=False)
class LatentUse:
    """What the latents of a pair are used for, on N data; in nats.

    Attributes:
        sites: for each latent site, its KL, per dimension where that can be had, and its active units.
        kl, kl_mcse: E_x KL(Q(z | x) || P(z)) of all sites together, and its Monte Carlo standard error.
        marginal_kl, marginal_kl_mcse: KL(Q(z) || P(z)), with Q(z) the mean of Q(z | x) over these data; NaN where
            masks leave out latents of some data, as there is no such mean then.
        num_data, num_samples, seed: N, K samples for each datum, and their seed.
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
        collapsed = [name for name, site in self.sites.items() if site.collapsed]
        if collapsed:
            return (
                f"Posterior collapse: {', '.join(collapsed)} says nothing about x (KL below {COLLAPSED} nats, no "
                f"active unit). Weaken the decoder, or raise the weight of the KL slowly while training."
            )
        total, active = sum(len(s.variance) for s in self.sites.values()), sum(s.active for s in self.sites.values())
        return f"{active} of {total} units are active: Var_x(E_Q[z_d]) > {ACTIVE}."

    def _headline(self) -> str:
        return f"Latents on {self.num_data} data, K = {self.num_samples} samples each, in nats"

    def _tables(self) -> list[list[tuple[str, str, str, str]]]:
        """Return the table of the sites, and that of all of them together, each with its header first."""
        information, near = self.mutual_information, self.mutual_information > NEAR_BOUND * self.bound
        information_mcse = float(np.hypot(self.kl_mcse, self.marginal_kl_mcse))
        note = f"of at most log N = {self.bound:.2f}" + (": near it, so only a lower bound; take more data" * near)
        aggregated = "aggregated posterior"
        if np.isnan(self.marginal_kl):
            note = aggregated = "not known: masks leave out latents of some data"
        by_site = [
            (name, f"{site.kl.sum():.3f}", f"{site.active} of {len(site.variance)}", site.in_words())
            for name, site in self.sites.items()
        ]
        return [
            [("site", "KL", "active", "KL of each dimension, largest first"), *by_site],
            [
                ("all sites", "mean", "MCSE", ""),
                ("KL", f"{self.kl:.3f}", number(self.kl_mcse), "E_x KL(Q(z | x) || P(z)), the sum of the next two"),
                ("I(x; z)", f"{information:.3f}", number(information_mcse), note),
                ("KL(Q(z) || P(z))", f"{self.marginal_kl:.3f}", number(self.marginal_kl_mcse), aggregated),
            ],
        ]

    def __str__(self) -> str:
        width = max(16, *map(len, self.sites))
        lines = [self._headline(), ""]
        for table in self._tables():
            lines += [*(f"{a:<{width}}{b:>10}{c:>12}  {d}".rstrip() for a, b, c, d in table), ""]
        return "\n".join([*lines, self.verdict()])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        def row(cells: tuple[str, ...], tag: str) -> str:
            return "<tr>" + "".join(f"<{tag}>{html.escape(text)}</{tag}>" for text in cells) + "</tr>"

        tables = [row(head, "th") + "".join(row(cells, "td") for cells in rows) for head, *rows in self._tables()]
        shown = "".join(f"<table>{table}</table>" for table in tables)
        return f"<p>{html.escape(self._headline())}</p>{shown}<p>{html.escape(self.verdict())}</p>"


class SiteDraws(NamedTuple):
    """What a batch of n data shows of one site, or of several that have one density, from K samples."""

    kl: Tensor  # [n, units of the KL]
    kl_variance: Tensor  # variance of the sum's mean over K samples, [n]
    mean: Tensor  # of z, [n, units]
    mean_variance: Tensor  # variance of that mean, [n, units]
    per_dimension: bool

    @classmethod
    def of(cls, kl: Tensor, sites: Iterable[Site], structure: Structure, *, per_dimension: bool) -> "SiteDraws":
        """Return what is kept of K divergences [K, n, units of the KL], and of the values of sites."""
        numbers = [numbers_by_datum(site["value"], site["fn"].event_dim, structure) for site in sites]
        units = [parted(part, len(kl), structure) for part in numbers]
        kl, z, count = kl.double(), torch.cat(units, -1).double(), len(kl)
        return cls(kl.mean(0), kl.sum(-1).var(0) / count, z.mean(0), z.var(0) / count, per_dimension)


class _Drawn(NamedTuple):
    """What one batch of n data shows; M of its K samples are held against all posteriors."""

    sites: dict[str, SiteDraws]
    latents: dict[str, Tensor]  # site of the guide -> [M, n, other plates, event]
    log_prior: Tensor  # log P(z), [M, n]
    hidden: bool  # whether some latents are masked for some data: then Q(z | x) is not of the same latents for all


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
        model, guide, data, chunk_size, seed, progress: as for `estimate_evidence`.
        num_samples: K, how many z are drawn for each datum; 2 or more.

    Raises:
        InputError: fewer than two data or samples, programs that choose their own subset of the data, and all that
            `estimate_evidence` refuses.

    Source: Hoffman & Johnson, ELBO surgery (2016); Burda et al., arXiv 1509.00519, for active units.

    >>> from ppl_vae.models import VAE
    >>> from ppl_vae.guides import MeanField
    >>> from ppl_vae import data
    >>> vae = VAE((1, 8, 8))
    >>> use = latent_use(vae, MeanField(vae), data.load("digits").test[:50], num_samples=10)
    >>> use.sites["z"].kl.shape, use.mutual_information < use.bound
    ((8,), True)
    """
    num_samples, seed = positive_int("num_samples", num_samples), whole_from(0, "a seed", seed)
    if num_samples < 2:
        raise InputError("Expected num_samples of at least 2, so that errors can be stated; got 1. Raise it.")
    if chunk_size is not None:
        chunk_size = positive_int("chunk_size", chunk_size)
    with prepared(model, guide, data, proposal="guide", seed=seed) as ready:
        work = plated_or_copied(ready, "guide") if not ready.structure.subsampled else ready
        source, structure, rows = work.source, work.structure, work.rows(chunk_size)
        if len(source) < 2:
            raise InputError("Expected at least 2 data, since the latents are held against each other; got 1.")
        if structure.subsampled:
            raise InputError(
                f"Expected programs that run on the data they are given; got a plate {structure.plate!r} that takes a "
                f"random {structure.size} of {len(source)}. Pass it the batch: pyro.plate({structure.plate!r}, len(x))."
            )
        at_once = len(source) if work.whole_only else max(1, rows // num_samples)
        args = work.pair.to_device(next(source.batches(at_once)))
        check_random_at_sites(work.pair.guide, lambda guide: poutine.trace(guide).get_trace(*args), *NEEDED)
        paired = max(2, min(num_samples, NUM_PAIRED // len(source)))
        drawn = []
        with progress_bar(2 * len(source), "latents", "datum", progress) as bar:
            for batch in source.batches(at_once):
                drawn.append(_draw(work, work.pair.to_device(batch), num_samples, paired))
                bar.update(len(batch[0]))
            if any(d.hidden for d in drawn):
                ratio = np.full((paired, len(source)), np.nan)
            else:
                mixture = _log_mixture(work, drawn, rows, bar)
                ratio = (mixture - torch.cat([d.log_prior for d in drawn], 1)).double().cpu().numpy()
                _check_finite(ratio)
    sites = {name: _site_use([d.sites[name] for d in drawn]) for name in drawn[0].sites}
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


def _draw(work: Prepared, args: Args, num_samples: int, paired: int) -> _Drawn:
    """Draw K samples for each datum of a batch, and keep what is needed of them; M = `paired`."""
    pair, structure, n = work.pair, work.structure, len(args[0])
    if not structure.plated:
        args = copies_of(args, num_samples)
    with one_more_plate("Let them take any leading batch dimensions."):
        count = num_samples if structure.plated else None
        traces = run_pair(pair.model, pair.guide, args, num_samples=count, structure=structure)
        sites, scored, all_data = samples(traces[0]), scored_trace(*traces, structure), len(args[0])
        latent = list(of_kind(sites, Kind.LATENT))
        log_prior = log_prob_by_datum(traces[0], latent, structure, all_data)  # of draws in the prior's support only
    guided = {name: site for name, site in samples(scored).items() if name in structure.q}
    model = {name: sites[name] for name in latent if name in guided}
    _check_known(structure, sites, samples(traces[1]), guided)

    def by_sample(term: Tensor) -> Tensor:
        return parted(term, num_samples, structure).expand(num_samples, n, *term.shape[2:])

    log_prior = by_sample(log_prior)
    drawn = {}
    if structure.enumerated or any(name not in sites for name in guided):
        # One density for several sites: discrete ones are summed out, or an automatic guide has sites of its own.
        whole = (by_sample(log_prob_by_datum(scored, guided, structure, all_data)) - log_prior)[..., None]
        drawn[", ".join(model)] = SiteDraws.of(whole, model.values(), structure, per_dimension=False)
    else:
        exact = in_order(sites, guided)
        for name, site in model.items():
            kl = kl_by_dimension(guided[name], site, structure, exact=exact)
            per_dimension = kl is not None
            if kl is None:  # one of the two programs does not factorize
                log_p, log_q = (log_prob_by_datum(trace, [name], structure, all_data) for trace in (traces[0], scored))
                kl = (log_q - log_p)[..., None]
            drawn[name] = SiteDraws.of(by_sample(kl), [site], structure, per_dimension=per_dimension)
    values = {
        name: parted(to_kn(site["value"], site["fn"].event_dim, structure), num_samples, structure)[:paired]
        for name, site in guided.items()
        if not is_point(site)
    }
    left_out_of_some = structure.masked and not all(bool(counted(site).all()) for site in model.values())
    return _Drawn(drawn, values, log_prior[:paired], left_out_of_some)


def _check_known(structure: Structure, model: dict[str, Site], guide: dict[str, Site], guided: dict[str, Site]) -> None:
    """Refuse a guide that has no latents, or draws others beside them."""
    left_out = [name for name in of_kind(model, Kind.LATENT) if name not in guided]
    beside = [name for name in of_kind(guide, Kind.AUXILIARY, model=model) if name not in guided]
    if beside:
        raise InputError(
            f"Expected a guide whose density Q(z | x) is known; got one that draws {few(beside)} beside the latents, "
            f"which it does not integrate out. Use a guide without it."
        )
    if not guided and structure.enumerated:
        raise InputError(
            f"Expected a guide that samples latents; got none, as all are summed out: {few(left_out)}. There is no "
            f"Q(z | x) to look at."
        )
    if not guided or (left_out and not structure.enumerated):
        raise InputError(
            f"Expected a guide that samples the latents; got one without {', '.join(left_out) or 'any'}. "
            f"Sample them there, or mark discrete ones infer={{'enumerate': 'parallel'}} in the model."
        )


def _log_mixture(work: Prepared, drawn: list[_Drawn], rows: int, bar: Any) -> Tensor:
    """Return log Q(z) = log 1/N sum_n Q(z | x_n) of M samples for each of N data, [M, N]."""
    pair, source, structure = work.pair, work.source, work.structure
    at_once = len(source) if work.whole_only else min(len(source), PAIRED_DATA, rows)
    num_data, num_paired = len(source), len(drawn[0].log_prior)
    flat = {name: torch.cat([d.latents[name] for d in drawn], 1).flatten(0, 1) for name in drawn[0].latents}
    total = torch.full((num_paired * num_data,), -torch.inf, device=pair.device)
    for batch in source.batches(at_once):
        args = pair.to_device(batch)
        n, parts = len(args[0]), []
        for index in torch.arange(len(total), device=pair.device).split(max(1, rows // n)):
            same = {name: z[index].unsqueeze(1).expand(-1, n, *z.shape[1:]) for name, z in flat.items()}
            trace = _given(pair, args, same, structure)
            sites = [without_masks(trace.nodes[name]) for name in structure.q]
            count = n if structure.plated else n * len(index)
            log_q = parted(total_log_prob(sites, structure, count, pair.device), len(index), structure)
            parts.append(log_q.logsumexp(1))
        total = torch.logaddexp(total, torch.cat(parts))
        bar.update(n)
    return (total - np.log(num_data)).reshape(num_paired, num_data)


def _check_finite(ratio: Array) -> None:
    """Refuse draws of the guide where the model has no mass: KL(Q(z) || P(z)) is infinite then."""
    if not np.isfinite(ratio).all():
        raise InputError(
            f"Expected a guide that draws where P(z) is not zero; got {int((~np.isfinite(ratio)).sum())} of "
            f"{ratio.size} draws where it is: KL(Q(z) || P(z)) is infinite. Use a family on the model's support."
        )


def _given(pair: Pair, args: Args, values: dict[str, Tensor], structure: Structure) -> poutine.Trace:
    """Run the guide on data with values of its sites, [M, n, other plates, event] each, and return its trace."""
    count = len(next(iter(values.values())))
    if structure.plated:
        given = {name: from_kn(value, structure) for name, value in values.items()}
        with pyro.validation_enabled(False), Substitute(given), plate_of(count, structure):
            return poutine.trace(pair.guide).get_trace(*args)
    flat = {name: from_kn(value.reshape(1, -1, *value.shape[2:]), structure)[0] for name, value in values.items()}
    with pyro.validation_enabled(False), Substitute(flat):
        return poutine.trace(pair.guide).get_trace(*copies_of(args, count))


def _site_use(parts: list[SiteDraws]) -> SiteUse:
    """Return what all batches together show of a site."""
    columns = zip(*(part[:4] for part in parts), strict=True)
    kl, error, mean, spread = (torch.cat(column).cpu().numpy() for column in columns)
    return SiteUse(
        kl=kl.mean(0),
        kl_mcse=float(np.sqrt(error.sum()) / len(kl)),
        per_dimension=parts[0].per_dimension,
        variance=mean.var(0, ddof=1) - spread.mean(0),
    )
