"""A store of draws is what the model draws, tile by tile and whole or not there."""

import errno
import os
import pickle
import shutil
import sys

import numpy as np
import pytest
import xarray as xr

from nearfield.data.codec import Codec
from nearfield.data.draw_store import DrawStore
from nearfield.graph import DependencyGraph
from nearfield.graph.tiling import BoxTiling, Tiling

KEY = {"model": "5af1", "seed": 1}
ATTRS = {"nearfield_seed": "1"}


def sea(*, name="sst", dims=("time", "lat", "lon"), dtype="f8"):
    """20 maps of 7 x 9 cells, some of them land, with all that labels can be."""
    values = np.random.default_rng(0).normal(size=(20, 7, 9)).astype(dtype)
    values[:, 2:4, 0:5] = np.nan
    coords = {
        "time": np.datetime64("2020-01-01") + np.arange(20),
        "lat": ("lat", np.linspace(10, 40, 7), {"units": "degrees_north"}),
        "lon": np.linspace(0, 40, 9),
        "depth": (("lat", "lon"), np.arange(63.0).reshape(7, 9)),
        "height": 2.0,
        "name": ("lat", list("abcdefg")),
    }
    field = xr.DataArray(values, dims=("time", "lat", "lon"), coords=coords, name=name, attrs={"units": "K"})
    return field.transpose(*dims)


def filled(store, fields, tiles=None):
    """Write the tiles of drawn fields."""
    for member, tile in store.left() if tiles is None else tiles:
        vertices = slice(None) if store.tiling is None else store.tiling.vertices(store.tiling.box(tile))
        store.write(member, tile, fields[member, vertices])


def drawn(codec, n_members=3):
    return np.random.default_rng(1).normal(size=(n_members, codec.n_vertices, codec.n_channels))


@pytest.mark.parametrize("side", [None, (2, 4), (3, 2), (7, 9)])
@pytest.mark.parametrize(
    "data",
    [
        sea(),
        sea(name=None, dims=("lat", "time", "lon"), dtype="f4"),
        xr.Dataset({"sst": sea(), "ice": sea(dims=("lat", "lon", "time"))}, attrs={"title": "two"}),
    ],
    ids=["DataArray", "unnamed float32", "Dataset"],
)
def test_the_store_is_what_decode_returns(tmp_path, data, side):
    codec = Codec.fit(data)
    fields, tiling = drawn(codec), None if side is None else BoxTiling(codec.graph, side)
    store = DrawStore.create(tmp_path / "new.zarr", codec, 3, tiling, key=KEY, attrs=ATTRS)
    filled(pickle.loads(pickle.dumps(store)), fields)
    assert not store.path.exists()
    store.complete()
    assert os.listdir(tmp_path) == ["new.zarr"]
    expected = codec.decode(fields, attrs=ATTRS)
    with xr.open_zarr(store.path) as found:
        if isinstance(data, xr.Dataset):
            xr.testing.assert_identical(found.load(), expected)
        else:
            xr.testing.assert_identical(found[data.name or "values"].load().rename(data.name), expected)


@pytest.mark.parametrize("shape", [(30, 10), (20, 5, 6), (20, 5, 6, 2)])
def test_plain_arrays_get_names(tmp_path, shape):
    x = np.random.default_rng(0).normal(size=shape)
    graph = DependencyGraph.grid((5, 6)) if len(shape) == 4 else None
    codec = Codec.fit(x.reshape(20, 30, 2) if len(shape) == 4 else x, graph=graph)
    fields = drawn(codec)
    tiling = None if len(shape) == 4 else Tiling.of(codec.graph, 9)
    store = DrawStore.create(tmp_path / "new.zarr", codec, 3, tiling, key=KEY)
    filled(store, fields)
    store.complete()
    with xr.open_zarr(store.path) as found:
        names = list(found.data_vars)
        assert names == (["channel_0", "channel_1"] if len(shape) == 4 else ["values"])
        values = [found[name].values for name in names]
    np.testing.assert_array_equal(np.stack(values, -1) if len(names) > 1 else values[0], codec.decode(fields))


def test_a_chunk_belongs_to_one_member_and_tile(tmp_path):
    codec = Codec.fit(sea())
    store = DrawStore.create(tmp_path / "new.zarr", codec, 2, BoxTiling(codec.graph, (2, 4)), key=KEY)
    files = [file for pair in store.left() for file in store._files(*pair)]
    assert len(files) == len(set(files)) == 2 * 4 * 3
    assert len(store.left()) == 2 * store.n_tiles == 2 * 4 * 2


def test_drawing_goes_on_where_it_was_ended(tmp_path):
    codec = Codec.fit(sea())
    tiling, fields = BoxTiling(codec.graph, (2, 4)), drawn(codec)
    store = DrawStore.create(tmp_path / "new.zarr", codec, 3, tiling, key=KEY)
    filled(store, fields, store.left()[:7])
    (store.folder / "draws" / "sst" / "c" / "2.12ab.partial").write_bytes(b"half a chu")
    with pytest.raises(ValueError, match=r"lacks 17 of 24 tiles"):
        store.complete()
    again = DrawStore.create(tmp_path / "new.zarr", codec, 3, BoxTiling(codec.graph, (2, 4)), key=KEY)
    assert again.left() == [divmod(k, 8) for k in range(7, 24)]
    filled(again, fields)
    again.complete()
    assert not list(again.path.rglob("*.partial"))
    with xr.open_zarr(again.path) as found:
        np.testing.assert_array_equal(found["sst"].values, codec.decode(fields).values)


@pytest.mark.parametrize(
    ("key", "n_members", "side", "differs"),
    [(KEY | {"seed": 2}, 3, (2, 4), "seed"), (KEY, 4, (2, 4), "members"), (KEY, 3, (3, 4), "side")],
)
def test_other_draws_are_refused(tmp_path, key, n_members, side, differs):
    codec = Codec.fit(sea())
    DrawStore.create(tmp_path / "new.zarr", codec, 3, BoxTiling(codec.graph, (2, 4)), key=KEY)
    match = rf"new.zarr.unfinished is the store of draws of other data or settings \({differs}\); remove it"
    with pytest.raises(ValueError, match=match):
        DrawStore.create(tmp_path / "new.zarr", codec, n_members, BoxTiling(codec.graph, side), key=key)


def test_a_store_that_exists_is_not_replaced(tmp_path):
    codec = Codec.fit(sea())
    (tmp_path / "new.zarr").mkdir()
    with pytest.raises(ValueError, match=r"store must be a new folder, got '.*new.zarr', which exists"):
        DrawStore.create(tmp_path / "new.zarr", codec, 3, key=KEY)
    with pytest.raises(FileNotFoundError, match="store must be in an existing folder"):
        DrawStore.create(tmp_path / "nowhere" / "new.zarr", codec, 3, key=KEY)


def test_tiles_must_be_of_the_dimensions(tmp_path):
    x = np.random.default_rng(0).normal(size=(20, 30))
    codec = Codec.fit(x, graph=DependencyGraph.grid((5, 6)))
    with pytest.raises(ValueError, match=r"tiling must be of the dimensions of the data, \(30,\), got \(5, 6\)"):
        DrawStore.create(tmp_path / "new.zarr", codec, 3, BoxTiling(codec.graph, (2, 2)), key=KEY)


def test_a_full_disk_is_one_line_and_drawing_goes_on(tmp_path, monkeypatch):
    codec = Codec.fit(sea())
    fields = drawn(codec)
    store = DrawStore.create(tmp_path / "new.zarr", codec, 3, BoxTiling(codec.graph, (2, 4)), key=KEY)
    from zarr.storage import _local

    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(_local, "_put", full)
        with pytest.raises(OSError, match=r"could not write to .*unfinished: No space left on device; free space"):
            store.write(0, 0, fields[0, :8])
    assert len(store.left()) == 24
    filled(store, fields)
    store.complete()


def test_zarr_is_an_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "zarr", None)
    with pytest.raises(ImportError, match=r"stores of draws need zarr: pip install 'nearfield\[dask\]'"):
        DrawStore.create(tmp_path / "new.zarr", Codec.fit(sea()), 3, key=KEY)
    shutil.rmtree(tmp_path)
