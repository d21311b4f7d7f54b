"""What arrays of a file are: rows, images or series; what is said of them, and how a person says otherwise."""

import re

import numpy as np
import pytest
import torch

from ppl_vae import InputError, data, plots
from ppl_vae.data.shapes import Numbers, look_at, together

R = np.random.default_rng(0)
REAL, GREY = R.normal(size=(40, 12, 9)), R.random((40, 12, 9))
BYTES = R.integers(0, 256, (40, 12, 9), dtype=np.uint8)
PADDED = GREY.copy()
PADDED[::2, 7:] = np.nan
HOLES = np.where(R.random(GREY.shape) < 0.3, np.nan, GREY)

READ = {
    "rows": (R.normal(size=(40, 13)), (13,), "40 rows, 13 columns, numbers from"),
    "one number each": (R.normal(size=40), (1,), "40 rows, 1 column"),
    "counts": (R.poisson(3, (40, 8)), (8,), "8 columns, whole numbers from 0 to"),
    "bytes": (BYTES, (1, 12, 9), "40 images of 1 x 12 x 9, 256 grey levels; read as images, as they hold grey levels"),
    "grey levels": (GREY, (1, 12, 9), "kind='series' reads series"),
    "with holes": (HOLES, (1, 12, 9), "% missing"),
    "numbers": (REAL, (12, 9), "40 series of 12 steps x 9, .*as they hold no grey levels; kind='images' reads images"),
    "padded": (PADDED, (12, 9), "series of 12 steps x 9, .*as data end in missing steps"),
    "as many steps": (REAL[:, :9], (1, 9, 9), "40 images of 1 x 9 x 9, numbers"),
    "one channel": (R.normal(size=(40, 100, 1)), (100, 1), "40 series of 100 steps x 1"),
    "long": (R.integers(0, 9, (40, 100, 3), dtype=np.uint8), (100, 3), "as images are not 100 x 3"),
    "channels last": (BYTES[..., None], (1, 12, 9), "their channels, which were last, come first"),
    "transparency": (BYTES[..., None].repeat(4, -1), (4, 12, 9), "if the fourth is transparency"),
    "channels first": (BYTES[:, None].repeat(3, 1), (3, 12, 9), "40 images of 3 x 12 x 9, 256 grey levels$"),
    "black and white": ((BYTES > 99) * np.uint8(255), (1, 12, 9), "40 images of 1 x 12 x 9, 0 and 1;"),
    "wide": (BYTES.astype(int), (12, 9), "whole numbers from 0 to 255"),
    "wide images": (BYTES[:, :9].astype(int), (1, 9, 9), "not divided by 255, as they are no bytes"),
    "volumes": (R.normal(size=(40, 5, 6, 7)), (5, 6, 7), "40 arrays of 5 x 6 x 7"),
    "16 bits": (BYTES[:, 0].astype("uint16"), (9,), "whole numbers"),
}


@pytest.mark.parametrize("case", READ)
def test_an_array_is_read_as_what_it_is_and_said(tmp_path, case):
    x, shape, said = READ[case]
    np.save(tmp_path / "a.npy", x)
    found = data.load(tmp_path / "a.npy")
    assert tuple(found.event_shape) == shape
    assert re.search(said, found.understood), found.understood
    assert found.understood in str(found)
    stored = found.stored[0]
    whole = (torch.as_tensor(np.asarray(stored.values)).double() / stored.scale).numpy()
    expected = x / 255 if x.dtype == np.uint8 and x.max() > 1 else x
    expected = np.moveaxis(expected, -1, 1) if "their channels" in found.understood else expected
    np.testing.assert_allclose(whole, expected.reshape(40, *shape), rtol=1e-6)  # nothing is lost, or elsewhere


@pytest.mark.parametrize(("kind", "shape"), [("images", (1, 12, 9)), ("series", (12, 9)), ("as_stored", (1, 12, 9))])
def test_what_somebody_says_holds(tmp_path, kind, shape):
    for x in (REAL, GREY, BYTES, PADDED):
        np.save(tmp_path / "a.npy", x)
        found = data.load(tmp_path / "a.npy", kind=kind)
        assert tuple(found.event_shape) == shape and found.kind == kind and "read as" not in found.understood
        assert tuple(data.load(tmp_path / "a.npy").changed(kind=kind).event_shape) == shape
    last = tmp_path / "last.npy"
    np.save(last, BYTES[..., None])
    assert tuple(data.load(last, kind="as_stored").event_shape) == (12, 9, 1)


def test_a_kind_that_cannot_be(tmp_path):
    np.save(tmp_path / "a.npy", np.ones((9, 16)))
    with pytest.raises(InputError, match=r"rows of 16 numbers\. Save x\.reshape\(len\(x\), 4, 4\)"):
        data.load(tmp_path / "a.npy", kind="images")
    with pytest.raises(InputError, match="kind to be 'images', 'series', 'as_stored' or None; got 'pictures'"):
        data.load(tmp_path / "a.npy", kind="pictures")
    with pytest.raises(InputError, match="kind of a file of your own; got digits"):
        data.load("digits", kind="series")
    assert data.load(tmp_path / "a.npy", kind="series").event_shape == (16, 1)


def test_bytes_of_two_levels_have_none(tmp_path):
    np.save(tmp_path / "a.npy", (BYTES > 99) * np.uint8(255))
    found = data.load(tmp_path / "a.npy")
    assert found.train.num_levels is None and set(found.train.x.unique().tolist()) == {0.0, 1.0}
    assert data.load(tmp_path / "a.npy", kind="as_stored").train.num_levels == 256  # as runs of before have it
    with pytest.raises(InputError, match="Expected grey levels"):
        data.load(tmp_path / "a.npy", dequantize="uniform")


def test_one_pass_finds_what_numpy_finds(monkeypatch):
    monkeypatch.setattr("ppl_vae.data.shapes.AT_ONCE", 7)
    found = look_at(HOLES)
    assert (found.low, found.high) == (np.nanmin(HOLES), np.nanmax(HOLES))
    assert (found.missing, found.count) == (np.isnan(HOLES).sum(), HOLES.size)
    assert not found.whole and not found.ends_early and look_at(PADDED).ends_early
    bad = GREY.copy()
    bad[[20, 30], 3, 3] = np.inf
    assert (look_at(bad).infinite, look_at(bad).first_infinite) == (2, 20)
    assert together(look_at(BYTES[:5]), look_at(BYTES[5:])) == look_at(BYTES)
    assert together() == Numbers()


def test_series_and_pictures_are_told_apart_by_shape():
    assert plots.is_series((12, 9)) and not plots.is_picture((12, 9)) and plots.is_picture((1, 12, 9))
    assert not plots.is_picture((4, 12, 9)) and not plots.is_picture((12, 9, 3))
