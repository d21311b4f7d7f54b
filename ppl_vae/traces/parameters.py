"""What programs keep in Pyro's parameter store: a store for each pair, and what `fit` left in it for later.

A pair runs with a store of its own. What `fit` has trained there is kept with the two programs, as long as they live;
whoever runs the same programs later finds it, unless Pyro's own store was trained since.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import pyro
import torch
from pyro.params.param_store import StateDict as Store
from torch import Tensor
from torch.distributions import transform_to

from ppl_vae.traces.programs import Core, core, reference
from ppl_vae.utils.faults import warn
from ppl_vae.utils.one_at_a_time import one_at_a_time


def empty_store() -> Store:
    """Return a store without parameters."""
    return {"params": {}, "constraints": {}}


_IN_STORE: "list[Parameters]" = []  # those that are in Pyro's own store: then it is the one that is meant


class Parameters(Mapping[str, Tensor]):
    """What `pyro.param` gives in a pair's programs, by name: the constrained values, apart from their gradients."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def __getitem__(self, name: str) -> Tensor:
        value: Tensor = transform_to(self._store["constraints"][name])(self._store["params"][name])
        return value.detach().clone()

    def __iter__(self) -> Iterator[str]:
        return iter(self._store["params"])

    def __len__(self) -> int:
        return len(self._store["params"])

    def __repr__(self) -> str:
        return repr(dict(self))

    @contextmanager
    def in_store(self) -> Iterator[None]:
        """Within it, Pyro's own store holds these parameters and no others; what was there comes back.

        There is one store for all threads: others of ours wait until then.
        """
        store: Store = {"params": dict(self._store["params"]), "constraints": dict(self._store["constraints"])}
        with one_at_a_time():
            _IN_STORE.append(self)
            try:
                with pyro.get_param_store().scope(store):
                    yield
            finally:
                _IN_STORE.pop()

    @classmethod
    def are_in_store(cls) -> bool:
        """Return whether somebody's parameters have been put into Pyro's own store, by `in_store`."""
        return bool(_IN_STORE)


class _Kept(NamedTuple):
    """A pair's store after a fit.

    Attributes:
        programs: what the two programs are of, without keeping these alive.
        store: their parameters.
        known: values in Pyro's own store that are no later training: those from before the fit, and start values.
    """

    programs: list[tuple[Callable[[], Any], Core]]
    store: Store
    known: dict[str, list[Tensor]]

    def alive(self) -> bool:
        return any(owner() is not None for owner, _ in self.programs)

    def has(self, one: Core) -> bool:
        return any(one.same(other._replace(owner=owner())) for owner, other in self.programs)


_KEPT: list[_Kept] = []  # the latest is the last


def keep(programs: Sequence[Any], store: Store, outside: Mapping[str, Tensor], start: Mapping[str, Tensor]) -> None:
    """Keep a pair's store; Pyro's own held `outside` before, and `start` is what the parameters started as."""
    cores = [core(program) for program in programs]
    found = [(reference(one.owner), one._replace(owner=None)) for one in cores]
    known: dict[str, list[Tensor]] = {}
    for name, value in (*outside.items(), *start.items()):
        known.setdefault(name, []).append(value)
    _KEPT[:] = [k for k in _KEPT if k.alive() and not _of(k, cores)]
    _KEPT.append(_Kept(found, store, known))


def kept_store(programs: Sequence[Any]) -> tuple[Store, bool]:
    """Return the parameters of a pair, and whether a fit of it is known; without one they are those in Pyro's store.

    They are those of the last fit of both programs together, or else of each. Where Pyro's own store was trained, or
    filled, since that fit, it holds what was trained last, and a warning says so.
    """
    own = pyro.get_param_store().get_state()
    if Parameters.are_in_store():
        return own, True
    cores = [core(program) for program in programs]
    both = [k for k in _KEPT if _of(k, cores)]
    each = [next((k for k in reversed(_KEPT) if k.has(one)), None) for one in cores]
    found = both[-1:] or [k for k in each if k is not None]
    later = sorted({name for k in found for name, value in own["params"].items() if _trained_since(k, name, value)})
    if not found:
        return own, False
    if later:
        warn(
            f"Pyro's own store holds {', '.join(later)} as trained or set since the fit of these programs, and is "
            f"taken. For what fit learned, work inside `with fitted.parameters():`, or call pyro.clear_param_store()."
        )
        return own, True
    store = empty_store()
    for k in found:
        store["params"].update(k.store["params"])
        store["constraints"].update(k.store["constraints"])
    return store, True


def values_of(store: Store) -> dict[str, Tensor]:
    """Return copies of a store's parameters, unconstrained."""
    return {name: value.detach().clone() for name, value in store["params"].items()}


def _of(kept: _Kept, cores: Sequence[Core]) -> bool:
    return len(cores) == len(kept.programs) and all(map(kept.has, cores))


def _trained_since(kept: _Kept, name: str, value: Tensor) -> bool:
    """Return whether a parameter in Pyro's own store is of the fitted programs, and has a value that is new to us."""
    if name not in kept.store["params"]:
        return False
    known = (kept.store["params"][name], *kept.known.get(name, ()))
    return not any(value is one or torch.equal(value, one.to(value)) for one in known if one.shape == value.shape)
