"""Marginals: draws of rain with dry days, records and bounds, by the transform that held-out density chooses.

Daily rain at 40 stations along a road follows a made-up law, so that draws can be held against it: 30 % of the days are
dry, wet amounts follow a gamma law, and neighbours are alike. Some 15 seconds. From the repository's root:

    python examples/08_marginals.py [picture.png]
"""

from __future__ import annotations

import sys

import numpy as np
from matplotlib.figure import Figure
from scipy import stats

import nearfield as nf
from nearfield.datasets import AutoregressiveChain

picture = sys.argv[1] if len(sys.argv) > 1 else "marginals.png"

# 1. 230 days of rain in mm: below a threshold of a hidden normal value it is dry.
DRY, AMOUNT = 0.3, stats.gamma(0.9, scale=6.0)
hidden = AutoregressiveChain(0.85, 40).sample(20_000, random_state=0)[..., 0]


def rain(normal: np.ndarray) -> np.ndarray:
    """Turn normal values into rain."""
    wet = np.maximum(stats.norm.cdf(normal) - DRY, 0.0) / (1 - DRY)
    return AMOUNT.ppf(wet)


law, days = rain(hidden), rain(hidden[:230])

# 2. Fit with the default, which standardises the values as they are, with a square root, and with a choice.
models = {
    name: nf.LocalizedDiffusion(method="gaussian", marginal=name, random_state=0).fit(days)
    for name in ("standardize", "sqrt", "auto")
}
print(models["auto"].marginal_.reason)
drawn = {"law": law, "230 days": days} | {name: model.sample(5000, random_state=1) for name, model in models.items()}

# 3. Compare what a water engineer asks for: dry days, negative rain, and the amount of one day in a thousand.
print(f"{'':14}dry   negative   exceeded 1 day in 100, in 1000   longest dry stretch, stations")


def stretch(x: np.ndarray) -> float:
    """Mean over days of the longest run of dry stations."""
    longest, run = np.zeros(len(x)), np.zeros(len(x))
    for column in x.T:
        run = np.where(column <= 0, run + 1, 0)
        longest = np.maximum(longest, run)
    return float(longest.mean())


for name, x in drawn.items():
    once = ", ".join(f"{np.quantile(x, p):.1f}" for p in (0.99, 0.999))
    print(f"{name:14}{np.mean(x == 0):.3f} {np.mean(x < 0):8.3f}     {once:33}{stretch(x):.1f}")

# 4. A latent value lies below its threshold where it is dry: what a law that is conditioned on a dry day has to know.
threshold = models["auto"].marginal_.censored(days[:1, :, None])[0, :, 0]
print(f"Day 1: {np.isfinite(threshold).sum()} dry stations, latent values below {np.nanmean(threshold):.2f}")

# 5. Return levels against the law, and five days of each.
figure = Figure(figsize=(10, 4), layout="constrained")
left, right = figure.subplots(1, 2)
period = np.geomspace(1.5, 2000, 60)
colours = {"law": "black", "230 days": "#777777", "standardize": "#cc79a7", "sqrt": "#e69f00", "auto": "#0072b2"}
for name, x in drawn.items():
    shown = period if name != "230 days" else period[period < 230 * 4]
    style = {"law": "-", "230 days": ":"}.get(name, "--")
    left.plot(shown, np.quantile(x, 1 - 1 / shown), style, color=colours[name], label=name)
left.set(xscale="log", xlabel="exceeded once in so many days", ylabel="rain, mm", title="Return levels of a station")
left.axhline(0, color="#cccccc", linewidth=0.8)
left.legend()
for k in range(3):
    right.plot(np.arange(1, 41), 60 * (2 - k) + days[7 * k], color=colours["law"], label="data" if k == 0 else None)
    new = drawn["auto"][k]
    right.plot(np.arange(1, 41), 60 * (2 - k) + new, color=colours["auto"], label="drawn, auto" if k == 0 else None)
    right.axhline(60 * (2 - k), color="#cccccc", linewidth=0.8)
right.set(
    ylim=(-8, 178), xlabel="station", ylabel="rain, mm; days 60 apart", title="Three days of data and three drawn"
)
right.legend(loc="upper right")
figure.savefig(picture, dpi=110)
print(f"picture: {picture}")
