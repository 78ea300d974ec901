"""Sparse matrices as torch modules."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, final

import numpy as np
import scipy.sparse as sp

from nearfield.module import Module, as_tensor

if TYPE_CHECKING:
    from numpy import ndarray
    from torch import Tensor

__all__ = ["SparseMatrix"]


@final
class SparseMatrix(Module):
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
