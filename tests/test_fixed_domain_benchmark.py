"""The reference of the fixed-domain benchmark: dense algebra, and quadrature where there is one place."""

import numpy as np
import pytest
from benchmarks.fixed_domain import MEAN, RANGE, SCALE, SHARE, best_denoiser, draw, smooth


def matern(d):
    lag = np.sqrt(3) * abs(np.subtract.outer(np.arange(d), np.arange(d))) / d / RANGE
    return (1 + lag) * np.exp(-lag)


def test_the_smoother_is_kriging_and_draws_have_the_covariance():
    """200 000 products a pair: standard error .0032 at most, 5 of them."""
    rng, d = np.random.default_rng(0), 6
    seen, precision = rng.normal(size=(3, d)), rng.uniform(0.1, 9.0, (3, d))
    mean, variance = smooth(seen, precision)
    for k in range(3):
        gain = np.linalg.solve(matern(d) + np.diag(1 / precision[k]), matern(d)).T
        np.testing.assert_allclose(mean[k], gain @ seen[k], rtol=1e-8, atol=1e-10)
        np.testing.assert_allclose(variance[k], np.diag(matern(d) - gain @ matern(d)), rtol=1e-8)
    g = draw(200_000, d, 1)
    np.testing.assert_allclose(g.T @ g / len(g), matern(d), atol=0.016)


@pytest.mark.parametrize("sigma", [0.1, 0.5, 2.0, 10.0])
def test_the_reference_is_near_the_posterior_mean(sigma):
    """At one place, by quadrature, over the law of the noised value: a fiftieth of the posterior variance at most."""
    rng = np.random.default_rng(0)
    seen = ((np.exp(SHARE * rng.normal(size=400)) - MEAN) / SCALE + sigma * rng.normal(size=400))[:, None]
    grid = np.linspace(-8, 8, 4001)
    values = (np.exp(SHARE * grid) - MEAN) / SCALE
    likely = np.exp(-(grid**2) / 2 - (seen - values) ** 2 / (2 * sigma**2))
    likely /= likely.sum(axis=1, keepdims=True)
    exact = likely @ values
    spread = (likely @ values**2 - exact**2).mean()
    found = best_denoiser(seen, np.full(400, sigma))[:, 0]
    assert ((found - exact) ** 2).mean() < spread / 50
