"""Cells of the layout as columns, and the graph on those that are vertices."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import xarray as xr
    from jaxtyping import Bool, Float
    from numpy import ndarray

    from nearfield.data.layout import Layout
    from nearfield.graph import DependencyGraph

__all__ = ["place_graph", "stack_cells"]


def stack_cells(
    variables: Sequence[xr.DataArray], sample_dims: Sequence[str], layout: Layout
) -> Float[ndarray, "sample cell channel"]:
    """Gather all cells of all variables in a new array.

    Examples
    --------
    >>> import xarray as xr
    >>> from nearfield.data.layout import Layout
    >>> field = xr.DataArray(np.arange(6.0).reshape(2, 3), dims=("x", "sample"))
    >>> stack_cells([field], ("sample",), Layout.from_variable(field, ("sample",)))[1].tolist()
    [[1.0], [4.0]]
    """
    n_samples = int(np.prod([variables[0].sizes[dim] for dim in sample_dims]))
    columns = [v.transpose(*sample_dims, *layout.dims).values.reshape(n_samples, layout.n_cells) for v in variables]
    return np.stack(columns, axis=-1)


def place_graph(
    graph: DependencyGraph | None, layout: Layout, present: Bool[ndarray, " cell"]
) -> tuple[Bool[ndarray, " cell"], DependencyGraph]:
    """Match the graph to the cells of the layout and take cells without data out of it.

    Examples
    --------
    >>> import xarray as xr
    >>> from nearfield.data.layout import Layout
    >>> layout = Layout.from_variable(xr.DataArray(np.zeros((2, 3)), dims=("sample", "x")), ("sample",))
    >>> place_graph(None, layout, np.array([True, True, False]))[1].n_vertices
    2
    """
    if graph is None:
        graph = layout.infer_graph()
    cells = np.ones(layout.n_cells, dtype=bool)
    lattice = graph.lattice.shape if graph.lattice is not None else None
    long = tuple(n for n in layout.shape if n > 1)
    if graph.keep is not None and layout.n_cells == graph.keep.size:
        cells = graph.keep.ravel()
    agrees = len(long) <= 1 or lattice is None or tuple(n for n in lattice if n > 1) == long
    if len(long) > 1:  # a product's parts begin where dimensions do
        agrees = agrees and set(np.cumprod(graph.parts, dtype=int).tolist()) <= {1, *np.cumprod(long).tolist()}
    if int(cells.sum()) != graph.n_vertices or not agrees:
        raise ValueError(
            f"graph must have a vertex for each cell of the data, {layout.dims} = {layout.shape}, got {graph!r}; its "
            "vertices follow the dimensions of the data, the last running fastest"
        )
    if (present & ~cells).any():
        raise ValueError(
            f"data has values at {(present & ~cells).sum()} vertices that the graph leaves out, first "
            f"{layout.name(int((present & ~cells).argmax()))}; set them to NaN, or keep them in the graph"
        )
    return present, graph.subgraph(present[cells])
