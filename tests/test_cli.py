"""The command line does what the library does, says so plainly, and leaves no half-written file."""

from __future__ import annotations

import contextlib
import json
import resource
import subprocess
import sys

import numpy as np
import pytest
import xarray as xr
from typer.testing import CliRunner

import nearfield as nf
from nearfield.cli import app
from nearfield.datasets import AutoregressiveChain
from nearfield.fitting.recipe import Recipe

pytestmark = pytest.mark.usefixtures("here")
SHAPE = (5, 6)


@pytest.fixture
def here(tmp_path, monkeypatch):
    """Make each test's current folder an empty one, so that what a command leaves behind can be listed."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def field():
    """40 smooth maps with coordinates, a unit and two cells of land."""
    rng = np.random.default_rng(5)
    noise = rng.normal(size=(40, SHAPE[0] + 1, SHAPE[1] + 1))
    values = noise[:, 1:, 1:] + noise[:, :-1, 1:] + noise[:, 1:, :-1] + 3.0
    values[:, 0, :2] = np.nan
    return xr.DataArray(
        values,
        dims=("time", "lat", "lon"),
        coords={"time": np.arange(40), "lat": np.linspace(10, 50, SHAPE[0]), "lon": np.linspace(0, 50, SHAPE[1])},
        name="sst",
        attrs={"units": "degC"},
    )


@pytest.fixture(scope="module")
def files(tmp_path_factory, field):
    """A folder with data, and a model fitted on them by the command line."""
    folder = tmp_path_factory.mktemp("cli")
    field.to_netcdf(folder / "sst.nc", engine="h5netcdf")
    np.save(folder / "plain.npy", field.fillna(1.0).to_numpy()[:, 1])
    xr.Dataset({"sst": field, "ice": field + 1}).to_netcdf(folder / "two.nc", engine="h5netcdf")
    (folder / "text.nc").write_text("not netCDF")
    (folder / "folder").mkdir()
    (folder / "empty.npy").write_bytes(b"")
    (folder / "text.npy").write_text("1 2 3")
    np.savez(folder / "several.npz", a=np.eye(3))
    (folder / "several.npz").rename(folder / "several.npy")
    fitted = run(
        "fit", folder / "sst.nc", "--method", "gaussian", "--out", folder / "sst.nearfield", "--seed", 4, "--json"
    )
    (folder / "fit.json").write_text(fitted.stdout)
    damaged = bytearray((folder / "sst.nearfield").read_bytes())
    damaged[-3] ^= 1
    (folder / "damaged.nearfield").write_bytes(damaged)
    return folder


def run(*arguments: object, code: int = 0):
    """Run a command in this process and check its exit code; an exception that is not an exit is raised."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)
    assert result.exit_code == code, result.output
    return result


def read(path: str) -> xr.DataArray:
    with xr.open_dataarray(path, engine="h5netcdf") as data:
        return data.load()


def test_fit_is_the_librarys(files, field):
    told = json.loads((files / "fit.json").read_text())
    model = nf.LocalizedDiffusion(method="gaussian", random_state=4).fit(field, sample_dim="time")
    assert told["seed"] == 4
    assert told["samples"] == 40
    assert told["vertices"] == field[0].size - 2
    assert told["radius"] == model.radius_
    assert told["held_out_nats_per_dimension"] == model.fit_report_.selection.choice.loss
    loaded = nf.load(files / "sst.nearfield")
    np.testing.assert_array_equal(loaded.score_samples(field), model.score_samples(field))


def test_fit_passes_its_options_on(files):
    run("fit", files / "two.nc", "--out", "m", "--variable", "sst", "--variable", "ice", "--sample-dim", "time",
        "--radius", 2, "--method", "windowed", "--pooling", 1)  # fmt: skip
    model = nf.load("m")
    assert (model.radius, model.method, model.pooling) == (2, "windowed", 1.0)
    assert [channel.name for channel in model.codec_.channels] == ["sst", "ice"]


def test_info_tells_what_fit_told(files):
    told = json.loads((files / "fit.json").read_text())
    again = json.loads(run("info", files / "sst.nearfield", "--json").stdout)
    assert again == told | {"model": str(files / "sst.nearfield")}
    assert "40" in run("info", files / "sst.nearfield").stdout


def test_only_the_summary_of_a_field_has_its_loss():
    x = np.random.default_rng(0).normal(size=(40, 8))
    for method, told in (("gaussian", True), ("hybrid", False)):
        recipe = Recipe(steps=2) if method == "hybrid" else None
        model = nf.LocalizedDiffusion(method=method, random_state=0, recipe=recipe).fit(x)
        assert model.fit_report_.selection is not None
        assert ("held_out_nats_per_dimension" in model.model_.summary()) == told


def test_sample_is_the_librarys(files):
    told = json.loads(run("sample", files / "sst.nearfield", "-n", 7, "--out", "new.nc", "--seed", 3, "--json").stdout)
    assert told == {"out": "new.nc", "members": 7, "seed": 3}
    xr.testing.assert_identical(read("new.nc"), nf.load(files / "sst.nearfield").sample(7, random_state=3))


def test_a_seed_that_was_drawn_is_told_and_gives_the_same_again(files):
    drawn = json.loads(run("sample", files / "sst.nearfield", "-n", 2, "--out", "a.npy", "--json").stdout)["seed"]
    other = json.loads(run("sample", files / "sst.nearfield", "-n", 2, "--out", "b.npy", "--json").stdout)["seed"]
    run("sample", files / "sst.nearfield", "-n", 2, "--out", "c.npy", "--seed", drawn)
    assert drawn != other
    np.testing.assert_array_equal(np.load("a.npy"), np.load("c.npy"))
    assert not np.array_equal(np.load("a.npy"), np.load("b.npy"), equal_nan=True)


def test_impute_is_the_librarys_and_keeps_what_was_observed(files, field):
    gappy = field.isel(time=3).where(field.lon < 25)
    gappy.to_netcdf("gappy.nc", engine="h5netcdf")
    run("impute", files / "sst.nearfield", "gappy.nc", "-n", 5, "--out", "filled.nc", "--seed", 1)
    filled = read("filled.nc")
    xr.testing.assert_identical(filled, nf.load(files / "sst.nearfield").impute(gappy, n_samples=5, random_state=1))
    seen = gappy.notnull().to_numpy()
    np.testing.assert_allclose(filled.to_numpy()[:, seen], np.tile(gappy.to_numpy()[seen], (5, 1)), rtol=1e-12)


def test_fit_takes_gaps_or_refuses_them(field):
    gappy = field.where(np.random.default_rng(0).random(field.shape) > 0.2)
    gappy.to_netcdf("gappy.nc", engine="h5netcdf")
    run("fit", "gappy.nc", "--method", "gaussian", "--out", "m", "--radius", 1, "--pooling", 1)
    told = nf.load("m").fit_report_.missing
    assert told.share == pytest.approx(np.isnan(gappy.values[:, field[0].notnull().values]).mean())
    assert "NaN" in run("fit", "gappy.nc", "--out", "none", "--missing", "error", code=1).stderr


def test_impute_takes_observations_at_points(files, here, field):
    (here / "points.csv").write_text("lon, lat, value, error\n10, 30, 4.5, 0.1\n41, 50, 2.0, 0\n20, 20, , 0.1\n")
    run("impute", files / "sst.nearfield", "--observations", "points.csv", "-n", 5, "--out", "new.nc", "--seed", 1)
    model = nf.load(files / "sst.nearfield")
    seen = nf.Observation([4.5, 2.0], at={"lat": [30, 50], "lon": [10, 41]}, error=[0.1, 0])
    xr.testing.assert_identical(read("new.nc"), model.condition(seen).sample(5, random_state=1))
    assert (read("new.nc").sel(lat=50, lon=40) == 2.0).all()
    gappy = field.isel(time=3).where(field.lon < 5)
    gappy.to_netcdf("gappy.nc", engine="h5netcdf")
    run("impute", files / "sst.nearfield", "gappy.nc", "--observations", "points.csv", "-n", 2, "--out", "both.nc",
        "--seed", 1)  # fmt: skip
    both = model.condition(nf.Observation(gappy.drop_vars("time")), seen).sample(2, random_state=1)
    np.testing.assert_array_equal(read("both.nc"), both)


def test_observations_of_several_variables_and_of_vertices(files, here):
    run("fit", files / "two.nc", "--method", "gaussian", "--out", "m", "--variable", "sst", "--variable", "ice",
        "--radius", 1, "--pooling", 1)  # fmt: skip
    (here / "points.csv").write_text("ice,sst,sst_error,lat,lon\n4.5,,0.1,30,10\n,2.0,0.1,50,40\n")
    run("impute", "m", "--observations", "points.csv", "-n", 3, "--out", "new.nc", "--seed", 1)
    with xr.open_dataset("new.nc", engine="h5netcdf") as drawn:
        assert (drawn.ice.sel(lat=30, lon=10) == 4.5).all()
        assert 0 < abs(drawn.sst.sel(lat=50, lon=40) - 2.0).max() < 1
    run("fit", files / "plain.npy", "--method", "gaussian", "--out", "plain", "--radius", 1, "--pooling", 0)
    (here / "vertices.csv").write_text("vertex,value\n2,7.5\n")
    run("impute", "plain", "--observations", "vertices.csv", "-n", 3, "--out", "new.npy", "--seed", 1)
    np.testing.assert_array_equal(np.load("new.npy")[:, 2], 7.5)


@pytest.mark.parametrize(
    ("table", "told"),
    [
        ("lat,lon\n30,10\n", "must have a column value, got the columns lat, lon"),
        ("lat,lon,value\n30,10,warm\n", "must have numbers in column value, got 'warm'"),
        ("lat,lon,value\n30,,2\n", "must have a number in column lon of each row"),
        ("lat,lon,value,error\n30,10,2,\n", "error must be a number wherever a value is observed"),
        ("lat,lon,value,error\n30,10,2,-1\n", "error must be at least 0"),
        ("lat,lon,value\n30,90,2\n", "must be in the domain of the model (-5 to 55)"),
        ("lat,depth,value\n30,90,2\n", "depth"),
        ("", "No columns"),
    ],
)
def test_wrong_observations_are_named(files, here, table, told):
    (here / "points.csv").write_text(table)
    result = run("impute", files / "sst.nearfield", "--observations", "points.csv", "--out", "new.nc", code=1)
    assert told in result.stderr
    assert result.stderr.count("\n") == 1
    assert [path.name for path in here.iterdir()] == ["points.csv"]


def test_score_is_the_librarys(files, field):
    model = nf.load(files / "sst.nearfield")
    told = run("score", files / "sst.nearfield", files / "sst.nc", "--surprise", "odd.nc")
    rows = [line.split(",") for line in told.stdout.splitlines()]
    assert rows[0] == ["sample", "log_density"]
    assert [int(row[0]) for row in rows[1:]] == list(range(40))
    found = model.score_samples(field)
    np.testing.assert_array_equal([float(row[1]) for row in rows[1:]], found)
    told = json.loads(run("score", files / "sst.nearfield", files / "sst.nc", "--json").stdout)
    assert told == {"log_density": found.tolist()}
    np.testing.assert_array_equal(read("odd.nc"), model.surprise(field))
    assert read("odd.nc").units == "nat"


def test_report_writes_a_page_and_its_numbers(files):
    run("report", files / "sst.nearfield", files / "sst.nc", "--out", "report.html")
    with open("report.html", encoding="utf-8") as page:
        assert page.read().rstrip().endswith("</html>")
    with open("report.json", encoding="utf-8") as numbers:
        assert json.load(numbers)


def test_plain_arrays(files):
    run("fit", files / "plain.npy", "--method", "gaussian", "--out", "m", "--radius", 1, "--pooling", 0)
    run("sample", "m", "-n", 3, "--out", "new.npy", "--seed", 0)
    np.testing.assert_array_equal(np.load("new.npy"), nf.load("m").sample(3, random_state=0))
    assert ".npy" in run("sample", "m", "--out", "new.nc", code=1).stderr


def test_the_channel_of_an_array_has_a_marginal_by_number(files):
    np.save("positive.npy", np.exp(np.load(files / "plain.npy")))
    run(
        "fit",
        "positive.npy",
        "--method",
        "gaussian",
        "--out",
        "m",
        "--radius",
        1,
        "--pooling",
        0,
        "--marginal",
        "0=log",
    )
    assert nf.load("m").marginal_.name == "log"
    told = run("fit", "positive.npy", "--out", "none", "--marginal", "1=log", code=1).stderr
    assert "variables of the data, [0], got '1'" in told


def test_classic_netcdf_and_undecodable_calendars(here, field):
    """A 360-day calendar needs a package that is not installed; dates are carried, not computed with."""
    dated = field.assign_coords(
        time=("time", np.arange(40.0), {"units": "days since 2000-02-30", "calendar": "360_day"})
    )
    dated.to_netcdf("classic.nc", engine="scipy")
    run("fit", "classic.nc", "--method", "gaussian", "--out", "m", "--radius", 1, "--pooling", 0)
    assert nf.load("m").fit_report_.n_samples == 40


@pytest.mark.parametrize("engine", ["scipy", "h5netcdf"])
def test_a_netcdf_file_cut_short_or_damaged_is_named(here, field, engine):
    field.to_netcdf("whole.nc", engine=engine)
    whole = (here / "whole.nc").read_bytes()
    run("fit", "whole.nc", "--method", "gaussian", "--out", "m", "--radius", 1, "--pooling", 0)
    cuts = [whole[:n] for n in (4, 7, 60, 300, len(whole) // 2, len(whole) - 9)]
    flips = [
        bytes([*whole[:k], whole[k] ^ 255, *whole[k + 1 :]]) for k in {"scipy": (11, 19), "h5netcdf": (9, 700)}[engine]
    ]
    for content in cuts + flips:
        (here / "part.nc").write_bytes(content)
        told = run("fit", "part.nc", "--out", "none", code=1).stderr
        assert told.startswith("error: part.nc must be a complete netCDF file, but it is truncated or damaged (")
        assert told.endswith("); copy it again\n")
        assert told.count("\n") == 1
    assert not (here / "none").exists()


def test_quiet_says_nothing_and_no_progress_goes_to_a_pipe(files):
    for arguments in (
        ("fit", files / "sst.nc", "--method", "gaussian", "--radius", 1),
        ("sample", files / "sst.nearfield", "-n", 2),
    ):
        result = run(*arguments, "--out", "x.npy", "--quiet")
        assert (result.stdout, result.stderr) == ("", "")
    assert run("fit", files / "sst.nc", "--method", "gaussian", "--radius", 1, "--out", "m").stderr == ""


FAILS = {
    "no data file": ("fit {0}/none.nc --out m", "none.nc"),
    "no array file": ("fit {0}/none.npy --out m", "none.npy"),
    "empty array file": ("fit {0}/empty.npy --out m", "one array of numbers"),
    "text as array": ("fit {0}/text.npy --out m", "text.npy"),
    "archive of arrays": ("fit {0}/several.npy --out m", "got an archive"),
    "not netCDF": ("fit {0}/text.nc --out m", "netCDF"),
    "a folder as data": ("fit {0}/folder.nc --out m", "folder.nc"),
    "which variable": ("fit {0}/two.nc --out m", "--variable"),
    "absent variable": ("fit {0}/sst.nc --out m --variable wind", "wind"),
    "absent dimension": ("fit {0}/sst.nc --out m --sample-dim year", "year"),
    "negative radius": ("fit {0}/sst.nc --out m --radius -1", "radius"),
    "pooling above 1": ("fit {0}/sst.nc --out m --pooling 2", "[0, 1]"),
    "no folder to write to": ("fit {0}/sst.nc --out none/m", "none/m"),
    "a folder as output": ("fit {0}/sst.nc --out {0}/folder", "folder"),
    "a device as output": ("fit {0}/sst.nc --out /dev/full", "/dev/full"),
    "no model file": ("sample {0}/none --out x.nc", "none"),
    "data as model": ("sample {0}/sst.nc --out x.nc", "sst.nc"),
    "damaged model": ("sample {0}/damaged.nearfield --out x.nc", "damaged.nearfield"),
    "other data": ("impute {0}/sst.nearfield {0}/plain.npy --out x.nc", ""),
    "unwritable report": ("report {0}/sst.nearfield {0}/sst.nc --out none/report.html", "none"),
    "unwritable demo": ("demo --out {0}/sst.nc", "sst.nc"),
}


@pytest.mark.parametrize("name", FAILS)
def test_a_failure_is_one_line_and_leaves_nothing(files, here, name):
    command, names = FAILS[name]
    result = run(*command.format(files).split(), code=1)
    assert result.stdout == ""
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    assert names in result.stderr
    assert list(here.iterdir()) == []


@pytest.mark.parametrize(
    "command",
    [
        "",
        "paint",
        "fit x.nc",
        "fit x.csv --out m",
        "fit x.nc --out m --radius near",
        "fit x.nc --out m --pooling some",
        "fit x.nc --out m --method best",
        "fit x.nc --out m --seed -1",
        "sample m --out x.txt",
        "sample m --out x.nc -n 0",
        "impute m --out x.nc",
        "impute m x.csv --out x.nc",
        "score m x.nc --surprise x.txt",
    ],
)
def test_wrong_usage_is_2(here, command):
    run(*command.split(), code=2)
    assert list(here.iterdir()) == []


@pytest.mark.slow
def test_a_disk_that_fills_up_leaves_the_old_file(files, here):
    out = "new.nc"
    (here / out).write_text("old")
    limited = subprocess.run(
        [sys.executable, "-m", "nearfield", "sample", files / "sst.nearfield", "-n", "500", "--out", out],
        capture_output=True,
        text=True,
        timeout=60,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000)),
    )
    assert limited.returncode == 1
    assert limited.stderr.startswith("error: ")
    assert "Traceback" not in limited.stderr
    assert [path.name for path in here.iterdir()] == [out]
    assert (here / out).read_text() == "old"


def test_python_m_and_the_console_script_are_the_same(here):
    shown = [
        subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
        for command in ([sys.executable, "-m", "nearfield", "--help"], [f"{sys.prefix}/bin/nearfield", "--help"])
    ]
    assert shown[0].replace("python -m nearfield", "nearfield") == shown[1]
    for command in ("fit", "sample", "impute", "score", "report", "info", "demo"):
        assert command in shown[1]


@pytest.mark.slow
def test_samples_of_a_known_law_have_it(here):
    """From file to file: the lag-1 correlation of an AR(1) chain; 6 standard errors are passed once in 1e8 runs."""
    alpha, n, learnt, drawn = 0.8, 20, 2000, 4000
    np.save("chain.npy", AutoregressiveChain(alpha, n).sample(learnt, random_state=1)[..., 0])
    run("fit", "chain.npy", "--out", "m", "--radius", 1, "--pooling", 1)
    run("sample", "m", "-n", drawn, "--out", "new.npy", "--seed", 2)
    x = np.load("new.npy")
    lag1 = (x[:, 1:] * x[:, :-1]).mean() / (x**2).mean()
    # Bartlett: n pairs tell a lag-1 correlation with variance (1 - alpha^2) / n; once for the fit, once for the draws.
    error = np.sqrt((1 - alpha**2) / (n - 1) * (1 / learnt + 1 / drawn))
    assert abs(lag1 - alpha) < 6 * error


def test_an_input_is_not_replaced(files):
    before = (files / "sst.nc").read_bytes()
    for command in (("fit", files / "sst.nc"), ("impute", files / "sst.nearfield", files / "sst.nc")):
        assert "must be another file than the input" in run(*command, "--out", files / "sst.nc", code=1).stderr
    assert (files / "sst.nc").read_bytes() == before


def test_a_model_is_not_replaced_by_the_numbers_of_its_report(files, here):
    model = here / "run.json"
    model.write_bytes((files / "sst.nearfield").read_bytes())
    assert "run.json" in run("report", model, files / "sst.nc", "--out", "run.html", code=1).stderr
    assert model.read_bytes() == (files / "sst.nearfield").read_bytes()
    assert list(here.iterdir()) == [model]


@pytest.fixture
def told(monkeypatch):
    """What the commands ask of a cluster, which is not started."""
    asked = []

    @contextlib.contextmanager
    def cluster(workers, scheduler):
        asked.append((workers, scheduler))
        yield

    monkeypatch.setattr("nearfield.cli.cluster", cluster)
    return asked


def test_workers_and_schedulers_are_asked_for(files, told):
    model, data = files / "sst.nearfield", files / "sst.nc"
    run("fit", data, "--out", "m", "--method", "gaussian", "--radius", 1, "--workers", 2)
    run("sample", model, "-n", 2, "--out", "new.nc", "--workers", 3)
    run("impute", model, data, "-n", 2, "--out", "full.nc", "--scheduler", "tcp://127.0.0.1:1")
    run("score", model, data)
    assert told == [(2, None), (3, None), (None, "tcp://127.0.0.1:1"), (None, None)]


def test_workers_are_refused_in_one_line(files, monkeypatch):
    sample = ("sample", files / "sst.nearfield", "-n", 2, "--out", "new.nc")
    run(*sample, "--workers", 0, code=2)
    assert run(*sample, "--workers", 2, "--scheduler", "tcp://127.0.0.1:1", code=1).stderr == (
        "error: workers must be None with a scheduler, which has its own, got 2\n"
    )
    monkeypatch.setattr("nearfield.tasks._PATIENCE", "100ms")
    told = run(*sample, "--scheduler", "tcp://127.0.0.1:1", code=1).stderr
    assert told.startswith("error: scheduler must be the address of a Dask scheduler that runs")
    assert told.count("\n") == 1
    monkeypatch.setitem(sys.modules, "dask", None)
    assert "pip install 'nearfield[dask]'" in run(*sample, "--workers", 2, code=1).stderr


@pytest.mark.slow
def test_a_cluster_draws_the_same(files):
    for name, options in (("one.nc", ()), ("two.nc", ("--workers", 2))):
        run("sample", files / "sst.nearfield", "-n", 2, "--seed", 1, "--out", name, *options)
    xr.testing.assert_identical(read("one.nc"), read("two.nc"))


def test_fit_goes_on_in_a_folder_of_tiles_alone(files, tmp_path):
    from nearfield.data.tile_store import TileStore

    (tmp_path / "notes").mkdir()
    assert "is a folder of something else" in run("fit", files / "sst.nc", "--out", "notes", code=1).stderr
    TileStore(tmp_path / "maps").claim({"data": 1})
    fit = ("fit", files / "sst.nc", "--out", "maps", "--method", "gaussian", "--radius", 1)
    assert "'maps' is a folder" in run(*fit, code=1).stderr  # these data are fitted whole
