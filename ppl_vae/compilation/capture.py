"""Any function of tensors as one compiled function: Pyro runs once, then only its tensor operations.

The function is run once while its operations are recorded; the record is rewritten and compiled for its shapes. All
tensors that the programs hold become arguments, read when it is called, and draws are left to PyTorch's generator, in
Pyro's order: the same seed gives the same z as plain Pyro, against which each function is held before it is used.
Callers ask `pays` whether work is long enough, `capture` it, and go on with plain Pyro where `compiled_or_none` has to.
"""

import logging
import math
import warnings
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, TypeVar

import pyro
import torch
from pyro.util import get_rng_state
from torch import Tensor, fx

from ppl_vae.compilation.loops import ByStep, Loops, refuse_loops
from ppl_vae.compilation.record import compiler_options, folded, lift, record, sources_forgotten
from ppl_vae.compilation.rewrites import choose_products, rewrite
from ppl_vae.errors import InputError, is_one_of, reason, shown
from ppl_vae.utils.progress import bars_of_others
from ppl_vae.utils.threads import Trial, seconds_of

T = TypeVar("T")
Args = tuple[Any, ...]


class CannotCapture(Exception):  # noqa: N818 (not a fault: the caller goes on with plain Pyro)
    """A pair cannot be turned into one compiled function; the message says why in one line."""


def check_compile(wanted: bool | str) -> None:
    """Raise an InputError if the option `compile` is none of True, False and "auto"."""
    if not (isinstance(wanted, bool) or is_one_of(wanted, ["auto"])):
        raise InputError(f"Expected compile to be True, False or 'auto'; got {shown(wanted)}.")


Function = Callable[..., tuple[Tensor, ...]]
COMPILE_SECONDS = 30.0  # from nothing; a few where the compiler's own cache has the program
NODES_PER_SECOND = 40.0  # of a record, that are compiled: of large ones it takes longer
LARGEST = 4000  # operations of a record that "auto" compiles
KNOWN = 32  # compiled functions that are kept, for programs that do the same operations on other tensors
SPEEDUP = 1.5  # of compiled over plain, at least, where the work is large enough for the question to arise
STEPS_SPEEDUP = 2.0  # of steps of a fit: the smaller the arrays, the larger the share that is Pyro's
ROUNDS = 3
LARGE = 50  # chunks of work; below it the question whether to compile is not worth an answer
UNLIKE = "the program does something else on each run that is not a draw by pyro.sample"

_most: ContextVar[int | None] = ContextVar("most", default=None)
_known: dict[tuple[str, str, int], Function] = {}
# PyTorch's compiler looks for CUDA wherever it is installed, and says that there is no GPU: so it is.
logging.getLogger("torch.utils.cpp_extension").addFilter(lambda said: "No CUDA runtime" not in said.getMessage())


def compiling_pays(seconds: float, speedup: float = SPEEDUP, num_nodes: int = 0) -> bool:
    """Whether work that takes plain Pyro this many seconds is done sooner if it is compiled first."""
    return seconds > max(COMPILE_SECONDS, num_nodes / NODES_PER_SECOND) + seconds / speedup


def pays(wanted: bool | str, trial: Trial, count: int, *, speedup: float = SPEEDUP, few: int = 0) -> bool:
    """Return whether to compile: it is wanted (True), or "auto" and `count` units of work are done sooner.

    A unit of plain work is timed in the context that `trial` makes; fewer than `few` are not worth the question.
    """
    if wanted != "auto" or count < few:
        return wanted is True
    seconds = math.inf
    with trial() as work:
        for _ in range(ROUNDS):  # the first may find out things once; if it is quick, it is all there is to know
            seconds = min(seconds, seconds_of(work))
            if not compiling_pays(count * seconds, speedup):
                return False
    return True


def compiled_or_none(
    make: Callable[[], T], otherwise: str = "Plain Pyro is used", stacklevel: int = 3, *, wanted: bool | str = True
) -> T | None:
    """Return what `make` compiles; None, and one warning that says why, where that cannot be done.

    Where it is only "auto" that is `wanted`, nor is a record compiled that is so large that it takes minutes.
    """
    token = _most.set(LARGEST if wanted == "auto" else None)
    try:
        return make()
    except CannotCapture as problem:
        warnings.warn(f"{otherwise}, as {problem}.", stacklevel=stacklevel + 1)
        return None
    finally:
        _most.reset(token)


def capture(function: Callable[..., Any], *examples: Tensor, once: bool = False) -> Function:
    """Return a compiled function that gives the same tensors as a function, for arguments of the examples' shapes.

    The same operations as before, on other tensors that the function holds, are not compiled again. With `once`, what
    does not depend on the arguments is computed now, and never again.

    Raises:
        CannotCapture: it cannot be recorded or compiled (Python that depends on values, no C++ compiler).

    >>> double = capture(lambda x: x + x, torch.ones(3))
    >>> double(torch.arange(3.0))
    (tensor([0., 2., 4.]),)
    """
    with sources_forgotten():
        return _captured(function, tuple(value.contiguous() for value in examples), once)  # as all later arguments are


def _captured(function: Callable[..., Any], examples: Args, once: bool) -> Function:
    before = _other_generators()
    try:
        with pyro.validation_enabled(False), refuse_loops():
            graph = folded(record(function, *examples)) if once else record(function, *examples)
        if _other_generators() != before:
            raise CannotCapture("the program draws from Python's or NumPy's generator")
        if (most := _most.get()) is not None and len(graph.graph.nodes) > most:
            raise CannotCapture(
                f"it is {len(graph.graph.nodes)} operations (a loop of one's own is written out), which take "
                f"minutes to compile; compile=True does"
            )
        held = lift(graph)
        rewrite(graph.graph)
        choose_products(graph.graph)
    except CannotCapture:
        raise
    except Loops:
        return _by_step(function, examples)
    except Exception as problem:  # whatever a program may do that cannot be recorded
        why = f"{type(problem).__name__}: {reason(problem)}"
        if "_local_scalar_dense" in why:
            why = "it, or a distribution of it, looks at the values of tensors: .item(), float(), if"
        raise CannotCapture(f"the program cannot be recorded ({why})") from problem
    compiled = _compiled(graph, (*examples, *held))

    def captured(*args: Tensor) -> tuple[Tensor, ...]:
        with torch.no_grad():
            return compiled(*(value.contiguous() for value in args), *held)

    return captured


def _by_step(function: Callable[..., Any], examples: Args) -> Function:
    """Return a function with loops over time, whose steps are compiled."""
    call = ByStep(function)

    def captured(*args: Tensor) -> tuple[Tensor, ...]:
        with torch.no_grad():
            return _as_tuple(call(*(value.contiguous() for value in args)))

    try:
        with bars_of_others():
            captured(*examples)
    except Exception as problem:  # a step that cannot be recorded, no compiler, or one that fails
        raise CannotCapture(
            f"a step of its loop over time cannot be compiled ({type(problem).__name__}: {reason(problem)})"
        ) from problem
    return captured


def check_tensors(args: Args) -> None:
    """Refuse arguments that are not all tensors."""
    if not all(isinstance(value, Tensor) for value in args):
        raise CannotCapture("the program is called with something that is not a tensor")


def _other_generators() -> tuple[Any, ...]:
    """Return the states of the random generators whose draws are recorded as constants."""
    states = get_rng_state()
    return states["random"], str(states["numpy"]), states["numpy"][1].tobytes()


def _compiled(graph: fx.GraphModule, inputs: Args) -> Function:
    from torch._inductor import compile as inductor

    graph.graph.lint()
    graph.recompile()
    layouts = [(value.shape, value.stride(), value.dtype, value.device) for value in inputs]
    key = (graph.code, str(layouts), torch.get_num_threads())  # all tensors are arguments: the code says the rest
    if key in _known:
        return _known[key]
    try:
        with torch.no_grad(), bars_of_others():
            compiled = inductor(graph, list(inputs), options=compiler_options())
            compiled(*inputs)
    except Exception as problem:  # no compiler, or one that fails
        raise CannotCapture(
            f"the program cannot be compiled ({type(problem).__name__}: {reason(problem)})"
        ) from problem

    def call(*inputs: Tensor) -> tuple[Tensor, ...]:
        return _as_tuple(compiled(*inputs))

    _known[key] = call
    if len(_known) > KNOWN:
        _known.pop(next(iter(_known)))  # the oldest
    return call


def _as_tuple(result: Any) -> tuple[Tensor, ...]:
    return tuple(result) if isinstance(result, tuple | list) else (result,)


def turned(args: Args) -> Args:
    """Return the data in another order, which shows what was recorded as a constant (by x.numpy(), say)."""
    return tuple(value.flip(0) for value in args)
