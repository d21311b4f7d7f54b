"""The same VAE by hand in PyTorch, and in Pyro: what one step of training costs there."""

import contextlib
from collections.abc import Callable, Iterator

import pyro
import pyro.distributions as dist
import torch
from pyro.infer import SVI, JitTrace_ELBO, Trace_ELBO
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, softplus

from ppl_vae.missing import all_known

from .architectures import Architecture, shuffled
from .timing import Competitor

LEARNING_RATE = 1e-3


class HandWritten(nn.Module):
    """A VAE as people write it: networks, a draw, a loss."""

    def __init__(self, encoder: nn.Module, decoder: nn.Module) -> None:
        super().__init__()
        self.encoder, self.decoder = encoder, decoder

    def loss(self, x: Tensor) -> Tensor:
        """Return -log P(x, z) + log Q(z | x) for one z of each x, summed over the batch."""
        loc, raw = self.encoder(x).chunk(2, -1)
        scale = softplus(raw) + 1e-6
        noise = torch.randn_like(loc)
        z = loc + scale * noise
        reconstruction = binary_cross_entropy_with_logits(self.decoder(z), x, reduction="sum")
        return reconstruction + (0.5 * (z**2 - noise**2) - scale.log()).sum()  # 0.5 log(2 pi) stands in both


class Functions:
    """The model and the guide as plain functions, as in Pyro's own tutorial: JitTrace_ELBO works with these only."""

    def __init__(self, encoder: nn.Module, decoder: nn.Module, latent_dim: int) -> None:
        self.encoder, self.decoder, self.latent_dim = encoder, decoder, latent_dim

    def model(self, x: Tensor) -> None:
        """P(x, z)."""
        pyro.module("decoder", self.decoder)
        with pyro.plate("data", x.shape[0]):
            zeros = x.new_zeros(x.shape[0], self.latent_dim)
            z = pyro.sample("z", dist.Normal(zeros, torch.ones_like(zeros)).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=self.decoder(z)).to_event(3), obs=x)

    def guide(self, x: Tensor) -> None:
        """Q(z | x)."""
        pyro.module("encoder", self.encoder)
        with pyro.plate("data", x.shape[0]):
            loc, raw = self.encoder(x).chunk(2, -1)
            pyro.sample("z", dist.Normal(loc, softplus(raw) + 1e-6).to_event(1))


def by_hand(architecture: Architecture, data: Tensor, batch_size: int, *, compiled: bool = False) -> Competitor:
    """Return steps of the VAE written by hand, eager or with its loss compiled for this batch size alone."""
    vae = HandWritten(*architecture.networks())
    optimizer = torch.optim.Adam(vae.parameters(), lr=LEARNING_RATE, fused=True)
    indices = shuffled(batch_size)
    loss_of: Callable[[Tensor], Tensor] = torch.compile(vae.loss, dynamic=False) if compiled else vae.loss

    def step() -> None:
        optimizer.zero_grad()
        loss_of(data[next(indices)]).backward()
        optimizer.step()

    return Competitor(step)


def by_pyro(architecture: Architecture, data: Tensor, batch_size: int, *, checks: bool = True) -> Competitor:
    """Return `SVI.step` on our programs, as it comes or without validation and without a look for missing values."""
    model, guide = architecture.programs()
    svi = SVI(model, guide, pyro.optim.Adam({"lr": LEARNING_RATE}), Trace_ELBO())
    indices = shuffled(batch_size)
    return Competitor(lambda: svi.step(data[next(indices)]), around=lambda: _pyro(checks))


def by_jit(architecture: Architecture, data: Tensor, batch_size: int) -> Competitor:
    """Return `SVI.step` with JitTrace_ELBO."""
    functions = Functions(*architecture.networks(), architecture.latent_dim)
    objective = JitTrace_ELBO(ignore_jit_warnings=True)
    svi = SVI(functions.model, functions.guide, pyro.optim.Adam({"lr": LEARNING_RATE}), objective)
    indices = shuffled(batch_size)
    return Competitor(lambda: svi.step(data[next(indices)]), around=lambda: _pyro(True))


@contextlib.contextmanager
def _pyro(checks: bool) -> Iterator[None]:
    with pyro.validation_enabled(checks), all_known(not checks):
        yield
