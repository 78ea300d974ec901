"""Draws of a score's law given observations of points, in one pass, where the score takes noise maps."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from nearfield.process import Schedule, time_of
from nearfield.sampling.sampler import DPMSolver2M, default_schedule
from nearfield.score.conditioned import ConditionedScore

if TYPE_CHECKING:
    from jaxtyping import Float

    from nearfield.score.base import Score
    from nearfield.score.evidence import Evidence

__all__ = ["in_one_pass", "sample_in_one_pass"]

FINEST = 0.02
"""Last noise level, where no error is smaller."""
BELOW = 2.5
"""The last level is below the smallest error by this factor."""


def in_one_pass(score: Score, evidence: Evidence) -> bool:
    """Whether draws need no more than one pass of the ordinary sampler."""
    return score.maps and evidence.points() is not None


def sample_in_one_pass(
    score: Score,
    evidence: Evidence,
    n_samples: int,
    *,
    seed: int,
    levels: int = 50,
    largest_eigenvalue: float = 1.0,
    device: torch.device | str = "cpu",
    batch_size: int | None = None,
) -> Float[np.ndarray, "member case entry"]:
    """Draw members given the evidence on each case; arguments as in `DecoupledSampler.sample`."""
    points, shape = evidence.points(), (score.n_vertices, score.n_channels)
    assert points is not None
    precision, pull = points
    seen = pull / np.where(precision > 0, precision, 1.0)
    precision = np.where(evidence.known, np.inf, precision).reshape(shape)
    first = default_schedule(largest_eigenvalue).times[0]
    last = time_of(min(FINEST, evidence.smallest_error / BELOW))
    sampler = DPMSolver2M(Schedule.log_snr(levels - 1, last, first))
    out = np.empty((n_samples, *evidence.values.shape))
    for k, case in enumerate(evidence.cases):
        values = np.where(evidence.known, evidence.values[k], seen)
        with torch.no_grad():
            drawn = sampler.sample(
                ConditionedScore(score, precision, values.reshape(shape)),
                n_samples,
                seed=seed,
                first_member=(int(case) + 1) << 32,  # apart from the members without evidence
                batch_size=batch_size,
                dtype=torch.float64,
                device=device,
            )
        out[:, k] = np.where(evidence.known, values, drawn.flatten(1).cpu().numpy())
    return out
