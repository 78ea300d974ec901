r"""Laws of the missing entries of many fields, each with gaps of its own.

Given the observed entries o of a field of precision P, the missing ones m are normal with precision :math:`P_{mm}` and
mean :math:`-P_{mm}^{-1} P_{mo} x_o`. :math:`P_{mm}` falls into parts without links between them: one for each gap, and
small where gaps are scattered. Parts of one size are inverted together, large ones factorised one by one.
"""

from __future__ import annotations

import abc
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, final

import numpy as np
import scipy.sparse as sp
import torch
from scipy.sparse.linalg import splu

from nearfield import noise

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

    from nearfield.score.field import GaussianField

__all__ = ["IncompleteFields"]

LARGE = 1024
"""Entries of the smallest part that is factorised on its own."""
SMALL = 24
"""Entries of the largest parts that are gathered together."""
NUMBERS = 1 << 22
"""Numbers of the matrices in memory at once (32 MiB)."""
KEPT = 1 << 25
"""Numbers of the inverses that are kept (256 MiB)."""


@final
class IncompleteFields:
    """Laws of the missing entries of many fields under a `GaussianField` without a correction.

    Parameters
    ----------
    field : GaussianField
    observed : ndarray of bool, shape (sample, vertex, channel)
    shift : float
        Added to the diagonal of the precision: of white noise through which the whole field, of mean 0, is seen too.
    """

    def __init__(
        self, field: GaussianField, observed: Bool[np.ndarray, "sample vertex channel"], shift: float = 0.0
    ) -> None:
        if field.coarse is not None:
            raise ValueError("field must have no correction at larger scales; condition it on one pattern at a time")
        self.field, self.shift = field, shift
        self._seen = observed.reshape(len(observed), -1)[:, field._place]
        packed = np.ascontiguousarray(np.packbits(self._seen, axis=1))
        _, first, of = np.unique(packed.view(f"V{packed.shape[1]}").ravel(), return_index=True, return_inverse=True)
        self._missing = ~self._seen[first]  # of each pattern
        self._samples = np.split(np.argsort(of, kind="stable"), np.cumsum(np.bincount(of))[:-1])
        self._of = of
        self._precision = sp.csr_array(field.precision())
        if shift:
            self._precision = sp.csr_array(self._precision + shift * sp.eye_array(self._precision.shape[0]))
        self._memory: list[_Part] | None = None

    @property
    def n_patterns(self) -> int:
        """Number of different patterns of gaps."""
        return len(self._missing)

    def mean(self, x: Float[np.ndarray, "sample vertex channel"]) -> Float[np.ndarray, "sample vertex channel"]:
        """Conditional means in place of the missing entries of x, which are ignored."""
        ordered = self._given(x)
        return self._completed(ordered, -self._times(ordered))

    def sample(
        self, x: Float[np.ndarray, "sample vertex channel"], *, seed: int, step: int = 0
    ) -> Float[np.ndarray, "sample vertex channel"]:
        """Draw the missing entries of each field once; those of a sample depend on seed, step and its place alone.

        With a shift, the step after it is used too.
        """
        # P_mm = F_m' F_m, so that F_m' e has the covariance P_mm, and its solution P_mm^{-1}
        ordered = self._given(x)
        pushed = (self.field.factor.matrix.T @ self._normals(len(x), seed, step).T).T
        if self.shift:
            pushed += math.sqrt(self.shift) * self._normals(len(x), seed, step + 1)
        return self._completed(ordered, pushed - self._times(ordered))

    def _normals(self, n: int, seed: int, step: int) -> Float[np.ndarray, "sample variable"]:
        shape = (self.field.n_vertices, self.field.n_channels)
        return noise.normals(seed, noise.Stream.CONDITIONAL, range(n), step, *shape).reshape(n, -1)

    def log_prob(self, x: Float[np.ndarray, "sample vertex channel"]) -> Float[np.ndarray, " sample"]:
        r"""Log-density of what is observed, in nats: :math:`\log p(x_o, \mu_m) - \log p(\mu_m | x_o)`."""
        half = np.zeros(self.n_patterns)
        for part in self._parts():
            np.add.at(half, part.pattern, 0.5 * part.log_det)
        conditional = half - 0.5 * math.log(2 * math.pi) * np.count_nonzero(self._missing, axis=1)
        log_density: np.ndarray = self.field.log_prob(self.mean(x)) - conditional[self._of]
        return log_density

    def covariance(self, pairs: sp.csr_array) -> sp.csr_array:
        """Mean over the samples of the conditional covariances at some pairs of variables, 0 of observed ones.

        ``pairs`` (variable, variable) is symmetric, with an entry wherever one is wanted; variables by vertex, channels
        fastest.
        """
        pairs = sp.csr_array(pairs)
        pairs.sort_indices()
        place = sp.csr_array(
            (np.arange(1, pairs.nnz + 1, dtype=np.float64), pairs.indices, pairs.indptr), shape=pairs.shape
        )[self.field._place][:, self.field._place]
        total, weight = np.zeros(pairs.nnz), np.array([len(s) for s in self._samples]) / len(self._seen)
        for part in self._parts():
            part.add_covariance(place, weight, total)
        return sp.csr_array((total, pairs.indices, pairs.indptr), shape=pairs.shape)

    def _given(self, x: np.ndarray) -> Float[np.ndarray, "sample variable"]:
        """Observed values in elimination order, 0 where they are missing."""
        return np.where(self._seen, self.field._ordered(np.asarray(x, dtype=np.float64)), 0.0)

    def _times(self, ordered: np.ndarray) -> np.ndarray:
        product: np.ndarray = (self._precision @ ordered.T).T
        return product

    def _completed(self, ordered: np.ndarray, right: np.ndarray) -> Float[np.ndarray, "sample vertex channel"]:
        """Solve ``P_mm z = right_m`` for the missing entries of each sample."""
        for part in self._parts():
            part.solve(right, self._samples, ordered)
        return self.field._natural(ordered)

    def _parts(self) -> Iterator[_Part]:
        """Parts of the precisions of the missing entries, kept in memory if they are few."""
        if self._memory is not None:
            yield from self._memory
            return
        kept: list[_Part] | None = []
        numbers = 0
        for part in self._divided():
            yield part
            numbers += part.numbers
            kept = None if kept is None or numbers > KEPT else [*kept, part]
        self._memory = kept

    def _divided(self) -> Iterator[_Part]:
        """Divide the missing entries of each pattern into parts without links, and invert those of one size."""
        pattern, variable = np.nonzero(self._missing)
        if not len(pattern):
            return
        one, other, value = self._links()
        n = len(pattern)
        graph = sp.csr_array((np.ones(len(one), dtype=bool), (one, other)), shape=(n, n))
        _, label = sp.csgraph.connected_components(graph, directed=False)
        size = np.bincount(label)
        order = np.argsort(label, kind="stable")
        start = np.cumsum(size) - size
        within = np.empty(n, dtype=np.int64)
        within[order] = np.arange(n) - start[label[order]]
        link_order = np.argsort(label[one], kind="stable")
        link_label = label[one][link_order]
        diagonal = self._precision.diagonal()
        for s in np.unique(size):
            parts = np.flatnonzero(size == s)
            step = 1 if s >= LARGE else max(1, NUMBERS // int(s) ** 2)
            for begin in range(0, len(parts), step):
                some = parts[begin : begin + step]
                nodes = order[start[some][:, None] + np.arange(s)]
                links = link_order[_within(link_label, some)]
                at = np.searchsorted(some, label[one[links]])
                place = (at, within[one[links]], within[other[links]])
                own = diagonal[variable[nodes]]
                yield _made(pattern[nodes[:, 0]], variable[nodes], own, place, value[links])

    def _links(self) -> tuple[Int[np.ndarray, " link"], Int[np.ndarray, " link"], Float[np.ndarray, " link"]]:
        """Pairs of missing entries of one pattern that the precision links, and its values."""
        upper = sp.triu(self._precision, 1).tocoo()
        node = np.cumsum(self._missing.ravel()).reshape(self._missing.shape) - 1
        step, found = max(1, 4 * NUMBERS // max(1, upper.nnz)), []
        for begin in range(0, len(self._missing), step):
            rows = slice(begin, begin + step)
            missing = self._missing[rows]
            pattern, link = np.nonzero(missing[:, upper.row] & missing[:, upper.col])
            found.append((node[rows][pattern, upper.row[link]], node[rows][pattern, upper.col[link]], upper.data[link]))
        one, other, value = (np.concatenate(arrays) for arrays in zip(*found, strict=True))
        return one, other, value


def _within(ascending: Int[np.ndarray, " entry"], wanted: Int[np.ndarray, " number"]) -> Int[np.ndarray, " place"]:
    """Places of the wanted numbers among ascending ones with repeats."""
    low, high = np.searchsorted(ascending, wanted), np.searchsorted(ascending, wanted, side="right")
    count = high - low
    return np.repeat(low - (np.cumsum(count) - count), count) + np.arange(count.sum())


class _Part(abc.ABC):
    """Precision of missing entries without links to others; several of one size together."""

    pattern: Int[np.ndarray, " part"]
    variable: Int[np.ndarray, "part entry"]
    log_det: Float[np.ndarray, " part"]

    @property
    @abc.abstractmethod
    def numbers(self) -> int:
        """Numbers in memory."""

    @abc.abstractmethod
    def solve(self, right: np.ndarray, samples: list[np.ndarray], out: np.ndarray) -> None:
        """Write the solutions for the samples of each pattern."""

    @abc.abstractmethod
    def add_covariance(self, place: sp.csr_array, weight: np.ndarray, total: np.ndarray) -> None:
        """Add weighted covariances at the pairs of variables that have a place, counted from 1."""


@final
@dataclass(frozen=True, eq=False)
class _Inverted(_Part):
    """Parts with their inverses."""

    pattern: Int[np.ndarray, " part"]
    variable: Int[np.ndarray, "part entry"]
    inverse: Float[np.ndarray, "part entry entry"]
    log_det: Float[np.ndarray, " part"]

    @property
    def numbers(self) -> int:
        return int(self.inverse.size)

    def solve(self, right: np.ndarray, samples: list[np.ndarray], out: np.ndarray) -> None:
        if self.variable.shape[1] > SMALL:
            for pattern, variable, inverse in zip(self.pattern, self.variable, self.inverse, strict=True):
                rows = samples[pattern][:, None]
                out[rows, variable] = right[rows, variable] @ inverse
            return
        count = np.array([len(samples[pattern]) for pattern in self.pattern])
        which = np.repeat(np.arange(len(count)), count)
        rows = np.concatenate([samples[pattern] for pattern in self.pattern])[:, None]
        variable = self.variable[which]
        out[rows, variable] = np.einsum("pij,pj->pi", self.inverse[which], right[rows, variable])

    def add_covariance(self, place: sp.csr_array, weight: np.ndarray, total: np.ndarray) -> None:
        if self.variable.shape[1] > SMALL:
            for pattern, variable, inverse in zip(self.pattern, self.variable, self.inverse, strict=True):
                part = place[variable][:, variable].tocoo()
                total[part.data.astype(np.int64) - 1] += weight[pattern] * inverse[part.row, part.col]
            return
        s = self.variable.shape[1]
        row, column = np.repeat(self.variable, s, axis=1), np.tile(self.variable, (1, s))
        at = np.asarray(place[row.ravel(), column.ravel()]).astype(np.int64)
        values = (weight[self.pattern][:, None, None] * self.inverse).ravel()
        np.add.at(total, at[at > 0] - 1, values[at > 0])


@final
class _Factorised(_Part):
    """One large part with its sparse factor."""

    def __init__(self, pattern: Any, variable: Any, precision: sp.csc_array) -> None:
        self.pattern, self.variable = pattern, variable
        self._factor = splu(
            precision, permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.0, options={"SymmetricMode": True}
        )
        self.log_det = np.log(np.abs(self._factor.U.diagonal())).sum()[None]

    @property
    def numbers(self) -> int:
        return int(self._factor.nnz)

    def solve(self, right: np.ndarray, samples: list[np.ndarray], out: np.ndarray) -> None:
        rows = samples[self.pattern[0]][:, None]
        out[rows, self.variable[0]] = self._factor.solve(np.ascontiguousarray(right[rows, self.variable[0]].T)).T

    def add_covariance(self, place: sp.csr_array, weight: np.ndarray, total: np.ndarray) -> None:
        variable = self.variable[0]
        part, n = place[variable][:, variable], len(variable)
        step = max(1, NUMBERS // n)
        for begin in range(0, n, step):
            some = part[begin : begin + step].tocoo()
            unit = np.zeros((n, part[begin : begin + step].shape[0]))
            unit[begin + np.arange(unit.shape[1]), np.arange(unit.shape[1])] = 1.0
            columns = self._factor.solve(unit)
            total[some.data.astype(np.int64) - 1] += weight[self.pattern[0]] * columns[some.col, some.row]


def _made(
    pattern: Int[np.ndarray, " part"],
    variable: Int[np.ndarray, "part entry"],
    diagonal: Float[np.ndarray, "part entry"],
    place: tuple[np.ndarray, np.ndarray, np.ndarray],
    value: Float[np.ndarray, " link"],
) -> _Part:
    """Make the parts of one size from the diagonal and the links above it."""
    n, s = variable.shape
    at, one, other = place
    if s >= LARGE:
        own = np.arange(s)
        rows, columns = np.concatenate([own, one, other]), np.concatenate([own, other, one])
        values = np.concatenate([diagonal[0], value, value])
        return _Factorised(pattern, variable, sp.csc_array((values, (rows, columns)), shape=(s, s)))
    if s == 1:
        return _Inverted(pattern, variable, 1 / diagonal[:, :, None], np.log(diagonal[:, 0]))
    blocks = np.zeros((n, s, s))
    blocks[:, range(s), range(s)] = diagonal
    blocks[at, one, other] = value
    blocks[at, other, one] = value
    root = torch.linalg.cholesky(torch.from_numpy(blocks))
    log_det = 2 * root.diagonal(dim1=1, dim2=2).log().sum(dim=1)
    return _Inverted(pattern, variable, torch.cholesky_inverse(root).numpy(), log_det.numpy())
