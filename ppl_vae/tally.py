"""What is kept of the log-weights of some data: their numbers, and the bound against K."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from ppl_vae.diagnostics import Array, Curve, bound_curve, estimates, pareto


class Tally(NamedTuple):
    """Numbers of n data, by name, each [n], and their curve."""

    numbers: dict[str, Array]
    curve: Curve

    @classmethod
    def of(cls, log_weights: Array, base: int) -> "Tally":
        """Tally log-weights [K, n]; the curve has points at `base` and its doubles.

        >>> sorted(Tally.of(np.zeros((4, 2)), base=4).numbers)
        ['bias', 'draws', 'elbo', 'elbo_mcse', 'ess', 'khat', 'log_px', 'log_px_psis', 'mcse']
        """
        draws = np.full(log_weights.shape[1], float(len(log_weights)))
        numbers = estimates(log_weights) | pareto(log_weights) | {"draws": draws}
        return cls(numbers, bound_curve(log_weights, base))

    @classmethod
    def joined(cls, tallies: Sequence["Tally"], order: Any = None) -> "Tally":
        """Put tallies side by side, in this order of data; a curve that ends at fewer samples has NaN from there."""
        numbers = {key: np.concatenate([t.numbers[key] for t in tallies]) for key in tallies[0].numbers}
        points = max((t.curve.num_samples for t in tallies), key=len)
        bound, mcse = (
            np.concatenate([_padded(getattr(t.curve, name), len(points)) for t in tallies], axis=1)
            for name in ("bound", "mcse")
        )
        if order is None:
            return cls(numbers, Curve(points, bound, mcse))
        return cls({key: v[order] for key, v in numbers.items()}, Curve(points, bound[:, order], mcse[:, order]))


def _padded(values: Array, length: int) -> Array:
    return np.pad(values, ((0, length - len(values)), (0, 0)), constant_values=np.nan)
