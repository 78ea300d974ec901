"""Find bad stations: how surprising each report is, given all others of its day.

The stations and the law of their values are made up, and so are the faults: it is known what is to be found. Some 20
seconds. From the repository's root:

    python examples/13_finding_a_bad_station.py [picture.png]
"""

from __future__ import annotations

import sys

import numpy as np
import xarray as xr
from matplotlib.figure import Figure

import nearfield as nf

picture = sys.argv[1] if len(sys.argv) > 1 else "finding_a_bad_station.png"
rng = np.random.default_rng(0)

# 1. 120 stations and 700 days of anomalies: a Gaussian law whose correlation falls as exp(-distance / 400 km), and .3 K
#    of noise at each station. The first 300 days are for the fit, and the next 200 are good too. Of the reports of the
#    last 200 days 5 % are missing.
n_stations, n_days, n_new = 120, 300, 200
places = np.column_stack([rng.uniform(44, 55, n_stations), rng.uniform(0, 18, n_stations)])  # degrees north, east
lat, lon = np.deg2rad(places).T
chord = (
    np.sin((lat[:, None] - lat) / 2) ** 2 + np.cos(lat[:, None]) * np.cos(lat) * np.sin((lon[:, None] - lon) / 2) ** 2
)
kilometres = 2 * 6371.0088 * np.arcsin(np.sqrt(np.clip(chord, 0, 1)))
covariance = 3.0**2 * np.exp(-kilometres / 400) + 0.3**2 * np.eye(n_stations)  # K^2
days = xr.DataArray(
    rng.multivariate_normal(np.zeros(n_stations), covariance, n_days + 2 * n_new, method="cholesky"),
    dims=("day", "station"),
    coords={"lat": ("station", places[:, 0]), "lon": ("station", places[:, 1])},
    name="anomaly",
    attrs={"units": "K"},
)
train, good, new = days[:n_days], days[n_days : n_days + n_new], days[n_days + n_new :].copy()
new = new.where(rng.uniform(size=new.shape) > 0.05)

# 2. Four faults, none of which leaves the usual range of values.
drifting, noisy, swapped, single = 17, 42, (77, 103), 88
new[:, drifting] += np.linspace(0, 3.0, n_new)  # a sensor that warms by 3 K over the 200 days
new[100:, noisy] += rng.normal(0, 2.5, n_new - 100)  # one that has 2.5 K more noise from day 100 on
new[60:, list(swapped)] = new[60:, list(reversed(swapped))].to_numpy()  # two whose names are exchanged on day 60
cold = int(np.nanargmin(new[:, single]))
new[cold, single] *= -1  # one report without its minus sign

# 3. Fit, and ask how surprising each new report is given all others of its day. A normal law has a mean
#    surprise of its own at each station: that of other good days.
graph = nf.DependencyGraph.knn(places, 8, metric="haversine")
model = nf.LocalizedDiffusion(graph=graph, method="gaussian", random_state=0).fit(train, sample_dim="day")
usual = model.surprise(good).mean("day")


def excess_of(reports: xr.DataArray) -> xr.DataArray:
    """Surprise beyond the usual one of the station, nats."""
    return model.surprise(reports) - usual


def worst_month(excess: xr.DataArray) -> xr.DataArray:
    """Largest mean of 30 days at each station."""
    return excess.rolling(day=30, min_periods=10).mean().max("day")


excess = excess_of(new)
print(f"Surprise of {int(excess.count())} reports, in {model.surprise(new).attrs['units']}s")

# 4. A bad station surprises its neighbours too. So take the worst one out, which leaves the others to each other, and
#    look again, until no month is worse than the worst one of the good days. Beside it what each station's own history
#    says: the rank of its largest monthly mean of squared standardised anomalies.
bar = float(worst_month(excess_of(good)).max())
own = (((new - train.mean("day")) / train.std("day")) ** 2).rolling(day=30, min_periods=10).mean().max("day").to_numpy()
rank = (-own).argsort().argsort() + 1
names = {drifting: "drifting", noisy: "noisy", swapped[0]: "exchanged", swapped[1]: "exchanged", single: "lost sign"}
left_over = new.copy()
print(f"\n{'station':12}{'worst month, nats':20}{'fault':14}rank by its own history, of {n_stations}")
while True:
    score = worst_month(excess_of(left_over)).fillna(-np.inf).to_numpy()
    worst = int(score.argmax())
    if score[worst] <= bar:
        break
    print(f"{worst:<12}{score[worst]:<20.2f}{names.get(worst, 'none'):14}{rank[worst]}")
    left_over[:, worst] = np.nan
print(f"All others are below {bar:.2f}, the worst of the good days.")

# 5. Maps of the worst months and of the day of the lost sign, and the bad stations over time.
figure = Figure(figsize=(13, 4), dpi=80, layout="constrained")
left, middle, right = figure.subplots(1, 3, width_ratios=(1, 1, 1.3))
maps = (
    (left, "Worst month", worst_month(excess), 6.0),
    (middle, f"Day {cold}", excess[cold], 12.0),
)
for ax, title, values, top in maps:
    dots = ax.scatter(places[:, 1], places[:, 0], c=values, s=30, ec="0.6", lw=0.4, cmap="magma_r", vmin=0, vmax=top)
    ax.set(
        title=title,
        xlabel="longitude, degrees east",
        ylabel="latitude, degrees north",
        aspect=1 / np.cos(np.deg2rad(50)),
    )
    figure.colorbar(dots, ax=ax, label="excess surprise, nats", shrink=0.8)
for number, name in names.items():
    left.annotate(name, places[number][::-1], xytext=(5, 4), textcoords="offset points", fontsize="small")
middle.annotate("lost sign", places[single][::-1], xytext=(5, 4), textcoords="offset points", fontsize="small")
smooth = excess.rolling(day=30, min_periods=10).mean()
others = np.delete(np.arange(n_stations), list(names))
band = smooth[10:, others].quantile([0.05, 0.95], dim="station")
right.fill_between(np.arange(10, n_new), *band, color="0.85", label="90 % of the others")
for number, name in names.items():
    right.plot(smooth[:, number], label=name)
right.set(title="Mean of the last 30 days", xlabel="day", ylabel="excess surprise, nats")
right.legend(fontsize="small", frameon=False)
figure.savefig(picture)
print(f"Look at {picture}")
