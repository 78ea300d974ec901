"""Time and memory of a fit and ten draws on grids of a thousand to a hundred thousand vertices.

Each grid has a process of its own, so that its peak memory is that of the fit (with the interpreter and the imports).
The choice of locality is included, the imports and the making of the data are not.
"""

from __future__ import annotations

import math
import resource
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks.table import show, verdict
from nearfield import LocalizedDiffusion
from nearfield.datasets import GaussianMarkovField

SHAPES = ((25, 40), (100, 100), (250, 400))
SAMPLES = 50
DRAWS = 10
SLOPE, MEMORY = 1.1, 8.0
"""Bars of the last step's log-log slope and of the largest grid's GiB."""


class Cost(NamedTuple):
    """Seconds and GiB of one grid, with what was chosen."""

    select: float
    fit: float
    sample: float
    total: float
    memory: float
    setting: str


def make_data(path: Path, shape: tuple[int, int]) -> None:
    """Write samples of a field whose correlation length is everywhere the same, (sample, y, x)."""
    x = GaussianMarkovField.stationary(shape, periodic=False).sample(SAMPLES, random_state=0)
    np.save(path, x.reshape(SAMPLES, *shape))


def measure(path: Path) -> Cost:
    """Fit and draw; for a process that does nothing else."""
    x = np.load(path)
    start = time.perf_counter()
    model = LocalizedDiffusion(method="gaussian", random_state=0).fit(x)
    fitted = time.perf_counter()
    model.sample(DRAWS, random_state=0)
    end = time.perf_counter()
    seconds = model.fit_report_.seconds
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    setting = f"{model.radius_}, {model.pooling_.strength:g}, {model.pooling_.bandwidth:g}"
    return Cost(seconds["select"], fitted - start - seconds["select"], end - fitted, end - start, peak / 2**30, setting)


def main() -> None:
    """Measure every grid in a fresh process and print the table."""
    rows = []
    before: tuple[int, float] | None = None
    with (
        tempfile.TemporaryDirectory() as folder,
        ProcessPoolExecutor(1, mp_context=get_context("spawn"), max_tasks_per_child=1) as fresh,
    ):
        for shape in SHAPES:
            n, path = math.prod(shape), Path(folder) / "x.npy"
            fresh.submit(make_data, path, shape).result()
            cost = fresh.submit(measure, path).result()
            slope = math.log(cost.total / before[1]) / math.log(n / before[0]) if before else math.nan
            before = n, cost.total
            largest = shape == SHAPES[-1]
            rows.append(
                [
                    f"{shape[0]} x {shape[1]}",
                    *(f"{value:.2f}" for value in cost[:4]),
                    "" if math.isnan(slope) else f"{slope:.2f}",
                    f"{SLOPE:.1f}" if largest else "",
                    f"{cost.memory:.2f}",
                    f"{MEMORY:.1f}" if largest else "",
                    cost.setting,
                    verdict((slope, SLOPE), (cost.memory, MEMORY)) if largest else "",
                ]
            )
    show(
        f"Grids, N = {SAMPLES}: seconds and peak memory of a fit and {DRAWS} draws",
        [
            "grid",
            "select",
            "fit",
            "draw",
            "total",
            "slope",
            "bar",
            "GiB",
            "bar",
            "radius, strength, bandwidth",
            "verdict",
        ],
        rows,
        "Slope: log-log, of the total from the grid before. Imports are excluded, the choice of locality is included.",
    )


if __name__ == "__main__":
    main()
