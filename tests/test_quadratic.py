"""The quadratic part of a hybrid's denoiser against cumulants, quadrature and direct formulas."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from nearfield.fitting.closed_form import fit_windowed
from nearfield.fitting.pooling import Pooling
from nearfield.fitting.quadratic import _shrunk, fit_quadratic
from nearfield.graph import DependencyGraph
from nearfield.process import noise_scale, signal_scale, time_of
from nearfield.samples import Samples
from nearfield.score.hybrid import HybridScore
from nearfield.score.stencil import StencilNetwork

COPIES, SHAPE = 16, 4.0
RATIOS = np.array([1.0, 2.0, 4.0, 8.0])
KNOTS = np.log2([0.5, *RATIOS])


def best_coefficients() -> np.ndarray:
    """Least squares of the exact coefficient between knots, by quadrature.

    Copies of one value, seen with noise sigma each, are that value seen with noise sigma / 4. With u the square of
    that, and K cumulants of the value, Cov(x0 - D_G, phi) and Var(phi) are those of x0 - w and w^2, w = y / (1 + u).
    """
    skewness, kurtosis = 2 / np.sqrt(SHAPE), 6 / SHAPE
    place = np.linspace(-1, 5, 6001)
    u = 4.0**place / COPIES
    weight = (kurtosis + 2 * (1 + u) ** 2) / (1 + u) ** 4
    c = skewness * u / (1 + u) / (2 + kurtosis / (1 + u) ** 2)
    basis = np.stack([np.interp(place, KNOTS, row) for row in np.eye(5)[1:]], axis=1)
    return np.linalg.solve(basis.T @ (weight[:, None] * basis), basis.T @ (weight * c))


def gamma(n: int, seed: int) -> np.ndarray:
    """Fields of one value at all vertices, of skewness 1 in one channel and -1 in the other."""
    values = (np.random.default_rng(seed).gamma(SHAPE, size=(n, 1, 2)) - SHAPE) / np.sqrt(SHAPE)
    return np.broadcast_to(values * [1, -1], (n, COPIES, 2)).copy()


def test_coefficients_are_those_of_the_cumulants():
    """Twelve data sets; each mean within 6 of its standard errors: false alarm 1e-4 for each of 8 numbers."""
    graph, found = DependencyGraph.chain(COPIES), []
    for seed in range(12):
        z = gamma(3000, seed)
        score = fit_windowed(Samples(z, graph, standard=(True, True)), ((1.0, COPIES - 1),), Pooling(0.0))[2]
        found.append(fit_quadratic(Samples(z, graph), score, seed))
    truth = best_coefficients()[:, None] * [1, -1]
    assert abs(truth).min() > 0.01
    assert abs(truth[3]).min() > 0.35
    error = np.std(found, axis=0, ddof=1) / np.sqrt(len(found))
    assert (error < 0.05).all()
    assert (abs(np.mean(found, axis=0) - truth) < 6 * error).all()


def equations(n: int, seed: int, mean: float) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    design = rng.normal(size=(n, 9, 4))
    answer = design @ np.full(4, mean) + rng.normal(size=(n, 1)) * rng.normal(size=(n, 9))
    return np.einsum("nik,nil->nkl", design, design), np.einsum("nik,ni->nk", design, answer)


def test_coefficients_are_shrunk_by_what_they_are_worth():
    normal, moment = equations(50, 0, 0.3)
    solution = np.linalg.solve(normal.sum(axis=0), moment.sum(axis=0))
    inverse, rest = np.linalg.inv(normal.sum(axis=0)), moment - normal @ solution
    distance = solution @ np.linalg.solve(inverse @ (rest.T @ rest) @ inverse, solution)
    assert 5 < distance < 500
    np.testing.assert_allclose(_shrunk(normal, moment, ordered=False), solution * (1 - 2 * (50 / 48) / distance))


@pytest.mark.parametrize("n", [15, 50])
def test_of_what_is_noise_two_fifths_are_left(n):
    """By theory .37 with a known covariance. The mean of 400 has a standard error below .02: false alarm below 1e-4."""
    left, of = 0.0, 0.0
    for seed in range(400):
        normal, moment = equations(n, seed, 0.0)
        left += (_shrunk(normal, moment, ordered=False) ** 2).sum()
        of += (np.linalg.solve(normal.sum(axis=0), moment.sum(axis=0)) ** 2).sum()
    assert 0.29 < left / of < 0.5


def test_eight_samples_tell_nothing():
    assert not _shrunk(*equations(8, 0, 2.0), ordered=False).any()
    assert _shrunk(*equations(9, 0, 2.0), ordered=False).all()


def test_samples_in_order_of_time_count_by_blocks():
    """Each sample ten times in a row is no more than each once."""
    normal, moment = equations(20, 1, 0.2)  # 200 in the end, in twenty blocks
    once = _shrunk(normal, moment, ordered=False)
    repeated = [np.repeat(each, 10, axis=0) for each in (normal, moment)]
    np.testing.assert_allclose(_shrunk(*repeated, ordered=True), once)
    assert np.linalg.norm(_shrunk(*repeated, ordered=False)) > 1.02 * np.linalg.norm(once)


def test_data_without_variance_have_no_coefficients():
    z = np.zeros((20, 5, 1))
    graph, varied = DependencyGraph.chain(5), np.random.default_rng(0).normal(size=(20, 5, 1))
    score = fit_windowed(Samples(varied, graph, standard=(True,)), ((1.0, 1),), Pooling(0.0))[2]
    assert not fit_quadratic(Samples(z, graph), score, 0).any()
    assert not _shrunk(np.zeros((20, 4, 4)), np.zeros((20, 4)), ordered=False).any()


@pytest.mark.parametrize("full_start", [False, True])
@pytest.mark.parametrize("sigmas", [[0.3, 0.7, 1.5, 2.0, 5.0, 100.0], [3.0]])
def test_hybrid_adds_the_square_of_the_gaussian(sigmas, full_start):
    """With a network of zeros, against the formula with numpy's interpolation."""
    graph = DependencyGraph.chain(6)
    rng = np.random.default_rng(0)
    gaussian = fit_windowed(Samples(rng.normal(size=(20, 6, 2)).cumsum(axis=1), graph), ((1.0, 2),), Pooling(0.5))[2]
    quadratic = rng.normal(size=(4, 2))
    network = StencilNetwork(graph, 1, n_channels=2, n_context=4, width=3)
    hybrid = HybridScore(network, gaussian, quadratic, full_start=full_start)
    t = torch.tensor([time_of(sigma) for sigma in sigmas], dtype=torch.float64)
    x = torch.from_numpy(rng.normal(size=(6, 6, 2)) * np.array([1, 1, 1, 20, 20, 1])[:, None, None])
    found = hybrid.denoise(x, t if len(t) > 1 else float(t))
    for k, sigma in enumerate(np.broadcast_to(sigmas, 6)):
        time = time_of(sigma)
        a, s, denoised = signal_scale(time), noise_scale(time), gaussian.denoise(x[k : k + 1], time)[0].numpy()
        c = [np.interp(np.log2(sigma), KNOTS, np.r_[0.0, column]) for column in quadratic.T]
        variance = gaussian.explained_variance(np.array([time]))[0].numpy()
        bounded = np.minimum(denoised**2, 36 * variance)
        assert (bounded < denoised**2).any() == (k in (3, 4))
        second = c * (bounded - variance)
        share = 1.0 if full_start else s**2
        expected = a * x[k].numpy() + share * (denoised - a * x[k].numpy()) + s**2 * second
        np.testing.assert_allclose(found[k].detach().numpy(), expected, rtol=1e-6, atol=1e-7)


def test_a_denoiser_of_skewed_data_does_not_outgrow_a_state_far_outside():
    """Else repeated noising and denoising runs away: the square of a state of 9 deviations exceeds it."""
    graph = DependencyGraph.chain(6)
    gaussian = fit_windowed(
        Samples(np.random.default_rng(0).normal(size=(20, 6, 1)), graph), ((1.0, 1),), Pooling(1.0)
    )[2]
    hybrid = HybridScore(StencilNetwork(graph, 1, n_context=2), gaussian, np.full((4, 1), 0.5))
    time = time_of(1.4)
    for size in (10.0, 100.0, 1e4):
        with torch.no_grad():
            assert hybrid.denoise(torch.full((1, 6, 1), size * signal_scale(time)), time).max() < size


def test_coefficients_of_another_shape_are_refused():
    graph = DependencyGraph.chain(6)
    gaussian = fit_windowed(
        Samples(np.random.default_rng(0).normal(size=(20, 6, 1)), graph), ((1.0, 1),), Pooling(0.0)
    )[2]
    with pytest.raises(ValueError, match=r"quadratic must have shape \(4, 1\)"):
        HybridScore(StencilNetwork(graph, 1, n_context=2), gaussian, np.zeros((3, 1)))
