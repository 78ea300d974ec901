"""Stations with gaps: fit a record in which no month is complete, fill it, and fit the filled record again.

Stations start late, fail for months and miss single reports. The record and the law of its values are made up, so that
what is filled can be held against the truth and the exact answer. Some 20 seconds. From the repository's root:

    python examples/09_stations_with_gaps.py [picture.png]
"""

from __future__ import annotations

import sys

import numpy as np
import xarray as xr
from matplotlib.figure import Figure

import nearfield as nf

picture = sys.argv[1] if len(sys.argv) > 1 else "stations_with_gaps.png"
rng = np.random.default_rng(0)

# 1. Anomalies of 80 stations in 240 months: a Gaussian law whose correlation falls as exp(-distance / 300 km).
n_stations, n_months = 80, 240
places = rng.uniform(0, 1000, size=(n_stations, 2))  # km
kilometres = np.sqrt(((places[:, None] - places) ** 2).sum(axis=2))
covariance = 2.0**2 * np.exp(-kilometres / 300)  # K^2
truth = rng.multivariate_normal(np.zeros(n_stations), covariance, n_months, method="cholesky")

# 2. The gaps: a third of the stations start late, each fails once for two years, and one report in twenty is lost.
missing = rng.random(truth.shape) < 0.05
month = np.arange(n_months)[:, None]
missing |= month < np.where(rng.random(n_stations) < 1 / 3, rng.integers(20, 180, n_stations), 0)
failure = rng.integers(0, n_months, n_stations)
missing |= (month >= failure) & (month < failure + 24)
record = xr.DataArray(np.where(missing, np.nan, truth), dims=("month", "station"), name="anomaly", attrs={"units": "K"})
print(f"{100 * missing.mean():.0f} % of the values are missing; complete months: {(~missing).all(axis=1).sum()}")

# 3. Fit to what is there, and fill the rest by 100 draws.
graph = nf.DependencyGraph.knn(places, 6)
model = nf.LocalizedDiffusion(graph=graph, method="gaussian", random_state=0).fit(record, sample_dim="month")
print(model.fit_report_.reason)
filled = model.impute(record, n_samples=100, random_state=0)

# 4. The exact answer: the conditional law of what is missing in each month.
exact, spread = truth.copy(), np.zeros(truth.shape)
for k in range(n_months):
    hidden, seen = missing[k], ~missing[k]
    weights = np.linalg.solve(covariance[np.ix_(seen, seen)], covariance[np.ix_(seen, hidden)])
    exact[k, hidden] = truth[k, seen] @ weights
    spread[k, hidden] = np.sqrt(np.diag(covariance)[hidden] - (weights * covariance[np.ix_(seen, hidden)]).sum(axis=0))
print(f"\n{'':32}{'error, K':12}truth within the 90 % band")
answers = {
    "filled": (filled.mean("member").values, filled.std("member").values),
    "exact": (exact, spread),
    "mean of each station": (np.nanmean(record, axis=0) + 0 * truth, np.nanstd(record, axis=0) + 0 * truth),
}
for name, (middle, width) in answers.items():
    off = (truth - middle)[missing]
    inside = np.mean(np.abs(off) < 1.645 * width[missing])
    print(f"{name:32}{np.sqrt(np.mean(off**2)):<12.2f}{100 * inside:.0f} %")

# 5. Fit again, to one of the filled records, which is complete: the law should be the same.
again = nf.LocalizedDiffusion(graph=graph, method="gaussian", random_state=0).fit(filled[0], sample_dim="month")
near = (kilometres > 0) & (kilometres < 150)
print(f"\n{'':32}{'variance, K^2':16}correlation below 150 km")
laws = {"known law": covariance}
laws |= {
    f"fit to the {k} record": np.cov(m.sample(2000, random_state=1).T)
    for k, m in {"gappy": model, "filled": again}.items()
}
for name, law in laws.items():
    deviation = np.sqrt(np.diag(law))
    print(f"{name:32}{np.diag(law).mean():<16.2f}{(law / np.outer(deviation, deviation))[near].mean():.3f}")

# 6. Where the record has gaps, and one station, filled.
figure = Figure(figsize=(12, 4), dpi=80, layout="constrained")
figure.get_layout_engine().set(w_pad=0.1)
left, right = figure.subplots(1, 2, width_ratios=(1, 2.2))
observed = 100 * np.array(model.fit_report_.missing.n_observed) / n_months
dots = left.scatter(*places.T, c=observed, s=45, ec="0.5", lw=0.5, cmap="viridis", vmin=0, vmax=100)
figure.colorbar(dots, ax=left, label="months observed, %")
left.set(title="The stations", xlabel="km", ylabel="km", aspect="equal")
shown = int(np.argmin(observed))
begin = max(0, int(np.argmin(missing[:, shown])) - 50)  # some months before its first report
months = np.arange(begin, min(begin + 100, n_months))
gaps = missing[months, shown]
middle, width = (part[months, shown] for part in answers["filled"])
low, high = (np.where(gaps, middle + side * 1.645 * width, np.nan) for side in (-1, 1))
right.fill_between(months, low, high, color="C0", alpha=0.3, lw=0, label="filled, 90 % band")
right.plot(months, np.where(gaps, middle, np.nan), color="C0", lw=1.2, label="filled, mean of the draws")
right.plot(months, truth[months, shown], color="0.3", lw=0.8, ls=":", label="truth")
right.plot(months, record[months, shown], "k.", ms=4, label="observed")
right.set(title=f"The station with fewest months: {observed.min():.0f} %", xlabel="month", ylabel="anomaly, K")
right.legend(ncols=4, loc="upper center", fontsize="small", frameon=False)
right.set_ylim(-8, 9)
figure.savefig(picture)
print(f"Look at {picture}")
