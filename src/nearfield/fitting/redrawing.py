"""Missing values drawn by a network, for the training of the next.

What a network reads near a value that is data should have the law of data. Draws of the Gaussian field do not quite;
draws by a network that was trained with them, given what is observed, are nearer. They are made by the decoupled
sampler (:mod:`nearfield.sampling.conditioning`) for all samples at once, since all that is observed is exact.
"""

from __future__ import annotations

import math
from itertools import count
from typing import TYPE_CHECKING

import numpy as np
import torch

from nearfield.noise import Stream
from nearfield.process import signal_scale, time_of
from nearfield.samples import Completions, Samples
from nearfield.score.base import Score
from nearfield.score.field import GaussianField
from nearfield.score.incomplete import IncompleteFields

if TYPE_CHECKING:
    from jaxtyping import Float

__all__ = ["redrawn"]

DRAWS = 3
LEVELS, REPEATS, STRONG = 50, 3, 5.0
"""Noise levels, and visits of each below the strong ones."""
WEAKEST, STRONGEST = 0.02, 80.0
"""Noise-to-signal ratios of the last level and, if the field varies no more than that, of the first."""
NUMBERS = 1 << 15
"""Numbers that are denoised at once."""


def redrawn(samples: Samples, score: Score, field: GaussianField, seed: int) -> Samples:
    """Return standardised samples, their missing values drawn given the others by a score, and a field of them."""
    assert samples.present is not None
    values, present = samples.values, samples.present
    low = np.where(present, values, np.inf).min(axis=(0, 1))
    high = np.where(present, values, -np.inf).max(axis=(0, 1))
    rng, steps = np.random.default_rng([seed, Stream.CONDITIONAL]), count(step=2)
    strongest = max(STRONGEST, 10 * math.sqrt(samples.largest_eigenvalue))
    sigmas = np.geomspace(strongest, WEAKEST, LEVELS).tolist()
    y = math.sqrt(1 + strongest**2) * rng.standard_normal((min(DRAWS, len(_drawn(samples))), *values.shape))
    for level, sigma in enumerate(sigmas):
        law = IncompleteFields(field, present, shift=sigma**-2)
        visits = REPEATS if sigma < STRONG else 1
        following = [sigma] * (visits - 1) + [*sigmas[level + 1 : level + 2], 0.0][:1]
        for after in following:
            for draw, state in enumerate(y):
                # a mean of values is in their range: a network that leaves it would go further at each visit
                clean = np.clip(_denoised(score, state, sigma), low, high)
                clean += law.sample(values - clean, seed=seed, step=next(steps))
                y[draw] = np.where(present, values, clean) + after * rng.standard_normal(values.shape)
    return samples.with_values(y[0], drawn=Completions(y, present))


def _drawn(samples: Samples) -> Float[np.ndarray, "draw sample vertex channel"]:
    assert samples.drawn is not None
    return samples.drawn.values


@torch.no_grad()
def _denoised(
    score: Score, y: Float[np.ndarray, "sample vertex channel"], sigma: float
) -> Float[np.ndarray, "sample vertex channel"]:
    """Denoise states whose signal has scale 1."""
    t, size = time_of(sigma), max(1, NUMBERS // y[0].size)
    x = torch.from_numpy(signal_scale(t) * y).float()
    return torch.cat([score.denoise(part, t) for part in x.split(size)]).double().numpy()
