"""Test of Gaussianity: unbiased cumulants, no alarm on Gaussian samples, other laws found, and what auto does."""

import numpy as np
import pytest

import nearfield as nf
from nearfield.datasets import AutoregressiveChain, CoxIngersollRoss, DoubleWellChain, GaussianMarkovField
from nearfield.fitting import gaussianity
from nearfield.fitting.closed_form import build_field
from nearfield.fitting.gaussianity import check_gaussianity, k_statistic, standardized
from nearfield.fitting.pooling import Pooling
from nearfield.fitting.recipe import Recipe
from nearfield.methods import Auto
from nearfield.samples import Samples
from nearfield.score.switch import SwitchedScore


def checked(law, n, seed, radius=1, pooling=Pooling(1.0)):  # noqa: B008
    samples = Samples(law.sample(n, random_state=seed), law.graph)
    fit = build_field(samples, radius, pooling)
    return check_gaussianity(samples.standardized(fit.center, fit.scale), radius, pooling, seed)


@pytest.mark.parametrize(("order", "formula"), [(3, (1, 2)), (4, (1, 2, 3))])
def test_k_statistics_are_fishers_and_their_error_is_the_jackknifes(order, formula):
    x = np.random.default_rng(0).gamma(2.0, size=(400, 1))
    x -= x.mean()
    n, power = len(x), [(x**k).sum() for k in range(5)]
    fisher = {
        3: n * power[3] / ((n - 1) * (n - 2)),
        4: (n * (n + 1) * power[4] - 3 * (n - 1) * power[2] ** 2) / ((n - 1) * (n - 2) * (n - 3)),
    }[order]
    each = k_statistic(*[x] * order)
    np.testing.assert_allclose(each.mean(), fisher, rtol=1e-12)
    left_out = [k_statistic(*[y - y.mean()] * order).mean() for y in (np.delete(x, i, axis=0) for i in range(n))]
    jackknife = np.sqrt((n - 1) ** 2 / n * np.var(left_out, ddof=1))
    np.testing.assert_allclose(each.std(ddof=1) / np.sqrt(n), jackknife, rtol=0.05)


def test_joint_cumulants_are_multilinear():
    """Cumulants of sums of dependent factors, by expansion: k(a + b, c, d, e) = k(a, c, d, e) + k(b, c, d, e)."""
    a, b, c, d, e = np.random.default_rng(1).gamma(1.0, size=(5, 30, 4))
    a, b, c, d, e = (v - v.mean(axis=0) for v in (a, b, c, d, e))
    for rest in ((c, d), (c, d, e)):
        np.testing.assert_allclose(k_statistic(a + b, *rest), k_statistic(a, *rest) + k_statistic(b, *rest))


def test_cumulants_of_few_standardised_gaussians_have_no_bias():
    """Ten samples, correlation .7, 40,000 pairs: 5 means within 4 standard errors, a false alarm in 1,000."""
    rng = np.random.default_rng(2)
    r, e = rng.normal(size=(2, 10, 40_000))
    m = 0.7 * r + np.sqrt(1 - 0.7**2) * e
    r, m = standardized(r), standardized(m)
    for factors in ((r, r, r), (r, m, m), (r, r, r, r), (r, m, m, m), (r, r, m, m)):
        columns = np.array([k_statistic(*(f[:, k::40] for f in factors)).mean() for k in range(40)])
        assert abs(columns.mean()) < 4 * columns.std(ddof=1) / np.sqrt(40)


@pytest.mark.parametrize(
    ("law", "n", "pooling"),
    [
        (AutoregressiveChain(0.8, 60), 50, Pooling(1.0)),
        (AutoregressiveChain(0.8, 60), 200, Pooling(0.0)),
        (GaussianMarkovField.stationary((8, 8)), 60, Pooling(0.5, 2.0)),
    ],
)
def test_gaussian_samples_give_no_alarm(law, n, pooling):
    """Ten sets each: one alarm in 50 sets or fewer (benchmarks.auto), so three of ten in one test of 1,000."""
    assert sum(checked(law, n, seed, pooling=pooling).found is not None for seed in range(10)) <= 2


@pytest.mark.parametrize(
    ("law", "name"),
    [
        (CoxIngersollRoss(a=0.25, b=1.0, sigma=0.6, step=1.0, length=32), "quadratic term"),
        (DoubleWellChain(h=2.0, J=3.0, length=32), "cubic term"),
    ],
)
def test_a_law_that_is_not_gaussian_is_found_by_its_term(law, name):
    result = checked(law, 100, 0)
    assert result.found is not None
    assert result.found.share > gaussianity.WORTH
    assert any(term.name == name and abs(term.z) > result.bound for term in result.table)
    assert f"{result.found.share:.1%}" in result.describe()


def test_samples_too_few_to_halve_are_not_tested():
    x = np.repeat(np.random.default_rng(0).exponential(size=(3, 20, 1)), 8, axis=0)  # three different samples
    result = check_gaussianity(Samples(x, nf.DependencyGraph.chain(20)), 1, Pooling(1.0))
    assert result.table == ()
    assert result.found is None


def test_large_samples_are_looked_at_in_part(monkeypatch):
    monkeypatch.setattr(gaussianity, "LARGEST", 1)
    seen = []
    monkeypatch.setattr(gaussianity, "build_field", lambda s, *a: seen.append(s.n_vertices) or build_field(s, *a))
    assert checked(AutoregressiveChain(0.8, 300), 40, 0).found is None
    assert seen == [64, 64]


def test_auto_on_gaussian_samples_is_the_gaussian_method():
    x = AutoregressiveChain(0.8, 40).sample(60, random_state=0)[..., 0]
    auto, gaussian = (nf.LocalizedDiffusion(method=m, random_state=0).fit(x) for m in ("auto", "gaussian"))
    np.testing.assert_array_equal(auto.sample(3, random_state=1), gaussian.sample(3, random_state=1))
    np.testing.assert_array_equal(auto.score_samples(x), gaussian.score_samples(x))
    assert auto.band_ == gaussian.band_
    report = auto.fit_report_
    assert "No network was trained" in report.reason
    assert report.training is None
    assert report.seconds["test"] > 0


def test_a_trial_that_is_nowhere_better_ends_the_training(monkeypatch):
    x = DoubleWellChain(h=2.0, J=3.0, length=24).sample(60, random_state=0)[..., 0]
    recipe = Recipe(steps=1000, learning_rate=1e-9, batch_size=8)  # learns nothing
    model = nf.LocalizedDiffusion(method=Auto(pooling=1.0, recipe=recipe), random_state=0).fit(x)
    assert not isinstance(model.score_, SwitchedScore)
    report = model.fit_report_
    assert len(report.training.losses) == 100
    assert not any(level.selected for level in report.levels)
    assert "The law is not Gaussian" in report.reason
    assert "nowhere clearly better" in report.reason
