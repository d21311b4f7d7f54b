"""How many samples of each datum are drawn in one run: under one more plate, as copies of the data, or one by one.

A program that takes one batch dimension only (`x.view(x.size(0), -1)`, a convolution) does not run under another plate.
Given each of N data K times, it draws K samples of each all the same, as data do not depend on each other.
"""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ppl_vae.errors import InputError, reason
from ppl_vae.evidence.prepare import Chunk, Prepared
from ppl_vae.traces.log_weights import Weighted, checked, draw, log_weights
from ppl_vae.traces.pair import Pair, program_name
from ppl_vae.traces.plates import Structure
from ppl_vae.utils.faults import warn
from ppl_vae.utils.rng import seeded

PLATE, COPIES, ONE_BY_ONE = "plate", "copies", "one by one"
IN_WORDS = {COPIES: "as copies of the data", ONE_BY_ONE: "one in a run, which takes longer"}


def way_of_drawing(prepared: Prepared, wanted: bool | str, proposal: str, *, copies: bool = True) -> str:
    """Return how samples are drawn: as is wanted, or, of "auto", in the first way that works, with a warning.

    `copies` is whether the programs take any data, so that copies of them are possible.
    """
    if wanted != "auto":
        return PLATE if wanted else ONE_BY_ONE
    chunk = next(prepared.chunks(2))
    ways = [PLATE, *([COPIES] if copies and prepared.divisible else []), ONE_BY_ONE]
    problems = []
    for way in ways:
        try:
            with seeded(0), torch.no_grad():
                drawn(prepared.pair, chunk, 2, prepared.structure, way=way, proposal=proposal)
        except (InputError, ValueError, RuntimeError) as problem:
            problems.append(problem)
            continue
        if problems:
            who = " and ".join(map(program_name, prepared.pair.programs.values()))
            warn(
                f"Samples are drawn {IN_WORDS[way]}, as {who} do not run under one more plate to the left of theirs: "
                f"{reason(problems[0].__cause__ or problems[0])}. Let them take any leading batch dimensions, or pass "
                f"vectorize=False for one sample in a run."
            )
        return way
    return PLATE  # nothing works, for another reason: the estimate says which


def plated_or_copied(prepared: Prepared, proposal: str, *, copies: bool = True) -> Prepared:
    """Return a pair for what needs all samples in one run: in a plate, or, where it does not run there, as copies."""
    if not prepared.structure.plated:
        return prepared
    way = way_of_drawing(prepared, "auto", proposal, copies=copies)
    return replace(prepared, structure=replace(prepared.structure, plated=way != COPIES))


def drawn(pair: Pair, chunk: Chunk, num_samples: int, structure: Structure, *, way: str, proposal: str) -> Tensor:
    """Return log-weights, [num_samples, N], drawn in one of the ways."""
    if way == COPIES:
        return drawn_as_copies(pair, chunk, num_samples, structure, proposal).log_weights
    how: dict[str, Any] = {"subsample": chunk.subsample, "vectorize": way == PLATE}
    return log_weights(pair, chunk.args, num_samples, structure, proposal=proposal, **how)


def drawn_as_copies(
    pair: Pair, chunk: Chunk, num_samples: int, structure: Structure, proposal: str, *, likelihood: bool = False
) -> Weighted:
    """Return samples of each datum, drawn from copies of the data, with their log-weights, [num_samples, N]."""
    args = tuple(arg.repeat(num_samples, *(1,) * (arg.dim() - 1)) for arg in chunk.args)
    once = draw(pair, args, 1, structure, proposal=proposal, vectorize=False, likelihood=likelihood)

    def parted(value: Tensor) -> Tensor:
        return value.reshape(num_samples, chunk.size, *value.shape[2:])

    weighted = Weighted(
        parted(once.log_weights),
        None if once.log_likelihood is None else parted(once.log_likelihood),
        {name: parted(value.expand(1, len(args[0]), *value.shape[2:])) for name, value in once.latents.items()},
        {name: value[: chunk.size] for name, value in once.observed.items()},
    )
    return checked(weighted, num_samples)
