"""What tiles cost on graphs off lattices, against fits of the same data whole: meshes, points in space, a listed chain.

Radius and pooling are those that cross-validation chooses. The tiles are small, so that their borders are many.

`python -m benchmarks.tiled_graphs [--markdown docs/scale.md]`
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from scipy.spatial import Delaunay
from scipy.spatial.distance import cdist

from benchmarks.table import publish, verdict
from benchmarks.tiled_order import BAR, divergence
from nearfield.data.tile_store import TileStore
from nearfield.fitting.closed_form import build_field
from nearfield.fitting.matern import fit_matern
from nearfield.fitting.selection import select_field
from nearfield.fitting.tiled import build_tiled
from nearfield.graph import DependencyGraph
from nearfield.graph.tiling import Tiling
from nearfield.samples import Samples
from nearfield.tiled_samples import TiledSamples

if TYPE_CHECKING:
    from jaxtyping import Float, Int

    from nearfield.graph.pieces import Piece

POINTS, TILE = 2304, 256
NUMBERS = (50, 400)


class Held:
    """Samples in memory, as a source."""

    def __init__(self, samples: Samples) -> None:
        self.values = samples.values
        self.n_samples, self.n_channels = len(samples), samples.n_channels

    def read(
        self, box: Piece, samples: Int[np.ndarray, " some"] | None = None
    ) -> Float[np.ndarray, "sample vertex channel"]:
        """Return the samples on some vertices."""
        values = self.values if samples is None else self.values[samples]
        return values[:, box.vertices]


def mesh(points: Float[np.ndarray, "vertex 2"]) -> DependencyGraph:
    """Triangles between points, without the long ones along the hull."""
    corners = Delaunay(points).simplices
    edges = np.concatenate([corners[:, pair] for pair in ([0, 1], [1, 2], [2, 0])])
    short = np.linalg.norm(points[edges[:, 0]] - points[edges[:, 1]], axis=1) < 3.0
    return DependencyGraph.from_edges(len(points), edges[short])


def cases() -> list[tuple[str, DependencyGraph, Float[np.ndarray, "vertex vertex"]]]:
    """Laws with graphs; points are one apart in the mean."""
    points = np.random.default_rng(0).uniform(size=(POINTS, 2)) * np.sqrt(POINTS)
    distance = cdist(points, points)
    r = np.sqrt(5) * distance / 4
    exponential, smooth = np.exp(-distance / 8), (1 + r + r**2 / 3) * np.exp(-r) + 1e-6 * np.eye(POINTS)
    near, triangles = DependencyGraph.knn(points, 6), mesh(points)
    edges = triangles.adjacency.toarray().astype(float)
    markov = np.linalg.inv(np.diag(edges.sum(axis=1) + 0.1) - edges)
    chain = DependencyGraph.from_adjacency(DependencyGraph.chain(POINTS).adjacency)
    steps = np.abs(np.subtract.outer(np.arange(POINTS), np.arange(POINTS)))
    return [
        ("Markov field on a mesh", triangles, markov),
        ("exponential, length 8, on a mesh", triangles, exponential),
        ("Matern 5/2, length 4, on a mesh", triangles, smooth),
        ("exponential, length 8, at points", near, exponential),
        ("Matern 5/2, length 4, at points", near, smooth),
        ("exponential, length 8, on a listed chain", chain, np.exp(-steps / 8)),
    ]


def rows() -> list[list[str]]:
    """Divergences of both fits on every law."""
    found = []
    for name, graph, truth in cases():
        root = np.linalg.cholesky(truth)
        for n in NUMBERS:
            x = np.random.default_rng(n).normal(size=(n, len(truth))) @ root.T
            samples = Samples(x[..., None], graph)
            choice = select_field(samples).choice
            settings = choice.radius, choice.pooling
            law = fit_matern(samples) if choice.strength > 0 else None
            tiles = TileStore.temporary()
            tiles.claim({"law": name, "samples": n})
            parts = TiledSamples(Held(samples), Tiling.of(graph, TILE))
            whole, tiled = build_field(samples, *settings), build_tiled(parts, *settings, tiles, law=law)
            before, after = (divergence(fit, truth) for fit in (whole, tiled))
            chosen = f"radius {choice.radius}, pooling {choice.strength:g}"
            cells = [f"{before:.5f}", f"{after:.5f}", f"{after - before:+.5f}", verdict((after - before, BAR))]
            found.append([f"{name}, N = {n}", chosen, *cells])
    return found


def main() -> None:
    """Fit everything, print the table, and write it into a page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--markdown", type=Path, help="page whose section is replaced")
    page = parser.parse_args().markdown
    header = ["law", "chosen", "whole", "tiles", "difference", "verdict"]
    notes = (
        f"{POINTS} vertices, tiles of {TILE}: KL(truth || fitted) in nats per vertex, of fields without corrections at "
        f"larger scales. Bar: {BAR:g} more."
    )
    publish(page, "large: graphs", header, rows(), notes)


if __name__ == "__main__":
    main()
