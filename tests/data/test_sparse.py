"""Counts of AnnData, SciPy and Matrix Market become x with the names of genes; what is no count is refused in words."""

import gzip
import sys

import numpy as np
import pandas as pd
import pytest
import scipy.io
import scipy.sparse as sp
import torch
from ppl_vae.guides import MeanField
from ppl_vae.models import Counts

import ppl_vae
from ppl_vae import InputError, data
from ppl_vae.data import sparse
from ppl_vae.networks import MLP
from ppl_vae.priors import StandardNormal
from ppl_vae.runs.sample import sample_run
from ppl_vae.utils import memory

GENES = [f"gene-{i}" for i in range(6)]


@pytest.fixture
def matrix():
    return sp.csr_matrix(np.random.default_rng(0).poisson(1.0, (40, 6)) + np.eye(40, 6)[:, [0, 1, 2, 3, 4, 5]] + 1)


@pytest.fixture
def adata(matrix):
    """Raw counts in a layer, normalized ones in X, as after the usual preprocessing."""
    anndata = pytest.importorskip("anndata", reason="needs the optional package anndata")
    rows = [str(i) for i in range(40)]
    obs = pd.DataFrame({"batch": [("b2", "b10", None)[i % 3] for i in range(40)], "n": range(40)}, index=rows)
    adata = anndata.AnnData(sp.csr_matrix(np.log1p(matrix.toarray())), obs=obs, var=pd.DataFrame(index=GENES))
    adata.layers["raw"] = matrix
    return adata


def all_of(loaded):
    """x of all three parts in the order in which they are stored."""
    values = torch.empty(40, 6)
    for part in loaded.stored:
        values[part.rows] = part.x
    return values.numpy()


def test_files_and_objects_are_the_same_matrix(matrix, tmp_path):
    scipy.io.mmwrite(tmp_path / "a.mtx", matrix)
    with gzip.open(tmp_path / "a.mtx.gz", "wb") as file:
        file.write((tmp_path / "a.mtx").read_bytes())
    sp.save_npz(tmp_path / "a.npz", matrix)
    sp.save_npz(tmp_path / "b.npz", sp.coo_matrix(matrix), compressed=False)
    files = [tmp_path / name for name in ("a.mtx", "a.mtx.gz", "a.npz", "b.npz")]
    for thing in (*files, matrix, sp.csc_array(matrix)):
        loaded = data.load(thing)
        np.testing.assert_array_equal(all_of(loaded), matrix.toarray())
        assert (len(loaded.train), len(loaded.validation), len(loaded.test)) == (32, 4, 4)
        assert loaded.schema is None
    np.savez(tmp_path / "plain.npz", x=matrix.toarray())
    assert not sparse.is_counts(tmp_path / "plain.npz")


def test_anndata(adata, matrix, tmp_path):
    adata.write_h5ad(tmp_path / "a.h5ad")
    for thing in (adata, tmp_path / "a.h5ad"):
        loaded = data.load(thing, layer="raw", label="batch")
        np.testing.assert_array_equal(all_of(loaded), matrix.toarray())
        y = torch.empty(40, dtype=torch.long)
        for part in loaded.stored:
            y[part.rows] = part.y
        assert loaded.classes == ("b10", "b2")
        assert y.tolist() == [(1, 0, -1)[i % 3] for i in range(40)]
        frame = loaded.schema.to_frame(loaded.test.x, loaded.test.y)
        assert list(frame.columns) == [*GENES, "batch"]
    assert loaded.changed(label="n").num_classes == 40
    again = data.load(tmp_path / "a.h5ad", **loaded.options)  # as a run folder is read
    np.testing.assert_array_equal(again.test.x, loaded.test.x)


def test_they_are_data_for_fit_and_estimates(adata, matrix):
    adata.X = matrix
    model = Counts((6,), StandardNormal(1), decoder=MLP)
    guide = MeanField(model)
    found = []
    for thing in (adata, matrix, sp.coo_array(matrix), matrix.toarray().astype(np.float32)):
        if not found:
            ppl_vae.fit(model, guide, thing, epochs=1, progress=False)
        one = ppl_vae.estimate_evidence(model, guide, thing, method="importance", num_samples=20, progress=False)
        found.append(one.log_px)
        np.testing.assert_allclose(one.log_px, found[0], rtol=1e-6)


def test_a_run_writes_genes_by_name(adata, tmp_path):
    adata.write_h5ad(tmp_path / "a.h5ad")
    settings = {"data.layer": "raw", "fit.epochs": 1, "prior.latent_dim": 2}
    run = ppl_vae.train(
        "counts", data=str(tmp_path / "a.h5ad"), settings=settings, out=tmp_path / "run", num_samples=10, progress=False
    )
    assert run.model.likelihood.event_shape == (6,)
    path = sample_run(run, size=5, out=tmp_path / "cells.csv")
    table = pd.read_csv(path)
    assert list(table.columns) == GENES
    assert len(table) == 5


def changed(matrix, row, values):
    dense = matrix.toarray()
    dense[row] = values
    return sp.csr_matrix(dense)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ([0.5, 1, 1, 1, 1, 1], r"Expected counts.*fractions.*0\.5.*raw"),
        ([-1, 1, 1, 1, 1, 1], "Expected counts.*negative numbers such as -1"),
        ([0] * 6, "at least one count in each row.*got 1 without, first row 7"),
        ([np.inf, 1, 1, 1, 1, 1], "Expected counts.*inf"),
    ],
)
def test_what_is_no_count_is_refused(matrix, row, message):
    with pytest.raises(InputError, match=message):
        data.load(changed(matrix, 7, row))


def test_other_refusals(adata, matrix, tmp_path, monkeypatch):
    for options, message in (
        ({}, r"fractions.*Name the layer.*raw"),
        ({"layer": "rw"}, "Unknown layer 'rw'.*'raw'"),
        ({"layer": "raw", "label": "bath"}, "Unknown label 'bath'.*'batch'"),
        ({"layer": "raw", "binarize": "dynamic"}, "binarize of pictures; got counts"),
    ):
        with pytest.raises(InputError, match=message):
            data.load(adata, **options)
    with pytest.raises(InputError, match=r"AnnData.*to have a label"):
        data.load(matrix, label="batch")
    with pytest.raises(InputError, match=r"AnnData.*to have a layer"):
        data.load("digits", layer="raw")
    (tmp_path / "a.h5ad").write_bytes(b"no HDF5")
    with pytest.raises(InputError, match="cannot be read"):
        data.load(tmp_path / "a.h5ad")
    monkeypatch.setitem(sys.modules, "anndata", None)
    with pytest.raises(InputError, match=r"package anndata.*ppl-vae\[counts\]"):
        data.load(tmp_path / "a.h5ad")
    (tmp_path / "a.mtx").write_text("%%MatrixMarket matrix coordinate integer general\n40 6 1\n1 1 3\n")
    monkeypatch.setattr(memory, "_of_the_machine", lambda: 1000)
    for thing in (matrix, tmp_path / "a.mtx"):
        with pytest.raises(InputError, match=r"\(40 x 6\), written out.*fit into memory.*fewer columns"):
            data.load(thing)
