"""Mixtures of Student-t distributions, held against Pyro's own."""

import math

import pyro.distributions as dist
import pytest
import torch
from bounds import check_means

from ppl_vae.evidence.student import Students, degrees


def some(num_data=3, size=4, directions=4, components=2):
    """Return random mixtures of t distributions, and Pyro's of the same."""
    torch.manual_seed(0)
    shares = torch.rand(components, num_data).log().log_softmax(0)
    scale = 0.5 + torch.rand(num_data, size)
    vectors = torch.linalg.qr(torch.randn(components, num_data, size, size))[0][..., :directions]
    roots = 0.2 + torch.rand(components, num_data, directions)
    mixture = Students(shares, torch.randn(components, num_data, size), scale, vectors, roots, 5.0)
    inner = torch.eye(size) + vectors @ ((roots**2 - 1)[..., None] * vectors.mT)
    covariance = scale[..., None] * inner * scale[..., None, :]
    students = dist.MultivariateStudentT(torch.tensor(5.0), mixture.means, torch.linalg.cholesky(covariance))
    return mixture, students, covariance


@pytest.mark.parametrize("directions", [4, 2])
def test_the_density_is_pyros(directions):
    mixture, students, _ = some(directions=directions)
    u = 3 * torch.randn(50, 3, 4)
    expected = torch.logsumexp(mixture.log_shares + students.log_prob(u[:, None]), 1)
    torch.testing.assert_close(mixture.log_prob(u), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("directions", [4, 2])
def test_draws_have_the_means_and_covariances_of_the_mixture(directions):
    mixture, _, covariance = some(directions=directions)
    draws = mixture.draw(40_000)
    shares = mixture.log_shares.exp()[..., None]
    mean = (shares * mixture.means).sum(0)
    check_means(draws.double(), mean)
    second = (shares[..., None] * (covariance * 5 / 3 + mixture.means[..., None] * mixture.means[..., None, :])).sum(0)
    found = draws[..., None] * draws[..., None, :]
    # Squares of a t with 5 degrees have no fourth moment: their means are held to a tenth.
    torch.testing.assert_close(found.mean(0), second, rtol=0.15, atol=0.15)


def test_whitening_is_undone_and_pulls_gradients_back():
    mixture, _, _ = some()
    v = torch.randn(7, 3, 4, requires_grad=True)
    u = mixture.unwhiten(v)
    torch.testing.assert_close(mixture.whiten(u), v, rtol=1e-4, atol=1e-4)
    gradient = torch.randn(7, 3, 4)
    (expected,) = torch.autograd.grad((u * gradient).sum(), v)
    torch.testing.assert_close(mixture.pull_back(gradient), expected, rtol=1e-4, atol=1e-4)


def test_a_component_that_a_datum_does_not_have_is_neither_drawn_nor_scored():
    one, two = some(components=1)[0], some(num_data=2, components=2)[0]
    both = Students.concatenated([one, two])
    assert both.num_components == 2 and both.log_shares[1, :3].tolist() == [-math.inf] * 3
    u = torch.randn(20, 5, 4)
    torch.testing.assert_close(both.log_prob(u)[:, :3], one.log_prob(u[:, :3]))
    torch.testing.assert_close(both.select(torch.tensor([3, 4])).log_prob(u[:, 3:]), two.log_prob(u[:, 3:]))
    assert torch.isfinite(both.draw(100)).all()


def test_each_component_gets_its_share_of_the_draws():
    mixture = some(size=1, directions=1)[0]
    apart = Students(
        torch.tensor([[0.25], [0.75]]).log(), torch.tensor([[[0.0]], [[1e4]]]), torch.ones(1, 1),
        torch.ones(2, 1, 1, 1), torch.ones(2, 1, 1), mixture.nu,
    )  # fmt: skip
    counts = {int((apart.draw(100) > 5e3).sum()) for _ in range(20)}
    assert counts <= {74, 75, 76}  # of one random offset: never more than one off


def test_degrees_grow_with_the_dimension():
    assert [degrees(size) for size in (1, 2, 3, 40)] == [2.0, 2.0, 3.0, 40.0]
