"""A model and a guide together with the parameters that belong to them.

Parameters live in modules and, for programs that use `pyro.param` or `pyro.module`, in Pyro's global store. `Pair`
makes both local: modules keep their own (`module_local_params`), and what goes into the store is kept with the programs
that put it there, so that no pair sees the state of another one or of an earlier run.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from itertools import chain
from typing import Any, cast

import pyro
import torch
from pyro.nn.module import _Context
from pyro.params.param_store import StateDict as Store
from pyro.params.param_store import user_param_name
from pyro.poutine import Trace
from pyro.poutine.runtime import _PYRO_STACK
from torch import Tensor, nn

from ppl_vae.errors import InputError
from ppl_vae.traces.parameters import Parameters, empty_store, keep, kept_store, values_of
from ppl_vae.traces.programs import Program, call_signature, check_program, core, program_name
from ppl_vae.utils.faults import told, warn
from ppl_vae.utils.modules import Buffers, Modes, noticing, reachable
from ppl_vae.utils.one_at_a_time import after_fork, one_at_a_time
from ppl_vae.utils.precision import usual_modes
from ppl_vae.utils.rng import seeded

__all__ = ["Pair", "Program", "call_signature", "places", "program_name", "unchanged"]

_RUNNING: "list[Pair]" = []  # one inside the other
_OUTSIDE: dict[str, Any] = {}  # what Pyro had before the outermost of them: its settings and its store


@after_fork
def _stop_running() -> None:
    """Give Pyro back what it had, in a child that was forked while another thread ran a pair."""
    if _RUNNING:
        _RUNNING.clear()
        _PYRO_STACK.clear()
        pyro.settings.set(**_OUTSIDE["settings"])
        pyro.get_param_store().clear()
        pyro.get_param_store().set_state(_OUTSIDE["store"])


class Pair:
    """A model and, where there is one, its guide: how to run them, and all their parameters.

    Args:
        model: a Pyro program P(x, z): a module, a function, a method, or any object that is called.
        guide: a Pyro program Q(z | x) with the same latent sites.
        fresh: start with an empty parameter store. Otherwise the programs find what was kept with them (`keep`), or,
            if nothing was, a copy of Pyro's global store, as Pyro's own SVI has trained it.

    Raises:
        InputError: a class, or what cannot be called; a guide in the place of the model.

    >>> from ppl_vae.models import VAE
    >>> from ppl_vae.guides import MeanField
    >>> model = VAE((1, 8, 8))
    >>> sorted(Pair(model, MeanField(model)).tensors())[:2]
    ['guide.encoder.layers.0.bias', 'guide.encoder.layers.0.weight']
    """

    def __init__(self, model: Program, guide: Program | None = None, *, fresh: bool = False) -> None:
        self.model, self.guide, self.fresh = model, guide, fresh
        self.programs: dict[str, Program] = {"model": model} | ({} if guide is None else {"guide": guide})
        for role, program in self.programs.items():
            check_program(role, program)
        owners = {role: core(program).owner for role, program in self.programs.items()}
        if guide is not None and any(getattr(owner, "role", role) != role for role, owner in owners.items()):
            raise InputError(
                f"Expected the model first, then the guide; got {program_name(model)} and {program_name(guide)}. Swap "
                f"them."
            )
        self.modules = {role: owner for role, owner in owners.items() if isinstance(owner, nn.Module)}
        self._touched: list[nn.Module] = []  # others, in the order of their first call in an evaluation
        self._seen: dict[str, Tensor] = {}
        with one_at_a_time():
            self._outside = values_of(pyro.get_param_store().get_state()) if fresh else {}

    @classmethod
    def is_running(cls) -> bool:
        """Return whether a pair is being run: then it has brought the parameters."""
        return bool(_RUNNING)

    @cached_property
    def _found(self) -> tuple[Store, bool]:
        return (empty_store(), True) if self.fresh else kept_store(list(self.programs.values()))

    @property
    def _store(self) -> Store:
        return self._found[0]

    @property
    def learned(self) -> Parameters:
        """What `pyro.param` gives in these programs."""
        return Parameters(self._store)

    def keep(self) -> None:
        """Keep this pair's parameter store with its programs, for those who run them later; while it is running."""
        start = values_of(pyro.get_param_store().get_state())
        keep(list(self.programs.values()), self._store, self._outside, start)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Within it, both programs can be run, as in `own_store`; what they raise is told with their line (`told`).

        Gradients are on, and autocast is off, whatever a caller has set.
        """
        with told(), usual_modes(), self.own_store():
            yield

    @contextmanager
    def own_store(self) -> Iterator[None]:
        """Within it, both programs find their own parameters only; other threads wait until its end."""
        with one_at_a_time():
            store, before = pyro.get_param_store(), set(self._store["params"])
            if not _RUNNING:
                _OUTSIDE.update(settings=pyro.settings.get(), store=store.get_state())
            _RUNNING.append(self)
            try:
                with pyro.settings.context(module_local_params=True), store.scope(self._store):
                    try:
                        yield
                    finally:  # Pyro's scope forgets what it holds when an exception passes
                        self._store.update(store.get_state())
            finally:
                _RUNNING.pop()
        if not self._found[1]:
            self._say_unfitted([n for n in self._store["params"] if n not in before and user_param_name(n) == n])

    def _say_unfitted(self, names: list[str]) -> None:
        if names and len(self.modules) < len(self.programs):  # a module that was not fitted is nobody's mistake
            warn(
                f"{' and '.join(map(program_name, self.programs.values()))} took the start values of "
                f"{', '.join(names)}, as no fit of just these programs is known. Pass what was given to fit (a lambda "
                f"made anew is another program), or work inside `with fitted.parameters():`."
            )

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Within it, every module that is run is in evaluation mode; modes and buffers are as they were at the end."""
        modes, buffers = Modes(), Buffers()

        def met(module: nn.Module) -> None:
            buffers.add(module)
            modes.evaluate(module)

        def called(module: nn.Module) -> None:
            met(module)
            self._touch(module)

        for module in self.all_modules():
            met(module)
        try:
            with noticing(called):
                yield
        finally:
            modes.put_back()
            buffers.put_back()

    def _touch(self, module: nn.Module) -> None:
        """Note a module that is no part of those known."""
        if module not in self._covered:
            self._touched.append(module)
            self._covered |= set(module.modules())

    @cached_property
    def _covered(self) -> set[nn.Module]:
        return {child for module in self.modules.values() for child in module.modules()}

    def see(self, traces: Iterable[Trace]) -> None:
        """Take note of the parameters that only a run shows: those of plain functions."""
        for role, trace in zip(self.programs, traces, strict=True):
            for name, site in trace.nodes.items():
                if site["type"] == "param":
                    value = cast(Any, site["value"])
                    self._seen[f"{role}.{name}"] = value.unconstrained() if hasattr(value, "unconstrained") else value

    def parameters(self) -> list[Tensor]:
        """Return every parameter to be optimized, each once; `see` a run before."""
        found: list[Tensor] = [p for module in self.modules.values() for p in module.parameters()]
        return list({id(p): p for p in (*found, *self._seen.values()) if p.requires_grad}.values())

    def check_has_gradients(self) -> None:
        """Refuse parameters that can have no gradients, as they were made in inference mode."""
        if names := [name for name, value in self.tensors().items() if value.is_inference()]:
            raise InputError(
                f"Expected parameters that have gradients; got {names[0]}, made inside torch.inference_mode(). "
                f"Make the model and the guide outside of it."
            )

    def untrained(self) -> list[nn.Module]:
        """Return the modules that are called, of whose parameters some would be trained, but are not known to Pyro."""
        known = {id(p) for p in self.parameters()}
        return [m for m in self._touched if any(p.requires_grad and id(p) not in known for p in m.parameters())]

    def tensors(self) -> dict[str, Tensor]:
        """Return all parameters and buffers as they are (not copied), each once, named by role."""
        states = {
            f"{role}.{name}": value
            for role, module in self.modules.items()
            for name, value in module.state_dict(keep_vars=True).items()
        }
        for i, module in enumerate(self._touched):
            own = {id(p) for p in module.parameters()}
            state = module.state_dict(keep_vars=True).items()
            states |= {f"modules.{i}.{name}": value for name, value in state if id(value) not in own}
        once: dict[int, tuple[str, Tensor]] = {}
        for name, value in (states | self._seen).items():
            once.setdefault(id(value), (name, value))
        return dict(once.values())

    def snapshot(self) -> dict[str, Tensor]:
        """Return a copy of all parameters and buffers."""
        return {name: value.detach().clone() for name, value in self.tensors().items()}

    def restore(self, snapshot: Mapping[str, Tensor]) -> None:
        """Put a snapshot's numbers back, in place."""
        tensors = self.tensors()
        with torch.no_grad():
            for name, value in snapshot.items():
                tensors[name].copy_(value)

    def train(self, mode: bool) -> None:
        """Put all modules into training mode, or out of it; also those that plain functions refer to."""
        for module in self.all_modules():
            module.train(mode)

    def all_modules(self) -> list[nn.Module]:
        """Return the modules that the programs are, that plain functions refer to, or that a run has touched."""
        referred = (m for program in self.programs.values() for m in reachable(core(program)))
        return list(dict.fromkeys((*self.modules.values(), *referred, *self._touched)))

    def conditions_on(self) -> tuple[str, ...]:
        """Return the names of what parts of the model say that they read of x and do not score, by `conditions_on`.

        A part, or the model itself, says it as "n = sum_i x_i": what is estimated is log P(x | n).
        """
        modules = [m for m in self.all_modules() if m is not self.modules.get("guide")]
        said = [getattr(child, "conditions_on", None) for m in modules for child in m.modules()]
        return tuple(dict.fromkeys(one.partition("=")[0].strip() for one in said if isinstance(one, str)))

    @property
    def device(self) -> torch.device:
        """Where the parameters live (the CPU if there are none)."""
        held = (chain(module.parameters(), module.buffers()) for module in self.modules.values())
        return next((value.device for value in chain(*held, self._seen.values())), torch.device("cpu"))

    def to_device(self, batch: Iterable[Tensor]) -> tuple[Tensor, ...]:
        """Return the tensors of a batch where the parameters live."""
        device = self.device
        return tuple(value.to(device) for value in batch)

    def takes_labels(self) -> bool:
        """Whether labels go to the programs after x: y is the model's second positional argument, no part of x."""
        parameters = call_signature(self.model).parameters.values()
        positional = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
        return positional[1:2] == ["y"] and not getattr(core(self.model).owner, "y_from_x", False)


def check_observes(model: str, sites: Mapping[str, Any]) -> None:
    """Refuse a model, by its name and the sites of a run on data, that does not look at them."""
    if not any(site["is_observed"] for site in sites.values()):
        raise InputError(
            f"Expected a model that observes its data; got {model}, where none of {', '.join(sites) or 'its sites'} is "
            f"observed. Give the data to their site, pyro.sample(..., obs=x); or are model and guide swapped?"
        )


class _LocalState:
    """Pyro (1.9) gives no local state to a PyroModule that was made while the setting was off: it is made on demand."""

    def __get__(self, context: Any, owner: type[Any] | None = None) -> Any:
        return empty_store() if context is None else vars(context).setdefault("param_state", empty_store())


def _share_the_pairs_store(context: Any) -> None:
    """Let PyroModules find `pyro.param` in the store of the pair that is run, as in Pyro's usual mode.

    Their own parameters stay theirs: only the store that Pyro opens for each module is left out.
    """
    enter, leave = context.__enter__, context.__exit__

    def __enter__(self: Any) -> None:  # noqa: N807 (Pyro's methods)
        if Pair.is_running():
            self.active += 1
            self.used = True
        else:
            enter(self)

    def __exit__(self: Any, *problem: Any) -> None:  # noqa: N807
        if not Pair.is_running() or "_param_ctx" in vars(self):
            leave(self, *problem)
            return
        self.active -= 1
        if not self.active:
            self.cache.clear()

    context.__enter__, context.__exit__ = __enter__, __exit__


if not hasattr(_Context, "param_state"):
    _Context.param_state = cast(Any, _LocalState())
    _share_the_pairs_store(_Context)


@contextmanager
def unchanged(pair: Pair, parameters: list[Tensor], seed: int = 0) -> Iterator[None]:
    """Within it, steps can be tried, from one seed: parameters, buffers, gradients, random states come back."""
    before, gradients, buffers = pair.snapshot(), [p.grad for p in parameters], Buffers()
    for module in pair.all_modules():
        buffers.add(module)
    try:
        with seeded(seed), torch.enable_grad(), pyro.validation_enabled(False), noticing(buffers.add):
            yield
    finally:
        pair.restore(before)
        buffers.put_back()  # a snapshot has no buffers that are not saved
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient


def places(pair: Pair) -> list[tuple[int, int]]:
    """Return which tensors a pair holds, and where their numbers are."""
    buffers = [b for module in pair.all_modules() for b in module.buffers()]
    return [(id(tensor), tensor.data_ptr()) for tensor in (*pair.tensors().values(), *buffers)]
