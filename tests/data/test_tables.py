"""Tables: what each column is taken for, what is refused by name, and that cells come back as they were."""

import json
import tomllib
import warnings

import numpy as np
import pandas as pd
import pytest
import torch

from ppl_vae import InputError, data
from ppl_vae.data.cells import Cells
from ppl_vae.data.column_types import guess
from ppl_vae.data.schema import Column, Schema
from ppl_vae.data.table_files import SUFFIXES, read_frame, write_frame
from ppl_vae.data.tables import completed_frame, new_rows, read_table

N = 60
rng = np.random.default_rng(0)
REAL = [f"{v:.2f}" for v in rng.normal(size=N)]
COLUMNS = {  # cells, and what they seem to be
    "real": (REAL, "real"),
    "positive": ([f"{v:.3f}" for v in rng.gamma(2, size=N)], "positive"),
    "count": (list(map(str, rng.poisson(3, N))), "count"),
    "large count": (list(map(str, rng.integers(0, 900, N) // 2 * 2)), "count"),
    "whole, below zero": (list(map(str, rng.integers(-50, 50, N))), "real"),
    "a scale": (list(map(str, rng.integers(1, 6, N))), "ordinal"),
    "zero or one": (["0", "1"] * (N // 2), "binary"),
    "words": (list(rng.choice(["red", "green", "blue"], N)), "categorical"),
    "two words": (["yes", "no"] * (N // 2), "binary"),
    "truth": ([True, False] * (N // 2), "binary"),
    "one of few, some of which are numbers": (["0", "1", "2", "3+"] * (N // 4), "categorical"),
    "two that differ by a point": (["1", "1.0", "2", "2.0"] * (N // 4), "binary"),
    "identifier": (list(map(str, range(5000, 5000 + N))), "an identifier"),
    "names": ([f"Ms. {i}" for i in range(N)], "an identifier"),
    "free text": ([f"some words, {i // 2 * 2 + (i % 3 == 0)}" for i in range(N)], "free text"),
    "days": ([f"2021-03-{1 + i % 28:02}" for i in range(N)], "dates"),
    "days of pandas": (list(pd.date_range("2021-01-01", periods=N)), "dates"),
    "European days": ([f"{1 + i % 28}.3.2021" for i in range(N)], "dates"),
    "days in words": ([f"{1 + i % 28}. März 2021" for i in range(N)], "dates"),
    "days in English": ([f"Mar {1 + i % 28}, 2021" for i in range(N)], "dates"),
    "days as numbers": ([20210301 + i % 28 for i in range(N)], "dates"),
    "clocks": ([f"{1 + i % 12}:30 PM" for i in range(N)], "dates"),
    "years": (list(1990 + rng.integers(0, 30, N)), "positive"),
    "post codes": ([f"0{1000 + i % 9}" for i in range(N)], "categorical"),
    "long numbers that come back": ([str(10**17 + i % 9) for i in range(N)], "categorical"),
    "long numbers": ([str(10**25 + i) for i in range(N)], "an identifier: all"),
    "lists": ([[i, i] for i in range(N)], "several values"),
    "bytes": ([b"a", b"b"] * (N // 2), "binary"),
    "errors of a spreadsheet": (["#DIV/0!", "0.5", "1.5"] * (N // 3), "binary"),
    "constant": (["7"] * N, "constant"),
    "one word": (["A"] * N, "constant"),
    "never": (["", "NA", "?"] * (N // 3), "never observed"),
}


@pytest.mark.parametrize("name", COLUMNS)
@pytest.mark.parametrize("holes", [0.0, 0.2])
def test_what_a_column_seems_to_be(name, holes):
    cells, expected = COLUMNS[name]
    gone = np.random.default_rng(1).random(N) < holes
    column = guess(name, Cells(pd.Series([None if g else c for g, c in zip(gone, cells, strict=True)])), "x.csv")
    assert (column.why if column.is_left_out else column.type).startswith(expected)


def test_categories_are_named_and_in_order():
    def found(cells, **options):
        return guess("a", Cells(pd.Series(cells, **options)), "x.csv")

    assert found(["b", "a", "c"] * 5).categories == ("a", "b", "c")
    assert found([10, 9, 9, 10]).categories == ("9", "10")  # numbers in their order, not that of words
    assert found([3, 5, 7] * 40).categories == ("3", "4", "5", "6", "7")  # a scale has no holes
    assert found(["02", "01", "02", "01"]).categories == ("01", "02")
    levels = pd.CategoricalDtype(["low", "mid", "high"], ordered=True)
    assert found(["high", "low", None, "mid"], dtype=levels) == Column("a", "ordinal", ("low", "mid", "high"))
    assert found(["high", "low", "mid"], dtype="category").type == "categorical"
    assert found([True, False, None], dtype="boolean").categories == ("False", "True")


REFUSED = {  # cells beside 40 usual ones, what is said, and what mends it
    "a typo": (["12.3x"], "got '12.3x' in row 41. Mend the cell, or empty it", 'a = "categorical"'),
    "a word": (["low", "low"], "got 'low' in row 41 \\(and 1 other", 'a = "categorical"'),
    "infinity": (["inf"], "finite numbers in column 'a' of the pandas table; got 'inf' in row 41", 'a = "left out"'),
    "a decimal comma": (["1,5"], "with a point and nothing else.*got '1,5' in row 41", "decimal="),
    "a unit": (["12.5 kg"], "got '12.5 kg' in row 41", 'a = "categorical"'),
    "money": (["$1,234.50"], "got '\\$1,234.50' in row 41", "thousands="),
    "a code": (["-999"] * 3, "got -999 in 3 cells, the first in row 41", 'missing = \\["-999"\\]'),
    "a positive code": (["9999"] * 2, "got 9999 in 2 cells", 'missing = \\["9999"\\]'),
    "minus one": (["-1"] * 2, "got -1 in 2 cells", '"\\*" = { missing = \\["-1"\\] }'),
    "a large one": (["1e30"] * 2, "in 2 cells", "missing"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_nobody_can_tell_is_refused_with_column_row_and_fix(case):
    cells, said, fix = REFUSED[case]
    usual = [f"{10 + v % 37 + 0.25}" for v in range(40)]
    frame = pd.DataFrame({"b": [*REAL[:40], *["0.5"] * len(cells)], "a": usual + cells})
    with pytest.raises(InputError, match=said) as caught:
        read_table(frame)
    assert "column 'a'" in str(caught.value) and pd.Series(str(caught.value)).str.contains(fix)[0]
    assert caught.value.options == "--schema FILE"
    mended = {"a": "categorical"} if "categorical" in fix or "=" in fix[-2:] else {"*": {"missing": cells[:1]}}
    assert len(read_table(frame, mended).schema.modelled) == 2  # what is recommended works


def test_a_unit_is_no_part_of_a_number():
    frame = pd.DataFrame({"a": [f"{v} kg" for v in range(40)], "b": REAL[:40]})
    with pytest.raises(InputError, match=r"column 'a' .*; got '0 kg' in row 1\. .* with a unit after it"):
        read_table(frame)
    assert guess("a", Cells(pd.Series(["0", "1", "2", "3+"] * 20)), "x").type == "categorical"


def test_numbers_that_single_precision_makes_equal_are_refused():
    frame = pd.DataFrame({"a": 1.6e9 + np.arange(40) % 7 / 16, "b": REAL[:40]})
    with pytest.raises(InputError, match=r"column 'a' .*float32 tells apart;.* rounds by up to"):
        read_table(frame)
    frame["a"] -= 1.6e9
    assert read_table(frame).schema["a"].type == "real"
    with pytest.raises(InputError, match=r"got a smaller one in column 'p' .*, row 1"):
        Schema.of({"p": "positive"}).encode(pd.DataFrame({"p": [1e-300]}))


def test_categories_that_may_be_one_are_said():
    with pytest.warns(UserWarning, match="'w' .* is categorical: 'Yes' and 'yes' differ by capitals"):
        table = read_table(pd.DataFrame({"w": ["yes", "Yes", "no"] * 5}))
    assert "# 'Yes' and 'yes'" in str(table.schema)


def test_values_that_only_look_like_codes_are_left_alone():
    for cells in ([-1, 0, 1] * 20, [*range(90), 99, 99], [*range(-50, 40), -99, -99, -98], [1, 2, 3, 4, 5, 9] * 20):
        assert not guess("a", Cells(pd.Series(cells)), "x").is_left_out


def test_several_columns_that_are_refused_are_all_named():
    frame = pd.DataFrame({name: ["1", "2", "3", "4", "x"] for name in "abc"})
    with pytest.raises(InputError, match=r"column 'a'.*to be said of 'b', 'c'"):
        read_table(frame)


ODD = ["age", "with space", 'quote " and \\', "a.b", "ü", "#", "line\nbreak", "=", "", "'", "\x7f", "日本", "*not all*"]


def test_a_schema_is_text_that_comes_back():
    columns = [Column(name, "categorical", tuple(ODD), ("-999", 'a"')) for name in ODD]
    columns += [Column("r", "real"), Column("id", "left out", why="all\ndiffer"), Column("b", "binary", ("0", "1"))]
    schema = Schema(tuple(columns), missing=("-1",))
    assert Schema.of(tomllib.loads(str(schema))) == schema
    assert Schema.of(json.loads(json.dumps(schema.to_json()))) == schema
    assert [c.name for c in Schema.of(schema.to_json()).columns][:3] == ODD[:3]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('a = "rael"', "Unknown type 'rael' of column 'a': did you mean 'real'"),
        ("a = real", 'lines such as age = "count"'),
        ('a = "real"\na = "count"', "Cannot overwrite"),
        ('a.b = "real"', '"a.b"'),
        ('a = { type = "real", categories = ["x", "y"] }', "no categories of column 'a'"),
        ('a = { type = "binary", categories = ["x"] }', "two categories of column 'a'"),
        ('a = { type = "ordinal", categories = "x" }', "a list as categories"),
        ('a = { type = "real", mising = ["1"] }', "did you mean 'missing'"),
        ('zzz = "real"', "Unknown column 'zzz' of the pandas table"),
        ('w = "ordinal"', "order of the categories of column 'w'"),
        ('w = "real"', "Expected numbers in column 'w' of the pandas table; got 'x' in row 1"),
        ('p = "positive"', "above zero in column 'p' of the pandas table; got '0' in row 2"),
        ('p = "count"', "whole numbers from 0 on in column 'p' of the pandas table; got '0.5' in row 1"),
        ('w = { type = "binary", categories = ["x", "z"] }', "categories 'x', 'z' in column 'w'.*got 'y' in row 2"),
        ('a = "left out"\nw = "left out"\np = "left out"', "a column that says something"),
    ],
)
def test_a_schema_that_does_not_fit_is_refused(tmp_path, text, message):
    frame = pd.DataFrame({"a": [1.5, 2, 3, 4], "w": ["x", "y", "x", "y"], "p": [0.5, 0, 1, 2]})
    (tmp_path / "s.toml").write_text(text)
    with pytest.raises(InputError, match=message):
        data.load(frame, schema=tmp_path / "s.toml")


def test_a_schema_may_say_a_part(tmp_path):
    frame = pd.DataFrame({"a": ["1", "2", "3", "-999"], "w": ["x", "y", "y", "n/k"]})
    schema = read_table(frame, {"*": {"missing": ["-999"]}, "w": {"type": "categorical", "missing": ["n/k"]}}).schema
    assert schema["w"] == Column("w", "categorical", ("x", "y"), ("n/k",))
    expected = torch.tensor([[1.0, 0.0], [2.0, 1.0], [3.0, 1.0], [torch.nan, torch.nan]])
    torch.testing.assert_close(schema.encode(frame), expected, equal_nan=True)


ROBUST = {
    "BOM": (b"\xef\xbb\xbfa,b\n1.5,x\n2.5,y\n3.5,x\n", "utf-8"),
    "CRLF": (b"a,b\r\n1.5,x\r\n2.5,y\r\n3.5,x\r\n", "utf-8"),
    "no end of line": (b"a,b\n1.5,x\n2.5,y\n3.5,x", "utf-8"),
    "semicolons": (b"a;b\n1.5;x\n2.5;y\n3.5;x\n", "utf-8"),
    "tabs": (b"a\tb\n1.5\tx\n2.5\ty\n3.5\tx\n", "utf-8"),
    "spaces": (b"a, b\n1.5, x\n2.5 , y \n 3.5,x\n", "utf-8"),
    "quotes": (b'"a","b"\n"1.5","x"\n"2.5","y"\n"3.5","x"\n', "utf-8"),
    "blank lines": (b"a,b\n1.5,x\n\n2.5,y\n3.5,x\n\n", "utf-8"),
    "a separator at the end": (b"a,b,\n1.5,x,\n2.5,y,\n3.5,x,\n", "utf-8"),
    "its separator in the first line": (b"sep=;\r\na;b\n1.5;x\n2.5;y\n3.5;x\n", "utf-8"),
    "UTF-16": ("a,b\n1.5,x\n2.5,y\n3.5,x\n".encode("utf-16"), "utf-16"),
}


@pytest.mark.parametrize("case", ROBUST)
def test_files_as_programs_write_them(tmp_path, case):
    (tmp_path / "t.csv").write_bytes(ROBUST[case][0])
    loaded = data.load(tmp_path / "t.csv")
    assert loaded.schema.to_json() == {"a": "positive", "b": {"type": "binary", "categories": ["x", "y"]}}
    torch.testing.assert_close(loaded.schema.encode(loaded.table.frame)[:, 1], torch.tensor([0.0, 1.0, 0.0]))


def test_one_column_may_have_empty_cells(tmp_path):
    (tmp_path / "t.csv").write_text("v\n1.5\n\n2.5\n-1\n\n\n")
    assert data.load(tmp_path / "t.csv").table.split().x.flatten().isnan().tolist() == [False, True, False, False]


def test_quoted_lines_latin_1_and_huge_numbers(tmp_path):
    path = tmp_path / "t.csv"
    path.write_bytes('name,n\n"Köln,\nam Rhein",1.5\nUlm,2.5\nUlm,123456789012345678901234567890\n'.encode("cp1252"))
    with pytest.warns(UserWarning, match="no UTF-8 .* read as Latin-1"):
        loaded = data.load(path)
    assert loaded.schema["name"].categories == ("Köln,\nam Rhein", "Ulm")
    assert loaded.schema.encode(loaded.table.frame)[2, 1] == pytest.approx(1.2345679e29)
    path.write_text("name,n\nUlm,1e300\nUlm,2\nBonn,3\n")
    with pytest.raises(InputError, match=r"below 3.4e\+38; got a larger one in column 'n' of t.csv, row 1"):
        data.load(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "an empty file"),
        ("a,b\n", "at least one row"),
        ("a,b\n1,x\n", "at least 3 rows"),
        ("a,b\n1,x\n2\n3,y\n", "2 cells in each line .* got 1 in line 3"),
        ("a,b\n1,x\n2,y,z\n3,y\n", "Expected 2 cells in each line .*; got 3 in line 3"),
        ('a,b\n1,"x\n\ny"\n2,y,z\n', "got 3 in line 5"),
        ('a,b\n1,"x\n2,y\n', "cannot be read"),
        ("a,b,a\n1,2,3\n4,5,6\n7,8,9\n", "got 'a' for columns 1, 3. Rename"),
        ("a,b\ninf,1.5\ninf,2.5\ninf,3.5\n", "finite numbers in column 'a'"),
        ("a\0b\n1\n2\n3\n", "zero bytes"),
        ("# of 2021\na,b\n1,x\n2,y\n3,y\n", "Expected 1 cell in .*in line 2 .*Leave out what stands above the names"),
        ("a b\n1.5 x\n2.5 y\n3.5 x\n" + "".join(f"{i} x\n" for i in range(20)), "Separate cells by a comma or a tab"),
    ],
)
def test_files_that_are_no_tables_are_refused_in_a_sentence(tmp_path, text, message):
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(InputError, match=message):
        data.load(tmp_path / "t.csv")


def test_a_file_without_names_is_said_to_have_none(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("1,0.5\n2,0.25\n3,-1\n4,2\n")
    with pytest.warns(UserWarning, match="named 1 to 2"):
        loaded = data.load(path)
    assert list(loaded.schema.to_json()) == ["1", "2"] and len(loaded.table) == 4
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a run reads it again without a word
        again = data.load(path, **loaded.options)
    assert again.fingerprints() == loaded.fingerprints()
    path.write_text("2019,2020\n1,0.5\n2,0.25\n3,-1\n")
    assert len(data.load(path, schema={"2020": "real", "2019": "real"}).table) == 3


def test_a_line_of_cells_is_none_of_names(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("1.5,m,Ann\n2.5,f,Bob\n3.5,m,Cid\n4.5,f,Dan\n")
    with pytest.warns(UserWarning, match="numbers and words that are cells of other lines, .* named 1 to 3"):
        assert len(data.load(path).table) == 4
    path.write_text("no,yes\nno,no\nyes,yes\nno,yes\nyes,no\n")
    with pytest.warns(UserWarning, match="holds words that are cells of other lines"):
        assert len(data.load(path).table) == 5
    path.write_text("land,2019,2020\n" + "".join(f"{x},{i}.5,{i}\n" for i, x in enumerate("abac")))
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        assert list(data.load(path).schema.to_json()) == ["land", "2019", "2020"]
    path.write_text("w,v\nx,y\ny,y\nw,v\nx,x\n")  # the names again, as of files one below the other
    assert len(data.load(path).table) == 4


def test_an_index_with_a_name_is_a_column(tmp_path):
    frame = pd.DataFrame({"a": REAL[:40], "b": ["x", "y"] * 20}, index=pd.Index(range(40), name="number"))
    frame.to_parquet(tmp_path / "t.parquet")
    for given in (frame, tmp_path / "t.parquet"):
        with pytest.warns(UserWarning, match="'number' .* is left out .* an identifier"):
            assert list(data.load(given).schema.to_json()) == ["number", "a", "b"]


def test_what_is_left_out_is_said_and_kept(tmp_path):
    frame = pd.DataFrame({"id": range(100, 130), "v": rng.normal(size=30), "site": "A", "never": np.nan})
    with pytest.warns(UserWarning) as said:
        loaded = data.load(frame)
    words = " ".join(str(each.message) for each in said)
    for name, why in (("'id'", "identifier"), ("'site'", "constant: A"), ("'never'", "never observed")):
        assert f"Column {name} of the pandas table is left out of the model: " in words and why in words
    assert loaded.event_shape == (1,)
    assert loaded.understood == "30 rows, 4 columns: 1 real, 3 left out; 0.0% missing"


def test_options_of_a_loaded_table_load_the_same_whatever_categories_there_are(tmp_path):
    path = tmp_path / "t.csv"
    cells = rng.choice(["b", "c"], N)
    pd.DataFrame({"v": REAL, "w": cells}).to_csv(path, index=False)
    first = data.load(path, missing=0.2)
    options = json.loads(json.dumps(first.options))
    assert data.load(path, **options).fingerprints() == first.fingerprints()
    pd.DataFrame({"v": [*REAL, "1"], "w": [*cells, "a"]}).to_csv(path, index=False)
    with pytest.raises(InputError, match="got 'a' in row 61"):
        data.load(path, **options)
    cells[cells == "c"] = "b"
    pd.DataFrame({"v": REAL, "w": [*cells[:-1], "c"]}).to_csv(path, index=False)
    assert data.load(path, **options).schema == first.schema


def test_labels_are_classes_by_name():
    frame = pd.DataFrame({"v": REAL, "w": ["b", "a", None] * 20, "digit": [0, 2, 4] * 20})
    loaded = data.load(frame, label="w")
    assert loaded.classes == ("a", "b") and loaded.num_classes == 2 and loaded.event_shape == (2,)
    y = torch.cat([part.y for part in (loaded.train, loaded.validation, loaded.test)])
    assert y.unique().tolist() == [-1, 0, 1] and loaded.train.partly_labelled
    assert data.load(frame, label="digit").classes == ("0", "2", "4")
    assert loaded.changed(label="digit").num_classes == 3
    assert loaded.as_stored().label == "w"
    with pytest.raises(InputError, match="Unknown column 'wrong'"):
        data.load(frame, label="wrong")
    with pytest.raises(InputError, match="never observed"):
        data.load(frame.assign(n=None), label="n")


def mixed():
    """A table of every type, with holes."""
    types = {"r": "real", "p": "positive", "n": "count", "t": ["False", "True"], "w": ["a", "b", "c"]}
    frame = pd.DataFrame({
        "r": [0.5, None, -2.0, 1.25], "p": [1.5, 2.5, None, 0.25], "n": [3, 0, None, 7], "t": [True, None, False, True],
        "w": ["c", "a", "b", None], "left": list("wxyz"),
    })  # fmt: skip
    named = {
        k: {"type": "categorical" if len(v) > 2 else "binary", "categories": v} for k, v in types.items() if k in "tw"
    }
    return frame, Schema.of(types | named | {"left": "left out"})


@pytest.mark.parametrize("kind", ["pandas", "nullable", "polars", "arrow", *SUFFIXES])
def test_the_same_numbers_from_any_container(tmp_path, kind):
    frame, schema = mixed()
    expected = schema.encode(frame)
    if kind == "polars":
        given = pytest.importorskip("polars").from_pandas(frame)
    elif kind == "arrow":
        given = pytest.importorskip("pyarrow").Table.from_pandas(frame)
    elif kind in SUFFIXES:
        if kind not in (".csv", ".tsv"):
            pytest.importorskip("pyarrow")
        given = tmp_path / f"t{kind}"
        write_frame(given, frame)
    else:
        given = frame.convert_dtypes() if kind == "nullable" else frame
    table = new_rows(given, schema)
    torch.testing.assert_close(table.split().x, expected, equal_nan=True)
    found = read_table(given, schema={"t": "binary"}).schema
    assert [column.type for column in found.columns][3:5] == ["binary", "categorical"]


def test_polars_and_its_kinds_of_columns():
    polars = pytest.importorskip("polars")
    frame = polars.DataFrame({
        "e": polars.Series(["lo", "hi", None, "lo"], dtype=polars.Enum(["lo", "hi"])), "n": [1, None, 3, 2**40],
        "d": polars.Series([None, 1, 2, 3], dtype=polars.Date), "f": [0.5, float("nan"), None, -1.0],
    })  # fmt: skip
    with pytest.warns(UserWarning, match="dates"):
        table = read_table(frame)
    assert table.schema["e"].categories == ("lo", "hi") and table.schema["d"].why.startswith("dates")
    assert table.split().x.isnan().sum(0).tolist() == [1, 1, 2]
    with pytest.raises(InputError, match="collect"):
        data.load(frame.lazy())


@pytest.mark.parametrize("kind", ["pandas", "polars"])
def test_fit_takes_frames_of_numbers_and_names_the_words(kind):
    from ppl_vae.guides import MeanField
    from ppl_vae.models import VAE

    import ppl_vae
    from ppl_vae import likelihoods

    frame = pd.DataFrame({"a": [0.5, None, -2.0, 1.25], "n": [1, 2, 3, 4], "w": list("xyxy")})
    make = pytest.importorskip("polars").from_pandas if kind == "polars" else (lambda frame: frame)
    model = VAE((2,), likelihood=likelihoods.Gaussian())
    guide = MeanField(model)
    ppl_vae.fit(model, guide, make(frame[["a", "n"]]), epochs=1, progress=False)
    assert ppl_vae.impute(model, guide, make(frame[["a", "n"]]), num_samples=20).x.isnan().sum() == 1
    with pytest.raises(InputError, match=r"columns w without. Encode .* table.schema.encode\(frame\)"):
        ppl_vae.fit(model, guide, make(frame), epochs=1, progress=False)


@pytest.mark.parametrize("numbers", [np.zeros((5, 2)), torch.zeros(5, 2), pd.Series([1.0, 2.0])])
def test_numbers_are_no_name_of_data(numbers):
    with pytest.raises(InputError, match=r"got (ndarray|Tensor|Series)\. .* make a table of them: pandas.DataFrame"):
        data.load(numbers)


def test_frames_come_back_from_numbers():
    frame, schema = mixed()
    again = schema.to_frame(schema.encode(frame))
    pd.testing.assert_frame_equal(again, frame.drop(columns="left"), check_dtype=False)
    x = torch.tensor([[0.1234567, 0.5, 2.6, 0.9, 1.4], [1e-7, 1e9, -3.0, -0.2, 7.0]])
    rounded = schema.to_frame(x)
    assert rounded["r"].tolist() == [0.123457, 1e-07] and rounded["n"].tolist() == [3, 0]
    assert rounded["t"].tolist() == [True, False] and rounded["w"].tolist() == ["b", "c"]
    with pytest.raises(InputError, match=r"x \[N, 5\]"):
        schema.to_frame(x[:, :2])


def test_cells_that_are_observed_stay_as_they_were_written(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text('id,v,n,w\nx1,1.50,007,"b, c"\nx2,NA,,a\nx3,2e0,3,?\nx4,0.1,9,a\n')
    schema = Schema.of(
        {"id": "left out", "v": "real", "n": "count", "w": {"type": "binary", "categories": ["a", "b, c"]}}
    )
    table = new_rows(path, schema)
    filled = completed_frame(table.frame, schema, torch.full((4, 3), 1.0), table.split().x.isnan())
    write_frame(path, filled)
    assert path.read_text() == 'id,v,n,w\nx1,1.50,007,"b, c"\nx2,1,1,a\nx3,2e0,3,"b, c"\nx4,0.1,9,a\n'
    frame, schema = mixed()
    filled = completed_frame(frame, schema, torch.ones(4, 5), schema.encode(frame).isnan())
    assert filled.dtypes.tolist()[:3] == frame.dtypes.tolist()[:3] and filled.isna().sum().sum() == 0


def test_new_rows_that_do_not_fit_are_refused():
    frame, schema = mixed()
    with pytest.raises(InputError, match=r"a column 'p' in the table; got none \(nor 'w'\)"):
        schema.encode(frame.drop(columns=["p", "w"]))
    with pytest.raises(InputError, match="column 'w' of the table; got 'd' in row 2 \\(and 1 more\\)"):
        schema.encode(frame.assign(w=["a", "d", "e", "b"]))
    assert schema.encode(frame[reversed(frame.columns)].drop(columns="left")).shape == (4, 5)


@pytest.mark.parametrize("option", [{"binarize": "threshold"}, {"dequantize": "uniform"}, {"strings": 2}])
def test_options_of_pictures_are_refused(option):
    with pytest.raises(InputError, match="of pictures; got a table"):
        data.load(mixed()[0], **option)
    for option in ({"schema": {}}, {"label": "a"}):
        with pytest.raises(InputError, match="Expected a table"):
            data.load("digits", **option)


def test_pyarrow_is_named_where_it_is_not_there(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    (tmp_path / "t.parquet").write_bytes(b"PAR1")
    with pytest.raises(InputError, match=r"pip install \"ppl-vae\[tables\]\""):
        read_frame(tmp_path / "t.parquet")
