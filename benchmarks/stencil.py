"""Training step of the stencil network, compiled and not: useful arithmetic over the peak, and what bfloat16 gains.

A step is forward, backward and AdamW on 64 samples of 512 vertices. Useful are the multiplications and additions of
affine maps and of convolutions, by weights that a cell touches: those that are held at zero or fall beyond a border
are not counted, nor is anything elementwise. The peak is what the same run gets from a large product of matrices in
single precision, measured right before each step so that other work on the machine slows both.

Half of a step that is not compiled waits for memory: modulation and activation are passes over the field of their own.
Compiled, they are joined. What came closest without (chain 512, radius 4 and 8; plain .27 and .30): a gradient of the
modulation written by hand .29 and .31, also in pieces that fit the cache; batches cut into such pieces .25 and .27.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import torch

from benchmarks.table import show, verdict
from nearfield import DependencyGraph
from nearfield.fitting.acceleration import compiled, kept_memory, multiplies_bfloat16
from nearfield.score.stencil import StencilNetwork

SAMPLES, WIDTH = 64, 32
RADII = (4, 8)
THREADS = (1, 2)
GRAPHS = {
    "chain 512": DependencyGraph.chain(512),
    "grid 32 x 16": DependencyGraph.grid((32, 16)),
    "grid 32 x 16, diagonals": DependencyGraph.grid((32, 16), diagonal=True),
    "grid 8 x 8 x 8": DependencyGraph.grid((8, 8, 8)),
}
SHARE, GAIN = 0.35, 1.5
"""Lowest share of the peak in single precision, and lowest gain in time of bfloat16 where a processor multiplies it."""
ORDER = 2048
"""Of the matrices of the peak."""
WARM_UP, PAIRS = 3, 12
VARIANTS = ({}, {"compiles": True}, {"bfloat16": True})


def useful_operations(network: StencilNetwork, n_samples: int) -> int:
    """Count multiplications and additions of one step: forward, and twice as many backward.

    Examples
    --------
    >>> useful_operations(StencilNetwork(DependencyGraph.chain(2), radius=1, width=3), 1)  # 2 + 2 touched, of 9 weights
    396
    """
    width, cells = network.width, len(network.graph)
    touched = network.graph.adjacency.nnz + cells
    ends = network.n_channels + network.n_context + network.n_channels
    weights = network.radius * touched * width**2 + cells * (width**2 + ends * width)
    return 3 * 2 * n_samples * weights


def training_step(network: StencilNetwork, *, compiles: bool = False, bfloat16: bool = False) -> Callable[[], None]:
    """Return a step on data that were drawn once."""
    forward = compiled(network) if compiles else network
    optimizer = torch.optim.AdamW(network.parameters(), fused=True)
    generator = torch.Generator().manual_seed(0)
    x, target = (torch.randn(SAMPLES, len(network.graph), 1, generator=generator) for _ in range(2))
    level = torch.randn(SAMPLES, generator=generator)

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            out = forward(x, None, level)
        (out.float() - target).square().mean().backward()
        optimizer.step()

    return step


def seconds(clock: Callable[[], float], work: Callable[[], object]) -> float:
    """Time one call."""
    start = clock()
    work()
    return clock() - start


@kept_memory()
def main() -> None:
    """Measure every lattice, radius and number of threads, and print the table."""
    matrix = torch.randn(ORDER, ORDER, generator=torch.Generator().manual_seed(0))
    product = torch.empty_like(matrix)
    native = multiplies_bfloat16()
    rows = []
    for threads in THREADS:
        torch.set_num_threads(threads)
        clock = time.process_time if threads == 1 else time.perf_counter  # the first is blind to other processes
        for name, graph in GRAPHS.items():
            for radius in RADII:
                network = StencilNetwork(graph, radius, width=WIDTH)
                pairs = []
                for options in VARIANTS:
                    step = training_step(network, **options)
                    work = [lambda: torch.mm(matrix, matrix, out=product), step]
                    pairs.append([[seconds(clock, each) for each in work] for _ in range(WARM_UP + PAIRS)][WARM_UP:])
                taken = np.array(pairs)  # (variant, pair, product or step)
                peak = 2 * ORDER**3 / taken[..., 0]
                plain, joined = (useful_operations(network, SAMPLES) / (taken[..., 1] * peak))[:2]
                gain = taken[0, :, 1] / taken[0, :, 0] / (taken[2, :, 1] / taken[2, :, 0])
                bars = [(SHARE, float(np.median(joined))), *([(GAIN, float(np.median(gain)))] if native else [])]
                rows.append(
                    [
                        f"{name}, radius {radius}",
                        str(threads),
                        f"{np.median(peak) / 1e9:.0f}",
                        *(f"{1e3 * value:.0f}" for value in np.median(taken[..., 1], axis=1)),
                        _quartiles(plain),
                        _quartiles(joined),
                        f"{SHARE:.2f}",
                        _quartiles(gain),
                        f"{GAIN:.2f}" if native else "",
                        verdict(*bars),
                    ]
                )
    show(
        f"Training step, {SAMPLES} samples of 512 vertices, width {WIDTH}: {PAIRS} pairs of peak and steps",
        ["lattice", "threads", "peak", "fp32", "compiled", "bf16", "share", "compiled", "bar", "bf16 gain", "bar", ""],
        rows,
        "Peak in 10^9 operations a second, steps in milliseconds; medians, with quartiles in brackets. The bar of the\n"
        "share is for compiled steps. One thread is timed by its processor time; more are by the wall clock, which\n"
        "asks for a machine that does nothing else.",
    )


def _quartiles(values: np.ndarray) -> str:
    low, middle, high = np.quantile(values, (0.25, 0.5, 0.75))
    return f"{middle:.2f} [{low:.2f} {high:.2f}]"


if __name__ == "__main__":
    main()
