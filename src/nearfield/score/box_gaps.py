r"""Laws of the missing values of many fields on a box of a large field.

With the rows :math:`F_R` of the whitening factor that read the box B, and values outside at their mean, the field on it
has precision :math:`P = F_{RB}^\top F_{RB}`, and missing values m given observed ones o have precision :math:`P_{mm}`
and mean :math:`-P_{mm}^{-1} P_{mo} x_o`, as in `nearfield.score.incomplete`. What is outside matters the less the
further away it is: were it one standard deviation above its mean, the means would move by
:math:`P_{mm}^{-1} F_{Rm}^\top F_{R,out} 1`, which is computed too.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple, final

import numpy as np
import scipy.sparse as sp
import torch
from scipy.linalg import cho_solve_banded, cholesky_banded
from scipy.sparse.csgraph import reverse_cuthill_mckee
from scipy.sparse.linalg import splu

from nearfield import noise

if TYPE_CHECKING:
    from collections.abc import Callable

    from jaxtyping import Bool, Float, Int

    from nearfield.score.tiled_factor import RowsOnBox

__all__ = ["BoxGaps", "Gap"]

EXACT = 256
"""Most missing values of a sample in a box whose covariance is computed; of more it is that of draws."""
BAND = 1 << 25
"""Most numbers of a banded factor (256 MiB); what needs more has a sparse one, which takes longer."""


class Gap(NamedTuple):
    """Law of the missing values of samples with one pattern of gaps.

    Parameters
    ----------
    samples : ndarray of int, shape (some,)
        Which samples they are.
    missing : ndarray of int, shape (entry,)
        Variables of the box that they lack.
    mean : ndarray, shape (entry, some)
        Conditional means.
    shift : ndarray, shape (entry,)
        Change of the means if all values outside the box were one standard deviation higher.
    deviations : ndarray, shape (entry, some, draw)
        Draws less the mean.
    covariance : ndarray, shape (entry, entry), optional
        Conditional covariance, of few missing values.
    """

    samples: Int[np.ndarray, " some"]
    missing: Int[np.ndarray, " entry"]
    mean: Float[np.ndarray, "entry some"]
    shift: Float[np.ndarray, " entry"]
    deviations: Float[np.ndarray, "entry some draw"]
    covariance: Float[np.ndarray, "entry entry"] | None


@final
@dataclass(frozen=True, eq=False)
class BoxGaps:
    """Laws of missing values on a box.

    Parameters
    ----------
    rows : RowsOnBox
    x : ndarray, shape (sample, variable)
        Standardised values; NaN where missing.
    """

    rows: RowsOnBox
    x: Float[np.ndarray, "sample variable"]

    def gaps(
        self,
        seed: int,
        members: Int[np.ndarray, " sample"],
        steps: range,
        of_interest: Bool[np.ndarray, " variable"],
        *,
        exact: bool,
    ) -> Iterator[Gap]:
        """Yield the law of each pattern with missing values of interest, with a draw for each step.

        A draw depends on seed, step and number of its sample alone. If ``exact``, few missing values have their
        covariance, and no draws.
        """
        missing = np.isnan(self.x)
        precision = sp.csc_array(self.rows.matrix.T @ self.rows.matrix)
        pull = (precision @ np.where(missing, 0.0, self.x).T).T
        outside = self.rows.matrix.T @ self.rows.outside
        pushing = sp.csr_array(self.rows.matrix.T)
        for samples in _alike(missing):
            at = np.flatnonzero(missing[samples[0]])
            if not of_interest[at].any():
                continue
            part, few = sp.csc_array(precision[at][:, at]), exact and len(at) <= EXACT
            right = [-pull[np.ix_(samples, at)].T, -outside[at, None]]
            used = range(0) if few else steps
            for sample in samples:  # F_m' e has the covariance P_mm, and its solution P_mm^{-1}
                right.append(pushing[at] @ self._normals(seed, int(members[sample]), used))
            solve, covariance = _solver(part, few)
            solved, k = solve(np.concatenate(right, axis=1)), len(samples)
            yield Gap(
                samples,
                at,
                solved[:, :k],
                solved[:, k],
                solved[:, k + 1 :].reshape(len(at), k, len(used)),
                covariance,
            )

    def _normals(self, seed: int, member: int, steps: range) -> Float[np.ndarray, "row step"]:
        vertices, place = self._vertices
        found = np.empty((len(place), len(steps)))
        for k, step in enumerate(steps):
            n_channels = int(self.rows.channel.max()) + 1
            drawn = noise.normals_at(seed, noise.Stream.CONDITIONAL, [member], step, vertices, n_channels)
            found[:, k] = drawn[0, place, self.rows.channel]
        return found

    @cached_property
    def _vertices(self) -> tuple[Int[np.ndarray, " vertex"], Int[np.ndarray, " row"]]:
        """Vertices of the rows, ascending, and that of each row."""
        vertices, place = np.unique(self.rows.vertex, return_inverse=True)
        return vertices, place.reshape(-1)


def _alike(missing: Bool[np.ndarray, "sample variable"]) -> list[Int[np.ndarray, " some"]]:
    """Group the samples with gaps, those of one pattern together."""
    packed = np.ascontiguousarray(np.packbits(missing, axis=1))
    _, of = np.unique(packed.view(f"V{packed.shape[1]}").ravel(), return_inverse=True)
    some = np.flatnonzero(missing.any(axis=1))
    order = some[np.argsort(of.reshape(-1)[some], kind="stable")]
    return [part for part in np.split(order, np.flatnonzero(np.diff(of.reshape(-1)[order])) + 1) if len(part)]


def _solver(
    matrix: sp.csc_array, dense: bool
) -> tuple[Callable[[np.ndarray], np.ndarray], Float[np.ndarray, "entry entry"] | None]:
    """Solver, and inverse if it is wanted."""
    if dense:
        root = torch.linalg.cholesky(torch.from_numpy(matrix.toarray()))
        inverse: np.ndarray = torch.cholesky_inverse(root).numpy()
        return lambda right: inverse @ right, inverse
    order = reverse_cuthill_mckee(matrix, symmetric_mode=True)
    ordered = sp.triu(matrix[order][:, order], format="coo")
    width = int((ordered.col - ordered.row).max())
    if (width + 1) * len(order) > BAND:
        factor = splu(matrix, permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.0, options={"SymmetricMode": True})
        return lambda right: factor.solve(np.ascontiguousarray(right)), None
    band = np.zeros((width + 1, len(order)), order="F")
    band[width + ordered.row - ordered.col, ordered.col] = ordered.data
    root, back = cholesky_banded(band, overwrite_ab=True, check_finite=False), np.argsort(order)
    return lambda right: cho_solve_banded((root, False), right[order], check_finite=False)[back], None
