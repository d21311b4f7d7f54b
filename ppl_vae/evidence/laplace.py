"""A proposal fitted to each datum: Laplace's approximation of P(z | x) at every mode that is found, as a mixture.

    q(u) = a Q(u | x) + (1 - a) sum_j pi_j t(u; m_j, C_j, nu),    C_j^-1 = -d^2 log P(x, u) / du^2 at the mode m_j

over the latents in unconstrained space. Modes are climbed to from the guide's mean, a draw of it, and draws of the
prior, and at a second look from more of these and from draws wider than the guide; a climb that comes below a mode
found before ends there. No eigenvalue of the curvature is taken for less than the prior's. Where z has hundreds of
dimensions, those of largest curvature are found by subspace iteration, and in all others C is the prior's. A first set
of samples moves the means and shares of the mixture to those of their weights; those that answer are fresh.

Sources: Tierney & Kadane, JASA 81 (1986); Hesterberg, Weighted average importance sampling and defensive mixture
distributions, Technometrics 37 (1995); Bugallo et al., Adaptive importance sampling, IEEE SPM 34 (2017).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ppl_vae.evidence.diagnostics import LOW_ESS
from ppl_vae.evidence.hmc import FAILURES, failing
from ppl_vae.evidence.modes import Climbable, Known, climb
from ppl_vae.evidence.options import DEFENSIVE
from ppl_vae.evidence.prepare import Chunk, Prepared
from ppl_vae.evidence.student import Students, degrees
from ppl_vae.evidence.surface import FEW, Surface, both, curvature, likelihood_slope, resolved, slope, slopes
from ppl_vae.utils.threads import Threads

NUM_LOOKED, LEAST_LOOKED = 16, 512  # draws of guide and prior that show where they are, of each datum, and of all
BY_CHANCE = 5.0  # standard errors: widths whose spread over data is less far from that of so few draws are one
FROM_Q = 1  # draws of the guide that a climb starts at, beside its mean
SMALL = 10  # dimensions up to which more is done: more starts, and components where samples weigh most
MANY_STARTS, FEW_STARTS = 16, 1  # draws of the prior that climbs start at, and of the rest as many, its far side first
WIDE, AGAIN = 4, 2  # starts of a second look: draws wider than the guide, which find most in their time; the prior's
MATTERS = 0.05  # the share of P(x), by Laplace's formula, of a mode for which a datum is answered anew
NUM_ROUNDS, LIKELIEST = 80, 40  # of a climb, and of one of log P(x | u) alone
MOST_MODES = 6
NEGLIGIBLE = 20.0  # nats by which the evidence of a mode, a guess, is below the largest: no sample is drawn there
DENSE = 128  # dimensions up to which the curvature is known in all directions
STEEPEST = 48  # directions that are known of more
WIDER = 1.05  # than the curvature says, as the tails of P mostly are
LEAST_SHARE = 0.05  # of a component, as its evidence by Laplace's formula is a guess
SAME_HEIGHT, SAME_PLACE = 0.5, 4.0  # nats, and squared standard deviations: closer modes are one
NUM_ADAPTING = 256  # samples that improve a mixture before those that answer
FILLS, FILLED_AT_ONCE = 12, 3  # rounds at most of components where samples weigh most, and how many in each
FILLED = 0.5  # no more rounds are needed where so many of the samples count
UNRESOLVED = 0.01  # the share of P(x) that numbers may not tell apart
MISSED = 0.01  # the share of P(x) that the guide may hardly ever draw
NUM_TRIED = 64  # draws of a mixture that show what the guide misses
SHRINKAGE = 20.0  # effective samples at which a mean goes half of the way that they show
LEAST_CURVATURE = 0.5  # in units of the prior's, which is known up to the chance of a few draws
SMALLER = 8  # times fewer data than at once, where they are few
CURVATURE_ROWS = 2**11  # (direction, datum) pairs at once: of more it is no faster


@dataclass(frozen=True)
class Fitted:
    """What was found for the data of a chunk."""

    mixture: Students
    found: Tensor  # whether there is a mode with a finite density, [N]
    log_evidence: Tensor  # Laplace's log P(x) of each component, [J, N]; minus infinity where there is none
    heights: Tensor  # log P(x, m_j), [J, N]
    unresolved: Tensor | None = None  # whether numbers cannot tell apart what a part of P(x) comes from, [N]
    promising: Tensor | None = None  # whether enough of such samples count, as others than those that answer say, [N]

    def select(self, index: Tensor) -> "Fitted":
        """Return what was found for some of the data."""
        mixture = self.mixture.select(index)
        of_samples = (None if kept is None else kept[index] for kept in (self.unresolved, self.promising))
        return Fitted(mixture, self.found[index], self.log_evidence[:, index], self.heights[:, index], *of_samples)

    @staticmethod
    def concatenated(parts: "list[Fitted]") -> "Fitted":
        """Return what was found for several groups of data as one."""
        most = max(len(part.heights) for part in parts)

        def joined(name: str) -> Tensor:
            rows = [getattr(part, name) for part in parts]
            return torch.cat([torch.nn.functional.pad(r, (0, 0, 0, most - len(r)), value=-math.inf) for r in rows], 1)

        return Fitted(
            Students.concatenated([part.mixture for part in parts]),
            torch.cat([part.found for part in parts]),
            joined("log_evidence"),
            joined("heights"),
        )

    def replaced(self, rows: Tensor, other: "Fitted") -> "Fitted":
        """Return these with what was found for some rows put in their place."""
        order = torch.arange(len(self.found), device=rows.device)
        order[rows] = len(self.found) + torch.arange(len(rows), device=rows.device)
        return Fitted.concatenated([self, other]).select(order)

    @property
    def resolution(self) -> Tensor:
        """How many numbers that a computer tells apart lie in a standard deviation, of the worst dimension, [N]."""
        mixture, precision = self.mixture, torch.finfo(self.mixture.scale.dtype).eps
        spread = 1 + (mixture.directions**2 * (mixture.roots**2 - 1)[..., None, :]).sum(-1)
        deviation = mixture.scale * spread.clamp(min=0.0).sqrt()
        steps = deviation / (precision * mixture.means.abs()).clamp(min=torch.finfo(mixture.scale.dtype).tiny)
        present = mixture.log_shares.isfinite()[..., None]
        return torch.where(present, steps, math.inf).amin((0, -1))


class Laplace:
    """Fits mixtures to the data of chunks, draws from them, and weighs."""

    def __init__(self, prepared: Prepared, proposal: str, wanted: bool | str, threads: Threads) -> None:
        self.surface = Surface(prepared, proposal, wanted, threads)
        self.prepared = self.surface.prepared
        self.small = self.surface.size <= SMALL
        num_data, rows = len(prepared.source), prepared.rows(None)
        most = max(1, min(256, rows // 16))
        self.data_at_once = prepared.taken(-(-num_data // -(-num_data // most)))
        self.samples_at_once = max(1, rows // self.data_at_once)
        self.num_data = num_data
        self.num_chunks = self.prepared.num_chunks(self.data_at_once)

    @property
    def settings(self) -> dict[str, float]:
        """What is to be said of the curvature: of how many latents it is known in how few directions; else nothing."""
        size = self.surface.size
        return {"num_latents": float(size), "num_curved": float(STEEPEST)} if size > DENSE else {}

    def fit(self, chunk: Chunk) -> Fitted:
        """Climb to the modes of P(z | x) of the data of a chunk, and make a mixture of what both looks find there."""
        return self.second_look(chunk, self.first_look(chunk))[0]

    def first_look(self, chunk: Chunk) -> Fitted:
        """Climb from the guide's mean, a draw of it, and draws of the prior."""
        count = MANY_STARTS if self.small else FEW_STARTS
        before, drawn = self._drawn(chunk, max(NUM_LOOKED, 2 * count, -(-LEAST_LOOKED // chunk.size)))
        scale = _common(_width(before), before)
        mean = drawn.mean(0)
        near = torch.stack([mean, *drawn[:FROM_Q]])
        far = [*before[:count], *_opposite(before[count:], mean, scale, count)]
        fitted = self._mixture(chunk, *self._climbed(chunk, near, torch.minimum(_width(drawn), scale)), scale)
        if self.small:  # where x alone says that z is: far out in the prior's tail, from where no draw comes
            far.append(climb(self._slope_of(chunk, likelihood_slope), mean, scale, LIKELIEST).position)
        return self._joined(chunk, fitted, *self._climbed(chunk, torch.stack(far), scale, fitted))[0]

    def second_look(self, chunk: Chunk, fitted: Fitted) -> tuple[Fitted, Tensor]:
        """Climb from other places; return the mixture with modes that matter, and which data have new ones, [N].

        What decides are the climbs alone, so that an answer by the new mixture is unbiased for P(x), too.
        """
        before, drawn = self._drawn(chunk, max(2 * WIDE, AGAIN))
        wider = 2 * drawn[:WIDE] - drawn[WIDE : 2 * WIDE]  # about twice as wide, whatever their distribution is
        starts = torch.cat([wider, before[:AGAIN]])
        joined, new = self._joined(chunk, fitted, *self._climbed(chunk, starts, fitted.mixture.scale, fitted))
        known, all_known = (torch.logsumexp(one.log_evidence, 0) for one in (fitted, joined))
        new &= ~(known > all_known + math.log1p(-MATTERS)) & joined.found
        rows = new.nonzero()[:, 0]
        return (fitted.replaced(rows, joined.select(rows)) if len(rows) else fitted), new

    def _drawn(self, chunk: Chunk, count: int) -> tuple[Tensor, Tensor]:
        """Return draws of the prior and of the guide, [K, N, D] each."""
        before, drawn = (latents.of(chunk).draw(count) for latents in (self.surface.prior, self.surface.q))
        dtype = torch.promote_types(before.dtype, drawn.dtype)
        return before.to(dtype), drawn.to(dtype)

    def _slope_of(self, chunk: Chunk, kind: Any = slope) -> Climbable:
        def at(u: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
            value, gradient = self._at_rows(kind, chunk, index % chunk.size, u)
            return value, gradient

        def evaluate(u: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
            """As `at`; where the program fails there is no way: the density is zero for these rows."""
            try:
                return at(u, index)
            except FAILURES:
                works = torch.ones_like(index, dtype=torch.bool)
                works[failing(lambda some: at(u[some], index[some]), torch.arange(len(index), device=u.device))] = False
            value, gradient = u.new_full((len(u),), -math.inf), torch.zeros_like(u)
            if bool(works.any()):
                value[works], gradient[works] = at(u[works], index[works])
            return value, gradient

        return evaluate

    def _climbed(
        self, chunk: Chunk, starts: Tensor, width: Tensor, fitted: Fitted | None = None
    ) -> tuple[Tensor, Tensor]:
        """Climb from starts [M, N, D]; return where that led to, and how high: minus infinity below a known mode."""
        known = None if fitted is None else _below(fitted)
        summits = climb(self._slope_of(chunk), starts.flatten(0, 1), width.repeat(len(starts), 1), NUM_ROUNDS, known)
        height = torch.where(summits.known, -math.inf, summits.log_density).reshape(starts.shape[:2])
        return summits.position.reshape(starts.shape), height

    def _joined(self, chunk: Chunk, fitted: Fitted, position: Tensor, height: Tensor) -> tuple[Fitted, Tensor]:
        """Return a mixture with those summits [M, N, D] that are none of its modes, and which data have such, [N]."""
        every = torch.arange(chunk.size, device=position.device)
        alone = height.isfinite()
        for j in range(fitted.mixture.num_components):
            near = fitted.mixture.distances(position, j, every) < SAME_PLACE
            alone &= ~(near & (height - fitted.heights[j] < SAME_HEIGHT))
        new = alone.any(0)
        if not bool(new.any()):
            return fitted, new
        rows = new.nonzero()[:, 0] if self.prepared.divisible else every
        part = chunk.select(rows) if self.prepared.divisible else chunk
        position = torch.cat([fitted.mixture.means[:, rows], position[:, rows]])
        height = torch.cat([fitted.heights[:, rows], torch.where(alone, height, -math.inf)[:, rows]])
        return fitted.replaced(rows, self._mixture(part, position, height, fitted.mixture.scale[rows])), new

    def _mixture(self, chunk: Chunk, position: Tensor, height: Tensor, scale: Tensor) -> Fitted:
        """Make a component of each summit [M, N, D] that is none of a higher one's."""
        n, size = scale.shape
        every = torch.arange(n, device=scale.device)
        alive = height.isfinite()
        found = alive.any(0)
        means: list[Tensor] = []
        directions, roots, evidence, heights = [], [], [], []
        for _ in range(min(MOST_MODES, len(position))):
            has = alive.any(0)
            if means and not bool(has.any()):
                break
            best = torch.where(alive, height, -math.inf).argmax(0)
            mean, top = position[best, every], height[best, every]
            vectors, values = self._curved(chunk, has.nonzero()[:, 0], mean, scale)
            root = values.rsqrt()
            log_evidence = top + size / 2 * math.log(2 * math.pi) + scale.log().sum(-1) + root.log().sum(-1)
            heights.append(torch.where(has, top, -math.inf))
            evidence.append(torch.where(has, log_evidence, -math.inf))
            means.append(mean)
            directions.append(vectors)
            roots.append(root * WIDER)
            distance = _distances(position, mean, scale, vectors, values)
            alive &= ~((distance < SAME_PLACE) & ((height - top).abs() < SAME_HEIGHT))
            alive[best, every] = False
        log_evidence = torch.stack(evidence)
        present = log_evidence.isfinite() & (log_evidence >= log_evidence.amax(0) - NEGLIGIBLE)
        shares = torch.softmax(torch.where(found, log_evidence, 0.0), 0).clamp(min=LEAST_SHARE) * (present | ~found)
        mixture = Students(
            (shares / shares.sum(0)).log(),
            torch.stack(means),
            scale,
            torch.stack(directions),
            torch.stack(roots),
            degrees(size),
        )
        return Fitted(mixture, found, log_evidence, torch.stack(heights))

    def _curved(self, chunk: Chunk, rows: Tensor, mean: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
        """Return directions [N, D, R] and the curvature there in units of scale [N, R], at least 1, at some rows."""
        n, size = scale.shape
        count = size if size <= DENSE else STEEPEST
        vectors = torch.eye(size, count, dtype=scale.dtype, device=scale.device).expand(n, size, count).clone()
        values = torch.ones(n, count, dtype=scale.dtype, device=scale.device)
        if not len(rows):
            return vectors, values
        for some in rows.split(max(1, CURVATURE_ROWS // size)):

            def curved(v: Tensor, some: Tensor = some) -> Tensor:
                """Return the products of minus the Hessian, in units of scale, with v [r, D, R]."""
                wide = scale[some]
                directions = (v * wide[..., None]).movedim(-1, 0)  # [R, r, D]
                (products,) = self._at_rows(curvature, chunk, some, mean[some], directions)
                return -(products * wide).movedim(0, -1)

            if size <= DENSE:
                matrix = curved(vectors[some])
            else:
                basis = torch.linalg.qr(torch.randn(len(some), size, count, dtype=scale.dtype, device=scale.device))[0]
                for _ in range(2):
                    basis = torch.linalg.qr(torch.nan_to_num(curved(basis)))[0]
                matrix = basis.mT @ curved(basis)
            matrix = (matrix + matrix.mT) / 2
            bad = ~matrix.isfinite().flatten(1).all(1)
            matrix[bad] = torch.eye(count, dtype=scale.dtype, device=scale.device)
            eigen, inner = torch.linalg.eigh(matrix.double())
            values[some] = torch.where(eigen < LEAST_CURVATURE, 1.0, eigen).to(scale.dtype)
            vectors[some] = inner.to(scale.dtype) if size <= DENSE else basis @ inner.to(scale.dtype)
        return vectors, values

    def _at_rows(self, kind: Any, chunk: Chunk, rows: Tensor, u: Tensor, *more: Tensor) -> tuple[Tensor, ...]:
        """Evaluate at u [r, D] of these rows of a chunk (more is [R, r, D]), a batch at once."""
        if not self.prepared.divisible:
            return self._whole(kind, chunk, rows, u, *more)
        most = min(self.data_at_once, max(1, CURVATURE_ROWS // u.shape[-1])) if more else self.data_at_once
        parts, at = [], 1 if more else 0
        for some in torch.arange(len(rows), device=u.device).split(most):
            size = self._filled_to(len(some), most)
            calls = self._calls(kind, size)
            filled = some[torch.arange(size, device=u.device) % len(some)] if calls > FEW else some
            given = [u[filled][None], *(m[:, filled][:, None] for m in more)]
            values = self.surface(kind, chunk.select(rows[filled]), *given, calls=calls)
            parts.append([value.select(at, 0).narrow(at, 0, len(some)) for value in values])
        return tuple(torch.cat(values, at).to(u.dtype) for values in zip(*parts, strict=True))

    @staticmethod
    def _filled_to(count: int, most: int) -> int:
        """Return how many rows are evaluated for so many: of two sizes, so that few are recorded."""
        few = -(-most // SMALLER)
        return few if count <= few else most

    def _whole(self, kind: Any, chunk: Chunk, rows: Tensor, u: Tensor, *more: Tensor) -> tuple[Tensor, ...]:
        """Evaluate at rows of a chunk that cannot be divided: the n-th time that a datum comes as its n-th sample."""
        layer = torch.zeros_like(rows)
        for row in rows.unique():
            layer[rows == row] = torch.arange(int((rows == row).sum()), device=rows.device)
        shape = (int(layer.max()) + 1, chunk.size, u.shape[-1])
        full = u.new_zeros(shape)
        full[:, rows] = u  # any value of the same datum, where it comes less often
        full[layer, rows] = u
        others = []
        for m in more:
            wide = m.new_zeros(len(m), *shape)
            wide[:, layer, rows] = m
            others.append(wide)
        values = self.surface(kind, chunk, full, *others)
        return tuple((value[:, layer, rows] if more else value[layer, rows]).to(u.dtype) for value in values)

    def missed(self, chunk: Chunk, fitted: Fitted, log_px: Tensor, num_samples: int) -> Tensor:
        """Return whether the guide may miss a part of P(x) that matters, for an estimate of log P(x) by it, [N].

        A hundredth of P(x), by Laplace's formula or by draws of the mixture, comes from where a single draw would
        outweigh all K of the guide's: a mode, or a part of one.
        """
        u = fitted.mixture.draw(NUM_TRIED)
        log_joint, log_q = self._at_samples(both, chunk, u)
        share = torch.softmax((log_joint.double() - fitted.mixture.log_prob(u)).nan_to_num(nan=-math.inf), 0)
        outweighs = log_joint.double() - log_q.double() > log_px + math.log(num_samples)
        missed = (share.nan_to_num() * outweighs).sum(0) > MISSED
        for j, mean in enumerate(fitted.mixture.means):
            log_joint, log_q = self.surface(both, chunk, mean[None])
            present = fitted.log_evidence[j] > log_px + math.log(MISSED)
            outweighs = (log_joint - log_q)[0] > log_px + math.log(num_samples)
            missed |= present & (outweighs | ~log_q[0].isfinite())
        return missed | ~fitted.found

    def _calls(self, kind: Any, rows: int) -> int:
        each = {slope: 80.0, curvature: 1.3}.get(kind, 1.0)
        return int(each * self.num_data / rows)

    def adapted(self, chunk: Chunk, fitted: Fitted, num_samples: int = NUM_ADAPTING, least: float = LOW_ESS) -> Fitted:
        """Improve a mixture by a first set of samples: with modes that they found, and moved to where they weigh.

        It is promising where `least` of them count, or of as many of the mixture that was moved.
        """
        log_weights, u = self.weigh(chunk, fitted, num_samples)
        fitted, new = self.extended(chunk, fitted, log_weights, u)
        if bool(new.any()):
            rows = new.nonzero()[:, 0] if self.prepared.divisible else torch.arange(chunk.size, device=u.device)
            part = chunk.select(rows) if self.prepared.divisible else chunk
            again, v = self.weigh(part, fitted.select(rows), num_samples)
            log_weights, u = log_weights.clone(), u.clone()
            log_weights[:, rows], u[:, rows] = again, v
        share = torch.softmax(torch.nan_to_num(log_weights, nan=-math.inf), 0)
        (known,) = self._at_samples(resolved, chunk, u)
        lost = (share * (1 - known)).nan_to_num().sum(0) > UNRESOLVED
        moved = replace(fitted, mixture=_moved(fitted.mixture, log_weights, u), unresolved=lost)
        effective = _effective(share)
        if bool((few := ~(effective >= least)).any()):  # the mixture before it was moved: what is it like now?
            rows = few.nonzero()[:, 0] if self.prepared.divisible else torch.arange(chunk.size, device=u.device)
            part = chunk.select(rows) if self.prepared.divisible else chunk
            again = self.weigh(part, moved.select(rows), num_samples)[0]
            effective[rows] = _effective(torch.softmax(again, 0).nan_to_num())
        return replace(moved, promising=effective >= least)

    def extended(self, chunk: Chunk, fitted: Fitted, log_weights: Tensor, u: Tensor) -> tuple[Fitted, Tensor]:
        """Climb from the draw of largest weight of each datum; return the mixture with new modes, and who has them."""
        top = u.gather(0, log_weights.argmax(0)[None, :, None].expand(1, -1, u.shape[-1]))
        return self._joined(chunk, fitted, *self._climbed(chunk, top, fitted.mixture.scale, fitted))

    def filled(self, chunk: Chunk, fitted: Fitted) -> Fitted:
        """Put components where samples weigh most, some rounds of them: along what is bent no mode is enough.

        Source: Raftery & Bao, Estimating and projecting trends in HIV/AIDS generalized epidemics using incremental
        mixture importance sampling, Biometrics 66 (2010).
        """
        for _ in range(FILLS):
            log_weights, u = self.weigh(chunk, fitted, NUM_ADAPTING)
            if bool((_effective(torch.softmax(log_weights, 0)) >= FILLED * NUM_ADAPTING).all()):
                break
            every = torch.arange(chunk.size, device=u.device)
            more = fitted.mixture
            for _ in range(FILLED_AT_ONCE):
                top = log_weights.argmax(0)
                mean = u[top, every]
                vectors, values = self._curved(chunk, every, mean, more.scale)
                more = more.with_component(mean, vectors, values.rsqrt() * WIDER)
                near = more.distances(u, more.num_components - 1, every) < SAME_PLACE
                log_weights = torch.where(near, -math.inf, log_weights)
            log_weights, u = self.weigh(chunk, replace(fitted, mixture=more), NUM_ADAPTING)
            none = (0, 0, 0, more.num_components - len(fitted.heights))
            fitted = replace(
                fitted,
                mixture=_moved(more, log_weights, u),
                heights=torch.nn.functional.pad(fitted.heights, none, value=-math.inf),
                log_evidence=torch.nn.functional.pad(fitted.log_evidence, none, value=-math.inf),
            )
        return fitted

    def weigh(self, chunk: Chunk, fitted: Fitted, num_samples: int) -> tuple[Tensor, Tensor]:
        """Draw u [K, N, D] for each datum of a chunk; return log-weights log P(x, u) - log q(u), [K, N], and u."""
        u, share = self.draw(chunk, fitted, num_samples)
        log_joint, log_guide = self._at_samples(both, chunk, u)
        log_weights = log_joint.double() - self.log_q(fitted, u, log_guide, share)
        return torch.where(log_joint.isnan(), -math.inf, log_weights), u

    def log_q(self, fitted: Fitted, u: Tensor, log_guide: Tensor, share: float = DEFENSIVE) -> Tensor:
        """Return the log-density of a mixture with the guide in it, [K, N], at u [K, N, D]."""
        own = fitted.mixture.log_prob(u).double()
        return torch.logaddexp(math.log(share) + log_guide.double(), math.log1p(-share) + own)

    def weigh_by_q(self, chunk: Chunk, num_samples: int) -> Tensor:
        """Return the log-weights of so many draws of the guide alone, [K, N]."""
        log_joint, log_guide = self._at_samples(both, chunk, self.surface.q.of(chunk).draw(num_samples))
        return log_joint.double() - log_guide.double()

    def draw(self, chunk: Chunk, fitted: Fitted, num_samples: int) -> tuple[Tensor, float]:
        """Draw u [K, N, D] from the mixture with the guide in it; return the share of these, too."""
        by_q = max(1, round(DEFENSIVE * num_samples))
        order = torch.randperm(num_samples, device=fitted.mixture.scale.device)
        others = fitted.mixture.draw(num_samples - by_q)
        u = torch.cat([self.surface.q.of(chunk).draw(by_q).to(others.dtype), others])[order]
        return u, by_q / num_samples

    def _at_samples(self, kind: Any, chunk: Chunk, u: Tensor) -> tuple[Tensor, ...]:
        """Evaluate at u [K, n, D] of the data of a chunk, in runs of one size: of few data more samples at once."""
        count, n = u.shape[:2]
        runs = -(-count * self.num_data // (self.samples_at_once * self.data_at_once))
        if not self.prepared.divisible or runs <= FEW:
            parts = [self.surface(kind, chunk, some, calls=runs) for some in u.split(self.samples_at_once)]
            return tuple(map(torch.cat, zip(*parts, strict=True)))
        if n > self.data_at_once:
            return self._by_parts(partial(self._at_samples, kind), chunk, u)
        copies = self.data_at_once // n
        at_once = self.samples_at_once * copies
        rows = torch.arange(self.data_at_once, device=u.device) % n  # the last ones fill up, and do not count
        repeated = chunk.select(rows)
        runs_done: list[tuple[Tensor, ...]] = []
        for some in u.split(at_once):
            filled = some[torch.arange(at_once, device=u.device) % len(some)]
            wide = filled.reshape(self.samples_at_once, copies * n, -1)[:, torch.arange(len(rows)) % (copies * n)]
            found = self.surface(kind, repeated, wide, calls=runs)
            runs_done.append(tuple(value[:, : copies * n].reshape(at_once, n)[: len(some)] for value in found))
        return tuple(map(torch.cat, zip(*runs_done, strict=True)))

    def _by_parts(self, evaluate: Callable[[Chunk, Tensor], tuple[Tensor, ...]], chunk: Chunk, u: Tensor) -> Any:
        """Evaluate for more data than are evaluated at once."""
        parts = torch.arange(chunk.size, device=u.device).split(self.data_at_once)
        found = [evaluate(chunk.select(rows), u[:, rows]) for rows in parts]
        return tuple(torch.cat(values, 1) for values in zip(*found, strict=True))

    def slopes(self, chunk: Chunk, u: Tensor, calls: int) -> tuple[Tensor, ...]:
        """Return log P(x, u), log Q(u | x) and their gradients at u [C, n, D], filled up to one of few sizes."""
        n, most = chunk.size, self.data_at_once
        if not self.prepared.divisible or n == most or calls <= FEW:
            return tuple(value.to(u.dtype) for value in self.surface(slopes, chunk, u, calls=calls))
        if n > most:
            return self._by_parts(partial(self.slopes, calls=calls), chunk, u)
        size = min(most, 1 << (n - 1).bit_length())  # a power of 2: hundreds of calls pay for a record of each
        rows = torch.arange(size, device=u.device) % n
        found = self.surface(slopes, chunk.select(rows), u[:, rows], calls=calls)
        return tuple(value[:, :n].to(u.dtype) for value in found)


def _below(fitted: Fitted) -> Known:
    """Return what says of a climb that it is below a mode of its datum's mixture, as that is bent, and ends there."""

    def known(u: Tensor, log_density: Tensor, index: Tensor) -> Tensor:
        row = index % len(fitted.found)
        below = torch.zeros_like(log_density, dtype=torch.bool)
        for j, heights in enumerate(fitted.heights):
            depth = heights[row] - log_density
            (near,) = ((depth > -SAME_HEIGHT) & (depth < SAME_PLACE / 2 + SAME_HEIGHT)).nonzero(as_tuple=True)
            distance = fitted.mixture.distances(u[None, near], j, row[near])[0]
            below[near] |= (distance < SAME_PLACE) & ((depth[near] - distance / 2).abs() < SAME_HEIGHT)
        return below

    return known


def _distances(u: Tensor, mean: Tensor, scale: Tensor, vectors: Tensor, values: Tensor) -> Tensor:
    """Return squared distances of u [..., D] in standard deviations; curvature is 1 but along vectors [..., D, R]."""
    apart = (u - mean) / scale
    along = torch.einsum("...d,...dr->...r", apart, vectors)
    return (apart**2).sum(-1) + ((values - 1) * along**2).sum(-1)


def _moved(mixture: Students, log_weights: Tensor, u: Tensor) -> Students:
    """Return a mixture with means and shares moved to those of weighted samples u [K, N, D]."""
    parts = mixture.log_parts(u)
    member = (parts - torch.logsumexp(parts, 0)).exp()  # [J, K, N]
    weights = torch.softmax(torch.nan_to_num(log_weights, nan=-math.inf).double(), 0).to(u.dtype)
    mass = torch.nan_to_num(weights * member)
    total = mass.sum(1)  # [J, N]
    ess = _effective(mass)
    centre = torch.einsum("jkn,knd->jnd", mass, u) / total[..., None].clamp(min=1e-30)
    part = (ess / (ess + SHRINKAGE))[..., None]
    means = torch.where(total[..., None] > 0, mixture.means + part * (centre - mixture.means), mixture.means)
    shares = (total / total.sum(0).clamp(min=1e-30) + mixture.log_shares.exp()) / 2
    shares = torch.where(mixture.log_shares.isfinite(), shares.clamp(min=min(LEAST_SHARE, 0.25 / len(shares))), 0.0)
    return replace(mixture, means=means, log_shares=(shares / shares.sum(0)).log())


def _effective(mass: Tensor) -> Tensor:
    """Return how many equal weights would be worth as much as these, along their last dimension but one."""
    return mass.sum(-2) ** 2 / (mass**2).sum(-2).clamp(min=1e-30)


def _opposite(draws: Tensor, mean: Tensor, scale: Tensor, count: int) -> Tensor:
    """Return those of the prior's draws [K, N, D] that lie farthest on the other side of it than the guide's mean."""
    centre = draws.median(0).values
    along = ((draws - centre) / scale * (mean - centre) / scale).sum(-1)
    index = along.topk(count, 0, largest=False).indices
    return draws.gather(0, index[..., None].expand(-1, -1, draws.shape[-1]))


def _common(width: Tensor, draws: Tensor) -> Tensor:
    """Return widths [N, D] of draws [K, N, D], those of all data together in dimensions where they are one."""
    centred = draws - draws.median(0).values
    pooled = _width(centred.reshape(-1, 1, draws.shape[-1]))
    if len(width) == 1:
        return pooled
    of_one = math.sqrt(0.93 / len(draws))  # of the logarithm of a Gaussian's width, by its quantiles
    by_chance = of_one * (1 + BY_CHANCE / math.sqrt(2 * (len(width) - 1)))
    return torch.where(width.log().std(0) < by_chance, pooled, width)


def _width(draws: Tensor) -> Tensor:
    """Return half of how far apart the quantiles at 16% and 84% of draws [K, N, D] are, [N, D]; a Gaussian's sigma."""
    low, high = torch.quantile(draws, torch.tensor([0.16, 0.84], dtype=draws.dtype, device=draws.device), dim=0)
    wide = (high - low) / 2
    return torch.where(wide.isfinite() & (wide > 0), wide, torch.ones_like(wide))
