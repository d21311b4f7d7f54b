"""Conditions from files, and runs of conditional models: what is read, drawn, kept, and refused."""

from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import IMAGES, LABELS, SHAPE, SMALL, STRINGS

import ppl_vae
from ppl_vae import InputError, models
from ppl_vae.conditions import Condition, DigitString, Label, Visible
from ppl_vae.likelihoods import Bernoulli, Gaussian
from ppl_vae.runs.figures import answers
from ppl_vae.runs.sample import read_conditions, sample_run


def test_conditions_from_files(tmp_path):
    from PIL import Image

    model = models.NextDigit(SHAPE, DigitString(2), **SMALL)
    np.save(tmp_path / "one.npy", STRINGS[0, :, 0].numpy())
    torch.testing.assert_close(read_conditions(model, tmp_path / "one.npy"), STRINGS[:1])
    (tmp_path / "folder").mkdir()
    for i, image in enumerate(STRINGS.flatten(0, 1)[:4, 0]):
        Image.fromarray((255 * image).byte().numpy()).save(tmp_path / "folder" / f"{i}.png")
    torch.testing.assert_close(read_conditions(model, tmp_path / "folder"), STRINGS[:2])
    strip = torch.cat([*STRINGS[0, :, 0]], dim=-1)
    Image.fromarray((255 * strip).byte().numpy()).save(tmp_path / "strip.png")
    torch.testing.assert_close(read_conditions(model, tmp_path / "strip.png"), STRINGS[:1])
    np.save(tmp_path / "three.npy", STRINGS[:3, 0, 0].numpy())
    with pytest.raises(InputError, match="strings of 2 images"):
        read_conditions(model, tmp_path / "three.npy")


def test_three_images_are_no_colours_and_strips_stay_apart(tmp_path):
    from PIL import Image

    model = models.NextDigit(SHAPE, DigitString(3), **SMALL)
    strings = torch.stack([IMAGES, 1 - IMAGES, IMAGES.flip(-1)], dim=1)[:3]  # three strings of three
    np.save(tmp_path / "strings.npy", strings[:, :, 0].numpy())
    torch.testing.assert_close(read_conditions(model, tmp_path / "strings.npy"), strings)
    np.save(tmp_path / "strips.npy", torch.cat([*strings[:, :, 0].unbind(1)], dim=-1).numpy())
    torch.testing.assert_close(read_conditions(model, tmp_path / "strips.npy"), strings)
    completion = models.ImageCompletion(SHAPE, **SMALL)
    coloured = (255 * IMAGES[0]).byte().permute(1, 2, 0).expand(4, 4, 3)
    Image.fromarray(coloured.numpy()).save(tmp_path / "coloured.png")
    torch.testing.assert_close(read_conditions(completion, tmp_path / "coloured.png"), IMAGES[:1])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.array([1.5, 2.0]), "one whole number each; got an array of dtype float64"),
        (np.zeros((4, 4)), r"one whole number each.*shape \(4, 4\)"),
        (np.array([np.nan]), "one whole number each"),
    ],
)
def test_labels_in_files(tmp_path, values, message):
    model = models.CVAE(SHAPE, Label(3), **SMALL)
    np.save(tmp_path / "labels.npy", np.array([2.0, 0.0]))
    assert read_conditions(model, tmp_path / "labels.npy").tolist() == [2, 0]
    np.save(tmp_path / "labels.npy", values)
    with pytest.raises(InputError, match=message):
        read_conditions(model, tmp_path / "labels.npy")


@pytest.mark.parametrize("dtype", [np.int64, np.float32, np.float64])
@pytest.mark.parametrize("largest", [255, 16])
def test_grey_levels_that_are_neither_bytes_nor_in_the_unit_interval(tmp_path, dtype, largest):
    grey = (largest * np.linspace(0, 1, 16)).reshape(4, 4)
    binary, real = (models.ImageCompletion(SHAPE, likelihood=kind(), **SMALL) for kind in (Bernoulli, Gaussian))
    path = tmp_path / "grey.npy"
    np.save(path, grey.astype(dtype))
    with pytest.raises(InputError, match=rf"uint8.*\[0, 1\].*got {np.dtype(dtype)} from"):
        read_conditions(binary, path)
    np.testing.assert_allclose(read_conditions(real, path)[0, 0], grey.astype(dtype), rtol=1e-6)
    np.save(path, (255 * np.eye(4)).astype(np.uint8))
    for model in (binary, real):
        torch.testing.assert_close(read_conditions(model, path)[0, 0], torch.eye(4))
    np.save(path, np.where(binary.condition.mask[0], np.eye(4), largest))  # of hidden pixels nothing is asked
    assert torch.equal(read_conditions(binary, path)[0, 0, :, 2], torch.eye(4)[2])


def test_data_that_are_no_images_are_conditions(tmp_path):
    model = models.ImageCompletion((6,), Visible([1, 1, 0, 0, 0, 0]), **SMALL)
    vectors = np.eye(6)[:3]
    for saved, expected in ((vectors, vectors), (vectors[0], vectors[:1])):
        np.save(tmp_path / "vectors.npy", saved)
        np.testing.assert_array_equal(read_conditions(model, tmp_path / "vectors.npy"), expected)
    np.save(tmp_path / "vectors.npy", np.ones((3, 5)))
    with pytest.raises(InputError, match=r"shape \(6,\) as conditions.*got \(3, 5\)"):
        read_conditions(model, tmp_path / "vectors.npy")
    strings = np.eye(6)[:4].reshape(2, 2, 6)
    for saved in (strings, strings.reshape(2, 12)):
        np.save(tmp_path / "strings.npy", saved)
        given = read_conditions(models.NextDigit((6,), DigitString(2), **SMALL), tmp_path / "strings.npy")
        np.testing.assert_array_equal(given, strings)


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (np.full((4, 4), 0.5), "zeros and ones; got values from 0.5"),
        (np.full((4, 4), np.nan), "zeros and ones"),
        (np.array(1), r"got \(\)"),
        (None, "No data left"),
    ],
)
def test_masks_in_files(tmp_path, mask, message):
    path = tmp_path / "mask.npy"
    np.save(path, np.eye(4))
    assert torch.equal(Visible(path).bind(SHAPE).mask[0], torch.eye(4).bool())
    path.write_bytes(b"") if mask is None else np.save(path, mask)
    with pytest.raises(InputError, match=message):
        Visible(path).bind(SHAPE)


def test_hidden_pixels_in_files_may_be_unknown(tmp_path):
    model = models.ImageCompletion(SHAPE, **SMALL)
    np.save(tmp_path / "image.npy", torch.where(model.condition.mask, IMAGES[0], torch.nan)[0].numpy())
    given = read_conditions(model, tmp_path / "image.npy")
    assert torch.equal(given[:, model.condition.mask], IMAGES[:1, model.condition.mask])
    for wrong, message in ((np.full((4, 4), np.nan), "finite"), (np.array(1.0), r"got \(\)")):
        np.save(tmp_path / "image.npy", wrong)
        with pytest.raises(InputError, match=message):
            read_conditions(model, tmp_path / "image.npy")


@pytest.mark.parametrize("form", [np.asarray, torch.as_tensor, "file"])
def test_a_run_holds_the_mask_it_was_given(tmp_path, form):
    mask = np.eye(8, dtype=int)
    np.save(tmp_path / "mask.npy", mask)
    visible = tmp_path / "mask.npy" if form == "file" else form(mask)
    settings = {"condition.visible": visible, "networks.hidden": 8, "fit.epochs": 1}
    run = ppl_vae.train("image_completion", settings=settings, num_samples=2, out=tmp_path / "run", progress=False)
    (tmp_path / "mask.npy").unlink()
    assert torch.equal(ppl_vae.load(run.path).model.condition.mask[0], torch.eye(8).bool())
    for size in (0, -1):
        with pytest.raises(InputError, match="size"):
            sample_run(run, size=size)


def test_labels_of_the_test_split_are_checked_before_training(tmp_path):
    x, y = IMAGES.numpy(), LABELS.numpy()
    parts = {"train": x, "validation": x, "test": x, "train_y": y, "validation_y": y, "test_y": y + 4}
    np.savez(tmp_path / "a.npz", **parts)
    with pytest.raises(InputError, match="whole numbers from 0 to 2 for Categorical; got values from 4 to 6"):
        ppl_vae.train("cvae", data=tmp_path / "a.npz", settings={"condition.num_classes": 3}, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_run_with_a_condition_of_ones_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.savez("angles.npz", x=IMAGES.numpy().repeat(5, 0), y=np.linspace(-3, 3, 30))
    few = {"fit.epochs": 1}
    run = ppl_vae.train(
        Path(__file__).parents[1] / "angled.py",
        data="angles.npz",
        settings=few,
        num_samples=2,
        out="run",
        progress=False,
    )
    assert (run.path / "figures" / "samples.png").exists()
    np.save("two.npy", np.array([0.5, 1.5]))
    sample_run(run, condition="two.npy", size=3, out="x.npy")
    assert np.load("x.npy").shape == (2, 3, *SHAPE)
    assert ppl_vae.sample(run.model, 4, y=0.5).shape == (4, *SHAPE)
    shape = (np.zeros((2, 2)), r"\[M\].*got \(2, 2\)")
    for wrong, message in (shape, (np.array([np.nan]), "NaN"), ([4.0], "y in .")):
        np.save("two.npy", wrong)
        with pytest.raises(InputError, match=message):
            sample_run(run, condition="two.npy")


class Doubled(Condition):
    """An image of the shape of x, twice as bright in a file; it is drawn beside the answers, with its negative."""

    @property
    def shape(self):
        return self.event_shape

    def read(self, values, file):
        return super().read(values, file) / 2

    def picture(self, y):
        return torch.stack([y, 1 - y], dim=1), torch.ones(())


def test_a_new_condition_is_one_class(tmp_path):
    model = models.CVAE(SHAPE, Doubled(), **SMALL)
    np.save(tmp_path / "y.npy", 2 * IMAGES.numpy())
    y = read_conditions(model, tmp_path / "y.npy")
    assert torch.equal(y, IMAGES)
    picture = answers(model, y, columns=3, truth=IMAGES)
    title = picture.get_suptitle() or picture.axes[0].get_title()
    assert title == "given (tinted), E[x | z, y], truth"
    (image,) = picture.axes[0].get_images()
    rows, columns = image.get_array().shape[:2]
    assert columns / rows == pytest.approx((2 + 3 + 1) / len(y), rel=0.1)


def test_samples_of_a_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    few = {"networks.hidden": 8, "fit.epochs": 1}
    run = ppl_vae.train("cvae", settings=few, method="importance", num_samples=30, out="cvae", progress=False)
    sample_run(run, label=[7, 3], size=2, out="x.npy")
    assert np.load("x.npy").shape == (2, 2, 1, 8, 8)
    assert sample_run(run, label=7).name == "samples-label7-0.png"
    before = (run.path / "evidence.nc").read_bytes()
    assert ppl_vae.evaluate(run, method="importance", num_samples=40, joint=True).quantity == "log P(x, y)"
    assert (run.path / "evidence.nc").read_bytes() == before
    assert (run.path / "evidence-joint-importance-guide-test-300.nc").exists()
    ppl_vae.evaluate(run, num_samples=40, num_data=5, joint=True)
    assert (run.path / "evidence-joint-auto-guide-test-5.nc").exists()

    grey = ppl_vae.train("next_digit", settings=few, num_samples=2, out="next", progress=False)
    np.save("string.npy", np.full((3, 8, 8), 16.0))
    with pytest.raises(InputError, match=r"grey levels in \[0, 1\].*up to 16"):
        sample_run(grey, condition="string.npy")
