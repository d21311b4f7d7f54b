"""Mutated command lines: each ends in a result or in one sentence with exit code 2, none in a traceback or a wait.

`run(1000, seed=0)` gives what went wrong; a line is `mutated(seed, number)`, the same each time.
"""

import contextlib
import io
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
from hostile.outcomes import GIGABYTES, SECONDS, Hang, limited, peak_memory

from ppl_vae import cli

TINY = ["--epochs", "1", "-k", "5", "--set", "decoder.hidden=4", "--set", "encoder.hidden=4"]
READY = {  # runs that commands are given, by their folder
    "v": ["train", "vae", "--data", "x.npz", *TINY, "--set", "prior.latent_dim=2"],
    "w": ["train", "vae", "--data", "x.npz", *TINY, "--prior", "mixture", "--set", "prior.num_components=2"],
    "m": ["train", "vae", "--data", "x.npz", *TINY, "--set", "data.missing=0.3"],
    "c": ["train", "cvae", "--data", "x.npz", "--epochs", "1", "-k", "5", "--set", "networks.hidden=4"],
    "i": [
        "train", "image_completion", "--data", "x.npz", "--epochs", "1", "-k", "5", "--set", "networks.hidden=4",
        "--set", "condition.visible=quadrant",
    ],
}  # fmt: skip
GOOD = [
    [*READY["v"], "--out", "n"],
    [*READY["w"], "--out", "n", "--seed", "3", "--set", "fit.batch_size=8"],
    [*READY["c"], "--out", "n", "--set", "data.num_labels=6", "--learning-rate", "0.01"],
    [*READY["i"], "--out", "n", "--objective", "iwae", "--set", "objective.num_particles=2"],
    [*READY["v"], "--out", "v", "--resume"],
    ["evaluate", "v", "-k", "5", "--num-data", "5"],
    ["evaluate", "v", "-k", "5", "--num-data", "3", "--doubts", "--interval", "--split", "train"],
    ["evaluate", "v", "--method", "ais", "--num-chains", "2", "--num-temperatures", "2", "--num-data", "2"],
    ["sample", "v", "-n", "4"],
    ["sample", "v", "-n", "2", "--no-mean", "-o", "s.npy", "--seed", "2"],
    ["sample", "c", "--label", "1", "-n", "2"],
    ["sample", "i", "--condition", "half.npy", "-n", "2", "-o", "s.png"],
    ["compare", "v", "w"],
    ["diff", "v", "w", "-k", "5", "--num-data", "6", "--out", "d.csv", "--figure", "d.png"],
    ["explain", "x.npz", "--num-data", "2"],
    ["measure", "i", "--num-data", "4", "--num-answers", "2", "-k", "5"],
    ["impute", "m", "--num-samples", "5", "--num-data", "5"],
    ["impute", "v", "--data", "holes.npy", "--num-samples", "5", "--out", "f.npz"],
    ["parts", "prior"],
    ["parts", "--model", "vae"],
    ["new", "mine"],
    ["calibrate", "v", "-m", "100", "-k", "10"],
    ["evaluate", "v", "--data", "new.npz", "-m", "importance", "-k", "5", "--num-data", "4"],
    ["score", "v", "--data", "new.npz", "-m", "importance", "-k", "5", "--alpha", "0.3", "--fdr", "0.5", "-o", "s.csv"],
    ["score", "c", "--data", "new.npz", "-m", "importance", "-k", "5", "--alpha", "0.3", "--calibration", "validation"],
    ["encode", "v", "--data", "new.npz", "--num-draws", "2", "--out", "z.npz"],
    ["encode", "c", "--split", "train", "--num-data", "3", "-o", "z.csv"],
    ["sample", "c", "--data", "new.npz", "-n", "2", "-o", "s.npy"],
]
WORDS = [
    "", " ", "-", "--", "---", "=", ".", "..", "none", "true", "False", "nan", "inf", "-inf", "1e999", "-1", "0",
    "-0.0", "0.5", "1e-320", "9" * 25, f"-{'9' * 400}", "9" * 5000, "1_0", "0x10", "٣", "{}", "{[]: 1}", "{1}", "b'x'",
    "1j", "...", "(", "[" * 90 + "]" * 90, "[" * 5000, "[1, [2, 'a']]", "()", "-" * 3000 + "1", "'", "1is", "a" * 300,
    "a" * 5000, "a$b", "$a$b$", "${x", "\\frac", "%s", "{0}", "a b", "a\nb", "a\tb", "\x1b[31m", "\0", "x\0.npy", "🎉",
    "é", "\udcff", "a\u202eb", "~", "*", "runs/*", "-h", "--help", "--version", "--traceback",
]  # fmt: skip
PATHS = [
    "folder", "folder.npy", "empty.npy", "empty.npz", "bomb.npz", "claims.npy", "claims.npz", "object.npy", "text.npy",
    "long.npy", "complex.npy", "zero.npz", "fifo.npy", "fifo.png", "fifo", "loop", "loop.npy", "null.npy", "zeros.npy",
    "bomb.png", "text.png", "broken.py", "raises.py", "x.npz", "x.npz/y", "half.npy", "holes.npy", "images",
    "/dev/null", "/dev/full", "/dev/zero", "/proc/self/mem", "/proc/1/nothing", "v/run.json", "v/evidence.nc", "v",
    "w", "c", "i",
    f"{'d/' * 3000}x.npy", f"{'n' * 252}.npy", f"new/{'n' * 300}/x.npy", "a/b/../../s.npy", "q$1$.png", "q\udcff.npy",
    "closed/x.npy", "x.npz.", "x.NPZ",
]  # fmt: skip
LARGE = ("bomb.npz", "bomb.png")
FIFOS = ("fifo", "fifo.npy", "fifo.png")
KEYS = [
    "prior.latent_dim", "prior.num_components", "prior.no", "prior.", "likelihood.scale", "decoder.hidden",
    "encoder.hidden", "networks.hidden", "fit.batch_size", "fit.patience", "fit.schedule", "fit.learning_rate",
    "fit.threads", "data.binarize", "data.dequantize", "data.missing", "data.num_labels", "data.strings",
    "condition.visible", "condition.num_classes", "objective.num_particles", "model.prior", "model.latent_dim",
    "guide.hidden", "nothing.at_all", ".",
]  # fmt: skip
HUGE = [str(10**9), str(10**12), str(2**63 - 1), str(-(2**63)), str(2**63), str(10**30)]
LONG = {  # options of which a large number is allowed and takes its time
    "--epochs", "--num-samples", "-k", "--num-temperatures", "--num-chains", "--num-leapfrog", "--num-simulated", "-m",
    "--num-answers", "--max-samples", "--num-draws",
}  # fmt: skip


def prepare(folder):
    """Write what the lines speak of into a folder: data, runs, and files that are not what they say."""
    rng = np.random.default_rng(0)
    x = (rng.random((40, 4, 4)) > 0.5).astype(np.uint8)
    x[:, 0] = (np.arange(40) % 3 > 0)[:, None]
    np.savez("x.npz", x=x, y=np.arange(40) % 3)
    np.savez("new.npz", x=x[::-1][:10], y=(np.arange(40) % 3)[::-1][:10])
    holes = x.astype(np.float32)
    holes[::3, 2, 2] = np.nan
    np.save("holes.npy", holes)
    np.save("half.npy", holes[:2])
    for name, line in READY.items():
        assert call([*line, "--out", name])[0] == 0
    hostile_files()


def hostile_files():
    """Write files that say what they are not, that have no end, or that are too much."""
    Path("folder").mkdir()
    Path("folder.npy").mkdir()
    Path("images").mkdir()
    Path("images/a.png").write_bytes(b"\x89PNG\r\n\x1a\nbroken")
    for name in ("empty.npy", "empty.npz"):
        Path(name).write_bytes(b"")
    np.savez("zero.npz")
    np.savez_compressed("bomb.npz", x=np.zeros((300_000, 1000), np.uint8))
    np.save("claims.npy", np.zeros((2, 16), np.float32))
    claims = Path("claims.npy").read_bytes().replace(b"(2, 16), }          ", b"(2, 1000000000000),}")
    Path("claims.npy").write_bytes(claims)
    np.savez("claims.npz", x=0)
    shutil.copy("x.npz", "x.NPZ")
    import zipfile

    with zipfile.ZipFile("claims.npz", "w") as archive:
        archive.writestr("x.npy", claims)
    np.save("object.npy", np.array([{}, []], dtype=object), allow_pickle=True)
    np.save("text.npy", np.array(["a", "b"]))
    np.save("long.npy", np.ones((30, 4, 4), np.longdouble))
    np.save("complex.npy", np.ones((30, 4, 4), complex))
    for name, to in (("loop", "loop"), ("loop.npy", "loop.npy"), ("null.npy", "/dev/null"), ("zeros.npy", "/dev/zero")):
        Path(name).symlink_to(to)
    from PIL import Image

    Image.new("1", (14_000, 14_000)).save("bomb.png")
    Path("text.png").write_text("no image")
    Path("broken.py").write_text("def f(:")
    Path("raises.py").write_text("raise RuntimeError('a\\nb')")
    Path("closed").mkdir(mode=0)


def mutated(seed, number):
    """Return a good command line with one to three mutations."""
    rng = np.random.default_rng([seed, number])
    line = list(GOOD[rng.integers(len(GOOD))])
    for _ in range(rng.integers(1, 4)):
        line = MUTATIONS[rng.integers(len(MUTATIONS))](line, rng)
    return line


def hostile_value(rng, option):
    """Return what an option does not expect."""
    kinds = [WORDS, PATHS] + ([] if option in LONG else [HUGE])
    kind = kinds[rng.integers(len(kinds))]
    return kind[rng.integers(len(kind))]


def with_a_value(line, rng):
    """Replace an argument, or the value of an option, or of part.option=value."""
    at = [i for i in range(1, len(line)) if not re.match("--?[a-z]", line[i])]
    if not at:
        return line
    i = at[rng.integers(len(at))]
    key, equals, _ = line[i].partition("=")
    new = hostile_value(rng, line[i - 1])
    return [*line[:i], f"{key}={new}" if equals and rng.random() < 0.8 else new, *line[i + 1 :]]


def with_an_option(line, rng):
    """Add an option of the command, with a hostile value if it takes one."""
    command = cli.app.commands.get(line[0]) if line else None
    options = [one for one in command.params if one.opts[0].startswith("-")] if command else []
    if not options:
        return line
    chosen = options[rng.integers(len(options))]
    if chosen.opts[0] == "--set":
        return [*line, "--set", f"{KEYS[rng.integers(len(KEYS))]}={hostile_value(rng, '')}"]
    if getattr(chosen, "is_flag", False):
        return [*line, chosen.opts[0]]
    return [*line, chosen.opts[0], hostile_value(rng, chosen.opts[0])]


def without_one(line, rng):
    """Leave an argument out, but none that keeps a line short."""
    at = [i for i in range(len(line)) if not {line[i], line[max(i - 1, 0)]} & LONG and not line[i].startswith("-")]
    i = at[rng.integers(len(at))] if at else 0
    return line[:i] + line[i + 1 :]


def doubled(line, rng):
    """Say something twice."""
    i = rng.integers(len(line)) if line else 0
    return [*line[: i + 1], *line[i:]]


def swapped(line, rng):
    """Exchange two arguments, of which none is the number of a long work."""
    at = [i for i in range(len(line)) if not {line[i], line[max(i - 1, 0)]} & LONG]
    if len(at) < 2:
        return line
    i, j = rng.choice(at, 2, replace=False)
    line = list(line)
    line[i], line[j] = line[j], line[i]
    return line


def unknown(line, rng):
    """Add an option that there is not, or one that is not whole."""
    extra = ["--no-such", "--epoch", "-", "--", "-x", "--no-mean", "--seed", "--s\0", "--🎉", "-kk", "--out=", "-o"]
    return [*line, extra[rng.integers(len(extra))]]


# What is hostile is the more frequent.
MUTATIONS = [with_a_value, with_a_value, with_a_value, with_an_option, with_an_option]
MUTATIONS += [without_one, doubled, swapped, unknown]


def call(line):
    """Run a command line in this process: exit code, and both outputs."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            cli.main(list(line))
        except SystemExit as end:
            return end.code, out.getvalue(), err.getvalue()
    return None, out.getvalue(), err.getvalue()


def fault_of(line):
    """Return what is wrong with the end of a command line, or None."""
    memory = peak_memory()
    try:
        with limited():
            code, out, err = call(line)
    except Hang:
        return f"longer than {SECONDS} s"
    except BaseException as problem:
        return f"{type(problem).__name__}: {problem}"
    if peak_memory() - memory > GIGABYTES:
        return "more than 2 GB of memory"
    return told_badly(code, err) or (f"surprising output {out[-200:]!r}" if "Traceback" in out else None)


def told_badly(code, err):
    """Return what is wrong with an exit code and what was said on standard error, or None."""
    if "fault in ppl-vae" in err:
        return err
    if code not in (0, 2, 130):
        return f"exit code {code}: {err[-300:]}"
    said = [one for one in err.splitlines() if one.startswith("Error: ")]
    if len(said) != (code == 2):
        return f"exit code {code} with {len(said)} errors: {err[-300:]}"
    if said and (err.splitlines()[-1] != said[0] or len(said[0]) > 1000):
        return f"more than a sentence: {err[:1500]}"
    return None


def run(count, seed=0, first=0):
    """Run so many mutated command lines, each in a fresh folder; return those that failed: number, line and reason."""
    failures, here = [], Path.cwd()
    with tempfile.TemporaryDirectory() as temporary:
        ready = Path(temporary, "ready")
        ready.mkdir()
        os.chdir(ready)
        try:
            prepare(ready)
            for number in range(first, first + count):
                line = mutated(seed, number)
                folder = fresh(ready)
                os.chdir(folder)
                start = time.monotonic()
                if fault := fault_of(line):
                    failures.append((number, line, fault))
                shutil.rmtree(folder.parent, ignore_errors=True)
                if os.environ.get("HOSTILE_SLOW") and time.monotonic() - start > 2:
                    print(number, round(time.monotonic() - start, 1), [f"{a:.40}" for a in line], file=sys.stderr)
        finally:
            os.chdir(here)
    return failures


def fresh(ready):
    """Return a new folder, alone in another one, with what was prepared: copies, and links to the large files."""
    folder = Path(tempfile.mkdtemp(dir=ready.parent), "here")
    shutil.copytree(ready, folder, symlinks=True, ignore=lambda *_: {*LARGE, *FIFOS})
    for name in LARGE:
        (folder / name).symlink_to(ready / name)
    for name in FIFOS:
        os.mkfifo(folder / name)
    return folder


@pytest.mark.parametrize("first", range(0, 500, 125))
def test_mutated_command_lines_end_in_a_result_or_a_sentence(first):
    failures = run(125, seed=18, first=first)
    assert not failures, "\n".join(f"{number}: {line} -> {fault}" for number, line, fault in failures)


NO_DATA = [  # files and folders that are no data
    "folder", "folder.npy", "empty.npy", "empty.npz", "zero.npz", "bomb.npz", "claims.npy", "claims.npz", "object.npy",
    "text.npy", "complex.npy", "fifo", "fifo.npy", "fifo.png", "loop", "loop.npy", "null.npy", "zeros.npy", "bomb.png",
    "text.png", "images", "/dev/zero", "/dev/stdin", f"{'n' * 300}.npy", f"{'n' * 300}/x.npy", "x.npz/y.npy",
]  # fmt: skip


@pytest.fixture(scope="module")
def ready(tmp_path_factory):
    """A folder with runs and with files that are not what they say, where the tests of this module stand."""
    here, folder = Path.cwd(), tmp_path_factory.mktemp("ready")
    os.chdir(folder)
    prepare(folder)
    for name in FIFOS:
        os.mkfifo(name)
    yield folder
    os.chdir(here)


@pytest.mark.parametrize("name", NO_DATA)
def test_what_is_no_data_is_refused_in_a_sentence_before_memory_is_taken(ready, name):
    lines = [
        [*READY["v"][:3], name, *TINY, "--out", "n"],
        [*READY["i"], "--set", f"condition.visible={name}", "--out", "n"],
        ["impute", "v", "--data", name],
        ["score", "v", "--data", name, "--alpha", "0.3"],
        ["sample", "i", "--condition", name],
    ]
    for line in lines:
        before = peak_memory()
        assert fault_of(line) is None
        code, out, err = call(line)
        assert code == 2 and out == "" and re.search("Expected|Unknown", err), (line, err)
        assert peak_memory() - before < 0.3, line
    assert not (ready / "n").exists()


def test_an_error_of_ours_is_called_one(ready, monkeypatch):
    """Nothing that goes wrong inside is laid at a person's door; the lines that led to it are shown if asked for."""

    def broken(*_, **__):
        raise TypeError("nobody\nthought of this")

    monkeypatch.setattr("ppl_vae.runs.listing.list_parts", broken)
    monkeypatch.setattr("ppl_vae.list_parts", broken)
    code, _, err = call(["parts"])
    assert code == 2 and len(err.splitlines()) == 1
    assert "fault in ppl-vae" in err and "TypeError: nobody thought of this" in err
    code, _, err = call(["--traceback", "parts"])
    assert code == 2 and "Traceback" in err and "in broken" in err


@pytest.mark.parametrize(
    "problem", [OSError(36, "File name too long", "a"), MemoryError("no"), RecursionError("deep"), OverflowError("big")]
)
def test_what_a_machine_refuses_is_a_sentence(ready, monkeypatch, problem):
    def broken(*_, **__):
        raise problem

    monkeypatch.setattr("ppl_vae.list_parts", broken)
    code, _, err = call(["parts"])
    assert told_badly(code, err) is None and err.startswith("Error: Expected ")


@pytest.mark.parametrize("text", ["{1: 2}", "{1}", "{[]: 1}", "b'x'", "1j", "...", "9" * 30, "[1, {2}]", "(" * 5000])
def test_a_value_is_a_word_a_number_or_a_list_of_such(text):
    code, _, err = call(["train", "vae", "--set", f"prior.latent_dim={text}"])
    assert told_badly(code, err) is None and code == 2


@pytest.mark.parametrize(
    "line",
    [
        [*READY["v"], "--set", f"prior.latent_dim={10**9}"],
        [*READY["v"], "--objective", "iwae", "--set", f"objective.num_particles={10**9}"],
        [*READY["c"], "--set", f"condition.num_classes={10**9}"],
        [*READY["v"][:4], "--epochs", "1", "--set", f"decoder.hidden={10**9}"],
        [*READY["w"], "--set", f"prior.num_components={10**9}"],
    ],
    ids=lambda line: line[-1],
)
def test_what_does_not_fit_into_memory_is_refused_before_memory_is_taken(ready, monkeypatch, line):
    monkeypatch.setattr("ppl_vae.utils.memory._of_the_machine", lambda: 2**34)  # 16 GB
    before = peak_memory()
    code, out, err = call([*line, "--out", "n"])
    assert code == 2 and out == "" and "that fit into memory" in err, err
    assert peak_memory() - before < 0.3


def test_training_needs_room_for_gradients_and_moments(ready, monkeypatch):
    monkeypatch.setattr("ppl_vae.utils.memory._of_the_machine", lambda: 2**30)
    line = [*READY["v"], "--set", "decoder.hidden=4000000", "--out", "n"]  # 84 million numbers, 0.3 GB
    code, _, err = call(line)
    assert code == 2 and "a model and a guide to train that fit into memory" in err


NAMES = ["a$b", "$x^$ and $_", "$\\frac$", "a b", "\udcff", "🎉", "l" * 250, "new\nline", "-a"]


@pytest.mark.parametrize("name", NAMES)
def test_a_run_of_any_name_is_drawn_and_shown(ready, name, recwarn):
    path = str(ready / "names" / name)
    code, out, _ = call([*READY["v"], "--out", path])
    assert code == 0 and "log P(x)" in out
    assert {"elbo.png", "samples.png"} <= {one.name for one in Path(path, "figures").iterdir()}
    for line in (
        ["evaluate", path, "-k", "5"],
        ["compare", path, "v"],
        ["diff", path, "v", "-k", "5", "--out", f"{path}.csv"[-200:], "--figure", str(ready / "names" / "why.png")],
        ["sample", path, "-n", "2"],
    ):
        code, _, err = call(line)
        assert code == 0, (line, err)
    assert (ready / "names" / "why.png").exists()


@pytest.mark.parametrize("broken", ["figure", "file"])
def test_no_figure_costs_a_result(ready, monkeypatch, broken):
    def fails(*_, **__):
        raise RuntimeError("no figure today")

    where = "matplotlib.figure.Figure.savefig" if broken == "figure" else "ppl_vae.runs.figures.written_whole"
    monkeypatch.setattr(where, fails)
    for line in (
        [*READY["v"], "--out", f"no-{broken}"],
        ["calibrate", "v", "-m", "100", "-k", "10"],
        ["impute", "m", "--num-samples", "5", "--num-data", "5"],
        ["diff", "v", "w", "-k", "5", "--figure", "why.png"],
    ):
        with pytest.warns(UserWarning, match="no figure today"):
            out = io.StringIO()
            with contextlib.redirect_stdout(out), pytest.raises(SystemExit) as end:
                cli.main(line)
        assert end.value.code == 0 and len(out.getvalue()) > 100


def test_a_place_that_cannot_be_written_to_is_refused_before_the_work(ready, monkeypatch):
    def worked(*_, **__):
        raise AssertionError("it has begun to work")

    for what in ("sample.sample", "impute.impute", "difference.estimate_evidence"):
        monkeypatch.setattr(f"ppl_vae.runs.{what}", worked)
    Path("taken.npy").mkdir(exist_ok=True)
    for out in (f"{'n' * 300}.npy", "x.npz/s.npy", "taken.npy", "fifo.npy"):
        for line in (["sample", "v", "-o", out], ["impute", "m", "-o", out], ["diff", "v", "w", "-k", "5", "-o", out]):
            code, out_, err = call(line)
            assert code == 2 and out_ == "" and "Expected" in err, (line, err)
            assert told_badly(code, err) is None


def in_a_shell(command, **environment):
    """Run a command line as people do; `ppl-vae` is this one."""
    ours = f'ppl-vae() {{ {sys.executable} -m ppl_vae "$@"; }}\n{command}'
    return subprocess.run(
        ["bash", "-c", ours],
        capture_output=True,
        text=True,
        errors="replace",
        env=os.environ | environment,
        check=False,
    )


@pytest.mark.parametrize(
    ("command", "codes", "said"),
    [
        ("ppl-vae evaluate v -m importance -k 5 | head -1", "0 0", ""),
        ("ppl-vae evaluate v -m importance -k 5 | true", "1 0", ""),
        ("ppl-vae parts | true", "1 0", ""),
        ("ppl-vae --help | true", "1 0", ""),
        ("ppl-vae evaluate v -m importance -k 5 2>&-", "0", ""),
        ("ppl-vae evaluate none 2>&-", "2", ""),
        ("ppl-vae evaluate v -m importance -k 5 >&-", "0", ""),
        ("ppl-vae evaluate v -m importance -k 5 2>/dev/full", "0", ""),
        ("ppl-vae evaluate v -m importance -k 5 >/dev/full", "2", "No space left on device"),
    ],
)
def test_a_stream_that_is_closed_or_full_costs_no_result(ready, command, codes, said):
    kept = Path("v/evidence.nc")
    before = kept.stat().st_mtime_ns
    done = in_a_shell(f'{command}; echo "${{PIPESTATUS[@]}}" >codes')
    assert Path("codes").read_text().split() == codes.split(), done.stderr
    assert said in done.stderr and "Traceback" not in done.stderr and "Exception ignored" not in done.stderr
    assert not command.startswith("ppl-vae evaluate v") or kept.stat().st_mtime_ns > before


def test_plain_ascii_and_forty_columns(ready):
    """Nothing is lost where a terminal shows ASCII only, or is narrow."""
    ascii_only = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = in_a_shell(f"mkdir -p 'n\u00e9'; ppl-vae {' '.join(READY['v'])} --out $'n\\xc3\\xa9/\\xff$a$'", **ascii_only)
    assert done.returncode == 0 and "log P(x)" in done.stdout and "Traceback" not in done.stderr, done.stderr
    for line in ("--help", "train --help", "parts", "parts likelihood", "evaluate v -m importance -k 5", "compare v w"):
        done = in_a_shell(f"ppl-vae {line}", COLUMNS="40")
        assert done.returncode == 0 and done.stdout and "Traceback" not in done.stderr, done.stderr
