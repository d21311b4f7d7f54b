"""A series of latents as one distribution: each z_t given the one before.

    P(z_1, ..., z_T) = P(z_1) prod_t P(z_t | z_(t-1))

Drawing goes from one step to the next, the density of all steps is one call. Whoever goes step by step (a particle
filter) asks for one of them.
"""

from collections.abc import Callable
from typing import Any

import torch
from pyro.distributions import TorchDistribution
from torch import Size, Tensor
from torch.distributions import constraints

from ppl_vae.distributions.supports import support_of
from ppl_vae.utils.loops import looped

__all__ = ["Chain", "Step", "Where", "looped"]

# P(z_t | z_(t-1)) of S steps: [..., S] distributions of [L] numbers, for z_(t-1) [..., S, L], None at the first step,
# and for what is given at these steps.
Step = Callable[..., TorchDistribution]


class Chain(TorchDistribution):
    """P(z) = prod_t P(z_t | z_(t-1)) over z [T, L].

    Args:
        step: called as `step(before, *given)`: gives P(z_t | z_(t-1)) of S steps, with a batch shape that broadcasts to
            [..., S], for z_(t-1) [..., S, L], and what is given at these steps, [..., S, D] each; at the first step
            `before` is None. All steps have the support of the first, and gradients of draws where it has them.
        num_steps: T.
        given: tensors [..., T, D] whose parts the steps are given.

    >>> import pyro.distributions as dist
    >>> walk = Chain(lambda z, x: dist.Normal(x if z is None else x + z, 1.0).to_event(1), 5, torch.zeros(5, 2))
    >>> walk.sample((3,)).shape, walk.event_shape, walk.log_prob(torch.zeros(5, 2)).shape
    (torch.Size([3, 5, 2]), torch.Size([5, 2]), torch.Size([]))
    """

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012
    _drawn: tuple[Tensor, Tensor] | None = None  # the last z, and log P of its steps, where the draw says it

    def __init__(self, step: Step, num_steps: int, *given: Tensor) -> None:
        self.step, self.num_steps, self.given = step, num_steps, given
        self.first = first = self.at(0, None)
        super().__init__(first.batch_shape[:-1], Size([num_steps, *first.event_shape]), validate_args=False)

    def expand(self, batch_shape: Any, _instance: Any = None) -> "Chain":
        """Return the same chain with another batch shape."""
        new = Chain.__new__(Chain)
        new.step, new.num_steps, new.given, new.first = self.step, self.num_steps, self.given, self.first
        TorchDistribution.__init__(new, Size(batch_shape), self.event_shape, validate_args=False)
        return new

    @property
    def has_rsample(self) -> bool:  # type: ignore[override]
        """Whether draws have gradients, as those of its steps."""
        return bool(self.first.has_rsample)

    @property
    def support(self) -> Any:
        """That of each step."""
        return constraints.independent(support_of(self.first) or constraints.real_vector, 1)

    def at(self, t: int, before: Tensor | None) -> TorchDistribution:
        """Return P(z_t | z_(t-1)), of batch shape [..., 1] or less, for z_(t-1) [..., 1, L], or None at t = 0."""
        return self.step(before, *self._given(slice(t, t + 1)))

    def _given(self, steps: slice) -> tuple[Tensor, ...]:
        return tuple(values[..., steps, :] for values in self.given)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """Draw z, [*sample_shape, *batch_shape, T, L], one step after the other."""
        shape, step, has_rsample = Size(sample_shape) + self.batch_shape + (1,), self.step, self.has_rsample

        def draw(before: Tensor | None, *given: Tensor) -> tuple[Tensor, ...]:
            p = step(before, *given).expand(shape)
            z = p.rsample() if has_rsample else p.sample()
            return (z, p.log_prob(z)) if hasattr(p, "transforms") else (z,)  # flows know the density of what they draw

        first = draw(None, *self._given(slice(0, 1)))
        drawn = [first, *looped(draw, first[0], self.num_steps - 1, *self._given(slice(1, self.num_steps)))]
        z, *log_prob = (torch.cat(parts, -2 if i == 0 else -1) for i, parts in enumerate(zip(*drawn, strict=True)))
        self._drawn = (z, log_prob[0]) if log_prob else None
        return z

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draw z without gradients."""
        with torch.no_grad():
            return self.rsample(sample_shape)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return log P(z) in nats, [...], for z [..., T, L]."""
        if self._drawn is not None and value is self._drawn[0]:
            terms = self._drawn[1]
        else:
            terms = self.at(0, None).log_prob(value[..., :1, :])
            if self.num_steps > 1:
                steps = self.step(value[..., :-1, :], *self._given(slice(1, self.num_steps)))
                others = steps.log_prob(value[..., 1:, :])
                shape = torch.broadcast_shapes(terms.shape[:-1], others.shape[:-1])
                terms = torch.cat([term.expand(*shape, term.shape[-1]) for term in (terms, others)], -1)
        total = terms.sum(-1)
        return total.expand(torch.broadcast_shapes(total.shape, self.batch_shape))


class Where(TorchDistribution):
    """One distribution where a condition holds, another one elsewhere; both over vectors.

    >>> import pyro.distributions as dist
    >>> one, other = (dist.Normal(torch.full((2, 3), m), 1.0).to_event(1) for m in (0.0, 9.0))
    >>> Where(torch.tensor([True, False]), one, other).log_prob(torch.zeros(2, 3)).round()
    tensor([  -3., -124.])
    """

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012
    support = constraints.real_vector

    def __init__(self, condition: Tensor, one: TorchDistribution, other: TorchDistribution) -> None:
        shape = torch.broadcast_shapes(condition.shape, one.batch_shape, other.batch_shape)
        self.condition, self.one, self.other = condition.expand(shape), one.expand(shape), other.expand(shape)
        self._drawn: tuple[Tensor, Tensor, Tensor] | None = None
        super().__init__(shape, one.event_shape, validate_args=False)

    @property
    def has_rsample(self) -> bool:  # type: ignore[override]
        """Whether draws have gradients: both have."""
        return bool(self.one.has_rsample and self.other.has_rsample)

    @property
    def transforms(self) -> Any:
        """Those of the first: a flow that knows the density of what it has just drawn."""
        return self.one.transforms

    def expand(self, batch_shape: Any, _instance: Any = None) -> "Where":
        """Return the same with another batch shape."""
        shape = Size(batch_shape)
        return Where(self.condition.expand(shape), self.one, self.other)

    def _draw(self, sample_shape: Any, how: str) -> Tensor:
        one, other = (getattr(fn, how)(sample_shape) for fn in (self.one, self.other))
        z = torch.where(self.condition[..., None], one, other)
        self._drawn = z, one, other
        return z

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """Draw from the one of both that is meant."""
        return self._draw(sample_shape, "rsample")

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draw without gradients."""
        return self._draw(sample_shape, "sample")

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log-density by the one of both that is meant, in nats."""
        known = self._drawn is not None and value is self._drawn[0]
        one, other = self._drawn[1:] if known and self._drawn is not None else (value, value)
        return torch.where(self.condition, self.one.log_prob(one), self.other.log_prob(other))
