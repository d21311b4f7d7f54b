"""The dtype in which data go to programs: that of the model's parameters, where nobody has chosen another that works.

x as an array of NumPy, pandas, ... is converted, and so are floats after it: 64 bits are NumPy's choice, not its
owner's. Whole numbers and masks after x stay: they may be an index. A tensor keeps the dtype that its owner chose. The
other of the two is taken only where the programs run on it, and not on the first; a guide whose networks read x by a
`Preprocessing`, which would take any, is given that of the parameters.
"""

import copy
from collections.abc import Sequence

import torch

from ppl_vae.data.arrays import Batch
from ppl_vae.data.batch_sizes import runs
from ppl_vae.data.sources import Source, converted
from ppl_vae.missing import filled_by_others
from ppl_vae.parts import Preprocessing
from ppl_vae.traces.pair import Pair
from ppl_vae.utils.rng import seeded

Dtypes = tuple[torch.dtype, ...]


def cast_to_fit(source: Source, first: Batch, pair: Pair, free: Sequence[bool]) -> Source:
    """Return a source in the dtypes that suit the programs.

    Args:
        source: the data.
        first: a few of them.
        pair: the programs; one that is not running.
        free: which tensors have a dtype that nobody chose; none of what comes in batches of its own.
    """
    own = tuple(t.dtype for t in first)
    chosen = _in_turn(own, (*free, *[False] * len(own))[: len(own)], pair)
    if len(chosen) > 1:
        args = tuple(filled_by_others(t) for t in first)
        chosen = [dtypes for dtypes in chosen if _runs(pair, converted(args, dtypes))][:1] or chosen
    return source if chosen[0] == own else source.cast(chosen[0])


def _in_turn(own: Dtypes, free: Sequence[bool], pair: Pair) -> list[Dtypes]:
    """Return the dtypes to be tried, the most likely first; one only, if nothing speaks for another."""
    known = _dtype_of_parameters(pair)
    wanted = known or torch.get_default_dtype()
    suiting = tuple(wanted if i == 0 or t.is_floating_point else t for i, t in enumerate(own))
    kept = [not f or t.is_floating_point or t == torch.bool for t, f in zip(own, free, strict=True)]
    plain = tuple(t if keep else torch.int64 for t, keep in zip(own, kept, strict=True))
    usual = tuple(s if f else t for s, t, f in zip(suiting, own, free, strict=True))
    if known is not None and free[0] and own[0].is_floating_point:
        return [usual]
    # Networks that read x by a part of ours would take any: then its dtype is not its owner's choice of an index.
    parts = (part for module in pair.all_modules() for part in module.modules())
    reads_any = any(isinstance(part, Preprocessing) for part in parts)
    return list(dict.fromkeys([suiting, usual, plain] if reads_any else [usual, suiting, plain]))


def _dtype_of_parameters(pair: Pair) -> torch.dtype | None:
    """Return the dtype of the parameters of both programs, as far as they are known before a run."""
    tensors = [*pair.tensors().values(), *(p for module in pair.all_modules() for p in module.parameters())]
    return next((t.dtype for t in tensors if t.is_floating_point()), None)


def _runs(pair: Pair, args: Batch) -> bool:
    """Return whether copies of both programs run on some data, and score them; nothing is left of that."""
    try:
        programs = copy.deepcopy(tuple(pair.programs.values()))
    except Exception:  # whatever a person's own objects do
        programs = tuple(pair.programs.values())
    trial = Pair(*programs, fresh=True)
    with seeded(0), trial.running(), trial.evaluating():
        return runs(trial.model, trial.guide, trial.to_device(args))
