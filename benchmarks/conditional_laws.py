"""Observed fields whose conditional laws are known, with exact draws of these laws.

On chains the draws are by forward filtering and backward sampling on a grid of 400 nodes; with means over blocks the
state is the value and the sum since the block began. On the lattice each draw is the end of a Markov chain of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

import nearfield as nf
from nearfield.datasets import DoubleWellLattice

if TYPE_CHECKING:
    from jaxtyping import Float
    from numpy import ndarray

    from benchmarks.law import Law

CELLS = 400
BLOCK = 8
BLOCK_CELLS = 90
THRESHOLD = 0.6
SWEEPS = 600
"""Of each Markov chain; 300 and 1,200 give the same distances between sets of draws."""


@dataclass(frozen=True)
class Setting:
    """What is observed of a field.

    Attributes
    ----------
    name : str
    observations : list of Observation
        For the model.
    exact : (vertex,)
        Values known exactly, NaN elsewhere.
    draws : callable
        Exact draws (draw, vertex) of the conditional law, from their number and a generator.
    """

    name: str
    observations: list[nf.Observation]
    exact: Float[ndarray, " vertex"]
    draws: Callable[[int, np.random.Generator], Float[ndarray, "draw vertex"]]


def settings(law: Law, x: Float[ndarray, " vertex"], rng: np.random.Generator) -> list[Setting]:
    """Observe a field of a law in several ways."""
    return (_of_lattice if isinstance(law.target, DoubleWellLattice) else _of_chain)(law, x, rng)


def _of_chain(law: Law, x: Float[ndarray, " vertex"], rng: np.random.Generator) -> list[Setting]:
    """Observe points with and without errors, all but a gap, bounds, and means over blocks."""
    n = len(x)
    nothing, fifth = np.full(n, np.nan), np.arange(2, n, 5)
    half, outside = np.sort(rng.choice(n, n // 2, replace=False)), np.r_[0:49, 79:n]
    noisy = x[fifth] + 0.3 * rng.standard_normal(len(fifth))
    over, under = fifth[x[fifth] > THRESHOLD], fifth[x[fifth] <= THRESHOLD]

    def points(at: ndarray, y: ndarray, error: float, nodes: ndarray) -> ndarray:
        out = np.zeros((n, len(nodes)))
        out[at] = -0.5 * ((nodes - y[:, None]) / (error or np.diff(nodes).max() / 2)) ** 2
        return out

    def censored(nodes: ndarray) -> ndarray:
        out = points(under, x[under], 0.0, nodes)
        out[over] = np.where(nodes > THRESHOLD, 0.0, -1e3)
        return out

    def setting(name: str, seen: list[nf.Observation], exact: ndarray, log_likelihood: Nodes) -> Setting:
        return Setting(name, seen, exact, partial(filtered_draws, law, log_likelihood, exact))

    def exactly(name: str, at: ndarray) -> Setting:
        return setting(name, [nf.Observation(x[at], at=at)], only(x, at), partial(points, at, x[at], 0.0))

    bounds = [nf.Observation(np.full(len(over), THRESHOLD), at=over, above=True)] if len(over) else []
    below = [nf.Observation(x[under], at=under)] if len(under) else []
    every = [nf.Observation(noisy, at=fifth, error=0.3)]
    found = [
        setting("every 5th, .3", every, nothing, partial(points, fifth, noisy, 0.3)),
        exactly("half, exact", half),
        exactly("gap of 30", outside),
        setting("censored above .6", below + bounds, only(x, under), censored),
    ]
    if law.name != "double_well":
        return found
    means = x.reshape(-1, BLOCK).mean(axis=1) + 0.05 * rng.standard_normal(n // BLOCK)
    operator = np.repeat(np.eye(n // BLOCK), BLOCK, axis=1) / BLOCK
    block = nf.Observation(means, operator=operator, error=0.05)
    return [*found, Setting("block means, .05", [block], nothing, partial(block_draws, law, means, 0.05))]


def _of_lattice(law: Law, x: Float[ndarray, " vertex"], rng: np.random.Generator) -> list[Setting]:
    """Observe a fifth of the vertices with errors, and all but a square of 12 x 12."""
    n = len(x)
    points = np.sort(rng.choice(n, n // 5, replace=False))
    noisy = x[points] + 0.3 * rng.standard_normal(len(points))
    gap = np.zeros(law.shape, dtype=bool)
    gap[10:22, 10:22] = True
    outside = np.flatnonzero(~gap.ravel())
    value, exact = only(x, outside), np.full(n, np.nan)
    at_points = exact.copy()
    at_points[points] = noisy
    return [
        Setting(
            "a fifth, .3",
            [nf.Observation(noisy, at=points, error=0.3)],
            exact,
            partial(checkerboard_draws, law, at_points, 0.3),
        ),
        Setting(
            "gap of 12 x 12",
            [nf.Observation(x[outside], at=outside)],
            value,
            partial(checkerboard_draws, law, value, 0.0),
        ),
    ]


Nodes = Callable[["ndarray"], "ndarray"]
"""Log-likelihood (vertex, node) of the value at each vertex."""


def only(x: Float[ndarray, " vertex"], places: ndarray) -> Float[ndarray, " vertex"]:
    """Values at some places, NaN elsewhere."""
    out = np.full(len(x), np.nan)
    out[places] = x[places]
    return out


def filtered_draws(
    law: Law, log_likelihood_of: Nodes, exact: Float[ndarray, " vertex"], n_draws: int, rng: np.random.Generator
) -> Float[ndarray, "draw vertex"]:
    """Draw a chain given a likelihood at each vertex."""
    chain = law.target.hidden_chain(CELLS)  # type: ignore[attr-defined]
    log_likelihood = log_likelihood_of(chain.nodes)
    likelihood = np.exp(log_likelihood - log_likelihood.max(axis=1, keepdims=True)) + 1e-280
    n = len(likelihood)
    forward = np.empty_like(likelihood)
    state = chain.initial
    for i in range(n):
        forward[i] = state * likelihood[i]
        forward[i] /= forward[i].sum()
        state = forward[i] @ chain.kernel
    place = np.empty((n_draws, n), dtype=int)
    place[:, -1] = pick(np.broadcast_to(forward[-1], (n_draws, len(chain.nodes))), rng)
    for i in range(n - 2, -1, -1):
        place[:, i] = pick(forward[i] * chain.kernel[:, place[:, i + 1]].T, rng)
    spacing = np.gradient(chain.nodes)
    drawn = chain.nodes[place] + (rng.random(place.shape) - 0.5) * spacing[place]
    return np.where(np.isnan(exact), drawn, exact)


def block_draws(
    law: Law, means: Float[ndarray, " block"], error: float, n_draws: int, rng: np.random.Generator
) -> Float[ndarray, "draw vertex"]:
    """Draw given means over blocks: the nodes are evenly spaced, so that sums are whole numbers of spacings."""
    chain = law.target.hidden_chain(BLOCK_CELLS)  # type: ignore[attr-defined]
    nodes = chain.nodes
    step = nodes[1] - nodes[0]
    assert np.allclose(np.diff(nodes), step)
    m, n = len(nodes), law.graph.n_vertices
    sums = BLOCK * (m - 1) + 1
    forwards = np.zeros((n, m, sums), dtype=np.float32)
    before = np.zeros((m, sums))
    for i in range(n):
        if i % BLOCK == 0:
            into = chain.initial if i == 0 else before.sum(axis=1) @ chain.kernel
            state = np.zeros((m, sums))
            state[np.arange(m), np.arange(m)] = into
        else:
            moved = chain.kernel.T @ before
            state = np.zeros((m, sums))
            for k in range(m):
                state[k, k:] = moved[k, : sums - k]
        if i % BLOCK == BLOCK - 1:
            mean = nodes[0] + step * np.arange(sums) / BLOCK
            log_likelihood = -0.5 * ((mean - means[i // BLOCK]) / error) ** 2
            state *= np.exp(log_likelihood - log_likelihood.max())
        before = state / state.sum()
        forwards[i] = before
    place, total = np.empty((n_draws, n), dtype=int), np.zeros(n_draws, dtype=int)
    for i in range(n - 1, -1, -1):
        if i % BLOCK == BLOCK - 1:  # the sum is free
            weight = forwards[i].reshape(-1)[None] * np.ones((n_draws, 1), dtype=np.float32)
            if i < n - 1:
                weight = (chain.kernel[:, place[:, i + 1]].T[:, :, None] * forwards[i]).reshape(n_draws, -1)
            place[:, i], total = np.divmod(pick(weight, rng), sums)
        else:
            here = forwards[i][:, total].T * chain.kernel[:, place[:, i + 1]].T
            place[:, i] = pick(here, rng)
        total = total - place[:, i]
    return nodes[place] + (rng.random(place.shape) - 0.5) * step


def checkerboard_draws(
    law: Law,
    value: Float[ndarray, " vertex"],
    error: float,
    n_draws: int,
    rng: np.random.Generator,
    n_sweeps: int = SWEEPS,
) -> Float[ndarray, "draw vertex"]:
    """Draw the double-well lattice given values, NaN where not observed, with an error or exact.

    Given its neighbours, a vertex is proposed from the normal law of the coupling and accepted by what the wells and
    the error say of it, the two colours of the checkerboard in turn.
    """
    target, adjacency = law.target, law.graph.adjacency.astype(np.float64)
    assert isinstance(target, DoubleWellLattice)
    seen = ~np.isnan(value)
    x = law.std * rng.standard_normal((len(value), n_draws))
    precision, aim = np.zeros((len(value), 1)), law.std * np.where(seen, value, 0.0)[:, None]
    free = ~seen | (error > 0)
    x[~free] = aim[~free]
    if error > 0:
        precision[seen] = 1 / (law.std * error) ** 2
    color = np.indices(target.shape).sum(axis=0).ravel() % 2
    halves = []
    for rows in (np.flatnonzero(free & (color == k)) for k in (0, 1)):
        degree = np.asarray(adjacency[rows].sum(axis=1)).reshape(-1, 1)
        halves.append((rows, adjacency[rows] / degree, 1 / np.sqrt(degree * target.J)))

    def energy(new: ndarray, rows: ndarray) -> ndarray:
        return target.h * (new**2 - 1) ** 2 + 0.5 * precision[rows] * (new - aim[rows]) ** 2

    for _ in range(n_sweeps):
        for rows, average, width in halves:
            old = x[rows]
            new = average @ x + width * rng.standard_normal(old.shape)
            taken = rng.standard_exponential(old.shape) > energy(new, rows) - energy(old, rows)
            x[rows] = np.where(taken, new, old)
    return np.where(free, x.T / law.std, value)


def pick(weight: Float[ndarray, "draw state"], rng: np.random.Generator) -> ndarray:
    """Draw a state for each row of weights."""
    mass = np.cumsum(weight, axis=1, dtype=np.float64)
    return np.minimum((mass < rng.random((len(mass), 1)) * mass[:, -1:]).sum(axis=1), weight.shape[1] - 1)
