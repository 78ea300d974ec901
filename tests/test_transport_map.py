"""Bayesian transport maps, the rival: likelihood against a dense Student's t, density, draws and order."""

import numpy as np
import pytest
import torch
from benchmarks.peer import transport_map
from benchmarks.peer.transport_map import ALPHA, Order, Prior, TransportMap, integrated
from scipy.integrate import quad
from scipy.stats import multivariate_t

STEP = 0.1
PAIRS = np.stack(np.meshgrid(*2 * [np.arange(-8, 8, STEP)], indexing="ij"), axis=-1).reshape(-1, 2)
THETA = torch.tensor([-0.5, 0.7, -0.3, 0.4, 0.2, -0.8], dtype=torch.float64)


@pytest.fixture(scope="module", autouse=True)
def few_starts():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(transport_map, "SEARCH", ((64, 17), (2, 18)))
        yield


def test_the_integrated_likelihood_is_that_of_a_dense_students_t():
    """Integrated over an inverse-gamma variance, N(0, d^2 G) is t with 2 alpha degrees and shape beta / alpha G."""
    rng = np.random.default_rng(0)
    points, y = rng.uniform(size=(9, 2)), rng.normal(size=(9, 12))
    order = Order.of(points, 4)
    law = TransportMap(y.T, points)
    law.order = order
    y = torch.from_numpy(y)
    prior = Prior.of(order, np.arange(9), THETA, law.inputs(y, np.arange(9)), linear=False)
    found = integrated(prior, y)
    t1, t2, s1, s2, gamma, q = THETA.tolist()
    for i in range(9):
        mean = np.exp(t1 + t2 * order.log_length[i])
        near = order.before[i][order.present[i]]
        w = y.numpy()[near].T * np.exp(-0.5 * np.exp(q) * np.arange(1, len(near) + 1))
        away = np.sqrt(3) * np.linalg.norm(w[:, None] - w, axis=2) / np.exp(gamma)
        kernel = np.zeros((12, 12))
        if len(near):
            kernel = w @ w.T + np.exp(2 * (s1 + s2 * order.log_length[i])) * (1 + away) * np.exp(-away)
        shape = mean * (ALPHA - 1) / ALPHA * (np.eye(12) + kernel / mean)
        np.testing.assert_allclose(found[i], multivariate_t(np.zeros(12), shape, 2 * ALPHA).logpdf(y[i]), rtol=1e-5)


def test_the_order_is_maximin_with_the_nearest_earlier_first():
    points = np.arange(9.0)[:, None]
    order = Order.of(points, 2)
    assert order.order[:3].tolist() == [4, 0, 8]
    place = order.order.tolist().index(5)
    near = order.order[order.before[place]]
    earlier = order.order[:place]
    assert near.tolist() == sorted(earlier, key=lambda p: abs(p - 5))[:2]
    np.testing.assert_allclose(np.exp(order.log_length[1:3]), [1, 1])


@pytest.fixture(scope="module")
def fitted(few_starts):
    rng = np.random.default_rng(1)
    x = np.empty((60, 2))
    x[:, 0] = rng.normal(size=60)
    x[:, 1] = np.sin(2 * x[:, 0]) + 0.3 * rng.normal(size=60)
    return TransportMap(x, np.arange(2.0)[:, None]), x


def test_the_predictive_density_sums_to_one(fitted):
    law, x = fitted
    alone = TransportMap(x[:, :1], np.zeros((1, 1)))
    assert quad(lambda v: np.exp(alone.log_prob(np.array([[v]])))[0], -np.inf, np.inf)[0] == pytest.approx(1)
    log_p = law.log_prob(PAIRS)
    assert np.exp(log_p).sum() * STEP**2 == pytest.approx(1, abs=0.01)


def test_draws_follow_the_density_and_the_curve(fitted):
    law, _ = fitted
    drawn = law.sample(4000, seed=0)
    inner = np.abs(drawn[:, 0]) < 1.5
    bent = drawn[inner, 1] - np.sin(2 * drawn[inner, 0])
    assert np.std(bent) < 0.5  # .3 of noise; a line leaves .65
    # the entropy by draws and on a grid: 4 standard errors, and the tails beyond the grid
    log_p = law.log_prob(PAIRS)
    entropy = -(np.exp(log_p) * log_p).sum() * STEP**2
    own = -law.log_prob(drawn)
    assert abs(own.mean() - entropy) < 4 * own.std() / np.sqrt(len(own)) + 0.01


def test_draws_of_a_linear_law_have_its_moments():
    """Exponential covariance on 12 points of a line: variance within 15 %, neighbours' correlation within .03."""
    points = np.linspace(0, 0.3, 12)[:, None]
    covariance = np.exp(-np.abs(points - points.T) / 0.3)
    x = np.random.default_rng(2).normal(size=(60, 12)) @ np.linalg.cholesky(covariance).T
    drawn = TransportMap(x, points, linear=True).sample(4000, seed=1)
    assert drawn.var(axis=0).mean() == pytest.approx(x.var(axis=0).mean(), rel=0.15)
    near = np.mean(drawn[:, 1:] * drawn[:, :-1]) / drawn.var(axis=0).mean()
    assert near == pytest.approx(covariance[0, 1], abs=0.03)
