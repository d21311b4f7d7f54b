"""SIGKILL at random moments of each command that writes: nothing is lost, and nothing is left lying about.

A training that is gone on with has the weights, to the last bit, of one that was left in peace (compiled: up to
rounding); every other command gives the answer that it gives in peace; the run that it is of stays as it is.
"""

import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
from safetensors.torch import load_file

import ppl_vae

SMALL = ["--data=x.npy", *(f"--set={part}coder.hidden=16" for part in ("de", "en"))]
MISSING = ["--set=data.missing=0.3"]
TASK = ["image_completion", "--data=x.npy", "--set=networks.hidden=16"]
EPOCHS = 300
EARLIEST = 0.4  # of the time that a command takes in peace: before it, Python and PyTorch are being imported
TRAIN = {  # what is trained
    "train": ["vae", *SMALL, f"--epochs={EPOCHS}", "--set=fit.compile=false"],
    "train, compiled": ["vae", *SMALL, f"--epochs={EPOCHS}", "--set=fit.compile=true"],
}
ASK = {  # of a run that was trained
    "evaluate": ["evaluate", "RUN", "--num-samples=400", "--compile=false"],
    "sample": ["sample", "RUN", "--compile=false"],
    "impute": ["impute", "RUN"],
    "measure": ["measure", "RUN", "-k10", "--num-data=10"],
    "score": ["score", "RUN", "--data=../new.npy", "--method=importance", "-k50", "--compile=false", "--alpha=0.1"],
    "encode": ["encode", "RUN", "--data=../new.npy"],
}
RUNS = {"impute": ["vae", *SMALL, *MISSING], "measure": TASK}  # what a question is asked of, if not of a VAE


def run(count, seed, work):
    """Kill so many processes; return a table of words, and what went wrong."""
    rng, failures = random.Random(seed), []
    os.chdir(work)
    np.save("x.npy", (np.random.default_rng(seed).random((120, 8, 8)) < 0.5).astype(np.float32))
    np.save("new.npy", (np.random.default_rng(seed + 1).random((40, 8, 8)) < 0.5).astype(np.float32))
    commands = [*TRAIN, *ASK]
    numbers = {name: count // len(commands) + (i < count % len(commands)) for i, name in enumerate(commands)}
    rows = []
    for name, number in numbers.items():
        of_one = _trainings if name in TRAIN else _questions
        inside, lost, left = of_one(name, number, rng, work, failures)
        rows.append(f"{name:16} {number:6} {inside:14} {lost:5} {left:10}")
        print(rows[-1], flush=True)
    return ["command           kills had written   lost  leftovers", *rows], failures


def _trainings(name, number, rng, work, failures):
    base = [sys.executable, "-m", "ppl_vae", "train", *TRAIN[name], "-k5", "--threads=1", "--resume", "--out"]
    peace, war = work / f"peace {name}", work / f"war {name}"
    times = _timed([*base, peace], peace)
    inside = lost = left = 0
    for i in range(number):
        inside += _killed([*base, war], rng, times, war)
        begun = (war / "history.csv").exists()
        try:
            done = begun and len(ppl_vae.load(war).history.epoch) == EPOCHS
        except ppl_vae.InputError as problem:
            done = True
            lost += 1
            failures.append(f"{name}: {problem}")
        if done or i == number - 1:  # and begun anew, as there is nothing more to do
            subprocess.run([*base, war], check=True, capture_output=True)
            left += len(_leftovers(war, failures))
            lost += len(found := _other_results(peace, war, exact=name == "train"))
            failures.extend(f"{name}: other {what}" for what in found)
            shutil.rmtree(war)
    return inside, lost, left


def _other_results(peace, war, exact):
    """Return what a training that was killed does not have as one that was left in peace."""
    found = []
    for role in ("model", "guide"):
        one, other = (load_file(folder / f"{role}.safetensors") for folder in (peace, war))
        found += [k for k in one if not _same(one[k].numpy(), other[k].numpy(), exact)]
    if exact and (peace / "history.csv").read_bytes() != (war / "history.csv").read_bytes():
        found.append("history")
    return found


def _same(a, b, exact):
    return np.array_equal(a, b) if exact else np.allclose(a, b, rtol=1e-3, atol=1e-3)


def _questions(name, number, rng, work, failures):
    whole = work / f"run of {name}"
    made = [sys.executable, "-m", "ppl_vae", "train", *RUNS.get(name, ["vae", *SMALL]), "--epochs=3", "-k5", "--out"]
    subprocess.run([*made, whole], check=True, capture_output=True)
    peace, war = (shutil.copytree(whole, work / how / name) for how in ("peace", "war"))
    command = [sys.executable, "-m", "ppl_vae", *(name if word == "RUN" else word for word in ASK[name])]
    times = _timed(command, peace)
    expected = _answers(peace)
    inside = lost = 0
    for _ in range(number):
        inside += _killed(command, rng, times, war)
        try:
            kept = ppl_vae.load(war)
            assert kept.weights == ppl_vae.load(whole).weights
            assert kept.evidence is not None
        except (ppl_vae.InputError, AssertionError) as problem:
            lost += 1
            failures.append(f"{name}: {problem!r}")
    subprocess.run(command, check=True, capture_output=True, cwd=war.parent)
    if differing := [file for file, answer in expected.items() if _answers(war).get(file) != answer]:
        lost += 1
        failures.append(f"{name}: another answer in {', '.join(differing)}")
    return inside, lost, len(_leftovers(war, failures))


def _answers(folder):
    """Return what a command leaves in a run folder, by the name of the file."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix == ".npz":
            with np.load(path) as arrays:
                found[path.name] = {key: arrays[key].tobytes() for key in arrays.files}
        elif path.name.startswith("evidence"):
            evidence = ppl_vae.load(folder).evidence
            found[path.name] = (evidence.num_samples, evidence.log_px.tobytes())
        elif path.suffix in (".txt", ".csv", ".png", ".safetensors", ".json"):
            found[path.name] = path.read_bytes()
    return found


def _leftovers(folder, failures):
    """Return the temporary files that are still there after the last command."""
    left = [path for path in folder.rglob("*") if path.name.startswith(".") or path.suffix == ".tmp"]
    failures.extend(f"left: {path}" for path in left)
    return left


def _timed(command, folder):
    """Run a command in peace; return how long it took until it first wrote, and after that."""
    before, started = _times(folder), time.monotonic()
    process = subprocess.Popen(command, cwd=folder.parent, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _await_writing(process, folder, before)
    wrote = time.monotonic()
    assert process.wait() == 0, command
    return wrote - started, time.monotonic() - wrote


def _killed(command, rng, times, folder):
    """Start a command and kill it, at a random moment of all its time or of its writing; return if it had written."""
    before, thinking, writing = _times(folder), *times
    process = subprocess.Popen(command, cwd=folder.parent, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    if rng.random() < 0.5:
        time.sleep(rng.uniform(EARLIEST * thinking, thinking + writing))
    else:
        _await_writing(process, folder, before)
        time.sleep(rng.uniform(0, writing))
    process.send_signal(signal.SIGKILL)
    return process.wait() == -signal.SIGKILL and _times(folder) != before


def _await_writing(process, folder, before):
    while process.poll() is None and _times(folder) == before:
        time.sleep(0.001)


def _times(folder):
    """Return when each file of a folder was written; temporary ones come and go."""
    found = {}
    for path in folder.rglob("*"):
        with contextlib.suppress(OSError):
            found[path] = path.stat().st_mtime_ns
    return found
