"""Matrix products of recorded graphs, given to whichever of PyTorch's two libraries is faster on this machine.

On AMD processors MKL, the default, may run at half of oneDNN's single-precision rate; on Intel's it is the other
way round.
"""

import functools
import math
import time
from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, fx

aten = torch.ops.aten

_library = torch.library.Library("ppl_vae", "DEF")
_library.define("linear(Tensor x, Tensor weight, Tensor? bias) -> Tensor")


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Return x W^T + b by oneDNN, for single precision on the CPU."""
    return cast(Tensor, torch.ops.mkldnn._linear_pointwise.default(x, weight, bias, "none", [], ""))


# An operator of our own: the compiler would put its own product in the place of oneDNN's.
_library.impl("linear", linear, "CPU")
_library.impl("linear", lambda x, weight, bias: x.new_empty((*x.shape[:-1], weight.shape[0])), "Meta")


@functools.cache
def onednn_is_faster(num_threads: int) -> bool:
    """Return whether oneDNN's x W^T beats PyTorch's default product on this machine; measured once."""
    if not torch.backends.mkldnn.is_available():
        return False
    x, weight, bias = torch.ones(1024, 400), torch.ones(784, 400), torch.ones(784)
    default, onednn = math.inf, math.inf
    for _ in range(6):  # in turn, the fastest of each: a busy machine slows both
        default = min(default, _seconds(lambda: torch.addmm(bias, x, weight.t())))
        onednn = min(onednn, _seconds(lambda: linear(x, weight, bias)))
    return onednn < default


def _seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def choose_products(graph: fx.Graph) -> None:
    """Give x W^T and x W^T + b (what `nn.Linear` becomes) to oneDNN where it is the faster one."""
    for node in list(graph.nodes):
        if node.target not in (aten.mm.default, aten.addmm.default) or node.kwargs:
            continue
        *bias, x, transposed = node.args
        values = [n.meta["val"] for n in (x, transposed, *bias)]
        fits = all(v.dtype == torch.float32 and v.device.type == "cpu" for v in values)
        is_linear = transposed.target is aten.t.default and all(n.meta["val"].dim() == 1 for n in bias)
        # On a part of a weight, which has gaps between its rows, oneDNN is more than ten times slower.
        whole = is_linear and transposed.args[0].meta["val"].is_contiguous()
        if fits and whole and onednn_is_faster(torch.get_num_threads()):
            with graph.inserting_before(node):
                arguments = (x, transposed.args[0], *(bias or [None]))
                ours = graph.call_function(torch.ops.ppl_vae.linear.default, arguments)
            ours.meta = dict(node.meta)
            node.replace_all_uses_with(ours)
            graph.erase_node(node)
