"""Moments and densities of the Gaussian field that the defaults choose, with those of another checkout beside them.

Everything is chosen by held-out loss, end to end, and read off the fitted covariance: nothing is drawn but in the rows
``smooth``. Each row has a process of its own, on one thread, and prints the CPU seconds of its fits.

``temperature``: annual temperatures of a climate model, the last 240 or 50 years before scenario E1 for training, the
100 years of E1 for testing: losses, variances, correlations by distance, leading modes and roughness.
``chain``, ``grid``, ``matern``, ``exponential``, ``fractal``, ``stations``: known Gaussian laws of mean 0 and unit
variances, KL(truth || model).
``smooth``: fields smoother than their grid, the variance of draws and the memory of a fit.
``lattice`` and ``interval``: one fixed domain resolved ever finer, the lattice of Remark 2.2 of arXiv 2505.04417 and
Matern 3/2: the excess loss of the field's denoiser.

Run as ``python -m benchmarks.moments temperature smooth-48 --old ../before/src --seeds 1``: rows whose names begin so.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy.linalg import cho_factor, cho_solve, eigh
from scipy.ndimage import gaussian_filter

from benchmarks.gaussian_chain import generated_law
from benchmarks.table import ratio_of_means, show, verdict
from benchmarks.temperature import directions
from nearfield import LocalizedDiffusion
from nearfield.datasets import AutoregressiveChain, GaussianMarkovField, north_america_temperature
from nearfield.evaluation.metric import gaussian_kl
from nearfield.graph import DependencyGraph
from nearfield.graph.coordinate import EARTH_RADIUS
from nearfield.theory.concavity import lattice_precision

if TYPE_CHECKING:
    import xarray as xr
    from jaxtyping import Float

    Matrix = Float[np.ndarray, "d d"]

SEEDS = 4
RATIO = 1.1
"""Highest divergence from a known truth relative to that of the other checkout."""
DISTANCES, BAND = (500, 1000, 2000, 3000, 4000), 100
"""Great-circle distances in km, and how far from them a pair of vertices may be."""
MODES = 5
LIMIT = 12
"""GiB of addresses that a row may take, so that one that needs more fails alone."""
MEMORY = "peak memory of the process, GiB"
SIGMA = (0.1 / np.sqrt(2), 3.2 * np.sqrt(2))
"""Noise-to-signal ratios of `ExcessReference`, to the ends of its outermost cells."""


class Figure(NamedTuple):
    """One measured number, for each data set: the table shows means.

    ``low`` and ``high`` are the bars of the mean, ``ratio`` the highest mean relative to the other checkout.
    """

    name: str
    values: Sequence[float]
    low: float | None = None
    high: float | None = None
    ratio: float | None = None
    note: str = ""

    @property
    def mean(self) -> float:
        """Mean over the data sets."""
        return float(np.mean(self.values))


def timed_fit(
    x: np.ndarray | xr.DataArray, seed: int, graph: DependencyGraph | None = None, sample_dim: str | None = None
) -> tuple[LocalizedDiffusion, float]:
    """Fit the default Gaussian field, and take the CPU seconds of it."""
    start = time.process_time()
    model = LocalizedDiffusion(graph, method="gaussian", random_state=seed).fit(x, sample_dim=sample_dim)
    return model, time.process_time() - start


def temperature(n: int, seeds: int) -> list[Figure]:  # noqa: ARG001
    """One training set of n years; the bars differ between 240 years and 50."""
    long = n > 50
    maps = north_america_temperature()
    is_test = (maps["scenario"] == "E1").to_numpy()
    train, test = maps[~is_test][-n:], maps[is_test]
    model, seconds = timed_fit(train, 0, sample_dim="year")
    x = model.codec_.encode(train).astype(np.float64)[..., 0]
    deviation, d = x.std(axis=0), x.shape[1]
    unit = -float(np.log(deviation).mean())  # a density of x / deviation is that of x times the deviations
    y = model.marginal_(model.codec_.encode(test).astype(np.float64))
    loss = -model.score_.log_prob(y).mean() / d + np.log(model.marginal_.scale.numpy()).mean() + unit
    mean, covariance = generated_law(model)
    fitted, real = covariance / np.outer(deviation, deviation), np.asarray(np.corrcoef(x.T))
    variances = fitted.diagonal()
    return [
        Figure("loss of the field, nats/d", [loss], high=-0.8915 if long else -0.657),
        Figure("loss by score_samples, nats/d", [-model.score(test) / d + unit], high=-0.897 if long else -0.675),
        Figure("variance / data's, mean", [variances.mean()], 0.97, 1.03),
        Figure("variance / data's, deviation over vertices", [variances.std()], high=0.05 if long else 0.08),
        *correlation_figures(fitted, real, maps, bar=0.02 if long else 0.04),
        *(Figure(f"variance of mode {k} / data's", [v], 0.85, 1.15) for k, v in enumerate(modes(fitted, real), 1)),
        Figure("roughness / data's", [roughness_ratio(mean, covariance, x, model.graph_)], 0.98, 1.02),
        Figure("fit, CPU s", [seconds]),
    ]


def correlation_figures(fitted: Matrix, real: Matrix, maps: xr.DataArray, bar: float) -> list[Figure]:
    """Mean correlation of the pairs about each distance, less the data's."""
    place = directions(maps)
    away = EARTH_RADIUS * np.arccos(np.clip(place @ place.T, -1, 1))
    deviation = np.sqrt(fitted.diagonal())
    gap = fitted / np.outer(deviation, deviation) - real
    means = [float(gap[np.abs(away - distance) <= BAND].mean()) for distance in DISTANCES]
    return [
        Figure(f"correlation at {distance} km - data's", [mean], -bar, bar)
        for distance, mean in zip(DISTANCES, means, strict=True)
    ]


def modes(fitted: Matrix, real: Matrix) -> Float[np.ndarray, " mode"]:
    """Fitted variance along the leading eigenvectors of the data's, over the data's; largest first."""
    d = len(real)
    value, vector = eigh(real, subset_by_index=[d - MODES, d - 1])
    return (np.einsum("im,im->m", vector, fitted @ vector) / value)[::-1]


def roughness_ratio(
    mean: Float[np.ndarray, " d"], covariance: Matrix, x: Float[np.ndarray, "sample d"], graph: DependencyGraph
) -> float:
    """Mean squared difference of neighbours, expected under the law over that of the samples."""
    i, j = graph.adjacency.nonzero()
    expected = covariance[i, i] + covariance[j, j] - 2 * covariance[i, j] + (mean[i] - mean[j]) ** 2
    return float(expected.mean() / ((x[:, i] - x[:, j]) ** 2).mean())


def points(n: int = 600) -> Float[np.ndarray, "point axis"]:
    """Evenly at random in the unit square."""
    return np.random.default_rng(0).uniform(size=(n, 2))


def distances(p: Float[np.ndarray, "point axis"]) -> Matrix:
    """Straight-line distances of all pairs."""
    return np.linalg.norm(p[:, None] - p[None], axis=-1)


def cells(side: int) -> Float[np.ndarray, "cell axis"]:
    """Rows and columns of a square grid."""
    return np.indices((side, side)).reshape(2, -1).T.astype(np.float64)


def matern_5_2(distance: np.ndarray, length: float) -> np.ndarray:
    """Matern's correlation of smoothness 5/2."""
    u = np.sqrt(5) * distance / length
    return (1 + u + u**2 / 3) * np.exp(-u)


def matern_3_2(distance: np.ndarray, length: float) -> np.ndarray:
    """Matern's correlation of smoothness 3/2."""
    u = np.sqrt(3) * distance / length
    return (1 + u) * np.exp(-u)


def fractal(side: int) -> Matrix:
    """Correlation of a square cut from a torus of twice its side, spectrum k^-3."""
    k = np.fft.fftfreq(2 * side)
    k = np.hypot(k[:, None], k)
    k[0, 0] = np.inf
    torus = np.fft.ifft2(k**-3.0).real
    lag = (cells(side)[:, None] - cells(side)[None]).astype(int) % (2 * side)
    return torus[lag[..., 0], lag[..., 1]] / torus[0, 0]


def truth(name: str) -> tuple[Matrix, tuple[int, ...]]:
    """Covariance of a known law, and the lengths of the axes of its data."""
    if name == "chain":
        return AutoregressiveChain(0.8, 100).covariance(), (100,)
    if name == "grid":
        return GaussianMarkovField.nonstationary((16, 16), kappa=(0.15, 0.75)).covariance(), (16, 16)
    if name == "stations":
        return np.exp(-distances(points()) / 0.3), (len(points()),)
    side = 32
    covariance = {
        "matern": lambda: matern_5_2(distances(cells(side)), 6.0),
        "exponential": lambda: np.exp(-distances(cells(side)) / 8.0),
        "fractal": lambda: fractal(side),
    }[name]()
    return covariance, (side, side)


def known(name: str, n: int, seeds: int) -> list[Figure]:
    """Divergence from a known law, per dimension."""
    covariance, shape = truth(name)
    factor, d = np.linalg.cholesky(covariance), len(covariance)
    graph = DependencyGraph.knn(points(), 8) if name == "stations" else None
    found = []
    for seed in range(seeds):
        x = np.random.default_rng(1000 * n + seed).standard_normal((n, d)) @ factor.T
        model, seconds = timed_fit(x.reshape(n, *shape), seed, graph)
        mean, generated = generated_law(model)
        kl = gaussian_kl(covariance, generated) / d
        found.append((kl, kl + shift(mean, generated) / d, generated.diagonal().mean(), seconds))
    divergence, whole, variance, cpu = zip(*found, strict=True)
    bar = {50: 0.035, 400: 0.005}[n] if name == "stations" else None
    return [
        Figure("KL of the covariances, nats/d", divergence, ratio=RATIO),
        Figure("KL with the mean, nats/d", whole, high=bar, ratio=RATIO),
        Figure("variance / truth's", variance),
        Figure("fit, CPU s", cpu),
    ]


def shift(mean: Float[np.ndarray, " d"], covariance: Matrix) -> float:
    """Return what a mean adds to the divergence from a law of mean 0, in nats."""
    return float(mean @ cho_solve(cho_factor(covariance, lower=True), mean)) / 2


def smooth(shape: tuple[int, int], n: int, seeds: int) -> list[Figure]:  # noqa: ARG001
    """White noise filtered over two cells: one data set, and 200 exact draws, by the data's mean variance."""
    rng, margin = np.random.default_rng(0), 12
    noise = (rng.standard_normal([side + 2 * margin for side in shape]) for _ in range(n))
    x = np.stack([gaussian_filter(field, 2.0)[margin:-margin, margin:-margin] for field in noise])
    x /= x.std()
    model, seconds = timed_fit(x, 0)
    peak = peak_memory()
    draws = np.concatenate([model.sample(20, random_state=k) for k in range(10)])
    ratio = draws.var(axis=0) / x.var(axis=0).mean()
    return [
        Figure("variance of draws / data's, mean", [ratio.mean()]),
        Figure("variance of draws / data's, 5 % of vertices", [np.quantile(ratio, 0.05)]),
        Figure("variance of draws / data's, 95 % of vertices", [np.quantile(ratio, 0.95)]),
        Figure(MEMORY, [peak], high=2.5 if max(shape) > 100 else None),
        Figure("fit, CPU s", [seconds]),
    ]


def peak_memory() -> float:
    """Return the most memory that this process has had, GiB, the interpreter and the imports included."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 2**30


def domain(name: str, d: int, seeds: int, n: int = 100) -> list[Figure]:
    """Excess loss of the denoiser; over all noise levels it is the divergence (de Bruijn's identity, as in `excess`).

    The lattice is fitted in its own units, where variances vanish towards its ends, and measured with unit variances.
    """
    deviation = np.ones(d)
    if name == "lattice":
        covariance = np.linalg.inv(lattice_precision(d).toarray())
        deviation = np.sqrt(covariance.diagonal())
        covariance /= np.outer(deviation, deviation)
    else:
        at = np.arange(1, d + 1) / (d + 1)
        covariance = matern_3_2(np.abs(at[:, None] - at), 0.2)
    factor, found = np.linalg.cholesky(covariance), []
    for seed in range(seeds):
        x = np.random.default_rng(1000 * n + seed).standard_normal((n, d)) @ factor.T
        model, seconds = timed_fit(x * deviation, seed)
        mean, generated = generated_law(model)
        mean, generated = mean / deviation, generated / np.outer(deviation, deviation)
        kl = gaussian_kl(covariance, generated)
        found.append((kl, kl + shift(mean, generated), excess(covariance, generated), seconds))
    divergence, whole, between, cpu = zip(*found, strict=True)
    return [
        Figure("excess at all noise levels, nats", divergence, ratio=RATIO),
        Figure("excess at all noise levels, with the mean", whole, ratio=RATIO),
        Figure("excess at sigma .07 to 4.5, nats", between, ratio=RATIO),
        Figure("fit, CPU s", cpu),
    ]


def excess(covariance: Matrix, generated: Matrix) -> float:
    r"""Excess loss of the denoiser of a centred law, :math:`\int E|D - D^*|^2 \sigma^{-3} d\sigma` over `SIGMA`, nats.

    It is what the divergence loses from one end to the other: its derivative in :math:`\sigma` is less the integrand.
    """
    small, large = (
        gaussian_kl(covariance + noise, generated + noise) for noise in (s**2 * np.eye(len(covariance)) for s in SIGMA)
    )
    return small - large


TRUTHS = {"chain": (100,), "grid": (50, 200), "matern": (50, 200), "exponential": (50, 200), "fractal": (50,)}
SMOOTH = {48: ((48, 48), 50), 100: ((100, 100), 50), 300: ((300, 400), 25)}
ROWS: dict[str, Callable[[int], list[Figure]]] = {
    **{f"temperature-{n}": partial(temperature, n) for n in (240, 50)},
    **{f"{name}-{n}": partial(known, name, n) for name, sizes in TRUTHS.items() for n in sizes},
    **{f"stations-{n}": partial(known, "stations", n) for n in (50, 400)},
    **{f"smooth-{side}": partial(smooth, shape, n) for side, (shape, n) in SMOOTH.items()},
    **{f"{name}-{d}": partial(domain, name, d) for name in ("lattice", "interval") for d in (64, 256, 1024, 4096)},
}
"""By name: the number after the name counts samples, for smooth fields one side, on fixed domains the vertices."""


def emit(name: str, seeds: int) -> None:
    """Measure a row in this process and print it as lines of JSON, the warnings and a refusal among them."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        try:
            figures = ROWS[name](seeds)
        except (ValueError, ArithmeticError, MemoryError) as error:
            refused = Figure("refused", [], note=f"{type(error).__name__}: {error}")
            figures = [refused, Figure(MEMORY, [peak_memory()])]
    messages = [str(warning.message) for warning in caught if issubclass(warning.category, UserWarning)]
    if messages:
        figures.append(Figure("warnings", [len(messages)], note="; ".join(dict.fromkeys(messages))))
    for figure in figures:
        print(json.dumps([figure.name, [float(value) for value in figure.values], *figure[2:]]))


def measured(name: str, seeds: int, source: str | None) -> dict[str, Figure]:
    """Figures of a row by name, from a process that imports the library from `source`, or as this one does."""
    here = Path(__file__).resolve().parents[1]
    paths = [*([source] if source else []), str(here), *filter(None, [os.environ.get("PYTHONPATH")])]
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.moments", name, "--seeds", str(seeds), "--emit"],
        env={**os.environ, **threads, "PYTHONPATH": os.pathsep.join(paths)},
        cwd=here,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [""])[-1]
        return {"refused": Figure("refused", [], note=f"the process ended with {done.returncode}: {last}")}
    return {figure.name: figure for figure in (Figure(*json.loads(line)) for line in done.stdout.splitlines())}


def cells_of(new: Figure | None, old: Figure | None) -> list[str]:
    """Write new, old, their ratio (of means, with a standard error if there are several data sets), bar and verdict."""
    shown = ["" if figure is None else f"{figure.mean:.4g}" if figure.values else "yes" for figure in (new, old)]
    ratio, pairs, bars = "", [], []
    if new and old and new.values and old.values and not new.name.startswith("correlation"):
        ratio = f"{new.mean / old.mean:.3f}" if old.mean else ""
        if len(new.values) > 1:
            ratio += f" +- {ratio_of_means(np.array(new.values), np.array(old.values))[1]:.3f}"
        if new.ratio is not None:
            pairs.append((new.mean / old.mean, new.ratio))
            bars.append(f"ratio {new.ratio:g}")
    if new is not None and new.low is not None:
        pairs.append((new.low, new.mean))
    if new is not None and new.high is not None:
        pairs.append((new.mean, new.high))
        bars.insert(0, f"{new.high:g}" if new.low is None else f"{new.low:g} to {new.high:g}")
    return [*shown, ratio, ", ".join(bars), verdict(*pairs) if pairs else ""]


def table(name: str, new: dict[str, Figure], old: dict[str, Figure] | None) -> None:
    """Print a row."""
    rows = [[key, *cells_of(new.get(key), (old or {}).get(key))] for key in dict.fromkeys([*new, *(old or {})])]
    header = [name, "new", "old", "new / old", "bar", "verdict"]
    notes = [
        f"{figure.name}, {when}: {figure.note}"
        for when, figures in (("new", new), ("old", old or {}))
        for figure in figures.values()
        if figure.note
    ]
    if old is None:
        header, *rows = [[*line[:2], *line[4:]] for line in (header, *rows)]
    show("", header, rows, "\n".join(notes))


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure the rows asked for, one process each, and print every one as it is ready."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("names", nargs="*", metavar="ROW", help=f"what names of rows begin with: {', '.join(ROWS)}")
    parser.add_argument("--old", metavar="SRC", help="the src folder of another checkout, to measure beside this one")
    parser.add_argument("--seeds", type=int, default=SEEDS, help="data sets of each known law (default: %(default)s)")
    parser.add_argument("--emit", action="store_true", help="measure in this process and print lines of JSON")
    options = parser.parse_args(arguments)
    names = [name for name in ROWS if not options.names or name.startswith(tuple(options.names))]
    for name in names:
        if options.emit:
            resource.setrlimit(resource.RLIMIT_AS, (LIMIT * 2**30, resource.getrlimit(resource.RLIMIT_AS)[1]))
            emit(name, options.seeds)
            continue
        old = measured(name, options.seeds, str(Path(options.old).resolve())) if options.old else None
        table(name, measured(name, options.seeds, None), old)
        sys.stdout.flush()


if __name__ == "__main__":
    main()
