"""Recorded graphs rewritten, so that the same numbers cost less.

A Bernoulli's log-probability takes one logarithm for many pixels. The gradient of a weight, PyTorch's transpose of a
product, becomes a product of transposes: in the order in which the weight is stored. Matrix products go to MKL, the
default, or to oneDNN: none is always ahead, so each kind of product is timed once in a process.
"""

import functools
import math
from typing import Any, cast

import torch
from torch import Tensor, fx

from ppl_vae.compilation.record import record, without_dead_code
from ppl_vae.utils.threads import seconds_of

FACTORS = 64  # of at most 2 each in one product: 2^64 is well inside single precision
aten = torch.ops.aten
BINARY_CROSS_ENTROPY = aten.binary_cross_entropy_with_logits.default


def rewrite(graph: fx.Graph) -> None:
    """Rewrite a graph in place."""
    _fewer_logarithms(graph)
    _transpose_factors(graph)
    without_dead_code(graph)


def _transpose_factors(graph: fx.Graph) -> None:
    """Put B^T A^T in the place of (A B)^T."""
    for node in list(graph.nodes):
        chain = _chain(node, (aten.t.default, aten.mm.default))
        if not chain:
            continue
        with graph.inserting_before(node):
            factors = [_transposed(graph, factor) for factor in reversed(chain[1].args)]
            result = graph.call_function(aten.mm.default, tuple(factors))
        result.meta = {"val": node.meta["val"].contiguous()}
        node.replace_all_uses_with(result)
        graph.erase_node(node)


def _transposed(graph: fx.Graph, node: fx.Node) -> fx.Node:
    if node.target is aten.t.default:
        return cast(fx.Node, node.args[0])
    result = graph.call_function(aten.t.default, (node,))
    result.meta = {"val": node.meta["val"].t()}
    return result


def bernoulli_log_prob(h: Tensor, x: Tensor) -> Tensor:
    """Return log P(x | h) = sum_i x_i h_i - max(h_i, 0) - log(1 + exp(-|h_i|)), summed over the last dimension.

    One logarithm is taken of each product of up to 64 of the factors, which are between 1 and 2.
    """
    size = h.shape[-1]
    products = next(n for n in range(-(-size // FACTORS), size + 1) if size % n == 0)
    factors = 1 + (-h.abs()).exp()
    logarithms = factors.unflatten(-1, (size // products, products)).prod(-2).log().sum(-1)
    return (x * h - h.clamp(min=0)).sum(-1) - logarithms


def _fewer_logarithms(graph: fx.Graph) -> None:
    """Put `bernoulli_log_prob` in the place of a sum over pixels of Bernoulli log-probabilities."""
    for total in list(graph.nodes):
        chain = _chain(total, (aten.sum.dim_IntList, aten.view.default, aten.neg.default, BINARY_CROSS_ENTROPY))
        if not chain or total.args[1:] != ([-1],):
            continue
        h, x, *rest = chain[-1].args
        values, flat = [n.meta["val"] for n in (h, x)], chain[1].meta["val"].shape
        wide = all(v.dtype in (torch.float32, torch.float64) for v in values)  # others cannot hold 2^64
        if rest != [None, None, 0] or values[0].shape != values[1].shape or not wide:
            continue
        examples = [torch.zeros(v.shape, dtype=v.dtype, device=v.device).reshape(flat) for v in values]
        replacement = record(bernoulli_log_prob, *examples)
        with graph.inserting_before(total):
            flattened = [graph.call_function(aten.reshape.default, (n, list(flat))) for n in (h, x)]
            places = dict(zip(replacement.graph.find_nodes(op="placeholder"), flattened, strict=True))
            result = graph.graph_copy(replacement.graph, cast(Any, places))
        total.replace_all_uses_with(cast(fx.Node, result))


def _chain(node: Any, targets: tuple[Any, ...]) -> list[Any]:
    """Return a node and those before it, each the first argument of one that alone uses it; none if targets differ."""
    found: list[Any] = []
    for target in targets:
        if node.target is not target or (found and len(node.users) != 1):
            return []
        found.append(node)
        node = node.args[0]
    return found


ROUNDS = 7
AHEAD = 0.8  # of the default's time at most: in a loop of its own a product finds its factors in the cache


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Return x W^T + b by oneDNN, for single precision on the CPU."""
    return cast(Tensor, torch.ops.mkldnn._linear_pointwise.default(x, weight, bias, "none", [], ""))


# An operator of our own, defined once: the compiler would put its own product in the place of oneDNN's.
_library = torch.library.Library("ppl_vae", "FRAGMENT")
if not hasattr(torch.ops.ppl_vae, "linear"):
    _library.define("linear(Tensor x, Tensor weight, Tensor? bias) -> Tensor")
    _library.impl("linear", linear, "CPU")
    _library.impl("linear", lambda x, weight, bias: x.new_empty((*x.shape[:-1], weight.shape[0])), "Meta")


Layout = tuple[tuple[int, ...], tuple[int, ...]]  # shape and stride: what the speed of a matrix's products depends on


@functools.cache
def onednn_is_faster(left: Layout, right: Layout, with_bias: bool, num_threads: int) -> bool:
    """Return whether oneDNN's A B + b beats PyTorch's default product for such matrices; measured once."""
    if not (torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")):
        return False
    a, b = (torch.empty_strided(*layout).fill_(1.0) for layout in (left, right))
    bias = torch.ones(b.shape[1]) if with_bias else None
    default, onednn = math.inf, math.inf
    for _ in range(ROUNDS):  # in turn, the fastest of each: a busy machine slows both
        default = min(default, seconds_of(lambda: a @ b if bias is None else torch.addmm(bias, a, b)))
        onednn = min(onednn, seconds_of(lambda: torch.ops.ppl_vae.linear(a, b.t(), bias)))
    return onednn < AHEAD * default


def choose_products(graph: fx.Graph) -> None:
    """Give A B and A B + b to oneDNN where it is the faster one."""
    for node in list(graph.nodes):
        if node.target not in (aten.mm.default, aten.addmm.default) or node.kwargs:
            continue
        *bias, left, right = node.args
        values = [n.meta["val"] for n in (left, right, *bias)]
        fits = all(v.dtype == torch.float32 and v.device.type == "cpu" for v in values)
        fits = fits and all(v.dim() == 1 for v in values[2:])
        factors = [(tuple(v.shape), tuple(v.stride())) for v in values[:2]]
        if fits and onednn_is_faster(*factors, bool(bias), torch.get_num_threads()):
            with graph.inserting_before(node):
                arguments = (left, _transposed(graph, right), *(bias or [None]))
                ours = graph.call_function(torch.ops.ppl_vae.linear.default, arguments)
            ours.meta = dict(node.meta)
            node.replace_all_uses_with(ours)
            graph.erase_node(node)
