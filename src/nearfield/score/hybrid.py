r"""Scores made of networks, alone, given another field, or conditioned on a Gaussian's denoiser.

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

With a noise map, each entry has an a, s and :math:`\sigma` of its own: a point that was observed with an error has a
small one, a missing value an infinite one. The same equations hold for each entry, :math:`D_G` and v those of the
Gaussian field under the map. The network is shown :math:`\ln\sigma` and s of the entries too, and takes the largest
finite :math:`\sigma` for that of the sample.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, final

import numpy as np
import torch

from nearfield.module import as_tensor
from nearfield.process import per_sample
from nearfield.score.base import ContextScore, Score
from nearfield.score.network import Network, scaled
from nearfield.score.preconditioning import Preconditioning, scales
from nearfield.score.window import WindowedNetwork

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from nearfield.graph import DependencyGraph

__all__ = [
    "CONTEXT_PER_CHANNEL",
    "KNOTS",
    "MAP_PER_CHANNEL",
    "ConditionalScore",
    "HybridScore",
    "NetworkScore",
    "Trainable",
    "hats",
    "square_of",
]

CONTEXT_PER_CHANNEL = 2
"""Values of the context of a hybrid for each channel: D_G and q, those of all channels in this order."""
MAP_PER_CHANNEL = 4
"""Values of the context with noise maps: D_G, q, the log of the noise-to-signal ratio, and s."""
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
        With ``n_context`` twice ``n_channels``, with noise maps four times.
    context : ContextScore
        Fitted to the same standardised data; it does not change.
    quadratic : ndarray, shape (knot, channel), optional
        The coefficient c at noise-to-signal ratios 1, 2, 4 and 8, as `hats` goes on between them; 0 by default.
    full_start : bool, default=False
        Whether D is that of the context where F and c are 0, at weak noise too: q in the place of s^2 q.
    noise_map : bool, default=False
        Whether the network is shown a noise level of each entry.

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

    settings = ("full_start", "noise_map")
    quadratic: Tensor

    def __init__(
        self,
        network: Network,
        context: ContextScore,
        quadratic: Float[np.ndarray, "knot channel"] | Float[Tensor, "knot channel"] | None = None,
        *,
        full_start: bool = False,
        noise_map: bool = False,
    ) -> None:
        super().__init__()
        self.full_start, self.noise_map, self.maps = full_start, noise_map, noise_map and context.maps
        per_channel = MAP_PER_CHANNEL if noise_map else CONTEXT_PER_CHANNEL
        sizes = (len(network.graph), network.n_channels, network.n_context)
        wanted = (context.n_vertices, context.n_channels, per_channel * context.n_channels)
        if sizes != wanted:
            raise ValueError(
                f"network must have (vertices, n_channels, n_context) {wanted} as the context has, got {sizes}; "
                f"n_context is {'four times' if noise_map else 'twice'} n_channels"
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
        level = per_sample(log_sigma)
        coefficient = (hats(level) * self.quadratic.T.to(level)).sum(dim=-1).to(x)
        skip = (q if self.full_start else s**2 * q) + s * coefficient * square_of(denoised, variance)
        context = [denoised, q]
        if self.noise_map:
            context += [scaled(level).to(x).expand_as(x), s.expand_as(x)]
        return Preconditioning(torch.cat(context, dim=2), skip, variance)

    @property
    def numbers_per_sample(self) -> int:
        """Those of the network too."""
        return super().numbers_per_sample + self.network.numbers_per_sample

    def extended(self, graph: DependencyGraph, onto: DependencyGraph) -> HybridScore:
        """Return the network and the context on a larger lattice."""
        network, context = self.network.extended(graph, onto), self.context.extended(graph, onto)
        return HybridScore(network, context, self.quadratic, full_start=self.full_start, noise_map=self.noise_map)


@final
class ConditionalScore(Score):
    """Score of a field given another one on the same graph, by a network that is shown this as it is.

    Parameters
    ----------
    network : Network
        With ``n_context`` the number of channels of the given field.
    given : ndarray or Tensor, shape (sample, vertex, context), optional
        The given field of each state, or one for all; without it, `at` makes a score that denoises.

    Raises
    ------
    ValueError
        If the network has no context, or states are denoised without a given field.

    Examples
    --------
    >>> from nearfield.graph import DependencyGraph
    >>> from nearfield.score.stencil import StencilNetwork
    >>> score = ConditionalScore(StencilNetwork(DependencyGraph.chain(3), radius=1, n_context=1))
    >>> score.at(torch.zeros(1, 3, 1)).score(torch.ones(1, 3, 1), 0.5).flatten().tolist()
    [-1.0, -1.0, -1.0]
    """

    given: Tensor | None

    def __init__(
        self,
        network: Network,
        given: Float[np.ndarray, "#sample vertex context"] | Float[Tensor, "#sample vertex context"] | None = None,
    ) -> None:
        if not network.n_context:
            raise ValueError("network must have n_context above 0, got 0; a NetworkScore has no context")
        super().__init__()
        self.network = _whole(network)
        self.n_vertices, self.n_channels, self.radius = len(network.graph), network.n_channels, network.radius
        self.register_buffer("given", None if given is None else as_tensor(given))

    @property
    def n_given(self) -> int:
        """Channels of the given field."""
        return self.network.n_context

    def at(self, given: Float[Tensor, "#sample vertex context"]) -> ConditionalScore:
        """Return the score given a field for each state, or one for all."""
        return ConditionalScore(self.network, given)

    def forward(self, x: Tensor, t: float | Tensor) -> Tensor:
        """Return a x + s F(x, given)."""
        return self.precondition(x, t).denoise(self.network, x, t)

    def precondition(self, x: Tensor, t: float | Tensor) -> Preconditioning:  # noqa: ARG002
        """Return the preconditioning with the given field as context; arguments as in `Score.denoise`."""
        if self.given is None:
            raise ValueError("the score of a field given another one needs that field; at(given) has it")
        return Preconditioning(self.given.to(x).expand(len(x), -1, -1))

    @property
    def numbers_per_sample(self) -> int:
        """Those of the network too."""
        return super().numbers_per_sample + self.network.numbers_per_sample

    def extended(self, graph: DependencyGraph, onto: DependencyGraph) -> ConditionalScore:
        """Return the score of the network on a larger lattice, without a given field."""
        return ConditionalScore(self.network.extended(graph, onto))


Trainable = NetworkScore | HybridScore | ConditionalScore
"""Scores whose network is trained by the denoising loss."""


def hats(log_sigma: Float[Tensor, "*level"]) -> Float[Tensor, "*level knot"]:
    """Weights of the knots at logs of the noise-to-signal ratio: linear between knots, 0 up to 1/2, constant beyond 8.

    Examples
    --------
    >>> hats(torch.tensor([-9.0, math.log(0.5), math.log(2.0), math.log(32.0)])).tolist()
    [[0.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0]]
    """
    place = (log_sigma / math.log(2.0)).clamp(-1, KNOTS - 1)
    return (1 - (place[..., None] - torch.arange(KNOTS, dtype=place.dtype, device=place.device)).abs()).clamp_min(0)


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
