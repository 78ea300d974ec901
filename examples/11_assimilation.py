"""Data assimilation: fit a forecast ensemble at every step, condition on noisy observations, go on from the analysis.

Lorenz's model of 40 variables on a ring, of which every second is observed with an error of 1 at every time step. The
analysis with nearfield is set beside a localized ensemble Kalman filter whose taper and inflation are tuned. Some two
minutes. From the repository's root:

    python examples/11_assimilation.py [picture.png]
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable

import numpy as np
from matplotlib.figure import Figure

import nearfield as nf
from nearfield.datasets import Lorenz96

picture = sys.argv[1] if len(sys.argv) > 1 else "assimilation.png"
law, n, step, cycles, spin_up = Lorenz96(40), 40, 0.05, 200, 40
seen, ring = np.arange(0, n, 2), nf.DependencyGraph.ring(n)
hops = np.abs(np.subtract.outer(np.arange(n), np.arange(n)))
hops = np.minimum(hops, n - hops)


def forecast(x: np.ndarray) -> np.ndarray:
    """Go on by one step (Runge-Kutta of order four)."""
    one = law.tendency(x)
    two = law.tendency(x + step / 2 * one)
    three = law.tendency(x + step / 2 * two)
    return x + step / 6 * (one + 2 * two + 2 * three + law.tendency(x + step * three))


# 1. The analysis with nearfield: the members, spread by 1 to 3 %, are samples of the forecast law. Its field is fitted,
#    shrunk towards one law for all vertices where members are few, and every member is moved by the observations.
def nearfield(x: np.ndarray, y: np.ndarray, seed: int, inflation: float, radius: int, pooling: float) -> np.ndarray:
    """Fit, condition, and move the members."""
    spread = x.mean(axis=0) + inflation * (x - x.mean(axis=0))
    model = nf.LocalizedDiffusion(graph=ring, method="gaussian", radius=radius, pooling=pooling, random_state=0)
    return model.fit(spread).condition(nf.Observation(y, at=seen, error=1.0)).update(spread, random_state=seed)


# 2. The usual filter: perturbed observations, and a covariance tapered by distance (Gaspari and Cohn 1999).
def taper(distance: np.ndarray, half: float) -> np.ndarray:
    """Fall from 1 to 0 at twice the half width."""
    z = distance / half
    near = ((((-z / 4 + 0.5) * z + 0.625) * z - 5 / 3) * z**2) + 1
    far = (((((z / 12 - 0.5) * z + 0.625) * z + 5 / 3) * z - 5) * z) + 4 - 2 / (3 * np.maximum(z, 1))
    return np.where(z <= 1, near, np.where(z < 2, far, 0.0))


def kalman(x: np.ndarray, y: np.ndarray, seed: int, inflation: float, half: float) -> np.ndarray:
    """Move the members by the gain of the tapered covariance."""
    spread = x.mean(axis=0) + inflation * (x - x.mean(axis=0))
    covariance = np.cov(spread.T) * taper(hops, half)
    errors = np.random.default_rng(seed).normal(size=(len(x), len(seen)))
    gain = np.linalg.solve(covariance[np.ix_(seen, seen)] + np.eye(len(seen)), covariance[seen])
    return spread + (y + errors - errors.mean(axis=0) - spread[:, seen]) @ gain


def run(analysis: Callable[..., np.ndarray], members: int, **settings: float) -> tuple[float, float, np.ndarray]:
    """Root mean square error of the analysis mean, its spread, and the last truth with the members."""
    rng = np.random.default_rng(0)
    truth = law.sample(1, random_state=0)[0, :, 0]
    x = truth + rng.normal(size=(members, n))
    error, spread = [], []
    for cycle in range(cycles):
        truth, x = forecast(truth), forecast(x)
        x = analysis(x, truth[seen] + rng.normal(size=len(seen)), cycle, **settings)
        error.append(((x.mean(axis=0) - truth) ** 2).mean())
        spread.append(x.var(axis=0, ddof=1).mean())
    return *(float(np.sqrt(np.mean(part[spin_up:]))) for part in (error, spread)), np.vstack([truth, x])


warnings.simplefilter("ignore", UserWarning)  # a fit of 20 samples warns of them
print(f"{'':52}error   spread / error")
for members in (20, 50):
    grid = [(inflation, half) for inflation in (1.0, 1.02, 1.04) for half in (4.0, 7.0, 10.0)]
    error, (inflation, half) = min((run(kalman, members, inflation=i, half=h)[0], (i, h)) for i, h in grid)
    spread = run(kalman, members, inflation=inflation, half=half)[1]
    name = f"filter, {members} members, inflation {inflation}, half width {half:g}"
    print(f"{name:52}{error:.3f}   {spread / error:.2f}")
    settings = {"inflation": 1.03, "radius": 5, "pooling": 0.2}
    if members == 50:
        settings = {"inflation": 1.01, "radius": 6, "pooling": 0.0}
    error, spread, last = run(nearfield, members, **settings)
    name = f"nearfield, {members} members, inflation {settings['inflation']}"
    print(f"{name:52}{error:.3f}   {spread / error:.2f}")

figure = Figure(figsize=(10, 3.2), dpi=80, layout="constrained")
ax = figure.subplots()
ax.plot(last[1:].T, color="C0", lw=0.5, alpha=0.5)
ax.plot(last[0], color="black", label="truth")
ax.plot(seen, last[0, seen], "o", color="black", ms=4, label="observed")
ax.set(title="The last analysis: 50 members", xlabel="vertex", ylabel="value")
ax.legend(frameon=False)
figure.savefig(picture)
print(f"Look at {picture}")
