"""The promises of a run folder: one writer, one whole pair, estimates of these weights only, no stranger's program."""

import json
import os
import shutil
import subprocess
import sys
import threading
import zipfile
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import h5py
import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from ppl_vae.guides import MeanField, mean_field
from ppl_vae.models import VAE
from ppl_vae.models import vae as vae_file
from pyro.nn import PyroModule
from safetensors.torch import load_file, save_file
from torch.utils.data import DataLoader, TensorDataset

import ppl_vae
from ppl_vae import InputError, cli
from ppl_vae.fitting.checkpoint import RunFolder
from ppl_vae.fitting.svi import fit
from ppl_vae.runs import evaluate as evaluating
from ppl_vae.runs.sample import sample_run
from ppl_vae.utils import files
from ppl_vae.utils.locks import held

SMALL = {
    "decoder.hidden": 8, "encoder.hidden": 8, "prior.latent_dim": 2, "fit.epochs": 2, "fit.schedule": "constant",
    "fit.compile": False,
}  # fmt: skip
COMMAND = dict(model="vae", settings=SMALL, num_samples=20, method="importance")
QUICK = dict(num_samples=5, num_data=3, method="importance", compile=False)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "run"
    ppl_vae.train(**COMMAND, out=folder)
    return folder


@pytest.fixture
def run(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "run")


def longer(epochs, seed=0):
    return COMMAND | {"settings": SMALL | {"fit.epochs": epochs}, "seed": seed}


def edited(folder, **changes):
    """Write another run.json, with the digest that goes with it, as a stranger can."""
    config = json.loads((folder / "run.json").read_text())
    for key in ("digest", "format"):
        del config[key]
    RunFolder(folder).write_json(config | changes)


# One writer


def test_two_trainings_in_one_folder(tmp_path):
    """One of two processes that start together is refused in a sentence; the other one's run is whole."""
    code = "import sys, ppl_vae.cli; ppl_vae.cli.main()"
    options = [
        *[
            "train",
            "vae",
            "--epochs",
            "40",
            "-k",
            "20",
            "--method",
            "importance",
            "--set",
            "decoder.hidden=8",
            "--set",
            "encoder.hidden=8",
            "--out",
            "r",
        ],
        "--seed",
    ]
    both = [
        subprocess.Popen([sys.executable, "-c", code, *options, str(i)], cwd=tmp_path, stdout=-1, stderr=-1, text=True)
        for i in range(2)
    ]
    said = [process.communicate(timeout=240)[1] for process in both]
    codes = [process.returncode for process in both]
    assert sorted(codes) == [0, 2], said
    refused = codes.index(2)
    assert "a folder in which nobody trains" in said[refused] or "a run with other seed" in said[refused]
    assert len(said[refused].strip().splitlines()) <= 2
    loaded = ppl_vae.load(tmp_path / "r")
    assert loaded.recipe.seed == 1 - refused
    assert len(loaded.history.epoch) == 40 and loaded.evidence is not None


def test_a_folder_is_held_by_one(tmp_path, digits):
    with held(tmp_path / "r"), held(tmp_path / "r"):  # by who holds it, again
        said = []

        def other():
            with pytest.raises(InputError, match="nobody trains") as problem, held(tmp_path / "r"):
                pass
            said.append(problem)

        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
        assert said
        child = "import sys, pathlib; from ppl_vae.utils.locks import held\nwith held(pathlib.Path(sys.argv[1])): pass"
        command = [sys.executable, "-c", child, tmp_path / "r"]
        process = subprocess.run(command, check=False, capture_output=True, text=True)
        assert "nobody trains" in process.stderr
    with held(tmp_path / "r"):
        pass
    assert not (tmp_path / "r").exists()  # nothing is left of it
    (tmp_path / "r").mkdir()
    with held(tmp_path / "r"):
        pass
    assert list((tmp_path / "r").iterdir()) == []
    with held(tmp_path / "a" / "b"):
        (tmp_path / "a" / "b" / "file").touch()
    assert (tmp_path / "a" / "b" / "file").exists()


# One whole pair


def test_weights_of_two_moments_are_no_pair(run, tmp_path):
    """A kill between two renames leaves them; the state that was written first has both."""
    expected = ppl_vae.sample(ppl_vae.load(run).model, 2)
    other = tmp_path / "other"
    ppl_vae.train(**longer(4), out=other)
    shutil.copy(run / "model.safetensors", tmp_path / "before")
    edited(run)
    config = json.loads((run / "run.json").read_text())
    config.pop("result")  # as while it is trained
    edited(run, **{"result": None})
    shutil.copy(other / "guide.safetensors", run / "guide.safetensors")
    assert (ppl_vae.sample(ppl_vae.load(run).model, 2) == expected).all()
    (run / "last.pt").unlink()
    with pytest.raises(InputError, match=r"no pair: the run is half-written.*resume=True"):
        ppl_vae.load(run)


def test_a_run_that_is_read_while_it_is_trained_is_one_pair(tmp_path):
    """Each pair that is read is one that was written: its digest is among those of the states."""
    written, read = set(), []
    real = RunFolder.write_state

    def noted(self, state):
        real(self, state)
        written.add(self.digest_of_weights())
        if len(state["rows"]) % 3 == 0:
            read.append(ppl_vae.load(tmp_path / "r").weights)

    done = threading.Event()

    def reader():
        while not done.is_set():
            try:
                read.append(RunFolder(tmp_path / "r").read_best().digest)
            except InputError as problem:
                assert "no such file" in str(problem).lower()  # before the first is written

    thread = threading.Thread(target=reader)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RunFolder, "write_state", noted)
        thread.start()
        ppl_vae.train(**longer(30), out=tmp_path / "r")
        done.set()
        thread.join()
    assert len(set(read)) > 5
    assert set(read) <= written


# Estimates of these weights


def test_an_estimate_is_used_for_its_own_weights_only(tmp_path):
    """One that is made while a run is trained does not stay as its evidence."""
    made = []
    real = RunFolder.write_state

    def estimated(self, state):
        real(self, state)
        if len(state["rows"]) == 1:
            made.append(ppl_vae.evaluate(self.path, num_samples=500, method="importance", compile=False))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RunFolder, "write_state", estimated)
        run = ppl_vae.train(**longer(30), out=tmp_path / "r")
    assert made[0].num_samples > run.evidence.num_samples
    again = ppl_vae.load(tmp_path / "r")
    assert again.evidence.weights == again.weights != made[0].weights
    assert (again.evidence.log_px == run.evidence.log_px).all()
    made[0].save(tmp_path / "r" / "evidence.nc")
    assert ppl_vae.load(tmp_path / "r").evidence is None
    assert "no estimate of log P(x) yet" in repr(ppl_vae.load(tmp_path / "r"))


def test_an_estimate_that_ends_after_training_has_gone_on_is_shown_and_not_kept(run):
    before = ppl_vae.load(run)
    kept = (run / "evidence.nc").read_bytes()
    ppl_vae.train(**longer(4), out=run, resume=True)
    after = (run / "evidence.nc").read_bytes()
    said = []
    found = ppl_vae.evaluate(before, num_samples=50, on_kept=said.append)
    assert len(found) == 300 and "training has gone on" in said[0]
    assert (run / "evidence.nc").read_bytes() == after != kept


def test_resuming_a_finished_run_keeps_all_estimates(run):
    ppl_vae.evaluate(run, **QUICK)
    before = {path.name: path.read_bytes() for path in run.glob("evidence*.nc")}
    assert len(before) == 2
    ppl_vae.train(**COMMAND, out=run, resume=True)
    assert {name: (run / name).read_bytes() for name in before if name != "evidence.nc"} == {
        name: content for name, content in before.items() if name != "evidence.nc"
    }
    assert "result" in json.loads((run / "run.json").read_text())


def test_a_finished_run_that_is_killed_in_resuming_is_still_finished(run):
    before = json.loads((run / "run.json").read_text())["result"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RunFolder, "write_state", lambda *_: sys.exit(9))
        with pytest.raises(SystemExit):
            ppl_vae.train(**COMMAND, out=run, resume=True)
    assert json.loads((run / "run.json").read_text())["result"] == before


@pytest.mark.parametrize("at", ["first", "end"])
def test_an_estimate_that_cannot_be_kept_is_returned(run, monkeypatch, at):
    if at == "first":
        monkeypatch.setattr(evaluating, "why_not_writable", lambda folder: "Read-only file system")
    else:

        def full(*_):
            raise InputError("Expected to write; got: No space left on device.")

        monkeypatch.setattr(evaluating.Evidence, "save", full)
    before, said = sorted(run.iterdir()), []
    with pytest.warns(UserWarning, match="not kept"):
        found = ppl_vae.evaluate(run, **QUICK, on_kept=said.append)
    assert len(found) == 3 and said[0].startswith("not kept")
    assert sorted(run.iterdir()) == before


# Files that were changed


def test_a_run_json_that_was_changed_by_hand(run):
    text = (run / "run.json").read_text()
    (run / "run.json").write_text(text.replace('"binarize": "dynamic"', '"binarize": "threshold"'))
    with pytest.raises(InputError, match="has been changed since"):
        ppl_vae.evaluate(run, **QUICK)


@pytest.mark.parametrize("part", ["history.csv", "weights"])
def test_parts_of_another_run_are_refused(run, tmp_path, part):
    ppl_vae.train(**longer(2, seed=1), out=tmp_path / "b")
    names = ["history.csv"] if part == "history.csv" else ["model.safetensors", "guide.safetensors"]
    for name in names:
        shutil.copy(tmp_path / "b" / name, run / name)
    with pytest.raises(InputError, match="as they were when its fit ended; got others"):
        ppl_vae.load(run)


def test_an_estimate_that_was_changed_is_refused(run):
    content = bytearray((run / "evidence.nc").read_bytes())
    content[len(content) // 2] ^= 1
    (run / "evidence.nc").write_bytes(content)
    with pytest.raises(InputError, match="a file that has been changed since"):
        ppl_vae.load(run).evidence.log_px  # noqa: B018


# A stranger's programs


def own(folder, mark, role="guide"):
    """Put a program into the folder of a run, and let run.json say so, with its hash."""
    import hashlib

    text = f"open({str(mark)!r}, 'w').close()\n" + Path(mean_field.__file__).read_text()
    (folder / f"{role}.py").write_text(text)
    config = json.loads((folder / "run.json").read_text())
    programs = config["programs"] | {role: hashlib.sha256(text.encode()).hexdigest()}
    edited(folder, copied=[role], programs=programs, build=config["build"] | {role: str(folder / f"{role}.py")})


def test_a_strangers_program_is_run_only_where_it_is_trusted(run, whole, tmp_path, capsys):
    mark = tmp_path / "executed"
    own(run, mark)
    for question in (
        ["evaluate", run, "-k", "5", "--num-data", "3"], ["explain", run], ["calibrate", run], ["sample", run],
        ["compare", run, whole], ["diff", whole, run], ["measure", run], ["impute", run],
    ):  # fmt: skip
        with pytest.raises(SystemExit) as ended:
            cli.main([str(word) for word in question])
        err = capsys.readouterr().err
        assert ended.value.code == 2 and str(run / "guide.py") in err and "--trust" in err, question
        assert not mark.exists()
    with pytest.raises(InputError, match=r"guide\.py, Python code that would be run.*trust=True"):
        ppl_vae.load(run)
    assert not mark.exists()
    with pytest.raises(SystemExit) as ended:
        cli.main(["evaluate", str(run), "-k", "5", "--num-data", "3", "--trust"])
    assert not ended.value.code and mark.exists()


def test_a_trusted_program_is_the_one_that_was_trained(run, tmp_path):
    mark = tmp_path / "executed"
    own(run, mark)
    with (run / "guide.py").open("a") as file:
        file.write("\n# another line\n")
    with pytest.raises(InputError, match="has been changed since, for which the weights are not made"):
        ppl_vae.load(run, trust=True)
    assert not mark.exists()


def test_nothing_outside_of_the_folder_is_run(run, tmp_path):
    mark, evil = tmp_path / "executed", tmp_path / "evil.py"
    evil.write_text(f"open({str(mark)!r}, 'w').close()\n")
    config = json.loads((run / "run.json").read_text())
    for name in (str(evil), "../evil.py", "evil.py", "os", "..vae"):
        edited(run, build=config["build"] | {"model": name})
        for trust in (False, True):
            with pytest.raises(InputError, match="which is never run"):
                ppl_vae.load(run, trust=trust)
    own(run, mark, "model")
    (run / "model.py").rename(tmp_path / "model.py")
    (run / "model.py").symlink_to(tmp_path / "model.py")
    with pytest.raises(InputError, match="got: a symbolic link, which may lead anywhere"):
        ppl_vae.load(run, trust=True)
    assert not mark.exists()


def test_compiled_python_beside_a_program_is_not_run(run, tmp_path):
    """Python would take __pycache__/model.cpython-3xx.pyc for what model.py says, by its time."""
    import importlib.util
    import py_compile

    mark, evil = tmp_path / "executed", tmp_path / "evil.py"
    name = "mean_field"
    shutil.copy(mean_field.__file__, run / "guide.py")
    config = json.loads((run / "run.json").read_text())
    edited(run, copied=["guide"], build=config["build"] | {"guide": name})
    evil.write_text(f"open({str(mark)!r}, 'w').close()\n" + Path(mean_field.__file__).read_text())
    status = (run / "guide.py").stat()
    evil.write_text(evil.read_text()[: status.st_size].ljust(status.st_size))
    os.utime(evil, ns=(status.st_atime_ns, status.st_mtime_ns))
    target = importlib.util.cache_from_source(str(run / "guide.py"))
    py_compile.compile(str(evil), target, doraise=False)
    ppl_vae.load(run)  # a copy of ours needs no trust
    assert not mark.exists()


def test_resuming_ones_own_program_takes_the_file_that_is_given(tmp_path):
    mark = tmp_path / "executed"
    mine = tmp_path / "mine.py"
    mine.write_text(Path(mean_field.__file__).read_text() + "\n# mine\n")
    command = COMMAND | {"guide": str(mine)}
    ppl_vae.train(**command, out=tmp_path / "r")
    ppl_vae.train(**command, out=tmp_path / "r", resume=True)
    evil = f"open({str(mark)!r}, 'w').close()\n" + mine.read_text()
    (tmp_path / "r" / "guide.py").write_text(evil)
    with pytest.raises(InputError, match="has been changed since"):
        ppl_vae.train(**command, out=tmp_path / "r", resume=True)
    assert not mark.exists()


# Files that are written


def test_leftovers_of_processes_that_are_no_more(tmp_path):
    gone = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], check=True, capture_output=True)
    left = tmp_path / f".ppl-vae-{files.HOST}-{int(gone.stdout)}-{'0' * 16}.tmp"
    mine = tmp_path / f".ppl-vae-{files.HOST}-{os.getpid()}-{'1' * 16}.tmp"
    elsewhere = tmp_path / f".ppl-vae-{'f' * 8}-{int(gone.stdout)}-{'2' * 16}.tmp"
    for path in (left, mine, elsewhere, tmp_path / "mine.tmp"):
        path.touch()
    files.remove_leftovers(tmp_path)
    assert sorted(tmp_path.iterdir()) == sorted([mine, elsewhere, tmp_path / "mine.tmp"])
    os.utime(elsewhere, (0, 0))
    files.remove_leftovers(tmp_path)
    assert not elsewhere.exists()


def test_no_link_is_written_through(run, tmp_path):
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "samples-0.png").write_text("mine")
    shutil.rmtree(run / "figures")
    (run / "figures").symlink_to(precious)
    with pytest.raises(InputError, match="a symbolic link, which may lead anywhere"):
        sample_run(run)
    (run / "figures").unlink()
    (run / "figures").mkdir()
    (run / "figures" / "samples-0.png").symlink_to(precious / "samples-0.png")
    sample_run(run)
    assert (precious / "samples-0.png").read_text() == "mine"
    assert not (run / "figures" / "samples-0.png").is_symlink()


def test_a_file_is_on_the_disk_before_it_has_its_name(run, monkeypatch):
    done = []
    sync, replace = os.fsync, Path.replace
    monkeypatch.setattr(os, "fsync", lambda file: done.append("fsync") or sync(file))
    monkeypatch.setattr(Path, "replace", lambda self, to: done.append("replace") or replace(self, to))
    ppl_vae.train(**longer(3), out=run, resume=True)
    renamed = [i for i, name in enumerate(done) if name == "replace"]
    assert len(renamed) > 8
    assert all(done[i - 1] == "fsync" and done[i + 1] == "fsync" for i in renamed)  # the file, and then its folder


def test_what_is_much_larger_than_the_weights_is_refused_before_it_is_made(run):
    config = json.loads((run / "run.json").read_text())
    for setting, value in (("prior.latent_dim", 10**9), ("decoder.hidden", [1] * 200_000)):
        settings = config["build"]["settings"] | {setting: value}
        edited(run, build=config["build"] | {"settings": settings})
        with pytest.raises(InputError, match="Put the old"):
            ppl_vae.load(run)


def test_fit_alone_holds_its_folder_and_numbers_of_numpy_are_written(tmp_path, small_pair, digits):
    fit(*small_pair, digits.validation, epochs=np.int64(1), learning_rate=np.float32(1e-3), out=tmp_path)
    assert (tmp_path / "last.pt").exists()


def test_a_run_is_trained_and_read_in_inference_mode_as_outside(whole, tmp_path):
    expected = ppl_vae.load(whole)
    with torch.inference_mode():
        run = ppl_vae.train(**COMMAND, out=tmp_path / "r")
        loaded = ppl_vae.load(tmp_path / "r")
        found = ppl_vae.evaluate(loaded, num_samples=20, num_data=3, compile=False)
    assert run.weights == loaded.weights == expected.weights
    with torch.no_grad():
        again = ppl_vae.evaluate(whole, num_samples=20, num_data=3, compile=False)
    assert (found.log_px == again.log_px).all()
    with torch.inference_mode():
        made = VAE((6,))
        guide = MeanField(made)
    x = torch.rand(5, 6).round()
    for method in ("auto", "ais"):
        with pytest.raises(InputError, match=r"made inside torch.inference_mode"):
            ppl_vae.estimate_evidence(made, guide, x, method=method)
    assert len(ppl_vae.estimate_evidence(made, guide, x, method="importance", num_samples=5)) == 5


# What a stranger may have made to grow


class Grows:
    def __reduce__(self):
        return bytearray, (10**11,)


def shared(depth=40):
    """Return lists of the same two lists, as many as 2^depth for who goes through them."""
    values = []
    for _ in range(depth):
        values = [values, values]
    return values


def torn(folder):
    """Let the weights be no pair, so that last.pt is asked; a right digest stands in run.json."""
    edited(folder, result=None)
    path = folder / "guide.safetensors"
    save_file(load_file(path), path, metadata={"pair": "0" * 64})


@pytest.mark.parametrize("what", ["grows", "shared", "packed"])
def test_a_state_that_would_grow_is_refused(run, what):
    torn(run)
    state = torch.load(run / "last.pt", weights_only=True)
    del state["digest"]
    state["settings"]["x"] = Grows() if what == "grows" else shared() if what == "shared" else 1
    torch.save(state, run / "last.pt")
    if what == "packed":
        with zipfile.ZipFile(run / "last.pt") as archive:
            entries = {entry.filename: archive.read(entry) for entry in archive.infolist()}
        with zipfile.ZipFile(run / "last.pt", "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in entries.items():
                archive.writestr(name, content)
    with pytest.raises(InputError, match="no pair"):
        ppl_vae.load(run)


def test_a_chunk_that_would_grow_is_refused(run):
    count = 2**26
    chunk = zlib.compress(bytes(8 * count), 1)
    with h5py.File(run / "evidence.nc", "w") as file:
        made = file.create_dataset("log_px", (10,), "f8", maxshape=(None,), chunks=(count,), compression="gzip")
        made.id.write_direct_chunk((0,), chunk)
    with pytest.raises(InputError, match="larger than the file"):
        ppl_vae.load(run).evidence  # noqa: B018


def test_weights_that_no_program_has_are_not_read(run, monkeypatch):
    path = run / "model.safetensors"
    whole = load_file(path)
    save_file(whole | {"junk": torch.zeros(3_000_000)}, path, metadata={"pair": "0" * 64})
    monkeypatch.setattr(RunFolder, "read_best", lambda self: pytest.fail("they were read"))
    with pytest.raises(InputError, match="3000000 numbers of which they know nothing"):
        ppl_vae.load(run)


def test_a_run_json_names_no_files_to_be_read(run, tmp_path):
    np.save(tmp_path / "outside.npy", np.ones((8, 8)))
    config = json.loads((run / "run.json").read_text())
    settings = config["build"]["settings"] | {"condition.visible": str(tmp_path / "outside.npy")}
    edited(run, build=config["build"] | {"settings": settings})
    with pytest.raises(InputError, match=r"condition\.visible = .*where a word or a number stands"):
        ppl_vae.load(run)


def test_a_new_run_json_without_its_digest_is_refused(run):
    config = json.loads((run / "run.json").read_text())
    del config["digest"]
    (run / "run.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match="has been changed since"):
        ppl_vae.load(run)


def test_an_estimate_that_does_not_say_of_which_weights_it_is_is_none_of_a_new_run(run):
    loaded = ppl_vae.load(run)
    ppl_vae.estimate_evidence(loaded.model, loaded.guide, loaded.source("test"), num_samples=50).save(
        run / "evidence.nc"
    )
    assert ppl_vae.load(run).evidence is None


# What people do


def test_ones_own_program_may_have_large_numbers(tmp_path):
    mine = tmp_path / "mine.py"
    text = Path(vae_file.__file__).read_text()
    mine.write_text(
        text.replace("likelihood: Likelihood | None = None,", "likelihood: Likelihood | None = None, big=5_000_000,")
    )
    assert "big" in mine.read_text()
    ppl_vae.train(**COMMAND | {"model": str(mine)}, prior="standard_normal", out=tmp_path / "r")
    assert ppl_vae.load(tmp_path / "r", trust=True).evidence is not None


def test_what_another_thread_makes_while_a_run_is_read_is_its_own(whole):
    made, stop = [], threading.Event()

    def make():
        while not stop.is_set():
            made.append(torch.nn.Linear(5000, 4000, device="meta"))

    thread = threading.Thread(target=make)
    thread.start()
    for _ in range(3):
        ppl_vae.load(whole)
    stop.set()
    thread.join()
    assert made


def test_a_lock_does_not_outlive_its_training_in_forked_workers(tmp_path):
    x = torch.rand(64, 6).round()
    workers = dict(num_workers=1, persistent_workers=True, multiprocessing_context="fork")
    loader = DataLoader(TensorDataset(x), batch_size=16, **workers)
    model = VAE((6,))
    guide = MeanField(model)
    first = fit(model, guide, loader, epochs=1, out=tmp_path / "r", compile=False)
    again = fit(model, guide, loader, epochs=1, out=tmp_path / "r", compile=False, resume=True)
    assert (first.history.train_elbo == again.history.train_elbo).all()


def test_a_callback_may_wait_for_another_thread():
    model = VAE((6,))
    x, drawn = torch.rand(20, 6).round(), []
    with ThreadPoolExecutor(1) as pool:

        def ask():
            drawn.append(pool.submit(ppl_vae.sample, model, 2).result(timeout=60))

        fit(model, MeanField(model), x, epochs=1, on_start=ask)
    assert drawn[0].shape == (2, 6)


class Own(PyroModule):
    def __init__(self, sigma):
        super().__init__()
        self.sigma, self.net, self.calls = sigma, torch.nn.Linear(2, 6), 0

    def forward(self, x):
        self.calls += 1  # what is counted is no option
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(self.net(z), self.sigma).to_event(1), obs=x)


class Other(Own):
    def forward(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(self.net(z) + 1, self.sigma).to_event(1), obs=x)


class OwnGuide(PyroModule):
    def __init__(self):
        super().__init__()
        self.net = torch.nn.Linear(6, 4)

    def forward(self, x):
        loc, scale = self.net(x).chunk(2, -1)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(loc, scale.exp()).to_event(1))


class Scaled(pyro.infer.Trace_ELBO):
    factor = 1.0

    def __init__(self, of=abs):
        super().__init__()
        self.of = of


class ScaledMore(Scaled):
    factor = 2.0


def test_resuming_compares_what_a_program_does_and_holds(tmp_path):
    x = torch.rand(64, 6).round()

    def go(model=None, data=x, **options):
        torch.manual_seed(0)
        return fit(model or Own(1.0), OwnGuide(), data, epochs=2, compile=False, out=tmp_path / "r", **options)

    model = Own(1.0)
    whole = go(model, objective=Scaled(lambda v: v))
    for again in (model, Own(1.0)):
        found = go(again, objective=Scaled(lambda v: v), resume=True)
        assert (found.history.train_elbo == whole.history.train_elbo).all()
    for named, options in {
        "model.sigma=1.0": dict(model=Own(0.1)),
        "model.code": dict(model=Other(1.0)),
        "batches=of batch_size": dict(data=DataLoader(TensorDataset(x), batch_size=8)),
        "objective.of": dict(objective=Scaled(lambda v: 2 * v)),
        "objective": dict(objective=ScaledMore(lambda v: v)),
    }.items():
        asked = dict(objective=Scaled(lambda v: v)) | options
        with pytest.raises(InputError, match=rf"with its own settings.*{named}"):
            go(**asked, resume=True)
