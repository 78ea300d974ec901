"""What dimensions and coordinates of labelled data say: where vertices lie, and which are neighbours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, final

import numpy as np
import xarray as xr

from nearfield.data.chronology import is_dated
from nearfield.data.plain import coordinate_from_state, coordinate_state, plain_coordinate
from nearfield.graph import DependencyGraph

if TYPE_CHECKING:
    from numpy import ndarray

__all__ = ["Layout"]

_UNITS = {
    f"degree{plural}{join}{name}" for plural in ("", "s") for join in ("_", "") for name in ("north", "n", "east", "e")
}


@final
@dataclass(frozen=True, eq=False)
class Layout:
    """The dimensions that are not samples, in the order of the vertices, with every coordinate along them.

    Parameters
    ----------
    dims : tuple of str
        Graph dimensions; vertices are their cells in C order.
    shape : tuple of int
        Their lengths.
    coords : dict of str to xarray.Variable
        Coordinates that do not vary with the sample, scalar ones too, made plain by `from_variable`.

    Examples
    --------
    >>> data = xr.DataArray(np.zeros((5, 3)), coords={"x": [0.0, 1.5, 3.0]}, dims=("sample", "x"))
    >>> layout = Layout.from_variable(data, ("sample",))
    >>> layout.name(1), layout.infer_graph() == DependencyGraph.chain(3)
    ('x=1.5', True)
    """

    dims: tuple[str, ...]
    shape: tuple[int, ...]
    coords: Mapping[str, xr.Variable]

    @classmethod
    def from_variable(cls, variable: xr.DataArray, sample_dims: Sequence[str]) -> Layout:
        """Read the layout of data, latitude and longitude last."""
        if odd := [dim for dim in variable.dims if not isinstance(dim, str)]:
            raise TypeError(
                f"dimensions must have strings for names, got {odd[0]!r} among {list(variable.dims)}; rename it, "
                f'e.g. data.rename({{{odd[0]!r}: "x"}})'
            )
        dims = [str(dim) for dim in variable.dims if dim not in sample_dims]
        if not dims:
            raise ValueError(
                f"data must have a dimension besides the samples {list(sample_dims)} for the graph, got dims "
                f"{variable.dims}; name the samples with sample_dim, or add a dimension with .expand_dims"
            )
        coords: dict[str, xr.Variable] = {}
        for name, coordinate in variable.coords.items():
            if set(coordinate.dims) & set(sample_dims):
                continue
            plain = plain_coordinate(coordinate.variable)
            if plain is not None:
                coords[str(name)] = plain
            elif name in dims:
                raise ValueError(
                    f"coordinate {name!r} must hold numbers, strings or dates to name vertices, got "
                    f"{type(coordinate.values.flat[0]).__name__}; replace it with .assign_coords or drop it"
                )
        layout = cls(tuple(dims), tuple(variable.sizes[dim] for dim in dims), coords)
        for dim in dims:
            layout._refuse_gaps(dim)
            layout._refuse_duplicates(dim)
        places = layout.roles()
        horizontal = [places[role][0] for role in ("lat", "lon") if role in places]
        if len(set(horizontal)) < 2:
            return layout
        dims = [dim for dim in dims if dim not in horizontal] + horizontal
        return cls(tuple(dims), tuple(variable.sizes[dim] for dim in dims), coords)

    @property
    def n_cells(self) -> int:
        """Number of cells, those without data (land) included."""
        return int(np.prod(self.shape))

    def name(self, cell: int) -> str:
        """Say where a cell lies, by its coordinates where it has any."""
        position = np.unravel_index(cell, self.shape)
        return ", ".join(
            f"{dim}={self.coords[dim].values[i]}" if dim in self.coords else f"{dim}[{i}]"
            for dim, i in zip(self.dims, position, strict=True)
        )

    def infer_graph(self) -> DependencyGraph:
        """Read the dependency graph off the dimensions and coordinates.

        Latitude and longitude make a grid that is periodic in longitude when it closes, alone or under a third
        dimension; one other dimension a chain; two or three a grid. Dimensions of length 1 do not count.
        """
        places = self.roles()
        self._refuse_stations(places)
        dims = [dim for dim, n in zip(self.dims, self.shape, strict=True) if n > 1] or [self.dims[-1]]
        lat, lon = (places[role][0] if role in places else None for role in ("lat", "lon"))
        for dim in dims:
            if dim != lon:
                self._refuse_disorder(dim)
        if len(dims) > 3:
            raise ValueError(f"a grid has 1 to 3 dimensions, got {dims}; name samples with sample_dim=[...], or select")
        sizes = dict(zip(self.dims, self.shape, strict=True))
        periodic = [False] * len(dims)
        if places:
            degrees = [
                self.coords[places[role][1]].values if role in places else np.zeros(1) for role in ("lat", "lon")
            ]
            sphere = DependencyGraph.latlon(*degrees)  # which also checks the degrees
            if set(dims) == {lat, lon}:
                return sphere
            assert sphere.lattice is not None
            periodic = [dim == lon and sphere.lattice.periodic[1] for dim in dims]
        if len(dims) == 1 and not periodic[0]:
            return DependencyGraph.chain(sizes[dims[0]])
        return DependencyGraph.grid(tuple(sizes[dim] for dim in dims), periodic=tuple(periodic))

    def extended(self, shape: tuple[int, ...]) -> Layout:
        """Lay out a larger domain; coordinates go on beyond their ends as they began."""
        if len(shape) != len(self.dims):
            raise ValueError(f"shape must have {len(self.dims)} lengths, for {list(self.dims)}, got {shape}")
        coords = {name: variable for name, variable in self.coords.items() if not variable.dims}
        for name, variable in self.coords.items():
            if variable.dims:
                numbers = variable.values if variable.ndim == 1 and variable.dtype.kind in "iuf" else np.zeros(0)
                gaps = np.diff(numbers.astype(np.float64))
                if not len(gaps) or not np.allclose(gaps, gaps[0], rtol=1e-3, atol=0):
                    raise ValueError(
                        f"coordinate {name!r} must be evenly spaced numbers to go on over a larger domain; drop it "
                        f"from the training data, e.g. data.drop_vars({name!r})"
                    )
                values = numbers[0] + gaps[0] * np.arange(shape[self.dims.index(str(variable.dims[0]))])
                if len(values) > len(numbers):
                    _refuse_beyond_globe(name, _role(name, variable), values)
                coords[name] = xr.Variable(variable.dims, values, variable.attrs)
        return Layout(self.dims, tuple(shape), coords)

    def require_same(self, variable: xr.DataArray) -> None:
        """Refuse data whose vertices are not these."""
        missing = [dim for dim in self.dims if dim not in variable.dims]
        if missing:
            raise ValueError(
                f"data must have the dimensions {list(self.dims)} of the training data, got {list(variable.dims)}, "
                f"without {missing}; rename or select accordingly"
            )
        for dim, n in zip(self.dims, self.shape, strict=True):
            if variable.sizes[dim] != n:
                raise ValueError(
                    f"{dim!r} must have length {n} as in the training data, got {variable.sizes[dim]}; select"
                )
            if dim in self.coords and dim in variable.coords:
                known, given = self.coords[dim].values, variable.coords[dim].values
                if not _same_positions(known, given):
                    raise ValueError(
                        f"coordinate {dim!r} must be that of the training data, {known[0]} to {known[-1]}, got "
                        f"{given[0]} to {given[-1]}, or others between; select, sort or interpolate the data onto it"
                    )

    def state(self) -> tuple[dict[str, Any], dict[str, ndarray]]:
        """Return a JSON-able configuration and the arrays, for `from_state`."""
        arrays: dict[str, ndarray] = {}
        described = []
        for k, (name, variable) in enumerate(self.coords.items()):
            entry, numbers = coordinate_state(variable)
            described.append({"name": name, **entry})
            if numbers is not None:
                arrays[f"coordinate{k}"] = numbers
        return {"dims": list(self.dims), "shape": list(self.shape), "coords": described}, arrays

    @classmethod
    def from_state(cls, config: Mapping[str, Any], arrays: Mapping[str, ndarray]) -> Layout:
        """Rebuild from `state`."""
        coords = {
            entry["name"]: coordinate_from_state(entry, arrays.get(f"coordinate{k}"))
            for k, entry in enumerate(config["coords"])
        }
        return cls(tuple(config["dims"]), tuple(config["shape"]), coords)

    def roles(self) -> dict[str, tuple[str, str]]:
        """Map "lat" and "lon" to (dimension, coordinate), the dimension's own coordinate before any other along it."""
        places: dict[str, tuple[str, str]] = {}
        for name in sorted(self.coords, key=lambda name: name not in self.dims):
            variable = self.coords[name]
            role = _role(name, variable)
            if role and len(variable.dims) == 1:
                places.setdefault(role, (str(variable.dims[0]), name))
        return places

    def _refuse_stations(self, places: Mapping[str, tuple[str, str]]) -> None:
        along: dict[str, str] = {str(v.dims[0]): "x" for k, v in self.coords.items() if k == "x" and v.ndim == 1}
        planar = "y" in self.coords and self.coords["y"].ndim == 1 and str(self.coords["y"].dims[0]) in along
        round_earth = len(places) == 2 and places["lat"][0] == places["lon"][0]
        if not planar and not round_earth:
            return
        names = (places["lat"][1], places["lon"][1]) if round_earth else ("x", "y")
        dim = self.coords[names[0]].dims[0]
        metric = ', metric="haversine"' if round_earth else ""
        points = f"np.column_stack([data[{names[0]!r}], data[{names[1]!r}]])"
        raise ValueError(
            f"the places along {dim!r} are scattered points (coordinates {names[0]!r} and {names[1]!r}), whose order "
            f"says nothing of distance; pass the graph, e.g. graph=DependencyGraph.knn({points}, 8{metric})"
        )

    def _refuse_gaps(self, dim: str) -> None:
        if dim not in self.coords or self.coords[dim].dtype.kind not in "fmM":
            return
        values = self.coords[dim].values
        if not (finite := np.isfinite(values)).all():
            k = int(np.argmin(finite))
            raise ValueError(
                f"coordinate {dim!r} must be finite, got {values[k]} at {dim}[{k}]; replace it with .assign_coords, or "
                f"leave such places out with data.isel({{{dim!r}: np.isfinite(data[{dim!r}].values)}})"
            )

    def _refuse_duplicates(self, dim: str) -> None:
        if dim not in self.coords:
            return
        values = self.coords[dim].values
        distinct, counts = np.unique(values, return_counts=True)
        if distinct.size < values.size:
            raise ValueError(
                f"coordinate {dim!r} must name each vertex once, got {distinct[counts > 1][0]} {counts.max()} times; "
                f'drop duplicates with data.drop_duplicates("{dim}"), or name it in sample_dim if it counts samples'
            )

    def _refuse_disorder(self, dim: str) -> None:
        if dim not in self.coords or self.shape[self.dims.index(dim)] < 2:
            return
        values = self.coords[dim].values
        if values.dtype.kind == "O" and is_dated(values):
            values = np.unique(values, return_inverse=True)[1]
        if values.dtype.kind in "UOb":
            raise ValueError(
                f"coordinate {dim!r} holds labels ({values[0]!r}, ...), which say nothing of distance; pass the graph, "
                f"e.g. graph=DependencyGraph.chain({values.size}) if their order does, or make them channels with "
                f'data.to_dataset("{dim}")'
            )
        steps = np.diff(values.astype(np.int64) if values.dtype.kind in "mM" else values.astype(np.float64))
        if not (np.all(steps > 0) or np.all(steps < 0)):
            raise ValueError(
                f"coordinate {dim!r} must increase or decrease, for neighbours in storage to be neighbours in space, "
                f'got {values[:3]}...; sort with data.sortby("{dim}")'
            )


def _role(name: str, variable: xr.Variable) -> str | None:
    """Return "lat", "lon" or None, by CF: standard_name decides, then units, then the name."""
    standard = variable.attrs.get("standard_name")
    if standard is not None:
        return {"latitude": "lat", "longitude": "lon"}.get(str(standard))
    units = str(variable.attrs.get("units", "")).lower()
    if units in _UNITS:
        return "lat" if units.endswith(("n", "north")) else "lon"
    return {"lat": "lat", "latitude": "lat", "lon": "lon", "longitude": "lon"}.get(name.lower())


def _refuse_beyond_globe(name: str, role: str | None, values: ndarray) -> None:
    """Refuse latitudes beyond a pole and longitudes that name a meridian twice, but for rounding."""
    if role is None:
        return
    rounding = 1e-3 * abs(values[1] - values[0])
    if role == "lat":
        rule, fits = "latitude must stay in [-90, 90]", np.abs(values) <= 90 + rounding
    else:
        rule, fits = "longitudes must span less than 360", np.abs(values - values[0]) < 360 - rounding
    if not fits.all():
        raise ValueError(
            f"{rule} degrees, coordinate {name!r} would go from {values[0]} to {values[-1]} in {len(values)} cells; "
            f"extend it to at most {np.count_nonzero(fits)} cells"
        )


def _same_positions(known: ndarray, given: ndarray) -> bool:
    """Whether two coordinates agree: numbers to the rounding of float32, other kinds exactly."""
    if known.dtype.kind in "iuf" and given.dtype.kind in "iuf":
        span = np.ptp(known.astype(np.float64)) or 1.0
        rounding = 4 * np.finfo(np.float32).eps * max(span, float(np.abs(known).max()))
        step = np.abs(np.diff(known.astype(np.float64))).min() if known.size > 1 else np.inf
        return bool(np.all(np.abs(known.astype(np.float64) - given.astype(np.float64)) <= min(rounding, 0.1 * step)))
    if is_dated(known) != is_dated(given):
        return False
    return bool(np.array_equal(known, given))
