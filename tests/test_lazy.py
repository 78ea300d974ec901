"""Data read box by box must be those in memory: layout, values, statistics and refusals."""

from __future__ import annotations

import pickle
import tracemalloc
import warnings

import numpy as np
import pytest
import xarray as xr

from nearfield.data import lazy
from nearfield.data.codec import Codec
from nearfield.data.duplicate import fingerprint_sums
from nearfield.data.lazy import LazyData, in_memory, is_lazy
from nearfield.data.outlier import warn_of_gaps, warn_of_gaps_in_tiles
from nearfield.data.patches import crops_of, patches_of, samples_on
from nearfield.data.statistics import VertexStatistics, statistics_of
from nearfield.graph import DependencyGraph
from nearfield.graph.tiling import Box, BoxTiling, Tiling

pytest.importorskip("dask")
pytest.importorskip("zarr")

DAY = np.timedelta64(1, "D")
TIME = np.datetime64("2000-01-01", "ns") + DAY * np.arange(12)[::-1]
LAT, LON = np.linspace(-45, 45, 19), np.arange(0, 360, 15.0)


def globe(**attrs):
    """Twelve days, latest first, around the globe, with land."""
    x = np.random.default_rng(0).normal(280, 10, (12, 19, 24)).astype("f4")
    x[:, 3:7, 22:] = np.nan
    return xr.DataArray(
        x, {"time": TIME, "lat": LAT, "lon": LON}, ("time", "lat", "lon"), name="sst", attrs={"units": "K"} | attrs
    )


def in_zarr(data, folder, chunks=(12, 5, 6)):
    named = data.to_dataset(name=data.name or "field") if isinstance(data, xr.DataArray) else data
    named.to_zarr(folder / "store.zarr", encoding={name: {"chunks": chunks} for name in named}, consolidated=False)
    opened = xr.open_zarr(folder / "store.zarr", consolidated=False)
    return opened if isinstance(data, xr.Dataset) else opened[data.name or "field"]


def fitted(data, n_cells=40, **options):
    """Codec and statistics by tiles, and the tiling."""
    missing = options.pop("missing", "allow")
    lazy = LazyData.of(data, **options)
    tiling = Tiling.of(lazy.graph, n_cells)
    tiles = [statistics_of(lazy.source, tiling, tile) for tile in range(len(tiling))]
    found = VertexStatistics.gathered(tiling, lazy.source.n_samples, tiles)
    codec = lazy.codec(found, missing)
    return lazy.source, codec, found, BoxTiling(codec.graph, tiling.side)


def assert_same_codec(one, two):
    (config, arrays), (other, others) = one.state(), two.state()
    assert config == other
    assert arrays.keys() == others.keys()
    for name in arrays:
        assert arrays[name].dtype == others[name].dtype
        np.testing.assert_array_equal(arrays[name], others[name])


def layouts():
    sst = globe()
    rng = np.random.default_rng(1)
    members = xr.DataArray(rng.normal(size=(4, 9, 3)), dims=("x", "member", "run"), name="p")
    return {
        "globe": (sst, {}),
        "lon first": (sst.transpose("lon", "time", "lat"), {}),
        "two channels": (xr.Dataset({"sst": sst, "ice": sst.astype("f8") - 270}, attrs={"title": "t"}), {}),
        "stacked samples": (members, {"sample_dim": ("run", "member")}),
        "one level": (sst.expand_dims("lev", axis=1).assign_coords(lev=[5.0]), {}),
        "given graph": (sst, {"graph": DependencyGraph.grid((19, 24), diagonal=True)}),
        "whole numbers": ((10 * sst[:, :3]).round().astype("i4"), {}),
        "fill number": (sst.fillna(-9999.0).assign_attrs(missing_value=-9999.0), {}),
        "valid range": (sst.fillna(1e4).assign_attrs(valid_range=[0.0, 999.0]), {}),
    }


@pytest.mark.parametrize("name", layouts())
def test_codec_and_samples_are_those_in_memory(name):
    data, options = layouts()[name]
    source, codec, found, tiling = fitted(data.chunk(dict.fromkeys(data.dims, 5)), **options)
    whole = Codec.fit(data, **options)
    assert_same_codec(codec, whole)
    samples = whole.samples(data)
    box = Box((0,) * len(tiling.side), tiling.lattice.shape)
    np.testing.assert_array_equal(samples_on(source, codec, tiling, [box]).values, samples.values)
    np.testing.assert_array_equal(source.read(box)[np.argsort(source.order)][:, codec.present], whole.encode(data))
    assert source.read(box).dtype == whole.encode(data).dtype
    np.testing.assert_allclose(found.mean[codec.present], samples.values.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(found.variance[codec.present], samples.values.var(axis=0), rtol=1e-9)
    np.testing.assert_array_equal(found.high[codec.present], samples.values.max(axis=0))


@pytest.mark.parametrize("store", ["zarr", "netcdf", "files", "mapped", "dask array"])
def test_stores_are_read_and_pickled_without_their_values(store, tmp_path):
    data = globe()
    if store == "zarr":
        lazy = in_zarr(data, tmp_path, (3, 5, 5))
        data = lazy.compute()
    elif store == "netcdf":
        data.to_netcdf(tmp_path / "a.nc", engine="h5netcdf")
        lazy = xr.open_dataset(tmp_path / "a.nc", engine="h5netcdf", chunks={"time": 3, "lat": 10})["sst"]
    elif store == "files":
        for k in range(12):
            data[k : k + 1].to_netcdf(tmp_path / f"{k:02}.nc", engine="h5netcdf")
        lazy = xr.open_mfdataset(str(tmp_path / "*.nc"), engine="h5netcdf", combine="nested", concat_dim="time")["sst"]
    elif store == "mapped":
        np.save(tmp_path / "a.npy", data.values)
        data, lazy = data.values, np.load(tmp_path / "a.npy", mmap_mode="r")
    else:
        data, lazy = data.values, in_zarr(data, tmp_path).data
    assert is_lazy(lazy)
    source, codec, _, tiling = fitted(lazy)
    assert len(pickle.dumps(source)) < 100_000
    assert_same_codec(codec, Codec.fit(data))
    box = tiling.around(0, 2)
    again = pickle.loads(pickle.dumps(source))
    expected = Codec.fit(data).samples(data).values[:, tiling.vertices(box)]
    np.testing.assert_array_equal(samples_on(again, codec, tiling, [box]).values, expected)


@pytest.mark.parametrize("name", ["globe", "lon first", "two channels", "one level", "whole numbers", "fill number"])
def test_fingerprints_by_tiles_are_those_of_whole_samples(name):
    data, options = layouts()[name]
    lazy = LazyData.of(data.chunk(dict.fromkeys(data.dims, 5)), **options)
    tiling = Tiling.of(lazy.graph, 40)
    tiles = [statistics_of(lazy.source, tiling, tile)["fingerprint"] for tile in range(len(tiling))]
    codec = Codec.fit(data, **options)
    values = codec.samples(data).values
    sums = fingerprint_sums(values, np.flatnonzero(codec.present))
    np.testing.assert_array_equal(np.sum(tiles, axis=0, dtype=np.uint64), sums)
    assert len(np.unique(sums)) == 12
    moved = values.copy()
    moved[:, [3, 8]] = values[:, [8, 3]]
    assert not np.isin(fingerprint_sums(moved, np.flatnonzero(codec.present)), sums).any()


def test_a_large_store_pickles_small(tmp_path):
    data = in_zarr(xr.DataArray(np.zeros((2, 200, 200), "f4"), dims=("time", "y", "x")), tmp_path, (2, 10, 10))
    assert len(pickle.dumps(LazyData.of(data).source)) < 10_000


@pytest.mark.parametrize("view", [np.s_[:], np.s_[::2, 1:, ::-1], np.s_[3:9, ::3]])
def test_views_of_mapped_arrays_are_read_where_they_are(view, tmp_path):
    np.save(tmp_path / "a.npy", np.random.default_rng(0).normal(size=(12, 7, 9)))
    array = np.load(tmp_path / "a.npy", mmap_mode="r")[view]
    source = pickle.loads(pickle.dumps(LazyData.of(array).source))
    box = Box((0, 1), array.shape[1:])
    np.testing.assert_array_equal(source.read(box)[..., 0], np.asarray(array)[:, :, 1:].reshape(len(array), -1))


@pytest.mark.parametrize("box", [Box((-3, -9), (2, 30)), Box((17, 20), (21, 28)), Box((4, 23), (5, 25))])
def test_boxes_go_around_periodic_axes(box):
    data = globe()
    source = LazyData.of(data.chunk(lat=4, lon=7)).source
    rows, columns = (np.arange(start, stop) for start, stop in zip(box.start, box.stop, strict=True))
    taken = data.values[::-1].take(rows, axis=1, mode="wrap").take(columns, axis=2, mode="wrap")
    np.testing.assert_array_equal(source.read(box)[..., 0], taken.reshape(12, -1))
    some = np.array([7, 2, 2])
    np.testing.assert_array_equal(source.read(box, some)[..., 0], taken.reshape(12, -1)[some])


def spoiled(kind):
    data = globe()
    x = data.values
    if kind == "infinite":
        x[3, 8, 8] = x[1, 2, 1] = -np.inf
    elif kind == "constant":
        x[:, 9:11, 11] = 7.0
    elif kind == "fill":
        x[4, 12, 3] = x[4, 1, 3] = -9999.0
        x[4, 2, 3] = 1e20
    elif kind == "extreme":
        data = data.astype("f8")
        data.values[4, 12, 3] = 1e160
    elif kind == "empty":
        x[:] = np.nan
    elif kind == "few":
        x[:10, 4, 4] = np.nan
    elif kind == "one sample":
        data = data[:1]
    elif kind == "duplicates":
        data = data.assign_coords(lat=np.where(LAT == 5, 0, LAT))
    elif kind == "complex":
        data = data.astype(complex)
    return data


KINDS = ["infinite", "constant", "fill", "extreme", "empty", "few", "one sample", "duplicates", "complex"]


@pytest.mark.parametrize("kind", KINDS)
def test_refusals_are_those_in_memory(kind):
    data = spoiled(kind)
    with pytest.raises((TypeError, ValueError)) as whole:
        Codec.fit(data, missing="allow")
    with pytest.raises(type(whole.value)) as tiled:
        fitted(data.chunk(lat=7))
    assert str(tiled.value) == str(whole.value)


def test_gaps_are_refused_by_name_where_they_may_not_be():
    data = globe()
    data[:3, 8, 2] = np.nan
    assert_same_codec(fitted(data.chunk(lat=7))[1], Codec.fit(data, missing="allow"))
    with pytest.raises(ValueError, match="contains NaN") as whole:
        Codec.fit(data)
    with pytest.raises(ValueError, match="contains NaN") as tiled:
        fitted(data.chunk(lat=7), missing="error")
    assert str(tiled.value) == str(whole.value)


@pytest.mark.parametrize("kind", ["value", "sample", "none"])
def test_what_is_far_beyond_the_rest_is_seen_in_any_tile(kind):
    data = globe()
    if kind == "value":
        data.values[5, 17, 20] = 1e7
    elif kind == "sample":
        data.values[5] *= 1e4
    rain = data.astype("f8") - 280  # whose quartiles are equal in one half of the globe
    rain.values[2:, :, :12] = 0.0
    data = xr.Dataset({"sst": data, "rain": rain.where(data.notnull())})
    lazy = LazyData.of(data.chunk(lat=7))
    tiling = Tiling.of(lazy.graph, 40)
    tiles = [statistics_of(lazy.source, tiling, tile) for tile in range(len(tiling))]
    said = []
    for warn in (lambda: warn_of_gaps(Codec.fit(data).samples(data).values), lambda: warn_of_gaps_in_tiles(tiles, 448)):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            warn()
        said.append([str(warning.message) for warning in caught])
    assert said[0] == said[1]
    assert len(said[0]) == {"value": 2, "sample": 2, "none": 0}[kind]


def test_a_valid_range_of_other_data_is_ignored_everywhere():
    data = globe(valid_range=[-5.0, 5.0])
    with pytest.warns(UserWarning, match="valid_range or the like is ignored"):
        _, codec, _, _ = fitted(data.chunk(lat=7))
    assert codec.n_vertices == 448


def test_other_layouts_than_the_lattice_are_refused():
    flat = globe()[:, :, :20].stack(cell=("lat", "lon")).drop_vars(["cell", "lat", "lon"]).chunk(cell=50)
    with pytest.raises(ValueError, match=r"a dimension for each axis of the lattice \(19, 20\), got \('cell',\)"):
        LazyData.of(flat, graph=DependencyGraph.grid((19, 20)))
    with pytest.raises(ValueError, match="graph must have a vertex for each cell of the data"):
        LazyData.of(flat, graph=DependencyGraph.knn(np.random.default_rng(0).normal(size=(381, 2)), 4))


def test_a_chunk_that_cannot_be_read_is_named(tmp_path):
    data = in_zarr(globe(), tmp_path)
    chunk = tmp_path / "store.zarr" / "sst" / "c" / "0" / "2" / "1"
    chunk.write_bytes(chunk.read_bytes()[:100])
    source = LazyData.of(data).source
    source.read(Box((0, 0), (10, 24)))
    with pytest.raises(OSError, match=r"^could not read variable 'sst' at time 0:12, lat 10:13, lon 6:12.*: .*[^\n]+$"):
        source.read(Box((8, 0), (13, 24)))


def test_memory_is_that_of_a_box(tmp_path):
    np.save(tmp_path / "a.npy", np.random.default_rng(0).normal(size=(20, 300, 400)).astype("f4"))
    mapped = np.load(tmp_path / "a.npy", mmap_mode="r")
    for data in (mapped, in_zarr(xr.DataArray(mapped, dims=("sample", "y", "x")), tmp_path, (20, 60, 60))):
        lazy = LazyData.of(data)
        tiling = Tiling.of(lazy.graph, 3600)
        tracemalloc.start()
        for tile in range(len(tiling)):
            statistics_of(lazy.source, tiling, tile)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 6e6  # of 9.6: a box and two of its chunks in memory, and the deviations in double precision


def test_few_numbers_are_loaded(monkeypatch):
    data = globe().chunk(lat=4)
    assert not is_lazy(in_memory(data))
    assert isinstance(in_memory(data.data), np.ndarray)
    monkeypatch.setattr(lazy, "WHOLE", 10)
    assert is_lazy(in_memory(data))
    assert is_lazy(data.to_dataset())
    assert not is_lazy(data.compute().to_dataset())


def test_patches_are_spread_and_on_vertices():
    keep = np.ones((200, 300), dtype=bool)
    keep[:90] = False
    for graph in (DependencyGraph.grid((200, 300)), DependencyGraph.grid((200, 300)).subgraph(keep.ravel())):
        tiling = Tiling.of(graph)
        boxes = patches_of(tiling)
        assert len({box.start for box in boxes}) == 4
        assert all(400 < box.n_cells < 700 for box in boxes)
        assert all(len(tiling.vertices(box)) == box.n_cells for box in boxes)
    assert len(patches_of(Tiling.of(DependencyGraph.chain(20)))) == 1


def test_patches_together_are_a_part_of_the_graph():
    data = globe()
    source, codec, _, tiling = fitted(data.chunk(lat=4))
    boxes = [Box((10, 20), (15, 27)), Box((0, 3), (5, 9))]
    vertices = np.sort(np.concatenate([tiling.vertices(box) for box in boxes]))
    samples = samples_on(source, codec, tiling, boxes)
    np.testing.assert_array_equal(samples.values, codec.samples(data).values[:, vertices])
    assert samples.graph == codec.graph.subgraph(np.isin(np.arange(448), vertices))


def test_crops_are_drawn_by_their_number():
    tiling = Tiling.of(LazyData.of(globe()).graph)
    crops = crops_of(tiling, 12, (6, 8), 400, 5, seed=3)
    again = crops_of(tiling, 12, (6, 8), 7, 5, seed=3)
    assert [c.box for c in crops[:7]] == [c.box for c in again]
    assert all(np.array_equal(one.samples, two.samples) for one, two in zip(crops, again, strict=False))
    assert {c.box.start[0] for c in crops} == set(range(14))
    assert {c.box.start[1] for c in crops} == set(range(24))
    assert len({c.box.start for c in crops_of(tiling, 12, (6, 8), 50, 5, seed=4)} & {c.box.start for c in crops}) < 50
