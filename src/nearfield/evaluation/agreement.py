"""Whether two sets of fields have the same moments: all statistics at once, with one stated rate of false alarms.

The differences of all statistics, each over its resampling error, are compared with the largest that chance alone
reaches over their family (the maximum of normals with the correlation of these errors). There are two families, each
with half of the false alarms: the leading modes, where a field too weak at large scale shows first, and all others. A
difference past that is real; it warns where it is of little consequence and fails beyond.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, final

import numpy as np
from scipy.special import ndtr, stdtrit

from nearfield.evaluation.check import Verdict
from nearfield.evaluation.moment import Moments, Statistic

if TYPE_CHECKING:
    from jaxtyping import Bool, Float

__all__ = ["FALSE_ALARM", "Agreement", "drift_names", "threshold"]

FALSE_ALARM = 0.02  # of all the checks of moments of a report together
_DRAWS = 20_000
_FEWEST = 4  # samples, for an error from resampling


@final
@dataclass(frozen=True)
class Agreement:
    """Moments of generated fields against those of data; and, where they are kept, of the training data.

    Attributes
    ----------
    statistics : tuple of Statistic
        Names of the moments.
    data, generated : Moments
        To compare.
    training : Moments or None
        Of the training data, where `data` are others.
    share : int
        Among how many families (channels) the false alarms are divided.
    """

    statistics: tuple[Statistic, ...]
    data: Moments
    generated: Moments
    training: Moments | None = None
    share: int = 1

    def difference(self) -> Float[np.ndarray, " statistic"]:
        """Return generated less data; of logarithms, for those compared by ratio."""
        difference: np.ndarray = self.generated.value - self.data.value
        return difference

    def allowed(self) -> Float[np.ndarray, " statistic"]:
        """Largest difference that chance alone reaches, or that is of no consequence."""
        return _allowed(self.data, self.generated, self.statistics, self.share)

    def like_training(self) -> Bool[np.ndarray, " statistic"]:
        """Whether the held-out data stand as far from the training data, and the generated fields do not."""
        if self.training is None:
            return np.zeros(len(self.statistics), dtype=bool)
        learned = np.abs(self.generated.value - self.training.value)
        drift = self.training.value - self.data.value
        near = learned <= _allowed(self.training, self.generated, self.statistics, self.share)
        drifts: np.ndarray = near & (drift * self.difference() > 0) & (np.abs(drift) >= 0.5 * np.abs(self.difference()))
        return drifts

    def checks(self) -> list[Verdict]:
        """One check for each group of statistics: that of the statistic which stands out most from chance."""
        names = list(dict.fromkeys(s.check for s in self.statistics))
        if min(self.data.n_samples, self.generated.n_samples) < _FEWEST:
            why = f"Resampling needs {_FEWEST} samples of each kind."
            return [Verdict.unknown(name, why) for name in names]
        with np.errstate(invalid="ignore"):
            difference, allowed, drifted = self.difference(), self.allowed(), self.like_training()
        return [self._check(name, difference, allowed, drifted) for name in names]

    def _check(
        self,
        name: str,
        difference: Float[np.ndarray, " statistic"],
        allowed: Float[np.ndarray, " statistic"],
        drifted: Bool[np.ndarray, " statistic"],
    ) -> Verdict:
        members = [
            k for k, s in enumerate(self.statistics) if s.check == name and np.isfinite(difference[k] + allowed[k])
        ]
        if not members:
            return Verdict.unknown(name, "The data or the generated fields are too few for this, or have no variance.")
        # A departure that the data themselves show says less than one that they do not.
        worst = max(
            members, key=lambda k: (not drifted[k] and abs(difference[k]) > allowed[k], _over(difference, allowed, k))
        )
        statistic, value, half = self.statistics[worst], float(difference[worst]), float(allowed[worst])
        limit = max(half, 2 * statistic.small)
        label = f"{statistic.label[0].upper()}{statistic.label[1:]}"
        chance = (
            f"the interval is what chance alone reaches over all statistics together, or "
            f"{100 * statistic.small:g} % of no consequence"
            if statistic.kind == "ratio"
            else f"the interval is what chance alone reaches over all statistics together, or {statistic.small:g}"
        )
        of = f", of {len(members)} the one that stands out most" if len(members) > 1 else ""
        if statistic.kind == "ratio":
            sentence = f"{label}, generated over data{of}; {chance}."
            found, ends, far = np.exp(value), np.exp([-half, half]), np.exp([-limit, limit])
        else:
            unit = "" if name.startswith("correlation") else ", in standard deviations"
            sentence = f"{label}, generated less data{unit}{of}; {chance}."
            found, ends, far = value, np.array([-half, half]), np.array([-limit, limit])
        check = Verdict.judge(name, float(found), tuple(map(float, ends)), tuple(map(float, far)), sentence)  # type: ignore[arg-type]
        if drifted[worst] and check.status != "pass":
            drift = f"{sentence} Your held-out data differ from the training data as much."
            return Verdict(name, "warn", check.value, check.low, check.high, drift)
        return check

    def table(self) -> list[dict[str, Any]]:
        """Every statistic in numbers, for the page: training, data and generated, with 95 % intervals."""
        columns = {"training": self.training, "data": self.data, "generated": self.generated}
        rows: list[dict[str, Any]] = []
        for k, s in enumerate(self.statistics):
            row: dict[str, Any] = {"check": s.check, "label": s.label}
            for column, moments in columns.items():
                row[column] = None if moments is None else _interval(moments, k, s.kind == "ratio")
            rows.append(row)
        return rows


def drift_names(checks: Sequence[Verdict]) -> list[str]:
    """Names of the checks in which held-out data are no nearer to the training data than the generated fields."""
    return [c.name for c in checks if c.sentence.endswith("differ from the training data as much.")]


def _over(difference: Float[np.ndarray, " s"], allowed: Float[np.ndarray, " s"], k: int) -> float:
    return float(abs(difference[k]) / max(allowed[k], 1e-300))


def _interval(moments: Moments, k: int, logarithm: bool) -> dict[str, float]:
    half = 1.96 * float(np.sqrt(max(moments.error[k, k], 0.0)))
    ends = np.array([moments.value[k], moments.value[k] - half, moments.value[k] + half])
    return dict(zip(("value", "low", "high"), np.exp(ends) if logarithm else ends, strict=True))


def _allowed(
    one: Moments, other: Moments, statistics: Sequence[Statistic], share: int
) -> Float[np.ndarray, " statistic"]:
    """Largest difference by chance or of no consequence; leading modes have half of the false alarms to themselves."""
    error, n = one.error + other.error, min(one.n_blocks, other.n_blocks)
    allowed = np.sqrt(np.maximum(np.diag(error), 0.0))
    leading = np.array([s.check == "leading modes" for s in statistics])
    for family in (leading, ~leading):
        allowed[family] *= threshold(error[np.ix_(family, family)], n, FALSE_ALARM / 2 / share)
    return np.maximum(allowed, [s.small for s in statistics])


def threshold(error: Float[np.ndarray, "s s"], n_samples: int, rate: float) -> float:
    """Return the standard errors that the largest difference passes with this probability, by chance alone.

    Widened from the normal to Student's law of the samples, since the errors are themselves estimates.

    Examples
    --------
    >>> bool(abs(threshold(np.eye(1), 10**6, 0.05) - 1.96) < 0.05)
    True
    """
    scale = np.sqrt(np.maximum(np.diag(error), 0.0))
    live = scale > 0
    if not live.any():
        return -float(stdtrit(max(n_samples - 1, 1), rate / 2))
    correlation = error[np.ix_(live, live)] / np.outer(scale[live], scale[live])
    values, vectors = np.linalg.eigh(correlation)
    draws = np.random.default_rng(0).normal(size=(_DRAWS, len(values))) * np.sqrt(np.maximum(values, 0.0))
    reach = float(np.quantile(np.abs(draws @ vectors.T).max(axis=1), 1 - rate))
    return -float(stdtrit(max(n_samples - 1, 1), ndtr(-reach)))
