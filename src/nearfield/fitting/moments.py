"""Comparison of the second moments of draws with those of the data, over the whole graph and at every scale.

A field is fitted by conditional laws, and no mean loss measures whether they are consistent. After the choice its draws
are compared with the data: the total variance, that of single vertices, of block means at each scale and along the five
leading modes of the data. A difference beyond sampling error is a warning of the fit.

The modes of a sample fit it better than its law. The size of this effect is measured on samples drawn from the field,
as many as the data.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import scipy.sparse as sp

from nearfield.graph import DependencyGraph
from nearfield.graph.coarsening import STEP, averages, box_step, coarsen
from nearfield.noise import Stream
from nearfield.samples import Samples, standard_error
from nearfield.score.field import GaussianField

if TYPE_CHECKING:
    from jaxtyping import Float, Int

__all__ = [
    "FEWEST",
    "SAMPLES",
    "Moment",
    "MomentWarning",
    "moment_warning",
    "moments",
    "moments_of_blocks",
    "moments_of_means",
    "ratio_of",
    "spread_of_vertices",
]

ERRORS = 4.0
"""Standard errors beyond which a ratio is off; a dozen ratios raise a false alarm in less than one fit of a hundred."""
LEAST = 0.05
"""A ratio off by less is not reported, however many samples there are."""
MODES = 5
LEAST_SINGLE = 0.15
"""The same for the variances of single vertices, root mean square over them."""
REPLICATES = 24
"""Subsets of the draws as large as the data."""
SAMPLES = 400
"""Most samples of the data in the comparison, and fewest draws."""
NUMBERS = 2e7
"""Numbers in the draws (160 MiB), unless two draws for each sample are more."""
FEWEST = 8
PART = 1 << 20
"""Numbers that are squared or moved at once (8 MiB)."""


class MomentWarning(UserWarning):
    """Draws have other second moments than the data."""


class Moment(NamedTuple):
    """Ratio of a second moment of draws to that of the data, and its standard error.

    For single vertices it is 1 plus the root mean square of the logarithms of the ratios in excess of sampling error.
    """

    name: str
    ratio: float
    error: float
    least: float = LEAST

    @property
    def off(self) -> bool:
        """Whether sampling does not explain the difference."""
        if not 0.0 < self.ratio < math.inf:
            return True
        return not abs(math.log(self.ratio)) <= max(math.log1p(self.least), ERRORS * self.error / self.ratio)


def moments(samples: Samples, field: GaussianField, seed: int = 0) -> tuple[Moment, ...]:
    """Compare the second moments of draws with those of the standardised samples; none of fewer than eight."""
    if len(samples) < FEWEST:
        return ()
    size = samples.n_vertices * samples.n_channels
    most = max(FEWEST, min(SAMPLES, int(NUMBERS / size / 2)))
    y = samples.values[:: -(-len(samples) // most)]
    drawn = field.sample(max(2 * len(y), min(SAMPLES, int(NUMBERS / size))), seed=seed, stream=Stream.CHECK)
    ratios = [
        ratio_of(name, _each(take, y), _each(take, drawn), samples.ordered) for name, take in _scales(samples.graph)
    ]
    sets = _halves(len(drawn), len(y), seed)
    return (*ratios, _single(y, drawn, sets, ratios[0].error), *_modes(y, drawn, sets, samples.ordered))


def _halves(n_drawn: int, n: int, seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Numbers of the draws, each time divided into as many as the data and the rest."""
    rng = np.random.default_rng(seed)
    each = [rng.permutation(n_drawn) for _ in range(REPLICATES)]
    return [(half[:n], half[n:]) for half in each]


def spread_of_vertices(
    y: Float[np.ndarray, "sample vertex channel"],
    drawn: Float[np.ndarray, "draw vertex channel"],
    error: float,
    seed: int,
) -> Moment:
    """Compare the variances of single vertices; ``error`` is that of the ratio of the total variance."""
    return _single(y, drawn, _halves(len(drawn), len(y), seed), error)


def moments_of_means(patch: Samples, drawn: Float[np.ndarray, "draw vertex channel"]) -> list[Moment]:
    """Compare means over blocks of each width in patches of a graph."""
    scales = list(_scales(patch.graph))[1:]
    return [
        ratio_of(f"{name} in patches", _each(take, patch.values), _each(take, drawn), patch.ordered)
        for name, take in scales
    ]


def moments_of_blocks(
    means: Samples, drawn: Float[np.ndarray, "draw block channel"], width: str, seed: int
) -> list[Moment]:
    """Compare means over blocks of that width, means over these, and their leading modes."""
    y, found = means.values, []
    for name, take in _scales(means.graph):
        named = f"that of means over {width}" if name == "variance" else f"{name} of these means"
        found.append(ratio_of(named, _each(take, y), _each(take, drawn), means.ordered))
    return found + _modes(y, drawn, _halves(len(drawn), len(y), seed), means.ordered)


def moment_warning(found: tuple[Moment, ...]) -> str | None:
    """Return the text of a warning that names the moments that are off, or None."""
    off = [moment for moment in found if moment.off]
    if not off:
        return None
    listed = ", ".join(f"{moment.name} {moment.ratio:.2f} +- {moment.error:.2f}" for moment in off)
    return (
        f"draws differ from the data in their second moments (ratios to the data: {listed}); use another radius, other "
        "pooling or more samples, or subtract a mean that varies from place to place"
    )


Squares = Callable[[np.ndarray], np.ndarray]
"""Mean square of each sample."""


def _in_parts(x: Float[np.ndarray, "sample vertex channel"]) -> Iterator[Float[np.ndarray, "part vertex channel"]]:
    """Yield some samples at a time, for what needs copies of them."""
    step = max(1, PART // max(1, x[0].size))
    return (x[start : start + step] for start in range(0, len(x), step))


def _each(take: Squares, x: Float[np.ndarray, "sample vertex channel"]) -> Float[np.ndarray, " sample"]:
    """Mean squares of all samples, some at a time."""
    return np.concatenate([take(part) for part in _in_parts(x)])


def _scales(graph: DependencyGraph) -> Iterator[tuple[str, Squares]]:
    """Mean squares of values, and of block means at each larger scale."""
    yield "variance", lambda x: (x**2).mean(axis=(1, 2))
    label, step, cells = np.arange(graph.n_vertices), box_step(graph), 1
    while True:
        blocks = coarsen(graph, step)
        if blocks.graph.n_vertices in (1, graph.n_vertices):
            return
        label, graph, cells, step = blocks.label[label], blocks.graph, cells * step, STEP
        yield f"that of means over {cells} cells a side", partial(_block_squares, averages(label))


def _block_squares(rows: sp.csr_array, x: Float[np.ndarray, "sample vertex channel"]) -> np.ndarray:
    means = rows @ np.moveaxis(x, 1, 0).reshape(x.shape[1], -1)
    squares: np.ndarray = (means.reshape(-1, len(x), x.shape[2]) ** 2).mean(axis=(0, 2))
    return squares


def ratio_of(name: str, data: np.ndarray, drawn: np.ndarray, ordered: bool) -> Moment:
    """Ratio of the means of squares of draws and of data, whose unit may be any."""
    errors = standard_error(data, ordered) / data.mean(), standard_error(drawn) / drawn.mean()
    ratio = float(drawn.mean() / data.mean())
    return Moment(name, ratio, ratio * math.hypot(*errors))


def _single(
    y: Float[np.ndarray, "sample vertex channel"],
    drawn: Float[np.ndarray, "draw vertex channel"],
    sets: list[tuple[np.ndarray, np.ndarray]],
    error: float,
) -> Moment:
    """Spread of the ratios over the vertices, beyond that between subsets of the draws.

    For data with longer tails than normal ones, or correlated in time, sampling explains more, as much as the error of
    their total variance, or of their own variances, is larger.
    """

    def spread(one: np.ndarray, other: np.ndarray) -> float:
        logs = np.log(one / other)
        return float(((logs - logs.mean()) ** 2).mean())

    squares = y**2
    tails = float((squares.var(axis=0) / (2 * squares.mean(axis=0) ** 2)).mean())
    total, of_draw = np.zeros(drawn.shape[1:]), []
    for part in _in_parts(drawn):
        square = part**2
        total += square.sum(axis=0)
        of_draw.append(square.mean(axis=(1, 2)))
    size, expected, each = len(drawn), np.empty(len(sets)), np.concatenate(of_draw)
    for k, (one, rest) in enumerate(sets):
        own = (drawn[one] ** 2).sum(axis=0)
        expected[k] = spread(own / len(one), (total - own) / len(rest))
    plain = np.mean([each[one].std() / each.mean() for one, _ in sets]) / math.sqrt(len(y))
    more = max(1.0, tails, (error / plain) ** 2)
    beyond = spread(squares.mean(axis=0), total / size) - more * expected.mean()
    rms = math.sqrt(max(beyond, 0.0))
    return Moment(
        "that of single vertices",
        1 + rms,
        rms * more * float(expected.std(ddof=1)) / beyond if rms else 0.0,
        LEAST_SINGLE,
    )


def _modes(
    y: Float[np.ndarray, "sample vertex channel"],
    drawn: Float[np.ndarray, "draw vertex channel"],
    sets: list[tuple[np.ndarray, np.ndarray]],
    ordered: bool,
) -> list[Moment]:
    """Variance along the leading modes of the data.

    The modes of a sample have more variance in it than in its law. A field is right if its variance lies between that
    of draws along the modes of other draws, as many as the data, and that of the data, to which it was fitted.
    """
    flat, free = y.reshape(len(y), -1), drawn.reshape(len(drawn), -1)
    expected = np.log([_along(free[one], free, rest)[0] for one, rest in sets])
    ratios, squares = _along(flat, free, np.arange(len(free)))
    longer = [standard_error(part, ordered) / part.mean() / math.sqrt(2 / len(part)) for part in squares.T]
    more = max(1.0, float(np.mean(longer)))
    errors = more * expected.std(axis=0, ddof=1)
    together = more * float(expected.mean(axis=1).std(ddof=1))
    named = [
        *zip((f"mode {k + 1}" for k in range(len(errors))), np.log(ratios), expected.mean(axis=0), errors, strict=True)
    ]
    named.append((f"the {len(errors)} leading modes together", np.log(ratios).mean(), expected.mean(), together))
    found = []
    for name, log, own, error in named:
        ratio = math.exp(log - min(max(log, own), max(own, 0.0)))
        found.append(Moment(name, ratio, ratio * float(error)))
    return found


def _along(
    data: Float[np.ndarray, "sample variable"],
    drawn: Float[np.ndarray, "draw variable"],
    rows: Int[np.ndarray, " row"],
) -> tuple[Float[np.ndarray, " mode"], Float[np.ndarray, "sample mode"]]:
    """Variance of some draws over that of data along the data's leading modes, and squares of the data along them."""
    values, vectors = np.linalg.eigh(data @ data.T)
    lead = slice(-1, -1 - min(MODES, len(values) - 1, data.shape[1]), -1)
    modes = data.T @ vectors[:, lead] / np.sqrt(values[lead])
    squares = (data @ modes) ** 2
    return ((drawn @ modes)[rows] ** 2).mean(axis=0) / squares.mean(axis=0), squares
