"""Parameters held fixed while something runs, and put back."""

import torch
from torch import nn

from ppl_vae.objectives.importance_weighted import Frozen


def test_shared_modules_and_shared_parameters_are_constants_within_and_themselves_afterwards():
    first, second = nn.Linear(3, 3), nn.Linear(3, 3)
    second.weight = first.weight  # one parameter in two modules
    whole = nn.Sequential(first, second, first)  # one module twice, and in another one
    modules = [whole, whole, first]
    before = [(part, dict(part.named_parameters(recurse=False))) for part in (first, second)]

    def run():
        assert not any(p.requires_grad for _, p in whole.named_parameters(remove_duplicate=False))
        return whole(torch.ones(3))

    assert not Frozen(modules).run(run).requires_grad
    for part, parameters in before:
        assert all(getattr(part, name) is parameter for name, parameter in parameters.items())
    assert whole(torch.ones(3)).requires_grad
