"""The run folder, written while a pair is fitted, and read again.

    run.json            what was run: programs, parts, options, data, versions, seed
    model.safetensors   the best weights of the model
    guide.safetensors   the best weights of the guide
    last.pt             all that resuming needs (tensors and numbers only)
    history.csv         ELBO over epochs
    evidence.nc         the bound check on the test split
    figures/            pictures
    model.py, guide.py  a copy of the person's own files, where they brought any

A killed run leaves every file whole; last.pt is written first, and resuming begins by writing the rest anew from it.
What a file holds is checked before it is used (`schemas`), and known again by its digest: run.json and last.pt hold
their own, the weights that of both together, so that a model and a guide of two moments are no pair.
"""

import csv
import io
import json
import math
import operator
import os
import pickletools
import re
import struct
import sys
import zipfile
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ppl_vae.errors import InputError, check_path
from ppl_vae.fitting.history import History
from ppl_vae.fitting.identity import differing, shown
from ppl_vae.fitting.schemas import FORMAT, Configuration, State, checked, digest_of_json
from ppl_vae.parts import is_of_data
from ppl_vae.utils.digests import digest_of
from ppl_vae.utils.files import opened, read_file, written_whole
from ppl_vae.utils.memory import check_memory

ROLES = ("model", "guide")
MOST_JSON, MOST_HISTORY, MOST_BESIDE = 2**22, 2**24, 2**25  # bytes of run.json, history.csv, and beside weights
PAIR = "pair"  # in the head of a file of weights: the digest of those of model and guide
PLAIN_TENSORS = re.compile(  # what a pickle of tensors and numbers is made of
    r"torch (\w+Storage|Size|device|b?float\d+|u?int\d+|bool)|torch\._utils _rebuild_(tensor_v2|parameter)|"
    r"torch\.storage (Untyped|Typed)Storage|collections (OrderedDict|Counter|defaultdict)|builtins set"
)
Shapes = dict[str, tuple[int, ...]]


class Head(NamedTuple):
    """What a file of weights says of them: their shapes by name, and the digest of the pair, "" in older files."""

    shapes: Shapes
    pair: str


class Best(NamedTuple):
    """The best weights of a run, by role and name, their digest, the history, and whether an older version wrote it."""

    weights: dict[str, dict[str, Tensor]]
    digest: str
    history: History
    is_old: bool


class RunFolder:
    """The files of one run, by what they hold; one that is missing or broken is an InputError."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        check_path("a run folder", path)
        self.path = Path(path)
        self._written = ""  # the digest of the weights that this object has written

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    def write(self, name: str, content: bytes) -> None:
        """Write a file whole or not at all."""
        with written_whole(self / name) as temporary:
            temporary.write_bytes(content)

    def write_json(self, content: Mapping[str, Any]) -> None:
        """Write run.json."""
        said = {"format": FORMAT, **content}
        self.write("run.json", (json.dumps(said | {"digest": digest_of_json(said)}, indent=2) + "\n").encode())

    def read_json(self) -> dict[str, Any]:
        """Read run.json; whether it is as it was written, `check_unchanged` says."""
        path = self / "run.json"
        try:
            content: dict[str, Any] = json.loads(read_file(path, MOST_JSON))
        except (OSError, ValueError, RecursionError) as problem:
            raise InputError(
                f"Expected a run folder in {self.path}; got {self._why_unread(path, problem)}. Make one: "
                f"ppl_vae.train(out={str(self.path)!r}).",
                options=f"ppl-vae train --out {self.path}",
            ) from None
        found = content.get("format") if isinstance(content, dict) else None
        if found != FORMAT:
            raise InputError(
                f"Expected run format {FORMAT} in {path}; got {found!s:.20}, from another version of ppl-vae. Use that "
                f"version, or train again into another folder."
            )
        checked(Configuration, content, f"a whole run.json in {self.path}")
        return content

    def _why_unread(self, path: Path, problem: Exception) -> str:
        try:
            if not self.path.is_dir():
                return "no such folder"
            if not path.exists():
                return "no run.json"
        except (OSError, ValueError):  # a name that no file can have, a folder that nobody may enter
            pass
        return getattr(problem, "strerror", None) or f"a run.json that cannot be read ({problem!s:.100})"

    @property
    def has_state(self) -> bool:
        """Whether there is a state to go on with."""
        return (self / "last.pt").exists()

    def write_state(self, state: Mapping[str, Any]) -> None:
        """Write last.pt, then the best weights, if they are others, and the history, which follow from it."""
        from safetensors.torch import save

        buffer = io.BytesIO()
        torch.save(dict(state) | {"digest": digest_of(state)}, buffer)
        self.write("last.pt", buffer.getvalue())
        weights = _by_role(state["best"])
        digest = digest_of(weights)
        if digest != self._written:
            for role in ROLES:
                self.write(f"{role}.safetensors", save(weights[role], metadata={PAIR: digest}))
            self._written = digest
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(field.name for field in fields(History))
        writer.writerows([int(row[0]), *row[1:]] for row in state["rows"])
        self.write("history.csv", text.getvalue().encode())

    def read_state(self, settings: Mapping[str, Any], resume: bool) -> dict[str, Any] | None:
        """Read last.pt, if it is there, to go on with a run of just these settings."""
        path = self / "last.pt"
        if not path.exists():
            return None
        if not resume:
            raise InputError(
                f"Expected a folder without a run; got {self.path}, which holds one. Pass resume=True to go on with "
                f"it, or choose another folder (out).",
                options="--resume, or --out DIR",
            )
        state = self._load_state(_bytes_of(settings.get("shapes", {})))
        held = state["settings"]
        asked = settings.get("shapes", {})  # older states have nothing that was taken from the data
        added = {name: shape for name, shape in asked.items() if is_of_data(name) and name not in held["shapes"]}
        held = {**held, "shapes": held["shapes"] | added}
        keys = differing(held, settings)
        if "shapes" in keys:
            raise InputError(
                f"Expected to resume the run in {self.path} with its own model and guide; got two whose parameters "
                f"have other names or shapes. Use those, or choose another folder."
            )
        if keys:
            raise InputError(
                f"Expected to resume the run in {self.path} with its own settings ({shown(held, keys)}); got "
                f"{shown(settings, keys)}. Use those, or choose another folder."
            )
        return state

    def _load_state(self, size: int) -> dict[str, Any]:
        """Return last.pt, of a pair whose weights have so many bytes, as it was written."""
        path = self / "last.pt"
        try:
            content = read_file(path, 32 * size + MOST_BESIDE)  # optimizers keep a few numbers for each
            _check_stored(content)
            state: dict[str, Any] = torch.load(io.BytesIO(content), weights_only=True, map_location="cpu")
            checked(State, state, f"{path} to hold a state")
            digest = digest_of({k: v for k, v in state.items() if k != "digest"})  # which refuses values without end
            if state.get("digest") not in (None, digest):
                raise ValueError("its digest is of other numbers")
            if not _shapes(state["weights"]) == _shapes(state["best"]) == _asked(state["settings"]["shapes"]):
                raise ValueError("parameters are missing")
            rows, best = state["rows"], state["best_epoch"]
            if best > len(rows) or state["best_score"] not in (-math.inf, best, *(row[2] for row in rows[:best][-1:])):
                raise ValueError("its best epoch is none of its epochs")
        except Exception as problem:  # torch.load raises half a dozen kinds for a broken file
            why = f"{type(problem).__name__}: {problem!s:.200}" if str(problem) else type(problem).__name__
            raise InputError(
                f"Expected {path} to hold a state to resume; got a file that cannot be read ({why}). Train again into "
                f"another folder."
            ) from None
        return state

    def head_of_weights(self, role: str) -> Head:
        """Return what the file of the best weights of the model or the guide says at its head; nothing else is read.

        The head is JSON after its length; safetensors itself opens no name that is not UTF-8.
        """
        try:
            with opened(self / f"{role}.safetensors", sys.maxsize) as file:
                (size,) = struct.unpack("<Q", file.read(8))
                head = json.loads(file.read(min(size, MOST_BESIDE)))
            said = head.pop("__metadata__", {}).get(PAIR, "")
            return Head({name: tuple(map(operator.index, tensor["shape"])) for name, tensor in head.items()}, said)
        except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError, struct.error) as problem:
            raise self._half_written(role, problem) from None

    def digest_of_weights(self) -> str:
        """Return the digest that the weights in the folder now have by their head; "" where it says none."""
        try:
            return self.head_of_weights("model").pair
        except InputError:
            return ""

    def read_best(self) -> Best:
        """Read the best weights of the model and the guide, as one pair, and the history.

        Where another process is writing, or was killed at it, the files may be of two moments: then last.pt has both.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load

        heads, weights = {role: self.head_of_weights(role) for role in ROLES}, {}
        size = 8 * sum(math.prod(shape) for head in heads.values() for shape in head.shapes.values())
        check_memory("weights", size // 4, "Train again into another folder.")
        for role in ROLES:
            try:
                weights[role] = load(read_file(self / f"{role}.safetensors", size + MOST_BESIDE))
            except (OSError, SafetensorError) as problem:
                raise self._half_written(role, problem) from None
        digest, said = digest_of(weights), {head.pair for head in heads.values()}
        if said in ({digest}, {""}):  # older ones say nothing
            return Best(weights, digest, self.read_history(), said == {""})
        try:
            state = self._load_state(size)
        except InputError as problem:
            raise self._half_written("model and guide", "files that are no pair") from problem
        weights = _by_role(state["best"])
        return Best(weights, digest_of(weights), History.of(state["rows"]), False)

    def _half_written(self, whose: str, problem: object) -> InputError:
        path = self / (f"{whose}.safetensors" if whose in ROLES else "")
        found = "no such file" if isinstance(problem, FileNotFoundError) else getattr(problem, "strerror", 0) or problem
        return InputError(
            f"Expected the weights of the {whose} in {path}; got {found!s:.200}: the run is half-written. "
            f"Go on with it as it was begun, and resume=True.",
            options="the command that began it, and --resume",
        )

    def read_history(self) -> History:
        """Read history.csv."""
        try:
            lines = read_file(self / "history.csv", MOST_HISTORY).decode().splitlines()
            rows = [tuple(map(float, line.split(","))) for line in lines[1:]]
            if {len(row) for row in rows} - {len(fields(History))}:
                raise ValueError("rows of another length")
            return History.of(rows)
        except (OSError, ValueError, TypeError) as problem:
            found = getattr(problem, "strerror", None) or f"{problem!s:.100}"
            raise InputError(f"Expected a history in {self / 'history.csv'}; got {found}. Resume the run.") from None


def check_unchanged(config: Mapping[str, Any], path: Path, *, is_new: bool) -> None:
    """Refuse a run.json that is not as it was written; only older versions wrote no digest."""
    said = config.get("digest")
    if is_new if said is None else said != digest_of_json(dict(config)):
        raise InputError(
            f"Expected {path / 'run.json'} as it was written; got one that has been changed since (its digest is "
            f"another). Put the old one back, or train again."
        )


def _by_role(best: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """Return weights as they are stored, those of the model and those of the guide."""
    return {
        role: {k.removeprefix(f"{role}."): v.contiguous().cpu() for k, v in best.items() if k.startswith(f"{role}.")}
        for role in ROLES
    }


def _shapes(tensors: Mapping[str, Tensor]) -> Shapes:
    return {name: tuple(value.shape) for name, value in tensors.items()}


def _asked(shapes: Mapping[str, Any]) -> Shapes:
    return {name: tuple(shape) for name, shape in shapes.items()}


def _bytes_of(shapes: Mapping[str, Any]) -> int:
    return 8 * sum(math.prod(shape) for shape in shapes.values())


def _check_stored(content: bytes) -> None:
    """Refuse an archive that would grow when it is read, by its packing or by what its pickle would make."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        entries = archive.infolist()
        packed = any(entry.compress_type != zipfile.ZIP_STORED for entry in entries)
        if packed or sum(entry.file_size for entry in entries) > len(content):
            raise ValueError("an archive of another kind")
        pickles = [archive.read(entry) for entry in entries if entry.filename.endswith(".pkl")]
    for pickle in pickles:
        for operation, value, _ in pickletools.genops(pickle):
            named = operation.name in ("GLOBAL", "INST", "STACK_GLOBAL")  # the last is not written by PyTorch
            if named and not PLAIN_TENSORS.fullmatch(str(value)):
                raise ValueError(f"{value!s:.60}, which is no part of a state")
