r"""Whether there is more to learn than the Gaussian field: what of its denoising error can be predicted.

If the law is Gaussian, the error :math:`r = x_0 - D(x_t)` of any linear denoiser, its answer m and the innovation
:math:`e = x_t / a - m` are jointly Gaussian, *whatever the errors of the fit*, and their joint cumulants of orders 3
and 4 are zero. Otherwise r can be predicted: its cumulant with two or three of m, e and the innovation n of a neighbour
is its covariance with their Hermite product, and the square of that, over the variance of the product, is the share of
the denoising error that the product explains.

k-statistics estimate cumulants without bias for any number of samples, also of values standardised by these same
samples, since sample covariances are complete and sufficient. The field is fitted to one half of the samples and
looked at on the other, and the other way round; means over vertices have standard errors over samples.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, final

import numpy as np
import scipy.sparse as sp
import torch
from scipy.stats import t as student

from nearfield.fitting.closed_form import build_field
from nearfield.fitting.cross_validation import PATCH, representative
from nearfield.fitting.pooling import Pooling
from nearfield.noise import Stream, normals
from nearfield.process import noise_scale, signal_scale, time_of
from nearfield.samples import BLOCKS, Samples

if TYPE_CHECKING:
    from jaxtyping import Float, Int

__all__ = ["FALSE_ALARMS", "WORTH", "Gaussianity", "Term", "check_gaussianity"]

FALSE_ALARMS = 0.005
"""Nominal, by Bonferroni with Student's t. Tails of products are heavier: benchmarks.auto measures the rate."""
WORTH = 0.005
"""Share of the denoising error that a term must explain to be worth a network."""
LEVELS = (0.1, 0.3, 1.0, 3.0)
"""Noise-to-signal ratios."""
TERMS = {
    "skewness": ("ee", 2),
    "kurtosis": ("eee", 6),
    "spread correlation": ("enn", 2),
    "quadratic term": ("mm", 2),
    "cubic term": ("mmm", 6),
    "spread of the neighbours": ("mnn", 2),
}
"""Products with which the error is correlated, and the variance of their Hermite polynomial."""
FEWEST = 8
"""Fewest samples in a half, without repeats."""
LARGEST = 1 << 21
"""Most values of the samples looked at, in compact patches of the graph."""


class Term(NamedTuple):
    """A product that may explain the denoising error.

    Attributes
    ----------
    name : str
        Key of `TERMS`.
    sigma : float
        Noise-to-signal ratio.
    value, error : float
        Joint cumulant with the error in standardised units, mean over vertices, and its standard error.
    """

    name: str
    sigma: float
    value: float
    error: float

    @property
    def z(self) -> float:
        """Standard errors from 0."""
        return self.value / self.error if self.error > 0 else 0.0

    @property
    def share(self) -> float:
        """Share of the denoising error that the product explains."""
        return self.value**2 / TERMS[self.name][1]


@final
class Gaussianity(NamedTuple):
    """Result of the test.

    Attributes
    ----------
    table : tuple of Term
    bound : float
        Standard errors beyond which a term counts.
    """

    table: tuple[Term, ...]
    bound: float

    @property
    def found(self) -> Term | None:
        """The term that explains most among those that count and are worth a network, if any."""
        counted = [term for term in self.table if abs(term.z) > self.bound and term.share > WORTH]
        return max(counted, key=lambda term: term.share, default=None)

    def describe(self) -> str:
        """Say what was found."""
        if (term := self.found) is not None:
            return (
                f"The law is not Gaussian: the {term.name} explains {term.share:.1%} of the field's denoising error at "
                f"noise of {term.sigma:g} times the signal ({abs(term.z):.0f} standard errors)."
            )
        most = max((term.share for term in self.table if abs(term.z) > self.bound), default=0.0)
        known = f"explains more than {most:.1%} of" if most else "of third or fourth order explains"
        return f"No product {known} the field's denoising error."


def check_gaussianity(samples: Samples, radius: int, pooling: Pooling, seed: int = 0) -> Gaussianity:
    """Test standardised samples: each half of them by the field fitted to the other half. Few have no table."""
    samples = samples.take(np.unique(samples.groups, return_index=True)[1])  # repeats would seem to be evidence
    parts = samples.folds(2, seed) if len(samples) >= 2 * FEWEST else []
    if not parts:
        return Gaussianity((), np.inf)
    limit = max(64, min(PATCH, LARGEST // (len(samples) * samples.n_channels)))
    used = representative(samples.with_values(samples.values, standard=()), parts, limit=limit)
    used = used.with_values(used.values, standard=samples.standard)
    edges = _edges(used)
    halves = [_half(used.without(part), used.take(part), edges, radius, pooling, seed) for part in parts]
    order = np.argsort(np.concatenate(parts))
    table = []
    for number, sigma in enumerate(LEVELS):
        for name in TERMS:
            values = np.concatenate([half[number][name] for half in halves])[order]
            table.append(Term(name, sigma, float(values.mean()), used.standard_error(values)))
    freedom = (BLOCKS if used.ordered and len(used) >= 2 * BLOCKS else len(used)) - 1
    return Gaussianity(tuple(table), float(student.isf(FALSE_ALARMS / 2 / len(table), freedom)))


def _edges(samples: Samples) -> tuple[Int[np.ndarray, " edge"], Int[np.ndarray, " edge"]]:
    """Pairs of neighbouring variables of the same channel, at most about two for each variable."""
    one, other = sp.triu(samples.graph.adjacency, k=1).nonzero()
    step, channel = max(1, -(-len(one) // (2 * samples.n_vertices))), np.arange(samples.n_channels)
    one, other = ((v[::step, None] * samples.n_channels + channel).reshape(-1) for v in (one, other))
    return one, other


def _half(
    train: Samples, test: Samples, edges: tuple[np.ndarray, np.ndarray], radius: int, pooling: Pooling, seed: int
) -> list[dict[str, Float[np.ndarray, " sample"]]]:
    """Terms at each noise level, of samples by the field of others; contributions of the samples."""
    fit = build_field(train, radius, pooling)
    x, found = (test.values - fit.center) / fit.scale, []
    for number, sigma in enumerate(LEVELS):
        t = time_of(sigma)
        xi = normals(seed, Stream.EVALUATION, range(len(x)), number, *x.shape[1:])
        clean = fit.field.denoise(torch.from_numpy(signal_scale(t) * x + noise_scale(t) * xi), t).numpy()
        r, m, e = (standardized(v.reshape(len(x), -1)) for v in (x - clean, clean, x + sigma * xi - clean))
        here = {"r": r, "m": m, "e": e}
        there = {key: v[:, edges[0]] for key, v in here.items()} | {"n": e[:, edges[1]]}
        found.append(
            {
                name: k_statistic(*((there if "n" in product else here)[letter] for letter in f"r{product}"))
                for name, (product, _) in TERMS.items()
            }
        )
    return found


def standardized(x: Float[np.ndarray, "sample variable"]) -> Float[np.ndarray, "sample variable"]:
    """Values with mean 0 and variance 1 over the samples; 0 where they do not vary."""
    x = x - x.mean(axis=0)
    scale = x.std(axis=0)
    fixed = scale <= 1e-9 * scale.max()
    found: np.ndarray = np.where(fixed, 0.0, x / np.where(fixed, 1.0, scale))
    return found


def k_statistic(*factors: Float[np.ndarray, "sample variable"]) -> Float[np.ndarray, " sample"]:
    """Contributions of samples to the k-statistic of three or four centred factors, mean over variables.

    Their mean is the unbiased estimate of the joint cumulant, their deviations are those of its influence function,
    with the degrees of freedom that the means and covariances in it have taken.
    """
    n, product = len(factors[0]), np.prod(factors, axis=0)
    if not product.size:
        return np.zeros(n)
    first, value, influence = factors[0], product.mean(), product
    if len(factors) == 3:
        for k in range(3):
            influence = influence - factors[k] * (factors[k - 1] * factors[k - 2]).mean(axis=0)
        value *= n**2 / ((n - 1) * (n - 2))
        taken = 3
    else:
        value *= n + 1
        for k in (1, 2, 3):
            rest = [factor for j, factor in enumerate(factors) if j not in (0, k)]
            one, other = first * factors[k], rest[0] * rest[1]
            value -= (n - 1) * (one.mean(axis=0) * other.mean(axis=0)).mean()
            influence = influence - one * other.mean(axis=0) - other * one.mean(axis=0)
        value *= n**2 / ((n - 1) * (n - 2) * (n - 3))
        taken = 6
    each = influence.mean(axis=1)
    found: np.ndarray = value + (each - each.mean()) * np.sqrt((n - 1) / (n - 1 - taken))
    return found
