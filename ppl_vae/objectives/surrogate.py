"""The loss of a Pyro objective as tensors: its value, and what its gradients are the derivatives of.

Pyro's objectives return numbers (`.item()`), which cannot be recorded. What they compute is the same here.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast
from unittest.mock import patch

from pyro.infer import ELBO, Trace_ELBO, TraceMeanField_ELBO, trace_elbo, trace_mean_field_elbo
from pyro.poutine import Trace
from torch import Tensor

from ppl_vae.compilation.capture import CannotCapture
from ppl_vae.objectives.base import ParticleObjective
from ppl_vae.objectives.classification import Classifying, log_q_of_labels
from ppl_vae.traces.pair import Pair, Program
from ppl_vae.traces.plates import samples


def loss_and_surrogate(objective: Any, pair: Pair, args: tuple[Any, ...]) -> tuple[Tensor, Tensor]:
    """Return the loss, and a number whose derivatives are the gradients, in nats, summed over the data.

    Args:
        objective: `Trace_ELBO` or `TraceMeanField_ELBO` of Pyro's, or any of ours.
        pair: the programs.
        args: what both are called with.

    Raises:
        CannotCapture: another objective; latents that are not reparameterized.
    """
    guide = cast(Program, pair.guide)
    if isinstance(objective, ParticleObjective):
        return objective.loss_and_surrogate(pair.model, guide, args, {})
    if isinstance(objective, Classifying):
        loss, surrogate = loss_and_surrogate(objective.elbo, pair, args)
        adds = objective.adds(args)
        return loss, surrogate - objective.weight * log_q_of_labels(guide, *args) if adds else surrogate
    if type(objective) in (Trace_ELBO, TraceMeanField_ELBO):
        return _of_traces(objective, pair, args)
    raise CannotCapture(f"the objective {_name(objective)} is not one of those that can be compiled")


def _of_traces(objective: Any, pair: Pair, args: tuple[Any, ...]) -> tuple[Tensor, Tensor]:
    loss, surrogate = 0.0, 0.0
    with _items_as_tensors():
        for model_trace, guide_trace in objective._get_traces(pair.model, pair.guide, args, {}):
            _check_reparameterized(guide_trace)
            one, other = objective._differentiable_loss_particle(model_trace, guide_trace)
            loss, surrogate = loss + one / objective.num_particles, surrogate + other / objective.num_particles
    return loss, surrogate  # type: ignore[return-value]


def _check_reparameterized(guide_trace: Trace) -> None:
    for name, site in samples(guide_trace).items():
        if not site["fn"].has_rsample and site["log_prob"].requires_grad:
            raise CannotCapture(f"site {name!r} is not reparameterized in the guide")


@contextmanager
def _items_as_tensors() -> Iterator[None]:
    """Within it, Pyro's objectives keep their values as tensors."""
    with (
        patch.object(trace_elbo, "torch_item", _detached),
        patch.object(trace_mean_field_elbo, "torch_item", _detached),
    ):
        yield


def _detached(x: Any) -> Any:
    return x.detach() if isinstance(x, Tensor) else x


def _name(objective: ELBO) -> str:
    return str(getattr(objective, "__name__", type(objective).__name__))
