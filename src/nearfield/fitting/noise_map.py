r"""Noise maps for training: points observed with small errors, missing values, the rest under the common noise.

An observation of error r makes the noise-to-signal ratio of its vertex :math:`(\sigma^{-2} + r^{-2})^{-1/2}`, a missing
value makes it infinite. Where r is as small as the smallest error, and where a value is missing, no error counts.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import numpy as np
import torch

from nearfield.graph import DependencyGraph
from nearfield.process import noise_to_signal, time_of
from nearfield.score.conditioned import SMALLEST_ERROR

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int
    from torch import Tensor

__all__ = ["NoiseMaps", "with_missing"]

UNIFORM, SCATTERED, GAP = 0.5, 0.75, 0.89
"""Shares, summed up, of samples without observations, with points at random, and observed but for a gap."""
Uniform = Callable[..., torch.Tensor]
SMALLEST_GAP, LARGEST_GAP = 3, 0.375
"""Vertices of the smallest gap, and share of all vertices that the largest one has."""
SPACINGS = 10
"""Observed cells are 2 to 11 apart on lattices of one axis, in all; on other graphs at random at these rates."""
EXACT = 0.5
"""Share of samples whose observations have the smallest error; that of others is log-uniform between the next two."""
ERRORS = (0.02, 1.0)
STRONG = 0.15
"""Share of samples with observations whose common noise is strong, log-uniform between the next two ratios."""
SIGMAS = (3.0, 80.0)


@final
@dataclass(frozen=True, eq=False)
class NoiseMaps:
    """Law of the noise maps in training.

    Attributes
    ----------
    rank : Tensor, shape (vertex, vertex)
        Place of each vertex in the order of its hops from another.
    cells : Tensor, shape (vertex, axis), or None
        Where the vertices are on their lattice, if they are on one.
    """

    rank: Int[Tensor, "vertex vertex"]
    cells: Int[Tensor, "vertex axis"] | None

    @classmethod
    def of(cls, graph: DependencyGraph, device: torch.device | str = "cpu") -> NoiseMaps:
        """Make those of a graph."""
        order = np.argsort(graph.distance_matrix(), axis=1, kind="stable")
        rank, cells = torch.from_numpy(np.argsort(order, axis=1)).to(device), None
        if graph.lattice is not None:
            places = np.arange(graph.lattice.n_cells) if graph.keep is None else np.flatnonzero(graph.keep)
            cells = torch.from_numpy(np.stack(np.unravel_index(places, graph.lattice.shape), axis=1)).to(device)
        return cls(rank, cells)

    def draw(
        self, t: Float[Tensor, " sample"], n_channels: int, generator: torch.Generator
    ) -> tuple[Float[Tensor, "sample vertex channel"], Bool[Tensor, "sample vertex channel"]]:
        """Draw observations for samples at common times: the times of all entries, and where errors count."""
        n = len(t)

        def uniform(*shape: int) -> Tensor:
            return torch.rand((n, *shape), generator=generator, dtype=torch.float64, device=t.device)

        kind = uniform()[:, None, None]
        seen = torch.where(
            kind < SCATTERED, uniform(len(self.rank), n_channels) < uniform(1, 1), self._but_gaps(uniform)
        )
        seen = torch.where(kind < GAP, seen, self._spaced(uniform)) & (kind >= UNIFORM)
        exact = uniform() < EXACT
        error = torch.where(exact, SMALLEST_ERROR, _between(ERRORS, uniform()))[:, None, None]
        strong = (uniform() < STRONG) & (kind[:, 0, 0] >= UNIFORM)
        sigma = torch.where(strong, _between(SIGMAS, uniform()), noise_to_signal(t))[:, None, None]
        both = torch.where(seen, (sigma**-2 + error**-2) ** -0.5, sigma)
        return time_of(both), ~(seen & exact[:, None, None])

    def _but_gaps(self, uniform: Uniform) -> Bool[Tensor, "sample vertex 1"]:
        """Observe all but the vertices nearest to one of them."""
        n = len(self.rank)
        largest = max(SMALLEST_GAP, round(LARGEST_GAP * n))
        size = SMALLEST_GAP + (uniform() * (largest - SMALLEST_GAP + 1)).floor()
        center = (uniform() * n).long().clamp_max(n - 1)
        return (self.rank[center] >= size[:, None])[..., None]

    def _spaced(self, uniform: Uniform) -> Bool[Tensor, "sample vertex 1"]:
        """Observe cells at one spacing along all axes, or vertices at random where there is no lattice."""
        spacings = SPACINGS if self.cells is None else max(1, round((SPACINGS + 1) ** (1 / self.cells.shape[1])) - 1)
        spacing = 2 + (uniform(1) * spacings).floor()
        if self.cells is None:
            return (uniform(len(self.rank)) < 1 / spacing)[..., None]
        first = (uniform(self.cells.shape[1]) * spacing).floor()
        return ((self.cells - first[:, None]) % spacing[..., None] == 0).all(dim=2)[..., None]


def with_missing(
    t: Float[Tensor, "sample *entry"],
    noise: Float[Tensor, "sample vertex channel"],
    present: Bool[Tensor, "sample vertex channel"],
) -> tuple[Float[Tensor, "sample vertex channel"], Float[Tensor, "sample vertex channel"]]:
    """Return infinite times and no noise where values are missing, so that the state is 0 there."""
    return torch.where(present, t if t.ndim == 3 else t[:, None, None], torch.inf), noise * present


def _between(ends: tuple[float, float], place: Tensor) -> Tensor:
    """Numbers between two, evenly in their log."""
    return torch.exp(math.log(ends[0]) + math.log(ends[1] / ends[0]) * place)
