"""log Q(z | x) as a function of z alone: the guide run again on its samples, with all parameters held fixed.

    d/dphi log Q(z; phi) = (d log Q / dz) (dz / dphi) + (d log Q / dphi at fixed z),

and the second term, the score, has expectation 0 but not variance 0 (Roeder et al., arXiv 1703.09194). Any guide will
do, of several sites and of flows: in the second run a site's distribution depends on the others through their values.
"""

import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd

from ppl_vae.errors import InputError
from ppl_vae.pair import Pair, Program
from ppl_vae.structure import samples


class Frozen(Messenger):
    """Within it, the parameters of these modules, and all that `pyro.param` gives, are constants."""

    def __init__(self, modules: Iterable[nn.Module]) -> None:
        super().__init__()
        self.owners = [part for module in modules for part in module.modules() if part._parameters]

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Hold the parameters fixed, and put them back."""
        live = [(part, dict(part._parameters)) for part in self.owners]
        try:
            for part, parameters in live:
                fixed: dict[str, Any] = {name: p.detach() for name, p in parameters.items() if p is not None}
                part._parameters.update(fixed)
            with warnings.catch_warnings(), self:
                # pyro.module says it of every parameter that is a constant
                warnings.filterwarnings("ignore", message=".*was not registered in the param store")
                yield
        finally:
            for part, parameters in live:
                part._parameters.update(parameters)

    def _pyro_post_param(self, msg: Any) -> None:
        msg["value"] = msg["value"].detach()


def with_values(trace: poutine.Trace, change: Callable[[Tensor], Tensor]) -> poutine.Trace:
    """Return a trace to replay, in which the values of the latent sites are changed."""
    changed = poutine.Trace()
    latents = [name for name, site in samples(trace).items() if not site["is_observed"]]
    nodes: dict[str, Any] = trace.nodes
    for name, site in nodes.items():
        changed.add_node(name, **(site | {"value": change(site["value"])} if name in latents else site))
    return changed


def freezing(model: Program, guide: Program, args: Any, kwargs: Any) -> Frozen:
    """Return what holds the parameters of a guide fixed.

    Raises:
        InputError: a guide whose parameters are not found, or that draws anything but its sites.
    """
    pair = Pair(model, guide)
    frozen = Frozen(pair.all_modules())
    for part in (part for module in Pair(guide).all_modules() for part in module.modules()):
        if isinstance(part, _DropoutNd) and part.p > 0:
            raise InputError(
                "Expected a guide that is the same when it is run again on the same z; got one with dropout. Leave it "
                "out of the guide, or use IWAE or Trace_ELBO."
            )
    with pair.evaluating(), torch.enable_grad(), torch.random.fork_rng(), poutine.block():
        trace = with_values(poutine.trace(guide).get_trace(*args, **kwargs), Tensor.detach)
        with frozen.applied():
            again = poutine.trace(poutine.replay(guide, trace=trace)).get_trace(*args, **kwargs)
            again.compute_log_prob()
    live = [name for name, site in samples(again).items() if site["log_prob"].requires_grad]
    if live:
        raise InputError(
            f"Expected a guide whose parameters are those of a module, or from pyro.param; got others for site "
            f"{', '.join(map(repr, live))}. Make the guide a torch.nn.Module that holds them."
        )
    return frozen
