r"""How good a generative model of a known law is: the one metric code of all benchmarks.

Everything is in standardised units, arrays are ``(sample, vertex, channel)`` with one channel. A `Judge` draws what it
needs of the true law once and then measures any number of models of it.

``excess``
    :math:`\ln 2 \sum_\sigma E|D - D^*|^2/(d\sigma^2)` of a denoiser, nats per dimension, over 2,000 fresh true series
    with the noise shared by all models (`nearfield.theory.excess`).
``auc``
    How well gradient boosting (80 rounds) tells 8,000 generated windows from 8,000 true ones: 8 consecutive values, or
    5 x 5, with their simple differences. The sides come from disjoint series, and so do training and testing; mean of
    5 splits. It passes at most at the mean + 2 deviations of 20 values of truth against truth. One value has a standard
    error of about .005, half the distance from chance to that bar: it is averaged over the disjoint sides that the
    generated series make, while the bar stays that of a single value.
``correlation``
    On chains the largest error over lags 0 to 30 of :math:`E[z_i z_{i+k}]`, averaged over i; a wrong variance counts,
    at lag 0. On lattices the root mean square error of the same over all displacements of up to 8 cells, 0 excluded.
``marginal``
    Wasserstein-1 distance of the values of all vertices, pooled.

The last two fall with the number of series, so they are those of *sets* of a stated size, averaged over the sets that
the generated series make; the floor is the same number for fresh true sets of that size. On the chains, with sets of
300, the floors of ``correlation`` are .030 (cir) and .020 (double well).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import roc_auc_score
from threadpoolctl import threadpool_limits

from nearfield.evaluation.metric import wasserstein
from nearfield.theory.excess import Excess, ExcessReference

if TYPE_CHECKING:
    from jaxtyping import Float

    from benchmarks.law import Denoiser, Law

    Samples = Float[np.ndarray, "sample vertex channel"]

LAGS = 30
DISTANCE = 8
ROUNDS = 80
SPLITS = 5
WIDTHS = {1: 8, 2: 5}
"""Side of a window on a lattice of that many axes."""
QUANTILES = 100_000
"""Values that stand for the true marginal."""


class Reading(NamedTuple):
    """A number beside what truth would show.

    Attributes
    ----------
    value : float
    floor : float
        Mean of the same number for fresh truth.
    spread : float
        Standard deviation of that number from one fresh set to another.
    """

    value: float
    floor: float
    spread: float

    @property
    def ratio(self) -> float:
        """Value over floor."""
        return self.value / self.floor

    @property
    def passes(self) -> bool:
        """Whether the value is at most two deviations above the floor."""
        return self.value <= self.floor + 2 * self.spread


class Quality(NamedTuple):
    """What generated series are worth; the module tells how each is measured."""

    auc: Reading
    correlation: Reading
    marginal: Reading
    sets: int
    """Sets of series that the last two are means over."""


@dataclass(frozen=True)
class Judge:
    """Measures models of one law against draws of the truth that all of them share.

    Attributes
    ----------
    law : Law
    pool : int
        True series drawn; half of them are the reference of marginal and correlation, the other half floors.
    size : int
        Series in a set.
    side : int
        Series that each side of the classifier gets.
    windows : int
        Windows of each side, in equal numbers from its series.
    repeats : int
        Values of truth against truth.
    fresh : int
        Series of the excess and of held-out losses.
    seed : int
        Of all draws; data sets for training take other seeds, below 1000.

    Examples
    --------
    >>> from benchmarks.law import cir
    >>> judge = Judge(cir(length=32), pool=200, size=50, side=50, windows=200, repeats=4)
    >>> found = judge.quality(judge.law.draw(50, seed=7))
    >>> found.correlation.ratio < 3, found.marginal.ratio < 3
    (True, True)
    """

    law: Law
    pool: int = 40_000
    size: int = 300
    side: int = 500
    windows: int = 8_000
    repeats: int = 20
    fresh: int = 2_000
    seed: int = 1_000

    @classmethod
    def of(cls, law: Law, *, quick: bool = False) -> Judge:
        """Make the judge of a law: draws of fields cost more than those of chains.

        A field of 128 x 128 counts as 16 of 32 x 32. The quick judge is for trying out.
        """
        if len(law.shape) == 1:
            return cls(law, pool=2_000, windows=2_000, repeats=6, fresh=200) if quick else cls(law)
        fields = 32**2 / law.graph.n_vertices
        pool, size, side = (max(2, round(n * fields)) for n in ((300, 50, 60) if quick else (1_200, 100, 250)))
        fresh = max(2, round((40 if quick else 400) * fields))
        if quick:
            return cls(law, pool, size, side, windows=1_000, repeats=4, fresh=fresh)
        return cls(law, pool, size, side, fresh=fresh)

    def excess(self, denoise: Denoiser) -> Excess:
        """Excess risk of a denoiser of standardised states; only where the exact one is known."""
        return self._excess_reference.excess(denoise)

    def loss(self, denoise: Denoiser) -> Excess:
        """Return the same sum with clean states in place of the exact denoiser: the excess and a constant."""
        return self._loss_reference.excess(denoise)

    def surprise(self, log_prob: Callable[[Samples], Float[np.ndarray, " sample"]]) -> tuple[float, float]:
        """Minus the log-density of the fresh true series, nats per dimension, and its standard error."""
        each = -log_prob(self._fresh) / self.law.graph.n_vertices
        return float(each.mean()), float(each.std(ddof=1) / np.sqrt(len(each)))

    def quality(self, generated: Samples) -> Quality:
        """Measure generated series, at least `side` and preferably many times `size` and `side`: less noise."""
        if len(generated) < max(self.side, self.size):
            raise ValueError(f"needs {max(self.side, self.size)} generated series at least, got {len(generated)}")
        rng = np.random.default_rng([self.seed, 1])
        sides = rng.permutation(len(generated))[: len(generated) // self.side * self.side].reshape(-1, self.side)
        truths = [self._truth[rng.choice(self.pool, self.side, replace=False)] for _ in sides]
        areas = [self.auc(generated[side], truth, rng) for side, truth in zip(sides, truths, strict=True)]
        sets = list(self._sets(generated))
        return Quality(
            Reading(float(np.mean(areas)), *self._auc_floor),
            Reading(float(np.mean([self._correlation_error(x) for x in sets])), *self._correlation_floor),
            Reading(float(np.mean([self._marginal_error(x) for x in sets])), *self._marginal_floor),
            len(sets),
        )

    def auc(self, one: Samples, other: Samples, rng: np.random.Generator) -> float:
        """Area under the curve of the classifier of two disjoint sides of as many series; .5 is chance."""
        shape = self.law.shape
        return classifier_area(one.reshape(-1, *shape), other.reshape(-1, *shape), self.windows // len(one), rng)

    @cached_property
    def _truth(self) -> Samples:
        return self.law.draw(self.pool, self.seed)

    @property
    def _reference(self) -> Samples:
        return self._truth[: self.pool // 2]

    def _sets(self, x: Samples) -> Iterator[Samples]:
        return (x[k : k + self.size] for k in range(0, len(x) - self.size + 1, self.size))

    @cached_property
    def _auc_floor(self) -> tuple[float, float]:
        rng = np.random.default_rng([self.seed, 0])
        areas = []
        for _ in range(self.repeats):
            both = self._truth[rng.choice(self.pool, 2 * self.side, replace=False)]
            areas.append(self.auc(both[: self.side], both[self.side :], rng))
        return float(np.mean(areas)), float(np.std(areas, ddof=1))

    @cached_property
    def _correlation(self) -> Float[np.ndarray, " point"]:
        if self.law.covariance is None:
            return correlation(self._reference, self.law.shape)
        return np.array([np.diagonal(self.law.covariance, k).mean() for k in range(LAGS + 1)])

    def _correlation_error(self, x: Samples) -> float:
        error = np.abs(correlation(x, self.law.shape) - self._correlation)
        return float(error.max() if len(self.law.shape) == 1 else np.sqrt((error**2).mean()))

    @cached_property
    def _correlation_floor(self) -> tuple[float, float]:
        return mean_and_spread([self._correlation_error(x) for x in self._sets(self._truth[self.pool // 2 :])])

    @cached_property
    def _marginal(self) -> Float[np.ndarray, "value vertex channel"]:
        values = np.sort(self._reference, axis=None)
        middle = (np.arange(min(QUANTILES, len(values))) + 0.5) / min(QUANTILES, len(values))
        return np.quantile(values, middle).reshape(-1, 1, 1)

    def _marginal_error(self, x: Samples) -> float:
        return wasserstein(x.reshape(-1, 1, 1), self._marginal).item()

    @cached_property
    def _marginal_floor(self) -> tuple[float, float]:
        return mean_and_spread([self._marginal_error(x) for x in self._sets(self._truth[self.pool // 2 :])])

    @cached_property
    def _excess_reference(self) -> ExcessReference:
        exact = self.law.denoise
        if exact is None:
            raise ValueError(f"the exact denoiser of {self.law.name} is not known, so there is no excess")
        return ExcessReference.prepare(exact, self._fresh, seed=self.seed)

    @cached_property
    def _loss_reference(self) -> ExcessReference:
        return ExcessReference.prepare(lambda *_: self._fresh, self._fresh, seed=self.seed)

    @cached_property
    def _fresh(self) -> Samples:
        return self.law.draw(self.fresh, self.seed + 1)


def classifier_area(
    one: Float[np.ndarray, "sample ..."], other: Float[np.ndarray, "sample ..."], each: int, rng: np.random.Generator
) -> float:
    """Area under the curve of the classifier of two sides of as many fields, `each` windows from every field.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> classifier_area(rng.normal(size=(20, 40)), rng.normal(size=(20, 40)) + 9, 5, rng)
    1.0
    """
    features = np.concatenate([window_features(x, each, rng) for x in (one, other)])
    label = np.repeat([0, 1], len(one) * each)
    fold = np.tile(np.repeat(np.arange(len(one)) % SPLITS, each), 2)
    areas = []
    with threadpool_limits(1):  # its threads wait on one another where cores are shared
        for k in range(SPLITS):
            model = HistGradientBoostingClassifier(max_iter=ROUNDS, early_stopping=False, random_state=0)
            model.fit(features[fold != k], label[fold != k])
            areas.append(roc_auc_score(label[fold == k], model.predict_proba(features[fold == k])[:, 1]))
    return float(np.mean(areas))


def correlation(x: Samples, shape: tuple[int, ...]) -> Float[np.ndarray, " point"]:
    """Mean product of values apart: by lag on a chain, by displacement of up to 8 cells on a square torus.

    Examples
    --------
    >>> correlation(np.ones((1, 40, 1)), (40,))[:3].tolist()
    [1.0, 1.0, 1.0]
    """
    z = x.reshape(len(x), *shape)
    if len(shape) == 1:
        return np.array([(z[:, : shape[0] - k] * z[:, k:]).mean() for k in range(LAGS + 1)])
    power = np.mean(np.abs(np.fft.fftn(z, axes=(1, 2))) ** 2, axis=0)
    steps = np.meshgrid(*(np.minimum(np.arange(n), n - np.arange(n)) for n in shape), indexing="ij")
    distance = np.hypot(*steps)
    return np.fft.ifftn(power).real[(distance > 0) & (distance <= DISTANCE)] / np.prod(shape)


def window_features(
    x: Float[np.ndarray, "sample ..."], each: int, rng: np.random.Generator
) -> Float[np.ndarray, "window feature"]:
    """Values and neighbours' differences of windows that do not overlap, `each` of every series at random.

    Examples
    --------
    >>> window_features(np.arange(8.0)[None] ** 2, 1, np.random.default_rng(0))[0, 8:].tolist()
    [1.0, 3.0, 5.0, 7.0, 9.0, 11.0, 13.0]
    """
    axes, width = x.ndim - 1, WIDTHS[x.ndim - 1]
    counts = np.array(x.shape[1:]) // width
    if each > counts.prod():
        raise ValueError(f"a series of {x.shape[1:]} has {counts.prod()} windows, not {each}: give more series")
    offset = rng.integers(np.array(x.shape[1:]) % width + 1, size=(len(x), 1, axes))
    tile = np.argsort(rng.random((len(x), counts.prod())), axis=1)[:, :each]
    corner = offset + width * np.stack(np.unravel_index(tile, counts), axis=-1)
    views = np.lib.stride_tricks.sliding_window_view(x, (width,) * axes, axis=tuple(range(1, axes + 1)))
    chosen = views[np.arange(len(x))[:, None], *np.moveaxis(corner, -1, 0)].reshape(-1, *(width,) * axes)
    parts = [chosen, *(np.diff(chosen, axis=axis) for axis in range(1, axes + 1))]
    return np.concatenate([part.reshape(len(chosen), -1) for part in parts], axis=1)


def mean_and_spread(values: list[float]) -> tuple[float, float]:
    """Mean and standard deviation; the deviation of a single value is nan."""
    return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else float("nan")
