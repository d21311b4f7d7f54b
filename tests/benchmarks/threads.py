"""`ppl-vae train vae` on the digits with one thread, with two, and with as many as it chooses, alone and not alone."""

import contextlib
import subprocess
import sys
from collections.abc import Iterator

from .end_to_end import Failed, run
from .options import Options, say
from .table import Row, of_times
from .timing import Competitor, Times, in_turn

BUSY = (sys.executable, "-c", "while True: pass")
AIM = 1.3  # times the better of one and two
NAMES = ("auto", "1", "2")


@contextlib.contextmanager
def beside(programs: int) -> Iterator[None]:
    """Within it so many busy programs run."""
    running = [subprocess.Popen(BUSY) for _ in range(programs)]
    try:
        yield
    finally:
        for program in running:
            program.kill()
            program.wait()


def section(options: Options) -> Iterator[Row]:
    """Run all in turn, first alone and then beside one busy program."""
    short = ("-k", "50", *(("--epochs", "30") if options.quick else ()))
    competitors = {
        name: Competitor(lambda name=name: run(*short, "--threads", name), finish=lambda: None) for name in NAMES
    }
    found: list[dict[str, Times]] = []
    try:
        for programs in (0, 1):
            with beside(programs):
                found.append(in_turn(competitors, 1 if options.quick else 3, seconds=0.0))
            say(programs, "busy:", "; ".join(f"{name} {times.median:.1f} s" for name, times in found[-1].items()))
    except Failed as problem:
        say(f"threads are left out: {problem}")
        return
    work = "seconds of `ppl-vae train vae` on the digits, alone / beside a busy program"
    ours = [times["auto"] for times in found]
    for name in NAMES[1:]:
        yield of_times(work, f"the same with threads={name}", ours, [times[name] for times in found], unit=1.0)
    better = [min((times[name] for name in NAMES[1:]), key=lambda value: value.median) for times in found]
    yield of_times(work, "the better of the two", ours, better, unit=1.0, aim=[AIM, AIM])
