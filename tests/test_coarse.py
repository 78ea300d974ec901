"""Corrections at larger scales, against exact laws."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import distance_transform_cdt, gaussian_filter

from nearfield import LocalizedDiffusion
from nearfield.datasets import GaussianMarkovField
from nearfield.evaluation.metric import gaussian_kl
from nearfield.fitting.closed_form import build_field
from nearfield.fitting.coarse import Scale, choose_correction, corrected
from nearfield.fitting.pooling import Pooling
from nearfield.graph import DependencyGraph
from nearfield.graph.coarsening import Coarsening, box_step, coarsen
from nearfield.samples import Samples

POINTS = np.random.default_rng(0).uniform(size=(60, 2))
GRAPHS = {
    "chain": DependencyGraph.chain(20),
    "ring": DependencyGraph.ring(20),
    "grid": DependencyGraph.grid((11, 8)),
    "masked": DependencyGraph.grid((9, 9)).subgraph(np.arange(81).reshape(9, 9) % 9 + np.arange(9)[:, None] > 5),
    "stations": DependencyGraph.knn(POINTS, 4),
    "places": DependencyGraph.knn(POINTS * [60.0, 300.0], 4, metric="haversine"),
    "edges": DependencyGraph.from_adjacency(DependencyGraph.knn(POINTS, 4).adjacency),
}


def waves(n_samples: int, slow: float, seed: int, shape: tuple[int, int] = (18, 18)) -> np.ndarray:
    """A field of short range and, from all its cells at once, a slow wave of variance ``slow``."""
    short = GaussianMarkovField.nonstationary(shape, kappa=(0.6, 0.6)).sample(n_samples, random_state=seed)
    x = np.linspace(0, 1, shape[1])
    wave = np.tile(np.cos(np.pi * x), (shape[0], 1)).reshape(1, -1, 1)
    return short + np.sqrt(2 * slow) * np.random.default_rng(seed + 1).normal(size=(n_samples, 1, 1)) * wave


@pytest.mark.parametrize("graph", GRAPHS.values(), ids=GRAPHS)
def test_blocks_are_few_neighbouring_vertices_and_blocks_of_neighbours_are_neighbours(graph):
    coarse = coarsen(graph)
    assert np.array_equal(np.unique(coarse.label), np.arange(coarse.graph.n_vertices))
    assert graph.n_vertices / 16 < coarse.graph.n_vertices < graph.n_vertices / 2
    start, end = (coarse.label[part] for part in graph.adjacency.tocoo().coords)
    near = coarse.graph.distance_matrix()[start, end]
    if graph.lattice is None:  # exactly where a vertex of one is a neighbour of a vertex of the other
        assert near.max() <= 1
        expected = len(np.unique(np.stack([start, end])[:, start != end], axis=1).T)
        assert coarse.graph.adjacency.nnz == expected
    else:
        assert near.max() <= 1


def test_means_are_means():
    coarse = coarsen(DependencyGraph.chain(7))
    x = np.random.default_rng(0).normal(size=(4, 7, 2))
    assert isinstance(coarse, Coarsening)
    np.testing.assert_allclose(coarse.means(x)[:, 0], x[:, :3].mean(axis=1))
    np.testing.assert_allclose(coarse.means(x)[:, 1], x[:, 3:].mean(axis=1))


def test_without_shrinkage_the_block_means_have_the_covariance_of_the_samples():
    graph = DependencyGraph.grid((18, 18))
    y = waves(200, 0.5, 1)
    field = build_field(Samples(y, graph, standard=(True,)), 1, Pooling(1.0)).field
    law = corrected(field, Samples(y, graph, standard=(True,)), Scale(6, shrinkage=0.0))
    blocks = coarsen(graph, 6)
    z = blocks.means(y).reshape(200, -1)
    mean = blocks.averages().toarray()
    np.testing.assert_allclose(mean @ law.covariance() @ mean.T, z.T @ z / 200, rtol=1e-8, atol=1e-12)


def test_means_over_few_cells_vary_as_they_do_under_the_field():
    """At coasts; with the scale of whole blocks, draws there have .90 of the variance."""
    sea = np.ones((24, 24), dtype=bool)
    sea[7:16, 10:20] = sea[:5, :5] = False
    graph = DependencyGraph.grid(sea.shape).subgraph(sea)
    rng = np.random.default_rng(0)
    x = gaussian_filter(rng.normal(size=(400, 40, 40)), (0, 1.5, 1.5), mode="wrap")[:, 8:-8, 8:-8][:, sea]
    samples = Samples((x / x.std())[..., None], graph)
    field = corrected(build_field(samples, 4, Pooling(1.0)).field, samples, Scale(3, 2, Pooling(1.0)))
    variance = np.zeros(sea.shape)
    variance[sea] = field.covariance().diagonal()
    coast = sea & (distance_transform_cdt(np.pad(sea, 1, constant_values=True), "taxicab")[1:-1, 1:-1] == 1)
    assert 0.96 < variance[coast].mean() / variance[sea & ~coast].mean() < 1.02


@pytest.mark.slow
def test_a_slow_wave_that_local_laws_lose_is_repaired():
    """The variance along the wave: without the correction the local field has .1 of it (seen by planting None)."""
    x = waves(200, 0.3, 3)
    model = LocalizedDiffusion(method="gaussian", random_state=0).fit(x.reshape(200, 18, 18))
    assert model.score_.coarse is not None
    assert "Corrected at larger scales" in model.fit_report_.reason
    wave = np.tile(np.cos(np.pi * np.linspace(0, 1, 18)), 18)
    scale = model.marginal_.scale.numpy().ravel()
    drawn = (wave * scale) @ model.score_.covariance() @ (wave * scale)
    assert 0.85 < drawn / ((x[..., 0] @ wave).var()) < 1.15
    assert 0.95 < np.diag(model.score_.covariance()).mean() < 1.05


def test_fields_that_are_right_stay_as_they_are():
    """Over four sets at most 1.05 times the divergence of the fields without a correction; the seeds are fixed."""
    truth, pooling = GaussianMarkovField.nonstationary((16, 16), kappa=(0.15, 0.75)), Pooling(1.0, 3.0)
    divergence = np.zeros(2)
    for seed in range(4):
        x = truth.sample(100, random_state=seed)
        y = x - x.mean(axis=0)
        field = build_field(Samples(y, truth.graph, standard=(True,)), 2, pooling).field
        law = corrected(
            field,
            Samples(y, truth.graph, standard=(True,)),
            choose_correction(
                Samples(y, truth.graph, standard=(True,)),
                field,
                lambda part: build_field(part, 2, pooling).field,
                pooling,
            ),
        )
        divergence += [gaussian_kl(truth.covariance(), f.covariance()) for f in (field, law)]
    assert divergence[1] < 1.05 * divergence[0]


def test_draws_that_are_not_like_the_data_are_a_reason_to_correct(monkeypatch):
    """Though the guard lets block means pass, which is made sure of here."""
    monkeypatch.setattr("nearfield.fitting.coarse.GUARD", np.inf)
    law = GaussianMarkovField.stationary((12, 12))
    y = law.sample(100, random_state=0)
    y = y - y.mean()
    field = build_field(Samples(y, law.graph, standard=(True,)), 2, Pooling(1.0)).field
    assert (
        choose_correction(
            Samples(y, law.graph, standard=(True,)),
            field,
            lambda part: build_field(part, 2, Pooling(1.0)).field,
            Pooling(1.0),
        )
        is None
    )
    scale = choose_correction(
        Samples(y, law.graph, standard=(True,)),
        field,
        lambda part: build_field(part, 2, Pooling(1.0)).field,
        Pooling(1.0),
        needed=True,
    )
    assert scale is not None
    mode = np.linalg.eigh(y[..., 0].T @ y[..., 0])[1][:, -1]
    data = np.mean((y[..., 0] @ mode) ** 2)
    before, after = (
        mode @ law.covariance() @ mode / data
        for law in (field, corrected(field, Samples(y, law.graph, standard=(True,)), scale))
    )
    assert 1.2 * before < after < 1.2


def test_one_law_is_carried_to_larger_lattices():
    """In the middle of the larger lattice neighbours have the covariances of the middle of the smaller one."""
    graph, onto = DependencyGraph.chain(60), DependencyGraph.chain(90)
    rng = np.random.default_rng(0)
    y = np.cumsum(rng.normal(size=(300, 100, 1)), axis=1)
    y = (y[:, 10:] - y[:, :-10])[:, :60] / np.sqrt(10)
    field = build_field(Samples(y, graph, standard=(True,)), 1, Pooling(1.0)).field
    law = corrected(field, Samples(y, graph, standard=(True,)), Scale(3, 2, Pooling(1.0)))
    larger = law.extended(graph, onto)
    assert larger.coarse is not None
    assert larger.coarse.law.n_vertices == 30
    small, large = law.covariance(), larger.covariance()
    np.testing.assert_allclose(large[36:42, 36:42], small[27:33, 27:33], atol=0.03)
    assert not np.allclose(field.extended(graph, onto).covariance()[36:42, 36:42], small[27:33, 27:33], atol=0.03)


def test_a_correction_that_cannot_be_carried_over_is_lost_with_a_warning():
    graph, onto = DependencyGraph.grid((12, 12)), DependencyGraph.grid((30, 30))
    y = np.random.default_rng(0).normal(size=(50, 144, 1))
    field = build_field(Samples(y, graph, standard=(True,)), 1, Pooling(1.0)).field
    law = corrected(field, Samples(y, graph, standard=(True,)), Scale(3, 6, Pooling(1.0)))
    with pytest.warns(UserWarning, match="drops the correction at larger scales: .* too few blocks of 3 cells"):
        assert law.extended(graph, onto).coarse is None


@pytest.mark.parametrize(("n_samples", "n", "pooling"), [(3, 20, Pooling(1.0)), (30, 2, Pooling(0.0))])
def test_too_few_samples_or_vertices_are_left_alone(n_samples, n, pooling):
    y, graph = np.random.default_rng(0).normal(size=(n_samples, n, 1)), DependencyGraph.chain(n)
    field = build_field(Samples(y, graph, standard=(True,)), 1, Pooling(1.0)).field
    assert (
        choose_correction(
            Samples(y, graph, standard=(True,)), field, lambda part: build_field(part, 1, pooling).field, pooling
        )
        is None
    )


@pytest.mark.parametrize(
    ("shape", "step"), [((30, 30), 3), ((100, 100), 3), ((110, 110), 4), ((300, 400), 17), ((900,), 3)]
)
def test_boxes_are_as_many_as_can_be_kept(shape, step):
    """At most 1200 of them, and of their covariances with the vertices 50 million."""
    graph = DependencyGraph.grid(shape)
    assert box_step(graph) == step
    blocks = coarsen(graph, step).graph.n_vertices
    assert blocks <= 1.05 * min(1200, 5e7 / graph.n_vertices)
