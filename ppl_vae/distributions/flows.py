"""Normalizing flows, through zuko: the only file that imports it.

    log p(z) = log N(f(z); 0, I) + log |det df/dz|

f is autoregressive: one direction takes one pass through its networks, the other as many as z has dimensions. A prior
is evaluated at any z, so there f is the fast one; a posterior mostly at what it has just drawn, so there T = f^-1 is
(inverse autoregressive), which remembers what it drew.
"""

import itertools
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution, Transform, constraints

from ppl_vae.errors import InputError, did_you_mean, is_one_of, positive_int, shown
from ppl_vae.utils.memory import check_memory

KINDS = {"neural_spline": "NSF", "masked_autoregressive": "MAF"}  # as zuko calls them
START = 0.01  # of the last weights of each network, as a part of PyTorch's: f starts near the identity


def autoregressive(kind: str, features: int, context: int, transforms: int, hidden: Sequence[int]) -> Any:
    """Return a lazy transform of zuko's, z given a context -> f, made of so many autoregressive ones."""
    if not is_one_of(kind, KINDS):
        raise InputError(f"Unknown kind of flow {shown(kind)}: {did_you_mean(kind, KINDS)}.")
    make = getattr(_import_zuko(), KINDS[kind])
    transforms = positive_int("transforms", transforms)
    options = {"transforms": transforms, "hidden_features": hidden}
    sizes = [features + context, *hidden, features]
    check_memory("layers of a flow", transforms * sum(a * b for a, b in itertools.pairwise(sizes)), "Make it smaller.")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # one dimension has no order to reverse
        f = make(features, context, **options).transform
    with torch.no_grad():
        for one in f.transforms:
            # One dimension that reads nothing has free numbers, not a network.
            last = one.hyper[-1].parameters() if hasattr(one, "hyper") else one.phi
            for weights in last:
                weights.mul_(START)
    return f


def _import_zuko() -> Any:
    """Import zuko's flows, and undo what its import does to every distribution: it switches validation off."""
    validate, arg_constraints = Distribution._validate_args, Distribution.__dict__["arg_constraints"]
    from zuko import flows

    Distribution._validate_args = validate
    Distribution.arg_constraints = arg_constraints  # type: ignore[method-assign]
    return flows


class Remembering(Transform):
    """A transform of zuko's and its inverse as one of PyTorch's, with the log-determinant of the last call at hand."""

    domain = codomain = constraints.real_vector
    bijective = True

    def __init__(self, transform: Any, inverse: Any) -> None:
        super().__init__(cache_size=1)
        self.forwards, self.backwards = transform, inverse
        self._last: tuple[Tensor, Tensor, Tensor] | None = None  # x, y = transform(x), log |det dy/dx|

    def with_cache(self, cache_size: int = 1) -> "Remembering":
        """Return the transform itself, which always remembers one call."""
        return self

    def _call(self, x: Tensor) -> Tensor:
        y, log_det = self.forwards.call_and_ladj(x)
        self._last = x, y, log_det
        return y

    def _inverse(self, y: Tensor) -> Tensor:
        x, log_det = self.backwards.call_and_ladj(y)
        self._last = x, y, -log_det
        return x

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        """Return log |det dy/dx| in nats, [...], for x and y [..., D]."""
        if self._last is None or x is not self._last[0] or y is not self._last[1]:
            _, log_det = self.forwards.call_and_ladj(x)
            return log_det
        return self._last[2]
