"""Samplers that locality makes cheap: MALA within Gibbs, the localized Schroedinger bridge, Stein descent; ours.

arXiv 2505.04417 builds on them. One step size of blocks serves fields of any size; kernels of windows draw what one
kernel of the whole field can only repeat, and keep the variance that it loses.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, final

import numpy as np
from matplotlib.figure import Figure

from nearfield.datasets import AutoregressiveChain
from nearfield.evaluation.canvas import ACCENT, GENERATED
from nearfield.evaluation.metric import covariance_error, nearest_distance
from nearfield.graph import DependencyGraph
from nearfield.posterior import LocalizedSchroedingerBridge, MALAWithinGibbs, MessagePassingSVGD
from nearfield.posterior.law import gaussian_markov, phi4
from nearfield.reproduction.experiment import Claim, Experiment, Ours, Result, Workers, main

__all__ = ["EXPERIMENT", "Settings"]


@final
@dataclass(frozen=True)
class Settings:
    """Constants of the experiment; the paper has none such.

    Parameters
    ----------
    sizes : tuple of int
        Vertices of the phi^4 chains, increasing.
    step_size : float
        h of MALA.
    alpha : float
        Correlation of neighbours of the AR(1) chains.
    bridge_size, bridge_samples, data_sets : int
        Vertices and samples of the bridges, and repeats.
    bandwidths : tuple of float
        That the global kernel may choose the best of.
    particle_sizes : tuple of int
        Vertices of the chains of Stein descent.
    particles : int
        How many.
    seed : int
        Of data and chains.
    """

    sizes: Ours[tuple[int, ...]] = (16, 64, 256, 1024, 4096)
    step_size: Ours[float] = 0.05
    alpha: Ours[float] = 0.5
    bridge_size: Ours[int] = 20
    bridge_samples: Ours[int] = 400
    data_sets: Ours[int] = 3
    bandwidths: Ours[tuple[float, ...]] = (0.1, 0.2, 0.4, 0.8)
    particle_sizes: Ours[tuple[int, ...]] = (4, 16, 64, 256)
    particles: Ours[int] = 100
    seed: Ours[int] = 1


def acceptance(settings: Settings, size: int) -> tuple[float, float]:
    """Share of accepted steps on the phi^4 chain: of blocks of four, and of the whole field."""
    graph, sampler = DependencyGraph.chain(size), MALAWithinGibbs(settings.step_size, None)
    law = phi4(graph, boundary="zero", blocks=np.arange(size) // 4)
    chains = max(4, 4096 // size)
    draws = sampler.sample(law, 50, chains=chains, burn_in=30, start=np.zeros(size), seed=settings.seed)
    law = phi4(graph, boundary="zero", blocks=np.zeros(size, dtype=int))
    whole = sampler.sample(law, 50, chains=chains, burn_in=0, start=draws.values[:, -1], seed=settings.seed)
    return float(draws.acceptance.mean()), float(whole.acceptance.mean())


def bridges(settings: Settings, number: int) -> dict[str, tuple[float, float]]:
    """Error (4.6) of draws, and their distance to the nearest sample over that of true draws: local, global."""
    chain = AutoregressiveChain(settings.alpha, settings.bridge_size)
    x = chain.sample(settings.bridge_samples, random_state=settings.seed + number)
    truth = nearest_distance(chain.sample(1000, random_state=settings.seed + 1000 + number), x).mean()

    def measured(radius: int, bandwidth: float | None) -> tuple[float, float]:
        bridge = LocalizedSchroedingerBridge.fit(x, chain.graph, radius, bandwidth, steps=50)
        y = bridge.sample(600, seed=settings.seed)
        error = covariance_error(y[..., 0].T @ y[..., 0] / len(y), chain.covariance())
        return error, float(nearest_distance(y, x).mean() / truth)

    tried = [measured(settings.bridge_size - 1, each) for each in settings.bandwidths]
    return {"local": measured(1, None), "global": min(tried)}


def variance(settings: Settings, size: int) -> tuple[float, float]:
    """Mean variance of particles on an AR(1) chain, of variance 1: message passing, plain."""
    law = gaussian_markov(AutoregressiveChain(settings.alpha, size).precision)
    local, whole = (
        MessagePassingSVGD(radius, n_steps=300)
        .sample(law, settings.particles, seed=settings.seed)
        .var(0, ddof=1)
        .mean()
        for radius in (1, None)
    )
    return float(local), float(whole)


def conduct(settings: Settings, workers: Workers) -> Result:
    """Measure, claim and draw."""
    accepted = np.array(workers.map(acceptance, [(settings, d) for d in settings.sizes], "samplers: acceptance"))
    sets = [(settings, k) for k in range(settings.data_sets)]
    drawn: list[dict[str, tuple[float, float]]] = workers.map(bridges, sets, "samplers: bridges")
    bridge = {name: np.mean([each[name] for each in drawn], axis=0) for name in ("local", "global")}
    spread = np.array(workers.map(variance, [(settings, d) for d in settings.particle_sizes], "samplers: particles"))
    numbers: dict[str, Any] = {
        "acceptance": {"sizes": settings.sizes, "blocks": accepted[:, 0], "field": accepted[:, 1]},
        "bridge": bridge,
        "variance": {"sizes": settings.particle_sizes, "message passing": spread[:, 0], "plain": spread[:, 1]},
    }
    return Result(
        settings, numbers, claims(settings, accepted, bridge, spread), draw(settings, accepted, bridge, spread)
    )


def claims(
    settings: Settings, accepted: np.ndarray, bridge: dict[str, np.ndarray], spread: np.ndarray
) -> tuple[Claim, ...]:
    """State what is expected of local and of global samplers."""
    off = np.abs(accepted[:, 0] - 0.95).max()
    (local, near), (whole, _) = bridge["local"], bridge["global"]
    return (
        Claim(
            f"Blocks of 4 accept 95 % of their steps at every size: within {off:.4f} of it from d = "
            f"{settings.sizes[0]} to {settings.sizes[-1]} (.01 asked); the whole field "
            f"{accepted[0, 1]:.2f} to {accepted[-1, 1]:.3f}.",
            bool(off <= 0.01),
            "ours",
        ),
        Claim(
            f"The localized bridge errs by {local:.3f} (4.6), one global kernel at its best bandwidth by {whole:.3f} "
            "(less asked).",
            bool(local < whole),
            "ours",
        ),
        Claim(
            f"Its draws are as far from the samples as new draws of the law: {near:.2f} of their distance (.8 asked).",
            bool(near >= 0.8),
            "ours",
        ),
        Claim(
            f"Message passing keeps {spread[-1, 0]:.2f} of the variance at d = {settings.particle_sizes[-1]} (.8 "
            f"asked), plain descent {spread[-1, 1]:.2f}.",
            bool(spread[-1, 0] >= 0.8),
            "ours",
        ),
    )


def draw(settings: Settings, accepted: np.ndarray, bridge: dict[str, np.ndarray], spread: np.ndarray) -> Figure:
    """Draw acceptance and variance against the size, and what both bridges are worth."""
    figure = Figure(figsize=(13, 4.2), dpi=100, layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    for ax, sizes, values, names in (
        (left, settings.sizes, accepted, ("blocks of 4", "whole field")),
        (right, settings.particle_sizes, spread, ("message passing", "plain")),
    ):
        for column, colour, name in zip(values.T, (GENERATED, ACCENT), names, strict=True):
            ax.plot(sizes, column, "o-", color=colour, label=name)
        ax.set(xscale="log", xlabel="vertices d", ylim=(0, 1.05))
        ax.set_xticks(sizes, [str(d) for d in sizes])
        ax.minorticks_off()
        ax.legend(frameon=False)
    left.set(title=f"MALA on φ⁴ chains, h = {settings.step_size:g}", ylabel="accepted")
    right.set(title=f"Stein descent, {settings.particles} particles", ylabel="variance over the truth")
    place = np.arange(2)
    for shift, name, colour in ((-0.2, "local", GENERATED), (0.2, "global", ACCENT)):
        middle.bar(place + shift, bridge[name], 0.38, color=colour, label=name)
    middle.set_xticks(place, ["covariance error (4.6)", "distance to the samples\nover that of true draws"])
    middle.set(title=f"Schrödinger bridge, {settings.bridge_samples} samples of {settings.bridge_size} vertices")
    middle.legend(frameon=False)
    for ax in (left, middle, right):
        ax.spines[["top", "right"]].set_visible(False)
    return figure


QUICK = replace(
    Settings(), sizes=(16, 256, 1024), data_sets=1, bandwidths=(0.2, 0.4), bridge_samples=300, particle_sizes=(4, 64)
)
EXPERIMENT = Experiment("samplers", conduct, Settings(), QUICK)

if __name__ == "__main__":
    main("samplers")
