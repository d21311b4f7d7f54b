"""The densities that annealing goes along, over the latents as one vector per datum in unconstrained space.

For any continuous latent sites, found from the trace: u is made of z by the inverse of the transform to each site's
support, which may depend on other sites, and

    log base(u) = log Q(z | x) + log |dz/du|  (or log P(z) + ...),    log ratio(u) = log P(x, z) - log Q(z | x).

Discrete sites are summed out by Pyro's enumeration. Pyro is run once for each chunk while its operations are recorded;
what does not depend on the latents is computed then. What was recorded is run as it is, or compiled where that pays.
"""

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger
from torch import Tensor

from ppl_vae.compilation.capture import CannotCapture, capture, compiled_or_none, pays
from ppl_vae.compilation.record import Tensors, agree, recorded
from ppl_vae.distributions.supports import is_discrete, support_of, to_support
from ppl_vae.errors import InputError
from ppl_vae.evidence.hmc import Evaluate, State, with_gradients
from ppl_vae.evidence.prepare import Chunk
from ppl_vae.traces.handlers import Substitute
from ppl_vae.traces.log_weights import Weighted, log_q_by_datum
from ppl_vae.traces.pair import Pair, Program
from ppl_vae.traces.plates import (
    Args,
    Structure,
    few,
    from_kn,
    latents,
    log_prob_by_datum,
    samples,
    sum_by_datum,
    to_kn,
    value_by_datum,
)
from ppl_vae.traces.run import copies_of, enumerating, fixed, one_more_plate, parted, plate_of, run_pair
from ppl_vae.traces.sites import Kind, Site, of_kind
from ppl_vae.utils.rng import seeded
from ppl_vae.utils.threads import Threads

RESOLVED = 0.02  # how far a number may be from itself after there and back, relative to its size and one


class _Unconstrained(Messenger):
    """Give latent sites values from unconstrained space, and keep z and log |dz/du| of each."""

    def __init__(self, values: dict[str, Tensor]) -> None:
        super().__init__()
        self.values = values
        self.constrained: dict[str, Tensor] = {}
        self.log_jacobian: dict[str, Tensor] = {}
        self.back: dict[str, Any] = {}  # the transform to each value, and the value

    def _pyro_sample(self, msg: Any) -> None:
        if msg["name"] in self.values and not msg["is_observed"]:
            u, transform = self.values[msg["name"]], _to_support(msg["fn"])
            z = transform(u)
            self.constrained[msg["name"]] = z
            self.log_jacobian[msg["name"]] = transform.log_abs_det_jacobian(u, z)
            self.back[msg["name"]] = transform, z
            msg["value"], msg["done"] = z, True


class Latents:
    """The densities of one chunk of data over its unconstrained latents; the base is the guide or the prior."""

    def __init__(self, pair: Pair, chunk: Chunk, structure: Structure, proposal: str) -> None:
        # Nothing is summed out but in densities: what is drawn is drawn whole.
        self.pair, self.chunk, self.structure = pair, chunk, replace(structure, enumerated=False)
        self.from_guide = proposal != "prior"
        model, guide = map(samples, self._drawn(1))
        latent = of_kind(model, Kind.LATENT)
        self.names = [name for name, site in latent.items() if not is_discrete(site["fn"])]
        self.discrete = len(self.names) < len(latent)
        self.layouts: dict[str, torch.Size] = {}  # other plates and event of a site's u
        self.dtypes: dict[str, torch.dtype] = {}
        _check(latent, guide if self.from_guide else None)
        self.flatten(model, 1)

    def draw(self, num_chains: int) -> Tensor:
        """Draw u from the base for each chain and datum, [C, N, D]."""
        return self.flatten(samples(self._drawn(num_chains)[0]), num_chains)

    def flatten(self, sites: Mapping[str, Site], num_chains: int) -> Tensor:
        """Put the values of the latent sites of a run with so many chains into u, [C, N, D]."""
        parts = []
        for name in self.names:
            transform = _to_support(sites[name]["fn"])
            u = to_kn(transform.inv(sites[name]["value"]), transform.domain.event_dim, self.structure)
            u = parted(u, num_chains, self.structure)
            self.layouts[name], self.dtypes[name] = u.shape[2:], u.dtype
            parts.append(u.reshape(*u.shape[:2], -1))
        return torch.cat(parts, -1) if parts else torch.zeros(num_chains, self.chunk.size, 0, device=self.pair.device)

    def unflatten(self, u: Tensor) -> dict[str, Tensor]:
        """Return the unconstrained value of each site, [C, other plates and the data, event]; of copies [C N, ...]."""
        parts = u.split([rest.numel() for rest in self.layouts.values()], dim=-1)
        parts = tuple(part.to(dtype) for part, dtype in zip(parts, self.dtypes.values(), strict=True))
        layouts = zip(self.layouts.items(), parts, strict=True)
        if self.structure.plated:
            return {name: from_kn(part.reshape(*u.shape[:2], *rest), self.structure) for (name, rest), part in layouts}
        return {name: from_kn(part.reshape(1, -1, *rest), self.structure)[0] for (name, rest), part in layouts}

    def of(self, chunk: Chunk) -> "Latents":
        """Return those of other data."""
        other = copy.copy(self)
        other.chunk = chunk
        return other

    def __call__(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """Return log base and log ratio, [C, N] each, in nats, for u [C, N, D]."""
        joint, jacobian, base = self._terms(u, self.from_guide)
        return base + jacobian, joint - base

    def densities(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """Return log P(x, u) and log base, [C, N] each, in nats, for u [C, N, D]: neither is a difference of others."""
        joint, jacobian, base = self._terms(u, self.from_guide)
        return joint + jacobian, base + jacobian

    def resolved(self, u: Tensor) -> Tensor:
        """Return whether numbers of this precision tell u [C, N, D] apart once it is z, [C, N].

        Where a transform saturates, at the edge of a bounded support, many u are one z: the density over u is wrong.
        """
        given = _Unconstrained(self.unflatten(u))
        self.trace(given(self.pair.model), len(u))
        parts = []
        for name in self.names:
            transform, z = given.back[name]
            back = to_kn(transform.inv(z), transform.domain.event_dim, self.structure)
            parts.append(parted(back, len(u), self.structure).reshape(*u.shape[:2], -1))
        back = torch.cat(parts, -1)
        return ((back - u).abs() <= RESOLVED * (1 + u.abs())).all(-1)

    def joint(self, u: Tensor) -> Tensor:
        """Return log P(x, u) = log P(x, z) + log |dz/du|, [C, N], in nats, for u [C, N, D]."""
        joint, jacobian, _ = self._terms(u, False)
        return joint + jacobian

    def weighted(self, u: Tensor, log_weights: Tensor) -> Weighted:
        """Return the latents z at u [C, N, D], with log-weights that are known and log P(x | z), [C, N]."""
        given, shape = _Unconstrained(self.unflatten(u)), self.structure
        num_data = self.chunk.size * (1 if shape.plated else len(u))
        trace = self.trace(given(self._summed_out(self.pair.model)), len(u))
        sites = samples(trace)
        latent = of_kind(sites, Kind.LATENT)
        prior, joint = (log_prob_by_datum(trace, names, shape, num_data) for names in (latent, sites))
        drawn = {name: sites[name] for name in self.names}
        return Weighted(
            log_weights,
            parted((joint - prior).expand(-1, num_data), len(u), shape).expand(u.shape[:2]),
            {name: parted(value_by_datum(site, shape), len(u), shape) for name, site in drawn.items()},
            {n: value_by_datum(s, shape)[0][: self.chunk.size] for n, s in of_kind(sites, Kind.OBSERVED).items()},
        )

    def _terms(self, u: Tensor, with_guide: bool) -> tuple[Tensor, Tensor, Tensor]:
        """Return log P(x, z), log |dz/du|, and log Q(z | x) or, without the guide, log P(z), [C, N] each."""
        given, shape = _Unconstrained(self.unflatten(u)), self.structure
        num_data = self.chunk.size * (1 if shape.plated else len(u))
        with one_more_plate("Mend that, or use method='importance'."):
            model = self.trace(given(self._summed_out(self.pair.model)), len(u))
            guide = self._summed_out(self.pair.guide) if with_guide else None
            if guide is not None:
                traced = self.trace(Substitute(given.constrained)(guide), len(u))
            sites = samples(model)
            joint = log_prob_by_datum(model, sites, shape, num_data)
            if guide is None:
                base = log_prob_by_datum(model, latents(sites), shape, num_data)
            else:
                base = log_q_by_datum(model, traced, shape, num_data).to(u.device)
            none = torch.zeros_like(joint)
            jacobian = sum((sum_by_datum(term, shape, num_data) for term in given.log_jacobian.values()), none)
            joint, jacobian, base = (parted(term, len(u), shape) for term in (joint, jacobian, base))
        return joint.expand(u.shape[:2]), jacobian.expand(u.shape[:2]), base.expand(u.shape[:2])

    def trace(self, program: Program, num_chains: int = 1) -> poutine.Trace:
        """Run a program on the chunk with so many chains, and return its trace."""
        plate = plate_of(num_chains, self.structure) if self.structure.plated else nullcontext()
        with fixed(self.structure, self.chunk.subsample), plate:
            return poutine.trace(program).get_trace(*self._args(num_chains))

    def _drawn(self, num_chains: int) -> tuple[poutine.Trace, poutine.Trace]:
        guide, plated = self.pair.guide if self.from_guide else None, self.structure.plated
        with fixed(self.structure, self.chunk.subsample):
            how: Any = {"num_samples": num_chains if plated else None, "structure": self.structure}
            return run_pair(self.pair.model, guide, self._args(num_chains), **how)

    def _args(self, num_chains: int) -> Args:
        """Return what the programs are called with: the data, or C copies of them, one after the other."""
        return self.chunk.args if self.structure.plated else copies_of(self.chunk.args, num_chains)

    def _summed_out(self, program: Any) -> Program:
        if not self.discrete:
            return program
        return enumerating(poutine.infer_config(program, _in_parallel), self.structure)


def _to_support(fn: Any) -> Any:
    """Return the transform from unconstrained space to where a site's values lie."""
    transform = to_support(fn)  # where it does not say, of all real numbers: a density of zero stops HMC at its edge
    if transform is None:
        raise InputError(
            f"Expected latents on supports that PyTorch can transform, for annealing; got {type(fn).__name__} on "
            f"{support_of(fn)}. Use method='importance'."
        )
    return transform


def _in_parallel(site: Any) -> Any:
    discrete = not site["is_observed"] and getattr(site["fn"], "has_enumerate_support", False)
    return site["infer"] | ({"enumerate": "parallel"} if discrete else {})


def _check(latent: dict[str, Site], guide: dict[str, Site] | None) -> None:
    """Refuse latents that cannot be annealed, and guides whose density is not known everywhere."""
    endless = [n for n, s in latent.items() if is_discrete(s["fn"]) and not s["fn"].has_enumerate_support]
    if endless:
        raise InputError(
            f"Expected latents that are continuous or can be enumerated, for annealing; got {', '.join(endless)}, "
            f"discrete and without enumerate_support. Use method='importance'."
        )
    if guide is None:
        return
    left_out = [n for n, s in latent.items() if not is_discrete(s["fn"]) and n not in guide]
    points = list(of_kind(guide, Kind.AUXILIARY, Kind.POINT, model=latent))
    if left_out or points:
        named = few(left_out or points)
        what = f"leaves out {named}" if left_out else f"has auxiliary or Delta sites ({named})"
        raise InputError(
            f"Expected a guide whose density can be evaluated at any z, for annealing; got one that {what}. "
            f"Anneal from the prior: proposal='prior'."
        )


Fast = Callable[[Tensor], Tensors]


class Densities:
    """Gives for each chunk what evaluates both terms and their gradients at u [C, N, D], compiled where that pays."""

    def __init__(self, num_evaluations: int, wanted: bool | str, threads: Threads) -> None:
        self.num_evaluations, self.wanted, self.threads = num_evaluations, wanted, threads
        self._shape: torch.Size | None = None  # of u, where it is compiled

    def of(self, latents: Latents, num_chains: int) -> Evaluate:
        """Return the evaluation for one chunk."""
        plain, example = with_gradients(latents), latents.draw(num_chains).contiguous()

        def function(u: Tensor) -> Tensors:
            return tuple(plain(u))

        first = self._shape is None
        if first:  # decided for all of its size; a last chunk that is smaller is not worth compiling for
            self._shape, trial = example.shape, partial(_trial, recorded(function, example), example)
            self.threads.choose(trial, self.num_evaluations)
            self.wanted = pays(self.wanted, trial, self.num_evaluations)
        compiled = self._compiled(function, example) if self.wanted and example.shape == self._shape else None
        fast = compiled or recorded(function, example)
        trial = partial(_trial, fast, example)
        if first and compiled:
            self.threads.choose(trial, self.num_evaluations)

        def evaluate(u: Tensor) -> State:
            # A trajectory may leave what is numerically possible: it is then rejected, and is no error.
            with pyro.validation_enabled(False):
                # The record is of this layout; gradients of triangular solves come in another, and u with them.
                return State(*self.threads.run(partial(fast, u.contiguous()), trial))

        return evaluate

    def _compiled(self, function: Fast, example: Tensor) -> Fast | None:
        def make() -> Fast:
            compiled = capture(function, example, once=True)
            with pyro.validation_enabled(False):
                if not agree(function, compiled, example):
                    raise CannotCapture("the program does something else on each run")
            return compiled

        compiled = compiled_or_none(make, "Annealing is not compiled")
        self.wanted = compiled is not None
        return compiled


@contextmanager
def _trial(function: Fast, example: Tensor) -> Iterator[Callable[[], object]]:
    """Evaluate at an example, which changes nothing: densities draw no random numbers."""
    with pyro.validation_enabled(False), seeded(0):
        yield partial(function, example)
