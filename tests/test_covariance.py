"""Local covariance blocks, their pooling and their order, against dense moments and double loops."""

from __future__ import annotations

import math

import numpy as np
import pytest

from nearfield.fitting import covariance as module
from nearfield.fitting.covariance import isolate, local_blocks, location_and_scale
from nearfield.fitting.elimination import elimination_order, predecessors, recurrent
from nearfield.fitting.pooling import Pooling, kernel, smoother
from nearfield.fitting.regression import Shrinkage
from nearfield.graph import DependencyGraph
from nearfield.graph.order import scattered
from nearfield.samples import Samples


def sea() -> DependencyGraph:
    """A grid with an island and a bay, so that ways around land are longer than offsets."""
    keep = np.ones((5, 6), dtype=bool)
    keep[1:4, 2] = keep[2, 4] = keep[4, 5] = False
    return DependencyGraph.grid((5, 6)).subgraph(keep)


def random_tree(n: int, seed: int) -> DependencyGraph:
    rng = np.random.default_rng(seed)
    name = rng.permutation(n)
    return DependencyGraph.from_edges(n, [(name[i], name[rng.integers(i)]) for i in range(1, n)])


GRAPHS = {
    "one vertex": DependencyGraph.chain(1),
    "chain": DependencyGraph.chain(7),
    "ring": DependencyGraph.ring(8),
    "grid": DependencyGraph.grid((4, 5)),
    "torus": DependencyGraph.torus((4, 5)),
    "closing latlon": DependencyGraph.latlon([-30.0, 0.0, 30.0], np.arange(0.0, 360.0, 60.0)),
    "sea": sea(),
    "knn": DependencyGraph.knn(np.random.default_rng(0).uniform(size=(30, 2)), 3),
    "tree": random_tree(20, 1),
    "stations by days": DependencyGraph.from_edges(4, [(0, 1), (1, 2), (1, 3)]).product(DependencyGraph.chain(4)),
    "grid as edges": DependencyGraph.from_adjacency(DependencyGraph.grid((4, 5)).adjacency),
    "disconnected": DependencyGraph.from_edges(6, [(0, 3), (3, 5), (1, 4)]),
}
POOLINGS = [Pooling(1.0), Pooling(0.3), Pooling(1.0, 0.6), Pooling(0.7, 1.5), Pooling(0.0)]
every_graph = pytest.mark.parametrize("graph", GRAPHS.values(), ids=GRAPHS)
every_pooling = pytest.mark.parametrize("pooling", POOLINGS, ids=str)


def generic(graph: DependencyGraph, n_samples: int = 5, channels: int = 2) -> np.ndarray:
    """Data without symmetry: every vertex and channel has its own mean, scale and correlations."""
    rng = np.random.default_rng(graph.n_vertices)
    d = graph.n_vertices * channels
    x = rng.normal(size=(n_samples, d)) @ rng.normal(size=(d, d)) + rng.normal(size=d)
    return x.reshape(n_samples, graph.n_vertices, channels)


def squared_distances(graph: DependencyGraph) -> np.ndarray:
    """Of cells on lattices, the short way round where periodic; of hops elsewhere."""
    if graph.lattice is None:
        return graph.distance_matrix() ** 2
    keep = np.ones(graph.lattice.shape, dtype=bool) if graph.keep is None else graph.keep
    gap = np.abs(np.argwhere(keep)[:, None] - np.argwhere(keep)[None])
    around = np.where(graph.lattice.periodic, np.array(graph.lattice.shape) - gap, gap)
    return (np.minimum(gap, around) ** 2).sum(axis=2)


def weights(graph: DependencyGraph, bandwidth: float) -> np.ndarray:
    """Dense pooling weights, before normalisation."""
    if math.isinf(bandwidth):
        return np.ones((graph.n_vertices, graph.n_vertices))
    near = graph.distance_matrix() <= max(1, math.ceil(3 * bandwidth))
    return np.where(near, np.exp(-squared_distances(graph) / (2 * bandwidth**2)), 0.0)


def pooled_by_loops(y: np.ndarray, table, radius: int, graph: DependencyGraph, pooling: Pooling) -> np.ndarray:
    """The definition, one vertex at a time: ``has[v]`` are the columns whose moments vertex v can lend."""
    index, has, channels = table.index, table.present, y.shape[2]
    n, width = index.shape
    if table.offsets is not None:  # a whole neighbourhood lends, later neighbours included
        around = graph.neighborhood(radius)
        has = around.present[:, [around.offsets.tolist().index(o) for o in table.offsets.tolist()]]
    shift = index - index[:, :1] if table.offsets is None and recurrent(graph) else np.zeros_like(index)
    weight = weights(graph, pooling.bandwidth)
    out = np.empty((n, width * channels, width * channels))
    for j, needed in enumerate(table.present):
        total, mass = 0.0, 0.0
        for v in range(n):
            if all(has[v][needed]) and all((shift[v] == shift[j])[needed]):
                window = y[:, index[v]].reshape(len(y), -1)
                total, mass = total + weight[j, v] * window.T @ window / len(y), mass + weight[j, v]
        window = y[:, index[j]].reshape(len(y), -1)
        block = (1 - pooling.strength) * window.T @ window / len(y) + pooling.strength * total / mass
        absent = np.repeat(~needed, channels)
        block[absent] = block[:, absent] = 0.0
        block[absent, absent] = 1.0
        out[j] = block
    return out


@every_graph
def test_blocks_are_entries_of_the_dense_uncentred_moment(graph, monkeypatch):
    y = generic(graph)
    second = np.einsum("svc,swd->vcwd", y, y) / len(y)
    index = graph.neighborhood(2).index
    direct = np.stack([second[np.ix_(row, [0, 1], row, [0, 1])].reshape(2 * len(row), -1) for row in index])
    np.testing.assert_allclose(local_blocks(y, index), direct, rtol=1e-13, atol=1e-13)
    monkeypatch.setattr(module, "_CHUNK", 1)  # one window at a time
    np.testing.assert_allclose(local_blocks(y, index), direct, rtol=1e-13, atol=1e-13)


@every_graph
@every_pooling
def test_pooled_windows_are_averages_over_vertices_that_have_all_members(graph, pooling):
    y, table = generic(graph), graph.neighborhood(1)
    found = Shrinkage(graph, table, pooling, 1).whole(local_blocks(y, table.index))
    expected = pooled_by_loops(y, table, 1, graph, pooling)
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)
    assert np.linalg.eigvalsh(found).min() >= -1e-12 * found.max()


@every_graph
@every_pooling
def test_pooled_predecessors_are_positive_and_match_the_loops(graph, pooling):
    y, table = generic(graph), predecessors(graph, 2)
    found = Shrinkage(graph, table, pooling, 1).whole(local_blocks(y, table.index))
    expected = pooled_by_loops(y, table, 2, graph, pooling)
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)
    assert np.linalg.eigvalsh(found).min() >= -1e-12 * found.max()


def test_full_pooling_on_a_chain_is_the_average_along_diagonals():
    """Columns are self, left, right: an end is lent by all that have its one neighbour, the middle by the middle."""
    s = np.arange(16.0).reshape(4, 4)
    s = s + s.T + 40 * np.eye(4)
    y = np.linalg.cholesky(s).T[:, :, None] * 2.0  # four samples whose second moment is s
    graph = DependencyGraph.chain(4)
    table = graph.neighborhood(1)
    assert table.offsets[:, 0].tolist() == [0, -1, 1]
    block = Shrinkage(graph, table, Pooling(1.0), 1).whole(local_blocks(y, table.index))
    left = [[(s[0, 0] + s[1, 1] + s[2, 2]) / 3, 0, (s[0, 1] + s[1, 2] + s[2, 3]) / 3], [0, 1, 0]]
    np.testing.assert_allclose(block[0, :2], left, rtol=1e-13)
    np.testing.assert_allclose(block[0, 2, 2], (s[1, 1] + s[2, 2] + s[3, 3]) / 3, rtol=1e-13)
    for j in (1, 2):
        triples = [s[np.ix_([i, i - 1, i + 1], [i, i - 1, i + 1])] for i in (1, 2)]
        np.testing.assert_allclose(block[j], np.mean(triples, axis=0), rtol=1e-13)


@every_graph
def test_full_pooling_of_predecessors_on_lattices_is_stationary(graph):
    """Vertices with the same set of members share one law."""
    table = predecessors(graph, 2)
    block = Shrinkage(graph, table, Pooling(1.0), 1).whole(local_blocks(generic(graph), table.index))
    for v in range(graph.n_vertices):
        same = (table.present == table.present[v]).all(axis=1)
        if table.offsets is None and recurrent(graph):
            shift = np.where(table.present, table.index - table.index[:, :1], 0)
            same &= (shift == shift[v]).all(axis=1)
        np.testing.assert_array_equal(block[same], np.broadcast_to(block[v], block[same].shape))


@pytest.mark.parametrize("pooling", [Pooling(1.0), Pooling(1.0, 3.0)], ids=str)
def test_the_seam_of_a_ring_borrows_as_much_as_the_rest(pooling):
    """The last vertices alone have earlier neighbours on both sides; their blocks are those of every window."""
    graph, y = DependencyGraph.ring(12), generic(DependencyGraph.ring(12))
    seam, window = predecessors(graph, 2), graph.neighborhood(2)
    assert seam.offsets.tolist() == window.offsets.tolist()
    block = Shrinkage(graph, seam, pooling, 1).whole(local_blocks(y, seam.index))
    around = Shrinkage(graph, window, pooling, 1).whole(local_blocks(y, window.index))
    assert seam.present[-1].all()
    np.testing.assert_allclose(block[-1], around[-1], rtol=1e-13)
    assert np.linalg.matrix_rank(block[-1]) == 10


@pytest.mark.parametrize("days_first", [True, False])
def test_yesterday_is_never_averaged_with_the_next_station(days_first):
    """Full pooling gives each station's own law, the first days' included."""
    rng, days = np.random.default_rng(0), 9
    stations = DependencyGraph.from_edges(5, [(0, 1), (1, 2), (1, 3), (0, 4)])
    law = np.corrcoef(rng.normal(size=(5, 8)))  # of unit variances: windows of one station alone are all alike
    law = np.kron(law, 0.5 ** np.abs(np.subtract.outer(np.arange(days), np.arange(days))))
    y = np.linalg.cholesky(law).T[:, :, None] * math.sqrt(len(law))  # samples of exactly this covariance
    graph = stations.product(DependencyGraph.chain(days))
    if days_first:
        graph = DependencyGraph.chain(days).product(stations)
        y = y.reshape(-1, 5, days).swapaxes(1, 2).reshape(len(law), -1, 1)
    table = predecessors(graph, 2)
    block = Shrinkage(graph, table, Pooling(1.0), len(y)).whole(local_blocks(y, table.index))
    np.testing.assert_allclose(block, isolate(local_blocks(y, table.index), table.present), atol=1e-12)
    assert (smoother(graph, math.inf, table).n_contributors > 1).mean() > 0.9


def test_isolated_members_leave_the_rest_alone():
    block = np.arange(16.0).reshape(1, 4, 4)
    alone = isolate(block, np.array([[True, False]]))
    np.testing.assert_array_equal(alone[0], [[0, 1, 0, 0], [4, 5, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])


@every_graph
@pytest.mark.parametrize("bandwidth", [0.4, 1.0, 2.5, math.inf])
def test_smoother_of_vertices_is_the_weighted_mean(graph, bandwidth):
    values = generic(graph)[0]
    weight = weights(graph, bandwidth)
    expected = weight @ values / weight.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(smoother(graph, bandwidth)(values), expected, rtol=1e-12, atol=1e-12)


def test_kernel_is_one_at_the_vertex_and_falls_by_the_bandwidth():
    index, weight = kernel(DependencyGraph.chain(9), 2.0)
    there = dict(zip(index[4][weight[4] > 0].tolist(), weight[4][weight[4] > 0].tolist(), strict=True))
    assert there[4] == pytest.approx(1.0)
    assert there[6] == pytest.approx(math.exp(-0.5))


@every_graph
def test_location_and_scale_without_pooling_are_the_vertex_s_own(graph):
    x = generic(graph)
    center, scale = location_and_scale(Samples(x, graph), Pooling(0.0, 2.0))
    np.testing.assert_allclose(center, x.mean(axis=0), rtol=1e-13)
    np.testing.assert_allclose(scale, x.std(axis=0), rtol=1e-13)


@every_graph
def test_full_pooling_is_one_mean_and_scale_per_channel(graph):
    """The maximum likelihood fit of one normal law per channel to all values of all vertices."""
    x = generic(graph)
    center, scale = location_and_scale(Samples(x, graph), Pooling(1.0))
    np.testing.assert_allclose(center, np.broadcast_to(x.mean(axis=(0, 1)), center.shape), rtol=1e-12)
    np.testing.assert_allclose(scale, np.broadcast_to(x.std(axis=(0, 1)), scale.shape), rtol=1e-12)


@every_graph
@pytest.mark.parametrize("pooling", [Pooling(0.25), Pooling(0.6, 1.3)], ids=str)
def test_partial_pooling_of_location_and_scale_by_hand(graph, pooling):
    x = generic(graph)
    w = weights(graph, pooling.bandwidth)
    mix = (1 - pooling.strength) * np.eye(len(w)) + pooling.strength * w / w.sum(axis=1, keepdims=True)
    center, scale = location_and_scale(Samples(x, graph), pooling)
    np.testing.assert_allclose(center, mix @ x.mean(axis=0), rtol=1e-12, atol=1e-12)
    about = ((x - mix @ x.mean(axis=0)) ** 2).mean(axis=0)
    np.testing.assert_allclose(scale, np.sqrt(mix @ about), rtol=1e-12)


def test_data_taken_as_they_are_have_location_0_and_scale_1():
    center, scale = location_and_scale(
        Samples(generic(GRAPHS["grid"]), GRAPHS["grid"], standard=(True, True)), Pooling(0.5)
    )
    assert not center.any()
    assert (scale == 1).all()


@pytest.mark.parametrize("name", [name for name, graph in GRAPHS.items() if not scattered(graph)])
@pytest.mark.parametrize("radius", [0, 1, 2, 9])
def test_predecessors_are_the_earlier_vertices_within_reach(name, radius):
    """Of points in space: test_stations."""
    graph = GRAPHS[name]
    order = elimination_order(graph)
    np.testing.assert_array_equal(np.sort(order), np.arange(graph.n_vertices))
    place = np.argsort(order)
    near = graph.distance_matrix() <= radius
    table = predecessors(graph, radius)
    for v in range(graph.n_vertices):
        members = table.index[v, table.present[v]].tolist()
        assert members[0] == v
        assert sorted(members) == np.flatnonzero(near[v] & (place <= place[v])).tolist()
    assert table.present.any(axis=0).all()
    if table.offsets is None and not recurrent(graph):  # ranked: no gaps, nearest first
        assert (np.diff(table.present.astype(int), axis=1) <= 0).all()
        assert all((np.diff(h[p]) >= 0).all() for h, p in zip(table.hops, table.present, strict=True))


@pytest.mark.parametrize("seed", range(5))
def test_the_order_of_a_tree_is_a_perfect_elimination(seed):
    """Each vertex has one earlier neighbour, its parent; the first has none."""
    tree = random_tree(40, seed)
    earlier = predecessors(tree, 1).present.sum(axis=1) - 1
    assert sorted(earlier.tolist()) == [0] + [1] * 39


@pytest.mark.parametrize(("strength", "bandwidth", "rule"), [(-0.1, 1.0, "strength"), (1.1, 1.0, "strength"),
                                                             (math.nan, 1.0, "strength"), (0.5, 0.0, "bandwidth"),
                                                             (0.5, math.nan, "bandwidth")])  # fmt: skip
def test_pooling_refuses_what_is_out_of_range(strength, bandwidth, rule):
    with pytest.raises(ValueError, match=rule):
        Pooling(strength, bandwidth)


@pytest.mark.parametrize(
    "graph",
    [
        DependencyGraph.chain(12),
        DependencyGraph.grid((5, 6), periodic=(True, False), diagonal=True),
        DependencyGraph.grid((4, 5)).subgraph((np.arange(20) % 5 != 2) | (np.arange(20) > 14)),  # around a wall
    ],
    ids=repr,
)
def test_windows_are_the_same_as_part_of_wider_ones(graph):
    """Also where missing cells are in the way, and where a later vertex lends what it has."""
    predecessors(graph, 4)
    for radius in range(4):
        found, expected = predecessors(graph, radius), predecessors(graph, radius, elimination_order(graph))
        for name in ("index", "present", "hops", "offsets"):
            np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
            assert getattr(found, name).dtype == getattr(expected, name).dtype
