"""Corrections of a fitted field at every larger scale by the law of its block means, itself such a field.

Blocks of 3 cells along each axis make a coarser graph, whose means have a field of their own, and so on down to some
20 blocks; the covariance of these is the empirical one, shrunk towards that of the field. The correction and the
shrinkage are chosen by held-out loss. A correction by the law q of the means z changes the loss by exactly that of q
minus that of the field's own law of z, so each fold fits the field once for all corrections.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp
from scipy.linalg import solve_triangular
from scipy.optimize import isotonic_regression

from nearfield.fitting.choice import Candidate
from nearfield.fitting.closed_form import build_field
from nearfield.fitting.pooling import Pooling
from nearfield.fitting.search import Search
from nearfield.fitting.selection import select_field
from nearfield.graph.coarsening import IN_TILES, MOST_NUMBERS, Coarsening, averages, box_step, coarsen
from nearfield.samples import FEWEST_TO_CHOOSE, Samples
from nearfield.score.field import CoarseLaw, GaussianField
from nearfield.tiled_samples import Run, TiledSamples, one_by_one

if TYPE_CHECKING:
    from jaxtyping import Float, Int

__all__ = ["Scale", "block_means", "block_sums", "choose_correction", "corrected", "means_of_sums"]

SHRINKAGES = (0.1, 0.2, 0.4, 0.8)
"""Shrinkages of the coarsest covariance towards the field's, the fullest correction first."""
COARSEST = 30
"""Most means with an empirical covariance; they must also be fewer than half of the samples."""
FOLDS = 5
LARGE = 20_000
"""Variables above which only one half is held out, once: each fold fits the whole field."""
GUARD = 2.5
"""Standard errors by which the block means must be off, or a correction better, before it is made."""


@dataclass(frozen=True)
class Scale:
    """Settings of the law of block means.

    Parameters
    ----------
    step : int
        Cells of a box along each axis.
    radius : int
        Hops of the field of the means.
    pooling : Pooling
        Of that field.
    shrinkage : float, optional
        If given, the law is the empirical covariance, shrunk towards that before, instead of a local field.
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


def corrected(field: GaussianField, samples: Samples | TiledSamples, scale: Scale | None) -> GaussianField:
    """Give a field, fitted to standardised samples, the law of their block means; None changes nothing."""
    if scale is None:
        return field
    blocks = coarsen(samples.graph, scale.step)
    z, size = _scaled(blocks, block_means(blocks, samples), scale.pooling)
    known: np.ndarray | None = None
    if isinstance(samples, TiledSamples):  # it takes long, and is kept with the model
        known = field.block_covariance(blocks.label, size, _run(samples))
    law = _law(z, scale, lambda: field.block_covariance(blocks.label, size) if known is None else known)
    coarse = CoarseLaw(blocks.label, blocks.step, size, law, known)
    return GaussianField(field.factor, field.order, field.n_channels, field.hops, coarse)


def _run(samples: Samples | TiledSamples) -> Run:
    """Return what runs the tasks of such samples."""
    return (samples.run if isinstance(samples, TiledSamples) else None) or one_by_one


def block_means(blocks: Coarsening, samples: Samples | TiledSamples) -> Samples:
    """Return the samples' means over each block, on the graph of the blocks."""
    if isinstance(samples, Samples):
        return samples.with_values(blocks.means(samples.values), blocks.graph)
    means = means_of_sums(samples.over_tiles(_block_sums, blocks.label, kept=f"blocks of {blocks.step}"), blocks.label)
    return Samples(means, blocks.graph, ordered=samples.ordered, standard=(True,) * samples.n_channels)


def means_of_sums(
    parts: Sequence[tuple[np.ndarray, np.ndarray]], label: Int[np.ndarray, " vertex"]
) -> Float[np.ndarray, "sample block channel"]:
    """Means over blocks, from the sums over their parts in each tile."""
    size, (n_samples, _, n_channels) = np.bincount(label), parts[0][1].shape
    means = np.zeros((n_samples, len(size), n_channels))
    for block, total in parts:
        means[:, block] += total
    return means * (1.0 / size)[:, None]


def _block_sums(
    tile: int, samples: TiledSamples, label: Int[np.ndarray, " vertex"]
) -> tuple[Int[np.ndarray, " block"], Float[np.ndarray, "sample block channel"]]:
    box = samples.tiling.box(tile)
    return block_sums(samples.on(box).values, label[samples.tiling.vertices(box)])


def block_sums(
    values: Float[np.ndarray, "sample vertex channel"], label: Int[np.ndarray, " vertex"]
) -> tuple[Int[np.ndarray, " block"], Float[np.ndarray, "sample block channel"]]:
    """Sum over the part of each block that lies in a tile, and name the blocks."""
    block, place = np.unique(label, return_inverse=True)
    n, n_vertices, n_channels = values.shape
    if not n_vertices:  # a tile of land
        return block, np.zeros((n, 0, n_channels))
    sums = sp.csr_array((np.ones(len(place)), (place.reshape(-1), np.arange(len(place)))))
    total = sums @ np.moveaxis(values, 1, 0).reshape(n_vertices, -1)
    return block, np.moveaxis(total.reshape(len(block), n, n_channels), 0, 1)


def _scaled(blocks: Coarsening, means: Samples, pooling: Pooling) -> tuple[Samples, Float[np.ndarray, "block channel"]]:
    """Means over their root mean square, and the latter.

    It is one for all blocks of as many vertices if they have one law; means over fewer, as at coasts, vary no less.
    """
    squares = (means.values**2).mean(axis=0)
    if pooling.one_law:
        count, of = np.unique(np.bincount(blocks.label), return_inverse=True)
        weight, pooled = np.bincount(of).astype(float), averages(of) @ squares
        falling = [isotonic_regression(each, weights=weight, increasing=False).x for each in pooled.T]
        squares = np.stack(falling, axis=1)[of] if len(count) > 1 else np.broadcast_to(pooled, squares.shape)
    size = np.sqrt(squares)
    return means.with_values(means.values / np.where(size > 0, size, 1.0)), size


def _law(z: Samples, scale: Scale, before: Callable[[], Float[np.ndarray, "variable variable"]]) -> GaussianField:
    """Fit the law of block means; ``before`` computes their covariance without it."""
    if scale.shrinkage is None:
        return corrected(build_field(z, scale.radius, scale.pooling).field, z, scale.coarser)
    flat = z.values.reshape(len(z), -1)
    covariance = (1 - scale.shrinkage) * flat.T @ flat / len(z) + scale.shrinkage * before()
    root = np.linalg.cholesky(covariance)
    factor = np.tril(solve_triangular(root, np.eye(len(root)), lower=True))
    return GaussianField(sp.csr_array(factor), np.arange(z.n_vertices), z.n_channels)


def choose_correction(
    samples: Samples | TiledSamples,
    fitted: GaussianField,
    build: Callable[[Any], GaussianField],
    pooling: Pooling,
    *,
    needed: bool = False,
    search: Search = Search(),  # noqa: B008
) -> Scale | None:
    """Choose the correction of a field of standardised samples at larger scales by held-out loss, or None.

    ``build`` fits the field, of that pooling, to some of the samples. A field needs a correction if its draws are known
    to differ from the data (`needed`), if one is better by ``GUARD`` standard errors, or if the block means of the
    samples are off by as many. The fullest correction is taken whose held-out loss is not above that of the field by
    more than one standard error.
    """
    if len(samples) < FEWEST_TO_CHOOSE:
        return None
    search = replace(search, progress=None)
    ladder = _ladder(samples, pooling, search)
    if ladder is None:
        return None
    large = samples.n_vertices * samples.n_channels > LARGE
    parts = samples.folds(2 if large else FOLDS, search.seed)[: 1 if large else None]
    found = search.over(lambda part: _fold(samples, build, ladder, part), parts)
    change = np.concatenate(found, axis=1)[:, np.argsort(np.concatenate(parts))]
    needed = needed or any(
        abs(off.mean()) > GUARD * samples.standard_error(off) for off in _excess(fitted, ladder, _run(samples))
    )
    for scale, loss in zip(ladder.scales(), change, strict=True):
        error = samples.standard_error(loss)
        if loss.mean() <= error and (needed or loss.mean() < -GUARD * error):
            return scale
    return None


@dataclass(frozen=True)
class _Ladder:
    """Blocks of a graph, the means of the samples over them, the settings of their law, and the blocks of these blocks.

    ``choice`` is None where the law of the means is their shrunk covariance.
    """

    blocks: Coarsening
    means: Samples
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
        means: Samples,
        held_out: Float[np.ndarray, "held_out block channel"],
        run: Run = one_by_one,
    ) -> list[Float[np.ndarray, " held_out"]]:
        """Gain of each correction of a field, fitted to samples of these means, in the log-density of others, nats."""
        z, size = _scaled(self.blocks, means, self.pooling)
        test = held_out / size
        covariance = finer.block_covariance(self.blocks.label, size, run)
        before = _log_density(test, covariance)
        if self.choice is None:
            flat = z.values.reshape(len(z), -1)
            own = flat.T @ flat / len(z)
            return [_log_density(test, (1 - s) * own + s * covariance) - before for s in SHRINKAGES]
        law = build_field(z, self.choice.radius, self.choice.pooling).field
        gain = law.log_prob(test) - before
        coarser = []
        if self.coarser is not None:
            coarser = self.coarser.gains(law, block_means(self.coarser.blocks, z), self.coarser.blocks.means(test))
        return [*(gain + more for more in coarser), gain]


def _ladder(samples: Samples | TiledSamples, pooling: Pooling, search: Search) -> _Ladder | None:
    """Choose the settings of the law of block means at each scale; None if there are no blocks."""
    numbers = IN_TILES if isinstance(samples, TiledSamples) else MOST_NUMBERS
    blocks = coarsen(samples.graph, box_step(samples.graph, numbers))
    n_blocks = blocks.graph.n_vertices
    if n_blocks in (1, samples.n_vertices):
        return None
    means = block_means(blocks, samples)
    z, size = _scaled(blocks, means, pooling)
    if not (size > 0).all():
        return None
    if n_blocks * z.n_channels <= min(COARSEST, (len(z) - 1) // 2) and not pooling.one_law:
        return _Ladder(blocks, means, pooling, None, None)
    choice = select_field(z, pooling=Pooling(1.0) if pooling.one_law else None, search=search).choice
    return _Ladder(blocks, means, pooling, choice, _ladder(z, choice.pooling, search))


def _fold(
    samples: Samples | TiledSamples, build: Callable[[Any], GaussianField], ladder: _Ladder, held_out: np.ndarray
) -> Float[np.ndarray, "candidate held_out"]:
    """Change of the negative log-density of held-out samples by each correction, nats; infinite for a failed fit."""
    try:
        finer = build(samples.without(held_out))
        means = ladder.means
        return -np.stack(ladder.gains(finer, means.without(held_out), means.values[held_out], _run(samples)))
    except np.linalg.LinAlgError:  # the field is too ill-conditioned for a correction
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


def _excess(finer: GaussianField, ladder: _Ladder, run: Run) -> Float[np.ndarray, "2 sample"]:
    """Relative excess of the squares of each sample's block means over their expectation under the field.

    The first row is of means whitened by their covariance in the field, the second of plain means, where leading modes
    count most.
    """
    z, size = _scaled(ladder.blocks, ladder.means, ladder.pooling)
    flat, covariance = z.values.reshape(len(z), -1), finer.block_covariance(ladder.blocks.label, size, run)
    white = np.linalg.solve(covariance, flat.T)
    return (
        np.stack([(flat.T * white).mean(axis=0), (flat**2).mean(axis=1) * len(covariance) / np.trace(covariance)]) - 1
    )
