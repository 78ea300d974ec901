"""The benchmarks' laws and metrics. Statistical tests: 5 standard errors (false alarm 6e-7 each), fixed seeds."""

import numpy as np
import pytest
from benchmarks.law import LATTICE_DEVIATION, cir, double_well, lattice, signed
from benchmarks.quality import DISTANCE, LAGS, Judge, correlation, window_features

from nearfield.process import signal_scale

LAW = cir(length=40)


@pytest.fixture(autouse=True)
def few_rounds(monkeypatch):
    monkeypatch.setattr("benchmarks.quality.ROUNDS", 8)


@pytest.fixture(scope="module")
def judge():
    return Judge(LAW, pool=2_000, size=100, side=100, windows=400, repeats=3, fresh=20)


def gaussian(law, n, seed):
    """Gaussian series with the law's own mean and covariance."""
    root = np.linalg.cholesky(law.covariance)
    return (np.random.default_rng(seed).standard_normal((n, len(root))) @ root.T)[..., None]


@pytest.mark.parametrize("law", [LAW, double_well(length=40), signed(length=40)], ids=lambda law: law.name)
def test_draws_are_standardised_and_have_the_covariance(law):
    z = law.draw(4_000, 1)[..., 0]
    products = z[:, :, None] * z[:, None]
    error = products.std(axis=0) / np.sqrt(len(z))
    assert np.all(np.abs(z.mean(axis=0)) < 5 * z.std(axis=0) / np.sqrt(len(z)))
    assert np.all(np.abs(products.mean(axis=0) - law.covariance) < 6.5 * error)  # 1600 entries: 1.3e-7 together


def test_signs_are_carried_through_the_exact_denoiser_and_density():
    law = signed(length=40)
    x = LAW.draw(5, 2)
    assert -1 in law.signs
    assert 1 in law.signs
    np.testing.assert_allclose(law.draw(5, 2), x * law.signs[:, None])
    np.testing.assert_allclose(law.denoise(x * law.signs[:, None], 0.3), LAW.denoise(x, 0.3) * law.signs[:, None])
    np.testing.assert_allclose(law.log_prob(x * law.signs[:, None]), LAW.log_prob(x))


def test_the_lattice_has_the_deviation_it_is_divided_by():
    square = np.mean(lattice(16).draw(100, 3) ** 2, axis=(1, 2))
    assert abs(square.mean() - 1) < 5 * square.std() / np.sqrt(len(square)), LATTICE_DEVIATION


def test_correlation_of_a_chain_is_the_mean_product_at_each_lag():
    x = np.random.default_rng(0).normal(size=(3, 40, 1))
    expected = [np.mean([s[i, 0] * s[i + k, 0] for s in x for i in range(40 - k)]) for k in range(LAGS + 1)]
    np.testing.assert_allclose(correlation(x, (40,)), expected, atol=1e-12)


def test_correlation_of_a_torus_is_the_mean_product_at_each_displacement():
    z = np.random.default_rng(0).normal(size=(2, 20, 20))
    steps = [(i, j) for i in range(-9, 11) for j in range(-9, 11) if 0 < i * i + j * j <= DISTANCE**2]
    expected = [np.mean(z * np.roll(z, step, axis=(1, 2))) for step in steps]
    np.testing.assert_allclose(np.sort(correlation(z.reshape(2, 400, 1), (20, 20))), np.sort(expected), atol=1e-12)


@pytest.mark.parametrize("shape", [(43,), (12, 17)])
def test_windows_lie_in_their_series_and_do_not_overlap(shape):
    """Each value names its place, so a window tells where it was cut."""
    number = np.prod(shape) * np.arange(4)[:, None] + np.arange(np.prod(shape))
    each = {1: 5, 2: 6}[len(shape)]
    found = window_features(number.reshape(4, *shape), each, np.random.default_rng(0))
    width = {1: 8, 2: 5}[len(shape)]
    windows, rest = found[:, : width ** len(shape)], found[:, width ** len(shape) :]
    assert len(np.unique(windows)) == windows.size
    assert np.array_equal(windows[:, 0] // np.prod(shape), np.repeat(np.arange(4), each))
    step = np.indices((width,) * len(shape)).reshape(len(shape), -1)
    place = np.array(np.unravel_index(windows % np.prod(shape), shape))
    assert np.array_equal(place - place[..., :1], np.broadcast_to(step[:, None], place.shape))
    strides = np.cumprod((1, *shape[:0:-1]))[::-1]
    differences = np.repeat(strides, width ** (len(shape) - 1) * (width - 1))
    assert np.array_equal(rest, np.broadcast_to(differences, rest.shape))


def test_too_many_windows_are_refused():
    with pytest.raises(ValueError, match="has 5 windows, not 6"):
        window_features(np.zeros((2, 43)), 6, np.random.default_rng(0))


def test_a_classifier_that_remembers_series_gains_nothing(judge):
    """Every series is one constant: known from training, it would tell the side."""
    one, other = np.random.default_rng(4).normal(size=(2, 100, 1, 1)) * np.ones((1, 1, 40, 1))
    assert abs(judge.auc(one, other, np.random.default_rng(0)) - 0.5) < 0.2  # 5 deviations of 100 against 100


@pytest.mark.slow
def test_truth_passes_and_a_gaussian_of_its_covariance_does_not(judge):
    truth = judge.quality(LAW.draw(1_000, 7))
    model = judge.quality(gaussian(LAW, 1_000, 8))
    assert abs(truth.auc.value - 0.5) < 0.1  # 5 deviations of 400 windows a side
    assert not truth.auc.value > truth.auc.floor + 5 * truth.auc.spread
    assert 0.5 < truth.correlation.ratio < 1.5
    assert 0.5 < truth.marginal.ratio < 1.5
    assert 0.5 < model.correlation.ratio < 1.5
    assert model.auc.value > 0.65
    assert not model.auc.passes
    assert model.marginal.ratio > 3


def test_the_area_is_a_mean_over_disjoint_sides_of_all_the_series(judge, monkeypatch):
    """Every series names itself; the areas are the numbers 1, 2, ..., 10."""
    floor, sides = judge._auc_floor, []  # the judge is shared and keeps its floor: it is to be the true one
    monkeypatch.setattr(Judge, "auc", lambda _, one, other, rng: sides.append((one, other)) or float(len(sides)))
    series = np.arange(1_050.0)[:, None, None] * np.ones((1, 40, 1))
    assert judge.quality(series).auc == (5.5, *floor)
    numbers = np.concatenate([one[:, 0, 0] for one, _ in sides])
    assert len(np.unique(numbers)) == len(numbers) == 1_000
    assert all(len(one) == len(other) == len(np.unique(other[:, 0, 0])) == 100 for one, other in sides)


def test_the_marginal_distance_of_a_shift_is_the_shift(judge):
    assert judge.quality(LAW.draw(1_000, 7) + 2.0).marginal.value == pytest.approx(2.0, abs=0.05)


@pytest.mark.slow
def test_series_that_fill_no_set_do_not_count(judge):
    x = LAW.draw(1_050, 7)
    assert judge.quality(x).correlation == judge.quality(np.concatenate([x[:1_000], 9 * x[1_000:]])).correlation


def test_a_wrong_variance_is_an_error_of_correlation(judge):
    assert judge.quality(2 * LAW.draw(1_000, 7)).correlation.value == pytest.approx(3.0, abs=0.3)


@pytest.mark.slow
def test_lattices_are_judged_alike():
    law = lattice(16)
    judge = Judge(law, pool=80, size=20, side=40, windows=200, repeats=2)
    truth, noise = judge.quality(law.draw(80, 5)), judge.quality(np.random.default_rng(0).normal(size=(80, 256, 1)))
    assert truth.correlation.ratio < 3 < noise.correlation.ratio
    assert abs(truth.auc.value - 0.5) < 0.15
    assert noise.auc.value > 0.7


def test_excess_is_that_of_the_exact_denoiser(judge):
    assert judge.excess(LAW.denoise).value == 0
    assert judge.excess(lambda x, t: signal_scale(t) * x).value > 0.3
    with pytest.raises(ValueError, match="exact denoiser of lattice"):
        Judge(lattice(4)).excess(LAW.denoise)


def test_too_few_series_are_refused(judge):
    with pytest.raises(ValueError, match="needs 100 generated series at least, got 99"):
        judge.quality(LAW.draw(99, 0))
