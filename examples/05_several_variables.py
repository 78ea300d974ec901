"""Several variables: fit a Dataset of two correlated fields, draw both together, fill one from the other.

The fields follow a made-up law, so that what is drawn and filled can be held against it. Some 10 seconds. From the
repository's root:

    python examples/05_several_variables.py [picture.png]
"""

from __future__ import annotations

import sys

import numpy as np
import xarray as xr
from matplotlib.figure import Figure

import nearfield as nf
from nearfield.datasets import GaussianMarkovField

picture = sys.argv[1] if len(sys.argv) > 1 else "several_variables.png"

# 1. Temperature and humidity on a grid of 16 x 16 cells: each is a known field, and cell by cell they are correlated
#    -0.7. 150 samples to learn from, 200 others to be filled.
shape, cross = (16, 16), -0.7
law = GaussianMarkovField.stationary(shape, kappa=0.3, periodic=False)
first, second = law.sample(700, random_state=0)[..., 0].reshape(2, 350, *shape)
dims = ("sample", "y", "x")
fields = xr.Dataset(
    {
        "temperature": (dims, 15 + 3 * first, {"units": "degC"}),
        "humidity": (dims, 60 + 10 * (cross * first + np.sqrt(1 - cross**2) * second), {"units": "%"}),
    }
)
train, test = fields.isel(sample=slice(150)), fields.isel(sample=slice(150, None))

# 2. Each variable is a channel of the same cells. Fit, and draw 500 new pairs: a Dataset again.
model = nf.LocalizedDiffusion(method="gaussian", random_state=0).fit(train, sample_dim="sample")
print(model.fit_report_.reason)
new = model.sample(500, random_state=0)


# 3. Compare deviations and cross-correlations with the law: of the same cell, and of cells two apart.
def cross_correlation(data: xr.Dataset, apart: int) -> float:
    """Mean correlation of temperature with the humidity that many cells further along x."""
    temperature, humidity = (np.asarray(data[name]) for name in ("temperature", "humidity"))
    standard = [(field - field.mean(axis=0)) / field.std(axis=0) for field in (temperature, humidity)]
    return float(np.mean(standard[0][..., : shape[1] - apart] * standard[1][..., apart:]))


covariance = law.covariance()
distant = covariance.reshape(*shape, *shape)[:, np.arange(14), :, np.arange(2, 16)]  # (x, y, y)
at_two = cross * np.mean([distant[:, y, y].mean() for y in range(shape[0])])
print(f"{'':22}{'deviations, K and %':22}cross-correlation in a cell, two cells apart")
print(f"{'known law':22}{'3.00, 10.00':22}{cross:.3f}, {at_two:.3f}")
for name, data in (("150 training samples", train), ("500 generated ones", new)):
    deviations = ", ".join(f"{float(data[key].std(data[key].dims[0]).mean()):.2f}" for key in data)
    print(f"{name:22}{deviations:22}{cross_correlation(data, 0):.3f}, {cross_correlation(data, 2):.3f}")

# 4. Fill the humidity of fields whose temperature is known. By the law it depends on the temperature of its own cell
#    alone: 60 + 10 x cross x (temperature - 15) / 3, give or take 10 x sqrt(1 - cross^2).
gappy = test.assign(humidity=test["humidity"] * np.nan)
filled = model.impute(gappy, n_samples=100, random_state=0)["humidity"]
mean, deviation = np.asarray(filled.mean("member")), np.asarray(filled.std("member"))
exact_mean = np.asarray(60 + 10 * cross * (test["temperature"] - 15) / 3)
exact_deviation = np.full_like(exact_mean, 10 * np.sqrt(1 - cross**2))
truth = np.asarray(test["humidity"])
print(f"\n{'':22}{'error, %':12}{'deviation, %':16}truth within the 90 % band")
for name, middle, width in (("filled", mean, deviation), ("exact", exact_mean, exact_deviation)):
    inside = np.mean(np.abs(truth - middle) < 1.645 * width)
    print(f"{name:22}{np.sqrt(np.mean((truth - middle) ** 2)):<12.2f}{np.mean(width):<16.2f}{100 * inside:.0f} %")

figure = Figure(figsize=(12, 3.2), dpi=80, layout="constrained")
axes = figure.subplots(1, 4)
warm, wet = {"cmap": "RdBu_r", "vmin": 6, "vmax": 24}, {"cmap": "BrBG", "vmin": 30, "vmax": 90}
first = axes[0].imshow(new["temperature"][0], origin="lower", **warm)
for ax, field in zip(axes[1:], (new["humidity"][0], truth[0], mean[0]), strict=True):
    second = ax.imshow(field, origin="lower", **wet)
for ax, title in zip(
    axes, ("Temperature, generated", "Humidity with it", "Humidity, truth", "Filled: mean"), strict=True
):
    ax.set(title=title, xlabel="x, cells", ylabel="y, cells")
figure.colorbar(first, ax=axes[0], label="degrees Celsius", location="left", shrink=0.7)
figure.colorbar(second, ax=axes[3], label="humidity, %", shrink=0.7)
figure.savefig(picture)
print(f"Look at {picture}")
