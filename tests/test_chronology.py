"""Samples that are dated are held out in the order of time, however they are stored."""

import numpy as np
import pandas as pd
import pytest
import xarray as xr

import nearfield as nf
from nearfield.data.chronology import is_time, row_order, time_order
from nearfield.data.codec import Codec

FAST = {"method": "gaussian", "random_state": 0}


def record(n=120, d=8, phi=0.97, seed=5):
    """Rows of a slow autoregression: each like the one before, their values nearly independent along the row."""
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(n, d))
    for t in range(1, n):
        rows[t] = phi * rows[t - 1] + np.sqrt(1 - phi**2) * rows[t]
    return xr.DataArray(rows, dims=("time", "x"), coords={"time": pd.date_range("2000", periods=n)})


def orders(n):
    rng = np.random.default_rng(7)
    return {
        "shuffled": rng.permutation(n),
        "month by month": np.argsort(np.arange(n) % 12, kind="stable"),
        "newest first": np.arange(n)[::-1],
    }


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("stored", ["shuffled", "month by month", "newest first"])
def test_a_fit_does_not_depend_on_the_order_in_which_a_record_is_stored(stored):
    """Blocks of storage would let samples be held out beside their neighbours in time, and a wide radius win."""
    data = record()
    other = data.isel(time=orders(data.sizes["time"])[stored])
    model, again = (nf.LocalizedDiffusion(**FAST).fit(x) for x in (data, other))
    assert again.fit_report_.selection == model.fit_report_.selection
    assert again.digest_ == model.digest_
    choice = nf.select_radius(other, random_state=0).choice
    assert choice == nf.select_radius(data, random_state=0).choice
    frames = [pd.DataFrame(x.values, index=x.indexes["time"]) for x in (data, other)]
    one, two = (nf.LocalizedDiffusion(**FAST).fit(x) for x in frames)
    assert one.digest_ == two.digest_
    assert one.fit_report_.selection == model.fit_report_.selection


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_what_belongs_to_samples_comes_back_in_their_order():
    data = record(n=60, d=5)
    order = orders(60)["shuffled"]
    shuffled = data.isel(time=order)
    model = nf.LocalizedDiffusion(**FAST, radius=1, pooling=0.5).fit(shuffled)
    np.testing.assert_allclose(model.score_samples(shuffled), model.score_samples(data)[order])
    gaps = shuffled.where(shuffled.x != 2)
    filled = model.impute(gaps, random_state=0)
    assert filled.time.equals(shuffled.time)
    assert filled.isel(member=0, drop=True).where(gaps.notnull()).equals(gaps)


def coordinate_order(values, **attrs):
    data = xr.DataArray(np.zeros((len(values), 2)), dims=("time", "x"), coords={"time": ("time", values, attrs)})
    return time_order(data, ("time",)).tolist()


def test_times_of_every_kind_are_put_in_order():
    assert coordinate_order([2002, 2001, 2003]) == [1, 0, 2]
    assert coordinate_order([2.5, 0.5, 1.5], units="days since 2000") == [1, 2, 0]
    assert coordinate_order(["2002-01-05", "2001-12-30", "2002-01-04"]) == [1, 2, 0]
    assert coordinate_order(["spring", "autumn", "winter"]) == [0, 1, 2]
    assert coordinate_order(pd.to_datetime(["2002", "2001", "2002"])) == [1, 0, 2]
    assert coordinate_order([3, 1, 2]) == [1, 2, 0]


def test_times_of_a_calendar_are_put_in_order():
    cftime = pytest.importorskip("cftime")
    days = [cftime.DatetimeNoLeap(2001, 1, day) for day in (3, 1, 2)]
    assert coordinate_order(np.array(days, dtype=object)) == [1, 2, 0]
    data = xr.DataArray(np.zeros((3, 2)), dims=("launch", "x"), coords={"launch": np.array(days, dtype=object)})
    assert is_time(data, "launch")


def panel():
    """Four times, not in order, of three members; values are the year but for a little noise."""
    times = pd.to_datetime(["2003", "2001", "2004", "2002"])
    values = 1e-4 * np.random.default_rng(1).normal(size=(4, 3, 2)) + times.year.to_numpy()[:, None, None]
    return xr.DataArray(values, dims=("time", "member", "x"), coords={"time": times, "member": [1, 2, 3]})


def ordered(data, **arguments):
    """Whether the samples are put in the order of their years."""
    codec = Codec.fit(data, **arguments)
    values = codec.samples(data).values.mean(axis=(1, 2))
    wanted = np.sort(np.repeat([2001, 2002, 2003, 2004], len(values) // 4))
    return codec.ordered and np.abs(values - wanted).max() < 1e-3


@pytest.mark.parametrize("dims", [["time", "member"], ["member", "time"]])
def test_samples_of_several_dimensions_are_ordered_by_their_time(dims):
    """Members of one time are held out together, whether the dimensions are stacked before the fit or by it."""
    data = panel()
    assert ordered(data, sample_dim=dims)
    stacked = data.stack(sample=dims)
    assert ordered(stacked)
    assert ordered(stacked.reset_index("sample"))
    frame = pd.DataFrame(stacked.transpose("sample", "x").values, index=stacked.indexes["sample"])
    assert ordered(frame)


def test_years_and_months_go_together_and_months_alone_say_nothing():
    data = xr.DataArray(np.zeros((6, 2)), dims=("sample", "x"))
    dated = data.assign_coords(
        month=("sample", [2, 1, 1, 2, 1, 2]), year=("sample", [2001, 2001, 2000, 2000, 2002, 2002])
    )
    assert time_order(dated, ("sample",)).tolist() == [2, 3, 1, 0, 4, 5]
    assert is_time(dated, "sample")
    assert not is_time(dated.drop_vars("year"), "sample")
    cycles = xr.DataArray(np.zeros((4, 2)), dims=("month", "x"), coords={"month": [1, 2, 1, 2]})
    assert time_order(cycles, ("month",)).tolist() == [0, 1, 2, 3]


def test_rows_without_dates_stay_in_their_order():
    rows = np.zeros((3, 2))
    assert row_order(pd.DataFrame(rows, index=[3, 1, 2])).tolist() == [0, 1, 2]
    assert row_order(pd.DataFrame(rows, index=list("cab"))).tolist() == [0, 1, 2]
    assert row_order(rows.tolist()).tolist() == [0, 1, 2]
    assert row_order(pd.DataFrame(rows, index=pd.PeriodIndex(["2003", "2001", "2002"], freq="Y"))).tolist() == [1, 2, 0]
    assert row_order(pd.DataFrame(rows, index=pd.Index([2003, 2001, 2002], name="year"))).tolist() == [1, 2, 0]
