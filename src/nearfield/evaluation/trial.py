"""Observed values that are hidden from a model, to compare them with their law given the others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, final

import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

    from nearfield.graph import DependencyGraph

__all__ = ["DRAWN", "EXACT", "FEWEST", "Effort", "Trial"]

FEWEST = 10
"""Samples that an error from resampling needs."""
_HIDDEN = 20  # values of a sample that count
_BLOCK = 500  # vertices
_CLIPPED = 3.0  # standard deviations


class Effort(NamedTuple):
    """How many samples and members, and how many patterns of hidden values where the data have none."""

    samples: int
    members: int
    patterns: int


EXACT, DRAWN = Effort(64, 100, 16), Effort(32, 16, 8)


@final
@dataclass(frozen=True, eq=False)
class Trial:
    """Samples with hidden values.

    Attributes
    ----------
    x : (case, vertex, channel)
        The samples, in the units of the data.
    hidden : (case, vertex, channel)
        What the model is not told.
    number : (case,)
        Their places among all samples.
    place : (3, value)
        Case, vertex and channel of the hidden values that count.
    seen : bool
        Whether the samples are training data.
    """

    x: Float[np.ndarray, "case vertex channel"]
    hidden: Bool[np.ndarray, "case vertex channel"]
    number: Int[np.ndarray, " case"]
    place: Int[np.ndarray, "3 value"]
    seen: bool

    @classmethod
    def of(
        cls,
        x: Float[np.ndarray, "sample vertex channel"],
        seen: Bool[np.ndarray, " sample"],
        graph: DependencyGraph,
        effort: Effort,
        seed: int,
    ) -> Trial:
        """Hide values of samples spread over those not seen, or over all where fewer than 10 are unseen.

        Examples
        --------
        >>> from nearfield.graph import DependencyGraph
        >>> x = np.random.default_rng(0).normal(size=(40, 60, 1))
        >>> trial = Trial.of(x, np.arange(40) < 20, DependencyGraph.chain(60), EXACT, 0)
        >>> trial.hidden.shape, trial.seen
        ((20, 60, 1), False)
        """
        fresh = np.flatnonzero(~seen)
        pool = fresh if len(fresh) >= FEWEST else np.arange(len(x))
        spread = np.linspace(0, len(pool) - 1, min(effort.samples, len(pool))).round().astype(int)
        number = pool[spread]
        rng, x = np.random.default_rng([seed, 1]), x[number]
        hidden, counts = _hide(x, graph, effort.patterns, rng)
        told = (~np.isnan(x) & ~hidden).any(axis=2)
        kept = [_some(np.argwhere(each), _nearest(t, graph)[1], rng) for each, t in zip(counts, told, strict=True)]
        place = np.concatenate([np.column_stack([np.full(len(k), i), k]) for i, k in enumerate(kept)]).T
        return cls(x, hidden, number, place, len(pool) != len(fresh))

    @property
    def partial(self) -> Float[np.ndarray, "case vertex channel"]:
        """The samples with NaN at hidden values."""
        return np.where(self.hidden, np.nan, self.x)

    def told(
        self, z: Float[np.ndarray, "sample vertex channel"], graph: DependencyGraph
    ) -> Float[np.ndarray, " value"]:
        """Guess hidden values from that at the nearest observed vertex, by regression over the other samples.

        An observed value tells the nearest of the hidden ones, since what it tells of farther ones repeats that and
        only adds noise. Values are standardised, ``z`` are those of all samples; NaN where there is no guess.
        """
        found = np.full(self.place.shape[1], np.nan)
        for case, channel in np.unique(self.place[[0, 2]], axis=1).T:
            values = np.flatnonzero((self.place[0] == case) & (self.place[2] == channel))
            observed = ~np.isnan(self.x[case, :, channel]) & ~self.hidden[case, :, channel]
            near, hops = (part[self.place[1, values]] for part in _nearest(observed, graph))
            least = np.full(graph.n_vertices + 1, graph.n_vertices)
            np.minimum.at(least, near, hops)
            kept = (near >= 0) & (hops == least[near])
            values, near = values[kept], near[kept]
            number = self.number[case]
            both_ends = (np.clip(z[:, at, channel], -_CLIPPED, _CLIPPED) for at in (self.place[1, values], near))
            (here, _), (there, own) = ((np.delete(part, number, axis=0), part[number]) for part in both_ends)
            both = ~np.isnan(here + there)
            here, there = (np.where(both, part, 0.0) for part in (here, there))
            slope = (here * there).sum(axis=0) / np.maximum((there**2).sum(axis=0), 1e-300)
            found[values] = slope * own
        return found


def _hide(
    x: Float[np.ndarray, "case vertex channel"], graph: DependencyGraph, n_patterns: int, rng: np.random.Generator
) -> tuple[Bool[np.ndarray, "case vertex channel"], Bool[np.ndarray, "case vertex channel"]]:
    """Hide what another sample lacks; where that is nothing or all, points and a block. Also say which values count."""
    present = ~np.isnan(x)
    hidden = np.zeros(x.shape, dtype=bool)
    gappy = np.flatnonzero(~present.all(axis=(1, 2)))
    if len(gappy) > 1:
        for i in range(len(x)):
            hidden[i] = present[i] & ~present[rng.choice(gappy[gappy != i])]
    patterns = [_points_and_block(graph, x.shape[2], rng) for _ in range(n_patterns)]
    counts = hidden.copy()
    for i in range(len(x)):
        if not hidden[i].any() or not (present[i] & ~hidden[i]).any():
            hidden[i], counts[i] = (present[i] & pattern for pattern in patterns[i % n_patterns])
        if not (present[i] & ~hidden[i]).any():
            hidden[i] = counts[i] = False
    return hidden, counts


def _points_and_block(
    graph: DependencyGraph, n_channels: int, rng: np.random.Generator
) -> tuple[Bool[np.ndarray, "vertex channel"], Bool[np.ndarray, "vertex channel"]]:
    """Hide 10 values at random and a block of a fifth of the vertices, 10 of which count; fewer of small graphs."""
    n = graph.n_vertices
    hidden, counts = np.zeros((2, n, n_channels), dtype=bool)
    share = max(1, min(_HIDDEN // 2, n * n_channels // 6))
    hidden[_ball(graph, int(rng.integers(n)), min(-(-n // 5), _BLOCK))] = True
    counts.reshape(-1)[rng.permutation(np.flatnonzero(hidden))[:share]] = True
    points = rng.permutation(hidden.size)[:share]
    hidden.reshape(-1)[points] = counts.reshape(-1)[points] = True
    return hidden, counts


def _ball(graph: DependencyGraph, center: int, size: int) -> Int[np.ndarray, " vertex"]:
    """So many vertices nearest to one, in hops."""
    adjacency, found = graph.adjacency, np.array([center])
    new = found
    while len(found) < size and len(new):
        new = np.setdiff1d(adjacency[new].indices, found)
        found = np.concatenate([found, new])
    return found[:size]


def _some(
    places: Int[np.ndarray, "place 2"], hops: Int[np.ndarray, " vertex"], rng: np.random.Generator
) -> Int[np.ndarray, "some 2"]:
    """Choose 20 of many hidden values: half of them nearest to what is observed, where neighbours tell most."""
    places = rng.permutation(places)
    order = np.argsort(hops[places[:, 0]], kind="stable")
    chosen = np.concatenate([order[: _HIDDEN // 2], rng.permutation(order[_HIDDEN // 2 :])])
    found: np.ndarray = places[chosen[:_HIDDEN]]
    return found


def _nearest(
    told: Bool[np.ndarray, " vertex"], graph: DependencyGraph
) -> tuple[Int[np.ndarray, " vertex"], Int[np.ndarray, " vertex"]]:
    """Return the nearest vertex that is told, -1 without one, and how many hops it is away."""
    waiting = np.flatnonzero(~told)
    adjacency = graph.adjacency[waiting]
    to, ends = adjacency.indices, np.repeat(waiting, np.diff(adjacency.indptr))
    label, hops = np.where(told, np.arange(len(told)), -1), np.where(told, 0, len(told))
    for step in range(1, len(told)):
        spread = (label[ends] < 0) & (label[to] >= 0)
        if not spread.any():
            break
        label[ends[spread]], hops[ends[spread]] = label[to[spread]], step
    return label, hops
