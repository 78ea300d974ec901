"""Closed-form local scores on AR(1) chains, against the maximum likelihood fit that knows the graph.

The covariance of the generated law is exact: the field's own, or that pushed through the default sampler. No draws.

`python -m benchmarks.gaussian_chain [--markdown docs/measurements.md]`
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from benchmarks.table import ratio_of_means, show, verdict, write_section
from nearfield import LocalizedDiffusion
from nearfield.datasets import AutoregressiveChain, chain_maximum_likelihood
from nearfield.evaluation.metric import covariance_error, gaussian_kl
from nearfield.score.field import GaussianField

if TYPE_CHECKING:
    from jaxtyping import Float

SIZES = (100, 500, 2000)
DATA_SETS = 6
METHODS: dict[str, dict[str, Any]] = {
    "field, pooling 0": {"method": "gaussian", "pooling": 0.0},
    "field, pooling auto": {"method": "gaussian"},
    "windowed r(t), pooling 0": {"method": "windowed", "pooling": 0.0},
    "masked (4.5)": {"method": "masked", "pooling": 0.0},
}
BARS: dict[str, dict[int, tuple[float, float]]] = {
    "field, pooling 0": dict.fromkeys(SIZES, (1.10, 1.15)),
    "field, pooling auto": dict.fromkeys(SIZES, (0.30, 0.15)),
    "windowed r(t), pooling 0": dict(zip(SIZES, [(1.15, 1.6), (1.30, 1.7), (1.60, 2.0)], strict=True)),
}
"""Highest ratios of the error (4.6) and of the divergence to those of the maximum likelihood fit."""
NOTES = (
    "rel: covariance error (4.6). KL(truth || generated) of the covariances, nats per dimension. mean: rms error of\n"
    "the mean. Ratios are of means over the data sets, +- one standard error (delta method).\n"
)
"""What the columns are, for this table and that of the grid."""


class Distance(NamedTuple):
    """How far a generated Gaussian law is from the truth, which has mean 0 and unit variances.

    ``error`` is (4.6) of arXiv 2505.04417, ``divergence`` KL(truth || generated) of the covariances alone in nats per
    dimension, ``shift`` the root mean square of the generated mean over the vertices.
    """

    error: float
    divergence: float
    shift: float

    @classmethod
    def between(
        cls, truth: Float[np.ndarray, "d d"], covariance: Float[np.ndarray, "d d"], mean: Float[np.ndarray, " d"]
    ) -> Distance:
        """Measure a generated law."""
        return cls(
            covariance_error(covariance, truth),
            gaussian_kl(truth, covariance) / len(truth),
            float(np.sqrt((mean**2).mean())),
        )


def generated_law(model: LocalizedDiffusion) -> tuple[Float[np.ndarray, " d"], Float[np.ndarray, "d d"]]:
    """Exact mean and covariance of what a fitted model generates, in the units of the data."""
    center, scale = model.marginal_.center.numpy().ravel(), model.marginal_.scale.numpy().ravel()
    if isinstance(model.score_, GaussianField):
        mean, covariance = np.zeros_like(center), model.score_.covariance()
    else:
        pushed = model.model_.law.default_sampler().push_forward(model.score_)
        mean, covariance = (tensor.numpy() for tensor in pushed)
    return center + scale * mean, scale[:, None] * covariance * scale


def main() -> None:
    """Fit every method to every data set, print the table and write it into a page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="a page whose section the table replaces")
    page = parser.parse_args().markdown
    truth = AutoregressiveChain(0.8, 100).covariance()
    rows = []
    for n in SIZES:
        found: dict[str, list[Distance]] = {}
        radii: dict[str, list[str]] = {}
        for k in range(DATA_SETS):
            x = np.random.default_rng(1000 * n + k).standard_normal((n, len(truth))) @ np.linalg.cholesky(truth).T
            likeliest = Distance.between(truth, chain_maximum_likelihood(x[..., None]), np.zeros(len(truth)))
            found.setdefault("maximum likelihood", []).append(likeliest)
            for name, parameters in METHODS.items():
                model = LocalizedDiffusion(random_state=k, **parameters).fit(x)
                mean, covariance = generated_law(model)
                found.setdefault(name, []).append(Distance.between(truth, covariance, mean))
                radii.setdefault(name, []).append(_radius(model))
        reference = np.array(found.pop("maximum likelihood"))
        means = reference.mean(axis=0)
        rows.append([f"maximum likelihood, N={n}", "1", "", "1", "", f"{means[0]:.4f}", f"{means[1]:.4f}", "0", "", ""])
        for name, distances in found.items():
            rows.append([f"{name}, N={n}", *_row(np.array(distances), reference, BARS.get(name, {}).get(n))])
            rows[-1].insert(-1, " ".join(dict.fromkeys(radii[name])))
    header = ["method", "rel ratio", "bar", "KL ratio", "bar", "rel", "KL/d", "mean", "radius", "verdict"]
    notes = (
        NOTES
        + "The maximum likelihood fit knows the graph and that the mean is 0; nearfield knows only that the data\n"
        "are a chain, and estimates the mean. Generated laws are exact."
    )
    show(
        "AR(1) chains, alpha .8, d = 100, 6 data sets: ratio to the known-graph maximum likelihood fit",
        header,
        rows,
        notes,
    )
    if page is not None:
        short = [[row[k] for k in (0, 1, 3, 8)] for row in (header, *rows)]
        write_section(page, "gaussian_chain", short[0], short[1:], notes)


def _row(distances: np.ndarray, reference: np.ndarray, bar: tuple[float, float] | None) -> list[str]:
    ratios = [ratio_of_means(distances[:, i], reference[:, i]) for i in range(2)]
    bars = ["", ""] if bar is None else [f"{limit:.2f}" for limit in bar]
    means = distances.mean(axis=0)
    return [
        *(cell for (r, se), limit in zip(ratios, bars, strict=True) for cell in (f"{r:.3f} +- {se:.3f}", limit)),
        *(f"{value:.4f}" for value in means),
        "" if bar is None else verdict(*zip((r for r, _ in ratios), bar, strict=True)),
    ]


def _radius(model: LocalizedDiffusion) -> str:
    if isinstance(model.radius_, int):
        return str(model.radius_)
    used = [r for _, r in model.radius_]
    return f"{min(used)}-{max(used)}"


if __name__ == "__main__":
    main()
