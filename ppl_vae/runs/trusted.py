"""What is asked of a run folder before anything of it is run or made, as it may come from a stranger.

Programs that come with ppl-vae are known; a copy of somebody's own is run only where it is trusted, and only as it was
when the run was trained; nothing outside of the folder is ever run. No part may be much larger than the weights.
"""

import hashlib
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ppl_vae.errors import InputError
from ppl_vae.fitting.checkpoint import Shapes
from ppl_vae.parts import is_of_data
from ppl_vae.runs.build import MOST_SOURCE, ROLES, hash_of, names
from ppl_vae.utils.files import read_file
from ppl_vae.utils.registrations import watched

FEW, LARGEST_DATUM = 1_000_000, 16_000_000  # numbers, which are always allowed
NUMBERS, MODULES = 16, 50  # times as many numbers, and tensors or modules, as the weights have numbers and tensors


def check_programs(config: Mapping[str, Any], folder: Path, trust: bool) -> None:
    """Refuse programs that are not to be run: those of strangers, those that were changed, and all outside the folder.

    Raises:
        InputError: it names the file.
    """
    for role in ROLES:
        name, file = config["build"].get(role), folder / f"{role}.py"
        if role not in config["copied"]:
            if name is not None and name not in names(role):
                raise InputError(
                    f"Expected {folder} to be a run of a built-in {role}, or of a copy in that folder; "
                    f"got {name!s:.200}, which is never run. Put the old run.json back, or train again."
                )
            continue
        digest = _hash_of_copy(role, file)
        if not trust and digest not in {hash_of(role, known) for known in names(role)}:
            raise InputError(
                f"Expected built-in programs in {folder}; got {file}, Python code that would be run. "
                f"Read it, and if you trust who wrote it, pass trust=True.",
                options="--trust",
            )
        if digest != config["programs"].get(role):
            raise InputError(
                f"Expected {file} as it was when the run was trained; got one that has been changed since, for which "
                f"the weights are not made. Put the old file back, or train again."
            )


def _hash_of_copy(role: str, file: Path) -> str:
    try:
        return hashlib.sha256(read_file(file, MOST_SOURCE, follow=False)).hexdigest()
    except OSError as problem:
        raise InputError(
            f"Expected the {role} of the run in {file}; got: {problem.strerror or problem}. Put the file back, or "
            f"train again."
        ) from None


def check_sizes(config: Mapping[str, Any], folder: Path, shapes: Mapping[str, Shapes]) -> None:
    """Refuse a run.json with numbers that are out of proportion to the weights."""
    if config["copied"]:  # a trusted person's own, who may do as they like
        return
    settings = config["build"].get("settings") or {}
    asked = {f"build.settings.{key}": value for key, value in settings.items()}
    for name, value in (asked | {"data.event_shape": math.prod(config["data"]["event_shape"])}).items():
        most = max(LARGEST_DATUM if name.startswith("data.") else FEW, _count(shapes))
        some = value if isinstance(value, list) else [value]
        if any(isinstance(one, int | float) and abs(one) > most and math.isfinite(one) for one in some):
            raise InputError(
                f"Expected a whole run.json in {folder}; got {name} = {value!s:.40}, where the weights have "
                f"{_count(shapes)} numbers in all. Put the old one back, or train again."
            )
        if isinstance(value, str) and not value.isidentifier():  # files are read in training, and written as they are
            raise InputError(
                f"Expected a whole run.json in {folder}; got {name} = {value!r:.40}, where a word or a number stands. "
                f"Put the old one back, or train again."
            )


def check_shapes(shapes: Mapping[str, Shapes], modules: Mapping[str, nn.Module], folder: Path) -> None:
    """Refuse weights of other shapes than their programs have, or with many more numbers, before they are read."""
    beside = 0
    for role, module in modules.items():
        known = {name: tuple(value.shape) for name, value in module.state_dict().items()}
        older = {name for name in known if is_of_data(name) and name not in shapes[role]}
        wrong = [name for name, shape in known.items() if shapes[role].get(name) != shape and name not in older]
        if wrong:
            found = shapes[role].get(wrong[0], "none")
            raise InputError(
                f"Expected weights in {folder} that fit the {role}; got others ({wrong[0]} of shape {found}, not "
                f"{known[wrong[0]]}). The program has changed since: go back, or train again."
            )
        beside += sum(math.prod(shape) for name, shape in shapes[role].items() if name not in known)
    if beside > max(FEW, NUMBERS * _count(shapes) // (NUMBERS + 1)):
        raise InputError(
            f"Expected weights in {folder} that fit its programs; got {beside} numbers of which they know nothing. "
            f"Train again into another folder."
        )


@contextmanager
def no_larger_than(shapes: Mapping[str, Shapes], folder: Path, *, any_size: bool = False) -> Iterator[None]:
    """Within it modules are made that are not much larger than weights of these shapes; others end it at once."""
    if any_size:
        yield
        return
    numbers = NUMBERS * max(FEW, _count(shapes))
    tensors = MODULES * max(100, sum(map(len, shapes.values())))
    made = {"numbers": 0, "tensors": 0, "modules": 0}

    def count(what: str, number: int, most: int) -> None:
        made[what] += number
        if made[what] > most:
            raise InputError(
                f"Expected weights in {folder} that fit its programs; got programs with more than {most} {what}, and "
                f"weights of {_count(shapes)} numbers. Put the old run.json back, or train again."
            )

    def tensor(value: Tensor) -> None:
        count("numbers", value.numel(), numbers)
        count("tensors", 1, tensors)

    with watched(tensor, lambda: count("modules", 1, tensors)):
        yield


def _count(shapes: Mapping[str, Shapes]) -> int:
    return sum(math.prod(shape) for some in shapes.values() for shape in some.values())
