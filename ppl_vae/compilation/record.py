"""A function of tensors recorded once as a graph of tensor operations, so that calling it again runs no Pyro.

Pyro's handlers cost more than the mathematics where the same densities are evaluated many times on small arrays.
"""

import linecache
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import repeat
from typing import Any, NamedTuple

import pyro
import torch
from torch import Tensor, fx
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.graph_module import _loader

Tensors = tuple[Tensor, ...]


class Likeness(NamedTuple):
    """How near two results of one computation are: |a - b| <= relative |b| + absolute scale, which the caller has."""

    relative: float
    absolute: float
    share: float = 1.0  # of the rows, for each of their numbers


DENSITIES = Likeness(1e-4, 1e-4)
LOG_WEIGHTS = Likeness(1e-3, 1e-3)
GRADIENTS = Likeness(1e-3, 1e-4)
GRADIENTS_IN_BF16 = Likeness(1e-1, 1e-2)
SAMPLES = Likeness(1e-5, 1e-3, share=0.99)  # rounding takes one of a million binary draws to the other side


def alike(
    got: Sequence[Tensor], expected: Sequence[Tensor], likeness: Likeness, scales: Iterable[Any] = repeat(1.0)
) -> bool:
    """Return whether tensors are the same up to rounding, each on a scale of its own.

    >>> alike((torch.tensor([1.0, torch.inf]),), (torch.tensor([1.00001, torch.inf]),), DENSITIES)
    True
    """
    return len(got) == len(expected) and all(
        _alike(a, b, likeness, scale) for a, b, scale in zip(got, expected, scales, strict=False)
    )


def _alike(a: Tensor, b: Tensor, likeness: Likeness, scale: Any) -> bool:
    if a.shape != b.shape:
        return False
    if a.is_floating_point() and bool(((a - b).abs() <= likeness.absolute * scale).all()):  # mostly
        return True
    a, b = a.double(), b.double()
    near = (a - b).abs() <= likeness.relative * b.abs() + likeness.absolute * scale
    same = (near & b.isfinite()) | (a == b) | (a.isnan() & b.isnan())
    return bool((same.double().mean(0) >= likeness.share).all()) if likeness.share < 1 else bool(same.all())


def recorded(function: Callable[[Tensor], Tensors], example: Tensor) -> Callable[[Tensor], Tensors]:
    """Return a function that gives the same tensors for arguments of the example's shape, faster.

    It is the function itself where the record does not give the same (it decides by values, or draws at random).

    >>> double = recorded(lambda x: (x + x,), torch.ones(3))
    >>> double(torch.arange(3.0))
    (tensor([0., 2., 4.]),)
    """
    try:
        with pyro.validation_enabled(False), sources_forgotten():
            graph = folded(record(function, example))
        return graph if agree(function, graph, example) else function
    except Exception:  # whatever a program does that cannot be recorded, it can be run
        return function


@contextmanager
def sources_forgotten() -> Iterator[None]:
    """Let PyTorch forget the source code of each graph that is made within, which it keeps for tracebacks for good."""
    kept = _loader.eval_cache
    before = set(kept)
    try:
        yield
    finally:
        for name in set(kept) - before:
            del kept[name]
            linecache.cache.pop(name, None)


def agree(function: Callable[[Tensor], Tensors], other: Callable[[Tensor], Tensors], example: Tensor) -> bool:
    """Return whether two functions give the same densities, at an example and near it.

    >>> agree(lambda x: (x + x,), lambda x: (2 * x,), torch.ones(3))
    True
    """
    near = example + 0.1 * torch.cos(torch.arange(example.numel(), device=example.device)).reshape(example.shape)
    return all(alike(other(x), function(x), DENSITIES) for x in (example, near))


def record(function: Callable[..., Any], *examples: Tensor) -> fx.GraphModule:
    """Run a function once and return the operations on tensors that it did."""
    module = make_fx(function)(*examples)
    without_dead_code(module.graph)
    module.recompile()  # else what runs is as it was before
    return module


def compiler_options() -> dict[str, Any]:
    """Return how records are compiled."""
    # Fallback: draws are made by PyTorch's own generator, as plain Pyro's are. Dynamic: what is compiled for several
    # threads can be run by one.
    return {"fallback_random": True, "cpp.dynamic_threads": torch.get_num_threads() > 1}


def without_dead_code(graph: fx.Graph) -> None:
    """Leave out of a graph what nobody uses, but for draws, which move the random generator on."""
    graph.eliminate_dead_code(lambda node: node.is_impure() or _random(node))


def folded(module: fx.GraphModule) -> fx.GraphModule:
    """Compute once, now, what does not depend on a recorded function's arguments."""
    graph = module.graph
    known: dict[fx.Node, Any] = {}
    for node in list(graph.nodes):
        if node.op == "get_attr":
            known[node] = getattr(module, str(node.target))
        elif node.op == "call_function" and not _random(node) and all(n in known for n in node.all_input_nodes):
            args = fx.node.map_arg((node.args, node.kwargs), lambda n: known[n])
            known[node] = node.target(*args[0], **args[1])
    for i, (node, value) in enumerate(known.items()):
        if node.op == "call_function" and isinstance(value, Tensor) and any(user not in known for user in node.users):
            module.register_buffer(f"known_{i}", value)
            with graph.inserting_before(node):
                node.replace_all_uses_with(graph.get_attr(f"known_{i}"))
    without_dead_code(graph)
    module.recompile()
    return module


def lift(graph: fx.GraphModule) -> list[Tensor]:
    """Make the tensors that a graph holds (parameters, buffers, constants) arguments after its own; return them."""
    last = next(reversed(graph.graph.find_nodes(op="placeholder")), None)
    held: dict[int, tuple[Tensor, fx.Node]] = {}
    nodes = graph.graph.find_nodes(op="get_attr")
    for node in nodes:
        tensor = getattr(graph, str(node.target))
        if id(tensor) not in held:
            with graph.graph.inserting_after(last) if last else graph.graph.inserting_before():
                last = graph.graph.placeholder(f"held_{len(held)}")
            last.meta = node.meta | {"val": tensor}
            held[id(tensor)] = (tensor, last)
        node.replace_all_uses_with(held[id(tensor)][1])
        graph.graph.erase_node(node)
    for name in {str(node.target) for node in nodes}:  # or they would be arguments twice, and live as long as the graph
        delattr(graph, name)
    graph.recompile()
    return [tensor for tensor, _ in held.values()]


def _random(node: fx.Node) -> bool:
    return torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ())
