"""Values of x that no training datum has: nothing is learned of them, and nobody should believe what is imputed there.

Its error would be small, as the weights agree on what they happened to begin with. A fit says it, and so does every
imputation by what was fitted then.
"""

import weakref
from contextlib import suppress
from typing import Any

import torch

from ppl_vae.data.sources import Source
from ppl_vae.traces.programs import Program, core
from ppl_vae.utils.faults import warn

_NEVER_OBSERVED: weakref.WeakKeyDictionary[Any, str] = weakref.WeakKeyDictionary()  # by model, in words


def note_unobserved(model: Program, source: Source) -> str:
    """Keep in mind which values are missing in all training data of a model, and return it in words."""
    unknown = _never_observed(source)
    with suppress(TypeError):  # an object that cannot be kept in mind
        _NEVER_OBSERVED[core(model).owner] = unknown
    return unknown


def warn_of_unobserved(model: Program) -> None:
    """Warn, before an imputation, of what the model's training data had no values of."""
    unknown = ""
    with suppress(TypeError):
        unknown = _NEVER_OBSERVED.get(core(model).owner, "")
    if unknown:
        warn(f"{unknown} of the training: what is imputed there means nothing, however small its error.")


def _never_observed(source: Source) -> str:
    """Say which values of x are missing in all data, once `find_holes` has looked; nothing if there are none."""
    holes = [(part.holes or {}).get(0) for part in source.kinds.values() or [source]]
    if any(some is None for some in holes):
        return ""
    counts = torch.stack([some.counts for some in holes if some is not None]).sum(0)
    where = ["".join(f"[{i}]" for i in index) for index in (counts == len(source)).nonzero().tolist()]
    if not where:
        return ""
    shown = ", ".join([f"x{index}" for index in where[:5]] + ["..."] * (len(where) > 5))
    return f"{len(where)} of {counts.numel()} values of x are missing in all {len(source)} data ({shown})"
