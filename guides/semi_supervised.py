"""The guide for labels that are partly missing: a classifier of x, then a Gaussian given x and its label."""

import pyro
import pyro.distributions as dist
from pyro.distributions import TorchDistribution
from torch import Tensor

from ppl_vae.base import Guide, suited
from ppl_vae.conditional import ConditionalModel, check_number
from ppl_vae.conditions import Label
from ppl_vae.networks import MLP, NetworkFactory, network_of
from ppl_vae.parts import Preprocessing
from ppl_vae.posteriors import DiagonalNormal, Family, SitePosteriors


class SemiSupervised(Guide):
    """Q(z, y | x) = Q(y | x) prod_s Q(z_s | h_s(x, y)): a classifier, then a diagonal Gaussian, or another family.

    Where y is given it is not sampled, and this is Q(z | x, y). Where it is not, `TraceEnum_ELBO` sums it out and
    other objectives draw it. The encoder is the one that goes with the model's networks.
    Shapes: x [N, *event_shape], y [N], z_s [N, *event shape of the site].
    Source: Kingma et al., arXiv 1406.5298 (M2).

    Raises:
        InputError: a model whose condition is not a label, or without latent sites; in use, not one label for each x.

    >>> import torch
    >>> from ppl_vae.models import CVAE
    >>> guide = SemiSupervised(CVAE((1, 8, 8)))
    >>> sorted(guide(torch.zeros(5, 1, 8, 8))), sorted(guide(torch.zeros(5, 1, 8, 8), torch.arange(5)))
    (['y', 'z'], ['z'])
    """

    classifies = True
    default_objective = "classifying"

    condition: Label

    def __init__(
        self,
        model: ConditionalModel,
        classifier: NetworkFactory = MLP,
        posterior: Family = DiagonalNormal,
        preprocessing: Preprocessing | None = None,
    ) -> None:
        condition = getattr(model, "condition", None)
        if not isinstance(condition, Label):
            got = "none" if condition is None else type(condition).__name__
            self.refuse(model, "a model whose condition is a Label", f"{got} in {type(model).__name__}")
        super().__init__(model, preprocessing or suited(model))
        self.refer_to(condition=condition)
        self.posteriors = SitePosteriors(self.real_latents(), posterior)
        shape = self.preprocessing.out_shape
        self.encoder = model.networks.encoder(shape, condition.c_shape, (self.posteriors.h_dim,), model.decoder)
        self.classifier = network_of(classifier, shape, condition.c_shape)

    def forward(self, x: Tensor, y: Tensor | None = None) -> dict[str, Tensor]:
        """Sample the label, if it is not given, and every other latent site given x and the label."""
        self.condition.check(y)
        drawn: dict[str, Tensor] = {}
        with self.plate(x):
            check_number(y, len(x))
            if y is None:
                q = dist.Categorical(logits=self.classify(x))
                drawn["y"] = y = pyro.sample("y", q, infer={"enumerate": "parallel"})
            h = self.encoder(self.preprocessing(x), self.condition.encode(y))
            return drawn | {name: pyro.sample(name, q) for name, q in self.posteriors(h).items()}

    def posterior_given(self, x: Tensor, c: Tensor) -> dict[str, TorchDistribution]:
        """Return Q(z_s | x_i, y) of each site, batch shape [..., I], for x [I, *event_shape] and c [..., *c_shape]."""
        return self.posteriors(self.encoder(self.preprocessing(x), c.unsqueeze(-2)))

    def classify(self, x: Tensor) -> Tensor:
        """Return the logits of Q(y | x), [..., num_classes], for x [..., *event_shape]."""
        return self.classifier(self.preprocessing(x))
