"""`ppl-vae train vae` on the bundled digits, as a person runs it: whole processes, with compilation and without."""

import subprocess
import sys
import tempfile
from collections.abc import Iterator

from .options import Options, say
from .table import Row, of_times
from .timing import Competitor, in_turn

COMMAND = (sys.executable, "-m", "ppl_vae", "train", "vae")
OFF = ("--set", "fit.compile=false")


class Failed(Exception):  # noqa: N818 (nothing to handle: the row is left out)
    """The command did not end well; the message is its last line."""


def run(*options: str) -> None:
    """Train in a folder that is thrown away."""
    with tempfile.TemporaryDirectory() as folder:
        command = [*COMMAND, "--out", f"{folder}/run", *options]
        ended = subprocess.run(command, capture_output=True, text=True, check=False)
    if ended.returncode:
        raise Failed((ended.stderr.strip() or "no message").splitlines()[-1])


def section(options: Options) -> Iterator[Row]:
    """Run both in turn; the first run of a turn, which finds the files and the compiler's cache, is not timed."""
    short = ("--epochs", "1", "-k", "50") if options.quick else ()
    competitors = {"auto": Competitor(lambda: run(*short)), "off": Competitor(lambda: run(*short, *OFF))}
    try:
        for competitor in competitors.values():
            competitor.work()
        found = in_turn(competitors, 1 if options.quick else 3, seconds=0.0)
    except Failed as problem:
        say(f"the command line is left out: {problem}")
        return
    work = "seconds of `ppl-vae train vae` on the digits"
    yield of_times(work, "the same with compile off", [found["auto"]], [found["off"]], unit=1.0)
