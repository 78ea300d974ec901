r"""The paper's networks: a small ReLU network for each vertex, (3.3)-(3.8) of arXiv 2505.04417.

Networks of different vertices share nothing, so vertices or blocks of them can be trained apart, (3.8): the initial
weights of a vertex depend on the seed and on the vertex alone.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, final

import numpy as np
import torch
from torch import nn

from nearfield._checks import whole_number
from nearfield.graph import DependencyGraph
from nearfield.score.network import scaled
from nearfield.score.window import Padding, WindowedNetwork

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

__all__ = ["VertexNetworks", "positive"]


@final
class VertexNetworks(WindowedNetwork):
    r"""One ReLU network :math:`u_j \in NN(L, W, S, B)` for each vertex, (3.3)-(3.4), all in one batched product.

    A network reads the window of its vertex, absent entries as zero, and the noise level.

    Parameters
    ----------
    graph, radius, n_channels, padding
        As in `WindowedNetwork`.
    widths : sequence of int
        Widths W of the hidden layers; the depth L is one more than their number.
    sparsity : int, optional
        S: at most this many parameters of each network are not zero, from the first `prune` on.
    bound : float, optional
        B: no parameter is larger in magnitude, from the first `project` on.
    output_bound : float, optional
        :math:`K = C \sqrt{\log N}` of the bounded class (3.16): :math:`|u_j| \le K / s` for the score at each vertex.
    vertices : sequence of int, optional
        The vertices whose networks these are; all by default.
    seed : int
        Of the initial weights.

    Attributes
    ----------
    weights : Parameter, shape (network, parameter)
        All layers of each network one after the other: weights, then biases.
    kept : Tensor of bool, shape (network, parameter)
        False for what was pruned.

    Raises
    ------
    TypeError, ValueError
        If a number is not whole or out of range.

    Examples
    --------
    >>> networks = VertexNetworks(DependencyGraph.chain(5), radius=1, widths=(8,), sparsity=20)
    >>> networks.prune()
    >>> int((networks.weights != 0).sum(dim=1).max())
    20
    """

    settings = ("radius", "n_channels", "widths", "sparsity", "bound", "output_bound", "padding", "vertices")
    kept: Tensor

    def __init__(
        self,
        graph: DependencyGraph,
        radius: int,
        n_channels: int = 1,
        widths: Sequence[int] = (32, 32),
        sparsity: int | None = None,
        bound: float | None = None,
        output_bound: float | None = None,
        padding: Padding = "absent",
        vertices: Sequence[int] | None = None,
        seed: int = 0,
    ) -> None:
        if vertices is not None:
            vertices = tuple(whole_number("vertices", v, 0, "give numbers of vertices") for v in vertices)
            if not vertices or max(vertices) >= len(graph):
                raise ValueError(
                    f"vertices must be of 0 to {len(graph) - 1}, one at least, got {vertices}; None is all"
                )
        super().__init__(graph, radius, n_channels, 0, padding, vertices)
        self.widths = tuple(whole_number("widths", w, 1, "give the width of each hidden layer") for w in widths)
        self.sparsity = None if sparsity is None else whole_number("sparsity", sparsity, 1, "give S of (3.3)")
        self.bound, self.output_bound = positive("bound", bound), positive("output_bound", output_bound)
        sizes = (self.width_of_window * n_channels + 1, *self.widths, n_channels)
        self._layers = tuple(itertools.pairwise(sizes))
        rows = range(len(graph)) if self.vertices is None else self.vertices
        self.weights = nn.Parameter(torch.from_numpy(np.stack([_initial(self._layers, seed, row) for row in rows])))
        self.register_buffer("kept", torch.ones_like(self.weights, dtype=torch.bool))

    @property
    def n_features(self) -> int:
        """The widest layers before and after a product."""
        return 4 * max(*self.widths, 1)

    def on_windows(
        self,
        windows: Float[Tensor, "sample row width channel"],
        context: Float[Tensor, "sample row context"] | None,  # noqa: ARG002
        c_noise: Float[Tensor, "sample #row"],
    ) -> Float[Tensor, "sample row channel"]:
        """Return F at the centres of windows; arguments as in `WindowedNetwork.on_windows`."""
        samples, rows = windows.shape[:2]
        read = torch.where(self.present[..., None], windows, 0.0).flatten(2)
        noise = scaled(c_noise).expand(samples, rows)[..., None]
        h = torch.cat([read, noise], dim=2).transpose(0, 1)
        place = 0
        for layer, (n_in, n_out) in enumerate(self._layers):
            weight = self.weights[:, place : place + n_in * n_out].unflatten(1, (n_in, n_out))
            bias = self.weights[:, place + n_in * n_out : (place := place + (n_in + 1) * n_out)]
            h = torch.baddbmm(bias[:, None], torch.relu(h) if layer else h, weight)
        h = h.transpose(0, 1)
        return h if self.output_bound is None else _bounded(h, windows[:, :, 0], c_noise, self.output_bound)

    def clip(self, limit: float) -> None:
        """Shorten the gradient of each network to the limit, so that none feels another."""
        if self.weights.grad is not None:
            gradient = self.weights.grad
            gradient.mul_((limit / gradient.norm(dim=1, keepdim=True)).clamp_max(1.0))

    @torch.no_grad()
    def prune(self) -> None:
        """Keep S parameters of each network, those of the largest share in their layer, and no others from now on."""
        if self.sparsity is not None and self.sparsity < self.weights.shape[1]:
            largest = torch.where(self.kept, self._shares(), -1.0).topk(self.sparsity, dim=1).indices
            self.kept.fill_(False).scatter_(1, largest, True)
        self.project()

    def _shares(self) -> Float[Tensor, "network parameter"]:
        """Square of each parameter over the sum of the squares in its layer that are no smaller.

        A layer has its largest at 1, so that no layer is pruned away whole: Lee et al., "Layer-adaptive sparsity for
        the magnitude-based pruning" (ICLR 2021).
        """
        shares = []
        for layer in self.weights.square().split([(n_in + 1) * n_out for n_in, n_out in self._layers], dim=1):
            ordered, place = layer.sort(dim=1, descending=True)
            tiny = torch.finfo(layer.dtype).tiny
            shares.append(torch.empty_like(layer).scatter_(1, place, ordered / ordered.cumsum(dim=1).clamp_min(tiny)))
        return torch.cat(shares, dim=1)

    @torch.no_grad()
    def project(self) -> None:
        """Put the parameters back into the class, after a step of training: pruned ones to zero, others within B."""
        self.weights.mul_(self.kept)
        if self.bound is not None:
            self.weights.clamp_(-self.bound, self.bound)

    @torch.no_grad()
    def take(self, part: VertexNetworks) -> None:
        """Put back the networks of a block."""
        place = {vertex: row for row, vertex in enumerate(self.vertices or range(len(self.graph)))}
        rows = [place[vertex] for vertex in part.vertices or range(len(self.graph))]
        self.weights[rows], self.kept[rows] = part.weights, part.kept


def _initial(layers: tuple[tuple[int, int], ...], seed: int, vertex: int) -> Float[np.ndarray, " parameter"]:
    """Draw the first parameters of one network: uniform of variance 2 / fan in, biases and the last layer zero."""
    # Keys with a second word above 0 are none of nearfield.noise's.
    random = np.random.Generator(np.random.Philox(key=np.array([seed, vertex + 1], dtype=np.uint64)))
    pieces = []
    for n_in, n_out in layers[:-1]:
        pieces += [random.uniform(-1.0, 1.0, n_in * n_out) * math.sqrt(6 / n_in), np.zeros(n_out)]
    n_in, n_out = layers[-1]
    return np.concatenate([*pieces, np.zeros((n_in + 1) * n_out)]).astype(np.float32)


def _bounded(
    f: Float[Tensor, "sample row channel"],
    x: Float[Tensor, "sample row channel"],
    c_noise: Float[Tensor, "sample #row"],
    limit: float,
) -> Float[Tensor, "sample row channel"]:
    r"""Shorten F so that the score has :math:`|u_j| \le` ``limit`` :math:`/ s`, (3.16).

    The score is :math:`u = -x + (a/s) F`, so that :math:`-s u = s x - a F`, the noise it predicts, has to be at most
    the limit in length.
    """
    sigma = c_noise.exp()[..., None]
    a = torch.rsqrt(1 + sigma**2)
    predicted = a * (sigma * x - f)
    length = predicted.norm(dim=-1, keepdim=True)
    excess = predicted * (1 - limit / length.clamp_min(limit))
    whole: Tensor = f + excess / a
    return whole


def positive(name: str, value: float | None) -> float | None:
    """Return `value`, or say that it must be above 0."""
    if value is not None and not value > 0:
        raise ValueError(f"{name} must be above 0, got {value!r}; give None for no bound")
    return value
