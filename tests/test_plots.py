"""Figures of any data: pictures as pictures, series as lines, and none larger than anybody can look at."""

import io

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from PIL import Image

import ppl_vae
from ppl_vae import plots

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
