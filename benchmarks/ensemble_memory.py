"""Peak memory of a large ensemble: 10,000 members of 128 x 128 of a hybrid score, in a process of its own.

They are drawn by the estimator, in the units of the data, or with ``--sampler`` by the sampler alone. Two steps of the
solver, or the number given: memory does not depend on how many there are.
"""

from __future__ import annotations

import argparse
import resource
import sys
import time
from dataclasses import replace

import numpy as np
import torch

from benchmarks.table import show, verdict
from nearfield import LocalizedDiffusion
from nearfield.distribution import DiffusionModel
from nearfield.fitting.closed_form import fit_windowed
from nearfield.fitting.pooling import Pooling
from nearfield.graph import DependencyGraph
from nearfield.samples import Samples
from nearfield.sampling.sampler import default_sampler
from nearfield.score.hybrid import HybridScore
from nearfield.score.stencil import StencilNetwork

MEMORY = 4.0
"""Bar of the peak, in GiB, with the interpreter and the imports."""


def main() -> None:
    """Draw the ensemble and print its cost."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--members", type=int, default=10_000)
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--sampler", action="store_true", help="the sampler alone")
    arguments = parser.parse_args()
    x = np.random.default_rng(0).normal(size=(20, 128, 128))
    graph, alike = DependencyGraph.torus((128, 128)), Pooling(1.0)
    samples = Samples(x.reshape(20, -1, 1), graph)
    gaussian = fit_windowed(samples, ((1.0, 2),), alike)[2]
    network = StencilNetwork(graph, 4, n_context=2).requires_grad_(False)
    score = HybridScore(network, gaussian)
    model = LocalizedDiffusion(method="gaussian", graph=graph, radius=1, pooling=alike, random_state=0).fit(x)
    model.model_ = replace(model.model_, law=DiffusionModel(score))
    start = time.perf_counter()
    if arguments.sampler:
        sampler = default_sampler(steps=arguments.steps)
        drawn = sampler.sample(score, arguments.members, seed=0, dtype=torch.float64).numpy()
    else:
        drawn = model.sample(arguments.members, steps=arguments.steps, random_state=0)
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 2**30
    held = drawn.nbytes / 2**30
    show(
        f"{arguments.members} members of 128 x 128 in double precision, {arguments.steps} steps",
        ["seconds", "GiB", "bar", "members alone", "verdict"],
        [[f"{seconds:.0f}", f"{peak:.2f}", f"{MEMORY:.1f}", f"{held:.2f}", verdict((peak, MEMORY))]],
        "Peak of the process, with the interpreter and the imports.",
    )


if __name__ == "__main__":
    main()
