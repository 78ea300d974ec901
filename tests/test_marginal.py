"""Marginal transforms: increasing, invertible, with the right Jacobian, and onto what the data may be."""

from __future__ import annotations

import contextlib
import copy
import json
import tracemalloc

import numpy as np
import pytest
import torch
from scipy.special import ndtr, ndtri
from scipy.stats import expon, gamma, genpareto, laplace, norm, pareto, t
from sklearn.preprocessing import QuantileTransformer
from torch.distributions import Normal, TransformedDistribution, constraints

from nearfield.module import describe, rebuild
from nearfield.transform import marginal as marginal_module
from nearfield.transform import quantile as quantile_module
from nearfield.transform import tail
from nearfield.transform.marginal import Marginal, check_choice
from nearfield.transform.power import YeoJohnson
from nearfield.transform.quantile import Quantile
from nearfield.transform.value import Identity, Logarithm, SquareRoot, Zeros

VERTICES = 5
LEVELS = np.linspace(0.2, 4, VERTICES)


def draws(law="lognormal", n_samples=400, seed=0):
    rng = np.random.default_rng(seed)
    normal = rng.normal(size=(n_samples, VERTICES))
    return {
        "lognormal": np.exp(normal),
        "gamma": rng.gamma(0.7, size=normal.shape),
        "levels": np.exp(0.5 * normal) * LEVELS,
        "signed": normal**3,
        "skew": rng.gumbel(size=normal.shape),
        "skew levels": LEVELS * rng.gumbel(size=normal.shape),
        "signed levels": 5 * LEVELS + LEVELS * rng.gumbel(size=normal.shape),
    }[law]


TRANSFORMS = {
    "identity": (lambda: Identity(), "signed"),
    "log": (lambda: Logarithm(), "lognormal"),
    "sqrt": (lambda: SquareRoot.fit(draws("gamma")), "gamma"),
    "quantile": (lambda: Quantile.fit(draws("signed")), "signed"),
    "quantile, levels": (lambda: Quantile.fit(draws("signed levels")), "signed levels"),
    "quantile, positive": (lambda: Quantile.fit(draws("gamma")), "gamma"),
    "yeo-johnson": (lambda: YeoJohnson.fit(draws("skew")), "skew"),
    "yeo-johnson, levels": (lambda: YeoJohnson.fit(draws("skew levels")), "skew levels"),
    "yeo-johnson, logarithms": (lambda: YeoJohnson(0.0, np.zeros(1), np.ones(1)), "skew"),
    "yeo-johnson, logarithms below": (lambda: YeoJohnson(2.0, np.zeros(1), np.ones(1)), "skew"),
    "quantile, positive, levels": (lambda: Quantile.fit(draws("levels")), "levels"),
}


@pytest.fixture(params=TRANSFORMS)
def transform(request):
    return TRANSFORMS[request.param][0]()


@pytest.fixture
def x(request, transform):
    """Fresh data of the kind the transform was fitted to."""
    return draws(TRANSFORMS[request.node.callspec.params["transform"]][1], seed=1)


def single(transform, center=0.3, scale=1.7):
    """The transform at its first vertex, with a location and scale."""
    if isinstance(transform, Quantile | YeoJohnson):
        transform = copy.deepcopy(transform)
        transform.center, transform.scale = transform.center[:1], transform.scale[:1]
    return Marginal(np.full((1, 1), center), np.full((1, 1), scale), (transform,))


def log_det(marginal, x):
    return marginal.log_abs_det_jacobian(x).sum(axis=(-2, -1))


# every transform


def test_data_come_back(transform, x):
    np.testing.assert_allclose(transform.inv(transform(x)), x, rtol=1e-10, atol=1e-12)


def test_what_a_model_may_generate_is_the_image_of_its_inverse(transform):
    u = np.linspace(-12, 12, 481)[:, None] + np.zeros(VERTICES)
    np.testing.assert_allclose(transform(transform.inv(u)), u, rtol=1e-9, atol=1e-9)


def test_maps_are_strictly_increasing(transform):
    u = np.linspace(-12, 12, 20_001)[:, None] + np.zeros(VERTICES)
    data = transform.inv(u)
    assert (np.diff(data, axis=0) > 0).all()
    assert (np.diff(transform(data), axis=0) > 0).all()


def test_slopes_are_the_derivative(transform, x):
    step = 1e-6 * np.maximum(np.abs(x), 1e-3)
    low, high = x - step, x + step
    numeric = (transform(high) - transform(low)) / (high - low)
    slope = transform.log_abs_det_jacobian
    smooth = slope(low) - slope(high)  # a jump is a knot, which has two derivatives
    same = np.abs(smooth) < 1e-4
    assert same.mean() > 0.99
    np.testing.assert_allclose(np.log(numeric)[same], slope(x)[same], atol=1e-5)


def test_slopes_are_those_of_automatic_differentiation_both_ways(transform, x):
    x = torch.from_numpy(x).requires_grad_()
    y = transform(x)
    (forward,) = torch.autograd.grad(y.sum(), x)
    torch.testing.assert_close(forward.log(), transform.log_abs_det_jacobian(x, y), rtol=1e-9, atol=1e-9)
    y = y.detach().requires_grad_()
    (backward,) = torch.autograd.grad(transform.inv(y).sum(), y)
    inside = backward > 0  # at a bound the inverse is flat
    assert inside.float().mean() > 0.99
    expected = transform.inv.log_abs_det_jacobian(y, x)
    torch.testing.assert_close(backward.log()[inside], expected[inside], rtol=1e-9, atol=1e-9)


def test_gradients_of_the_inverse_are_finite_differences(transform):
    u = torch.linspace(-6, 6, 241, dtype=torch.float64)[:, None].expand(-1, VERTICES) + 1e-3  # off the knots
    (gradient,) = torch.autograd.grad(transform.inv(u.requires_grad_()).sum(), u)
    with torch.no_grad():
        numeric = (transform.inv(u + 1e-6) - transform.inv(u - 1e-6)) / 2e-6
    assert (((gradient - numeric).abs() < 1e-6 * gradient + 1e-8).float().mean() > 0.99).all()


def test_transforms_are_those_of_torch_distributions(transform, x):
    """The law of the data by TransformedDistribution, and the domain as its support."""
    law = TransformedDistribution(Normal(0.0, torch.ones(VERTICES, dtype=torch.float64)), [transform.inv])
    np.testing.assert_allclose(
        law.log_prob(torch.from_numpy(x)), norm.logpdf(transform(x)) + transform.log_abs_det_jacobian(x)
    )
    assert transform.sign == 1
    assert transform.bijective
    assert transform.domain.check(x).all()
    assert transform.domain.check(torch.tensor(-100.0)) == (transform.domain is constraints.real)


def test_missing_values_stay_missing(transform, x):
    x[3, 2] = np.nan
    transform.check(x)
    assert np.argwhere(np.isnan(transform(x))).tolist() == [[3, 2]]


def test_densities_integrate_to_one(transform):
    """Of z normal: the sum of p(x) dx over cells from the far left to the far right, by their midpoints."""
    marginal = single(transform)
    edges = marginal.inv(np.linspace(-8, 8, 40_001).reshape(-1, 1, 1))[:, 0, 0]
    middle = (0.5 * (edges[1:] + edges[:-1])).reshape(-1, 1, 1)
    density = norm.pdf(marginal(middle))[:, 0, 0] * np.exp(log_det(marginal, middle))
    assert (density * np.diff(edges)).sum() == pytest.approx(1, abs=2e-3)  # the root is steep at its left end


def test_positive_data_are_generated_positive_and_signed_ones_are_not(transform, x):
    generated = transform.inv(np.full((1, VERTICES), -12.0))
    assert (generated > 0).all() == (x > 0).all()


def test_float32_stays_float32(transform, x):
    marginal = Marginal(np.zeros((VERTICES, 1)), np.ones((VERTICES, 1)), (transform,))
    single_precision = x[..., None].astype(np.float32)
    z = marginal(single_precision)
    assert z.dtype == marginal.inv(z).dtype == np.float32
    np.testing.assert_allclose(z[..., 0], transform(x), rtol=1e-3, atol=1e-4)


# the square root


def test_the_root_is_the_root_away_from_zero():
    transform = SquareRoot(0.1, Zeros(1.0))
    x = np.array([[0.5], [4.0], [1e6]])
    np.testing.assert_allclose(transform(x), np.sqrt(x), atol=1e-3 * 0.1)
    assert transform.inv(np.array([[-1.0]])).item() == pytest.approx((0.1 * np.exp(-10)) ** 2, rel=1e-4)


def test_zeros_are_half_the_smallest_value():
    x = draws("gamma")
    x[2, 3] = 0.0
    smallest = x[x > 0].min()
    for transform in (SquareRoot.fit(x), Quantile.fit(x)):
        half = np.full((1, VERTICES), smallest / 2)
        assert transform.inv(transform(np.zeros((1, VERTICES)))) == pytest.approx(half, rel=1e-12)
        assert np.array_equal(
            transform.log_abs_det_jacobian(np.zeros((1, VERTICES))), transform.log_abs_det_jacobian(half)
        )


def test_many_zeros_are_warned_of():
    x = draws("gamma")
    x[:, 3] = 0.0
    with pytest.warns(UserWarning, match=r"20% of the values of variable 'rain' are zero: .* half the smallest"):
        SquareRoot.fit(x, "rain")


@pytest.mark.parametrize("make", [SquareRoot.fit, Quantile.fit])
@pytest.mark.parametrize("noise", [1e-19, 1e-9, 5e-4])
def test_negative_noise_of_packing_leaves_a_positive_law_positive(make, noise):
    """As if the noise, of either sign, had been zero; the median is 1."""
    x = draws("lognormal")
    clean = x.copy()
    clean[[3, 70, 200], [2, 4, 1]] = 0.0
    noisy = x.copy()
    noisy[[3, 70, 200], [2, 4, 1]] = [-noise, noise / 2, -noise / 3]
    with pytest.warns(UserWarning, match=r"2 of 2000 values of variable 'rain' are negative by .* noise of a law"):
        transform = make(noisy, "rain")
    transform.check(noisy)
    u = np.linspace(-6, 6, 50)[:, None] + np.zeros(VERTICES)
    assert (transform.inv(u) > 0).all()
    np.testing.assert_allclose(transform.inv(u), make(clean).inv(u), rtol=1e-3)
    np.testing.assert_allclose(transform(noisy), transform(clean), rtol=1e-12)
    np.testing.assert_allclose(transform.log_abs_det_jacobian(noisy), transform.log_abs_det_jacobian(clean), rtol=1e-12)


def test_new_data_may_be_negative_by_noise_and_signed_data_stay_signed():
    x = draws("gamma")
    for transform in (SquareRoot.fit(x), Quantile.fit(x)):
        transform.check(np.full((1, VERTICES), -1e-19))
        with pytest.raises(ValueError, match=">= 0"):
            transform.check(np.full((1, VERTICES), -0.01))
    assert Quantile.fit(x - 0.01).zeros is None
    outlier = draws("signed")
    outlier[4, 4] = 1e9
    assert Quantile.fit(outlier).zeros is None


# quantiles


@pytest.mark.parametrize("law", ["signed", "gamma"])
def test_knots_are_scikit_learns(law):
    x = draws(law)
    transform = Quantile.fit(x)
    y = (np.log(x) if law == "gamma" else x).ravel()
    theirs = QuantileTransformer(n_quantiles=y.size, subsample=None, output_distribution="normal").fit(y[:, None])
    inside = np.abs(transform.normals.numpy()) < -ndtri(0.05) + 1e-9  # beyond are those of the tails
    knots = (transform.values * transform.scale + transform.center).numpy()[inside]
    np.testing.assert_allclose(theirs.transform(knots[:, None])[:, 0], transform.normals[inside], atol=1e-3)
    assert np.count_nonzero(y < knots[0]) == np.count_nonzero(y > knots[-1]) == round(0.05 * y.size)


def test_bounded_data_have_knots_up_to_ten_values():
    x = np.random.default_rng(0).random((400, VERTICES))
    transform = Quantile.fit(x)
    highest = np.exp((transform.values * transform.scale + transform.center).numpy()[-1])
    assert np.count_nonzero(x > highest + 1e-9) == 10


@pytest.mark.parametrize(("law", "shape"), [(pareto(2.5), 0.4), (expon(), 0.0), (t(3), 1 / 3)])
def test_tails_are_generalised_pareto(law, shape):
    """Of the units of the data, also where the map is of logarithms: quantiles of scipy's law at a fitted shape."""
    x = law.rvs(size=(1000, VERTICES), random_state=0)
    transform = Quantile.fit(x)
    threshold = np.quantile(x, 0.95)
    found, scale = tail.pareto(x[x > threshold] - threshold)
    assert found == pytest.approx(shape, abs=5 * (1 + shape) / np.sqrt(250))  # false alarm 1e-6
    at = np.array([0.05, 0.01, 1e-3, 1e-5, 1e-8])
    theirs = threshold + genpareto.isf(at / 0.05, found, scale=scale)
    np.testing.assert_allclose(transform.inv(-ndtri(at)[:, None])[:, 0], theirs, rtol=0.01)


def test_shapes_are_those_of_scipy_where_there_is_no_prior(monkeypatch):
    monkeypatch.setattr(tail, "_SHAPE_ERROR", 1e6)
    excess = genpareto(0.2, scale=3.0).rvs(size=400, random_state=0)
    shape, _, scale = genpareto.fit(excess, floc=0)
    assert tail.pareto(excess) == pytest.approx((shape, scale), rel=0.01)


def test_few_excesses_have_a_shape_near_zero():
    for seed in range(20):
        shape, _ = tail.pareto(np.random.default_rng(seed).exponential(size=10))
        assert abs(shape) < 0.25


@pytest.mark.parametrize("law", ["signed", "gamma"])
def test_the_map_goes_on_in_a_straight_line(law):
    transform = Quantile.fit(draws(law))
    values, normals = transform.values.numpy(), transform.normals.numpy()
    center, scale = transform.center.item(), transform.scale.item()
    for inward, first in ((1, 0), (-1, -1)):
        end = normals[first]
        tail = transform.inv((end - inward * np.array([0, 0.5, 1, 8.0]))[:, None])[:, 0]
        tail = np.log(tail) if law == "gamma" else tail
        near = np.flatnonzero(np.abs(normals - end) <= 1)  # the chord is up to one standard deviation long
        inside = near[-1 if inward == 1 else 0]
        chord = (values[inside] - values[first]) / (normals[inside] - end) * scale
        assert tail[0] == pytest.approx(values[first] * scale + center, rel=1e-12)
        np.testing.assert_allclose((tail[1:] - tail[0]) / [0.5, 1, 8], -inward * chord, rtol=0.15)
        np.testing.assert_allclose(np.diff(tail) / [0.5, 0.5, 7], (tail[-1] - tail[0]) / 8, rtol=1e-9)


@pytest.mark.parametrize(
    ("law", "least", "most"), [(norm(), 0.9, 1.1), (t(5), 0.75, 1.25), (laplace(), 0.9, 1.4), (t(3), 0.65, 1.25)]
)
def test_signed_tails_are_as_long_as_the_law_s(law, least, most):
    """At 1e-5, where 10,000 values have none: median over data sets of the quantile over the law's, both tails."""
    at = np.array([1e-5, 1 - 1e-5])
    found = []
    for seed in range(12):
        transform = Quantile.fit(law.rvs(size=(1000, 10), random_state=seed))
        found.append(transform.inv(norm.ppf(at)[:, None])[:, 0] / law.ppf(at))
    assert (np.median(found, axis=0) > least).all()
    assert (np.median(found, axis=0) < most).all()


def test_location_and_scale_are_each_one_for_all_or_the_vertex_s_own():
    """Stations of other levels but one shape have one scale: the errors of their own would widen the tails."""
    shape = np.random.default_rng(0).gamma(1.3, size=(200, 40))
    level = np.geomspace(0.5, 2, 40)
    transform = Quantile.fit(shape * level)
    assert len(torch.unique(transform.center)) == 40
    assert len(torch.unique(transform.scale)) == 1
    spread = Quantile.fit(np.random.default_rng(0).normal(size=(200, 40)) * level)
    assert len(torch.unique(spread.center)) == 1
    assert len(torch.unique(spread.scale)) == 40
    drawn = transform.inv(np.random.default_rng(1).normal(size=(20_000, 40))) / level
    assert np.quantile(drawn, 0.999) == pytest.approx(gamma(1.3).ppf(0.999), rel=0.1)
    assert drawn.max() < 1.5 * gamma(1.3).ppf(1 - 1 / drawn.size)


def test_the_map_is_the_law_s_within_its_sampling_error():
    """Dvoretzky, Kiefer and Wolfowitz bound the distribution function's error; false alarm 1e-6."""
    x = np.random.default_rng(0).exponential(size=(4000, VERTICES))
    transform = Quantile.fit(x)
    at = np.linspace(0.02, 6, 500)
    found = ndtr(transform(at[:, None]))[:, 0]
    bound = np.sqrt(np.log(2 / 1e-6) / (2 * x.size))
    assert np.abs(found + np.expm1(-at)).max() < bound


def test_vertices_that_differ_are_standardised_each_and_others_are_not():
    assert len(Quantile.fit(draws("lognormal")).center) == 1
    transform = Quantile.fit(draws("levels", n_samples=4000))
    np.testing.assert_allclose(transform.center, np.log(LEVELS), atol=0.05)
    np.testing.assert_allclose(transform.scale, 0.5, atol=0.03)
    fresh = transform(draws("levels", n_samples=4000, seed=1))
    assert np.abs(fresh.mean(axis=0)).max() < 5.5 * np.sqrt(2 / 4000)  # false alarm 1e-6 for all: errors of both draws
    np.testing.assert_allclose(fresh.std(axis=0), 1, atol=5.5 / np.sqrt(4000))
    spreads = np.random.default_rng(0).normal(size=(400, VERTICES)) * LEVELS
    np.testing.assert_allclose(Quantile.fit(spreads).scale, LEVELS, rtol=0.2)


def test_equal_values_keep_the_map_increasing():
    counts = np.random.default_rng(0).poisson(4, size=(400, VERTICES)).astype(float)
    with pytest.warns(UserWarning, match=r"20% of the values of the data are 3: .* maps equal values to one"):
        transform = Quantile.fit(counts)
    assert (np.diff(transform.values.numpy()) > 0).all()
    assert (np.diff(transform.normals.numpy()) > 0).all()
    np.testing.assert_allclose(transform.inv(transform(counts[counts.min(axis=1) > 0])), counts[counts.min(axis=1) > 0])
    # what is generated rounds to each count as often as it was seen
    generated = np.rint(transform.inv(np.random.default_rng(1).normal(size=(20_000, 1))))
    for count in (2, 4, 6):
        assert (generated == count).mean() == pytest.approx((counts == count).mean(), abs=0.05)


def test_a_value_that_is_most_of_the_data_is_refused():
    rng = np.random.default_rng(0)
    dry = np.where(rng.random((400, VERTICES)) < 0.6, 0.0, rng.exponential(size=(400, VERTICES)))
    with pytest.raises(
        ValueError, match=r"variable 'rain' must not be equal in more than 25% .* got 0 in 60%: .* take"
    ):
        Quantile.fit(dry, "rain")
    with pytest.raises(ValueError, match="at least 20 values for marginal='quantile', got 15"):
        Quantile.fit(draws()[:3])


@pytest.mark.parametrize("power", [1, 0.5, 2])
def test_bounds_that_the_data_crowd_before_are_kept(power):
    """The largest is within what the data leave: of fractions, of saturated ones, and of signed ones both ways."""
    uniform = np.random.default_rng(0).random((400, VERTICES))
    u = np.linspace(-8, 8, 400)[:, None] + np.zeros(VERTICES)
    for x in (1 - uniform**power, np.minimum(1.2 * uniform, 1)):
        ties = pytest.warns(UserWarning, match="are 1:") if (x == 1).any() else contextlib.nullcontext()
        with ties:
            transform = Quantile.fit(x)
        assert (transform.lower, transform.upper) == (None, x.max())
        assert transform.inv(u).min() > 0
        assert transform.inv(u).max() == x.max()
    signed = Quantile.fit(2 * uniform - 1)
    assert -1 <= signed.inv(u).min() == signed.lower < -0.99
    assert 1 >= signed.inv(u).max() == signed.upper > 0.99


@pytest.mark.parametrize("rho", [0.0, 0.9])
def test_tails_are_no_bounds(rho):
    for seed in range(10):
        normal = np.random.default_rng(seed).normal(size=(100, 20))
        for k in range(1, 20):
            normal[:, k] = rho * normal[:, k - 1] + np.sqrt(1 - rho**2) * normal[:, k]
        for x in (normal, np.exp(normal), normal**3, -np.log(ndtr(normal))):
            transform = Quantile.fit(x)
            assert transform.upper is None
            assert transform.lower is None or x.min() >= 0
    assert Quantile.fit(ndtr(normal[:40])).upper is None  # too few values to say


def test_quantiles_are_of_a_bounded_number_of_values(monkeypatch):
    x = draws("signed", n_samples=4000)
    whole = Quantile.fit(x)
    seen = []
    monkeypatch.setattr(quantile_module, "_MOST", 2000)
    monkeypatch.setattr(quantile_module, "_knots", lambda y, knots=quantile_module._knots: seen.append(y) or knots(y))
    part, again = Quantile.fit(x), Quantile.fit(x)
    assert [len(np.unique(y)) for y in seen] == [2000, 2000]
    assert torch.equal(part.values, again.values)
    at = whole.inv(np.linspace(-2, 2, 50)[:, None])
    bound = 2 * np.sqrt(np.log(2 / 1e-6) / (2 * 2000))  # as above, for both
    assert np.abs(ndtr(part(at)) - ndtr(whole(at))).max() < bound


# all channels, with location and scale


@pytest.fixture
def marginal():
    """Two affine channels."""
    rng = np.random.default_rng(0)
    return Marginal(rng.normal(size=(4, 2)), rng.uniform(0.1, 3, size=(4, 2)))


@pytest.fixture
def mixed():
    """Four channels, one of each."""
    data = np.stack([draws(law) for law in ("signed", "lognormal", "gamma", "levels")], axis=-1)
    choice = {"b": "log", 2: "sqrt", "d": "quantile"}
    rng = np.random.default_rng(0)
    fitted = Marginal.fit(data, choice, ["a", "b", None, "d"])
    return fitted.rescaled(rng.normal(size=(VERTICES, 4)), rng.uniform(0.1, 3, size=(VERTICES, 4))), data


def test_affine_log_det_is_that_of_the_jacobian(marginal):
    """The transform is affine, so its Jacobian is the images of a basis less that of the origin."""
    zero = np.zeros((1, 4, 2))
    basis = np.eye(8).reshape(8, 4, 2)
    jacobian = (marginal(basis) - marginal(zero)).reshape(8, 8)
    np.testing.assert_allclose(log_det(marginal, basis), np.linalg.slogdet(jacobian)[1], rtol=1e-13)


def test_affine_marginal_standardises_and_returns(marginal):
    x = np.random.default_rng(1).normal(size=(5, 4, 2))
    np.testing.assert_allclose(marginal.inv(marginal(x)), x, rtol=1e-13)
    assert np.array_equal(marginal(marginal.center.numpy()[None]), np.zeros((1, 4, 2)))
    np.testing.assert_allclose(
        marginal.inv(np.ones((1, 4, 2)))[0] - marginal.center.numpy(), marginal.scale, rtol=1e-13
    )


def test_identity():
    x = np.random.default_rng(1).normal(size=(5, 4, 2))
    assert np.array_equal(Marginal(np.zeros((4, 2)), np.ones((4, 2)))(x), x)
    assert np.array_equal(log_det(Marginal(np.zeros((4, 2)), np.ones((4, 2))), x), np.zeros(5))


def test_each_channel_has_its_own_transform(mixed):
    marginal, x = mixed
    assert [type(transform) for transform in marginal.transforms] == [Identity, Logarithm, SquareRoot, Quantile]
    z = marginal(x) * marginal.scale.numpy() + marginal.center.numpy()
    np.testing.assert_allclose(z[..., 0], x[..., 0], rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(z[..., 1], np.log(x[..., 1]), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(z[..., 2], SquareRoot.fit(x[..., 2])(x[..., 2]), atol=1e-12)
    np.testing.assert_allclose(z[..., 3], Quantile.fit(x[..., 3])(x[..., 3]), atol=1e-12)
    np.testing.assert_allclose(marginal.inv(marginal(x)), x, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("key", [2, "2", np.int64(2)])
def test_a_channel_of_an_array_goes_by_its_number_in_any_writing(mixed, key):
    _, x = mixed
    marginal = Marginal.fit(x, {key: "log"}, [None] * 4)
    assert [type(transform) for transform in marginal.transforms] == [Identity, Identity, Logarithm, Identity]
    assert marginal.variables[2] == "channel 2"
    with pytest.raises(ValueError, match=r"variables of the data, \[0, 1, 2, 3\], got '4'"):
        Marginal.fit(x, {key: "log", "4": "log"}, [None] * 4)


def test_log_det_is_that_of_the_numerical_jacobian(mixed):
    marginal, x = mixed
    for row in x[:3]:
        step = 1e-6 * np.abs(row).ravel()
        moved = row + np.concatenate([np.diag(step), -np.diag(step)]).reshape(-1, *row.shape)
        forward, backward = np.split(marginal(moved).reshape(2 * row.size, -1), 2)
        jacobian = (forward - backward) / (2 * step[:, None])
        assert np.count_nonzero(jacobian) == row.size  # pointwise
        assert log_det(marginal, row) == pytest.approx(np.linalg.slogdet(jacobian)[1], abs=1e-4)


def test_samples_are_mapped_alike_in_blocks(mixed, monkeypatch):
    marginal, x = mixed
    whole = marginal(x), marginal.inv(x), log_det(marginal, x)
    monkeypatch.setattr(marginal_module, "_BLOCK", 7 * VERTICES)
    for one, other in zip(whole, (marginal(x), marginal.inv(x), log_det(marginal, x)), strict=True):
        assert np.array_equal(one, other)
    leading = x[:12].reshape(3, 4, VERTICES, 4)
    assert np.array_equal(marginal(leading).reshape(12, VERTICES, 4), whole[0][:12])


def test_arrays_are_mapped_in_little_more_than_their_own_memory():
    marginal, z = Marginal(np.zeros((500, 1)), np.ones((500, 1)), [Logarithm()]), np.zeros((4000, 500, 1))
    tracemalloc.start()
    x = marginal.inv(z)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1.3 * x.nbytes


def test_tensors_give_tensors_and_gradients(mixed):
    marginal, x = mixed
    values = torch.from_numpy(x).requires_grad_()
    z = marginal(values)
    np.testing.assert_allclose(z.detach(), marginal(x), rtol=1e-12, atol=1e-12)
    slopes = marginal.log_abs_det_jacobian(values)
    np.testing.assert_allclose(slopes.detach(), marginal.log_abs_det_jacobian(x), rtol=1e-12, atol=1e-12)
    (gradient,) = torch.autograd.grad(z.sum(), values)
    torch.testing.assert_close(gradient.log(), slopes, rtol=1e-9, atol=1e-9)
    z = z.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(marginal.inv(z).sum(), z)
    torch.testing.assert_close(gradient.log(), -slopes, rtol=1e-8, atol=1e-8)
    assert marginal(values.float()).dtype == torch.float32


def test_the_density_of_a_marginal_is_that_of_torch_distributions(mixed):
    marginal, x = mixed
    law = TransformedDistribution(Normal(torch.zeros_like(marginal.center), 1.0), [marginal.inv])
    expected = norm.logpdf(marginal(x)) + marginal.log_abs_det_jacobian(x)
    np.testing.assert_allclose(law.log_prob(torch.from_numpy(x)), expected, rtol=1e-12)
    assert marginal.domain.check(torch.from_numpy(-x)).all(dim=(0, 1)).tolist() == [True, False, False, False]


def test_arrays_in_any_memory_are_taken(mixed):
    marginal, x = mixed
    z = marginal(x)
    still = x.copy()
    still.flags.writeable = False
    for given in (still, np.asfortranarray(x), x[::-1][::-1]):
        assert np.array_equal(marginal(given), z)
    assert np.array_equal(marginal.inv(z[::-1]), marginal.inv(z)[::-1])


def test_channels_with_the_name_none_are_standard():
    x = draws()[..., None].repeat(3, axis=-1)
    assert Marginal.fit(x, {0: "none", 1: "log"}, [None] * 3).standard == (True, False, False)


def test_a_marginal_is_rebuilt_from_its_description(mixed):
    uniform = np.random.default_rng(0).random((400, VERTICES, 1))
    bounded = Marginal.fit(2 * uniform - 1, "quantile", [None])
    for marginal, x in (mixed, (bounded, 2 * uniform - 1)):
        again = rebuild(json.loads(json.dumps(describe(marginal))), marginal.state_dict())
        assert (again.name, again.variables) == (marginal.name, marginal.variables)
        assert list(map(type, again.modules())) == list(map(type, marginal.modules()))
        assert np.array_equal(again(x), marginal(x))
        assert np.array_equal(again.inv(9 * x), marginal.inv(9 * x))
        assert np.array_equal(log_det(again, x), log_det(marginal, x))
    assert mixed[0].name == "a: standardize, b: log, channel 2: sqrt, d: quantile"
    assert mixed[0].state_dict().keys() > {"center", "scale", "transforms.3.values", "transforms.3.center"}


BAD = {
    "log of zero": (
        "log",
        [[0.0, 1]],
        r"variable 'rain' must be > 0 for marginal='log', got 0 \(1 of 40 .* take 'sqrt'",
    ),
    "log of negative": ("log", [[-2.0, -3]], r"must be > 0 .* got -3 \(2 of 40"),
    "sqrt of negative": (
        "sqrt",
        [[-2.0, 1]],
        r"variable 'rain' must be >= 0 for marginal='sqrt', got -2 .* 'quantile'",
    ),
    "unknown variable": ({"snow": "log"}, [[1.0, 1]], r"variables of the data, \['rain'\], got 'snow'"),
    "number of a named one": ({0: "log"}, [[1.0, 1]], r"variables of the data, \['rain'\], got 0"),
}


@pytest.mark.parametrize("name", BAD)
def test_data_outside_the_domain_and_unknown_variables_are_refused(name):
    choice, row, message = BAD[name]
    x = np.concatenate([row, draws()[:19, :2]])[..., None]
    with pytest.raises(ValueError, match=message):
        Marginal.fit(x, choice, ["rain"])(x)


def test_new_data_outside_the_domain_are_refused():
    x = draws()[..., None]
    for choice, rule in (("log", "> 0"), ("sqrt", ">= 0"), ("quantile", ">= 0, as all training data were,")):
        with pytest.raises(ValueError, match=f"the data must be {rule} for marginal='{choice}', got -1"):
            Marginal.fit(x, choice, [None])(x - 1 - x.min())
    Marginal.fit(x - 1, "quantile", [None])(x - 9)


@pytest.mark.parametrize(
    ("choice", "error", "message"),
    [
        (
            "cubic",
            ValueError,
            "marginal must be one of auto, standardize, none, log, sqrt, yeo-johnson, quantile, got 'cubic'",
        ),
        ({"a": "log", "b": "cubic"}, ValueError, "got 'cubic' for 'b'"),
        ({"a": ["log"]}, ValueError, r"got \['log'\] for 'a'"),
        (["log"], TypeError, r"or a mapping from variables to these, got \['log'\]"),
        (None, TypeError, "got None"),
    ],
)
def test_unknown_names_are_refused(choice, error, message):
    with pytest.raises(error, match=message):
        check_choice(choice)


@pytest.mark.parametrize(
    ("center", "scale", "message"),
    [
        (np.zeros(3), np.ones(3), "one shape"),
        (np.zeros((3, 1)), np.ones((3, 2)), "one shape"),
        (np.zeros((2, 1)), np.array([[1.0], [0.0]]), "scale must be positive and finite, got 0.0 at vertex 1"),
        (np.zeros((2, 1)), np.array([[-1.0], [1.0]]), "scale must be positive and finite, got -1.0 at vertex 0"),
        (np.zeros((2, 1)), np.array([[1.0], [np.inf]]), "scale must be positive and finite, got inf"),
        (np.zeros((2, 1)), np.array([[1.0], [np.nan]]), "scale must be positive and finite, got nan"),
        (np.array([[np.nan], [0.0]]), np.ones((2, 1)), "center must be finite, got nan at vertex 0"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_bad_marginals_are_refused(center, scale, message):
    with pytest.raises(ValueError, match=message):
        Marginal(center, scale)


def test_transforms_are_one_for_each_channel():
    with pytest.raises(ValueError, match="one for each of 1 channels, got 2"):
        Marginal(np.zeros((2, 1)), np.ones((2, 1)), (Identity(), Identity()))
