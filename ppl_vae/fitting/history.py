"""What a fit leaves: its `History`, ELBO over epochs, and the `Fit` that is returned."""

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

Row = tuple[float, ...]


@dataclass(frozen=True)
class History:
    """Training over epochs, one entry an epoch; ELBOs are means per datum, in nats.

    Attributes:
        epoch: 1, 2, ...
        train_elbo: mean of the objective over the batches of the epoch, while it was being trained.
        validation_elbo: of the validation data after the epoch, always with the same noise; NaN without any.
        learning_rate: of the epoch.
    """

    epoch: NDArray[np.float64]
    train_elbo: NDArray[np.float64]
    validation_elbo: NDArray[np.float64]
    learning_rate: NDArray[np.float64]

    @classmethod
    def of(cls, rows: list[Row]) -> "History":
        """Make a history of one row an epoch."""
        return cls(*np.array(rows, dtype=float).reshape(-1, len(fields(cls))).T)


@dataclass(frozen=True)
class Fit:
    """What `fit` returns; the fitted numbers are in the model and the guide themselves.

    Attributes:
        history: ELBO over epochs, as arrays.
        best_epoch: the epoch whose weights were kept.
        stopped: why it ended: "epochs" (all were done) or "patience" (no more improvement).
        seconds: how long the epochs took, those before a resumption included.
        compiled: whether steps were compiled, not run by plain Pyro.
    """

    history: History
    best_epoch: int
    stopped: str
    seconds: float
    compiled: bool = False
