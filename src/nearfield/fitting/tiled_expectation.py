r"""Expectation and maximisation for samples with missing values that are read tile by tile.

As `nearfield.fitting.expectation` does in memory. Each tile gets the conditional means of its missing values, and their
conditional covariances with those nearby, from the box around it alone, and keeps them with the keeper; the fit of the
tiles then reads them in place of what is missing. Beyond few missing values of a sample in a box the covariances are
those of ``DRAWS`` draws of each sample, the same in all iterations, which adds at most a share 1 / ``DRAWS`` of what
is lost by the gaps.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, final

import numpy as np
import scipy.sparse as sp

from nearfield.fitting.closed_form import FieldFit
from nearfield.fitting.pooling import Pooling
from nearfield.fitting.tiled import Keeper, build_tiled
from nearfield.graph.tiling import Box, BoxTiling, Tiling
from nearfield.score.box_gaps import BoxGaps, Gap
from nearfield.score.tiled_factor import TiledFactor, TileReader, places_of
from nearfield.tiled_samples import TiledSamples, one_by_one

if TYPE_CHECKING:
    from jaxtyping import Float, Int

__all__ = ["TiledExpectation", "completed_tiles", "expectation_of_tiles"]

MOST = 20
"""Most iterations."""
GAIN = 1e-5
"""Change of the expected log-density, nats per observed value, below which they end."""
DRAWS = 8
"""Draws of each sample that give the covariances of many missing values."""
HALO, LEAST = 4, 16
"""Radii, and fewest cells, around a tile that its missing values are computed from at first."""
WIDER = (1, 2, 4)
"""Multiples of that, of which the first is taken that is wide enough."""
FAR = 0.02
"""Standard deviations by which means may move if all values outside are one standard deviation higher."""

TOO_FAR = 0.2
"""The same, beyond which there is a warning: the variance that they lack is the square of that."""


class TiledExpectation(NamedTuple):
    """Samples with a spread, and the gains of the iterations that led to it, nats per observed value.

    ``shift`` is the most by which a mean moves if all values outside the box that it was computed from do by 1, in
    standard deviations.
    """

    samples: TiledSamples
    gains: tuple[float, ...]
    shift: float

    def describe(self) -> str:
        """Say how local the means are."""
        return (
            "Missing values were computed from boxes around the tiles: if all values outside were one standard "
            f"deviation higher, their means would move by at most {self.shift:.2g} standard deviations."
        )


class _Law(NamedTuple):
    """Field of ``(x - center) / scale``, as tasks take it."""

    center: Float[np.ndarray, "vertex channel"]
    scale: Float[np.ndarray, "vertex channel"]
    factor: TiledFactor

    @classmethod
    def of(cls, fit: FieldFit) -> _Law:
        assert isinstance(fit.field.factor, TiledFactor)
        return cls(fit.center, fit.scale, fit.field.factor)


def expectation_of_tiles(
    samples: TiledSamples,
    radius: int,
    pooling: Pooling,
    keeper: Keeper,
    seed: int,
    start: FieldFit | None = None,
    most: int = MOST,
) -> TiledExpectation:
    """Iterate expectation and maximisation, from a fitted field or from the available cases.

    Stages are named after radius and iteration, and the gains are kept, so that a fit that was ended goes on.
    """
    run, name, told = samples.run or one_by_one, f"expected-{radius}", f"gains-{radius}"
    gains = keeper.read(0, told)["gains"].tolist() if 0 in keeper.done(told) else []

    def at(step: int) -> TiledSamples:
        return samples.completed(Completed.of(samples, keeper, f"{name}-{step}", 2 * radius))

    def maximised(step: int) -> FieldFit:
        if step == 0 and start is not None:
            return start
        return build_tiled(at(step - 1) if step else samples, radius, pooling, keeper, f"{name}-field-{step}")

    fit: FieldFit | None = None
    while not gains or (len(gains) < most and abs(gains[-1]) >= GAIN):
        step = len(gains)
        fit = fit or maximised(step)
        stage, law = f"{name}-{step}", _Law.of(fit)
        left = sorted(set(range(len(samples.tiling))) - keeper.done(stage))
        run(_complete_tile, left, samples, law, 2 * radius, keeper, stage, seed)
        following = maximised(step + 1)
        gains.append(_gain(at(step), law, _Law.of(following)))
        keeper.write(0, {"gains": np.array(gains)}, told)
        keeper.forget(f"{name}-field-{step}")
        keeper.forget(f"{name}-{step - 1}")
        fit = following
    keeper.forget(f"{name}-field-{len(gains)}")
    shift = _shift(samples.tiling, keeper, f"{name}-{len(gains) - 1}")
    if shift > TOO_FAR:
        warnings.warn(
            f"gaps are wider than the boxes that missing values are computed from: values outside may move their means "
            f"by {shift:.2g} standard deviations, and draws have too little variance; leave out the samples with the "
            "widest gaps",
            stacklevel=2,
        )
    return TiledExpectation(at(len(gains) - 1), tuple(gains), shift)


def completed_tiles(samples: TiledSamples, fit: FieldFit, keeper: Keeper, stage: str, seed: int) -> TiledSamples:
    """Return the samples with draws of what is missing, given what is observed."""
    left = sorted(set(range(len(samples.tiling))) - keeper.done(stage))
    (samples.run or one_by_one)(_complete_tile, left, samples, _Law.of(fit), None, keeper, stage, seed)
    return samples.completed(Completed.of(samples, keeper, stage))


@final
@dataclass(frozen=True)
class Completed:
    """Missing values that tasks kept, and their spread over so many cells if there is one."""

    tiling: BoxTiling
    keeper: TileReader
    stage: str
    shape: tuple[int, int]
    reach: int | None = None

    @classmethod
    def of(cls, samples: TiledSamples, keeper: TileReader, stage: str, reach: int | None = None) -> Completed:
        """Name the stage that has them."""
        assert isinstance(samples.tiling, BoxTiling)
        return cls(samples.tiling, keeper, stage, (samples.source.n_samples, samples.n_channels), reach)

    @property
    def joint(self) -> bool:
        """Whether there is a spread."""
        return self.reach is not None

    def fill(
        self, values: Float[np.ndarray, "sample vertex channel"], box: Any, numbers: Int[np.ndarray, " some"] | None
    ) -> sp.csr_array | None:
        """Fill in what is missing of samples in a box, and return its spread."""
        (n, channels), inside = self.shape, self.tiling.vertices(box)
        order, row_of, each, found = np.argsort(inside), np.full(n, -1), np.arange(channels), []
        row_of[slice(None) if numbers is None else numbers] = np.arange(len(values))
        for tile in self.tiling.tiles_in(box):
            arrays = self.keeper.read(tile, self.stage)
            own = places_of(self.tiling.vertices(self.tiling.box(tile)), inside, order)
            at, (sample, channel) = np.repeat(own, np.diff(arrays["indptr"])), np.divmod(arrays["entry"], channels)
            used = (at >= 0) & (row_of[sample] >= 0)
            values[row_of[sample[used]], at[used], channel[used]] = arrays["value"][used]
            if self.reach is not None:
                near = places_of(self.tiling.vertices(self.tiling.around(tile, self.reach)), inside, order)
                one = (own[:, None] * channels + each).reshape(-1)[arrays["one"]]
                other = (near[:, None] * channels + each).reshape(-1)[arrays["other"]]
                used = (one >= 0) & (other >= 0)
                found.append((arrays["spread"][used], one[used], other[used]))
        if self.reach is None:
            return None
        data, one, other = (np.concatenate(parts) for parts in zip(*found, strict=True))
        half = sp.csr_array((data, (one, other)), shape=(len(inside) * channels,) * 2)
        return sp.csr_array(half + half.T - sp.diags_array(half.diagonal()))


def _complete_tile(
    tile: int, samples: TiledSamples, law: _Law, reach: int | None, keeper: Keeper, stage: str, seed: int
) -> None:
    """Keep the conditional means of what is missing in a tile and their covariances, or draws without a reach."""
    halo = max(LEAST, HALO * law.factor.reach, reach or 0)
    for wider in WIDER:
        outer = samples.tiling.around(tile, wider * halo)
        arrays = _completed_in(outer, tile, samples, law, reach, seed)
        if float(arrays["shift"][0]) <= FAR:
            break
    keeper.write(tile, arrays, stage)


def _completed_in(
    outer: Box, tile: int, samples: TiledSamples, law: _Law, reach: int | None, seed: int
) -> dict[str, np.ndarray]:
    """Complete a tile by the values in a box around it."""
    tiling, channels = samples.tiling, samples.n_channels
    part, vertices = samples.on(outer), tiling.vertices(outer)
    within = np.repeat(tiling.within(tiling.box(tile), outer), channels)
    own = np.flatnonzero(within)
    x = part.values.reshape(len(part), -1)
    filled, shift = x[:, own].copy(), 0.0
    pairs = None if reach is None else _Pairs.of(tiling, tile, outer, reach, channels)
    if np.isnan(filled).any():
        center, scale = law.center[vertices].ravel(), law.scale[vertices].ravel()
        numbers = np.arange(len(part)) if samples.numbers is None else samples.numbers
        laws, steps = BoxGaps(law.factor.on(outer), (x - center) / scale), range(1, DRAWS + 1)
        number = np.full(x.shape[1], -1)
        number[own] = np.arange(len(own))
        for gap in laws.gaps(seed, numbers, steps if pairs is not None else range(1), within, exact=pairs is not None):
            mine = within[gap.missing]
            values = gap.mean if pairs is not None else gap.mean + gap.deviations[..., 0]
            entries = gap.missing[mine]
            filled[gap.samples[:, None], number[entries]] = values[mine].T * scale[entries] + center[entries]
            shift = max(shift, float(np.abs(gap.shift[mine]).max()))
            if pairs is not None:
                pairs.add(gap)
        if pairs is not None:
            pairs.total *= scale[pairs.one] * scale[pairs.other] / len(part)
    missing = np.isnan(x[:, own]).reshape(len(part), -1, channels).transpose(1, 0, 2)
    vertex, sample, channel = np.nonzero(missing)
    source = sample if samples.numbers is None else samples.numbers[sample]
    arrays = {
        "indptr": np.concatenate([[0], np.cumsum(missing.sum(axis=(1, 2)))]),
        "entry": (source * channels + channel).astype(np.int32),
        "value": filled.reshape(len(part), -1, channels).transpose(1, 0, 2)[vertex, sample, channel],
        "shift": np.array([shift]),
    }
    return arrays if pairs is None else arrays | pairs.kept()


class _Pairs:
    """Covariances summed over samples, of variables of a tile with others within reach: each pair once."""

    def __init__(self, places: tuple[np.ndarray, np.ndarray], one: np.ndarray, other: np.ndarray, n: int) -> None:
        self.places, self.one, self.other, self.n_variables = places, one, other, n
        self.total = np.zeros(len(one))

    @classmethod
    def of(cls, tiling: Tiling, tile: int, outer: Box, reach: int, channels: int) -> _Pairs:
        """Find the pairs; ``places`` are theirs in the tile and in the box within reach of it."""
        near, inside, channel = tiling.around(tile, reach), tiling.vertices(outer), np.arange(channels)
        own, vertices = np.flatnonzero(tiling.within(tiling.box(tile), near)), tiling.vertices(near)
        table = tiling.graph_of(near).neighborhood(reach)
        present = table.present[own] & (vertices[table.index[own]] >= vertices[own, None])
        row, other = np.nonzero(present)[0], table.index[own][present]
        row, other = (
            (part[:, None, None] * channels + step).repeat(channels, axis=axis).reshape(-1)
            for part, step, axis in ((row, channel[:, None], 2), (other, channel, 1))
        )
        at = (places_of(vertices, inside, np.argsort(inside))[:, None] * channels + channel).reshape(-1)
        mine = (own[:, None] * channels + channel).reshape(-1)
        once = (vertices[own][row // channels] < vertices[other // channels]) | (mine[row] <= other)
        row, other = row[once], other[once]
        return cls((row, other), at[mine[row]], at[other], len(inside) * channels)

    def add(self, gap: Gap) -> None:
        """Add the covariances of samples with one pattern of gaps."""
        place = np.full(self.n_variables, -1)
        place[gap.missing] = np.arange(len(gap.missing))
        one, other = place[self.one], place[self.other]
        used = np.flatnonzero((one >= 0) & (other >= 0))
        if gap.covariance is not None:
            self.total[used] += len(gap.samples) * gap.covariance[one[used], other[used]]
            return
        drawn = gap.deviations.reshape(len(gap.missing), -1)
        products = np.einsum("pd,pd->p", drawn[one[used]], drawn[other[used]])
        self.total[used] += products / gap.deviations.shape[2]

    def kept(self) -> dict[str, np.ndarray]:
        """Return the arrays of the pairs that are missing together in some sample."""
        used = np.flatnonzero(self.total)
        one, other = (place[used].astype(np.int32) for place in self.places)
        return {"one": one, "other": other, "spread": self.total[used]}


def _gain(samples: TiledSamples, before: _Law, after: _Law) -> float:
    """Gain of a maximisation in the expected log-density, nats per observed value."""
    assert samples.n_observed is not None
    change = sum(samples.over_tiles(_loss, before)) - sum(samples.over_tiles(_loss, after))
    return float(change * len(samples) / samples.n_observed.sum())


def _loss(tile: int, samples: TiledSamples, law: _Law) -> float:
    """Take the expected negative log-density of a sample by the rows of a tile, nats, less a constant."""
    tiling, outer = samples.tiling, samples.tiling.around(tile, law.factor.reach)
    vertices = tiling.vertices(outer)
    part = samples.on(outer)
    y = ((part.values - law.center[vertices]) / law.scale[vertices]).reshape(len(part), -1)
    rows = law.factor.own_rows(tile)
    squares = float(((rows @ y.T) ** 2).sum()) / len(part)
    if part.spread is not None:
        units = sp.diags_array(1 / law.scale[vertices].ravel())
        squares += float(((rows @ (units @ part.spread @ units)).multiply(rows)).sum())
    own = np.repeat(tiling.within(tiling.box(tile), outer), samples.n_channels)
    diagonal = rows[:, np.flatnonzero(own)].diagonal()
    return 0.5 * squares - float(np.log(diagonal).sum()) + float(np.log(law.scale[vertices].ravel()[own]).sum())


def _shift(tiling: Tiling, keeper: TileReader, stage: str) -> float:
    """Largest error of a conditional mean, standard deviations, if values beyond a halo are one off."""
    return max(float(keeper.read(tile, stage)["shift"][0]) for tile in range(len(tiling)))
