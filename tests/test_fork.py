"""A fit in a forked worker, after a fit in its parent."""

from __future__ import annotations

import multiprocessing
import subprocess
import sys

import pytest

SCRIPT = """
import multiprocessing, numpy as np, torch, nearfield as nf
torch.set_num_threads(2)
x = np.random.default_rng(0).normal(size=(60, 20, 20)).cumsum(1)
def fit(k):
    model = nf.LocalizedDiffusion(method="gaussian", radius=2, pooling=0.5, random_state=k).fit(x[: 40 + k])
    return float(model.score_samples(x).mean())
here = fit(0)
with multiprocessing.get_context("fork").Pool(1) as pool:
    print(abs(pool.map(fit, [0])[0] / here - 1) < 1e-6)
"""


@pytest.mark.slow
@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="no fork here")
def test_a_forked_worker_fits_after_its_parent():
    """In a process of its own, since a worker that hangs would take the tests with it."""
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout.strip() == "True", done.stderr
