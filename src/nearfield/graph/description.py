"""A graph in one line, as its constructor is written."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nearfield.graph.dependency import DependencyGraph

__all__ = ["describe"]


def describe(graph: DependencyGraph) -> str:
    """Name the constructor and the sizes of a graph."""
    name, lattice = type(graph).__name__, graph.lattice
    if lattice is None:
        return f"{name}({graph.n_vertices} vertices, {graph.adjacency.nnz // 2} edges)"
    periodic = lattice.periodic
    if graph.metric == "haversine":
        closed = ", periodic" if periodic[1] else ""
        text = f"{name}.latlon({lattice.shape[0]} lat, {lattice.shape[1]} lon{closed})"
    else:
        flags = f", periodic={periodic[0] if len(set(periodic)) == 1 else periodic}" if any(periodic) else ""
        text = f"{name}.grid({lattice.shape}{flags}{', diagonal=True' if lattice.diagonal else ''})"
    return text if graph.keep is None else f"{text}.subgraph({graph.n_vertices} of {lattice.n_cells})"
