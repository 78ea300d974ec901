r"""The law of a noised Gaussian field in the eigenbasis of its covariance, :math:`C = V \Lambda V^\top`.

One decomposition serves all times. The noised state has the covariance :math:`V (a^2 \Lambda + s^2) V^\top`, its
denoiser is :math:`V \frac{a \Lambda}{a^2 \Lambda + s^2} V^\top`, and the probability flow scales each coordinate as its
standard deviation changes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import numpy as np
from scipy.linalg import eigh

from nearfield.process import noise_scale, signal_scale

if TYPE_CHECKING:
    from jaxtyping import Float, Int

    from nearfield.score.field import GaussianField

__all__ = ["LARGEST_SPECTRUM", "FieldSpectrum"]

LARGEST_SPECTRUM = 4096
"""Most variables of a decomposed covariance: some ten seconds, and 130 MB."""
_TOGETHER = 1 << 22
"""Numbers multiplied at once for entries of the denoiser (32 MiB)."""


@final
@dataclass(frozen=True, eq=False)
class FieldSpectrum:
    """Eigenvalues and eigenvectors (in columns) of a covariance, variables in vertex order with channels fastest."""

    values: Float[np.ndarray, " variable"]
    vectors: Float[np.ndarray, "variable variable"]

    @classmethod
    def of(cls, field: GaussianField) -> FieldSpectrum | None:
        """Decompose the covariance of a field; None for more than ``LARGEST_SPECTRUM`` variables."""
        if field.n_vertices * field.n_channels > LARGEST_SPECTRUM:
            return None
        values, vectors = eigh(field.covariance(), driver="evd")
        return cls(values.clip(np.finfo(float).tiny), vectors)

    def variances(self, t: float) -> Float[np.ndarray, " variable"]:
        """Variances of the coordinates at OU time t."""
        found: np.ndarray = signal_scale(t) ** 2 * self.values + noise_scale(t) ** 2
        return found

    def log_prob(self, x: Float[np.ndarray, "sample vertex channel"], t: float) -> Float[np.ndarray, " sample"]:
        """Log-density in nats of states at OU time t."""
        variances = self.variances(t)
        z = x.reshape(len(x), -1) @ self.vectors
        constant = np.log(2 * math.pi * variances).sum()
        log_density: np.ndarray = -0.5 * (constant + (z**2 / variances).sum(axis=1))
        return log_density

    def transported(
        self, x: Float[np.ndarray, "sample vertex channel"], start: float, end: float
    ) -> tuple[Float[np.ndarray, "sample vertex channel"], float]:
        """Return the states at OU time `end` that the flow brings these to, and the log of its volume."""
        scale = np.sqrt(self.variances(end) / self.variances(start))
        z = x.reshape(len(x), -1) @ self.vectors
        return ((z * scale) @ self.vectors.T).reshape(x.shape), float(np.log(scale).sum())

    def denoiser_blocks(
        self, t: float, index: Int[np.ndarray, "vertex width"], n_channels: int
    ) -> Float[np.ndarray, "vertex channel width channel"]:
        """Blocks of the denoiser's matrix at some vertices for each vertex."""
        return self.blocks(signal_scale(t) * self.values / self.variances(t), index, n_channels)

    def blocks(
        self, gain: Float[np.ndarray, " variable"], index: Int[np.ndarray, "vertex width"], n_channels: int
    ) -> Float[np.ndarray, "vertex channel width channel"]:
        """Blocks of the matrix V diag(gain) V' at some vertices for each vertex."""
        rows = self.vectors.reshape(-1, n_channels, len(self.values))
        out = np.empty((len(index), n_channels, index.shape[1], n_channels))
        step = max(1, _TOGETHER // (index.shape[1] * n_channels * len(gain)))
        for start in range(0, len(index), step):
            part = slice(start, start + step)
            out[part] = np.einsum("vck,vwdk->vcwd", rows[part] * gain, rows[index[part]], optimize=True)
        return out
