"""Some of the vertices of a graph, and the edges among them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from nearfield.graph.adjacency import pointers_of

if TYPE_CHECKING:
    from jaxtyping import Bool, Int
    from numpy.typing import ArrayLike

    from nearfield.graph.dependency import DependencyGraph

__all__ = ["cells_of", "induced"]


def induced(graph: DependencyGraph, mask: ArrayLike) -> DependencyGraph:
    """Graph of the vertices that stay; the graph itself where all do."""
    cells = cells_of(graph)
    stays = _checked_mask(mask, graph, cells)
    if stays.all():
        return graph
    coordinates = None if graph.coordinates is None else graph.coordinates[stays]
    if graph.lattice is None:
        links = pointers_of(graph.adjacency[stays][:, stays])
        return type(graph)(links=links, coordinates=coordinates, metric=graph.metric)
    keep = np.zeros(graph.lattice.shape, dtype=bool)
    keep.flat[cells[stays]] = True
    return type(graph)(lattice=graph.lattice, keep=keep, coordinates=coordinates, metric=graph.metric)


def cells_of(graph: DependencyGraph) -> Int[np.ndarray, " vertex"]:
    """Cell of the lattice that each vertex is, in C order; the vertices themselves off lattices."""
    return np.arange(graph.n_vertices) if graph.keep is None else np.flatnonzero(graph.keep)


def _checked_mask(
    mask: ArrayLike, graph: DependencyGraph, cells: Int[np.ndarray, " vertex"]
) -> Bool[np.ndarray, " vertex"]:
    """Return which vertices stay, from a mask of the vertices or of the lattice's cells; refuse other masks."""
    mask = np.asarray(mask)
    if mask.dtype != bool:
        raise TypeError(f"mask must be boolean, got dtype {mask.dtype}; True marks the vertices that stay")
    shapes = [(graph.n_vertices,)] + ([graph.lattice.shape] if graph.lattice is not None else [])
    if mask.shape not in shapes:
        raise ValueError(f"mask must have shape {' or '.join(map(str, shapes))}, got {mask.shape}")
    stays = mask if mask.shape == shapes[0] else mask.ravel()[cells]
    if not stays.any():
        raise ValueError("mask must keep at least one vertex, got no True; is it inverted?")
    return stays
