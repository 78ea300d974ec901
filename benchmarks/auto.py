"""Whether method="auto" sees where there is something to learn, and what it costs where there is not.

False alarms of the test in closed form on Gaussian sets of 50 to 1000 samples, pooled and not; then whole fits: CPU
seconds beside method="gaussian" on Gaussian laws and temperature maps, and the noise levels that the network gets on
laws that are not Gaussian.

`python -m benchmarks.auto [--seed 0] [--steps 300]`
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from benchmarks.law import cir, double_well, lattice
from benchmarks.table import show, verdict
from nearfield import DependencyGraph, LocalizedDiffusion
from nearfield.datasets import AutoregressiveChain, GaussianMarkovField, gravel, north_america_temperature
from nearfield.demo.gravel import cut_patches, regions
from nearfield.fitting.closed_form import build_field
from nearfield.fitting.gaussianity import check_gaussianity
from nearfield.fitting.neural import default_recipe
from nearfield.fitting.pooling import Pooling
from nearfield.samples import Samples

if TYPE_CHECKING:
    from jaxtyping import Float

Draw = Callable[[int, int], Samples]
SIZES = (50, 100, 200, 1000)
POOLINGS = (Pooling(1.0), Pooling(0.5, 2.0), Pooling(0.0))
SETS = 100
ALARMS = 0.05
"""Highest share of false alarms."""
COST = 1.5
"""Highest CPU seconds of auto over those of the Gaussian method, where the result is Gaussian."""


def matern(distance: Float[np.ndarray, "vertex vertex"], length: float) -> Float[np.ndarray, "vertex vertex"]:
    """Lower Cholesky factor of the Matern 3/2 covariance."""
    scaled = np.sqrt(3) * distance / length
    return np.linalg.cholesky((1 + scaled) * np.exp(-scaled) + 1e-9 * np.eye(len(distance)))


def gaussian_laws() -> dict[str, Draw]:
    """Gaussian laws by name; each draws samples by their number and a seed."""

    def of_law(law: Any) -> Draw:
        return lambda n, seed: Samples(law.sample(n, random_state=seed), law.graph)

    def of_root(root: Float[np.ndarray, "vertex vertex"], graph: DependencyGraph) -> Draw:
        return lambda n, seed: Samples(
            (np.random.default_rng(seed).normal(size=(n, len(root))) @ root.T)[..., None], graph
        )

    cells = np.indices((14, 14)).reshape(2, -1).T
    points = np.random.default_rng(0).uniform(size=(150, 2))
    apart = [np.linalg.norm(x[:, None] - x, axis=2) for x in (cells, points)]
    return {
        "AR(1), 100": of_law(AutoregressiveChain(0.8, 100)),
        "AR(1), 20": of_law(AutoregressiveChain(0.8, 20)),
        "grid, 12 x 12": of_law(GaussianMarkovField.stationary((12, 12))),
        "Matern, 14 x 14": of_root(matern(apart[0], 3.0), DependencyGraph.grid((14, 14))),
        "150 points": of_root(matern(apart[1], 0.3), DependencyGraph.knn(points, 6)),
    }


def alarms() -> list[list[str]]:
    """Rows of false alarms of the test on Gaussian sets, the same number from each law."""
    laws, rows, total = gaussian_laws(), [], 0
    for name, draw in laws.items():
        found = 0
        for k in range(SETS // len(laws)):
            samples, pooling = draw(SIZES[k % len(SIZES)], k), POOLINGS[k % len(POOLINGS)]
            fit = build_field(samples, 2, pooling)
            tested = check_gaussianity(samples.standardized(fit.center, fit.scale), 2, pooling, seed=k)
            found += tested.found is not None
        rows.append([name, f"{found} of {SETS // len(laws)}", ""])
        total += found
    return [*rows, ["all", f"{total} of {SETS}", verdict((total, ALARMS * SETS))]]


def data_sets(seed: int) -> dict[str, tuple[Any, dict[str, Any], bool]]:
    """Return data by name, with settings and whether a network should be found."""
    field = GaussianMarkovField.stationary((16, 16))
    sets: dict[str, tuple[Any, dict[str, Any], bool]] = {
        "AR(1) .8, 100, N = 200": (AutoregressiveChain(0.8, 100).sample(200, random_state=seed)[..., 0], {}, False),
        "grid 16 x 16, N = 200": (field.sample(200, random_state=seed).reshape(-1, 16, 16), {}, False),
        "temperatures, 340 years": (north_america_temperature(), {}, False),
    }
    for law, n in ((cir(), 200), (double_well(), 200), (lattice(), 100)):
        settings = {"graph": law.graph, "marginal": "none"}
        sets[f"{law.name}, N = {n}"] = (law.draw(n, seed).reshape(n, *law.shape), settings, True)
    return sets | {"gravel, 176 patches": (cut_patches(regions(gravel())[0]).to_numpy(), {}, True)}


def fits(seed: int, steps: int | None) -> list[list[str]]:
    """Rows of whole fits by both methods."""
    rows = []
    for name, (x, settings, learns) in data_sets(seed).items():
        seconds = {}
        for method in ("gaussian", "auto"):
            start, recipe = time.process_time(), None
            model = LocalizedDiffusion(method=method, random_state=seed, **settings)
            if steps is not None and method == "auto" and learns:
                graph = settings.get("graph") or DependencyGraph.grid(x.shape[1:])
                recipe = replace(default_recipe(graph, len(x), seed=seed), steps=steps)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                model.set_params(recipe=recipe).fit(x)
            seconds[method] = time.process_time() - start
        used = sum(level.selected for level in model.fit_report_.levels or ())
        ratio = seconds["auto"] / seconds["gaussian"]
        good = used > 0 if learns else used == 0 and ratio <= COST
        numbers = [f"{seconds['gaussian']:.2f}", f"{seconds['auto']:.2f}", f"{ratio:.2f}", str(used)]
        rows.append([name, *numbers, "pass" if good else "short"])
        print("  " + "  ".join(rows[-1]), flush=True)
    return rows


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, help="of training; by default those of the recipe")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    show("False alarms of the test for Gaussian laws", ["law", "alarms", "verdict"], alarms())
    header = ["data", "gaussian, CPU s", "auto, CPU s", "ratio", "levels with network", "verdict"]
    show("auto beside the Gaussian method", header, fits(arguments.seed, arguments.steps))


if __name__ == "__main__":
    main()
