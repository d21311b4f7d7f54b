"""The figures of a run: what a trained pair makes, and how the training went."""

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib.figure
import torch
from torch import Tensor

from ppl_vae import plots
from ppl_vae.conditional import ConditionalModel
from ppl_vae.criticism.answers import given
from ppl_vae.data.digit_strings import Part
from ppl_vae.data.splits import evenly
from ppl_vae.distributions.unwrap import is_improper
from ppl_vae.errors import InputError, reason
from ppl_vae.generation.generate import manifold, reconstruct, same_latents, sample
from ppl_vae.missing import is_missing_in
from ppl_vae.runs.run import Run
from ppl_vae.utils.faults import warn
from ppl_vae.utils.files import written_whole

NUM_PICTURES = 128
MOST_NUMBERS = 2**25  # of all pictures of a figure: of large images fewer are drawn
ROW = 16  # pictures in a row
NUM_SERIES = 16
NUM_ROWS = 2000  # that are compared with as many draws
DRAWN = {"draws of x": False, "E[x | z] of the same z, drawn from P(z)": True}  # with `mean` of `sample`
NUM_CONDITIONS = 12  # rows of a figure, one for each condition
NUM_ANSWERS = 10  # samples in a row


@contextmanager
def costs_no_result(what: str) -> Iterator[None]:
    """Let whatever a figure raises, or a file beside a result, be a warning: the result is there all the same."""
    try:
        yield
    except Exception as problem:
        warn(f"{what}: {reason(problem)}")


def num_pictures(event_shape: torch.Size) -> int:
    """Return how many images fill a figure, 128, or fewer of large ones.

    >>> num_pictures(torch.Size([1, 28, 28])), num_pictures(torch.Size([3, 512, 512]))
    (128, 32)
    """
    return max(ROW, min(NUM_PICTURES, MOST_NUMBERS // event_shape.numel() // ROW * ROW))


def draw_figures(run: Run) -> None:
    """Draw samples, reconstructions, the ELBO over epochs, and a two-dimensional map, into figures/.

    What cannot be made (a program may not run without data) or written is said; the run is complete all the same.
    """
    makers: dict[str, Callable[[], dict[str, plots.Figure]]] = {
        "of its training": lambda: _of_training(run),
        "of its bound": lambda: _of_bound(run),
        "of what it makes": lambda: _of_what_it_makes(run),
    }
    for what, make in makers.items():
        with costs_no_result(f"{run.path} is complete but for figures {what}"):
            for name, figure in make().items():
                save_figure(figure, run.path / "figures" / f"{name}.png")


def figure_file(path: Path) -> Path:
    """Return the path of a figure of a kind that Matplotlib writes; else refuse it."""
    known = sorted(matplotlib.figure.Figure().canvas.get_supported_filetypes())
    if path.suffix[1:].lower() not in (*known, ""):
        raise InputError(
            f"Expected a figure of a kind that can be written; got {path}. Use one of: {', '.join(known)}."
        )
    return path


def save_figure(figure: Any, path: Path) -> None:
    """Write a figure to a file, whole or not at all."""
    with written_whole(path) as temporary, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # of a name in letters that the font does not have
        figure.savefig(temporary, format=path.suffix[1:] or "png")


def _of_training(run: Run) -> dict[str, plots.Figure]:
    joint = isinstance(run.model, ConditionalModel) and not is_improper(run.model.condition())
    what = ": ELBO of log P(x, y)" if joint else ""
    return {"elbo": plots.history(run.history, title=f"{run.path.name}{what}")}


def _of_bound(run: Run) -> dict[str, plots.Figure]:
    if run.evidence is None or run.evidence.curve is None or not run.guide.latents:
        return {}
    return {"bound": plots.bound(run.evidence, title=run.path.name)}


def _of_what_it_makes(run: Run) -> dict[str, plots.Figure]:
    model, test = run.model, run.data().test
    if plots.is_picture(test.event_shape):
        return _of_conditions(model, test) if isinstance(model, ConditionalModel) else _of_data(run, test)
    if plots.is_series(test.event_shape) and not isinstance(model, ConditionalModel):
        return _of_series(run, test)
    return {"samples": observed_and_drawn(run)}


def _of_data(run: Run, test: Part) -> dict[str, plots.Figure]:
    count = num_pictures(test.event_shape)
    x = evenly(test, count // 2).x
    missing = " (orange is missing)" if is_missing_in(x) else ""
    title = f"test data{missing}, and E[x | z] for z drawn from Q(z | x) below each"
    figures = {
        "samples": plots.images(sample(run.model, count, mean=True), title="E[x | z] for z drawn from P(z)"),
        "reconstructions": plots.reconstructions(x, reconstruct(run.model, run.guide, x), title=title),
    }
    if list(run.guide.latents.values()) == [(2,)]:
        figures["manifold"] = plots.manifold(manifold(run.model), title="E[x | z] over a grid of prior quantiles of z")
    return figures


def _of_series(run: Run, test: Part) -> dict[str, plots.Figure]:
    x = evenly(test, NUM_SERIES).x
    drawn = {what: sample(run.model, NUM_SERIES, mean=mean) for what, mean in DRAWN.items()}
    made = {"test data": x, "E[x | z] for z drawn from Q(z | x)": reconstruct(run.model, run.guide, x)}
    return {"samples": plots.series(drawn), "reconstructions": plots.series(made)}


def observed_and_drawn(run: Run, drawn: Tensor | None = None, *, seed: int = 0) -> plots.Figure:
    """Draw how test data, and draws of x, are distributed in each column, or as lines where they are series.

    Args:
        run: a run on data that are no pictures.
        drawn: x as the model draws it; None draws as many as there are data to compare with.
        seed: of the draws.
    """
    model, test = run.model, evenly(run.data().test, NUM_ROWS)
    if drawn is None:
        given_y: dict[str, Any] = (
            {"y": given(model, test)} if isinstance(model, ConditionalModel) else {"size": NUM_ROWS}
        )
        drawn = sample(model, seed=seed, **given_y)
    if plots.is_series(test.event_shape):
        return plots.series({"draws of x": drawn[:NUM_SERIES]})
    sets = {"test data": test.x, "draws of x": as_written(run, drawn)}
    return plots.columns(sets, **named_columns(run), title=run.path.name)


def imputed_columns(run: Run, x: Tensor, draws: Tensor, truth: Tensor | None = None) -> plots.Figure:
    """Draw what was imputed beside what is observed: as lines for series, else its distribution in each column.

    Args:
        run: the run.
        x: data with NaN where values are missing, [N, *event_shape].
        draws: S imputations, [S, N, *event_shape].
        truth: the values that are missing in x, where they are known.
    """
    if plots.is_series(x.shape[1:]):
        index = evenly(torch.arange(len(x)), NUM_SERIES)
        return plots.series({"a draw of what is missing": draws[0, index], "observed": x[index]})
    missing = x.isnan()
    sets = {"observed": x, "imputed": torch.where(missing, as_written(run, draws), torch.nan).flatten(0, 1)}
    sets |= {} if truth is None else {"the truth": torch.where(missing, truth, torch.nan)}
    title = f"imputations of {int(missing.sum()):,} missing values beside what is observed"
    return plots.columns(sets, **named_columns(run), title=title)


def as_written(run: Run, x: Tensor) -> Tensor:
    """Return rows of a table [..., D] with each category the nearest there is, as `sample` and `impute` write them.

    A density of all columns, such as a Gaussian that was asked for, draws what lies between.
    """
    schema = getattr(run, "schema", None)
    x = x if schema is None else x.clone()
    for i, one in enumerate([] if schema is None else schema.modelled):
        if one.categories:
            x[..., i] = x[..., i].round().clamp(0, len(one.categories) - 1)
    return x


def named_columns(run: Run) -> dict[str, Any]:
    """Return the names of a table's columns, and those of their categories, as `plots.columns` takes them."""
    schema = getattr(run, "schema", None)
    if schema is None:
        return {}
    known = list(schema.modelled)
    named = {i: list(one.categories) for i, one in enumerate(known) if one.categories}
    return {"names": [one.name for one in known], "categories": named}


def _of_conditions(model: ConditionalModel, test: Part) -> dict[str, plots.Figure]:
    every = model.condition.every()
    if every is None:
        chosen = evenly(test, NUM_CONDITIONS)
        return {"samples": answers(model, given(model, chosen), truth=chosen.x)}
    figures = {"samples": labelled(model, every)}
    if _has_latents(model):
        title = "E[x | z, y]: one z in each row, one label in each column"
        figures["styles"] = in_rows({title: same_latents(model, NUM_CONDITIONS, y=every)})
    return figures


def labelled(
    model: ConditionalModel, labels: Tensor, *, columns: int = 16, mean: bool = True, **options: Any
) -> plots.Figure:
    """Draw samples for each label, one row each; the one E[x | y] of a model without a latent site in one row."""
    if mean and not _has_latents(model):
        return in_rows({"E[x | y] of each label": sample(model, mean=True, y=labels, **options)[None]})
    x = sample(model, mean=mean, y=labels.repeat_interleave(columns), **options)
    return in_rows({f"{_what(model, mean)}, one label in each row": x.unflatten(0, (len(labels), columns))})


def answers(
    model: ConditionalModel,
    y: Tensor,
    *,
    truth: Tensor | None = None,
    columns: int = NUM_ANSWERS,
    mean: bool = True,
    **options: Any,
) -> plots.Figure:
    """Draw samples for each condition y [N, ...], one row each: what is given (tinted), the samples, and the truth.

    A model without a latent site has one E[x | y], which is drawn once. The options are those of `ppl_vae.sample`.
    """
    columns = 1 if mean and not _has_latents(model) else columns
    x = sample(model, mean=mean, y=y.repeat_interleave(columns, dim=0), **options)
    drawn = model.condition.picture(y)
    row = {} if drawn is None else {"given (tinted)": plots.tinted(*drawn)}
    row[_what(model, mean)] = plots.tinted(x.unflatten(0, (len(y), columns)), model.condition.given_pixels)
    if truth is not None:
        row["truth"] = plots.tinted(truth, torch.zeros(()))[:, None]
    return in_rows(row)


def in_rows(columns: Mapping[str, Any]) -> plots.Figure:
    """Draw images [N, any number, C, H, W] by title beside each other, one datum in each row."""
    rows = torch.cat([torch.as_tensor(images) for images in columns.values()], dim=1)
    return plots.images(rows.flatten(0, 1), columns=rows.shape[1], title=", ".join(columns))


def beside(models: Mapping[str, ConditionalModel], split: Part, *, num_data: int = 60, seed: int = 0) -> Any:
    """Draw one answer of each model to the same conditions, evenly spaced in a split, and the truth, side by side.

    Source: the figure of Doersch, arXiv 1606.05908, section 4: 60 test digits in rows of 15.
    """
    chosen = evenly(split, num_data)
    pictures = {name: sample(model, mean=True, seed=seed, y=given(model, chosen)) for name, model in models.items()}
    mask = next(iter(models.values())).condition.given_pixels  # they have one task
    return plots.side_by_side({name: plots.tinted(x, mask) for name, x in (pictures | {"the truth": chosen.x}).items()})


def _has_latents(model: ConditionalModel) -> bool:
    return hasattr(model, "prior")


def _what(model: ConditionalModel, mean: bool) -> str:
    of = "E[x | z, y]" if _has_latents(model) else "E[x | y]"
    return of if mean else "draws of x"
