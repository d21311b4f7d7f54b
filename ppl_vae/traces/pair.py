"""A model and a guide together with the parameters that belong to them.

Parameters live in modules and, for programs that use `pyro.param` or `pyro.module`, in Pyro's global store. `Pair`
makes both local: modules keep their own (`module_local_params`), and what goes into the store is kept with the programs
that put it there, so that no pair sees the state of another one or of an earlier run.
"""

import functools
import inspect
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, cast

import pyro
import torch
from pyro.nn.module import _Context
from pyro.params.param_store import StateDict as Store
from pyro.poutine import Trace
from torch import Tensor, nn

from ppl_vae.errors import InputError
from ppl_vae.utils.faults import told
from ppl_vae.utils.rng import seeded

Program = Callable[..., Any]

# What programs keep in Pyro's parameter store: the object they belong to -> their function's name -> store.
_STORES: weakref.WeakKeyDictionary[Any, dict[str, Store]] = weakref.WeakKeyDictionary()


class Pair:
    """A model and, where there is one, its guide: how to run them, and all their parameters.

    Args:
        model: a Pyro program P(x, z): a module, or a plain function or method.
        guide: a Pyro program Q(z | x) with the same latent sites.
        fresh: start with an empty parameter store. Otherwise the programs find what was kept with them (`keep`), or,
            if nothing was, a copy of Pyro's global store, as Pyro's own SVI has trained it.

    >>> from ppl_vae.models import VAE
    >>> from ppl_vae.guides import MeanField
    >>> model = VAE((1, 8, 8))
    >>> sorted(Pair(model, MeanField(model)).tensors())[:2]
    ['guide.encoder.layers.0.bias', 'guide.encoder.layers.0.weight']
    """

    def __init__(self, model: Program, guide: Program | None = None, *, fresh: bool = False) -> None:
        self.model, self.guide = model, guide
        self.programs: dict[str, Program] = {"model": model} | ({} if guide is None else {"guide": guide})
        owners = {role: _unwrapped(program)[0] for role, program in self.programs.items()}
        self.modules = {role: owner for role, owner in owners.items() if isinstance(owner, nn.Module)}
        self._store = _empty_store() if fresh else self._kept_store()
        self._seen: dict[str, Tensor] = {}

    def _kept_store(self) -> Store:
        kept = [_STORES.get(owner, {}).get(name) for owner, name in map(_unwrapped, self.programs.values())]
        if not any(kept):  # never fitted here: perhaps by Pyro's own SVI
            return pyro.get_param_store().get_state()
        store = _empty_store()
        for other in filter(None, kept):
            store["params"].update(other["params"])
            store["constraints"].update(other["constraints"])
        return store

    def keep(self) -> None:
        """Keep this pair's parameter store with its programs, for those who run them later."""
        for owner, name in map(_unwrapped, self.programs.values()):
            _STORES.setdefault(owner, {})[name] = self._store

    @contextmanager
    def running(self) -> Iterator[None]:
        """Within it, both programs can be run, as in `own_store`; what they raise is told with their line (`told`)."""
        with told(), self.own_store():
            yield

    @contextmanager
    def own_store(self) -> Iterator[None]:
        """Within it, both programs find their own parameters only."""
        store = pyro.get_param_store()
        with pyro.settings.context(module_local_params=True), store.scope(self._store):
            try:
                yield
            finally:  # Pyro's scope forgets what it holds when an exception passes
                self._store.update(store.get_state())

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Within it, modules are in evaluation mode; each gets its own mode back at the end."""
        modes = {child: child.training for module in self.all_modules() for child in module.modules()}
        self.train(False)
        try:
            yield
        finally:
            for child, mode in modes.items():
                child.training = mode

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

    def tensors(self) -> dict[str, Tensor]:
        """Return all parameters and buffers as they are (not copied), each once, named by role."""
        states = {
            f"{role}.{name}": value
            for role, module in self.modules.items()
            for name, value in module.state_dict(keep_vars=True).items()
        }
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
        """Return the modules that the programs are, or that plain functions refer to."""
        found = list(self.modules.values())
        for owner, _ in map(_unwrapped, self.programs.values()):
            if inspect.isfunction(owner):
                named = inspect.getclosurevars(owner)
                referred = (*named.nonlocals.values(), *named.globals.values())
                found += [value for value in referred if isinstance(value, nn.Module)]
        return found

    @property
    def device(self) -> torch.device:
        """Where the parameters live (the CPU if there are none)."""
        return next((value.device for value in self.tensors().values()), torch.device("cpu"))

    def to_device(self, batch: Iterable[Tensor]) -> tuple[Tensor, ...]:
        """Return the tensors of a batch where the parameters live."""
        device = self.device
        return tuple(value.to(device) for value in batch)

    def takes_labels(self) -> bool:
        """Whether labels go to the programs after x: y is the model's second positional argument, no part of x."""
        parameters = call_signature(self.model).parameters.values()
        positional = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
        return positional[1:2] == ["y"] and not getattr(_unwrapped(self.model)[0], "y_from_x", False)


def call_signature(program: Program) -> inspect.Signature:
    """Return what a program is called with: the arguments of `forward`, if it is a module."""
    owner, name = _unwrapped(program)
    if isinstance(owner, nn.Module) and name == "forward":
        return inspect.signature(owner.forward)
    return inspect.signature(getattr(owner, name, owner))


def program_name(program: Program) -> str:
    """Return what to call a program in a message."""
    owner, name = _unwrapped(program)
    return str(getattr(owner, "__qualname__", f"{type(owner).__name__}.{name}".removesuffix(".forward")))


def check_observes(model: str, sites: Mapping[str, Any]) -> None:
    """Refuse a model, by its name and the sites of a run on data, that does not look at them."""
    if not any(site["is_observed"] for site in sites.values()):
        raise InputError(
            f"Expected a model that observes its data; got {model}, where none of {', '.join(sites) or 'its sites'} is "
            f"observed. Give the data to their site, pyro.sample(..., obs=x); or are model and guide swapped?"
        )


def _unwrapped(program: Program) -> tuple[Any, str]:
    """Return the object that a program, under Pyro's handlers and `partial`, belongs to, and its function's name."""
    while isinstance(program, functools.partial):
        program = next((a for a in reversed(program.args) if callable(a)), program.func)
    if isinstance(program, nn.Module):
        return program, "forward"
    if hasattr(program, "__self__") and not inspect.isbuiltin(program):
        return program.__self__, program.__name__
    try:
        hash(program), weakref.ref(program)
    except TypeError:
        raise InputError(
            f"Expected a program that is a module, a function or a method; got an object of {type(program).__name__} "
            f"that cannot be hashed. Pass its method instead."
        ) from None
    return program, ""


def _empty_store() -> Store:
    return {"params": {}, "constraints": {}}


class _LocalState:
    """Pyro (1.9) gives no local state to a PyroModule that was made while the setting was off: it is made on demand."""

    def __get__(self, context: Any, owner: type[Any] | None = None) -> Any:
        return _empty_store() if context is None else vars(context).setdefault("param_state", _empty_store())


if not hasattr(_Context, "param_state"):
    _Context.param_state = cast(Any, _LocalState())


@contextmanager
def unchanged(pair: Pair, parameters: list[Tensor], seed: int = 0) -> Iterator[None]:
    """Within it, steps can be tried, from one seed: parameters, buffers, gradients, random states come back."""
    before, gradients = pair.snapshot(), [p.grad for p in parameters]
    buffers = [(b, b._version, b.detach().clone()) for module in pair.all_modules() for b in module.buffers()]
    try:
        with seeded(seed), torch.enable_grad(), pyro.validation_enabled(False):
            yield
    finally:
        pair.restore(before)
        for buffer, version, value in buffers:  # a snapshot has no buffers that are not saved
            if buffer._version != version:  # one that is expanded could not be written to
                buffer.copy_(value)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient


def places(pair: Pair) -> list[tuple[int, int]]:
    """Return which tensors a pair holds, and where their numbers are."""
    buffers = [b for module in pair.all_modules() for b in module.buffers()]
    return [(id(tensor), tensor.data_ptr()) for tensor in (*pair.tensors().values(), *buffers)]
