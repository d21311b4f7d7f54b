"""Threads at once, forks and start methods: each gets the numbers that it gets alone, and nothing hangs or is left."""

import asyncio
import os
import subprocess
import sys
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import pyro
import pytest
import torch
from joblib import Parallel, delayed
from ppl_vae.guides import MeanField
from ppl_vae.models import VAE

import ppl_vae
from ppl_vae import priors
from ppl_vae.networks import MLP
from ppl_vae.utils import one_at_a_time as module
from ppl_vae.utils.one_at_a_time import one_at_a_time
from ppl_vae.utils.rng import seeded

TASKS = range(4)
NETWORK = partial(MLP, hidden=(8,))


@pytest.fixture(autouse=True)
def small_turns():
    """Threads change places often, so that what is shared meets."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


def make(seed):
    torch.manual_seed(seed)
    model = VAE((4,), prior=priors.StandardNormal(2), decoder=NETWORK)
    return model, MeanField(model, encoder=NETWORK)


def work(pair, seed):
    """A fit, and an estimate, of one pair."""
    x = torch.from_numpy(np.random.default_rng(seed).integers(0, 2, (60, 4))).float()
    elbo = ppl_vae.fit(*pair, x, epochs=3, batch_size=20, seed=seed, progress=False).history.train_elbo
    evidence = ppl_vae.estimate_evidence(*pair, x[:10], num_samples=20, method="importance", progress=False)
    return [*elbo, *evidence.log_px, *ppl_vae.sample(pair[0], 3, seed=seed).flatten().tolist()]


def by_threads(calls):
    found = [None] * len(calls)

    def run(i):
        found[i] = calls[i]()

    threads = [threading.Thread(target=run, args=(i,)) for i in range(len(calls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return found


def by_executor(calls):
    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(lambda call: call(), calls))


def by_joblib(calls):
    return Parallel(n_jobs=len(calls), backend="threading")(delayed(call)() for call in calls)


def by_asyncio(calls):
    async def all_of_them():
        return await asyncio.gather(*(asyncio.to_thread(call) for call in calls))

    return asyncio.run(all_of_them())


@pytest.mark.parametrize("at_once", [by_threads, by_executor, by_joblib, by_asyncio])
@pytest.mark.filterwarnings("ignore:This thread waits")
def test_threads_at_once_get_what_each_gets_alone(at_once):
    alone = [work(make(seed), seed) for seed in TASKS]
    state = torch.get_rng_state()
    calls = [partial(work, pair, seed) for seed, pair in enumerate(map(make, TASKS))]
    torch.set_rng_state(state)
    assert at_once(calls) == alone
    assert torch.equal(torch.get_rng_state(), state)
    assert not pyro.settings.get("module_local_params")


@pytest.mark.filterwarnings("ignore:This thread waits")
def test_an_exception_in_one_thread_is_no_other_threads():
    def failing(x):
        with pyro.plate("data", len(x)):
            raise KeyError("mine")

    def refused():
        with pytest.raises(ppl_vae.InputError, match="mine"):
            ppl_vae.fit(failing, lambda x: None, torch.zeros(5), epochs=1)

    alone = work(make(0), 0)
    assert by_executor([refused, partial(work, make(0), 0), refused, partial(work, make(0), 0)])[1::2] == [alone, alone]


def test_a_program_called_by_hand_waits_for_a_fit_in_another_thread():
    model, _ = make(0)
    inside, called = threading.Event(), []
    other = threading.Thread(target=lambda: (inside.wait(60), called.append(model(size=2))))
    other.start()
    with one_at_a_time():
        inside.set()
        other.join(0.2)
        assert not called
    other.join(60)
    assert len(called[0]) == 2


def test_who_waits_long_is_told_so_once(monkeypatch):
    monkeypatch.setattr(module, "PATIENCE", 0.02)
    inside, done = threading.Event(), []

    def waits():
        inside.wait(60)
        with seeded(0):
            done.append(1)

    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        other = threading.Thread(target=waits)
        other.start()
        with one_at_a_time():
            inside.set()
            other.join(0.3)
        other.join(60)
    assert done == [1]
    assert [str(w.message).startswith("This thread waits for its turn") for w in said] == [True]


def test_a_turn_that_another_thread_ends_or_nobody_any_more():
    """A generator in a turn may be closed by garbage collection, in any thread; or its thread has ended long ago."""

    def generator():
        with one_at_a_time():
            yield

    def begun(into):
        into.append(generator())
        next(into[0])

    closed, left = [], []
    begun(closed)
    by_threads([closed[0].close])
    by_threads([partial(begun, left)])  # the thread is gone
    with one_at_a_time():  # taken over
        left[0].close()
        assert by_threads([lambda: module._turns._taken(0.0)]) == [0]  # which ends no turn of this thread
    (number,) = by_threads([module._turns.take])
    assert number
    with one_at_a_time():
        pass


def run(code, *, threads="2"):
    """Run a program of its own; return what it prints."""
    before = "import os, torch, ppl_vae, pyro\nfrom ppl_vae.models import VAE\nfrom ppl_vae.guides import MeanField\n"
    before += "x = (torch.rand(64, 1, 8, 8) > 0.5).float()\nmodel = VAE((1, 8, 8))\nguide = MeanField(model)\n"
    environment = {**os.environ, "OMP_NUM_THREADS": threads}
    ended = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", before + code],
        capture_output=True,
        check=False,
        text=True,
        timeout=300,
        env=environment,
    )
    assert ended.returncode == 0, ended.stderr[-2000:]
    return ended.stdout


FORKED = """
def of_child(work):
    import signal
    pid = os.fork()
    if not pid:
        signal.alarm(100)
        try:
            print(work(), flush=True)
        finally:
            os._exit(0)
    return os.waitpid(pid, 0)[1]
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_child_forked_after_several_threads_worked_fits():
    code = (
        FORKED
        + """
assert torch.get_num_threads() == 2
_ = torch.rand(1500, 1500) @ torch.rand(1500, 1500)  # OpenMP's threads are there
_ = torch.rand(3_000_000).exp().sum()

def child():
    ppl_vae.fit(model, guide, x, epochs=1, progress=False)
    _ = torch.rand(3_000_000).exp().sum()
    try:
        ppl_vae.fit(model, guide, x, epochs=1, threads=2)
    except ppl_vae.InputError as problem:
        return f"{torch.get_num_threads()} {problem}"

assert of_child(child) == 0
assert torch.get_num_threads() == 2
"""
    )
    assert run(code).startswith("1 Expected threads=1 in a forked process")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_child_forked_while_another_thread_fits_is_free_of_it():
    code = (
        FORKED
        + """
import threading
inside, go_on = threading.Event(), threading.Event()

def program(x):
    inside.set()
    go_on.wait(60)
    return model(x)

other = threading.Thread(target=lambda: ppl_vae.fit(program, guide, x, epochs=1, progress=False))
other.start()
inside.wait(60)

def child():
    fresh = VAE((1, 8, 8))
    ppl_vae.fit(fresh, MeanField(fresh), x, epochs=1, progress=False)
    return list(pyro.get_param_store()), pyro.settings.get("module_local_params"), pyro.poutine.runtime._PYRO_STACK

status = of_child(child)
go_on.set()
other.join()
assert status == 0
"""
    )
    assert run(code) == "([], False, [])\n"


@pytest.mark.parametrize("compile", [False, True])
def test_how_processes_are_started_can_be_set_after_a_fit(compile):
    code = f"""
import multiprocessing
fitted = ppl_vae.fit(model, guide, x, epochs=1, batch_size=64, compile={compile}, progress=True)
multiprocessing.set_start_method("spawn")
print(fitted.compiled)
"""
    assert run(code, threads="1") == f"{compile}\n"
