r"""The whole of a Gaussian field as what a network is shown.

Windows of a field miss what lies beyond them: on a fixed domain, where correlations reach across the data, the loss of
their denoiser grows without bound as the grid gets finer, while the field's own stays. A network that is trained meets
every noise level and must be shown each at little cost. In the eigenbasis of the covariance, :math:`C = V \Lambda V'`,
one decomposition serves all of them:

.. math:: D(x, t) = V \frac{a \Lambda}{a^2 \Lambda + s^2} V' x, \qquad
    v_j(t) = \sum_k V_{jk}^2 \frac{\Lambda_k^2}{\Lambda_k + \sigma^2}.

Under a noise map, with B the diagonal matrix of a/s of each entry (0 where a value is missing), a factorisation is
needed for each map:

.. math:: D = C B M^{-1} (x/s), \qquad v = \mathrm{diag}(C B M^{-1} B C), \qquad M = I + B C B.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, final

import numpy as np
import torch
from scipy.linalg import eigh
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from nearfield.graph import DependencyGraph
from nearfield.module import as_tensor
from nearfield.process import noise_scale, per_sample, signal_scale, time_of
from nearfield.score.base import ContextScore
from nearfield.score.extension import alike
from nearfield.score.field import GaussianField
from nearfield.score.spectrum import FieldSpectrum
from nearfield.score.symmetric import symmetric_map

if TYPE_CHECKING:
    from jaxtyping import Float

__all__ = ["LARGEST_BASIS", "LARGEST_MAP", "FieldContext"]

LARGEST_BASIS = 4096
"""Most variables of a field whose covariance is decomposed: some ten seconds, and a product of matrices a step."""
LARGEST_MAP = 1024
"""Most variables of a field under a noise map: a dense factorisation for each map."""
LEAST_NOISE = 1e-9
"""Least noise of an entry under a map, to divide by; the state itself stands where there is none."""
MATRICES = 2**24
"""Numbers of the matrices that are factorised together (128 MiB)."""
SMALLEST = 1e-30
"""Smallest eigenvalue, which rounding may take below 0."""
LOG_SIGMAS = tuple(np.linspace(-5.0, 6.0, 45).tolist())
"""Logs of the noise-to-signal ratios between which the variance of a larger field is interpolated."""
EDGE = 16
"""Hops from an edge within which it may change that variance."""


@final
class FieldContext(ContextScore):
    """A Gaussian field with the variance of its denoiser, at any noise level.

    Parameters
    ----------
    field : GaussianField
        Of the standardised data that a network is trained on.
    log_variance : ndarray or Tensor, shape (level, vertex, channel), optional
        Logs of the variance of the denoised values at the levels ``LOG_SIGMAS``, for fields of more than
        ``LARGEST_BASIS`` variables. These are denoised by the field's own solver.

    Raises
    ------
    ValueError
        If a field has too many variables for an eigenbasis and no variance is given.

    Examples
    --------
    >>> import scipy.sparse as sp
    >>> white = FieldContext(GaussianField(sp.eye_array(3, format="csr"), np.arange(3)))
    >>> white.denoise_with_variance(torch.ones(1, 3, 1), time_of(1.0))[1].flatten().tolist()
    [0.5, 0.5, 0.5]
    """

    radius = None
    log_variance: Tensor | None

    def __init__(
        self,
        field: GaussianField,
        log_variance: Float[np.ndarray, "level vertex channel"] | Float[Tensor, "level vertex channel"] | None = None,
    ) -> None:
        super().__init__()
        self.field, self.n_vertices, self.n_channels = field, field.n_vertices, field.n_channels
        n_variables = self.n_vertices * self.n_channels
        self.maps = n_variables <= LARGEST_MAP
        if log_variance is None and n_variables > LARGEST_BASIS:
            raise ValueError(
                f"field must have at most {LARGEST_BASIS} variables, got {n_variables}; extend a smaller one"
            )
        self.register_buffer("log_variance", None if log_variance is None else as_tensor(log_variance))

    def forward(self, x: Tensor, t: float | Tensor) -> Tensor:
        """Return the field's denoiser."""
        if isinstance(t, Tensor) and t.ndim == 3:
            return self._mapped(x, t)[0]
        if self.log_variance is not None:
            return self.field.denoise(x, t)
        times = self._times(x, t)
        denoised = symmetric_map(lambda y: self._denoised(y, times), x)
        return torch.where(per_sample(times) > 0, denoised, x)

    def _denoised(self, x: Tensor, times: Float[Tensor, " time"]) -> Tensor:
        """Denoise in the eigenbasis; a derivative has many vectors for each time."""
        a, s = (per_sample(scale(times))[..., 0].to(x) for scale in (signal_scale, noise_scale))
        values, vectors, _ = self._basis(x)
        gain = a * values / (a**2 * values + s**2)
        if len(gain) > 1:
            gain = gain.repeat(len(x) // len(gain), 1)
        return ((gain * (x.flatten(1) @ vectors)) @ vectors.mT).reshape(x.shape)

    def denoise_with_variance(self, x: Tensor, t: float | Tensor) -> tuple[Tensor, Tensor]:
        """Return E[x_0 | x_t] and its variance under the field, of each sample or once for a common time."""
        t = self.times(x, t)
        if isinstance(t, Tensor) and t.ndim == 3:
            return self._mapped(x, t)
        denoised = self.forward(x, t)  # first: it makes what is kept, outside of any transformation of torch.func
        return denoised, self._variance(self._times(x, t), x)

    def _mapped(
        self, x: Float[Tensor, "sample vertex channel"], t: Float[Tensor, "sample vertex channel"]
    ) -> tuple[Float[Tensor, "sample vertex channel"], Float[Tensor, "#sample vertex channel"]]:
        """Denoise under noise maps, with the variance; by one factorisation if all samples have the same map."""
        x, t = symmetric_map(self._prepared, x), t.to(x.device)
        maps = t[:1] if bool((t == t[:1]).all()) else t
        size = max(1, MATRICES // (self.n_vertices * self.n_channels) ** 2)
        parts = [slice(None)] if len(maps) == 1 else [slice(i, i + size) for i in range(0, len(maps), size)]
        found = [self._mapped_part(x[part], maps[part]) for part in parts]
        denoised, variance = (torch.cat(each) for each in zip(*found, strict=True))
        return torch.where(t > 0, denoised, x), variance

    def _prepared(self, x: Tensor) -> Tensor:
        """Make what is kept, outside of any transformation of torch.func, and return the state."""
        self._covariance(x)
        return x.clone()

    def _mapped_part(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        covariance, (n, *shape) = self._covariance(x), x.shape
        s = noise_scale(t).clamp_min(LEAST_NOISE).flatten(1)
        b = signal_scale(t).flatten(1) / s
        spread = b[:, :, None] * covariance
        root = torch.linalg.cholesky(spread * b[:, None] + torch.eye(len(covariance)).to(spread))
        half = torch.linalg.solve_triangular(root, spread, upper=False)
        y = (x.flatten(1).double() / s).reshape(len(t), -1, len(covariance))  # the samples of each map
        white = torch.linalg.solve_triangular(root, y.mT, upper=False)
        denoised = (white.mT @ half).reshape(n, *shape)
        return denoised.to(x), (half**2).sum(dim=1).reshape(len(t), *shape).to(x)

    def _covariance(self, like: Tensor) -> Float[Tensor, "variable variable"]:
        """Covariance in double precision, on the device of a state."""
        if like.device not in self._covariances:
            values, vectors, _ = self._basis(torch.empty(0, dtype=torch.float64, device=like.device))
            with torch.inference_mode(mode=False), torch.no_grad():
                self._covariances[like.device] = (vectors * values) @ vectors.mT
        return self._covariances[like.device]

    @cached_property
    def _covariances(self) -> dict[torch.device, Tensor]:
        """The covariance on each device in use."""
        return {}

    def local_jacobian(self, x: Tensor, t: float, index: Tensor) -> Tensor | None:
        """Return entries of the matrix of D, where the covariance is decomposed."""
        if self.log_variance is not None:
            return None
        blocks = FieldSpectrum(*self._decomposition).denoiser_blocks(t, index.cpu().numpy(), self.n_channels)
        return torch.from_numpy(blocks).to(x)[None]

    @staticmethod
    def _times(x: Tensor, t: float | Tensor) -> Float[Tensor, " time"]:
        return torch.as_tensor(t, dtype=torch.float64, device=x.device).reshape(-1)

    def _variance(self, times: Float[Tensor, " time"], like: Tensor) -> Float[Tensor, "time vertex channel"]:
        """Variance of the denoised values under the field, in the precision of a state."""
        if self.log_variance is not None:
            return self._interpolated(self.log_variance, times).to(like)
        values, _, squares = self._basis(like)
        gain = values**2 / (values + torch.expm1(2 * times)[:, None].to(values))
        return (gain @ squares.mT).reshape(len(times), self.n_vertices, self.n_channels)

    def _basis(self, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Eigenvalues, eigenvectors and their squares, in the precision and on the device of a state."""
        key = like.dtype, like.device
        if key not in self._bases:
            with torch.inference_mode(mode=False), torch.no_grad():  # training may use what was made while sampling
                values, vectors = (torch.from_numpy(each).to(like) for each in self._decomposition)
            self._bases[key] = values, vectors, vectors**2
        return self._bases[key]

    @cached_property
    def _bases(self) -> dict[tuple[torch.dtype, torch.device], tuple[Tensor, Tensor, Tensor]]:
        """The decomposition in each precision in use."""
        return {}

    @cached_property
    def _decomposition(self) -> tuple[Float[np.ndarray, " variable"], Float[np.ndarray, "variable variable"]]:
        """Eigenvalues and eigenvectors, of one component of the field after another."""
        covariance = self.field.covariance()
        values, vectors = np.zeros(len(covariance)), np.zeros_like(covariance)
        n_parts, part_of = connected_components(covariance != 0, directed=False)
        for part in (np.flatnonzero(part_of == k) for k in range(n_parts)):
            block = np.ix_(part, part)
            values[part], vectors[block] = eigh(covariance[block], driver="evd")
        return values.clip(SMALLEST), vectors

    @staticmethod
    def _interpolated(
        log_variance: Float[Tensor, "level vertex channel"], times: Float[Tensor, " time"]
    ) -> Float[Tensor, "time vertex channel"]:
        """Interpolate in the log of sigma, the noise-to-signal ratio; beyond the last level v falls as 1/sigma^2."""
        log_sigma = torch.log(noise_scale(times)) + times
        first, last, step = LOG_SIGMAS[0], LOG_SIGMAS[-1], LOG_SIGMAS[1] - LOG_SIGMAS[0]
        place = ((log_sigma - first) / step).clamp(0, len(LOG_SIGMAS) - 1)
        below = place.long().clamp_max(len(LOG_SIGMAS) - 2)
        share = per_sample(place - below).to(log_variance)
        found = (1 - share) * log_variance[below] + share * log_variance[below + 1]
        return torch.exp(found - 2 * per_sample((log_sigma - last).clamp_min(0)).to(found))

    def extended(self, graph: DependencyGraph, onto: DependencyGraph) -> FieldContext:
        """Return the field on a larger lattice; that of too many variables has the variance of the smaller one.

        Each vertex takes the variance of a vertex that lies to the edges within 16 hops as it does.
        """
        field = self.field.extended(graph, onto)
        if field.n_vertices * field.n_channels <= LARGEST_BASIS:
            return FieldContext(field)
        assert graph.lattice is not None
        like = alike(graph, onto, min(EDGE, (min(graph.lattice.shape) - 1) // 2))
        times = time_of(torch.exp(torch.tensor(LOG_SIGMAS, dtype=torch.float64)))
        return FieldContext(field, torch.log(self._variance(times, times))[:, torch.from_numpy(like)])
