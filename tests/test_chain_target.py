"""Skewed and two-state chains against scipy's laws, dense quadrature and their own samples."""

import mpmath
import numpy as np
import pytest
import scipy.stats

from nearfield.datasets import AutoregressiveChain, CoxIngersollRoss, DoubleWellChain, HiddenChain
from nearfield.process import time_of

ALARM = 1e-6  # chance that a statistical test here fails though the code is right

CIR = CoxIngersollRoss(a=0.25, b=1.0, sigma=0.6, step=1.0, length=3)
# reaches 0 (shape 1/2), mean and step not 1
ROUGH = CoxIngersollRoss(a=0.5, b=2.0, sigma=2.0, step=0.7, length=3)
WELLS = DoubleWellChain(h=2.0, J=3.0, length=3)
STRONG, HIGH = DoubleWellChain(h=2.0, J=3e4, length=3), DoubleWellChain(h=1e5, J=0.0, length=3)
LAWS = {"cir": CIR, "rough cir": ROUGH, "wells": WELLS, "deep wells": DoubleWellChain(h=4.0, J=0.5, length=3)}


@pytest.fixture(params=LAWS.values(), ids=LAWS.keys())
def law(request):
    return request.param


def panels(edges, order=20):
    """Gauss-Legendre nodes and weights on each interval, joined."""
    node, weight = np.polynomial.legendre.leggauss(order)
    half = np.diff(edges) / 2
    return ((edges[:-1] + half)[:, None] + half[:, None] * node).ravel(), (half[:, None] * weight).ravel()


def dense(law, length, n_panels):
    """Nodes, weights and joint density of a short chain from scipy's laws alone; weights are in the density."""
    if isinstance(law, DoubleWellChain):
        x, weight = panels(np.linspace(-3, 3, n_panels + 1))
        first, pair = weight * np.exp(-law.h * (x**2 - 1) ** 2), np.exp(-law.J / 2 * np.subtract.outer(x, x) ** 2)
        joint = first if length == 1 else first[:, None] * pair * first
        return x, joint if length < 3 else joint[..., None] * pair * first
    nu, k = 4 * law.a * law.b / law.sigma**2, 2 * law.a / law.sigma**2
    c = law.sigma**2 * (1 - np.exp(-law.a * law.step)) / (4 * law.a)
    # x = y^12 turns the power of the density at 0 into one that polynomials follow
    end = scipy.stats.gamma.isf(1e-13, nu / 2, scale=1 / k)
    y, weight = panels(np.linspace(0, end ** (1 / 12), n_panels + 1))
    x, weight = y**12, weight * 12 * y**11
    pair = weight * scipy.stats.ncx2.pdf(x / c, nu, x[:, None] * np.exp(-law.a * law.step) / c) / c
    first = weight * scipy.stats.gamma.pdf(x, nu / 2, scale=1 / k)
    joint = first if length == 1 else first[:, None] * pair
    return x, joint if length < 3 else joint[..., None] * pair


def quadrature_mean(law, y, sigma, n_panels):
    """E[z | y] of one noised chain of 2 or 3 by summing over the product grid."""
    x, posterior = dense(law, len(y), n_panels)
    z, a = (x - law.mean) / law.std, 1 / np.hypot(1, sigma)
    for i, value in enumerate(y):
        factor = np.exp(-((value - a * z) ** 2) / (2 * (a * sigma) ** 2))
        posterior = posterior * np.expand_dims(factor, [k for k in range(len(y)) if k != i])
    axes = [tuple(k for k in range(len(y)) if k != i) for i in range(len(y))]
    return np.array([posterior.sum(axis=others) @ z for others in axes]) / posterior.sum()


@pytest.mark.parametrize("sigma", [0.4, 1.6])
def test_denoiser_of_three_vertices_is_the_posterior_mean(law, sigma):
    y = np.array([1.3, -0.4, 0.5]) / np.hypot(1, sigma)
    expected = quadrature_mean(law, y, sigma, 9)
    np.testing.assert_allclose(law.denoise(y[None, :, None], time_of(sigma))[0, :, 0], expected, atol=2e-8)


@pytest.mark.parametrize("sigma", [0.1, 0.8, 3.2])
def test_denoiser_of_two_vertices_is_the_posterior_mean(law, sigma):
    short = type(law)(**{**law.__dict__, "length": 2})
    y = np.array([0.8, -0.3]) / np.hypot(1, sigma)
    cells = 400 if law is ROUGH else 240  # a law 40 deviations long
    denoised = short.denoise(y[None, :, None], time_of(sigma), cells=cells)[0, :, 0]
    np.testing.assert_allclose(denoised, quadrature_mean(short, y, sigma, 24), atol=2e-8)


@pytest.mark.parametrize("t", [1e-2, 0.3, 2.0, 12.0])
def test_forward_backward_solves_the_gaussian_chain(t):
    """Independent closed form at any length, with no grid."""
    law = AutoregressiveChain(0.8, 30)
    z = np.linspace(-8, 8, 241)
    density = scipy.stats.norm.pdf
    kernel = (z[1] - z[0]) * density(z, 0.8 * z[:, None], 0.6)
    chain = HiddenChain(z, density(z), kernel)
    x = np.exp(-t) * law.sample(5, 1) + np.sqrt(-np.expm1(-2 * t)) * np.random.default_rng(2).normal(size=(5, 30, 1))
    found = chain.posterior_mean(x[..., 0], np.exp(-t), np.sqrt(-np.expm1(-2 * t)))
    np.testing.assert_allclose(found, law.denoise(x, t)[..., 0], atol=1e-9)


@pytest.mark.parametrize(
    ("law", "tolerance"),
    [(CoxIngersollRoss(0.25, 1.0, 0.6, 1.0, 40), 1e-6), (DoubleWellChain(2.0, 3.0, 40), 1e-13)],
    ids=["cir", "wells"],
)
@pytest.mark.parametrize("sigma", [0.1, 0.8, 3.2])
def test_240_cells_are_enough(law, tolerance, sigma):
    z = law.standardize(law.sample(10, 4))
    x = (z + sigma * np.random.default_rng(5).normal(size=z.shape)) / np.hypot(1, sigma)
    fine = law.denoise(x, time_of(sigma), cells=480)
    np.testing.assert_allclose(law.denoise(x, time_of(sigma)), fine, atol=tolerance)


def test_denoiser_has_the_symmetries_of_the_law(law):
    """Both chains read the same backwards; the double well also upside down."""
    x = np.random.default_rng(0).normal(size=(4, 3, 1))
    found = law.denoise(x, 0.4)
    np.testing.assert_allclose(law.denoise(x[:, ::-1], 0.4), found[:, ::-1], atol=1e-6)
    if isinstance(law, DoubleWellChain):
        np.testing.assert_allclose(law.denoise(-x, 0.4), -found, atol=1e-12)


def test_each_sample_is_denoised_at_its_own_time(law):
    x, t = np.random.default_rng(0).normal(size=(4, 3, 1)), np.array([0.3, 2.0, 0.0, 0.7])
    each = np.concatenate([law.denoise(x[k : k + 1], t[k]) for k in range(4)])
    np.testing.assert_allclose(law.denoise(x, t), each, rtol=1e-12)
    assert np.array_equal(law.denoise(x, t)[2], x[2])


def test_states_that_contradict_the_law_stay_finite():
    law = CoxIngersollRoss(0.25, 1.0, 0.6, 1.0, 40)
    wild = 300.0 * (-1.0) ** np.arange(40)[None, :, None]
    found = law.denoise(wild, time_of(0.1))
    low, high = law.hidden_chain(240).nodes[[0, -1]]
    assert np.all((found >= low - 1e-9) & (found <= high + 1e-9))
    np.testing.assert_allclose(found[0, :, 0], np.where(np.arange(40) % 2, low, high), atol=1e-3)


def test_noise_without_overlap_with_what_one_step_can_reach_stays_finite():
    """From one end of the grid to the other the transition underflows, and the values insist on both."""
    law = CoxIngersollRoss(0.25, 1.0, 0.2, 0.05, 6)
    assert law.hidden_chain(400).kernel[0, -1] == 0
    found = law.denoise(300.0 * (-1.0) ** np.arange(6)[None, :, None], time_of(0.1), cells=400)
    low, high = law.hidden_chain(400).nodes[[0, -1]]
    assert np.all((found >= low - 1e-9) & (found <= high + 1e-9))


def test_batches_do_not_matter(monkeypatch, law):
    x = np.random.default_rng(0).normal(size=(7, 3, 1))
    whole = law.denoise(x, 0.4)
    monkeypatch.setattr("nearfield.datasets.hidden_chain._BATCH_ENTRIES", 3 * 240 * 2)
    np.testing.assert_allclose(law.denoise(x, 0.4), whole, rtol=1e-12)


def test_log_prob_is_a_density_proportional_to_the_formula(law):
    _, joint = dense(law, 2, 20)
    short = type(law)(**{**law.__dict__, "length": 2})
    np.testing.assert_allclose(joint.sum(), np.exp(getattr(short, "log_normalizer", 0.0)), rtol=1e-9)
    pairs = np.random.default_rng(1).gamma(2.0, 0.5, size=(5, 3, 1))
    if isinstance(law, DoubleWellChain):
        energy = law.h * ((pairs**2 - 1) ** 2).sum(axis=(1, 2))
        energy += law.J / 2 * ((pairs[:, 1:] - pairs[:, :-1]) ** 2).sum(axis=(1, 2))
        expected = -energy - np.log(dense(law, 3, 7)[1].sum())
    else:
        nu, c = 4 * law.a * law.b / law.sigma**2, law.sigma**2 * (1 - np.exp(-law.a * law.step)) / (4 * law.a)
        before, after = pairs[:, :-1, 0] / c, pairs[:, 1:, 0] / c
        steps = scipy.stats.ncx2.logpdf(after, nu, before * np.exp(-law.a * law.step)) - np.log(c)
        expected = scipy.stats.gamma.logpdf(pairs[:, 0, 0], nu / 2, scale=law.sigma**2 / (2 * law.a)) + steps.sum(1)
    np.testing.assert_allclose(law.log_prob(pairs), expected, rtol=1e-9)


def precise_transition(law, before, after):
    """Log-density of one step to 60 digits: the Poisson mixture of Gamma laws, whose sum is 0F1; no Bessel function."""
    with mpmath.workdps(60):
        a, b, sigma, step, x, y = (mpmath.mpf(float(v)) for v in (law.a, law.b, law.sigma, law.step, before, after))
        c, shape = sigma**2 * (1 - mpmath.exp(-a * step)) / (4 * a), 2 * a * b / sigma**2
        noncentrality, value = x * mpmath.exp(-a * step) / c, y / c
        first = (shape - 1) * mpmath.log(value / 2) - (value + noncentrality) / 2 - mpmath.loggamma(shape)
        return float(first + mpmath.log(mpmath.hyp0f1(shape, noncentrality * value / 4)) - mpmath.log(2 * c))


@pytest.mark.parametrize(
    "law",
    [
        CoxIngersollRoss(1.0, 1.0, 0.05, 5.0, 2),
        CoxIngersollRoss(1.0, 1.0, 0.05, 12.0, 2),
        CoxIngersollRoss(1.0, 1.0, 0.18, 35.0, 2),
        CoxIngersollRoss(1.0, 1.0, 0.6, 800.0, 2),
        CoxIngersollRoss(0.25, 0.002, 0.6, 1.0, 2),
        CoxIngersollRoss(0.25, 1.0, 0.6, 1e-10, 2),
        CIR,
    ],
    ids=["narrow", "narrow, far apart", "order 61", "independent", "states of 1e-200", "close together", "usual"],
)
def test_log_prob_where_the_bessel_function_leaves_doubles(law):
    """Of the law's own draws, which have a density; without the expansions all but the last have -inf or nan."""
    x = law.sample(200, 0)[:, :2]
    x = x[np.all(x > 0, axis=(1, 2))][:40]  # of shape .003, one in seven is below the smallest double
    short = CoxIngersollRoss(law.a, law.b, law.sigma, law.step, 2)
    shape, scale = 2 * law.a * law.b / law.sigma**2, law.sigma**2 / (2 * law.a)
    steps = [precise_transition(law, *pair) for pair in x[..., 0]]
    expected = scipy.stats.gamma.logpdf(x[:, 0, 0], shape, scale=scale) + steps
    np.testing.assert_allclose(short.log_prob(x), expected, rtol=1e-10, atol=1e-9)


def test_log_prob_of_states_far_apart_is_finite():
    """Not underflow of what is beside it: the density of a leap is small, and its logarithm exact."""
    law = CoxIngersollRoss(1.0, 1.0, 0.05, 0.1, 2)
    for pair in ((1e-3, 5.0), (5.0, 1e-3), (1e-6, 1e-5)):
        found = law.log_prob(np.reshape(pair, (1, 2, 1)))[0]
        first = scipy.stats.gamma.logpdf(pair[0], 800.0, scale=0.05**2 / 2)
        np.testing.assert_allclose(found - first, precise_transition(law, *pair), rtol=1e-10)


def test_moments_are_those_of_the_density(law):
    x, joint = dense(law, 3, 7)
    joint = joint / joint.sum()
    if isinstance(law, DoubleWellChain):
        first, middle = joint.sum(axis=(1, 2)) @ x**2, joint.sum(axis=(0, 2)) @ x**2
        ends = x @ joint.sum(axis=1) @ x
        np.testing.assert_allclose(law.covariance()[[0, 1, 0], [0, 1, 2]], [first, middle, ends], rtol=1e-9)
    else:
        marginal = joint.sum(axis=(1, 2))
        np.testing.assert_allclose(marginal @ x, law.mean, rtol=1e-6)
        np.testing.assert_allclose(marginal @ (x - law.mean) ** 2, law.std**2, rtol=1e-6)
        lagged = (x - law.mean) @ joint.sum(axis=1) @ (x - law.mean)
        np.testing.assert_allclose(lagged / law.std**2, law.autocorrelation(2), rtol=1e-6)


def test_the_middle_of_a_long_double_well_chain_is_endless():
    """Spectrum of the transfer matrix against its products."""
    law = DoubleWellChain(h=2.0, J=3.0, length=161)
    covariance = law.covariance()
    lags = np.array([0, 1, 5, 20])
    np.testing.assert_allclose(covariance[80, 80 + lags], law.std**2 * law.autocorrelation(lags), rtol=1e-6)
    assert np.array_equal(covariance, covariance.T)


def uniforms(law, x):
    """Rosenblatt's transform: independent uniforms if and only if x has the law."""
    x = x[..., 0]
    if isinstance(law, CoxIngersollRoss):
        nu, c = 4 * law.a * law.b / law.sigma**2, law.sigma**2 * (1 - np.exp(-law.a * law.step)) / (4 * law.a)
        rest = scipy.stats.ncx2.cdf(x[:, 1:] / c, nu, x[:, :-1] * np.exp(-law.a * law.step) / c)
        return np.column_stack([scipy.stats.gamma.cdf(x[:, 0], nu / 2, scale=law.sigma**2 / (2 * law.a)), rest])
    grid = np.linspace(-2.6, 2.6, 1001)
    well, pair = np.exp(-law.h * (grid**2 - 1) ** 2), np.exp(-law.J / 2 * np.subtract.outer(grid, grid) ** 2)
    after = [np.ones_like(grid)]
    for _ in range(x.shape[1] - 1):
        after.insert(0, pair @ (well * after[0]))
    columns = []
    for i in range(x.shape[1]):
        before = pair if i else np.ones((1, 1001))
        cumulative = np.cumsum(before * well * after[i], axis=1)
        cumulative = (cumulative - 0.5 * before * well * after[i]) / cumulative[:, -1:]
        row = np.searchsorted(grid, x[:, i - 1]) if i else np.zeros(len(x), int)
        # between the rows of the two grid values around the state before
        share = (grid[row] - x[:, i - 1]) / (grid[1] - grid[0]) if i else 0 * x[:, 0]
        at = np.clip(np.searchsorted(grid, x[:, i]), 1, 1000)
        part = (x[:, i] - grid[at - 1]) / (grid[1] - grid[0])
        low, high = (
            cumulative[r, at - 1] * (1 - part) + cumulative[r, at] * part for r in (np.maximum(row - 1, 0), row)
        )
        columns.append(low * share + high * (1 - share))
    return np.column_stack(columns)


def law_p_value(law, x):
    """Smallest p-value, Bonferroni: each uniform, and each product of neighbours' normal scores."""
    u = uniforms(law, x)
    p = [scipy.stats.kstest(column, "uniform").pvalue for column in u.T]
    z = scipy.stats.norm.ppf(u)
    for i in range(u.shape[1] - 1):
        p.append(2 * scipy.stats.norm.sf(abs(np.mean(z[:, i] * z[:, i + 1])) * np.sqrt(len(u))))
    return min(p) * len(p)


def test_samples_have_the_law(law):
    assert law_p_value(law, law.sample(60_000, 3)) > ALARM


@pytest.mark.parametrize(
    ("law", "other"),
    [(CIR, CoxIngersollRoss(0.25, 1.0, 0.63, 1.0, 3)), (WELLS, DoubleWellChain(2.0, 3.8, 3))],
    ids=["cir", "wells"],
)
def test_samples_of_another_law_are_told_apart(law, other):
    assert law_p_value(law, other.sample(20_000, 3)) < ALARM


def test_samples_follow_from_the_random_state(law):
    assert np.array_equal(law.sample(3, 5), law.sample(3, np.random.default_rng(5)))
    assert not np.array_equal(law.sample(3, 5), law.sample(3, 6))


def test_euler_has_the_law_of_its_own_recursion():
    """Far from 0 truncation never acts: v' = (1 - a delta)^2 v + sigma^2 b delta."""
    law = CoxIngersollRoss(a=1.0, b=1.0, sigma=0.3, step=0.5, length=3)
    x = law.sample_euler(100_000, 0, substeps=2)[:, -1, 0]
    variance = law.std**2
    for _ in range(4):
        variance = (1 - 0.25) ** 2 * variance + 0.3**2 * 0.25
    square = (x - 1) ** 2
    assert abs(x.mean() - 1) < 5 * x.std() / np.sqrt(len(x))  # two-sided 6e-7
    assert abs(square.mean() - variance) < 5 * square.std() / np.sqrt(len(x))
    assert abs(law.std**2 - variance) > 5 * square.std() / np.sqrt(len(x))  # it is not the exact law's


def test_euler_truncates_drift_and_noise():
    """Path by path in plain arithmetic, where the process often falls below 0."""
    law = CoxIngersollRoss(a=0.5, b=0.2, sigma=1.0, step=1.0, length=6)
    rng = np.random.default_rng(9)
    state, expected = list(rng.gamma(0.2, 1.0, 50)), []
    for _ in range(5):
        expected.append([max(value, 0.0) for value in state])
        xi = rng.standard_normal(50)
        for k, value in enumerate(state):
            up = max(value, 0.0)
            state[k] = value + 0.5 * (0.2 - up) + up**0.5 * xi[k]
    expected.append([max(value, 0.0) for value in state])
    assert min(state) < 0
    np.testing.assert_allclose(law.sample_euler(50, 9)[..., 0].T, expected, rtol=1e-12)


def test_euler_tends_to_the_exact_law():
    assert law_p_value(CIR, CIR.sample_euler(4000, 1, substeps=300).clip(1e-9)) > ALARM
    assert law_p_value(CIR, CIR.sample_euler(4000, 1, substeps=1).clip(1e-9)) < ALARM
    assert CIR.sample_euler(4000, 1).min() == 0  # truncated, not reflected


BAD = [
    (lambda: CoxIngersollRoss(0.0, 1.0, 0.6, 1.0, 3), "a must be positive"),
    (lambda: CoxIngersollRoss(0.25, 1.0, np.inf, 1.0, 3), "sigma must be positive and finite"),
    (lambda: CoxIngersollRoss(0.25, 1.0, 0.6, 1.0, 0), "length must be at least 1"),
    (lambda: CIR.sample_euler(2, 0, substeps=0), "substeps must be at least 1"),
    (lambda: CoxIngersollRoss(0.25, 1.0, 0.6, 1e-3, 3).hidden_chain(240), "cells must resolve a step of 0.001"),
    (lambda: CIR.denoise(np.zeros((1, 3, 1)), time_of(0.02)), "give cells=8"),
    (lambda: CIR.denoise(np.zeros((2, 3, 1)), -0.1), "t is an OU time"),
    (lambda: CIR.log_prob(np.zeros((2, 3))), r"x must have shape \(sample, 3, 1\)"),
    (lambda: DoubleWellChain(0.0, 1.0, 3), "h must be positive"),
    (lambda: DoubleWellChain(1.0, -1.0, 3), "J must be at least 0"),
    (lambda: DoubleWellChain(1.0, 1.0, 0), "length must be at least 1"),
    (lambda: WELLS.hidden_chain(12), "cells must resolve the wells, .*: give 23 cells"),
    (lambda: STRONG.hidden_chain(2000), "J must leave the wells a width .* of at least 0.0096, .*: give J of at most"),
    (lambda: HIGH.std, "h must leave the wells a width .*: give a smaller h"),
]


USES = {
    "sample": lambda law: law.sample(2, 0),
    "log_normalizer": lambda law: law.log_normalizer,
    "log_prob": lambda law: law.log_prob(np.ones((1, 3, 1))),
    "covariance": lambda law: law.covariance(),
    "deviation": lambda law: law.std,
    "autocorrelation": lambda law: law.autocorrelation([1]),
    "hidden_chain": lambda law: law.hidden_chain(480),
}


@pytest.mark.parametrize("use", USES.values(), ids=USES.keys())
def test_a_coupling_that_the_grid_does_not_resolve_is_refused_with_one_that_it_does(use):
    with pytest.raises(ValueError, match="J must leave the wells a width") as refusal:
        use(STRONG)
    use(DoubleWellChain(STRONG.h, float(str(refusal.value).split()[-1]), 3))


def test_the_strongest_coupling_that_is_not_refused_is_computed_exactly():
    law = DoubleWellChain(h=2.0, J=5450.0, length=2)
    x, joint = dense(law, 2, 120)
    np.testing.assert_allclose(law.log_normalizer, np.log(joint.sum()), rtol=1e-9)
    np.testing.assert_allclose(law.covariance()[0, 1], x @ joint @ x / joint.sum(), rtol=1e-9)


@pytest.mark.parametrize(("call", "message"), BAD, ids=[message for _, message in BAD])
@pytest.mark.usefixtures("unchecked")
def test_bad_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_the_remedy_for_small_noise_works():
    CIR.denoise(np.zeros((1, 3, 1)), time_of(0.02), cells=890)


def test_the_remedy_for_wells_is_the_fewest_cells():
    WELLS.hidden_chain(23)
    with pytest.raises(ValueError, match="give 23 cells"):
        WELLS.hidden_chain(22)
