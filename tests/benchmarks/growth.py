"""How time and memory grow with the data, the samples, the batch and the latent size: a process for each point.

    python -m tests.benchmarks.growth '{"kind": "fit", "num_data": 10000}'

prints one point. Memory is the highest resident one of the whole process, PyTorch's own 300 MB or so included; the
same work on a few data goes before, so that no import is timed.
"""

import json
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from .options import Options, say
from .table import Row

ROOT = Path(__file__).parents[2]
CASE_RUNS = 3  # the most that a process holds differs from one to the next; the worst counts
MOST_GB = 2.0  # of 10,000 data x K = 5,000, the whole process
SMALL = {"shape": [1, 8, 8], "hidden": 16, "latent_dim": 4}  # nets that leave a minute's work
FIT = {"kind": "fit", "num_data": 20_000, "batch_size": 128, "latent_dim": 50, "shape": [1, 28, 28], "hidden": 400}
LOG_PX = {"kind": "log_px", "num_data": 500, "num_samples": 1000, "latent_dim": 50, "shape": [1, 28, 28], "hidden": 400}
GROWTHS: tuple[tuple[str, dict[str, Any], str, tuple[int, ...]], ...] = (
    ("an epoch of fit, N", FIT, "num_data", (10_000, 20_000, 40_000, 80_000)),
    ("an epoch of fit, N = 20,000, batch", FIT, "batch_size", (20, 128, 512, 2048)),
    ("an epoch of fit, N = 20,000, size of z", FIT, "latent_dim", (2, 50, 200)),
    ("log P(x), K = 1,000, N", LOG_PX, "num_data", (125, 500, 2000)),
    ("log P(x), N = 500, K", LOG_PX, "num_samples", (100, 1000, 5000)),
    ("log P(x), N = 500, K = 1,000, size of z", LOG_PX, "latent_dim", (2, 50, 200)),
)
CASE = SMALL | {"kind": "log_px", "num_data": 10_000, "num_samples": 5_000}


def section(options: Options) -> Iterator[Row]:
    """Measure each point; what grows is held against its first point, and the memory of data against the data."""
    for title, fixed, name, values in GROWTHS:
        some = values[:2] if options.quick else values
        points = [point(fixed | {name: value}) for value in some]
        sizes = " / ".join(f"{value:,}" for value in some)
        yield _against_first(f"seconds of {title} = {sizes}", [p["seconds"] for p in points])
        yield _against_first(f"MB of the process at most, {title} = {sizes}", [p["megabytes"] for p in points])
        if name == "num_data" and fixed is FIT:
            yield _copies([p["megabytes"] for p in points], [p["data_megabytes"] for p in points], sizes)
    yield from _case(options)


def _against_first(work: str, values: list[float]) -> Row:
    nothing = [None] * len(values)
    first = values[:1] * len(values)
    ratios = [value / values[0] if values[0] else None for value in values]
    return Row(work, "the first of these", values, first, ratios, nothing, nothing, nothing)


def _copies(held: list[float], data: list[float], sizes: str) -> Row:
    """Return the row of how much more a process holds where there are more data: a ratio of 1 is one copy of them."""
    more = [value - held[0] for value in held[1:]]
    larger = [value - data[0] for value in data[1:]]
    nothing = [None] * len(more)
    ratios = [a / b for a, b in zip(more, larger, strict=True)]
    work = f"MB of the process beyond that of the first N, fit, N = {sizes}"
    return Row(work, "MB of data beyond the first N", more, larger, ratios, nothing, nothing, [1.1] * len(more))


def _case(options: Options) -> Iterator[Row]:
    """Measure the most that is promised; a small model, as what is held depends on the numbers of data and samples."""
    data, samples = (1_000, 500) if options.quick else (CASE["num_data"], CASE["num_samples"])
    found = [point(CASE | {"num_data": data, "num_samples": samples}) for _ in range(1 if options.quick else CASE_RUNS)]
    gigabytes = max(each["megabytes"] for each in found) / 1e3
    seconds = min(each["seconds"] for each in found)
    work = f"GB of the process at most, log P(x) of {data:,} data x K = {samples:,} ({seconds:.0f} s)"
    yield Row(work, f"{MOST_GB:g} GB", [gigabytes], [MOST_GB], [gigabytes / MOST_GB], [None], [None], [1.0])


def point(settings: dict[str, Any]) -> dict[str, float]:
    """Return what a process of its own finds.

    Raises:
        subprocess.CalledProcessError: it failed; its own message stands on the standard error.
    """
    say("growth:", ", ".join(f"{key}={value}" for key, value in settings.items()))
    command = [sys.executable, "-m", "tests.benchmarks.growth", json.dumps(settings)]
    ended = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, float] = json.loads(ended.stdout.splitlines()[-1])
    return found


def peak_megabytes() -> float:
    """Return the highest resident memory of this process so far, in MB of a million bytes.

    Linux hands `ru_maxrss` on from the process that started this one; the kernel's own account does not.
    """
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024 / 1e6
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def main(settings: dict[str, Any]) -> None:
    """Do one point's work, in this process."""
    import torch
    from ppl_vae.guides import MeanField
    from ppl_vae.models import VAE

    from ppl_vae import estimate_evidence, fit
    from ppl_vae.networks import MLP
    from ppl_vae.priors import StandardNormal

    from .architectures import make_data

    torch.manual_seed(0)
    network = partial(MLP, hidden=(settings["hidden"],))
    model = VAE(settings["shape"], prior=StandardNormal(settings["latent_dim"]), decoder=network)
    guide = MeanField(model, encoder=network)
    data = make_data(settings["num_data"], settings["shape"])

    def work(images: torch.Tensor, num_samples: int) -> None:
        if settings["kind"] == "fit":
            fit(model, guide, images, epochs=1, batch_size=settings["batch_size"], progress=False)
        else:
            estimate_evidence(model, guide, images, method="importance", num_samples=num_samples, progress=False)

    work(data[:64], 50)
    started = time.perf_counter()
    work(data, settings.get("num_samples", 0))
    seconds, size = time.perf_counter() - started, data.numel() * data.element_size() / 1e6
    print(json.dumps({"seconds": seconds, "megabytes": peak_megabytes(), "data_megabytes": size}))


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
