"""The theorems as functions, against quadrature, brute force and Gaussian laws on which all sides are exact."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.integrate import quad, solve_ivp

from nearfield.datasets import AutoregressiveChain
from nearfield.evaluation.metric import gaussian_kl
from nearfield.graph import DependencyGraph
from nearfield.theory import concavity as concavity_module
from nearfield.theory.bound import (
    correlation_bound,
    lemma_b1,
    lemma_b1_bound,
    localization_error_bound,
    score_decay_bound,
)
from nearfield.theory.budget import divergence_bound, error_budget, suggested_radius
from nearfield.theory.concavity import concavity, condition_number, lattice_precision
from nearfield.theory.gaussian import diffused_precision, localization_error, time_rule

TIMES = np.geomspace(1e-4, 6.0, 25)


def banded(seed: int, d: int, band: int, kappa: float) -> np.ndarray:
    """Random precision of a bandwidth, moved along the identity to a condition number."""
    rng = np.random.default_rng(seed)
    L = np.tril(np.triu(rng.normal(size=(d, d)), -band), -1) + np.diag(1 + np.abs(rng.normal(size=d)))
    P = L @ L.T
    low, *_, high = np.linalg.eigvalsh(P)
    return P + (high - kappa * low) / (kappa - 1) * np.eye(d)


LAWS = [(0, 30, 1, 6.0), (1, 40, 3, 20.0), (2, 30, 5, 60.0)]


@pytest.mark.parametrize(("seed", "d", "band", "kappa"), LAWS)
def test_score_decay_bound_holds(seed, d, band, kappa):
    """(2.15) with distance ceil(|i - j| / band); one hop more in the exponent would be too much to promise."""
    P = banded(seed, d, band, kappa)
    m, M = concavity(P)
    apart = np.abs(np.subtract.outer(np.arange(d), np.arange(d)))
    hops = -(-apart // band)
    off = hops > 0
    noised = np.abs(diffused_precision(P, TIMES))[:, off]
    assert (noised <= score_decay_bound(m, M, TIMES[:, None], hops[off]) + 1e-13).all()
    assert not (noised <= score_decay_bound(m, M, TIMES[:, None], hops[off] + 3) + 1e-13).all()


def test_score_decay_bound_is_twice_the_truth_for_a_pair():
    """P with eigenvalues m, M on (1, -1), (1, 1): the off-diagonal of P_t has the bound's form, at every t."""
    m, M = 0.3, 7.0
    pair = np.array([[M + m, M - m], [M - m, M + m]]) / 2
    exact = diffused_precision(pair, np.append(0.0, TIMES))[:, 0, 1]
    np.testing.assert_allclose(score_decay_bound(m, M, np.append(0.0, TIMES), 1), 2 * np.abs(exact), rtol=1e-9)


def test_score_decay_bound_is_the_formula():
    m, M, k = 0.4, 3.0, np.array([1.0, 2.0, 7.0, np.inf])
    a, s = np.exp(-TIMES)[:, None], np.sqrt(1 - np.exp(-2 * TIMES))[:, None]
    plain = a**2 / (s**2 * (m * s**2 + a**2)) * ((M - m) * s**2 / (M * s**2 + a**2)) ** k
    np.testing.assert_allclose(score_decay_bound(m, M, TIMES[:, None], k), plain, rtol=1e-9)
    assert score_decay_bound(m, M, 0.0, k).tolist() == [M - m, 0.0, 0.0, 0.0]


@pytest.mark.parametrize(("seed", "d", "band", "kappa"), LAWS)
def test_correlation_bound_holds(seed, d, band, kappa):
    P = banded(seed, d, band, kappa)
    m, M = concavity(P)
    hops = -(-np.abs(np.subtract.outer(np.arange(d), np.arange(d))) // band)
    covariance = np.abs(np.linalg.inv(P))
    assert (covariance <= correlation_bound(m, M, hops)).all()
    assert (6 * covariance <= correlation_bound(m, M, hops, 2.0, 3.0)).all()


def test_correlation_bound_is_attained_at_no_distance_and_twice_the_truth_for_a_pair():
    m, M = 0.5, 2.5
    assert correlation_bound(m, M, 0) == np.linalg.inv(np.diag([m, M]))[0, 0]
    pair = np.linalg.inv(np.array([[M + m, M - m], [M - m, M + m]]) / 2)
    assert correlation_bound(m, M, 1) == pytest.approx(2 * abs(pair[0, 1]), rel=1e-13)
    np.testing.assert_allclose(correlation_bound(m, M, np.arange(5.0)), 2 * 0.8 ** np.arange(5), rtol=1e-14)


@pytest.mark.parametrize(("m", "M"), [(0.5, 2.0), (0.3, 6.0), (1.0, 1.5), (0.01, 3.0)])
@pytest.mark.parametrize("k", [1, 2, 5, 40])
def test_lemma_b1_is_its_integral(m, M, k):
    def integrand(t):
        a2, s2 = math.exp(-2 * t), 1 - math.exp(-2 * t)
        return a2**2 / (m * s2**2 * (m * s2 + a2)) * ((M - m) * s2 / (M * s2 + a2)) ** (2 * k)

    # the lower end is cut where the integrand, of order t^(2k - 2), rounds badly
    exact = quad(integrand, 1e-9, 1.0, epsrel=1e-12, epsabs=0, limit=400)[0]
    exact += quad(integrand, 1.0, 30.0, epsrel=1e-12, epsabs=0, limit=400)[0]
    np.testing.assert_allclose(lemma_b1(m, M, k), exact, rtol=1e-6 if k == 1 else 1e-9)
    assert lemma_b1(m, M, k) <= lemma_b1_bound(m, M, k)


def test_lemma_b1_bound_is_sharp_for_ill_conditioned_laws():
    np.testing.assert_allclose(lemma_b1(1e-7, 1.0, [1, 3]) / lemma_b1_bound(1e-7, 1.0, [1, 3]), 1.0, rtol=2e-5)


GRAPHS = {
    "chain": DependencyGraph.chain(30),
    "torus": DependencyGraph.torus((7, 6)),
    "grid": DependencyGraph.grid((6, 7), diagonal=True),
    "stations": DependencyGraph.knn(np.random.default_rng(0).uniform(size=(40, 2)), 3),
    "path off lattices": DependencyGraph.from_edges(4, [(0, 1), (1, 2), (2, 3)]),  # nu below 1
    "disconnected": DependencyGraph.from_edges(5, [(0, 1), (2, 3)]),
}


@pytest.mark.parametrize("name", GRAPHS)
@pytest.mark.parametrize("kappa", [1.0, 1.05, 4.0, 100.0])
def test_localization_error_bound_against_brute_force(name, kappa):
    graph, m, radii = GRAPHS[name], 0.7, [0, 1, 2, 5]
    bound = localization_error_bound(graph, m, kappa * m, radii, n_channels=2)
    hops, q = graph.distance_matrix(), 1 - 1 / kappa
    for row, r in zip(bound.by_distance, radii, strict=True):
        for j in range(len(graph)):
            terms = [q ** (2 * k) / (2 * k - 1) for k in hops[j] if r < k < math.inf]
            assert row[j] == pytest.approx(2 * kappa / 2 * math.fsum(terms), rel=1e-12, abs=1e-300)
    assert (bound.by_distance <= bound.by_growth[:, None]).all()
    some = localization_error_bound(graph, m, kappa * m, radii, n_channels=2, vertices=[3, 1])
    np.testing.assert_array_equal(some.by_distance, bound.by_distance[:, [3, 1]])


def test_growth_form_is_the_formula():
    """Z^1 and Z^2 without diagonals: S = 2, nu = 1 and S = 4, nu = 2."""
    m, M, r = 0.5, 2.0, np.array([0, 3])
    for graph, S, nu in ((DependencyGraph.chain(9), 2, 1), (DependencyGraph.grid((4, 5)), 4, 2)):
        plain = S * math.factorial(nu) / 2 * 4.0 ** (nu + 2) * (r + 1.0) ** nu * 0.75 ** (2 * (r + 1)) / (2 * r + 1)
        np.testing.assert_allclose(localization_error_bound(graph, m, M, r).by_growth, plain, rtol=1e-13)


@pytest.mark.parametrize("n_channels", [1, 2])
def test_localization_error_of_a_gaussian_is_below_its_bound(n_channels):
    """(3.13), with blocks of two channels as well: a band of 1 block."""
    graph = DependencyGraph.chain(8)
    P = banded(5, 8 * n_channels, n_channels, 8.0)
    P *= np.kron(graph.distance_matrix() <= 1, np.ones((n_channels, n_channels)))
    m, M = concavity(P)
    radii = np.arange(8)
    exact = localization_error(P, graph, 1e-4, 8.0).T
    bound = localization_error_bound(graph, m, M, radii, n_channels)
    assert (exact <= bound.by_distance).all()
    assert exact[0].max() > 5e-3 * bound.by_distance[0].max()  # the comparison means something


# Proposition 3.1: the reverse process with a wrong affine score stays Gaussian, and its moments follow an ordinary
# differential equation. `score(t)` is (G, b) of the score -G x + b.


def generated(score, horizon, t_min, d):
    def slope(tau, y):
        G, b = score(horizon - tau)
        A, mean, cov = np.eye(d) - 2 * G, y[:d], y[d:].reshape(d, d)
        return np.concatenate([A @ mean + 2 * b, (A @ cov + cov @ A.T + 2 * np.eye(d)).ravel()])

    start = np.concatenate([np.zeros(d), np.eye(d).ravel()])
    y = solve_ivp(slope, (0.0, horizon - t_min), start, method="DOP853", rtol=1e-10, atol=1e-12).y[:, -1]
    return y[:d], y[d:].reshape(d, d)


def divergence_and_parts(horizon, size, t_min=1e-3):
    """KL of a run whose score is wrong by a share `size`, and the two numbers that (3.10) bounds it with."""
    d = 3
    C, mu = AutoregressiveChain(0.8, d).covariance(), np.array([0.5, -0.3, 0.8])
    wrong = size * np.random.default_rng(1).normal(size=(d, d))

    def true(t):
        return math.exp(-2 * t) * C - math.expm1(-2 * t) * np.eye(d), math.exp(-t) * mu

    def score(t):
        cov, mean = true(t)
        G = np.linalg.inv(cov) @ (np.eye(d) + wrong)
        return G, G @ mean * (1 + size)

    error = 0.0
    for t, weight in zip(*time_rule(t_min, horizon), strict=True):
        (cov, mean), (G, b) = true(t), score(t)
        difference = G - np.linalg.inv(cov)
        error += weight * (np.trace(difference @ cov @ difference.T) + ((b - G @ mean) ** 2).sum())
    (cov, mean), (mean_generated, cov_generated) = true(t_min), generated(score, horizon, t_min, d)
    divergence = gaussian_kl(cov, cov_generated, mean, mean_generated)
    return divergence, gaussian_kl(C, np.eye(d), mu, np.zeros(d)), error


def test_divergence_bound_holds_and_not_without_its_factor():
    """Nine settings. Leaving out that the reverse drift has twice the score would give the error the factor 1/4."""
    quarter = []
    for horizon in (1.0, 2.0, 4.0):
        for size in (0.0, 0.05, 0.2):
            divergence, initial, error = divergence_and_parts(horizon, size)
            assert divergence <= divergence_bound(initial, horizon, error)
            quarter.append(divergence <= divergence_bound(initial, horizon, error / 4))
    assert not all(quarter)


def test_constant_of_the_score_error_cannot_be_smaller():
    """White noise, and an error c e^{-(t - t_min)} of the score: the bound is attained as the horizon grows."""
    c, t_min = 0.3, 0.01
    for horizon in (1.0, 3.0, 6.0):
        span = horizon - t_min

        def score(t):
            return np.eye(1), np.array([c * math.exp(-(t - t_min))])

        mean, cov = generated(score, horizon, t_min, 1)
        times, weights = time_rule(t_min, horizon)
        error = weights @ (c * np.exp(-(times - t_min))) ** 2
        ratio = gaussian_kl(np.eye(1), cov, np.zeros(1), mean) / divergence_bound(0.0, horizon, error)
        assert ratio == pytest.approx(1 - math.exp(-2 * span), rel=1e-8)


def test_factor_of_the_start_cannot_be_smaller():
    """A shifted white noise, read at T itself: KL(p_T || N(0, I)) is all there is, and the bound is attained."""
    mu, horizon = np.array([2.0, -1.0]), 0.8
    at_start = gaussian_kl(np.eye(2), np.eye(2), math.exp(-horizon) * mu, np.zeros(2))
    initial = gaussian_kl(np.eye(2), np.eye(2), mu, np.zeros(2))
    assert divergence_bound(initial, horizon, 0.0) == pytest.approx(at_start, rel=1e-14)


def test_error_budget_is_its_formula():
    graph, N = DependencyGraph.grid((9, 8)), np.array([[100], [10_000]])
    budget = error_budget(
        graph,
        N,
        [0, 1, 3],
        kappa=5.0,
        smoothness=1.5,
        log_power=2.0,
        n_channels=2,
    )
    assert divergence_bound(7.0, 2.0, 0.0) == pytest.approx(7 * math.exp(-4))
    for i, n in enumerate((100, 10_000)):
        for k, r in enumerate((0, 1, 3)):
            ball = 2 * max(int((row <= r).sum()) for row in graph.distance_matrix())
            estimation = 144 * n ** (-3 / (ball + 3)) * math.log(n) ** 2
            assert budget.estimation[i, k] == pytest.approx(estimation, rel=1e-12)
            assert budget.localization[i, k] == pytest.approx(144 * (r + 1) ** 2 * 0.8 ** (2 * r), rel=1e-12)
    one = error_budget(graph, 100, 1, kappa=5.0)
    assert one.estimation.shape == one.localization.shape == ()


def test_suggested_radius_is_the_rate_of_the_balanced_budget():
    """Where the two terms of (3.17) cross, r grows as (log N)^(1 / (nu + 1)): checked at numbers no one will have."""
    chain, radii, N = DependencyGraph.chain(2001), np.arange(250), np.array([1e60, 1e120, 1e240])
    budget = error_budget(chain, N[:, None], radii, kappa=1.2, smoothness=20.0)
    crossing = (budget.localization > budget.estimation).sum(axis=1)
    assert crossing[1:] / crossing[:-1] == pytest.approx(
        suggested_radius(N[1:], 1) / suggested_radius(N[:-1], 1), rel=0.1
    )
    assert suggested_radius(math.e**8, 2.0) == pytest.approx(2.0)


def exact_ends(n: int, h: float) -> tuple[float, float]:
    """Ends of the spectrum of I + h^-2 tridiag(-1, 2, -1), by its sines."""
    low, high = (1 + 4 / h**2 * math.sin(k * math.pi / (2 * (n + 1))) ** 2 for k in (1, n))
    return low, high


@pytest.mark.parametrize(
    ("n", "h", "iterative"),
    [
        (1, 0.7, False),
        *((n, h, iterative) for n, h in ((50, None), (300, 0.5), (300, None)) for iterative in (False, True)),
    ],
)
def test_concavity_of_the_lattice_models(n, h, iterative, monkeypatch):
    monkeypatch.setattr(concavity_module, "LARGEST_DENSE", 0 if iterative else 2000)
    P = lattice_precision(n, h)
    exact = exact_ends(n, h or 1 / (n + 1))
    assert concavity(P) == pytest.approx(exact, rel=1e-5 if iterative else 1e-10)
    if not iterative:
        assert concavity(P.toarray()) == concavity(P)
        assert condition_number(P) == pytest.approx(exact[1] / exact[0], rel=1e-10)


def test_condition_number_of_a_fixed_and_of_an_extended_domain():
    """Remark 2.2: kappa = O(d^2) where the grid is refined, O(1) where the domain grows."""
    sizes = np.array([50, 100, 200, 400])
    fixed = [condition_number(lattice_precision(n)) for n in sizes]
    slope = np.polyfit(np.log(sizes[1:]), np.log(fixed[1:]), 1)[0]
    assert slope == pytest.approx(2.0, abs=0.02)
    extended = np.array([condition_number(lattice_precision(n, 0.5)) for n in sizes])
    assert (extended <= 1 + 4 / 0.5**2).all()
    assert extended[-1] / extended[0] == pytest.approx(1.0, abs=0.02)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: score_decay_bound(0.0, 1.0, 0.1, 1), "0 < m <= M"),
        (lambda: score_decay_bound(2.0, 1.0, 0.1, 1), "0 < m <= M"),
        (lambda: score_decay_bound(0.5, 1.0, -0.1, 1), "t must be"),
        (lambda: score_decay_bound(0.5, 1.0, 0.1, 0), "two different vertices"),
        (lambda: correlation_bound(0.5, 1.0, -1), "distance must be"),
        (lambda: lemma_b1(0.5, 1.0, 0), "distance must be"),
        (lambda: localization_error_bound(DependencyGraph.chain(3), 0.5, 1.0, -1), "radius must be"),
        (lambda: suggested_radius(1, 1.0), "n_samples must be"),
        (lambda: suggested_radius(10, -1.0), "nu must be"),
        (lambda: lattice_precision(3, 0.0), "spacing must be"),
        (lambda: concavity(np.diag([1.0, 0.0])), "positive definite"),
        (
            lambda: error_budget(DependencyGraph.chain(3), 10, 1, kappa=0.5),
            "kappa must be",
        ),
    ],
)
def test_what_is_out_of_range_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
