"""A run knows its data: a file that has changed since is refused, in every question that reads it."""

import json

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

import ppl_vae
from ppl_vae import InputError, data
from ppl_vae.runs.impute import impute_run

SMALL = {"decoder.hidden": 8, "encoder.hidden": 8, "prior.latent_dim": 2, "fit.epochs": 1}
X = (np.random.default_rng(0).random((100, 6)) < 0.5).astype(float)
X[::7, 2] = np.nan


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("same_data")
    np.save(folder / "mine.npy", X)
    command = dict(model="vae", data=str(folder / "mine.npy"), out=folder / "run", settings=SMALL, num_samples=20)
    command["method"] = "importance"
    return folder / "run", folder / "mine.npy", command, ppl_vae.train(**command).evidence


CHANGED = {
    "more rows": np.r_[X, X[:10]],
    "another code": 1 - X,
    "another order": X[::-1],
    "one value": np.where(np.arange(600).reshape(100, 6) == 55, 1 - X, X),
    "one that is missing": np.where(np.arange(600).reshape(100, 6) == 55, np.nan, X),
}


@pytest.mark.parametrize("how", CHANGED)
def test_a_changed_file_is_refused(trained, how):
    path, file, command, _ = trained
    np.save(file, CHANGED[how])
    message = r"mine.npy as it was when .*run was trained; got another (train|test|validation).*estimate_evidence"
    for question in (
        lambda: ppl_vae.evaluate(path, num_samples=5),
        lambda: ppl_vae.explain(path),
        lambda: impute_run(path, num_samples=5),
        lambda: ppl_vae.train(**command, resume=True),
    ):
        with pytest.raises(InputError, match=message):
            question()
    assert ppl_vae.sample(ppl_vae.load(path).model, 2).shape == (2, 6)  # which reads no data


def test_new_rows_are_answered_though_the_file_has_changed(trained, tmp_path):
    path, file, _, _ = trained
    np.save(file, 1 - X)
    np.save(tmp_path / "new.npy", X[:9])
    options = {"method": "importance", "num_samples": 5, "compile": False, "progress": False}
    with pytest.warns(UserWarning, match=r"as .*run.json says.*another train"):
        found = ppl_vae.evaluate(path, data=tmp_path / "new.npy", **options)
    run = ppl_vae.load(path)
    assert np.allclose(found.log_px, ppl_vae.estimate_evidence(run.model, run.guide, X[:9], **options).log_px)


def test_other_labels_and_one_more_image_are_other_data(tmp_path):
    from PIL import Image

    x, y = np.nan_to_num(X), np.arange(100) % 2
    np.savez(tmp_path / "a.npz", x=x, y=y)
    before = data.load(tmp_path / "a.npz").fingerprints()
    np.savez(tmp_path / "a.npz", x=x, y=np.where(np.arange(100) == 3, 1 - y, y))
    after = data.load(tmp_path / "a.npz").fingerprints()
    assert sum(before[part] != after[part] for part in before) == 1  # that with datum 3 in it
    (tmp_path / "images").mkdir()
    for i in range(21):
        if i == 20:
            before = data.load(tmp_path / "images").fingerprints()
        Image.fromarray(np.full((4, 4), 10 * i, np.uint8)).save(tmp_path / "images" / f"{i:02}.png")
    assert data.load(tmp_path / "images").fingerprints()["test"] != before["test"]


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_the_same_numbers_are_the_same_data(trained, dtype):
    path, file, command, evidence = trained
    np.save(file, X.astype(dtype))
    np.testing.assert_array_equal(ppl_vae.evaluate(path, num_samples=20).log_px, evidence.log_px)
    assert len(ppl_vae.train(**command, resume=True).history.epoch) == 1


def test_a_run_without_fingerprints_says_so(trained, tmp_path):
    _, file, command, _ = trained
    np.save(file, X)
    run = ppl_vae.train(**command | {"out": tmp_path / "old"})
    config = json.loads((tmp_path / "old" / "run.json").read_text())
    assert set(config.pop("fingerprints")) == {"train", "validation", "test"}
    del config["digest"], config["result"]["weights"], config["result"]["history"]  # nor did it keep digests
    for role in ("model", "guide"):
        path = tmp_path / "old" / f"{role}.safetensors"
        save_file(load_file(path), path)
    (tmp_path / "old" / "run.json").write_text(json.dumps(config))
    np.save(file, 1 - X)
    with pytest.warns(UserWarning, match="kept no fingerprints of the data: whether .*mine.npy has changed"):
        assert len(ppl_vae.evaluate(tmp_path / "old", num_samples=5)) == len(run.evidence)
