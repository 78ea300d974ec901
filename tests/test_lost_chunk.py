"""Chunks that a store lacks are not taken for land without a word."""

import warnings

import numpy as np
import pytest
import xarray as xr

from nearfield.data.lazy import LazyData
from nearfield.data.lost_chunk import warn_of_lost_chunks

pytest.importorskip("dask")


def looked_at(present):
    """Look at data in chunks of 10 x 10 with these cells."""
    x = xr.DataArray(np.where(present, 1.0, np.nan)[None].repeat(3, axis=0), dims=("time", "y", "x"), name="sst")
    warn_of_lost_chunks(LazyData.of(x.chunk(y=10, x=10)).source, present.reshape(-1))


@pytest.mark.parametrize("place", [(slice(10, 20), slice(20, 30)), (slice(0, 10), slice(0, 20))])
def test_a_lost_chunk_is_named(place):
    present = np.ones((32, 45), dtype=bool)
    present[place] = False
    first = f"y {place[0].start} to {place[0].stop - 1}, x {place[1].start}"
    with pytest.warns(UserWarning, match=f"of the chunks of variable 'sst' hold no value .* the first {first}"):
        looked_at(present)


@pytest.mark.parametrize("place", [(slice(9, 20), slice(20, 30)), (slice(0, 32), slice(0, 45)), (0, 0)])
def test_land_is_no_lost_chunk(place):
    present = np.ones((32, 45), dtype=bool)
    present[place] = False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        looked_at(present)


def test_a_file_that_is_gone_is_noticed(tmp_path):
    x = xr.DataArray(np.random.default_rng(0).normal(size=(5, 20, 20)), dims=("time", "y", "x"), name="sst")
    x.to_zarr(tmp_path / "x.zarr", encoding={"sst": {"chunks": (5, 10, 10)}}, consolidated=False)
    (tmp_path / "x.zarr" / "sst" / "c" / "0" / "1" / "0").unlink()
    stored = xr.open_zarr(tmp_path / "x.zarr", consolidated=False)["sst"]
    present = ~np.isnan(stored.to_numpy()).all(axis=0)
    with pytest.warns(UserWarning, match="1 of the chunks of variable 'sst' hold"):
        warn_of_lost_chunks(LazyData.of(stored).source, present.reshape(-1))
