"""Denoising and kriging of large fields by conjugate gradients: iterations, seconds and memory at each noise level.

Fields are given by the sparse factor of their precision, kept tile by tile: Vecchia's
approximations of Matern laws from their exact covariances within some hops. Seconds are of the processor.

`python -m benchmarks.large_solves [--sides 100 316] [--markdown docs/scale.md]`
"""

from __future__ import annotations

import argparse
import resource
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import scipy.sparse as sp
import torch

from benchmarks.table import publish, verdict
from nearfield.fitting.closed_form import whitening_rows
from nearfield.fitting.elimination import predecessors
from nearfield.fitting.matern import Matern
from nearfield.fitting.regression import regress
from nearfield.graph import DependencyGraph
from nearfield.graph.tiling import Tiling
from nearfield.noise import Stream
from nearfield.process import signal_scale, time_of
from nearfield.score import solver
from nearfield.score.field import GaussianField
from nearfield.score.tiled_factor import TiledFactor

LEVELS = (0.05, 0.2, 0.5, 1.0, 2.0, 5.0, 20.0)
SMOOTHNESS = {"Matern 1/2, length 6": 0.5, "Matern 5/2, length 6": 2.5}
RADIUS, LENGTH = 4, 6.0
RESIDUAL, MOST = 1e-6, 50
"""Relative residual that is asked for, and the bar of iterations."""
PART = 2_048


@dataclass
class Kept:
    """Tiles in memory."""

    tiles: dict[int, Mapping[str, np.ndarray]] = field(default_factory=dict)

    def read(self, tile: int, stage: str) -> Mapping[str, np.ndarray]:  # noqa: ARG002
        """Return the arrays of a tile."""
        return self.tiles[tile]


def tiled_field(side: int, smoothness: float) -> GaussianField:
    """Regress each vertex on its earlier neighbours, by the exact covariances."""
    graph, kept, law = DependencyGraph.grid((side, side)), Kept(), Matern(smoothness, LENGTH, 0.0)
    tiling = Tiling.of(graph)
    for tile in range(len(tiling)):
        outer = tiling.around(tile, RADIUS)
        own, part = np.flatnonzero(tiling.within(tiling.box(tile), outer)), tiling.graph_of(outer)
        table = predecessors(part, RADIUS, np.argsort(tiling.ranks(outer)))
        rows = []
        for start in range(0, len(own), PART):
            some = own[start : start + PART]
            index, present = table.index[some], table.present[some]
            place = np.stack(np.unravel_index(index, outer.shape), axis=2).astype(float)
            blocks = law.blocks(place)
            blocks[~(present[:, :, None] & present[:, None, :])] = 0.0
            every = np.arange(blocks.shape[1])
            blocks[:, every, every] = 1.0
            rows.append(whitening_rows(regress(blocks, 1)[0], present, np.arange(len(some)), index, part.n_vertices))
        joined = sp.csr_array(sp.vstack(rows))
        names = ("data", "indices", "indptr")
        kept.tiles[tile] = dict(zip(names, (joined.data, joined.indices, joined.indptr), strict=True))
    factor = TiledFactor(graph, tiling.side, RADIUS, 1, "field", kept)
    return GaussianField(factor, tiling.order(), 1, RADIUS)


class Counted:
    """Counts the products that the conjugate gradients take."""

    def __init__(self) -> None:
        self.steps, self._iterate = 0, solver._iterate

    def __call__(self, apply: solver.Operator, precondition: solver.Operator, right: np.ndarray) -> np.ndarray:
        """Iterate, counting."""

        def counting(x: np.ndarray) -> np.ndarray:
            self.steps += 1
            return apply(x)

        return self._iterate(counting, precondition, right)


def measure(side: int, name: str, levels: Sequence[float] = LEVELS) -> list[list[str]]:
    """Denoise a field at each level, and complete one of which half is hidden; for a process of its own."""
    solver.TOLERANCE = RESIDUAL
    counted = Counted()
    solver._iterate = counted
    law = tiled_field(side, SMOOTHNESS[name])
    start = time.process_time()
    clean = law.sample(1, seed=0, stream=Stream.EXACT)
    drawn = time.process_time() - start
    rows, noise, start = [], np.random.default_rng(0).normal(size=clean.shape), time.process_time()
    _ = law._local_laws._sets
    prepared, label = time.process_time() - start, f"{name}, {side} x {side}"
    rows.append([label, "one draw", "", f"{drawn:.1f}", f"{_peak():.2f}", ""])
    rows.append([label, "preparation", "", f"{prepared:.1f}", f"{_peak():.2f}", ""])
    for sigma in levels:
        t, counted.steps, start = float(time_of(sigma)), 0, time.process_time()
        law.denoise(torch.from_numpy(signal_scale(t) * (clean + sigma * noise)), t)
        seconds = time.process_time() - start
        steps = counted.steps
        rows.append([label, f"noise {sigma:g}", str(steps), f"{seconds:.1f}", f"{_peak():.2f}", verdict((steps, MOST))])
    observed = np.random.default_rng(1).random(clean.shape[1:]) < 0.5
    counted.steps, start = 0, time.process_time()
    law.conditional(observed).mean(clean)
    seconds = time.process_time() - start
    met = verdict((counted.steps, MOST))
    return [*rows, [label, "half hidden", str(counted.steps), f"{seconds:.1f}", f"{_peak():.2f}", met]]


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def main() -> None:
    """Measure each field in a fresh process, print the table, and write it into a page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sides", type=int, nargs="+", default=[100, 316])
    parser.add_argument("--levels", type=float, nargs="+", default=LEVELS, help="noise over signal")
    parser.add_argument("--markdown", type=Path, help="page whose section is replaced")
    asked, rows = parser.parse_args(), []
    with ProcessPoolExecutor(1, mp_context=get_context("spawn"), max_tasks_per_child=1) as fresh:
        for side in asked.sides:
            for name in SMOOTHNESS:
                rows += fresh.submit(measure, side, name, asked.levels).result()
                print(*rows[-len(asked.levels) - 3 :], sep="\n", flush=True)
    notes = (
        f"Relative residual {RESIDUAL:g}; the bar is {MOST} iterations. A level's seconds include its preconditioner."
    )
    header = ["field", "system", "iterations", "processor s", "peak GiB", "verdict"]
    publish(asked.markdown, "large: solves", header, rows, notes)


if __name__ == "__main__":
    main()
