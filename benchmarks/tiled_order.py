"""Elimination colour by colour of tiles against lexicographic elimination: what the order of large fields costs.

Divergence from known Gaussian laws on grids, and held-out loss on temperature maps of a climate model. Radius and
pooling are those that cross-validation chooses in lexicographic order.

`python -m benchmarks.tiled_order [--markdown docs/scale.md]`
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from scipy.spatial.distance import cdist

from benchmarks.table import publish, verdict
from nearfield.data.codec import Codec
from nearfield.datasets import GaussianMarkovField, north_america_temperature
from nearfield.evaluation.metric import gaussian_kl
from nearfield.fitting.closed_form import FieldFit, build_field
from nearfield.fitting.pooling import Pooling
from nearfield.fitting.selection import select_field
from nearfield.graph import DependencyGraph
from nearfield.graph.tiling import BoxTiling
from nearfield.samples import Samples

if TYPE_CHECKING:
    from jaxtyping import Float

SHAPE, SIDE, DATA_SETS = (48, 48), (16, 16), 2
NUMBERS = (50, 400)
BAR = 0.005
"""Largest difference, nats per vertex."""


def laws() -> dict[str, Float[np.ndarray, "vertex vertex"]]:
    """Covariances on the grid."""
    place = np.stack(np.unravel_index(np.arange(SHAPE[0] * SHAPE[1]), SHAPE), axis=1).astype(float)
    distance = cdist(place, place)
    r = np.sqrt(5) * distance / 4
    return {
        "Markov field": GaussianMarkovField.stationary(SHAPE, periodic=False).covariance(),
        "non-stationary Markov field": GaussianMarkovField.nonstationary(SHAPE).covariance(),
        "exponential, length 8": np.exp(-distance / 8),
        "exponential, length 30": np.exp(-distance / 30),
        "Matern 5/2, length 4": (1 + r + r**2 / 3) * np.exp(-r),
    }


def in_order(graph: DependencyGraph, side: tuple[int, ...]) -> DependencyGraph:
    """Return the same lattice, eliminated tile by tile."""
    tiled = DependencyGraph(lattice=graph.lattice, keep=graph.keep)
    order = BoxTiling(tiled, side).order()
    tiled.memory.get("elimination order", lambda: order, size=lambda _: 0)
    return tiled


def fits(samples: Samples, side: tuple[int, ...], pooling: Pooling | None) -> tuple[list[FieldFit], str]:
    """Fit in both orders what is chosen in the first, and say what that is."""
    choice = select_field(samples, pooling=pooling).choice
    graphs = (samples.graph, in_order(samples.graph, side))
    found = [build_field(samples.with_values(samples.values, graph), choice.radius, choice.pooling) for graph in graphs]
    return found, f"radius {choice.radius}, pooling {choice.pooling.strength:g}"


def divergence(fit: FieldFit, truth: Float[np.ndarray, "d d"]) -> float:
    """Nats per vertex from the true law."""
    scale = fit.scale.ravel()
    covariance = fit.field.covariance() * np.outer(scale, scale)
    return gaussian_kl(truth, covariance, np.zeros(len(truth)), fit.center.ravel()) / len(truth)


def law_rows() -> list[list[str]]:
    """Divergences of both orders on every law."""
    rows = []
    for name, truth in laws().items():
        root = np.linalg.cholesky(truth)
        for n in NUMBERS:
            found, chosen = np.empty((DATA_SETS, 2)), ""
            for seed in range(DATA_SETS):
                x = np.random.default_rng(1000 * n + seed).normal(size=(n, len(truth))) @ root.T
                both, chosen = fits(Samples(x[..., None], DependencyGraph.grid(SHAPE)), SIDE, Pooling(1.0))
                found[seed] = [divergence(fit, truth) for fit in both]
            before, after = found.mean(axis=0)
            cells = [f"{before:.5f}", f"{after:.5f}", f"{after - before:+.5f}", verdict((after - before, BAR))]
            rows.append([f"{name}, N = {n}", chosen, *cells])
    return rows


def temperature_rows() -> list[list[str]]:
    """Held-out losses of both orders on temperatures, cut into nine tiles and into four."""
    maps = north_america_temperature()
    is_test = (maps["scenario"] == "E1").to_numpy()
    codec = Codec.fit(maps[~is_test], sample_dim="year")
    assert codec.graph.lattice is not None
    train, test = codec.samples(maps[~is_test]), codec.samples(maps[is_test]).values
    rows = []
    for parts in (3, 2):
        side = tuple(length // parts for length in codec.graph.lattice.shape)
        both, chosen = fits(train, side, None)
        losses = []
        for fit in both:
            density = fit.field.log_prob((test - fit.center) / fit.scale) - np.log(fit.scale).sum()
            losses.append(-float(density.mean()) / fit.scale.size)
        more = losses[1] - losses[0]
        cells = [f"{losses[0]:.4f}", f"{losses[1]:.4f}", f"{more:+.4f}", verdict((more, BAR))]
        rows.append([f"temperatures, tiles of {side[0]} x {side[1]}", chosen, *cells])
    return rows


def main() -> None:
    """Fit everything, print the table, and write it into a page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--markdown", type=Path, help="page whose section is replaced")
    page = parser.parse_args().markdown
    header = ["law", "chosen", "lexicographic", "tiles", "difference", "verdict"]
    notes = (
        f"Grids of {SHAPE[0]} x {SHAPE[1]}, tiles of {SIDE[0]} x {SIDE[1]}: KL(truth || fitted) in nats per vertex, "
        f"means of {DATA_SETS} data sets; temperatures: held-out loss, nats per dimension. Bar: {BAR:g} more. "
        "Climate-model output, not observations: Met Office UM 6.05, Crown copyright, Open Government Licence v3."
    )
    publish(page, "large: order", header, [*law_rows(), *temperature_rows()], notes)


if __name__ == "__main__":
    main()
