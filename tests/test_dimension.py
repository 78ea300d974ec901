"""Which dimension counts samples is known by CF and by name, or asked."""

import warnings

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from nearfield.data.codec import Codec
from nearfield.data.dimension import find_sample_dims


def field(*dims, **coords):
    shape = tuple(range(5, 5 + len(dims)))
    return xr.DataArray(np.random.default_rng(3).normal(size=shape), dims=dims, coords=coords)


@pytest.mark.parametrize(
    "name",
    ["ens", "Ens", "ensemble_member", "realisation", "Member", "MEMBERS", "members", "nmember", "member_id", "draw"],
)
def test_other_names_of_members_count_samples(name):
    """Beside a time that is said, since a field over time was perhaps not meant."""
    assert find_sample_dims(field(name, "lat", "lon"), None) == (name,)
    with pytest.warns(UserWarning, match=rf"{name!r} is taken to count .*sample_dim=\['time', {name!r}\]"):
        assert find_sample_dims(field("time", name, "lat", "lon"), None) == (name,)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert find_sample_dims(field("time", name, "lat", "lon"), name) == (name,)
        assert find_sample_dims(field("time", "member", "lat", "lon"), None) == ("member",)


@pytest.mark.parametrize("name", ["M", "r", "foo"])
def test_standard_names_and_axes_count_samples(name):
    realization = (name, np.arange(6), {"standard_name": "realization"})
    assert find_sample_dims(field("time", name, "lat", **{name: realization}), None) == (name,)
    assert find_sample_dims(field("time", name, "lat", **{name: (name, np.arange(6), {"axis": "E"})}), None) == (name,)
    for attrs in ({"standard_name": "time"}, {"axis": "T"}):
        data = field("lat", name, **{name: (name, np.arange(6), attrs)})
        assert find_sample_dims(data, None) == (name,)
        assert Codec.fit(data).ordered


@pytest.mark.parametrize("name", ["Time", "TIME", "Year", "date"])
def test_times_are_known_whatever_their_case(name):
    data = field("lat", name, "lon")
    assert find_sample_dims(data, None) == (name,)
    assert Codec.fit(data).ordered


@pytest.mark.parametrize("name", ["M", "model", "source_id", "init", "run", "hour", "dim_1"])
@pytest.mark.parametrize("labels", [None, "numbers", "strings"])
def test_a_dimension_of_two_readings_is_an_error_that_names_both(name, labels):
    coords = {} if labels is None else {name: np.arange(6.0) if labels == "numbers" else list("abcdef")}
    data = field("time", name, "lat", "lon", time=pd.date_range("2000", periods=5), **coords)
    with pytest.raises(ValueError, match=f"sample_dim must say what {name!r} is") as refused:
        Codec.fit(data)
    assert f"sample_dim=['time', '{name}']" in str(refused.value)
    assert "sample_dim='time'" in str(refused.value)
    assert Codec.fit(data, sample_dim=["time", name]).layout.dims == ("lat", "lon")
    if labels != "strings":
        assert Codec.fit(data, sample_dim="time").layout.dims == (name, "lat", "lon")


@pytest.mark.parametrize(
    "data",
    [
        field("time", "lev", "lat", "lon"),
        field("time", "ny", "nx"),
        field("time", "isobaricInhPa", "latitude"),
        field("time", "grid_latitude", "grid_longitude"),
        field("time", "south_north", "west_east"),
        field("time", "Z", "Station"),
        field("time", "foo"),
        field("time", "p", "lat", p=("p", np.arange(6), {"units": "hPa"})),
        field("time", "u", "v", u=("u", np.arange(6), {"axis": "Y"}), v=np.arange(7) / 4),
        field("time", "s", "lat", s=("s", np.arange(6), {"positive": "down"})),
        field("time", "foo", "lat").isel(foo=[0]),
        field("sample", "a", "b"),
    ],
    ids=lambda data: str(data.dims),
)
def test_dimensions_of_space_raise_no_question(data):
    assert find_sample_dims(data, None) == (data.dims[0],)


def test_a_model_of_an_ensemble_is_among_those_of_two_readings():
    with pytest.raises(ValueError, match="sample_dim must say what 'model' is, beside 'member'"):
        find_sample_dims(field("member", "model", "lat"), None)


def test_samples_of_another_name_are_taken_at_use():
    codec = Codec.fit(field("member", "lat", "lon"))
    other = field("Realisation", "lat", "lon")
    np.testing.assert_array_equal(codec.encode(other), codec.encode(other.rename(Realisation="member")))
