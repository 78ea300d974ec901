r"""Networks of local scores: functions F of a window, a context and the noise level.

F is the trainable part of the preconditioned denoiser (:mod:`nearfield.score.preconditioning`), with the state as it is
(:math:`c_{in} = 1`) and :math:`c_{noise} = \ln\sigma`. At a vertex it reads the state within `radius` hops, *of the
graph that is left where cells were removed*, and the context within `context_radius`. Absent vertices,
beyond a border or on land, contribute exactly zero at every layer: a network near a border is the network of a
truncated window.
"""

from __future__ import annotations

import abc
import math
from typing import TYPE_CHECKING, Self, final

import torch
from torch import nn
from torch.nn import functional

from nearfield._checks import whole_number
from nearfield.graph import DependencyGraph
from nearfield.module import Module

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

__all__ = ["Affine", "Modulation", "Network", "Site", "scaled", "uniform"]

LARGEST_LOG_NOISE = 7.0
"""Networks read noise-to-signal ratios outside exp(-7) to exp(7), about .001 to 1100, as these ends."""
LOG_NOISE_SCALE = 4.0
"""Divides the log noise before it enters a network: the usual range, .02 to 80, becomes about -1 to 1."""


class Network(Module, abc.ABC):
    """A network on a graph; a subclass writes `forward` and names its settings.

    Parameters
    ----------
    graph : DependencyGraph
    radius : int
        Hops within which a vertex reads the state, at least 0.
    n_channels : int
        Values at a vertex; they enter and leave together.
    n_context : int
        Values of the context at a vertex, at least 0.

    Raises
    ------
    TypeError, ValueError
        If a number is not whole, or too small.
    """

    def __init__(self, graph: DependencyGraph, radius: int, n_channels: int, n_context: int) -> None:
        super().__init__()
        self.graph = graph
        self.radius = whole_number("radius", radius, 0, "give a number of hops; 0 is the vertex alone")
        self.n_channels = whole_number("n_channels", n_channels, 1, "give the number of values at a vertex")
        self.n_context = whole_number("n_context", n_context, 0, "give the number of values of the context")

    @property
    def context_radius(self) -> int:
        """Hops within which a vertex reads the context: 0, the vertex itself, unless a class says more."""
        return 0

    @abc.abstractmethod
    def forward(
        self,
        x: Float[Tensor, "sample vertex channel"],
        context: Float[Tensor, "sample vertex context"] | None,
        c_noise: Float[Tensor, " sample"],
    ) -> Float[Tensor, "sample vertex channel"]:
        """Return F.

        Parameters
        ----------
        x
            State.
        context
            Values that the network is conditioned on at each vertex; None when `n_context` is 0.
        c_noise
            Natural logarithm of the noise-to-signal ratio of each sample.
        """

    @property
    def numbers_per_sample(self) -> int:
        """Floating-point numbers that one sample takes at once, about; more where a class has features."""
        return 8 * len(self.graph) * (self.n_channels + self.n_context)

    def extended(self, graph: DependencyGraph, onto: DependencyGraph) -> Self:  # noqa: ARG002
        """Return the same network on another lattice; most have none."""
        raise ValueError(
            "a network must be one law on a lattice to be extended, got one with numbers of each vertex; give pooling=1"
        )


def uniform(shape: tuple[int, ...], fan_in: int, generator: torch.Generator) -> nn.Parameter:
    r"""Draw weights uniformly within :math:`\pm 1/\sqrt{\text{fan in}}`, from their own generator."""
    return nn.Parameter((2 * torch.rand(shape, generator=generator) - 1) / math.sqrt(max(fan_in, 1)))


@final
class Affine(nn.Module):
    """Affine map of the last axis; zero at first where it ends a network.

    Examples
    --------
    >>> Affine(2, 1, torch.Generator(), zero=True)(torch.ones(3, 2)).flatten().tolist()
    [0.0, 0.0, 0.0]
    """

    def __init__(self, n_in: int, n_out: int, generator: torch.Generator, zero: bool = False) -> None:
        super().__init__()
        if zero:
            self.weight, self.bias = nn.Parameter(torch.zeros(n_out, n_in)), nn.Parameter(torch.zeros(n_out))
        else:
            self.weight, self.bias = uniform((n_out, n_in), n_in, generator), uniform((n_out,), n_in, generator)

    def forward(self, x: Float[Tensor, "... in"]) -> Float[Tensor, "... out"]:
        """Return the image of `x`."""
        return functional.linear(x, self.weight, self.bias)


@final
class Site(nn.Module):
    """First features of each vertex: a map of its embedding, small at first."""

    def __init__(self, n_vertices: int, size: int, width: int, generator: torch.Generator) -> None:
        super().__init__()
        self.size = whole_number("embedding", size, 0, "give the numbers per vertex, 0 for one law everywhere")
        self.embedding = nn.Parameter(0.1 * torch.randn(n_vertices, size, generator=generator))
        self.weight = uniform((width, size), size, generator)

    def forward(self) -> Float[Tensor, "vertex width"]:
        """Return the features."""
        return functional.linear(self.embedding, self.weight)


@final
class Modulation(nn.Module):
    """FiLM: scales and shifts of the features of every layer as functions of the log noise; at first they do nothing.

    Perez et al., "FiLM: visual reasoning with a general conditioning layer" (AAAI 2018).
    """

    def __init__(self, width: int, n_layers: int, generator: torch.Generator) -> None:
        super().__init__()
        self.width = width
        self.first = Affine(1, width, generator)
        self.second = Affine(width, width, generator)
        self.last = Affine(width, 2 * width * n_layers, generator, zero=True)

    def forward(
        self, c_noise: Float[Tensor, "*rows"]
    ) -> tuple[Float[Tensor, "*rows layer width"], Float[Tensor, "*rows layer width"]]:
        """Return the factors and the shifts of the features in each layer."""
        h = functional.silu(self.first(scaled(c_noise)[..., None]))
        gain, shift = self.last(functional.silu(self.second(h))).unflatten(-1, (-1, 2, self.width)).unbind(dim=-2)
        return 1 + gain, shift


def scaled(c_noise: Float[Tensor, "*rows"]) -> Float[Tensor, "*rows"]:
    """Return log noise of unit scale, finite at every time, 0 included."""
    return c_noise.clamp(-LARGEST_LOG_NOISE, LARGEST_LOG_NOISE) / LOG_NOISE_SCALE
