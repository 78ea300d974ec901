"""Vertices of a larger lattice beside those of a fitted one whose windows are cut off alike."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import scipy.sparse as sp

from nearfield.graph import DependencyGraph, Lattice

if TYPE_CHECKING:
    from jaxtyping import Int

__all__ = ["alike", "extended_factor"]

CHUNK = 1 << 16
"""Vertices whose rows are made at once."""


def alike(
    graph: DependencyGraph, onto: DependencyGraph, radius: int, *, earlier: bool = False
) -> Int[np.ndarray, " vertex"]:
    """For each vertex of the new lattice one of the old whose window, or its earlier part, has the same members."""
    if graph.lattice is not None and onto.lattice is not None and not earlier:
        grown = [n for n, m in zip(graph.lattice.shape, onto.lattice.shape, strict=False) if m > n]
        if grown and min(grown) < 2 * radius + 1:
            raise ValueError(
                f"onto may be longer along axes of {2 * radius + 1} vertices or more, where windows of {radius} hops "
                f"have been seen whole, got {onto!r} for {graph!r}; fit larger samples or a smaller radius"
            )
    brief, number = _brief(onto, radius)
    old, new = (lattice.neighborhood(radius) for lattice in (graph, brief))
    if old.offsets is None or new.offsets is None or not np.array_equal(old.offsets, new.offsets):
        raise ValueError(
            f"onto must be a lattice like {graph!r}, wider than its windows of radius {radius}, got {onto!r}"
        )
    there = [
        table.present & (table.index < np.arange(len(table.index))[:, None]) if earlier else table.present
        for table in (old, new)
    ]
    known = {row.tobytes(): vertex for vertex, row in reversed(list(enumerate(np.packbits(there[0], axis=1))))}
    rows, where = np.unique(np.packbits(there[1], axis=1), axis=0, return_inverse=True)
    missing = [row for row in rows if row.tobytes() not in known]
    if missing:
        raise ValueError(
            f"onto must cut windows of radius {radius} off only as {graph!r} does, got {onto!r}; make it "
            "larger, or fit larger samples or a smaller radius"
        )
    like: np.ndarray = np.array([known[row.tobytes()] for row in rows])[where.reshape(-1)]
    return like if number is None else like[number]


def _brief(onto: DependencyGraph, radius: int) -> tuple[DependencyGraph, Int[np.ndarray, " vertex"] | None]:
    """Shortest lattice with all the windows of a whole one, and the vertex there that each vertex is like."""
    if onto.lattice is None or onto.keep is not None:
        return onto, None
    lengths = tuple(min(length, 2 * radius + 3) for length in onto.lattice.shape)  # both ends, and a middle
    number = np.zeros(1, dtype=np.int64)
    for length, short in zip(onto.lattice.shape, lengths, strict=True):
        along = np.arange(length)
        along = np.minimum(along, np.maximum(radius + 1, along - (length - short)))
        number = (number[:, None] * short + along).reshape(-1)
    return DependencyGraph(lattice=Lattice(lengths, onto.lattice.periodic, onto.lattice.diagonal)), number


def extended_factor(
    factor: sp.csr_array, hops: int, channels: int, graph: DependencyGraph, onto: DependencyGraph
) -> sp.csr_array:
    """Repeat the rows of a whitening factor: on lattices the order is lexicographic, a row a set of offsets."""
    assert graph.lattice is not None
    assert onto.lattice is not None
    like = alike(graph, onto, hops, earlier=True)
    entry = sp.coo_array(factor)
    (at, own), (to, other) = (divmod(np.asarray(index, dtype=np.int64), channels) for index in entry.coords)
    place, target = (
        np.stack(np.unravel_index(np.arange(lattice.n_cells), lattice.shape), axis=1)
        for lattice in (graph.lattice, onto.lattice)
    )
    ahead = place[to] - place[at]
    shape, around = np.array(graph.lattice.shape), np.array(graph.lattice.periodic)
    ahead = np.where(around, (ahead + shape // 2) % shape - shape // 2, ahead)  # the short way around
    parts = []
    for start in range(0, onto.n_vertices, CHUNK):
        own_rows = slice(start, min(start + CHUNK, onto.n_vertices))
        rows, columns, values = [], [], []
        for representative in np.unique(like[own_rows]):
            entries, vertices = at == representative, start + np.flatnonzero(like[own_rows] == representative)
            reached = (target[vertices][:, None] + ahead[entries]) % onto.lattice.shape
            column = np.ravel_multi_index(tuple(np.moveaxis(reached, -1, 0)), onto.lattice.shape)
            rows.append(((vertices - start)[:, None] * channels + own[entries]).ravel())
            columns.append((column * channels + other[entries]).ravel())
            values.append(np.broadcast_to(entry.data[entries], (len(vertices), int(entries.sum()))).ravel())
        size = ((own_rows.stop - start) * channels, onto.n_vertices * channels)
        data, row, column = (np.concatenate(part) for part in (values, rows, columns))
        parts.append(sp.csr_array((data, (row, column)), shape=size))
    larger = sp.csr_array(sp.vstack(parts))
    larger.sort_indices()
    return larger
