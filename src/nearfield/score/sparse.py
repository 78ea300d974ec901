"""Sparse triangular matrices as torch modules."""

from __future__ import annotations

import abc
from functools import cached_property
from typing import TYPE_CHECKING, Any, final

import numpy as np
import scipy.sparse as sp

from nearfield.module import Module, as_tensor
from nearfield.score.solver import triangle
from nearfield.tiled_samples import Run, one_by_one

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from numpy import ndarray
    from torch import Tensor

__all__ = ["Factor", "SparseMatrix", "touching"]

CHUNK = 128
"""Averages whose covariances with the field are computed at once."""
NUMBERS = 1 << 21
"""Numbers of these beyond one average (16 MiB)."""


class Factor(Module, abc.ABC):
    """Sparse lower triangular whitening factor F, rows and columns in elimination order."""

    @property
    @abc.abstractmethod
    def matrix(self) -> sp.csr_array:
        """The whole of it, in float64, on the processor."""

    @property
    def widest_row(self) -> int:
        """Most entries of a row."""
        return int(np.diff(self.matrix.indptr).max())

    def touching(self, columns: Int[np.ndarray, " some"]) -> sp.csr_array:
        """Rows of F, in their order, that have an entry in some columns."""
        return touching(self.matrix, columns)

    @abc.abstractmethod
    def diagonal(self) -> Float[np.ndarray, " variable"]:
        """Diagonal of F."""

    @abc.abstractmethod
    def times(self, x: Float[np.ndarray, "variable column"]) -> Float[np.ndarray, "variable column"]:
        """Multiply by F."""

    @abc.abstractmethod
    def solve(
        self, z: Float[np.ndarray, "variable column"], *, transposed: bool = False
    ) -> Float[np.ndarray, "variable column"]:
        """Solve F x = z, or F'x = z."""

    @abc.abstractmethod
    def solve_leading(self, z: Float[np.ndarray, "some column"]) -> Float[np.ndarray, "more column"]:
        """Solve F'x = z for a z that is 0 beyond its rows, as x then is, perhaps some rows later."""

    def covariance(
        self,
        averages: sp.csr_array,
        run: Run = one_by_one,  # noqa: ARG002
    ) -> Float[np.ndarray, "average average"]:
        """Covariance A P_0^{-1} A' = B B' of averages A, B = A F^{-1}; ``run`` runs tasks, if it takes any.

        B is 0 beyond the last vertex of A: averages are taken in the order of their last vertices, each with the part
        of the factor before it.
        """
        ends = np.maximum.reduceat(averages.indices, averages.indptr[:-1]) + 1
        order, halves = np.argsort(ends, kind="stable"), []
        covariance = np.empty((len(order), len(order)))
        step = max(1, min(CHUNK, NUMBERS // averages.shape[1]))
        for start in range(0, len(order), step):
            chunk = order[start : start + step]
            half = self.solve_leading(averages[chunk, : ends[chunk[-1]]].toarray().T).T
            halves.append((chunk, np.ascontiguousarray(half)))
            for earlier, other in halves:
                shared = min(half.shape[1], other.shape[1])
                product = half[:, :shared] @ other[:, :shared].T
                covariance[np.ix_(chunk, earlier)] = product
                covariance[np.ix_(earlier, chunk)] = product.T
        return covariance


def touching(rows: sp.csr_array, columns: Int[np.ndarray, " some"]) -> sp.csr_array:
    """Rows of a matrix that have an entry in some columns."""
    wanted = np.zeros(rows.shape[1], dtype=bool)
    wanted[columns] = True
    entries = np.concatenate([[0], np.cumsum(wanted[rows.indices])])
    found = np.flatnonzero(np.diff(entries[rows.indptr]))
    return rows if len(found) == rows.shape[0] else sp.csr_array(rows[found])


@final
class SparseMatrix(Factor):
    """Square sparse matrix, its compressed rows as buffers.

    Examples
    --------
    >>> SparseMatrix.of(sp.eye_array(2, format="csr")).matrix.toarray().tolist()
    [[1.0, 0.0], [0.0, 1.0]]
    """

    data: Tensor
    indices: Tensor
    indptr: Tensor

    def __init__(self, data: ndarray | Tensor, indices: ndarray | Tensor, indptr: ndarray | Tensor) -> None:
        super().__init__()
        for name, values in (("data", data), ("indices", indices), ("indptr", indptr)):
            self.register_buffer(name, as_tensor(values))

    @classmethod
    def of(cls, matrix: sp.csr_array) -> SparseMatrix:
        """Hold a scipy matrix."""
        matrix = sp.csr_array(matrix)
        return cls(matrix.data, matrix.indices, matrix.indptr)

    @cached_property
    def matrix(self) -> sp.csr_array:
        """The matrix in float64, on the processor."""
        data, indices, indptr = (each.detach().cpu().numpy() for each in (self.data, self.indices, self.indptr))
        size = len(indptr) - 1
        return sp.csr_array((data.astype(np.float64, copy=False), indices, indptr), shape=(size, size))

    def diagonal(self) -> Float[np.ndarray, " variable"]:
        """Diagonal of the matrix."""
        found: np.ndarray = self.matrix.diagonal()
        return found

    def times(self, x: Float[np.ndarray, "variable column"]) -> Float[np.ndarray, "variable column"]:
        """Multiply by the matrix."""
        product: np.ndarray = self.matrix @ x
        return product

    @cached_property
    def _triangle(self) -> Any:
        return triangle(self.matrix)

    def solve(
        self, z: Float[np.ndarray, "variable column"], *, transposed: bool = False
    ) -> Float[np.ndarray, "variable column"]:
        """Solve by substitution."""
        solved: np.ndarray = self._triangle.solve(np.ascontiguousarray(z), trans="T" if transposed else "N")
        return solved

    def solve_leading(self, z: Float[np.ndarray, "some column"]) -> Float[np.ndarray, "more column"]:
        """Solve with the leading part of the matrix."""
        if len(z) == self.matrix.shape[0]:
            return self.solve(z, transposed=True)
        part = triangle(self.matrix[: len(z), : len(z)])
        solved: np.ndarray = part.solve(np.ascontiguousarray(z), trans="T")
        return solved
