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
    members : tuple of HybridScore or of NetworkScore
        At least one, all of one kind.

    Attributes
    ----------
    radius : int
        The largest of the members'.

    Raises
    ------
    ValueError
        If there are no members, or they are not of one kind and one field.

    Examples
    --------
    >>> import torch
    >>> from nearfield.graph import DependencyGraph
    >>> from nearfield.score.stencil import StencilNetwork
    >>> members = tuple(NetworkScore(StencilNetwork(DependencyGraph.chain(3), radius=r)) for r in (1, 2))
    >>> score = EnsembleScore(members)
    >>> score.radius, score.score(torch.ones(1, 3, 1), 0.5).flatten().tolist()
    (2, [-1.0, -1.0, -1.0])
    """

    radius: int

    def __init__(self, members: tuple[HybridScore | NetworkScore, ...]) -> None:
        kinds = {(type(member).__name__, member.n_vertices, member.n_channels) for member in members}
        if len(kinds) != 1:
            raise ValueError(f"members must be one or more of one kind and one field, got {sorted(kinds)}")
        super().__init__()
        self.members = nn.ModuleList(members)
        self.n_vertices, self.n_channels = members[0].n_vertices, members[0].n_channels
        self.radius = max(member.radius or 0 for member in members)

    @property
    def _scores(self) -> tuple[HybridScore | NetworkScore, ...]:
        return cast("tuple[HybridScore | NetworkScore, ...]", tuple(self.members))

    def forward(self, x: Tensor, t: float | Tensor) -> Tensor:
        """Return the mean of the members' denoisers."""
        first, *others = self._scores
        mean = start = first.denoise(x, t)
        for member in others:  # of differences, so that what all agree on, the state at time 0, stays as it is
            mean = mean + (member.denoise(x, t) - start) / len(self.members)
        return mean

    @property
    def numbers_per_sample(self) -> int:
        """Those of the largest member: they are computed one after the other."""
        return super().numbers_per_sample + max(member.numbers_per_sample for member in self._scores)

    def extended(self, graph: DependencyGraph, onto: DependencyGraph) -> EnsembleScore:
        """Return the mean of the members on a larger lattice."""
        return EnsembleScore(tuple(member.extended(graph, onto) for member in self._scores))
