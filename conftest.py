"""What every test and every docstring example starts from."""

import pyro
import pytest


@pytest.fixture(autouse=True)
def _same_random_numbers() -> None:
    """Whatever ran before, a test draws the same numbers each time."""
    pyro.set_rng_seed(0)
