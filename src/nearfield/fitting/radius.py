"""Choosing the radius of the windowed and of the masked score by the localized denoising loss.

The loss is (3.7) of arXiv 2505.04417 on held-out samples with the expectation over the noise taken exactly; by
Proposition 3.3 it is comparable across radii at one noise level. The smallest radius within one standard error of the
lowest loss is chosen.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from nearfield import process
from nearfield.data.duplicate import duplicate_groups
from nearfield.fitting.closed_form import fit_masked, window_spectrum
from nearfield.fitting.covariance import Pooling, Standardize, location_and_scale
from nearfield.fitting.cross_validation import candidate_radii, fewer_folds, representative, split, standard_error
from nearfield.fitting.rarity import compared
from nearfield.graph import DependencyGraph
from nearfield.process import time_of
from nearfield.score.gaussian import WindowedGaussianScore

if TYPE_CHECKING:
    from jaxtyping import Float

LEVELS = tuple(np.geomspace(0.05, 20.0, 13).tolist())
"""Noise-to-signal ratios of the table r(t). Below and above, the radius no longer changes much."""
MASKED_LEVELS = tuple(np.geomspace(0.02, 80.0, 13).tolist())
"""Noise-to-signal ratios over which the loss of the masked score is summed: those that the sampler passes."""


def select_radius_by_time(
    x: Float[np.ndarray, "sample vertex channel"],
    graph: DependencyGraph,
    pooling: Pooling,
    *,
    folds: int = 5,
    contiguous: bool = False,
    standardize: Standardize = True,
    seed: int = 0,
) -> tuple[tuple[float, int], ...]:
    """Radius of the windowed score at each of about 13 noise levels, by its held-out denoising loss.

    The expectation over the noise is exact: a linear denoiser with row g errs by ``(a g y - y_j)^2 + s^2 |g|^2`` on a
    clean held-out sample y.

    Parameters
    ----------
    x, graph, pooling, folds, contiguous, standardize, seed
        As in `select_field`; the pooling is given.

    Returns
    -------
    tuple of (float, int)
        OU time and radius, by increasing time.

    Raises
    ------
    ValueError
        If there are fewer than four samples, or every vertex varies in held-out samples alone and nothing is pooled.
    """
    parts = split(len(x), fewer_folds(folds, len(x)), contiguous, seed, duplicate_groups(x))
    part, x = representative(x, graph, parts, standardize)
    radii = candidate_radii(part, x.shape[2])
    loss = np.empty((len(radii), len(LEVELS), len(x)))
    for test in parts:
        train = np.delete(x, test, axis=0)
        refuse_unscaled(train, pooling, standardize)
        center, scale = location_and_scale(train, part, pooling, standardize)
        for i, r in enumerate(radii):
            spectrum = window_spectrum((train - center) / scale, part, r, pooling)
            score = WindowedGaussianScore({r: spectrum}, ((1.0, r),), x.shape[2])
            for k, sigma in enumerate(LEVELS):
                loss[i, k, test] = _denoising_loss((x[test] - center) / scale, score, time_of(sigma), sigma)
    chosen = []
    for k, sigma in enumerate(LEVELS):
        best = int(loss[:, k].mean(axis=1).argmin())
        gap = loss[:, k] - loss[best, k]
        close = [i for i in range(len(radii)) if gap[i].mean() <= standard_error(gap[i], contiguous)]
        chosen.append((float(time_of(sigma)), radii[min(close)]))
    return tuple(chosen)


def refuse_unscaled(train: np.ndarray, pooling: Pooling, standardize: Standardize) -> None:
    """Refuse samples without scale: a vertex that varies in the held-out ones alone."""
    still = np.logical_and(np.ptp(train, axis=0) == 0, standardize).any(axis=1)
    if pooling.of_location.strength == 0 and still.any():
        raise ValueError(
            f"data must vary in every fold, vertex {int(still.argmax())} varies in few samples only; give pooling "
            "above 0, a radius, or leave such vertices out"
        )


def _denoising_loss(y: np.ndarray, score: WindowedGaussianScore, t: float, sigma: float) -> np.ndarray:
    """Exact E|D(x_t) - y|^2 / sigma^2 per sample, averaged over vertices and channels."""
    rows = score.coefficients(t).numpy()
    window = np.take(y, score.window(score.radius_at(t)).index.numpy(), axis=1)
    a = 1.0 / math.sqrt(1.0 + sigma**2)
    error = a * np.einsum("vcwd,svwd->svc", rows, window, optimize=True) - y
    noise = (a * sigma) ** 2 * (rows**2).sum(axis=(2, 3))
    return (error**2 + noise).mean(axis=(1, 2)) / sigma**2


def select_masked_radius(
    x: Float[np.ndarray, "sample vertex channel"],
    graph: DependencyGraph,
    *,
    folds: int = 5,
    contiguous: bool = False,
    standardize: Standardize = True,
    seed: int = 0,
) -> int:
    """One radius for the paper's masked score (4.5), by its held-out denoising loss summed over the noise levels.

    Arguments and errors as in `select_radius_by_time`; the same one-standard-error rule.
    """
    parts = split(len(x), fewer_folds(folds, len(x)), contiguous, seed, duplicate_groups(x))
    keep = compared(x, parts, standardize)
    graph, x = graph.subgraph(keep), x[:, keep]
    radii = candidate_radii(graph, x.shape[2])
    loss = np.zeros((len(radii), len(x)))
    for test in parts:
        train = np.delete(x, test, axis=0)
        refuse_unscaled(train, Pooling(0.0), standardize)
        for i, r in enumerate(radii):
            center, scale, score = fit_masked(train, graph, r, standardize)
            y = ((x[test] - center) / scale).reshape(len(test), -1)
            for sigma in MASKED_LEVELS:
                t = time_of(sigma)
                rows = (np.eye(y.shape[1]) - process.noise(t) ** 2 * score.precision(t).numpy()) / process.signal(t)
                error = process.signal(t) * y @ rows.T - y
                loss[i, test] += ((error**2).mean(axis=1) / sigma**2) + process.signal(t) ** 2 * (rows**2).sum() / len(
                    rows
                )
    best = int(loss.mean(axis=1).argmin())
    gaps = loss - loss[best]
    return min(r for r, gap in zip(radii, gaps, strict=True) if gap.mean() <= standard_error(gap, contiguous))
