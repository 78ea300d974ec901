"""Choice of the radius of the windowed and of the masked score by the localized denoising loss.

The loss is (3.7) of arXiv 2505.04417 on held-out samples with the exact expectation over the noise; by Proposition 3.3
it is comparable across radii at one noise level. The smallest radius within one standard error of the lowest loss is
chosen.
"""

from __future__ import annotations

import math

import numpy as np

from nearfield import process
from nearfield.fitting.closed_form import fit_masked, window_spectrum
from nearfield.fitting.covariance import location_and_scale
from nearfield.fitting.cross_validation import candidate_radii, representative
from nearfield.fitting.pooling import Pooling
from nearfield.fitting.rarity import comparable
from nearfield.process import time_of
from nearfield.samples import Samples
from nearfield.score.gaussian import MaskedGaussianScore, WindowedGaussianScore

__all__ = ["SIGMAS", "select_masked_radius", "select_radius_by_time"]

SIGMAS = tuple(np.geomspace(0.05, 20.0, 13).tolist())
"""Noise-to-signal ratios of the table r(t). Beyond them the radius hardly changes."""
MASKED_SIGMAS = tuple(np.geomspace(0.02, 80.0, 13).tolist())
"""Noise-to-signal ratios of the sampler, over which the loss of the masked score is summed."""


def select_radius_by_time(
    samples: Samples, pooling: Pooling, *, folds: int = 5, seed: int = 0
) -> tuple[tuple[float, int], ...]:
    """Radius of the windowed score at each of about 13 noise levels, by its held-out denoising loss.

    The expectation over the noise is exact: a linear denoiser with row g errs by ``(a g y - y_j)^2 + s^2 |g|^2`` on a
    clean held-out sample y. Pairs are OU times and radii, by increasing time.
    """
    parts = samples.folds(folds, seed)
    used = representative(samples, parts)
    radii = candidate_radii(used.graph, used.n_channels)
    loss = np.empty((len(radii), len(SIGMAS), len(used)))
    for test in parts:
        train = used.without(test)
        _refuse_unscaled(train, pooling)
        center, scale = location_and_scale(train, pooling)
        train, held_out = (part.standardized(center, scale) for part in (train, used.take(test)))
        for i, r in enumerate(radii):
            score = WindowedGaussianScore({r: window_spectrum(train, r, pooling)}, ((1.0, r),), used.n_channels)
            for k, sigma in enumerate(SIGMAS):
                loss[i, k, test] = _denoising_loss(held_out.values, score, time_of(sigma), sigma)
    chosen = []
    for k, sigma in enumerate(SIGMAS):
        best = int(loss[:, k].mean(axis=1).argmin())
        gap = loss[:, k] - loss[best, k]
        close = [i for i in range(len(radii)) if gap[i].mean() <= samples.standard_error(gap[i])]
        chosen.append((float(time_of(sigma)), radii[min(close)]))
    return tuple(chosen)


def _refuse_unscaled(train: Samples, pooling: Pooling) -> None:
    """Refuse vertices that vary only in the held-out samples."""
    still = ((np.ptp(train.values, axis=0) == 0) & np.logical_not(train.standard)).any(axis=1)
    if pooling.of_location.strength == 0 and still.any():
        raise ValueError(
            f"data must vary in every fold, but vertex {int(still.argmax())} varies in few samples only; pass pooling "
            "above 0 or a radius, or leave such vertices out"
        )


def _denoising_loss(y: np.ndarray, score: WindowedGaussianScore, t: float, sigma: float) -> np.ndarray:
    """Exact E|D(x_t) - y|^2 / sigma^2 per sample, averaged over vertices and channels."""
    rows = score.coefficients(t).numpy()
    window = np.take(y, score.window(score.radius_at(t)).index.numpy(), axis=1)
    a = 1.0 / math.sqrt(1.0 + sigma**2)
    error = a * np.einsum("vcwd,svwd->svc", rows, window, optimize=True) - y
    noise = (a * sigma) ** 2 * (rows**2).sum(axis=(2, 3))
    loss: np.ndarray = (error**2 + noise).mean(axis=(1, 2)) / sigma**2
    return loss


def select_masked_radius(samples: Samples, *, folds: int = 5, seed: int = 0) -> int:
    """Radius of the paper's masked score (4.5), by its held-out denoising loss summed over the noise levels."""
    parts = samples.folds(folds, seed)
    samples = samples.at(comparable(samples, parts))
    radii = candidate_radii(samples.graph, samples.n_channels)
    loss = np.zeros((len(radii), len(samples)))
    for test in parts:
        train = samples.without(test)
        _refuse_unscaled(train, Pooling(0.0))
        for i, r in enumerate(radii):
            center, scale, score = fit_masked(train, r)
            loss[i, test] = _masked_loss(((samples.values[test] - center) / scale).reshape(len(test), -1), score)
    gaps = loss - loss[int(loss.mean(axis=1).argmin())]
    return min(r for r, gap in zip(radii, gaps, strict=True) if gap.mean() <= samples.standard_error(gap))


def _masked_loss(y: np.ndarray, score: MaskedGaussianScore) -> np.ndarray:
    """Exact E|D(x_t) - y|^2 / sigma^2 per sample, summed over the noise levels."""
    loss = np.zeros(len(y))
    for sigma in MASKED_SIGMAS:
        t = time_of(sigma)
        rows = (np.eye(y.shape[1]) - process.noise_scale(t) ** 2 * score.precision(t).numpy()) / process.signal_scale(t)
        error = process.signal_scale(t) * y @ rows.T - y
        loss += ((error**2).mean(axis=1) / sigma**2) + process.signal_scale(t) ** 2 * (rows**2).sum() / len(rows)
    return loss
