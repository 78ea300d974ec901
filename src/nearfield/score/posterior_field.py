r"""Law of a Gaussian field given evidence: exact entries, and sums of entries, exact or with errors.

With precision :math:`Q = P + \rho I + W^\top W` of the entries not known, W the sums over their errors, draws are

.. math:: x = d + Q^{-1} (W^\top (y - W d) + b), \qquad b \sim N(0, Q),

and sums that are exact or wide follow by Matheron's rule, :math:`x + V L^\top (L V L^\top + R)^{-1} (y - L x - e)`,
:math:`V = Q^{-1}`. No covariance is factorised.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, final

import numpy as np
import scipy.sparse as sp
from scipy.linalg import pinvh

from nearfield.noise import Stream, normals
from nearfield.score.conditional import ConditionalField
from nearfield.score.evidence import Evidence
from nearfield.score.solver import LowRank

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jaxtyping import Float

    from nearfield.score.field import GaussianField

__all__ = ["Numbers", "PosteriorField", "Shocks", "natural_precision"]

WIDE = 32
"""Most entries of a sum that is added to the sparse system."""
_TOGETHER = 256
"""Entries whose variances are solved for at once."""
_PARTS = 8
"""Kinds of numbers of one draw."""


class Shocks(NamedTuple):
    """Standard normal numbers behind draws; zeros give the mean. ``free`` are draws of the field."""

    free: Float[np.ndarray, "sample entry"]
    white: Float[np.ndarray, "sample entry"]
    noise: Float[np.ndarray, "sample entry"]
    rows: Float[np.ndarray, "sample row"]
    curves: Float[np.ndarray, "sample row"]


class Numbers(NamedTuple):
    """Normal numbers of draws: functions of the seed, the member (its case and its number) and the turn."""

    field: GaussianField
    seed: int
    case: int
    members: Sequence[int]

    def normals(self, turn: int, part: int, n_vertices: int, n_channels: int = 1) -> Float[np.ndarray, "sample entry"]:
        """Draw standard normal numbers of one kind."""
        if n_vertices == 0:
            return np.zeros((len(self.members), 0))
        step, members = turn * _PARTS + part, [(self.case << 32) + m for m in self.members]
        drawn = normals(self.seed, Stream.CONDITIONAL, members, step, n_vertices, n_channels)
        return drawn.reshape(len(drawn), -1)

    def shocks(self, turn: int, evidence: Evidence) -> Shocks:
        """Draw the numbers of a turn, in one array since each costs as much as a hundred numbers."""
        n, field, first = len(self.members), self.field, (self.case << 32) + self.members[0]
        stream, size = Stream.CONDITIONAL, evidence.known.size
        free = field.sample(n, seed=self.seed, first_member=first, step=turn * _PARTS, stream=stream).reshape(n, -1)
        n_rows, n_curves = len(evidence.target), 0 if evidence.curves is None else len(evidence.curves.target)
        ends = np.cumsum([size, size, n_rows])
        vertices = -(-(int(ends[-1]) + n_curves) // field.n_channels)
        each = np.split(self.normals(turn, 1, vertices, field.n_channels), ends, axis=1)
        return Shocks(free, each[0], each[1], each[2], each[3][:, :n_curves])


def natural_precision(field: GaussianField) -> tuple[sp.csc_array, LowRank | None]:
    """Precision of a field and its correction, entries in the order of the vertices."""
    place = np.argsort(field._place)
    precision, correction = field.precision()[place][:, place], field._correction
    return sp.csc_array(precision), correction and LowRank(sp.csr_array(correction.rows[:, place]), correction.inner)


@final
class PosteriorField:
    """Law of a field of precision ``P + ridge I`` around any center, given evidence; one factorisation for all draws.

    Entries with a likelihood of their own are held at given values.
    """

    def __init__(self, field: GaussianField, evidence: Evidence, ridge: float = 0.0) -> None:
        self._evidence, self._ridge, self._shape = evidence, ridge, (-1, field.n_vertices, field.n_channels)
        wide = evidence.exact | (np.diff(evidence.rows.indptr) > WIDE)
        self._wide, self._narrow = np.flatnonzero(wide), np.flatnonzero(~wide)
        self._rows = evidence.rows[self._narrow]
        held = evidence.held.reshape(self._shape[1:])
        self._law = ConditionalField(field, held, self._rows if len(self._narrow) else None, ridge)
        wide_rows = evidence.rows[self._wide].toarray()
        self._ties = self._tie(wide_rows[None], evidence.exact[self._wide]) if len(wide_rows) else None

    def _solve(self, right: np.ndarray) -> np.ndarray:
        return self._law.solve(right.reshape(self._shape)).reshape(right.shape)

    def _tie(self, rows: Float[np.ndarray, "sample row entry"], exact: np.ndarray) -> _Ties:
        """Prepare rows for Matheron's rule; redundant exact rows are allowed."""
        free = np.where(self._evidence.held, 0.0, rows)
        spread = self._solve(free.reshape(-1, free.shape[-1])).reshape(free.shape)
        gram = spread @ free.transpose(0, 2, 1) + np.diag(1.0 - exact)
        inverse = np.stack([pinvh(each) for each in gram]) if exact.any() else np.linalg.inv(gram)
        return _Ties(rows, spread, inverse, 1.0 - exact)

    def draw(
        self, center: Float[np.ndarray, "sample entry"], held: Float[np.ndarray, "#sample entry"], shocks: Shocks
    ) -> Float[np.ndarray, "sample entry"]:
        """Draw fields around centers, with these values of the held entries."""
        evidence = self._evidence
        x = evidence.around(center, held)
        right = self._law.times((shocks.free - (x - center)).reshape(self._shape)).reshape(x.shape)
        right += np.sqrt(self._ridge) * shocks.white
        if len(self._narrow):
            errors = evidence.target[self._narrow] + shocks.rows[:, self._narrow] - (self._rows @ x.T).T
            right += (self._rows.T @ errors.T).T
        around = x
        x = x + self._solve(right)
        if self._ties is not None:
            x = self._ties.pull(x, evidence.target[self._wide], shocks.rows[:, self._wide])
        if evidence.curves is not None:
            value, slope = evidence.curves.function(around)
            target = evidence.curves.target - value + (slope @ around[:, :, None])[:, :, 0]
            x = self._tie(slope, evidence.curves.exact).pull(x, target, shocks.curves)
        return x

    def sample(
        self, n_samples: int, *, seed: int, first_member: int = 0, cases: slice = slice(None)
    ) -> Float[np.ndarray, "sample case entry"]:
        """Draw fields of mean 0 given linear evidence, case by case."""
        evidence, field, members = self._evidence, self._law._field, range(first_member, first_member + n_samples)
        values, numbers = evidence.values[cases], evidence.cases[cases]
        out = np.empty((n_samples, *values.shape))
        for k, number in enumerate(numbers):
            shocks = Numbers(field, seed, int(number), members).shocks(0, evidence)
            out[:, k] = self.draw(np.zeros(shocks.free.shape), values[k : k + 1], shocks)
        return out

    def move(self, members: Float[np.ndarray, "sample entry"], *, seed: int) -> Float[np.ndarray, "sample entry"]:
        """Move fields of the law without the evidence to that given it (Matheron's rule), by errors of mean 0."""
        shocks = Numbers(self._law._field, seed, 0, range(len(members))).shocks(0, self._evidence)
        rows = shocks.rows - shocks.rows.mean(axis=0)
        return self.draw(np.zeros_like(members), self._evidence.values, shocks._replace(free=members, rows=rows))

    def mean(self) -> Float[np.ndarray, "case entry"]:
        """Mean given linear evidence."""
        zero = np.zeros(self._evidence.values.shape)
        return self.draw(
            zero, self._evidence.values, Shocks(zero, zero, zero, zero[:, :1] * self._evidence.target, zero)
        )

    def variance(self) -> Float[np.ndarray, " entry"]:
        """Variances given linear evidence; a solve for each entry."""
        variance, missing = np.zeros(self._evidence.known.size), np.flatnonzero(~self._evidence.held)
        for part in (missing[i : i + _TOGETHER] for i in range(0, len(missing), _TOGETHER)):
            asked = np.zeros(self._evidence.known.size, dtype=bool)
            asked[part] = True
            variance[part] = self._law.variance(asked.reshape(self._shape[1:]))
        if self._ties is not None:
            spread = self._ties.spread[0]
            variance -= (spread * (self._ties.inverse[0] @ spread)).sum(axis=0)
        return np.maximum(variance, 0.0)

    def log_prob(self, x: Float[np.ndarray, "sample entry"], factor: float = 1.0) -> Float[np.ndarray, " sample"]:
        """Log-density of the entries not known of one case, its variances multiplied by a factor; -inf elsewhere."""
        evidence = self._evidence
        away = np.where(evidence.held, 0.0, x - self.mean())
        log_det, right = self._law.log_det(), self._law.times(away.reshape(self._shape)).reshape(away.shape)
        square = (away * right).sum(axis=1) + ((evidence.rows @ away.T) ** 2).sum(axis=0)
        if self._ties is not None:
            log_det -= float(np.linalg.slogdet(self._ties.inverse[0])[1])
        n = np.count_nonzero(~evidence.held)
        density = 0.5 * (log_det - square / factor - n * np.log(2 * np.pi * factor))
        right_values: np.ndarray = (x == evidence.values)[:, evidence.known].all(axis=1)
        return np.where(right_values, density, -np.inf)


class _Ties(NamedTuple):
    """Rows L with their spread ``L V``, the inverse of ``L V L' + R`` and the variances R, 0 or 1."""

    rows: Float[np.ndarray, "#sample row entry"]
    spread: Float[np.ndarray, "#sample row entry"]
    inverse: Float[np.ndarray, "#sample row row"]
    errors: Float[np.ndarray, " row"]

    def pull(self, x: np.ndarray, target: np.ndarray, shocks: np.ndarray) -> Float[np.ndarray, "sample entry"]:
        """Move draws to the targets, up to their errors."""
        away = (target + self.errors * shocks)[..., None] - self.rows @ x[:, :, None]
        moved: np.ndarray = x + (self.spread.swapaxes(1, 2) @ (self.inverse @ away))[:, :, 0]
        return moved
