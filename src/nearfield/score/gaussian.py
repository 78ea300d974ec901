r"""Closed-form local scores of Gaussian data.

With :math:`a, s` the signal and noise scales at OU time t and :math:`\hat C` the second moment of standardised data,

* `MaskedGaussianScore` masks the inverse, :math:`[(a^2\hat C + s^2 I)^{-1}]_{ij}` for :math:`\mathrm{dist}(i,j)\le r`:
  (4.5) of arXiv 2505.04417, and (4.4) if the radius covers the graph. It is the paper's method, not the minimiser of
  the local loss;
* `WindowedGaussianScore` inverts the window, :math:`e_j^\top [(a^2\hat C + s^2 I)_{N_j^r, N_j^r}]^{-1}`: the minimiser
  of (3.8) over linear scores, the score of a marginal (3.11). It keeps marginals exact at every radius.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, cast, final

import numpy as np
import torch
from torch import Tensor, nn

from nearfield.module import Module, as_tensor
from nearfield.process import noise_scale, noise_to_signal, signal_scale
from nearfield.score.base import ContextScore, Score, per_time
from nearfield.score.extension import alike

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

    from nearfield.graph import DependencyGraph

__all__ = ["MaskedGaussianScore", "WindowSpectrum", "WindowedGaussianScore", "blocks_of", "radii_in_use"]

LARGEST_BATCH = 2**24
"""Numbers that `WindowedGaussianScore` holds at once in the eigenbases of its windows (64 MB in single precision)."""


@final
class MaskedGaussianScore(Score):
    """The paper's localized Gaussian score (4.5): the inverse of the diffused covariance, masked.

    Parameters
    ----------
    covariance : ndarray or Tensor, shape (variable, variable)
        Second moment of the standardised data, (4.3); variables in vertex order, channels fastest. Dense: for a few
        thousand variables.
    near : ndarray or Tensor of bool, shape (vertex, vertex)
        Whether two vertices are within the radius of each other.
    radius : int
        Entries of more distant vertices are zero.
    n_channels : int
        Channels of a vertex.

    Notes
    -----
    A masked inverse need not be positive definite when samples are few.
    """

    settings = ("radius", "n_channels")
    covariance: Tensor
    near: Tensor
    _values: Tensor
    _vectors: Tensor
    _mask: Tensor

    def __init__(
        self,
        covariance: Float[np.ndarray, "variable variable"] | Float[Tensor, "variable variable"],
        near: Bool[np.ndarray, "vertex vertex"] | Bool[Tensor, "vertex vertex"],
        radius: int,
        n_channels: int = 1,
    ) -> None:
        super().__init__()
        self.n_vertices, self.n_channels, self.radius = len(near), n_channels, radius
        self.register_buffer("covariance", as_tensor(covariance).double())
        self.register_buffer("near", as_tensor(near))
        for name in ("_values", "_vectors", "_mask"):
            self.register_buffer(name, None, persistent=False)
        self.derive()

    def derive(self) -> None:
        """Decompose the covariance, and spread the mask over channels."""
        super().derive()
        self._values, self._vectors = torch.linalg.eigh(self.covariance)
        channels = torch.ones(self.n_channels, self.n_channels, dtype=torch.bool, device=self.near.device)
        self._mask = torch.kron(self.near, channels)

    def precision(self, t: float) -> Tensor:
        """Masked precision of the noised data at OU time t, (4.5), float64."""
        inverse = (self._vectors / (signal_scale(t) ** 2 * self._values + noise_scale(t) ** 2)) @ self._vectors.T
        return torch.where(self._mask, inverse, 0.0)

    def forward(self, x: Tensor, t: float | Tensor) -> Tensor:
        """Return the denoised state by Tweedie's formula."""
        return per_time(self._denoise_at, x, t)

    def local_jacobian(self, x: Tensor, t: float, index: Tensor) -> Tensor:
        """Return entries of (I - s^2 P) / a, P the masked precision."""
        pulled = noise_scale(t) ** 2 * self.precision(t)
        whole = (torch.eye(len(pulled), dtype=pulled.dtype, device=pulled.device) - pulled) / signal_scale(t)
        return blocks_of(whole, index, self.n_channels).to(x)[None]

    def _denoise_at(self, x: Tensor, t: float) -> Tensor:
        pulled = x.flatten(1) @ self.precision(t).to(x)
        return ((x.flatten(1) - noise_scale(t) ** 2 * pulled) / signal_scale(t)).reshape(x.shape)


@final
class WindowSpectrum(Module):
    """Eigendecomposition of the covariance of every window of one radius; vertices may share one.

    Parameters
    ----------
    index : ndarray or Tensor of int, shape (vertex, width)
        Entries of the window, the vertex itself first; absent entries point at it.
    values : ndarray or Tensor, shape (law, entry)
        Eigenvalues; entries run over (width, channel), channel fastest.
    vectors : ndarray or Tensor, shape (law, entry, entry)
        Eigenvectors in columns.
    law : ndarray or Tensor of int, shape (vertex,)
        Number of the decomposition of each vertex.
    """

    index: Tensor
    values: Tensor
    vectors: Tensor
    law: Tensor
    _common: Tensor
    _others: Tensor

    def __init__(
        self,
        index: Int[np.ndarray, "vertex width"] | Int[Tensor, "vertex width"],
        values: Float[np.ndarray, "law entry"] | Float[Tensor, "law entry"],
        vectors: Float[np.ndarray, "law entry entry"] | Float[Tensor, "law entry entry"],
        law: Int[np.ndarray, " vertex"] | Int[Tensor, " vertex"],
    ) -> None:
        super().__init__()
        for name, array in (("index", index), ("values", values), ("vectors", vectors), ("law", law)):
            self.register_buffer(name, as_tensor(array))
        for name in ("_common", "_others"):
            self.register_buffer(name, None, persistent=False)
        self.derive()

    def derive(self) -> None:
        """Find the vertices that share the most frequent law, and the others."""
        super().derive()
        law = self.law.cpu().numpy()
        shared = law == np.bincount(law).argmax()
        if shared.sum() == 1:
            shared[:] = False
        self._common, self._others = (
            torch.tensor(np.flatnonzero(which), device=self.law.device) for which in (shared, ~shared)
        )

    @property
    def groups(self) -> list[tuple[Int[Tensor, " some"], bool]]:
        """Vertices, and whether they share one law."""
        return [(part, one) for part, one in ((self._common, True), (self._others, False)) if len(part)]


def radii_in_use(radius_by_time: tuple[tuple[float, int], ...]) -> set[int]:
    """Return every radius that `WindowedGaussianScore` uses at or between the levels of a table."""
    radii = [r for _, r in radius_by_time]
    return {r for pair in zip(radii, radii[1:] or radii, strict=False) for r in range(min(pair), max(pair) + 1)}


@final
class WindowedGaussianScore(ContextScore):
    """Minimiser of the localized score-matching loss (3.8) over linear scores, with a radius for each noise level.

    Parameters
    ----------
    windows : mapping of int to WindowSpectrum
        Spectra of the windows of each radius of `radii_in_use`.
    radius_by_time : sequence of (float, int)
        Increasing OU times and the radius at each; in between it is interpolated in the logarithm of the
        noise-to-signal ratio and rounded up, since too large a radius costs variance at one level only, too small a
        radius a bias that adds up over levels. One pair makes the radius constant.
    n_channels : int
        Channels of a vertex.
    """

    radius: int
    settings = ("radius_by_time", "n_channels")

    def __init__(
        self,
        windows: Mapping[int, WindowSpectrum] | Mapping[str, WindowSpectrum] | nn.ModuleDict,
        radius_by_time: tuple[tuple[float, int], ...],
        n_channels: int = 1,
    ) -> None:
        super().__init__()
        known = sorted(int(radius) for radius in windows)
        if not radius_by_time or not radii_in_use(radius_by_time) <= set(known):
            raise ValueError(
                f"windows must have every radius in use by radius_by_time, got {known} for {radius_by_time}"
            )
        times = [t for t, _ in radius_by_time]
        if times[0] <= 0 or sorted(set(times)) != times:
            raise ValueError(f"radius_by_time must have increasing times above 0, got {radius_by_time}")
        self.windows = nn.ModuleDict({str(radius): each for radius, each in windows.items()})
        self.radius_by_time = tuple((float(t), int(r)) for t, r in radius_by_time)
        self.radius = max(r for _, r in self.radius_by_time)
        self.n_vertices, self.n_channels = len(self.window(self.radius).index), n_channels
        self._levels = [math.log(noise_to_signal(t)) for t, _ in self.radius_by_time]

    def window(self, radius: int) -> WindowSpectrum:
        """Spectra of the windows of one radius."""
        return cast("WindowSpectrum", self.windows[str(radius)])

    def radius_at(self, t: float) -> int:
        """Radius in hops at OU time t."""
        return int(self._radii_at(np.array(t)))

    def _radii_at(self, times: Float[np.ndarray, "*time"]) -> Int[np.ndarray | np.int64, "*time"]:
        later = np.maximum(times, np.finfo(float).tiny)  # without noise, the radius of the weakest level
        level = np.log(-np.expm1(-2 * later)) / 2 + later
        radius = np.interp(level, self._levels, [r for _, r in self.radius_by_time])
        reach: np.ndarray = np.ceil(radius - 1e-6).astype(np.int64)
        return reach

    def forward(self, x: Tensor, t: float | Tensor) -> Tensor:
        """Return E[x_0j | x_t on the window of j] under the window's Gaussian.

        Samples at few distinct times share the rows of `coefficients`, which cost as much as moving ``n_channels``
        samples to the eigenbases of the windows; samples at many times, as in training, use the eigenbases.
        """
        if self._share_times(x, t):
            return per_time(self._denoise_at, x, t)
        return self.denoise_with_variance(x, t)[0]

    def denoise_with_variance(self, x: Tensor, t: float | Tensor) -> tuple[Tensor, Tensor]:
        """Return the denoised samples, and `explained_variance` at the time of each, or once for a common time."""
        t = self.times(x, t)
        at = _on_host(t)
        if self._share_times(x, t):
            distinct, which = np.unique(at, return_inverse=True)
            variance = self.explained_variance(distinct).to(x)
            denoised = per_time(self._denoise_at, x, t)
            return denoised, variance if len(distinct) == 1 else variance[torch.tensor(which.tolist(), device=x.device)]
        times = torch.tensor(at.tolist(), dtype=torch.float64, device=x.device)
        radii = np.where(at > 0, self._radii_at(at), -1)
        if (radii == self.radius).all():
            return self._denoise_each(x, times, self.radius)
        denoised, variance = x.clone(), self.explained_variance(np.zeros(1)).to(x).repeat(len(x), 1, 1)
        for radius in (int(r) for r in np.unique(radii) if r >= 0):
            part = torch.tensor(np.flatnonzero(radii == radius).tolist(), device=x.device)
            own = self._denoise_each(x[part], times[part], radius)
            denoised, variance = denoised.index_copy(0, part, own[0]), variance.index_copy(0, part, own[1])
        return denoised, variance

    def _share_times(self, x: Tensor, t: float | Tensor) -> bool:
        """Whether times are so few that rows cost less than eigenbases."""
        return not isinstance(t, Tensor) or len(set(t.tolist())) * self.n_channels < len(x)

    def _denoise_each(self, x: Tensor, times: Float[Tensor, " sample"], radius: int) -> tuple[Tensor, Tensor]:
        """Denoise each sample at its own time above 0, by gains in the eigenbases of the windows."""
        a, s = (scale(times).to(x.dtype) for scale in (signal_scale, noise_scale))
        variables = x.permute(1, 2, 0).reshape(self.n_vertices * self.n_channels, len(x))
        denoised = variance = x.new_empty(self.n_vertices, self.n_channels, len(x))
        size = self.window(radius).values.shape[1]
        for vertices, shared in self.window(radius).groups:
            step = max(1, LARGEST_BATCH // (size * max(len(x), 1 if shared else size)))
            for start in range(0, len(vertices), step):
                part = slice(start, start + step)
                at, index, values, vectors = self._tensors(radius, part, shared, x)
                gain = a * values[..., None] / (a**2 * values[..., None] + s**2)  # (vertex or 1, entry, sample)
                own = vectors[:, : self.n_channels]
                if shared:  # one product of matrices for all vertices
                    read = variables[index].transpose(0, 1)
                    coordinates = (vectors[0].mT @ read.reshape(size, -1)).reshape(read.shape)
                    found = own[0] @ (gain.transpose(0, 1) * coordinates).reshape(size, -1)
                    found = found.reshape(self.n_channels, len(at), len(x)).transpose(0, 1)
                else:
                    found = own @ (gain * (vectors.mT @ variables[index]))
                explained = (a * ((own**2 * values[:, None]) @ gain)).expand_as(found)
                denoised, variance = denoised.index_copy(0, at, found), variance.index_copy(0, at, explained)
        return denoised.permute(2, 0, 1), variance.permute(2, 0, 1)

    @cached_property
    def _kept(self) -> dict[tuple[object, ...], tuple[Tensor, ...]]:
        """Tensors of the windows used last."""
        return {}

    def _tensors(self, radius: int, part: slice, shared: bool, like: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Vertices, their variables, eigenvalues and eigenvectors of some windows, cached for one radius.

        Each training step needs the same tensors, and their conversion costs more than their use.
        """
        kind = torch.float64 if like.dtype == torch.float64 else torch.float32
        own = (radius, kind, like.device)
        tensors = self._kept.get((*own, part.start, part.stop, shared))
        if tensors is None:
            window = self.window(radius)
            with torch.inference_mode(mode=False), torch.no_grad():  # training may use tensors made while sampling
                vertices = next(group for group, one in window.groups if one == shared)[part]
                channels = torch.arange(self.n_channels, device=like.device)
                variables = (window.index[vertices][:, :, None] * self.n_channels + channels).flatten(1)
                law = window.law[vertices[:1] if shared else vertices]
                values, vectors = (each[law].to(kind) for each in (window.values, window.vectors))
            tensors = vertices, variables, values, vectors
            kept = {key: each for key, each in self._kept.items() if key[:3] == own}
            if sum(each.numel() for group in (*kept.values(), tensors) for each in group) > LARGEST_BATCH:
                kept = {}
            self._kept = kept | {(*own, part.start, part.stop, shared): tensors}
        vertices, index, values, vectors = tensors
        return vertices, index, values.to(like), vectors.to(like)

    def explained_variance(
        self, times: Float[np.ndarray, " time"] | Float[Tensor, " time"]
    ) -> Float[Tensor, "time vertex channel"]:
        r"""Variance of the denoised values under the Gaussian, at OU times of at least 0.

        In the eigenbasis of a window it is :math:`\sum_k u_k^2 \lambda_k^2 / (\lambda_k + \sigma^2)`: the variance of
        the data without noise, of the order of :math:`1/\sigma^2` under strong noise.
        """
        at = np.array(times.tolist())
        radii = self._radii_at(at)
        out = self.window(self.radius).values.new_empty(len(at), self.n_vertices, self.n_channels)
        for radius in (int(r) for r in np.unique(radii)):
            part = torch.tensor(np.flatnonzero(radii == radius).tolist(), device=out.device)
            window = self.window(radius)
            squared_noise = torch.expm1(2 * out.new_tensor(at.tolist())[part])[:, None]
            values = window.values[:, None]
            gain = values**2 / (values + squared_noise + np.finfo(float).tiny)  # (law, time, entry)
            by_law = gain @ window.vectors[:, : self.n_channels].mT ** 2
            out[part] = by_law[window.law].transpose(0, 1)
        return out

    def coefficients(self, t: float) -> Float[Tensor, "vertex channel width channel"]:
        """Row of each vertex's denoiser: a e_j' C_NN (a^2 C_NN + s^2 I)^{-1}."""
        window = self.window(self.radius_at(t))
        a, s = signal_scale(t), noise_scale(t)
        gain = a * window.values / (a**2 * window.values + s**2)
        own = window.vectors[:, : self.n_channels] * gain[:, None]
        rows = (own @ window.vectors.mT)[window.law]
        return rows.reshape(self.n_vertices, self.n_channels, -1, self.n_channels)

    def local_jacobian(self, x: Tensor, t: float, index: Tensor) -> Tensor:
        """Return the `coefficients` of these vertices, 0 for those beyond the window."""
        window = self.window(self.radius_at(t))
        same = (index[:, :, None] == window.index[:, None]).to(x)  # absent entries of a window have coefficient 0
        return torch.einsum("vkw,vcwd->vckd", same, self.coefficients(t).to(x))[None]

    def _denoise_at(self, x: Tensor, t: float) -> Tensor:
        index, rows = self.window(self.radius_at(t)).index, self.coefficients(t).to(x)
        out = torch.zeros_like(x)
        for k in range(index.shape[1]):
            out = out + torch.einsum("vcd,svd->svc", rows[:, :, k], x[:, index[:, k]])
        return out

    def extended(self, graph: DependencyGraph, onto: DependencyGraph) -> WindowedGaussianScore:
        """Give each window of a larger lattice the spectrum of one with the same cut; see `Score.extended`."""
        windows = {}
        for radius in map(int, self.windows):
            window, like = self.window(radius), alike(graph, onto, radius)
            law = window.law[torch.tensor(like, device=window.law.device)]
            windows[radius] = WindowSpectrum(onto.neighborhood(radius).index, window.values, window.vectors, law)
        return WindowedGaussianScore(windows, self.radius_by_time, self.n_channels)


def blocks_of(
    matrix: Float[Tensor, "variable variable"], index: Int[Tensor, "vertex width"], n_channels: int
) -> Float[Tensor, "vertex channel width channel"]:
    """Return the blocks of a dense matrix at these vertices for each vertex."""
    n = len(matrix) // n_channels
    blocks = matrix.reshape(n, n_channels, n, n_channels)
    return blocks[torch.arange(n, device=index.device)[:, None], :, index].transpose(1, 2)


def _on_host(t: float | Tensor) -> Float[np.ndarray, " time"]:
    return np.array(t.tolist() if isinstance(t, Tensor) else [t])
