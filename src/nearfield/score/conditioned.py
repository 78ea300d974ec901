"""The score of a law given points that were observed: that of the law itself, under a noise map."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

import torch
from torch import Tensor

from nearfield.module import as_tensor
from nearfield.process import per_sample, signal_scale, time_of
from nearfield.score.base import Score

if TYPE_CHECKING:
    from jaxtyping import Float
    from numpy import ndarray

__all__ = ["SMALLEST_ERROR", "ConditionedScore"]

SMALLEST_ERROR = 1e-3
"""Errors below it, 0 included, are taken for it: networks see none that is smaller."""


@final
class ConditionedScore(Score):
    r"""Score of a law given observations of entries, each with a normal error.

    A state :math:`x = a x_0 + s\xi` and an observation :math:`y = x_0 + R\eta` of the same entry together say what one
    state does of noise-to-signal ratio :math:`\sigma'`. With :math:`\sigma = s/a`,

    .. math:: \sigma'^{-2} = \sigma^{-2} + R^{-2}, \qquad x' = a'\sigma'^2\,(\sigma^{-2} x / a + R^{-2} y), \qquad
        a' = (1 + \sigma'^2)^{-1/2},

    so that :math:`E[x_0 | x, y]` is the denoiser at :math:`x'` under the map :math:`\sigma'`.

    Parameters
    ----------
    law : Score
        With `maps`.
    precision : ndarray or Tensor, shape (vertex, channel)
        :math:`R^{-2}`; 0 where nothing is observed, infinite where the value is exact.
    values : ndarray or Tensor, shape (vertex, channel), or (sample, vertex, channel)
        What is observed of all samples, or of each; ignored where nothing is.

    Raises
    ------
    ValueError
        If the score takes no maps, shapes differ, or a precision is negative or NaN.

    Examples
    --------
    White noise, of which the first of two vertices was observed with an error of 1:

    >>> import numpy as np, scipy.sparse as sp
    >>> from nearfield.score.context import FieldContext
    >>> from nearfield.score.field import GaussianField
    >>> white = FieldContext(GaussianField(sp.eye_array(2, format="csr"), np.arange(2)))
    >>> score = ConditionedScore(white, np.array([[1.0], [0.0]]), np.array([[3.0], [0.0]]))
    >>> score.denoise(torch.zeros(1, 2, 1, dtype=torch.float64), time_of(1.0)).flatten().round(decimals=9).tolist()
    [1.0, 0.0]
    """

    precision: Tensor
    values: Tensor

    def __init__(
        self,
        law: Score,
        precision: Float[ndarray, "vertex channel"] | Float[Tensor, "vertex channel"],
        values: Float[ndarray, "*sample vertex channel"] | Float[Tensor, "*sample vertex channel"],
    ) -> None:
        super().__init__()
        if not law.maps:
            raise ValueError(f"law must take noise maps, got a {type(law).__name__} without; fit with noise_map=True")
        shape = (law.n_vertices, law.n_channels)
        for name, array in (("precision", precision), ("values", values)):
            if tuple(array.shape[-2:]) != shape or array.ndim > (2 if name == "precision" else 3):
                raise ValueError(f"{name} must have shape {shape}, got {tuple(array.shape)}")
        if not bool((as_tensor(precision) >= 0).all()):
            raise ValueError(f"precision must be at least 0, got {float(precision.min()):.4g}")
        self.law, (self.n_vertices, self.n_channels), self.radius = law, shape, law.radius
        self.register_buffer("precision", as_tensor(precision).double())
        self.register_buffer("values", as_tensor(values).double())

    def forward(self, x: Tensor, t: float | Tensor) -> Tensor:
        """Return the denoiser of the law at the state that is as good as this one and the observations together."""
        if self.values.ndim == 3 and len(self.values) != len(x):
            raise ValueError(f"x must have the {len(self.values)} samples of the values, got {len(x)}")
        times = per_sample(torch.as_tensor(t, dtype=torch.float64, device=x.device).reshape(-1))
        weight = self.precision.clamp_max(SMALLEST_ERROR**-2)
        variance = torch.expm1(2 * times)  # sigma^2
        share = 1 + weight * variance
        clean = (x / signal_scale(times) + variance * weight * torch.where(weight > 0, self.values, 0.0)) / share
        both = time_of(torch.sqrt(variance / share)).expand(x.shape)
        return self.law.denoise((signal_scale(both) * clean).to(x), both)

    @property
    def numbers_per_sample(self) -> int:
        """Those of the law too."""
        return super().numbers_per_sample + self.law.numbers_per_sample
