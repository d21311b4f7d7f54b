"""log P(x), ELBO and KL(Q || P(z | x)) by quadrature over a z of one dimension, exact up to rounding.

    log P(x) = log integral P(x, z) dz,    ELBO = integral Q(z | x) (log P(x, z) - log Q(z | x)) dz

by Gauss-Legendre rules on panels around the prior, Q, and the posterior as the round before has found it. Each round
halves the panels, until nothing changes. For any Pyro pair with one latent of one dimension.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from ppl_vae.errors import InputError, positive_int, positive_number
from ppl_vae.evidence.estimators import estimate_evidence
from ppl_vae.evidence.prepare import Chunk, Prepared, prepared
from ppl_vae.traces.handlers import Substitute
from ppl_vae.traces.log_weights import log_q_by_datum
from ppl_vae.traces.pair import Program
from ppl_vae.traces.plates import latents, log_prob_by_datum, samples
from ppl_vae.traces.run import get_traces, run_pair
from ppl_vae.utils.report import Array, Mean, Report

NODES = 12  # of the rule on one panel
REACH = 10.0  # standard deviations from the mean that panels cover: 1e-23 of a Gaussian is outside
WIDTH = 2.0  # of a panel of the first round, in standard deviations
ROUNDS = 7
TOLERANCE = {torch.double: 1e-10, torch.float: 1e-4}  # nats, relative to 1 + |log P(x)|; the last round is finer
DATA_AT_ONCE = 100
Moments = tuple[Tensor, Tensor]  # mean and standard deviation, each [n]


class Quadrature(NamedTuple):
    """Exact numbers per datum, [N], in nats."""

    log_px: Array
    elbo: Array  # log P(x) - kl
    kl: Array  # KL(Q(z | x) || P(z | x))

    def __repr__(self) -> str:
        return self.report().wrapped()

    def _repr_html_(self) -> str:
        return self.report().html()

    def report(self) -> Report:
        """Return what is printed: means over the data."""
        none = np.zeros_like(self.log_px)
        words = {"log P(x)": "", "ELBO": ", log P(x) >= ELBO", "KL": ", KL(Q(z | x) || P(z | x)) = log P(x) - ELBO"}
        rows = [(name, Mean.of(v, none), f"nats{more}") for (name, more), v in zip(words.items(), self, strict=True)]
        return Report(f"log P(x) of {len(self.log_px)} data by quadrature over z, exact up to rounding", rows)


def quadrature(model: Program, guide: Program, data: Any) -> Quadrature:
    """Return log P(x), the ELBO, and KL(Q(z | x) || P(z | x)) of each datum, for a z of one dimension.

    Computed in the precision of z: a pair in double precision gives a KL of 1e-8 nats with five digits.

    Args:
        model, guide, data: as for `estimate_evidence`.

    Raises:
        InputError: more than one latent, or one of more dimensions, or without a finite mean and variance; integrals
            that do not settle; data or programs that do not fit.

    >>> from ppl_vae.models import QuantileMap
    >>> from ppl_vae.guides import QuantileMap as Guide
    >>> model = QuantileMap(sigma=0.001)
    >>> x = model(size=5)
    >>> exact = quadrature(model, Guide(model), x)
    >>> bool(abs(exact.log_px - model.exact_log_px(x).numpy()).max() < 1e-10), bool(exact.kl.mean() < 1e-4)
    (True, True)
    """
    with prepared(model, guide, data, proposal="guide", seed=0) as work:
        parts = [_integrals(work, chunk) for chunk in work.chunks(DATA_AT_ONCE)]
    log_px, elbo = (np.concatenate([part[i].cpu().double().numpy() for part in parts]) for i in (0, 1))
    return Quadrature(log_px, elbo, log_px - elbo)


def sigma_study(
    make_pair: Callable[[float], tuple[Program, Program]],
    x: Tensor,
    log_p_gt: Tensor,
    sigmas: Sequence[float],
    *,
    weights: Tensor | None = None,
    num_samples: int = 1000,
    num_repeats: int = 8,
) -> pd.DataFrame:
    """Return how P_sigma and Q come to their limits as sigma goes to 0, by quadrature and by `estimate_evidence`.

    Args:
        make_pair: called with a sigma, returns a model P_sigma(x, z) and its guide, with z of one dimension.
        x: data of the density that is to be matched, [N, 1].
        log_p_gt: log P_gt(x), [N], in nats.
        sigmas: the standard deviations of P(x | z), one row for each.
        weights: of the x in means over x ~ P_gt, [N]: those of a quadrature rule; None for x drawn from P_gt.
        num_samples: K of one estimate.
        num_repeats: how many estimates, each with its own seed; their spread is the standard error.

    Returns:
        Means over x ~ P_gt, in nats, by column. sigma. kl: KL(Q || P(z | x)) by quadrature. kl_estimated: the mean gap
        log P(x) - ELBO of the estimates, without their bias; standard_error: its error.
        distance: |log P_sigma(x) - log P_gt(x)|. kl_gt: KL(P_gt || P_sigma).

    Raises:
        InputError: as `quadrature`; fewer than two repeats, log_p_gt or weights of another length, a sigma not above 0.

    Source: appendix A of Doersch, arXiv 1606.05908.

    >>> from ppl_vae.models import QuantileMap
    >>> from ppl_vae.guides import QuantileMap as Guide
    >>> def make_pair(sigma):
    ...     model = QuantileMap(sigma=sigma)
    ...     return model, Guide(model)
    >>> model = QuantileMap()
    >>> x = model.decode(torch.randn(20, 1))
    >>> kl = sigma_study(make_pair, x, model.log_p_gt(x)[:, 0], [0.1, 0.01], num_samples=50, num_repeats=2).kl
    >>> bool(kl[1] < 0.1 * kl[0])
    True
    """
    if positive_int("num_repeats", num_repeats) < 2:
        raise InputError("Expected num_repeats of at least 2, as their spread is the standard error; got 1.")
    weights = torch.ones(len(x)) if weights is None else weights
    for name, value in (("log_p_gt", log_p_gt), ("weights", weights)):
        if value.shape != (len(x),):
            raise InputError(f"Expected {name} of shape [{len(x)}], one for each x; got {tuple(value.shape)}.")
    truth, shares = (t.detach().cpu().double().numpy() for t in (log_p_gt, weights / weights.sum()))
    rows = []
    for sigma in [positive_number("each sigma", sigma) for sigma in sigmas]:
        model, guide = make_pair(sigma)
        exact = quadrature(model, guide, x)
        gaps = []
        for seed in range(num_repeats):
            options: Any = {"method": "importance", "num_samples": num_samples, "seed": seed}
            options |= {"compile": False, "progress": False}
            evidence = estimate_evidence(model, guide, x, **options)
            gaps.append(shares @ (evidence.gap - evidence.diagnostics["bias"]))
        rows.append(
            {
                "sigma": sigma,
                "kl": shares @ exact.kl,
                "kl_estimated": np.mean(gaps),
                "standard_error": np.std(gaps, ddof=1) / num_repeats**0.5,
                "distance": shares @ abs(exact.log_px - truth),
                "kl_gt": shares @ (truth - exact.log_px),
            }
        )
    return pd.DataFrame(rows)


def _integrals(work: Prepared, chunk: Chunk) -> tuple[Tensor, Tensor]:
    """Return log P(x) and the ELBO, each [n]."""
    name, event_shape, prior, q = _latent(work, chunk)
    around, before = [prior, q], torch.full((2, chunk.size), torch.inf).to(q[0])
    for halvings in range(ROUNDS):
        z, log_widths = _nodes(around, WIDTH / 2**halvings)
        log_joint, log_q = _log_densities(work, chunk, name, z.reshape(*z.shape, *event_shape))
        log_px = torch.logsumexp(log_joint + log_widths, 0)
        q_mass = (log_q + log_widths).exp()
        elbo = torch.where(q_mass > 0, q_mass * (log_joint - log_q), 0).sum(0)
        now = torch.stack([log_px, elbo])
        change, before = (now - before).abs(), now
        if bool((change <= TOLERANCE[z.dtype] * (1 + now.abs())).all()):
            return log_px, elbo
        mass = (log_joint + log_widths - log_px).exp()
        mean = (mass * z).sum(0)
        # A posterior that falls between two nodes looks like a point: its neighbourhood is searched then.
        peak = log_joint.argmax(0, keepdim=True).clamp(1, len(z) - 2)
        spacing = (z.gather(0, peak + 1) - z.gather(0, peak - 1)).squeeze(0)
        around = [prior, q, (mean, (mass * (z - mean) ** 2).sum(0).sqrt().maximum(2 * spacing / REACH))]
    raise InputError(
        f"Expected integrals over {name} that settle in {ROUNDS} rounds; got changes of up to "
        f"{float(change.max()):.2g} nats. Put the pair in double precision (model.double()), or use estimate_evidence."
    )


def _latent(work: Prepared, chunk: Chunk) -> tuple[str, torch.Size, Moments, Moments]:
    """Return the latent's name and event shape, and the moments of its prior and of Q."""
    model, guide = map(samples, get_traces(work.pair, chunk.args))
    shapes = {name: tuple(site["fn"].event_shape) for name, site in latents(model).items()}
    structure = work.structure
    if list(shapes) != list(guide) or list(shapes.values()) not in ([()], [(1,)]) or structure.num_plates > 1:
        raise InputError(
            f"Expected one latent of one dimension, in one plate over the data, for quadrature; got {shapes}. "
            f"Use estimate_evidence."
        )
    (name,) = shapes
    value = guide[name]["value"]
    moments: list[Tensor] = []
    for site in (model[name], guide[name]):
        with suppress(NotImplementedError, AttributeError):  # what distributions without a mean do
            moments += [m.to(value).expand(value.shape).reshape(-1) for m in (site["fn"].mean, site["fn"].stddev)]
    if len(moments) < 4 or not all(bool(torch.isfinite(m).all()) for m in moments):
        raise InputError(
            f"Expected a prior and a guide of {name} with a finite mean and variance, to know where to integrate; got "
            f"none. Use estimate_evidence."
        )
    return name, guide[name]["fn"].event_shape, (moments[0], moments[1]), (moments[2], moments[3])


def _nodes(around: list[Moments], width: float) -> tuple[Tensor, Tensor]:
    """Return the nodes on all panels around some distributions, and the logarithms of their weights, each [K, n]."""
    steps = torch.arange(-REACH, REACH + width / 2, width)
    edges = torch.cat([mean + deviation * steps.to(mean)[:, None] for mean, deviation in around]).sort(0).values
    nodes, weights = (torch.from_numpy(a).to(edges)[:, None] for a in np.polynomial.legendre.leggauss(NODES))
    middle, half = (edges[1:] + edges[:-1]) / 2, (edges[1:] - edges[:-1]) / 2
    z, widths = middle[:, None] + half[:, None] * nodes, half[:, None] * weights
    return z.flatten(0, 1), widths.flatten(0, 1).log()


def _log_densities(work: Prepared, chunk: Chunk, name: str, z: Tensor) -> tuple[Tensor, Tensor]:
    """Return log P(x, z) and log Q(z | x) for z [K, n, *event_shape], each [K, n]."""
    structure = work.structure
    with Substitute({name: z}):
        traces = run_pair(work.pair.model, work.pair.guide, chunk.args, num_samples=len(z), structure=structure)
    log_joint = log_prob_by_datum(traces[0], samples(traces[0]), structure, chunk.size)
    return log_joint, log_q_by_datum(*traces, structure, chunk.size)
