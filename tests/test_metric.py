"""Metrics against closed forms. Statistical tests: false-alarm rate 1e-6 together (Bonferroni), fixed seeds."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import binom, norm, wasserstein_distance

from nearfield.evaluation.check import check_long_range, check_marginal
from nearfield.evaluation.curve import Curve, VertexPairs
from nearfield.evaluation.metric import (
    MarginalDistance,
    autocorrelation,
    correlation_by_distance,
    covariance_error,
    entrywise_error,
    gaussian_kl,
    nearest_distance,
    radial_spectrum,
    roughness,
    wasserstein,
)
from nearfield.graph import DependencyGraph
from nearfield.graph.coordinate import EARTH_RADIUS

ALARM = 1e-6


def autoregressive(rng, n_samples, n_vertices, alpha):
    """Stationary AR(1) along the vertices, mean 0, variance 1."""
    noise = rng.normal(size=(n_samples, n_vertices, 1))
    x = noise.copy()
    for i in range(1, n_vertices):
        x[:, i] = alpha * x[:, i - 1] + np.sqrt(1 - alpha**2) * noise[:, i]
    return x


def random_covariance(rng, d):
    root = rng.normal(size=(d, 2 * d))
    return root @ root.T / d


def test_covariance_error_by_hand():
    truth = np.array([[2.0, -1.0], [-1.0, 4.0]])  # row sums of absolute values 3, 5
    generated = np.array([[1.0, 0.0], [-1.0, 4.5]])  # row sums of the difference 2 and .5, column sums 1 and 1.5
    assert covariance_error(generated, truth) == 2 / 5
    assert np.array_equal(entrywise_error(generated, truth), [[1, 1], [0, 0.5]])


def test_gaussian_kl_is_that_of_torch_in_the_stated_direction():
    rng = np.random.default_rng(0)
    true, generated = random_covariance(rng, 5), random_covariance(rng, 5)
    means = rng.normal(size=(2, 5))
    laws = [
        torch.distributions.MultivariateNormal(torch.from_numpy(m), torch.from_numpy(c))
        for m, c in zip(means, (true, generated), strict=True)
    ]
    expected = torch.distributions.kl_divergence(*laws).item()
    assert gaussian_kl(true, generated, *means) == pytest.approx(expected, rel=1e-10)
    assert gaussian_kl(generated, true, *means) != pytest.approx(expected, rel=0.1)
    assert gaussian_kl(true, true) == pytest.approx(0, abs=1e-12)


def test_gaussian_kl_refuses_a_singular_covariance():
    with pytest.raises(ValueError, match="cov_generated must be positive definite"):
        gaussian_kl(np.eye(2), np.ones((2, 2)))


def test_wasserstein_is_that_of_scipy_for_sets_of_any_size():
    rng = np.random.default_rng(1)
    x, y = rng.gamma(2, size=(17, 3, 2)), rng.gamma(3, size=(40, 3, 2))
    expected = [[wasserstein_distance(x[:, v, c], y[:, v, c]) for c in range(2)] for v in range(3)]
    np.testing.assert_allclose(wasserstein(x, y), expected, rtol=1e-12)


def test_wasserstein_of_a_shift_is_the_shift():
    x = np.random.default_rng(2).normal(size=(50, 4, 1))
    np.testing.assert_allclose(wasserstein(x, x + 0.3), 0.3, rtol=1e-12)


def test_wasserstein_in_blocks_is_the_same(monkeypatch):
    x, y = np.random.default_rng(3).normal(size=(2, 20, 11, 1))
    whole = wasserstein(x, y)
    monkeypatch.setattr("nearfield.evaluation.metric._BLOCK_ENTRIES", 100)
    np.testing.assert_allclose(wasserstein(x, y), whole, rtol=1e-13)


def test_noise_floor_is_the_distance_of_equal_laws():
    rng = np.random.default_rng(4)
    n = 100
    found = MarginalDistance.measure(rng.normal(size=(n, 400, 1)), rng.normal(size=(300, 400, 1)))
    # E W1 of two sets of m: the integral over x of E|B - B'| / m with B, B' binomial(m, F(x)).
    m = found.size
    grid = np.linspace(-6, 6, 601)
    mass = binom.pmf(np.arange(m + 1), m, norm.cdf(grid)[:, None])
    gap = np.abs(np.subtract.outer(np.arange(m + 1), np.arange(m + 1))) / m
    expected = np.einsum("gi,ij,gj->g", mass, gap, mass).sum() * (grid[1] - grid[0])
    assert m == n // 2
    # Averages over 400 vertices are known to about 1.5 %: the distance of one vertex varies by a third.
    assert found.noise_floor[0] == pytest.approx(expected, rel=0.08)
    assert found.distance[0] == pytest.approx(expected, rel=0.08)


def test_autocorrelation_of_an_autoregression():
    alpha, max_lag = 0.8, 12
    x = autoregressive(np.random.default_rng(5), 3000, 40, alpha)
    curve = autocorrelation(x, max_lag)
    allowed = norm.isf(ALARM / 2 / max_lag) * curve.error[1:, 0] + 1 / len(x)  # plus the bias of a fitted mean
    assert np.all(np.abs(curve.value[1:, 0] - alpha ** np.arange(1, max_lag + 1)) < allowed)
    # Negative control: a neighbouring value of alpha is told apart.
    assert np.any(np.abs(curve.value[1:, 0] - 0.77 ** np.arange(1, max_lag + 1)) > allowed)


def test_correlation_error_is_the_spread_over_data_sets():
    """The band comes from influences of single samples; the truth is the spread over independent data sets."""
    rng = np.random.default_rng(6)
    curves = [autocorrelation(2 + 5 * autoregressive(rng, 200, 10, 0.8), 4) for _ in range(300)]
    spread = np.std([c.value[:, 0] for c in curves], axis=0)
    claimed = np.mean([c.error[:, 0] for c in curves], axis=0)
    # A standard deviation from 300 draws is known to 1/sqrt(600) = 4 %: five of them, for 4 lags, at 1e-6.
    np.testing.assert_allclose(claimed[1:], spread[1:], rtol=0.22)
    truth = 0.8 ** np.arange(1, 5)
    covered = np.mean([(c.low[1:, 0] < truth) & (truth < c.high[1:, 0]) for c in curves])
    assert 0.90 < covered < 0.98


def test_resampling_blocks_widens_the_band_of_a_slow_series():
    rng = np.random.default_rng(7)
    slow = autoregressive(rng, 1, 20_000, 0.9)[0].reshape(-1, 1, 1)
    mean = slow.mean(axis=0)
    shared = {"count": np.ones(1, int), "label": ""}
    one, many = (Curve.bootstrap(np.zeros(1), mean, slow - mean, block=b, **shared).error[0, 0] for b in (1, 400))
    # The variance of the mean of an AR(1) is (1 + alpha) / (1 - alpha) = 19 times that of independent values.
    assert many / one == pytest.approx(np.sqrt(19), rel=0.25)


def test_correlation_by_distance_is_numpy_s_over_all_pairs():
    rng = np.random.default_rng(8)
    x = np.cumsum(rng.normal(size=(30, 12, 2)), axis=1)
    pairs = VertexPairs.draw(DependencyGraph.grid((3, 4)), by="hops")
    hops = DependencyGraph.grid((3, 4)).distance_matrix()
    curve, squares = (correlation_by_distance(x, pairs, squared=s) for s in (False, True))
    for c in range(2):
        matrix = np.corrcoef(x[:, :, c].T)
        for h, value, square in zip(curve.axis, curve.value[:, c], squares.value[:, c], strict=True):
            r = matrix[hops == h]
            assert value == pytest.approx(r.mean(), rel=1e-12, abs=1e-14)
            assert square == pytest.approx((r**2 - (1 - r**2) / 28).mean(), rel=1e-12)


def test_squared_correlation_of_independent_vertices_is_zero_on_average():
    x = np.random.default_rng(9).normal(size=(20, 400, 1))
    curve = correlation_by_distance(x, VertexPairs.draw(DependencyGraph.chain(400), bins=1), squared=True)
    # r^2 has variance 2 / n^2 about; pairs share vertices but are uncorrelated.
    assert abs(curve.value[0, 0]) < norm.isf(ALARM / 2) * np.sqrt(2 / 20**2 / curve.count[0])


def test_pairs_are_classed_by_great_circle_distance():
    graph = DependencyGraph.latlon([0.0, 30.0, 60.0], [0.0, 10.0, 20.0, 30.0])
    pairs = VertexPairs.draw(graph, bins=6)
    assert len(pairs.first) == 12 * 11 // 2
    assert len(set(map(frozenset, zip(pairs.first.tolist(), pairs.second.tolist(), strict=True)))) == 66
    lat, lon = np.deg2rad(graph.coordinates).T
    points = np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)], axis=1)
    angle = np.arccos(np.clip((points[pairs.first] * points[pairs.second]).sum(axis=1), -1, 1))
    for k, distance in enumerate(pairs.axis):
        assert distance == pytest.approx(EARTH_RADIUS * angle[pairs.group == k].mean(), rel=1e-9)
    assert np.all(np.diff(pairs.axis) > 0)


def test_pairs_are_bounded_and_every_distance_has_its_share():
    graph = DependencyGraph.grid((30, 30))
    pairs = VertexPairs.draw(graph, by="hops", bins=10, max_pairs=1000)
    hops = graph.distance_matrix()
    assert len(pairs.axis) > 5
    for k in range(len(pairs.axis)):
        found = hops[pairs.first, pairs.second][pairs.group == k]
        inside = (hops >= found.min()) & (hops <= found.max())
        assert len(found) == min(1000 // len(pairs.axis), inside.sum() // 2)
    again = VertexPairs.draw(graph, by="hops", bins=10, max_pairs=1000)
    assert np.array_equal(pairs.first, again.first)
    assert np.array_equal(pairs.second, again.second)


def test_spectrum_of_a_wave_is_at_its_wavenumber():
    n, k = 32, 5
    phase = np.random.default_rng(10).uniform(0, 2 * np.pi, size=(40, 1, 1))
    y, _ = np.indices((n, n))
    x = np.cos(2 * np.pi * k * y.reshape(1, -1, 1) / n + phase)
    curve = radial_spectrum(x, DependencyGraph.torus((n, n)).lattice)
    peak = int(np.argmax(curve.value[:, 0]))
    assert curve.axis[peak] == pytest.approx(k / n, rel=0.1)  # the ring also holds oblique modes
    assert np.array_equal(np.rint(curve.axis * n), np.arange(len(curve.axis)))  # one ring a whole wavenumber
    share = curve.value[peak, 0] * curve.count[peak] / (curve.value[:, 0] * curve.count).sum()
    assert share == pytest.approx(1, abs=1e-10)


@pytest.mark.parametrize("shape", [(16,), (8, 12), (4, 6, 5)])
def test_parseval(shape):
    n = int(np.prod(shape))
    x = np.random.default_rng(11).normal(size=(30, n, 2)) * [1.0, 3.0] + 7
    curve = radial_spectrum(x, DependencyGraph.torus(shape).lattice)
    np.testing.assert_allclose(curve.count @ curve.value / n, x.var(axis=0, ddof=1).mean(axis=0), rtol=1e-12)


def test_taper_keeps_the_power_of_white_noise():
    x = np.random.default_rng(12).normal(size=(400, 256, 1))
    curve = radial_spectrum(x, DependencyGraph.grid((16, 16)).lattice)
    assert np.all(np.abs(curve.value[1:, 0] - 1) < norm.isf(ALARM / 40) * curve.error[1:, 0])


def test_spectrum_refuses_land():
    lattice = DependencyGraph.grid((4, 4)).lattice
    with pytest.raises(ValueError, match="complete lattice"):
        radial_spectrum(np.zeros((3, 15, 1)), lattice)


def test_roughness_counts_every_edge_once():
    x = np.arange(9.0).reshape(1, 9, 1)
    assert roughness(x, DependencyGraph.grid((3, 3)))[0, 0] == (6 * 1 + 6 * 9) / 12


def test_nearest_distance_finds_copies_and_not_itself():
    rng = np.random.default_rng(13)
    x = rng.normal(size=(20, 30, 2))
    brute = np.sqrt(((x[:, None] - x[None]) ** 2).mean(axis=(2, 3)))
    np.fill_diagonal(brute, np.inf)
    np.testing.assert_allclose(nearest_distance(x), brute.min(axis=1), rtol=1e-10)
    assert np.all(nearest_distance(x[:5], x) < 1e-6)


def test_the_marginal_check_fails_shifted_fields_and_passes_shuffled_ones():
    rng = np.random.default_rng(14)
    real, good = autoregressive(rng, 150, 40, 0.8), autoregressive(rng, 200, 40, 0.8)
    shuffled = np.stack([rng.permutation(column) for column in good[:, :, 0].T], axis=1)[..., None]
    # A shuffled field has the right marginals, so only the shift is seen by the marginal check.
    assert check_marginal(MarginalDistance.measure(real, shuffled), "K").status == "pass"
    assert check_marginal(MarginalDistance.measure(real, good + 0.5), "K").status == "fail"


def test_long_range_check_fails_a_common_mode_that_the_data_do_not_have():
    rng = np.random.default_rng(15)
    real, good = autoregressive(rng, 150, 60, 0.6), autoregressive(rng, 200, 60, 0.6)
    sign = np.where(np.arange(60) % 2, 1.0, -1.0)[:, None]  # alternating, so that the mean correlation stays zero
    bad = (good + 0.7 * sign * rng.normal(size=(200, 1, 1))) / np.sqrt(1.49)
    pairs = VertexPairs.draw(DependencyGraph.chain(60))
    curve = correlation_by_distance(real, pairs)
    assert check_long_range(real, good, pairs, curve).status == "pass"
    assert check_long_range(real, bad, pairs, curve).status == "fail"
