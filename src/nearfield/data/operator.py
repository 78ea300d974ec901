"""Sums of the vertices' values: at points, over boxes and regions, and of any matrix over the cells of the data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, final

import numpy as np
import scipy.sparse as sp
from scipy.spatial import cKDTree

from nearfield.graph.coordinate import Metric, positions

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from numpy import ndarray

    from nearfield.data.codec import Codec

__all__ = ["Average", "average", "average_rows", "matrix_rows", "point_rows"]


@final
@dataclass(frozen=True, eq=False)
class Average:
    """Averages over regions; see `average`."""

    regions: Any
    weights: Any = None


def average(regions: Any, weights: Any = None) -> Average:
    """Averages over regions, as the operator of a `nearfield.Observation`.

    Parameters
    ----------
    regions : mapping, sequence of mappings, or array
        Boxes, ``{"lat": (40, 50), "lon": (0, 10)}``, ends included (without coordinates, positions); or integers over
        the cells, a region for each number, in increasing order (negative or NaN: no region); or boolean masks, shape
        (region, *shape of the data).
    weights : array, optional
        Weight of each cell, such as its area; by default all are equal.

    Returns
    -------
    Average
        Over the cells of each region that have data.

    Examples
    --------
    >>> average([{"x": (0, 3)}, {"x": (4, 7)}]).regions[1]
    {'x': (4, 7)}
    """
    return Average(regions, weights)


def average_rows(codec: Codec, over: Average, channel: int) -> sp.csr_array:
    """Rows over the entries, a region each; a ValueError for a region without data."""
    masks = _masks(codec, over.regions)
    weights = np.ones(codec.layout.n_cells) if over.weights is None else _cells(codec, over.weights, "weights")
    if not (np.isfinite(weights[codec.present]).all() and (weights[codec.present] >= 0).all()):
        raise ValueError("weights must be finite and at least 0 at all cells with data")
    rows = masks[:, codec.present] * weights[codec.present]
    total = rows.sum(axis=1)
    if not (total > 0).all():
        raise ValueError(
            f"regions must each hold a vertex of the model, got none in region {int(np.argmin(total > 0))}: it is "
            "outside of the domain, or all land"
        )
    return _entries(codec, sp.csr_array(rows / total[:, None]), channel)


def _masks(codec: Codec, regions: Any) -> Float[ndarray, "region cell"]:
    """Cells of each region."""
    layout = codec.layout
    if isinstance(regions, Mapping):
        regions = [regions]
    if isinstance(regions, Sequence) and all(isinstance(box, Mapping) for box in regions):
        return np.stack([_box(codec, box) for box in regions]).astype(float)
    array = np.asarray(regions)
    if array.dtype == bool:
        if array.shape[1:] != layout.shape:
            raise ValueError(f"regions must be masks of shape (region, *{layout.shape}), got {array.shape}")
        return array.reshape(len(array), -1).astype(float)
    labels = _cells(codec, regions, "regions")
    numbers = np.unique(labels[labels >= 0])
    each: ndarray = (labels == numbers[:, None]).astype(float)
    return each


def _cells(codec: Codec, values: Any, name: str) -> Float[ndarray, " cell"]:
    """Values over the cells of the layout."""
    if hasattr(values, "transpose") and set(getattr(values, "dims", ())) == set(codec.layout.dims):
        values = values.transpose(*codec.layout.dims)
    array = np.asarray(values, dtype=np.float64)
    if array.shape != codec.layout.shape:
        raise ValueError(f"{name} must have the shape {codec.layout.shape} of the data, got {array.shape}")
    return array.ravel()


def _box(codec: Codec, box: Mapping[str, Any]) -> ndarray:
    layout, inside = codec.layout, np.ones(codec.layout.shape, dtype=bool)
    if unknown := set(map(str, box)) - set(layout.dims):
        raise ValueError(f"regions must be boxes of the dimensions {layout.dims}, got {sorted(unknown)}")
    for name, (low, high) in box.items():
        axis = layout.dims.index(name)
        places = _numeric(_axis(codec, name))
        within = (places >= _numeric(low)) & (places <= _numeric(high))
        inside &= within.reshape([-1 if k == axis else 1 for k in range(len(layout.dims))])
    cells: ndarray = inside.ravel()
    return cells


def matrix_rows(codec: Codec, matrix: Any) -> sp.csr_array:
    """Rows over the entries of a matrix over the cells or the vertices, channels fastest."""
    rows = sp.csr_array(matrix, dtype=np.float64)
    n, c, cells = codec.n_vertices, codec.n_channels, codec.layout.n_cells
    if not np.isfinite(rows.data).all():
        raise ValueError("operator must have finite entries")
    if rows.shape[1] == n * c:
        return rows
    if rows.shape[1] != cells * c:
        raise ValueError(
            f"operator must have a column for each vertex and channel, {n * c}, or for each cell and channel, "
            f"{cells * c}, got shape {rows.shape}"
        )
    used = np.repeat(codec.present, c)
    if rows[:, ~used].nnz:
        raise ValueError("operator must be 0 at cells without data (land): they are outside of the domain")
    return rows[:, used]


def point_rows(codec: Codec, at: Any, method: str, channel: int) -> sp.csr_array:
    """Rows over the entries, a point each: the nearest vertex, or bilinear weights."""
    if method not in ("nearest", "bilinear"):
        raise ValueError(f"operator must be 'nearest' or 'bilinear' with coordinates, got {method!r}")
    array = None if isinstance(at, Mapping) or hasattr(at, "columns") else np.asarray(at)
    if array is not None and array.ndim == 1 and array.dtype.kind in "iu":
        return _entries(codec, _at_vertices(codec, array), channel)
    names, points = _named(codec, at, array)
    if set(names) <= set(codec.layout.dims) and len(names) == len(codec.layout.dims):
        order = [names.index(dim) for dim in codec.layout.dims]
        over_cells = _on_axes(codec, points[:, order], method)
        present = over_cells[:, codec.present]
        kept = np.asarray(present.sum(axis=1))
        if (kept <= 0).any():
            raise _outside(points[int(np.argmin(kept > 0))], names, int(np.argmin(kept > 0)), "a cell without data")
        return _entries(codec, sp.csr_array(sp.diags_array(1 / kept) @ present), channel)
    if method == "bilinear":
        raise ValueError("operator must be 'nearest' for scattered vertices, got 'bilinear'")
    return _entries(codec, _scattered(codec, names, points), channel)


def _entries(codec: Codec, rows: sp.csr_array, channel: int) -> sp.csr_array:
    """Rows over vertices as rows over the entries of a channel."""
    c = codec.n_channels
    coo = rows.tocoo()
    shape = (rows.shape[0], codec.n_vertices * c)
    return sp.csr_array((coo.data, (coo.coords[0], coo.coords[1] * c + channel)), shape=shape)


def _at_vertices(codec: Codec, vertex: Int[ndarray, " point"]) -> sp.csr_array:
    wrong = (vertex < 0) | (vertex >= codec.n_vertices)
    if wrong.any():
        raise ValueError(
            f"at must be vertices 0 to {codec.n_vertices - 1}, got {vertex[wrong][0]}, which is outside of the domain"
        )
    shape = (len(vertex), codec.n_vertices)
    return sp.csr_array((np.ones(len(vertex)), (np.arange(len(vertex)), vertex)), shape=shape)


def _named(codec: Codec, at: Any, array: ndarray | None) -> tuple[list[str], Float[ndarray, "point axis"]]:
    """Names and numbers of the coordinates."""
    layout = codec.layout
    on_dim = [str(name) for name, v in layout.coords.items() if name not in layout.dims and v.ndim == 1]
    if array is not None:
        points = array[:, None] if array.ndim == 1 else array
        if points.ndim == 2 and points.shape[1] == len(layout.dims):
            return list(layout.dims), _numeric(points).reshape(points.shape)
        raise ValueError(
            f"at must be vertex numbers, or have {len(layout.dims)} coordinates ({', '.join(layout.dims)}) for each "
            f"point, got shape {array.shape}; name others in a mapping"
        )
    given = {str(name): np.atleast_1d(np.asarray(at[name])) for name in (at.columns if hasattr(at, "columns") else at)}
    dims = [name for name in layout.dims if name in given]
    names = dims if len(dims) == len(layout.dims) else [name for name in on_dim if name in given]
    if not names:
        raise ValueError(f"at must have the coordinates {list(layout.dims)}, or some of {on_dim}, got {list(given)}")
    return names, np.column_stack([_numeric(given[name]) for name in names])


def _axis(codec: Codec, dim: str) -> ndarray:
    layout = codec.layout
    if dim in layout.coords:
        return np.asarray(layout.coords[dim].values)
    return np.arange(layout.shape[layout.dims.index(dim)])


def _numeric(values: Any) -> ndarray:
    """Numbers of coordinates; dates as nanoseconds."""
    array = np.asarray(values)
    if array.dtype.kind in "MOU" and array.dtype.kind != "O":
        array = array.astype("datetime64[ns]").astype(np.int64)
    try:
        return array.astype(np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"coordinates must be numbers or dates, got {array.ravel()[0]!r}") from error


def _on_axes(codec: Codec, points: Float[ndarray, "point axis"], method: str) -> sp.csr_array:
    """Weights of cells on the product of the axes."""
    layout, n = codec.layout, len(points)
    cells, weights = np.zeros((n, 1), dtype=int), np.ones((n, 1))
    for axis, dim in enumerate(layout.dims):
        index, weight = _along(codec, dim, points[:, axis], method)
        cells = (cells[:, :, None] * layout.shape[axis] + index[:, None]).reshape(n, -1)
        weights = (weights[:, :, None] * weight[:, None]).reshape(n, -1)
    rows = np.repeat(np.arange(n), cells.shape[1])
    return sp.csr_array((weights.ravel(), (rows, cells.ravel())), shape=(n, layout.n_cells))


def _along(codec: Codec, dim: str, place: ndarray, method: str) -> tuple[ndarray, ndarray]:
    """Two neighbouring cells of each point along an axis, and their weights."""
    axis = _numeric(_axis(codec, dim))
    order = np.argsort(axis)
    axis = axis[order]
    places = codec.layout.roles()
    if "lon" in places and places["lon"][0] == dim:
        place = axis[0] + np.mod(place - axis[0], 360.0)
        lattice = codec.graph.lattice
        if lattice is not None and lattice.periodic[-1]:  # the first cell again, behind the last
            axis, order = np.append(axis, axis[0] + 360.0), np.append(order, order[0])
        else:
            place = np.where(place - axis[-1] > axis[0] + 360.0 - place, place - 360.0, place)
    if len(axis) == 1:
        return np.repeat(order[:1], len(place))[:, None], np.ones((len(place), 1))
    low, high = axis[0] - (axis[1] - axis[0]) / 2, axis[-1] + (axis[-1] - axis[-2]) / 2
    wrong = ~((place >= low) & (place <= high))
    if wrong.any():
        raise _outside(place[wrong][:1], [dim], int(np.argmax(wrong)), f"{low:g} to {high:g}")
    left = np.clip(np.searchsorted(axis, place, side="right") - 1, 0, len(axis) - 2)
    share = np.clip((place - axis[left]) / (axis[left + 1] - axis[left]), 0.0, 1.0)
    if method == "nearest":
        share = np.round(share)
    return order[np.stack([left, left + 1], axis=1)], np.stack([1 - share, share], axis=1)


def _scattered(codec: Codec, names: list[str], points: Float[ndarray, "point axis"]) -> sp.csr_array:
    """Find the nearest vertex of each point."""
    known = np.column_stack([_numeric(codec.layout.coords[name].values) for name in names])[codec.present]
    spherical = codec.graph.metric == "haversine" and len(names) == 2
    if spherical and codec.layout.roles().get("lat", ("", names[0]))[1] != names[0]:
        known, points = known[:, ::-1], points[:, ::-1]
    metric: Metric = "haversine" if spherical else "euclidean"
    tree = cKDTree(positions(known, metric))
    apart = np.max(tree.query(tree.data, min(2, len(known)))[0])
    distance, vertex = tree.query(positions(points, metric))
    if np.any(distance > apart * (1 + 1e-9)):
        first = int(np.argmax(distance > apart))
        raise _outside(points[first], names, first, "farther from the nearest vertex than any two neighbours")
    return _at_vertices(codec, np.asarray(vertex))


def _outside(point: ndarray, names: Sequence[str], number: int, domain: str) -> ValueError:
    where = ", ".join(f"{name} = {value:g}" for name, value in zip(names, point, strict=True))
    return ValueError(f"at must be in the domain of the model ({domain}), got point {number} at {where}")
