"""Speed and memory of ppl-vae beside its peers, as one table with ratios.

    python -m tests.benchmarks [--only steps,log_px] [--threads 1] [--out table.md]

Run it at the root of the repository, with nothing else running. Competitors run in turn in one process, a fraction of
a second each, round by round; "ours / theirs" is the median over rounds of the ratio within a round, "best" is of the
round that was the fastest. Several numbers in one cell belong to the several sizes that the row names.
"""

import argparse
import os
import platform
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

SECTIONS = {
    "steps": "milliseconds per SVI step, and the share of the machine's best product rate",
    "log_px": "samples of log P(x) a second",
    "epoch": "a whole MNIST epoch: what is spent outside the steps (MNIST from PPL_VAE_DATA)",
    "bf16": "matrix products in bfloat16: seconds of an epoch, and log P(x) in the end (binarized MNIST)",
    "growth": "time and memory with the data, the samples, the batch and the latent size",
    "threads": "`ppl-vae train vae` on the digits with 1, 2 and the chosen number of threads, alone and not",
    "end_to_end": "`ppl-vae train vae` on the digits, compile on and off",
}
PACKAGES = ("torch", "pyro-ppl", "jax", "numpyro", "pythae")


def read_options() -> argparse.Namespace:
    """Return what was asked for on the command line."""
    about = "\n".join(f"  {name:12}{what}" for name, what in SECTIONS.items())
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks",
        description=__doc__,
        epilog=f"sections:\n{about}\n\nPeers: pip install 'ppl-vae[bench]'.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--only", metavar="SECTIONS", help="some of the sections below, with commas between")
    parser.add_argument("--architectures", metavar="NAMES", default="mlp,gated,conv", help="of the steps: %(default)s")
    parser.add_argument("--batches", metavar="SIZES", default="20,100,512", help="of the steps: %(default)s")
    parser.add_argument("--threads", type=int, default=2, help="cores and threads for every competitor: %(default)s")
    parser.add_argument("--rounds", type=int, default=15, help="turns of each competitor: %(default)s")
    parser.add_argument("--seconds", type=float, default=0.2, help="of one turn: %(default)s")
    parser.add_argument("--quick", action="store_true", help="see that it works: few rounds, few sizes")
    parser.add_argument("--out", type=Path, metavar="FILE", help="also write the table there, after each section")
    options = parser.parse_args()
    options.only = options.only.split(",") if options.only else list(SECTIONS)
    for name in options.only:
        if name not in SECTIONS:
            parser.error(f"unknown section {name!r}: choose among {', '.join(SECTIONS)}")
    options.architectures = tuple(options.architectures.split(","))
    options.batches = tuple(map(int, options.batches.split(",")))
    if options.quick:
        options.rounds, options.seconds = min(options.rounds, 3), min(options.seconds, 0.1)
        options.architectures, options.batches = options.architectures[:1], options.batches[:1]
    return options


def hold_threads(count: int) -> None:
    """Let this process and its children have so many cores and threads, before any library makes its pool."""
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = str(count)
    os.environ["JAX_PLATFORMS"] = "cpu"
    if hasattr(os, "sched_setaffinity"):  # XLA makes a thread for each core that it may use
        cores = sorted(os.sched_getaffinity(0))
        if len(cores) < count:
            sys.exit(f"Expected {count} cores or more; got {len(cores)}. Pass --threads {len(cores)}.")
        os.sched_setaffinity(0, cores[:count])


def sections() -> dict[str, Callable[[Any], Iterator[Any]]]:
    """Return the sections by name; importing them makes the thread pools."""
    from . import bf16, end_to_end, epoch, growth, log_px, threads, training_steps

    return {
        "steps": training_steps.section,
        "log_px": log_px.section,
        "epoch": epoch.section,
        "bf16": bf16.section,
        "growth": growth.section,
        "threads": threads.section,
        "end_to_end": end_to_end.section,
    }


def machine() -> str:
    """Return the processor and the versions, in one line."""
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [line.split(":")[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
        cpu = names[0] if names else cpu
    versions = []
    for package in PACKAGES:
        try:
            versions.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            continue
    return f"{cpu}, Python {platform.python_version()}, {', '.join(versions)}"


def main() -> None:
    """Measure what was asked for and print the table."""
    options = read_options()
    hold_threads(options.threads)
    load = os.getloadavg()[0]
    found = sections()

    from .architectures import ARCHITECTURES
    from .options import Options
    from .table import Row, markdown
    from .training_steps import missing

    unknown = [name for name in options.architectures if name not in ARCHITECTURES]
    if unknown:
        sys.exit(f"Unknown architecture {unknown[0]!r}: choose among {', '.join(ARCHITECTURES)}.")
    settings = Options(options.rounds, options.seconds, options.batches, options.architectures, options.quick)
    rows: list[Row] = []

    def text() -> str:
        about = [machine(), f"{options.threads} threads; medians of {options.rounds} rounds of {options.seconds:g} s"]
        about[1] += f"; load average {load:.1f} before, {os.getloadavg()[0]:.1f} after"
        return "\n".join([f"{', '.join(about)}.", *missing(), "", markdown(rows), ""])

    for name in options.only:
        for row in found[name](settings):
            rows.append(row)
            if options.out:
                options.out.write_text(text())
    print(text())


if __name__ == "__main__":
    main()
