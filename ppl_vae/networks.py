"""Networks: what turns z into h for a likelihood, and x into h for a posterior family.

A network is made as `Network(in_shape, out_shape, **options)` and maps [..., *in_shape] to
[..., *out_shape] for any leading batch dimensions. A model or guide takes the class (or a
`functools.partial` of it) and gives it the shapes, so any network fits any program.
"""

import itertools
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from ppl_vae.errors import InputError, did_you_mean, positive_int

NetworkFactory = Callable[[Sequence[int], Sequence[int]], nn.Module]

ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "tanh": nn.Tanh, "silu": nn.SiLU, "elu": nn.ELU}


class MLP(nn.Module):
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
        super().__init__()
        if activation not in ACTIVATIONS:
            raise InputError(f"Unknown activation {activation!r}: {did_you_mean(str(activation), ACTIVATIONS)}.")
        self.in_shape, self.out_shape = torch.Size(in_shape), torch.Size(out_shape)
        if not isinstance(hidden, int | list | tuple):
            raise InputError(f"Expected hidden to be a width or a list of widths, as 64,64; got {hidden!r}.")
        widths = [hidden] if isinstance(hidden, int) else list(hidden)
        sizes = [math.prod(in_shape), *(positive_int("hidden", w) for w in widths), math.prod(out_shape)]
        layers: list[nn.Module] = []
        for n_in, n_out in itertools.pairwise(sizes):
            layers += [nn.Linear(n_in, n_out), ACTIVATIONS[activation]()]
        self.layers = nn.Sequential(*layers[:-1])

    def forward(self, x: Tensor) -> Tensor:
        """Map x of shape [..., *in_shape] to [..., *out_shape]."""
        batch_shape = x.shape[: x.dim() - len(self.in_shape)]
        if x.shape[len(batch_shape) :] != self.in_shape:
            raise InputError(
                f"Expected the network to be given shape [..., {', '.join(map(str, self.in_shape))}]; "
                f"got {tuple(x.shape)}."
            )
        h: Tensor = self.layers(x.flatten(-len(self.in_shape)) if len(self.in_shape) > 1 else x)
        return h.reshape(batch_shape + self.out_shape)
