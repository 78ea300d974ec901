"""Candidate radii, and the vertices that represent a graph in their comparison."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import scipy.sparse as sp

from nearfield.fitting.elimination import elimination_order
from nearfield.fitting.maximin import neighbour_count
from nearfield.fitting.rarity import comparable
from nearfield.graph import DependencyGraph
from nearfield.graph.order import scattered
from nearfield.samples import Samples

if TYPE_CHECKING:
    from jaxtyping import Int

__all__ = ["PATCH", "candidate_radii", "patches", "representative", "wider_radius"]

PATCH = 2048
"""Larger graphs are represented by four compact patches of this many vertices in total while the locality is chosen."""
PATCH_WITH_GAPS = 512
"""The same for samples with missing values, whose laws are conditioned anew for each candidate."""
ENTRY_LIMIT = 160
"""Largest number of scalar entries of a candidate window."""

WIDER = {0: (5, 6, 8, 12, 16), 1: (24, 32, 48, 64), 2: (8, 10, 12), 3: (4, 5, 6)}
"""Radii for lattices by number of axes (0: other graphs), tried if the loss still falls at the widest candidate."""


def candidate_radii(graph: DependencyGraph, n_channels: int = 1) -> tuple[int, ...]:
    """Candidate radii on a graph: denser at small radii, bounded by the size of the windows and by the diameter."""
    axes = len(graph.lattice.shape) if graph.lattice is not None else 0
    ladder = {1: (0, 1, 2, 3, 4, 6, 8, 12, 16), 2: (0, 1, 2, 3, 4, 5, 6), 3: (0, 1, 2, 3)}.get(axes, (0, 1, 2, 3, 4))
    widest = None if graph.lattice is None else graph.neighborhood(ladder[-1])  # it contains the others
    kept, pairs = [0], graph.n_vertices
    for radius in ladder[1:]:
        entries = _widths(graph, radius) if widest is None else (widest.present & (widest.hops <= radius)).sum(axis=1)
        if entries.sum() == pairs or entries.max() * n_channels > ENTRY_LIMIT:
            break
        kept.append(radius)
        pairs = entries.sum()
    return tuple(kept)


def _widths(graph: DependencyGraph, radius: int) -> Int[np.ndarray, " vertex"]:
    """Vertices around each one; for points in space twice the earlier ones."""
    if scattered(graph):
        return np.full(graph.n_vertices, 2 * neighbour_count(graph, radius) + 1)
    sizes: np.ndarray = graph.neighborhood(radius).present.sum(axis=1)
    return sizes


def wider_radius(graph: DependencyGraph, radius: int, n_channels: int = 1) -> tuple[int | None, str]:
    """Return the radius to try after the last of `candidate_radii`, or None and the reason against it.

    The reason is empty if windows already hold all connected vertices.
    """
    axes = len(graph.lattice.shape) if graph.lattice is not None else 0
    wider = next((r for r in WIDER.get(axes, WIDER[0]) if r > radius), None)
    if wider is None:
        return None, "no wider windows are tried"
    now, then = (_widths(graph, r) for r in (radius, wider))
    if now.sum() == then.sum():
        return None, ""
    if then.max() * n_channels > ENTRY_LIMIT:
        return None, f"windows of more than {ENTRY_LIMIT} values are not tried"
    return wider, ""


def patches(graph: DependencyGraph, limit: int = PATCH) -> np.ndarray:
    """Mask of the vertices that represent a large graph: four compact patches spread over the elimination order.

    For points in space they surround the first four of the order, which are far apart.
    """
    n = graph.n_vertices
    keep = np.zeros(n, dtype=bool)
    if n <= limit:
        return ~keep
    order = elimination_order(graph)
    places = np.arange(4) if scattered(graph) else np.linspace(0, n - 1, 9).astype(int)[1::2]
    for seed in order[places]:
        hops = sp.csgraph.dijkstra(graph.adjacency, indices=np.array(seed), unweighted=True)
        near = np.argsort(hops, kind="stable")
        keep[near[~keep[near]][: limit // 4]] = True
    return keep


def representative(samples: Samples, parts: Sequence[np.ndarray], **limit: int) -> Samples:
    """Return the samples for the choice of the locality: at comparable vertices of `patches`, which has the limit."""
    found = samples.at(patches(samples.graph, **({"limit": PATCH_WITH_GAPS} if samples.incomplete else limit)))
    return found.at(comparable(found, parts))
