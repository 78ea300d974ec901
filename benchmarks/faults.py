"""What is left of a fit in tiles, and of its draws, that is killed: it goes on, to the same bits.

A child process fits 12 small tiles and draws from them: toys, or with `--real` a Gaussian field of lazily read data. It
is killed at random moments, whole or one of its workers, and started again until it ends. Every file is then compared
with that of a run left alone; of the model's own, which tells times, the digest.

    python -m benchmarks.faults --kills 20 --workers-killed 10
"""

from __future__ import annotations

import argparse
import contextlib
import filecmp
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import xarray as xr

from nearfield.data.codec import Codec
from nearfield.data.draw_store import DrawStore
from nearfield.data.tile_store import TileStore
from nearfield.graph.tiling import BoxTiling, Tiling
from nearfield.noise import Stream, normals
from nearfield.tasks import cluster, run

N_TILES, N_MEMBERS = 12, 3


def fit_tile(tile: int, tiles: TileStore) -> None:
    """Take as long as a small tile does, and write what depends on the tile alone."""
    drawn = np.random.default_rng(tile).normal(size=(300, 300))
    time.sleep(0.05)
    tiles.write(tile, {"factor": np.linalg.cholesky(drawn @ drawn.T + 300 * np.eye(300))})


def draw_tile(address: tuple[int, int], draws: DrawStore) -> None:
    """Draw the vertices of a tile."""
    member, tile = address
    assert draws.tiling is not None
    vertices = draws.tiling.vertices(draws.tiling.box(tile))
    z = normals(1, Stream.EXACT, [member], 0, draws.codec.n_vertices, 1)[0]
    time.sleep(0.01)
    draws.write(member, tile, z[vertices])


def work_really(folder: Path) -> None:
    """Fit a field to lazily read data, and draw from it, or go on with both."""
    from nearfield import LocalizedDiffusion
    from nearfield.data import lazy

    Tiling.of.__func__.__defaults__ = (144,)  # type: ignore[attr-defined]  # small tiles
    lazy.WHOLE = 0  # type: ignore[attr-defined]  # no data small enough to be loaded
    x = np.random.default_rng(0).normal(size=(30, 40, 44))
    x = x + 0.7 * np.roll(x, 1, axis=1)
    data = xr.DataArray(x, dims=("sample", "y", "x")).chunk({"y": 20, "x": 20})
    model = LocalizedDiffusion(method="gaussian", radius=3, pooling=1.0, random_state=0)
    model.fit(data, checkpoint=folder / "maps.nearfield")
    model.save(folder / "maps.nearfield")
    (folder / "digest").write_text(model.digest_)
    if not (folder / "maps.zarr").exists():
        model.sample(N_MEMBERS, random_state=1, store=folder / "maps.zarr")


def work(folder: Path) -> None:
    """Fit and draw the tiles of toys that lack."""
    tiles = TileStore(folder / "toy.nearfield")
    tiles.claim({"toy": 1})
    run(fit_tile, sorted({*range(N_TILES)} - tiles.done()), tiles)
    tiles.finish({"kind": "toy"}, {"tiles": np.arange(N_TILES)})
    (folder / "digest").write_text(tiles.digest())
    if (folder / "toy.zarr").exists():
        return
    codec = Codec.fit(xr.DataArray(np.random.default_rng(0).normal(size=(9, 24, 32)), dims=("sample", "y", "x")))
    tiling = BoxTiling(codec.graph, (8, 8))
    draws = DrawStore.create(folder / "toy.zarr", codec, N_MEMBERS, tiling, key={"model": tiles.digest()})
    run(draw_tile, draws.left(), draws)
    draws.complete()


def started(folder: Path, workers: int, *, real: bool) -> subprocess.Popen[bytes]:
    """Begin or go on in a process of its own, a group that can be killed whole; return once it works."""
    folder.mkdir(exist_ok=True)
    command = [sys.executable, "-m", "benchmarks.faults", "--child", str(folder), "--workers", str(workers)]
    command += ["--real"] if real else []
    process = subprocess.Popen(command, start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    return process


def end(process: subprocess.Popen[bytes]) -> float:
    """Wait for the end, which is a good one, and return the seconds that the work took."""
    assert process.stdout is not None
    start = time.monotonic()
    process.stdout.readline()
    seconds = time.monotonic() - start
    _, told = process.communicate(timeout=300)
    if process.returncode:
        raise RuntimeError(told.decode())
    return seconds


def same(first: Path, second: Path) -> bool:
    """Whether two folders have the same files, to the last byte, but for the model's own."""
    names = [
        {str(path.relative_to(each)) for path in each.rglob("*") if path.is_file() and path.name != "model.safetensors"}
        for each in (first, second)
    ]
    return names[0] == names[1] and not any(filecmp.cmpfiles(first, second, names[0], shallow=False)[1:])


def killed_whole(reference: Path, folder: Path, moment: float, workers: int, *, real: bool) -> bool:
    """Whether a run that is killed whole after so many seconds, and run again, has the same files."""
    process = started(folder, workers, real=real)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(timeout=moment)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    end(started(folder, workers, real=real))
    return same(reference, folder)


def killed_worker(reference: Path, folder: Path, moment: float, *, real: bool) -> bool:
    """Whether a run that loses a worker after so many seconds has the same files."""
    import psutil

    process = started(folder, 2, real=real)
    time.sleep(moment)
    with contextlib.suppress(psutil.NoSuchProcess, StopIteration):  # the work is done
        children = psutil.Process(process.pid).children(recursive=True)
        next(child for child in children if "spawn_main" in " ".join(child.cmdline())).kill()
    end(process)
    return same(reference, folder)


def trial(kills: int, workers_killed: int, *, real: bool = False) -> dict[str, tuple[int, int]]:
    """Return how many of how many runs end with the same bits, by what is killed."""
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as place:
        one, two = Path(place) / "one", Path(place) / "two"
        seconds = {1: end(started(one, 1, real=real)), 2: end(started(two, 2, real=real))}
        whole = [
            killed_whole(one, Path(place) / f"whole-{k}", rng.uniform(0, seconds[1 + k % 2]), 1 + k % 2, real=real)
            for k in range(kills)
        ]
        worker = [
            killed_worker(one, Path(place) / f"worker-{k}", rng.uniform(0, seconds[2]), real=real)
            for k in range(workers_killed)
        ]
        found = {"two workers": (int(same(one, two)), 1)}
    return found | {"killed whole": (sum(whole), kills), "worker killed": (sum(worker), workers_killed)}


def main() -> None:
    """Print the counts, or be the child."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--workers-killed", type=int, default=10)
    parser.add_argument("--child", type=Path)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--real", action="store_true")
    given = parser.parse_args()
    if given.child is not None:
        with cluster(given.workers):
            print("at work", flush=True)
            (work_really if given.real else work)(given.child)
            print("done", flush=True)
        return
    for name, (good, all_) in trial(given.kills, given.workers_killed, real=given.real).items():
        print(f"{name}: {good} of {all_} runs end with the same bits")


if __name__ == "__main__":
    main()
