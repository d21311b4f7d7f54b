"""The base classes of what can be swapped in a program: a prior, a likelihood, a posterior family.

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
from ppl_vae.missing import Observed
from ppl_vae.utils.memory import BATCH, check_memory
from ppl_vae.utils.precision import full_precision


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


class Likelihood(nn.Module):
    """P(x | h) = prod_i p(x_i | h_i): subclasses implement `distribution(*params)`.

    A model calls `bind(event_shape)` once, so that it knows which dimensions of h belong to one datum.
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
