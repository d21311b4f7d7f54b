"""What modules are made of, seen while they are made: a program that would be too large ends at its first such part."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from torch import Tensor, nn
from torch.nn.modules import module as registration


@contextmanager
def watched(on_tensor: Callable[[int], object], on_module: Callable[[], object] = lambda: None) -> Iterator[None]:
    """Within it, hear how many numbers each parameter or buffer has that this thread makes, and of each module.

    What `on_tensor` or `on_module` raises ends the making.

    >>> sizes = []
    >>> with watched(sizes.append):
    ...     _ = nn.Linear(3, 2)
    >>> sizes
    [6, 2]
    """
    thread = threading.get_ident()

    def tensor(_: nn.Module, __: str, value: Tensor | None) -> None:
        if threading.get_ident() == thread:
            on_tensor(0 if value is None else value.numel())

    def module(*_: object) -> None:
        if threading.get_ident() == thread:
            on_module()

    handles = (
        registration.register_module_parameter_registration_hook(tensor),
        registration.register_module_buffer_registration_hook(tensor),
        registration.register_module_module_registration_hook(module),
    )
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
