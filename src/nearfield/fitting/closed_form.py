r"""Closed-form fits of the local Gaussian scores.

The sparse Cholesky field regresses each vertex on its earlier neighbours: column j of the factor U of
:math:`P_0 = U U^\top` is :math:`C_{SS}^{-1} e_j / \sqrt{(C_{SS}^{-1})_{jj}}` on the set S of the vertex and these
neighbours. In a perfect elimination ordering of a chordal graph this is the maximum likelihood fit.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import scipy.sparse as sp
import torch

from nearfield.fitting.covariance import location_and_scale, second_moments
from nearfield.fitting.elimination import elimination_order, predecessors
from nearfield.fitting.matern import Matern, fit_matern
from nearfield.fitting.pooling import GlobalAverage, Pooling
from nearfield.fitting.regression import VARIANCE_FLOOR, Regression, Shrinkage, cap_windows, regress_windows
from nearfield.graph import DependencyGraph, Neighborhood
from nearfield.noise import Stream
from nearfield.samples import Samples
from nearfield.score.field import GaussianField
from nearfield.score.gaussian import MaskedGaussianScore, WindowedGaussianScore, WindowSpectrum, radii_in_use
from nearfield.score.tile_sweep import batches, draw_tiles
from nearfield.score.tiled_factor import TiledFactor
from nearfield.tiled_samples import Run, one_by_one

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

__all__ = [
    "NUGGETS",
    "FieldFit",
    "build_field",
    "field_spectrum",
    "fit_field",
    "fit_masked",
    "fit_windowed",
    "settled_field",
    "torus_spectrum",
    "warn_of",
    "whitening_factor",
    "whitening_rows",
    "window_spectrum",
]

VARIANCE_RANGE = (0.5, 2.0)
"""Multiples of the fitted variance outside which the variance of draws gives a warning, and the choice skips them."""
NUMBERS = 2e7
"""Numbers in the draws that check a field (160 MiB), unless 64 draws are more."""
TOGETHER = 16
"""Draws of these at once."""
NUGGETS = (1e-8, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3)
"""White noise added to fields so smooth that their conditionals are inconsistent, as a share of the variance."""


def whitening_factor(regression: Regression, table: Neighborhood, order: np.ndarray) -> sp.csr_array:
    """Sparse lower triangular F with F x standard normal, rows and columns in elimination order."""
    position = np.empty(len(order), dtype=np.int32)  # as the matrix keeps them
    position[order] = np.arange(len(order), dtype=np.int32)
    return whitening_rows(regression, table.present, position, position[table.index], len(order))


def whitening_rows(
    regression: Regression,
    present: Bool[np.ndarray, "row width"],
    place: Int[np.ndarray, " row"],
    other: Int[np.ndarray, "row width"],
    n_columns: int,
) -> sp.csr_array:
    """Rows of F at some places, for regressions on windows whose entries are at other places."""
    n, width = other.shape
    c = regression.root.shape[1]
    inverse = np.linalg.inv(regression.root)
    rows = np.concatenate([inverse, -inverse @ regression.coefficient.transpose(0, 2, 1)], axis=2)
    channel = np.arange(c, dtype=other.dtype)
    column = (other[:, :, None] * c + channel).reshape(n, 1, width * c)
    row = (place[:, None] * c + channel)[:, :, None]
    used = np.broadcast_to(np.repeat(present, c, axis=1)[:, None], rows.shape).copy()
    used[:, :, :c] &= np.tri(c, dtype=bool)
    row, column = np.broadcast_to(row, rows.shape)[used], np.broadcast_to(column, rows.shape)[used]
    factor = sp.csr_array((rows[used], (row, column)), shape=(n * c, n_columns * c))
    factor.sort_indices()
    return factor


def fit_field(samples: Samples, radius: int, pooling: Pooling) -> tuple[np.ndarray, np.ndarray, GaussianField]:
    """Fit the sparse Cholesky field of standardised samples; center and scale come first.

    It warns if conditioning sets were cut, variances raised to the floor, or draws have another variance.
    """
    fit = build_field(samples, radius, pooling)
    warn_of(fit, len(samples))
    if not fit.sound:
        low, high = fit.ratio
        warnings.warn(
            f"draws from the field have {low:.2g} to {high:.2g} times the fitted variance (5 % to 95 % of the "
            "vertices): the fitted conditionals are inconsistent with the marginal variances; use a smaller radius, "
            "other pooling or a nugget",
            stacklevel=2,
        )
    return fit.center, fit.scale, fit.field


def warn_of(fit: FieldFit, n_samples: int) -> None:
    """Warn if conditioning sets were cut or conditional variances raised."""
    if fit.full_width > fit.width:
        warnings.warn(
            f"{n_samples} samples cannot support conditioning sets of {fit.full_width - 1} neighbours without pooling: "
            f"each is cut to its {fit.width - 1} nearest; use a smaller radius or pooling > 0",
            stacklevel=3,
        )
    if fit.raised:
        warnings.warn(
            f"{fit.raised} of {len(fit.center)} conditional variances were raised to {VARIANCE_FLOOR:g} of the "
            "marginal variance: some vertices are almost determined by their neighbours; use a smaller radius or a "
            "nugget",
            stacklevel=3,
        )


def _squares(field: GaussianField, n_draws: int, run: Run) -> Float[np.ndarray, "vertex channel"]:
    """Sum of the squares of some draws."""
    total, factor = np.zeros((field.n_vertices, field.n_channels)), field.factor
    if isinstance(factor, TiledFactor):
        for members in batches(n_draws, factor):
            tiles = draw_tiles(factor, members, _squares_of_tile, seed=0, stream=Stream.EXACT, run=run)
            for tile, squares in enumerate(tiles):
                total[factor.tiling.vertices(factor.tiling.box(tile))] += squares
        return total
    for first in range(0, n_draws, TOGETHER):
        drawn = field.sample(min(TOGETHER, n_draws - first), seed=0, first_member=first)
        total += np.square(drawn, out=drawn).sum(axis=0)
    return total


def _squares_of_tile(tile: int, drawn: Float[np.ndarray, "draw vertex channel"]) -> Float[np.ndarray, "vertex channel"]:  # noqa: ARG001
    """Sum of the squares of the draws of a tile."""
    total = np.zeros(drawn.shape[1:])
    for first in range(0, len(drawn), TOGETHER):
        total += np.square(drawn[first : first + TOGETHER]).sum(axis=0)
    return total


@dataclass(frozen=True)
class FieldFit:
    """A field with the reasons to warn of it.

    ``variance`` is the fitted one; ``full_width`` and ``width`` count the entries of the largest window before and
    after the cut, ``raised`` the conditional variances at the floor; ``run`` runs the tasks of the check.
    """

    center: Float[np.ndarray, "vertex channel"]
    scale: Float[np.ndarray, "vertex channel"]
    field: GaussianField
    variance: Float[np.ndarray, "vertex channel"]
    full_width: int
    width: int
    raised: int
    run: Run = one_by_one

    @cached_property
    def ratio(self) -> tuple[float, float]:
        """5 % and 95 % quantiles over the vertices of the variance of exact draws over the fitted variance.

        A field is fitted by its conditional laws; in very smooth fields their errors add up along the elimination
        order, which no conditional loss measures.
        """
        total = _squares(self.field, self.n_draws, self.run)
        low, high = np.quantile(total / self.n_draws / self.variance, [0.05, 0.95]).tolist()
        return low, high

    @property
    def n_draws(self) -> int:
        """Draws of this comparison."""
        return int(min(200, max(64, NUMBERS / self.variance.size)))

    @property
    def sound(self) -> bool:
        """Whether the variance of draws is near the fitted one."""
        return self.ratio[0] >= VARIANCE_RANGE[0] and self.ratio[1] <= VARIANCE_RANGE[1]


def build_field(samples: Samples, radius: int, pooling: Pooling, law: Matern | None = None) -> FieldFit:
    """Fit as `fit_field` does, and return the field with its warnings unissued; ``law`` is `fit_matern`'s, if known."""
    graph, channels = samples.graph, samples.n_channels
    center, scale = location_and_scale(samples, pooling)
    order = elimination_order(graph)
    wanted = predecessors(graph, radius)
    table = cap_windows(wanted, len(samples), channels, pooling)
    law = (law or fit_matern(samples)) if pooling.strength > 0.0 else None
    fit = regress_windows(samples.standardized(center, scale), table, pooling, law)
    field = GaussianField(whitening_factor(fit.regression, table, order), order, channels, radius)
    largest, kept = (int(t.present.sum(axis=1).max()) for t in (wanted, table))
    return FieldFit(center, scale, field, fit.variance, largest, kept, int(fit.raised.sum()))


def settled_field(build: Callable[[Pooling], FieldFit], pooling: Pooling) -> tuple[FieldFit, Pooling]:
    """Fit with a pooling, and with a nugget if draws have the fitted variance only then.

    The locality of large graphs is chosen on patches; errors that grow along the elimination order may first appear on
    the whole. If no nugget helps, the field has that of `pooling`.
    """
    first = build(pooling)
    if first.sound:
        return first, pooling
    for nugget in NUGGETS[::2]:
        if nugget > pooling.nugget:
            noised = replace(pooling, nugget=nugget)
            fit = build(noised)
            if fit.sound:
                return fit, noised
    return first, pooling


def fit_windowed(
    samples: Samples, radius_by_time: tuple[tuple[float, int], ...], pooling: Pooling
) -> tuple[np.ndarray, np.ndarray, WindowedGaussianScore]:
    """Fit the minimiser of (3.8); ``radius_by_time`` as in `WindowedGaussianScore`, results as of `fit_field`."""
    center, scale = location_and_scale(samples, pooling)
    y = samples.standardized(center, scale)
    spectra = {r: window_spectrum(y, r, pooling) for r in sorted(radii_in_use(radius_by_time))}
    return center, scale, WindowedGaussianScore(spectra, radius_by_time, samples.n_channels)


def window_spectrum(samples: Samples, radius: int, pooling: Pooling) -> WindowSpectrum:
    """Eigendecompositions of the pooled covariance of the windows of one radius; shared where all have one law."""
    table = samples.graph.neighborhood(radius)
    shrinkage = Shrinkage(samples.graph, table, pooling, len(samples))
    blocks = shrinkage.whole(second_moments(samples, table.index))
    law = np.arange(len(blocks))
    if pooling.one_law:  # blocks with the same target are equal
        assert isinstance(shrinkage.average, GlobalAverage)
        _, first, law = np.unique(shrinkage.average.target_of, return_index=True, return_inverse=True)
        blocks = blocks[first]
    return _spectrum(table, blocks, law)


def torus_spectrum(samples: Samples, radius: int) -> WindowSpectrum:
    """Return the `window_spectrum` of one law on a lattice without ends, quickly also for wide windows."""
    y, graph, channels = samples.values, samples.graph, samples.n_channels
    assert graph.lattice is not None
    shape = graph.lattice.shape
    axes = tuple(range(1, len(shape) + 1))
    waves = np.fft.rfftn(y.reshape(len(y), *shape, channels), axes=axes)
    power = np.einsum("s...c,s...d->...cd", waves.conj(), waves) / (len(y) * graph.n_vertices)
    covariance = np.fft.irfftn(power, s=shape, axes=tuple(range(len(shape))))
    table = graph.neighborhood(radius)
    cells = np.stack(np.unravel_index(table.index[0], shape))
    lag = (cells[:, None, :] - cells[:, :, None]) % np.array(shape)[:, None, None]
    block = covariance[tuple(lag)].swapaxes(1, 2).reshape(1, cells.shape[1] * channels, cells.shape[1] * channels)
    return _spectrum(table, block, np.zeros(graph.n_vertices, dtype=np.int64))


def field_spectrum(field: GaussianField, graph: DependencyGraph, radius: int) -> WindowSpectrum:
    """Eigendecompositions of the covariance of a field of one law on the windows of one radius.

    Vertices whose windows have the same cut share that of the middle one. The covariance is computed whole, so the
    field should have a few thousand variables at most.
    """
    table = graph.neighborhood(radius)
    _, law = np.unique(table.present, axis=0, return_inverse=True)
    law = law.reshape(-1)
    middle = np.array([alike[len(alike) // 2] for alike in map(np.flatnonzero, law == np.unique(law)[:, None])])
    variables = table.index[middle, :, None] * field.n_channels + np.arange(field.n_channels)
    variables = variables.reshape(len(middle), -1)
    present = np.repeat(table.present[middle], field.n_channels, axis=1)
    blocks = field.covariance()[variables[:, :, None], variables[:, None, :]]
    return _spectrum(table, np.where(present[:, :, None] & present[:, None, :], blocks, 0.0), law)


def _spectrum(
    table: Neighborhood, blocks: Float[np.ndarray, "law entry entry"], law: Int[np.ndarray, " vertex"]
) -> WindowSpectrum:
    values, vectors = torch.linalg.eigh(torch.from_numpy(blocks))
    # contiguous, so that a saved and loaded score sums in the same order
    return WindowSpectrum(table.index, values.clamp_min(0.0).numpy(), vectors.contiguous().numpy(), law)


def fit_masked(samples: Samples, radius: int) -> tuple[np.ndarray, np.ndarray, MaskedGaussianScore]:
    """Fit the paper's (4.5) to samples standardised at each vertex; results as of `fit_field`."""
    center, scale = location_and_scale(samples, Pooling(0.0))
    y = ((samples.values - center) / scale).reshape(len(samples), -1)
    near = samples.graph.distance_matrix() <= radius
    return center, scale, MaskedGaussianScore(y.T @ y / len(y), near, radius, samples.n_channels)
