"""Blocks of two cells along each axis of a lattice: their means, and the details that the means leave out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import numpy as np
from scipy.linalg import hadamard

from nearfield.graph.coarsening import coarsen
from nearfield.graph.dependency import DependencyGraph

if TYPE_CHECKING:
    from jaxtyping import Float, Int

__all__ = ["Haar"]


@final
@dataclass(frozen=True, eq=False)
class Haar:
    r"""One step of Haar's wavelet transform on a lattice.

    The m cells x of a block become its mean and m - 1 details, :math:`y = H x / m`, with Hadamard's matrix H, whose
    first row is ones; :math:`x = H^\top y`.

    Attributes
    ----------
    graph : DependencyGraph
        Lattice of the blocks.
    members : ndarray of int, shape (block, cell)
        Vertices of each block, in order.
    """

    graph: DependencyGraph
    members: Int[np.ndarray, "block cell"]

    @classmethod
    def of(cls, graph: DependencyGraph) -> Haar:
        """Cut a lattice into blocks.

        Raises
        ------
        ValueError
            If the graph is no lattice, lacks cells, or has an axis of odd length other than 1.

        Examples
        --------
        >>> haar = Haar.of(DependencyGraph.chain(4))
        >>> haar.split(np.array([1.0, 3.0, 8.0, 2.0]).reshape(1, 4, 1))[0].tolist()
        [[2.0, -1.0], [5.0, 3.0]]
        """
        lattice = graph.lattice
        if lattice is None or graph.keep is not None or any(n % 2 and n > 1 for n in lattice.shape):
            raise ValueError(
                f"two scales need a lattice without gaps and of even lengths, got {graph!r}; crop it, or fit scales=1"
            )
        coarse = coarsen(graph, 2)
        return cls(coarse.graph, np.argsort(coarse.label, kind="stable").reshape(len(coarse.graph), -1))

    def split(self, x: Float[np.ndarray, "sample vertex channel"]) -> Float[np.ndarray, "sample block part"]:
        """Return the means of all channels, then the details of all channels."""
        size = self.members.shape[1]
        parts = np.einsum("pc,sbcv->sbpv", hadamard(size) / size, x[:, self.members])
        flat: np.ndarray = parts.reshape(len(x), len(self.graph), -1)
        return flat

    def join(self, y: Float[np.ndarray, "sample block part"]) -> Float[np.ndarray, "sample vertex channel"]:
        """Invert `split`."""
        blocks, size = self.members.shape
        cells = np.einsum("pc,sbpv->sbcv", hadamard(size), y.reshape(len(y), blocks, size, -1))
        x = np.empty((len(y), blocks * size, cells.shape[3]))
        x[:, self.members] = cells
        return x
