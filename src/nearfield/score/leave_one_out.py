r"""Densities of a Gaussian field where values are missing, and of each value given all others.

With the precision P of the values that are there, :math:`x_j` given the others is normal with mean
:math:`x_j - (P x)_j / P_{jj}` and variance :math:`1 / P_{jj}`. Where entries M are missing, P is
:math:`P_{OO} - P_{OM} P_{MM}^{-1} P_{MO}`, its product with x is that of the whole precision with x completed by the
kriging mean, and the density of what is there is that of the completed field over that of the missing part at its mean.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, final

import numpy as np
import scipy.sparse as sp
from scipy.sparse.linalg import splu

from nearfield.score.solver import direct_solver

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

    from nearfield.score.field import GaussianField

__all__ = ["leave_one_out", "observed_log_prob"]

_COLUMNS = 512
"""Right-hand sides solved for at once."""


def leave_one_out(
    field: GaussianField, x: Float[np.ndarray, "sample vertex channel"]
) -> Float[np.ndarray, "sample vertex channel"]:
    """Return the log-density, in nats, of each value given all others that are there; NaN where it is missing.

    Examples
    --------
    >>> from nearfield.score.field import GaussianField
    >>> white = GaussianField(sp.eye_array(3, format="csr"), np.arange(3))
    >>> leave_one_out(white, np.array([[[0.0], [2.0], [np.nan]]])).round(4).ravel()
    array([-0.9189, -2.9189,     nan])
    """
    out = np.full(x.shape, np.nan)
    for seen, samples in _patterns(x):
        whole = _Precision(field, seen)
        pulled, diagonal = whole.products(whole.completed(x[samples])), whole.diagonal()
        log_density = 0.5 * (np.log(diagonal / (2 * math.pi)) - pulled**2 / diagonal)
        out[samples] = np.where(seen, field._natural(log_density), np.nan)
    return out


def observed_log_prob(
    field: GaussianField, x: Float[np.ndarray, "sample vertex channel"]
) -> Float[np.ndarray, " sample"]:
    """Return the log-density, in nats, of the values that are there; 0 where all are NaN."""
    out = np.empty(len(x))
    for seen, samples in _patterns(x):
        whole = _Precision(field, seen)
        log_det, missing = whole.log_det_missing(), len(whole.missing)
        out[samples] = field.log_prob(whole.completed(x[samples])) + 0.5 * (missing * math.log(2 * math.pi) - log_det)
    return out


def _patterns(
    x: Float[np.ndarray, "sample vertex channel"],
) -> Iterator[tuple[Bool[np.ndarray, "vertex channel"], Int[np.ndarray, " some"]]]:
    """Yield the patterns of values that are there, and the samples that have them."""
    patterns, group = np.unique(~np.isnan(x), axis=0, return_inverse=True)
    for k, pattern in enumerate(patterns):
        yield pattern, np.flatnonzero(group.reshape(-1) == k)


@final
class _Precision:
    """Precision of a field, of which some values are seen; variables in elimination order."""

    def __init__(self, field: GaussianField, seen: Bool[np.ndarray, "vertex channel"]) -> None:
        self._field, self._conditional = field, field.conditional(seen)
        ordered = seen.reshape(-1)[field._place]
        self.missing, self._seen = np.flatnonzero(~ordered), np.flatnonzero(ordered)
        self._matrix, self._added = field.precision(), field._correction

    def completed(self, x: Float[np.ndarray, "sample vertex channel"]) -> Float[np.ndarray, "sample vertex channel"]:
        """Return the samples with the kriging mean where they are missing."""
        return self._conditional.mean(np.nan_to_num(x))

    def products(self, x: Float[np.ndarray, "sample vertex channel"]) -> Float[np.ndarray, "sample variable"]:
        """Multiply samples by the precision of the whole field."""
        ordered = self._field._ordered(x)
        plain: np.ndarray = (self._matrix @ ordered.T).T
        return plain if self._added is None else plain + self._added(ordered)

    def diagonal(self) -> Float[np.ndarray, " variable"]:
        """Diagonal of the precision of the values seen; that of the whole field where they are missing."""
        found: np.ndarray = self._matrix.diagonal()
        if self._added is not None:
            found = found + (self._added.rows.multiply(self._added.inner @ self._added.rows.toarray())).sum(axis=0)
        if len(self.missing) == 0 or len(self._seen) == 0:
            return found
        solve = self._conditional._solve
        assert solve is not None
        beside = self._seen if self._added is not None else self._neighbours()
        for start in range(0, len(beside), _COLUMNS):
            part = beside[start : start + _COLUMNS]
            across = self._matrix[:, part][self.missing].toarray().T
            if self._added is not None:
                rows = self._added.rows.tocsc()
                across += (rows[:, part].T @ self._added.inner) @ rows[:, self.missing]
            found[part] -= (across * solve(across)).sum(axis=1)
        return found

    def _neighbours(self) -> Int[np.ndarray, " some"]:
        """Variables that are seen, next to missing ones in the graph of the precision."""
        return self._seen[np.diff(sp.csc_array(self._matrix[self.missing][:, self._seen]).indptr) > 0]

    def log_det_missing(self) -> float:
        """Log-determinant of the block of the missing variables."""
        if len(self.missing) == 0:
            return 0.0
        block = sp.csc_array(self._matrix[self.missing][:, self.missing])
        factor = splu(block, permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.0, options={"SymmetricMode": True})
        log_det = float(np.log(factor.U.diagonal()).sum())
        if self._added is None:
            return log_det
        rows = sp.csr_array(self._added.rows.tocsc()[:, self.missing])
        spread = self._added.inner @ (rows @ direct_solver(block)(rows.toarray()).T)
        return log_det + float(np.linalg.slogdet(np.eye(len(spread)) + spread)[1])
