"""How much wider conditional draws have to be than the field says, by the errors of kriging on held-out samples.

A field takes its parameters as known, so what it predicts of hidden values from others is off by more than it says. Its
conditional variances are multiplied by one factor: the mean of squared held-out errors in units of these variances,
which is the factor of highest Gaussian log-score. Draws without a condition have the variance of the data as it is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import scipy.sparse as sp
from joblib import Parallel, delayed

from nearfield.data.duplicate import duplicate_groups
from nearfield.fitting.coarse import Scale, corrected
from nearfield.fitting.covariance import Pooling, elimination_order, predecessors
from nearfield.fitting.cross_validation import FEWEST_TO_CHOOSE, PATCH, fewer_folds, split, standard_error
from nearfield.fitting.predictive import Moments
from nearfield.fitting.selection import one_torch_thread
from nearfield.graph import DependencyGraph
from nearfield.score.solver import DIRECT_LIMIT

if TYPE_CHECKING:
    from jaxtyping import Float

__all__ = ["choose_band"]

FOLDS = 4
"""An even number, so that either end is hidden as often."""
HIDDEN = 0.3
"""Share of the vertices hidden at random; in a second way one half is hidden, from either end by turns."""
PROBED = 64
"""Hidden values whose errors are looked at, at most, in each fold and way."""
GUARD = 2.0
"""Standard errors by which the factor has to differ from 1."""
RANGE = (0.5, 4.0)
"""Of the factor."""


def choose_band(
    y: Float[np.ndarray, "sample vertex channel"],
    graph: DependencyGraph,
    radius: int,
    pooling: Pooling,
    correction: Scale | None,
    *,
    contiguous: bool = False,
    seed: int = 0,
    n_jobs: int | None = None,
) -> tuple[float, str]:
    """Choose the factor of the conditional variances by the errors of kriging on held-out samples.

    Parameters
    ----------
    y : ndarray, shape (sample, vertex, channel)
        Standardised data.
    graph : DependencyGraph
    radius, pooling, correction
        Of the field.
    contiguous, seed, n_jobs
        As in `select_field`.

    Returns
    -------
    float
        1 where the errors do not differ clearly from what the field says, or there are too few samples or too many
        variables to see.
    str
        A sentence on it, empty where it is 1.
    """
    if len(y) < FEWEST_TO_CHOOSE or not 1 < graph.n_vertices <= DIRECT_LIMIT // y.shape[2]:
        return 1.0, ""
    parts = split(len(y), fewer_folds(FOLDS, len(y)), contiguous, seed, duplicate_groups(y))
    near = _from_an_end(graph)
    if graph.n_vertices > PATCH // y.shape[2]:  # a piece of the graph stands for it
        piece = np.isin(np.arange(graph.n_vertices), near[: PATCH // y.shape[2]])
        graph, y = graph.subgraph(piece), y[:, piece]
        near = _from_an_end(graph)
    with one_torch_thread():
        found = Parallel(n_jobs=n_jobs, prefer="threads")(
            delayed(_errors)(y, graph, radius, pooling, correction, part, near if k % 2 else near[::-1], seed + k)
            for k, part in enumerate(parts)
        )
    squares = np.empty(len(y))
    squares[np.concatenate(parts)] = np.concatenate(found)
    factor, error = float(np.clip(squares.mean(), *RANGE)), standard_error(squares, contiguous)
    if abs(squares.mean() - 1) <= GUARD * error:
        return 1.0, ""
    return factor, (
        f"Conditional draws have {factor:.3g} times the variance that the field says: so large, "
        f"{squares.mean():.3g} +- {error:.1g}, are held-out squared errors of hidden values."
    )


def _from_an_end(graph: DependencyGraph) -> np.ndarray:
    """Vertices by their distance from one that is as far as any from the first."""
    first = np.array(elimination_order(graph)[0])
    for _ in range(2):
        hops = sp.csgraph.dijkstra(graph.adjacency, indices=first, unweighted=True)
        first = np.array(np.argmax(hops))
    return np.argsort(hops, kind="stable")


def _errors(
    y: Float[np.ndarray, "sample vertex channel"],
    graph: DependencyGraph,
    radius: int,
    pooling: Pooling,
    correction: Scale | None,
    held_out: np.ndarray,
    near: np.ndarray,
    seed: int,
) -> Float[np.ndarray, " sample"]:
    """Mean squares of held-out errors of hidden values, in units of their conditional variances."""
    train, test = np.delete(y, held_out, axis=0), y[held_out]
    moments = Moments.of(train, graph, predecessors(graph, radius), pooling)
    field = corrected(moments.field(graph, pooling, radius), train, graph, correction)
    rng, n = np.random.default_rng(seed), graph.n_vertices
    squares = []
    for hidden in (rng.choice(n, max(1, round(HIDDEN * n)), replace=False), near[: n // 2]):
        observed = np.ones(y.shape[1:], dtype=bool)
        observed[hidden] = False
        asked = np.zeros_like(observed)
        asked[rng.choice(hidden, min(PROBED, len(hidden)), replace=False), rng.integers(y.shape[2])] = True
        law = field.conditional(observed)
        squares.append(((test - law.mean(test))[:, asked] ** 2 / law.variance(asked)).mean(axis=1))
    return np.mean(squares, axis=0)
