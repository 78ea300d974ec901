"""Fits of data that are read in parts, through the estimator."""

from contextlib import contextmanager
from functools import partial
from unittest import mock

import numpy as np
import pytest
import xarray as xr

import nearfield as nf
from nearfield import _drawing
from nearfield.data import lazy, patches
from nearfield.data.draw_store import DrawStore
from nearfield.data.tile_store import TileStore
from nearfield.graph import DependencyGraph, tiling
from nearfield.graph.tiling import Box
from nearfield.score.field import GaussianField

pytest.importorskip("dask")


@pytest.fixture
def small(monkeypatch):
    """Small tiles, and no data small enough to be loaded."""
    monkeypatch.setattr(lazy, "WHOLE", 0)
    monkeypatch.setattr(tiling.Tiling.of.__func__, "__defaults__", (400,))


def smooth(n, shape, seed=0):
    """Correlated fields with a mean of 280 and a scale of 3."""
    x = np.random.default_rng(seed).normal(size=(n, shape[0] + 1, shape[1] + 1))
    x = x[:, 1:] + 0.7 * x[:, :-1]
    x = x[:, :, 1:] + 0.7 * x[:, :, :-1]
    return xr.DataArray(
        280 + 3 * x / x.std(),
        dims=("time", "y", "x"),
        name="t",
        coords={"y": np.arange(shape[0]) * 2.0, "x": np.arange(shape[1])},
        attrs={"units": "K"},
    )


@pytest.mark.slow
def test_a_lazy_fit_is_labelled_and_draws_the_law_of_the_data(small):
    x = smooth(60, (40, 44))
    model = nf.LocalizedDiffusion(method="gaussian", random_state=0, radius=3, pooling=1.0).fit(
        x.chunk({"y": 15, "x": 15})
    )
    assert "Fitted in 4 tiles of 20 x 20 cells" in model.fit_report_.reason
    drawn = model.sample(200, random_state=1)
    assert drawn.dims == ("member", "y", "x")
    assert drawn.attrs["units"] == "K"
    assert np.array_equal(drawn.y, x.y)
    spread = ((drawn - 280) ** 2).mean() / ((x - 280) ** 2).mean()
    assert 0.93 < float(spread) < 1.07
    lag = [float(((f - 280) * (f.shift(x=1) - 280)).mean() / 9) for f in (x, drawn)]
    assert abs(lag[0] - lag[1]) < 0.03


@pytest.mark.slow
def test_a_lazy_fit_agrees_with_the_fit_in_memory(small):
    x = smooth(60, (40, 44))
    settings = {"method": "gaussian", "radius": 3, "pooling": 1.0, "random_state": 0}
    lazily = nf.LocalizedDiffusion(**settings).fit(x.chunk({"y": 20, "x": 20}))
    whole = nf.LocalizedDiffusion(**settings).fit(x)
    assert np.allclose(lazily.marginal_.center, whole.marginal_.center)
    held_out = smooth(40, (40, 44), seed=1)
    difference = (lazily.score_samples(held_out) - whole.score_samples(held_out)) / (40 * 44)
    assert abs(difference.mean()) < 0.005


@pytest.mark.slow
def test_a_lazy_model_is_saved_and_loaded_as_a_folder(small, tmp_path):
    x = smooth(30, (40, 44))
    model = nf.LocalizedDiffusion(method="gaussian", radius=3, pooling=1.0, random_state=0).fit(x.chunk({"y": 20}))
    model.save(tmp_path / "maps.nearfield")
    loaded = nf.load(tmp_path / "maps.nearfield")
    assert np.array_equal(loaded.sample(2, random_state=5), model.sample(2, random_state=5))
    assert loaded.digest_ == model.digest_


@contextmanager
def disk_full_after(tiles):
    """Let a number of tiles be written, and no more."""
    written, write = [], TileStore.write

    def failing(self, tile, arrays, stage="field"):
        if len(written) == tiles:
            raise OSError("no space left")
        written.append(tile)
        write(self, tile, arrays, stage)

    with mock.patch.object(TileStore, "write", failing):
        yield


@pytest.mark.slow
def test_a_fit_goes_on_with_the_tiles_of_its_folder(small, tmp_path):
    x = smooth(30, (40, 44)).chunk({"y": 20})
    settings = {"method": "gaussian", "radius": 3, "pooling": 1.0, "random_state": 0}
    whole = nf.LocalizedDiffusion(**settings).fit(x, checkpoint=tmp_path / "whole")
    with disk_full_after(3), pytest.raises(OSError, match="no space left"):
        nf.LocalizedDiffusion(**settings).fit(x, checkpoint=tmp_path / "part")
    with pytest.raises(ValueError, match="unfinished fit"):
        nf.load(tmp_path / "part")
    with pytest.raises(ValueError, match="other data or settings"):
        nf.LocalizedDiffusion(**settings | {"radius": 2}).fit(x, checkpoint=tmp_path / "part")
    resumed = nf.LocalizedDiffusion(**settings).fit(x, checkpoint=tmp_path / "part")
    assert np.array_equal(resumed.sample(1, random_state=0), whole.sample(1, random_state=0))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"method": "windowed"}, "method must be 'gaussian', 'hybrid' or 'auto' for data that are read in parts"),
        ({"method": "gaussian", "marginal": "quantile"}, "marginal must be one of .* for data that are read in parts"),
    ],
)
def test_what_cannot_be_fitted_in_parts_is_refused(small, settings, message):
    with pytest.raises(ValueError, match=message):
        nf.LocalizedDiffusion(random_state=0, **settings).fit(smooth(20, (40, 44)).chunk({"y": 20}))


def with_gaps(x, seed=1):
    """Fields with a swath of a fifth missing in most, and scattered values."""
    rng = np.random.default_rng(seed)
    missing = rng.random(x.shape) < 0.1
    for k in range(len(x)):
        first = rng.integers(x.shape[2])
        missing[k][:, first : first + x.shape[2] // 5] |= k % 5 > 0
    return x.where(~missing)


@pytest.mark.slow
def test_a_lazy_fit_with_gaps_agrees_with_the_fit_in_memory(small):
    x, held_out = with_gaps(smooth(60, (30, 34))), smooth(60, (30, 34), seed=1)
    settings = {"method": "gaussian", "radius": 3, "pooling": 1.0, "random_state": 0}
    lazily = nf.LocalizedDiffusion(**settings).fit(x.chunk({"y": 20, "x": 20}))
    whole = nf.LocalizedDiffusion(**settings).fit(x)
    assert "of the values are missing; the field is fitted to the others" in lazily.fit_report_.reason
    found, expected = lazily.fit_report_.missing, whole.fit_report_.missing
    assert (found.share, found.n_observed) == (expected.share, expected.n_observed)
    assert np.allclose(lazily.marginal_.scale, whole.marginal_.scale, rtol=0.01)
    difference = (lazily.score_samples(held_out) - whole.score_samples(held_out)) / (30 * 34)
    assert abs(difference.mean()) < 0.005
    drawn = lazily.sample(100, random_state=1)
    assert 0.93 < float(((drawn - 280) ** 2).mean() / ((held_out - 280) ** 2).mean()) < 1.07


@pytest.mark.slow
def test_gaps_give_the_same_bits_on_processes_and_after_a_kill(small, tmp_path):
    x = with_gaps(smooth(24, (30, 34))).chunk({"y": 20})
    settings = {"method": "auto", "radius": 2, "pooling": 1.0, "random_state": 0}
    alone = nf.LocalizedDiffusion(**settings).fit(x, checkpoint=tmp_path / "alone")
    assert {path.name.rsplit("-", 1)[0] for path in (tmp_path / "alone").glob("*-*")} == {"field-2"}
    drawn = alone.sample(2, random_state=1)
    other = nf.LocalizedDiffusion(**settings, n_jobs=2).fit(x)
    assert np.array_equal(other.sample(2, random_state=1), drawn)
    with disk_full_after(19), pytest.raises(OSError, match="no space left"):
        nf.LocalizedDiffusion(**settings).fit(x, checkpoint=tmp_path / "part")
    resumed = nf.LocalizedDiffusion(**settings).fit(x, checkpoint=tmp_path / "part")
    assert np.array_equal(resumed.sample(2, random_state=1), drawn)
    assert resumed.digest_ == alone.digest_


def test_gaps_of_lazy_data_are_refused_where_complete_fields_are_needed(small):
    x = smooth(20, (40, 44))
    x[3, 5, 7] = np.nan
    lazily = x.chunk({"y": 20})
    with pytest.raises(ValueError, match="data contains NaN in some samples or variables at 1 of 1760 vertices"):
        nf.LocalizedDiffusion(method="gaussian", random_state=0).fit(lazily, missing="error")
    with pytest.raises(ValueError, match="networks are trained on complete crops"):
        nf.LocalizedDiffusion(method="hybrid", pooling=1.0, random_state=0).fit(lazily)
    x[:17, 5, 7] = np.nan
    with pytest.raises(ValueError, match="at least 5 values of each variable at a vertex"):
        nf.LocalizedDiffusion(method="gaussian", random_state=0).fit(x.chunk({"y": 20}))


@pytest.mark.slow
def test_lazy_samples_without_a_value_are_left_out(small):
    x = smooth(30, (40, 44))
    settings = {"method": "gaussian", "radius": 2, "pooling": 1.0, "random_state": 0}
    without = nf.LocalizedDiffusion(**settings).fit(x[np.arange(30) != 4].chunk({"y": 20}))
    x[4] = np.nan
    with pytest.warns(UserWarning, match="1 of 30 samples have no value at all, first number 4"):
        model = nf.LocalizedDiffusion(**settings).fit(x.chunk({"y": 20}))
    assert model.fit_report_.n_samples == 29
    assert np.array_equal(model.sample(1, random_state=0), without.sample(1, random_state=0))


@pytest.mark.slow
def test_draws_in_a_store_are_those_in_memory(small, tmp_path):
    x = smooth(30, (40, 44))
    lazily = nf.LocalizedDiffusion(method="gaussian", radius=3, pooling=1.0, random_state=0).fit(x.chunk({"y": 20}))
    stored = lazily.sample(3, random_state=1, store=tmp_path / "new.zarr")
    assert stored.chunks is not None
    assert stored.dims == ("member", "y", "x")
    assert stored.attrs["units"] == "K"
    assert np.array_equal(stored.load(), lazily.sample(3, random_state=1))
    with pytest.raises(ValueError, match="store must be a new folder"):
        lazily.sample(3, random_state=1, store=tmp_path / "new.zarr")


def test_tiles_are_drawn_into_a_store_and_go_on_after_a_kill(small, tmp_path, monkeypatch):
    x = smooth(30, (40, 44))
    settings = {"method": "gaussian", "radius": 3, "pooling": 1.0, "random_state": 0}
    model = nf.LocalizedDiffusion(**settings, marginal="none").fit(x.chunk({"y": 20}) - 280)
    model.score_.coarse = None  # members of a corrected field are drawn whole
    monkeypatch.setattr(_drawing, "TOGETHER", 2)
    monkeypatch.setattr(GaussianField, "sample", None)  # no member is drawn whole
    written, write, told = [], DrawStore.write, []

    def failing(self, member, tile, values):
        if len(written) == 11:
            raise OSError("no space left")
        written.append((member, tile))
        write(self, member, tile, values)

    draw = partial(_drawing.draw_to_store, model.model_, tmp_path / "new.zarr", 5, 1, attrs={"nearfield_model": "a"})
    monkeypatch.setattr(DrawStore, "write", failing)
    with pytest.raises(OSError, match="no space left"):
        draw()
    monkeypatch.setattr(DrawStore, "write", write)
    stored = draw(progress=lambda *done: told.append(done)).load()
    assert {member for member, _ in written[:8]} == {0, 1}
    assert told == [(k + 1, 8) for k in range(8)]
    monkeypatch.undo()
    assert np.array_equal(stored, model.sample(5, random_state=1))


def test_any_model_draws_into_a_store(tmp_path):
    x = smooth(30, (8, 9)).to_dataset()
    model = nf.LocalizedDiffusion(method="windowed", radius=1, pooling=1.0, random_state=0).fit(x)
    stored = model.sample(2, random_state=1, steps=5, store=tmp_path / "new.zarr")
    assert np.allclose(stored["t"], model.sample(2, random_state=1, steps=5)["t"])


@pytest.mark.slow
def test_chunks_of_whole_fields_are_advised_against(small):
    x = smooth(30, (60, 60))
    model = nf.LocalizedDiffusion(method="gaussian", radius=3, pooling=1.0, random_state=0)
    with pytest.warns(UserWarning, match="reading 9 tiles reads .* write them once as chunks of tiles"):
        model.fit(x.chunk({"time": 1}))
    assert "chunks of tiles" in model.fit_report_.warnings[0]


@pytest.mark.slow
def test_a_gap_is_completed_without_a_word(small):
    x = smooth(30, (40, 44))
    model = nf.LocalizedDiffusion(method="gaussian", radius=3, pooling=1.0, random_state=0).fit(x.chunk({"y": 20}))
    gap = {"y": slice(3, 9), "x": slice(30, 40)}
    partial = smooth(1, (40, 44), seed=1)[0]
    truth = partial[gap].copy()
    partial[gap] = np.nan
    completed = model.impute(partial, n_samples=4, random_state=0)
    assert np.array_equal(completed.where(partial.notnull())[2], partial, equal_nan=True)
    assert float(((completed[{"member": slice(None), **gap}].mean("member") - truth) ** 2).mean()) < 9 * 1.2
    law = model.condition(nf.Observation(partial))
    assert np.isfinite(law.std()).all()


def test_lazy_data_are_scored_a_few_samples_at_a_time(small, monkeypatch):
    x = smooth(30, (40, 44))
    model = nf.LocalizedDiffusion(method="gaussian", radius=3, pooling=1.0, random_state=0).fit(x.chunk({"y": 20}))
    monkeypatch.setattr(lazy, "WHOLE", 7 * 40 * 44)
    seen, encode = [], model.codec_.encode
    monkeypatch.setattr(
        type(model.codec_), "encode", lambda self, X, **kw: seen.append(X.sizes["time"]) or encode(X, **kw)
    )
    scored = model.score_samples(x.chunk({"time": 4}))
    assert seen == [7, 7, 7, 7, 2]
    assert np.allclose(scored, model.score_samples(x), rtol=1e-12)


def test_a_model_fitted_in_tiles_knows_its_training_samples(small, tmp_path):
    x = smooth(30, (24, 36))
    x[:, 3:9, 5:12] = np.nan
    model = nf.LocalizedDiffusion(method="gaussian", radius=2, pooling=1.0, random_state=0).fit(x.chunk({"y": 20}))
    model.save(tmp_path / "maps.nearfield")
    new = smooth(30, (24, 36), seed=1).where(x.notnull())
    for known in (model, nf.load(tmp_path / "maps.nearfield")):
        for data, seen in ((x, True), (x[::-2], True), (new, False), (new.isel(y=slice(None)).chunk(time=7), False)):
            found = known.model_.seen(known.codec_.samples(data, allow_missing=True).values)
            assert len(found) == len(data)
            assert (found == seen).all()


@pytest.mark.slow
def test_the_report_says_whether_a_model_fitted_in_tiles_has_seen_the_data(small, tmp_path):
    x = smooth(30, (24, 36))
    model = nf.LocalizedDiffusion(method="gaussian", radius=2, pooling=1.0, random_state=0).fit(x.chunk({"y": 20}))
    for data, seen in ((x, True), (smooth(30, (24, 36), seed=1), False)):
        found = [model.report(tmp_path / "report.html", given) for given in (data, data.chunk({"time": 7}))]
        assert found[0] == found[1]
        assert found[0]["data"]["fitted_on"] is found[0]["calibration"]["seen"] is seen
        assert found[0]["log_density"][0]["name"] == ("data it was fitted to" if seen else "held out")


def test_repeats_are_said_of_data_that_are_read_in_parts(small):
    x = smooth(20, (24, 36))
    model = nf.LocalizedDiffusion(method="gaussian", radius=2, pooling=1.0, random_state=0)
    with pytest.warns(UserWarning, match="3 of 23 samples are duplicates of others, e.g. numbers 4 and 20"):
        model.fit(xr.concat([x, x[4:7]], "time").chunk({"y": 20}))


@pytest.mark.slow
def test_one_two_and_four_processes_give_the_same_bits(small, tmp_path):
    x = smooth(30, (40, 44)).chunk({"y": 20})
    settings = {"method": "gaussian", "radius": 3, "pooling": 1.0, "random_state": 0}
    drawn = []
    for workers in (None, 2, 4):
        model = nf.LocalizedDiffusion(**settings, n_jobs=workers).fit(x)
        drawn.append(model.sample(2, random_state=1, store=tmp_path / f"{workers}.zarr").load())
    assert np.array_equal(drawn[0], drawn[1])
    assert np.array_equal(drawn[0], drawn[2])


@pytest.mark.slow
def test_auto_says_whether_a_network_could_learn_more(small):
    x = smooth(120, (40, 44)).chunk({"y": 20})
    settings = {"radius": 3, "pooling": 1.0, "random_state": 0}
    plain = nf.LocalizedDiffusion(**settings).fit(x)
    assert "No network was trained" not in plain.fit_report_.reason
    skewed = nf.LocalizedDiffusion(**settings).fit(np.exp((x - 280) / 4))
    assert "No network was trained: method='hybrid'" in skewed.fit_report_.reason


@pytest.mark.slow
def test_a_network_is_trained_on_crops_and_drawn_tile_by_tile(small, tmp_path, monkeypatch):
    from nearfield.fitting.recipe import Recipe
    from nearfield.methods import crops
    from nearfield.methods.hybrid import Hybrid
    from nearfield.score import tiled

    monkeypatch.setattr(crops, "CELLS", 400)
    monkeypatch.setattr(crops, "BYTES", 1 << 19)
    monkeypatch.setattr(tiled, "LARGEST_WHOLE", 0)
    x = 280 + 6 * np.exp((smooth(60, (60, 66)) - 280) / 9)
    method = Hybrid(radius=6, pooling=1.0, recipe=Recipe(steps=120))
    model = nf.LocalizedDiffusion(method=method, random_state=0).fit(x.chunk({"y": 20, "x": 22}))
    assert "crops of 20 x 20 cells" in model.fit_report_.reason
    assert isinstance(model.score_, tiled.TiledScore)
    drawn = model.sample(2, random_state=1, steps=10)
    stored = model.sample(2, random_state=1, steps=10, store=tmp_path / "new.zarr")
    assert np.array_equal(stored.load(), drawn)
    assert 0.6 < float(drawn.std() / x.std()) < 1.5
    model.save(tmp_path / "net.nearfield")
    assert np.array_equal(nf.load(tmp_path / "net.nearfield").sample(1, random_state=1, steps=10), drawn[:1])


@pytest.mark.slow
@pytest.mark.parametrize(("power", "name"), [(None, "standardize"), ("exp", "log"), ("shifted", "standardize")])
def test_a_transform_is_chosen_on_patches_that_all_values_allow(small, monkeypatch, power, name):
    """Lognormal values outside the patches leave no logarithm where one of them is negative."""
    monkeypatch.setattr(patches, "patches_of", lambda tiling: [Box((0, 0), (12, 14))])
    monkeypatch.setattr("nearfield.methods.tiled.patches_of", patches.patches_of)
    x = smooth(40, (24, 36))
    if power is not None:
        x = np.exp((x - 280) / 3)
    if power == "shifted":
        x[3, 20, 30] = -1.0
    settings = {"method": "gaussian", "radius": 2, "pooling": 1.0, "random_state": 0}
    model = nf.LocalizedDiffusion(**settings, marginal="auto").fit(x.chunk({"y": 20}))
    named = [transform.name for transform in model.marginal_.transforms]
    assert (named == [name]) if power != "shifted" else named[0] in ("standardize", "yeo-johnson")
    assert "nats per dimension, on patches" in model.fit_report_.reason


def test_masses_at_a_bound_are_not_chosen_for_in_parts(small):
    x = (smooth(40, (24, 36)) - 281).clip(0)
    with pytest.raises(ValueError, match="only 'quantile' draws them there, and needs all in memory"):
        nf.LocalizedDiffusion(method="gaussian", random_state=0, marginal="auto").fit(x.chunk({"y": 20}))


def test_a_network_of_lazy_data_needs_one_law(small):
    with pytest.raises(ValueError, match="pooling must be 1 for networks of data that are read in parts"):
        nf.LocalizedDiffusion(method="hybrid", random_state=0).fit(smooth(30, (40, 44)).chunk({"y": 20}))


def test_a_field_in_tiles_has_no_extension(small):
    x = smooth(30, (40, 44))
    model = nf.LocalizedDiffusion(method="gaussian", radius=3, pooling=1.0, random_state=0).fit(
        x.chunk({"y": 20, "x": 22})
    )
    with pytest.raises(ValueError, match="fitted in tiles, whose order does not go on"):
        model.extend((60, 60))


@pytest.mark.filterwarnings("ignore::nearfield.fitting.moments.MomentWarning")
@pytest.mark.parametrize("pooling", [0.0, 0.5, 1.0])
def test_a_tile_may_be_land(small, tmp_path, pooling):
    x = smooth(24, (40, 44))
    x[:, :23, :25] = np.nan  # with all that the tile of the corner reads
    model = nf.LocalizedDiffusion(method="gaussian", radius=1, pooling=pooling, random_state=0)
    model.fit(x.chunk({"y": 20}))
    drawn = model.sample(2, random_state=1)
    assert np.array_equal(np.isnan(drawn[0]), np.isnan(x[0]))
    assert np.array_equal(model.sample(2, random_state=1, store=tmp_path / "drawn.zarr"), drawn, equal_nan=True)


@pytest.mark.filterwarnings("ignore::nearfield.fitting.moments.MomentWarning")
def test_a_folder_is_of_one_graph_and_one_dependence(small, tmp_path):
    x = (280 + smooth(32, (20, 44)).values).round().astype(int)  # sums of whole numbers are exact
    settings = {"method": "gaussian", "radius": 1, "pooling": 1.0, "random_state": 0}

    def fit(values, **other):
        lazily = xr.DataArray(values, dims=("time", "y", "x")).chunk({"y": 20})
        return nf.LocalizedDiffusion(**settings, **other).fit(lazily, checkpoint=tmp_path / "maps")

    fit(x)
    with pytest.raises(ValueError, match="fit of other data or settings \\(graph\\)"):
        fit(x, graph=DependencyGraph.grid((20, 44), diagonal=True))
    with pytest.raises(ValueError, match="fit of other data or settings \\(data\\)"):
        fit(np.random.default_rng(0).permuted(x, axis=0))  # the same values at each vertex


def test_a_fit_without_a_seed_keeps_no_tiles(small, tmp_path):
    with pytest.raises(ValueError, match="checkpoint needs a random_state"):
        nf.LocalizedDiffusion(method="gaussian").fit(smooth(20, (20, 44)).chunk({"y": 20}), checkpoint=tmp_path / "a")


@pytest.mark.slow
def test_samples_alike_where_the_patches_are_are_no_duplicates(small, recwarn):
    x = smooth(24, (40, 44))
    x[4:12, :20] = np.nan
    x[4:12, 20:, :22] = np.nan
    nf.LocalizedDiffusion(method="gaussian", radius=1, pooling=1.0, random_state=0).fit(x.chunk({"y": 20}))
    assert not [str(w.message) for w in recwarn if "duplicates" in str(w.message)]


def test_a_loaded_model_draws_at_once(small, tmp_path, monkeypatch):
    """What a correction needs of the field's covariance is stored with it."""
    x = smooth(30, (40, 44))
    slow = np.random.default_rng(0).normal(size=(30, 1, 1)) * np.linspace(-8, 8, 44)
    settings = {"method": "gaussian", "radius": 1, "pooling": 1.0, "random_state": 0}
    model = nf.LocalizedDiffusion(**settings).fit((x + slow).chunk({"y": 20}))
    assert model.score_.coarse is not None
    model.save(tmp_path / "maps")
    monkeypatch.setattr(type(model.score_.factor), "covariance", None)
    assert np.array_equal(nf.load(tmp_path / "maps").sample(2, random_state=5), model.sample(2, random_state=5))


def test_networks_refuse_land_before_the_field_is_fitted(small, monkeypatch):
    x = smooth(20, (40, 44))
    x[:, :3, :3] = np.nan
    monkeypatch.setattr("nearfield._large.fit_tiled", None)
    with pytest.raises(ValueError, match="graph must be a whole lattice to be fitted by crops"):
        nf.LocalizedDiffusion(method="hybrid", pooling=1.0, random_state=0).fit(x.chunk({"y": 20}))
