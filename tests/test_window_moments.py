"""Second moments of windows that are kept for all folds, against blocks gathered anew from standardised samples."""

from __future__ import annotations

import numpy as np
import pytest

from nearfield.fitting import pooling as module
from nearfield.fitting import selection, window_moments
from nearfield.fitting.covariance import local_blocks
from nearfield.fitting.elimination import predecessors
from nearfield.fitting.pooling import Pooling
from nearfield.fitting.search import Search
from nearfield.fitting.selection import select_field
from nearfield.fitting.window_moments import FoldMoments, fold_moments, recentred, whole
from nearfield.graph import DependencyGraph
from nearfield.graph.lattice import Lattice
from nearfield.samples import Samples

GRAPHS = [
    DependencyGraph.grid((4, 5)),
    DependencyGraph.ring(9),
    DependencyGraph.chain(1),
    DependencyGraph.from_edges(6, [(0, 3), (3, 5), (1, 5), (2, 4)]),
    DependencyGraph.knn(np.random.default_rng(0).random((15, 2)), 3),
]


def temperatures(n_samples: int, n: int, channels: int = 2, seed: int = 0) -> np.ndarray:
    """Deviations of about 1 around means of 280, that differ from place to place."""
    rng = np.random.default_rng(seed)
    mix = np.eye(n * channels) + rng.normal(size=(n * channels,) * 2) / np.sqrt(n * channels)
    x = rng.normal(size=(n_samples, n * channels)) @ mix + 280.0 + 5.0 * rng.normal(size=n * channels)
    return x.reshape(n_samples, n, channels)


@pytest.mark.parametrize("graph", GRAPHS, ids=repr)
@pytest.mark.parametrize("own_scale", [True, False])
def test_recentred_moments_are_the_blocks_of_standardised_samples(graph, own_scale, monkeypatch):
    """Of several passes, of parts of unequal size, about centres that are not the means."""
    monkeypatch.setattr(window_moments, "_CHUNK", 500)
    x, parts = temperatures(17, len(graph)), Samples(np.zeros((17, 1, 1)), GRAPHS[2]).folds(4, 1)
    means = np.stack([np.delete(x, part, axis=0).mean(axis=0) for part in parts])
    table, rng = predecessors(graph, 2), np.random.default_rng(2)
    for fold, kept in enumerate(fold_moments(x, table.index, parts, means)):
        center = means[fold] + rng.normal(size=means[fold].shape)
        scale = rng.uniform(0.5, 2.0, size=center.shape if own_scale else (1, 2)) + np.zeros_like(center)
        blocks = recentred(kept, table.index, means[fold] - center, scale)
        expected = local_blocks((np.delete(x, parts[fold], axis=0) - center) / scale, table.index)
        np.testing.assert_allclose(whole(blocks, expected.shape[1]), expected, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("graph", GRAPHS, ids=repr)
@pytest.mark.parametrize(
    "pooling",
    [
        Pooling(0.0),
        Pooling(0.4, 1.0),
        Pooling(1.0, 1.0),
        Pooling(0.3, nugget=1e-3),
        Pooling(1.0),
        Pooling(0.4, 1.0, Pooling(1.0)),
        Pooling(1.0, location=Pooling(0.0)),
    ],
)
@pytest.mark.parametrize("standard", [(), (True, False)])
def test_held_out_losses_are_those_of_blocks_gathered_anew(graph, pooling, standard, monkeypatch):
    x = temperatures(30, len(graph))
    if standard:
        x[..., 0] -= 280.0
    settings = {"radius": 1, "pooling": pooling, "folds": 4, "search": Search(seed=3)}
    samples = Samples(x, graph, standard=standard)
    kept = select_field(samples, **settings)
    monkeypatch.setattr(FoldMoments, "of", lambda self, radius, table: None)
    anew = select_field(samples, **settings)
    np.testing.assert_allclose([c.loss for c in kept.table], [c.loss for c in anew.table], rtol=1e-9)
    np.testing.assert_allclose([c.error for c in kept.table], [c.error for c in anew.table], rtol=1e-9)


def test_distinct_rows_are_those_of_numpy():
    rows = np.random.default_rng(0).random((200, 11)) < 0.9
    kinds, which = module.distinct_rows(rows)
    expected = np.unique(rows, axis=0, return_counts=True)
    order = np.lexsort(kinds.T[::-1])
    np.testing.assert_array_equal(kinds[order], expected[0])
    np.testing.assert_array_equal(np.bincount(which)[order], expected[1])
    np.testing.assert_array_equal(kinds[which], rows)


def test_moments_are_kept_within_the_room_there_is(monkeypatch):
    """Blocks of 1, 3 and 5 members are 1, 6 and 15 numbers; of radius 1 and 2 both are, with radius 0 they are not."""
    graph, x = DependencyGraph.ring(20), temperatures(12, 20, 1)
    parts = [np.arange(6), np.arange(6, 12)]
    means = np.stack([np.delete(x, part, axis=0).mean(axis=0) for part in parts])
    tables = [graph.neighborhood(radius) for radius in range(4)]
    monkeypatch.setattr(window_moments, "BUDGET", 2 * 20 * 21)
    moments = FoldMoments(x, parts, means)
    first, second = (moments.of(radius, tables[radius]) for radius in (1, 2))
    assert moments.of(1, tables[1]) is first
    assert moments.of(2, tables[2]) is second
    assert moments.of(0, tables[0]) is not None
    assert set(moments.memory._kept) == {2, 0}  # 1 was used longest ago
    assert moments.of(2, tables[2]) is second
    assert moments.of(3, tables[3]) is None
    assert moments.of(1, tables[1]) is not first


def counted(monkeypatch, module, name: str) -> list[tuple]:
    """Arguments of the calls of a function from here on."""
    calls, plain = [], getattr(module, name)

    def noted(*arguments, **options):
        calls.append(arguments)
        return plain(*arguments, **options)

    monkeypatch.setattr(module, name, noted)
    return calls


def test_in_a_choice_nothing_is_computed_twice(monkeypatch):
    """Windows are gathered once a radius, locations pooled once a setting, whatever the number of folds."""
    homes = {"fold_moments": window_moments, "pooled_location": selection, "vertex_moments": selection}
    counts = {name: counted(monkeypatch, module, name) for name, module in homes.items()}
    monkeypatch.setattr(selection, "regress_windows", None)  # none is gathered anew
    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, 12, 12))
    x += 0.7 * (np.roll(x, 1, axis=1) + np.roll(x, 1, axis=2))
    tables, smoothers = counted(monkeypatch, Lattice, "table"), counted(monkeypatch, module, "_smoother")
    report = select_field(Samples(x.reshape(60, 144, 1), DependencyGraph.grid((12, 12))))
    assert len(tables) <= 3  # the widest for windows and for weights; the others are part of them
    assert len(smoothers) == len({(bandwidth, id(table)) for _, bandwidth, table in smoothers})
    assert len(report.table) > 30
    assert len(counts["fold_moments"]) == len({c.radius for c in report.table}) <= 9
    assert len(counts["vertex_moments"]) == 5
    settings = {(c.pooling.of_location.strength, c.pooling.of_location.bandwidth) for c in report.table}
    assert len(counts["pooled_location"]) == len(settings) <= 30
