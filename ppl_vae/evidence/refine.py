"""The best Q of the guide's family for each datum, found by optimizing its parameters from the guide's answer.

    lambda*_n = argmax_lambda E_{Q(z; lambda)}[log P(x_n, z) - log Q(z; lambda)],    starting at lambda(x_n)

Each datum gets a free shift of its own, added to the unconstrained value of every parameter of the guide's
distributions, each built anew from them; the networks stay as they are.
Sources: Cremer et al., arXiv 1801.03558; Kim et al., arXiv 1802.02550 (semi-amortized inference).
"""

import copy
import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger
from torch import Tensor
from torch.distributions import constraints, transform_to

from ppl_vae.compilation.capture import UNLIKE, CannotCapture, capture, check_tensors, compiled_or_none, pays
from ppl_vae.compilation.record import GRADIENTS, alike
from ppl_vae.distributions.unwrap import parameters_of, rebuilt
from ppl_vae.errors import InputError, reason
from ppl_vae.evidence.options import DEFENSIVE
from ppl_vae.traces.log_weights import BESIDE, draw, log_weights
from ppl_vae.traces.pair import Pair
from ppl_vae.traces.plates import Args, Structure, samples
from ppl_vae.traces.run import fixed
from ppl_vae.utils.rng import seeded

Gradients = Callable[..., tuple[Tensor, ...]]
Shifts = dict[str, dict[str, Tensor]]  # site -> parameter -> shift of its unconstrained value


class Shifted(Messenger):
    """Add shifts to the unconstrained parameters of a guide's sites: with shifts of zero it changes nothing.

        lambda_s = T(T^-1(lambda_s(x, z_<s)) + shift_s),    T: the real numbers -> where the parameter may lie

    A site whose distribution does not depend on other latents reaches every member of its family. In a hierarchical
    guide its parameters stay functions of the latents before, with a residual for each datum; of a transformed
    distribution (a flow) the base is shifted. Delta sites, which carry a value that was drawn elsewhere, stay.

    Shifts are as `zeros` makes them, and belong to the data they were made for, in their order. With `sticking=True`
    samples are scored with a copy of the shifts that has no gradient, which leaves the path through the samples only
    (Roeder et al., arXiv 1703.09194): that gradient has no noise where Q is the posterior.
    """

    def __init__(self, shifts: Shifts, *, sticking: bool = False) -> None:
        super().__init__()
        self.shifts, self.sticking = shifts, sticking

    def _pyro_sample(self, msg: Any) -> None:
        if (shifts := self.shifts.get(msg["name"])) is not None:
            fn, detached = msg["fn"], {k: v.detach() for k, v in shifts.items()}
            msg["fn"] = shifted(fn, shifts)
            if self.sticking:
                msg["fn"] = _Sticking(msg["fn"], shifted(fn, detached))


class _Beside(Messenger):
    """Draw from a guide as it is, or shifted; each site keeps what it has in the other, for a mixture of both."""

    def __init__(self, shifts: Shifts, share: float, *, moved: bool) -> None:
        super().__init__()
        self.shifts, self.share, self.moved = shifts, share, moved

    def _pyro_sample(self, msg: Any) -> None:
        if (shifts := self.shifts.get(msg["name"])) is not None:
            fn, moved = msg["fn"], shifted(msg["fn"], shifts)
            msg["fn"], other = (moved, fn) if self.moved else (fn, moved)
            msg["infer"] = msg["infer"] | {BESIDE: (other, self.share)}


class _Sticking(dist.TorchDistribution):
    """A distribution that is sampled as one and scored as another of the same kind and shape."""

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012
    has_rsample = True

    def __init__(self, drawn: Any, scored: Any) -> None:
        self.drawn, self.scored = drawn, scored
        super().__init__(drawn.batch_shape, drawn.event_shape, validate_args=False)

    @property
    def support(self) -> Any:
        return self.drawn.support

    def expand(self, batch_shape: Any, _instance: Any = None) -> "_Sticking":
        return _Sticking(self.drawn.expand(batch_shape), self.scored.expand(batch_shape))

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        return self.drawn.rsample(sample_shape)

    def log_prob(self, value: Tensor) -> Tensor:
        return self.scored.log_prob(value)


def shifted(fn: Any, shifts: dict[str, Tensor]) -> Any:
    """Return a distribution like `fn`, with shifts added to the unconstrained parameters of its base.

    >>> fn = dist.Normal(torch.zeros(3), 2.0).to_event(1)
    >>> moved = shifted(fn, {"loc": torch.ones(3), "scale": torch.zeros(3)})
    >>> moved.mean.tolist(), moved.stddev.tolist(), moved.event_shape
    ([1.0, 1.0, 1.0], [2.0, 2.0, 2.0], torch.Size([3]))
    """

    def moved(base: Any, batch_shape: torch.Size) -> Any:
        parameters = {}
        for name, value in _parameters(base, batch_shape).items():
            transform = transform_to(base.arg_constraints[name])
            parameters[name] = transform(transform.inv(value) + shifts[name])
        return type(base)(**parameters, validate_args=False)

    return rebuilt(fn, moved, fn.batch_shape)


def zeros(guide_trace: poutine.Trace) -> Shifts:
    """Return shifts of zero for every site of a guide, leaf tensors that ask for gradients.

    A shift has the shape of its parameter in one run of the guide, and broadcasts under one more plate to the left.
    """
    sites = {n: s for n, s in samples(guide_trace).items() if not isinstance(parameters_of(s["fn"]), dist.Delta)}
    if not sites:
        raise InputError(
            "Expected a guide with a density; got one that samples no site, or points (Delta) only. "
            "Use a guide with some width, such as mean_field."
        )
    rigid = sorted(n for n, s in sites.items() if not s["fn"].has_rsample or _has_moving_support(s["fn"]))
    if rigid:
        named = ", ".join(f"{n!r} ({type(parameters_of(sites[n]['fn'])).__name__})" for n in rigid)
        raise InputError(
            f"Expected a guide whose sites can all be drawn by reparameterization, on a support that does not depend "
            f"on their parameters, so that Q can be refined by gradients; got {named}. Use families such as Normal or "
            f"Beta there, or the guide as it is."
        )
    return {name: _zeros(name, site["fn"]) for name, site in sites.items()}


def _has_moving_support(fn: Any) -> bool:
    """Return whether the support of a family depends on its parameters, as that of a uniform distribution does."""
    support = getattr(type(parameters_of(fn)), "support", None)
    return support is not None and bool(constraints.is_dependent(support))


def _parameters(base: Any, batch_shape: torch.Size) -> dict[str, Tensor]:
    """Return what a distribution is made from, one of each for every place in the batch."""
    names = set(base.arg_constraints) & set(inspect.signature(type(base)).parameters)
    # Where there are several ways to say the same thing, one: the one that is cheapest to unconstrain.
    for chosen, others in (("logits", {"probs"}), ("scale_tril", {"covariance_matrix", "precision_matrix"})):
        names -= others if chosen in names else set()
    found = {}
    for name in sorted(names):
        value, event_dim = getattr(base, name), base.arg_constraints[name].event_dim
        found[name] = value.expand(batch_shape + value.shape[value.dim() - event_dim :])
    return found


def _zeros(name: str, fn: Any) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}

    def gather(base: Any, batch_shape: torch.Size) -> Any:
        for parameter, value in _parameters(base, batch_shape).items():
            free = transform_to(base.arg_constraints[parameter]).inv(value)
            found[parameter] = torch.zeros_like(free, memory_format=torch.contiguous_format).requires_grad_()
        return base

    try:
        rebuilt(fn, gather, fn.batch_shape)
        shifted(fn, found)
        why = "" if found else "none that are known"
    # A person's own family, made anew from numbers, may fail in any of these ways: the message below says which.
    except (NotImplementedError, TypeError, ValueError, RuntimeError, AttributeError) as problem:
        why = reason(problem)
    if why:
        raise InputError(
            f"Expected site {name!r} of the guide to have a family that can be made from its parameters; got "
            f"{type(parameters_of(fn)).__name__} ({why}). Use a family of pyro.distributions, or the guide as it is."
        )
    return found


NUM_STEPS = 300
NUM_PARTICLES = 8
LEARNING_RATE = 0.05
NUM_CHOOSING = 256  # fresh samples that decide, for each datum, between its shift and the guide's own answer


class Steps:
    """The gradients that refining goes by, compiled once for all chunks of one size where that pays."""

    def __init__(self, wanted: bool | str, num_chunks: int) -> None:
        self.wanted, self.num_chunks = wanted, num_chunks
        self._known: dict[Any, Gradients] = {}

    def of(self, plain: Gradients, leaves: Sequence[Tensor], args: Args, num_steps: int) -> Gradients:
        """Return what gives the gradients for leaves and data, a function of both: as it is, or compiled."""
        key = tuple((value.shape, value.dtype) for value in (*leaves, *args))
        if key not in self._known:
            self._known[key] = self._chosen(plain, leaves, args, num_steps * self.num_chunks)
        return self._known[key]

    def _chosen(self, plain: Gradients, leaves: Sequence[Tensor], args: Args, count: int) -> Gradients:
        examples = (*leaves, *args)

        def make() -> Gradients:
            check_tensors(args)
            compiled = capture(plain, *(value.detach() for value in examples))
            found = []
            for function in (plain, compiled):
                with seeded(0):
                    found.append(function(*(value.detach() for value in examples)))
            if not alike(found[1], found[0], GRADIENTS, [1 + float(g.abs().max()) for g in found[0]]):
                raise CannotCapture(UNLIKE)
            return compiled

        @contextmanager
        def trial() -> Iterator[Callable[[], object]]:
            with seeded(0):
                yield partial(plain, *(value.detach() for value in examples))

        if not pays(self.wanted, trial, count):
            return plain
        return compiled_or_none(make) or plain


def refine(pair: Pair, args: Args, structure: Structure, **options: Any) -> Pair:
    """Return the pair with the best Q of the guide's family for each of these data; arguments as for `best_shifts`."""
    guide: Any = pair.guide
    return _with_guide(pair, Shifted(best_shifts(pair, args, structure, **options))(guide))


def beside(pair: Pair, shifts: Shifts, num_samples: int) -> list[tuple[Pair, int]]:
    """Return pairs whose guides draw so many samples of a mixture of the guide and the shifted one, and how many each.

        q(z | x) = a Q(z | x) + (1 - a) Q_shifted(z | x)

    Q_shifted settles on one mode: what it misses, draws of the guide show. A single sample is of Q_shifted.
    """
    guide: Any = pair.guide
    if num_samples == 1:
        return [(_with_guide(pair, Shifted(shifts)(guide)), 1)]
    by_guide = max(1, round(DEFENSIVE * num_samples))
    share = by_guide / num_samples
    own, moved = _Beside(shifts, share, moved=False), _Beside(shifts, 1 - share, moved=True)
    return [(_with_guide(pair, own(guide)), by_guide), (_with_guide(pair, moved(guide)), num_samples - by_guide)]


def best_shifts(
    pair: Pair,
    args: Args,
    structure: Structure,
    *,
    num_steps: int = NUM_STEPS,
    num_particles: int = NUM_PARTICLES,
    learning_rate: float = LEARNING_RATE,
    subsample: Tensor | None = None,
    vectorize: bool = True,
    steps: Steps | None = None,
) -> Shifts:
    """Return the shifts that give the best Q of the guide's family for each of these data, as Adam finds it.

    The learning rate falls linearly to zero, in units of the unconstrained parameters. Each datum keeps its shift only
    where its ELBO, of 256 fresh samples, is higher with it than without, both drawn from the same random numbers. The
    networks are not touched, nor their gradients.

    Call it within `pair.running()` and `pair.evaluating()`; arguments as for `log_weights`, and `steps`, which compiles
    the gradients for this and other chunks.

    Raises:
        InputError: sites that cannot be drawn by reparameterization, unknown families, no density at all.

    Source: Cremer et al., arXiv 1801.03558; Roeder et al., arXiv 1703.09194, for the gradient.
    """
    guide: Any = pair.guide
    with torch.no_grad(), fixed(structure, subsample):
        guide_trace = poutine.trace(guide).get_trace(*args)
    # Auxiliary sites, which are no part of log Q, stay: they have to be drawn alike where a mixture is weighed.
    shifts = {name: site for name, site in zeros(guide_trace).items() if name in structure.q}
    if not shifts:
        return {}

    def weights(messenger: Shifted | None = None) -> Tensor:
        other = pair if messenger is None else _with_guide(pair, messenger(guide))
        return log_weights(other, args, num_particles, structure, subsample=subsample, vectorize=vectorize)

    leaves = [shift for site in shifts.values() for shift in site.values()]
    optimizer = torch.optim.Adam(leaves, lr=learning_rate)
    falling = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=num_steps)

    def gradients(*tensors: Tensor) -> tuple[Tensor, ...]:
        """Return the gradients of minus the ELBO with respect to the shifts, which come before the data."""
        with torch.enable_grad():
            free = [value.detach().requires_grad_() for value in tensors[: len(leaves)]]
            given = iter(free)
            moved: Shifts = {n: {k: next(given) for k in site} for n, site in shifts.items()}
            other, data = _with_guide(pair, Shifted(moved, sticking=True)(guide)), tensors[len(leaves) :]
            if vectorize:
                found = draw(other, data, num_particles, structure, subsample=subsample).log_weights
            else:
                found = log_weights(other, data, num_particles, structure, subsample=subsample, vectorize=False)
            # Asked for the shifts only, so that nothing gathers in the networks' own gradients.
            return torch.autograd.grad(-found.mean(0).sum(), free)

    weights(Shifted(shifts))  # what is wrong is told in words
    as_usual = vectorize and structure.plated and subsample is None
    step = steps.of(gradients, leaves, args, num_steps) if steps is not None and as_usual else gradients
    for _ in range(num_steps):
        for leaf, gradient in zip(leaves, step(*(leaf.detach() for leaf in leaves), *args), strict=True):
            leaf.grad = gradient.nan_to_num(0.0, 0.0, 0.0)  # a datum that diverges stops; the others go on
        optimizer.step()
        falling.step()

    best = {n: {k: v.detach() for k, v in site.items()} for n, site in shifts.items()}
    better = _is_better(weights, Shifted(best), -(-NUM_CHOOSING // num_particles))  # no more at once than in a step
    kept = {}
    for name, site in best.items():
        axis = len(guide_trace.nodes[name]["fn"].batch_shape) + structure.dim
        kept[name] = {k: torch.where(better.reshape(-1, *(1,) * (v.dim() - axis - 1)), v, 0.0) for k, v in site.items()}
    return kept


@torch.no_grad()
def _is_better(weights: Callable[..., Tensor], moved: Shifted, num_rounds: int) -> Tensor:
    """Return for each datum whether its ELBO is higher with its shift than without, by the same random numbers, [N]."""
    gain: Any = 0.0
    for _ in range(num_rounds):
        seed = int(torch.randint(2**31, ()))
        with seeded(seed):
            before = weights()
        with seeded(seed):
            gain = gain + (weights(moved) - before).sum(0)
    return torch.isfinite(gain) & (gain > 0)


def _with_guide(pair: Pair, guide: Any) -> Pair:
    # Modules and parameter store stay those of the pair: the networks are the same.
    other = copy.copy(pair)
    other.guide = guide
    return other
