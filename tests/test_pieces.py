"""Tiles of graphs off lattices: meshes, lists of edges, products and points in space."""

import pickle

import numpy as np
import pytest
from scipy.spatial import Delaunay

from nearfield.evaluation.metric import gaussian_kl
from nearfield.fitting import tiled_windows
from nearfield.fitting.closed_form import build_field
from nearfield.fitting.elimination import predecessors
from nearfield.fitting.matern import Matern
from nearfield.fitting.pooling import Pooling
from nearfield.fitting.tiled import build_tiled
from nearfield.fitting.tiled_windows import Windows, average_of
from nearfield.graph import DependencyGraph
from nearfield.graph.pieces import Piece, PieceTiling, spread_pieces
from nearfield.graph.tiling import BoxTiling
from nearfield.samples import Samples
from nearfield.score.conditional import ConditionalField
from nearfield.score.field import GaussianField
from nearfield.score.tiled_factor import TiledFactor
from nearfield.tiled_samples import TiledSamples, one_by_one
from test_tiled_fit import POOLINGS, Cells, Kept, assert_same, in_order, rough


def places(n, seed=0):
    return np.random.default_rng(seed).uniform(size=(n, 2))


def mesh(n, seed=0):
    """Triangles of random points, without those along the hull."""
    x = places(n, seed)
    corners = Delaunay(x).simplices
    edges = np.concatenate([corners[:, [a, b]] for a, b in ((0, 1), (1, 2), (2, 0))])
    short = np.linalg.norm(x[edges[:, 0]] - x[edges[:, 1]], axis=1) < 3 / np.sqrt(n)
    return DependencyGraph.from_edges(n, edges[short])


def listed(lattice):
    """Return the same graph as a list of edges."""
    return DependencyGraph.from_adjacency(lattice.adjacency)


STATIONS = DependencyGraph.knn(places(24) * 20, 4, metric="haversine")
GRAPHS = {
    "mesh": (mesh(400), 60),
    "chain": (listed(DependencyGraph.chain(60)), 12),
    "ring": (listed(DependencyGraph.ring(60)), 12),
    "grid": (listed(DependencyGraph.grid((12, 20))), 48),
    "stations and days": (STATIONS.product(DependencyGraph.chain(12)), 72),
    "points": (DependencyGraph.knn(places(300), 5), 60),
    "two parts": (mesh(300).subgraph(np.arange(300) % 50 > 0).product(DependencyGraph.from_edges(2, [])), 90),
}


class OnVertices(Cells):
    """Samples on the vertices of a graph, in memory."""

    def __init__(self, values):
        self.values = values
        self.n_samples, self.n_channels = len(values), values.shape[-1]

    def read(self, piece, samples=None):
        values = self.values if samples is None else self.values[samples]
        return values[:, piece.vertices]


def correlated(graph, n, channels=1, seed=0):
    """Samples of a Markov field, of varying scale."""
    near = graph.adjacency.toarray().astype(float)
    root = np.linalg.cholesky(np.diag(near.sum(axis=1) + 1.0) - near)
    white = np.random.default_rng(seed).normal(size=(graph.n_vertices, n * channels))
    x = np.moveaxis(np.linalg.solve(root.T, white).reshape(-1, n, channels), 1, 0)
    return x * (1 + 0.2 * np.sin(np.arange(graph.n_vertices) / 7))[:, None] + np.arange(channels)


@pytest.mark.parametrize("name", GRAPHS)
def test_each_vertex_is_in_one_tile_and_tiles_of_one_colour_are_apart(name):
    graph, size = GRAPHS[name]
    tiling = PieceTiling.of(graph, size)
    assert len(tiling) == round(graph.n_vertices / size)
    assert max(tiling.side) - min(tiling.side) <= (graph.parts or (1,))[-1]
    order = tiling.order()
    assert np.array_equal(np.sort(order), np.arange(graph.n_vertices))
    assert [tile for tiles in tiling.by_color() for tile in tiles] == list(range(len(tiling)))
    hops, tile = graph.distance_matrix(), np.empty(graph.n_vertices, dtype=int)
    start = 0
    for k in range(len(tiling)):
        own = tiling.vertices(tiling.box(k))
        assert np.array_equal(np.sort(order[start : start + len(own)]), own)
        tile[own] = k
        start += len(own)
    color = np.concatenate([[c] * len(tiles) for c, tiles in enumerate(tiling.by_color())])
    alike = (color[tile][:, None] == color[tile]) & (tile[:, None] != tile)
    assert not alike.any() or hops[alike].min() > tiling.apart
    assert tiling.apart >= 1


@pytest.mark.parametrize("name", GRAPHS)
def test_the_region_around_a_tile_holds_what_is_near_in_order(name):
    graph, size = GRAPHS[name]
    tiling, hops = PieceTiling.of(graph, size), graph.distance_matrix()
    whole = tiling.ranks(Piece(np.arange(graph.n_vertices)))
    assert np.array_equal(np.argsort(whole), tiling.order())
    for k in range(len(tiling)):
        box, outer = tiling.box(k), tiling.around(k, 2)
        near = (hops[box.vertices] <= 2).any(axis=0)
        assert np.array_equal(tiling.vertices(outer), np.flatnonzero(near))
        assert np.array_equal(tiling.vertices(outer)[tiling.within(box, outer)], box.vertices)
        assert np.array_equal(tiling.ranks(outer), whole[near])
        part, own = tiling.graph_of(outer), tiling.within(box, outer)
        assert np.array_equal(part.adjacency.toarray(), graph.adjacency.toarray()[near][:, near])
        assert np.array_equal(part.distance_matrix()[own] <= 2, hops[box.vertices][:, near] <= 2)


def test_tiles_are_the_same_again_and_after_pickling():
    graph, size = GRAPHS["mesh"]
    again = PieceTiling.of(DependencyGraph(links=graph.links), size)
    tiling = pickle.loads(pickle.dumps(PieceTiling.of(graph, size)))
    assert tiling.key == again.key
    assert tiling.key != PieceTiling.of(graph, size + 10).key
    with pytest.raises(ValueError, match="tiles must hold each of the 400 vertices once"):
        PieceTiling(graph, tiling.side[1:], tiling.eliminated)
    with pytest.raises(ValueError, match="tiles of one colour must be farther apart than the 40 hops"):
        tiling.require_apart(40)
    pairs = PieceTiling.of(DependencyGraph.from_edges(40, np.arange(40).reshape(20, 2)), 4)
    assert len(list(pairs.by_color())) == 1
    pairs.require_apart(40)


def test_points_are_cut_across_their_longest_axis():
    x = places(400) * [10.0, 1.0]
    tiling = PieceTiling.of(DependencyGraph.knn(x, 5), 100)
    ends = np.sort([[x[tiling.box(k).vertices, 0].min(), x[tiling.box(k).vertices, 0].max()] for k in range(4)], axis=0)
    assert (ends[1:, 0] > ends[:-1, 1]).all()


def test_products_are_cut_along_their_longest_factor():
    graph, size = GRAPHS["stations and days"]
    tiling = PieceTiling.of(graph, size)
    for tile in range(len(tiling)):
        station, day = np.divmod(tiling.box(tile).vertices, 12)
        assert np.array_equal(np.unique(station, return_counts=True)[1], [12] * 6)
        assert np.array_equal(np.unique(day, return_counts=True)[1], [6] * 12)
    assert {PieceTiling.of(graph, 12).box(tile).n_cells for tile in range(24)} == {12}


def test_patches_are_connected_and_apart():
    graph = mesh(1000)
    pieces = spread_pieces(graph, 60)
    assert [piece.n_cells for piece in pieces] == [60] * 4
    assert len(np.unique(np.concatenate([piece.vertices for piece in pieces]))) == 240
    assert all(PieceTiling.of(graph).graph_of(piece).n_components == 1 for piece in pieces)
    assert np.array_equal(spread_pieces(graph, 300)[0].vertices, np.arange(1000))


def fitted_both(name, radius, pooling, law=None, channels=1):
    """A fit in tiles, and the whole fit in their order."""
    graph, size = GRAPHS[name]
    tiling, x = PieceTiling.of(graph, size), correlated(graph, 60, channels)
    tiled = build_tiled(TiledSamples(OnVertices(x), tiling), radius, pooling, Kept(), law=law)
    whole_graph = DependencyGraph.from_state(*graph.state())
    in_order(whole_graph, tiling.order(), radius)
    return tiled, build_field(Samples(x, whole_graph), radius, pooling, law)


@pytest.mark.parametrize("pooling", POOLINGS, ids=repr)
def test_a_tiled_fit_is_the_fit_in_the_order_of_the_tiles(monkeypatch, pooling):
    monkeypatch.setattr(tiled_windows, "SUPPORT", 0)  # windows of the whole fit are not cut
    assert_same(*fitted_both("mesh", 2, pooling, channels=2))


@pytest.mark.parametrize("name", ["ring", "grid", "stations and days", "two parts"])
def test_a_tiled_fit_without_pooling_is_the_fit_in_the_order_of_the_tiles(monkeypatch, name):
    monkeypatch.setattr(tiled_windows, "SUPPORT", 0)
    assert_same(*fitted_both(name, 2, Pooling(0.0, location=Pooling(1.0, 2.0))))


@pytest.mark.parametrize("pooling", [Pooling(0.0), Pooling(0.4), Pooling(1.0, nugget=1e-3)], ids=repr)
def test_a_tiled_fit_of_points_is_the_fit_in_the_order_of_the_tiles_if_it_reads_far(monkeypatch, pooling):
    monkeypatch.setattr(tiled_windows, "FARTHER", 30)
    monkeypatch.setattr(PieceTiling, "require_apart", lambda *_: None)
    assert_same(*fitted_both("points", 2, pooling, Matern(0.5, 0.3, 0.05)))


@pytest.mark.parametrize("name", ["ring", "grid", "stations and days"])
def test_where_windows_recur_all_that_hold_the_entries_of_one_are_averaged(name):
    (graph, size), radius = GRAPHS[name], 1 + (name == "ring")
    tiling, x = PieceTiling.of(graph, size), correlated(graph, 60, 2)
    samples = TiledSamples(OnVertices(x), tiling)
    windows = Windows.of(tiling, radius, one_by_one)
    assert windows.recur
    sums = average_of(samples, windows)
    whole = predecessors(graph, radius, tiling.order())
    held = [
        dict(zip((row - row[0])[on], row[on], strict=True)) for row, on in zip(whole.index, whole.present, strict=True)
    ]
    for tile in (0, len(tiling) - 1):
        outer = tiling.around(tile, radius)
        table = windows.table(tiling.graph_of(outer), tiling, outer)
        table = table.of(np.flatnonzero(tiling.within(tiling.box(tile), outer)))
        found = sums.average(table, 2)
        for row in range(0, len(table.index), 7):
            used = np.flatnonzero(table.present[row])
            shifts = outer.vertices[table.index[row, used]] - tiling.box(tile).vertices[row]
            alike = [x[:, [window[shift] for shift in shifts]] for window in held if set(shifts) <= set(window)]
            flat = np.stack(alike).reshape(len(alike), 60, -1)
            expected = np.einsum("vsi,vsj->ij", flat, flat) / 60 / len(alike)
            entries = (used[:, None] * 2 + np.arange(2)).ravel()
            mean = found.mean([], None)[found.target_of[row]]
            np.testing.assert_allclose(mean[np.ix_(entries, entries)], expected, rtol=1e-10)
            assert found.n_contributors[row] == len(alike)


@pytest.mark.parametrize(("radius", "strength", "bandwidth"), [(3, 1.0, np.inf), (3, 1.0, 2.0), (1, 0.0, np.inf)])
def test_windows_hold_no_more_than_the_samples_of_the_vertices_averaged_over_support(radius, strength, bandwidth):
    graph, size = GRAPHS["mesh"]
    x, pooling = correlated(graph, 12), Pooling(strength, bandwidth, location=Pooling(0.0))
    fit = build_tiled(TiledSamples(OnVertices(x), PieceTiling.of(graph, size)), radius, pooling, Kept())
    assert fit.full_width == fit.width  # nothing to warn of
    assert fit.raised == 0
    assert abs(np.log(fit.field.covariance().diagonal())).max() < 1.5
    near = graph.adjacency.toarray().astype(float)
    precision = np.diag(near.sum(axis=1) + 1.0) - near
    scale = (fit.scale * (1 + 0.2 * np.sin(np.arange(len(graph)) / 7))[:, None] ** -1).ravel()
    covariance = fit.field.covariance() * np.outer(scale, scale)
    assert gaussian_kl(np.linalg.inv(precision), covariance) / len(graph) < (0.3 if strength else 0.8)


@pytest.mark.parametrize("name", GRAPHS)
def test_the_factor_solves_what_it_multiplies_and_draws_its_covariance(name):
    graph, size = GRAPHS[name]
    samples = TiledSamples(OnVertices(correlated(graph, 60, 2)), PieceTiling.of(graph, size))
    law = Matern(0.5, 0.3, 0.05) if name == "points" else None
    field = build_tiled(samples, 1, Pooling(0.5), Kept(), law=law).field
    factor, whole = field.factor, field.factor.matrix.toarray()
    assert np.array_equal(whole, np.tril(whole))
    assert (whole.diagonal() > 0).all()
    x = np.random.default_rng(0).normal(size=(factor.n_variables, 3))
    assert np.allclose(factor.times(x), whole @ x)
    assert np.allclose(factor.solve(factor.times(x)), x)
    assert np.allclose(whole.T @ factor.solve(x, transposed=True), x)
    assert np.allclose(factor.diagonal(), whole.diagonal())
    short = factor.solve_leading(x[:31])
    assert np.allclose(whole[: len(short), : len(short)].T @ short, np.vstack([x[:31], 0 * x[31 : len(short)]]))
    for columns in (np.array([], dtype=int), np.array([7, 8, 40])):
        assert np.array_equal(factor.touching(columns).toarray(), whole[(whole[:, columns] != 0).any(axis=1)])
    place = (field.order.numpy()[:, None] * 2 + np.arange(2)).ravel()
    natural = np.empty_like(whole)
    natural[np.ix_(place, place)] = np.linalg.inv(whole.T @ whole)
    assert np.allclose(field.covariance(), natural)
    assert np.array_equal(field.sample(5, seed=0)[3:], field.sample(2, seed=0, first_member=3))
    again = pickle.loads(pickle.dumps(field))
    assert np.array_equal(again.sample(2, seed=0), field.sample(2, seed=0))


def test_gaps_read_the_tiles_nearby_only():
    graph, size = GRAPHS["mesh"]
    keeper, tiling = Kept(), PieceTiling.of(graph, size)
    fitted = build_tiled(TiledSamples(OnVertices(correlated(graph, 60)), tiling), 1, Pooling(1.0), keeper)
    read, whole = [], GaussianField(fitted.field.factor.matrix, fitted.field.order, 1, 1)
    keeper.read = lambda tile, stage, found=keeper.read: read.append(tile) or found(tile, stage)
    tiled = GaussianField(TiledFactor.of(tiling, 1, 1, "field", keeper), tiling.order(), 1, 1)
    observed = np.ones((graph.n_vertices, 1), dtype=bool)
    observed[graph.neighborhood(2).index[10]] = False
    law, expected = ConditionalField(tiled, observed), ConditionalField(whole, observed)
    assert 0 < len(set(read)) < len(tiling)
    x = np.random.default_rng(0).normal(size=(3, graph.n_vertices, 1))
    np.testing.assert_allclose(law.mean(x), expected.mean(x), atol=1e-10)
    np.testing.assert_allclose(law.variance(~observed), expected.variance(~observed), rtol=1e-10)


def test_a_list_of_edges_is_fitted_as_its_lattice():
    lattice = DependencyGraph.chain(240)
    x, y = rough(lattice, 50, 1), rough(lattice, 50, 1, seed=1)
    pieces, boxes = PieceTiling.of(listed(lattice), 40), BoxTiling(lattice, (40,))
    found = build_tiled(TiledSamples(OnVertices(x), pieces), 2, Pooling(1.0), Kept())
    expected = build_tiled(TiledSamples(Cells(x, lattice.lattice), boxes), 2, Pooling(1.0), Kept())
    np.testing.assert_allclose(found.center, expected.center)
    np.testing.assert_allclose(found.scale, expected.scale)
    y = (y - found.center) / found.scale
    difference = found.field.log_prob(y) - expected.field.log_prob(y)
    assert abs(difference.mean()) < 2e-3 * 240
