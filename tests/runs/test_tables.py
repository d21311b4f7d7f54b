"""Tables from the command line to a table: what is printed, what a run keeps, what `sample` and `impute` write."""

import csv
import json
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from tiny import QUICK

import ppl_vae
from ppl_vae import InputError, cli
from ppl_vae.data.schema import Schema
from ppl_vae.generation.impute import Imputation
from ppl_vae.runs.figures import observed_and_drawn
from ppl_vae.runs.impute import best_guess, impute_run
from ppl_vae.runs.sample import sample_run
from ppl_vae.runs.train import _with_columns

N = 160
TYPES = {"real": 11, "positive": 8, "count": 7, "binary": 4, "categorical": 4, "ordinal": 3}


def rows():
    """A table of 40 columns of mixed types, 5% of them empty, as lists of text."""
    rng = np.random.default_rng(3)
    z = rng.normal(size=(N, 2))

    def score():
        return z @ rng.normal(size=2) + 0.4 * rng.normal(size=N)

    columns = {"patient id": [f"P{1000 + 7 * i}" for i in range(N)]}
    columns |= {f"real, {j}": [f"{v:.3f}" for v in 50 * score()] for j in range(11)}
    columns |= {f"dose_{j}": [f"{v:.2f}" for v in 0.01 + np.exp(score())] for j in range(8)}
    columns |= {f"visits{j}": [str(int(v)) for v in rng.poisson(np.exp(1 + 0.3 * score()))] for j in range(7)}
    columns |= {f"smoker{j}": ["yes" if v > 0 else "no" for v in score()] for j in range(4)}
    cities = np.array(["Bonn", "Köln", "Trier", "Ulm"])
    columns |= {f"city{j}": cities[np.stack([score() for _ in cities]).argmax(0)].tolist() for j in range(4)}
    columns |= {f"scale{j}": [str(int(v)) for v in np.clip(np.round(3 + score()), 1, 5)] for j in range(3)}
    columns |= {"site": ["A"] * N, "note": [""] * N}
    cells = np.array(list(columns.values()), dtype=object).T
    holes = rng.random(cells.shape) < 0.05
    holes[:, 0] = False
    cells[holes] = ""
    return list(columns), cells.tolist()


def write(path, names, cells):
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([names, *cells])


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run on that table, which the command line made; its folder, and what was printed."""
    folder = tmp_path_factory.mktemp("tables")
    write(folder / "patients.csv", *rows())
    arguments = ["train", "vae", "--data", folder / "patients.csv", "--out", folder / "run", *QUICK]
    with pytest.MonkeyPatch.context() as patch:
        said, warned = [], []
        patch.setattr(cli.click, "echo", lambda text="", **_: said.append(str(text)))
        patch.setattr("ppl_vae.utils.faults.warnings.warn", lambda message, **_: warned.append(str(message)))
        with pytest.raises(SystemExit) as ended:
            cli.main([str(one) for one in arguments])
    assert ended.value.code == 0, said
    return folder, "\n".join(said), warned


def test_what_is_printed_before_any_work(trained):
    folder, said, warned = trained
    first, *lines = said.splitlines()
    assert first.startswith("patients.csv: 160 rows, 40 columns: 11 real, 8 positive, 7 counts, 4 binary, 4 categories")
    assert first.endswith("3 left out; 5.0% missing") or "% missing" in first
    schema = "\n".join(line for line in lines[: lines.index("", 1)] if line)
    assert Schema.of_text(schema) == Schema.of(folder / "run" / "schema.toml")  # it can be pasted into a file
    types = [column.type for column in Schema.of_text(schema).columns]
    assert {kind: types.count(kind) for kind in TYPES} == TYPES
    assert "--schema FILE" in said
    for name in ("patient id", "site", "note"):
        assert any(f"Column '{name}'" in words and "left out" in words for words in warned)


def test_a_typo_is_one_sentence_and_no_run(run, tmp_path):
    names, cells = rows()
    cells[16][names.index("dose_3")] = "12.3x"
    write(tmp_path / "patients.csv", names, cells)
    code, out, err = run("train", "vae", "--data", "patients.csv", "--out", "run", *QUICK)
    assert code == 2 and out == "" and not (tmp_path / "run").exists()
    (error,) = [line for line in err.splitlines() if line.startswith("Error")]
    for part in ("column 'dose_3' of patients.csv", "'12.3x' in row 17", "Mend the cell, or empty it", "--schema FILE"):
        assert part in error
    (tmp_path / "edited.toml").write_text('dose_3 = "categorical"\n"patient id" = "left out"\n')
    code, _, err = run("train", "vae", "--data", "patients.csv", "--schema", "edited.toml", "--out", "run", *QUICK)
    assert code == 0, err
    assert "12.3x" in ppl_vae.load("run").schema["dose_3"].categories


def test_impute_writes_the_persons_own_table(trained, tmp_path):
    folder, *_ = trained
    names, cells = rows()
    _, (path, beside, *_) = impute_run(
        folder / "run", data=folder / "patients.csv", out=tmp_path / "i.csv", num_samples=50
    )
    with path.open(newline="", encoding="utf-8") as file:
        head, *filled = list(csv.reader(file))
    assert head == names and len(filled) == N
    schema = ppl_vae.load(folder / "run").schema
    for before, after in zip(cells, filled, strict=True):
        for name, old, new in zip(names, before, after, strict=True):
            column = schema[name]
            if old or column.is_left_out:
                assert new == old  # what is observed, and what is not modelled, stays as it was written
            elif column.categories:
                assert new in column.categories
            elif column.type == "count":
                assert new.isdecimal()
            else:
                assert float(new) > 0 or column.type == "real"
    draws = pd.read_csv(beside, dtype=str, keep_default_na=False)
    assert list(draws.columns) == ["draw", *names] and len(draws) == 10 * N
    assert not (draws.drop(columns=["patient id", "site", "note"]) == "").any().any()
    holes = np.array(cells) == ""
    same = (draws[names].to_numpy().reshape(10, N, -1) == np.array(cells)).all(0)
    assert (same | holes).all()


def test_impute_new_rows(trained, run, tmp_path):
    folder, *_ = trained
    names, cells = rows()
    order = [*reversed(range(len(names)))]
    new = [[row[i] for i in order] + ["kept"] for row in cells[:4]]
    write(tmp_path / "new.csv", [*(names[i] for i in order), "extra"], new)
    code, _, err = run("impute", folder / "run", "--data", "new.csv", "-o", "out.tsv", "-k", 20, "--num-draws", 2)
    assert code == 0, err
    written = pd.read_csv("out.tsv", sep="\t", dtype=str, keep_default_na=False)
    assert list(written.columns) == [*(names[i] for i in order), "extra"] and set(written["extra"]) == {"kept"}
    new[2][order.index(names.index("city1"))] = "Mainz"
    write(tmp_path / "new.csv", [*(names[i] for i in order), "extra"], new)
    code, _, err = run("impute", folder / "run", "--data", "new.csv")
    assert code == 2 and "in column 'city1' of new.csv; got 'Mainz' in row 3. Mend or empty" in err
    code, _, err = run("impute", folder / "run", "--data", "new.npy")
    assert code == 2 and "Expected a table (.csv" in err


def test_questions_of_new_rows(trained, run):
    folder, *_ = trained
    frame = pd.read_csv(folder / "patients.csv", dtype=str, keep_default_na=False)
    frame.iloc[:7, ::-1].to_csv("new.csv", index=False)
    code, out, err = run("evaluate", folder / "run", "--data", "new.csv", "-k", 20)
    assert code == 0 and "of 7 data" in out, err
    found = ppl_vae.evaluate(folder / "run", data=frame.iloc[:7], num_samples=20)
    assert len(found) == 7
    frame.loc[3, "city0"] = "Mainz"
    frame.iloc[:7].to_csv("new.csv", index=False)
    code, _, err = run("score", folder / "run", "--data", "new.csv", "-k", 20)
    assert code == 2 and "got 'Mainz' in row 4" in err


def test_frames_go_in_and_parquet_comes_out(trained, tmp_path):
    pytest.importorskip("pyarrow")
    folder, *_ = trained
    frame = pd.read_csv(folder / "patients.csv").iloc[:5]
    _, (path, *_) = impute_run(folder / "run", data=frame, out=tmp_path / "out.parquet", num_samples=20)
    found = pd.read_parquet(path)
    assert list(found.columns) == list(frame.columns) and found["real, 3"].dtype == float
    assert found.drop(columns=["site", "note"]).notna().all().all()
    assert (found["site"].isna() == frame["site"].isna()).all()


def test_sample_writes_draws_in_columns_units_and_names(trained, run):
    folder, *_ = trained
    assert run("sample", folder / "run", "-n", 30)[0] == 0
    found = pd.read_csv(folder / "run" / "samples-0.csv")
    names, _ = rows()
    assert list(found.columns) == names and len(found) == 30 and found["patient id"].isna().all()
    schema = ppl_vae.load(folder / "run").schema
    for column in schema.modelled:
        if column.categories:
            assert set(map(str, found[column.name])) <= set(column.categories)
        if column.type == "count":
            assert (found[column.name] == found[column.name].round()).all() and (found[column.name] >= 0).all()
        if column.type == "positive":
            assert (found[column.name] > 0).all()
    assert schema.encode(found).isnan().sum() == 0
    assert len(found["city0"].unique()) > 1  # draws, and no means
    assert sample_run(folder / "run", size=3, out=folder / "x.npy").suffix == ".npy"
    with pytest.raises(InputError, match="conditional model"):
        sample_run(folder / "run", label="yes")


def test_a_run_keeps_its_codes(trained, run, tmp_path):
    folder, *_ = trained
    kept = json.loads((folder / "run" / "run.json").read_text())
    assert kept["build"]["likelihood"] == "columns"
    assert Schema.of(kept["data"]["schema"]) == Schema.of(folder / "run" / "schema.toml")
    assert run("evaluate", folder / "run", "-k", 20, "--num-data", 5)[0] == 0
    shutil.copytree(folder, tmp_path / "copy")
    names, cells = rows()
    for row in cells:
        row[names.index("city0")] = row[names.index("city0")].replace("Bonn", "Aachen")
    write(folder / "patients.csv", names, cells)
    try:
        code, _, err = run("evaluate", folder / "run", "-k", 20)
        assert code == 2 and "got 'Aachen' in row" in err
    finally:
        shutil.copy(tmp_path / "copy" / "patients.csv", folder / "patients.csv")


def test_labels_by_name(run, tmp_path):
    names, cells = rows()
    keep = [names.index(name) for name in ("real, 0", "real, 1", "dose_1", "city0", "smoker0")]
    few = [[row[i] for i in keep] for row in cells if row[names.index("city0")]]
    write(tmp_path / "t.csv", [names[i] for i in keep], few)
    quick = [*QUICK[:2], "-k", 20, "--set", "networks.hidden=16"]
    code, out, err = run("train", "cvae", "--data", "t.csv", "--label", "city0", "--out", "run", *quick)
    assert code == 0, err
    assert "2 real, 1 positive, 1 binary, label city0" in out
    loaded = ppl_vae.load("run")
    assert loaded.model.condition.num_classes == 4 and loaded.model.event_shape == (4,)
    assert run("sample", "run", "--label", "Ulm", "-n", 7)[0] == 0
    found = pd.read_csv("run/samples-label3-0.csv")
    assert list(found.columns) == [names[i] for i in keep] and set(found["city0"]) == {"Ulm"} and len(found) == 7
    code, _, err = run("sample", "run", "--label", "Uml")
    assert code == 2 and "Unknown label 'Uml': did you mean 'Ulm'" in err
    assert run("impute", "run", "--data", "t.csv", "-k", 20)[0] == 0
    assert pd.read_csv("run/imputed.csv").notna().all().all()


def test_another_likelihood_of_numbers(run, tmp_path):
    x = np.random.default_rng(0).normal(size=(60, 3))
    pd.DataFrame(x, columns=list("abc")).assign(w=["x", "y", "z"] * 20).to_csv(tmp_path / "t.csv", index=False)
    (tmp_path / "s.toml").write_text('w = "left out"')
    with pytest.warns(UserWarning, match="categories of w are taken for numbers"):
        assert run("train", "vae", "--data", "t.csv", "-l", "gaussian", "--out", "one", *QUICK)[0] == 0
    assert run("train", "vae", "-d", "t.csv", "-l", "gaussian", "--schema", "s.toml", "--out", "two", *QUICK)[0] == 0
    loaded = ppl_vae.load("one")  # draws between categories are drawn as they are written
    figure = observed_and_drawn(loaded, torch.tensor([[0.1, 0.2, 0.3, code] for code in (-0.4, 0.6, 1.2, 7.0)]))
    (panel,) = (panel for panel in figure.axes if panel.get_title().startswith("w"))
    assert [bar.get_height() for bar in panel.patches][3:] == [0.25, 0.5, 0.25]
    code, out, _ = run("train", "linear_gaussian", "-d", "t.csv", "--schema", "s.toml", "--out", "three", *QUICK[:2])
    assert code == 0 and "4 columns: 3 real, 1 left out" in out


def test_the_most_probable_category_is_that_of_the_posterior():
    """P(c | x_obs) = E softmax(a + b z), z ~ N(0, 1), by quadrature: its largest is c = 0, the mean code is near 1."""
    from ppl_vae.guides import MeanField
    from ppl_vae.models import VAE

    from ppl_vae import likelihoods, priors

    model = VAE((2,), prior=priors.StandardNormal(1), likelihood=likelihoods.Columns(["real", "categorical:3"]))
    a, b = torch.tensor([0.42, 0.22, 0.36]).log(), torch.tensor([-0.5, 0.0, 0.5])

    class Decoder(torch.nn.Module):
        def forward(self, z):
            return torch.cat([0 * z, a + b * z], -1)

    model.decoder = Decoder()
    nodes, weights = np.polynomial.hermite_e.hermegauss(40)
    z = torch.as_tensor(nodes)[:, None]
    p = torch.as_tensor(weights / weights.sum()) @ (a + b * z).softmax(-1)
    assert p.argmax() == 0 and p[0] - p[2] > 0.04
    x = torch.tensor([[1.0, torch.nan], [-1.0, torch.nan], [0.0, 2.0], [torch.nan, 1.0]])
    found = ppl_vae.impute(model, MeanField(model), x, num_samples=2000)
    assert found.mode[:2, 1].tolist() == [0.0, 0.0]
    expected = float(p @ torch.arange(3.0).double())
    assert (found.mean[:2, 1] - expected).abs().max() < 0.1 and round(expected) == 1
    assert torch.equal(found.mode[2:3], x[2:3]) and found.mode[3, 0] == found.mean[3, 0]  # numbers have their mean


def test_numbers_and_scales_get_their_mean_and_words_the_most_probable():
    schema = Schema.of({
        "r": "real", "n": "count", "o": {"type": "ordinal", "categories": ["1", "2", "3"]},
        "b": {"type": "binary", "categories": ["no", "yes"]},
        "w": {"type": "categorical", "categories": ["a", "b", "c"]},
    })  # fmt: skip
    mean, mode = torch.tensor([[0.25, 2.6, 1.4, 0.6, 1.1]]), torch.tensor([[9.0, 9.0, 0.0, 0.0, 2.0]])
    nothing = np.zeros(1)
    found = Imputation(mean * torch.nan, mean, 0 * mean, mean[None], mode, nothing, nothing, 1, 0)
    cells = schema.to_frame(best_guess(found, schema)).iloc[0].tolist()
    assert cells == [0.25, 3, 2, "no", "c"]


def test_a_table_of_counts_has_the_likelihood_of_a_model_of_counts(tmp_path):
    """Named or not; and no column is read as codes that are other numbers."""
    rng = np.random.default_rng(0)
    table = pd.DataFrame(rng.poisson(3.0, (40, 3))).add_prefix("gene")
    table["seldom"] = rng.integers(0, 2, 40)
    table.to_csv(tmp_path / "cells.csv", index=False)
    table["doublet"] = 2 * rng.integers(0, 2, 40)  # codes 0 and 1 of 0 and 2
    table.to_csv(tmp_path / "more.csv", index=False)
    cells, more = (ppl_vae.data.load(str(tmp_path / name)) for name in ("cells.csv", "more.csv"))
    assert _with_columns("vae", {}, cells) == {"likelihood": "columns"}
    assert _with_columns("counts", {}, cells) == {}  # its own
    for named in ({}, {"likelihood": "poisson"}):
        assert _with_columns("counts", named, cells) == named
        with pytest.raises(InputError, match=r"Expected counts in all columns.*'doublet', binary.*\"count\""):
            _with_columns("counts", named, more)
