"""The network of lattices: a stack of convolutions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, final

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from nearfield.graph import DependencyGraph
from nearfield.lattice import whole_number
from nearfield.score.network import Affine, Modulation, Network, Site, uniform

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

__all__ = ["StencilNetwork"]


@final
class StencilNetwork(Network):
    r"""Stack of `radius` residual convolutions of width 3, the same at every vertex of a lattice.

    Each convolution reads the cell and those it touches on the graph: by faces, or with a diagonal lattice by edges
    and corners too. Its input is zero on cells that are absent. So the stack reads exactly the cells within `radius`
    hops along paths of cells that are there: the ball of :math:`\ell_1`, or of Chebyshev's distance with diagonals,
    and behind a wall only what a path around it reaches. In a layer, h is the state of a cell, m one or zero as the
    cell is there or not::

        h = W x + E + b                               E the cell's embedding; m b is the mask channel
        h = h + conv(m silu(scale h + shift))         radius times; scale and shift by the noise level (FiLM)
        F = V silu(U silu(scale (h + Q q) + shift))   V zero at first

    Parameters
    ----------
    graph : DependencyGraph
        On a lattice of one to three axes.
    radius : int
        Number of convolutions.
    n_channels, n_shown : int
        As in `Network`.
    width : int
        Features of a cell.
    embedding : int
        Learned numbers of each vertex, for laws that differ from place to place; 0 for none, 8 is usual.
    seed : int
        Of the initial weights.

    Raises
    ------
    TypeError, ValueError
        If the graph is no lattice, or a number is not whole or too small.

    Examples
    --------
    >>> network = StencilNetwork(DependencyGraph.chain(5), radius=2)
    >>> network(torch.ones(1, 5, 1), None, torch.zeros(1)).flatten().tolist()
    [0.0, 0.0, 0.0, 0.0, 0.0]
    """

    _mask: Tensor | None
    _cells: Tensor | None

    def __init__(
        self,
        graph: DependencyGraph,
        radius: int,
        n_channels: int = 1,
        n_shown: int = 0,
        width: int = 32,
        embedding: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__(graph, radius, n_channels, n_shown)
        if graph.lattice is None:
            raise ValueError(f"graph must be a lattice, got {graph!r}; use WindowNetwork on other graphs")
        self.width = whole_number("width", width, 1, "give the number of features of a cell")
        generator = torch.Generator().manual_seed(seed)
        lattice = graph.lattice
        # One axis is computed as two: on processors the two-dimensional convolution is the faster one.
        self._shape = lattice.shape if len(lattice.shape) > 1 else (1, *lattice.shape)
        periodic = lattice.periodic if len(lattice.shape) > 1 else (False, *lattice.periodic)
        reach = tuple(1 if axis >= len(self._shape) - len(lattice.shape) else 0 for axis in range(len(self._shape)))
        self.enter = Affine(n_channels, width, generator)
        self.site = Site(len(graph), embedding, width, generator)
        self.convolutions = nn.ModuleList(
            Convolution(width, reach, periodic, lattice.diagonal, generator) for _ in range(self.radius)
        )
        self.modulation = Modulation(width, self.radius + 1, generator)
        self.show = uniform((width, n_shown), n_shown, generator)
        self.mix = Affine(width, width, generator)
        self.leave = Affine(width, n_channels, generator, zero=True)
        mask = None if graph.keep is None else torch.tensor(graph.keep).reshape(1, 1, *self._shape).float()
        cells = None if graph.keep is None else torch.from_numpy(np.flatnonzero(graph.keep))
        self.register_buffer("_mask", mask, persistent=False)
        self.register_buffer("_cells", cells, persistent=False)

    def settings(self) -> dict[str, Any]:
        """Arguments of the constructor besides graph and seed."""
        return {
            "radius": self.radius,
            "n_channels": self.n_channels,
            "n_shown": self.n_shown,
            "width": self.width,
            "embedding": self.site.size,
        }

    def forward(
        self,
        x: Float[Tensor, "sample vertex channel"],
        shown: Float[Tensor, "sample vertex shown"] | None,
        level: Float[Tensor, " sample"],
    ) -> Float[Tensor, "sample vertex channel"]:
        """Return F; arguments as in `Network.forward`."""
        film = self.modulation(level)
        h = self.enter(x) + self.site() if self.site.size else self.enter(x)
        h = self._on_lattice(h)
        ahead = (..., *(None,) * len(self._shape))
        for convolution, (scale, shift) in zip(self.convolutions, film, strict=False):
            active = functional.silu(torch.addcmul(shift[ahead], scale[ahead], h))
            h = h + convolution(active if self._mask is None else self._mask * active)
        h = self._on_vertices(h)
        if shown is not None:
            h = h + functional.linear(shown, self.show)
        scale, shift = film[-1]
        h = functional.silu(torch.addcmul(shift[:, None], scale[:, None], h))
        return self.leave(functional.silu(self.mix(h)))

    def _on_lattice(self, h: Float[Tensor, "sample vertex width"]) -> Tensor:
        """Features as (sample, width, *axes), in memory still with the features of a cell side by side."""
        if self._cells is not None:
            everywhere = h.new_zeros(len(h), int(np.prod(self._shape)), self.width)
            h = everywhere.index_copy(1, self._cells, h)
        return h.reshape(len(h), *self._shape, self.width).movedim(-1, 1)

    def _on_vertices(self, h: Tensor) -> Float[Tensor, "sample vertex width"]:
        h = h.movedim(1, -1).reshape(len(h), -1, self.width)
        return h if self._cells is None else h[:, self._cells]


@final
class Convolution(nn.Module):
    """Convolution of a cell and the cells it touches; zero beyond a border, around the ends of periodic axes.

    On lattices without diagonals the corners of the kernel are held at zero: on processors one full convolution is
    faster than one along each axis.
    """

    def __init__(
        self,
        width: int,
        reach: tuple[int, ...],
        periodic: tuple[bool, ...],
        diagonal: bool,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.touches: Tensor
        self.reach, self.periodic = reach, periodic
        steps = np.meshgrid(*(np.arange(-r, r + 1) for r in reach), indexing="ij")
        touches = torch.from_numpy(np.sum(np.abs(steps), axis=0) <= (len(reach) if diagonal else 1))
        fan_in = width * int(touches.sum())
        self.weight = uniform((width, width, *touches.shape), fan_in, generator)
        self.bias = uniform((width,), fan_in, generator)
        self.register_buffer("touches", touches.float(), persistent=False)

    def forward(self, h: Float[Tensor, "sample width *axes"]) -> Float[Tensor, "sample width *axes"]:
        """Return the convolution of `h`, of its shape."""
        flat = len(self.reach) == 2
        kernel = (self.weight * self.touches).contiguous(
            memory_format=torch.channels_last if flat else torch.channels_last_3d
        )
        beyond = []
        for axis, (reach, periodic) in enumerate(zip(self.reach, self.periodic, strict=True)):
            beyond.append(0 if periodic else reach)
            if periodic:
                size = h.shape[axis + 2]
                h = torch.cat([h.narrow(axis + 2, size - 1, 1), h, h.narrow(axis + 2, 0, 1)], dim=axis + 2)
        return (functional.conv2d if flat else functional.conv3d)(h, kernel, self.bias, padding=tuple(beyond))
