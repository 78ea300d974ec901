"""A hybrid trained on crops and drawn tile by tile: equal to the whole, borders not visible, what a member costs.

The data are fields of 256 x 256 of a stationary law that is not Gaussian: an exponential field of length 6 plus .6
times the square of one of length 3. The network learns from crops of 64 x 64 of some of them. Its members on 256 x 256
are drawn in tiles of 64 x 64.

Borders: variance of the cells beside the borders of tiles, and correlation of neighbours across them, both over the
same in the middle between borders, with standard errors over members; and the AUC of a classifier of 5 x 5 windows
across borders against windows in the middle, with its floor: one middle against another.

`--store` goes from end to end instead: 50 fields of 1000 x 1000 in a zarr store, fitted on crops that are read from it,
and members drawn tile by tile into another, on two workers.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from benchmarks.large import SAMPLES, watched, write_fields
from benchmarks.quality import classifier_area
from benchmarks.table import ratio_of_means, show, verdict
from nearfield.distribution import DiffusionModel
from nearfield.fitting.recipe import Recipe
from nearfield.graph import DependencyGraph
from nearfield.methods.base import FitOptions
from nearfield.methods.hybrid import Hybrid
from nearfield.process import time_of
from nearfield.samples import Samples
from nearfield.score.base import Score
from nearfield.score.tiled import TiledScore

LENGTH, SIDE, CROP = 256, 64, 64
LARGE = 1000
EQUAL = 1e-5
"""Bar of the largest difference between the tiles and the whole."""
VISIBLE = 3.0
"""Standard errors beyond which a border counts as visible."""
SIGMAS = (0.1, 1.0, 10.0)


def main() -> None:
    """Train, draw and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--members", type=int, default=8)
    parser.add_argument("--steps", type=int, default=300, help="of the training")
    parser.add_argument("--crops", type=int, default=400)
    parser.add_argument("--store", type=int, nargs="?", const=LARGE, help="cells a side, from store to store")
    arguments = parser.parse_args()
    if arguments.store:
        from_store(arguments.store, arguments.members)
        return
    start = time.process_time()
    law = trained(arguments.crops, arguments.steps)
    print(f"trained in {time.process_time() - start:.0f} CPU s")
    measured(law, arguments.members)


def measured(law: DiffusionModel, members: int) -> None:
    """Print the tables of a law of crops."""
    crop, graph = DependencyGraph.grid((CROP, CROP)), DependencyGraph.grid((LENGTH, LENGTH))
    large = law.extended(crop, DependencyGraph.grid((LARGE, LARGE)))
    assert isinstance(large.score, TiledScore)
    part = large.score.part
    tiled = TiledScore(part, graph, (CROP, CROP), (False, False), (SIDE, SIDE))
    equality(tiled, part.extended(crop, graph))
    small = DiffusionModel(
        tiled, law.largest_eigenvalue, large.field and law.gaussian.score.extended(crop, graph), large.start
    )
    start = time.process_time()
    fields = small.sample_tiles(range(members), seed=0)
    assert fields is not None
    seconds = (time.process_time() - start) / members
    moments(fields.reshape(-1, LENGTH, LENGTH), fields_of(8, np.random.default_rng(9)))
    borders(fields.reshape(-1, LENGTH, LENGTH), SIDE)
    cost(large, seconds)


def from_store(side: int, members: int) -> None:
    """Fit to a zarr store of large fields, draw members into another on two workers, and look at them."""
    import nearfield as nf
    from nearfield.data import lazy
    from nearfield.data.zarr_store import open_zarr

    lazy.WHOLE = min(lazy.WHOLE, SAMPLES * side**2 - 1)  # smaller fields stay where they are too
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder, watched() as watch:
        write_fields(Path(folder) / "fields.zarr", (fields_of(1, rng, side)[0] for _ in range(SAMPLES)), side, 128)
        start = time.perf_counter()
        fitted = nf.LocalizedDiffusion(method="hybrid", pooling=1, random_state=0, n_jobs=2)
        fitted.fit(open_zarr(Path(folder) / "fields.zarr")["level"])
        trained = time.perf_counter()
        drawn = fitted.sample(members, random_state=0, store=Path(folder) / "members.zarr").to_numpy()
        end = time.perf_counter()
    law = fitted.model_.law
    assert isinstance(law, DiffusionModel)
    assert isinstance(law.score, TiledScore)
    print(fitted.fit_report_.reason, fitted.fit_report_.warnings)
    row = [f"{side} x {side}", f"{(trained - start) / 60:.1f}", f"{(end - trained) / members / 60:.1f}"]
    row += [f"{sum(watch.seconds.values()):.0f}", f"{max(watch.largest.values()):.2f}", f"{watch.together:.2f}"]
    header = ["fields", "fit, minutes", "a member, minutes", "processor s, with the data", "largest GiB", "sum GiB"]
    show("From store to store", header, [row], f"{SAMPLES} fields, {members} members, two workers.")
    truth = fields_of(members, np.random.default_rng(9), side)
    moments(drawn, truth)
    borders(drawn, law.score.side[0])
    area = classifier_area(somewhere(drawn), somewhere(truth), 1, np.random.default_rng(0))
    floor = classifier_area(
        somewhere(fields_of(members, np.random.default_rng(10), side)), somewhere(truth), 1, np.random.default_rng(0)
    )
    show(
        "AUC of 6 x 6 windows against fields of the law",
        ["members", "other fields of the law"],
        [[f"{area:.4f}", f"{floor:.4f}"]],
    )


def somewhere(fields: np.ndarray, each: int = 1000) -> np.ndarray:
    """Windows of 6 x 6 at random places."""
    rng, side = np.random.default_rng(1), fields.shape[-1]
    corners = rng.integers(side - 6, size=(len(fields), each, 2))
    return np.stack([x[i : i + 6, j : j + 6] for x, places in zip(fields, corners, strict=True) for i, j in places])


def fields_of(n: int, rng: np.random.Generator, side: int = LENGTH) -> np.ndarray:
    """Fields of the law, of mean 0 and variance 1."""
    return (exponential(n, 6.0, rng, side) + 0.6 * (exponential(n, 3.0, rng, side) ** 2 - 1)) / np.sqrt(1 + 2 * 0.6**2)


def exponential(n: int, length: float, rng: np.random.Generator, side: int) -> np.ndarray:
    """Gaussian fields of exponential covariance, cut from tori of twice the length."""
    around = np.minimum(np.arange(2 * side), 2 * side - np.arange(2 * side))
    power = np.fft.fft2(np.exp(-np.hypot(around[:, None], around) / length)).real.clip(0)
    drawn = np.empty((n, side, side))
    for k in range(n):
        noise = np.fft.fft2(rng.normal(size=(2 * side, 2 * side)))
        drawn[k] = np.fft.ifft2(np.sqrt(power) * noise).real[:side, :side]
    return drawn


def trained(n_crops: int, steps: int) -> DiffusionModel:
    """Train a hybrid on crops, those of one field together."""
    rng = np.random.default_rng(0)
    whole = fields_of(12, rng)
    of_field = np.sort(rng.integers(len(whole), size=n_crops))
    corners = rng.integers(LENGTH - CROP + 1, size=(n_crops, 2))
    crops = np.stack([whole[k, i : i + CROP, j : j + CROP] for k, (i, j) in zip(of_field, corners, strict=True)])
    samples = Samples(crops.reshape(n_crops, -1, 1), DependencyGraph.grid((CROP, CROP)), ordered=True)
    samples = samples.grouped(of_field)
    fitted = Hybrid(pooling=1.0, recipe=Recipe(steps=steps, batch_size=4)).fit(samples, FitOptions(bounded=True))
    print(fitted.reason)
    assert isinstance(fitted.law, DiffusionModel)
    return fitted.law


def equality(tiled: TiledScore, whole: Score) -> None:
    """Compare the denoised states of one noise."""
    x = torch.from_numpy(np.random.default_rng(1).normal(size=(1, LENGTH**2, 1)))
    rows = []
    with torch.inference_mode():
        for sigma in SIGMAS:
            error = float((tiled.denoise(x, time_of(sigma)) - whole.denoise(x, time_of(sigma))).abs().max())
            rows.append([f"{sigma:g}", f"{error:.1e}", f"{EQUAL:.0e}", verdict((error, EQUAL))])
    show(
        f"Tiles against the whole, {LENGTH} x {LENGTH}",
        ["noise", "largest difference", "bar", "verdict"],
        rows,
        f"{type(tiled.part).__name__}; boxes reach {tiled.radius} cells beyond tiles.",
    )


def moments(fields: np.ndarray, truth: np.ndarray) -> None:
    """Compare the members with fields of the law: moments of the values, and of means over blocks."""

    def described(x: np.ndarray) -> list[float]:
        length = x.shape[-1] // 32 * 32
        blocks = x[:, :length, :length].reshape(len(x), length // 32, 32, -1, 32).mean(axis=(2, 4))
        lags = [float((x[:, :, k:] * x[:, :, :-k]).mean() / (x**2).mean()) for k in (1, 4, 16)]
        return [float((x**2).mean()), float((x**3).mean()), *lags, float((blocks**2).mean())]

    show(
        "Moments",
        ["", "variance", "third", "lag 1", "lag 4", "lag 16", "means of 32 x 32"],
        [
            [name, *(f"{v:.3f}" for v in described(x))]
            for name, x in ((f"law, {len(truth)} fields", truth), ("members", fields))
        ],
    )


def borders(fields: np.ndarray, tile: int) -> None:
    """Compare cells at the borders of tiles with those in the middle between them."""
    fields = np.concatenate([fields, np.swapaxes(fields, 1, 2)], axis=0)  # both directions, as columns
    members, length = len(fields) // 2, fields.shape[-1]
    at, middle, other = (np.arange(tile, length - 6, tile) - shift for shift in (0, tile // 2, tile // 4))

    def both(each: np.ndarray) -> np.ndarray:
        return (each[:members] + each[members:]) / 2

    def variance(columns: np.ndarray) -> np.ndarray:
        return both((fields[:, :, np.concatenate([columns - 1, columns])] ** 2).mean(axis=(1, 2)))

    def product(columns: np.ndarray) -> np.ndarray:
        return both((fields[:, :, columns - 1] * fields[:, :, columns]).mean(axis=(1, 2)))

    def windows(columns: np.ndarray) -> np.ndarray:
        rows = np.arange(tile // 2 - 18, length - 40, tile)[:, None] + np.arange(0, 36, 6)  # away from other borders
        return np.concatenate(
            [fields[:, row : row + 6, column - 3 : column + 3] for column in columns for row in rows.ravel()]
        )

    rows = []
    for name, of in (("variance", variance), ("product of neighbours", product)):
        for place, columns in (("border / middle", at), ("middle / middle", other)):
            ratio, error = ratio_of_means(of(columns), of(middle))
            good = verdict((abs(ratio - 1), VISIBLE * error))
            rows.append([f"{name}, {place}", f"{ratio:.4f}", f"{error:.4f}", good])
    areas = [classifier_area(windows(one), windows(middle), 1, np.random.default_rng(0)) for one in (at, other)]
    error = 1 / np.sqrt(6 * len(windows(at)))  # of an AUC of 1/2 on two sides of n windows
    for place, area in zip(("border / middle", "middle / middle"), areas, strict=True):
        rows.append([f"AUC, {place}", f"{area:.4f}", f"{error:.4f}", verdict((abs(area - 0.5), VISIBLE * error))])
    show(f"Borders of tiles, {members} members", ["", "found", "error", "verdict"], rows)


def cost(law: DiffusionModel, seconds: float) -> None:
    """Time a tile of the large lattice, and say what a member of it costs."""
    score = law.score
    assert isinstance(score, TiledScore)
    x = torch.from_numpy(np.random.default_rng(1).normal(size=(1, score.box(0).n_cells, 1)))
    spent = []
    with torch.inference_mode():
        for sigma in SIGMAS:
            score.denoise_tile(0, x, time_of(sigma))
            start = time.process_time()
            score.denoise_tile(0, x, time_of(sigma))
            spent.append(time.process_time() - start)
    times = [t for t in law.default_sampler().schedule.times if law.start is None or t <= law.start]
    each, readings = float(np.mean(spent)), len(times) + 1
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 2**30
    show(
        "Cost of a member, CPU s",
        [f"{LENGTH} x {LENGTH}", f"a tile of {LARGE} x {LARGE}", "tiles", f"{LARGE} x {LARGE}, from that", "peak GiB"],
        [
            [
                f"{seconds:.0f}",
                f"{each:.2f}",
                str(len(score.tiling)),
                f"{each * len(score.tiling) * readings:.0f}",
                f"{peak:.2f}",
            ]
        ],
        f"Tiles of {score.side} in boxes that reach {score.radius} further; {readings} readings of the score.",
    )


if __name__ == "__main__":
    main()
