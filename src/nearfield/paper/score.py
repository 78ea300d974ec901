r"""The paper's neural local score: one small ReLU network of the window and the time, the same at every vertex.

Section 4.2 of arXiv 2505.04417. The network answers with the noise :math:`\xi` of :math:`x_t = a x_0 + s \xi` at the
centre of a window, or with the score there, and

.. math:: D = \frac{x - s\,\hat\xi}{a}, \qquad \mathrm{score} = -\frac{\hat\xi}{s}.

This tends to the state as t tends to 0, whatever the network says. At late times it divides what the network errs by a
small :math:`a`; the form of :mod:`nearfield.score.preconditioning` does not.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, final

import torch
from torch import nn

from nearfield._checks import whole_number
from nearfield.graph import DependencyGraph
from nearfield.score.base import Score
from nearfield.score.network import Affine
from nearfield.score.preconditioning import scales
from nearfield.score.window import Padding, WindowedNetwork

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

__all__ = ["PaperNetwork", "PaperScore", "Predicted"]

Predicted = Literal["noise", "score"]


@final
class PaperNetwork(WindowedNetwork):
    """ReLU network of the values of a window and the OU time: 2r + 2 inputs on a chain, one output for each channel.

    Parameters
    ----------
    graph, radius, n_channels, padding
        As in `WindowedNetwork`. Mirrored data are the paper's; where a lattice has holes, and on other graphs, absent
        entries are zero, which this network cannot tell from a value of zero.
    widths : sequence of int
        Of the hidden layers.
    seed : int
        Of the initial weights.

    Raises
    ------
    TypeError, ValueError
        If a number is not whole or too small, or the data cannot be mirrored.

    Examples
    --------
    >>> network = PaperNetwork(DependencyGraph.chain(9), radius=4)
    >>> [tuple(layer.weight.shape) for layer in network.layers]
    [(64, 10), (64, 64), (64, 64), (1, 64)]
    """

    settings = ("radius", "n_channels", "widths", "padding")

    def __init__(
        self,
        graph: DependencyGraph,
        radius: int,
        n_channels: int = 1,
        widths: Sequence[int] = (64, 64, 64),
        padding: Padding = "reflect",
        seed: int = 0,
    ) -> None:
        super().__init__(graph, radius, n_channels, 0, padding)
        self.widths = tuple(whole_number("widths", w, 1, "give the width of each hidden layer") for w in widths)
        generator = torch.Generator().manual_seed(seed)
        sizes = (self.width_of_window * n_channels + 1, *self.widths, n_channels)
        self.layers = nn.ModuleList(Affine(n_in, n_out, generator) for n_in, n_out in itertools.pairwise(sizes))

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
        """Return the answer at the centres of windows, as in `WindowedNetwork.on_windows`; `c_noise` is the OU time."""
        read = torch.where(self.present[..., None], windows, 0.0).flatten(2)
        first, *others = self.layers
        h: Tensor = first(torch.cat([read, c_noise.expand(read.shape[:2])[..., None]], dim=2))
        for layer in others:
            h = layer(torch.relu(h))
        return h


@final
class PaperScore(Score):
    """Score of a network that answers with the noise, or with the score itself.

    Parameters
    ----------
    network : PaperNetwork
    predicts : {"noise", "score"}
        Meaning of its answer.

    Raises
    ------
    ValueError
        If `predicts` is neither.

    Examples
    --------
    >>> score = PaperScore(PaperNetwork(DependencyGraph.chain(3), radius=1))
    >>> x = torch.ones(1, 3, 1)
    >>> torch.equal(score.denoise(x, 0.0), x)
    True
    """

    settings = ("predicts",)

    def __init__(self, network: PaperNetwork, predicts: Predicted = "noise") -> None:
        if predicts not in ("noise", "score"):
            raise ValueError(f'predicts must be "noise" or "score", got {predicts!r}; use "noise"')
        super().__init__()
        self.network, self.predicts = network, predicts
        self.n_vertices, self.n_channels, self.radius = len(network.graph), network.n_channels, network.radius

    def forward(self, x: Tensor, t: float | Tensor) -> Tensor:
        """Return D."""
        a, s, _ = scales(x, t)
        kind = next(self.network.parameters()).dtype
        times = torch.as_tensor(t, dtype=kind, device=x.device).reshape(-1).expand(len(x))
        answer = self.network(x.to(kind), None, times).to(x)
        clean: Tensor = (x - s * answer if self.predicts == "noise" else x + s**2 * answer) / a
        return clean

    @property
    def numbers_per_sample(self) -> int:
        """Those of the network too."""
        return super().numbers_per_sample + self.network.numbers_per_sample
