"""Any Pyro ELBO, with a classifier trained beside it."""

from typing import Any

from pyro import poutine
from pyro.infer import ELBO, TraceEnum_ELBO
from torch import Tensor

from ppl_vae.errors import InputError, check_object, number_from_zero, shown
from ppl_vae.objectives.surrogate import loss_and_surrogate
from ppl_vae.traces.pair import Program, program_name
from ppl_vae.traces.plates import samples


class Classifying(ELBO):
    """An ELBO to which labelled data add how well the guide classifies them.

        J = sum_x ELBO(x) + sum_{x, y} (ELBO(x, y) + weight log Q(y | x))

    The ELBO of a labelled datum does not contain Q(y | x), so without the last term the classifier would learn from
    data without labels only. With N data, N_l of them labelled, the paper's alpha N (alpha = 0.1) is a weight of
    alpha N / N_l. Q(y | x) is the site y of the guide on x alone; any Pyro pair that is called with (x, y) and with
    (x,) will do. Losses that are reported stay the inner objective's; gradients, and `differentiable_loss`, are J's.

    Args:
        elbo: the objective of all data: `TraceEnum_ELBO` sums labels that are missing out, `Trace_ELBO` draws them.
            By default `TraceEnum_ELBO(max_plate_nesting=1)`.
        weight: of log Q(y | x), in nats per nat, for each labelled datum; 0 leaves the inner objective.

    Raises:
        InputError: a weight below 0; in use, a guide without a site y on x alone.

    Source: Kingma et al., arXiv 1406.5298, equation 9.

    >>> import torch
    >>> from pyro.infer import Trace_ELBO
    >>> from ppl_vae import fit
    >>> from ppl_vae.guides import SemiSupervised
    >>> from ppl_vae.models import CVAE
    >>> model, x, y = CVAE((1, 8, 8)), torch.rand(40, 1, 8, 8).round(), torch.arange(40) % 11 - 1
    >>> fitted = fit(model, SemiSupervised(model), (x, y), objective=Classifying(weight=10), epochs=1)
    >>> Classifying(Trace_ELBO(), weight=2.5).__name__
    'Classifying(Trace_ELBO, weight=2.5)'
    """

    def __init__(self, elbo: ELBO | None = None, *, weight: float = 100.0) -> None:
        self.weight = number_from_zero("weight", weight)
        check_object("elbo", elbo)
        if not isinstance(elbo, ELBO | None):
            raise InputError(
                f"Expected elbo to be a Pyro objective; got {shown(elbo)}. Pass one, such as Trace_ELBO()."
            )
        self.elbo: Any = elbo or TraceEnum_ELBO(max_plate_nesting=1, strict_enumeration_warning=False)
        super().__init__(self.elbo.num_particles, self.elbo.max_plate_nesting)  # type: ignore[no-untyped-call]
        self.__name__ = (
            f"Classifying({getattr(self.elbo, '__name__', type(self.elbo).__name__)}, weight={self.weight:g})"
        )

    def loss(self, model: Program, guide: Program, *args: Any) -> float:
        """Return the inner objective's loss, in nats, summed over the data."""
        return self.elbo.loss(model, guide, *args)

    def loss_and_surrogate(self, model: Program, guide: Program, args: tuple[Any, ...]) -> tuple[Tensor, Tensor]:
        """Return the inner objective's loss, and -J, as tensors, if the inner objective can."""
        loss, surrogate = loss_and_surrogate(self.elbo, model, guide, args)
        return loss, surrogate - self.weight * log_q_of_labels(guide, *args) if self.adds(args) else surrogate

    def loss_and_grads(self, model: Program, guide: Program, *args: Any) -> float:
        """Return the inner objective's loss, in nats, and leave the gradients of -J with the parameters."""
        loss = self.elbo.loss_and_grads(model, guide, *args)
        if self.adds(args):
            (-self.weight * log_q_of_labels(guide, *args)).backward()
        return loss

    def differentiable_loss(self, model: Program, guide: Program, *args: Any) -> Tensor:
        """Return -J, in nats."""
        loss: Tensor = self.elbo.differentiable_loss(model, guide, *args)
        return loss - self.weight * log_q_of_labels(guide, *args) if self.adds(args) else loss

    def set_epoch(self, epoch: int) -> None:
        """Tell the inner objective how many epochs are done, if it asks."""
        if hasattr(self.elbo, "set_epoch"):
            self.elbo.set_epoch(epoch)

    def is_warming_up(self, epoch: int) -> bool:
        """Whether the inner objective is not yet what it will be, after so many epochs."""
        return hasattr(self.elbo, "is_warming_up") and bool(self.elbo.is_warming_up(epoch))

    def _get_trace(self, *given: Any) -> Any:  # abstract in Pyro's ELBO
        return self.elbo._get_trace(*given)

    def adds(self, args: tuple[Any, ...]) -> bool:
        """Whether there is a term for the classifier: there are labels, and they count."""
        return self.weight > 0 and len(args) > 1


def log_q_of_labels(guide: Program, x: Tensor, y: Tensor) -> Tensor:
    """Return sum_n log Q(y_n | x_n), in nats; raise an InputError if a guide called with x alone has no site y."""
    trace = poutine.trace(poutine.condition(guide, {"y": y})).get_trace(x)
    if "y" not in samples(trace):
        raise InputError(
            f"Expected a guide with a site 'y' where it is called with x alone; got {sorted(samples(trace))} in "
            f"{program_name(guide)}. Sample y there, or use guide semi_supervised."
        )
    trace.compute_log_prob(lambda name, site: name == "y")
    total: Tensor = trace.nodes["y"]["log_prob_sum"]
    return total
