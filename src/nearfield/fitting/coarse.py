"""Correcting a fitted field at every larger scale: the law of its block means, fitted and corrected by the same code.

Blocks of 3 cells along each axis make a coarser graph, on which the means have a field of their own, and so on until
some 20 blocks are left; their covariance is the empirical one, shrunk towards that of the field. Whether a field is
corrected, and how far the coarsest covariance is shrunk, is chosen by held-out loss: a correction by the law q of the
means z changes the loss by exactly that of q minus that of the field's own law of z, so the field is fitted anew in
the folds alone, and once for all corrections.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import scipy.sparse as sp
from joblib import Parallel, delayed
from scipy.linalg import solve_triangular

from nearfield.data.duplicate import duplicate_groups
from nearfield.fitting.choice import Candidate
from nearfield.fitting.closed_form import build_field
from nearfield.fitting.covariance import Pooling
from nearfield.fitting.cross_validation import FEWEST_TO_CHOOSE, fewer_folds, split, standard_error
from nearfield.fitting.selection import one_torch_thread, select_field
from nearfield.graph import DependencyGraph
from nearfield.graph.coarsening import Coarsening, box_step, coarsen
from nearfield.score.field import CoarseLaw, GaussianField

if TYPE_CHECKING:
    from jaxtyping import Float

__all__ = ["Scale", "choose_correction", "corrected"]

SHRINKAGES = (0.1, 0.2, 0.4, 0.8)
"""Of the coarsest covariance towards the field's, the fullest repair first."""
COARSEST = 30
"""Means whose covariance is taken from the samples, at most; and fewer than half of the samples."""
FOLDS = 5
LARGE = 20_000
"""Variables above which only one half is held out, once: each fold is a fit of the whole field."""
GUARD = 2.5
"""Standard errors by which the block means have to be off, or the correction to be better, before it is made."""


@dataclass(frozen=True)
class Scale:
    """How the law of block means is fitted.

    Parameters
    ----------
    step : int
        Cells of a box along each axis.
    radius : int
        Hops of the field of the means.
    pooling : Pooling
        Of that field.
    shrinkage : float, optional
        Where given the law is not a local field but the empirical covariance, shrunk towards that before.
    coarser : Scale, optional
        Correction of the field of the means.
    """

    step: int
    radius: int = 0
    pooling: Pooling = Pooling()  # noqa: RUF009
    shrinkage: float | None = None
    coarser: Scale | None = None

    def describe(self) -> str:
        """Return the correction in a sentence."""
        width, steps, scale = 1, [], self
        while True:
            width *= scale.step
            law = "their covariance" if scale.shrinkage is not None else f"a field of radius {scale.radius}"
            steps.append(f"{law} over {width} cells a side")
            if scale.coarser is None:
                return f"Corrected at larger scales by the law of block means: {', '.join(steps)}."
            scale = scale.coarser


def corrected(
    field: GaussianField, y: Float[np.ndarray, "sample vertex channel"], graph: DependencyGraph, scale: Scale | None
) -> GaussianField:
    """Give a field the law of the block means of standardised data.

    Parameters
    ----------
    field : GaussianField
        Fitted to `y`, without a correction.
    y : ndarray, shape (sample, vertex, channel)
        Standardised data.
    graph : DependencyGraph
    scale : Scale or None
        What `choose_correction` returns; None leaves the field as it is.

    Returns
    -------
    GaussianField
    """
    if scale is None:
        return field
    blocks = coarsen(graph, scale.step)
    z, size = _means(blocks, y, scale.pooling)
    law = _law(z, blocks.graph, scale, lambda: field.block_covariance(blocks.label, size))
    coarse = CoarseLaw(blocks.label, blocks.step, size, law)
    return GaussianField(field.factor, field.order, field.n_channels, field.hops, coarse)


def _means(
    blocks: Coarsening, y: Float[np.ndarray, "sample vertex channel"], pooling: Pooling
) -> tuple[Float[np.ndarray, "sample block channel"], Float[np.ndarray, "block channel"]]:
    """Block means over their root mean square, and that; one for all blocks where they have one law."""
    z = blocks.means(y)
    squares = (z**2).mean(axis=0)
    size = np.sqrt(np.broadcast_to(squares.mean(axis=0), squares.shape) if pooling.one_law else squares)
    return z / size, size


def _law(
    z: Float[np.ndarray, "sample block channel"],
    graph: DependencyGraph,
    scale: Scale,
    before: Callable[[], Float[np.ndarray, "variable variable"]],
) -> GaussianField:
    """Fit the law of block means; ``before`` gives their covariance without it."""
    if scale.shrinkage is None:
        field = build_field(z, graph, scale.radius, scale.pooling, False).field
        return corrected(field, z, graph, scale.coarser)
    flat = z.reshape(len(z), -1)
    covariance = (1 - scale.shrinkage) * flat.T @ flat / len(z) + scale.shrinkage * before()
    root = np.linalg.cholesky(covariance)
    factor = np.tril(solve_triangular(root, np.eye(len(root)), lower=True))
    return GaussianField(sp.csr_array(factor), np.arange(len(z[0])), z.shape[2])


def choose_correction(
    fitted: GaussianField,
    y: Float[np.ndarray, "sample vertex channel"],
    graph: DependencyGraph,
    radius: int,
    pooling: Pooling,
    *,
    needed: bool = False,
    contiguous: bool = False,
    seed: int = 0,
    n_jobs: int | None = None,
) -> Scale | None:
    """Choose whether and how a field is corrected at larger scales, by held-out loss.

    A field needs a correction if its draws are known not to be like the data, if one is better by ``GUARD`` standard
    errors, or if the block means of the samples are off by as many; others are left as they are. The fullest correction
    is taken whose held-out loss is not above that of the field by more than one standard error.

    Parameters
    ----------
    fitted : GaussianField
        The field.
    y : ndarray, shape (sample, vertex, channel)
        Standardised data.
    graph : DependencyGraph
    radius, pooling
        Of the field.
    needed : bool
        Whether draws are known not to be like the data.
    contiguous, seed, n_jobs
        As in `select_field`.

    Returns
    -------
    Scale or None
        None where there is nothing to repair, or too few samples or vertices.
    """
    if len(y) < FEWEST_TO_CHOOSE:
        return None
    ladder = _ladder(y, graph, pooling, contiguous, seed, n_jobs)
    if ladder is None:
        return None
    large = y[0].size > LARGE
    folds = fewer_folds(2 if large else FOLDS, len(y))
    parts = split(len(y), folds, contiguous, seed, duplicate_groups(y))[: 1 if large else None]
    with one_torch_thread():
        found = Parallel(n_jobs=n_jobs, prefer="threads")(
            delayed(_fold)(y, graph, radius, pooling, ladder, part) for part in parts
        )
    candidates = ladder.scales()
    change = np.concatenate(found, axis=1)[:, np.argsort(np.concatenate(parts))]
    needed = needed or any(
        abs(off.mean()) > GUARD * standard_error(off, contiguous) for off in _excess(fitted, y, ladder)
    )
    for scale, loss in zip(candidates, change, strict=True):
        error = standard_error(loss, contiguous)
        if loss.mean() <= error and (needed or loss.mean() < -GUARD * error):
            return scale
    return None


@dataclass(frozen=True)
class _Ladder:
    """Blocks of a graph, how their means are fitted, and the blocks of these; at the end their covariance.

    ``choice`` is None where the law of the means is their shrunk covariance.
    """

    blocks: Coarsening
    pooling: Pooling
    choice: Candidate | None
    coarser: _Ladder | None

    def scales(self) -> list[Scale]:
        """Corrections, the fullest first."""
        if self.choice is None:
            return [Scale(self.blocks.step, shrinkage=shrinkage) for shrinkage in SHRINKAGES]
        own = Scale(self.blocks.step, self.choice.radius, self.choice.pooling)
        coarser = [] if self.coarser is None else self.coarser.scales()
        return [*(replace(own, coarser=scale) for scale in coarser), own]

    def gains(
        self,
        finer: GaussianField,
        y: Float[np.ndarray, "sample vertex channel"],
        held_out: Float[np.ndarray, "held_out vertex channel"],
    ) -> list[Float[np.ndarray, " held_out"]]:
        """Gain of each correction of a field in the log-density of held-out samples, nats."""
        z, size = _means(self.blocks, y, self.pooling)
        test = self.blocks.means(held_out) / size
        covariance = finer.block_covariance(self.blocks.label, size)
        before = _log_density(test, covariance)
        if self.choice is None:
            flat = z.reshape(len(z), -1)
            own = flat.T @ flat / len(z)
            return [_log_density(test, (1 - s) * own + s * covariance) - before for s in SHRINKAGES]
        law = build_field(z, self.blocks.graph, self.choice.radius, self.choice.pooling, False).field
        gain = law.log_prob(test) - before
        coarser = [] if self.coarser is None else self.coarser.gains(law, z, test)
        return [*(gain + more for more in coarser), gain]


def _ladder(
    y: Float[np.ndarray, "sample vertex channel"],
    graph: DependencyGraph,
    pooling: Pooling,
    contiguous: bool,
    seed: int,
    n_jobs: int | None,
) -> _Ladder | None:
    """Choose how block means are fitted at each scale; None where there are no blocks."""
    blocks = coarsen(graph, box_step(graph))
    n_blocks = blocks.graph.n_vertices
    if n_blocks in (1, graph.n_vertices):
        return None
    z, size = _means(blocks, y, pooling)
    if not (size > 0).all():
        return None
    if n_blocks * y.shape[2] <= min(COARSEST, (len(y) - 1) // 2) and not pooling.one_law:
        return _Ladder(blocks, pooling, None, None)
    fixed = Pooling(1.0) if pooling.one_law else None
    choice = select_field(
        z, blocks.graph, pooling=fixed, contiguous=contiguous, standardize=False, seed=seed, n_jobs=n_jobs
    ).choice
    coarser = _ladder(z, blocks.graph, choice.pooling, contiguous, seed, n_jobs)
    return _Ladder(blocks, pooling, choice, coarser)


def _fold(
    y: Float[np.ndarray, "sample vertex channel"],
    graph: DependencyGraph,
    radius: int,
    pooling: Pooling,
    ladder: _Ladder,
    held_out: np.ndarray,
) -> Float[np.ndarray, "candidate sample"]:
    """Change of the negative log-density of held-out samples by each correction, nats; infinite where there is none."""
    train = np.delete(y, held_out, axis=0)
    try:
        finer = build_field(train, graph, radius, pooling, False).field
        return -np.stack(ladder.gains(finer, train, y[held_out]))
    except np.linalg.LinAlgError:  # a field too ill-conditioned to be corrected
        return np.full((len(ladder.scales()), len(held_out)), np.inf)


def _log_density(
    z: Float[np.ndarray, "sample block channel"], covariance: Float[np.ndarray, "variable variable"]
) -> Float[np.ndarray, " sample"]:
    """Log-density of a zero-mean normal law in nats."""
    root = np.linalg.cholesky(covariance)
    white = solve_triangular(root, z.reshape(len(z), -1).T, lower=True)
    constant = np.log(root.diagonal()).sum() + 0.5 * len(root) * math.log(2 * math.pi)
    return -0.5 * (white**2).sum(axis=0) - constant


def _excess(
    finer: GaussianField, y: Float[np.ndarray, "sample vertex channel"], ladder: _Ladder
) -> Float[np.ndarray, "2 sample"]:
    """How far the squares of each sample's block means are above those that the field expects, relative.

    Of means whitened by their covariance in the field, which all count alike, and of plain ones, among which the
    leading modes count most.
    """
    z, size = _means(ladder.blocks, y, ladder.pooling)
    flat, covariance = z.reshape(len(z), -1), finer.block_covariance(ladder.blocks.label, size)
    white = np.linalg.solve(covariance, flat.T)
    return (
        np.stack([(flat.T * white).mean(axis=0), (flat**2).mean(axis=1) * len(covariance) / np.trace(covariance)]) - 1
    )
