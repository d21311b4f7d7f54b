"""Objectives to train a pair by: Pyro's own, and what this field uses beyond them.

Each is a `pyro.infer.ELBO`: it goes into `fit(..., objective=...)` and into Pyro's own `SVI`, and
`objective(model, guide)` is a PyTorch module whose call returns a loss for any loop, Lightning's too.
"""

from pyro.infer import Trace_ELBO, TraceEnum_ELBO, TraceGraph_ELBO, TraceMeanField_ELBO

from ppl_vae.classifying import Classifying
from ppl_vae.kl_objectives import BetaELBO, FreeBits, WarmUp
from ppl_vae.multi_sample import IWAE, DoublyReparameterized, StickingTheLanding

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
