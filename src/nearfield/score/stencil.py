"""The network of lattices: a stack of convolutions."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, final

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from nearfield._checks import whole_number
from nearfield.graph import DependencyGraph
from nearfield.module import settings_of
from nearfield.score.extension import alike
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

        h = W x + Q q + E + b                          q the context, E the cell's embedding
        h = h + conv(m silu(scale h + shift))          radius times; scale and shift by the noise level (FiLM)
        F = V silu(U silu(scale (h + Q' q) + shift))   V zero at first

    The context is read as far as the state: a Gaussian that reads more than the stack tells it more at the neighbours
    than at the cell alone.

    Parameters
    ----------
    graph : DependencyGraph
        On a lattice of one to three axes.
    radius : int
        Number of convolutions.
    n_channels, n_context : int
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

    settings = ("radius", "n_channels", "n_context", "width", "embedding")
    _mask: Tensor | None
    _cells: Tensor | None

    def __init__(
        self,
        graph: DependencyGraph,
        radius: int,
        n_channels: int = 1,
        n_context: int = 0,
        width: int = 32,
        embedding: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__(graph, radius, n_channels, n_context)
        if graph.lattice is None:
            raise ValueError(f"graph must be a lattice, got {graph!r}; use WindowNetwork on other graphs")
        self.width = whole_number("width", width, 1, "give the number of features of a cell")
        generator = torch.Generator().manual_seed(seed)
        lattice = graph.lattice
        # One axis is computed as two: on processors the two-dimensional convolution is the faster one.
        missing = max(0, 2 - len(lattice.shape))
        self._shape = (1,) * missing + lattice.shape
        periodic = (False,) * missing + lattice.periodic
        reach = (0,) * missing + (1,) * len(lattice.shape)
        self.enter = Affine(n_channels, width, generator)
        self.site = Site(len(graph), embedding, width, generator)
        self.embedding = self.site.size
        self.convolutions = nn.ModuleList(
            _Convolution(width, reach, periodic, lattice.diagonal, generator) for _ in range(self.radius)
        )
        self.modulation = Modulation(width, self.radius + 1, generator)
        self.context_first, self.context_last = (uniform((width, n_context), n_context, generator) for _ in range(2))
        self.mix = Affine(width, width, generator)
        self.leave = Affine(width, n_channels, generator, zero=True)
        mask = None if graph.keep is None else torch.tensor(graph.keep).reshape(1, *self._shape, 1).float()
        cells = None if graph.keep is None else torch.from_numpy(np.flatnonzero(graph.keep))
        self.register_buffer("_mask", mask, persistent=False)
        self.register_buffer("_cells", cells, persistent=False)

    @property
    def context_radius(self) -> int:
        """Hops within which it reads the context: as far as the state."""
        return self.radius

    @property
    def numbers_per_sample(self) -> int:
        """Features before and after a layer and what the convolution makes of them."""
        return 8 * math.prod(self._shape) * (self.width + self.n_channels + self.n_context)

    def extended(self, graph: DependencyGraph, onto: DependencyGraph) -> StencilNetwork:
        """Return the network with the same weights on a larger lattice."""
        if self.site.size:
            raise ValueError(
                "a network must be one law on a lattice to be extended, got one with numbers of each vertex; give "
                "pooling=1"
            )
        alike(graph, onto, self.radius)  # refuses windows that it has never seen
        larger = StencilNetwork(onto, **settings_of(self)).to(self.enter.weight)
        weights = {name: value for name, value in self.state_dict().items() if not name.startswith("site.")}
        larger.load_state_dict(weights, strict=False)
        return larger.requires_grad_(False)

    def forward(
        self,
        x: Float[Tensor, "sample vertex channel"],
        context: Float[Tensor, "sample vertex context"] | None,
        c_noise: Float[Tensor, " sample"],
    ) -> Float[Tensor, "sample vertex channel"]:
        """Return F; arguments as in `Network.forward`."""
        if len(x) == 0:  # convolutions take no empty batch
            return torch.zeros_like(x)
        if context is None:
            h = functional.linear(x, self.enter.weight)
        else:  # one product for both
            h = functional.linear(torch.cat([x, context], 2), torch.cat([self.enter.weight, self.context_first], 1))
        if self.site.size:
            h = h + self.site()
        h = self._on_lattice(h)
        mask = None if self._mask is None else self._mask.to(h.dtype)
        # Biases go into the shift: there they cost no pass over the field, nor do their gradients.
        bias = torch.stack([each.get_parameter("bias") for each in (self.enter, *self.convolutions)]).cumsum(dim=0)
        scales, shifts = self.modulation(c_noise)
        film = list(zip(scales.unbind(dim=1), (shifts + scales * bias.to(scales)).unbind(dim=1), strict=True))
        ahead = (slice(None), *(None,) * len(self._shape))
        for convolution, (scale, shift) in zip(self.convolutions, film, strict=False):
            active = functional.silu(torch.addcmul(shift[ahead], scale[ahead], h))
            h = convolution(active if mask is None else mask * active, h)
        h = self._on_vertices(h)
        if context is not None:
            h = torch.addmm(h.flatten(0, 1), context.flatten(0, 1), self.context_last.T).reshape(h.shape)
        scale, shift = film[-1]
        h = functional.silu(torch.addcmul(shift[:, None], scale[:, None], h))
        out: Tensor = self.leave(functional.silu(self.mix(h)))
        return out

    def _on_lattice(self, h: Float[Tensor, "sample vertex width"]) -> Float[Tensor, "sample *axes width"]:
        if self._cells is not None:
            everywhere = h.new_zeros(len(h), math.prod(self._shape), self.width)
            h = everywhere.index_copy(1, self._cells, h)
        return h.reshape(len(h), *self._shape, self.width)

    def _on_vertices(self, h: Float[Tensor, "sample *axes width"]) -> Float[Tensor, "sample vertex width"]:
        h = h.reshape(len(h), -1, self.width)
        return h if self._cells is None else h[:, self._cells]


@final
class _Convolution(nn.Module):
    """Convolution of a cell and the cells it touches; zero beyond a border, around the ends of periodic axes.

    On lattices without diagonals it is a sum of one along each axis, and the corners of the weight are not used.
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
        self.periodic = periodic
        self.axes = [axis for axis, r in enumerate(reach) if r]
        self.whole = diagonal and len(self.axes) > 1
        taps = 3 ** len(self.axes) if self.whole else 1 + 2 * len(self.axes)
        self.weight = uniform((width, width, *(2 * r + 1 for r in reach)), width * taps, generator)
        self.bias = uniform((width,), width * taps, generator)

    def forward(
        self, active: Float[Tensor, "sample *axes width"], h: Float[Tensor, "sample *axes width"]
    ) -> Float[Tensor, "sample *axes width"]:
        """Return `h` plus the convolution of `active`, without the bias."""
        if self.whole:
            return _convolved(active, self.weight, self.periodic, h)
        shape, middle = h.shape, [size // 2 for size in self.weight.shape[2:]]
        for axis in self.axes:
            # As an image of two axes. The line of the last axis has the cell itself, the others the two beside it.
            last, around = axis == self.axes[-1], self.periodic[axis]
            line = [*middle[:axis], slice(None) if last else slice(0, 3, 2), *middle[axis + 1 :]]
            kernel = self.weight[:, :, *line].unsqueeze(2 if last else 3)
            sizes = (len(h), -1, shape[-2]) if last else (-1, shape[axis + 1], math.prod(shape[axis + 2 : -1]))
            image, sum_so_far = active.reshape(*sizes, shape[-1]), h.reshape(*sizes, shape[-1])
            h = _convolved(image, kernel, (around and not last, around and last), sum_so_far).reshape(shape)
        return h


def _convolved(
    active: Float[Tensor, "sample *axes width"],
    kernel: Float[Tensor, "width width *taps"],
    periodic: tuple[bool, ...],
    h: Float[Tensor, "sample *axes width"],
) -> Float[Tensor, "sample *axes width"]:
    """Return `h` plus a convolution; two taps along an axis are the cells beside, three these and the cell itself."""
    image, beyond = active.movedim(-1, 1), []
    for axis, (taps, around) in enumerate(zip(kernel.shape[2:], periodic, strict=True), 2):
        beyond.append(int(taps > 1 and not around))
        if taps > 1 and around:
            last, first = image.narrow(axis, image.shape[axis] - 1, 1), image.narrow(axis, 0, 1)
            image = torch.cat([last, image, first], dim=axis)
    apart = tuple(2 if taps == 2 else 1 for taps in kernel.shape[2:])
    convolve = functional.conv2d if len(beyond) == 2 else functional.conv3d
    return convolve(image, kernel, padding=tuple(beyond), dilation=apart).add_(h.movedim(-1, 1)).movedim(1, -1)
