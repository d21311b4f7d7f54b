"""Run folders written by the commit before the house had rooms (b9648aa): they load, evaluate and resume.

Two of them hold copied model files, whose imports (`ppl_vae.gaussians`, `ppl_vae.categories`) have moved since.
"""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import ppl_vae
from ppl_vae.runs import build
from ppl_vae.runs.build import hash_of
from ppl_vae.runs.recipe import SAME_PROGRAMS

FOLDER = Path(__file__).parent / "old_runs"
K = 50
LOG_PX = {"vae": -44.427, "hierarchical": -39.904, "discrete": -43.839, "cvae": -43.827}  # as that commit printed them
COMMANDS = {  # that made them
    "vae": dict(prior="mixture", settings={"prior.num_components": 3, "decoder.hidden": 8, "encoder.hidden": 8}),
    "hierarchical": dict(settings={"data.missing": 0.1, "decoder.hidden": 8, "encoder.hidden": 8}),
    "discrete": dict(settings={"decoder.hidden": 8, "encoder.hidden": 8}),
    "cvae": dict(networks="concatenated", settings={"networks.hidden": 8}),
}
COMMANDS["vae"]["settings"]["prior.latent_dim"] = COMMANDS["cvae"]["settings"]["prior.latent_dim"] = 2


def test_programs_in_other_words_are_those_of_today():
    """A file of models/ or guides/ was edited: is the program the same, put its hash here; if not, take it out."""
    today = {hash_of(role, name)[:12] for role in ("model", "guide") for name in build.names(role)}
    assert set(SAME_PROGRAMS.values()) <= today


@pytest.fixture(params=LOG_PX)
def old(request, tmp_path):
    """An old run in a folder of its own, and the command that made it; a person's files are where run.json says."""
    folder = shutil.copytree(FOLDER / request.param, tmp_path / request.param)
    config = json.loads((folder / "run.json").read_text())
    roles = dict.fromkeys(("model", "guide")[: 1 + bool(config["copied"])], request.param)
    for role in config["copied"]:
        path = tmp_path / f"{role}s" / f"{request.param}.py"
        path.parent.mkdir()
        shutil.copy(folder / f"{role}.py", path)
        config["build"][role] = roles[role] = str(path)
    (folder / "run.json").write_text(json.dumps(config))
    return folder, roles | COMMANDS[request.param]


def test_it_loads_and_evaluates(old):
    folder, _ = old
    run = ppl_vae.load(folder, trust=True)
    assert len(run.history.epoch) == 2
    evidence = ppl_vae.evaluate(run, method="importance", num_samples=K)
    error = np.sqrt(2) * evidence.means()["log_px"].mcse  # of two estimates
    assert abs(evidence.log_px.mean() - LOG_PX[folder.name]) < 0.02 + 5 * error


def test_its_evidence_loads():
    evidence = ppl_vae.load(FOLDER / "vae").evidence
    assert (len(evidence), evidence.num_samples) == (300, K)
    assert round(float(evidence.log_px.mean()), 3) == LOG_PX["vae"]


def test_it_goes_on_for_one_more_epoch(old):
    folder, command = old
    settings = command.pop("settings") | {"fit.epochs": 3, "fit.schedule": "constant"}
    before = ppl_vae.load(folder, trust=True).history.train_elbo
    run = ppl_vae.train(**command, settings=settings, out=folder, resume=True, num_samples=K)
    assert len(run.history.epoch) == 3
    assert (run.history.train_elbo[:2] == before).all()
    with pytest.raises(ppl_vae.InputError, match=r"other decoder\.hidden|other networks\.hidden"):
        wider = {key: 9 if key in ("decoder.hidden", "networks.hidden") else value for key, value in settings.items()}
        ppl_vae.train(**command, settings=wider, out=folder, resume=True)
