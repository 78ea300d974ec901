"""Rain with zeros: draws of a fitted law against the known one, and held-out gauges against kriging on square roots.

    python -m benchmarks.rain [--seeds 2] [--markdown docs/missing_data.md]

40 gauges at random in a square. A latent Gaussian field with Matern 3/2 correlation is 0 below a threshold and a gamma
variable above: 20 years of monthly rain with 3 % zeros, and 600 days with 69 %. The fit has ``marginal="quantile"``;
where a gauge is dry, its latent value is known to be below the threshold only.

``zeros``, ``mean``, ``q99``
    Of 2,000 draws less that of the law, over the error that training samples of that number have (bootstrap over
    samples). Beyond 2.6 once in 100 by chance.
``CRPS``
    Of 10 gauges given the other 30 in samples not fitted, with 60 draws; over that of kriging: square roots are
    Gaussian with Matern 3/2 correlation and a nugget, both of maximum likelihood, and a mean and a variance for each
    gauge. ``exact`` has draws of the known law in place of the fitted one.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import stats
from scipy.optimize import minimize
from scipy.spatial.distance import cdist
from scipy.special import ndtr, ndtri

import nearfield as nf
from benchmarks.table import show, verdict, write_section
from nearfield.evaluation.calibration import crps, levels

if TYPE_CHECKING:
    from jaxtyping import Float
    from numpy import ndarray

GAUGES, HIDDEN, FRESH, MEMBERS, LENGTH = 40, 10, 25, 60, 0.3
REACH = 2.6


@dataclass(frozen=True)
class Rain:
    """A law of rain: its share of zeros, and the amounts of wet days."""

    name: str
    zeros: float
    amount: Any
    n_samples: int

    def of_latent(self, z: Float[ndarray, "*shape"]) -> Float[ndarray, "*shape"]:
        """Turn latent values into rain."""
        wet = (ndtr(z) - self.zeros) / (1 - self.zeros)
        found: ndarray = np.where(wet > 0, self.amount.ppf(np.clip(wet, 0, 1 - 1e-15)), 0.0)
        return found

    def latent(self, x: Float[ndarray, "*shape"]) -> Float[ndarray, "*shape"]:
        """Latent values of wet days; the threshold on dry ones."""
        found: ndarray = ndtri(self.zeros + (1 - self.zeros) * self.amount.cdf(x))
        return found

    def truth(self) -> Float[ndarray, " 3"]:
        """Share of zeros, mean, and 99 % quantile."""
        quantile = self.amount.ppf((0.99 - self.zeros) / (1 - self.zeros))
        return np.array([self.zeros, (1 - self.zeros) * self.amount.mean(), quantile])


LAWS = (
    Rain("monthly, 3 % zeros", 0.03, stats.gamma(1.8, scale=40.0), 240),
    Rain("daily, 69 % zeros", 0.69, stats.gamma(0.8, scale=8.0), 600),
)


def correlation(distance: Float[ndarray, "a b"], length: float) -> Float[ndarray, "a b"]:
    """Matern 3/2."""
    scaled = np.sqrt(3) * distance / length
    found: ndarray = (1 + scaled) * np.exp(-scaled)
    return found


def statistics(x: Float[ndarray, "sample gauge"]) -> Float[ndarray, " 3"]:
    """Share of zeros, mean, and 99 % quantile, over samples and gauges."""
    return np.array([np.mean(x == 0), x.mean(), np.quantile(x, 0.99)])


def departures(law: Rain, train: ndarray, drawn: ndarray, rng: np.random.Generator) -> Float[ndarray, " 3"]:
    """Statistics of draws less those of the law, over their sampling errors."""
    errors = [
        np.std([statistics(x[rng.integers(len(x), size=len(x))]) for _ in range(200)], axis=0) for x in (train, drawn)
    ]
    found: ndarray = (statistics(drawn) - law.truth()) / np.hypot(*errors)
    return found


def kriging(
    train: ndarray, x: Float[ndarray, "sample gauge"], points: ndarray, hidden: Float[ndarray, " gauge"]
) -> Float[ndarray, "member sample hidden"]:
    """Quantiles of the hidden gauges by kriging on square roots."""
    root, distance = np.sqrt(train), cdist(points, points)
    center, scale = root.mean(axis=0), root.std(axis=0)
    z = (root - center) / scale
    second = z.T @ z / len(z)

    def covariance(at: ndarray) -> ndarray:
        nugget = 1 / (1 + np.exp(-at[1]))
        found: ndarray = (1 - nugget) * correlation(distance, np.exp(at[0])) + (nugget + 1e-9) * np.eye(len(distance))
        return found

    def loss(at: ndarray) -> float:
        matrix = covariance(at)
        return float(np.linalg.slogdet(matrix)[1] + np.trace(np.linalg.solve(matrix, second)))

    matrix = covariance(minimize(loss, [np.log(0.3), -3.0], method="Nelder-Mead", options={"maxiter": 80}).x)
    gain = np.linalg.solve(matrix[np.ix_(~hidden, ~hidden)], matrix[np.ix_(~hidden, hidden)])
    mean = (np.sqrt(x[:, ~hidden]) - center[~hidden]) / scale[~hidden] @ gain
    sd = np.sqrt(np.diag(matrix[np.ix_(hidden, hidden)] - matrix[np.ix_(hidden, ~hidden)] @ gain))
    quantiles = mean + sd * ndtri(levels(MEMBERS, drawn=False)[0])[:, None, None]
    found: ndarray = np.maximum(center[hidden] + scale[hidden] * quantiles, 0.0) ** 2
    return found


def exact(
    law: Rain, x: ndarray, covariance: ndarray, hidden: ndarray, rng: np.random.Generator
) -> Float[ndarray, "member sample hidden"]:
    """Draw the hidden gauges of the known law: latent values of dry gauges by a Gibbs sampler, then the normal law."""
    seen = covariance[np.ix_(~hidden, ~hidden)]
    precision = np.linalg.inv(seen)
    gain = precision @ covariance[np.ix_(~hidden, hidden)]
    root = np.linalg.cholesky(covariance[np.ix_(hidden, hidden)] - covariance[np.ix_(hidden, ~hidden)] @ gain)
    known, threshold = x[:, ~hidden], ndtri(law.zeros)
    dry = known == 0
    z = np.repeat(np.where(dry, threshold - 0.5, law.latent(known))[None], MEMBERS, axis=0)
    for _ in range(100):
        for j in range(z.shape[-1]):
            sd = precision[j, j] ** -0.5
            mean = z[..., j] - (z @ precision[j]) * sd**2
            below = ndtr((threshold - mean) / sd)
            drawn = mean + sd * ndtri(np.maximum(rng.random(mean.shape) * below, 1e-300))
            z[..., j] = np.where(dry[:, j], drawn, z[..., j])
    return law.of_latent(z @ gain + rng.normal(size=(*z.shape[:-1], hidden.sum())) @ root.T)


def score(members: Float[ndarray, "member sample gauge"], truth: Float[ndarray, "sample gauge"], drawn: bool) -> float:
    """Mean CRPS."""
    flat = np.sort(members.reshape(len(members), -1), axis=0)
    level = np.repeat(levels(len(members), drawn=drawn)[1][:, None], flat.shape[1], axis=1)
    return float(crps(flat, truth.reshape(-1), level).mean())


def row(law: Rain, seed: int) -> list[str]:
    """Fit one data set, and measure."""
    rng = np.random.default_rng(seed)
    points = rng.random((GAUGES, 2))
    covariance = correlation(cdist(points, points), LENGTH) + 1e-9 * np.eye(GAUGES)
    z = rng.normal(size=(law.n_samples + FRESH, GAUGES)) @ np.linalg.cholesky(covariance).T
    x = law.of_latent(z)
    train, fresh = x[: law.n_samples], x[law.n_samples :]
    graph = nf.DependencyGraph.knn(points, 6)
    model = nf.LocalizedDiffusion(graph, method="gaussian", marginal="quantile", random_state=0).fit(train)
    found = departures(law, train, model.sample(2000, random_state=1), rng)
    hidden = np.zeros(GAUGES, dtype=bool)
    hidden[rng.permutation(GAUGES)[:HIDDEN]] = True
    truth = fresh[:, hidden]
    filled = model.impute(np.where(hidden, np.nan, fresh), n_samples=MEMBERS, random_state=2)[..., hidden]
    krige = score(kriging(train, fresh, points, hidden), truth, drawn=False)
    ours = score(filled, truth, drawn=True) / krige
    best = score(exact(law, fresh, covariance, hidden, rng), truth, drawn=True) / krige
    passed = verdict((float(np.abs(found).max()), REACH), (ours, 1.0))
    return [f"{law.name}, seed {seed}", *(f"{v:+.1f}" for v in found), f"{ours:.3f}", f"{best:.3f}", passed]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--markdown", type=Path, help="page whose section is replaced")
    args = parser.parse_args()
    header = ["rain", "zeros", "mean", "q99", "CRPS / kriging", "exact / kriging", "verdict"]
    table = [row(law, seed) for law in LAWS for seed in range(args.seeds)]
    notes = f"Departures from the known law in standard errors; held-out gauges: {FRESH} samples of {HIDDEN}."
    show("Rain with zeros", header, table, notes)
    if args.markdown is not None:
        write_section(args.markdown, "rain", header, table, notes)


if __name__ == "__main__":
    main()
