"""Matrix products of recorded graphs, given to whichever of PyTorch's two libraries is faster on this machine.

Neither MKL, the default, nor oneDNN is always ahead: it depends on the processor, on the shapes, on which factor is
transposed and on the number of threads. So each kind of product is timed once in a process.
"""

import functools
import math
import time
from collections.abc import Callable
from typing import NamedTuple, cast

import torch
from torch import Tensor, fx

aten = torch.ops.aten
ROUNDS = 7
AHEAD = 0.8  # of the default's time at most: in a loop of its own a product finds its factors in the cache

_library = torch.library.Library("ppl_vae", "DEF")
_library.define("linear(Tensor x, Tensor weight, Tensor? bias) -> Tensor")


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Return x W^T + b by oneDNN, for single precision on the CPU."""
    return cast(Tensor, torch.ops.mkldnn._linear_pointwise.default(x, weight, bias, "none", [], ""))


# An operator of our own: the compiler would put its own product in the place of oneDNN's.
_library.impl("linear", linear, "CPU")
_library.impl("linear", lambda x, weight, bias: x.new_empty((*x.shape[:-1], weight.shape[0])), "Meta")


class Factor(NamedTuple):
    """A matrix as far as the speed of its products goes: its shape and how its numbers lie in memory."""

    shape: tuple[int, ...]
    stride: tuple[int, ...]

    @classmethod
    def of(cls, x: Tensor) -> "Factor":
        """Return what there is to know of a matrix."""
        return cls(tuple(x.shape), tuple(x.stride()))

    def example(self) -> Tensor:
        """Return such a matrix."""
        return torch.empty_strided(self.shape, self.stride).fill_(1.0)


@functools.cache
def onednn_is_faster(left: Factor, right: Factor, with_bias: bool, num_threads: int) -> bool:
    """Return whether oneDNN's A B + b beats PyTorch's default product for such matrices; measured once."""
    if not torch.backends.mkldnn.is_available():
        return False
    a, b, bias = left.example(), right.example(), torch.ones(right.shape[1]) if with_bias else None
    default, onednn = math.inf, math.inf
    for _ in range(ROUNDS):  # in turn, the fastest of each: a busy machine slows both
        default = min(default, _seconds(lambda: a @ b if bias is None else torch.addmm(bias, a, b)))
        onednn = min(onednn, _seconds(lambda: torch.ops.ppl_vae.linear(a, b.t(), bias)))
    return onednn < AHEAD * default


def _seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def choose_products(graph: fx.Graph) -> None:
    """Give A B and A B + b to oneDNN where it is the faster one."""
    for node in list(graph.nodes):
        if node.target not in (aten.mm.default, aten.addmm.default) or node.kwargs:
            continue
        *bias, left, right = node.args
        values = [n.meta["val"] for n in (left, right, *bias)]
        fits = all(v.dtype == torch.float32 and v.device.type == "cpu" for v in values)
        fits = fits and all(v.dim() == 1 for v in values[2:])
        factors = [Factor.of(v) for v in values[:2]]
        if fits and onednn_is_faster(*factors, bool(bias), torch.get_num_threads()):
            with graph.inserting_before(node):
                transposed = right.args[0] if right.target is aten.t.default else graph.call_function(aten.t, (right,))
                arguments = (left, transposed, *(bias or [None]))
                ours = graph.call_function(torch.ops.ppl_vae.linear.default, arguments)
            ours.meta = dict(node.meta)
            node.replace_all_uses_with(ours)
            graph.erase_node(node)
