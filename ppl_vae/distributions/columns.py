"""Columns of a table side by side: each number of a datum has a distribution of its own, those of one kind are one.

Forty columns of five kinds are five distributions over all the columns of a kind, so that the cost is that of five.
"""

from collections.abc import Sequence
from typing import Any

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import constraints

from ppl_vae.missing import a_number_inside


class EachColumn(constraints.Constraint):
    """The constraint that each number of [..., D] is in the support of its column.

    >>> EachColumn([constraints.positive, constraints.boolean]).check(torch.tensor([[0.5, 1.0], [0.0, 0.5]]))
    tensor([[ True,  True],
            [False, False]])
    """

    event_dim = 0

    def __init__(self, supports: Sequence[Any], names: Sequence[str] = ()) -> None:
        super().__init__()
        self.supports = list(supports)
        self.names = list(names)
        self.inside = [a_number_inside(support) for support in self.supports]
        self.is_discrete = all(support.is_discrete for support in self.supports)

    def __str__(self) -> str:
        return f"the supports of {len(self.supports)} columns"

    def check(self, value: Tensor) -> Tensor:
        """Return which numbers are inside, in the shape of the value."""
        columns = value.broadcast_to(*value.shape[:-1], len(self.supports)).unbind(-1)
        inside = [support.check(column) for support, column in zip(self.supports, columns, strict=True)]
        return torch.stack(inside, -1)


class Columns(TorchDistribution):
    """Distributions of the columns of each kind, [..., D_g], as one over all columns, [..., D]; elementwise.

    Args:
        kinds: a distribution for each kind.
        columns: [D], which columns they are, one kind after another.
        order: [D], where each column stands there: the inverse.
        support: the support of each column.
    """

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012  (the parameters are those of the kinds)

    def __init__(
        self,
        kinds: Sequence[Any],
        columns: Tensor,
        order: Tensor,
        support: EachColumn,
        validate_args: bool | None = None,
    ) -> None:
        self.kinds, self.columns, self.order, self._support = list(kinds), columns, order, support
        self.sizes = [kind.batch_shape[-1] for kind in self.kinds]
        super().__init__(torch.Size([*self.kinds[0].batch_shape[:-1], len(order)]), validate_args=validate_args)

    @constraints.dependent_property(event_dim=0)
    def support(self) -> Any:
        """The support of each column."""
        return self._support

    def column(self, index: int) -> Any:
        """Return the distribution of a column and of the others of its kind, which has its name."""
        place = int(self.order[index])
        for kind, size in zip(self.kinds, self.sizes, strict=True):
            if place < size:
                return kind
            place -= size
        raise IndexError(index)

    def expand(self, batch_shape: Any, _instance: Any = None) -> "Columns":
        """Return the same with a larger batch shape."""
        *left, _ = batch_shape
        kinds = [kind.expand(torch.Size([*left, size])) for kind, size in zip(self.kinds, self.sizes, strict=True)]
        return Columns(kinds, self.columns, self.order, self._support, validate_args=self._validate_args)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return log p of each number, [..., D]."""
        if self._validate_args:
            self._validate_sample(value)
        by_kind = value[..., self.columns].split(self.sizes, -1)
        return self._in_order([kind.log_prob(part) for kind, part in zip(self.kinds, by_kind, strict=True)])

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Return draws, [*sample_shape, ..., D]."""
        return self._in_order([kind.sample(torch.Size(sample_shape)) for kind in self.kinds])

    @property
    def mean(self) -> Tensor:
        """E[x] of each column, [..., D]."""
        return self._in_order([kind.mean for kind in self.kinds])

    def _in_order(self, parts: Sequence[Tensor]) -> Tensor:
        return torch.cat(list(parts), -1)[..., self.order]
