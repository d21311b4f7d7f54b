"""Models compared by log P(x) on the same data, datum by datum, each by one run or by runs of several seeds.

log P_s(x_n) of run s, s = 1 .. S, is taken for mu + a_s + b_n + e_sn: luck in training a_s, hard and easy data b_n. The
error of the mean over runs and data comes from both, as that of the difference of two models A and B does:

    var(A - B) ~ var_n(mean_s A - mean_s B) / N + a_A^2 / S_A + a_B^2 / S_B,    a^2 = max(0, var_s(mean_n) - MS_e / N)

with MS_e the mean square of what is left, (S - 1) (N - 1) degrees of freedom: the analysis of variance of two crossed
random factors, the part of e_sn counted once. Sources: Searle, Casella & McCulloch, Variance Components (1992), section
4.5; Satterthwaite, Biometrics Bulletin 2 (1946), for the degrees of freedom of Student's t.
"""

import html
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from ppl_vae.criticism.comparable import as_groups
from ppl_vae.evidence.arviz_versions import compared_of
from ppl_vae.evidence.evidence import Evidence
from ppl_vae.utils.report import WIDTH, Array, Mean, number

GAIN = 1e-9  # nats per datum that better weights could add where their search ends
MOST = 20_000  # its steps: some 1 s for 10,000 data; models that differ this little have no weights worth more
LEVEL = 0.05  # how often models that do not differ are said to
SHOWN = ["num_runs", "log_px", "se", "log_px_diff", "dse", "run_sd", "weight", "mcse", "gap", "warning"]
MOST_ROWS, MOST_NOTES, LONGEST = 10, 3, 32  # of what is shown, on differences and on doubts; of a name


class Comparison(pd.DataFrame):
    """A pandas table of models, the best first, that is printed with what it is of, and what to know about it."""

    @property
    def _constructor(self) -> Any:
        return Comparison

    def __repr__(self) -> str:
        if "headline" not in self.attrs:
            return str(super().__repr__())
        table, options = self._shown()
        words = [self.attrs["headline"], *self.attrs["notes"]]
        head, *notes = ["\n".join(textwrap.wrap(line, WIDTH)) for line in words]
        return "\n".join([head, table.to_string(line_width=WIDTH, **options), *notes])

    def _repr_html_(self) -> str:
        if "headline" not in self.attrs:
            return pd.DataFrame(self).to_html(max_rows=MOST_ROWS)
        table, options = self._shown()
        notes = "<br>".join(map(html.escape, self.attrs["notes"]))
        return f"<p>{html.escape(self.attrs['headline'])}</p>{table.to_html(border=0, **options)}<p>{notes}</p>"

    def to_arviz(self) -> Any:
        """Return the table in ArviZ's words, for `arviz.plot_compare`: sums over the data, not means.

        Columns as of the installed ArviZ's `compare`; the number of parameters is not known: NaN.
        """
        return compared_of(pd.DataFrame(self), self.attrs["num_data"])

    def _shown(self) -> tuple[pd.DataFrame, dict[str, Any]]:
        """Return what is printed, of the whole table some columns, of a part of it all; and how."""
        table, options = pd.DataFrame(self), {"max_rows": MOST_ROWS}
        if not {*SHOWN, "elbo"} <= set(table.columns):
            return table, options
        columns = [c for c in SHOWN if c != "run_sd" or table["num_runs"].max() > 1]
        table = table[columns].assign(weight=[f"{weight:.2f}" for weight in table["weight"]])
        return table.rename(index=_short), options | {"float_format": number, "na_rep": "-"}


@dataclass(frozen=True)
class Model:
    """The runs of one model: estimates of log P(x) of the same data."""

    name: str
    runs: Sequence[Evidence]

    @cached_property
    def each(self) -> Array:
        """Log P(x) by run and datum, [S, N]."""
        return np.stack([run.log_px for run in self.runs])

    @cached_property
    def log_px(self) -> Array:
        """Log P(x) of each datum, the mean over runs, [N]."""
        return self.each.mean(0)

    @cached_property
    def mcse(self) -> Array:
        """Its Monte Carlo standard error, [N]."""
        return np.sqrt((np.stack([run.mcse for run in self.runs]) ** 2).sum(0)) / len(self.runs)

    @cached_property
    def doubted(self) -> NDArray[np.bool_]:
        """Which data are in doubt in some run, [N]."""
        doubted = np.zeros(len(self.log_px), dtype=bool)
        doubted[[doubt.datum for run in self.runs for doubt in run.doubts()]] = True
        return doubted

    @cached_property
    def verdict(self) -> str:
        """The verdict on a run that cannot be believed or judged as a whole, or nothing."""
        return next((run.verdict() for run in self.runs if not run.is_believed), "")

    @property
    def luck(self) -> float:
        """How much the mean of a run varies by luck in training, a^2 (see the module's top); NaN of a single run."""
        count, num_data = self.each.shape
        if count == 1:
            return float("nan")
        rest = self.each - self.each.mean(1, keepdims=True) - self.log_px + self.log_px.mean()
        within = (rest**2).sum() / ((count - 1) * (num_data - 1)) if num_data > 1 else 0.0
        return max(float(self.each.mean(1).var(ddof=1) - within / num_data), 0.0)


def compare_evidence(models: Mapping[str, Evidence | Sequence[Evidence]]) -> Comparison:
    """Compare models by their estimates on the same data; the table of `ppl_vae.compare`.

    Raises:
        InputError: nothing to compare, no evidence, estimates on different data, densities beside probabilities, or
            what is given totals of the data beside what is not.
    """
    groups = as_groups(models)
    if len({run.scored for runs in groups.values() for run in runs}) > 1:
        groups = {  # in nats of levels: log P(x) - D log L of dequantized ones
            name: [replace(e, log_px=e.log_px + e.to_levels, elbo=e.elbo + e.to_levels) for e in runs]
            for name, runs in groups.items()
        }
    with np.errstate(invalid="ignore"):  # where log P(x) is minus infinity
        return _table(sorted((Model(name, runs) for name, runs in groups.items()), key=_worth, reverse=True))


def _worth(model: Model) -> tuple[float, float]:
    """Return what models are ranked by: of those that cannot make some data, by the others."""
    possible = model.log_px[np.isfinite(model.log_px)]
    return float(model.log_px.mean()), float(possible.sum())


def stacking(log_px: Array) -> Array:
    """Return the weights of the mixture of models under which data are most probable, [M], for log P_m(x_n), [M, N].

        w = argmax (1/N) sum_n log sum_m w_m P_m(x_n),    w_m >= 0,    sum_m w_m = 1

    by expectation maximization, w_m <- w_m g_m with g_m = (1/N) sum_n P_m(x_n) / sum_j w_j P_j(x_n). The objective is
    concave, so no weights are better by more than max_m g_m - 1: it ends where that is below 1e-9 nats.
    Source: Yao et al., arXiv 1704.02030, equation 4.

    >>> stacking(np.log([[0.2, 0.2, 0.2], [0.1, 0.1, 0.8]])).round(3).tolist()
    [0.556, 0.444]
    """
    largest = log_px.max(0)
    possible = np.isfinite(largest)  # data that no model can make say nothing about the weights
    relative = np.exp(log_px[:, possible] - largest[possible])
    weights = np.full(len(log_px), 1 / len(log_px))
    for _ in range(MOST if possible.any() else 0):
        gain = (relative / (weights @ relative)).mean(1)
        if gain.max() - 1 <= GAIN:
            break
        weights = weights * gain
    return weights


def _weights(models: Sequence[Model]) -> Array:
    """Return the stacking weights of one run of each model, [M], the mean over picks: the i-th runs, i = 1, 2, ..."""
    picks = range(max(len(model.runs) for model in models))
    found = [stacking(np.stack([model.each[i % len(model.runs)] for model in models])) for i in picks]
    return np.asarray(np.mean(found, axis=0))


def _pooled(models: Sequence[Model]) -> tuple[float, int]:
    """Return the luck in training of models with several runs, taken together, and its degrees of freedom."""
    several = [model for model in models if len(model.runs) > 1]
    dof = sum(len(model.runs) - 1 for model in several)
    return sum(model.luck * (len(model.runs) - 1) for model in several) / dof if dof else 0.0, dof


def combined_error(values: Array, models: Sequence[Model], beside: Sequence[Model]) -> tuple[float, float]:
    """Return the standard error of the mean of values [N], over data and over runs of models; its degrees of freedom.

    Args:
        values: the mean over the runs of each datum, of one model, or the difference of two.
        models: whose runs it is of.
        beside: all models: the luck of one with a single run is taken for that of the others. If all have one, there is
            no luck in the error.
    """
    num_data = len(values)
    if num_data == 1:
        return float("nan"), float("nan")
    pooled, pooled_dof = _pooled(beside)
    parts = [(float(values.var(ddof=1) / num_data), num_data - 1)]
    for model in models:
        count = len(model.runs)
        luck, dof = (model.luck, count - 1) if count > 1 else (pooled, pooled_dof)
        if dof:
            parts.append((luck / count, dof))
    variance = sum(part for part, _ in parts)
    spread = sum(part**2 / dof for part, dof in parts)
    return float(np.sqrt(variance)), variance**2 / spread if spread > 0 else float("inf")


def _table(models: Sequence[Model]) -> Comparison:
    best, rows, notes = models[0], [], []
    has_luck = any(len(model.runs) > 1 for model in models)
    for rank, (model, weight) in enumerate(zip(models, _weights(models), strict=True)):
        diff = best.log_px - model.log_px
        dse, dof = (0.0, float("inf")) if rank == 0 else combined_error(diff, [best, model], models)
        elbo = float(np.mean([run.elbo.mean() for run in model.runs]))
        rows.append(
            {
                "model": model.name,
                "rank": rank,
                "log_px": float(model.log_px.mean()),
                "log_px_diff": float(diff.mean()) if rank else 0.0,
                "weight": weight,
                "se": combined_error(model.log_px, [model], models)[0],
                "dse": dse,
                "warning": bool(model.doubted.any() or model.verdict),
                "mcse": Mean.of(model.log_px, model.mcse).mcse,
                "num_samples": max(_num_samples(run) for run in model.runs),
                "method": ", ".join(sorted({run.method for run in model.runs})),
                "elbo": elbo,
                "gap": float(model.log_px.mean()) - elbo,
                "num_runs": len(model.runs),
                "run_sd": float(model.each.mean(1).std(ddof=1)) if len(model.runs) > 1 else float("nan"),
                "scored": model.runs[0].scored,
            }
        )
        if rank:
            notes.append(_judged(best, model, float(diff.mean()), (dse, dof), has_luck))
    table = Comparison(pd.DataFrame(rows).set_index("model"))
    table = table if table["scored"].nunique() > 1 else table.drop(columns="scored")
    table.attrs = {
        "headline": _headline(models),
        "notes": [*_on_all(models), *notes[:MOST_NOTES], *_on_doubts(models)[:MOST_NOTES]],
        "num_data": len(best.log_px),
    }
    return table


def _num_samples(run: Evidence) -> int:
    return int(run.diagnostics.get("draws", np.array([run.num_samples])).max())


def _headline(models: Sequence[Model]) -> str:
    counts = sorted({len(model.runs) for model in models})
    of_each = "one run" if counts == [1] else f"{' to '.join(map(str, {counts[0]: 0, counts[-1]: 0}))} runs (seeds)"
    samples = sorted({_num_samples(run) for model in models for run in model.runs})
    methods = sorted({run.method for model in models for run in model.runs})
    return (
        f"{models[0].runs[0].quantity} of {len(models[0].log_px)} data by {len(models)} model"
        f"{'s' * (len(models) > 1)}, {of_each} of each; {', '.join(methods)}, K = "
        f"{' to '.join(map(str, {samples[0]: 0, samples[-1]: 0}))} samples; means in nats per datum"
    )


def _short(name: str) -> str:
    return name if len(name) <= LONGEST else f"{name[: LONGEST - 3]}..."


def _judged(best: Model, model: Model, diff: float, error: tuple[float, float], has_luck: bool) -> str:
    """Return in words whether a model differs from the best by more than the error, with its degrees of freedom."""
    dse, dof = error
    names = f"{_short(model.name)} {{}} {_short(best.name)}"
    if not np.isfinite(diff):
        never = [int(np.isneginf(one.log_px).sum()) for one in (model, best)]
        first, second = names.split(" {} ")
        return f"{first} gives probability 0 to {never[0]} of the data, {second} to {never[1]}: no error is known."
    if not np.isfinite(dse):
        return f"{names.format('is below')} by {diff:.3f} nats for the one datum: no error is known."
    if not dse and not diff:
        return f"{names.format('gives each datum the log P(x) of')}."
    if not dse:
        return f"{names.format('is below')} by {diff:.3f} nats, the same for each datum."
    limit = float(stats.t.isf(LEVEL / 2, dof))
    over = "over data and seeds" if has_luck else "over data"
    size = f"{diff / dse:.1f} standard errors {over}"
    if diff > limit * dse:
        return f"{names.format('is below')}: {size}, more than the {limit:.1f} of chance (95%)."
    return f"{names.format('cannot be told from')}: {size}, within the {limit:.1f} of chance (95%)."


def _on_all(models: Sequence[Model]) -> list[str]:
    notes, single = [], [_short(model.name) for model in models if len(model.runs) == 1]
    exact = all(run.is_exact for model in models for run in model.runs)
    if len(single) == len(models):
        notes.append(
            "One run each: luck in training is not in these errors, and two runs of one model may differ by several of "
            "them. Train several seeds of each (train, seeds=5)."
        )
    elif single:
        notes.append(f"One run of {', '.join(single)}: luck in training is taken to be as large as that of the others.")
    if len(models) > 1:
        notes.append(
            "weight: the share of a run in the mixture of runs that predicts these data best. It is no probability "
            "that a model is better: of two runs of one model one may have all of it."
        )
    kinds = {(run.method, _num_samples(run)) for model in models for run in model.runs}
    if len(kinds) > 1 and not exact:
        notes.append("Estimates by different methods or numbers of samples: with fewer, log P(x) is rather too low.")
    return notes


def _on_doubts(models: Sequence[Model]) -> list[str]:
    """Return what is in doubt, and what the differences are without the data in doubt."""
    best, notes = models[0], []
    for model in models:
        doubted = best.doubted | model.doubted
        if model.verdict.startswith("Cannot be judged"):
            notes.append(f"{_short(model.name)}: {model.verdict}")
        if not (model.doubted.any() or model.verdict):
            continue
        count = int(model.doubted.sum())
        said = (
            f"{_short(model.name)}: {count} of {len(doubted)} data are in doubt (Evidence.doubts), log P(x) is rather "
            f"too low there"
        )
        if model.verdict.startswith("Not to be believed") or doubted.all():
            rests = "its rank and all differences rest" if model is best else "its rank rests"
            notes.append(f"{said}; {rests} on numbers that are not to be believed.")
        elif model is best and count:
            notes.append(f"{said}.")
        elif count:
            without = float((best.log_px - model.log_px)[~doubted].mean())
            notes.append(f"{said}; without data in doubt it is {without:.3f} nats below {_short(best.name)}.")
    return notes


def _wrapped(line: str | None, table: str) -> list[str]:
    return textwrap.wrap(line, WIDTH) if line is not None else [table]
