"""Choosing the locality of the field: radius, pooling strength and bandwidth by cross-validation in closed form.

The loss of the sparse Cholesky field is its exact negative log-density on held-out samples, a sum over vertices of
conditional terms. Among candidates whose paired difference to the best is within one standard error, the smallest model
is chosen.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cache, cached_property, partial
from typing import TYPE_CHECKING

import numpy as np
import torch
from joblib import Parallel, delayed

from nearfield.data.duplicate import duplicate_groups
from nearfield.fitting.choice import Candidate, SelectionReport
from nearfield.fitting.closed_form import NUGGETS, build_field
from nearfield.fitting.covariance import (
    Pooling,
    Smoother,
    Standardize,
    VertexMoments,
    kernel,
    pooled_location,
    predecessors,
    smoother,
    vertex_moments,
)
from nearfield.fitting.cross_validation import (
    candidate_radii,
    fewer_folds,
    representative,
    split,
    standard_error,
    wider_radius,
)
from nearfield.fitting.matern import Matern, fit_matern
from nearfield.fitting.maximin import scattered
from nearfield.fitting.reason import reason_of
from nearfield.fitting.regression import Regression, cap_members, regress_moments, regress_windows
from nearfield.fitting.window_moments import FoldMoments, recentred
from nearfield.graph import DependencyGraph, Neighborhood

if TYPE_CHECKING:
    from jaxtyping import Float

__all__ = ["Candidate", "SelectionReport", "select_field"]

COARSE = (0.2, 0.5, 0.8, 1.0)
FINE = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 1.0)
BANDWIDTHS = (0.7, 1.4, 3.0, math.inf)
CHECKED = 16
"""Candidates of lowest loss whose draws are looked at when the chosen one's have the wrong variance."""
LOCATIONS = (Pooling(0.0), Pooling(1.0, 1.4), Pooling(1.0, 3.0), Pooling(1.0))
"""Tried for location and scale beside what is chosen for the correlations."""
CHAIN_BANDWIDTHS = (1.0, 2.0, 4.0, 8.0, 16.0, math.inf)


if hasattr(os, "register_at_fork"):
    # a forked worker lacks the threads of its parent, and a product over several would wait for them for ever
    os.register_at_fork(after_in_child=lambda: torch.set_num_threads(1))


@contextmanager
def one_torch_thread() -> Iterator[None]:
    """Keep small batched products from waking a second thread each: folds are the parallelism here."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


class _Trials:
    """Held-out losses of field candidates, each computed once."""

    def __init__(
        self,
        x: Float[np.ndarray, "sample vertex channel"],
        graph: DependencyGraph,
        parts: list[np.ndarray],
        contiguous: bool,
        standardize: Standardize,
        n_jobs: int | None,
    ) -> None:
        self.x, self.graph, self.parts, self.contiguous = np.ascontiguousarray(x), graph, parts, contiguous
        self.standardize, self.n_jobs = standardize, n_jobs
        self.losses: dict[tuple[int, Pooling], Float[np.ndarray, " sample"]] = {}
        self.fits: dict[tuple[int, Pooling], tuple[bool, bool]] = {}
        self.law = cache(self._law)
        self.windows = cache(partial(predecessors, graph))
        self.location = cache(self._location)
        self.borrowed = cache(self._borrowed)

    def loss(self, radius: int, pooling: Pooling) -> float:
        """Mean held-out loss of a candidate."""
        key = (radius, pooling)
        if key not in self.losses:
            values = np.empty(len(self.x))
            with one_torch_thread():
                parts = Parallel(n_jobs=self.n_jobs, prefer="threads")(
                    delayed(self._fold)(fold, radius, pooling) for fold in range(len(self.parts))
                )
            values[np.concatenate(self.parts)] = np.concatenate(parts)
            self.losses[key] = values
        return float(self.losses[key].mean())

    def best(
        self, settings: Sequence[tuple[int, Pooling]], progress: Callable[[], object] | None = None
    ) -> tuple[int, Pooling]:
        """Try candidates and return the one of lowest loss, the first of equals; `progress` is called after each."""
        losses = []
        for setting in settings:
            losses.append(self.loss(*setting))
            if progress is not None:
                progress()
        return settings[int(np.argmin(losses))]

    def missing(self, radii: Sequence[int], pooling: Pooling) -> list[tuple[int, Pooling]]:
        """Return what has not been tried of these radii at a pooling."""
        return [(radius, pooling) for radius in radii if (radius, pooling) not in self.losses]

    def wider(self, radii: Sequence[int], pooling: Pooling) -> tuple[int | None, str]:
        """Radius to go on with where the last is the best at a pooling; None where it is not or, as said, limited."""
        if self.best([(radius, pooling) for radius in radii])[0] < radii[-1]:
            return None, ""
        channels, fewest = self.x.shape[2], len(self.x) - max(map(len, self.parts))
        members = int(self.windows(radii[-1]).present.sum(axis=1).max()) * channels
        wider, limit = wider_radius(self.graph, radii[-1], channels)
        if pooling.strength == 0.0 and members >= fewest and not limit and wider is not None:
            return None, f"{fewest} samples support no wider windows without pooling"
        return wider, limit

    def smoother(self, bandwidth: float, radius: int | None) -> Smoother:
        """Pooling average of vertices, or of the windows of a radius; it is the same in every fold."""
        return smoother(self.graph, bandwidth, None if radius is None else self.windows(radius))

    def _law(self, fold: int) -> Matern | None:
        """Return what blocks of points in space are shrunk towards, fitted to the samples that train a fold."""
        return fit_matern(np.delete(self.x, self.parts[fold], axis=0), self.graph, self.standardize)

    @cached_property
    def own(self) -> VertexMoments:
        """Moments of the vertices in what trains each fold."""
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
        """Whether a vertex with a scale varies in the held-out samples of a fold alone."""
        ranges = (np.ptp(np.delete(self.x, test, axis=0), axis=0) for test in self.parts)
        return [bool(np.logical_and(found == 0, self.standardize).any()) for found in ranges]

    def _location(self, alike: Pooling) -> list[tuple[np.ndarray, np.ndarray]]:
        """Location and scale of each fold."""
        smooth = None if alike.strength == 0 else self.smoother(alike.bandwidth, None)
        fitted = np.broadcast_to(self.standardize, self.own.mean.shape)
        found = pooled_location(self.own, self.graph, alike, fitted, smooth)
        center, scale = (np.ascontiguousarray(part.swapaxes(0, 1)) for part in found)
        return list(zip(center, scale, strict=True))

    def _fold(self, fold: int, radius: int, pooling: Pooling) -> Float[np.ndarray, " sample"]:
        held_out, alike = self.parts[fold], replace(pooling.of_location, nugget=0.0)
        if alike.strength == 0 and self.constant[fold]:
            return np.full(len(held_out), math.inf)  # it has no scale
        center, scale = self.location(alike)[fold]
        if not (scale > 0).all():
            return np.full(len(held_out), math.inf)  # nothing that a vertex borrows from varies in what trains
        n_samples, whole = len(self.x) - len(held_out), self.windows(radius)
        table = cap_members(whole, n_samples, self.x.shape[2], pooling)
        law = None if pooling.strength == 0 else self.law(fold)
        windows = None if pooling.strength == 0 or law is not None else self.smoother(pooling.bandwidth, radius)
        kept = (
            None if table is not whole or self._singular(windows, table, n_samples) else self.moments.of(radius, table)
        )
        if kept is None:
            y = (np.delete(self.x, held_out, axis=0) - center) / scale
            fit = regress_windows(y, table, self.graph, pooling, law, windows).regression
        else:
            blocks = recentred(kept[fold], table.index, self.own.mean[:, fold] - center, scale)
            fit = regress_moments(blocks, table, self.graph, pooling, n_samples, law, windows)
        return conditional_loss((self.x[held_out] - center) / scale, table.index, fit) + np.log(scale).mean()

    def _singular(self, windows: Smoother | None, table: Neighborhood, n_samples: int) -> bool:
        """Whether a pooled block has less rank than members: its regression is of rounding, to be done as in a fit."""
        if windows is None:
            return False
        members = table.present.sum(axis=1) * self.x.shape[2]
        return bool((members >= windows.lenders * (n_samples - 1)).any())

    def first_sound(self, chosen: int, table: Sequence[Candidate]) -> int:
        """Return the chosen candidate or, if its draws have not the variance of the data, the best whose draws have."""
        best = [int(i) for i in np.argsort([c.loss for c in table])]
        noised = [i for i in best if table[i].nugget > 0.0]
        likely = [chosen, *(i for i in best if i in {*best[:CHECKED], *noised})]
        return next((i for i in likely if self.fitted(table[i])[0]), chosen)

    def fitted(self, candidate: Candidate) -> tuple[bool, bool]:
        """Whether draws have the variance of the data, and whether no vertex is all but determined by others."""
        key = candidate.radius, candidate.pooling
        if key not in self.fits:
            fit = build_field(self.x, self.graph, *key, self.standardize)
            self.fits[key] = fit.sound, fit.raised == 0
        return self.fits[key]

    def size(self, radius: int, pooling: Pooling) -> float:
        """Effective parameters per dimension: the variance of a partially pooled block relative to its own.

        Mean and scale count among the members, of which they are two, unless they are pooled in another way.
        """
        members = float(self.windows(radius).present.sum(axis=1).mean()) * self.x.shape[2]
        return members * self._own(pooling) + 2 * (self._own(pooling.of_location) - self._own(pooling))

    def _own(self, pooling: Pooling) -> float:
        own = (1 - pooling.strength) ** 2
        return own + (1 - own) / self.borrowed(pooling.bandwidth)

    def _borrowed(self, bandwidth: float) -> float:
        if math.isinf(bandwidth):
            return float(self.graph.n_vertices)
        _, weight = kernel(self.graph, bandwidth)
        return float((weight.sum(axis=1) ** 2 / (weight**2).sum(axis=1)).mean())

    def table(self) -> tuple[tuple[Candidate, ...], int, int]:
        """All candidates tried, the chosen one by the one-standard-error rule, and the best."""
        fitted = [key for key, losses in self.losses.items() if np.isfinite(losses).all()]
        if not fitted and all(pooling.strength == 0.0 for _, pooling in self.losses):
            raise ValueError(
                "pooling must be above 0 for data in which a vertex varies in few samples only, got 0.0; use "
                "pooling='auto' or leave such vertices out"
            )
        if not fitted:
            raise ValueError(
                "data must vary in more than a sample or two to choose a locality: without them a vertex is constant, "
                "and so are those it borrows from; leave such vertices out, pool more or give radius and pooling"
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
                    error=standard_error(self.losses[key], self.contiguous),
                    difference=float(difference.mean()),
                    difference_error=standard_error(difference, self.contiguous),
                    size=self.size(*key),
                    location=key[1].location,
                    nugget=key[1].nugget,
                )
            )
        close = [i for i, c in enumerate(table) if c.difference <= c.difference_error]
        return tuple(table), min(close, key=lambda i: (table[i].size, table[i].loss)), best


def _numbers(pooling: Pooling) -> tuple[float, ...]:
    """Strength, bandwidth, nugget and, after settings without, those of the location: an order of settings."""
    return (
        pooling.strength,
        pooling.bandwidth,
        pooling.nugget,
        *(() if pooling.location is None else _numbers(pooling.location)),
    )


def conditional_loss(
    y: Float[np.ndarray, "sample vertex channel"], index: np.ndarray, fit: Regression
) -> Float[np.ndarray, " sample"]:
    """Negative log-density of a sparse Cholesky field per sample, in nats per dimension."""
    n_samples, n, _ = y.shape
    others = y[:, index[:, 1:]].reshape(n_samples, n, -1).transpose(1, 0, 2)
    residual = y.transpose(1, 0, 2) - others @ fit.coefficient
    white = residual @ np.linalg.inv(fit.root).transpose(0, 2, 1)
    half_log_det = np.log(np.diagonal(fit.root, axis1=1, axis2=2)).mean()
    return 0.5 * (white**2).mean(axis=(0, 2)) + half_log_det + 0.5 * math.log(2 * math.pi)


def select_field(
    x: Float[np.ndarray, "sample vertex channel"],
    graph: DependencyGraph,
    *,
    radius: int | None = None,
    pooling: Pooling | None = None,
    folds: int = 5,
    contiguous: bool = False,
    standardize: Standardize = True,
    seed: int = 0,
    n_jobs: int | None = None,
    progress: Callable[[], object] | None = None,
) -> SelectionReport:
    """Choose radius and pooling of the sparse Cholesky field by cross-validation.

    The search alternates: pooling at a small radius, radius at the best pooling, pooling again, until the best stays.
    Where the widest radius is the best at the pooling chosen, wider ones are tried until the loss rises.
    Where draws have not the variance of the data, or a vertex is all but determined by its neighbours, white noise is
    added to the law in several measures. Last, location and scale are pooled in other ways than the correlations, and
    the blocks formed anew, at one radius.

    Parameters
    ----------
    x : ndarray, shape (sample, vertex, channel)
        Data in their own units, without missing values.
    graph : DependencyGraph
    radius : int, optional
        Fixed radius; chosen when None.
    pooling : Pooling, optional
        Fixed pooling, but for a nugget where it has none; chosen when None.
    folds : int
        At least 2; at most half as many as samples are used.
    contiguous : bool
        Hold out contiguous blocks, for samples along a time axis.
    standardize : bool or tuple of bool
        Whether location and scale are fitted, of all channels or of each.
    seed : int
        Of the shuffle when folds are not contiguous.
    n_jobs : int, optional
        Threads over the folds, as in joblib.
    progress : callable, optional
        Called after every candidate.

    Returns
    -------
    SelectionReport

    Raises
    ------
    ValueError
        If there are fewer than four samples: nothing can be held out.
    """
    folds = fewer_folds(folds, len(x))
    parts = split(len(x), folds, contiguous, seed, duplicate_groups(x))
    part, used = representative(x, graph, parts, standardize)
    trials = _Trials(used, part, parts, contiguous, standardize, n_jobs)
    radii = candidate_radii(part, x.shape[2]) if radius is None else (radius,)

    limit, located, noised = "", False, False

    def along(chosen: Pooling) -> Pooling:
        """Pooling of the curve: what was found to suit location and scale is found at one radius."""
        return replace(chosen, location=None) if pooling is None else chosen

    bandwidths: Sequence[float] = (
        CHAIN_BANDWIDTHS if part.lattice is not None and len(part.lattice.shape) == 1 else BANDWIDTHS
    )
    if scattered(part):
        bandwidths = (math.inf,)  # what blocks are shrunk towards has none
    _search(trials, radii, bandwidths, pooling, progress)
    while True:  # the curve at the chosen pooling has all radii, and may itself change the choice
        table, chosen, lowest = trials.table()
        missing = trials.missing(radii, along(table[chosen].pooling))
        if not missing:
            sound = trials.first_sound(chosen, table)
            missing = trials.missing(radii, along(table[sound].pooling))
        if not missing and radius is None:
            wider, limit = trials.wider(radii, along(table[sound].pooling))
            radii = radii if wider is None else (*radii, wider)
            missing = trials.missing(radii, along(table[sound].pooling))
        if not missing and not noised and None in (radius, pooling) and not all(trials.fitted(table[chosen])):
            noised, now = True, table[chosen]
            missing = [(now.radius, replace(now.pooling, nugget=nugget)) for nugget in NUGGETS]
        if not missing and pooling is None and not located and np.any(standardize):
            located, now = True, table[sound]
            missing = [(now.radius, replace(now.pooling, location=location)) for location in LOCATIONS]
        if not missing:
            break
        trials.best(missing, progress)
    passed_over, chosen = sound != chosen, sound
    return SelectionReport(
        table=table,
        chosen=chosen,
        best=lowest,
        curve=tuple(c for c in table if c.pooling == along(table[chosen].pooling)),
        radius_by_time=None,
        folds=folds,
        contiguous=contiguous,
        reason=reason_of(
            table[chosen],
            table[lowest],
            folds,
            contiguous,
            part.n_vertices,
            graph.n_vertices,
            passed_over=passed_over,
            limit=f" The loss is still falling at radius {radii[-1]}, but {limit}." if limit else "",
        ),
    )


def _search(
    trials: _Trials,
    radii: Sequence[int],
    bandwidths: Sequence[float],
    fixed: Pooling | None,
    progress: Callable[[], object] | None,
) -> None:
    """Try pooling at a small radius, radii at the best pooling, pooling again, until the best stays."""
    now = (radii[min(2, len(radii) - 1)], fixed or Pooling(0.0))
    for _ in range(3):
        before = now
        if fixed is None:
            coarse = [(now[0], Pooling(s, h)) for h in bandwidths for s in COARSE]
            now = trials.best([*coarse, (now[0], Pooling(0.0))], progress)
            if now[1].strength > 0:
                near = [s for s in FINE if abs(s - now[1].strength) <= 0.21]
                now = trials.best([(now[0], Pooling(s, now[1].bandwidth)) for s in near], progress)
        now = trials.best([(r, now[1]) for r in radii], progress)
        if now == before:
            break
