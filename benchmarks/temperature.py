"""Held-out log-density on temperature maps of a climate model, against what one would use otherwise.

Trained on the 240 years of the historical run and scenario A1B, and on the last 50 of them; tested on the 100 years of
scenario E1. Climate-model output (Met Office, UM 6.05), not observations.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import numpy as np
from sklearn.covariance import LedoitWolf

from benchmarks.table import show, verdict
from nearfield import LocalizedDiffusion
from nearfield.datasets import north_america_temperature
from nearfield.evaluation.metric import roughness

if TYPE_CHECKING:
    import xarray as xr
    from jaxtyping import Float

BARS = {240: -0.897, 50: -0.675}
"""Highest held-out loss, nats per dimension, for each number of training years."""
ROUGHNESS = (0.97, 1.03)
"""Allowed roughness of draws relative to the training years."""
PREDECESSORS = 16


def independent_loss(train: Float[np.ndarray, "year site"], test: Float[np.ndarray, "year site"]) -> float:
    """Negative log-density under independent sites, nats per dimension."""
    return float(_conditional_loss(test - train.mean(axis=0), train.var(axis=0)).mean())


def ledoit_wolf_loss(train: Float[np.ndarray, "year site"], test: Float[np.ndarray, "year site"]) -> float:
    """Negative log-density under a Gaussian with the Ledoit-Wolf covariance, nats per dimension."""
    return -float(LedoitWolf().fit(train).score(test)) / train.shape[1]


def regression_loss(
    train: Float[np.ndarray, "year site"], test: Float[np.ndarray, "year site"], earlier: list[np.ndarray]
) -> float:
    """Negative log-density when each site is regressed on some earlier ones by least squares, nats per dimension."""
    center = train.mean(axis=0)
    train, test = train - center, test - center
    loss = 0.0
    for site, others in enumerate(earlier):
        slope = np.linalg.lstsq(train[:, others], train[:, site])[0]
        variance = ((train[:, site] - train[:, others] @ slope) ** 2).mean()
        loss += _conditional_loss(test[:, site] - test[:, others] @ slope, variance).mean()
    return loss / train.shape[1]


def directions(maps: xr.DataArray) -> Float[np.ndarray, "site axis"]:
    """Return unit vectors to the sites, in lexicographic order of latitude and longitude."""
    lat, lon = (np.deg2rad(axis.ravel()) for axis in np.meshgrid(maps["lat"], maps["lon"], indexing="ij"))
    return np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)], axis=1)


def nearest_earlier(maps: xr.DataArray, count: int) -> list[np.ndarray]:
    """For each site in lexicographic order, the earlier ones nearest to it along great circles."""
    place = directions(maps)
    return [np.argsort(-(place[:i] @ place[i]), kind="stable")[:count] for i in range(len(place))]


def _conditional_loss(residual: np.ndarray, variance: np.ndarray | float) -> np.ndarray:
    return 0.5 * (residual**2 / variance + np.log(2 * np.pi * variance))


def main() -> None:
    """Fit to both training sets and print the table."""
    maps = north_america_temperature()
    is_test = (maps["scenario"] == "E1").to_numpy()
    years, test = maps[~is_test], maps[is_test]
    earlier = nearest_earlier(maps, PREDECESSORS)
    rows = []
    for n, bar in BARS.items():
        train = years[-n:]
        flat, held_out = (part.to_numpy().astype(np.float64).reshape(len(part), -1) for part in (train, test))
        deviation = flat.std(axis=0)
        z, z_test = flat / deviation, held_out / deviation
        for name, loss in (
            ("independent sites", independent_loss(z, z_test)),
            ("Ledoit-Wolf", ledoit_wolf_loss(z, z_test)),
            (f"{PREDECESSORS} nearest predecessors", regression_loss(z, z_test, earlier)),
        ):
            rows.append([f"{name}, {n} years", f"{loss:.4f}", "", "", "", ""])
        start = time.perf_counter()
        model = LocalizedDiffusion(method="gaussian", random_state=0).fit(train, sample_dim="year")
        seconds = time.perf_counter() - start
        # A density of x / deviation is that of x times the deviations.
        loss = -model.score(test) / flat.shape[1] - float(np.log(deviation).mean())
        setting = f"{model.radius_}, {model.pooling_.strength:g}, {model.pooling_.bandwidth:g}"
        cells = [f"{loss:.4f}", f"{bar:.3f}", setting, f"{seconds:.1f}", verdict((loss, bar))]
        rows.append([f"nearfield, {n} years", *cells])
        if n == max(BARS):
            drawn = model.sample(500, random_state=0)
            drawn, real = (roughness(model.codec_.encode(part), model.graph_).mean() for part in (drawn, train))
            low, high = ROUGHNESS
            cells = [
                f"{drawn / real:.4f}",
                f"{low} to {high}",
                "",
                "",
                verdict((low, drawn / real), (drawn / real, high)),
            ]
            roughness_row = [f"roughness of 500 draws / of {n} years", *cells]
    show(
        "Temperatures: negative log-density of 100 held-out years (E1), nats per dimension, in units of training sd",
        ["method", "value", "bar", "radius, strength, bandwidth", "fit s", "verdict"],
        [*rows, roughness_row],
        "Climate-model output, not observations: Met Office UM 6.05, Crown copyright, Open Government Licence v3.\n"
        "Training years: historical and A1B, or the last 50 of them. Roughness: mean squared difference of neighbours.",
    )


if __name__ == "__main__":
    main()
