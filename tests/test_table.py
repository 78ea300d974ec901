"""Data frames whose columns are no vertices, or no chain, are refused with a line that mends them."""

import warnings

import numpy as np
import pandas as pd
import pytest
import xarray as xr

import nearfield as nf
from nearfield.data.codec import Codec
from nearfield.graph import DependencyGraph

ROWS = np.random.default_rng(21).normal(size=(24, 6)).cumsum(axis=1)
BASE = pd.DataFrame(ROWS, columns=[f"h{k:02d}" for k in range(6)])
DAYS = pd.date_range("1990", periods=24, freq="MS")


def remedy(error):
    """Return the code that a message proposes last."""
    text = str(error.value)
    line = text[text.rindex(" X.") + 1 :]
    depth = 0
    for k, letter in enumerate(line):
        depth += (letter in "([") - (letter in ")]")
        if depth == 0 and line[k:].startswith((", or", ", which")):
            return line[:k]
    return line


CLOCKS = {
    "years": ("year", np.arange(1960, 1984)),
    "years, not in order": ("year", np.random.default_rng(0).permutation(np.arange(1960, 1984))),
    "years of another name": ("jahr", np.arange(1960, 1984)),
    "parts of years": ("date", 1960 + np.arange(24) / 12),
    "days as numbers": ("when", DAYS.strftime("%Y%m%d").astype(int)),
    "days as numbers, not in order": ("when", DAYS.strftime("%Y%m%d").astype(int)[::-1].to_numpy()[np.r_[5:24, :5]]),
    "months as numbers": ("when", DAYS.strftime("%Y%m").astype(int)),
    "an index": ("index", np.arange(24)),
    "an unnamed index": ("Unnamed: 0", np.arange(24)),
    "counting down": ("k", np.arange(24, 0, -1)),
    "months of the year": ("month", np.arange(24) % 12 + 1),
}


@pytest.mark.parametrize(("name", "values"), CLOCKS.values(), ids=CLOCKS.keys())
def test_columns_that_count_or_date_the_rows_are_refused(name, values):
    frame = BASE.assign(**{name: values})[[name, *BASE.columns]]
    with pytest.raises(ValueError, match=f"got column {name!r} that counts or dates the rows") as refused:
        Codec.fit(frame)
    mended = eval(remedy(refused), {"X": frame})
    codec = Codec.fit(mended)
    assert codec.n_vertices == 6
    assert codec.ordered == (name in ("year", "date"))


def test_dates_in_columns_are_to_be_the_index():
    for dates in (DAYS, DAYS.strftime("%Y-%m-%d")):
        frame = BASE.assign(date=dates)
        with pytest.raises(TypeError, match="got column 'date'") as refused:
            Codec.fit(frame)
        assert Codec.fit(eval(remedy(refused), {"X": frame})).ordered


def test_a_column_that_always_increases_is_warned_of():
    frame = BASE.assign(h06=np.random.default_rng(0).exponential(size=24).cumsum())
    with pytest.warns(UserWarning, match="column 'h06' of X always increases") as caught:
        assert Codec.fit(frame).n_vertices == 7
    assert "X.set_index('h06')" in str(caught[0].message)
    Codec.fit(frame.head(6))  # few rows may increase by chance


LONG = pd.DataFrame({"site": np.repeat(np.arange(6), 24), "value": ROWS.T.ravel()})
NAMED = LONG.assign(site=np.repeat(list("uvwxyz"), 24), date=np.tile(DAYS, 6))[["date", "site", "value"]]
CUBE = xr.DataArray(
    ROWS.reshape(24, 2, 3),
    dims=("time", "lat", "lon"),
    coords={"time": DAYS, "lat": [1.5, 2.5], "lon": [3.5, 4.5, 5.5]},
    name="t",
)

LONG_TABLES = {
    "sites": LONG,
    "sites in turn": LONG.iloc[np.arange(144).reshape(6, 24).T.ravel()].reset_index(drop=True),
    "sites, mixed": LONG.sample(frac=1, random_state=0).reset_index(drop=True),
    "sites of different length": LONG.iloc[:130],
    "names and dates": NAMED,
    "years": NAMED.assign(date=np.tile(np.arange(1990, 2014), 6)),
    "places and times": CUBE.to_dataframe().reset_index(),
    "an index of sites": LONG.set_index("site"),
    "an index of places and times": CUBE.to_dataframe(),
    "two variables": CUBE.to_dataset().assign(s=CUBE**2).to_dataframe(),
}


@pytest.mark.parametrize("frame", LONG_TABLES.values(), ids=LONG_TABLES.keys())
def test_long_tables_are_refused_with_the_line_that_makes_them_wide(frame):
    with pytest.raises(ValueError, match="got a long table") as refused:
        Codec.fit(frame)
    text = str(refused.value)
    wide = eval(text[text.rindex(" X") + 1 :], {"X": frame})
    if isinstance(wide, pd.DataFrame):
        wide = wide.dropna()
        assert Codec.fit(wide, graph=DependencyGraph.chain(6)).n_vertices == 6
    else:
        assert Codec.fit(wide).graph == Codec.fit(CUBE).graph


def test_one_column_is_warned_of():
    with pytest.warns(UserWarning, match="X has one column, 'h00'"):
        Codec.fit(BASE[["h00"]])


def test_columns_with_levels_are_refused_with_the_line_that_labels_them():
    wide = CUBE.to_series().unstack(["lat", "lon"])
    for frame in (wide, wide.reset_index(drop=True), wide.rename_axis(columns=[None, None])):
        with pytest.raises(ValueError, match="X must have one level of columns") as refused:
            Codec.fit(frame)
        labelled = eval(remedy(refused), {"X": frame})
        assert Codec.fit(labelled).graph.lattice.shape == (2, 3)
        np.testing.assert_array_equal(labelled.values.reshape(24, 6), ROWS)
        assert Codec.fit(frame, graph=DependencyGraph.grid((2, 3))).n_vertices == 6


@pytest.mark.parametrize(
    "names", [["Oslo", "Bergen", "Bodo"], ["Bergen", "Bodo", "Oslo"], ["h1", "h3", "h2"], [3, 1, 2], ["a1", "b2", "c3"]]
)
def test_columns_of_stations_ask_for_a_graph(names):
    """As a DataArray of stations does: their order says nothing of distance."""
    frame = pd.DataFrame(ROWS[:, :3], columns=names)
    with pytest.raises(ValueError, match=r"X must say which of its columns are neighbours.*graph=DependencyGraph\.knn"):
        Codec.fit(frame)
    assert Codec.fit(frame, graph=DependencyGraph.chain(3)).n_vertices == 3


@pytest.mark.parametrize(
    "names",
    [
        [0, 1, 2],
        [0.5, 10.0, 200.0],
        [30, 20, 10],
        ["d1", "d5", "d20"],
        ["t_2m_1", "t_2m_2", "t_2m_3"],
        ["-1.5", "0", "2"],
        ["a", "b", "c"],
        ["Jan", "Feb", "Mar"],
        ["2001-01-30", "2001-02-28", "2001-03-30"],
    ],
)
def test_columns_that_are_numbered_in_order_are_a_chain(names):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert Codec.fit(pd.DataFrame(ROWS[:, :3], columns=names)).graph == DependencyGraph.chain(3)


def test_rows_of_dates_and_members_are_samples():
    rows = pd.MultiIndex.from_product([DAYS[:8], [1, 2, 3]], names=["date", "member"])
    assert Codec.fit(BASE.set_index(rows)).ordered


def test_frames_come_back_as_frames(tmp_path):
    frame = BASE.set_index(DAYS)
    model = nf.LocalizedDiffusion(method="gaussian", radius=1, pooling=0.5, random_state=0).fit(frame)
    arrays = nf.LocalizedDiffusion(method="gaussian", radius=1, pooling=0.5, random_state=0).fit(
        ROWS, sample_dim="time"
    )
    model.save(tmp_path / "model")
    drawn = nf.load(tmp_path / "model").sample(3, random_state=1)
    np.testing.assert_allclose(drawn, arrays.sample(3, random_state=1))
    assert drawn.columns.equals(frame.columns)
    assert drawn.index.name == "member"
    assert drawn.attrs["nearfield_seed"] == "1"
    gaps = frame.assign(h02=np.nan).rename_axis("day")
    filled = model.impute(gaps, n_samples=2, random_state=1)
    assert filled.index.names == ["member", "day"]
    np.testing.assert_allclose(filled.to_numpy().reshape(2, 24, 6), arrays.impute(gaps.to_numpy(), 2, random_state=1))
    assert filled.loc[1].drop(columns="h02").equals(frame.rename_axis("day").drop(columns="h02"))
