"""What a particle filter asks of a pair: to go one step on, and to keep some of the particles.

    w_t = P(z_t | z_<t) P(x_t | z_<=t) / Q(z_t | z_<t, x),    z_t ~ Q(z_t | z_<t, x)

Two kinds of programs have steps. Of one with sites in order of time, z_1, x_1, z_2, x_2, ... (`Ordered`), the trace
shows them: both programs are run to the end, and once more after particles were chosen, with what is kept put in. Of
one whose latent is a `Chain` (`Chained`) the model is run on one step of x, so that T steps cost as much as one run.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import pyro
import torch
from pyro import poutine
from torch import Tensor

from ppl_vae.distributions.chains import Chain
from ppl_vae.distributions.unwrap import can_miss
from ppl_vae.errors import InputError, reason
from ppl_vae.evidence.prepare import CHUNK_ROWS, Chunk, Prepared
from ppl_vae.traces.handlers import Substitute
from ppl_vae.traces.log_weights import scored_trace
from ppl_vae.traces.pair import Pair
from ppl_vae.traces.plates import Structure, enumerates, few, from_kn, log_prob_by_datum, samples, to_kn
from ppl_vae.traces.run import fixed, plate_of, run_against, run_pair
from ppl_vae.traces.sites import Kind, Site, Sites, is_masked, of_kind
from ppl_vae.utils.rng import seeded

SAME, RELATIVE = 1e-3, 1e-4  # nats, and of what is added: how near the parts of x are to be, together, to all of it
PARTICLES = 2  # of a trial


class Sequence(Protocol):
    """Particles of some data, that go from one step to the next."""

    @property
    def num_steps(self) -> int:
        """How many steps there are."""

    def step(self, t: int) -> Tensor:
        """Draw z_t for each particle; return log w_t, [K, N]."""

    def choose(self, index: Tensor) -> None:
        """Go on from these of the particles, numbers 0 .. K - 1, [K, N]."""


def check_steps(prepared: Prepared, proposal: str) -> None:
    """Refuse a pair without steps, or whose x_t depends on more than what a step is given, by its fullest datum."""
    with seeded(0):
        sequence = sequence_of(prepared, proposal, _fullest(prepared), PARTICLES)
        if isinstance(sequence, Chained):
            sequence.check()


def _fullest(prepared: Prepared) -> Chunk:
    """Return the datum with most numbers: what is missing could not show how x_t depends on z."""
    most, found = -1, next(iter(prepared.chunks(1)))
    for chunk in prepared.chunks(CHUNK_ROWS) if prepared.divisible else ():
        numbers = (~chunk.args[0].isnan()).reshape(chunk.size, -1).sum(1)
        if int(numbers.max()) > most:
            most, found = int(numbers.max()), chunk.select(numbers.argmax()[None])
    return found


def is_chain(prepared: Prepared, proposal: str) -> bool:
    """Return whether the latent of a pair is a chain, and x_t depends on nothing but z_t."""
    try:
        with seeded(0):
            sequence = sequence_of(prepared, proposal, next(iter(prepared.chunks(1))), PARTICLES)
        if not isinstance(sequence, Chained) or sequence.chain.num_steps == 1:
            return False
        check_steps(prepared, proposal)
    except InputError:
        return False
    return True


def sequence_of(prepared: Prepared, proposal: str, chunk: Chunk, num_particles: int) -> Sequence:
    """Return particles of a chunk's data, before their first step.

    Raises:
        InputError: a pair without steps, or whose guide does not take them in the order of the model.
    """
    pair = Pair(prepared.pair.model, None if proposal == "prior" else prepared.pair.guide)
    structure = prepared.structure
    if structure.enumerated or structure.summed:
        raise _no_steps("discrete latents that are summed out")
    if not structure.plated:
        raise _no_steps("programs that do not run under one more plate")
    with seeded(0), _ran(), fixed(structure, chunk.subsample):
        model, guide = run_pair(pair.model, pair.guide, chunk.args, num_samples=PARTICLES, structure=structure)
    sites, guided = samples(model), samples(guide)
    chains = [name for name, site in of_kind(sites, Kind.LATENT).items() if isinstance(site["fn"], Chain)]
    if chains:
        return Chained.of(pair, structure, chunk, num_particles, (sites, guided))
    return Ordered.of(pair, structure, chunk, num_particles, (sites, guided))


def _no_steps(got: str, fix: str = "Use method='auto', or 'importance'.") -> InputError:
    return InputError(
        f"Expected a program with steps for method='smc', sites in order of time (z_1, x_1, z_2, x_2, ...) or a latent "
        f"that is a Chain; got {got}. {fix}"
    )


@contextmanager
def _ran() -> Iterator[None]:
    try:
        yield
    except InputError:
        raise
    except (ValueError, RuntimeError, IndexError, KeyError) as problem:
        raise _no_steps(f"programs that do not run under one more plate ({reason(problem)})") from problem


@dataclass
class Ordered:
    """Particles of programs whose trace shows sites in order of time."""

    pair: Pair
    structure: Structure
    chunk: Chunk
    num_particles: int
    steps: list[list[str]]  # the sites of the model that belong to each step, in order
    answered: list[list[str]]  # those of the guide
    values: dict[str, tuple[Tensor, int]]  # of latents, laid out as Pyro does, with the number of their own dimensions
    log_weights: list[Tensor]  # of the steps to come, by the particles as they are; empty if they have changed
    now: int = -1

    @classmethod
    def of(
        cls, pair: Pair, structure: Structure, chunk: Chunk, num_particles: int, traces: tuple[Sites, Sites]
    ) -> "Ordered":
        """Return particles before their first step, once it is seen that both programs have steps, in one order."""
        model, guide = traces
        latent = of_kind(model, Kind.LATENT)
        steps = _in_order(model)
        if len(steps) < 2:
            raise _no_steps(f"{few(list(latent)) or 'no latent'}, drawn before anything is observed")
        if others := [name for name in structure.q if name in guide and name not in latent]:
            raise _no_steps(f"a guide that makes its latents of others ({few(others)})")
        place = {name: t for t, names in enumerate(steps) for name in names}
        order = [name for name in guide if name in latent]
        if [place[name] for name in order] != sorted(place[name] for name in order):
            raise InputError(
                f"Expected a guide that draws its latents in the order of the model's steps for method='smc'; got "
                f"{few(order)}. Draw them in that order, or use proposal='prior'."
            )
        answered = [[name for name in order if place[name] == t] for t in range(len(steps))]
        return cls(pair, structure, chunk, num_particles, steps, answered, {}, [])

    @property
    def num_steps(self) -> int:
        """How many there are."""
        return len(self.steps)

    def step(self, t: int) -> Tensor:
        """Draw z_t for each particle; return log w_t, [K, N]."""
        if not self.log_weights:
            self._run()
        self.now = t
        return self.log_weights[t]

    def choose(self, index: Tensor) -> None:
        """Go on from these of the particles."""
        kept = {name for names in self.steps[: self.now + 1] for name in names}
        for name in kept & self.values.keys():
            value, event_dim = self.values[name]
            laid = to_kn(value, event_dim, self.structure)
            if laid.shape[0] > 1:
                laid = laid.gather(0, index.reshape(*index.shape, *(1,) * (laid.dim() - 2)).expand_as(laid))
            self.values[name] = from_kn(laid, self.structure), event_dim
        self.values = {name: value for name, value in self.values.items() if name in kept}
        self.log_weights = []

    def _run(self) -> None:
        """Run both programs to the end, with what is kept put in."""
        kept = Substitute({name: value for name, (value, _) in self.values.items()})
        args, structure, size = self.chunk.args, self.structure, self.chunk.size
        with fixed(structure, self.chunk.subsample), plate_of(self.num_particles, structure):
            guide, model = poutine.Trace(), kept(self.pair.model)
            if self.pair.guide is not None:
                guide = poutine.trace(kept(self.pair.guide)).get_trace(*args)
            model_trace = run_against(guide, model, args)
        sites = samples(model_trace)
        if _in_order(sites) != self.steps:
            raise _no_steps("programs whose sites differ from run to run")
        scored, count = scored_trace(model_trace, guide, structure), (self.num_particles, size)
        self.log_weights = []
        for names, answers in zip(self.steps, self.answered, strict=True):
            weighed = [n for n in names if n in answers or sites[n]["is_observed"] or enumerates(sites[n])]
            log_weight = log_prob_by_datum(model_trace, weighed, structure, size)
            if answers:
                log_weight = log_weight - log_prob_by_datum(scored, answers, structure, size)
            self.log_weights.append(log_weight.expand(count))
        latent = of_kind(sites, Kind.LATENT)
        self.values = {name: (site["value"], site["fn"].event_dim) for name, site in latent.items()}


def _ends(scored: list[Site], structure: Structure, size: tuple[int, int]) -> Tensor:
    """Return after how many of T steps nothing of a datum counts any more, [N]: T, but where one site takes NaN."""
    num_data, num_steps = size
    if len(scored) == 1 and can_miss(scored[0]["fn"]):
        value = to_kn(scored[0]["value"], scored[0]["fn"].event_dim, structure)[0]
        if value.shape[:2] == size:
            seen = ~value.isnan().reshape(*size, -1).all(-1)
            return (seen * torch.arange(1, num_steps + 1, device=value.device)).amax(1)
    return torch.full((num_data,), num_steps)


def _in_order(sites: Sites) -> list[list[str]]:
    """Return the sites of a model by step: one begins with each latent that comes after something observed."""
    latent, steps, observed = of_kind(sites, Kind.LATENT), [], True
    before: list[str] = []  # what is observed before all latents
    for name in sites:
        if name in latent and observed:
            steps.append(before)
            before, observed = [], False
        (steps[-1] if steps else before).append(name)
        observed = observed or (name not in latent and bool(steps))
    return steps


@dataclass
class Chained:
    """Particles of a pair whose one latent is a chain, in model and guide."""

    pair: Pair
    structure: Structure
    chunk: Chunk
    num_particles: int
    name: str
    chain: Chain  # P(z_t | z_(t-1))
    proposal: Chain  # Q(z_t | z_(t-1), x)
    observed: list[str]  # sites of the model that are scored
    ends: Tensor  # after how many steps nothing of a datum is observed any more, [N]
    before: Tensor | None = None  # z_(t-1), [K, N, 1, L]

    @classmethod
    def of(
        cls, pair: Pair, structure: Structure, chunk: Chunk, num_particles: int, traces: tuple[Sites, Sites]
    ) -> "Chained":
        """Return particles before their first step, once it is seen that x_t depends on nothing but z_t."""
        model, guide = traces
        latent, scored = of_kind(model, Kind.LATENT), of_kind(model, Kind.OBSERVED, Kind.FACTOR)
        name, x = next(iter(latent)), chunk.args[0]
        site, answer = latent[name], guide.get(name, latent[name])
        if len(latent) > 1 or structure.num_plates > 1 or is_masked(site) or len(chunk.args) > 1:
            raise _no_steps(f"{few(list(latent))}, a chain that is masked, or stands beside other latents or data")
        if not isinstance(answer["fn"], Chain) or structure.q not in ((name,), ()):
            raise InputError(
                f"Expected a guide that draws {name!r} step by step for method='smc', as a Chain; got one that draws "
                f"all steps at once. Use a guide such as deep_markov, or proposal='prior'."
            )
        num_steps = site["fn"].num_steps
        if x.dim() < 2 or x.shape[1] != num_steps:
            raise _no_steps(f"{num_steps} steps of {name!r} and x of shape {tuple(x.shape)}")
        ends = _ends(list(scored.values()), structure, (chunk.size, num_steps)).to(x.device)
        return cls(pair, structure, chunk, num_particles, name, site["fn"], answer["fn"], list(scored), ends)

    def check(self) -> None:
        """Refuse a model whose log P(x | z) is not the sum of those of its steps."""
        z = self.chain.expand((PARTICLES, self.chunk.size)).sample()
        whole, problem = self._observe(z, slice(None), PARTICLES), ""
        try:
            parts = [
                self._observe(z[..., t : t + 1, :], slice(t, t + 1), PARTICLES) for t in range(self.chain.num_steps)
            ]
            terms = torch.stack(list(torch.broadcast_tensors(*parts)))
            total = terms.sum(0)
            near = ((total - whole).abs() <= SAME + RELATIVE * terms.abs().sum(0)) | (total == whole)
            problem = "" if bool(near.all()) else "another log P(x | z) of its steps than of all of x"
        except (InputError, ValueError, RuntimeError, IndexError) as found:
            problem = f"one that fails there ({reason(found)})"
        if problem:
            raise InputError(
                f"Expected a model that takes any steps of x, [N, S, ...], and whose x_t depends on z_t alone for "
                f"method='smc'; got {problem}. Use method='auto', or 'importance'."
            )

    @property
    def num_steps(self) -> int:
        """Up to where anything of any of the data is observed."""
        return max(1, int(self.ends.max()))

    def step(self, t: int) -> Tensor:
        """Draw z_t for each particle; return log w_t, [K, N]."""
        shape = (self.num_particles, self.chunk.size, 1)
        q = self.proposal.at(t, self.before).expand(shape)
        z = q.sample()
        log_weight = self._observe(z, slice(t, t + 1), self.num_particles)
        if self.proposal is not self.chain:
            p = self.chain.at(t, self.before).expand(shape)
            log_weight = log_weight + (p.log_prob(z) - q.log_prob(z))[..., 0]
        self.before = z
        return torch.where(t < self.ends, log_weight, 0.0)

    def choose(self, index: Tensor) -> None:
        """Go on from these of the particles."""
        if self.before is not None:
            self.before = self.before.gather(0, index[..., None, None].expand_as(self.before))

    def _observe(self, z: Tensor, steps: slice, count: int) -> Tensor:
        """Return log P(x_t | z_t) of some steps together for their z, [K, N, S, L], as [K or 1, N]."""
        args, plate = (self.chunk.args[0][:, steps],), plate_of(count, self.structure)
        with fixed(self.structure, self.chunk.subsample), plate, pyro.validation_enabled(False):
            trace = poutine.trace(Substitute({self.name: z})(self.pair.model)).get_trace(*args)
        return log_prob_by_datum(trace, self.observed, self.structure, self.chunk.size)
