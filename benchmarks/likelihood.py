"""Log-densities of networks by the probability flow, against exact ones; traces on a plane, against whole Jacobians.

`python -m benchmarks.likelihood [chains] [plane] [--seeds 0 1 2] [--markdown docs/likelihood.md]`
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch

from benchmarks.law import LAWS
from benchmarks.table import show, verdict, write_section
from nearfield import DependencyGraph, LocalizedDiffusion
from nearfield.fitting.closed_form import fit_windowed
from nearfield.fitting.pooling import Pooling
from nearfield.process import time_of
from nearfield.samples import Samples
from nearfield.sampling.likelihood import FlowDensity, LogDensity
from nearfield.score.divergence import exact_divergence
from nearfield.score.hybrid import HybridScore
from nearfield.score.stencil import StencilNetwork

N, TESTED = 200, 64
BARS = {"cir": (0.7, 1.4), "double_well": (0.7, 1.0)}
"""Largest bias and root mean square error of a network's log-density, nats."""
HEADER = ["law", "density of", "bias", "RMSE", "bars", "half the steps", "standard error", "s per sample", "verdict"]
NOTES = (
    "128 vertices, 200 training samples, 64 others scored; means over the seeds of the data. bias and RMSE: nats, of\n"
    "the log-density less the exact one. half the steps: what 15 steps change of 30, RMS. s per sample: one thread.\n"
)
PLANE = ["radius", "neighbours by", "products", "vertices", "largest error of a trace", "s per trace", "s per sample"]


def main() -> None:
    """Fit, score and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", default=["chains", "plane"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--markdown", type=Path, help="page whose tables are replaced")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for part in arguments.parts:
        rows = on_chains(arguments.seeds) if part == "chains" else on_planes()
        header, notes = (HEADER, NOTES) if part == "chains" else (PLANE, "Random weights in double precision.\n")
        show(part, header, rows, notes)
        if arguments.markdown is not None:
            write_section(arguments.markdown, f"likelihood {part}", header, rows, notes)


def on_chains(seeds: list[int]) -> list[list[str]]:
    """Laws with exact densities."""
    rows = []
    for name, (bias_bar, error_bar) in BARS.items():
        law = LAWS[name]()
        found: dict[str, list[tuple[float, ...]]] = {}
        for seed in seeds:
            train, test = law.draw(N, seed)[..., 0], law.draw(TESTED, 1000 + seed)
            assert law.log_prob is not None
            exact = law.log_prob(test)
            for title, marginal in (("Gaussian field", "standardize"), ("field, quantile marginal", "quantile")):
                field = LocalizedDiffusion(method="gaussian", marginal=marginal, random_state=seed).fit(train)
                start = time.process_time()
                error = field.score_samples(test[..., 0]) - exact
                seconds = (time.process_time() - start) / TESTED
                found.setdefault(title, []).append((error.mean(), np.sqrt((error**2).mean()), 0.0, 0.0, seconds))
            model = LocalizedDiffusion(method="hybrid", random_state=seed).fit(train)
            for title, flow in {
                "network": FlowDensity(),
                "network, random signs": FlowDensity(divergence="random"),
            }.items():
                density, seconds = scored(model, test, flow)
                error = density.values - exact
                told = float(np.sqrt(np.mean(density.standard_error**2)))
                found.setdefault(title, []).append(
                    (error.mean(), np.sqrt((error**2).mean()), density.step_error, told, seconds)
                )
            print(f"  {name}, seed {seed}: " + ", ".join(f"{title} {each[-1][1]:.2f}" for title, each in found.items()))
        for title, each in found.items():
            bias, error, half, told, seconds = np.mean(each, axis=0)
            judged = title == "network"
            rows.append(
                [
                    name,
                    title,
                    f"{bias:.2f}",
                    f"{error:.2f}",
                    f"{bias_bar}, {error_bar}" if judged else "",
                    f"{half:.3f}",
                    f"{told:.2f}",
                    f"{seconds:.2g}",
                    verdict((abs(bias), bias_bar), (error, error_bar)) if judged else "",
                ]
            )
    return rows


def scored(model: LocalizedDiffusion, x: np.ndarray, flow: FlowDensity) -> tuple[LogDensity, float]:
    """Return log-densities of data under the score of a model, and seconds for each."""
    start = time.process_time()
    z, volume = model.marginal_(x), model.marginal_.log_abs_det_jacobian(x).sum(axis=(1, 2))
    found = flow.log_prob(model.score_, z, model.model_.law.largest_eigenvalue)
    return found._replace(values=found.values + volume), (time.process_time() - start) / len(x)


def on_planes() -> list[list[str]]:
    """Stencil networks that are shown a wider Gaussian: traces by colours, and of the whole Jacobian."""
    rows = []
    for side, radius, diagonal in ((20, 2, False), (20, 4, False), (20, 2, True), (32, 4, False)):
        graph = DependencyGraph.grid((side, side), diagonal=diagonal)
        x = np.random.default_rng(0).normal(size=(100, side, side)).cumsum(axis=1).cumsum(axis=2)
        x = (x / x.std(axis=0)).reshape(100, -1, 1)
        gaussian = fit_windowed(Samples(x, graph), ((1.0, 5),), Pooling(1.0))[2]
        network = StencilNetwork(graph, radius, 1, 2, width=32)
        generator = torch.Generator().manual_seed(0)
        for weight in network.double().requires_grad_(False).parameters():
            weight += 0.05 * torch.randn(weight.shape, generator=generator, dtype=torch.float64)
        score = HybridScore(network, gaussian, np.full((4, 1), 0.3))
        exact, state, worst = exact_divergence(score), torch.from_numpy(x[:1]), 0.0
        assert exact is not None
        for sigma in (0.05, 0.5, 4.0):
            start = time.process_time()
            trace = float(exact(state, time_of(sigma), 0, 0)[1])
            seconds = time.process_time() - start
            if side < 32:
                worst = max(worst, abs(trace - whole_trace(score, state, time_of(sigma))))
        network.float()
        start = time.process_time()
        FlowDensity(divergence="exact").log_prob(score, x[:4], 100.0)
        per_sample = (time.process_time() - start) / 4
        error = f"{worst:.1e}" if side < 32 else ""
        kind = "edges and corners" if diagonal else "faces"
        rows.append(
            [f"{radius}", kind, f"{exact.n_products}", f"{side**2}", error, f"{seconds:.2f}", f"{per_sample:.2f}"]
        )
    return rows


def whole_trace(score: HybridScore, x: torch.Tensor, t: float) -> float:
    """Trace of the Jacobian of the denoiser, an entry at a time by reverse mode."""
    state = x.clone().requires_grad_(True)
    denoised = score.denoise(state, t)
    entries = [torch.autograd.grad(denoised[0, j, 0], state, retain_graph=True)[0][0, j, 0] for j in range(x.shape[1])]
    return float(torch.stack(entries).sum())


if __name__ == "__main__":
    main()
