"""Conditional laws: dense formulas for Gaussian fields, exact draws of the decoupled sampler, bounds by quadrature."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import scipy.sparse as sp
from scipy.stats import multivariate_normal, norm, truncnorm

from nearfield.datasets import AutoregressiveChain
from nearfield.distribution import DiffusionModel, GaussianModel
from nearfield.sampling.conditioning import DecoupledSampler, _truncated, _weighted
from nearfield.score.evidence import Curves, Evidence, Sites
from nearfield.score.field import CoarseLaw, GaussianField
from nearfield.score.posterior_field import WIDE, Numbers, PosteriorField, Shocks

V, C = 12, 2
N = V * C


def field(seed=0, coarse=False):
    rng = np.random.default_rng(seed)
    factor = np.tril(0.2 * rng.normal(size=(N, N)) * (rng.random((N, N)) < 0.3), -1) + np.diag(rng.uniform(0.5, 2, N))
    law = None
    if coarse:
        means = GaussianField(sp.csr_array(np.tril(rng.normal(size=(6, 6)), -1) / 4 + np.eye(6)), np.arange(3), C)
        law = CoarseLaw(np.repeat(np.arange(3), 4), 4, np.full((3, C), 0.7), means)
    return GaussianField(sp.csr_array(factor), rng.permutation(V), C, coarse=law)


def evidence(exact=False, cases=2, seed=1):
    """Three exact entries, and five sums of some entries, with errors or not."""
    rng = np.random.default_rng(seed)
    known = np.zeros(N, dtype=bool)
    known[[1, 5, 9]] = True
    rows = sp.csr_array(rng.normal(size=(5, N)) * (rng.random((5, N)) < 0.4))
    without = np.array([0, 0, 1, 0, 1], dtype=bool) & exact
    return Evidence(known, rng.normal(size=(cases, N)), rows, rng.normal(size=5), without)


def dense(covariance, given):
    """Mean of each case, and covariance, by the textbook."""
    rows = np.vstack([np.eye(len(covariance))[given.known], given.rows.toarray()])
    errors = np.diag(np.r_[np.zeros(given.known.sum()), 1.0 - given.exact])
    gain = covariance @ rows.T @ np.linalg.inv(rows @ covariance @ rows.T + errors)
    means = [gain @ np.r_[values[given.known], given.target] for values in given.values]
    return np.array(means), covariance - gain @ rows @ covariance


@pytest.mark.parametrize("coarse", [False, True])
@pytest.mark.parametrize("exact", [False, True])
def test_mean_and_variance_are_those_of_dense_formulas(exact, coarse):
    law, given = field(coarse=coarse), evidence(exact)
    mean, covariance = dense(law.covariance(), given)
    found = PosteriorField(law, given)
    np.testing.assert_allclose(found.mean(), mean, atol=1e-9)
    np.testing.assert_allclose(found.variance(), np.diag(covariance), atol=1e-9)
    np.testing.assert_array_equal(found.mean()[:, given.known], given.values[:, given.known])


def test_wide_sums_and_redundant_exact_ones_are_conditioned_on_as_well(monkeypatch):
    law, given = field(), evidence()
    narrow = PosteriorField(law, given)
    monkeypatch.setattr("nearfield.score.posterior_field.WIDE", 3)
    wide = PosteriorField(law, given)
    assert WIDE > 3
    np.testing.assert_allclose(wide.mean(), narrow.mean(), atol=1e-9)
    np.testing.assert_allclose(wide.variance(), narrow.variance(), atol=1e-9)
    x = law.sample(3, seed=0).reshape(3, N)
    x[:, given.known] = given.values[0, given.known]
    one = given.of_case(0)
    density = [PosteriorField(law, one).log_prob(x, 1.3)]
    monkeypatch.setattr("nearfield.score.posterior_field.WIDE", 32)
    density.append(PosteriorField(law, one).log_prob(x, 1.3))
    np.testing.assert_allclose(*density, rtol=1e-9)
    exact = evidence(exact=True)
    twice = Evidence(
        exact.known,
        exact.values,
        sp.csr_array(sp.vstack([exact.rows] * 2)),
        np.tile(exact.target, 2),
        np.tile(exact.exact, 2),
    )
    halves = Evidence(exact.known, exact.values, exact.rows, exact.target, exact.exact)
    at = PosteriorField(law, twice).mean()
    np.testing.assert_allclose(
        (exact.rows @ at.T).T[:, exact.exact], np.tile(exact.target[exact.exact], (2, 1)), atol=1e-8
    )
    assert not np.allclose(at, PosteriorField(law, halves).mean())  # the noisy ones count twice


@pytest.mark.parametrize("coarse", [False, True])
def test_the_density_is_that_of_the_normal_law(coarse):
    law, given = field(coarse=coarse), evidence(cases=1)
    mean, covariance = dense(law.covariance(), given)
    free = ~given.known
    x = law.sample(4, seed=3).reshape(4, N)
    x[:, given.known] = given.values[:, given.known]
    expected = multivariate_normal(mean[0][free], 1.7 * covariance[np.ix_(free, free)]).logpdf(x[:, free])
    np.testing.assert_allclose(PosteriorField(law, given).log_prob(x, 1.7), expected, rtol=1e-9)
    x[0, 1] += 1
    assert PosteriorField(law, given).log_prob(x)[0] == -np.inf


@pytest.mark.parametrize("coarse", [False, True])
def test_draws_have_the_mean_and_the_covariance(coarse, monkeypatch):
    """5 standard errors of 20,000 draws: false alarm below 1 in 1000."""
    monkeypatch.setattr("nearfield.score.posterior_field.WIDE", 3 if coarse else 32)
    law, given = field(coarse=coarse), evidence(exact=True)
    mean, covariance = dense(law.covariance(), given)
    drawn = PosteriorField(law, given).sample(4_000, seed=4)
    scale = np.sqrt(np.maximum(np.diag(covariance), 1e-12))
    for case in range(2):
        np.testing.assert_array_less(np.abs(drawn[:, case].mean(axis=0) - mean[case]) / scale, 5 / np.sqrt(4_000))
        error = np.abs(np.cov(drawn[:, case].T) - covariance) / np.outer(scale, scale)
        assert error[np.ix_(scale > 1e-5, scale > 1e-5)].max() < 5 * np.sqrt(2 / 4_000)


def test_large_systems_are_solved_by_iterations(monkeypatch):
    law, given = field(), evidence()
    direct = [PosteriorField(law, given, ridge).mean() for ridge in (0.0, 4.0)]
    monkeypatch.setattr("nearfield.score.solver.DIRECT_LIMIT", 5)
    for ridge, expected in zip((0.0, 4.0), direct, strict=True):
        np.testing.assert_allclose(PosteriorField(law, given, ridge).mean(), expected, atol=1e-8)


def chain(n=40):
    """The field of an AR(1) chain, exactly."""
    phi = 0.8
    s = np.sqrt(1 - phi**2)
    factor = sp.diags_array(
        [np.r_[1.0, np.full(n - 1, 1 / s)], np.full(n - 1, -phi / s)], offsets=[0, -1], format="csr"
    )
    law = GaussianField(factor, np.arange(n))
    np.testing.assert_allclose(law.covariance(), AutoregressiveChain(phi, n).covariance(), atol=1e-12)
    return law


def observed_chain(n=40):
    """One exact value, every fifth with an error of .3, means over blocks of 8 with one of .05."""
    rows = sp.csr_array(np.eye(n)[2::5] / 0.3)
    rows = sp.csr_array(sp.vstack([rows, sp.csr_array(np.repeat(np.eye(5), 8, axis=1) / 8 / 0.05)]))
    known, target = np.arange(n) == 20, np.linspace(-2, 2, 13)
    return Evidence(known, np.full((1, n), 0.7), rows, target, np.zeros(13, dtype=bool), smallest_error=0.05)


def test_the_mean_of_the_decoupled_sampler_is_exact_for_a_gaussian_score(monkeypatch):
    """It is affine in its noise: without any, the draw is the mean."""
    for name in ("nearfield.noise.normals", "nearfield.score.posterior_field.normals"):
        monkeypatch.setattr(name, lambda seed, stream, members, step, *size: np.zeros((len(members), *size)))
    law, given = chain(), observed_chain()
    drawn = DecoupledSampler().sample(law, law, given, 2, seed=0, largest_eigenvalue=9.0)[0]
    np.testing.assert_allclose(drawn, dense(law.covariance(), given)[0], atol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("repeats", [1, 3])
def test_the_decoupled_sampler_is_exact_for_a_gaussian_score(repeats):
    """Mean squares over 40 entries of 4,000 draws each: errors of .003 to .006, bars at three and more of them."""
    law, given = chain(), observed_chain()
    mean, covariance = dense(law.covariance(), given)
    drawn = DecoupledSampler(repeats=repeats).sample(law, law, given, 4000, seed=0, largest_eigenvalue=9.0)[:, 0]
    std, free = np.sqrt(np.maximum(np.diag(covariance), 0)), ~given.known
    error = ((drawn.mean(axis=0) - mean[0]) / np.where(free, std, 1))[free]
    assert np.sqrt((error**2).mean()) < 0.025
    assert abs(np.mean(drawn.std(axis=0)[free] / std[free]) - 1) < 0.01
    assert (drawn[:, 20] == 0.7).all()


def test_members_do_not_depend_on_batches():
    law, given = field(), evidence(exact=True, cases=3)
    sampler = DecoupledSampler(levels=6, repeats=2)
    assert not np.isin(*(Numbers(law, 0, case, range(3)).normals(0, 1, 9) for case in (0, 1))).any()
    whole = sampler.sample(law, law, given, 4, seed=0)
    np.testing.assert_allclose(sampler.sample(law, law, given, 4, seed=0, batch_size=3), whole, atol=1e-9)
    np.testing.assert_allclose(sampler.sample(law, law, given, 2, seed=0), whole[:2], atol=1e-9)
    np.testing.assert_allclose(sampler.sample(law, law, given.of_case(1), 4, seed=0)[:, 0], whole[:, 1], atol=1e-9)


@pytest.mark.slow
def test_bounds_and_likelihoods_of_entries_are_those_of_quadrature():
    """A pair of correlation .8, one above 1, the other with an error of another shape; three standard errors."""
    law = GaussianField(sp.csr_array(np.array([[1.0, 0.0], [-0.8 / 0.6, 1 / 0.6]])), np.arange(2))
    nodes = np.linspace(-4.0, 4.0, 256)
    quartic = -((nodes - 0.2) ** 4) / 0.3
    sites = Sites(
        np.arange(2),
        np.array([1.0, -4.0]),
        np.array([np.inf, 4.0]),
        np.array([False, True]),
        np.stack([np.zeros(256), quartic]),
    )
    given = Evidence.of_entries(np.zeros(2, dtype=bool), np.zeros((1, 2)), np.zeros(1, dtype=int)).with_sites(sites)
    drawn = DecoupledSampler().sample(law, law, given, 4000, seed=1, largest_eigenvalue=2.0)[:, 0]
    assert drawn[:, 0].min() >= 1
    x, y = np.meshgrid(np.linspace(1, 6, 600), np.linspace(-4, 4, 600), indexing="ij")
    weight = np.exp(-(x**2 - 1.6 * x * y + y**2) / 0.72 - (y - 0.2) ** 4 / 0.3)
    weight /= weight.sum()
    for values, place in ((drawn[:, 0], x), (drawn[:, 1], y)):
        mean = (weight * place).sum()
        std = np.sqrt((weight * (place - mean) ** 2).sum())
        assert abs(values.mean() - mean) < 3.5 * std / np.sqrt(4000)
        assert abs(values.std() / std - 1) < 0.04


def test_truncated_normal_numbers_are_exact_far_in_the_tails():
    uniform = np.array([[0.3, 0.9, 1e-9]])
    for low, high in ((8.0, np.inf), (-np.inf, -20.0), (-1.0, 0.5), (35.0, 36.0)):
        drawn = _truncated(np.zeros((1, 3)), np.ones((1, 3)), np.full(3, low), np.full(3, high), uniform)
        assert (drawn >= low).all()
        assert (drawn <= high).all()
        if low < 30:
            sign = -1 if low > 0 else 1
            expected = truncnorm(low, high).ppf(np.where(sign < 0, 1 - uniform, uniform))
            assert np.allclose(drawn, expected, rtol=1e-6) or np.allclose(
                truncnorm(low, high).sf(drawn), uniform, rtol=1e-6
            )


def test_tabulated_likelihoods_give_the_product_of_normal_laws():
    nodes = np.linspace(-3, 3, 256)
    table = norm.logpdf(nodes, 0.5, 0.4)[None]
    uniform = (np.arange(2000)[:, None] + 0.5) / 2000
    drawn = _weighted(np.zeros((2000, 1)), np.ones((2000, 1)), np.full(1, -3.0), np.full(1, 3.0), table, uniform)
    precision = 1 + 1 / 0.16
    np.testing.assert_allclose(drawn.mean(), 0.5 / 0.16 / precision, atol=2e-3)
    np.testing.assert_allclose(drawn.std(), precision**-0.5, rtol=0.015)
    far = _weighted(
        np.full((2000, 1), 30.0), np.full((2000, 1), 0.1), np.full(1, -3.0), np.full(1, 3.0), table, uniform
    )
    assert far.min() > 2.9


def test_a_function_that_is_linear_gives_the_linear_law():
    """Member by member, though the one goes by the sparse system and the other by Matheron's rule."""
    law, given = field(), evidence(cases=1)
    rows = given.rows.toarray()
    curve = Curves(lambda x: (x @ rows.T, np.repeat(rows[None], len(x), axis=0)), given.target, given.exact)
    none = Evidence.of_entries(given.known, given.values, np.zeros(1, dtype=int))
    shocks = Numbers(law, 0, 0, range(200))
    center = law.sample(200, seed=1).reshape(200, N)
    curved = replace(none, curves=curve)
    mean, covariance = dense(law.covariance(), given)
    zero = np.zeros((1, N))
    still = Shocks(zero, zero, zero, zero[:, :0], zero[:, :5])
    np.testing.assert_allclose(PosteriorField(law, curved).draw(zero, given.values, still), mean, atol=1e-9)
    drawn = PosteriorField(law, curved).draw(0 * center, given.values, shocks.shocks(0, curved))
    scale = np.sqrt(np.diag(covariance)[~given.known])
    assert (np.abs(drawn - mean)[:, ~given.known].mean(axis=0) / scale).mean() == pytest.approx(0.8, abs=0.08)


def test_a_model_with_a_network_needs_a_field_to_condition():
    law, given = field(), evidence()
    with pytest.raises(ValueError, match="method='gaussian'"):
        DiffusionModel(law).condition(given)
    model = DiffusionModel(law, 9.0, law)
    assert not model.condition(given).exact
    assert isinstance(model.gaussian, GaussianModel)
    assert model.gaussian.condition(given).exact
    with pytest.raises(ValueError, match="closed form"):
        model.condition(given).moments()
    with pytest.raises(ValueError, match="closed form"):
        GaussianModel(law).condition(evidence(exact=True)).log_prob(np.zeros((1, N)))


def test_settings_of_the_sampler_are_checked():
    with pytest.raises(ValueError, match="levels must be at least 2"):
        DecoupledSampler(levels=1)
    assert len(DecoupledSampler().visits(80.0, 0.02)) == 116
