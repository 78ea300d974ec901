"""Points in space and on the sphere: their checks and their neighbours.

Great-circle neighbours are found by the chord between unit vectors, which grows with the angle: the date line and the
poles need no special case.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
from scipy.spatial import cKDTree

from nearfield._checks import whole_number

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from numpy.typing import ArrayLike

__all__ = ["EARTH_RADIUS", "Metric", "checked_axes", "checked_points", "close_pairs", "nearest_pairs", "positions"]

Metric = Literal["euclidean", "haversine"]

EARTH_RADIUS = 6371.0088  # km, mean radius of the IUGG's reference ellipsoid


def positions(coordinates: Float[np.ndarray, "vertex axis"], metric: Metric) -> Float[np.ndarray, "vertex place"]:
    """Points whose straight-line distance orders as the metric does: on the sphere, unit vectors.

    Examples
    --------
    >>> import numpy as np
    >>> positions(np.array([[90.0, 12.0]]), "haversine").round(9).tolist()
    [[0.0, 0.0, 1.0]]
    """
    if metric == "euclidean":
        return coordinates
    lat, lon = np.deg2rad(coordinates).T
    return np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)], axis=1)


def nearest_pairs(coordinates: Float[np.ndarray, "vertex axis"], k: int, metric: Metric) -> Int[np.ndarray, "edge 2"]:
    """Each point with each of its k nearest others; coordinates as checked.

    Examples
    --------
    >>> import numpy as np
    >>> nearest_pairs(np.array([[0.0], [1.0], [3.0]]), 1, "euclidean").tolist()
    [[0, 1], [1, 0], [2, 1]]
    """
    k, n = whole_number("k", k, 1), len(coordinates)
    if k > n - 1:
        raise ValueError(f"k must be at most the number of other points, {n - 1}, got {k}; lower k or add points")
    points = positions(coordinates, metric)
    nearest = np.asarray(cKDTree(points).query(points, k + 1)[1])
    itself = nearest == np.arange(n)[:, None]
    itself[~itself.any(axis=1), -1] = True  # among more than k coincident points a point may miss itself
    return np.stack([np.repeat(np.arange(n), k), nearest[~itself]], axis=1)


def close_pairs(
    coordinates: Float[np.ndarray, "vertex axis"], distance: float, metric: Metric
) -> Int[np.ndarray, "edge 2"]:
    """Pairs of points at most `distance` apart (km for haversine), each once; coordinates as checked.

    Examples
    --------
    >>> import numpy as np
    >>> close_pairs(np.array([[0.0, 179.5], [0.0, -179.5]]), 112, "haversine").tolist()
    [[0, 1]]
    """
    reach = real_array("distance", distance)
    if reach.ndim or reach <= 0:
        raise ValueError(
            f"distance must be a number > 0, got {distance!r}; give it in the points' units, km on the sphere"
        )
    chord = float(reach) * (1 + 1e-9)  # points at exactly this distance must not hang on rounding
    if metric == "haversine":
        angle = chord / EARTH_RADIUS
        chord = 2 * float(np.sin(angle / 2)) if angle < np.pi else 3.0  # beyond the antipodes all points are near
    return cKDTree(positions(coordinates, metric)).query_pairs(chord, output_type="ndarray")


def real_array(name: str, values: ArrayLike) -> Float[np.ndarray, "..."]:
    """Return finite real numbers as a new float64 array, without negative zeros.

    Examples
    --------
    >>> real_array("lat", [1, 2]).tolist()
    [1.0, 2.0]
    """
    array = np.asarray(values)
    if array.dtype.kind not in "iuf":
        raise TypeError(f"{name} must be real numbers, got dtype {array.dtype}; convert to float")
    array = np.asarray(array.astype(np.float64) + 0.0)
    if not np.isfinite(array).all():
        place = tuple(int(i) for i in np.argwhere(~np.isfinite(array))[0])
        raise ValueError(f"{name} must be finite, got {array[place]} at {place}; drop or fill such entries")
    return array


def checked_points(points: ArrayLike, metric: Metric) -> Float[np.ndarray, "vertex axis"]:
    """Points as a new float64 array (vertex, axis); one number per point is one axis.

    Examples
    --------
    >>> checked_points([1, 2], "euclidean").shape
    (2, 1)
    """
    if metric not in ("euclidean", "haversine"):
        raise ValueError(f'metric must be "euclidean" or "haversine", got {metric!r}; use haversine for lat, lon')
    array = real_array("points", points)
    array = array[:, None] if array.ndim == 1 else array
    if array.ndim != 2 or 0 in array.shape:
        raise ValueError(f"points must have shape (vertex, axis), not empty, got {array.shape}; give one row per point")
    if metric == "haversine":
        if array.shape[1] != 2:
            raise ValueError(f"points must be (lat, lon) for haversine, got {array.shape[1]} columns; give two")
        _check_degrees(*array.T)
    return array


def checked_axes(lat: ArrayLike, lon: ArrayLike) -> tuple[Float[np.ndarray, " lat"], Float[np.ndarray, " lon"], bool]:
    """Axes of a grid on the sphere, as given, and whether the longitudes close.

    Examples
    --------
    >>> checked_axes([0, 10], [0, 90, 180, 270])[2]
    True
    """
    axes = []
    for name, values in (("lat", lat), ("lon", lon)):
        axis = real_array(name, values)
        if axis.ndim != 1 or axis.size == 0:
            raise ValueError(f"{name} must be 1-D and not empty, got shape {axis.shape}; pass the grid's axis")
        axes.append(axis)
    _check_degrees(*axes)
    if not _one_way(np.diff(axes[0])):
        raise ValueError(f"lat must run in one direction without repeats, got {_start(axes[0])}; sort it, drop repeats")
    steps = np.diff(axes[1])
    if not _one_way(steps):
        steps = (steps + 180) % 360 - 180  # across the date line
    span = abs(float(steps.sum()))
    if not _one_way(steps) or span > 360 - 1e-9:
        raise ValueError(
            f"lon must run in one direction and name each meridian once, got {_start(axes[1])}; "
            "sort it, drop repeats (0 and 360 are the same meridian)"
        )
    spacing = span / max(len(steps), 1)
    return axes[0], axes[1], len(steps) > 0 and abs(span + spacing - 360) <= spacing / 2


def _check_degrees(lat: Float[np.ndarray, " lat"], lon: Float[np.ndarray, " lon"]) -> None:
    """Refuse latitudes outside [-90, 90] and longitudes that span more than 360 degrees."""
    farthest = lat[np.abs(lat).argmax()]
    if abs(farthest) > 90:
        raise ValueError(f"lat must be in [-90, 90] degrees, got {farthest}; are latitude and longitude exchanged?")
    if np.ptp(lon) > 360:
        raise ValueError(
            f"lon must span at most 360 degrees, got {lon.min()} to {lon.max()}; use one origin throughout"
        )


def _one_way(steps: Float[np.ndarray, " step"]) -> bool:
    """Whether all steps go up, or all go down."""
    return bool(np.all(steps > 0) or np.all(steps < 0))


def _start(axis: Float[np.ndarray, " entry"]) -> str:
    """First entries of an axis, for messages."""
    return ", ".join(f"{value:g}" for value in axis[:4]) + (", ..." if len(axis) > 4 else "")
