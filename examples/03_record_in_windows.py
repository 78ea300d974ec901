"""A long record cut into windows: learn a stretch of a series from one record, and draw as many stretches as you like.

The record is made up, a mean course of the year and a second-order autoregression, so that what is drawn can be held
against the law. Some 10 seconds. From the repository's root:

    python examples/03_record_in_windows.py [picture.png]
"""

from __future__ import annotations

import sys

import numpy as np
import xarray as xr
from matplotlib.figure import Figure
from scipy.signal import lfilter

import nearfield as nf

picture = sys.argv[1] if len(sys.argv) > 1 else "record_in_windows.png"

# 1. Sixty years of months: 3 K x cos(season) + an oscillation that forgets, x[t] = 1.2 x[t-1] - .5 x[t-2] + noise.
n_years, lags = 60, np.arange(1, 37)
phi = np.array([1.2, -0.5])
noise = np.random.default_rng(0).standard_normal(12 * n_years + 500)
season = 3 * np.cos(2 * np.pi * np.arange(12) / 12)
record = np.tile(season, n_years) + lfilter([1.0], [1.0, *-phi], noise)[500:]  # the first 500 forget the start
law = np.ones(len(lags) + 1)  # its autocorrelation, by the recursion of Yule and Walker
law[1] = phi[0] / (1 - phi[1])
for lag in lags[1:]:
    law[lag] = phi[0] * law[lag - 1] + phi[1] * law[lag - 2]
law_variance = 1 / (1 - phi[0] * law[1] - phi[1] * law[2])

# 2. Cut it into stretches of four years, each beginning in another January: they overlap, and each month of the
#    stretch keeps its own mean. The name of the first dimension says that they follow each other in time, so that
#    blocks of them are held out.
length = 48
starts = np.arange(0, len(record) - length + 1, 12)
windows = xr.DataArray(
    np.stack([record[start : start + length] for start in starts]),
    dims=("time", "month"),
    coords={"time": starts / 12, "month": np.arange(length)},
    name="temperature",
    attrs={"units": "K"},
)

# 3. Fit, and draw 1000 stretches.
model = nf.LocalizedDiffusion(method="gaussian", random_state=0).fit(windows, sample_dim="time")
print(model.fit_report_.reason)
new = np.asarray(model.sample(1000, random_state=0))


# 4. Compare mean course, variance and autocorrelation about the mean course.
def autocorrelation(series: np.ndarray) -> np.ndarray:
    """Correlation at each lag, 0 included, of stretches (stretch, month) whose mean is 0."""
    products = [np.mean(series[:, : series.shape[1] - lag] * series[:, lag:]) for lag in range(len(lags) + 1)]
    return np.array(products) / products[0]


course = record.reshape(-1, 12).mean(axis=0)
rest = {
    "known law": None,
    "record": (record - np.tile(course, n_years))[None],
    "generated": new - np.tile(new.mean(axis=0).reshape(-1, 12).mean(axis=0), length // 12),
}
curves = {name: law if series is None else autocorrelation(series) for name, series in rest.items()}
courses = {"known law": season, "record": course, "generated": new.mean(axis=0).reshape(-1, 12).mean(axis=0)}
print(f"{'':12}{'January, July, K':20}{'variance, K^2':16}autocorrelation at 1, 3, 6, 12 months")
for name, series in rest.items():
    variance = law_variance if series is None else np.mean(series**2)
    shown = ", ".join(f"{curves[name][lag]:.2f}" for lag in (1, 3, 6, 12))
    print(f"{name:12}{f'{courses[name][0]:.2f}, {courses[name][6]:.2f}':20}{variance:<16.2f}{shown}")

figure = Figure(figsize=(11, 4), dpi=80, layout="constrained")
left, right = figure.subplots(1, 2, width_ratios=(1.3, 1))
for k, (name, series) in enumerate((("of the record", np.asarray(windows)[20]), ("generated", new[0]))):
    left.plot(np.arange(length), series, color=("black", "C0")[k], label=name)
left.set(title="Stretches of four years", xlabel="month", ylabel="temperature, K", xticks=np.arange(0, length + 1, 12))
for name, style in (("known law", "k--"), ("record", "k"), ("generated", "C0")):
    right.plot(np.arange(len(lags) + 1), curves[name], style, label=name)
right.axhline(0, color="0.8", lw=0.8, zorder=0)
right.set(title="About the mean course of the year", xlabel="lag, months", ylabel="autocorrelation")
for ax in (left, right):
    ax.legend(fontsize="small", frameon=False)
figure.savefig(picture)
print(f"Look at {picture}")
