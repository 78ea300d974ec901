"""Fields fitted tile by tile are those fitted whole in the same order; what is drawn from them is the same too."""

from dataclasses import dataclass, field
from types import SimpleNamespace

import numpy as np
import pytest

from nearfield.fitting.closed_form import build_field
from nearfield.fitting.elimination import predecessors
from nearfield.fitting.pooling import Pooling
from nearfield.fitting.tiled import build_tiled
from nearfield.graph import DependencyGraph
from nearfield.graph.tiling import Box, BoxTiling
from nearfield.methods.base import FitOptions
from nearfield.methods.tiled import _Tiles, patches
from nearfield.samples import Samples
from nearfield.score.conditional import ConditionalField
from nearfield.score.field import GaussianField
from nearfield.score.sparse import SparseMatrix
from nearfield.score.tiled_factor import TiledFactor
from nearfield.tiled_samples import TiledSamples


@dataclass
class Kept:
    """Tiles in memory."""

    tiles: dict = field(default_factory=dict)

    def write(self, tile, arrays, stage):
        self.tiles[stage, tile] = dict(arrays)

    def read(self, tile, stage):
        return self.tiles[stage, tile]

    def forget(self, stage):
        self.tiles = {key: arrays for key, arrays in self.tiles.items() if key[0] != stage}

    def done(self, stage):
        return {tile for name, tile in self.tiles if name == stage}


class Cells:
    """Samples on the cells of a lattice, in memory."""

    def __init__(self, values, lattice):
        self.values, self.lattice = values, lattice
        self.n_samples, self.n_channels = len(values), values.shape[-1]

    def read(self, box, samples=None):
        shape = self.lattice.shape
        numbers = np.zeros(1, dtype=int)
        for start, stop, length in zip(box.start, box.stop, shape, strict=True):
            numbers = (numbers[:, None] * length + np.arange(start, stop) % length).ravel()
        return self.values[:, numbers] if samples is None else self.values[samples][:, numbers]


def rough(graph, n, channels, seed=0):
    """Correlated samples on all cells of a lattice, of varying scale."""
    rng, shape = np.random.default_rng(seed), graph.lattice.shape
    x = rng.normal(size=(n, *shape, channels))
    for axis in range(1, len(shape) + 1):
        x = x + 0.6 * np.roll(x, 1, axis=axis) + 0.3 * np.roll(x, -1, axis=axis)
    x = x.reshape(n, -1, channels)
    return x * (1 + 0.2 * np.sin(np.arange(x.shape[1]) / 7))[:, None] + np.arange(channels)


def in_order(graph, order, radius):
    """Make a graph eliminate in an order."""
    graph.memory.get("elimination order", lambda: order, size=lambda found: 0)
    graph.memory.get(("predecessors", radius), lambda: predecessors(graph, radius, order), size=lambda table: 0)


CASES = {
    "chain": (DependencyGraph.chain(60), (12,), 2),
    "ring": (DependencyGraph.ring(60), (12,), 2),
    "plane": (DependencyGraph.grid((24, 31)), (9, 10), 1),
    "torus, diagonal": (DependencyGraph.grid((24, 30), periodic=True, diagonal=True), (8, 10), 1),
    "sea": (
        DependencyGraph.grid((24, 30)).subgraph(np.random.default_rng(1).random((24, 30)) > 0.2),
        (9, 10),
        1,
    ),
}
POOLINGS = [
    Pooling(0.0),
    Pooling(1.0),
    Pooling(0.4),
    Pooling(0.7, bandwidth=1.5),
    Pooling(1.0, location=Pooling(0.0), nugget=1e-3),
    Pooling(0.5, bandwidth=1.0, location=Pooling(1.0, 2.0)),
]


def assert_same(tiled, whole):
    """Compare a fit in tiles with the whole fit; return the whole field without corrections."""
    np.testing.assert_allclose(tiled.center, whole.center, atol=1e-12)
    np.testing.assert_allclose(tiled.scale, whole.scale, rtol=1e-12)
    np.testing.assert_allclose(tiled.variance, whole.variance, rtol=1e-10)
    difference = abs(tiled.field.factor.matrix - whole.field.factor.matrix)
    assert difference.max() < 1e-9 * abs(whole.field.factor.matrix).max()
    assert (tiled.full_width, tiled.width, tiled.raised) == (whole.full_width, whole.width, whole.raised)
    plain = GaussianField(whole.field.factor, whole.field.order, whole.field.n_channels, whole.field.hops)
    assert np.allclose(tiled.field.sample(3, seed=1), plain.sample(3, seed=1), atol=1e-8)
    return plain


@pytest.mark.parametrize("pooling", POOLINGS, ids=repr)
@pytest.mark.parametrize("name", CASES)
def test_a_tiled_fit_is_the_fit_in_the_order_of_the_tiles(name, pooling):
    graph, side, channels = CASES[name]
    radius = 2
    tiling = BoxTiling(graph, side)
    x = rough(graph, 40, channels)
    samples = TiledSamples(Cells(x, graph.lattice), tiling)
    tiled = build_tiled(samples, radius, pooling, Kept())
    present = x if graph.keep is None else x[:, graph.keep.ravel()]
    whole_graph = DependencyGraph(lattice=graph.lattice, keep=graph.keep)
    in_order(whole_graph, tiling.order(), radius)
    whole = build_field(Samples(present, whole_graph), radius, pooling)
    plain = assert_same(tiled, whole)
    y = np.random.default_rng(3).normal(size=(2, graph.n_vertices, channels))
    assert np.allclose(tiled.field.log_prob(y), plain.log_prob(y), rtol=1e-9)


def test_draws_of_tiles_do_not_depend_on_their_number():
    graph, side, channels = CASES["plane"]
    samples = TiledSamples(Cells(rough(graph, 40, channels), graph.lattice), BoxTiling(graph, side))
    drawn = build_tiled(samples, 2, Pooling(1.0), Kept()).field
    together = drawn.sample(5, seed=0)
    assert np.array_equal(together[3:], drawn.sample(2, seed=0, first_member=3))


def test_the_factor_solves_what_it_multiplies():
    graph, side, channels = CASES["ring"]
    samples = TiledSamples(Cells(rough(graph, 40, channels), graph.lattice), BoxTiling(graph, side))
    factor = build_tiled(samples, 2, Pooling(0.5), Kept()).field.factor
    x = np.random.default_rng(0).normal(size=(factor.n_variables, 3))
    assert np.allclose(factor.times(x), factor.matrix @ x)
    assert np.allclose(factor.solve(factor.times(x)), x)
    assert np.allclose(factor.matrix.T @ factor.solve(x, transposed=True), x)
    assert np.allclose(factor.diagonal(), factor.matrix.diagonal())
    short = factor.solve_leading(x[:31])
    assert np.allclose(factor.matrix[: len(short), : len(short)].T @ short, np.vstack([x[:31], 0 * x[31 : len(short)]]))


@pytest.mark.parametrize("name", ["plane", "torus, diagonal", "sea"])
def test_gaps_read_the_tiles_nearby_only(name):
    graph, side, channels = CASES[name]
    keeper, tiling = Kept(), BoxTiling(graph, side)
    fitted = build_tiled(
        TiledSamples(Cells(rough(graph, 40, channels), graph.lattice), tiling), 2, Pooling(1.0), keeper
    )
    read, whole = [], GaussianField(fitted.field.factor.matrix, fitted.field.order, channels, 2)
    keeper.read = lambda tile, stage, found=keeper.read: read.append(tile) or found(tile, stage)
    factor = TiledFactor(graph, side, 2, channels, "field", keeper)
    tiled = GaussianField(factor, tiling.order(), channels, 2)
    observed = np.ones((graph.n_vertices, channels), dtype=bool)
    observed[tiling.vertices(Box((4, 3), (8, 9)))] = False
    law, expected = ConditionalField(tiled, observed), ConditionalField(whole, observed)
    assert 0 < len(set(read)) < len(tiling)
    x = np.random.default_rng(0).normal(size=(3, graph.n_vertices, channels))
    np.testing.assert_allclose(law.mean(x), expected.mean(x), atol=1e-10)
    np.testing.assert_allclose(law.variance(~observed), expected.variance(~observed), rtol=1e-10)
    np.testing.assert_allclose(law.times(x), expected.times(x), atol=1e-10)
    np.testing.assert_allclose(law.log_det(), expected.log_det(), rtol=1e-12)


def test_rows_that_touch_columns_are_those_with_an_entry_there():
    graph, side, channels = CASES["ring"]
    samples = TiledSamples(Cells(rough(graph, 40, channels), graph.lattice), BoxTiling(graph, side))
    factor = build_tiled(samples, 2, Pooling(0.5), Kept()).field.factor
    whole = factor.matrix.toarray()
    for chosen in ([], [0], [7, 8, 40], range(factor.n_variables)):
        columns = np.array(chosen, dtype=int)
        wanted = whole[(whole[:, columns] != 0).any(axis=1)]
        assert np.array_equal(factor.touching(columns).toarray(), wanted)
        assert np.array_equal(SparseMatrix.of(factor.matrix).touching(columns).toarray(), wanted)


def test_tiles_narrower_than_the_windows_are_refused():
    graph = DependencyGraph.grid((12, 12))
    samples = TiledSamples(Cells(rough(graph, 20, 1), graph.lattice), BoxTiling(graph, (3, 3)))
    with pytest.raises(ValueError, match="tiles must be wider than 3 cells"):
        build_tiled(samples, 3, Pooling(1.0), Kept())


def test_a_radius_whose_draws_lack_variance_gives_way_to_a_wider_one_of_hardly_more_loss():
    graph, side, channels = CASES["plane"]
    x = rough(graph, 200, channels)
    samples = TiledSamples(Cells(x, graph.lattice), BoxTiling(graph, side))
    tiles = _Tiles(samples, *patches(samples), Kept(), FitOptions())
    narrow = tiles.checked(1, Pooling(1.0), settle=False)
    assert narrow.off is not None

    def selection(loss):
        curve = [SimpleNamespace(radius=4, pooling=Pooling(1.0), loss=loss), SimpleNamespace(radius=1, loss=1.0)]
        return SimpleNamespace(curve=curve, table=curve, best=1)

    found, reason = tiles.wider(narrow, selection(1.0005), "Radius 1.")
    assert (found.radius, found.worst < narrow.worst) == (4, True)
    assert "Radius 4 was taken" in reason
    assert tiles.wider(narrow, selection(1.1), "")[0] is narrow
    assert tiles.wider(found, selection(1.0), "")[0] is found
