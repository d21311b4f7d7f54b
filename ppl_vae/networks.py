"""Networks: what turns z into h for a likelihood, and x into h for a posterior family.

A network is made as `Network(in_shape, out_shape, **options)` and maps [..., *in_shape] to [..., *out_shape] for any
leading batch dimensions. A model or guide takes the class (or a `functools.partial` of it) and gives it the shapes; or
any other network, a PyTorch module or a function of tensors, of which `network_of` makes one of these.

Batch normalization works as usual: in training, statistics are of the batch, all samples z of all data of a step; in
evaluation (validation, estimates, samples) the running ones, so that no datum depends on others.
"""

import inspect
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from ppl_vae.errors import InputError, did_you_mean, is_one_of, positive_int, shown, whole_number
from ppl_vae.utils.faults import at_their_line, got
from ppl_vae.utils.memory import check_memory
from ppl_vae.utils.modules import reachable

__all__ = ["MLP", "Convolutional", "GatedMLP", "Network", "NetworkFactory", "Residual", "network_of"]

Shape = Sequence[int]
Widths = Sequence[int] | int  # of layers; a number is one layer
NetworkFactory = Callable[..., Any]  # what `network_of` takes

ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "tanh": nn.Tanh, "silu": nn.SiLU, "elu": nn.ELU}


class Network(nn.Module):
    """A map between any two shapes: subclasses implement `transform`, the base class does the shapes."""

    of_images = False  # whether it is made for images on one side, [channels, height, width]

    def __init__(self, in_shape: Shape, out_shape: Shape) -> None:
        super().__init__()
        self.in_shape, self.out_shape = shape_of("in_shape", in_shape), shape_of("out_shape", out_shape)
        self._noted: Tensor | None = None  # of the weights as they were made

    def transform(self, x: Tensor) -> Tensor:
        """Map x of shape [N, *in_shape] to [N, ...] in any form of out_shape.numel() numbers each."""
        raise TypeError(f"{type(self).__name__} has to define transform(x).")

    def forward(self, x: Tensor) -> Tensor:
        """Map x of shape [..., *in_shape] to [..., *out_shape]; leading dimensions are made one for `transform`."""
        batch_shape = x.shape[: max(0, x.dim() - len(self.in_shape))]
        if x.shape[len(batch_shape) :] != self.in_shape:
            raise InputError(
                f"Expected the network to be given shape [..., {', '.join(map(str, self.in_shape))}]; "
                f"got {tuple(x.shape)}."
            )
        h = self.transform(x if len(batch_shape) == 1 else x.reshape(batch_shape.numel(), *self.in_shape))
        if h.numel() != batch_shape.numel() * self.out_shape.numel():
            raise InputError(
                f"Expected {self._name()} to give {self.out_shape.numel()} numbers for each of {batch_shape.numel()} "
                f"inputs, as shape {tuple(self.out_shape)}; got shape {tuple(h.shape)}. Mend its last layer."
            )
        return h.reshape(batch_shape + self.out_shape)

    def note_weights(self) -> None:
        """Take note of the weights as they are now, at the end of a constructor."""
        self._noted = _sums(self)

    @property
    def is_as_made(self) -> bool:
        """Whether the weights are those that the constructor drew: never trained, loaded or set."""
        now, then = _sums(self), self._noted
        return then is not None and now.shape == then.shape and bool(((now - then).abs() <= 1e-6 * now).all())

    def _name(self) -> str:
        return f"the network {type(self).__name__}"


def _sums(module: nn.Module) -> Tensor:
    """Return two sums over each tensor of a module, by which it is known again: in any precision, on any device."""
    held = [value.detach() for value in module.state_dict().values() if not value.is_meta]
    sums = [[float(v.abs().sum(dtype=torch.double)), float(v.square().sum(dtype=torch.double))] for v in held]
    return torch.tensor(sums, dtype=torch.double, device="cpu")


class MLP(Network):
    """A multi-layer perceptron between any two shapes.

    Args:
        in_shape, out_shape: the shapes of one input and of one output.
        hidden: the width of each hidden layer; () gives a linear map.
        activation: one of relu, tanh, silu, elu.

    Raises:
        InputError: a width that is not above zero, or an unknown activation.

    >>> MLP((8,), (1, 28, 28), hidden=(64,))(torch.zeros(3, 5, 8)).shape
    torch.Size([3, 5, 1, 28, 28])
    """

    def __init__(
        self, in_shape: Shape, out_shape: Shape, hidden: Widths = (512, 512), activation: str = "relu"
    ) -> None:
        super().__init__(in_shape, out_shape)
        made = activation_of(activation)
        self.layers = self._layers(hidden, lambda n_in, width: [nn.Linear(n_in, width), made()])
        self.note_weights()

    def transform(self, x: Tensor) -> Tensor:
        return self.layers(vectors(x, self.in_shape))

    def _layers(self, hidden: Widths, unit: Callable[[int, int], list[nn.Module]]) -> nn.Sequential:
        """Return the layers, each hidden one `unit(n_in, width)`, and a linear map at the end."""
        sizes = [self.in_shape.numel(), *widths("hidden", hidden)]
        pairs = itertools.pairwise([*sizes, self.out_shape.numel()])
        check_memory("layers", sum(a * b for a, b in pairs), "Make them smaller.")
        layers: list[nn.Module] = []
        for n_in, width in itertools.pairwise(sizes):
            layers += unit(n_in, width)
        return nn.Sequential(*layers, nn.Linear(sizes[-1], self.out_shape.numel()))


class GatedMLP(MLP):
    """A multi-layer perceptron whose units are gated, h' = (A h + a) * sigmoid(B h + b).

    Args:
        in_shape, out_shape: the shapes of one input and of one output.
        hidden: the width of each hidden layer.

    Raises:
        InputError: a width that is not above zero.

    Source: Dauphin et al., arXiv 1612.08083; in VAEs, Tomczak & Welling, arXiv 1705.07120.

    >>> GatedMLP((8,), (1, 28, 28), hidden=(64,))(torch.zeros(3, 5, 8)).shape
    torch.Size([3, 5, 1, 28, 28])
    """

    def __init__(self, in_shape: Shape, out_shape: Shape, hidden: Widths = (300, 300)) -> None:
        Network.__init__(self, in_shape, out_shape)
        self.layers = self._layers(hidden, lambda n_in, width: [nn.Linear(n_in, 2 * width), nn.GLU(dim=-1)])
        self.note_weights()


class Convolutional(Network):
    """Convolutions between an image and a vector, in either direction.

    Each layer halves height and width on the way from the image (rounding up: any size will do), or doubles them on
    the way to it, in steps of the same sizes. A linear map stands between the smallest image and the vector.

    Args:
        in_shape, out_shape: the shapes of one input and of one output; one is an image's, [channels, height, width].
        channels: of each layer, from the one at the image on.
        activation: one of relu, tanh, silu, elu.

    Raises:
        InputError: no image on just one side, channels that are not above zero, or an unknown activation.

    Source: Radford et al., arXiv 1511.06434; Odena et al., Deconvolution and Checkerboard Artifacts, Distill 2016,
    for the kernels of 4 that reach each pixel of the larger image alike.

    >>> Convolutional((8,), (1, 28, 20), channels=(8, 16))(torch.zeros(3, 5, 8)).shape
    torch.Size([3, 5, 1, 28, 20])
    """

    of_images = True

    def __init__(
        self, in_shape: Shape, out_shape: Shape, channels: Widths = (32, 64), activation: str = "relu"
    ) -> None:
        super().__init__(in_shape, out_shape)
        made = activation_of(activation)
        self.layers = self._layers(channels, lambda width: [made()])
        self.note_weights()

    def transform(self, x: Tensor) -> Tensor:
        return self.layers(x)

    def _layers(self, channels: Widths, between: Callable[[int], list[nn.Module]]) -> nn.Sequential:
        """Return the layers, with `between(width)` where images have so many channels."""
        inner = widths("channels", channels)
        to_vector, to_image = len(self.in_shape) == 3, len(self.out_shape) == 3
        if to_vector == to_image or not inner:
            raise InputError(
                f"Expected an image [channels, height, width] on one side, a vector on the other and channels between, "
                f"for {type(self).__name__}; got {tuple(self.in_shape)} to {tuple(self.out_shape)} by {inner}. "
                f"Use an MLP."
            )
        outermost, *size = self.in_shape if to_vector else self.out_shape
        sizes = [torch.Size(math.ceil(n / 2**i) for n in size) for i in range(len(inner) + 1)]
        steps = list(itertools.pairwise([outermost, *inner]))
        smallest = (inner[-1], *sizes[-1])
        vector = self.out_shape.numel() if to_vector else self.in_shape.numel()
        check_memory("layers", 9 * sum(a * b for a, b in steps) + vector * math.prod(smallest), "Make them smaller.")
        layers: list[nn.Module] = []
        if to_vector:
            for outer, width in steps:
                layers += [nn.Conv2d(outer, width, 3, stride=2, padding=1), *between(width)]
            return nn.Sequential(*layers, nn.Flatten(), nn.Linear(math.prod(smallest), self.out_shape.numel()))
        layers += [nn.Flatten(), nn.Linear(self.in_shape.numel(), math.prod(smallest)), nn.Unflatten(1, smallest)]
        for (outer, width), larger in reversed(list(zip(steps, sizes[:-1], strict=True))):
            layers += [*between(width), Doubled(width, outer, larger)]
        return nn.Sequential(*layers)


class Residual(Convolutional):
    """`Convolutional` with residual blocks after each change of size, x + f(x) with f of two convolutions.

    The blocks normalize groups of channels of each image on its own, so that no datum depends on another.

    Args:
        in_shape, out_shape: the shapes of one input and of one output; one is an image's, [channels, height, width].
        channels: of each size of image, from the largest on.
        blocks: how many for each size.
        activation: one of relu, tanh, silu, elu.

    Raises:
        InputError: no image on just one side, numbers that are not above zero, or an unknown activation.

    Source: He et al., arXiv 1603.05027; Wu & He, arXiv 1803.08494.

    >>> Residual((1, 28, 20), (16,), channels=(8, 16))(torch.zeros(3, 5, 1, 28, 20)).shape
    torch.Size([3, 5, 16])
    """

    def __init__(
        self, in_shape: Shape, out_shape: Shape, channels: Widths = (32, 64), blocks: int = 1, activation: str = "silu"
    ) -> None:
        Network.__init__(self, in_shape, out_shape)
        made = activation_of(activation)
        count = positive_int("blocks", blocks)
        check_memory("blocks", 18 * count * sum(width**2 for width in widths("channels", channels)), "Ask for fewer.")
        self.layers = self._layers(channels, lambda width: [*(Block(width, made) for _ in range(count)), made()])
        self.note_weights()


class Block(nn.Module):
    """A residual block, x + f(x), with f two times a normalization of groups, a nonlinearity and a convolution."""

    def __init__(self, channels: int, activation: type[nn.Module]) -> None:
        super().__init__()
        groups = math.gcd(channels, 8, max(1, channels // 4))  # of four channels at least
        layers: list[nn.Module] = []
        for _ in range(2):
            layers += [nn.GroupNorm(groups, channels), activation(), nn.Conv2d(channels, channels, 3, padding=1)]
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """Map images [n, channels, height, width] to such images."""
        return x + self.layers(x)


class Doubled(nn.ConvTranspose2d):
    """A transposed convolution to an image twice as high and wide, less a row or a column where the size is odd."""

    def __init__(self, in_channels: int, out_channels: int, size: torch.Size) -> None:
        super().__init__(in_channels, out_channels, 4, stride=2, padding=1)
        self.height, self.width = size

    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        """Map images [n, in_channels, H, W] to [n, out_channels, *size]."""
        return super().forward(x)[..., : self.height, : self.width]


class Wrapped(Network):
    """A PyTorch module, or a function of tensors, as a network: it is given one batch dimension and any event shape.

    Where it does not take the input's shape but a vector of so many numbers, that is what it is given.

    Args:
        given: what maps [N, *in_shape], or [N, n], to [N, ...].
        in_shape, out_shape: the shapes of one input and of one output.

    Raises:
        InputError: it does not take such inputs, or gives another number of values.
    """

    def __init__(self, given: Callable[[Tensor], Tensor], in_shape: Shape, out_shape: Shape) -> None:
        super().__init__(in_shape, out_shape)
        self.network, self.flat = given, False
        module = nn.ModuleList([given] if isinstance(given, nn.Module) else reachable(given))
        if not isinstance(given, nn.Module):
            self.held = module  # or else nothing would train what a function refers to
        like = next((p for p in module.parameters() if p.is_floating_point() and not is_lazy(p)), torch.zeros(()))
        example = torch.zeros(2, *self.in_shape, dtype=like.dtype, device=like.device)
        modes = [(part, part.training) for part in module.modules()]
        try:
            module.eval()
            with torch.no_grad(), torch.random.fork_rng():
                self._try(example)
        finally:
            for part, training in modes:
                part.training = training

    def _try(self, example: Tensor) -> None:
        """Find out whether it takes the input's shape, or vectors."""
        try:
            self(example)
        except InputError:
            raise
        except Exception as problem:  # whatever a person's own network may do
            try:
                self.flat = True
                self(example)
            except InputError:
                raise
            except Exception:  # neither way: the first says why
                raise InputError(
                    f"Expected {self._name()} to take shape [..., {', '.join(map(str, self.in_shape))}]; {got(problem)}"
                ) from problem

    def transform(self, x: Tensor) -> Tensor:
        return self.network(x.flatten(1) if self.flat else x)

    def _name(self) -> str:
        return f"the network {getattr(self.network, '__name__', type(self.network).__name__)}"


@at_their_line()
def network_of(given: NetworkFactory, in_shape: Shape, out_shape: Shape) -> Network:
    """Return a network between two shapes, of whatever a person gives for one.

    Args:
        given: a class or a function of (in_shape, out_shape) that makes a network; a PyTorch module; a class of one
            that is made without arguments; or a function of one tensor. Leading dimensions (samples x data) are made
            one for it, and its output is reshaped.
        in_shape, out_shape: the shapes of one input and of one output.

    Raises:
        InputError: it is none of these, or its sizes are others.

    >>> network_of(nn.Sequential(nn.Linear(8, 64)), (8,), (1, 8, 8))(torch.zeros(3, 5, 8)).shape
    torch.Size([3, 5, 1, 8, 8])
    """
    if not callable(given):
        raise InputError(
            f"Expected a network, or a class or a function that makes one; got {shown(given)}. Pass, for instance, "
            f"networks.MLP, or an nn.Module."
        )
    made, in_shape, out_shape = given, torch.Size(in_shape), torch.Size(out_shape)
    if is_maker(given):
        made = _made_by(given, in_shape, out_shape)
    if not isinstance(made, Network):
        return Wrapped(made, in_shape, out_shape)
    if (made.in_shape, made.out_shape) != (in_shape, out_shape):
        raise InputError(
            f"Expected a network from {tuple(in_shape)} to {tuple(out_shape)}; got {type(made).__name__} from "
            f"{tuple(made.in_shape)} to {tuple(made.out_shape)}. Pass the class, {type(made).__name__}, which is then "
            f"given the shapes."
        )
    return made


def _made_by(given: NetworkFactory, in_shape: Shape, out_shape: Shape) -> Any:
    """Call what makes a network."""
    name = getattr(getattr(given, "func", given), "__name__", repr(given))
    try:
        made = given() if _required(given) == 0 else given(in_shape, out_shape)
    except InputError:
        raise
    except Exception as problem:  # whatever a person's own class may do
        raise InputError(
            f"Expected {name:.80} to make a network from {tuple(in_shape)} to {tuple(out_shape)}, called with both "
            f"shapes; {got(problem)} Pass a network that is made, as {name:.80}(...)."
        ) from problem
    if not callable(made):
        raise InputError(
            f"Expected {name:.80} to return a network; got {type(made).__name__}. Let it return an nn.Module."
        )
    return made


def is_maker(given: NetworkFactory) -> bool:
    """Return whether what was given for a network makes one (a class, a function of shapes), and is none itself."""
    made = isinstance(getattr(given, "func", given), nn.Module)  # or a functools.partial of one
    return callable(given) and not made and (_required(given) != 1 or inspect.isclass(given))


def _required(given: NetworkFactory) -> int:
    """Return how many arguments have to be given; of any number that can be, two."""
    try:
        parameters = inspect.signature(given).parameters.values()
    except ValueError:  # of what is not written in Python, as torch.sigmoid
        return 1
    if any(p.kind == p.VAR_POSITIONAL for p in parameters):
        return 2
    return sum(p.default is p.empty and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) for p in parameters)


def vectors(x: Tensor, shape: torch.Size) -> Tensor:
    """Return x [..., *shape] as vectors, [..., numel]."""
    if len(shape) == 1:
        return x
    return x.flatten(-len(shape)) if shape else x.unsqueeze(-1)


def made_for_images(network: Any) -> bool:
    """Return whether a network, or what makes one, is for images on one side."""
    return getattr(getattr(network, "func", network), "of_images", False)


def activation_of(name: str) -> type[nn.Module]:
    """Return an activation by name, or raise an InputError."""
    if not is_one_of(name, ACTIVATIONS):
        raise InputError(f"Unknown activation {shown(name)}: {did_you_mean(name, ACTIVATIONS)}.")
    return ACTIVATIONS[name]


def shape_of(name: str, values: Any) -> torch.Size:
    """Return a shape, (), or sizes above zero, as PyTorch's; refuse what is none, or more than memory holds."""
    if not isinstance(values, list | tuple):
        raise InputError(f"Expected {name} to be a shape, a tuple of sizes; got {shown(values)}. Write (4,), say.")
    sizes = [positive_int(f"each size of {name}", size) for size in values]
    check_memory(name, math.prod(sizes), "Make it smaller.")
    return torch.Size(sizes)


def widths(name: str, values: Widths) -> list[int]:
    """Return the widths of layers as a list, or raise an InputError where one is no whole number above zero."""
    single = whole_number(values)
    listed = values if isinstance(values, list | tuple) else [single]
    if listed == [None]:
        raise InputError(f"Expected {name} to be a width or a list of widths, as 64,64; got {shown(values)}.")
    return [positive_int(name, width) for width in listed]
