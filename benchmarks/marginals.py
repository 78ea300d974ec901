"""Marginal transforms on known laws: quantiles and zeros of draws, held-out density, ten samples.

    python -m benchmarks.marginals [seeds]

A chain of 40 vertices with a Gaussian copula, AR(1) with correlation .8, has one known law at all vertices. Each
transform and ``"auto"`` is fitted to 230 samples of it; draws are compared with the law, and the log-density of 400
other samples is that of the model.

``q99``, ``q99.9``
    Quantile of 5,000 draws, or of the 230 samples themselves, over that of the law.
``zeros``
    Share of draws at zero less the law's, over the standard error of the share in the training data.
``beyond``
    Draws beyond a bound of the law.
``nats``
    Log-density of fresh samples by a fit to 230 samples, and to 10, less the highest of any fixed transform, nats per
    dimension.
    Where there are zeros other transforms give a density to what has a probability, and are left out.
"""

from __future__ import annotations

import sys
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import stats

import nearfield as nf
from benchmarks.table import show

if TYPE_CHECKING:
    from jaxtyping import Float

LENGTH = 40
CORRELATION = 0.8
TRANSFORMS = ("standardize", "log", "sqrt", "yeo-johnson", "quantile", "auto")


@dataclass(frozen=True)
class KnownLaw:
    """A law of one value: continuous, with a probability of zero; ``tolerance`` is that of its quantiles."""

    name: str
    positive: Any
    zeros: float = 0.0
    bounds: tuple[float, float] = (-np.inf, np.inf)
    tolerance: float = 0.1

    def quantile(self, chance: Any) -> Any:
        """Inverse of the distribution function."""
        above = np.maximum((chance - self.zeros) / (1 - self.zeros), 0.0)
        return np.where(chance < self.zeros, 0.0, self.positive.ppf(above))

    def draw(self, n: int, seed: int) -> Float[np.ndarray, "sample vertex"]:
        """Draw chains."""
        noise = np.random.default_rng(seed).normal(size=(n, LENGTH))
        for j in range(1, LENGTH):
            noise[:, j] = CORRELATION * noise[:, j - 1] + np.sqrt(1 - CORRELATION**2) * noise[:, j]
        return self.quantile(stats.norm.cdf(noise))


LAWS = (
    KnownLaw("normal", stats.norm(10)),
    KnownLaw("gamma 1.3", stats.gamma(1.3), bounds=(0, np.inf)),
    KnownLaw("lognormal", stats.lognorm(1.0), bounds=(0, np.inf)),
    KnownLaw("Student t3", stats.t(3), tolerance=0.15),
    KnownLaw("Pareto 2.5", stats.pareto(2.5), bounds=(0, np.inf), tolerance=0.15),
    KnownLaw("beta 2, 2", stats.beta(2, 2), bounds=(0, 1)),
    KnownLaw("beta .5, .5", stats.beta(0.5, 0.5), bounds=(0, 1)),
    KnownLaw("gamma, 3 % zeros", stats.gamma(1.3), 0.03, (0, np.inf)),
    KnownLaw("gamma, 69 % zeros", stats.gamma(1.3), 0.69, (0, np.inf)),
)


def fitted(x: Float[np.ndarray, "sample vertex"], marginal: Any) -> nf.LocalizedDiffusion | None:
    """Fit, or None where the transform refuses the data."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return nf.LocalizedDiffusion(method="gaussian", marginal=marginal, random_state=0).fit(x)
        except ValueError:
            return None


def rows(law: KnownLaw, seed: int) -> list[list[str]]:
    """Measure each transform on a law."""
    train, few, fresh = (law.draw(n, 10 * seed + k) for k, n in ((1, 230), (2, 10), (3, 400)))
    share = np.mean(train == 0, axis=1)
    error = share.std(ddof=1) / np.sqrt(len(share)) if law.zeros else 1.0
    own = [f"{np.quantile(train, p) / law.quantile(np.array(p)):.3f}" for p in (0.99, 0.999)]
    found: list[list[Any]] = []
    for name in TRANSFORMS:
        many, ten = fitted(train, name), fitted(few, name)
        densities = [
            np.nan if m is None or (law.zeros and m.marginal_.name != "quantile") else density(m, fresh)
            for m in (many, ten)
        ]
        if many is None:
            found.append([name, *["-"] * 4, *densities])
            continue
        z = many.sample(5000, random_state=1)
        q = [np.quantile(z, p) / law.quantile(np.array(p)) for p in (0.99, 0.999)]
        beyond = int(np.count_nonzero((z < law.bounds[0]) | (z > law.bounds[1])))
        label = name if name != "auto" else f"auto: {many.marginal_.name}; {ten.marginal_.name if ten else '-'}"
        zeros = f"{(np.mean(z == 0) - law.zeros) / error:+.1f}" if law.zeros else "-"
        found.append([label, *(f"{v:.3f}" for v in q), zeros, str(beyond), *densities])
    best = [
        np.nanmax([row[k] for row in found[:-1]]) if np.isfinite([row[k] for row in found[:-1]]).any() else np.nan
        for k in (5, 6)
    ]
    data = [f"{law.name}, the data", *own, *["-"] * 4]
    return [data] + [
        [f"{law.name}, {row[0]}", *row[1:5], *(f"{row[5 + k] - best[k]:+.3f}" for k in (0, 1))] for row in found
    ]


def density(model: nf.LocalizedDiffusion, fresh: Float[np.ndarray, "sample vertex"]) -> float:
    """Mean log-density, nats per dimension; infinitely low outside the domain."""
    try:
        return float(model.score_samples(fresh).mean() / LENGTH)
    except ValueError:
        return -np.inf


def main(seeds: int = 1) -> None:
    """Print one table for each seed."""
    header = ["law, transform", "q99", "q99.9", "zeros", "beyond", "nats, 230", "nats, 10"]
    for seed in range(seeds):
        show(f"Known laws, seed {seed}", header, [row for law in LAWS for row in rows(law, seed)])


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
