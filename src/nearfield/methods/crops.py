"""One law of a field that is too large to hold, fitted to crops of it.

Crops are windows of some samples at random places. A stationary law is the same in all of them, and by locality on the
whole lattice: there a network is evaluated tile by tile (:mod:`nearfield.score.tiled`). Memory is that of the crops,
whatever the size of the field.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from nearfield.distribution import DiffusionModel, Distribution
from nearfield.fitting.covariance import LOCATION_LIMIT
from nearfield.fitting.neural import default_recipe
from nearfield.fitting.recipe import Recipe
from nearfield.graph import DependencyGraph
from nearfield.graph.tiling import BoxTiling
from nearfield.methods.base import FitOptions, Fitted, Method
from nearfield.methods.network import NetworkMethod
from nearfield.samples import Samples
from nearfield.score.field import GaussianField

if TYPE_CHECKING:
    from jaxtyping import Float, Int

    from nearfield.graph.lattice import Lattice

__all__ = ["crop_side", "fit_crops", "n_crops", "one_location", "require_whole"]

CELLS = 1 << 12
"""Cells of a crop, about: 64 x 64, as many as a step of training sees."""
BYTES = 1 << 26
"""Bytes of all crops, in double precision: 2048 of one channel. A fit holds some five times that."""
HELD_OUT, CHECKS = 64, 10
"""Crops that are held out, about, and how often training looks at them: they have so many cells that more would take
longer than the training."""
SCALE_LIMIT = 9.0
"""Mean square of the relative deviations of the vertices' variances, over that of Gaussian samples, beyond which they
clearly differ; heavy tails multiply it by half their kurtosis."""


def crop_side(graph: DependencyGraph, radius: int | None = None) -> tuple[int, ...]:
    """Cells of a crop along each axis: as many as a whole window of a given radius, at least, and the lattice, at most.

    Examples
    --------
    >>> crop_side(DependencyGraph.grid((1000, 1000))), crop_side(DependencyGraph.grid((9, 1000)))
    ((64, 64), (9, 455))
    """
    tiling = BoxTiling.of(graph, CELLS)
    least = 0 if radius is None else 2 * radius + 1
    return tuple(min(max(side, least), length) for side, length in zip(tiling.side, tiling.lattice.shape, strict=True))


def n_crops(side: tuple[int, ...], n_channels: int) -> int:
    """Return how many crops are held at once.

    Examples
    --------
    >>> n_crops((64, 64), 1)
    2048
    """
    return max(BYTES // (8 * int(np.prod(side)) * n_channels), 40)


def one_location(
    mean: Float[np.ndarray, "vertex channel"], variance: Float[np.ndarray, "vertex channel"], n_samples: int
) -> tuple[Float[np.ndarray, " channel"], Float[np.ndarray, " channel"]]:
    """Return the mean and the standard deviation of all vertices, from those of each over the samples.

    Raises
    ------
    ValueError
        If the means or the variances of the vertices clearly differ.

    Examples
    --------
    >>> mean, scale = one_location(np.full((100, 1), 3.0), np.full((100, 1), 4.0), 50)
    >>> mean.tolist(), scale.tolist()
    ([3.0], [2.0])
    """
    center, spread = mean.mean(axis=0), variance.mean(axis=0)
    shift = (mean - center) ** 2
    means = float((n_samples * shift.mean(axis=0) / spread).max())
    scales = float((((variance / spread - 1) ** 2).mean(axis=0) * (n_samples - 1) / 2).max())
    for name, ratio, limit in (("means", means, LOCATION_LIMIT), ("variances", scales, SCALE_LIMIT)):
        if ratio > limit:
            raise ValueError(
                f"a law of crops is one law for all vertices, got {name} that differ by {np.sqrt(ratio):.2g} times "
                "their sampling error; subtract the means and divide by the scales before the fit, or fit "
                "method='gaussian'"
            )
    scale: np.ndarray = np.sqrt(spread + shift.mean(axis=0))
    return center, scale


def require_whole(graph: DependencyGraph) -> Lattice:
    """Return the lattice of a graph without land, or refuse another."""
    if graph.lattice is None or graph.keep is not None:
        raise ValueError(f"graph must be a whole lattice to be fitted by crops, got {graph!r}; fit method='gaussian'")
    return graph.lattice


def fit_crops(
    method: Method,
    crops: Iterable[tuple[Int[np.ndarray, " sample"], Float[np.ndarray, "sample vertex channel"]]],
    side: tuple[int, ...],
    graph: DependencyGraph,
    location: tuple[Float[np.ndarray, " channel"], Float[np.ndarray, " channel"]],
    field: GaussianField | None = None,
    options: FitOptions | None = None,
) -> Fitted:
    """Fit a method to crops, and return its law on the whole lattice.

    Parameters
    ----------
    method : Method
        With ``pooling=1``.
    crops : iterable of (ndarray, ndarray)
        Numbers of the samples that are seen in a crop, and their values there. What is held out is whole samples, so
        that no training sees them elsewhere.
    side : tuple of int
        Cells of a crop along each axis.
    graph : DependencyGraph
        The whole lattice.
    location : (ndarray, ndarray)
        Center and scale, of `one_location`.
    field : GaussianField, optional
        Of the whole lattice, standardised by them; by default that of the crops, extended: it holds some 100 bytes
        a vertex.
    options : FitOptions, optional

    Raises
    ------
    ValueError
        If the graph is no whole lattice, or the method is not one law for all vertices.
    """
    lattice = require_whole(graph)
    around = [
        periodic and cut == full for periodic, cut, full in zip(lattice.periodic, side, lattice.shape, strict=True)
    ]
    crop = DependencyGraph.grid(side, periodic=around, diagonal=lattice.diagonal)
    numbers, values = (np.concatenate(part) for part in zip(*crops, strict=True))
    order = np.argsort(numbers, kind="stable")
    samples = Samples(
        (values[order] - location[0]) / location[1], crop, ordered=True, standard=(True,) * values.shape[2]
    ).grouped(numbers[order])
    options = replace(options or FitOptions(), bounded=True)
    if isinstance(method, NetworkMethod) and method.recipe is None:
        method = replace(method, recipe=_recipe(crop, len(samples), method.validation_fraction, options.seed))
    fitted = method.fit(samples, options)
    if not fitted.pooling.one_law:
        raise ValueError(f"pooling must be 1 for a law of crops, got {fitted.pooling}")
    shape = (len(graph), values.shape[2])
    law: Distribution = fitted.law
    law = law.extended(crop, graph, field) if isinstance(law, DiffusionModel) else law.extended(crop, graph)
    return replace(
        fitted,
        center=np.broadcast_to(location[0], shape),
        scale=np.broadcast_to(location[1], shape),
        law=law,
        reason=f"{fitted.reason} Fitted to {len(samples)} crops of {' x '.join(map(str, side))} cells, of "
        f"{len(np.unique(numbers))} samples.",
    )


def _recipe(crop: DependencyGraph, n_crops: int, share: float, seed: int) -> Recipe:
    recipe = default_recipe(crop, n_crops, share, seed)
    held_out, every = min(recipe.held_out, HELD_OUT / n_crops), recipe.steps // CHECKS
    return replace(recipe, held_out=held_out, check_every=max(recipe.check_every, every))
