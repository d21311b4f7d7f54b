"""Figures: functions of arrays and results, never of models; each returns a Matplotlib figure."""

import io
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import matplotlib.figure
import numpy as np
from matplotlib.axes import Axes
from PIL import Image
from torch import Tensor

from ppl_vae.criticism.calibration import Calibration
from ppl_vae.criticism.difference import PARTS, Difference
from ppl_vae.criticism.ranks import LEAST as LEAST_RANKS
from ppl_vae.criticism.ranks import Ranks
from ppl_vae.criticism.uniformity import PLACES, counts_below, simultaneous_band
from ppl_vae.errors import InputError, positive_int, true_or_false
from ppl_vae.errors import shown as shown_as
from ppl_vae.evidence.diagnostics import MIN_SAMPLES
from ppl_vae.evidence.evidence import Evidence
from ppl_vae.evidence.interval import Interval
from ppl_vae.fitting.history import History
from ppl_vae.utils.arrays import array_of

CHANNELS = (1, 3)  # grey, or colours
CELL = 0.45  # inches that one image takes
LONGEST = 120  # letters, of a title
LETTER = 0.075  # inches, in a title
MOST_COLUMNS = 12  # of a table, in one figure
LONGEST_NAME, LONGEST_LABEL, CROWDED = 18, 12, 22  # letters of a column, a category, and of all below one panel
FEW_LABELS = 6  # that lean below a panel; more stand upright
FEW_VALUES, BINS = 12, 30  # whole numbers that have bars of their own; of a histogram, at most
TAILS = (0.005, 0.995)  # where its ends are, of all sets together
SMALL = 16  # pixels; below it images are enlarged to be seen
FACTOR = 4
LARGE = 128  # pixels, of a larger image every second is drawn, or fewer: it takes 45 dots of a figure
NAMED = 6  # lines of one panel that are told apart
MOST_LINES = 8  # of one series; what has more is a map
NARROW = 10  # how much longer than wide a picture is at most
LEAST, MOST = 0.5, 40  # inches, of a figure at 100 dots
MISSING = (0.9, 0.6, 0.4)  # the colour of pixels that are missing
COLOURS = {"reconstruction": "C0", "latents": "C1", "gap": "0.7"}  # of the parts of a difference
SHORT = {"reconstruction": "rec.", "latents": "latents", "gap": "gap"}
GROUPS = 60  # bars that data are shown by, in the order of their difference
TINT = ((0.05, 0.25, 0.7), (0.65, 0.9, 1.0))  # what a mask makes of black and of white


def _check_kind(name: str, value: object, kind: type, usual: str) -> None:
    """Refuse what is not what a figure draws."""
    if not isinstance(value, kind):
        raise InputError(f"Expected {name} to be a {kind.__name__}; got {shown_as(value)}. Pass {usual}.")


class Figure(matplotlib.figure.Figure):
    """A Matplotlib figure that a notebook shows by itself, without pyplot."""

    def _repr_png_(self) -> bytes:
        buffer = io.BytesIO()
        self.savefig(buffer, format="png")
        return buffer.getvalue()


def plain(text: object) -> str:
    r"""Return a title or a name so that it is drawn as it is: no mathematics for a `$`, and what has no letter escaped.

    >>> plain("costs $5 or $6")
    'costs \\$5 or \\$6'
    """
    shown = "".join(letter if letter.isprintable() or letter == "\n" else ascii(letter)[1:-1] for letter in str(text))
    cut = shown if len(shown) <= LONGEST else f"{shown[: LONGEST // 2]} ... {shown[-LONGEST // 2 :]}"
    return cut.replace("$", r"\$")


def is_picture(event_shape: Sequence[int]) -> bool:
    """Say whether data of this shape can be drawn as images, [1 or 3, H, W], none of them a mere line.

    >>> is_picture((1, 28, 20)), is_picture((1, 300, 1)), is_picture((64,))
    (True, False, False)
    """
    return len(event_shape) == 3 and event_shape[0] in CHANNELS and not is_series(event_shape)


def is_series(event_shape: Sequence[int]) -> bool:
    """Say whether data of this shape are series, [T, D], or [1, T, D] or [D, 1, T], far longer than they are wide.

    >>> is_series((24, 20)), is_series((1, 300, 3)), is_series((1, 28, 28)), is_series((300,))
    (True, True, False, False)
    """
    length = max(event_shape, default=0)
    narrow = len(event_shape) == 3 and length**2 > NARROW * math.prod(event_shape)
    return length > 1 and (len(event_shape) == 2 or narrow)


def tile(images: Any, columns: int) -> np.ndarray[Any, Any]:
    """Lay images [N, C, H, W] (or [N, H, W]) out in rows with a white line between them, [H', W', C].

    >>> tile(np.zeros((6, 1, 8, 8)), columns=3).shape
    (19, 28)
    """
    x, columns = array_of("images", images), positive_int("columns", columns)
    if x.ndim == 3:
        x = x[:, None]
    if x.ndim != 4 or x.shape[1] not in CHANNELS:
        raise InputError(
            f"Expected images of shape [N, H, W] or [N, C, H, W] with C of 1 or 3; got {x.shape}. Reshape them first."
        )
    n, channels, height, width = x.shape
    rows = -(-n // columns)
    canvas = np.ones((rows * (height + 1) + 1, columns * (width + 1) + 1, channels))
    for i, image in enumerate(x):
        top, left = (i // columns) * (height + 1) + 1, (i % columns) * (width + 1) + 1
        canvas[top : top + height, left : left + width] = image.transpose(1, 2, 0).clip(0, 1)
    return canvas[..., 0] if channels == 1 else canvas


def images(x: Any, *, columns: int = 16, title: str = "", smooth: bool | None = None) -> Figure:
    """Draw images [N, C, H, W] with values in [0, 1], in rows of `columns`.

    Images of fewer than 16 pixels are shown smoothly enlarged, as the eye cannot read 8 x 8 squares;
    `smooth=False` shows their pixels, `smooth=True` enlarges any. Pixels that are missing (NaN) are orange.
    """
    x, title = array_of("images", _thinned(x)), str(title)
    if not x.ndim:
        raise InputError("Expected images [N, C, H, W]; got a single number. Pass as many as are to be drawn.")
    columns = max(1, min(positive_int("columns", columns), len(x)))
    canvas = _canvas(x, columns, smooth)
    figure, axes = _figure(canvas.shape[1] / canvas.shape[0], columns * CELL, len(plain(title)) * LETTER)
    axes.imshow(canvas, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    axes.set_axis_off()
    axes.set_title(plain(title), fontsize=9)
    return figure


def tinted(x: Any, mask: Any) -> np.ndarray[Any, Any]:
    """Return images [..., 1 or 3, H, W] in colours, [..., 3, H, W], with the pixels of a mask in blue.

    >>> tinted(np.zeros((5, 1, 8, 8)), np.eye(8)).shape
    (5, 3, 8, 8)
    """
    given = x if isinstance(x, Tensor) else array_of("what is drawn", x)
    mask = _thinned(np.broadcast_to(np.asarray(mask, dtype=bool), given.shape))
    values = array_of("what is drawn", _thinned(given))
    values = np.broadcast_to(values, (*values.shape[:-3], 3, *values.shape[-2:]))
    dark, light = (np.reshape(colour, (3, 1, 1)) for colour in TINT)
    return np.where(mask, dark + values * (light - dark), values)


def _thinned(x: Any) -> Any:
    """Return images [..., H, W] without most of the pixels of large ones, which would not be seen."""
    if not isinstance(x, Tensor | np.ndarray) or x.ndim < 3:
        return x
    step = max(1, math.isqrt(math.prod(x.shape[-2:])) // LARGE)
    return x[..., ::step, ::step]


def _canvas(x: Any, columns: int, smooth: bool | None) -> np.ndarray[Any, Any]:
    """Return images laid out in rows, [H', W', C], with missing pixels coloured, small ones enlarged unless told."""
    values = array_of("images", _thinned(x))
    if values.ndim < 3:
        raise InputError(f"Expected images of shape [N, H, W] or [N, C, H, W]; got {values.shape}. Reshape them first.")
    missing = np.isnan(values)
    if missing.any():
        values, missing = (v[:, None] if v.ndim == 3 else v for v in (values, missing))
        values = np.where(missing.any(-3, keepdims=True), np.reshape(MISSING, (3, 1, 1)), np.nan_to_num(values))
    smooth = None if smooth is None else true_or_false("smooth", smooth)
    if smooth or (smooth is None and min(values.shape[-2:]) < SMALL):
        *others, height, width = values.shape
        flat = [Image.fromarray(image) for image in values.astype(np.float32).reshape(-1, height, width)]
        size = (FACTOR * width, FACTOR * height)
        enlarged = np.stack([np.asarray(image.resize(size, Image.Resampling.BICUBIC)) for image in flat])
        values = enlarged.reshape(*others, *reversed(size))
    return tile(values, columns)


def reconstructions(x: Any, reconstructed: Any, *, columns: int = 16, title: str = "") -> Figure:
    """Draw data above their reconstructions, pair by pair of rows."""
    columns = positive_int("columns", columns)
    a, b = (array_of(*each) for each in (("the data", _thinned(x)), ("the reconstructions", _thinned(reconstructed))))
    if a.shape != b.shape:
        raise InputError(f"Expected as many reconstructions as data, in one shape; got {b.shape} for {a.shape}.")
    if not a.size:
        raise InputError("Expected data to draw; got none. Pass at least one datum.")
    columns = min(columns, len(a))
    usable = len(a) // columns * columns
    pairs = [rows[i : i + columns] for i in range(0, usable, columns) for rows in (a, b)]
    return images(np.concatenate(pairs), columns=columns, title=title)


def series(sets: Mapping[str, Any], *, columns: int = 4) -> Figure:
    """Draw series as lines, one panel each: those of several sets [N, *event_shape] over each other, by title.

    Time is the first axis of [N, T, D], else the longest; what is missing (NaN) is a gap. Series of more than eight
    numbers at a step are drawn as maps, those of several sets below each other: time to the right, numbers upwards,
    the largest black; what is missing is orange.

    >>> figure = series({"data": np.zeros((6, 1, 300, 1)), "E[x | z]": np.ones((6, 1, 300, 1))})
    >>> len(figure.axes), len(figure.axes[0].lines)
    (6, 2)
    """
    _check_kind("sets", sets, Mapping, "a dict of data by title")
    if not sets:
        raise InputError("Expected data to draw; got none. Pass at least one set.")
    columns = positive_int("columns", columns)
    lines = {plain(title): _over_time(x) for title, x in sets.items()}
    count = min(len(x) for x in lines.values())
    columns = max(1, min(columns, count))
    rows = -(-count // columns)
    as_maps = max(x.shape[-1] for x in lines.values()) > MOST_LINES
    below = len(lines) if as_maps else 1
    figure = Figure(figsize=_within((2.4 * columns, 1.2 * rows * below + 0.5), MOST), layout="constrained", dpi=100)
    panels = figure.subplots(rows * below, columns, squeeze=False, sharex=True, sharey=True)
    panels = panels.reshape(rows, below, columns).swapaxes(1, 2).reshape(-1, below)  # of one series each
    for panel in panels[count:].ravel():
        panel.remove()
    (_draw_maps if as_maps else _draw_lines)(panels[:count], lines)
    if not as_maps:
        handles, labels = panels[0, 0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper left", frameon=False, fontsize=9, ncols=len(lines))
    figure.supxlabel("step", fontsize=8)
    return figure


def _draw_lines(panels: np.ndarray[Any, Any], sets: Mapping[str, np.ndarray[Any, Any]]) -> None:
    """Draw series i of all sets [N, T, D] into panels[i, 0]: a colour for each set, a style for each number."""
    for i, (panel,) in enumerate(panels):
        for colour, (title, x) in zip(itertools.cycle(("0.6", "C0", "C1")), sets.items()):
            drawn = panel.plot(x[i], color=colour, linewidth=1.0)
            for line, style in zip(drawn, itertools.cycle(("-", "--", ":"))):
                line.set_linestyle(style)
            drawn[0].set_label(title)
        panel.tick_params(labelsize=7)
        panel.spines[["top", "right"]].set_visible(False)


def _draw_maps(panels: np.ndarray[Any, Any], sets: Mapping[str, np.ndarray[Any, Any]]) -> None:
    """Draw series i of the k-th set [N, T, D] into panels[i, k]."""
    known = np.concatenate([x[np.isfinite(x)] for x in sets.values()])
    low, high = (known.min(), known.max()) if len(known) else (0.0, 1.0)
    greys = matplotlib.colormaps["Greys"].with_extremes(bad=MISSING)
    for k, (title, x) in enumerate(sets.items()):
        for panel, one in zip(panels[:, k], x, strict=False):
            shown: dict[str, Any] = {"cmap": greys, "vmin": low, "vmax": high, "interpolation": "nearest"}
            panel.imshow(one.T, aspect="auto", origin="lower", **shown)
            panel.tick_params(labelsize=7)
        panels[0, k].set_title(title, fontsize=8, loc="left")


def columns(
    sets: Mapping[str, Any],
    *,
    names: Sequence[str] | None = None,
    categories: Mapping[int, Sequence[str]] | None = None,
    most: int = MOST_COLUMNS,
    title: str = "",
) -> Figure:
    """Draw how the columns of several sets of data [N, ...] are distributed, such as those observed and those drawn.

    Each column has a panel and a scale of its own: a histogram, or bars where there are few values. Of many columns
    those are drawn in which the second set differs most from the first, in that order: by the largest distance of their
    distribution functions (Kolmogorov-Smirnov), of categories by half the sum of the distances of their shares (total
    variation); both are from 0 to 1, and stand above the panel. What is missing (NaN) is left out.

    Args:
        sets: data by title, [N, *event_shape] each, of any number N.
        names: of the columns, [D].
        categories: the names of the values 0, 1, ... of a column, by its number.
        most: how many columns are drawn.
        title: of the figure.

    Raises:
        InputError: no data, sets of other columns, or names of another number.

    >>> x = np.random.default_rng(0).random((100, 3))
    >>> figure = columns({"observed": x, "drawn": x**2}, names=["age", "height", "weight"])
    >>> len(figure.axes), figure.axes[0].get_title().split(":")[0] in ("age", "height", "weight")
    (3, True)
    """
    _check_kind("sets", sets, Mapping, "a dict of data by title")
    values, most = {str(k): _in_columns(x) for k, x in sets.items()}, positive_int("most", most)
    if not values:
        raise InputError("Expected data to draw; got none. Pass at least one set.")
    num = {x.shape[1] for x in values.values()}
    if len(num) > 1:
        raise InputError(f"Expected sets with the same columns; got {sorted(num)} of them. Pass data of one shape.")
    (count,) = num
    if not isinstance(names, Sequence | None) or isinstance(names, str) or len(names or range(count)) != count:
        raise InputError(f"Expected a list of {count} names, one for each column; got {shown_as(names)}. Give as many.")
    named = {} if categories is None else categories
    _check_kind("categories", named, Mapping, "a dict of names by the number of a column")
    if wrong := [v for v in named.values() if isinstance(v, str) or not isinstance(v, Sequence)]:
        raise InputError(
            f"Expected lists of names for categories; got {shown_as(wrong[0])}. Pass {{0: ['no', 'yes']}}."
        )
    first, *others = values.values()
    differing: list[float] = [
        column_distance(first[:, d], others[0][:, d], d in named) if others else 0.0 for d in range(count)
    ]
    chosen = np.argsort(-np.nan_to_num(differing, nan=-1.0), kind="stable")[:most]
    across = max(1, min(4, len(chosen)))
    rows = -(-len(chosen) // across)
    size = _within((2.6 * across + 0.3, 2.0 * rows + 0.7), MOST)
    figure = Figure(figsize=size, layout="constrained", dpi=100)
    panels = figure.subplots(rows, across, squeeze=False).ravel()
    for panel in panels[len(chosen) :]:
        panel.remove()
    for panel, d in zip(panels, chosen, strict=False):
        _draw_column(panel, {k: x[:, d][~np.isnan(x[:, d])] for k, x in values.items()}, named.get(int(d)) or None)
        by = f": {'TV' if d in named else 'KS'} {differing[d]:.2f}" if others and not np.isnan(differing[d]) else ""
        panel.set_title(plain(f"{_cut(str(names[d]) if names else f'x[{d}]')}{by}"), fontsize=8)
    handles, labels = panels[0].get_legend_handles_labels()
    of_all = f"; {len(chosen)} of {count} columns, that differ most" if len(chosen) < count else ""
    figure.legend(handles, labels, loc="outside upper left", frameon=False, fontsize=9, ncols=len(values))
    figure.supxlabel(plain(f"{title}{of_all}".removeprefix("; ")), fontsize=8)
    figure.supylabel("share of each set", fontsize=8)
    return figure


def column_distance(a: Any, b: Any, is_categories: bool = False) -> float:
    """Return how much two samples of one number differ, from 0 to 1; NaN where one is empty.

        sup_v |F_a(v) - F_b(v)|,  or, of categories,  (1/2) sum_v |p_a(v) - p_b(v)|

    >>> column_distance([1.0, 2.0], [1.0, 3.0]), column_distance([0.0, 1.0], [1.0, 2.0], is_categories=True)
    (0.5, 0.5)
    """
    is_categories = true_or_false("is_categories", is_categories)
    a, b = (array_of("a sample", v).astype(float).ravel() for v in (a, b))
    a, b = a[~np.isnan(a)], b[~np.isnan(b)]
    if not len(a) or not len(b):
        return float("nan")
    at = np.union1d(a, b)
    if is_categories:
        return float(sum(abs(np.mean(a == v) - np.mean(b == v)) for v in at) / 2)
    below = [np.searchsorted(np.sort(v), at, side="right") / len(v) for v in (a, b)]
    return float(np.abs(below[0] - below[1]).max())


def _in_columns(x: Any) -> np.ndarray[Any, Any]:
    values = array_of("what is drawn", x)
    if not values.ndim or not values.size:
        raise InputError(f"Expected data [N, D]; got shape {values.shape}. Pass at least one datum.")
    return values.reshape(len(values), -1).astype(float)


def _cut(name: str, longest: int = LONGEST_NAME) -> str:
    return name if len(name) <= longest else f"{name[: longest - 3]}..."


def _draw_column(panel: Axes, sets: Mapping[str, Any], names: Sequence[str] | None) -> None:
    """Draw one column of some sets: bars of its values where they are few or have names, else histograms."""
    pooled = np.concatenate(list(sets.values()))
    pooled = pooled[np.isfinite(pooled)]
    found = np.unique(pooled)
    few = names is not None or (len(found) <= FEW_VALUES and bool((found == found.round()).all()))
    at = np.arange(len(names)) if names is not None else found
    edges = _bins([x[np.isfinite(x)] for x in sets.values()])
    width = 0.8 / len(sets) * (float(np.diff(at).min()) if few and len(at) > 1 else 1.0)
    for i, (title, x) in enumerate(sets.items()):
        colour = ("0.6", "C0", "C1")[i % 3]
        share = 1 / max(len(x), 1)
        if few:
            heights = [float((x == v).sum()) * share for v in at]
            panel.bar(at + (i - (len(sets) - 1) / 2) * width, heights, width, color=colour, label=plain(title))
        else:  # what is beyond the ends is counted at them
            inside = np.clip(x, edges[0], edges[-1])
            panel.stairs(
                np.histogram(inside, edges)[0] * share,
                edges,
                color=colour,
                fill=i == 0,
                linewidth=1.2,
                label=plain(title),
            )
    if few:
        labels = [str(name) for name in names] if names is not None else [f"{v:g}" for v in at]
        style: dict[str, Any] = {}
        if sum(map(len, labels)) > CROWDED:
            labels = [_cut(label, LONGEST_LABEL) for label in labels]
            leaning = {"rotation": 30, "ha": "right", "rotation_mode": "anchor"}
            style = leaning if len(labels) <= FEW_LABELS else {"rotation": 90}
        panel.set_xticks(at, [plain(label) for label in labels], **style)
    else:
        panel.locator_params(axis="x", nbins=5)
    panel.tick_params(labelsize=7)
    panel.spines[["top", "right"]].set_visible(False)


def _bins(sets: Sequence[np.ndarray[Any, Any]]) -> np.ndarray[Any, Any]:
    """Return the edges of a histogram of some sets, without the far tails of any; of whole numbers around these.

    There are 2 N^(1/3) bins (Rice's rule), N of the smallest set, so that its bars are no needles.
    """
    ends = np.array([np.quantile(x, TAILS) for x in sets if len(x)] or [(0.0, 1.0)])
    low, high = float(ends[:, 0].min()), float(ends[:, 1].max())
    bins = min([BINS, *(math.ceil(2 * len(x) ** (1 / 3)) for x in sets if len(x))])
    if all(bool((x == x.round()).all()) for x in sets):
        width = max(1, math.ceil((high - low + 1) / bins))
        start = math.floor(low) - 0.5
        return start + width * np.arange(math.ceil((high + 0.5 - start) / width) + 1)
    return np.linspace(low, high if high > low else low + 1, bins + 1)


def _over_time(x: Any) -> np.ndarray[Any, Any]:
    """Return series [N, T, D], with time along the first axis of [T, D], else the longest."""
    values = array_of("what is drawn", x)
    if values.ndim < 2 or not values.size:
        raise InputError(f"Expected series [N, *event_shape]; got shape {values.shape}. Pass [N, T], say.")
    if values.ndim != 3:
        values = np.moveaxis(values, 1 + int(np.argmax(values.shape[1:])), 1)
    return values.reshape(*values.shape[:2], -1)


def side_by_side(panels: Mapping[str, Any], *, columns: int = 15, smooth: bool | None = None) -> Figure:
    """Draw several sets of images [N, C, H, W] beside each other, each in rows of `columns` below its title.

    >>> side_by_side({"ours": np.zeros((60, 1, 8, 8)), "the truth": np.ones((60, 3, 8, 8))}).axes[1].get_title()
    'the truth'
    """
    _check_kind("panels", panels, Mapping, "a dict of data by title")
    if not panels:
        raise InputError("Expected data to draw; got none. Pass at least one set.")
    columns = positive_int("columns", columns)
    canvases = [_canvas(x, columns, smooth) for x in panels.values()]
    height, width = canvases[0].shape[:2]
    across = len(panels) * columns * CELL * 0.75
    size = _within((across, across / len(panels) * height / width + 0.3), MOST * 100 / 150)
    figure = Figure(figsize=size, layout="constrained", dpi=150)
    for axes, title, canvas in zip(np.atleast_1d(figure.subplots(1, len(panels))), panels, canvases, strict=True):
        axes.imshow(canvas, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
        axes.set_axis_off()
        axes.set_title(plain(title), fontsize=9)
    return figure


def manifold(x: Any, *, title: str = "") -> Figure:
    """Draw a map [grid, grid, C, H, W] as `ppl_vae.manifold` returns it."""
    values = array_of("what is drawn", _thinned(x))
    if values.ndim < 4 or not values.size:
        raise InputError(f"Expected images on a grid, [G, G, C, H, W]; got {values.shape}. Take those of manifold.")
    return images(values.reshape(-1, *values.shape[2:]), columns=values.shape[1], title=title)


def posteriors(density: Any, nodes: Any, draws: Mapping[str, Any], *, rows: Sequence[str] = ()) -> Figure:
    """Draw exact posteriors of two latents as regions that hold 50, 90 and 99 %, and draws of guides over them.

    Args:
        density: P(z | x) on a grid up to a factor, one for each row, [R, G, G], z_2 along the first of the two.
        nodes: the coordinates of the grid in both dimensions, [G].
        draws: z by title of a column, [R, S, 2] each.
        rows: what stands beside each row.

    >>> nodes = np.linspace(-3, 3, 50)
    >>> density = np.exp(-(nodes**2 + nodes[:, None] ** 2) / 2)[None]
    >>> posteriors(density, nodes, {"a guide": np.zeros((1, 5, 2))}).axes[0].get_title()
    'a guide'
    """
    grids, points = np.asarray(density, dtype=float), {k: np.asarray(v, dtype=float) for k, v in draws.items()}
    if grids.ndim != 3 or any(v.ndim != 3 or (len(v), v.shape[-1]) != (len(grids), 2) for v in points.values()):
        raise InputError(
            f"Expected densities [R, G, G] and draws [R, S, 2] of each guide; got {grids.shape} and "
            f"{ {k: v.shape for k, v in points.items()} }. Take two latents."
        )
    levels = [_regions(grid) for grid in grids]
    shown = np.any([grid > min(level) for grid, level in zip(grids, levels, strict=True)], axis=0)
    # What the regions reach, and some room: z_1, then z_2.
    limits = [(inside.min() - 0.7, inside.max() + 0.7) for inside in (np.asarray(nodes)[shown.any(i)] for i in (0, 1))]
    width, height = (0.3 * (high - low) for low, high in limits)
    figure = Figure(figsize=(width * len(points) + 0.6, height * len(grids) + 0.8), layout="constrained", dpi=110)
    panels = figure.subplots(len(grids), len(points), squeeze=False, sharex=True, sharey=True)
    for panel in panels.flat:
        panel.set(xlim=limits[0], ylim=limits[1], aspect="equal", xlabel="$z_1$", ylabel="$z_2$")
        panel.label_outer()
    for row, grid in enumerate(grids):
        for panel, (title, z) in zip(panels[row], points.items(), strict=True):
            panel.contourf(nodes, nodes, grid, [*levels[row], grid.max()], colors=["0.9", "0.78", "0.6"])
            panel.plot(*z[row].T, ".", color="C0", markersize=2.5, alpha=0.5, markeredgewidth=0)
            if row == 0:
                panel.set_title(plain(title), fontsize=9)
        if rows:
            panels[row, 0].set_ylabel(f"{plain(rows[row])}\n$z_2$")
    return figure


def _regions(density: np.ndarray[Any, Any]) -> list[float]:
    """Return the densities above which 99, 90 and 50 % lie."""
    highest = np.sort(density, axis=None)[::-1]
    mass = np.cumsum(highest) / highest.sum()
    return [float(highest[np.searchsorted(mass, share)]) for share in (0.99, 0.9, 0.5)]


def history(record: History, *, title: str = "") -> Figure:
    """Draw the ELBO over epochs, of the training and the validation data."""
    _check_kind("record", record, History, "fitted.history")
    figure, axes = _figure(1.6, 5.5)
    axes.plot(record.epoch, record.train_elbo, label="training", color="0.6")
    if np.isfinite(record.validation_elbo).any():
        axes.plot(record.epoch, record.validation_elbo, label="validation", color="C0")
        best = np.nanargmax(record.validation_elbo)
        axes.plot(record.epoch[best], record.validation_elbo[best], "o", color="C0", label="best, kept")
    # The first epochs are far below the rest and would flatten it.
    shown = np.concatenate([record.train_elbo, record.validation_elbo])
    low, high = np.nanquantile(shown, 0.05), np.nanmax(shown)
    if high > low:
        axes.set_ylim(low - 0.1 * (high - low), high + 0.1 * (high - low))
    axes.set(xlabel="epoch", ylabel="ELBO per datum (nats)", title=plain(title))
    axes.legend(frameon=False)
    return figure


def bound(evidence: Evidence, *, title: str = "") -> Figure:
    """Draw the bound IWAE_K, the mean over the data, against K: from the ELBO at K = 1 up to all samples.

    A curve that still rises at its end says that K is too small. The band is two Monte Carlo standard errors wide
    on each side; the line is log P(x) with the tails of the weights smoothed, where their k-hat lets them be.

    Raises:
        InputError: the evidence has no curve (it was annealed).
    """
    _check_kind("evidence", evidence, Evidence, "what estimate_evidence returns")
    if evidence.curve is None:
        raise InputError("Expected evidence by importance sampling; got none with a curve. Use method='importance'.")
    num_samples, values, mcse = evidence.curve
    whole = np.isfinite(values).all(1)  # with a tolerance only some data have more samples
    mean = values[whole].mean(1)
    error = np.sqrt((mcse[whole] ** 2).sum(1)) / values.shape[1]
    figure, axes = _figure(1.6, 5.5)
    axes.fill_between(num_samples[whole], mean - 2 * error, mean + 2 * error, color="C0", alpha=0.25, linewidth=0)
    axes.plot(num_samples[whole], mean, "o-", color="C0", markersize=3, label="bound with K samples")
    if evidence.num_samples >= MIN_SAMPLES and np.mean(evidence.khat > 0.7) < 0.25:
        smoothed = float(evidence.log_px_psis.mean())
        axes.axhline(smoothed, color="0.5", linestyle="--", linewidth=1, label="log P(x), tails smoothed")
    axes.set_xscale("log")
    axes.set(xlabel="K", ylabel="nats per datum", title=plain(title))
    axes.legend(frameon=False, loc="lower right")
    return figure


def against_time(
    found: Mapping[str, Sequence[tuple[float, Evidence]]], *, truth: float | None = None, title: str = ""
) -> Figure:
    """Draw log P(x), the mean over the data, against the seconds that it took: a line for each method.

    A dot is the mean of the estimates, filled where the verdict is "To be believed", else hollow. Its bar is the 95%
    interval for these data, `evidence.interval()`: biases are taken off, and what data in doubt could add is in it. The
    upper end may lie above the picture.

    Args:
        found: for each method, seconds and evidence, of more and more work.
        truth: log P(x) as known otherwise, a dashed line.
        title: of the figure.
    """
    figure, axes = _figure(1.6, 6.5)
    heights = [] if truth is None else [truth]
    bars: list[tuple[float, Interval, str]] = []
    for number, (name, line) in enumerate(found.items()):
        colour, done = f"C{number}", sorted(line, key=lambda one: one[0])
        seconds = [one[0] for one in done]
        values = [one[1].means()["log_px"].value for one in done]
        axes.plot(seconds, values, color=colour, linewidth=1, label=plain(name))
        for at, (_, evidence), value in zip(seconds, done, values, strict=True):
            axes.plot(at, value, "o", color=colour, markerfacecolor=colour if evidence.is_believed else "white")
            bars.append((at, evidence.interval(), colour))
        heights += values
    if truth is not None:
        axes.axhline(truth, color="0.4", linestyle="--", linewidth=1, label="known otherwise")
    axes.set(xscale="log", xlabel="seconds", ylabel="log P(x), nats per datum", title=plain(title))
    if shown := [height for height in heights if math.isfinite(height)]:
        room = 0.1 * max(max(shown) - min(shown), 1e-3)
        _, top = axes.set_ylim(min(shown) - room, max(shown) + room)
        for at, interval, colour in bars:
            if not math.isnan(interval.low_of_data):
                axes.vlines(at, interval.low_of_data, min(interval.high_of_data, top), color=colour, linewidth=1)
    axes.legend(frameon=False, loc="lower right")
    return figure


def difference(found: Difference, x: Any = None, *, count: int = 8) -> Figure:
    """Draw why one pair gives data a higher log P(x) than another: the parts in the mean, and over the data.

    On the left the mean of each part, with two paired standard errors on each side. On the right the data in the order
    of their difference, in groups of equal size where they are many: the bars of the parts, whose sum is the line.

    Args:
        found: as `ppl_vae.explain_difference` returns it.
        x: the data, [N, 1 or 3, H, W], to show the `count` that lost most and those that won most; None shows none.
        count: how many of each.

    Raises:
        InputError: no datum has parts, or x of another number of data or no images.
    """
    shown = np.flatnonzero(found.whole)
    if not len(shown):
        raise InputError("Expected data with a finite log P(x) and ELBO by both pairs; got none. Print the difference.")
    order = shown[np.argsort(found.log_px[shown], kind="stable")]
    figure = Figure(figsize=(9.5, 3.4 if x is None else 4.7), layout="constrained", dpi=100)
    halves: Any = (figure, None) if x is None else figure.subfigures(2, 1, height_ratios=(3.4, 1.25))
    above, below = halves
    left, right = above.subplots(1, 2, width_ratios=(1, 2))
    means = found.means()
    for i, (name, mean) in enumerate(reversed(means.items())):
        error = 2 * mean.se if np.isfinite(mean.se) else 0.0
        left.barh(i, mean.value, xerr=error, color=COLOURS.get(name, "0.2"), error_kw={"linewidth": 1})
    left.set_yticks(range(len(means)), [found.quantity, *PARTS][::-1])
    left.axvline(0, color="0.5", linewidth=0.8)
    left.set(xlabel="nats per datum", title=plain(f"{found.names[1]} minus {found.names[0]}"))
    groups = np.array_split(order, min(GROUPS, len(order)))
    ends = np.cumsum([0, *map(len, groups)])
    up, down = np.zeros(len(groups)), np.zeros(len(groups))
    for name in PARTS:
        height = np.array([getattr(found, name)[group].mean() for group in groups])
        base = np.where(height > 0, up, down)
        right.bar(ends[:-1], height, np.diff(ends), base, align="edge", color=COLOURS[name], label=name)
        up, down = up + height.clip(0), down + height.clip(max=0)
    total = [found.log_px[group].mean() for group in groups]
    right.stairs(total, ends, color="0.1", linewidth=1.2, baseline=None, label=found.quantity)
    right.axhline(0, color="0.5", linewidth=0.8)
    right.set(xlabel="data, in the order of their difference", ylabel="nats", xlim=(0, len(order)))
    right.legend(frameon=False, fontsize=8)
    for panel in (left, right):
        panel.spines[["top", "right"]].set_visible(False)
        panel.title.set_fontsize(9)
    if below is not None:
        _moved(below, found, x, order, min(count, len(order) // 2))
    return figure


def _moved(figure: Any, found: Difference, x: Any, order: np.ndarray[Any, Any], count: int) -> None:
    """Draw the data that lost most and those that won most, each with its difference, and what made most of it."""
    values = array_of("what is drawn", x)
    if len(values) != len(found) or not is_picture(values.shape[1:]):
        raise InputError(
            f"Expected x as the {len(found)} images [N, 1 or 3, H, W] of the difference; got {values.shape}. Pass "
            f"those data, or leave x out."
        )
    if not count:
        return
    for half, chosen, title in zip(
        figure.subfigures(1, 2), (order[:count], order[::-1][:count]), found.names, strict=True
    ):
        half.suptitle(plain(f"data that moved most towards {title}"), fontsize=9)
        for panel, datum in zip(np.atleast_1d(half.subplots(1, count)), chosen, strict=True):
            panel.imshow(_canvas(values[[datum]], 1, None), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
            panel.set_axis_off()
            panel.set_title(f"{found.log_px[datum]:+.1f}\n{SHORT[found.part[datum]]}", fontsize=7)


def calibration(found: Calibration, *, title: str = "") -> Figure:
    """Draw the ranks of true values among draws of Q, and of resampled Q: their ECDF less that of uniform ranks.

    The band holds at all ranks of all quantities together. Of a Q that is too narrow a line is above it on the left and
    below it on the right, of one that is too low below it all along. Lines in grey stay inside.
    """
    figure = Figure(figsize=(9, 3.6), layout="constrained", dpi=100)
    panels = figure.subplots(1, 2, sharex=True, sharey=True)
    for panel, ranks, name in zip(panels, (found.guide, found.resampled), ("Q", "resampled Q"), strict=True):
        _draw_ranks(panel, ranks, len(found))
        panel.set(xlabel="rank", title=plain(", ".join(filter(None, (title, name)))))
        panel.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("ECDF - rank")
    return figure


def _draw_ranks(panel: Axes, ranks: Ranks, num_data: int) -> None:
    band = simultaneous_band(num_data, ranks.level_of_each)
    places = np.concatenate([[0], PLACES, [1]])
    low, high = (np.concatenate([[0], counts / num_data - PLACES, [0]]) for counts in (band.low, band.high))
    panel.fill_between(places, low, high, color="0.88", linewidth=0)
    order = ranks.order()
    named = [j for j in order if ranks.outside[j]][:NAMED]
    for j in (j for j in reversed(order) if len(ranks.of(j)) >= LEAST_RANKS):
        share = counts_below(ranks.of(j)) / len(ranks.of(j)) - PLACES
        style: dict[str, Any] = {"color": "0.6", "linewidth": 0.7}
        if ranks.outside[j]:
            style = {"color": "0.3", "linewidth": 0.7}
        if j in named:
            style = {"color": f"C{named.index(j)}", "linewidth": 1.3, "label": plain(ranks.names[j])}
        panel.plot(places, np.concatenate([[0], share, [0]]), **style)
    handles, labels = panel.get_legend_handles_labels()
    if handles:
        panel.legend(handles[::-1], labels[::-1], frameon=False, fontsize=8)


def _within(size: tuple[float, float], most: float) -> tuple[float, float]:
    """Return the size of a figure, made smaller if it is larger than anybody can look at."""
    factor = min(1.0, most / max(size))
    return max(LEAST, size[0] * factor), max(LEAST, size[1] * factor)


def _figure(aspect: float, width: float, least_width: float = 0.0) -> tuple[Figure, Axes]:
    size = _within((max(width, least_width), width / aspect + 0.3), MOST)
    figure = Figure(figsize=size, layout="constrained", dpi=100)
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes
