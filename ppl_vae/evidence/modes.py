"""Modes of many densities at once: climbed to by L-BFGS, each row on its own, then polished by Newton's steps.

    u <- u + t H g,    g = d log f / du,    H: the inverse curvature that the last steps show

Rows do not depend on each other, so all take their steps together. A row whose step did not raise log f tries half of
it in the next round, while others go on. Everything is in units of `scale`, in which the curvature is near 1 or above.
It knows nothing of programs.

Sources: Liu & Nocedal, On the limited memory BFGS method, Mathematical Programming 45 (1989); Nocedal & Wright,
Numerical Optimization (2006), algorithm 7.4.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

Index = Tensor  # of rows, [r]
Climbable = Callable[[Tensor, Index], tuple[Tensor, Tensor]]  # u [r, D] of these rows -> log f [r] and gradient [r, D]
Known = Callable[[Tensor, Tensor, Index], Tensor]  # u [r, D] and log f [r] of these rows -> whether they need not go on

MEMORY = 12  # pairs of steps and changes of the gradient that are kept
SUFFICIENT = 1e-4  # of the rise that the slope promises, at least
NEAR = 1e-2  # nats that a quadratic with the curvature of the last steps would still gain: near enough for a proposal
FIRST, LONGEST = 0.3, 3.0  # a step's length at first, which doubles, and at most; in units of `scale`, over sqrt(D)
FARTHER, FARTHEST = 4.0, 1e12  # times at each step, and in all, where log f is not concave: far from a mode, in a tail
AGAIN = 3  # steps in a row that are near enough: along a bent valley one may seem so
HALVINGS = 12  # in a row: then there is no way up that numbers of this precision show


class Summits(NamedTuple):
    """Where rows have come to."""

    position: Tensor  # u, [R, D]
    log_density: Tensor  # [R]
    reached: Tensor  # whether the climb ended by itself, [R]
    known: Tensor  # whether it was ended below a mode that is known, [R]


class _Memory:
    """The last steps s and changes of the gradient y of every row: H as L-BFGS has it."""

    def __init__(self, like: Tensor) -> None:
        rows, size = like.shape
        self.steps = like.new_zeros(MEMORY, rows, size)
        self.changes = like.new_zeros(MEMORY, rows, size)
        self.inverse = like.new_zeros(MEMORY, rows)  # 1 / (s y); 0 where there is no pair
        self.gamma = like.new_ones(rows)
        self.count = torch.zeros(rows, dtype=torch.long, device=like.device)  # pairs of each row so far

    def add(self, index: Index, step: Tensor, change: Tensor) -> None:
        """Keep a pair of some rows, where it shows a curvature that is positive; elsewhere go farther at once."""
        product, size = (step * change).sum(-1), (change**2).sum(-1)
        good = product > 1e-6 * size.clamp(min=1e-30)
        far = index[~good]
        self.gamma[far] = (FARTHER * self.gamma[far]).clamp(max=FARTHEST)
        index, step, change, product = index[good], step[good], change[good], product[good]
        slot = self.count[index] % MEMORY
        self.steps[slot, index], self.changes[slot, index], self.inverse[slot, index] = step, change, 1 / product
        self.gamma[index] = product / size[good]
        self.count[index] += 1

    def direction(self, index: Index, gradient: Tensor) -> Tensor:
        """Return H g of some rows: the two loops of L-BFGS."""
        most = int(self.count[index].max().clamp(max=MEMORY)) if len(index) else 0
        slots = [(self.count[index] - 1 - i) % MEMORY for i in range(most)]
        q, alphas = gradient, []
        for slot in slots:
            alpha = self.inverse[slot, index] * (self.steps[slot, index] * q).sum(-1)
            q = q - alpha[:, None] * self.changes[slot, index]
            alphas.append(alpha)
        q = self.gamma[index][:, None] * q
        for slot, alpha in zip(reversed(slots), reversed(alphas), strict=True):
            beta = self.inverse[slot, index] * (self.changes[slot, index] * q).sum(-1)
            q = q + (alpha - beta)[:, None] * self.steps[slot, index]
        return q


def climb(evaluate: Climbable, start: Tensor, scale: Tensor, num_rounds: int, known: Known | None = None) -> Summits:
    """Climb from every row of start [R, D], in units of scale [R, D], in at most so many evaluations of each.

    A row at which log f is not finite stays where it is, and has not reached a mode. One that is `known` to be below a
    mode that was found before stops there.

    >>> def normal(u, rows):
    ...     return -((u - 3) ** 2).sum(-1) / 2, 3 - u
    >>> climb(normal, torch.zeros(2, 5), torch.ones(2, 5), 20).position.mean().item()
    3.0
    """
    position, every = start.clone(), torch.arange(len(start), device=start.device)
    log_density, gradient = evaluate(position, every)
    gradient = _finite(gradient) * scale
    memory = _Memory(start)
    active = log_density.isfinite()
    reached, ended = torch.zeros_like(active), torch.zeros_like(active)
    length, halvings, near = torch.ones_like(log_density), torch.zeros_like(log_density), torch.zeros_like(log_density)
    longest = torch.full_like(log_density, FIRST)
    direction = _limited(gradient, longest)
    for _ in range(num_rounds):
        index = active.nonzero()[:, 0]
        if not len(index):
            break
        way = length[index][:, None] * direction[index]
        tried = position[index] + way * scale[index]
        value, slope = evaluate(tried, index)
        slope = _finite(slope) * scale[index]
        promised = (way * gradient[index]).sum(-1)
        rose = value.isfinite() & (value >= log_density[index] + SUFFICIENT * promised)
        up, down = index[rose], index[~rose]
        memory.add(up, way[rose], (gradient[up] - slope[rose]))
        position[up], log_density[up], gradient[up] = tried[rose], value[rose], slope[rose]
        length[up], halvings[up] = 1.0, 0.0
        longest[up] = (2 * longest[up]).clamp(max=LONGEST)
        direction[up] = _limited(memory.direction(up, slope[rose]), longest[up])
        length[down], halvings[down] = length[down] / 2, halvings[down] + 1
        gain = (direction[index] * gradient[index]).sum(-1) / 2
        near[index] = torch.where((gain < NEAR) & (halvings[index] == 0), near[index] + 1, 0)
        done = near[index] == AGAIN
        stuck = halvings[index] >= HALVINGS
        reached[index[done | stuck]] = True
        active[index[done | stuck]] = False
        if known is not None:
            ended[index[known(position[index], log_density[index], index)]] = True
            active &= ~ended
    return Summits(position, log_density, reached, ended)


def _limited(direction: Tensor, longest: Tensor) -> Tensor:
    """Return directions [r, D] no longer than steps may be, [r], so that no mode is jumped over."""
    most = (longest * direction.shape[-1] ** 0.5)[:, None]
    return direction * (most / torch.maximum(direction.norm(dim=-1, keepdim=True), most))


def _finite(gradient: Tensor) -> Tensor:
    return torch.nan_to_num(gradient, nan=0.0, posinf=0.0, neginf=0.0)
