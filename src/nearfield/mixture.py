"""The law of a scale mixture: exact draws, density and conditional laws."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar, final

import numpy as np
import torch

from nearfield.distribution import Conditional, DiffusionModel, Distribution
from nearfield.noise import Stream
from nearfield.sampling.base import Sampler
from nearfield.score.scale_mixture import ScaleMixtureField

if TYPE_CHECKING:
    from jaxtyping import Bool, Float

    from nearfield.graph import DependencyGraph

__all__ = ["MixtureModel"]


@final
class MixtureModel(Distribution):
    """Scale mixture of Gaussian fields: exact draws, density and conditional laws.

    Parameters
    ----------
    score : ScaleMixtureField
    largest_eigenvalue : float
        As in `Distribution`.
    """

    exact: ClassVar[bool] = True
    score: ScaleMixtureField

    def __init__(self, score: ScaleMixtureField, largest_eigenvalue: float = 1.0) -> None:
        super().__init__()
        self.score, self.largest_eigenvalue = score, float(largest_eigenvalue)

    def sample(
        self,
        n_samples: int,
        *,
        seed: int,
        stream: Stream = Stream.EXACT,
        sampler: Sampler | None = None,
        device: torch.device | str = "auto",
        batch_size: int | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> Float[np.ndarray, "member vertex channel"]:
        """Draw exactly, or with a sampler; arguments as in `Distribution.sample`."""
        if sampler is None:
            return self.score.sample(n_samples, seed=seed, stream=stream)
        return super().sample(
            n_samples, seed=seed, sampler=sampler, device=device, batch_size=batch_size, progress=progress
        )

    def log_prob(self, x: Float[np.ndarray, "sample vertex channel"]) -> Float[np.ndarray, " sample"]:
        """Log-density in nats."""
        return self.score.log_prob(x)

    def condition(self, observed: Bool[np.ndarray, "vertex channel"]) -> Conditional:
        """Return the mixture of the components' conditional laws; a ValueError for more than 4096 variables."""
        return Conditional(self.score.conditional(observed))

    def extended(self, graph: DependencyGraph, onto: DependencyGraph) -> DiffusionModel:
        """Return the score of the law on every window of the fitted size; a sampler draws from it."""
        return DiffusionModel(self.score.extended(graph, onto), self.largest_eigenvalue)
