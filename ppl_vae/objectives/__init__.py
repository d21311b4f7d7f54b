"""Objectives to train a pair by: Pyro's own, and what this field uses beyond them.

Each is a `pyro.infer.ELBO`: it goes into `fit(..., objective=...)` and into Pyro's own `SVI`, and
`objective(model, guide)` is a PyTorch module whose call returns a loss for any loop, Lightning's too.
"""

from pyro.infer import Trace_ELBO, TraceEnum_ELBO, TraceGraph_ELBO, TraceMeanField_ELBO

from ppl_vae.objectives.classification import Classifying
from ppl_vae.objectives.importance_weighted import IWAE, DoublyReparameterized, StickingTheLanding
from ppl_vae.objectives.kl import BetaELBO, FreeBits, WarmUp

__all__ = [
    "IWAE",
    "BetaELBO",
    "Classifying",
    "DoublyReparameterized",
    "FreeBits",
    "StickingTheLanding",
    "TraceEnum_ELBO",
    "TraceGraph_ELBO",
    "TraceMeanField_ELBO",
    "Trace_ELBO",
    "WarmUp",
]
