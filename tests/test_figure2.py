"""Figure 2: exact laws against a recursion written afresh, draws against these laws, methods by identities."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import scipy.linalg
import torch

from nearfield.datasets import AutoregressiveChain, chain_maximum_likelihood
from nearfield.fitting.closed_form import fit_masked, fit_windowed
from nearfield.fitting.pooling import Pooling
from nearfield.noise import Stream
from nearfield.process import Schedule, noise_scale, signal_scale
from nearfield.reproduction import figure2
from nearfield.reproduction.distance import Distances, Ratio
from nearfield.reproduction.experiment import Claim
from nearfield.reproduction.figure2 import DEFAULT, FIELD, LIKELIEST, LOCAL, Settings
from nearfield.reproduction.linear_score import AffineStep, ensembles, law, laws, runs
from nearfield.samples import Samples
from nearfield.sampling.sampler import EulerMaruyama, default_sampler
from nearfield.score.base import Score

CHAIN = AutoregressiveChain(0.7, 12)


@pytest.fixture(scope="module")
def x():
    return CHAIN.sample(40, random_state=8)


@pytest.fixture(scope="module")
def found(x):
    """Covariances by method at radii 0, 1 and 11."""
    return figure2.past(x, CHAIN.graph, (0, 1, 11))


def recursion(sample: np.ndarray, radius: int, steps: int = 1000) -> np.ndarray:
    """Covariance of (4.5), Y_{n+1} = Y_n + D_n (Y_n - 2 P Y_n) + sqrt(2 D_n) xi_n, in plain numpy."""
    n, d = sample.shape
    second = sum(np.outer(row, row) for row in sample) / n
    near = np.abs(np.subtract.outer(range(d), range(d))) <= radius
    lengths = np.linspace(1e-4, 0.02, steps) / 2
    covariance = np.eye(d)
    for k in reversed(range(steps)):  # the largest steps first, at the noise
        t = lengths[: k + 1].sum()
        score = -np.linalg.inv(np.exp(-2 * t) * second + (1 - np.exp(-2 * t)) * np.eye(d)) * near
        step = np.eye(d) + lengths[k] * (np.eye(d) + 2 * score)
        covariance = step @ covariance @ step.T + 2 * lengths[k] * np.eye(d)
    return covariance


def test_the_exact_laws_are_those_of_an_independent_recursion(x):
    radii = (0, 2, 11)
    scores = [fit_masked(Samples(x, CHAIN.graph, standard=(True,)), r)[2] for r in radii]
    for radius, score, together in zip(radii, scores, laws(runs(Settings().sampler(), scores)), strict=True):
        written_afresh = recursion(x[..., 0], radius)
        np.testing.assert_allclose(law(Settings().sampler(), score), written_afresh, rtol=0, atol=1e-8)
        np.testing.assert_allclose(together, written_afresh, rtol=0, atol=1e-8)


def pair(x: np.ndarray) -> list[Score]:
    """A symmetric linear score, and one that is not."""
    _, _, masked = fit_masked(Samples(x, CHAIN.graph, standard=(True,)), 3)
    _, _, windowed = fit_windowed(Samples(x, CHAIN.graph, standard=(True,)), ((1.0, 3),), Pooling(0.0))
    return [masked, windowed]


@pytest.mark.parametrize("length", [1, 7, 60])
def test_runs_of_any_length_end_in_the_samplers_law(x, length):
    sampler, scores = EulerMaruyama(Schedule.ddpm(60)), pair(x)
    steps = runs(sampler, scores, length)
    assert len(steps) == -(-60 // length)
    np.testing.assert_allclose(laws(steps), [law(sampler, score) for score in scores], rtol=0, atol=1e-12)


def test_draws_have_the_exact_law_and_share_their_noise(x):
    """Each entry of a sample covariance within 6 standard errors (Wishart); passed by chance once in 1e6 runs."""
    n, (masked, windowed) = 20_000, pair(x)
    steps = runs(EulerMaruyama(Schedule.ddpm(60)), [masked, windowed, windowed], length=7)
    drawn = ensembles(steps, n, seed=5)
    assert torch.equal(drawn[1], drawn[2])
    assert not torch.equal(ensembles(steps, n, seed=6)[0], drawn[0])
    for exact, y in zip(laws(steps), drawn.numpy(), strict=True):
        error = np.sqrt((np.outer(exact.diagonal(), exact.diagonal()) + exact**2) / n)
        assert np.abs((y.T @ y / n - exact) / error).max() < 6


def test_the_noise_of_a_run_has_its_covariance():
    """Far from a diagonal, as the noise of short steps is not; within 6 standard errors."""
    exact = np.array([[1.0, 2.7], [2.7, 9.0]])
    noise = torch.from_numpy(exact)[None]
    y = ensembles([AffineStep(torch.zeros_like(noise), noise)], 10_000, seed=3)[0].numpy()
    error = np.sqrt((np.outer(exact.diagonal(), exact.diagonal()) + exact**2) / len(y))
    assert np.abs((y.T @ y / len(y) - exact) / error).max() < 6


def test_draws_in_single_steps_are_the_samplers(x, monkeypatch):
    """Given the same standard normals, runs of one step end where `Sampler.sample` does."""
    sampler, scores = EulerMaruyama(Schedule.ddpm(60)), pair(x)
    normals = np.random.default_rng(2).standard_normal((61, 9, 12))
    numbered = iter(normals)
    monkeypatch.setattr("torch.randn", lambda *_, **__: torch.from_numpy(next(numbered)))
    drawn = ensembles(runs(sampler, scores, length=1), 9, seed=0)
    at = {Stream.INITIAL: 0, Stream.STEP: 1}
    monkeypatch.setattr(
        "nearfield.sampling.base.normals", lambda _, stream, members, k, *shape: normals[at[stream] + k][..., None]
    )
    for score, found in zip(scores, drawn, strict=True):
        members = sampler.sample(score, 9, seed=0, dtype=torch.float64)
        torch.testing.assert_close(found, members[..., 0], rtol=0, atol=1e-12)


def test_methods_past_the_paper_by_identities(x, found):
    """Whole windows do not localize; a field of whole order is the sample; one of order 1 the likeliest chain."""
    second = x[..., 0].T @ x[..., 0] / len(x)
    whole = law(default_sampler(), fit_masked(Samples(x, CHAIN.graph, standard=(True,)), 11)[2])
    np.testing.assert_allclose(found[LOCAL][2], whole, atol=1e-9)
    np.testing.assert_allclose(found[LOCAL][0].diagonal(), second.diagonal(), rtol=0.02)  # marginals are kept
    np.testing.assert_allclose(found[FIELD][2], second, atol=1e-9)
    np.testing.assert_allclose(found[FIELD][1], found[LIKELIEST][0], atol=1e-9)
    np.testing.assert_allclose(found[LIKELIEST][0], chain_maximum_likelihood(x), rtol=0)
    pooled = np.linalg.inv(found[figure2.POOLED][1])
    assert np.ptp(pooled.diagonal()[1:-1]) < 1e-9  # one conditional law for all but the first
    assert np.ptp(np.diagonal(pooled, 1)) < 1e-9
    assert {len(covariances) for covariances in found.values()} == {1, 3}


def test_the_default_is_measured_in_the_units_of_the_data(x, found):
    """It standardises; in other units its covariance scales all the same."""
    tripled = figure2.past(3 * x, CHAIN.graph, (1,))[DEFAULT][0]
    np.testing.assert_allclose(tripled, 9 * found[DEFAULT][0], rtol=1e-9)


def spread(mean: np.ndarray, deviation: float | np.ndarray = 0.02) -> np.ndarray:
    """Twenty repeats of exactly this mean and sample deviation."""
    signs = np.tile([1.0, -1.0], 10)[:, None]
    return mean + deviation * np.sqrt(19 / 20) * signs


def test_the_papers_claims_tell_right_from_wrong():
    settings, laws_of_data = Settings(), ((0.7, 500), (0.5, 200))
    many, few = (np.array(figure2.EXPECTED[law]) for law in laws_of_data)

    def u_shaped(drawn: np.ndarray, exact: np.ndarray) -> list[bool]:
        masked = {"drawn": Distances(spread(drawn), np.zeros(1)), "exact": Distances(spread(exact), np.zeros(1))}
        return [claim.holds for claim in figure2.u_claims(settings, masked)]

    assert u_shaped(many, many - 0.03) == [True, True]
    assert u_shaped(np.sort(many)[::-1], many) == [False, True]
    assert u_shaped(many, np.sort(many)) == [True, False]

    def agree(these: Settings, error: np.ndarray) -> bool:
        return figure2.comparison(these, {"drawn": Distances(spread(error), np.zeros(1))}).holds

    # 3 standard errors of the difference of means of 20 and of 8 data sets
    shift = 3 * 0.02 * np.sqrt(1 / 20 + 1 / 8) * np.eye(10)[4]
    for these, expected in ((settings, many), (settings.few(), few)):
        assert agree(these, expected + 0.99 * shift)
        assert agree(these, expected - 0.99 * shift)
        assert not agree(these, expected + 1.01 * shift)
        assert not agree(these, expected - 1.01 * shift)
    for other in (replace(settings, draws=50), replace(settings, alpha=0.6)):  # the other implementation made 10,000
        assert figure2.comparison(other, {"drawn": Distances(spread(many), np.zeros(1))}) is None


def test_the_half_is_asked_where_samples_are_few():
    def claim(drawn: float, exact: float, many: float) -> Claim:
        few = {"drawn": Ratio(drawn, 0.02, 20), "exact": Ratio(exact, 0.02, 20)}
        return figure2.half_claim(Settings(), few, {"drawn": Ratio(0.53, 0.01, 100), "exact": Ratio(many, 0.01, 100)})

    assert claim(0.459, 0.459, 0.53).holds
    assert not claim(0.461, 0.3, 0.4).holds
    assert not claim(0.3, 0.461, 0.4).holds
    assert "0.530 +- 0.010, above a half, for draws and 0.510 +- 0.010, above" in claim(0.3, 0.3, 0.51).sentence
    assert "0.490 +- 0.010, below a half, for exact laws (100 data sets)" in claim(0.3, 0.3, 0.49).sentence


def test_the_best_radius_is_compared_with_the_last():
    error = spread(np.array([0.9, 0.2, 0.3, 0.5]), np.array([0.0, 0.02, 0.0, 0.0]))
    ratio = figure2.best_over_whole(error)
    assert ratio == pytest.approx((0.4, 0.02 / 0.5 / np.sqrt(20), 20))


def test_ratio_has_the_standard_error_of_repeated_experiments():
    """Its spread over 2000 experiments of 50 data sets, within 10 %."""
    rng = np.random.default_rng(0)
    whole = rng.normal(1.0, 0.1, (2000, 50))
    best = 0.4 * whole + rng.normal(0, 0.02, whole.shape)
    found = [Ratio.of(*pair) for pair in zip(best, whole, strict=True)]
    assert np.mean([f.standard_error for f in found]) == pytest.approx(np.std([f.value for f in found]), rel=0.1)
    assert np.mean([f.value for f in found]) == pytest.approx(0.4, abs=0.001)


def test_our_claims_compare_with_the_radius_best_for_each_measure():
    masked = Distances(spread(np.array([0.5, 0.2, 0.3])), spread(np.array([0.5, 0.3, 0.25])))

    def verdicts(error: float, divergence: float) -> list[bool]:
        own = Distances(spread(np.array([error]), 0), spread(np.array([divergence]), 0))
        return [claim.holds for claim in figure2.our_claims(masked, own)]

    assert verdicts(0.119, 0.0499) == [True, True]
    assert verdicts(0.121, 0.0499) == [True, False]
    assert verdicts(0.119, 0.0501) == [False, True]


class SharedRow(Score):
    """One row of coefficients for every vertex, that of a window in the middle; the field is padded by reflection."""

    n_channels = 1

    def __init__(self, alpha: float, n_vertices: int, radius: int) -> None:
        super().__init__()
        self.n_vertices, self.radius = n_vertices, radius
        self.window = scipy.linalg.toeplitz(alpha ** np.arange(2 * radius + 1))

    def forward(self, x, t):
        a, s = signal_scale(t), noise_scale(t)
        row = a * np.linalg.solve(a**2 * self.window + s**2 * np.eye(len(self.window)), self.window[self.radius])
        padded = np.pad(x[..., 0].numpy(), ((0, 0), (self.radius, self.radius)), mode="reflect")
        windows = np.lib.stride_tricks.sliding_window_view(padded, len(row), axis=1)
        return torch.from_numpy(windows @ row)[..., None]


def test_reflection_padding_widens_the_ends_and_truncated_windows_do_not():
    """Exact AR(1) score, covariance pushed through (2.4): variance at the end over that in the middle."""
    chain, sampler = AutoregressiveChain(0.7, 40), EulerMaruyama(Schedule.ddpm(400))
    # data whose second moment is the chain's covariance, exactly
    data = np.sqrt(40) * np.linalg.cholesky(chain.covariance()).T[..., None]
    _, _, truncated = fit_windowed(Samples(data, chain.graph, standard=(True,)), ((1.0, 5),), Pooling(0.0))
    for score, ratio in ((truncated, 1.00), (SharedRow(0.7, 40, 5), 1.36)):
        variance = law(sampler, score).diagonal()
        assert variance[20] == pytest.approx(1, abs=0.005)
        assert round(variance[0] / variance[20], 2) == pytest.approx(ratio, abs=0.0101)
        assert variance[0] == pytest.approx(variance[-1], rel=1e-9)


def test_examine_measures_4_5_on_its_data_set():
    """The exact law's error by the recursion written afresh; the draws' covariance within 6 standard errors of it."""
    few = replace(Settings(), size=12, samples=30, draws=1000, radii=(2, 11))
    sample = AutoregressiveChain(0.7, 12).sample(30, random_state=np.random.default_rng([few.seed, 4]))[..., 0]
    found, truth = figure2.examine(few, 4), scipy.linalg.toeplitz(0.7 ** np.arange(12))
    alone = figure2.examine(replace(few, radii=(2,)), 4)  # as for the data sets of which two radii are looked at
    np.testing.assert_allclose(alone.drawn.error, found.drawn.error[:1], rtol=1e-12)
    for i, radius in enumerate(few.radii):
        difference = recursion(sample, radius) - truth
        error = np.abs(difference).sum(axis=1).max() / truth.sum(axis=1).max()
        assert found.exact.error[i] == pytest.approx(error, abs=1e-8)
        standard_error = np.sqrt(2 / few.draws) * (difference + truth).max()  # of the worst entry
        assert np.abs(found.pictures[i] - np.abs(difference)).max() < 6 * standard_error


def test_few_samples_have_their_own_law_and_data():
    settings = replace(Settings(), size=6)
    few = settings.few()
    assert (few.alpha, few.samples, few.size, few.draws) == (0.5, 200, 6, settings.draws)
    assert figure2.sample(few, 0).shape == (200, 6, 1)
    both = figure2.sample(settings, 0)[:200, 0, 0], figure2.sample(few, 0)[:, 0, 0]
    assert abs(np.corrcoef(*both)[0, 1]) < 0.35  # 5 standard errors
