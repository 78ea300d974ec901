"""Marginal transforms in the model: the same as fitting transformed data by hand, kept with the model, told of."""

from __future__ import annotations

import json

import numpy as np
import pytest
import xarray as xr
from sklearn.base import clone
from typer.testing import CliRunner

import nearfield as nf
from nearfield.cli import app
from nearfield.datasets import CoxIngersollRoss
from nearfield.transform.marginal import Marginal

GIVEN = {"method": "gaussian", "radius": 2, "pooling": 1.0, "random_state": 0}
LAW = CoxIngersollRoss(a=0.25, b=1.0, sigma=0.6, step=1.0, length=24)


def chain(n_samples=200, seed=0):
    return LAW.sample(n_samples, seed)[..., 0]


def dataset(n_samples=80):
    """Rain, positive, and a temperature that rises from west to east; land in one cell; rain in single precision."""
    noise = np.random.default_rng(3).normal(size=(n_samples, 5, 7))
    smooth = noise[:, 1:, 1:] + noise[:, :-1, 1:] + noise[:, 1:, :-1]
    rain, temperature = np.exp(0.6 * smooth), 280 + 3 * np.arange(6) + smooth**3
    rain[:, 1, 2] = temperature[:, 1, 2] = np.nan
    dims = ("time", "lat", "lon")
    return xr.Dataset(
        {"rain": (dims, rain.astype(np.float32), {"units": "mm"}), "t2m": (dims, temperature, {"units": "K"})},
        coords={"time": np.arange(n_samples), "lat": np.linspace(0, 9, 4), "lon": np.linspace(0, 15, 6)},
    )


@pytest.fixture(scope="module")
def mixed():
    data = dataset()
    return nf.LocalizedDiffusion(marginal={"rain": "sqrt", "t2m": "quantile"}, **GIVEN).fit(data), data


@pytest.mark.parametrize(("name", "method"), [("log", "gaussian"), ("sqrt", "gaussian"), ("quantile", "windowed")])
def test_the_model_is_that_of_data_transformed_by_hand(name, method):
    x, given = chain(), GIVEN | {"method": method}
    model = nf.LocalizedDiffusion(marginal=name, **given).fit(x)
    marginal = Marginal.fit(x[..., None], name, [None])
    by_hand = nf.LocalizedDiffusion(**given).fit(marginal(x[..., None])[..., 0])
    expected = marginal.inv(by_hand.sample(5, random_state=1)[..., None])[..., 0]
    np.testing.assert_allclose(model.sample(5, random_state=1), expected, rtol=1e-10)
    if method == "gaussian":
        density = by_hand.score_samples(marginal(x[..., None])[..., 0]) + marginal.log_abs_det_jacobian(
            x[..., None]
        ).sum(axis=(1, 2))
        np.testing.assert_allclose(model.score_samples(x), density, rtol=1e-10)


def test_the_logarithm_is_the_logarithm():
    x = chain()
    model = nf.LocalizedDiffusion(marginal="log", **GIVEN).fit(x)
    by_hand = nf.LocalizedDiffusion(**GIVEN).fit(np.log(x))
    np.testing.assert_allclose(model.sample(9, random_state=1), np.exp(by_hand.sample(9, random_state=1)), rtol=1e-10)
    np.testing.assert_allclose(model.score_samples(x), by_hand.score_samples(np.log(x)) - np.log(x).sum(axis=1))


@pytest.mark.parametrize(
    ("name", "method"),
    [("log", "gaussian"), ("sqrt", "gaussian"), ("quantile", "gaussian"), ("sqrt", "windowed"), ("quantile", "masked")],
)
def test_positive_data_give_positive_draws_and_log_densities_rise(name, method):
    x, fresh = chain(), chain(300, seed=1)
    given = GIVEN | {"method": method, "pooling": 0.0 if method == "masked" else 1.0}
    model = nf.LocalizedDiffusion(marginal=name, **given).fit(x)
    plain = nf.LocalizedDiffusion(**given).fit(x)
    assert (model.sample(100, random_state=0) > 0).all()
    assert (plain.sample(100, random_state=0) < 0).any()
    if method == "gaussian":
        gain = (model.score_samples(fresh) - plain.score_samples(fresh)) / LAW.length
        assert gain.mean() > 5 * gain.std() / np.sqrt(len(gain))
        assert model.score(fresh) < LAW.log_prob(fresh[..., None]).mean()  # the truth is better still


def test_the_density_of_one_vertex_integrates_to_one():
    x = np.random.default_rng(0).gamma(2, size=(100, 1))
    grid = np.geomspace(1e-6, 1e3, 40_001)
    middle = np.sqrt(grid[1:] * grid[:-1])
    for name in ("log", "sqrt", "quantile"):
        model = nf.LocalizedDiffusion(marginal=name, method="gaussian", radius=0, pooling=0.0).fit(x)
        density = np.exp(model.score_samples(middle[:, None]))
        assert (density * np.diff(grid)).sum() == pytest.approx(1, abs=2e-3)


def test_completed_fields_are_positive_and_follow_the_conditional_law():
    x = chain()
    model = nf.LocalizedDiffusion(marginal="log", **GIVEN).fit(x)
    by_hand = nf.LocalizedDiffusion(**GIVEN).fit(np.log(x))
    gappy = np.where(np.arange(LAW.length) % 5 == 0, x[:2], np.nan)
    filled = model.impute(gappy, 20, random_state=4)
    np.testing.assert_allclose(filled, np.exp(by_hand.impute(np.log(gappy), 20, random_state=4)), rtol=1e-10)
    assert np.array_equal(filled[:, :, ::5], np.broadcast_to(x[:2, ::5], filled[:, :, ::5].shape))


def test_variables_have_their_own_marginal(mixed):
    model, data = mixed
    new = model.sample(200, random_state=0)
    assert (new.rain.min(), new.t2m.min()) > (0, 250)
    assert new.attrs["nearfield_marginal"] == "rain: sqrt, t2m: quantile"
    assert (new.rain.dtype, new.rain.attrs["units"]) == (np.float32, "mm")
    assert np.array_equal(np.isnan(new.rain[0]), np.isnan(data.rain[0]))
    center = new.t2m.mean("member") - data.t2m.mean("time")
    assert float(abs(center).max()) < 5.5 * float(data.t2m.std("time").max()) * np.sqrt(1 / 80 + 1 / 200)
    left_out = nf.LocalizedDiffusion(marginal={"rain": "log"}, **GIVEN).fit(data)
    assert left_out.marginal_.name == "rain: log, t2m: standardize"


@pytest.mark.parametrize("pooling", [0.0, 0.5])
@pytest.mark.parametrize("method", ["gaussian", "windowed", "masked"])
def test_location_and_scale_are_fitted_to_the_variables_that_ask_for_it(method, pooling):
    data = dataset().fillna(280.0).isel(lat=[0, 2])
    given = {"method": method, "radius": 1, "pooling": 0.0 if method == "masked" else pooling}
    both = nf.LocalizedDiffusion(marginal={"rain": "log"}, **given).fit(data).marginal_
    one = nf.LocalizedDiffusion(marginal={"rain": "log", "t2m": "none"}, **given).fit(data).marginal_
    assert one.name == "rain: log, t2m: none"
    np.testing.assert_allclose(one.center[:, 0], both.center[:, 0], rtol=1e-12)
    np.testing.assert_allclose(one.scale[:, 0], both.scale[:, 0], rtol=1e-12)
    assert np.array_equal((one.center[:, 1], one.scale[:, 1]), (np.zeros(12), np.ones(12)))
    assert both.center[:, 1].min() > 250


@pytest.mark.parametrize("method", ["gaussian", "windowed", "masked"])
def test_a_vertex_that_varies_once_needs_no_scale_where_none_is_fitted(method):
    x = np.random.default_rng(0).normal(size=(40, 4, 2))
    x[1:, 2, 1] = 0.0
    given = {"graph": nf.DependencyGraph.chain(4), "method": method, "pooling": 0.0, "random_state": 0}
    nf.LocalizedDiffusion(marginal={1: "none"}, **given).fit(x)
    for named in ("standardize", {0: "none"}):
        with pytest.warns(UserWarning, match="vertex 2 varies in one or two samples only"):
            nf.LocalizedDiffusion(marginal=named, **given).fit(x)


def test_arrays_name_channels_by_number(tmp_path):
    x = np.exp(np.random.default_rng(0).normal(size=(60, 6, 2)))
    model = nf.LocalizedDiffusion(graph=nf.DependencyGraph.chain(6), marginal={np.int64(1): "log"}, **GIVEN).fit(x)
    assert model.marginal_.name == "channel 0: standardize, channel 1: log"
    assert (model.sample(200, random_state=0).min(axis=(0, 1)) > 0).tolist() == [False, True]
    model.save(tmp_path / "m")
    loaded = nf.load(tmp_path / "m")
    assert loaded.marginal == {1: "log"}
    assert np.array_equal(clone(loaded).fit(x).score_samples(x), model.score_samples(x))


def test_a_loaded_model_is_the_one_saved(mixed, tmp_path):
    model, data = mixed
    model.save(tmp_path / "m")
    loaded = nf.load(tmp_path / "m")
    xr.testing.assert_identical(loaded.sample(3, random_state=5), model.sample(3, random_state=5))
    assert np.array_equal(loaded.score_samples(data), model.score_samples(data))
    assert (loaded.digest_, loaded.get_params()) == (model.digest_, model.get_params())
    assert clone(model).get_params()["marginal"] == {"rain": "sqrt", "t2m": "quantile"}


@pytest.mark.filterwarnings("ignore:draws from the field:UserWarning")
def test_the_report_tells_of_it(mixed, tmp_path, monkeypatch):
    monkeypatch.setattr("nearfield.evaluation.section.png", lambda ax: "")  # pictures are slow
    model, data = mixed
    numbers = model.report(tmp_path / "r.html", data)
    assert numbers["provenance"]["nearfield_marginal"] == "rain: sqrt, t2m: quantile"
    assert "rain: sqrt, t2m: quantile" in (tmp_path / "r.html").read_text()
    told = {row["name"]: row["per_dimension"] for row in numbers["log_density"]}
    assert told["data it was fitted to"] == pytest.approx(model.score(data) / (2 * 23))
    assert told["generated"] == pytest.approx(told["data it was fitted to"], abs=0.2)


def test_the_report_is_given_densities_of_the_draws_it_is_given(mixed, tmp_path, monkeypatch):
    compared = []
    monkeypatch.setattr("nearfield.estimator.write_report", lambda path, comparison: compared.append(comparison))
    model, data = mixed
    model.report(tmp_path / "r.html", data)
    generated = model.codec_.decode(compared[0].generated)
    np.testing.assert_allclose(
        compared[0].log_density["generated"], model.score_samples(generated), rtol=1e-4
    )  # float32


def test_data_that_the_marginal_does_not_take_are_refused(mixed):
    model, data = mixed
    with pytest.raises(ValueError, match=r"variable 't2m' must be > 0 for marginal='log', got -"):
        nf.LocalizedDiffusion(marginal={"t2m": "log"}, **GIVEN).fit(data - 290)
    with pytest.raises(ValueError, match=r"must be for variables of the data, \['rain', 't2m'\], got 'snow'"):
        nf.LocalizedDiffusion(marginal={"snow": "log"}, **GIVEN).fit(data)
    for request in (model.score_samples, model.impute, lambda x: model.report("unused.html", x)):
        with pytest.raises(ValueError, match=r"variable 'rain' must be >= 0 for marginal='sqrt', got -"):
            request(data.assign(rain=data.rain - 2))
    with pytest.raises(TypeError, match="mapping from variables"):
        nf.LocalizedDiffusion(marginal=1).fit(data)


@pytest.mark.parametrize("name", ["log", "sqrt", "quantile"])
def test_a_larger_domain_has_the_same_transform(name):
    x = chain()
    marginal = Marginal.fit(x[..., None], name, [None])
    by_hand = nf.LocalizedDiffusion(**GIVEN).fit(marginal(x[..., None])[..., 0]).extend((60,))
    larger = nf.LocalizedDiffusion(marginal=name, **GIVEN).fit(x).extend((60,))
    expected = marginal.transforms[0].inv(by_hand.sample(5, random_state=1))
    np.testing.assert_allclose(larger.sample(5, random_state=1), expected, rtol=1e-10)


def test_quantiles_of_vertices_that_differ_are_not_extended():
    model = nf.LocalizedDiffusion(marginal="quantile", **GIVEN).fit(chain() * np.linspace(1, 9, LAW.length))
    with pytest.raises(ValueError, match="marginal='quantile' of vertices whose means or scales differ"):
        model.extend((60,))


@pytest.mark.filterwarnings("ignore:draws differ from:UserWarning")
def test_warnings_of_the_transform_are_kept():
    x = chain()
    x[:, 1:4] = np.maximum(x[:, 1:4] - 0.7, 0)
    with pytest.warns(UserWarning, match="are zero"):
        model = nf.LocalizedDiffusion(marginal="sqrt", **GIVEN).fit(x)
    assert "are zero: marginal='sqrt' takes them as" in model.fit_report_.warnings[0]


def test_the_command_line_passes_it_on(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    dataset().to_netcdf("two.nc", engine="h5netcdf")
    fixed = ["fit", "two.nc", "--method", "gaussian", "--radius", "1", "--pooling", "1", "--out", "m"]

    def run(*options, code=0):
        result = CliRunner().invoke(app, [*fixed, *options], catch_exceptions=False)
        assert result.exit_code == code, result.output
        return result

    both = ["-v", "rain", "-v", "t2m"]
    told = json.loads(run(*both, "--marginal", "rain=sqrt", "--marginal", "t2m=quantile", "--json").stdout)
    assert told["marginal"] == "rain: sqrt, t2m: quantile"
    assert nf.load("m").marginal == {"rain": "sqrt", "t2m": "quantile"}
    for name in ("auto", "standardize", "none", "log", "sqrt", "yeo-johnson", "quantile"):
        run("-v", "rain", "--marginal", name)
        assert nf.load("m").marginal == name
    for wrong in (["cubic"], ["rain=cubic"], ["log", "sqrt"], ["rain=log", "sqrt"]):
        refused = run(*both, *(part for name in wrong for part in ("--marginal", name)), code=2)
        assert "must be one of auto, standardize, none, log, sqrt, yeo-johnson, quantile" in " ".join(
            refused.stderr.split()
        )
