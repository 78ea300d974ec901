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

from nearfield.fitting.closed_form import whitening_factor
from nearfield.fitting.covariance import local_blocks
from nearfield.fitting.cross_validation import representative
from nearfield.fitting.elimination import elimination_order, predecessors
from nearfield.fitting.matern import Matern, fit_matern
from nearfield.fitting.maximin import scattered
from nearfield.fitting.pooling import Pooling, smoother
from nearfield.fitting.regression import VARIANCE_FLOOR, Borrowing, Regression, cap_members, regress, with_nugget
from nearfield.fitting.search import Search
from nearfield.graph import DependencyGraph, Neighborhood
from nearfield.samples import FEWEST_TO_CHOOSE, Samples
from nearfield.score.field import GaussianField
from nearfield.score.predictive import PredictiveField, earlier_channels, leverage, log_student

if TYPE_CHECKING:
    from jaxtyping import Float

    from nearfield.fitting.pooling import Smoother

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
    samples: Samples,
    field: GaussianField,
    radius: int,
    pooling: Pooling,
    search: Search = Search(),  # noqa: B008
) -> tuple[PredictiveField | None, str]:
    """Choose whether log-densities count the uncertainty of the parameters, by held-out score.

    The field is that of the standardised samples, corrected or not. What scores comes with a sentence, empty where
    there was no choice. It is None where the field itself scores: where it is not worse, too large, or one law for all
    vertices, whose parameters rest on many times more values than there are samples.
    """
    n_samples, graph, channels = len(samples), samples.graph, samples.n_channels
    if pooling.one_law or n_samples < FEWEST_TO_CHOOSE:
        return None, ""
    windows = predecessors(graph, radius)
    if graph.n_vertices * ((windows.index.shape[1] - 1) * channels) ** 2 > LARGEST or (
        field.coarse is not None and graph.n_vertices * channels > LARGEST_CORRECTED
    ):
        return None, "Log-densities are those of the field: it is too large for a predictive law."
    strength, weight, tail, gain, error = _choice(samples, radius, pooling, search)
    better = f"{gain:.2g} +- {error:.1g} nats per dimension"
    if gain <= error:
        return None, f"Log-densities are those of the field: Student's t would change held-out ones by {better}."
    moments = Moments.of(samples, windows, pooling)
    fit = moments.fit(replace(pooling, strength=strength))
    factor = whitening_factor(fit.regression, moments.table, field.order.numpy())
    law = GaussianField(factor, field.order, channels, radius, field.coarse)
    found = PredictiveField(law, moments.table.index[:, 1:], fit.root, weight, tail, n_samples)
    return found, (
        f"Log-densities are of Student's t with {tail:g} degrees of freedom, pooled with strength {strength:.2g}, each "
        f"block counting as {weight * n_samples:g} samples: held-out ones are higher by {better}. Draws are the "
        "field's."
    )


def _choice(
    samples: Samples, radius: int, pooling: Pooling, search: Search
) -> tuple[float, float, float, float, float]:
    """Strength, weight and tail of highest held-out score, its gain over the field's and the error of that."""
    parts = samples.folds(5, search.seed)
    # a vertex that varies in held-out samples alone has no variance in the others, standardised or not
    comparable = representative(samples.with_values(samples.values, standard=()), parts)
    used = comparable.with_values(comparable.values, standard=samples.standard)
    windows = predecessors(used.graph, radius)
    smooth = None
    if pooling.strength > 0 and not scattered(used.graph):
        smooth = smoother(used.graph, pooling.bandwidth, windows)
    folds = search.over(lambda held_out: _hold_out(used, windows, pooling, smooth, held_out), parts)

    def loss(setting: tuple[float, float, float]) -> np.ndarray:
        strength, weight, tail = setting
        return np.concatenate([fold[strength].loss(weight, tail) for fold in folds])

    tried = [(strength, weight, START) for strength in folds[0] for weight in WEIGHTS]
    strength, weight, _ = min(tried, key=lambda setting: loss(setting).mean())
    best = min([(strength, weight, tail) for tail in TAILS], key=lambda setting: loss(setting).mean())
    gain = np.concatenate([fold[pooling.strength].plain() for fold in folds]) - loss(best)
    return *best, float(gain.mean()), samples.standard_error(gain)


class Moments(NamedTuple):
    """Second moments of windows, before pooling, and what those of points in space are shrunk towards."""

    graph: DependencyGraph
    table: Neighborhood
    blocks: Float[np.ndarray, "vertex variable variable"]
    law: Matern | None
    n_samples: int
    n_channels: int

    @classmethod
    def of(cls, samples: Samples, windows: Neighborhood, pooling: Pooling) -> Moments:
        """Take them of standardised samples."""
        table = cap_members(windows, len(samples), samples.n_channels, pooling)
        law = fit_matern(samples) if pooling.strength > 0 else None
        blocks = local_blocks(samples.values, table.index)
        return cls(samples.graph, table, blocks, law, len(samples), samples.n_channels)

    def fit(self, pooling: Pooling, smooth: Smoother | None = None) -> Regressed:
        """Regress the vertices on their windows."""
        c = self.n_channels
        between = self.blocks[:, :c, :c].mean(axis=0)
        borrowing = Borrowing(self.graph, self.table, pooling, self.n_samples, self.law, between, smooth)
        blocks = with_nugget(borrowing.whole(self.blocks), pooling.nugget)
        regression, _ = regress(blocks, c)
        return Regressed(regression, _roots(torch.from_numpy(blocks[:, c:, c:])))

    def field(self, pooling: Pooling, radius: int) -> GaussianField:
        """Fit a field, without looking at its draws."""
        order = elimination_order(self.graph)
        factor = whitening_factor(self.fit(pooling).regression, self.table, order)
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
    roots: np.ndarray = root.contiguous().numpy()
    return roots


class _HeldOut(NamedTuple):
    """Held-out innovations in units of their deviation, with what they were conditioned on; variables by vertex."""

    white: Float[np.ndarray, "variable sample"]
    leverage: Float[np.ndarray, "variable sample"]
    log_deviation: float
    n_samples: int

    def plain(self) -> Float[np.ndarray, " sample"]:
        """Negative log-density of the field, nats per dimension."""
        loss: np.ndarray = (0.5 * self.white**2).mean(axis=0) + self.log_deviation + 0.5 * math.log(2 * math.pi)
        return loss

    def loss(self, weight: float, tail: float) -> Float[np.ndarray, " sample"]:
        """Negative log-density of the predictive law, nats per dimension."""
        spread = 1 + self.leverage / (weight * self.n_samples) + 1 / self.n_samples
        loss: np.ndarray = self.log_deviation - log_student(self.white, spread, tail).mean(axis=0)
        return loss


def _hold_out(
    samples: Samples, windows: Neighborhood, pooling: Pooling, smooth: Smoother | None, held_out: np.ndarray
) -> dict[float, _HeldOut]:
    """Fit without some samples at each strength and predict these, of many only some."""
    train, test = samples.without(held_out), samples.values[held_out[:: -(-len(held_out) // HELD_OUT)]]
    moments, channels, found = Moments.of(train, windows, pooling), samples.n_channels, {}
    index = moments.table.index[:, 1:]
    others = test[:, index].reshape(len(test), len(index), -1)
    for strength in {share * pooling.strength for share in SHARES}:
        (coefficient, deviation), root = moments.fit(replace(pooling, strength=strength), smooth)
        residual = test - np.einsum("svm,vmc->svc", others, coefficient, optimize=True)
        white = np.einsum("vcd,svd->vcs", np.linalg.inv(deviation), residual, optimize=True).reshape(-1, len(test))
        lever = np.repeat(leverage(test, index, root), channels, axis=0) + earlier_channels(white, channels)
        log_deviation = float(np.log(np.diagonal(deviation, axis1=1, axis2=2)).mean())
        found[strength] = _HeldOut(white, lever, log_deviation, len(train))
    return found
