"""Pooling of vertices, and the averages over other vertices that it uses.

Pooling shrinks the block of each window towards the weighted average of the blocks of all vertices whose window has the
same entries and maybe more, matched column by column, so that a pooled block is an average of positive semi-definite
matrices:

    B_j = (1 - strength) C_j + strength * sum_v w_jv C_v,      w_jv ~ exp(-|v - j|^2 / (2 bandwidth^2)).

A column is an offset on lattices. On other graphs whose windows recur when vertex numbers are shifted, as in products
with a chain, it is a difference of these numbers: yesterday is never averaged with the next station. Where they do not
recur it is a rank. Points in space off lattices have windows of nearest earlier points, whose columns differ in meaning
from vertex to vertex: the blocks of their field are shrunk towards a fitted isotropic law instead
(`nearfield.fitting.matern`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias, final

import numpy as np
import scipy.sparse as sp

from nearfield._checks import keep_floats
from nearfield.fitting.elimination import contained, recurrent
from nearfield.graph import DependencyGraph, Neighborhood
from nearfield.graph.adjacency import read_only
from nearfield.graph.neighborhood import ABSENT

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

__all__ = ["REACH", "GlobalAverage", "LocalAverage", "Pooling", "Smoother", "distinct_rows", "kernel", "smoother"]

REACH = 3.0
"""The pooling kernel is cut off at this many bandwidths (in hops)."""


@final
@dataclass(frozen=True)
class Pooling:
    """Strength and bandwidth of the shrinkage of a vertex towards its surroundings.

    Parameters
    ----------
    strength : float
        Shrinkage in [0, 1]: 0 leaves every vertex alone, 1 replaces its law by the pooled one.
    bandwidth : float
        Standard deviation of the Gaussian weights, in lattice cells (hops on other graphs). Infinity, the default,
        gives all vertices the same weight: with strength 1, one stationary law. The field of points in space off
        lattices is shrunk towards one isotropic law; only their location and scale use the bandwidth.
    location : Pooling, optional
        Pooling of location and scale, by default the same.
    nugget : float
        Variance of white noise that is added to the blocks of the field, as a share of each variable's; it keeps the
        law of very smooth fields well conditioned.

    Raises
    ------
    TypeError, ValueError
        If a value is no number, ``strength`` is outside [0, 1], ``bandwidth`` is not positive, ``nugget`` negative, or
        ``location`` is no Pooling or has a location.

    Examples
    --------
    >>> Pooling(0.4, bandwidth=2.0)
    Pooling(strength=0.4, bandwidth=2.0, location=None, nugget=0.0)
    >>> Pooling(1.0, location=Pooling(1.0)) == Pooling(1.0)
    True
    """

    strength: float = 0.0
    bandwidth: float = math.inf
    location: Pooling | None = None
    nugget: float = 0.0

    def __post_init__(self) -> None:
        keep_floats(self, "strength", "bandwidth", "nugget")
        if not 0.0 <= self.strength <= 1.0:
            raise ValueError(f"strength must be in [0, 1], got {self.strength!r}")
        if not self.bandwidth > 0.0:
            raise ValueError(f"bandwidth must be positive, got {self.bandwidth!r}; use math.inf to pool all vertices")
        if not 0.0 <= self.nugget < math.inf:
            raise ValueError(f"nugget must be at least 0, got {self.nugget!r}")
        if self.location is None:
            return
        if not isinstance(self.location, Pooling):
            raise TypeError(f"location must be a Pooling, got {self.location!r}")
        if self.location.location is not None:
            raise ValueError(f"location must have no location, got {self.location!r}")
        if (self.location.strength, self.location.bandwidth) == (self.strength, self.bandwidth):
            object.__setattr__(self, "location", None)  # the same setting, and equal to it

    @property
    def of_location(self) -> Pooling:
        """Pooling of location and scale."""
        return self if self.location is None else self.location

    @property
    def one_law(self) -> bool:
        """Whether all vertices are one law, location and scale included."""
        return self.strength == 1.0 and math.isinf(self.bandwidth) and self.location is None


def kernel(
    graph: DependencyGraph, bandwidth: float
) -> tuple[Int[np.ndarray, "vertex width"], Float[np.ndarray, "vertex width"]]:
    """Neighbours and unnormalised Gaussian weights of the pooling average, cut off at ``REACH`` bandwidths."""
    return graph.memory.get(
        ("kernel", bandwidth), lambda: _kernel(graph, bandwidth), size=lambda found: sum(part.nbytes for part in found)
    )


def _kernel(
    graph: DependencyGraph, bandwidth: float
) -> tuple[Int[np.ndarray, "vertex width"], Float[np.ndarray, "vertex width"]]:
    """Compute neighbours and weights, read-only."""
    table = graph.neighborhood(max(1, math.ceil(REACH * bandwidth)))
    squared = (table.offsets**2).sum(axis=1)[None] if table.offsets is not None else table.hops.astype(float) ** 2
    weight = np.where(table.present, np.exp(-squared / (2.0 * bandwidth**2)), 0.0)
    return table.index, read_only(weight)


class LocalAverage(NamedTuple):
    """Average over the vertices nearby: weights (vertex, vertex)."""

    weight: sp.csr_array

    def __call__(self, values: np.ndarray) -> np.ndarray:
        """Replace the values of each vertex by the average."""
        average: np.ndarray = self.weight @ values
        return average

    @property
    def n_bytes(self) -> int:
        """Memory of the weights."""
        return self.weight.data.nbytes + self.weight.indices.nbytes

    @property
    def n_contributors(self) -> Int[np.ndarray, " vertex"]:
        """Number of vertices in each average."""
        return np.diff(self.weight.indptr)

    def around(self, rows: slice) -> tuple[Int[np.ndarray, " near"], sp.csr_array]:
        """Vertices with weight in the averages of some rows, in order, and these weights (row, near)."""
        part = self.weight[rows]
        near = np.unique(part.indices)
        return near, sp.csr_array(
            (part.data, np.searchsorted(near, part.indices), part.indptr), shape=(part.shape[0], len(near))
        )


class GlobalAverage(NamedTuple):
    """Average over all vertices that have the columns of a target, once for each distinct target.

    ``target`` (target, width) are sets of columns, ``target_of`` (vertex,) the set of each vertex, ``total`` (source,
    vertex) sums over the vertices that contribute the same columns, ``share`` (target, source) weighs these sums,
    ``contributors`` (target,) counts the vertices summed over.
    """

    target: Bool[np.ndarray, "target width"]
    target_of: Int[np.ndarray, " vertex"]
    total: sp.csr_array
    share: sp.csr_array
    contributors: Int[np.ndarray, " target"]

    def __call__(self, values: np.ndarray) -> np.ndarray:
        """Replace the values of each vertex by the average."""
        average: np.ndarray = (self.share @ (self.total @ values))[self.target_of]
        return average

    @property
    def n_bytes(self) -> int:
        """Memory of the arrays."""
        return self.target.nbytes + self.target_of.nbytes + self.total.data.nbytes + self.share.data.nbytes

    @property
    def n_contributors(self) -> Int[np.ndarray, " vertex"]:
        """Number of vertices in each average."""
        found: np.ndarray = self.contributors[self.target_of]
        return found

    def mean(self, parts: Sequence[slice], values: Callable[[slice], np.ndarray]) -> np.ndarray:
        """Average for each target of values computed in parts of the graph."""
        total: Any = 0.0
        for rows in parts:
            part = values(rows)
            total = total + self.total[:, rows] @ part.reshape(len(part), -1)
        mean: np.ndarray = (self.share @ total).reshape(-1, *part.shape[1:])
        return mean


Smoother: TypeAlias = LocalAverage | GlobalAverage
"""Replaces the values of each vertex by an average over vertices like it."""


def smoother(graph: DependencyGraph, bandwidth: float, table: Neighborhood | None = None) -> Smoother:
    """Make the pooling average over the vertices that have all window entries of the target vertex.

    Without a table all vertices are comparable. On lattices a vertex also contributes its moments with neighbours that
    come later in the elimination order: where a periodic axis closes, few or no others have the same earlier
    neighbours.
    """
    # the table is kept, so that no other gets its id
    return graph.memory.get(
        ("smoother", bandwidth, id(table)),
        lambda: (table, _smoother(graph, bandwidth, table)),
        size=lambda kept: kept[1].n_bytes + (0 if table is None else table.n_bytes),
    )[1]


def _smoother(graph: DependencyGraph, bandwidth: float, table: Neighborhood | None) -> Smoother:
    """Compute the average."""
    if math.isinf(bandwidth):
        return _global_average(_matches(graph, table))
    index, weight = kernel(graph, bandwidth)
    if table is not None:
        weight, matches = weight.copy(), _matches(graph, table)
        for start in range(0, len(index), 4096):
            rows = slice(start, start + 4096)
            weight[rows][~matches.inside[matches.target_of[rows, None], matches.source_of[index[rows]]]] = 0.0
    used = weight > 0
    indptr = np.concatenate([[0], np.cumsum(used.sum(axis=1))])
    data = (weight / weight.sum(axis=1, keepdims=True))[used]
    matrix = sp.csr_array((data, index[used], indptr), shape=(len(index), len(index)))
    return LocalAverage(matrix)


class _Matches(NamedTuple):
    """Distinct targets and sources, those of each vertex, and the sources that hold all columns of a target."""

    target: Bool[np.ndarray, "target width"]
    target_of: Int[np.ndarray, " vertex"]
    source_of: Int[np.ndarray, " vertex"]
    inside: Bool[np.ndarray, "target source"]


def _matches(graph: DependencyGraph, table: Neighborhood | None) -> _Matches:
    """Tell which windows contribute to which: columns must be there and have one meaning."""
    if table is None:
        everything = np.zeros(graph.n_vertices, dtype=np.int64)
        return _Matches(np.ones((1, 1), dtype=bool), everything, everything, np.ones((1, 1), dtype=bool))
    if table.shift is not None or (table.offsets is None and recurrent(graph)):
        shift, absent = table.shift, ABSENT
        if shift is None:
            shift, absent = (
                np.where(table.present, table.index - table.index[:, :1], graph.n_vertices),
                graph.n_vertices,
            )
        shift, kind = distinct_rows(shift)
        present = shift < absent
        entry = 4 * absent * np.arange(shift.shape[1]) + shift  # of a column
        return _Matches(present, kind, kind, contained(entry, present))
    contributed = table.present if table.offsets is None else table.present | (table.index != table.index[:, :1])
    (target, target_of), (source, source_of) = distinct_rows(table.present), distinct_rows(contributed)
    inside = (target.astype(np.float32) @ (~source).astype(np.float32).T) == 0
    return _Matches(target, target_of, source_of, inside)


def _global_average(matches: _Matches) -> GlobalAverage:
    target, target_of, source_of, inside = matches
    count = np.bincount(source_of)
    places = source_of, np.arange(len(source_of))
    total = sp.csr_array((np.ones(len(source_of)), places), (len(count), len(source_of)))
    contributors = inside.astype(np.int64) @ count
    return GlobalAverage(target, target_of, total, sp.csr_array(inside / contributors[:, None]), contributors)


def distinct_rows(rows: np.ndarray) -> tuple[np.ndarray, Int[np.ndarray, " row"]]:
    """Distinct rows, and the kind of each row."""
    bits = np.ascontiguousarray(np.packbits(rows, axis=1) if rows.dtype == bool else rows)
    whole = bits.view(f"V{bits.shape[1] * bits.itemsize}").reshape(-1)
    _, first, kind = np.unique(whole, return_index=True, return_inverse=True)
    return rows[first], kind.reshape(-1)
