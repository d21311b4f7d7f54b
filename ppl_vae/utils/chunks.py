"""Work cut into runs of one size."""

from ppl_vae.utils.memory import check_memory


def run_sizes(total: int, at_once: int) -> list[int]:
    """Return how many samples, or data, each run takes: as many as the others but for the last.

    >>> run_sizes(100, 40)
    [40, 40, 20]
    """
    check_memory("samples", total)
    whole, rest = divmod(total, at_once)
    return [at_once] * whole + [rest] * (rest > 0)
