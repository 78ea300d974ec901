r"""Scores made of networks, alone or conditioned on a Gaussian's denoiser.

`NetworkScore` is :math:`D = a\,x + s\,F(x, \ln\sigma)`, :math:`\sigma = s/a`; where F is zero, as before training, this
is the denoiser of white noise. The context of `HybridScore` is :math:`D_G`, the denoiser of a law of closed
form such as a Gaussian, and :math:`q = (D_G - a x)/s`, the F of it:

.. math::

    D(x, t) = a\,x + s\,\bigl(s^2 q + s\,c(\sigma) (D_G^2 - v) + v\,F(x, D_G, q, \ln\sigma)\bigr), \qquad
    v_j(t) = \mathrm{Var}\, D_{G,j}(x_t, t).

Where noise is strong, a Gaussian is nearly right whatever the data, and training sees few states. There :math:`s^2`
is nearly 1 and D is :math:`D_G`, with corrections of the order of its square, so of v, the variance that this law
explains. That square itself has a coefficient c of closed form (:func:`~nearfield.fitting.quadratic.fit_quadratic`): of
skewed data it decides the variance and the tail of draws, and a network learns half of c. No square counts for more
than 36 v, six deviations of :math:`D_G`: beyond them D would outgrow the state, and draws that come there would run
away. Where noise is weak, v is the variance of the data, and the network is free to leave :math:`D_G` where it is
wrong.

With this start, :math:`s^2 q`, the network itself has to find what the context knows at weak noise. From windows it
does; what the whole field tells no network of a few hops finds again. A context that reads the whole field is
therefore the start in full, q in the place of :math:`s^2 q`:

.. math:: D(x, t) = D_G + s\,\bigl(s\,c(\sigma) (D_G^2 - v) + v\,F(x, D_G, q, \ln\sigma)\bigr).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, final

import numpy as np
import torch

from nearfield.module import as_tensor
from nearfield.score.base import ContextScore, Score
from nearfield.score.network import Network
from nearfield.score.preconditioning import Preconditioning, scales
from nearfield.score.window import WindowedNetwork

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from nearfield.graph import DependencyGraph

__all__ = ["CONTEXT_PER_CHANNEL", "KNOTS", "HybridScore", "NetworkScore", "hats", "square_of"]

CONTEXT_PER_CHANNEL = 2
"""Values of the context of a hybrid for each channel: D_G and q, those of all channels in this order."""
KNOTS = 4
"""How many noise-to-signal ratios the coefficient of the square is given at: 1, 2, 4 and 8."""
_LARGEST_SQUARE = 36.0
"""Of D_G, in units of its variance."""


@final
class NetworkScore(Score):
    """Score of a network that reads the state alone.

    Parameters
    ----------
    network : Network
        With ``n_context`` 0.

    Raises
    ------
    ValueError
        If the network has a context, or is that of a block of vertices.

    Examples
    --------
    >>> from nearfield.graph import DependencyGraph
    >>> from nearfield.score.stencil import StencilNetwork
    >>> score = NetworkScore(StencilNetwork(DependencyGraph.chain(3), radius=1))
    >>> score.score(torch.ones(1, 3, 1), 0.5).flatten().tolist()
    [-1.0, -1.0, -1.0]
    """

    def __init__(self, network: Network) -> None:
        if network.n_context:
            raise ValueError(f"network must have n_context 0, got {network.n_context}; a HybridScore has a context")
        super().__init__()
        self.network = _whole(network)
        self.n_vertices, self.n_channels, self.radius = len(network.graph), network.n_channels, network.radius

    def forward(self, x: Tensor, t: float | Tensor) -> Tensor:
        """Return a x + s F."""
        return self.precondition(x, t).denoise(self.network, x, t)

    def precondition(self, x: Tensor, t: float | Tensor) -> Preconditioning:  # noqa: ARG002
        """Return the preconditioning without context; arguments as in `Score.denoise`."""
        return Preconditioning()

    @property
    def numbers_per_sample(self) -> int:
        """Those of the network too."""
        return super().numbers_per_sample + self.network.numbers_per_sample

    def extended(self, graph: DependencyGraph, onto: DependencyGraph) -> NetworkScore:
        """Return the score of the network on a larger lattice."""
        return NetworkScore(self.network.extended(graph, onto))


@final
class HybridScore(Score):
    """Score of a network whose context is what a law of closed form makes of the state.

    Parameters
    ----------
    network : Network
        With ``n_context`` twice ``n_channels``.
    context : ContextScore
        Fitted to the same standardised data; it does not change.
    quadratic : ndarray, shape (knot, channel), optional
        The coefficient c at noise-to-signal ratios 1, 2, 4 and 8, as `hats` goes on between them; 0 by default.
    full_start : bool, default=False
        Whether D is that of the context where F and c are 0, at weak noise too: q in the place of s^2 q.

    Attributes
    ----------
    radius : int or None
        The network's, or that with which it reads the context and the context's together, whichever is larger; None
        if the context reads the whole field.

    Raises
    ------
    ValueError
        If these are not of one field, or the network has another context.
    """

    settings = ("full_start",)
    quadratic: Tensor

    def __init__(
        self,
        network: Network,
        context: ContextScore,
        quadratic: Float[np.ndarray, "knot channel"] | Float[Tensor, "knot channel"] | None = None,
        *,
        full_start: bool = False,
    ) -> None:
        super().__init__()
        self.full_start = full_start
        sizes = (len(network.graph), network.n_channels, network.n_context)
        wanted = (context.n_vertices, context.n_channels, CONTEXT_PER_CHANNEL * context.n_channels)
        if sizes != wanted:
            raise ValueError(
                f"network must have (vertices, n_channels, n_context) {wanted} as the context has, got {sizes}; "
                "n_context is twice n_channels"
            )
        quadratic = np.zeros((KNOTS, context.n_channels)) if quadratic is None else quadratic
        if tuple(quadratic.shape) != (KNOTS, context.n_channels):
            raise ValueError(
                f"quadratic must have shape {(KNOTS, context.n_channels)}, got {tuple(quadratic.shape)}; "
                "fit_quadratic makes it"
            )
        self.register_buffer("quadratic", as_tensor(quadratic))
        self.network, self.context = _whole(network), context
        self.n_vertices, self.n_channels = context.n_vertices, context.n_channels
        reach = context.radius
        self.radius = None if reach is None else max(network.radius, network.context_radius + reach)

    def forward(self, x: Tensor, t: float | Tensor) -> Tensor:
        """Return a x + s (s^2 q + s c (D_G^2 - v) + v F(x, D_G, q)), or with q in the place of s^2 q."""
        return self.precondition(x, t).denoise(self.network, x, t)

    def precondition(self, x: Tensor, t: float | Tensor) -> Preconditioning:
        """Return context D_G and q, skip (q or s^2 q) + s c (D_G^2 - v), c_out v; arguments as in `Score.denoise`."""
        return self.precondition_given(x, t, *self.context.denoise_with_variance(x, t))

    def precondition_given(self, x: Tensor, t: float | Tensor, denoised: Tensor, variance: Tensor) -> Preconditioning:
        """Return the preconditioning given D_G and its variance v: a local function of the state and D_G."""
        a, s, log_sigma = scales(x, t)
        q = torch.where(s > 0, (denoised - a * x) / torch.where(s > 0, s, 1.0), 0.0)
        coefficient = (hats(log_sigma) @ self.quadratic.to(log_sigma)).to(x)[:, None]
        skip = (q if self.full_start else s**2 * q) + s * coefficient * square_of(denoised, variance)
        return Preconditioning(torch.cat([denoised, q], dim=2), skip, variance)

    @property
    def numbers_per_sample(self) -> int:
        """Those of the network too."""
        return super().numbers_per_sample + self.network.numbers_per_sample

    def extended(self, graph: DependencyGraph, onto: DependencyGraph) -> HybridScore:
        """Return the network and the context on a larger lattice."""
        network, context = self.network.extended(graph, onto), self.context.extended(graph, onto)
        return HybridScore(network, context, self.quadratic, full_start=self.full_start)


def hats(log_sigma: Float[Tensor, " sample"]) -> Float[Tensor, "sample knot"]:
    """Weights of the knots at logs of the noise-to-signal ratio: linear between knots, 0 up to 1/2, constant beyond 8.

    Examples
    --------
    >>> hats(torch.tensor([-9.0, math.log(0.5), math.log(2.0), math.log(32.0)])).tolist()
    [[0.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0]]
    """
    place = (log_sigma / math.log(2.0)).clamp(-1, KNOTS - 1)
    return (1 - (place[:, None] - torch.arange(KNOTS, dtype=place.dtype, device=place.device)).abs()).clamp_min(0)


def square_of(denoised: Tensor, variance: Tensor) -> Tensor:
    """Return the function of D_G and its variance that c multiplies: its square less its mean, bounded.

    Examples
    --------
    >>> square_of(torch.tensor([0.0, 2.0, 9.0]), torch.tensor(1.0)).tolist()
    [-1.0, 3.0, 35.0]
    """
    return torch.minimum(denoised**2, _LARGEST_SQUARE * variance) - variance


def _whole(network: Network) -> Network:
    """Return the network; refuse one of a block of vertices."""
    if isinstance(network, WindowedNetwork) and network.vertices is not None:
        raise ValueError(f"network must be of all vertices, got a block of {len(network.vertices)}")
    return network
