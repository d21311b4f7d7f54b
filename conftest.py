"""What every test and every docstring example starts from.

`pytest --seed N` draws other random numbers everywhere: in each test, in what a test seeds itself, and in what the
library seeds (`seed=0` included). Processors and versions differ in what they draw, so that a test has to hold for
any N; tests/bounds.py has limits that do. N = 0, the default, leaves the numbers as they are. Many seeds in turn:

    for n in $(seq 1 20); do pytest -q --seed $n tests/evidence; done
"""

import pyro
import pytest
import torch


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let the command line choose the random numbers."""
    parser.addoption("--seed", type=int, default=0, metavar="N", help="draw other random numbers in every test")


def pytest_configure(config: pytest.Config) -> None:
    """Shift what PyTorch is seeded by: Pyro, the library and the tests all come through this function."""
    if shift := 7919 * config.getoption("--seed"):
        plain = torch.manual_seed
        torch.manual_seed = lambda seed: plain((int(seed) + shift) % 2**63)
        config.add_cleanup(lambda: setattr(torch, "manual_seed", plain))


@pytest.fixture(autouse=True)
def _same_random_numbers() -> None:
    """Whatever ran before, a test draws the same numbers each time."""
    pyro.set_rng_seed(0)
