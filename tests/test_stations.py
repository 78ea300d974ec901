"""Points in space: their order, their windows, the law their blocks are shrunk towards, and the field that results."""

import math

import numpy as np
import pytest
from scipy.special import gamma, kv

from nearfield import LocalizedDiffusion, Pooling
from nearfield.evaluation.metric import gaussian_kl
from nearfield.fitting.closed_form import fit_field
from nearfield.fitting.covariance import isolate, local_blocks
from nearfield.fitting.cross_validation import candidate_radii, patches
from nearfield.fitting.elimination import elimination_order, predecessors
from nearfield.fitting.matern import SMOOTHNESS, TWIN, Matern, fit_matern, own_share, shrunk_blocks
from nearfield.fitting.maximin import nearest_earlier, neighbour_count
from nearfield.fitting.selection import select_field
from nearfield.graph import DependencyGraph
from nearfield.graph.order import halving_order, maximin_order
from nearfield.samples import Samples


def points(n: int, seed: int = 0, axes: int = 2) -> np.ndarray:
    return np.random.default_rng(seed).uniform(size=(n, axes))


def places(n: int) -> np.ndarray:
    """Latitudes and longitudes, evenly over the sphere."""
    z, angle = np.random.default_rng(1).uniform(-1, 1, size=(2, n))
    return np.stack([np.degrees(np.arcsin(z)), 180 * angle], axis=1)


def apart(p: np.ndarray, q: np.ndarray | None = None) -> np.ndarray:
    return np.linalg.norm(p[:, None] - (p if q is None else q)[None], axis=-1)


def angles(p: np.ndarray) -> np.ndarray:
    """Great circle distances by the law of cosines."""
    lat, lon = np.radians(p).T
    cosine = np.sin(lat) * np.sin(lat[:, None]) + np.cos(lat) * np.cos(lat[:, None]) * np.cos(lon - lon[:, None])
    return np.where(np.eye(len(p), dtype=bool), 0.0, np.arccos(np.clip(cosine, -1, 1)))


def draw(covariance: np.ndarray, n_samples: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n_samples, len(covariance))) @ np.linalg.cholesky(covariance).T


def divergence(model: LocalizedDiffusion, truth: np.ndarray) -> float:
    """KL per dimension from a truth of mean 0 to what a model generates, its mean included."""
    center, scale = model.marginal_.center.numpy().ravel(), model.marginal_.scale.numpy().ravel()
    covariance = scale[:, None] * model.score_.covariance() * scale
    return (gaussian_kl(truth, covariance) + center @ np.linalg.solve(covariance, center) / 2) / len(truth)


TWO_TOWNS = np.concatenate([points(9), points(8, 1) + 40])
GRAPHS = {
    "plane": DependencyGraph.knn(points(70), 4),
    "space": DependencyGraph.knn(points(60, 2, 3), 5),
    "line": DependencyGraph.knn(points(50, 3, 1), 2),
    "globe": DependencyGraph.knn(places(60), 5, metric="haversine"),
    "two towns": DependencyGraph.within(TWO_TOWNS, 0.6),
}
every_graph = pytest.mark.parametrize("graph", GRAPHS.values(), ids=GRAPHS)


def distances(graph: DependencyGraph) -> np.ndarray:
    return angles(graph.coordinates) if graph.metric == "haversine" else apart(graph.coordinates)


@every_graph
def test_each_point_of_the_order_is_the_farthest_from_all_before(graph):
    order, away = elimination_order(graph), distances(graph)
    np.testing.assert_array_equal(np.sort(order), np.arange(len(graph)))
    for place in range(1, len(order)):
        reach = away[:, order[:place]].min(axis=1)
        assert reach[order[place]] >= reach.max() * (1 - 1e-6)


def test_the_order_begins_in_the_middle_and_ties_go_to_the_lower_number():
    lattice = np.stack(np.meshgrid(np.arange(5.0), np.arange(5.0), indexing="ij"), axis=-1).reshape(-1, 2)
    assert maximin_order(lattice)[:9].tolist() == [12, 0, 4, 20, 24, 2, 10, 14, 22]
    np.testing.assert_array_equal(maximin_order(lattice / 3), maximin_order(lattice))


@pytest.mark.parametrize("axes", [1, 2, 3])
def test_the_coarse_order_has_one_point_in_each_cell_before_cells_are_halved(axes):
    p = np.concatenate([points(300, 4, axes), points(9, 4, axes)])  # nine of them twice
    order = halving_order(p)
    np.testing.assert_array_equal(np.sort(order), np.arange(len(p)))
    unit = (p - p.min(axis=0)) / np.ptp(p, axis=0).max()
    for level in range(7):
        cells = np.minimum(np.floor(unit * 2**level), 2**level - 1)
        occupied = np.unique(cells, axis=0)
        np.testing.assert_array_equal(np.unique(cells[order[: len(occupied)]], axis=0), occupied)


@every_graph
@pytest.mark.parametrize("count", [0, 1, 6, 200])
def test_neighbours_are_the_nearest_earlier_points_that_a_path_joins(graph, count):
    order, away = elimination_order(graph), distances(graph)
    joined, place = np.isfinite(graph.distance_matrix()), np.argsort(order)
    table = nearest_earlier(graph, count, order)
    for v in range(len(graph)):
        earlier = np.flatnonzero(joined[v] & (place < place[v]))
        nearest = earlier[np.argsort(away[v, earlier])][:count]
        assert table.index[v, table.present[v]].tolist() == [v, *nearest]
        assert (table.index[v, ~table.present[v]] == v).all()
    assert table.present.any(axis=0).all()
    assert (np.diff(table.present.astype(int), axis=1) <= 0).all()


@every_graph
@pytest.mark.parametrize("radius", [0, 1, 2, 99])
def test_a_radius_is_the_mean_number_of_vertices_within_it(graph, radius):
    mean = (graph.distance_matrix() <= radius).sum(axis=1).mean() - 1
    count = neighbour_count(graph, radius)
    assert abs(count - mean) <= 0.5
    table = predecessors(graph, radius)
    assert table.present.sum(axis=1).max() == 1 + min(count, np.bincount(graph._components).max() - 1)
    assert (table.hops == np.where(table.present, radius * (table.index != table.index[:, :1]), -1)).all()


def test_a_large_set_of_points_is_represented_by_patches_far_apart():
    graph = DependencyGraph.knn(points(3000), 8)
    keep = patches(graph, limit=120)
    assert keep.sum() == 120
    assert graph.subgraph(keep).n_components == 4
    assert candidate_radii(graph) == (0, 1, 2, 3)


@pytest.mark.parametrize("smoothness", SMOOTHNESS)
def test_the_correlation_is_matern_s(smoothness):
    h = np.linspace(0.01, 4, 50)
    z = math.sqrt(2 * smoothness) * h / 0.7
    expected = 2 ** (1 - smoothness) / gamma(smoothness) * z**smoothness * kv(smoothness, z)
    np.testing.assert_allclose(Matern(smoothness, 0.7, 0.0)(h), expected, rtol=1e-12)
    np.testing.assert_allclose(Matern(smoothness, 0.7, 0.3)(h), 0.7 * expected, rtol=1e-12)
    assert Matern(smoothness, 0.7, 0.3)(np.zeros(1))[0] == 0.7  # two points at one place
    block = Matern(smoothness, 0.7, 0.3).blocks(points(8)[None])[0]
    np.testing.assert_allclose(block, Matern(smoothness, 0.7, 0.3)(apart(points(8))) + 0.3 * np.eye(8), rtol=1e-12)


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("smoothness", SMOOTHNESS)
def test_the_law_is_found_again(smoothness, channels):
    """3000 samples of 120 points; the error of a length is about 1 %. Vertices and channels have units of their own."""
    p, unit = points(120), np.random.default_rng(5).uniform(0.1, 9, size=(120, channels))
    truth = Matern(smoothness, 0.2, 0.1)
    x = np.stack([draw(truth.blocks(p[None])[0], 3000, seed) for seed in range(channels)], axis=2)
    x[..., 1:] += x[..., :-1]
    found = fit_matern(Samples(5 + x * unit, DependencyGraph.knn(p, 6)))
    assert found.smoothness == smoothness
    assert found.length == pytest.approx(0.2, rel=0.06)
    assert found.nugget == pytest.approx(0.1, abs=0.02)


def test_no_law_for_other_graphs():
    x = np.random.default_rng(0).normal(size=(9, 4, 1))
    assert fit_matern(Samples(x, DependencyGraph.chain(4))) is None
    assert fit_matern(Samples(x, DependencyGraph.from_edges(4, [(0, 1), (2, 3)]))) is None


def test_blocks_are_shrunk_towards_the_law_and_near_twins_more():
    p = np.concatenate([points(40), points(40)[:1] + 1e-4])
    graph, law, n = DependencyGraph.knn(p, 5), Matern(0.5, 0.5, 1e-6), 30
    y = np.random.default_rng(0).normal(size=(n, 41, 2)) @ np.array([[1.0, 0.5], [0.0, 1.0]])
    table = predecessors(graph, 1)
    own = local_blocks(y, table.index)
    between = np.einsum("svc,svd->cd", y, y) / (n * 41)
    kept = own_share(table, graph, law, 0.4, n)
    found = isolate(shrunk_blocks(own, table.index, graph, law, kept, between), table.present)
    left = np.empty(41)
    for v in range(41):
        here = table.index[v, table.present[v]]
        whole = law.blocks(p[None, here])[0][:9, :9]
        left[v] = 1 / np.linalg.inv(whole)[0, 0]
    share = 0.6 * np.sqrt(np.minimum(1, left * max(n / 4, 1 / (TWIN * np.median(left)))))
    twin = elimination_order(graph)[-1]
    assert twin in (0, 40)
    assert share[twin] < 0.1
    assert (share == 0.6).sum() > 35
    for v in range(41):
        members = 2 * table.present[v].sum()
        target = np.kron(law.blocks(p[None, table.index[v, table.present[v]]])[0], between)
        expected = (1 - share[v]) * target + share[v] * own[v, :members, :members]
        np.testing.assert_allclose(found[v, :members, :members], expected, rtol=1e-9, atol=1e-9)
        np.testing.assert_array_equal(found[v, members:, members:], np.eye(len(found[v]) - members))


@every_graph
def test_held_out_loss_is_the_log_density_of_the_field_fitted_to_the_rest(graph):
    x = np.random.default_rng(0).normal(size=(12, len(graph), 2))
    report = select_field(Samples(x, graph, ordered=True), radius=1, pooling=Pooling(0.4), folds=3)
    losses = []
    for test in np.split(np.arange(12), 3):
        center, scale, field = fit_field(Samples(np.delete(x, test, axis=0), graph), 1, Pooling(0.4))
        losses.append(np.log(scale).mean() - field.log_prob((x[test] - center) / scale) / (2 * len(graph)))
    assert report.choice.loss == pytest.approx(np.mean(losses), rel=1e-10)


def test_only_one_bandwidth_is_tried():
    x = np.random.default_rng(0).normal(size=(12, 50, 1))
    assert {c.bandwidth for c in select_field(Samples(x, GRAPHS["line"])).table} == {math.inf}


@pytest.mark.parametrize("name", ["plane", "globe"])
def test_a_field_that_reads_everything_has_the_empirical_covariance(name):
    graph = GRAPHS[name]
    x = draw(np.exp(-3 * distances(graph)) + 1e-9 * np.eye(len(graph)), 200)
    _, scale, field = fit_field(Samples(x[..., None], graph), 99, Pooling(0.0))
    covariance = scale * field.covariance() * scale[:, 0]
    np.testing.assert_allclose(covariance, np.cov(x.T, bias=True), rtol=1e-6, atol=1e-8)


def test_towns_that_nothing_joins_are_independent():
    graph = GRAPHS["two towns"]
    field = fit_field(Samples(np.random.default_rng(0).normal(size=(30, 17, 1)), graph), 2, Pooling(0.5))[2]
    assert (field.covariance()[:9, 9:] == 0).all()


def test_the_field_does_not_hang_on_the_numbers_of_the_vertices_or_on_the_date_line():
    p, x = places(40), np.random.default_rng(0).normal(size=(30, 40, 1))

    def covariance(where: np.ndarray, values: np.ndarray) -> np.ndarray:
        return fit_field(Samples(values, DependencyGraph.knn(where, 5, metric="haversine")), 1, Pooling(0.4))[
            2
        ].covariance()

    expected, shuffle = covariance(p, x), np.random.default_rng(2).permutation(40)
    turned = np.stack([p[:, 0], (p[:, 1] + 360) % 360], axis=1)
    np.testing.assert_allclose(covariance(turned, x), expected, rtol=1e-4, atol=1e-5)
    found = covariance(p[shuffle], x[:, shuffle])
    np.testing.assert_allclose(found, expected[np.ix_(shuffle, shuffle)], rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(("n_samples", "most"), [(50, 0.004), (400, 0.001)])
def test_the_generated_law_of_stations(n_samples, most):
    """Exponential truth of length .3 on 200 points: .0727 and .0193 with windows of hops, pooled by rank."""
    p = points(200)
    truth = np.exp(-apart(p) / 0.3)
    model = LocalizedDiffusion(method="gaussian", graph=DependencyGraph.knn(p, 8), random_state=0)
    assert divergence(model.fit(draw(truth, n_samples)), truth) <= most


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:draws differ from:UserWarning")
def test_a_law_that_is_not_isotropic_is_not_forced_to_be():
    """Lengths .1 and 1 along the axes: .0355 with windows of hops, .245 with one isotropic law for all."""
    p = points(150)
    truth = np.exp(-apart(p * [10, 1]))
    x, graph = draw(truth, 400), DependencyGraph.knn(p, 8)
    chosen = LocalizedDiffusion(method="gaussian", graph=graph, random_state=0).fit(x)
    forced = LocalizedDiffusion(method="gaussian", graph=graph, pooling=1.0, random_state=0).fit(x)
    assert chosen.pooling_.strength <= 0.5
    assert divergence(chosen, truth) < 0.039 < 0.2 < divergence(forced, truth)


@pytest.mark.slow
@pytest.mark.parametrize("pooling", ["auto", 0.5])
@pytest.mark.parametrize("disagreement", [0.5, 2.0])
def test_twins_that_disagree_move_their_neighbours_about_as_much_as_they_should(pooling, disagreement):
    """Two gauges at one place agreed in all samples; neighbours are filled as by the exact law, to a factor of 3."""
    p = np.random.default_rng(67).uniform(0, 10, (40, 2))
    p = np.vstack([p, p[:1] + 1e-3])
    truth = np.exp(-apart(p) / 2) + 1e-10 * np.eye(41)
    x, near = draw(truth, 200, seed=68), np.argsort(apart(p)[0])[2:7]
    seen = np.setdiff1d(np.arange(41), near)
    gain = truth[np.ix_(near, seen)] @ np.linalg.inv(truth[np.ix_(seen, seen)])
    model = LocalizedDiffusion(method="gaussian", graph=DependencyGraph.knn(p, 6), pooling=pooling, random_state=0)
    before = x[:1].copy()
    before[0, near] = np.nan
    after = before.copy()
    after[0, 40] += disagreement
    means = [model.fit(x).impute(y, n_samples=50, random_state=0).mean(axis=0)[0, near] for y in (before, after)]
    assert np.abs(means[1] - means[0]).max() < 3 * np.abs(gain[:, -1] * disagreement).max() + 0.3
