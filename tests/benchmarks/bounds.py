"""What bounds a step of ours: its matrix products and convolutions alone, and its optimizer's update alone.

PyTorch's libraries do the products, each after the other; what no rewriting of the rest can save is their time.
"""

from collections.abc import Callable
from typing import Any
from unittest import mock

import torch
from pyro.infer import Trace_ELBO
from torch import Tensor, fx

from ppl_vae.compilation import capture
from ppl_vae.fitting.options import FitOptions
from ppl_vae.fitting.steps import Gradients
from ppl_vae.traces.pair import Pair

from .architectures import Architecture
from .timing import Competitor

aten = torch.ops.aten
PRODUCTS = (
    aten.mm.default,
    aten.addmm.default,
    torch.ops.ppl_vae.linear.default,
    aten.convolution.default,
    aten.convolution_backward.default,
)


def products(architecture: Architecture, data: Tensor, batch_size: int) -> Competitor:
    """Return the products of one step, of matrices that lie in memory as the step's do, by the step's libraries."""
    work = products_of(recorded_step(architecture, data[:batch_size]))

    def run() -> None:
        for product in work:
            product()

    return Competitor(run)


def adam(architecture: Architecture, data: Tensor, batch_size: int) -> Competitor:
    """Return the optimizer's update of a step: it depends on the parameters only."""
    pair = Pair(*architecture.programs())
    optimizer = FitOptions().optimizer_of(pair.parameters())
    for p in pair.parameters():
        p.grad = torch.randn_like(p)
    return Competitor(optimizer.step)


def recorded_step(architecture: Architecture, batch: Tensor) -> fx.Graph:
    """Return the graph of loss and gradients that is compiled for a batch."""
    graphs: list[fx.GraphModule] = []

    def keep(graph: fx.GraphModule, inputs: Any) -> fx.GraphModule:
        graph.recompile()
        graphs.append(graph)
        return graph

    pair = Pair(*architecture.programs(), fresh=True)
    with mock.patch.object(capture, "_compiled", keep), pair.running():
        pair.train(True)
        Gradients(pair, Trace_ELBO(), pair.parameters(), (batch,))
    return graphs[0].graph


def products_of(graph: fx.Graph) -> list[Callable[[], object]]:
    """Return the products of a graph, in its order, each on numbers of its own graph's shapes and strides."""
    made: dict[fx.Node, Tensor] = {}

    def example(node: fx.Node) -> Tensor:
        if node not in made:
            like = _value(node)
            made[node] = torch.empty_strided(like.shape, like.stride(), dtype=like.dtype).uniform_()
        return made[node]

    found: list[Callable[[], object]] = []
    for node in graph.nodes:
        if node.target in PRODUCTS:
            args = fx.node.map_arg(node.args, example)
            found.append(lambda product=node.target, args=args: product(*args))
    return found


def _value(node: fx.Node) -> Tensor:
    """Return a tensor of a node's shape and strides; what was put in by hand is a transpose."""
    value: Tensor | None = node.meta.get("val")
    return _value(node.all_input_nodes[0]).t() if value is None else value
