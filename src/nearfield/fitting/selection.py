"""Choice of the locality of the field: radius, pooling strength and bandwidth by cross-validation in closed form.

The loss of the sparse Cholesky field is its exact negative log-density on held-out samples, a sum over vertices of
conditional terms. Among candidates whose paired difference to the best is within one standard error, the smallest model
is chosen.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import cache, cached_property, partial
from typing import TYPE_CHECKING

import numpy as np

from nearfield.fitting.choice import Candidate, SelectionReport
from nearfield.fitting.closed_form import NUGGETS, build_field
from nearfield.fitting.covariance import VertexMoments, pooled_location, vertex_moments
from nearfield.fitting.cross_validation import candidate_radii, representative, wider_radius
from nearfield.fitting.elimination import predecessors
from nearfield.fitting.expectation import FoldExpectations
from nearfield.fitting.matern import Matern, fit_matern
from nearfield.fitting.pooling import Pooling, Smoother, kernel, smoother
from nearfield.fitting.reason import reason_of
from nearfield.fitting.regression import Regression, cap_windows, regress_moments, regress_windows
from nearfield.fitting.search import Search
from nearfield.fitting.window_moments import FoldMoments, recentred
from nearfield.graph import Neighborhood
from nearfield.graph.order import scattered
from nearfield.samples import Samples

if TYPE_CHECKING:
    from jaxtyping import Float

__all__ = ["Candidate", "SelectionReport", "select_field"]

COARSE = (0.2, 0.5, 0.8, 1.0)
FINE = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 1.0)
BANDWIDTHS = (0.7, 1.4, 3.0, math.inf)
CHECKED = 16
"""Candidates of lowest loss whose draws are checked if those of the chosen one have the wrong variance."""
LOCATIONS = (Pooling(0.0), Pooling(1.0, 1.4), Pooling(1.0, 3.0), Pooling(1.0))
"""Candidates for location and scale beside the pooling of the correlations."""
CHAIN_BANDWIDTHS = (1.0, 2.0, 4.0, 8.0, 16.0, math.inf)


class _Trials:
    """Held-out losses of field candidates, each computed once."""

    def __init__(self, samples: Samples, parts: list[np.ndarray], search: Search) -> None:
        self.samples = samples.with_values(np.ascontiguousarray(samples.values))
        self.x, self.graph, self.parts, self.search = self.samples.values, samples.graph, parts, search
        self.losses: dict[tuple[int, Pooling], Float[np.ndarray, " sample"]] = {}
        self.fits: dict[tuple[int, Pooling], tuple[bool, bool]] = {}
        self.windows = cache(partial(predecessors, samples.graph))
        self.laws: dict[int, Matern | None] = {}
        self.locations: dict[Pooling, list[tuple[np.ndarray, np.ndarray]]] = {}
        self.gaps = FoldExpectations(self.samples, parts) if samples.incomplete else None

    def loss(self, radius: int, pooling: Pooling) -> float:
        """Mean held-out loss of a candidate."""
        key = (radius, pooling)
        if key not in self.losses:
            values = np.empty(len(self.x))
            found = self.search.over(lambda fold: self._fold(fold, radius, pooling), range(len(self.parts)))
            values[np.concatenate(self.parts)] = np.concatenate(found)
            self.losses[key] = values
        return float(self.losses[key].mean())

    def best(self, settings: Sequence[tuple[int, Pooling]]) -> tuple[int, Pooling]:
        """Try candidates and return the one of lowest loss, the first among equals."""
        losses = []
        for setting in settings:
            losses.append(self.loss(*setting))
            self.search.advance()
        return settings[int(np.argmin(losses))]

    def missing(self, radii: Sequence[int], pooling: Pooling) -> list[tuple[int, Pooling]]:
        """Return the untried settings of these radii at a pooling."""
        return [(radius, pooling) for radius in radii if (radius, pooling) not in self.losses]

    def wider(self, radii: Sequence[int], pooling: Pooling) -> tuple[int | None, str]:
        """Radius to continue with if the last one is best at a pooling; else None, with the limit if there is one."""
        if min(radii, key=lambda radius: self.loss(radius, pooling)) < radii[-1]:
            return None, ""
        channels, fewest = self.x.shape[2], len(self.x) - max(map(len, self.parts))
        entries = int(self.windows(radii[-1]).present.sum(axis=1).max()) * channels
        wider, limit = wider_radius(self.graph, radii[-1], channels)
        if pooling.strength == 0.0 and entries >= fewest and not limit and wider is not None:
            return None, f"{fewest} samples support no wider windows without pooling"
        return wider, limit

    def smoother(self, bandwidth: float, radius: int | None) -> Smoother:
        """Pooling average of vertices, or of the windows of a radius; the same in every fold."""
        return smoother(self.graph, bandwidth, None if radius is None else self.windows(radius))

    def law(self, fold: int) -> Matern | None:
        """Return the law for blocks of points in space, fitted to the training samples of a fold."""
        if fold not in self.laws:
            self.laws[fold] = fit_matern(self.samples.without(self.parts[fold]))
        return self.laws[fold]

    @cached_property
    def own(self) -> VertexMoments:
        """Moments of the vertices in the training samples of each fold."""
        each = [vertex_moments(np.delete(self.x, test, axis=0)) for test in self.parts]
        mean, variance, rare, n_samples = zip(*each, strict=True)
        mean, variance, rare = (np.stack(part, axis=1) for part in (mean, variance, rare))
        return VertexMoments(mean, variance, rare, np.array(n_samples)[:, None])

    @cached_property
    def moments(self) -> FoldMoments:
        """Second moments of the windows."""
        return FoldMoments(self.x, self.parts, self.own.mean.swapaxes(0, 1))

    @cached_property
    def constant(self) -> list[bool]:
        """Whether a vertex with a scale varies only in the held-out samples of a fold."""
        ranges = (np.ptp(np.delete(self.x, test, axis=0), axis=0) for test in self.parts)
        return [bool(((found == 0) & np.logical_not(self.samples.standard)).any()) for found in ranges]

    def location(self, location: Pooling) -> list[tuple[np.ndarray, np.ndarray]]:
        """Location and scale of each fold."""
        if location not in self.locations:
            self.locations[location] = self._location(location)
        return self.locations[location]

    def _location(self, location: Pooling) -> list[tuple[np.ndarray, np.ndarray]]:
        smooth = None if location.strength == 0 else self.smoother(location.bandwidth, None)
        fitted = np.broadcast_to(np.logical_not(self.samples.standard), self.own.mean.shape)
        found = pooled_location(self.own, self.graph, location, fitted, smooth)
        center, scale = (np.ascontiguousarray(part.swapaxes(0, 1)) for part in found)
        return list(zip(center, scale, strict=True))

    def _fold(self, fold: int, radius: int, pooling: Pooling) -> Float[np.ndarray, " sample"]:
        if self.gaps is not None:
            return self.gaps.loss(fold, radius, pooling)
        held_out, location = self.parts[fold], replace(pooling.of_location, nugget=0.0)
        if location.strength == 0 and self.constant[fold]:
            return np.full(len(held_out), math.inf)  # the vertex has no scale
        center, scale = self.location(location)[fold]
        if not (scale > 0).all():
            return np.full(
                len(held_out), math.inf
            )  # neither the vertex nor those it pools with vary in the training samples
        n_samples, whole = len(self.x) - len(held_out), self.windows(radius)
        table = cap_windows(whole, n_samples, self.x.shape[2], pooling)
        law = None if pooling.strength == 0 else self.law(fold)
        windows = None if pooling.strength == 0 or law is not None else self.smoother(pooling.bandwidth, radius)
        kept = (
            None if table is not whole or self._singular(windows, table, n_samples) else self.moments.of(radius, table)
        )
        if kept is None:
            train = self.samples.without(held_out).standardized(center, scale)
            fit = regress_windows(train, table, pooling, law, windows).regression
        else:
            blocks = recentred(kept[fold], table.index, self.own.mean[:, fold] - center, scale)
            fit = regress_moments(blocks, table, self.graph, pooling, n_samples, law, windows)
        loss = _conditional_loss((self.x[held_out] - center) / scale, table.index, fit)
        return loss + float(np.log(scale).mean())

    def _singular(self, windows: Smoother | None, table: Neighborhood, n_samples: int) -> bool:
        """Whether a pooled block is singular: its regression is rounding error, and must be computed as in a fit."""
        if windows is None:
            return False
        entries = table.present.sum(axis=1) * self.x.shape[2]
        return bool((entries >= windows.n_contributors * (n_samples - 1)).any())

    def first_sound(self, chosen: int, table: Sequence[Candidate]) -> int:
        """Return the chosen candidate or, if its draws have a wrong variance, the best whose draws do not."""
        best = [int(i) for i in np.argsort([c.loss for c in table])]
        noised = [i for i in best if table[i].nugget > 0.0]
        likely = [chosen, *(i for i in best if i in {*best[:CHECKED], *noised})]
        return next((i for i in likely if self.fitted(table[i])[0]), chosen)

    def fitted(self, candidate: Candidate) -> tuple[bool, bool]:
        """Whether draws have the variance of the data, and whether no vertex is determined by others."""
        key = candidate.radius, candidate.pooling
        if key not in self.fits:
            samples = self.samples if self.gaps is None else self.gaps.whole(*key)
            fit = build_field(samples, *key)
            self.fits[key] = fit.sound, fit.raised == 0
        return self.fits[key]

    def size(self, radius: int, pooling: Pooling) -> float:
        """Effective parameters per dimension: the variance of a partially pooled block relative to an unpooled one.

        Mean and scale count as two of the entries, unless they are pooled in another way.
        """
        entries = float(self.windows(radius).present.sum(axis=1).mean() * self.x.shape[2])
        return entries * self._own(pooling) + 2 * (self._own(pooling.of_location) - self._own(pooling))

    def _own(self, pooling: Pooling) -> float:
        own = (1 - pooling.strength) ** 2
        return own + (1 - own) / self.n_effective(pooling.bandwidth)

    def n_effective(self, bandwidth: float) -> float:
        if math.isinf(bandwidth):
            return float(self.graph.n_vertices)
        _, weight = kernel(self.graph, bandwidth)
        return float((weight.sum(axis=1) ** 2 / (weight**2).sum(axis=1)).mean())

    def table(self) -> tuple[tuple[Candidate, ...], int, int]:
        """All candidates, the chosen one by the one-standard-error rule, and the best."""
        fitted = [key for key, losses in self.losses.items() if np.isfinite(losses).all()]
        if not fitted and all(pooling.strength == 0.0 for _, pooling in self.losses):
            raise ValueError(
                "pooling must be above 0 for data in which a vertex varies in few samples only, got 0.0; use "
                "pooling='auto' or leave such vertices out"
            )
        if not fitted:
            raise ValueError(
                "data must vary in more than a sample or two to choose a locality: in some folds a vertex and those it "
                "is pooled with are constant; leave such vertices out, pool more or pass radius and pooling"
            )
        keys = sorted(fitted, key=lambda k: (k[0], *_numbers(k[1])))
        means = [self.losses[key].mean() for key in keys]
        best = int(np.argmin(means))
        table = []
        for key, mean in zip(keys, means, strict=True):
            difference = self.losses[key] - self.losses[keys[best]]
            table.append(
                Candidate(
                    radius=key[0],
                    strength=key[1].strength,
                    bandwidth=key[1].bandwidth,
                    loss=float(mean),
                    error=self.samples.standard_error(self.losses[key]),
                    difference=float(difference.mean()),
                    difference_error=self.samples.standard_error(difference),
                    size=self.size(*key),
                    location=key[1].location,
                    nugget=key[1].nugget,
                )
            )
        close = [i for i, c in enumerate(table) if c.difference <= c.difference_error]
        return tuple(table), min(close, key=lambda i: (table[i].size, table[i].loss)), best


def _numbers(pooling: Pooling) -> tuple[float, ...]:
    """Strength, bandwidth, nugget and those of the location, if any: an order of settings."""
    return (
        pooling.strength,
        pooling.bandwidth,
        pooling.nugget,
        *(() if pooling.location is None else _numbers(pooling.location)),
    )


def _conditional_loss(
    y: Float[np.ndarray, "sample vertex channel"], index: np.ndarray, fit: Regression
) -> Float[np.ndarray, " sample"]:
    """Negative log-density of a sparse Cholesky field per sample, in nats per dimension."""
    n_samples, n, _ = y.shape
    others = y[:, index[:, 1:]].reshape(n_samples, n, -1).transpose(1, 0, 2)
    residual = y.transpose(1, 0, 2) - others @ fit.coefficient
    white = residual @ np.linalg.inv(fit.root).transpose(0, 2, 1)
    half_log_det = np.log(np.diagonal(fit.root, axis1=1, axis2=2)).mean()
    loss: np.ndarray = 0.5 * (white**2).mean(axis=(0, 2)) + half_log_det + 0.5 * math.log(2 * math.pi)
    return loss


def select_field(
    samples: Samples,
    *,
    radius: int | None = None,
    pooling: Pooling | None = None,
    folds: int = 5,
    search: Search = Search(),  # noqa: B008
) -> SelectionReport:
    """Choose radius and pooling of the sparse Cholesky field by cross-validation, where they are not given.

    The search alternates: pooling at a small radius, radius at the best pooling, pooling again, until the best stays.
    If the widest radius is the best at the chosen pooling, wider ones are tried until the loss rises. If draws have
    another variance than the data, or a vertex is almost determined by its neighbours, white noise of several sizes is
    added. Finally other poolings of location and scale are tried, with new blocks, at one radius.
    """
    parts = samples.folds(folds, search.seed)
    trials = _Trials(representative(samples, parts), parts, search)
    return _Choice(trials, radius, pooling).report(samples.n_vertices)


class _Choice:
    """Search for a radius and a pooling, each free or fixed."""

    def __init__(self, trials: _Trials, radius: int | None, pooling: Pooling | None) -> None:
        self.trials, self.radius, self.pooling = trials, radius, pooling
        self.radii = candidate_radii(trials.graph, trials.samples.n_channels) if radius is None else (radius,)
        trials.windows(self.radii[-1])  # on lattices it contains the others
        self.limit, self.noised, self.located = "", False, False

    def report(self, n_vertices: int) -> SelectionReport:
        """Search, and report the result for a graph of ``n_vertices``."""
        trials = self.trials
        self._alternate()
        while True:  # completing the curve at the chosen pooling may change the choice
            table, chosen, lowest = trials.table()
            sound, missing = self._missing(table, chosen)
            if not missing:
                break
            trials.best(missing)
        folds, ordered = len(trials.parts), trials.samples.ordered
        return SelectionReport(
            table=table,
            chosen=sound,
            best=lowest,
            curve=tuple(c for c in table if c.pooling == self._along(table[sound].pooling)),
            radius_by_time=None,
            folds=folds,
            ordered=ordered,
            reason=reason_of(
                table[sound],
                table[lowest],
                folds,
                ordered,
                trials.samples.n_vertices,
                n_vertices,
                passed_over=sound != chosen,
                limit=f" The loss is still falling at radius {self.radii[-1]}, but {self.limit}." if self.limit else "",
            ),
        )

    def _alternate(self) -> None:
        """Try pooling at a small radius, radii at the best pooling, pooling again, until the best stays."""
        now = (self.radii[min(2, len(self.radii) - 1)], self.pooling or Pooling(0.0))
        for _ in range(3):
            before = now
            if self.pooling is None:
                coarse = [(now[0], Pooling(s, h)) for h in self._bandwidths for s in COARSE]
                now = self.trials.best([*coarse, (now[0], Pooling(0.0))])
                if now[1].strength > 0:
                    near = [s for s in FINE if abs(s - now[1].strength) <= 0.21]
                    now = self.trials.best([(now[0], Pooling(s, now[1].bandwidth)) for s in near])
            now = self.trials.best([(r, now[1]) for r in self.radii])
            if now == before:
                break

    @property
    def _bandwidths(self) -> tuple[float, ...]:
        graph = self.trials.graph
        if scattered(graph):
            return (math.inf,)  # the law for points in space has none
        return CHAIN_BANDWIDTHS if graph.lattice is not None and len(graph.lattice.shape) == 1 else BANDWIDTHS

    def _along(self, chosen: Pooling) -> Pooling:
        """Pooling of the curve; location and scale are chosen at one radius."""
        return replace(chosen, location=None) if self.pooling is None else chosen

    def _missing(self, table: Sequence[Candidate], chosen: int) -> tuple[int, list[tuple[int, Pooling]]]:
        """Place of the best candidate with sound draws, and settings still to try."""
        trials = self.trials
        if missing := trials.missing(self.radii, self._along(table[chosen].pooling)):
            return chosen, missing
        sound = trials.first_sound(chosen, table)
        along = self._along(table[sound].pooling)
        missing = trials.missing(self.radii, along)
        if not missing and self.radius is None:
            wider, self.limit = trials.wider(self.radii, along)
            self.radii = self.radii if wider is None else (*self.radii, wider)
            missing = trials.missing(self.radii, along)
        if not missing and not self.noised and None in (self.radius, self.pooling):
            now = table[chosen]
            if not all(trials.fitted(now)):
                self.noised = True
                missing = [(now.radius, replace(now.pooling, nugget=nugget)) for nugget in NUGGETS]
        if not missing and self.pooling is None and not self.located and not all(trials.samples.standard):
            self.located, now = True, table[sound]
            missing = [(now.radius, replace(now.pooling, location=location)) for location in LOCATIONS]
        return sound, missing
