"""Run folders as a stranger, a failing disk or a hand that slipped may leave them, and what is asked of them.

A question about one has the answer that the whole folder gives, or is refused in a sentence; no program is run that is
not built in, nothing is written outside.
"""

import io
import json
import os
import re
import shutil
import struct
from pathlib import Path

import h5py
import numpy as np
import torch

import ppl_vae
from ppl_vae.evidence.stored import HEX, SEAL, with_seal
from ppl_vae.fitting.checkpoint import RunFolder
from ppl_vae.runs.sample import sample_run
from ppl_vae.utils.digests import digest_of

from .outcomes import Outcome, outcome_of

SMALL = {
    "decoder.hidden": 8, "encoder.hidden": 8, "prior.latent_dim": 2, "fit.epochs": 2, "fit.schedule": "constant",
    "fit.compile": False,
}  # fmt: skip
FILES = ("run.json", "last.pt", "model.safetensors", "guide.safetensors", "history.csv", "evidence.nc")
K = 20
FORGED = "run.json, with its digest"  # says what a stranger likes; it may only do no harm
EVIL = "from pathlib import Path\nPath({mark!r}).touch()\n"
VALUES = (
    None, True, False, -1, 0, 1, 3, 2**31, 2**63, 10**30, -(10**400), 0.5, -0.0, 1e308, float("nan"), float("inf"), "",
    "vae", "x" * 100_000, "/etc/passwd", "../../evil.py", "evil.py", "\0", "$x$", "\ud800", [], [[]], {}, {"a": 1},
    [1, 2, 3], [10**9, 10**9], [None], "uniform", "threshold", ["model"], ["guide", "model"], ["model", "model"],
)  # fmt: skip


def command(seed):
    """Return the arguments that make the whole run."""
    return dict(model="vae", settings=dict(SMALL), num_samples=K, seed=seed, progress=False)


def make(folder):
    """Train the two runs that folders are made of, A and B, of two seeds."""
    for name, seed in (("a", 0), ("b", 1)):
        ppl_vae.train(**command(seed), out=folder / name)
        shutil.rmtree(folder / name / "figures")


def evaluated(folder, _):
    options = dict(method="importance", num_samples=5, num_data=3, compile=False, threads=1, progress=False)
    return ppl_vae.evaluate(folder, **options).log_px.tolist()


def kept(folder, _):
    evidence = ppl_vae.load(folder).evidence
    return "none" if evidence is None else (evidence.log_px.tolist(), evidence.verdict(), str(evidence.interval()))


def told(folder, _):
    return repr(ppl_vae.load(folder)).replace(str(folder), "RUN")


def sampled(folder, _):
    path = sample_run(folder, size=2, out=folder.parent / "drawn.npy", compile=False)
    return np.load(path).tolist()


def compared(folder, base):
    return repr(ppl_vae.compare([folder, base / "b"]).to_dict()).replace(str(folder), "RUN")


def resumed(folder, _):
    asked = command(0)
    asked["settings"]["fit.epochs"] = 3
    run = ppl_vae.train(**asked, out=folder, resume=True)
    return run.history.train_elbo.tolist(), run.history.validation_elbo.tolist(), run.weights


QUESTIONS = {q.__name__: q for q in (evaluated, kept, told, sampled, compared, resumed)}
# That there is no estimate is an answer, where it was taken away.
SAID = {"kept": "none", "told": "(no estimate of log P.x. yet|Expected an evidence file)"}


# Mutations: functions of (folder, base, random generator) that return what was done, in words.


def flip(folder, _, random):
    """Other bytes, at a few places or in a block."""
    path = folder / str(random.choice(FILES))
    content = bytearray(path.read_bytes())
    start, count = int(random.integers(len(content))), int(random.choice([1, 1, 2, 8, 100]))
    for i in range(start, min(len(content), start + count)):
        content[i] ^= int(random.integers(1, 256))
    path.write_bytes(content)
    return f"{path.name}: {count} bytes at {start}"


def cut(folder, _, random):
    """A shorter file, or a longer one."""
    path = folder / str(random.choice(FILES))
    content = path.read_bytes()
    how = str(random.choice(["head", "tail", "more", "none", "twice"]))
    at = int(random.integers(len(content)))
    other = {"head": content[:at], "tail": content[at:], "more": content + bytes(at), "none": b"", "twice": content * 2}
    path.write_bytes(other[how])
    return f"{path.name}: {how} {at}"


def replace(folder, base, random):
    """No file, something that is none, or another one."""
    path = folder / str(random.choice(FILES))
    how = str(random.choice(["gone", "folder", "pipe", "zero", "loop", "nowhere", "huge", "of B", "swapped"]))
    path.unlink()
    if how == "folder":
        path.mkdir()
    elif how == "pipe":
        os.mkfifo(path)
    elif how in ("zero", "loop", "nowhere"):
        path.symlink_to({"zero": "/dev/zero", "loop": path.name, "nowhere": "/nonexistent/file"}[how])
    elif how == "huge":
        path.touch()
        os.truncate(path, 100 * 2**30)
    elif how == "of B":
        shutil.copy(base / "b" / path.name, path)
    elif how == "swapped":
        shutil.copy(base / "a" / str(random.choice([f for f in FILES if f != path.name])), path)
    return f"{path.name}: {how}"


def edit_json(folder, _, random):
    """Another value somewhere in run.json, one that is missing, or one more."""
    config = json.loads((folder / "run.json").read_text())
    at, path = config, []
    while True:
        keys = list(at) if isinstance(at, dict) else list(range(len(at)))
        key = keys[int(random.integers(len(keys)))]
        path.append(key)
        if not isinstance(at[key], dict | list) or not at[key] or random.random() < 0.2:
            break
        at = at[key]
    how = str(random.choice(["value", "value", "value", "gone", "more"]))
    value = VALUES[int(random.integers(len(VALUES)))]
    if how == "value":
        at[key] = value
    elif how == "gone":
        del at[key]
    elif isinstance(at, dict):
        at[f"{key}x"] = value
    else:
        at.append(value)
    (folder / "run.json").write_bytes(json.dumps(config).encode(errors="surrogatepass"))
    return f"run.json: {'.'.join(map(str, path))} {how} {value!r:.40}"


def forge_json(folder, base, random):
    """A run.json that a stranger made, with the right digest: programs of theirs, sizes out of proportion."""
    config = json.loads((folder / "run.json").read_text())
    evil = EVIL.format(mark=str(folder.parent / "EXECUTED")) + (base / "model.py").read_text()
    how = str(random.choice(["copied", "hash", "outside", "relative", "huge", "many", "wide", "data", "compiled"]))
    if how in ("copied", "hash", "compiled"):
        (folder / "model.py").write_text(evil)
        config["copied"] = ["model"]
        config["build"]["model"] = str(folder / "model.py")
        if how == "hash":
            import hashlib

            config["programs"]["model"] = hashlib.sha256(evil.encode()).hexdigest()
    elif how in ("outside", "relative"):
        place = folder.parent / "evil.py"
        place.write_text(evil)
        config["build"]["model"] = str(place) if how == "outside" else f"../{place.name}"
    elif how == "huge":
        config["build"]["settings"][str(random.choice(["prior.latent_dim", "decoder.hidden", "encoder.hidden"]))] = (
            10**9
        )
    elif how == "many":
        config["build"]["settings"]["decoder.hidden"] = [1] * 1_000_000
    elif how == "wide":
        config["data"]["event_shape"] = [1, 100_000, 100_000]
    elif how == "data":
        os.mkfifo(folder.parent / "pipe.npy")
        config["data"]["name"] = str(folder.parent / str(random.choice(["pipe.npy", "none.npy", ""])))
    for key in ("digest", "format"):
        config.pop(key)
    RunFolder(folder).write_json(config)
    return f"{FORGED}: {how}"


def deep_json(folder, _, random):
    """Values in values, or a large file."""
    how = str(random.choice(["lists", "dicts", "large"]))
    count = 100_000
    text = {
        "lists": "[" * count + "]" * count,
        "dicts": '{"a":' * count + "1" + "}" * count,
        "large": '"' + "x" * 2**26,
    }
    (folder / "run.json").write_text(text[how])
    return f"run.json: {how}"


def edit_state(folder, _, random):
    """A part of last.pt that is missing, of another shape or kind, also under a right digest."""
    state = torch.load(folder / "last.pt", weights_only=True)
    key = str(random.choice([k for k in state if k != "digest"]))
    how = str(random.choice(["gone", "none", "one less", "shape", "kind"]))
    value = state[key]
    if how == "gone":
        del state[key]
    elif how == "none":
        state[key] = None
    elif isinstance(value, dict) and value:
        inner = list(value)[int(random.integers(len(value)))]
        if how == "one less" or not isinstance(value[inner], torch.Tensor):
            del value[inner]
        elif how == "shape":
            value[inner] = value[inner].new_zeros(3, 5, 7)
        else:
            value[inner] = value[inner].to_sparse() if value[inner].dim() else value[inner].to(torch.int64)
    else:
        state[key] = [value] if how == "one less" else "word" if how == "shape" else -1
    honest = bool(random.random() < 0.5) and not (how == "kind" and isinstance(value, dict))  # sparse: of no digest
    if honest:
        state["digest"] = digest_of({k: v for k, v in state.items() if k != "digest"}) if key != "scheduler" else ""
    torch.save(state, folder / "last.pt")
    return f"last.pt: {key} {how}, {'right' if honest else 'old'} digest"


def edit_weights(folder, _, random):
    """A file of weights with another head."""
    from safetensors.torch import load_file, save_file

    path = folder / f"{random.choice(['model', 'guide'])}.safetensors"
    how = str(random.choice(["gone", "renamed", "dtype", "shape", "numbers", "head", "overflow", "unsaid"]))
    weights = load_file(path)
    name = sorted(weights)[int(random.integers(len(weights)))]
    if how in ("head", "overflow"):
        size = 2**62 if how == "overflow" else 2**40
        path.write_bytes(struct.pack("<Q", size) + path.read_bytes()[8:])
        return f"{path.name}: a head of {size} bytes"
    value = weights.pop(name)
    changed = {
        "renamed": (f"{name}x", value), "dtype": (name, value.half()), "shape": (name, torch.zeros(10_000, 3)),
        "numbers": (name, value + 1), "unsaid": (name, value),
    }  # fmt: skip
    weights |= dict([changed[how]]) if how in changed else {}
    save_file(weights, path, metadata=None if how == "unsaid" else {"pair": "0" * 64})
    return f"{path.name}: {name} {how}"


def edit_evidence(folder, base, random):
    """An evidence.nc with other attributes, links and sizes, sealed or as an older version's."""
    path = folder / "evidence.nc"
    content = path.read_bytes()[: -len(SEAL) - HEX]
    buffer = io.BytesIO(content)
    how = str(random.choice(["more", "less", "kind", "outside", "soft", "huge", "virtual", "group", "word", "length"]))
    with h5py.File(buffer, "r+") as file:
        attributes, arrays = sorted(file.attrs), [n for n in file if isinstance(file[n], h5py.Dataset)]
        attribute = attributes[int(random.integers(len(attributes)))]
        if how == "more":
            file.attrs["surprise"] = 1.0
        elif how == "less":
            del file.attrs["num_samples" if attribute.startswith("_") else attribute]
        elif how == "kind":
            file.attrs["settings" if attribute.startswith("_") else attribute] = np.zeros((2, 2))
        elif how == "word":
            file.attrs["method"] = "magic"
        elif how == "group":
            file.create_group("group")
        elif how in ("outside", "soft"):
            del file["ess"]
            file["ess"] = h5py.ExternalLink("/etc/passwd", "x") if how == "outside" else h5py.SoftLink("/log_px")
        else:
            del file["ess"]
            if how == "huge":
                file.create_dataset("ess", (10**12,), "f8", chunks=(10**6,))
            elif how == "virtual":
                layout = h5py.VirtualLayout((10,), "f8")
                layout[:] = h5py.VirtualSource(str(base / "b" / "evidence.nc"), "ess", (10,))
                file.create_virtual_dataset("ess", layout)
            else:
                file["ess"] = np.ones(7)
        assert arrays
    sealed = bool(random.random() < 0.5)
    path.write_bytes(with_seal(buffer.getvalue()) if sealed else buffer.getvalue())
    return f"evidence.nc: {how} {attribute if how in ('less', 'kind') else ''}, {'sealed' if sealed else 'not sealed'}"


def edit_history(folder, _, random):
    """Another history.csv."""
    path = folder / "history.csv"
    lines = path.read_text().splitlines()
    how = str(random.choice(["field", "columns", "rows", "words", "bytes", "number", "header"]))
    row, *others = lines[1].split(",")
    changed = {
        "field": [lines[0], "1" * 10**6, *lines[2:]],
        "columns": [lines[0], lines[1] + ",1", *lines[2:]],
        "rows": lines[:-1],
        "words": [lines[0], ",".join([row, "much", *others[1:]]), *lines[2:]],
        "number": [lines[0], ",".join([row, "-1.0", *others[1:]]), *lines[2:]],
        "header": lines[1:],
    }
    if how == "bytes":
        path.write_bytes(b"\xff\xfe" + path.read_bytes())
    else:
        path.write_text("\n".join(changed[how]) + "\n")
    return f"history.csv: {how}"


def plant(folder, base, random):
    """Links and leftovers in the places that a command writes to."""
    victim = folder.parent / "victim"
    victim.mkdir(exist_ok=True)
    (victim / "elbo.png").write_text("precious")
    how = str(random.choice(["figures", "target", "temporary", "leftover"]))
    if how == "figures":
        (folder / "figures").symlink_to(victim)
    elif how == "target":
        (folder / "figures").mkdir()
        (folder / "figures" / "elbo.png").symlink_to(victim / "elbo.png")
        (folder / "evidence-importance-guide-test-3.nc").symlink_to(victim / "elbo.png")
    elif how == "temporary":
        for name in (*FILES, "evidence-importance-guide-test-3.nc"):
            (folder / f".{name}.tmp").symlink_to(victim / "elbo.png")
    else:
        (folder / ".ppl-vae-00000000-1-0123456789abcdef.tmp").symlink_to(victim / "elbo.png")
    return f"planted: {how}"


MUTATIONS = (
    flip, flip, flip, cut, cut, replace, replace, edit_json, edit_json, edit_json, forge_json, deep_json, edit_state,
    edit_state, edit_weights, edit_evidence, edit_history, plant,
)  # fmt: skip


def run(count, seed, work, base=None):
    """Mutate folders and ask; return (what was done, the question, what came of it) for each, and the failures."""
    if base is None:
        base = work / "base"
        make(base)
        shutil.copy(Path(ppl_vae.models.__path__[0]) / "vae.py", base / "model.py")
    random, results, failures = np.random.default_rng(seed), [], []
    whole = {name: ask(question, work, base) for name, question in QUESTIONS.items()}
    for _ in range(count):
        mutation = MUTATIONS[int(random.integers(len(MUTATIONS)))]
        name = str(random.choice(list(QUESTIONS)))
        done = []
        found = ask(QUESTIONS[name], work, base, lambda f: done.append(mutation(f, base, random)))  # noqa: B023
        results.append((done[0], name, found))
        if why := fault(name, whole[name], found, done[0]):
            failures.append(f"{done[0]} | {name} | {why}")
    return results, failures


def ask(question, work, base, mutate=None):
    """Ask a question of a copy of run A, changed or not."""
    place = work / "case"
    shutil.rmtree(place, ignore_errors=True)
    folder = shutil.copytree(base / "a", place / "a")
    if mutate is not None:
        mutate(folder)
    found = outcome_of(lambda: question(folder, base))
    victim = place / "victim" / "elbo.png"
    if (place / "EXECUTED").exists():
        return Outcome("FAULT", "a stranger's program was run")
    if victim.exists() and (victim.read_text() != "precious" or len(list(victim.parent.iterdir())) > 1):
        return Outcome("FAULT", "something was written outside of the folder")
    return found


def fault(name, whole, found, done=""):
    """Say what is wrong with an outcome, or nothing."""
    if found.kind == "FAULT":
        return str(found.what)
    if found.kind == "sentence" or found.what == whole.what or done.startswith(FORGED):
        return ""
    if name in SAID and re.search(SAID[name], str(found.what)):
        return ""
    return f"another answer: {str(found.what)[:300]}, not {str(whole.what)[:300]}"
