"""The number of threads: chosen by a trial that leaves no trace, chosen anew where work becomes slow, put back."""

import contextlib

import numpy as np
import pytest
import torch
from ppl_vae.guides import MeanField
from ppl_vae.models import VAE

import ppl_vae
from ppl_vae import InputError
from ppl_vae.generation import generate
from ppl_vae.utils import threads
from ppl_vae.utils.threads import PAUSE, WINDOW, Threads


class Machine:
    """A clock that only work moves on, by as much as a unit takes with so many threads."""

    def __init__(self, **seconds):
        self.now, self.seconds, self.trials = 0.0, {1: seconds["one"], 2: seconds["two"]}, 0

    def perf_counter(self):
        return self.now

    def work(self):
        self.now += self.seconds[torch.get_num_threads()]

    @contextlib.contextmanager
    def trial(self):
        self.trials += 1
        yield self.work


@pytest.fixture
def two_threads():
    torch.set_num_threads(2)
    yield
    assert torch.get_num_threads() == 2
    torch.set_num_threads(1)


def on(monkeypatch, **seconds):
    machine = Machine(**seconds)
    monkeypatch.setattr(threads, "time", machine)
    return machine


@pytest.mark.parametrize(("two", "chosen"), [(0.006, 2), (0.0095, 1), (0.5, 1)])
def test_the_faster_is_chosen_and_one_where_it_hardly_matters(monkeypatch, two_threads, two, chosen):
    machine = on(monkeypatch, one=0.01, two=two)
    with Threads("auto") as found:
        found.choose(machine.trial, 1000)
        assert torch.get_num_threads() == chosen
    assert machine.now < 0.25 + 0.01 + two + 0.01  # no longer than it may, but for the last round


def test_of_little_work_or_with_one_thread_little_is_tried(monkeypatch, two_threads):
    machine = on(monkeypatch, one=0.01, two=0.001)
    with Threads("auto") as found:
        found.choose(machine.trial, 1)
        assert machine.trials == 0
        found.choose(machine.trial, 200)
        assert machine.now == 0.01
    with Threads(1) as found:
        found.choose(machine.trial, 1000)
        assert torch.get_num_threads() == 1
    assert machine.trials == 1


def test_within_another_one_may_use_all_that_the_process_has(monkeypatch, two_threads):
    machine = on(monkeypatch, one=0.01, two=0.001)
    with Threads("auto"):
        assert torch.get_num_threads() == 1
        with Threads("auto") as inner:
            inner.choose(machine.trial, 1000)
            assert torch.get_num_threads() == 2
        assert torch.get_num_threads() == 1


def test_it_is_chosen_anew_where_work_becomes_slow_but_not_at_once(monkeypatch, two_threads):
    machine = on(monkeypatch, one=0.01, two=0.006)
    with Threads("auto") as found:
        found.choose(machine.trial, 1000)
        cost = machine.now
        for _ in range(2 * WINDOW):
            found.run(machine.work, machine.trial)
        machine.seconds[2] = 0.3  # somebody holds one of them up
        while machine.now < PAUSE * cost:
            found.run(machine.work, machine.trial)
        assert (machine.trials, torch.get_num_threads()) == (1, 2)
        for _ in range(2 * WINDOW):
            found.run(machine.work, machine.trial)
        assert (machine.trials, torch.get_num_threads()) == (2, 1)
        for _ in range(100 * WINDOW):
            found.run(machine.work, machine.trial)
        assert machine.trials == 2


def test_whatever_happens_the_process_has_its_threads_again(two_threads):
    for wanted in (1, "auto"):
        with contextlib.suppress(KeyboardInterrupt), Threads(wanted):
            assert torch.get_num_threads() == 1
            raise KeyboardInterrupt


def fitted(pair, x, number):
    return [ppl_vae.fit(*pair, x, epochs=4, batch_size=10, threads=number).history.train_elbo]


def estimated(pair, x, number):
    return [ppl_vae.estimate_evidence(*pair, x, num_samples=50, chunk_size=100, threads=number).log_px]


def annealed(pair, x, number):
    options = {"num_temperatures": 5, "num_chains": 2, "num_leapfrog": 2, "num_samples": 50, "threads": number}
    evidence = ppl_vae.estimate_evidence(*pair, x, method="sandwich", **options)
    return [evidence.log_px, evidence.sandwich.lower, evidence.sandwich.upper]


def sampled(pair, x, number):
    return [ppl_vae.sample(pair[0], 200, threads=number).numpy()]


@pytest.mark.parametrize("work", [fitted, estimated, annealed, sampled])
def test_a_trial_leaves_no_trace(monkeypatch, two_threads, work):
    """Where one thread is chosen, the numbers are those of one thread, bit for bit."""
    monkeypatch.setattr(threads, "AHEAD", 0.0)
    monkeypatch.setattr(threads, "WORTH", 0.0)
    monkeypatch.setattr(generate, "CHUNK", 20)
    tried, plain = [], Threads._faster
    monkeypatch.setattr(Threads, "_faster", lambda self, work: tried.append(self.all) or plain(self, work))
    results = []
    for number in ("auto", 1):
        torch.manual_seed(0)
        model = VAE((1, 4, 4))
        results.append(work((model, MeanField(model)), torch.rand(40, 1, 4, 4).round(), number))
    assert 2 in tried
    for one, other in zip(*results, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("wanted", [0, -1, 1.5, True, "two", None])
def test_another_word_for_threads_is_refused(wanted):
    model, x = VAE((1, 4, 4)), torch.rand(5, 1, 4, 4).round()
    for call in (
        lambda: ppl_vae.fit(model, MeanField(model), x, threads=wanted),
        lambda: ppl_vae.sample(model, 5, threads=wanted),
        *(
            lambda method=method: ppl_vae.estimate_evidence(model, MeanField(model), x, method=method, threads=wanted)
            for method in ("importance", "ais", "sandwich")
        ),
    ):
        with pytest.raises(InputError, match="Expected threads to be a whole number of at least 1, or 'auto'; got"):
            call()
