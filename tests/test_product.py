"""Products of graphs against their definition, pair by pair."""

from __future__ import annotations

import itertools
import pickle

import numpy as np
import pytest
import xarray as xr

from nearfield.data.codec import Codec
from nearfield.graph import DependencyGraph

RNG = np.random.default_rng(2)
HOLES = RNG.random((3, 3)) < 0.7
FACTORS = {
    "one": DependencyGraph.chain(1),
    "chain": DependencyGraph.chain(4),
    "ring": DependencyGraph.ring(5),
    "broken chain": DependencyGraph.chain(5).subgraph(np.array([1, 1, 0, 1, 1], dtype=bool)),
    "grid": DependencyGraph.grid((2, 3), periodic=(False, True)),
    "diagonal": DependencyGraph.grid((3, 3), diagonal=True),
    "line with diagonals": DependencyGraph.grid((1, 4), diagonal=True),
    "holes": DependencyGraph.grid((3, 3)).subgraph(HOLES),
    "cube": DependencyGraph.grid((2, 2, 2)),
    "latlon": DependencyGraph.latlon([10, 20], range(0, 360, 90)),
    "stations": DependencyGraph.knn(RNG.normal(size=(6, 2)), 2),
    "globe": DependencyGraph.knn(RNG.uniform(-60, 60, size=(5, 2)), 2, metric="haversine"),
    "two parts": DependencyGraph.from_edges(4, [(0, 1), (2, 3)]),
}
PAIRS = list(itertools.product(FACTORS, FACTORS))


@pytest.mark.parametrize(("left", "right"), PAIRS)
def test_hops_are_the_sum_and_neighbours_differ_in_one_factor(left, right):
    a, b = FACTORS[left], FACTORS[right]
    product = a.product(b)
    assert len(product) == len(a) * len(b)
    hops = a.distance_matrix()[:, None, :, None] + b.distance_matrix()[None, :, None, :]
    hops = hops.reshape(len(product), len(product))
    assert np.array_equal(product.distance_matrix(), hops)
    assert np.array_equal(product.adjacency.toarray(), hops == 1)
    for radius in (1, 2):
        table = product.neighborhood(radius)
        for vertex in range(len(product)):
            near = np.sort(table.index[vertex][table.present[vertex]])
            assert np.array_equal(near, np.flatnonzero(hops[vertex] <= radius))


@pytest.mark.parametrize(("left", "right"), PAIRS)
def test_lattices_stay_lattices_where_they_can(left, right):
    a, b = FACTORS[left], FACTORS[right]
    product = a.product(b)
    simple = a.lattice is not None and b.lattice is not None and "diagonal" not in (left, right)
    if simple and len(a.lattice.shape) + len(b.lattice.shape) <= 3:
        assert product.lattice.shape == a.lattice.shape + b.lattice.shape
        assert product.lattice.periodic == a.lattice.periodic + b.lattice.periodic
        assert (product.keep is None) == (a.keep is None and b.keep is None)
    else:
        assert product.lattice is None


def test_masks_are_kept():
    mask = np.array([1, 1, 0, 1], dtype=bool)
    product = DependencyGraph.grid((3, 3)).subgraph(HOLES).product(DependencyGraph.chain(4).subgraph(mask))
    assert np.array_equal(product.keep, HOLES[..., None] & mask)
    assert product == DependencyGraph.grid((3, 3, 4)).subgraph(HOLES[..., None] & mask)


def test_coordinates_stand_side_by_side_or_not_at_all():
    plane, line = RNG.normal(size=(4, 2)), RNG.normal(size=(3, 1))
    a, b = DependencyGraph.knn(plane, 1), DependencyGraph.knn(line, 1)
    product = a.product(b)
    for i, j in itertools.product(range(4), range(3)):
        assert np.array_equal(product.coordinates[3 * i + j], [*plane[i], *line[j]])
    for other in (FACTORS["globe"], FACTORS["latlon"], FACTORS["chain"], FACTORS["two parts"]):
        for pair in (a.product(other), other.product(a)):
            assert pair.coordinates is None
            assert pair.metric == "euclidean"
    assert FACTORS["globe"].product(FACTORS["globe"]).coordinates is None


@pytest.mark.parametrize("right", ["ring", "broken chain", "stations"])
def test_products_are_graphs_as_others_are(right):
    product = FACTORS["stations"].product(FACTORS[right])
    assert pickle.loads(pickle.dumps(product)) == product
    assert DependencyGraph.from_state(*product.state()) == product


def test_three_axes_associate():
    a, b, c = (DependencyGraph.chain(n) for n in (2, 3, 4))
    assert a.product(b).product(c) == a.product(b.product(c)) == DependencyGraph.grid((2, 3, 4))


def test_data_with_the_dimensions_in_another_order_are_refused():
    stations, chain = FACTORS["stations"], DependencyGraph.chain(5)
    data = xr.DataArray(RNG.normal(size=(20, 6, 5)), dims=("sample", "station", "day"))
    graph = stations.product(chain)
    assert graph.parts == (6, 5)
    assert Codec.fit(data, graph=graph).graph == graph
    assert Codec.fit(data.stack(vertex=("station", "day")).reset_index("vertex"), graph=graph).graph == graph
    turned = data.transpose("sample", "day", "station")
    for wrong in (turned, turned.expand_dims("z")):
        with pytest.raises(ValueError, match="last running fastest"):
            Codec.fit(wrong, sample_dim="sample", graph=graph)
    with pytest.raises(ValueError, match="last running fastest"):
        Codec.fit(data, graph=chain.product(stations))


def test_parts_may_be_of_several_dimensions_and_of_one_vertex():
    grid, stations = DependencyGraph.grid((2, 3), diagonal=True), FACTORS["stations"]
    graph = grid.product(stations.product(DependencyGraph.chain(1)))
    assert graph.parts == (6, 6, 1)
    data = xr.DataArray(RNG.normal(size=(20, 2, 3, 6)), dims=("sample", "y", "x", "station"))
    assert Codec.fit(data, graph=graph).graph == graph
    assert Codec.fit(data.expand_dims("day", 4), sample_dim="sample", graph=graph).graph == graph
    with pytest.raises(ValueError, match="last running fastest"):
        Codec.fit(data.transpose("sample", "y", "station", "x"), graph=graph)
    assert graph.subgraph(np.arange(36) % 2 == 0).parts == ()


@pytest.mark.parametrize("other", [5, None, np.eye(3)])
def test_what_is_no_graph_is_refused(other):
    with pytest.raises(TypeError, match="chain"):
        DependencyGraph.chain(3).product(other)
