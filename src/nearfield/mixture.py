"""The law of a scale mixture: exact draws, density and conditional laws."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, final

import numpy as np
import torch

from nearfield.conditional import Conditional
from nearfield.distribution import DiffusionModel, Distribution, GaussianModel
from nearfield.noise import Stream
from nearfield.sampling.conditioning import DecoupledSampler
from nearfield.score.evidence import Evidence
from nearfield.score.field import GaussianField
from nearfield.score.scale_mixture import LARGEST, ScaleMixtureField

if TYPE_CHECKING:
    from jaxtyping import Float

    from nearfield.graph import DependencyGraph

__all__ = ["MixtureConditional", "MixtureModel"]


@final
class MixtureConditional(Conditional):
    """Scale mixture given exact values of some entries: exact draws; moments are those of draws."""

    exact: ClassVar[bool] = False

    def __init__(self, score: ScaleMixtureField, evidence: Evidence) -> None:
        self._shape = (score.n_vertices, score.n_channels)
        self._law, self._evidence = score.conditional(evidence.known.reshape(self._shape)), evidence

    def sample(
        self,
        n_samples: int,
        *,
        seed: int,
        sampler: DecoupledSampler | None = None,  # noqa: ARG002
        device: torch.device | str = "auto",  # noqa: ARG002
        batch_size: int | None = None,  # noqa: ARG002
    ) -> Float[np.ndarray, "member case entry"]:
        """Draw exactly."""
        fields = self._evidence.values.reshape(-1, *self._shape)
        cases = zip(fields, self._evidence.cases, strict=True)
        drawn = [self._law.sample(x, n_samples, seed=seed, step=int(case)) for x, case in cases]
        return np.stack(drawn, axis=1).reshape(n_samples, len(fields), -1)


@final
class MixtureModel(Distribution):
    """Scale mixture of Gaussian fields: exact draws, density and conditional laws.

    Parameters
    ----------
    score : ScaleMixtureField
    field : GaussianField
        Of the same standardised data, for conditional laws without a closed form.
    largest_eigenvalue : float
        As in `Distribution`.
    """

    exact: ClassVar[bool] = True
    score: ScaleMixtureField

    def __init__(self, score: ScaleMixtureField, field: GaussianField, largest_eigenvalue: float = 1.0) -> None:
        super().__init__()
        self.score, self.field, self.largest_eigenvalue = score, field, float(largest_eigenvalue)

    def _exactly(self, n_samples: int, seed: int, stream: Stream) -> Float[np.ndarray, "member vertex channel"]:
        return self.score.sample(n_samples, seed=seed, stream=stream)

    def log_prob(self, x: Float[np.ndarray, "sample vertex channel"]) -> Float[np.ndarray, " sample"]:
        """Log-density in nats."""
        if np.isnan(x).any():
            raise ValueError(
                "X must have no missing values for the density of a mixture, got NaN; fit method='gaussian'"
            )
        return self.score.log_prob(x)

    @property
    def gaussian(self) -> GaussianModel:
        """Gaussian field beside the mixture."""
        return GaussianModel(self.field, largest_eigenvalue=self.largest_eigenvalue)

    def condition(self, evidence: Evidence) -> Conditional:
        """Condition exactly on exact values of up to 4096 variables; else by the decoupled sampler."""
        if evidence.linear and evidence.rows.shape[0] == 0 and len(evidence.known) <= LARGEST:
            return MixtureConditional(self.score, evidence)
        return super().condition(evidence)

    def extended(self, graph: DependencyGraph, onto: DependencyGraph) -> DiffusionModel:
        """Return the score of the law on every window of the fitted size; a sampler draws from it."""
        field = self.field.extended(graph, onto)
        return DiffusionModel(self.score.extended(graph, onto), self.largest_eigenvalue, field)
