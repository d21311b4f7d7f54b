"""What modules are made of, seen while they are made: a program that would be too large ends at its first such part."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from torch import Tensor, nn
from torch.nn.modules import module as registration
from torch.nn.parameter import is_lazy


@contextmanager
def watched(on_tensor: Callable[[Tensor], object], on_module: Callable[[], object] = lambda: None) -> Iterator[None]:
    """Within it, hear of each parameter or buffer that this thread makes, lazy ones left out, and of each module.

    What `on_tensor` or `on_module` raises ends the making.

    >>> seen = []
    >>> with watched(seen.append):
    ...     _ = nn.Linear(3, 2)
    >>> [value.numel() for value in seen]
    [6, 2]
    """
    thread = threading.get_ident()

    def tensor(_: nn.Module, __: str, value: Tensor | None) -> None:
        if threading.get_ident() == thread and value is not None and not is_lazy(value):
            on_tensor(value)

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
