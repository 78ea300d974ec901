r"""Localized likelihood-informed subspaces (Cui, Liu and Tong, arXiv 2410.11771), after whitening by a local map.

With prior N(0, I) and likelihood l let :math:`g = \nabla \log l` and H its Hessian. Directions of block i matter by

.. math:: D_i = \mathrm E[g_i g_i^\top] + \sum_k \mathrm E[H_{ik} H_{ki}], \tag{C.4}

and its projector :math:`P_i` keeps leading eigenvectors until the others sum up to the tolerance. The likelihood
:math:`\log l_r(x) = \mathrm E[\log l \mid P x]` has a score that differs from that of l by at most

.. math:: \mathrm E |\nabla_j \log l - \nabla_j \log l_r|^2 \le \mathrm{tr}\, Q_j \mathrm E[g_j g_j^\top] Q_j
    + \sum_i \mathrm{tr}\, Q_i \mathrm E[H_{ij} H_{ji}] Q_i, \qquad Q = I - P. \tag{C.5}

Columns of H come from products with probes that are joint for blocks without a common neighbour: their number does not
depend on the size of the field. With all vertices in one block this is the global likelihood-informed subspace.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, final

import numpy as np
import torch
from scipy.sparse import block_diag, coo_array, csr_array, eye_array

from nearfield._checks import whole_number
from nearfield.graph import DependencyGraph
from nearfield.graph.coloring import greedy_coloring
from nearfield.noise import Stream, normals, seed_of
from nearfield.posterior.coloring import pairs_of
from nearfield.posterior.density import Factors, LocalDensity, block_numbers

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from numpy.typing import ArrayLike
    from torch import Tensor

__all__ = ["LocalizedSubspace", "localized_subspace", "transformed"]

_NUMBERS = 2**24  # of products that are held at once


def transformed(factors: Factors, matrix: Any, offsets: Float[np.ndarray, "offset row"] | None = None) -> Factors:
    r"""Factors of w where those given are of :math:`x = A w`, or their mean over :math:`x = A w + b`.

    Parameters
    ----------
    factors : Factors
    matrix : sparse or dense matrix (row, column)
        A, with few entries in each row.
    offsets : float array (offset, row), optional
        Values of b.

    Examples
    --------
    >>> square = Factors(np.array([[0], [1]]), lambda x: x[..., 0] ** 2)
    >>> transformed(square, np.array([[1.0, 1.0], [0.0, 2.0]]))(torch.tensor([3.0, 4.0], dtype=torch.float64)).tolist()
    [49.0, 64.0]
    """
    A = csr_array(matrix, dtype=np.float64)
    n_factors, n_members = factors.vertices.shape
    rows = A[factors.vertices.ravel()].tocoo()
    owner, member = np.divmod(rows.coords[0], n_members)
    keys, place = np.unique(owner * A.shape[1] + rows.coords[1], return_inverse=True)
    owners, columns = np.divmod(keys, A.shape[1])
    count = np.bincount(owners, minlength=n_factors)
    first = np.cumsum(count) - count
    vertices = np.zeros((n_factors, count.max(initial=1)), dtype=np.int64)
    vertices[:] = np.where(count > 0, columns[np.minimum(first, len(columns) - 1)], 0)[:, None]
    vertices[owners, np.arange(len(keys)) - first[owners]] = columns
    weights = np.zeros((n_factors, n_members, vertices.shape[1]))
    weights[owner, member, place - first[owner]] = rows.data
    b = np.zeros((1, A.shape[0])) if offsets is None else offsets
    shifts = np.moveaxis(b[:, factors.vertices], 0, 1)  # (factor, offset, member)

    def log_density(w: Tensor, weights: Tensor, shifts: Tensor, *parameters: Tensor) -> Tensor:
        x = torch.einsum("...fw,fmw->...fm", w, weights).unsqueeze(-3) + shifts.transpose(0, 1)
        return factors.log_density(x, *parameters).mean(-2)

    return Factors(vertices, log_density, [weights, shifts, *factors.parameters])


@final
@dataclass(frozen=True, eq=False)
class LocalizedSubspace:
    """Directions of each block that the data inform, and the posterior that reads nothing else of the likelihood.

    Attributes
    ----------
    diagnostic : tuple of float arrays (member, member)
        The matrix of (C.4) of each block, over its vertices in increasing order.
    ranks : int array (block,)
        Directions that are kept.
    projector : sparse array (vertex, vertex)
        P, block diagonal.
    bound : float array (block,)
        Right side of (C.5).
    error : float array (block,)
        Left side of (C.5) at the same states.
    posterior : LocalDensity
        Of the whitened field: the prior times the reduced likelihood.
    """

    diagnostic: tuple[Float[np.ndarray, "member member"], ...]
    ranks: Int[np.ndarray, " block"]
    projector: csr_array
    bound: Float[np.ndarray, " block"]
    error: Float[np.ndarray, " block"]
    posterior: LocalDensity


def localized_subspace(
    prior: Any,
    likelihood: Sequence[Factors],
    graph: DependencyGraph,
    tol: float,
    *,
    blocks: int | ArrayLike = 1,
    reference: int | Float[np.ndarray, "sample vertex"] = 200,
    n_averages: int = 16,
    seed: int = 0,
) -> LocalizedSubspace:
    r"""Find the informed directions of each block by (C.4), and project the likelihood on them.

    Parameters
    ----------
    prior : sparse matrix (row, vertex) or None
        Local A of :math:`x = A w`, w standard normal; None where x itself is.
    likelihood : sequence of Factors
        Log-likelihood, of x. Vertices that no factor reads keep their prior.
    graph : DependencyGraph
        Of w; for boxes.
    tol : float
        Largest sum of the eigenvalues that are left out in each block, at least 0.
    blocks : int or int array (vertex,)
        As in `LocalDensity`; one block for all vertices gives the global subspace.
    reference : int or float array (sample, vertex)
        How many draws of the prior the expectations are over, or states w in their place.
    n_averages : int
        Draws that :math:`\log l_r` is a mean over, an even number.
    seed : int

    Raises
    ------
    ValueError
        If `tol` is negative, `n_averages` odd, or a shape does not fit.

    Examples
    --------
    >>> seen = Factors(np.array([[0]]), lambda x: -50 * (x[..., 0] - 1) ** 2)
    >>> subspace = localized_subspace(None, [seen], DependencyGraph.chain(3), tol=0.1)
    >>> subspace.ranks.tolist()
    [1, 0, 0]
    """
    n = len(graph)
    A = eye_array(n, format="csr") if prior is None else csr_array(prior)
    if not tol >= 0:
        raise ValueError(f"tol must be at least 0, got {tol}")
    if A.shape[1] != n or max(f.vertices.max() for f in likelihood) >= A.shape[0]:
        raise ValueError(f"prior must have {n} columns and a row for each vertex of the factors, got shape {A.shape}")
    states = _states(reference, n, seed)
    whitened = likelihood if prior is None else [transformed(f, A) for f in likelihood]
    white = LocalDensity.of_factors(n, [*whitened, _sites(n, 0.0)], block_numbers(graph, blocks))
    members = [np.flatnonzero(white.blocks == j) for j in range(white.n_blocks)]
    diagnostic, bases, bound = _informed(white, states, members, tol)
    P = csr_array(_placed(members, [V @ V.T for V in bases], n))
    reduced = [transformed(f, A @ P, _offsets(A, P, n_averages, seed)) for f in likelihood]
    posterior = LocalDensity.of_factors(n, [*reduced, _sites(n, 1.0)], white.blocks)
    left = (posterior.gradient(states) + states - white.gradient(states)).numpy()
    error = np.array([np.square(left[:, m]).sum(1).mean() for m in members])
    return LocalizedSubspace(diagnostic, np.array([V.shape[1] for V in bases]), P, bound, error, posterior)


def _states(reference: int | Float[np.ndarray, "sample vertex"], n: int, seed: int) -> Float[Tensor, "sample vertex"]:
    """Draws of the prior, or the given states."""
    if isinstance(reference, int):
        count = whole_number("reference", reference, 1)
        reference = normals(seed_of(seed), Stream.EXACT, range(count), 0, n, 1)[..., 0]
    if reference.ndim != 2 or reference.shape[1] != n:
        raise ValueError(f"reference must have shape (sample, {n}), got {reference.shape}")
    return torch.from_numpy(np.array(reference, dtype=np.float64))


def _sites(n: int, weight: float) -> Factors:
    """Prior of each vertex, or nothing, so that each is read."""
    return Factors(np.arange(n)[:, None], lambda x: -0.5 * weight * x[..., 0] ** 2)


def _offsets(A: csr_array, P: csr_array, n_averages: int, seed: int) -> Float[np.ndarray, "offset row"]:
    """Draws of what is projected out, in pairs of opposite sign, so that the mean of a quadratic form is exact."""
    if whole_number("n_averages", n_averages, 2) % 2:
        raise ValueError(f"n_averages must be even, for pairs of opposite sign, got {n_averages}")
    z = normals(seed_of(seed), Stream.CONDITIONAL, range(n_averages // 2), 0, A.shape[1], 1)[..., 0]
    half = (z - z @ P) @ A.T
    return np.concatenate([half, -half])


def _informed(
    white: LocalDensity, states: Float[Tensor, "sample vertex"], members: list[np.ndarray], tol: float
) -> tuple[tuple[np.ndarray, ...], list[np.ndarray], Float[np.ndarray, " block"]]:
    """Matrices of (C.4), bases of the informed directions, and the right side of (C.5)."""
    slopes, probes = white.gradient(states).numpy(), list(_probes(white))
    diagnostic = [_second_moment(slopes[:, m]) for m in members]
    for j, columns in _columns(white, states, members, probes):
        diagnostic[j] += columns @ columns.T / len(states)
    bases = [_leading(D, tol) for D in diagnostic]
    parts = [np.eye(len(V)) - V @ V.T for V in bases]
    bound = np.array([np.trace(_second_moment(slopes[:, m] @ Q)) for m, Q in zip(members, parts, strict=True)])
    whole = csr_array(_placed(members, parts, len(white.blocks)))
    for j, columns in _columns(white, states, members, probes, whole):
        bound[j] += np.square(columns).sum() / len(states)
    return tuple(diagnostic), bases, bound


def _second_moment(g: Float[np.ndarray, "sample member"]) -> Float[np.ndarray, "member member"]:
    moment: np.ndarray = g.T @ g / len(g)
    return moment


def _leading(D: Float[np.ndarray, "member member"], tol: float) -> Float[np.ndarray, "member rank"]:
    """Leading eigenvectors, the fewest whose left-out eigenvalues sum up to at most the tolerance."""
    values, vectors = np.linalg.eigh(D)
    values = np.where(values > 1e-14 * values[-1], values, 0.0)
    return vectors[:, np.searchsorted(np.cumsum(values), tol, side="right") :][:, ::-1]


def _placed(members: list[np.ndarray], parts: list[np.ndarray], n: int) -> coo_array:
    """Block-diagonal matrix over the vertices of each block."""
    stacked = coo_array(block_diag(parts))
    order = np.concatenate(members)
    return coo_array((stacked.data, (order[stacked.coords[0]], order[stacked.coords[1]])), shape=(n, n))


def _probes(density: LocalDensity) -> Iterator[tuple[np.ndarray, list[np.ndarray]]]:
    """Blocks that are probed together, with the vertices that each reaches: none is reached by two."""
    n, labels = density.n_blocks, density.blocks
    pairs = np.concatenate([pairs_of(labels[f.vertices]) for f in density.factors])
    touching = coo_array((np.ones(len(pairs), dtype=bool), (pairs[:, 0], pairs[:, 1])), shape=(n, n))
    near = csr_array(touching + touching.T + eye_array(n, dtype=bool))
    order = np.argsort(labels, kind="stable")
    edges = np.searchsorted(labels[order], np.arange(n + 1))
    reached = [
        np.concatenate([order[edges[k] : edges[k + 1]] for k in near.indices[near.indptr[j] : near.indptr[j + 1]]])
        for j in range(n)
    ]
    colors = greedy_coloring(near @ near)
    for c in range(colors.max() + 1):
        together = np.flatnonzero(colors == c)
        yield together, [reached[j] for j in together]


def _columns(
    density: LocalDensity,
    states: Float[Tensor, "sample vertex"],
    members: list[np.ndarray],
    probes: list[tuple[np.ndarray, list[np.ndarray]]],
    Q: csr_array | None = None,
) -> Iterator[tuple[int, Float[np.ndarray, "member entry"]]]:
    """Columns of the Hessian, or of Q H, at each block: over states and vertices in one axis, in batches of states."""
    size = max(len(m) for m in members)
    for batch in states.split(max(1, _NUMBERS // (size * states.shape[1]))):
        for together, reached in probes:
            products = []
            for slot in range(max(len(members[j]) for j in together)):
                chosen = [members[j][slot] for j in together if slot < len(members[j])]
                v = torch.zeros_like(batch)
                v[:, chosen] = 1.0
                product = density.hessian_product(batch, v).numpy()
                products.append(product if Q is None else product @ Q)
            columns = np.stack(products)
            for j, rows in zip(together, reached, strict=True):
                yield j, columns[: len(members[j]), :, rows].reshape(len(members[j]), -1)
