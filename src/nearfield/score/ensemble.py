"""The mean of several networks' denoisers, each trained apart: their errors average out, what they agree on stays."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, final

from nearfield.score.base import Score, part_of
from nearfield.score.hybrid import HybridScore, NetworkScore

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

__all__ = ["EnsembleScore"]

KINDS: dict[str, type[HybridScore | NetworkScore]] = {kind.__name__: kind for kind in (HybridScore, NetworkScore)}


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
        self.members = members
        self.n_vertices, self.n_channels = members[0].n_vertices, members[0].n_channels
        self.radius = max(member.radius or 0 for member in members)

    def denoise(self, x: Tensor, t: float | Tensor) -> Tensor:
        """Return the mean of the members' denoisers; shapes and times as in `Score.denoise`."""
        first = self.members[0].denoise(x, t)
        mean = first  # of differences from it, so that what all agree on, the state at time 0, stays as it is
        for member in self.members[1:]:
            mean = mean + (member.denoise(x, t) - first) / len(self.members)
        return mean

    def state(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """Return configuration and arrays from which `from_state` makes an equal score."""
        states = [member.state() for member in self.members]
        config = {"members": [config for config, _ in states], "of": type(self.members[0]).__name__}
        return config, {f"{k}.{name}": value for k, (_, arrays) in enumerate(states) for name, value in arrays.items()}

    @classmethod
    def from_state(cls, config: dict[str, Any], arrays: dict[str, np.ndarray]) -> EnsembleScore:
        """Rebuild from `state`; weights ask for no gradients."""
        kind = KINDS[config["of"]]
        members = enumerate(config["members"])
        return cls(tuple(kind.from_state(member, part_of(arrays, str(k))) for k, member in members))
