r"""Calibration: observed values are hidden, and stand beside the law that the model has for them given the others.

Values are hidden as the data lack them: in each sample, what another sample lacks; of samples without gaps, points at
random and one block. For a law F and the value y, with members :math:`x_1 \le \dots \le x_m`,

.. math:: \operatorname{CRPS}(F, y) = E|X - y| - \tfrac12 E|X - X'| \approx \frac2m \sum_k (x_k - y)(1_{y < x_k} - l_k)

with levels :math:`l_k` of (k - 1/2) / m for quantiles at these levels and (k - 1) / (m - 1) for draws, where it has no
bias (Gneiting and Raftery 2007). If the laws are right, the ranks of the values are uniform, the CRPS is
:math:`\tfrac12 E|X - X'|` on average, and no observed value tells the rank: uniform ranks alone do not show a model
that ignores the observed values.

All statistics are compared with what chance alone reaches over them together, by resampling samples.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, final

import numpy as np

from nearfield.evaluation.agreement import threshold
from nearfield.evaluation.check import Verdict
from nearfield.evaluation.moment import block_covariance
from nearfield.evaluation.training import block_length
from nearfield.evaluation.trial import FEWEST, Trial

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

__all__ = ["FALSE_ALARM", "Calibration", "crps", "levels", "rank"]

FALSE_ALARM = 0.01  # of all the checks of calibration of a report together
_BINS = 10
_CLIMATE = 400  # samples whose values at a vertex are its own law


def crps(
    members: Float[np.ndarray, "member value"],
    value: Float[np.ndarray, " value"],
    level: Float[np.ndarray, "member value"],
) -> Float[np.ndarray, " value"]:
    """Continuous ranked probability score of ascending members at their levels, in the units of the values.

    Examples
    --------
    >>> crps(np.array([[0.0], [2.0]]), np.array([1.0]), np.array([[0.0], [1.0]]))  # mean distance 1, less half of 2
    array([0.])
    """
    score: np.ndarray = 2 * ((members - value) * ((value < members) - level)).mean(axis=0)
    return score


def rank(
    members: Float[np.ndarray, "member value"],
    value: Float[np.ndarray, " value"],
    below: Float[np.ndarray, "member value"],
    rng: np.random.Generator,
) -> Float[np.ndarray, " value"]:
    """Share of the law below each value, from that below each ascending member: uniform if the law is right.

    It is at random between two members, and among equal ones.

    Examples
    --------
    >>> members = np.arange(9.0)[:, None]
    >>> found = rank(members, np.array([3.5]), (members + 1) / 10, np.random.default_rng(0))
    >>> bool(0.4 <= found[0] <= 0.5)
    True
    """
    edge = np.pad(below, ((1, 1), (0, 0)), constant_values=((0.0, 1.0), (0.0, 0.0)))
    first, last = (members < value).sum(axis=0), (members <= value).sum(axis=0) + 1
    low, high = (np.take_along_axis(edge, at[None], axis=0)[0] for at in (first, last))
    share: np.ndarray = low + rng.random(len(value)) * (high - low)
    return share


def levels(n_members: int, *, drawn: bool) -> tuple[Float[np.ndarray, " member"], Float[np.ndarray, " member"]]:
    """Shares of the law below members, of draws on average; and their levels in the CRPS.

    Examples
    --------
    >>> levels(2, drawn=False)
    (array([0.25, 0.75]), array([0.25, 0.75]))
    >>> levels(3, drawn=True)
    (array([0.25, 0.5 , 0.75]), array([0. , 0.5, 1. ]))
    """
    k = np.arange(1, n_members + 1)
    if drawn:
        return k / (n_members + 1), (k - 1) / (n_members - 1)
    return (k - 0.5) / n_members, (k - 0.5) / n_members


@final
@dataclass(frozen=True, eq=False)
class Calibration:
    """Ranks and scores of hidden values.

    Attributes
    ----------
    sample, channel : (value,)
        Of each value.
    rank : (value,)
        Share of the law below it.
    crps, expected, climate : (value,)
        Score, the mean that the law gives itself, and the score of the other samples' values at the vertex.
    told : (value,)
        Guess of it from the nearest observed value, NaN where that tells a nearer hidden one or there is none.
    scale : (channel,)
        Standard deviation of the data.
    n_samples, n_members, block : int
        Samples; members of a law; consecutive samples resampled together.
    seen : bool
        Whether the model was fitted on these samples.
    """

    sample: Int[np.ndarray, " value"]
    channel: Int[np.ndarray, " value"]
    rank: Float[np.ndarray, " value"]
    crps: Float[np.ndarray, " value"]
    expected: Float[np.ndarray, " value"]
    climate: Float[np.ndarray, " value"]
    told: Float[np.ndarray, " value"]
    scale: Float[np.ndarray, " channel"]
    n_samples: int
    n_members: int
    block: int
    seen: bool

    @classmethod
    def of(
        cls,
        trial: Trial,
        members: Float[np.ndarray, "member value"],
        drawn: Bool[np.ndarray, " value"],
        told: Float[np.ndarray, " value"],
        data: Float[np.ndarray, "sample vertex channel"],
        *,
        ordered: bool,
        seed: int,
    ) -> Calibration:
        """Compare hidden values with ascending members of their laws, which are drawn or quantiles."""
        value = trial.x[tuple(trial.place)]
        both = zip(*(levels(len(members), drawn=d) for d in (True, False)), strict=True)
        below, level = (np.where(drawn, one[:, None], other[:, None]) for one, other in both)
        return cls(
            sample=trial.place[0],
            channel=trial.place[2],
            rank=rank(members, value, below, np.random.default_rng([seed, 2])),
            crps=crps(members, value, level),
            expected=(members * (2 * level - 1)).mean(axis=0),
            climate=_climate(trial, data[:: -(-len(data) // _CLIMATE)]),
            told=told,
            scale=np.nanstd(data, axis=(0, 1)),
            n_samples=len(trial.x),
            n_members=len(members),
            block=block_length(len(trial.x), ordered),
            seen=trial.seen,
        )

    def checks(self) -> list[Verdict]:
        """One check for each statistic, that of the histogram by its bin that stands out most."""
        n = len(np.unique(self.sample))
        if n < FEWEST:
            return [Verdict.unknown("calibration", f"This needs {FEWEST} samples with hidden values, there are {n}.")]
        value, error = self._statistics()
        reach = threshold(error, self.n_samples // self.block, FALSE_ALARM)
        half = reach * np.sqrt(np.maximum(np.diag(error), 0.0))
        bins = half[-_BINS:]  # a bin that few values reach by chance has too small an error
        half[-_BINS:] = np.maximum(bins, np.sqrt(np.mean(bins**2)))
        return [self._check(name, value, half) for name in dict.fromkeys(s.check for s in _STATISTICS)]

    def _check(self, name: str, value: Float[np.ndarray, " s"], chance: Float[np.ndarray, " s"]) -> Verdict:
        small = np.array([s.small for s in _STATISTICS])
        allowed, away = np.maximum(chance, small), value - [s.right for s in _STATISTICS]
        # Residuals of data that were fitted are too small: a law that looks too wide there is none.
        open_end = np.array([s.wide if self.seen else 0 for s in _STATISTICS])
        over = np.where(np.sign(away) == open_end, 0.0, np.abs(away) / allowed)
        worst = max((k for k, s in enumerate(_STATISTICS) if s.check == name), key=lambda k: over[k])
        s, limit = _STATISTICS[worst], np.maximum(chance, 2 * small)[worst]

        def ends(half: float) -> tuple[float | None, float | None]:
            wide = open_end[worst]
            return None if wide < 0 else s.right - half, None if wide > 0 else s.right + half

        told = f"{self.n_samples} samples{', which the model has seen' if self.seen else ''}, {self.n_members} members"
        sentence = f"{s.sentence} ({len(self.rank)} values of {told}); the interval is what chance alone reaches."
        return Verdict.judge(name, float(value[worst]), ends(float(allowed[worst])), ends(float(limit)), sentence)

    def _statistics(self) -> tuple[Float[np.ndarray, " s"], Float[np.ndarray, "s s"]]:
        """Statistics in the order of `_STATISTICS`, and the covariance of their errors."""
        away, scale = np.abs(self.rank - 0.5), self.scale[self.channel]
        known = ~np.isnan(self.told)
        guess = np.where(known, self.told, 0.0)
        told = np.sqrt(12) * (self.rank - 0.5) * guess / (np.sqrt(np.mean(guess**2) * known.mean()) or 1.0)
        bins = np.arange(_BINS) == np.minimum((self.rank * _BINS).astype(int), _BINS - 1)[:, None]
        columns = [away <= 0.25, away <= 0.45, self.rank, self.crps / scale, told, *bins.T, self.expected / scale]
        sums = np.array([np.bincount(self.sample, column, self.n_samples) for column in columns]).T
        count = np.bincount(self.sample, minlength=self.n_samples)
        mean = sums.sum(axis=0) / count.sum()
        influence = (sums - mean * count[:, None]) / count.mean()
        expected, moved = mean[-1], influence[:, -1]
        mean[3] /= expected
        influence[:, 3] = (influence[:, 3] - mean[3] * moved) / expected
        return mean[:-1], block_covariance(influence[:, :-1], self.block)

    def table(self) -> dict[str, Any]:
        """Everything in numbers, for the page: the CRPS of each channel in its unit."""
        rows = []
        for c in range(len(self.scale)):
            mine = self.channel == c
            names = ("crps", "expected", "climate")
            means = {name: float(getattr(self, name)[mine].mean()) if mine.any() else None for name in names}
            rows.append({"values": int(mine.sum())} | means)
        coverage = {f"covered_{p}": float(np.mean(np.abs(self.rank - 0.5) <= p / 200)) for p in (50, 90)}
        shares = np.histogram(self.rank, _BINS, (0, 1))[0] / max(len(self.rank), 1)
        sizes = {"samples": self.n_samples, "values": len(self.rank), "members": self.n_members, "seen": self.seen}
        return sizes | coverage | {"ranks": shares, "channels": rows}


class _Statistic(NamedTuple):
    check: str
    right: float  # its value if the laws are right
    small: float  # a difference of no consequence
    wide: int  # sign of the difference of a law that is too wide
    sentence: str


_STATISTICS = (
    _Statistic(
        "coverage of 50 % intervals", 0.5, 0.03, 1, "Share of hidden values inside the middle half of their law"
    ),
    _Statistic(
        "coverage of 90 % intervals", 0.9, 0.02, 1, "Share of hidden values inside the 90 % interval of their law"
    ),
    _Statistic(
        "rank histogram", 0.5, 0.02, 0, "Mean share of the law below the hidden value: over .5 the laws are low"
    ),
    _Statistic("CRPS", 1.0, 0.05, -1, "CRPS of hidden values over the mean that the laws expect of themselves"),
    _Statistic(
        "use of neighbours",
        0.0,
        0.05,
        0,
        "Correlation of the rank with what an observed value tells of the nearest hidden one",
    ),
    *(
        _Statistic(
            "rank histogram", 1 / _BINS, 0.02, 1 if 2 <= k < _BINS - 2 else -1, f"Share of ranks in bin {k + 1} of 10"
        )
        for k in range(_BINS)
    ),
)


def _climate(trial: Trial, data: Float[np.ndarray, "sample vertex channel"]) -> Float[np.ndarray, " value"]:
    """CRPS of the values that other samples have at the vertex; NaN where there are fewer than 2."""
    found = np.full(trial.place.shape[1], np.nan)
    for k, (case, vertex, channel) in enumerate(trial.place.T):
        value = trial.x[case, vertex, channel]
        others = np.sort(data[:, vertex, channel])
        others = others[~np.isnan(others)]
        same = np.searchsorted(others, value)
        others = np.delete(others, same) if same < len(others) and others[same] == value else others
        if len(others) > 1:
            level = levels(len(others), drawn=True)[1]
            found[k] = crps(others[:, None], np.array([value]), level[:, None])[0]
    return found
