"""The files that the command line reads and writes."""

from __future__ import annotations

import importlib.util
import io
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from zipfile import BadZipFile

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    import xarray as xr

    from nearfield.estimator import LocalizedDiffusion
    from nearfield.observation import Observation

__all__ = ["check_writable", "read", "read_for", "read_observations", "write"]

_LARGE = 1 << 26
"""Bytes of a file beyond which it is read in parts, or not at once."""


def read_for(model: LocalizedDiffusion, path: Path) -> xr.DataArray | xr.Dataset | np.ndarray:
    """Read the variables of the model."""
    return read(path, [channel.name for channel in model.codec_.channels if channel.name is not None])


def read(path: Path, variables: list[str] | None) -> xr.DataArray | xr.Dataset | np.ndarray:
    """Read a plain array, or one or several variables of a netCDF file or zarr store; large ones stay on disk."""
    if path.suffix == ".npy":
        return _read_array(path)
    if path.suffix == ".zarr":
        from nearfield.data.zarr_store import open_zarr

        dataset = open_zarr(path, decode_coords="all")
    else:
        dataset = _read_netcdf(path)
    found = ", ".join(str(name) for name in dataset.data_vars) or "none"
    if not variables and len(dataset.data_vars) != 1:
        raise ValueError(
            f"{path} must hold one variable, or --variable name one or, repeated, several; it holds: {found}"
        )
    names = variables or [str(name) for name in dataset.data_vars]
    if absent := [name for name in names if name not in dataset.data_vars]:
        raise ValueError(f"{path} has no variable {', '.join(absent)}; it holds: {found}")
    return dataset[names[0]] if len(names) == 1 else dataset[names]


def _read_array(path: Path) -> np.ndarray:
    import numpy as np

    mapping: Literal["r"] | None = "r" if path.stat().st_size > _LARGE else None
    try:
        array = np.load(path, allow_pickle=False, mmap_mode=mapping)
    except (EOFError, ValueError, BadZipFile) as error:
        raise ValueError(f"{path} must hold one array of numbers as numpy.save writes it: {error}") from error
    if not isinstance(array, np.ndarray):
        array.close()
        raise ValueError(f"{path} must hold one array as numpy.save writes it, got an archive")
    return array


def _read_netcdf(path: Path) -> xr.Dataset:
    import xarray as xr

    with path.open("rb") as file:
        magic = file.read(4)
    engine = {b"\x89HDF": "h5netcdf", b"CDF\x01": "scipy", b"CDF\x02": "scipy"}.get(magic)
    if engine is None:
        raise ValueError(f"{path} must be a netCDF file (version 3 or 4), but its first bytes are {magic!r}")
    # With decode_coords="all", bounds and grid mappings are coordinates, not variables to choose from.
    reason = ""
    for decode_times in (True, False):  # an unknown calendar is read as numbers
        try:
            dataset = xr.open_dataset(path, engine=engine, decode_coords="all", decode_times=decode_times)
            if dataset.nbytes > _LARGE and importlib.util.find_spec("dask"):
                return dataset.chunk(_chunks(dataset))
            with dataset:
                return dataset.load()
        except (ValueError, LookupError, OSError, RuntimeError) as error:  # damaged files, by engine
            reason = str(error)  # the error itself would keep the file open
    raise ValueError(f"{path} must be a complete netCDF file, but it is truncated or damaged ({reason}); copy it again")


def _chunks(dataset: xr.Dataset) -> Any:
    """Chunks to read a large file in: small where it has none, and its own otherwise."""
    contiguous = all(variable.encoding.get("contiguous", True) for variable in dataset.data_vars.values())
    return {dim: min(256, n) for dim, n in dataset.sizes.items()} if contiguous else "auto"


def check_writable(path: Path, *inputs: Path, folder: bool = False) -> None:
    """Fail before the work, rather than after it, if the result cannot be written or would replace an input.

    With `folder`, a model in tiles or its unfinished fit may be there, which the fit goes on with or refuses.
    """
    from nearfield.data import manifest
    from nearfield.data.atomic_write import require_target

    if any(path.exists() and source.exists() and path.samefile(source) for source in inputs):
        raise ValueError(f"--out must be another file than the input, got {str(path)!r} for both")
    if folder and path.is_dir():
        manifest.require(path)
    else:
        require_target("--out", path)


def write(path: Path, field: xr.DataArray | xr.Dataset | np.ndarray) -> None:
    """Write the fields completely, or leave the file unchanged."""
    import numpy as np
    import xarray as xr

    from nearfield.data.atomic_write import replace_files

    # Written in memory first, since HDF5 reports a full disk in several ways and in many lines.
    content: bytes | memoryview
    if path.suffix in (".nc", ".zarr"):
        if not isinstance(field, xr.DataArray | xr.Dataset):
            raise ValueError(f"--out must end in .npy, since the model was fitted on a plain array, got {path}")
        if path.suffix == ".zarr":
            from nearfield.data.zarr_store import replace_zarr

            replace_zarr(path, field)
            return
        content = field.to_netcdf(engine="h5netcdf")
    else:
        if isinstance(field, xr.Dataset):
            raise ValueError(f"--out must end in .nc or .zarr, since the model has several variables, got {path}")
        buffer = io.BytesIO()
        np.save(buffer, np.asarray(field))
        content = buffer.getbuffer()
    replace_files({path: content})


def read_observations(model: LocalizedDiffusion, path: Path) -> list[Observation]:
    """Read a table of values at points: coordinates, values of one variable or more, and errors.

    Values stand in a column of the name of the variable, or ``value``; errors in ``NAME_error``, or ``error``. All
    other columns are coordinates, or ``vertex``.
    """
    import pandas as pd

    from nearfield.observation import Observation

    frame = pd.read_csv(path, skipinitialspace=True)
    channels = [channel.name for channel in model.codec_.channels]
    columns: dict[str | None, str] = {name: name for name in channels if name is not None and name in frame.columns}
    if len(channels) == 1 and "value" in frame.columns:
        columns.setdefault(channels[0], "value")
    if not columns:
        known = [name for name in channels if name is not None] if len(channels) > 1 else ["value"]
        raise ValueError(f"{path} must have a column {' or '.join(known)}, got the columns {', '.join(frame.columns)}")
    errors = {name: "error" if column == "value" else f"{column}_error" for name, column in columns.items()}
    taken = [*columns.values(), *errors.values()]
    places = frame[[name for name in frame.columns if name not in taken]]
    for name in frame.columns:
        _require_numbers(path, frame[name], complete=name in places.columns)
    return [
        Observation(
            frame[column].astype(float).rename(name),
            at=places["vertex"].to_numpy() if list(places.columns) == ["vertex"] else places,
            error=frame[errors[name]].to_numpy(float) if errors[name] in frame.columns else 0.0,
        )
        for name, column in columns.items()
    ]


def _require_numbers(path: Path, column: pd.Series, *, complete: bool) -> None:
    """Refuse text, and places that are not given."""
    if column.dtype.kind not in "iuf" and not column.isna().all():
        raise ValueError(f"{path} must have numbers in column {column.name}, got {column.dropna().iloc[0]!r}")
    if complete and column.isna().any():
        raise ValueError(
            f"{path} must have a number in column {column.name} of each row, got none in {column.isna().argmax() + 2}"
        )
