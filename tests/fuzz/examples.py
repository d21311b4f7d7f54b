"""Pyro's own examples through each entry point: `python -m tests.fuzz.examples [--only cevae]` prints a table.

log P(x) is held against quadrature, the ELBO of `fit` against log P(x), KL[Q(z | x) || P(z)] of `latent_use` against
Pyro's own traces, one sample at a time. "agrees" is within the errors that are stated, or, of `sample` and `to_arviz`,
of the right shape and finite.
"""

import argparse
import math
import warnings
from typing import NamedTuple

import numpy as np
import pyro
import torch
from pyro import poutine
from pyro.poutine.util import prune_subsample_sites
from scipy import stats

import ppl_vae
from ppl_vae import InputError

from .judge import FALSE_ALARM, SLACK, _outside, believed
from .situations import EXAMPLES

ENTRIES = ("importance", "prior", "fit", "after fit", "sample", "latent_use", "to_arviz")
QUICK = {"compile": False, "threads": 1, "progress": False}


class Found(NamedTuple):
    kind: str  # agrees, doubted, refused, WRONG, CRASHED
    text: str


def true_log_px(example):
    """log P(x) of each datum with the weights of now, networks in evaluation."""
    for module in example.modules:
        module.eval()
    with pyro.get_param_store().scope():  # a PyroModule writes itself into it where it is called
        return None if example.truth is None else example.truth().detach().numpy()


def _evidence(example, proposal="guide"):
    guide = None if proposal == "prior" else example.guide
    number = 20_000 if proposal == "prior" else 4000
    options = {"num_samples": number, "proposal": proposal, **QUICK}
    evidence = ppl_vae.estimate_evidence(example.model, guide, example.data, **options)
    truth, trusted = true_log_px(example), believed(evidence)
    if truth is None:
        return Found("WRONG" if trusted.any() else "doubted", f"{len(evidence)} numbers where there are none")
    draws = np.broadcast_to(
        np.asarray(evidence.diagnostics.get("draws", evidence.num_samples), dtype=float), truth.shape
    )
    off = _outside(evidence.log_px, evidence.mcse, truth, draws)
    error = np.sqrt((evidence.mcse**2).sum()) / len(truth)
    text = (
        f"{evidence.log_px.mean():.4f} +- {error:.4f} for {truth.mean():.4f}, {trusted.sum()} of {len(truth)} believed"
    )
    if (off & trusted).any():
        return Found("WRONG", text)
    return Found("agrees" if trusted.mean() >= 0.5 else "doubted", text)


def _fit(example):
    options = {"epochs": 12, "batch_size": len(example.data[0]), "learning_rate": 1e-9, **QUICK}
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        fitted = ppl_vae.fit(example.model, example.guide, example.data, objective=example.objective(), **options)
    if any("bound" in str(w.message) for w in said):
        return Found("agrees", f"ELBO {fitted.history.train_elbo.mean():.3f}, said to be no bound")
    history = fitted.history
    elbo, truth = history.train_elbo, true_log_px(example)
    mean, error = elbo.mean(), elbo.std(ddof=1) / math.sqrt(len(elbo))
    if truth is None or not example.bounded:
        return Found("agrees" if np.isfinite(elbo).all() else "WRONG", f"ELBO {mean:.3f}, no bound here")
    above = mean - truth.mean() > stats.t.isf(FALSE_ALARM, len(elbo) - 1) * error + SLACK
    return Found("WRONG" if above else "agrees", f"ELBO {mean:.3f} +- {error:.3f}, log P(x) {truth.mean():.3f}")


def _after_fit(example):
    options = {"epochs": 30, "batch_size": 10, "learning_rate": 0.02, **QUICK}
    ppl_vae.fit(example.model, example.guide, example.data, objective=example.objective(), **options)
    return _evidence(example)


def _sample(example):
    drawn = ppl_vae.sample(example.model, 4, **example.conditions)
    fine = drawn.shape[0] == 4 and bool(torch.isfinite(drawn).all())
    return Found("agrees" if fine else "WRONG", f"shape {tuple(drawn.shape)}")


def _latent_use(example):
    use = ppl_vae.latent_use(example.model, example.guide, example.data, num_samples=400, progress=False)
    unknown = "not known: masks" in str(use)  # Q(z) of latents that some data do not have
    inside = (
        unknown
        or -6 * use.marginal_kl_mcse - SLACK <= use.mutual_information <= use.bound + 6 * use.marginal_kl_mcse + SLACK
    )
    text = f"KL {use.kl:.3f} +- {use.kl_mcse:.3f}, I(x; z) {use.mutual_information:.3f}"
    if example.truth is None:
        return Found("WRONG", f"{text} where there is none")
    kl, error = by_pyro(example)
    close = abs(use.kl - kl) < stats.norm.isf(FALSE_ALARM) * math.hypot(use.kl_mcse, error) + SLACK
    return Found("agrees" if close and inside else "WRONG", f"{text}; by Pyro's traces {kl:.3f} +- {error:.3f}")


def by_pyro(example, repeats=600):
    """E_x KL[Q(z | x) || P(z)] by Pyro's traces, one sample each time, and its standard error."""
    for module in example.modules:
        module.eval()
    torch.manual_seed(0)
    found = []
    with torch.no_grad(), pyro.get_param_store().scope():
        for _ in range(repeats):
            guide = poutine.trace(example.guide).get_trace(*example.data)
            model = poutine.trace(poutine.replay(example.model, trace=guide)).get_trace(*example.data)
            for trace in (guide, model):
                trace.compute_log_prob()
            sites = prune_subsample_sites(guide).nodes.items()
            latent = [n for n, s in sites if s["type"] == "sample" and not s["is_observed"] and n in model.nodes]
            terms = [guide.nodes[n]["log_prob"].sum() - model.nodes[n]["log_prob"].sum() for n in latent]
            found.append(float(sum(terms)) / len(example.data[0]))
    return float(np.mean(found)), float(np.std(found) / math.sqrt(repeats))


def _to_arviz(example):
    container = ppl_vae.to_arviz(example.model, example.guide, example.data, num_samples=400, num_draws=20, **QUICK)
    if example.truth is None:
        return Found("WRONG", "draws where each datum has no posterior")
    z = container["posterior"][example.latent]
    fine = z.sizes["draw"] == 20 and z.sizes["datum"] == len(example.data[0]) and bool(np.isfinite(z.values).all())
    return Found("agrees" if fine else "WRONG", f"{dict(z.sizes)}")


TRIES = {
    "importance": _evidence,
    "prior": lambda example: _evidence(example, "prior"),
    "fit": _fit,
    "after fit": _after_fit,
    "sample": _sample,
    "latent_use": _latent_use,
    "to_arviz": _to_arviz,
}


def tried(name, entry):
    """Return what becomes of an example, made anew, at an entry point."""
    pyro.clear_param_store()
    with warnings.catch_warnings(), pyro.get_param_store().scope():
        warnings.simplefilter("ignore")
        try:
            return TRIES[entry](EXAMPLES[name]())
        except InputError as refusal:
            return Found("refused", str(refusal))
        except Exception as problem:
            return Found("CRASHED", f"{type(problem).__name__}: {problem}")


def main():
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.examples", description=__doc__)
    parser.add_argument("--only", default="", help="examples whose name has this in it")
    options = parser.parse_args()
    torch.set_num_threads(1)
    for name in EXAMPLES:
        if options.only not in name:
            continue
        print(f"\n{name}")
        for entry in ENTRIES:
            found = tried(name, entry)
            print(f"  {entry:12}{found.kind:9}{' '.join(found.text.split())[:230]}", flush=True)


if __name__ == "__main__":
    main()
