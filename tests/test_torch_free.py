"""The rooms of plain arrays, and the parts of the command line that need no network, start without PyTorch."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from nearfield import LocalizedDiffusion

HEAVY = ("torch", "matplotlib", "sklearn", "jinja2")


def heavy_after(statement):
    code = f"import sys; {statement}; print([m for m in {HEAVY} if m in sys.modules])"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.splitlines()


@pytest.mark.slow
@pytest.mark.parametrize(
    "module", ["_plain", "graph", "graph.coarsening", "data.codec", "data.store", "evaluation.report", "datasets"]
)
def test_arrays_take_no_heavy_imports(module):
    assert heavy_after(f"import nearfield.{module}")[-1] == "[]"


def test_info_reads_a_file_without_them(tmp_path):
    path = tmp_path / "m.nearfield"
    LocalizedDiffusion(method="gaussian", radius=1, pooling=1.0, random_state=3).fit(
        np.random.default_rng(0).normal(size=(40, 6))
    ).save(path)
    told = heavy_after(f"from nearfield.cli import app; app(['info', {str(path)!r}], standalone_mode=False)")
    assert told[-1] == "[]"
    assert {"graph: DependencyGraph.grid((6,))", "samples: 40", "radius: 1", "seed: 3"} <= set(told)
