"""What a fit leaves: its `History`, ELBO over epochs, and the `Fit` that is returned."""

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from ppl_vae.utils.report import Report, Reported, number

Row = tuple[float, ...]
SHOWN = 8  # epochs


@dataclass(frozen=True, eq=False, repr=False)
class History(Reported):
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

    def report(self) -> Report:
        """Return what is printed: some epochs, the last of them among them."""
        count = len(self.epoch)
        head = ("epoch", "train ELBO", "validation ELBO", "learning rate")
        rows = [
            (f"{self.epoch[i]:.0f}", number(self.train_elbo[i]), number(self.validation_elbo[i]), f"{rate:.2g}")
            for i in np.unique(np.linspace(0, count - 1, min(count, SHOWN)).astype(int))
            for rate in self.learning_rate[i : i + 1]
        ]
        return Report(f"{count} epochs; ELBO in nats per datum", words=[head, *rows] if rows else [])


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
