"""How every result reads as a notebook cell's last line: short, aligned, with units, as text and as HTML."""

import re
from functools import partial
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
from ppl_vae.guides import Conditional, MeanField
from ppl_vae.guides import LinearGaussian as Posterior
from ppl_vae.guides import QuantileMap as QuantileGuide
from ppl_vae.models import CVAE, VAE, LinearGaussian, QuantileMap

import ppl_vae
from ppl_vae import data, networks, priors
from ppl_vae.criticism.quadrature import quadrature
from ppl_vae.utils.report import Mean, Report, Reported

LINES, COLUMNS = 25, 120
NO_HTML = {"curve", "check_bound", "split", "mean", "doubt"}  # one line, or a few, in a notebook too
NO_UNITS = {
    "parts",
    "data",
    "split",
    "doubt",
    "mean",
    "answers",
    "real",
    "imputation",
    "encoding",
}  # of pixels, counts and words


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    digits, net = data.load("digits"), partial(networks.MLP, hidden=(8,))
    model = VAE(digits.event_shape, priors.StandardNormal(2), decoder=net)
    guide, few = MeanField(model, encoder=net), digits.test[:12]
    quiet = {"progress": False}
    evidence = ppl_vae.estimate_evidence(model, guide, few, method="importance", num_samples=30, **quiet)
    auto = ppl_vae.estimate_evidence(model, guide, few, num_samples=30, **quiet)
    short = {"num_temperatures": 4, "num_chains": 2, "num_leapfrog": 2, "num_samples": 30}
    sandwich = ppl_vae.estimate_evidence(model, guide, few[:3], method="sandwich", **short, **quiet)
    fitted = ppl_vae.fit(model, guide, digits.train[:100], epochs=30, **quiet)
    incomplete = data.load("digits", missing=0.3).test[:5]
    conditional = CVAE((1, 8, 8))
    many = ppl_vae.measure_one_to_many(
        conditional, Conditional(conditional), digits.test, num_samples=30, num_data=5, num_answers=2, **quiet
    )
    curve, linear = QuantileMap(sigma=0.1), LinearGaussian((4,), latent_dim=2)
    settings = {"fit.epochs": 1, "decoder.hidden": (8,), "encoder.hidden": (8,)}
    folder = tmp_path_factory.mktemp("<b>runs & more")
    run = ppl_vae.train("vae", settings=settings, method="importance", num_samples=30, out=folder / "r", **quiet)
    return {
        "evidence": evidence,
        "auto evidence": auto,
        "interval": auto.interval(),
        "sandwich evidence": sandwich,
        "sandwich": sandwich.sandwich,
        "curve": evidence.curve,
        "mean": evidence.means()["log_px"],
        "doubt": sandwich.doubts()[0] if sandwich.doubts() else "",
        "comparison": ppl_vae.compare({"<b>one & only": evidence, "two": evidence}),
        "difference": ppl_vae.explain_difference(
            (model, guide),
            (model, guide),
            data=few,
            names=("<b>one & only", "two"),
            method="importance",
            num_samples=30,
            **quiet,
        ),
        "gap": ppl_vae.explain_gap(model, guide, few, num_steps=2, num_samples=30, **quiet),
        "latent use": ppl_vae.latent_use(model, guide, few, num_samples=10, **quiet),
        "calibration": ppl_vae.calibrate(model, guide, few, num_simulated=30, num_samples=30, **quiet),
        "imputation": ppl_vae.impute(model, guide, incomplete, num_samples=30, **quiet),
        "encoding": ppl_vae.encode(model, guide, few, **quiet),
        "scores": ppl_vae.score(run, data=few.x, method="importance", num_samples=30, **quiet),
        "check_bound": ppl_vae.check_bound(linear, Posterior(linear), linear(size=5).detach(), **quiet),
        "quadrature": quadrature(curve, QuantileGuide(curve), curve(size=5).detach()),
        "one to many": many,
        "answers": many.model.means,
        "real": many.real,
        "history": fitted.history,
        "run": run,
        "parts": ppl_vae.list_parts("prior"),
        "data": digits,
        "split": digits.test,
    }


NAMES = (
    "evidence", "auto evidence", "interval", "sandwich evidence", "sandwich", "curve", "mean", "doubt", "comparison",
    "difference", "gap", "latent use", "calibration", "imputation", "encoding", "scores", "check_bound", "quadrature",
    "one to many", "answers", "real", "history", "run", "parts", "data", "split",
)  # fmt: skip


class Tags(HTMLParser):
    """Which elements are open; an error where one is closed that is not."""

    def __init__(self):
        super().__init__()
        self.open, self.seen = [], []

    def handle_starttag(self, tag, attrs):
        if tag not in ("br", "hr", "img"):
            self.open.append(tag)
        self.seen.append(tag)

    def handle_endtag(self, tag):
        assert self.open and self.open[-1] == tag, f"</{tag}> after {self.open}"
        self.open.pop()


@pytest.mark.parametrize("name", NAMES)
def test_as_text(results, name):
    text = repr(results[name])
    lines = text.splitlines()
    assert len(lines) <= LINES + 5 * (name == "parts"), text
    assert max(map(len, lines)) <= COLUMNS, text
    assert not re.search(r"array\(|tensor\(|object at 0x|\bNaN\b|\bnan\b|dtype=", text), text
    assert "nats" in text or name in NO_UNITS


@pytest.mark.parametrize("name", [name for name in NAMES if name not in NO_HTML])
def test_as_html(results, name):
    html = results[name]._repr_html_()
    tags = Tags()
    tags.feed(html)
    tags.close()
    assert tags.open == [] and "table" in tags.seen
    assert "b" not in tags.seen  # the names of a model and of a folder are no HTML
    assert "nats" in html or name in NO_UNITS


def test_all_results_are_tried(results):
    def below(cls):
        return {cls, *(c for sub in cls.__subclasses__() for c in below(sub))}

    tried = {type(one) for one in results.values()}
    ours = {cls for cls in below(Reported) - {Reported} if cls.__module__.startswith("ppl_vae.")}
    assert {cls.__name__ for cls in ours - tried} <= {"Fit"}  # whose test stands with fitting


def test_headings_say_of_how_many(results):
    for name, words in (
        ("evidence", "of 12 data by importance sampling, K = 30 samples"),
        ("auto evidence", "of 12 data, K = 30 samples, each by what it needs"),
        ("comparison", "of 12 data by 2 models, one run of each; importance, K = 30 samples"),
        ("gap", "of 12 data explained"),
        ("latent use", "on 12 data, K = 10 samples"),
        ("calibration", "on 30 (z, x) drawn from the model, K = 30 draws"),
        ("imputation", "of 5 data imputed, K = 30 samples, 10 draws"),
        ("quadrature", "of 5 data by quadrature"),
        ("answers", "2 answers to each of 5 conditions"),
        ("history", "30 epochs"),
        ("run", "seed 0"),
    ):
        assert words in repr(results[name])


def test_a_part_of_a_table_is_one_of_pandas(results):
    parts = results["parts"]
    assert type(parts[["name"]]) is pd.DataFrame and "standard_normal" in repr(parts[["name"]])
    assert parts.set_index("name").options["mixture"]
    assert repr(results["quadrature"].log_px) and isinstance(results["quadrature"], tuple)
    assert isinstance(results["check_bound"], str) and results["check_bound"].startswith("ELBO -")
    assert np.isfinite(results["history"].train_elbo).all()


def test_a_run_before_its_end_and_with_a_broken_file(results):
    run = ppl_vae.load(results["run"].path)
    assert "log P(x) of 300 data" in repr(run)
    (run.path / "evidence.nc").write_bytes(b"broken")
    assert "Make it anew, by ppl_vae.evaluate" in " ".join(repr(run).split())
    (run.path / "evidence.nc").unlink()
    assert "no estimate of log P(x) yet" in repr(run)
    run.config = {key: value for key, value in run.config.items() if key != "result"}
    assert "not trained yet" in repr(run)


def test_small_and_odd_numbers():
    rows = [("KL", Mean(3e-5, 1e-5, float("nan")), "nats"), ("none", Mean(0.0, 0.0, 0.0), "nats")]
    assert "3e-05" in str(Report("h", rows)) and "0.000" in str(Report("h", rows))
    assert Report("<b>").html().count("<b>") == 0
