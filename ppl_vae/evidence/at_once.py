"""How many samples of each datum are drawn in one run: under one more plate, as copies of the data, or one by one.

A program that takes one batch dimension only (`x.view(x.size(0), -1)`, a convolution) does not run under another plate.
As data do not depend on each other, it can be given each of them K times instead, and draws K samples of each.
"""

from dataclasses import replace
from typing import Any

import torch

from ppl_vae.errors import InputError, reason
from ppl_vae.evidence.prepare import Prepared
from ppl_vae.traces.log_weights import log_weights
from ppl_vae.traces.pair import program_name
from ppl_vae.traces.plates import Structure
from ppl_vae.utils.faults import warn
from ppl_vae.utils.rng import seeded


def drawn_at_once(
    prepared: Prepared, wanted: bool | str, proposal: str, *, copies: bool = True
) -> tuple[Structure, bool]:
    """Return how samples are drawn: a structure, under a plate or as copies of the data, and whether all in one run.

    It is as is wanted, or, of "auto", the first way that works, with a warning. `copies` is whether the programs take
    any data, so that copies of them are possible.
    """
    structure = prepared.structure
    if wanted != "auto" or not structure.plated:
        return structure, bool(wanted)
    chunk = next(prepared.chunks(2))
    as_copies = [(replace(structure, plated=False), True)] if copies and prepared.divisible else []
    problems = []
    for way in [(structure, True), *as_copies, (structure, False)]:
        shape, at_once = way
        try:
            with seeded(0), torch.no_grad():
                how: Any = {"proposal": proposal, "subsample": chunk.subsample, "vectorize": at_once}
                log_weights(prepared.pair, chunk.args, 2, shape, **how)
        except (InputError, ValueError, RuntimeError) as problem:
            problems.append(problem)
            continue
        if problems:
            who = " and ".join(map(program_name, prepared.pair.programs.values()))
            warn(
                f"Samples are drawn {in_words(*way)}, as {who} do not run under one more plate to the left of theirs: "
                f"{reason(problems[0].__cause__ or problems[0])}. Let them take any leading batch dimensions, or pass "
                f"vectorize=False for one sample in a run."
            )
        return way
    return structure, True  # nothing works, for another reason: the estimate says which


def in_words(structure: Structure, at_once: bool) -> str:
    """Return how samples are drawn, in words; nothing of the usual way, under one more plate."""
    if not at_once:
        return "one in a run, which takes longer"
    return "" if structure.plated else "as copies of the data"


def plated_or_copied(prepared: Prepared, proposal: str, *, copies: bool = True) -> Prepared:
    """Return a pair for what needs all samples in one run: in a plate, or, where it does not run there, as copies."""
    return replace(prepared, structure=drawn_at_once(prepared, "auto", proposal, copies=copies)[0])
