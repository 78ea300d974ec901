r"""Closed-form local scores of Gaussian data.

With :math:`a, s` the signal and noise scales at OU time t and :math:`\hat C` the second moment of standardised data,

* `MaskedGaussianScore` masks the inverse, :math:`[(a^2\hat C + s^2 I)^{-1}]_{ij}` for :math:`\mathrm{dist}(i,j)\le r`:
  (4.5) of arXiv 2505.04417, and (4.4) when the radius covers the graph. It is the paper's method, not the minimiser of
  the local loss;
* `WindowedGaussianScore` inverts the window, :math:`e_j^\top [(a^2\hat C + s^2 I)_{N_j^r, N_j^r}]^{-1}`: the minimiser
  of (3.8) over linear scores, the score of a marginal (3.11). It keeps marginals exact at every radius.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, final

import numpy as np
import torch

from nearfield.process import noise, noise_to_signal, signal
from nearfield.score.base import Score, per_time

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor

LARGEST_BATCH = 2**24
"""Numbers that `WindowedGaussianScore` holds at once in the eigenbases of its windows (64 MB in single precision)."""


@final
class MaskedGaussianScore(Score):
    """The paper's localized Gaussian score (4.5): the inverse of the diffused covariance, masked.

    Parameters
    ----------
    covariance : ndarray, shape (variable, variable)
        Second moment of the standardised data, (4.3); variables in vertex order, channels fastest. Dense: for a few
        thousand variables.
    hops : ndarray, shape (vertex, vertex)
        Graph distances.
    radius : int
        Entries further apart than this are set to zero.
    n_channels : int
        Channels of a vertex.

    Notes
    -----
    A masked inverse need not be positive definite when samples are few.
    """

    def __init__(
        self,
        covariance: Float[np.ndarray, "variable variable"],
        hops: Float[np.ndarray, "vertex vertex"],
        radius: int,
        n_channels: int = 1,
    ) -> None:
        self.n_vertices, self.n_channels, self.radius = len(hops), n_channels, radius
        self._near = np.asarray(hops) <= radius
        self._mask = torch.from_numpy(np.kron(self._near, np.ones((n_channels, n_channels), dtype=bool)))
        self._values, self._vectors = torch.linalg.eigh(torch.from_numpy(np.asarray(covariance, dtype=np.float64)))
        self._covariance = np.asarray(covariance, dtype=np.float64)

    def precision(self, t: float) -> Tensor:
        """Masked precision of the noised data at OU time t, (4.5), float64."""
        inverse = (self._vectors / (signal(t) ** 2 * self._values + noise(t) ** 2)) @ self._vectors.T
        return torch.where(self._mask, inverse, 0.0)

    def denoise(self, x: Tensor, t: float | Tensor) -> Tensor:
        """Return the denoised state by Tweedie's formula; shapes as in `Score.denoise`."""
        return per_time(self._denoise_at, x, t)

    def _denoise_at(self, x: Tensor, t: float) -> Tensor:
        pulled = x.flatten(1) @ self.precision(t).to(x)
        return ((x.flatten(1) - noise(t) ** 2 * pulled) / signal(t)).reshape(x.shape)

    def state(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """Return configuration and arrays from which `from_state` makes an equal score."""
        return {"radius": self.radius, "n_channels": self.n_channels}, {
            "covariance": self._covariance,
            "near": self._near,
        }

    @classmethod
    def from_state(cls, config: dict[str, Any], arrays: dict[str, np.ndarray]) -> MaskedGaussianScore:
        """Rebuild from `state`."""
        hops = np.where(arrays["near"], config["radius"], config["radius"] + 1)
        return cls(arrays["covariance"], hops, config["radius"], config["n_channels"])


@dataclass(frozen=True)
class WindowSpectrum:
    """Eigendecomposition of the covariance of every window of one radius; vertices may share one.

    Parameters
    ----------
    index : ndarray of int, shape (vertex, width)
        Members of the window, the vertex itself first; absent ones point at it.
    values : ndarray, shape (law, member)
        Eigenvalues; members run over (width, channel), channel fastest.
    vectors : ndarray, shape (law, member, member)
        Eigenvectors in columns.
    law : ndarray of int, shape (vertex,)
        The decomposition that is a vertex's.
    """

    index: Int[np.ndarray, "vertex width"]
    values: Float[np.ndarray, "law member"]
    vectors: Float[np.ndarray, "law member member"]
    law: Int[np.ndarray, " vertex"]


def radii_in_use(radius_by_time: tuple[tuple[float, int], ...]) -> set[int]:
    """Return every radius that `WindowedGaussianScore` comes by between the levels of a table."""
    radii = [r for _, r in radius_by_time]
    return {r for pair in zip(radii, radii[1:] or radii, strict=False) for r in range(min(pair), max(pair) + 1)}


@final
class WindowedGaussianScore(Score):
    """Minimiser of the localized score-matching loss (3.8) over linear scores, with a radius for each noise level.

    Parameters
    ----------
    windows : dict of int to WindowSpectrum
        Spectra of the windows of each radius of `radii_in_use`.
    radius_by_time : sequence of (float, int)
        Increasing OU times and the radius at each; in between it is interpolated in the logarithm of the
        noise-to-signal ratio and rounded up, since reading too far costs variance at that level only, reading too near
        a bias that adds up over levels. One pair makes the radius constant.
    n_channels : int
        Channels of a vertex.
    """

    radius: int

    def __init__(
        self,
        windows: dict[int, WindowSpectrum],
        radius_by_time: tuple[tuple[float, int], ...],
        n_channels: int = 1,
    ) -> None:
        if not radius_by_time or not radii_in_use(radius_by_time) <= set(windows):
            raise ValueError(
                f"windows must have every radius in use by radius_by_time, got {sorted(windows)} for {radius_by_time}"
            )
        times = [t for t, _ in radius_by_time]
        if times[0] <= 0 or sorted(set(times)) != times:
            raise ValueError(f"radius_by_time must have increasing times above 0, got {radius_by_time}; sort the table")
        self.windows = windows
        self.radius_by_time = tuple((float(t), int(r)) for t, r in radius_by_time)
        self.radius = max(r for _, r in self.radius_by_time)
        self.n_vertices, self.n_channels = len(windows[self.radius].index), n_channels
        self._levels = [math.log(noise_to_signal(t)) for t, _ in self.radius_by_time]
        self._kept: dict[tuple[Any, ...], tuple[np.ndarray, ...]] = {}

    def radius_at(self, t: float) -> int:
        """Radius in hops that is used at OU time t."""
        return int(self._radii_at(np.array(t)))

    def _radii_at(self, times: Float[np.ndarray, "*time"]) -> Int[np.ndarray, "*time"]:
        later = np.maximum(times, np.finfo(float).tiny)  # without noise, the radius of the weakest
        level = np.log(-np.expm1(-2 * later)) / 2 + later
        radius = np.interp(level, self._levels, [r for _, r in self.radius_by_time])
        return np.ceil(radius - 1e-6).astype(np.int64)

    def denoise(self, x: Tensor, t: float | Tensor) -> Tensor:
        """Return E[x_0j | x_t on the window of j] under the window's Gaussian; shapes as in `Score.denoise`.

        Samples that share few times share the rows of `coefficients`, which cost as much as taking ``n_channels``
        samples to the eigenbases of the windows; where times are many, as in training, the latter is done.
        """
        if self._share_times(x, t):
            return per_time(self._denoise_at, x, t)
        return self.denoise_with_variance(x, t)[0]

    def denoise_with_variance(self, x: Tensor, t: float | Tensor) -> tuple[Tensor, Tensor]:
        """Return what `denoise` does, and `explained_variance` at each sample's time or, of a common time, at that.

        In the eigenbases the variance is had at little cost: it is a sum over the same gains.
        """
        times = torch.as_tensor(t, dtype=torch.float64, device=x.device).reshape(-1)
        at = np.array(times.tolist())
        if self._share_times(x, t):
            distinct, which = np.unique(at, return_inverse=True)
            told = torch.from_numpy(self.explained_variance(distinct)).to(x)
            return per_time(self._denoise_at, x, t), told if len(distinct) == 1 else told[torch.from_numpy(which)]
        radii = np.where(at > 0, self._radii_at(at), -1)
        if (radii == self.radius).all():
            return self._denoise_each(x, times, self.radius)
        guess, told = x.clone(), torch.from_numpy(self.explained_variance(np.zeros(1))).to(x).repeat(len(x), 1, 1)
        for radius in (int(r) for r in np.unique(radii) if r >= 0):
            part = torch.from_numpy(np.flatnonzero(radii == radius)).to(x.device)
            own = self._denoise_each(x[part], times[part], radius)
            guess, told = guess.index_copy(0, part, own[0]), told.index_copy(0, part, own[1])
        return guess, told

    def _share_times(self, x: Tensor, t: float | Tensor) -> bool:
        """Whether times are so few that rows cost less than eigenbases."""
        times = torch.as_tensor(t, dtype=torch.float64).reshape(-1)
        return len(times) == 1 or len(np.unique(times.tolist())) * self.n_channels < len(x)

    def _denoise_each(self, x: Tensor, times: Float[Tensor, " sample"], radius: int) -> tuple[Tensor, Tensor]:
        """Each sample at a time of its own, above 0: in the eigenbasis of a window the denoiser is a gain."""
        a, s = (scale(times).to(x.dtype) for scale in (signal, noise))
        variables = x.permute(1, 2, 0).reshape(self.n_vertices * self.n_channels, len(x))
        guess = told = x.new_empty(self.n_vertices, self.n_channels, len(x))
        member = self.windows[radius].values.shape[1]
        for vertices, shared in self._groups(radius):
            step = max(1, LARGEST_BATCH // (member * max(len(x), 1 if shared else member)))
            for start in range(0, len(vertices), step):
                part = vertices[start : start + step]
                window, values, vectors = self._tensors(radius, part, shared, x)
                gain = a * values[..., None] / (a**2 * values[..., None] + s**2)  # (vertex or 1, member, sample)
                own = vectors[:, : self.n_channels]
                if shared:  # one product of matrices for all of them
                    read = variables[window].transpose(0, 1)
                    coordinates = (vectors[0].mT @ read.reshape(member, -1)).reshape(read.shape)
                    found = own[0] @ (gain.transpose(0, 1) * coordinates).reshape(member, -1)
                    found = found.reshape(self.n_channels, len(part), len(x)).transpose(0, 1)
                else:
                    found = own @ (gain * (vectors.mT @ variables[window]))
                at = torch.from_numpy(part).to(x.device)
                variance = (a * ((own**2 * values[:, None]) @ gain)).expand_as(found)
                guess, told = guess.index_copy(0, at, found), told.index_copy(0, at, variance)
        return guess.permute(2, 0, 1), told.permute(2, 0, 1)

    def _groups(self, radius: int) -> list[tuple[Int[np.ndarray, " vertex"], bool]]:
        """Vertices of the most frequent law, which they share, and the others."""
        law = self.windows[radius].law
        shared = law == np.bincount(law).argmax()
        if shared.sum() == 1:
            return [(np.arange(len(law)), False)]
        return [(np.flatnonzero(which), one) for which, one in ((shared, True), (~shared, False)) if which.any()]

    def _tensors(
        self, radius: int, part: Int[np.ndarray, " vertex"], shared: bool, like: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Variables, eigenvalues and eigenvectors of some windows; of a radius, they are kept as arrays.

        Training asks for the same ones at every step, and converting them costs more than using them.
        """
        kind = np.float64 if like.dtype == torch.float64 else np.float32
        key = (radius, int(part[0]), len(part), kind)
        arrays = self._kept.get(key)
        if arrays is None:
            window = self.windows[radius]
            variables = window.index[part, :, None] * self.n_channels + np.arange(self.n_channels)
            law = window.law[part[:1] if shared else part]
            values, vectors = (array[law].astype(kind) for array in (window.values, window.vectors))
            arrays = variables.reshape(len(part), -1), values, vectors
            kept = {k: v for k, v in self._kept.items() if k[0] == radius and k[3] == kind}
            if sum(array.size for group in (*kept.values(), arrays) for array in group) > LARGEST_BATCH:
                kept = {}
            self._kept = kept | {key: arrays}
        index, values, vectors = (torch.from_numpy(array).to(like.device) for array in arrays)
        return index, values.to(like), vectors.to(like)

    def explained_variance(self, times: Float[np.ndarray, " time"]) -> Float[np.ndarray, "time vertex channel"]:
        r"""Variance of the denoised values under the Gaussian: how much a noised window tells of each.

        In the eigenbasis of a window, :math:`\sum_k u_k^2 \lambda_k^2 / (\lambda_k + \sigma^2)`: that of the data
        without noise, of the order of :math:`1/\sigma^2` where noise is strong. OU times are at least 0.
        """
        radii = self._radii_at(times)
        out = np.empty((len(times), self.n_vertices, self.n_channels))
        for radius in (int(r) for r in np.unique(radii)):
            part = np.flatnonzero(radii == radius)
            window = self.windows[radius]
            values, squared_noise = window.values[:, None], np.expm1(2 * times[part])[:, None]
            told = values**2 / (values + squared_noise + np.finfo(float).tiny)  # (law, time, member)
            by_law = told @ window.vectors[:, : self.n_channels].transpose(0, 2, 1) ** 2
            out[part] = by_law[window.law].transpose(1, 0, 2)
        return out

    def coefficients(self, t: float) -> Float[np.ndarray, "vertex channel width channel"]:
        """Row of each vertex's denoiser: a e_j' C_NN (a^2 C_NN + s^2 I)^{-1}."""
        window = self.windows[self.radius_at(t)]
        a, s = signal(t), noise(t)
        gain = a * window.values / (a**2 * window.values + s**2)
        own = window.vectors[:, : self.n_channels] * gain[:, None]
        rows = (own @ window.vectors.transpose(0, 2, 1))[window.law]
        return rows.reshape(self.n_vertices, self.n_channels, -1, self.n_channels)

    def _denoise_at(self, x: Tensor, t: float) -> Tensor:
        index = torch.as_tensor(np.array(self.windows[self.radius_at(t)].index), device=x.device)
        rows = torch.from_numpy(self.coefficients(t)).to(x)
        out = torch.zeros_like(x)
        for k in range(index.shape[1]):
            out = out + torch.einsum("vcd,svd->svc", rows[:, :, k], x[:, index[:, k]])
        return out

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_kept": {}}

    def state(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """Return configuration and arrays from which `from_state` makes an equal score."""
        config = {
            "radius_by_time": [list(pair) for pair in self.radius_by_time],
            "n_channels": self.n_channels,
            "radii": sorted(self.windows),
        }
        arrays = {
            f"{name}.{r}": getattr(window, name)
            for r, window in self.windows.items()
            for name in ("index", "values", "vectors", "law")
        }
        return config, arrays

    @classmethod
    def from_state(cls, config: dict[str, Any], arrays: dict[str, np.ndarray]) -> WindowedGaussianScore:
        """Rebuild from `state`."""
        windows = {
            r: WindowSpectrum(*(arrays[f"{name}.{r}"] for name in ("index", "values", "vectors", "law")))
            for r in config["radii"]
        }
        return cls(windows, tuple((t, r) for t, r in config["radius_by_time"]), config["n_channels"])
