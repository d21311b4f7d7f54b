"""Where a fit starts: parts that take the mean and the spread of the training data before the first step.

Densities stay those of the data as given: a part keeps what it took, and says with it what its h is in units of x. That
is done where h comes straight from one of our networks, which ends in a linear map: a function of one's own, which may
be known or bounded, keeps its unit.
"""

from typing import Any

import torch
from torch import Tensor, nn

from ppl_vae import architectures, networks
from ppl_vae.base import Program
from ppl_vae.data.arrays import Batch
from ppl_vae.data.sources import Source
from ppl_vae.networks import Network, Wrapped
from ppl_vae.parts import FromData, Likelihood
from ppl_vae.traces.pair import Pair
from ppl_vae.traces.run import get_traces
from ppl_vae.utils.rng import seeded

MOST_NUMBERS = 2**22  # that are looked at, evenly spaced where there are more
AT_ONCE = 1000
OURS = {
    cls
    for shelf in (networks, architectures)
    for cls in vars(shelf).values()
    if isinstance(cls, type) and issubclass(cls, nn.Module) and cls.__module__ == shelf.__name__
} - {Wrapped}


def parts_to_start(pair: Pair) -> list[tuple[Any, FromData]]:
    """Return the parts that have not yet taken anything from data, each with its program.

    Those of a program whose weights were set, loaded, or trained by another loop, are left as they are: it goes on from
    the weights that it has.
    """
    found = []
    for whole in pair.all_modules():
        trained = any(isinstance(one, Network) and type(one) in OURS and not one.is_as_made for one in whole.modules())
        for part in whole.modules():
            if isinstance(part, FromData) and not part.started:
                part.started = trained or not part.is_as_made
                found += [] if part.started else [(whole, part)]
    return found


def start_from(parts: list[tuple[Any, FromData]], pair: Pair, source: Source, args: Batch) -> None:
    """Let these parts start from the data; those of another shape (of a part of x, say) stay as they are.

    `args` are some of the data, on which the pair is run. Call it within `pair.running()`.
    """
    if not any(part.takes_something for _, part in parts):
        return
    x, given_freely = some_of(source), _given_freely(pair, args)
    for whole, part in parts:
        generated = whole.generated(x) if isinstance(whole, Program) else x
        if not part.started and generated.is_floating_point() and generated.shape[1:] == part.x_shape:
            free = not isinstance(part, Likelihood) or part in given_freely
            part.start_from(generated.to(pair.device), free=free)


def some_of(source: Source) -> Tensor:
    """Return x of the data, [N, *event_shape], or of so many of them that they fit into memory, evenly spaced."""
    chosen: list[Tensor] = []
    for part in source.kinds.values() or [source]:
        for x, *_ in part.batches(AT_ONCE):
            most = max(1, MOST_NUMBERS // max(1, x.shape[1:].numel()))
            chosen.append(x[:: -(-len(source) // most)].detach().clone())
    return torch.cat(chosen)


def _given_freely(pair: Pair, args: Batch) -> set[nn.Module]:
    """Return the likelihoods whose h is what a network of ours gave that is to be trained, seen in a run."""
    outputs: list[Tensor] = []
    freely: set[nn.Module] = set()

    def note(_: nn.Module, __: Any, output: Tensor) -> None:
        outputs.append(output)

    def look(likelihood: nn.Module, inputs: tuple[Any, ...]) -> None:
        h = inputs[0] if inputs else None
        if any(isinstance(h, Tensor) and h.data_ptr() == o.data_ptr() and h.numel() == o.numel() for o in outputs):
            freely.add(likelihood)

    hooks = []
    for module in {one for whole in pair.all_modules() for one in whole.modules()}:
        if isinstance(module, Likelihood):
            hooks.append(module.register_forward_pre_hook(look))
        elif is_linear_at_the_end(module) and any(p.requires_grad for p in module.parameters()):
            hooks.append(module.register_forward_hook(note))
    try:
        with pair.evaluating(), torch.no_grad(), seeded(0):
            get_traces(pair, args)
    finally:
        for hook in hooks:
            hook.remove()
    return freely


def is_linear_at_the_end(module: nn.Module) -> bool:
    """Return whether a module is a network of ours, all of which end in a linear map, with no person's own in it."""
    return type(module) in OURS and all(type(one) in OURS for one in module.modules() if isinstance(one, Network))
