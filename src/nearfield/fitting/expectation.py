r"""Fields of samples with missing values, by expectation and maximisation (EM).

The moments of samples are replaced by their expectations given what is observed, under the field fitted before: the
conditional means of the missing values, and their conditional covariances at the pairs of variables that share a
window, which become the `spread` of the samples (Dempster, Laird and Rubin, JRSS B 39, 1977). The fit of these
is the fit of complete samples. Nothing is larger than the precision of the field.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache, partial
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import scipy.sparse as sp

from nearfield.fitting.closed_form import FieldFit, build_field
from nearfield.fitting.covariance import location_and_scale
from nearfield.fitting.elimination import predecessors
from nearfield.fitting.matern import fit_matern
from nearfield.fitting.pooling import Pooling
from nearfield.graph import DependencyGraph
from nearfield.samples import Completions, Samples
from nearfield.score.incomplete import IncompleteFields

if TYPE_CHECKING:
    from jaxtyping import Float

__all__ = [
    "DRAWS",
    "Expectation",
    "FoldExpectations",
    "completed",
    "expectation",
    "expected",
    "observed_loss",
    "window_pairs",
]

MOST = 30
"""Most iterations."""
GAIN = 1e-6
"""Gain of the log-density of observed values, nats per value, below which the iterations end."""
FIRST, FIRST_STEPS = (2, Pooling(0.5, location=Pooling(0.0))), 8
"""Field that a choice of the locality starts from, and its iterations."""
STEPS, STEP_GAIN = 8, 3e-4
"""Most iterations of a candidate, and the gain, nats per value, below which they end."""
DRAWS, LARGEST = 8, 1 << 24
"""Draws of missing values for a network, and their numbers at most (128 MiB)."""


class Expectation(NamedTuple):
    """Samples with a spread, and the losses of the iterations that led to it, nats per observed value."""

    samples: Samples
    losses: tuple[float, ...]


def expectation(samples: Samples, radius: int, pooling: Pooling, most: int = MOST) -> Expectation:
    """Iterate expectation and maximisation from the available cases."""
    pairs = window_pairs(samples.graph, radius, samples.n_channels)
    fit = build_field(samples, radius, pooling)
    losses: list[float] = []
    while True:
        found, loss = expected(samples, fit, pairs)
        losses.append(float(loss.mean()))
        if len(losses) >= most or (len(losses) > 1 and losses[-2] - losses[-1] < GAIN):
            return Expectation(found, tuple(losses))
        fit = build_field(found, radius, pooling)


class FoldExpectations:
    """Fields of candidates fitted to the training samples of each fold with gaps, and their held-out losses.

    A candidate starts from the fitted one whose settings are nearest, so that all come close to the end of their
    iterations: a large model that stops early has borrowed the moments of a smaller one.
    """

    def __init__(self, samples: Samples, parts: Sequence[np.ndarray]) -> None:
        self.samples, self.parts = samples, parts
        self.pairs = cache(partial(window_pairs, samples.graph, n_channels=samples.n_channels))
        self._train = cache(lambda fold: samples if fold is None else samples.without(parts[fold]))
        self._law = cache(lambda fold: fit_matern(expectation(self._train(fold), *FIRST, FIRST_STEPS).samples))
        self._fits: dict[int | None, dict[tuple[int, Pooling], FieldFit]] = {}

    def loss(self, fold: int, radius: int, pooling: Pooling) -> Float[np.ndarray, " held_out"]:
        """Loss of the held-out samples of a fold, nats per observed value; infinite where a vertex has no scale."""
        held_out, last = self.samples.take(self.parts[fold]), math.inf
        fit = self._nearest(fold, radius, pooling)
        for _ in range(STEPS):
            found, loss = expected(self._train(fold), fit, self.pairs(radius))
            if not (location_and_scale(found, pooling)[1] > 0).all():
                return np.full(len(held_out), np.inf)
            fit = build_field(found, radius, pooling, self._law(fold))
            if last - loss.mean() < STEP_GAIN:
                break
            last = loss.mean()
        self._fits[fold][radius, pooling] = fit
        return observed_loss(held_out, fit)

    def whole(self, radius: int, pooling: Pooling) -> Samples:
        """Return the expectation of all samples under a field near that of a candidate."""
        return expected(self.samples, self._nearest(None, radius, pooling), self.pairs(radius))[0]

    def _nearest(self, fold: int | None, radius: int, pooling: Pooling) -> FieldFit:
        """Return the fitted candidate of a fold with the nearest settings, at first one of few parameters."""
        if fold not in self._fits:
            start = expectation(self._train(fold), *FIRST, FIRST_STEPS).samples
            self._fits[fold] = {FIRST: build_field(start, *FIRST)}
        fits = self._fits[fold]
        return fits[min(fits, key=lambda setting: _distance(setting, (radius, pooling)))]


def _distance(one: tuple[int, Pooling], other: tuple[int, Pooling]) -> float:
    """Tell how much two settings differ, roughly in effective parameters."""
    (r, p), (s, q) = one, other
    pairs = ((p, q), (p.of_location, q.of_location))
    strengths = sum(abs(a.strength - b.strength) for a, b in pairs)
    return strengths + 0.1 * abs(r - s) + 0.1 * sum(abs(1 / a.bandwidth - 1 / b.bandwidth) for a, b in pairs)


def window_pairs(graph: DependencyGraph, radius: int, n_channels: int) -> sp.csr_array:
    """Pairs of variables that share a window of the field, variables by vertex with channels fastest.

    On lattices windows hold later vertices too where an axis closes: averages over vertices read their moments.
    """
    table = predecessors(graph, radius)
    used = table.present if table.offsets is None else table.present | (table.index != table.index[:, :1])
    row = np.repeat(np.arange(len(table.index)), used.sum(axis=1))
    window = sp.csr_array((np.ones(len(row), dtype=np.float32), (row, table.index[used])))
    window = sp.csr_array(sp.kron(window, np.ones((1, n_channels), dtype=np.float32)))
    return sp.csr_array(window.T @ window)


def expected(samples: Samples, fit: FieldFit, pairs: sp.csr_array) -> tuple[Samples, Float[np.ndarray, " sample"]]:
    """Return the expectation of samples under a fit, and the `observed_loss`."""
    assert samples.observed is not None
    laws, y = _laws(samples, fit)
    scale = sp.diags_array(fit.scale.ravel())
    values = np.where(samples.observed, samples.values, laws.mean(y) * fit.scale + fit.center)
    spread = sp.csr_array(scale @ laws.covariance(pairs) @ scale)
    found = samples.with_values(values, observed=samples.observed, spread=spread)
    return found, _loss(samples, fit, laws.log_prob(y))


def observed_loss(samples: Samples, fit: FieldFit) -> Float[np.ndarray, " sample"]:
    """Negative log-density of what is observed of each sample, over the mean number of observed values, nats."""
    laws, y = _laws(samples, fit)
    return _loss(samples, fit, laws.log_prob(y))


def completed(samples: Samples, fit: FieldFit, seed: int, n_draws: int = 1) -> Samples:
    """Return the samples with draws of what is missing, given what is observed; fewer draws of large samples."""
    assert samples.observed is not None
    laws, y = _laws(samples, fit)
    values = np.empty((max(1, min(n_draws, LARGEST // y.size)), *y.shape))
    for step in range(len(values)):
        drawn = laws.sample(y, seed=seed, step=step) * fit.scale + fit.center
        values[step] = np.where(samples.observed, samples.values, drawn)
    return samples.with_values(values[0], observed=None, drawn=Completions(values, samples.observed))


def _laws(samples: Samples, fit: FieldFit) -> tuple[IncompleteFields, np.ndarray]:
    assert samples.observed is not None
    return IncompleteFields(fit.field, samples.observed), (samples.values - fit.center) / fit.scale


def _loss(samples: Samples, fit: FieldFit, log_density: np.ndarray) -> Float[np.ndarray, " sample"]:
    assert samples.observed is not None
    volume = (samples.observed * np.log(fit.scale)).sum(axis=(1, 2))
    loss: np.ndarray = (volume - log_density) * (len(samples) / np.count_nonzero(samples.observed))
    return loss
