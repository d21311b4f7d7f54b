"""Files of other kinds: the lines that a message names run, and what they write is read."""

import gzip
import json
import pickle
import re
import shutil
import wave
from pathlib import Path

import numpy as np
import pytest
import torch

from ppl_vae import InputError, data
from ppl_vae.utils.formats import READERS, lines_that_convert

X = np.random.default_rng(0).normal(size=(30, 4))


def _mat(path):
    pytest.importorskip("scipy.io").savemat(path, {"NAME": X})


def _h5(path):
    with pytest.importorskip("h5py").File(path, "w") as file:
        file["NAME"] = X


def _pickle(path):
    path.write_bytes(pickle.dumps(X.tolist()))


def _wav(path):
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(8000)
        file.writeframes((np.sin(np.arange(4000)) * 2**14).astype("<i2").tobytes())


def _idx(path):
    images = np.arange(3 * 8 * 8, dtype=np.uint8).reshape(3, 8, 8)
    path.write_bytes(bytes([0, 0, 8, 3]) + np.array(images.shape, ">i4").tobytes() + images.tobytes())


WRITERS = {
    "a.mat": (_mat, (4,)),
    "a.h5": (_h5, (4,)),
    "a.pkl": (_pickle, (4,)),
    "a.pt": (lambda path: torch.save(torch.from_numpy(X), path), (4,)),
    "a.txt": (lambda path: np.savetxt(path, X), (4,)),
    "a.wav": (_wav, (1000, 1)),
    "train-images-idx3-ubyte": (_idx, (1, 8, 8)),
}


@pytest.mark.parametrize("name", WRITERS)
def test_the_lines_convert_the_file(tmp_path, monkeypatch, name):
    write, shape = WRITERS[name]
    monkeypatch.chdir(tmp_path)
    write(Path(name))
    with pytest.raises(InputError, match=r"npy or \.npz") as raised:
        data.load(tmp_path / name)
    lines = str(raised.value).partition("Two lines convert it: ")[2].rstrip(".")
    lines = re.sub(r" \((?:[^()]|\(\w+\))*\)$", "", lines).replace("[NAME]", "['NAME']")
    exec(lines, {})
    (made,) = (file for file in tmp_path.iterdir() if file.suffix in (".npy", ".npz"))
    assert data.load(made).event_shape == shape


def test_packed_files_and_tables(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.save("a.npy", X)
    Path("a.npy.gz").write_bytes(gzip.compress(Path("a.npy").read_bytes()))
    shutil.make_archive("b", "zip", ".", "a.npy")
    Path("a.npy").unlink()
    for name in ("a.npy.gz", "b.zip"):
        exec(lines_that_convert(Path(name)).partition(" (then")[0], {})
    assert data.load("./a.npy").event_shape == data.load(tmp_path / "b" / "a.npy").event_shape == (4,)
    pytest.importorskip("pandas")
    Path("c.json").write_text(json.dumps([{"age": 1, "name": "a"}, {"age": 2, "name": "b"}]))
    exec(lines_that_convert(Path("c.json")), {})
    assert Path("c.csv").read_text().split() == ["age,name", "1,a", "2,b"]


def test_every_line_is_python():
    for suffixes in READERS:
        for suffix in suffixes:
            lines = lines_that_convert(Path(f"it's{suffix}")).removesuffix(f" ({READERS[suffixes].hint})")
            compile(lines, suffix, "exec")
    general = lines_that_convert(Path("folder/mine.xyz"))
    compile(general.partition(" (found:")[0], "general", "exec")
    assert "'folder/mine.npy'" in general
    assert "nibabel" in lines_that_convert(Path("a.nii.gz")) and "gzip" in lines_that_convert(Path("a.csv.gz"))
