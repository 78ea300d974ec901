r"""Probability of a Gaussian field of which some values are known only to lie beyond a threshold.

The factor of a field gives each value its law given the earlier ones. Values are passed in that order: a known one
weighs a particle by its density, a censored one by the probability of its side of the threshold, and is then drawn
there (the simulator of Geweke, Hajivassiliou and Keane, with particles resampled where their weights differ). The mean
weight is an unbiased estimate of the probability,

.. math:: \int_{z_c < \tau_c} p(z_c, z_o)\, dz_c .
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import log_ndtr, logsumexp, ndtr, ndtri

if TYPE_CHECKING:
    from jaxtyping import Float

    from nearfield.score.field import GaussianField

__all__ = ["censored_log_prob"]

_PARTICLES = 128
_BLOCK = 1 << 22  # numbers of the particles of the samples that are passed at once
_SMALLEST = 1e-300
_NO_BOUND = 1e9
"""Threshold, in standard deviations, below which a missing value is."""


def censored_log_prob(
    field: GaussianField,
    z: Float[np.ndarray, "sample vertex channel"],
    below: Float[np.ndarray, "sample vertex channel"],
    above: Float[np.ndarray, "sample vertex channel"],
    n_particles: int = _PARTICLES,
) -> Float[np.ndarray, " sample"]:
    """Log-density of known values and probability of those ``below`` or ``above`` a threshold, each NaN elsewhere.

    Values that are NaN, without a threshold, are left out. It is the same for a sample whatever the others are.

    Examples
    --------
    >>> import scipy.sparse as sp
    >>> from nearfield.score.field import GaussianField
    >>> field = GaussianField(sp.eye_array(2, format="csr"), np.arange(2))
    >>> none = np.full((1, 2, 1), np.nan)
    >>> censored_log_prob(field, np.zeros((1, 2, 1)), np.zeros((1, 2, 1)), none).round(4).tolist()  # 2 log(1/2)
    [-1.3863]
    """
    step = max(1, _BLOCK // (n_particles * z[0].size))
    parts = (slice(start, start + step) for start in range(0, len(z), step))
    return np.concatenate([_block(field, z[p], below[p], above[p], n_particles) for p in parts])


def _block(
    field: GaussianField,
    z: Float[np.ndarray, "sample vertex channel"],
    below: Float[np.ndarray, "sample vertex channel"],
    above: Float[np.ndarray, "sample vertex channel"],
    n_particles: int,
) -> Float[np.ndarray, " sample"]:
    """Pass the values of some samples in elimination order."""
    rng, factor = np.random.default_rng(0), field.factor.matrix
    known = field._ordered(z)
    sign = np.where(np.isfinite(above), -1.0, 1.0)
    sign, limit = field._ordered(sign), field._ordered(np.where(np.isfinite(above), -above, below))
    limit = np.where(np.isnan(known) & np.isnan(limit), _NO_BOUND, limit)
    particles = np.zeros((len(z), n_particles, known.shape[1]))
    weight, total = np.zeros((len(z), n_particles)), np.zeros(len(z))
    for i in range(known.shape[1]):
        entries = slice(factor.indptr[i], factor.indptr[i + 1])
        earlier, row = factor.indices[entries], factor.data[entries]
        own = float(row[earlier == i][0])
        mean = -(particles[..., earlier] @ np.where(earlier == i, 0.0, row)) / own
        side, hidden = sign[:, i, None], np.isfinite(limit[:, i])[:, None]
        reach = own * (np.where(hidden, limit[:, i, None], 0.0) - side * mean)
        chance = np.maximum(rng.random(n_particles) * ndtr(reach), _SMALLEST)
        particles[..., i] = np.where(hidden, mean + side * ndtri(chance) / own, known[:, i, None])
        white = own * (known[:, i, None] - mean)
        density = math.log(own) - 0.5 * math.log(2 * math.pi) - white**2 / 2
        weight += np.where(hidden, log_ndtr(reach), density)
        _resample(particles, weight, total, float(rng.random()))
    if field.coarse is not None:  # what the correction changes the density of a whole field by
        flat = particles.reshape(-1, known.shape[1])
        white = (factor @ flat.T).T
        fine = np.log(factor.diagonal()).sum() - 0.5 * flat.shape[1] * math.log(2 * math.pi) - (white**2).sum(1) / 2
        weight += (field.log_prob(field._natural(flat)) - fine).reshape(weight.shape)
    found: np.ndarray = total + logsumexp(weight, axis=1) - math.log(n_particles)
    return found


def _resample(
    particles: Float[np.ndarray, "sample particle variable"],
    weight: Float[np.ndarray, "sample particle"],
    total: Float[np.ndarray, " sample"],
    offset: float,
) -> None:
    """Draw particles by weight, in place, for the samples where fewer than half of them count; even spacing."""
    n = weight.shape[1]
    mean = logsumexp(weight, axis=1)
    share = np.exp(weight - mean[:, None])
    poor = np.flatnonzero((share**2).sum(axis=1) > 2 / n)
    if not len(poor):
        return
    places = (np.arange(n) + offset) / n
    for sample in poor:
        chosen = np.minimum(np.searchsorted(np.cumsum(share[sample]), places), n - 1)
        particles[sample] = particles[sample][chosen]
    total[poor] += mean[poor] - math.log(n)
    weight[poor] = 0.0
