"""Locality of scores against direct linear algebra, quadrature, full Jacobians and laws of known truth."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from scipy.sparse import csr_array

from nearfield.datasets import AutoregressiveChain, GaussianMarkovField
from nearfield.fitting.closed_form import fit_field, fit_masked, fit_windowed
from nearfield.fitting.pooling import Pooling
from nearfield.graph import DependencyGraph
from nearfield.noise import Stream, normals
from nearfield.process import signal_scale
from nearfield.samples import Samples
from nearfield.score.base import Score
from nearfield.score.field import GaussianField
from nearfield.score.hybrid import HybridScore, NetworkScore
from nearfield.score.window import WindowNetwork
from nearfield.theory.bound import score_decay_bound
from nearfield.theory.concavity import concavity
from nearfield.theory.gaussian import (
    diffused_precision,
    localization_error,
    marginal_score,
    missed_variance,
    pythagoras_check,
    time_rule,
)
from nearfield.theory.locality import effective_radius, locality_profile, mean_by_distance

T = 0.3


def random_law(graph: DependencyGraph, n_channels: int = 1, seed: int = 0) -> np.ndarray:
    """Precision that couples neighbours at random, diagonally dominant."""
    rng = np.random.default_rng(seed)
    d = len(graph) * n_channels
    A = rng.uniform(-1, 1, size=(d, d)) * np.kron(graph.distance_matrix() <= 1, np.ones((n_channels, n_channels)))
    A = A + A.T
    return A + np.diag(0.3 + np.abs(A).sum(axis=1) - np.diag(A))


def field_of(P: np.ndarray, n_channels: int = 1) -> GaussianField:
    """Exact score of a precision: P = F'F with F lower triangular, by Cholesky from the other end."""
    factor = np.linalg.cholesky(P[::-1, ::-1])[::-1, ::-1].T
    return GaussianField(csr_array(np.tril(factor)), np.arange(len(P) // n_channels), n_channels)


def missed_directly(P: np.ndarray, hops: np.ndarray, n_channels: int, r: int) -> float:
    """Residual variance of the regression of the score on the window: no Schur complement."""
    own, window = (np.repeat(hops <= k, n_channels) for k in (0, r))
    C = np.linalg.inv(P)
    score = -P[own]  # the score is score @ x
    cross = score @ C[:, window]
    return np.trace(score @ C @ score.T - cross @ np.linalg.solve(C[np.ix_(window, window)], cross.T))


STATIONS = DependencyGraph.knn(np.random.default_rng(0).uniform(size=(14, 2)), 2)
GRAPHS = {
    "chain": DependencyGraph.chain(9),
    "grid": DependencyGraph.grid((3, 4)),
    "stations": STATIONS,
    "disconnected": DependencyGraph.from_edges(6, [(0, 3), (3, 5), (1, 4)]),
    "one vertex": DependencyGraph.chain(1),
}


def test_diffused_precision_is_the_inverse_of_the_diffused_covariance():
    P = random_law(GRAPHS["grid"])
    for t in (0.0, 0.02, 1.0, 7.0):
        direct = np.linalg.inv(math.exp(-2 * t) * np.linalg.inv(P) + (1 - math.exp(-2 * t)) * np.eye(12))
        np.testing.assert_allclose(diffused_precision(P, t), direct, rtol=1e-10, atol=1e-13)
        np.testing.assert_array_equal(diffused_precision(P, [[t, 0.1]])[0, 0], diffused_precision(P, t))


@pytest.mark.parametrize("name", GRAPHS)
def test_effective_radius_is_its_definition(name):
    """(4.1) word by word, by |i - j| and by hops."""
    graph = GRAPHS[name]
    n, noised = len(graph), diffused_precision(random_law(graph, seed=1), [0.01, 0.3, 2.0])
    chain = np.abs(np.subtract.outer(np.arange(n), np.arange(n)))
    for hops in (chain, graph.distance_matrix()):
        for eps in (1e-3, 1e-1):
            for P, r_loc in zip(noised, effective_radius(noised, eps, None if hops is chain else hops), strict=True):
                means = {r: np.mean(np.abs(P[hops == r])) for r in np.unique(hops[np.isfinite(hops)])}
                assert r_loc == max(r for r, mean in means.items() if mean > eps * means[0])
                found = mean_by_distance(P, None if hops is chain else hops)
                np.testing.assert_allclose(found[[int(r) for r in means]], list(means.values()), rtol=1e-12)


def test_effective_radius_rises_then_falls():
    noised = diffused_precision(AutoregressiveChain(0.8, 60).precision.toarray(), np.geomspace(1e-3, 5.0, 40))
    radius = effective_radius(noised)
    peak = int(np.argmax(radius))
    assert radius[0] <= 3 < 8 < radius[peak]
    assert radius[-1] <= 1
    assert (np.diff(radius[: peak + 1]) >= 0).all()
    assert (np.diff(radius[peak:]) <= 0).all()
    with pytest.raises(ValueError, match="eps must lie between 0 and 1"):
        effective_radius(noised, 0.0)


@pytest.mark.parametrize("name", GRAPHS)
@pytest.mark.parametrize("n_channels", [1, 2])
def test_missed_variance_is_that_of_a_regression(name, n_channels):
    graph = GRAPHS[name]
    P = diffused_precision(random_law(graph, n_channels), T)
    for hops in graph.distance_matrix():
        missed = missed_variance(P, hops, n_channels)
        direct = [missed_directly(P, hops, n_channels, r) for r in range(len(missed))]
        np.testing.assert_allclose(missed, direct, rtol=1e-9, atol=1e-13)
        assert len(missed) == 1 + max(hops[np.isfinite(hops)])


def test_missed_variance_is_precise_however_small():
    """A precision that is itself the covariance of a Markov chain: of the far vertices the nearest two tell all."""
    hops = np.abs(np.arange(61.0) - 30)
    missed = missed_variance(AutoregressiveChain(0.3, 61).covariance(), hops)
    c = 0.3 ** np.arange(1, 31)
    assert missed[29] < 1e-30
    np.testing.assert_allclose(missed, np.append(2 * c**2 / (1 + c**2), 0.0), rtol=1e-12)


def test_missed_variance_of_an_information_matrix_is_a_lower_bound():
    """(N.7) on two variables with a kurtic, skewly coupled density, all expectations by quadrature on a grid."""
    axis = np.linspace(-5, 5, 801)
    x, y = np.meshgrid(axis, axis, indexing="ij")
    log_p = -(x**4) / 4 - y**2 - 0.8 * x * y - 0.3 * x**2 * y
    slope_x, slope_y = -(x**3) - 0.8 * y - 0.6 * x * y, -2 * y - 0.8 * x - 0.3 * x**2
    p = np.exp(log_p)
    p /= p.sum()
    slopes = np.stack([slope_x, slope_y])
    information = np.einsum("axy,bxy,xy->ab", slopes, slopes, p)
    local = (slope_x * p).sum(axis=1) / p.sum(axis=1)  # (3.11): the score given the window alone
    truth = (p * (slope_x - local[:, None]) ** 2).sum()
    bound = missed_variance(information, np.array([0.0, 1.0]))[0]
    assert 0.3 * truth < bound < 0.999 * truth


def test_time_rule_integrates_to_rounding():
    times, weights = time_rule(1e-6, 9.0)
    for power in (1, 2):
        exact = (math.exp(-power * 1e-6) - math.exp(-power * 9.0)) / power
        assert weights @ np.exp(-power * times) == pytest.approx(exact, rel=1e-13)
    with pytest.raises(ValueError, match="0 < t_min < t_max"):
        time_rule(1.0, 0.5)


@pytest.mark.parametrize("n_channels", [1, 2])
def test_localization_error_is_its_integral(n_channels):
    graph = DependencyGraph.from_edges(4, [(0, 1), (1, 2), (0, 3)])
    P = random_law(graph, n_channels)
    P[:, ::2] *= 30.0  # eigenvalues far from one another
    P[::2] *= 30.0
    exact = localization_error(P, graph, 1e-3, 5.0, vertices=[2, 0])
    assert exact.shape == (2, 4)
    for row, j in zip(exact, (2, 0), strict=True):
        hops = graph.distance_matrix()[j]
        for r in (0, 1):
            integral = quad(
                lambda t, hops=hops, r=r: missed_directly(diffused_precision(P, t), hops, n_channels, r),
                *(1e-3, 5.0),
                points=[1e-2, 0.1, 1.0],
                epsrel=1e-9,
                limit=200,
            )[0]
            assert row[r] == pytest.approx(integral, rel=1e-6)
    with pytest.raises(ValueError, match="multiple of 4 rows"):
        localization_error(P[:3, :3], graph, 1e-3, 5.0)


@pytest.mark.parametrize("name", GRAPHS)
def test_marginal_score_is_the_expected_score_given_the_window(name):
    """(3.11) as a conditional expectation: E[-P x | x_N] with E[x | x_N] = C_.N C_NN^-1 x_N."""
    graph = GRAPHS[name]
    P = diffused_precision(random_law(graph, 2), T)
    C, hops = np.linalg.inv(P), np.kron(graph.distance_matrix(), np.ones((2, 2)))
    for radius in (0, 1):
        rows = marginal_score(C, graph, radius)
        for j in range(len(P)):
            near = hops[j] <= radius
            given = P[j] @ C[:, near] @ np.linalg.inv(C[np.ix_(near, near)])
            np.testing.assert_allclose(rows[j, near], given, rtol=1e-9, atol=1e-12)
            assert not rows[j, ~near].any()


# (3.14) and Proposition 3.3


def windowed_rows(score: Score, t: float) -> np.ndarray:
    """Rows U of a linear score -U x."""
    basis = torch.eye(score.n_vertices, dtype=torch.float64)[..., None]
    return -score.score(basis, t)[..., 0].T.numpy()


@pytest.mark.parametrize("radius", [0, 1, 3])
def test_pythagoras(radius):
    """(3.14) for the local minimiser fitted to samples, at every vertex; what reads further breaks it."""
    law = AutoregressiveChain(0.7, 20)
    x = law.sample(60, random_state=0)
    C = signal_scale(T) ** 2 * law.covariance() + (1 - signal_scale(T) ** 2) * np.eye(20)
    fitted = fit_windowed(Samples(x, law.graph, standard=(True,)), ((T, radius),), Pooling(0.0))[2]
    parts = pythagoras_check(windowed_rows(fitted, T), C, law.graph, radius)
    assert parts.gap < 1e-12
    assert parts.estimation.mean() > 1e-3
    missed = [missed_variance(np.linalg.inv(C), row)[radius] for row in law.graph.distance_matrix()]
    np.testing.assert_allclose(parts.localization, missed, rtol=1e-9)
    further = fit_windowed(Samples(x, law.graph, standard=(True,)), ((T, radius + 1),), Pooling(0.0))[2]
    assert pythagoras_check(windowed_rows(further, T), C, law.graph, radius).gap > 1e-3


def test_local_loss_is_the_error_and_a_constant():
    """Proposition 3.3: E|u_j(x_t) + xi_j / s|^2 = E|u_j - s_j|^2 + C_j, C_j = 1/s^2 - (P_t)_jj, for any local u_j.

    So held-out losses may be compared across radii. The left side is from the joint law of x_t and xi.
    """
    law, t = AutoregressiveChain(0.6, 12), 0.2
    a2, s = math.exp(-2 * t), math.sqrt(1 - math.exp(-2 * t))
    C = a2 * law.covariance() + s**2 * np.eye(12)
    joint = np.block([[C, s * np.eye(12)], [s * np.eye(12), np.eye(12)]])  # of (x_t, xi)
    rng = np.random.default_rng(0)
    for radius in (0, 2, 11):
        rows = rng.normal(size=(12, 12)) * (law.graph.distance_matrix() <= radius)
        combined = np.hstack([-rows, np.eye(12) / s])
        loss = np.einsum("ij,jk,ik->i", combined, joint, combined)
        error = pythagoras_check(rows, C, law.graph, radius).total
        np.testing.assert_allclose(loss - error, 1 / s**2 - np.diag(np.linalg.inv(C)), rtol=1e-9)


def test_fitting_a_vertex_is_fitting_the_diffusion_of_its_window():
    """Proposition 3.3: the local score at j, fitted to the whole field, is component j of a *global* score fitted to
    a data set that has only the window."""
    graph, j = DependencyGraph.grid((4, 5)), 7
    x = GaussianMarkovField.nonstationary((4, 5)).sample(80, random_state=0)
    window = graph.distance_matrix()[j] <= 2
    local = fit_windowed(Samples(x, graph, standard=(True,)), ((T, 2),), Pooling(0.0))[2]
    marginal = fit_windowed(Samples(x[:, window], graph.subgraph(window), standard=(True,)), ((T, 9),), Pooling(0.0))[2]
    state = torch.from_numpy(np.random.default_rng(1).normal(size=(6, 20, 1)))
    place = int(np.cumsum(window)[j]) - 1
    for t in (0.05, T, 2.0):
        alone = marginal.denoise(state[:, window], t)[:, place]
        torch.testing.assert_close(local.denoise(state, t)[:, j], alone, rtol=1e-10, atol=1e-12)


# profiles


def full_jacobian(score: Score, states: torch.Tensor, t: float) -> np.ndarray:
    """(state, vertex * channel, vertex * channel), in reverse mode."""
    size = states[0].numel()
    each = [torch.func.jacrev(lambda y: score.score(y[None], t)[0])(x).reshape(size, size) for x in states]
    return torch.stack(each).numpy()


def noised(x: np.ndarray, t: float, seed: int) -> torch.Tensor:
    xi = normals(seed, Stream.EVALUATION, range(len(x)), 0, *x.shape[1:])
    return torch.from_numpy(math.exp(-t) * x + math.sqrt(1 - math.exp(-2 * t)) * xi)


@pytest.mark.parametrize("name", GRAPHS)
@pytest.mark.parametrize("n_channels", [1, 2])
def test_profile_of_a_gaussian_is_exact(name, n_channels):
    graph = GRAPHS[name]
    P, hops = random_law(graph, n_channels), graph.distance_matrix()
    field = field_of(P, n_channels)
    np.testing.assert_allclose(np.linalg.inv(field.covariance()), P, rtol=1e-9, atol=1e-11)
    times, n = (0.02, T, 2.0), len(graph)
    profile = locality_profile(field, np.zeros((2, n, n_channels)), times, graph)
    distances = np.unique(hops[np.isfinite(hops)]).astype(int)
    assert profile.pairs.tolist() == [(hops == k).sum() for k in distances]
    for row, missed, noised_precision in zip(profile.rms, profile.missed, diffused_precision(P, times), strict=True):
        square = (noised_precision**2).reshape(n, n_channels, n, n_channels).sum(axis=(1, 3))
        np.testing.assert_allclose(row, [np.sqrt(square[hops == k].mean()) for k in distances], rtol=1e-8, atol=1e-13)
        lost = np.zeros(len(distances))
        for each in hops:
            part = missed_variance(noised_precision, each, n_channels)
            lost[: len(part)] += part
        np.testing.assert_allclose(missed, lost / np.trace(noised_precision), rtol=1e-7, atol=1e-14)


class Curved(Score):
    """A nonlinear score in torch: its Jacobian differs from state to state and reaches two hops."""

    n_channels = 2

    def __init__(self, graph: DependencyGraph, dtype: torch.dtype = torch.float64) -> None:
        super().__init__()
        self.n_vertices, self.radius = len(graph), 2
        network = WindowNetwork(graph, 2, 2, width=8).to(dtype).requires_grad_(False)
        generator = torch.Generator().manual_seed(0)
        for weight in network.parameters():
            weight += 0.1 * torch.randn(weight.shape, generator=generator, dtype=torch.float64).to(dtype)
        self.inner = NetworkScore(network)

    def forward(self, x, t):
        return self.inner.denoise(x, t)


@pytest.mark.parametrize("name", ["grid", "stations"])
def test_profile_of_a_network_is_that_of_its_jacobians(name):
    graph = GRAPHS[name]
    score, n, hops = Curved(graph), len(graph), graph.distance_matrix()
    x = np.random.default_rng(2).normal(size=(5, n, 2))
    profile = locality_profile(score, x, [0.05, T], graph, seed=3)
    for t, rms, missed in zip((0.05, T), profile.rms, profile.missed, strict=True):
        jacobian = full_jacobian(score, noised(x, t, 3), t)
        square = (jacobian**2).reshape(5, n, 2, n, 2).sum(axis=(2, 4)).mean(axis=0)
        direct = [np.sqrt(square[hops == k].mean()) for k in range(len(rms))]
        np.testing.assert_allclose(rms, direct, rtol=1e-9)
        assert not rms[3:].any()
        assert not missed[2:].any()
        F = -jacobian.mean(axis=0)
        F = (F + F.T) / 2
        lost = [sum(missed_directly(F, each, 2, r) for each in hops) for r in range(2)]
        np.testing.assert_allclose(missed[:2], np.array(lost) / np.trace(F), rtol=1e-7, atol=1e-14)
        assert missed[0] > missed[1] > 0
    # d s_j / d x_i for the vertices i: columns, which are not rows here
    some = locality_profile(score, x, [0.05], graph, vertices=[4, 1], seed=3).rms[0]
    square = (full_jacobian(score, noised(x, 0.05, 3), 0.05) ** 2).reshape(5, n, 2, n, 2).sum(axis=(2, 4)).mean(axis=0)
    column, near = square[:, [1, 4]].T, hops[[1, 4]]
    np.testing.assert_allclose(some, [np.sqrt(column[near == k].mean()) for k in range(len(some))], rtol=1e-9)


class Shifted(Score):
    """The score of a field with a mean: affine, not linear."""

    def __init__(self, field: GaussianField) -> None:
        super().__init__()
        self.field = field
        self.n_vertices, self.n_channels, self.radius = field.n_vertices, field.n_channels, None

    def forward(self, x, t):
        return 5.0 + self.field.denoise(x - 5.0 * signal_scale(t), t)


def test_profile_does_not_know_the_mean():
    graph = GRAPHS["grid"]
    field, x = field_of(random_law(graph)), np.ones((1, 12, 1))
    shifted, plain = (locality_profile(score, x, [0.1, 1.0], graph) for score in (Shifted(field), field))
    np.testing.assert_allclose(shifted.rms, plain.rms, rtol=1e-8, atol=1e-12)
    np.testing.assert_allclose(shifted.missed, plain.missed, rtol=1e-7, atol=1e-12)


def test_profile_of_some_vertices_within_reach():
    """Sampled vertices: their own columns, and what a window misses within reach."""
    graph = DependencyGraph.grid((5, 6))
    P, hops = random_law(graph), graph.distance_matrix()
    profile = locality_profile(field_of(P), np.zeros((1, 30, 1)), T, graph, vertices=[17, 3], reach=3)
    precision = diffused_precision(P, T)
    assert profile.vertices.tolist() == [3, 17]
    assert profile.pairs.tolist() == [int((hops[[3, 17]] == k).sum()) for k in range(4)]
    direct = [np.sqrt((precision[[3, 17]][hops[[3, 17]] == k] ** 2).mean()) for k in range(4)]
    np.testing.assert_allclose(profile.rms[0], direct, rtol=1e-9, atol=1e-13)
    lost = np.zeros(4)
    for j in (3, 17):
        near = hops[j] <= 3
        lost += missed_variance(precision[np.ix_(near, near)], hops[j][near])
    np.testing.assert_allclose(profile.missed[0], lost / precision[[3, 17], [3, 17]].sum(), rtol=1e-8)
    whole = locality_profile(field_of(P), np.zeros((1, 30, 1)), T, graph, vertices=[17, 3])
    assert (profile.missed[0, :3] < whole.missed[0, :3]).all()


def test_profile_of_a_large_graph_takes_a_few_vertices():
    """In the middle of a long stationary chain it is the profile of the middle of a shorter one."""
    long, short = AutoregressiveChain(0.6, 3000), AutoregressiveChain(0.6, 161)
    rows = [np.repeat(1 / 0.8, 2999), np.repeat(-0.6 / 0.8, 2999)]
    place = np.arange(1, 3000)
    factor = csr_array((np.concatenate([[1.0], *rows]), (np.r_[0, place, place], np.r_[0, place, place - 1])))
    profile = locality_profile(GaussianField(factor, np.arange(3000)), np.zeros((1, 3000, 1)), T, long.graph)
    assert len(profile.vertices) == 8
    assert 40 < profile.vertices.min() < profile.vertices.max() < 2960
    middle = diffused_precision(short.precision.toarray(), T)[80, 80:]
    np.testing.assert_allclose(profile.rms[0, :20], np.abs(middle[:20]), rtol=1e-7, atol=1e-14)
    exact = missed_variance(diffused_precision(short.precision.toarray(), T), np.abs(np.arange(161.0) - 80))
    np.testing.assert_allclose(profile.missed[0, :10], exact[:10] / middle[0], rtol=1e-6)


def test_profile_of_a_fitted_field_is_below_the_bound():
    """Theorem 2.1 on a fit: a chain of one hop is Markov, and its ends of the spectrum are its m and M."""
    law = AutoregressiveChain(0.7, 40)
    field = fit_field(Samples(law.sample(300, random_state=0), law.graph), 1, Pooling(0.0))[2]
    m, M = concavity(field.precision())
    times = np.geomspace(0.01, 3.0, 6)
    profile = locality_profile(field, np.zeros((1, 40, 1)), times, law.graph)
    bound = score_decay_bound(m, M, times[:, None], np.arange(1, 40))
    assert (profile.rms[:, 1:] <= bound).all()
    assert (profile.rms[:, 1] > 0.02 * bound[:, 0]).all()


@pytest.mark.parametrize("radius", [0, 2])
def test_local_scores_read_and_miss_nothing_beyond_their_radius(radius):
    law = AutoregressiveChain(0.7, 16)
    x = law.sample(60, random_state=0)
    windowed = fit_windowed(Samples(x, law.graph), ((T, radius),), Pooling(0.0))[2]
    hybrid = HybridScore(WindowNetwork(law.graph, radius, 1, n_context=2, width=8).requires_grad_(False), windowed)
    for parameter in hybrid.network.parameters():
        parameter += 0.02
    for score in (windowed, hybrid):
        profile = locality_profile(score, x[:3], [0.1, 1.0], law.graph)
        assert not profile.rms[:, radius + 1 :].any()
        assert not profile.missed[:, radius:].any()
        assert (profile.rms[:, : radius + 1] > 0).all()


def test_scores_of_no_law_miss_no_share():
    """A masked inverse of few samples is not positive definite; the profile says nan, and keeps the derivatives."""
    law = AutoregressiveChain(0.8, 20)
    score = fit_masked(Samples(law.sample(15, random_state=2), law.graph), 2)[2]
    assert np.linalg.eigvalsh(score.precision(0.02).numpy())[0] < 0
    profile = locality_profile(score, np.zeros((1, 20, 1)), 0.02, law.graph)
    assert np.isnan(profile.missed).all()
    assert (profile.rms[0, :3] > 0).all()


class Hiding(Curved):
    """Computes some of its dependence where torch does not see it."""

    def forward(self, x, t):
        return signal_scale(t) * x + (self.inner.denoise(x, t) - signal_scale(t) * x).detach()


@pytest.mark.parametrize("t", [1e-4, 0.02, 1.0])
def test_a_score_that_hides_from_forward_mode_is_refused(t):
    graph = GRAPHS["grid"]
    x = np.random.default_rng(2).normal(size=(4, 12, 2))
    with pytest.raises(TypeError, match="without detach or numpy"):
        locality_profile(Hiding(graph), x, t, graph)
    for dtype in (torch.float64, torch.float32):  # and one that does not hide is not
        assert np.isfinite(locality_profile(Curved(graph, dtype), x, t, graph).rms).all()


def test_what_is_out_of_range_is_refused():
    graph = GRAPHS["chain"]
    field = field_of(random_law(graph))
    for arguments, message in (
        ({"x": np.zeros((1, 8, 1))}, "x must have shape"),
        ({"x": np.zeros((0, 9, 1))}, "x must have a sample"),
        ({"graph": GRAPHS["grid"]}, "graph the 9 vertices"),
        ({"t": [0.1, 0.0]}, "t must be above 0"),
        ({"reach": -1}, "reach must be at least 0"),
    ):
        given = {"x": np.zeros((1, 9, 1)), "t": 0.1, "graph": graph} | arguments
        with pytest.raises(ValueError, match=message):
            locality_profile(field, **given)
