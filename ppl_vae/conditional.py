"""The base class of conditional model files: the parts that P(x | z, y) P(z | y) P(y) is made of.

A conditional model has one more part than a model, the condition, which says what y is (`ppl_vae.conditions`).
Its site y is observed where y is known, drawn where it is not, and marked, so that log P(x | y) is what
`estimate_evidence` gives unless log P(x, y) is asked for.
"""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from ppl_vae.architectures import Architecture, Concatenated
from ppl_vae.base import Model
from ppl_vae.conditions import Condition
from ppl_vae.errors import InputError
from ppl_vae.likelihoods import Bernoulli, Likelihood
from ppl_vae.priors import Prior


class ConditionalModel(Model):
    """The parts of P(x | h = f(z, y)) P(z | y) P(y); a subclass names the usual ones and writes the program, `forward`.

    Args:
        event_shape: the shape of one datum.
        condition: P(y), and how networks read y.
        prior: P(z), or P(z | y); a program without one, and without a `default_prior`, has no latent site.
        likelihood: P(x | h).
        networks: the architecture of the networks that read z and y.
    """

    default_guide = "conditional"
    default_condition: type[Condition] | None = None
    default_prior: type[Prior] | None = None
    default_likelihood: type[Likelihood] = Bernoulli
    default_networks: type[Architecture] = Concatenated
    completes: bool | None = None  # whether x and y are parts of one datum; None leaves it to the condition

    def __init__(
        self,
        event_shape: Sequence[int],
        condition: Condition | None = None,
        prior: Prior | None = None,
        likelihood: Likelihood | None = None,
        networks: Architecture | None = None,
    ) -> None:
        super().__init__(event_shape)
        condition = condition or (self.default_condition() if self.default_condition else None)
        prior = prior or (self.default_prior() if self.default_prior else None)
        if condition is None:
            raise InputError(
                f"Expected a condition for {type(self).__name__}; got none. Pass one, such as Label(10), or name a "
                f"default_condition."
            )
        if self.completes not in (None, condition.y_from_x):
            raise InputError(
                f"Expected a condition that is {'a part of x, such as Visible,' if self.completes else 'no part of x'} "
                f"for {type(self).__name__}; got {type(condition).__name__}. Choose another condition, or "
                f"{'a model such as CVAE' if self.completes else 'ImageCompletion'}."
            )
        self.condition = condition.bind(event_shape)
        self.likelihood = (likelihood or self.default_likelihood()).bind(condition.x_shape)
        condition.support = self.likelihood.support
        self.networks = networks or self.default_networks()
        self.y_from_x = condition.y_from_x
        if prior is not None:
            self.prior = prior.bind(condition.c_shape)
        z_shape = None if prior is None else prior.event_shape
        self.decoder = self.networks.decoder(z_shape, condition.c_shape, self.likelihood.h_shape)

    def plate(self, x: Tensor | None = None, size: int | None = None, y: Tensor | None = None) -> Any:
        """Return the plate over the data, as many as x or y holds, or `size`; refuse x and y that do not fit."""
        if x is not None:
            size = len(x)
        elif size is None and y is not None and y.dim():
            size = len(y)
        self.condition.check(y)
        check_number(y, size or 1)
        return super().plate(x, size)

    def data_options(self) -> dict[str, Any]:
        """Return what the condition asks of the data."""
        return self.condition.data_options()

    def example(self) -> tuple[Tensor, ...]:
        """Return one datum and its condition; the datum alone where y is a part of it."""
        x = super().example()
        return x if self.y_from_x else (*x, self.condition.example())


def check_number(y: Tensor | None, size: int) -> None:
    """Refuse conditions that are not one for each of `size` data; a number stands for all."""
    if y is not None and y.dim() and len(y) != size:
        raise InputError(f"Expected one condition y for each of {size} data; got {len(y)}. Pass as many.")
