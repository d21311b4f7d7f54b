"""A model file and a guide file as a person writes them, with a prior of their own."""

OWN = '''
import pyro
from ppl_vae.base import Model
from ppl_vae.likelihoods import Bernoulli
from ppl_vae.networks import MLP
from ppl_vae.priors import Prior
import pyro.distributions as dist
import torch


class Laplace(Prior):
    """P(z) = prod Laplace(z_i; 0, scale)."""

    def __init__(self, latent_dim=2, scale=1.0):
        super().__init__(latent_dim)
        self.scale = scale

    def forward(self):
        return dist.Laplace(torch.zeros(self.latent_dim), self.scale).to_event(1)


class Own(Model):
    def __init__(self, event_shape, prior=None, decoder=MLP):
        super().__init__(event_shape)
        self.prior = prior or Laplace()
        self.likelihood = Bernoulli().bind(event_shape)
        self.decoder = decoder(self.prior.event_shape, self.likelihood.h_shape)

    def forward(self, x=None, *, size=None):
        with self.plate(x, size):
            z = pyro.sample("z", self.prior())
            return pyro.sample("x", self.likelihood(self.decoder(z)), obs=x)
'''
OWN_GUIDE = """
import pyro
import pyro.distributions as dist
from ppl_vae.base import Guide
from ppl_vae.networks import MLP


class OwnGuide(Guide):
    def __init__(self, model):
        super().__init__(model)
        self.net = MLP(self.event_shape, (2,), hidden=(5,))

    def forward(self, x):
        with self.plate(x):
            pyro.sample("z", dist.Normal(self.net(x), 1.0).to_event(1))
"""
