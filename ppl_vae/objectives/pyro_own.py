"""Pyro's own objectives in a fit: what each reports, and where its number is not what its name says."""

from collections.abc import Sequence
from typing import Any

import torch
from pyro.infer import RenyiELBO, ReweightedWakeSleep, Trace_ELBO, TraceTailAdaptive_ELBO
from pyro.poutine import Trace
from torch import Tensor

from ppl_vae.errors import InputError
from ppl_vae.traces.plates import samples
from ppl_vae.traces.sites import Site
from ppl_vae.utils.faults import warn


class _TailAdaptive(TraceTailAdaptive_ELBO):
    """The same steps; its loss, which Pyro leaves out, is that of the ELBO of the same samples."""

    __name__ = TraceTailAdaptive_ELBO.__name__

    def loss(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> Any:
        return Trace_ELBO.loss(self, model, guide, *args, **kwargs)

    def _differentiable_loss_particle(self, model_trace: Trace, guide_trace: Trace) -> tuple[Any, Tensor]:
        _, surrogate = super()._differentiable_loss_particle(model_trace, guide_trace)  # type: ignore[no-untyped-call]
        with torch.no_grad():
            loss, _ = Trace_ELBO._differentiable_loss_particle(self, model_trace, guide_trace)
        return loss, surrogate


def reporting(objective: Any) -> Any:
    """Return an objective that reports a loss: as it is, or one that takes the same steps and reports the ELBO.

    Raises:
        InputError: a `TraceTailAdaptive_ELBO` that does not draw all its samples in one run, as Pyro's must.
    """
    if type(objective) is not TraceTailAdaptive_ELBO:
        return objective
    if not objective.vectorize_particles or objective.num_particles < 2:
        raise InputError(
            f"Expected a TraceTailAdaptive_ELBO that draws two samples or more in one run; got num_particles="
            f"{objective.num_particles}, vectorize_particles={objective.vectorize_particles}. Give it "
            f"num_particles=8, vectorize_particles=True."
        )
    same = _TailAdaptive()  # type: ignore[no-untyped-call]
    vars(same).update(vars(objective))
    return same


def check_weighed(objective: Any, traces: Sequence[Trace], num_data: int) -> None:
    """Refuse scales in an objective that weighs its samples by exponentials; warn where it weighs them for all data.

    `traces` are of a run of (model, guide) on so many data.
    """
    if not isinstance(objective, RenyiELBO | ReweightedWakeSleep) or objective.num_particles < 2:
        return
    name = type(objective).__name__
    sites = [site for trace in traces for site in samples(trace).values()]
    scaled = next((site for site in sites if not bool((torch.as_tensor(site["scale"]) == 1).all())), None)
    if scaled is not None:
        raise InputError(
            f"Expected sites without a scale for {name}, which takes the exponential of log-probabilities; got scale "
            f"{float(torch.as_tensor(scaled['scale']).flatten()[0]):g} at site {scaled['name']!r}. Give the plate the "
            f"size of the batch, pyro.plate('data', len(x)), leave poutine.scale out, or use IWAE."
        )
    outside = [site["name"] for site in sites if not _stands_alone(site, sites, num_data)]
    if num_data > 1 and (outside or isinstance(objective, ReweightedWakeSleep)):
        why = f", as {outside[0]!r} stands outside of the plate over them" if outside else ""
        warn(
            f"{name} weighs its {objective.num_particles} samples for all data of a batch together{why}: its number "
            f"is a bound for the batch as a whole, looser than that of each datum, which IWAE is."
        )


def _stands_alone(site: Site, sites: Sequence[Site], num_data: int) -> bool:
    """Return whether a site stands in each plate over the data that any site stands in."""
    plates = {frame.name for other in sites for frame in other["cond_indep_stack"] if frame.size == num_data}
    return plates <= {frame.name for frame in site["cond_indep_stack"]}
