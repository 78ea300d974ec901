r"""The quadratic part of a denoiser at strong noise, in closed form.

A Gaussian's denoiser :math:`D_G` is the best linear function of the noised state. The first correction, by the third
moments of the data, is a quadratic function. One such function is kept, :math:`c(\sigma) (D_G^2 - v)` with v the
variance of :math:`D_G` and no square above 36 v, and its coefficient found by least squares,

.. math:: \min_c \sum \bigl(x_0 - D_G - c(\sigma) (D_G^2 - v)\bigr)^2,

over samples, vertices and noise drawn anew, c linear in :math:`\ln\sigma` between a few knots. Vertices are pooled,
channels are not. (Independent values of variance 1 and third and fourth cumulants :math:`\kappa`:
:math:`c = \kappa_3 s^2 / (2 + \kappa_4 a^4)`.)
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import torch

from nearfield.noise import Stream
from nearfield.process import noise_scale, per_sample, signal_scale, time_of
from nearfield.samples import BLOCKS, Samples
from nearfield.score.base import ContextScore
from nearfield.score.hybrid import KNOTS, hats, square_of

if TYPE_CHECKING:
    from jaxtyping import Float

__all__ = ["fit_quadratic"]

WEAKEST, STRONGEST = 0.5, 32.0
"""Noise-to-signal ratios between which noise is drawn, evenly in their log."""
DRAWS, LARGEST = 3200, 2**20
"""Noised samples, and their numbers at most."""
FEWEST = 200
"""Noised samples in any case, so that few samples meet many levels each."""
NUMBERS = 2**15
"""Numbers of the samples that are noised together."""
DECIMALS = 6
"""Of coefficients: they identify the run of a checkpoint, so that the order of a sum must not change them."""


def fit_quadratic(samples: Samples, context: ContextScore, seed: int) -> Float[np.ndarray, "knot channel"]:
    """Fit the coefficient c of a `HybridScore` to standardised samples that its context was fitted to.

    The coefficients of a channel are shrunk towards 0 together, by the positive part of James and Stein's factor
    (Fourth Berkeley Symposium, 1961), in the metric of their covariance, which is estimated over samples. Noise alone
    keeps two fifths of its squares; 8 samples or fewer give 0.
    """
    z = samples.values
    n_samples, _, channels = z.shape
    normal, moment = np.zeros((n_samples, channels, KNOTS, KNOTS)), np.zeros((n_samples, channels, KNOTS))
    rng, size = np.random.default_rng([seed, Stream.TRAINING]), max(1, NUMBERS // z[0].size)
    draws = max(FEWEST, min(DRAWS, LARGEST * n_samples // z.size))
    for _ in range(math.ceil(draws / (2 * n_samples))):
        place = torch.from_numpy((rng.permutation(n_samples) + rng.random(n_samples)) / n_samples)
        log_sigma = math.log(WEAKEST) + math.log(STRONGEST / WEAKEST) * place
        for part in np.array_split(np.arange(n_samples), math.ceil(n_samples / size)):
            clean, t = torch.from_numpy(z[part]), time_of(log_sigma[part].exp())
            at = hats(log_sigma[part]).numpy()
            xi = torch.from_numpy(rng.standard_normal(clean.shape))
            for sign in (1, -1):  # together they cancel what is odd in the noise
                noised = per_sample(signal_scale(t)) * clean + sign * per_sample(noise_scale(t)) * xi
                denoised, variance = (each.double() for each in context.denoise_with_variance(noised.float(), t))
                square = square_of(denoised, variance)
                if samples.present is not None:
                    square = square * torch.from_numpy(samples.present[part])
                weight = (square**2).sum(dim=1).numpy()[:, :, None]
                normal[part] += (at[:, None] * weight)[..., None] * at[:, None, None]
                moment[part] += at[:, None] * (square * (clean - denoised)).sum(dim=1).numpy()[:, :, None]
    found = [_shrunk(normal[:, k], moment[:, k], samples.ordered) for k in range(channels)]
    return np.stack(found, axis=1).round(DECIMALS)


def _shrunk(
    normal: Float[np.ndarray, "sample knot knot"], moment: Float[np.ndarray, "sample knot"], ordered: bool
) -> Float[np.ndarray, " knot"]:
    """Solve the normal equations, a term for each sample, and shrink what is found."""
    inverse = np.linalg.pinv(normal.sum(axis=0), hermitian=True)
    found = inverse @ moment.sum(axis=0)
    rest = moment - normal @ found
    if ordered and len(rest) >= 2 * BLOCKS:
        rest = np.array([block.sum(axis=0) for block in np.array_split(rest, BLOCKS)])
    if len(rest) <= 2 * KNOTS:
        return np.zeros(KNOTS)
    covariance = inverse @ (rest.T @ rest) @ inverse
    distance = float(found @ np.linalg.pinv(covariance, hermitian=True) @ found)
    shrinkage = (KNOTS - 2) * len(rest) / (len(rest) - KNOTS + 2)  # of a covariance that was estimated
    return found * max(0.0, 1 - shrinkage / distance) if distance > 0 else np.zeros(KNOTS)
