"""Every module can be the first one imported, the package is what its metadata say, and the README's example runs."""

from __future__ import annotations

import importlib.metadata
import os
import pkgutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

import nearfield

PUBLIC = ["DependencyGraph", "LocalizedDiffusion", "load"]

# In a child of one fresh process that has the heavy third-party packages but nothing of nearfield: a module that only
# works after another was imported (an import cycle) fails here.
IMPORT_EACH_ALONE = """
import os, sys
import h5netcdf, matplotlib.figure, numpy, scipy.sparse, sklearn.base, torch, xarray
assert not [name for name in sys.modules if name.split(".")[0] == "nearfield"]
for module in sys.argv[1:]:
    child = os.fork()
    if child == 0:
        try:
            __import__(module)
        except BaseException as error:
            print(f"{module}: {error!r}")
        finally:
            sys.stdout.flush()
            os._exit(0)
    os.waitpid(child, 0)
"""


def modules() -> list[str]:
    return ["nearfield", *(found.name for found in pkgutil.walk_packages(nearfield.__path__, "nearfield."))]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.slow
def test_each_module_imports_alone():
    found = modules()
    assert {"nearfield.cli", "nearfield.noise", "nearfield.data.codec"} < set(found)
    run = subprocess.run(
        [sys.executable, "-c", IMPORT_EACH_ALONE, *found], capture_output=True, text=True, timeout=120, check=True
    )
    assert run.stdout == ""


def test_version_is_the_metadatas():
    assert nearfield.__version__ == importlib.metadata.version("nearfield")


@pytest.mark.parametrize("name", PUBLIC)
def test_public_names(name):
    assert name in nearfield.__all__
    assert getattr(nearfield, name).__module__.startswith("nearfield.")


def test_public_names_exist_and_are_documented():
    assert nearfield.__all__ == sorted(nearfield.__all__)
    for name in nearfield.__all__:
        assert getattr(nearfield, name) is not None
        if name != "__version__":
            assert getattr(nearfield, name).__doc__, f"{name} has no docstring"


def test_help_imports_nothing_slow():
    code = "import sys, nearfield.cli; print([name for name in ('torch', 'xarray', 'sklearn') if name in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert run.stdout.strip() == "[]"


@pytest.mark.slow
def test_the_readmes_example_runs(tmp_path, monkeypatch, capsys):
    readme = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
    example = readme.split("```python\n")[1].split("```")[0]
    values = np.random.default_rng(0).normal(size=(30, 6, 5)).cumsum(axis=1)
    values[:, 0, 0] = np.nan
    coords = {"time": np.arange(30), "lat": np.linspace(20, 60, 6), "lon": np.linspace(0, 40, 5)}
    data = xr.DataArray(values, coords, ("time", "lat", "lon"), name="field", attrs={"units": "m"})
    data.to_netcdf(tmp_path / "mine.nc", engine="h5netcdf")
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    exec(example, names)
    assert names["new"].sizes == {"member": 1000, "lat": 6, "lon": 5}
    assert bool(names["new"].isnull().any("member")[0, 0])
    observed = data[-1].where(data.lat > 40)
    assert bool((names["filled"] == observed).where(observed.notnull(), True).all())
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "mine.nc",
        "mine.nearfield",
        "report.html",
        "report.json",
    ]
    assert "Radius" in capsys.readouterr().out
