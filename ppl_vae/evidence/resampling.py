"""Draws from the posterior P(z | x), resampled from weighted draws of the guide."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ppl_vae.errors import InputError
from ppl_vae.traces.log_weights import Weighted
from ppl_vae.utils.memory import check_memory

Values = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Draws:
    """Draws from the posterior of each datum, and what goes with them."""

    posterior: dict[str, Values]  # the latent sites by name, [S, N, ...]
    log_likelihood: Values  # log P(x | z) of those draws, [S, N], in nats
    log_weights: Values  # of the K samples they were resampled from, [K, N]
    observed: dict[str, Values]  # the observed sites by name, [N, ...]

    @classmethod
    def concatenated(cls, parts: list["Draws"]) -> "Draws":
        """Return the draws of several chunks of data as one."""

        def joined(name: str, axis: int) -> Any:
            values = [getattr(part, name) for part in parts]
            if isinstance(values[0], dict):
                return {key: np.concatenate([v[key] for v in values], axis) for key in values[0]}
            return np.concatenate(values, axis)

        return cls(joined("posterior", 1), joined("log_likelihood", 1), joined("log_weights", 1), joined("observed", 0))


def resampled(weighted: Weighted, num_draws: int, num_data: int) -> Draws:
    """Draw from the posterior of the first `num_data` data by resampling: the z_k that are chosen by `choose`.

    Source: Rubin, Using the SIR algorithm to simulate posterior distributions, Bayesian Statistics 3 (1988).

    >>> weights = torch.tensor([[0.0], [-1e9]])
    >>> z = torch.tensor([[3.0], [4.0]])
    >>> resampled(Weighted(weights, weights, {"z": z}, {}), 2, num_data=1).posterior["z"].tolist()
    [[3.0], [3.0]]
    """
    log_weights = weighted.log_weights[:, :num_data]
    index = choose(log_weights, num_draws, num_data)

    def chosen(values: Tensor) -> Values:
        return pick(values[:, :num_data], index).cpu().numpy()

    assert weighted.log_likelihood is not None  # asked for where draws are kept
    return Draws(
        {name: chosen(values) for name, values in weighted.latents.items()},
        chosen(weighted.log_likelihood),
        log_weights.cpu().numpy(),
        {name: values[:num_data].cpu().numpy() for name, values in weighted.observed.items()},
    )


def pick(values: Tensor, index: Tensor) -> Tensor:
    """Return those samples of values [K, N, ...] that an index [S, N] chooses, datum by datum, [S, N, ...]."""
    index = index.to(values.device).reshape(*index.shape, *(1,) * (values.dim() - 2))
    return values.gather(0, index.expand(-1, -1, *values.shape[2:]))


def choose(log_weights: Tensor, num_draws: int, num_data: int) -> Tensor:
    """Return numbers k with probability w_k / sum_j w_j for each datum, [num_draws, N], for log-weights [K, N]."""
    check_memory("draws", num_draws * log_weights.shape[1])
    probabilities = torch.softmax(log_weights.double(), dim=0).T
    empty = (~torch.isfinite(probabilities[:num_data])).any(1).nonzero()
    if len(empty):
        raise InputError(
            f"Expected a weight above zero for each datum, to draw from its posterior; got none, or NaN, for "
            f"{len(empty)} of {num_data} data drawn together. Raise num_samples, or leave num_draws out."
        )
    return torch.multinomial(probabilities, num_draws, replacement=True).T
