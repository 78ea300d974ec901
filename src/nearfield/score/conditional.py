"""Law of the missing entries of a field given the observed ones, and given sums of entries with errors (kriging)."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

import numpy as np
import scipy.sparse as sp
from scipy.sparse.linalg import splu

from nearfield import noise
from nearfield.score.solver import LowRank, Operator, conjugate_gradients, direct_solver, is_large, triangle

if TYPE_CHECKING:
    from jaxtyping import Bool, Float

    from nearfield.score.field import GaussianField

__all__ = ["ConditionalField"]


_STRONG = 1.0
"""Precision of white noise from which on the diagonal is the preconditioner."""


@final
class ConditionalField:
    """Law of the missing entries of a `GaussianField` given the others; one factorisation for all values and draws.

    With ``rows``, over the entries with channels fastest, the sums ``rows @ x`` are known up to standard normal errors
    as well; ``ridge`` is added to the diagonal of the field's precision.
    """

    def __init__(
        self,
        field: GaussianField,
        observed: Bool[np.ndarray, "vertex channel"],
        rows: sp.csr_array | None = None,
        ridge: float = 0.0,
    ) -> None:
        self._field = field
        seen = observed.reshape(-1)[field._place]
        self._missing, self._seen = np.flatnonzero(~seen), np.flatnonzero(seen)
        self._rows = field.factor.touching(self._missing)  # those of the vertices nearby
        self._from_missing = self._rows.tocsc()[:, self._missing]
        block = sp.csc_array(self._from_missing.T @ self._from_missing)
        added = None
        if field._correction is not None:
            added = LowRank(sp.csr_array(field._correction.rows.tocsc()[:, self._missing]), field._correction.inner)
        self._added = added
        if rows is not None:
            seen_rows = sp.csc_array(rows)[:, field._place][:, self._missing]
            block = sp.csc_array(block + seen_rows.T @ seen_rows)
        if ridge > 0:
            block = sp.csc_array(block + ridge * sp.eye_array(len(self._missing)))
        self._block, self._ridge = block, ridge
        self._solve: Operator | None = None
        if is_large(len(self._missing)):
            self._solve = self._iterative(sp.csr_array(block), added)
        elif len(self._missing):
            self._solve = direct_solver(block, added)

    def _iterative(self, block: sp.csr_array, added: LowRank | None) -> Operator:
        """Solve by conjugate gradients, preconditioned by a local law of each missing entry given its neighbours."""
        if self._ridge < _STRONG:
            precision = sp.csr_array(self._from_missing.T @ self._rows)
            local = triangle(self._field._local_laws.conditional_factor(precision, self._missing))
        scale = 1 / block.diagonal()

        def apply(x: np.ndarray) -> np.ndarray:
            plain: np.ndarray = (block @ x.T).T
            return plain if added is None else plain + added(x)

        def precondition(x: np.ndarray) -> np.ndarray:
            if self._ridge >= _STRONG:
                return x * scale
            solution: np.ndarray = local.solve(local.solve(np.ascontiguousarray(x.T), trans="T")).T
            return solution

        return lambda right: conjugate_gradients(apply, precondition, right)

    def times(self, x: Float[np.ndarray, "sample vertex channel"]) -> Float[np.ndarray, "sample vertex channel"]:
        """Multiply by the precision of the field: the missing entries of the product, 0 at the observed ones."""
        ordered = self._field._ordered(np.asarray(x, dtype=np.float64))
        product = np.zeros_like(ordered)
        product[:, self._missing] = self._product(ordered)
        return self._field._natural(product)

    def _product(self, ordered: np.ndarray) -> Float[np.ndarray, "sample missing"]:
        field = self._field
        product = self._from_missing.T @ (self._rows @ ordered.T)
        if self._added is not None:
            assert field._correction is not None
            product += self._added.rows.T @ (self._added.inner @ (field._correction.rows @ ordered.T))
        return np.ascontiguousarray(product.T)

    def solve(self, right: Float[np.ndarray, "sample vertex channel"]) -> Float[np.ndarray, "sample vertex channel"]:
        """Solve the system of the missing entries; 0 at the observed ones."""
        ordered = self._field._ordered(np.asarray(right, dtype=np.float64))
        solution = np.zeros_like(ordered)
        if self._solve is not None:
            solution[:, self._missing] = self._solve(np.ascontiguousarray(ordered[:, self._missing]))
        return self._field._natural(solution)

    def log_det(self) -> float:
        """Log-determinant of the system of the missing entries."""
        if len(self._missing) == 0:
            return 0.0
        factor = splu(self._block, permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.0, options={"SymmetricMode": True})
        log_det = float(np.log(np.abs(factor.U.diagonal())).sum())
        if self._added is None:
            return log_det
        spread = factor.solve(np.ascontiguousarray(self._added.rows.toarray().T))
        inner = np.eye(len(self._added.inner)) + self._added.inner @ (self._added.rows @ spread)
        return log_det + float(np.linalg.slogdet(inner)[1])

    def mean(self, x: Float[np.ndarray, "sample vertex channel"]) -> Float[np.ndarray, "sample vertex channel"]:
        """Kriging mean, which ignores missing entries of x; observed values are returned unchanged."""
        ordered = self._field._ordered(np.array(x, dtype=np.float64))
        if self._solve is not None:
            ordered[:, self._missing] = 0.0
            ordered[:, self._missing] = -self._solve(self._product(ordered))
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
