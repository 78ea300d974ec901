"""Whether this checkout behaves as another did: twelve models fitted, drawn from, completed and scored by both.

Each checkout has a process of its own, on one thread, that fits the same data with the same seeds and writes what came
of it to a folder; this process compares. What is computed in closed form may differ by rounding. Networks drift apart
with the rounding of their training: their held-out losses must agree within a standard error, and so must the means and
deviations of their draws, in the root mean square over the vertices. A model file of this checkout must give back the
model to the last bit.

Run as ``python -m benchmarks.behaviour --old ../before/src chain grid-neural``: models whose names begin so.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import resource
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import pandas as pd
import xarray as xr

import nearfield
from benchmarks.table import show, verdict
from nearfield import DependencyGraph, LocalizedDiffusion, Pooling, load

if TYPE_CHECKING:
    from jaxtyping import Float

    Data = np.ndarray | pd.DataFrame | xr.DataArray | xr.Dataset
    Samples = Float[np.ndarray, "sample ..."]

HERE = Path(__file__).resolve().parents[1]
NETWORKS = ("auto", "neural", "hybrid", "paper")
"""Methods whose draws come from what was trained."""
DENSITIES = ("auto", "gaussian")
"""Methods that complete and score: by the Gaussian field, in closed form."""
RECIPES = ("nearfield.methods", "nearfield.fitting.recipe", "nearfield.fitting.paper", "nearfield.paper.recipe")
"""Modules where checkouts have the classes of recipes."""
EXACT = 1e-9
"""Largest difference of what is computed in closed form, in standard deviations or relative."""
APART = 1.0
"""Largest difference of what networks give, in standard errors."""
DRAWS, TEST, PARTIAL = 40, 12, 3
"""Members drawn, samples held out, and those of them that are completed."""


class Case(NamedTuple):
    """Data to fit, to score and to complete, and the arguments of the estimator."""

    train: Data
    test: Data
    partial: Data
    arguments: dict[str, Any]


class Result(NamedTuple):
    """What came of a case: plain values, and arrays."""

    plain: dict[str, Any]
    arrays: dict[str, np.ndarray]


class Line(NamedTuple):
    """One comparison; without a bar it is there to be seen."""

    what: str
    difference: float
    bar: float | None = None


def recipe(name: Literal["Recipe", "PaperRecipe"], **numbers: int) -> Any:
    """Make a recipe, by the class of that name where the checkout has it and by the names that it gives numbers."""
    for home in RECIPES:
        try:
            kind = getattr(import_module(home), name)
        except (ModuleNotFoundError, AttributeError):
            continue
        if "n_networks" in numbers and not hasattr(kind, "n_networks"):
            numbers["members"] = numbers.pop("n_networks")
        return kind(**numbers)
    raise ImportError(f"{name} must be in one of {', '.join(RECIPES)}, and is in none; add where it is to RECIPES")


def held_out(model: LocalizedDiffusion) -> tuple[float, float] | None:
    """Held-out loss of the network that was trained and its standard error; None where none was held out."""
    training = model.fit_report_.training
    return None if training is None else (training.best.loss, training.best.error)


def field(rng: np.random.Generator, n: int, distance: Float[np.ndarray, "d d"], length: float = 3.0) -> Samples:
    """Draw samples of mean 0 and variance 1 whose correlations fall exponentially."""
    return rng.standard_normal((n, len(distance))) @ np.linalg.cholesky(np.exp(-distance / length)).T


def rough(rng: np.random.Generator, n: int, distance: Float[np.ndarray, "d d"]) -> Samples:
    """Draw samples whose size varies in space, so that a network has something to learn."""
    return field(rng, n, distance) * np.exp(0.7 * field(rng, n, distance))


def hops(*axes: tuple[int, bool]) -> Float[np.ndarray, "d d"]:
    """Count the steps between all cells of a lattice, from its lengths and whether each of them closes."""
    at = np.indices([length for length, _ in axes]).reshape(len(axes), -1)
    steps = np.abs(at[:, :, None] - at[:, None]).astype(np.float64)
    for k, (length, closes) in enumerate(axes):
        if closes:
            steps[k] = np.minimum(steps[k], length - steps[k])
    return steps.sum(axis=0)


def case(x: Samples, rng: np.random.Generator, wrap: Callable[[Samples], Data] = np.asarray, **arguments: Any) -> Case:
    """Hold out the last samples, and take out three in ten values of some of these."""
    test = x[-TEST:]
    holes = np.where(rng.uniform(size=test.shape) < 0.3, np.nan, test)
    return Case(wrap(x[:-TEST]), wrap(test), wrap(holes[:PARTIAL]), arguments)


def chain(method: str) -> Case:
    """Forty vertices: few samples of a law that changes on the way, positive values, variance 1, or rough."""
    rng = np.random.default_rng(1)
    if method == "paper":
        return case(rough(rng, 90, hops((40, False))), rng, method=method, recipe=recipe("PaperRecipe", steps=400))
    x = field(rng, 90, hops((40, False)))
    if method == "windowed":
        return case(np.exp(x), rng, method=method, marginal="log")
    if method == "masked":
        return case(x, rng, method=method, marginal="none")
    x[:, 20:] = 5 + 3 * field(rng, 90, hops((20, False)), length=0.5)
    return case(x[: TEST + 25], rng, method=method)


def grid(method: str) -> Case:
    """Eight by eight vertices: heavy tails, or values that begin at zero."""
    rng = np.random.default_rng(2)
    x = field(rng, 120, hops((8, False), (8, False))).reshape(-1, 8, 8)
    if method == "gaussian":
        return case(np.sinh(x), rng, method=method, marginal="quantile")
    return case(x**2, rng, method=method, marginal="sqrt", recipe=recipe("Recipe", steps=300))


def torus(method: str) -> Case:
    """Eight by eight vertices that close, rough, for two networks; or six by six with two channels, one positive."""
    rng = np.random.default_rng(3)
    if method == "hybrid":
        x = rough(rng, 150, hops((8, True), (8, True))).reshape(-1, 8, 8)
        graph = DependencyGraph.grid((8, 8), periodic=True)
        return case(x, rng, graph=graph, method=method, recipe=recipe("Recipe", steps=200, n_networks=2))
    x, y = (field(rng, 100, hops((6, True), (6, True))) for _ in range(2))
    both = np.stack([np.exp(0.5 * x), 10 + x + 3 * y], axis=-1)
    return case(both, rng, graph=DependencyGraph.grid((6, 6), periodic=True), method=method, marginal={0: "log"})


def latlon(method: str) -> Case:
    """Label daily maps around the globe, with land: one rough variable, or two, the second never negative."""
    rng = np.random.default_rng(4)
    shape, distance = (6, 12), hops((6, False), (12, True))
    land = rng.uniform(size=shape) < 0.2
    if method == "auto":
        x = rough(rng, 150, distance).reshape(-1, *shape)
        return case(np.where(land, np.nan, x), rng, maps, method=method, recipe=recipe("Recipe", steps=300))
    x, y = (field(rng, 100, distance).reshape(-1, *shape) for _ in range(2))
    both = np.stack([280 + 5 * x, (x + y) ** 2], axis=-1)
    return case(np.where(land[..., None], np.nan, both), rng, weather, method=method, marginal={"rain": "sqrt"})


def maps(x: Float[np.ndarray, "day lat lon"], name: str = "wind") -> xr.DataArray:
    """Label the days and the degrees."""
    days = np.datetime64("2001-01-01", "ns") + np.arange(len(x)) * np.timedelta64(1, "D")
    degrees = {"lat": np.arange(-50.0, 60.0, 20.0), "lon": np.arange(0.0, 360.0, 30.0)}
    return xr.DataArray(x, coords={"time": days, **degrees}, dims=("time", "lat", "lon"), name=name)


def weather(x: Float[np.ndarray, "day lat lon variable"]) -> xr.Dataset:
    """Label two variables."""
    return xr.Dataset({name: maps(x[..., k], name) for k, name in enumerate(("temperature", "rain"))})


def stations(method: str) -> Case:
    """Fifty points of the unit square: few rows of a data frame and a pooling that is given, or no law in common."""
    rng = np.random.default_rng(5)
    points = rng.uniform(size=(50, 2))
    distance, graph = np.linalg.norm(points[:, None] - points[None], axis=-1) / 0.1, DependencyGraph.knn(points, 6)
    if method == "gaussian":
        frame = partial(pd.DataFrame, columns=[f"station {k}" for k in range(50)])
        return case(field(rng, TEST + 30, distance), rng, frame, graph=graph, method=method, pooling=Pooling(0.5, 3.0))
    x = rough(rng, 120, distance) * np.linspace(1, 3, 50)
    own = {"radius": 1, "pooling": 0.0, "recipe": recipe("Recipe", steps=300)}
    return case(x, rng, graph=graph, method=method, **own)


CASES: dict[str, Callable[[], Case]] = {
    f"{make.__name__}-{method}": partial(make, method)
    for make, methods in (
        (chain, ("gaussian", "windowed", "masked", "paper")),
        (grid, ("gaussian", "neural")),
        (torus, ("windowed", "hybrid")),
        (latlon, ("gaussian", "auto")),
        (stations, ("gaussian", "neural")),
    )
    for method in methods
}
"""By name: the graph and the method."""


def numbers(data: Data) -> np.ndarray:
    """Values of data of any kind, variables last."""
    if isinstance(data, xr.Dataset):
        return np.stack([variable.to_numpy() for variable in data.data_vars.values()], axis=-1)
    return np.asarray(data)


def outputs(model: LocalizedDiffusion, asked: Case) -> dict[str, np.ndarray]:
    """Arrays that a fitted model gives."""
    found = {"sample": numbers(model.sample(DRAWS, random_state=11))}
    if asked.arguments["method"] in DENSITIES:
        found["impute"] = numbers(model.impute(asked.partial, n_samples=4, random_state=12))
        found["score_samples"] = model.score_samples(asked.test)
    return found


def result(name: str) -> Result:
    """Fit, use, save, load and use again, in this process."""
    asked, start = CASES[name](), time.process_time()
    with warnings.catch_warnings(), tempfile.TemporaryDirectory() as folder:
        warnings.simplefilter("ignore")
        model = LocalizedDiffusion(random_state=7, **asked.arguments).fit(asked.train)
        arrays, path = outputs(model, asked), Path(folder) / "model"
        model.save(path)
        again = load(path)
        repeated = outputs(again, asked)
    unlike = [key for key in arrays if arrays[key].tobytes() != repeated[key].tobytes()]
    plain = {
        "method": asked.arguments["method"],
        "radius": model.radius_,
        "pooling": asdict(model.pooling_),
        "held out": held_out(model),
        "unlike": unlike + ["digest_"] * (again.digest_ != model.digest_),
        "seconds": time.process_time() - start,
    }
    return Result(plain, arrays | {"deviation": numbers(asked.train).std(axis=0)})


def emit(names: Sequence[str], folder: Path) -> None:
    """Write what comes of the cases to a folder, a refusal too, and print where the library lies."""
    print(Path(nearfield.__file__).resolve().parents[1])
    for name in names:
        try:
            plain, arrays = result(name)
        except Exception as error:  # whatever it is, the other cases go on
            plain, arrays = {"refused": f"{type(error).__name__}: {error}"}, {}
        (folder / f"{name}.json").write_text(json.dumps(plain))
        np.savez(folder / f"{name}.npz", **arrays)


def measured(names: Sequence[str], source: Path) -> dict[str, Result]:
    """Results by name, from a process that imports the library from `source`."""
    paths = [str(source), str(HERE), *filter(None, [os.environ.get("PYTHONPATH")])]
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.behaviour", *names, "--emit", folder],
            env={**os.environ, **threads, "PYTHONPATH": os.pathsep.join(paths)},
            cwd=HERE,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            last = (done.stderr.strip().splitlines() or [""])[-1]
            refused = {"refused": f"the process ended with {done.returncode}: {last}"}
            return {name: Result(refused, {}) for name in names}
        if (used := done.stdout.splitlines()[0]) != str(source):
            raise RuntimeError(f"the process imported the library from {used} instead of {source}")
        return {name: read(Path(folder), name) for name in names}


def read(folder: Path, name: str) -> Result:
    """Read what `emit` wrote."""
    with np.load(folder / f"{name}.npz") as arrays:
        return Result(json.loads((folder / f"{name}.json").read_text()), dict(arrays))


def leaves(plain: Any, path: str = "") -> dict[str, float]:
    """Numbers in nested plain values by where they stand; None counts as one that is like itself only."""
    if isinstance(plain, dict | list | tuple):
        items = plain.items() if isinstance(plain, dict) else enumerate(plain)
        return {key: value for k, part in items for key, value in leaves(part, f"{path}.{k}").items()}
    return {f"{path} is None": 0.0} if plain is None else {path: float(plain)}


def relative(new: Any, old: Any) -> float:
    """Largest relative difference of the numbers in nested plain values; infinite where they are not the same ones."""
    ours, theirs = leaves(new), leaves(old)
    if ours.keys() != theirs.keys():
        return math.inf
    pairs = [(ours[key], theirs[key]) for key in ours if ours[key] != theirs[key]]
    return max((abs(a - b) / abs(b) if b else math.inf for a, b in pairs), default=0.0)


def largest(new: np.ndarray | None, old: np.ndarray | None, scale: np.ndarray | float) -> float:
    """Largest difference of two arrays over a scale; infinite where they differ in shape or in what is missing."""
    if new is None or old is None:
        return math.inf
    if new.shape != old.shape or new.dtype != old.dtype or not np.array_equal(np.isnan(new), np.isnan(old)):
        return math.inf
    return float(np.nanmax(np.abs(new - old) / scale))


def drift(new: Float[np.ndarray, "member ..."], old: Float[np.ndarray, "member ..."]) -> float:
    """Differences of the means and of the deviations of draws, in standard errors: the larger root mean square."""
    n, deviation = len(old), old.std(axis=0)
    mean = (new.mean(axis=0) - old.mean(axis=0)) / (deviation / math.sqrt(n))
    spread = (new.std(axis=0) - deviation) / (deviation / math.sqrt(2 * n))
    return math.sqrt(max(np.nanmean(mean**2), np.nanmean(spread**2)))


def reloaded(new: Result) -> Line:
    """Say how many outputs a model that was saved and loaded does not repeat to the last bit."""
    unlike = new.plain["unlike"]
    return Line(f"reloaded: {', '.join(unlike)}" if unlike else "reloaded", float(len(unlike)), 0.0)


def compared(new: Result, old: Result) -> list[Line]:
    """Compare what the two checkouts made of one case."""
    if "refused" in new.plain or "refused" in old.plain:
        return [Line("refused", math.inf, EXACT)]
    method, scale = old.plain["method"], old.arrays["deviation"]
    choices = [(found.plain["radius"], found.plain["pooling"]) for found in (new, old)]
    lines = [Line("radius_, pooling_", relative(*choices), EXACT)]
    members = new.arrays["sample"], old.arrays["sample"]
    apart = largest(*members, scale)
    lines.append(Line("sample", apart, None if method in NETWORKS else EXACT))
    if method in NETWORKS:
        error = math.inf if math.isinf(apart) else drift(*members)
        lines.append(Line("sample's moments / standard errors", error, APART))
    if method in DENSITIES:
        lines.append(Line("impute", largest(new.arrays.get("impute"), old.arrays.get("impute"), scale), EXACT))
        scores = new.arrays.get("score_samples"), old.arrays.get("score_samples")
        lines.append(Line("score_samples", largest(*scores, 1.0 if scores[1] is None else scores[1].std()), EXACT))
    ours, theirs = new.plain["held out"], old.plain["held out"]
    if ours and theirs:
        lines.append(Line("held-out loss / standard error", abs(ours[0] - theirs[0]) / theirs[1], APART))
    elif ours or theirs:
        lines.append(Line("held-out loss / standard error", math.inf, APART))
    return [*lines, reloaded(new)]


def cells(name: str, line: Line) -> list[str]:
    """Write the model, what is compared, the difference, the bar and the verdict."""
    what, difference, bar = line
    judged = ["", ""] if bar is None else [f"{bar:g}", verdict((difference, bar))]
    return [name, what, f"{difference:.3g}", *judged]


def table(new: dict[str, Result], old: dict[str, Result] | None) -> None:
    """Print all comparisons; without another checkout, what became of the model files."""
    rows, notes = [], []
    for name, found in new.items():
        if old is not None:
            lines = compared(found, old[name])
        else:
            lines = [Line("refused", math.inf, EXACT) if "refused" in found.plain else reloaded(found)]
        rows += [cells(name, line) for line in lines]
    for when, results in (("new", new), ("old", old or {})):
        notes += [f"{key}, {when}: {r.plain['refused']}" for key, r in results.items() if "refused" in r.plain]
        if results:
            seconds = {key: r.plain.get("seconds", math.nan) for key, r in results.items()}
            notes.append(f"CPU s, {when}: " + ", ".join(f"{key} {value:.1f}" for key, value in seconds.items()))
    show("", ["model", "compared", "largest difference", "bar", "verdict"], rows, "\n".join(notes))


def main(arguments: Sequence[str] | None = None) -> None:
    """Have both checkouts work through the models asked for, one after the other, and print one table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("names", nargs="*", metavar="MODEL", help=f"what names begin with: {', '.join(CASES)}")
    parser.add_argument("--old", metavar="SRC", help="the src folder of another checkout, to compare this one with")
    parser.add_argument("--emit", metavar="FOLDER", help="work in this process and write the results to a folder")
    options = parser.parse_args(arguments)
    names = [name for name in CASES if not options.names or name.startswith(tuple(options.names))]
    if options.emit:
        emit(names, Path(options.emit))
        return
    old = measured(names, Path(options.old).resolve()) if options.old else None
    table(measured(names, HERE / "src"), old)
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    print(f"CPU s in all, with the imports: {used.ru_utime + used.ru_stime:.0f}")


if __name__ == "__main__":
    main()
