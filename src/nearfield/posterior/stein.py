r"""Stein variational gradient descent, each vertex with a kernel of its own window.

Particles move along (Liu and Wang 2016)

.. math:: \phi_j(x^a) = \frac1n \sum_b k_j(x^b, x^a)\, \nabla_{x_j} \log p(x^b) + \nabla_{x^b_j} k_j(x^b, x^a),
    \qquad k_j(x, y) = \exp(-|x_{S_j} - y_{S_j}|^2 / h_j).

With :math:`S_j` all vertices the particles of a large field move closer together than the law has them: kernels of many
dimensions are nearly 0 between different particles. With the vertex and its Markov blanket for :math:`S_j` the number
of vertices does not matter (Zhuo et al. 2018, "Message passing Stein variational gradient descent").
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import numpy as np
import torch

from nearfield._checks import keep_counts, whole_number
from nearfield.noise import Stream, normals, seed_of
from nearfield.posterior.density import LocalDensity
from nearfield.posterior.kernel import Windows

if TYPE_CHECKING:
    from jaxtyping import Float
    from numpy.typing import ArrayLike
    from torch import Tensor

__all__ = ["MessagePassingSVGD"]


@final
@dataclass(frozen=True)
class MessagePassingSVGD:
    """Particles that follow the gradient of the log-density and push each other away.

    Parameters
    ----------
    radius : int or None
        Hops of the window of a kernel; 1 is the Markov blanket, None the whole field: plain SVGD.
    step_size : float
        Of Adam, in units of the field; it falls to 0 along a cosine.
    n_steps : int

    Raises
    ------
    ValueError
        If a setting is out of range.

    Examples
    --------
    >>> from nearfield.posterior.law import gaussian_markov
    >>> law = gaussian_markov(np.array([[2.0, -1.0], [-1.0, 2.0]]))
    >>> MessagePassingSVGD(n_steps=10).sample(law, 20).shape
    (20, 2)
    """

    radius: int | None = 1
    step_size: float = 0.1
    n_steps: int = 500

    def __post_init__(self) -> None:
        keep_counts(self, "n_steps")
        if self.radius is not None:
            whole_number("radius", self.radius, 0, "give hops; None is the whole field")
        if not 0 < self.step_size < math.inf:
            raise ValueError(f"step_size must be positive and finite, got {self.step_size}")

    def sample(
        self, density: LocalDensity, n_particles: int, *, seed: int = 0, start: ArrayLike | None = None
    ) -> Float[np.ndarray, "particle vertex"]:
        """Move particles to the law.

        Parameters
        ----------
        density : LocalDensity
        n_particles : int
            At least 2.
        seed : int
            Of the start.
        start : float array (particle, vertex), optional
            By default standard normal numbers.

        Raises
        ------
        ValueError
            If a number is out of range, `start` has another shape, or its log-density is not finite.
        """
        n = whole_number("n_particles", n_particles, 2, "one particle finds a mode")
        shape = (n, density.n_vertices)
        if start is None:
            start = normals(seed_of(seed), Stream.INITIAL, range(n), 0, density.n_vertices, 1)[..., 0]
        given = np.array(start, dtype=np.float64)
        if given.shape != shape:
            raise ValueError(f"start must have shape {shape}, got {given.shape}")
        x = torch.from_numpy(given).requires_grad_()
        density.require_finite(x.detach())
        windows = Windows(density.graph, self.radius)
        optimizer = torch.optim.Adam([x], lr=self.step_size)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.n_steps)
        for _ in range(self.n_steps):
            x.grad = -_direction(density, windows, x.detach())
            optimizer.step()
            schedule.step()
        return x.detach().numpy()


def _direction(
    density: LocalDensity, windows: Windows, x: Float[Tensor, "particle vertex"]
) -> Float[Tensor, "particle vertex"]:
    """Return phi; h is the mean squared distance of windows over the logarithm of the number of particles."""
    n, slope = len(x), density.gradient(x)
    out = torch.empty_like(x)
    for vertices in windows.chunks(n * n):
        distance = windows.distances(x[..., None], x[..., None], vertices)
        h = distance.sum((1, 2), keepdim=True) / (n * (n - 1)) / math.log(n + 1)
        kernel = torch.exp(-distance / h.clamp(min=torch.finfo(x.dtype).tiny))
        own, pull = x.T[vertices, :, None], slope.T[vertices, :, None]
        push = 2 / h * (own * kernel.sum(-1, keepdim=True) - kernel @ own)
        out[:, vertices] = ((kernel @ pull + push) / n)[..., 0].T
    return out
