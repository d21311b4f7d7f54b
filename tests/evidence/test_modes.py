"""Climbs to modes, on densities whose modes are known."""

import numpy as np
import scipy.optimize
import torch

from ppl_vae.evidence.modes import climb


def counted(density):
    """Return what evaluates a density with its gradient, and how often each row was asked for."""
    asked = {}

    def evaluate(u, rows):
        for row in rows.tolist():
            asked[row] = asked.get(row, 0) + 1
        with torch.enable_grad():
            leaf = u.detach().requires_grad_()
            value = density(leaf, rows)
            (gradient,) = torch.autograd.grad(value.sum(), leaf)
        return value.detach(), gradient

    return evaluate, asked


def test_gaussians_of_any_condition_are_climbed_to_their_means():
    torch.manual_seed(0)
    rows, size = 30, 12
    root = torch.randn(rows, size, size, dtype=torch.double) / size**0.5
    precision = root @ root.mT + torch.logspace(-1, 2, rows, dtype=torch.double)[:, None, None] * torch.eye(size)
    mean = torch.randn(rows, size, dtype=torch.double)

    def density(u, index):
        apart = u - mean[index]
        return -(apart[:, None] @ precision[index] @ apart[..., None])[:, 0, 0] / 2

    evaluate, asked = counted(density)
    found = climb(
        evaluate, torch.zeros(rows, size, dtype=torch.double), torch.ones(rows, size, dtype=torch.double), 200
    )
    assert found.reached.all()
    assert (found.log_density > -0.05).all()  # near is within a fraction of a standard deviation
    assert max(asked.values()) < 60


def test_rows_do_not_depend_on_each_other():
    def density(u, index):
        return -(((u - index[:, None].to(u)) ** 2).sum(-1) ** 1.5)

    evaluate, _ = counted(density)
    start, scale = torch.randn(6, 3), torch.ones(6, 3)
    together = climb(evaluate, start, scale, 50).position
    for row in range(6):
        alone, _ = counted(lambda u, _, row=row: density(u, torch.tensor([row])))
        one = climb(alone, start[[row]], scale[[row]], 50).position
        torch.testing.assert_close(one[0], together[row])


def test_rosenbrock_as_scipy_finds_it():
    def density(u, _):
        return -(100 * (u[:, 1] - u[:, 0] ** 2) ** 2 + (1 - u[:, 0]) ** 2)

    evaluate, _ = counted(density)
    start = torch.tensor([[-1.2, 1.0], [2.0, -1.0], [0.0, 0.0]], dtype=torch.double)
    found = climb(evaluate, start, torch.ones_like(start), 500)
    for row, x0 in enumerate(start.numpy()):
        expected = scipy.optimize.minimize(scipy.optimize.rosen, x0, method="BFGS")
        np.testing.assert_allclose(found.log_density[row], -expected.fun, atol=0.1)


def test_where_the_density_is_not_finite_nothing_moves_and_no_step_leads_there():
    def density(u, _):
        return torch.where(u[:, 0] > 0, u[:, 0].clamp(min=1e-3).log() - u[:, 0], -torch.inf * torch.ones_like(u[:, 0]))

    evaluate, _ = counted(density)
    found = climb(evaluate, torch.tensor([[-1.0], [5.0]]), torch.ones(2, 1), 100)
    assert found.position[0] == -1.0 and not found.reached[0]
    assert abs(float(found.position[1]) - 1) < 0.2


def test_a_climb_that_is_below_a_known_mode_ends_and_others_go_on():
    def density(u, _):
        return torch.logaddexp(-((u[:, 0] - 4) ** 2) / 2, -((u[:, 0] + 4) ** 2) / 2)

    def known(u, log_density, index):
        squared = (u[:, 0] - 4) ** 2
        return (squared < 4) & ((log_density + squared / 2).abs() < 0.1)

    evaluate, asked = counted(density)
    start = torch.tensor([[7.0], [-7.0], [9.0], [-9.0]])
    found = climb(evaluate, start, torch.ones(4, 1), 100, known)
    assert found.known.tolist() == [True, False, True, False]
    assert (found.reached != found.known).all()
    torch.testing.assert_close(found.position[1::2], torch.full((2, 1), -4.0), atol=0.2, rtol=0.0)
    assert max(asked[0], asked[2]) < min(asked[1], asked[3])
