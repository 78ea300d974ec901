"""Two experts by noise level: a network where it is selected, the Gaussian field everywhere else."""

from __future__ import annotations

import bisect
import itertools
import math
from typing import TYPE_CHECKING, final

import torch
from torch import Tensor

from nearfield.process import noise_to_signal, time_of
from nearfield.score.base import Score
from nearfield.score.ensemble import EnsembleScore
from nearfield.score.field import GaussianField
from nearfield.score.hybrid import HybridScore

if TYPE_CHECKING:
    from nearfield.graph import DependencyGraph

__all__ = ["SwitchedScore"]


@final
class SwitchedScore(Score):
    """Hybrid score at some noise levels, Gaussian field at the others.

    Parameters
    ----------
    field : GaussianField
    hybrid : HybridScore, or EnsembleScore of them
        Of the same standardised data.
    choice : sequence of (float, bool)
        Increasing OU times, above 0, and whether the hybrid is selected there. Other times go with the nearest of these
        in the logarithm of the noise-to-signal ratio. Noise maps are the hybrid's.

    Attributes
    ----------
    radius : None
        The field reads every vertex.

    Raises
    ------
    ValueError
        If the two scores are not of one field, or the times do not increase.
    """

    radius = None
    settings = ("choice",)

    def __init__(
        self, field: GaussianField, hybrid: HybridScore | EnsembleScore, choice: tuple[tuple[float, bool], ...]
    ) -> None:
        sizes = [(score.n_vertices, score.n_channels) for score in (field, hybrid)]
        if sizes[0] != sizes[1]:
            raise ValueError(
                f"field and hybrid must be of one field, got (vertices, channels) {sizes[0]} and {sizes[1]}"
            )
        times = [time for time, _ in choice]
        if not times or times[0] <= 0 or any(b <= a for a, b in itertools.pairwise(times)):
            raise ValueError(f"choice must have increasing OU times above 0, got {times}")
        super().__init__()
        self.field, self.hybrid = field, hybrid
        self.choice = tuple((float(time), bool(selected)) for time, selected in choice)
        self.n_vertices, self.n_channels = sizes[0]
        self.maps = hybrid.maps
        log_sigma = [math.log(noise_to_signal(time)) for time in times]
        self._border = [(one + other) / 2 for one, other in itertools.pairwise(log_sigma)]

    def uses_hybrid(self, t: float) -> bool:
        """Whether the hybrid is selected at an OU time above 0."""
        return self.choice[bisect.bisect_left(self._border, math.log(noise_to_signal(t)))][1]

    @property
    def handover(self) -> float | None:
        """OU time from which on the field is the score up to any noise; None where the hybrid is at the strongest.

        At the earliest it is the first time of the choice, from which a sampler goes on.
        """
        if self.choice[-1][1]:
            return None
        last = max((k for k, (_, selected) in enumerate(self.choice) if selected), default=-1)
        return self.choice[0][0] if last < 0 else time_of(math.exp(self._border[last]))

    def experts(self, low: float, high: float) -> list[tuple[float, float, Score]]:
        """Return the scores in use between two logs of the noise-to-signal ratio, each with its own two."""
        inner = [
            border
            for border, (one, other) in zip(self._border, itertools.pairwise(self.choice), strict=True)
            if one[1] != other[1] and low < border < high
        ]
        ends = [low, *inner, high]
        middles = [(start + end) / 2 for start, end in itertools.pairwise(ends)]
        chosen = [self.hybrid if self.uses_hybrid(time_of(math.exp(middle))) else self.field for middle in middles]
        return list(zip(ends[:-1], ends[1:], chosen, strict=True))

    def forward(self, x: Tensor, t: float | Tensor) -> Tensor:
        """Denoise each sample by the score selected at its time."""
        if isinstance(t, Tensor) and t.ndim == 3:
            return self.hybrid.denoise(x, t)
        times = t.tolist() if isinstance(t, Tensor) else [t]
        selected = [time > 0 and self.uses_hybrid(time) for time in times]
        if all(selected):
            return self.hybrid.denoise(x, t)
        if not any(selected):
            return self.field.denoise(x, t)
        out = x.clone()
        for score, kind in ((self.hybrid, True), (self.field, False)):
            numbers = [k for k, hybrid in enumerate(selected) if hybrid is kind]
            part = torch.tensor(numbers, device=x.device)
            own = torch.tensor([times[k] for k in numbers], dtype=torch.float64, device=x.device)
            out = out.index_copy(0, part, score.denoise(x[part], own))
        return out

    @property
    def numbers_per_sample(self) -> int:
        """Those of the larger score."""
        return max(self.field.numbers_per_sample, self.hybrid.numbers_per_sample)

    def extended(self, graph: DependencyGraph, onto: DependencyGraph) -> SwitchedScore:
        """Return both scores on a larger lattice."""
        return SwitchedScore(self.field.extended(graph, onto), self.hybrid.extended(graph, onto), self.choice)
