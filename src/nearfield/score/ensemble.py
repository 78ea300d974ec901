"""The mean of several networks' denoisers, each trained apart: their errors average out, what they agree on stays."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast, final

from torch import nn

from nearfield.score.base import Score
from nearfield.score.hybrid import HybridScore, NetworkScore

if TYPE_CHECKING:
    from torch import Tensor

    from nearfield.graph import DependencyGraph

__all__ = ["EnsembleScore"]


@final
class EnsembleScore(Score):
    """Mean of the denoisers of networks of one field.

    Parameters
    ----------
    networks : tuple of HybridScore or of NetworkScore
        At least one, all of one kind.

    Attributes
    ----------
    radius : int or None
        The largest of the networks'; None if one reads the whole field.

    Raises
    ------
    ValueError
        If there are no networks, or they are not of one kind and one field.

    Examples
    --------
    >>> import torch
    >>> from nearfield.graph import DependencyGraph
    >>> from nearfield.score.stencil import StencilNetwork
    >>> networks = tuple(NetworkScore(StencilNetwork(DependencyGraph.chain(3), radius=r)) for r in (1, 2))
    >>> score = EnsembleScore(networks)
    >>> score.radius, score.score(torch.ones(1, 3, 1), 0.5).flatten().tolist()
    (2, [-1.0, -1.0, -1.0])
    """

    def __init__(self, networks: tuple[HybridScore | NetworkScore, ...]) -> None:
        kinds = {(type(network).__name__, network.n_vertices, network.n_channels) for network in networks}
        if len(kinds) != 1:
            raise ValueError(f"networks must be one or more of one kind and one field, got {sorted(kinds)}")
        super().__init__()
        self.networks = nn.ModuleList(networks)
        self.n_vertices, self.n_channels = networks[0].n_vertices, networks[0].n_channels
        radii = [network.radius for network in networks if network.radius is not None]
        self.maps = all(network.maps for network in networks)
        self.radius = max(radii) if len(radii) == len(networks) else None

    @property
    def _scores(self) -> tuple[HybridScore | NetworkScore, ...]:
        return cast("tuple[HybridScore | NetworkScore, ...]", tuple(self.networks))

    def forward(self, x: Tensor, t: float | Tensor) -> Tensor:
        """Return the mean of the networks' denoisers."""
        first, *others = self._scores
        mean = start = first.denoise(x, t)
        for network in others:  # of differences, so that what all agree on, the state at time 0, stays as it is
            mean = mean + (network.denoise(x, t) - start) / len(self.networks)
        return mean

    @property
    def numbers_per_sample(self) -> int:
        """Those of the largest network: they are computed one after the other."""
        return super().numbers_per_sample + max(network.numbers_per_sample for network in self._scores)

    def extended(self, graph: DependencyGraph, onto: DependencyGraph) -> EnsembleScore:
        """Return the mean of the networks on a larger lattice."""
        return EnsembleScore(tuple(network.extended(graph, onto) for network in self._scores))
