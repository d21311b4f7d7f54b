"""The same VAE in NumPyro: a step at a time under `jax.jit`, or a whole epoch in one `lax.fori_loop`."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import torch
from jax import lax
from numpyro.infer import SVI, Trace_ELBO
from torch import Tensor, nn

from .architectures import NUM_DATA, PIXELS, Architecture
from .peers import LEARNING_RATE
from .timing import Competitor, one_turn

FEW = 5  # steps that say how long an epoch takes
LONGEST = 1.0  # seconds of one call; an epoch of convolutions at batch 20 takes eight

Parameters = list[tuple[Any, Any]]  # of each layer, its weight and its bias
Layer = tuple[Callable[..., Any], bool]  # what it does, and whether it has parameters


class Sequential:
    """PyTorch's layers in JAX, with their weights; images are [N, height, width, channels], as XLA likes them."""

    def __init__(self, network: nn.Sequential) -> None:
        self.layers: list[Layer] = []
        self.start: Parameters = []
        channels = 1  # of the image that a Flatten makes a vector
        for layer in network:
            if isinstance(layer, nn.Linear):
                w, b = _numbers(layer)
                if channels > 1:  # the numbers of an image come in another order
                    side = math.isqrt(layer.in_features // channels)
                    w, channels = w.reshape(-1, channels, side, side).transpose(0, 2, 3, 1).reshape(w.shape), 1
                self._add(lambda p, h: h @ p[0] + p[1], w.T.copy(), b)
            elif isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
                w, b = _numbers(layer)
                self._add(_convolution if isinstance(layer, nn.Conv2d) else _transposed, w.transpose(2, 3, 1, 0), b)
                channels = layer.out_channels
            elif isinstance(layer, nn.Flatten):
                self.layers.append((lambda h: h.reshape(len(h), -1), False))
            elif isinstance(layer, nn.Unflatten):
                self._unflatten(layer.unflattened_size)
            else:
                self.layers.append((_ACTIVATIONS[type(layer)], False))

    def _add(self, function: Callable[..., Any], weight: np.ndarray, bias: np.ndarray) -> None:
        self.layers.append((function, True))
        self.start.append((jnp.asarray(weight), jnp.asarray(bias)))

    def _unflatten(self, shape: Any) -> None:
        w, b = (np.asarray(value) for value in self.start[-1])
        w = w.reshape(-1, *shape).transpose(0, 2, 3, 1).reshape(w.shape)
        self.start[-1] = jnp.asarray(w), jnp.asarray(b.reshape(shape).transpose(1, 2, 0).reshape(-1))
        channels, height, width = shape
        self.layers.append((lambda h: h.reshape(-1, height, width, channels), False))

    def __call__(self, parameters: Parameters, h: Any) -> Any:
        """Run the layers with these parameters."""
        left = iter(parameters)
        for function, has_parameters in self.layers:
            h = function(next(left), h) if has_parameters else function(h)
        return h


def _numbers(layer: nn.Module) -> tuple[np.ndarray, np.ndarray]:
    return layer.weight.detach().numpy(), layer.bias.detach().numpy()


_LAYOUT = ("NHWC", "HWIO", "NHWC")
_ACTIVATIONS: dict[type[nn.Module], Callable[[Any], Any]] = {
    nn.Softplus: jax.nn.softplus,
    nn.ReLU: jax.nn.relu,
    nn.GLU: jax.nn.glu,
}


def _convolution(p: tuple[Any, Any], h: Any) -> Any:
    return lax.conv_general_dilated(h, p[0], (2, 2), [(1, 1), (1, 1)], dimension_numbers=_LAYOUT) + p[1]


def _transposed(p: tuple[Any, Any], h: Any) -> Any:
    return lax.conv_transpose(h, p[0], (2, 2), "SAME", dimension_numbers=_LAYOUT, transpose_kernel=True) + p[1]


def make_svi(architecture: Architecture) -> SVI:
    """Return NumPyro's SVI of the same VAE, its weights those of the others."""
    encoder, decoder = map(Sequential, architecture.networks())

    def model(x: Any) -> None:
        parameters = numpyro.param("decoder", decoder.start)
        with numpyro.plate("data", len(x)):
            zeros = jnp.zeros(architecture.latent_dim)
            z = numpyro.sample("z", dist.Normal(zeros, jnp.ones_like(zeros)).to_event(1))
            logits = decoder(parameters, z).reshape(-1, PIXELS)
            numpyro.sample("x", dist.Bernoulli(logits=logits).to_event(1), obs=x.reshape(-1, PIXELS))

    def guide(x: Any) -> None:
        parameters = numpyro.param("encoder", encoder.start)
        with numpyro.plate("data", len(x)):
            loc, raw = jnp.split(encoder(parameters, x), 2, -1)
            numpyro.sample("z", dist.Normal(loc, jax.nn.softplus(raw) + 1e-6).to_event(1))

    return SVI(model, guide, numpyro.optim.Adam(LEARNING_RATE), Trace_ELBO())


def to_jax(data: Tensor) -> Any:
    """Return images [N, 1, height, width] as [N, height, width, 1]."""
    return jnp.asarray(data.permute(0, 2, 3, 1).contiguous().numpy())


def by_step(architecture: Architecture, data: Tensor, batch_size: int) -> Competitor:
    """Return steps of `svi.update`, each one call of a jitted function that gathers its batch by index."""
    svi, x = make_svi(architecture), to_jax(data)
    indices = _shuffled(batch_size)
    update = jax.jit(lambda state, x, index: svi.update(state, x[index]), donate_argnums=0)
    held = [svi.init(jax.random.PRNGKey(0), x[:batch_size])]

    def step() -> None:
        held[0], _ = update(held[0], x, next(indices))

    return Competitor(step, finish=lambda: jax.block_until_ready(held[0]))


def by_epoch(architecture: Architecture, data: Tensor, batch_size: int) -> Competitor:
    """Return epochs, each one call of a jitted loop over the batches; shorter ones where a whole one takes too long."""
    svi, x = make_svi(architecture), to_jax(data)

    def epoch(state: Any, x: Any, order: Any, num_batches: int) -> Any:
        def step(i: Any, carried: Any) -> Any:
            index = lax.dynamic_slice(order, (i * batch_size,), (batch_size,))
            state, loss = svi.update(carried[0], x[index])
            return state, carried[1] + loss

        return lax.fori_loop(0, num_batches, step, (state, 0.0))

    run = jax.jit(epoch, donate_argnums=0, static_argnums=3)
    held = [svi.init(jax.random.PRNGKey(0), x[:batch_size])]

    def work(num_batches: int) -> None:
        order = torch.randperm(len(data), dtype=torch.int32).numpy()
        held[0], _ = run(held[0], x, order, num_batches)
        jax.block_until_ready(held[0])

    few = Competitor(lambda: work(FEW), units=FEW)
    count = min(len(data) // batch_size, max(FEW, int(LONGEST / one_turn(few, 0.0))))
    return Competitor(lambda: work(count), units=count)


def _shuffled(batch_size: int) -> Iterator[np.ndarray]:
    while True:
        order = torch.randperm(NUM_DATA, dtype=torch.int32).numpy()
        yield from np.split(order[: NUM_DATA - NUM_DATA % batch_size], NUM_DATA // batch_size)
