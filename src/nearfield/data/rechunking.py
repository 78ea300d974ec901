"""Chunks of whole fields, which each tile would read all of, written once as chunks of tiles."""

from __future__ import annotations

import hashlib
import json
import math
import os
import secrets
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from nearfield.data.atomic_write import replace_files
from nearfield.data.labelling import labels_digest
from nearfield.data.lazy import LazyData
from nearfield.data.source import loaded
from nearfield.data.zarr_store import open_zarr, write_zarr
from nearfield.graph.tiling import TILE, BoxTiling, Tiling

if TYPE_CHECKING:
    from nearfield.data.source import Source
    from nearfield.data.validation import Data
    from nearfield.graph import DependencyGraph

__all__ = ["chunk_advice", "rechunked"]

_BYTES = 1 << 26  # of the samples that are held at once
_OFTEN = 4.0  # readings of each chunk from which on it is worth to write them anew
_STORE, _PROGRESS = "store.zarr", "progress.json"


def chunk_advice(source: Source, tiling: Tiling) -> str | None:
    """Say how often tiles read each chunk, if that is too often.

    Examples
    --------
    >>> import dask.array
    >>> data = LazyData.of(dask.array.zeros((50, 400, 400), chunks=(1, 400, 400)))
    >>> print(chunk_advice(data.source, BoxTiling(data.graph, (100, 100))))
    reading 16 tiles reads 1.02 GB for 0.064 GB, since data is stored in chunks of 1 x 400 x 400 (sample, y, x); ...
    """
    for variable, name in zip(source.variables, source.names, strict=True):
        if variable.chunks is None:
            continue
        read = _reading({dim: variable.chunksizes[dim] for dim in source.axes if dim is not None}, source, tiling)
        if read > _OFTEN:
            chunk = " x ".join(str(max(lengths)) for lengths in variable.chunks)
            size = variable.nbytes / 1e9
            return (
                f"reading {len(tiling)} tiles reads {read * size:.3g} GB for {size:.3g} GB, since {name} is stored in "
                f"chunks of {chunk} ({', '.join(map(str, variable.dims))}); {_remedy(source, tiling)}"
            )
    return None


def _remedy(source: Source, tiling: Tiling) -> str:
    """Say what helps against readings in vain."""
    lengths = {}
    for dim, length, side in zip(source.axes, source.shape, _sides(source, tiling), strict=True):
        if dim is not None:
            lengths[dim] = np.diff([*range(0, length, side), length]).tolist()
    if not isinstance(tiling, BoxTiling) and _reading(lengths, source, tiling) > _OFTEN:
        return "number the vertices so that neighbours are close in it, and write them anew"
    return (
        "write them once as chunks of tiles, with nearfield.data.rechunking.rechunked(data, 'tiles.zarr'), and fit to "
        "what that returns"
    )


def rechunked(
    data: Data,
    path: str | os.PathLike[str],
    *,
    sample_dim: str | Sequence[str] | None = None,
    graph: DependencyGraph | None = None,
    n_cells: int = TILE,
) -> Any:
    """Write data as a zarr store whose chunks are tiles with many samples, and open it lazily.

    Samples are read once, as many at a time as take 64 MiB (three times that while they are written). The store is
    there when it is whole; called again after an interruption, the function goes on where it was.

    Parameters
    ----------
    data : DataArray, Dataset or Dask array
    path : path
        Of the new store, ending in ``.zarr``.
    sample_dim, graph
        As for `LocalizedDiffusion.fit`.
    n_cells : int
        Cells of a tile, about.

    Returns
    -------
    DataArray, Dataset or Dask array
        The same values, coordinates and attributes.

    Raises
    ------
    FileExistsError
        If there is something at the path.
    OSError
        If a chunk cannot be read, or the store not be written.

    Examples
    --------
    >>> import tempfile
    >>> field = xr.DataArray(np.zeros((6, 40, 50)), dims=("time", "y", "x")).chunk(time=1)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     rechunked(field, folder + "/tiles.zarr", n_cells=400).chunks
    ((6,), (20, 20), (20, 20, 10))
    """
    target = Path(path)
    if target.suffix != ".zarr":
        raise ValueError(f"path must end in .zarr, got {str(path)!r}")
    if target.exists():
        raise FileExistsError(f"path must be new, got {str(path)!r}; open it with xarray.open_zarr, or choose another")
    lazy = LazyData.of(data, sample_dim, graph)
    fields = _named(lazy, data)
    chunks = _chunks(lazy, Tiling.of(lazy.graph, n_cells))
    first, n = lazy.training.sample_dims[0], fields.sizes[lazy.training.sample_dims[0]]
    partial, identity = target.with_name(f".{target.name}.partial"), _identity(fields, chunks)
    for start in range(_begun(partial, identity, fields, chunks), n, chunks[first]):
        span = {first: slice(start, min(n, start + chunks[first]))}
        for name, variable in fields.data_vars.items():
            block = loaded(variable.variable.isel(span), f"variable {name!r}", {first: start})
            write_zarr(xr.Dataset({name: block}), partial / _STORE, region=span)
        _note(partial, identity, span[first].stop)
    os.replace(partial / _STORE, target)
    shutil.rmtree(partial, ignore_errors=True)
    opened = open_zarr(target)
    if isinstance(data, xr.Dataset):
        return opened
    only = opened[next(iter(fields.data_vars))]
    return only.rename(data.name) if isinstance(data, xr.DataArray) else only.data


def _reading(lengths: Mapping[str, Sequence[int]], source: Source, tiling: Tiling) -> float:
    """How often the cells are read by all tiles, with chunks of these lengths along each dimension."""
    if isinstance(tiling, BoxTiling):
        axes = [(axis, dim) for axis, dim in enumerate(source.axes) if dim is not None]
        return math.prod(_touched(lengths[dim], tiling, axis) / sum(lengths[dim]) for axis, dim in axes)
    total, sizes = 0, [np.asarray(lengths[dim]) for dim in source.axes if dim is not None]
    for tile in range(len(tiling)):
        at = np.unravel_index(tiling.cells(tiling.box(tile)), source.shape)
        chunk = [np.searchsorted(np.cumsum(size), each, side="right") for size, each in zip(sizes, at, strict=True)]
        of = np.unique(np.stack(chunk), axis=1)
        total += int(np.prod([size[each] for size, each in zip(sizes, of, strict=True)], axis=0).sum())
    return total / tiling.n_cells


def _touched(lengths: Sequence[int], tiling: BoxTiling, axis: int) -> int:
    """Cells along an axis of all chunks that tiles lie in, each as often as one does."""
    ends = np.cumsum(lengths)
    starts = ends - lengths
    side, count = tiling.side[axis], tiling.counts[axis]
    total = 0
    for at in range(count):
        stop = tiling.lattice.shape[axis] if at == count - 1 else (at + 1) * side
        total += int((ends - starts)[(starts < stop) & (ends > at * side)].sum())
    return total


def _named(lazy: LazyData, data: Data) -> xr.Dataset:
    """Variables with names, as stores want them, the coordinates in memory, and nothing of how they were stored."""
    fields = data
    if not isinstance(fields, xr.Dataset):
        (variable,) = lazy.training.variables
        fields = variable.to_dataset(name="field" if variable.name is None else variable.name)
    plain = fields.drop_encoding()
    return plain.assign_coords({name: coordinate.compute() for name, coordinate in plain.coords.items()})


def _chunks(lazy: LazyData, tiling: Tiling) -> dict[str, int]:
    """Lengths of the new chunks: a tile, and as many samples as fit."""
    source, dims = lazy.source, lazy.training.sample_dims
    chunks: dict[str, int] = {str(dim): 1 for dim in lazy.training.layout.dims}
    for dim, side in zip(source.axes, _sides(source, tiling), strict=True):
        if dim is not None:
            chunks[dim] = side
    sizes = source.variables[0].sizes
    n, others = sizes[dims[0]], {dim: sizes[dim] for dim in dims[1:]}
    row = math.prod(others.values()) * math.prod(source.shape) * max(v.dtype.itemsize for v in source.variables)
    return chunks | others | {dims[0]: math.ceil(n / max(1, math.ceil(n * row / _BYTES)))}


def _sides(source: Source, tiling: Tiling) -> tuple[int, ...]:
    """Lengths of chunks as large as a tile: those of the tiles, or vertices in sequence off lattices."""
    if isinstance(tiling, BoxTiling):
        return tiling.side
    left, sides = max(tiling.side), list[int]()
    for length in reversed(source.shape):
        sides.append(min(length, max(1, left)))
        left //= sides[-1]
    return tuple(reversed(sides))


def _begun(partial: Path, identity: str, fields: xr.Dataset, chunks: dict[str, int]) -> int:
    """Return how many samples an interrupted call has written of the same data; begin a new store if none."""
    try:
        noted = json.loads((partial / _PROGRESS).read_text())
        if noted["of"] == identity:
            return int(noted["samples"])
    except (OSError, ValueError, KeyError):
        pass
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    encoding = {
        name: {"chunks": tuple(min(chunks[str(dim)], variable.sizes[dim]) for dim in variable.dims)}
        for name, variable in fields.data_vars.items()
    }
    write_zarr(fields, partial / _STORE, compute=False, encoding=encoding, safe_chunks=False)
    _note(partial, identity, 0)
    return 0


def _note(partial: Path, identity: str, samples: int) -> None:
    replace_files({partial / _PROGRESS: json.dumps({"of": identity, "samples": samples}).encode()})


def _identity(fields: xr.Dataset, chunks: dict[str, int]) -> str:
    """Tell data apart by their labels, and by the names that Dask derives from what it reads; others are all new."""
    arrays = [v.data.name if v.chunks is not None else secrets.token_hex() for v in fields.data_vars.values()]
    said = json.dumps([labels_digest(fields), arrays, sorted(chunks.items())])
    return hashlib.blake2b(said.encode(), digest_size=16).hexdigest()
