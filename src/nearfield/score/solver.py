"""Solvers of positive definite systems: a sparse factorisation, or conjugate gradients for many variables."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np
import scipy.sparse as sp
from scipy.sparse.linalg import splu

if TYPE_CHECKING:
    from jaxtyping import Float

__all__ = ["DIRECT_LIMIT", "LowRank", "Operator", "conjugate_gradients", "direct_solver", "is_large", "triangle"]

DIRECT_LIMIT = 20_000
"""Most variables of a factorised system; larger ones are solved by conjugate gradients."""
TOLERANCE = 1e-10
"""Relative residual of the conjugate gradients."""
MOST_STEPS = 2000
"""Most steps of the conjugate gradients."""
TOGETHER = 16
"""Right-hand sides iterated at once."""

Operator: TypeAlias = Callable[[np.ndarray], np.ndarray]
"""Linear map of vectors of variables, the rows of a matrix."""


class LowRank(NamedTuple):
    """The matrix ``rows' @ inner @ rows``; ``inner`` is symmetric and need not be positive definite."""

    rows: sp.csr_array
    inner: Float[np.ndarray, "block block"]

    def times(self, factor: float) -> LowRank:
        """Scale the matrix."""
        return LowRank(self.rows, factor * self.inner)

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """Multiply the rows of x."""
        product: np.ndarray = (self.rows.T @ (self.inner @ (self.rows @ x.T))).T
        return product


def is_large(n_variables: int) -> bool:
    """Whether a system is solved by conjugate gradients."""
    return n_variables > DIRECT_LIMIT


def direct_solver(matrix: sp.csc_array, added: LowRank | None = None) -> Operator:
    """Solver of a positive definite ``matrix`` plus ``added`` by a factorisation and Woodbury's identity."""
    factor = splu(matrix, permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.0, options={"SymmetricMode": True})
    if added is None:
        return lambda right: factor.solve(np.ascontiguousarray(right.T)).T
    spread = factor.solve(np.ascontiguousarray(added.rows.toarray().T))  # (variable, block)
    inner = np.linalg.solve(np.eye(len(added.inner)) + added.inner @ (added.rows @ spread), added.inner)

    def solve(right: np.ndarray) -> np.ndarray:
        plain = factor.solve(np.ascontiguousarray(right.T))
        solution: np.ndarray = (plain - spread @ (inner @ (added.rows @ plain))).T
        return solution

    return solve


def triangle(matrix: sp.csr_array) -> Any:
    """SuperLU object of a sparse triangular matrix, without fill."""
    return splu(matrix.tocsc(), permc_spec="NATURAL", diag_pivot_thresh=0.0, options={"Equil": False})


def conjugate_gradients(apply: Operator, precondition: Operator, right: np.ndarray) -> np.ndarray:
    """Solve for each row of ``right``, several at a time; an ArithmeticError if they do not converge."""
    parts = [_iterate(apply, precondition, right[i : i + TOGETHER]) for i in range(0, len(right), TOGETHER)]
    return np.concatenate(parts) if parts else np.zeros_like(right)


def _iterate(apply: Operator, precondition: Operator, right: np.ndarray) -> np.ndarray:
    out, residual = np.zeros_like(right), right.copy()
    goal = TOLERANCE * np.linalg.norm(right, axis=1)
    going, direction, before = np.arange(len(right)), np.zeros_like(right), np.full(len(right), np.inf)
    for _ in range(MOST_STEPS + 1):
        left = ~(np.linalg.norm(residual, axis=1) <= goal[going])
        if not left.all():
            going, residual, direction, before = (part[left] for part in (going, residual, direction, before))
        if len(going) == 0:
            return out
        steepest = precondition(residual)
        slope = (residual * steepest).sum(axis=1)
        direction = steepest + (slope / before)[:, None] * direction
        before, product = slope, apply(direction)
        curvature = (direction * product).sum(axis=1)
        if not (curvature > 0).all():
            break
        step = (slope / curvature)[:, None]
        out[going] += step * direction
        residual -= step * product
    raise ArithmeticError("conjugate gradients did not converge: the precision is too ill-conditioned")
