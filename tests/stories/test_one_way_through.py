"""One command goes one way: the pair is made once, the data are loaded, looked through and checked once."""

import functools
from collections import Counter

import pytest
import torch
from ppl_vae.guides import MeanField
from ppl_vae.models import VAE

import ppl_vae
from ppl_vae.data import checks, named
from ppl_vae.evidence.evidence import Evidence
from ppl_vae.fitting.checkpoint import RunFolder

SMALL = {"prior.latent_dim": 2, "decoder.hidden": 8, "encoder.hidden": 8, "fit.epochs": 1, "fit.compile": False}
TRAIN, VALIDATION, TEST = 1297, 200, 300
READS = ("read_json", "read_best")


@pytest.fixture
def counts(monkeypatch):
    """Count what is made, loaded, looked through, and read back."""
    counts = Counter()

    def count(owner, name, label=lambda *arguments: None):
        plain = getattr(owner, name)

        @functools.wraps(plain)
        def counted(*arguments, **options):
            counts[label(*arguments) or name] += 1
            return plain(*arguments, **options)

        monkeypatch.setattr(owner, name, counted)

    count(VAE, "__init__", lambda *_: "models")
    count(MeanField, "__init__", lambda *_: "guides")
    loader, *others = named.NAMED["digits"]
    monkeypatch.setitem(named.NAMED, "digits", (lambda: counts.update(["data sets"]) or loader(), *others))
    load = Evidence.load
    monkeypatch.setattr(Evidence, "load", lambda path: counts.update(["evidence.nc"]) or load(path))
    for name in READS:
        count(RunFolder, name)
    count(checks, "find_holes", lambda source: "again" if source.holes is not None else f"scans of {len(source)}")
    look = checks.check_supports

    def look_counted(pair, trace, args, source):
        before = len(source.inside)
        look(pair, trace, args, source)
        counts[f"checks of {len(source)}"] += len(source.inside) - before

    monkeypatch.setattr(checks, "check_supports", look_counted)
    return counts


@pytest.mark.parametrize("likelihood", ["bernoulli", "gaussian"])  # of which one wants data in other clothes
def test_train_and_evaluate_do_each_thing_once(counts, tmp_path, likelihood):
    run = ppl_vae.train("vae", likelihood=likelihood, settings=SMALL, out=tmp_path / "r", num_samples=20)
    assert run.data().binarize == ("dynamic" if likelihood == "bernoulli" else None)
    assert len(run.evidence) == TEST
    each = {f"{what} of {size}": 1 for what in ("scans", "checks") for size in (TRAIN, VALIDATION, TEST)}
    assert dict(counts) | {"again": 0} == {"models": 1, "guides": 1, "data sets": 1, "again": 0} | each

    counts.clear()
    again = ppl_vae.evaluate(tmp_path / "r", num_samples=20)
    each = {f"scans of {TEST}": 1, f"checks of {TEST}": 1, "read_json": 1, "read_best": 1}
    assert dict(counts) == {"models": 1, "guides": 1, "data sets": 1, "evidence.nc": 1} | each
    assert (again.log_px == run.evidence.log_px).all()  # in memory or from the folder, the same


def test_a_run_in_memory_is_the_one_in_its_folder(tmp_path):
    run = ppl_vae.train("vae", settings=SMALL, out=tmp_path / "r", num_samples=20)
    loaded = ppl_vae.load(tmp_path / "r")
    assert loaded.recipe.to_json() == run.recipe.to_json()
    assert {key: loaded.config[key] for key in run.config} == run.config
    for name, values in vars(run.history).items():
        assert (values == getattr(loaded.history, name)).all()
    for role in ("model", "guide"):
        state = getattr(loaded, role).state_dict()
        assert all(torch.equal(value, state[name]) for name, value in getattr(run, role).state_dict().items())
        assert not getattr(run, role).training
    more = ppl_vae.evaluate(tmp_path / "r", num_samples=30)
    assert run.evidence.num_samples == more.num_samples == 30  # what was held is not believed over the file
    said = []
    ppl_vae.evaluate(tmp_path / "r", method="importance", num_samples=50, on_kept=said.append)
    assert "from more work" in said[0] and run.evidence.method == "auto"  # which no importance sampling replaces
    quick = ppl_vae.train("vae", settings=SMALL, out=tmp_path / "quick", num_samples=30, method="importance")
    assert quick.evidence.method == "importance"


def test_a_recipe_says_everything(tmp_path):
    recipe = ppl_vae.train("vae", settings=SMALL, out=tmp_path / "r", num_samples=20).recipe
    assert {kind: recipe.build[kind] for kind in ("prior", "likelihood", "decoder", "encoder")} == {
        "prior": "standard_normal", "likelihood": "bernoulli", "decoder": "mlp", "encoder": "mlp",
    }  # fmt: skip
    assert recipe.build["settings"] == {
        "prior.latent_dim": 2, "decoder.hidden": 8, "decoder.activation": "relu", "encoder.hidden": 8,
        "encoder.activation": "relu",
    }  # fmt: skip
    assert recipe.data["binarize"] == "dynamic" and recipe.data["missing"] is None
    assert (recipe.fit["batch_size"], recipe.fit["epochs"], recipe.fit["schedule"]) == (100, 1, "cosine")
    assert "compile" not in recipe.fit  # the same weights, sooner
    command = dict(settings=SMALL | {"data.missing": None, "fit.batch_size": 100}, likelihood="bernoulli")
    ppl_vae.train("vae", **command, out=tmp_path / "r", resume=True, num_samples=20)  # the same run, said at length
