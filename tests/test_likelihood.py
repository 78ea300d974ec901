"""Densities by the probability flow: of normal laws known, of networks normalised; what an estimator says of fields."""

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import xarray as xr

import nearfield as nf
from nearfield.distribution import DiffusionModel
from nearfield.fitting.closed_form import fit_field, fit_windowed
from nearfield.fitting.pooling import Pooling
from nearfield.fitting.recipe import Recipe
from nearfield.graph import DependencyGraph
from nearfield.process import time_of
from nearfield.samples import Samples
from nearfield.sampling import likelihood
from nearfield.sampling.likelihood import FlowDensity
from nearfield.score.field import GaussianField
from nearfield.score.gaussian import WindowedGaussianScore, WindowSpectrum
from nearfield.score.hybrid import HybridScore, NetworkScore
from nearfield.score.stencil import StencilNetwork
from nearfield.score.switch import SwitchedScore
from test_score_contract import stirred

D = 12
COVARIANCE = 0.7 ** np.abs(np.subtract.outer(np.arange(D), np.arange(D)))


def normal_score() -> WindowedGaussianScore:
    """Windows that hold every vertex: the exact score of the normal law."""
    index = np.array([[j, *(i for i in range(D) if i != j)] for j in range(D)])
    bases = [np.linalg.eigh(COVARIANCE[np.ix_(row, row)]) for row in index]
    spectrum = WindowSpectrum(index, *(np.stack(part) for part in zip(*bases, strict=True)), np.arange(D))
    return WindowedGaussianScore({D: spectrum}, ((1.0, D),))


def normal_samples(n: int) -> tuple[np.ndarray, np.ndarray]:
    x = np.random.default_rng(0).multivariate_normal(np.zeros(D), COVARIANCE, n, method="cholesky")
    log_density = -0.5 * (
        np.linalg.slogdet(2 * np.pi * COVARIANCE)[1] + (x @ np.linalg.inv(COVARIANCE) * x).sum(axis=1)
    )
    return x[..., None], log_density


def switched(choice: tuple[tuple[float, bool], ...], n: int = 9) -> SwitchedScore:
    graph = DependencyGraph.chain(n)
    x = Samples(np.random.default_rng(0).normal(size=(60, n, 1)).cumsum(axis=1) / 2, graph)
    field, gaussian = fit_field(x, 1, Pooling(1.0))[2], fit_windowed(x, ((1.0, 2),), Pooling(1.0))[2]
    network = stirred(StencilNetwork(graph, 1, 1, 2, width=6))
    return SwitchedScore(field, HybridScore(network, gaussian, np.full((4, 1), 0.2)), choice)


LEVELS = (time_of(0.1), time_of(0.4), time_of(10.0))


def test_the_flow_of_a_normal_law_has_its_density():
    """30 steps err by .003 nats at most, and most of that is the normal law at the end of the schedule."""
    x, exact = normal_samples(40)
    found = FlowDensity().log_prob(normal_score(), x, float(np.linalg.eigvalsh(COVARIANCE)[-1]))
    np.testing.assert_allclose(found.values, exact, rtol=0, atol=0.003)
    assert found.step_error < 0.003
    assert found.n_products == 0
    np.testing.assert_array_equal(found.standard_error, 0.0)


def test_the_error_of_the_steps_is_told():
    """What half the steps change is at least what the steps err by, and both fall fast."""
    x, _ = normal_samples(16)
    finest = FlowDensity(120).log_prob(normal_score(), x).values
    found = {steps: FlowDensity(steps).log_prob(normal_score(), x) for steps in (12, 24, 48)}
    errors = {steps: float(np.sqrt(np.mean((each.values - finest) ** 2))) for steps, each in found.items()}
    for steps, each in found.items():
        assert errors[steps] < each.step_error
    assert errors[48] < errors[24] / 8 < errors[12] / 64


def test_a_field_is_exact():
    field = switched(((1.0, False),)).field
    x = np.random.default_rng(1).normal(size=(5, 9, 1))
    for score in (field, switched(tuple((t, False) for t in LEVELS))):
        found = FlowDensity().log_prob(score, x)
        np.testing.assert_allclose(found.values, field.log_prob(x), rtol=1e-11)
        assert found.step_error == 0.0


@pytest.mark.parametrize("choice", [(False, True, False), (True, False, True)])
def test_a_density_is_normalised_through_changes_of_expert(choice):
    """Its integral over a fine grid is 1, up to the steps, which change it by 1e-5."""
    score = switched(tuple(zip(LEVELS, choice, strict=True)), n=2)
    axis = np.linspace(-7, 7, 51)
    x = np.stack(np.meshgrid(axis, axis, indexing="ij"), axis=-1).reshape(-1, 2, 1)
    found = FlowDensity().log_prob(score, x).values
    assert abs(np.exp(found).sum() * (axis[1] - axis[0]) ** 2 - 1) < 1e-4


def test_a_network_alone_is_normalised():
    score = NetworkScore(stirred(StencilNetwork(DependencyGraph.chain(1), 1, 1, width=6)))
    axis = np.linspace(-8, 8, 161)
    found = FlowDensity().log_prob(score, axis[:, None, None]).values
    assert abs(np.exp(found).sum() * (axis[1] - axis[0]) - 1) < 5e-5


def test_random_signs_agree_within_their_error(monkeypatch):
    """The mean square error of 320 samples is that told within 4 of its standard errors, sqrt(2 / 320)."""
    score, x = switched(tuple(zip(LEVELS, (True, True, False), strict=True))), np.repeat(normal_samples(40)[0], 8, 0)
    x = x[:, :9]
    exact, random = (FlowDensity(8, divergence=name).log_prob(score, x) for name in ("exact", "random"))
    ratio = np.mean((random.values - exact.values) ** 2) / np.mean(random.standard_error**2)
    assert abs(ratio - 1) < 4 * np.sqrt(2 / 320)
    monkeypatch.setattr(likelihood, "MEMORY", 7 * 3 * score.numbers_per_sample)  # batches of 7
    part = FlowDensity(8, divergence="random").log_prob(score, x[:10]).values
    np.testing.assert_allclose(part, random.values[:10], rtol=1e-10, atol=1e-10)


def test_auto_takes_random_signs_where_colors_are_many(monkeypatch):
    score = switched(((1.0, True),))
    assert FlowDensity(6).log_prob(score, np.zeros((1, 9, 1))).n_products == 3
    monkeypatch.setattr(likelihood, "MOST_PRODUCTS", 2)
    assert FlowDensity(6).log_prob(score, np.zeros((1, 9, 1))).n_products == 2
    with pytest.warns(UserWarning, match=r"random signs, with a standard error of \d"):
        DiffusionModel(score).log_prob(np.zeros((1, 9, 1)))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"steps": 5}, "steps must be at least 6, got 5"),
        ({"n_signs": 1}, "n_signs must be at least 2, got 1"),
        ({"divergence": "hutchinson"}, 'divergence must be "auto", "exact" or "random"'),
    ],
)
def test_bad_settings_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        FlowDensity(**arguments)


def test_no_samples_have_no_densities():
    assert FlowDensity().log_prob(switched(((1.0, True),)), np.zeros((0, 9, 1))).values.shape == (0,)


def test_an_estimator_scores_by_the_law_that_draws():
    x = np.exp(normal_samples(40)[0][..., 0])
    recipe = Recipe(steps=20, check_every=10)
    model = nf.LocalizedDiffusion(
        method="hybrid", radius=1, pooling=1.0, marginal="log", recipe=recipe, random_state=0
    ).fit(x)
    z = model.marginal_(x[..., None])
    volume = model.marginal_.log_abs_det_jacobian(x[..., None]).sum(axis=(1, 2))
    expected = FlowDensity().log_prob(model.score_, z, model.model_.law.largest_eigenvalue).values + volume
    np.testing.assert_allclose(model.score_samples(x), expected, rtol=1e-12)
    x[0, 0] = np.nan
    with pytest.raises(ValueError, match="X must have no missing values for the density of a network"):
        model.score_samples(x)


@pytest.fixture(scope="module")
def model() -> nf.LocalizedDiffusion:
    data = normal_samples(200)[0][..., 0]
    return nf.LocalizedDiffusion(method="gaussian", radius=2, marginal="log", random_state=0).fit(np.exp(data))


def test_the_density_of_partial_fields_is_that_of_what_is_there(model):
    """It is the integral over what is not."""
    x = np.exp(normal_samples(3)[0][..., 0])
    axis = np.linspace(-12, 12, 241)
    grid = np.exp(axis)
    every = np.repeat(x[:1], len(grid), axis=0)
    every[:, 4] = grid
    field, marginal = model.score_, model.marginal_
    density = field.log_prob(marginal(every[..., None])) + marginal.log_abs_det_jacobian(every[..., None]).sum((1, 2))
    expected = np.log(np.trapezoid(np.exp(density) * grid, axis))
    complete = model.score_samples(x)
    x[0, 4] = np.nan
    np.testing.assert_allclose(model.score_samples(x)[0], expected, rtol=1e-9)
    np.testing.assert_allclose(model.score_samples(x)[1:], complete[1:], rtol=1e-12)


def test_surprise_is_that_of_each_value_given_the_others(model):
    """By differences of the joint density of the value in place and any other one, integrated."""
    x = np.exp(normal_samples(1)[0][..., 0])
    axis = np.linspace(-12, 12, 241)
    grid = np.exp(axis)
    every = np.repeat(x, len(grid), axis=0)
    every[:, 7] = grid
    field, marginal = model.score_, model.marginal_
    joint = [
        field.log_prob(marginal(y[..., None])) + marginal.log_abs_det_jacobian(y[..., None]).sum((1, 2))
        for y in (x, every)
    ]
    expected = np.log(np.trapezoid(np.exp(joint[1]) * grid, axis)) - joint[0][0]
    np.testing.assert_allclose(model.surprise(x)[0, 7], expected, rtol=1e-9)


def test_surprise_is_labelled_like_the_data():
    rng = np.random.default_rng(0)
    field = xr.DataArray(
        rng.normal(size=(60, 5, 4)),
        dims=("time", "y", "x"),
        coords={"y": np.arange(5.0)},
        name="t2m",
        attrs={"units": "K", "standard_name": "air_temperature", "long_name": "temperature"},
    )
    model = nf.LocalizedDiffusion(method="gaussian", radius=1, random_state=0).fit(field, sample_dim="time")
    other = field[:3].transpose("x", "time", "y").copy()
    other[1, 2, 3] = np.nan
    found = model.surprise(other)
    assert found.dims == other.dims
    assert found.attrs == {"long_name": "surprise of temperature", "units": "nat"}
    assert other.attrs["units"] == "K"
    np.testing.assert_array_equal(np.isnan(found), np.isnan(other))
    xr.testing.assert_equal(found.y, other.y)
    np.testing.assert_allclose(found[:, 0].T, model.surprise(field[:1])[0].transpose("y", "x"), rtol=1e-12)

    pair = xr.Dataset({"a": field, "b": field + rng.normal(size=field.shape)})
    model = nf.LocalizedDiffusion(method="gaussian", radius=1, random_state=0).fit(pair, sample_dim="time")
    found = model.surprise(pair)
    assert [found[name].attrs["units"] for name in ("a", "b")] == ["nat", "nat"]
    assert found.a.dims == pair.a.dims


def test_surprise_of_a_table_keeps_its_rows_and_columns():
    rows = pd.date_range("2020-01-01", periods=60, name="day")
    table = pd.DataFrame(np.random.default_rng(0).normal(size=(60, 5)), columns=list("abcde"), index=rows)
    model = nf.LocalizedDiffusion(method="gaussian", radius=1, random_state=0).fit(table)
    found = model.surprise(table)
    pd.testing.assert_index_equal(found.index, rows)
    assert found.columns.tolist() == list("abcde")
    np.testing.assert_allclose(found.to_numpy(), model.surprise(table)[list("abcde")].to_numpy())


def test_surprise_needs_a_field():
    x = normal_samples(30)[0][..., 0]
    model = nf.LocalizedDiffusion(method="windowed", radius=1, pooling=1.0, random_state=0).fit(x)
    with pytest.raises(ValueError, match="Gaussian field"):
        model.surprise(x)


def test_a_large_field_beside_a_network_is_scored_with_random_signs(monkeypatch):
    """As fields are whose covariance is too large to decompose."""
    monkeypatch.setattr("nearfield.score.spectrum.LARGEST_SPECTRUM", 4)
    white = GaussianField(sp.eye_array(9, format="csr"), np.arange(9))
    x = np.random.default_rng(0).normal(size=(4, 9, 1))
    found = FlowDensity().log_prob(white, x)
    np.testing.assert_allclose(found.values, white.log_prob(x), atol=1e-3)  # signs are exact of diagonal matrices
