r"""A Gaussian Markov field as a score: exact sampling, log-density, conditioning and denoising.

The precision of the clean field is :math:`P_0 = F^\top F` with a sparse lower triangular whitening factor :math:`F`,
a row for each scalar variable: its coefficients on the earlier neighbours it is conditioned on, over its conditional
deviation (a Vecchia approximation; see Katzfuss and Guinness, Statistical Science 36, 2021). The rest are sparse
products and solves:

* sample: :math:`F x = z`, :math:`z` standard normal;
* log-density: :math:`-\frac12 |F x|^2 + \sum_i \log F_{ii} - \frac n2 \log 2\pi`;
* denoiser at any OU time: :math:`(a^2 I + s^2 P_0)\, \mathrm E[x_0 | x_t] = a\, x_t`, which does not cancel as going
  through Tweedie's formula would;
* conditioning: the precision of the missing part given the rest is the block :math:`P_{MM}` (kriging).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, final

import numpy as np
import scipy.sparse as sp
import torch
from scipy.sparse.linalg import LinearOperator, cg, splu

from nearfield import noise
from nearfield.process import noise as noise_scale
from nearfield.process import signal
from nearfield.score.base import Score, per_time

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int
    from torch import Tensor

DIRECT_LIMIT = 20_000
"""Above this many variables, diffused systems are solved by conjugate gradients instead of a factorisation."""
TOLERANCE = 1e-10
"""Relative residual of the conjugate gradients."""


@final
class GaussianField(Score):
    """Zero-mean Gaussian field given by a sparse whitening factor of its precision.

    Parameters
    ----------
    factor : scipy sparse array, shape (vertex * channel, vertex * channel)
        Lower triangular with positive diagonal, rows and columns in elimination order, channels fastest.
    order : ndarray of int, shape (vertex,)
        The vertex at each place of the elimination order.
    n_channels : int
        Channels of a vertex.
    hops : int
        Hops within which a vertex was conditioned on earlier ones, at least those that the factor reaches; a field
        is carried over to a larger lattice by it.

    Attributes
    ----------
    radius : None
        The diffused score of a Markov field reads every vertex.

    Examples
    --------
    >>> import numpy as np, scipy.sparse as sp
    >>> field = GaussianField(sp.eye_array(3, format="csr"), np.arange(3))
    >>> field.log_prob(np.zeros((1, 3, 1))).round(4)
    array([-2.7568])
    """

    radius = None

    def __init__(
        self, factor: sp.csr_array, order: Int[np.ndarray, " vertex"], n_channels: int = 1, hops: int = 0
    ) -> None:
        self.factor = sp.csr_array(factor)
        self.order = np.asarray(order, dtype=np.int64)
        self.n_vertices = len(self.order)
        self.n_channels = n_channels
        self.hops = hops
        self._place = (self.order[:, None] * n_channels + np.arange(n_channels)).reshape(-1)
        self._triangle: Any = None
        self._precision: sp.csc_array | None = None
        self._diffused: tuple[float, Callable[[np.ndarray], np.ndarray]] | None = None

    def __reduce__(self) -> tuple[Any, ...]:  # factorisations are no Python objects and cannot travel
        return type(self), (self.factor, self.order, self.n_channels, self.hops)

    def __repr__(self) -> str:
        return f"GaussianField(n_vertices={self.n_vertices}, n_channels={self.n_channels}, hops={self.hops})"

    def sample(
        self,
        n_samples: int,
        *,
        seed: int,
        first_member: int = 0,
        step: int = 0,
        stream: noise.Stream = noise.Stream.EXACT,
    ) -> Float[np.ndarray, "sample vertex channel"]:
        """Draw from the field exactly.

        Parameters
        ----------
        n_samples : int
        seed : int
            64-bit seed; the draw of a member depends on it, the member's number and ``step`` alone.
        first_member : int
            Number of the first member.
        step : int
            A further counter, to draw several independent sets.
        stream : Stream
            What the draws are for; different streams are independent.

        Returns
        -------
        ndarray of float64, shape (n_samples, vertex, channel)
        """
        members = range(first_member, first_member + n_samples)
        z = noise.normals(seed, stream, members, step, self.n_vertices, self.n_channels)
        return self._natural(self._solve_triangle(self._ordered(z)))

    def log_prob(self, x: Float[np.ndarray, "sample vertex channel"]) -> Float[np.ndarray, " sample"]:
        """Exact log-density in nats.

        Parameters
        ----------
        x : ndarray, shape (sample, vertex, channel)

        Returns
        -------
        ndarray, shape (sample,)
        """
        z = self.factor @ self._ordered(np.asarray(x, dtype=np.float64)).T
        constant = np.log(self.factor.diagonal()).sum() - 0.5 * len(self._place) * math.log(2 * math.pi)
        return constant - 0.5 * (z**2).sum(axis=0)

    def denoise(self, x: Tensor, t: float | Tensor) -> Tensor:
        """Exact E[x_0 | x_t] by a sparse solve; shapes and times as in `Score.denoise`. Not differentiable."""
        return per_time(self._denoise_at, x, t)

    def _denoise_at(self, x: Tensor, t: float) -> Tensor:
        right = signal(t) * self._ordered(x.detach().cpu().numpy().astype(np.float64))
        clean = self._natural(self._diffused_solver(t)(right))
        return torch.from_numpy(clean).to(x)

    def covariance(self) -> Float[np.ndarray, "variable variable"]:
        """Dense covariance, variables in vertex order with channels fastest. For small fields."""
        root = self._solve_triangle(np.eye(len(self._place))).T
        natural = np.empty_like(root)
        natural[np.ix_(self._place, self._place)] = root @ root.T
        return natural

    def conditional(self, observed: Bool[np.ndarray, "vertex channel"]) -> ConditionalField:
        """Condition on the exact values of some entries.

        Parameters
        ----------
        observed : ndarray of bool, shape (vertex, channel)
            True where values will be given.

        Returns
        -------
        ConditionalField
        """
        return ConditionalField(self, np.asarray(observed, dtype=bool))

    def state(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """Return configuration and arrays from which `from_state` makes an equal field."""
        arrays = {
            "data": self.factor.data,
            "indices": self.factor.indices,
            "indptr": self.factor.indptr,
            "order": self.order,
        }
        return {"n_channels": self.n_channels, "hops": self.hops}, arrays

    @classmethod
    def from_state(cls, config: dict[str, Any], arrays: dict[str, np.ndarray]) -> GaussianField:
        """Rebuild from `state`."""
        size = len(arrays["order"]) * config["n_channels"]
        factor = sp.csr_array((arrays["data"], arrays["indices"], arrays["indptr"]), shape=(size, size))
        return cls(factor, arrays["order"], config["n_channels"], config["hops"])

    def _ordered(self, x: np.ndarray) -> np.ndarray:
        return x.reshape(len(x), len(self._place))[:, self._place]

    def _natural(self, x: np.ndarray) -> np.ndarray:
        out = np.empty_like(x)
        out[:, self._place] = x
        return out.reshape(len(x), self.n_vertices, self.n_channels)

    def _solve_triangle(self, z: np.ndarray) -> np.ndarray:
        if self._triangle is None:
            self._triangle = splu(
                self.factor.tocsc(), permc_spec="NATURAL", diag_pivot_thresh=0.0, options={"Equil": False}
            )
        return self._triangle.solve(np.ascontiguousarray(z.T)).T

    def precision(self) -> sp.csc_array:
        """Sparse precision P_0 in elimination order."""
        if self._precision is None:
            self._precision = sp.csc_array(self.factor.T @ self.factor)
        return self._precision

    def _diffused_solver(self, t: float) -> Callable[[np.ndarray], np.ndarray]:
        if self._diffused is None or self._diffused[0] != t:
            system = signal(t) ** 2 * sp.eye_array(len(self._place)) + noise_scale(t) ** 2 * self.precision()
            self._diffused = (t, positive_solver(sp.csc_array(system)))
        return self._diffused[1]


@final
class ConditionalField:
    """The law of the missing entries of a `GaussianField` given the observed ones.

    Made by `GaussianField.conditional`; one factorisation serves all values and draws.
    """

    def __init__(self, field: GaussianField, observed: Bool[np.ndarray, "vertex channel"]) -> None:
        self._field = field
        seen = observed.reshape(-1)[field._place]
        self._missing, self._seen = np.flatnonzero(~seen), np.flatnonzero(seen)
        columns = field.factor.tocsc()
        self._from_missing, self._from_seen = columns[:, self._missing], columns[:, self._seen]
        block = sp.csc_array(self._from_missing.T @ self._from_missing)
        self._solve = positive_solver(block) if len(self._missing) else None

    def mean(self, x: Float[np.ndarray, "sample vertex channel"]) -> Float[np.ndarray, "sample vertex channel"]:
        """Kriging mean.

        Parameters
        ----------
        x : ndarray, shape (sample, vertex, channel)
            Observed values; what stands at missing entries is ignored.

        Returns
        -------
        ndarray, shape (sample, vertex, channel)
            The observed values, and the conditional mean where they are missing.
        """
        ordered = self._field._ordered(np.array(x, dtype=np.float64))
        if self._solve is not None:
            pull = self._from_missing.T @ (self._from_seen @ ordered[:, self._seen].T)
            ordered[:, self._missing] = -self._solve(pull.T)
        return self._field._natural(ordered)

    def sample(
        self, x: Float[np.ndarray, "vertex channel"], n_samples: int, *, seed: int, first_member: int = 0, step: int = 0
    ) -> Float[np.ndarray, "member vertex channel"]:
        """Exact draws given one set of observed values, by conditioning unconditional draws (Matheron's rule).

        Parameters
        ----------
        x : ndarray, shape (vertex, channel)
            Observed values; missing entries are ignored.
        n_samples, seed, first_member, step
            As in `GaussianField.sample`.

        Returns
        -------
        ndarray, shape (n_samples, vertex, channel)
            Observed entries are returned unchanged.
        """
        stream = noise.Stream.CONDITIONAL
        free = self._field.sample(n_samples, seed=seed, first_member=first_member, step=step, stream=stream)
        drawn = self.mean(np.asarray(x)[None]) + free - self.mean(free)
        ordered = self._field._ordered(drawn)
        ordered[:, self._seen] = self._field._ordered(np.asarray(x, dtype=np.float64)[None])[:, self._seen]
        return self._field._natural(ordered)


def positive_solver(matrix: sp.csc_array) -> Callable[[np.ndarray], np.ndarray]:
    """Solver of a sparse positive definite system for rows of right-hand sides: direct, or iterative when large."""
    if matrix.shape[0] <= DIRECT_LIMIT:
        factor = splu(matrix, permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.0, options={"SymmetricMode": True})
        return lambda right: factor.solve(np.ascontiguousarray(right.T)).T
    rows = sp.csr_array(matrix)
    diagonal = matrix.diagonal()
    jacobi = LinearOperator(matrix.shape, matvec=lambda v: v.reshape(-1) / diagonal, dtype=np.float64)

    def solve(right: np.ndarray) -> np.ndarray:
        out = np.empty_like(right)
        for i, b in enumerate(right):
            out[i], failed = cg(rows, b, rtol=TOLERANCE, maxiter=20_000, M=jacobi)
            if failed:
                raise ArithmeticError("conjugate gradients did not converge: the precision is too ill-conditioned")
        return out

    return solve
