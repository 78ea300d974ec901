"""Windows of the vertices that come earlier in the elimination order."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import scipy.sparse as sp

from nearfield.fitting.maximin import nearest_earlier, neighbour_count
from nearfield.graph import DependencyGraph, Neighborhood
from nearfield.graph.neighborhood import ABSENT
from nearfield.graph.order import elimination_order, scattered

if TYPE_CHECKING:
    from jaxtyping import Bool, Int

__all__ = ["contained", "elimination_order", "predecessors", "recurrent"]

WIDER = 64
"""Largest difference of radii at which a window is cut out of a wider one in memory."""


def recurrent(graph: DependencyGraph) -> bool:
    """Whether neighbours mean the same by the difference of vertex numbers: in products, and where windows recur."""
    return bool(graph.parts) or graph.memory.get("recurrent", lambda: _recurs(graph), size=lambda _: 1)


def _recurs(graph: DependencyGraph) -> bool:
    """Whether the neighbours of most vertices are those of another one, shifted."""
    table = graph.neighborhood(1)
    shift = np.where(table.present, table.index - table.index[:, :1], graph.n_vertices)
    _, kind, count = np.unique(shift, axis=0, return_inverse=True, return_counts=True)
    return bool(np.mean(count[kind.reshape(-1)] > 1) > 0.5)


def predecessors(
    graph: DependencyGraph,
    radius: int,
    order: Int[np.ndarray, " vertex"] | None = None,
    count: int | None = None,
    numbers: Int[np.ndarray, " vertex"] | None = None,
) -> Neighborhood:
    """Windows of the sparse Cholesky factor: a vertex (column 0) and its earlier neighbours within ``radius`` hops.

    On lattices a column is one offset; elsewhere entries are ranked by distance. Points in space have instead as many
    of their nearest earlier points as a vertex has neighbours within these hops. Of parts of a graph with an order,
    ``count`` is this number in the whole graph, and ``numbers`` are those of their vertices, where windows recur.
    """
    if order is None:
        return graph.memory.get(
            ("predecessors", radius), lambda: _windows(graph, radius), size=lambda table: table.n_bytes
        )
    if scattered(graph):
        return nearest_earlier(graph, neighbour_count(graph, radius) if count is None else count, order, radius)
    position = np.empty(graph.n_vertices, dtype=np.int64)
    position[order] = np.arange(graph.n_vertices)
    table = graph.neighborhood(radius)
    present = table.present & (position[table.index] <= position[:, None])
    if table.offsets is not None:
        columns = present.any(axis=0)
        return Neighborhood(
            index=table.index[:, columns],
            present=present[:, columns],
            hops=table.hops[:, columns],
            offsets=table.offsets[columns],
        )
    width = int(present.sum(axis=1).max())
    left = np.argsort(~present, axis=1, kind="stable")[:, :width]
    shift = None
    if numbers is not None:
        shift = np.where(present, numbers[table.index] - numbers[:, None], ABSENT)
        left = _aligned(shift, left, ABSENT)
        shift = np.take_along_axis(shift, left, axis=1)
    elif recurrent(graph):
        absent = graph.n_vertices
        left = _aligned(np.where(present, table.index - table.index[:, :1], absent), left, absent)
    return Neighborhood(
        index=np.take_along_axis(table.index, left, axis=1),
        present=np.take_along_axis(present, left, axis=1),
        hops=np.take_along_axis(table.hops, left, axis=1),
        offsets=None,
        shift=shift,
    )


def _aligned(
    shift: Int[np.ndarray, "vertex column"], left: Int[np.ndarray, "vertex width"], absent: int
) -> Int[np.ndarray, "vertex width"]:
    """Give entries the columns that they have in the most frequent window that holds them all."""
    found, kind, count = np.unique(
        np.take_along_axis(shift, left, axis=1), axis=0, return_inverse=True, return_counts=True
    )
    model = np.argmax(contained(found, found < absent) * count, axis=1)
    place = np.broadcast_to(np.arange(left.shape[1]), found.shape).copy()
    for k in np.flatnonzero(count[model] > count):
        free = np.flatnonzero(found[k] == absent).tolist()
        at = {member: c for c, member in enumerate(found[k].tolist()) if member != absent}
        place[k] = [at[member] if member in at else free.pop() for member in found[model[k]].tolist()]
    return np.take_along_axis(left, place[kind.reshape(-1)], axis=1)


def contained(
    entry: Int[np.ndarray, "window column"], present: Bool[np.ndarray, "window column"]
) -> Bool[np.ndarray, "window other"]:
    """Whether every entry of a window is one of another; entries of a window differ."""
    _, number = np.unique(entry[present], return_inverse=True)
    holds = sp.csr_array((np.ones(number.size, dtype=np.int32), (np.nonzero(present)[0], number.reshape(-1))))
    inside: np.ndarray = (holds @ holds.T).toarray() == present.sum(axis=1)[:, None]
    return inside


def _windows(graph: DependencyGraph, radius: int) -> Neighborhood:
    """Compute the windows, on lattices from wider ones in memory."""
    wider = None
    if graph.lattice is not None:
        wider = graph.memory.first(("predecessors", r) for r in range(radius + 1, radius + WIDER))
    if wider is None:
        return predecessors(graph, radius, elimination_order(graph))
    near = wider.hops <= radius
    columns = (wider.present & near).any(axis=0)
    return Neighborhood(
        index=np.where(near, wider.index, wider.index[:, :1])[:, columns],
        present=(wider.present & near)[:, columns],
        hops=np.where(near, wider.hops, -1)[:, columns].astype(wider.hops.dtype),
        offsets=wider.offsets[columns],
    )
