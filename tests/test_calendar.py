"""Coordinates with dates of a calendar of their own are kept as other dates are."""

import sys

import numpy as np
import pytest
import xarray as xr

import nearfield as nf
from nearfield.data import store
from nearfield.data.codec import Codec
from nearfield.graph import DependencyGraph

cftime = pytest.importorskip("cftime")


def dates(n, calendar="noleap"):
    return xr.date_range("2000-02-27", periods=n, calendar=calendar, use_cftime=True).values


def season(calendar="noleap"):
    """Fields with a date for each place, one for all, and dates of both axes."""
    values = np.random.default_rng(80).normal(size=(30, 6))
    onset = dates(6, calendar)
    coords = {"onset": ("x", onset), "reference_time": onset[0], "twice": (("x", "one"), onset[:, None])}
    return xr.DataArray(values[..., None], dims=("member", "x", "one"), coords=coords)


@pytest.mark.parametrize("calendar", ["noleap", "360_day", "julian", "standard"])
def test_dates_of_a_calendar_are_kept_in_draws_and_in_files(calendar, tmp_path):
    data = season(calendar)
    codec = Codec.fit(data)
    config, arrays = codec.state()
    store.write(tmp_path / "codec", config, arrays)
    for known in (codec, Codec.from_state(*store.read(tmp_path / "codec"))):
        drawn = known.decode(codec.encode(data)[:3])
        for name in ("onset", "reference_time", "twice"):
            assert (
                drawn[name].drop_vars("member", errors="ignore").equals(data[name].drop_vars("member", errors="ignore"))
            )
            assert type(drawn[name].values.flat[0]) is type(data[name].values.flat[0])
            assert drawn[name].values.flat[0].calendar == calendar


def test_a_model_keeps_them(tmp_path):
    data = season().isel(one=0)
    nf.LocalizedDiffusion(method="gaussian", radius=1, pooling=0.5, random_state=0).fit(data).save(tmp_path / "model")
    drawn = nf.load(tmp_path / "model").sample(2, random_state=0)
    assert drawn.onset.equals(data.onset)
    drawn.to_netcdf(tmp_path / "drawn.nc", engine="h5netcdf")


def test_a_graph_may_lie_along_them():
    data = season().isel(one=0, drop=True).drop_vars(["reference_time", "twice"]).swap_dims(x="onset")
    codec = Codec.fit(data)
    assert codec.graph == DependencyGraph.chain(6)
    assert np.array_equal(codec.encode(data.copy()), codec.encode(data))
    with pytest.raises(ValueError, match="'onset' must be that of the training data"):
        codec.encode(data.assign_coords(onset=data.onset.values[::-1]))
    with pytest.raises(ValueError, match="'onset' must be that of the training data"):
        codec.encode(data.assign_coords(onset=np.arange("2000-02-27", "2000-03-04", dtype="M8[D]").astype("M8[ns]")))
    with pytest.raises(ValueError, match="'onset' must increase or decrease"):
        Codec.fit(data.isel(onset=[0, 2, 1, 3, 4, 5]))


def test_a_file_with_them_says_what_it_needs(monkeypatch):
    state = Codec.fit(season()).state()
    monkeypatch.setitem(sys.modules, "cftime", None)
    with pytest.raises(ModuleNotFoundError, match=r"calendar 'noleap' need cftime.*pip install cftime"):
        Codec.from_state(*state)
