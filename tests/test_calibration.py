"""Calibration: ranks and scores of known laws, what is hidden, and which laws pass the check."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from benchmarks.calibration import RIGHT, SAMPLES, judge, laws
from scipy import stats
from scipy.special import ndtri

import nearfield as nf
from nearfield._comparing import calibration, compare
from nearfield.datasets import AutoregressiveChain
from nearfield.distribution import GaussianModel
from nearfield.evaluation.calibration import Calibration, crps, levels, rank
from nearfield.evaluation.report import write_report
from nearfield.evaluation.trial import EXACT, Trial
from nearfield.graph import DependencyGraph

CHAIN = AutoregressiveChain(0.8, 60)


def normal_crps(y, mean=0.0, sd=1.0):
    """Closed form (Gneiting and Raftery 2007, equation 21)."""
    z = (y - mean) / sd
    return sd * (z * (2 * stats.norm.cdf(z) - 1) + 2 * stats.norm.pdf(z) - 1 / np.sqrt(np.pi))


def members(n, drawn, n_values, rng):
    if drawn:
        return np.sort(rng.normal(size=(n, n_values)), axis=0)
    return np.repeat(ndtri(levels(n, drawn=False)[0])[:, None], n_values, axis=1)


def test_the_score_of_quantiles_is_the_closed_form_of_a_normal_law():
    y = np.linspace(-2, 2, 41)
    level = levels(100, drawn=False)[1]
    found = crps(3 + 2 * members(100, False, 41, None), 3 + 2 * y, np.repeat(level[:, None], 41, axis=1))
    np.testing.assert_allclose(found, normal_crps(3 + 2 * y, 3, 2), atol=2e-3 * 2)


def test_the_score_of_draws_has_no_bias_and_is_the_double_sum():
    rng = np.random.default_rng(0)
    level = levels(4, drawn=True)[1][:, None]
    x, y = members(4, True, 100_000, rng), np.full(100_000, 0.7)
    found = crps(x, y, np.repeat(level, 100_000, axis=1))
    assert abs(found.mean() - normal_crps(0.7)) < 5 * found.std() / np.sqrt(100_000)  # passed by chance once in 1e6
    pairs = np.abs(x[:, None] - x[None]).sum(axis=(0, 1)) / (4 * 3)
    np.testing.assert_allclose(found, np.abs(x - y).mean(axis=0) - pairs / 2, atol=1e-12)


@pytest.mark.parametrize("drawn", [False, True])
def test_ranks_in_a_right_law_are_uniform(drawn):
    """Kolmogorov and Smirnov; false alarms once in 1e4."""
    rng = np.random.default_rng(1)
    below, between = (np.repeat(levels(19, drawn=d)[0][:, None], 20_000, axis=1) for d in (drawn, True))
    x, y = members(19, drawn, 20_000, rng), rng.normal(size=20_000)
    assert stats.kstest(rank(x, y, below, rng), "uniform").pvalue > 1e-4
    rounded = rank(np.round(members(19, True, 20_000, rng)), np.round(y), between, rng)
    assert stats.kstest(rounded, "uniform").pvalue > 1e-4


def test_what_is_hidden_is_what_another_sample_lacks():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(30, 50, 2))
    lacks = np.zeros((30, 50), dtype=bool)
    for i in range(30):
        lacks[i, i : i + 12] = True
    x[lacks] = np.nan
    trial = Trial.of(x, np.zeros(30, bool), DependencyGraph.chain(50), EXACT, 0)
    assert not (trial.hidden & np.isnan(x)).any()
    for i, hidden in enumerate(trial.hidden):
        assert (hidden.all(axis=1) == hidden.any(axis=1)).all()
        assert any((hidden[:, 0] == (other & ~lacks[i])).all() for k, other in enumerate(lacks) if k != i)
    assert trial.hidden[tuple(trial.place)].all()
    assert np.bincount(trial.place[0]).max() <= 20


def test_complete_samples_lack_points_and_a_block_and_are_those_not_seen():
    x = np.random.default_rng(0).normal(size=(40, 100, 1))
    seen = np.arange(40) % 2 == 0
    trial = Trial.of(x, seen, DependencyGraph.chain(100), EXACT, 0)
    np.testing.assert_array_equal(trial.number, np.arange(1, 40, 2))
    assert not trial.seen
    for hidden in trial.hidden[..., 0]:
        runs = np.diff(np.flatnonzero(np.diff(np.r_[0, hidden, 0])))[::2]
        assert runs.max() >= 10  # of a block of 20, where it is not at an end
        assert 20 <= hidden.sum() <= 30
    assert Trial.of(x, seen | (np.arange(40) > 15), DependencyGraph.chain(100), EXACT, 0).seen
    again = Trial.of(x, seen, DependencyGraph.chain(100), EXACT, 0)
    np.testing.assert_array_equal(again.place, trial.place)


def test_the_guess_is_the_regression_on_the_nearest_observed_value():
    """In an AR(1) chain it is .8 to the power of the distance; 2,000 samples tell it to .02, 5 standard errors .1.

    An observed value tells the nearest hidden one, not those behind.
    """
    z = CHAIN.sample(2000, random_state=0)
    trial = Trial.of(z, np.zeros(2000, bool), DependencyGraph.chain(60), EXACT, 0)
    told = trial.told(z, DependencyGraph.chain(60))
    for (case, vertex, _), guess in zip(trial.place.T, told, strict=True):
        observed = np.flatnonzero(~trial.hidden[case, :, 0])
        near = np.abs(observed - vertex)
        if np.isnan(guess):
            assert near.min() > 1
            continue
        each = [0.8 ** near.min() * np.clip(trial.x[case, k, 0], -3, 3) for k in observed[near == near.min()]]
        assert min(abs(guess - e) for e in each) < 0.1 * 3
    assert 0.4 < np.isnan(told).mean() < 0.6  # those in the middle of a block of 12


@pytest.fixture(scope="module")
def model():
    x = CHAIN.sample(300, random_state=0)[..., 0]
    return nf.LocalizedDiffusion(method="gaussian", radius=1, pooling=1.0, random_state=0).fit(x).model_


def test_ranks_of_a_model_are_those_of_the_exact_conditional_law(model):
    x = CHAIN.sample(20, random_state=5)
    found = calibration(model, x, 0)
    trial = Trial.of(x, np.zeros(20, bool), model.codec.graph, EXACT, 0)
    center, scale = model.marginal.center.numpy().ravel(), model.marginal.scale.numpy().ravel()
    covariance = model.band * model.law.score.covariance() * np.outer(scale, scale)
    for k, (case, vertex, _) in enumerate(trial.place.T):
        known = ~trial.hidden[case, :, 0]
        gain = np.linalg.solve(covariance[np.ix_(known, known)], covariance[known, vertex])
        mean = center[vertex] + gain @ (x[case, known, 0] - center[known])
        sd = np.sqrt(covariance[vertex, vertex] - gain @ covariance[known, vertex])
        assert abs(found.rank[k] - stats.norm.cdf(x[case, vertex, 0], mean, sd)) < 0.011
        assert found.crps[k] == pytest.approx(normal_crps(x[case, vertex, 0], mean, sd), abs=0.01)


def test_draws_and_quantiles_say_the_same(model):
    """60 draws tell a rank to .06 and the mean of 240 ranks to .004, five of which are allowed."""
    x = CHAIN.sample(12, random_state=6)
    exact = calibration(model, x, 0)
    trial = Trial.of(x, np.zeros(12, bool), model.codec.graph, EXACT, 0)
    drawn = np.stack(
        [law.draw(60, 0)[:, 0] for _, law in (next(iter(model.completions(p[None]))) for p in trial.partial)], axis=1
    )
    values = np.sort(drawn[(slice(None), *trial.place)], axis=0)
    told = trial.told(model.marginal(x), model.codec.graph)
    other = Calibration.of(trial, values, np.ones(len(told), bool), told, x, ordered=False, seed=0)
    assert np.abs(exact.rank - other.rank).mean() < 0.08
    assert abs((exact.rank - other.rank).mean()) < 0.02
    assert other.crps.mean() == pytest.approx(exact.crps.mean(), rel=0.05)
    assert other.expected.mean() == pytest.approx(exact.expected.mean(), rel=0.05)


def test_a_right_law_passes_and_wrong_ones_fail():
    """One data set; `benchmarks.calibration` has 20."""
    x = CHAIN.sample(300 + SAMPLES, random_state=3)[..., 0]
    for name, law in laws(x[:300], 3).items():
        assert judge(law, x[300:], 3)[0] == ("pass" if name == RIGHT else "fail"), name


@pytest.mark.slow
def test_right_laws_pass_and_wrong_ones_fail():
    """Four data sets; a right law fails once in 100."""
    for seed in range(4):
        x = AutoregressiveChain(0.8, 100).sample(300 + SAMPLES, random_state=seed)[..., 0]
        for name, law in laws(x[:300], seed).items():
            assert judge(law, x[300:], seed)[0] == ("pass" if name == RIGHT else "fail"), name


def test_laws_that_are_too_wide_fail_on_new_data_and_not_on_those_they_were_fitted_to(model):
    law = model.law.gaussian
    wide = replace(model, law=GaussianModel(law.score, None, 1.6 * law.band, law.largest_eigenvalue))
    new, old = CHAIN.sample(64, random_state=7), CHAIN.sample(300, random_state=0)
    outcomes = [{c.name: c.status for c in calibration(wide, x, 0).checks()} for x in (new, old)]
    assert (outcomes[0]["CRPS"], outcomes[1]["CRPS"]) == ("fail", "pass")
    assert "which the model has seen" in calibration(wide, old, 0).checks()[0].sentence


def test_the_report_shows_it(model, tmp_path, monkeypatch):
    for module in ("section", "report"):  # pictures are slow
        monkeypatch.setattr(f"nearfield.evaluation.{module}.png", lambda ax: "")
    x = CHAIN.sample(64, random_state=8)
    summary = write_report(tmp_path / "r.html", compare(model, x, model.marginal(CHAIN.sample(64, random_state=9)), {}))
    told = calibration(model, x, model.fit_report.seed)
    assert summary["calibration"]["channels"][0]["crps"] == told.crps.mean()
    assert summary["calibration"]["ranks"] == pytest.approx(np.histogram(told.rank, 10, (0, 1))[0] / len(told.rank))
    assert {c.name for c in told.checks()} < {c["name"] for c in summary["checks"]}
    page = (tmp_path / "r.html").read_text()
    assert f'data-path="calibration/channels/0/climate">{told.climate.mean():.3g}<' in page
    assert "Not checked" not in page


def test_few_samples_are_no_pass(model):
    (check,) = calibration(model, CHAIN.sample(9, random_state=7), 0).checks()
    assert check.status == "unknown"
