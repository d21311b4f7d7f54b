"""The modules that a run of programs touches, wherever they hang: their modes and their buffers.

A plain function may find a network in a closure, a list, a dict, a `partial`, or on an object of any class. PyTorch
tells of every module that is called, before it is; those of which only methods are called are looked for.
"""

import functools
import inspect
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.nn.parameter import is_lazy

_LISTENING: list[Callable[[nn.Module], None]] = []
DEPTH, MANY = 5, 20  # how far the search goes: from one object to the next, and into containers


@contextmanager
def noticing(met: Callable[[nn.Module], None]) -> Iterator[None]:
    """Within it, each module is told of before it is called."""
    _LISTENING.append(met)
    handle = register_module_forward_pre_hook(_tell) if len(_LISTENING) == 1 else None
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Using `torch.compile")  # it says that it is told of twice
            yield
    finally:
        _LISTENING.remove(met)
        if handle is not None:
            handle.remove()


def _tell(module: nn.Module, args: Any) -> None:
    if not torch.compiler.is_compiling():  # the module that is compiled has been told of, with its children
        for met in _LISTENING:
            met(module)


def reachable(thing: Any, depth: int = DEPTH) -> Iterator[nn.Module]:
    """Yield the modules that a function or an object refers to, without their children.

    >>> net = nn.Linear(1, 1)
    >>> list(reachable(lambda x: net(x))) == [net]
    True
    """
    if isinstance(thing, nn.Module):
        yield thing
    elif depth:
        for inner in _referred(thing):
            yield from reachable(inner, depth - 1)


def _referred(thing: Any) -> Iterable[Any]:
    found: Iterable[Any] = ()
    if isinstance(thing, functools.partial):
        found = (thing.func, *thing.args, *thing.keywords.values())
    elif inspect.isfunction(thing):
        named = inspect.getclosurevars(thing)
        defaults = (*(thing.__defaults__ or ()), *(thing.__kwdefaults__ or {}).values())
        found = (*named.nonlocals.values(), *named.globals.values(), *defaults)
    elif inspect.ismethod(thing):
        found = (thing.__self__, thing.__func__)
    elif isinstance(thing, list | tuple | set | frozenset):
        found = islice(thing, MANY)
    elif isinstance(thing, dict):
        found = islice(thing.values(), MANY)
    elif not (isinstance(thing, Tensor) or inspect.isclass(thing) or inspect.ismodule(thing)):
        found = getattr(thing, "__dict__", {}).values()
    return found


class Buffers:
    """The buffers of modules as they were when each module was first `added`."""

    def __init__(self) -> None:
        self._modules: set[nn.Module] = set()
        self._kept: list[tuple[nn.Module, str, Tensor, int, Tensor]] = []

    def add(self, module: nn.Module) -> None:
        """Keep the buffers of a module and of its children, if that was not done before."""
        if module in self._modules:
            return
        for child in module.modules():
            if child not in self._modules:
                self._modules.add(child)
                buffers = [(n, b) for n, b in child.named_buffers(recurse=False) if not is_lazy(b)]
                self._kept += [(child, n, b, _writes(b), b.detach().clone()) for n, b in buffers]

    def put_back(self) -> None:
        """Make all buffers what they were."""
        for module, name, buffer, version, value in self._kept:
            if getattr(module, name) is not buffer:
                setattr(module, name, buffer)
            if _writes(buffer) != version:  # one that is expanded could not be written to
                with torch.no_grad():
                    buffer.copy_(value)


def _writes(buffer: Tensor) -> int:
    """Return what rises when a buffer is written to; those made in inference mode cannot be, and have none."""
    return 0 if buffer.is_inference() else buffer._version


class Modes:
    """Modules put into evaluation mode, each with the mode that it had."""

    def __init__(self) -> None:
        self._before: dict[nn.Module, bool] = {}

    def evaluate(self, module: nn.Module) -> None:
        """Put a module and its children into evaluation mode, if that was not done before."""
        if module not in self._before:
            self._before = {child: child.training for child in module.modules()} | self._before
            module.train(False)

    def put_back(self) -> None:
        """Give each module its own mode back."""
        for module, mode in self._before.items():
            module.training = mode
