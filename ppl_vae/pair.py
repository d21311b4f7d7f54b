"""A model and a guide together with the parameters that belong to them.

Parameters live in two places: in modules, and, for programs that use `pyro.param` or `pyro.module`,
in Pyro's global parameter store. `Pair` makes both local: modules keep their own parameters
(`pyro.settings` `module_local_params`), and what goes into the store is kept with the programs that put
it there, so that no pair ever sees the state of another one or of an earlier run.
"""

import inspect
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, cast

import pyro
import torch
from pyro.nn.module import _Context
from pyro.params.param_store import StateDict as Store
from pyro.poutine import Trace
from torch import Tensor, nn

Program = Callable[..., Any]

# Program (or the object whose method it is) -> what it keeps in Pyro's parameter store.
_STORES: weakref.WeakKeyDictionary[Any, Store] = weakref.WeakKeyDictionary()


class Pair:
    """A model and, where there is one, its guide: how to run them, and all their parameters.

    Args:
        model: a Pyro program P(x, z): a module, or a plain function or method.
        guide: a Pyro program Q(z | x) with the same latent sites.
        fresh: start with an empty parameter store, and keep what the programs put there with them from now
            on. Otherwise they find what the last fresh pair left, or, if there was none, a copy of Pyro's
            global store (so what Pyro's own SVI has trained is found).

    >>> from ppl_vae.models import VAE
    >>> from ppl_vae.guides import MeanField
    >>> model = VAE((1, 8, 8))
    >>> sorted(Pair(model, MeanField(model)).tensors())[:2]
    ['guide.encoder.layers.0.bias', 'guide.encoder.layers.0.weight']
    """

    def __init__(self, model: Program, guide: Program | None = None, *, fresh: bool = False) -> None:
        self.model, self.guide = model, guide
        self.programs: dict[str, Program] = {"model": model} | ({} if guide is None else {"guide": guide})
        self.modules = {role: p for role, p in self.programs.items() if isinstance(p, nn.Module)}
        self._store = _empty_store() if fresh else self._remembered_store()
        self._seen: dict[str, Tensor] = {}
        if fresh:
            for program in self.programs.values():
                _STORES[_anchor(program)] = self._store

    def _remembered_store(self) -> Store:
        known = [_STORES[_anchor(p)] for p in self.programs.values() if _anchor(p) in _STORES]
        if not known:  # never fitted here: perhaps fitted by Pyro's own SVI, which uses the global store
            return pyro.get_param_store().get_state()
        store = _empty_store()
        for other in known:
            store["params"].update(other["params"])
            store["constraints"].update(other["constraints"])
        return store

    @contextmanager
    def running(self) -> Iterator[None]:
        """Within it, both programs can be run, and find their own parameters only."""
        with ExitStack() as stack:
            stack.enter_context(pyro.settings.context(module_local_params=True))
            stack.enter_context(pyro.get_param_store().scope(self._store))
            yield

    def see(self, traces: Iterable[Trace]) -> None:
        """Take note of parameters that only a run shows: those of modules inside plain functions."""
        for role, trace in zip(self.programs, traces, strict=True):
            for name, site in trace.nodes.items():
                if site["type"] == "param":
                    value = cast(Any, site["value"])
                    self._seen[f"{role}.{name}"] = value.unconstrained() if hasattr(value, "unconstrained") else value

    def parameters(self) -> list[Tensor]:
        """Return every parameter to be optimized, each once; `see` a run before."""
        tensors: list[Tensor] = [p for module in self.modules.values() for p in module.parameters()]
        tensors += [*self._store["params"].values(), *self._seen.values()]
        return list({id(p): p for p in tensors if p.requires_grad}.values())

    def tensors(self) -> dict[str, Tensor]:
        """Return all parameters and buffers by name, as they are (not copied)."""
        found = {
            f"{role}.{name}": value
            for role, module in self.modules.items()
            for name, value in module.state_dict(keep_vars=True).items()
        } | {f"store.{name}": value for name, value in self._store["params"].items()}
        known = {id(value) for value in found.values()}
        return found | {f"seen.{name}": value for name, value in self._seen.items() if id(value) not in known}

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
        """Put all modules into training mode, or out of it."""
        for module in self.modules.values():
            module.train(mode)

    @property
    def device(self) -> torch.device:
        """Where the parameters live (the CPU if there are none)."""
        return next((value.device for value in self.tensors().values()), torch.device("cpu"))

    def accepts(self, name: str) -> bool:
        """Whether the model takes an argument of this name."""
        return name in call_signature(self.model).parameters


def call_signature(program: Program) -> inspect.Signature:
    """Return the signature of a program: of `forward`, if it is a module; (*args, **kwargs), if it has none."""
    try:
        return inspect.signature(program.forward if isinstance(program, nn.Module) else program)
    except ValueError:  # a program inside some of Pyro's handlers
        return inspect.signature(lambda *args, **kwargs: None)


def program_name(program: Program) -> str:
    """Return what to call a program in a message."""
    return str(getattr(program, "__qualname__", type(program).__name__))


def _anchor(program: Program) -> Any:
    # A bound method is a new object each time it is looked up; what lasts is the object it belongs to.
    return getattr(program, "__self__", program)


def _empty_store() -> Store:
    return {"params": {}, "constraints": {}}


class _LocalState:
    """Pyro (1.9) gives a PyroModule its local parameter state only if the setting was on when it was made.

    A person's module is mostly made before; it gets its state here when it first asks for it.
    """

    def __get__(self, context: Any, owner: type[Any] | None = None) -> Any:
        return _empty_store() if context is None else vars(context).setdefault("param_state", _empty_store())


if not hasattr(_Context, "param_state"):
    _Context.param_state = cast(Any, _LocalState())
