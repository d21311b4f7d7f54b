"""What a program may be: a module, a function, a method, any object that is called; under Pyro's handlers or `partial`.

Whatever stands around it, a program is *of* something: the module, the function, or the object whose method it is.
"""

import functools
import inspect
import weakref
from collections.abc import Callable
from typing import Any, NamedTuple

from pyro.poutine.messenger import Messenger
from torch import Tensor, nn

from ppl_vae.errors import InputError, check_object

Program = Callable[..., Any]


class Core(NamedTuple):
    """What a program is of, under handlers and `partial`.

    Attributes:
        owner: the module, the function, or the object whose method it is.
        name: of the method; "forward" of a module, "" of what is called itself.
        bound: the arguments that `partial` binds: positions, and (name, value) of keywords.
    """

    owner: Any
    name: str
    bound: tuple[Any, ...]

    def same(self, other: "Core") -> bool:
        """Return whether another one is the same program with the same bound arguments."""
        if self.owner is not other.owner or self.name != other.name or len(self.bound) != len(other.bound):
            return False
        return all(map(_same, self.bound, other.bound))


def core(program: Program) -> Core:
    """Return what a program is of.

    >>> def model(x, width): ...
    >>> core(functools.partial(model, width=2.0)) == (model, "", (("width", 2.0),))
    True
    """
    bound: tuple[Any, ...] = ()
    while isinstance(program, functools.partial):
        bound = (*_bound_positions(program), *program.keywords.items(), *bound)
        program = _inside(program)
    if isinstance(program, nn.Module):
        return Core(_uncompiled(program), "forward", bound)
    if hasattr(program, "__self__") and not inspect.isbuiltin(program):
        return Core(program.__self__, program.__name__, bound)
    return Core(program, "", bound)


def call_signature(program: Program) -> inspect.Signature:
    """Return what a program is called with: the arguments of `forward`, if it is a module, less those bound already."""
    try:
        return inspect.signature(_called(program))
    except (TypeError, ValueError):  # of what is not written in Python
        return inspect.Signature([inspect.Parameter("args", inspect.Parameter.VAR_POSITIONAL)])


def program_name(program: Program) -> str:
    """Return what to call a program in a message."""
    owner, name, _ = core(program)
    if hasattr(owner, "__qualname__") and not name:
        return str(owner.__qualname__)
    kind = getattr(owner, "__qualname__", type(owner).__name__)
    return str(kind) if name in ("", "forward") else f"{kind}.{name}"


def check_program(role: str, program: Any) -> None:
    """Raise an InputError if what was passed as a model or a guide cannot be run as one."""
    check_object(role, program, "model" if role == "guide" else "...")
    if not callable(program):
        raise InputError(
            f"Expected a {role} that is a module, a function or a method; got {type(program).__name__}. The order of "
            f"arguments is model, guide, data."
        )


def reference(owner: Any) -> Callable[[], Any]:
    """Return what gives an object as long as it lives; one that cannot be referred to weakly lives on."""
    try:
        return weakref.ref(owner)
    except TypeError:
        return lambda: owner


def _called(program: Program) -> Program:
    """Return a function, or `partial` of one, with just the arguments that a program is called with."""
    if isinstance(program, functools.partial):
        return functools.partial(_called(_inside(program)), *_bound_positions(program), **program.keywords)
    return _uncompiled(program).forward if isinstance(program, nn.Module) else program


def _inside(program: "functools.partial[Any]") -> Program:
    """Return what stands under a `partial`; Pyro's handlers are one, of (handler, program)."""
    inside: Program = program.args[1] if _is_handler(program) else program.func
    return inside


def _bound_positions(program: "functools.partial[Any]") -> tuple[Any, ...]:
    return program.args[2:] if _is_handler(program) else program.args


def _is_handler(program: "functools.partial[Any]") -> bool:
    return len(program.args) > 1 and isinstance(program.args[0], Messenger)


def _uncompiled(module: nn.Module) -> Any:
    """Return the module that `torch.compile` was given, or the module itself."""
    return dict(module.named_children()).get("_orig_mod", module)


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, tuple) and isinstance(b, tuple) and len(a) == len(b):
        return all(map(_same, a, b))
    return a is b or (type(a) is type(b) and not isinstance(a, Tensor) and a.__hash__ is not None and bool(a == b))
