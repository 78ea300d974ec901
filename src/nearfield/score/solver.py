"""Solvers of sparse positive definite systems, with or without a correction of low rank."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import scipy.sparse as sp
from scipy.sparse.linalg import LinearOperator, cg, splu

if TYPE_CHECKING:
    from jaxtyping import Float

DIRECT_LIMIT = 20_000
"""Above this many variables, systems are solved by conjugate gradients instead of a factorisation."""
TOLERANCE = 1e-10
"""Relative residual of the conjugate gradients."""


class LowRank(NamedTuple):
    """The matrix ``rows' @ inner @ rows``; ``inner`` is symmetric and need not be positive definite."""

    rows: sp.csr_array
    inner: Float[np.ndarray, "block block"]

    def times(self, factor: float) -> LowRank:
        """Scale the matrix."""
        return LowRank(self.rows, factor * self.inner)


def positive_solver(matrix: sp.csc_array, added: LowRank | None = None) -> Callable[[np.ndarray], np.ndarray]:
    """Solver of ``matrix`` plus what is ``added``, for rows of right-hand sides: direct, or iterative when large.

    ``matrix`` and the sum have to be positive definite. The direct solver adds by Woodbury's identity.
    """
    return _direct(matrix, added) if matrix.shape[0] <= DIRECT_LIMIT else _iterative(matrix, added)


def _direct(matrix: sp.csc_array, added: LowRank | None) -> Callable[[np.ndarray], np.ndarray]:
    factor = splu(matrix, permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.0, options={"SymmetricMode": True})
    if added is None:
        return lambda right: factor.solve(np.ascontiguousarray(right.T)).T
    spread = factor.solve(np.ascontiguousarray(added.rows.toarray().T))  # (variable, block)
    inner = np.linalg.solve(np.eye(len(added.inner)) + added.inner @ (added.rows @ spread), added.inner)

    def solve(right: np.ndarray) -> np.ndarray:
        plain = factor.solve(np.ascontiguousarray(right.T))
        return (plain - spread @ (inner @ (added.rows @ plain))).T

    return solve


def _iterative(matrix: sp.csc_array, added: LowRank | None) -> Callable[[np.ndarray], np.ndarray]:
    rows, diagonal = sp.csr_array(matrix), matrix.diagonal()
    jacobi = LinearOperator(matrix.shape, matvec=lambda v: v.reshape(-1) / diagonal, dtype=np.float64)

    def apply(v: np.ndarray) -> np.ndarray:
        v = v.reshape(-1)
        return rows @ v if added is None else rows @ v + added.rows.T @ (added.inner @ (added.rows @ v))

    whole = LinearOperator(matrix.shape, matvec=apply, dtype=np.float64)

    def solve(right: np.ndarray) -> np.ndarray:
        out = np.empty_like(right)
        for i, b in enumerate(right):
            out[i], failed = cg(whole, b, rtol=TOLERANCE, maxiter=20_000, M=jacobi)
            if failed:
                raise ArithmeticError("conjugate gradients did not converge: the precision is too ill-conditioned")
        return out

    return solve
