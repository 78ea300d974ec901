"""Log-densities and conditional draws that count the uncertainty of the parameters, and what is chosen of them."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import scipy.sparse as sp
import scipy.stats

import nearfield as nf
from nearfield import LocalizedDiffusion
from nearfield.datasets import AutoregressiveChain, GaussianMarkovField
from nearfield.fitting.band import choose_band
from nearfield.fitting.closed_form import whitening_factor
from nearfield.fitting.covariance import local_blocks
from nearfield.fitting.elimination import elimination_order, predecessors
from nearfield.fitting.pooling import Pooling
from nearfield.fitting.predictive import choose_predictive
from nearfield.fitting.regression import regress
from nearfield.graph import DependencyGraph
from nearfield.samples import Samples
from nearfield.score.field import CoarseLaw, GaussianField
from nearfield.score.predictive import PredictiveField


def chain_law(length: int, channels: int = 1, coarse: CoarseLaw | None = None, **numbers: float) -> PredictiveField:
    """A law of a chain of radius 2 fitted to made-up data, with the moments it was fitted to."""
    graph = DependencyGraph.chain(length)
    noise = np.random.default_rng(length).normal(size=(40, length, channels)).cumsum(axis=1)
    y = noise @ (np.eye(channels) + 0.5)
    table = predecessors(graph, 2)
    blocks = np.where(
        np.repeat(table.present, channels, 1)[:, :, None] & np.repeat(table.present, channels, 1)[:, None],
        local_blocks(y, table.index),
        np.eye(table.index.shape[1] * channels),
    )
    regression, _ = regress(blocks, channels)
    order = np.arange(length)
    field = GaussianField(whitening_factor(regression, table, order), order, channels, 2, coarse)
    root = np.linalg.cholesky(blocks[:, channels:, channels:])
    return PredictiveField(field, table.index[:, 1:], root, **({"weight": 2.0, "tail": 6.0, "n_samples": 40} | numbers))


def test_a_single_variable_is_students():
    field = GaussianField(sp.csr_array([[1 / 1.7]]), np.arange(1))
    law = PredictiveField(field, np.empty((1, 0), int), np.empty((1, 0, 0)), weight=1.0, tail=9.0, n_samples=10)
    x = np.linspace(-6, 6, 7)
    expected = scipy.stats.t(9.0, scale=1.7 * np.sqrt(1.1)).logpdf(x)
    np.testing.assert_allclose(law.log_prob(x.reshape(-1, 1, 1)), expected, rtol=1e-12)


def test_a_conditional_is_the_predictive_of_a_regression_with_uncertain_parameters():
    law = chain_law(3, weight=0.2)
    x = np.array([2.0, -3.0, 1.0])
    rng, row = np.random.default_rng(0), law.field.factor.matrix.toarray()[2]
    v, b = row[2] ** -2, -row[:2] / row[2]
    moments = (law.root[2] @ law.root[2].T).numpy()
    moments = moments if law.index[2, 0] == 0 else moments[::-1, ::-1]
    # the last variable given both others: the mean of Gaussian densities over draws of the parameters
    variance = law.tail * v / 2 / rng.gamma(law.tail / 2, size=400_000)
    slope = rng.multivariate_normal(np.zeros(2), np.linalg.inv(0.2 * 40 * moments), 400_000)
    shift = rng.normal(size=400_000) / np.sqrt(40)
    mean = x[:2] @ b + np.sqrt(variance) * (slope @ x[:2] + shift)
    expected = np.log(scipy.stats.norm(mean, np.sqrt(variance)).pdf(x[2]).mean())
    rest = law.log_prob(x.reshape(1, 3, 1))[0] - _first_two(law, x)
    assert rest == pytest.approx(expected, abs=0.01)
    plain = scipy.stats.t(law.tail, x[:2] @ b, np.sqrt(v * (1 + 1 / 40))).logpdf(x[2])
    assert abs(rest - plain) > 0.05  # the leverage is seen


def _first_two(law: PredictiveField, x: np.ndarray) -> float:
    field = GaussianField(sp.csr_array(law.field.factor.matrix[:2, :2]), np.arange(2), 1, 2)
    shorter = PredictiveField(field, law.index[:2], law.root[:2], law.weight, law.tail, law.n_samples)
    return float(shorter.log_prob(x[:2].reshape(1, 2, 1))[0])


def test_channels_are_conditioned_on_one_after_the_other():
    law = chain_law(3, channels=2)
    x = np.random.default_rng(1).normal(size=(5, 3, 2))
    factor, flat = law.field.factor.matrix.toarray(), x.reshape(5, 6)
    # second channel of the last vertex: its regressors are all four values before and the first channel
    members = (law.index[2].numpy()[:, None] * 2 + np.arange(2)).ravel()
    others = (law.root[2] @ law.root[2].T).numpy()
    v = factor[4, 4] ** -2
    cross = -factor[4, members] * np.sqrt(v) @ others
    joint = np.block([[others, cross[:, None]], [cross[None], v + cross @ np.linalg.solve(others, cross)]])
    regressors = np.concatenate([flat[:, members], flat[:, 4:5]], axis=1)
    lever = np.einsum("sm,sm->s", regressors, np.linalg.solve(joint, regressors.T).T)
    scale = np.sqrt(1 + lever / 80 + 1 / 40) / factor[5, 5]
    expected = scipy.stats.t(6.0, -flat[:, :5] @ factor[5, :5] / factor[5, 5], scale).logpdf(flat[:, 5])
    found = law.log_prob(x) - _without_last(law, x)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def _without_last(law: PredictiveField, x: np.ndarray) -> np.ndarray:
    """Density of all but the last variable, by numerical integration over it."""
    grid = np.tan(np.linspace(-np.pi / 2, np.pi / 2, 20_003)[1:-1])
    step = np.gradient(grid)
    found = []
    for one in x:
        many = np.repeat(one[None], len(grid), axis=0)
        many[:, -1, -1] = one[-1, 0] + 3 * grid
        found.append(np.log((np.exp(law.log_prob(many)) * step * 3).sum()))
    return np.array(found)


def corrected_chain() -> PredictiveField:
    label = np.array([0, 0, 0, 1, 1, 1])
    means = GaussianField(sp.csr_array([[0.8, 0.0], [-0.5, 1.2]]), np.arange(2))
    return chain_law(6, coarse=CoarseLaw(label, 3, np.full((2, 1), 2.0), means))


@pytest.mark.parametrize(
    "law", [chain_law(4), chain_law(2, channels=2), corrected_chain()], ids=["one", "two", "coarse"]
)
def test_it_is_a_density(law):
    covariance = 1.5 * law.field.covariance()
    around = scipy.stats.multivariate_t(shape=covariance, df=3, seed=0)
    x = around.rvs(200_000)
    ratio = np.exp(law.log_prob(x.reshape(len(x), law.field.n_vertices, -1)) - around.logpdf(x))
    error = ratio.std() / np.sqrt(len(x))
    assert error < 0.01
    assert ratio.mean() == pytest.approx(1.0, abs=4 * error)


def test_certain_parameters_leave_the_field():
    law = corrected_chain()
    sure = PredictiveField(law.field, law.index, law.root, 1e9, 1e7, 10**9)
    x = law.field.sample(4, seed=0)
    np.testing.assert_allclose(sure.log_prob(x), law.field.log_prob(x), atol=1e-4)
    again = pickle.loads(pickle.dumps(law))
    np.testing.assert_array_equal(again.log_prob(x), law.log_prob(x))


@pytest.mark.parametrize("seed", [0, 1])  # one law, and nearly
def test_the_field_scores_stationary_gaussian_data(seed):
    x = AutoregressiveChain(0.8, 100).sample(100, random_state=seed)[..., 0]
    model = LocalizedDiffusion(method="gaussian", random_state=0).fit(x)
    assert model.predictive_ is None
    np.testing.assert_array_equal(
        model.score_samples(x),
        model.score_.log_prob(model.marginal_(x[..., None]))
        + model.marginal_.log_abs_det_jacobian(x[..., None]).sum(axis=(1, 2)),
    )


@pytest.fixture(scope="module")
def few():
    law = GaussianMarkovField.nonstationary((12, 12))
    train, test = (law.sample(n, random_state=seed)[..., 0].reshape(n, 12, 12) for n, seed in ((40, 0), (200, 1)))
    return LocalizedDiffusion(method="gaussian", radius=3, pooling=0.2, random_state=0).fit(train), train, test


def test_few_samples_of_different_laws_are_scored_by_students_t(few):
    model, _, test = few
    assert model.predictive_ is not None
    assert "Student's t" in model.fit_report_.reason
    z = model.marginal_(test.reshape(len(test), -1, 1))
    gain = (model.predictive_.log_prob(z) - model.score_.log_prob(z)) / z.shape[1]
    assert gain.mean() > 0.03
    assert model.score(test) == pytest.approx(
        (
            model.predictive_.log_prob(z)
            + model.marginal_.log_abs_det_jacobian(test.reshape(len(test), -1, 1)).sum(axis=(1, 2))
        ).mean()
    )


def test_model_files_keep_what_scores(few, tmp_path):
    model, _, test = few
    model.save(tmp_path / "model")
    loaded = nf.load(tmp_path / "model")
    np.testing.assert_array_equal(loaded.score_samples(test), model.score_samples(test))
    np.testing.assert_array_equal(
        model.sample(2, random_state=0).ravel(),
        model.marginal_.inv(model.score_.sample(2, seed=0)).ravel(),
    )
    assert loaded.digest_ == model.digest_


@pytest.mark.parametrize(
    "graph", [DependencyGraph.grid((6, 6)), DependencyGraph.knn(np.random.default_rng(0).uniform(size=(36, 2)), 4)]
)
@pytest.mark.parametrize("radius", [0, 2])
def test_any_graph_any_radius_and_channels(graph, radius):
    y = np.random.default_rng(0).standard_t(3, size=(30, 36, 2))
    white = GaussianField(sp.eye_array(72, format="csr"), elimination_order(graph), 2)
    law, said = choose_predictive(Samples(y, graph, standard=(True, True)), white, radius, Pooling(0.5))
    assert law is not None
    assert np.isfinite(law.log_prob(y)).all()
    assert "Student" in said


@pytest.mark.parametrize(
    "law", [chain_law(6), chain_law(3, channels=2), corrected_chain()], ids=["one", "two", "coarse"]
)
def test_conditional_variances_are_those_of_the_dense_covariance(law):
    field = law.field
    observed = np.ones((field.n_vertices, field.n_channels), dtype=bool)
    observed[[0, 2]] = False
    missing, seen = np.flatnonzero(~observed), np.flatnonzero(observed)
    c = field.covariance()
    expected = c[np.ix_(missing, missing)] - c[np.ix_(missing, seen)] @ np.linalg.solve(
        c[np.ix_(seen, seen)], c[np.ix_(seen, missing)]
    )
    found = field.conditional(observed).variance(~observed)
    np.testing.assert_allclose(found, np.diagonal(expected), rtol=1e-8)
    one = np.zeros_like(observed)
    one[2, 0] = True
    np.testing.assert_allclose(field.conditional(observed).variance(one), found[field.n_channels], rtol=1e-8)


def test_bands_of_a_law_that_is_known_stay_as_they_are():
    x = AutoregressiveChain(0.8, 100).sample(100, random_state=0)
    assert choose_band(Samples(x, DependencyGraph.chain(100), standard=(True,)), 1, Pooling(1.0), None) == (1.0, "")


def test_a_piece_stands_for_a_large_graph():
    x = np.random.default_rng(0).normal(size=(20, 2304, 1))
    assert choose_band(Samples(x, DependencyGraph.grid((48, 48)), standard=(True,)), 1, Pooling(1.0), None) == (1.0, "")
    factor, said = choose_band(Samples(x, DependencyGraph.grid((48, 48)), standard=(True,)), 2, Pooling(0.0), None)
    assert factor > 1.3
    assert f"{factor:.3g}" in said


def test_bands_of_an_overfitted_field_widen_to_cover(few):
    model, _, test = few
    assert model.band_ > 1.2
    assert "Conditional draws" in model.fit_report_.reason
    observed = np.random.default_rng(0).random((144, 1)) > 0.3
    z = model.marginal_(test.reshape(len(test), -1, 1))
    law = model.score_.conditional(observed)
    squares = (z - law.mean(z))[:, ~observed] ** 2 / law.variance(~observed)
    assert abs(squares.mean() / model.band_ - 1) < 0.5 * (squares.mean() - 1)


def test_conditional_draws_are_the_fields_widened_about_their_mean(few, tmp_path):
    model, _, test = few
    partial = test[:2].copy()
    partial[:, :6] = np.nan
    filled = model.impute(partial, 3, random_state=1)
    np.testing.assert_array_equal(filled[:, :, 6:], np.broadcast_to(partial[:, 6:], filled[:, :, 6:].shape))
    band, mean = model.band_, model.score_.conditional(~np.isnan(partial[0].reshape(-1, 1)))
    z = model.marginal_(np.nan_to_num(partial).reshape(2, -1, 1))
    center = model.marginal_.inv(mean.mean(z)).reshape(2, 12, 12)
    model.save(tmp_path / "model")
    again = nf.load(tmp_path / "model")
    np.testing.assert_array_equal(again.impute(partial, 3, random_state=1), filled)
    again.model_.law.band = 1.0
    plain = again.impute(partial, 3, random_state=1)
    np.testing.assert_allclose(filled - center, np.sqrt(band) * (plain - center), atol=1e-9)
