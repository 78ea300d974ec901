"""The Gaussian field against dense linear algebra and scipy, without Monte Carlo."""

from __future__ import annotations

import math
import pickle
import tracemalloc
from itertools import chain

import numpy as np
import pytest
import scipy.linalg
import scipy.sparse as sp
import scipy.stats
import torch

from nearfield import noise as noise_numbers
from nearfield.module import describe, rebuild
from nearfield.process import noise_scale, signal_scale, time_of
from nearfield.score import field as field_module
from nearfield.score import solver as module
from nearfield.score import sparse as sparse_module
from nearfield.score.field import CoarseLaw, GaussianField
from nearfield.score.solver import conjugate_gradients

TIMES = [1e-12, 1e-6, 0.0009, 0.1, 0.7, 3.0, time_of(80.0)]


def random_field(n: int, channels: int, seed: int, density: float = 0.4) -> GaussianField:
    """A field with its vertices shuffled, unequal conditional deviations and couplings of both signs."""
    rng = np.random.default_rng(seed)
    d = n * channels
    below = np.tril(rng.normal(size=(d, d)) * (rng.uniform(size=(d, d)) < density), -1)
    factor = sp.csr_array(below + np.diag(rng.uniform(0.5, 3.0, d)))
    return GaussianField(factor, rng.permutation(n), channels, hops=3)


def corrected_field(channels: int, seed: int, depth: int = 1) -> GaussianField:
    """A field of 7 or 12 vertices with another law of its block means, itself corrected where depth says so."""
    rng = np.random.default_rng(seed)
    label = np.array([0, 0, 1, 2, 2, 3, 3, 3, 1, 4, 4, 4]) if depth == 2 else np.array([0, 1, 1, 2, 2, 0, 2])
    fine = random_field(len(label), channels, seed)
    blocks = label.max() + 1
    law = random_field(blocks, channels, seed + 1)
    if depth == 2:
        inner = CoarseLaw(
            np.array([0, 1, 0, 1, 1]), 3, np.full((2, channels), 0.4), random_field(2, channels, seed + 2)
        )
        law = GaussianField(law.factor, law.order, channels, 1, inner)
    coarse = CoarseLaw(label, 3, rng.uniform(0.2, 2.0, (blocks, channels)), law)
    return GaussianField(fine.factor, fine.order, channels, 2, coarse)


FIELDS = {
    "one vertex": random_field(1, 1, 0),
    "one vertex, three channels": random_field(1, 3, 1),
    "one channel": random_field(7, 1, 2),
    "two channels": random_field(5, 2, 3),
    "disconnected": random_field(6, 1, 4, density=0.1),
    "independent": random_field(6, 2, 5, density=0.0),
    "corrected": corrected_field(1, 6),
    "corrected, two channels": corrected_field(2, 7),
    "corrected twice": corrected_field(1, 8, depth=2),
}
every_field = pytest.mark.parametrize("field", FIELDS.values(), ids=FIELDS)


def truth(field: GaussianField) -> np.ndarray:
    """Dense covariance in vertex order, from the definition F x = z of the class."""
    c = field.n_channels
    place = np.concatenate([np.arange(v * c, v * c + c) for v in field.order.tolist()])
    dense = np.zeros((len(place), len(place)))
    dense[:, place] = field.factor.matrix.toarray()  # columns now in vertex order
    covariance = np.linalg.inv(dense.T @ dense)
    if field.coarse is None:
        return covariance
    # x given its block means z stays as it was, and z has the other law
    label, size = field.coarse.label.numpy(), field.coarse.size.numpy()
    mean = (label == np.arange(label.max() + 1)[:, None]) / np.bincount(label)[:, None]
    mean = np.kron(mean, np.eye(c)) / size.reshape(-1, 1)
    gain = covariance @ mean.T @ np.linalg.inv(mean @ covariance @ mean.T)
    rest = np.eye(len(place)) - gain @ mean
    return rest @ covariance @ rest.T + gain @ truth(field.coarse.law) @ gain.T


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("shuffled", [False, True])
def test_covariance_of_block_means_is_that_of_the_dense_one(channels, shuffled, monkeypatch):
    """Of blocks that follow the elimination order, and of such as are all over it, in several chunks."""
    monkeypatch.setattr(sparse_module, "CHUNK", 3)
    field, rng = random_field(23, channels, 4), np.random.default_rng(1)
    label = field.order.numpy().argsort() // 3
    label = rng.permutation(label) if shuffled else label
    size = rng.uniform(0.5, 2.0, size=(label.max() + 1, channels))
    mean = (label == np.arange(len(size))[:, None]) / np.bincount(label)[:, None]
    rows = np.kron(mean, np.eye(channels)) / size.reshape(-1, 1)
    expected = rows @ field.covariance() @ rows.T
    np.testing.assert_allclose(field.block_covariance(label, size), expected, rtol=1e-11, atol=1e-12)


def states(field: GaussianField, n: int = 3) -> np.ndarray:
    return np.random.default_rng(9).normal(size=(n, field.n_vertices, field.n_channels)) * 1.7


def dense_denoiser(covariance, x, t) -> np.ndarray:
    a, s = signal_scale(t), noise_scale(t)
    gain = a * covariance @ np.linalg.inv(a**2 * covariance + s**2 * np.eye(len(covariance)))
    return (x.reshape(len(x), -1) @ gain.T).reshape(x.shape)


@every_field
def test_covariance_is_the_inverse_of_the_factor_s_square(field):
    np.testing.assert_allclose(field.covariance(), truth(field), rtol=1e-9, atol=1e-12)


@every_field
def test_log_density_is_that_of_scipy(field):
    x = states(field)
    law = scipy.stats.multivariate_normal(np.zeros(len(truth(field))), truth(field))
    np.testing.assert_allclose(field.log_prob(x), law.logpdf(x.reshape(3, -1)).ravel(), rtol=1e-9)


@every_field
def test_denoiser_is_the_dense_one_at_every_time(field):
    x = states(field)
    for t in TIMES:
        found = field.denoise(torch.from_numpy(x), t).numpy()
        np.testing.assert_allclose(found, dense_denoiser(truth(field), x, t), rtol=1e-9, atol=1e-10)


def test_denoiser_keeps_its_precision_at_tiny_times():
    """x - E[x_0|x_t] ~ t (P x - x) as t -> 0, which Tweedie's formula would round away only below double precision."""
    field, t = FIELDS["two channels"], 1e-9
    x = states(field)
    slope = (x - field.denoise(torch.from_numpy(x), t).numpy()) / t
    flat = x.reshape(3, -1)
    expected = (2 * flat @ np.linalg.inv(truth(field)) - flat).reshape(x.shape)
    np.testing.assert_allclose(slope, expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("t", TIMES)
def test_conjugate_gradients_agree_with_the_factorisation(t, monkeypatch):
    answers = []
    for limit in (10**9, 0):
        monkeypatch.setattr(module, "DIRECT_LIMIT", limit)
        for fresh in (random_field(5, 2, 3), corrected_field(2, 7)):
            x = torch.from_numpy(states(fresh))
            observed = np.arange(fresh.n_vertices * 2).reshape(-1, 2) % 3 == 0
            answers.append((fresh.denoise(x, t).numpy(), fresh.conditional(observed).mean(x.numpy())))
    for direct, iterative in zip(chain(*answers[:2]), chain(*answers[2:]), strict=True):
        np.testing.assert_allclose(iterative, direct, rtol=1e-6, atol=1e-8)


def test_conjugate_gradients_that_fail_say_so():
    hilbert = scipy.linalg.hilbert(40)  # far too ill-conditioned
    with pytest.raises(ArithmeticError, match="did not converge"):
        conjugate_gradients(lambda x: x @ hilbert, lambda x: x, np.ones((1, 40)) * (-1.0) ** np.arange(40))


def bases(field: GaussianField) -> np.ndarray:
    """No noise at all, then each number of it alone."""
    d = field._n_numbers * field.n_channels
    return np.concatenate([np.zeros((1, d)), np.eye(d)]).reshape(d + 1, field._n_numbers, field.n_channels)


@every_field
def test_draws_have_exactly_the_covariance(field, monkeypatch):
    """A draw is linear in its noise: its slopes squared are the covariance."""
    basis = bases(field)
    monkeypatch.setattr(noise_numbers, "normals", lambda seed, stream, members, *rest: basis[list(members)])
    draws = field.sample(len(basis), seed=0).reshape(len(basis), -1)
    assert not draws[0].any()
    np.testing.assert_allclose(draws[1:].T @ draws[1:], truth(field), rtol=1e-9, atol=1e-11)


def test_draws_are_whitened_to_the_noise_they_are_made_of():
    """F x = z: draws of one seed stay those of former versions."""
    field = FIELDS["two channels"]
    x = field.sample(4, seed=5, first_member=2, step=7)
    z = noise_numbers.normals(5, noise_numbers.Stream.EXACT, range(2, 6), 7, field.n_vertices, 2)[:, field.order]
    ordered = x[:, field.order].reshape(4, -1)
    np.testing.assert_allclose(ordered @ field.factor.matrix.toarray().T, z.reshape(4, -1), rtol=1e-9, atol=1e-11)


@every_field
def test_a_member_does_not_depend_on_its_batch(field):
    together = field.sample(7, seed=1)
    parts = [field.sample(3, seed=1), field.sample(1, seed=1, first_member=3), field.sample(3, seed=1, first_member=4)]
    np.testing.assert_array_equal(together, np.concatenate(parts))
    assert not np.isclose(together[0], together[1]).any()
    assert not np.isclose(together, field.sample(7, seed=1, step=1)).any()
    assert not np.isclose(together, field.sample(7, seed=2)).any()


def masks(field: GaussianField) -> dict[str, np.ndarray]:
    shape = (field.n_vertices, field.n_channels)
    some = np.arange(math.prod(shape)).reshape(shape) % 3 == 1
    return {"none": np.zeros(shape, bool), "all": np.ones(shape, bool), "some": some, "most": ~some}


def kriging(covariance, x, seen):
    """Dense conditional mean and covariance of a Gaussian: mean of all entries, covariance of the missing."""
    flat, out = x.reshape(len(x), -1), x.reshape(len(x), -1).copy()
    gain = np.linalg.solve(covariance[np.ix_(seen, seen)], covariance[np.ix_(seen, ~seen)])
    out[:, ~seen] = flat[:, seen] @ gain
    return out.reshape(x.shape), covariance[np.ix_(~seen, ~seen)] - covariance[np.ix_(~seen, seen)] @ gain


@every_field
@pytest.mark.parametrize("which", ["none", "all", "some", "most"])
def test_conditional_mean_is_kriging(field, which):
    observed, x = masks(field)[which], states(field)
    mean, _ = kriging(truth(field), x, observed.reshape(-1))
    given = np.where(observed, x, np.nan)  # missing entries are not read
    found = field.conditional(observed).mean(given)
    np.testing.assert_allclose(found, mean, rtol=1e-9, atol=1e-10)
    np.testing.assert_array_equal(found[:, observed], x[:, observed])
    assert np.isnan(given).any() == (not observed.all())


@every_field
@pytest.mark.parametrize("which", ["none", "all", "some", "most"])
def test_conditional_draws_have_exactly_the_conditional_law(field, which, monkeypatch):
    """A draw is affine in its noise: its value without noise is the mean, its slopes squared are the covariance."""
    observed, x = masks(field)[which], states(field, 1)
    basis = bases(field)
    n = len(basis)
    monkeypatch.setattr(noise_numbers, "normals", lambda seed, stream, members, *rest: basis[list(members)])
    draws = field.conditional(observed).sample(np.where(observed, x[0], np.nan), n, seed=0).reshape(n, -1)
    seen = observed.reshape(-1)
    mean, covariance = kriging(truth(field), x, seen)
    np.testing.assert_allclose(draws[0], mean.reshape(-1), rtol=1e-9, atol=1e-10)
    slope = draws[1:] - draws[0]
    np.testing.assert_allclose(slope[:, ~seen].T @ slope[:, ~seen], covariance, rtol=1e-8, atol=1e-10)
    np.testing.assert_array_equal(draws[:, seen], np.tile(x.reshape(-1)[seen], (n, 1)))


def test_conditional_draws_continue_a_set_of_members():
    field = FIELDS["two channels"]
    given = field.conditional(masks(field)["some"])
    x = states(field)[0]
    together = given.sample(x, 5, seed=3, step=2)
    assert not np.isclose(together, given.sample(x, 5, seed=3))[:, ~masks(field)["some"]].any()
    np.testing.assert_allclose(together[3:], given.sample(x, 2, seed=3, first_member=3, step=2), rtol=1e-13)


@every_field
def test_state_and_pickle_give_the_same_field(field):
    field.sample(1, seed=0)
    field.denoise(torch.from_numpy(states(field)), 0.3)  # solvers are in memory by now
    for copy in (rebuild(describe(field), field.state_dict()), pickle.loads(pickle.dumps(field))):
        np.testing.assert_array_equal(copy.covariance(), field.covariance())
        np.testing.assert_array_equal(copy.order, field.order)
        assert (copy.n_vertices, copy.n_channels, copy.hops) == (field.n_vertices, field.n_channels, field.hops)


def test_many_draws_need_little_more_than_their_own_memory(monkeypatch):
    monkeypatch.setattr(field_module, "_BLOCK", 1 << 14)
    field = GaussianField(sp.eye_array(500, format="csr"), np.arange(500), 1, 0)
    tracemalloc.start()
    drawn = field.sample(2000, seed=0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1.3 * drawn.nbytes
    np.testing.assert_array_equal(drawn[1990:], field.sample(10, seed=0, first_member=1990))
