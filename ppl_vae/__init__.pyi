from . import data, likelihoods, missing, networks, objectives, plots, posteriors, priors
from .answered import OneToMany
from .arviz_export import to_arviz
from .base import Guide, Model
from .bound import check_bound
from .classification import accuracy
from .classifier import fit_classifier
from .comparison import compare
from .errors import InputError, NonFiniteLossError
from .estimators import estimate_evidence
from .evaluation import evaluate, explain, measure
from .evidence import Evidence
from .experiment import new, train
from .gaps import Gap, explain_gap
from .generate import manifold, reconstruct, sample
from .imputation import Imputation, impute
from .latents import latent_use
from .listing import list_parts
from .one_to_many import measure_one_to_many
from .runs import Run, load
from .svi import fit
from .training import Fit
from .usage import LatentUse

__all__ = [
    "Evidence",
    "Fit",
    "Gap",
    "Guide",
    "Imputation",
    "InputError",
    "LatentUse",
    "Model",
    "NonFiniteLossError",
    "OneToMany",
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
    "fit_classifier",
    "impute",
    "latent_use",
    "likelihoods",
    "list_parts",
    "load",
    "manifold",
    "measure",
    "measure_one_to_many",
    "missing",
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
