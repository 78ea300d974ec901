"""Zarr stores of labelled data: written whole or not at all, opened lazily."""

from __future__ import annotations

import importlib.util
import os
import warnings
from pathlib import Path
from typing import Any

import xarray as xr

from nearfield.data.atomic_write import replace_folder

__all__ = ["open_zarr", "replace_zarr", "write_zarr"]


def open_zarr(path: str | os.PathLike[str], **options: Any) -> xr.Dataset:
    """Open a store, each of its chunks one of Dask's.

    Raises
    ------
    ModuleNotFoundError
        If zarr or Dask is not installed.
    ValueError
        If there is no zarr store at the path.
    """
    _require_extra()
    with warnings.catch_warnings():
        _pass_strings()
        try:
            opened: xr.Dataset = xr.open_zarr(path, consolidated=False, **options)
        except (ValueError, LookupError, OSError, TypeError) as error:
            if not Path(path).exists():
                raise FileNotFoundError(f"no such store: {os.fspath(path)!r}") from error
            reason = " ".join(str(error).split())
            raise ValueError(f"{os.fspath(path)} must be a zarr store that xarray can open: {reason}") from error
    return opened


def write_zarr(fields: xr.DataArray | xr.Dataset, path: str | os.PathLike[str], **options: Any) -> None:
    """Write fields as xarray does, without a file of all metadata, which only version 2 of the format knows."""
    _require_extra()
    with warnings.catch_warnings():
        _pass_strings()
        fields.to_zarr(path, consolidated=False, **options)


def replace_zarr(path: Path, fields: xr.DataArray | xr.Dataset) -> None:
    """Write a store beside its place, then move it there, in place of another store."""
    _require_extra()
    with replace_folder(path) as temporary:
        write_zarr(fields, temporary)


def _pass_strings() -> None:
    """Names of places are stored, though version 3 of the format does not say how yet."""
    warnings.filterwarnings("ignore", message="The data type", category=FutureWarning)


def _require_extra() -> None:
    absent = [name for name in ("zarr", "dask") if importlib.util.find_spec(name) is None]
    if absent:
        raise ModuleNotFoundError(
            f"zarr stores need {' and '.join(absent)}, which is not installed; pip install 'nearfield[dask]'"
        )
