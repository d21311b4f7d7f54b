"""Recorded graphs rewritten, so that the same numbers cost less.

A Bernoulli's log-probability takes one logarithm for many pixels. The gradient of a weight, which PyTorch computes as
the transpose of a product, becomes a product of transposes: a gradient in the order in which the weight is stored.
"""

from typing import Any, cast

import torch
from torch import Tensor, fx

from ppl_vae.recorded import record, without_dead_code

FACTORS = 64  # of at most 2 each in one product: 2^64 is well inside single precision
aten = torch.ops.aten


def rewrite(graph: fx.Graph) -> None:
    """Rewrite a graph in place."""
    _fewer_logarithms(graph)
    _transpose_factors(graph)
    without_dead_code(graph)


def _transpose_factors(graph: fx.Graph) -> None:
    """Put B^T A^T in the place of (A B)^T."""
    for node in list(graph.nodes):
        product = node.args[0] if node.target is aten.t.default else None
        if product is None or product.target is not aten.mm.default or len(product.users) != 1:
            continue
        with graph.inserting_before(node):
            factors = [_transposed(graph, factor) for factor in reversed(product.args)]
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

    The sum of logarithms is taken as the logarithm of products of up to 64 of the factors, which are between
    1 and 2: exponentials and logarithms are what the sum costs.

    >>> h, x = torch.randn(5, 784), torch.rand(5, 784).round()
    >>> expected = torch.distributions.Bernoulli(logits=h).log_prob(x).sum(-1)
    >>> torch.allclose(bernoulli_log_prob(h, x), expected, atol=1e-3)
    True
    """
    size = h.shape[-1]
    products = next(n for n in range(-(-size // FACTORS), size + 1) if size % n == 0)
    factors = 1 + (-h.abs()).exp()
    logarithms = factors.unflatten(-1, (size // products, products)).prod(-2).log().sum(-1)
    return (x * h - h.clamp(min=0)).sum(-1) - logarithms


def _fewer_logarithms(graph: fx.Graph) -> None:
    """Put `bernoulli_log_prob` in the place of a sum over pixels of Bernoulli log-probabilities."""
    for node in list(graph.nodes):
        chain = _chain(node, [aten.binary_cross_entropy_with_logits.default, aten.neg.default, aten.view.default])
        total = next(iter(chain[-1].users)) if len(chain) == 3 and len(chain[-1].users) == 1 else None
        if total is None or total.target is not aten.sum.dim_IntList or total.args[1:] != ([-1],):
            continue
        h, x, *rest = node.args
        values, flat = [n.meta["val"] for n in (h, x)], chain[-1].meta["val"].shape
        wide = all(v.dtype in (torch.float32, torch.float64) for v in values)  # others cannot hold 2^64
        if rest != [None, None, 0] or values[0].shape != values[1].shape or not wide:
            continue
        examples = [torch.zeros(v.shape, dtype=v.dtype, device=v.device).reshape(flat) for v in values]
        replacement = record(bernoulli_log_prob, *examples)
        with graph.inserting_before(total):
            flattened = [graph.call_function(aten.reshape.default, (n, list(flat))) for n in (h, x)]
            places = dict(zip((n for n in replacement.graph.nodes if n.op == "placeholder"), flattened, strict=True))
            result = graph.graph_copy(replacement.graph, cast(Any, places))
        total.replace_all_uses_with(cast(fx.Node, result))


def _chain(node: fx.Node, targets: list[Any]) -> list[fx.Node]:
    """Return the node and those that follow it, each the only user of the one before, as far as targets agree."""
    found: list[fx.Node] = []
    for target in targets:
        if node.target is not target:
            break
        found.append(node)
        if len(node.users) != 1:
            break
        node = next(iter(node.users))
    return found
