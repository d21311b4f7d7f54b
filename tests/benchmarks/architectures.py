"""The three VAEs that every competitor trains: ours as Pyro programs, and their networks written by hand."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from ppl_vae.guides import MeanField
from ppl_vae.models import VAE
from torch import Tensor, nn

from ppl_vae.networks import MLP, Convolutional, GatedMLP, Network, NetworkFactory
from ppl_vae.priors import StandardNormal

SHAPE = (1, 28, 28)
NUM_DATA = 10_000
PIXELS = 28 * 28


class SoftplusMLP(MLP):
    """A multi-layer perceptron of one hidden layer of softplus units, as in Pyro's tutorial."""

    def __init__(self, in_shape: Sequence[int], out_shape: Sequence[int], width: int = 400) -> None:
        Network.__init__(self, in_shape, out_shape)
        n_in, n_out = self.in_shape.numel(), self.out_shape.numel()
        self.layers = nn.Sequential(nn.Linear(n_in, width), nn.Softplus(), nn.Linear(width, n_out))


@dataclass(frozen=True)
class Architecture:
    """One of them.

    Attributes:
        title: as it stands in the table.
        latent_dim: the size of z.
        network: encoder and decoder of ours.
        by_hand: makes the same encoder and decoder, their parameters in the same order, from PyTorch's own layers.
    """

    title: str
    latent_dim: int
    network: NetworkFactory
    by_hand: Callable[[], tuple[nn.Sequential, nn.Sequential]]

    def programs(self) -> tuple[VAE, MeanField]:
        """Return ours: the model and its guide, with the weights of seed 0."""
        torch.manual_seed(0)
        model = VAE(SHAPE, prior=StandardNormal(self.latent_dim), decoder=self.network)
        return model, MeanField(model, encoder=self.network)

    def networks(self) -> tuple[nn.Sequential, nn.Sequential]:
        """Return the encoder and decoder written by hand, with the same weights as `programs`."""
        model, guide = self.programs()
        made = self.by_hand()
        with torch.no_grad():
            for theirs, ours in zip(made, (guide.encoder, model.decoder), strict=True):
                for to, source in zip(theirs.parameters(), ours.parameters(), strict=True):
                    to.copy_(source)
        return made


def _mlp() -> tuple[nn.Sequential, nn.Sequential]:
    return (
        nn.Sequential(nn.Flatten(), nn.Linear(PIXELS, 400), nn.Softplus(), nn.Linear(400, 100)),
        nn.Sequential(nn.Linear(50, 400), nn.Softplus(), nn.Linear(400, PIXELS), nn.Unflatten(1, SHAPE)),
    )


def _gated() -> tuple[nn.Sequential, nn.Sequential]:
    def layers(n_in: int, n_out: int) -> list[nn.Module]:
        return [nn.Linear(n_in, 600), nn.GLU(), nn.Linear(300, 600), nn.GLU(), nn.Linear(300, n_out)]

    encoder = nn.Sequential(nn.Flatten(), *layers(PIXELS, 80))
    return encoder, nn.Sequential(*layers(40, PIXELS), nn.Unflatten(1, SHAPE))


def _convolutional() -> tuple[nn.Sequential, nn.Sequential]:
    halved = [nn.Conv2d(1, 16, 3, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 3, 2, 1), nn.ReLU()]
    doubled = [nn.ReLU(), nn.ConvTranspose2d(32, 16, 4, 2, 1), nn.ReLU(), nn.ConvTranspose2d(16, 1, 4, 2, 1)]
    return (
        nn.Sequential(*halved, nn.Flatten(), nn.Linear(1568, 64)),
        nn.Sequential(nn.Linear(32, 1568), nn.Unflatten(1, (32, 7, 7)), *doubled),
    )


ARCHITECTURES = {
    "mlp": Architecture("MLP 784-400-50", 50, SoftplusMLP, _mlp),
    "gated": Architecture("gated 300-300-40", 40, partial(GatedMLP, hidden=(300, 300)), _gated),
    "conv": Architecture("convolutional 16-32, z 32", 32, partial(Convolutional, channels=(16, 32)), _convolutional),
}


def make_data(num_data: int = NUM_DATA, shape: Sequence[int] = SHAPE) -> Tensor:
    """Return black and white images, a third of the pixels white, made in place: no second copy ever exists."""
    generator = torch.Generator().manual_seed(0)
    return torch.empty(num_data, *shape).bernoulli_(0.3, generator=generator)


def shuffled(batch_size: int, num_data: int = NUM_DATA) -> Iterator[Tensor]:
    """Yield the indices of full batches in a random order, one pass after another."""
    while True:
        order = torch.randperm(num_data)
        yield from order[: num_data - num_data % batch_size].split(batch_size)
