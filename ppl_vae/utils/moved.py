"""Old module paths that people's files name, and where those modules stand now.

`ppl-vae new` copied model files that import two of these, run folders keep such copies, notebooks imported the others.
"""

import importlib
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

MOVED = {
    "ppl_vae.categories": "ppl_vae.distributions.one_hot",
    "ppl_vae.figures": "ppl_vae.runs.figures",
    "ppl_vae.gaussians": "ppl_vae.distributions.gaussian",
    "ppl_vae.generate": "ppl_vae.generation.generate",
    "ppl_vae.quadrature": "ppl_vae.criticism.quadrature",
}


class Moved(MetaPathFinder, Loader):
    """Imports a module by the path that it had before."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return what imports an old path; None for any other."""
        return ModuleSpec(fullname, self) if fullname in MOVED else None

    def exec_module(self, module: ModuleType) -> None:
        """Put the module of today in the place of the one that was asked for."""
        sys.modules[module.__name__] = importlib.import_module(MOVED[module.__name__])


def find_moved() -> None:
    """Let old paths be imported; called once, by the package itself.

    >>> from ppl_vae.gaussians import GaussianMixture
    >>> GaussianMixture.__module__
    'ppl_vae.distributions.gaussian'
    """
    if not any(isinstance(finder, Moved) for finder in sys.meta_path):
        sys.meta_path.append(Moved())
