"""The base classes of what can be swapped in a program: a prior, a likelihood, a posterior family, a preprocessing.

A part is a module whose `forward` returns a distribution. The base class does the shapes and the checks, a subclass
is the mathematics. The command line finds a part on its shelf (`priors`, `likelihoods`, `posteriors`), or in a
person's own file, by its class name in snake case.
"""

from collections.abc import Sequence
from typing import Any, Self

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor, nn

from ppl_vae.errors import InputError, positive_int
from ppl_vae.missing import Observed, filled, nothing_is_missing
from ppl_vae.utils.memory import BATCH, check_memory
from ppl_vae.utils.precision import full_precision


class FromData(nn.Module):
    """A part that starts from the data: `ppl_vae.fit` calls `start_from(x)` once, where nothing was trained before.

    Subclasses implement `_start(x)`. What they take from the data is kept in buffers whose names begin with `data_`, so
    that it is stored with the weights; before the start they say nothing (a mean of 0, a scale of 1).
    """

    _started = False

    @property
    def started(self) -> bool:
        """Whether it has started; set it, and `fit` leaves it as it is."""
        return self._started

    @started.setter
    def started(self, started: bool) -> None:
        self._started = started

    @property
    def is_as_made(self) -> bool:
        """Whether its own numbers are those it was made with, and nobody has set them since."""
        return True

    @property
    def x_shape(self) -> torch.Size:
        """The shape of the data that it starts from."""
        raise TypeError(f"{type(self).__name__} has to define x_shape.")

    def start_from(self, x: Tensor, *, free: bool = True) -> None:
        """Start from the mean and the spread of x, [N, *x_shape], where NaN is missing.

        Args:
            x: the training data, or many of them.
            free: whether what the part is given can be any number, as of a network that ends in a linear map. Where it
                is not (a decoder that is known, or ends in a sigmoid), it keeps its unit.
        """
        if x.shape[1:] != self.x_shape:
            raise InputError(
                f"Expected data of shape [N, {', '.join(map(str, self.x_shape))}] to start {type(self).__name__} from; "
                f"got {tuple(x.shape)}. Reshape them."
            )
        self.started = True
        with torch.no_grad():
            (self._start if free else self._start_bound)(x)

    @property
    def takes_something(self) -> bool:
        """Whether there is anything that it takes from data."""
        return type(self)._start is not FromData._start

    def _start(self, x: Tensor) -> None:
        """Take from x what there is to take: by default nothing."""

    def _start_bound(self, x: Tensor) -> None:
        """Take from x what leaves the unit of h as it is: by default nothing."""

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """Load weights, also those of a version that took nothing from the data."""
        self.started = True
        for name, buffer in self._buffers.items():
            if is_of_data(name):
                state_dict.setdefault(f"{prefix}{name}", buffer)
        super()._load_from_state_dict(state_dict, prefix, *args)


def is_of_data(name: str) -> bool:
    """Return whether a tensor of a module, by its name, was taken from the data; older weights are without it.

    >>> is_of_data("likelihood.data_mean"), is_of_data("likelihood.log_sigma")
    (True, False)
    """
    return name.rpartition(".")[2].startswith("data_")


class Preprocessing(FromData):
    """What the networks of a guide read of x: numbers on a unit scale, zeros where x is missing.

    Subclasses implement `transform(x)`. A guide calls `bind(shape)` once.
    """

    def __init__(self) -> None:
        super().__init__()
        self._x_shape: torch.Size | None = None

    def bind(self, x_shape: Sequence[int]) -> Self:
        """Say what shape x has, [*x_shape]; a preprocessing serves one shape only."""
        shape = torch.Size(x_shape)
        if self._x_shape not in (None, shape):
            raise InputError(
                f"Expected one preprocessing for each data shape; got one bound to {tuple(self.x_shape)} for "
                f"{tuple(shape)}. Make a new {type(self).__name__}."
            )
        self._x_shape = shape
        return self

    @property
    def x_shape(self) -> torch.Size:
        """The shape of one x."""
        if self._x_shape is None:
            raise InputError(
                f"Expected {type(self).__name__} to be bound to a data shape before use; got none. "
                f"Call {type(self).__name__}().bind(event_shape)."
            )
        return self._x_shape

    @property
    def out_shape(self) -> torch.Size:
        """The shape of what networks read of one x: by default that of x."""
        return self.x_shape

    def transform(self, x: Tensor) -> Tensor:
        """Return what networks read of x [..., *x_shape], [..., *out_shape]; NaN may stay NaN."""
        raise TypeError(f"{type(self).__name__} has to define transform(x).")

    def forward(self, x: Tensor) -> Tensor:
        """Return what networks read of x [..., *x_shape], [..., *out_shape]; zeros where it is missing."""
        read = self.transform(x)
        return read if nothing_is_missing() else filled(read)


class Prior(nn.Module):
    """P(z) for z of shape [latent_dim]: subclasses implement `forward(c=None)`.

    `forward()` returns a distribution with an empty batch shape and event shape [latent_dim]; the
    plates of the program that samples from it give it its batch dimensions. `zeros` [latent_dim] is there to
    build on: it moves with the module to another device or precision.

    Args:
        latent_dim: the size of z.
    """

    def __init__(self, latent_dim: int = 8) -> None:
        super().__init__()
        self.latent_dim = positive_int("latent_dim", latent_dim)
        check_memory("a batch of latents", BATCH * self.latent_dim, "Make latent_dim smaller.")
        self.zeros = nn.Buffer(torch.zeros(self.latent_dim), persistent=False)

    @property
    def event_shape(self) -> torch.Size:
        """The shape of one z."""
        return torch.Size([self.latent_dim])

    def bind(self, c_shape: Sequence[int]) -> Self:
        """Say what shape c has, what networks read of the condition; a conditional model does it once."""
        return self

    def forward(self, c: Tensor | None = None) -> TorchDistribution:
        """Return P(z), or P(z | y) for c [..., *c_shape]."""
        raise TypeError(f"{type(self).__name__} has to define forward() and return P(z).")


class Likelihood(FromData):
    """P(x | h) = prod_i p(x_i | h_i): subclasses implement `distribution(*params)`.

    A model calls `bind(event_shape)` once, so that it knows which dimensions of h belong to one datum. Where x is on a
    scale of its own, `_start(x)` takes it from the data, so that the h of a new network, near 0, is their mean.
    """

    num_params: int = 1
    conditions_on: str | None = None  # what it is given of x and does not score, such as "n = sum_i x_i": log P(x | n)

    def __init__(self) -> None:
        super().__init__()
        self._event_shape: torch.Size | None = None

    def bind(self, event_shape: Sequence[int]) -> Self:
        """Say what shape one datum has, [*event_shape]; a likelihood serves one shape only."""
        shape = torch.Size(event_shape)
        if self._event_shape not in (None, shape):
            raise InputError(
                f"Expected one likelihood object per data shape; got one already bound to "
                f"{tuple(self.event_shape)} for {tuple(shape)}. Make a new {type(self).__name__}."
            )
        self._event_shape = shape
        return self

    @property
    def event_shape(self) -> torch.Size:
        """The shape of one datum."""
        if self._event_shape is None:
            raise InputError(
                f"Expected {type(self).__name__} to be bound to a data shape before use; got none. "
                f"Call {type(self).__name__}().bind(event_shape)."
            )
        return self._event_shape

    @property
    def x_shape(self) -> torch.Size:
        """The shape of the data that it starts from: of one datum."""
        return self.event_shape

    def preprocessing(self) -> Preprocessing | None:
        """Return what suits the networks that read such x; None, where it is x as it is."""
        return None

    def called(self, parameter: str, index: int) -> str:
        """Return what a number of a parameter, at a flat index, is called in messages: by default as the parameter."""
        return parameter

    @property
    def h_shape(self) -> torch.Size:
        """The shape of h for one datum: what the decoder must give."""
        first, *rest = self.event_shape
        return torch.Size([self.num_params * first, *rest])

    @property
    def support(self) -> Any:
        """What values each number of x can have, a PyTorch constraint."""
        with torch.no_grad():
            return self.distribution(*(torch.zeros(()) for _ in range(self.num_params))).support

    @classmethod
    def options_for(cls, x: Tensor) -> dict[str, Any] | None:
        """Return options of the constructor with which it takes all these numbers, or None where it takes them not."""
        return {} if bool(cls().support.check(x).all()) else None

    def distribution(self, *params: Any, **by_name: Any) -> TorchDistribution:
        """Return the distribution of x given its parameters, each shaped like x: elementwise, or over all of x.

        A subclass says what they are: `distribution(self, mean, log_scale)`, or `*params` for any number of them.
        """
        raise TypeError(f"{type(self).__name__} has to define distribution(*params).")

    def forward(self, h: Tensor) -> TorchDistribution:
        """Return P(x | h) for h of shape [..., *h_shape]; event shape [*event_shape]; NaN in x is missing."""
        dim = len(self.event_shape)
        if h.shape[-dim:] != self.h_shape:
            raise InputError(
                f"Expected {type(self).__name__} to be given h of shape [..., {', '.join(map(str, self.h_shape))}]; "
                f"got {tuple(h.shape)}. Let the decoder's out_shape be likelihood.h_shape."
            )
        h = full_precision(h)
        params = h.chunk(self.num_params, dim=-dim) if self.num_params > 1 else (h,)
        p = self.distribution(*params)
        # Values can be missing where each has a probability of its own; a distribution over whole events has none.
        return p.to_event(dim - p.event_dim) if p.event_dim else Observed(p, dim)


class Posterior(nn.Module):
    """Q(z | h) for z of shape [latent_dim]: subclasses implement `forward(h)` and say their `h_dim`."""

    def __init__(self, latent_dim: int) -> None:
        super().__init__()
        self.latent_dim = positive_int("latent_dim", latent_dim)

    @property
    def h_dim(self) -> int:
        """How many numbers the encoder must give."""
        raise TypeError(f"{type(self).__name__} has to define h_dim.")

    def forward(self, h: Tensor) -> TorchDistribution:
        """Return Q(z | h) for h of shape [..., h_dim]."""
        raise TypeError(f"{type(self).__name__} has to define forward(h) and return Q(z | h).")
