"""Fields in a zarr store, one chunk for each field, tile and variable, which xarray opens as the fields themselves.

They are members that are drawn, or what other data become: completed by some members each, or scored.

Until all are written the store stands in a folder of its own beside its place, so that it is whole or not there. Chunks
are renamed into place by zarr: a chunk that is there is done.
"""

from __future__ import annotations

import itertools
import math
import os
import shutil
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

import numpy as np

from nearfield.data import manifest
from nearfield.data.atomic_write import require_new
from nearfield.data.codec import Codec
from nearfield.data.labelling import Blank, blank
from nearfield.graph.tiling import Box, BoxTiling

if TYPE_CHECKING:
    import xarray as xr
    from jaxtyping import Float

__all__ = ["DrawStore"]

_KIND = "store of draws"


@final
@dataclass(frozen=True, eq=False)
class DrawStore:
    """Fields that are written one by one and tile by tile, by any number of processes at once.

    Parameters
    ----------
    path : path
        The zarr store, once complete.
    codec : Codec
        Layout of the data.
    lengths : tuple of (str, int)
        Axes that number the fields, the last running fastest: the members, and samples of other data.
    variables : tuple of (str, tuple of str)
        Name and dimensions of each channel.
    tiling : BoxTiling or None
        Tiles of the graph of the codec; without, a field is one tile.

    Examples
    --------
    >>> import tempfile, xarray as xr
    >>> codec = Codec.fit(xr.DataArray(np.eye(4), dims=("sample", "x"), name="level"))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     store = DrawStore.create(Path(folder) / "new.zarr", codec, 2, key={"seed": 1})
    ...     for member, tile in store.left():
    ...         store.write(member, tile, np.full((4, 1), float(member)))
    ...     store.complete()
    ...     xr.open_zarr(store.path)["level"].values.tolist()
    [[0.0, 0.0, 0.0, 0.0], [1.0, 1.0, 1.0, 1.0]]
    """

    path: Path
    codec: Codec
    lengths: tuple[tuple[str, int], ...]
    variables: tuple[tuple[str, tuple[str, ...]], ...]
    tiling: BoxTiling | None = None

    @classmethod
    def create(
        cls,
        path: str | os.PathLike[str],
        codec: Codec,
        n_members: int | Blank,
        tiling: BoxTiling | None = None,
        *,
        key: Mapping[str, Any],
        attrs: Mapping[str, Any] | None = None,
    ) -> DrawStore:
        """Make a store, or go on with what was begun under the same key.

        Parameters
        ----------
        path, codec, tiling
            As of the class.
        n_members : int or Blank
            Members to be drawn; or fields of other axes, from `nearfield.data.labelling.blank_beside`.
        key : mapping
            Plain values that tell these fields from any others: the fingerprint of the model, the seed, the sampler.
        attrs : mapping, optional
            Attributes of members to add, such as provenance.

        Raises
        ------
        ImportError
            If zarr is not installed.
        ValueError
            If the path is taken, or other draws were begun there, or the tiles are not of the codec's dimensions.
        OSError
            If it cannot be written.
        """
        _zarr()
        fields, axes = n_members if isinstance(n_members, Blank) else blank(codec, n_members, attrs or {})
        variables = tuple((str(name), tuple(map(str, field.dims))) for name, field in fields.data_vars.items())
        draws = cls(require_new("store", path).absolute(), codec, tuple(axes.items()), variables, tiling)
        if tiling is not None and _long(tiling.lattice.shape) != _long(codec.layout.shape):
            raise ValueError(
                f"tiling must be of the dimensions of the data, {codec.layout.shape}, got {tiling.lattice.shape}"
            )
        settings = {"members": draws.n_fields, "side": None if tiling is None else tiling.side}
        manifest.claim(draws.folder, dict(key) | settings, _KIND)
        if not draws._draws.exists():
            draws._begin(fields)
        return draws

    @property
    def folder(self) -> Path:
        """Where draws are until they are complete."""
        return self.path.with_name(f"{self.path.name}.unfinished")

    @property
    def n_fields(self) -> int:
        """How many fields there are."""
        return math.prod(length for _, length in self.lengths)

    @property
    def n_tiles(self) -> int:
        """Tiles of a field."""
        return 1 if self.tiling is None else len(self.tiling)

    def write(self, number: int, tile: int, values: Float[np.ndarray, "vertex channel"]) -> None:
        """Write the vertices of a tile of a field, in the units of the data; cells without vertex become NaN.

        Raises
        ------
        OSError
            If the disk is full; the tile is then written another time.
        """
        place = self._place(tile)
        present, at = self._present[place], self._at(number)
        where = dict(zip(self.codec.layout.dims, place, strict=True)) | {d: slice(k, k + 1) for d, k in at.items()}
        for k, (name, dims) in enumerate(self.variables):
            cells = np.full(present.shape, np.nan)
            cells[present] = values[:, k]
            axes = [(*at, *self.codec.layout.dims).index(dim) for dim in dims]
            block = cells.reshape((1,) * len(at) + cells.shape).transpose(axes)
            try:
                self._array(name)[tuple(where[dim] for dim in dims)] = block
            except OSError as error:
                reason = f"could not write to {self.folder}: {error.strerror or error}; free space, and draw again"
                raise type(error)(error.errno, reason) from error

    def write_whole(self, number: int, values: Float[np.ndarray, "vertex channel"]) -> None:
        """Write all tiles of a field."""
        for tile in range(self.n_tiles):
            tiling = self.tiling
            self.write(number, tile, values if tiling is None else values[tiling.vertices(tiling.box(tile))])

    def left(self) -> list[tuple[int, int]]:
        """Fields, by their numbers, and tiles that are not written yet."""
        pairs = itertools.product(range(self.n_fields), range(self.n_tiles))
        return [pair for pair in pairs if not all(os.path.exists(file) for file in self._files(*pair))]

    def complete(self) -> None:
        """Move the store to its place, once every tile is there."""
        left = self.left()
        if left:
            raise ValueError(
                f"{self.folder} lacks {len(left)} of {self.n_fields * self.n_tiles} tiles; draw them first"
            )
        for path in self._draws.rglob("*.partial"):  # what an ended process was writing
            path.unlink()
        require_new("store", self.path)
        os.replace(self._draws, self.path)
        shutil.rmtree(self.folder, ignore_errors=True)

    def opened(self) -> xr.DataArray | xr.Dataset:
        """Open the complete store, its values unread: a Dataset if the data were one, else a DataArray."""
        import xarray

        found: xr.Dataset = xarray.open_zarr(self.path)
        return found if self.codec.container == "Dataset" else found[self.variables[0][0]]

    @property
    def _draws(self) -> Path:
        return self.folder / "draws"

    def _begin(self, template: xr.Dataset) -> None:
        """Write coordinates and attributes, and make arrays without values."""
        zarr, fresh = _zarr(), self.folder / "fresh"
        shutil.rmtree(fresh, ignore_errors=True)
        labels = template.drop_vars(list(template.data_vars))
        texts = {name: values.astype(object) for name, values in labels.variables.items() if values.dtype.kind == "U"}
        labels.assign(texts).to_zarr(fresh, consolidated=False, zarr_format=3)
        group = zarr.open_group(fresh, mode="r+")
        for name, field in template.data_vars.items():
            group.create_array(
                str(name),
                shape=field.shape,
                chunks=tuple(self._sides[str(dim)] for dim in field.dims),
                dtype=field.dtype,
                fill_value=np.nan,
                dimension_names=field.dims,
                attributes=dict(field.attrs),
            )
        with warnings.catch_warnings(action="ignore"):  # xarray asks for what version 3 of zarr does not specify yet
            zarr.consolidate_metadata(fresh)
        os.replace(fresh, self._draws)

    def _array(self, name: str) -> Any:
        array = _zarr().open_array(self._draws / name, mode="r+")
        return array.with_config({"write_empty_chunks": True})  # a chunk that is there is done

    @cached_property
    def _sides(self) -> dict[str, int]:
        """Length of a chunk along each dimension."""
        sides = dict(zip(self.codec.layout.dims, self.codec.layout.shape, strict=True))
        if self.tiling is not None:
            lengths = iter(s for s, n in zip(self.tiling.side, self.tiling.lattice.shape, strict=True) if n > 1)
            sides = {dim: next(lengths) if n > 1 else n for dim, n in sides.items()}
        return sides | {dim: 1 for dim, _ in self.lengths}

    @cached_property
    def _present(self) -> np.ndarray:
        return self.codec.present.reshape(self.codec.layout.shape)

    def _place(self, tile: int) -> tuple[slice, ...]:
        """Cells of a tile along each dimension of the data."""
        shape = self.codec.layout.shape
        if self.tiling is None:
            return tuple(slice(0, n) for n in shape)
        box: Box = self.tiling.box(tile)
        ends = zip(box.start, box.stop, self.tiling.lattice.shape, strict=True)
        long = iter(slice(start, stop) for start, stop, n in ends if n > 1)
        return tuple(next(long) if n > 1 else slice(0, 1) for n in shape)

    def _at(self, number: int) -> dict[str, int]:
        """Place of a field along each axis that numbers them."""
        places = np.unravel_index(number, tuple(length for _, length in self.lengths)) if self.lengths else ()
        return {dim: int(place) for (dim, _), place in zip(self.lengths, places, strict=True)}

    def _files(self, number: int, tile: int) -> Iterator[str]:
        """Yield the chunks of a tile: one, or two along an axis that it is the last of."""
        chunks = {
            dim: range(place.start // self._sides[dim], -(-place.stop // self._sides[dim]))
            for dim, place in zip(self.codec.layout.dims, self._place(tile), strict=True)
        } | {dim: range(place, place + 1) for dim, place in self._at(number).items()}
        for name, dims in self.variables:
            for places in itertools.product(*(chunks[dim] for dim in dims)):
                yield os.path.join(self._draws, name, "c", *map(str, places))


def _zarr() -> Any:
    try:
        import zarr
    except ImportError as error:
        raise ImportError("stores of draws need zarr: pip install 'nearfield[dask]'") from error
    return zarr


def _long(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(length for length in shape if length > 1)
