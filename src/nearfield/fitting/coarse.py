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
from scipy.linalg import solve_triangular

from nearfield.fitting.choice import Candidate
from nearfield.fitting.closed_form import build_field
from nearfield.fitting.pooling import Pooling
from nearfield.fitting.search import Search
from nearfield.fitting.selection import select_field
from nearfield.graph.coarsening import Coarsening, box_step, coarsen
from nearfield.samples import FEWEST_TO_CHOOSE, Samples
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


def corrected(field: GaussianField, samples: Samples, scale: Scale | None) -> GaussianField:
    """Give a field, fitted to standardised samples, the law of their block means; None leaves it as it is."""
    if scale is None:
        return field
    blocks = coarsen(samples.graph, scale.step)
    z, size = _means(blocks, samples, scale.pooling)
    law = _law(z, scale, lambda: field.block_covariance(blocks.label, size))
    coarse = CoarseLaw(blocks.label, blocks.step, size, law)
    return GaussianField(field.factor, field.order, field.n_channels, field.hops, coarse)


def _means(
    blocks: Coarsening, samples: Samples, pooling: Pooling
) -> tuple[Samples, Float[np.ndarray, "block channel"]]:
    """Block means over their root mean square, and that; one for all blocks where they have one law."""
    z = blocks.means(samples.values)
    squares = (z**2).mean(axis=0)
    size = np.sqrt(np.broadcast_to(squares.mean(axis=0), squares.shape) if pooling.one_law else squares)
    return samples.with_values(z / np.where(size > 0, size, 1.0), blocks.graph), size


def _law(z: Samples, scale: Scale, before: Callable[[], Float[np.ndarray, "variable variable"]]) -> GaussianField:
    """Fit the law of block means; ``before`` gives their covariance without it."""
    if scale.shrinkage is None:
        return corrected(build_field(z, scale.radius, scale.pooling).field, z, scale.coarser)
    flat = z.values.reshape(len(z), -1)
    covariance = (1 - scale.shrinkage) * flat.T @ flat / len(z) + scale.shrinkage * before()
    root = np.linalg.cholesky(covariance)
    factor = np.tril(solve_triangular(root, np.eye(len(root)), lower=True))
    return GaussianField(sp.csr_array(factor), np.arange(z.n_vertices), z.n_channels)


def choose_correction(
    samples: Samples,
    fitted: GaussianField,
    radius: int,
    pooling: Pooling,
    *,
    needed: bool = False,
    search: Search = Search(),  # noqa: B008
) -> Scale | None:
    """Choose whether and how a field of standardised samples is corrected at larger scales, by held-out loss.

    A field needs a correction if its draws are known not to be like the data (`needed`), if one is better by ``GUARD``
    standard errors, or if the block means of the samples are off by as many; others are left as they are. The fullest
    correction is taken whose held-out loss is not above that of the field by more than one standard error.
    """
    if len(samples) < FEWEST_TO_CHOOSE:
        return None
    search = replace(search, progress=None)
    ladder = _ladder(samples, pooling, search)
    if ladder is None:
        return None
    large = samples.n_vertices * samples.n_channels > LARGE
    parts = samples.folds(2 if large else FOLDS, search.seed)[: 1 if large else None]
    found = search.over(lambda part: _fold(samples, radius, pooling, ladder, part), parts)
    change = np.concatenate(found, axis=1)[:, np.argsort(np.concatenate(parts))]
    needed = needed or any(
        abs(off.mean()) > GUARD * samples.standard_error(off) for off in _excess(fitted, samples, ladder)
    )
    for scale, loss in zip(ladder.scales(), change, strict=True):
        error = samples.standard_error(loss)
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
        self, finer: GaussianField, samples: Samples, held_out: Float[np.ndarray, "held_out vertex channel"]
    ) -> list[Float[np.ndarray, " held_out"]]:
        """Gain of each correction of a field in the log-density of held-out samples, nats."""
        z, size = _means(self.blocks, samples, self.pooling)
        test = self.blocks.means(held_out) / size
        covariance = finer.block_covariance(self.blocks.label, size)
        before = _log_density(test, covariance)
        if self.choice is None:
            flat = z.values.reshape(len(z), -1)
            own = flat.T @ flat / len(z)
            return [_log_density(test, (1 - s) * own + s * covariance) - before for s in SHRINKAGES]
        law = build_field(z, self.choice.radius, self.choice.pooling).field
        gain = law.log_prob(test) - before
        coarser = [] if self.coarser is None else self.coarser.gains(law, z, test)
        return [*(gain + more for more in coarser), gain]


def _ladder(samples: Samples, pooling: Pooling, search: Search) -> _Ladder | None:
    """Choose how block means are fitted at each scale; None where there are no blocks."""
    blocks = coarsen(samples.graph, box_step(samples.graph))
    n_blocks = blocks.graph.n_vertices
    if n_blocks in (1, samples.n_vertices):
        return None
    z, size = _means(blocks, samples, pooling)
    if not (size > 0).all():
        return None
    if n_blocks * z.n_channels <= min(COARSEST, (len(z) - 1) // 2) and not pooling.one_law:
        return _Ladder(blocks, pooling, None, None)
    choice = select_field(z, pooling=Pooling(1.0) if pooling.one_law else None, search=search).choice
    return _Ladder(blocks, pooling, choice, _ladder(z, choice.pooling, search))


def _fold(
    samples: Samples, radius: int, pooling: Pooling, ladder: _Ladder, held_out: np.ndarray
) -> Float[np.ndarray, "candidate held_out"]:
    """Change of the negative log-density of held-out samples by each correction, nats; infinite where there is none."""
    train = samples.without(held_out)
    try:
        finer = build_field(train, radius, pooling).field
        return -np.stack(ladder.gains(finer, train, samples.values[held_out]))
    except np.linalg.LinAlgError:  # a field too ill-conditioned to be corrected
        return np.full((len(ladder.scales()), len(held_out)), np.inf)


def _log_density(
    z: Float[np.ndarray, "sample block channel"], covariance: Float[np.ndarray, "variable variable"]
) -> Float[np.ndarray, " sample"]:
    """Log-density of a zero-mean normal law in nats."""
    root = np.linalg.cholesky(covariance)
    white = solve_triangular(root, z.reshape(len(z), -1).T, lower=True)
    constant = np.log(root.diagonal()).sum() + 0.5 * len(root) * math.log(2 * math.pi)
    log_density: np.ndarray = -0.5 * (white**2).sum(axis=0) - constant
    return log_density


def _excess(finer: GaussianField, samples: Samples, ladder: _Ladder) -> Float[np.ndarray, "2 sample"]:
    """How far the squares of each sample's block means are above those that the field expects, relative.

    Of means whitened by their covariance in the field, which all count alike, and of plain ones, among which the
    leading modes count most.
    """
    z, size = _means(ladder.blocks, samples, ladder.pooling)
    flat, covariance = z.values.reshape(len(z), -1), finer.block_covariance(ladder.blocks.label, size)
    white = np.linalg.solve(covariance, flat.T)
    return (
        np.stack([(flat.T * white).mean(axis=0), (flat**2).mean(axis=1) * len(covariance) / np.trace(covariance)]) - 1
    )
