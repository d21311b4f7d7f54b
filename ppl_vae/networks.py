"""Networks: what turns z into h for a likelihood, and x into h for a posterior family.

A network is made as `Network(in_shape, out_shape, **options)` and maps [..., *in_shape] to
[..., *out_shape] for any leading batch dimensions. A model or guide takes the class (or a
`functools.partial` of it) and gives it the shapes, so any network fits any program.
"""

import itertools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from ppl_vae.errors import InputError, did_you_mean, positive_int

NetworkFactory = Callable[[Sequence[int], Sequence[int]], nn.Module]

ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "tanh": nn.Tanh, "silu": nn.SiLU, "elu": nn.ELU}


class Network(nn.Module):
    """A map between any two shapes: subclasses implement `transform`, the base class does the shapes."""

    def __init__(self, in_shape: Sequence[int], out_shape: Sequence[int]) -> None:
        super().__init__()
        self.in_shape, self.out_shape = torch.Size(in_shape), torch.Size(out_shape)

    def transform(self, x: Tensor) -> Tensor:
        """Map x of shape [..., *in_shape] to [..., n] in any form of out_shape.numel() numbers."""
        raise TypeError(f"{type(self).__name__} has to define transform(x).")

    def forward(self, x: Tensor) -> Tensor:
        """Map x of shape [..., *in_shape] to [..., *out_shape]."""
        batch_shape = x.shape[: x.dim() - len(self.in_shape)]
        if x.shape[len(batch_shape) :] != self.in_shape:
            raise InputError(
                f"Expected the network to be given shape [..., {', '.join(map(str, self.in_shape))}]; "
                f"got {tuple(x.shape)}."
            )
        return self.transform(x).reshape(batch_shape + self.out_shape)


class MLP(Network):
    """A multi-layer perceptron between any two shapes.

    Args:
        in_shape: the shape of one input.
        out_shape: the shape of one output.
        hidden: the width of each hidden layer; () gives a linear map.
        activation: one of relu, tanh, silu, elu.

    Raises:
        InputError: a width that is not above zero, or an unknown activation.

    >>> MLP((8,), (1, 28, 28), hidden=(64,))(torch.zeros(3, 5, 8)).shape
    torch.Size([3, 5, 1, 28, 28])
    """

    def __init__(
        self,
        in_shape: Sequence[int],
        out_shape: Sequence[int],
        hidden: Sequence[int] | int = (512, 512),
        activation: str = "relu",
    ) -> None:
        super().__init__(in_shape, out_shape)
        made = activation_of(activation)
        self.layers = _layers(self.in_shape, self.out_shape, hidden, lambda width: (width, made()))

    def transform(self, x: Tensor) -> Tensor:
        """Map x of shape [..., *in_shape] to [..., out_shape.numel()]."""
        return self.layers(x.flatten(-len(self.in_shape)) if len(self.in_shape) > 1 else x)


class GatedMLP(MLP):
    """A multi-layer perceptron whose units are gated, h' = (A h + a) * sigmoid(B h + b).

    Args:
        in_shape: the shape of one input.
        out_shape: the shape of one output.
        hidden: the width of each hidden layer.

    Raises:
        InputError: a width that is not above zero.

    Source: Dauphin et al., arXiv 1612.08083; in VAEs, Tomczak & Welling, arXiv 1705.07120.

    >>> GatedMLP((8,), (1, 28, 28), hidden=(64,))(torch.zeros(3, 5, 8)).shape
    torch.Size([3, 5, 1, 28, 28])
    """

    def __init__(
        self, in_shape: Sequence[int], out_shape: Sequence[int], hidden: Sequence[int] | int = (300, 300)
    ) -> None:
        Network.__init__(self, in_shape, out_shape)
        self.layers = _layers(self.in_shape, self.out_shape, hidden, lambda width: (2 * width, nn.GLU(dim=-1)))


def activation_of(name: str) -> type[nn.Module]:
    """Return an activation by name.

    Raises:
        InputError: an unknown one.
    """
    if name not in ACTIVATIONS:
        raise InputError(f"Unknown activation {name!r}: {did_you_mean(str(name), ACTIVATIONS)}.")
    return ACTIVATIONS[name]


def widths(name: str, values: Sequence[int] | int) -> list[int]:
    """Return the widths of layers as a list.

    Raises:
        InputError: one that is not a whole number above zero.
    """
    if not isinstance(values, int | list | tuple):
        raise InputError(f"Expected {name} to be a width or a list of widths, as 64,64; got {values!r}.")
    return [positive_int(name, width) for width in ([values] if isinstance(values, int) else values)]


def _layers(
    in_shape: torch.Size,
    out_shape: torch.Size,
    hidden: Sequence[int] | int,
    unit: Callable[[int], tuple[int, nn.Module]],
) -> nn.Sequential:
    """Return linear layers with `unit(width)`, how many numbers it reads and what makes `width` of them, between."""
    layers: list[nn.Module] = []
    sizes = [in_shape.numel(), *widths("hidden", hidden)]
    for n_in, width in itertools.pairwise(sizes):
        read, nonlinearity = unit(width)
        layers += [nn.Linear(n_in, read), nonlinearity]
    return nn.Sequential(*layers, nn.Linear(sizes[-1], out_shape.numel()))
