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
"""

import csv
import io
import json
import os
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ppl_vae.errors import InputError
from ppl_vae.fitting.history import History
from ppl_vae.fitting.identity import differing, shown
from ppl_vae.utils.files import written_whole

FORMAT = 1


class RunFolder:
    """The files of one run, by what they hold; one that is missing or broken is an InputError."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    def write(self, name: str, content: bytes) -> None:
        """Write a file whole or not at all."""
        with written_whole(self / name) as temporary:
            temporary.write_bytes(content)

    def write_json(self, content: Mapping[str, Any]) -> None:
        """Write run.json."""
        self.write("run.json", (json.dumps({"format": FORMAT, **content}, indent=2) + "\n").encode())

    def read_json(self) -> dict[str, Any]:
        """Read run.json."""
        path = self / "run.json"
        try:
            content: dict[str, Any] = json.loads(path.read_text())
        except (OSError, ValueError) as problem:
            what = "no such folder" if not self.path.is_dir() else "no run.json" if not path.exists() else str(problem)
            raise InputError(
                f"Expected a run folder in {self.path}; got {what}. Make one: ppl_vae.train(out={str(self.path)!r}).",
                options=f"ppl-vae train --out {self.path}",
            ) from None
        found = content.get("format") if isinstance(content, dict) else None
        if found != FORMAT:
            raise InputError(
                f"Expected run format {FORMAT} in {path}; got {found}, from another version of ppl-vae. Use that "
                f"version, or train again into another folder."
            )
        return content

    def write_state(self, state: Mapping[str, Any]) -> None:
        """Write last.pt, then the best weights and the history, which follow from it."""
        from safetensors.torch import save

        buffer = io.BytesIO()
        torch.save(dict(state), buffer)
        self.write("last.pt", buffer.getvalue())
        for role in ("model", "guide"):
            weights = {k.removeprefix(f"{role}."): v for k, v in state["best"].items() if k.startswith(f"{role}.")}
            self.write(f"{role}.safetensors", save({k: v.contiguous().cpu() for k, v in weights.items()}))
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
        try:
            state: dict[str, Any] = torch.load(path, weights_only=True, map_location="cpu")
            held = state["settings"]
            if not {"rows", "best"} <= state.keys():
                raise KeyError("rows, best")
        except Exception as problem:  # torch.load raises half a dozen kinds for a broken file
            raise InputError(
                f"Expected {path} to hold a state to resume; got a file that cannot be read "
                f"({type(problem).__name__}). Train again into another folder."
            ) from None
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

    def read_weights(self, role: str) -> dict[str, Tensor]:
        """Read the best weights of the model or the guide."""
        from safetensors import SafetensorError
        from safetensors.torch import load

        path = self / f"{role}.safetensors"
        try:
            return load(path.read_bytes())
        except (OSError, SafetensorError) as problem:
            found = problem if path.exists() else "no such file"
            raise InputError(
                f"Expected the weights of the {role} in {path}; got {found}: the run is half-written. "
                f"Go on with it as it was begun, and resume=True.",
                options="the command that began it, and --resume",
            ) from None

    def read_history(self) -> History:
        """Read history.csv."""
        try:
            lines = (self / "history.csv").read_text().splitlines()
            return History.of([tuple(map(float, line.split(","))) for line in lines[1:]])
        except (OSError, ValueError, TypeError) as problem:
            raise InputError(f"Expected a history in {self / 'history.csv'}; got {problem}. Resume the run.") from None
