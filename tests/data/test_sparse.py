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
from ppl_vae.runs.new_rows import new_part
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


def test_a_file_that_is_open_is_read(adata, matrix, tmp_path):
    """AnnData with backed='r' has matrices of classes of its own."""
    import anndata

    for values in (matrix, matrix.tocsc(), matrix.toarray()):
        adata.X = values
        adata.write_h5ad(tmp_path / "a.h5ad")
        opened = anndata.read_h5ad(tmp_path / "a.h5ad", backed="r")
        np.testing.assert_array_equal(all_of(data.load(opened)), matrix.toarray())
        opened.file.close()


def test_genes_x_cells_are_refused_where_the_cells_stand_beside_them(matrix, tmp_path):
    for name, beside in (("matrix.mtx", "barcodes.tsv"), ("GSM1_matrix.mtx.gz", "GSM1_barcodes.tsv.gz")):
        folder = tmp_path / beside
        folder.mkdir()
        scipy.io.mmwrite(folder / "plain.mtx", matrix.T)
        whole = (folder / "plain.mtx").read_bytes()
        (folder / name).write_bytes(gzip.compress(whole) if name.endswith("gz") else whole)
        assert len(data.load(folder / name).train) == 4  # nothing says what is what
        cells = b"cell-1\n" * 40
        (folder / beside).write_bytes(gzip.compress(cells) if name.endswith("gz") else cells)
        with pytest.raises(InputError, match=rf"genes x cells, as {beside} .* 40 cells.*\.T\."):
            data.load(folder / name)
    with pytest.raises(InputError, match="or transpose the matrix, if its rows are genes"):
        data.load(changed(matrix, 7, [0] * 6))


def test_counts_that_are_rounded_are_named(matrix):
    with pytest.warns(UserWarning, match="above 16,777,216 are rounded"):
        data.load(changed(matrix, 7, [2**24 + 1, 1, 1, 1, 1, 1]).astype(np.int64))


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


def test_a_run_writes_and_reads_genes_by_name(adata, tmp_path):
    """New cells have their genes put in order, further ones left out, and their layer and batch as in training."""
    adata.obs["batch"] = [f"b{i % 2}" for i in range(40)]
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
    import anndata

    x = torch.as_tensor(adata.layers["raw"].toarray(), dtype=torch.float32)
    order = [*GENES[::-1], GENES[0]]
    other = anndata.AnnData(np.zeros((40, 7)), layers={"raw": adata[:, order].layers["raw"].toarray()})
    other.var_names = [*GENES[::-1], "more"]
    other.write_h5ad(tmp_path / "new.h5ad")
    sp.save_npz(tmp_path / "new.npz", adata.layers["raw"])
    for new in (other, tmp_path / "new.h5ad", tmp_path / "new.npz", adata.layers["raw"]):
        assert torch.equal(new_part(run, new).x, x)
    lacking = other[:, 2:].copy()
    with pytest.raises(InputError, match=r"columns of the training data.*none named gene-4, gene-5"):
        new_part(run, lacking)
    settings = {"data.layer": "raw", "data.label": "batch", "fit.epochs": 1, "prior.latent_dim": 2}
    batches = ppl_vae.train(
        "counts_in_batches", data=str(tmp_path / "a.h5ad"), settings=settings, out=tmp_path / "batches", num_samples=10
    )
    other.obs["batch"] = "b1"
    assert new_part(batches, other).y.unique().tolist() == [1]
    other.obs["batch"] = "b7"
    with pytest.raises(InputError, match=r"Unknown label 'b7' in obs\['batch'\].*b0, b1"):
        new_part(batches, other)


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
