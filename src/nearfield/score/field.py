r"""A Gaussian Markov field as a score: exact sampling, log-density, conditioning and denoising.

The precision of the clean field is :math:`P_0 = F^\top F` with a sparse lower triangular whitening factor :math:`F`,
a row for each scalar variable: the coefficients of its earlier neighbours, over its conditional standard deviation (a
Vecchia approximation; see Katzfuss and Guinness, Statistical Science 36, 2021). The rest are sparse products and
solves:

* sample: :math:`F x = z`, :math:`z` standard normal;
* log-density: :math:`-\frac12 |F x|^2 + \sum_i \log F_{ii} - \frac n2 \log 2\pi`;
* denoiser at any OU time: :math:`(a^2 I + s^2 P_0)\, \mathrm E[x_0 | x_t] = a\, x_t`, without the cancellation of
  Tweedie's formula;
* conditioning: the precision of the missing part given the rest is the block :math:`P_{MM}` (kriging).

Conditional laws are fitted at a single scale, and their errors add up in the few directions of largest scale. A field
is therefore corrected by the law q of its block means :math:`z = A x` on a coarser graph, which is a `GaussianField`
itself and may be corrected in turn: of all laws under which z has the law q, :math:`p(x) = p_0(x\mid z)\,q(z)`, (N.13),
has the smallest Kullback-Leibler divergence from the field :math:`p_0`. With :math:`C_z = A P_0^{-1} A^\top` and Q the
covariance of q,

* precision: :math:`P = P_0 + A^\top (Q^{-1} - C_z^{-1}) A`;
* sample: :math:`x + K (z - A x)` of a draw x of the field and z of q, :math:`K = P_0^{-1} A^\top C_z^{-1}`;
* log-density: :math:`\log p_0(x) - \log N(z; 0, C_z) + \log q(z)`;
* denoiser and conditioning: sparse systems plus a matrix of the rank of z.
"""

from __future__ import annotations

import math
import warnings
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple, final

import numpy as np
import scipy.sparse as sp
import torch
from scipy.linalg import cho_factor, cho_solve

from nearfield import noise
from nearfield.graph.coarsening import averages, coarsen
from nearfield.module import Module, as_tensor
from nearfield.process import noise_scale, noise_to_signal, signal_scale
from nearfield.score.base import Score, per_time
from nearfield.score.conditional import ConditionalField
from nearfield.score.extension import extended_factor
from nearfield.score.solver import LowRank, Operator, conjugate_gradients, direct_solver, is_large
from nearfield.score.sparse import Factor, SparseMatrix
from nearfield.score.symmetric import symmetric_map
from nearfield.score.vecchia import N_DRAWS, LocalLaws
from nearfield.tiled_samples import Run, one_by_one

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int
    from torch import Tensor

    from nearfield.graph import DependencyGraph

__all__ = ["CoarseLaw", "GaussianField"]

_BLOCK = 1 << 21  # normal numbers of the members drawn together (16 MiB)


@final
class GaussianField(Score):
    """Zero-mean Gaussian field given by a sparse whitening factor of its precision.

    Parameters
    ----------
    factor : scipy sparse array or Factor, shape (vertex * channel, vertex * channel)
        Lower triangular with positive diagonal, rows and columns in elimination order, channels fastest.
    order : ndarray or Tensor of int, shape (vertex,)
        The vertex at each place of the elimination order.
    n_channels : int
        Channels of a vertex.
    hops : int
        Hops within which a vertex was conditioned on earlier ones, at least the reach of the factor; used to extend
        the field to a larger lattice.
    coarse : CoarseLaw, optional
        Law of the block means after the correction.

    Examples
    --------
    >>> import numpy as np, scipy.sparse as sp
    >>> field = GaussianField(sp.eye_array(3, format="csr"), np.arange(3))
    >>> field.log_prob(np.zeros((1, 3, 1))).round(4)
    array([-2.7568])
    """

    radius = None  # the diffused score of a Markov field reads every vertex
    settings = ("n_channels", "hops")
    order: Tensor

    def __init__(
        self,
        factor: sp.csr_array | Factor,
        order: Int[np.ndarray, " vertex"] | Int[Tensor, " vertex"],
        n_channels: int = 1,
        hops: int = 0,
        coarse: CoarseLaw | None = None,
    ) -> None:
        super().__init__()
        self.factor = factor if isinstance(factor, Factor) else SparseMatrix.of(factor)
        self.register_buffer("order", as_tensor(order).long())
        self.n_vertices, self.n_channels, self.hops = len(order), n_channels, hops
        self.coarse = coarse

    @cached_property
    def _place(self) -> Int[np.ndarray, " variable"]:
        """Variable at each place of the elimination order."""
        order = self.order.cpu().numpy()
        return (order[:, None] * self.n_channels + np.arange(self.n_channels)).reshape(-1)

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
        """Draw from the field exactly; a member depends on seed, stream, step and its own number alone."""
        drawn = np.empty((n_samples, self.n_vertices, self.n_channels))
        block = max(1, _BLOCK // (self._n_numbers * self.n_channels))
        for start in range(0, n_samples, block):
            members = range(first_member + start, first_member + min(start + block, n_samples))
            numbers = noise.normals(seed, stream, members, step, self._n_numbers, self.n_channels)
            drawn[start : start + block] = self._colored(numbers)
        return drawn

    @property
    def _n_numbers(self) -> int:
        """Normal numbers per channel of a draw: those of the coarser laws follow the field's own."""
        return self.n_vertices + (0 if self.coarse is None else self.coarse.law._n_numbers)

    def _colored(self, numbers: Float[np.ndarray, "sample number channel"]) -> np.ndarray:
        """Turn independent normal numbers into a draw."""
        if self.coarse is None:
            return self._natural(self._solve_triangle(self._ordered(numbers)))
        # one by one: products of matrices of other sizes round differently, and no draw may depend on its batch
        return np.concatenate([self._colored_one(one[None], self.coarse.law) for one in numbers])

    def _colored_one(self, numbers: Float[np.ndarray, "1 number channel"], law: GaussianField) -> np.ndarray:
        match = self._match  # first: it factorises parts, and a factorisation of the whole reserves much memory
        drawn = self._solve_triangle(self._ordered(numbers[:, : self.n_vertices]))
        z = law._colored(numbers[:, self.n_vertices :]).reshape(1, -1)
        pull = cho_solve(match.root, (z - (match.rows @ drawn.T).T).T)
        return self._natural(drawn + self._covary((match.rows.T @ pull).T))

    def log_prob(self, x: Float[np.ndarray, "sample vertex channel"]) -> Float[np.ndarray, " sample"]:
        """Exact log-density in nats."""
        ordered = self._ordered(np.asarray(x, dtype=np.float64))
        white = self.factor.times(ordered.T)
        constant = np.log(self.factor.diagonal()).sum() - 0.5 * len(self._place) * math.log(2 * math.pi)
        fine: np.ndarray = constant - 0.5 * (white**2).sum(axis=0)
        if self.coarse is None:
            return fine
        match, law = self._match, self.coarse.law
        z = match.rows @ ordered.T
        before = -0.5 * (z * cho_solve(match.root, z)).sum(axis=0) - np.log(match.root[0].diagonal()).sum()
        before -= 0.5 * len(z) * math.log(2 * math.pi)
        after = law.log_prob(z.T.reshape(len(ordered), law.n_vertices, self.n_channels))
        log_density: np.ndarray = fine - before + after
        return log_density

    def forward(self, x: Tensor, t: float | Tensor) -> Tensor:
        """Return the exact E[x_0 | x_t] by a sparse solve, on the processor."""
        return per_time(lambda part, time: symmetric_map(lambda y: self._solved(y, time), part), x, t)

    def _solved(self, x: Tensor, t: float) -> Tensor:
        solve = self._denoisers.get(t)
        if solve is None:
            self._denoisers.clear()  # samplers pass each time once, and a solver may be large
            solve = self._iterative_denoiser(t) if is_large(len(self._place)) else self._direct_denoiser(t)
            self._denoisers[t] = solve
        clean = self._natural(solve(self._ordered(x.detach().cpu().numpy().astype(np.float64))))
        return torch.from_numpy(clean).to(x)

    @cached_property
    def _denoisers(self) -> dict[float, Operator]:
        """The solver of the last time."""
        return {}

    def covariance(self) -> Float[np.ndarray, "variable variable"]:
        """Dense covariance, variables in vertex order with channels fastest. For small fields."""
        root = self._solve_triangle(np.eye(len(self._place))).T
        natural = np.empty_like(root)
        ordered = root @ root.T
        if self.coarse is not None:
            match = self._match
            gain = cho_solve(match.root, match.rows @ ordered)
            ordered += gain.T @ (self.coarse.law.covariance() - match.rows @ (match.rows @ ordered).T) @ gain
        natural[np.ix_(self._place, self._place)] = ordered
        return natural

    def conditional(self, observed: Bool[np.ndarray, "vertex channel"]) -> ConditionalField:
        """Condition on the exact values of the observed entries."""
        return ConditionalField(self, np.asarray(observed, dtype=bool))

    def extended(self, graph: DependencyGraph, onto: DependencyGraph) -> GaussianField:
        """Repeat the rows of the factor on a larger lattice; the rest as in `Score.extended`."""
        if not np.array_equal(self._place, np.arange(len(self._place))):  # rows are told by what comes before
            raise ValueError(
                "onto must be the lattice of a field that was fitted in tiles, whose order does not go on beyond it; "
                "fit a part that fits into memory, and extend that"
            )
        factor = extended_factor(self.factor.matrix, self.hops, self.n_channels, graph, onto)
        coarse = None if self.coarse is None else self.coarse.extended(graph, onto)
        return GaussianField(factor, np.arange(onto.n_vertices), self.n_channels, self.hops, coarse)

    def _ordered(self, x: np.ndarray) -> np.ndarray:
        return x.reshape(len(x), len(self._place))[:, self._place]

    def _natural(self, x: np.ndarray) -> np.ndarray:
        out = np.empty_like(x)
        out[:, self._place] = x
        return out.reshape(len(x), self.n_vertices, self.n_channels)

    def _solve_triangle(self, z: np.ndarray, *, transposed: bool = False) -> np.ndarray:
        return self.factor.solve(z.T, transposed=transposed).T

    def _covary(self, x: np.ndarray) -> np.ndarray:
        """Multiply rows by the covariance P_0^{-1}, all in elimination order."""
        return self._solve_triangle(self._solve_triangle(x, transposed=True))

    def block_covariance(
        self, label: Int[np.ndarray, " vertex"], size: Float[np.ndarray, "block channel"], run: Run = one_by_one
    ) -> Float[np.ndarray, "variable variable"]:
        """Covariance before any correction of block means over their scale, by label with channels fastest."""
        return self.factor.covariance(self._averages(label, size), run)

    def _averages(self, label: Int[np.ndarray, " vertex"], size: Float[np.ndarray, "block channel"]) -> sp.csr_array:
        """Matrix A of block means over their scale, of variables in elimination order."""
        rows = sp.csr_array(sp.kron(averages(label), sp.eye_array(self.n_channels)))[:, self._place]
        return sp.csr_array(sp.diags_array(1 / size.reshape(-1)) @ rows)

    @cached_property
    def _match(self) -> _Matched:
        """Block means before the correction."""
        assert self.coarse is not None
        before = self.coarse.before
        rows = self._averages(self.coarse.label.cpu().numpy(), self.coarse.size.cpu().numpy())
        covariance = self.factor.covariance(rows, one_by_one) if before is None else before.cpu().numpy()
        return _Matched(rows, cho_factor(covariance, lower=True))

    @cached_property
    def _correction(self) -> LowRank | None:
        """Term that the correction adds to the precision, in elimination order."""
        if self.coarse is None:
            return None
        match, identity = self._match, np.eye(self.coarse.law.n_vertices * self.n_channels)
        inner = np.linalg.inv(self.coarse.law.covariance()) - cho_solve(match.root, identity)
        return LowRank(match.rows, (inner + inner.T) / 2)

    def precision(self) -> sp.csc_array:
        """Sparse precision P_0 of the field before any correction, in elimination order."""
        return self._precision

    @cached_property
    def _precision(self) -> sp.csc_array:
        return sp.csc_array(self.factor.matrix.T @ self.factor.matrix)

    def dense_factor(self) -> Float[np.ndarray, "variable variable"]:
        """Lower triangular factor of the corrected precision, in elimination order. For small fields."""
        dense = self.precision().toarray()
        if self._correction is not None:
            dense += self._correction.rows.T @ (self._correction.inner @ self._correction.rows)
        # G'G from LL' of the same variables backwards
        return np.ascontiguousarray(np.linalg.cholesky(dense[::-1, ::-1]).T[::-1, ::-1])

    def _direct_denoiser(self, t: float) -> Operator:
        """Solve (a^2 I + s^2 P) m = a x."""
        system = signal_scale(t) ** 2 * sp.eye_array(len(self._place)) + noise_scale(t) ** 2 * self.precision()
        added = self._correction and self._correction.times(noise_scale(t) ** 2)
        solve = direct_solver(sp.csc_array(system), added)
        return lambda x: solve(signal_scale(t) * x)

    def _iterative_denoiser(self, t: float) -> Operator:
        """Solve (C + sigma^2 I) w = x / a for m = C w = x / a - sigma^2 w, C the covariance and sigma = s / a.

        The preconditioner is a local law of the noised field and, on block means A x, whose covariance Q is known,
        the exact one: U'U + A'(Q + sigma^2 A A')^{-1} A.
        """
        sigma, excess, means = noise_to_signal(t), self._excess, None
        factor = self._local_laws.noised_factor(sigma)
        if self.coarse is not None:
            rows = self._match.rows
            law = self.coarse.law.covariance() + sigma**2 * (rows @ rows.T).toarray()
            means = LowRank(rows, cho_solve(cho_factor(law, lower=True), np.eye(len(law))))

        def covary(x: np.ndarray) -> np.ndarray:
            plain = self._covary(x)
            return plain if excess is None else self._covary(x + excess(plain))

        def precondition(x: np.ndarray) -> np.ndarray:
            plain: np.ndarray = (factor.T @ (factor @ x.T)).T
            return plain if means is None else plain + means(x)

        def denoise(x: np.ndarray) -> np.ndarray:
            y = x / signal_scale(t)
            w = conjugate_gradients(lambda v: covary(v) + sigma**2 * v, precondition, y)
            return y - sigma**2 * w if sigma < 1 else covary(w)  # the form without cancellation

        return denoise

    @cached_property
    def _excess(self) -> LowRank | None:
        """E of the corrected covariance C = C_0 + C_0 E C_0, C_0 = P_0^{-1}: E = A' C_z^{-1} (Q - C_z) C_z^{-1} A."""
        if self.coarse is None:
            return None
        match, root = self._match, np.tril(self._match.root[0])
        half = cho_solve(match.root, self.coarse.law.covariance() - root @ root.T)
        return LowRank(match.rows, cho_solve(match.root, half.T))

    @cached_property
    def _local_laws(self) -> LocalLaws:
        """Draws of the field, for preconditioners."""
        draws = np.empty((len(self._place), N_DRAWS), dtype=np.float32)
        for i in range(N_DRAWS):  # one by one, to save memory
            draws[:, i] = self._ordered(self.sample(1, seed=0, first_member=i))[0]
        return LocalLaws(self.factor.matrix, draws)


@final
class CoarseLaw(Module):
    """Law of the block means of a field.

    Parameters
    ----------
    label : ndarray or Tensor of int, shape (vertex,)
        Block of each vertex.
    step : int
        Cells of a box along each axis, as in `nearfield.graph.coarsening.coarsen`.
    size : ndarray or Tensor, shape (block, channel)
        Scale of the means.
    law : GaussianField
        Law of the means over their scale, a vertex for each block.
    before : ndarray or Tensor, shape (variable, variable), optional
        Their covariance without the correction, by block with channels fastest, if it is known.
    """

    settings = ("step",)
    label: Tensor
    size: Tensor
    before: Tensor | None

    def __init__(
        self,
        label: Int[np.ndarray, " vertex"] | Int[Tensor, " vertex"],
        step: int,
        size: Float[np.ndarray, "block channel"] | Float[Tensor, "block channel"],
        law: GaussianField,
        before: Float[np.ndarray, "variable variable"] | Float[Tensor, "variable variable"] | None = None,
    ) -> None:
        super().__init__()
        self.register_buffer("label", as_tensor(label))
        self.register_buffer("size", as_tensor(size))
        self.register_buffer("before", None if before is None else as_tensor(before))
        self.step, self.law = step, law

    def extended(self, graph: DependencyGraph, onto: DependencyGraph) -> CoarseLaw | None:
        """Return the law of the blocks of a larger lattice; None, with a warning, for too few blocks."""
        old, new = coarsen(graph, self.step), coarsen(onto, self.step)
        try:
            law = self.law.extended(old.graph, new.graph)
        except ValueError:
            warnings.warn(
                f"the extension drops the correction at larger scales: {graph!r} has too few blocks of {self.step} "
                f"cells a side for {onto!r}; fit larger samples",
                stacklevel=2,
            )
            return None
        return CoarseLaw(new.label, new.step, self.size[:1].expand(new.graph.n_vertices, -1), law)


class _Matched(NamedTuple):
    """Block means A in elimination order, and the Cholesky factor of their covariance before the correction."""

    rows: sp.csr_array
    root: tuple[Float[np.ndarray, "block block"], bool]
