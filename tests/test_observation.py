"""Observations of fields: every operator, in the units of the data, and what is refused."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import xarray as xr

import nearfield as nf
from nearfield.fitting.recipe import Recipe

GAUSSIAN = {"method": "gaussian", "radius": 2, "pooling": 1.0, "random_state": 0}


def maps(n=80, seed=0, name="t2m"):
    """Temperatures on a map of 6 x 5, with one cell of land."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 8, 7))
    x = 280 + 3 * (x[:, 1:-1, 1:-1] + x[:, :-2, 1:-1] + x[:, 1:-1, 2:])
    x[:, 0, 0] = np.nan
    coords = {"lat": np.arange(60.0, 48.0, -2.0), "lon": np.arange(0.0, 10.0, 2.0)}
    return xr.DataArray(x, dims=("sample", "lat", "lon"), coords=coords, name=name, attrs={"units": "K"})


@pytest.fixture(scope="module")
def model():
    return nf.LocalizedDiffusion(**GAUSSIAN).fit(maps())


@pytest.fixture(scope="module")
def positive():
    x = np.exp(np.random.default_rng(0).normal(size=(200, 30)).cumsum(axis=1)[:, 10:] / 3)
    return nf.LocalizedDiffusion(**GAUSSIAN | {"marginal": "log"}).fit(x)


def law(model):
    """Mean and covariance of the model in the units of its data."""
    scale = model.marginal_.scale.numpy().ravel()
    covariance = model.band_ * model.score_.covariance() * np.outer(scale, scale)
    return model.marginal_.center.numpy().ravel(), covariance


def textbook(model, rows, values, errors):
    mean, covariance = law(model)
    inner = rows @ covariance @ rows.T + model.band_ * np.asarray(errors)
    gain = covariance @ rows.T @ np.linalg.inv(inner)
    return mean + gain @ (values - rows @ mean), np.sqrt(np.maximum(np.diag(covariance - gain @ rows @ covariance), 0))


def agrees(model, observation, rows, values, errors):
    """Mean and deviation are those of the textbook at all vertices with data."""
    posterior = model.condition(observation)
    assert posterior.exact
    mean, std = textbook(model, rows, np.asarray(values), errors)
    present = model.codec_.present
    np.testing.assert_allclose(np.asarray(posterior.mean()).ravel()[present], mean, rtol=1e-9)
    np.testing.assert_allclose(np.asarray(posterior.std()).ravel()[present], std, rtol=1e-7, atol=1e-6)


def unit(*vertices, n=29):
    return np.eye(n)[list(vertices)]


def test_fields_with_gaps_points_and_vertices_are_one(model):
    field = maps(1, seed=5)[0].where(lambda x: (x.lat > 57) & (x.lon < 5))
    values, vertices = (
        np.asarray(field).ravel()[model.codec_.present],
        np.flatnonzero(~np.isnan(field.values.ravel())) - 1,
    )
    rows, known = unit(*vertices), values[~np.isnan(values)]
    errors = np.diag(np.full(len(known), 0.5**2))
    agrees(model, nf.Observation(field, error=0.5), rows, known, errors)
    agrees(model, nf.Observation(field.transpose(), error=0.5), rows, known, errors)
    agrees(model, nf.Observation(field, error=field * 0 + 0.5), rows, known, errors)
    agrees(model, nf.Observation(known, at=vertices, error=np.full(len(known), 0.5)), rows, known, errors)
    frame = field.to_series().dropna().reset_index()
    agrees(model, nf.Observation(frame["t2m"], at=frame[["lon", "lat"]], error=0.5), rows, known, errors)
    places = {"lat": frame.lat + 0.4, "lon": frame.lon - 0.9}
    agrees(model, nf.Observation(frame["t2m"], at=places, error=0.5), rows, known, errors)
    covariance = 0.25 * np.exp(-np.abs(np.subtract.outer(vertices, vertices)))
    agrees(model, nf.Observation(known, at=vertices, error=covariance), rows, known, covariance)
    agrees(model, nf.Observation(field, error=covariance), rows, known, covariance)


def test_exact_values_come_back_to_the_last_bit(model):
    field = maps(1, seed=5)[0].where(lambda x: x.lat > 55)
    posterior = model.condition(nf.Observation(field))
    drawn = posterior.sample(3, random_state=0)
    seen = ~np.isnan(field.values)
    assert (drawn.values[:, seen] == field.values[seen]).all()
    assert (posterior.mean().values[seen] == field.values[seen]).all()
    assert (posterior.std().values[seen] == 0).all()
    assert drawn.dims == ("member", "lat", "lon")
    assert drawn.attrs["units"] == "K"
    filled = model.impute(field, 3, random_state=0)
    np.testing.assert_array_equal(drawn, filled)


def test_averages_bilinear_weights_and_matrices_are_rows(model):
    boxes = nf.average([{"lat": (52, 60), "lon": (0, 2)}, {"lat": (48, 51)}])
    masks = np.zeros((2, 6, 5), dtype=bool)
    masks[0, :5, :2] = masks[1, 5:] = True
    rows = masks.reshape(2, -1)[:, 1:] / masks.reshape(2, -1)[:, 1:].sum(axis=1, keepdims=True)
    values, errors = [281.0, 279.0], np.diag([0.2**2, 0.2**2])
    labels = np.full((6, 5), np.nan)
    labels[:5, :2], labels[5:] = 3, 7
    for operator in (boxes, nf.average(masks), nf.average(labels), rows, sp.csr_array(rows)):
        agrees(model, nf.Observation(values, operator=operator, error=0.2), rows, values, errors)
    agrees(model, nf.Observation([281.0, np.nan], operator=boxes, error=0.2), rows[:1], values[:1], errors[:1, :1])
    weights = np.full((6, 5), 2.0)
    weights[:, 1] = 1.0
    weighted = rows[:1] * weights.ravel()[1:]
    agrees(
        model,
        nf.Observation(values[:1], operator=nf.average(masks[:1], weights), error=0.2),
        weighted / weighted.sum(),
        values[:1],
        errors[:1, :1],
    )
    half = np.zeros((6, 5))
    half[2, 2:4], half[3, 2:4] = (0.375, 0.125), (0.375, 0.125)
    between = nf.Observation([282.0], at={"lat": [55.0], "lon": [4.5]}, operator="bilinear", error=0.1)
    agrees(model, between, half.reshape(1, -1)[:, 1:], [282.0], [[0.01]])
    land = nf.Observation([282.0], at={"lat": [59.0], "lon": [1.0]}, operator="bilinear", error=0.1)
    corner = np.zeros((6, 5))
    corner[0, 1] = corner[1, 0] = corner[1, 1] = 1 / 3
    agrees(model, land, corner.reshape(1, -1)[:, 1:], [282.0], [[0.01]])


def test_several_observations_compose(model):
    one, two = (
        nf.Observation([280.0], at=[3], error=0.3),
        nf.Observation([283.0], operator=np.ones((1, 29)) / 29, error=0.1),
    )
    posterior = model.condition(one, two)
    rows = np.vstack([unit(3), np.ones((1, 29)) / 29])
    mean, _ = textbook(model, rows, np.array([280.0, 283.0]), np.diag([0.09, 0.01]))
    np.testing.assert_allclose(np.asarray(posterior.mean()).ravel()[1:], mean, rtol=1e-9)
    exact = model.condition(nf.Observation([283.0], operator=np.ones((1, 29)) / 29))
    np.testing.assert_allclose(exact.sample(4, random_state=0).mean(("lat", "lon")), 283.0, rtol=1e-12)


def test_draws_have_the_mean_and_deviation_of_the_closed_form(model):
    """2000 draws of 29 vertices, bars at four standard errors: false alarm 1 in 500."""
    posterior = model.condition(nf.Observation([281.0, 279.0], at=[3, 20], error=0.5))
    drawn = posterior.sample(2000, random_state=0)
    z = (drawn.mean("member") - posterior.mean()) / posterior.std() * np.sqrt(2000)
    assert np.abs(z).max() < 4
    assert np.abs(drawn.std("member") / posterior.std() - 1).max() < 4 / np.sqrt(4000)
    band = posterior.quantile((0.05, 0.95))
    np.testing.assert_allclose(band[1] - band[0], 2 * 1.6448536 * posterior.std(), rtol=1e-6)


def test_members_are_moved_as_a_kalman_filter_moves_them(model):
    """Their mean goes by the gain of the model, exactly; their spread is the posterior's, 1 in 500 (three errors)."""
    forecast = model.sample(3000, random_state=5).rename(member="sample")
    observation = nf.Observation([281.0, 279.0], at=[3, 20], error=0.5)
    posterior = model.condition(observation)
    moved = posterior.update(forecast, random_state=0)
    assert moved.dims == forecast.dims
    _, covariance = law(model)
    flat = forecast.values.reshape(3000, -1)[:, 1:]
    gain = np.linalg.solve(
        covariance[np.ix_([3, 20], [3, 20])] / model.band_ + 0.25 * np.eye(2), covariance[[3, 20]] / model.band_
    ).T
    mean = flat.mean(axis=0) + gain @ (np.array([281.0, 279.0]) - flat.mean(axis=0)[[3, 20]])
    np.testing.assert_allclose(moved.values.reshape(3000, -1)[:, 1:].mean(axis=0), mean, rtol=1e-9)
    ratio = np.asarray(moved.std("sample")) / np.asarray(posterior.std()) * np.sqrt(model.band_)
    assert abs(np.nanmean(ratio) - 1) < 0.02
    with pytest.raises(ValueError, match="take draws"):
        model.condition(nf.Observation([281.0], at=[3], above=True)).update(forecast)


def test_the_density_is_that_of_the_draws_units(model):
    """A law of two values: it integrates to 1 over the one that is not known."""
    x = np.random.default_rng(0).normal(size=(60, 2))
    x[:, 1] += x[:, 0]
    pair = nf.LocalizedDiffusion(**GAUSSIAN | {"marginal": "log", "pooling": 0.0}).fit(np.exp(x))
    grid = np.exp(np.linspace(-8, 8, 4001))
    posterior = pair.condition(nf.Observation([2.0], at=[0]))
    density = posterior.log_prob(np.column_stack([np.full(len(grid), 2.0), grid]))
    assert np.trapezoid(np.exp(density), grid) == pytest.approx(1, abs=1e-5)
    assert posterior.log_prob(np.array([[2.1, 1.0]]))[0] == -np.inf


def test_impute_of_nothing_missing_is_the_input_and_an_interval_is_a_band(model):
    x = maps(3, seed=9)
    np.testing.assert_array_equal(model.impute(x, 2, random_state=0)[1], x)
    gappy = x.where(x.lat > 55)
    band = model.impute(gappy, interval=(0.05, 0.5, 0.95))
    assert band.dims[0] == "quantile"
    many = model.impute(gappy, 1500, random_state=0)
    hidden = np.isnan(gappy.values) & ~np.isnan(x.values)
    width = (band[2] - band[0]).values[hidden]
    found = np.subtract(*np.quantile(many.values, (0.95, 0.05), axis=0))[hidden]
    np.testing.assert_allclose(found, width, rtol=0.15)
    np.testing.assert_array_equal(band[0].values[~hidden], gappy.values[~hidden])


def test_bounds_hold_and_intervals_are_two_observations(positive):
    low, high = nf.Observation([2.0, 1.5], at=[3, 8], above=True), nf.Observation([2.2], at=[3], below=True)
    posterior = positive.condition(low, high, nf.Observation([0.5], at=[12]))
    assert not posterior.exact
    drawn = posterior.sample(20, random_state=0, steps=8)
    assert ((drawn[:, 3] >= 2.0) & (drawn[:, 3] <= 2.2)).all()
    assert (drawn[:, 8] >= 1.5).all()
    assert (drawn[:, 12] == 0.5).all()
    np.testing.assert_allclose(posterior.sample(20, random_state=0, steps=8, batch_size=7), drawn, rtol=1e-9)
    with pytest.raises(ValueError, match="closed form"):
        posterior.log_prob(drawn)


def test_errors_go_through_a_bent_marginal(positive):
    """Small ones to first order, in closed form; large ones by their likelihood."""
    small = positive.condition(nf.Observation([2.0], at=[3], error=0.01))
    assert small.exact
    assert small.std()[3] == pytest.approx(0.01, rel=0.01)
    assert small.mean()[3] == pytest.approx(2.0, rel=1e-3)
    large = positive.condition(nf.Observation([2.0], at=[3], error=1.0))
    assert not large.exact
    _, low = positive.marginal_, large.sample(20, random_state=0, steps=8)
    assert (low > 0).all()
    bounded = positive.condition(
        nf.Observation([2.0], at=[3], above=True),
        nf.Observation([1.6], operator=np.ones((1, 5)) @ np.eye(20)[:5] / 5, error=0.02),
    ).sample(20, random_state=0, steps=12)
    assert (bounded[:, 3] >= 2.0).all()
    np.testing.assert_allclose(bounded[:, :5].mean(axis=1), 1.6, atol=0.1)
    averages = positive.condition(
        nf.Observation([2.0, 3.0], operator=np.kron(np.eye(4)[:2], np.ones((1, 5)) / 5), error=0.02)
    )
    means = averages.sample(30, random_state=0, steps=12)[:, :10].reshape(30, 2, 5).mean(axis=2)
    np.testing.assert_allclose(means.mean(axis=0), [2.0, 3.0], atol=0.03)


def test_torch_functions_are_linearised(model):
    """Of a linear function, the law is that of its matrix."""
    linear = nf.Observation([281.0], operator=lambda x: x[1:, 2].mean()[None], error=0.2)
    posterior = model.condition(linear)
    assert not posterior.exact
    drawn = posterior.sample(40, random_state=0, steps=12)
    means = np.asarray(drawn.isel(lat=slice(1, None), lon=2).mean("lat"))
    assert abs(means.mean() - 281.0) < 0.2
    assert means.std() < 0.4


def test_stations_are_found_by_their_places():
    rng = np.random.default_rng(1)
    places = np.column_stack([rng.uniform(44, 55, 30), rng.uniform(0, 18, 30)])
    x = xr.DataArray(
        rng.normal(size=(60, 30)),
        dims=("day", "station"),
        coords={"lat": ("station", places[:, 0]), "lon": ("station", places[:, 1])},
    )
    graph = nf.DependencyGraph.knn(places, 4, metric="haversine")
    stations = nf.LocalizedDiffusion(graph=graph, **GAUSSIAN).fit(x, sample_dim="day")
    at = pd.DataFrame({"lon": places[[4, 7], 1] + 0.01, "lat": places[[4, 7], 0]})
    drawn = stations.condition(nf.Observation([1.5, -2.0], at=at)).sample(2, random_state=0)
    assert (drawn.values[:, [4, 7]] == [1.5, -2.0]).all()
    with pytest.raises(ValueError, match="domain of the model"):
        stations.condition(nf.Observation([1.0], at={"lat": [20.0], "lon": [5.0]}))
    with pytest.raises(ValueError, match="'nearest' for scattered"):
        stations.condition(nf.Observation([1.0], at={"lat": [50.0], "lon": [5.0]}, operator="bilinear"))


def test_variables_of_a_dataset_are_told_by_name():
    pair = xr.Dataset({"t": maps(name="t"), "q": maps(seed=1, name="q").assign_attrs(units="%")})
    two = nf.LocalizedDiffusion(**GAUSSIAN).fit(pair)
    seen = xr.DataArray([50.0, 60.0], dims="obs", name="q", attrs={"units": "%"})
    drawn = two.condition(nf.Observation(seen, at=[3, 5])).sample(2, random_state=0)
    np.testing.assert_array_equal(drawn["q"].values.reshape(2, -1)[:, [4, 6]], [[50.0, 60.0]] * 2)
    with pytest.raises(ValueError, match="name of a variable"):
        two.condition(nf.Observation([1.0], at=[3]))
    with pytest.raises(ValueError, match="units"):
        two.condition(nf.Observation(seen.assign_attrs(units="K"), at=[3, 5]))


def test_a_network_answers_with_its_own_law():
    """impute, condition and sample of one model are one law, whatever the batch."""
    x = np.random.default_rng(0).normal(size=(60, 12)).cumsum(axis=1)
    network = nf.LocalizedDiffusion(method="hybrid", radius=2, pooling=1.0, recipe=Recipe(steps=3), random_state=0).fit(
        x
    )
    gappy = x[:2].copy()
    gappy[:, 3:6] = np.nan
    filled = network.impute(gappy, 2, random_state=0)
    assert filled.shape == (2, 2, 12)
    assert (filled[:, ~np.isnan(gappy)] == gappy[~np.isnan(gappy)]).all()
    one = network.condition(nf.Observation(gappy[0])).sample(2, random_state=0)
    np.testing.assert_allclose(one, filled[:, 0], rtol=1e-6, atol=1e-6)
    assert not np.allclose(network.impute(gappy, 2, random_state=0, method="gaussian"), filled)
    assert network.condition(nf.Observation(gappy[0]), method="gaussian").exact
    assert not network.condition(nf.Observation([1.0], at=[4], error=0.2)).exact


def test_a_network_is_stored_with_its_field(tmp_path):
    x = np.random.default_rng(0).normal(size=(60, 12)).cumsum(axis=1)
    network = nf.LocalizedDiffusion(method="neural", radius=1, pooling=1.0, recipe=Recipe(steps=2), random_state=0).fit(
        x
    )
    network.save(tmp_path / "m.nearfield")
    again = nf.load(tmp_path / "m.nearfield")
    gappy = x[:1].copy()
    gappy[0, 3:6] = np.nan
    np.testing.assert_array_equal(again.impute(gappy, 2, random_state=0), network.impute(gappy, 2, random_state=0))
    larger = network.extend((20,))
    assert larger.condition(nf.Observation([0.5], at=[15])).sample(2, steps=3).shape == (2, 20)


REFUSED = {
    "no observation": ([], "at least one"),
    "outside the domain": ([nf.Observation([1.0], at={"lat": [70.0], "lon": [2.0]})], "domain of the model"),
    "no such vertex": ([nf.Observation([1.0], at=[29])], "outside of the domain"),
    "on land": ([nf.Observation([1.0], at={"lat": [60.0], "lon": [0.0]})], "a cell without data"),
    "of land": ([nf.Observation(maps(1)[0].fillna(280.0))], "training data had none at"),
    "another unit": ([nf.Observation(maps(1)[0].assign_attrs(units="degC"))], "units"),
    "another name": ([nf.Observation(maps(1, name="sst")[0])], "must be the variable 't2m'"),
    "NaN error": ([nf.Observation([280.0], at=[3], error=np.nan)], "got NaN"),
    "negative error": (
        [nf.Observation([280.0, 280.0], at=[3, 4], error=[0.1, -0.2])],
        "at least 0 and finite, got -0.2",
    ),
    "no covariance": ([nf.Observation([280.0, 280.0], at=[3, 4], error=-np.eye(2))], "positive definite"),
    "all missing": ([nf.Observation(maps(1)[0] * np.nan)], "nothing is observed"),
    "all points missing": ([nf.Observation([np.nan], at=[3])], "nothing is observed"),
    "infinite": ([nf.Observation([np.inf], at=[3])], "finite"),
    "contradiction": (
        [nf.Observation([280.0], at=[3]), nf.Observation([281.0], at=[3])],
        "contradict.*lat=60.0, lon=8.0",
    ),
    "exact sums": (
        [nf.Observation([280.0, 281.0], operator=np.ones((2, 29)) / 29)],
        "contradict each other: no field has all exact",
    ),
    "exact and bounded": ([nf.Observation([280.0], at=[3]), nf.Observation([281.0], at=[3], above=True)], "above 281"),
    "no interval": (
        [nf.Observation([280.0], at=[3], below=True), nf.Observation([281.0], at=[3], above=True)],
        "above 281 and below 280",
    ),
    "bounds of averages": ([nf.Observation([280.0], operator=np.ones((1, 29)), above=True)], "single vertices"),
    "several fields": ([nf.Observation(maps(3))], "one field, got 3 samples"),
    "numbers": ([nf.Observation([1.0, 2.0], at=[3])], "one for each of 1"),
    "columns": ([nf.Observation([1.0], operator=np.ones((1, 7)))], "a column for each"),
    "an empty region": ([nf.Observation([1.0], operator=nf.average({"lat": (0, 10)}))], "region 0"),
    "an unknown box": ([nf.Observation([1.0], operator=nf.average({"x": (0, 10)}))], "boxes of the dimensions"),
    "a way to read": (
        [nf.Observation([1.0], at={"lat": [50.0], "lon": [2.0]}, operator="cubic")],
        "'nearest' or 'bilinear'",
    ),
    "a fill number": ([nf.Observation(maps(1)[0].where(lambda x: x.lat > 55, -9999.0))], "-9999"),
}


@pytest.mark.parametrize(("observations", "words"), REFUSED.values(), ids=REFUSED)
def test_bad_observations_are_named(model, observations, words):
    with pytest.raises(ValueError, match=words):
        model.condition(*observations)


def test_other_mistakes_are_named(model, positive):
    with pytest.raises(TypeError, match="must be Observation objects"):
        model.condition(maps(1)[0])
    with pytest.raises(ValueError, match="no value is below"):
        positive.condition(nf.Observation([-1.0], at=[3], below=True))
    with pytest.raises(ValueError, match="method must be"):
        model.condition(nf.Observation([1.0], at=[3]), method="neural")
    with pytest.raises(ValueError, match="cannot be combined"):
        positive.condition(
            nf.Observation([1.0], at=[3], above=True), nf.Observation([1.0], operator=np.ones((1, 20)))
        ).sample()
    with pytest.raises(ValueError, match=r"\(0, 1\)"):
        model.impute(maps(1), interval=(0.0, 0.5))
    with pytest.raises(ValueError, match="needs the points"):
        nf.Observation([1.0], operator="nearest")
    with pytest.raises(ValueError, match="at must be None"):
        nf.Observation([1.0], at=[1], operator=np.eye(3))
    with pytest.raises(TypeError, match="torch tensor"):
        model.condition(nf.Observation([1.0], operator=lambda x: 1.0)).sample()


@pytest.mark.slow
def test_values_of_a_point_mass_are_known_as_below_its_threshold(positive, monkeypatch):
    """A marginal with `censored` stands for many standardised values by one: neighbours are drawn given the bound."""
    least = 1.2

    def censored(self, x, *, upper=False):
        with np.errstate(invalid="ignore"):
            return np.where((x <= least) & (not upper), self(np.full_like(x, least)), np.nan)

    field = np.full(20, np.nan)
    field[[3, 4, 12]] = [0.3, 2.5, 1.0]
    exact = positive.impute(field, 60, random_state=0)
    monkeypatch.setattr("nearfield.transform.marginal.Marginal.censored", censored, raising=False)
    posterior = positive.condition(nf.Observation(field))
    assert not posterior.exact
    drawn = positive.impute(field, 60, random_state=0)
    assert (drawn[:, [3, 4, 12]] == field[[3, 4, 12]]).all()
    assert (posterior.sample(3, random_state=0, steps=4)[:, [3, 4, 12]] == field[[3, 4, 12]]).all()
    assert np.log(drawn[:, 2]).mean() > np.log(exact[:, 2]).mean() + 0.1  # .3 says less than it did


@pytest.mark.slow
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_values_at_a_bound_bound_their_latent_values(sign):
    """AR(1) .9, censored at its median: given a value at the bound, a far one is low; 200 draws err by .07."""
    rng, d = np.random.default_rng(5), 12
    lag = np.abs(np.subtract.outer(np.arange(d), np.arange(d)))
    latent = rng.normal(size=(400, d)) @ np.linalg.cholesky(0.9**lag).T
    model = nf.LocalizedDiffusion(method="gaussian", radius=1, pooling=1.0, marginal="quantile", random_state=0)
    model.fit(sign * np.maximum(latent, 0.0))
    assert model.marginal_.has_masses
    field = np.full(d, np.nan)
    field[:6] = 0.0
    drawn = model.impute(field, 200, random_state=0)
    assert (drawn[:, :6] == 0.0).all()
    assert (sign * drawn >= 0).all()
    share = (drawn[:, 6] == 0.0).mean()  # 6 neighbours below the median leave the next one there in 90 %
    hidden = latent[(latent[:, :6] < 0).all(axis=1), 6] < 0
    assert share == pytest.approx(hidden.mean(), abs=4 * np.sqrt(hidden.var() / len(hidden) + 0.1 / 200))
