"""Choice of the marginal, point masses, rounding and missing values."""

from __future__ import annotations

import json

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from scipy import stats
from scipy.special import ndtri

import nearfield as nf
from nearfield.graph import DependencyGraph
from nearfield.module import describe, rebuild
from nearfield.samples import Samples
from nearfield.score.censored import censored_log_prob
from nearfield.score.field import GaussianField
from nearfield.transform import choice
from nearfield.transform.latent import with_latents
from nearfield.transform.location import Location
from nearfield.transform.marginal import Marginal
from nearfield.transform.point_mass import PointMass, masses
from nearfield.transform.power import YeoJohnson
from nearfield.transform.quantile import Quantile, upper_bound
from nearfield.transform.rounding import Rounded, spread, step_of
from nearfield.transform.value import SquareRoot, Zeros

LENGTH = 30
GIVEN = {"method": "gaussian", "radius": 1, "pooling": 1.0, "random_state": 0}


def chain(n=200, seed=0, rho=0.8, length=LENGTH):
    """Normal chains of correlation rho."""
    x = np.random.default_rng(seed).normal(size=(n, length))
    for j in range(1, length):
        x[:, j] = rho * x[:, j - 1] + np.sqrt(1 - rho**2) * x[:, j]
    return x


def rain(zeros=0.4, **given):
    """Rain with a share of zeros, by a Gaussian copula."""
    u = stats.norm.cdf(chain(**given))
    return np.where(u < zeros, 0.0, stats.gamma(1.3).ppf(np.maximum(u - zeros, 1e-12) / (1 - zeros)))


# values left out


def test_left_out_values_are_standardised_by_the_others():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(7, 4)) * [1, 2, 30, 400] + [0, 10, 200, 3000]
    x[2, 1] = np.nan
    location = Location.fit(x)
    assert (location.own_center, location.own_scale) == (True, True)
    found = location.left_out(x)
    for i, j in ((0, 0), (3, 1), (6, 3)):
        others = np.delete(x[:, j], i)
        others = others[np.isfinite(others)]
        assert found[i, j] == pytest.approx((x[i, j] - others.mean()) / others.std(), rel=1e-9)
    assert np.argwhere(np.isnan(found)).tolist() == [[2, 1]]
    alike = Location.fit(rng.normal(size=(7, 4)))
    assert len(alike.center) == 1


def test_few_samples_do_not_explode():
    """Ten samples of vertices that differ: knots of values that made their own scale end at 3, the largest there is."""
    levels = np.linspace(-30, 30, LENGTH)
    train, fresh = chain(10, 1) + levels, chain(400, 2) + levels
    density = {}
    for name in ("standardize", "quantile"):
        density[name] = nf.LocalizedDiffusion(marginal=name, **GIVEN).fit(train).score(fresh) / LENGTH
    assert density["quantile"] > density["standardize"] - 0.2
    assert Quantile.fit(train)(train).std() < 1


# missing values


@pytest.mark.parametrize("name", ["standardize", "sqrt", "yeo-johnson", "quantile", "auto"])
def test_missing_values_are_as_if_they_had_not_been(name):
    """Samples that are missing everywhere change nothing; single ones leave the fit finite, and stay missing."""
    x = rain(0.0, n=60)[..., None]
    gone = np.concatenate([x, np.full((5, LENGTH, 1), np.nan)])
    z = Marginal.fit(x, name, [None])(x)
    np.testing.assert_allclose(Marginal.fit(gone, name, [None])(x), z, rtol=1e-6, atol=1e-6)
    x[np.random.default_rng(0).random(x.shape) < 0.3] = np.nan
    some = Marginal.fit(x, name, [None])
    assert np.array_equal(np.isnan(some(x)), np.isnan(x))
    assert np.isfinite(some.inv(np.zeros((1, LENGTH, 1)))).all()


def test_zeros_do_not_follow_a_single_smallest_value():
    x = rain(0.0, n=100)
    x[0, 0], x[1, 1] = 0.0, 1e-30
    for zero in (Zeros.fit(x).zero, SquareRoot.fit(x).zeros.zero, Quantile.fit(x).zeros.zero):
        assert zero > 1e-7
    assert SquareRoot.fit(x)(np.zeros((1, LENGTH))).min() > -10 * SquareRoot.fit(x)(x[2:]).std()


# masses at a bound


def test_masses_are_values_at_a_bound_that_are_common():
    u = np.random.default_rng(0).random((100, 20))
    assert masses(u) == (None, None)
    assert masses(np.maximum(u, 0.1)) == (0.1, None)
    assert masses(np.clip(u, 0.1, 0.95)) == (0.1, 0.95)
    assert masses(np.rint(stats.norm.ppf(u))) == (None, None)  # rounding leaves few at the ends
    assert masses((u > 0.5).astype(float)) == (None, None)
    assert masses(np.where(u < 0.5, -1e-9, u)) == (0.0, None)  # noise of packing


@pytest.mark.parametrize(("low", "high"), [(0.03, 0.0), (0.69, 0.0), (0.2, 0.3)])
def test_a_mass_is_a_threshold_of_normal_values(low, high):
    u = stats.norm.cdf(chain(2000, rho=0.0, length=8))
    x = np.where(u < low, 0.0, np.where(u > 1 - high, 1.0, np.clip(u, low, 1 - high)))
    transform = PointMass.fit(x)
    p, q = np.mean(x == 0), np.mean(x == 1)
    assert float(transform.low) == pytest.approx(p, abs=1e-12)
    assert float(transform.high) == pytest.approx(q, abs=1e-12)
    z = np.linspace(-6, 6, 2401)[:, None]
    drawn = transform.inv(z)
    assert np.array_equal(drawn == 0, z <= ndtri(p))
    if high:
        assert np.array_equal(drawn == 1, z >= -ndtri(q))
    between = (drawn > 0) & (drawn < transform.inner.upper) & (np.abs(z) < 4)
    np.testing.assert_allclose(transform(drawn)[between], z[between], atol=1e-6)
    assert transform(np.zeros((1, 1))).item() == pytest.approx(ndtri(p / 2))
    threshold = transform.censored(x)
    np.testing.assert_allclose(threshold[x == 0], ndtri(p))
    assert np.isnan(threshold[x > 0]).all()
    upper = transform.censored(x, upper=True)
    assert np.array_equal(np.isfinite(upper), x == 1)


def test_the_density_of_a_mass_and_of_the_rest_is_one():
    """Independent normal values: the probability of the bound and the integral over the rest."""
    transform = PointMass.fit(rain(0.4, n=400, rho=0.0))
    edges = transform.inv(np.linspace(float(transform.censored(np.zeros((1, 1))).item()), 8, 40_001)[:, None])
    middle = (edges[1:] + edges[:-1]) / 2
    density = stats.norm.pdf(transform(middle)) * np.exp(transform.log_abs_det_jacobian(middle))
    zero = np.zeros((1, 1))
    mass = stats.norm.pdf(transform(zero)) * np.exp(transform.log_abs_det_jacobian(zero))
    assert mass.item() == pytest.approx(float(transform.low))
    assert mass.item() + (density * np.diff(edges, axis=0)).sum() == pytest.approx(1, abs=2e-3)


def test_slopes_of_masses_are_the_derivative_and_tensors_agree():
    transform, x = PointMass.fit(rain(0.4)), rain(0.4, seed=1)[:20]
    values = torch.from_numpy(x).requires_grad_()
    z = transform(values)
    np.testing.assert_allclose(z.detach(), transform(x), atol=1e-9)
    (gradient,) = torch.autograd.grad(z.sum(), values)
    inside = x > 0
    np.testing.assert_allclose(gradient.log()[inside], transform.log_abs_det_jacobian(x)[inside], atol=1e-7)
    assert not gradient[~inside].any()


def test_masses_differ_between_vertices_where_the_data_do():
    assert len(PointMass.fit(rain(0.4, rho=0.0)).low) == 1
    share = np.linspace(0.1, 0.8, LENGTH)
    x = rain(0.0, n=300, rho=0.0)
    x[np.random.default_rng(1).random(x.shape) < share] = 0.0
    low = PointMass.fit(x).low.numpy()
    assert np.abs(low - share).max() < 5.5 * np.sqrt(0.25 / 300)  # false alarm 1e-6
    np.testing.assert_array_less(np.abs(low - low.mean()), np.abs(np.mean(x == 0, axis=0) - low.mean()) + 1e-12)


@pytest.mark.parametrize("zeros", [0.03, 0.69])
def test_zeros_are_drawn_as_often_as_they_are_in_the_data_and_beside_each_other(zeros):
    x = rain(zeros, n=400)
    model = nf.LocalizedDiffusion(marginal="auto", **GIVEN).fit(x)
    z = model.sample(2000, random_state=1)
    error = np.mean(x == 0, axis=1).std() / np.sqrt(len(x))
    assert z.min() == 0.0
    assert np.mean(z == 0) == pytest.approx(zeros, abs=5 * error)  # of the data; false alarm 1e-6
    pairs = [(part[:, 1:] == 0, part[:, :-1] == 0) for part in (z, rain(zeros, n=4000, seed=5))]
    beside = [np.mean(one & other) / np.mean(other) for one, other in pairs]
    assert beside[0] == pytest.approx(beside[1], rel=0.1)


def test_latents_have_the_correlation_of_the_field():
    z = chain(600, rho=0.9)
    threshold = 0.5
    hidden = z < threshold
    below = np.where(hidden, threshold, np.nan)[..., None]
    filled = with_latents(
        np.where(hidden, -9.0, z)[..., None], below, np.full_like(below, np.nan), DependencyGraph.chain(LENGTH), 0
    )[..., 0]
    assert np.array_equal(filled[~hidden], z[~hidden])
    assert (filled[hidden] < threshold).all()
    assert np.mean(filled[:, 1:] * filled[:, :-1]) == pytest.approx(0.9, abs=0.06)
    assert filled.std() == pytest.approx(1, abs=0.05)
    turned = with_latents(
        np.where(hidden, 9.0, -z)[..., None], np.full_like(below, np.nan), -below, DependencyGraph.chain(LENGTH), 0
    )
    np.testing.assert_allclose(turned[..., 0], -filled, atol=1e-9)  # the two sides are mirror images


def test_latents_of_scattered_gauges_do_not_run_away():
    """69 % dry, Matern 3/2 in the plane. Correlations of 600 samples have errors of .04, means of many pairs .02."""
    rng = np.random.default_rng(0)
    points = rng.random((40, 2))
    scaled = np.sqrt(3) * np.linalg.norm(points[:, None] - points, axis=-1) / 0.3
    covariance = (1 + scaled) * np.exp(-scaled) + 1e-9 * np.eye(40)
    z = rng.normal(size=(600, 40)) @ np.linalg.cholesky(covariance).T
    below = np.where(z < 0.5, 0.5, np.nan)[..., None]
    nothing = np.full_like(below, np.nan)
    filled = with_latents(np.where(z < 0.5, -9.0, z)[..., None], below, nothing, DependencyGraph.knn(points, 6), 0)[
        ..., 0
    ]
    assert filled.std() == pytest.approx(1, abs=0.03)
    assert filled.mean() == pytest.approx(0, abs=0.03)
    found = np.corrcoef(filled.T)
    for low, high in ((0.9, 0.99), (0.6, 0.9), (0.3, 0.6)):
        pairs = (covariance > low) & (covariance < high)
        assert found[pairs].mean() == pytest.approx(covariance[pairs].mean(), abs=0.08)


def test_missing_values_are_drawn_along_and_stay_missing():
    z = np.where(np.random.default_rng(0).random((50, LENGTH)) < 0.2, np.nan, chain(50))[..., None]
    below = np.where(z < 0, 0.0, np.nan)
    filled = with_latents(z, below, np.full_like(z, np.nan), DependencyGraph.chain(LENGTH), 0)
    assert np.array_equal(np.isnan(filled), np.isnan(z))


def test_thresholds_are_those_of_standardised_values():
    x = rain(0.4)[..., None]
    marginal = Marginal.fit(x, "quantile", [None])
    moved = marginal.rescaled(np.full((LENGTH, 1), 0.5), np.full((LENGTH, 1), 2.0))
    np.testing.assert_allclose(moved.censored(x), (marginal.censored(x) - 0.5) / 2)
    assert np.array_equal(np.isfinite(moved.censored(x)), x == 0)
    assert np.isnan(Marginal.fit(x, "sqrt", [None]).censored(x)).all() if np.mean(x == 0) < 0.05 else True


# densities with masses


def field(covariance):
    """Return the field of a covariance, in the order of the vertices."""
    factor = np.linalg.inv(np.linalg.cholesky(covariance))
    return GaussianField(sp.csr_array(np.where(np.abs(factor) > 1e-12, factor, 0.0)), np.arange(len(covariance)))


def test_the_density_of_censored_values_is_that_of_scipy():
    """Known values by the density, censored ones by the multivariate normal distribution function given these."""
    d, rng = 6, np.random.default_rng(0)
    covariance = 0.8 ** np.abs(np.subtract.outer(np.arange(d), np.arange(d)))
    censored, known = np.array([1, 2, 4]), np.array([0, 3, 5])
    for sign in (1, -1):
        z, limit = np.linalg.cholesky(covariance) @ rng.normal(size=d), rng.normal(size=d)
        gain = np.linalg.solve(covariance[np.ix_(known, known)], covariance[np.ix_(known, censored)]).T
        spread_ = covariance[np.ix_(censored, censored)] - gain @ covariance[np.ix_(known, censored)]
        exact = stats.multivariate_normal.logpdf(z[known], np.zeros(3), covariance[np.ix_(known, known)])
        probability = stats.multivariate_normal.cdf(sign * (limit[censored] - gain @ z[known]), np.zeros(3), spread_)
        side = np.full(d, np.nan)
        side[censored] = limit[censored]
        none = np.full((1, d, 1), np.nan)
        sides = (side.reshape(1, d, 1), none)[::sign]
        found = censored_log_prob(field(covariance), z.reshape(1, d, 1), *sides, n_particles=20_000)
        assert found[0] == pytest.approx(exact + np.log(probability), abs=0.05)  # of the mean of 20,000 weights


def test_known_values_have_the_density_of_the_field_whatever_the_batch():
    covariance = 0.9 ** np.abs(np.subtract.outer(np.arange(20), np.arange(20)))
    z = chain(50, rho=0.9, length=20)[..., None]
    none = np.full_like(z, np.nan)
    np.testing.assert_allclose(
        censored_log_prob(field(covariance), z, none, none), field(covariance).log_prob(z), rtol=1e-10
    )
    below = np.where(z < 0, 0.0, np.nan)
    whole = censored_log_prob(field(covariance), z, below, none)
    np.testing.assert_allclose(
        censored_log_prob(field(covariance), z[7:9], below[7:9], none[7:9]), whole[7:9], rtol=1e-9
    )


def test_the_model_counts_zeros_by_their_probability():
    """Independent vertices: the log-probability of a zero is that of the data, at each vertex."""
    x = rain(0.4, n=400, rho=0.0)
    model = nf.LocalizedDiffusion(marginal="quantile", method="gaussian", radius=0, pooling=1.0, random_state=0).fit(x)
    assert model.score_samples(np.zeros((1, LENGTH)))[0] == pytest.approx(
        LENGTH * np.log(np.mean(x == 0)), abs=0.02 * LENGTH
    )
    wet = np.full((1, LENGTH), 1.0)
    z, slope = model.marginal_(wet[..., None]), model.marginal_.log_abs_det_jacobian(wet[..., None])
    assert model.score_samples(wet)[0] == pytest.approx(model.model_.law.log_prob(z)[0] + slope.sum())


# rounding


def test_steps_are_found_where_neighbours_are_equal():
    z = chain(rho=0.95)
    assert step_of(z) is None
    assert step_of(np.round(z, 1)) == pytest.approx(0.1)
    assert step_of(np.round(z, 1).astype(np.float32).astype(float)) == pytest.approx(0.1, rel=1e-4)
    assert step_of(0.3 + 0.5 * np.rint(z / 0.5)) == pytest.approx(0.5)
    assert step_of(np.round(z, 2)) is None  # 1 % of neighbours are equal
    assert step_of(np.round(rain(0.6), 3)) is None  # zeros do not count
    assert step_of(np.repeat(z, 3, axis=1)) is None  # equal, but to no steps


def test_spread_values_round_to_what_they_were():
    z = np.round(chain(), 1)
    moved = spread(z, 0.1, 0)
    np.testing.assert_allclose(0.1 * np.rint(moved / 0.1), z, atol=1e-12)
    assert stats.kstest((moved - z).ravel() / 0.1 + 0.5, "uniform").pvalue > 1e-6
    assert np.array_equal(moved, spread(z, 0.1, 0))
    counts = np.random.default_rng(0).poisson(4.0, size=(200, 8)).astype(float)
    assert spread(counts, 1.0, 0).min() >= 0
    dry = np.round(rain(0.5), 1)
    assert np.array_equal(spread(dry, 0.1, 0) == 0, dry == 0)


@pytest.mark.parametrize("name", ["standardize", "auto"])
def test_draws_of_rounded_data_are_rounded(name):
    counts = np.random.default_rng(0).poisson(4.0, size=(400, 8)).astype(float)
    model = nf.LocalizedDiffusion(marginal=name, **GIVEN).fit(counts)
    drawn = model.sample(4000, random_state=0)
    assert np.array_equal(drawn, np.rint(drawn))
    assert "rounded to steps of 1:" in model.fit_report_.reason
    if name == "auto":
        for count in range(1, 8):
            assert np.mean(drawn == count) == pytest.approx(np.mean(counts == count), abs=0.02)
    assert model.marginal_.name in ("standardize", "sqrt", "quantile")
    assert np.array_equal(model.marginal_.inv(model.marginal_(counts[..., None])).round(9)[..., 0], counts)


def test_rounded_positive_data_stay_positive():
    x = np.ceil(np.exp(chain()))
    model = nf.LocalizedDiffusion(marginal="log", **GIVEN).fit(x)
    drawn = model.sample(2000, random_state=0)
    assert drawn.min() == 1
    assert np.isfinite(model.score_samples(drawn[:5])).all()


# the choice


LAWS = {
    "normal": (stats.norm(), "standardize"),
    "lognormal": (stats.lognorm(0.8), "log"),
    "t3": (stats.t(3), "quantile"),
    "beta": (stats.beta(0.7, 0.7), "quantile"),
    "far from zero": (stats.norm(280, 5), "standardize"),
}


@pytest.mark.parametrize("law", LAWS)
def test_the_simplest_transform_that_is_close_to_the_best_is_chosen(law):
    distribution, name = LAWS[law]
    x = distribution.ppf(stats.norm.cdf(chain()))
    model = nf.LocalizedDiffusion(marginal="auto", **GIVEN).fit(x)
    assert model.marginal_.name == name
    assert f"Transform of the data: {name}, the simplest within" in model.fit_report_.reason


def test_a_square_root_is_chosen_for_squares_and_a_power_for_a_power():
    x = (6 + chain()) ** 2
    assert choice.choose(x, "", np.array_split(np.arange(200), 5), False).name in ("log", "sqrt")
    skew = YeoJohnson(0.4, np.zeros(1), np.ones(1)).inv(chain(400))
    assert choice.choose(skew, "", np.array_split(np.arange(400), 5), False).name == "yeo-johnson"


def test_gaussian_data_are_standardised():
    """Of 6 sets of 10 and of 60 samples each."""
    for n in (10, 60):
        for seed in range(6):
            x = chain(n, seed) * np.geomspace(0.5, 2, LENGTH) + np.linspace(-9, 9, LENGTH)
            assert choice.choose(x, "", np.array_split(np.arange(n), 3), False).name == "standardize"


def test_a_density_counts_the_slope():
    """The same data in other units: the choice is the same, densities differ by the logarithm of the unit."""
    x, folds = np.exp(chain()), np.array_split(np.arange(200), 5)
    for name in ("log", "sqrt", "yeo-johnson", "quantile"):
        one, other = (choice._held_out(name, unit * x, folds) for unit in (1.0, 100.0))
        np.testing.assert_allclose(one - other, np.log(100.0), atol=2e-3)
    exact = stats.norm.logpdf(np.log(x)).mean(axis=1) - np.log(x).mean(axis=1)
    assert choice._held_out("log", x, folds).mean() == pytest.approx(exact.mean(), abs=0.03)


def test_transforms_whose_draws_pass_a_bound_are_out():
    x = stats.gamma(4).ppf(stats.norm.cdf(chain()))
    folds = np.array_split(np.arange(200), 5)
    assert "standardize" not in choice.choose(x, "", folds, False).reason.split("(")[1]
    assert choice.choose(x - 4, "", folds, False).reason.count("yeo-johnson") > 0
    model = nf.LocalizedDiffusion(marginal="auto", **GIVEN).fit(x)
    assert model.sample(2000, random_state=0).min() > 0


def test_vertices_of_different_levels_have_no_bound_at_the_highest():
    found = [
        upper_bound(chain(230, seed, rho=0.0) * np.geomspace(0.5, 2, LENGTH) + 3 * chain(1, seed + 99, rho=0.0))
        for seed in range(20)
    ]
    assert found == [None] * 20
    assert upper_bound(np.random.default_rng(0).beta(2, 2, size=(230, LENGTH))) > 0.9


def test_few_samples_have_no_choice():
    name, reason = choice.choose(chain(3), "rain", (), False)
    assert (name, reason) == (
        "standardize",
        "Transform of variable 'rain': standardize, since samples are too few to choose.",
    )


def test_a_marginal_of_masses_and_steps_is_rebuilt():
    x = np.stack([np.round(rain(0.4), 1), chain(), (chain() + 9) ** 3], axis=-1)
    marginal = Marginal.fit(x, {0: "auto", 1: "yeo-johnson", 2: "auto"}, [None] * 3)
    assert isinstance(marginal.transforms[0], Rounded)
    assert isinstance(marginal.transforms[0].inner, PointMass)
    again = rebuild(json.loads(json.dumps(describe(marginal))), marginal.state_dict())
    assert again.reason == marginal.reason
    z = 2 * np.random.default_rng(0).normal(size=x.shape)
    assert np.array_equal(again.inv(z), marginal.inv(z))
    assert np.array_equal(again(x), marginal(x))
    assert np.array_equal(again.censored(x), marginal.censored(x), equal_nan=True)


def test_samples_are_transformed_and_latents_drawn_at_once():
    x = np.round(rain(0.4), 1)[..., None]
    samples = Samples(x, DependencyGraph.chain(LENGTH))
    marginal = Marginal.of(samples, "auto", [None], seed=3)
    z = marginal.latent(samples, seed=3).values
    assert np.array_equal(z, marginal.latent(samples, seed=3).values)
    threshold = marginal.censored(x)
    assert (z[x == 0] < threshold[x == 0]).all()
    assert np.array_equal(marginal.inv(z), marginal.inv(marginal(x)))  # the same steps, and zeros
    plain = Samples(chain()[..., None], DependencyGraph.chain(LENGTH))
    smooth = Marginal.of(plain, "quantile", [None])
    assert np.array_equal(smooth.latent(plain).values, smooth(plain.values))


# the report


def test_the_report_has_return_levels(monkeypatch):
    from nearfield.evaluation.section import _extremes

    real, drawn = (np.random.default_rng(seed).exponential(size=(n, 400)) for seed, n in ((0, 60), (1, 1000)))
    levels = _extremes(real, drawn)
    assert [(row["kind"], row["samples"]) for row in levels] == [
        ("level", 10),
        ("level", 50),
        ("level", 100),
        ("record", 60),
    ]
    assert levels[2]["data"] is None
    for row in levels[:2]:
        assert row["generated"] == pytest.approx(np.log(row["samples"]), abs=0.05)
        assert row["data"] == pytest.approx(np.log(row["samples"]), abs=0.3)
    expected = (1 / np.arange(1, 61)).sum()  # of the largest of 60
    assert levels[3]["data"] == pytest.approx(expected, abs=5.5 * np.sqrt(np.pi**2 / 6 / 400))
    assert levels[3]["generated"] == pytest.approx(expected, abs=5.5 * np.sqrt(np.pi**2 / 6 / 400))
