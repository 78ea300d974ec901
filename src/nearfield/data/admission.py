"""What may enter: data become real, labelled variables or an error that says what is wrong, where, and what to do.

Everything that can be wrong with the values of data is refused here, so that the rest of the library may assume finite
numbers. Plain arrays are judged by scikit-learn's rules and in its words.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
import scipy.sparse
import xarray as xr
from sklearn.utils.validation import check_array

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
    "refuse_infinite",
    "refuse_missing",
]

Data: TypeAlias = "xr.DataArray | xr.Dataset | ArrayLike"
"""What users have in hand; pandas DataFrames count as arrays."""

Container: TypeAlias = Literal["array", "channel array", "DataArray", "Dataset"]
"""What data were: a channel array has shape (n_samples, n_vertices, n_channels)."""

_ARRAY_DIMS = {1: ("column",), 2: ("y", "x"), 3: ("y", "x", "z")}


def as_variables(data: Data, graph: DependencyGraph | None = None) -> tuple[Container, list[xr.DataArray]]:
    """Say what the data are, and give them as labelled variables of one set of dimensions.

    Parameters
    ----------
    data : DataArray, Dataset or array
        Data with samples.
    graph : DependencyGraph or None
        Tells how to read the axes of a plain array.

    Raises
    ------
    TypeError
        If the data are not real numbers.
    ValueError
        If they are empty, complex, or their shape or dimensions have no reading.

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

    Parameters
    ----------
    data : array-like
        Samples first. Masked entries become NaN.

    Returns
    -------
    ndarray, (sample, *cell)
        float32 as given, anything else as float64.

    Raises
    ------
    TypeError
        If the data are sparse, or no numbers.
    ValueError
        If the data are empty, complex or infinite, or lack the samples' axis.

    Examples
    --------
    >>> as_array([[1, 2], [3, 4]]).dtype
    dtype('float64')
    """
    if isinstance(data, np.ma.MaskedArray):
        data = np.ma.filled(data.astype(np.float64), np.nan)
    if not scipy.sparse.issparse(data):
        kind = np.asarray(data).dtype.kind
        if kind not in "iufcO":
            raise TypeError(f"X must hold real numbers, got dtype {np.asarray(data).dtype}; convert to float")
    array = check_array(
        data, dtype=(np.float64, np.float32), ensure_all_finite="allow-nan", allow_nd=True, input_name="X"
    )
    if array.size == 0:
        raise ValueError(f"X must have at least one sample and one vertex, got shape {array.shape}")
    return array


def _real(variable: xr.DataArray) -> xr.DataArray:
    """Variable of float32 or float64; refuses what is no real number, and what is empty."""
    what = "data" if variable.name is None else f"variable {variable.name!r}"
    if variable.size == 0:
        raise ValueError(f"{what} must have at least one sample and one vertex, got sizes {dict(variable.sizes)}")
    if variable.dtype.kind == "c":
        raise ValueError(f"Complex data not supported: {what} has dtype {variable.dtype}; make two variables of it")
    if variable.dtype.kind not in "iufO":
        raise TypeError(f"{what} must hold real numbers, got dtype {variable.dtype}; convert with .astype(float)")
    try:
        return variable.astype(float_dtype(variable), copy=False)
    except (TypeError, ValueError) as error:
        raise TypeError(f"{what} must hold real numbers, got objects that are none: {error}") from error


def float_dtype(variable: xr.DataArray) -> str:
    """Return "float32" for float32 and "float64" for the rest.

    Examples
    --------
    >>> float_dtype(xr.DataArray(np.zeros(3, dtype=int)))
    'float64'
    """
    return "float32" if variable.dtype == np.float32 else "float64"


def refuse_infinite(values: Float[ndarray, "sample cell channel"], layout: Layout, container: Container) -> None:
    """Refuse infinite values, naming the vertex.

    Raises
    ------
    ValueError
        If there are any.
    """
    infinite = np.isinf(values).any(axis=(0, 2))
    if infinite.any():
        raise ValueError(
            f"{_subject(container)} contains infinity at {infinite.sum()} vertices, first "
            f"{layout.name(int(infinite.argmax()))}; replace it, by NaN in every sample if the vertex is to be left out"
        )


def refuse_missing(
    missing: Bool[ndarray, "sample cell channel"], present: Bool[ndarray, " cell"], layout: Layout, container: Container
) -> None:
    """Refuse vertices with NaN, naming the first.

    Parameters
    ----------
    missing : ndarray of bool, (sample, cell, channel)
        Where the data are NaN.
    present : ndarray of bool, (cell,)
        Cells that are vertices.
    layout : Layout
        Names the cells.
    container : str
        What the data are, for the message.

    Raises
    ------
    ValueError
        If there are any.
    """
    partly = missing.any(axis=(0, 2)) & present
    if partly.any():
        first = int(partly.argmax())
        affected = missing[:, first].any(axis=1).sum()
        raise ValueError(
            f"{_subject(container)} contains NaN in some samples or variables at {partly.sum()} of {present.sum()} "
            f"vertices, first {layout.name(first)} ({affected} of {len(missing)} samples); fill them, drop those "
            "samples, or set those vertices to NaN in every sample to leave them out"
        )


def refuse_constant(
    values: Float[ndarray, "sample cell channel"], present: Bool[ndarray, " cell"], layout: Layout, container: Container
) -> None:
    """Refuse vertices whose values differ by no more than rounding: they have no scale and no density.

    Raises
    ------
    ValueError
        If there are any, or if a channel of a vertex is.
    """
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


def _subject(container: Container) -> str:
    return "data" if container in ("DataArray", "Dataset") else "Input X"
