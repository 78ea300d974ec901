"""Choice of a predictive law with uncertain parameters for log-densities, by held-out score.

Uncertain parameters suit less pooling than known ones, so the law that scores may be pooled less than the field that
draws. It is used only if its held-out score exceeds the field's by more than a standard error. The two are compared
without corrections at larger scales, which apply to both.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from nearfield.fitting.closed_form import whitening_factor
from nearfield.fitting.covariance import second_moments
from nearfield.fitting.cross_validation import representative
from nearfield.fitting.elimination import elimination_order, predecessors
from nearfield.fitting.matern import Matern, fit_matern
from nearfield.fitting.pooling import Pooling, smoother
from nearfield.fitting.regression import VARIANCE_FLOOR, Regression, Shrinkage, cap_windows, regress, with_nugget
from nearfield.fitting.search import Search
from nearfield.graph import DependencyGraph, Neighborhood
from nearfield.graph.order import scattered
from nearfield.samples import FEWEST_TO_CHOOSE, Samples
from nearfield.score.field import GaussianField
from nearfield.score.predictive import PredictiveField, earlier_channels, leverage, log_student

if TYPE_CHECKING:
    from jaxtyping import Float

    from nearfield.fitting.pooling import Smoother

__all__ = ["Moments", "choose_predictive"]

SHARES = (1.0, 0.5)
"""Shares of the field's strength of pooling."""
WEIGHTS = (1.0, 2.0, 4.0, 8.0)
"""Weights of a block, in units of the number of samples."""
TAILS = (8.0, 16.0, 32.0, 64.0, 128.0)
"""Degrees of freedom."""
START = 32.0
"""Degrees of freedom for the choice of share and weight, which comes before theirs."""
LARGEST = 1 << 25
"""Most numbers in the Cholesky factors of all windows together (256 MiB)."""
LARGEST_CORRECTED = 4096
"""Variables of the largest corrected fields, whose factor is dense."""
HELD_OUT = 200
"""Most samples scored in a fold."""


def choose_predictive(
    samples: Samples,
    field: GaussianField,
    radius: int,
    pooling: Pooling,
    search: Search = Search(),  # noqa: B008
) -> tuple[PredictiveField | None, str]:
    """Choose whether log-densities count the uncertainty of the parameters, by held-out score, with a reason.

    The law is None if the field itself scores: where it is not worse, too large, or one law for all vertices, whose
    parameters rest on many more values than samples. The reason is empty if there was no choice.
    """
    n_samples, graph, channels = len(samples), samples.graph, samples.n_channels
    if pooling.one_law or n_samples < FEWEST_TO_CHOOSE:
        return None, ""
    windows = predecessors(graph, radius)
    if graph.n_vertices * ((windows.index.shape[1] - 1) * channels) ** 2 > LARGEST or (
        field.coarse is not None and graph.n_vertices * channels > LARGEST_CORRECTED
    ):
        return None, "Log-densities are those of the field, which is too large for a predictive law."
    strength, weight, tail, gain, error = _choice(samples, radius, pooling, search)
    better = f"{gain:.2g} +- {error:.1g} nats per dimension"
    if gain <= error:
        return None, f"Log-densities are those of the field: Student's t changes held-out ones by {better}."
    moments = Moments.of(samples, windows, pooling)
    fit = moments.fit(replace(pooling, strength=strength))
    factor = whitening_factor(fit.regression, moments.table, field.order.numpy())
    law = GaussianField(factor, field.order, channels, radius, field.coarse)
    found = PredictiveField(law, moments.table.index[:, 1:], fit.root, weight, tail, n_samples)
    return found, (
        f"Log-densities are those of Student's t with {tail:g} degrees of freedom, pooled with strength "
        f"{strength:.2g}, each block counting as {weight * n_samples:g} samples: held-out ones are higher by {better}. "
        "Draws are those of the field."
    )


def _choice(
    samples: Samples, radius: int, pooling: Pooling, search: Search
) -> tuple[float, float, float, float, float]:
    """Strength, weight and tail of highest held-out score, its gain over the field and the error of the gain."""
    parts = samples.folds(5, search.seed)
    # a vertex that varies only in held-out samples has no variance in the others, standardised or not
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
    """Second moments of windows before pooling, and the law towards which those of points in space are shrunk."""

    graph: DependencyGraph
    table: Neighborhood
    blocks: Float[np.ndarray, "vertex variable variable"]
    law: Matern | None
    n_samples: int
    n_channels: int

    @classmethod
    def of(cls, samples: Samples, windows: Neighborhood, pooling: Pooling) -> Moments:
        """Compute the moments of standardised samples."""
        table = cap_windows(windows, len(samples), samples.n_channels, pooling)
        law = fit_matern(samples) if pooling.strength > 0 else None
        blocks = second_moments(samples, table.index)
        return cls(samples.graph, table, blocks, law, len(samples), samples.n_channels)

    def fit(self, pooling: Pooling, smooth: Smoother | None = None) -> Regressed:
        """Regress the vertices on their windows."""
        c = self.n_channels
        between = self.blocks[:, :c, :c].mean(axis=0)
        shrinkage = Shrinkage(self.graph, self.table, pooling, self.n_samples, self.law, between, smooth)
        blocks = with_nugget(shrinkage.whole(self.blocks), pooling.nugget)
        regression, _ = regress(blocks, c)
        return Regressed(regression, _roots(torch.from_numpy(blocks[:, c:, c:])))

    def field(self, pooling: Pooling, radius: int) -> GaussianField:
        """Fit a field without checking its draws."""
        order = elimination_order(self.graph)
        factor = whitening_factor(self.fit(pooling).regression, self.table, order)
        return GaussianField(factor, order, self.n_channels, radius)


class Regressed(NamedTuple):
    """Regressions of the vertices on their windows, and the lower Cholesky factors of the moments of the regressors."""

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
    """Held-out innovations over their standard deviation, and the leverage of their regressors; variables by vertex."""

    white: Float[np.ndarray, "variable sample"]
    leverage: Float[np.ndarray, "variable sample"]
    log_std: float
    n_samples: int

    def plain(self) -> Float[np.ndarray, " sample"]:
        """Negative log-density of the field, nats per dimension."""
        loss: np.ndarray = (0.5 * self.white**2).mean(axis=0) + self.log_std + 0.5 * math.log(2 * math.pi)
        return loss

    def loss(self, weight: float, tail: float) -> Float[np.ndarray, " sample"]:
        """Negative log-density of the predictive law, nats per dimension."""
        spread = 1 + self.leverage / (weight * self.n_samples) + 1 / self.n_samples
        loss: np.ndarray = self.log_std - log_student(self.white, spread, tail).mean(axis=0)
        return loss


def _hold_out(
    samples: Samples, windows: Neighborhood, pooling: Pooling, smooth: Smoother | None, held_out: np.ndarray
) -> dict[float, _HeldOut]:
    """Fit without the held-out samples at each strength, and predict these (some of them, if many)."""
    train, test = samples.without(held_out), samples.values[held_out[:: -(-len(held_out) // HELD_OUT)]]
    moments, channels, found = Moments.of(train, windows, pooling), samples.n_channels, {}
    index = moments.table.index[:, 1:]
    others = test[:, index].reshape(len(test), len(index), -1)
    for strength in {share * pooling.strength for share in SHARES}:
        (coefficient, std), root = moments.fit(replace(pooling, strength=strength), smooth)
        residual = test - np.einsum("svm,vmc->svc", others, coefficient, optimize=True)
        white = np.einsum("vcd,svd->vcs", np.linalg.inv(std), residual, optimize=True).reshape(-1, len(test))
        lever = np.repeat(leverage(test, index, root), channels, axis=0) + earlier_channels(white, channels)
        log_std = float(np.log(np.diagonal(std, axis1=1, axis2=2)).mean())
        found[strength] = _HeldOut(white, lever, log_std, len(train))
    return found
