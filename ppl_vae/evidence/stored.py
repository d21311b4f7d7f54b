"""An estimate as a netCDF file: sealed with the hash of its bytes, and looked through before it is believed.

Whoever wrote it may be a stranger: HDF5 can point to other files, and claim sizes that no memory holds.
"""

import hashlib
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from ppl_vae.errors import reason
from ppl_vae.utils.files import read_file

SEAL, HEX = b"\nppl-vae-sha256:", 64  # at the end of the file, where HDF5 does not look
MOST = 2**31  # bytes
CONTAINER = 2**16  # bytes of a file that are no numbers


def sealed(dataset: Any) -> bytes:
    """Return a dataset as the bytes of a netCDF file with their hash at the end.

    They are made in memory: HDF5 does not outlive a disk that is full.
    """
    import h5netcdf
    from xarray.backends import H5NetCDFStore

    buffer = io.BytesIO()
    with h5netcdf.File(buffer, "w") as file:
        dataset.dump_to_store(H5NetCDFStore(file))
    return with_seal(buffer.getvalue())


def with_seal(content: bytes) -> bytes:
    """Return the bytes of a file with their hash at the end."""
    return content + SEAL + hashlib.sha256(content).hexdigest().encode()


def read_netcdf(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the arrays of a file, and its attributes.

    Raises:
        OSError, ValueError: it is none, has been changed, or is not made as `Numbers.save` makes it.
    """
    import h5py
    import xarray

    content = _unsealed(read_file(path, MOST))
    with h5py.File(io.BytesIO(content), "r") as file:
        _check_layout(file, len(content))
    with xarray.open_dataset(io.BytesIO(content), engine="h5netcdf") as dataset:
        arrays = {str(name): np.asarray(values.values) for name, values in dataset.data_vars.items()}
        attrs = {str(k): v.item() if isinstance(v, np.generic) else v for k, v in dataset.attrs.items()}
    return arrays, attrs


def _unsealed(content: bytes) -> bytes:
    """Return a file without its seal, which has to be whole; older files have none."""
    body, found = content[: -len(SEAL) - HEX], content[-len(SEAL) - HEX :]
    if not found.startswith(SEAL):
        return content
    if hashlib.sha256(body).hexdigest().encode() != found[len(SEAL) :]:
        raise ValueError("a file that has been changed since")
    return body


def _check_layout(file: Any, size: int) -> None:
    """Refuse what points out of the file, and arrays that are larger than it."""
    import h5py

    total = 0
    for name in file:
        if not isinstance(file.get(name, getlink=True), h5py.HardLink):
            raise ValueError(f"{name:.40}, a link to somewhere else")
        values = file[name]
        if not isinstance(values, h5py.Dataset) or values.external or values.is_virtual:
            raise ValueError(f"{name:.40}, which is no array in the file")
        chunk = np.prod(values.chunks or (), dtype=float) * values.dtype.itemsize
        if values.dtype.kind not in "fiub" or chunk > size + CONTAINER:
            raise ValueError(f"{name:.40}, which is no array of numbers, or larger than the file")
        total += int(np.prod(values.shape, dtype=float)) * values.dtype.itemsize
    if total > size + CONTAINER:
        raise ValueError(f"arrays of {total:.2g} bytes in a file of {size:.2g}")


def _of_data(values: Any) -> Any:
    if not isinstance(values, np.ndarray) or values.ndim != 1 or values.dtype.kind not in "fiub":
        raise ValueError("expected one number for each datum")
    return values


PerDatum = Annotated[Any, AfterValidator(_of_data)]
Count = Annotated[int, Field(ge=0, le=2**63 - 1)]


class Stored(BaseModel):
    """What an estimate is made of, see `Numbers`."""

    model_config = ConfigDict(strict=True, arbitrary_types_allowed=True)

    log_px: PerDatum
    elbo: PerDatum
    mcse: PerDatum
    elbo_mcse: PerDatum
    ess: PerDatum
    diagnostics: dict[str, PerDatum]
    num_samples: Count
    proposal: Literal["guide", "refined", "laplace", "prior"]
    event_size: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    fingerprint: str
    seed: Count
    quantity: str
    scored: str
    num_levels: Count
    elbo_proposal: str
    method: Literal["auto", "importance", "ais", "sandwich", "smc", "given"]
    settings: dict[str, float | int]
    note: str = ""
    weights: str = ""


def checked(content: Mapping[str, Any]) -> None:
    """Refuse an estimate whose parts are of another kind, or of several numbers of data."""
    known = Stored.model_validate({name: content[name] for name in Stored.model_fields if name in content})
    arrays = {name: getattr(known, name) for name in ("log_px", "elbo", "mcse", "elbo_mcse", "ess")}
    sizes = {len(values) for values in (arrays | known.diagnostics).values()}
    curve, filtering = content.get("curve"), content.get("filtering")
    sizes |= set() if curve is None else {values.shape[-1] for values in (curve.bound, curve.mcse)}
    sizes |= set() if filtering is None else {values.shape[-1] for values in filtering}
    if len(sizes) > 1 or 0 in sizes:
        raise ValueError("arrays for several numbers of data")


def said_of(problem: BaseException) -> str:
    """Return what is wrong with a file, in a few words."""
    if isinstance(problem, ValidationError):
        first = problem.errors(include_url=False, include_input=False)[0]
        return f"{'.'.join(map(str, first['loc'][:2])):.60}: {first['msg']:.100}"
    return f"{getattr(problem, 'strerror', None) or reason(problem):.200}"
