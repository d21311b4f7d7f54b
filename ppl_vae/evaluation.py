"""Questions to a run folder: what log P(x) is, and why the ELBO is lower."""

import os
from collections.abc import Callable
from typing import Any

import torch

from ppl_vae.errors import InputError, did_you_mean, positive_int
from ppl_vae.estimators import estimate_evidence
from ppl_vae.evidence import Evidence
from ppl_vae.gaps import Gap, explain_gap
from ppl_vae.latents import latent_use
from ppl_vae.runs import Run, load
from ppl_vae.splits import Split
from ppl_vae.usage import LatentUse

SPLITS = ("train", "validation", "test")


def evaluate(
    run: Run | str | os.PathLike[str],
    *,
    method: str = "importance",
    split: str = "test",
    num_data: int | None = None,
    on_kept: Callable[[str], object] | None = None,
    **options: Any,
) -> Evidence:
    """Estimate log P(x) of a run's data, and keep the estimate in the run folder.

    Args:
        run: a run, or the path of its folder.
        method: "importance", "ais" or "sandwich", see `estimate_evidence`.
        split: "train", "validation" or "test".
        num_data: use this many of them, evenly spaced; None uses all.
        on_kept: called with what was done with the estimate, in words.
        options: of `estimate_evidence`, for instance num_samples=5000 or tolerance=0.05.

    Returns:
        `Evidence`. By importance sampling from the guide, that of the whole test split is written to evidence.nc,
        unless one of more samples is there; any other to evidence-METHOD-PROPOSAL-SPLIT-NUMBER.nc.

    Raises:
        InputError: no run there, or an option that is out of range.
    """
    run = run if isinstance(run, Run) else load(run)
    evidence = estimate_evidence(run.model, run.guide, part(run, split, num_data), method=method, **options)
    usual = method == "importance" and evidence.proposal == "guide" and split == "test" and num_data is None
    name = "evidence.nc" if usual else f"evidence-{method}-{evidence.proposal}-{split}-{len(evidence)}.nc"
    kept = f"kept in {run.path / name}"
    if usual and _samples_of_kept(run) > evidence.diagnostics["draws"].max():
        kept = f"not kept: {run.path / name} has an estimate from more samples"
    else:
        evidence.save(run.path / name)
    if on_kept is not None:
        on_kept(kept)
    return evidence


def _samples_of_kept(run: Run) -> float:
    """Return how many samples the estimate in the run folder has; none where there is none that can be read."""
    try:
        return run.evidence.diagnostics["draws"].max() if run.evidence is not None else 0
    except InputError:
        return 0


def explain(
    run: Run | str | os.PathLike[str],
    *,
    split: str = "test",
    num_data: int | None = 200,
    seed: int = 0,
    progress: bool | None = None,
) -> tuple[Gap, LatentUse]:
    """Say why a run's ELBO is below log P(x), and which of its latents are used.

    Args:
        run: a run, or the path of its folder.
        split: "train", "validation" or "test".
        num_data: use this many of them, evenly spaced; None uses all.
        seed: of the samples.
        progress: show progress bars.

    Returns:
        `Gap` (see `explain_gap`) and `LatentUse` (see `latent_use`).

    Raises:
        InputError: no run there, or an option that is out of range.
    """
    run = run if isinstance(run, Run) else load(run)
    chosen = part(run, split, num_data)
    gap = explain_gap(run.model, run.guide, chosen, seed=seed, progress=progress)
    return gap, latent_use(run.model, run.guide, chosen, seed=seed, progress=progress)


def part(run: Run, split: str, num_data: int | None) -> Split:
    """Return a split of a run's data, or so many of it, evenly spaced.

    Raises:
        InputError: an unknown split, or a number below 1.
    """
    if split not in SPLITS:
        raise InputError(f"Unknown split {split!r}: {did_you_mean(str(split), SPLITS)}.")
    chosen: Split = getattr(run.data(), split)
    if num_data is None:
        return chosen
    return chosen[torch.linspace(0, len(chosen) - 1, min(positive_int("num_data", num_data), len(chosen))).long()]
