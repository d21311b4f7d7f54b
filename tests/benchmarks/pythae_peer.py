"""The same VAE in pythae: an epoch of its trainer, and its `get_nll`."""

import logging
import tempfile

import pythae.models
import torch
from pythae.data.datasets import BaseDataset
from pythae.models.base.base_utils import ModelOutput
from pythae.models.nn import BaseDecoder, BaseEncoder
from pythae.trainers import BaseTrainer, BaseTrainerConfig
from pythae.trainers.training_callbacks import CallbackHandler, TrainingCallback
from torch import Tensor, nn
from torch.nn.functional import softplus

from .architectures import SHAPE, Architecture
from .peers import LEARNING_RATE
from .timing import Competitor

STEP_DATA = 1000  # of one timed epoch, at least: enough that starting the loader does not count


class Encoder(BaseEncoder):
    """A guide's network in pythae's form: its scale is softplus(r) + 1e-6, pythae wants the log variance."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> ModelOutput:
        loc, raw = self.network(x).chunk(2, -1)
        return ModelOutput(embedding=loc, log_covariance=2 * (softplus(raw) + 1e-6).log())


class Decoder(BaseDecoder):
    """A model's network in pythae's form, which wants means."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, z: Tensor) -> ModelOutput:
        return ModelOutput(reconstruction=self.network(z).sigmoid())


def make_vae(encoder: nn.Module, decoder: nn.Module, latent_dim: int) -> pythae.models.VAE:
    """Return pythae's VAE with these networks."""
    config = pythae.models.VAEConfig(input_dim=SHAPE, latent_dim=latent_dim, reconstruction_loss="bce")
    return pythae.models.VAE(config, Encoder(encoder), Decoder(decoder))


def by_trainer(architecture: Architecture, data: Tensor, batch_size: int) -> Competitor:
    """Return epochs of `BaseTrainer.train_step` over a part of the data.

    In it are its DataLoader (which takes one datum at a time and stacks them), the step, and one `loss.item()`; not in
    it are evaluation, checkpoints, printing and the progress bar. Adam is fused, as for the others.
    """
    logging.getLogger("pythae").setLevel(logging.WARNING)
    num_batches = max(2, -(-STEP_DATA // batch_size))
    some = data[: num_batches * batch_size]
    with tempfile.TemporaryDirectory() as folder:  # the trainer makes one; nothing is written to it by a step
        config = BaseTrainerConfig(
            output_dir=folder,
            per_device_train_batch_size=batch_size,
            learning_rate=LEARNING_RATE,
            optimizer_cls="Adam",
            optimizer_params={"fused": True},
            no_cuda=True,
        )
        for name in list(logging.root.manager.loggerDict):
            if name.startswith("pythae"):
                logging.getLogger(name).setLevel(logging.WARNING)
        vae = make_vae(*architecture.networks(), architecture.latent_dim)
        trainer = BaseTrainer(vae, BaseDataset(some, torch.zeros(len(some))), training_config=config)
        trainer.prepare_training()
    trainer.callback_handler = CallbackHandler([TrainingCallback()], model=trainer.model)
    return Competitor(lambda: trainer.train_step(1), units=num_batches)
