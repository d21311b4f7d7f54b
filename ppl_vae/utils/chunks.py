"""Work cut into chunks of one size."""


def counts(total: int, at_once: int) -> list[int]:
    """Return how many come in each chunk: all of one size but for the last.

    >>> counts(70, 20)
    [20, 20, 20, 10]
    """
    whole, rest = divmod(total, at_once)
    return [at_once] * whole + [rest] * (rest > 0)
