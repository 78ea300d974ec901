"""Fits and draws of fields of up to a million vertices from zarr: time, memory of all processes, and two workers.

Each run has a process of its own, whose workers are watched from outside. Data are written and read by the same
machine, so that files are mostly in its memory.

`python -m benchmarks.large [stages] [million] [workers] [files] [--sides 100 316 1000] [--pairs 500 1000]
[--markdown docs/scale.md]`
"""

from __future__ import annotations

import argparse
import hashlib
import math
import os
import resource
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.table import publish, verdict
from nearfield import tasks
from nearfield.graph.tiling import TILE

SAMPLES, DRAWS = 50, 10
SMALL = 2_500
"""Cells of a tile where a field of ten thousand vertices is to have several."""
MINUTES, LARGEST, TOGETHER = 10.0, 3.0, 6.0
"""Bars of a million vertices on two workers: minutes, and GiB of the largest process and of all."""
TIME_SLOPE, MEMORY_SLOPE, SPEEDUP = 1.05, 1.0, 1.7


def make_store(path: Path, side: int, chunk: int, n_samples: int = SAMPLES, kappa: float = 0.25) -> None:
    """Write samples of a Gaussian Markov field on a torus, float32, in chunks of all samples and some cells a side."""
    rng, angle = np.random.default_rng(0), 2 * np.pi * np.fft.fftfreq(side)
    wave = 4 - 2 * np.cos(angle)[:, None] - 2 * np.cos(angle[: side // 2 + 1])
    gain = 1 / np.sqrt(kappa + wave)
    gain /= np.sqrt((gain**2).mean())
    noise = (np.fft.rfft2(rng.normal(size=(side, side))) for _ in range(n_samples))
    write_fields(path, (np.fft.irfft2(gain * z, s=(side, side)) for z in noise), side, chunk, n_samples)


def write_fields(path: Path, fields: Iterable[np.ndarray], side: int, chunk: int, n_samples: int = SAMPLES) -> None:
    """Write square fields, float32, in chunks of all samples and some cells a side."""
    import dask.array
    import xarray as xr

    from nearfield.data.zarr_store import write_zarr

    with tempfile.TemporaryDirectory() as folder:
        shape = (n_samples, side, side)
        x = np.memmap(Path(folder) / "x", dtype=np.float32, mode="w+", shape=shape)
        for k, values in enumerate(fields):  # neither a sample's chunks nor all samples are in memory together
            x[k] = values
        chunks = (n_samples, min(side, chunk), min(side, chunk))
        stored = xr.DataArray(dask.array.from_array(x, chunks=chunks), dims=("sample", "y", "x"), name="level")
        write_zarr(stored.to_dataset(), path)


class Cost(NamedTuple):
    """Seconds of each stage, of processors in all, here and by the busiest worker, and peaks of memory in GiB."""

    seconds: dict[str, float]
    total: float
    processor: float
    driver: float
    busiest: float
    largest: float
    together: float
    largest_worker: float
    digest: str


@dataclass
class Watch:
    """Peaks of memory, and seconds of the processors, of a process and all that it starts."""

    largest: dict[int, float] = field(default_factory=dict)
    seconds: dict[int, float] = field(default_factory=dict)
    together: float = 0.0

    def look(self, root: int) -> None:
        """Read /proc once."""
        now = 0.0
        for pid in _family(root):
            try:
                lines = Path(f"/proc/{pid}/status").read_text().splitlines()
                ticks = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
            except OSError:  # it has ended
                continue
            found = {line.partition(":")[0]: line.split()[1] for line in lines if line.startswith(("VmHWM", "RssAnon"))}
            self.largest[pid] = float(found.get("VmHWM", 0)) / 2**20
            self.seconds[pid] = sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK")
            now += float(found.get("RssAnon", 0)) / 2**20
        self.together = max(self.together, now)


def _family(root: int) -> list[int]:
    """Find the processes that descend from one, and itself."""
    parent = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                parent[int(entry)] = int(Path(f"/proc/{entry}/stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
    found = [root]
    for pid in found:
        found += [child for child, of in parent.items() if of == pid]
    return found


@contextmanager
def watched() -> Iterator[Watch]:
    """Watch this process for a while."""
    watch, over = Watch(), threading.Event()

    def look() -> None:
        while not over.wait(0.25):
            watch.look(os.getpid())

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield watch
    finally:
        over.set()
        thread.join()
        watch.look(os.getpid())


def measure(path: Path, folder: Path, workers: int, tile: int | None = None) -> Cost:
    """Fit and draw into a store, for a process that does nothing else; stages are timed by the clock without a tile."""
    if tile is not None:
        time.perf_counter = time.process_time  # the stages of the report, in seconds of the processor
    import nearfield as nf
    from nearfield.data import lazy
    from nearfield.data.zarr_store import open_zarr
    from nearfield.graph.tiling import Tiling

    lazy.WHOLE = 0  # however small, data stay where they are
    if tile is not None:
        Tiling.of.__func__.__defaults__ = (tile,)  # type: ignore[attr-defined]
    import nearfield._drawing
    import nearfield._large  # before the clock starts; that of workers goes on

    x, start, before = open_zarr(path)["level"], time.perf_counter(), time.process_time()
    with watched() as watch:
        model = nf.LocalizedDiffusion(method="gaussian", random_state=0, n_jobs=workers).fit(x)
        fitted = time.perf_counter()
        drawn = model.sample(DRAWS, random_state=0, store=folder / f"draws-{workers}-{time.time_ns()}.zarr")
        end, driver = time.perf_counter(), time.process_time() - before
    if workers > 1:
        tasks.release()  # its idle processes would keep this one
    report = model.fit_report_
    print(f"{path.name}, {workers} workers: {report.reason} {report.warnings}", flush=True)
    others = [peak for pid, peak in watch.largest.items() if pid != os.getpid()]
    return Cost(
        {**report.seconds, "fit, all": fitted - start, "draw": end - fitted},
        end - start,
        sum(watch.seconds.values()),
        driver,
        max((seconds for pid, seconds in watch.seconds.items() if pid != os.getpid()), default=0.0),
        max(watch.largest.values()),
        watch.together,
        max(others, default=0.0),
        hashlib.sha256(drawn.to_numpy().tobytes()).hexdigest(),
    )


def measure_files(folder: Path, n_files: int, side: int) -> tuple[float, float, float, str]:
    """Fit to many files of one sample each, directly and from their chunks written anew: GiB of peaks, GiB of data."""
    import warnings

    import xarray as xr

    import nearfield as nf
    from nearfield.data import lazy
    from nearfield.data.rechunking import rechunked

    for k in range(n_files):
        values = np.random.default_rng(k).standard_normal((1, side, side), dtype=np.float32)
        values += np.roll(values, 1, axis=1)
        file = xr.Dataset({"level": (("time", "y", "x"), values)}, coords={"time": [k]})
        file.to_netcdf(folder / f"{k:03}.nc", engine="h5netcdf")
    lazy.WHOLE = 0
    before = _peak()
    whole = xr.open_mfdataset(str(folder / "*.nc"), engine="h5netcdf", combine="nested", concat_dim="time")["level"]
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        settings: dict[str, Any] = {"method": "gaussian", "radius": 2, "pooling": 1.0, "random_state": 0}
        nf.LocalizedDiffusion(**settings).fit(rechunked(whole, folder / "tiles.zarr"), sample_dim="time")
        anew = _peak()
        nf.LocalizedDiffusion(**settings).fit(whole, sample_dim="time")
    advice = [f"'{w.message}'" for w in said if "written" in str(w.message) or "chunks of" in str(w.message)]
    return before, anew, _peak(), f"{whole.nbytes / 2**30:.2f} GiB of data. Said: {' '.join(advice)}."


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def stages(fresh: ProcessPoolExecutor, folder: Path, sides: list[int]) -> tuple[list[list[str]], list[str]]:
    """Processor seconds and memory of each stage, with slopes, on one worker and small tiles."""
    costs = [
        fresh.submit(measure, _stored(fresh, folder, side, math.isqrt(SMALL)), folder, 1, SMALL).result()
        for side in sides
    ]
    names = [*costs[0].seconds, "total", "memory, GiB"]
    values = np.array([[*cost.seconds.values(), cost.total, cost.largest] for cost in costs])
    rows = []
    for k, name in enumerate(names):
        bar = MEMORY_SLOPE if name.startswith("memory") else TIME_SLOPE
        n = np.log(np.square(sides))
        each = np.diff(np.log(np.maximum(values[:, k], 1e-3))) / np.diff(n)
        slope = float(np.log(max(values[-1, k], 1e-3) / max(values[0, k], 1e-3)) / (n[-1] - n[0]))
        cells = [f"{value:.2f}" for value in values[:, k]]
        rows.append([name, *cells, *(f"{s:.2f}" for s in each), f"{slope:.2f}", f"{bar:g}", verdict((slope, bar))])
    steps = [f"slope to {side}²" for side in sides[1:]]
    return rows, ["stage", *(f"{side} x {side}" for side in sides), *steps, "slope", "bar", "verdict"]


def million(fresh: ProcessPoolExecutor, folder: Path, side: int) -> tuple[list[list[str]], list[str]]:
    """Time and memory of one large field on two workers."""
    cost = fresh.submit(measure, _stored(fresh, folder, side), folder, 2).result()
    met = verdict((cost.total / 60, MINUTES), (cost.largest, LARGEST), (cost.together, TOGETHER))
    seconds = [f"{value:.0f}" for value in cost.seconds.values()]
    memory = [f"{cost.largest:.2f}", f"{cost.largest_worker:.2f}", f"{cost.together:.2f}"]
    row = [f"{side} x {side}", *seconds, f"{cost.total / 60:.1f}", f"{cost.processor:.0f}", *memory, met]
    header = ["field", *cost.seconds, "minutes", "processor s", "largest GiB", "worker GiB", "sum GiB", "verdict"]
    return [row], header


def workers(
    fresh: ProcessPoolExecutor, folder: Path, sides: list[int], repeats: int = 2
) -> tuple[list[list[str]], list[str]]:
    """One worker against two, in turn: by the clock, and by the processor as on a machine that does nothing else."""
    rows = []
    for side in sides:
        path, digests = _stored(fresh, folder, side), set()
        ratios = []
        for _ in range(repeats):
            alone, both = (fresh.submit(measure, path, folder, n).result() for n in (1, 2))
            digests |= {alone.digest, both.digest}
            ratios.append(
                [
                    *(alone.seconds[name] / both.seconds[name] for name in ("fit, all", "draw")),
                    alone.driver / (both.driver + both.busiest),
                    both.driver / alone.driver,
                ]
            )
        fit, draw, processor, serial = np.mean(ratios, axis=0)
        slow = verdict((SPEEDUP, fit), (SPEEDUP, draw))
        same = "yes" if len(digests) == 1 else "no"
        found = [f"{fit:.2f}", f"{draw:.2f}", f"{processor:.2f}", f"{serial:.0%}".replace("%", " %")]
        rows.append([f"{side} x {side}", *found, same, slow])
    return rows, ["field", "fit", "draw", "both, by the processor", "share of the driver", "same bits", "verdict"]


def _stored(fresh: ProcessPoolExecutor, folder: Path, side: int, chunk: int = math.isqrt(TILE)) -> Path:
    """Make a store whose chunks are tiles."""
    path = folder / f"{side}-{chunk}.zarr"
    if not path.exists():
        fresh.submit(make_store, path, side, chunk).result()
    return path


def main() -> None:
    """Run the parts that are asked for, print the tables, and write them into a page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", default=["stages", "million", "workers", "files"])
    parser.add_argument("--sides", type=int, nargs="+", default=[100, 316, 1000])
    parser.add_argument("--pairs", type=int, nargs="+", default=[500, 1000], help="sides where workers are compared")
    parser.add_argument("--markdown", type=Path, help="page whose sections are replaced")
    asked = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as name,
        ProcessPoolExecutor(1, mp_context=get_context("spawn"), max_tasks_per_child=1) as fresh,
    ):
        folder = Path(name)
        for part in asked.parts:
            if part == "stages":
                rows, header = stages(fresh, folder, asked.sides)
                notes = f"One worker, tiles of {math.isqrt(SMALL)} x {math.isqrt(SMALL)}: seconds of the processor."
            elif part == "million":
                rows, header = million(fresh, folder, asked.sides[-1])
                notes = f"N = {SAMPLES}, two workers: seconds of the clock; {DRAWS} members into a store."
            elif part == "workers":
                rows, header = workers(fresh, folder, asked.pairs)
                notes = (
                    f"N = {SAMPLES}, {DRAWS} members: seconds of one worker over those of two, bar {SPEEDUP}; by the "
                    "processor: over those of the driver and the busier worker, which begins with its imports."
                )
            else:
                before, anew, direct, said = fresh.submit(measure_files, folder, 200, 400).result()
                rows = [["200 files", f"{before:.2f}", f"{anew:.2f}", f"{direct:.2f}"]]
                header, notes = ["data", "GiB before", "GiB, chunks written anew", "GiB, directly"], said
            publish(asked.markdown, f"large: {part}", header, rows, notes)


if __name__ == "__main__":
    main()
