"""Tiles of lattices: they cover the graph, hold what is near, and colours keep them apart."""

import numpy as np
import pytest

from nearfield.graph import DependencyGraph
from nearfield.graph.tiling import Box, BoxTiling, Tiling

HOLES = DependencyGraph.grid((9, 8)).subgraph(np.random.default_rng(0).random((9, 8)) > 0.2)
GRAPHS = [
    DependencyGraph.chain(13),
    DependencyGraph.ring(11),
    DependencyGraph.grid((7, 5)),
    DependencyGraph.torus((9, 10)),
    DependencyGraph.grid((4, 6, 5), diagonal=True),
    DependencyGraph.grid((12, 3), periodic=(True, False)),
    HOLES,
]


@pytest.mark.parametrize("graph", GRAPHS, ids=repr)
def test_each_vertex_is_in_one_tile_and_the_order_is_by_colour_tile_and_number(graph):
    tiling = BoxTiling(graph, (3,) * len(graph.lattice.shape))
    order = tiling.order()
    assert np.array_equal(np.sort(order), np.arange(graph.n_vertices))
    sequence = [tile for tiles in tiling.by_color() for tile in tiles]
    start = 0
    for tile in sequence:
        own = tiling.vertices(tiling.box(tile))
        assert np.array_equal(order[start : start + len(own)], np.sort(own))
        start += len(own)
    whole = Box((0,) * len(graph.lattice.shape), graph.lattice.shape)
    assert np.array_equal(np.argsort(tiling.ranks(whole)), order)


@pytest.mark.parametrize("graph", GRAPHS, ids=repr)
def test_tiles_of_one_colour_do_not_touch_and_the_box_around_holds_what_is_near(graph):
    tiling = BoxTiling(graph, (3,) * len(graph.lattice.shape))
    hops, tile = graph.distance_matrix(), np.empty(graph.n_vertices, dtype=int)
    for k in range(len(tiling)):
        tile[tiling.vertices(tiling.box(k))] = k
    color = np.array([tiling.color(k) for k in range(len(tiling))])
    alike = (color[tile][:, None] == color[tile]) & (tile[:, None] != tile)
    assert not alike.any() or hops[alike].min() > 1
    assert set(color) == set(range(tiling.n_colors))
    for k in range(len(tiling)):
        outer = tiling.around(k, 2)
        vertices, part = tiling.vertices(outer), tiling.graph_of(outer)
        assert part.n_vertices == len(vertices) == len(tiling.ranks(outer))
        own = tiling.within(tiling.box(k), outer)
        assert np.array_equal(vertices[own], tiling.vertices(tiling.box(k)))
        near = np.flatnonzero((hops[vertices[own]] <= 2).any(axis=0))
        assert np.isin(near, vertices).all()
        inside = part.distance_matrix()[own]
        assert np.array_equal(inside <= 2, hops[vertices[own]][:, vertices] <= 2)


def test_sides_follow_from_the_shape_alone():
    sides = [Tiling.of(DependencyGraph.grid(shape)).side for shape in [(1000, 1000), (10, 100_000), (100, 100, 100)]]
    assert sides == [(128, 128), (10, 1638), (25, 26, 25)]
    assert Tiling.of(DependencyGraph.chain(10**6)).side == (16384,)


def test_graphs_off_lattices_and_other_sides_are_refused():
    with pytest.raises(ValueError, match="boxes need a lattice"):
        BoxTiling.of(DependencyGraph.from_edges(3, [(0, 1)]))
    with pytest.raises(ValueError, match="side must have a positive length for each axis"):
        BoxTiling(DependencyGraph.grid((4, 4)), (2,))
