from . import data, likelihoods, missing, networks, objectives, plots, posteriors, priors
from .base import Guide, Model
from .criticism.accuracy import accuracy
from .criticism.calibration import Calibration, calibrate
from .criticism.check_bound import check_bound
from .criticism.difference import Difference
from .criticism.gaps import Gap, explain_gap
from .criticism.image_classifier import fit_classifier
from .criticism.latent_use import LatentUse, latent_use
from .criticism.one_to_many import OneToMany, measure_one_to_many
from .criticism.scores import Scores
from .errors import InputError, NonFiniteLossError
from .evidence.estimators import estimate_evidence, to_arviz
from .evidence.evidence import Evidence
from .fitting.history import Fit
from .fitting.svi import fit
from .generation.encode import Encoding, encode
from .generation.generate import manifold, reconstruct, sample
from .generation.impute import Imputation, impute
from .runs.build import new
from .runs.compare import compare
from .runs.difference import explain_difference
from .runs.evaluate import evaluate, explain, measure
from .runs.listing import list_parts
from .runs.run import Run, load
from .runs.score import score
from .runs.train import train

__all__ = [
    "Calibration",
    "Difference",
    "Encoding",
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
    "Scores",
    "accuracy",
    "calibrate",
    "check_bound",
    "compare",
    "data",
    "encode",
    "estimate_evidence",
    "evaluate",
    "explain",
    "explain_difference",
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
    "score",
    "to_arviz",
    "train",
]
