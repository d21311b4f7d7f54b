"""What a fit leaves: its `History`, ELBO over epochs, and the `Fit` that is returned."""

from contextlib import AbstractContextManager
from dataclasses import dataclass, field, fields

import numpy as np
from numpy.typing import NDArray

from ppl_vae.traces.parameters import Parameters, empty_store
from ppl_vae.utils.report import Mean, Report, Reported, number
from ppl_vae.utils.report import Row as TableRow

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


@dataclass(frozen=True, repr=False, eq=False)
class Fit(Reported):
    """What `fit` returns; the fitted numbers are in the modules, and, of what `pyro.param` gives, in `params`.

    Attributes:
        history: ELBO over epochs, as arrays.
        best_epoch: the epoch whose weights were kept; 0 if none was finished.
        stopped: why it ended: "epochs" (all were done), "patience" (no more improvement) or "interrupted" (Ctrl-C, or
            the stop button of a notebook).
        seconds: how long the epochs took, those before a resumption included.
        compiled: whether steps were compiled, not run by plain Pyro.
        params: what `pyro.param` gives in the programs, by name, as they see it (constrained). Modules hold their own.
        warming_up: whether it ended before its objective was what it is to be, inside a warm-up: no epoch was compared.
    """

    history: History
    best_epoch: int
    stopped: str
    seconds: float
    compiled: bool = False
    params: Parameters = field(default_factory=lambda: Parameters(empty_store()))
    warming_up: bool = False

    def parameters(self) -> AbstractContextManager[None]:
        """Let all of Pyro see what was fitted, within `with fitted.parameters():`.

        There `pyro.param`, `pyro.infer.Predictive`, `infer_discrete`, or the guide called by hand find the fitted
        values in Pyro's own parameter store, which holds nothing else meanwhile; what it held comes back.

        >>> import pyro, torch, ppl_vae
        >>> import pyro.distributions as dist
        >>> def model(x):
        ...     with pyro.plate("data", len(x)):
        ...         pyro.sample("x", dist.Normal(pyro.param("mean", torch.tensor(0.0)), 1.0), obs=x)
        >>> fitted = ppl_vae.fit(model, lambda x: None, torch.full((50,), 2.0), epochs=200, learning_rate=0.1)
        >>> round(float(fitted.params["mean"]), 2)
        2.0
        >>> with fitted.parameters():
        ...     round(pyro.param("mean").item(), 2)
        2.0
        """
        return self.params.in_store()

    def report(self) -> Report:
        """Return what is printed: how it went, and the ELBOs of the best epoch and of the last."""
        history, last = self.history, len(self.history.epoch)
        named = {"train ELBO": history.train_elbo, "validation ELBO": history.validation_elbo}
        epochs = dict.fromkeys(epoch for epoch in (self.best_epoch, last) if epoch)
        rows: list[TableRow] = []
        for label, elbo in named.items():
            shown = [epoch for epoch in epochs if not np.isnan(elbo[epoch - 1])]
            rows += [(label, Mean(float(elbo[e - 1]), np.nan, np.nan), self._which(e, last)) for e in shown]
        lines = {
            "epochs": "Ended as all epochs were done.",
            "patience": "Ended by patience: no better validation ELBO in the last epochs.",
            "interrupted": f"Interrupted: what {'was learned until then' if last else 'there was before'} is kept.",
        }
        how = " (compiled)" if self.compiled else ""
        kept = f"the weights of epoch {self.best_epoch} are kept" if self.best_epoch else "no epoch was finished"
        return Report(
            f"Fit: {last} epochs in {self.seconds:.1f} s{how}; {kept}", rows, [lines[self.stopped], *self._of_warm_up()]
        )

    def _of_warm_up(self) -> list[str]:
        said = (
            "Ended inside the warm-up: the bound itself was never raised, and the latest epoch is kept, not the best."
        )
        return [said] if self.warming_up else []

    def _which(self, epoch: int, last: int) -> str:
        words = [word for word, is_it in (("best", epoch == self.best_epoch), ("last", epoch == last)) if is_it]
        return f"nats per datum, epoch {epoch} ({', '.join(words)})"
