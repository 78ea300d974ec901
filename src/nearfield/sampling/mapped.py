"""Draws of a score's law given observations of points, in one pass, where the score takes noise maps."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from nearfield.noise import Stream, normals
from nearfield.process import Schedule, time_of
from nearfield.sampling.base import BYTES, MEMORY, on_device
from nearfield.sampling.sampler import DPMSolver2M, default_schedule
from nearfield.score.conditioned import ConditionedScore

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jaxtyping import Float

    from nearfield.sampling.base import Sampler
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
    score = on_device(score, device)
    size = batch_size or max(1, MEMORY // (BYTES * score.numbers_per_sample))
    pairs = [(k, m) for k in range(len(evidence.values)) for m in range(n_samples)]
    values = np.where(evidence.known, evidence.values, seen)
    drawn = np.empty((len(pairs), values.shape[1]))
    for start in range(0, len(pairs), size):
        some = pairs[start : start + size]
        given = ConditionedScore(score, precision, values[[k for k, _ in some]].reshape(-1, *shape)).to(device)
        members = [((int(evidence.cases[k]) + 1) << 32) + m for k, m in some]  # apart from those without evidence
        drawn[start : start + size] = _reversed(given, sampler, members, seed, device)
    out = drawn.reshape(len(values), n_samples, -1).swapaxes(0, 1)
    return np.where(evidence.known, values, out)


@torch.no_grad()
def _reversed(
    score: Score, sampler: Sampler, members: Sequence[int], seed: int, device: torch.device | str
) -> Float[np.ndarray, "member entry"]:
    """Run the reverse process for members of any numbers."""

    def noise(stream: Stream, k: int) -> torch.Tensor:
        return torch.from_numpy(normals(seed, stream, members, k, score.n_vertices, score.n_channels)).to(device)

    x, memory, times = noise(Stream.INITIAL, 0), None, sampler.schedule.times
    for k in range(sampler.schedule.steps):
        x, std, memory = sampler.step(score, x, k, memory)
        x = x + std * noise(Stream.STEP, k)
    return score.denoise(x, times[-1]).flatten(1).cpu().numpy()
