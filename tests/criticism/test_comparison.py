"""Models compared by several seeds: errors by hand and by simulation; what is in doubt, or not the same data."""

import warnings
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from ppl_vae.guides import MeanField
from ppl_vae.models import VAE
from scipy import stats

from ppl_vae import InputError, compare, estimate_evidence
from ppl_vae.criticism.comparison import Comparison, Model, combined_error
from ppl_vae.evidence.evidence import Evidence
from ppl_vae.networks import MLP

FALSE_ALARM = 1e-6


def evidence_of(log_px, **changed):
    count = len(log_px)
    numbers = {"draws": 100.0, "khat": 0.1, "bias": 0.0}
    own = {name: np.full(count, value) for name, value in numbers.items()} | {"log_px_psis": log_px}
    usual = dict(
        log_px=log_px, elbo=log_px - 1, mcse=np.full(count, 0.01), elbo_mcse=np.full(count, 0.01),
        ess=np.full(count, 90.0), num_samples=100, proposal="guide", event_size=10.0, fingerprint="numbers:f", seed=0,
        scored="probability", diagnostics=own,
    )  # fmt: skip
    return Evidence(**usual | changed)


class Truth:
    """Runs of models on the same N data: mu + a_s + b_n + e_sn, with these standard deviations."""

    def __init__(self, num_data=100, luck=0.05, rest=0.3):
        self.rng = np.random.default_rng(torch.randint(2**31, ()).item())
        self.num_data, self.luck, self.rest = num_data, luck, rest
        self.data = self.rng.normal(-20, 3, num_data)

    def log_px(self, count, mean=0.0):
        luck = self.rng.normal(0, self.luck, (count, 1)) if self.luck else 0.0
        return mean + self.data + luck + self.rng.normal(0, self.rest, (count, self.num_data))

    def runs(self, count, mean=0.0):
        return [evidence_of(row) for row in self.log_px(count, mean)]


def test_errors_by_hand():
    """Three runs of one model and two of another on two data, the analysis of variance written out."""
    a, b = np.array([[-1.0, -3.0], [-2.0, -5.0], [-1.5, -2.5]]), np.array([[-4.0, -4.0], [-3.0, -6.0]])
    table = compare({"a": [evidence_of(row) for row in a], "b": [evidence_of(row) for row in b]})
    assert list(table.index) == ["a", "b"] and list(table["num_runs"]) == [3, 2]
    means = {"a": [-2.0, -3.5, -2.0], "b": [-4.0, -4.5]}
    luck = {}
    for name, each in (("a", a), ("b", b)):
        assert table.loc[name, "log_px"] == pytest.approx(np.mean(means[name]))
        assert table.loc[name, "run_sd"] == pytest.approx(np.std(means[name], ddof=1))
        rest = sum(
            (each[s, n] - each[s].mean() - each[:, n].mean() + each.mean()) ** 2
            for s in range(len(each)) for n in range(2)
        ) / (len(each) - 1)  # fmt: skip
        luck[name] = max(0, np.var(means[name], ddof=1) - rest / 2)
    by_datum = a.mean(0) - b.mean(0)
    over_data = (by_datum[0] - by_datum[1]) ** 2 / 2 / 2
    assert table.loc["b", "log_px_diff"] == pytest.approx(by_datum.mean())
    assert table.loc["b", "dse"] == pytest.approx(np.sqrt(over_data + luck["a"] / 3 + luck["b"] / 2))
    of_a = a.mean(0)
    assert table.loc["a", "se"] == pytest.approx(np.sqrt((of_a[0] - of_a[1]) ** 2 / 4 + luck["a"] / 3))
    assert table.loc["a", "mcse"] == pytest.approx(0.01 / np.sqrt(3 * 2))


@pytest.mark.parametrize(
    ("runs", "num_data", "luck", "rest"),
    [((5, 5), 50, 0.05, 0.3), ((5, 5), 300, 0.05, 0.3), ((3, 8), 50, 0.2, 0.1), ((5, 5), 50, 0.0, 0.3),
     ((2, 2), 100, 0.1, 0.3), ((5, 1), 100, 0.1, 0.3)],
)  # fmt: skip
def test_seeds_of_one_model_are_rarely_called_different(runs, num_data, luck, rest):
    """A difference beyond the 5% quantile of its t comes in 3 to 9 of 100 cases, as tried with 1,500 of each kind."""
    called, before, count = 0, 0, 400
    for _ in range(count):
        truth = Truth(num_data, luck, rest)
        models = [
            Model("m", [SimpleNamespace(log_px=row, mcse=0 * row) for row in truth.log_px(each)]) for each in runs
        ]
        difference = models[0].log_px - models[1].log_px
        error, dof = combined_error(difference, models, models)
        called += abs(difference.mean()) > stats.t.isf(0.025, dof) * error
        before += abs(difference.mean()) > 2 * difference.std(ddof=1) / np.sqrt(num_data)
    assert called <= stats.binom.isf(FALSE_ALARM, count, 0.10)
    if luck:  # the error over data alone is too small, which the test must be able to see
        assert before > stats.binom.isf(FALSE_ALARM, count, 0.10)


def test_a_difference_that_is_there_is_found():
    truth = Truth()
    table = compare({"good": truth.runs(5), "bad": truth.runs(5, mean=-1.0)})
    assert list(table.index) == ["good", "bad"]
    assert "bad is below good" in repr(table) and "more than the" in repr(table)
    assert abs(table.loc["bad", "log_px_diff"] - 1) < 10 * table.loc["bad", "dse"]


def test_equal_estimates_are_said_to_be_equal():
    (run,) = Truth().runs(1)
    assert "b gives each datum the log P(x) of a." in repr(compare({"a": run, "b": replace(run, seed=1)}))


def test_five_seeds_apart_and_as_one_model():
    runs = Truth().runs(5)
    apart = repr(compare({f"seed {i}": run for i, run in enumerate(runs)}))
    assert "5 models, one run of each" in apart and "One run each: luck in training is not in these errors" in apart
    assert "no probability" in " ".join(apart.split()) and "seeds=5" in apart
    together = compare({"vae": runs})
    assert list(together.index) == ["vae"] and together.loc["vae", "weight"] == 1
    text = repr(together)
    assert "1 model, 5 runs (seeds) of each" in text and "One run each" not in text and "run_sd" in text
    assert "run_sd" not in apart


def test_weights_are_means_over_picks():
    """Each of two runs of one model is the better one once: half of the mixture, not all of it."""
    steps = np.linspace(-1, 1, 10)
    low, high = evidence_of(-10 + steps), evidence_of(-9 + steps)
    table = compare({"a": [low, high], "b": [replace(high, seed=1), replace(low, seed=1)]})
    np.testing.assert_allclose(table["weight"], [0.5, 0.5], atol=1e-4)


def test_one_run_of_one_model_has_the_luck_of_the_others():
    truth = Truth(luck=0.5)
    several, single = truth.runs(5), truth.runs(1)
    table = compare({"several": several, "single": single})
    best, other = (Model(name, {"several": several, "single": single}[name]) for name in table.index)
    difference = best.log_px - other.log_px
    luck = Model("several", several).luck
    error = np.sqrt(difference.var(ddof=1) / 100 + luck / 5 + luck)
    assert table.loc[other.name, "dse"] == pytest.approx(error)
    assert "One run of single: luck in training is taken to be as large as that of the others." in repr(table)


def test_doubts_are_carried():
    truth = Truth()
    good, bad = truth.runs(1)[0], truth.runs(1)[0]
    bad.log_px[:3] -= 100  # these three alone make it the worse one
    bad.ess[:3], bad.mcse[:3] = 2, 0.1
    table = compare({"good": good, "bad": bad})
    assert dict(table["warning"]) == {"good": False, "bad": True}
    without = (good.log_px - bad.log_px)[3:].mean()
    text = " ".join(repr(table).split())
    assert "bad: 3 of 100 data are in doubt" in text
    assert f"without data in doubt it is {without:.3f} nats below good" in text
    bad.ess[:60], bad.mcse[:60] = 2, 0.5
    assert "its rank rests on numbers that are not to be believed" in " ".join(
        repr(compare({"g": good, "b": bad})).split()
    )
    few = evidence_of(good.log_px, num_samples=2, diagnostics=good.diagnostics)
    table = compare({"few": few})
    assert table.loc["few", "warning"] and "few: Cannot be judged" in repr(table)


def test_what_cannot_be():
    truth = Truth()
    possible, once, twice = (run for _ in range(3) for run in truth.runs(1))
    once.log_px[3] = once.elbo[3] = -np.inf
    twice.log_px[3:5] = twice.elbo[3:5] = -np.inf
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        table = compare({"twice": twice, "once": once, "possible": possible})
        text = repr(table)
    assert table.index[0] == "possible" and np.isneginf(table.loc["once", "log_px"])
    assert "once gives probability 0 to 1 of the data, possible to 0" in text
    np.testing.assert_allclose(table["weight"].sum(), 1)


def test_one_datum_and_what_is_exact():
    one = compare({"a": evidence_of(np.array([-1.0])), "b": evidence_of(np.array([-2.0]))})
    assert np.isnan(one.loc["b", "dse"]) and "for the one datum: no error is known" in repr(one)
    exact = [evidence_of(np.linspace(-2, -1, 9) - i, is_exact=True, mcse=np.zeros(9), num_samples=1) for i in (0, 1)]
    table = compare({"a": exact[0], "b": exact[1]})
    assert list(table["mcse"]) == [0, 0] and table.loc["b", "dse"] == pytest.approx(0, abs=1e-12)
    assert not table["warning"].any()


def test_a_table_that_reads_well_and_is_one_of_pandas():
    truth = Truth()
    names = ["<b>&", "a name that is far too long for one column of a table"]
    table = compare({name: truth.runs(3, mean=1.0) for name in names} | {f"m{i}": truth.runs(1) for i in range(15)})
    lines = repr(table).splitlines()
    assert lines[0].startswith("log P(x) of 100 data by 17 models, 1 to 3 runs (seeds) of each") and len(lines) < 30
    assert max(map(len, lines)) <= 120
    html = table._repr_html_()
    assert "<b>&" not in html and "&lt;b&gt;&amp;" in html
    part = table[["log_px", "dse"]].round(2)
    assert isinstance(part, Comparison) and "of 100 data" in repr(part) and "mcse" not in repr(part).splitlines()[1]
    assert "se" in table.to_string() and float((table.log_px_diff / table.dse).max()) > 0
    assert type(pd.DataFrame(table)) is pd.DataFrame and "headline" not in repr(table.groupby("method").mean(True))
    assert repr(Comparison({"a": [1]})) == repr(pd.DataFrame({"a": [1]}))


def test_what_is_refused():
    truth = Truth()
    a, b = truth.runs(2)
    for models, message in (
        ({"a": []}, "Expected evidence for 'a'; got an empty list"),
        ({"a": [a, 3]}, "Expected evidence for 'a'; got int"),
        ({"a": [a, a]}, "different seeds for 'a'"),
        ({"a": a, "b": replace(b, fingerprint="numbers:g")}, "on 100 data and 'b' on 100 others"),
        ({"a": a, "b": replace(b, fingerprint="g")}, "'b', kept by an older version"),
        ({"a": a, "b": evidence_of(b.log_px[:9], fingerprint="numbers:h")}, "on 100 data and 'b' on 9. "),
        ({"a": [a, replace(b, quantity="log P(x | y)")]}, "one quantity"),
    ):
        with pytest.raises(InputError, match=message):
            compare(models)
    with pytest.raises(InputError, match=r"'vae': \[e1, e2\]"):
        compare([a, b])
    old = [replace(run, fingerprint="f") for run in (a, b)]
    assert len(compare({"a": old[0], "b": old[1]})) == 2


def test_the_same_numbers_in_another_shape_and_dtype_are_the_same_data(digits):
    images = digits.test.x[:40]
    found = {}
    for name, x in (
        ("images", images), ("vectors", images.reshape(40, 64)), ("doubles", images.double().numpy()),
        ("negative zeros", torch.where(images == 0, -0.0, images)), ("a split", digits.test[:40]),
    ):  # fmt: skip
        model = VAE(
            torch.Size(x.shape[1:]) if name != "a split" else digits.event_shape, decoder=lambda i, o: MLP(i, o, (8,))
        )
        guide = MeanField(model, encoder=lambda i, o: MLP(i, o, (8,)))
        found[name] = estimate_evidence(model, guide, x, num_samples=2, progress=False)
    assert len({one.fingerprint for one in found.values()}) == 1
    assert len(compare(found)) == 5
    model = VAE((64,), decoder=lambda i, o: MLP(i, o, (8,)))
    other = estimate_evidence(model, MeanField(model), 1 - images.reshape(40, 64), num_samples=2, progress=False)
    with pytest.raises(InputError, match="same data"):
        compare(found | {"other": other})
