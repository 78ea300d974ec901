"""Zarr stores: chunks of tiles hold what whole fields held; the command line takes stores as it takes files."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
import xarray as xr
from typer.testing import CliRunner

import nearfield as nf
from nearfield import _files
from nearfield.cli import app
from nearfield.data import rechunking
from nearfield.data.lazy import LazyData, is_lazy
from nearfield.data.rechunking import chunk_advice, rechunked
from nearfield.data.zarr_store import open_zarr, replace_zarr
from nearfield.graph.tiling import BoxTiling

pytest.importorskip("dask")
pytest.importorskip("zarr")


@pytest.fixture(scope="module")
def days(tmp_path_factory):
    """Ten files of one day each, some coordinates with time, some without."""
    folder = tmp_path_factory.mktemp("days")
    x = np.random.default_rng(0).normal(280, 10, (20, 30, 40)).astype("f4")
    x[:, 5:9, :20] = np.nan
    for k in range(10):
        day = np.datetime64("2000-01-01", "ns") + k * np.timedelta64(1, "D")
        coords = {"time": [day], "lat": np.linspace(-30, 30, 30), "lon": np.arange(40.0), "season": ("time", ["djf"])}
        one = xr.Dataset({"sst": (("time", "lat", "lon"), x[k : k + 1], {"units": "K"})}, coords, {"title": "days"})
        one.sst.encoding = {"scale_factor": 0.001, "add_offset": 280.0, "dtype": "i4", "_FillValue": -(2**31)}
        one.to_netcdf(folder / f"{k:02}.nc", engine="h5netcdf")
    return folder


@pytest.fixture
def data(days):
    return xr.open_mfdataset(str(days / "*.nc"), engine="h5netcdf", combine="nested", concat_dim="time",
                             coords="minimal", data_vars="minimal", compat="override")  # fmt: skip


def test_chunks_of_tiles_hold_the_same(data, tmp_path):
    written = rechunked(data, tmp_path / "tiles.zarr", n_cells=100)
    xr.testing.assert_identical(written.compute(), data.compute())
    assert written.sst.chunks[0] == (10,)
    assert written.sst.chunksizes["lat"] == (10, 10, 10)
    assert [path.name for path in tmp_path.iterdir()] == ["tiles.zarr"]
    one = rechunked(data.sst.transpose("lon", "time", "lat"), tmp_path / "one.zarr", n_cells=100)
    xr.testing.assert_identical(one.compute(), data.sst.transpose("lon", "time", "lat").compute())
    plain = rechunked(data.sst.data, tmp_path / "plain.zarr", n_cells=100)
    np.testing.assert_array_equal(plain.compute(), data.sst.values)
    with pytest.raises(FileExistsError, match="path must be new"):
        rechunked(data, tmp_path / "tiles.zarr")


def test_the_advice_counts_what_tiles_read(data):
    lazy = LazyData.of(data)
    tiling = BoxTiling(lazy.graph, (10, 10))
    said = chunk_advice(lazy.source, tiling)
    size = data.sst.nbytes / 1e9
    assert said.startswith(f"reading 12 tiles reads {12 * size:.3g} GB for {size:.3g} GB, since variable 'sst'")
    assert "chunks of 1 x 30 x 40 (time, lat, lon)" in said
    assert chunk_advice(LazyData.of(data.chunk(time=-1, lat=10, lon=20)).source, tiling) is None
    # lat: tiles 0:10, 10:20, 20:30 in chunks 0:15, 15:30 touch 15 + 30 + 15
    uneven = LazyData.of(data.chunk(time=-1, lat=15, lon=40)).source
    assert f"reads {2 * 4 * size:.3g} GB" in chunk_advice(uneven, tiling)


def test_an_interrupted_rechunking_goes_on(data, tmp_path, monkeypatch):
    monkeypatch.setattr(rechunking, "_BYTES", 3 * 30 * 40 * data.sst.dtype.itemsize)
    begun, real = [], rechunking.loaded

    def failing(part, name, starts, place=""):
        begun.append(starts["time"])
        if len(begun) == 3:
            raise OSError("the disk is full")
        return real(part, name, starts, place)

    monkeypatch.setattr(rechunking, "loaded", failing)
    with pytest.raises(OSError, match="the disk is full"):
        rechunked(data, tmp_path / "tiles.zarr", n_cells=100)
    assert not (tmp_path / "tiles.zarr").exists()
    written = rechunked(data, tmp_path / "tiles.zarr", n_cells=100)
    assert begun == [0, 3, 6, 6, 9]
    xr.testing.assert_identical(written.compute(), data.compute())
    assert [path.name for path in tmp_path.iterdir()] == ["tiles.zarr"]


def test_what_is_left_of_other_data_is_not_taken(data, tmp_path, monkeypatch):
    monkeypatch.setattr(rechunking, "_BYTES", 3 * 30 * 40 * data.sst.dtype.itemsize)
    real = rechunking.loaded

    def failing(part, name, starts, place=""):
        if starts["time"]:
            raise OSError("no more")
        return real(part, name, starts, place)

    held = data.assign(ice=data.sst.compute() * 2)
    others = [data.assign(sst=data.sst + 1), data.assign_coords(lat=data.lat + 1), held.assign(ice=held.ice + 1)]
    for k, (begun, other) in enumerate(zip((data, data, held), others, strict=True)):
        with monkeypatch.context() as patch:
            patch.setattr(rechunking, "loaded", failing)
            with pytest.raises(OSError, match="no more"):
                rechunked(begun, tmp_path / f"{k}.zarr", n_cells=100)
        xr.testing.assert_identical(rechunked(other, tmp_path / f"{k}.zarr", n_cells=100).compute(), other.compute())


def test_a_store_is_replaced_whole_or_not_at_all(tmp_path):
    old, new = (xr.DataArray(np.full(5, value), dims="x", name="a") for value in (1.0, 2.0))
    target = tmp_path / "a.zarr"
    replace_zarr(target, old)
    replace_zarr(target, new)
    assert open_zarr(target).a.compute().identical(new)
    unfit = xr.DataArray(np.array([object()] * 5), dims="x", name="a")
    with pytest.raises((TypeError, ValueError)):
        replace_zarr(target, unfit)
    assert open_zarr(target).a.compute().identical(new)
    assert [path.name for path in tmp_path.iterdir()] == ["a.zarr"]


def run(*arguments, code=0):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)
    assert result.exit_code == code, result.output
    return result


@pytest.mark.slow
def test_the_command_line_reads_and_writes_stores(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    x = np.random.default_rng(5).normal(size=(40, 6, 8)) + 3
    x[:, 0, :2] = np.nan
    field = xr.DataArray(x, {"time": np.arange(40)}, ("time", "y", "x"), name="sst", attrs={"units": "degC"})
    field.to_netcdf("a.nc", engine="h5netcdf")
    replace_zarr(tmp_path / "a.zarr", xr.Dataset({"sst": field, "other": field + 1}))
    for name in ("nc", "zarr"):
        run("fit", f"a.{name}", "-v", "sst", "--method", "gaussian", "--radius", 1, "--pooling", 1, "--seed", 4,
            "-o", f"{name}.model")  # fmt: skip
        run("sample", f"{name}.model", "-n", 3, "--seed", 1, "-o", f"out.{name}")
    with xr.open_dataarray("out.nc", engine="h5netcdf") as expected:
        xr.testing.assert_equal(open_zarr("out.zarr").sst.compute(), expected.load())
    scores = [run("score", f"{name}.model", f"a.{name}", "--json").stdout for name in ("nc", "zarr")]
    assert json.loads(scores[0]) == json.loads(scores[1])
    gaps = field[:2].copy()
    gaps[:, 2:4] = np.nan
    replace_zarr(tmp_path / "gaps.zarr", gaps)
    run("impute", "zarr.model", "gaps.zarr", "-n", 2, "--seed", 0, "-o", "filled.zarr")
    np.testing.assert_array_equal(open_zarr("filled.zarr").sst.values[1, :, 4:], gaps.values[:, 4:])
    model = nf.load("zarr.model")
    filled = model.impute(gaps, n_samples=2, random_state=0)
    xr.testing.assert_equal(open_zarr("filled.zarr").sst.compute(), filled)
    run("score", "zarr.model", "gaps.zarr", "--surprise", "odd.zarr")
    odd = open_zarr("odd.zarr").sst
    assert odd.attrs["units"] == "nat"
    xr.testing.assert_equal(odd.compute(), model.surprise(gaps))
    run("report", "zarr.model", "a.zarr", "-o", "page.html")
    assert "gaps.zarr" in run("fit", "gaps.zarr", "-o", "gaps.zarr", code=1).stderr


def test_failures_with_stores_are_one_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty.zarr").mkdir()
    for path, words in (("absent.zarr", "absent.zarr"), ("empty.zarr", "must be a zarr store")):
        message = run("fit", path, "-o", "m", code=1).stderr
        assert message.startswith("error: ")
        assert words in message
        assert message.count("\n") == 1
    from nearfield.data.atomic_write import require_target

    with pytest.raises(FileExistsError, match="must be new or a zarr store"):
        require_target("--out", "empty.zarr")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "pip install 'nearfield[dask]'" in run("fit", "absent.zarr", "-o", "m", code=1).stderr


def test_large_files_stay_on_disk(tmp_path, monkeypatch):
    monkeypatch.setattr(_files, "_LARGE", 1000)
    field = xr.DataArray(np.random.default_rng(0).normal(size=(5, 30, 40)), dims=("time", "y", "x"), name="sst")
    field.to_netcdf(tmp_path / "a.nc", engine="h5netcdf")
    np.save(tmp_path / "a.npy", field.values)
    for name in ("a.nc", "a.npy"):
        data = _files.read(tmp_path / name, None)
        assert is_lazy(data)
        np.testing.assert_array_equal(np.asarray(data), field.values)
    (tmp_path / "a.npy").write_bytes((tmp_path / "a.npy").read_bytes()[:2000])
    with pytest.raises(ValueError, match="must hold one array of numbers"):
        _files.read(tmp_path / "a.npy", None)


KILLED = """
import json, os, signal, sys, time
import numpy as np, xarray as xr, zarr, dask.array
from nearfield.data import rechunking

rechunking._BYTES = 1 << 14
target = sys.argv[1]
again, killed, done = np.random.default_rng(0), 0, False

def written():
    try:
        with open(os.path.dirname(target) + "/.a.zarr.partial/progress.json") as file:
            return json.load(file)["samples"]
    except OSError:
        return 0

while not done:
    before = written()
    child = os.fork()
    if child == 0:
        x = dask.array.arange(200 * 40 * 50, chunks=-1, dtype="f4").reshape(200, 40, 50).rechunk((1, 40, 50))
        rechunking.rechunked(xr.DataArray(x, dims=("time", "y", "x"), name="f"), target, n_cells=400)
        os._exit(0)
    if killed < 20:
        while written() < before + 2 and not os.path.exists(target):
            time.sleep(0.005)
        time.sleep(again.uniform(0.0, 0.1))
        os.kill(child, signal.SIGKILL)
    assert os.waitpid(child, 0)[1] in (0, signal.SIGKILL)
    done = os.path.exists(target)
    killed += not done
print(killed)
"""


@pytest.mark.slow
def test_a_killed_rechunking_goes_on_with_the_same_bits(tmp_path):
    told = subprocess.run(
        [sys.executable, "-c", KILLED, tmp_path / "a.zarr"], check=True, capture_output=True, text=True, timeout=120
    )
    assert int(told.stdout) > 5
    expected = np.arange(200 * 40 * 50, dtype="f4").reshape(200, 40, 50)
    np.testing.assert_array_equal(open_zarr(tmp_path / "a.zarr").f.values, expected)
