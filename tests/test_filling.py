"""Fields that are completed or scored a few at a time, in memory or in a store, are those of one call."""

import errno
import os

import numpy as np
import pytest
import xarray as xr

import nearfield as nf
from nearfield import conditional
from nearfield.data import lazy
from nearfield.data.fields import Fields

pytest.importorskip("dask")
pytest.importorskip("zarr")

RNG = np.random.default_rng(0)
LAND = (slice(None), slice(0, 2), slice(3, 5))


def maps(n=40, seed=0, **changes):
    """Maps of 6 x 5 cells, some of them land, latest first."""
    x = np.random.default_rng(seed).normal(size=(n, 7, 6))
    x = x[:, 1:, 1:] + 0.8 * x[:, :-1, 1:] + 0.5 * x[:, 1:, :-1]
    x[LAND] = np.nan
    days = np.datetime64("2001-01-01", "ns") + np.timedelta64(1, "D") * np.arange(n)[::-1]
    month = ("time", np.arange(n) % 12)
    coords = {"time": days, "y": np.arange(6.0), "x": np.arange(5.0), "month": month}
    return xr.DataArray(x, coords, ("time", "y", "x"), "sst", attrs={"units": "K"} | changes)


def with_gaps(data, seed=2):
    """Fields with gaps, two of which are the same."""
    rng = np.random.default_rng(seed)
    hidden = xr.DataArray(rng.random((data.sizes["time"], 6, 5)) < 0.3, dims=("time", "y", "x"))
    hidden[3] = hidden[1]
    return data.where(~hidden)


@pytest.fixture(scope="module")
def model():
    return nf.LocalizedDiffusion(method="gaussian", radius=2, random_state=0).fit(maps())


@pytest.fixture(scope="module")
def pair():
    """A model of two variables on members of runs, and such data with gaps."""
    x = np.random.default_rng(3).normal(size=(2, 6, 4, 9)).cumsum(axis=1)
    whole = xr.Dataset(
        {"a": (("y", "member", "run"), x[0]), "b": (("run", "y", "member"), (x[1] + x[0]).transpose(2, 0, 1))},
        attrs={"title": "two"},
    ).rename(member="lane")
    settings = {"method": "gaussian", "radius": 1, "random_state": 0}
    fitted = nf.LocalizedDiffusion(**settings).fit(whole, sample_dim=("run", "lane"))
    seen = xr.DataArray(np.random.default_rng(4).random((6, 4, 9)) < 0.7, dims=("y", "lane", "run"))
    return fitted, whole.where(seen).transpose("y", "lane", "run").astype("f4")


def few(monkeypatch, n=3, size=30):
    """Read so many fields at a time."""
    monkeypatch.setattr(lazy, "WHOLE", n * size)


@pytest.mark.slow
@pytest.mark.parametrize("chunks", [None, {"time": 2}, {"time": -1, "y": 3}])
@pytest.mark.parametrize("asked", [{"n_samples": 3}, {"interval": (0.1, 0.5, 0.9)}])
def test_a_store_of_completed_fields_is_what_impute_returns(model, tmp_path, monkeypatch, chunks, asked):
    partial = with_gaps(maps(8, seed=1))
    expected = model.impute(partial, random_state=5, **asked)
    few(monkeypatch)
    given = partial if chunks is None else partial.chunk(chunks)
    stored = model.impute(given, random_state=5, store=tmp_path / "filled.zarr", **asked)
    assert stored.chunks is not None
    xr.testing.assert_identical(stored.load(), expected)
    assert os.listdir(tmp_path) == ["filled.zarr"]
    xr.testing.assert_identical(model.impute(given, random_state=5, **asked), expected)


def test_lazy_fields_are_read_a_few_at_a_time(model, monkeypatch, tmp_path):
    partial = with_gaps(maps(8, seed=1)).chunk(time=1)
    few(monkeypatch)
    seen, encode = [], type(model.codec_).encode
    monkeypatch.setattr(
        type(model.codec_), "encode", lambda self, X, **kw: seen.append(X.sizes["time"]) or encode(self, X, **kw)
    )
    model.impute(partial, random_state=5)
    assert seen == [3, 3, 2]
    model.surprise(partial)
    assert seen == [3, 3, 2] * 2
    model.surprise(partial, store=tmp_path / "odd.zarr")
    assert seen == [3, 3, 2] * 4  # once for their fingerprints


@pytest.mark.slow
@pytest.mark.parametrize("lazily", [False, True])
def test_several_axes_and_variables_are_filled_in_a_store(pair, tmp_path, monkeypatch, lazily):
    fitted, partial = pair
    expected = fitted.impute(partial, 2, random_state=1)
    scored = fitted.surprise(partial)
    few(monkeypatch, n=5, size=12)
    given = partial.chunk(lane=3, run=2) if lazily else partial
    stored = fitted.impute(given, 2, random_state=1, store=tmp_path / "filled.zarr").load()
    xr.testing.assert_identical(stored, expected)
    assert stored["b"].dtype == np.float32
    xr.testing.assert_identical(fitted.surprise(given, store=tmp_path / "odd.zarr").load(), scored)


def test_a_single_field_and_plain_arrays_are_filled_in_a_store(model, tmp_path):
    single = with_gaps(maps(8, seed=1))[2].drop_vars(["time", "month"])
    stored = model.impute(single.chunk(), 2, random_state=1, store=tmp_path / "one.zarr")
    xr.testing.assert_identical(stored.load(), model.impute(single, 2, random_state=1))
    odd = model.surprise(single, store=tmp_path / "odd.zarr")
    xr.testing.assert_identical(odd.load(), model.surprise(single))
    x = RNG.normal(size=(30, 9)).cumsum(axis=1)
    plain = nf.LocalizedDiffusion(method="gaussian", random_state=0).fit(x)
    x[:4, 3:5] = np.nan
    stored = plain.impute(x[:4], 2, random_state=1, store=tmp_path / "plain.zarr")
    assert stored.dims == ("member", "sample", "column")
    np.testing.assert_array_equal(stored, plain.impute(x[:4], 2, random_state=1))


def test_members_that_are_axes_already_get_another_name(tmp_path):
    x = maps().rename(time="member").drop_vars(["member", "month"])
    fitted = nf.LocalizedDiffusion(method="gaussian", radius=1, random_state=0).fit(x)
    partial = x[:3].copy()
    partial[:, 4, 4] = np.nan
    stored = fitted.impute(partial, 2, random_state=1, store=tmp_path / "filled.zarr")
    assert stored.dims == ("draw", "member", "y", "x")
    xr.testing.assert_identical(stored.load(), fitted.impute(partial, 2, random_state=1))


def test_members_of_large_fields_are_drawn_some_at_a_time(model, tmp_path, monkeypatch):
    partial = with_gaps(maps(5, seed=1))
    together = model.impute(partial, 7, random_state=5)
    monkeypatch.setattr(conditional, "_NUMBERS", 60)  # two members
    apart = model.impute(partial, 7, random_state=5)
    np.testing.assert_allclose(apart, together, rtol=1e-12)
    stored = model.impute(partial, 7, random_state=5, store=tmp_path / "filled.zarr")
    np.testing.assert_array_equal(stored, apart)


def test_completing_goes_on_where_it_was_ended(model, tmp_path, monkeypatch):
    from zarr.storage import _local

    partial = with_gaps(maps(8, seed=1))
    few(monkeypatch)
    put, count = _local._put, []

    def full(path, *rest, **options):
        if "/c/" in str(path):
            count.append(path)
        if len(count) > 9:
            raise OSError(errno.ENOSPC, "No space left on device")
        return put(path, *rest, **options)

    with monkeypatch.context() as patch:
        patch.setattr(_local, "_put", full)
        with pytest.raises(OSError, match=r"filled.zarr.unfinished: No space left on device; free space"):
            model.impute(partial, 2, random_state=5, store=tmp_path / "filled.zarr")
    done = len(list((tmp_path / "filled.zarr.unfinished").rglob("sst/c/*/*/*/*")))
    assert 0 < done < 16
    other = partial.copy()
    other[7, 5, 4] = 0.0
    later = partial.assign_coords(time=partial.time + 1)
    for given, seed, differs in ((other, 5, "data"), (later, 5, "labels"), (partial, 6, "filling, labels")):
        with pytest.raises(ValueError, match=rf"store of draws of other data or settings \({differs}\)"):
            model.impute(given, 2, random_state=seed, store=tmp_path / "filled.zarr")
    drawn = []
    sample = conditional.GaussianConditional._drawn
    monkeypatch.setattr(conditional.GaussianConditional, "_drawn", lambda self, *a: drawn.append(a) or sample(self, *a))
    stored = model.impute(partial, 2, random_state=5, store=tmp_path / "filled.zarr")
    assert len(drawn) < 7  # of as many patterns
    monkeypatch.undo()
    xr.testing.assert_identical(stored.load(), model.impute(partial, 2, random_state=5))


@pytest.mark.slow
def test_processes_complete_fields_to_the_same_bits(model, tmp_path, monkeypatch):
    partial = with_gaps(maps(8, seed=1)).chunk(time=1)
    few(monkeypatch)
    stored = [
        nf.LocalizedDiffusion(method="gaussian", radius=2, random_state=0, n_jobs=workers)
        .fit(maps())
        .impute(partial, 2, random_state=5, store=tmp_path / f"{workers}.zarr")
        .load()
        for workers in (None, 2)
    ]
    np.testing.assert_array_equal(*stored)


def test_fill_numbers_are_refused_where_they_are(model, tmp_path, monkeypatch):
    partial = with_gaps(maps(8, seed=1))
    partial[7, 5, 4] = -9999.0
    few(monkeypatch)
    with pytest.raises(ValueError, match="must have NaN where nothing was observed, got -9999"):
        model.impute(partial.chunk(time=1), store=tmp_path / "filled.zarr")


@pytest.mark.parametrize("chunks", [{"time": 1}, {"time": -1, "x": 2}])
def test_some_fields_are_taken_of_many(chunks, model, pair):
    data = maps(12, seed=5)
    fields, whole = Fields(data.chunk(chunks), model.codec_), Fields(data, model.codec_)
    some = np.array([7, 0, 11])
    np.testing.assert_array_equal(fields.take(some), whole.take(some))
    np.testing.assert_array_equal(fields.take(fields.order), model.codec_.samples(data, allow_missing=True).values)
    assert fields.order[0] == 11
    fitted, two = pair
    fields, whole = Fields(two.chunk(run=2), fitted.codec_), Fields(two, fitted.codec_)
    assert len(fields) == len(whole) == 36
    np.testing.assert_array_equal(fields.take(some * 3), whole.take(some * 3))
    np.testing.assert_array_equal(np.concatenate([fields.read(s) for s in fields.spans()]), whole.read(range(36)))


def test_data_of_another_layout_are_refused_as_in_memory(model, tmp_path):
    for wrong in (maps(4).rename(y="lat"), maps(4).to_dataset(), maps(4).isel(x=slice(3))):
        with pytest.raises((TypeError, ValueError)) as whole:
            model.impute(wrong)
        for given, store in ((wrong.chunk(), None), (wrong, tmp_path / "a.zarr"), (wrong.chunk(), tmp_path / "a.zarr")):
            with pytest.raises(type(whole.value)) as parts:
                model.impute(given, store=store)
            assert str(parts.value) == str(whole.value)
