r"""Sparse factors of a field with noise or given observations: preconditioners of its large systems.

Each variable is regressed on a set S of others, by the second moments of exact draws of the field:

.. math:: c = (G + \sigma^2 I)^{-1} g, \quad G = \tfrac1N X_S X_S^\top, \quad g = \tfrac1N X_S h^\top, \quad
    v = d^2 + \sigma^2 (1 + |c|^2) + \tfrac1N |h - c^\top X_S|^2,

and :math:`(-c, 1)/\sqrt v` is its row of the factor (Vecchia's approximation; Schäfer, Katzfuss and Owhadi, SIAM J.
Sci. Comput. 43, 2021). Two terms come from the whitening factor F instead of the draws:
:math:`h_i = -\sum_{j<i} F_{ij} x_j / F_{ii}` is the expectation of :math:`x_i` given all earlier variables and
:math:`d_i = 1/F_{ii}` its standard deviation. As :math:`\sigma \to 0` the row therefore becomes that of F, and only its
shrinkage is estimated.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import scipy.sparse as sp
import torch

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Float32, Int

__all__ = ["N_DRAWS", "LocalLaws"]

N_DRAWS = 200
"""Draws that estimate the moments of the regressions."""
FEWEST, MOST = 25, 60
"""Size of a set with noise, on average and at most."""
MOST_CONDITIONAL = 30
"""Largest set of a conditional law, where the covariances with the variable are estimated too."""
JITTER = 1e-10
"""Relative, on the diagonal of G."""
ROWS, PAIRS, TABLE = 64, 1 << 15, 1 << 16
"""Regressions, correlations, and rows of the table of sets, computed at once."""


class LocalLaws:
    """Draws of a field with whitening factor F (before corrections), and regressions of its variables on few others."""

    def __init__(self, factor: sp.csr_array, draws: Float32[np.ndarray, "variable draw"]) -> None:
        self._factor, self._diagonal, self._draws = factor, factor.diagonal(), draws

    @cached_property
    def _sets(self) -> Int[np.ndarray, "variable entry"]:
        """Earlier variables that each is regressed on where there is noise."""
        pattern, found = _widened(self._factor), []
        for start in range(0, len(self._draws), TABLE):  # the pairs take far more memory than the table
            own = np.arange(start, min(start + TABLE, len(self._draws)))
            found.append(self._table(*_earlier(pattern[own], own), len(own), MOST, own))
        width = max(index.shape[1] for index in found)
        return np.concatenate([np.pad(i, ((0, 0), (0, width - i.shape[1])), constant_values=-1) for i in found])

    @cached_property
    def _size(self) -> Float[np.ndarray, " variable"]:
        size: np.ndarray = np.linalg.norm(self._draws, axis=1)
        return size

    def noised_factor(self, sigma: float) -> sp.csr_array:
        """Lower triangular U, ``U'U`` near the inverse of the covariance plus ``sigma**2`` times the identity."""
        return self._regressed(np.arange(len(self._draws)), self._sets, sigma)

    def conditional_factor(self, precision: sp.csr_array, missing: Int[np.ndarray, " missing"]) -> sp.csr_array:
        """Lower triangular U, ``U'U`` near the precision of the missing variables given all others.

        A variable is regressed on its neighbours in its row of ``precision``: the observed ones and the earlier missing
        ones.
        """
        observed = np.ones(len(self._draws), dtype=bool)
        observed[missing] = False
        row, column = sp.coo_array(precision).coords
        used = observed[column] | (column < missing[row])
        index = self._table(row[used], column[used], len(missing), MOST_CONDITIONAL, missing)
        return sp.csr_array(self._regressed(missing, index, 0.0)[:, missing])

    def _table(
        self,
        row: Int[np.ndarray, " pair"],
        column: Int[np.ndarray, " pair"],
        n_rows: int,
        most: int,
        own: Int[np.ndarray, " row"] | None = None,
    ) -> Int[np.ndarray, "row entry"]:
        """Table of each row's columns, the most correlated if there are too many; -1 fills short rows."""
        count = np.bincount(row, minlength=n_rows)
        if count.max(initial=0) > most:
            apart = -np.abs(self._correlations(row if own is None else own[row], column))
            sort = np.lexsort((apart, row))
            row, column = row[sort], column[sort]
        place = np.arange(len(row)) - (np.cumsum(count) - count)[row]
        kept = place < most
        index = np.full((n_rows, min(most, int(count.max(initial=0)))), -1)
        index[row[kept], place[kept]] = column[kept]
        return index

    def _correlations(
        self, one: Int[np.ndarray, " pair"], other: Int[np.ndarray, " pair"]
    ) -> Float[np.ndarray, " pair"]:
        size, found = self._size, np.empty(len(one))
        for start in range(0, len(one), PAIRS):
            i, j = one[start : start + PAIRS], other[start : start + PAIRS]
            found[start : start + PAIRS] = np.einsum("pn,pn->p", self._draws[i], self._draws[j]) / (size[i] * size[j])
        return found

    def _regressed(
        self, own: Int[np.ndarray, " row"], index: Int[np.ndarray, "row entry"], sigma: float
    ) -> sp.csr_array:
        """Rows of the factor for the variables ``own``, regressed on those of ``index``."""
        data = np.empty((len(own), index.shape[1] + 1))
        for start in range(0, len(own), ROWS):
            part = slice(start, start + ROWS)
            coefficient, variance = self._regress(own[part], index[part], sigma**2)
            data[part] = np.concatenate([-coefficient, np.ones_like(variance)], axis=1) / np.sqrt(variance)
        column = np.concatenate([index, own[:, None]], axis=1)
        used = column >= 0
        indptr = np.concatenate([[0], np.cumsum(used.sum(axis=1))])
        factor = sp.csr_array((data[used], column[used], indptr), shape=(len(own), len(self._draws)))
        factor.sort_indices()
        return factor

    def _regress(
        self, own: Int[np.ndarray, " row"], index: Int[np.ndarray, "row entry"], noise: float
    ) -> tuple[Float[np.ndarray, "row entry"], Float[np.ndarray, "row 1"]]:
        """Coefficients c and variances v; the coefficients of absent entries are 0."""
        h, rest = self._expected(own, index.max(axis=1, initial=-1) < own)
        absent = torch.from_numpy(index < 0)
        x = torch.from_numpy(self._draws[index]).double()
        x[absent] = 0.0
        n = x.shape[2]
        gram = x @ x.mT / n
        diagonal = gram.diagonal(dim1=1, dim2=2)
        diagonal += noise + JITTER * diagonal
        diagonal[absent] = 1.0
        target = torch.from_numpy(h)[:, :, None]
        c = torch.cholesky_solve(x @ target / n, torch.linalg.cholesky(gram))
        left = ((target - x.mT @ c) ** 2).mean(dim=1)
        variance = torch.from_numpy(rest)[:, None] + noise * (1 + (c**2).sum(dim=1)) + left
        return c[:, :, 0].numpy(), variance.numpy()

    def _expected(
        self, own: Int[np.ndarray, " row"], earlier: Bool[np.ndarray, " row"]
    ) -> tuple[Float[np.ndarray, "row draw"], Float[np.ndarray, " row"]]:
        """Return targets and residual variance: h and d^2 where all entries are earlier, else x and 0."""
        rows = self._factor[own]
        column, place = np.unique(rows.indices, return_inverse=True)
        local = sp.csr_array((rows.data, place.reshape(-1), rows.indptr), shape=(len(own), len(column)))
        std = 1 / self._diagonal[own]
        innovation = std[:, None] * (local @ self._draws[column].astype(np.float64))
        return self._draws[own] - np.where(earlier[:, None], innovation, 0.0), np.where(earlier, std**2, 0.0)


def _widened(factor: sp.csr_array) -> sp.csr_array:
    """Pattern of a triangular matrix, or of its first power with rows wide enough."""
    step = sp.csr_array((np.ones(factor.nnz, np.float32), factor.indices, factor.indptr), shape=factor.shape)
    pattern = step
    while pattern.nnz < FEWEST * pattern.shape[0]:
        wider = sp.csr_array(pattern @ step)
        if wider.nnz == pattern.nnz:
            break
        wider.data[:] = 1
        pattern = wider
    return pattern


def _earlier(
    rows: sp.csr_array, own: Int[np.ndarray, " row"]
) -> tuple[Int[np.ndarray, " pair"], Int[np.ndarray, " pair"]]:
    """Rows, ascending, and columns of the entries before the diagonal, for the rows of some variables."""
    row, column = np.repeat(np.arange(len(own)), np.diff(rows.indptr)), rows.indices
    before = column < own[row]
    return row[before], column[before]
