"""What becomes of a described pair in `fit` and `estimate_evidence`, held against its exact log P(x).

Outcomes: right, doubted (wrong, and said to be in doubt), refused (an InputError), WRONG (and believed), CRASHED (any
other exception). A datum is believed where the verdict says so and `doubts()` does not list it.

What is wrong. An average of K weights with mean P(x) is off by so much at most: too high by Student's t, too low by
Bernstein's inequality with the larger of its own variance and the mean over data (as in `tests/bounds.py`), each datum
at at `FALSE_ALARM`. Where weights have heavy tails neither holds. So a datum outside of that is simulated from the
described guide in NumPy, `REPLICATES` times with K draws each, unless the guide is a point or lies on another support
than the prior. An estimate within the range of those is one that honest importance sampling gives, and no draw could
have told that it is off: `unlucky`, counted but no fault. By exchangeability an honest estimate is outside in 2 of
`REPLICATES` + 1 cases at most, and that only where the first bound failed, too.
"""

import math
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import pyro
from pyro.infer import SVI, Trace_ELBO, TraceEnum_ELBO
from scipy import stats

import ppl_vae
from ppl_vae import InputError
from ppl_vae.errors import NonFiniteLossError

from .families import FAMILIES
from .grammar import Pair
from .oracle import _functions, log_marginal
from .source import programs

FALSE_ALARM = 1e-7  # of a datum
REPLICATES, SLACK = 400, 2e-3
NUM_SAMPLES = {"importance": 4000, "auto": 2000, "prior": 8000}
ANNEALING = {"num_temperatures": 12, "num_chains": 8, "num_samples": 200}
TILES, EPOCHS = 40, 10  # of `fit`: the data so many times over, and how often their ELBO is seen
METHODS = ("fit", "importance", "auto", "prior", "ais", "latent_use", "to_arviz")
FAULTS = ("WRONG", "CRASHED")


@dataclass
class Outcome:
    method: str
    kind: str  # right, doubted, refused, unlucky, WRONG, CRASHED
    text: str = ""  # the sentence of a refusal, numbers of what is wrong, an exception
    pyro_runs: bool = True


def judged(pair: Pair, methods=METHODS, sparing=False) -> Iterator[Outcome]:
    """Run a pair by each method; sparing, `auto` by each twelfth pair, which takes ten times as long as the others."""
    with _in_quiet():
        model, guide, data = programs(pair)
        few = tuple(t[:2] for t in data)
        estimated = partial(_estimated, pair, model=model)
        runs = {
            "fit": partial(_fitted, pair, model, guide, data),
            "importance": partial(estimated, "importance", guide=guide, data=data),
            "auto": partial(estimated, "auto", guide=guide, data=data),
            "prior": partial(estimated, "prior", guide=None, data=data, method="importance", proposal="prior"),
            "ais": partial(estimated, "ais", guide=guide, data=few, **ANNEALING),
            "latent_use": partial(_used, pair, model, guide, data),
            "to_arviz": partial(_resampled, pair, model, guide, data),
        }
        for method in methods:
            if _wanted(pair, guide, sparing)[method]:
                yield _settled(pair, method, runs[method])


def _wanted(pair, guide, sparing):
    guided, plain = guide is not None, "reparam" not in pair.extras
    return {
        "fit": guided,
        "importance": guided,
        "auto": (guided or plain) and not (sparing and pair.seed % 12),
        "prior": plain and (not guided or pair.seed % 3 == 0),
        "ais": guided and pair.seed % 8 == 0,
        "latent_use": guided and pair.seed % 4 == 1,
        "to_arviz": guided and pair.seed % 8 == 2,
    }


@contextmanager
def _in_quiet():
    with warnings.catch_warnings(), pyro.get_param_store().scope():
        warnings.simplefilter("ignore")
        pyro.clear_param_store()
        yield


def _settled(pair, method, run):
    try:
        kind, text = run()
    except InputError as refusal:
        return Outcome(method, "refused", str(refusal), _pyro_runs(pair))
    except NonFiniteLossError as refusal:
        return Outcome(method, "refused" if pair.unsound else "CRASHED", str(refusal), _pyro_runs(pair))
    except Exception as problem:
        runs = _pyro_runs(pair)
        return Outcome(
            method, "CRASHED" if runs else "crashed, as in Pyro", f"{type(problem).__name__}: {problem}", runs
        )
    return Outcome(method, kind, text)


def _pyro_runs(pair):
    """Return whether Pyro's own SVI takes a step on the pair."""
    try:
        model, guide, data = programs(pair)
        pyro.clear_param_store()
        elbo = TraceEnum_ELBO(max_plate_nesting=2) if pair.enumerated else Trace_ELBO()
        if guide is None:
            pyro.poutine.trace(model).get_trace(*data).compute_log_prob()
            return True
        return math.isfinite(SVI(model, guide, pyro.optim.Adam({"lr": 1e-9}), elbo).step(*data))
    except Exception:
        return False


def _fitted(pair, model, guide, data):
    """The ELBO of the history is not above the mean log P(x)."""
    tiled = tuple(t.repeat(TILES, *[1] * (t.dim() - 1)) for t in data)
    objective = TraceEnum_ELBO(max_plate_nesting=2) if pair.enumerated else Trace_ELBO()
    batch = 100 if pair.plate == "stands for more" else len(tiled[0])
    options = {"epochs": EPOCHS, "batch_size": batch, "learning_rate": 1e-9, "objective": objective}
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        history = ppl_vae.fit(model, guide, tiled, compile=False, threads=1, progress=False, **options).history
    if any("bound" in str(w.message) for w in said):
        return "doubted", "said to be no bound"
    if pair.truth is None or "scale" in pair.extras:
        return "right", "not judged"
    elbo, most = history.train_elbo, pair.truth.mean() - (0 if "condition" not in pair.extras else _of_condition(pair))
    error = elbo.std(ddof=1) / math.sqrt(EPOCHS)
    above = elbo.mean() - most
    if above > stats.t.isf(FALSE_ALARM, EPOCHS - 1) * error + SLACK:
        return "WRONG", f"ELBO {elbo.mean():.3f} (error {error:.3f}) above log P(x) {most:.3f}"
    return "right", ""


def _of_condition(pair):
    """What log P(x, y) is less than log P(x | y), which it is the ELBO of: -mean log P(y)."""
    site = next(s for s in pair.model.sites if s.name == "y")
    args = [float(a) for a in site.args]
    scored = 1.0 if pair.model.scored is None else pair.model.scored
    return -float((FAMILIES[site.family].log_density(pair.data["y"], *args) * scored).mean())


def _estimated(pair, name, *, model, guide, data, **options):
    options = {"method": name, "num_samples": NUM_SAMPLES.get(name, 200)} | options
    evidence = ppl_vae.estimate_evidence(model, guide, data, compile=False, threads=1, progress=False, **options)
    return verdict_on(pair, evidence, name)


def _used(pair, model, guide, data):
    """I(x; z) is between 0 and log N, and KL[Q(z | x) || P(z)] is that of the description."""
    use = ppl_vae.latent_use(model, guide, data, num_samples=100, progress=False)
    if pair.truth is None:
        return "WRONG", "KL of each datum where it has none"
    spread = stats.norm.isf(FALSE_ALARM) * max(use.marginal_kl_mcse, use.kl_mcse) + SLACK
    if np.isnan(use.mutual_information):
        assert "not known: masks" in str(use)  # the sentence that stands in its place
    elif not -spread <= use.mutual_information <= use.bound + spread:
        return "WRONG", f"I(x; z) {use.mutual_information:.3f} +- {use.marginal_kl_mcse:.3f}, at most {use.bound:.3f}"
    found = [simulated_weights(pair, n, 1, 4000, latent_only=True) for n in range(len(data[0]))]
    if any(f is None for f in found) or pair.mask in ("guide only", "model only") or pair.unsound:
        return "right", "not judged"
    kl, error = -np.mean(found), np.sqrt(sum(f.var() / f.size for f in found)) / len(found)
    if abs(use.kl - kl) > stats.norm.isf(FALSE_ALARM) * np.hypot(use.kl_mcse, error) + SLACK:
        return "WRONG", f"KL {use.kl:.3f} +- {use.kl_mcse:.3f} for {kl:.3f} +- {error:.3f}"
    return "right", ""


def _resampled(pair, model, guide, data):
    """Draws from the posterior are finite."""
    container = ppl_vae.to_arviz(
        model, guide, data, num_samples=200, num_draws=10, compile=False, threads=1, progress=False
    )
    if pair.truth is None:
        return "WRONG", "draws where each datum has no posterior"
    try:
        posterior = container["posterior"]
    except KeyError:
        return "right", "nothing to draw"
    fine = all(np.isfinite(v.values).all() for v in posterior.data_vars.values())
    return ("right" if fine else "WRONG"), ""


def believed(evidence):
    """Return which data are believed, [N]."""
    mask = np.zeros(len(evidence), dtype=bool)
    if evidence.is_believed:
        mask[:] = True
        mask[[d.datum for d in evidence.doubts()]] = False
    return mask


def verdict_on(pair, evidence, method="importance"):
    """Return the outcome of an estimate, and numbers where it is not right."""
    trusted = believed(evidence)
    if pair.truth is None:
        return ("WRONG", f"{len(evidence)} numbers where there are none") if trusted.any() else ("doubted", "")
    truth = pair.truth[: len(evidence)]
    draws = np.broadcast_to(
        np.asarray(evidence.diagnostics.get("draws", evidence.num_samples), dtype=float), truth.shape
    )
    off = _outside(evidence.log_px, evidence.mcse, truth, draws)
    wrong = np.flatnonzero(off & trusted)
    numbers = [f"{evidence.log_px[n]:.3f} for {truth[n]:.3f}" for n in wrong]
    simulated = [n for n in wrong if not _as_simulated(pair, evidence, int(n), method)]
    if simulated:
        return "WRONG", f"{', '.join(numbers)}; {evidence.verdict()[:40]}"
    if len(wrong):
        return "unlucky", ", ".join(numbers)
    return ("doubted", "") if off.any() else ("right", "")


def _outside(log_px, mcse, truth, draws):
    """Return which data are off by more than K weights can be: see above, [N]."""
    ratio = np.exp(np.clip(log_px - truth, -700, 50))
    square = np.nan_to_num(mcse, nan=0.0) ** 2
    variance = np.maximum(square, square.mean())
    tail = math.log(1 / FALSE_ALARM)
    low = 1 - tail / draws / 3 - np.sqrt((tail / draws / 3) ** 2 + 2 * tail * variance)
    high = 1 + stats.t.isf(FALSE_ALARM, np.maximum(draws - 1, 1)) * np.nan_to_num(mcse) * np.maximum(ratio, 1)
    return ~((ratio >= low - SLACK) & (ratio <= high + SLACK))


def _as_simulated(pair, evidence, datum, method):
    """Return whether importance sampling by the description gives as odd a number, too."""
    covered = not any("support" in why or "point" in why for why in pair.unsound)
    if method not in ("importance", "prior") or not (covered or method == "prior"):
        return False
    draws = int(np.asarray(evidence.diagnostics["draws"])[datum])
    log_w = simulated_weights(pair, datum, REPLICATES, draws, prior=method == "prior")
    if log_w is None:
        return False
    top = log_w.max(1, keepdims=True)
    found = np.log(np.exp(log_w - top).mean(1)) + top[:, 0]
    found = found[np.isfinite(found)]
    return bool(found.min() - SLACK <= evidence.log_px[datum] <= found.max() + SLACK)


def simulated_weights(pair, datum, replicates, draws, *, prior=False, latent_only=False):
    """Draw log-weights [replicates, draws] of a datum from the described guide; None where it has no density."""
    rng = np.random.default_rng([pair.seed, datum])
    count = replicates * draws
    if latent_only and {s.name for s in pair.model.sites if not s.observed} - {
        s.how.get("reparam", s.name) for s in pair.guide
    }:
        return None
    one = {name: np.broadcast_to(v[datum : datum + 1], (count, *v.shape[1:])) for name, v in pair.data.items()}
    model = pair.model
    if latent_only:
        model = replace(model, sites=[s for s in model.sites if not s.observed or s.name in model.given], factor="")
    model = replace(model, seen=_one(pair.model.seen, datum), scored=_one(pair.model.scored, datum))
    if model.scored is not None and not model.scored[0]:
        return np.zeros((replicates, draws))
    values = {n: c[None] for n, c in model.constants.items()}
    values |= {n: v[datum : datum + 1, None] if v.ndim == 1 else v[datum : datum + 1] for n, v in pair.data.items()}
    values |= {n: t[datum : datum + 1] if t.ndim == 2 else t[datum : datum + 1, None] for n, t in pair.tables.items()}
    fixed, log_q = {}, np.zeros(count)
    left_out = [s for s in pair.model.sites if not s.observed and not s.enumerated]
    guided = {g.how.get("reparam", g.name) for g in pair.guide}
    sites = left_out if prior else [*pair.guide, *(s for s in left_out if s.name not in guided)]
    for site in sites:
        family = FAMILIES.get(site.family)
        if family is None:
            return None
        args = [np.asarray(eval(a, _functions(), values), dtype=float) for a in site.args]
        shape = (count, model.members) if site.member else (count, 1)
        args = [np.broadcast_to(a, shape) for a in args]
        value = family.draw(rng, *args)
        values[site.name] = value
        if site.name == "aux":
            continue
        log_q = log_q + family.log_density(value, *args).sum(1)
        name = site.how.get("reparam", site.name)
        if name != site.name:
            value, log_slope = _reparameterized(next(s for s in pair.model.sites if s.name == name), value)
            log_q = log_q - log_slope.sum(1)
        fixed[name] = value if site.member else value[:, 0]
    with np.errstate(divide="ignore"):
        return (log_marginal(model, one, fixed) - log_q).reshape(replicates, draws)


def _reparameterized(site, base):
    """The value of a site that is written by what it is made from, and log of its slope there."""
    loc, scale = (float(a) for a in site.args)
    return (loc + scale * base, np.log(scale) + 0 * base) if site.family == "Normal" else (np.exp(base), base)


def _one(mask, datum):
    return None if mask is None else mask[datum : datum + 1]


def in_short(text):
    """A sentence without the names and numbers of its case, to count the kinds of them."""
    text = re.sub(r"'[^']*'|\[[^\]]*\]|\([^)]*\)", "..", text.splitlines()[0] if text else "")
    return re.sub(r"-?\d[\d.e+-]*", "#", text)[:150]
