r"""Log-densities of a field with uncertain parameters: Student's t in place of each conditional Gaussian.

A field regresses each variable x on a set S of earlier ones with second moments B, and takes the coefficients b and the
variance v as known. Under a normal-inverse-gamma law, :math:`\sigma^2 \sim IG(\nu/2, \nu v/2)` and
:math:`\beta \mid \sigma^2 \sim N(b, \sigma^2 (c N B)^{-1})`, with a mean from N samples, the predictive law is

.. math:: x \mid x_S \sim t_\nu\Bigl(b^\top x_S,\; v\,\bigl(1 + x_S^\top B^{-1} x_S / (c N) + 1/N\bigr)\Bigr)

(Gelman et al., Bayesian Data Analysis, 3rd edition, section 14.2). N is the number of samples, the block counts for c
times as many, and :math:`\nu` limits how far the variance of one sample may be from v. A flat prior has c = 1,
:math:`\nu = N - |S|` and :math:`v N / \nu` for v; pooled blocks count for more, variances of real data differ for other
reasons as well, and held-out losses are lower with a free :math:`\nu`.

A product of conditional densities is a density for any leverage :math:`x_S^\top B^{-1} x_S` of the earlier values. In a
field with corrections at larger scales, :math:`b^\top x_S` and v are the mean and variance of a variable given all
earlier ones in the corrected law, and the leverage is that of S, so this is a density too.
"""

from __future__ import annotations

import math
from functools import cached_property
from typing import TYPE_CHECKING, final

import numpy as np
import torch
from scipy.special import gammaln

from nearfield.module import Module, as_tensor
from nearfield.score.field import GaussianField

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor

__all__ = ["PredictiveField", "earlier_channels", "leverage", "log_student"]

_CHUNK = 1 << 23
"""Floating-point numbers solved for at once (64 MiB)."""


@final
class PredictiveField(Module):
    """Density of a field with uncertain parameters, for scoring only: its draws would vary more than the data.

    Parameters
    ----------
    field : GaussianField
        Field of the most likely parameters.
    index : ndarray of int, shape (vertex, entry)
        Earlier vertices that each one is conditioned on; its own number fills short rows.
    root : ndarray, shape (vertex, entry * channel, entry * channel)
        Lower Cholesky factors of their second moments, channels fastest.
    weight, tail, n_samples : float, float, int
        c, the degrees of freedom and N.

    Examples
    --------
    >>> import scipy.sparse as sp
    >>> none = np.empty((3, 0), dtype=int), np.empty((3, 0, 0))
    >>> white = GaussianField(sp.eye_array(3, format="csr"), np.arange(3))
    >>> PredictiveField(white, *none, weight=1.0, tail=8.0, n_samples=10).log_prob(np.zeros((1, 3, 1))).round(4)
    array([-2.9933])
    """

    settings = ("weight", "tail", "n_samples")
    index: Tensor
    root: Tensor

    def __init__(
        self,
        field: GaussianField,
        index: Int[np.ndarray, "vertex entry"] | Int[Tensor, "vertex entry"],
        root: Float[np.ndarray, "vertex variable variable"] | Float[Tensor, "vertex variable variable"],
        weight: float,
        tail: float,
        n_samples: int,
    ) -> None:
        super().__init__()
        self.field = field
        self.register_buffer("index", as_tensor(index))
        self.register_buffer("root", as_tensor(root))
        self.weight, self.tail, self.n_samples = weight, tail, n_samples

    def log_prob(self, x: Float[np.ndarray, "sample vertex channel"]) -> Float[np.ndarray, " sample"]:
        """Log-density in nats; shapes as in `GaussianField.log_prob`."""
        field, x = self.field, np.asarray(x, dtype=np.float64)
        order, factor = field.order.cpu().numpy(), field.factor.matrix
        ordered = x[:, order].reshape(len(x), -1).T
        own = factor @ ordered
        lever = np.repeat(
            leverage(x, self.index.cpu().numpy(), self.root.cpu().numpy())[order], field.n_channels, axis=0
        )
        lever += earlier_channels(own, field.n_channels)
        white = own if field.coarse is None else self._dense @ ordered
        diagonal = factor.diagonal() if field.coarse is None else self._dense.diagonal()
        spread = 1 + lever / (self.weight * self.n_samples) + 1 / self.n_samples
        log_density: np.ndarray = log_student(white, spread, self.tail).sum(axis=0) + float(np.log(diagonal).sum())
        return log_density

    @cached_property
    def _dense(self) -> Float[np.ndarray, "variable variable"]:
        return self.field.dense_factor()


def leverage(
    x: Float[np.ndarray, "sample vertex channel"],
    index: Int[np.ndarray, "vertex entry"],
    root: Float[np.ndarray, "vertex variable variable"],
) -> Float[np.ndarray, "vertex sample"]:
    """Squared length of the conditioning values of each vertex, in units of their law."""
    n_samples, n, _ = x.shape
    found = np.zeros((n, n_samples))
    absent = index == np.arange(n)[:, None]
    step = max(1, _CHUNK // max(1, root.shape[1] * n_samples))
    for start in range(0, n if root.shape[1] else 0, step):
        rows = slice(start, start + step)
        entries = np.where(absent[rows, :, None], 0.0, x[:, index[rows]])  # (sample, row, entry, channel)
        right = np.ascontiguousarray(entries.reshape(n_samples, -1, root.shape[1]).transpose(1, 2, 0))
        white = torch.linalg.solve_triangular(torch.from_numpy(root[rows]), torch.from_numpy(right), upper=False)
        found[rows] = white.square_().sum(dim=1).numpy()
    return found


def earlier_channels(
    white: Float[np.ndarray, "variable sample"], n_channels: int
) -> Float[np.ndarray, "variable sample"]:
    """Leverage of the earlier channels of the same vertex: the squares of their innovations."""
    squares = (white**2).reshape(-1, n_channels, white.shape[1])
    before: np.ndarray = (np.cumsum(squares, axis=1) - squares).reshape(white.shape)
    return before


def log_student(white: np.ndarray, spread: np.ndarray | float, tail: float) -> np.ndarray:
    """Log-density of Student's t with ``tail`` degrees of freedom, at values in units of the root of ``spread``."""
    constant = float(gammaln((tail + 1) / 2) - gammaln(tail / 2)) - 0.5 * math.log(tail * math.pi)
    return constant - 0.5 * np.log(spread) - 0.5 * (tail + 1) * np.log1p(white**2 / (tail * spread))
