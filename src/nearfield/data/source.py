"""Samples that stay where they are stored, and are read region by region."""

from __future__ import annotations

import itertools
import math
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, final

import numpy as np
import xarray as xr
from xarray.backends import BackendArray
from xarray.core import indexing

from nearfield.data.chronology import time_order
from nearfield.data.missing import Declaration
from nearfield.data.validation import float_dtype
from nearfield.graph.pieces import Piece

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int
    from numpy import ndarray

    from nearfield.data.layout import Layout
    from nearfield.graph import DependencyGraph
    from nearfield.graph.tiling import Box

__all__ = ["Source", "loaded", "mapped"]

_BYTES = 1 << 26  # of one reading beside the result, at most, or one chunk
_CELLS = 1 << 12  # along an axis without chunks, of which vertices are picked


@final
@dataclass(frozen=True, eq=False)
class Source:
    """Samples of one or several variables on a graph, unread. It pickles without values where its arrays do.

    Parameters
    ----------
    variables : tuple of xarray.Variable
        The channels, without coordinates, as Dask, xarray's own lazy arrays or numpy hold them.
    sample_dims : tuple of str
        Dimensions that count samples.
    axes : tuple of str or None
        Dimension along each axis of the lattice; None for an axis of one cell that the variables do not have. Off
        lattices the dimensions of the data.
    shape : tuple of int
        Cells of the lattice along each axis, or lengths of these dimensions.
    order : ndarray of int, (sample,)
        Stored number of each sample: samples are read in the order of time where it is known.
    declarations : tuple of Declaration
        What the attributes of each variable declare missing, read as NaN.
    place : str
        Where the variables are stored, as far as it is known, for messages.
    kept : ndarray of int, (vertex,), optional
        Cell of each vertex, in C order, where a graph off lattices leaves some out.

    Examples
    --------
    >>> from nearfield.data.lazy import LazyData
    >>> from nearfield.graph.tiling import Box
    >>> source = LazyData.of(np.arange(24.0).reshape(2, 3, 4)).source
    >>> source.shape, source.n_samples, source.read(Box((1, 2), (3, 4)))[0, :, 0].tolist()
    ((3, 4), 2, [6.0, 7.0, 10.0, 11.0])
    """

    variables: tuple[xr.Variable, ...]
    sample_dims: tuple[str, ...]
    axes: tuple[str | None, ...]
    shape: tuple[int, ...]
    order: Int[ndarray, " sample"]
    declarations: tuple[Declaration, ...]
    names: tuple[str, ...]
    place: str = ""
    kept: Int[ndarray, " vertex"] | None = None

    @classmethod
    def of(
        cls, variables: Sequence[xr.DataArray], sample_dims: tuple[str, ...], layout: Layout, graph: DependencyGraph
    ) -> Source:
        """Lay variables on a graph whose vertices follow their other dimensions."""
        axes, shape = _laid(layout, graph)
        return cls(
            variables=tuple(variable.variable for variable in variables),
            sample_dims=sample_dims,
            axes=axes,
            shape=shape,
            order=time_order(variables[0], sample_dims),
            declarations=tuple(Declaration.of(variable.attrs, variable.encoding) for variable in variables),
            names=tuple("data" if v.name is None else f"variable {v.name!r}" for v in variables),
            place=str(variables[0].encoding.get("source", "")),
        )

    def at_vertices(self, present: Bool[ndarray, " cell"]) -> Source:
        """Return the source in which pieces of a graph number the vertices, which are these cells."""
        return self if present.all() else replace(self, kept=np.flatnonzero(present))

    @property
    def n_samples(self) -> int:
        """Number of samples."""
        return len(self.order)

    @property
    def n_channels(self) -> int:
        """Number of variables."""
        return len(self.variables)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Single precision if all variables are stored so, else double."""
        return np.result_type(*(float_dtype(xr.DataArray(variable)) for variable in self.variables))

    @property
    def allowed(self) -> list[tuple[float, float]]:
        """Lowest and highest valid value of each variable."""
        return [(declaration.low, declaration.high) for declaration in self.declarations]

    def read(
        self, box: Box | Piece, samples: Int[ndarray, " some"] | None = None
    ) -> Float[ndarray, "sample cell channel"]:
        """Read all samples, or some by their numbers in the order of time, of the cells in a region.

        Parameters
        ----------
        box : Box or Piece
            Boxes may lie across the ends of periodic axes.
        samples : ndarray of int, optional

        Returns
        -------
        ndarray, (sample, cell, channel)
            A new array, NaN where values are missing; cells in the order of the region.

        Raises
        ------
        OSError
            If a stored chunk cannot be read; the message names it.
        """
        wanted = self.order if samples is None else self.order[samples]
        values = np.empty((len(wanted), *box.shape, self.n_channels), dtype=self.dtype)
        for k in range(self.n_channels):
            for target, cells, picked in self._spans(k, box):
                into = values[..., k]
                for first, last in self._blocks(k, cells):
                    here = np.flatnonzero((wanted >= first) & (wanted < last))
                    if not len(here):
                        continue
                    part = self._part(k, first, last, cells)[wanted[here] - first]
                    if picked is None:
                        into[(slice(None), *target)][here] = part
                    else:
                        into[here[:, None], target] = part.reshape(len(here), -1)[:, picked]
        return values.reshape(len(wanted), box.n_cells, self.n_channels)

    def _spans(self, k: int, box: Box | Piece) -> Iterator[tuple[Any, tuple[slice, ...], ndarray | None]]:
        """Yield where cells of a region go, stored cells that hold them, and which of these they are unless all."""
        if not isinstance(box, Piece):
            spans = zip(box.start, box.stop, self.shape, strict=True)
            for runs in itertools.product(*(_runs(start, stop, length) for start, stop, length in spans)):
                yield tuple(place for place, _ in runs), tuple(cell for _, cell in runs), None
            return
        numbers = box.vertices if self.kept is None else self.kept[box.vertices]
        at = np.stack(np.unravel_index(numbers, self.shape), axis=1)
        chunk = np.stack([np.searchsorted(self._ends(k, axis), each, "right") for axis, each in enumerate(at.T)], 1)
        _, of = np.unique(chunk, axis=0, return_inverse=True)
        for target in np.split(np.argsort(of.reshape(-1), kind="stable"), np.cumsum(np.bincount(of.reshape(-1)))[:-1]):
            low, high = at[target].min(axis=0), at[target].max(axis=0) + 1
            cells = tuple(slice(*ends) for ends in np.stack([low, high], axis=1).tolist())
            yield target, cells, np.ravel_multi_index(tuple((at[target] - low).T), tuple(high - low))

    def _ends(self, k: int, axis: int) -> Int[ndarray, " chunk"]:
        """Return the ends of the chunks of a variable along an axis, or of parts to read at once where it has none."""
        variable, dim = self.variables[k], self.axes[axis]
        if variable.chunks is not None and dim is not None:
            return np.cumsum(variable.chunksizes[dim])
        return np.minimum(np.arange(_CELLS, self.shape[axis] + _CELLS, _CELLS), self.shape[axis])

    def _blocks(self, k: int, cells: tuple[slice, ...]) -> Iterator[tuple[int, int]]:
        """Divide the stored samples of a box into whole chunks of bounded size."""
        variable, each = self.variables[k], math.prod(self.variables[k].sizes[dim] for dim in self.sample_dims[1:])
        row = each * math.prod(cell.stop - cell.start for cell in cells) * variable.dtype.itemsize
        n = variable.sizes[self.sample_dims[0]]
        ends = np.arange(1, n + 1)
        if variable.chunks is not None:
            ends = np.cumsum(variable.chunksizes[self.sample_dims[0]])
        first = 0
        for end, following in itertools.zip_longest(ends.tolist(), ends[1:].tolist()):
            if following is None or (following - first) * row > _BYTES:
                yield first * each, end * each
                first = end

    def _part(self, k: int, first: int, last: int, cells: tuple[slice, ...]) -> Float[ndarray, "sample *cell"]:
        """Read stored samples of one variable in a box within the lattice."""
        each = math.prod(self.variables[k].sizes[dim] for dim in self.sample_dims[1:])
        at: dict[Any, Any] = {dim: cell for dim, cell in zip(self.axes, cells, strict=True) if dim is not None}
        at[self.sample_dims[0]] = slice(first // each, last // each)
        other = {dim: 0 for dim in self.variables[k].dims if dim not in (*at, *self.sample_dims)}
        part = self.variables[k].isel(at | other)
        found = loaded(part, self.names[k], {dim: run.start for dim, run in at.items()}, self.place)
        ordered = found.transpose(*self.sample_dims, *(dim for dim in self.axes if dim is not None)).values
        values = ordered.reshape(last - first, *(cell.stop - cell.start for cell in cells)).astype(
            self.dtype, copy=False
        )
        missing = self.declarations[k].missing(values)
        return np.where(missing, values.dtype.type(np.nan), values) if missing.any() else values


def loaded(part: xr.Variable, name: str, starts: Mapping[Hashable, int], place: str = "") -> xr.Variable:
    """Read a part of a variable, which begins there along its dimensions, in this thread.

    Raises
    ------
    OSError
        If a chunk cannot be read; the message names the first.
    """
    try:
        return part.compute(scheduler="synchronous")  # any other starts threads in each worker
    except (MemoryError, RecursionError):
        raise
    except Exception as error:  # of a codec, a file system or a scheduler: they share no class
        spans, reason = _first_failure(part, error)
        ranges = [
            f"{dim} {starts.get(dim, 0) + span.start}:{starts.get(dim, 0) + span.stop}"
            for dim, span in zip(part.dims, spans, strict=True)
        ]
        where = f" in {place}" if place else ""
        message = f"could not read {name} at {', '.join(ranges)}{where}: {reason}; write that part again"
        raise OSError(message) from error


def _first_failure(part: xr.Variable, error: Exception) -> tuple[tuple[slice, ...], str]:
    """Find the first chunk that cannot be read, and why."""
    spans = tuple(slice(0, n) for n in part.shape)
    for chunk in itertools.product(*(_spans(part.chunksizes.get(dim, (part.sizes[dim],))) for dim in part.dims)):
        try:
            part.isel(dict(zip(part.dims, chunk, strict=True))).compute(scheduler="synchronous")
        except Exception as found:
            spans, error = chunk, found
            break
    return spans, " ".join(str(error).split()) or type(error).__name__


def mapped(array: np.memmap[Any, Any]) -> Any:
    """Return an array on disk as one that xarray leaves there, and that pickles without its values."""
    root: Any = array
    while isinstance(root.base, np.memmap):
        root = root.base
    here, there = (a.__array_interface__["data"][0] for a in (array, root))
    if array.filename is None:
        raise ValueError("X must be mapped from a file by its name, got a memmap of an open file; map it by np.memmap")
    return indexing.LazilyIndexedArray(
        _Mapped(str(array.filename), root.offset + here - there, array.dtype, array.shape, array.strides)
    )


@final
class _Mapped(BackendArray):
    """A view of numbers in a file, opened anew in each process."""

    def __init__(
        self, path: str, offset: int, dtype: np.dtype[Any], shape: tuple[int, ...], strides: tuple[int, ...]
    ) -> None:
        self.path = path
        self.offset = offset
        self.dtype = dtype
        self.shape = shape
        self.strides = strides

    def __getitem__(self, key: Any) -> Any:
        return indexing.explicit_indexing_adapter(key, self.shape, indexing.IndexingSupport.BASIC, self._at)

    def _at(self, key: tuple[Any, ...]) -> ndarray:
        bytes_ = np.memmap(self.path, mode="r")
        return np.array(np.ndarray(self.shape, self.dtype, bytes_, self.offset, self.strides)[key])


def _laid(layout: Layout, graph: DependencyGraph) -> tuple[tuple[str | None, ...], tuple[int, ...]]:
    """Dimensions of the data along the axes of a lattice, or in order, and their lengths; refuse other layouts."""
    if graph.lattice is None:
        if graph.n_vertices != layout.n_cells:
            raise ValueError(
                f"graph must have a vertex for each cell of the data, {layout.dims} = {layout.shape}, got {graph!r}"
            )
        return layout.dims, layout.shape
    lattice = graph.lattice
    long = [(dim, n) for dim, n in zip(layout.dims, layout.shape, strict=True) if n > 1]
    if [n for _, n in long] != [n for n in lattice.shape if n > 1]:
        raise ValueError(
            f"data that are read in parts must have a dimension for each axis of the lattice {lattice.shape}, got "
            f"{layout.dims} = {layout.shape}; reshape them, or load them first, with data.load() or np.array(data)"
        )
    rest = iter([dim for dim, _ in long])
    return tuple(next(rest) if n > 1 else None for n in lattice.shape), lattice.shape


def _runs(start: int, stop: int, length: int) -> list[tuple[slice, slice]]:
    """Divide cells along an axis, those beyond its ends counted around it: where they go, and where they are."""
    runs, at = [], start
    while at < stop:
        cell = at % length
        step = min(stop - at, length - cell)
        runs.append((slice(at - start, at - start + step), slice(cell, cell + step)))
        at += step
    return runs


def _spans(lengths: Sequence[int]) -> list[slice]:
    ends = np.cumsum(lengths).tolist()
    return [slice(end - length, end) for end, length in zip(ends, lengths, strict=True)]
