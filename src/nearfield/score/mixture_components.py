r"""Components of a scale mixture: factors of the eigenvalues of a covariance, by bands of their ranks.

With :math:`z = U^\top x` the coordinates in the eigenbasis and b(l) the band of eigenvalue l, the law is

.. math:: p(x) = \sum_k \pi_k\, N\bigl(x;\, 0,\, U\,\mathrm{diag}(\lambda_l\, g_{k\,b(l)})\,U^\top\bigr).

The bands are dyadic: the last has the smaller half of the eigenvalues, the one before the next quarter, and so on. At
the noised state :math:`z_t = a z + s\,\xi` each component is a Gaussian of variances
:math:`a^2 \lambda g + s^2`, and

.. math:: E[z | z_t] = \sum_k p(k | z_t)\, \frac{a \lambda g_k}{a^2 \lambda g_k + s^2}\, z_t .
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, final

import numpy as np
import torch

from nearfield.module import Module, as_tensor
from nearfield.process import noise_scale, signal_scale

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor

__all__ = ["N_BANDS", "Components", "bands"]

N_BANDS = 7
"""Bands of the ranks of eigenvalues."""
_TINY = 1e-300


def bands(values: Float[Tensor, "*law entry"], n_bands: int = N_BANDS) -> Int[Tensor, "*law entry"]:
    """Band of each eigenvalue by its rank among those above 0; absent entries have the value 0.

    Examples
    --------
    >>> bands(torch.tensor([1.0, 8.0, 4.0, 2.0]), 3).tolist()
    [2, 0, 1, 2]
    """
    rank = values.argsort(dim=-1, descending=True, stable=True).argsort(dim=-1)
    share = (rank + 0.5) / (values > 0).sum(dim=-1, keepdim=True).clamp_min(1)
    return (n_bands + torch.log2(share).floor().long()).clamp(0, n_bands - 1)


@final
class Components(Module):
    """Weights of the components and their factors of the eigenvalues.

    Parameters
    ----------
    scales : ndarray or Tensor, shape (component, band)
        Above 0.
    weights : ndarray or Tensor, shape (component,)
        Above 0, of sum 1.
    """

    scales: Tensor
    weights: Tensor

    def __init__(
        self,
        scales: Float[np.ndarray, "component band"] | Float[Tensor, "component band"],
        weights: Float[np.ndarray, " component"] | Float[Tensor, " component"],
    ) -> None:
        super().__init__()
        self.register_buffer("scales", as_tensor(scales))
        self.register_buffer("weights", as_tensor(weights))

    def spectra(self, values: Float[Tensor, "*law entry"]) -> Float[Tensor, "*law component entry"]:
        """Eigenvalues of each component."""
        factor = self.scales[:, bands(values, self.scales.shape[1])].movedim(0, -2)
        return values[..., None, :] * factor

    def log_likelihood(
        self,
        z: Float[Tensor, "*batch point entry"],
        variances: Float[Tensor, "*law component entry"],
    ) -> Float[Tensor, "*batch point component"]:
        """Log of weight times density of each component, but for the constant; entries of variance 0 are absent."""
        known = variances > 0
        inverse = torch.where(known, 1 / variances.clamp_min(_TINY), 0.0)
        volume = torch.where(known, variances.clamp_min(_TINY).log(), 0.0).sum(dim=-1)
        own = self.weights.log() - 0.5 * volume
        return own.to(z)[..., None, :] - 0.5 * z**2 @ inverse.to(z).mT

    def filtered(
        self,
        z: Float[Tensor, "*batch point entry"],
        values: Float[Tensor, " entry"],
        times: Float[Tensor, " #batch"],
    ) -> Float[Tensor, "*batch point entry"]:
        """Denoise coordinates at times above 0; each row of points has one time."""
        a, s = (scale(times)[:, None, None] for scale in (signal_scale, noise_scale))
        spectra = self.spectra(values)
        variances = torch.where(values > 0, a**2 * spectra + s**2, 0.0)
        gain = torch.where(values > 0, a * spectra / variances.clamp_min(_TINY), 0.0)
        belief = self.log_likelihood(z, variances).softmax(dim=-1)
        return (belief @ gain.to(z)) * z

    def explained(self, values: Float[Tensor, " entry"], times: Float[Tensor, " time"]) -> Float[Tensor, "time entry"]:
        """Variance of the denoised coordinates, averaged over the components as if each were known."""
        spectra = self.spectra(values)
        noise = torch.expm1(2 * times)[:, None, None]
        return (self.weights[:, None] * spectra**2 / (spectra + noise).clamp_min(_TINY)).sum(dim=1)

    def log_prob(self, z: Float[Tensor, "sample entry"], values: Float[Tensor, " entry"]) -> Float[Tensor, " sample"]:
        """Log-density of coordinates, nats."""
        constant = 0.5 * int((values > 0).sum()) * math.log(2 * math.pi)
        return self.log_likelihood(z, self.spectra(values)).logsumexp(dim=-1) - constant

    def pick(self, uniform: Float[np.ndarray, " draw"]) -> Int[np.ndarray, " draw"]:
        """Component of each uniform number."""
        edges = self.weights.cpu().numpy().cumsum()[:-1]
        chosen: np.ndarray = np.searchsorted(edges, uniform, side="right")
        return chosen
