"""Good calls of everything public, on data of four numbers, in which one or two arguments are replaced by bad ones.

A call may succeed, or say in a sentence what is wrong: `InputError` (of which `ProgramError` is one), or
`NonFiniteLossError`. Python itself may refuse arguments that are missing or unknown. All else is a failure: another
exception, a message of several lines or without end, more than ten seconds (of a processor, which others may be using;
or a minute of the clock), more than two gigabytes.
"""
# ruff: noqa: E501, PLW0108, PLW0603, C416

import contextlib
import io
import random
import resource
import tempfile
import traceback
import warnings
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import nn

import ppl_vae
from ppl_vae import guides, likelihoods, models, networks, objectives, plots, posteriors, preprocessing, priors
from ppl_vae.architectures import Concatenated
from ppl_vae.conditions import Label

from . import values
from .outcomes import GIGABYTES, SECONDS, Hang, limited
from .values import DIM, X

LETTERS, MEMORY = 600, int(GIGABYTES * 2**30)
SENTENCES = (ppl_vae.InputError, ppl_vae.NonFiniteLossError)
NET = partial(networks.MLP, hidden=(8,))
Y = torch.arange(12) % 3
PIXELS = torch.zeros(4, 1, 8, 8)
QUIET = {"progress": False}
DIGITS = None

NUMBER = {**values.NUMBERS, **values.ODDITIES}
DATA = {**values.DATA, **values.ODDITIES}
LABELS = {**values.LABELS, **values.DATA, **values.ODDITIES}
WORD = {**values.ODDITIES, "another word": lambda: "quickly", "0": lambda: 0, "nan": lambda: float("nan")}
THING = {**values.ODDITIES, "a model": lambda: vae()[0], "a guide": lambda: vae()[1], "a prior": priors.StandardNormal}


class Case(NamedTuple):
    """A call with bad arguments: the name of the call, and which value stands for each argument."""

    call: str
    changed: tuple[tuple[str, str], ...]

    def __str__(self):
        return f"{self.call}({', '.join(f'{name}={value}' for name, value in self.changed)})"


class Call(NamedTuple):
    """A good call: what is called, what makes its arguments, and from which pool each may be replaced."""

    function: object
    arguments: object
    pools: dict


def vae():
    torch.manual_seed(0)
    model = models.VAE((DIM,), prior=priors.StandardNormal(2), decoder=NET)
    return model, guides.MeanField(model, encoder=NET)


def cvae():
    torch.manual_seed(0)
    model = models.CVAE((DIM,), Label(3), prior=priors.StandardNormal(2), networks=Concatenated(hidden=8))
    return model, guides.Conditional(model)


def discrete():
    torch.manual_seed(0)
    model = models.Discrete((DIM,), decoder=NET, num_variables=1, num_classes=3)
    return model, guides.Discrete(model, encoder=NET)


def of_pair(make=vae, data=lambda: X, **more):
    """Return what makes the arguments of a call with a model, a guide and data."""

    def arguments():
        model, guide = make()
        return {"model": model, "guide": guide, "data": data()} | more

    return arguments


def fixed(**given):
    return lambda: {name: value() if callable(value) else value for name, value in given.items()}


def digits():
    global DIGITS  # read once
    DIGITS = DIGITS or ppl_vae.data.load("digits")
    return DIGITS


def small_split():
    return digits().test[:60]


def images():
    torch.manual_seed(0)
    model = models.CVAE((1, 8, 8), Label(10), prior=priors.StandardNormal(2), networks=Concatenated(hidden=8))
    return model, guides.Conditional(model)


def series():
    torch.manual_seed(0)
    model = models.DeepMarkov((DIM, 1), prior=priors.GatedTransition(2), decoder=NET)
    return model, guides.DeepMarkov(model, hidden=4)


def frame():
    cells = {"age": [30, 41, 25, 60, 33, 47], "height": ["1.5", "1.75", "", "1.6", "2", "1.8"], "sex": list("fmmfmf")}
    return pd.DataFrame(cells)


def evidence():
    return ppl_vae.estimate_evidence(*vae(), X, method="importance", num_samples=5, **QUIET)


def history():
    return ppl_vae.fit(*vae(), X, validation=X, epochs=2, **QUIET).history


def called(function):
    """Return a call of what is named by its first argument: Python passes the others by name."""

    def call(model, guide, data, **options):
        return function(model, guide, data, **options)

    return call


def numbers(*names):
    return dict.fromkeys(names, NUMBER)


PAIR = {"model": THING, "guide": THING, "data": DATA, "seed": NUMBER}
QUICK = {"num_samples": 5, **QUIET}
THREADS = {**values.NUMBERS, "'all'": lambda: "all", "10**9": lambda: 10**9, "4096": lambda: 4096}
SWITCH = {**values.ODDITIES, "2": lambda: 2, "'yes'": lambda: "yes", "np.bool_": lambda: np.bool_(False)}
OPTIONS = {"threads": THREADS, "compile": {k: v for k, v in WORD.items()}, "chunk_size": NUMBER}
FUNCTIONS = {**values.ODDITIES, "of nothing": lambda: {"f": lambda: None}, "of words": lambda: {"f": lambda z, x: "a"}}
SHAPES = {**values.NUMBERS, **values.ODDITIES, "(0,)": lambda: (0,), "(4, -1)": lambda: (4, -1), "('4',)": lambda: ("4",),
    "(4.0,)": lambda: (4.0,), "(10**12,)": lambda: (10**12,), "(2**40, 2**40)": lambda: (2**40, 2**40),
    "(np.int64(4),)": lambda: (np.int64(4),), "np.array": lambda: np.array([4]), "data": lambda: X, "(True,)": lambda: (True,),
    "(10**30,)": lambda: (10**30,), "[4]": lambda: [4], "torch.Size": lambda: torch.Size([4]), "(nan,)": lambda: (float("nan"),)}  # fmt: skip
WIDTHS = {**SHAPES, "'8,8'": lambda: "8,8", "(8, 0)": lambda: (8, 0), "(10**9, 10**9)": lambda: (10**9, 10**9)}
NETS = {**values.ODDITIES, "MLP": lambda: networks.MLP, "an MLP": lambda: networks.MLP((2,), (4,)), "relu": lambda: torch.relu,
    "returns a word": lambda: lambda a, b: "net", "Linear": lambda: nn.Linear(3, 3), "Linear class": lambda: nn.Linear}  # fmt: skip
PARTS = {**values.ODDITIES, "a class": lambda: priors.StandardNormal, "a likelihood": likelihoods.Bernoulli,
    "a prior": priors.StandardNormal, "0": lambda: 0, "Linear": lambda: nn.Linear(2, 2), "MLP": lambda: networks.MLP}  # fmt: skip
OBJECTIVES = {**values.ODDITIES, "SVI": lambda: __import__("pyro").infer.SVI, "RenyiELBO": lambda: __import__("pyro").infer.RenyiELBO(num_particles=2),
    "JitTrace_ELBO": lambda: __import__("pyro").infer.JitTrace_ELBO(), "class": lambda: objectives.IWAE, "'iwae'": lambda: "iwae",
    "0 particles": lambda: objectives.Trace_ELBO(num_particles=0), "2.5 particles": lambda: objectives.Trace_ELBO(num_particles=2.5),
    "word particles": lambda: objectives.Trace_ELBO(num_particles="2"), "np particles": lambda: objectives.IWAE(np.int64(2)),
    "Adam": lambda: torch.optim.Adam, "Classifying": objectives.Classifying, "MeanField": objectives.TraceMeanField_ELBO}  # fmt: skip
PATHS = {**values.ODDITIES, "a long name": lambda: "a" * 300, "nul": lambda: "a\0b", "3": lambda: 3, "/dev/null/x": lambda: "/dev/null/x",
    "/proc/x": lambda: "/proc/x", "surrogate": lambda: "\udcff"}  # fmt: skip
MASKS = {**values.DATA, **values.ODDITIES, "half": lambda: [True, True, False, False], "2": lambda: [2, 0, 0, 0], "3 long": lambda: [1, 0, 1],
    "quadrant": lambda: "quadrant", "a file": lambda: "mask.npy", "bits": lambda: np.array([1, 0, 1, 0], dtype=bool)}  # fmt: skip
RESULTS = {**values.ODDITIES, "a run's name": lambda: "runs/none", "numbers": lambda: X, "two evidences": lambda: [evidence(), evidence()],
    "dict of one": lambda: {"a": evidence()}, "dict by number": lambda: {1: evidence(), 2: evidence()}, "one": evidence}  # fmt: skip
TABLES = {**values.DATA, **values.ODDITIES, "pd.Series": lambda: pd.Series([1.0, 2.0]), "levels": lambda: frame().T.set_index([0, 1]).T,
    "a name twice": lambda: frame().set_axis(["a", "a", "b"], axis=1), "no rows": lambda: frame()[:0], "two rows": lambda: frame()[:2],
    "a typo": lambda: frame().replace("1.5", "1.5x"), "infinite": lambda: frame().assign(age=[np.inf, 1, 2, 3, 4, 5.5]), "lists": lambda: frame().assign(age=[[1]] * 6),
    "huge": lambda: frame().assign(age=[1e300, 1, 2, 3, 4, 5.5]), "complex": lambda: frame().assign(age=1j), "dates": lambda: frame().assign(age=pd.Timestamp("2021-03-04")),
    "of nothing": lambda: frame().assign(age=None, height=None, sex=None), "numbers as names": lambda: frame().set_axis([0, 1, None], axis=1),
    "an index": lambda: frame().set_index("sex"), "ordered": lambda: frame().astype("category"), "one column": lambda: frame()[["sex"]],
    "a name that is there": lambda: frame().rename_axis(index="age"), "Arrow": lambda: __import__("pyarrow").Table.from_pandas(frame())}  # fmt: skip
SCHEMAS = {**values.ODDITIES, "a type": lambda: {"age": "rael"}, "no column": lambda: {"ages": "real"}, "a number": lambda: {"age": 3},
    "one category": lambda: {"sex": {"type": "binary", "categories": ["f"]}}, "others": lambda: {"sex": {"type": "binary", "categories": ["a", "b"]}},
    "words": lambda: {"sex": "real"}, "a list": lambda: ["age"], "of all": lambda: {"*": {"missing": "x"}}, "deep": lambda: {"age": {"a": {"b": 1}}},
    "all": lambda: dict.fromkeys(("age", "height", "sex"), "left out"), "a part": lambda: {"age": {"type": "real", "missing": ["30"]}}, "empty": dict,
    "constant": lambda: {"age": {"type": "binary", "missing": ["30", "41", "25", "60", "33"]}}, "none": lambda: {"age": None}}  # fmt: skip
KINDS = {**values.ODDITIES, "a word": lambda: "real", "no kind": lambda: ["rael"] * 3, "no number": lambda: ["categorical"] * 3, "options": lambda: ["student_t:df=x"],
    "no option": lambda: ["real:x=3"], "numbers": lambda: [1, 2, 3], "one": lambda: ["ordinal:1"], "negative": lambda: ["ordinal:-3"], "huge": lambda: ["categorical:1000000000000"],
    "nan": lambda: ["real:nan"], "a list": lambda: ["real:[1]"], "none": list, "a dict": lambda: {"a": "real"}}  # fmt: skip
PICTURES = {**values.DATA, **values.ODDITIES, "images": lambda: torch.zeros(4, 1, 8, 8), "images of NaN": lambda: torch.full((4, 1, 8, 8), torch.nan),
    "images of inf": lambda: torch.full((4, 3, 8, 8), torch.inf), "2 channels": lambda: torch.zeros(4, 2, 8, 8)}  # fmt: skip


def _calls():
    fit_pools = PAIR | {"validation": DATA, "objective": OBJECTIVES, "optimizer": values.OPTIMIZERS,
        "schedule": {**values.SCHEDULES, **values.ODDITIES}, "precision": WORD, "compile": WORD, "threads": THREADS, "out": PATHS,
        "on_start": WORD, "progress": SWITCH, "resume": SWITCH}  # fmt: skip
    fit_pools |= numbers("epochs", "batch_size", "learning_rate", "patience", "weight_decay")
    evidence_pools = (
        PAIR | OPTIONS | {"method": WORD, "proposal": WORD, "joint": SWITCH, "vectorize": WORD, "given": MASKS}
    )
    evidence_pools |= numbers("num_samples", "tolerance", "max_samples", "budget", "num_draws")
    annealing = numbers("num_samples", "num_temperatures", "num_chains", "num_leapfrog", "seed", "chunk_size")
    short = {"epochs": 1, "compile": False, **QUIET}
    labelled = of_pair(cvae, lambda: (X, Y), **QUICK)
    yield "fit", Call(ppl_vae.fit, of_pair(validation=X, patience=1, **short), fit_pools)
    yield "fit, data", Call(ppl_vae.fit, of_pair(**short), {"data": DATA, "validation": DATA})
    yield "fit, optimizer", Call(ppl_vae.fit, of_pair(**short), {"optimizer": values.OPTIMIZERS, "schedule": values.SCHEDULES, "objective": OBJECTIVES})  # fmt: skip
    yield "fit, labels", Call(lambda y, **k: ppl_vae.fit(data=(X, y), **k), lambda: {"y": Y} | {k: v for k, v in of_pair(cvae, **short)().items() if k != "data"}, {"y": LABELS})  # fmt: skip
    yield "fit, discrete", Call(ppl_vae.fit, of_pair(discrete, **short), fit_pools)
    yield "estimate_evidence", Call(called(ppl_vae.estimate_evidence), of_pair(method="importance", compile=False, **QUICK), evidence_pools)  # fmt: skip
    yield "estimate_evidence, data", Call(called(ppl_vae.estimate_evidence), of_pair(method="importance", compile=False, **QUICK), {"data": DATA, "given": MASKS})  # fmt: skip
    yield "estimate_evidence, ais", Call(called(ppl_vae.estimate_evidence), of_pair(method="ais", num_temperatures=2, num_chains=2, num_leapfrog=1, compile=False, **QUICK), annealing)  # fmt: skip
    yield "estimate_evidence, smc", Call(called(ppl_vae.estimate_evidence), of_pair(series, lambda: X[..., None], method="smc", num_filters=2, compile=False, **QUICK), PAIR | numbers("num_samples", "num_filters", "chunk_size"))  # fmt: skip
    yield "estimate_evidence, labels", Call(lambda y, **k: ppl_vae.estimate_evidence(k.pop("model"), k.pop("guide"), (X, y), **k), lambda: {"y": Y, "method": "importance", "compile": False} | {k: v for k, v in labelled().items() if k != "data"}, {"y": LABELS, "joint": SWITCH})  # fmt: skip
    yield "to_arviz", Call(called(ppl_vae.to_arviz), of_pair(num_draws=3, compile=False, **QUICK), {k: v for k, v in evidence_pools.items() if k not in ("budget", "given")})  # fmt: skip
    yield "sample", Call(ppl_vae.sample, fixed(model=lambda: vae()[0], size=3), {"model": THING, "mean": SWITCH, "compile": WORD, "threads": THREADS} | numbers("size", "seed"))  # fmt: skip
    yield "sample, labels", Call(ppl_vae.sample, lambda: {"model": cvae()[0], "size": 12, "y": Y}, {"y": LABELS, "size": NUMBER})  # fmt: skip
    yield "reconstruct", Call(ppl_vae.reconstruct, of_pair(), PAIR | {"mean": SWITCH})
    yield "manifold", Call(ppl_vae.manifold, lambda: {"model": vae()[0], "grid": 3}, {"model": THING} | numbers("grid", "seed"))  # fmt: skip
    yield "impute", Call(ppl_vae.impute, of_pair(num_draws=2, **QUICK), PAIR | numbers("num_samples", "num_draws"))
    yield "impute, data", Call(ppl_vae.impute, of_pair(num_draws=2, **QUICK), {"data": DATA})
    yield "encode", Call(ppl_vae.encode, of_pair(num_draws=2, num_samples=3, **QUIET), PAIR | numbers("num_samples", "num_draws"))  # fmt: skip
    yield "encode, labels", Call(lambda y, **k: ppl_vae.encode(k.pop("model"), k.pop("guide"), (X, y), **k), lambda: {"y": Y} | {k: v for k, v in of_pair(cvae, num_draws=2, **QUIET)().items() if k != "data"}, {"y": LABELS})  # fmt: skip
    yield "explain_gap", Call(ppl_vae.explain_gap, of_pair(data=lambda: X[:4], num_steps=2, num_particles=2, **QUICK), PAIR | {"vectorize": WORD} | numbers("num_samples", "num_steps", "num_particles", "learning_rate", "chunk_size"))  # fmt: skip
    yield "latent_use", Call(ppl_vae.latent_use, of_pair(**QUICK), PAIR | numbers("num_samples", "chunk_size"))
    yield "calibrate", Call(ppl_vae.calibrate, of_pair(num_simulated=20, **QUICK), PAIR | {"functions": FUNCTIONS} | numbers("num_simulated", "num_samples", "level", "chunk_size"))  # fmt: skip
    yield "check_bound", Call(ppl_vae.check_bound, of_pair(log_px=np.zeros(12), **QUICK), PAIR | {"log_px": {k: v for k, v in {**LABELS, **values.NUMBERS}.items() if k != "None"}} | numbers("num_samples"))  # fmt: skip
    yield "accuracy", Call(ppl_vae.accuracy, lambda: {"guide": guides.SemiSupervised(cvae()[0], classifier=NET), "data": (X, Y)}, {"guide": THING, "data": DATA})  # fmt: skip
    yield "measure_one_to_many", Call(ppl_vae.measure_one_to_many, lambda: dict(zip(("model", "guide"), images(), strict=True)) | {"split": small_split(), "num_answers": 2, "num_nearest": 2, **QUICK}, {"model": THING, "guide": THING, "split": DATA, "against": THING, "classifier": THING, "grey": DATA, "names": WORD} | numbers("num_samples", "num_answers", "num_nearest", "num_data", "seed"))  # fmt: skip
    yield "compare", Call(ppl_vae.compare, lambda: {"models": {"a": evidence(), "b": evidence()}}, {"models": RESULTS})
    yield "explain_difference", Call(ppl_vae.explain_difference, lambda: {"a": vae(), "b": vae(), "data": X, "names": ["a", "b"], **QUICK}, {"a": THING, "b": THING, "data": DATA, "names": WORD, "evidence": RESULTS, "split": WORD} | numbers("num_data", "num_samples", "seed"))  # fmt: skip
    yield "load", Call(ppl_vae.load, lambda: {"path": "runs/none"}, {"path": PATHS})
    yield "evaluate", Call(ppl_vae.evaluate, lambda: {"run": "runs/none"}, {"run": PATHS, "split": WORD, "num_data": NUMBER})  # fmt: skip
    yield "score", Call(ppl_vae.score, lambda: {"run": "runs/none", "data": X}, {"run": PATHS, "data": DATA, "calibration": WORD} | numbers("alpha", "fdr", "num_data"))  # fmt: skip
    yield "new", Call(ppl_vae.new, lambda: {"folder": "mine"}, {"folder": PATHS})
    yield "list_parts", Call(ppl_vae.list_parts, lambda: {"kind": "prior"}, {"kind": WORD, "model": WORD, "guide": WORD})  # fmt: skip
    yield "data.load", Call(ppl_vae.data.load, lambda: {"name": "digits"}, {"name": PATHS, "binarize": WORD, "dequantize": WORD} | numbers("strings", "num_labels", "missing"))  # fmt: skip
    yield "data.load, table", Call(ppl_vae.data.load, fixed(name=frame, schema=lambda: {"age": "count"}, label=lambda: "sex"), {"name": TABLES, "schema": SCHEMAS, "label": WORD, "kind": WORD, "layer": WORD, "binarize": WORD} | numbers("num_labels", "missing"))  # fmt: skip
    yield "Schema.encode", Call(lambda given, table: ppl_vae.data.Schema.of(given).encode(table), fixed(given=lambda: {"age": "count", "height": "positive"}, table=frame), {"given": SCHEMAS, "table": TABLES})  # fmt: skip
    yield "Schema.to_frame", Call(lambda x, y: ppl_vae.data.load(frame(), label="sex").schema.to_frame(x, y), fixed(x=lambda: X[:, :2], y=lambda: Y % 2), {"x": DATA, "y": LABELS})  # fmt: skip
    yield "Columns", Call(lambda columns, names, x: likelihoods.Columns(columns, names).bind((3,)).start_from(x), fixed(columns=lambda: ["real", "count", "categorical:3"], names=lambda: list("abc"), x=lambda: X[:, :3]), {"columns": KINDS, "names": KINDS})  # fmt: skip
    yield "split[]", Call(lambda index: digits().test[index], lambda: {"index": slice(3)}, {"index": {**values.NUMBERS, **values.ODDITIES, "beyond": lambda: [9999], "words": lambda: ["a"], "mask": lambda: torch.ones(300) > 0, "short mask": lambda: torch.ones(3) > 0}})  # fmt: skip
    yield "with_mask", Call(ppl_vae.missing.with_mask, lambda: {"x": X, "mask": X}, {"x": DATA, "mask": DATA})
    yield "Classifier", Call(ppl_vae.fit_classifier, lambda: {"data": digits(), "num_images": 100, **QUIET}, {"data": DATA} | numbers("num_images", "seed"))  # fmt: skip
    yield from _constructors()
    yield from _figures()


GOOD = {models.Regressor: {"event_shape": (1, 4, 4)}, models.QuantileMap: {"event_shape": (1,)}}


def _constructors():
    for cls, options in {
        models.VAE: {"event_shape": SHAPES, "prior": PARTS, "likelihood": PARTS, "decoder": NETS},
        models.Discrete: {"event_shape": SHAPES, "likelihood": PARTS, "decoder": NETS} | numbers("num_variables", "num_classes", "temperature"),
        models.Hierarchical: {"event_shape": SHAPES, "prior": PARTS, "latent_dim": NUMBER, "decoder": NETS},
        models.LinearGaussian: {"event_shape": SHAPES} | numbers("latent_dim", "sigma"),
        models.CVAE: {"event_shape": SHAPES, "condition": PARTS, "prior": PARTS, "likelihood": PARTS, "networks": PARTS},
        models.Regressor: {"event_shape": SHAPES, "condition": PARTS, "likelihood": PARTS, "networks": PARTS},
        models.QuantileMap: {"event_shape": SHAPES, "sigma": NUMBER, "weights": WIDTHS, "means": WIDTHS, "scales": WIDTHS},
    }.items():  # fmt: skip
        yield cls.__name__, Call(cls, partial(dict, GOOD.get(cls, {"event_shape": (DIM,)})), options)
    for cls in (guides.MeanField, guides.FullCovariance, guides.Flow, guides.Hierarchical, guides.Discrete, guides.Conditional, guides.SemiSupervised, guides.LinearGaussian):  # fmt: skip
        known = {"model": THING, "encoder": NETS, "posterior": PARTS, "kind": WORD, "direction": WORD, "hidden": WIDTHS, "classifier": NETS}  # fmt: skip
        known |= numbers("transforms", "context_dim", "temperature")
        taken = _parameters(cls)
        make = {guides.Hierarchical: models.Hierarchical, guides.Discrete: models.Discrete, guides.LinearGaussian: models.LinearGaussian}.get(cls)  # fmt: skip
        if make is None:
            make = (lambda shape: cvae()[0]) if cls in (guides.Conditional, guides.SemiSupervised) else lambda shape: vae()[0]  # fmt: skip
        yield f"guides.{cls.__name__}", Call(cls, partial(lambda make: {"model": make((DIM,))}, make), {k: v for k, v in known.items() if k in taken})  # fmt: skip
    of_part = numbers("latent_dim", "df", "num_components", "transforms", "total_count", "num_levels", "sigma", "scale", "initial_sigma", "initial_scale", "context_dim", "blocks", "beta", "num_particles", "free_nats", "epochs", "weight", "num_classes")  # fmt: skip
    of_part |= {"hidden": WIDTHS, "channels": WIDTHS, "kind": WORD, "activation": WORD, "inputs": DATA, "in_shape": SHAPES, "out_shape": SHAPES, "per_dimension": SWITCH, "elbo": OBJECTIVES}  # fmt: skip
    for room in (priors, likelihoods, posteriors, networks, objectives, preprocessing):
        for name in room.__all__:
            cls = getattr(room, name)
            if not isinstance(cls, type) or cls.__module__.startswith("pyro") or name in ("SitePosteriors", "Network"):
                continue
            pools = {k: v for k, v in of_part.items() if k in _parameters(cls)}
            good = {"in_shape": (2,), "out_shape": (1, 4, 4) if getattr(cls, "of_images", False) else (DIM,), "latent_dim": 2}  # fmt: skip
            if pools:
                yield f"{room.__name__}.{name}", Call(cls, partial(lambda good: dict(good), {k: v for k, v in good.items() if k in _parameters(cls)}), pools)  # fmt: skip
    yield "Label", Call(Label, lambda: {"num_classes": 3}, {"num_classes": NUMBER})


def _figures():
    yield (
        "plots.images",
        Call(plots.images, lambda: {"x": PIXELS}, {"x": PICTURES, "columns": NUMBER, "title": WORD, "smooth": SWITCH}),
    )
    yield "plots.history", Call(plots.history, lambda: {"record": history()}, {"record": RESULTS, "title": WORD})
    yield "plots.bound", Call(plots.bound, lambda: {"evidence": evidence()}, {"evidence": RESULTS})
    yield "plots.tile", Call(plots.tile, lambda: {"images": PIXELS, "columns": 2}, {"images": PICTURES, "columns": NUMBER})  # fmt: skip
    yield "plots.manifold", Call(plots.manifold, lambda: {"x": torch.zeros(3, 3, 1, 8, 8)}, {"x": PICTURES})
    yield "plots.reconstructions", Call(plots.reconstructions, lambda: {"x": PIXELS, "reconstructed": PIXELS}, {"x": PICTURES, "reconstructed": PICTURES})  # fmt: skip
    yield "plots.series", Call(plots.series, lambda: {"sets": {"a": torch.zeros(4, 1, 300, 1)}}, {"sets": {**values.ODDITIES, "of images": lambda: {"a": PIXELS}}})  # fmt: skip
    yield "plots.columns", Call(plots.columns, lambda: {"sets": {"a": X, "b": X + 1}}, {"sets": {**values.ODDITIES, "of images": lambda: {"a": PIXELS}, "two shapes": lambda: {"a": X, "b": PIXELS}, "inf": lambda: {"a": X / 0}, "of words": lambda: {"a": np.array(["a"])}}, "names": {**values.ODDITIES, "one": lambda: ["a"], "numbers": lambda: [1, 2, 3, 4], "array": lambda: np.arange(4)}, "categories": {**values.ODDITIES, "of nothing": lambda: {0: []}, "a number": lambda: {0: 3}, "beyond": lambda: {9: ["a"]}}, "most": NUMBER, "title": WORD})  # fmt: skip
    yield "plots.column_distance", Call(plots.column_distance, lambda: {"a": [1.0], "b": [2.0]}, {"a": DATA, "b": DATA, "is_categories": SWITCH})  # fmt: skip
    yield "plots.side_by_side", Call(plots.side_by_side, lambda: {"panels": {"a": PIXELS}, "columns": 2}, {"panels": {**values.ODDITIES, "of data": lambda: {"a": X}}, "columns": NUMBER})  # fmt: skip


def _parameters(cls):
    import inspect

    return set(inspect.signature(cls).parameters)


CALLS = dict(_calls())


def cases(count, seed=0):
    """Return so many cases, chosen by a seed: all pools come in turn, so that each is met."""
    choose, names, found = random.Random(seed), list(CALLS), []
    weights = [sum(map(len, CALLS[name].pools.values())) ** 0.5 for name in names]
    for _ in range(count):
        call = choose.choices(names, weights)[0]
        pools = CALLS[call].pools
        many = choose.choice((1, 1, 1, 2)) if len(pools) > 1 else 1
        changed = [(name, choose.choice(list(pools[name]))) for name in sorted(choose.sample(sorted(pools), many))]
        found.append(Case(call, tuple(changed)))
    return found


def every():
    """Return each value in each argument of each call, one at a time."""
    return [Case(c, ((n, v),)) for c in CALLS for n, pool in CALLS[c].pools.items() for v in pool]


def judged(case):
    """Make a call; return what is wrong with how it ends, or None."""
    call = CALLS[case.call]
    with _quietly(), tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        arguments = call.arguments()
        for name, value in case.changed:
            try:
                arguments[name] = call.pools[name][value]()
            except SENTENCES as problem:
                return _of_sentence(problem)
        with _limited():
            try:
                call.function(**arguments)
            except SENTENCES as problem:
                return _of_sentence(problem)
            except AssertionError as problem:  # the verdict of `check_bound`
                if case.call == "check_bound" and str(problem).startswith("Expected "):
                    return None
                return _in_short(problem)
            except TypeError as problem:
                if _is_pythons_own(problem):
                    return None
                return _in_short(problem)
            except Hang:
                return f"more than {SECONDS} s"
            except Exception as problem:
                return _in_short(problem)
    return None


def run(count, seed=0):
    """Return the failures of so many cases, each a line."""
    return [f"{case}: {wrong}" for case in cases(count, seed) if (wrong := judged(case))]


def _of_sentence(problem):
    words = str(problem)
    if "\n" in words:
        return f"several lines: {words!r:.300}"
    if len(words) > LETTERS:
        return f"{len(words)} letters: {words[:200]}..."
    return None


def _is_pythons_own(problem):
    """Return whether Python refuses the arguments themselves, at the call that we make."""
    depth = len(traceback.extract_tb(problem.__traceback__))
    return depth <= 2 and "argument" in str(problem)


def _in_short(problem):
    frames = [f for f in traceback.extract_tb(problem.__traceback__) if "/ppl_vae/" in f.filename or "/models/" in f.filename or "/guides/" in f.filename]  # fmt: skip
    place = f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "?"
    return f"{type(problem).__name__} at {place}: {str(problem)[:160]!r}"


@contextlib.contextmanager
def _quietly():
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stderr(io.StringIO()),
        contextlib.redirect_stdout(io.StringIO()),
    ):
        warnings.simplefilter("ignore")
        yield


@contextlib.contextmanager
def _limited():
    """Within it, a call has so many seconds and so much memory more than there is already."""
    most = resource.getrlimit(resource.RLIMIT_AS)
    now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize() if Path("/proc").exists() else 0
    if now:
        resource.setrlimit(resource.RLIMIT_AS, (now + MEMORY, most[1]))
    try:
        with limited():
            yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, most)
