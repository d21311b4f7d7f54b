"""Ancestral sampling, z ~ P(z) and then x ~ P(x | z), some data at a time, compiled where that pays.

What a program of ours generates is what it returns; of any other Pyro program it is the site x, else the last.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger
from torch import Tensor
from torch.distributions import constraints

from ppl_vae import base
from ppl_vae.compilation.capture import LARGE, CannotCapture, Function, capture, compiled_or_none, pays
from ppl_vae.compilation.record import SAMPLES, alike
from ppl_vae.data.checks import outside_message
from ppl_vae.distributions.unwrap import base_of
from ppl_vae.errors import InputError
from ppl_vae.traces.pair import Pair, Program, unchanged
from ppl_vae.traces.plates import data_name, samples
from ppl_vae.traces.sites import Site
from ppl_vae.utils.threads import Threads, Work

Conditions = dict[str, Tensor]


class Ancestral:
    """Generates data by a model, E[x | z] with `mean`, within `pair.running()` and `pair.evaluating()`."""

    def __init__(self, pair: Pair, mean: bool, threads: Threads) -> None:
        self.pair, self.mean, self.threads = pair, mean, threads
        self._compiled: Any = None
        self._size = 0  # of the chunks that are compiled

    def __call__(self, size: int, given: Conditions) -> Tensor:
        """Generate x, [size, *event_shape], given some conditions, which have to be in range."""
        return self.threads.run(partial(self._run, size, given), partial(self._trial, size, given))

    def _run(self, size: int, given: Conditions) -> Tensor:
        if self._compiled is None or size != self._size:
            return self._by_pyro(size, given)
        before = torch.get_rng_state()
        x, *fine = self._compiled(*given.values())
        if all(map(bool, fine)):
            return torch.as_tensor(x)
        torch.set_rng_state(before)
        return self._by_pyro(size, given)  # which says what is wrong

    def compile(self, size: int, chunks: list[Conditions], wanted: bool | str) -> None:
        """Choose the number of threads; compile chunks of a size, if wanted, or "auto" and they pay for it."""
        if not chunks:
            return
        trial = partial(self._trial, size, chunks[0])
        self.threads.choose(trial, len(chunks))
        if pays(wanted, trial, len(chunks), few=LARGE):
            self._compiled, self._size = compiled_or_none(partial(self._captured, size, chunks)), size
            if self._compiled is not None:
                self.threads.choose(trial, len(chunks))

    def _captured(self, size: int, chunks: list[Conditions]) -> Function:
        names = list(chunks[0])

        def plain(*values: Tensor) -> tuple[Tensor, ...]:
            return self._with_flags(size, dict(zip(names, values, strict=True)))

        # Rows from everywhere: Python that looks at conditions shows by those of other chunks, if at all.
        mixed = tuple(_mixed([chunk[name] for chunk in chunks]) for name in names)
        with unchanged(self.pair, []), torch.no_grad():
            function = capture(plain, *_copies(chunks[0].values()))
        for seed, values in enumerate((tuple(chunks[0].values()), mixed)):
            if not self._agree(plain, function, values, seed):
                raise CannotCapture(
                    "the program, compiled, generates something else (it looks at values, or this PyTorch "
                    "compiles other draws)"
                )
        return function

    @contextmanager
    def _trial(self, size: int, given: Conditions) -> Iterator[Work]:
        copies = dict(zip(given, _copies(given.values()), strict=True))
        with unchanged(self.pair, []), torch.no_grad():
            yield partial(self._run, size, copies)

    def _by_pyro(self, size: int, given: Conditions) -> Tensor:
        x, sites = generated(self.pair.model, self.mean, size=size, **given)
        for name, site in sites.items():
            if site["is_observed"]:
                check_range(name, site["fn"], site["value"])
        return x

    def _with_flags(self, size: int, given: Conditions) -> tuple[Tensor, ...]:
        """Return x, and what has to be true of it and of its conditions, as numbers."""
        x, sites = generated(self.pair.model, self.mean, size=size, **given)
        flags = [in_support(site["fn"], site["value"]) for site in sites.values() if site["is_observed"]]
        flags += [flag for site in sites.values() for flag in _in_domain(site["fn"])]
        return (x, *(flag.to(x.device).float() for flag in (torch.isfinite(x).all(), *flags)))

    def _agree(self, plain: Function, function: Function, values: tuple[Tensor, ...], seed: int) -> bool:
        """Return whether both generate the same for the same noise, and have drawn as much of it."""
        results = []
        for one in (plain, function):
            with unchanged(self.pair, [], seed), torch.no_grad():
                results.append((*one(*_copies(values)), torch.rand((), device=self.pair.device)))
        (x, *others), (expected, *expected_others) = results
        finite = torch.where(expected.isfinite(), expected, 0.0).double()
        spread = (finite - finite.mean(0)).abs().mean(0)  # each number of a datum is held on its own scale
        return alike([x], [expected], SAMPLES, [spread]) and all(map(torch.equal, others, expected_others))


def _copies(values: Iterable[Tensor]) -> list[Tensor]:
    """Return what a program can be tried on: it may write to what it is given."""
    return [value.clone() for value in values]


def _mixed(parts: list[Tensor]) -> Tensor:
    """Return as many rows as a part has, evenly spaced over all parts."""
    size = len(parts[0])
    rows = [i * (len(parts) * size - 1) // max(1, size - 1) for i in range(size)]
    return torch.stack([parts[row // size][row % size] for row in rows])


class AtMean(Messenger):
    """Let the data of a program of ours be at their mean instead of drawn."""

    def __init__(self, mean: bool) -> None:
        super().__init__()
        self.mean = mean

    def _pyro_post_sample(self, msg: Any) -> None:
        if self.mean and msg["name"] == "x" and not msg["is_observed"]:
            msg["value"] = msg["fn"].mean


def generated(program: Program, mean: bool, /, *args: Any, **kwargs: Any) -> tuple[Tensor, dict[str, Site]]:
    """Run a program; return the data it generates, or E[x | z] with `mean`, and its sites."""
    with AtMean(mean):
        trace = poutine.trace(program).get_trace(*args, **kwargs)
    sites = samples(trace)
    if isinstance(Pair(program).modules.get("model"), base.Model):
        x: Any = trace.nodes["_RETURN"]["value"]
        return x, sites
    site = sites[data_name(sites)]
    return site["fn"].mean if mean else site["value"], sites


def check_range(name: str, fn: Any, value: Tensor) -> None:
    """Refuse a condition that its site cannot have."""
    if not bool(in_support(fn, value)):
        raise InputError(outside_message(name, fn, value))


def in_support(fn: Any, value: Tensor) -> Tensor:
    """Return whether all of the values are in the support of a distribution, a scalar."""
    return torch.as_tensor(fn.support.check(value).all())


def _in_domain(fn: Any) -> list[Tensor]:
    """Return whether each parameter of a distribution is one that it can have, as PyTorch's validation asks."""
    fn = base_of(fn)
    given = {name: constraint for name, constraint in fn.arg_constraints.items() if name in vars(fn)}
    known = {name: constraint for name, constraint in given.items() if not constraints.is_dependent(constraint)}
    return [torch.as_tensor(constraint.check(getattr(fn, name)).all()) for name, constraint in known.items()]
