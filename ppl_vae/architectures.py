"""Architectures of conditional programs: how encoder and decoder read the condition.

    h = decoder(z, c),    h_Q = encoder(x, c),    with c what is read of the condition y.

An architecture is a part (`--networks`): it makes a decoder for the model and an encoder that goes with it
for the guide.
"""

import functools
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from ppl_vae import networks
from ppl_vae.errors import InputError, positive_int
from ppl_vae.networks import MLP, NetworkFactory, Shape, Widths, is_maker, network_of, vectors


class Architecture:
    """Makes the networks of a conditional pair: subclasses implement `decoder` and `encoder`."""

    def decoder(self, z_shape: Shape | None, c_shape: Shape, out_shape: Shape) -> nn.Module:
        """Return the network that decodes z and c: it gives [..., *out_shape]; with z_shape None z is None, too."""
        raise TypeError(f"{type(self).__name__} has to define decoder(z_shape, c_shape, out_shape).")

    def encoder(self, x_shape: Shape, c_shape: Shape, out_shape: Shape, decoder: Any) -> nn.Module:
        """Return the network that reads x and c: it gives [..., *out_shape]; it may share layers with a decoder."""
        raise TypeError(f"{type(self).__name__} has to define encoder(x_shape, c_shape, out_shape, decoder).")


class Concatenated(Architecture):
    """One network on the concatenation of what it reads.

    A network of images (`networks.Convolutional`) that encodes an image x reads each number of c as one more channel,
    the same in all pixels; other networks read vectors.

    Args:
        hidden: the width of each hidden layer; None leaves it to the network.
        activation: as in `networks.MLP`; None leaves it to the network.
        network: which network, for instance `functools.partial(networks.Convolutional, channels=(16, 32))`.

    >>> decoder = Concatenated(hidden=64).decoder((8,), (10,), (1, 8, 8))
    >>> decoder(torch.zeros(3, 5, 8), torch.zeros(5, 10)).shape
    torch.Size([3, 5, 1, 8, 8])
    """

    def __init__(
        self, hidden: Widths | None = None, activation: str | None = None, network: NetworkFactory = MLP
    ) -> None:
        if not is_maker(network):
            raise InputError(
                f"Expected a class, or a function of shapes, that makes the networks of a conditional pair, of which "
                f"there are two; got {type(network).__name__}. Pass its class, or lambda in_shape, out_shape: ... that "
                f"returns one, or write an Architecture."
            )
        given = {"hidden": hidden, "activation": activation}
        self.network = functools.partial(network, **{k: v for k, v in given.items() if v is not None})

    def decoder(self, z_shape: Shape | None, c_shape: Shape, out_shape: Shape) -> nn.Module:
        return Joined([s for s in (z_shape, c_shape) if s is not None], out_shape, self.network)

    def encoder(self, x_shape: Shape, c_shape: Shape, out_shape: Shape, decoder: Any) -> nn.Module:
        if networks.made_for_images(self.network) and len(x_shape) == 3:
            return WithChannels(x_shape, c_shape, out_shape, self.network)
        return Joined([x_shape, c_shape], out_shape, self.network)


class Gated(Concatenated):
    """A gated perceptron, `networks.GatedMLP`, on the concatenation of what it reads.

    Args:
        hidden: the width of each hidden layer.

    >>> Gated(hidden=64).decoder((8,), (10,), (1, 8, 8))(torch.zeros(3, 5, 8), torch.zeros(5, 10)).shape
    torch.Size([3, 5, 1, 8, 8])
    """

    def __init__(self, hidden: Widths = (300, 300)) -> None:
        super().__init__(hidden, network=networks.GatedMLP)


class Convolutional(Concatenated):
    """`networks.Convolutional`, for data that are images: c is more channels, or stands beside z.

    Args:
        channels: of each layer, from the one at the image on.
        activation: one of relu, tanh, silu, elu.

    >>> Convolutional(channels=4).decoder((8,), (10,), (1, 8, 8))(torch.zeros(3, 5, 8), torch.zeros(5, 10)).shape
    torch.Size([3, 5, 1, 8, 8])
    """

    def __init__(self, channels: Widths = (32, 64), activation: str = "relu") -> None:
        super().__init__(activation=activation, network=functools.partial(networks.Convolutional, channels=channels))


class Residual(Concatenated):
    """`networks.Residual`, for data that are images: c is more channels, or stands beside z.

    Args:
        channels: of each size of image, from the largest on.
        blocks: how many for each size.
        activation: one of relu, tanh, silu, elu.

    >>> Residual(channels=4).decoder((8,), (10,), (1, 8, 8))(torch.zeros(3, 5, 8), torch.zeros(5, 10)).shape
    torch.Size([3, 5, 1, 8, 8])
    """

    def __init__(self, channels: Widths = (32, 64), blocks: int = 1, activation: str = "silu") -> None:
        network = functools.partial(networks.Residual, channels=channels, blocks=blocks)
        super().__init__(activation=activation, network=network)


class WithChannels(nn.Module):
    """A network of an image and a vector, whose numbers are channels of their own, the same in all pixels."""

    def __init__(self, x_shape: Shape, c_shape: Shape, out_shape: Shape, network: NetworkFactory) -> None:
        super().__init__()
        channels, *self.size = x_shape
        self.c_shape = torch.Size(c_shape)
        self.network = network_of(network, (channels + self.c_shape.numel(), *self.size), out_shape)

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        """Map x [..., *x_shape] and c [..., *c_shape] to [..., *out_shape]."""
        constant = vectors(c, self.c_shape)[..., None, None]
        batch_shape = torch.broadcast_shapes(x.shape[:-3], constant.shape[:-3])
        parts = [x.expand(*batch_shape, *x.shape[-3:]), constant.expand(*batch_shape, -1, *self.size)]
        return self.network(torch.cat(parts, dim=-3))


class Joined(nn.Module):
    """A network of several inputs: they are flattened, broadcast and concatenated; None is left out.

    The first layer of an MLP is linear, W (z, c) = W_z z + W_c c: an input that is the same for many of another goes
    through it once, as x does for all labels that are summed out.
    """

    def __init__(self, in_shapes: list[Shape], out_shape: Shape, network: NetworkFactory) -> None:
        super().__init__()
        self.in_shapes = [torch.Size(shape) for shape in in_shapes]
        self.network: Any = network_of(network, (sum(shape.numel() for shape in self.in_shapes),), out_shape)

    def forward(self, *inputs: Tensor | None) -> Tensor:
        """Map inputs [..., *in_shapes[i]] to [..., *out_shape]."""
        given = [value for value in inputs if value is not None]
        flat = [vectors(value, shape) for value, shape in zip(given, self.in_shapes, strict=True)]
        if not isinstance(self.network, MLP):
            batch_shape = torch.broadcast_shapes(*(value.shape[:-1] for value in flat))
            return self.network(torch.cat([value.expand(*batch_shape, -1) for value in flat], dim=-1))
        layers: Any = self.network.layers
        first, *rest = layers
        weights = first.weight.split([value.shape[-1] for value in flat], dim=-1)
        parts = [linear(value, weight) for value, weight in zip(flat, weights, strict=True)]
        h: Tensor = functools.reduce(torch.add, parts) + first.bias
        for layer in rest:
            h = layer(h)
        return h.reshape(h.shape[:-1] + self.network.out_shape)


class Tutorial(Architecture):
    """The networks of the tutorial's conditional experiment, with a tower that encoder and decoder share.

    Tower c-1000-500-250-250, its last layer linear; encoder x-1000-500-250, with the tower's 500 added before
    its nonlinearity; decoder z-250 plus the tower's output, ReLU, 500-1000-x. Widths can be scaled down.

    Args:
        scale: what the widths are divided by, a whole number.

    Raises:
        InputError: a scale below 1.

    Source: the code of Doersch, arXiv 1606.05908, section 4.

    >>> decoder = Tutorial().decoder((30,), (28,), (756,))
    >>> decoder(torch.zeros(3, 5, 30), torch.zeros(5, 28)).shape
    torch.Size([3, 5, 756])
    """

    def __init__(self, scale: int = 1) -> None:
        self.widths = tuple(max(1, width // positive_int("scale", scale)) for width in (1000, 500, 250))

    def decoder(self, z_shape: Shape | None, c_shape: Shape, out_shape: Shape) -> nn.Module:
        return TutorialDecoder(z_shape, c_shape, out_shape, self.widths)

    def encoder(self, x_shape: Shape, c_shape: Shape, out_shape: Shape, decoder: Any) -> nn.Module:
        return TutorialEncoder(x_shape, out_shape, self.widths, decoder.tower)


class Tower(nn.Module):
    """Reads the condition: c-1000-500-250-250, ReLU between, linear at the end."""

    def __init__(self, c_shape: Shape, widths: tuple[int, ...]) -> None:
        super().__init__()
        wide, middle, narrow = widths
        self.lower = MLP(c_shape, (middle,), hidden=(wide,))
        self.upper = MLP((middle,), (narrow,), hidden=(narrow,))

    def forward(self, c: Tensor) -> tuple[Tensor, Tensor]:
        """Return the 500 values before their nonlinearity and the 250 of the last layer, for c [..., *c_shape]."""
        middle = self.lower(c)
        return middle, self.upper(torch.relu(middle))


class TutorialDecoder(nn.Module):
    """The tower's output plus a linear map of z, ReLU, 500-1000-x."""

    def __init__(self, z_shape: Shape | None, c_shape: Shape, out_shape: Shape, widths: tuple[int, ...]) -> None:
        super().__init__()
        self.tower = Tower(c_shape, widths)
        wide, middle, narrow = widths
        self.from_z = None if z_shape is None else MLP(z_shape, (narrow,), hidden=())
        self.upper = MLP((narrow,), out_shape, hidden=(middle, wide))

    def forward(self, z: Tensor | None, c: Tensor) -> Tensor:
        """Map z [..., *z_shape] (None without it) and c [..., *c_shape] to [..., *out_shape]."""
        _, h = self.tower(c)
        if self.from_z is not None:
            h = h + self.from_z(z)
        return self.upper(torch.relu(h))


class TutorialEncoder(nn.Module):
    """x-1000-500-250, with the 500 of a decoder's tower added before their nonlinearity."""

    tower: Tower

    def __init__(self, x_shape: Shape, out_shape: Shape, widths: tuple[int, ...], tower: Tower) -> None:
        super().__init__()
        vars(self)["tower"] = tower  # not a part of the encoder: it belongs to the model
        wide, middle, narrow = widths
        self.lower = MLP(x_shape, (middle,), hidden=(wide,))
        self.upper = MLP((middle,), out_shape, hidden=(narrow,))

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        """Map x [..., *x_shape] and c [..., *c_shape] to [..., *out_shape]."""
        middle, _ = self.tower(c)
        return self.upper(torch.relu(self.lower(x) + middle))
