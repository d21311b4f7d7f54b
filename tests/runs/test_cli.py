"""The command line as people use it: whole runs in their own process, errors in one line, kills and resumes."""

import json
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from own_files import OWN, OWN_GUIDE
from safetensors.torch import load_file
from tiny import QUICK

import ppl_vae
from ppl_vae import plots
from ppl_vae.fitting.schemas import digest_of_json


def test_help_is_quick_and_heavy_things_stay_out():
    start = time.monotonic()
    done = subprocess.run([sys.executable, "-m", "ppl_vae", "--help"], capture_output=True, text=True, check=True)
    assert time.monotonic() - start < 5  # a second on an idle machine; this one may be busy
    for command in ("train", "evaluate", "sample", "compare", "new"):
        assert command in done.stdout
    code = "import sys, ppl_vae.cli; print([m for m in ('torch', 'pyro', 'numpy', 'matplotlib') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_the_whole_story(run, tmp_path):
    code, out, _ = run("train", "vae", *QUICK, "--set", "prior.latent_dim=2")
    assert code == 0
    for part in ("log P(x)", "ELBO", "gap", "effective sample size", "runs/vae-digits"):
        assert part in out
    folder = tmp_path / "runs" / "vae-digits"
    names = {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}
    assert names == {
        "run.json", "model.safetensors", "guide.safetensors", "last.pt", "history.csv", "evidence.nc",
        "figures/samples.png", "figures/reconstructions.png", "figures/elbo.png", "figures/manifold.png",
        "figures/bound.png",
    }  # fmt: skip
    torch.load(folder / "last.pt", weights_only=True)

    loaded = ppl_vae.load(folder)
    assert len(loaded.history.epoch) == 2
    assert loaded.config["fit"]["epochs"] == 2
    assert (loaded.evidence.log_px >= loaded.evidence.elbo - 1e-6).all()

    code, out, _ = run("evaluate", folder, "-k", 50, "--num-data", 30)
    assert code == 0 and "of 30 data" in out and "K = 50" in out
    code, out, _ = run("evaluate", folder, "--proposal", "prior", "--split", "validation")
    assert code == 0 and "of 200 data" in out and "KL(P(z) ||" in out
    assert len(ppl_vae.load(folder).evidence) == 300  # only the guide's estimate of all test data is kept

    assert run("sample", folder, "-n", 10, "--seed", 3)[0] == 0
    assert (folder / "figures" / "samples-3.png").exists()
    assert run("sample", folder, "-n", 10, "--no-mean", "-o", "x.npy")[0] == 0
    x = np.load("x.npy")
    assert x.shape == (10, 1, 8, 8) and set(np.unique(x)) <= {0.0, 1.0}

    assert run("train", "vae", *QUICK, "--prior", "mixture")[0] == 0
    code, out, _ = run("compare", folder, "runs/vae-mixture-digits")
    assert code == 0 and "log_px_diff" in out and "weight" in out and "vae-mixture-digits" in out
    run("train", "vae", *QUICK, "--set", "data.binarize=threshold", "--out", "hard")
    code, _, err = run("compare", folder, "hard")
    assert code == 2 and "same data" in err


def test_gaussian_gets_grey_levels(run):
    assert run("train", "vae", "--likelihood", "gaussian", *QUICK)[0] == 0
    config = ppl_vae.load("runs/vae-gaussian-digits").config
    assert config["data"]["binarize"] is None


def test_linear_gaussian_uses_its_exact_guide(run):
    code, _, _ = run("train", "linear_gaussian", "--epochs", 3, "--num-samples", 10, "--set", "model.latent_dim=2")
    assert code == 0
    loaded = ppl_vae.load("runs/linear_gaussian-digits")
    np.testing.assert_allclose(loaded.evidence.gap, 0, atol=1e-3)


def test_new_copies_files_that_train(run):
    code, out, _ = run("new", "mine")
    assert code == 0 and "mine/models/vae.py" in out
    path = Path("mine/models/vae.py")
    text = path.read_text().replace("import Prior, StandardNormal", "import Mixture, Prior, StandardNormal")
    path.write_text(text.replace("prior or StandardNormal(8)", "prior or Mixture(4, num_components=7)"))
    assert run("train", path, "--guide", "mine/guides/mean_field.py", *QUICK, "--out", "r")[0] == 0
    assert sorted(p.name for p in Path("r").glob("*.py")) == ["guide.py", "model.py"]
    path.write_text("broken now")
    with pytest.raises(ppl_vae.InputError, match=r"got r/model.py, Python code that would be run.*trust=True"):
        ppl_vae.load("r")
    prior = ppl_vae.load("r", trust=True).model.prior  # the run has its own copy, and what it says holds
    assert (type(prior).__name__, prior.latent_dim, prior.num_components) == ("Mixture", 4, 7)
    code, _, err = run("new", "mine")
    assert code == 2 and "mine/models/counts.py" in err
    assert path.read_text() == "broken now"


@pytest.mark.parametrize("name", ["vae", "linear_gaussian"])
def test_every_file_that_new_writes_trains_and_loads(run, name):
    run("new", "mine")
    assert run("train", f"./mine/models/{name}.py", "--epochs", 1, "--num-samples", 2, "--out", "r")[0] == 0
    assert run("train", f"mine/models/{name}.py", "--epochs", 1, "--num-samples", 2, "--out", "r", "--resume")[0] == 0
    assert type(ppl_vae.load("r").guide).__name__ == {"vae": "MeanField"}.get(name, "LinearGaussian")
    code, _, err = run("new", "r")
    assert code == 2 and "another name" in err


def test_changed_data_are_another_run_and_paths_travel(run, tmp_path, monkeypatch):
    np.save("x.npy", np.random.default_rng(0).integers(0, 2, (60, 5)))
    command = ["train", "vae", "--data", "x.npy", *QUICK, "--out", "r"]
    assert run(*command)[0] == 0
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert run("evaluate", tmp_path / "r", "-k", 2)[0] == 0
    monkeypatch.chdir(tmp_path)
    np.save("x.npy", np.random.default_rng(1).integers(0, 2, (60, 5)))
    code, _, err = run(*command, "--resume")
    assert code == 2 and "as it was when r was trained; got another train" in err


def test_a_smaller_estimate_does_not_replace_a_larger(run):
    assert run("train", "vae", *QUICK)[0] == 0
    run("evaluate", "runs/vae-digits", "-m", "importance", "-k", 5)
    assert ppl_vae.load("runs/vae-digits").evidence.num_samples == 20
    run("evaluate", "runs/vae-digits", "-m", "importance", "-k", 30)
    assert ppl_vae.load("runs/vae-digits").evidence.num_samples == 30
    Path("runs/vae-digits/evidence.nc").write_bytes(b"broken")
    code, _, err = run("compare", "runs/vae-digits")
    assert code == 2 and "ppl-vae evaluate" in err
    assert run("evaluate", "runs/vae-digits", "-m", "importance", "-k", 7)[0] == 0
    assert ppl_vae.load("runs/vae-digits").evidence.num_samples == 7


def test_a_method_that_is_none_of_the_bound_check(run):
    for wrong in ("ais", "impotance"):
        code, out, err = run("train", "vae", *QUICK, "--out", "other", "--method", wrong)
        assert code == 2 and not out and f"Unknown method '{wrong}'" in err
        assert not Path("other").exists()  # before any work


def test_every_method_from_the_command_line(run):
    assert run("train", "vae", *QUICK, "--out", "r")[0] == 0
    before = Path("r/evidence.nc").read_bytes()
    short = ("--num-temperatures", 5, "--num-chains", 2, "--num-leapfrog", 2, "--num-data", 3, "-k", 30)
    code, out, _ = run("evaluate", "r", "--method", "sandwich", *short, "--doubts")
    assert code == 0
    assert "annealed importance sampling, 2 chains over 5 temperatures" in out
    assert "simulated data is in [" in out
    assert Path("r/evidence-sandwich-guide-test-3.nc").exists()
    code, out, _ = run("evaluate", "r", "--tolerance", 0.5, "--num-data", 5, "-k", 30, "--interval")
    assert code == 0 and "K = 30" in out and "what moves it" in out and "data in doubt" in out
    code, _, err = run("evaluate", "r", "--num-chains", 2)
    assert code == 2 and "no option num_chains" in err
    code, _, err = run("evaluate", "r", "--method", "asi")
    assert code == 2 and "did you mean 'ais'" in err
    assert Path("r/evidence.nc").read_bytes() == before


def test_data_that_are_no_pictures(run):
    np.save("x.npy", np.random.default_rng(0).integers(0, 2, (60, 2, 8, 8)))
    code, out, _ = run("train", "vae", "--data", "x.npy", *QUICK, "--out", "r")
    assert code == 0 and "log P(x)" in out
    code, out, _ = run("sample", "r", "-n", 3)
    assert code == 0 and np.load(out.strip()).shape == (3, 2, 8, 8)
    code, _, err = run("sample", "r", "-o", "a.png")
    assert code == 2 and "no pictures" in err


def test_own_data_and_own_model(run):
    np.save("x.npy", np.random.default_rng(0).integers(0, 2, (60, 5)))
    Path("own.py").write_text(OWN)
    code, _, _ = run("train", "own.py", "--data", "x.npy", "--prior", "laplace", "--set", "prior.scale=0.5", *QUICK[:2])
    assert code == 0
    loaded = ppl_vae.load("runs/own-laplace-x", trust=True)
    assert loaded.model.prior.scale == 0.5
    assert not plots.is_picture(loaded.model.event_shape)
    assert (loaded.path / "figures" / "samples.png").exists()  # vectors have histograms of their columns


def test_figures_that_cannot_be_drawn_spoil_nothing(run):
    """A model that needs data to run is fitted and estimated all the same, and the next seed is trained, too."""
    np.save("x.npy", np.random.default_rng(0).integers(0, 2, (60, 4, 4)))
    Path("own.py").write_text(OWN.replace("with self.plate(x, size)", "with self.plate(x, len(x))"))
    command = ["train", "own.py", "--data", "x.npy", *QUICK[:2], *QUICK[-2:], "-k", 30, "--out", "r", "--seeds", 2]
    with pytest.warns(UserWarning, match=r"seed-. is complete but for figures of what it makes: .*own.py, line \d+"):
        code, out, _ = run(*command)
    assert code == 0 and "seed 1: fitted" in out and "2 runs (seeds)" in out


@pytest.mark.parametrize("plate", ["self.plate(x)", "self.plate(x, size)"])
def test_no_plate_is_said(run, plate):
    """Of an own file, too, before an objective is tried."""
    np.save("x.npy", np.random.default_rng(0).integers(0, 2, (60, 5)))
    Path("own.py").write_text((OWN + OWN_GUIDE).replace(f"with {plate}:", "if True:"))
    code, _, err = run("train", "own.py", "--data", "x.npy", *QUICK[:2], "--out", "r")
    assert code == 2 and "latent 'z' inside the plate" in err and "inside `with pyro.plate('data', len(x)):`" in err
    assert "own.py, line" in err
    assert not Path("r").exists()


def test_a_finished_run_is_safe(run):
    assert run("train", "vae", *QUICK)[0] == 0
    before = {p: p.read_bytes() for p in Path("runs").rglob("*") if p.is_file()}
    code, _, err = run("train", "vae", *QUICK)
    assert code == 2 and "--resume" in err and "this run already" in err
    code, _, err = run("train", "vae", *QUICK, "--prior", "mixture", "--out", "runs/vae-digits", "--resume")
    assert code == 2 and "other prior (standard_normal, not mixture)" in err
    code, _, err = run("train", "vae", *QUICK, "--seed", 3, "--resume")
    assert code == 2 and "other seed (0, not 3)" in err
    assert before == {p: p.read_bytes() for p in Path("runs").rglob("*") if p.is_file()}
    assert run("train", "vae", *QUICK, "--resume")[0] == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "none.py"], "no such file"),
        (["train", "vea"], "did you mean 'vae'"),
        (["train", "vae", "--prior", "mixtur"], "did you mean 'mixture'"),
        (["train", "vae", "--likelihood", "bernuolli"], "did you mean 'bernoulli'"),
        (["train", "vae", "--data", "digitz"], "did you mean 'digits'"),
        (["train", "vae", "--data", "no/such.npy"], "does not exist"),
        (["train", "vae", "--guide", "meanfield"], "did you mean 'mean_field'"),
        (["train", "vae", "--epochs", "0"], "epochs.*got 0"),
        (["train", "vae", "--epochs", "many"], "'many' is not a valid integer"),
        (["train", "vae", "--batch-size", "-1"], "batch_size.*got -1"),
        (["train", "vae", "--learning-rate", "0"], r"learning_rate.*got 0\.0"),
        (["train", "vae", "--num-samples", "0"], "num_samples.*got 0"),
        (["train", "vae", "--set", "prior.latent_dim"], "part.option=value"),
        (["train", "vae", "--set", "prior.size=3"], r"Unknown option prior\.size"),
        (["train", "vae", "--set", "fit.epoch=3"], "did you mean 'epochs'"),
        (["train", "vae", "--set", "fit.schedule=linear"], "Unknown schedule 'linear'"),
        (["train", "vae", "--set", "fit.schedule=3"], "Unknown schedule 3"),
        (["train", "vae", "--seed", "-1"], "seed.*got -1"),
        (["train", "vae", "--set", "model.prior=3"], "--prior"),
        (["train", "vae", "--set", "decoder.hidden="], "hidden.*got ''"),
        (["train", "vae", "--set", "data.binarize=yes"], "'dynamic', 'threshold' or None; got 'yes'"),
        (["train", "vae", "--set", "data.binarize=none"], r"\{0, 1\} for Bernoulli; got .*Binarize"),
        (["train", "--epoch", "3"], "--epochs"),
        (["evaluate", "no-run"], "no such folder"),
        (["sample", "no-run"], "no such folder"),
        (["compare", "no-run"], "no such folder"),
        (["compare"], "RUN"),
        (["trian"], "train"),
    ],
)
def test_bad_input_ends_in_one_or_two_lines(run, tmp_path, arguments, message):
    code, out, err = run(*arguments)
    assert code == 2
    assert out == ""
    assert 1 <= len(err.strip().splitlines()) <= 2
    assert re.search(message, err), err
    assert list(tmp_path.iterdir()) == []


def test_broken_run_folders(run):
    assert run("train", "vae", *QUICK, "--out", "r")[0] == 0
    whole = {p.name: p.read_bytes() for p in Path("r").iterdir() if p.is_file()}

    def with_file(name, content):
        for n, b in whole.items():
            Path("r", n).write_bytes(b)
        Path("r", name).unlink() if content is None else Path("r", name).write_bytes(content)
        code, _, err = run("evaluate", "r", "-k", 2)
        assert code == 2 and len(err.splitlines()) <= 2
        return err

    assert "half-written" in with_file("model.safetensors", None)
    assert "half-written" in with_file("guide.safetensors", whole["guide.safetensors"][:99])
    assert "no run.json" in with_file("run.json", None)
    assert "run folder" in with_file("run.json", b'{"format": 1')
    assert "another version" in with_file("run.json", whole["run.json"].replace(b'"format": 1', b'"format": 99'))
    assert "history" in with_file("history.csv", b"epoch\nx\n")
    for broken in ({"fit": None}, {"fit": [1]}, {"build": {"model": 3}}, {"build": {"model": "vae", "settings": [1]}}):
        damaged = json.dumps(json.loads(whole["run.json"]) | broken).encode()
        assert "Expected a whole run.json" in with_file("run.json", damaged), broken
    other = json.loads(whole["run.json"])
    other["build"]["settings"]["prior.latent_dim"] = 3
    assert "has been changed since" in with_file("run.json", json.dumps(other).encode())
    other["digest"] = digest_of_json(other)
    assert "Expected weights in" in with_file("run.json", json.dumps(other).encode())


@pytest.mark.parametrize(
    ("option", "message"), [("size=40k", "No space left on device"), ("ro", "Read-only file system")]
)
def test_a_full_disk_or_a_read_only_one(run, tmp_path, option, message):
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", option, "tmpfs", disk]
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("no file system can be mounted here")
    try:
        code, _, err = run("train", "vae", *QUICK, "--out", disk / "r")
        assert code == 2 and message in err and len(err.splitlines()) <= 2
        assert not list((disk / "r").glob(".*"))
    finally:
        subprocess.run(["umount", disk], check=True)


def test_a_disk_that_is_full_before_the_figures_costs_no_run(run, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", disk], check=False, capture_output=True
    ).returncode:
        pytest.skip("no file system can be mounted here")
    try:
        with pytest.warns(UserWarning, match="complete but for figures of .*No space left on device"):
            code, out, _ = run("train", "vae", *QUICK, "--out", disk / "r")
        assert code == 0 and "log P(x)" in out and str(disk / "r") in out
        assert len(ppl_vae.load(disk / "r").evidence) == 300
    finally:
        subprocess.run(["umount", disk], check=True)


def test_a_run_that_diverges(run):
    code, _, err = run("train", "vae", *QUICK, "--learning-rate", "1e30", "--out", "r")
    assert code == 2 and len(err.splitlines()) == 1
    assert re.search(r"Expected (a finite loss|finite parameters); got .*of the start were kept", err)
    torch.load("r/last.pt", weights_only=True)


def test_a_folder_that_cannot_be_written(run):
    Path("taken").write_text("a file, not a folder")
    code, _, err = run("train", "vae", *QUICK, "--out", "taken/r")
    assert code == 2 and "Expected to write" in err and len(err.splitlines()) <= 2


COMMAND = [sys.executable, "-m", "ppl_vae", "train", "vae", "--epochs", "25", "--num-samples", "5", "--seed", "7"]
COMMAND += ["--method", "importance"]
SMALLER = ["--set", "decoder.hidden=32", "--set", "encoder.hidden=32", "--resume"]


def test_ctrl_c_leaves_a_run_that_resumes(tmp_path):
    # Whoever started the tests may ignore SIGINT, as nohup and background jobs do; a terminal does not.
    listen = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); import ppl_vae.__main__"
    command = [sys.executable, "-c", listen, *COMMAND[3:], *SMALLER, "--epochs", "2000"]
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    last = tmp_path / "runs" / "vae-digits" / "last.pt"
    while not last.exists():
        time.sleep(0.05)
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "--resume" in err and "Traceback" not in err
    torch.load(last, weights_only=True)


def test_killed_at_ten_random_moments_and_resumed(tmp_path):
    """SIGKILL at any moment, resumed each time: the same weights, to the last bit, as a run left in peace."""
    subprocess.run([*COMMAND, *SMALLER, "--out", "peace"], cwd=tmp_path, check=True, capture_output=True)
    rng = random.Random(0)
    state = tmp_path / "war" / "last.pt"
    epochs = []
    for kill in range(10):
        process = subprocess.Popen([*COMMAND, *SMALLER, "--out", "war"], cwd=tmp_path, stdout=-3, stderr=-3)
        if kill % 3:  # two in three moments lie within training, some states after its beginning
            seen, enough = set(), rng.randint(3, 5)  # what was there, what resuming writes, and then the epochs
            while len(seen) < enough and process.poll() is None:
                seen |= {state.stat().st_mtime_ns} if state.exists() else set()
                time.sleep(0.002)
            time.sleep(rng.uniform(0, 0.05))
        else:
            time.sleep(rng.uniform(0, 4))
        process.send_signal(signal.SIGKILL)
        process.wait()
        epochs.append(len(torch.load(state, weights_only=True)["rows"]) if state.exists() else 0)
    assert epochs == sorted(epochs)
    assert len({e for e in epochs if 0 < e < 25}) >= 3, epochs  # they did lie within training
    subprocess.run([*COMMAND, *SMALLER, "--out", "war"], cwd=tmp_path, check=True, capture_output=True)
    for name in ("model.safetensors", "guide.safetensors"):
        peace, war = load_file(tmp_path / "peace" / name), load_file(tmp_path / "war" / name)
        assert all(torch.equal(peace[key], war[key]) for key in peace)
    assert (tmp_path / "peace/history.csv").read_bytes() == (tmp_path / "war/history.csv").read_bytes()


def test_what_a_person_cannot_set_is_refused(run):
    """The length of strings is what a condition asks for: on its own it would change nothing but run.json."""
    code, _, err = run("train", "vae", *QUICK, "--set", "data.strings=2")
    assert code == 2 and "Unknown option data.strings" in err
    code, _, err = run("train", "vae", *QUICK, "--strings", 2)
    assert code == 2 and "--strings" in err


def test_options_of_fit_are_refused_before_a_folder_is_held_against_them(run):
    assert run("train", "vae", *QUICK)[0] == 0
    code, _, err = run("train", "vae", *QUICK, "--patience", 0)
    assert code == 2 and "Expected patience" in err
