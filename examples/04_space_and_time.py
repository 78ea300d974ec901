"""Space times time: a graph of stations times a chain of days, and the last day filled from the four before it.

The stations and the law of their values are made up, so that what is filled can be held against the exact answer. Some
10 seconds. From the repository's root:

    python examples/04_space_and_time.py [picture.png]
"""

from __future__ import annotations

import sys

import numpy as np
import xarray as xr
from matplotlib.figure import Figure

import nearfield as nf

picture = sys.argv[1] if len(sys.argv) > 1 else "space_and_time.png"
rng = np.random.default_rng(1)

# 1. Forty stations, and stretches of five days: correlation falls as exp(-distance / 300 km) in space, as .7 to the
#    number of days in time, and their product is the law. 300 stretches to learn from, 300 to be filled.
n_stations, n_days = 40, 5
places = rng.uniform(0, 800, (n_stations, 2))  # km
kilometres = np.linalg.norm(places[:, None] - places, axis=-1)
days = np.arange(n_days)
covariance = 2.0**2 * np.kron(np.exp(-kilometres / 300), 0.7 ** np.abs(days[:, None] - days))  # K^2
values = rng.multivariate_normal(np.zeros(n_stations * n_days), covariance, 600, method="cholesky")
stretches = xr.DataArray(
    values.reshape(-1, n_stations, n_days), dims=("stretch", "station", "day"), name="anomaly", attrs={"units": "K"}
)
train, test = stretches[:300], stretches[300:]

# 2. The graph: vertices are pairs (station, day), in the order of the data's dimensions; neighbours are near stations
#    on the same day, and the same station a day before or after.
graph = nf.DependencyGraph.knn(places, 6).product(nf.DependencyGraph.chain(n_days))
model = nf.LocalizedDiffusion(graph=graph, method="gaussian", random_state=0).fit(train, sample_dim="stretch")
print(model.fit_report_.reason)

# 3. Draw 500 stretches, and compare them with the law in space and in time.
near = (kilometres > 0) & (kilometres < 150)
new = model.sample(500, random_state=0)
print(f"{'':22}{'variance, K^2':16}correlation below 150 km, from day to day")
for name, spread in {
    "known law": covariance,
    "300 training stretches": np.cov(train.stack(vertex=("station", "day")).T),
    "500 generated ones": np.cov(new.stack(vertex=("station", "day")).T),
}.items():
    scale = np.sqrt(np.diag(spread))
    pairs = (spread / scale / scale[:, None]).reshape(n_stations, n_days, n_stations, n_days)
    same_day = pairs[:, days, :, days][:, near].mean()
    next_day = np.mean([pairs[k, day, k, day + 1] for k in range(n_stations) for day in days[:-1]])
    print(f"{name:24}{np.diag(spread).mean():<14.2f}{same_day:.3f}, {next_day:.3f}")

# 4. Fill the last day from the first four, of stretches that the model has not seen.
filled = model.impute(test.where(test.day < n_days - 1), n_samples=100, random_state=0)[..., -1]
mean, deviation = np.asarray(filled.mean("member")), np.asarray(filled.std("member"))

# 5. The exact answer, the conditional law of that day given the others, and what persistence would say.
last = np.arange(n_stations * n_days) % n_days == n_days - 1
weights = np.linalg.solve(covariance[np.ix_(~last, ~last)], covariance[np.ix_(~last, last)])
exact_mean = np.asarray(test).reshape(len(test), -1)[:, ~last] @ weights
exact_variance = np.diag(covariance[np.ix_(last, last)] - weights.T @ covariance[np.ix_(~last, last)])
exact_deviation = np.broadcast_to(np.sqrt(exact_variance), exact_mean.shape)
truth, before = np.asarray(test)[..., -1], np.asarray(test)[..., -2]
print(f"\n{'':24}{'error, K':12}{'deviation, K':16}truth within the 90 % band")
for name, middle, width in (("filled", mean, deviation), ("exact", exact_mean, exact_deviation)):
    inside = np.mean(np.abs(truth - middle) < 1.645 * width)
    print(f"{name:24}{np.sqrt(np.mean((truth - middle) ** 2)):<12.2f}{np.mean(width):<16.2f}{100 * inside:.0f} %")
print(f"{'as the day before':24}{np.sqrt(np.mean((truth - before) ** 2)):.2f}")

figure = Figure(figsize=(14, 3.4), dpi=80, layout="constrained")
figure.get_layout_engine().set(w_pad=0.1)
*maps, right = figure.subplots(1, 4)
titles = "The last day: truth", "Filled from four days: mean", "Exact mean"
for ax, title, shown in zip(maps, titles, (truth[1], mean[1], exact_mean[1]), strict=True):
    dots = ax.scatter(*places.T, c=shown, s=50, ec="0.6", lw=0.4, cmap="RdBu_r", vmin=-4, vmax=4)
    ax.set(title=title, xlabel="east, km", ylabel="north, km", aspect="equal")
figure.colorbar(dots, ax=maps, label="anomaly, K")
right.plot(exact_mean.ravel()[::10], mean.ravel()[::10], ".", ms=2)
right.axline((0, 0), slope=1, color="black", lw=0.8)
right.set(title="All: filled against exact", xlabel="exact mean, K", ylabel="filled mean, K", aspect="equal")
figure.savefig(picture)
print(f"Look at {picture}")
