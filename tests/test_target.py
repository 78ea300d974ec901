"""Laws with known truth against scipy, dense algebra and their own samples."""

import pickle

import numpy as np
import pytest
import scipy.sparse
import scipy.stats

from nearfield.datasets import AutoregressiveChain, GaussianMarkovField, chain_maximum_likelihood
from nearfield.graph import DependencyGraph

ALARM = 1e-6  # chance that a statistical test here fails though the code is right


def irregular_field() -> GaussianMarkovField:
    """A field on a graph that is no lattice, of unequal variances and couplings of both signs."""
    graph = DependencyGraph.from_edges(6, [(0, 1), (1, 2), (2, 3), (3, 4), (4, 0), (2, 5)])
    precision = np.diag([3.0, 2.5, 4.0, 2.0, 3.5, 1.0])
    for (i, j), value in {(0, 1): -0.9, (1, 2): 0.7, (2, 3): -0.5, (3, 4): -0.8, (0, 4): 0.6, (2, 5): -0.4}.items():
        precision[i, j] = precision[j, i] = value
    return GaussianMarkovField(precision, graph)


TARGETS = {
    "chain": AutoregressiveChain(0.8, 12),
    "negative chain": AutoregressiveChain(-0.6, 5),
    "one vertex": AutoregressiveChain(0.5, 1),
    "torus": GaussianMarkovField.stationary((4, 5), kappa=0.3),
    "grid": GaussianMarkovField.stationary((3, 5), kappa=0.3, periodic=False),
    "box": GaussianMarkovField.stationary((3, 2, 4), kappa=0.5, periodic=False),
    "nonstationary": GaussianMarkovField.nonstationary((5, 4)),
    "irregular": irregular_field(),
}


@pytest.fixture(params=TARGETS.values(), ids=TARGETS.keys())
def target(request):
    return request.param


def states(target, n=4):
    return np.random.default_rng(7).normal(size=(n, target.n_vertices, 1)) * 1.3


def test_precision_is_the_inverse_of_the_covariance_and_markov(target):
    precision = target.precision.toarray()
    np.testing.assert_allclose(precision @ target.covariance(), np.eye(target.n_vertices), atol=1e-12)
    assert not np.any(precision[target.graph.distance_matrix() > 1])
    np.testing.assert_allclose(target.log_det_precision, np.linalg.slogdet(precision)[1], rtol=1e-12, atol=1e-12)


def test_log_prob_is_that_of_scipy(target):
    x = states(target)
    law = scipy.stats.multivariate_normal(np.zeros(target.n_vertices), target.covariance())
    np.testing.assert_allclose(target.log_prob(x), law.logpdf(x[..., 0]).ravel(), rtol=1e-11)


@pytest.mark.parametrize("t", [0.0, 1e-4, 0.3, 2.0, 12.0])
def test_denoiser_is_the_regression_of_clean_on_noised(target, t):
    """By conditioning the joint Gaussian of (x_0, x_t), with no precision matrix in sight."""
    x, covariance = states(target), target.covariance()
    a, variance = np.exp(-t), 1 - np.exp(-2 * t)
    gain = a * covariance @ np.linalg.inv(a**2 * covariance + variance * np.eye(target.n_vertices))
    np.testing.assert_allclose(target.denoise(x, t)[..., 0], x[..., 0] @ gain.T, rtol=1e-8, atol=1e-10)


def test_each_sample_is_denoised_at_its_own_time(target):
    x, t = states(target), np.array([0.1, 2.0, 0.1, 0.7])
    each = np.concatenate([target.denoise(x[k : k + 1], t[k]) for k in range(4)])
    np.testing.assert_allclose(target.denoise(x, t), each, rtol=1e-12)


def whitened_excess(target, x):
    """Largest standardised departure of the second moments of x from those of the target, of means and covariances."""
    z = np.linalg.solve(np.linalg.cholesky(target.covariance()), x[..., 0].T)
    d, n = z.shape
    # z z' / n has entries of mean 0 or 1: off the diagonal variance 1/n, on it a chi-square over n
    moment = z @ z.T / n
    tails = [2 * scipy.stats.norm.sf(np.abs(z.mean(axis=1)) * np.sqrt(n))]
    off = moment[np.triu_indices(d, 1)]
    # a product of two independent normals, summed n times: (chi2_n - chi2_n') / 2 in law, whose tails Bernstein bounds
    tails.append(2 * np.exp(-n * off**2 / (2 * (1 + np.abs(off)))))
    on = np.diag(moment) * n
    tails.append(2 * np.minimum(scipy.stats.chi2.cdf(on, n), scipy.stats.chi2.sf(on, n)))
    p = np.concatenate(tails)
    return p.min() * p.size


def test_samples_have_the_law(target):
    assert whitened_excess(target, target.sample(20_000, random_state=3)) > ALARM


def test_samples_of_another_law_are_told_apart():
    """Negative control: a change of correlation of .03 is seen."""
    assert whitened_excess(AutoregressiveChain(0.8, 12), AutoregressiveChain(0.77, 12).sample(20_000, 3)) < ALARM


def test_samples_follow_from_the_random_state(target):
    again = target.sample(3, np.random.default_rng(5))
    assert np.array_equal(target.sample(3, 5), again)
    assert not np.array_equal(target.sample(3, 6), again)


def test_a_pickled_target_is_the_same(target):
    again = pickle.loads(pickle.dumps(target))
    assert again.graph == target.graph
    assert np.array_equal(again.sample(2, 0), target.sample(2, 0))


@pytest.mark.parametrize("name", ["chain", "torus", "grid", "box", "nonstationary"])
def test_variance_is_one(name):
    np.testing.assert_allclose(np.diag(TARGETS[name].covariance()), 1, rtol=1e-12)


def test_torus_is_stationary():
    covariance = TARGETS["torus"].covariance().reshape(4, 5, 4, 5)
    rolled = np.roll(covariance, (1, 2, 1, 2), axis=(0, 1, 2, 3))
    np.testing.assert_allclose(rolled, covariance, atol=1e-13)


def test_nonstationary_precision_is_laplacian_plus_kappa_up_to_the_scale():
    """Undo the scale: neighbours coupled by -1, row sums are kappa, .15 to .75 along the first axis."""
    field = GaussianMarkovField.nonstationary((16, 16))
    precision = field.precision.toarray()
    scale = np.ones(256)
    for k in range(1, 256):  # -1 = P_ij / (s_i s_j) determines every scale from the first
        before = k - 1 if k % 16 else k - 16
        scale[k] = -precision[before, k] / scale[before]
    chequered = np.add(*np.divmod(np.arange(256), 16)) % 2
    first = np.sqrt(precision[0, 0] / (2 + 0.15))
    scale *= np.where(chequered, 1 / first, first)
    kappa = (precision / np.outer(scale, scale)).sum(axis=1).reshape(16, 16)
    np.testing.assert_allclose(kappa, np.repeat(np.linspace(0.15, 0.75, 16)[:, None], 16, axis=1), atol=1e-9)


def test_chain_maximum_likelihood_matches_the_pair_moments_and_is_markov():
    """The two properties that define it: moments of the edges are the sample's, the inverse is tridiagonal."""
    x = AutoregressiveChain(0.7, 8).sample(30, random_state=1) * np.linspace(0.5, 3, 8)[:, None]
    moments = x[..., 0].T @ x[..., 0] / 30
    covariance = chain_maximum_likelihood(x)
    near = np.abs(np.subtract.outer(np.arange(8), np.arange(8))) <= 1
    np.testing.assert_allclose(covariance[near], moments[near], rtol=1e-12)
    assert np.abs(np.linalg.inv(covariance)[~near]).max() < 1e-10
    assert np.array_equal(covariance, covariance.T)


def test_chain_maximum_likelihood_is_the_most_likely_of_its_neighbours():
    x = AutoregressiveChain(0.7, 5).sample(20, random_state=1)
    precision = np.linalg.inv(chain_maximum_likelihood(x))
    moments = x[..., 0].T @ x[..., 0] / 20

    def log_likelihood(matrix):
        return np.linalg.slogdet(matrix)[1] - np.trace(matrix @ moments)

    for i, j in [(0, 0), (2, 2), (1, 2), (3, 4)]:
        for step in (-1e-3, 1e-3):
            moved = precision.copy()
            moved[i, j] += step
            moved[j, i] = moved[i, j]
            assert log_likelihood(moved) < log_likelihood(precision)


BAD = [
    (lambda: AutoregressiveChain(1.0, 5), "alpha must lie between -1 and 1"),
    (lambda: AutoregressiveChain(0.5, 0), "n must be at least 1"),
    (lambda: AutoregressiveChain(0.5, 3).log_prob(np.zeros((2, 3))), r"x must have shape \(sample, 3, 1\)"),
    (lambda: AutoregressiveChain(0.5, 3).denoise(np.zeros((2, 3, 1)), -0.1), "t is an OU time"),
    (lambda: AutoregressiveChain(0.5, 3).denoise(np.zeros((2, 3, 1)), np.ones(3)), "one time per sample"),
    (lambda: GaussianMarkovField.stationary((4, 4), kappa=0), "kappa must be positive"),
    (lambda: GaussianMarkovField.stationary((2, 8)), "shape must have at least 3 vertices along"),
    (lambda: GaussianMarkovField.nonstationary((4, 4), kappa=(0.1, -1)), "kappa must be two positive"),
    (lambda: GaussianMarkovField(np.eye(3), DependencyGraph.chain(4)), "precision must be 4 x 4"),
    (lambda: GaussianMarkovField(np.ones((3, 3)) + 3 * np.eye(3), DependencyGraph.chain(3)), "share no edge"),
    (lambda: GaussianMarkovField(np.triu(np.ones((2, 2))), DependencyGraph.chain(2)), "must be symmetric"),
    (lambda: GaussianMarkovField([[1.0, 2.0], [2.0, 1.0]], DependencyGraph.chain(2)), "positive definite"),
    (lambda: GaussianMarkovField([[1.0, 1.0], [1.0, 1.0]], DependencyGraph.chain(2)), "positive definite"),
    (lambda: chain_maximum_likelihood(np.zeros((1, 4, 1))), "at least 2 samples"),
]


@pytest.mark.parametrize(("call", "message"), BAD, ids=[message for _, message in BAD])
@pytest.mark.usefixtures("unchecked")
def test_bad_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_large_field_is_sampled_sparsely():
    """Two exact draws from 40,000 vertices: neither n x n memory nor cubic time."""
    field = GaussianMarkovField.stationary((200, 200), kappa=0.5)
    x = field.sample(2, random_state=0)
    white = field.precision @ x[1, :, 0] @ x[1, :, 0]  # chi-square with as many degrees of freedom as vertices
    assert ALARM / 2 < scipy.stats.chi2.cdf(white, 40_000) < 1 - ALARM / 2
    assert scipy.sparse.issparse(field.precision)
