"""Law of the missing entries of a field given the observed ones (kriging)."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

import numpy as np
import scipy.sparse as sp

from nearfield import noise
from nearfield.score.solver import LowRank, Operator, conjugate_gradients, direct_solver, is_large, triangle

if TYPE_CHECKING:
    from jaxtyping import Bool, Float

    from nearfield.score.field import GaussianField

__all__ = ["ConditionalField"]


@final
class ConditionalField:
    """Law of the missing entries of a `GaussianField` given the others; one factorisation for all values and draws."""

    def __init__(self, field: GaussianField, observed: Bool[np.ndarray, "vertex channel"]) -> None:
        self._field = field
        seen = observed.reshape(-1)[field._place]
        self._missing, self._seen = np.flatnonzero(~seen), np.flatnonzero(seen)
        columns = field.factor.matrix.tocsc()
        self._from_missing, self._from_seen = columns[:, self._missing], columns[:, self._seen]
        block = sp.csc_array(self._from_missing.T @ self._from_missing)
        added = None
        if field._correction is not None:
            rows = field._correction.rows.tocsc()
            self._rows_seen = sp.csr_array(rows[:, self._seen])
            added = LowRank(sp.csr_array(rows[:, self._missing]), field._correction.inner)
        self._added = added
        self._solve: Operator | None = None
        if is_large(len(self._missing)):
            self._solve = self._iterative(sp.csr_array(block), added)
        elif len(self._missing):
            self._solve = direct_solver(block, added)

    def _iterative(self, block: sp.csr_array, added: LowRank | None) -> Operator:
        """Solve by conjugate gradients, preconditioned by a local law of each missing entry given its neighbours."""
        local = triangle(self._field._local_laws.conditional_factor(self._field.precision(), self._missing))

        def apply(x: np.ndarray) -> np.ndarray:
            plain: np.ndarray = (block @ x.T).T
            return plain if added is None else plain + added(x)

        def precondition(x: np.ndarray) -> np.ndarray:
            solution: np.ndarray = local.solve(local.solve(np.ascontiguousarray(x.T), trans="T")).T
            return solution

        return lambda right: conjugate_gradients(apply, precondition, right)

    def mean(self, x: Float[np.ndarray, "sample vertex channel"]) -> Float[np.ndarray, "sample vertex channel"]:
        """Kriging mean, which ignores missing entries of x; observed values are returned unchanged."""
        ordered = self._field._ordered(np.array(x, dtype=np.float64))
        if self._solve is not None:
            seen = ordered[:, self._seen].T
            pull = self._from_missing.T @ (self._from_seen @ seen)
            if self._added is not None:
                pull += self._added.rows.T @ (self._added.inner @ (self._rows_seen @ seen))
            ordered[:, self._missing] = -self._solve(pull.T)
        return self._field._natural(ordered)

    def variance(self, asked: Bool[np.ndarray, "vertex channel"]) -> Float[np.ndarray, " entry"]:
        """Conditional variances of some missing entries, in the order of the vertices; a solve for each."""
        field, place = self._field, np.flatnonzero(asked)
        if self._solve is None or len(place) == 0:
            return np.zeros(len(place))
        which = np.searchsorted(self._missing, np.argsort(field._place)[place])
        unit = np.zeros((len(place), len(self._missing)))
        unit[range(len(place)), which] = 1.0
        return self._solve(unit)[range(len(place)), which]

    def sample(
        self, x: Float[np.ndarray, "vertex channel"], n_samples: int, *, seed: int, first_member: int = 0, step: int = 0
    ) -> Float[np.ndarray, "member vertex channel"]:
        """Draw exactly given one set of observed values, by Matheron's rule; arguments as in `GaussianField.sample`."""
        stream = noise.Stream.CONDITIONAL
        free = self._field.sample(n_samples, seed=seed, first_member=first_member, step=step, stream=stream)
        drawn = self.mean(np.asarray(x)[None]) + free - self.mean(free)
        ordered = self._field._ordered(drawn)
        ordered[:, self._seen] = self._field._ordered(np.asarray(x, dtype=np.float64)[None])[:, self._seen]
        return self._field._natural(ordered)
