"""Placeholder."""

from typing import Any


def refine(pair: Any, args: Any, structure: Any, *, subsample: Any = None) -> Any:
    """Not yet."""
    return pair
