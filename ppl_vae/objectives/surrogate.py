"""The loss of an objective as tensors: its value, and what its gradients are the derivatives of.

An objective of ours says them itself, by a method `loss_and_surrogate(model, guide, args)`. Pyro's own return numbers
(`.item()`) and look for NaN, which cannot be recorded; here they compute the same with tensors.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pyro.infer import Trace_ELBO, TraceMeanField_ELBO, trace_elbo, trace_mean_field_elbo
from pyro.poutine.messenger import Messenger
from torch import Tensor

from ppl_vae.compilation.capture import CannotCapture
from ppl_vae.objectives.checks import scored_by_draws
from ppl_vae.traces.pair import Program

_replacing = threading.RLock()


def loss_and_surrogate(objective: Any, model: Program, guide: Any, args: tuple[Any, ...]) -> tuple[Tensor, Tensor]:
    """Return the loss, and a number whose derivatives are the gradients, in nats, summed over the data.

    Raises:
        CannotCapture: an objective that is neither Pyro's `Trace_ELBO` or `TraceMeanField_ELBO` nor has a
            `loss_and_surrogate` of its own; latents that are not reparameterized.
    """
    if hasattr(objective, "loss_and_surrogate"):
        own: tuple[Tensor, Tensor] = objective.loss_and_surrogate(model, guide, args)
        return own
    if type(objective) not in (Trace_ELBO, TraceMeanField_ELBO):
        name = getattr(objective, "__name__", type(objective).__name__)
        raise CannotCapture(f"the objective {name} is not one of those that can be compiled")
    with _replacing, _as_tensors():
        loss = objective.differentiable_loss(model, _Reparameterized()(guide), *args)
    return loss.detach(), loss


class _Reparameterized(Messenger):
    """Refuse draws of the guide whose gradients go by their log-probability: Pyro's values are no tensors then."""

    def _pyro_post_sample(self, msg: Any) -> None:
        if not msg["is_observed"] and scored_by_draws(msg):
            raise CannotCapture(f"site {msg['name']!r} is not reparameterized in the guide")


@contextmanager
def _as_tensors() -> Iterator[None]:
    """Within it, Pyro's objectives keep their values as tensors and do not look at them; one thread at a time."""
    before = [(module, name, getattr(module, name)) for module, instead in INSTEAD.items() for name in instead]
    try:
        for module, name, _ in before:
            setattr(module, name, INSTEAD[module][name])
        yield
    finally:
        for module, name, value in before:
            setattr(module, name, value)


def _detached(x: Any) -> Any:
    return x.detach() if isinstance(x, Tensor) else x


INSTEAD: dict[Any, dict[str, Any]] = {
    trace_elbo: {"torch_item": _detached, "warn_if_nan": lambda value, *_: value},
    trace_mean_field_elbo: {"torch_item": _detached},
}
