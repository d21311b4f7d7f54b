"""Standard output and standard error to which writing never fails, so that no result is lost for want of a reader.

A pipe is closed (`| head -1`), a disk is full (`> log`), a stream is closed from the start (`2>&-`), a name holds bytes
that are no UTF-8, or the terminal shows ASCII only: the work goes on, and the command line says so at its end.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any


class Lasting:
    """A text stream that escapes what it cannot show, and after a first failure writes to nowhere.

    Attributes:
        problem: that failure, or None.
    """

    def __init__(self, stream: Any) -> None:
        self.problem: OSError | None = None
        self._stream = stream
        self._encoding = getattr(stream, "encoding", None) or "utf-8"

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write as much as can be written."""
        shown = text.encode(self._encoding, "backslashreplace").decode(self._encoding)
        self._attempt("write", shown)
        return len(text)

    def flush(self) -> None:
        """Write what has been kept back."""
        self._attempt("flush")

    def _attempt(self, name: str, *args: str) -> None:
        if self.problem is not None:
            return
        try:
            getattr(self._stream, name)(*args)
        except OSError as problem:
            self.problem = problem
            _to_nowhere(self._stream)


def _to_nowhere(stream: Any) -> None:
    """Let what a stream still holds go nowhere: Python writes it at its end, and would fail again."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


@contextmanager
def lasting_streams() -> Iterator[tuple[Lasting, Lasting]]:
    """Let standard output and standard error be `Lasting`; one that was closed from the start is nowhere.

    The numbers 1 and 2 are then taken, so that no file of data gets what a library writes to standard error.
    """
    before = sys.stdout, sys.stderr
    with ExitStack() as opened:
        streams = [opened.enter_context(Path(os.devnull).open("w")) if one is None else one for one in before]
        out, err = (Lasting(one) for one in streams)
        sys.stdout, sys.stderr = out, err
        try:
            yield out, err
        finally:
            out.flush()
            err.flush()
            sys.stdout, sys.stderr = before
