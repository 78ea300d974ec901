"""Stations as a graph: fit a network of scattered stations, draw it anew, fill a station that reports nothing.

The stations and the law of their values are made up, so that what is filled can be held against the exact answer. Some
10 seconds. From the repository's root:

    python examples/02_stations.py [picture.png]
"""

from __future__ import annotations

import sys

import numpy as np
import xarray as xr
from matplotlib.figure import Figure

import nearfield as nf

picture = sys.argv[1] if len(sys.argv) > 1 else "stations.png"
rng = np.random.default_rng(0)

# 1. A network of 120 stations, and 300 days of anomalies: a Gaussian law whose correlation falls as exp(-distance / 300
#    km) along great circles.
n_stations, n_days = 120, 300
places = np.column_stack([rng.uniform(44, 55, n_stations), rng.uniform(0, 18, n_stations)])  # degrees north, east
lat, lon = np.deg2rad(places).T
chord = (
    np.sin((lat[:, None] - lat) / 2) ** 2 + np.cos(lat[:, None]) * np.cos(lat) * np.sin((lon[:, None] - lon) / 2) ** 2
)
kilometres = 2 * 6371.0088 * np.arcsin(np.sqrt(np.clip(chord, 0, 1)))
covariance = 2.0**2 * np.exp(-kilometres / 300)  # K^2
days = xr.DataArray(
    rng.multivariate_normal(np.zeros(n_stations), covariance, n_days + 200, method="cholesky"),
    dims=("day", "station"),
    coords={"lat": ("station", places[:, 0]), "lon": ("station", places[:, 1])},
    name="anomaly",
    attrs={"units": "K"},
)
train, test = days[:n_days], days[n_days:]

# 2. The graph: each station and its 8 nearest, along great circles. Fit, and draw 500 new days.
graph = nf.DependencyGraph.knn(places, 8, metric="haversine")
model = nf.LocalizedDiffusion(graph=graph, method="gaussian", random_state=0).fit(train, sample_dim="day")
print(model.fit_report_.reason)
new = model.sample(500, random_state=0)
near = (kilometres > 0) & (kilometres < 150)
far = (kilometres > 400) & (kilometres < 600)
print(f"{'':22}{'variance, K^2':16}correlation below 150 km, at 400 to 600 km")
for name, (spread, correlation) in {
    "known law": (covariance, np.exp(-kilometres / 300)),
    "300 training days": (np.cov(train.T), np.corrcoef(train.T)),
    "500 generated days": (np.cov(new.T), np.corrcoef(new.T)),
}.items():
    print(f"{name:22}{np.diag(spread).mean():<16.2f}{correlation[near].mean():.3f}, {correlation[far].mean():.3f}")

# 3. On 200 other days the station in the middle reports nothing: draw it given the others.
hidden = int(np.argmin(((places - places.mean(axis=0)) ** 2).sum(axis=1)))
filled = model.impute(test.where(test.station != hidden), n_samples=200, random_state=0)
mean, deviation = (np.asarray(part.isel(station=hidden)) for part in (filled.mean("member"), filled.std("member")))

# 4. The exact answer: the conditional law of that station given the others.
others = np.delete(np.arange(n_stations), hidden)
weights = np.linalg.solve(covariance[np.ix_(others, others)], covariance[others, hidden])
exact_mean = np.asarray(test)[:, others] @ weights
exact_deviation = np.sqrt(covariance[hidden, hidden] - weights @ covariance[others, hidden])
truth = np.asarray(test)[:, hidden]
print(f"\n{'':22}{'error, K':12}{'deviation, K':16}truth within the 90 % band")
for name, middle, width in (("filled", mean, deviation), ("exact", exact_mean, exact_deviation)):
    inside = np.mean(np.abs(truth - middle) < 1.645 * width)
    error = np.sqrt(np.mean((truth - middle) ** 2))
    print(f"{name:22}{error:<12.2f}{np.mean(width):<16.2f}{100 * inside:.0f} %")

# 5. Maps of a training day and a generated one, and the hidden station over 40 days.
figure = Figure(figsize=(12, 4), dpi=80, layout="constrained")
figure.get_layout_engine().set(w_pad=0.15)
left, middle, right = figure.subplots(1, 3, width_ratios=(1, 1, 1.3))
for ax, title, values in ((left, "A training day", train[0]), (middle, "A generated day", new[0])):
    dots = ax.scatter(places[:, 1], places[:, 0], c=values, s=28, ec="0.6", lw=0.4, cmap="RdBu_r", vmin=-5, vmax=5)
    ax.set(
        title=title,
        xlabel="longitude, degrees east",
        ylabel="latitude, degrees north",
        aspect=1 / np.cos(np.deg2rad(50)),
    )
middle.plot(*places[hidden][::-1], "o", mfc="none", mec="black", ms=10)
figure.colorbar(dots, ax=[left, middle], label="anomaly, K", shrink=0.8)
shown = np.arange(40)
right.fill_between(
    shown, *(mean[shown] + side * deviation[shown] for side in (-1.645, 1.645)), color="C0", alpha=0.25, lw=0
)
right.plot(shown, mean[shown], color="C0", label="filled, with its 90 % band")
right.plot(shown, exact_mean[shown], color="black", lw=1, ls="--", label="exact mean")
right.plot(shown, truth[shown], "k.", label="truth")
right.set(title="The station in the circle, unobserved", xlabel="day", ylabel="anomaly, K")
right.legend(fontsize="small", frameon=False, ncols=3, loc="upper center", bbox_to_anchor=(0.5, -0.15))
figure.savefig(picture)
print(f"Look at {picture}")
