"""Data assimilation of Lorenz's model: fit, condition and update, beside a localized ensemble Kalman filter.

`python -m benchmarks.assimilation [--variables 40 960] [--members 20 50] [--cycles 200] [--seeds S ...]`. Every second
variable is observed with an error of 1 at every step of .05. The filter perturbs observations; its taper (Gaspari and
Cohn 1999) and its inflation are those of the least error over the seeds. Errors are root mean squares of the analysis
mean after the first fifth of the cycles, means over the seeds; a single run has a deviation of some .04.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

import nearfield as nf
from benchmarks.table import show
from nearfield.datasets import Lorenz96

if TYPE_CHECKING:
    from jaxtyping import Float
    from numpy import ndarray

    Analysis = Callable[[ndarray, ndarray, int], ndarray]
    """Members, observations and a seed to analysed members."""

STEP = 0.05
INFLATIONS = (1.0, 1.02, 1.04, 1.06)
HALF_WIDTHS = (4.0, 7.0, 10.0, 14.0)
SETTINGS = {20: (1.05, 6, 0.2), 50: (1.01, 6, 0.1)}
"""Inflation, radius and pooling of nearfield's analysis, by members."""
HEADER = ["variables", "members", "analysis", "error", "spread / error", "ms / cycle"]


@dataclass(frozen=True)
class Experiment:
    """A ring of some variables, with the two analyses."""

    n: int

    @cached_property
    def law(self) -> Lorenz96:
        """The model."""
        return Lorenz96(self.n)

    @cached_property
    def seen(self) -> ndarray:
        """Every second variable."""
        return np.arange(0, self.n, 2)

    def forecast(self, x: ndarray) -> ndarray:
        """Go on by one step (Runge-Kutta of order four)."""
        one = self.law.tendency(x)
        two = self.law.tendency(x + STEP / 2 * one)
        three = self.law.tendency(x + STEP / 2 * two)
        return x + STEP / 6 * (one + 2 * two + 2 * three + self.law.tendency(x + STEP * three))

    def nearfield(self, inflation: float, radius: int, pooling: float) -> Analysis:
        """Fit the members, condition the law on the observations, and move the members."""

        def analysis(x: ndarray, y: ndarray, seed: int) -> ndarray:
            spread = inflated(x, inflation)
            graph = nf.DependencyGraph.ring(self.n)
            model = nf.LocalizedDiffusion(
                graph=graph, method="gaussian", radius=radius, pooling=pooling, random_state=0
            )
            posterior = model.fit(spread).condition(nf.Observation(y, at=self.seen, error=1.0))
            return np.asarray(posterior.update(spread, random_state=seed))

        return analysis

    def kalman(self, inflation: float, half: float) -> Analysis:
        """Move the members by the gain of the tapered covariance."""
        hops = np.abs(np.subtract.outer(np.arange(self.n), np.arange(self.n)))
        tapered = taper(np.minimum(hops, self.n - hops), half)

        def analysis(x: ndarray, y: ndarray, seed: int) -> ndarray:
            spread, seen = inflated(x, inflation), self.seen
            covariance = np.cov(spread.T) * tapered
            errors = np.random.default_rng(seed).normal(size=(len(x), len(seen)))
            gain = np.linalg.solve(covariance[np.ix_(seen, seen)] + np.eye(len(seen)), covariance[seen])
            moved: ndarray = spread + (y + errors - errors.mean(axis=0) - spread[:, seen]) @ gain
            return moved

        return analysis

    def run(self, analysis: Analysis, members: int, cycles: int, seed: int) -> tuple[float, float, float]:
        """Error of the analysis mean, spread over error, and CPU seconds of one analysis; infinite if it is lost."""
        rng = np.random.default_rng(seed)
        truth = self.law.sample(1, random_state=seed)[0, :, 0]
        x = truth + rng.normal(size=(members, self.n))
        error, spread, seconds = np.empty(cycles), np.empty(cycles), 0.0
        for cycle in range(cycles):
            truth, x = self.forecast(truth), self.forecast(x)
            y = truth[self.seen] + rng.normal(size=len(self.seen))
            start = time.process_time()
            x = analysis(x, y, 1000 * seed + cycle)
            seconds += time.process_time() - start
            error[cycle], spread[cycle] = ((x.mean(axis=0) - truth) ** 2).mean(), x.var(axis=0, ddof=1).mean()
            if not error[cycle] < 25:
                return np.inf, np.nan, seconds / (cycle + 1)
        late = slice(cycles // 5, None)
        size = float(np.sqrt(error[late].mean()))
        return size, float(np.sqrt(spread[late].mean())) / size, seconds / cycles


def inflated(x: Float[ndarray, "member vertex"], factor: float) -> Float[ndarray, "member vertex"]:
    """Members with their deviations from the mean times a factor."""
    mean = x.mean(axis=0)
    return mean + factor * (x - mean)


def taper(distance: ndarray, half: float) -> ndarray:
    """Fall from 1 to 0 at twice the half width."""
    z = distance / half
    near = ((((-z / 4 + 0.5) * z + 0.625) * z - 5 / 3) * z**2) + 1
    far = (((((z / 12 - 0.5) * z + 0.625) * z + 5 / 3) * z - 5) * z) + 4 - 2 / (3 * np.maximum(z, 1))
    return np.where(z <= 1, near, np.where(z < 2, far, 0.0))


def rows(n: int, members: int, cycles: int, seeds: list[int]) -> list[list[str]]:
    """Tune the filter, and set nearfield's analysis beside it."""
    experiment = Experiment(n)

    def mean(analysis: Analysis) -> tuple[float, float, float]:
        found = np.array([experiment.run(analysis, members, cycles, seed) for seed in seeds])
        error, spread, seconds = found.mean(axis=0)
        return error, spread, seconds

    def row(name: str, found: tuple[float, float, float]) -> list[str]:
        line = [str(n), str(members), name, f"{found[0]:.3f}", f"{found[1]:.2f}", f"{1000 * found[2]:.0f}"]
        print("  ".join(line), flush=True)
        return line

    grid = [(inflation, half) for inflation in INFLATIONS for half in HALF_WIDTHS]
    best, (inflation, half) = min((mean(experiment.kalman(*each)), each) for each in grid)
    own = SETTINGS[members]
    return [
        row(f"filter, inflation {inflation}, half width {half:g}", best),
        row(f"nearfield, inflation {own[0]}, radius {own[1]}, pooling {own[2]}", mean(experiment.nearfield(*own))),
    ]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--variables", type=int, nargs="+", default=[40, 960])
    parser.add_argument("--members", type=int, nargs="+", default=list(SETTINGS), choices=list(SETTINGS))
    parser.add_argument("--cycles", type=int, default=200)
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(6)))
    arguments = parser.parse_args()
    warnings.simplefilter("ignore", UserWarning)  # a fit of 20 samples warns of them
    table = []
    for n in arguments.variables:
        for members in arguments.members:
            table += rows(n, members, arguments.cycles, arguments.seeds)
    notes = f"{arguments.cycles} cycles, seeds {arguments.seeds}"
    show("Analyses of Lorenz's model, every second variable observed with error 1", HEADER, table, notes)


if __name__ == "__main__":
    main()
