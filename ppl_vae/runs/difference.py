"""Two runs, or two fitted pairs, on the same data: why one gives them a higher log P(x) than the other."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ppl_vae import plots
from ppl_vae.criticism.difference import Difference, difference_of, elbo_terms
from ppl_vae.errors import InputError, positive_int, shown
from ppl_vae.evidence.estimators import estimate_evidence
from ppl_vae.evidence.evidence import Evidence
from ppl_vae.evidence.options import ImportanceOptions
from ppl_vae.runs.compare import data_in_words, names_of, seed_folders
from ppl_vae.runs.figures import save_figure
from ppl_vae.runs.run import Run, load
from ppl_vae.traces.pair import Program, program_name
from ppl_vae.utils.files import written_whole

Side = Run | str | os.PathLike[str] | tuple[Program, Program]
SHARED = ("joint", "chunk_size", "vectorize", "threads", "seed", "progress")  # by both ways to draw
SILENT = {"progress", "threads"}  # options that change no number


class _Fitted(NamedTuple):
    """One of the two: its programs, its data, and its run where there is one."""

    model: Program
    guide: Program
    data: Any
    run: Run | None


def explain_difference(
    a: Side,
    b: Side,
    *,
    data: Any = None,
    names: Sequence[str] | None = None,
    evidence: Sequence[Evidence] | None = None,
    split: str = "test",
    num_data: int | None = None,
    num_samples: int = 1000,
    trust: bool = False,
    **options: Any,
) -> Difference:
    """Say why B gives the same data another log P(x) than A: datum by datum, in three parts that add up exactly.

        log P(x) = E_Q[log P(x | z)] + E_Q[log P(z) - log Q(z | x)] + (log P(x) - ELBO)
                   reconstruction      latents: -KL(Q || P(z))         gap

    Each part of the difference is B's minus A's, so that above 0 is in favour of B: it explains x better from z, pays
    less for its latents, or its guide leaves more of log P(x) out of the ELBO. The first two are means over the same
    K samples of each guide; the gap is from their sum, the ELBO, to log P(x) by `estimate_evidence`.

    Args:
        a, b: what was before, and what after the swap: two runs, the paths of their folders, or two pairs (model,
            guide) with data.
        data: what both are held against, as for `estimate_evidence`; None takes those of the run.
        names: what A and B are called; None takes the names of their folders or classes.
        evidence: the estimates of log P(x) by A and by B on these data, where there are some; None takes those kept in
            the run folders if no option asks for others, and else makes them.
        split: "train", "validation" or "test" of a run's data.
        num_data: use this many of them, evenly spaced; None uses all.
        num_samples: K, draws of z for each datum from each guide; 2 or more.
        trust: run the Python files in the folders: a model or guide that does not come with ppl-vae.
        options: of `estimate_evidence`, for instance method="ais", proposal="refined" or joint=True, for log P(x); the
            two terms of the ELBO are those of the guides themselves.

    Returns:
        `Difference`: log_px, reconstruction, latents and gap per datum, [N], in nats; print it for the means, what
        moved most and what is in doubt; `to_frame()` for a table, `ppl_vae.plots.difference` for a figure.

    Raises:
        InputError: no data, a folder of several runs, what `estimate_evidence` or `compare` refuses (other data,
            another quantity, densities beside probabilities), or options that are out of range.

    Source: Hoffman & Johnson, ELBO surgery (NIPS workshop 2016), for the first two parts; Cremer et al., arXiv
    1801.03558, for the gap.

    >>> from ppl_vae.models import LinearGaussian
    >>> from ppl_vae.guides import LinearGaussian as Posterior
    >>> a, b = (LinearGaussian((20,), latent_dim=4, sigma=s) for s in (0.5, 1.0))
    >>> x = b(size=64).detach()
    >>> found = explain_difference((a, Posterior(a)), (b, Posterior(b)), data=x, num_samples=10, progress=False)
    >>> bool(abs(found.reconstruction + found.latents + found.gap - found.log_px).max() < 1e-9)
    True
    """
    if positive_int("num_samples", num_samples) < 2:
        raise InputError("Expected num_samples of at least 2, so that errors can be stated; got 1. Raise it.")
    if options.get("given") is not None:
        raise InputError(
            "Expected log P(x) of all that is observed; got given, for which there is no ELBO. Leave it out."
        )
    sides = [_fitted(side, data, split, num_data, trust=trust) for side in (a, b)]
    if any(side.data is None for side in sides):
        known = next((side.data for side in sides if side.data is not None), None)
        if known is None:
            raise InputError("Expected data for pairs (model, guide); got none. Pass data=x, as for estimate_evidence.")
        sides = [side._replace(data=known) for side in sides]
    runs = [side.run for side in sides if side.run is not None]
    called = _names(sides, names)
    if not isinstance(evidence, tuple | list | None):
        raise InputError(f"Expected the evidence of both pairs; got {shown(evidence)}. Pass evidence=(a, b).")
    kept = set(options) <= SILENT and num_samples == 1000 and data is None and split == "test" and num_data is None
    estimates: list[Any] = list(evidence) if evidence is not None else [s.run and s.run.evidence for s in sides]
    if evidence is None and not (kept and all(one is not None for one in estimates)):
        estimates = [
            estimate_evidence(side.model, side.guide, side.data, num_samples=num_samples, **options) for side in sides
        ]
    _check(estimates, runs)
    drawing = _drawing(num_samples, **{name: value for name, value in options.items() if name in SHARED})
    terms = [
        elbo_terms(side.model, side.guide, side.data, drawing, stream=i, name=name, against=one.fingerprint)
        for i, (side, name, one) in enumerate(zip(sides, called, estimates, strict=True), start=1)
    ]
    return difference_of(estimates, terms, called, num_samples)


def _drawing(
    num_samples: int,
    *,
    joint: bool = False,
    chunk_size: int | None = None,
    vectorize: bool | str = "auto",
    threads: int | str = "auto",
    seed: int = 0,
    progress: bool | None = None,
) -> ImportanceOptions:
    """Return how the terms of the ELBO are drawn: from the guide, with plain Pyro, which gives both of them."""
    return ImportanceOptions(
        num_samples, "guide", joint, chunk_size, False, threads, seed, progress, vectorize=vectorize
    )


def draw(
    found: Difference,
    run: Run | str | os.PathLike[str],
    path: Path,
    *,
    split: str = "test",
    num_data: int | None = None,
    trust: bool = False,
) -> None:
    """Draw a difference into a file, with the data that moved most where they are pictures; options as it was made."""
    part = load(run, trust=trust).source(split, num_data)
    x = next(part.batches(len(part)))[0]
    save_figure(plots.difference(found, x if plots.is_picture(x.shape[1:]) else None), path)


def write_table(found: Difference, path: Path) -> None:
    """Write the parts of each datum to a .csv file, whole or not at all."""
    with written_whole(path) as temporary:
        found.to_frame().to_csv(temporary)


def _fitted(side: Any, data: Any, split: str, num_data: int | None, *, trust: bool) -> _Fitted:
    """Return one of the two, with its data; None where a pair has none of its own."""
    if isinstance(side, tuple | list):
        if len(side) != 2 or side[1] is None:
            raise InputError(
                f"Expected a pair (model, guide); got {len(side)} objects{', None for the guide' * (len(side) == 2)}. "
                f"Give both: the parts of a difference are those of a model and of its guide."
            )
        return _Fitted(side[0], side[1], data, None)
    if isinstance(side, Evidence):
        raise InputError(
            "Expected runs or pairs (model, guide); got evidence, which does not hold the parts of its ELBO. Pass the "
            "pairs, with evidence=(e1, e2) so that log P(x) is not estimated again."
        )
    if not isinstance(side, Run | str | os.PathLike):
        raise InputError(
            f"Expected a run, the path of its folder, or a pair (model, guide); got {type(side).__name__}. Write "
            f"explain_difference((model, guide), (model2, guide2), data=x)."
        )
    if not isinstance(side, Run) and (several := seed_folders(side)):
        raise InputError(
            f"Expected the folder of one run; got {side} with {len(several)} of them. Give one, such as {several[0]}."
        )
    run = load(side, trust=trust)
    return _Fitted(run.model, run.guide, run.source(split, num_data) if data is None else data, run)


def _names(sides: Sequence[_Fitted], names: Sequence[str] | None) -> tuple[str, str]:
    """Return what both are called: two names that differ."""
    if names is not None:
        first, *others = map(str, names) if isinstance(names, tuple | list) and names else [""]
        if len(others) != 1 or first == others[0]:
            raise InputError(f"Expected two names that differ; got {shown(names)}. Write names=('before', 'after').")
        return first, others[0]
    runs = [side.run for side in sides if side.run is not None]
    own = names_of(runs) if len(runs) == 2 else [program_name(side.model) for side in sides]
    first, second = own if own[0] != own[1] else ("A", "B")
    return first, second


def _check(evidence: Sequence[Any], runs: Sequence[Run]) -> None:
    """Refuse what is no estimate of each; say of runs on different data which these are."""
    if len(evidence) != 2 or not all(isinstance(one, Evidence) for one in evidence):
        found = ", ".join(type(one).__name__ for one in evidence)
        raise InputError(f"Expected the evidence of both pairs; got {found}. Make it with estimate_evidence.")
    words = [data_in_words(run.config["data"]) for run in runs]
    if len(words) == 2 and words[0] != words[1] and evidence[0].fingerprint != evidence[1].fingerprint:
        raise InputError(
            f"Expected runs on the same data; got {runs[0].path} on {words[0]} and {runs[1].path} on {words[1]}. Train "
            f"both on one data set, with the same options of it, or pass data=.",
            options="--data, and --set data.OPTION=VALUE, of ppl-vae train",
        )
