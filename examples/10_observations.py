"""Condition a model on what was observed: satellite footprints, a regional mean, and gauges with a detection limit.

A concentration on a map, made up, whose logarithm is a Gaussian field: footprints and regional means average the
concentration, not its logarithm, and gauges below their limit only say so. Some 30 seconds. From the repository's root:

    python examples/10_observations.py [picture.png]
"""

from __future__ import annotations

import sys

import numpy as np
import xarray as xr
from matplotlib.figure import Figure

import nearfield as nf
from nearfield.datasets import GaussianMarkovField

picture = sys.argv[1] if len(sys.argv) > 1 else "observations.png"
rng = np.random.default_rng(0)

# 1. 200 maps of 20 x 20 cells to learn from, and one more to be found again.
side = 20
law = GaussianMarkovField.stationary((side, side), kappa=0.1, periodic=False)
maps = xr.DataArray(
    10 * np.exp(0.5 * law.sample(201, random_state=1)[..., 0].reshape(-1, side, side)),
    dims=("sample", "y", "x"),
    coords={"y": np.arange(side) * 5.0, "x": np.arange(side) * 5.0},  # km
    name="concentration",
    attrs={"units": "ug m-3"},
)
truth = maps[200]
model = nf.LocalizedDiffusion(method="gaussian", marginal="log", random_state=0).fit(maps[:200], sample_dim="sample")
print(model.fit_report_.reason)

# 2. A swath of 15 satellite footprints of 4 x 4 cells, with errors of .5.
boxes = [{"y": (20 * i, 20 * i + 15), "x": (20 * j, 20 * j + 15)} for i in range(5) for j in range(3)]
footprint = [float(truth.sel(y=slice(*box["y"]), x=slice(*box["x"])).mean()) + 0.5 * rng.normal() for box in boxes]
satellite = nf.Observation(footprint, operator=nf.average(boxes), error=0.5)

# 3. The mean over the east, from an inventory, and 12 gauges: an error of .2, and nothing below 7.
east = {"x": (60, 95)}
inventory = nf.Observation([float(truth.sel(x=slice(*east["x"])).mean())], operator=nf.average(east), error=0.3)
places = {"y": rng.choice(truth.y, 12), "x": rng.choice(truth.x, 12)}
reading = truth.sel({k: xr.DataArray(v, dims="gauge") for k, v in places.items()}) + 0.2 * rng.normal(size=12)
limit = 7.0
low = np.asarray(reading) < limit
gauges = nf.Observation(np.where(low, np.nan, reading), at=places, error=0.2)
below = nf.Observation(np.where(low, limit, np.nan), at=places, below=True)

# 4. What each says alone, and all together.
print(f"\n{'observed':32}{'error':>8}{'deviation':>12}   truth within the 90 % band")
shown = {}
for name, observations in {
    "gauges that show a number": [gauges],
    "all gauges": [gauges, below],
    "footprints": [satellite],
    "footprints and inventory": [satellite, inventory],
    "all": [satellite, inventory, gauges, below],
}.items():
    drawn = model.condition(*observations).sample(50, random_state=0)
    mean, deviation = drawn.mean("member"), drawn.std("member")
    lower, upper = drawn.quantile((0.05, 0.95), dim="member")
    inside = float(((truth >= lower) & (truth <= upper)).mean())
    error = float(np.sqrt(((mean - truth) ** 2).mean()))
    print(f"{name:34}{error:6.2f}{float(np.sqrt((deviation**2).mean())):12.2f}   {100 * inside:.0f} %")
    shown[name] = mean, deviation

figure = Figure(figsize=(13, 3.4), dpi=80, layout="constrained")
axes = figure.subplots(1, 4)
mean, deviation = shown["all"]
for ax, (title, field) in zip(
    axes,
    {"Truth": truth, "Mean given all": mean, "A draw": drawn[0], "Deviation given all": deviation}.items(),
    strict=True,
):
    image = ax.pcolormesh(truth.x, truth.y, field, cmap="viridis", vmin=0, vmax=25 if title[0] != "D" else 10)
    ax.set(title=title, xlabel="x, km", aspect=1)
    figure.colorbar(image, ax=ax, shrink=0.7)
axes[0].plot(places["x"][~low], places["y"][~low], "o", mfc="none", mec="white")
axes[0].plot(places["x"][low], places["y"][low], "v", mfc="none", mec="white")
axes[0].plot([57.5, 57.5], [-2.5, 97.5], "w--", lw=1)
figure.savefig(picture)
print(f"Look at {picture}")
