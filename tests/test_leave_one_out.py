"""Densities of fields with missing values, and of each value given the others, by dense normal laws."""

import numpy as np
import pytest
import scipy.stats

from nearfield.score.leave_one_out import leave_one_out, observed_log_prob
from test_score_contract import GRAPHS, MAKERS

GRAPH = GRAPHS["torus"]


@pytest.fixture(params=["pooled field", "corrected field"], scope="module")
def field(request):
    d = 2 * len(GRAPH)
    x = np.random.default_rng(3).normal(size=(90, d)) @ (np.eye(d) + 0.2 * np.eye(d, k=2) + 0.3 * np.eye(d, k=1))
    return MAKERS[request.param](x.reshape(-1, len(GRAPH), 2), GRAPH)


@pytest.fixture(scope="module")
def partial() -> np.ndarray:
    """Complete, with gaps, of one value, and of none."""
    rng = np.random.default_rng(4)
    x = rng.normal(size=(6, len(GRAPH), 2))
    x[1:3][rng.uniform(size=(2, len(GRAPH), 2)) < 0.3] = np.nan
    x[3] = x[1] + 0 * x[3]
    x[4].reshape(-1)[1:] = np.nan
    x[5] = np.nan
    return x


def test_each_value_given_the_others_is_normal(field, partial):
    found, covariance = leave_one_out(field, partial).reshape(6, -1), field.covariance()
    for sample, row in zip(partial.reshape(6, -1), found, strict=True):
        seen = np.flatnonzero(~np.isnan(sample))
        np.testing.assert_array_equal(np.isnan(row), np.isnan(sample))
        for j in seen:
            others = seen[seen != j]
            weights = np.linalg.solve(covariance[np.ix_(others, others)], covariance[others, j])
            variance = covariance[j, j] - weights @ covariance[others, j]
            expected = scipy.stats.norm.logpdf(sample[j], weights @ sample[others], np.sqrt(variance))
            np.testing.assert_allclose(row[j], expected, rtol=1e-9)


def test_the_density_of_what_is_there_is_marginal(field, partial):
    covariance = field.covariance()
    for sample, found in zip(partial.reshape(6, -1), observed_log_prob(field, partial), strict=True):
        seen = ~np.isnan(sample)
        law = scipy.stats.multivariate_normal(cov=covariance[np.ix_(seen, seen)]) if seen.any() else None
        np.testing.assert_allclose(found, 0.0 if law is None else law.logpdf(sample[seen]), rtol=1e-9, atol=1e-9)
