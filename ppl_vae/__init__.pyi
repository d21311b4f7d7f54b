from . import data, likelihoods, networks, objectives, plots, posteriors, priors
from .arviz_export import to_arviz
from .base import Guide, Model
from .bound import check_bound
from .classification import accuracy
from .comparison import compare
from .errors import InputError, NonFiniteLossError
from .estimators import estimate_evidence
from .evaluation import evaluate, explain
from .evidence import Evidence
from .experiment import new, train
from .gaps import Gap, explain_gap
from .generate import manifold, reconstruct, sample
from .latents import latent_use
from .runs import Run, load
from .svi import fit
from .training import Fit
from .usage import LatentUse

__all__ = [
    "Evidence",
    "Fit",
    "Gap",
    "Guide",
    "InputError",
    "LatentUse",
    "Model",
    "NonFiniteLossError",
    "Run",
    "accuracy",
    "check_bound",
    "compare",
    "data",
    "estimate_evidence",
    "evaluate",
    "explain",
    "explain_gap",
    "fit",
    "latent_use",
    "likelihoods",
    "load",
    "manifold",
    "networks",
    "new",
    "objectives",
    "plots",
    "posteriors",
    "priors",
    "reconstruct",
    "sample",
    "to_arviz",
    "train",
]
