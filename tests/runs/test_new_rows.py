"""New rows for a run, in every question: read as in training, never kept over what is of the run's own data."""

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

import ppl_vae
from ppl_vae import InputError
from ppl_vae.runs.encode import encode_run
from ppl_vae.runs.new_rows import source_of
from ppl_vae.runs.sample import sample_run
from ppl_vae.runs.score import score_run

QUICK = {"method": "importance", "num_samples": 20, "compile": False, "progress": False}


def rows(count, seed):
    """Rows of eight bits that are all alike, but for a few; x mostly says y."""
    rng = np.random.default_rng(seed)
    y = rng.integers(2, size=count)
    x = np.where(rng.random((count, 8)) < 0.05, 1 - y[:, None], y[:, None])
    return x.astype(np.float32), y


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder, found = tmp_path_factory.mktemp("new_rows"), {}
    x, y = rows(600, 0)
    np.savez(folder / "old.npz", x=x, y=y)
    for name, settings in {
        "vae": {"decoder.hidden": 16, "encoder.hidden": 16, "prior.latent_dim": 2, "fit.epochs": 15},
        "cvae": {"networks.hidden": 16, "prior.latent_dim": 2, "fit.epochs": 2},
    }.items():
        settings |= {"fit.learning_rate": 0.01, "fit.batch_size": 50, "fit.compile": False}
        options = dict(data=str(folder / "old.npz"), out=folder / name, settings=settings, num_samples=20)
        options["method"] = "importance"
        found[name] = ppl_vae.train(name, **options, progress=False)
    new, new_y = rows(200, 1)
    np.savez(folder / "new.npz", x=new, y=new_y)
    np.save(folder / "x.npy", new)
    np.save(folder / "wide.npy", np.zeros((3, 9)))
    return folder, found


def test_evaluate_takes_new_rows(runs):
    folder, found = runs
    run, kept = found["vae"], (found["vae"].path / "evidence.nc").read_bytes()
    said = []
    evidence = ppl_vae.evaluate(run, data=folder / "x.npy", on_kept=said.append, **QUICK)
    assert (run.path / "evidence.nc").read_bytes() == kept and len(evidence) == 200
    (file,) = run.path.glob("evidence-importance-guide-new-*-200.nc")
    assert str(file) in said[0] and ppl_vae.Evidence.load(file).fingerprint == evidence.fingerprint
    plain = ppl_vae.estimate_evidence(run.model, run.guide, np.load(folder / "x.npy"), **QUICK)
    np.testing.assert_allclose(evidence.log_px, plain.log_px, atol=1e-4)
    fewer = ppl_vae.evaluate(run, data=torch.as_tensor(np.load(folder / "x.npy")), num_data=7, **QUICK)
    assert len(fewer) == 7
    with pytest.raises(InputError, match=r"wide.npy, as"):
        ppl_vae.explain(run, data=folder / "wide.npy")


def test_conditional_models_need_their_y(runs):
    folder, found = runs
    run = found["cvae"]
    assert ppl_vae.evaluate(run, data=folder / "new.npz", **QUICK).quantity == "log P(x | y)"
    for ask in (ppl_vae.evaluate, ppl_vae.explain, ppl_vae.score, encode_run):
        with pytest.raises(InputError, match=r"Expected y of each datum in .*x.npy.*got x alone"):
            ask(run, data=folder / "x.npy")
    encoding, path = encode_run(run, data=folder / "new.npz", num_data=9, progress=False)
    with np.load(path) as arrays:
        assert set(arrays.files) == {"z_mean", "z_mcse", "z_draws"}
        np.testing.assert_array_equal(arrays["z_mean"], encoding.mean["z"])
        assert arrays["z_draws"].shape == (10, 9, 2)


def test_conditions_are_taken_from_new_rows(runs, tmp_path):
    folder, found = runs
    x = np.load(sample_run(found["cvae"], data=folder / "new.npz", size=2, out=tmp_path / "s.npy"))
    assert x.shape == (200, 2, 8)
    np.save(tmp_path / "y.npy", rows(200, 1)[1])
    same = np.load(sample_run(found["cvae"], condition=tmp_path / "y.npy", size=2, out=tmp_path / "t.npy"))
    np.testing.assert_array_equal(x, same)
    with pytest.raises(InputError, match="one place that says"):
        sample_run(found["cvae"], data=folder / "new.npz", label=1)
    with pytest.raises(InputError, match="Expected a conditional model"):
        sample_run(found["vae"], data=folder / "new.npz")


def test_new_rows_are_ranked_and_outliers_found(runs, tmp_path):
    """Usual rows are flagged at the stated rate: a beta-binomial, to 1e-6; rows of alternating bits all are."""
    _, found = runs
    odd = np.tile(np.arange(8) % 2, (10, 1))
    np.save(tmp_path / "new.npy", np.r_[rows(200, 2)[0], odd])
    ranked, path = score_run(found["vae"], data=tmp_path / "new.npy", alpha=0.1, fdr=0.2, **QUICK)
    assert path == found["vae"].path / "scores.csv" and len(ranked.calibration) == 60
    assert ranked.flagged[200:].all() and ranked.log_px[200:].max() < np.quantile(ranked.log_px, 0.1)
    k = int(0.1 * 61)
    assert ranked.flagged[:200].sum() <= stats.betabinom.isf(1e-6, 200, k, 61 - k)
    table = pd.read_csv(path)
    assert list(table["row"]) == list(ranked.to_frame().index) and list(table["log_px"]) == sorted(table["log_px"])
    assert {"p_value", "p_low", "p_high", "flagged", "movable", "in_doubt", "discovered"} < set(table.columns)
    again = ppl_vae.score(found["vae"], data=tmp_path / "new.npy", alpha=0.1, calibration="validation", **QUICK)
    np.testing.assert_array_equal(again.log_px, ranked.log_px)
    assert "validation" in str(again) and not again.discovered.any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "new data to score; got none"),
        ({"data": "wide.npy"}, r"shape \(8,\) for each datum in .*wide.npy.*got \(9,\)"),
        ({"data": "x.npy", "calibration": "train"}, "not trained on; got 'train'"),
        ({"data": "x.npy", "alpha": 0.001}, "alpha of at least 0.0164"),
        ({"data": "nothing.npy"}, "nothing.npy"),
    ],
)
def test_what_score_refuses(runs, options, message):
    folder, found = runs
    options = options | ({"data": folder / options["data"]} if "data" in options else {})
    with pytest.raises(InputError, match=message):
        ppl_vae.score(found["vae"], **options, **QUICK)


def test_what_is_read_as_in_training(runs, tmp_path):
    folder, found = runs
    with pytest.raises(InputError, match="new data or a split of the run's own"):
        source_of(found["vae"], folder / "x.npy", "train")
    with pytest.raises(InputError, match="one of them, such as"):
        source_of(found["vae"], found["vae"].data())
    for out in ("a.txt", "b.npy"):
        with pytest.raises(InputError, match="Expected a file"):
            encode_run(found["vae"], out=tmp_path / out)
    with pytest.raises(InputError, match=r"Expected a .csv file"):
        score_run(found["vae"], data=folder / "x.npy", out=tmp_path / "a.npz")
    for out, read in (("a.csv", pd.read_csv), ("a.parquet", pd.read_parquet)):
        _, path = encode_run(found["vae"], num_data=3, out=tmp_path / out, num_draws=2, progress=False)
        assert {"datum", "z[0]", "z[1]", "z[1] (draw 2)"} <= set(read(path).columns) and len(read(path)) == 3
