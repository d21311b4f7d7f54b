"""Figures of any data: pictures as pictures, series as lines, and none larger than anybody can look at."""

import io

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from PIL import Image
from scipy import stats

import ppl_vae
from ppl_vae import InputError, plots
from ppl_vae.runs.impute import impute_run
from ppl_vae.runs.sample import sample_run

SHAPES = [(1, 8, 8), (3, 64, 32), (1, 700, 1), (1, 1, 700), (1, 500, 3), (1, 4, 600), (1, 40, 4)]


def pixels(figure):
    file = io.BytesIO()
    figure.savefig(file, format="png")
    return Image.open(file).size


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("count", [1, 64])
def test_no_figure_is_huge(shape, count):
    x = np.random.default_rng(0).random((count, *shape))
    figures = [plots.series({"one": x[:16], "other": x[:16] + 1})] if plots.is_series(shape) else []
    if shape[0] in (1, 3):
        figures += [plots.images(x, columns=2), plots.side_by_side({"one": x, "other": x})]
    for figure in figures:
        assert max(pixels(figure)) <= 4100


def test_large_images_are_drawn_by_a_part_of_their_pixels():
    half = np.broadcast_to(np.float32(0.5), (64, 3, 512, 512))  # of no memory; 400 MB in double precision
    mask = np.arange(512) < 256
    for figure in (
        plots.images(torch.zeros(1).expand(64, 3, 512, 512)),
        plots.reconstructions(half, half),
        plots.side_by_side({"one": plots.tinted(half, mask), "other": half}),
    ):
        for axes in figure.axes:
            shown = axes.images[0].get_array()
            assert min(shown.shape[:2]) > 128 and shown.size < 128 * 3 * 150**2
    shown = plots.tinted(half[:1], mask)[0]
    assert shown.shape == (3, 128, 128) and (shown[0, 0, :64] < 0.5).all() and (shown[0, 0, 64:] == 0.5).all()
    assert plots.tinted(np.zeros((1, 1, 200, 200)), 0).shape == (1, 3, 200, 200)


def test_what_is_a_picture_and_what_a_series():
    assert [plots.is_picture(shape) for shape in SHAPES] == [True, True, False, False, False, False, True]
    assert [plots.is_series(shape) for shape in SHAPES] == [not plots.is_picture(shape) for shape in SHAPES]
    assert not plots.is_series((700,)) and not plots.is_picture((700,)) and not plots.is_series(())


def test_lines_are_the_data_over_time():
    x = np.random.default_rng(0).random((3, 1, 50, 2))
    x[0, 0, 7, 1] = np.nan
    figure = plots.series({"data": x, "made": -x})
    assert len(figure.axes) == 3
    drawn = [line.get_ydata() for line in figure.axes[0].lines]
    np.testing.assert_array_equal(np.stack(drawn, -1), np.concatenate([x[0, 0], -x[0, 0]], -1))
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["data", "made"]


def test_series_of_many_numbers_are_maps_over_time():
    """Such as the keys of a piano, of a piece with fewer steps than keys; what is missing is no number."""
    x = (np.random.default_rng(0).random((3, 20, 88)) < 0.1).astype(float)
    x[0, 15:] = np.nan
    figure = plots.series({"data": x, "made": 1 - x}, columns=2)
    maps = [panel.images[0] for panel in figure.axes]
    assert len(maps) == 6 and figure.axes[0].get_title(loc="left") == "data"
    for image, one in zip(maps, (x[0], x[1], 1 - x[0], 1 - x[1], x[2], 1 - x[2]), strict=True):
        np.testing.assert_array_equal(image.get_array().filled(np.nan), one.T)
        assert image.get_clim() == (0, 1)


def test_columns_have_a_panel_and_a_scale_each():
    """Those that differ most come first: by KS, as SciPy has it, and of categories by total variation."""
    rng = np.random.default_rng(0)
    a = np.c_[rng.normal(size=(400, 3)), rng.integers(3, size=(400, 1)), np.full((400, 1), np.nan)]
    b = np.c_[rng.normal(size=(300, 3)) * [1, 3, 1] + [0, 0, 9], rng.integers(2, size=(300, 1)), np.zeros((300, 1))]
    named = {"names": list("uvwkn"), "categories": {3: ["red", "green", "blue"]}}
    figure = plots.columns({"observed": a, "drawn": b}, **named)
    titles = [panel.get_title() for panel in figure.axes]
    assert [title[0] for title in titles] == ["w", "k", "v", "u", "n"]
    ks = stats.ks_2samp(a[:, 1], b[:, 1]).statistic
    assert titles[2] == f"v: KS {ks:.2f}" and titles[1].startswith("k: TV 0.3") and titles[4] == "n"
    bars = figure.axes[1]
    assert [label.get_text() for label in bars.get_xticklabels()] == ["red", "green", "blue"]
    heights = [bar.get_height() for bar in bars.patches]
    np.testing.assert_allclose(heights[:3], [np.mean(a[:, 3] == k) for k in range(3)])
    assert sum(heights[3:]) == pytest.approx(1) and heights[5] == 0
    assert figure.axes[0].get_xlim() != figure.axes[2].get_xlim()
    few = plots.columns({"observed": a, "drawn": b}, most=2, title="a table")
    assert len(few.axes) == 2 and few.get_supxlabel() == "a table; 2 of 5 columns, that differ most"


def test_histograms_lose_no_datum_and_whole_numbers_fall_into_whole_bins():
    x, y = np.arange(200.0)[:, None], np.r_[np.arange(199.0), 5000.0][:, None]
    (panel,) = plots.columns({"observed": x, "drawn": y}).axes
    for stairs in panel.patches:
        values, edges, _ = stairs.get_data()
        assert values.sum() == pytest.approx(1) and np.allclose((edges - 0.5) % 1, 0) and edges[-1] < 5000
    assert plots.column_distance([], [1.0]) != plots.column_distance([], [1.0])  # NaN


def test_histograms_of_few_data_have_few_bins():
    """Rice's rule, 2 N^(1/3) of the smallest set, up to 30: with more, each bar is a datum or none."""
    rng = np.random.default_rng(0)
    for smallest, bins in ((27, 6), (64, 8), (8000, 30)):
        (panel,) = plots.columns({"observed": rng.normal(size=(smallest, 1)), "drawn": rng.random((9000, 1))}).axes
        assert [len(stairs.get_data().values) for stairs in panel.patches] == [bins, bins]


def test_names_of_categories_are_cut_where_they_are_crowded():
    words = ["never in a whole life", "former", "now and then", "each day"]
    (panel,) = plots.columns({"observed": np.arange(4.0)[:, None]}, categories={0: words}).axes
    labels = panel.get_xticklabels()
    assert [label.get_text() for label in labels] == ["never in ...", *words[1:]]
    assert all(0 < label.get_rotation() < 90 for label in labels)


@pytest.mark.parametrize(
    ("sets", "options", "message"),
    [
        ({}, {}, "got none"),
        ({"a": np.zeros((3, 2)), "b": np.zeros((3, 4))}, {}, r"got \[2, 4\]"),
        ({"a": np.zeros((3, 2))}, {"names": ["one"]}, "2 names"),
        ({"a": np.zeros((3, 2))}, {"most": 0}, "most"),
        ({"a": np.zeros((0, 2))}, {}, "at least one datum"),
    ],
)
def test_what_columns_refuse(sets, options, message):
    with pytest.raises(InputError, match=message):
        plots.columns(sets, **options)


def test_a_run_on_a_table_draws_its_columns(tmp_path):
    x = np.random.default_rng(0).normal(size=(60, 3))
    np.save(tmp_path / "table.npy", x)
    settings = {"fit.epochs": 1, "decoder.hidden": 8, "encoder.hidden": 8, "data.missing": 0.2, "fit.compile": False}
    options = dict(data=str(tmp_path / "table.npy"), likelihood="gaussian", settings=settings, num_samples=5)
    run = ppl_vae.train("vae", out=tmp_path / "run", **options, progress=False)
    assert (run.path / "figures" / "samples.png").exists()
    _, paths = impute_run(run, num_samples=5, num_draws=3, progress=False)
    assert paths[-1] == run.path / "figures" / "imputed.png" and paths[-1].exists()
    written = sample_run(run)
    assert written.suffix == ".npy" and written.with_suffix(".png").exists()
    assert not sample_run(run, out=tmp_path / "only.npy").with_suffix(".png").exists()


def test_a_run_on_series_draws_lines(tmp_path):
    t = np.arange(60)
    x = np.sin(t / 5 + np.random.default_rng(0).uniform(0, 6, (40, 1)))[:, :, None]
    np.save(tmp_path / "series.npy", x)
    settings = {"fit.epochs": 1, "decoder.hidden": 8, "encoder.hidden": 8}
    options = dict(data=str(tmp_path / "series.npy"), likelihood="gaussian", settings=settings, num_samples=5)
    run = ppl_vae.train("vae", out=tmp_path / "run", **options)
    sizes = {file.stem: Image.open(file).size for file in (run.path / "figures").glob("*.png")}
    assert {"samples", "reconstructions"} <= set(sizes)
    assert all(max(size) < 1500 for size in sizes.values())


def test_estimates_against_time():
    """A dot for each estimate, hollow where it is not to be believed."""
    x = torch.randn(6, 2)

    def guide_of(scale):
        def guide(x):
            with pyro.plate("data", len(x)):
                pyro.sample("z", dist.Normal(x / 2, scale).to_event(1))

        return guide

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    good, bad = (
        ppl_vae.estimate_evidence(model, guide_of(scale), x, method="importance", progress=False)
        for scale in (0.5**0.5, 0.05)
    )
    assert good.is_believed and not bad.is_believed
    figure = plots.against_time({"right": [(1.0, good), (0.1, good)], "narrow": [(0.5, bad)]}, truth=-3.0)
    (axes,) = figure.axes
    dots = [line for line in axes.lines if line.get_marker() == "o"]
    assert [dot.get_markerfacecolor() == "white" for dot in dots] == [False, False, True]
    assert {text.get_text() for text in axes.get_legend().get_texts()} == {"right", "narrow", "known otherwise"}
    bars = [collection.get_segments()[0][:, 1] for collection in axes.collections]
    assert len(bars) == 3
    for bar, evidence in zip(bars, (good, good, bad), strict=True):
        interval = evidence.interval()
        assert np.allclose(bar, (interval.low_of_data, min(interval.high_of_data, axes.get_ylim()[1])))
    assert axes.get_xscale() == "log" and pixels(figure)
