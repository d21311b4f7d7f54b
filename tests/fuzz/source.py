"""A described pair as the Python source of two Pyro programs, which runs as it is printed."""

import re
from textwrap import indent

import numpy as np

HEADER = """import math
from contextlib import ExitStack, nullcontext

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.infer.reparam import LocScaleReparam, TransformReparam
from pyro.nn import PyroModule
from torch import nn, tensor
from torch.distributions.transforms import AffineTransform, SigmoidTransform

from ppl_vae.missing import Observed


def pick(c, *values):
    return tensor(values)[c.long()]


def dot(c, *values):
    return c @ tensor(values)


def number(value):
    return torch.as_tensor(value, dtype=torch.float)


def of_numbers(function):
    return lambda value: function(number(value))


tanh, exp, log, sigmoid, cos, sin = map(
    of_numbers, (torch.tanh, torch.exp, torch.log, torch.sigmoid, torch.cos, torch.sin)
)


def together(*values):
    return torch.stack(torch.broadcast_tensors(*map(number, values)), -1)


def two_pieces(low, left, right, high):
    pieces = dist.Uniform(together(low, right), together(left, high), validate_args=False)
    return dist.MixtureSameFamily(dist.Categorical(torch.ones(*pieces.batch_shape)), pieces, validate_args=False)
"""
NAMES = re.compile(r"(?<![\w.])(?!pick|dot|tanh|exp|log|sigmoid|cos|sin)[A-Za-z]\w*")


def _literal(array):
    return (
        "tensor("
        + np.array2string(np.asarray(array), separator=", ", max_line_width=110, floatmode="unique")
        .replace("\n", "\n    ")
        .replace("nan", "math.nan")
        + ")"
    )


class Writer:
    """The source of one pair."""

    def __init__(self, pair):
        self.pair, self.layout = pair, pair.layout
        self.looped = self.layout in ("loop", "steps")
        self.members = self.layout == "members"
        self.onehot = {s.name for s in pair.model.sites if s.family == "OneHotCategorical"}
        self.latent = {s.name for s in (*pair.model.sites, *pair.guide) if not s.observed} | {"y", "aux"}

    # ---- expressions

    def expr(self, text, site, guide=False):
        """An expression of the description, in the shapes of the layout."""

        def name(match):
            n = match.group()
            if n == "w":
                return {"members left": "w[:, None]", "loop": "w[j]", "steps": "w[j]"}.get(self.layout, "w")
            if guide and n == "y":
                return self.by_datum(n)
            if n.startswith("T_"):
                return self.table(n, self.pair.tables[n].ndim == 2)
            if self.layout == "event" and site.member and n in self.latent and n not in self.onehot:
                return f"{n}[..., None]"
            return n

        text = NAMES.sub(name, text)
        if self.layout == "event" and site.member:
            text = re.sub(r"(dot\([^()]*\))", r"\1[..., None]", text)
        return text

    def table(self, n, member):
        if member:
            return {"members left": f"{n}[k].T", "loop": f"{n}[k, j]", "steps": f"{n}[k, j]"}.get(
                self.layout, f"{n}[k]"
            )
        return f"{n}[k][:, None]" if self.members else f"{n}[k]"

    def by_datum(self, n):
        return f"{n}[:, None]" if self.members else n

    def fn(self, site, *, guide=False):
        """The distribution of a site."""
        args = [self.expr(a, site, guide) for a in site.args]
        event = self.layout == "event" and site.member
        if site.name == self.main and not guide:
            at = 1 if site.family == "StudentT" else 0
            args[at] = (
                f"{args[at]} + 0 * b" if site.family not in ("Poisson", "Bernoulli") else f"({args[at]}) * exp(0 * b)"
            )
        if site.name == self.main and not guide and "noise in the model" in self.pair.extras:
            args[-1] = f"({args[-1]}) * torch.exp(0.5 * torch.randn(zeros.shape))"
        if guide and site.family in ("Normal", "StudentT", "LogNormal"):
            args[-2] = f"{args[-2]} + g"
        if event:
            args = [f"{a} + 0 * w" if i == len(args) - 1 else a for i, a in enumerate(args)]
        elif (self.pair.plate in ("no size", "none") and not guide) or (
            guide and not any("T_" in a for a in site.args)
        ):
            args[0] = f"{args[0]} + zeros"
        families = {
            "Categorical": "dist.Categorical(together({}))",
            "OneHotCategorical": "dist.OneHotCategorical(together({}))",
            "RelaxedOneHotCategorical": "dist.RelaxedOneHotCategoricalStraightThrough(tensor(0.5), probs=together({}))",
            "RelaxedBernoulli": "dist.RelaxedBernoulliStraightThrough(tensor(0.5), probs={})",
            "TwoPieces": "two_pieces({})",
            "LogitNormal": "dist.TransformedDistribution(dist.Normal({0}, {1}), [SigmoidTransform()])",
            "IntervalNormal": "dist.TransformedDistribution(dist.Normal({0}, {1}), "
            "[SigmoidTransform(), AffineTransform({2}, {3} - ({2}))])",
        }
        form = families.get(site.family, f"dist.{site.family}({{}})")
        if guide and site.family == "Delta" and site.name in self.onehot:
            return f"dist.Delta(nn.functional.one_hot({args[0]}.long(), 3).float(), event_dim=1)"
        text = form.format(*args) if "{0}" in form else form.format(", ".join(args))
        if event and "missing" in self.pair.extras:
            return f"Observed({text}, 1)" if self.pair.seed % 2 else f"{text}.mask(~x.isnan()).to_event(1)"
        if self.members and site.observed == "x" and "missing" in self.pair.extras:
            return f"Observed({text}, 0)" if self.pair.seed % 2 else f"{text}.mask(~x.isnan())"
        return f"{text}.to_event(1)" if event else text

    # ---- statements

    def site(self, site, *, guide=False):
        pair, observed = self.pair, bool(site.observed)
        if site.how.get("vector"):
            return self.vector(site, guide=guide)
        name = f'f"{site.name}_{{j}}"' if self.looped and site.member else f'"{site.name}"'
        fn, options, infer = self.fn(site, guide=guide), [], dict(site.infer)
        if site.how.get("auxiliary") and "auxiliary, hidden" in pair.extras:
            return f"{site.name} = torch.randn(zeros.shape)"
        if site.how.get("auxiliary") and "auxiliary" in pair.extras:
            infer["is_auxiliary"] = True
        if site.enumerated and not guide:
            infer["enumerate"] = "parallel"
        data = self.data_of(site) if observed else ""
        if observed and "likelihood by factor" in pair.extras and site.name == self.main:
            fn = f"{fn}.log_prob({data})"
            return f"pyro.factor({name}, {fn})"
        if observed:
            options.append(f"obs={data}")
        conditioned = site.name in pair.model.given
        if observed and pair.mask == "observed fn" and not conditioned:
            fn = f"{fn}.mask(m)"
        if observed and pair.mask == "obs_mask" and not conditioned:
            options.append("obs_mask=m")
        if infer:
            options.append(f"infer={infer}")
        call = f"pyro.sample({', '.join([name, fn, *options])})"
        return call if observed and not conditioned else f"{site.name} = {call}"

    def vector(self, site, *, guide):
        """Two numbers as one site: written where the first of them stands."""
        name = site.how["vector"]
        if site.name != name:
            return f"{site.name} = {name}_all[..., 1]\n{name} = {name}_all[..., 0]"
        pair = self.pair.guide if guide else self.pair.model.sites
        other = next(s for s in pair if s.how.get("vector") == name and s.name != name)
        args = [
            f"together({self.expr(a, site, guide)}{' + zeros' * (i == 0)}, {self.expr(b, site, guide)})"
            for i, (a, b) in enumerate(zip(site.args, other.args, strict=True))
        ]
        if guide:
            args[0] += " + g"
        return f'{name}_all = pyro.sample("{name}", dist.Normal({", ".join(args)}).to_event(1))'

    def data_of(self, site):
        if self.layout == "markov":
            return f"x[:, {site.observed[2:]}]"
        text = site.observed
        if site.observed == "x" and "missing" in self.pair.extras and not self.pair.seed % 2:
            text = "x.nan_to_num(0.25)"
        if not site.member:
            return self.by_datum(text)
        return {"members left": f"{text}.T", "loop": "x[:, j]", "steps": "x[:, j]"}.get(self.layout, text)

    def body(self, sites, *, guide):
        """The statements inside the plate over the data."""
        pair, lines = self.pair, []
        if self.layout == "markov" and pair.seed % 2 and not guide:
            return self.markov(sites)
        of_datum = [s for s in sites if not s.member or self.layout == "event"]
        of_member = [s for s in sites if s not in of_datum]
        first = True
        for site in of_datum:
            lines += self.wrapped(site, guide)
            if (
                not site.observed
                and first
                and not site.how.get("vector")
                and "deterministic" in pair.extras
                and site.family != "OneHotCategorical"
            ):
                lines.append(f'pyro.deterministic("{"e" if guide and pair.seed % 2 else "d"}", 2.0 * {site.name} + 1)')
            first = first and bool(site.observed)
        if of_member:
            lines.append(
                {
                    "loop": f"for j in range({pair.num_members}):",
                    "steps": f'for j in pyro.plate("steps", {pair.num_members}):',
                    "members": f'with pyro.plate("members", {pair.num_members}, dim=-1):',
                    "members left": f'with pyro.plate("members", {pair.num_members}, dim=-2):',
                }[self.layout]
            )
            lines += [indent(line, "    ") for site in of_member for line in self.wrapped(site, guide)]
        if pair.model.factor and not guide:
            factor = self.expr(pair.model.factor, Nowhere)
            lines.append(f'pyro.factor("extra", {factor})')
        return lines

    def markov(self, sites):
        """The three steps of a chain as a loop."""
        start, step = sites[0].args[0], sites[2].args[0].replace("c_0", "before")
        mean, scale = sites[1].args
        fn = f"dist.Normal({mean.replace('c_0', 'c')} + 0 * b, {scale})"
        sample = f'pyro.sample(f"x_{{t}}", {fn}, obs=x[:, t])'
        return [
            "before = None",
            "for t in pyro.markov(range(3)):",
            f"    p = {start} + zeros if t == 0 else {step}",
            '    c = pyro.sample(f"c_{t}", dist.Bernoulli(p), infer={"enumerate": "parallel"})',
            f"    with poutine.mask(mask={'m' if self.pair.mask == 'observed' else 'True'}):",
            f"        {sample}",
            "    before = c",
        ]

    def wrapped(self, site, guide):
        pair, text = self.pair, self.site(site, guide=guide)
        if guide or not site.observed or site.name in pair.model.given:
            return [text]
        contexts = []
        if pair.mask == "observed":
            contexts.append("poutine.mask(mask=m)")
        if "scale" in pair.extras and site.name == self.main:
            contexts.append("poutine.scale(scale=0.5)")
        return [f"with {', '.join(contexts)}:", indent(text, "    ")] if contexts else [text]

    def plate(self, guide):
        kind, dim = self.pair.plate, ", dim=-2" if self.members else ", dim=-1"
        return {
            "sized": f'pyro.plate("data", n{dim})',
            "no size": f'pyro.plate("data"{dim})',
            "own name": f'pyro.plate("documents", n{dim})',
            "two names": f'pyro.plate("{"rows" if guide else "data"}", n{dim})',
            "sizes differ": f'pyro.plate("data", {"n" if guide else "300"}, subsample=torch.arange(n){dim})',
            "stands for more": f'pyro.plate("data", 300, subsample=torch.arange(n){dim})',
            "subsample": f'pyro.plate("data", n, subsample=x{dim})',
            "none": "nullcontext()",
        }[kind]

    def program(self, name, sites, parameter, *, guide):
        pair = self.pair
        lines = [f"{parameter} = PARAMETER", "n = len(x)", f"zeros = torch.zeros({'n, 1' if self.members else 'n'})"]
        if pair.seen is not None:
            lines.append(f"m = {self.by_datum('M[k]')}")
        if "global" in pair.extras:
            lines.append('g_all = pyro.sample("g_all", dist.Normal(0.0, 1.0))')
        body = self.body(sites, guide=guide)
        if guide:
            body = (
                self.guide_extras()
                + body
                + (
                    ['pyro.factor("guided", 0.7 + zeros, has_rsample=False)']
                    if "factor in the guide" in pair.extras
                    else []
                )
            )
        masked = pair.mask == "both" or pair.mask == ("guide only" if guide else "model only")
        context = self.plate(guide) + (", poutine.mask(mask=m)" if masked else "")
        lines += [f"with {context}:", *(indent(line, "    ") for line in body or ["pass"])]
        arguments = ", ".join(self.arguments)
        if "modules" not in pair.extras:
            made = f'pyro.param("{parameter}", tensor(0.0))'
            text = indent("\n".join(lines), "    ").replace("PARAMETER", made)
            return f"def {name}({arguments}):\n{text}\n"
        base = "PyroModule" if pair.seed % 3 else "nn.Module"
        text = indent("\n".join(lines), " " * 8).replace("PARAMETER", f"self.{parameter}")
        if base == "nn.Module":
            text = f'        pyro.module("{name}", self)\n{text}'
        setup = f"        super().__init__()\n        self.{parameter} = nn.Parameter(tensor(0.0))"
        cls = name.capitalize()
        return (
            f"class {cls}({base}):\n    def __init__(self):\n{setup}\n\n"
            f"    def forward(self, {arguments}):\n{text}\n\n\n{name} = {cls}()\n"
        )

    def guide_extras(self):
        extras, lines = self.pair.extras, []
        for marked in (True, False):
            if f"observed in the guide{', marked' * marked}" in extras:
                y = "y" in self.pair.data and "condition" not in extras
                value = self.by_datum("y") if y else "zeros"
                infer = ', infer={"is_auxiliary": True}' if marked else ""
                name = "y" if y else "seen"
                lines.append(f'pyro.sample("{name}", dist.Normal(0.3 + zeros, 1.5), obs={value}{infer})')
        return lines

    @property
    def arguments(self):
        return ["x", *(["y"] if "y" in self.pair.data else []), "k"]

    @property
    def main(self):
        return next(s.name for s in reversed(self.pair.model.sites) if s.observed)

    def source(self):
        pair, sites = self.pair, self.pair.model.sites
        lines = [f"{n} = {_literal(v)}" for n, v in (*pair.model.constants.items(), *pair.tables.items())]
        if pair.seen is not None:
            lines.append(f"M = tensor({pair.seen.tolist()})")
        x = np.stack([pair.data[f"x_{t}"] for t in range(3)], 1) if self.layout == "markov" else pair.data["x"]
        lines.append(f"x = {_literal(x)}")
        if "y" in pair.data:
            lines.append(f"y = {_literal(pair.data['y'])}")
        lines += [f"k = torch.arange({len(x)})", "", ""]
        model = self.program("model", sites, "b", guide=False)
        if "global" in pair.extras:
            model = model.replace("+ 0 * b", "+ 0 * b + g_all")
        if "reparam" in pair.extras and (at := next((s for s in pair.guide if s.how.get("reparam")), None)):
            how = "LocScaleReparam(0.0)" if at.name.endswith("decentered") else "TransformReparam()"
            model += f'\n\nmodel = poutine.reparam(model, config={{"{at.how["reparam"]}": {how}}})\n'
        parts = [HEADER, "\n".join(lines), model, ""]
        if pair.guide_kind == "none":
            parts.append("guide = None\n")
        else:
            parts.append(self.program("guide", pair.guide, "g", guide=True))
        return "\n".join(parts)


class Nowhere:
    """A site that is an expression of the datum."""

    member = False


def source_of(pair):
    """Return the programs of a pair, with their data: `model`, `guide`, and x, (y,) k."""
    return Writer(pair).source()


def programs(pair):
    """Return (model, guide, data) of a pair, made of its source."""
    space = {}
    exec(compile(source_of(pair), f"pair_{pair.seed}.py", "exec"), space)
    return space["model"], space["guide"], tuple(space[n] for n in Writer(pair).arguments)


def reproduction(pair):
    """Return a small program that shows what an estimate gives, and what is right."""
    arguments = ", ".join(Writer(pair).arguments)
    truth = "no log P(x) of each datum" if pair.truth is None else np.round(pair.truth, 4).tolist()
    proposal = ', proposal="prior"' if pair.guide_kind == "none" else ""
    return (
        f'"""Seed {pair.seed}: {", ".join(sorted(pair.productions))}."""\n{source_of(pair)}\n\nimport ppl_vae\n\n'
        f"print(ppl_vae.estimate_evidence(model, guide, ({arguments}), num_samples=2000{proposal}).log_px)\n"
        f"print({truth})\n"
    )
