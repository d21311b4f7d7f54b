"""Matrix products alone: how many floating-point operations a step's products are, and how fast the machine does any.

A product [B, I] x [I, O] takes 2 B I O operations. A step does each three times: forward, for the gradient of the
weights, and for that of its input, which the first layer of the encoder does not need.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from .architectures import SHAPE, Architecture
from .timing import Competitor

SQUARE = (1024, 1536)  # sizes of the product that shows the machine's best rate


def by_mkl(x: Tensor, weight: Tensor) -> Tensor:
    """Return x W^T by PyTorch's default library."""
    return torch.mm(x, weight.t())


def by_onednn(x: Tensor, weight: Tensor) -> Tensor:
    """Return x W^T by oneDNN."""
    linear: Any = torch.ops.mkldnn._linear_pointwise.default
    return linear(x, weight, None, "none", [], "")


def libraries() -> dict[str, Callable[[Tensor, Tensor], Tensor]]:
    """Return the ways to a product that there are here."""
    return {"MKL": by_mkl} | ({"oneDNN": by_onednn} if torch.backends.mkldnn.is_available() else {})


def large_products() -> dict[str, Competitor]:
    """Return large square products by each library; a unit is a floating-point operation."""
    found = {}
    for size in SQUARE:
        x, weight = torch.randn(size, size), torch.randn(size, size)
        for name, product in libraries().items():
            found[f"{name} {size}"] = Competitor(partial(product, x, weight), units=2.0 * size**3)
    return found


def chain_products(network: nn.Sequential, rows: int) -> dict[str, Competitor]:
    """Return the products of a network's linear layers and nothing else, by each library; a unit is a row."""
    weights = [layer.weight.detach() for layer in network.modules() if isinstance(layer, nn.Linear)]
    inputs = [torch.randn(rows, weight.shape[1]) for weight in weights]

    def work(product: Callable[[Tensor, Tensor], Tensor]) -> None:
        for x, weight in zip(inputs, weights, strict=True):
            product(x, weight)

    return {f"{name} {rows}": Competitor(partial(work, product), units=rows) for name, product in libraries().items()}


def step_operations(architecture: Architecture, batch_size: int) -> float:
    """Return the floating-point operations of one step's matrix products and convolutions."""
    encoder, decoder = architecture.networks()
    first, *others = forward_operations(encoder, torch.zeros(1, *SHAPE))
    others += forward_operations(decoder, torch.zeros(1, architecture.latent_dim))
    return batch_size * (2.0 * first + 3.0 * sum(others))


def forward_operations(network: nn.Module, x: Tensor) -> list[int]:
    """Return the floating-point operations of each layer, forward, for one datum."""
    found: list[int] = []

    def note(layer: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        # Each number that a linear layer or a convolution gives sums over so many; a transposed one turns it around.
        to = inputs[0] if isinstance(layer, nn.ConvTranspose2d) else output
        found.append(2 * to[0].numel() * layer.weight[0].numel())

    kinds = nn.Linear | nn.Conv2d | nn.ConvTranspose2d
    handles = [layer.register_forward_hook(note) for layer in network.modules() if isinstance(layer, kinds)]
    with torch.no_grad():
        network(x)
    for handle in handles:
        handle.remove()
    return found
