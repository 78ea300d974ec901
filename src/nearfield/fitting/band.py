"""Factor between the conditional variances of a field and the errors of kriging on held-out samples.

A field takes its parameters as known, so its predictions of hidden values have larger errors than its conditional
variances. These are multiplied by one factor: the mean of squared held-out errors in their units, which is the factor
of highest Gaussian log-score. Unconditional draws have the variance of the data without it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import scipy.sparse as sp

from nearfield.fitting.closed_form import build_field
from nearfield.fitting.coarse import Scale, corrected
from nearfield.fitting.cross_validation import PATCH
from nearfield.fitting.elimination import elimination_order, predecessors
from nearfield.fitting.expectation import completed, expectation
from nearfield.fitting.pooling import Pooling
from nearfield.fitting.predictive import Moments
from nearfield.fitting.rarity import comparable
from nearfield.fitting.search import Search
from nearfield.graph import DependencyGraph
from nearfield.samples import FEWEST_TO_CHOOSE, Samples
from nearfield.score.field import GaussianField
from nearfield.score.solver import DIRECT_LIMIT

if TYPE_CHECKING:
    from jaxtyping import Bool, Float

__all__ = ["choose_band"]

FOLDS = 4
"""An even number, so that each end is hidden equally often."""
HIDDEN = 0.3
"""Share of the vertices hidden at random; a second pattern hides one half, from either end in turn."""
PROBED = 64
"""Most hidden values in each fold and pattern whose errors count."""
GUARD = 2.0
"""Standard errors by which the factor must differ from 1."""
ITERATIONS = 10
"""Of expectation and maximisation in each fold, at most."""
RANGE = (0.5, 4.0)
"""Range of the factor."""


def choose_band(
    samples: Samples,
    radius: int,
    pooling: Pooling,
    correction: Scale | None,
    search: Search = Search(),  # noqa: B008
) -> tuple[float, str]:
    """Choose the factor of the conditional variances by held-out errors of kriging, with a reason.

    It is 1, without a reason, if the errors of the standardised samples do not differ clearly from the variances, or
    there are too few samples or too many variables.
    """
    if len(samples) < FEWEST_TO_CHOOSE or not 1 < samples.n_vertices <= DIRECT_LIMIT // samples.n_channels:
        return 1.0, ""
    parts = samples.folds(FOLDS, search.seed)
    if samples.incomplete:
        samples = samples.at(comparable(samples, parts))
    near, most = _from_an_end(samples.graph), PATCH // samples.n_channels
    if samples.n_vertices > most:  # a piece represents the graph
        samples = samples.at(np.isin(np.arange(samples.n_vertices), near[:most]))
        near = _from_an_end(samples.graph)
    field = _FieldSettings(radius, pooling, correction)
    found = search.over(
        lambda k: _errors(samples, field, parts[k], near if k % 2 else near[::-1], search.seed + k), range(len(parts))
    )
    squares = np.empty(len(samples))
    squares[np.concatenate(parts)] = np.concatenate(found)
    if samples.incomplete:  # nothing hidden was observed in some
        used = np.flatnonzero(np.isfinite(squares))
        if len(used) < FEWEST_TO_CHOOSE:
            return 1.0, ""
        samples, squares = samples.take(used), squares[used]
    factor, error = float(np.clip(squares.mean(), *RANGE)), samples.standard_error(squares)
    if abs(squares.mean() - 1) <= GUARD * error:
        return 1.0, ""
    return factor, (
        f"Conditional draws have {factor:.3g} times the conditional variance of the field, since held-out squared "
        f"errors of hidden values are {squares.mean():.3g} +- {error:.1g} times as large."
    )


def _from_an_end(graph: DependencyGraph) -> np.ndarray:
    """Vertices by their distance from one that is farthest from the first."""
    first = np.array(elimination_order(graph)[0])
    for _ in range(2):
        hops = sp.csgraph.dijkstra(graph.adjacency, indices=first, unweighted=True)
        first = np.array(np.argmax(hops))
    return np.argsort(hops, kind="stable")


class _FieldSettings(NamedTuple):
    """Settings of a field."""

    radius: int
    pooling: Pooling
    correction: Scale | None

    def of(self, samples: Samples) -> GaussianField:
        """Fit the field."""
        if samples.incomplete:
            fit = build_field(expectation(samples, self.radius, self.pooling, ITERATIONS).samples, *self[:2])
            drawn = completed(samples, fit, 0) if self.correction else samples
            return corrected(fit.field, drawn, self.correction)
        moments = Moments.of(samples, predecessors(samples.graph, self.radius), self.pooling)
        return corrected(moments.field(self.pooling, self.radius), samples, self.correction)


def _errors(
    samples: Samples, fit: _FieldSettings, held_out: np.ndarray, near: np.ndarray, seed: int
) -> Float[np.ndarray, " held_out"]:
    """Mean squares of held-out errors of hidden values, in units of their conditional variances."""
    test, field = samples.values[held_out], fit.of(samples.without(held_out))
    rng, n = np.random.default_rng(seed), samples.n_vertices
    squares = []
    for hidden in (rng.choice(n, max(1, round(HIDDEN * n)), replace=False), near[: n // 2]):
        observed = np.ones(samples.values.shape[1:], dtype=bool)
        observed[hidden] = False
        probed = np.zeros_like(observed)
        probed[rng.choice(hidden, min(PROBED, len(hidden)), replace=False), rng.integers(samples.n_channels)] = True
        if samples.incomplete:
            squares.append(_errors_with_gaps(samples.take(held_out), field, observed, probed))
            continue
        law = field.conditional(observed)
        squares.append(((test - law.mean(test))[:, probed] ** 2 / law.variance(probed)).mean(axis=1))
    mean: np.ndarray = np.mean(squares, axis=0)
    return mean


def _errors_with_gaps(
    samples: Samples,
    field: GaussianField,
    observed: Bool[np.ndarray, "vertex channel"],
    probed: Bool[np.ndarray, "vertex channel"],
) -> Float[np.ndarray, " sample"]:
    """Mean squares of the errors of each sample where hidden values were observed; NaN where none were."""
    assert samples.observed is not None
    squares = np.full(len(samples), np.nan)
    for i, (x, seen) in enumerate(zip(samples.values, samples.observed, strict=True)):
        asked = probed & seen
        if asked.any():
            law = field.conditional(observed & seen)
            squares[i] = ((x - law.mean(np.where(seen, x, 0.0)[None])[0])[asked] ** 2 / law.variance(asked)).mean()
    return squares
