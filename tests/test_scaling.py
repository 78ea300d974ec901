"""The scaling experiment measures what it says, and its global estimate errs as the theory of Wishart matrices says."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.special import digamma

from nearfield.datasets import AutoregressiveChain
from nearfield.reproduction import scaling
from nearfield.reproduction.experiment import Workers
from nearfield.reproduction.scaling import GLOBAL, LOCAL, Errors, Settings

SMALL = replace(Settings(), sizes=(16, 64), samples=(40, 80, 160), plotted=40, data_sets=40)


@pytest.fixture(scope="module")
def found():
    items = [(SMALL, size, number) for size in SMALL.sizes for number in range(SMALL.data_sets)]
    flat = [scaling.examine(*item) for item in items]
    shape = (len(SMALL.sizes), SMALL.data_sets, len(SMALL.samples))
    return {
        name: Errors(*(np.array(values).reshape(shape) for values in zip(*(f[name] for f in flat), strict=True)))
        for name in (LOCAL, GLOBAL)
    }


def test_errors_count_each_entry_near_the_diagonal_once():
    truth, wrong = np.eye(5), np.eye(5)
    wrong[0, 2] = wrong[2, 0] = 0.5
    wrong[0, 4] = wrong[4, 0] = 0.2
    near = Errors.of(wrong, truth, hops=3, rank=5)
    assert near.near == pytest.approx(2 * 0.25 / (5 + 2 * (4 + 3 + 2)))
    assert near.relative == pytest.approx(0.7)
    assert near.divergence == pytest.approx(-0.5 * np.linalg.slogdet(np.linalg.inv(wrong))[1] / 5 + 0.5 * (
        np.trace(np.linalg.inv(wrong)) - 5) / 5)  # fmt: skip
    assert np.isinf(Errors.of(wrong, truth, hops=3, rank=4).divergence)


def test_the_global_estimate_errs_as_a_wishart_matrix_does(found):
    """Means over 40 data sets within 6.5 of their standard errors, t distributed: by chance once in 1e6 runs."""

    def agrees(values: np.ndarray, expected: float) -> bool:
        return abs(values.mean() - expected) < 6.5 * values.std(ddof=1) / np.sqrt(len(values))

    for i, d in enumerate(SMALL.sizes):
        truth = AutoregressiveChain(SMALL.alpha, d).covariance()
        gap = np.abs(np.subtract.outer(range(d), range(d)))
        for k, n in enumerate(SMALL.samples):
            # E (C^_ij - C_ij)^2 = (C_ii C_jj + C_ij^2) / N, uncentred
            assert agrees(found[GLOBAL].near[i, :, k], ((1 + truth**2) / n)[gap <= SMALL.hops].mean())
            divergence = found[GLOBAL].divergence[i, :, k]
            if n < d:
                assert np.isinf(divergence).all()
                continue
            log_det = (digamma((n - np.arange(d)) / 2) + np.log(2 / n)).sum()
            assert agrees(divergence, 0.5 * (n / (n - d - 1) - 1 + log_det / d))


def test_the_global_estimate_is_the_uncentred_second_moment():
    x = AutoregressiveChain(SMALL.alpha, 16).sample(80, random_state=np.random.default_rng([SMALL.seed, 16, 80, 3]))
    truth = SMALL.alpha ** np.abs(np.subtract.outer(range(16), range(16)))
    difference = np.einsum("nic,njc->ij", x, x) / 80 - truth
    error = np.abs(difference).sum(axis=1).max() / truth.sum(axis=1).max()
    assert scaling.examine(SMALL, 16, 3)[GLOBAL].relative[1] == pytest.approx(error, rel=1e-12)


def test_the_local_estimate_is_no_worse_anywhere_and_its_law_much_better(found):
    assert (scaling.near_error(found[LOCAL]) < scaling.near_error(found[GLOBAL])).all()
    # 2 d - 1 parameters, each with 1 / (2 N) nats
    d, n = SMALL.sizes[1], SMALL.samples[2]
    divergence = found[LOCAL].divergence[1, :, 2]
    assert divergence.mean() == pytest.approx((2 * d - 1) / (2 * n * d), rel=0.1)


def test_the_claims_tell_right_from_wrong(found):
    def verdicts(**local: np.ndarray) -> list[bool]:
        return [claim.holds for claim in scaling.claims(SMALL, found | {LOCAL: found[LOCAL]._replace(**local)})]

    near, size = found[LOCAL].near, np.array([1.0, 1.3])[:, None, None]
    n = np.array(SMALL.samples)
    assert verdicts() == [True, True, False]  # 64 vertices from 40 samples: one size is left, and nothing grows
    assert verdicts(near=near * n**-0.2) == [False, True, False]
    assert verdicts(near=near * size) == [True, False, False]
    at = replace(SMALL, plotted=160)
    grown = found[GLOBAL].divergence[:, :, 2].mean(axis=1)
    assert scaling.claims(at, found)[2].holds == (grown[1] >= 5 * grown[0])


def test_conduct_arranges_sizes_and_data_sets(found):
    few = replace(SMALL, data_sets=2)
    numbers = scaling.conduct(few, Workers()).numbers
    for name in (LOCAL, GLOBAL):
        first = Errors(*(values[:, :2] for values in found[name]))
        np.testing.assert_allclose(numbers[name]["near"], scaling.near_error(first))
        np.testing.assert_allclose(numbers[name]["relative"], first.relative.mean(axis=1))
