from . import data, likelihoods, networks, plots, posteriors, priors
from .base import Guide, Model
from .bound import check_bound
from .comparison import compare
from .errors import InputError, NonFiniteLossError
from .estimators import estimate_evidence
from .evidence import Evidence
from .experiment import evaluate, new, train
from .generate import manifold, reconstruct, sample
from .runs import Run, load
from .svi import fit
from .training import Fit

__all__ = [
    "Evidence",
    "Fit",
    "Guide",
    "InputError",
    "Model",
    "NonFiniteLossError",
    "Run",
    "check_bound",
    "compare",
    "data",
    "estimate_evidence",
    "evaluate",
    "fit",
    "likelihoods",
    "load",
    "manifold",
    "networks",
    "new",
    "plots",
    "posteriors",
    "priors",
    "reconstruct",
    "sample",
    "train",
]
