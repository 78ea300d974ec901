"""The estimator: what a user of scikit-learn and xarray expects of it, and two paths that must agree."""

import itertools
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr
from scipy.stats import multivariate_normal
from sklearn.base import clone
from sklearn.utils.estimator_checks import parametrize_with_checks

import nearfield as nf
from nearfield.data import store
from nearfield.fitting.matching import NoiseLevels
from nearfield.fitting.pooling import Pooling
from nearfield.fitting.recipe import Recipe
from nearfield.methods import Gaussian, Method
from nearfield.paper.recipe import PaperRecipe
from nearfield.sampling.device import usable_device

RADIUS_GIVEN = {"method": "gaussian", "radius": 1, "pooling": 0.5, "random_state": 0}


def chain(n_samples=60, n=12, seed=0):
    noise = np.random.default_rng(seed).normal(size=(n_samples, n + 20))
    values = np.zeros_like(noise)
    for k in range(1, noise.shape[1]):
        values[:, k] = 0.8 * values[:, k - 1] + noise[:, k]
    return 5.0 + 3.0 * values[:, 20:]


def maps(n_samples=30, land=True, seed=0):
    values = np.random.default_rng(seed).normal(size=(n_samples, 6, 5)).cumsum(axis=1).cumsum(axis=2)
    if land:
        values[:, 2, 3] = np.nan
    return xr.DataArray(
        values,
        dims=("time", "lat", "lon"),
        coords={"time": np.arange(n_samples), "lat": np.linspace(10, 20, 6), "lon": np.linspace(0, 8, 5)},
        name="sst",
        attrs={"units": "K"},
    )


# scikit-learn's checks that cannot hold, each with the reason.
EXPECTED_FAILURES: dict[str, str] = {}


@parametrize_with_checks(
    [
        nf.LocalizedDiffusion(method="gaussian", radius=1, pooling=0.5, random_state=0),
        nf.LocalizedDiffusion(radius=1, pooling=0.5, random_state=0, recipe=Recipe(steps=2)),
    ],
    expected_failed_checks=lambda _: EXPECTED_FAILURES,
)
def test_scikit_learn_contract(estimator, check):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the checks fit on far too few samples, which is warned of
        check(estimator)


def test_log_density_is_that_of_the_law_sampled_from():
    x = chain()
    model = nf.LocalizedDiffusion(method="gaussian", random_state=0).fit(x)
    scale = model.marginal_.scale.numpy().ravel()
    covariance = model.score_.covariance() * np.outer(scale, scale)
    expected = multivariate_normal(model.marginal_.center.numpy().ravel(), covariance).logpdf(x)
    np.testing.assert_allclose(model.score_samples(x), expected, rtol=1e-9)
    assert model.score(x) == pytest.approx(expected.mean(), rel=1e-9)
    drawn = model.sample(20_000, random_state=1)
    # the whitened draws are standard normal: their mean square has relative deviation sqrt(2 / (20 000 * 12))
    white = np.linalg.solve(np.linalg.cholesky(covariance), (drawn - model.marginal_.center.numpy().ravel()).T)
    assert abs((white**2).mean() - 1) < 4.9 * np.sqrt(2 / white.size)  # false alarm 1e-6


@pytest.mark.parametrize("method", ["gaussian", "windowed", "masked"])
def test_a_loaded_model_is_the_one_saved(tmp_path, method):
    field = maps()
    pooling = 0.0 if method == "masked" else "auto"
    model = nf.LocalizedDiffusion(method=method, pooling=pooling, random_state=0).fit(field)
    model.save(tmp_path / "m.nearfield")
    loaded = nf.load(tmp_path / "m.nearfield")
    xr.testing.assert_identical(loaded.sample(3, random_state=5), model.sample(3, random_state=5))
    assert loaded.digest_ == model.digest_
    assert loaded.fit_report_ == model.fit_report_
    assert loaded.radius_ == model.radius_
    assert loaded.get_params() == model.get_params()
    if method == "gaussian":
        np.testing.assert_array_equal(loaded.score_samples(field), model.score_samples(field))


def test_labels_land_units_and_provenance_are_kept():
    field = maps().astype(np.float32)
    new = nf.LocalizedDiffusion(method="gaussian", random_state=0).fit(field).sample(4, random_state=7)
    assert new.dims == ("member", "lat", "lon")
    assert new.dtype == np.float32
    assert new.attrs["units"] == "K"
    assert new.attrs["nearfield_seed"] == "7"
    np.testing.assert_array_equal(np.isnan(new[0]), np.isnan(field[0]))
    xr.testing.assert_identical(new.lat, field.lat)


def test_windowed_and_masked_scores_cover_the_graph_alike():
    """With every vertex in every window, unpooled, both are the global Gaussian score (4.4)."""
    x = chain(n=6)
    drawn = [
        nf.LocalizedDiffusion(method=m, radius=6, pooling=0.0, random_state=0).fit(x).sample(5, random_state=3)
        for m in ("windowed", "masked")
    ]
    np.testing.assert_allclose(*drawn, rtol=1e-8)


def test_the_solver_reaches_the_law_of_the_exact_draw():
    model = nf.LocalizedDiffusion(method="gaussian", random_state=0).fit(chain())

    _, covariance = model.model_.law.default_sampler(100).push_forward(model.score_)
    exact = model.score_.covariance()
    np.testing.assert_allclose(np.asarray(covariance), exact, atol=0.01 * exact.max())
    assert model.sample(2, random_state=0, steps=10).shape == (2, 12)


def test_imputed_fields_keep_what_was_observed_and_follow_the_conditional_law():
    field = maps(land=True)
    model = nf.LocalizedDiffusion(method="gaussian", random_state=0).fit(field)
    cloudy = field[:3].copy()
    cloudy[0, 1:4] = np.nan
    cloudy[1] = np.nan  # nothing observed
    filled = model.impute(cloudy, n_samples=4000, random_state=2)
    assert filled.dims == ("member", "time", "lat", "lon")
    observed = filled.isel(time=2)
    np.testing.assert_array_equal(observed, np.broadcast_to(cloudy[2], observed.shape))
    np.testing.assert_array_equal(np.isnan(filled[0]), np.isnan(field[:3]))
    # mean and covariance of the first field's missing part, against dense conditioning
    z = model.marginal_(model.codec_.encode(cloudy, allow_missing=True))[0].ravel()
    missing = np.isnan(z)
    covariance = model.score_.covariance()
    gain = covariance[np.ix_(missing, ~missing)] @ np.linalg.inv(covariance[np.ix_(~missing, ~missing)])
    mean = gain @ z[~missing]
    law = covariance[np.ix_(missing, missing)] - gain @ covariance[np.ix_(~missing, missing)]
    drawn = model.codec_.encode(filled.isel(time=0))[:, missing]
    drawn = (drawn - model.marginal_.center.numpy()[missing])[:, :, 0] / model.marginal_.scale.numpy()[missing].T
    white = np.linalg.solve(np.linalg.cholesky(law), (drawn - mean).T)
    assert np.abs(white.mean(axis=1)).max() * np.sqrt(4000) < 5.9  # 14 entries, false alarm 1e-6 together
    assert abs((white**2).mean() - 1) < 4.9 * np.sqrt(2 / white.size)


def test_draws_depend_on_seed_and_member_alone():
    model = nf.LocalizedDiffusion(**RADIUS_GIVEN).fit(chain())
    np.testing.assert_array_equal(model.sample(3, random_state=4), model.sample(5, random_state=4)[:3])
    assert not np.array_equal(model.sample(3), model.sample(3))


def test_fit_is_a_function_of_data_and_seed():
    x = chain()
    first, second = (nf.LocalizedDiffusion(method="gaussian", random_state=0).fit(x) for _ in range(2))
    np.testing.assert_array_equal(first.score_samples(x), second.score_samples(x))
    threads = clone(first).set_params(n_jobs=2).fit(x)
    assert threads.fit_report_.selection == first.fit_report_.selection
    assert nf.select_radius(x, random_state=0).choice == first.fit_report_.selection.choice


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:draws from the field:UserWarning")
def test_a_report_tells_fitted_from_held_out_data(tmp_path):
    field = maps(40)
    model = nf.LocalizedDiffusion(**RADIUS_GIVEN).fit(field[:30])
    held_out = model.report(tmp_path / "a.html", field[30:])
    fitted = model.report(tmp_path / "b.html", field[:30])
    assert (held_out["data"]["fitted_on"], fitted["data"]["fitted_on"]) == (False, True)
    for page in (held_out, fitted):  # a vertex is conditioned on the one before it in each direction
        assert {c["name"]: c["value"] for c in page["checks"]}["samples per local law"] == 30 / 2
    assert all(row["training"] for row in held_out["channels"][0]["moments"])
    assert not any(row["training"] for row in fitted["channels"][0]["moments"])
    model.save(tmp_path / "model")
    assert nf.load(tmp_path / "model").report(tmp_path / "a.html", field[30:])["channels"] == held_out["channels"]
    for part in (field[:20], field[29::-1], field):  # in other company or order they have been seen all the same
        page = nf.load(tmp_path / "model").report(tmp_path / "b.html", part)
        assert page["data"]["fitted_on"]
        names = [row["name"] for row in page["log_density"]]
        assert "held out" not in names
        assert "log-density of held-out data" not in {c["name"] for c in page["checks"]}
    (tmp_path / "model").unlink()
    assert {p.name for p in tmp_path.iterdir()} == {"a.html", "a.json", "b.html", "b.json"}


def test_time_axes_are_held_out_in_blocks():
    model = nf.LocalizedDiffusion(method="gaussian", random_state=0).fit(maps())
    assert model.fit_report_.selection.ordered
    assert (
        not nf.LocalizedDiffusion(method="gaussian", random_state=0)
        .fit(maps().values[:, :2])
        .fit_report_.selection.ordered
    )


def test_few_samples_are_warned_of():
    x = chain(n_samples=5)
    with pytest.warns(UserWarning, match="5 samples cannot support"):
        model = nf.LocalizedDiffusion(method="gaussian", radius=8, pooling=0.0).fit(x)
    assert any("cannot support" in text for text in model.fit_report_.warnings)
    assert np.linalg.eigvalsh(model.score_.covariance()).min() > 0


BAD = {
    "radius negative": ({"radius": -1}, chain(), ValueError, "radius must be a number of hops"),
    "radius a float": ({"radius": 1.5}, chain(), ValueError, "radius must be"),
    "method unknown": ({"method": "glasso"}, chain(), ValueError, "method must be one of"),
    "pooling above 1": ({"pooling": 1.5}, chain(), ValueError, r"pooling must be in \[0, 1\]"),
    "pooling a word": ({"pooling": "all"}, chain(), TypeError, "pooling must be"),
    "pooling the paper's score": ({"method": "masked", "pooling": 0.5}, chain(), ValueError, "does not pool"),
    "marginal unknown": ({"marginal": "boxcox"}, chain(), ValueError, "marginal must be one of"),
    "graph of another size": ({"graph": nf.DependencyGraph.chain(7)}, chain(), ValueError, "graph"),
    "graph of another kind": ({"graph": [(0, 1)]}, chain(), TypeError, "graph must be a DependencyGraph"),
    "too few to choose": ({}, chain(n_samples=3), ValueError, "at least 4 samples"),
    "one sample": ({}, chain()[:1], ValueError, "sample"),
    "no sample": ({}, chain()[:0], ValueError, "0 sample"),
    "NaN in some samples": ({"method": "windowed"}, np.where(np.eye(60, 12) > 0, np.nan, chain()), ValueError, "NaN"),
    "infinite": ({}, np.where(np.eye(60, 12) > 0, np.inf, chain()), ValueError, "inf"),
    "constant vertex": ({}, np.where(np.arange(12) == 3, 1.0, chain()), ValueError, "3"),
    "objects": ({}, np.full((60, 12), "a", dtype=object), ValueError, "a"),
    "complex": ({}, chain() + 1j, ValueError, "Complex data not supported"),
    "validation fraction": ({"validation_fraction": 1.0}, chain(), ValueError, "validation_fraction must be"),
    "validation a word": ({"validation_fraction": "a"}, chain(), TypeError, "validation_fraction must be a number"),
    "radii": ({"radius": np.array([1, 2])}, chain(), ValueError, "radius must be a number of hops"),
    "no jobs": ({"n_jobs": 0}, chain(), ValueError, "n_jobs must be other than 0"),
    "device unknown": ({"device": "gpu"}, chain(), ValueError, "device must be 'auto' or a device of torch"),
    "device a number": ({"device": 1.5}, chain(), TypeError, "device must be a name"),
    "jobs a fraction": ({"n_jobs": 1.5}, chain(), TypeError, "n_jobs must be a whole number or None"),
    "poolings": ({"pooling": np.array([0.5, 1.0])}, chain(), TypeError, "pooling must be a number"),
    "no dimension's name": ({}, maps(), TypeError, "sample_dim must be a name or names, got 3"),
    "windowed, too few": ({"method": "windowed", "pooling": 0.5}, chain()[:3], ValueError, "at least 4 samples"),
    "masked, too few": ({"method": "masked"}, chain()[:2], ValueError, "at least 4 samples"),
    "paper, too few": ({"method": "paper"}, chain()[:3], ValueError, "at least 4 samples"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_refused_with_a_remedy(name):
    parameters, x, error, message = BAD[name]
    dims = {"sample_dim": 3} if name == "no dimension's name" else {}
    with pytest.raises(error, match=message):
        nf.LocalizedDiffusion(**parameters).fit(x, **dims)


@pytest.mark.parametrize(
    "parameters",
    [
        {"recipe": Recipe(steps=np.int64(2), clip=np.float32(5), seed=np.int64(3), levels=NoiseLevels(np.float32(0)))},
        {"device": torch.device("cpu"), "recipe": Recipe(steps=2)},
        {"pooling": Pooling(np.float32(1)), "radius": np.int64(1), "recipe": Recipe(steps=2, n_networks=np.int64(2))},
        {"method": "paper", "radius": 1, "recipe": PaperRecipe(steps=2, widths=(np.int64(8),), seed=np.int64(1))},
        {"method": "masked", "pooling": Pooling(0.0, 3.0), "radius": 1},
    ],
)
def test_numbers_and_devices_of_other_kinds_are_stored_as_plain_ones(tmp_path, parameters):
    model = nf.LocalizedDiffusion(**{"method": "hybrid", "random_state": 0} | parameters).fit(chain())
    model.save(tmp_path / "m")
    np.testing.assert_array_equal(nf.load(tmp_path / "m").sample(2, random_state=0), model.sample(2, random_state=0))


@pytest.mark.parametrize("device", ["meta", "cuda", "hpu"])
def test_a_device_that_is_not_here_is_named_when_it_is_needed(device, monkeypatch):
    """A model may be fitted on one machine for another."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    model = nf.LocalizedDiffusion(method="windowed", radius=1, pooling=0.0, device=device).fit(chain())
    with pytest.raises(ValueError, match="device must"):
        model.sample(2)
    assert nf.LocalizedDiffusion(device=device, **RADIUS_GIVEN).fit(chain()).sample(2).shape == (2, 12)


def test_a_gpu_is_taken_where_there_is_one(monkeypatch):
    for here, device in ((False, "cpu"), (True, "cuda")):
        asked = []
        monkeypatch.setattr("torch.cuda.is_available", lambda here=here: here)
        monkeypatch.setattr("torch.empty", lambda *_, device, asked=asked: asked.append(device) or torch.zeros(0))
        usable_device("auto")
        assert asked == [device]


def test_bad_requests_of_a_fitted_model_are_refused(tmp_path, monkeypatch):
    x = chain()
    model = nf.LocalizedDiffusion(**RADIUS_GIVEN).fit(x)
    windowed = nf.LocalizedDiffusion(method="windowed", radius=1, pooling=0.0).fit(x)
    with pytest.raises(ValueError, match="n_samples must be a whole number"):
        model.sample(0)
    with pytest.raises(TypeError, match="sampler must be a Sampler"):
        model.sample(2, sampler="euler")
    with pytest.raises(ValueError, match="method='gaussian'"):
        windowed.surprise(x)
    with pytest.raises(ValueError, match="method='gaussian'"):
        windowed.impute(x)
    with pytest.raises(ValueError, match="12"):
        model.score_samples(x[:, :5])
    with pytest.raises(OSError, match="missing"):
        model.save(tmp_path / "missing" / "m.nearfield")
    monkeypatch.setattr(model, "_draw", None)  # nothing is drawn for a page that cannot be written
    with pytest.raises(OSError, match="missing"):
        model.report(tmp_path / "missing" / "r.html", x)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("x", "graph"),
    [
        (chain(n=1), None),
        (chain(n_samples=8, n=30), None),
        (chain(n=6), nf.DependencyGraph.from_edges(6, [(0, 1), (3, 4)])),
        (maps(land=False).values, nf.DependencyGraph.torus((6, 5))),
    ],
    ids=["one vertex", "fewer samples than vertices", "disconnected", "torus"],
)
@pytest.mark.parametrize("radius", [0, 3, 50])
@pytest.mark.filterwarnings("ignore:.*cannot support:UserWarning")
@pytest.mark.filterwarnings("ignore:draws differ from:UserWarning")
def test_odd_shapes_give_a_proper_density(x, graph, radius):
    model = nf.LocalizedDiffusion(method="gaussian", graph=graph, radius=radius, pooling=0.0).fit(x)
    model.model_.law.predictive = None  # the density of the field
    scale = model.marginal_.scale.numpy().ravel()
    law = multivariate_normal(
        model.marginal_.center.numpy().ravel(), model.score_.covariance() * np.outer(scale, scale)
    )
    np.testing.assert_allclose(model.score_samples(x), law.logpdf(x.reshape(len(x), -1)), rtol=1e-8)


@pytest.mark.filterwarnings("ignore:draws differ from:UserWarning")
def test_means_that_differ_over_the_map_are_kept():
    """Absolute temperatures fall by tens of degrees over the map: pooling them would swamp what varies in time."""
    field = maps(60, land=False) + 40.0 * np.arange(6)[:, None]
    model = nf.LocalizedDiffusion(method="gaussian", radius=1, pooling=1.0).fit(field.values)
    np.testing.assert_allclose(model.marginal_.center.reshape(6, 5), field.values.mean(axis=0), rtol=1e-12)
    alike = np.random.default_rng(0).normal(size=(60, 6, 5))
    pooled = nf.LocalizedDiffusion(method="gaussian", radius=1, pooling=1.0).fit(alike).marginal_.center
    np.testing.assert_allclose(pooled, alike.mean(), rtol=1e-12)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*conditional variances were raised:UserWarning")
def test_settings_whose_draws_have_the_wrong_variance_are_passed_over():
    """In very smooth fields the lowest conditional loss belongs to fields whose draws explode along the order."""
    from scipy.ndimage import gaussian_filter

    noise = np.random.default_rng(0).normal(size=(60, 12, 18))
    field = np.stack([gaussian_filter(x, 2.0) for x in noise])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        model = nf.LocalizedDiffusion(method="gaussian", random_state=0).fit(field)
    ratio = model.sample(1000, random_state=0).var(axis=0) / field.var(axis=0)
    assert "among candidates whose draws have the variance" in model.fit_report_.reason
    assert np.quantile(ratio, 0.05) > 0.4
    assert np.quantile(ratio, 0.95) < 2.5
    selection = model.fit_report_.selection
    assert {c.radius for c in selection.curve} == {c.radius for c in selection.table}
    assert {(c.strength, c.bandwidth) for c in selection.curve} == {
        (selection.choice.strength, selection.choice.bandwidth)
    }
    best = selection.table[selection.best]
    assert "within one standard error" not in model.fit_report_.reason
    given = nf.LocalizedDiffusion(method="gaussian", radius=best.radius, pooling=best.pooling, random_state=1).fit(
        field
    )
    ratio = given.sample(1000, random_state=0).var(axis=0) / field.var(axis=0)
    assert "Corrected at larger scales" in given.fit_report_.reason
    assert np.quantile(ratio, 0.05) > 0.4
    assert np.quantile(ratio, 0.95) < 2.5


@pytest.mark.parametrize("method", ["gaussian", "neural"])
def test_the_digest_tells_models_apart_not_runs(method):
    x, recipe = chain(), Recipe(steps=2) if method == "neural" else None
    first, second, other = (
        nf.LocalizedDiffusion(method=method, radius=r, pooling=0.5, random_state=0, recipe=recipe).fit(x)
        for r in (1, 1, 2)
    )
    assert first.digest_ == second.digest_ != other.digest_


def test_columns_of_a_frame_are_told_apart_wherever_it_is_taken(tmp_path):
    """Columns in another order would be filled in from the wrong neighbours."""
    frame = pd.DataFrame(chain(n=3), columns=["a", "b", "c"])
    model = nf.LocalizedDiffusion(**RADIUS_GIVEN).fit(frame)
    turned = frame[["c", "a", "b"]]
    for use in (model.score_samples, model.impute, lambda x: model.report(tmp_path / "r.html", x)):
        with pytest.raises(ValueError, match="feature names"):
            use(turned)
    gaps = frame.mask(np.eye(60, 3) > 0)
    completed = model.impute(gaps, random_state=0)
    np.testing.assert_array_equal(completed.to_numpy()[None], model.impute(gaps.to_numpy(), random_state=0))


def test_a_refused_fit_leaves_the_model_as_it_was():
    """The names of columns are told before the work."""
    frame = pd.DataFrame(chain(n=3), columns=["a", "b", "c"])
    model = nf.LocalizedDiffusion(**RADIUS_GIVEN).fit(frame)
    before = model.digest_, model.sample(2, random_state=0)
    mixed = pd.DataFrame(chain(n=5), columns=["a", 1, "b", "c", "d"])
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(Method, "fit", pytest.fail)
        with pytest.raises(TypeError, match="string names"):
            model.fit(mixed)
    assert model.digest_ == before[0]
    np.testing.assert_array_equal(model.sample(2, random_state=0), before[1])


def test_a_record_without_a_time_dimension_is_warned_of():
    """AR(1) rows of correlation .8: a warning unless time is named, in whichever way; then blocks are held out."""
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(120, 4))
    for before, row in itertools.pairwise(rows):
        row += 0.8 * before
    with pytest.warns(UserWarning, match=r"consecutive samples are correlated \(r = 0.7.*sample_dim='time'"):
        warned = nf.LocalizedDiffusion(method="gaussian", random_state=0).fit(rows)
    assert any("correlated" in text for text in warned.fit_report_.warnings)
    with pytest.warns(UserWarning, match="rename 'member' to 'time'"):
        nf.select_radius(xr.DataArray(rows, dims=("member", "x")))
    dated = pd.DataFrame(rows, index=pd.date_range("2001", periods=120))
    named = xr.DataArray(rows, dims=("time", "x"))
    fits = [nf.LocalizedDiffusion(method="gaussian", random_state=0).fit(x) for x in (dated, named)]
    fits.append(nf.LocalizedDiffusion(method="gaussian", random_state=0).fit(rows, sample_dim="time"))
    assert len({str(model.fit_report_.selection) for model in fits}) == 1
    assert fits[0].fit_report_.selection != warned.fit_report_.selection
    nf.LocalizedDiffusion(method="gaussian", random_state=0).fit(rng.permutation(rows))  # a warning would be an error


@pytest.mark.slow
def test_the_report_of_a_network_names_its_own_pooling_and_whose_loss_it_shows(tmp_path):
    x = chain()
    for parameters in ({"pooling": 1.0, "radius": 2}, {"pooling": "auto"}):
        model = nf.LocalizedDiffusion(method="hybrid", random_state=0, recipe=Recipe(steps=2), **parameters).fit(x)
        choice = model.report(tmp_path / "r.html", x)["choice"]
        assert (choice["radius"], choice["pooling"]) == (model.radius_, model.pooling_.strength)
    field = model.fit_report_.selection.choice
    assert choice["loss_of"] == f"Gaussian field, radius {field.radius}, pooling {field.strength:g}"


@pytest.mark.slow
def test_channels_without_a_name_are_told_apart_in_the_report(tmp_path):
    x = np.stack([chain(), chain(seed=1)], axis=-1)
    graph = nf.DependencyGraph.chain(12)
    numbers = nf.LocalizedDiffusion(graph, **RADIUS_GIVEN).fit(x).report(tmp_path / "r.html", x)
    assert [channel["name"] for channel in numbers["channels"]] == ["channel 0", "channel 1"]


@pytest.mark.parametrize(
    ("parameters", "checkpoint", "error", "message"),
    [
        ({"method": "gaussian"}, "c", ValueError, "which keeps none"),
        ({"random_state": None}, "c", ValueError, "needs a random_state"),
        ({}, 3, TypeError, "checkpoint must be a path"),
        ({}, "missing/c", FileNotFoundError, "checkpoint must be in an existing folder"),
        ({}, "", IsADirectoryError, "checkpoint must be a file"),
        ({}, "model", ValueError, "checkpoint must be a new file or the checkpoint of a training, got the model"),
        ({"recipe": Recipe(n_networks=2)}, "of two", IsADirectoryError, "of two.1"),
        ({"random_state": None, "recipe": Recipe()}, "c", ValueError, "needs a random_state"),
    ],
)
def test_a_checkpoint_of_no_use_is_refused_before_training(
    tmp_path, monkeypatch, parameters, checkpoint, error, message
):
    monkeypatch.setattr(Method, "fit", None)
    path = tmp_path / checkpoint if isinstance(checkpoint, str) else checkpoint
    (tmp_path / "of two.1").mkdir()
    store.write(tmp_path / "model", {"score": "none"}, {})
    with pytest.raises(error, match=message):
        nf.LocalizedDiffusion(**{"method": "hybrid", "random_state": 0} | parameters).fit(chain(), checkpoint=path)
    assert len(list(tmp_path.iterdir())) == 2


def test_a_recipe_with_all_given_has_the_only_seed_of_a_run(tmp_path):
    x, recipe = chain(), Recipe(steps=2, seed=4)
    model = nf.LocalizedDiffusion(method="neural", radius=1, pooling=1.0, recipe=recipe)
    first = model.fit(x, checkpoint=tmp_path / "c").sample(2, random_state=0)
    np.testing.assert_array_equal(model.fit(x, checkpoint=tmp_path / "c").sample(2, random_state=0), first)


def test_a_checkpoint_is_no_model_and_no_other_runs(tmp_path):
    path, x = tmp_path / "c", chain()
    model = nf.LocalizedDiffusion(method="neural", radius=1, pooling=1.0, random_state=0, recipe=Recipe(steps=2))
    model.fit(x, checkpoint=path)
    with pytest.raises(ValueError, match="is the checkpoint of a training, not a model"):
        nf.load(path)
    with pytest.raises(ValueError, match="or delete the file"):
        model.fit(x + 1.0 * np.arange(12), checkpoint=path).fit(2 * x**2, checkpoint=path)


def test_only_warnings_for_users_are_kept_with_the_model(monkeypatch):
    def warned(*arguments, **options):
        warnings.warn("an old name inside another library", DeprecationWarning, stacklevel=1)
        warnings.warn("for the user", UserWarning, stacklevel=1)
        return fit(*arguments, **options)

    fit = Gaussian.fit
    monkeypatch.setattr(Method, "fit", warned)
    with warnings.catch_warnings(record=True):
        warnings.simplefilter("always")
        model = nf.LocalizedDiffusion(**RADIUS_GIVEN).fit(chain())
    assert model.fit_report_.warnings == ("for the user",)


def test_draws_given_nothing_are_not_those_of_sample():
    model = nf.LocalizedDiffusion(**RADIUS_GIVEN).fit(chain())
    nothing = np.full((1, 12), np.nan)
    assert not np.isclose(model.impute(nothing, 5, random_state=0)[:, 0], model.sample(5, random_state=0)).any()


@pytest.mark.parametrize("method", ["gaussian", "windowed", "masked"])
@pytest.mark.parametrize("pooling", ["auto", 0.0])
def test_a_vertex_that_varies_in_one_sample_only_is_named_and_fitted_apart(method, pooling):
    x = chain()
    x[:, 7] = 0.0
    x[5, 7] = 1.0
    with pytest.warns(UserWarning, match="vertex 7 varies in one or two samples only"):
        model = nf.LocalizedDiffusion(method=method, pooling=pooling, random_state=0).fit(x)
    np.testing.assert_allclose(model.marginal_.scale[7], x[:, 7].std(), rtol=1e-12)
    assert np.isfinite(model.sample(5, random_state=0)).all()


@pytest.mark.parametrize("missing", ["codec", "law", "parameters", "an array", "nothing known"])
def test_a_model_of_another_make_is_refused_by_name(missing, tmp_path):
    nf.LocalizedDiffusion(method="gaussian", radius=1, pooling=1.0).fit(chain()).save(tmp_path / "m")
    metadata, arrays = store.read(tmp_path / "m")
    if missing == "an array":
        arrays = {name: array for name, array in arrays.items() if "center" not in name}
    elif missing == "nothing known":
        metadata = {**metadata, "parameters": {**metadata["parameters"], "temperature": 1}}
    else:
        metadata = {name: value for name, value in metadata.items() if name != missing}
    store.write(tmp_path / "other", metadata, arrays)
    with pytest.raises(ValueError, match="no model of this version of nearfield"):
        nf.load(tmp_path / "other")
