"""Data sets: fixed splits, binarization, a person's own files, and what is wrong with a file."""

import numpy as np
import pytest
import scipy.io
import torch
from PIL import Image

from ppl_vae import InputError, data
from ppl_vae.data import sources, splits
from ppl_vae.data.splits import Split
from ppl_vae.utils import array_files

X = np.ones((20, 5))


def test_digits(digits):
    assert digits.event_shape == (1, 8, 8)
    parts = [digits.train, digits.validation, digits.test]
    assert [len(p) for p in parts] == [1297, 200, 300]
    for part in parts:
        assert part.x.shape == (len(part), 1, 8, 8)
        assert set(part.x.unique().tolist()) == {0.0, 1.0}
        assert part.y.shape == (len(part),)
        assert torch.equal(part.x, part.x)
    again = data.load("digits")
    assert torch.equal(again.test.x, digits.test.x)
    assert torch.equal(again.train.y, digits.train.y)


def test_the_splits_are_a_partition_of_scikit_learns_digits():
    from sklearn.datasets import load_digits

    grey = data.load("digits", binarize=None)
    ours = torch.cat([p.x for p in (grey.train, grey.validation, grey.test)]).reshape(-1, 64).numpy() * 16
    theirs = load_digits().data
    np.testing.assert_array_equal(ours[np.lexsort(ours.T)], theirs[np.lexsort(theirs.T)])


def test_dynamic_binarization(digits):
    grey = data.load("digits", binarize=None)
    index = torch.arange(1000)
    a, b = digits.train.draw(index), digits.train.draw(index)
    assert not torch.equal(a, b)
    x = grey.train.x[:1000]
    assert ((a.mean(0) - x.mean(0)).abs() < 5 * 0.5 / 1000**0.5).all()
    assert set(a.unique().tolist()) == {0.0, 1.0}
    certain = (x == 0) | (x == 1)
    assert torch.equal(a[certain], x[certain])
    # The fixed draw belongs to the datum, not to the batch it comes in.
    fixed = digits.train.take(index)
    assert torch.equal(digits.train.take(index.flip(0)), fixed.flip(0))
    assert torch.equal(digits.train[10:20].x, digits.train.x[10:20])
    assert torch.equal(digits.test[::3].x, digits.test.x[::3])
    assert (fixed.mean(0) - x.mean(0)).abs().max() < 5 * 0.5 / 1000**0.5


def test_fixed_noise_is_uniform_and_independent():
    noise = splits.fixed_noise(torch.arange(5000), torch.Size([64])).numpy()
    assert noise.min() >= 0 and noise.max() < 1
    counts = np.histogram(noise, bins=64, range=(0, 1))[0]
    chi2 = ((counts - counts.mean()) ** 2 / counts.mean()).sum()
    assert chi2 < 63 + 5 * np.sqrt(2 * 63)
    assert np.abs(np.corrcoef(noise.T) - np.eye(64)).max() < 6 / np.sqrt(5000)


def test_threshold_and_none():
    grey, hard = data.load("digits", binarize=None), data.load("digits", binarize="threshold")
    assert torch.equal(hard.train.x, (grey.train.x >= 0.5).float())
    assert torch.equal(hard.test.x, (grey.test.x >= 0.5).float())
    assert 2 < len(grey.test.x.unique()) <= 17
    assert grey.changed(binarize="default").binarize == "dynamic"
    assert grey.changed(binarize="default", dequantize="uniform").binarize is None
    with pytest.raises(TypeError, match=r"Unknown options of data\.load"):
        grey.changed(stored=())


def test_a_random_threshold_is_one_for_all_pixels_of_an_image():
    ramp = data.load("digits", binarize="random_threshold")
    grey = data.load("digits", binarize=None)
    x, index = grey.train.x, torch.arange(1297)
    a, b, fixed = ramp.train.draw(index), ramp.train.draw(index), ramp.train.take(index)
    assert not torch.equal(a, b)
    for drawn in (a, b, fixed):
        assert set(drawn.unique().tolist()) == {0.0, 1.0}
        assert torch.equal(drawn[x == 0], x[x == 0])  # black is 0 always, white 1
        assert torch.equal(drawn[x == 1], x[x == 1])
        assert (thresholds(drawn, x) <= 1).all()  # no pixel that is one is darker than one that is zero
    assert torch.equal(ramp.train.take(index.flip(0)), fixed.flip(0))
    assert torch.equal(ramp.train[::10].x, fixed[::10])
    assert torch.equal(ramp.test.x[::3], ramp.test[::3].x)
    assert torch.equal(ramp.test.draw(index[:300]), ramp.test.x)  # what is not for training is fixed
    assert (thresholds(ramp.test.x, grey.test.x) <= 1).all()


def thresholds(drawn, grey):
    """Return how many times each image would have to change its threshold: 1 or less for one threshold."""
    order = grey.flatten(1).argsort(1)
    levels, ones = grey.flatten(1).gather(1, order), drawn.flatten(1).gather(1, order)
    falls = (ones[:, 1:] < ones[:, :-1]) | ((ones[:, 1:] != ones[:, :-1]) & (levels[:, 1:] == levels[:, :-1]))
    return 1 + falls.sum(1)


@pytest.mark.parametrize("training", [True, False])
def test_a_random_threshold_gives_the_grey_level_in_the_mean_and_pixels_that_agree(training):
    count = 20_000
    grey = torch.tensor([0.0, 0.1, 0.5, 0.5, 0.9, 1.0])
    part = splits.Split(grey.expand(count, 6), torch.arange(count), binarize="random_threshold")
    x = part.draw(torch.arange(count)) if training else part.x
    error = (grey * (1 - grey) / count).sqrt()
    assert ((x.mean(0) - grey).abs() <= 4.5 * error).all()
    joint = (x[:, :, None] * x[:, None, :]).mean(0)  # P(x_i = 1, x_j = 1) = min, not the product
    assert (joint - torch.minimum(grey[:, None], grey)).abs().max() < 4.5 * 0.5 / count**0.5
    assert torch.equal(x[:, 2], x[:, 3])
    assert abs(np.corrcoef(x[:-1, 2], x[1:, 2])[0, 1]) < 4.5 / count**0.5  # another one for the next image


def test_few_labels(digits):
    few = data.load("digits", num_labels=103)
    assert few.num_labels == 103 and few.num_classes == digits.num_classes == 10
    known = few.train.y >= 0
    assert int(known.sum()) == 103
    assert torch.equal(few.train.y[known], digits.train.y[known])
    assert (few.train.y[~known] == -1).all()
    assert sorted(few.train.y[known].bincount().tolist()) == [10] * 7 + [11] * 3
    assert torch.equal(few.train.x, digits.train.x)
    for part in ("validation", "test"):
        assert torch.equal(getattr(few, part).y, getattr(digits, part).y)
    assert torch.equal(data.load("digits", num_labels=103).train.y, few.train.y)
    # Nothing in the rows says who keeps a label, and more labels are those of fewer, and some.
    assert abs(float(known.nonzero().float().mean()) / 1297 - 0.5) < 5 * (1 / 12 / 103) ** 0.5
    more = data.load("digits", num_labels=500).train.y
    assert torch.equal(more[known], digits.train.y[known])
    assert torch.equal(data.load("digits", num_labels=1297).train.y, digits.train.y)
    one = data.load("digits", num_labels=1)
    assert int((one.train.y >= 0).sum()) == 1 and one.num_classes == 10
    assert "103 with labels" in repr(few.train) and ", with labels" in repr(few.test)


def test_known_and_unknown(digits):
    few = data.load("digits", num_labels=100).train
    known, unknown = few.known(), few.unknown()
    assert (len(known), len(unknown), unknown.y) == (100, 1197, None)
    assert torch.equal(known.y, few.y[few.y >= 0])
    assert torch.equal(known.x, few.x[few.y >= 0])
    assert torch.equal(unknown.x, few.x[few.y < 0])
    assert (len(digits.test.known()), len(digits.test.unknown())) == (300, 0)
    assert (len(unknown.known()), len(unknown.unknown())) == (0, 1197)


def test_balanced_as_far_as_a_class_has_data(tmp_path):
    y = np.repeat([0.0, 2.0, 3.0], [5, 45, 100])
    np.savez(tmp_path / "a.npz", train=np.ones((150, 5)), train_y=y, valid=X, test=X)
    loaded = data.load(tmp_path / "a.npz", num_labels=75)
    assert loaded.train.y.dtype == torch.int64
    assert loaded.train.known().y.bincount().tolist() == [5, 0, 35, 35]
    assert loaded.num_classes == 4
    assert splits.is_known(torch.tensor([255, 254], dtype=torch.uint8)).all()
    assert splits.is_known(torch.tensor([True, False])).all()
    assert data.load(tmp_path / "a.npz").train.y.dtype == torch.int64


def test_num_classes(tmp_path):
    assert data.load(spoil(tmp_path, "a.npy", x=X)).num_classes is None
    assert data.load(spoil(tmp_path, "a.npz", x=X, y=np.linspace(0, 1, 20))).num_classes is None
    assert data.load(spoil(tmp_path, "a.npz", x=X, y=np.arange(20) - 3)).num_classes is None
    assert data.load(spoil(tmp_path, "a.npz", x=X, y=np.full(20, 6))).num_classes == 7


@pytest.mark.parametrize("dtype", [float, np.float32, bool, np.uint8, np.int16])
def test_labels_that_are_whole_numbers_become_integers(tmp_path, dtype):
    y = (np.arange(20) % 2).astype(dtype)
    parts = {"train": X, "train_y": y, "validation": X, "test": X, "test_y": y}
    for arrays in ({"x": X, "y": y}, parts):
        loaded = data.load(spoil(tmp_path, "a.npz", **arrays))
        assert loaded.num_classes == 2
        for part in (loaded.train, loaded.test):
            assert part.y.dtype == torch.int64 and set(part.y.tolist()) <= {0, 1}
    np.testing.assert_array_equal(loaded.train.y, y)
    assert loaded.validation.y is None


def test_labels_stay_numbers_if_some_are_not_whole(tmp_path):
    y = np.arange(20.0)
    parts = {"train": X, "train_y": y, "validation": X, "validation_y": y, "test": X, "test_y": y + 0.5}
    for arrays in ({"x": X, "y": y / 2}, parts):
        assert data.load(spoil(tmp_path, "a.npz", **arrays)).train.y.is_floating_point()


@pytest.mark.parametrize(
    ("arrays", "num_labels", "message"),
    [
        (dict(x=X, y=np.arange(20)), 0, "num_labels to be a whole number of at least 1; got 0"),
        (dict(x=X, y=np.arange(20)), 2.5, "num_labels .* got 2.5"),
        (dict(x=X, y=np.arange(20)), 17, "at most the number of training data, 16; got 17"),
        (dict(x=X), 3, "to hide some; got none"),
        (dict(x=X, y=np.linspace(0, 1, 20)), 3, "whole numbers from 0 on, to hide some; got values from 0"),
        (dict(x=X, y=-np.arange(20)), 3, "whole numbers from 0 on, to hide some; got values from -"),
        (dict(x=X, y=np.ones((20, 2))), 3, r"to hide some; got labels of shape \(16, 2\)"),
    ],
)
def test_labels_that_cannot_be_hidden(tmp_path, arrays, num_labels, message):
    with pytest.raises(InputError, match=message):
        data.load(spoil(tmp_path, "a.npz", **arrays), num_labels=num_labels)


def test_strings_or_few_labels():
    with pytest.raises(InputError, match="strings or num_labels; got both"):
        data.load("digits", strings=3, num_labels=100)


def test_streams_of_fixed_noise_have_nothing_to_do_with_each_other():
    rows = torch.arange(5000)
    noise = [splits.fixed_noise(rows, torch.Size([1]), stream).numpy()[:, 0] for stream in range(3)]
    assert np.abs(np.corrcoef(noise) - np.eye(3)).max() < 5 / np.sqrt(5000)


def test_mnist(real_data):
    mnist = real_data("mnist")
    assert mnist.event_shape == (1, 28, 28)
    assert [len(p) for p in (mnist.train, mnist.validation, mnist.test)] == [50_000, 10_000, 10_000]
    grey = real_data("mnist", binarize=None)
    assert float(grey.test.grey(torch.arange(100)).max()) == 1.0
    assert mnist.test.y[:4].tolist() == [7, 2, 1, 0]


def test_binarized_mnist(real_data):
    mnist = real_data("binarized_mnist")
    assert [len(p) for p in (mnist.train, mnist.validation, mnist.test)] == [50_000, 10_000, 10_000]
    assert set(mnist.test[::50].x.unique().tolist()) == {0.0, 1.0}


def test_freyfaces(real_data):
    faces = real_data("freyfaces")
    assert faces.event_shape == (1, 28, 20)
    assert [len(p) for p in (faces.train, faces.validation, faces.test)] == [1565, 200, 200]
    assert 0 < faces.train.x.min() < faces.train.x.max() < 1


def write_images(folder, sizes=((8, 6),) * 12, mode="L"):
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i, (h, w) in enumerate(sizes):
        shape = (h, w) if mode == "L" else (h, w, 3)
        Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8)).save(folder / f"{i:02}.png")
    return folder


def test_own_files(tmp_path):
    x = np.random.default_rng(0).random((40, 6), dtype=np.float32)
    np.save(tmp_path / "a.npy", x)
    own = data.load(tmp_path / "a.npy")
    assert [len(p) for p in (own.train, own.validation, own.test)] == [32, 4, 4]
    assert own.event_shape == (6,)
    together = torch.cat([own.train.x, own.validation.x, own.test.x])
    np.testing.assert_array_equal(np.sort(together[:, 0]), np.sort(x[:, 0]))

    for dtype in (np.longdouble, ">f4"):  # as other machines and programs write them
        np.save(tmp_path / "c.npy", x.astype(dtype))
        assert torch.equal(data.load(tmp_path / "c.npy").train.x, own.train.x)

    images = (x.reshape(40, 2, 3) * 255).astype(np.uint8)
    np.savez(tmp_path / "b.npz", x=images, y=np.arange(40))
    own = data.load(str(tmp_path / "b.npz"), binarize="dynamic")
    assert own.event_shape == (1, 2, 3)
    row = int(own.test.y[0])
    grey = data.load(str(tmp_path / "b.npz"))
    np.testing.assert_allclose(grey.test.x[0, 0], images[row] / 255, rtol=1e-6)

    np.savez(tmp_path / "c.npz", train=x[:20], valid=x[20:30], test=x[30:], test_y=np.arange(10))
    own = data.load(tmp_path / "c.npz")
    np.testing.assert_array_equal(own.test.x, x[30:])
    assert own.test.y.tolist() == list(range(10))
    assert own.train.y is None

    own = data.load(write_images(tmp_path / "grey"))
    assert own.event_shape == (1, 8, 6)
    own = data.load(write_images(tmp_path / "colour", mode="RGB"))
    assert own.event_shape == (3, 8, 6)
    assert 0 <= own.train.x.min() < own.train.x.max() <= 1


def test_large_files_are_mapped_not_read(tmp_path, monkeypatch):
    x = np.random.default_rng(0).random((300, 1, 4, 4), dtype=np.float32)
    np.save(tmp_path / "large.npy", x)
    in_memory = data.load(tmp_path / "large.npy", binarize="dynamic")
    monkeypatch.setattr(array_files, "IN_MEMORY", 100)
    mapped = data.load(tmp_path / "large.npy", binarize="dynamic")
    assert isinstance(mapped.train.values, np.memmap)
    assert isinstance(in_memory.train.values, torch.Tensor)
    for name in ("train", "validation", "test"):
        assert torch.equal(getattr(mapped, name).x, getattr(in_memory, name).x)


def spoil(tmp_path, name, **arrays):
    path = tmp_path / name
    np.savez(path, **arrays) if name.endswith("npz") else np.save(path, *arrays.values())
    return path


def truncated(path):
    path.write_bytes(path.read_bytes()[:-50])
    return path


def deep(folder):
    folder.mkdir()
    Image.fromarray(np.full((4, 4), 40_000, dtype=np.uint16)).save(folder / "a.png")
    return folder


CASES = {
    "unknown": (lambda t: "mnits", "Unknown data set 'mnits': did you mean 'mnist'"),
    "missing": (lambda t: t / "no.npy", "does not exist"),
    "string column": (lambda t: spoil(t, "a.npy", x=np.array([["a", "b"]] * 9)), "dtype <U1"),
    "objects": (lambda t: spoil(t, "a.npz", x=np.array([{}], dtype=object)), "cannot be read"),
    "nan": (lambda t: spoil(t, "a.npy", x=np.full((20, 5), np.nan)), "NaN only"),
    "inf": (lambda t: spoil(t, "a.npy", x=np.full((9, 2), np.inf)), "infinity in 9 data"),
    "empty": (lambda t: spoil(t, "a.npy", x=np.zeros((0, 5))), "empty array"),
    "too few": (lambda t: spoil(t, "a.npy", x=np.zeros((2, 5))), "at least 3 data"),
    "truncated npy": (lambda t: truncated(spoil(t, "a.npy", x=X)), "cannot be read"),
    "truncated npz": (lambda t: truncated(spoil(t, "a.npz", x=X)), "cannot be read"),
    "odd names": (lambda t: spoil(t, "a.npz", a=X, b=X), "hold x .*got a, b"),
    "labels": (lambda t: spoil(t, "a.npz", x=X, y=np.arange(3)), "as many labels.*got 3 for 20"),
    "no images": (lambda t: t, "Expected images .*got none"),
    "two sizes": (lambda t: write_images(t / "i", [(8, 6), (8, 6), (9, 6)]), "one size.*02.png"),
    "no name": (lambda t: "", "got nothing"),
    "a number": (lambda t: spoil(t, "a.npy", x=np.array(3.0)), r"shape \(\)"),
    "labels in words": (lambda t: spoil(t, "a.npz", x=X, y=np.array(["a"] * 20)), "'y' of dtype <U1"),
    "three shapes": (lambda t: spoil(t, "a.npz", train=X, valid=X, test=X[:, :3]), "one shape"),
    "16 bits": (lambda t: deep(t / "i"), "mode I"),
    "text": (lambda t: (t / "x.dat").write_text("1,2") and t / "x.dat", "npy or .npz"),
}


@pytest.mark.parametrize("case", CASES)
def test_what_is_wrong_is_said(tmp_path, case):
    make, message = CASES[case]
    with pytest.raises(InputError, match=message):
        data.load(make(tmp_path))


def test_a_broken_image(tmp_path):
    folder = write_images(tmp_path / "i")
    truncated(folder / "03.png")
    (folder / "03.png").write_bytes(b"no image")
    with pytest.raises(InputError, match=r"03\.png.*cannot be read"):
        data.load(folder)


def test_binarizing_what_is_not_grey(tmp_path):
    path = spoil(tmp_path, "a.npy", x=np.linspace(-3, 3, 60).reshape(30, 2))
    with pytest.raises(InputError, match=r"\[0, 1\] to binarize.*from -3"):
        data.load(path, binarize="dynamic")
    with pytest.raises(InputError, match="'dynamic', 'threshold' or None; got 'dynamik'"):
        data.load("digits", binarize="dynamik")
    with pytest.raises(InputError, match=r"\[0, 1\] to binarize.*from -3"):
        data.load(path, binarize="random_threshold")


def test_missing_real_data_say_where_to_put_them(tmp_path, monkeypatch):
    monkeypatch.setenv("PPL_VAE_DATA", str(tmp_path))
    for name in ("binarized_mnist", "freyfaces"):
        with pytest.raises(InputError, match="PPL_VAE_DATA"):
            data.load(name)


def test_other_byte_orders_and_one_scale_for_all_parts(tmp_path):
    np.save(tmp_path / "big.npy", X.astype(">f8"))
    assert data.load(tmp_path / "big.npy").train.x.shape == (16, 5)
    train = np.full((9, 2), 200, dtype=np.uint8)
    np.savez(tmp_path / "a.npz", train=train, valid=train, test=np.ones((9, 2), dtype=np.uint8))
    assert float(data.load(tmp_path / "a.npz").test.x.max()) == pytest.approx(1 / 255)


def test_named_files_of_another_shape(tmp_path, monkeypatch):
    monkeypatch.setenv("PPL_VAE_DATA", str(tmp_path))
    np.savez(tmp_path / "binarized_mnist_static.npz", train=X, valid=X, test=X)
    np.savez(tmp_path / "freyfaces.npz", images=X)
    for name in ("binarized_mnist", "freyfaces"):
        with pytest.raises(InputError, match="Replace it by the whole file"):
            data.load(name)


def test_chorales_are_series_with_nan_after_their_end(tmp_path, monkeypatch):
    """Of object arrays of unequal lengths: as long as the longest of all parts, in the order of the file."""
    monkeypatch.setenv("PPL_VAE_DATA", str(tmp_path))
    with pytest.raises(InputError, match="PPL_VAE_DATA"):
        data.load("jsb_chorales")
    (tmp_path / "music").mkdir()
    parts, rolls = {"traindata": (3, 2), "validdata": (1, 4), "testdata": (5,)}, {}
    for name, lengths in parts.items():
        rolls[name] = np.empty((1, len(lengths)), dtype=object)
        for i, length in enumerate(lengths):
            rolls[name][0, i] = (np.random.default_rng(i).random((length, 88)) < 0.1).astype(np.uint8)
    scipy.io.savemat(tmp_path / "music" / "JSB_Chorales.mat", rolls)
    chorales = data.load("jsb_chorales")
    assert chorales.event_shape == (5, 88) and len(chorales.train) == 2
    assert (~chorales.validation.x.isnan().all(-1)).sum(1).tolist() == [1, 4]
    np.testing.assert_array_equal(chorales.train.x[0, :3], rolls["traindata"][0, 0])
    scipy.io.savemat(tmp_path / "music" / "JSB_Chorales.mat", {"traindata": rolls["traindata"]})
    with pytest.raises(InputError, match="Replace it by the whole file"):
        data.load("jsb_chorales")


def test_the_chorales(real_data):
    chorales = real_data("jsb_chorales")
    parts = (chorales.train, chorales.validation, chorales.test)
    assert [(len(p), int((~p.x.isnan().all(-1)).sum())) for p in parts] == [(229, 13807), (76, 4602), (77, 4725)]


@pytest.mark.parametrize("as_bytes", [True, False])
def test_binary_draws_have_the_probabilities_of_the_greys(as_bytes):
    greys = torch.arange(256, dtype=torch.uint8)
    values = greys[:, None] if as_bytes else greys[:, None] / 255
    split = Split(values, torch.arange(256).repeat(4000), scale=255.0 if as_bytes else 1.0, binarize="dynamic")
    torch.manual_seed(0)
    state = torch.get_rng_state()
    x = split.draw(torch.arange(len(split))).reshape(4000, 256)
    assert set(x.unique().tolist()) == {0.0, 1.0}
    p = greys / 255
    error = (p * (1 - p) / 4000).sqrt()
    assert ((x.mean(0) - p).abs() <= 4.5 * error + 2**-16).all()
    assert x.mean(0)[[0, 255]].tolist() == [0.0, 1.0]  # never, and always
    assert abs(float((x - p).mean())) < 4.5 * float((p * (1 - p)).mean() / x.numel()) ** 0.5
    each = ((x - p) / (p * (1 - p)).sqrt())[:, 1:255]
    for other in (each.roll(1, 0), each.roll(1, 1), each.roll(4, 1), each.roll(8, 1)):  # neighbours, and their words
        assert abs(float((each * other).mean())) < 4.5 / each.numel() ** 0.5
    torch.set_rng_state(state)
    assert torch.equal(split.draw(torch.arange(len(split))).reshape(4000, 256), x)


@pytest.mark.parametrize("batch_size", [1, 7, 64, 100])
def test_batches_are_the_same_however_many_are_found_at_once(monkeypatch, batch_size):
    x = torch.arange(64.0)[:, None].expand(64, 3)
    found = {}
    for at_once in (1, 50, 10_000):
        monkeypatch.setattr(sources, "NUMBERS_AT_ONCE", at_once)
        torch.manual_seed(0)
        found[at_once] = [batch for (batch,) in sources.TensorSource((x,)).batches(batch_size, shuffle=True)]
    sizes = [len(batch) for batch in found[1]]
    assert sizes == [batch_size] * (64 // batch_size) + [64 % batch_size] * (64 % batch_size > 0)
    assert sorted(torch.cat(found[1])[:, 0].tolist()) == x[:, 0].tolist()
    for batches in found.values():
        assert all(map(torch.equal, batches, found[1])) and len(batches) == len(found[1])
