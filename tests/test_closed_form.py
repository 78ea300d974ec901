"""Fits of the local Gaussian scores against maximum likelihood, dense inverses and least squares."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch

from nearfield.datasets import AutoregressiveChain, chain_maximum_likelihood
from nearfield.fitting.closed_form import (
    fit_field,
    fit_masked,
    fit_windowed,
    torus_spectrum,
    window_spectrum,
)
from nearfield.fitting.elimination import predecessors
from nearfield.fitting.pooling import Pooling
from nearfield.fitting.regression import VARIANCE_FLOOR, cap_windows, regress
from nearfield.graph import DependencyGraph
from nearfield.process import noise_scale, signal_scale
from nearfield.samples import Samples

ALONE = Pooling(0.0)
TIMES = [0.0009, 0.1, 0.7, 3.0]


def random_tree(n: int, seed: int) -> DependencyGraph:
    rng = np.random.default_rng(seed)
    name = rng.permutation(n)
    return DependencyGraph.from_edges(n, [(name[i], name[rng.integers(i)]) for i in range(1, n)])


def generic(n_samples: int, n: int, channels: int = 1, seed: int = 0) -> np.ndarray:
    """Correlated data whose vertices and channels all have their own mean and scale."""
    rng = np.random.default_rng(seed)
    d = n * channels
    return (rng.normal(size=(n_samples, d)) @ (np.eye(d) + rng.normal(size=(d, d)) / 3) + rng.normal(size=d)).reshape(
        n_samples, n, channels
    )


def centred(x: np.ndarray) -> np.ndarray:
    return x - x.mean(axis=0)


def moment(x: np.ndarray) -> np.ndarray:
    flat = x.reshape(len(x), -1)
    return flat.T @ flat / len(flat)


def in_units_of_data(center, scale, field) -> np.ndarray:
    return scale.reshape(-1, 1) * field.covariance() * scale.reshape(-1)


def tree_precision(x: np.ndarray, graph: DependencyGraph) -> np.ndarray:
    """Most likely precision on a tree: inverses of edges less inverses of vertices (Lauritzen 1996, section 5.3)."""
    n, c = x.shape[1:]
    second = moment(x).reshape(n, c, n, c)
    out = np.zeros((n, c, n, c))
    i, j = graph.adjacency.nonzero()
    for pair in {tuple(sorted(edge)) for edge in zip(i.tolist(), j.tolist(), strict=True)}:
        at = np.ix_(pair, range(c), pair, range(c))
        out[at] += np.linalg.inv(second[at].reshape(2 * c, 2 * c)).reshape(2, c, 2, c)
    for v in range(n):
        out[v, :, v] -= (np.count_nonzero(i == v) - 1) * np.linalg.inv(second[v, :, v])
    return out.reshape(n * c, n * c)


@pytest.mark.parametrize("n_samples", [4, 30, 1000])
def test_field_of_a_chain_is_the_maximum_likelihood(n_samples):
    chain = AutoregressiveChain(0.8, 12)
    x = 3.0 + chain.sample(n_samples, 1) * np.linspace(0.5, 2.0, 12)[:, None]
    fitted = in_units_of_data(*fit_field(Samples(x, chain.graph), 1, ALONE))
    best = chain_maximum_likelihood(centred(x))
    np.testing.assert_allclose(fitted, best, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("seed", range(3))
def test_field_of_a_tree_is_the_maximum_likelihood(seed, channels):
    tree = random_tree(15, seed)
    x = generic(40, 15, channels, seed)
    center, scale, field = fit_field(Samples(x, tree), 1, ALONE)
    fitted = np.linalg.inv(in_units_of_data(center, scale, field))
    best = tree_precision(centred(x), tree)
    np.testing.assert_allclose(fitted, best, rtol=1e-9, atol=1e-9 * abs(best).max())
    factor = field.factor.matrix.toarray()  # rows too stand in the order of elimination
    assert not np.triu(factor, 1).any()
    assert (np.diag(factor) > 0).all()


@pytest.mark.parametrize(
    "graph",
    [DependencyGraph.chain(1), DependencyGraph.ring(9), DependencyGraph.grid((3, 3)), random_tree(9, 4)],
    ids=["one vertex", "ring", "grid", "tree"],
)
@pytest.mark.parametrize("channels", [1, 2])
def test_field_that_reads_everything_has_the_empirical_covariance(graph, channels):
    x = generic(60, len(graph), channels)
    fitted = in_units_of_data(*fit_field(Samples(x, graph), 20, ALONE))
    np.testing.assert_allclose(fitted, moment(centred(x)), rtol=1e-9, atol=1e-10)


def test_channels_are_coupled_as_the_same_variables_on_a_graph_of_pairs_are():
    """A chain with two channels is a ladder with diagonals whose pairs are blocks: same conditioning sets, same law."""
    x = generic(50, 6, channels=2)
    ladder = DependencyGraph.grid((6, 2), diagonal=True)
    blocks = in_units_of_data(*fit_field(Samples(x, DependencyGraph.chain(6)), 1, ALONE))
    scalars = in_units_of_data(*fit_field(Samples(x.reshape(50, 12, 1), ladder), 1, ALONE))
    np.testing.assert_allclose(blocks, scalars, rtol=1e-9, atol=1e-10)


def test_raw_data_keep_their_mean_in_the_uncentred_moment():
    """(4.3) of arXiv 2505.04417: without standardisation the moment is about zero."""
    x = generic(40, 5)
    center, scale, field = fit_field(Samples(x, DependencyGraph.chain(5), standard=(True,)), 9, ALONE)
    assert not center.any()
    assert (scale == 1).all()
    np.testing.assert_allclose(field.covariance(), moment(x), rtol=1e-9, atol=1e-10)
    _, _, masked = fit_masked(Samples(x, DependencyGraph.chain(5), standard=(True,)), 9)
    np.testing.assert_allclose(masked.precision(0.2), np.linalg.inv(diffused(moment(x), 0.2)), rtol=1e-9)


def test_full_pooling_of_a_chain_is_the_stationary_regression():
    """One mean and variance, and one slope: sum of lagged products over sum of squares of the earlier ones."""
    chain = AutoregressiveChain(0.7, 8)
    x = 5.0 + 2.0 * chain.sample(6, 2)
    center, scale, field = fit_field(Samples(x, chain.graph), 1, Pooling(1.0))
    y = (x[..., 0] - x.mean()) / x.std()
    slope = (y[:, 1:] * y[:, :-1]).sum() / (y[:, :-1] ** 2).sum()
    rest = ((y[:, 1:] - slope * y[:, :-1]) ** 2).mean()
    whitening = np.diag(np.r_[1.0, np.full(7, rest**-0.5)]) + np.diag(np.full(7, -slope * rest**-0.5), -1)
    np.testing.assert_allclose(center, x.mean(), rtol=1e-12)
    np.testing.assert_allclose(scale, x.std(), rtol=1e-12)
    np.testing.assert_allclose(field.factor.matrix.toarray(), whitening, rtol=1e-9, atol=1e-12)


def diffused(covariance, t):
    return signal_scale(t) ** 2 * covariance + noise_scale(t) ** 2 * np.eye(len(covariance))


@pytest.mark.parametrize("t", TIMES)
def test_masked_score_that_reads_everything_is_the_dense_one(t):
    x = generic(4, 7, channels=2)  # fewer samples than variables
    center, scale, score = fit_masked(Samples(x, DependencyGraph.chain(7)), 6)
    y = (x - x.mean(axis=0)) / x.std(axis=0)
    np.testing.assert_allclose(center, x.mean(axis=0))
    np.testing.assert_allclose(scale, x.std(axis=0))
    dense = np.linalg.inv(diffused(moment(y), t))
    np.testing.assert_allclose(score.precision(t), dense, rtol=1e-8, atol=1e-10 * abs(dense).max())
    state = torch.from_numpy(generic(3, 7, 2, seed=5))
    expected = -(state.flatten(1).numpy() @ dense).reshape(state.shape)
    np.testing.assert_allclose(score.score(state, t), expected, rtol=1e-8, atol=1e-9 * abs(dense).max())


def test_masked_score_masks_the_inverse_and_does_not_invert_the_mask():
    t, graph, x = 0.3, DependencyGraph.grid((3, 4)), generic(30, 12)
    _, _, score = fit_masked(Samples(x, graph), 1)
    y = (x - x.mean(axis=0)) / x.std(axis=0)
    near = graph.distance_matrix() <= 1
    full = diffused(moment(y), t)
    np.testing.assert_allclose(score.precision(t), np.where(near, np.linalg.inv(full), 0), rtol=1e-9, atol=1e-11)
    assert abs(score.precision(t).numpy() - np.linalg.inv(np.where(near, full, 0))).max() > 1e-2


WINDOWED = {
    "chain": DependencyGraph.chain(7),
    "ring": DependencyGraph.ring(7),
    "grid": DependencyGraph.grid((3, 4)),
    "closing latlon": DependencyGraph.latlon([-30.0, 0.0, 30.0], np.arange(0.0, 360.0, 90.0)),
    "tree": random_tree(9, 3),
}


@pytest.mark.parametrize("graph", WINDOWED.values(), ids=WINDOWED)
@pytest.mark.parametrize("radius", [0, 1, 2, 30])
@pytest.mark.parametrize("channels", [1, 2])
def test_windowed_score_is_the_score_of_the_window_s_marginal(graph, radius, channels):
    """Row j is that of the inverse of the window's own covariance (3.11), borders included."""
    x = generic(12, len(graph), channels)
    _, _, score = fit_windowed(Samples(x, graph), ((0.1, radius),), ALONE)
    second = moment((x - x.mean(axis=0)) / x.std(axis=0))
    state = generic(2, len(graph), channels, seed=8)
    near = graph.distance_matrix() <= radius
    for t in TIMES:
        found = score.score(torch.from_numpy(state), t).numpy()
        for j in range(len(graph)):
            window = np.flatnonzero(near[j])
            variables = (window[:, None] * channels + np.arange(channels)).reshape(-1)
            own = np.isin(variables, j * channels + np.arange(channels))
            inverse = np.linalg.inv(diffused(second[np.ix_(variables, variables)], t))
            expected = -state.reshape(2, -1)[:, variables] @ inverse[:, own]
            np.testing.assert_allclose(found[:, j], expected, rtol=1e-7, atol=1e-9 / noise_scale(t) ** 2)


@pytest.mark.parametrize("graph", WINDOWED.values(), ids=WINDOWED)
@pytest.mark.parametrize("channels", [1, 2])
def test_explained_variance_is_that_of_the_regression_on_the_noised_window(graph, channels):
    """Var D_j = c_j' (C + sigma^2 I)^-1 c_j, c_j the window's covariances with j; at several times of two radii."""
    x = generic(12, len(graph), channels)
    _, _, score = fit_windowed(Samples(x, graph), ((0.1, 1), (1.0, 2)), ALONE)
    second = moment((x - x.mean(axis=0)) / x.std(axis=0))
    times = np.array([0.0, 0.1, 1.0, 5.0, 0.1])
    found = score.explained_variance(times)
    assert found.shape == (5, len(graph), channels)
    hops = graph.distance_matrix()
    for t, each in zip(times, found, strict=True):
        for j in range(len(graph)):
            window = np.flatnonzero(hops[j] <= (2 if t > 0.1 else 1))
            variables = (window[:, None] * channels + np.arange(channels)).reshape(-1)
            own = second[np.ix_(variables, j * channels + np.arange(channels))]
            noised = second[np.ix_(variables, variables)] + np.expm1(2 * t) * np.eye(len(variables))
            np.testing.assert_allclose(each[j], np.diag(own.T @ np.linalg.pinv(noised) @ own), rtol=1e-6)
    assert (found[3] < 1e-3).all()


@pytest.mark.parametrize("t", TIMES)
def test_windowed_denoiser_minimises_the_local_loss(t):
    """Least squares of x_0j on x_t in the window, the noise's expectation being rows sqrt(N) s e_k with answer 0."""
    graph, x = DependencyGraph.chain(6), generic(5, 6)
    _, _, score = fit_windowed(Samples(x, graph), ((0.1, 2),), ALONE)
    y = ((x - x.mean(axis=0)) / x.std(axis=0))[..., 0]
    found = score.denoise(torch.eye(6, dtype=torch.float64)[..., None], t)[..., 0].numpy()
    for j in range(6):
        window = [i for i in range(6) if abs(i - j) <= 2]
        design = np.vstack([signal_scale(t) * y[:, window], np.sqrt(5) * noise_scale(t) * np.eye(len(window))])
        answer = np.r_[y[:, j], np.zeros(len(window))]
        expected = np.zeros(6)
        expected[window] = np.linalg.lstsq(design, answer, rcond=None)[0]
        np.testing.assert_allclose(found[:, j], expected, atol=1e-9)


def test_windowed_score_of_radius_0_keeps_the_marginal_law():
    x = generic(9, 5)
    _, _, score = fit_windowed(Samples(x, DependencyGraph.chain(5)), ((0.1, 0),), ALONE)
    state = torch.from_numpy(generic(3, 5, seed=2))
    for t in TIMES:  # standardised: every vertex N(0, 1), whose score is -x at all times
        torch.testing.assert_close(score.score(state, t), -state, rtol=1e-10, atol=1e-10)


def test_windowed_score_is_pooled_like_the_field():
    """Pooled over a long chain, all interior rows are one row, and the radius of each level is the one asked for."""
    chain = AutoregressiveChain(0.8, 20)
    x = chain.sample(30, 3)
    _, _, score = fit_windowed(Samples(x, chain.graph), ((0.01, 1), (0.5, 3)), Pooling(1.0))
    for t, radius in ((0.01, 1), (0.5, 3)):
        rows = score.coefficients(t)[:, 0, :, 0]
        assert rows.shape[1] == 2 * radius + 1
        np.testing.assert_allclose(rows[radius:-radius], np.tile(rows[10], (20 - 2 * radius, 1)), atol=1e-12)


def test_regression_is_the_conditional_law_of_the_first_members():
    rng = np.random.default_rng(0)
    root = rng.normal(size=(3, 6, 6))
    block = root @ root.transpose(0, 2, 1) + np.eye(6)
    fit, raised = regress(block, 2)
    assert not raised.any()
    for b, coefficient, own in zip(block, fit.coefficient, fit.root, strict=True):
        slope = np.linalg.solve(b[2:, 2:], b[2:, :2])
        np.testing.assert_allclose(coefficient, slope, rtol=1e-9)
        np.testing.assert_allclose(own @ own.T, b[:2, :2] - b[:2, 2:] @ slope, rtol=1e-9)
        np.testing.assert_array_equal(own, np.tril(own))


@pytest.mark.parametrize("n_samples", [2, 3, 5, 8, 12])
@pytest.mark.parametrize("channels", [1, 2])
def test_windows_are_cut_to_what_the_samples_support(n_samples, channels):
    graph = DependencyGraph.chain(15)
    wanted = predecessors(graph, 5)
    table = cap_windows(wanted, n_samples, channels, ALONE)
    largest = table.present.sum(axis=1).max()
    if 6 * channels < n_samples:
        assert table is wanted
    else:
        assert largest == max(1, (n_samples - 1) // 2 // channels)
    for v in range(15):  # the nearest are kept
        assert sorted(table.index[v, table.present[v]].tolist()) == list(range(max(0, v - largest + 1), v + 1))
    assert cap_windows(wanted, n_samples, channels, Pooling(0.1)) is wanted


def test_too_few_samples_warn_and_give_a_positive_definite_field():
    x = generic(6, 15)
    with pytest.warns(UserWarning, match="6 samples cannot support conditioning sets of 5 neighbours.* 1 nearest"):
        center, scale, field = fit_field(Samples(x, DependencyGraph.chain(15)), 5, ALONE)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        near = fit_field(Samples(x, DependencyGraph.chain(15)), 1, ALONE)[2]
    np.testing.assert_allclose(field.covariance(), near.covariance(), rtol=1e-12)
    assert np.linalg.eigvalsh(in_units_of_data(center, scale, field)).min() > 1e-3


def test_as_many_samples_as_needed_do_not_warn():
    x = generic(7, 15)
    assert np.linalg.eigvalsh(fit_field(Samples(x, DependencyGraph.chain(15)), 5, ALONE)[2].covariance()).min() > 0


@pytest.mark.parametrize("pooling", [ALONE, Pooling(1.0)], ids=str)
def test_a_copy_of_a_neighbour_keeps_a_floor_of_variance_and_warns(pooling):
    x = generic(50, 6)
    x = x[:, [0, 0, 0, 0, 0, 0]] if pooling.strength else x[:, [0, 1, 1, 2, 3, 3]]
    raised = 5 if pooling.strength else 2
    with pytest.warns(UserWarning, match=f"{raised} of 6 conditional variances were raised to 1e-10"):
        field = fit_field(Samples(x, DependencyGraph.chain(6)), 1, pooling)[2]
    np.testing.assert_allclose(field.factor.matrix.diagonal().max() ** -2, VARIANCE_FLOOR, rtol=1e-6)
    np.testing.assert_allclose(np.diag(field.covariance()), 1.0, rtol=1e-5)


def test_copies_among_the_neighbours_do_no_harm():
    """The conditioning set itself is singular: the regression is still finite and predicts as well as without it."""
    x = generic(50, 5)
    x[:, 1] = 2.0 * x[:, 0]
    with pytest.warns(UserWarning, match="1 of 5 conditional"):
        field = fit_field(Samples(x, DependencyGraph.chain(5)), 4, ALONE)[2]
    without = fit_field(Samples(x[:, 1:], DependencyGraph.chain(4)), 4, ALONE)[2]
    np.testing.assert_allclose(field.factor.matrix.diagonal()[2:], without.factor.matrix.diagonal()[1:], rtol=1e-5)


@pytest.mark.parametrize(
    ("shape", "diagonal", "channels", "radius"), [((8, 9), False, 2, 2), ((7, 7), True, 1, 3), ((5, 4, 5), False, 2, 2)]
)
def test_one_law_on_a_torus_has_the_same_windows_by_lags_and_one_by_one(shape, diagonal, channels, radius):
    graph = DependencyGraph.grid(shape, periodic=True, diagonal=diagonal)
    y = generic(5, len(graph), channels)
    by_lags, one_by_one = (
        torus_spectrum(Samples(y, graph, standard=(True,) * channels), radius),
        window_spectrum(Samples(y, graph, standard=(True,) * channels), radius, Pooling(1.0)),
    )
    np.testing.assert_array_equal(by_lags.index, one_by_one.index)
    np.testing.assert_array_equal(by_lags.law, one_by_one.law)
    blocks = [((s.vectors * s.values[:, None]) @ s.vectors.mT).numpy() for s in (by_lags, one_by_one)]
    np.testing.assert_allclose(*blocks, atol=1e-12 * np.abs(blocks[1]).max())
