"""What the files of a run may hold: run.json (`Configuration`) and last.pt (`State`), checked where they are read.

Whoever wrote them may be a stranger, a disk that failed, or a hand that slipped: nothing is taken from a file that has
not passed here.
"""

import hashlib
import json
from typing import Annotated, Any, Literal

import torch
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, JsonValue, ValidationError
from torch import Tensor

from ppl_vae.errors import LARGEST, InputError

FORMAT = 1
Role = Literal["model", "guide"]


def _within_64_bits(value: Any) -> Any:
    """Refuse whole numbers that PyTorch cannot hold, anywhere in plain values."""
    left = [value]
    while left:
        one = left.pop()
        if isinstance(one, int) and abs(one) > LARGEST:
            raise ValueError("a number beyond 64 bits")
        left += one.values() if isinstance(one, dict) else one if isinstance(one, list) else ()
    return value


def _dense(value: Any) -> Any:
    """Refuse tensors whose numbers are not all there: of no memory, or of one number for many places."""
    if not isinstance(value, Tensor):
        return value
    plain = value.layout == torch.strided and value.device.type == "cpu" and not value.is_quantized
    if not plain or value.numel() * value.element_size() > value.untyped_storage().nbytes():
        raise ValueError("a tensor whose numbers are not all there")
    return value.detach()


Plain = Annotated[JsonValue, AfterValidator(_within_64_bits)]
Count = Annotated[int, Field(ge=0, le=LARGEST)]
Hash = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
Dense = Annotated[Tensor, AfterValidator(_dense)]
Number = Annotated[float, Field(allow_inf_nan=True)]
Row = tuple[Number, Number, Number, Number]


class Strict(BaseModel):
    """Types are as they are written: no number is read from a string."""

    model_config = ConfigDict(strict=True, extra="allow", arbitrary_types_allowed=True, protected_namespaces=())


class Build(Strict):
    """Programs and parts by name; other kinds of parts are names, too."""

    __pydantic_extra__: dict[str, str | None]
    model: str
    guide: str | None = None
    settings: dict[str, Plain] | None = None


class DataOptions(Strict):
    """What data a run is of."""

    __pydantic_extra__: dict[str, Plain]
    name: str
    event_shape: list[Count]


class Result(Strict):
    """How a fit ended."""

    __pydantic_extra__: dict[str, Plain]
    best_epoch: Count | None = None
    stopped: str = ""
    seconds: Number = 0.0
    compiled: bool = False
    weights: Hash | None = None
    history: Hash | None = None


class Configuration(Strict):
    """run.json."""

    __pydantic_extra__: dict[str, Plain]
    format: Literal[1]
    build: Build
    data: DataOptions
    fit: dict[str, Plain] = {}
    objective: dict[str, Plain] = {}
    seed: Count
    programs: dict[Role, Hash]
    copied: list[Role]
    versions: dict[str, str] = {}
    fingerprints: dict[str, str] | None = None
    result: Result | None = None
    digest: Hash | None = None


class OptimizerState(Strict):
    """What PyTorch's optimizers give."""

    state: dict[int, dict[str, Annotated[Any, AfterValidator(_dense)]]]
    param_groups: list[dict[str, Any]]


class State(Strict):
    """last.pt."""

    weights: dict[str, Dense]
    optimizer: OptimizerState
    scheduler: dict[str, Any]
    rows: list[Row]
    best: dict[str, Dense]
    best_epoch: Count
    best_score: Number
    stale: Count
    seconds: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    compiled: bool = False
    earlier: list[tuple[Count, dict[str, Dense]]] = []
    settings: dict[str, Any]
    digest: Hash | None = None


def checked(schema: type[Strict], content: Any, what: str) -> None:
    """Refuse, in one sentence, content that is not as a schema says."""
    try:
        schema.model_validate(content)
    except ValidationError as problem:
        first = problem.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"][:4])) or "all of it"
        others = f" (and {problem.error_count() - 1} more)" if problem.error_count() > 1 else ""
        raise InputError(f"Expected {what}; got {where:.80}: {first['msg']:.120}{others}.") from None
    except RecursionError:
        raise InputError(f"Expected {what}; got values in values, too deep to be read.") from None


def digest_of_json(content: dict[str, Any]) -> str:
    """Return the digest of what a run.json says, but for the digest itself."""
    said = {key: value for key, value in content.items() if key != "digest"}
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()
