"""Whatever goes into the codec comes back the same, and what cannot be right is refused by name."""

import json

import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import xarray as xr
from sklearn.base import BaseEstimator
from sklearn.utils.estimator_checks import parametrize_with_checks
from sklearn.utils.validation import check_is_fitted, validate_data

from nearfield.data import store
from nearfield.data.codec import Codec
from nearfield.datasets import north_america_temperature
from nearfield.graph import DependencyGraph


def normal(size):
    return np.random.default_rng(20).normal(size=size)


def globe(dims=("time", "lat", "lon"), dtype="float64"):
    """Five days on a closed circle of longitudes, with land, awkward attributes and coordinates of every kind."""
    values = (280 + 5 * normal((5, 4, 6))).astype(dtype)
    values[:, 1, 2:4] = np.nan
    data = xr.DataArray(
        values,
        dims=("time", "lat", "lon"),
        coords={
            "time": pd.date_range("2001-01-30", periods=5),
            "lat": ("lat", np.float32([60, 30, 0, -30]), {"units": "degrees_north"}),
            "lon": ("lon", np.arange(0, 360, 60), {"units": "degrees_east"}),
            "height": 2.0,
            "area": (("lat", "lon"), np.arange(24.0).reshape(4, 6)),
            "zone": ("lat", ["boreal", "temperate", "tropical", "südlich"]),
            "survey": ("lon", np.array(["2000-01-01", "NaT"] * 3, dtype="M8[ns]")),
            "season": ("time", list("DDFFM")),
            "lag": np.timedelta64(3, "h"),
            "land": (("lat", "lon"), np.isnan(values[0])),
            "opaque": ("lat", np.array([{}, [], 1, "a"], dtype=object)),
        },
        name="sst",
        attrs={"units": "K", "actual_range": np.array([200.0, 330.0]), "count": np.int16(3), "made": lambda: 0},
    )
    return data.transpose(*dims, transpose_coords=False)


def chain():
    return xr.DataArray(normal((6, 7)).astype("float32"), dims=("sample", "x"), coords={"x": np.arange(7) * 0.5})


def ensemble():
    return xr.DataArray(
        normal((3, 2, 4, 5)),
        dims=("member", "y", "time", "x"),
        coords={"time": pd.date_range("2001", periods=4), "member": [1, 4, 9]},
        name="ssh",
    )


def channels():
    one = globe().drop_vars("opaque").rename("t")
    two = (globe().drop_vars("opaque") * 2).astype("float32").rename("s").transpose("lon", "time", "lat")
    return xr.Dataset({"t": one, "s": two.assign_attrs(units="1")}, attrs={"title": "two", "levels": np.arange(2)})


CASES = {
    "chain": (chain(), {}),
    "globe": (globe(), {}),
    "float32": (globe(dtype="float32"), {}),
    "transposed": (globe(("lon", "lat", "time")), {}),
    "dataset": (channels(), {}),
    "time is a graph dimension": (ensemble(), {}),
    "stacked samples": (ensemble(), {"sample_dim": ["time", "member"]}),
    "stacked in another order": (ensemble(), {"sample_dim": ["member", "time"]}),
    "level": (globe().expand_dims(level=[1000, 850, 500]) + 0 * xr.DataArray(np.arange(3), dims="level"), {}),
    "length-one dimension": (globe().expand_dims("depth", axis=2), {}),
    "user's MultiIndex of samples": (ensemble().stack(sample=("member", "time")), {}),
    "stations": (
        xr.DataArray(
            normal((5, 4)),
            dims=("time", "station"),
            coords={"station": list("abcd"), "lat": ("station", [1.0, 2, 3, 4]), "lon": ("station", [5.0, 5, 6, 6])},
        ),
        {"graph": DependencyGraph.ring(4)},
    ),
    "array": (normal((5, 8)), {}),
    "grid array": (normal((5, 3, 4)), {}),
    "box array": (normal((5, 3, 4, 2)).astype("float32"), {}),
    "array on a graph": (normal((5, 12)), {"graph": DependencyGraph.torus((3, 4))}),
    "grid array on a graph": (normal((5, 3, 4)), {"graph": DependencyGraph.torus((3, 4))}),
    "channel array": (normal((5, 12, 2)), {"graph": DependencyGraph.ring(12)}),
    "land in an array": (np.where(np.arange(8) == 3, np.nan, normal((5, 8))), {}),
}


@pytest.fixture(params=CASES.values(), ids=CASES.keys())
def case(request):
    data, arguments = request.param
    return data, Codec.fit(data, **arguments)


def same(one, two):
    if isinstance(one, np.ndarray):
        return one.dtype == two.dtype and np.array_equal(one, two, equal_nan=True)
    dtypes = one.dtype == two.dtype if isinstance(one, xr.DataArray) else one.dtypes == two.dtypes
    return dtypes and one.identical(two) and list(one.coords) == list(two.coords)


def dims_of(data, name):
    return data.dims if isinstance(data, xr.DataArray) else data[name].dims


def test_decode_undoes_encode(case):
    data, codec = case
    encoded = codec.encode(data)
    assert encoded.shape[1:] == (codec.graph.n_vertices, codec.n_channels)
    assert np.isfinite(encoded).all()
    assert same(codec.decode(encoded, like=data), data)


def test_new_members_have_the_labels_of_the_data(case):
    """Slices of generated data are slices of the data, labels of the sample and its coordinates aside."""
    data, codec = case
    encoded = codec.encode(data)
    decoded = codec.decode(encoded[:3])
    if isinstance(data, np.ndarray):
        assert same(decoded, data[:3])
        return
    assert decoded.member.attrs == {"standard_name": "realization"}
    assert decoded.member.values.tolist() == [0, 1, 2]
    row = dict.fromkeys(codec.sample_dims, "row")
    stacked = data.stack(row=codec.sample_dims) if len(codec.sample_dims) > 1 else data.rename(row)
    lost = [name for name in [*stacked.coords, "opaque"] if name == "opaque" or "row" in stacked[name].dims]
    expected = stacked.isel(row=slice(3)).drop_vars(lost, errors="ignore").rename(row="member")
    for name in [channel.name for channel in codec.channels]:
        field, truth = (decoded, expected) if isinstance(data, xr.DataArray) else (decoded[name], expected[name])
        truth = truth.transpose(*field.dims, transpose_coords=False)
        assert np.array_equal(field.values, truth.values, equal_nan=True)
        assert field.dtype == truth.dtype
        assert field.coords.to_dataset().drop_vars("member").identical(truth.coords.to_dataset())
        place = [d if d not in codec.sample_dims else "member" for d in dims_of(data, name)]
        stays = len(codec.sample_dims) == 1
        assert field.dims == tuple(place if stays else ["member", *(d for d in place if d != "member")])


def test_completed_data_have_a_member_axis_before_their_own(case):
    data, codec = case
    encoded = codec.encode(data)
    draws = np.stack([encoded, encoded + 1])
    decoded = codec.decode(draws, like=data)
    axis = "draw" if not isinstance(data, np.ndarray) and "member" in data.coords else "member"
    for k in range(2):
        one = decoded[k] if isinstance(data, np.ndarray) else decoded.isel({axis: k}, drop=True)
        assert same(one, data + k) if isinstance(data, np.ndarray) else one.identical(codec.decode(draws[k], like=data))


def test_a_loaded_codec_is_the_one_saved(case, tmp_path):
    data, codec = case
    config, arrays = codec.state()
    store.write(tmp_path / "codec", config, arrays)
    loaded = Codec.from_state(*store.read(tmp_path / "codec"))
    assert loaded.graph == codec.graph
    assert loaded.sample_dims == codec.sample_dims
    assert loaded.ordered == codec.ordered
    encoded = codec.encode(data)
    assert np.array_equal(loaded.encode(data), encoded)
    assert same(loaded.decode(encoded, attrs={"seed": 1}), codec.decode(encoded, attrs={"seed": 1}))
    assert same(loaded.decode(encoded, like=data), data)


def test_one_sample_comes_and_goes_without_sample_dimension(case):
    data, codec = case
    one = data[1] if isinstance(data, np.ndarray) else data.isel(dict.fromkeys(codec.sample_dims, 1))
    encoded = codec.encode(one, allow_missing=True)
    assert len(encoded) == 1
    assert same(codec.decode(encoded, like=one), one)
    assert np.shape(codec.decode(encoded[None], like=one)["t" if "t" in one else ...])[0] == 1


@pytest.mark.parametrize("name", ["globe", "dataset", "time is a graph dimension", "stacked samples", "level"])
def test_dimensions_are_matched_by_name(name):
    data, arguments = CASES[name]
    codec = Codec.fit(data, **arguments)
    turned = data.transpose(*reversed(list(data.dims)))
    assert np.array_equal(codec.encode(turned), codec.encode(data))
    assert same(codec.decode(codec.encode(turned), like=turned), turned)


def test_channels_are_matched_by_name():
    data = channels()
    codec = Codec.fit(data)
    assert np.array_equal(codec.encode(data[["s", "t"]]), codec.encode(data))
    assert same(codec.decode(codec.encode(data), like=data[["s", "t"]]), data[["s", "t"]])


def test_names_of_variables_need_not_be_strings():
    data = xr.Dataset({5: channels()["t"], "s": channels()["s"]})
    codec = Codec.fit(data)
    assert np.array_equal(codec.encode(data[["s", 5]]), codec.encode(data))
    assert np.array_equal(codec.encode(data)[..., 0], Codec.fit(data[5]).encode(data[5])[..., 0])


def test_order_of_vertices_is_that_of_the_graph():
    """The value of a vertex is the value at the coordinates of that vertex in the graph."""
    for dims in (("time", "lat", "lon"), ("lon", "time", "lat")):
        data = globe(dims)
        codec = Codec.fit(data)
        for vertex in (0, 7, codec.n_vertices - 1):
            lat, lon = codec.graph.coordinates[vertex]
            assert np.array_equal(codec.encode(data)[:, vertex, 0], data.sel(lat=lat, lon=lon).values)
        assert codec.graph.lattice.periodic == (False, True)
        assert codec.graph.n_vertices == 22


def expected_graph(data, **arguments):
    return Codec.fit(data, **arguments).graph


def on(dims, shape=None, **coords):
    shape = shape or tuple(range(3, 3 + len(dims)))
    return xr.DataArray(normal((4, *shape)), dims=("sample", *dims), coords=coords)


@pytest.mark.parametrize(
    ("data", "graph"),
    [
        (on(["x"]), DependencyGraph.chain(3)),
        (on(["lat"], lat=[10, 20, 30]), DependencyGraph.chain(3)),
        (on(["lon"], (6,), lon=np.arange(6) * 60 - 180), DependencyGraph.ring(6)),
        (on(["lon"], (6,), lon=np.arange(6) * 10), DependencyGraph.chain(6)),
        (on(["lev", "lon"], (2, 6), lon=np.arange(6) * 60), DependencyGraph.grid((2, 6), periodic=(False, True))),
        (on(["y", "x"]), DependencyGraph.grid((3, 4))),
        (on(["z", "y", "x"]), DependencyGraph.grid((3, 4, 5))),
        (on(["lat", "lon"]), DependencyGraph.grid((3, 4))),
        (on(["a", "b"], a=[1, 2, 3], b=[6, 5, 4, 1]), DependencyGraph.grid((3, 4))),
        (on(["lon", "lat"], lon=[1, 2, 3], lat=[6, 5, 4, 1]), DependencyGraph.latlon([6, 5, 4, 1], [1, 2, 3])),
        (
            on(["Longitude", "LAT"], Longitude=[1, 2, 3], LAT=[6, 5, 4, 1]),
            DependencyGraph.latlon([6, 5, 4, 1], [1, 2, 3]),
        ),
        (
            on(["i", "j"], i=("i", [1, 2, 3], {"units": "degreesE"}), j=("j", [6, 5, 4, 1], {"units": "degree_N"})),
            DependencyGraph.latlon([6, 5, 4, 1], [1, 2, 3]),
        ),
        (
            on(["i", "j"], here=("i", [1, 2, 3], {"standard_name": "latitude"}), lon=("j", [6, 5, 4, 1])),
            DependencyGraph.latlon([1, 2, 3], [6, 5, 4, 1]),
        ),
        (
            on(["lat", "lon"], lat=("lat", [1, 2, 3], {"standard_name": "grid_latitude"}), lon=[6, 5, 4, 1]),
            DependencyGraph.grid((3, 4)),
        ),
        (
            on(["y", "x"], lat=(("y", "x"), np.ones((3, 4))), lon=(("y", "x"), np.ones((3, 4)))),
            DependencyGraph.grid((3, 4)),
        ),
        (
            on(["lon", "level", "lat"], (6, 2, 3), lon=np.arange(6) * 60, lat=[1, 2, 3]),
            DependencyGraph.grid((2, 3, 6), periodic=(False, False, True)),
        ),
        (on(["day", "x"], day=pd.date_range("2001", periods=3)), DependencyGraph.grid((3, 4))),
        (on(["x"], (1,)), DependencyGraph.chain(1)),
    ],
)
def test_graph_is_read_off_the_coordinates(data, graph):
    assert expected_graph(data) == graph


def test_land_is_taken_out_of_a_given_graph():
    data = normal((5, 3, 4))
    data[:, 1, 2] = np.nan
    present = np.arange(12) != 6
    torus = DependencyGraph.torus((3, 4))
    assert expected_graph(data, graph=torus) == torus.subgraph(present)
    data[:, 0, 0] = np.nan
    both = present & (np.arange(12) != 0)
    assert expected_graph(data, graph=torus.subgraph(present)) == torus.subgraph(both)
    assert np.array_equal(
        Codec.fit(data, graph=torus.subgraph(present)).encode(data)[..., 0], data.reshape(5, 12)[:, both]
    )
    assert expected_graph(data.reshape(5, 12)[:, present], graph=torus.subgraph(present)) == torus.subgraph(both)


@pytest.mark.parametrize(
    ("dims", "sample_dim", "found", "contiguous"),
    [
        (("time", "x"), None, ("time",), True),
        (("x", "year"), None, ("year",), True),
        (("time", "number", "x"), None, ("number",), False),
        (("realization", "time"), None, ("realization",), False),
        (("x", "month"), "month", ("month",), True),
        (("time", "member", "x"), ["member", "time"], ("member", "time"), True),
        (("time", "y", "x"), "y", ("y",), False),
    ],
)
def test_sample_dimension_is_named_or_guessed(dims, sample_dim, found, contiguous):
    codec = Codec.fit(xr.DataArray(normal(range(3, 3 + len(dims))), dims=dims), sample_dim=sample_dim)
    assert codec.sample_dims == found
    assert codec.ordered == contiguous


def test_dates_make_a_time_axis():
    data = chain().rename(sample="launch").assign_coords(launch=pd.date_range("2001", periods=6))
    assert Codec.fit(data, sample_dim="launch").ordered
    assert not Codec.fit(chain()).ordered
    rows = np.random.default_rng(0).normal(size=(6, 3))
    for index in (pd.date_range("2001", periods=6), pd.period_range("2001", periods=6), pd.RangeIndex(6, name="year")):
        assert Codec.fit(pd.DataFrame(rows, index=index)).ordered
    for plain in (rows, pd.DataFrame(rows), pd.DataFrame(rows, index=list("abcdef"))):
        assert not Codec.fit(plain).ordered
        codec = Codec.fit(plain, sample_dim="time")
        assert codec.ordered
        np.testing.assert_array_equal(codec.decode(codec.encode(plain)), rows)


def test_byte_order_does_not_widen_the_numbers():
    assert Codec.fit(chain().astype(">f4")).channels[0].dtype == "float32"


def test_repeated_years_are_fine():
    data = north_america_temperature()
    codec = Codec.fit(data.where(data.scenario != "E1", drop=True))
    held_out = data.where(data.scenario == "E1", drop=True)
    assert data.indexes["year"].has_duplicates
    assert codec.n_vertices == 37 * 49
    assert codec.ordered
    assert same(codec.decode(codec.encode(held_out), like=held_out), held_out)
    assert "Open Government Licence" in codec.decode(np.zeros((1, 1813, 1))).attrs["licence"]


@pytest.mark.parametrize("dtype", ["int16", "uint8", "int64", "float16", "object"])
def test_other_numbers_become_float64(dtype):
    values = np.arange(12).reshape(3, 4).astype(dtype)
    for data in (values, xr.DataArray(values, dims=("sample", "x"))):
        codec = Codec.fit(data)
        assert codec.encode(data).dtype == np.float64
        assert np.array_equal(codec.decode(codec.encode(data)), np.arange(12.0).reshape(3, 4))


def test_frames_lists_and_masked_arrays_are_arrays():
    values = normal((4, 3))
    for data in (pd.DataFrame(values, columns=list("abc")), values.tolist(), np.asfortranarray(values)):
        assert np.array_equal(Codec.fit(data).encode(data)[..., 0], values)
    masked = np.ma.masked_array(values, mask=np.broadcast_to([False, True, False], (4, 3)))
    assert Codec.fit(masked).present.tolist() == [True, False, True]


def test_missing_values_pass_where_allowed():
    data = globe()
    codec = Codec.fit(data)
    cloudy = data.where(np.random.default_rng(1).uniform(size=data.shape) < 0.5)
    encoded = codec.encode(cloudy, allow_missing=True)
    assert np.isnan(encoded).sum() == np.isnan(cloudy.values).sum() - np.isnan(data.values).sum()
    assert same(codec.decode(encoded, like=cloudy), cloudy)
    column = np.arange(8.0)[:, None] * np.ones(3)
    assert np.isnan(Codec.fit(column).encode(np.array([1, np.nan, 2]), allow_missing=True)).sum() == 1


def test_generated_data_can_be_encoded_again():
    data = globe()
    codec = Codec.fit(data)
    generated = codec.decode(codec.encode(data))
    assert np.array_equal(codec.encode(generated), codec.encode(data))
    assert same(codec.decode(codec.encode(generated), like=generated), generated)


def test_other_sample_dimensions_are_taken_by_name():
    """Channels in different dimension orders, samples along dimensions that the training data did not have."""
    data = channels()
    codec = Codec.fit(data)
    new = data.isel(time=slice(4)).coarsen(time=2).construct(time=("number", "sample")).drop_vars(["time", "season"])
    new["s"] = new.s.transpose("lon", "sample", "lat", "number")
    assert np.array_equal(codec.encode(new), codec.encode(data)[:4])
    assert same(codec.decode(codec.encode(new), like=new), new)


def test_a_second_member_axis_is_called_draw():
    data = ensemble()
    codec = Codec.fit(data)
    drawn = codec.decode(np.stack([codec.encode(data)] * 2), like=data)
    assert drawn.dims == ("draw", *data.dims)
    assert drawn.draw.attrs == {"standard_name": "realization"}
    one = codec.decode(codec.encode(data[:1])[None], like=data[0])
    assert one.dims == ("draw", *data.dims[1:])
    assert one.member == 1


def test_coordinates_may_differ_by_rounding_only():
    data = globe()
    codec = Codec.fit(data)
    wobbly = data.assign_coords(lon=data.lon * (1 + 1e-7))
    assert np.array_equal(codec.encode(wobbly), codec.encode(data))
    assert np.array_equal(codec.encode(data.drop_vars(["lat", "lon"])), codec.encode(data))


def test_a_single_field_and_provenance():
    codec = Codec.fit(globe())
    mean = codec.decode(codec.encode(globe()).mean(axis=0), lead=(), attrs={"digest": "abc"})
    assert mean.dims == ("lat", "lon")
    assert mean.attrs == {"units": "K", "actual_range": [200.0, 330.0], "count": 3, "digest": "abc"}
    dataset = Codec.fit(channels())
    assert dataset.decode(np.zeros((1, 22, 2)), attrs={"seed": 1}).attrs == {
        "title": "two",
        "levels": [0, 1],
        "seed": 1,
    }


def test_encoding_leaves_the_data_alone():
    for data in (globe(), normal((5, 8))):
        before = data.copy()
        codec = Codec.fit(data)
        codec.encode(data)[...] = 0
        codec.decode(codec.encode(data) + 1, like=data)
        assert same(data, before)


def test_state_is_json_and_plain_arrays():
    config, arrays = Codec.fit(channels()).state()
    assert json.loads(json.dumps(config)) == config
    assert all(array.dtype.kind in "biuf" for array in arrays.values())


# what is refused


def dirty(data, value, *place):
    data = data.copy()
    data[place] = value
    return data


grid = on(["lat", "lon"], lat=[10.0, 20, 30], lon=[1.0, 2, 3, 4])

UNFIT = {
    "empty array": (np.zeros((0, 3)), {}, ValueError, r"0 sample\(s\)"),
    "no vertices": (np.zeros((3, 0)), {}, ValueError, r"0 feature\(s\)"),
    "empty grid": (np.zeros((3, 4, 0)), {}, ValueError, "at least one sample and one vertex"),
    "empty DataArray": (grid[:0], {}, ValueError, "at least one sample and one vertex"),
    "empty Dataset": (xr.Dataset(), {}, ValueError, "at least one variable"),
    "one sample": (np.ones((1, 3)), {}, ValueError, "at least 2 samples .* got 1 sample"),
    "one labelled sample": (grid[:1], {}, ValueError, "at least 2 samples"),
    "1-D array": (np.arange(4.0), {}, ValueError, "Reshape your data"),
    "too many axes": (normal((2, 2, 2, 2, 2)), {}, ValueError, "X must have shape"),
    "constant column": (
        dirty(normal((4, 3)), 2.5, slice(None), 1),
        {},
        ValueError,
        r"constant at 1 of 3 .*column\[1\]",
    ),
    "constant vertex": (
        dirty(grid, 0.1, slice(None), 1, 2),
        {},
        ValueError,
        r"constant .* lat=20.0, lon=3.0 \(always \[0.1\]",
    ),
    "constant in one channel": (
        xr.Dataset({"a": grid, "b": dirty(grid, 2.0, slice(None), 0, 0)}),
        {},
        ValueError,
        "constant at 1 of 12 vertices, first lat=10.0, lon=1.0",
    ),
    "constant to rounding": (np.float32(273.15) + np.eye(3, dtype="f4") * 3.1e-5, {}, ValueError, "constant"),
    "inf in an array": (dirty(normal((4, 3)), np.inf, 0, 1), {}, ValueError, "infinity"),
    "inf": (dirty(grid, -np.inf, 0, 1, 2), {}, ValueError, "infinity at 1 vertices, first lat=20.0, lon=3.0"),
    "NaN in an array": (
        dirty(normal((4, 3)), np.nan, 0, 1),
        {},
        ValueError,
        r"NaN in some .*column\[1\] \(1 of 4",
    ),
    "NaN": (
        dirty(grid, np.nan, slice(2), 1, 2),
        {},
        ValueError,
        r"NaN .* 1 of 12 .* lat=20.0, lon=3.0 \(2 of 4 .*fill them",
    ),
    "NaN in one channel": (
        xr.Dataset({"a": grid, "b": dirty(grid, np.nan, slice(None), 0, 0)}),
        {},
        ValueError,
        "NaN in some samples or variables",
    ),
    "NaN only": (grid * np.nan, {}, ValueError, "got NaN only"),
    "complex array": (np.ones((3, 2)) * 1j, {}, ValueError, "Complex data not supported"),
    "complex": (grid * 1j, {}, ValueError, "Complex data not supported"),
    "boolean array": (np.eye(3) > 0, {}, TypeError, "X must hold real numbers, got dtype bool"),
    "boolean": (grid > 0, {}, TypeError, "data must hold real numbers, got dtype bool"),
    "string array": (np.array([["1", "2"]] * 3), {}, TypeError, "real numbers, got dtype <U1"),
    "strings": (grid.astype(str), {}, TypeError, "real numbers"),
    "dates": (grid.astype("M8[s]"), {}, TypeError, "real numbers"),
    "objects": (grid.astype(object).where(grid.lat < 30, "x"), {}, TypeError, "other objects"),
    "object array": (np.array([[1, "x"], [2, 3]], dtype=object), {}, ValueError, "convert string to float"),
    "sparse": (scipy.sparse.eye_array(3).tocsr(), {}, TypeError, "Sparse data was passed for X, but dense"),
    "sample_dim of an array": (np.eye(3), {"sample_dim": ("time", "x")}, ValueError, "sample_dim must be one name for"),
    "sample_dim of another axis": (
        np.eye(3),
        {"sample_dim": "column"},
        ValueError,
        "and none of .*, got 'column'",
    ),
    "too large to square": (np.eye(3) * 1e160, {}, ValueError, "magnitudes between 1e-150 and 1e.150, got 1e.160 at"),
    "too small to square": (np.eye(3) * 1e-160, {}, ValueError, "magnitudes between .* got 1e-160 at column"),
    "dates in a column": (
        pd.DataFrame(np.eye(3)).assign(date=pd.date_range("2000", periods=3)),
        {},
        TypeError,
        "got column 'date' of datetime64.*make dates the index",
    ),
    "text in a column": (pd.DataFrame(np.eye(3)).assign(name="Paris"), {}, TypeError, "got column 'name' of"),
    "two columns of one name": (
        pd.DataFrame(np.eye(3), columns=["a", "b", "a"]),
        {},
        ValueError,
        "columns of different names, got 'a' more than once",
    ),
    "unknown sample_dim": (
        grid,
        {"sample_dim": "time"},
        ValueError,
        r"sample_dim must name .*'lat', 'lon'\].* got 'time'",
    ),
    "repeated sample_dim": (grid, {"sample_dim": ["sample", "sample"]}, ValueError, "each once"),
    "no sample_dim": (grid, {"sample_dim": []}, ValueError, "sample_dim must name"),
    "two ensembles": (grid.expand_dims(member=2), {}, ValueError, "sample_dim must say .* 'sample' and 'member'"),
    "two times": (on(["year"]).rename(sample="time"), {}, ValueError, "sample_dim must say .* 'time' and 'year'"),
    "no candidate": (grid.rename(sample="run"), {}, ValueError, "none of .*'run', 'lat', 'lon'.* is called sample"),
    "samples only": (grid[:, 0, 0], {}, ValueError, "a dimension besides the samples"),
    "scattered stations": (
        on(["station"], lat=("station", [1.0, 2, 3]), lon=("station", [1.0, 2, 3])),
        {},
        ValueError,
        r"'station' are scattered points .*graph=DependencyGraph.knn\(.* 8, metric=\"haversine\"\)",
    ),
    "scattered points": (
        on(["p"], x=("p", [1.0, 2, 3]), y=("p", [1.0, 2, 3])),
        {},
        ValueError,
        r"DependencyGraph.knn\(.* 8\)",
    ),
    "stations over hours": (
        on(["hour", "station"], lat=("station", [1.0, 2, 3, 4]), lon=("station", [1.0, 2, 3, 4])),
        {},
        ValueError,
        "scattered points",
    ),
    "labels": (on(["x"], x=list("abc")), {}, ValueError, "'x' holds labels .*graph=DependencyGraph.chain"),
    "duplicates": (on(["x"], x=[1, 2, 2]), {}, ValueError, "'x' must name each vertex once, got 2 2 times"),
    "unsorted duplicates": (on(["x"], (4,), x=[2, 3, 1, 3]), {}, ValueError, "'x' must name each vertex once, got 3"),
    "duplicate dates": (
        on(["day"], day=pd.to_datetime(["2001-01-01", "2001-01-02", "2001-01-02"])),
        {},
        ValueError,
        "'day' must name each vertex once, got 2001-01-02",
    ),
    "duplicate stations": (
        on(["s"], s=list("aab")),
        {"graph": DependencyGraph.chain(3)},
        ValueError,
        "name each vertex once",
    ),
    "unsorted": (on(["x"], x=[1, 3, 2]), {}, ValueError, r"'x' must increase or decrease.*data.sortby\(\"x\"\)"),
    "NaN coordinate": (on(["x"], x=[1, np.nan, 2]), {}, ValueError, r"'x' must be finite, got nan at x\[1\]"),
    "MultiIndex": (grid.stack(cell=("lat", "lon")), {}, ValueError, "'cell' must hold numbers, strings or dates"),
    "latitude out of range": (grid.assign_coords(lat=[80.0, 90, 100]), {}, ValueError, r"lat must be in \[-90, 90\]"),
    "latitude not finite": (
        grid.assign_coords(lat=[10.0, np.nan, np.nan]),
        {},
        ValueError,
        r"'lat' must be finite, got nan at lat\[1\]; .* np.isfinite",
    ),
    "infinite coordinate of a given graph": (
        grid.assign_coords(lon=[0.0, 1, 2, np.inf]),
        {"graph": DependencyGraph.grid((3, 4))},
        ValueError,
        r"'lon' must be finite, got inf at lon\[3\]",
    ),
    "no date": (
        on(["x"], x=np.array(["2001-01-01", "NaT", "2001-01-03"], dtype="M8[ns]")),
        {},
        ValueError,
        r"'x' must be finite, got NaT at x\[1\]",
    ),
    "dimension without name": (
        xr.DataArray(normal((4, 3)), dims=("member", 1)),
        {},
        TypeError,
        r"strings for names, got 1 among \['member', 1\]; rename it, e.g. data.rename\({1: \"x\"}\)",
    ),
    "longitude twice round": (
        grid.assign_coords(lon=[0.0, 180, 360, 540]),
        {},
        ValueError,
        "lon must span at most 360",
    ),
    "four graph dimensions": (on(["a", "b", "c", "d"]), {}, ValueError, "a grid has 1 to 3 dimensions"),
    "variables on other dims": (
        xr.Dataset({"a": grid, "b": grid[..., 0]}),
        {},
        ValueError,
        r"same dimensions, got \('sample', 'lat', 'lon'\) for 'a' but not for \['b'\]",
    ),
    "graph of another size": (
        normal((4, 5)),
        {"graph": DependencyGraph.chain(4)},
        ValueError,
        "graph must have",
    ),
    "labelled, graph of another size": (
        grid,
        {"graph": DependencyGraph.chain(4)},
        ValueError,
        "graph must have a vertex",
    ),
    "graph of another shape": (grid, {"graph": DependencyGraph.grid((4, 3))}, ValueError, "graph must have a vertex"),
    "grid, graph of another shape": (
        np.ones((4, 3, 4)),
        {"graph": DependencyGraph.grid((4, 3))},
        ValueError,
        "X must have",
    ),
    "values the graph leaves out": (
        normal((4, 5)),
        {"graph": DependencyGraph.chain(5).subgraph(np.arange(5) != 2)},
        ValueError,
        r"1 vertices that the graph leaves out, first vertex\[2\]|first column\[2\]",
    ),
}


@pytest.mark.parametrize(("data", "arguments", "error", "message"), UNFIT.values(), ids=UNFIT.keys())
def test_unfit_data_are_refused(data, arguments, error, message):
    with pytest.raises(error, match=message):
        Codec.fit(data, **arguments)


def test_remedies_for_places_and_names_help():
    """What the refusals propose, done word for word, is accepted."""
    for data in (
        grid.assign_coords(lat=[10.0, 20.0, np.nan]),
        xr.DataArray(normal((4, 3)), dims=("member", 1)),
    ):
        with pytest.raises((ValueError, TypeError)) as refused:
            Codec.fit(data)
        remedy = str(refused.value)[str(refused.value).index("data.r" if 1 in data.dims else "data.i") :]
        assert Codec.fit(eval(remedy, {"np": np, "data": data})).n_vertices == data[0].size - 4 * ("lat" in data.dims)


LABELLED, DATASET, ARRAY = Codec.fit(globe()), Codec.fit(channels()), Codec.fit(normal((4, 3)))
LAND = globe().fillna(1.0)

FOREIGN = {
    "an array for a DataArray": (
        LABELLED,
        np.ones((5, 4, 6)),
        TypeError,
        "training data's kind, DataArray, got ndarray",
    ),
    "a Dataset for a DataArray": (LABELLED, globe().to_dataset(), TypeError, "kind, DataArray, got Dataset"),
    "a DataArray for an array": (ARRAY, xr.DataArray(np.ones((4, 3))), TypeError, "kind, array, got DataArray"),
    "other longitudes": (
        LABELLED,
        globe().assign_coords(lon=np.arange(0, 360, 60) - 180),
        ValueError,
        "'lon' must be that",
    ),
    "reversed": (
        LABELLED,
        globe()[:, ::-1],
        ValueError,
        r"'lat' must be that of the training data, 60.0 to -30.0, got -30.0",
    ),
    "fewer": (LABELLED, globe()[:, :3], ValueError, "'lat' must have length 4"),
    "missing dimension": (LABELLED, globe()[:, 0], ValueError, r"without \['lat'\]"),
    "renamed dimension": (LABELLED, globe().rename(lat="y"), ValueError, r"without \['lat'\]"),
    "unknown dimension": (LABELLED, globe().expand_dims(level=2), ValueError, r"got \['level'\] also"),
    "missing variable": (DATASET, channels()[["t"]], ValueError, r"must have the variables \['t', 's'\], got \['t'\]"),
    "further variable": (DATASET, channels().assign(u=globe()), ValueError, "must have the variables"),
    "NaN": (LABELLED, dirty(globe(), np.nan, 0, 0, 0), ValueError, "NaN in some samples .* lat=60.0, lon=0"),
    "inf": (LABELLED, dirty(globe(), np.inf, 0, 0, 0), ValueError, "infinity"),
    "values on land": (
        LABELLED,
        LAND,
        ValueError,
        "values at 2 vertices that the training data had none at, first lat=30.0, lon=120",
    ),
    "no samples": (LABELLED, globe()[:0], ValueError, "at least one sample"),
    "fewer features": (
        ARRAY,
        np.ones((4, 2)),
        ValueError,
        r"X has 2 features, but \w+ is expecting 3 features as input",
    ),
    "more axes": (ARRAY, np.ones((4, 3, 1)), ValueError, r"X must have shape \(n_samples, 3\)"),
    "one-dimensional": (ARRAY, np.ones(3), ValueError, "Reshape your data"),
    "complex": (ARRAY, np.ones((4, 3)) * 1j, ValueError, "Complex data not supported"),
}


@pytest.mark.parametrize(("codec", "data", "error", "message"), FOREIGN.values(), ids=FOREIGN.keys())
def test_foreign_data_are_refused(codec, data, error, message):
    with pytest.raises(error, match=message):
        codec.encode(data)


@pytest.mark.parametrize(
    ("shape", "arguments"),
    [
        ((3, 21, 1), {}),
        ((3, 22, 2), {}),
        ((22, 1), {}),
        ((2, 5, 22, 1), {}),
        ((4, 22, 1), {"like": globe()}),
        ((3, 4, 22, 1), {"like": globe()}),
        ((3, 22, 1), {"lead": ()}),
    ],
)
def test_values_of_another_shape_are_not_decoded(shape, arguments):
    with pytest.raises(ValueError, match="values must have shape"):
        LABELLED.decode(np.zeros(shape), **arguments)


class Thin(BaseEstimator):
    """The least estimator on top of the codec, for scikit-learn's own checks of what enters."""

    def fit(self, X, y=None):
        self.codec_ = Codec.fit(X)
        validate_data(self, X, skip_check_array=True)
        return self

    def score_samples(self, X):
        check_is_fitted(self)
        validate_data(self, X, reset=False, skip_check_array=True)
        return -np.square(self.codec_.encode(X)).sum(axis=(1, 2))


@parametrize_with_checks([Thin()])
def test_scikit_learn_accepts_what_the_codec_does(estimator, check):
    check(estimator)
