"""Dependency graphs against their definition: hops, offsets and great circles, recomputed here by other means."""

from __future__ import annotations

import copy
import functools
import itertools
import json
import pickle
import time
import tracemalloc

import numpy as np
import pytest
from scipy.sparse import coo_array, csgraph, csr_array, csr_matrix

from nearfield.graph import DependencyGraph, Lattice, Neighborhood
from nearfield.graph import distance as distance_module
from nearfield.graph import neighborhood as neighborhood_module
from nearfield.graph.coordinate import nearest_pairs

WALL = np.array([[1, 1, 0, 1, 1], [1, 1, 0, 1, 1], [1, 1, 0, 1, 1], [1, 1, 1, 1, 1]], dtype=bool)
SPLIT = np.array([[1, 1, 0, 1], [1, 0, 0, 1], [0, 0, 1, 1]], dtype=bool)
HOLES = np.random.default_rng(5).random((3, 4, 3)) < 0.7


def random_points(n, axes, seed=0):
    return np.random.default_rng(seed).normal(size=(n, axes))


def random_places(n, seed=1):
    """Stations all over the globe, the poles and both sides of the date line among them."""
    rng = np.random.default_rng(seed)
    everywhere = np.stack([np.rad2deg(np.arcsin(rng.uniform(-1, 1, n))), rng.uniform(-180, 180, n)], axis=1)
    special = [
        [90, 0],
        [89.5, 170],
        [89, -60],
        [-90, 10],
        [-88, -170],
        [10, 180],
        [10, -179.5],
        [10.2, 179.2],
        [9, -178],
    ]
    return np.concatenate([special, everywhere])


LATTICES = {
    "one": DependencyGraph.chain(1),
    "chain": DependencyGraph.chain(7),
    "ring1": DependencyGraph.ring(1),
    "ring2": DependencyGraph.ring(2),
    "ring5": DependencyGraph.ring(5),
    "ring6": DependencyGraph.ring(6),
    "grid": DependencyGraph.grid((4, 5)),
    "strip": DependencyGraph.grid((1, 6)),
    "cube": DependencyGraph.grid((3, 2, 4)),
    "cylinder": DependencyGraph.grid((3, 5), periodic=(False, True)),
    "torus": DependencyGraph.torus((4, 5)),
    "torus3": DependencyGraph.torus((2, 3, 4)),
    "diagonal": DependencyGraph.grid((4, 5), diagonal=True),
    "diagonal3": DependencyGraph.grid((3, 3, 4), periodic=(True, False, True), diagonal=True),
    "latlon": DependencyGraph.latlon(np.linspace(80, -80, 5), np.arange(-180, 180, 45)),
    "wall": DependencyGraph.grid((4, 5)).subgraph(WALL),
    "wall round": DependencyGraph.grid((4, 5), periodic=(False, True)).subgraph(WALL),
    "wall diagonal": DependencyGraph.grid((4, 5), diagonal=True).subgraph(WALL),
    "split": DependencyGraph.grid((3, 4)).subgraph(SPLIT),
    "holes": DependencyGraph.torus((3, 4, 3)).subgraph(HOLES),
    "arc": DependencyGraph.ring(6).subgraph(np.array([1, 1, 1, 0, 1, 1], dtype=bool)),
}
GENERAL = {
    "loner": DependencyGraph.from_edges(1, []),
    "no edges": DependencyGraph.from_edges(4, []),
    "path": DependencyGraph.from_edges(6, [(i, i + 1) for i in range(5)]),
    "star": DependencyGraph.from_edges(6, [(0, i) for i in range(1, 6)]),
    # 7 * 2 ** log2(12 / 7) < 12 in floating point: growth must round up
    "tree": DependencyGraph.from_edges(13, [(0, i) for i in range(1, 8)] + [(i, i + 7) for i in range(1, 6)]),
    "random": DependencyGraph.from_edges(40, np.random.default_rng(3).integers(40, size=(60, 2))),
    "two": DependencyGraph.from_edges(8, [(0, 1), (1, 2), (2, 0), (4, 5), (5, 6), (6, 7)]),
    "knn": DependencyGraph.knn(random_points(40, 2), 3),
    "knn3": DependencyGraph.knn(random_points(30, 3), 4),
    "within": DependencyGraph.within(random_points(50, 2), 0.5),
    "globe": DependencyGraph.knn(random_places(40), 3, metric="haversine"),
    "globe near": DependencyGraph.within(random_places(40), 2500, metric="haversine"),
    "some of knn": DependencyGraph.knn(random_points(40, 2), 3).subgraph(np.arange(40) % 4 > 0),
}
GRAPHS = LATTICES | GENERAL

lattices = pytest.mark.parametrize("graph", LATTICES.values(), ids=LATTICES.keys())
generals = pytest.mark.parametrize("graph", GENERAL.values(), ids=GENERAL.keys())
graphs = pytest.mark.parametrize("graph", GRAPHS.values(), ids=GRAPHS.keys())


def cells_of(graph):
    """Positions of the vertices on their lattice, in C order."""
    shape = graph.lattice.shape
    return [cell for cell in np.ndindex(*shape) if graph.keep is None or graph.keep[cell]]


def touch(lattice, one, other):
    """Whether two cells are neighbours, by the definition, axis by axis."""
    steps = []
    for length, periodic, i, j in zip(lattice.shape, lattice.periodic, one, other, strict=True):
        step = abs(i - j)
        steps.append(min(step, length - step) if periodic else step)
    return max(steps) == 1 and (lattice.diagonal or sum(steps) == 1)


def great_circle(points):
    """Haversine formula, km."""
    lat, lon = np.deg2rad(points).T
    h = (
        np.sin((lat[:, None] - lat) / 2) ** 2
        + np.cos(lat[:, None]) * np.cos(lat) * np.sin((lon[:, None] - lon) / 2) ** 2
    )
    return 2 * 6371.0088 * np.arcsin(np.sqrt(np.minimum(h, 1)))


def straight_line(points):
    return np.sqrt(((points[:, None] - points) ** 2).sum(axis=-1))


@functools.cache
def true_hops(graph):
    """Shortest paths on an adjacency that is made here for lattices, cell by cell."""
    if graph.lattice is None:
        adjacency = graph.adjacency.toarray()
    else:
        cells = cells_of(graph)
        adjacency = np.array([[touch(graph.lattice, one, other) for other in cells] for one in cells])
    return csgraph.floyd_warshall(csr_array(adjacency), directed=False, unweighted=True)


@graphs
@pytest.mark.parametrize("radius", [0, 1, 2, 3, 50])
def test_neighbourhoods_are_the_vertices_within_radius_hops(graph, radius):
    hops, table = true_hops(graph), graph.neighborhood(radius)
    assert table.index.dtype == np.int64
    assert table.present.dtype == bool
    assert table.hops.dtype == np.int16
    np.testing.assert_array_equal(table.index[:, 0], np.arange(len(graph)))
    np.testing.assert_array_equal(table.hops[:, 0], 0)
    for j in range(len(graph)):
        present = table.present[j]
        assert sorted(table.index[j, present]) == np.flatnonzero(hops[j] <= radius).tolist()  # and none twice
        np.testing.assert_array_equal(table.hops[j, present], hops[j, table.index[j, present]])
        np.testing.assert_array_equal(table.index[j, ~present], j)
        np.testing.assert_array_equal(table.hops[j, ~present], -1)


@graphs
def test_distances_diameter_and_components_are_those_of_the_definition(graph, monkeypatch):
    hops = true_hops(graph)
    np.testing.assert_array_equal(graph.distance_matrix(), hops)
    np.testing.assert_array_equal(graph.adjacency.toarray(), hops == 1)
    longest = hops[np.isfinite(hops)].max()
    assert graph.diameter() == longest
    assert graph.n_components == len({tuple(row) for row in np.isfinite(hops).tolist()})
    monkeypatch.setattr(distance_module, "_EXACT_DIAMETER", 0)
    assert longest <= graph.diameter() <= 2 * longest


@graphs
@pytest.mark.parametrize("radius", [0, 1, 2, 50])
def test_effective_dimension_is_the_largest_neighbourhood(graph, radius):
    sizes = (true_hops(graph) <= radius).sum(axis=1)
    assert graph.effective_dimension(radius, n_channels=3) == 3 * sizes.max()


@lattices
@pytest.mark.parametrize("radius", [1, 2, 3, 50])
def test_a_column_of_a_lattice_is_one_offset(graph, radius):
    table, lattice, cells = graph.neighborhood(radius), graph.lattice, cells_of(graph)
    number = {cell: vertex for vertex, cell in enumerate(cells)}
    hops = true_hops(graph)
    for vertex, cell in enumerate(cells):
        for column, offset in enumerate(table.offsets):
            landing = tuple(int(i) for i in np.add(cell, offset))
            wrapped = tuple(
                i % n if periodic else i
                for i, n, periodic in zip(landing, lattice.shape, lattice.periodic, strict=True)
            )
            target = number.get(wrapped)
            assert table.present[vertex, column] == (target is not None and hops[vertex, target] <= radius)
            if table.present[vertex, column]:
                assert table.index[vertex, column] == target


@lattices
def test_columns_are_ordered_by_whole_lattice_hops_then_offset_and_lead(graph):
    whole = DependencyGraph(lattice=graph.lattice)
    largest = graph.neighborhood(50)
    key = list(zip(whole.neighborhood(50).hops.max(axis=0).tolist(), largest.offsets.tolist(), strict=True))
    assert key == sorted(key)
    for radius in range(4):
        table = graph.neighborhood(radius)
        width = len(table.offsets)
        np.testing.assert_array_equal(table.offsets, largest.offsets[:width])
        near = largest.present[:, :width] & (largest.hops[:, :width] <= radius)  # a way around the wall may be longer
        np.testing.assert_array_equal(table.present, near)
        np.testing.assert_array_equal(table.index[near], largest.index[:, :width][near])
        if graph.keep is None:
            np.testing.assert_array_equal(table.index, largest.index[:, :width])


def test_the_way_around_a_wall_is_counted():
    table = DependencyGraph.grid((4, 5)).subgraph(WALL).neighborhood(4)
    across = table.offsets.tolist().index([0, 2])
    above_the_gap = 9  # row 2, column 1: down, over, over, up
    assert (table.hops[above_the_gap, across], table.present[1, across]) == (4, False)


@generals
@pytest.mark.parametrize("radius", [1, 3, 50])
def test_rows_of_other_graphs_go_by_hops_then_distance_then_number(graph, radius):
    hops, table = true_hops(graph), graph.neighborhood(radius)
    metric = great_circle if graph.metric == "haversine" else straight_line
    distance = np.zeros_like(hops) if graph.coordinates is None else metric(graph.coordinates)
    assert table.offsets is None
    assert table.index.shape[1] == (hops <= radius).sum(axis=1).max()
    for j in range(len(graph)):
        near = np.flatnonzero(hops[j] <= radius)
        expected = sorted(near, key=lambda i: (hops[j, i], distance[j, i], i))
        assert table.index[j, table.present[j]].tolist() == expected
        assert table.present[j, : len(near)].all()


def test_distances_equal_but_for_rounding_are_ties():
    table = DependencyGraph.within([0.0, 0.1, 0.2, 0.30000000000000004, 0.4], 0.1).neighborhood(1)
    assert table.index[1:4].tolist() == [[1, 0, 2], [2, 1, 3], [3, 2, 4]]


@pytest.mark.parametrize("k", [1, 3, 48])
@pytest.mark.parametrize("metric", ["euclidean", "haversine"])
def test_nearest_neighbours_are_those_of_brute_force(metric, k):
    points = random_places(40)
    distance = great_circle(points) if metric == "haversine" else straight_line(points)
    np.fill_diagonal(distance, np.inf)
    chosen = np.zeros(distance.shape, dtype=bool)
    np.put_along_axis(chosen, np.argsort(distance, axis=1)[:, :k], True, axis=1)
    adjacency = DependencyGraph.knn(points, k, metric=metric).adjacency.toarray()
    np.testing.assert_array_equal(adjacency, chosen | chosen.T)


@pytest.mark.parametrize(
    ("metric", "reach"),
    [("euclidean", 30.0), *(("haversine", km) for km in (1500.0, 6000.0, 12_000.0, 19_000.0, 21_000.0))],
)
def test_close_points_are_those_of_brute_force(metric, reach):
    points = random_places(60)
    distance = great_circle(points) if metric == "haversine" else straight_line(points)
    np.fill_diagonal(distance, np.inf)
    adjacency = DependencyGraph.within(points, reach, metric=metric).adjacency.toarray()
    np.testing.assert_array_equal(adjacency, distance <= reach)


def test_neighbours_cross_the_date_line_and_the_pole():
    places = [[10, 179.9], [10, -179.9], [10, 0], [89.9, 0], [89.9, 180], [90, 77]]
    adjacency = DependencyGraph.within(places, 23, metric="haversine").adjacency.toarray()
    assert np.argwhere(np.triu(adjacency)).tolist() == [[0, 1], [3, 4], [3, 5], [4, 5]]
    moved = np.add(places, [0, 360])
    assert (DependencyGraph.within(moved, 23, metric="haversine").adjacency != csr_array(adjacency)).nnz == 0


def test_one_degree_is_111_km():
    pair = [[0, 0], [0, 1]]
    degree = 2 * np.pi * 6371.0088 / 360
    assert DependencyGraph.within(pair, degree, metric="haversine").n_components == 1
    assert DependencyGraph.within(pair, degree * 0.9999, metric="haversine").n_components == 2


@pytest.mark.parametrize(("places", "each", "k"), [(20, 2, 1), (5, 4, 2), (1, 9, 2)])
def test_coincident_points_choose_each_other_not_themselves(places, each, k):
    points = np.repeat(random_points(places, 2), each, axis=0)
    start, end = nearest_pairs(points, k, "euclidean").T
    assert (start != end).all()
    assert len(set(zip(start.tolist(), end.tolist(), strict=True))) == k * len(points)
    np.testing.assert_array_equal(points[start], points[end])


@pytest.mark.parametrize(
    ("lon", "periodic"),
    [
        (np.arange(0, 360, 2.5), True),
        (np.arange(-180, 180, 30), True),
        (np.arange(180, -180, -30), True),
        (np.roll(np.arange(-180, 180, 30), 5), True),  # crosses the date line
        (np.round(np.arange(0, 360, 360 / 70), 1), True),  # rounded in the file
        (np.arange(0, 357.5, 2.5), False),  # one meridian short
        (np.arange(-170, -49, 2.5), False),
        ([170, 175, 180, -175, -170], False),
        ([5], False),
    ],
)
def test_longitude_is_periodic_when_it_closes(lon, periodic):
    lat = [-30.0, 0.0, 30.0]
    graph = DependencyGraph.latlon(lat, lon)
    assert graph.lattice == Lattice((3, len(lon)), (False, periodic))
    np.testing.assert_array_equal(graph.coordinates, list(itertools.product(lat, lon)))
    assert bool(graph.adjacency.toarray()[0, len(lon) - 1]) == periodic


@graphs
def test_growth_bounds_every_neighbourhood(graph, monkeypatch):
    hops = true_hops(graph)
    for pairs in (neighborhood_module.GROWTH_PAIRS, 0):
        monkeypatch.setattr(neighborhood_module, "GROWTH_PAIRS", pairs)
        size, power = graph.growth()
        radii = np.arange(1.0, graph.diameter() + 2)
        others = (hops[..., None] <= radii).sum(axis=1).max(axis=0) - 1
        assert np.all(others <= size * radii**power)  # in floating point too
    if graph.lattice is None and graph.diameter() > 0:
        assert size == (hops == 1).sum(axis=1).max()


@pytest.mark.parametrize(
    ("graph", "expected"),
    [
        (DependencyGraph.chain(9), (2, 1)),
        (DependencyGraph.grid((9, 9), diagonal=True), (8, 2)),
        (DependencyGraph.grid((9, 9, 9), diagonal=True), (26, 3)),
        (DependencyGraph.grid((9, 9)), (4, 2)),
        (DependencyGraph.grid((9, 9, 9)), (6, 3)),
        (DependencyGraph.from_edges(9, [(i, i + 1) for i in range(8)]), (2, 1)),
        (DependencyGraph.from_edges(5, list(itertools.combinations(range(5), 2))), (4, 0)),
    ],
)
def test_growth_is_the_known_one(graph, expected):
    assert graph.growth() == expected


@pytest.mark.parametrize("name", ["path", "tree", "random", "knn", "knn3", "within", "globe"])
@pytest.mark.parametrize("radius", [2, 4, None])
def test_growth_is_the_least_that_holds(name, radius):
    hops = true_hops(GENERAL[name])
    last = int(hops[np.isfinite(hops)].max()) if radius is None else radius
    sizes = [(hops <= r).sum(axis=1).max() - 1 for r in range(1, last + 1)]
    least = max(np.log(size / sizes[0]) / np.log(r) for r, size in enumerate(sizes[1:], start=2))
    assert GENERAL[name].growth(radius) == pytest.approx((sizes[0], least), rel=1e-12)


def test_a_subgraph_of_a_subgraph_is_the_subgraph_of_both():
    first, second = np.arange(20).reshape(4, 5) % 3 > 0, np.arange(20).reshape(4, 5) % 5 > 0
    grid = DependencyGraph.latlon([0, 1, 2, 3], [0, 1, 2, 3, 4])
    both = grid.subgraph(first & second)
    assert grid.subgraph(first).subgraph(second) == both
    assert grid.subgraph(first).subgraph(second[first]) == both
    np.testing.assert_array_equal(both.coordinates, grid.coordinates[(first & second).ravel()])
    np.testing.assert_array_equal(both.keep, first & second)
    assert grid.subgraph(np.ones((4, 5), dtype=bool)) == grid


def test_a_subgraph_keeps_the_edges_and_places_among_what_stays():
    graph, stays = GENERAL["knn"], np.arange(40) % 4 > 0
    part = graph.subgraph(stays)
    np.testing.assert_array_equal(part.adjacency.toarray(), graph.adjacency.toarray()[stays][:, stays])
    np.testing.assert_array_equal(part.coordinates, graph.coordinates[stays])


def test_edges_have_no_direction_repeats_or_loops():
    graph = DependencyGraph.from_edges(4, [(1, 0), (0, 1), (2, 2), (2, 1), (1, 2)])
    assert graph == DependencyGraph.from_edges(4, np.array([[0, 1], [1, 2]], dtype=np.uint8))
    assert np.argwhere(graph.adjacency.toarray()).tolist() == [[0, 1], [1, 0], [1, 2], [2, 1]]


@pytest.mark.parametrize("kind", [np.array, csr_array, csr_matrix, coo_array])
def test_the_pattern_of_a_precision_matrix_is_a_graph_and_stays_as_it_was(kind):
    values = np.array([[2.0, -0.5, 0.0], [-0.5, 2.0, 0.3], [0.0, 0.3, 1.0]])
    matrix = kind(values)
    if kind is csr_array:
        matrix[0, 0] = 0.0  # an explicit zero, which is not ours to remove
    stored = getattr(matrix, "nnz", 0)
    assert DependencyGraph.from_adjacency(matrix) == DependencyGraph.from_edges(3, [(0, 1), (1, 2)])
    assert getattr(matrix, "nnz", 0) == stored
    assert matrix[0, 1] == -0.5 if kind is not coo_array else True


@graphs
def test_graphs_are_values(graph):
    through_json = json.loads(json.dumps(graph.state()[0]))
    for twin in (
        pickle.loads(pickle.dumps(graph)),
        copy.deepcopy(graph),
        DependencyGraph.from_state(through_json, graph.state()[1]),
    ):
        assert twin == graph
        assert hash(twin) == hash(graph)
        assert_read_only(twin)
        np.testing.assert_array_equal(twin.neighborhood(2).index, graph.neighborhood(2).index)
    assert graph != "graph"
    assert len(repr(graph)) < 120
    assert len(graph._repr_html_()) < 300


def assert_read_only(graph):
    table, adjacency = graph.neighborhood(1), graph.adjacency
    arrays = [graph.keep, graph.coordinates, *(graph.links or ()), adjacency.data, adjacency.indices, adjacency.indptr]
    for array in [*arrays, table.index, table.present, table.hops, table.offsets]:
        assert array is None or not array.flags.writeable
    with pytest.raises(AttributeError):
        graph.metric = "haversine"
    adjacency.data = np.zeros_like(adjacency.data)  # of this wrapper alone
    assert graph.adjacency.nnz == graph.adjacency.sum()


def test_graphs_that_differ_are_not_equal():
    points = random_points(9, 2)
    different = [
        *GRAPHS.values(),
        DependencyGraph.grid((5, 4)),
        DependencyGraph.knn(points, 2),
        DependencyGraph.knn(points * 2, 2),
        DependencyGraph.from_adjacency(DependencyGraph.knn(points, 2).adjacency),
        DependencyGraph.latlon([0, 1], [0, 1]),
        DependencyGraph.latlon([0, 1], [0, 2]),
        DependencyGraph.from_adjacency(DependencyGraph.chain(7).adjacency),
    ]
    assert len(set(different)) == len(different)
    assert DependencyGraph.ring(5) == DependencyGraph.torus((5,))


def test_arrays_given_stay_the_caller_s():
    points, mask = random_points(9, 2), np.array([True, False, True])
    graph, part = DependencyGraph.knn(points, 2), DependencyGraph.chain(3).subgraph(mask)
    twins = copy.deepcopy((graph, part))
    points[:], mask[:] = 0, True
    assert (graph, part) == twins


def test_a_table_pickles_read_only():
    table = pickle.loads(pickle.dumps(DependencyGraph.chain(3).neighborhood(1)))
    assert isinstance(table, Neighborhood)
    assert not any(array.flags.writeable for array in (table.index, table.present, table.hops, table.offsets))


@pytest.mark.parametrize(
    ("graph", "text"),
    [
        (DependencyGraph.grid((37, 49)), "DependencyGraph.grid((37, 49))"),
        (DependencyGraph.torus((3, 4)), "DependencyGraph.grid((3, 4), periodic=True)"),
        (DependencyGraph.latlon([0, 1], range(0, 360, 90)), "DependencyGraph.latlon(2 lat, 4 lon, periodic)"),
        (LATTICES["wall"], "DependencyGraph.grid((4, 5)).subgraph(17 of 20)"),
        (GENERAL["star"], "DependencyGraph(6 vertices, 5 edges)"),
    ],
)
def test_repr_says_how_it_was_made(graph, text):
    assert repr(graph) == text


def test_a_large_grid_is_a_stencil():
    graph = DependencyGraph.grid((1000, 1000))
    tracemalloc.start()
    start = time.process_time()
    table = graph.neighborhood(3)
    assert (graph.effective_dimension(3), graph.diameter(), graph.n_components) == (25, 1998, 1)
    seconds, peak = time.process_time() - start, tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert table.index.shape == (1_000_000, 25)
    assert "_edges" not in vars(graph)
    assert seconds < 5
    assert peak < 2 * 2**30


@pytest.mark.parametrize("graph", [*LATTICES.values(), *GENERAL.values()], ids=[*LATTICES, *GENERAL])
def test_a_table_out_of_a_wider_one_is_the_table(graph):
    wide = copy.deepcopy(graph)
    assert wide.neighborhood(5) is wide.neighborhood(5)
    for radius in range(5):
        table, expected = wide.neighborhood(radius), copy.deepcopy(graph).neighborhood(radius)
        for name in ("index", "present", "hops", "offsets"):
            np.testing.assert_array_equal(getattr(table, name), getattr(expected, name))
        assert table.hops.dtype == expected.hops.dtype


def test_what_is_kept_is_bounded_and_no_part_of_the_graph(monkeypatch):
    graph = DependencyGraph.grid((20, 20))
    first = graph.neighborhood(2)
    monkeypatch.setattr(graph.memory, "limit", int(1.2 * first.n_bytes))
    assert graph.neighborhood(2) is first
    assert graph.neighborhood(3) is not graph.neighborhood(3)  # too large
    assert graph.neighborhood(2) is first
    assert graph.neighborhood(1) is graph.neighborhood(1)
    assert graph.neighborhood(2) is not first  # given up for radius 1
    twin = pickle.loads(pickle.dumps(graph))
    assert twin == graph
    assert "memory" not in vars(twin)


ASYMMETRIC = csr_array(np.array([[0, 1], [0, 0]]))
CHAIN = DependencyGraph.chain(4)
ERRORS = [
    (lambda: DependencyGraph.chain(0), ValueError, "n must be at least 1, got 0"),
    (lambda: DependencyGraph.chain(3.0), TypeError, "n must be an integer, got 3.0"),
    (lambda: DependencyGraph.ring(-2), ValueError, "n must be at least 1, got -2"),
    (lambda: DependencyGraph.ring(True), TypeError, "n must be an integer, got True"),
    (lambda: DependencyGraph.grid(5), TypeError, "shape must be a sequence"),
    (lambda: DependencyGraph.grid(()), ValueError, "1 to 3 lengths, got"),
    (lambda: DependencyGraph.grid((2, 2, 2, 2)), ValueError, "1 to 3 lengths, got"),
    (lambda: DependencyGraph.grid((2, 0)), ValueError, "shape must be at least 1, got 0"),
    (lambda: DependencyGraph.grid((2, 2.5)), TypeError, "shape must be an integer, got 2.5"),
    (lambda: DependencyGraph.grid((2, 2), periodic=(True,)), ValueError, "periodic must be"),
    (lambda: DependencyGraph.grid((2, 2), periodic="yes"), ValueError, "periodic must be"),
    (lambda: DependencyGraph.grid((2, 2), diagonal=1), TypeError, "diagonal must be True or False, got 1"),
    (lambda: DependencyGraph.latlon([0, 91], [0, 1]), ValueError, r"lat must be in \[-90, 90\] degrees, got 91"),
    (lambda: DependencyGraph.latlon([0, np.nan], [0, 1]), ValueError, r"lat must be finite, got nan at \(1,\)"),
    (lambda: DependencyGraph.latlon([0, 0], [0, 1]), ValueError, "lat must run in one direction without repeats"),
    (lambda: DependencyGraph.latlon([0, 2, 1], [0, 1]), ValueError, "lat must run in one direction"),
    (lambda: DependencyGraph.latlon([[0, 2]], [0, 1]), ValueError, r"lat must be 1-D .* got shape \(1, 2\)"),
    (lambda: DependencyGraph.latlon([], [0, 1]), ValueError, "lat must be 1-D and not empty"),
    (lambda: DependencyGraph.latlon([0, 1], [0, 361]), ValueError, "lon must span at most 360 degrees, got 0.0 to 361"),
    (lambda: DependencyGraph.latlon([0, 1], [0, 180, 360]), ValueError, "0 and 360 are the same meridian"),
    (lambda: DependencyGraph.latlon([0, 1], [3, 3, 4]), ValueError, "lon must run in one direction"),
    (lambda: DependencyGraph.latlon([0, 1], [0, 20, 10]), ValueError, "lon must run in one direction"),
    (lambda: DependencyGraph.latlon([0, 1], [0, np.inf]), ValueError, "lon must be finite, got inf"),
    (lambda: DependencyGraph.latlon([0, 1], ["a", "b"]), TypeError, "lon must be real numbers"),
    (lambda: DependencyGraph.knn(np.zeros((5, 2)), 5), ValueError, "k must be at most .* 4, got 5"),
    (lambda: DependencyGraph.knn(np.zeros((5, 2)), 0), ValueError, "k must be at least 1, got 0"),
    (lambda: DependencyGraph.knn(np.zeros((1, 2)), 1), ValueError, "k must be at most .* 0, got 1"),
    (lambda: DependencyGraph.knn(np.zeros((5, 2)), 2.0), TypeError, "k must be an integer"),
    (lambda: DependencyGraph.knn([[0, np.nan]], 1), ValueError, r"points must be finite, got nan at \(0, 1\)"),
    (lambda: DependencyGraph.knn(np.zeros((5, 2, 2)), 2), ValueError, r"points must have shape \(vertex, axis\)"),
    (lambda: DependencyGraph.knn(np.zeros((0, 2)), 2), ValueError, "points must have shape .* not empty"),
    (lambda: DependencyGraph.knn(np.zeros((5, 2)), 2, metric="l1"), ValueError, "metric must be .* got 'l1'"),
    (lambda: DependencyGraph.knn(np.zeros((5, 2), dtype=complex), 2), TypeError, "points must be real numbers"),
    (lambda: DependencyGraph.knn(np.zeros((5, 3)), 2, metric="haversine"), ValueError, r"\(lat, lon\) for haversine"),
    (lambda: DependencyGraph.within([[100, 0]], 2, metric="haversine"), ValueError, "lat must be in .* got 100"),
    (lambda: DependencyGraph.within(np.zeros((5, 2)), 0), ValueError, "distance must be a number > 0, got 0"),
    (lambda: DependencyGraph.within(np.zeros((5, 2)), np.nan), ValueError, "distance must be finite, got nan"),
    (lambda: DependencyGraph.within(np.zeros((5, 2)), [1, 2]), ValueError, "distance must be a number > 0"),
    (lambda: DependencyGraph.from_edges(0, []), ValueError, "n must be at least 1, got 0"),
    (lambda: DependencyGraph.from_edges(3, [(0, 3)]), ValueError, r"join vertices 0 to 2, got \(0, 3\)"),
    (lambda: DependencyGraph.from_edges(3, [(-1, 0)]), ValueError, r"join vertices 0 to 2, got \(-1, 0\)"),
    (lambda: DependencyGraph.from_edges(3, [(0, 1, 2)]), ValueError, r"shape \(edge, 2\), got \(1, 3\)"),
    (lambda: DependencyGraph.from_edges(3, [(0.0, 1.0)]), TypeError, "edges must be integers, got dtype float64"),
    (lambda: DependencyGraph.from_adjacency(np.zeros((2, 3))), ValueError, r"must be square .* got shape \(2, 3\)"),
    (lambda: DependencyGraph.from_adjacency(np.zeros((0, 0))), ValueError, "must be square and not empty"),
    (lambda: DependencyGraph.from_adjacency(ASYMMETRIC), ValueError, r"symmetric pattern.*\(0, 1\) and \(1, 0\)"),
    (lambda: DependencyGraph.from_adjacency(np.eye(2) * np.nan), ValueError, "adjacency must be finite"),
    (lambda: DependencyGraph.from_adjacency(np.eye(2) * 1j), TypeError, "booleans or real numbers"),
    (lambda: CHAIN.subgraph([1, 0, 1, 1]), TypeError, "mask must be boolean, got dtype int64"),
    (lambda: CHAIN.subgraph([True, False]), ValueError, r"mask must have shape \(4,\).* got \(2,\)"),
    (lambda: CHAIN.subgraph([False] * 4), ValueError, "mask must keep at least one vertex"),
    (lambda: CHAIN.neighborhood(-1), ValueError, "radius must be at least 0, got -1"),
    (lambda: CHAIN.neighborhood(1.0), TypeError, "radius must be an integer, got 1.0"),
    (lambda: CHAIN.effective_dimension(1, n_channels=0), ValueError, "n_channels must be at least 1, got 0"),
    (lambda: CHAIN.growth(0), ValueError, "radius must be at least 1, got 0"),
    (lambda: DependencyGraph.chain(20_001).distance_matrix(), ValueError, "n_vertices must be at most 20000"),
    (lambda: DependencyGraph(), TypeError, "must have a lattice or links"),
]


@pytest.mark.parametrize(("mistake", "kind", "message"), ERRORS, ids=[row[2][:40] for row in ERRORS])
def test_mistakes_are_named_with_rule_and_value(mistake, kind, message):
    with pytest.raises(kind, match=message):
        mistake()


def test_a_graph_is_not_equal_to_one_that_differs_in_one_array_only():
    points, edges = random_points(9, 2), [(0, 1), (1, 2)]
    moved = points.copy()
    moved[3, 1] = np.nextafter(moved[3, 1], np.inf)
    assert DependencyGraph.knn(points, 8) != DependencyGraph.knn(moved, 8)
    assert DependencyGraph.from_edges(9, edges) != DependencyGraph.from_edges(9, [(0, 1), (1, 3)])
    assert DependencyGraph.chain(4).subgraph(np.arange(4) > 0) != DependencyGraph.chain(4).subgraph(np.arange(4) < 3)
    assert DependencyGraph.from_edges(4, edges).product(DependencyGraph.chain(2)).parts == (4, 2)
