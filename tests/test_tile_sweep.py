"""A field whose tiles are tasks has the draws and covariances of the whole field, on any worker and in any batch."""

import pickle

import numpy as np
import pytest
import scipy.sparse as sp

from nearfield.fitting import closed_form
from nearfield.fitting.pooling import Pooling
from nearfield.fitting.tiled import build_tiled
from nearfield.fitting.tiled_moments import _drawn_whole, _summary, _Taken
from nearfield.graph import DependencyGraph
from nearfield.graph.tiling import BoxTiling
from nearfield.noise import Stream
from nearfield.score import tile_sweep
from nearfield.score.field import CoarseLaw, GaussianField
from nearfield.score.tile_sweep import batches, draw_tiles
from nearfield.tiled_samples import TiledSamples, one_by_one
from test_tiled_fit import CASES, Cells, Kept, rough


def fitted(name):
    graph, side, channels = CASES[name]
    samples = TiledSamples(Cells(rough(graph, 40, channels), graph.lattice), BoxTiling(graph, side))
    return build_tiled(samples, 2, Pooling(1.0), Kept())


def elsewhere(function, items, *common):
    """Run tasks on workers that share no memory, the last first."""
    found = [pickle.loads(pickle.dumps(function(*pickle.loads(pickle.dumps((item, *common)))))) for item in items[::-1]]
    return found[::-1]


def whole(tile, drawn):
    return drawn


def joined(tiling, tiles):
    out = np.empty((len(tiles[0]), tiling.graph.n_vertices, tiles[0].shape[2]))
    for tile, values in enumerate(tiles):
        out[:, tiling.vertices(tiling.box(tile))] = values
    return out


@pytest.mark.parametrize("name", CASES)
def test_tiles_are_drawn_to_the_bits_of_the_whole(name):
    field = fitted(name).field
    drawn = field.sample(5, seed=3, first_member=2, stream=Stream.CHECK)
    settings = {"seed": 3, "stream": Stream.CHECK}
    tiles = draw_tiles(field.factor, range(2, 7), whole, **settings)
    assert np.array_equal(joined(field.factor.tiling, tiles), drawn)
    some = draw_tiles(field.factor, [6, 3], whole, run=elsewhere, **settings)
    assert np.array_equal(joined(field.factor.tiling, some), drawn[[4, 1]])


def test_a_tile_without_vertices_is_passed_over():
    keep = np.ones((24, 30), dtype=bool)
    keep[:12, :10] = False
    graph = DependencyGraph.grid((24, 30)).subgraph(keep)
    samples = TiledSamples(Cells(rough(graph, 40, 1), graph.lattice), BoxTiling(graph, (12, 10)))
    field = build_tiled(samples, 2, Pooling(1.0), Kept()).field
    tiles = draw_tiles(field.factor, range(2), whole, seed=0, stream=Stream.EXACT)
    assert tiles[0].shape == (2, 0, 1)
    label, size = np.arange(graph.n_vertices) // 60, np.ones((10, 1))
    alone = GaussianField(field.factor.matrix, field.order, 1, 2)
    np.testing.assert_allclose(
        field.block_covariance(label, size), alone.block_covariance(label, size), rtol=1e-11, atol=1e-13
    )
    assert np.array_equal(joined(field.factor.tiling, tiles), field.sample(2, seed=0))


def test_a_task_is_sent_the_border_alone():
    sent = []

    def run(function, items, *common):
        sent.extend(item[2].shape for item in items)
        return one_by_one(function, items, *common)

    field = fitted("plane").field
    draw_tiles(field.factor, range(3), whole, seed=0, stream=Stream.EXACT, run=run)
    tiling = field.factor.tiling
    assert len(sent) == len(tiling)
    ring = (9 + 4) * (10 + 4) - 9 * 10
    assert max(shape[0] for shape in sent) <= ring + 2 * (9 + 5)  # the last tile of an axis is a cell longer
    assert sent[0] == (0, 1, 3)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("blocks", [4, 23])
def test_covariances_of_block_means_are_those_of_the_whole_factor(name, blocks):
    field, rng = fitted(name).field, np.random.default_rng(1)
    label = np.sort(rng.permutation(np.arange(field.n_vertices) % blocks))
    label = label if blocks == 23 else rng.permutation(label)
    size = rng.uniform(0.5, 2.0, size=(blocks, field.n_channels))
    alone = GaussianField(field.factor.matrix, field.order, field.n_channels, 2)
    expected, found = alone.block_covariance(label, size), field.block_covariance(label, size)
    np.testing.assert_allclose(found, expected, rtol=1e-11, atol=1e-13 * expected.max())
    assert np.array_equal(found, found.T)
    assert np.array_equal(found, field.block_covariance(label, size, elsewhere))


def test_the_covariance_of_block_means_is_not_computed_where_it_is_known(monkeypatch):
    field = fitted("plane").field
    label, size = np.arange(field.n_vertices) // 120, np.full((7, 1), 0.3)
    law = GaussianField(sp.eye_array(7, format="csr"), np.arange(7))

    def corrected(before=None):
        return GaussianField(field.factor, field.order, 1, 2, CoarseLaw(label, 11, size, law, before))

    expected, known = corrected().sample(2, seed=0), corrected(field.block_covariance(label, size))
    monkeypatch.setattr(type(field.factor), "covariance", None)
    assert np.array_equal(pickle.loads(pickle.dumps(known)).sample(2, seed=0), expected)


def test_the_variance_of_draws_is_that_of_whole_draws(monkeypatch):
    fit = fitted("torus, diagonal")
    monkeypatch.setattr(closed_form, "TOGETHER", 7)
    total = np.zeros((fit.field.n_vertices, 1))
    for members in batches(fit.n_draws, fit.field.factor):  # each summed by itself, as rounding has it
        part = np.zeros_like(total)
        for first in members[::7]:
            whole = fit.field.sample(min(7, members.stop - first), seed=0, first_member=first)
            part += np.square(np.ascontiguousarray(whole)).sum(axis=0)
        total += part
    expected = np.quantile(total / fit.n_draws / fit.variance, [0.05, 0.95]).tolist()
    assert list(fit.ratio) == expected


@pytest.mark.parametrize(("sent", "held", "each"), [(64, 1000, 64), (1000, 48, 48), (2, 1000, 16), (1000, 1000, 128)])
def test_as_many_members_are_drawn_together_as_their_borders_allow(sent, held, each, monkeypatch):
    factor = fitted("chain").field.factor  # two channels, borders of two vertices at one or both ends of five tiles
    monkeypatch.setattr(tile_sweep, "SENT", sent * 2 * 4)
    monkeypatch.setattr(tile_sweep, "HELD", held * 2 * factor.borders.n_vertices)
    assert max(map(len, factor.borders.before)) == 4
    assert [len(members) for members in batches(300, factor)] == [each] * (300 // each) + [300 % each] * (
        300 % each > 0
    )


def test_summaries_of_tiles_are_those_of_whole_draws(monkeypatch):
    monkeypatch.setattr(tile_sweep, "MOST", 3)
    field = fitted("sea").field
    label, at = np.arange(field.n_vertices) // 50, np.array([3, 20, 50, 200, 201, 400])
    taken = _Taken(field.factor.tiling, label, at)
    tiles, once = _summary(field, 8, taken, 5, elsewhere), _drawn_whole(0, 8, field, taken, 5)
    drawn = field.sample(8, seed=5, stream=Stream.CHECK)
    assert np.array_equal(tiles.patch, drawn[:, at])
    for name in ("squares", "patch", "blocks"):
        assert np.array_equal(getattr(tiles, name), getattr(once, name))
    means = np.stack([drawn[:, label == block].mean(axis=1) for block in range(label.max() + 1)], axis=1)
    np.testing.assert_allclose(tiles.blocks, means, atol=1e-12)
    np.testing.assert_allclose(tiles.squares[:, 0], (drawn**2).sum(axis=(1, 2)), rtol=1e-12)


def test_a_pass_that_is_kept_is_made_once():
    graph, side, channels = CASES["plane"]
    samples = TiledSamples(Cells(rough(graph, 40, channels), graph.lattice), BoxTiling(graph, side))
    calls = []

    def mean(tile, part):
        calls.append(tile)
        return part.on(part.tiling.box(tile)).values.mean()

    one, zero = np.ones((graph.n_vertices, 1)), np.zeros((graph.n_vertices, 1))
    found = samples.standardized(zero, one).over_tiles(mean, kept="mean")
    again = samples.standardized(zero.copy(), one.copy())
    assert again.over_tiles(mean, kept="mean") == found
    assert len(calls) == len(found)
    assert again.over_tiles(mean) == found
    assert len(calls) == 2 * len(found)
    assert np.allclose(np.array(samples.standardized(one, one).over_tiles(mean, kept="mean")) + 1, found)
    assert again.take(np.arange(20)).over_tiles(mean, kept="mean") != found
    assert pickle.loads(pickle.dumps(again))._known == {}
