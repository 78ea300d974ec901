"""Samples with gaps that are fitted tile by tile: against the fit in memory, and against known laws."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp

from nearfield.fitting import tiled_expectation
from nearfield.fitting.closed_form import build_field
from nearfield.fitting.expectation import expected
from nearfield.fitting.pooling import Pooling
from nearfield.fitting.tiled import build_tiled
from nearfield.fitting.tiled_expectation import completed_tiles, expectation_of_tiles
from nearfield.graph import DependencyGraph
from nearfield.graph.tiling import Box, BoxTiling
from nearfield.noise import Stream, normals
from nearfield.samples import Samples
from nearfield.score import box_gaps
from nearfield.tiled_samples import TiledSamples
from test_tiled_fit import Cells, Kept, in_order, rough


def gappy(x, shape, seed=1, share=0.15):
    """Samples with scattered values missing, and a swath of each."""
    rng = np.random.default_rng(seed)
    missing = rng.random(x.shape) < share
    column = np.arange(x.shape[1]) % shape[-1]
    for k in range(len(x)):
        if k % 5:  # some have no swath
            missing[k, (column - rng.integers(shape[-1])) % shape[-1] < shape[-1] // 5] = True
    return np.where(missing, np.nan, x)


def tiles(graph, side, x):
    """Read them tile by tile, with the counts of their values."""
    present = x if graph.keep is None else x[:, graph.keep.ravel()]
    count = np.count_nonzero(~np.isnan(present), axis=0)
    return TiledSamples(Cells(x, graph.lattice), BoxTiling(graph, side), n_observed=count), present


def all_pairs(graph, radius, channels):
    """Pairs of variables that whole windows share; those of earlier vertices alone are fewer."""
    table = graph.neighborhood(2 * radius)
    row = np.repeat(np.arange(len(table.index)), table.present.sum(axis=1))
    pairs = sp.csr_array((np.ones(len(row)), (row, table.index[table.present])))
    return sp.csr_array(sp.kron(pairs, np.ones((channels, channels))))


CASES = {
    "plane": (DependencyGraph.grid((24, 24)), (8, 8), 1),
    "two channels": (DependencyGraph.grid((9, 14)), (9, 7), 2),
    "ring": (DependencyGraph.ring(60), (12,), 1),
    "sea": (
        DependencyGraph.grid((16, 16), periodic=(False, True)).subgraph(
            np.random.default_rng(1).random((16, 16)) > 0.2
        ),
        (8, 8),
        1,
    ),
}


@pytest.fixture
def exact(monkeypatch):
    """Whole fields around each tile, and covariances instead of draws."""
    monkeypatch.setattr(tiled_expectation, "LEAST", 100)
    monkeypatch.setattr(box_gaps, "EXACT", 1 << 20)


@pytest.mark.parametrize(
    ("name", "pooling"),
    [
        ("plane", Pooling(1.0)),
        ("two channels", Pooling(0.0)),
        ("ring", Pooling(0.4)),
        ("sea", Pooling(0.4)),
        ("sea", Pooling(0.7, bandwidth=1.5)),
    ],
    ids=repr,
)
def test_iterations_of_tiles_are_those_in_memory(name, pooling, exact):
    graph, side, channels = CASES[name]
    samples, present = tiles(graph, side, gappy(rough(graph, 30, channels), graph.lattice.shape))
    start = build_tiled(samples, 2, pooling, Kept())  # blocks of available cases depend on their absent entries
    found = expectation_of_tiles(samples, 2, pooling, Kept(), seed=0, start=start, most=2)
    whole_graph = DependencyGraph(lattice=graph.lattice, keep=graph.keep)
    in_order(whole_graph, samples.tiling.order(), 2)
    whole = Samples(present, whole_graph)
    pairs, fit = all_pairs(whole_graph, 2, channels), start
    for _ in range(2):
        completed, _ = expected(whole, fit, pairs)
        fit = build_field(completed, 2, pooling)
    part = found.samples.on(Box((0,) * len(side), graph.lattice.shape))
    assert part.spread is not None
    np.testing.assert_allclose(part.values, completed.values, atol=1e-9)
    wanted = pairs.toarray() > 0
    np.testing.assert_allclose(part.spread.toarray()[wanted], completed.spread.toarray()[wanted], atol=1e-9)
    tiled = build_tiled(found.samples, 2, pooling, Kept())
    np.testing.assert_allclose(tiled.center, fit.center, atol=1e-9)
    np.testing.assert_allclose(tiled.scale, fit.scale, rtol=1e-9)
    assert abs(tiled.field.factor.matrix - fit.field.factor.matrix).max() < 1e-8


def fitted(name, radius=2, pooling=Pooling(1.0)):  # noqa: B008
    """Samples of a case, whole, and a field fitted to their available cases."""
    graph, side, channels = CASES[name]
    samples, present = tiles(graph, side, gappy(rough(graph, 30, channels), graph.lattice.shape))
    return samples, present, build_tiled(samples, radius, pooling, Kept())


def everywhere(samples):
    """The box of all cells."""
    shape = samples.tiling.lattice.shape
    return samples.on(Box((0,) * len(shape), shape))


@pytest.mark.parametrize("band", [0, box_gaps.BAND], ids=["sparse", "banded"])
@pytest.mark.parametrize("name", ["two channels", "sea"])
def test_draws_of_tiles_are_those_of_the_whole_field(name, band, exact, monkeypatch):
    """Less the mean, that of the precision times the whole factor's product with the numbers of each vertex."""
    monkeypatch.setattr(box_gaps, "BAND", band)
    samples, present, fit = fitted(name)
    channels = samples.n_channels
    drawn = everywhere(completed_tiles(samples, fit, Kept(), "drawn", seed=3))
    assert drawn.observed is None
    assert np.array_equal(drawn.values[~np.isnan(present)], present[~np.isnan(present)])
    factor, place = fit.field.factor.matrix, fit.field._place
    precision = (factor.T @ factor).toarray()
    for k in (0, 7):
        e = normals(3, Stream.CONDITIONAL, [k], 0, present.shape[1], channels).ravel()[place]
        y = ((present[k] - fit.center) / fit.scale).ravel()[place]
        gone = np.isnan(y)
        right = (factor.T @ e - precision[:, ~gone] @ y[~gone])[gone]
        found = ((drawn.values[k] - fit.center) / fit.scale).ravel()[place][gone]
        np.testing.assert_allclose(found, np.linalg.solve(precision[np.ix_(gone, gone)], right), atol=1e-9)
    assert np.array_equal(everywhere(samples.completed(drawn_again(samples, fit, 3))).values, drawn.values)
    part = samples.completed(drawn_again(samples, fit, 3)).take(np.array([2, 9]))
    assert np.array_equal(everywhere(part).values, drawn.values[[2, 9]])


def drawn_again(samples, fit, seed):
    """What stands for missing values in the draws."""
    return completed_tiles(samples, fit, Kept(), "drawn", seed).completion


def test_many_missing_values_have_the_covariance_of_draws(monkeypatch):
    """Sums over the variances of 576 vertices, and over pairs, from 240 draws each: 5 standard errors are below .05."""
    monkeypatch.setattr(tiled_expectation, "LEAST", 100)
    found = []
    for few in (0, 1 << 20):
        monkeypatch.setattr(box_gaps, "EXACT", few)
        samples, _, fit = fitted("plane")
        kept = Kept()
        for tile in range(9):
            tiled_expectation._complete_tile(tile, samples, tiled_expectation._Law.of(fit), 4, kept, "s", 0)
        found.append(everywhere(samples.completed(tiled_expectation.Completed.of(samples, kept, "s", 4))))
    drawn, known = (part.spread.toarray() for part in found)
    np.testing.assert_allclose(found[0].values, found[1].values, atol=1e-9)
    assert np.trace(drawn) == pytest.approx(np.trace(known), rel=0.05)
    pairs = (known != 0) & ~np.eye(len(known), dtype=bool)
    assert (drawn[known != 0] != 0).all()
    slope = (drawn[pairs] * known[pairs]).sum() / (known[pairs] ** 2).sum()
    assert slope == pytest.approx(1.0, abs=0.05)
    np.testing.assert_allclose(drawn, drawn.T)


def test_what_is_beyond_the_halo_moves_means_by_less_than_stated():
    """A chain with gaps of up to 90 of 400 vertices, and halos of 16, 32 or 64: errors in standard deviations."""
    graph = DependencyGraph.chain(400)
    x = np.random.default_rng(0).normal(size=(30, 401, 1))
    for k in range(1, 401):
        x[:, k] = 0.95 * x[:, k - 1] + 0.31 * x[:, k]
    x = np.where(np.random.default_rng(1).random((30, 400, 1)) < 0.3, np.nan, x[:, 1:])
    for k in range(0, 30, 3):
        x[k, 10 * k : 10 * k + 30 + 2 * k] = np.nan
    samples, _ = tiles(graph, (40,), x)
    fit = build_tiled(samples, 1, Pooling(1.0), Kept())
    whole = tiled_expectation._completed_in
    shift, error = [], []
    for tile in range(10):
        kept = Kept()
        tiled_expectation._complete_tile(tile, samples, tiled_expectation._Law.of(fit), 2, kept, "s", 0)
        near = kept.read(tile, "s")
        far = whole(Box((0,), (400,)), tile, samples, tiled_expectation._Law.of(fit), 2, 0)
        assert np.array_equal(near["entry"], far["entry"])
        shift.append(float(near["shift"][0]))
        error.append(np.abs(near["value"] - far["value"]).max() / fit.scale.min())
        assert far["shift"] == 0.0
    assert 0 < max(shift) <= tiled_expectation.FAR
    assert max(error) < 3 * max(shift)


class EndedError(Exception):
    """The fit was ended."""


class Frail(Kept):
    """Tiles in memory, of which only so many are written."""

    left = 10**9

    def write(self, tile, arrays, stage):
        if self.left == 0:
            raise EndedError
        self.left -= 1
        super().write(tile, arrays, stage)


def test_iterations_that_were_ended_go_on_to_the_same_bits():
    samples, _, _ = fitted("ring")
    pooling = Pooling(0.5)
    keeper = Frail()
    whole = expectation_of_tiles(samples, 2, pooling, keeper, seed=0, most=3)
    n_written, found = 10**9 - keeper.left, everywhere(whole.samples)
    assert len(whole.gains) == 3
    assert {stage for stage, _ in keeper.tiles} == {f"expected-2-{len(whole.gains) - 1}", "gains-2"}
    for last in (3, n_written // 2, n_written - 1):
        keeper = Frail()
        keeper.left = last
        with pytest.raises(EndedError):
            expectation_of_tiles(samples, 2, pooling, keeper, seed=0, most=3)
        keeper.left = 10**9
        again = expectation_of_tiles(samples, 2, pooling, keeper, seed=0, most=3)
        assert again.gains == whole.gains
        part = everywhere(again.samples)
        assert np.array_equal(part.values, found.values)
        assert np.array_equal(part.spread.toarray(), found.spread.toarray())


def test_samples_with_a_spread_are_not_divided():
    samples, _, _ = fitted("ring")
    found = expectation_of_tiles(samples, 2, Pooling(1.0), Kept(), seed=0, most=1).samples
    assert (samples.incomplete, found.incomplete) == (True, False)
    with pytest.raises(ValueError, match="samples with a spread cannot be divided"):
        found.take(np.arange(3))


def test_tiles_without_gaps_are_read_as_they_are():
    graph, side, channels = CASES["plane"]
    x = rough(graph, 30, channels)
    x[3, 100] = np.nan  # in one tile of nine
    samples, _ = tiles(graph, side, x)
    kept = Kept()
    found = expectation_of_tiles(samples, 2, Pooling(0.4), kept, seed=0, most=1).samples
    assert sum(len(kept.read(tile, "expected-2-0")["value"]) for tile in range(9)) == 1
    assert found.on(samples.tiling.box(8)).spread is None
    assert everywhere(found).spread.nnz == 1


@pytest.mark.parametrize("name", ["two channels", "sea"])
def test_rows_on_a_box_are_all_that_read_it(name):
    samples, _, fit = fitted(name)
    factor, place, tiling = fit.field.factor, fit.field._place, samples.tiling
    natural = np.empty_like(factor.matrix.toarray())
    natural[np.ix_(place, place)] = factor.matrix.toarray()
    for box in (tiling.grown(tiling.box(1), 1), Box((2, 3), (5, 6))):
        inside = (tiling.vertices(box)[:, None] * samples.n_channels + np.arange(samples.n_channels)).ravel()
        found = factor.on(box)
        row = found.vertex * samples.n_channels + found.channel
        assert sorted(row) == np.flatnonzero((natural[:, inside] != 0).any(axis=1)).tolist()
        assert np.array_equal(found.matrix.toarray(), natural[np.ix_(row, inside)])
        np.testing.assert_allclose(found.outside, np.delete(natural[row], inside, axis=1).sum(axis=1), atol=1e-12)


def test_tiles_in_a_box_are_those_of_its_cells():
    tiling = BoxTiling(DependencyGraph.grid((24, 31), periodic=(False, True)), (9, 10))
    for box in (Box((0, -3), (5, 4)), Box((8, 9), (10, 10)), Box((0, 25), (24, 45)), Box((20, 0), (24, 31))):
        cells = set(tiling.cells(box).tolist())
        cut = [tile for tile in range(len(tiling)) if cells & set(tiling.cells(tiling.box(tile)).tolist())]
        assert tiling.tiles_in(box) == cut


def test_gaps_wider_than_the_boxes_are_told():
    graph = DependencyGraph.chain(600)
    x = np.cumsum(np.random.default_rng(0).normal(size=(20, 601, 1)), axis=1)
    x = (x[:, 1:] - x[:, :1]) / 20 + np.random.default_rng(1).normal(size=(20, 1, 1))
    start = build_tiled(tiles(graph, (60,), x)[0], 1, Pooling(1.0), Kept())
    x[3:6, 60:540] = np.nan
    samples, _ = tiles(graph, (60,), x)
    with pytest.warns(UserWarning, match="gaps are wider than the boxes that missing values are computed from"):
        found = expectation_of_tiles(samples, 1, Pooling(1.0), Kept(), seed=0, start=start, most=1)
    assert found.shift > 0.2
    assert f"would move by at most {found.shift:.2g} standard deviations" in found.describe()
