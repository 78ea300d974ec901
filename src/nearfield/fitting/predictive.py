"""Choosing how the uncertainty of a field's parameters enters its log-densities, by held-out score.

What counts as uncertain asks for less pooling than what is taken as known, so the law that scores may be pooled less
than the field that draws. It is used only where its held-out score is better than the field's by more than a standard
error. The two are compared without corrections at larger scales, which then serve both alike.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from joblib import Parallel, delayed

from nearfield.data.duplicate import duplicate_groups
from nearfield.fitting.closed_form import whitening_factor
from nearfield.fitting.covariance import Pooling, elimination_order, local_blocks, predecessors, smoother
from nearfield.fitting.cross_validation import FEWEST_TO_CHOOSE, fewer_folds, representative, split, standard_error
from nearfield.fitting.matern import Matern, fit_matern
from nearfield.fitting.maximin import scattered
from nearfield.fitting.regression import VARIANCE_FLOOR, Regression, borrowed_blocks, cap_members, regress
from nearfield.fitting.selection import one_torch_thread
from nearfield.graph import DependencyGraph, Neighborhood
from nearfield.score.field import GaussianField
from nearfield.score.predictive import PredictiveField, earlier_channels, leverage, log_student

if TYPE_CHECKING:
    from jaxtyping import Float

    from nearfield.fitting.covariance import Smoother

__all__ = ["Moments", "choose_predictive"]

SHARES = (1.0, 0.5)
"""Of the field's strength of pooling."""
WEIGHTS = (1.0, 2.0, 4.0, 8.0)
"""How many times the number of samples a block counts for."""
TAILS = (8.0, 16.0, 32.0, 64.0, 128.0)
"""Degrees of freedom."""
START = 32.0
"""Degrees of freedom at which share and weight are chosen, and then they."""
LARGEST = 1 << 25
"""Numbers in the Cholesky factors of all windows together, at most (256 MiB)."""
LARGEST_CORRECTED = 4096
"""Variables of the largest corrected fields, whose factor is dense."""
HELD_OUT = 200
"""Samples of a fold that are scored, at most."""


def choose_predictive(
    y: Float[np.ndarray, "sample vertex channel"],
    graph: DependencyGraph,
    field: GaussianField,
    radius: int,
    pooling: Pooling,
    *,
    contiguous: bool = False,
    seed: int = 0,
    n_jobs: int | None = None,
) -> tuple[PredictiveField | None, str]:
    """Choose whether log-densities count the uncertainty of the parameters, by held-out score.

    Parameters
    ----------
    y : ndarray, shape (sample, vertex, channel)
        Standardised data.
    graph : DependencyGraph
    field : GaussianField
        Fitted to `y`, corrected or not.
    radius, pooling
        Of the field.
    contiguous, seed, n_jobs
        As in `select_field`.

    Returns
    -------
    PredictiveField or None
        None where the field itself scores: where it is not worse, too large, or one law for all vertices, whose
        parameters rest on many times more values than there are samples.
    str
        A sentence on what scores, empty where there was no choice.
    """
    if pooling.one_law or len(y) < FEWEST_TO_CHOOSE:
        return None, ""
    windows = predecessors(graph, radius)
    if graph.n_vertices * ((windows.index.shape[1] - 1) * y.shape[2]) ** 2 > LARGEST or (
        field.coarse is not None and graph.n_vertices * y.shape[2] > LARGEST_CORRECTED
    ):
        return None, "Log-densities are those of the field: it is too large for a predictive law."
    strength, weight, tail, gain, error = _choice(y, graph, radius, pooling, contiguous, seed, n_jobs)
    better = f"{gain:.2g} +- {error:.1g} nats per dimension"
    if gain <= error:
        return None, f"Log-densities are those of the field: Student's t would change held-out ones by {better}."
    moments = Moments.of(y, graph, windows, pooling)
    fit = moments.fit(graph, replace(pooling, strength=strength))
    factor = whitening_factor(fit.regression, moments.table, field.order.numpy())
    law = GaussianField(factor, field.order, y.shape[2], radius, field.coarse)
    found = PredictiveField(law, moments.table.index[:, 1:], fit.root, weight, tail, len(y))
    return found, (
        f"Log-densities are of Student's t with {tail:g} degrees of freedom, pooled with strength {strength:.2g}, each "
        f"block counting as {weight * len(y):g} samples: held-out ones are higher by {better}. Draws are the field's."
    )


def _choice(
    y: Float[np.ndarray, "sample vertex channel"],
    graph: DependencyGraph,
    radius: int,
    pooling: Pooling,
    contiguous: bool,
    seed: int,
    n_jobs: int | None,
) -> tuple[float, float, float, float, float]:
    """Strength, weight and tail of highest held-out score, its gain over the field's and the error of that."""
    parts = split(len(y), fewer_folds(5, len(y)), contiguous, seed, duplicate_groups(y))
    part, used = representative(y, graph, parts, True)
    windows = predecessors(part, radius)
    smooth = None if pooling.strength == 0 or scattered(part) else smoother(part, pooling.bandwidth, windows)
    with one_torch_thread():
        folds = Parallel(n_jobs=n_jobs, prefer="threads")(
            delayed(_hold_out)(used, part, windows, pooling, smooth, held_out) for held_out in parts
        )

    def loss(setting: tuple[float, float, float]) -> np.ndarray:
        strength, weight, tail = setting
        return np.concatenate([fold[strength].loss(weight, tail) for fold in folds])

    tried = [(strength, weight, START) for strength in folds[0] for weight in WEIGHTS]
    strength, weight, _ = min(tried, key=lambda setting: loss(setting).mean())
    best = min([(strength, weight, tail) for tail in TAILS], key=lambda setting: loss(setting).mean())
    gain = np.concatenate([fold[pooling.strength].plain() for fold in folds]) - loss(best)
    return *best, float(gain.mean()), standard_error(gain, contiguous)


class Moments(NamedTuple):
    """Second moments of windows, before pooling, and what those of points in space are shrunk towards."""

    table: Neighborhood
    blocks: Float[np.ndarray, "vertex variable variable"]
    law: Matern | None
    n_samples: int
    n_channels: int

    @classmethod
    def of(
        cls,
        y: Float[np.ndarray, "sample vertex channel"],
        graph: DependencyGraph,
        windows: Neighborhood,
        pooling: Pooling,
    ) -> Moments:
        """Take them of data."""
        table = cap_members(windows, len(y), y.shape[2], pooling)
        law = fit_matern(y, graph, False) if pooling.strength > 0 else None
        return cls(table, local_blocks(y, table.index), law, len(y), y.shape[2])

    def fit(self, graph: DependencyGraph, pooling: Pooling, smooth: Smoother | None = None) -> Regressed:
        """Regress the vertices on their windows."""
        c = self.n_channels
        blocks = borrowed_blocks(self.blocks, self.table, graph, pooling, self.law, self.n_samples, smooth)
        regression, _ = regress(blocks, c)
        return Regressed(regression, _roots(torch.from_numpy(blocks[:, c:, c:])))

    def field(self, graph: DependencyGraph, pooling: Pooling, radius: int) -> GaussianField:
        """Fit a field, without looking at its draws."""
        order = elimination_order(graph)
        factor = whitening_factor(self.fit(graph, pooling).regression, self.table, order)
        return GaussianField(factor, order, self.n_channels, radius)


class Regressed(NamedTuple):
    """Regressions of the vertices on their windows, and the lower Cholesky factors of what these regress on."""

    regression: Regression
    root: Float[np.ndarray, "vertex variable variable"]


def _roots(moments: torch.Tensor) -> Float[np.ndarray, "vertex variable variable"]:
    if moments.shape[1] == 0:
        return moments.numpy()
    scale = moments.diagonal(dim1=1, dim2=2).mean(dim=1)[:, None, None] * torch.eye(moments.shape[1])
    root, failed = torch.linalg.cholesky_ex(moments + 1e-12 * scale)
    if failed.any():
        root[failed > 0] = torch.linalg.cholesky((moments + VARIANCE_FLOOR * scale)[failed > 0])
    return root.contiguous().numpy()


class _HeldOut(NamedTuple):
    """Held-out innovations in units of their deviation, with what they were conditioned on; variables by vertex."""

    white: Float[np.ndarray, "variable sample"]
    leverage: Float[np.ndarray, "variable sample"]
    log_deviation: float
    n_samples: int

    def plain(self) -> Float[np.ndarray, " sample"]:
        """Negative log-density of the field, nats per dimension."""
        return (0.5 * self.white**2).mean(axis=0) + self.log_deviation + 0.5 * math.log(2 * math.pi)

    def loss(self, weight: float, tail: float) -> Float[np.ndarray, " sample"]:
        """Negative log-density of the predictive law, nats per dimension."""
        spread = 1 + self.leverage / (weight * self.n_samples) + 1 / self.n_samples
        return self.log_deviation - log_student(self.white, spread, tail).mean(axis=0)


def _hold_out(
    y: Float[np.ndarray, "sample vertex channel"],
    graph: DependencyGraph,
    windows: Neighborhood,
    pooling: Pooling,
    smooth: Smoother | None,
    held_out: np.ndarray,
) -> dict[float, _HeldOut]:
    """Fit without some samples at each strength and predict these, of many only some."""
    train, test = np.delete(y, held_out, axis=0), y[held_out[:: -(-len(held_out) // HELD_OUT)]]
    moments, channels, found = Moments.of(train, graph, windows, pooling), y.shape[2], {}
    index = moments.table.index[:, 1:]
    others = test[:, index].reshape(len(test), len(index), -1)
    for strength in {share * pooling.strength for share in SHARES}:
        (coefficient, deviation), root = moments.fit(graph, replace(pooling, strength=strength), smooth)
        residual = test - np.einsum("svm,vmc->svc", others, coefficient, optimize=True)
        white = np.einsum("vcd,svd->vcs", np.linalg.inv(deviation), residual, optimize=True).reshape(-1, len(test))
        lever = np.repeat(leverage(test, index, root), channels, axis=0) + earlier_channels(white, channels)
        log_deviation = float(np.log(np.diagonal(deviation, axis1=1, axis2=2)).mean())
        found[strength] = _HeldOut(white, lever, log_deviation, len(train))
    return found
