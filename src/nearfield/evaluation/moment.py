r"""Statistics of a set of fields, pooled over vertices, with the covariance of their errors from resampling.

Each is a mean over samples of a number that one sample has, or a smooth function of such means, so the bootstrap over
blocks of consecutive samples needs no replicates: with :math:`\psi_i` the influence of sample i and blocks of b,

.. math:: \operatorname{cov} = \frac{1}{n^2 b}\,\frac{n}{n-1}\sum_{s} B_s B_s^\top,\qquad B_s=\sum_{j<b}\psi_{s+j}

is its covariance in the limit of many replicates (circular blocks; Politis and Romano 1992).

The scales and leading modes that fields are measured by come from training data, in two folds: a training sample is
measured by the fold that it is not in, any other sample by both. Modes fit the samples that defined them too well
(their variance is biased upwards there), and this way no set of fields has that advantage.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, final

import numpy as np

from nearfield.evaluation.ruler import Ruler, windowed

if TYPE_CHECKING:
    from jaxtyping import Float

__all__ = ["N_MODES", "Moments", "Statistic", "Yardstick", "block_covariance", "statistics_of"]

N_MODES = 5
TAILS = (0.01, 0.001)
_MOST_SAMPLES = 500  # of a fold, for modes: their cost is quadratic
_ENTRIES = 4_000_000  # of one temporary array: 32 MB
_FEWEST_BEYOND, _FEWEST_FOR_TAILS = 10, 30  # values and samples that a quantile needs, or its error is no error
_MOST_VALUES = 20_000_000  # for quantiles


@final
@dataclass(frozen=True)
class Statistic:
    """Name of one statistic, and how two of its values are compared.

    Attributes
    ----------
    check : str
        The check it belongs to.
    label : str
        Of the statistic itself.
    kind : {"ratio", "difference"}
        Whether its values are positive and compared by their ratio.
    small : float
        A difference, or relative difference, that is of no consequence.
    """

    check: str
    label: str
    kind: Literal["ratio", "difference"]
    small: float


@final
@dataclass(frozen=True)
class Moments:
    """Values of the statistics of one set of fields, with the errors that resampling gives them.

    Attributes
    ----------
    value : (statistic,)
        In the order of `statistics_of`; those compared by their ratio are logarithms.
    error : (statistic, statistic)
        Covariance of the errors.
    n_samples : int
        How many fields there were.
    block : int
        How many consecutive ones were resampled together.
    """

    value: Float[np.ndarray, " statistic"]
    error: Float[np.ndarray, "statistic statistic"]
    n_samples: int
    block: int = 1

    @property
    def n_blocks(self) -> int:
        """How many blocks of samples the errors rest on."""
        return self.n_samples // self.block


def statistics_of(ruler: Ruler) -> tuple[Statistic, ...]:
    """Name the statistics that a graph allows, in the order of `Moments.value`.

    Examples
    --------
    >>> from nearfield.graph import DependencyGraph
    >>> [s.check for s in statistics_of(Ruler.of(DependencyGraph.chain(1)))][:2]
    ['mean', 'variance']
    """
    found = [Statistic("mean", "mean", "difference", 0.02), Statistic("variance", "total variance", "ratio", 0.02)]
    found += [Statistic("variance of block means", name, "ratio", 0.05) for name, _ in ruler.boxes]
    found += [Statistic("leading modes", f"the {N_MODES} leading modes together", "ratio", 0.05)]
    found += [Statistic("leading modes", "the leading mode", "ratio", 0.05)]
    if ruler.pairs is not None:
        unit = ruler.pairs.label.partition(", ")[2]
        labels = [
            f"correlation at {at:.0f} {unit}" if at >= 100 else f"correlation at {at:.3g} {unit}"
            for at in ruler.pairs.axis
        ]
        found += [Statistic("correlation against distance", label, "difference", 0.015) for label in labels]
    if len(ruler.edges):
        found.append(Statistic("roughness", "mean squared difference of neighbours", "ratio", 0.03))
    if len(ruler.borders):
        found.append(Statistic("roughness", "mean squared difference across borders of tiles", "ratio", 0.03))
    if ruler.lattice is not None:
        found += [Statistic("power spectrum", label, "ratio", 0.05) for label in ruler.bands()[1]]
    found += [
        Statistic("largest value", f"{end} value of a field", "difference", 0.05) for end in ("largest", "lowest")
    ]
    names = [f"{100 * p:g} % quantile" for tail in TAILS for p in (1 - tail, tail)]
    return (*found, *(Statistic("tails", name, "difference", 0.05) for name in names))


@final
@dataclass(frozen=True)
class Yardstick:
    """Scales and leading modes of one channel of the training data, in two folds.

    Attributes
    ----------
    center, scale : (fold, vertex)
        Mean and standard deviation at each vertex, in the unit of the data.
    modes : (fold, mode, vertex)
        Leading eigenvectors of the correlation of standardised values, each times a factor that gives it variance 1
        in its own fold. Zero where there are fewer modes.
    """

    center: Float[np.ndarray, "fold vertex"]
    scale: Float[np.ndarray, "fold vertex"]
    modes: Float[np.ndarray, "fold mode vertex"]

    @classmethod
    def of(cls, x: Float[np.ndarray, "sample vertex"]) -> Yardstick:
        """Take scales and modes of the first and of the second half of the samples.

        Halves, not every other sample, since samples that follow one another may be alike.

        Examples
        --------
        >>> x = np.random.default_rng(0).normal(size=(400, 3))
        >>> bool(np.allclose(Yardstick.of(x).scale, 1, atol=0.2))
        True
        """
        halves = x[: len(x) // 2], x[len(x) // 2 :]
        overall = x.std(axis=0)
        scales = [half.std(axis=0, ddof=1) if len(half) > 1 else overall for half in halves]
        # A vertex that rests throughout one half takes the scale of the other's; one that always does counts as 1.
        scale = np.array([np.where(s > 0, s, np.where(overall > 0, overall, 1.0)) for s in scales])
        center = np.array([half.mean(axis=0) for half in halves])
        return cls(
            center, scale, np.array([_modes((h - h.mean(axis=0)) / s) for h, s in zip(halves, scale, strict=True)])
        )

    def rounded(self) -> Yardstick:
        """Scales and modes in single precision, as a model file keeps them."""
        scale, modes = (a.astype(np.float32).astype(np.float64) for a in (self.scale, self.modes))
        return Yardstick(self.center, scale, modes)

    def measure(
        self, x: Float[np.ndarray, "sample vertex"], ruler: Ruler, *, own: bool = False, block: int = 1
    ) -> Moments:
        """Measure a set of fields.

        Examples
        --------
        >>> from nearfield.graph import DependencyGraph
        >>> x = np.random.default_rng(0).normal(size=(2, 400, 6))
        >>> stick, ruler = Yardstick.of(x[0]), Ruler.of(DependencyGraph.chain(6))
        >>> wide = stick.measure(1.5 * x[1], ruler).value - stick.measure(x[0], ruler, own=True).value
        >>> bool(np.isclose(np.exp(wide[1]), 2.25, rtol=0.2))  # the total variance
        True
        """
        # About the set's own mean: the mean's share of the variance is added again.
        mean = x.mean(axis=0)
        back = np.sqrt(len(x) / (len(x) - 1))
        raw = self._folded(lambda fold, part: self._means(x[part], mean, back, fold, ruler), len(x), own)
        value, influence = _compare(raw, ruler)
        tails, moved = self._tails(x, own)
        influence = np.concatenate([influence, moved], axis=1)
        return Moments(np.concatenate([value, tails]), block_covariance(influence, block), len(x), block)

    def mode_variances(
        self, x: Float[np.ndarray, "sample vertex"], *, own: bool = False, block: int = 1
    ) -> tuple[Float[np.ndarray, " mode"], Float[np.ndarray, " mode"]]:
        """Variance along each leading mode, and its standard error; arguments as those of `measure`.

        Examples
        --------
        >>> x = np.random.default_rng(0).normal(size=(2, 400, 6))
        >>> stick = Yardstick.of(x[0])
        >>> (wide, _), (data, _) = stick.mode_variances(2 * x[1]), stick.mode_variances(x[0], own=True)
        >>> bool((abs(wide / data - 4) < 1.5).all())
        True
        """
        mean, back = x.mean(axis=0), len(x) / (len(x) - 1)
        squares = self._folded(
            lambda fold, part: back * (((x[part] - mean) / self.scale[fold]) @ self.modes[fold].T) ** 2, len(x), own
        )
        value = squares.mean(axis=0)
        return value, np.sqrt(np.diag(block_covariance(squares - value, block)))

    def _folded(
        self, measured: Callable[[int, slice], Float[np.ndarray, "sample number"]], n: int, own: bool
    ) -> Float[np.ndarray, "sample number"]:
        """Measure every sample by the folds that it is not in."""
        first, second, whole = slice(0, n // 2), slice(n // 2, n), slice(0, n)
        if own:
            return np.concatenate([measured(1, first), measured(0, second)])
        both: np.ndarray = (measured(0, whole) + measured(1, whole)) / 2
        return both

    def _means(
        self,
        x: Float[np.ndarray, "sample vertex"],
        mean: Float[np.ndarray, " vertex"],
        back: float,
        fold: int,
        ruler: Ruler,
    ) -> Float[np.ndarray, "sample number"]:
        """Return the numbers of each sample whose means the statistics are made of, by one fold."""
        scale, parts = self.scale[fold], []
        # Tails stand about the yardstick's mean: a set's own mean blurs an edge the more, the fewer its samples.
        shift = (mean - self.center[fold]) / scale
        for part in _chunks(len(x), max(x.shape[1], 0 if ruler.pairs is None else len(ruler.pairs.group))):
            z = (x[part] - mean) / scale
            away = z + shift
            ends = away.max(axis=1), away.min(axis=1)
            parts.append(np.column_stack([away.mean(axis=1), *_numbers(z * back, self.modes[fold], ruler), *ends]))
        return np.concatenate(parts)

    def _tails(
        self, x: Float[np.ndarray, "sample vertex"], own: bool
    ) -> tuple[Float[np.ndarray, " tail"], Float[np.ndarray, "sample tail"]]:
        """Quantiles of standardised values, and how each sample moves them; NaN where too few values lie beyond."""
        n, n_vertices = x.shape
        seen = np.arange(0, n_vertices, max(1, -(-2 * n * n_vertices // _MOST_VALUES)))
        z = [(x[:, seen] - at[seen]) / scale[seen] for at, scale in zip(self.center, self.scale, strict=True)]
        values = np.concatenate([z[1][: n // 2], z[0][n // 2 :]]) if own else np.concatenate(z, axis=1)
        probability = np.array([p for tail in TAILS for p in (1 - tail, tail)])
        near = np.minimum(probability, 1 - probability) / 2
        quantile, low, high = np.quantile(values, [probability, probability - near, probability + near])
        # Bahadur: a sample moves a quantile by its share of values beyond, over the density there.
        per_share = np.maximum(high - low, 1e-12) / (2 * near)
        below = np.stack([(values <= q).mean(axis=1) for q in quantile], axis=1)
        beyond = n * len(seen) * np.minimum(probability, 1 - probability)
        quantile[(beyond < _FEWEST_BEYOND) | (n < _FEWEST_FOR_TAILS)] = np.nan
        return quantile, (below.mean(axis=0) - below) * per_share


def _modes(z: Float[np.ndarray, "sample vertex"]) -> Float[np.ndarray, "mode vertex"]:
    z = z[:: -(-len(z) // _MOST_SAMPLES)] if len(z) > _MOST_SAMPLES else z
    z = z - z.mean(axis=0)
    n = len(z)
    values, vectors = np.linalg.eigh(z @ z.T / max(n - 1, 1))
    found = np.zeros((N_MODES, z.shape[1]))
    leading = np.argsort(values)[::-1][: min(N_MODES, n - 1, z.shape[1])]
    leading = leading[values[leading] > 1e-9 * max(values.max(), 1e-300)]
    # Rows of V^T z have norm sqrt((n - 1) value); a unit row over sqrt(value) has projections of variance 1.
    found[: len(leading)] = (vectors[:, leading].T @ z) / (values[leading, None] * np.sqrt(max(n - 1, 1)))
    return found


def _numbers(
    z: Float[np.ndarray, "sample vertex"], modes: Float[np.ndarray, "mode vertex"], ruler: Ruler
) -> Iterator[Float[np.ndarray, "..."]]:
    """Numbers of each sample, a column each, in the order of `statistics_of` between the mean and the ends."""
    yield (z**2).mean(axis=1)
    for _, averages in ruler.boxes:
        yield ((averages @ z.T) ** 2).sum(axis=0)
    squares = (z @ modes.T) ** 2
    yield squares.mean(axis=1)
    yield squares[:, 0]
    if ruler.pairs is not None:
        group, count = ruler.pairs.group, np.bincount(ruler.pairs.group)
        product = z[:, ruler.pairs.first] * z[:, ruler.pairs.second]
        starts = np.flatnonzero(np.diff(group, prepend=-1))  # pairs come sorted by band
        yield np.add.reduceat(product, starts, axis=1) / count
    for edges in (ruler.edges, ruler.borders):
        if len(edges):
            yield ((z[:, edges[:, 0]] - z[:, edges[:, 1]]) ** 2).mean(axis=1)
    if ruler.lattice is not None:
        band, labels = ruler.bands()
        field, axes = windowed(z, ruler.lattice)
        power = np.abs(np.fft.fftn(field, axes=axes).reshape(len(z), -1)) ** 2 / z.shape[1]
        yield np.stack([power[:, band == k].mean(axis=1) for k in range(len(labels))], axis=1)


def _compare(
    raw: Float[np.ndarray, "sample number"], ruler: Ruler
) -> tuple[Float[np.ndarray, " statistic"], Float[np.ndarray, "sample statistic"]]:
    """Turn means into statistics, and the numbers of each sample into its influence on them."""
    names = statistics_of(ruler)[: raw.shape[1]]
    value, influence = raw.mean(axis=0), raw - raw.mean(axis=0)
    variance, moved = value[1], influence[:, 1].copy()
    for k, name in enumerate(names):
        if name.kind == "ratio":
            positive = value[k] > 1e-12
            influence[:, k] *= 1 / value[k] if positive else 0.0
            value[k] = np.log(value[k]) if positive else np.nan
        elif name.check == "correlation against distance" and variance > 1e-12:
            value[k] /= variance
            influence[:, k] = (influence[:, k] - value[k] * moved) / variance
    return value, influence


def block_covariance(
    influence: Float[np.ndarray, "sample statistic"], block: int
) -> Float[np.ndarray, "statistic statistic"]:
    """Covariance of means, from the influence of each sample and blocks of consecutive ones.

    Examples
    --------
    >>> block_covariance(np.array([[1.0], [-1.0]]), 1)
    array([[1.]])
    """
    n = len(influence)
    ahead = np.concatenate([np.zeros((1, influence.shape[1])), np.cumsum(np.tile(influence, (2, 1)), axis=0)])
    block = min(block, n)
    sums = ahead[block : block + n] - ahead[:n]
    covariance: np.ndarray = sums.T @ sums / (n * n * block) * n / max(n - 1, 1)
    return covariance


def _chunks(length: int, entries_each: int) -> Iterator[slice]:
    step = max(1, _ENTRIES // max(entries_each, 1))
    for start in range(0, length, step):
        yield slice(start, min(start + step, length))
