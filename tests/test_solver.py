"""Large systems of a field by conjugate gradients: exactness against dense algebra, and how many steps they take."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from nearfield.fitting.closed_form import build_field, whitening_factor
from nearfield.fitting.coarse import Scale, corrected
from nearfield.fitting.elimination import elimination_order, predecessors
from nearfield.fitting.matern import Matern
from nearfield.fitting.pooling import Pooling
from nearfield.fitting.regression import regress
from nearfield.graph import DependencyGraph
from nearfield.process import noise_scale, signal_scale, time_of
from nearfield.samples import Samples
from nearfield.score import solver
from nearfield.score.field import GaussianField
from nearfield.score.solver import conjugate_gradients
from nearfield.score.vecchia import MOST_CONDITIONAL, LocalLaws

SIGMAS = (0.05, 0.2, 0.5, 1.0, 2.0, 5.0, 20.0)
POOLED = Pooling(1.0)
STATIONS = DependencyGraph.knn(np.random.default_rng(0).uniform(size=(120, 2)), 5)
GRAPHS = {
    "grid": (DependencyGraph.grid((12, 11)), 1),
    "torus": (DependencyGraph.torus((9, 9)), 1),
    "two channels": (DependencyGraph.grid((8, 7)), 2),
    "masked": (DependencyGraph.grid((12, 12)).subgraph(np.arange(144) % 7 != 3), 1),
    "stations": (STATIONS, 1),
    "edges": (DependencyGraph.from_adjacency(STATIONS.adjacency), 2),
}


@pytest.fixture(autouse=True)
def everything_is_large(monkeypatch):
    monkeypatch.setattr(solver, "DIRECT_LIMIT", 0)


def smooth_samples(graph: DependencyGraph, channels: int, n: int = 60) -> np.ndarray:
    """Noise that is averaged over neighbours again and again, with channels mixed; unequal deviations."""
    rng = np.random.default_rng(1)
    x = rng.normal(size=(graph.n_vertices, n * channels))
    spread = graph.adjacency + sp.eye_array(graph.n_vertices)
    for _ in range(4):
        x = spread @ x / spread.sum(axis=1)[:, None]
    x = x.reshape(graph.n_vertices, n, channels).swapaxes(0, 1) @ (np.eye(channels) + 0.5)
    x += 1e-2 * x.std() * rng.normal(size=x.shape)  # averages over a whole component are equal
    return x / x.std() * rng.uniform(0.5, 2.0, (1, graph.n_vertices, channels))


def fields(name: str) -> list[GaussianField]:
    """One field as it is and one corrected at two larger scales."""
    graph, channels = GRAPHS[name]
    x = smooth_samples(graph, channels)
    samples = Samples(x, graph, standard=(True,) * channels)
    field = build_field(samples, 2, Pooling(0.5)).field
    return [field, corrected(field, samples, Scale(2, 1, Pooling(0.5), coarser=Scale(2, 1, Pooling(0.5))))]


@pytest.mark.parametrize("name", GRAPHS)
def test_denoiser_is_the_dense_one(name):
    for field in fields(name):
        covariance = field.covariance()
        x = np.random.default_rng(2).normal(size=(3, field.n_vertices, field.n_channels))
        for t in map(float, map(time_of, (1e-4, *SIGMAS, 80.0))):
            system = signal_scale(t) ** 2 * covariance + noise_scale(t) ** 2 * np.eye(len(covariance))
            expected = signal_scale(t) * np.linalg.solve(system, x.reshape(3, -1).T).T @ covariance
            found = field.denoise(torch.from_numpy(x), t).numpy()
            scale = np.abs(expected).max()
            np.testing.assert_allclose(found, expected.reshape(x.shape), rtol=1e-6, atol=1e-8 * scale)


@pytest.mark.parametrize("hidden", [0.3, 0.9])
@pytest.mark.parametrize("name", GRAPHS)
def test_conditional_mean_is_kriging(name, hidden):
    for field in fields(name):
        rng = np.random.default_rng(3)
        covariance, x = field.covariance(), rng.normal(size=(2, field.n_vertices, field.n_channels))
        seen = rng.uniform(size=len(covariance)) > hidden
        flat = x.reshape(2, -1)
        gain = np.linalg.solve(covariance[np.ix_(seen, seen)], covariance[np.ix_(seen, ~seen)])
        found = field.conditional(seen.reshape(x.shape[1:])).mean(x).reshape(2, -1)
        np.testing.assert_allclose(found[:, ~seen], flat[:, seen] @ gain, rtol=1e-6, atol=1e-7 * np.abs(x).max())


def test_no_samples_no_work():
    field = fields("grid")[0]
    assert field.denoise(torch.zeros(0, field.n_vertices, 1), 0.5).shape == (0, field.n_vertices, 1)
    assert not field.denoise(torch.zeros(2, field.n_vertices, 1), 0.5).any()


def test_a_member_does_not_depend_on_its_batch_beyond_the_tolerance():
    """Also next to a member that needs no step, one that is much larger, and more of them than go together."""
    field = fields("grid")[1]
    x = torch.randn(20, field.n_vertices, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x[1], x[2] = 0, 1e6 * x[2]
    together = field.denoise(x, 0.5)
    for i in (0, 2, 19):
        alone = field.denoise(x[i : i + 1], 0.5)[0]
        np.testing.assert_allclose(alone, together[i], rtol=0, atol=1e-9 * float(x[i].abs().max()))


def test_right_hand_sides_that_are_no_numbers_are_refused():
    with pytest.raises(ArithmeticError, match="did not converge"):
        conjugate_gradients(lambda x: x, lambda x: x, np.full((1, 3), np.nan))


def test_without_noise_the_local_law_is_the_field():
    field = fields("grid")[0]
    factor = field._local_laws.noised_factor(1e-9)
    np.testing.assert_allclose(
        (factor - field.factor.matrix).toarray(), 0, atol=1e-4 * np.abs(field.factor.matrix.data).max()
    )


def test_sets_are_capped_at_the_most_correlated():
    rng = np.random.default_rng(0)
    n = 90
    draws = np.cumsum(rng.normal(size=(n, 400)), axis=0).astype(np.float32)
    dense = sp.csr_array(np.tril(rng.normal(size=(n, n)), -1) + np.eye(n))
    missing = np.arange(0, n, 2)
    factor = LocalLaws(dense, draws).conditional_factor(sp.csr_array(np.ones((len(missing), n))), missing)
    assert np.array_equal(factor.toarray(), np.tril(factor.toarray()))
    assert (factor.diagonal() > 0).all()
    others = np.diff(factor.indptr) - 1
    assert others[40:].max() <= MOST_CONDITIONAL
    assert (np.abs(np.repeat(missing, others + 1) - missing[factor.indices]) < 45).mean() > 0.95  # near in the walk


def matern_field(length: int, radius: int, cells: float = 6.0) -> tuple[DependencyGraph, GaussianField]:
    """A Matern 5/2 field of unit variance on a square grid, regressed on the exact blocks."""
    graph = DependencyGraph.grid((length, length))
    order = elimination_order(graph)
    table = predecessors(graph, radius, order)
    place = np.stack(np.unravel_index(table.index, (length, length)), axis=2).astype(float)
    blocks = np.empty((graph.n_vertices, place.shape[1], place.shape[1]))
    for part in np.array_split(np.arange(graph.n_vertices), 50):
        blocks[part] = Matern(2.5, cells, 0.0).blocks(place[part])
    blocks[~(table.present[:, :, None] & table.present[:, None, :])] = 0.0
    every = np.arange(blocks.shape[1])
    blocks[:, every, every] = 1.0
    return graph, GaussianField(whitening_factor(regress(blocks, 1)[0], table, order), order, 1, radius)


def fitted(length: int, correction: Scale | None = None) -> GaussianField:
    """Fitted to 50 samples as the choice of the locality does it for them: radius 6, one law.

    Where there is a correction, one slow wave in them asks for it.
    """
    graph, truth = matern_field(length, 6)
    y = truth.sample(50, seed=1)
    if correction is not None:
        wave = np.tile(np.cos(np.pi * np.linspace(0, 1, length)), length)
        y += np.random.default_rng(2).normal(size=(50, 1, 1)) * np.sqrt(0.6) * wave[:, None]
    field = build_field(Samples(y, graph, standard=(True,)), 6, POOLED).field
    return corrected(field, Samples(y, graph, standard=(True,)), correction)


def assert_few_steps(field: GaussianField, monkeypatch, most: int = 40) -> None:
    """More steps than these raise an error."""
    monkeypatch.setattr(solver, "MOST_STEPS", most)
    rng = np.random.default_rng(0)
    clean = field.sample(2, seed=9)
    for sigma in SIGMAS:
        t = float(time_of(sigma))
        field.denoise(torch.from_numpy(signal_scale(t) * (clean + sigma * rng.normal(size=clean.shape))), t)


CHAIN = Scale(3, 4, POOLED, coarser=Scale(3, 3, POOLED, coarser=Scale(3, shrinkage=0.2)))


@pytest.mark.slow
@pytest.mark.parametrize("which", ["exact blocks", "fitted", "corrected"])
def test_steps_are_few(which, monkeypatch):
    """At most 24, 25 and 26 steps; 30 for the corrected field without its block means in the preconditioner."""
    if which == "exact blocks":
        assert_few_steps(matern_field(48, 6)[1], monkeypatch, 28)
    else:
        assert_few_steps(fitted(48, CHAIN if which == "corrected" else None), monkeypatch, 28)


@pytest.mark.slow
@pytest.mark.parametrize("which", ["exact blocks", "fitted", "corrected"])
def test_steps_are_few_on_large_grids(which, monkeypatch):
    chain = Scale(4, 4, POOLED, coarser=Scale(3, 3, POOLED, coarser=Scale(3, 3, POOLED)))
    if which == "exact blocks":
        assert_few_steps(matern_field(128, 6)[1], monkeypatch)
    else:
        assert_few_steps(fitted(128, chain if which == "corrected" else None), monkeypatch)


@pytest.mark.parametrize(("side", "most"), [("random", 30), ("left", 60), ("top", 80), ("bottom", 20)])
def test_steps_of_conditional_laws_are_few(side, most, monkeypatch):
    """With a diagonal preconditioner more than 1500 where a half is hidden."""
    field = matern_field(48, 4)[1]
    cell = np.arange(48 * 48)
    hidden = {
        "random": np.random.default_rng(0).uniform(size=48 * 48) < 0.3,
        "left": cell % 48 < 24,
        "top": cell < 48 * 24,
        "bottom": cell >= 48 * 24,
    }[side]
    monkeypatch.setattr(solver, "MOST_STEPS", most)
    field.conditional(~hidden[:, None]).mean(field.sample(2, seed=9))
