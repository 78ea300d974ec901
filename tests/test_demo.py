"""What the demo counts is right on data whose answers are known, and what it prints holds on its own data."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from typer.testing import CliRunner

from nearfield.cli import app
from nearfield.demo import temperature as demo


def maps(seed: int, n: int = 100) -> xr.DataArray:
    """Independent normal values whose mean and scale differ from point to point."""
    rng = np.random.default_rng(seed)
    values = np.arange(12.0).reshape(3, 4) + np.linspace(0.2, 5, 12).reshape(3, 4) * rng.normal(size=(n, 3, 4))
    return xr.DataArray(values, dims=("year", "lat", "lon"))


class Independent:
    """A model that takes the points as independent, with the training data's means and scales."""

    def __init__(self, train: xr.DataArray, width: float = 1.0) -> None:
        self.mean, self.scale = train.mean("year").to_numpy(), width * train.std("year").to_numpy()
        self.calls = 0

    def score_samples(self, x: xr.DataArray) -> np.ndarray:
        z = (x.to_numpy() - self.mean) / self.scale
        return (-0.5 * z**2 - np.log(self.scale * np.sqrt(2 * np.pi))).sum(axis=(1, 2))

    def impute(self, x: xr.DataArray, n_samples: int, random_state: int) -> xr.DataArray:
        self.calls += 1
        z = np.random.default_rng([random_state, self.calls]).normal(size=(n_samples, *x.shape))
        drawn = xr.DataArray(self.mean + self.scale * z, dims=("member", *x.dims))
        return x.where(x.notnull(), drawn).transpose("member", ...)


def test_the_loss_in_units_of_the_scale_is_the_independent_one_for_an_independent_model():
    """An identity: densities in K and in training deviations differ by the logarithms of the deviations."""
    train, test = maps(0), maps(1)
    told = demo._likelihood(Independent(train), train, test)
    assert told["held_out_nats_per_dimension"] == pytest.approx(told["independent_nats_per_dimension"], rel=1e-12)
    assert told["held_out_nats_per_dimension_in_kelvin"] != pytest.approx(told["independent_nats_per_dimension"])


@pytest.mark.parametrize(("width", "right"), [(1.0, True), (0.9, False)])
def test_coverage_of_the_right_model_is_nominal_and_of_a_narrow_one_is_not(monkeypatch, width, right):
    """20 maps of 882 hidden independent points; 5 standard errors are passed once in 1e6 runs."""
    monkeypatch.setattr(demo, "STATIONS", 18)
    rng = np.random.default_rng(2)
    train = xr.DataArray(rng.normal(size=(4000, 30, 30)), dims=("year", "lat", "lon"))
    test = xr.DataArray(rng.normal(size=(100, 30, 30)), dims=("year", "lat", "lon"))
    found = demo._complete(Independent(train, width), test, seed=0)
    error = np.sqrt(found.nominal * (1 - found.nominal) / (20 * 882))
    assert found.observed.sum() == 18
    np.testing.assert_allclose(found.mean[found.observed], found.truth[found.observed], rtol=1e-12)
    assert (abs(found.coverage - found.nominal) < 5 * error) == right
    assert (abs(found.spread / found.error - 1) < 0.03) == right


@pytest.mark.slow
def test_the_demo_keeps_its_word(tmp_path):
    """Bounds that the fit must meet: the field's loss, its roughness, and bands that hold what they claim."""
    out = tmp_path / "demo"
    shown = CliRunner().invoke(app, ["demo", "--out", str(out), "--json"], catch_exceptions=False)
    told = json.loads(shown.stdout)
    assert told == json.loads((out / "demo.json").read_text()) | {"out": str(out)}
    assert told["held_out_nats_per_dimension"] < -0.88
    assert 0.97 < told["roughness_ratio"] < 1.03
    assert 0.95 < told["variance_ratio"] < 1.05
    assert abs(told["mode_ratio"] - 1) < 3 * told["mode_ratio_error"] < 0.3
    assert abs(told["coverage"] - told["coverage_nominal"]) < 0.05
    assert abs(told["completion_spread"] / told["completion_error"] - 1) < 0.1
    with xr.open_dataarray(out / "samples.nc", engine="h5netcdf") as new:
        assert new.sizes == {"member": 500, "lat": 37, "lon": 49}
        assert "not observations" in new.attrs["comment"]
    assert told["gravel"]["standard_errors"] > 5
    assert told["gravel"]["seconds_fit"] < told["gravel"]["seconds"] < told["seconds"] < 300
    pictures = {"demo.png", "gravel.png", "maps.png", "scales.png", "completion.png"}
    files = pictures | {"demo.json", "report.html", "report.json", "samples.nc", "temperature.nearfield"}
    assert {Path(path).name for path in out.iterdir()} == files
