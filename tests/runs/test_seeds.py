"""Several seeds of one model: trained as runs of their own, resumed one by one, and compared as one model."""

from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny import QUICK

import ppl_vae
from ppl_vae import InputError, compare
from ppl_vae.runs.compare import seed_folders

SMALL = {"fit.epochs": 1, "decoder.hidden": (8,), "encoder.hidden": (8,), "prior.latent_dim": 2}
train = partial(ppl_vae.train, "vae", settings=SMALL, num_samples=30, method="importance", progress=False)


def weights_of(folder):
    return load_file(Path(folder) / "model.safetensors")


def test_each_seed_is_the_run_of_that_seed(tmp_path):
    runs = train(seeds=2, seed=3, out=tmp_path / "vae")
    assert [run.path for run in runs] == [tmp_path / "vae" / "seed-3", tmp_path / "vae" / "seed-4"]
    assert [run.recipe.seed for run in runs] == [3, 4] and all(len(run.evidence) == 300 for run in runs)
    alone = train(seed=4, out=tmp_path / "alone")
    together, apart = weights_of(runs[1].path), weights_of(alone.path)
    assert all(torch.equal(together[name], apart[name]) for name in apart)
    assert seed_folders(tmp_path / "vae") == [run.path for run in runs] and seed_folders(alone.path) == []

    with pytest.raises(InputError, match=r"free for one run; got a folder of each seed \(seed-3"):
        train(out=tmp_path / "vae")
    with pytest.raises(InputError, match=r"free for a folder of each seed; got one run\. Choose"):
        train(seeds=2, out=tmp_path / "alone")
    for seeds in (0, True, 1.5):
        with pytest.raises(InputError, match="seeds to be a whole number"):
            train(seeds=seeds, out=tmp_path / "none")
    before = (tmp_path / "vae" / "seed-3" / "run.json").read_bytes()
    with pytest.raises(InputError, match="this run already"):  # before seed 2 is trained
        train(seeds=3, seed=2, out=tmp_path / "vae")
    assert not (tmp_path / "vae" / "seed-2").exists()
    resumed = train(seeds=3, seed=2, out=tmp_path / "vae", resume=True)
    assert [run.recipe.seed for run in resumed] == [2, 3, 4]
    assert (tmp_path / "vae" / "seed-3" / "run.json").read_bytes() != b"" != before
    assert torch.equal(*(weights_of(run.path)["decoder.layers.0.weight"] for run in (resumed[2], alone)))


def test_runs_are_compared_by_model(tmp_path):
    vae = train(seeds=2, out=tmp_path / "vae")
    mixture = train(seeds=2, prior="mixture", out=tmp_path / "mixture")
    by_name = compare({"vae": vae, "mixture": mixture})
    assert list(by_name["num_runs"]) == [2, 2]
    assert by_name.loc["vae", "log_px"] == pytest.approx(sum(run.evidence.log_px.mean() for run in vae) / 2)
    everything = [*vae, *mixture]
    for given in (
        [tmp_path / "vae", tmp_path / "mixture"],
        everything,
        [run.path for run in everything],
        {"vae": tmp_path / "vae", "mixture": [run.path for run in mixture]},
        {"vae": [run.evidence for run in vae], "mixture": str(tmp_path / "mixture")},
    ):
        other = compare(given)
        assert repr(other) == repr(by_name)
    assert list(compare(tmp_path / "vae").index) == ["vae"]
    assert set(compare([vae[0], mixture[0]]).index) == {"vae/seed-0", "mixture/seed-0"}
    apart = compare({"seed 0": vae[0], "seed 1": vae[1]})
    assert list(apart["num_runs"]) == [1, 1] and "One run each" in repr(apart)

    other = train(seed=1, out=tmp_path / "other")  # the same model by another seed, in a folder of its own
    assert list(compare([vae[0], other]).index) == ["vae/seed-0 and 1 other"]
    hard = train(out=tmp_path / "hard", settings=SMALL | {"data.binarize": "threshold"})
    with pytest.raises(
        InputError, match=r"same data; got .*binarize=dynamic and .*hard on digits data.binarize=thresh"
    ):
        compare([vae[0], hard])
    namesake = train(out=tmp_path / "elsewhere" / "vae", prior="laplace")
    assert len(compare([*vae, namesake])) == 2
    (mixture[1].path / "evidence.nc").unlink()
    with pytest.raises(InputError, match=r"mixture/seed-1; got none\. Make one: ppl_vae.evaluate\("):
        compare([tmp_path / "mixture"])
    with pytest.raises(InputError, match="no such folder"):
        compare([tmp_path / "nowhere"])


def test_from_the_command_line(run):
    code, out, _ = run("train", "vae", *QUICK, "--seeds", 2)
    assert code == 0 and "seed 0: fitted in" in out and "seed 1: fitted in" in out
    assert "1 model, 2 runs (seeds) of each" in out and "runs/vae-digits/seed-1/" in out
    run("train", "vae", *QUICK, "--prior", "mixture", "--seeds", 2)
    code, out, _ = run("compare", "runs/vae-digits", "runs/vae-mixture-digits")
    assert code == 0 and "2 models, 2 runs (seeds) of each" in out and "over data and seeds" in out
    assert max(map(len, out.splitlines())) <= 120
    code, _, err = run("train", "vae", *QUICK, "--seeds", 2)
    assert code == 2 and "--resume" in err
    code, out, _ = run("compare", "--help")
    assert code == 0 and "luck in" in out and "nats per datum" in out
