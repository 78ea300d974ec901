"""Models fitted to samples with missing values, against the fits of complete ones.

Gaussian fields of AR(1) chains, where the divergence from the truth is known, and of temperature maps of a climate
model, of which every year is hidden in a swath of longitudes. Networks on chains that are not Gaussian, where the exact
denoiser is known.

`python -m benchmarks.gaps [--markdown docs/missing_data.md]`
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
import xarray as xr

from benchmarks.law import Law, cir, double_well
from benchmarks.table import publish, ratio_of_means, verdict
from nearfield import LocalizedDiffusion
from nearfield.datasets import AutoregressiveChain, north_america_temperature
from nearfield.evaluation.metric import gaussian_kl
from nearfield.methods import Hybrid
from nearfield.theory.excess import ExcessReference

if TYPE_CHECKING:
    from jaxtyping import Bool, Float

CHAIN, SAMPLES, DATA_SETS, RADIUS = AutoregressiveChain(0.8, 100), 300, 6, 2
SHARES = (0.1, 0.3, 0.5)
BARS = {0.0: (1.2, 1.9, 2.5, 1.5), 1.0: (1.4, 1.7, 2.2, 1.5)}
"""Highest ratios of the divergence to that of the complete fit: 10, 30, 50 % missing at random, and swaths of 30 %."""
CLOSE = 0.02
"""Largest excess of the held-out loss of temperatures, nats per dimension."""
CIR_EXCESS, RATIO = 0.0035, 1.8
"""Largest excess risk of a network with gaps: of Cox-Ingersoll-Ross, and of the double well over the complete one."""


def at_random(shape: tuple[int, ...], share: float, seed: int) -> Bool[np.ndarray, "sample vertex"]:
    """Hide each value with a probability."""
    return np.random.default_rng(seed).random(shape) < share


def in_swaths(n_samples: int, length: int, share: float, seed: int) -> Bool[np.ndarray, "sample vertex"]:
    """Hide one swath of each sample, which may go on at the other end."""
    start = np.random.default_rng(seed).integers(0, length, size=(n_samples, 1))
    hidden: np.ndarray = (np.arange(length) - start) % length < share * length
    return hidden


def divergence(x: Float[np.ndarray, "sample vertex"], pooling: float) -> float:
    """Nats per dimension by which the fitted law diverges from the truth."""
    model = LocalizedDiffusion(method="gaussian", radius=RADIUS, pooling=pooling, random_state=0).fit(x)
    center, scale = (part.numpy().ravel() for part in (model.marginal_.center, model.marginal_.scale))
    covariance = model.score_.covariance() * np.outer(scale, scale)
    return gaussian_kl(CHAIN.covariance(), covariance, np.zeros(len(center)), center) / len(center)


def chain_rows() -> list[list[str]]:
    """Ratios of the mean divergences over the data sets."""
    rows = []
    for pooling, bars in BARS.items():
        found = np.empty((DATA_SETS, 2 + len(SHARES)))
        for seed in range(DATA_SETS):
            x = CHAIN.sample(SAMPLES, random_state=seed)[..., 0]
            hidden = [at_random(x.shape, share, 100 + seed) for share in SHARES]
            hidden.append(in_swaths(*x.shape, 0.3, 100 + seed))
            found[seed] = [divergence(np.where(h, np.nan, x), pooling) for h in (np.zeros(x.shape, bool), *hidden)]
        ratios = [ratio_of_means(column, found[:, 0]) for column in found.T[1:]]
        cells = [f"{r:.2f} ± {e:.2f} ({verdict((r, bar))}: {bar:g})" for (r, e), bar in zip(ratios, bars, strict=True)]
        rows.append([f"pooling {pooling:g}", *cells])
    return rows


def temperature_row() -> list[str]:
    """Held-out losses of temperature maps, complete and with 30 % of each year hidden."""
    maps = north_america_temperature()
    is_test = (maps["scenario"] == "E1").to_numpy()
    years, test = maps[~is_test], maps[is_test]
    hidden = in_swaths(len(years), years.sizes["lon"], 0.3, 0)
    losses = []
    for train in (years, years.where(xr.DataArray(~hidden, dims=("year", "lon")))):
        model = LocalizedDiffusion(method="gaussian", random_state=0).fit(train, sample_dim="year")
        losses.append(-model.score(test) / model.graph_.n_vertices)
    complete, excess = losses[0], losses[1] - losses[0]
    return [f"{complete:.4f}", f"{losses[1]:.4f}", f"{excess:.4f}", f"{CLOSE:g}", verdict((excess, CLOSE))]


def network_excess(law: Law, x: Float[np.ndarray, "sample vertex"], noise_map: bool) -> float:
    """Excess risk of a hybrid fitted to standardised samples, 1500 steps, nats per dimension."""
    method = Hybrid(pooling=1.0, noise_map=noise_map)
    model = LocalizedDiffusion(method=method, marginal="none", random_state=0).fit(x)
    reference = ExcessReference.prepare(law.denoise, law.draw(200, 999), seed=1)

    @torch.no_grad()
    def denoise(z: Float[np.ndarray, "sample vertex channel"], t: float) -> np.ndarray:
        return model.score_.denoise(torch.from_numpy(z), t).numpy()

    return reference.excess(denoise).value


def network_rows() -> list[list[str]]:
    """Excess risks of networks, complete and with 30 % missing; the bars are those of the usual training."""
    rows = []
    for law in (cir(), double_well()):
        x, bar = law.draw(200, 0)[..., 0], CIR_EXCESS
        patterns = (np.zeros(x.shape, dtype=bool), at_random(x.shape, 0.3, 100), in_swaths(*x.shape, 0.3, 100))
        for noise_map in (False, True):
            complete, *found = (network_excess(law, np.where(hidden, np.nan, x), noise_map) for hidden in patterns)
            if law.name != "cir" and not noise_map:
                bar = RATIO * complete
            cells = [f"{e:.5f} ({verdict((e, bar))}: {bar:.4f})" for e in found]
            rows.append([f"{law.name}, noise map" if noise_map else law.name, f"{complete:.5f}", *cells])
    return rows


def main() -> None:
    """Fit everything, print the tables, and write them into a page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--markdown", type=Path, help="page whose sections are replaced")
    page = parser.parse_args().markdown
    header = ["unpooled or pooled", "10 % at random", "30 %", "50 %", "swaths of 30 %"]
    tables = [
        (
            "chains with gaps",
            header,
            chain_rows(),
            f"AR(1) of .8, {CHAIN.n_vertices} vertices, {SAMPLES} samples, radius {RADIUS}: KL(truth || fitted), the "
            f"mean included, over that of the complete fit; means of {DATA_SETS} data sets. In brackets the bars.",
        ),
        (
            "temperatures with gaps",
            ["complete", "30 % hidden in swaths", "excess", "bar", "verdict"],
            [temperature_row()],
            "Held-out loss of 100 years (E1), nats per dimension. Climate-model output, not observations: Met Office "
            "UM 6.05, Crown copyright, Open Government Licence v3.",
        ),
        (
            "networks with gaps",
            ["law", "complete", "30 % at random", "30 % in swaths"],
            network_rows(),
            "Chains of 128 vertices, 200 samples, one seed: excess risk of the hybrid after 1500 steps, nats per "
            "dimension. In brackets the bars.",
        ),
    ]
    for table in tables:
        publish(page, *table)


if __name__ == "__main__":
    main()
