"""Hundreds of bad Python calls, each of which is refused in a sentence; NumPy's numbers are numbers."""

import numpy as np
import pytest
import torch
from hostile import calls, values

import ppl_vae

CHUNKS, CASES = 10, 50


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_a_bad_call_is_refused_in_a_sentence(chunk, request):
    """`run(1000, seed)` of hostile.calls tries more of them."""
    failures = calls.run(CASES, seed=1000 * request.config.getoption("--seed") + chunk)
    if failures:
        pytest.fail(f"{len(failures)} of {CASES} bad calls failed:\n" + "\n".join(failures), pytrace=False)


@pytest.mark.parametrize(
    "name", [n for n in calls.CALLS if n not in ("load", "evaluate", "score", "new", "measure_one_to_many")]
)
def test_a_good_call_succeeds(name, tmp_path, monkeypatch):
    """Else the bad ones would be refused for another reason than theirs."""
    monkeypatch.chdir(tmp_path)
    call = calls.CALLS[name]
    with calls._quietly():
        call.function(**call.arguments())


KINDS = {"NumPy": np.int64, "small": np.int8, "unsigned": np.uint64, "PyTorch": torch.tensor, "0-d": np.array}


@pytest.mark.parametrize("kind", KINDS)
def test_other_libraries_numbers_give_the_same(kind):
    number, half = KINDS[kind], np.float32(0.25)

    def estimated(seed, samples, epochs, rate):
        model, guide = calls.vae()
        options = {"epochs": epochs, "batch_size": samples, "learning_rate": rate, "seed": seed, "progress": False}
        fitted = ppl_vae.fit(model, guide, calls.X, compile=False, **options)
        evidence = ppl_vae.estimate_evidence(
            model, guide, calls.X, method="importance", num_samples=samples, seed=seed, compile=False, progress=False
        )
        assert type(evidence.seed) is type(evidence.num_samples) is int
        drawn = ppl_vae.sample(model, samples, seed=seed)
        return fitted.history.train_elbo, evidence.log_px, drawn.numpy()

    plain = estimated(3, 5, 2, 0.25)
    for ours, theirs in zip(plain, estimated(number(3), number(5), number(2), half), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("name", ["optimizer", "schedule"])
def test_what_makes_no_steps_is_refused_before_any(name):
    pool = {"optimizer": values.OPTIMIZERS, "schedule": values.SCHEDULES}[name]
    fine = {"ASGD", "Adafactor", "Rprop", "a class", "LambdaLR that raises", "LambdaLR of NaN", "OneCycleLR too short"}
    for value in set(pool) - fine:
        model, guide = calls.vae()
        before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
        with pytest.raises(ppl_vae.InputError, match=r"^(Expected|Unknown) "):
            ppl_vae.fit(model, guide, calls.X, epochs=1, compile=False, progress=False, **{name: pool[value]()})
        assert all(torch.equal(before[key], tensor) for key, tensor in model.state_dict().items()), value
