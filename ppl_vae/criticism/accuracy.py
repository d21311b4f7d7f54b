"""What a guide says of labels: Q(y | x), its site y where it is called with x alone, and how often that is right."""

from typing import Any

import torch
from pyro import poutine
from torch import Tensor

from ppl_vae.data.as_source import as_source
from ppl_vae.errors import InputError
from ppl_vae.traces.pair import Pair, Program, program_name
from ppl_vae.traces.plates import samples
from ppl_vae.utils.rng import seeded


def accuracy(guide: Program, data: Any) -> float:
    """Return the share a of N data whose label is most probable under Q(y | x); its error is sqrt(a (1 - a) / N).

    Args:
        guide: any Pyro guide that samples y, a site with finitely many values, where it is called with x alone.
        data: with labels: a split of ours, or a tuple (x, y).

    Raises:
        InputError: data without labels, or a guide that does not classify.

    >>> from ppl_vae.guides import SemiSupervised
    >>> from ppl_vae.models import CVAE
    >>> 0 <= accuracy(SemiSupervised(CVAE((1, 8, 8))), (torch.zeros(5, 1, 8, 8), torch.arange(5))) <= 1
    True
    """
    pair = Pair(guide)
    right = []
    with seeded(0), pair.running(), pair.evaluating(), torch.no_grad():
        for batch in as_source(data, pair, ordered=True).batches(1000):
            x, *labels = pair.to_device(batch)
            if not labels:
                raise InputError(
                    "Expected labels to hold Q(y | x) against; got x alone. Pass a split or a tuple (x, y)."
                )
            best = most_probable(guide, x)
            if labels[0].shape != best.shape:
                raise InputError(
                    f"Expected labels {list(best.shape)}, one number each; got shape {tuple(labels[0].shape)}. If they "
                    f"are one-hot, pass y.argmax(-1)."
                )
            right.append(best == labels[0])
    return float(torch.cat(right).double().mean())


def most_probable(guide: Program, x: Tensor) -> Tensor:
    """Return the label of each x that is most probable under Q(y | x), [N]; call it within `Pair.running()`."""
    try:
        sites = samples(poutine.trace(guide).get_trace(x))
    except InputError:  # it asks for the label
        sites = {}
    if "y" not in sites or not sites["y"]["fn"].has_enumerate_support:
        raise InputError(
            f"Expected a guide with a discrete site 'y' where it is called with x alone; got {sorted(sites)} in "
            f"{program_name(guide)}. Sample y there, or use guide semi_supervised."
        )
    values = sites["y"]["fn"].enumerate_support()
    best = sites["y"]["fn"].log_prob(values).argmax(0)
    return values.gather(0, best.unsqueeze(0))[0]
