"""The update of torch.optim.Adam as one compiled function, on the optimizer's own state.

    m <- b1 m + (1 - b1) g,    v <- b2 v + (1 - b2) g^2,    p <- p - lr / (1 - b1^t) m / (sqrt(v / (1 - b2^t)) + eps)

with g + weight_decay p in the place of g. Small steps cost PyTorch's optimizer more in Python than in arithmetic.
Source: Kingma & Ba, arXiv 1412.6980.
"""

from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from ppl_vae.compilation.capture import capture

OTHERWISE = ("amsgrad", "maximize", "capturable", "differentiable", "decoupled_weight_decay")  # what Adam can be told
NOTHING, SMALLEST_EPS = 1e-30, 1e-12
NUMBERS = 8  # what changes from step to step, and what the optimizer was told


class AdamUpdate:
    """Moves the parameters of a `torch.optim.Adam` by their gradients, as its `step()` does, up to rounding.

    Args:
        optimizer: one that `suits`.

    Raises:
        CannotCapture: there is no compiler.

    >>> p, q = torch.ones(3, requires_grad=True), torch.ones(3, requires_grad=True)
    >>> optimizers = [torch.optim.Adam([x], lr=0.1, fused=True) for x in (p, q)]
    >>> for x, optimizer in zip((p, q), optimizers):
    ...     x.grad = torch.tensor([1.0, -2.0, 0.0])
    ...     optimizer.step()
    >>> optimizers[0].step()
    >>> AdamUpdate(optimizers[1])([q.grad])
    True
    >>> torch.allclose(p, q), int(optimizers[1].state[q]["step"])
    (True, 2)
    """

    def __init__(self, optimizer: Optimizer) -> None:
        self.optimizer = optimizer
        self.sizes = [len(group["params"]) for group in optimizer.param_groups]
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        if not optimizer.state:
            _make_state(optimizer, parameters)
        states = [optimizer.state[p] for p in parameters]
        self.counts = [state["step"].numpy() for state in states]  # a look at one costs PyTorch a microsecond
        self.held = [p.detach() for p in parameters]
        self.held += [state[name] for name in ("exp_avg", "exp_avg_sq") for state in states]
        self.numbers = torch.zeros(len(self.sizes), NUMBERS)
        self.written = self.numbers.numpy()
        copies = [tensor.clone() for tensor in self.held]  # it is tried on them
        gradients = [torch.zeros_like(p) for p in parameters]
        with torch.no_grad():
            self._compiled = capture(self._update, self.numbers, *gradients, *copies)

    @staticmethod
    def suits(optimizer: Optimizer) -> bool:
        """Return whether an optimizer is Adam on the CPU in single precision, without variants or hooks."""
        if type(optimizer) is not torch.optim.Adam:
            return False
        own_step = vars(optimizer).get("step")  # a scheduler of PyTorch's puts one there, which only counts
        hooks = [optimizer._optimizer_step_pre_hooks, optimizer._optimizer_step_post_hooks]
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        if not (own_step is None or hasattr(own_step, "_wrapped_by_lr_sched")) or any(hooks):
            return False
        return len(optimizer.state) in (0, len(parameters)) and all(
            not any(group.get(name) for name in OTHERWISE)
            and group["eps"] >= SMALLEST_EPS
            and all(p.device.type == "cpu" and p.dtype == torch.float32 and p.is_contiguous() for p in group["params"])
            for group in optimizer.param_groups
        )

    def __call__(self, gradients: list[Tensor]) -> bool:
        """Make a step with these gradients, in the order of the parameters; return whether it was made.

        It is not where some parameters have made more steps than others.
        """
        count = int(self.counts[0]) + 1
        if any(made != count - 1 for made in self.counts):
            return False
        for row, group in zip(self.written, self.optimizer.param_groups, strict=True):
            row[:] = _numbers(group, count)
        self._compiled(self.numbers, *gradients, *self.held)
        for made in self.counts:
            made[()] += 1
        return True

    def _update(self, numbers: Tensor, *tensors: Tensor) -> tuple[()]:
        count = len(self.counts)
        gradients, parameters, means, squares = (tensors[i * count : (i + 1) * count] for i in range(4))
        groups = [row for row, size in zip(numbers, self.sizes, strict=True) for _ in range(size)]
        for row, gradient, p, m, v in zip(groups, gradients, parameters, means, squares, strict=True):
            size, root, eps, decay, b1, b2, rest1, rest2 = row.unbind()
            g = gradient + decay * p
            new_m, new_v = _flushed(b1 * m + rest1 * g), _flushed(b2 * v + rest2 * g * g)
            new_p = p - size * new_m / (new_v.sqrt() * root + eps)
            for old, new in ((m, new_m), (v, new_v), (p, new_p)):
                old.copy_(new)
        return ()


def _flushed(x: Tensor) -> Tensor:
    """Return x with what is next to nothing as 0: a processor takes many times as long for denormal numbers.

    Where gradients vanish, m falls by b1 in each step until it is one of them; beside eps it has long been nothing.
    """
    return torch.where(x.abs() < NOTHING, 0.0, x)


def _make_state(optimizer: Optimizer, parameters: list[Tensor]) -> None:
    """Let an optimizer make its state, which it does in its first step, and leave everything else as it was."""
    before = [(p.detach().clone(), p.grad) for p in parameters]
    for p in parameters:
        p.grad = torch.zeros_like(p)
    optimizer.step()
    with torch.no_grad():
        for p, (value, gradient) in zip(parameters, before, strict=True):
            p.copy_(value)
            p.grad = gradient
            for tensor in optimizer.state[p].values():
                tensor.zero_()


def _numbers(group: dict[str, Any], count: int) -> tuple[float, ...]:
    b1, b2 = (float(beta) for beta in group["betas"])
    size, root = float(group["lr"]) / (1 - b1**count), (1 - b2**count) ** -0.5
    return size, root, group["eps"], group["weight_decay"], b1, b2, 1 - b1, 1 - b2
