"""A run keeps what its data were understood to be: names of labels, series or images; older runs read as they did."""

import json

import numpy as np
import pytest

import ppl_vae
from ppl_vae import InputError
from ppl_vae.fitting.schemas import digest_of_json
from ppl_vae.runs.impute import impute_run
from ppl_vae.runs.sample import sample_run

R = np.random.default_rng(0)
SMALL = {"fit.epochs": 1, "prior.latent_dim": 2}


@pytest.fixture(scope="module")
def named(tmp_path_factory):
    folder = tmp_path_factory.mktemp("named")
    np.savez(folder / "a.npz", x=(R.random((60, 6)) < 0.5) * 1.0, y=np.array(["dog", "ant", "7"])[np.arange(60) % 3])
    said = []
    options = dict(data=str(folder / "a.npz"), networks="concatenated", settings=SMALL | {"networks.hidden": 8})
    run = ppl_vae.train(
        "cvae", out=folder / "run", num_samples=5, on_data=lambda d: said.append(d.understood), **options
    )
    return run, said


def test_what_was_understood_is_said_once_and_kept(named):
    run, said = named
    words = "60 rows, 6 columns, 0 and 1; y: 3 classes, 7, ant, dog"
    config = json.loads((run.path / "run.json").read_text())
    assert said == [words] and config["understood"] == words
    assert config["data"]["classes"] == ["7", "ant", "dog"] and run.model.condition.num_classes == 3


def test_labels_are_given_by_their_names(named):
    path = named[0].path
    by_name = np.load(sample_run(path, label="dog", size=4, out=path / "name.npy"))
    np.testing.assert_array_equal(by_name, np.load(sample_run(path, label=2, size=4, out=path / "code.npy")))
    both = np.load(sample_run(path, label=["ant", 7], size=4, out=path / "both.npy"))  # a name goes before a number
    np.testing.assert_array_equal(both, np.load(sample_run(path, label=[1, 0], size=4, out=path / "both.npy")))
    with pytest.raises(InputError, match=r"Unknown label 'cat': .*\(there are: 7, ant, dog\)"):
        sample_run(path, label="cat")


def test_older_runs_read_files_as_they_did(tmp_path):
    x = R.normal(size=(40, 8, 3))
    np.save(tmp_path / "a.npy", x)
    options = dict(data=str(tmp_path / "a.npy"), likelihood="gaussian", num_samples=5)
    settings = SMALL | {"decoder.hidden": 8, "encoder.hidden": 8}
    before = settings | {"data.kind": "as_stored"}
    run = ppl_vae.train("vae", out=tmp_path / "run", settings=before, **options)
    config = json.loads((tmp_path / "run" / "run.json").read_text())
    del config["data"]["kind"], config["understood"]  # as a version wrote it that knew no kinds
    config["digest"] = digest_of_json(config)
    (tmp_path / "run" / "run.json").write_text(json.dumps(config))
    again = ppl_vae.load(tmp_path / "run")
    assert again.data().event_shape == (1, 8, 3) and again.data().fingerprints() == run.data().fingerprints()
    np.save(tmp_path / "holes.npy", np.where(R.random((5, 8, 3)) < 0.3, np.nan, x[:5]))
    found, _ = impute_run(again, data=tmp_path / "holes.npy", num_samples=5, out=tmp_path / "mended.npy")
    assert found.mean.shape == (5, 1, 8, 3)
    assert len(ppl_vae.train("vae", out=tmp_path / "run", settings=before, resume=True, **options).history.epoch) == 1
    with pytest.raises(InputError, match=r"other .*data\.event_shape"):
        ppl_vae.train("vae", out=tmp_path / "run", settings=settings, resume=True, **options)
    series = ppl_vae.train("vae", out=tmp_path / "new", settings=settings, **options)
    assert series.model.event_shape == (8, 3) and series.recipe.data["kind"] is None
    assert impute_run(series, data=tmp_path / "holes.npy", num_samples=5)[0].mean.shape == (5, 8, 3)
