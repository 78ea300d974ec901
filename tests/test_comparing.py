"""A report of fields too many for memory looks at some, spread evenly, and sees the borders of tiles."""

import numpy as np
import pytest
import xarray as xr

import nearfield as nf
from nearfield import _comparing
from nearfield.data import lazy
from nearfield.data.fields import Fields
from nearfield.evaluation.agreement import Agreement
from nearfield.evaluation.calibration import levels
from nearfield.evaluation.moment import Yardstick, statistics_of
from nearfield.evaluation.ruler import Ruler
from nearfield.graph import DependencyGraph, tiling
from test_large import smooth

pytest.importorskip("dask")


@pytest.fixture(autouse=True)
def _without_pictures(monkeypatch):
    for module in ("section", "report"):  # pictures are slow
        monkeypatch.setattr(f"nearfield.evaluation.{module}.png", lambda ax: "")


@pytest.fixture(scope="module")
def model():
    return nf.LocalizedDiffusion(method="gaussian", radius=2, random_state=0).fit(maps(60))


def maps(n, seed=0):
    """Maps of 9 x 8 cells, latest first."""
    x = np.random.default_rng(seed).normal(size=(n, 10, 9))
    x = x[:, 1:, 1:] + 0.8 * x[:, :-1, 1:] + 0.5 * x[:, 1:, :-1]
    days = np.datetime64("2001-01-01", "ns") + np.timedelta64(1, "D") * np.arange(n)[::-1]
    return xr.DataArray(x, {"time": days, "y": np.arange(9.0)}, ("time", "y", "x"), "sst", attrs={"units": "K"})


@pytest.mark.slow
@pytest.mark.parametrize("chunks", [{"time": 1}, {"time": -1, "x": 3}])
def test_lazily_stored_data_have_the_report_of_those_in_memory(model, tmp_path, chunks):
    new = maps(40, seed=1)
    found = [model.report(tmp_path / f"{k}.html", x) for k, x in enumerate((new, new.chunk(chunks)))]
    assert found[0] == found[1]
    assert found[0]["data"]["n_samples"] == found[0]["data"]["n_given"] == 40
    assert found[0]["data"]["n_generated"] == 200


def test_of_many_numbers_some_samples_are_looked_at(model, tmp_path, monkeypatch):
    new = maps(40, seed=1)
    monkeypatch.setattr(_comparing, "MOST", 14 * 72)
    seen, encode = [], type(model.codec_).encode
    monkeypatch.setattr(
        type(model.codec_), "encode", lambda self, X, **kw: seen.append(X.sizes["time"]) or encode(self, X, **kw)
    )
    with pytest.warns(UserWarning, match="looks at 14 of 40 samples, spread evenly over the record, and 14 draws"):
        found = model.report(tmp_path / "a.html", new.chunk(time=1))
    assert seen == [14]
    assert found["data"]["n_samples"] == found["data"]["n_generated"] == 14
    assert found["data"]["n_given"] == 40
    assert found["log_density"][1]["samples"] == 14
    page = (tmp_path / "a.html").read_text()
    assert '14</data> of <data value="40" data-path="data/n_given">40</data> data samples, spread evenly over' in page
    days = 39 - np.linspace(0, 39, 14).round().astype(int)  # the latest is the first
    by_hand = model.report(tmp_path / "b.html", new[np.sort(days)])
    same = {k: v for k, v in by_hand["data"].items() if k != "n_given"}
    assert {k: v for k, v in found["data"].items() if k != "n_given"} == same
    assert {k: v for k, v in found.items() if k != "data"} == {k: v for k, v in by_hand.items() if k != "data"}


@pytest.mark.parametrize(("cheap", "n_drawn"), [(1 << 24, 200), (50 * 72, 50), (20 * 72, 40)])
def test_draws_are_at_least_as_many_as_samples(model, monkeypatch, cheap, n_drawn):
    monkeypatch.setattr(_comparing, "_CHEAP", cheap)
    asked = []
    monkeypatch.setattr(_comparing, "compare", lambda *arguments, **_: asked.append(arguments[1:3]))
    new = maps(40, seed=1)
    _comparing.compare_fields(model.model_, Fields(new.chunk(time=9), model.codec_), lambda n: n, {})
    assert asked[0][1] == n_drawn
    np.testing.assert_array_equal(asked[0][0], model.codec_.samples(new).values)  # in the order of time


def test_ten_samples_are_looked_at_of_fields_however_large(model, tmp_path, monkeypatch):
    monkeypatch.setattr(_comparing, "MOST", 0)
    with pytest.warns(UserWarning, match="looks at 10 of 40 samples"):
        found = model.report(tmp_path / "a.html", maps(40, seed=1))
    assert "could not be made" not in found["verdict"]["sentence"]
    assert found["calibration"]["samples"] == 10


def test_members_at_some_vertices_are_those_of_whole_fields(model):
    x = model.codec_.encode(maps(3, seed=2))
    x[:, 10:30] = np.nan
    _, law = next(iter(model.model_.completions(x)))
    vertices, asked = np.array([3, 12, 29]), levels(8, drawn=False)[0].tolist()
    found, random = law.ensemble(8, 0, vertices)
    assert not random
    np.testing.assert_array_equal(found, law.quantiles(asked, 0)[:, :, vertices])


def test_samples_that_were_fitted_are_counted_though_some_are_looked_at(model, tmp_path, monkeypatch):
    monkeypatch.setattr(_comparing, "MOST", 14 * 72)
    with pytest.warns(UserWarning, match="looks at 14 of 60"):
        found = model.report(tmp_path / "a.html", maps(60))
    assert found["data"]["fitted_on"]
    sentence = next(c["sentence"] for c in found["checks"] if c["name"] == "samples per local law")
    assert sentence.startswith("60 samples for local laws")


def test_borders_of_tiles_are_seen():
    """Fields whose tiles are those of different samples, of the same law otherwise; a right one is let pass."""
    graph = DependencyGraph.grid((24, 24))
    x = smooth(800, (24, 24)).values.reshape(800, -1)
    data, drawn = x[:400], x[400:].copy()
    cells = np.arange(24) // 8
    tile = (3 * cells[:, None] + cells).reshape(-1)
    ruler = Ruler.of(graph, tile=tile)
    assert len(ruler.borders) == 2 * 2 * 24
    assert (tile[ruler.borders[:, 0]] != tile[ruler.borders[:, 1]]).all()
    apart = drawn.copy()
    for number in range(9):
        apart[:, tile == number] = np.roll(drawn, number, axis=0)[:, tile == number]
    stick = Yardstick.of(data)
    label = "mean squared difference across borders of tiles"
    place = [s.label for s in statistics_of(ruler)].index(label)
    for generated, status in ((drawn, "pass"), (apart, "fail")):
        found = Agreement(statistics_of(ruler), stick.measure(data, ruler, own=True), stick.measure(generated, ruler))
        assert next(c.status for c in found.checks() if c.name == "roughness") == status
        away = np.exp(found.difference()[place])
        assert (abs(away - 1) < 0.05) == (status == "pass")
    assert "across borders" in next(c.sentence for c in found.checks() if c.name == "roughness").lower()


@pytest.mark.slow
def test_a_report_of_a_tiled_fit_measures_across_its_borders(tmp_path, monkeypatch):
    monkeypatch.setattr(lazy, "WHOLE", 0)
    monkeypatch.setattr(tiling.Tiling.of.__func__, "__defaults__", (200,))
    x = smooth(30, (24, 36))
    fitted = nf.LocalizedDiffusion(method="gaussian", radius=2, pooling=1.0, random_state=0).fit(
        x.chunk({"y": 12, "x": 12})
    )
    factor = fitted.score_.factor
    assert factor.widest_row == np.diff(factor.matrix.indptr).max()
    tiles = _comparing._tiles(fitted.model_.tiling)
    last = [fitted.model_.tiling.counts[1] - 1, len(fitted.model_.tiling) - 1]
    assert tiles.reshape(24, 36)[[0, 0, 23], [0, 35, 35]].tolist() == [0, *last]
    found = fitted.report(tmp_path / "a.html", smooth(30, (24, 36), seed=1))
    row = next(r for r in found["channels"][0]["moments"] if r["label"].endswith("across borders of tiles"))
    assert abs(row["generated"]["value"] / row["data"]["value"] - 1) < 0.1
