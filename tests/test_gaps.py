"""Missing values in a fit: against dense formulas, known estimates, complete samples, and a user's loop."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.sparse as sp
import xarray as xr

import nearfield as nf
from nearfield.datasets import AutoregressiveChain
from nearfield.evaluation.metric import gaussian_kl
from nearfield.fitting.closed_form import build_field
from nearfield.fitting.covariance import location_and_scale, sample_moments, second_moments
from nearfield.fitting.elimination import predecessors
from nearfield.fitting.expectation import completed, expectation, expected, observed_loss, window_pairs
from nearfield.fitting.pooling import Pooling
from nearfield.fitting.selection import select_field
from nearfield.graph import DependencyGraph
from nearfield.samples import Samples
from nearfield.score import incomplete
from nearfield.score.incomplete import IncompleteFields

GRID = DependencyGraph.grid((4, 5))
POINTS = DependencyGraph.knn(np.random.default_rng(5).random((20, 2)), 4)


def draws(graph: DependencyGraph, n_samples: int = 60, channels: int = 2, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    d = len(graph) * channels
    root = np.eye(d) + rng.normal(size=(d, d)) / (2 * math.sqrt(d))
    return (3 * rng.normal(size=(n_samples, d)) @ root + rng.normal(size=d)).reshape(n_samples, len(graph), channels)


def with_gaps(x: np.ndarray, share: float = 0.3, seed: int = 1) -> np.ndarray:
    return np.where(np.random.default_rng(seed).random(x.shape) < share, np.nan, x)


def dense(field, observed):
    """Gains of the observed values, and conditional covariance of all, from the dense covariance."""
    covariance, seen = field.covariance(), observed.ravel()
    gain = covariance[:, seen] @ np.linalg.inv(covariance[np.ix_(seen, seen)])
    return gain, covariance - gain @ covariance[seen]


@pytest.mark.parametrize(("large", "small"), [(1024, 24), (1024, 3), (6, 3)])
@pytest.mark.parametrize("graph", [GRID, POINTS], ids=["grid", "points"])
def test_conditional_laws_of_many_fields_are_the_dense_ones(graph, large, small, monkeypatch):
    """Small parts together, parts one by one and factorised ones; repeated patterns, complete and empty samples."""
    monkeypatch.setattr(incomplete, "LARGE", large)
    monkeypatch.setattr(incomplete, "SMALL", small)
    x = draws(graph)
    x = (x - x.mean(axis=0)) / x.std(axis=0)
    field = build_field(Samples(x, graph), 2, Pooling(0.3)).field
    y, observed = x[:12], ~np.isnan(with_gaps(x[:12], 0.4))
    observed[[3, 7]] = observed[1]
    observed[4], observed[5] = True, False
    laws = IncompleteFields(field, observed)
    assert laws.n_patterns == 10
    mean, density, total = laws.mean(np.where(observed, y, np.nan)), laws.log_prob(y), np.zeros((40, 40))
    for i in range(12):
        gain, conditional = dense(field, observed[i])
        seen = observed[i].ravel()
        np.testing.assert_allclose(mean[i].ravel(), np.where(seen, y[i].ravel(), gain @ y[i].ravel()[seen]), atol=1e-9)
        marginal = field.covariance()[np.ix_(seen, seen)]
        value = y[i].ravel()[seen]
        square = value @ np.linalg.solve(marginal, value) if seen.any() else 0.0
        log_det = np.linalg.slogdet(2 * np.pi * marginal)[1] if seen.any() else 0.0
        assert density[i] == pytest.approx(-0.5 * (square + log_det), abs=1e-9)
        total += np.where(seen, 0.0, np.where(seen[:, None], 0.0, conditional)) / 12
    everywhere = sp.csr_array(np.ones((40, 40)))
    np.testing.assert_allclose(laws.covariance(everywhere).toarray(), total, atol=1e-10)
    pairs = window_pairs(graph, 1, 2)
    some = laws.covariance(pairs)
    assert some.nnz == pairs.nnz
    np.testing.assert_allclose(some.toarray(), np.where(pairs.toarray() > 0, total, 0.0), atol=1e-10)


def test_conditional_draws_have_the_conditional_covariance():
    """4000 draws: each entry within 6 standard errors, a false alarm in a million runs."""
    x = draws(GRID)
    field = build_field(Samples(x / 3, GRID), 1, Pooling(0.5)).field
    observed = np.broadcast_to(~np.isnan(with_gaps(x[:1])), (4000, *x.shape[1:]))
    y = np.broadcast_to(x[0], observed.shape)
    laws = IncompleteFields(field, observed)
    drawn, seen = laws.sample(y, seed=3), observed[0].ravel()
    assert np.array_equal(drawn[observed], y[observed])
    off = (drawn - laws.mean(y)).reshape(4000, -1)[:, ~seen]
    truth = dense(field, observed[0])[1][np.ix_(~seen, ~seen)]
    error = np.sqrt((truth**2 + np.outer(truth.diagonal(), truth.diagonal())) / 4000)
    assert (np.abs(off.T @ off / 4000 - truth) < 6 * error).all()
    np.testing.assert_array_equal(drawn[:5], IncompleteFields(field, observed[:5]).sample(y[:5], seed=3))


def test_pairs_of_a_window_hold_all_that_its_moments_need():
    for graph in (GRID, POINTS, DependencyGraph.grid((7, 9), periodic=True)):
        pairs, table = window_pairs(graph, 2, 2).toarray() > 0, predecessors(graph, 2)
        for index in table.index:  # with what is later where an axis closes, which averages over vertices read
            members = (np.unique(index)[:, None] * 2 + np.arange(2)).ravel()
            assert pairs[np.ix_(members, members)].all()


def test_monotone_gaps_have_the_estimates_of_anderson():
    """x_1 always, x_2 sometimes: the likelihood factorises, and its maximum is a regression (JASA 52, 1957)."""
    rng = np.random.default_rng(2)
    x = rng.normal(size=(80, 2)) @ np.array([[1.0, 0.7], [0.0, 0.5]]) + [3.0, -1.0]
    x[30:, 1] = np.nan
    samples = Samples(x[..., None], DependencyGraph.chain(2))
    fit = build_field(expectation(samples, 1, Pooling(0.0), most=400).samples, 1, Pooling(0.0))
    first, both = x[:, 0], x[:30]
    slope = np.cov(both.T, ddof=0)[0, 1] / both[:, 0].var()
    mean = [first.mean(), both[:, 1].mean() + slope * (first.mean() - both[:, 0].mean())]
    rest = (both[:, 1] - both[:, 1].mean() - slope * (both[:, 0] - both[:, 0].mean())).var()
    variance, across = first.var(), slope * first.var()
    truth = np.array([[variance, across], [across, rest + slope**2 * variance]])
    scale = fit.scale.ravel()
    np.testing.assert_allclose(fit.center.ravel(), mean, atol=2e-3)
    np.testing.assert_allclose(fit.field.covariance() * np.outer(scale, scale), truth, atol=4e-3)


@pytest.mark.parametrize("graph", [DependencyGraph.chain(12), GRID], ids=["chain", "grid"])
def test_iterations_raise_the_likelihood_of_what_is_observed(graph):
    """Every one of them, since the unpooled fit of the expected moments maximises their likelihood."""
    samples = Samples(with_gaps(draws(graph, 80, 1)), graph)
    fit, pooling = build_field(samples, 1, Pooling(0.0)), Pooling(0.0)
    pairs, losses = window_pairs(graph, 1, 1), []
    for _ in range(6):
        found, loss = expected(samples, fit, pairs)
        np.testing.assert_array_equal(loss, observed_loss(samples, fit))
        losses.append(loss.mean())
        fit = build_field(found, 1, pooling)
    assert losses[-1] < losses[0] - 1e-3
    assert (np.diff(losses) < 1e-12).all()


def test_few_gaps_cost_little_and_pooling_less():
    """KL of 30 % missing over that of the complete fit, 1.7 and 1.4 in the mean over six data sets; here of two."""
    chain = AutoregressiveChain(0.8, 100)
    truth = chain.covariance()
    for pooling, most in ((Pooling(0.0), 2.2), (Pooling(1.0), 2.2)):
        ratio = []
        for seed in range(2):
            x = chain.sample(300, random_state=seed)
            found = expectation(Samples(with_gaps(x, 0.3, 100 + seed), chain.graph), 2, pooling)
            fits = (build_field(s, 2, pooling) for s in (Samples(x, chain.graph), found.samples))
            ratio.append([gaussian_kl(truth, f.field.covariance() * f.scale.ravel() * f.scale) for f in fits])
        assert np.divide(*np.sum(ratio, axis=0)[::-1]) < most


def test_complete_samples_are_fitted_as_before():
    """A mask without gaps changes no bit; one gap in 1600 values changes losses by little, by another path."""
    x = draws(GRID, 40)
    plain, masked = Samples(x, GRID), Samples(x, GRID, np.ones(x.shape, dtype=bool))
    one, other = (build_field(s, 2, Pooling(0.4, 1.0)) for s in (plain, masked))
    np.testing.assert_array_equal(one.field.factor.matrix.data, other.field.factor.matrix.data)
    tables = [select_field(s, radius=1, folds=2).table for s in (plain, masked)]
    assert tables[0] == tables[1]
    gap = Samples(np.where(np.arange(1600).reshape(x.shape) == 777, np.nan, x), GRID)
    for radius, pooling in ((1, Pooling(0.0)), (2, Pooling(0.5, 1.4)), (0, Pooling(1.0, location=Pooling(0.0)))):
        losses = [select_field(s, radius=radius, pooling=pooling).choice.loss for s in (plain, gap)]
        assert losses[1] == pytest.approx(losses[0], abs=0.01)


def test_moments_with_a_spread_follow_standardisation_and_subgraphs():
    samples = expectation(Samples(with_gaps(draws(GRID)), GRID), 1, Pooling(0.3), most=2).samples
    center, scale = location_and_scale(samples, Pooling(0.0))
    y = samples.standardized(center, scale)
    index = predecessors(GRID, 1).index
    blocks = second_moments(y, index)
    np.testing.assert_allclose(np.diagonal(blocks, axis1=1, axis2=2)[:, :2], 1.0)
    windows, units = samples.values - center, scale[index].reshape(len(index), -1)
    plain = second_moments(samples.with_values(windows), index)
    np.testing.assert_array_equal(samples.with_values(windows).observed is None, True)
    extra = blocks * units[:, :, None] * units[:, None] - plain
    row = (index[:, :, None] * 2 + np.arange(2)).reshape(len(index), -1)
    np.testing.assert_allclose(extra, samples.spread.toarray()[row[:, :, None], row[:, None]], atol=1e-12)
    some = np.arange(20) % 3 > 0
    part = samples.at(some)
    np.testing.assert_array_equal(part.spread.diagonal(), samples.spread.diagonal().reshape(20, 2)[some].ravel())
    with pytest.raises(ValueError, match="samples with a spread cannot be divided"):
        samples.take(np.arange(3))


def test_moments_of_available_cases_are_those_of_the_values_there():
    x = with_gaps(draws(GRID))
    moments = sample_moments(Samples(x, GRID))
    np.testing.assert_allclose(moments.mean, np.nanmean(x, axis=0))
    np.testing.assert_allclose(moments.variance, np.nanvar(x, axis=0))
    y = (x - moments.mean) / np.sqrt(moments.variance)
    block = second_moments(Samples(y, GRID), np.array([[0, 1]]))[0]
    assert block[0, 2] == pytest.approx(np.nanmean(y[:, 0, 0] * y[:, 1, 0]), abs=0.02)


CASES = {
    "two channels": (GRID, 2, False),
    "points": (POINTS, 1, False),
    "in order of time": (GRID, 1, True),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_held_out_losses_tell_localities_apart_and_drawn_values_are_sound(case):
    """The held-out loss is below that of independent values, and the completed samples have the law's moments."""
    graph, channels, ordered = CASES[case]
    rng = np.random.default_rng(3)
    x = draws(graph, 60, channels)
    x = x + 3 * rng.normal(size=(60, 1, channels))
    samples = Samples(with_gaps(x), graph, ordered=ordered)
    alone, chosen = (select_field(samples, radius=radius, pooling=Pooling(0.5), folds=2).choice for radius in (0, 1))
    assert math.isfinite(chosen.loss)
    assert chosen.loss < alone.loss - 0.05
    found = expectation(samples, chosen.radius, chosen.pooling)
    fit = build_field(found.samples, chosen.radius, chosen.pooling)
    drawn = completed(samples, fit, 0)
    assert not drawn.incomplete
    assert np.array_equal(drawn.values[samples.observed], samples.values[samples.observed])
    variance = drawn.standardized(fit.center, fit.scale).values.var()
    assert 0.8 < variance < 1.2


def chain_with_gaps(n_samples: int = 80, share: float = 0.2) -> np.ndarray:
    return with_gaps(AutoregressiveChain(0.8, 15).sample(n_samples, random_state=4), share)[..., 0] * 3 + 5


def test_the_estimator_fits_stores_and_reports_gaps(tmp_path):
    x = chain_with_gaps()
    x[15:, 9] = np.nan
    x[7] = np.nan
    with pytest.warns(UserWarning, match="1 of 80 samples have no value at all, first number 7"):
        model = nf.LocalizedDiffusion(radius=1, pooling=0.5, random_state=0).fit(x)
    missing = model.fit_report_.missing
    assert missing.share == pytest.approx(np.isnan(np.delete(x, 7, axis=0)).mean())
    assert missing.n_observed == tuple(np.count_nonzero(~np.isnan(x), axis=0).tolist())
    assert missing.few == (9,)
    assert missing.inflation == pytest.approx((79 / np.array(missing.n_observed)).mean())
    assert "No network was trained; method='hybrid' trains one regardless" in model.fit_report_.reason
    model.save(tmp_path / "model")
    again = nf.load(tmp_path / "model")
    assert again.fit_report_.missing == missing
    assert again.digest_ == model.digest_
    summary = model.report(tmp_path / "page.html", x[:40])
    assert summary["missing"]["few"] == 1
    assert summary["data"]["drawn"] == pytest.approx(np.isnan(np.delete(x[:40], 7, axis=0)).mean(), abs=0.03)
    assert "How much of the training data was observed" in (tmp_path / "page.html").read_text()


def test_land_stays_land_and_gaps_are_filled():
    field = xr.DataArray(chain_with_gaps(), dims=("time", "x"), name="level", attrs={"units": "m"})
    field[:, 3] = np.nan
    model = nf.LocalizedDiffusion(method="gaussian", radius=1, pooling=1.0, random_state=0).fit(field)
    assert model.graph_.n_vertices == 14
    filled = model.impute(field, random_state=0)
    assert np.isnan(filled).sum() == 80
    np.testing.assert_array_equal(np.isnan(filled[0]).all(dim="time"), np.arange(15) == 3)


VERTEX, SAMPLE = np.arange(15), np.arange(80)[:, None]
REFUSED = {
    "few values": (
        np.where((VERTEX == 4) & (SAMPLE > 3), np.nan, 1.0),
        {},
        "at least 5 .* first column.4. .[1-4] values",
    ),
    "not allowed": (1.0, {"missing": "error"}, "contains NaN in some samples"),
    "another word": (1.0, {"missing": "drop"}, "missing must be 'allow' or 'error', got 'drop'"),
    "constant where observed": (np.where(VERTEX == 4, 0.0, 1.0), {}, "constant at 1 of 15 vertices"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refusals(case):
    factor, options, message = REFUSED[case]
    with pytest.raises(ValueError, match=message):
        nf.LocalizedDiffusion(method="gaussian").fit(chain_with_gaps() * factor, **options)


def test_a_loop_of_fits_and_completions_is_stable():
    """The variance of the record stays within 15 % through three rounds of fit, impute, refit."""
    x = chain_with_gaps(60, 0.3)
    record, spread = x, np.nanstd(x)
    for round_ in range(3):
        model = nf.LocalizedDiffusion(method="gaussian", radius=1, pooling=1.0, random_state=0).fit(record)
        record = model.impute(x, random_state=round_)[0]
        assert abs(np.std(record) / spread - 1) < 0.15
        assert abs(model.sample(200, random_state=1).std() / spread - 1) < 0.15
