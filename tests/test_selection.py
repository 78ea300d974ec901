"""Choice of the locality: held-out losses by two paths, the rule on hand-made numbers, and known answers."""

from __future__ import annotations

import dataclasses
import gc
import inspect
import json
import math
import warnings
import weakref

import numpy as np
import pytest
import scipy.sparse.csgraph as csgraph
import torch
from pydantic import TypeAdapter

from nearfield.datasets import AutoregressiveChain
from nearfield.fitting import selection as module
from nearfield.fitting.closed_form import fit_field, fit_masked, fit_windowed
from nearfield.fitting.cross_validation import candidate_radii, patches
from nearfield.fitting.pooling import Pooling
from nearfield.fitting.radius import _denoising_loss, select_masked_radius, select_radius_by_time
from nearfield.fitting.search import Search
from nearfield.fitting.selection import SelectionReport, select_field
from nearfield.graph import DependencyGraph
from nearfield.process import noise_scale, signal_scale, time_of
from nearfield.samples import Samples, standard_error


def split(n: int, folds: int, ordered: bool, seed: int = 0) -> list[np.ndarray]:
    return Samples(np.zeros((n, 1, 1)), DependencyGraph.chain(1), ordered=ordered).folds(folds, seed)


def generic(n_samples: int, n: int, channels: int = 2, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    d = n * channels
    mix = np.eye(d) + rng.normal(size=(d, d)) / (2 * math.sqrt(d))
    return (rng.normal(size=(n_samples, d)) @ mix * 3 + rng.normal(size=d)).reshape(n_samples, n, channels)


@pytest.mark.parametrize(
    "graph",
    [
        DependencyGraph.grid((3, 4)),
        DependencyGraph.ring(9),
        DependencyGraph.chain(1),
        DependencyGraph.from_edges(6, [(0, 3), (3, 5), (1, 5), (2, 4)]),
    ],
    ids=repr,
)
@pytest.mark.parametrize(
    ("radius", "pooling"),
    [
        (0, Pooling(0.0)),
        (2, Pooling(0.0)),
        (1, Pooling(0.4, 1.0)),
        (2, Pooling(1.0)),
        (1, Pooling(0.4, 1.0, Pooling(1.0))),
        (2, Pooling(0.0, location=Pooling(0.3, 2.0))),
        (1, Pooling(1.0, location=Pooling(0.0))),
    ],
)
@pytest.mark.parametrize("ordered", [False, True])
def test_held_out_loss_is_the_log_density_of_the_field_fitted_to_the_rest(graph, radius, pooling, ordered):
    """In nats per dimension of the data in their own units, capped conditioning sets included."""
    x = generic(11, len(graph))
    report = select_field(
        Samples(x, graph, ordered=ordered), radius=radius, pooling=pooling, folds=3, search=Search(seed=5)
    )
    expected = np.empty(11)
    for test in split(11, 3, ordered, 5):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            center, scale, field = fit_field(Samples(np.delete(x, test, axis=0), graph), radius, pooling)
        density = field.log_prob((x[test] - center) / scale) - np.log(scale).sum()
        expected[test] = -density / (2 * len(graph))
    (only,) = report.table
    assert report.choice is only
    assert (only.radius, only.pooling) == (radius, pooling)
    np.testing.assert_allclose(only.loss, expected.mean(), rtol=1e-9)
    np.testing.assert_allclose(only.error, expected.std(ddof=1) / math.sqrt(11), rtol=1e-9)
    assert (only.difference, only.difference_error) == (0.0, 0.0)


def test_raw_data_are_scored_as_they_are():
    x, graph = generic(20, 5), DependencyGraph.chain(5)
    report = select_field(
        Samples(x, graph, ordered=True, standard=(True, True)), radius=1, pooling=Pooling(0.2), folds=2
    )
    halves = [(slice(0, 10), slice(10, 20)), (slice(10, 20), slice(0, 10))]
    losses = [
        -fit_field(Samples(x[train], graph, standard=(True, True)), 1, Pooling(0.2))[2].log_prob(x[test]) / 10
        for test, train in halves
    ]
    np.testing.assert_allclose(report.choice.loss, np.mean(losses), rtol=1e-10)


@pytest.mark.parametrize("ordered", [False, True])
def test_folds_are_a_partition(ordered):
    parts = split(23, 5, ordered, seed=3)
    np.testing.assert_array_equal(np.sort(np.concatenate(parts)), np.arange(23))
    assert {len(part) for part in parts} == {4, 5}
    runs = [bool((np.diff(part) == 1).all()) for part in parts]
    assert all(runs) if ordered else not any(runs)


def test_shuffles_depend_on_the_seed_alone():
    for again, same in ((3, True), (4, False)):
        pairs = zip(split(23, 5, False, seed=3), split(23, 5, False, seed=again), strict=True)
        assert all(np.array_equal(a, b) for a, b in pairs) == same


def test_standard_error_along_time_is_that_of_twenty_block_means():
    values = np.repeat(np.arange(20.0), 5)  # perfectly dependent within blocks
    assert standard_error(values, ordered=True) == pytest.approx(np.std(np.arange(20), ddof=1) / math.sqrt(20))
    assert standard_error(values) == pytest.approx(values.std(ddof=1) / 10)
    assert standard_error(values[:30], ordered=True) == pytest.approx(values[:30].std(ddof=1) / math.sqrt(30))


def test_one_standard_error_rule_takes_the_smallest_of_those_close_to_the_best():
    """Paired differences to radius 3 have standard error .2 (radius 2), .6 (radius 1) and .1 (radius 0)."""
    swing = np.tile([1.0, -1.0], 8) * math.sqrt(15 / 16)  # sample deviation 1, so error 1/4
    base = np.linspace(0, 5, 16)
    losses = {3: base, 2: base + 0.15 + 0.8 * swing, 1: base + 0.55 + 2.4 * swing, 0: base + 0.15 + 0.4 * swing}

    def report(order) -> tuple[int, int]:
        graph = DependencyGraph.chain(9)
        trials = module._Trials(Samples(np.zeros((16, 9, 1)), graph), split(16, 2, True), Search())
        trials.losses = {(r, Pooling(0.0)): losses[r] for r in order}
        table, chosen, best = trials.table()
        assert [c.radius for c in table] == sorted(order)
        for c in table:
            assert c.difference == pytest.approx(
                (losses[c.radius] - losses[min(order, key=lambda r: losses[r].mean())]).mean()
            )
        return table[chosen].radius, table[best].radius

    assert report([0, 1, 2, 3]) == (1, 3)  # .55 <= .6, and 0 is out: .15 > .1
    assert report([0, 2, 3]) == (2, 3)
    assert report([0, 3]) == (3, 3)


def test_size_counts_entries_and_the_effective_number_of_vertices():
    """An interior block of n alike vertices costs 1/n of its own; half pooled, a quarter of its own remains."""
    graph = DependencyGraph.chain(10)
    trials = module._Trials(Samples(np.zeros((8, 10, 2)), graph), split(8, 2, True), Search())
    members = 2 * (1 + 2 + 3 * 8) / 10
    assert trials.size(2, Pooling(0.0)) == pytest.approx(members)
    assert trials.size(2, Pooling(1.0)) == pytest.approx(members / 10)
    assert trials.size(2, Pooling(0.5)) == pytest.approx(members * (0.25 + 0.75 / 10))
    assert trials.size(2, Pooling(1.0, location=Pooling(0.0))) == pytest.approx(members / 10 + 2 * (1 - 1 / 10))
    near = np.exp(-(np.arange(-3, 4) ** 2) / 2.0)
    wide = module._Trials(Samples(np.zeros((8, 99, 1)), DependencyGraph.ring(99)), split(8, 2, True), Search())
    assert wide.n_effective(1.0) == pytest.approx(near.sum() ** 2 / (near**2).sum())


@pytest.mark.parametrize(
    "graph",
    [DependencyGraph.grid((64, 64)), DependencyGraph.chain(5000), DependencyGraph.from_edges(5000, [(0, 1)])],
    ids=["grid", "chain", "hardly connected"],
)
def test_a_large_graph_is_represented_by_patches_of_the_right_total(graph):
    keep = patches(graph, 400)
    assert keep.sum() == 400
    assert patches(graph, len(graph)).all()


def test_patches_are_compact_and_apart():
    keep = patches(DependencyGraph.grid((100, 100)), 400)
    part = DependencyGraph.grid((100, 100)).subgraph(keep)
    count, name = csgraph.connected_components(part.adjacency, directed=False)
    assert count == 4
    assert np.bincount(name).tolist() == [100] * 4
    hops = part.distance_matrix()
    assert hops[np.isfinite(hops)].max() <= 16  # a ball of 100 cells has radius 7


def test_selection_of_a_large_graph_looks_at_the_patches_alone(monkeypatch):
    monkeypatch.setattr(inspect.unwrap(patches), "__defaults__", (40,))
    graph, x = DependencyGraph.chain(200), generic(12, 200, 1)
    keep = patches(graph)
    settings = {"radius": 1, "pooling": Pooling(0.3), "folds": 3}
    whole, part = (
        select_field(Samples(x, graph, ordered=True), **settings),
        select_field(Samples(x[:, keep], graph.subgraph(keep), ordered=True), **settings),
    )
    assert whole.table == part.table
    assert "on 40 of the 200 vertices" in whole.reason


@pytest.mark.parametrize(("alpha", "radius"), [(0.0, 0), (0.8, 1)])
def test_the_known_radius_of_a_chain_is_found(alpha, radius):
    chain = AutoregressiveChain(alpha, 40)
    for pooling in (Pooling(0.0), None):
        report = select_field(Samples(chain.sample(100, 1), chain.graph), pooling=pooling)
        assert report.choice.radius == radius
    assert report.choice.strength >= 0.9  # the law is stationary
    assert report.choice.bandwidth >= 16


def test_a_report_holds_the_whole_curve_of_the_chosen_pooling():
    chain = AutoregressiveChain(0.7, 12)
    calls = []
    report = select_field(
        Samples(chain.sample(40, 0), chain.graph, ordered=True), search=Search(progress=lambda: calls.append(1))
    )
    assert [c.radius for c in report.curve] == list(candidate_radii(chain.graph))
    assert {c.pooling for c in report.curve} == {dataclasses.replace(report.choice.pooling, location=None)}
    assert report.table[report.best].loss == min(c.loss for c in report.table)
    assert len(calls) >= len(report.table)
    assert (report.folds, report.ordered, report.radius_by_time) == (5, True, None)
    assert f"Radius {report.choice.radius}" in report.reason


def test_where_settings_are_passed_over_the_curve_and_the_reason_are_those_of_what_is_taken(monkeypatch):
    """The draws of only one pooling are taken for sound, one that was tried at a single radius."""
    x, graph, sound = generic(40, 12, 1), DependencyGraph.grid((3, 4)), Pooling(0.2, 3.0)
    monkeypatch.setattr(module._Trials, "fitted", lambda self, candidate: (candidate.pooling == sound, True))
    monkeypatch.setattr(module, "CHECKED", 1000)
    report = select_field(Samples(x, graph), search=Search(seed=0))
    assert report.choice.pooling == sound
    assert report.choice.loss == min(c.loss for c in report.curve)
    assert [c.radius for c in report.curve] == list(candidate_radii(graph))
    assert "among candidates whose draws have the variance" in report.reason
    assert "standard error" not in report.reason


def test_selection_is_reproducible_whatever_the_number_of_jobs():
    x, graph = generic(24, 8, 1), DependencyGraph.ring(8)
    one = select_field(Samples(x, graph), search=Search(seed=1))
    assert select_field(Samples(x, graph), search=Search(seed=1, n_jobs=2)) == one
    assert select_field(Samples(x, graph), search=Search(seed=2)).table != one.table


def test_the_layout_of_the_samples_in_memory_changes_nothing():
    x, graph = generic(24, 8, 1), DependencyGraph.ring(8)
    assert select_field(Samples(np.asfortranarray(x), graph)) == select_field(Samples(x, graph))


def test_a_report_survives_json():
    x, graph = generic(24, 8, 1), DependencyGraph.chain(8)
    report = dataclasses.replace(select_field(Samples(x, graph)), radius_by_time=((0.1, 2), (0.5, 1)))
    assert any(c.location is not None for c in report.table)
    for one in (report, dataclasses.replace(report, radius_by_time=None)):
        assert TypeAdapter(SelectionReport).validate_python(json.loads(json.dumps(dataclasses.asdict(one)))) == one


def test_too_few_samples_for_folds():
    with pytest.raises(ValueError, match="at least 4 samples, got 3"):
        select_field(Samples(generic(3, 5), DependencyGraph.chain(5)))
    assert select_field(Samples(generic(4, 5), DependencyGraph.chain(5)), radius=0, folds=9).folds == 2


def test_radii_tried_end_at_the_diameter_and_at_what_fits():
    assert candidate_radii(DependencyGraph.chain(1)) == (0,)
    assert candidate_radii(DependencyGraph.chain(4)) == (0, 1, 2, 3)
    assert candidate_radii(DependencyGraph.chain(6)) == (0, 1, 2, 3, 4, 6)
    assert candidate_radii(DependencyGraph.grid((3, 3))) == (0, 1, 2, 3, 4)
    assert candidate_radii(DependencyGraph.chain(1000)) == (0, 1, 2, 3, 4, 6, 8, 12, 16)
    assert candidate_radii(DependencyGraph.grid((50, 50))) == (0, 1, 2, 3, 4, 5, 6)
    assert candidate_radii(DependencyGraph.grid((50, 50)), n_channels=5) == (0, 1, 2, 3)  # windows of 25, then 41


def falling_until(turn: int):
    """Held-out losses that fall up to a radius and rise beyond it."""
    return lambda self, fold, radius, pooling: np.full(len(self.parts[fold]), abs(radius - turn) / 100.0)


@pytest.mark.parametrize(
    ("graph", "turn", "last", "limit"),
    [
        (DependencyGraph.chain(200), 12, 16, None),
        (DependencyGraph.chain(200), 32, 48, None),
        (DependencyGraph.chain(200), 99, 64, "radius 64, but no wider windows are tried"),
        (DependencyGraph.chain(20), 99, 24, None),  # the whole chain
        (DependencyGraph.grid((20, 20)), 5, 6, None),
        (DependencyGraph.grid((20, 20)), 99, 8, "radius 8, but windows of more than 160 values are not tried"),
        (DependencyGraph.grid((9, 9, 9)), 99, 4, "radius 4, but windows of more than 160 values are not tried"),
    ],
    ids=str,
)
def test_the_ladder_goes_on_until_the_loss_rises_or_says_why_not(monkeypatch, graph, turn, last, limit):
    monkeypatch.setattr(module._Trials, "_fold", falling_until(turn))
    monkeypatch.setattr(module._Trials, "fitted", lambda self, candidate: (True, True))
    report = select_field(Samples(np.zeros((400, graph.n_vertices, 1)), graph), pooling=Pooling(1.0))
    radii = [c.radius for c in report.curve]
    assert radii[: len(candidate_radii(graph))] == list(candidate_radii(graph))
    assert radii[-1] == last
    assert report.choice.radius == min(radii, key=lambda r: abs(r - turn))
    assert ("still falling" in report.reason) == (limit is not None)
    assert (limit or "") in report.reason


def test_the_samples_end_the_ladder_of_vertices_on_their_own(monkeypatch):
    """Sixteen of twenty samples train: windows of 17 are cut to their half, wider ones as well."""
    monkeypatch.setattr(module._Trials, "_fold", falling_until(99))
    monkeypatch.setattr(module._Trials, "fitted", lambda self, candidate: (True, True))
    report = select_field(Samples(np.zeros((20, 50, 1)), DependencyGraph.chain(50)), pooling=Pooling(0.0))
    assert report.choice.radius == 16
    assert "radius 16, but 16 samples support no wider windows without pooling" in report.reason
    assert select_field(Samples(np.zeros((20, 50, 1)), DependencyGraph.chain(50)), radius=1).choice.radius == 1


def test_a_level_common_to_all_is_read_from_as_many_neighbours_as_there_are():
    """The mean of r values misses it by a variance of 1/r: .009 nats are won by 24 for 16, ten standard errors."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(400, 1, 1)) + rng.normal(size=(400, 60, 1))
    assert select_field(Samples(x, DependencyGraph.chain(60)), pooling=Pooling(1.0)).choice.radius > 16


def expected_loss(score, y: np.ndarray, t: float) -> np.ndarray:
    """E|D(a y + s xi) - y|^2 / sigma^2 per dimension of an affine denoiser, exact from points +-sqrt(d) e_k of xi."""
    d = y[0].size
    points = math.sqrt(d) * np.concatenate([np.eye(d), -np.eye(d)]).reshape(2 * d, *y.shape[1:])
    x_t = signal_scale(t) * y[:, None] + noise_scale(t) * points
    error = score.denoise(torch.from_numpy(x_t.reshape(-1, *y.shape[1:])), t).numpy().reshape(x_t.shape) - y[:, None]
    return (error**2).mean(axis=(1, 2, 3)) * signal_scale(t) ** 2 / noise_scale(t) ** 2


def smallest_close(loss: np.ndarray, radii) -> int:
    """One-standard-error rule towards the smaller radius; loss (radius, sample)."""
    gaps = loss - loss[loss.mean(axis=1).argmin()]
    errors = gaps.std(axis=1, ddof=1) / math.sqrt(loss.shape[1])
    return next(r for r, gap, error in zip(radii, gaps.mean(axis=1), errors, strict=True) if gap <= error)


@pytest.mark.parametrize("pooling", [Pooling(0.0), Pooling(0.5)], ids=str)
def test_radius_of_each_level_is_that_of_the_least_expected_denoising_error(pooling):
    chain = AutoregressiveChain(0.9, 7)
    x = chain.sample(60, 4) * np.linspace(1, 3, 7)[:, None] + 2.0
    found = select_radius_by_time(Samples(x, chain.graph), pooling, folds=3, seed=1)
    radii, levels = (0, 1, 2, 3, 4, 6), np.geomspace(0.05, 20.0, 13)
    loss = np.empty((13, len(radii), 60))
    for test in split(60, 3, False, 1):
        for i, r in enumerate(radii):
            center, scale, score = fit_windowed(Samples(np.delete(x, test, axis=0), chain.graph), ((0.1, r),), pooling)
            for k, sigma in enumerate(levels):
                loss[k, i, test] = expected_loss(score, (x[test] - center) / scale, time_of(sigma))
    np.testing.assert_allclose([t for t, _ in found], time_of(torch.from_numpy(levels)), rtol=1e-12)
    assert [r for _, r in found] == [smallest_close(at, radii) for at in loss]
    assert len({r for _, r in found}) > 1  # locality depends on the level


def test_denoising_loss_has_its_noise_in_closed_form():
    x, graph = generic(12, 6), DependencyGraph.ring(6)
    _, _, score = fit_windowed(Samples(x, graph), ((0.1, 2),), Pooling(0.3))
    for sigma in (0.02, 1.0, 30.0):
        found = _denoising_loss(x, score, time_of(sigma), sigma)
        np.testing.assert_allclose(found, expected_loss(score, x, time_of(sigma)), rtol=1e-9)


@pytest.mark.parametrize(("n_samples", "alpha"), [(12, 0.6), (60, 0.9)])
def test_radius_of_the_masked_score_minimises_the_error_summed_over_levels(n_samples, alpha):
    chain = AutoregressiveChain(alpha, 7)
    x = chain.sample(n_samples, 5) * 2.0 - 1.0
    radii = (0, 1, 2, 3, 4, 6)
    loss = np.zeros((len(radii), n_samples))
    for test in split(n_samples, 4, True):
        for i, r in enumerate(radii):
            center, scale, score = fit_masked(Samples(np.delete(x, test, axis=0), chain.graph), r)
            for sigma in np.geomspace(0.02, 80.0, 13):
                loss[i, test] += expected_loss(score, (x[test] - center) / scale, time_of(sigma))
    errors = [standard_error(gap, True) for gap in loss - loss[loss.mean(axis=1).argmin()]]
    gaps = loss.mean(axis=1) - loss.mean(axis=1).min()
    expected = next(r for r, gap, error in zip(radii, gaps, errors, strict=True) if gap <= error)
    assert select_masked_radius(Samples(x, chain.graph, ordered=True), folds=4) == expected


def test_what_a_search_kept_is_free_when_it_is_done(monkeypatch):
    """No cycle holds the trials with all their moments until a collection."""
    made, trials = [], module._Trials

    def kept(*args):
        found = trials(*args)
        made.append(weakref.ref(found))
        return found

    monkeypatch.setattr(module, "_Trials", kept)
    gc.disable()
    try:
        select_field(Samples(np.random.default_rng(0).normal(size=(20, 30, 1)), DependencyGraph.chain(30)))
        assert [ref() for ref in made] == [None]
    finally:
        gc.enable()
