"""Samples of a random field: values, graph and other properties of the data as one object."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, final

import numpy as np
import scipy.sparse as sp
from scipy.sparse.linalg import svds
from scipy.spatial import cKDTree

from nearfield.graph import DependencyGraph

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

__all__ = ["BLOCKS", "FEWEST_TO_CHOOSE", "Completions", "Samples", "duplicate_groups", "folds_of", "standard_error"]

FEWEST_TO_CHOOSE = 4
"""Fewest samples with two folds of two."""
BLOCKS = 20
"""Blocks of samples in order of time that count as independent; used from twice as many samples on."""
_ALIKE = 1e-4  # standard deviations: packing to 16 bits and single precision differ by less
_LOOKED_AT = 32  # values of a sample compared first
_VARIED = 8  # different values needed among these; with fewer, equality is chance: a dry day, counts on few vertices


@final
@dataclass(frozen=True, eq=False)
class Completions:
    """Samples whose missing values were drawn several times, given the others, and where values are data.

    Parameters
    ----------
    values : ndarray, shape (draw, sample, vertex, channel)
    present : ndarray of bool, shape (sample, vertex, channel)
    """

    values: Float[np.ndarray, "draw sample vertex channel"]
    present: Bool[np.ndarray, "sample vertex channel"]

    def take(self, numbers: Int[np.ndarray, " some"] | slice) -> Completions:
        """Return the samples of these numbers."""
        return Completions(self.values[:, numbers], self.present[numbers])

    def at(self, vertices: Bool[np.ndarray, " vertex"]) -> Completions:
        """Return the samples on some of the vertices."""
        return Completions(self.values[:, :, vertices], self.present[:, vertices])

    def standardized(
        self, center: Float[np.ndarray, "..."] | float, scale: Float[np.ndarray, "..."] | float
    ) -> Completions:
        """Return values less their centre over their scale."""
        return Completions((self.values - center) / scale, self.present)


@final
@dataclass(frozen=True, eq=False)
class Samples:
    """Samples of a field on a graph.

    Parameters
    ----------
    values : ndarray, shape (sample, vertex, channel)
    graph : DependencyGraph
    observed : ndarray of bool, shape (sample, vertex, channel), optional
        Where the values are data; by default where they are not NaN. None if that is everywhere.
    ordered : bool
        Whether the samples are in order of time.
    channels : tuple of str
        Names of the channels; by default their numbers.
    standard : tuple of bool
        Channels that have mean 0 and unit scale; by default none.
    spread : sparse array, shape (variable, variable), optional
        Where the missing values are conditional means, the mean over the samples of their conditional covariances;
        variables by vertex, channels fastest. Such samples can be fitted to, but not divided.
    drawn : Completions, optional
        Where values were missing and are drawn, these draws, of which the values are the first, and where data are.

    Raises
    ------
    ValueError
        If the shapes are inconsistent.

    Examples
    --------
    >>> samples = Samples(np.arange(12.0).reshape(4, 3, 1), DependencyGraph.chain(3))
    >>> len(samples), samples.n_vertices, samples.channels
    (4, 3, ('0',))
    >>> samples.standardized(samples.values.mean(axis=0), 2.0).values[0].ravel().tolist()
    [-2.25, -2.25, -2.25]
    """

    values: Float[np.ndarray, "sample vertex channel"]
    graph: DependencyGraph
    observed: Bool[np.ndarray, "sample vertex channel"] | None = None
    ordered: bool = False
    channels: tuple[str, ...] = ()
    standard: tuple[bool, ...] = ()
    spread: sp.csr_array | None = None
    drawn: Completions | None = None

    def __post_init__(self) -> None:
        if self.values.ndim != 3 or self.values.shape[1] != self.graph.n_vertices:
            raise ValueError(
                f"values must have shape (sample, {self.graph.n_vertices}, channel) on {self.graph!r}, got "
                f"{self.values.shape}"
            )
        with np.errstate(invalid="ignore"):  # of infinite values, which a fit refuses
            some_missing = math.isnan(self.values.sum())
        if self.observed is None and some_missing:
            object.__setattr__(self, "observed", ~np.isnan(self.values))
        if self.observed is not None and not (
            self.observed.shape == self.values.shape and self.observed.dtype == np.dtype(bool)
        ):
            raise ValueError(
                f"observed must be boolean of shape {self.values.shape}, got {self.observed.dtype} of "
                f"{self.observed.shape}"
            )
        n = self.n_channels
        if not self.channels:
            object.__setattr__(self, "channels", tuple(map(str, range(n))))
        if not self.standard:
            object.__setattr__(self, "standard", (False,) * n)
        for name in ("channels", "standard"):
            if len(getattr(self, name)) != n:
                raise ValueError(f"{name} must have an entry for each of {n} channels, got {getattr(self, name)!r}")

    def __len__(self) -> int:
        return len(self.values)

    @property
    def n_vertices(self) -> int:
        """Number of vertices."""
        return int(self.values.shape[1])

    @property
    def n_channels(self) -> int:
        """Number of channels of each vertex."""
        return int(self.values.shape[2])

    @cached_property
    def groups(self) -> Int[np.ndarray, " sample"]:
        """Group numbers, the same for repeats of a sample; derived samples keep those of their source."""
        return duplicate_groups(self.filled)

    @cached_property
    def largest_eigenvalue(self) -> float:
        """Largest eigenvalue of the second moments of the values."""
        self.require_complete()
        flat = self.values.reshape(len(self), -1) / math.sqrt(len(self))
        if min(flat.shape) < 3:
            return float(np.linalg.norm(flat, 2) ** 2)
        return float(svds(flat, k=1, v0=np.ones(min(flat.shape)), return_singular_vectors=False)[0] ** 2)

    @cached_property
    def incomplete(self) -> bool:
        """Whether values are missing that nothing stands for yet."""
        return self.observed is not None and self.spread is None and not bool(self.observed.all())

    @property
    def present(self) -> Bool[np.ndarray, "sample vertex channel"] | None:
        """Where values are data, of samples of which some are drawn; None if none are."""
        return None if self.drawn is None else self.drawn.present

    @cached_property
    def filled(self) -> Float[np.ndarray, "sample vertex channel"]:
        """The values, with the mean of their vertex where they are missing; 0 where it has none."""
        if not self.incomplete:
            return self.values
        assert self.observed is not None
        some = np.where(self.observed, self.values, 0.0)
        filled: np.ndarray = np.where(self.observed, some, some.sum(axis=0) / np.maximum(self.n_observed, 1))
        return filled

    @cached_property
    def n_observed(self) -> Int[np.ndarray, "vertex channel"]:
        """Number of observed values of each vertex and channel."""
        if self.observed is None:
            return np.full(self.values.shape[1:], len(self))
        count: np.ndarray = np.count_nonzero(self.observed, axis=0)
        return count

    def require_complete(self) -> None:
        """Refuse missing values."""
        if self.observed is not None and not self.observed.all():
            missing = self.observed.size - np.count_nonzero(self.observed)
            raise ValueError(
                f"samples must be observed everywhere, got {missing} missing values (NaN); methods 'auto', 'gaussian', "
                "'neural' and 'hybrid' take them"
            )

    def take(self, numbers: Int[np.ndarray, " some"] | slice) -> Samples:
        """Return the samples of these numbers."""
        if self.spread is not None:
            raise ValueError("samples with a spread cannot be divided, which holds for all of them together")
        _, first, group = np.unique(self.groups[numbers], return_index=True, return_inverse=True)
        observed = None if self.observed is None else self.observed[numbers]
        drawn = None if self.drawn is None else self.drawn.take(numbers)
        return self._derived(_by_first(first, group), values=self.values[numbers], observed=observed, drawn=drawn)

    def without(self, numbers: Int[np.ndarray, " some"]) -> Samples:
        """Return all samples but these."""
        return self.take(np.delete(np.arange(len(self)), numbers))

    def at(self, vertices: Bool[np.ndarray, " vertex"]) -> Samples:
        """Return the samples on some of the vertices."""
        if vertices.all():
            return self
        observed = None if self.observed is None else self.observed[:, vertices]
        graph, spread = self.graph.subgraph(vertices), self.spread
        if spread is not None:
            kept = np.repeat(vertices, self.n_channels)
            spread = spread[kept][:, kept]
        drawn = None if self.drawn is None else self.drawn.at(vertices)
        return self._derived(
            self.groups, values=self.values[:, vertices], observed=observed, graph=graph, spread=spread, drawn=drawn
        )

    def standardized(
        self, center: Float[np.ndarray, "..."] | float, scale: Float[np.ndarray, "..."] | float
    ) -> Samples:
        """Return values less their centre over their scale, every channel standard."""
        spread = self.spread
        if spread is not None:
            units = sp.diags_array(1 / np.broadcast_to(scale, self.values.shape[1:]).ravel())
            spread = sp.csr_array(units @ spread @ units)
        values, standard = (self.values - center) / scale, (True,) * self.n_channels
        drawn = None if self.drawn is None else self.drawn.standardized(center, scale)
        return self._derived(self.groups, values=values, standard=standard, spread=spread, drawn=drawn)

    def with_values(
        self, values: Float[np.ndarray, "sample vertex channel"], graph: DependencyGraph | None = None, **changes: Any
    ) -> Samples:
        """Return other values of the same samples, on another graph if one is given; spread and draws do not pass."""
        if self.spread is not None:
            changes = {"spread": None, "observed": None} | changes
        return self._derived(self.groups, values=values, graph=graph or self.graph, **{"drawn": None} | changes)

    def folds(self, n: int, seed: int = 0) -> list[Int[np.ndarray, " held_out"]]:
        """Return held-out sample numbers of each fold: blocks in order of time, or a seeded shuffle, repeats together.

        The number of folds is lower where there are fewer than two samples, or no group of repeats, for each.
        """
        return folds_of(self.groups, n, self.ordered, seed)

    def standard_error(self, losses: Float[np.ndarray, " sample"]) -> float:
        """Return the standard error of a mean over these samples, or some of them in order."""
        return standard_error(losses, self.ordered)

    def grouped(self, groups: Int[np.ndarray, " sample"]) -> Samples:
        """Return the samples with groups that are held out together, as repeats are: parts of one field, for example.

        >>> samples = Samples(np.arange(12.0).reshape(4, 3, 1), DependencyGraph.chain(3), ordered=True)
        >>> [held_out.tolist() for held_out in samples.grouped(np.array([7, 7, 8, 8])).folds(4)]
        [[0, 1], [2, 3]]
        """
        return self._derived(np.unique(groups, return_inverse=True)[1])

    def _derived(self, groups: Int[np.ndarray, " sample"], **changes: Any) -> Samples:
        found = replace(self, **changes)
        found.__dict__["groups"] = groups
        return found


def folds_of(
    groups: Int[np.ndarray, " sample"], n: int, ordered: bool = False, seed: int = 0
) -> list[Int[np.ndarray, " held_out"]]:
    """Return held-out numbers of samples of these groups for each fold, as `Samples.folds` does."""
    if len(groups) < FEWEST_TO_CHOOSE:
        raise ValueError(
            f"choosing the locality needs at least {FEWEST_TO_CHOOSE} samples, got {len(groups)}; pass "
            "radius and pooling"
        )
    n_groups = int(groups.max()) + 1
    numbers = np.arange(n_groups) if ordered else np.random.default_rng(seed).permutation(n_groups)
    parts = np.array_split(numbers, min(n, len(groups) // 2, n_groups))
    return [np.flatnonzero(np.isin(groups, part)) for part in parts]


def standard_error(values: Float[np.ndarray, " sample"], ordered: bool = False) -> float:
    """Return the standard error of a mean over samples; in order of time over about twenty blocks of them."""
    if ordered and len(values) >= 2 * BLOCKS:
        values = np.array([block.mean() for block in np.array_split(values, BLOCKS)])
    return float(values.std(ddof=1) / math.sqrt(len(values)))


def duplicate_groups(x: Float[np.ndarray, "sample vertex channel"]) -> Int[np.ndarray, " sample"]:
    """Return numbers of the samples such that equal ones, to a ten thousandth of the standard deviation, share one.

    The numbers follow the order of the first sample of each group. Samples with few different values, or of fewer than
    eight values, count as different: days without rain are equal, but no duplicates. Repeats in different folds would
    leak, the more the wider the windows are.

    Examples
    --------
    >>> x = np.random.default_rng(0).normal(size=(4, 9, 1))
    >>> duplicate_groups(x[[0, 1, 0, 2, 1]]).tolist()
    [0, 1, 0, 2, 1]
    """
    n, flat = len(x), x.reshape(len(x), -1)
    columns = np.random.default_rng(0).permutation(flat.shape[1])[:_LOOKED_AT]
    looked = flat[:, columns].astype(np.float64)
    scale = looked.std(axis=0)
    looked = (looked / np.where(scale > 0, scale, 1.0))[:, scale > 0]
    if looked.shape[1] < _VARIED:
        return np.arange(n)
    in_order = np.sort(looked, axis=1)
    varied = np.flatnonzero((np.diff(in_order, axis=1) > _ALIKE).sum(axis=1) + 1 >= _VARIED)
    # only one of exact copies goes into the tree: the number of pairs grows with the square
    _, first, of = np.unique(looked[varied], axis=0, return_index=True, return_inverse=True)
    pairs = [np.column_stack([varied, varied[first][of.ravel()]])]
    pairs.append(varied[first][cKDTree(looked[varied][first]).query_pairs(_ALIKE, p=np.inf, output_type="ndarray")])
    i, j = np.concatenate(pairs).T
    keep = i != j
    i, j = i[keep], j[keep]
    if not len(i):
        return np.arange(n)
    spread = flat.std(axis=0)
    same = np.array([bool((np.abs(flat[a] - flat[b]) <= _ALIKE * spread).all()) for a, b in zip(i, j, strict=True)])
    links = sp.coo_array((np.ones(same.sum()), (i[same], j[same])), shape=(n, n))
    label = sp.csgraph.connected_components(links, directed=False)[1]
    _, first, of = np.unique(label, return_index=True, return_inverse=True)
    return _by_first(first, of)


def _by_first(first: Int[np.ndarray, " group"], group: Int[np.ndarray, " sample"]) -> Int[np.ndarray, " sample"]:
    """Return group numbers in the order of their first samples."""
    ordered: np.ndarray = np.argsort(np.argsort(first))[group.ravel()]
    return ordered
