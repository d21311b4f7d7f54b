"""The benchmark suite itself: its clock, its table, its count of operations, and that competitors do the same work."""

import copy
import importlib.util

import pyro
import pytest
import torch
from benchmarks import bounds, peers, table, timing
from benchmarks.architectures import ARCHITECTURES, NUM_DATA, SHAPE, make_data, shuffled
from benchmarks.products import forward_operations, step_operations
from benchmarks.timing import Competitor, Times
from pyro.infer import Trace_ELBO
from torch.utils.flop_counter import FlopCounterMode

from ppl_vae.traces.pair import Pair


class Clock:
    """A clock that only work moves on."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now

    def takes(self, *seconds):
        """Work that takes so long, in one call after the other, the last for ever."""
        left = list(seconds)

        def work():
            self.now += left.pop(0) if len(left) > 1 else left[0]

        return work


def test_a_turn_is_the_mean_of_its_calls_and_the_first_call_does_not_count():
    clock = Clock()
    competitor = Competitor(clock.takes(100.0, 2.0, 4.0, 3.0), units=3)
    assert timing.one_turn(competitor, 8.0, clock) == 1.0


def test_what_a_turn_has_only_begun_is_waited_for_within_its_time():
    clock = Clock()
    assert timing.one_turn(Competitor(clock.takes(1.0), finish=clock.takes(6.0)), 3.0, clock) == 3.0


def test_competitors_run_in_turn_and_each_round_starts_with_another():
    clock, seen = Clock(), []

    def noted(name):
        def work():
            seen.append(name)
            clock.now += 1.0

        return Competitor(work)

    timing.in_turn({name: noted(name) for name in "abc"}, 3, 1.0, clock)
    assert "".join(seen[::2]) == "abcbcacab"
    assert seen[::2] == seen[1::2]  # one call to warm up, one that counts


def test_the_ratio_is_the_median_of_the_ratios_within_a_round():
    ours, theirs = Times((1.0, 9.0, 4.0)), Times((2.0, 3.0, 4.0))
    assert (ours.median, ours.least) == (4.0, 1.0)
    assert ours.over(theirs) == 1.0  # of 1/2, 3, 1; the ratio of the medians is 4/3
    assert ours.scaled(2.0).seconds == (2.0, 18.0, 8.0)


def test_a_row_tells_times_ratios_and_whether_the_aim_is_reached():
    ours, theirs = Times((0.001, 0.003, 0.002)), Times((0.004, 0.004, 0.004))
    row = table.of_times("ms per step", "a peer", [ours, ours, None], [theirs, None, theirs], aim=[0.5, 0.5, 0.5])
    assert row.cells() == [
        "ms per step",
        "a peer",
        "2.00 / 2.00 / -",
        "4.00 / - / 4.00",
        "0.50 / - / -",
        "1.00 / 1.00 / -",
        "4.00 / - / 4.00",
        "0.25 / - / -",
        "at most 0.5: yes / - / -",
    ]


def test_numbers_are_shown_in_about_three_digits():
    assert table.joined([1.234, 56.7, None, 8901.0, 0.0123]) == "1.23 / 56.7 / - / 8,901 / 0.012"


@pytest.mark.parametrize(("aim", "said"), [(-5.0, "at least 5: NO"), (-4.0, "at least 4: yes"), (None, "")])
def test_of_rates_more_is_better(aim, said):
    row = table.of_rates("samples", "a peer", Times((0.001, 0.001)), Times((0.004, 0.004)), per=1.0, aim=aim)
    assert row.cells()[2:] == ["1,000", "250", "4.00", "1,000", "250", "4.00", said]


def test_the_table_is_markdown_with_as_many_cells_in_each_line():
    text = table.markdown([table.Row("a", "b", [1.0], [2.0], [0.5], [1.0], [2.0], [None])])
    lines = text.splitlines()
    assert {line.count("|") for line in lines} == {len(table.HEAD) + 1}
    assert len(set(map(len, lines))) == 1
    assert set(lines[1]) == {"|", "-", " "}


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_operations_are_those_that_pytorch_counts(name):
    architecture, batch = ARCHITECTURES[name], 3
    vae = peers.HandWritten(*architecture.networks())
    with FlopCounterMode(display=False) as counter:
        vae.loss(make_data(batch)).backward()
    assert step_operations(architecture, batch) == counter.get_total_flops()


def test_a_linear_layer_takes_two_operations_for_each_weight():
    assert forward_operations(torch.nn.Sequential(torch.nn.Linear(7, 5)), torch.zeros(1, 7)) == [70]


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_vae_by_hand_and_the_plain_functions_have_our_loss_and_gradients(name):
    architecture, x = ARCHITECTURES[name], make_data(6)
    model, guide = architecture.programs()
    encoder, decoder = architecture.networks()
    vae = peers.HandWritten(encoder, decoder)
    functions = peers.Functions(copy.deepcopy(encoder), copy.deepcopy(decoder), architecture.latent_dim)
    with Pair(model, guide).running():
        torch.manual_seed(1)
        ours = Trace_ELBO().loss_and_grads(model, guide, x)
    torch.manual_seed(1)
    by_hand = vae.loss(x)
    by_hand.backward()
    torch.manual_seed(1)
    by_functions = Trace_ELBO().loss_and_grads(functions.model, functions.guide, x)
    pyro.clear_param_store()
    assert ours == pytest.approx(by_hand.item(), rel=1e-5)
    assert ours == pytest.approx(by_functions, rel=1e-5)
    parts = (guide.encoder, encoder), (model.decoder, decoder)
    for mine, theirs in parts:
        for a, b in zip(mine.parameters(), theirs.parameters(), strict=True):
            torch.testing.assert_close(a.grad, b.grad, rtol=1e-3, atol=1e-3)


def test_batches_are_full_and_go_through_the_data_in_a_random_order():
    indices = shuffled(4000)
    first, second = (torch.cat([next(indices), next(indices)]) for _ in range(2))
    assert len(first.unique()) == 8000 <= NUM_DATA
    assert not torch.equal(first, second)
    assert not torch.equal(first, first.sort().values)


@pytest.fixture
def numpyro_peer():
    if not (importlib.util.find_spec("numpyro") and importlib.util.find_spec("jax")):
        pytest.skip("NumPyro is not installed: pip install 'ppl-vae[bench]'")
    from benchmarks import numpyro_peer

    return numpyro_peer


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_numpyro_has_our_networks(name, numpyro_peer):
    import jax.numpy as jnp

    architecture, x = ARCHITECTURES[name], make_data(4)
    encoder, decoder = architecture.networks()
    z = torch.randn(4, architecture.latent_dim)
    cases = (encoder, x, numpyro_peer.to_jax(x)), (decoder, z, jnp.asarray(z.numpy()))
    for network, here, there in cases:
        theirs = numpyro_peer.Sequential(network)
        found = torch.tensor(theirs(theirs.start, there).tolist()).flatten(1)  # images have one channel
        torch.testing.assert_close(found, network(here).detach().flatten(1), rtol=1e-4, atol=1e-5)


def test_numpyro_has_our_loss(numpyro_peer):
    import jax

    architecture, x, draws = ARCHITECTURES["mlp"], make_data(4), 100
    vae = peers.HandWritten(*architecture.networks())
    with torch.no_grad():
        ours = torch.stack([vae.loss(x) for _ in range(draws)])
    svi, images = numpyro_peer.make_svi(architecture), numpyro_peer.to_jax(x)
    evaluate = jax.jit(jax.vmap(lambda key: svi.evaluate(svi.init(key, images), images)))
    theirs = torch.tensor(evaluate(jax.random.split(jax.random.PRNGKey(1), draws)).tolist())
    error = float((ours.var() / draws + theirs.var() / draws).sqrt())
    assert abs(float(ours.mean() - theirs.mean())) < 4 * error
    assert error < 1e-3 * float(ours.mean())  # it could tell


def test_pythae_has_our_networks():
    if not importlib.util.find_spec("pythae"):
        pytest.skip("pythae is not installed: pip install 'ppl-vae[bench]'")
    from benchmarks import pythae_peer

    architecture, x = ARCHITECTURES["mlp"], make_data(4)
    encoder, decoder = architecture.networks()
    theirs = pythae_peer.make_vae(encoder, decoder, architecture.latent_dim)
    loc, raw = encoder(x).chunk(2, -1)
    embedded = theirs.encoder(x)
    torch.testing.assert_close(embedded.embedding, loc)
    torch.testing.assert_close((embedded.log_covariance / 2).exp(), torch.nn.functional.softplus(raw) + 1e-6)
    torch.testing.assert_close(theirs.decoder(loc).reconstruction, decoder(loc).sigmoid())
    assert decoder(loc).shape[1:] == SHAPE


@pytest.mark.parametrize("name", list(ARCHITECTURES))
def test_the_products_alone_are_those_of_a_step(name, monkeypatch):
    monkeypatch.setattr(
        "ppl_vae.compilation.rewrites.onednn_is_faster", lambda *args: False
    )  # PyTorch does not count oneDNN's
    architecture = ARCHITECTURES[name]
    products = bounds.products_of(bounds.recorded_step(architecture, make_data(3)))
    with FlopCounterMode(display=False) as counter:
        for product in products:
            product()
    assert counter.get_total_flops() == step_operations(architecture, 3)
