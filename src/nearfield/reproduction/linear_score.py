r"""What linear scores generate: exact laws, and ensembles, of several at once.

A step of a sampler with a linear score is :math:`y = x A + \delta \xi`; a run of steps is :math:`y = x A + \eta` with
:math:`\eta` normal again. Runs are computed once, and serve the law and the draws alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch

from nearfield.sampling.sampler import EulerMaruyama, Sampler
from nearfield.score.base import Score

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Float
    from torch import Tensor

    Matrices = Float[Tensor, "score vertex vertex"]

__all__ = ["AffineStep", "ensembles", "law", "laws", "runs"]


class AffineStep(NamedTuple):
    """Consecutive steps in one: ``y = x @ slope + eta``, for each score.

    ``noise`` is the covariance of eta.
    """

    slope: Matrices
    noise: Matrices


def runs(sampler: EulerMaruyama, scores: Sequence[Score], length: int = 50) -> list[AffineStep]:
    """Put the steps of a sampler together, by `length` of them, for linear scores of one channel."""
    basis = torch.eye(scores[0].n_vertices, dtype=torch.float64)
    found: list[AffineStep] = []
    for k in range(sampler.schedule.steps):
        steps = [sampler.step(score, basis[..., None], k, None) for score in scores]
        slope = torch.stack([step.mean[..., 0] for step in steps])
        noise = torch.stack([step.std**2 * basis for step in steps])
        if k % length:
            before = found.pop()
            slope, noise = before.slope @ slope, slope.mT @ before.noise @ slope + noise
        found.append(AffineStep(slope, noise))
    return found


def laws(steps: Sequence[AffineStep]) -> Float[np.ndarray, "score vertex vertex"]:
    """Exact covariances of what is generated from standard noise: the law of an infinite ensemble."""
    covariance = torch.eye(steps[0].slope.shape[1], dtype=torch.float64).expand_as(steps[0].slope)
    for slope, noise in steps:
        covariance = slope.mT @ covariance @ slope + noise
    return covariance.numpy()


def ensembles(steps: Sequence[AffineStep], n_samples: int, seed: int) -> Float[Tensor, "score sample vertex"]:
    """Draw an ensemble from each score.

    Every score is given the same standard normals: the differences of the ensembles are then theirs.
    """
    generator = torch.Generator().manual_seed(seed)
    shape = (n_samples, steps[0].slope.shape[1])
    states = torch.randn(shape, generator=generator, dtype=torch.float64).repeat(len(steps[0].slope), 1, 1)
    following = torch.empty_like(states)
    for slope, noise in steps:
        xi = torch.randn(shape, generator=generator, dtype=torch.float64)
        torch.matmul(xi, torch.linalg.cholesky(noise).mT, out=following)
        following.baddbmm_(states, slope)
        states, following = following, states
    return states


def law(sampler: Sampler, score: Score) -> Float[np.ndarray, "d d"]:
    """Exact covariance of what any sampler generates with one linear score."""
    return sampler.push_forward(score)[1].numpy()
