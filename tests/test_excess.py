"""Excess risk against its closed forms."""

import numpy as np
import pytest
import torch

from nearfield.datasets import AutoregressiveChain
from nearfield.process import noise_to_signal
from nearfield.theory.excess import ExcessReference, excess_risk

LEVELS = [0.1, 0.2, 0.4, 0.8, 1.6, 3.2]
LAW = AutoregressiveChain(0.8, 12)


@pytest.fixture(scope="module")
def reference():
    return ExcessReference.prepare(LAW.denoise, LAW.sample(4000, 0), seed=7)


def test_the_exact_denoiser_has_none(reference):
    found = reference.excess(LAW.denoise)
    assert (found.value, found.error) == (0.0, 0.0)


def test_an_error_of_a_share_of_sigma_counts_its_square_at_each_level(reference):
    found = reference.excess(lambda x, t: LAW.denoise(x, t) + 0.3 * noise_to_signal(t))
    assert found.value == pytest.approx(np.log(2) * 6 * 0.09, rel=1e-10)
    assert [sigma for sigma, _ in found.by_level] == LEVELS
    np.testing.assert_allclose([term for _, term in found.by_level], 0.09, rtol=1e-10)


def test_a_gaussian_denoiser_of_the_wrong_law_costs_what_algebra_says(reference):
    """The difference of two gains, under the noised covariance; within 5 standard errors, alarm 6e-7."""
    covariance, expected = LAW.covariance(), 0.0
    for sigma in LEVELS:
        a2 = 1 / (1 + sigma**2)
        noised = a2 * covariance + (1 - a2) * np.eye(12)
        gain = np.sqrt(a2) * (covariance @ np.linalg.inv(noised) - np.eye(12))
        expected += np.log(2) * np.trace(gain @ noised @ gain.T) / (12 * sigma**2)
    found = reference.excess(lambda x, t: np.exp(-t) * x)
    assert abs(found.value - expected) < 5 * found.error
    assert found.error < 0.02 * expected


def test_the_noise_is_a_function_of_seed_level_and_sample(reference):
    fewer = ExcessReference.prepare(LAW.denoise, LAW.sample(4000, 0)[:10], seed=7)
    assert np.array_equal(fewer.noised, reference.noised[:, :10])
    other = ExcessReference.prepare(LAW.denoise, LAW.sample(4000, 0)[:10], seed=8)
    assert not np.any(fewer.noised == other.noised)
    xi = [(z - np.exp(-t) * LAW.sample(4000, 0)) for z, t in zip(reference.noised, _times(), strict=True)]
    assert abs(np.corrcoef([part.ravel() for part in xi])[0, 1:]).max() < 5 / np.sqrt(48_000)


def _times():
    return [0.5 * np.log1p(sigma**2) for sigma in LEVELS]


def test_a_torch_denoiser_is_measured_alike(reference):
    on_torch = reference.excess(lambda x, t: 0.9 * np.exp(-t) * torch.from_numpy(x))
    on_numpy = reference.excess(lambda x, t: 0.9 * np.exp(-t) * x)
    assert on_torch == on_numpy


def test_the_shorthand_is_the_same(reference):
    x = LAW.sample(4000, 0)
    assert excess_risk(lambda z, t: 0.9 * z, LAW.denoise, x, seed=7) == reference.excess(lambda z, t: 0.9 * z).value


def test_bad_input_is_refused(reference):
    with pytest.raises(ValueError, match="2 samples or more"):
        ExcessReference.prepare(LAW.denoise, LAW.sample(1, 0))
    with pytest.raises(ValueError, match="denoise must keep the shape"):
        reference.excess(lambda x, t: x[..., 0])
