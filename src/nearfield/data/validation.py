"""Validation of data: real, labelled variables, or an error that names rule, place and remedy.

All invalid values are refused here, so that the rest of the library assumes finite numbers. Plain arrays follow the
rules of scikit-learn, with its messages.
"""

from __future__ import annotations

import math
import warnings
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
import scipy.sparse
import xarray as xr

from nearfield.data.missing import declared
from nearfield.data.table import is_table, refuse_columns, refuse_table

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int
    from numpy import ndarray
    from numpy.typing import ArrayLike

    from nearfield.data.layout import Layout
    from nearfield.data.statistics import VertexStatistics
    from nearfield.graph import DependencyGraph

__all__ = [
    "Container",
    "Data",
    "as_array",
    "as_variables",
    "float_dtype",
    "refuse_constant",
    "refuse_extreme",
    "refuse_few",
    "refuse_infinite",
    "refuse_missing",
    "warn_of_correlation",
]

Data: TypeAlias = "xr.DataArray | xr.Dataset | ArrayLike"
"""Data of users; pandas DataFrames count as arrays."""

Container: TypeAlias = Literal["array", "channel array", "DataArray", "Dataset"]
"""Kind of the data: a channel array has shape (n_samples, n_vertices, n_channels)."""

FEWEST_VALUES = 5
"""Values that the law of a vertex needs where some are missing."""
_LARGEST = 1e150
"""Largest magnitude whose square is finite and whose inverse square is above 0."""

_ARRAY_DIMS = {1: ("column",), 2: ("y", "x"), 3: ("y", "x", "z")}


def as_variables(
    data: Data, graph: DependencyGraph | None = None, *, read: bool = True
) -> tuple[Container, list[xr.DataArray]]:
    """Return the kind of the data, and their labelled variables of one set of dimensions; unread, as they are stored.

    Examples
    --------
    >>> container, (variable,) = as_variables(np.zeros((5, 3, 4)))
    >>> container, variable.dims
    ('array', ('sample', 'y', 'x'))
    """
    if isinstance(data, xr.DataArray):
        return "DataArray", [_real(data, read=read)]
    if isinstance(data, xr.Dataset):
        variables = [_real(data[name], read=read) for name in data.data_vars]
        if not variables:
            raise ValueError(
                "data must have at least one variable, got an empty Dataset; pick variables with data[[...]]"
            )
        other = [str(v.name) for v in variables if set(v.dims) != set(variables[0].dims)]
        if other:
            raise ValueError(
                f"variables of a Dataset are channels and must have the same dimensions, got {variables[0].dims} for "
                f"{variables[0].name!r} but not for {other}; pick variables with data[[...]]"
            )
        return "Dataset", variables
    if is_table(data):
        refuse_table(data, graph)
    array: Any = as_array(data) if read else data
    grid = array.ndim - 1 in _ARRAY_DIMS
    if graph is not None:
        grid = graph.lattice is not None and array.shape[1:] == graph.lattice.shape
        if not grid and array.ndim == 3 and array.shape[1] == graph.n_vertices:
            stacked = xr.Variable(("sample", "vertex", "channel"), array)
            return "channel array", [xr.DataArray(stacked.isel(channel=k)) for k in range(array.shape[2])]
        if not grid and array.ndim == 2:
            return "array", [xr.DataArray(xr.Variable(("sample", "vertex"), array))]
    if not grid:
        raise ValueError(
            f"X must have shape (n_samples, n) for a chain, (n_samples, ny, nx[, nz]) for a grid, or with a graph "
            f"(n_samples, n_vertices[, n_channels]), got {array.shape} and graph={graph!r}"
        )
    return "array", [xr.DataArray(xr.Variable(("sample", *_ARRAY_DIMS[array.ndim - 1]), array))]


def as_array(data: Any) -> ndarray:
    """Return an array of real numbers by the rules of scikit-learn; NaN may pass.

    Examples
    --------
    >>> as_array([[1, 2], [3, 4]]).dtype
    dtype('float64')
    """
    if isinstance(data, np.ma.MaskedArray):
        data = np.ma.filled(data.astype(np.float64), np.nan)
    if is_table(data):
        refuse_columns(data)
    if not scipy.sparse.issparse(data):
        kind = np.asarray(data).dtype.kind
        if kind not in "iufcO":
            raise TypeError(f"X must hold real numbers, got dtype {np.asarray(data).dtype}; convert to float")
    from sklearn.utils.validation import check_array  # a second to import

    array: ndarray = check_array(
        data, dtype=(np.float64, np.float32), ensure_all_finite="allow-nan", allow_nd=True, input_name="X"
    )
    if array.size == 0:
        raise ValueError(f"X must have at least one sample and one vertex, got shape {array.shape}")
    return array


def _real(variable: xr.DataArray, *, read: bool) -> xr.DataArray:
    """Variable of float32 or float64; refuse other numbers and empty ones. Unread, it keeps its type."""
    subject = "data" if variable.name is None else f"variable {variable.name!r}"
    if variable.size == 0:
        raise ValueError(f"{subject} must have at least one sample and one vertex, got sizes {dict(variable.sizes)}")
    if variable.dtype.kind == "c":
        raise ValueError(
            f"Complex data not supported: {subject} has dtype {variable.dtype}; split it into two variables"
        )
    if variable.dtype.kind not in "iufO":
        raise TypeError(f"{subject} must hold real numbers, got dtype {variable.dtype}; convert with .astype(float)")
    if not read and variable.dtype.kind != "O":
        return variable
    try:
        real = variable.astype(float_dtype(variable), copy=False)
    except (TypeError, ValueError) as error:
        raise TypeError(f"{subject} must hold real numbers, got other objects: {error}") from error
    missing, named = declared(real.values, variable.attrs, variable.encoding)
    return real.copy(data=np.where(missing, np.nan, real.values).astype(real.dtype, copy=False)) if named else real


def float_dtype(variable: xr.DataArray) -> str:
    """Return "float32" for float32 and "float64" for the rest.

    Examples
    --------
    >>> float_dtype(xr.DataArray(np.zeros(3, dtype=int)))
    'float64'
    """
    return "float32" if variable.dtype.newbyteorder("=") == np.float32 else "float64"


def refuse_infinite(infinite: Bool[ndarray, " cell"], layout: Layout, container: Container) -> None:
    """Refuse infinite values, naming the vertex."""
    if infinite.any():
        raise ValueError(
            f"{_subject(container)} contains infinity at {infinite.sum()} vertices, first "
            f"{layout.name(int(infinite.argmax()))}; replace it, or set those vertices to NaN in every sample to leave "
            "them out"
        )


def refuse_extreme(found: VertexStatistics, layout: Layout, container: Container) -> None:
    """Refuse values whose squares overflow or vanish, naming the vertex."""
    largest = found.largest
    wrong = found.present & ((largest > _LARGEST) | ((largest > 0) & (largest < 1 / _LARGEST)))
    if wrong.any():
        first = int(wrong.argmax())
        raise ValueError(
            f"{_subject(container)} must have magnitudes between {1 / _LARGEST:g} and {_LARGEST:g}, got "
            f"{largest[first]:.3g} at {layout.name(first)}; set missing values to NaN, or change the units"
        )


def refuse_missing(
    gaps: Int[ndarray, " cell"],
    n_samples: int,
    present: Bool[ndarray, " cell"],
    layout: Layout,
    container: Container,
    data: Data | None = None,
) -> None:
    """Refuse vertices with NaN, in so many samples at each cell, naming the first."""
    partly = (gaps > 0) & present
    if partly.any():
        first = int(partly.argmax())
        raise ValueError(
            f"{_subject(container)} contains NaN{_declared_in(data)} in some samples or variables at {partly.sum()} of "
            f"{present.sum()} vertices, first {layout.name(first)} ({gaps[first]} of {n_samples} samples); fill them, "
            "drop those samples, or set those vertices to NaN in every sample to leave them out"
        )


def _declared_in(data: Data | None) -> str:
    """Name the numbers that mean missing by the attributes."""
    if not isinstance(data, xr.DataArray | xr.Dataset):
        return ""
    variables = [data] if isinstance(data, xr.DataArray) else list(data.data_vars.values())
    named = [declared(v.values.astype(np.float64), v.attrs, v.encoding)[1] for v in variables]
    return f", which attributes say of {', '.join(filter(None, named))}," if any(named) else ""


def refuse_constant(found: VertexStatistics, layout: Layout, container: Container) -> None:
    """Refuse vertices whose values differ by no more than rounding: they have no scale and no density."""
    low, high, present = found.low, found.high, found.present
    rounding = 4 * np.finfo(low.dtype).eps * np.maximum(np.abs(low), np.abs(high))
    constant = present & (high - low <= rounding).any(axis=1)
    if constant.any():
        first = int(constant.argmax())
        raise ValueError(
            f"{_subject(container)} is constant at {constant.sum()} of {present.sum()} vertices, first "
            f"{layout.name(first)} (always {low[first].tolist()}), where it has no scale; set those vertices to NaN in "
            "every sample to leave them out"
        )


def refuse_few(found: VertexStatistics, layout: Layout, container: Container) -> None:
    """Refuse vertices with some values, but fewer than a law needs in all or in one of the variables."""
    count = found.count.min(axis=1)
    few = found.present & (count < FEWEST_VALUES) & (found.gaps > 0)
    if few.any():
        first = int(few.argmax())
        raise ValueError(
            f"{_subject(container)} must have at least {FEWEST_VALUES} values of each variable at a vertex with NaN in "
            f"some samples, got fewer at {few.sum()} of {found.present.sum()} vertices, first {layout.name(first)} "
            f"({count[first]} values); set those vertices to NaN in every sample to leave them out"
        )


def warn_of_correlation(
    x: Float[ndarray, "sample vertex channel"], container: Container, sample_dims: tuple[str, ...]
) -> None:
    """Warn if the correlation of each sample with the next is too high for independent samples.

    It is a mean over the vertices, whose spread for independent samples is at most ``n ** -0.5``; the warning starts at
    five times that, a false alarm in millions, and at .2.
    """
    seen = ~np.isnan(x)
    z = x - x.mean(axis=0) if seen.all() else np.where(seen, x - np.nanmean(x, axis=0), 0.0)
    pairs = np.maximum(np.count_nonzero(seen[1:] & seen[:-1], axis=0), 1)
    products = np.einsum("ijk,ijk->jk", z[1:], z[:-1]) / pairs
    squares = np.einsum("ijk,ijk->jk", z, z) / np.count_nonzero(seen, axis=0)
    correlation = float(np.mean(products / np.where(squares > 0, squares, 1.0)))
    if correlation > max(0.2, 5 / math.sqrt(len(x))):
        remedy = "pass sample_dim='time'" if "array" in container else f"rename {sample_dims[-1]!r} to 'time'"
        warnings.warn(
            f"consecutive samples are correlated (r = {correlation:.2f}): they look like a time series but were "
            f"cross-validated as independent samples; {remedy}",
            stacklevel=2,
        )


def _subject(container: Container) -> str:
    return "data" if container in ("DataArray", "Dataset") else "Input X"
