"""log P(x, u) and log Q(u | x) of any rows of the data, with slope and curvature, each recorded once for all of them.

A record takes u and the data as its arguments, so that one serves every chunk of the same size; it is compiled where
the work is long enough. Rows that are fewer than a chunk are filled up, so that there are few sizes.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pyro
import torch
from torch import Tensor

from ppl_vae.compilation.capture import CannotCapture, capture, check_tensors, compiled_or_none, compiling_pays, turned
from ppl_vae.compilation.record import DENSITIES, Likeness, Tensors, alike, record
from ppl_vae.evidence.at_once import plated_or_copied
from ppl_vae.evidence.prepare import Chunk, Prepared
from ppl_vae.evidence.tempered import Latents
from ppl_vae.traces.anywhere import check_random_at_sites
from ppl_vae.utils.rng import seeded
from ppl_vae.utils.threads import Threads

FEW = 12  # calls of one size before it is recorded, which takes as long
CURVATURES = Likeness(1e-3, 1e-2)  # sums over many terms, twice differentiated
Kind = Callable[..., Tensors]  # of latents, u and more
OTHERWISE = "Use method='importance' with proposal='guide'."


def both(latents: Latents, u: Tensor) -> Tensors:
    """Return log P(x, u) and log Q(u | x), [C, N] each."""
    joint, base = latents.densities(u)
    return joint, base.clone()


def slope(latents: Latents, u: Tensor) -> Tensors:
    """Return log P(x, u), [C, N], and its gradient, [C, N, D]."""
    with torch.enable_grad():
        u = u.detach().requires_grad_()
        value = latents.joint(u)
        (gradient,) = torch.autograd.grad(value.sum(), u)
    return value.detach(), gradient


def likelihood_slope(latents: Latents, u: Tensor) -> Tensors:
    """Return log P(x | u), [C, N], and its gradient, [C, N, D], of latents whose base is the prior."""
    with torch.enable_grad():
        u = u.detach().requires_grad_()
        value = latents(u)[1]
        (gradient,) = torch.autograd.grad(value.sum(), u, materialize_grads=True) if value.requires_grad else (0 * u,)
    return value.detach(), gradient.detach()


def slopes(latents: Latents, u: Tensor) -> Tensors:
    """Return log P(x, u) and log Q(u | x), [C, N] each, and their gradients, [C, N, D] each."""
    with torch.enable_grad():
        u = u.detach().requires_grad_()
        values = both(latents, u)
        gradients = [torch.zeros_like(u), torch.zeros_like(u)]
        for i, value in enumerate(values):
            if value.requires_grad:
                (gradients[i],) = torch.autograd.grad(value.sum(), u, retain_graph=i == 0, materialize_grads=True)
    return (*(value.detach() for value in values), *gradients)


def curvature(latents: Latents, u: Tensor, directions: Tensor) -> Tensors:
    """Return the products of the Hessian of log P(x, u) with R directions [R, C, N, D]."""
    with torch.enable_grad():
        u = u.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(latents.joint(u).sum(), u, create_graph=True)
        if not gradient.requires_grad:  # log P is linear, as that of a Laplace prior alone
            return (torch.zeros_like(directions),)
        (products,) = torch.autograd.grad(
            gradient, u, grad_outputs=directions, is_grads_batched=True, materialize_grads=True
        )
    return (products.contiguous(),)


def resolved(latents: Latents, u: Tensor) -> Tensors:
    """Return 1 where numbers of this precision tell u [C, N, D] apart once it is z, else 0, [C, N]."""
    return (latents.resolved(u).to(u.dtype),)


LIKENESS: dict[Kind, Likeness] = {curvature: CURVATURES}


class Surface:
    """The density of a pair over unconstrained u, at rows of its data; Q is the guide, or the prior."""

    def __init__(self, prepared: Prepared, proposal: str, wanted: bool | str, threads: Threads) -> None:
        self.prepared = plated_or_copied(prepared, proposal)
        self.wanted, self.threads = wanted, threads
        first = next(self.prepared.chunks(1))
        self.prior = Latents(self.prepared.pair, first, self.prepared.structure, "prior")
        self.q = Latents(self.prepared.pair, first, self.prepared.structure, proposal)
        if self.q.from_guide:
            check_random_at_sites(self.prepared.pair.guide, self.q.trace, "as part of a mixture", OTHERWISE)
        self.size = sum(rest.numel() for rest in self.prior.layouts.values())  # D
        self._calls: dict[Any, int] = {}
        self._fast: dict[Any, Callable[..., Tensors]] = {}

    def __call__(self, kind: Kind, chunk: Chunk, *args: Tensor, calls: int = 0) -> Tensors:
        """Evaluate a kind of numbers for a chunk at u [C, N, D] (and more); so many calls of this size are to come."""
        latents = self.q if kind in (both, slopes) else self.prior
        key = (kind, *(tuple(arg.shape) for arg in args), chunk.size)
        known = self._fast.get(key)
        with torch.no_grad(), pyro.validation_enabled(False):
            if chunk.subsample is not None:  # which data these are is no argument of the programs
                return kind(latents.of(chunk), *args)
            if known is not None:
                work = partial(known, *map(_laid_out, args), *chunk.args)
                try:
                    return self.threads.run(work, partial(self._trial, known, args, chunk))
                except RuntimeError:  # its shapes depend on values, as of a spline that ends: run as it is from here on
                    self._fast[key] = self._plain(kind, latents, len(args))
                    return kind(latents.of(chunk), *args)
            self._calls[key] = self._calls.get(key, 0) + 1
            if (calls > FEW and self._calls[key] == 1) or self._calls[key] > FEW:
                self._fast[key] = self._faster(kind, latents, chunk, args, calls)
            return kind(latents.of(chunk), *args)

    def _faster(self, kind: Kind, latents: Latents, chunk: Chunk, args: Tensors, calls: int) -> Callable[..., Tensors]:
        """Return a record of a kind of numbers, compiled where that pays; the plain function where it has none."""
        plain = self._plain(kind, latents, len(args))
        examples = (*map(_laid_out, args), *chunk.args)
        try:
            check_tensors(chunk.args)
            graph = record(plain, *examples)
            others = (*examples[: len(args)], *turned(chunk.args)) if len(chunk.args[0]) > 1 else examples
            likeness = LIKENESS.get(kind, DENSITIES)
            for some in (examples, others):
                if not alike(graph(*some), plain(*some), likeness):
                    return plain
            seconds = self._seconds(graph, examples)
        except Exception:  # whatever a program does that cannot be recorded, it can be run
            return plain
        pays = compiling_pays(calls * seconds, num_nodes=len(graph.graph.nodes))
        wanted = self.wanted is True or (self.wanted == "auto" and pays)
        if not wanted:
            return graph

        def make() -> Callable[..., Tensors]:
            function = capture(plain, *examples)
            if not alike(function(*others), plain(*others), likeness):
                raise CannotCapture("the program does something else on each run")
            return function

        fast = compiled_or_none(make, "Densities are not compiled") or graph
        self.threads.choose(partial(self._trial, fast, args, chunk), calls)
        return fast

    @staticmethod
    def _plain(kind: Kind, latents: Latents, count: int) -> Callable[..., Tensors]:
        """Return a kind of numbers as a function of so many tensors and the data after them."""

        def plain(*tensors: Tensor) -> Tensors:
            data = tensors[count:]
            return kind(latents.of(Chunk(data, None, len(data[0]))), *tensors[:count])

        return plain

    def _seconds(self, function: Callable[..., Tensors], examples: Tensors) -> float:
        seconds = []
        for _ in range(2):
            start = time.perf_counter()
            function(*examples)
            seconds.append(time.perf_counter() - start)
        return min(seconds)

    @contextmanager
    def _trial(self, function: Callable[..., Tensors], args: Tensors, chunk: Chunk) -> Iterator[Callable[[], object]]:
        with pyro.validation_enabled(False), seeded(0), torch.no_grad():
            yield partial(function, *map(_laid_out, args), *chunk.args)


def _laid_out(value: Tensor) -> Tensor:
    return value.contiguous()
