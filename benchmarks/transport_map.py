"""The Gaussian field beside Bayesian transport maps, the strongest rival for few samples: held-out densities.

Made data by default: fields of an exponential covariance, and the same with non-linear conditionals (x_i = linear part
+ 2 sin(4 u), u the weighted two nearest earlier values) on 30 x 30 places, and double-well fields. The packaged
temperature maps come with --temperatures; log-precipitation over the Americas (98 years of a climate model, published
with the method) with --americas VALUES.csv LOCATIONS.csv, zipped or not: a place a row, and its longitude and latitude.
Places that touch the floor of the data in any year are left out, and counted. The last 18 years are the test.

`python -m benchmarks.transport_map [--full] [--temperatures] [--americas VALUES LOCATIONS]`
"""

from __future__ import annotations

import argparse
import time
import warnings
import zipfile
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
import torch
import xarray as xr
from sklearn.covariance import LedoitWolf

from benchmarks.law import lattice
from benchmarks.peer.transport_map import Order, TransportMap
from benchmarks.table import show
from benchmarks.temperature import directions
from nearfield import LocalizedDiffusion
from nearfield.datasets import north_america_temperature

if TYPE_CHECKING:
    from jaxtyping import Float

    Places = Float[np.ndarray, "sample place"]

SIDE = 30
RANGE = 0.3
"""Of the exponential covariance, on the unit square."""
TESTED = 100
LAST = 18
"""Years of the test over the Americas."""
MARGINALS = ("standardize", "quantile", "auto")
"""Of the field, unless others are asked for."""


class Task(NamedTuple):
    """Samples to learn from and to be scored.

    Attributes
    ----------
    name : str
    train, test : ndarray, shape (sample, place)
    points : ndarray, shape (place, axis)
        Where the places are, with straight-line distances.
    shaped : callable
        Turns such samples into what nearfield reads.
    settings : dict
        Of nearfield, besides method and marginal.
    entropy : float
        What the true law would score, nats per dimension; nan where it is unknown.
    """

    name: str
    train: Places
    test: Places
    points: Float[np.ndarray, "place axis"]
    shaped: Callable[[Places], Any]
    settings: dict[str, Any]
    entropy: float = float("nan")


def conditionals(points: Float[np.ndarray, "place axis"]) -> tuple[Order, np.ndarray, np.ndarray]:
    """Order, weights of the earlier neighbours and conditional deviations of the exponential covariance."""
    order = Order.of(points)
    at = points[order.order]
    weight, deviation = np.zeros(order.before.shape), np.ones(len(at))
    for i in range(1, len(at)):
        near = at[order.before[i][order.present[i]]]
        inner = np.exp(-np.linalg.norm(near[:, None] - near, axis=2) / RANGE)
        cross = np.exp(-np.linalg.norm(near - at[i], axis=1) / RANGE)
        weight[i, : len(near)] = np.linalg.solve(inner, cross)
        deviation[i] = np.sqrt(1 - cross @ weight[i, : len(near)])
    return order, weight, deviation


def simulated(n: int, seed: int, *, bent: bool) -> Task:
    """Draw a field of the exponential covariance, or the one with non-linear conditionals."""
    points = np.stack(np.meshgrid(*2 * [np.linspace(0, 1, SIDE)], indexing="ij"), axis=-1).reshape(-1, 2)
    order, weight, deviation = conditionals(points)
    noise, x = np.random.default_rng(seed).normal(size=(n + TESTED, len(points))), np.empty((n + TESTED, len(points)))
    for i in range(len(points)):
        parts = x[:, order.order[order.before[i]]] * weight[i] if i else np.zeros((len(x), 2))
        x[:, order.order[i]] = parts.sum(axis=1) + deviation[i] * noise[:, i]
        if bent:
            x[:, order.order[i]] += 2 * np.sin(4 * parts[:, :2].sum(axis=1))
    entropy = float(np.log(deviation).mean() + 0.5 * np.log(2 * np.pi * np.e))
    name = "non-linear fields" if bent else "linear fields"
    return Task(name, x[:n], x[n:], points, lambda x: x.reshape(-1, SIDE, SIDE), {}, entropy)


def double_well(n: int, seed: int) -> Task:
    """Draw double-well fields on a torus, of which both know that it has no ends."""
    law = lattice()
    x = law.draw(n + TESTED, seed)[..., 0]
    angle = 2 * np.pi * np.indices(law.shape).reshape(2, -1).T / np.array(law.shape)
    points = np.concatenate([np.cos(angle), np.sin(angle)], axis=1)
    return Task("double-well fields", x[:n], x[n:], points, lambda x: x.reshape(-1, *law.shape), {"graph": law.graph})


def temperatures(n: int) -> Task:
    """Take the last n years of training, and scenario E1 as the test."""
    maps = north_america_temperature()
    late = (maps["scenario"] == "E1").to_numpy()
    values = maps.to_numpy().reshape(len(maps), -1).astype(np.float64)

    def shaped(x: Places) -> xr.DataArray:
        coordinates = {"lat": maps["lat"], "lon": maps["lon"]}
        return xr.DataArray(x.reshape(-1, *maps.shape[1:]), dims=maps.dims, coords=coordinates)

    return Task("temperatures", values[~late][-n:], values[late], directions(maps), shaped, {"sample_dim": "year"})


def americas(values: str, locations: str, sizes: Sequence[int], split: int) -> Iterator[Task]:
    """Read the values; split 0 takes the years as they come, others shuffle them first."""
    x, place = table(values, None).to_numpy(dtype=np.float64).T, table(locations, 0)
    kept = (x > x.min() + 1e-6).all(axis=0)
    print(f"Americas: {(~kept).sum()} of {len(kept)} places touch the floor and are left out")
    if split:
        x = x[np.random.default_rng(split).permutation(len(x))]
    row, lat = pd.factorize(place["lat"], sort=True)
    column, lon = pd.factorize(place["lon"], sort=True)
    angle = np.deg2rad(place[kept])
    points = np.stack(
        [np.cos(angle["lat"]) * np.cos(angle["lon"]), np.cos(angle["lat"]) * np.sin(angle["lon"]), np.sin(angle["lat"])]
    ).T

    def shaped(x: Places) -> xr.DataArray:
        maps = np.full((len(x), len(lat), len(lon)), np.nan)
        maps[:, row[kept], column[kept]] = x
        return xr.DataArray(maps, dims=("year", "lat", "lon"), coords={"lat": lat, "lon": lon})

    for n in sizes:
        name = f"Americas, split {split}"
        yield Task(name, x[:n, kept], x[-LAST:, kept], points, shaped, {"sample_dim": "year"})


def table(path: str, header: int | None) -> pd.DataFrame:
    """Read a table of numbers; of an archive the first member counts."""
    if not path.endswith(".zip"):
        return pd.read_csv(path, header=header)
    with zipfile.ZipFile(path) as archive, archive.open(archive.namelist()[0]) as file:
        return pd.read_csv(file, header=header)


def ours(task: Task, marginal: str) -> float:
    """Score the Gaussian field."""
    settings = dict(task.settings)
    labels = {"sample_dim": settings.pop("sample_dim")} if "sample_dim" in settings else {}
    model = LocalizedDiffusion(method="gaussian", marginal=marginal, random_state=0, **settings)
    model.fit(task.shaped(task.train), **labels)
    return -float(model.score_samples(task.shaped(task.test)).mean()) / task.test.shape[1]


def standardized(task: Task) -> tuple[Places, Places, float]:
    """Standardise by the training samples; the mean logarithm of the scales comes last."""
    center, scale = task.train.mean(axis=0), task.train.std(axis=0, ddof=1)
    return (task.train - center) / scale, (task.test - center) / scale, float(np.log(scale).mean())


def theirs(task: Task, linear: bool) -> float:
    """Score the transport map."""
    train, test, log_scale = standardized(task)
    law = TransportMap(train, task.points, linear=linear)
    return log_scale - float(law.log_prob(test).mean()) / test.shape[1]


def ledoit_wolf(task: Task) -> float:
    """Score a Gaussian of the Ledoit-Wolf covariance."""
    train, test, log_scale = standardized(task)
    return log_scale - float(LedoitWolf().fit(train).score(test)) / test.shape[1]


def row(task: Task, marginals: Sequence[str]) -> list[str]:
    """Score all of them on a task."""
    start = time.process_time()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        own = [ours(task, marginal) for marginal in marginals]
        between = time.process_time()
        rival = [theirs(task, linear) for linear in (True, False)]
    seconds = [between - start, time.process_time() - between]
    scores = [*own, *rival, ledoit_wolf(task), task.entropy]
    cells = ["" if np.isnan(score) else f"{score:.3f}" for score in scores]
    made = [task.name, str(len(task.train)), *cells, *(f"{part:.0f}" for part in seconds)]
    print("  " + "  ".join(made), flush=True)
    return made


def tasks(arguments: argparse.Namespace) -> Iterator[Task]:
    """Yield what was asked for, the small ones first."""
    seed = arguments.seed
    sizes = (20, 50, 200) if arguments.full else (20,)
    if not arguments.only_files:
        for n in sizes:
            yield simulated(n, seed, bent=False)
            yield simulated(n, seed, bent=True)
        if arguments.full:
            yield double_well(100, seed)
    if arguments.temperatures:
        yield from map(temperatures, (50, 240))
    if arguments.americas:
        yield from americas(*arguments.americas, arguments.sizes, arguments.split)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="all sizes of the made data, and double-well fields")
    parser.add_argument("--only-files", action="store_true", help="no made data")
    parser.add_argument("--temperatures", action="store_true")
    parser.add_argument("--americas", nargs=2, metavar=("VALUES", "LOCATIONS"))
    parser.add_argument("--sizes", type=int, nargs="+", default=[10, 20, 50, 80], help="years over the Americas")
    parser.add_argument("--split", type=int, default=0)
    parser.add_argument("--marginals", nargs="+", default=MARGINALS)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    header = [
        "data",
        "n",
        *(f"ours, {marginal}" for marginal in arguments.marginals),
        "BTM linear",
        "BTM",
        "Ledoit-Wolf",
        "truth",
    ]
    show(
        "Held-out negative log-density, nats per dimension",
        [*header, "CPU s, ours", "theirs"],
        [row(task, arguments.marginals) for task in tasks(arguments)],
        "BTM: Bayesian transport maps. All standardised by the training samples alone; Jacobian included.\n",
    )


if __name__ == "__main__":
    main()
