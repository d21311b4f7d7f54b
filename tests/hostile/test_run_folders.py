"""Run folders that were changed, by chance or on purpose: the same answer, or one sentence."""

import shutil
from pathlib import Path

import pytest
from hostile import run_folders

from ppl_vae import models

CHUNKS, EACH = 5, 100


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    base = tmp_path_factory.mktemp("base")
    run_folders.make(base)
    shutil.copy(Path(models.__path__[0]) / "vae.py", base / "model.py")
    return base


@pytest.mark.parametrize("seed", range(CHUNKS))
def test_a_changed_folder_gives_the_same_answer_or_a_sentence(base, tmp_path, seed):
    results, failures = run_folders.run(EACH, seed, tmp_path, base)
    assert len(results) == EACH
    assert not failures, "\n".join(failures)
