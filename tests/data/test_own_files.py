"""A person's own files and folders: names of arrays, labels that are names, images as they are looked at."""

import warnings

import numpy as np
import pytest
import torch
from PIL import Image

from ppl_vae import InputError, data
from ppl_vae.data.categories import code_of, coded
from ppl_vae.data.own_files import read

R = np.random.default_rng(0)
X = R.normal(size=(60, 5))
BYTES = R.integers(0, 256, (60, 8, 6), dtype=np.uint8)
THREE = np.arange(60) % 3
WORDS = np.array(["dog", "ant", "cat"])[THREE]


def saved(path, **arrays):
    np.savez(path, **arrays)
    return path


def written(folder, name, pixels, mode=None, **how):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels, mode).save(path, **how)
    return folder


NAMES = {
    "Keras": (["x_train", "y_train", "x_test", "y_test"], (45, 5, 10)),
    "MedMNIST": (
        ["train_images", "train_labels", "val_images", "val_labels", "test_images", "test_labels"],
        (50, 5, 5),
    ),
    "training and validation": (["train", "train_y", "valid", "valid_y"], (45, 10, 5)),
    "scikit-learn": (["data", "target"], (48, 6, 6)),
    "images and labels": (["images", "labels"], (48, 6, 6)),
}


@pytest.mark.parametrize("case", NAMES)
def test_names_of_arrays_that_others_give(tmp_path, case):
    names, sizes = NAMES[case]
    parts = {2: [slice(60)], 4: [slice(50), slice(50, 60)], 6: [slice(50), slice(50, 55), slice(55, 60)]}[len(names)]
    arrays = {}
    for part, (x, y) in zip(parts, zip(names[::2], names[1::2], strict=True), strict=True):
        arrays |= {x: X[part], y: THREE[part, None]}
    found = data.load(saved(tmp_path / "a.npz", **arrays))
    every = [found.train, found.validation, found.test]
    assert tuple(map(len, every)) == sizes and found.num_classes == 3
    ours = torch.cat([part.x for part in every])
    order, rows = np.lexsort(X.T.astype(np.float32)), np.lexsort(ours.numpy().T)
    np.testing.assert_array_equal(ours[rows], X[order].astype(np.float32))  # each datum once, with its label
    np.testing.assert_array_equal(torch.cat([part.y for part in every])[rows], THREE[order])


def test_a_part_that_is_lacking_is_a_tenth_of_training_and_said(tmp_path):
    path = saved(tmp_path / "a.npz", train=X[:50], test=X[50:])
    found, again = data.load(path), data.load(path)
    assert "a tenth of train is taken for validation" in found.understood
    assert torch.equal(found.validation.x, again.validation.x)
    np.testing.assert_array_equal(found.test.x, X[50:].astype(np.float32))


@pytest.mark.parametrize("dtype", ["U", "S"])
def test_labels_that_are_names_are_coded_in_sorted_order(tmp_path, dtype):
    found = data.load(saved(tmp_path / "a.npz", x=X, y=WORDS.astype(dtype)))
    assert found.classes == ("ant", "cat", "dog") and "y: 3 classes, ant, cat, dog" in found.understood
    found.check_classes()
    for part in (found.train, found.validation, found.test):
        rows = [int(np.abs(X.astype(np.float32) - x.numpy()).sum(1).argmin()) for x in part.x]
        assert [found.classes[code] for code in part.y] == WORDS[rows].tolist()
    one = read(saved(tmp_path / "b.npz", x=X[:2], y=np.array(["dog", "dog"])), classes=found.classes)
    assert one.y.tolist() == [2, 2]
    with pytest.raises(InputError, match=r"Unknown label 'cow' in .*b\.npz"):
        read(saved(tmp_path / "b.npz", x=X[:2], y=np.array(["dog", "cow"])), classes=found.classes)


@pytest.mark.parametrize("dtype", [bool, int, np.float32])
def test_labels_that_are_one_hot_are_labels(tmp_path, dtype):
    x, y = np.random.default_rng(0).random((40, 5)), np.arange(40) % 3
    np.savez(tmp_path / "a.npz", x_train=x[:30], y_train=np.eye(3, dtype=dtype)[y[:30]], x_test=x, y_test=np.eye(3)[y])
    loaded = data.load(tmp_path / "a.npz")
    assert loaded.test.y.tolist() == y.tolist() and loaded.num_classes == 3
    assert "y is one-hot, and read as labels" in loaded.understood
    for others in (np.eye(3)[y] / 2, np.ones((40, 3)), np.eye(3)[y] * np.nan):
        np.savez(tmp_path / "b.npz", x=x, y=others)
        assert data.load(tmp_path / "b.npz").test.y.shape == (4, 3)
    np.savez(tmp_path / "b.npz", x=x, y=np.eye(3)[y])
    assert data.load(tmp_path / "b.npz", kind="as_stored").test.y.shape == (4, 3)


def test_names_that_are_numbers_unknown_or_say_nothing(tmp_path):
    assert coded(tmp_path, [np.array(["10", "2", "10"]), None])[1] == ("2", "10")
    with pytest.warns(UserWarning, match="20 of 60 data have the label -1"):
        found = data.load(saved(tmp_path / "a.npz", x=X, y=np.where(THREE == 0, "", WORDS)))
    assert found.classes == ("ant", "cat") and "20 data without" in found.understood
    for y, message in {
        "one": (np.array(["a"] * 60), "dtype <U1 with 'a' for all data"),
        "identifiers": (np.array([f"id{i}" for i in range(60)]), "another one for each of 60 data"),
        "objects": (WORDS.astype(object), r"Python objects.*\.astype\(str\) of names"),
    }.values():
        with pytest.raises(InputError, match=message):
            data.load(saved(tmp_path / "a.npz", x=X, y=y))
    with pytest.raises(InputError, match="got names and numbers"):
        data.load(saved(tmp_path / "a.npz", train=X, train_y=WORDS, test=X, test_y=THREE))
    with pytest.raises(InputError, match="numbers of one kind in the parts"):
        data.load(saved(tmp_path / "a.npz", train=BYTES, test=BYTES / 255))
    assert (code_of("Dog", (*found.classes, "dog")), code_of("7", None), code_of(7, ("7", "a"))) == (2, 7, 0)
    with pytest.raises(InputError, match="Unknown label 'dgo': did you mean 'dog'"):
        code_of("dgo", ("cat", "dog"))


LAYOUTS = {
    "flat": (["{i}.png"], (8, 1, 1), None),
    "classes": (["dog/{i}.png", "cat/{i}.png"], (16, 2, 2), ("cat", "dog")),
    "one folder": (["images/{i}.png"], (8, 1, 1), None),
    "numbers": (["10/{i}.png", "9/{i}.png"], (16, 2, 2), ("9", "10")),
    "splits": (["train/a/{i}.png", "train/b/{i}.png", "val/a/{i}.png", "test/b/{i}.png"], (20, 10, 10), ("a", "b")),
    "two splits": (["Train/a/{i}.png", "Train/b/{i}.png", "Test/{i}.png"], (18, 2, 10), ("a", "b")),
    "splits without classes": (["train/{i}.png", "test/{i}.png"], (9, 1, 10), None),
}


@pytest.mark.parametrize("case", LAYOUTS)
def test_folders_are_splits_and_classes(tmp_path, case):
    forms, sizes, classes = LAYOUTS[case]
    colours = {}
    for number, form in enumerate(forms):
        for i in range(10):
            colours[number * 10 + i] = form
            written(tmp_path / "f", form.format(i=i), np.full((4, 3), number * 10 + i, np.uint8))
    found = data.load(tmp_path / "f")
    every = {"train": found.train, "val": found.validation, "test": found.test}
    assert tuple(map(len, every.values())) == sizes and found.classes == classes
    for name, part in every.items():
        for index, x in enumerate(part.x):
            form = colours[round(float(x[0, 0, 0]) * 255)]  # where it was written
            inside = form.lower().split("/")
            assert inside[0] in (name, "train") or inside[0] not in ("train", "val", "test")
            if classes and part.y is not None:
                assert classes[part.y[index]] == form.split("/")[-2]
    before = data.load(tmp_path / "f", kind="as_stored")  # as runs of before had it
    assert before.train.y is None and sum(map(len, (before.train, before.validation, before.test))) == 10 * len(forms)


def test_images_in_hidden_folders_are_none_of_the_data(tmp_path):
    for name in ("a.png", "b.png", "c.png", ".ipynb_checkpoints/a.png", ".b.png"):
        written(tmp_path, name, BYTES[0])
    assert sum(map(len, data.load(tmp_path).stored)) == 3
    assert sum(map(len, data.load(tmp_path, kind="as_stored").stored)) == 5  # as runs of before read it


def test_numbers_beyond_single_precision_and_codes_of_missing_values(tmp_path):
    np.save(tmp_path / "x.npy", X * 1e300)
    with pytest.raises(InputError, match=r"below 3.4e\+38, as torch.float32 holds; got .*another unit"):
        data.load(tmp_path / "x.npy")
    x = X.copy()
    x[3:5, 2] = -999
    np.save(tmp_path / "x.npy", x)
    with pytest.warns(UserWarning, match=r"holds -999 in 2 values, .* save np.where\(x == -999, np.nan, x\)"):
        data.load(tmp_path / "x.npy")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for fine in (np.where(x == -999, np.nan, x), np.where(x == -999, -2, x), np.arange(100.0)[:, None]):
            np.save(tmp_path / "x.npy", fine)
            data.load(tmp_path / "x.npy")


def test_images_beside_folders_of_splits_or_classes(tmp_path):
    for name in ("train/0.png", "train/1.png", "test/0.png", "x.png"):
        written(tmp_path / "a", name, BYTES[0])
    with pytest.raises(InputError, match=r"got 1 outside, first x\.png.*kind='as_stored'"):
        data.load(tmp_path / "a")
    for name in ("cat/0.png", "dog/1.png", "dog/2.png", "x.png"):
        written(tmp_path / "b", name, BYTES[0])
    found = data.load(tmp_path / "b")
    assert found.train.y is None and "no labels in x, as some images lie in no folder" in found.understood


def test_transparent_pixels_are_white(tmp_path):
    half = np.full((8, 6), 255, np.uint8)
    half[:4], half[4] = 0, 51
    shown = np.where(half == 0, 255, np.where(half == 51, 204 + BYTES[:5] / 5, BYTES[:5]))
    for i in range(5):
        written(tmp_path / "grey", f"{i}.png", np.stack([BYTES[i], half], -1), "LA")
        written(tmp_path / "colour", f"{i}.png", np.dstack([*[BYTES[i]] * 3, half]), "RGBA")
        written(tmp_path / "opaque", f"{i}.png", np.dstack([*[BYTES[i]] * 3, half * 0 + 255]), "RGBA")
        written(tmp_path / "key", f"{i}.png", np.where(half, 9, 200).astype(np.uint8), transparency=200)
    for name, channels in (("grey", 1), ("colour", 3)):
        found = data.load(tmp_path / name)
        assert "5 of 5 with transparent pixels, shown on white" in found.understood
        expected = torch.from_numpy(shown / 255).float()[:, None].expand(5, channels, 8, 6)
        torch.testing.assert_close(found.train.x, expected[found.train.rows], atol=1.1 / 255, rtol=0)
    assert "transparent" not in data.load(tmp_path / "opaque").understood
    assert float(data.load(tmp_path / "key").train.x[0, 0, 0, 0]) == 1.0


def test_photographs_palettes_films_and_others(tmp_path):
    turned = Image.fromarray(BYTES[0])
    exif = turned.getexif()
    exif[0x0112] = 6  # to be turned by a quarter
    (tmp_path / "exif").mkdir()
    for i in range(3):
        turned.save(tmp_path / "exif" / f"{i}.png", exif=exif)
        written(tmp_path / "mixed", f"{i}.png", BYTES[i])
        Image.fromarray(BYTES[i]).quantize(4).save(written(tmp_path / "palette", f"{i}.png", BYTES[i]) / f"{i}.png")
        written(tmp_path / "cmyk", f"{i}.jpg", np.dstack([BYTES[i]] * 4), "CMYK")
        Image.fromarray(BYTES[i] > 99).save(written(tmp_path / "bits", f"{i}.png", BYTES[i]) / f"{i}.png")
    written(tmp_path / "mixed", "3.png", np.dstack([BYTES[3]] * 3))
    found = data.load(tmp_path / "exif")
    assert found.event_shape == (1, 6, 8) and "3 of 3 turned as their EXIF says" in found.understood
    np.testing.assert_array_equal(found.train.x[0, 0] * 255, np.rot90(BYTES[0], -1))
    assert "3 of 4 are grey, and become colours" in data.load(tmp_path / "mixed").understood
    assert data.load(tmp_path / "palette").event_shape == (3, 8, 6)
    assert "3 of 3 in CMYK and the like, converted to RGB" in data.load(tmp_path / "cmyk").understood
    assert "0 and 1" in data.load(tmp_path / "bits").understood
    frames = [Image.fromarray(x) for x in BYTES[:4]]
    (tmp_path / "film").mkdir()
    frames[0].save(tmp_path / "film" / "a.gif", save_all=True, append_images=frames[1:])
    with pytest.raises(InputError, match=r"got 4 in .*a\.gif\. Save them as an array: frames = ImageSequence"):
        data.load(tmp_path / "film")


def test_a_folder_of_other_files_names_what_to_give(tmp_path):
    (tmp_path / "scans").mkdir()
    (tmp_path / "scans" / "a.dcm").write_bytes(b"")
    with pytest.raises(InputError, match=r"got none\. Two lines convert a file: .*pydicom\.dcmread\('.*a\.dcm'\)"):
        data.load(tmp_path / "scans")
    np.save(tmp_path / "scans" / "a.npy", X)
    with pytest.raises(InputError, match=r"got none\. Give one of its files, such as .*a\.npy"):
        data.load(tmp_path / "scans")
