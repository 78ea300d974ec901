r"""Closed-form fits of the local Gaussian scores.

The sparse Cholesky field regresses each vertex on its earlier neighbours: column j of the factor U of
:math:`P_0 = U U^\top` is :math:`C_{SS}^{-1} e_j / \sqrt{(C_{SS}^{-1})_{jj}}` on the set S of the vertex and these
neighbours. In a perfect elimination ordering of a chordal graph this is the maximum likelihood fit.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import scipy.sparse as sp
import torch

from nearfield.fitting.covariance import (
    Pooling,
    elimination_order,
    local_blocks,
    location_and_scale,
    pooled_blocks,
    predecessors,
)
from nearfield.graph import DependencyGraph, Neighborhood
from nearfield.score.field import GaussianField
from nearfield.score.gaussian import MaskedGaussianScore, WindowedGaussianScore, WindowSpectrum, radii_in_use

if TYPE_CHECKING:
    from jaxtyping import Bool, Float

VARIANCE_FLOOR = 1e-6
"""A conditional variance is at least this fraction of the variance it is conditioned down from."""


class Regression(NamedTuple):
    """Each vertex regressed on the other members of its window.

    ``coefficient`` (row, member, channel) of the other members, ``root`` (row, channel, channel) the lower Cholesky
    factor of the conditional covariance.
    """

    coefficient: Float[np.ndarray, "row member channel"]
    root: Float[np.ndarray, "row channel channel"]


def cap_members(table: Neighborhood, n_samples: int, n_channels: int, pooling: Pooling) -> Neighborhood:
    """Keep only the nearest members where unpooled samples cannot support the window.

    A block of ``k`` members with ``c`` channels each is positive definite with more than ``k c`` samples once the mean
    is fitted; windows that ask for more are cut to half the samples.
    """
    if pooling.strength > 0.0 or table.present.sum(axis=1).max() * n_channels < n_samples:
        return table
    allowed = 1 + max(0, (n_samples - 1) // 2 // n_channels - 1)
    present = table.present & (np.cumsum(table.present, axis=1) <= allowed)
    columns = present.any(axis=0)
    offsets = None if table.offsets is None else table.offsets[columns]
    return Neighborhood(table.index[:, columns], present[:, columns], table.hops[:, columns], offsets)


def regress(
    blocks: Float[np.ndarray, "row member member"], n_channels: int
) -> tuple[Regression, Bool[np.ndarray, " row"]]:
    """Regress the first ``n_channels`` members of each block on the others.

    Returns
    -------
    Regression
    ndarray of bool, shape (row,)
        Where the conditional variance had to be raised to ``VARIANCE_FLOOR``.
    """
    block = torch.from_numpy(blocks)
    own, cross, others = (
        block[:, :n_channels, :n_channels],
        block[:, n_channels:, :n_channels],
        block[:, n_channels:, n_channels:],
    )
    jitter = 1e-12 * others.diagonal(dim1=1, dim2=2).mean(dim=1) if others.shape[1] else torch.zeros(len(block))
    factor, failed = torch.linalg.cholesky_ex(others + jitter[:, None, None] * torch.eye(others.shape[1]))
    if failed.any():
        bad = failed > 0
        scale = others[bad].diagonal(dim1=1, dim2=2).mean(dim=1)[:, None, None]
        factor[bad] = torch.linalg.cholesky(others[bad] + VARIANCE_FLOOR * scale * torch.eye(others.shape[1]))
    half = torch.linalg.solve_triangular(factor, cross, upper=False)
    coefficient = torch.linalg.solve_triangular(factor.mT, half, upper=True)
    values, vectors = torch.linalg.eigh(own - half.mT @ half)
    floor = VARIANCE_FLOOR * own.diagonal(dim1=1, dim2=2).mean(dim=1, keepdim=True)
    raised = (values < floor).any(dim=1)
    conditional = (vectors * values.clamp_min(floor)[:, None]) @ vectors.mT
    return Regression(coefficient.numpy(), torch.linalg.cholesky(conditional).numpy()), raised.numpy()


def whitening_factor(regression: Regression, table: Neighborhood, order: np.ndarray) -> sp.csr_array:
    """Sparse lower triangular F with F x standard normal, rows and columns in elimination order."""
    n, width = table.index.shape
    c = regression.root.shape[1]
    inverse = np.linalg.inv(regression.root)
    rows = np.concatenate([inverse, -inverse @ regression.coefficient.transpose(0, 2, 1)], axis=2)
    position = np.empty(n, dtype=np.int64)
    position[order] = np.arange(n)
    column = (position[table.index][:, :, None] * c + np.arange(c)).reshape(n, 1, width * c)
    row = (position[:, None] * c + np.arange(c))[:, :, None]
    used = np.broadcast_to(np.repeat(table.present, c, axis=1)[:, None], rows.shape).copy()
    used[:, :, :c] &= np.tri(c, dtype=bool)
    row, column = np.broadcast_to(row, rows.shape)[used], np.broadcast_to(column, rows.shape)[used]
    factor = sp.csr_array((rows[used], (row, column)), shape=(n * c, n * c))
    factor.sort_indices()
    return factor


def fit_field(
    x: Float[np.ndarray, "sample vertex channel"],
    graph: DependencyGraph,
    radius: int,
    pooling: Pooling,
    standardize: bool = True,
) -> tuple[np.ndarray, np.ndarray, GaussianField]:
    """Fit the sparse Cholesky field.

    Parameters
    ----------
    x : ndarray, shape (sample, vertex, channel)
    graph : DependencyGraph
    radius : int
        Hops of the conditioning sets (earlier neighbours in `elimination_order`).
    pooling : Pooling
    standardize : bool
        Whether location and scale are fitted; if not they are 0 and 1.

    Returns
    -------
    center, scale : ndarray, shape (vertex, channel)
        Of the data; the field describes ``(x - center) / scale``.
    field : GaussianField

    Warns
    -----
    UserWarning
        When conditioning sets were capped or conditional variances raised to the floor.
    """
    n_samples, _, channels = x.shape
    center, scale = location_and_scale(x, graph, pooling, standardize)
    order = elimination_order(graph)
    wanted = predecessors(graph, radius, order)
    table = cap_members(wanted, n_samples, channels, pooling)
    if table is not wanted:
        warnings.warn(
            f"{n_samples} samples cannot support conditioning sets of {wanted.present.sum(axis=1).max() - 1} neighbours"
            f" without pooling: each is cut to its {table.present.sum(axis=1).max() - 1} nearest. Use a smaller radius"
            " or pooling > 0.",
            stacklevel=2,
        )
    blocks = local_blocks((x - center) / scale, table.index)
    regression, raised = regress(pooled_blocks(blocks, table, graph, pooling), channels)
    if raised.any():
        warnings.warn(
            f"{raised.sum()} of {len(raised)} conditional variances were raised to {VARIANCE_FLOOR:g} of the marginal "
            "variance: some vertices are almost determined by their neighbours. Use a smaller radius or more pooling.",
            stacklevel=2,
        )
    return center, scale, GaussianField(whitening_factor(regression, table, order), order, channels, radius)


def fit_windowed(
    x: Float[np.ndarray, "sample vertex channel"],
    graph: DependencyGraph,
    radius_by_time: tuple[tuple[float, int], ...],
    pooling: Pooling,
    standardize: bool = True,
) -> tuple[np.ndarray, np.ndarray, WindowedGaussianScore]:
    """Fit the minimiser of (3.8); ``radius_by_time`` as in `WindowedGaussianScore`, the rest as in `fit_field`."""
    center, scale = location_and_scale(x, graph, pooling, standardize)
    y = (x - center) / scale
    spectra = {r: window_spectrum(y, graph, r, pooling) for r in sorted(radii_in_use(radius_by_time))}
    return center, scale, WindowedGaussianScore(spectra, radius_by_time, x.shape[2])


def window_spectrum(
    y: Float[np.ndarray, "sample vertex channel"], graph: DependencyGraph, radius: int, pooling: Pooling
) -> WindowSpectrum:
    """Eigendecompositions of the pooled covariance of every window of one radius."""
    table = graph.neighborhood(radius)
    blocks = pooled_blocks(local_blocks(y, table.index), table, graph, pooling)
    values, vectors = torch.linalg.eigh(torch.from_numpy(blocks))
    # contiguous, so that a saved and loaded score sums in the same order
    return WindowSpectrum(table.index, values.clamp_min(0.0).numpy(), vectors.contiguous().numpy())


def fit_masked(
    x: Float[np.ndarray, "sample vertex channel"], graph: DependencyGraph, radius: int, standardize: bool = True
) -> tuple[np.ndarray, np.ndarray, MaskedGaussianScore]:
    """Fit the paper's (4.5) to data standardised per vertex; arguments as in `fit_field`."""
    center, scale = location_and_scale(x, graph, Pooling(0.0), standardize)
    y = ((x - center) / scale).reshape(len(x), -1)
    return center, scale, MaskedGaussianScore(y.T @ y / len(y), graph.distance_matrix(), radius, x.shape[2])
