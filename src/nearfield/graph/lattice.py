r"""Lattices as stencils: who is near whom on a regular grid, without ever listing its edges.

On a lattice the hop distance depends on the offset between two cells alone: :math:`\sum_k |o_k|` when cells touch by
their faces, :math:`\max_k |o_k|` (Chebyshev) when they also touch by edges and corners. A neighbourhood is then one
list of offsets for all cells. On a periodic axis of length L each residue modulo L is listed once, as the offset in
[-((L-1)//2), L//2].
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import numpy as np

from nearfield._checks import whole_number

if TYPE_CHECKING:
    from jaxtyping import Bool, Int

__all__ = ["Lattice"]


@final
@dataclass(frozen=True)
class Lattice:
    """A box of cells in C order, of one to three axes.

    Attributes
    ----------
    shape : tuple of int
        Number of cells along each axis, each at least 1.
    periodic : tuple of bool
        Whether the last cell of each axis touches the first.
    diagonal : bool
        Whether cells that share only an edge or a corner are neighbours too.

    Raises
    ------
    TypeError, ValueError
        If the shape does not have one to three positive lengths, or `periodic` is not one flag per axis.

    Examples
    --------
    >>> lattice = Lattice((4, 5), (False, True), diagonal=False)
    >>> lattice.n_cells, lattice.diameter, lattice.ball_size(1)
    (20, 5, 5)
    """

    shape: tuple[int, ...]
    periodic: tuple[bool, ...]
    diagonal: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.shape, tuple) or not 1 <= len(self.shape) <= 3:
            raise ValueError(f"shape must be a tuple of 1 to 3 lengths, got {self.shape!r}; merge axes")
        for length in self.shape:
            whole_number("shape", length, 1)
        flags = isinstance(self.periodic, tuple) and all(isinstance(flag, bool) for flag in self.periodic)
        if not flags or len(self.periodic) != len(self.shape):
            raise ValueError(
                f"periodic must be True, False or one of them per axis of shape {self.shape}, got {self.periodic!r}"
            )
        if not isinstance(self.diagonal, bool):
            raise TypeError(f"diagonal must be True or False, got {self.diagonal!r}")

    @classmethod
    def of(cls, shape: Sequence[int], periodic: bool | Sequence[bool], diagonal: bool) -> Lattice:
        """Lattice from a user's lengths, and flags for all axes or one each."""
        if not isinstance(shape, Sequence | np.ndarray):
            raise TypeError(f"shape must be a sequence of 1 to 3 lengths, got {shape!r}; write ({shape},) for one axis")
        flags = np.asarray(periodic).tolist()
        flags = tuple(flags) if isinstance(flags, list) else (flags,) * len(shape)
        return cls(tuple(whole_number("shape", length, 1) for length in shape), flags, diagonal)

    @property
    def n_cells(self) -> int:
        """Number of cells."""
        return math.prod(self.shape)

    @property
    def diameter(self) -> int:
        """Largest hop distance between two cells, exact."""
        longest = [ahead for _, ahead in self._reach()]
        return max(longest) if self.diagonal else sum(longest)

    def _reach(self) -> list[tuple[int, int]]:
        """Give the extreme offsets (backwards, forwards) along each axis, both as counts of cells."""
        return [
            ((length - 1) // 2, length // 2) if periodic else (length - 1, length - 1)
            for length, periodic in zip(self.shape, self.periodic, strict=True)
        ]

    def growth(self) -> tuple[float, float]:
        r"""(S, nu) with :math:`|N_j^r| \le 1 + S r^\nu` at every r, (3.12) of arXiv 2505.04417.

        With n axes longer than one cell: (3^n - 1, n) with diagonals, the paper's value; (2n, n) without, since the
        ball of the l1 lattice, :math:`1 + 2r`, :math:`1 + 2r + 2r^2` or :math:`1 + (8r + 6r^2 + 4r^3)/3`, is not above
        it. On Z^n both are attained at r = 1.

        Examples
        --------
        >>> Lattice((9,), (False,)).growth(), Lattice((9, 9), (False, False), diagonal=True).growth()
        ((2.0, 1.0), (8.0, 2.0))
        """
        axes = sum(length > 1 for length in self.shape)
        return float(3**axes - 1 if self.diagonal else 2 * axes), float(axes)

    def stencil(self, radius: int) -> tuple[Int[np.ndarray, "width axis"], Int[np.ndarray, " width"]]:
        """Offsets within `radius` hops, by hops, then lexicographic; the first is the cell itself.

        Examples
        --------
        >>> Lattice((5,), (True,)).stencil(3)[0].ravel().tolist()
        [0, -1, 1, -2, 2]
        """
        steps = [np.arange(-min(back, radius), min(ahead, radius) + 1) for back, ahead in self._reach()]
        offsets = np.stack(np.meshgrid(*steps, indexing="ij"), axis=-1).reshape(-1, len(steps))
        hops = np.abs(offsets).max(axis=1) if self.diagonal else np.abs(offsets).sum(axis=1)
        offsets, hops = offsets[hops <= radius], hops[hops <= radius]
        order = np.lexsort((*offsets.T[::-1], hops))
        return offsets[order], hops[order].astype(np.int16)

    def ball_size(self, radius: int) -> int:
        """Size of the largest neighbourhood of that radius: the one around the central cell.

        Examples
        --------
        >>> Lattice((3, 3), (False, False)).ball_size(2)
        9
        """
        center = np.array(self.shape) // 2
        landing = center + self.stencil(radius)[0]
        return int(((landing >= 0) & (landing < self.shape) | np.array(self.periodic)).all(axis=1).sum())

    def table(
        self, radius: int
    ) -> tuple[
        Int[np.ndarray, "vertex width"],
        Bool[np.ndarray, "vertex width"],
        Int[np.ndarray, "vertex width"],
        Int[np.ndarray, "width axis"],
    ]:
        """Neighbours of every cell: one column per offset of :meth:`stencil`.

        Examples
        --------
        >>> Lattice((3,), (False,)).table(1)[0].tolist()
        [[0, 0, 1], [1, 0, 2], [2, 1, 2]]
        """
        offsets, distance = self.stencil(radius)
        index = np.empty((*self.shape, len(offsets)), dtype=np.int64)
        present = np.empty(index.shape, dtype=bool)
        own = np.arange(self.n_cells).reshape(self.shape)
        for column, offset in enumerate(offsets):
            target: np.ndarray = np.zeros((), dtype=np.int64)
            inside: np.ndarray = np.ones((), dtype=bool)
            for length, periodic, step in zip(self.shape, self.periodic, offset, strict=True):
                landing = np.arange(length) + step
                wrapped = landing % length
                target = target[..., None] * length + wrapped
                inside = inside[..., None] & (periodic | (landing == wrapped))
            present[..., column] = inside
            index[..., column] = np.where(inside, target, own)
        index, present = index.reshape(self.n_cells, -1), present.reshape(self.n_cells, -1)
        return index, present, np.where(present, distance, np.int16(-1)), offsets

    def columns(
        self,
        start: Int[np.ndarray, " pair"],
        end: Int[np.ndarray, " pair"],
        offsets: Int[np.ndarray, "width axis"],
    ) -> Int[np.ndarray, " pair"]:
        """Column of the stencil `offsets` that leads from each cell of `start` to that of `end`.

        Examples
        --------
        >>> ring = Lattice((5,), (True,))
        >>> ring.columns(np.array([0, 0]), np.array([1, 4]), ring.stencil(1)[0]).tolist()
        [2, 1]
        """
        lowest, highest = offsets.min(axis=0), offsets.max(axis=0)
        column_at = np.full(highest - lowest + 1, -1, dtype=np.int64)
        column_at[tuple((offsets - lowest).T)] = np.arange(len(offsets))
        place = []
        for axis, (from_, to) in enumerate(
            zip(np.unravel_index(start, self.shape), np.unravel_index(end, self.shape), strict=True)
        ):
            step = to - from_
            if self.periodic[axis]:
                back = (self.shape[axis] - 1) // 2
                step = (step + back) % self.shape[axis] - back
            place.append(step - lowest[axis])
        column: np.ndarray = column_at[tuple(place)]
        return column
