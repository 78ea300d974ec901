r"""A scale mixture made local: which component a state belongs to is read from a window around each vertex.

It is :math:`E[x_{0j} | x_t \text{ on the window of } j]` under a mixture law of the window
(:mod:`nearfield.score.mixture_components`), a minimiser of the localized loss (3.7) of arXiv 2505.04417 in closed form.
The window grows with the noise: contrast that varies in space is read from few cells where noise is weak.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import pairwise
from typing import TYPE_CHECKING, cast, final

import numpy as np
import torch
from torch import nn

from nearfield.module import Module
from nearfield.process import noise_to_signal
from nearfield.score.base import Score
from nearfield.score.extension import alike
from nearfield.score.gaussian import WindowSpectrum
from nearfield.score.mixture_components import Components

if TYPE_CHECKING:
    from torch import Tensor

    from nearfield.graph import DependencyGraph

__all__ = ["LocalMixtureScore", "MixtureWindow"]

_TOGETHER = 1 << 22
"""Coordinates of windows held at once (32 MiB)."""


@final
class MixtureWindow(Module):
    """Eigenbases of the windows of one radius, and the components in them."""

    def __init__(self, spectrum: WindowSpectrum, components: Components) -> None:
        super().__init__()
        self.spectrum, self.components = spectrum, components
        self.register_buffer("_order", None, persistent=False)
        self.derive()

    def derive(self) -> None:
        """Sort the vertices by the law of their windows."""
        super().derive()
        law = self.spectrum.law.cpu().numpy()
        self._order = torch.tensor(np.argsort(law, kind="stable"), device=self.spectrum.law.device)
        self._ends = tuple(np.bincount(law, minlength=len(self.spectrum.values)).cumsum().tolist())

    def denoised(self, x: Tensor, times: Tensor) -> Tensor:
        """Denoise at times above 0, one or one for each sample."""
        channels, spectrum = x.shape[2], self.spectrum
        found = []
        for law, (start, end) in enumerate(pairwise((0, *self._ends))):
            vectors = spectrum.vectors[law].to(x)
            step = max(1, _TOGETHER // (max(len(x), 1) * len(vectors)))
            for first in range(start, end, step):
                vertices = self._order[first : min(first + step, end)]
                z = x[:, spectrum.index[vertices]].flatten(2) @ vectors
                z = self.components.filtered(z, spectrum.values[law], times)
                found.append(z @ vectors[:channels].mT)
        return torch.cat(found, dim=1)[:, self._order.argsort()]

    def extended(self, graph: DependencyGraph, onto: DependencyGraph, radius: int) -> MixtureWindow:
        """Give each window of a larger lattice the law of one with the same cut."""
        like = torch.tensor(alike(graph, onto, radius), device=self.spectrum.law.device)
        spectrum, index = self.spectrum, onto.neighborhood(radius).index
        return MixtureWindow(
            WindowSpectrum(index, spectrum.values, spectrum.vectors, spectrum.law[like]), self.components
        )


@final
class LocalMixtureScore(Score):
    """Scale mixture on windows, with a radius for each noise level.

    Parameters
    ----------
    windows : mapping of int to MixtureWindow
        Those of each radius of the table.
    radius_by_time : sequence of (float, int)
        Increasing OU times and the radius up to each; the last holds beyond.
    n_channels : int
        Channels of a vertex.
    """

    radius: int
    settings = ("radius_by_time", "n_channels")

    def __init__(
        self,
        windows: Mapping[int, MixtureWindow] | Mapping[str, MixtureWindow] | nn.ModuleDict,
        radius_by_time: tuple[tuple[float, int], ...],
        n_channels: int = 1,
    ) -> None:
        super().__init__()
        self.windows = nn.ModuleDict({str(radius): each for radius, each in windows.items()})
        self.radius_by_time = tuple((float(t), int(r)) for t, r in radius_by_time)
        self.radius = max(r for _, r in self.radius_by_time)
        missing = {str(r) for _, r in self.radius_by_time} - set(self.windows)
        if missing:
            raise ValueError(f"windows must have every radius of radius_by_time, got none of {sorted(missing)}")
        self.n_vertices, self.n_channels = len(self._window(self.radius).spectrum.index), n_channels
        self._levels = [math.log(noise_to_signal(t)) for t, _ in self.radius_by_time]

    def _window(self, radius: int) -> MixtureWindow:
        return cast("MixtureWindow", self.windows[str(radius)])

    def radius_at(self, t: float) -> int:
        """Radius in hops at OU time t: that of the first level of as much noise."""
        level = math.log(noise_to_signal(t)) - 1e-9 if t > 0 else -math.inf
        return self.radius_by_time[min(int(np.searchsorted(self._levels, level)), len(self._levels) - 1)][1]

    def forward(self, x: Tensor, t: float | Tensor) -> Tensor:
        """Return E[x_0j | x_t on the window of j] under the window's mixture."""
        at = np.array(t.tolist() if isinstance(t, torch.Tensor) else [t])
        times = torch.tensor(at.tolist(), dtype=torch.float64, device=x.device)
        if len(at) == 1:
            return self._window(self.radius_at(float(at[0]))).denoised(x, times) if at[0] > 0 else x.clone()
        radii = np.array([self.radius_at(each) if each > 0 else -1 for each in at.tolist()])
        out = x.clone()
        for radius in (int(r) for r in np.unique(radii) if r >= 0):
            part = torch.tensor(np.flatnonzero(radii == radius).tolist(), device=x.device)
            out = out.index_copy(0, part, self._window(radius).denoised(x[part], times[part]))
        return out

    @property
    def numbers_per_sample(self) -> int:
        """Coordinates in the windows of one law too."""
        return super().numbers_per_sample + min(_TOGETHER, 4 * self._window(self.radius).spectrum.index.numel())

    def extended(self, graph: DependencyGraph, onto: DependencyGraph) -> LocalMixtureScore:
        """Give each window of a larger lattice the law of one with the same cut; see `Score.extended`."""
        windows = {int(r): self._window(int(r)).extended(graph, onto, int(r)) for r in self.windows}
        return LocalMixtureScore(windows, self.radius_by_time, self.n_channels)
