"""Hamiltonian Monte Carlo for many chains of many data at once, on tensors; it knows nothing of programs.

The density lies on the geometric path from a base to a target, for each of C chains x N data,

    log f_beta(u) = log base(u) + beta log ratio(u),    u in R^D,    0 <= beta <= 1.

Values and gradients of both terms are kept with the position, so that changing beta costs nothing.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

Density = Callable[[Tensor], tuple[Tensor, Tensor]]  # u [C, N, D] -> log base and log ratio, [C, N] each
Evaluate = Callable[[Tensor], "State"]  # the same with gradients

# What a program raises where it cannot be evaluated: a matrix that cannot be factorized, an invalid number.
FAILURES: tuple[type[Exception], ...] = (torch.linalg.LinAlgError, ValueError, ArithmeticError)  # type: ignore[attr-defined]
JITTER = 0.2  # step sizes vary by this share from transition to transition, so that no orbit closes on itself


class State(NamedTuple):
    """Where the chains are: u, both terms there, and their gradients."""

    position: Tensor  # [C, N, D]
    log_base: Tensor  # [C, N]
    log_ratio: Tensor  # [C, N]
    grad_base: Tensor  # [C, N, D]
    grad_ratio: Tensor  # [C, N, D]

    def log_density(self, beta: float) -> Tensor:
        """Return log f_beta, [C, N]."""
        return self.log_base + beta * self.log_ratio

    def gradient(self, beta: float) -> Tensor:
        """Return the gradient of log f_beta, [C, N, D]."""
        return self.grad_base + beta * self.grad_ratio


def with_gradients(density: Density) -> Evaluate:
    """Return what gives the state at a position: both terms and their gradients.

    >>> evaluate = with_gradients(lambda u: (-(u**2).sum(-1) / 2, u.sum(-1)))
    >>> evaluate(torch.ones(3, 2, 4)).gradient(1.0).unique().tolist()
    [0.0]
    """

    def evaluate(position: Tensor) -> State:
        with torch.enable_grad():
            u = position.detach().requires_grad_()
            log_base, log_ratio = density(u)
            grads = [torch.zeros_like(u), torch.zeros_like(u)]
            for i, term in enumerate((log_base, log_ratio)):
                if term.requires_grad:
                    (grads[i],) = torch.autograd.grad(term.sum(), u, retain_graph=i == 0, materialize_grads=True)
        return State(u.detach(), log_base.detach(), log_ratio.detach(), *grads)

    return evaluate


def transition(
    evaluate: Evaluate, state: State, beta: float, step_size: Tensor, num_leapfrog: int
) -> tuple[State, Tensor]:
    """Move every chain by one HMC transition, which leaves f_beta invariant; return the state and what was accepted.

    Step sizes are [N], the probability of acceptance [C, N]. A move to where the density is not finite is rejected, and
    so is one that comes by where the program fails: the way back comes by there, too.

    Source: Neal, MCMC using Hamiltonian dynamics, arXiv 1206.1901.
    """
    size = (step_size * (1 + JITTER * (2 * torch.rand_like(step_size) - 1)))[None, :, None]
    start = torch.randn_like(state.position)
    momentum = start + size / 2 * state.gradient(beta)
    proposed, lost = state, torch.zeros_like(state.log_base, dtype=torch.bool)
    for step in range(num_leapfrog):
        moved = torch.where(lost[..., None], state.position, proposed.position + size * momentum)
        proposed, failed = attempted(evaluate, moved, state.position)
        lost = lost | failed
        last = step == num_leapfrog - 1
        momentum = momentum + (size / 2 if last else size) * proposed.gradient(beta)
    before = state.log_density(beta) - (start**2).sum(-1) / 2
    after = proposed.log_density(beta) - (momentum**2).sum(-1) / 2
    change = torch.where(lost, -torch.inf, after - before)
    probability = torch.nan_to_num(change, nan=-torch.inf, posinf=-torch.inf).clamp(max=0.0).exp()
    accepted = torch.rand_like(probability) < probability
    both = zip(proposed, state, strict=True)
    chosen = (torch.where(accepted if new.dim() == 2 else accepted[..., None], new, old) for new, old in both)
    return State(*chosen), probability


def attempted(evaluate: Evaluate, position: Tensor, known: Tensor) -> tuple[State, Tensor]:
    """Return the state at a position, or at a known one where the program fails, and where that is, [C, N].

    A program fails on all chains and data at once: others wait until it is found who is to blame.
    """
    failed = torch.zeros(position.shape[:2], dtype=torch.bool, device=position.device)
    try:
        return evaluate(position), failed
    except FAILURES:
        evaluate(known)  # fails again, if it is not for the position

    def there(some: Tensor) -> None:
        tried = known.clone()
        tried.view(-1, tried.shape[-1])[some] = position.reshape(-1, tried.shape[-1])[some]
        evaluate(tried)

    failed.view(-1)[failing(there, torch.arange(failed.numel(), device=position.device))] = True
    return evaluate(torch.where(failed[..., None], known, position)), failed


def failing(evaluate: Callable[[Tensor], Any], rows: Tensor) -> Tensor:
    """Return which of some rows make a program fail, which is evaluated for many at once: found by halves.

    >>> failing(lambda some: torch.linalg.cholesky(torch.tensor([1.0, -1.0, 2.0])[some, None, None]), torch.arange(3))
    tensor([1])
    """
    doubtful, found = [rows], [rows[:0]]
    while doubtful:
        some = doubtful.pop()
        try:
            evaluate(some)
        except FAILURES:
            if len(some) > 1:
                doubtful += some.chunk(2)
            else:
                found.append(some)
    return torch.cat(found)
