"""ppl-vae: variational autoencoders as probabilistic programs, with a log P(x) that can be trusted.

Everything public is imported when it is first used, so that the command line answers at once.
"""

import lazy_loader

from ppl_vae.utils.forks import watch_forks
from ppl_vae.utils.moved import find_moved

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
find_moved()
watch_forks()
