"""The border for data: they become real, labelled variables, or an error names rule, place and remedy.

Everything that can be wrong with the values of data is refused here, so that the rest of the library may assume finite
numbers. Plain arrays are judged by scikit-learn's rules and in its words.
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
    from jaxtyping import Bool, Float
    from numpy import ndarray
    from numpy.typing import ArrayLike

    from nearfield.data.layout import Layout
    from nearfield.graph import DependencyGraph

__all__ = [
    "Container",
    "Data",
    "as_array",
    "as_variables",
    "float_dtype",
    "refuse_constant",
    "refuse_extreme",
    "refuse_infinite",
    "refuse_missing",
    "warn_of_likeness",
]

Data: TypeAlias = "xr.DataArray | xr.Dataset | ArrayLike"
"""What users have in hand; pandas DataFrames count as arrays."""

Container: TypeAlias = Literal["array", "channel array", "DataArray", "Dataset"]
"""What data were: a channel array has shape (n_samples, n_vertices, n_channels)."""

_LARGEST = 1e150
"""Squares of such values are still finite, and those of their inverses above 0."""

_ARRAY_DIMS = {1: ("column",), 2: ("y", "x"), 3: ("y", "x", "z")}


def as_variables(data: Data, graph: DependencyGraph | None = None) -> tuple[Container, list[xr.DataArray]]:
    """Return the kind of the data, and their labelled variables of one set of dimensions.

    Examples
    --------
    >>> container, (variable,) = as_variables(np.zeros((5, 3, 4)))
    >>> container, variable.dims
    ('array', ('sample', 'y', 'x'))
    """
    if isinstance(data, xr.DataArray):
        return "DataArray", [_real(data)]
    if isinstance(data, xr.Dataset):
        variables = [_real(data[name]) for name in data.data_vars]
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
    array = as_array(data)
    grid = array.ndim - 1 in _ARRAY_DIMS
    if graph is not None:
        grid = graph.lattice is not None and array.shape[1:] == graph.lattice.shape
        if not grid and array.ndim == 3 and array.shape[1] == graph.n_vertices:
            return "channel array", [xr.DataArray(a, dims=("sample", "vertex")) for a in np.moveaxis(array, -1, 0)]
        if not grid and array.ndim == 2:
            return "array", [xr.DataArray(array, dims=("sample", "vertex"))]
    if not grid:
        raise ValueError(
            f"X must have shape (n_samples, n) for a chain, (n_samples, ny, nx[, nz]) for a grid, or with a graph "
            f"(n_samples, n_vertices[, n_channels]), got {array.shape} and graph={graph!r}"
        )
    return "array", [xr.DataArray(array, dims=("sample", *_ARRAY_DIMS[array.ndim - 1]))]


def as_array(data: Any) -> ndarray:
    """Return an array of real numbers, by scikit-learn's rules and in its words; NaN may pass.

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


def _real(variable: xr.DataArray) -> xr.DataArray:
    """Variable of float32 or float64; refuse other numbers and empty ones."""
    what = "data" if variable.name is None else f"variable {variable.name!r}"
    if variable.size == 0:
        raise ValueError(f"{what} must have at least one sample and one vertex, got sizes {dict(variable.sizes)}")
    if variable.dtype.kind == "c":
        raise ValueError(f"Complex data not supported: {what} has dtype {variable.dtype}; make two variables of it")
    if variable.dtype.kind not in "iufO":
        raise TypeError(f"{what} must hold real numbers, got dtype {variable.dtype}; convert with .astype(float)")
    try:
        real = variable.astype(float_dtype(variable), copy=False)
    except (TypeError, ValueError) as error:
        raise TypeError(f"{what} must hold real numbers, got objects that are none: {error}") from error
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


def refuse_infinite(values: Float[ndarray, "sample cell channel"], layout: Layout, container: Container) -> None:
    """Refuse infinite values, naming the vertex."""
    infinite = np.isinf(values).any(axis=(0, 2))
    if infinite.any():
        raise ValueError(
            f"{_subject(container)} contains infinity at {infinite.sum()} vertices, first "
            f"{layout.name(int(infinite.argmax()))}; replace it, by NaN in every sample if the vertex is to be left out"
        )


def refuse_extreme(
    values: Float[ndarray, "sample cell channel"], present: Bool[ndarray, " cell"], layout: Layout, container: Container
) -> None:
    """Refuse values so large, or so close to 0 everywhere, that their squares are no numbers; naming the vertex."""
    largest = np.abs(values).max(axis=(0, 2)).astype(np.float64)
    wrong = present & ((largest > _LARGEST) | ((largest > 0) & (largest < 1 / _LARGEST)))
    if wrong.any():
        first = int(wrong.argmax())
        raise ValueError(
            f"{_subject(container)} must have magnitudes between {1 / _LARGEST:g} and {_LARGEST:g}, got "
            f"{largest[first]:.3g} at {layout.name(first)}; set what means missing to NaN, or change the units"
        )


def refuse_missing(
    missing: Bool[ndarray, "sample cell channel"],
    present: Bool[ndarray, " cell"],
    layout: Layout,
    container: Container,
    data: Data | None = None,
) -> None:
    """Refuse vertices with NaN, naming the first."""
    partly = missing.any(axis=(0, 2)) & present
    if partly.any():
        first = int(partly.argmax())
        affected = missing[:, first].any(axis=1).sum()
        raise ValueError(
            f"{_subject(container)} contains NaN{_declared_in(data)} in some samples or variables at {partly.sum()} of "
            f"{present.sum()} vertices, first {layout.name(first)} ({affected} of {len(missing)} samples); fill them, "
            "drop those samples, or set those vertices to NaN in every sample to leave them out"
        )


def _declared_in(data: Data | None) -> str:
    """Say which numbers mean missing by the attributes."""
    if not isinstance(data, xr.DataArray | xr.Dataset):
        return ""
    variables = [data] if isinstance(data, xr.DataArray) else list(data.data_vars.values())
    named = [declared(v.values.astype(np.float64), v.attrs, v.encoding)[1] for v in variables]
    return f", which attributes say of {', '.join(filter(None, named))}," if any(named) else ""


def refuse_constant(
    values: Float[ndarray, "sample cell channel"], present: Bool[ndarray, " cell"], layout: Layout, container: Container
) -> None:
    """Refuse vertices whose values differ by no more than rounding: they have no scale and no density."""
    low, high = values.min(axis=0), values.max(axis=0)
    rounding = 4 * np.finfo(values.dtype).eps * np.maximum(np.abs(low), np.abs(high))
    constant = present & (high - low <= rounding).any(axis=1)
    if constant.any():
        first = int(constant.argmax())
        raise ValueError(
            f"{_subject(container)} is constant at {constant.sum()} of {present.sum()} vertices, first "
            f"{layout.name(first)} (always {low[first].tolist()}), where it has no scale; set those vertices to NaN in "
            "every sample to leave them out"
        )


def warn_of_likeness(
    x: Float[ndarray, "sample vertex channel"], container: Container, sample_dims: tuple[str, ...]
) -> None:
    """Warn where samples next to each other are so alike that they can hardly be independent.

    The mean over the vertices of the correlation of one sample with the next; for independent ones its spread is at
    most ``n ** -0.5``, and it is reported from five times that on, a false alarm in millions, and from .2 on.
    """
    z = x - x.mean(axis=0)
    products, squares = (np.einsum("ijk,ijk->jk", a, b) / len(a) for a, b in ((z[1:], z[:-1]), (z, z)))
    likeness = float(np.mean(products / np.where(squares > 0, squares, 1.0)))
    if likeness > max(0.2, 5 / math.sqrt(len(x))):
        remedy = "pass sample_dim='time'" if "array" in container else f"rename {sample_dims[-1]!r} to 'time'"
        warnings.warn(
            f"samples next to each other are alike (correlation {likeness:.2f}), as they are in a record, but are held "
            f"out at random as if independent, which favours too large a radius; if they follow in time, {remedy}",
            stacklevel=2,
        )


def _subject(container: Container) -> str:
    return "data" if container in ("DataArray", "Dataset") else "Input X"
