r"""Densities that are products of local factors, :math:`\log p(x) = \sum_k f_k(x_{C_k}) + \mathrm{const}` (N.14)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple, final

import numpy as np
import torch

from nearfield._checks import whole_number
from nearfield.graph import DependencyGraph
from nearfield.graph.coarsening import coarsen
from nearfield.posterior.coloring import greedy_coloring, pairs_of, require_proper

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from numpy.typing import ArrayLike
    from torch import Tensor

__all__ = ["Factors", "LocalDensity", "Part", "block_numbers"]


@final
@dataclass(frozen=True, eq=False)
class Factors:
    """Factors of one formula.

    Parameters
    ----------
    vertices : int array (factor, member)
        Vertices that each factor reads. A vertex may occur twice in a row, so that rows can be filled up.
    log_density : callable
        Torch function ``f(values, *parameters)`` of values ``(..., factor, member)`` that returns ``(..., factor)``. It
        gets some of the factors, with their rows of the parameters, and treats each of them by itself.
    parameters : sequence of arrays (factor, ...)
        What differs between factors, such as observations and weights.

    Raises
    ------
    ValueError
        If `vertices` is not a table of vertex numbers, or a parameter has another number of rows.

    Examples
    --------
    >>> bonds = Factors(np.array([[0, 1], [1, 2]]), lambda x, w: -0.5 * w * (x[..., 0] - x[..., 1]) ** 2, [[1.0, 2.0]])
    >>> bonds(torch.tensor([0.0, 1.0, 3.0])).tolist()
    [-0.5, -4.0]
    """

    vertices: Int[np.ndarray, "factor member"]
    log_density: Callable[..., Tensor]
    parameters: Sequence[ArrayLike] = ()

    def __post_init__(self) -> None:
        vertices = np.asarray(self.vertices)
        if vertices.ndim != 2 or not np.issubdtype(vertices.dtype, np.integer) or vertices.min(initial=0) < 0:
            raise ValueError(
                f"vertices must be non-negative integers of shape (factor, member), got {vertices.dtype} of shape "
                f"{vertices.shape}"
            )
        parameters = tuple(torch.tensor(np.asarray(p), dtype=torch.float64) for p in self.parameters)
        for i, parameter in enumerate(parameters):
            if parameter.ndim == 0 or len(parameter) != len(vertices):
                raise ValueError(
                    f"parameters[{i}] must have a row for each of {len(vertices)} factors, got shape "
                    f"{tuple(parameter.shape)}"
                )
        object.__setattr__(self, "vertices", vertices.astype(np.int64))
        object.__setattr__(self, "parameters", parameters)

    def __len__(self) -> int:
        return len(self.vertices)

    def __call__(self, x: Tensor) -> Tensor:
        """Evaluate each factor on states ``(..., vertex)``."""
        # Backwards, gather takes a third of the time of an index.
        flat = torch.from_numpy(self.vertices.ravel()).expand(*x.shape[:-1], -1)
        return self.log_density(x.gather(-1, flat).unflatten(-1, self.vertices.shape), *self.parameters)

    def part(self, rows: Int[np.ndarray, " row"], vertices: Int[np.ndarray, "row member"]) -> Factors:
        """Take some of the factors, and give their members other numbers."""
        parameters = [np.asarray(p)[rows] for p in self.parameters]
        return Factors(vertices, self.log_density, parameters)


class Part(NamedTuple):
    """Blocks of one colour, and the factors that read them.

    Attributes
    ----------
    blocks : int64 tensor (block,)
        Numbers of the blocks.
    moving : int64 tensor (moving,)
        Vertices of these blocks.
    block : int64 tensor (moving,)
        Place in `blocks` of the block of each.
    support : int64 tensor (support,)
        Vertices that the factors read.
    place : int64 tensor (moving,)
        Place of `moving` in `support`.
    factors : tuple of Factors
        Their members are places in `support`.
    owners : tuple of int64 tensors (factor,)
        Place in `blocks` of the one block of this colour that each factor reads.
    """

    blocks: Tensor
    moving: Tensor
    block: Tensor
    support: Tensor
    place: Tensor
    factors: tuple[Factors, ...]
    owners: tuple[Tensor, ...]

    def log_density(self, x: Tensor) -> Tensor:
        """Sum the factors of each block on values ``(chain, support)``."""
        total = x.new_zeros(len(x), len(self.blocks))
        for factors, owner in zip(self.factors, self.owners, strict=True):
            total = total.index_add(1, owner, factors(x))
        return total

    def gradient(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the sums (chain, block), and their gradient at the moving vertices (chain, moving)."""
        x = x.detach().requires_grad_()
        total = self.log_density(x)
        (slope,) = torch.autograd.grad(total.sum(), x)
        return total.detach(), slope[:, self.place]


@final
class LocalDensity:
    r"""Unnormalised density on a graph, :math:`\log p(x) = \sum_k f_k(x_{C_k}) + \mathrm{const}` (N.14).

    The members of a factor are neighbours of each other, since :math:`\nabla^2_{ij} \log p = 0` off the edges, (2.9).
    When blocks move, only the factors that read them are evaluated.

    Parameters
    ----------
    graph : DependencyGraph
    factors : sequence of Factors
        Together they read every vertex.
    blocks : int or int array (vertex,)
        Number of the block of each vertex. An int is the side of boxes on a lattice, of clusters of as many vertices as
        a box in the plane on other graphs; 1 for single vertices.
    colors : int array (block,), optional
        Colour of each block; blocks that share a factor differ. By default a greedy colouring.

    Raises
    ------
    ValueError
        If two members of a factor are no neighbours, a vertex is in no factor, or the colouring is not proper.

    Examples
    --------
    >>> vertices = Factors(np.arange(3)[:, None], lambda x: -(x[..., 0] ** 2))
    >>> bonds = Factors(np.array([[0, 1], [1, 2]]), lambda x: x[..., 0] * x[..., 1])
    >>> density = LocalDensity(DependencyGraph.chain(3), [vertices, bonds])
    >>> density.colors.tolist(), density.gradient(torch.ones(3)).tolist()
    ([1, 0, 1], [-1.0, 0.0, -1.0])
    """

    def __init__(
        self,
        graph: DependencyGraph,
        factors: Sequence[Factors],
        blocks: int | ArrayLike = 1,
        colors: ArrayLike | None = None,
    ) -> None:
        self.graph = graph
        self.factors = tuple(factors)
        members = [f.vertices for f in self.factors]
        _require_neighbors(graph, members)
        self.blocks = block_numbers(graph, blocks)
        if colors is None:
            self.colors = greedy_coloring(self.blocks, members)
        else:
            self.colors = np.asarray(colors)
            if self.colors.shape != (self.n_blocks,):
                raise ValueError(f"colors must have shape ({self.n_blocks},), got {self.colors.shape}")
            require_proper(self.colors, self.blocks, members)

    @classmethod
    def of_factors(cls, n_vertices: int, factors: Sequence[Factors], blocks: int | ArrayLike = 1) -> LocalDensity:
        """Density on the smallest graph that has the factors.

        >>> LocalDensity.of_factors(3, [Factors(np.array([[0, 1, 2]]), lambda x: -(x**2).sum(-1))]).graph
        DependencyGraph(3 vertices, 3 edges)
        """
        pairs = [pairs_of(f.vertices) for f in factors]
        return cls(DependencyGraph.from_edges(n_vertices, np.concatenate(pairs)), factors, blocks)

    @property
    def n_vertices(self) -> int:
        """Number of vertices."""
        return self.graph.n_vertices

    @property
    def n_blocks(self) -> int:
        """Number of blocks."""
        return int(self.blocks.max()) + 1

    def log_density(self, x: Float[Tensor, "*batch vertex"]) -> Float[Tensor, "*batch"]:
        """Logarithm of the density up to a constant, in nats."""
        return torch.stack([f(x).sum(-1) for f in self.factors]).sum(0)

    def gradient(self, x: Float[Tensor, "*batch vertex"]) -> Float[Tensor, "*batch vertex"]:
        """Gradient of the log-density: the score."""
        x = x.detach().requires_grad_()
        return torch.autograd.grad(self.log_density(x).sum(), x)[0]

    def hessian_product(
        self, x: Float[Tensor, "*batch vertex"], v: Float[Tensor, "*batch vertex"]
    ) -> Float[Tensor, "*batch vertex"]:
        """Product of the Hessian of the log-density at `x` with `v`."""
        x = x.detach().requires_grad_()
        (slope,) = torch.autograd.grad(self.log_density(x).sum(), x, create_graph=True)
        return torch.autograd.grad((slope * v).sum(), x)[0]

    def changes(
        self, x: Float[Tensor, "chain vertex"], y: Float[Tensor, "chain vertex"], color: int
    ) -> Float[Tensor, "chain block"]:
        """Change of the log-density when one block of a colour moves from `x` to `y` and all else stays at `x`."""
        part = self.parts[color]
        there = x[:, part.support].index_copy(1, part.place, y[:, part.moving])
        return part.log_density(there) - part.log_density(x[:, part.support])

    @cached_property
    def parts(self) -> tuple[Part, ...]:
        """Blocks of each colour with the factors that read them, in increasing order of the colours."""
        return tuple(self._part(color) for color in np.unique(self.colors))

    def _part(self, color: int) -> Part:
        blocks = np.flatnonzero(self.colors == color)
        place_of = np.full(self.n_blocks, -1)
        place_of[blocks] = np.arange(len(blocks))
        touched, owners, members = [], [], []
        for factors in self.factors:
            owner = place_of[self.blocks[factors.vertices]].max(axis=1, initial=-1)  # one block at most: proper colours
            touched.append(np.flatnonzero(owner >= 0))
            owners.append(torch.from_numpy(owner[touched[-1]]))
            members.append(factors.vertices[touched[-1]])
        moving = np.flatnonzero(place_of[self.blocks] >= 0)
        support = np.unique(np.concatenate([m.ravel() for m in members]))
        local = [np.searchsorted(support, m) for m in members]
        return Part(
            torch.from_numpy(blocks),
            torch.from_numpy(moving),
            torch.from_numpy(place_of[self.blocks[moving]]),
            torch.from_numpy(support),
            torch.from_numpy(np.searchsorted(support, moving)),
            tuple(f.part(*chosen) for f, *chosen in zip(self.factors, touched, local, strict=True)),
            tuple(owners),
        )

    def require_finite(self, x: Float[Tensor, "chain vertex"]) -> None:
        """Refuse states at which a factor is not finite.

        Raises
        ------
        ValueError
            If a factor is not finite, or returns another shape than one value for each factor.
        """
        for k, factors in enumerate(self.factors):
            values = factors(x)
            if values.shape != (len(x), len(factors)):
                raise ValueError(
                    f"factors[{k}].log_density must return shape (..., factor), here {(len(x), len(factors))}, got "
                    f"{tuple(values.shape)}"
                )
            bad = torch.nonzero(~torch.isfinite(values))
            if len(bad):
                chain, row = bad[0].tolist()
                raise ValueError(
                    f"start must have a finite log-density, got {values[chain, row].item()} for factor {row} of "
                    f"factors[{k}] on vertices {factors.vertices[row].tolist()} in chain {chain}"
                )


def _require_neighbors(graph: DependencyGraph, members: Sequence[np.ndarray]) -> None:
    """Refuse factors beyond the graph, factors off its edges, and vertices without a factor."""
    read = np.zeros(graph.n_vertices, dtype=bool)
    adjacency = graph.adjacency
    for k, vertices in enumerate(members):
        if vertices.max(initial=0) >= graph.n_vertices:
            raise ValueError(
                f"factors[{k}].vertices must be below {graph.n_vertices} on {graph!r}, got {vertices.max()}"
            )
        read[vertices] = True
        pairs = pairs_of(vertices)
        if not len(pairs):
            continue
        apart = np.flatnonzero(~np.asarray(adjacency[pairs[:, 0], pairs[:, 1]]).ravel())
        if len(apart):
            raise ValueError(
                f"factors[{k}] must join neighbours of the graph, (2.9), got vertices {pairs[apart[0]].tolist()}, "
                f"which have no edge"
            )
    if not read.all():
        raise ValueError(f"factors must read every vertex, got none for vertex {np.flatnonzero(~read)[0]}")


def block_numbers(graph: DependencyGraph, blocks: int | ArrayLike) -> Int[np.ndarray, " vertex"]:
    """Block of each vertex, numbered from 0 without gaps."""
    if isinstance(blocks, int):
        step = whole_number("blocks", blocks, 1, "give the side of boxes")
        return np.arange(graph.n_vertices) if step == 1 else coarsen(graph, step).label
    label = np.asarray(blocks)
    if label.shape != (graph.n_vertices,):
        raise ValueError(f"blocks must have shape ({graph.n_vertices},), got {label.shape}")
    return np.unique(label, return_inverse=True)[1]
